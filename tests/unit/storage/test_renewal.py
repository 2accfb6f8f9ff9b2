"""A closed segment rots before its flush: it is written again from memory, and nothing is lost."""

from __future__ import annotations

import errno

import pytest

from respkv.base.errors import CorruptionError
from respkv.env.fs import ReadFile
from respkv.env.rng import seeded
from respkv.storage.engine import DISK_FULL, Engine
from respkv.storage.job_board import FLUSH
from respkv.storage.wal import segment_path
from respkv.testing.disk import PowerLoss, SimulatedFileSystem
from respkv.testing.engine_driver import EngineDriver
from respkv.worker.registry import run_job
from tests.unit.storage.test_engine import OPTIONS, fill, key, opened, record


def retired(fs: SimulatedFileSystem, driver: EngineDriver) -> str:
    """Retire the memtable; the path of its segment, synced."""
    assert driver.engine.rotate()
    driver.sync()
    return segment_path("/d", driver.engine.immutables[-1].segment_id)


def fail_flush(driver: EngineDriver) -> None:
    """A flush that meets the damage."""
    job = driver.engine.next_job()
    assert job is not None and job.kind == FLUSH
    answer = run_job(driver.engine.fs, {"id": job.id, "kind": job.kind, "spec": job.spec}, lambda size: None)
    assert answer["error"].startswith(CorruptionError.__name__)
    driver.engine.on_job_failed(job.id, answer["error"])
    wait(driver.engine)


def wait(engine: Engine) -> None:
    for _ in range(20):
        engine.tick()


def contents(engine: Engine) -> dict[bytes, bytes]:
    return dict(engine.scan(b"\x00", b"\x01"))


@pytest.mark.parametrize("place", [0, 3, 200, -40])
def test_a_damaged_segment_is_written_again_and_flushed(place: int) -> None:
    fs = SimulatedFileSystem()
    driver = opened(fs)
    fill(driver.engine, range(50))
    fill(driver.engine, range(20), stamp=7)
    path = retired(fs, driver)
    fill(driver.engine, range(40, 60), stamp=9)
    before = contents(driver.engine)
    end = driver.engine.immutables[-1].log_bytes
    fs.flip(path, place % end, 1)
    fail_flush(driver)
    assert driver.engine.take_news()[0][0] == path and not driver.engine.damaged_tables()
    job = driver.engine.next_job()
    assert job is not None and job.kind == FLUSH
    assert driver.engine.durable_lsn == driver.engine.appended_lsn
    assert contents(opened(fs.copy()).engine) == before, "a start finds the log whole, before the flush too"
    assert contents(opened(fs.crash(seeded(1))).engine) == before
    driver.engine.on_job_done(job.id, driver.work(job))
    driver.settle()
    driver.engine.check_invariants()
    assert contents(driver.engine) == before and not driver.engine.immutables and not fs.exists(path)
    driver.engine.close()
    assert contents(opened(fs.copy()).engine) == before
    assert not [name for name in fs.listdir("/d/tables") if name.endswith(".tmp")]


def test_a_segment_that_cannot_be_read_is_written_again() -> None:
    fs = SimulatedFileSystem()
    driver = opened(fs)
    fill(driver.engine, range(50))
    path = retired(fs, driver)
    real_open = fs.open_read

    def unreadable(name: str) -> ReadFile:
        if name == path:
            raise OSError(errno.EIO, "input/output error")
        return real_open(name)

    fs.open_read = unreadable  # type: ignore[method-assign]
    fail_flush(driver)
    fs.open_read = real_open  # type: ignore[method-assign]
    driver.settle()
    assert not driver.engine.immutables and len(contents(driver.engine)) == 50


@pytest.mark.parametrize("commits", [1, 3, 500])
def test_a_segment_of_few_or_many_batches_keeps_its_lsns(commits: int) -> None:
    fs = SimulatedFileSystem()
    driver = opened(fs)
    for number in range(commits):
        for part in range(3):
            driver.engine.put(key(part), record(number) + bytes(2_000_000 if commits == 1 else 10))
        driver.engine.commit()
    if not driver.engine.immutables:
        driver.engine.rotate()
    driver.sync()
    memtable = driver.engine.immutables[-1]
    fs.flip(segment_path("/d", memtable.segment_id), 100, 1)
    fail_flush(driver)
    assert driver.engine.next_job() is not None
    again = opened(fs.copy()).engine
    assert again.recovery.last_lsn == driver.engine.appended_lsn and contents(again) == contents(driver.engine)


def test_deferred_keys_come_with_their_newest_records() -> None:
    fs = SimulatedFileSystem()
    driver = opened(fs)
    engine = driver.engine
    held: dict[bytes, bytes] = {}
    engine.held = held.get

    def defer(number: int, stamp: int) -> None:
        held[key(number)] = record(stamp)
        engine.batch += (len(record(stamp)).to_bytes(4, "little") + len(key(number)).to_bytes(4, "little"),)
        engine.batch += (key(number), record(stamp))
        engine.memtable.deferred.append(key(number))
        engine.commit()

    fill(engine, range(3), stamp=1)
    for number in range(6):
        defer(number, 2)
    path = retired(fs, driver)
    engine.list_deferred(3)
    defer(4, 5)
    defer(0, 5)
    assert engine.immutables[0].deferred, "some were listed, some were not"
    fs.flip(path, 300, 1)
    fail_flush(driver)
    driver.settle()
    driver.sync()
    found = {key(number): record(5 if number in (0, 4) else 2) for number in range(6)}
    assert contents(engine) == found and contents(opened(fs.copy()).engine) == found
    held.clear()
    driver.engine.rotate()
    driver.settle()
    assert contents(opened(fs.copy()).engine) == found


def test_what_waits_for_a_sync_of_closed_segments_is_not_begun() -> None:
    fs = SimulatedFileSystem()
    driver = opened(fs)
    fill(driver.engine, range(50))
    fs.flip(retired(fs, driver), 300, 1)
    fail_flush(driver)
    fill(driver.engine, range(50, 60))
    driver.engine.rotate()
    assert driver.engine.next_job() is None
    driver.sync()
    assert driver.engine.next_job() is not None


def test_on_a_full_disk_writes_are_refused_until_the_segment_could_be_written() -> None:
    fs = SimulatedFileSystem()
    driver = opened(fs, OPTIONS)
    engine = driver.engine
    fill(engine, range(400), per_commit=400)
    path = retired(fs, driver) if not engine.immutables else segment_path("/d", engine.immutables[-1].segment_id)
    driver.sync()
    fs.flip(path, 300, 1)
    fail_flush(driver)
    engine.take_news()
    fs.capacity = fs.used() + 1000
    assert engine.next_job() is None
    assert engine.refusal() == DISK_FULL and "writing it again failed" in engine.take_news()[0][1]
    assert engine.next_job() is None and not engine.take_news(), "not at once again"
    assert not [name for name in fs.listdir("/d/tables") if name.endswith(".tmp")]
    assert contents(engine) and engine.next_job() is None
    fs.capacity = None
    wait(engine)
    driver.settle()
    assert engine.refusal() is None and not engine.immutables and len(contents(engine)) == 400


def test_a_crash_at_any_moment_leaves_the_damaged_segment_or_the_whole_one() -> None:
    whole = 0
    for fuse in range(40):
        fs = SimulatedFileSystem()
        driver = opened(fs)
        fill(driver.engine, range(50))
        fs.flip(retired(fs, driver), 300, 1)
        fail_flush(driver)
        fill(driver.engine, range(40, 60), stamp=9)
        driver.sync()
        before = contents(driver.engine)
        fs.fuse = fuse
        try:
            driver.engine.next_job()
        except PowerLoss:
            pass
        fs.fuse = None
        found = fs.crash(seeded(fuse))
        try:
            again = opened(found).engine
        except CorruptionError:
            continue
        assert contents(again) == before
        assert not [name for name in found.listdir("/d/tables") if name.endswith(".tmp")]
        whole += 1
    assert 0 < whole < 40
