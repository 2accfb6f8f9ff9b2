"""The engine's hot paths as ratios to the bare work beneath them, measured in the same run."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from time import perf_counter

from xxhash import xxh3_64_intdigest

from respkv.env.posix import PosixFileSystem
from respkv.storage.engine import Engine
from respkv.storage.options import EngineOptions
from respkv.storage.recovery import open_engine
from respkv.storage.wal import BATCH, SEGMENT_MAGIC, LogHeader, LogWriter

COUNT = 20_000
KEYS = [b"\x00\x12\x34\x00\x00key:%012d" % number for number in range(COUNT)]
RECORD = b"\x01" + bytes(range(210))


def best_s(*works: Callable[[], None]) -> list[float]:
    """The shortest of seven runs of each, in seconds, taken in turn: the others were disturbed."""
    times: list[list[float]] = [[] for _ in works]
    for _ in range(7):
        for work, taken in zip(works, times):
            start = perf_counter()
            work()
            taken.append(perf_counter() - start)
    return [min(taken) for taken in times]


def opened(path: Path) -> Engine:
    options = EngineOptions(memtable_bytes=1 << 30, segment_bytes=64 << 20, ballast_bytes=0)
    return open_engine(PosixFileSystem(), str(path), options, derive=lambda key, record: ())


def test_engine_get(tmp_path: Path) -> None:
    engine = opened(tmp_path)
    for key in KEYS:
        engine.put(key, RECORD)
    engine.commit()
    table = engine.memtable.table

    def bare() -> None:
        for key in KEYS:
            table.get(key)

    def full() -> None:
        for key in KEYS:
            engine.get(key)

    base, measured = best_s(bare, full)
    assert measured < 8 * base
    engine.close()


def test_engine_put(tmp_path: Path) -> None:
    engine = opened(tmp_path)
    table: dict[bytes, bytes] = {}

    def bare() -> None:
        for key in KEYS:
            table[key] = RECORD

    def full() -> None:
        for key in KEYS:
            engine.put(key, RECORD)
        engine.batch.clear()

    base, measured = best_s(bare, full)
    assert measured < 15 * base
    engine.close()


def test_engine_commit_and_wal_append(tmp_path: Path) -> None:
    engine = opened(tmp_path / "engine")
    log_path = str(tmp_path / "000000000001.log")
    log = LogWriter(PosixFileSystem(), log_path, SEGMENT_MAGIC, LogHeader(1, 0, 0, 0), preallocate=64 << 20)
    descriptor = os.open(tmp_path / "bare", os.O_WRONLY | os.O_CREAT)
    os.posix_fallocate(descriptor, 0, 64 << 20)
    parts = [part for key in KEYS[:5] for part in (b"12345678", key, RECORD)]
    payload = b"".join(parts)
    size = len(payload) + 31
    offsets = iter(range(0, 64 << 20, size))

    def bare() -> None:
        for _ in range(500):
            data = b"".join(parts)
            os.pwrite(descriptor, data + xxh3_64_intdigest(data).to_bytes(8, "little"), next(offsets))

    def appended() -> None:
        for _ in range(500):
            log.append(BATCH, payload, 0)

    def committed() -> None:
        for _ in range(500):
            engine.batch.extend(parts)
            engine.commit()

    base, append, commit = best_s(bare, appended, committed)
    assert append < 3 * base
    assert commit < 4 * base
    os.close(descriptor)
    log.file.close()
    engine.close()
