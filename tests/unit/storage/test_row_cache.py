"""The row cache: two generations, charges, and freeing in slices."""

from __future__ import annotations

import random

import pytest

from respkv.storage.row_cache import ENTRY_OVERHEAD, RowCache, charge_of

ROW = b"$3\r\nabc\r\n"
CHARGE = charge_of(b"k1", ROW)


class Thing:
    """A row that knows its size."""

    def __init__(self, charge: int) -> None:
        self.charge = charge


def test_charges() -> None:
    assert charge_of(b"key", b"12345") == 8 + ENTRY_OVERHEAD
    assert charge_of(b"key", Thing(1000)) == 1003 + ENTRY_OVERHEAD


def test_put_get_drop() -> None:
    cache = RowCache(100 * CHARGE)
    assert cache.get(0, b"k1") is None
    cache.put(0, b"k1", ROW)
    assert cache.get(0, b"k1") is ROW and cache.peek(0, b"k1") is ROW
    assert cache.get(1, b"k1") is None and cache.peek(1, b"k1") is None
    assert (cache.hits, cache.misses) == (1, 2)
    assert cache.stats()["bytes"] == CHARGE and cache.entries() == 1
    cache.drop(0, b"k1")
    cache.drop(0, b"k1")
    cache.drop(7, b"k1")
    assert cache.get(0, b"k1") is None and cache.stats()["bytes"] == 0
    cache.check_invariants()


def test_half_full_turns_the_generations() -> None:
    cache = RowCache(10 * CHARGE)
    for n in range(5):
        cache.put(0, b"k%d" % n, ROW)
    assert cache.old == {}
    cache.put(0, b"k5", ROW)
    assert cache.young == {} and len(cache.old[0]) == 6
    assert cache.old_charge == 6 * CHARGE and cache.young_charge == 0
    cache.check_invariants()


def test_what_is_used_survives_and_what_is_not_goes() -> None:
    cache = RowCache(10 * CHARGE)
    for n in range(6):
        cache.put(0, b"k%d" % n, ROW)
    assert cache.get(0, b"k0") is ROW
    for n in range(6, 11):
        cache.put(0, b"l%d" % (n % 10), ROW)
    assert cache.evicted == 5
    assert cache.peek(0, b"k0") is ROW and cache.peek(0, b"k1") is None
    cache.check_invariants()


def test_peek_moves_and_counts_nothing() -> None:
    cache = RowCache(10 * CHARGE)
    for n in range(6):
        cache.put(0, b"k%d" % n, ROW)
    assert cache.peek(0, b"k2") is ROW
    assert b"k2" in cache.old[0] and cache.hits == cache.misses == 0


def test_a_row_that_is_too_large_is_not_kept() -> None:
    cache = RowCache(1000)
    cache.put(0, b"k", b"small")
    cache.put(0, b"k", b"x" * 200)
    assert cache.peek(0, b"k") is None
    cache.check_invariants()


@pytest.mark.parametrize("old", [False, True])
def test_replacing_a_row_with_one_that_is_too_large_drops_it(old: bool) -> None:
    cache = RowCache(10 * CHARGE)
    cache.put(0, b"k1", ROW)
    if old:
        cache.grow(0)
        for n in range(5):
            cache.put(0, b"l%d" % n, ROW)
        assert b"k1" in cache.old[0]
    cache.replace(0, b"k1", b"x" * 100_000)
    assert cache.peek(0, b"k1") is None
    assert cache.stats()["bytes"] <= cache.capacity
    cache.check_invariants()


def test_replace_changes_only_what_is_cached() -> None:
    cache = RowCache(100 * CHARGE)
    cache.replace(0, b"k1", ROW)
    assert cache.peek(0, b"k1") is None
    cache.put(0, b"k1", ROW)
    cache.replace(0, b"k1", ROW + b"more")
    assert cache.peek(0, b"k1") == ROW + b"more"
    cache.check_invariants()


def test_replace_in_the_old_generation_moves_it_to_the_young() -> None:
    cache = RowCache(10 * CHARGE)
    for n in range(6):
        cache.put(0, b"k%d" % n, ROW)
    cache.replace(0, b"k3", b"new")
    assert cache.young[0] == {b"k3": b"new"} and b"k3" not in cache.old[0]
    cache.replace(0, b"absent", b"new")
    cache.check_invariants()


def test_rows_may_grow_in_place() -> None:
    cache = RowCache(100 * CHARGE)
    thing, other = Thing(100), Thing(100)
    cache.put(0, b"k", thing)
    cache.adjust(0, b"k", thing, 50)
    assert thing.charge == 150
    cache.check_invariants()
    # A row that is not in the cache (any more) only changes its own charge.
    cache.adjust(0, b"k", other, 70)
    assert other.charge == 170
    cache.check_invariants()


def test_a_row_of_the_old_generation_may_grow_too() -> None:
    cache = RowCache(10 * CHARGE)
    thing = Thing(10)
    cache.put(0, b"k", thing)
    for n in range(6):
        cache.put(0, b"k%d" % n, ROW)
    assert b"k" in cache.old[0]
    cache.adjust(0, b"k", thing, -4)
    cache.check_invariants()


def test_growing_in_place_turns_the_generations() -> None:
    cache = RowCache(1000)
    cache.put(0, b"a", ROW)
    cache.rows(0)[b"a"] = ROW + b"x" * 500
    cache.grow(500)
    assert b"a" in cache.old[0] and cache.young == {}
    cache.check_invariants()


def test_clear_forgets_one_database() -> None:
    cache = RowCache(10 * CHARGE)
    for n in range(8):
        cache.put(n % 2, b"k%d" % n, ROW)
    cache.clear(1)
    cache.clear(5)
    assert [cache.peek(n % 2, b"k%d" % n) for n in (1, 3, 5, 7)] == [None] * 4
    assert cache.peek(0, b"k6") is ROW
    cache.check_invariants()
    cache.clear_all()
    assert cache.entries() == 0 and cache.stats()["bytes"] == 0
    cache.check_invariants()


def test_what_was_thrown_away_is_freed_in_slices() -> None:
    cache = RowCache(1 << 30)
    for n in range(9000):
        cache.put(0, b"k%d" % n, ROW)
    thrown = cache.rows(0)
    cache.clear(0)
    assert len(thrown) == 9000
    assert cache.dispose() and len(thrown) == 5000
    assert cache.dispose() and len(thrown) == 1000
    assert not cache.dispose() and not thrown
    assert not cache.dispose()


def test_resize_makes_room() -> None:
    cache = RowCache(100 * CHARGE)
    for n in range(20):
        cache.put(0, b"k%d" % n, ROW)
    cache.resize(10 * CHARGE)
    assert cache.young == {} and len(cache.old[0]) == 20
    assert cache.stats()["capacity"] == 10 * CHARGE


@pytest.mark.parametrize("seed", range(6))
def test_random_use_answers_with_the_last_row_or_none_and_stays_in_bounds(seed: int) -> None:
    rng = random.Random(seed)
    capacity = 4000
    cache, last = RowCache(capacity), {}
    for step in range(3000):
        db, key = rng.randrange(3), b"k%d" % rng.randrange(30)
        roll = rng.random()
        if roll < 0.45:
            assert cache.get(db, key) in (None, last.get((db, key)))
        elif roll < 0.8:
            last[db, key] = row = b"v" * rng.randrange(1, 300)
            (cache.put if rng.random() < 0.5 else cache.replace)(db, key, row)
            if cache.peek(db, key) is None:
                cache.drop(db, key)
        elif roll < 0.95:
            cache.drop(db, key)
            last.pop((db, key), None)
        elif roll < 0.97:
            cache.clear(db)
        else:
            cache.dispose()
        if step % 50 == 0:
            cache.check_invariants()
        assert cache.stats()["bytes"] <= capacity + capacity // 4


def test_before_rows_are_lost_somebody_is_told() -> None:
    cache = RowCache(4000)
    seen: list[list[bytes]] = []
    cache.before_loss = lambda: seen.append(sorted(cache.old.get(0, {})))
    number = 0
    while len(seen) < 2:
        assert not seen or cache.peek(0, b"0") is not None
        cache.put(0, b"%d" % number, b"r" * 100)
        number += 1
    assert b"0" in seen[1] and cache.peek(0, b"0") is None, "told while they were still there"
    cache.clear_all()
    assert len(seen) == 3


def test_a_turn_is_announced() -> None:
    cache = RowCache(10_000)
    assert not cache.is_turning_soon
    cache.put(0, b"k", b"r" * 2000)
    assert not cache.is_turning_soon
    cache.put(0, b"l", b"r" * 2000)
    assert cache.is_turning_soon
