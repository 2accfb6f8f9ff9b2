"""Which runs to merge next: a pure function of the version.

Size-tiered: runs of like size form a tier, and a tier of ``runs_per_tier`` runs becomes one run of the next.
A record is so rewritten about once per tier, where leveled compaction rewrites it ten times per level and
the interpreter's time is what is scarce (O'Neil et al., "The Log-Structured Merge-Tree", 1996; Dayan,
Idreos, "Dostoevsky", 2018, for what tiering trades for it). Five rules, the first that applies:

* garbage: when the newer runs together have outgrown ``GARBAGE_PERCENT`` of the oldest run, everything is
  merged into one run; the garbage, at most what the newer runs replace, is bounded by that.
* tier: the newest window of ``runs_per_tier`` or more neighbours, none of which is over ``LIKE_SIZE`` times
  the largest of the newer ones in the window.
* count: runs near ``stall_runs``, where writers would be held: the cheapest window of ``runs_per_tier``.
* idle: when the caller says that nobody is kept waiting, and the newer runs are ``IDLE_PERCENT`` of the
  oldest or more, everything is merged, since each run costs every read that it cannot answer a filter test.
* cramped: when the caller says that writes are refused for want of disk, everything is merged, however small the newer
  runs are: they hold what was deleted or has expired since, which takes a few bytes and frees many.

Only neighbours in age are merged, or an old record could come to stand above a newer one. With one run or
none there is nothing to do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from respkv.storage.version import Run, Version

#: Newer runs of this part of the oldest run's size are merged into it.
GARBAGE_PERCENT: Final = 70
#: When there is nothing better to do, this part is enough.
IDLE_PERCENT: Final = 10
#: A run more than this many times larger than all newer ones of the window does not belong to their tier.
LIKE_SIZE: Final = 2
#: So many runs below the stall limit the count rule begins.
STALL_MARGIN: Final = 4


class CompactionOptions(Protocol):
    """The part of ``EngineOptions`` that matters here."""

    @property
    def runs_per_tier(self) -> int: ...

    @property
    def stall_runs(self) -> int: ...


@dataclass(frozen=True, slots=True)
class CompactionPick:
    """Runs to merge, newest first, neighbours in age. ``reason`` is the rule's name."""

    runs: tuple[Run, ...]
    reason: str

    @property
    def input_bytes(self) -> int:
        return sum(run.size for run in self.runs)


def pick(
    version: Version, options: CompactionOptions, *, idle: bool = False, cramped: bool = False
) -> CompactionPick | None:
    """The merge that is due, None when the runs are in good shape. O(runs squared), runs being few."""
    sizes = [run.size for run in version.runs]
    found = _pick_window(sizes, options)
    if found is None and idle and len(sizes) > 1 and sum(sizes[:-1]) * 100 >= sizes[-1] * IDLE_PERCENT:
        found = 0, len(sizes), "idle"
    if found is None and cramped and len(sizes) > 1:
        found = 0, len(sizes), "cramped"
    if found is None:
        return None
    start, stop, reason = found
    return CompactionPick(version.runs[start:stop], reason)


def debt_bytes(version: Version, options: CompactionOptions) -> int:
    """Bytes that merges would have to read until none is due, were nothing written meanwhile.

    An upper estimate: an output is taken to be as large as its inputs.
    """
    sizes = [run.size for run in version.runs]
    debt = 0
    while True:
        found = _pick_window(sizes, options)
        if found is None:
            return debt
        start, stop, _ = found
        merged = sum(sizes[start:stop])
        debt += merged
        sizes[start:stop] = [merged]


def _pick_window(sizes: Sequence[int], options: CompactionOptions) -> tuple[int, int, str] | None:
    """(first, one after the last, reason) of the runs to merge; sizes newest first. Two runs at least."""
    count = len(sizes)
    if count < 2:
        return None
    width = options.runs_per_tier
    if count >= width and sum(sizes[:-1]) * 100 >= sizes[-1] * GARBAGE_PERCENT:
        return 0, count, "garbage"
    for start in range(count - width + 1):
        largest, stop = sizes[start], start + 1
        while stop < count and sizes[stop] <= LIKE_SIZE * largest:
            largest = max(largest, sizes[stop])
            stop += 1
        if stop - start >= width:
            return start, stop, "tier"
    if count > max(width, options.stall_runs - STALL_MARGIN):
        starts = range(count - width + 1)
        best = min(starts, key=lambda start: (sum(sizes[start : start + width]), start))
        return best, best + width, "count"
    return None
