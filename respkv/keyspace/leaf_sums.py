"""Leaf sums: what a slot holds, in 64 numbers, without paying for it at the write.

``cells`` (16384 x 64 u64, 8 MiB) follows the rule of ``leaf_rule`` for everything stored up to now, except the keys
that are still *dirty*: written, and not settled. Settling a key takes the term of what lies below its memtable
out, once, and puts the term of its present record in; ``noted`` remembers what the key adds, so that a further write
costs one comparison. ``wrote`` is told of every batch before its commit and only keeps the keys: a C loop.

A memtable that is flushed while some of its keys are dirty leaves the sums inexact: they start anew with a walk
over all runs in a worker (``leaf_walk``). So do a FLUSHDB and a start without saved sums.

When a collection ends, or its floor rises, its elements leave the sums though nobody touches their records: settling
the owner walks them (one prefix scan, about 4.5 us an element), as compaction will to drop them.

Graves leave the sums when the purge watermark passes their stamp. Until then each slot has a list of
(hlc u64, leaf u8, term u64), where taking a grave out again is an entry with the opposite term; ``advance`` works
off what lies below the new watermark. The lists are bounded; a slot whose list was given up asks for a walk.

Invariants: without dirty keys, every cell equals the sum over the stored records that the rule counts
(``tests/model`` compares them); ``noted`` holds keys of its memtable only.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from itertools import islice
from struct import Struct
from typing import TYPE_CHECKING, Any, Final

from xxhash import xxh3_64_intdigest

from respkv.base.coding import pack_text, unpack_text
from respkv.base.errors import BlockRequest, ReadMiss
from respkv.base.limits import SETTLED_AT_ONCE
from respkv.causality.hlc import MAX_STAMP
from respkv.causality.record import BODY_AT
from respkv.keyspace import keys
from respkv.keyspace.floors import FlushFloors
from respkv.keyspace.leaf_rule import CELLS, LEAF_BITS, LEAVES, MASK, Form, LeafRule, digest_of, new_marks

if TYPE_CHECKING:
    from respkv.storage.engine import Engine
    from respkv.storage.job_board import Job
    from respkv.storage.memtable import Memtable

SETTLE_LIMIT: Final = 100_000
#: Graves remembered for the watermark, all slots together: 17 bytes each.
GRAVES_MAX: Final = 1_000_000
#: Dirty keys beyond the memtable's own number before the list is made anew from the memtable.
_DIRTY_SPARE: Final = 50_000
_FLIP_SLICE: Final = 500

#: A grave in its slot's list: hlc, leaf, term.
GRAVE: Final = Struct("<QBQ")


class _Part:
    """One memtable's share in settling."""

    __slots__ = ("born", "dirty", "elements", "hidden", "memtable", "noted")

    def __init__(self, memtable: Memtable) -> None:
        self.memtable = memtable
        #: what each settled key adds to the sums
        self.noted: dict[bytes, Form] = {}
        self.dirty: list[bytes] = list(memtable.table)
        #: dirty elements; they wait for the records, since their owner decides whether they count
        self.elements: list[bytes] = []
        #: owner -> elements settled while it hid them
        self.hidden: dict[bytes, list[bytes]] = {}
        #: owners that were no collection below this memtable, so that none of their elements counted there
        self.born: dict[bytes, None] = {}

    def unsettled(self) -> int:
        return len(self.dirty) + len(self.elements)


class LeafSums:
    """The sums of one node. ``follow`` must be called whenever the engine may have rotated or flushed."""

    __slots__ = (
        "_active", "_covers", "_flipping", "_forgotten", "_graves", "_graves_held", "_highest", "_older", "_walker",
        "cells", "engine", "exact", "rule", "settled_keys", "walks",
    )  # fmt: skip

    def __init__(self, engine: Engine, floors: FlushFloors) -> None:
        self.engine = engine
        self.rule = LeafRule(floors, new_marks())
        self.cells = array("Q", bytes(8 * CELLS))
        #: False while the sums of the runs are unknown
        self.exact = engine.newest_run() == 0
        self.settled_keys = 0
        self.walks = 0
        self._graves: dict[int, bytearray] = {}
        self._graves_held = 0
        self._forgotten: dict[int, None] = {}
        self._highest = floors.highest
        self._covers = 0
        self._begin_parts()

    def _begin_parts(self) -> None:
        self._active = _Part(self.engine.memtable)
        self._older = [_Part(memtable) for memtable in reversed(self.engine.immutables)]
        self._flipping: _Part | None = None
        self._walker = self._walk()

    # -- the writer's side -------------------------------------------------------------------------

    def wrote(self, batch: list[bytes]) -> None:  # HOT: leaf_wrote
        """The open batch (three parts an entry) is about to be committed. About 15 ns an entry."""
        part = self._active
        part.dirty += batch[1::3]
        if len(part.dirty) > len(part.memtable.table) + _DIRTY_SPARE:
            part.dirty = list(part.memtable.table)

    def follow(self) -> None:
        """Notice rotations, finished flushes and raised flush floors. O(memtables)."""
        engine = self.engine
        if engine.memtable is not self._active.memtable:
            self._older.append(self._active)
            known = {id(part.memtable) for part in self._older}
            self._older += [_Part(retired) for retired in reversed(engine.immutables) if id(retired) not in known]
            self._active = _Part(engine.memtable)
        if self._older:
            waiting = {id(memtable) for memtable in engine.immutables}
            while self._older and id(self._older[0].memtable) not in waiting:
                gone = self._older.pop(0)
                if gone.unsettled() or self._flipping is gone:
                    self.exact = False
        if self.rule.floors.highest != self._highest:
            self.forget()

    def forget(self) -> None:
        """A flush floor was raised, or tables were lost to damage: start anew.

        Without runs only the memtables are to be settled again.
        """
        self._highest = self.rule.floors.highest
        self.cells = array("Q", bytes(8 * CELLS))
        self._graves.clear()
        self._graves_held = 0
        self._forgotten.clear()
        self._covers = 0
        self.exact = self.engine.newest_run() == 0
        self._begin_parts()

    # -- settling ----------------------------------------------------------------------------------

    def unsettled(self) -> int:
        """Keys to settle, at most: a key written twice may count twice."""
        rest = sum(part.unsettled() for part in (*self._older, self._active))
        return rest + (self._flipping is not None)

    def is_exact(self) -> bool:
        """True when the cells describe all that is stored now."""
        self.follow()
        return self.exact and not self.unsettled()

    def settle(self, limit: int = SETTLE_LIMIT) -> Iterator[BlockRequest | None]:
        """Settle up to ``limit`` keys. Yields None after each slice, or a block to be fetched before the next."""
        budget = limit
        while budget > 0 and not self.is_exact() and self.exact:
            before = self.settled_keys
            yield next(self._walker)
            budget -= max(1, self.settled_keys - before)

    def _walk(self) -> Iterator[BlockRequest | None]:
        """Settles for ever, oldest memtable first; None ends a slice."""
        while True:
            stop = self.settled_keys + SETTLED_AT_ONCE
            while self.settled_keys < stop:
                part = next((part for part in (*self._older, self._active) if part.unsettled()), None)
                if part is None:
                    break
                try:
                    if part.dirty:
                        flip = self._settle_record(part, part.dirty[-1])
                        part.dirty.pop()
                    else:
                        flip = None
                        self._settle_element(part, part.elements[-1])
                        part.elements.pop()
                except ReadMiss as miss:
                    yield miss.request
                    continue
                self.settled_keys += 1
                if flip is not None:
                    self._flipping = part
                    yield from self._flip(part, *flip)
                    self._flipping = None
            yield None

    def _settle_record(self, part: _Part, internal: bytes) -> tuple[bytes, bytes, bytes] | None:
        """Settle one key; (owner, old floor, new floor) when elements are to be hidden or shown. May raise ReadMiss.

        Nothing has changed when it raises. Elements are put aside.
        """
        if internal[0] == keys.SPACE_ELEMENT:
            part.elements.append(internal)
            return None
        record = part.memtable.table.get(internal)
        if internal[0] != keys.SPACE_RECORD or record is None:
            return None
        rule = self.rule
        new = rule.form(internal, record)
        old = part.noted.get(internal)
        if old is None:
            old = rule.form(internal, self.engine.get_below(part.memtable, internal))
            if old.__class__ is not tuple:
                part.born[internal] = None
        part.noted[internal] = new
        if new == old:
            return None
        self._change(internal, old, new)
        old_floor = old[1] if isinstance(old, tuple) else MAX_STAMP
        new_floor = new[1] if isinstance(new, tuple) else MAX_STAMP
        if new_floor < old_floor:
            part.elements += part.hidden.pop(internal, ())
            if old != 0:  # What was hidden in older tables shows again.
                part.born.pop(internal, None)
                return internal, old_floor, new_floor
        return (internal, old_floor, new_floor) if new_floor > old_floor else None

    def _settle_element(self, part: _Part, internal: bytes) -> None:
        record = part.memtable.table.get(internal)
        if record is None:
            return
        engine, rule = self.engine, self.rule
        owner = keys.element_owner(internal)[0]
        # As the sums know it. The memtable may know better, of an open batch; what that hides or shows is worked off
        # when the owner is settled, and what it replaces here must still be taken out as it was put in.
        settled = part.noted.get(owner)
        if settled is None:
            floor = rule.owner_floor(owner, engine.get_below(part.memtable, owner))
        else:
            floor = settled[1] if isinstance(settled, tuple) else MAX_STAMP
        old = part.noted.get(internal)
        if old is None:
            old = 0
            if owner not in part.born:
                old = rule.form(internal, engine.get_below(part.memtable, internal), floor)
        new = rule.form(internal, record, floor)
        if new == 0:
            part.hidden.setdefault(owner, []).append(internal)
        part.noted[internal] = new
        if new != old:
            self._change(internal, old, new)

    def _flip(self, part: _Part, owner: bytes, old_floor: bytes, new_floor: bytes) -> Iterator[BlockRequest | None]:
        """Take out, or in, the elements of ``owner`` between two floors. Nothing else is settled meanwhile."""
        prefix = keys.element_prefix(owner)
        at, end = prefix, keys.prefix_end(prefix)
        while True:
            seen = 0
            try:
                for internal, record in islice(self.engine.scan(at, end), _FLIP_SLICE):
                    self._hide(part, internal, record, old_floor, new_floor)
                    at = keys.after(internal)
                    seen += 1
            except ReadMiss as miss:
                yield miss.request
                continue
            self.settled_keys += seen
            if seen < _FLIP_SLICE:
                return
            yield None

    def _hide(self, part: _Part, internal: bytes, record: bytes, old_floor: bytes, new_floor: bytes) -> None:
        noted = part.noted.get(internal)
        if noted is not None:
            # Settled under the old floor. Whether it counts under the new one is found out by settling it again.
            if noted != 0:
                self._change(internal, noted, 0)
                part.noted[internal] = 0
                part.elements.append(internal)
            return
        below: bytes | None = record
        if part is not self._active or internal in part.memtable.table:
            below = self.engine.get_below(part.memtable, internal)
            if below is None and internal not in part.memtable.table:
                return
        if below is not None and new_floor < below[1:BODY_AT] <= old_floor:
            self._change(internal, 0, self.rule.form(internal, below, new_floor))
        if below is not None and old_floor < below[1:BODY_AT] <= new_floor:
            self._change(internal, self.rule.form(internal, below, old_floor), 0)

    def _change(self, internal: bytes, old: Form, new: Form) -> None:
        """Put ``new`` in the place of ``old`` in the sums."""
        key_hash = xxh3_64_intdigest(internal)
        slot, leaf = internal[1] << 8 | internal[2], key_hash & (LEAVES - 1)
        cell = slot << LEAF_BITS | leaf
        change = self._term(slot, leaf, key_hash, new, 1) - self._term(slot, leaf, key_hash, old, -1)
        self.cells[cell] = (self.cells[cell] + change) & MASK

    def _term(self, slot: int, leaf: int, key_hash: int, form: Form, sign: int) -> int:
        """The term of a form. A grave is noted for the watermark, or adds nothing if that has passed."""
        if isinstance(form, int):
            return form
        if isinstance(form, tuple):
            return form[0]
        hlc = int.from_bytes(form[1:9], "big")
        if hlc < self.rule.marks[slot]:
            return 0
        term = xxh3_64_intdigest(digest_of(form), key_hash)
        self._remember_grave(slot, GRAVE.pack(hlc, leaf, sign * term & MASK))
        return term

    # -- the watermark -----------------------------------------------------------------------------

    def _remember_grave(self, slot: int, entry: bytes) -> None:
        if slot in self._forgotten:
            return
        if self._graves_held >= GRAVES_MAX:
            self._forgotten[slot] = None
            self._graves_held -= len(self._graves.pop(slot, b"")) // GRAVE.size
            return
        self._graves.setdefault(slot, bytearray()).extend(entry)
        self._graves_held += 1

    def advance(self, raised: Iterable[int]) -> None:
        """The purge watermarks (``rule.marks``) of some slots have grown: graves below them leave the sums.

        O(slots + their graves), O(1) where there are no graves at all.
        """
        marks, graves, forgotten = self.rule.marks, self._graves, self._forgotten
        if not graves and not forgotten:
            return
        for slot in raised:
            if slot in forgotten:
                self.exact = False
            elif slot in graves:
                self._bury(slot, marks[slot])

    def _bury(self, slot: int, mark: int) -> None:
        """Take graves of a slot out, those below ``mark``."""
        entries = self._graves[slot]
        cells, base = self.cells, slot << LEAF_BITS
        kept = bytearray()
        for hlc, leaf, term in GRAVE.iter_unpack(entries):
            if hlc < mark:
                cells[base | leaf] = (cells[base | leaf] - term) & MASK
            else:
                kept += GRAVE.pack(hlc, leaf, term)
        self._graves_held -= (len(entries) - len(kept)) // GRAVE.size
        if kept:
            self._graves[slot] = kept
        else:
            del self._graves[slot]

    # -- the walk over all runs --------------------------------------------------------------------

    def walk_data(self) -> dict[str, Any]:
        """What the job's spec needs for leaf sums, besides ``floors``."""
        return {"leaves": {"marks": pack_words(self.rule.marks), "graves_max": GRAVES_MAX // 2}}

    def next_job(self) -> Job | None:
        """A walk over all runs when the sums are inexact and no walk is under way."""
        if self.exact:
            return None
        job = self.engine.start_count({"floors": self.rule.floors.plain(), **self.walk_data()})
        if job is not None:
            self.walk_started()
        return job

    def walk_started(self) -> None:
        """A walk with ``walk_data`` has begun: note what it covers."""
        self._covers = self.engine.newest_run()

    def on_job_done(self, job_id: int, result: dict[str, Any]) -> None:
        """The walk of ``next_job`` has ended."""
        self.engine.end_count(job_id, failed=False)
        self.install(result["leaves"])

    def on_job_failed(self, job_id: int) -> None:
        """Try again later."""
        self.engine.end_count(job_id, failed=True)

    def install(self, result: dict[str, Any]) -> bool:
        """Take a walk's sums over; False when runs or floors have changed since: walk again."""
        self.follow()
        if not self._covers or self._covers != self.engine.newest_run():
            return False
        self._covers = 0
        self.walks += 1
        self.cells = unpack_words(result["cells"])
        walked = unpack_words(result["marks"])
        graves: dict[str, str] = result["graves"]
        self._graves = {int(slot): bytearray(unpack_text(text)) for slot, text in graves.items()}
        self._graves_held = sum(map(len, self._graves.values())) // GRAVE.size
        self._forgotten = dict.fromkeys(result["forgotten"])
        self.exact = True
        self.advance([slot for slot, (now, then) in enumerate(zip(self.rule.marks, walked)) if now > then])
        self._begin_parts()
        return True

    # -- answers -----------------------------------------------------------------------------------

    def leaves(self, slot: int) -> tuple[int, ...]:
        """The 64 sums of a slot."""
        return tuple(self.cells[slot << LEAF_BITS : (slot + 1) << LEAF_BITS])

    def correct(self, slot: int, leaf: int, value: int) -> bool:
        """A leaf was computed from its records while the sums were exact. True when the sum had to be put right."""
        cell = slot << LEAF_BITS | leaf
        wrong = self.cells[cell] != value
        self.cells[cell] = value
        return wrong

    def stats(self) -> dict[str, int]:
        """Counters for metrics."""
        return {
            "leaf_sums_exact": int(self.is_exact()),
            "leaf_keys_unsettled": self.unsettled(),
            "leaf_keys_settled": self.settled_keys,
            "leaf_walks": self.walks,
            "leaf_graves": self._graves_held,
            "leaf_slots_without_graves": len(self._forgotten),
        }

    def check_invariants(self) -> None:
        """The noted keys are keys of their memtables; the graves add up."""
        assert len(self.cells) == CELLS
        for part in (*self._older, self._active):
            assert part.noted.keys() <= part.memtable.table.keys()
        assert self._graves_held == sum(map(len, self._graves.values())) // GRAVE.size <= GRAVES_MAX
        assert not self._graves.keys() & self._forgotten.keys()
        for slot, entries in self._graves.items():
            assert all(hlc >= self.rule.marks[slot] for hlc, _, _ in GRAVE.iter_unpack(entries))


def pack_words(words: array[int]) -> str:
    """u64s as text, for jobs."""
    return pack_text(words.tobytes())


def unpack_words(text: str) -> array[int]:
    """The reverse of ``pack_words``."""
    words = array("Q")
    words.frombytes(unpack_text(text))
    return words
