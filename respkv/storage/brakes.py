"""How long clients that write wait so that flushes and compaction keep up."""

from __future__ import annotations

from typing import Final

from respkv.base.limits import HOLD_US

#: How long clients that write wait with so many runs beyond ``stall_runs``, and at most while a memtable waits.
RUN_BRAKES_US: Final = (0, 2_500, 5_000, 7_500, 10_000, 20_000, 40_000, 80_000, 120_000, 160_000)
BRAKE_US: Final = 10_000
#: So many runs beyond ``stall_runs`` nobody may write any more: each costs memory, and every read.
_HELD_RUNS: Final = 24


def brake_us(waiting: int, filled: float, excess: int) -> int:
    """The wait after a write, us, or HOLD_US, with so many memtables ``waiting`` for their flush, the active one
    ``filled`` to that part of its limit, and ``excess`` runs beyond ``stall_runs``.

    Grows while a memtable waits and the active one passes half of its limit: memory is bounded, so at its limit writers
    are held. Grows with the runs, as far as merging them can help: there a trickle goes on, which leaves the processor
    to the merging.
    """
    wait_us = 0
    if waiting:
        level = (filled - 0.5) * 2.0
        if waiting > 1 or level >= 1.0:
            return HOLD_US
        wait_us = max(0, int(level * BRAKE_US))
    if excess <= 0:
        return wait_us
    return HOLD_US if excess >= _HELD_RUNS else max(wait_us, RUN_BRAKES_US[min(excess, len(RUN_BRAKES_US) - 1)])
