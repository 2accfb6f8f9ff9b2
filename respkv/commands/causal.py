"""RKV.GET, RKV.SET, RKV.DEL, RKV.RESOLVE: keys whose concurrent writes are kept as siblings (``conflict-policy``).

RKV.GET gives a causal context and the values that nobody has replaced; a write with that context replaces exactly
those. With an empty context nothing is covered, so the value becomes one sibling more. Plain commands work on such keys
as on all others: they see the one value that the policy makes of the siblings, and replace what their node has seen.
"""

from __future__ import annotations

from typing import Final

from respkv.base.errors import CommandError
from respkv.causality import context
from respkv.causality.dvv import Clock, Container
from respkv.causality.resolve import LWW, Mode, Policy
from respkv.commands.argument_shapes import KEY, LIFETIMES, VALUE, one_of
from respkv.commands.arguments import expiry
from respkv.commands.spec import ATOMIC, DENYOOM, FAST, READONLY, WRITE, Arg, CommandSpec, Flag, KeySpec
from respkv.keyspace import effects
from respkv.keyspace.effects import Effects
from respkv.keyspace.view import View
from respkv.resp import errors
from respkv.resp.errors import fail
from respkv.resp.reply import NULL, OK, Reply, array, bulk, error, integer

NOT_KEPT: Final = error(
    b"ERR the conflict policy of this key is lww, which keeps one value: use plain commands, or give keys that begin so"
    b" the policy siblings or merge:NAME with conflict-policy"
)
_EXPIRIES: Final = (b"EX", b"PX", b"EXAT", b"PXAT")


def _policy(view: View, key: bytes) -> Policy:
    conflicts = view.keyspace.conflicts
    policy: Policy = LWW if conflicts is None else conflicts.policy(key)
    return policy


def _seen(view: View, key: bytes, token: bytes) -> Clock:
    """The clock in a client's context, for a key whose siblings are kept. CommandError when either is not so."""
    if _policy(view, key).mode is Mode.LWW:
        raise fail(NOT_KEPT)
    return context.decode(token, key, latest_ms=view.now_ms + view.keyspace.clock.max_skew_ms)


def rkv_get(argv: list[bytes], view: View) -> tuple[Reply, Effects]:
    """RKV.GET key: [context, value ...], the newest value first; an absent key has no values."""
    container = view.container(argv[1])
    values = [bulk(sibling.value) for sibling in container.visible(view.now_ms) if sibling.value is not None]
    return array([bulk(context.encode(container, argv[1])), *values]), effects.NONE


def rkv_set(argv: list[bytes], view: View) -> tuple[Reply, Effects]:
    """RKV.SET key context value [EX s | PX ms | EXAT time | PXAT time]: in place of what the context covers."""
    key, value = argv[1], argv[3]
    expire_at_ms = 0
    if len(argv) not in (4, 6) or (len(argv) == 6 and argv[4].upper() not in _EXPIRIES):
        raise fail(errors.SYNTAX)
    if len(argv) == 6:
        expire_at_ms = expiry(argv[4].upper(), argv[5], view.now_ms, "rkv.set")
    seen = _seen(view, key, argv[2])
    if 0 < expire_at_ms <= view.now_ms:
        return OK, (effects.supersede(view.db, key, None, 0, seen),)
    view.container(key)  # WRONGTYPE before anything else
    return OK, (effects.supersede(view.db, key, value, expire_at_ms, seen),)


def rkv_del(argv: list[bytes], view: View) -> tuple[Reply, Effects]:
    """RKV.DEL key context: delete what the context covers; how many values that were."""
    key = argv[1]
    seen = _seen(view, key, argv[2])
    covered = seen.get
    gone = [
        sibling for sibling in view.container(key).visible(view.now_ms) if sibling.hlc <= covered(sibling.actor, 0)
    ]
    if not gone:
        return integer(0), effects.NONE
    return integer(len(gone)), (effects.supersede(view.db, key, None, 0, seen),)


def rkv_resolve(argv: list[bytes], view: View) -> tuple[Reply, Effects]:
    """RKV.RESOLVE key [BY newest | NAME]: make one value of all siblings, by the key's policy or the named merge."""
    key = argv[1]
    if len(argv) not in (2, 4) or (len(argv) == 4 and argv[2].upper() != b"BY"):
        raise fail(errors.SYNTAX)
    container = view.container(key)
    visible = container.visible(view.now_ms)
    if not visible:
        return NULL, effects.NONE
    if len(visible) == 1:
        return bulk(visible[0].value or b""), effects.NONE
    value, expire_at_ms = _resolved(view, key, container, _chosen(view, key, argv[3] if len(argv) == 4 else b""))
    if _policy(view, key).mode is Mode.LWW:
        return bulk(value), (effects.put(view.db, key, value, expire_at_ms),)
    return bulk(value), (effects.supersede(view.db, key, value, expire_at_ms, container.clock),)


def _chosen(view: View, key: bytes, name: bytes) -> Policy:
    """The policy that ``name`` asks for, that of the key for an empty one."""
    if not name:
        return _policy(view, key)
    conflicts = view.keyspace.conflicts
    if name.lower() == b"newest" or conflicts is None:
        return LWW
    known = conflicts.resolvers.names()
    word = name.decode("latin-1")
    if word not in known:
        names = ", ".join([*known, "newest"]).encode()
        raise fail(error(b"ERR no merge function is called '%b': there are %b" % (name[:64], names)))
    return Policy(Mode.MERGE, word)


def _resolved(view: View, key: bytes, container: Container, policy: Policy) -> tuple[bytes, int]:
    """(value, absolute expiry in ms) of the siblings. CommandError when the merge fails: they stay as they are."""
    conflicts = view.keyspace.conflicts
    if conflicts is None:
        newest = container.visible(view.now_ms)[0]
        return newest.value or b"", newest.expire_at_ms
    found = conflicts.merge(policy, key, container, view.now_ms)
    if found.failed:
        raise CommandError(
            error(
                b"ERR %b; the siblings stay as they are: write with the context of RKV.GET, or RKV.RESOLVE key BY"
                b" newest" % found.detail.encode("ascii", "backslashreplace")
            )
        )
    return found.value or b"", found.expire_at_ms


_CONTEXT: Final = Arg("context")

COMMANDS: Final = (
    CommandSpec(
        "rkv.get", rkv_get, 2, READONLY | FAST | Flag.NO_MULTI, (KeySpec(flags=("RO", "access")),),
        ("read", "string", "fast"), group="string", complexity="O(N) where N is the number of siblings",
        summary="Returns a causal context and all values of a key that no write has replaced, the newest first.",
        args=(KEY,),
    ),
    CommandSpec(
        "rkv.set", rkv_set, -4, WRITE | DENYOOM | FAST | Flag.NO_MULTI, (KeySpec(flags=("OW", "update")),),
        ("write", "string", "fast"), group="string", complexity="O(N) where N is the number of siblings",
        summary="Sets a value in place of those that a causal context of RKV.GET covers, and no others.",
        args=(KEY, _CONTEXT, VALUE, one_of("expiration", *LIFETIMES)),
    ),
    CommandSpec(
        "rkv.del", rkv_del, 3, WRITE | FAST | Flag.NO_MULTI, (KeySpec(flags=("RM", "delete")),),
        ("write", "string", "fast"), group="string", complexity="O(N) where N is the number of siblings",
        summary="Deletes the values that a causal context of RKV.GET covers, and no others; returns their number.",
        args=(KEY, _CONTEXT),
    ),
    CommandSpec(
        "rkv.resolve", rkv_resolve, -2, WRITE | ATOMIC | DENYOOM | Flag.NO_MULTI,
        (KeySpec(flags=("RW", "access", "update")),), ("write", "string", "slow"), group="string",
        complexity="O(N) where N is the number of siblings, and the work of the merge function",
        summary="Replaces all siblings of a key by one value, made by the key's policy or by the named merge.",
        args=(KEY, Arg("name", token="BY", flags=("optional",))),
    ),
)  # fmt: skip
