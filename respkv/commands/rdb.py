"""RDB payloads, as DUMP gives and RESTORE takes them: strings and hashes.

    payload = type u8 | value | RDB version u16 | CRC64 (Redis' polynomial) of all before, u64; little-endian

A value is made of lengths (6, 14, 32 or 64 bits by the upper two bits of the first byte; both upper bits set:
a special string follows) and strings (raw, an integer of 1, 2 or 4 bytes, or LZF). What is written carries the lowest
version that knows its type, so that old servers take it: 9 for strings and large hashes, 10 for listpacks, 12 for
hashes with expiring fields. Every count and length is checked against what is left of the payload before anything
is made of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from anycrc import Model

from respkv.base.errors import RespkvError
from respkv.commands import lzf, packed
from respkv.commands.arguments import optional_integer

#: A field: name, value, absolute expiry in ms (0: none).
Field = tuple[bytes, bytes, int]

_VERSION_MAX: Final = 12
_FOOTER: Final = 10
_CRC64: Final = Model("CRC64-REDIS")

_STRING: Final = 0
_HASH: Final = 4
_HASH_ZIPMAP: Final = 9
_HASH_ZIPLIST: Final = 13
_HASH_LISTPACK: Final = 16
_HASH_METADATA: Final = 24
_HASH_LISTPACK_EX: Final = 25
#: Types of values there are no commands for.
_FOREIGN: Final = {
    1: "list", 2: "set", 3: "zset", 5: "zset", 6: "module", 7: "module", 10: "list", 11: "set", 12: "zset", 14: "list",
    15: "stream", 17: "zset", 18: "list", 19: "stream", 20: "set", 21: "stream",
}  # fmt: skip

#: Special strings, by the lower six bits of their first byte.
_INTEGERS: Final = {0: 1, 1: 2, 2: 4}
_LZF: Final = 3

#: Redis' thresholds for a listpack, and for compressing a string.
_LISTPACK_FIELDS: Final = 512
_LISTPACK_BYTES: Final = 64
_COMPRESS_MIN: Final = 20
#: Longer strings are written as they are: compressing them would hold up everybody.
_COMPRESS_MAX: Final = 64 << 10
#: The latest expiry of a field that Redis takes.
_FIELD_EXPIRE_MS_MAX: Final = (1 << 48) - 1


class BadPayload(RespkvError):
    """The payload is sealed by a right checksum, but is not a value."""


class ForeignType(BadPayload):
    """A value of a type that is not known here; its name is the first argument."""


def seal(body: bytes, version: int) -> bytes:
    """Type and value with version and checksum behind them."""
    sealed = body + version.to_bytes(2, "little")
    crc: int = _CRC64.calc(sealed)
    return sealed + crc.to_bytes(8, "little")


def is_sealed(payload: bytes) -> bool:
    """True when version and checksum are acceptable."""
    if len(payload) < _FOOTER or int.from_bytes(payload[-10:-8], "little") > _VERSION_MAX:
        return False
    crc: int = _CRC64.calc(payload[:-8])
    return crc == int.from_bytes(payload[-8:], "little")


# -- writing -----------------------------------------------------------------------------------------


def dump_string(value: bytes) -> bytes:
    """The payload of a string. O(bytes)."""
    return seal(bytes((_STRING,)) + write_string(value), 9)


def dump_hash(fields: Sequence[Field]) -> bytes:
    """The payload of a hash. O(bytes)."""
    expiries = [expire_at_ms for _, _, expire_at_ms in fields if expire_at_ms]
    if expiries:
        first = min(expiries)
        parts = [bytes((_HASH_METADATA,)), first.to_bytes(8, "little"), write_length(len(fields))]
        for field, value, expire_at_ms in fields:
            ahead = expire_at_ms - first + 1 if expire_at_ms else 0
            parts += (write_length(ahead), write_string(field), write_string(value))
        return seal(b"".join(parts), 12)
    words = [word for field, value, _ in fields for word in (field, value)]
    if len(fields) <= _LISTPACK_FIELDS and max(map(len, words), default=0) <= _LISTPACK_BYTES:
        return seal(bytes((_HASH_LISTPACK,)) + write_string(packed.write_listpack(words)), 10)
    return seal(b"".join([bytes((_HASH,)), write_length(len(fields)), *map(write_string, words)]), 9)


def write_length(value: int) -> bytes:
    """A length in its shortest form."""
    if value < 1 << 6:
        return bytes((value,))
    if value < 1 << 14:
        return (value | 1 << 14).to_bytes(2, "big")
    if value < 1 << 32:
        return b"\x80" + value.to_bytes(4, "big")
    return b"\x81" + value.to_bytes(8, "big")


def write_string(value: bytes) -> bytes:
    """A string in its shortest form: an integer, LZF or raw."""
    size = len(value)
    if size <= 11:
        number = optional_integer(value)
        if number is not None:
            for code, width in _INTEGERS.items():
                if -(1 << 8 * width - 1) <= number < 1 << 8 * width - 1:
                    return bytes((0xC0 | code,)) + number.to_bytes(width, "little", signed=True)
    elif _COMPRESS_MIN < size <= _COMPRESS_MAX:
        squeezed = lzf.compress(value)
        if len(squeezed) < size - 4:
            return bytes((0xC0 | _LZF,)) + write_length(len(squeezed)) + write_length(size) + squeezed
    return write_length(size) + value


# -- reading -----------------------------------------------------------------------------------------


def load(payload: bytes, limit_bytes: int) -> bytes | list[Field]:
    """The string or the fields of a sealed payload. Raises BadPayload.

    ``limit_bytes`` bounds what compressed strings may come to, all together.
    """
    body = payload[:-_FOOTER]
    if not body:
        raise BadPayload("empty")
    reader = _Reader(body, limit_bytes)
    kind = body[0]
    if kind in _FOREIGN:
        raise ForeignType(_FOREIGN[kind])
    try:
        if kind == _STRING:
            value: bytes | list[Field] = reader.string()
        else:
            value = _distinct(_load_fields(kind, reader))
    except (packed.BadPacked, lzf.BadLzf) as problem:
        raise BadPayload(str(problem)) from None
    if reader.at != len(body):
        raise BadPayload("bytes behind the value")
    return value


def _load_fields(kind: int, reader: _Reader) -> list[Field]:
    if kind == _HASH:
        return [(reader.string(), reader.string(), 0) for _ in range(reader.count(2))]
    if kind == _HASH_METADATA:
        return _load_metadata(reader)
    if kind == _HASH_LISTPACK_EX:
        reader.take(8)  # the earliest expiry, which the entries tell again
        words = packed.read_listpack(reader.string())
        if len(words) % 3:
            raise BadPayload("a field without value or expiry")
        return [
            (field, value, _expiry(optional_integer(expiry)))
            for field, value, expiry in zip(words[::3], words[1::3], words[2::3])
        ]
    if kind == _HASH_LISTPACK:
        words = packed.read_listpack(reader.string())
    elif kind == _HASH_ZIPLIST:
        words = packed.read_ziplist(reader.string())
    elif kind == _HASH_ZIPMAP:
        words = packed.read_zipmap(reader.string())
    else:
        raise BadPayload("unknown type")
    if len(words) % 2:
        raise BadPayload("a field without value")
    return [(field, value, 0) for field, value in zip(words[::2], words[1::2])]


def _load_metadata(reader: _Reader) -> list[Field]:
    first = int.from_bytes(reader.take(8), "little")
    fields = []
    for _ in range(reader.count(3)):
        ahead = reader.length()
        expire_at_ms = _expiry(ahead + first - 1) if ahead else 0
        fields.append((reader.string(), reader.string(), expire_at_ms))
    return fields


def _expiry(value: int | None) -> int:
    if value is None or not 0 <= value <= _FIELD_EXPIRE_MS_MAX:
        raise BadPayload("an impossible expiry")
    return value


def _distinct(fields: list[Field]) -> list[Field]:
    if not fields:
        raise BadPayload("a hash without fields")
    if len({field for field, _, _ in fields}) != len(fields):
        raise BadPayload("a field twice")
    return fields


class _Reader:
    """Steps through a value's bytes; every step is checked against the end."""

    __slots__ = ("at", "budget", "data")

    def __init__(self, data: bytes, budget: int) -> None:
        self.data = data
        self.at = 1
        #: bytes that compressed strings may still come to
        self.budget = budget

    def take(self, count: int) -> bytes:
        """The next ``count`` bytes."""
        end = self.at + count
        if end > len(self.data):
            raise BadPayload("cut off")
        taken = self.data[self.at : end]
        self.at = end
        return taken

    def length(self) -> int:
        """A length; a special string is not one."""
        size, special = self._length()
        if special:
            raise BadPayload("a length expected")
        return size

    def count(self, parts: int) -> int:
        """A number of entries of ``parts`` lengths or strings, each of which takes at least a byte."""
        count = self.length()
        if count * parts > len(self.data) - self.at:
            raise BadPayload("more entries than bytes")
        return count

    def _length(self) -> tuple[int, bool]:
        first = self.take(1)[0]
        kind = first >> 6
        if kind == 0:
            return first, False
        if kind == 1:
            return (first & 63) << 8 | self.take(1)[0], False
        if kind == 3:
            return first & 63, True
        if first == 0x80:
            return int.from_bytes(self.take(4), "big"), False
        if first == 0x81:
            return int.from_bytes(self.take(8), "big"), False
        raise BadPayload("unknown length")

    def string(self) -> bytes:
        """A string in any of its forms."""
        size, special = self._length()
        if not special:
            return self.take(size)
        if size in _INTEGERS:
            return b"%d" % int.from_bytes(self.take(_INTEGERS[size]), "little", signed=True)
        if size != _LZF:
            raise BadPayload("unknown string")
        squeezed = self.length()
        length = self.length()
        if length > self.budget or length > (squeezed + 1) * lzf.EXPANSION_MAX:
            raise BadPayload("a compressed string that is too long")
        self.budget -= length
        return lzf.decompress(self.take(squeezed), length)
