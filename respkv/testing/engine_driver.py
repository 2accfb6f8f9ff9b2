"""Drives an engine as a server would, but at once and in place: plans, jobs and block reads run inline."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from respkv.base.errors import ReadMiss, StorageFull
from respkv.storage.engine import DISK_FULL, Derive, Engine
from respkv.storage.job_board import FLUSH, Job
from respkv.storage.jobs import compact_job, flush_job

T = TypeVar("T")
MakeKeep = Callable[[dict[str, Any], Callable[[bytes], bytes | None]], Any]


def keep_all(retention: dict[str, Any], lookup: Callable[[bytes], bytes | None]) -> None:
    """A retention that drops nothing."""


class EngineDriver:
    """An engine with the work around it. ``misses`` counts the blocks that had to be fetched."""

    def __init__(self, engine: Engine, *, derive: Derive, make_keep: MakeKeep = keep_all) -> None:
        self.engine = engine
        self.derive = derive
        self.make_keep = make_keep
        self.misses = 0

    def get(self, key: bytes) -> bytes | None:
        """``engine.get`` with its misses served."""
        return self._serve(lambda: self.engine.get(key))

    def scan(self, start: bytes, end: bytes | None = None) -> Iterator[tuple[bytes, bytes]]:
        """``engine.scan`` with its misses served: after each it begins anew behind the last key."""
        while True:
            try:
                for key, record in self.engine.scan(start, end):
                    yield key, record
                    start = key + b"\0"
                return
            except ReadMiss as miss:
                self._fetch(miss)

    def _serve(self, read: Callable[[], T]) -> T:
        while True:
            try:
                return read()
            except ReadMiss as miss:
                self._fetch(miss)

    def _fetch(self, miss: ReadMiss) -> None:
        self.misses += 1
        miss.request.install(miss.request.read())

    def sync(self) -> None:
        """Make everything committed durable."""
        plan = self.engine.sync_plan()
        if plan is not None:
            plan.run()
            self.engine.on_synced(plan)

    def run_manifest(self) -> bool:
        """Run a manifest plan if one is due."""
        plan = self.engine.manifest_plan()
        if plan is None:
            return False
        plan.run()
        self.engine.on_manifest_synced(plan)
        return True

    def work(self, job: Job) -> dict[str, Any]:
        """What a worker process does with ``job``."""
        if job.kind == FLUSH:
            return flush_job(self.engine.fs, job.spec, self.derive)
        return compact_job(self.engine.fs, job.spec, self.make_keep)

    def run_job(self) -> bool:
        """Run one job, if there is one, and tell the engine how it ended."""
        job = self.engine.next_job()
        if job is None:
            return False
        try:
            result = self.work(job)
        except StorageFull:
            self.engine.on_job_failed(job.id, DISK_FULL)
        else:
            self.engine.on_job_done(job.id, result)
        return True

    def settle(self) -> None:
        """Run jobs and plans until there is nothing left to do."""
        while self.run_job() or self.run_manifest():
            pass
        while self.engine.tick():
            pass
