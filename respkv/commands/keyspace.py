"""Whole-keyspace commands: SCAN KEYS RANDOMKEY DBSIZE FLUSHDB FLUSHALL SWAPDB.

The walks are generators: they yield None where they may be suspended, or a block that must be fetched
before they go on, and return (reply, effects). On a ring ``view.slots`` says of which slots they tell.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, Final

from respkv.base.errors import BlockRequest, ReadMiss
from respkv.base.ids import TYPE_NAMES
from respkv.base.slots import SLOT_COUNT
from respkv.causality.record import TYPE_MASK
from respkv.commands.arguments import integer, keyword, small_integer
from respkv.commands.glob import matches
from respkv.commands.spec import (
    FAST,
    READONLY,
    WRITE,
    Arg,
    ArgType,
    CommandSpec,
    Form,
)
from respkv.keyspace import effects as fx
from respkv.keyspace import keys
from respkv.keyspace.scan import KeyWalk, cursor_hash, cursor_slot, key_hash, slot_cursor
from respkv.keyspace.view import View
from respkv.resp import errors
from respkv.resp.errors import fail
from respkv.resp.reply import NULL, OK, Reply, array, bulk, bulk_array, error
from respkv.resp.reply import integer as integer_reply

#: More keys than two memtables hold: what DBSIZE finds unsettled it settles, beside other clients' requests.
_SETTLED_PER_DBSIZE: Final = 4_000_000

Walk = Generator[BlockRequest | None, None, tuple[Reply, fx.Effects]]
Steps = Generator[BlockRequest | None, None, list[tuple[bytes, bytes]]]

_STEP: Final = 500
#: A slot with fewer keys than this is returned whole, so that the cursor stands at slot borders.
_WHOLE_SLOT: Final = 100
#: The most entries, dead ones too, that one SCAN passes.
_VISITS_PER_CALL: Final = 10_000


def _prepared(walk: KeyWalk) -> Generator[BlockRequest | None, None, None]:
    while not walk.prepare():
        yield None


def _step(walk: KeyWalk, limit: int, stop_slot: int = SLOT_COUNT) -> Steps:
    while True:
        try:
            return walk.step(limit, stop_slot=stop_slot)
        except ReadMiss as miss:
            yield miss.request


def _scan_options(argv: list[bytes]) -> tuple[bytes | None, int, bytes | None]:
    pattern, count, kind = None, 10, None
    at = 2
    while at < len(argv):
        word = keyword(argv[at])
        if at + 1 >= len(argv):
            raise fail(errors.SYNTAX)
        if word == b"MATCH":
            pattern = None if argv[at + 1] == b"*" else argv[at + 1]
        elif word == b"COUNT":
            count = integer(argv[at + 1])
            if count < 1:
                raise fail(errors.SYNTAX)
        elif word == b"TYPE":
            kind = argv[at + 1].lower()
        else:
            raise fail(errors.SYNTAX)
        at += 2
    return pattern, count, kind


def scan_count(argv: list[bytes]) -> int:
    """How many keys a SCAN is to look for. CommandError when its options are mistaken."""
    return _scan_options(argv)[1]


def scan_cursor(text: bytes) -> int:
    """A cursor as the client sends it; anything but an unsigned 64-bit decimal is an error."""
    if not text.isdigit() or len(text) > 20 or int(text) >= 1 << 64:
        raise fail(errors.INVALID_CURSOR)
    return int(text)


def scan(argv: list[bytes], view: View) -> Walk:
    """SCAN cursor [MATCH pattern] [COUNT n] [TYPE type]"""
    cursor = scan_cursor(argv[1])
    pattern, count, kind = _scan_options(argv)
    slot = cursor_slot(cursor) if cursor else 0
    if not 0 <= slot < SLOT_COUNT:
        return array([bulk(b"0"), bulk_array([])]), fx.NONE
    walk = KeyWalk(view.keyspace, view.db, start=keys.place_start(slot, view.db), slots=view.slots)
    yield from _prepared(walk)
    yield from _resume(walk, cursor, slot)
    found: list[tuple[bytes, bytes]] = []
    next_cursor = 0
    while not walk.done:
        found += yield from _step(walk, max(_WHOLE_SLOT, min(count, _STEP)))
        if walk.done:
            break
        # What is dead or of another database does not count, so that a call on a database just flushed finds its end.
        if len(found) >= count or walk.visited >= _VISITS_PER_CALL:
            next_cursor = yield from _stop(walk, found)
            break
        yield None
    names = [keys.user_key(internal) for internal, record in found if _wanted(internal, record, pattern, kind)]
    return array([bulk(b"%d" % next_cursor), bulk_array(names)]), fx.NONE


def _wanted(internal: bytes, record: bytes, pattern: bytes | None, kind: bytes | None) -> bool:
    if kind is not None and TYPE_NAMES.get(record[0] & TYPE_MASK) != kind:
        return False
    return pattern is None or matches(pattern, keys.user_key(internal))


def _resume(walk: KeyWalk, cursor: int, slot: int) -> Generator[BlockRequest | None, None, None]:
    """Put the walk behind the cursor's key; without it, at the start of its slot."""
    wanted = cursor_hash(cursor) if cursor else 0
    if not wanted:
        return
    key = walk.keyspace.cursors.known(cursor)
    if key is not None:
        walk.position = keys.after(walk.keyspace.internal(walk.db, key))
        return
    searched = KeyWalk(walk.keyspace, walk.db, start=walk.position)
    while not searched.done:
        for internal, _ in (yield from _step(searched, _STEP, slot + 1)):
            if key_hash(keys.user_key(internal)) == wanted:
                walk.position = keys.after(internal)
                return
        yield None


def _stop(walk: KeyWalk, found: list[tuple[bytes, bytes]]) -> Generator[BlockRequest | None, None, int]:
    """Where a call ends: at the end of a small slot, else behind the last key visited."""
    slot = keys.key_slot(walk.position)
    rest = yield from _step(walk, _WHOLE_SLOT, slot + 1)
    found += rest
    if walk.done:
        return slot_cursor(slot + 1)
    reached = keys.key_slot(walk.position)
    if reached > slot or walk.last is None:
        return slot_cursor(reached)
    return walk.keyspace.cursors.give(keys.key_slot(walk.last), keys.user_key(walk.last))


def keys_command(argv: list[bytes], view: View) -> Walk:
    """KEYS pattern: walks the store in slices; not a point in time."""
    pattern = argv[1]
    names: list[bytes] = []
    walk = KeyWalk(view.keyspace, view.db, slots=view.slots)
    yield from _prepared(walk)
    while not walk.done:
        for internal, _ in (yield from _step(walk, _STEP)):
            name = keys.user_key(internal)
            if pattern == b"*" or matches(pattern, name):
                names.append(name)
        yield None
    return bulk_array(names), fx.NONE


def randomkey(argv: list[bytes], view: View) -> Walk:
    """RANDOMKEY: a random key among the first ones behind a random slot."""
    start = view.rng.randrange(SLOT_COUNT)
    for first in (start, 0):
        walk = KeyWalk(view.keyspace, view.db, start=keys.place_start(first, view.db), slots=view.slots)
        yield from _prepared(walk)
        while not walk.done:
            found = yield from _step(walk, _WHOLE_SLOT)
            if found:
                return bulk(keys.user_key(view.rng.choice(found)[0])), fx.NONE
            yield None
    return NULL, fx.NONE


def dbsize(argv: list[bytes], view: View) -> Walk:
    """DBSIZE: exact once what was put blind is settled, else with an estimate for the rest."""
    counts = view.keyspace.counts
    yield from counts.settle(_SETTLED_PER_DBSIZE)
    slots = view.slots
    return integer_reply(counts.total(view.db) if slots is None else counts.total_in(view.db, slots)), fx.NONE


def _flush_mode(argv: list[bytes]) -> None:
    if len(argv) > 2 or (len(argv) == 2 and keyword(argv[1]) not in (b"ASYNC", b"SYNC")):
        raise fail(errors.SYNTAX)


def flushdb(argv: list[bytes], view: View) -> tuple[Reply, fx.Effects]:
    """FLUSHDB [ASYNC | SYNC]: one floor, no key is touched."""
    _flush_mode(argv)
    return OK, [fx.flush(view.db)]


def flushall(argv: list[bytes], view: View) -> tuple[Reply, fx.Effects]:
    """FLUSHALL [ASYNC | SYNC]"""
    _flush_mode(argv)
    return OK, [fx.flush(db) for db in view.keyspace.stored]


def databases_swapped(argv: list[bytes], databases: int) -> tuple[int, int]:
    """The two databases that a SWAPDB names. CommandError when it is mistaken."""
    first, second = (
        small_integer(text, error(b"ERR invalid %b DB index" % position))
        for position, text in ((b"first", argv[1]), (b"second", argv[2]))
    )
    if not (0 <= first < databases and 0 <= second < databases):
        raise fail(errors.DB_INDEX)
    return first, second


def swapdb(argv: list[bytes], view: View) -> tuple[Reply, fx.Effects]:
    """SWAPDB index1 index2: two numbers change places in a logged map."""
    first, second = databases_swapped(argv, view.databases)
    return OK, [fx.swap(first, second)] if first != second else fx.NONE


def _mode(since: str) -> tuple[Arg, ...]:
    return (
        Arg(
            "flush-type",
            ArgType.ONEOF,
            flags=("optional",),
            since=since,
            args=(Arg("async", ArgType.PURE_TOKEN, "ASYNC"), Arg("sync", ArgType.PURE_TOKEN, "SYNC", since="6.2.0")),
        ),
    )


_SHARDED: Final = ("request_policy:all_shards", "response_policy:all_succeeded")
_FLUSH: Final[dict[str, Any]] = {
    "arity": -1,
    "flags": WRITE,
    "acl": ("keyspace", "write", "slow", "dangerous"),
    "group": "server",
    "tips": _SHARDED,
}

COMMANDS: Final = (
    CommandSpec(
        "scan", scan, -2, READONLY, acl=("keyspace", "read", "slow"), form=Form.WALK, since="2.8.0",
        complexity="O(1) for every call. O(N) for a complete iteration.",
        summary="Iterates over the key names in the database.",
        tips=("nondeterministic_output", "request_policy:special", "response_policy:special"),
        history=(("6.0.0", "Added the `TYPE` subcommand."),),
        args=(
            Arg("cursor", ArgType.INTEGER),
            Arg("pattern", ArgType.PATTERN, "MATCH", ("optional",)),
            Arg("count", ArgType.INTEGER, "COUNT", ("optional",)),
            Arg("type", ArgType.STRING, "TYPE", ("optional",), since="6.0.0"),
        ),
    ),
    CommandSpec(
        "keys", keys_command, 2, READONLY, acl=("keyspace", "read", "slow", "dangerous"), form=Form.WALK,
        complexity="O(N) with N being the number of keys in the database.",
        summary="Returns all key names that match a pattern.",
        tips=("request_policy:all_shards", "nondeterministic_output_order"),
        args=(Arg("pattern", ArgType.PATTERN),),
    ),
    CommandSpec(
        "randomkey", randomkey, 1, READONLY, acl=("keyspace", "read", "slow"), form=Form.WALK,
        complexity="O(1)", summary="Returns a random key name from the database.",
        tips=("request_policy:all_shards", "nondeterministic_output"),
    ),
    CommandSpec(
        "dbsize", dbsize, 1, READONLY | FAST, acl=("keyspace", "read", "fast"), form=Form.WALK,
        group="server", complexity="O(1) once counts are settled",
        summary="Returns the number of keys in the database.",
        tips=("request_policy:all_shards", "response_policy:agg_sum"),
    ),
    CommandSpec(
        "flushdb", flushdb, complexity="O(1)", summary="Removes all keys from the current database.",
        args=_mode("4.0.0"), history=(("4.0.0", "Added the `ASYNC` flushing mode modifier."),
                                      ("6.2.0", "Added the `SYNC` flushing mode modifier.")), **_FLUSH,
    ),
    CommandSpec(
        "flushall", flushall, complexity="O(1)", summary="Removes all keys from all databases.",
        args=_mode("4.0.0"), history=(("4.0.0", "Added the `ASYNC` flushing mode modifier."),
                                      ("6.2.0", "Added the `SYNC` flushing mode modifier.")), **_FLUSH,
    ),
    CommandSpec(
        "swapdb", swapdb, 3, WRITE | FAST, acl=("keyspace", "write", "fast", "dangerous"), group="server",
        since="4.0.0", complexity="O(1)", summary="Swaps two Redis databases.",
        args=(Arg("index1", ArgType.INTEGER), Arg("index2", ArgType.INTEGER)),
    ),
)  # fmt: skip
