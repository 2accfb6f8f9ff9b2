"""Arithmetic of measurements: percentiles, pauses, rates, tables. Nothing here looks at the world."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from statistics import median


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least ``share`` (0..100) of them do not exceed. ValueError for none."""
    if not values:
        raise ValueError("no values")
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * share / 100) - 1)]


def summary_ms(latencies_us: Sequence[float]) -> dict[str, float]:
    """Count and latencies in milliseconds. ValueError for none."""
    named = {"p50_ms": 50.0, "p99_ms": 99.0, "p999_ms": 99.9, "max_ms": 100.0}
    return {
        "samples": len(latencies_us),
        **{name: round(percentile(latencies_us, share) / 1000, 3) for name, share in named.items()},
    }


def longest_gap(moments: Sequence[float]) -> float:
    """The longest time between two moments that follow each other; 0 for fewer than two."""
    return max((later - earlier for earlier, later in itertools.pairwise(moments)), default=0.0)


def rates(samples: Sequence[tuple[float, float]]) -> list[float]:
    """Growth a second between samples (second, total) that follow each other; those of no duration are left out."""
    return [
        (total - before) / (at - since)
        for (since, before), (at, total) in itertools.pairwise(samples)
        if at > since
    ]


def ratio_of_pairs(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Median of our figure over theirs, run by run. ValueError when there are none or not as many of each."""
    if len(ours) != len(theirs) or not ours:
        raise ValueError(f"{len(ours)} runs against {len(theirs)}")
    return median(a / b for a, b in zip(ours, theirs))


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Aligned text: the first column to the left, the others to the right."""
    lines = [list(head), *[list(row) for row in rows]]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    return "\n".join(
        "  ".join(cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths)))
        for line in lines
    )
