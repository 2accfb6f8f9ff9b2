"""HSCAN: a hash in portions.

A hash of up to 512 fields is answered whole, cursor 0. A larger one is walked in field order: the cursor is
``1 << 48 | low 48 bits of xxh3_64(last field returned)`` and goes on after that field. Cursors given out lately
are remembered with SCAN's; for any other one the fields are searched for one with that hash, and if
there is none the walk starts over: fields repeat, none is missed.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from functools import partial
from typing import Final, TypeVar

from respkv.base.errors import BlockRequest, ReadMiss
from respkv.commands.arguments import integer, keyword
from respkv.commands.glob import matcher
from respkv.commands.keyspace import Walk, scan_cursor
from respkv.commands.spec import READONLY, Arg, ArgType, CommandSpec, Form, KeySpec
from respkv.keyspace import effects
from respkv.keyspace.scan import cursor_hash, cursor_slot, key_hash
from respkv.keyspace.view import View
from respkv.resp import errors
from respkv.resp.errors import fail
from respkv.resp.reply import array, bulk, bulk_array

Item = tuple[bytes, bytes, int]
_T = TypeVar("_T")

#: A hash of this many fields is returned whole.
WHOLE_FIELDS: Final = 512
#: The most fields one call visits, whatever COUNT says.
VISITS_MAX: Final = 10_000
#: Fields looked through between two chances for others to run.
_STEP: Final = 1000


def _fetched(read: Callable[[], _T]) -> Generator[BlockRequest | None, None, _T]:
    """What ``read`` returns, asking for the blocks it misses."""
    while True:
        try:
            return read()
        except ReadMiss as miss:
            yield miss.request


def hscan(argv: list[bytes], view: View) -> Walk:
    """HSCAN key cursor [MATCH pattern] [COUNT n] [NOVALUES]: the next cursor, and fields with their values."""
    cursor = scan_cursor(argv[2])
    pattern, count, with_values = _options(argv)
    key = argv[1]

    def size() -> int:
        fields = view.hash(key)
        return 0 if fields is None else fields.count()

    if (yield from _fetched(size)) <= WHOLE_FIELDS:
        found = yield from _fetched(partial(_after, view, key, None, WHOLE_FIELDS))
        next_cursor = 0
    else:
        last = yield from _resume(view, key, cursor)
        limit = min(count, VISITS_MAX)
        # One more tells whether this portion is the last.
        found = yield from _fetched(partial(_after, view, key, last, limit + 1))
        next_cursor = 0
        if len(found) > limit:
            found.pop()
            next_cursor = view.keyspace.cursors.give(0, found[-1][0])
    if pattern is not None:
        wanted = matcher(pattern)
        found = [item for item in found if wanted(item[0])]
    if with_values:
        names = [part for field, value, _ in found for part in (field, value)]
    else:
        names = [field for field, _, _ in found]
    return array([bulk(b"%d" % next_cursor), bulk_array(names)]), effects.NONE


def _after(view: View, key: bytes, last: bytes | None, limit: int) -> list[Item]:
    """The hash is looked up each time: it may have changed since the walk was suspended."""
    fields = view.hash(key)
    return [] if fields is None else fields.items_after(last, limit)


def _resume(view: View, key: bytes, cursor: int) -> Generator[BlockRequest | None, None, bytes | None]:
    """The field behind which the cursor goes on; None to begin at the first. O(n) for a forgotten cursor."""
    if not cursor or cursor_slot(cursor):
        return None
    last = view.keyspace.cursors.known(cursor)
    if last is not None:
        return last
    wanted = cursor_hash(cursor)
    while True:
        items = yield from _fetched(partial(_after, view, key, last, _STEP))
        for field, _, _ in items:
            if key_hash(field) == wanted:
                return field
        if len(items) < _STEP:
            return None
        last = items[-1][0]
        yield None


def _options(argv: list[bytes]) -> tuple[bytes | None, int, bool]:
    pattern, count, with_values = None, 10, True
    at = 3
    while at < len(argv):
        word = keyword(argv[at])
        if word == b"NOVALUES":
            with_values = False
            at += 1
            continue
        if at + 1 >= len(argv):
            raise fail(errors.SYNTAX)
        if word == b"MATCH":
            pattern = None if argv[at + 1] == b"*" else argv[at + 1]
        elif word == b"COUNT":
            count = integer(argv[at + 1])
            if count < 1:
                raise fail(errors.SYNTAX)
        else:
            raise fail(errors.SYNTAX)
        at += 2
    return pattern, count, with_values


_KEY: Final = Arg("key", ArgType.KEY, key_spec=0)
_READS: Final = KeySpec(flags=("RO", "access"))
_SLOW_READ: Final = ("read", "hash", "slow")

COMMANDS: Final = (
    CommandSpec(
        "hscan",
        hscan,
        arity=-3,
        flags=READONLY,
        keys=(_READS,),
        acl=_SLOW_READ,
        form=Form.WALK,
        group="hash",
        since="2.8.0",
        complexity="O(1) for every call. O(N) for a complete iteration.",
        summary="Iterate over the fields of a hash",
        args=(
            _KEY,
            Arg("cursor", ArgType.INTEGER),
            Arg("pattern", ArgType.PATTERN, token="MATCH", flags=("optional",)),
            Arg("count", ArgType.INTEGER, token="COUNT", flags=("optional",)),
            Arg("novalues", ArgType.PURE_TOKEN, token="NOVALUES", flags=("optional",), since="7.4.0"),
        ),
        history=(("7.4.0", "Added the NOVALUES option."),),
        tips=("nondeterministic_output",),
    ),
)
