"""Leaf sums against a naive sum over all records, under every way in which data changes; and planted bugs."""

from __future__ import annotations

import os
import random

import pytest
from xxhash import xxh3_64_intdigest

from respkv.base.slots import slot_of
from respkv.keyspace import effects as fx
from respkv.keyspace import keys
from respkv.keyspace.leaf_sums import LeafSums
from respkv.storage.compaction import pick as pick_compaction
from tests.unit.keyspace.rig import ColdRng
from tests.unit.replication.leaf_rig import LeafRig

SEEDS = int(os.environ.get("RESPKV_SEEDS", "25"))
KEYS = [b"{a}%d" % number for number in range(6)] + [b"k%d" % number for number in range(10)]
SLOTS = sorted({slot_of(key) for key in KEYS})


def step(rig: LeafRig, rng: random.Random) -> None:
    """One random change."""
    db, key = rng.choice((0, 0, 0, 1)), rng.choice(KEYS)
    field = b"f%d" % rng.randrange(12)
    action = rng.randrange(100)
    soon = rig.now_ms + rng.randint(1, 3000)
    if action < 25:
        rig.apply(fx.put(db, key, b"v%d" % rng.randrange(100), soon if rng.random() < 0.2 else 0))
    elif action < 45:
        hashed = rig.serve(lambda: rig.view(db).kind(key)) in (0, 2)
        if hashed:
            at = soon if rng.random() < 0.1 else 0
            rig.apply(*(fx.put_element(db, key, 2, b"f%d" % rng.randrange(12), b"x", at) for _ in range(3)))
    elif action < 52:
        if rig.serve(lambda: rig.view(db).kind(key)) == 2:
            rig.apply(fx.remove_element(db, key, field))
    elif action < 64:
        rig.apply(fx.delete(db, key))
    elif action < 68:
        rig.apply(fx.expire(db, key, soon))
    elif action < 74:
        rig.advance_ms(rng.randint(1, 2000))
        rig.serve(rig.expire)
    elif action < 76:
        rig.apply(fx.flush(db))
    elif action < 82:
        rig.settle(rng.randint(1, 20))
    elif action < 86:
        rig.rotate()
    elif action < 92:
        if rng.random() < 0.5:
            rig.settle()
        rig.flush()
    elif action < 95:
        rig.purge_through(
            rig.keyspace.clock.last - rng.randrange(1 << 28), rng.sample(SLOTS, rng.choice((5, len(SLOTS))))
        )
        rig.purged = min(rig.leaf.rule.marks[slot] for slot in SLOTS).to_bytes(8, "big") + b"\0\0"
    elif action < 97:
        rig.restart()
    else:
        rig.fs.cold = ColdRng() if rig.fs.cold is None else None
        rig.fs.drop_page_cache()


def run(seed: int, rig: LeafRig, steps: int = 150) -> None:
    rng = random.Random(seed)
    rig.early = lambda: rng.choice((0, 0, 1, 5, 100))
    for _ in range(steps):
        step(rig, rng)
        rig.leaf.check_invariants()
        if rng.random() < 0.1:
            rig.settle()
            assert rig.leaf.is_exact()
            assert not rig.wrong_cells()
    rig.settle()
    assert not rig.wrong_cells()


@pytest.mark.parametrize("seed", range(SEEDS))
def test_the_sums_are_those_of_all_records(seed: int) -> None:
    run(seed, LeafRig(memtable_bytes=1 << 16))


def test_purged_graves_and_hidden_elements_do_not_move_the_sums() -> None:
    rig = LeafRig(memtable_bytes=1 << 16)
    rig.apply(*(fx.put_element(0, b"h", 2, b"f%d" % number, b"x") for number in range(50)))
    rig.apply(*(fx.put(0, key, b"v") for key in KEYS))
    rig.settle()
    rig.flush()
    rig.apply(fx.delete(0, b"h"), *(fx.delete(0, key) for key in KEYS[:8]))
    rig.settle()
    rig.purged = rig.keyspace.stamp()
    rig.purge_through(int.from_bytes(rig.purged[:8], "big"), [*SLOTS, slot_of(b"h")])
    before = xxh3_64_intdigest(rig.leaf.cells)
    assert sum(1 for cell in rig.leaf.cells if cell) == len(KEYS[8:])
    rig.flush()
    while True:
        job = rig.engine.next_job(idle=True)
        if job is None:
            break
        rig.engine.on_job_done(job.id, rig.driver.work(job))
        rig.driver.run_manifest()
    assert pick_compaction is not None and rig.engine.stats()["compactions"] >= 1
    left = [key for key, _ in rig.driver.scan(b"\x01", b"\x03")]
    assert left == sorted(keys.record_key(0, key) for key in KEYS[8:]), "compaction has dropped the rest"
    rig.settle()
    assert xxh3_64_intdigest(rig.leaf.cells) == before and not rig.wrong_cells()
    rig.leaf.exact = False
    rig.settle()
    assert rig.leaf.walks == 1 and xxh3_64_intdigest(rig.leaf.cells) == before


def test_a_missing_block_interrupts_the_walk_of_a_collections_elements() -> None:
    rig = LeafRig(memtable_bytes=1 << 20)
    rig.apply(*(fx.put_element(0, b"h", 2, b"field %4d" % number, b"x" * 50) for number in range(1500)))
    rig.settle()
    rig.flush()
    assert rig.leaf.is_exact()
    rig.apply(fx.delete(0, b"h"), fx.put(0, b"other", b"v"))
    rig.cold()
    requests = 0
    for request in rig.leaf.settle():
        if request is not None:
            requests += 1
            request.install(request.read())
    assert requests > 5 and not rig.wrong_cells()


def test_a_walk_is_thrown_away_when_the_runs_have_changed() -> None:
    rig = LeafRig()
    rig.apply(fx.put(0, b"a", b"1"))
    rig.flush()
    assert not rig.leaf.exact, "flushed before it was settled"
    job = rig.leaf.next_job()
    assert job is not None and rig.leaf.next_job() is None
    rig.apply(fx.put(0, b"b", b"1"))
    rig.flush()
    from respkv.keyspace.leaf_walk import walk_job
    from respkv.storage.jobs import no_pause

    rig.leaf.on_job_done(job.id, walk_job(rig.fs, job.spec, no_pause))
    assert not rig.leaf.exact
    job = rig.leaf.next_job()
    assert job is not None
    rig.leaf.on_job_failed(job.id)
    for _ in range(10):
        rig.engine.tick()
    rig.settle()
    assert rig.leaf.is_exact() and not rig.wrong_cells()
    assert rig.leaf.stats()["leaf_walks"] == 1


def test_the_dirty_list_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("respkv.keyspace.leaf_sums._DIRTY_SPARE", 20)
    rig = LeafRig()
    for number in range(500):
        rig.apply(fx.put(0, b"k%d" % (number % 3), b"%d" % number))
        assert rig.leaf.unsettled() <= 23
    rig.settle()
    assert not rig.wrong_cells()


def test_graves_beyond_their_limit_cost_a_walk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("respkv.keyspace.leaf_sums.GRAVES_MAX", 40)
    rig = LeafRig()
    for number in range(100):
        rig.apply(fx.put(0, b"k%d" % number, b"v"), fx.delete(0, b"k%d" % number))
    rig.settle()
    rig.leaf.check_invariants()
    assert rig.leaf.stats()["leaf_slots_without_graves"] > 0
    rig.flush()
    rig.purge_through(rig.keyspace.clock.last + 1, [slot_of(b"k%d" % number) for number in range(100)])
    assert not rig.leaf.exact
    rig.settle()
    assert rig.leaf.is_exact() and not any(rig.leaf.cells)


def test_a_wrong_leaf_is_put_right() -> None:
    rig = LeafRig()
    slot = slot_of(b"a")
    assert rig.leaf.correct(slot, 3, 99) and not rig.leaf.correct(slot, 3, 99)
    assert rig.leaf.leaves(slot)[3] == 99


def planted_not_told() -> LeafRig:
    rig = LeafRig(memtable_bytes=1 << 16)
    rig.tell = False
    return rig


def planted_never_settled() -> LeafRig:
    rig = LeafRig(memtable_bytes=1 << 16)
    rig.settle = lambda limit=0: None  # type: ignore[method-assign,misc]
    return rig


@pytest.mark.parametrize("plant", [planted_not_told, planted_never_settled])
def test_planted_bugs_of_settling_are_found(plant: object) -> None:
    with pytest.raises(AssertionError):
        for seed in range(5):
            run(seed, plant())  # type: ignore[operator]


class XorSums(LeafSums):
    """Planted: XOR instead of sums."""

    __slots__ = ()

    def _change(self, internal, old, new):  # type: ignore[no-untyped-def]
        from respkv.keyspace.leaf_rule import leaf_of, term_of

        for form in (old, new):
            if form != 0:
                term = form if isinstance(form, int) else form[0] if isinstance(form, tuple) else 0
                if isinstance(form, bytes):
                    term = term_of(internal, form)
                self.cells[keys.key_slot(internal) << 6 | leaf_of(internal)] ^= term


class NoFlips(LeafSums):
    """Planted: the elements of a deleted collection stay in the sums."""

    __slots__ = ()

    def _hide(self, *arguments):  # type: ignore[no-untyped-def]
        return None


class BlindBelow(LeafSums):
    """Planted: what a blind put replaced in the runs is not taken out."""

    __slots__ = ()

    def _settle_record(self, part, internal):  # type: ignore[no-untyped-def]
        part.noted.setdefault(internal, 0)
        return super()._settle_record(part, internal)


@pytest.mark.parametrize("sums", [XorSums, NoFlips, BlindBelow])
def test_planted_bugs_of_the_arithmetic_are_found(sums: type[LeafSums]) -> None:
    class Planted(LeafRig):
        def open(self) -> None:
            super().open()
            self.leaf = sums(self.engine, self.keyspace.floors)

    with pytest.raises(AssertionError):
        for seed in range(8):
            run(seed, Planted(memtable_bytes=1 << 16))
