"""Strings as rows of bits: SETBIT, GETBIT, BITCOUNT, BITPOS, BITOP.

Bit 0 is the highest bit of the first byte. Work over long strings is done by whole-value operations
(integers, ``lstrip``), never bit by bit.
"""

from __future__ import annotations

from typing import Final

from respkv.commands.argument_shapes import KEY
from respkv.commands.arguments import integer
from respkv.commands.spec import (
    ATOMIC,
    DENYOOM,
    FAST,
    READONLY,
    WRITE,
    Arg,
    ArgType,
    CommandSpec,
    KeySpec,
)
from respkv.keyspace import effects
from respkv.keyspace.effects import Effects
from respkv.keyspace.view import View
from respkv.resp import errors, reply
from respkv.resp.errors import fail
from respkv.resp.reply import ONE, ZERO, Reply, error

NOT_ONE_SOURCE: Final = error(b"ERR BITOP NOT must be called with a single source key.")
_MINUS_ONE: Final = reply.integer(-1)
_OPERATIONS: Final = (b"AND", b"OR", b"XOR", b"NOT", b"DIFF", b"DIFF1", b"ANDOR", b"ONE")


def bit_offset(arg: bytes, limit_bytes: int) -> int:
    """A bit's position; it must lie within the largest string allowed."""
    offset = integer(arg, errors.BIT_OFFSET)
    if offset < 0 or offset >> 3 >= limit_bytes:
        raise fail(errors.BIT_OFFSET)
    return offset


def setbit(argv: list[bytes], view: View) -> tuple[Reply, Effects]:
    """SETBIT key offset bit: the old bit. O(length), the value is stored anew."""
    key = argv[1]
    offset = bit_offset(argv[2], view.limit_bytes)
    bit = integer(argv[3], errors.BIT_VALUE)
    if bit not in (0, 1):
        raise fail(errors.BIT_VALUE)
    value = view.string(key)
    data = bytearray(value or b"")
    place, mask = offset >> 3, 0x80 >> (offset & 7)
    if place >= len(data):
        data.extend(bytes(place + 1 - len(data)))
    old = data[place] & mask
    if value is not None and len(value) == len(data) and bool(old) == bool(bit):
        return (ONE if old else ZERO), effects.NONE
    data[place] = data[place] | mask if bit else data[place] & ~mask
    return (ONE if old else ZERO), (effects.put(view.db, key, bytes(data), view.expire_at(key) or 0),)


def getbit(argv: list[bytes], view: View) -> tuple[Reply, Effects]:
    """GETBIT key offset."""
    offset = bit_offset(argv[2], view.limit_bytes)
    value = view.string(argv[1]) or b""
    place = offset >> 3
    if place < len(value) and value[place] & 0x80 >> (offset & 7):
        return ONE, effects.NONE
    return ZERO, effects.NONE


def _unit_is_bit(argv: list[bytes], index: int) -> bool:
    """The optional BYTE or BIT at ``argv[index]``, which must be the last word."""
    if len(argv) > index + 1:
        raise fail(errors.SYNTAX)
    if len(argv) == index:
        return False
    unit = argv[index].upper()
    if unit not in (b"BYTE", b"BIT"):
        raise fail(errors.SYNTAX)
    return unit == b"BIT"


def _bit_range(start: int, end: int, size: int, by_bit: bool) -> tuple[int, int]:
    """First and last *bit* of a range given in bytes or bits of a string; first > last when it is empty."""
    total = size * 8 if by_bit else size
    if start < 0:
        start = max(total + start, 0)
    if end < 0:
        end = max(total + end, 0)
    end = min(end, total - 1)
    if start > end:
        return 1, 0
    return (start, end) if by_bit else (start * 8, end * 8 + 7)


def bitcount(argv: list[bytes], view: View) -> tuple[Reply, Effects]:
    """BITCOUNT key [start end [BYTE | BIT]]. O(range)."""
    start, end, by_bit = 0, -1, False
    if len(argv) == 3 or len(argv) > 5:
        raise fail(errors.SYNTAX)
    if len(argv) > 3:
        start, end = integer(argv[2]), integer(argv[3])
        by_bit = _unit_is_bit(argv, 4)
    value = view.string(argv[1])
    if not value or (start < 0 and end < 0 and start > end):
        return ZERO, effects.NONE
    first, last = _bit_range(start, end, len(value), by_bit)
    if first > last:
        return ZERO, effects.NONE
    chunk = int.from_bytes(value[first >> 3 : (last >> 3) + 1], "big")
    if by_bit:
        # Bits of the last byte behind the range, then bits of the first byte before it.
        chunk >>= 7 - (last & 7)
        chunk &= (1 << (last - first + 1)) - 1
    return reply.integer(chunk.bit_count()), effects.NONE


def bitpos(argv: list[bytes], view: View) -> tuple[Reply, Effects]:
    """BITPOS key bit [start [end [BYTE | BIT]]]: the first such bit, or -1. O(range)."""
    bit = integer(argv[2])
    if bit not in (0, 1):
        raise fail(errors.BIT_ARGUMENT)
    if len(argv) > 6:
        raise fail(errors.SYNTAX)
    start = integer(argv[3]) if len(argv) > 3 else 0
    by_bit = _unit_is_bit(argv, 5) if len(argv) > 4 else False
    end = integer(argv[4]) if len(argv) > 4 else -1
    value = view.string(argv[1])
    if value is None:
        return (_MINUS_ONE if bit else ZERO), effects.NONE
    first, last = _bit_range(start, end, len(value), by_bit)
    if first > last:
        return _MINUS_ONE, effects.NONE
    position = _first_bit(value, bit, first, last)
    if position < 0 and not bit and len(argv) < 5:
        # Without an end the string counts as followed by zeros.
        position = len(value) * 8
    return reply.integer(position), effects.NONE


def _first_bit(value: bytes, bit: int, first: int, last: int) -> int:
    chunk = bytearray(value[first >> 3 : (last >> 3) + 1])
    before, behind = 0xFF00 >> (first & 7) & 0xFF, 0x7F >> (last & 7)
    # What lies outside the range is made into what is not looked for.
    if bit:
        chunk[0] &= 0xFF ^ before
        chunk[-1] &= 0xFF ^ behind
        rest = chunk.lstrip(b"\x00")
    else:
        chunk[0] |= before
        chunk[-1] |= behind
        rest = chunk.lstrip(b"\xff")
    if not rest:
        return -1
    byte = rest[0] if bit else rest[0] ^ 0xFF
    return (first & ~7) + (len(chunk) - len(rest)) * 8 + 8 - byte.bit_length()


def bitop(argv: list[bytes], view: View) -> tuple[Reply, Effects]:
    """BITOP operation destination key [key ...]: the length of the result. O(longest)."""
    name = argv[1].upper()
    if name not in _OPERATIONS:
        raise fail(errors.SYNTAX)
    if name == b"NOT" and len(argv) != 4:
        raise fail(NOT_ONE_SOURCE)
    if name in (b"DIFF", b"DIFF1", b"ANDOR") and len(argv) < 5:
        raise fail(error(b"ERR BITOP %b must be called with multiple source keys." % name))
    sources = [view.string(key) or b"" for key in argv[3:]]
    size = max(map(len, sources))
    if not size:
        return ZERO, (effects.delete(view.db, argv[2]),)
    numbers = [int.from_bytes(source, "big") << 8 * (size - len(source)) for source in sources]
    result = _combine(name, numbers, size)
    return reply.integer(size), (effects.put(view.db, argv[2], result.to_bytes(size, "big")),)


def _combine(name: bytes, numbers: list[int], size: int) -> int:
    head, rest = numbers[0], numbers[1:]
    if name == b"NOT":
        return head ^ ((1 << 8 * size) - 1)
    if name in (b"DIFF", b"DIFF1", b"ANDOR"):
        union = 0
        for number in rest:
            union |= number
        if name == b"ANDOR":
            return head & union
        return head & ~union if name == b"DIFF" else union & ~head
    if name == b"ONE":
        once = more = 0
        for number in numbers:
            more |= once & number
            once |= number
        return once & ~more
    for number in rest:
        if name == b"AND":
            head &= number
        elif name == b"OR":
            head |= number
        else:
            head ^= number
    return head


COMMANDS: Final = (
    CommandSpec(
        "setbit",
        setbit,
        arity=4,
        flags=WRITE | DENYOOM | ATOMIC,
        keys=(KeySpec(flags=("RW", "access", "update")),),
        acl=("write", "bitmap", "slow"),
        group="bitmap",
        since="2.2.0",
        complexity="O(1)",
        summary="Set or clear one bit of a string value",
        args=(
            KEY,
            Arg("offset", ArgType.INTEGER),
            Arg("value", ArgType.INTEGER),
        ),
    ),
    CommandSpec(
        "getbit",
        getbit,
        arity=3,
        flags=READONLY | FAST,
        keys=(KeySpec(flags=("RO", "access")),),
        acl=("read", "bitmap", "fast"),
        group="bitmap",
        since="2.2.0",
        complexity="O(1)",
        summary="Read one bit of a string value",
        args=(
            KEY,
            Arg("offset", ArgType.INTEGER),
        ),
    ),
    CommandSpec(
        "bitcount",
        bitcount,
        arity=-2,
        flags=READONLY,
        keys=(KeySpec(flags=("RO", "access")),),
        acl=("read", "bitmap", "slow"),
        group="bitmap",
        since="2.6.0",
        complexity="O(N)",
        summary="Count the bits that are set in a string value",
        args=(
            KEY,
            Arg(
                "index",
                ArgType.BLOCK,
                flags=("optional",),
                args=(
                    Arg("start", ArgType.INTEGER),
                    Arg("end", ArgType.INTEGER),
                    Arg(
                        "index_unit",
                        ArgType.ONEOF,
                        flags=("optional",),
                        since="7.0.0",
                        args=(
                            Arg("byte", ArgType.PURE_TOKEN, token="BYTE"),
                            Arg("bit", ArgType.PURE_TOKEN, token="BIT"),
                        ),
                    ),
                ),
            ),
        ),
        history=(("7.0.0", "Added the BYTE|BIT option."),),
    ),
    CommandSpec(
        "bitpos",
        bitpos,
        arity=-3,
        flags=READONLY,
        keys=(KeySpec(flags=("RO", "access")),),
        acl=("read", "bitmap", "slow"),
        group="bitmap",
        since="2.8.7",
        complexity="O(N)",
        summary="Find the first bit that is set or clear in a string value",
        args=(
            KEY,
            Arg("bit", ArgType.INTEGER),
            Arg(
                "index",
                ArgType.BLOCK,
                flags=("optional",),
                args=(
                    Arg("start", ArgType.INTEGER),
                    Arg(
                        "end_index",
                        ArgType.BLOCK,
                        flags=("optional",),
                        args=(
                            Arg("end", ArgType.INTEGER),
                            Arg(
                                "index_unit",
                                ArgType.ONEOF,
                                flags=("optional",),
                                since="7.0.0",
                                args=(
                                    Arg("byte", ArgType.PURE_TOKEN, token="BYTE"),
                                    Arg("bit", ArgType.PURE_TOKEN, token="BIT"),
                                ),
                            ),
                        ),
                    ),
                ),
            ),
        ),
        history=(("7.0.0", "Added the BYTE|BIT option."),),
    ),
    CommandSpec(
        "bitop",
        bitop,
        arity=-4,
        flags=WRITE | DENYOOM | ATOMIC,
        keys=(
            KeySpec(first=2, last=2, flags=("OW", "update")),
            KeySpec(first=3, last=-1, flags=("RO", "access")),
        ),
        acl=("write", "bitmap", "slow"),
        group="bitmap",
        since="2.6.0",
        complexity="O(N)",
        summary="Combine string values bit by bit and store the result",
        args=(
            Arg("operation"),
            Arg("destkey", ArgType.KEY, key_spec=0),
            Arg("key", ArgType.KEY, flags=("multiple",), key_spec=1),
        ),
    ),
)
