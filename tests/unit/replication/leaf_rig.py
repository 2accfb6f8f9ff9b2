"""A node's keyspace with leaf sums over a simulated disk, and the sums as a naive program would make them."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Mapping
from typing import Any

from xxhash import xxh3_64_digest, xxh3_64_intdigest

from respkv.base.errors import ReadMiss
from respkv.causality.hlc import ZERO_STAMP
from respkv.keyspace import keys, retention
from respkv.keyspace.leaf_rule import CELLS
from respkv.keyspace.leaf_sums import LeafSums
from respkv.keyspace.leaf_walk import walk_job
from respkv.storage.jobs import no_pause
from tests.unit.keyspace.rig import Rig


class LeafRig(Rig):
    """``wrote`` can be switched off, which is a planted bug."""

    leaf: LeafSums
    tell = True
    #: how many keys the next commit finds settled while its batch is open: duties run in the middle of a cycle
    early: Callable[[], int] | None = None
    defers = False
    #: compaction drops graves below this stamp, which no slot's watermark may lie below
    purged = ZERO_STAMP

    def open(self) -> None:
        super().open()
        self.leaf = LeafSums(self.engine, self.keyspace.floors)

    def retention(self) -> dict[str, Any]:
        return retention.plain(
            self.keyspace.floors, expired_through_ms=self.expired_durable_ms, purge_below=self.purged
        )

    def commit(self) -> None:
        if self.early is not None and self.engine.batch:
            self.settle(self.early())
        if self.tell:
            self.leaf.wrote(self.engine.batch)
        super().commit()
        self.leaf.follow()

    def flush(self) -> None:
        self.commit()
        super().flush()
        self.leaf.follow()

    def rotate(self) -> None:
        """Retire the memtable without flushing it."""
        self.commit()
        self.engine.rotate()
        self.keyspace.counts.follow()
        self.leaf.follow()

    def settle(self, limit: int = 100_000) -> None:
        """Settle memtables, walking the runs first if that is due."""
        self.leaf.follow()
        job = self.leaf.next_job()
        if job is not None:
            self.leaf.on_job_done(job.id, walk_job(self.fs, job.spec, no_pause))
        for request in self.leaf.settle(limit):
            if request is not None:
                request.install(request.read())

    def purge_through(self, hlc: int, slots: list[int]) -> None:
        self.raise_marks(dict.fromkeys(slots, hlc))

    def raise_marks(self, marks: Mapping[int, int]) -> None:
        """The purge watermarks are these now, where they were lower."""
        held = self.leaf.rule.marks
        grown = {slot: mark for slot, mark in marks.items() if mark > held[slot]}
        for slot, mark in grown.items():
            held[slot] = mark
        self.leaf.advance(grown)

    def restart(self, *, crash: bool = False) -> None:
        marks = self.leaf.rule.marks
        super().restart(crash=crash)
        self.raise_marks(dict(enumerate(marks)))

    def put(self, internal: bytes, record: bytes) -> None:
        """A record as a replica writes it."""
        self.engine.put(internal, record)
        for entry in keys.derive(internal, record):
            self.engine.put_derived(*entry)
            if int.from_bytes(record[11:19], "big") <= self.keyspace.expired_through_ms:
                self.keyspace.sighted[internal] = None  # the duty has passed that time and will not look back

    def expire(self, limit: int = 7) -> int:
        while (request := self.expiry.sighted()) is not None:
            request.install(request.read())
        return super().expire(limit)

    def wrong_cells(self) -> list[int]:
        """Numbers of the cells that are not those of `naive`.

        Tests compare by this: a failing ``==`` of two arrays of a million makes pytest look for their differences
        line by line, which takes hours.
        """
        cells, naive = self.leaf.cells, self.naive()
        if cells == naive:
            return []
        return [cell for cell, (kept, right) in enumerate(zip(cells, naive)) if kept != right]

    def naive(self) -> array[int]:
        """All sums from all records, by the words of the rule."""
        stored: dict[bytes, bytes] = {}
        for space in (1, 2):
            stored.update(self.driver.scan(bytes((space,)), bytes((space + 1,))))
        cells = array("Q", bytes(8 * CELLS))
        for internal, record in stored.items():
            slot, db = int.from_bytes(internal[1:3], "big"), int.from_bytes(internal[3:5], "big")
            stamp = record[1:11]
            if stamp <= self.keyspace.floors.get(slot, db):
                continue
            if record[0] & 15 == 0 and int.from_bytes(stamp[:8], "big") < self.leaf.rule.marks[slot]:
                continue
            if internal[0] == 2:
                owner = stored.get(keys.element_owner(internal)[0])
                if owner is None or owner[1:11] <= self.keyspace.floors.get(slot, db) or owner[0] & 15 < 2:
                    continue
                body = owner[19:] if owner[0] & 16 else owner[11:]
                if stamp <= body[:10]:
                    continue
            digest = bytes((record[0] & 0xF0,)) + stamp
            if record[0] & 16:
                digest += record[11:19]
            elif record[0] & 15 >= 2:
                digest += xxh3_64_digest(record[11:])
            key_hash = xxh3_64_intdigest(internal)
            cell = slot * 64 + key_hash % 64
            cells[cell] = (cells[cell] + xxh3_64_intdigest(digest, key_hash)) % 2**64
        return cells

    def serve_listing(self, read: Any) -> Any:
        while True:
            try:
                return read()
            except ReadMiss as miss:
                miss.request.install(miss.request.read())
