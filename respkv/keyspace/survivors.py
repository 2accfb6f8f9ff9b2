"""Survivors, on a ring: elements that outlive the record of their collection.

An element is written without its collection's record being looked at by other replicas, so a deletion made elsewhere
may lie below it, and either may reach a replica first. Whatever the order, the result is the same: a live element above
what a grave hides *revives* the collection. A tombstone hides up to its stamp, an expired form also what was written
before its time, a hollow (``causality/record``) nothing that its collection did not hide.

So who puts a grave over a key looks for such an element first (``find``). Most need not: by slot there is a *mark*, an
HLC value that no element put here lies above, and a deletion is nearly always above it.

The other way round, repairs may leave a collection without elements: *suspects* are looked at some seconds later.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from itertools import islice
from typing import TYPE_CHECKING, Final

from respkv.base.errors import ReadMiss
from respkv.base.ids import HASH
from respkv.base.slots import SLOT_COUNT
from respkv.causality.hlc import COUNTER_BITS
from respkv.causality.record import (
    BODY_AT,
    EXPIRING_BODY_AT,
    HAS_EXPIRY,
    HOLLOW,
    TYPE_MASK,
    encode,
    floor_of,
    hollow_expiry,
)
from respkv.keyspace import keys

if TYPE_CHECKING:
    from respkv.keyspace.keyspace import Keyspace

_NOTHING: Final[Mapping[bytes, bytes]] = {}
#: The end of the highest stamp of a millisecond.
_LAST_OF_A_MS: Final = b"\xff" * 4
#: Looks that wait for a block, which go on where they stopped.
_WAITING_MAX: Final = 64
#: How long a collection that may have lost its last element is left alone, and how many are remembered.
SUSPECT_MS: Final = 10_000
SUSPECTS_MAX: Final = 10_000


class Survivors:
    """Those of one keyspace. ``looks`` counts the graves for which elements had to be read."""

    __slots__ = ("_keyspace", "_marks", "_suspects", "_waiting", "looks")

    def __init__(self, keyspace: Keyspace) -> None:
        """What was written before this start may have any stamp that can have been taken then."""
        self._keyspace = keyspace
        clock = keyspace.clock
        self._marks = array("Q", [clock.last + (clock.max_skew_ms << COUNTER_BITS)]) * SLOT_COUNT
        #: grave (key and record) -> (mark of its slot when the look began, last element passed)
        self._waiting: dict[tuple[bytes, bytes], tuple[int, bytes]] = {}
        #: collection -> when it will be looked at, ms, ascending
        self._suspects: dict[bytes, int] = {}
        self.looks = 0

    def note(self, internal: bytes, hlc: int) -> None:
        """An element was put under a stamp with this HLC value."""
        marks, slot = self._marks, keys.key_slot(internal)
        if marks[slot] < hlc:
            marks[slot] = hlc

    def find(self, internal: bytes, grave: bytes, ending: Mapping[bytes, bytes] = _NOTHING) -> bytes:
        """The record of a live element that revives the key from ``grave``, b"" for none. May raise ReadMiss; the same
        call goes on then, unless elements came meanwhile. ``ending``: records that come with the grave.

        O(elements of the key), if one can be above; else nothing is read.
        """
        mark = self._marks[keys.key_slot(internal)]
        if mark < int.from_bytes(hidden_to(grave, self._keyspace.now_ms)[:8], "big"):
            return b""
        self.looks += 1
        place = (internal, grave)
        began, last = self._waiting.pop(place, (mark, b""))
        prefix = keys.element_prefix(internal)
        if began != mark:
            last = b""  # What came meanwhile may lie anywhere.
        start = keys.after(last) if last else prefix
        try:
            for element, record in self._keyspace.engine.scan(start, keys.prefix_end(prefix)):
                if record[0] & TYPE_MASK and self.revives(grave, record):
                    end = ending.get(element)
                    if end is None or end[0] & TYPE_MASK or end[1:BODY_AT] < record[1:BODY_AT]:
                        return record
                last = element
        except ReadMiss:
            while len(self._waiting) >= _WAITING_MAX:
                del self._waiting[next(iter(self._waiting))]
            self._waiting[place] = (mark, last)
            raise
        return b""

    def suspect(self, internal: bytes) -> None:
        """What was repaired may have taken the last element of a collection.

        Others are on their way perhaps, as repairs bring one record at a time: it is looked at in some seconds.
        """
        if internal not in self._suspects and len(self._suspects) < SUSPECTS_MAX:
            self._suspects[internal] = self._keyspace.now_ms + SUSPECT_MS

    def due(self, limit: int) -> list[bytes]:
        """Suspects whose time has come. ``clear`` them."""
        now_ms = self._keyspace.now_ms
        return [internal for internal, at_ms in islice(self._suspects.items(), limit) if at_ms <= now_ms]

    def clear(self, internal: bytes) -> None:
        """It has been looked at."""
        self._suspects.pop(internal, None)

    def revives(self, held: bytes | None, element: bytes) -> bool:
        """Whether a live element shows that its collection lives, whose record is held as ``held``."""
        if held is None:
            return True
        return not held[0] & TYPE_MASK and element[1:BODY_AT] > hidden_to(held, self._keyspace.now_ms)

    def owner(self, internal: bytes, held: bytes | None, element: bytes) -> bytes:
        """The record of a collection that ``element`` revives; the same at every replica, but for a hollow's."""
        keyspace, stamp = self._keyspace, element[1:BODY_AT]
        if held is None:
            return encode(HASH, stamp, keyspace.floors.get(keys.key_slot(internal), keys.key_db(internal)))
        floor, expire_at_ms = hidden_to(held, keyspace.now_ms), 0
        if held[0] & HOLLOW:
            if stamp < held[1:BODY_AT]:
                stamp = keyspace.stamp()
            expire_at_ms = hollow_expiry(held)
            if expire_at_ms <= keyspace.now_ms:
                expire_at_ms = 0
        return encode(HASH, stamp, floor, expire_at_ms)


def hidden_to(grave: bytes, now_ms: int) -> bytes:
    """The stamp up to which elements are gone with their collection.

    What expired took along all that was written before its time: elements may have newer stamps than its record.
    """
    floor, expired = floor_of(grave), b""
    if grave[0] & HAS_EXPIRY:
        expired = grave[13:EXPIRING_BODY_AT]
    elif grave[0] & HOLLOW and 0 < hollow_expiry(grave) <= now_ms:
        expired = hollow_expiry(grave).to_bytes(6, "big")
    return max(floor, expired + _LAST_OF_A_MS) if expired else floor
