"""Survivors, on a ring: elements that outlive the record of their collection.

An element is written without its collection's record being looked at by other replicas, so a deletion made elsewhere
may lie below it, and either may reach a replica first. Whatever the order, the result is the same: a live element above
what a grave hides *revives* the collection. A tombstone hides up to its stamp, an expired form also what was written
before its time.

So who puts a grave over a key looks for such an element first (``find``). Most need not: by slot there is a *mark*, an
HLC value that no element put here lies above, and a deletion is nearly always above it.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from respkv.base.errors import CorruptionError, ReadMiss
from respkv.base.ids import HASH
from respkv.base.slots import SLOT_COUNT
from respkv.causality.hlc import COUNTER_BITS
from respkv.causality.record import BODY_AT, EXPIRING_BODY_AT, HAS_EXPIRY, TYPE_MASK, encode
from respkv.keyspace import keys

if TYPE_CHECKING:
    from respkv.keyspace.keyspace import Keyspace

_NOTHING: Final[Mapping[bytes, bytes]] = {}
#: The end of the highest stamp of a millisecond.
_LAST_OF_A_MS: Final = b"\xff" * 4
#: Looks that wait for a block, which go on where they stopped.
_WAITING_MAX: Final = 64


class Survivors:
    """Those of one keyspace. ``looks`` counts the graves for which elements had to be read."""

    __slots__ = ("_keyspace", "_marks", "_puts", "_waiting", "looks")

    def __init__(self, keyspace: Keyspace) -> None:
        """What was written before this start may have any stamp that can have been taken then."""
        self._keyspace = keyspace
        clock = keyspace.clock
        self._marks = array("Q", [clock.last + (clock.max_skew_ms << COUNTER_BITS)]) * SLOT_COUNT
        #: by slot: how many elements were put, modulo 2^32
        self._puts = array("I", bytes(4)) * SLOT_COUNT
        #: grave (key and record) -> (elements put in its slot by then, last element passed)
        self._waiting: dict[tuple[bytes, bytes], tuple[int, bytes]] = {}
        self.looks = 0

    def note(self, internal: bytes, hlc: int) -> None:
        """An element was put under a stamp with this HLC value."""
        slot = keys.key_slot(internal)
        self._puts[slot] = (self._puts[slot] + 1) & 0xFFFFFFFF
        if self._marks[slot] < hlc:
            self._marks[slot] = hlc

    def find(self, internal: bytes, grave: bytes, beside: Mapping[bytes, bytes] = _NOTHING) -> bytes:
        """The record of a live element that revives the key from ``grave``, b"" for none. ``beside``: what is put with
        it, and may end elements. May raise ReadMiss; the same call goes on then, unless elements came meanwhile.

        O(elements of the key), if one can be above; else nothing is read.
        """
        slot, hidden = keys.key_slot(internal), hidden_to(grave)
        if self._marks[slot] < int.from_bytes(hidden[:8], "big"):
            return b""
        self.looks += 1
        place, puts = (internal, grave), self._puts[slot]
        began, last = self._waiting.pop(place, (puts, b""))
        if began != puts:
            last = b""  # What came meanwhile may lie anywhere.
        prefix = keys.element_prefix(internal)
        try:
            for element, record in self._keyspace.engine.scan(
                keys.after(last) if last else prefix, keys.prefix_end(prefix)
            ):
                if record[0] & TYPE_MASK and record[1:BODY_AT] > hidden:
                    end = beside.get(element)
                    if end is None or end[0] & TYPE_MASK or end[1:BODY_AT] < record[1:BODY_AT]:
                        return record
                last = element
        except ReadMiss:
            while len(self._waiting) >= _WAITING_MAX:
                del self._waiting[next(iter(self._waiting))]
            self._waiting[place] = (puts, last)
            raise
        except CorruptionError:
            pass  # The table is marked: what cannot be read comes from others, with what they have made of the key.
        return b""

    def revives(self, held: bytes | None, element: bytes) -> bool:
        """Whether a live element shows that its collection lives, whose record is held as ``held``."""
        if held is None:
            return True
        return not held[0] & TYPE_MASK and element[1:BODY_AT] > hidden_to(held)

    def owner(self, internal: bytes, held: bytes | None, element: bytes) -> bytes:
        """The record of a collection that ``element`` revives; the same at every replica."""
        if held is None:
            floor = self._keyspace.floors.get(keys.key_slot(internal), keys.key_db(internal))
        else:
            floor = hidden_to(held)
        return encode(HASH, element[1:BODY_AT], floor)


def hidden_to(grave: bytes) -> bytes:
    """The stamp up to which elements are gone with their collection.

    What expired took along all that was written before its time: elements may have newer stamps than its record.
    """
    stamp = grave[1:BODY_AT]
    if not grave[0] & HAS_EXPIRY:
        return stamp
    return max(stamp, grave[13:EXPIRING_BODY_AT] + _LAST_OF_A_MS)
