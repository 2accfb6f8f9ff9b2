"""RKV.WHERE, RKV.VERIFY and RKV.REPAIR: who holds a key, whether the copies of a slot are equal, and making them so.

The members are asked by ``node/ring_watch``; here the answers become replies. A replica that cannot be reached is named
as such, it never makes a reply wait.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from respkv.base.slots import SLOT_COUNT
from respkv.causality.hlc import hlc_ms, stamp_hlc
from respkv.cluster.membership import STATE_NAMES
from respkv.cluster.topology import public_id
from respkv.commands.arguments import integer
from respkv.commands.ring import Formed, formed_ring, on_cluster_face, told
from respkv.commands.session import Pending, Session
from respkv.commands.spec import ADMIN, NOSCRIPT, Arg, ArgType, CommandSpec, Flag, Form, KeySpec
from respkv.commands.wait import block
from respkv.resp import errors
from respkv.resp.errors import fail
from respkv.resp.reply import Reply, error

BAD_SLOT: Final = error(b"ERR Invalid slot")
#: The longest key that other members can be asked about.
KEY_BYTES_MAX: Final = 256 * 1024
KEY_TOO_LONG: Final = error(b"ERR the key is longer than 256 KiB: other nodes cannot be asked about it")
_COUNTER_MASK: Final = 0xFFFF

Answers = Mapping[int, Mapping[str, bytes] | None]


def _slot(argument: bytes) -> int:
    slot = integer(argument, BAD_SLOT)
    if not 0 <= slot < SLOT_COUNT:
        raise fail(BAD_SLOT)
    return slot


def _address(found: Formed, short: int, session: Session) -> str:
    member = found.placement.members[short]
    port = member.cluster_face_port if on_cluster_face(session) else member.plain_face_port
    return f"{member.client_host}:{port}" if port else ""


def _replica(found: Formed, short: int, session: Session, *, reachable: bool) -> dict[str, object]:
    """The fields that each reply has of a replica."""
    return {
        "short": short,
        "id": public_id(found.placement.members[short].node_id),
        "address": _address(found, short, session),
        "myself": short == found.me,
        "state": STATE_NAMES[found.membership.state(short)],
        "reachable": reachable,
    }


def stamp_text(stamp: bytes) -> str:
    """A stamp for people: ``milliseconds-counter@node``."""
    hlc = stamp_hlc(stamp)
    return f"{hlc_ms(hlc)}-{hlc & _COUNTER_MASK}@{int.from_bytes(stamp[8:], 'big')}"


# -- RKV.WHERE ---------------------------------------------------------------------------------------


def rkv_where(argv: list[bytes], session: Session) -> Reply | Pending:
    """RKV.WHERE key: its preference list, and what each replica holds of it now."""
    found, key = formed_ring(session), argv[1]
    if len(key) > KEY_BYTES_MAX:
        raise fail(KEY_TOO_LONG)
    db = session.server.keyspace.stored[session.db]
    slot = session.server.keyspace.slot(key)
    pending = Pending()

    def answered(answers: Answers) -> None:
        pending.complete(told(_where(found, slot, answers, session)))

    # All members: any of them may hold hints for a replica.
    found.port.watch.where(db, key, sorted(found.placement.members), answered)
    return pending


def _where(found: Formed, slot: int, answers: Answers, session: Session) -> Mapping[str, object]:
    replicas = found.placement.table[slot]
    stamps = {short: facts.get("stamp", b"") for short, facts in answers.items() if facts is not None}
    newest = max((stamps.get(short, b"") for short in replicas), default=b"")
    rows: list[object] = []
    for place, short in enumerate(replicas):
        facts, stamp = answers[short], stamps.get(short, b"")
        pending = [int(held.get(f"hints:{short}", b"0")) for held in answers.values() if held is not None]
        rows.append(
            {
                "role": "replica" if place else "primary",
                **_replica(found, short, session, reachable=facts is not None),
                "holds": "unknown" if facts is None else facts.get("holds", b"unknown").decode("latin-1"),
                "stamp": stamp_text(stamp) if stamp else "",
                "newest": bool(stamp) and stamp == newest,
                "hints-pending": sum(pending),
            }
        )
    silent = [short for short, facts in answers.items() if facts is None]
    return {
        "slot": slot,
        "acting-primary": found.port.coordinator.primary(slot),
        "replicas": rows,
        "members-silent": silent,
    }


# -- RKV.VERIFY --------------------------------------------------------------------------------------


def rkv_verify(argv: list[bytes], session: Session) -> Reply | Pending:
    """RKV.VERIFY slot: the Merkle roots of all its replicas now, and whether they are equal."""
    found, slot = formed_ring(session), _slot(argv[1])
    pending = Pending()

    def answered(answers: Answers) -> None:
        pending.complete(told(_verified(found, slot, answers, session)))

    found.port.watch.verify(slot, found.placement.table[slot], answered)
    return pending


def _verified(found: Formed, slot: int, answers: Answers, session: Session) -> Mapping[str, object]:
    rows: list[object] = []
    for short, facts in answers.items():
        rows.append(
            {
                **_replica(found, short, session, reachable=facts is not None),
                "exact": facts is not None and facts.get("exact") == b"1",
                "root": "" if facts is None else facts.get("root", b"").decode("latin-1"),
                "purge-watermark-ms": 0 if facts is None else hlc_ms(int(facts.get("mark", b"0"))),
            }
        )
    told_roots = [facts for facts in answers.values() if facts is not None]
    complete = len(told_roots) == len(answers) and all(facts.get("exact") == b"1" for facts in told_roots)
    same = len({(facts.get("root"), facts.get("mark")) for facts in told_roots}) == 1
    return {"slot": slot, "equal": complete and same, "complete": complete, "replicas": rows}


# -- RKV.REPAIR --------------------------------------------------------------------------------------


def rkv_repair(argv: list[bytes], session: Session) -> Reply | Pending:
    """RKV.REPAIR [slot]: compare this node's copies with all co-replicas, repair, and tell what was found."""
    if len(argv) > 2:
        raise fail(errors.wrong_arity("rkv.repair"))
    found = formed_ring(session)
    slot = _slot(argv[1]) if len(argv) == 2 else None
    if slot is not None and not found.topology.serves(slot):
        owners = ", ".join(_address(found, short, session) for short in found.placement.table[slot])
        raise fail(error(b"ERR this node has no copy of slot %d: ask one of %b" % (slot, owners.encode())))
    began_us = session.server.now_us
    replies: list[Reply] = []

    def ended(rows: Mapping[int, Any], repaired: int) -> None:
        took_ms = (session.server.now_us - began_us) // 1000
        replies.append(told(_repaired(found, slot, rows, repaired, took_ms, session)))
        if pending is not None and pending.on_unblock is not None:
            pending.on_unblock(None)

    pending: Pending | None = None
    run = found.port.watch.repair(slot, ended)
    if replies:
        return replies[0]

    def answer() -> Reply:
        if not replies:
            run.end()
        return replies[0]

    pending = block(session, 0, answer)
    return pending


def _repaired(
    found: Formed, slot: int | None, rows: Mapping[int, Any], repaired: int, took_ms: int, session: Session
) -> Mapping[str, object]:
    peers: list[object] = [
        {
            "short": short,
            "address": _address(found, short, session),
            "result": row.state,
            "sessions": row.sessions,
            "slots-differing": row.slots_differing,
            "records-sent": row.sent,
        }
        for short, row in rows.items()
    ]
    return {
        "slots": "all of this node" if slot is None else slot,
        "equal": all(row.state == "equal" for row in rows.values()),
        "slots-differing": max((row.slots_differing for row in rows.values()), default=0),
        "records-sent": sum(row.sent for row in rows.values()),
        "records-received": repaired,
        "milliseconds": took_ms,
        "co-replicas": peers,
    }


_ACL: Final = ("admin", "slow", "dangerous")
_VARIES: Final = ("nondeterministic_output",)

COMMANDS: Final = (
    CommandSpec(
        "rkv.where", rkv_where, 2, ADMIN | Flag.NO_MULTI | NOSCRIPT, acl=_ACL, form=Form.SESSION, group="cluster",
        keys=(KeySpec(flags=("RO",)),), complexity="O(N) where N is the number of nodes, all of which are asked",
        tips=_VARIES,
        summary="Returns where a key lies: its replicas, whether each can be reached, the stamp of what it holds, and"
                " how many hints wait for it.",
        args=(Arg("key", ArgType.KEY),),
    ),
    CommandSpec(
        "rkv.verify", rkv_verify, 2, ADMIN | Flag.NO_MULTI | NOSCRIPT, acl=_ACL, form=Form.SESSION, group="cluster",
        complexity="O(N) where N is the number of replicas, which settle their sums first", tips=_VARIES,
        summary="Returns the Merkle roots of a slot at all its replicas as they are now, and whether they are equal.",
        args=(Arg("slot", ArgType.INTEGER),),
    ),
    CommandSpec(
        "rkv.repair", rkv_repair, -1, ADMIN | Flag.NO_MULTI | NOSCRIPT, acl=_ACL, form=Form.SESSION, group="cluster",
        complexity="O(K) where K is the number of keys in slots that differ", tips=_VARIES,
        summary="Compares a slot, or all slots of this node, with every other replica, repairs what differs on both"
                " sides, and returns what was found.",
        args=(Arg("slot", ArgType.INTEGER, flags=("optional",)),),
    ),
)  # fmt: skip
