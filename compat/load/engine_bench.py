"""The storage engine alone beside RocksDB (through rocksdict, raw mode), in one run on one machine.

    python compat/load/engine_bench.py [--keys 1000000] [--value-bytes 200] [--reads 200000] [--check]

Both get the same bytes in the same order: random keys, a log without waiting for the disk (ours is synced each
second, as ``appendfsync everysec`` does), batches of 100 puts, bloom filters, 64 MiB of write buffer and
of block cache. Our jobs run in two worker processes, one of them for flushes only, as in
the server; theirs in their threads. Reads come after compaction has
settled. A line per phase: operations a second of each and the ratio, against the one asked for; ``--check``
ends with status 1 when a ratio is missed. Not a test: its figures need a quiet machine.
"""

from __future__ import annotations

import argparse
import gc
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing.connection import Connection
from typing import Any

from respkv.base.errors import ReadMiss
from respkv.base.slots import slot_of
from respkv.env.posix import PosixFileSystem
from respkv.env.rng import Rng, seeded
from respkv.storage.engine import Engine
from respkv.storage.jobs import compact_job, flush_job
from respkv.storage.options import EngineOptions
from respkv.storage.recovery import open_engine

BATCH = 100
BUFFER_BYTES = CACHE_BYTES = 64 << 20
#: Phase -> the least ratio to RocksDB that is asked for; phases without one are printed only.
WANTED = {"fill": 0.8, "random read": 0.7, "missing read": 0.4, "scan": 0.25}


def derive_nothing(key: bytes, record: bytes) -> tuple[()]:
    return ()


def keep_everything(retention: dict[str, Any], lookup: object) -> None:
    return None


def serve_jobs(connection: Connection, nice: int) -> None:
    """A worker process: jobs come in, answers go out."""
    os.nice(nice)
    fs = PosixFileSystem()
    connection.send("ready")
    while (job := connection.recv()) is not None:
        kind, spec = job
        if kind == "flush":
            connection.send(flush_job(fs, spec, derive_nothing))
        else:
            connection.send(compact_job(fs, spec, keep_everything))


class Ours:
    """The engine with what a server does around it: a sync thread, two worker processes, a tick."""

    name = "respkv"

    def __init__(self, directory: str) -> None:
        options = EngineOptions(memtable_bytes=BUFFER_BYTES, block_cache_bytes=CACHE_BYTES, ballast_bytes=0)
        self.engine: Engine = open_engine(PosixFileSystem(), directory, options, derive=derive_nothing)
        context = multiprocessing.get_context("spawn")
        self._workers: dict[str, tuple[Connection, Any]] = {}
        self._jobs: dict[str, int] = {}
        for kind, nice in (("flush", 5), ("compact", 10)):
            ours, theirs = context.Pipe()
            process = context.Process(target=serve_jobs, args=(theirs, nice), daemon=True)
            process.start()
            assert ours.recv() == "ready"  # as a server, which takes no client before its workers are up
            self._workers[kind] = (ours, process)
        self._threads = ThreadPoolExecutor(2)
        self._sync: tuple[Any, Future[Any]] | None = None
        self._manifest: tuple[Any, Future[Any]] | None = None
        self._synced_at = self._ticked_at = time.monotonic()

    def fill(self, batches: Iterable[list[tuple[bytes, bytes]]]) -> None:
        engine = self.engine
        put = engine.put
        for batch in batches:
            for key, record in batch:
                put(key, record)
            engine.commit()
            self.work()
            while engine.pressure() >= 1.0:
                time.sleep(0.001)
                self.work()

    def get(self, keys: list[bytes]) -> int:
        """How many of ``keys`` are there."""
        get, found = self.engine.get, 0
        for key in keys:
            try:
                record = get(key)
            except ReadMiss as miss:
                miss.request.install(miss.request.read())
                record = get(key)
            found += record is not None
        return found

    def scan(self) -> int:
        """How many entries there are."""
        return sum(1 for _ in self.engine.scan(b"", None, wait=True))

    def work(self, *, idle: bool = False) -> bool:
        """Start and finish what is due; True when something is under way."""
        now = time.monotonic()
        engine = self.engine
        if self._sync is not None and self._sync[1].done():
            self._sync[1].result()
            engine.on_synced(self._sync[0])
            self._sync = None
        if self._sync is None and (now - self._synced_at > 1 or engine.unsynced_bytes > 8 << 20):
            self._synced_at = now
            sync = engine.sync_plan()
            if sync is not None:
                self._sync = (sync, self._threads.submit(sync.run))
        for kind in list(self._jobs):
            pipe = self._workers[kind][0]
            if pipe.poll():
                engine.on_job_done(self._jobs.pop(kind), pipe.recv())
        if len(self._jobs) < len(self._workers):
            job = engine.next_job(idle=idle)
            if job is not None:
                self._workers[job.kind][0].send((job.kind, job.spec))
                self._jobs[job.kind] = job.id
        if self._manifest is not None and self._manifest[1].done():
            self._manifest[1].result()
            engine.on_manifest_synced(self._manifest[0])
            self._manifest = None
        if self._manifest is None:
            manifest = engine.manifest_plan()
            if manifest is not None:
                self._manifest = (manifest, self._threads.submit(manifest.run))
        if now - self._ticked_at > 0.01:
            self._ticked_at = now
            engine.tick()
        return bool(self._jobs) or self._manifest is not None

    def settle(self) -> None:
        self.engine.rotate()
        while self.work(idle=True):
            time.sleep(0.001)
        while self.engine.tick():
            pass

    def close(self) -> None:
        print("  respkv:", self.engine.stats())
        for pipe, process in self._workers.values():
            pipe.send(None)
            process.join()
        self._threads.shutdown()


class Theirs:
    """RocksDB through rocksdict, bytes in and out."""

    name = "RocksDB"

    def __init__(self, directory: str) -> None:
        from rocksdict import BlockBasedOptions, Cache, Options, Rdict, WriteBatch

        table = BlockBasedOptions()
        table.set_bloom_filter(10, False)
        table.set_block_cache(Cache(CACHE_BYTES))
        options = Options(raw_mode=True)
        options.create_if_missing(True)
        options.set_block_based_table_factory(table)
        options.set_write_buffer_size(BUFFER_BYTES)
        self._batch = WriteBatch
        self._db = Rdict(directory, options)

    def fill(self, batches: Iterable[list[tuple[bytes, bytes]]]) -> None:
        for batch in batches:
            writes = self._batch(raw_mode=True)
            put = writes.put
            for key, record in batch:
                put(key, record)
            self._db.write(writes)

    def get(self, keys: list[bytes]) -> int:
        get, found = self._db.get, 0
        for key in keys:
            found += get(key) is not None
        return found

    def scan(self) -> int:
        return sum(1 for _ in self._db.items())

    def settle(self) -> None:
        self._db.flush()
        names = ("rocksdb.num-running-compactions", "rocksdb.compaction-pending")
        while any(self._db.property_int_value(name) for name in names):
            time.sleep(0.01)

    def close(self) -> None:
        self._db.close()


def make_batches(rng: Rng, keys: list[bytes], value_bytes: int) -> list[list[tuple[bytes, bytes]]]:
    """(key, record) pairs by the hundred; records are a type, a stamp and bytes that do not compress."""
    pool = rng.randbytes(1 << 20)
    head = b"\x01" + bytes(10)
    limit = len(pool) - value_bytes
    batches = []
    for start in range(0, len(keys), BATCH):
        part = keys[start : start + BATCH]
        places = [rng.randrange(limit) for _ in part]
        batches.append([(key, head + pool[at : at + value_bytes]) for key, at in zip(part, places)])
    return batches


def internal_key(number: int) -> bytes:
    """The internal key of a user's key, as the keyspace makes it (database 0)."""
    key = b"key:%012d" % number
    return b"\x01" + slot_of(key).to_bytes(2, "big") + b"\0\0" + key


def timed(operations: int, run: Callable[[], Any]) -> tuple[float, Any]:
    """(operations a second, what ``run`` answered)."""
    start = time.perf_counter()
    result = run()
    return operations / (time.perf_counter() - start), result


def measure(store: Ours | Theirs, args: argparse.Namespace) -> dict[str, float]:
    """Operations a second in each phase."""
    rng = seeded(args.seed)
    numbers = rng.sample(range(10 * args.keys), args.keys)
    keys = [internal_key(number) for number in numbers]
    missing = [internal_key(10 * args.keys + number) for number in numbers[: args.reads]]
    reads = rng.choices(keys, k=args.reads)
    batches = make_batches(rng, keys, args.value_bytes)
    again = make_batches(rng, rng.choices(keys, k=args.reads), args.value_bytes)
    gc.collect()
    gc.freeze()
    rates: dict[str, float] = {}
    rates["fill"], _ = timed(args.keys, lambda: store.fill(batches))
    start = time.perf_counter()
    store.settle()
    print(f"  {store.name}: settled after {time.perf_counter() - start:.1f} s")
    for phase in ("random read", "random read, again"):
        rates[phase], found = timed(args.reads, lambda: store.get(reads))
        assert found == args.reads
    rates["missing read"], found = timed(args.reads, lambda: store.get(missing))
    assert found == 0
    rates["scan"], found = timed(args.keys, store.scan)
    assert found == args.keys
    rates["overwrite"], _ = timed(args.reads, lambda: store.fill(again))
    store.close()
    gc.unfreeze()
    return rates


def main() -> int:
    parser = argparse.ArgumentParser(description="The engine beside RocksDB.")
    parser.add_argument("--keys", type=int, default=1_000_000)
    parser.add_argument("--value-bytes", type=int, default=200)
    parser.add_argument("--reads", type=int, default=200_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--dir", help="where to put the stores (default: a temporary directory)")
    parser.add_argument("--check", action="store_true", help="status 1 when a ratio is missed")
    args = parser.parse_args()
    directory = tempfile.mkdtemp(prefix="engine-bench-", dir=args.dir)
    try:
        ours = measure(Ours(f"{directory}/ours"), args)
        theirs = measure(Theirs(f"{directory}/theirs"), args)
    finally:
        shutil.rmtree(directory)
    missed = False
    for phase, rate in ours.items():
        ratio, wanted = rate / theirs[phase], WANTED.get(phase)
        bad = wanted is not None and ratio < wanted
        missed = missed or bad
        note = "" if wanted is None else f" (asked for {wanted})" + (" MISSED" if bad else "")
        print(f"{phase:20s} respkv {rate:10,.0f}/s   RocksDB {theirs[phase]:10,.0f}/s   ratio {ratio:.2f}{note}")
    return 1 if missed and args.check else 0


if __name__ == "__main__":
    sys.exit(main())
