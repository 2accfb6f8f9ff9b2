"""Manifest plans that fail: what is fatal, what is tried again, and that nothing is half done."""

from __future__ import annotations

import errno

import pytest

from respkv.base.errors import CorruptionError, StorageFull
from respkv.env.fs import ReadFile
from respkv.env.rng import seeded
from respkv.storage.engine import Engine
from respkv.storage.options import EngineOptions
from respkv.storage.version import table_path
from respkv.storage.wal import FatalStorageError
from respkv.testing.disk import SimulatedFileSystem
from tests.unit.storage.test_engine import fill, key, opened, record


def test_a_failed_manifest_sync_is_fatal_and_changes_nothing() -> None:
    fs = SimulatedFileSystem()
    driver = opened(fs)
    fill(driver.engine, range(50))
    driver.engine.rotate()
    assert driver.run_job()
    fs.fail_syncs = lambda path: "MANIFEST" in path
    with pytest.raises(FatalStorageError, match="MANIFEST"):
        driver.run_manifest()
    assert driver.engine.manifest_plan() is None, "the plan is still out"
    fs.fail_syncs = lambda path: False
    after = opened(fs.crash(seeded(1)))
    after.engine.check_invariants()


def test_a_damaged_new_table_stops_the_plan_before_the_manifest() -> None:
    fs = SimulatedFileSystem()
    driver = opened(fs)
    fill(driver.engine, range(50))
    driver.engine.rotate()
    job = driver.engine.next_job()
    assert job is not None
    result = driver.work(job)
    driver.engine.on_job_done(job.id, result)
    path = table_path("/d", result["tables"][0]["file_id"])
    fs.flip(path, fs.size(path) - 1, 0)
    before = driver.engine.stats()["manifest_bytes"]
    engine = driver.engine
    engine.set_meta("m", b"v")
    engine.save_meta()
    error = failing(engine, CorruptionError)
    assert "table" in str(error) and engine.stats()["manifest_bytes"] == before
    assert engine.manifest_plan() is None and engine.next_job() is None, "not at once again"
    engine.check_invariants()
    for _ in range(12):
        engine.tick()
    driver.settle()
    engine.check_invariants()
    assert engine.stats()["runs"] == 1 and engine.stats()["memtables_retired"] == 0
    assert engine.get(key(7)) == record(7) and engine.meta("m") == b"v" and not fs.exists(path)
    again = opened(fs.copy()).engine
    assert again.get(key(7)) == record(7) and again.meta("m") == b"v"


def failing(engine: Engine, kind: type[Exception]) -> Exception:
    """Run a manifest plan that fails, and tell the engine."""
    plan = engine.manifest_plan()
    assert plan is not None
    with pytest.raises(kind) as caught:
        plan.run()
    plan.failed(caught.value)
    return caught.value


def test_a_full_disk_at_a_manifest_update_refuses_writes_and_is_tried_again() -> None:
    fs = SimulatedFileSystem()
    options = EngineOptions(memtable_bytes=1 << 15, ballast_bytes=1 << 14, manifest_rewrite_bytes=1 << 10)
    driver = opened(fs, options)
    engine = driver.engine
    engine.set_meta("long", bytes(2000))
    engine.save_meta()
    fs.capacity = fs.used()
    failing(engine, StorageFull)
    assert engine.refusal() == "disk full" and not fs.exists("/d/BALLAST"), "the ballast is given up"
    assert engine.manifest_plan() is None, "not at once again"
    for _ in range(12):
        engine.tick()
    assert driver.run_manifest(), "there is room now"
    assert engine.refusal() == "disk full", "but not for a segment"
    fs.capacity = None
    engine.tick()
    assert engine.refusal() is None and fs.exists("/d/BALLAST")
    engine.check_invariants()
    assert opened(fs.copy()).engine.meta("long") == bytes(2000)


def test_other_errors_of_a_manifest_update_are_tried_again_without_refusing_writes() -> None:
    fs = SimulatedFileSystem()
    driver = opened(fs)
    engine = driver.engine
    fill(engine, range(50))
    engine.rotate()
    assert driver.run_job()
    (name,) = fs.listdir("/d/tables")
    real_open = fs.open_read

    def no_descriptors(path: str) -> ReadFile:
        raise OSError(errno.EMFILE, "too many open files", path)

    fs.open_read = no_descriptors  # type: ignore[method-assign]
    failing(engine, OSError)
    assert engine.refusal() is None
    fs.open_read = real_open  # type: ignore[method-assign]
    for _ in range(12):
        engine.tick()
    driver.settle()
    assert engine.stats()["runs"] == 1 and fs.listdir("/d/tables") == [name]
    engine.check_invariants()


def test_files_that_cannot_be_removed_are_left_for_later() -> None:
    fs = SimulatedFileSystem()
    driver = opened(fs)
    engine = driver.engine
    fill(engine, range(50))
    engine.rotate()
    real_remove = fs.remove

    def read_only(path: str) -> None:
        raise OSError(errno.EROFS, "read-only file system", path)

    fs.remove = read_only  # type: ignore[method-assign]
    driver.settle()
    assert engine.stats()["files_to_remove"] == 1 and len(fs.listdir("/d/wal")) == 2
    assert engine.manifest_plan() is None, "not at once again"
    fs.remove = real_remove  # type: ignore[method-assign]
    for _ in range(12):
        engine.tick()
    driver.settle()
    assert engine.stats()["files_to_remove"] == 0 and len(fs.listdir("/d/wal")) == 1
