from __future__ import annotations

import random

import pytest

from respkv.metrics.histogram import VALUE_US_MAX, Histogram


def filled(values: list[int]) -> Histogram:
    histogram = Histogram()
    for value in values:
        histogram.record(value)
    histogram.check_invariants()
    return histogram


def test_empty() -> None:
    histogram = Histogram()
    assert histogram.percentile(99) == 0 and histogram.percentiles((1, 2)) == [0, 0]
    assert histogram.buckets() == []
    assert list(histogram.cumulative((1, 100))) == [0, 0]
    assert histogram.stats()["count"] == 0


@pytest.mark.parametrize(
    "value", [0, 1, 63, 64, 65, 127, 128, 1000, 12345, 999_999, 59_999_999, VALUE_US_MAX]
)
def test_error_is_below_three_percent(value: int) -> None:
    histogram = filled([value, VALUE_US_MAX])
    assert abs(histogram.percentile(50) - value) <= value * 0.03


def test_small_values_are_exact() -> None:
    histogram = filled(list(range(64)))
    assert [histogram.percentile(p) for p in (0, 50, 100)] == [0, 31, 63]


def test_percentiles_against_sorting() -> None:
    rng = random.Random(1)
    values = [int(rng.lognormvariate(6, 2)) for _ in range(5000)]
    histogram = filled(values)
    values.sort()
    wanted = (1, 25, 50, 90, 99, 99.9, 100)
    for percent, found in zip(wanted, histogram.percentiles(wanted)):
        exact = values[max(0, -int(-len(values) * percent // 100) - 1)]
        assert abs(found - exact) <= max(1, exact * 0.03), percent
        assert found == histogram.percentile(percent)


def test_too_large_values_are_counted_in_the_last_bucket() -> None:
    histogram = filled([10**12])
    assert histogram.count == 1 and histogram.worst_us == 10**12
    assert VALUE_US_MAX * 0.97 <= histogram.percentile(50) <= VALUE_US_MAX
    assert histogram.buckets() == [(1 << 26, 1)]


def test_record_with_count() -> None:
    histogram = Histogram()
    histogram.record(10, 99)
    histogram.record(1000)
    assert histogram.count == 100 and histogram.total_us == 1990
    assert histogram.percentile(99) == 10
    assert histogram.percentile(99.9) == pytest.approx(1000, rel=0.03)


def test_buckets_are_powers_of_two_and_cumulative() -> None:
    assert filled([0, 1, 2, 3, 4, 5, 100]).buckets() == [(1, 2), (2, 3), (4, 5), (8, 6), (128, 7)]


def test_cumulative() -> None:
    histogram = filled([10, 60, 200, 5000, 10**9])
    assert list(histogram.cumulative((10, 100, 1000, 10_000))) == [1, 2, 3, 4]


def test_merge_is_as_if_recorded_in_one() -> None:
    left, right = filled([1, 100, 10_000]), filled([5, 100_000])
    both = filled([1, 100, 10_000, 5, 100_000])
    left.merge(right)
    left.merge(Histogram())
    assert left.stats() == both.stats() and left.buckets() == both.buckets()
    fresh = Histogram()
    fresh.merge(both)
    fresh.record(7)
    fresh.check_invariants()
    both.check_invariants()
    assert fresh.count == both.count + 1


def test_reset() -> None:
    histogram = filled([5])
    histogram.reset()
    assert histogram.stats() == Histogram().stats()
    histogram.record(7)
    assert histogram.percentile(50) == 7
