"""Carries out what the node asks for: jobs, manifest edits, snapshots, block reads, syncs.

The node is pure and only says what it wants; here it goes to worker processes and threads, and the results
come back in a cycle. Block reads have threads of their own, so that they never wait behind a sync.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Protocol

from respkv.base.errors import BlockRequest, CorruptionError, RespkvError
from respkv.server.durability import Durability
from respkv.server.lanes import Lane
from respkv.server.ports import ErrandPort, FetchPort, JobPort, Plan
from respkv.storage.wal import FatalStorageError

#: How often jobs and plans are looked for when nothing has happened.
LOOK_US: Final = 100_000
#: A block that cannot be read is asked for again no sooner than this.
READ_AGAIN_US: Final = 500_000


class Jobs(Protocol):
    """Where jobs are done: the pool of workers."""

    def submit(self, job: JobPort, done: Callable[[JobPort, dict[str, Any] | None, str], None]) -> None: ...


class EditPlan(Plan, Protocol):
    """A plan of the manifest: one that fails without being fatal is told so, on the loop's thread."""

    def failed(self, error: Exception) -> None: ...


class Errands:
    """``fatal(error)`` ends the process, ``call_later(us, action)`` is a timer of the loop."""

    __slots__ = (
        "_call_later",
        "_edits",
        "_fatal",
        "_jobs",
        "_log",
        "_node",
        "_reads",
        "_stopped",
        "durability",
    )

    def __init__(
        self,
        node: ErrandPort,
        *,
        durability: Durability,
        jobs: Jobs,
        edits: Lane,
        reads: Lane,
        call_later: Callable[[int, Callable[[], None]], None],
        fatal: Callable[[BaseException], None],
        log: Callable[[str, str], None],
    ) -> None:
        self._node = node
        self.durability = durability
        self._jobs = jobs
        self._edits = edits
        self._reads = reads
        self._call_later = call_later
        self._fatal = fatal
        self._log = log
        self._stopped = False

    def start(self) -> None:
        """Begin to look regularly."""
        self._look()

    def stop(self) -> None:
        """Take on nothing new."""
        self._stopped = True

    def after_cycle(self) -> None:
        """What cannot wait for the next look."""
        for fetch in self._node.take_fetches():
            self._fetch(fetch)
        if self._node.wants_sync:
            self._node.wants_sync = False
            self.durability.sync_now()

    def _look(self) -> None:
        if self._stopped:
            return
        self.pull()
        self.durability.on_timer()
        self._call_later(LOOK_US, self._look)

    def pull(self) -> None:
        """Take on every job and plan the node has; it gives out few at a time."""
        if self._stopped:
            return
        node = self._node
        while (job := node.next_job()) is not None:
            self._jobs.submit(job, self._on_job)
        plan = node.manifest_plan()
        if plan is not None:
            self._run_manifest(plan)
        snapshot = node.snapshot_plan()
        if snapshot is not None:
            self._run_snapshot(snapshot)
        while (files := node.ring_plan()) is not None:
            self._run_files(files)

    def _on_job(self, job: JobPort, result: dict[str, Any] | None, reason: str) -> None:
        if result is None:
            self._node.on_job_failed(job, reason)
        else:
            self._node.on_job_done(job, result)
            self.pull()

    def _run_manifest(self, plan: EditPlan) -> None:
        def done(_: Any, error: BaseException | None) -> None:
            if error is None:
                self._node.on_manifest_synced(plan)
                self.pull()
            elif isinstance(error, FatalStorageError) or not isinstance(error, (OSError, RespkvError)):
                self._fatal(error)
            else:
                # Nothing has changed, on disk or in memory: the node offers the same again in a second.
                self._log("warning", f"bringing tables in force failed, to be tried again: {error}")
                plan.failed(error)

        self._edits.submit(plan.run, done)

    def _run_snapshot(self, plan: Plan) -> None:
        def done(_: Any, error: BaseException | None) -> None:
            if error is not None and not isinstance(error, (OSError, RespkvError)):
                self._fatal(error)
                return
            self._node.on_snapshot_done(plan, "" if error is None else str(error) or type(error).__name__)

        self._edits.submit(plan.run, done)

    def _run_files(self, plan: Plan) -> None:
        def done(_: Any, error: BaseException | None) -> None:
            if error is not None and not isinstance(error, (OSError, RespkvError)):
                self._fatal(error)
                return
            try:
                self._node.on_ring_plan_done(plan, error)
            except FatalStorageError as fatal:
                self._fatal(fatal)

        self._edits.submit(plan.run, done)

    def _fetch(self, fetch: FetchPort) -> None:
        failed: list[BlockRequest] = []

        def read() -> list[object]:
            blocks: list[object] = []
            for request in fetch.requests:
                try:
                    blocks.append(request.read())
                except (CorruptionError, OSError):
                    failed.append(request)
                    raise
            return blocks

        def done(blocks: list[object], error: BaseException | None) -> None:
            if error is None:
                for request, block in zip(fetch.requests, blocks):
                    request.install(block)
                fetch.done()
            elif isinstance(error, CorruptionError):
                # The reader meets the damage itself and answers for it; should it ask again, the table is given up.
                self._node.on_fetch_failed(failed[0], error)
                fetch.done()
            elif isinstance(error, OSError):
                self._log("warning", f"reading a table failed: {error}")
                self._node.on_fetch_failed(failed[0], error)
                self._call_later(READ_AGAIN_US, fetch.done)
            else:
                self._fatal(error)

        self._reads.submit(read, done)
