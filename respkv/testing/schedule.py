"""Virtual time: one heap of events, clocks that are wrong in the ways of real ones, and the trace of a run.

``Schedule`` is the only owner of time in a simulation: a heap of (time, number, action), the number making the order
of events of one moment that of their making. An action runs to its end; nothing else moves time.

``Trace`` takes one line an event and keeps a running xxh3 digest of all of them. Two runs of one seed must give the
same digest, whatever PYTHONHASHSEED is.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Final

from xxhash import xxh3_64

Action = Callable[[], None]

#: Where every wall clock starts, milliseconds since the Unix epoch.
EPOCH_MS: Final = 1_700_000_000_000
_START_US: Final = 1_000_000
_MILLION: Final = 1_000_000


class Schedule:
    """Events by (time, number). ``now_us`` is the true time, which no simulated process sees."""

    __slots__ = ("_heap", "_number", "events", "now_us")

    def __init__(self) -> None:
        self.now_us = 0
        self.events = 0
        self._heap: list[tuple[int, int, Action]] = []
        self._number = 0

    def at(self, time_us: int, action: Action) -> None:
        """Run ``action`` at that time, or now if it has passed, behind what was asked for earlier."""
        self._number += 1
        heapq.heappush(self._heap, (max(time_us, self.now_us), self._number, action))

    def after(self, delay_us: int, action: Action) -> None:
        """Run ``action`` after a delay."""
        self.at(self.now_us + delay_us, action)

    def run_until(self, time_us: int, stop: Callable[[], bool] | None = None) -> None:
        """Let time pass up to ``time_us``, or until ``stop()`` is true after an event."""
        heap = self._heap
        while heap and heap[0][0] <= time_us:
            self.now_us, _, action = heapq.heappop(heap)
            self.events += 1
            action()
            if stop is not None and stop():
                return
        self.now_us = max(self.now_us, time_us)

    def waiting(self) -> int:
        """Events to come."""
        return len(self._heap)


class VirtualClock:
    """One machine's clocks: they drift, and the wall clock is off and may jump. Monotonic time goes on over restarts
    of a process."""

    __slots__ = ("_drift_ppm", "_greatest_us", "_offset_us", "_schedule")

    def __init__(self, schedule: Schedule, *, offset_us: int = 0, drift_ppm: int = 0) -> None:
        self._schedule = schedule
        self._offset_us = offset_us
        self._drift_ppm = drift_ppm
        self._greatest_us = 0

    def monotonic_us(self) -> int:
        return _START_US + self._schedule.now_us * (_MILLION + self._drift_ppm) // _MILLION

    def steady_us(self) -> int:
        return self.monotonic_us()

    def wall_us(self) -> int:
        return EPOCH_MS * 1000 + self.monotonic_us() - _START_US + self._offset_us

    def true_us(self, monotonic_us: int) -> int:
        """The first true time at which the monotonic clock shows at least ``monotonic_us``."""
        return -(-(monotonic_us - _START_US) * _MILLION // (_MILLION + self._drift_ppm))

    def greatest_us(self) -> int:
        """The latest that the wall clock has ever shown."""
        self._greatest_us = max(self._greatest_us, self.wall_us())
        return self._greatest_us

    def set_offset(self, offset_us: int) -> None:
        """The wall clock is set right, but for ``offset_us``; what drift has done stays."""
        self.greatest_us()
        self._offset_us = offset_us

    @property
    def offset_us(self) -> int:
        """How far the wall clock is off, drift left aside."""
        return self._offset_us


class Trace:
    """The story of a run. ``write`` gets each line as well, if given."""

    __slots__ = ("_hash", "_schedule", "_write", "lines")

    def __init__(self, schedule: Schedule, write: Callable[[str], object] | None = None) -> None:
        self._schedule = schedule
        self._hash = xxh3_64()
        self._write = write
        self.lines = 0

    def line(self, text: str) -> None:
        """Note an event that happens now."""
        text = f"{self._schedule.now_us} {text}\n"
        self._hash.update(text.encode())
        self.lines += 1
        if self._write is not None:
            self._write(text)

    def digest(self) -> str:
        """Of all lines until now."""
        return self._hash.hexdigest()
