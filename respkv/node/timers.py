"""Timers: a heap of deadlines, in monotonic microseconds. Equal deadlines fire in order of their making."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from itertools import count

Action = Callable[[], None]


class Timers:
    """Deadlines and what to do at them."""

    __slots__ = ("_heap", "_live", "_numbers")

    def __init__(self) -> None:
        self._heap: list[tuple[int, int]] = []
        self._live: dict[int, Action] = {}
        self._numbers = count()

    def at(self, deadline_us: int, action: Action) -> Action:
        """Call ``action`` at a time; the result cancels it. O(log n)."""
        number = next(self._numbers)
        self._live[number] = action
        heapq.heappush(self._heap, (deadline_us, number))

        def cancel() -> None:
            self._live.pop(number, None)

        return cancel

    def next_us(self) -> int | None:
        """The earliest deadline, None when there is none."""
        heap = self._heap
        while heap and heap[0][1] not in self._live:
            heapq.heappop(heap)
        return heap[0][0] if heap else None

    def run(self, now_us: int) -> int:
        """Call everything that is due; how many. An action due now that is added meanwhile waits for the next call.

        What an action raises passes through; the actions behind it stay due.
        """
        due = []
        heap = self._heap
        while heap and heap[0][0] <= now_us:
            due.append(heapq.heappop(heap))
        ran = 0
        for place, (_, number) in enumerate(due):
            action = self._live.pop(number, None)
            if action is not None:
                try:
                    action()
                except BaseException:
                    for entry in due[place + 1 :]:
                        heapq.heappush(heap, entry)
                    raise
                ran += 1
        return ran

    def __len__(self) -> int:
        return len(self._live)
