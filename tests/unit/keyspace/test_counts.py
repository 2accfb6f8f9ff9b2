"""Key counts: settled, estimated, saved, and counted anew."""

from __future__ import annotations

import base64
import random
from array import array
from collections.abc import Iterator
from typing import Any

import lz4.block
import pytest

from respkv.base.ids import HASH
from respkv.base.slots import SLOT_COUNT, slot_of
from respkv.causality.record import encode, expired_form, tombstone
from respkv.keyspace import effects as fx
from respkv.keyspace import keys
from respkv.keyspace.count_job import count_job
from respkv.keyspace.counts import SAMPLE_KEYS, SAMPLED_AT_ONCE, add_row, add_to, pack_sums, state_of, unpack_sums
from respkv.keyspace.floors import FlushFloors
from respkv.storage.jobs import no_pause
from tests.unit.keyspace.rig import Rig


def rotate(rig: Rig) -> None:
    """Retire the memtable without flushing it."""
    rig.engine.rotate()
    rig.keyspace.counts.follow()


def many(first: int, last: int, db: int = 0) -> list[fx.Effect]:
    return [fx.put(db, b"k%d" % n, b"v") for n in range(first, last)]


def test_without_runs_everything_settles_to_the_exact_number() -> None:
    rig = Rig()
    counts = rig.keyspace.counts
    rig.apply(*many(0, 50), *many(0, 50), *many(0, 7, db=3))
    assert counts.unsettled() == 57 and not counts.is_exact()
    assert rig.total(0) == 50 and rig.total(3) == 7 and rig.total(9) == 0
    assert counts.is_exact() and counts.unsettled() == 0
    rig.apply(*many(0, 60))
    assert rig.total(0) == 60


def test_blind_puts_over_flushed_keys_add_nothing_once_settled() -> None:
    rig = Rig()
    rig.apply(*many(0, 100))
    assert rig.total() == 100
    rig.flush()
    assert rig.keyspace.counts.is_exact()
    rig.apply(*many(50, 150), fx.delete(0, b"k0"))
    assert rig.total() == 149
    rig.flush()
    assert rig.keyspace.counts.is_exact() and rig.total() == 149


def test_counts_by_slot() -> None:
    rig = Rig()
    rig.apply(*(fx.put(0, b"{t}%d" % n, b"v") for n in range(9)), fx.put(0, b"foo", b"v"))
    rig.total()
    counts = rig.keyspace.counts
    assert counts.in_slot(0, slot_of(b"t")) == 9 and counts.in_slot(0, 12182) == 1
    assert counts.in_slot(0, 1) == counts.in_slot(5, 12182) == 0
    rig.flush()
    assert counts.in_slot(0, slot_of(b"t")) == 9


def test_settling_goes_in_slices_within_its_budget() -> None:
    rig = Rig()
    rig.apply(*many(0, 1700))
    counts = rig.keyspace.counts
    assert list(counts.settle(1200)) == [None, None, None]
    assert counts.unsettled() == 500
    assert list(counts.settle(0)) == [] and counts.unsettled() == 500
    assert list(counts.settle()) == [None]
    assert counts.is_exact() and counts.total(0) == 1700


def test_settling_names_the_blocks_it_needs() -> None:
    rig = Rig(block_cache_bytes=1)
    rig.apply(*(fx.put(0, b"k%d" % n, rig.rng.randbytes(600)) for n in range(30)))
    rig.flush()
    rig.cold()
    rig.apply(*many(0, 40))
    misses = 0
    for request in rig.keyspace.counts.settle():
        if request is not None:
            misses += 1
            request.install(request.read())
    assert misses > 0 and rig.keyspace.counts.total(0) == 40


def test_the_unsettled_rest_is_estimated_from_what_is_settled() -> None:
    rig = Rig(memtable_bytes=1 << 24)
    rig.apply(*many(0, 10_000))
    counts = rig.keyspace.counts
    list(counts.settle(1000))
    assert counts.total(0) == 10_000 and not counts.is_exact()
    rotate(rig)
    assert counts.total(0) == 10_000 and not counts.is_exact()
    rig.work(count=False)
    assert counts.total(0) == 10_000 and not counts.exact
    rig.work()
    assert counts.is_exact() and counts.total(0) == 10_000


def test_settling_a_closed_memtable_takes_from_its_estimate() -> None:
    rig = Rig(memtable_bytes=1 << 24)
    rig.apply(*many(0, 10_000))
    rotate(rig)
    counts = rig.keyspace.counts
    assert counts.total(0) == 10_000
    list(counts.settle(5000))
    assert counts.total(0) == 10_000 and not counts.is_exact()
    rig.work(count=False)
    assert counts.total(0) == 10_000


def test_an_estimate_over_overwritten_keys_is_near() -> None:
    rig = Rig()
    rig.apply(*many(0, 2000))
    rig.total()
    rig.flush()
    names = list(range(1000, 3000))
    random.Random(1).shuffle(names)
    rig.apply(*(fx.put(0, b"k%d" % n, b"w") for n in names))
    rotate(rig)
    assert 2600 <= rig.keyspace.counts.total(0) <= 3400
    assert rig.total() == 3000


def test_the_sample_behind_an_estimate_grows_with_time() -> None:
    """Nine of ten keys are new, but those that were written last, which are looked at first, are old."""
    rig = Rig(memtable_bytes=1 << 24)
    rig.apply(*many(0, 100))
    rig.total()
    rig.flush()
    rig.apply(*many(100, 1000), *(fx.put(0, b"k%d" % n, b"w") for n in range(SAMPLED_AT_ONCE)))
    rotate(rig)
    counts = rig.keyspace.counts
    assert counts.older[-1].sampled == SAMPLED_AT_ONCE and counts.total(0) == 100
    counts.sample()
    assert counts.older[-1].sampled == 2 * SAMPLED_AT_ONCE and counts.total(0) == 100 + (900 + SAMPLED_AT_ONCE) // 2
    for _ in range(10):
        counts.sample()
    assert counts.older[-1].sampled == SAMPLE_KEYS
    assert rig.total() == 1000
    counts.sample()
    assert counts.older[-1].estimate == {}


def test_a_sample_made_before_a_flush_says_nothing_after_it() -> None:
    rig = Rig(memtable_bytes=1 << 24)
    rig.apply(*many(0, 1000), *(fx.put(3, b"k%d" % n, b"v") for n in range(10)))
    rotate(rig)
    counts = rig.keyspace.counts
    rig.apply(fx.flush(0))
    counts.sample()
    assert counts.total(0) == 0


@pytest.mark.parametrize("count", [3, 5000])
def test_a_row_of_few_or_many_cells_is_added(count: int) -> None:
    rng = random.Random(count)
    sums: dict[int, array[int]] = {}
    row = array("q", bytes(8 * SLOT_COUNT))
    for slot in rng.sample(range(SLOT_COUNT), count):
        row[slot] = rng.randrange(-5, 6)
    add_row(sums, 1, array("q", bytes(8 * SLOT_COUNT)))
    assert sums == {}
    add_row(sums, 1, row)
    add_row(sums, 1, row)
    assert sums == {1: array("q", [2 * cell for cell in row])}
    assert sums[1] is not row


def test_an_estimate_is_of_what_is_not_settled_yet() -> None:
    """Other keys than those that were settled, of another database, and some that are no keys."""
    rig = Rig(memtable_bytes=1 << 24)
    rig.apply(*many(0, 500))
    rig.apply(*(fx.put_element(0, b"h", HASH, b"f%d" % n, b"v") for n in range(500)))
    counts = rig.keyspace.counts
    list(counts.settle(1100))
    rig.apply(*(fx.put(3, b"k%d" % n, b"v") for n in range(5000)))
    rotate(rig)
    assert counts.total(0) == 501 and counts.total(3) == 5000


def test_deltas_of_several_memtables_add_up() -> None:
    rig = Rig()
    for n in range(4):
        rig.apply(*many(n * 10, n * 10 + 15))
        rotate(rig)
    assert len(rig.keyspace.counts.older) == 4
    assert rig.total() == 45
    rig.apply(*(fx.delete(0, b"k%d" % n) for n in range(5)))
    assert rig.total() == 40
    rig.keyspace.counts.check_invariants()
    rig.work()
    assert rig.keyspace.counts.older == [] and rig.total() == 40 and rig.keyspace.counts.exact


def test_settling_ends_soon_when_its_memtable_is_flushed_meanwhile() -> None:
    rig = Rig()
    rig.apply(*many(0, 3000))
    rotate(rig)
    rig.apply(*many(3000, 3010))
    for step, _ in enumerate(rig.keyspace.counts.settle()):
        if step == 1:
            rig.work(count=False)
            rig.engine.tick()
        assert step < 100, "it goes on over a memtable that is gone"
    rig.work()
    assert rig.total() == 3010 and rig.keyspace.counts.is_exact()


def test_a_flushed_database_counts_nothing_wherever_its_keys_are() -> None:
    rig = Rig()
    rig.apply(*many(0, 100), *many(0, 10, db=1))
    rig.total()
    rig.flush()
    rig.apply(*many(100, 150))
    rotate(rig)
    rig.apply(*many(150, 170))
    rig.total()
    rig.apply(fx.flush(0))
    assert rig.total(0) == 0 and rig.total(1) == 10
    rig.apply(*many(0, 5), fx.put(0, b"k120", b"v"), fx.put(0, b"k160", b"v"), fx.delete(0, b"k130"))
    assert rig.total(0) == 7 and rig.total(1) == 10
    rig.work()
    assert rig.total(0) == 7 and rig.keyspace.counts.is_exact()


@pytest.mark.parametrize("others", [0, 51_000])
def test_a_settled_key_that_is_flushed_and_put_again_counts_again(others: int) -> None:
    rig = Rig(memtable_bytes=1 << 24)
    rig.apply(fx.put(0, b"k", b"v"), fx.put(1, b"j", b"v"), *many(0, others))
    assert rig.total(0) == 1 + others
    rig.apply(fx.flush(0))
    assert rig.total(0) == 0
    rig.apply(fx.put(0, b"k", b"again"))
    assert rig.total(0) == 1 and rig.total(1) == 1 and rig.keyspace.counts.is_exact()


# what counts as a key


def test_what_is_live() -> None:
    floors = FlushFloors()
    floors.raise_to(0, 0, 16383, b"\x05" + bytes(9))
    key, new, old = keys.record_key(0, b"k"), b"\x06" + bytes(9), b"\x04" + bytes(9)
    timed = encode(1, new, b"v", 1)
    assert state_of(floors, key, encode(1, new, b"v")) and state_of(floors, key, timed)
    assert not state_of(floors, key, None)
    assert not state_of(floors, key, tombstone(new)) and not state_of(floors, key, expired_form(timed))
    assert not state_of(floors, key, encode(1, old, b"v"))
    assert state_of(floors, keys.record_key(1, b"k"), encode(1, old, b"v"))


def test_sums_survive_packing() -> None:
    sums: dict[int, Any] = {}
    rng = random.Random(1)
    for _ in range(500):
        add_to(sums, rng.randrange(3), rng.randrange(16384), rng.randrange(-3, 9))
    add_to(sums, 7, 1, 1)
    add_to(sums, 7, 1, -1)
    packed = pack_sums(sums)
    assert sorted(packed) == ["0", "1", "2"], "a database without keys takes no space"
    again = unpack_sums(packed)
    assert all(again[db] == sums[db] for db in range(3))


def test_sums_that_were_saved_as_base85_are_read() -> None:
    cells = array("q", bytes(8 * 16384))
    cells[7] = 3
    text = base64.b85encode(lz4.block.compress(cells.tobytes(), store_size=True)).decode()
    assert unpack_sums({"4": text}) == {4: cells}


# saving


@pytest.mark.parametrize("crash", [False, True])
def test_counts_are_there_after_a_restart(crash: bool) -> None:
    rig = Rig()
    rig.apply(*many(0, 100), *many(0, 10, db=2))
    rig.total()
    rig.flush()
    rig.apply(*many(90, 120))
    rig.restart(crash=crash)
    counts = rig.keyspace.counts
    assert counts.exact
    assert rig.total(0) == 120 and rig.total(2) == 10 and counts.is_exact()


def test_a_flush_after_the_counts_were_saved_is_seen_at_the_next_start() -> None:
    rig = Rig()
    rig.apply(*many(0, 100), *many(0, 10, db=2))
    rig.total()
    rig.flush()
    rig.apply(fx.flush(0), *many(0, 3))
    rig.restart(crash=True)
    assert rig.total(0) == 3 and rig.total(2) == 10
    rig.flush()
    rig.restart()
    assert rig.total(0) == 3 and rig.total(2) == 10 and rig.keyspace.counts.exact


def test_saved_counts_that_do_not_fit_the_runs_are_not_believed() -> None:
    rig = Rig()
    rig.apply(*many(0, 100))
    rig.total()
    rig.flush()
    rig.apply(*many(100, 150))
    rotate(rig)
    rig.driver.settle()  # flushed, but a crash comes before the counts are saved
    rig.restart(crash=True)
    assert not rig.keyspace.counts.exact
    rig.work()
    assert rig.keyspace.counts.is_exact() and rig.total() == 150


def test_a_store_whose_counts_were_never_saved_is_counted() -> None:
    rig = Rig()
    rig.apply(*many(0, 100))
    rotate(rig)
    rig.driver.settle()
    rig.restart(crash=True)
    assert not rig.keyspace.counts.exact
    rig.work()
    assert rig.total() == 100 and rig.keyspace.counts.is_exact()


# the recount


def inexact(rig: Rig) -> None:
    rig.keyspace.counts.exact = False


def test_no_recount_while_the_counts_are_exact() -> None:
    rig = Rig()
    rig.apply(*many(0, 10))
    rig.total()
    rig.flush()
    assert rig.keyspace.counts.next_job() is None


def test_the_recount_counts_live_keys_of_all_runs() -> None:
    rig = Rig()
    rig.apply(*many(0, 100), *many(0, 20, db=1), *many(0, 30, db=2))
    rig.flush()
    rig.apply(*(fx.delete(0, b"k%d" % n) for n in range(10)), *many(90, 120), fx.flush(1), *many(0, 2, db=1))
    rig.flush()
    rig.apply(*many(500, 510))
    rig.total()
    counts = rig.keyspace.counts
    inexact(rig)
    counts.runs.clear()
    job = counts.next_job()
    assert job is not None and counts.next_job() is None, "one at a time"
    counts.on_job_done(job.id, count_job(rig.fs, job.spec, no_pause))
    assert counts.is_exact()
    assert (rig.total(0), rig.total(1), rig.total(2)) == (120, 2, 30)


def test_a_recount_that_was_overtaken_by_a_new_run_is_done_again() -> None:
    rig = Rig()
    rig.apply(*many(0, 100))
    rig.total()
    rig.flush()
    inexact(rig)
    counts = rig.keyspace.counts
    job = counts.next_job()
    assert job is not None
    rig.apply(*many(100, 110))
    rig.total()
    rig.engine.rotate()
    rig.work(count=False)
    counts.on_job_done(job.id, count_job(rig.fs, job.spec, no_pause))
    assert not counts.exact
    for _ in range(8):
        rig.engine.tick()
    rig.work()
    assert counts.exact and rig.total() == 110


def test_a_flush_during_the_recount_is_not_undone_by_it() -> None:
    rig = Rig()
    rig.apply(*many(0, 100), *many(0, 10, db=1))
    rig.total()
    rig.flush()
    inexact(rig)
    counts = rig.keyspace.counts
    job = counts.next_job()
    assert job is not None
    result = count_job(rig.fs, job.spec, no_pause)
    rig.apply(fx.flush(0), fx.put(0, b"new", b"v"))
    counts.on_job_done(job.id, result)
    assert (rig.total(0), rig.total(1)) == (1, 10)


def test_a_failed_recount_is_offered_again_later() -> None:
    rig = Rig()
    rig.apply(*many(0, 10))
    rig.total()
    rig.flush()
    inexact(rig)
    counts = rig.keyspace.counts
    job = counts.next_job()
    assert job is not None
    counts.on_job_failed(job.id)
    assert counts.next_job() is None, "it waits some ticks"
    for _ in range(10):
        rig.engine.tick()
    again = counts.next_job()
    assert again is not None
    counts.on_job_done(again.id, count_job(rig.fs, again.spec, no_pause))
    assert counts.is_exact()


@pytest.mark.parametrize(("count", "listings"), [(3_000, 1), (45_000, 3)])
def test_settling_does_not_begin_at_the_first_key_in_each_slice(count: int, listings: int) -> None:
    class Watched(dict[bytes, bytes]):
        begun = 0

        def __iter__(self) -> Iterator[bytes]:
            Watched.begun += 1
            return super().__iter__()

        def __reversed__(self) -> Iterator[bytes]:
            Watched.begun += 1
            return super().__reversed__()

    rig = Rig(memtable_bytes=1 << 26)
    rig.apply(*many(0, count))
    memtable = rig.engine.memtable
    memtable.table = Watched(memtable.table)
    for _ in range(count // 20):
        for _ in rig.keyspace.counts.settle(20, 20):
            pass
    assert rig.keyspace.counts.is_exact() and rig.keyspace.counts.total(0) == count
    assert Watched.begun == listings


# a flush whose stamp another node has made


def flushed_elsewhere(*, flush_after: bool) -> tuple[Rig, bytes]:
    """A hundred keys in a table, a stamp, three keys newer than it; in a table too if ``flush_after``."""
    rig = Rig()
    rig.keyspace.defer_writes(False)
    rig.apply(*many(0, 100))
    rig.total()
    rig.flush()
    stamp = rig.keyspace.stamp()
    rig.apply(*many(100, 103))
    if flush_after:
        rig.total()
        rig.flush()
    assert rig.keyspace.counts.exact
    return rig, stamp


def test_where_no_table_is_newer_than_the_flush_nothing_is_walked() -> None:
    rig, stamp = flushed_elsewhere(flush_after=False)
    rig.applier.raise_floor(0, 0, SLOT_COUNT - 1, stamp)
    assert rig.keyspace.counts.exact and rig.total(0) == 3


def test_where_a_table_is_newer_all_is_counted_anew() -> None:
    rig, stamp = flushed_elsewhere(flush_after=True)
    rig.applier.raise_floor(0, 0, SLOT_COUNT - 1, stamp)
    assert not rig.keyspace.counts.exact
    rig.work()
    assert rig.keyspace.counts.exact and rig.total(0) == 3


def test_a_recount_that_began_before_such_a_flush_is_not_the_last_one() -> None:
    rig, stamp = flushed_elsewhere(flush_after=True)
    counts = rig.keyspace.counts
    counts.exact = False
    job = counts.next_job()
    assert job is not None
    result = count_job(rig.fs, job.spec, no_pause)
    rig.applier.raise_floor(0, 0, SLOT_COUNT - 1, stamp)
    counts.on_job_done(job.id, result)
    assert not counts.exact
    rig.work()
    assert counts.exact and rig.total(0) == 3
