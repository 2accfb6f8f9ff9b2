"""Which jobs run, which files they need, and when a failed one may be tried again.

A job names files, never memory: it runs in another process and hands back plain data. While it is out,
the files it reads are pinned: the engine does not remove them by name, even when an edit has dropped them.
Pure bookkeeping; no I/O and no time: a failed job waits a number of ticks, doubled at each failure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

FLUSH: Final = "flush"
COMPACT: Final = "compact"
COUNT: Final = "count"
_WAIT_TICKS_MAX: Final = 600


@dataclass(frozen=True, slots=True)
class Job:
    """Work for a worker process. ``spec`` is plain data; ``inputs`` the file ids it replaces."""

    id: int
    kind: str
    spec: dict[str, Any]
    inputs: tuple[int, ...]
    pinned: tuple[int, ...]


class JobBoard:
    """Running jobs, at most one of a kind; pins on files, also by snapshots."""

    __slots__ = ("_failures", "_last_id", "_pins", "_running", "_waits", "blocked")

    def __init__(self) -> None:
        self._last_id = 0
        self._running: dict[int, Job] = {}
        self._pins: Counter[int] = Counter()
        self._failures = {FLUSH: 0, COMPACT: 0, COUNT: 0}
        self._waits = {FLUSH: 0, COMPACT: 0, COUNT: 0}
        #: Kinds whose finished job is not installed yet; no next one is made before.
        self.blocked = {FLUSH: False, COMPACT: False, COUNT: False}

    def may_start(self, kind: str) -> bool:
        """Whether a job of this kind may be made now."""
        if self.blocked[kind] or self._waits[kind] > 0:
            return False
        return all(job.kind != kind for job in self._running.values())

    def start(self, kind: str, spec: dict[str, Any], inputs: Iterable[int], pinned: Iterable[int]) -> Job:
        """Note a new job as running and pin its files."""
        self._last_id += 1
        job = Job(self._last_id, kind, spec, tuple(inputs), tuple(pinned))
        self._running[job.id] = job
        self.pin(job.pinned)
        return job

    def finish(self, job_id: int) -> Job:
        """The job has succeeded. KeyError when it is not running."""
        job = self._running.pop(job_id)
        self.unpin(job.pinned)
        self._failures[job.kind] = 0
        self.blocked[job.kind] = True
        return job

    def fail(self, job_id: int) -> Job:
        """The job has failed; its kind waits some ticks."""
        job = self._running.pop(job_id)
        self.unpin(job.pinned)
        self._wait(job.kind)
        return job

    def spoiled(self, kind: str) -> None:
        """The result of this kind's last job turned out to be of no use: as if it had failed."""
        self.blocked[kind] = False
        self._wait(kind)

    def _wait(self, kind: str) -> None:
        self._failures[kind] += 1
        self._waits[kind] = min(1 << min(self._failures[kind], 16), _WAIT_TICKS_MAX)

    def installed(self, kind: str) -> None:
        """The result of this kind's last job is in force."""
        self.blocked[kind] = False

    def tick(self) -> None:
        """Shorten the waits of failed kinds."""
        for kind, wait in self._waits.items():
            if wait:
                self._waits[kind] = wait - 1

    def running(self) -> list[Job]:
        return list(self._running.values())

    def pin(self, file_ids: Iterable[int]) -> None:
        self._pins.update(file_ids)

    def unpin(self, file_ids: Iterable[int]) -> None:
        self._pins.subtract(file_ids)
        self._pins = +self._pins

    def is_pinned(self, file_id: int) -> bool:
        return file_id in self._pins

    def stats(self) -> dict[str, int]:
        return {
            "jobs_running": len(self._running),
            "jobs_failed_in_a_row": sum(self._failures.values()),
            "files_pinned": len(self._pins),
        }

    def check_invariants(self) -> None:
        assert all(count > 0 for count in self._pins.values())
        wanted = Counter(file_id for job in self._running.values() for file_id in job.pinned)
        assert wanted <= self._pins
        kinds = [job.kind for job in self._running.values()]
        assert len(kinds) == len(set(kinds))
