"""Redis' packed lists as they stand in RDB payloads: listpack (read and written), ziplist and zipmap (read only).

Listpack: ``total bytes u32 | entries u16 (65535: unknown) | entry ... | 0xff``, an entry being ``encoding, data, length
of both backwards``. Ziplist: ``total bytes u32 | offset of the last entry u32 | entries u16 | entry ... | 0xff``, an
entry being ``length of the one before, encoding, data``. Zipmap: ``entries u8 | (length, key, length, free u8, value,
free bytes) ... | 0xff``. Integers are little-endian where not said otherwise. Readers check every byte they pass over
and raise ``BadPacked``; they allocate no more than what they read.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from respkv.base.errors import RespkvError
from respkv.commands.arguments import optional_integer

_END: Final = 0xFF
_LISTPACK_HEAD: Final = 6
_ZIPLIST_HEAD: Final = 10
_UNKNOWN_COUNT: Final = 65535
#: Bytes of a listpack integer by its encoding byte.
_LISTPACK_INTEGERS: Final = {0xF1: 2, 0xF2: 3, 0xF3: 4, 0xF4: 8}
_ZIPLIST_INTEGERS: Final = {0xC0: 2, 0xD0: 4, 0xE0: 8, 0xF0: 3, 0xFE: 1}
_BIG_LENGTH: Final = 0xFE


class BadPacked(RespkvError):
    """The bytes are not a list of that kind."""


def write_listpack(values: Iterable[bytes]) -> bytes:
    """A listpack; values that spell an integer are stored as one."""
    body = bytearray()
    count = 0
    for value in values:
        count += 1
        entry = _listpack_entry(value)
        body += entry
        body += _backwards(len(entry))
    total = _LISTPACK_HEAD + len(body) + 1
    head = total.to_bytes(4, "little") + min(count, _UNKNOWN_COUNT).to_bytes(2, "little")
    return head + bytes(body) + b"\xff"


def _listpack_entry(value: bytes) -> bytes:
    number = optional_integer(value)
    if number is not None:
        if 0 <= number < 128:
            return bytes((number,))
        if -4096 <= number < 4096:
            bits = number & 0x1FFF
            return bytes((0xC0 | bits >> 8, bits & 255))
        for code, size in _LISTPACK_INTEGERS.items():
            if -(1 << 8 * size - 1) <= number < 1 << 8 * size - 1:
                return bytes((code,)) + number.to_bytes(size, "little", signed=True)
    size = len(value)
    if size < 64:
        return bytes((0x80 | size,)) + value
    if size < 4096:
        return bytes((0xE0 | size >> 8, size & 255)) + value
    return b"\xf0" + size.to_bytes(4, "little") + value


def _backwards(size: int) -> bytes:
    """An entry's length in groups of 7 bits, most significant first; all but the first carry a flag."""
    if size < 128:
        return bytes((size,))
    # Redis' limits lie one below what would fit: 16383 already takes three bytes.
    length = next((count for count in (2, 3, 4) if size < (1 << 7 * count) - 1), 5)
    groups = [size >> 7 * place & 127 | 128 for place in range(length - 1, -1, -1)]
    groups[0] &= 127
    return bytes(groups)


def read_listpack(data: bytes) -> list[bytes]:
    """All values, integers as text."""
    _check_frame(data, _LISTPACK_HEAD, "listpack")
    values: list[bytes] = []
    at, end = _LISTPACK_HEAD, len(data) - 1
    while at < end:
        start = at
        value, at = _listpack_value(data, at, end)
        back = _backwards(at - start)
        if data[at : at + len(back)] != back:
            raise BadPacked("listpack: wrong length backwards")
        at += len(back)
        values.append(value)
    _check_count(len(values), int.from_bytes(data[4:6], "little"), at == end, "listpack")
    return values


def _listpack_value(data: bytes, at: int, end: int) -> tuple[bytes, int]:
    """The value at ``at`` and where it ends."""
    code = data[at]
    if code < 0x80:
        return b"%d" % code, at + 1
    if code in _LISTPACK_INTEGERS:
        return _integer(data, at + 1, _LISTPACK_INTEGERS[code], end)
    if code < 0xC0:
        return _string(data, at + 1, code & 63, end)
    if at + 1 >= end:
        raise BadPacked("listpack: cut off")
    if code < 0xE0:
        number = (code & 31) << 8 | data[at + 1]
        return b"%d" % (number - 8192 if number >= 4096 else number), at + 2
    if code < 0xF0:
        return _string(data, at + 2, (code & 15) << 8 | data[at + 1], end)
    if code == 0xF0:
        return _string(data, at + 5, int.from_bytes(data[at + 1 : at + 5], "little"), end)
    raise BadPacked("listpack: unknown encoding")


def read_ziplist(data: bytes) -> list[bytes]:
    """All values, integers as text."""
    _check_frame(data, _ZIPLIST_HEAD, "ziplist")
    values: list[bytes] = []
    at, end, before, last = _ZIPLIST_HEAD, len(data) - 1, 0, _ZIPLIST_HEAD
    while at < end:
        last = at
        size, at = _length(data, at, end)
        if size != before:
            raise BadPacked("ziplist: wrong length of the entry before")
        value, at = _ziplist_value(data, at, end)
        before = at - last
        values.append(value)
    if int.from_bytes(data[4:8], "little") != last:
        raise BadPacked("ziplist: wrong offset of the last entry")
    _check_count(len(values), int.from_bytes(data[8:10], "little"), at == end, "ziplist")
    return values


def _ziplist_value(data: bytes, at: int, end: int) -> tuple[bytes, int]:
    if at >= end:
        raise BadPacked("ziplist: cut off")
    code = data[at]
    if code in _ZIPLIST_INTEGERS:
        return _integer(data, at + 1, _ZIPLIST_INTEGERS[code], end)
    if code < 0x40:
        return _string(data, at + 1, code, end)
    if code < 0x80 and at + 1 < end:
        return _string(data, at + 2, (code & 63) << 8 | data[at + 1], end)
    if code == 0x80:
        return _string(data, at + 5, int.from_bytes(data[at + 1 : at + 5], "big"), end)
    if 0xF1 <= code <= 0xFD:
        return b"%d" % (code - 0xF1), at + 1
    raise BadPacked("ziplist: unknown encoding")


def read_zipmap(data: bytes) -> list[bytes]:
    """Keys and values in turn."""
    if len(data) < 2 or data[-1] != _END:
        raise BadPacked("zipmap: no end")
    values: list[bytes] = []
    at, end = 1, len(data) - 1
    while at < end:
        size, at = _length(data, at, end)
        key, at = _string(data, at, size, end)
        size, at = _length(data, at, end)
        if at >= end:
            raise BadPacked("zipmap: cut off")
        free = data[at]
        value, at = _string(data, at + 1, size, end)
        at += free
        values += (key, value)
    _check_count(len(values) // 2, data[0] if data[0] < _BIG_LENGTH else _UNKNOWN_COUNT, at == end, "zipmap")
    return values


def _check_frame(data: bytes, head: int, name: str) -> None:
    if len(data) <= head or data[-1] != _END or int.from_bytes(data[:4], "little") != len(data):
        raise BadPacked(f"{name}: wrong head or end")


def _check_count(found: int, announced: int, complete: bool, name: str) -> None:
    if not complete or (found != announced and announced != _UNKNOWN_COUNT):
        raise BadPacked(f"{name}: wrong number of entries")


def _length(data: bytes, at: int, end: int) -> tuple[int, int]:
    """A length of one byte, or of four behind a byte 254."""
    if at >= end:
        raise BadPacked("cut off")
    if data[at] < _BIG_LENGTH:
        return data[at], at + 1
    if data[at] == _END or at + 5 > end:
        raise BadPacked("wrong length")
    return int.from_bytes(data[at + 1 : at + 5], "little"), at + 5


def _string(data: bytes, at: int, size: int, end: int) -> tuple[bytes, int]:
    if at + size > end:
        raise BadPacked("a string beyond the end")
    return data[at : at + size], at + size


def _integer(data: bytes, at: int, size: int, end: int) -> tuple[bytes, int]:
    if at + size > end:
        raise BadPacked("an integer beyond the end")
    return b"%d" % int.from_bytes(data[at : at + size], "little", signed=True), at + size
