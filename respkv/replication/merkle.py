"""The hash tree over a node's leaf sums, and the data behind it, as anti-entropy asks for them.

Three levels above the records: 64 *leaves* a slot (``keyspace/leaf_rule`` says what they sum), the *root* of a slot,
xxh3_64 of its leaves (64 u64 little-endian, seed = slot), and 128 *group sums*, each the xxh3_64 of all leaves of those
slots of the group (slot // 128) that both sides own (the slots ascending, seed = group). Nothing above the leaves is
stored: the group sums of all slots cost about 2 ms, once per session.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import TYPE_CHECKING, Final

from xxhash import xxh3_64, xxh3_64_intdigest

from respkv.base.errors import ReadMiss
from respkv.base.slots import SLOT_COUNT
from respkv.causality.hlc import stamp_hlc
from respkv.keyspace import keys
from respkv.keyspace.leaf_rule import LEAF_BITS
from respkv.keyspace.leaf_walk import Listing, list_slot

if TYPE_CHECKING:
    from respkv.keyspace.floors import FlushFloors
    from respkv.keyspace.leaf_sums import LeafSums
    from respkv.storage.engine import Engine

GROUPS: Final = 128
_GROUP_BITS: Final = 7
_LEAF_BYTES: Final = 8 << LEAF_BITS

FloorRange = tuple[int, int, int, bytes]
RaiseFloor = Callable[[int, int, int, bytes], None]


def slot_root(cells: array[int], slot: int) -> int:
    """The root of one slot. 0.3 us where bytes are in the order that is summed."""
    if sys.byteorder == "big":
        words = cells[slot << LEAF_BITS : slot + 1 << LEAF_BITS]
        words.byteswap()
        return xxh3_64_intdigest(words.tobytes(), slot)
    return xxh3_64_intdigest(memoryview(cells).cast("B")[slot * _LEAF_BYTES : (slot + 1) * _LEAF_BYTES], slot)


def group_sums(cells: array[int], slots: Collection[int]) -> tuple[int, ...]:
    """The 128 sums over the leaves of ``slots``, which ascend. 0.3 us a slot, 0.1 where all are asked for."""
    if sys.byteorder == "big":
        cells = cells[:]
        cells.byteswap()
    leaves = memoryview(cells).cast("B")
    if len(slots) == SLOT_COUNT:
        size = len(leaves) // GROUPS
        return tuple(xxh3_64_intdigest(leaves[at * size : (at + 1) * size], at) for at in range(GROUPS))
    sums = [xxh3_64(seed=group) for group in range(GROUPS)]
    for slot in slots:
        sums[slot >> _GROUP_BITS].update(leaves[slot * _LEAF_BYTES : (slot + 1) * _LEAF_BYTES])
    return tuple(each.intdigest() for each in sums)


class MerkleStore:
    """A node's data as ``anti_entropy.Store``. ``raise_floor(db, first, last, stamp)`` is called for a flush floor that
    a peer knows and this node does not; it must clear what depends on it, and log it. ``observe(hlc)`` is called with
    the newest of them before any is raised; it raises ClockSkewError when the clock may not follow."""

    __slots__ = ("_engine", "_floors", "_observe", "_raise_floor", "sums")

    def __init__(
        self,
        engine: Engine,
        floors: FlushFloors,
        sums: LeafSums,
        raise_floor: RaiseFloor,
        observe: Callable[[int], None],
    ) -> None:
        self._engine = engine
        self._floors = floors
        self._raise_floor = raise_floor
        self._observe = observe
        self.sums = sums

    def ready(self) -> bool:
        """True when the sums describe all that is stored now."""
        return self.sums.is_exact()

    def group_sums(self, slots: Collection[int]) -> tuple[int, ...]:
        return group_sums(self.sums.cells, slots)

    def root(self, slot: int) -> int:
        return slot_root(self.sums.cells, slot)

    def leaves(self, slot: int) -> tuple[int, ...]:
        return self.sums.leaves(slot)

    def list_slot(self, slot: int, leaf: int | None, after: bytes, limit: int, expired_by_ms: int) -> Listing:
        """See ``keyspace.leaf_walk.list_slot``. May raise ReadMiss."""
        return list_slot(
            self._engine.scan,
            self._engine.get,
            self.sums.rule,
            slot,
            after=after,
            leaf=leaf,
            limit=limit,
            expired_by_ms=expired_by_ms,
        )

    def records(self, wanted: Sequence[bytes], limit_bytes: int) -> tuple[list[tuple[bytes, bytes]], int]:
        """See ``exchange.Store``."""
        found: list[tuple[bytes, bytes]] = []
        owners: dict[bytes, None] = {}
        size = 0
        for number, internal in enumerate(wanted):
            if size >= limit_bytes:
                return found, number
            try:
                pairs = list(self._one(internal))
                if internal[0] == keys.SPACE_ELEMENT:
                    owner = keys.element_owner(internal)[0]
                    if owner not in owners:
                        pairs = [*self._one(owner), *pairs]
                        owners[owner] = None
            except ReadMiss:
                if number:
                    return found, number
                raise
            found += pairs
            size += sum(len(key) + len(record) for key, record in pairs)
        return found, len(wanted)

    def _one(self, internal: bytes) -> Iterator[tuple[bytes, bytes]]:
        record = self._engine.get(internal)
        if record is not None and not self.sums.rule.flushed(internal, record):
            yield internal, record

    def floors(self) -> tuple[FloorRange, ...]:
        """All flush floors: (first slot, last slot, db, stamp)."""
        found: list[FloorRange] = []
        for db in self._floors.databases():
            body = self._floors.encode(db)
            for at in range(0, len(body), 14):
                first, last = int.from_bytes(body[at : at + 2], "big"), int.from_bytes(body[at + 2 : at + 4], "big")
                found.append((first, last, db, body[at + 4 : at + 14]))
        return tuple(found)

    def raise_floors(self, ranges: Sequence[FloorRange]) -> int:
        """Take over floors of a peer; how many were news. ClockSkewError, and none is taken over, when one of these is
        of a time that this node's clock does not permit."""
        floors = self._floors
        news = [row for row in ranges if any(floors.get(slot, row[2]) < row[3] for slot in range(row[0], row[1] + 1))]
        if news:
            self._observe(max(stamp_hlc(stamp) for _, _, _, stamp in news))
            for first, last, db, stamp in news:
                self._raise_floor(db, first, last, stamp)
            self.sums.forget()
        return len(news)

    def appended(self) -> int:
        """The log position of what is applied now."""
        return self._engine.commit()

    def durable(self) -> int:
        """The log position up to which everything is on disk."""
        return self._engine.durable_lsn
