"""LZF (Marc Lehmann's liblzf), the compression of strings in RDB payloads.

A control byte below 32 announces that many literal bytes plus one. Any other holds a length in its upper three
bits (7: a byte follows that is added) and the upper five bits of a distance, whose lower eight bits come last: copy
length + 2 bytes from distance + 1 bytes before the end of the output. Copies may overlap what they write.
"""

from __future__ import annotations

from typing import Final

from respkv.base.errors import RespkvError

_DISTANCE_MAX: Final = 1 << 13
_COPY_MAX: Final = 264
_LITERALS_MAX: Final = 32
#: Three bytes of input make at most this many bytes of output.
EXPANSION_MAX: Final = _COPY_MAX // 3


class BadLzf(RespkvError):
    """The bytes are not LZF, or do not give the length they should."""


def compress(data: bytes) -> bytes:
    """``data`` compressed; may come out longer. O(n), about 0.3 us a byte."""
    out = bytearray()
    seen: dict[bytes, int] = {}
    size, at, literal = len(data), 0, 0
    while at < size - 2:
        start = data[at : at + 3]
        before = seen.get(start)
        seen[start] = at
        if before is None or at - before > _DISTANCE_MAX:
            at += 1
            continue
        length, most = 3, min(size - at, _COPY_MAX)
        while length < most and data[before + length] == data[at + length]:
            length += 1
        _literals(out, data, literal, at)
        distance = at - before - 1
        if length < 9:
            out.append(length - 2 << 5 | distance >> 8)
        else:
            out += bytes((7 << 5 | distance >> 8, length - 9))
        out.append(distance & 255)
        at += length
        literal = at
    _literals(out, data, literal, size)
    return bytes(out)


def _literals(out: bytearray, data: bytes, start: int, end: int) -> None:
    for at in range(start, end, _LITERALS_MAX):
        run = data[at : min(at + _LITERALS_MAX, end)]
        out.append(len(run) - 1)
        out += run


def decompress(data: bytes, length: int) -> bytes:
    """The ``length`` bytes that ``data`` stands for. Raises BadLzf; never makes more than ``length`` + 264 bytes."""
    out = bytearray()
    at, size = 0, len(data)
    while at < size and len(out) <= length:
        control = data[at]
        at += 1
        if control < _LITERALS_MAX:
            end = at + control + 1
            if end > size:
                raise BadLzf("literals beyond the end")
            out += data[at:end]
            at = end
            continue
        count = control >> 5
        if at + (count == 7) >= size:
            raise BadLzf("a copy is cut off")
        if count == 7:
            count += data[at]
            at += 1
        count += 2
        start = len(out) - ((control & 31) << 8 | data[at]) - 1
        at += 1
        if start < 0:
            raise BadLzf("a copy from before the start")
        run = out[start : start + count]
        if len(run) < count:
            # The copy reads what it has just written: the run repeats.
            run = (run * (count // len(run) + 1))[:count]
        out += run
    if len(out) != length:
        raise BadLzf("another length than announced")
    return bytes(out)
