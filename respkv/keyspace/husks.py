"""Husks, on a ring: collections of which no element is known here, while their record lives.

A node that sees the last element that it knows of go must not conclude that the collection is gone: others may hold
elements that it has not heard of, and a tombstone would hide those, too. So it writes none. Readers take a husk for
absent, an element that comes makes it a collection again, and a new one under the same key goes on with its record. A
tombstone comes only from who has compared all elements with other replicas: a request at ``quorum``, or the duty that
buries what has been a husk for a while (``node/burials``).

Whether a collection is a husk is in its elements. The list kept here spares the walks over keys and the counts a look
at them; whoever may make a husk, or end one unseen, has the collection looked at when the cycle ends (``suspect``). The
list is bounded; what it does not hold is walked over as a key until somebody reads it.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Final

from respkv.causality.record import BODY_AT, decode
from respkv.keyspace import keys
from respkv.keyspace.counts import EXPIRING_SUMS
from respkv.keyspace.rows import HashRow

if TYPE_CHECKING:
    from respkv.keyspace.keyspace import Keyspace

#: Husks that are listed. They are buried faster than clients usually make them.
LISTED_MAX: Final = 100_000
_NO_ELEMENTS: Final = bytes(8)


class Husks:
    """Those of one keyspace that are known. False when there are none."""

    __slots__ = ("_found", "_keyspace", "_numbers")

    def __init__(self, keyspace: Keyspace) -> None:
        self._keyspace = keyspace
        #: key -> (wall clock in ms when it was found to be a husk, whether its record has an expiry)
        self._found: dict[bytes, tuple[int, bool]] = {}
        #: stored database, or that of its keys with an expiry as in ``counts`` -> slot -> how many
        self._numbers: dict[int, dict[int, int]] = {}

    def __len__(self) -> int:
        return len(self._found)

    def __contains__(self, internal: bytes) -> bool:
        return internal in self._found

    # -- what is one -------------------------------------------------------------------------------

    def is_one(self, row: HashRow) -> bool:
        """Whether a collection that counts no elements has none. May raise ReadMiss.

        O(its graves) where it is not listed. A count that was wrong is mended in ``row``.
        """
        if row.internal in self._found:
            return True
        row.count = sum(1 for _ in self._keyspace.stored_elements(row))
        row.counted_here = True
        if row.count:
            return False
        self.add(row.internal, expires=row.expire_at_ms > 0)
        return True

    def look(self, internal: bytes, record: bytes) -> None:
        """List a collection, whose record is given, or take it off the list. May raise ReadMiss. O(its graves)."""
        row = self._keyspace.uncounted_hash(internal, decode(record))
        for _ in self._keyspace.stored_elements(row):
            self.discard(internal)
            return
        self.add(internal, expires=row.expire_at_ms > 0)

    def suspect(self, internal: bytes) -> None:
        """A collection may be a husk now, or be none any longer: it is looked at when the cycle ends."""
        self._keyspace.sighted[internal] = None

    def suspect_count(self, internal: bytes, record: bytes) -> bool:
        """The same by an element count, whose internal key is given; whether it says that there are none."""
        none = record[BODY_AT : BODY_AT + 8] == _NO_ELEMENTS
        if none:
            self.suspect(keys.count_owner(internal))
        return none

    # -- the list ----------------------------------------------------------------------------------

    def add(self, internal: bytes, *, expires: bool) -> None:
        """It is one."""
        if internal not in self._found and len(self._found) < LISTED_MAX:
            self._found[internal] = self._keyspace.now_ms, expires
            self._number(internal, 1, expires=expires)

    def discard(self, internal: bytes) -> None:
        """It is none: it has elements, or another record."""
        found = self._found.pop(internal, None)
        if found is not None:
            self._number(internal, -1, expires=found[1])

    def flushed(self, db: int, first: int, last: int) -> None:
        """Some slots of a stored database have been flushed, up to a stamp that may lie below some records."""
        for internal in [internal for internal in self._found if keys.key_db(internal) == db]:
            if first <= keys.key_slot(internal) <= last:
                self.discard(internal)
                self.suspect(internal)

    def turn(self, count: int) -> list[tuple[bytes, int]]:
        """The next ``count`` of them and when each was found (wall clock in ms); they go behind all others."""
        first = list(islice(self._found.items(), count))
        for internal, found in first:
            del self._found[internal]
            self._found[internal] = found
        return [(internal, since_ms) for internal, (since_ms, _) in first]

    # -- numbers -----------------------------------------------------------------------------------

    def number(self, db: int, slots: bytes | bytearray | None = None) -> int:
        """How many lie in a stored database (plus EXPIRING_SUMS: have an expiry), or in those of its slots whose byte
        is 1. O(slots that have some)."""
        numbers = self._numbers.get(db, {})
        if slots is None:
            return sum(numbers.values())
        return sum(number for slot, number in numbers.items() if slots[slot])

    def number_in(self, db: int, slot: int) -> int:
        """The same for one slot. O(1)."""
        return self._numbers.get(db, {}).get(slot, 0)

    def _number(self, internal: bytes, change: int, *, expires: bool) -> None:
        db, slot = keys.key_db(internal), keys.key_slot(internal)
        for sums in (db, db | EXPIRING_SUMS) if expires else (db,):
            numbers = self._numbers.setdefault(sums, {})
            numbers[slot] = numbers.get(slot, 0) + change
            if not numbers[slot]:
                del numbers[slot]

    def check_invariants(self) -> None:
        """The numbers are those of the list."""
        for db, numbers in self._numbers.items():
            listed = [
                internal
                for internal, (_, expires) in self._found.items()
                if keys.key_db(internal) == db & (EXPIRING_SUMS - 1) and (expires or db < EXPIRING_SUMS)
            ]
            assert sum(numbers.values()) == len(listed) and all(number > 0 for number in numbers.values())
