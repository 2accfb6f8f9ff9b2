"""Hot keys: the bounds of the sketch against exact counts, what it forgets, how requests are chosen, sessions."""

from __future__ import annotations

import random
from collections import Counter
from itertools import accumulate, pairwise

import pytest

from respkv.base.slots import slot_of
from respkv.env.rng import seeded
from respkv.metrics.hot_keys import (
    CAPACITY,
    HOT_SAMPLES_MIN,
    INTERVAL,
    KEY_BYTES_MAX,
    NOTHING,
    WINDOW,
    HotKeys,
    SpaceSaving,
    Totals,
    Tracking,
)


def skewed(rng: random.Random, count: int, keys: int) -> list[bytes]:
    """Keys with frequencies like 1/rank."""
    weights = list(accumulate(1 / rank for rank in range(1, keys + 1)))
    return [b"k%d" % number for number in rng.choices(range(keys), cum_weights=weights, k=count)]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("capacity", [1, 2, 17, 64])
def test_counts_are_between_their_bounds(seed: int, capacity: int) -> None:
    rng = random.Random(seed)
    sketch, exact, writes = SpaceSaving(capacity), Counter[bytes](), Counter[bytes]()
    for key in skewed(rng, 2000, 300):
        write = rng.random() < 0.3
        sketch.add(key, write=write)
        exact[key] += 1
        writes[key] += write
        if exact.total() % 100 == 0:
            sketch.check_invariants()
    assert sketch.total == 2000
    assert len(sketch) == capacity
    for row in sketch.top(capacity):
        assert row.samples <= exact[row.key] <= row.at_most
        assert row.writes <= writes[row.key]
    # Whoever has more than one in `capacity` of all samples has a counter.
    kept = {row.key for row in sketch.top(capacity)}
    assert {key for key, count in exact.items() if count > 2000 / capacity} <= kept


def test_the_most_frequent_keys_come_first() -> None:
    sketch, exact = SpaceSaving(64), Counter[bytes]()
    for key in skewed(random.Random(1), 20_000, 1000):
        sketch.add(key, write=False)
        exact[key] += 1
    assert [row.key for row in sketch.top(5)] == [key for key, _ in exact.most_common(5)]
    assert len(sketch.top(3)) == 3
    assert sketch.replaced > 0


def test_a_key_that_takes_a_counter_over_inherits_its_count_as_error() -> None:
    sketch = SpaceSaving(1)
    for _ in range(9):
        sketch.add(b"old", write=True)
    sketch.add(b"new", write=False)
    (row,) = sketch.top(1)
    assert row == (b"new", 1, 10, 0)
    assert sketch.at_least(b"old") == 0 and sketch.at_least(b"new") == 1
    sketch.check_invariants()


def test_halving_forgets_and_keeps_the_bounds() -> None:
    rng = random.Random(3)
    sketch, weights = SpaceSaving(16), Counter[bytes]()
    true: dict[bytes, float] = {}
    for number, key in enumerate(skewed(rng, 3000, 100), 1):
        sketch.add(key, write=True)
        weights[key] += 1
        true[key] = true.get(key, 0) + 1
        if number % 500 == 0:
            sketch.halve()
            sketch.check_invariants()
            true = {name: count / 2 for name, count in true.items()}
    for row in sketch.top(16):
        assert row.samples <= true[row.key] <= row.at_most + 1
    for _ in range(20):
        sketch.halve()
    assert len(sketch) == 0 and sketch.least == 0 and sketch.top(5) == []
    sketch.add(b"again", write=False)
    sketch.check_invariants()


def test_note_samples_one_request_in_sixty_four() -> None:
    keys = HotKeys(seeded(1))
    for _ in range(64_000):
        keys.note(b"k", False)
    assert 900 <= keys.samples <= 1100
    assert keys.sketch.at_least(b"k") == keys.samples
    keys.check_invariants()


def test_picks_choose_as_many_of_batches() -> None:
    """Batches and single requests go through one countdown: each choice is a request of the batch, in order."""
    rng = random.Random(2)
    keys, seen, chosen = HotKeys(seeded(1)), 0, []
    while seen < 64_000:
        count = rng.choice([1, 1, 2, 16, 100, 1000])
        at = list(keys.picks(count))
        assert all(0 <= index < count for index in at) and at == sorted(set(at))
        chosen += [seen + index for index in at]
        seen += count
    assert 900 <= len(chosen) <= 1100
    gaps = [after - before for before, after in pairwise(chosen)]
    assert min(gaps) >= 1 and max(gaps) < 2 * INTERVAL
    # The same generator chooses the same requests one by one.
    singles = HotKeys(seeded(1))
    assert [number for number in range(seen) if singles.picks(1)] == chosen


def test_a_client_that_goes_round_does_not_hide_its_keys() -> None:
    """With a fixed distance of 64 only one of these keys would ever be seen."""
    keys = HotKeys(seeded(4))
    for number in range(64 * 64 * 4):
        keys.note(b"k%d" % (number % 64), False)
    assert len(keys.sketch) > 48


def test_a_hot_key_is_found_among_many_and_cools_down() -> None:
    keys = HotKeys(seeded(5))
    rng = random.Random(6)

    def run(count: int, *, share: float) -> None:
        for _ in range(count):
            keys.sample(b"hot" if rng.random() < share else b"k%d" % rng.randrange(100_000), False)

    run(HOT_SAMPLES_MIN - 2, share=1)
    assert not keys.is_hot(b"hot"), "too few samples to say"
    run(4000, share=0.1)
    assert keys.is_hot(b"hot") and not keys.is_hot(b"k1")
    assert [row.key for row in keys.hot()] == [b"hot"]
    assert keys.stats()["hot_keys"] == 1
    run(5 * WINDOW, share=0)
    assert not keys.is_hot(b"hot") and keys.hot() == []
    keys.check_invariants()


def test_memory_is_bounded() -> None:
    keys = HotKeys(seeded(7))
    for number in range(10 * CAPACITY):
        keys.sample(b"%d" % number, True)
    assert len(keys.sketch) == CAPACITY
    before = keys.sketch.total
    keys.sample(b"x" * (KEY_BYTES_MAX + 1), False)
    assert keys.sketch.total == before and keys.stats()["hot_key_oversized"] == 1
    keys.sample(b"x" * KEY_BYTES_MAX, False)
    assert keys.sketch.total == before + 1


def test_a_session_sees_what_is_sampled_between_start_and_stop() -> None:
    keys = HotKeys(seeded(8))
    keys.sample(b"before", False)
    keys.tracking = tracking = Tracking(count=2, cpu=True, net=False)
    for key, write in ((b"a", True), (b"a", False), (b"b", False)):
        keys.sample(key, write)
    tracking.stop(5, Totals(command_us=7))
    keys.sample(b"after", False)
    assert tracking.sketch.top(5) == [(b"a", 2, 2, 1), (b"b", 1, 1, 0)]
    assert not tracking.active and tracking.stop_ms == 5
    tracking.stop(9, NOTHING)
    assert tracking.stop_ms == 5 and tracking.ended == Totals(command_us=7)
    keys.check_invariants()


def test_a_session_of_some_slots() -> None:
    inside, outside = b"foo", b"bar"
    tracking = Tracking(count=1, cpu=True, net=True, slots=[slot_of(inside)])
    for _ in range(3):
        tracking.offer(inside, write=False)
    tracking.offer(outside, write=False)
    (row,) = tracking.sketch.top(2)
    assert row.key == inside and tracking.offered == 4 and tracking.selected == 3
    assert tracking.in_slots(1000) == 750
    assert tracking.share(1000, row) == 750


def test_a_session_that_is_thinned_out() -> None:
    tracking = Tracking(count=1, cpu=True, net=False, ratio=INTERVAL * 3 - 1)
    assert tracking.ratio == INTERVAL * 3
    for _ in range(9):
        tracking.offer(b"k", write=False)
    assert tracking.sketch.total == 3 and tracking.selected == 9
    assert Tracking(count=1, cpu=True, net=False, ratio=1).ratio == INTERVAL


def test_shares_of_nothing() -> None:
    tracking = Tracking(count=1, cpu=True, net=False)
    assert tracking.in_slots(1000) == 0


def test_what_was_spent_is_never_negative() -> None:
    """CONFIG RESETSTAT may come between."""
    assert Totals(5, 5, 5, 5).since(Totals(2, 9, 5, 0)) == (3, 0, 0, 5)
