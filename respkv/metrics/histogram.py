"""A latency histogram of log-linear buckets, as HdrHistogram has them.

Values are whole microseconds. Below 64 each has a bucket of its own; above, each power of two is cut into
32 buckets, so that a bucket is at most 1/32 (3.1 %) of its lower end wide and the middle, which is what
``percentile`` answers, is off by 1.6 % at most. Values above ``VALUE_US_MAX`` are counted there.

Invariant: ``count`` is the sum of the buckets.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Final

VALUE_US_MAX: Final = (1 << 26) - 1
_SUB_BITS: Final = 5
_LINEAR: Final = 1 << (_SUB_BITS + 1)
_BUCKETS: Final = 64 + 20 * 32


def _bucket_of(value_us: int) -> int:
    """The bucket that counts ``value_us``."""
    if value_us < _LINEAR:
        return max(value_us, 0)
    shift = value_us.bit_length() - _SUB_BITS - 1
    return (shift << _SUB_BITS) + (value_us >> shift)


def _lowest(bucket: int) -> int:
    """The least value that ``bucket`` counts."""
    if bucket < _LINEAR:
        return bucket
    shift = (bucket >> _SUB_BITS) - 1
    return ((bucket & 31) + 32) << shift


class Histogram:
    """Counts of values by size. A few hundred counters, made when the first value comes."""

    __slots__ = ("_buckets", "count", "total_us", "worst_us")

    def __init__(self) -> None:
        self._buckets: list[int] = []
        self.count = 0
        self.total_us = 0
        self.worst_us = 0

    def record(self, value_us: int, count: int = 1) -> None:  # HOT: histogram_record
        """Count ``value_us`` ``count`` times."""
        if value_us < 64:
            bucket = value_us if value_us > 0 else 0
        elif value_us <= VALUE_US_MAX:
            shift = value_us.bit_length() - 6
            bucket = (shift << 5) + (value_us >> shift)
        else:
            bucket = _BUCKETS - 1
        try:
            self._buckets[bucket] += count
        except IndexError:
            self._buckets = [0] * _BUCKETS
            self._buckets[bucket] += count
        self.count += count
        self.total_us += value_us * count
        if value_us > self.worst_us:
            self.worst_us = value_us

    def percentile(self, percent: float) -> int:
        """The value that ``percent`` of 100 values do not exceed, in us; 0 when empty. O(buckets)."""
        return self.percentiles((percent,))[0]

    def percentiles(self, percents: Sequence[float]) -> list[int]:
        """As ``percentile``, several in one pass."""
        if not self.count:
            return [0] * len(percents)
        sums = list(accumulate(self._buckets))
        found = []
        for percent in percents:
            wanted = max(1, -int(-self.count * min(max(percent, 0.0), 100.0) // 100))
            bucket = bisect_left(sums, wanted)
            middle = (_lowest(bucket) + _lowest(bucket + 1) - 1) // 2
            found.append(min(middle, self.worst_us))
        return found

    def buckets(self) -> list[tuple[int, int]]:
        """(upper end in us, values up to it) for powers of two from 1, cumulative, as LATENCY HISTOGRAM has
        them: without those that add none. O(buckets)."""
        found: list[tuple[int, int]] = []
        at = seen = 0
        for power in range(27):
            # Each value belongs to the least power of two that is not below it.
            last = _bucket_of(1 << power) if power < 26 else _BUCKETS - 1
            before = seen
            if self._buckets:
                seen += sum(self._buckets[at : last + 1])
            at = last + 1
            if seen > before:
                found.append((1 << power, seen))
            if seen == self.count:
                break
        return found

    def cumulative(self, ends_us: tuple[int, ...]) -> Iterator[int]:
        """How many values are at most each of ``ends_us`` (ascending), to a bucket's width. O(buckets)."""
        at = seen = 0
        for end in ends_us:
            last = min(_bucket_of(end), _BUCKETS - 1) + 1
            seen += sum(self._buckets[at:last])
            at = max(at, last)
            yield seen

    def merge(self, other: Histogram) -> None:
        """Add the values of ``other``."""
        if other._buckets:
            mine = self._buckets or [0] * _BUCKETS
            self._buckets = [a + b for a, b in zip(mine, other._buckets)]
        self.count += other.count
        self.total_us += other.total_us
        self.worst_us = max(self.worst_us, other.worst_us)

    def reset(self) -> None:
        """Forget everything."""
        self._buckets = []
        self.count = self.total_us = self.worst_us = 0

    def stats(self) -> dict[str, int]:
        """count, total and worst in microseconds, and three percentiles."""
        return {
            "count": self.count,
            "total_us": self.total_us,
            "worst_us": self.worst_us,
            "p50_us": self.percentile(50),
            "p99_us": self.percentile(99),
            "p999_us": self.percentile(99.9),
        }

    def check_invariants(self) -> None:
        assert self.count == sum(self._buckets)
        assert not self._buckets or len(self._buckets) == _BUCKETS

    def __repr__(self) -> str:
        return f"<Histogram {self.stats()}>"
