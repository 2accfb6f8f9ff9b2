"""Husks, on a ring: collections of which no element is known here, while their record lives.

A node that sees the last element that it knows of go must not conclude that the collection is gone: others may hold
elements that it has not heard of, and a tombstone would hide those, too. So it writes none. Readers take a husk for
absent, an element that comes makes it a collection again, and a new one under the same key goes on with its record. A
tombstone comes only from who has compared all elements with other replicas: a request at ``quorum``, or the duty that
buries what has been a husk for a while (``node/burials``).

Whether a collection is a husk is in its elements (``is_one``). The list kept here spares the walks over keys and the
counts a look at them; it is bounded, and what it does not hold is walked over as a key until somebody reads it.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, Final

from respkv.base.ids import STRING
from respkv.causality.record import BODY_AT, TYPE_MASK
from respkv.keyspace import keys
from respkv.keyspace.rows import HashRow

if TYPE_CHECKING:
    from respkv.keyspace.keyspace import Keyspace

#: Husks that are listed. They are buried faster than clients usually make them.
LISTED_MAX: Final = 100_000


class Husks:
    """Those of one keyspace that are known. False when there are none."""

    __slots__ = ("_keyspace", "_since_ms")

    def __init__(self, keyspace: Keyspace) -> None:
        self._keyspace = keyspace
        #: key -> wall clock when it was found to be a husk
        self._since_ms: dict[bytes, int] = {}

    def __len__(self) -> int:
        return len(self._since_ms)

    def __contains__(self, internal: bytes) -> bool:
        return internal in self._since_ms

    def is_one(self, row: HashRow) -> bool:
        """Whether a collection that counts no elements has none. May raise ReadMiss.

        O(its graves) the first time. A count that was wrong is mended in ``row``.
        """
        if row.internal in self._since_ms:
            return True
        row.count = sum(1 for _ in self._keyspace.stored_elements(row))
        if row.count:
            return False
        self.add(row.internal)
        return True

    def add(self, internal: bytes) -> None:
        """A collection has lost its last element that is known here."""
        if len(self._since_ms) < LISTED_MAX:
            self._since_ms.setdefault(internal, self._keyspace.now_ms)

    def discard(self, internal: bytes) -> None:
        """It is none, or no longer: it has elements, or another record."""
        self._since_ms.pop(internal, None)

    def turn(self, count: int) -> list[tuple[bytes, int]]:
        """The next ``count`` of them and when each was found (wall clock in ms); they go behind all others."""
        first = list(islice(self._since_ms.items(), count))
        for internal, since_ms in first:
            del self._since_ms[internal]
            self._since_ms[internal] = since_ms
        return first

    def flushed(self, db: int, first: int, last: int) -> None:
        """Some slots of a stored database have been flushed."""
        for internal in [internal for internal in self._since_ms if keys.key_db(internal) == db]:
            if first <= keys.key_slot(internal) <= last:
                del self._since_ms[internal]

    def slots(self, db: int) -> Iterator[int]:
        """The slots of those in a stored database, one for each. What a string was put over is none any longer."""
        table = self._keyspace.engine.memtable.table
        for internal in list(self._since_ms):
            if keys.key_db(internal) == db:
                record = table.get(internal)
                if record is not None and record[0] & TYPE_MASK <= STRING:
                    del self._since_ms[internal]
                else:
                    yield keys.key_slot(internal)

    def recover(self) -> None:
        """Have the collections looked at that had just lost their elements when this node stopped: their counts are
        in the log yet, for nobody is a husk for long."""
        keyspace, nothing = self._keyspace, bytes(8)
        for memtable in (*keyspace.engine.immutables, keyspace.engine.memtable):
            for internal, record in memtable.table.items():
                if internal[0] == keys.SPACE_COUNT and record[BODY_AT : BODY_AT + 8] == nothing:
                    keyspace.sighted[keys.count_owner(internal)] = None
