"""The block cache: verified, decompressed blocks of all tables, bounded in bytes.

Each open table has a ``CachedBlocks``, its part of the cache: a dict by block number that the reader asks
directly, and one byte per block that a hit sets. Eviction is CLOCK (second chance; Corbato 1968): blocks
stand in a ring in order of arrival; the hand clears the byte of a block that was used since and sends it to
the end, and drops one that was not. A hit thus costs one store instead of moving a list node.

A full cache admits only one in ``ADMIT_EVERY`` blocks that came from the system's page cache, and none over a
quarter of its capacity: what is asked for often gets in soon, while reads spread over more than fits
do not pay for an insert and an eviction each.

Blocks that somebody waited for (``pin``) are safe from the hand for a while, or a reader that needs several
blocks could lose the first while it waits for the last, for ever. They may exceed the capacity by
``PINNED_BYTES`` at most.

Invariants: the charge is the sum over blocks held, including those of dropped tables that are not freed yet;
work per insert is bounded (``STEPS_PER_INSERT``), also the freeing of dropped tables.
"""

from __future__ import annotations

from collections import deque
from typing import Final

#: Python's cost of a cached block beside its payload: object headers, dict and ring entries.
BLOCK_OVERHEAD: Final = 180
#: How much may be pinned, whatever the capacity.
PINNED_BYTES: Final = 4 << 20
STEPS_PER_INSERT: Final = 32
#: Of the blocks read while the cache is full, one in so many is kept.
ADMIT_EVERY: Final = 4


class CachedBlocks:
    """The cached blocks of one table. ``used[n]`` is 1 when block n was asked for since the hand passed."""

    __slots__ = ("blocks", "file_id", "hits", "used")

    def __init__(self, file_id: int, block_count: int) -> None:
        self.file_id = file_id
        self.blocks: dict[int, bytes] = {}
        self.used = bytearray(block_count)
        self.hits = 0


class BlockCache:
    """Blocks of all open tables, ``capacity_bytes`` in all. For the loop's thread, but for ``open_file``."""

    __slots__ = (
        "_charge",
        "_count",
        "_dropped",
        "_files",
        "_past_hits",
        "_pinned",
        "_pinned_bytes",
        "_ring",
        "capacity_bytes",
        "evictions",
        "misses",
    )

    def __init__(self, capacity_bytes: int) -> None:
        self.capacity_bytes = capacity_bytes
        self.misses = 0
        self.evictions = 0
        self._files: dict[int, CachedBlocks] = {}
        self._dropped: list[CachedBlocks] = []
        self._ring: deque[int] = deque()  # file id << 32 | block number; integers cost the collector nothing
        self._pinned: deque[tuple[int, int]] = deque()  # place, charge
        self._pinned_bytes = 0
        self._charge = 0
        self._count = 0
        self._past_hits = 0

    def open_file(self, file_id: int, block_count: int) -> CachedBlocks:
        """The part of the cache that belongs to a table which is being opened; an older one is dropped."""
        blocks = CachedBlocks(file_id, block_count)
        if file_id in self._files:
            self.drop_file(file_id)
        self._files[file_id] = blocks
        return blocks

    def drop_file(self, file_id: int) -> None:
        """Forget a table. Its blocks are freed by and by, since freeing thousands at once is a pause."""
        blocks = self._files.pop(file_id, None)
        if blocks is not None:
            self._past_hits += blocks.hits
            if blocks.blocks:
                self._dropped.append(blocks)

    def put(self, cached: CachedBlocks, number: int, block: bytes, *, pin: bool = False) -> None:  # HOT: table_get
        """Keep ``block``, which was not there; nothing when the table was dropped or it is there by now.

        ``pin`` keeps it for the readers that waited for it: until ``PINNED_BYTES`` more were pinned.
        """
        blocks = cached.blocks
        file_id = cached.file_id
        if number in blocks or self._files.get(file_id) is not cached:
            return
        charge = len(block) + BLOCK_OVERHEAD
        if pin:
            self._pinned.append((file_id << 32 | number, charge))
            self._pinned_bytes += charge
            while self._pinned_bytes > PINNED_BYTES and len(self._pinned) > 1:
                oldest, released = self._pinned.popleft()
                self._pinned_bytes -= released
                self._ring.append(oldest)
        else:
            misses = self.misses = self.misses + 1
            capacity = self.capacity_bytes
            if self._charge + charge > capacity and (misses % ADMIT_EVERY or charge > capacity >> 2):
                return
            self._ring.append(file_id << 32 | number)
        blocks[number] = block
        cached.used[number] = 0
        self._count += 1
        self._charge += charge
        if self._charge > self.capacity_bytes:
            self._make_room()

    def _make_room(self) -> None:  # HOT: table_get
        """Free blocks until the charge fits, in bounded time; in the second half without second chances."""
        ring, files, capacity = self._ring, self._files, self.capacity_bytes
        steps = STEPS_PER_INSERT
        while self._charge > capacity and steps:
            steps -= 1
            if self._dropped:
                self._free_dropped()
                continue
            if not ring:
                return
            place = ring.popleft()
            cached = files.get(place >> 32)
            number = place & 0xFFFFFFFF
            if cached is None:
                continue  # its table was dropped
            if cached.used[number] and steps >= STEPS_PER_INSERT // 2:
                cached.used[number] = 0
                ring.append(place)
                continue
            block = cached.blocks.pop(number, None)
            if block is not None:  # else its table was dropped and opened again
                self._charge -= len(block) + BLOCK_OVERHEAD
                self._count -= 1
                self.evictions += 1

    def _free_dropped(self) -> None:
        """Free one block of the table that was dropped last."""
        blocks = self._dropped[-1].blocks
        _, block = blocks.popitem()
        self._charge -= len(block) + BLOCK_OVERHEAD
        self._count -= 1
        if not blocks:
            self._dropped.pop()

    def stats(self) -> dict[str, int]:
        """Blocks and bytes held (overhead included) and counts since the start. O(open tables)."""
        return {
            "block_cache_blocks": self._count,
            "block_cache_bytes": self._charge,
            "block_cache_capacity_bytes": self.capacity_bytes,
            "block_cache_pinned_bytes": self._pinned_bytes,
            "block_cache_hits": self._past_hits + sum(cached.hits for cached in self._files.values()),
            "block_cache_misses": self.misses,
            "block_cache_evictions": self.evictions,
        }

    def check_invariants(self) -> None:
        held = [*self._files.values(), *self._dropped]
        assert self._count == sum(len(cached.blocks) for cached in held)
        assert self._charge == sum(len(block) + BLOCK_OVERHEAD for cached in held for block in cached.blocks.values())
        assert self._pinned_bytes == sum(charge for _, charge in self._pinned)
        assert all(cached.blocks for cached in self._dropped)
        reachable = {*self._ring, *(place for place, _ in self._pinned)}
        for cached in self._files.values():
            for number in cached.blocks:
                assert cached.file_id << 32 | number in reachable, "a block the hand never meets"

    def __repr__(self) -> str:
        return f"<BlockCache blocks={self._count} bytes={self._charge}/{self.capacity_bytes}>"
