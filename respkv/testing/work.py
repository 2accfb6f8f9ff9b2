"""The blocking work of a simulated process: lanes, as threads and worker processes are to a real one.

A lane does one thing at a time, in order. Work takes time, and happens at its beginning or at its end, as a coin
decides; what it leads to is told to the process in a cycle. When the process ends, what was not done is not done; with
a loss of power the first of each lane may be half done.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from respkv.base.errors import RespkvError
from respkv.env.rng import Rng
from respkv.testing.disk import PowerLoss, SimulatedFileSystem
from respkv.testing.schedule import Schedule

Done = Callable[[Any, BaseException | None], None]


class Disk:
    """How slow a machine's disk is: microseconds, least and most, of a sync, a job, a read."""

    __slots__ = ("job_us", "read_us", "sync_us")

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """As fast as it can be."""
        self.sync_us = (200, 4_000)
        self.job_us = (1_000, 50_000)
        self.read_us = (50, 500)


class _Work:
    """One piece of blocking work."""

    __slots__ = ("done", "ran", "result", "run")

    def __init__(self, run: Callable[[], Any], done: Done) -> None:
        self.run = run
        self.done = done
        self.ran = False
        self.result: tuple[Any, BaseException | None] = (None, None)


class Lanes:
    """The lanes of one life of a process. ``wake(action)`` runs an action in its next cycle, ``blown()`` is called when
    power fails in the middle of some work."""

    __slots__ = ("_blown", "_ended", "_queues", "_rng", "_schedule", "_wake")

    def __init__(
        self, schedule: Schedule, rng: Rng, *, wake: Callable[[Callable[[], None]], None], blown: Callable[[], None]
    ) -> None:
        self._schedule = schedule
        self._rng = rng
        self._wake = wake
        self._blown = blown
        self._queues: dict[str, deque[_Work]] = {}
        self._ended = False

    def submit(self, lane: str, range_us: tuple[int, int], run: Callable[[], Any], done: Done) -> None:
        """Have ``run()`` done, then ``done(result, error)`` called in a cycle."""
        queue = self._queues.setdefault(lane, deque())
        queue.append(_Work(run, done))
        if len(queue) == 1:
            self._begin(queue, range_us)

    def end(self) -> None:
        """The process is gone."""
        self._ended = True

    def lose_power(self, disk: SimulatedFileSystem) -> None:
        """The process is gone, and what was under way has come as far as it came."""
        self._ended = True
        for queue in self._queues.values():
            if queue and not queue[0].ran and self._rng.random() < 0.5:
                disk.fuse = self._rng.randrange(8)
                try:
                    queue[0].run()
                except (PowerLoss, OSError, RespkvError):
                    pass  # Nobody is left to be told.

    def _begin(self, queue: deque[_Work], range_us: tuple[int, int]) -> None:
        work = queue[0]

        def begin() -> None:
            if not self._ended and not work.ran:
                self._run(work)

        def end() -> None:
            begin()
            if self._ended:
                return
            queue.popleft()
            self._wake(lambda: work.done(*work.result))
            if queue:
                self._begin(queue, range_us)

        if self._rng.random() < 0.5:
            # Not at once: the process must not end in the middle of its cycle.
            self._schedule.after(0, begin)
        self._schedule.after(self._rng.randrange(*range_us), end)

    def _run(self, work: _Work) -> None:
        work.ran = True
        try:
            work.result = (work.run(), None)
        except (OSError, RespkvError) as error:
            work.result = (None, error)
        except PowerLoss:
            self._blown()
