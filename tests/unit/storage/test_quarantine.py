"""Damaged tables: the store opens and serves what it can; what it cannot is an error, never absent or old."""

from __future__ import annotations

import errno
import random

import pytest

from respkv.base.errors import CorruptionError, FormatError, ReadMiss
from respkv.env.fs import ReadFile
from respkv.env.rng import seeded
from respkv.storage import catalog
from respkv.storage.engine import Engine
from respkv.storage.options import EngineOptions
from respkv.storage.recovery import open_engine
from respkv.storage.sstable.reader import TableBlockRequest
from respkv.testing.disk import SimulatedFileSystem
from respkv.testing.engine_driver import EngineDriver
from respkv.worker.registry import run_job

OPTIONS = EngineOptions(
    memtable_bytes=1 << 20,
    block_bytes=512,
    table_bytes=1 << 20,
    ballast_bytes=0,
    block_cache_bytes=1,
    runs_per_tier=3,
    local_spaces=frozenset({5}),
    cautious_retention=lambda: {"cautious": True},
)


def opened(fs: SimulatedFileSystem, options: EngineOptions = OPTIONS) -> EngineDriver:
    return EngineDriver(open_engine(fs, "/d", options, derive=lambda key, record: ()), derive=lambda key, record: ())


def key(number: int) -> bytes:
    return b"\x01key%06d" % number


def record(stamp: int, *, kind: int = 1) -> bytes:
    return bytes((kind,)) + b"%010d" % stamp + b"v" * 20


def add_run(driver: EngineDriver, numbers: range, stamp: int, *, compact: bool = False) -> None:
    """One more run, without compaction unless asked for."""
    engine = driver.engine
    for number in numbers:
        engine.put(key(number), record(stamp))
    engine.rotate()
    job = engine.next_job()
    assert job is not None and job.kind == "flush"
    engine.on_job_done(job.id, driver.work(job))
    assert driver.run_manifest()
    driver.run_manifest()
    if compact:
        driver.settle()


def two_runs(fs: SimulatedFileSystem) -> EngineDriver:
    """Keys 0..99 in an older run with stamp 1, 20..79 in a newer one with stamp 2."""
    driver = opened(fs)
    add_run(driver, range(100), 1)
    add_run(driver, range(20, 80), 2)
    return driver


def newest_table(fs: SimulatedFileSystem) -> str:
    return f"/d/tables/{fs.listdir('/d/tables')[-1]}"


def answers(engine: Engine, numbers: range) -> dict[int, str]:
    """What each key's read comes to: its stamp, "absent", or "damaged"."""
    found = {}
    for number in numbers:
        try:
            value = engine.get(key(number))
        except CorruptionError:
            found[number] = "damaged"
        else:
            found[number] = "absent" if value is None else str(int(value[1:11]))
    return found


@pytest.mark.parametrize("how", ["missing", "footer", "cut", "header"])
def test_a_lost_table_stops_neither_the_start_nor_other_keys(how: str) -> None:
    fs = SimulatedFileSystem()
    two_runs(fs).engine.close()
    path = newest_table(fs)
    if how == "missing":
        fs.remove(path)
    elif how == "cut":
        fs.truncate(path, fs.size(path) // 2)
    else:
        fs.flip(path, 3 if how == "header" else fs.size(path) - 1, 2)
    fs = fs.copy()
    for round_ in range(2):
        driver = opened(fs)
        engine = driver.engine
        (damaged,) = engine.damaged_tables()
        assert damaged.path == path and damaged.lost and damaged.reason
        assert (damaged.smallest, damaged.largest) == (key(20), key(79))
        assert [place for place, _ in engine.recovery.damaged] == [path]
        assert engine.stats()["tables_quarantined"] == 1
        found = answers(engine, range(120))
        assert all(found[number] == "1" for number in (*range(20), *range(80, 100)))
        assert all(found[number] == "absent" for number in range(100, 120))
        assert all(found[number] == ("3" if round_ and number == 50 else "damaged") for number in range(20, 80))
        assert next(engine.scan(key(80)))[0] == key(80)
        with pytest.raises(CorruptionError, match="lost"):
            list(engine.scan(key(70), key(90)))
        engine.put(key(50), record(3))
        engine.commit()
        assert answers(engine, range(49, 52)) == {49: "damaged", 50: "3", 51: "damaged"}
        engine.check_invariants()
        engine.close()
        fs = fs.copy()


def test_what_is_below_a_memtable_is_a_guess_where_a_table_is_lost() -> None:
    fs = SimulatedFileSystem()
    two_runs(fs).engine.close()
    fs.remove(newest_table(fs))
    engine = opened(fs).engine
    assert engine.get_below(engine.memtable, key(50)) == record(1)
    assert engine.get_below(engine.memtable, key(500)) is None


def test_one_bad_block_costs_only_its_own_keys() -> None:
    fs = SimulatedFileSystem()
    driver = two_runs(fs)
    path = newest_table(fs)
    fs.flip(path, 700, 3)
    engine = driver.engine
    found = answers(engine, range(100))
    damaged = [number for number, answer in found.items() if answer == "damaged"]
    assert 0 < len(damaged) < 30 and damaged == list(range(damaged[0], damaged[-1] + 1))
    assert all(found[number] == "2" for number in range(20, 80) if number not in damaged)
    assert engine.take_news() == [(path, engine.damaged_tables()[0].reason)] and engine.take_news() == []
    assert not engine.damaged_tables()[0].lost
    assert driver.run_manifest(), "the mark goes into the manifest"
    engine.close()
    fs = fs.copy()
    again = opened(fs).engine
    assert answers(again, range(100)) == found and again.stats()["tables_quarantined"] == 1
    again.check_invariants()


def test_a_scan_that_meets_damage_marks_the_table() -> None:
    fs = SimulatedFileSystem()
    driver = two_runs(fs)
    fs.flip(newest_table(fs), 700, 3)
    with pytest.raises(CorruptionError):
        list(driver.engine.scan(b"\x01", b"\x02"))
    assert [table.path for table in driver.engine.damaged_tables()] == [newest_table(fs)]


def test_a_disk_that_cannot_read_is_damage_and_not_the_end() -> None:
    fs = SimulatedFileSystem()
    driver = two_runs(fs)
    path = newest_table(fs)
    driver.engine.close()
    real_open = fs.open_read

    def broken(name: str) -> ReadFile:
        if name == path:
            raise OSError(errno.EIO, "input/output error", name)
        return real_open(name)

    fs.open_read = broken  # type: ignore[method-assign]
    engine = opened(fs).engine
    assert "input/output" in engine.damaged_tables()[0].reason and engine.damaged_tables()[0].lost
    assert answers(engine, range(2)) == {0: "1", 1: "1"}


class BadSector:
    """A file of which nothing can be read any more; as with real ones, the error does not name it."""

    def __init__(self, path: str) -> None:
        self.path = path

    def pread(self, size: int, offset: int) -> bytes:
        raise OSError(errno.EIO, "input/output error")

    def pread_nowait(self, size: int, offset: int) -> bytes | None:
        raise OSError(errno.EIO, "input/output error")

    def data_ranges(self) -> list[tuple[int, int]]:
        return []

    def size(self) -> int:
        return 1 << 20

    def close(self) -> None:
        """Nothing to let go of."""


def test_a_sector_that_cannot_be_read_any_more_is_damage() -> None:
    fs = SimulatedFileSystem()
    driver = two_runs(fs)
    path = newest_table(fs)
    (reader,) = (reader for reader in driver.engine._catalog.readers.values() if reader.path == path)
    reader._file = BadSector(path)  # type: ignore[union-attr]
    with pytest.raises(CorruptionError, match="unreadable"):
        driver.engine.get(key(50))
    with pytest.raises(CorruptionError, match="unreadable"):
        list(driver.engine.scan(key(50), key(51)))
    assert driver.engine.get_below(driver.engine.memtable, key(50)) == record(1)
    assert [table.path for table in driver.engine.damaged_tables()] == [path]


def test_a_block_that_cannot_be_fetched_twice_makes_the_table_lost() -> None:
    error = CorruptionError("t", 0, "cut")
    fs = SimulatedFileSystem()
    driver = two_runs(fs)
    engine = driver.engine
    fs.cold = MissAlways()
    miss = miss_of(engine, 50)
    engine.on_fetch_failed(miss.request, OSError(errno.EINTR, "try again"))
    assert not engine.damaged_tables(), "not every error is damage"
    engine.on_fetch_failed(miss.request, error)
    assert not engine.damaged_tables()[0].lost
    again = miss_of(engine, 50)
    engine.on_fetch_failed(again.request, error)
    assert engine.damaged_tables()[0].lost and answers(engine, range(50, 51)) == {50: "damaged"}
    engine.on_fetch_failed(again.request, error)
    engine.check_invariants()
    fs.cold = None
    assert answers(engine, range(5, 6)) == {5: "1"}


def test_readers_of_several_blocks_that_cannot_be_fetched_all_get_an_answer() -> None:
    fs = SimulatedFileSystem()
    driver = two_runs(fs)
    engine = driver.engine
    fs.cold = MissAlways()
    error = CorruptionError("t", 0, "cut")
    misses = [miss_of(engine, number) for number in (20, 79)]
    assert misses[0].request.offset != misses[1].request.offset  # type: ignore[attr-defined]
    for miss in misses:
        engine.on_fetch_failed(miss.request, error)
    assert not engine.damaged_tables()[0].lost, "each has failed once"
    engine.on_fetch_failed(miss_of(engine, 20).request, error)
    assert answers(engine, range(20, 80)) == dict.fromkeys(range(20, 80), "damaged")


def test_a_table_with_more_bad_blocks_than_are_remembered_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalog, "_FAILED_BLOCKS_MAX", 1)
    fs = SimulatedFileSystem()
    engine = two_runs(fs).engine
    fs.cold = MissAlways()
    for number, lost in ((20, False), (79, True)):
        engine.on_fetch_failed(miss_of(engine, number).request, CorruptionError("t", 0, "cut"))
        assert engine.damaged_tables()[0].lost is lost


class MissAlways(random.Random):
    """Every page that was not read yet is a miss."""

    def random(self) -> float:
        return 0.0


def miss_of(engine: Engine, number: int) -> ReadMiss:
    with pytest.raises(ReadMiss) as caught:
        engine.get(key(number))
    return caught.value


@pytest.mark.parametrize("wait", [False, True])
def test_a_scan_that_meets_an_unreadable_sector_marks_the_table(wait: bool) -> None:
    fs = SimulatedFileSystem()
    driver = two_runs(fs)
    path = newest_table(fs)
    (reader,) = (reader for reader in driver.engine._catalog.readers.values() if reader.path == path)
    reader._file = BadSector(path)  # type: ignore[union-attr]
    with pytest.raises(CorruptionError, match="unreadable"):
        list(driver.engine.scan(b"\x01", b"\x02", wait=wait))
    assert [table.path for table in driver.engine.damaged_tables()] == [path]


def test_a_fetch_that_meets_an_unreadable_sector_says_which() -> None:
    fs = SimulatedFileSystem()
    driver = two_runs(fs)
    fs.cold = MissAlways()
    request = miss_of(driver.engine, 50).request
    assert isinstance(request, TableBlockRequest)
    request._file = BadSector(request.path)
    with pytest.raises(CorruptionError, match="unreadable") as caught:
        request.read()
    assert (caught.value.path, caught.value.offset) == (request.path, request.offset)


def test_a_compaction_that_meets_an_unreadable_sector_marks_the_table() -> None:
    fs = SimulatedFileSystem()
    driver = opened(fs)
    for stamp in (1, 2, 3):
        add_run(driver, range(100), stamp)
    engine = driver.engine
    path = f"/d/tables/{fs.listdir('/d/tables')[1]}"
    job = engine.next_job()
    assert job is not None and job.kind == "compact"
    real_open = fs.open_read
    fs.open_read = lambda name: BadSector(name) if name == path else real_open(name)  # type: ignore[method-assign]
    answer = run_job(fs, {"id": job.id, "kind": job.kind, "spec": job.spec}, lambda size: None)
    engine.on_job_failed(job.id, answer["error"])
    assert [table.path for table in engine.damaged_tables()] == [path]


def test_too_many_open_files_are_no_damage() -> None:
    fs = SimulatedFileSystem()
    two_runs(fs).engine.close()
    real_open = fs.open_read

    def refused(name: str) -> ReadFile:
        if name.endswith(".sst"):
            raise OSError(errno.EMFILE, "too many open files", name)
        return real_open(name)

    fs.open_read = refused  # type: ignore[method-assign]
    with pytest.raises(OSError, match="too many"):
        opened(fs)


def test_a_table_that_is_whole_again_is_taken_back() -> None:
    fs = SimulatedFileSystem()
    two_runs(fs).engine.close()
    path = newest_table(fs)
    data = fs.read_all(path)
    fs.remove(path)
    fs = fs.copy()
    opened(fs).engine.close()
    fs = fs.copy()
    spoiled = bytearray(data)
    spoiled[700] ^= 1
    fs.write_file(path, bytes(spoiled))
    engine = opened(fs).engine
    assert engine.damaged_tables()[0].lost is False, "it opens, but does not verify"
    assert engine.recovery.healed == []
    engine.close()
    fs = fs.copy()
    fs.write_file(path, data)
    engine = opened(fs).engine
    assert engine.recovery.healed == [path] and not engine.damaged_tables()
    assert answers(engine, range(20, 80)) == dict.fromkeys(range(20, 80), "2")
    engine.check_invariants()


def test_a_dropped_table_takes_its_mark_along() -> None:
    fs = SimulatedFileSystem()
    two_runs(fs).engine.close()
    path = newest_table(fs)
    fs.remove(path)
    driver = opened(fs)
    engine = driver.engine
    lost = engine.damaged_tables()[0].file_id
    for number in range(20, 80):
        engine.put(key(number), record(9))
    engine.commit()
    assert engine.drop_tables(lambda meta: meta.file_id == lost) == (1, 0)
    driver.settle()
    assert not engine.damaged_tables() and engine.stats()["tables_quarantined"] == 0
    assert answers(engine, range(100)) == {number: "9" if 20 <= number < 80 else "1" for number in range(100)}
    engine.check_invariants()
    assert not opened(fs.copy()).engine.damaged_tables()


def test_compaction_passes_a_damaged_run_and_newer_ones_keep_everything() -> None:
    fs = SimulatedFileSystem()
    driver = opened(fs)
    asked: list[dict[str, object]] = []

    def make_keep(retention: dict[str, object], lookup: object) -> None:
        asked.append(retention)

    driver.make_keep = make_keep
    for stamp in (1, 2):
        add_run(driver, range(100), stamp)
    add_run(driver, range(50), 3)
    lost = newest_table(fs)
    engine = driver.engine
    engine.close()
    fs.remove(lost)
    driver = opened(fs)
    driver.make_keep = make_keep
    engine = driver.engine
    for stamp in (4, 5, 6, 7, 8, 9, 10):
        add_run(driver, range(60, 90), stamp, compact=True)
    assert asked and all(retention == {"cautious": True} for retention in asked)
    assert engine.stats()["job_failures"] == 0
    found = answers(engine, range(100))
    assert all(found[number] == "damaged" for number in range(50))
    assert all(found[number] == "10" for number in range(60, 90))
    assert all(found[number] == "2" for number in (*range(50, 60), *range(90, 100)))
    assert engine.stats()["tables_quarantined"] == 1 and engine.pressure() == 0.0
    engine.check_invariants()


def test_runs_older_than_a_damaged_one_are_merged_as_ever() -> None:
    fs = SimulatedFileSystem()
    driver = opened(fs)
    for stamp in (1, 2, 3):
        add_run(driver, range(100), stamp)
    add_run(driver, range(50), 4)
    driver.engine.close()
    fs.remove(newest_table(fs))
    driver = opened(fs)
    asked: list[dict[str, object]] = []
    driver.make_keep = lambda retention, lookup: asked.append(retention)
    driver.settle()
    assert asked == [{}] and driver.engine.stats()["runs"] == 2
    assert answers(driver.engine, range(49, 51)) == {49: "damaged", 50: "3"}


def test_a_compaction_that_meets_damage_marks_the_table_and_goes_round_it() -> None:
    fs = SimulatedFileSystem()
    driver = opened(fs)
    for stamp in (1, 2, 3):
        add_run(driver, range(100), stamp)
    engine = driver.engine
    path = f"/d/tables/{fs.listdir('/d/tables')[1]}"
    fs.flip(path, 700, 1)
    job = engine.next_job()
    assert job is not None and job.kind == "compact"
    with pytest.raises(CorruptionError) as caught:
        driver.work(job)
    engine.on_job_failed(job.id, f"CorruptionError: {caught.value}")
    assert [table.path for table in engine.damaged_tables()] == [path]
    for _ in range(5):
        engine.tick()
    driver.settle()
    assert engine.next_job() is None and engine.stats()["runs"] == 3
    for stamp in (4, 5, 6):
        add_run(driver, range(100), stamp, compact=True)
    assert answers(engine, range(100)) == dict.fromkeys(range(100), "6")
    engine.check_invariants()


def test_nothing_is_counted_while_a_table_is_damaged() -> None:
    fs = SimulatedFileSystem()
    driver = two_runs(fs)
    engine = driver.engine
    job = engine.start_count({})
    assert job is not None
    path = newest_table(fs)
    engine.end_count(job.id, failed=True, reason=f"CorruptionError: {path}: offset 7: bad")
    assert [table.path for table in engine.damaged_tables()] == [path]
    driver.settle()
    for _ in range(5):
        engine.tick()
    assert engine.start_count({}) is None


def test_facts_of_local_spaces_are_read_past_a_damaged_table() -> None:
    fs = SimulatedFileSystem()
    driver = opened(fs)
    engine = driver.engine
    for stamp in (1, 2):
        engine.put(b"\x01a", record(stamp))
        engine.put(b"\x05fact%d" % stamp, record(stamp))
        engine.rotate()
        driver.settle()
    engine.close()
    fs.remove(newest_table(fs))
    engine = opened(fs).engine
    assert list(engine.scan(b"\x05", b"\x06")) == [(b"\x05fact1", record(1))]
    with pytest.raises(CorruptionError):
        engine.get(b"\x01a")


def test_a_bad_block_of_a_local_space_is_passed_over_and_marked() -> None:
    fs = SimulatedFileSystem()
    driver = opened(fs)
    engine = driver.engine
    for number in range(60):
        engine.put(b"\x05fact%02d" % number, record(1) + seeded(number).randbytes(40))
    engine.rotate()
    driver.settle()
    fs.flip(newest_table(fs), 900, 1)
    fs.cold = seeded(1)
    assert 0 < len(list(engine.scan(b"\x05", b"\x06"))) < 60
    assert len(engine.damaged_tables()) == 1


class ColdBadSector(BadSector):
    """As ``BadSector``, but nothing of it is in memory: the error comes only from a read that waits."""

    def pread_nowait(self, size: int, offset: int) -> bytes | None:
        return None


@pytest.mark.parametrize("file", [BadSector, ColdBadSector])
def test_a_sector_of_a_local_space_that_cannot_be_read_is_passed_over_and_marked(file: type[BadSector]) -> None:
    fs = SimulatedFileSystem()
    driver = opened(fs)
    for stamp in (1, 2):
        driver.engine.put(b"\x05fact%d" % stamp, record(stamp))
        driver.engine.rotate()
        driver.settle()
    driver.engine.close()
    engine = opened(fs).engine
    path = newest_table(fs)
    (reader,) = (reader for reader in engine._catalog.readers.values() if reader.path == path)
    reader._file = file(path)  # type: ignore[union-attr]
    assert list(engine.scan(b"\x05", b"\x06")) == [(b"\x05fact1", record(1))]
    assert [table.path for table in engine.damaged_tables()] == [path]


def test_a_snapshot_carries_the_marks_and_opens_without_the_lost_file() -> None:
    fs = SimulatedFileSystem()
    two_runs(fs).engine.close()
    fs.remove(newest_table(fs))
    driver = opened(fs)
    plan = driver.engine.snapshot("/s")
    assert plan is not None
    driver.settle()
    assert plan.run() == 1
    driver.engine.on_snapshot_done(plan)
    engine = open_engine(fs, "/s", OPTIONS, derive=lambda key, record: ())
    assert answers(engine, range(19, 21)) == {19: "1", 20: "damaged"}


def test_a_table_of_a_newer_format_is_still_refused() -> None:
    fs = SimulatedFileSystem()
    driver = two_runs(fs)
    driver.engine.close()

    def newer(name: str) -> ReadFile:
        if name.endswith(".sst"):
            raise FormatError(f"{name}: too new")
        return real_open(name)

    real_open = fs.open_read
    fs.open_read = newer  # type: ignore[method-assign]
    with pytest.raises(FormatError):
        opened(fs)


@pytest.mark.parametrize("offset", range(5, 1800, 37))
def test_wherever_a_table_rots_no_answer_is_wrong(offset: int) -> None:
    fs = SimulatedFileSystem()
    driver = two_runs(fs)
    before = answers(driver.engine, range(100))
    driver.engine.close()
    path = newest_table(fs)
    fs.flip(path, offset % fs.size(path), offset % 8)
    engine = opened(fs).engine
    after = answers(engine, range(100))
    assert all(after[number] in (before[number], "damaged") for number in range(100))


def test_answers_after_every_kind_of_damage_survive_compaction_of_what_is_left() -> None:
    fs = SimulatedFileSystem()
    driver = opened(fs)
    for stamp in (1, 2):
        add_run(driver, range(100), stamp)
    engine = driver.engine
    for number in range(0, 100, 2):
        engine.put(key(number), record(3, kind=0))
    engine.rotate()
    driver.run_job()
    driver.run_manifest()
    tombstones = newest_table(fs)
    engine.close()
    fs.remove(tombstones)
    driver = opened(fs)
    for stamp in (5, 6, 7, 8):
        add_run(driver, range(200, 220), stamp, compact=True)
    found = answers(driver.engine, range(0, 99))
    assert set(found.values()) == {"damaged"}, "a lost tombstone brings nothing back"
