"""Flush floors: FLUSHDB and FLUSHALL without touching a key.

A floor is one stamp per (slot, database). A record or element whose stamp is at or below it is absent: for reads,
merges and compaction. Floors only grow and are never removed. They are kept as short lists of slot ranges
per database, each list one record of local meta.

Body of such a record: repeated ``first u16be | last u16be | stamp 10``.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Final

from respkv.base.slots import SLOT_COUNT
from respkv.causality.hlc import STAMP_BYTES, ZERO_STAMP

_ENTRY_BYTES: Final = 4 + STAMP_BYTES
META_PREFIX: Final = b"floor"

Range = tuple[int, int, bytes]


class FlushFloors:
    """Stamp at or below which data of a (slot, db) is absent.

    ``highest`` is the greatest floor of all: a newer stamp needs no look at the table.
    """

    __slots__ = ("_ranges", "highest")

    def __init__(self) -> None:
        self._ranges: dict[int, list[Range]] = {}
        self.highest = ZERO_STAMP

    def get(self, slot: int, db: int) -> bytes:
        """The floor of one slot, ZERO_STAMP where nothing was flushed. O(ranges), nearly always one."""
        for first, last, stamp in self._ranges.get(db, ()):
            if first <= slot <= last:
                return stamp
        return ZERO_STAMP

    def hides(self, slot: int, db: int, stamp: bytes) -> bool:
        """True when data under ``stamp`` is absent."""
        return stamp <= self.highest and stamp <= self.get(slot, db)

    def raise_to(self, db: int, first: int, last: int, stamp: bytes) -> None:
        """Merge by max: slots ``first..last`` of ``db`` get at least ``stamp``."""
        edges = {0, SLOT_COUNT, first, last + 1}
        old = self._ranges.get(db, [])
        for low, high, _ in old:
            edges.update((low, high + 1))
        merged: list[Range] = []
        points = sorted(edges)
        for low, end in pairwise(points):
            floor = self.get(low, db)
            if first <= low <= last and stamp > floor:
                floor = stamp
            if floor == ZERO_STAMP:
                continue
            if merged and merged[-1][1] == low - 1 and merged[-1][2] == floor:
                merged[-1] = (merged[-1][0], end - 1, floor)
            else:
                merged.append((low, end - 1, floor))
        self._ranges[db] = merged
        if stamp > self.highest:
            self.highest = stamp

    def encode(self, db: int) -> bytes:
        """The body of the local-meta record of ``db``."""
        return b"".join(
            first.to_bytes(2, "big") + last.to_bytes(2, "big") + stamp
            for first, last, stamp in self._ranges.get(db, ())
        )

    def decode(self, db: int, body: bytes) -> None:
        """Merge a stored body in."""
        for at in range(0, len(body), _ENTRY_BYTES):
            self.raise_to(
                db,
                int.from_bytes(body[at : at + 2], "big"),
                int.from_bytes(body[at + 2 : at + 4], "big"),
                body[at + 4 : at + _ENTRY_BYTES],
            )

    def databases(self) -> list[int]:
        """Databases that were ever flushed."""
        return sorted(self._ranges)

    def plain(self) -> dict[str, str]:
        """As JSON-able data, for jobs of other processes."""
        return {str(db): self.encode(db).hex() for db in self.databases()}

    @classmethod
    def from_plain(cls, data: dict[str, str]) -> FlushFloors:
        """The reverse of ``plain``."""
        floors = cls()
        for db, body in data.items():
            floors.decode(int(db), bytes.fromhex(body))
        return floors

    def cover(self, other: FlushFloors) -> bool:
        """Whether everything that ``other`` hides is hidden here. O(ranges)."""
        both = FlushFloors.from_plain(self.plain())
        for db, body in other.plain().items():
            both.decode(int(db), bytes.fromhex(body))
        return both.plain() == self.plain()


class DurableFloors:
    """The floors that no crash undoes: what they hide may be dropped for good."""

    __slots__ = ("_floors", "_lsn", "_waiting", "known")

    def __init__(self, floors: FlushFloors) -> None:
        self._floors = floors
        #: floors seen that are to be durable with the commit ``_lsn``
        self._waiting: dict[str, str] | None = None
        self._lsn = 0
        #: what was durable at the last look
        self.known = FlushFloors()

    def look(self, written_lsn: int, durable_lsn: int) -> None:
        """Learn what has become durable. ``written_lsn``: the commit, made or to come, that covers all floors of now.
        O(ranges)."""
        if self._waiting is None:
            floors = self._floors.plain()
            if floors == self.known.plain():
                return
            self._waiting, self._lsn = floors, written_lsn
        if durable_lsn >= self._lsn:
            self.known, self._waiting = FlushFloors.from_plain(self._waiting), None
