"""HSCAN and HRANDFIELD: a hash in portions.

Both are walks: a hash may have a million fields, and a negative count may ask for as many draws, and nobody else is to
wait for that.

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
from respkv.commands.argument_shapes import KEY
from respkv.commands.arguments import INT64_MAX, INT64_MIN, integer, keyword
from respkv.commands.glob import matcher
from respkv.commands.keyspace import Walk, scan_cursor
from respkv.commands.spec import READONLY, Arg, ArgType, CommandSpec, Form, KeySpec
from respkv.env.rng import Rng
from respkv.keyspace import effects
from respkv.keyspace.scan import cursor_hash, cursor_slot, key_hash
from respkv.keyspace.view import View
from respkv.resp import errors
from respkv.resp.errors import fail
from respkv.resp.reply import EMPTY_ARRAY, NULL, Pairs, array, bulk, bulk_array, error

Item = tuple[bytes, bytes, int]
_T = TypeVar("_T")

#: A hash of this many fields is returned whole.
WHOLE_FIELDS: Final = 512
#: The most fields one call visits, whatever COUNT says.
VISITS_MAX: Final = 10_000
#: What stands before a pair in RESP3.
_PAIR: Final = b"*2\r\n"
#: The most bytes that HRANDFIELD makes of fields drawn with repeats (of values, too, in both protocols' forms); Redis
#: knows no bound but its memory.
DRAWN_BYTES_MAX: Final = 128 << 20
TOO_MANY_DRAWS: Final = error(b"ERR value is out of range, the reply would be larger than %d bytes" % DRAWN_BYTES_MAX)
BAD_COUNT: Final = error(
    b"ERR value is out of range, value must between -9223372036854775807 and 9223372036854775807"
)
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


def hrandfield(argv: list[bytes], view: View) -> Walk:
    """HRANDFIELD key [count [WITHVALUES]]: different fields, or with a negative count any, repeats allowed.

    O(fields + count).
    """
    count = integer(argv[2]) if len(argv) > 2 else 1
    if count == INT64_MIN:
        raise fail(BAD_COUNT)
    with_values = len(argv) > 3
    if len(argv) > 4 or (with_values and argv[3].upper() != b"WITHVALUES"):
        raise fail(errors.SYNTAX)
    if with_values and abs(count) > INT64_MAX // 2:
        raise fail(errors.OUT_OF_RANGE)
    items = yield from _all(view, argv[1])
    if len(argv) == 2:
        return (bulk(view.rng.choice(items)[0]) if items else NULL), effects.NONE
    if not items or not count:
        return EMPTY_ARRAY, effects.NONE
    if count >= 0:
        if count < len(items):
            items = view.rng.sample(items, count)
        if with_values:
            return Pairs([(bulk(field), bulk(value)) for field, value, _ in items]), effects.NONE
        return bulk_array([field for field, _, _ in items]), effects.NONE
    heads = (b"", _PAIR) if with_values else (b"",)
    choices = [bulk(field) + bulk(value) if with_values else bulk(field) for field, value, _ in items]
    _check_size(-count, choices, heads)
    bodies = yield from _drawn(view.rng, choices, -count, heads)
    if with_values:
        return _DrawnPairs(-count, *bodies), effects.NONE
    return b"*%d\r\n%b" % (-count, bodies[0]), effects.NONE


class _DrawnPairs(Pairs):
    """Pairs that are finished for both protocols: to encode millions of them in one go would hold up everybody."""

    __slots__ = ("count", "flat", "nested")

    def __init__(self, count: int, flat: bytes, nested: bytes) -> None:
        super().__init__(())
        self.count = count
        self.flat = flat
        self.nested = nested

    def encode(self, proto: int) -> bytes:
        if proto == 3:
            return b"*%d\r\n%b" % (self.count, self.nested)
        return b"*%d\r\n%b" % (2 * self.count, self.flat)


def _all(view: View, key: bytes) -> Generator[BlockRequest | None, None, list[Item]]:
    """All live fields: those of a hash of middling size at once and from memory, those of a large one in portions."""

    def whole() -> list[Item] | None:
        fields = view.hash(key)
        if fields is None:
            return []
        return list(fields.items()) if fields.count() <= VISITS_MAX else None

    found = yield from _fetched(whole)
    if found is not None:
        return found
    found, last = [], None
    while True:
        items = yield from _fetched(partial(_after, view, key, last, _STEP))
        found += items
        if len(items) < _STEP:
            return found
        last = items[-1][0]
        yield None


def _check_size(draws: int, choices: list[bytes], heads: tuple[bytes, ...]) -> None:
    """Refuse draws whose replies, one with each of ``heads`` before every item, are likely to be larger than may be."""
    total = sum(map(len, choices)) * len(heads) + sum(map(len, heads)) * len(choices)
    if draws * total > DRAWN_BYTES_MAX * len(choices):
        raise fail(TOO_MANY_DRAWS)


def _drawn(
    rng: Rng, choices: list[bytes], count: int, heads: tuple[bytes, ...]
) -> Generator[BlockRequest | None, None, list[bytes]]:
    """``count`` of the choices, each drawn anew, as one text for each of ``heads``, which stands before every item."""
    bodies: list[list[bytes]] = [[] for _ in heads]
    while count > 0:
        portion = rng.choices(choices, k=min(count, _STEP))
        for head, body in zip(heads, bodies):
            body.append(head + head.join(portion))
        count -= _STEP
        if count > 0:
            yield None
    return [b"".join(body) for body in bodies]


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
            KEY,
            Arg("cursor", ArgType.INTEGER),
            Arg("pattern", ArgType.PATTERN, token="MATCH", flags=("optional",)),
            Arg("count", ArgType.INTEGER, token="COUNT", flags=("optional",)),
            Arg("novalues", ArgType.PURE_TOKEN, token="NOVALUES", flags=("optional",), since="7.4.0"),
        ),
        history=(("7.4.0", "Added the NOVALUES option."),),
        tips=("nondeterministic_output",),
    ),
    CommandSpec(
        "hrandfield",
        hrandfield,
        arity=-2,
        flags=READONLY,
        keys=(_READS,),
        acl=_SLOW_READ,
        form=Form.WALK,
        group="hash",
        since="6.2.0",
        complexity="O(N) where N is the number of fields returned",
        summary="Read random fields of a hash",
        args=(
            KEY,
            Arg(
                "options",
                ArgType.BLOCK,
                flags=("optional",),
                args=(
                    Arg("count", ArgType.INTEGER),
                    Arg("withvalues", ArgType.PURE_TOKEN, token="WITHVALUES", flags=("optional",)),
                ),
            ),
        ),
        tips=("nondeterministic_output",),
    ),
)
