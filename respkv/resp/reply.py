"""Replies: what a command answers, and how it looks in RESP2 and RESP3.

A reply is a ``Reply``: either finished ``bytes``, for everything that is the same in both protocols, or one of
the small classes below for what differs (null, map, set, double, verbatim, push). Handlers build
replies without knowing the client's protocol; ``encode`` finishes them. An array made only of
finished parts is finished itself.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Final, TypeAlias

_INT_CACHE: Final = tuple(b":%d\r\n" % n for n in range(1024))
#: Heads of short bulk strings: adding three bytes objects costs half of formatting one.
BULK_HEADS: Final = tuple(b"$%d\r\n" % n for n in range(4096))


class Null:
    """A missing value: ``$-1`` or ``_``."""

    __slots__ = ()

    def encode(self, proto: int) -> bytes:
        return b"_\r\n" if proto == 3 else b"$-1\r\n"


class NullArray:
    """A missing array: ``*-1`` or ``_``."""

    __slots__ = ()

    def encode(self, proto: int) -> bytes:
        return b"_\r\n" if proto == 3 else b"*-1\r\n"


class Array:
    """An array with at least one part that depends on the protocol."""

    __slots__ = ("items",)

    def __init__(self, items: Sequence[Reply]) -> None:
        self.items = items

    def encode(self, proto: int) -> bytes:
        return b"*%d\r\n%b" % (len(self.items), b"".join([encode(item, proto) for item in self.items]))


class Map:
    """Pairs: a map in RESP3, a flat array in RESP2."""

    __slots__ = ("pairs",)

    def __init__(self, pairs: Iterable[tuple[Reply, Reply]]) -> None:
        self.pairs = list(pairs)

    def encode(self, proto: int) -> bytes:
        parts = [part if part.__class__ is bytes else encode(part, proto) for pair in self.pairs for part in pair]
        body = b"".join(parts)
        if proto == 3:
            return b"%%%d\r\n%b" % (len(self.pairs), body)
        return b"*%d\r\n%b" % (2 * len(self.pairs), body)


class Pairs:
    """Pairs: an array of two-element arrays in RESP3, a flat array in RESP2."""

    __slots__ = ("pairs",)

    def __init__(self, pairs: Iterable[tuple[Reply, Reply]]) -> None:
        self.pairs = list(pairs)

    def encode(self, proto: int) -> bytes:
        if proto == 3:
            return b"*%d\r\n%b" % (
                len(self.pairs),
                b"".join([b"*2\r\n%b%b" % (encode(a, proto), encode(b, proto)) for a, b in self.pairs]),
            )
        body = b"".join([encode(part, proto) for pair in self.pairs for part in pair])
        return b"*%d\r\n%b" % (2 * len(self.pairs), body)


class SetReply:
    """A set in RESP3, an array in RESP2."""

    __slots__ = ("items",)

    def __init__(self, items: Sequence[Reply]) -> None:
        self.items = items

    def encode(self, proto: int) -> bytes:
        body = b"".join([encode(item, proto) for item in self.items])
        return (b"~%d\r\n%b" if proto == 3 else b"*%d\r\n%b") % (len(self.items), body)


class Double:
    """A double in RESP3, a bulk string in RESP2."""

    __slots__ = ("value",)

    def __init__(self, value: float) -> None:
        self.value = value

    def encode(self, proto: int) -> bytes:
        text = format_double(self.value)
        return b",%b\r\n" % text if proto == 3 else bulk(text)


class Verbatim:
    """Text for people: a verbatim string ``txt:`` in RESP3, a bulk string in RESP2."""

    __slots__ = ("text",)

    def __init__(self, text: bytes) -> None:
        self.text = text

    def encode(self, proto: int) -> bytes:
        if proto == 3:
            return b"=%d\r\ntxt:%b\r\n" % (len(self.text) + 4, self.text)
        return bulk(self.text)


class Push:
    """An out-of-band message: a push frame in RESP3, an array in RESP2."""

    __slots__ = ("items",)

    def __init__(self, items: Sequence[Reply]) -> None:
        self.items = items

    def encode(self, proto: int) -> bytes:
        body = b"".join([encode(item, proto) for item in self.items])
        return (b">%d\r\n%b" if proto == 3 else b"*%d\r\n%b") % (len(self.items), body)


Reply: TypeAlias = bytes | Null | NullArray | Array | Map | Pairs | SetReply | Double | Verbatim | Push

OK: Final = b"+OK\r\n"
PONG: Final = b"+PONG\r\n"
QUEUED: Final = b"+QUEUED\r\n"
NULL: Final = Null()
NULL_ARRAY: Final = NullArray()
EMPTY_ARRAY: Final = b"*0\r\n"
EMPTY_BULK: Final = b"$0\r\n\r\n"
ZERO: Final = _INT_CACHE[0]
ONE: Final = _INT_CACHE[1]


def encode(reply: Reply, proto: int) -> bytes:
    """The wire bytes of ``reply`` in protocol 2 or 3."""
    return reply if type(reply) is bytes else reply.encode(proto)  # type: ignore[union-attr]


def simple(text: bytes) -> bytes:
    """A simple string."""
    return b"+%b\r\n" % text


def error(text: bytes) -> bytes:
    """An error line; ``text`` starts with its code. Line ends inside become spaces."""
    return b"-%b\r\n" % text.replace(b"\r", b" ").replace(b"\n", b" ")


def integer(value: int) -> bytes:
    """An integer."""
    return _INT_CACHE[value] if 0 <= value < 1024 else b":%d\r\n" % value


def boolean(value: bool) -> bytes:
    """1 or 0: Redis answers integers where it means truth."""
    return ONE if value else ZERO


def bulk(value: bytes) -> bytes:
    """A bulk string."""
    size = len(value)
    return BULK_HEADS[size] + value + b"\r\n" if size < 4096 else b"$%d\r\n%b\r\n" % (size, value)


def optional_bulk(value: bytes | None) -> Reply:
    """A bulk string, or null."""
    return NULL if value is None else b"$%d\r\n%b\r\n" % (len(value), value)


def array(items: Sequence[Reply]) -> Reply:
    """An array of replies."""
    for item in items:
        if type(item) is not bytes:
            return Array(items)
    return b"*%d\r\n%b" % (len(items), b"".join(items))  # type: ignore[arg-type]


def bulk_array(values: Iterable[bytes]) -> bytes:
    """An array of bulk strings."""
    parts = [b"$%d\r\n%b\r\n" % (len(value), value) for value in values]
    return b"*%d\r\n%b" % (len(parts), b"".join(parts))


def format_double(value: float) -> bytes:
    """The shortest text that reads back as ``value``: ``1`` not ``1.0``, ``inf``, ``-inf``, ``nan``."""
    if math.isinf(value):
        return b"inf" if value > 0 else b"-inf"
    if math.isnan(value):
        return b"nan"
    if value == int(value) and abs(value) < 1e17:
        return b"-0" if value == 0 and math.copysign(1, value) < 0 else b"%d" % int(value)
    return repr(value).encode()
