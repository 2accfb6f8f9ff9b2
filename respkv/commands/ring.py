"""RKV.RING, RKV.NODES, RKV.STATUS, RKV.LEVEL, RKV.LASTOP: what a ring is and how it fares, and a connection's level.

Beside them the questions other groups ask about the ring (``ring_of``, ``formed``, ``on_cluster_face`` ...). All of it
only reads: what the ring decides is decided in ``node/ring_member``. On a single node every RKV.* answers NO_RING;
before the ring is formed those that describe it answer LOADING with the reason, while RKV.STATUS tells how far it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from respkv.base.slots import SLOT_COUNT
from respkv.cluster.membership import STATE_NAMES, Membership
from respkv.cluster.placement import Placement
from respkv.cluster.ring import TOKENS_PER_NODE, Member
from respkv.cluster.topology import Topology, public_id
from respkv.commands.session import RingPort, Server, Session
from respkv.commands.spec import ADMIN, BARRIER, FAST, LOADING, STALE, Arg, ArgType, CommandSpec, Flag, Form
from respkv.replication import levels
from respkv.resp import errors
from respkv.resp.errors import fail
from respkv.resp.reply import NULL, OK, Map, Reply, array, bulk, error, integer

NO_RING: Final = error(b"ERR This instance is not a member of a ring")
_LEVEL_MARK: Final = b"level="
_DEFAULT: Final = b"default"


class Formed:
    """A ring that is there: the parts of a ``RingPort``, none of them None."""

    __slots__ = ("me", "membership", "placement", "port", "topology")

    def __init__(self, port: RingPort, placement: Placement, topology: Topology, membership: Membership) -> None:
        self.port: Final = port
        self.me: Final = port.me
        self.placement: Final = placement
        self.topology: Final = topology
        self.membership: Final = membership


# -- questions of other groups -----------------------------------------------------------------------


def ring_of(server: Server) -> RingPort | None:
    """The ring, None on a single node."""
    found: RingPort | None = getattr(server, "ring", None)
    return found


def on_cluster_face(session: Session) -> bool:
    """True when the connection came in by the port that speaks the cluster protocol."""
    return session.cluster_face and ring_of(session.server) is not None


def formed(port: RingPort) -> Formed | None:
    """The ring's parts once it is formed."""
    placement, topology, membership = port.placement, port.topology, port.membership
    if placement is None or topology is None or membership is None:
        return None
    return Formed(port, placement, topology, membership)


def serves(session: Session, slot: int) -> bool:
    """True when this node has a copy of ``slot``; a single node has all."""
    port = ring_of(session.server)
    found = None if port is None else formed(port)
    return found is None or found.topology.serves(slot)


def member_slots(session: Session) -> list[tuple[int, int]]:
    """The ranges of slots that clients of the cluster face are sent here for; none before the ring is formed."""
    port = ring_of(session.server)
    found = None if port is None else formed(port)
    if found is None:
        return []
    return [(first, last) for first, last, owners in found.topology.ranges if owners[0] == found.me]


def slots_walked(session: Session) -> bytes | bytearray | None:
    """The slots of which whole-keyspace commands of a connection tell *on this node*, None for all that is here.

    Each key is to be counted once: the cluster face shows the slots for which clients are sent here, all nodes together
    all; the plain face shows what this node has copies of, and asks others for the rest (``node/ring_walk``).
    """
    port = ring_of(session.server)
    if port is None or port.topology is None:
        return None
    if session.cluster_face:
        return port.topology.own_slots()
    return None if port.coordinator.everywhere else port.coordinator.mine


def level_of(word: bytes) -> int:
    """The level a word names, in any case. CommandError for any other word."""
    name = word.lower()
    if name == _DEFAULT:
        return levels.DEFAULT
    level = levels.BY_NAME.get(name)
    if level is None:
        known = b", ".join(levels.BY_NAME)
        raise fail(error(b"ERR unknown level '%b': it is %b or %b" % (word[:64], known, _DEFAULT)))
    return level


def level_in_name(session: Session, name: bytes) -> int | None:
    """The level that a connection's name asks for (``app;level=eventual``), None for a name without one.

    CommandError when there is no such level. Without a ring a name is only a name.
    """
    if ring_of(session.server) is not None:
        for part in name.split(b";")[1:]:
            if part.startswith(_LEVEL_MARK):
                return level_of(part[len(_LEVEL_MARK) :])
    return None


def set_level(session: Session, level: int, *, named: bool = False) -> None:
    """The level from now on; ``named``: the connection's name asks for it."""
    session.level, session.level_named = level, named
    session.recompute_plain()


def follow_name(session: Session, level: int | None) -> None:
    """The connection has a new name, which asks for ``level``; None: for none, and what the old one chose goes."""
    if level is not None:
        set_level(session, level, named=True)
    elif session.level_named:
        set_level(session, levels.DEFAULT)


# -- commands ----------------------------------------------------------------------------------------


def _member(session: Session) -> RingPort:
    port = ring_of(session.server)
    if port is None:
        raise fail(NO_RING)
    return port


def formed_ring(session: Session) -> Formed:
    """The formed ring. CommandError on a single node, and while the ring is being formed."""
    port = _member(session)
    found = formed(port)
    if found is None:
        raise fail(error(b"LOADING The ring is not formed yet: %b" % port.status().encode()))
    return found


def told(value: object) -> Reply:
    """A fact as a reply: yes and no are words, whole numbers integers, the rest maps, arrays and text."""
    if isinstance(value, bool):
        return bulk(b"yes" if value else b"no")
    if isinstance(value, int):
        return integer(value)
    if isinstance(value, Mapping):
        return Map([(bulk(str(key).encode()), told(each)) for key, each in value.items()])
    if isinstance(value, list):
        return array([told(each) for each in value])
    return bulk(str(value).encode())


def _colocated(placement: Placement) -> tuple[bytes, ...]:
    """The prefixes whose keys share a slot."""
    return tuple(sorted(placement.colocation.prefixes)) if placement.colocation is not None else ()


def rkv_ring(argv: list[bytes], session: Session) -> Reply:
    """RKV.RING: the decided ring, and how many slots each node holds."""
    found = formed_ring(session)
    placement = found.placement
    nodes = []
    for short, member in sorted(placement.members.items()):
        primary = len(placement.primaries(short))
        nodes.append(
            {
                "short": short,
                "id": public_id(member.node_id),
                "slots-primary": primary,
                "slots-replica": len(placement.owned(short)) - primary,
            }
        )
    decided = found.port.ring
    assert decided is not None, "there is a placement"
    voters = sorted(member.short for member in decided.members if member.node_id in decided.voters)
    facts: dict[str, object] = {
        "epoch": placement.epoch,
        "cluster-id": decided.cluster_id.hex(),
        # A word, since it may be larger than a signed integer.
        "seed": str(decided.seed),
        "voters": voters,
        "replication-factor": placement.replicas,
        "slots": SLOT_COUNT,
        "tokens-per-node": TOKENS_PER_NODE,
        "colocate": [prefix.decode("utf-8", "backslashreplace") for prefix in _colocated(placement)],
        "members": len(placement.members),
        "myself": found.me,
        "nodes": nodes,
    }
    return told(facts)


def rkv_nodes(argv: list[bytes], session: Session) -> Reply:
    """RKV.NODES: what this node believes of each member, by short id."""
    found = formed_ring(session)
    face = on_cluster_face(session)
    return told([_node(found, member, face) for _, member in sorted(found.placement.members.items())])


def _node(found: Formed, member: Member, cluster_face: bool) -> Mapping[str, object]:
    """One member. Its address is that of the face the client speaks; there may be none."""
    short, membership = member.short, found.membership
    port = member.cluster_face_port if cluster_face else member.plain_face_port
    return {
        "id": public_id(member.node_id),
        "short": short,
        "myself": short == found.me,
        "address": f"{member.client_host}:{port}" if port else "",
        "node-address": f"{member.node_host}:{member.node_port}",
        "state": STATE_NAMES[membership.state(short)],
        "live": membership.live(short),
        "incarnation": membership.incarnation(short),
        "rtt-us": membership.rtt_us(short),
        "hints-pending": 0 if short == found.me else found.port.repair.hints_pending(short),
    }


def rkv_status(argv: list[bytes], session: Session) -> Reply:
    """RKV.STATUS: how the ring fares, all its figures in one flat map; also before it is formed."""
    port = _member(session)
    found = formed(port)
    facts: dict[str, object] = {"status": port.status(), "formed": found is not None, "myself": port.me}
    if found is not None:
        facts |= {f"slots_{health}": count for health, count in found.topology.slots_by_health.items()}
    facts |= port.summary()
    for short, peer in port.peers().items():
        facts[f"peer_{short}"] = ",".join(f"{name}={value}" for name, value in peer.items())
    # These stand first, and as they are said here.
    return told(facts | port.stats() | facts)


def rkv_level(argv: list[bytes], session: Session) -> Reply:
    """RKV.LEVEL [eventual | quorum | all | default]: set this connection's level, or say which one it is."""
    _member(session)
    if len(argv) > 2:
        raise fail(errors.wrong_arity("rkv.level"))
    if len(argv) == 2:
        set_level(session, level_of(argv[1]))
        return OK
    return bulk(levels.NAMES.get(session.level, "default").encode())


def rkv_lastop(argv: list[bytes], session: Session) -> Reply:
    """RKV.LASTOP: what the last request of this connection for keys used; null when there was none.

    ``node`` executed it; ``replicas-read`` and ``replicas-written`` of the replicas, that node included, had to answer
    before it was (none to write, for a read); ``compared`` records were compared with other replicas, ``newer-found``
    tells whether one of those had a newer one; ``fallbacks`` nodes stood in for replicas that are away
    (``sloppy-quorum``). The last three stay 0 for a plain GET or SET on the fast path, which nobody stands in for, and
    for what another node executed.
    """
    _member(session)
    if not session.last_op:
        return NULL
    facts: dict[str, object] = dict(session.last_op)
    if "level" in session.last_op:
        facts["level"] = levels.NAMES.get(session.last_op["level"], "default")
    return told(facts)


_ACL: Final = ("admin", "slow", "dangerous")
_VARIES: Final = ("nondeterministic_output",)
_WORD: Final = ("optional",)

COMMANDS: Final = (
    CommandSpec(
        "rkv.ring", rkv_ring, 1, ADMIN | LOADING | STALE, acl=_ACL, form=Form.SESSION, group="cluster",
        complexity="O(N) where N is the number of nodes",
        summary="Returns the ring: its epoch, seed and replication factor, and how many slots each node holds.",
    ),
    CommandSpec(
        "rkv.nodes", rkv_nodes, 1, ADMIN | LOADING | STALE, acl=_ACL, form=Form.SESSION, group="cluster",
        complexity="O(N) where N is the number of nodes", tips=_VARIES,
        summary="Returns what this node knows of each node: address, state, incarnation, round trip, pending hints.",
    ),
    CommandSpec(
        "rkv.status", rkv_status, 1, ADMIN | LOADING | STALE, acl=_ACL, form=Form.SESSION, group="cluster",
        complexity="O(N) where N is the number of nodes", tips=_VARIES,
        summary="Returns how the ring fares: links, pending hints, divergence found and repaired.",
    ),
    CommandSpec(
        "rkv.level", rkv_level, -1, LOADING | STALE | FAST | BARRIER | Flag.NO_MULTI, acl=("fast", "connection"),
        form=Form.SESSION, group="cluster", complexity="O(1)",
        summary="Sets or returns the consistency level of the connection.",
        args=(
            Arg("level", ArgType.ONEOF, flags=_WORD, args=(
                Arg("eventual", ArgType.PURE_TOKEN, "EVENTUAL"), Arg("quorum", ArgType.PURE_TOKEN, "QUORUM"),
                Arg("all", ArgType.PURE_TOKEN, "ALL"), Arg("default", ArgType.PURE_TOKEN, "DEFAULT"),
            )),
        ),
    ),
    CommandSpec(
        "rkv.lastop", rkv_lastop, 1, LOADING | STALE | FAST | BARRIER | Flag.NO_MULTI, acl=("fast", "connection"),
        form=Form.SESSION, group="cluster", complexity="O(1)", tips=_VARIES,
        summary="Returns what the connection's last request for keys used: its level, the node that executed it, how"
                " many replicas had to answer, records compared with other replicas, whether a newer one was found.",
    ),
)  # fmt: skip
