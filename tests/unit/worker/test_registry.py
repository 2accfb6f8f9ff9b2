"""Jobs by name, over a simulated disk."""

from __future__ import annotations

import json
from typing import Any

import pytest

from respkv.base.errors import StorageFull
from respkv.base.ids import STRING
from respkv.causality.hlc import pack_stamp
from respkv.causality.record import encode
from respkv.keyspace.floors import FlushFloors
from respkv.keyspace.leaf_sums import LeafSums
from respkv.storage.engine import DISK_FULL, Engine
from respkv.storage.options import EngineOptions
from respkv.storage.recovery import open_engine
from respkv.testing.disk import SimulatedFileSystem
from respkv.worker import registry
from respkv.worker.registry import run_job

KEY = b"\x01\x00\x00\x00\x00key"
RECORD = b"\x01" + bytes(10) + b"value"


def no_pause(size: int) -> None:
    """Full speed."""


def opened(fs: SimulatedFileSystem) -> Engine:
    fs.mkdir("/db")
    return open_engine(fs, "/db", EngineOptions(memtable_bytes=1 << 20, ballast_bytes=0), derive=lambda key, record: ())


def message(job: Any) -> dict[str, Any]:
    return {"id": job.id, "kind": job.kind, "spec": job.spec}


def test_a_flush_by_message() -> None:
    fs = SimulatedFileSystem()
    engine = opened(fs)
    engine.put(KEY, RECORD)
    engine.rotate()
    job = engine.next_job()
    assert job is not None
    answer = run_job(fs, message(job), no_pause)
    assert answer["id"] == job.id and answer["result"]["entries"] == 1
    engine.on_job_done(job.id, answer["result"])
    plan = engine.manifest_plan()
    assert plan is not None
    plan.run()
    engine.on_manifest_synced(plan)
    assert engine.get(KEY) == RECORD


def test_an_unknown_job_is_an_answer() -> None:
    answer = run_job(SimulatedFileSystem(), {"id": 3, "kind": "dance", "spec": {}}, no_pause)
    assert answer == {"id": 3, "error": "unknown job 'dance'"}


def test_a_missing_segment_is_an_answer() -> None:
    fs = SimulatedFileSystem()
    engine = opened(fs)
    engine.put(KEY, RECORD)
    engine.rotate()
    job = engine.next_job()
    assert job is not None
    fs.remove(f"/db/wal/{fs.listdir('/db/wal')[0]}")
    answer = run_job(fs, message(job), no_pause)
    assert "error" in answer and "result" not in answer


def test_a_full_disk_is_told_in_the_engines_word(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fs: Any, spec: dict[str, Any], pause: Any) -> dict[str, Any]:
        raise StorageFull("no room")

    monkeypatch.setattr(registry, "JOBS", {"flush": full})
    assert run_job(SimulatedFileSystem(), {"id": 1, "kind": "flush", "spec": {}}, no_pause) == {
        "id": 1,
        "error": DISK_FULL,
    }


def test_every_kind_the_engine_offers_is_known() -> None:
    from respkv.storage import job_board

    assert {job_board.FLUSH, job_board.COMPACT, job_board.COUNT} <= set(registry.JOBS)


def flushed(fs: SimulatedFileSystem) -> Engine:
    engine = opened(fs)
    engine.put(KEY, encode(STRING, pack_stamp(5, 1), b"value"))
    engine.rotate()
    job = engine.next_job()
    assert job is not None
    engine.on_job_done(job.id, run_job(fs, message(job), no_pause)["result"])
    plan = engine.manifest_plan()
    assert plan is not None
    plan.run()
    engine.on_manifest_synced(plan)
    return engine


def test_a_count_with_leaves_gives_leaf_sums_and_the_same_counts() -> None:
    fs = SimulatedFileSystem()
    engine = flushed(fs)
    sums = LeafSums(engine, FlushFloors())
    walk = sums.next_job()
    assert walk is not None
    both = run_job(fs, json.loads(json.dumps(message(walk))), no_pause)["result"]
    sums.on_job_done(walk.id, both)
    assert sums.is_exact() and any(sums.cells)
    job = engine.start_count({"floors": {}})
    assert job is not None
    alone = run_job(fs, message(job), no_pause)["result"]
    assert alone == {"live": both["live"]} and alone["live"], "leaf sums only for who asks"
