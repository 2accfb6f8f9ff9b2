"""Row cache: user key -> opaque row, bounded in bytes.

One dict per database and two generations. A hit in the young generation is one dict lookup and moves nothing; a
hit in the old one moves the row to the young. When the young generation holds half of the capacity it
becomes the old one and the former old one is thrown away, in slices, since freeing a million objects at
once would stop the loop. This approximates LRU (as two-handed clocks do) at the price of half a cache.

The hot path of the dispatcher reads and replaces entries of ``young[db]`` directly and tells the change of
charge through ``grow``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

#: What an entry costs beyond its key and its row: dict slot, two object headers.
ENTRY_OVERHEAD: Final = 130
_DISPOSE_PER_CALL: Final = 4000

Rows = dict[bytes, Any]
_NO_ROWS: Final[Rows] = {}


class RowCache:
    """Rows by (database, key). ``put``, ``get`` and ``drop`` are O(1)."""

    __slots__ = (
        "_retired", "before_loss", "capacity", "evicted", "hits", "misses", "old", "old_charge", "young",
        "young_charge",
    )  # fmt: skip

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.young: dict[int, Rows] = {}
        self.old: dict[int, Rows] = {}
        self.young_charge = 0
        self.old_charge = 0
        self.hits = 0
        self.misses = 0
        self.evicted = 0
        self._retired: list[Rows] = []
        #: called before rows are thrown away for the bound's sake
        self.before_loss: Callable[[], object] | None = None

    @property
    def is_turning_soon(self) -> bool:
        """The young generation holds more than four fifths of its half of the capacity."""
        return self.young_charge * 5 > self.capacity * 2

    def rows(self, db: int) -> Rows:
        """The young generation of ``db``; stays the same dict until the next ``put`` or ``clear``."""
        rows = self.young.get(db)
        if rows is None:
            rows = self.young[db] = {}
        return rows

    def get(self, db: int, key: bytes) -> Any:
        """The row, or None."""
        rows = self.young.get(db)
        if rows is not None:
            row = rows.get(key)
            if row is not None:
                self.hits += 1
                return row
        rows = self.old.get(db)
        if rows:
            row = rows.pop(key, None)
            if row is not None:
                self.hits += 1
                charge = charge_of(key, row)
                self.old_charge -= charge
                self._insert(db, key, row, charge)
                return row
        self.misses += 1
        return None

    def peek(self, db: int, key: bytes) -> Any:
        """The row without moving or counting anything."""
        row = self.young.get(db, {}).get(key)
        return row if row is not None else self.old.get(db, {}).get(key)

    def put(self, db: int, key: bytes, row: Any) -> None:
        """Insert or replace. May turn the generations over."""
        self.drop(db, key)
        self.add(db, key, row)

    def add(self, db: int, key: bytes, row: Any) -> None:
        """Insert a row whose key is not cached. May turn the generations over."""
        charge = charge_of(key, row)
        if charge <= self.capacity // 4:
            self._insert(db, key, row, charge)

    def replace(self, db: int, key: bytes, row: Any) -> None:
        """Replace a cached row; nothing when the key is not cached."""
        rows = self.young.get(db)
        if rows is not None:
            old = rows.get(key)
            if old is not None:
                charge = charge_of(key, row)
                if charge > self.capacity // 4:
                    self.drop(db, key)
                else:
                    rows[key] = row
                    self.grow(charge - charge_of(key, old))
                return
        if self.old.get(db):
            rows = self.old[db]
            if key in rows:
                self.put(db, key, row)

    def drop(self, db: int, key: bytes) -> None:
        """Forget a key."""
        rows = self.young.get(db)
        if rows is not None:
            row = rows.pop(key, None)
            if row is not None:
                self.young_charge -= charge_of(key, row)
                return
        rows = self.old.get(db)
        if rows:
            row = rows.pop(key, None)
            if row is not None:
                self.old_charge -= charge_of(key, row)

    def grow(self, delta: int) -> None:
        """The rows of the young generation grew by ``delta`` bytes in place."""
        self.young_charge += delta
        if self.young_charge * 2 > self.capacity:
            self._turn()

    def adjust(self, db: int, key: bytes, row: Any, delta: int) -> None:
        """A row object changed its size in place by ``delta`` bytes, whichever generation holds it."""
        row.charge += delta
        if self.young.get(db, _NO_ROWS).get(key) is row:
            self.grow(delta)
        elif self.old.get(db, _NO_ROWS).get(key) is row:
            self.old_charge += delta

    def clear(self, db: int) -> None:
        """Forget a database."""
        for rows, young in ((self.young.pop(db, None), True), (self.old.pop(db, None), False)):
            if rows:
                charge = sum(charge_of(key, row) for key, row in rows.items())
                if young:
                    self.young_charge -= charge
                else:
                    self.old_charge -= charge
                self._retired.append(rows)

    def clear_all(self) -> None:
        """Forget everything."""
        if self.before_loss is not None:
            self.before_loss()
        self._retired.extend(rows for rows in (*self.young.values(), *self.old.values()) if rows)
        self.young, self.old = {}, {}
        self.young_charge = self.old_charge = 0

    def resize(self, capacity: int) -> None:
        """A new bound in bytes."""
        self.capacity = capacity
        self.grow(0)

    def dispose(self) -> bool:
        """Free a slice of what was thrown away; True while there is more."""
        budget = _DISPOSE_PER_CALL
        while self._retired and budget > 0:
            rows = self._retired[-1]
            for _ in range(min(budget, len(rows))):
                rows.popitem()
                budget -= 1
            if not rows:
                self._retired.pop()
        return bool(self._retired)

    def _insert(self, db: int, key: bytes, row: Any, charge: int) -> None:
        rows = self.young.get(db)
        if rows is None:
            rows = self.young[db] = {}
        rows[key] = row
        self.young_charge += charge
        if self.young_charge * 2 > self.capacity:
            self._turn()

    def _turn(self) -> None:
        if self.before_loss is not None:
            self.before_loss()
        for rows in self.old.values():
            if rows:
                self.evicted += len(rows)
                self._retired.append(rows)
        self.old, self.young = self.young, {}
        self.old_charge, self.young_charge = self.young_charge, 0

    def entries(self) -> int:
        """Rows held."""
        return sum(len(rows) for rows in (*self.young.values(), *self.old.values()))

    def stats(self) -> dict[str, int]:
        """Bytes, entries and counters."""
        return {
            "bytes": self.young_charge + self.old_charge,
            "capacity": self.capacity,
            "entries": self.entries(),
            "hits": self.hits,
            "misses": self.misses,
            "evicted": self.evicted,
        }

    def check_invariants(self) -> None:
        """Charges are what a recount gives."""
        for generation, charge in ((self.young, self.young_charge), (self.old, self.old_charge)):
            counted = sum(charge_of(k, row) for rows in generation.values() for k, row in rows.items())
            assert counted == charge, (counted, charge)
        for db, rows in self.young.items():
            assert not rows.keys() & self.old.get(db, {}).keys()


def charge_of(key: bytes, row: Any) -> int:
    """Bytes that an entry costs, Python's overhead included."""
    if type(row) is bytes:
        return len(key) + len(row) + ENTRY_OVERHEAD
    return len(key) + int(row.charge) + ENTRY_OVERHEAD
