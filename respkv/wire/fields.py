"""How the fields of the rarer messages become bytes: small objects that write and read one kind of value each.

A message's layout is a row of them, so that it is written down once and encoder, decoder and all checks follow from
it. Reading trusts nothing: a length or a count is compared with the bytes that are there before anything is made of
it, so what is allocated never exceeds a small multiple of what was received. The hot messages have functions of their
own in ``codec``.

Layout: fixed-width integers little-endian; ``Blob`` and ``Text`` ``length u32 | bytes``; ``Many`` and ``Words``
``count u32 | items``; ``Group`` its fields in order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from struct import Struct
from typing import Any, Final, Protocol

from respkv.base.coding import U32 as _U32
from respkv.base.errors import ProtocolError


class Field(Protocol):
    """One kind of value. ``bytes_min`` is the least that it takes."""

    @property
    def bytes_min(self) -> int: ...

    def write(self, value: Any, out: list[bytes]) -> None:
        """Append the value's bytes. ValueError or ``struct.error`` when it is not such a value."""

    def read(self, data: bytes, at: int, end: int) -> tuple[Any, int]:
        """The value at ``at`` and where it ends. ProtocolError when there is none before ``end``."""


def _check_count(count: int, limit: int) -> int:
    if count > limit:
        raise ValueError(f"{count} is above the limit of {limit}")
    return count


class Unsigned:
    """An integer of the width that ``code`` says (as ``struct`` spells it)."""

    __slots__ = ("_struct", "bytes_min")

    def __init__(self, code: str) -> None:
        self._struct = Struct("<" + code)
        self.bytes_min = self._struct.size

    def write(self, value: int, out: list[bytes]) -> None:
        """Append it; ``struct.error`` when it is too large or negative."""
        out.append(self._struct.pack(value))

    def read(self, data: bytes, at: int, end: int) -> tuple[int, int]:
        """The integer and where it ends."""
        stop = at + self.bytes_min
        if stop > end:
            raise ProtocolError("an integer is cut short")
        return self._struct.unpack_from(data, at)[0], stop


class Flag:
    """A bool in one byte, 0 or 1."""

    __slots__ = ("bytes_min",)

    def __init__(self) -> None:
        self.bytes_min = 1

    def write(self, value: bool, out: list[bytes]) -> None:
        """Append it."""
        out.append(b"\x01" if value else b"\x00")

    def read(self, data: bytes, at: int, end: int) -> tuple[bool, int]:
        """The bool and where it ends."""
        if at >= end or data[at] > 1:
            raise ProtocolError("a flag is neither 0 nor 1")
        return data[at] == 1, at + 1


class Exactly:
    """Bytes of a fixed length, without a length before them."""

    __slots__ = ("bytes_min",)

    def __init__(self, size: int) -> None:
        self.bytes_min = size

    def write(self, value: bytes, out: list[bytes]) -> None:
        """Append them; ValueError for another length."""
        if len(value) != self.bytes_min:
            raise ValueError(f"{len(value)} bytes instead of {self.bytes_min}")
        out.append(value)

    def read(self, data: bytes, at: int, end: int) -> tuple[bytes, int]:
        """The bytes and where they end."""
        stop = at + self.bytes_min
        if stop > end:
            raise ProtocolError("bytes are cut short")
        return data[at:stop], stop


class Blob:
    """Bytes with their length, at most ``limit``."""

    __slots__ = ("_limit", "bytes_min")

    def __init__(self, limit: int = 0xFFFFFFFF) -> None:
        self._limit = limit
        self.bytes_min = _U32.size

    def write(self, value: bytes, out: list[bytes]) -> None:
        """Append length and bytes; ValueError when there are too many."""
        out.append(_U32.pack(_check_count(len(value), self._limit)))
        out.append(value)

    def read(self, data: bytes, at: int, end: int) -> tuple[bytes, int]:
        """The bytes and where they end."""
        start = at + _U32.size
        if start > end:
            raise ProtocolError("a length is cut short")
        size: int = _U32.unpack_from(data, at)[0]
        if size > self._limit or size > end - start:
            raise ProtocolError(f"a field of {size} bytes")
        return data[start : start + size], start + size


class Text:
    """UTF-8 with its length in bytes, at most ``limit``."""

    __slots__ = ("_blob", "bytes_min")

    def __init__(self, limit: int) -> None:
        self._blob = Blob(limit)
        self.bytes_min = self._blob.bytes_min

    def write(self, value: str, out: list[bytes]) -> None:
        """Append it; ValueError when it is too long or cannot be encoded."""
        self._blob.write(value.encode(), out)

    def read(self, data: bytes, at: int, end: int) -> tuple[str, int]:
        """The text and where it ends."""
        raw, stop = self._blob.read(data, at, end)
        try:
            return raw.decode(), stop
        except UnicodeDecodeError as error:
            raise ProtocolError("text that is not UTF-8") from error


class Group:
    """Several fields, one after the other; the value is what ``make`` builds of the list of theirs."""

    __slots__ = ("_fields", "_make", "bytes_min")

    def __init__(self, *fields: Field, make: Callable[[list[Any]], Any] = tuple) -> None:
        self._fields = fields
        self._make = make
        self.bytes_min = sum(field.bytes_min for field in fields)

    def write(self, value: Sequence[Any], out: list[bytes]) -> None:
        """Append all fields; ValueError when they are not as many."""
        for field, part in zip(self._fields, value, strict=True):
            field.write(part, out)

    def read(self, data: bytes, at: int, end: int) -> tuple[Any, int]:
        """The group and where it ends."""
        parts = []
        for field in self._fields:
            part, at = field.read(data, at, end)
            parts.append(part)
        return self._make(parts), at


class Many:
    """A tuple of any number of values of one kind, at most ``limit``."""

    __slots__ = ("_item", "_limit", "bytes_min")

    def __init__(self, item: Field, limit: int = 0xFFFFFFFF) -> None:
        assert item.bytes_min > 0, "items without bytes would make a count cost nothing"
        self._item = item
        self._limit = limit
        self.bytes_min = _U32.size

    def write(self, value: Sequence[Any], out: list[bytes]) -> None:
        """Append count and items; ValueError when there are too many."""
        out.append(_U32.pack(_check_count(len(value), self._limit)))
        for item in value:
            self._item.write(item, out)

    def read(self, data: bytes, at: int, end: int) -> tuple[tuple[Any, ...], int]:
        """The values and where they end."""
        if at + _U32.size > end:
            raise ProtocolError("a count is cut short")
        count: int = _U32.unpack_from(data, at)[0]
        at += _U32.size
        if count > self._limit or count * self._item.bytes_min > end - at:
            raise ProtocolError(f"a count of {count}")
        items = []
        for _ in range(count):
            item, at = self._item.read(data, at, end)
            items.append(item)
        return tuple(items), at


class Words:
    """A tuple of u64, packed in one call."""

    __slots__ = ("_limit", "bytes_min")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.bytes_min = _U32.size

    def write(self, value: Sequence[int], out: list[bytes]) -> None:
        """Append count and words; ValueError when there are too many."""
        count = _check_count(len(value), self._limit)
        out.append(Struct(f"<I{count}Q").pack(count, *value))

    def read(self, data: bytes, at: int, end: int) -> tuple[tuple[int, ...], int]:
        """The words and where they end."""
        if at + _U32.size > end:
            raise ProtocolError("a count is cut short")
        count: int = _U32.unpack_from(data, at)[0]
        at += _U32.size
        if count > self._limit or count * 8 > end - at:
            raise ProtocolError(f"a count of {count}")
        return Struct(f"<{count}Q").unpack_from(data, at), at + 8 * count


U8: Final = Unsigned("B")
U16: Final = Unsigned("H")
U32: Final = Unsigned("I")
U64: Final = Unsigned("Q")
FLAG: Final = Flag()
STAMP: Final = Exactly(10)
ID: Final = Exactly(16)
