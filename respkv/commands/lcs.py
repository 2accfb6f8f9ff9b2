"""LCS: the longest common subsequence of two strings, its length, or where it lies.

Row i of the usual table is kept as one integer whose bit j-1 says that L(i, j) > L(i, j-1); a row comes from
the one before it by a handful of operations on whole integers (Crochemore, Iliopoulos, Pinzon, Reid 2001).
Walking back needs no numbers: where the bytes differ, L(i-1, j) > L(i, j-1) exactly when that bit is set, so
the path, and with it the subsequence chosen among equals, is the one Redis takes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from respkv.base.ids import STRING, TOMBSTONE
from respkv.commands.arguments import integer
from respkv.commands.spec import READONLY, Arg, ArgType, CommandSpec, KeySpec
from respkv.keyspace import effects
from respkv.keyspace.effects import Effects
from respkv.keyspace.view import View
from respkv.resp import errors, reply
from respkv.resp.errors import fail
from respkv.resp.reply import Map, Reply, error

NOT_STRINGS: Final = error(b"ERR The specified keys must contain string values")
LENGTH_AND_INDEXES: Final = error(b"ERR If you want both the length and indexes, please just use IDX.")
NO_MEMORY: Final = error(b"ERR Insufficient memory, transient memory for LCS exceeds proto-max-bulk-len")


class Match(NamedTuple):
    """A run common to both strings: first and last position in each, ends included."""

    left_first: int
    left_last: int
    right_first: int
    right_last: int

    def size(self) -> int:
        return self.left_last - self.left_first + 1


def lcs(argv: list[bytes], view: View) -> tuple[Reply, Effects]:
    """LCS key1 key2 [LEN] [IDX] [MINMATCHLEN n] [WITHMATCHLEN]. O(N*M) bit operations."""
    want_length = want_indexes = with_sizes = False
    smallest = 0
    index = 3
    while index < len(argv):
        word = argv[index].upper()
        if word == b"LEN":
            want_length = True
        elif word == b"IDX":
            want_indexes = True
        elif word == b"WITHMATCHLEN":
            with_sizes = True
        elif word == b"MINMATCHLEN" and index + 1 < len(argv):
            index += 1
            smallest = max(integer(argv[index]), 0)
        else:
            raise fail(errors.SYNTAX)
        index += 1
    if want_length and want_indexes:
        raise fail(LENGTH_AND_INDEXES)
    left, right = _value(argv[1], view), _value(argv[2], view)
    if want_length:
        return reply.integer(length(left, right)), effects.NONE
    if len(left) * len(right) > 8 * view.limit_bytes:
        raise fail(NO_MEMORY)
    table = _rows(left, right)
    if not want_indexes:
        return reply.bulk(_subsequence(left, right, table)), effects.NONE
    found = [match for match in runs(left, right, table) if match.size() >= smallest]
    total = table[-1].bit_count() if table else 0
    return (
        Map(
            (
                (reply.bulk(b"matches"), reply.array([_show(match, with_sizes) for match in found])),
                (reply.bulk(b"len"), reply.integer(total)),
            )
        ),
        effects.NONE,
    )


def _value(key: bytes, view: View) -> bytes:
    if view.kind(key) not in (STRING, TOMBSTONE):
        raise fail(NOT_STRINGS)
    return view.string(key) or b""


def _show(match: Match, with_size: bool) -> Reply:
    parts: list[Reply] = [
        reply.array([reply.integer(match.left_first), reply.integer(match.left_last)]),
        reply.array([reply.integer(match.right_first), reply.integer(match.right_last)]),
    ]
    if with_size:
        parts.append(reply.integer(match.size()))
    return reply.array(parts)


def length(left: bytes, right: bytes) -> int:
    """The length of the longest common subsequence; memory O(M)."""
    grown = 0
    for row in _iterate(left, right):
        grown = row
    return grown.bit_count()


def _rows(left: bytes, right: bytes) -> list[int]:
    return list(_iterate(left, right))


def _iterate(left: bytes, right: bytes) -> Iterator[int]:
    """One integer per byte of ``left``: bit j set where the table grows at ``right[j]``."""
    full = (1 << len(right)) - 1
    places: dict[int, int] = {}
    for byte in left:
        if byte not in places:
            # Bit j of places[byte] is set where right[j] is that byte.
            table = bytes(1 if other == byte else 0 for other in range(256))
            flags = right.translate(table)
            places[byte] = _pack(flags)
    still = full  # zero bits mark where the table grows
    for byte in left:
        common = still & places[byte]
        still = ((still + common) | (still - common)) & full
        yield still ^ full


def _pack(flags: bytes) -> int:
    """Bytes of 0 and 1 as an integer, the first byte lowest."""
    return int(flags[::-1].translate(_TO_DIGITS), 2) if flags else 0


#: 0 and 1 as the digits of a binary literal; reading base 2 is linear and has no length limit
_TO_DIGITS: Final = bytes(49 if byte else 48 for byte in range(256))


def _subsequence(left: bytes, right: bytes, table: list[int]) -> bytes:
    found = bytearray()
    for match in runs(left, right, table):
        found += left[match.left_first : match.left_last + 1][::-1]
    return bytes(found[::-1])


def runs(left: bytes, right: bytes, table: list[int]) -> list[Match]:
    """The runs of the subsequence, last first, by Redis' walk from the end. O(N + M) steps."""
    found: list[Match] = []
    i, j = len(left), len(right)
    row = _bits(table, i, len(right))
    size = 0  # of the run that is being followed; it begins at (i, j)
    while i and j:
        if left[i - 1] == right[j - 1]:
            i -= 1
            j -= 1
            size += 1
            row = _bits(table, i, len(right))
        else:
            if size:
                found.append(Match(i, i + size - 1, j, j + size - 1))
                size = 0
            if row[(j - 1) >> 3] >> ((j - 1) & 7) & 1:
                i -= 1
                row = _bits(table, i, len(right))
            else:
                j -= 1
    if size:
        found.append(Match(i, i + size - 1, j, j + size - 1))
    return found


def _bits(table: list[int], row: int, width: int) -> bytes:
    """Row ``row`` (from 1) as bytes, so that a bit is found without shifting the whole of it."""
    return table[row - 1].to_bytes((width + 7) // 8, "little") if row else b""


COMMANDS: Final = (
    CommandSpec(
        "lcs",
        lcs,
        arity=-3,
        flags=READONLY,
        keys=(KeySpec(last=2, flags=("RO", "access")),),
        acl=("read", "string", "slow"),
        group="string",
        since="7.0.0",
        complexity="O(N*M) where N and M are the lengths of s1 and s2, respectively",
        summary="The longest common subsequence of two string values",
        args=(
            Arg("key1", ArgType.KEY, key_spec=0),
            Arg("key2", ArgType.KEY, key_spec=0),
            Arg("len", ArgType.PURE_TOKEN, token="LEN", flags=("optional",)),
            Arg("idx", ArgType.PURE_TOKEN, token="IDX", flags=("optional",)),
            Arg("len", ArgType.INTEGER, token="MINMATCHLEN", flags=("optional",)),
            Arg("withmatchlen", ArgType.PURE_TOKEN, token="WITHMATCHLEN", flags=("optional",)),
        ),
    ),
)
