"""Rows: keys as the row cache holds them, ready for commands.

A string without expiry is its record, the very object the memtable holds: one copy of the value serves both. The body
of a string's record is its finished reply, ``$3\\r\\nabc\\r\\n``, so that a cached GET is one look-up and one
slice. Everything else is one of the classes below. ``charge`` is the row's size in bytes, ``used_ms`` when it was
looked up last (0: not since it was loaded). A bare record has no room for that: a string whose idle time somebody asks
for becomes a ``TimedString`` until it is written again or leaves the cache.
"""

from __future__ import annotations

from typing import Final, TypeAlias

from respkv.base.ids import HASH, STRING, TOMBSTONE
from respkv.causality.record import BODY_AT, EXPIRING_BODY_AT, HAS_EXPIRY

#: A field of a hash: its value, or (value, expire_at_ms) when it expires.
FieldEntry: TypeAlias = bytes | tuple[bytes, int]

_FIELD_OVERHEAD: Final = 150
_ROW_OVERHEAD: Final = 500


class TimedString:
    """A string of which more is known than its record says at once: when it expires, 0 for never, and its last use."""

    __slots__ = ("charge", "expire_at_ms", "record", "used_ms")

    def __init__(self, record: bytes) -> None:
        self.record = record
        expires = record[0] & HAS_EXPIRY
        self.expire_at_ms = int.from_bytes(record[BODY_AT:EXPIRING_BODY_AT], "big") if expires else 0
        self.charge = len(record) + 72
        self.used_ms = 0


class HashRow:
    """A hash: its metadata, its count and the fields known so far.

    ``fields`` holds what was read or written lately; with ``complete`` it holds every element that physically exists,
    expired ones included. ``loaded_to`` is where an interrupted load of all fields goes on. ``counted_here``: ``count``
    is what this node has counted and keeps by itself, element by element, not what another node's count says.
    """

    __slots__ = (
        "charge",
        "complete",
        "count",
        "count_stamp",
        "counted_here",
        "expire_at_ms",
        "fields",
        "floor",
        "internal",
        "loaded_to",
        "prefix",
        "used_ms",
    )

    def __init__(self, *, internal: bytes, prefix: bytes, floor: bytes, expire_at_ms: int) -> None:
        self.internal = internal
        self.prefix = prefix
        self.floor = floor
        self.expire_at_ms = expire_at_ms
        self.count = 0
        self.count_stamp = floor
        self.counted_here = False
        self.fields: dict[bytes, FieldEntry] = {}
        self.complete = False
        self.loaded_to: bytes | None = None
        self.charge = _ROW_OVERHEAD + len(internal) + len(prefix)
        self.used_ms = 0

    def forget_fields(self) -> int:
        """Drop the cached fields of a row that grew too large; the change of charge."""
        old = self.charge
        self.fields = {}
        self.complete = False
        self.loaded_to = None
        self.charge = _ROW_OVERHEAD + len(self.internal) + len(self.prefix)
        return self.charge - old

    def __repr__(self) -> str:
        return f"<HashRow {self.internal[5:]!r} count={self.count} complete={self.complete}>"


Row: TypeAlias = bytes | TimedString | HashRow


def row_kind(row: Row | None) -> int:
    """The record type of a row, TOMBSTONE for None."""
    if row is None:
        return TOMBSTONE
    return HASH if type(row) is HashRow else STRING


def row_expiry(row: Row) -> int:
    """Absolute expiry in ms, 0 for none."""
    return 0 if type(row) is bytes else row.expire_at_ms  # type: ignore[union-attr]


def string_row(record: bytes) -> Row:
    """The row of a string's record."""
    return TimedString(record) if record[0] & HAS_EXPIRY else record


def reply_of_string(row: Row) -> bytes:
    """The finished bulk reply of a string row."""
    if type(row) is bytes:
        return row[BODY_AT:]
    return row.record[EXPIRING_BODY_AT if row.expire_at_ms else BODY_AT :]  # type: ignore[union-attr]


def value_of_string(row: Row) -> bytes:
    """The value of a string row."""
    if type(row) is bytes:
        return row[row.index(10, BODY_AT) + 1 : -2]
    record = row.record  # type: ignore[union-attr]
    return record[record.index(10, EXPIRING_BODY_AT if row.expire_at_ms else BODY_AT) + 1 : -2]  # type: ignore[union-attr]


def field_value(entry: FieldEntry) -> bytes:
    """The value of a field entry."""
    return entry if type(entry) is bytes else entry[0]  # type: ignore[return-value]


def field_expiry(entry: FieldEntry) -> int:
    """The expiry of a field entry, 0 for none."""
    return 0 if type(entry) is bytes else entry[1]


def field_charge(field: bytes, entry: FieldEntry) -> int:
    """What one cached field costs in bytes."""
    return _FIELD_OVERHEAD + len(field) + len(field_value(entry))
