"""Key counts: how many live keys each (slot, database) holds, without reading old state at every write.

The counts describe the *runs*; each memtable adds its delta, new state minus the state below it. A memtable key is
either *noted* (its delta is in the sums; flips between live and dead are added as they happen) or *unsettled*
(it was put blind; nobody knows yet what it replaced). Settling walks the memtable in insertion order, reads what
lies below each unsettled key, and notes it. A memtable flushed before it was settled leaves the run counts inexact; a
``count`` job then walks the runs in a worker and makes them exact again.

The saved counts name the newest run they cover; after a crash between a flush and its saving the two
disagree and a recount is due. Reading the old record at each SET would cost as much as the SET itself.
"""

from __future__ import annotations

import base64
import json
from array import array
from collections import Counter
from collections.abc import Iterator
from itertools import compress, islice
from operator import add
from typing import TYPE_CHECKING, Any, Final

import lz4.block

from respkv.base.coding import pack_text, unpack_text
from respkv.base.errors import BlockRequest, ReadMiss
from respkv.base.slots import SLOT_COUNT
from respkv.causality.record import BODY_AT, HAS_EXPIRY, TYPE_MASK
from respkv.keyspace import keys
from respkv.keyspace.floors import FlushFloors

if TYPE_CHECKING:
    from respkv.keyspace.husks import Husks
    from respkv.storage.engine import Engine
    from respkv.storage.job_board import Job
    from respkv.storage.memtable import Memtable

META_NAME: Final = "key-counts"
#: Before sums in the form of ``pack_text``; what was saved earlier is base85, which has no such character.
_TEXT: Final = ":"
#: Keys of a memtable that are listed at once for the walk.
_LISTED_KEYS: Final = 20_000
#: Keys between two yields.
SETTLE_SLICE: Final = 500
SETTLE_LIMIT: Final = 100_000
#: Keys of a closed memtable whose past is looked up, so many at once: each takes 3 to 15 us.
SAMPLE_KEYS: Final = 100
SAMPLED_AT_ONCE: Final = 20
#: A flush notes the keys of a memtable of this size at most one by one.
_NOTED_AT_FLUSH: Final = 50_000

#: States of a key: bit 0 lives, bit 1 has an expiry.
DEAD: Final = 0
LIVE: Final = 1
EXPIRING: Final = 3
_WITH_EXPIRY: Final = 2
#: Sums of keys with an expiry stand beside those of all keys, under their database's number plus this.
EXPIRING_SUMS: Final = 1 << 16
#: From so many cells on that change it is cheaper to add whole rows.
_MANY_CELLS: Final = SLOT_COUNT // 8

Sums = dict[int, "array[int]"]


def add_to(sums: Sums, db: int, slot: int, change: int) -> None:
    """Add to one cell, making the database's row when it is the first."""
    cells = sums.get(db)
    if cells is None:
        cells = sums[db] = array("q", bytes(8 * SLOT_COUNT))
    cells[slot] += change


def add_row(sums: Sums, db: int, row: array[int]) -> None:
    """Add a whole row of cells; 0.2 to 0.7 ms."""
    changed = list(compress(range(SLOT_COUNT), row))
    cells = sums.get(db)
    if cells is None:
        if changed:
            sums[db] = array("q", row)
    elif len(changed) > _MANY_CELLS:
        sums[db] = array("q", map(add, cells, row))
    else:
        for slot in changed:
            cells[slot] += row[slot]


def state_of(floors: FlushFloors, internal: bytes, record: bytes | None) -> int:
    """DEAD (absent, tombstone, expired by put, flushed), LIVE, or EXPIRING: live with an expiry."""
    if record is None or not record[0] & TYPE_MASK:
        return DEAD
    stamp = record[1:BODY_AT]
    if stamp <= floors.highest and floors.hides(keys.key_slot(internal), keys.key_db(internal), stamp):
        return DEAD
    return EXPIRING if record[0] & HAS_EXPIRY else LIVE


def shift(sums: Sums, internal: bytes, old: int, new: int) -> None:
    """A key goes from one state to another."""
    if old != new:
        db, slot = keys.key_db(internal), keys.key_slot(internal)
        if (old ^ new) & LIVE:
            add_to(sums, db, slot, (new & LIVE) - (old & LIVE))
        if (old ^ new) & _WITH_EXPIRY:
            add_to(sums, db | EXPIRING_SUMS, slot, 1 if new & _WITH_EXPIRY else -1)


class MemtableDelta:
    """What one memtable adds to the counts of the data below it."""

    __slots__ = (
        "_listed", "_listed_at", "added", "closed_at", "estimate", "live", "memtable", "noted", "sampled", "walked"
    )  # fmt: skip

    def __init__(self, memtable: Memtable) -> None:
        self.memtable = memtable
        self.live: Sums = {}
        self.noted: dict[bytes, None] = {}
        #: how many of the memtable's keys, in insertion order, the settling walk has passed
        self.walked = 0
        #: keys of the memtable from ``_listed_at`` on
        self._listed: list[bytes] = []
        self._listed_at = 0
        #: how many keys the memtable had when it was closed; it is emptied piece by piece once flushed
        self.closed_at: int | None = None
        #: what an unsettled key is expected to add, per database; from a sample that grows once the memtable is closed
        self.estimate: dict[int, float] = {}
        #: the sample: how many keys, counted from the end, were looked at, and what those added to each sum
        self.sampled = 0
        self.added: Counter[int] = Counter()

    def next_keys(self, count: int) -> list[bytes]:
        """Up to ``count`` keys where the walk stands.

        They are listed in long pieces: a dict cannot be entered in its middle, each piece passes over all before it.
        """
        at = self.walked - self._listed_at
        if not 0 <= at < len(self._listed):
            table, rest = self.memtable.table, len(self.memtable.table) - self.walked
            if rest > _LISTED_KEYS:
                self._listed = list(islice(table, self.walked, self.walked + _LISTED_KEYS))
            else:
                self._listed = list(islice(reversed(table), max(rest, 0)))[::-1]
            self._listed_at, at = self.walked, 0
        return self._listed[at : at + count]

    def unsettled(self) -> int:
        """Keys that the walk has not passed."""
        return (len(self.memtable.table) if self.closed_at is None else self.closed_at) - self.walked

    def settled(self) -> bool:
        """True when every key of the memtable is in the sums."""
        return self.unsettled() <= 0


class KeyCounts:
    """The counts of one node. ``follow`` must be called whenever the engine may have rotated or flushed.

    The sums are of records; ``husks``, if there are any, are records that are no keys.
    """

    __slots__ = (
        "_floors_changed", "_job_covers", "_save_due", "active", "engine", "exact", "floors", "husks", "older", "runs"
    )  # fmt: skip

    def __init__(self, engine: Engine, floors: FlushFloors) -> None:
        self.engine = engine
        self.floors = floors
        self.husks: Husks | None = None
        self.runs: Sums = {}
        self.active = MemtableDelta(engine.memtable)
        self.older: list[MemtableDelta] = []
        #: False while a flushed memtable was not settled, or saved counts do not fit the runs
        self.exact = True
        #: databases flushed since the running job began, and whether all that it walks over is dead by that
        self._floors_changed: dict[int, bool] = {}
        self._save_due = False
        #: the newest run that the running job covers
        self._job_covers = 0

    # -- the writer's side -------------------------------------------------------------------------

    def note(self, internal: bytes, old: int, new: int) -> None:
        """A write whose old state was read is about to replace it; call before the put."""
        delta = self.active
        if internal not in delta.noted:
            if internal in delta.memtable.table:
                return  # unsettled: the walk will see its final state
            delta.noted[internal] = None
        shift(delta.live, internal, old, new)

    def replaced(self, internal: bytes, old: bytes, new: int) -> None:
        """A blind put found the record ``old`` of its key in the active memtable; call before the put."""
        if self.husks:
            self.husks.discard(internal)
        if internal in self.active.noted:
            shift(self.active.live, internal, state_of(self.floors, internal, old), new)

    def flushed(self, db: int) -> None:
        """The floor of a whole stored database was raised: nothing in it is live any more."""
        for number in (db, db | EXPIRING_SUMS):
            self.runs.pop(number, None)
            for delta in (*self.older, self.active):
                delta.live.pop(number, None)
                delta.estimate.pop(number, None)
                delta.added.pop(number, None)
        for delta in (*self.older, self.active):
            table = delta.memtable.table
            if len(table) <= _NOTED_AT_FLUSH:
                # Dead, over dead: what there is of the database adds nothing and is settled by that.
                for key in table:
                    if key[0] == keys.SPACE_RECORD and keys.key_db(key) == db:
                        delta.noted[key] = None
            else:
                for internal in [key for key in delta.noted if keys.key_db(key) == db]:
                    del delta.noted[internal]
                delta.walked = 0  # the freed keys are unsettled again; noted ones are skipped
        self._floors_changed[db] = True

    def partly_flushed(self, db: int, *, runs_dead: bool) -> None:
        """A floor of a stored database was raised beside data newer than it: what is left is counted anew.

        ``runs_dead``: all that is newer is in memtables, which are settled again; else the runs are to be walked.
        """
        if runs_dead:
            for number in (db, db | EXPIRING_SUMS):
                self.runs.pop(number, None)
        else:
            self.exact = False
        for delta in (*self.older, self.active):
            for number in (db, db | EXPIRING_SUMS):
                delta.live.pop(number, None)
                delta.estimate.pop(number, None)
                delta.added.pop(number, None)
            for internal in [key for key in delta.noted if keys.key_db(key) == db]:
                del delta.noted[internal]
            delta.walked = 0
        self._floors_changed[db] = runs_dead and self._floors_changed.get(db, True)

    # -- following the engine ----------------------------------------------------------------------

    def follow(self) -> None:
        """Notice rotations and finished flushes of the engine. O(memtables)."""
        engine = self.engine
        if engine.memtable is not self.active.memtable:
            self.active.closed_at = len(self.active.memtable.table)
            self._sample(self.active)
            self.older.append(self.active)
            self.active = MemtableDelta(engine.memtable)
        if self.older:
            waiting = {id(memtable) for memtable in engine.immutables}
            while self.older and id(self.older[0].memtable) not in waiting:
                self._fold(self.older.pop(0))

    def _fold(self, delta: MemtableDelta) -> None:
        if not delta.settled():
            self.exact = False
        for db, cells in delta.live.items():
            add_row(self.runs, db, cells)
        for db, expected in delta.estimate.items():
            add_to(self.runs, db, 0, int(expected * delta.unsettled()))
        self._save_due = True

    def sample(self) -> None:
        """Make the estimate for the memtable closed last a little better; for now and then, after ``follow``."""
        if self.older and self.older[-1].sampled < SAMPLE_KEYS and not self.older[-1].settled():
            self._sample(self.older[-1])

    def _sample(self, delta: MemtableDelta) -> None:
        """Look at some more unsettled keys of a closed memtable, from its end, which is settled last."""
        table, rest = delta.memtable.table, max(0, delta.unsettled())
        begin, until = delta.sampled, min(delta.sampled + SAMPLED_AT_ONCE, SAMPLE_KEYS, rest)
        for internal in islice(reversed(table), begin, until):
            if internal[0] == keys.SPACE_RECORD and internal not in delta.noted:
                new = state_of(self.floors, internal, table[internal])
                try:
                    old = state_of(self.floors, internal, self.engine.get_below(delta.memtable, internal))
                except ReadMiss:
                    old = new | LIVE  # A filter says that it is there.
                db = keys.key_db(internal)
                delta.added[db] += (new & LIVE) - (old & LIVE)
                delta.added[db | EXPIRING_SUMS] += (new & _WITH_EXPIRY) // 2 - (old & _WITH_EXPIRY) // 2
            delta.sampled += 1
        if delta.sampled:
            delta.estimate = {db: added / delta.sampled for db, added in delta.added.items()}
        elif rest > 0:  # Nothing could be looked at: what has been settled says something, too.
            delta.estimate = {db: sum(cells) / max(1, len(delta.noted)) for db, cells in delta.live.items()}

    # -- settling ----------------------------------------------------------------------------------

    def unsettled(self) -> int:
        """Memtable keys of which it is unknown what they replaced."""
        return sum(delta.unsettled() for delta in (*self.older, self.active))

    def settle(
        self, limit: int = SETTLE_LIMIT, slice_keys: int = SETTLE_SLICE
    ) -> Iterator[BlockRequest | None]:
        """Settle up to ``limit`` memtable keys, oldest memtable first. Yields None after each slice, or a block
        that must be fetched before the next."""
        budget = limit
        for delta in (*self.older, self.active):
            while budget > 0 and not delta.settled():
                before = delta.walked
                try:
                    yield from self._settle(delta, min(budget, slice_keys))
                except ReadMiss as miss:
                    yield miss.request
                    continue
                if delta.walked == before:
                    break  # flushed and emptied meanwhile
                budget -= delta.walked - before
            if delta.settled():
                delta.estimate.clear()

    def _settle(self, delta: MemtableDelta, count: int) -> Iterator[None]:
        table = delta.memtable.table
        below = self.engine.get_below
        for internal in delta.next_keys(count):
            record = table.get(internal)
            if record is None:
                return  # flushed and being emptied
            if internal[0] == keys.SPACE_RECORD and internal not in delta.noted:
                old = state_of(self.floors, internal, below(delta.memtable, internal))
                shift(delta.live, internal, old, state_of(self.floors, internal, record))
                delta.noted[internal] = None
            delta.walked += 1
        yield None

    # -- answers -----------------------------------------------------------------------------------

    def total(self, db: int) -> int:
        """Live keys of a stored database: exact when ``is_exact``, else the best estimate."""
        husks = self.husks.number(db) if self.husks else 0
        return max(0, self._records(db) - husks)

    def _records(self, db: int) -> int:
        total = 0
        for sums in (self.runs, *(d.live for d in self.older), self.active.live):
            cells = sums.get(db)
            if cells is not None:
                total += sum(cells)
        for delta in self.older:
            total += int(delta.estimate.get(db, 0) * delta.unsettled())
        rest = self.active.unsettled()
        if rest > 0 and self.active.noted and db in self.active.live:
            total += sum(self.active.live[db]) * rest // len(self.active.noted)
        return max(0, total)

    def total_in(self, db: int, slots: bytes | bytearray) -> int:
        """``total`` of the slots whose byte is 1. What is estimated is taken to be spread evenly. O(slots)."""
        exact = wanted = 0
        for sums in (self.runs, *(d.live for d in self.older), self.active.live):
            cells = sums.get(db)
            if cells is not None:
                exact += sum(cells)
                wanted += sum(compress(cells, slots))
        husks = self.husks.number(db, slots) if self.husks else 0
        return max(0, wanted + (self._records(db) - exact) * sum(slots) // SLOT_COUNT - husks)

    def expiring(self, db: int, slots: bytes | bytearray | None = None) -> int:
        """Live keys of a stored database, or of some of its slots, that have an expiry; as exact as ``total``."""
        if slots is not None:
            return self.total_in(db | EXPIRING_SUMS, slots)
        return self.total(db | EXPIRING_SUMS)

    def in_slot(self, db: int, slot: int) -> int:
        """Live keys of one slot of a stored database."""
        total = 0
        for sums in (self.runs, *(d.live for d in self.older), self.active.live):
            cells = sums.get(db)
            if cells is not None:
                total += cells[slot]
        if self.husks:
            total -= self.husks.number_in(db, slot)
        return max(0, total)

    def is_exact(self) -> bool:
        """True when ``total`` is exact."""
        return self.exact and self.unsettled() == 0

    # -- saving and recounting ---------------------------------------------------------------------

    def load(self) -> None:
        """Take the saved counts over; they are inexact unless they cover just the runs that were found."""
        saved = self.engine.meta(META_NAME)
        if saved is None:
            self.exact = self.engine.newest_run() == 0
        else:
            data = json.loads(saved)
            self.runs = unpack_sums(data["live"])
            for db in self.floors.databases():
                if self.floors.encode(db).hex() != data["floors"].get(str(db)):
                    # Flushed since: all that the saved counts cover is gone.
                    self.runs.pop(db, None)
                    self.runs.pop(db | EXPIRING_SUMS, None)
            self.exact = bool(data["exact"]) and data["covers"] == self.engine.newest_run()
            if not self.floors.cover(FlushFloors.from_plain(data["floors"])):
                self.exact = False  # A crash has undone a flush that was counted with.
        self.active = MemtableDelta(self.engine.memtable)
        self.older = [MemtableDelta(memtable) for memtable in reversed(self.engine.immutables)]

    def save_if_due(self) -> None:
        """Put the run counts into a manifest edit of their own. About 1 ms, after a flush or a recount."""
        if self._save_due:
            self._save_due = False
            data = {
                "covers": self.engine.newest_run(),
                "exact": self.exact,
                "floors": self.floors.plain(),
                "live": pack_sums(self.runs),
            }
            self.engine.set_meta(META_NAME, json.dumps(data).encode())
            self.engine.save_meta()

    def next_job(self) -> Job | None:
        """A recount of all runs when the run counts are inexact and none is under way."""
        if self.exact:
            return None
        job = self.engine.start_count({"floors": self.floors.plain()})
        if job is not None:
            self._floors_changed.clear()
            self._job_covers = self.engine.newest_run()
        return job

    def on_job_done(self, job_id: int, result: dict[str, Any]) -> None:
        """Install a recount, unless runs were added since it began: then it is to be done again."""
        self.engine.end_count(job_id, failed=False)
        if self.engine.newest_run() != self._job_covers:
            return
        self.runs = unpack_sums(result["live"])
        for db in self._floors_changed:
            self.runs.pop(db, None)
            self.runs.pop(db | EXPIRING_SUMS, None)
        self.exact = all(self._floors_changed.values())
        self._save_due = True

    def on_job_failed(self, job_id: int, reason: str = "") -> None:
        """Try again later, unless the ``reason`` names a damaged table: then when that has gone."""
        self.engine.end_count(job_id, failed=True, reason=reason)

    def check_invariants(self) -> None:
        """The noted keys are keys of their memtables."""
        for delta in (*self.older, self.active):
            assert delta.noted.keys() <= delta.memtable.table.keys()


def pack_sums(sums: Sums) -> dict[str, str]:
    return {
        str(db): _TEXT + pack_text(cells.tobytes())
        for db, cells in sums.items()
        if any(cells)
    }


def unpack_sums(data: dict[str, str]) -> Sums:
    sums: Sums = {}
    for db, text in data.items():
        cells = array("q")
        if text.startswith(_TEXT):
            cells.frombytes(unpack_text(text[len(_TEXT) :]))
        else:  # Saved before there was another form.
            cells.frombytes(lz4.block.decompress(base64.b85decode(text)))
        sums[int(db)] = cells
    return sums

