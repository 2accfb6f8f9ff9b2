"""A keyspace on a real engine over a simulated disk, its jobs run inline."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, TypeVar

from respkv.base.errors import ReadMiss
from respkv.causality.hlc import HybridClock
from respkv.keyspace import effects as fx
from respkv.keyspace import keys, retention
from respkv.keyspace.apply import Applier
from respkv.keyspace.count_job import count_job
from respkv.keyspace.expiry import ExpiryDuty
from respkv.keyspace.keyspace import Keyspace
from respkv.keyspace.scan import KeyWalk
from respkv.keyspace.view import OverlayView, View
from respkv.storage.job_board import COUNT
from respkv.storage.jobs import no_pause
from respkv.storage.options import EngineOptions
from respkv.storage.recovery import open_engine
from respkv.testing.disk import SimulatedFileSystem
from respkv.testing.engine_driver import EngineDriver

START_MS = 1_700_000_000_000
T = TypeVar("T")


class Rig:
    """``options`` are the engine's. ``cold()`` makes the next reads of tables miss."""

    #: whether strings written over cached strings wait for their place in the memtable
    defers = True

    def __init__(self, *, databases: int = 16, row_cache_bytes: int = 1 << 20, **options: Any) -> None:
        self.fs = SimulatedFileSystem()
        self.fs.mkdir("/db")
        self.databases = databases
        self.row_cache_bytes = row_cache_bytes
        self.options: dict[str, Any] = {"memtable_bytes": 1 << 20, "block_bytes": 256, **options}
        self.now_ms = START_MS
        self.rng = random.Random(1)
        self.expired_durable_ms = 0
        self.open()

    def open(self) -> None:
        options = EngineOptions(
            derived_spaces=keys.DERIVED_SPACES, ballast_bytes=0, retention=self.retention, **self.options
        )
        self.engine = open_engine(self.fs, "/db", options, derive=keys.derive)
        self.driver = EngineDriver(self.engine, derive=keys.derive, make_keep=retention.make_keep)
        self.keyspace = Keyspace(
            self.engine,
            HybridClock(1, 0, 1 << 63),
            databases=self.databases,
            row_cache_bytes=self.row_cache_bytes,
        )
        self.keyspace.defer_writes(self.defers)
        self.keyspace.load()
        self.keyspace.begin(self.now_ms)
        self.applier = Applier(self.keyspace)
        self.expiry = ExpiryDuty(self.applier)

    def retention(self) -> dict[str, Any]:
        return retention.plain(
            self.keyspace.floors,
            expired_through_ms=self.expired_durable_ms,
            purge_below=self.keyspace.stamp(),
        )

    def serve(self, action: Callable[[], T]) -> T:
        """``action`` with its misses served."""
        while True:
            try:
                return action()
            except ReadMiss as miss:
                miss.request.install(miss.request.read())

    def apply(self, *effects: fx.Effect) -> None:
        self.serve(lambda: self.applier.apply(effects))
        self.commit()

    def commit(self) -> None:
        self.engine.commit()
        self.keyspace.counts.follow()

    def view(self, db: int = 0) -> View:
        return View(self.keyspace, self.keyspace.stored[db], self.rng, 1 << 29)

    def overlay(self, db: int = 0) -> OverlayView:
        return OverlayView(self.keyspace, self.keyspace.stored[db], self.rng, 1 << 29)

    def fields(self, key: bytes, db: int = 0) -> dict[bytes, tuple[bytes, int]] | None:
        """A hash as a dict, None when it is absent."""
        view = self.view(db)
        found = self.serve(lambda: view.hash(key))
        if found is None:
            return None
        return {field: (value, at) for field, value, at in self.serve(lambda: list(found.items()))}

    def advance_ms(self, count: int) -> None:
        self.now_ms += count
        self.keyspace.begin(self.now_ms)

    def expire(self, limit: int = 7) -> int:
        """Active expiry until nothing is due; how many calls it took."""
        calls, more = 0, True
        while more:
            calls += 1
            more, request = self.expiry.run(limit)
            if request is not None:
                request.install(request.read())
        self.commit()
        return calls

    def flush(self) -> None:
        """Everything into a run."""
        self.engine.rotate()
        self.keyspace.counts.follow()
        self.work()

    def work(self, *, count: bool = True) -> None:
        """All jobs until there is none left."""
        counts = self.keyspace.counts
        while True:
            self.driver.settle()
            counts.follow()
            counts.save_if_due()
            job = counts.next_job() if count else None
            if job is None:
                return
            assert job.kind == COUNT
            counts.on_job_done(job.id, count_job(self.fs, job.spec, no_pause))

    def cold(self) -> None:
        """Nothing in caches: the next table read misses."""
        self.fs.cold = ColdRng()
        self.fs.drop_page_cache()
        self.keyspace.cache.clear_all()

    def restart(self, *, crash: bool = False) -> None:
        if not crash:
            self.keyspace.write_exact_clock()
            self.keyspace.counts.save_if_due()
            self.engine.commit()
        self.driver.sync()
        self.driver.run_manifest()
        self.engine.close()
        if crash:
            self.fs = self.fs.crash(self.rng)
        self.open()

    def stored(self, internal: bytes) -> bytes | None:
        """What the engine holds under an internal key."""
        return self.driver.get(internal)

    def walk(self, db: int = 0, step: int = 50) -> list[bytes]:
        """All keys of a database, in order."""
        walk = KeyWalk(self.keyspace, self.keyspace.stored[db])
        found: list[tuple[bytes, bytes]] = []
        while not walk.done:
            found += self.serve(lambda: walk.step(step))
        return [keys.user_key(internal) for internal, _ in found]

    def total(self, db: int = 0) -> int:
        """The settled key count."""
        for request in self.keyspace.counts.settle():
            if request is not None:
                request.install(request.read())
        return self.keyspace.counts.total(self.keyspace.stored[db])


class ColdRng(random.Random):
    """Makes every page that was not read yet a miss."""

    def random(self) -> float:
        return 0.0
