"""The memtable: the newest records, in memory; the entries of exactly one log segment.

``table`` is a plain dict which the hot path writes directly: an insert costs a sixth of a sorted map's.
``derived`` holds index entries made from records; they are never logged and are made anew by
replay and flush.

``deferred`` holds keys (of one space) that were logged and not put into ``table``. A writer that keeps the newest
record of a key in memory anyway, and replaces a live record by a live one, may append the key there, since putting
it into a table of half a million entries costs as much as all the rest of a write, and flush reads the log. The
engine's ``held`` is how the record is found: ``Engine.get`` asks it first, and scans list all deferred keys, so
that nobody sees a difference. Before ``held`` forgets a record, the keys must be listed (``Engine.list_deferred``).

A retired memtable remembers which of its deferred keys were listed elsewhere (``listed``): with them, and what newer
memtables hold of them, its segment can be written again when that rots before its flush.

Invariants: both dicts only grow while the memtable is active (a delete is a tombstone), so the keys a
sorted view does not know yet are the last ones of its dict. A retired memtable never changes, until it is
disposed of piece by piece when its entries are in tables and no scan reads it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Final

from sortedcontainers import SortedList

#: What an entry costs in memory besides its bytes: dict slots, two object headers, allocator slack.
ENTRY_OVERHEAD: Final = 130
#: What a deferred key costs: its bytes and its place in the list. Its record is charged to whoever holds it.
DEFERRED_BYTES: Final = 80
_SCAN_CHUNK: Final = 256

#: ``held(key)``: the newest record of a deferred key, None if a memtable has it.
Held = Callable[[bytes], bytes | None]


class SortedView:
    """The sorted keys of a growing dict, brought up to date only when somebody scans."""

    __slots__ = ("_keys", "_source")

    def __init__(self, source: dict[bytes, bytes]) -> None:
        self._source = source
        self._keys: SortedList = SortedList()

    @property
    def behind(self) -> int:
        """Keys of the dict that are not in the view yet."""
        return len(self._source) - len(self._keys)

    def refresh(self, limit: int | None = None) -> int:
        """Take up new keys, at most ``limit`` of them, oldest first; how many remain.

        O(n log n) for n new keys; reaching them costs as many steps as keys are missing, not O(dict).
        """
        missing = len(self._source) - len(self._keys)
        if missing:
            newest_first = islice(reversed(self._source), missing)
            if limit is not None and limit < missing:
                newest_first = islice(newest_first, missing - limit, None)
                missing = limit
            self._keys.update(list(newest_first))
        return self.behind

    def chunk(self, start: bytes, end: bytes | None, inclusive: bool, limit: int) -> list[bytes]:
        """Up to ``limit`` keys from ``start`` (or after it, when not ``inclusive``) to before ``end``."""
        self.refresh()
        return list(islice(self._keys.irange(start, end, (inclusive, False)), limit))

    def check_invariants(self) -> None:
        assert all(key in self._source for key in self._keys)
        assert list(self._keys) == sorted(self._keys)


def defers(space: bytes, memtables: Iterable[Memtable]) -> bool:
    """Whether keys that begin with ``space`` wait to be listed."""
    return any(memtable.deferred and memtable.deferred[-1][:1] == space for memtable in memtables)


class Memtable:
    """Newest records by key. ``segment_id`` names the log segment that holds the same entries."""

    __slots__ = (
        "_derived_view",
        "_entry_bytes",
        "_entry_count",
        "_table_view",
        "deferred",
        "derived",
        "first_lsn",
        "last_lsn",
        "listed",
        "log_bytes",
        "meta",
        "pins",
        "segment_id",
        "table",
    )

    def __init__(self, segment_id: int, first_lsn: int) -> None:
        self.table: dict[bytes, bytes] = {}
        self.derived: dict[bytes, bytes] = {}
        self.deferred: list[bytes] = []
        #: deferred keys whose records went into a newer memtable's table, though only this one's segment need hold them
        self.listed: list[bytes] = []
        self.segment_id = segment_id
        self.first_lsn = first_lsn
        self.last_lsn = first_lsn - 1
        #: bytes written to the segment, once the memtable is retired
        self.log_bytes = 0
        #: meta values that say what its entries say, once it is retired: for the edit that puts its flush in force
        self.meta: dict[str, bytes] = {}
        self.pins = 0
        self._table_view: SortedView | None = None
        self._derived_view: SortedView | None = None
        self._entry_bytes = 0
        self._entry_count = 0

    def count_entries(self, entries: int, size: int) -> None:
        """Note that ``entries`` entries of ``size`` bytes in all were logged (not all of them new keys)."""
        self._entry_count += entries
        self._entry_bytes += size

    def charge(self) -> int:
        """Estimated bytes of memory: keys held times the mean entry. O(1).

        Overwriting a key does not grow it, but for a deferred one: that counts half a record each time, since the
        flush of the segment will hold it.
        """
        mean = self._entry_bytes // self._entry_count if self._entry_count else 0
        listed = len(self.table) * (ENTRY_OVERHEAD + mean) + len(self.derived) * (2 * ENTRY_OVERHEAD)
        return listed + len(self.deferred) * (DEFERRED_BYTES + mean // 2)

    def scan(self, start: bytes, end: bytes | None, *, derived: bool) -> Iterator[tuple[bytes, bytes]]:
        """The (key, record) pairs in key order; sees keys that are put ahead of it while it runs."""
        source = self.derived if derived else self.table
        if not source:
            return
        view = self._view(derived)
        self.pins += 1
        try:
            inclusive = True
            while True:
                keys = view.chunk(start, end, inclusive, _SCAN_CHUNK)
                for key in keys:
                    yield key, source[key]
                if len(keys) < _SCAN_CHUNK:
                    return
                start, inclusive = keys[-1], False
        finally:
            self.pins -= 1

    def prepare_scan(self, limit: int, *, derived: bool) -> int:
        """Bring the sorted view on by ``limit`` keys; how many are still missing. 1-2 us a key."""
        return self._view(derived).refresh(limit)

    def list_deferred(self, memtables: Sequence[Memtable], held: Held | None, limit: int) -> int:
        """List up to ``limit`` keys that ``memtables`` (this one and retired ones) deferred; how many are left.

        All go into this table, whichever segment they were logged to: what is held is the newest. 0.5-1 us a key.
        """
        table, left = self.table, 0
        for memtable in memtables:
            deferred = memtable.deferred
            if deferred and limit > 0:
                assert held is not None, "only who holds the records defers keys"
                part = deferred[-limit:]
                del deferred[-limit:]
                limit -= len(part)
                if memtable is not self:
                    memtable.listed += part
                for key in part:
                    record = held(key)
                    if record is not None:
                        table[key] = record
            left += len(deferred)
        return left

    def dispose(self, limit: int) -> int:
        """Throw away up to ``limit`` entries of a retired memtable; how many remain.

        Freeing half a million entries in one go is a pause of a tenth of a second.
        """
        self._table_view = self._derived_view = None
        del self.deferred[-limit:]
        del self.listed[-limit:]
        for source in (self.table, self.derived):
            for _ in range(min(limit, len(source))):
                source.popitem()
                limit -= 1
        return len(self.table) + len(self.derived) + len(self.deferred) + len(self.listed)

    def _view(self, derived: bool) -> SortedView:
        if derived:
            if self._derived_view is None:
                self._derived_view = SortedView(self.derived)
            return self._derived_view
        if self._table_view is None:
            self._table_view = SortedView(self.table)
        return self._table_view

    def check_invariants(self) -> None:
        assert self.pins >= 0
        assert self._entry_count >= 0 and self.charge() >= 0
        for view in (self._table_view, self._derived_view):
            if view is not None:
                view.check_invariants()

    def __repr__(self) -> str:
        return f"<Memtable segment={self.segment_id} keys={len(self.table)} charge={self.charge()}>"
