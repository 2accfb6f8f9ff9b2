from __future__ import annotations

import math

import pytest

from respkv.storage.compaction import CompactionPick, debt_bytes, pick
from respkv.storage.options import EngineOptions
from respkv.storage.sstable.format import TableMeta
from respkv.storage.version import Run, Version

OPTIONS = EngineOptions(runs_per_tier=4, stall_runs=12)


def version(*sizes: int) -> Version:
    """Runs of these sizes, newest first."""
    count = len(sizes)
    return Version(
        tuple(
            Run(count - at, (TableMeta(count - at, size, 1, b"a", b"b", b"", b"", 0),)) for at, size in enumerate(sizes)
        )
    )


def picked(*sizes: int, options: EngineOptions = OPTIONS) -> tuple[list[int], str] | None:
    found = pick(version(*sizes), options)
    return None if found is None else ([run.size for run in found.runs], found.reason)


def test_quiet_shapes() -> None:
    for sizes in ([], [5], [5, 5], [5, 5, 5], [10, 1000], [30, 30, 30, 1000], [1, 30, 200, 1000]):
        assert picked(*sizes) is None
        assert debt_bytes(version(*sizes), OPTIONS) == 0


def test_a_full_tier_is_merged() -> None:
    assert picked(30, 31, 32, 33, 1000) == ([30, 31, 32, 33], "tier")
    assert picked(30, 30, 30, 30, 120, 1000) == ([30, 30, 30, 30], "tier")
    assert picked(30, 120, 120, 120, 120, 2000) == ([120, 120, 120, 120], "tier")


def test_a_small_run_between_large_ones_joins_them() -> None:
    assert picked(30, 1, 30, 1, 1000) == ([30, 1, 30, 1], "tier")
    assert picked(1, 30, 1, 30, 1, 1000) == ([30, 1, 30, 1], "tier")


def test_newer_runs_that_outgrow_the_oldest_take_it_along() -> None:
    assert picked(100, 100, 400, 1000) is None
    assert picked(100, 100, 500, 1000) == ([100, 100, 500, 1000], "garbage")


def test_many_unlike_runs_are_merged_where_it_is_cheapest() -> None:
    sizes = [4**n for n in range(9)]
    assert picked(*sizes) == ([1, 4, 16, 64], "count")
    assert picked(*sizes[:8]) is None
    rising = [4**n for n in range(8, -1, -1)]
    assert picked(*rising, 4**12) == (rising[:9], "tier")


def test_without_disk_the_smallest_run_is_worth_a_merge() -> None:
    for sizes in ((1, 1000), (1, 2, 1000)):
        assert pick(version(*sizes), OPTIONS, idle=True) is None
        found = pick(version(*sizes), OPTIONS, cramped=True)
        assert found is not None and ([run.size for run in found.runs], found.reason) == (list(sizes), "cramped")
    assert pick(version(1000), OPTIONS, cramped=True) is None
    due = pick(version(30, 31, 32, 33, 1000), OPTIONS, cramped=True)
    assert due is not None and due.reason == "tier", "what takes less room comes first"


def test_idle_hands_merge_what_is_worth_it() -> None:
    for sizes in ([5, 5], [10, 10, 200], [1, 30, 200, 1000]):
        found = pick(version(*sizes), OPTIONS, idle=True)
        assert found is not None
        assert ([run.size for run in found.runs], found.reason) == (sizes, "idle")
    for sizes in ([], [5], [1, 2, 1000]):
        assert pick(version(*sizes), OPTIONS, idle=True) is None
    due = pick(version(30, 31, 32, 33, 1000), OPTIONS, idle=True)
    assert due is not None and due.reason == "tier"


def test_other_options() -> None:
    two = EngineOptions(runs_per_tier=2, stall_runs=3)
    assert picked(5, 5, options=two) == ([5, 5], "garbage")
    assert picked(1, 10, options=two) is None
    assert picked(1, 10, 100, options=two) == ([1, 10], "count")


def test_inputs_are_neighbours_newest_first() -> None:
    found = pick(version(1, 50, 51, 52, 53, 2000), OPTIONS)
    assert isinstance(found, CompactionPick)
    assert [run.sequence for run in found.runs] == [5, 4, 3, 2]
    assert found.input_bytes == 206


def test_debt_counts_merges_to_come() -> None:
    assert debt_bytes(version(30, 31, 32, 33, 1000), OPTIONS) == 126
    # The first merge makes a fourth run of the next tier.
    assert debt_bytes(version(30, 30, 30, 30, 120, 120, 120, 5000), OPTIONS) == 120 + 480


@pytest.mark.parametrize("rounds", [1, 3, 10])
def test_amplification_of_random_overwriting(rounds: int) -> None:
    """5 million keys of 200 bytes, memtables of 32 MiB: a run is modelled by the share of all keys in it."""
    keys, flushed = 5_000_000, 32 * (1 << 20) // (130 + 21 + 211)
    share = 1 - math.exp(-flushed / keys)
    runs: list[float] = []
    user = written = worst_space = 0.0
    worst_runs = 0
    while user < rounds:
        runs.insert(0, share)
        user += flushed / keys
        written += share
        while (found := pick(version(*(int(part * keys * 240) for part in runs)), OPTIONS)) is not None:
            start = len(runs) - found.runs[0].sequence
            stop = start + len(found.runs)
            merged = 1 - math.prod(1 - part for part in runs[start:stop])
            written += merged
            runs[start:stop] = [merged]
        worst_runs = max(worst_runs, len(runs))
        worst_space = max(worst_space, sum(runs) / (1 - math.prod(1 - part for part in runs)))
    assert written / user < 5
    assert worst_space < 2
    assert worst_runs < OPTIONS.stall_runs
