"""Names for numbers that must not be mixed up, and the record types every room knows."""

from __future__ import annotations

from typing import Final, NewType

Slot = NewType("Slot", int)
NodeId = NewType("NodeId", bytes)
RingEpoch = NewType("RingEpoch", int)

#: Record types: the low four bits of a record's first byte. TOMBSTONE is "nothing here".
TOMBSTONE: Final = 0
STRING: Final = 1
HASH: Final = 2
LIST: Final = 3
SET: Final = 4
ZSET: Final = 5
STREAM: Final = 6

#: What TYPE answers for each record type.
TYPE_NAMES: Final = {
    TOMBSTONE: b"none",
    STRING: b"string",
    HASH: b"hash",
    LIST: b"list",
    SET: b"set",
    ZSET: b"zset",
    STREAM: b"stream",
}
