from __future__ import annotations

import pytest

from respkv.base.errors import ReadMiss, RespkvError
from respkv.base.limits import HOLD_US
from respkv.env.rng import seeded
from respkv.storage.engine import Engine
from respkv.storage.identity import open_directory
from respkv.storage.options import EngineOptions
from respkv.storage.recovery import open_engine
from respkv.storage.version import table_path
from respkv.storage.wal import FatalStorageError, segment_path
from respkv.storage.write_batch import pack_lengths
from respkv.testing.disk import SimulatedFileSystem
from respkv.testing.engine_driver import EngineDriver

OPTIONS = EngineOptions(
    memtable_bytes=1 << 15,
    block_bytes=512,
    table_bytes=1 << 20,
    ballast_bytes=1 << 14,
    derived_spaces=frozenset({3}),
)


def derive(key: bytes, record: bytes) -> list[tuple[bytes, bytes]]:
    return [(b"\x03" + record[1:11] + key, b"")] if record[0] & 16 else []


def record(number: int, *, kind: int = 1) -> bytes:
    return bytes((kind,)) + b"%010d" % number + b"v" * 20


def key(number: int) -> bytes:
    return b"\x00key%06d" % number


def opened(fs: SimulatedFileSystem, options: EngineOptions = OPTIONS) -> EngineDriver:
    return EngineDriver(open_engine(fs, "/d", options, derive=derive), derive=derive)


def fill(engine: Engine, numbers: range, *, stamp: int = 0, per_commit: int = 10) -> None:
    for number in numbers:
        engine.put(key(number), record(stamp or number))
        if number % per_commit == 0:
            engine.commit()
    engine.commit()


def test_a_batch_is_overfull_by_its_bytes_or_by_its_entries() -> None:
    engine = opened(SimulatedFileSystem(), EngineOptions(ballast_bytes=0)).engine
    assert not engine.overfull()
    for number in range(3):
        engine.put(key(number), bytes(900_000))
        assert engine.overfull() == (number == 2)
    assert engine.overfull()
    engine.commit()
    assert not engine.overfull()
    engine.put(key(1), bytes(1_200_000))
    assert not engine.overfull()
    engine.commit()
    engine.put(key(1), bytes(10))
    engine.put(key(2), bytes(1_200_000))
    assert not engine.overfull(), "an earlier batch does not count"
    engine.put(key(2), bytes(1_200_000))
    assert engine.overfull()
    engine.commit()
    for number in range(1024):
        assert not engine.overfull()
        engine.put(key(number), b"\x01")
    assert engine.overfull()


def test_the_newest_record_is_found_wherever_it_is() -> None:
    driver = opened(SimulatedFileSystem())
    engine = driver.engine
    engine.put(key(1), record(10))
    engine.put(key(2), record(20))
    engine.put(key(3), record(30))
    engine.rotate()
    driver.settle()
    engine.put(key(2), record(21))
    engine.put(key(3), record(31))
    engine.rotate()
    engine.put(key(3), record(32))
    assert engine.stats()["runs"] == 1 and engine.stats()["memtables_retired"] == 1
    assert [engine.get(key(number)) for number in (1, 2, 3, 4)] == [record(10), record(21), record(32), None]
    assert list(engine.scan(b"\x00", b"\x01")) == [
        (key(1), record(10)),
        (key(2), record(21)),
        (key(3), record(32)),
    ]
    engine.commit()
    engine.check_invariants()


def test_commit_counts_batches() -> None:
    engine = opened(SimulatedFileSystem()).engine
    assert engine.commit() == 0
    engine.put(key(1), record(1))
    engine.put(key(2), record(1))
    assert engine.commit() == 1
    assert engine.commit() == 1
    engine.put(key(1), record(2))
    assert engine.commit() == engine.appended_lsn == 2
    assert engine.durable_lsn == 0 and engine.unsynced_bytes > 0


def test_a_sync_covers_what_was_committed_before_its_plan() -> None:
    driver = opened(SimulatedFileSystem())
    engine = driver.engine
    assert engine.sync_plan() is None
    engine.put(key(1), record(1))
    engine.commit()
    plan = engine.sync_plan()
    assert plan is not None and plan.lsn == 1
    engine.put(key(2), record(1))
    engine.commit()
    plan.run()
    engine.on_synced(plan)
    assert engine.durable_lsn == 1 and engine.unsynced_bytes > 0
    driver.sync()
    assert engine.durable_lsn == 2 and engine.unsynced_bytes == 0


def test_a_segment_is_closed_by_the_plan_that_syncs_its_end() -> None:
    """Not on the loop: it may be the last name of many pages."""
    driver = opened(SimulatedFileSystem())
    engine = driver.engine
    engine.put(key(1), record(1))
    first = engine.sync_plan() if engine.commit() else None
    assert first is not None
    engine.rotate()
    first.run()
    engine.on_synced(first)
    second = engine.sync_plan()
    assert second is not None and second.closed == (first.current,), "its end was written while the first plan ran"
    second.run()
    with pytest.raises((OSError, ValueError)):
        first.current.sync()
    engine.on_synced(second)
    assert engine.sync_plan() is None


def test_a_sync_covers_segments_closed_before_it() -> None:
    fs = SimulatedFileSystem()
    driver = opened(fs)
    engine = driver.engine
    for number in range(3):
        engine.put(key(number), record(number))
        engine.rotate()
    engine.put(key(9), record(9))
    engine.commit()
    driver.sync()
    for seed in range(10):
        after = opened(fs.crash(seeded(seed))).engine
        assert [after.get(key(number)) is not None for number in (0, 1, 2, 9)] == [True] * 4


def test_a_failed_sync_is_fatal() -> None:
    fs = SimulatedFileSystem()
    engine = opened(fs).engine
    engine.put(key(1), record(1))
    engine.commit()
    fs.fail_syncs = lambda path: path.endswith(".log")
    plan = engine.sync_plan()
    assert plan is not None
    with pytest.raises(FatalStorageError, match="sync failed"):
        plan.run()
    assert engine.durable_lsn == 0


def test_a_full_memtable_is_retired_and_flushed() -> None:
    fs = SimulatedFileSystem()
    driver = opened(fs)
    engine = driver.engine
    fill(engine, range(400))
    stats = engine.stats()
    assert stats["memtables_retired"] >= 1
    segments = len(fs.listdir("/d/wal"))
    driver.settle()
    stats = engine.stats()
    assert stats["memtables_retired"] == 0 and stats["runs"] >= 1 and stats["memtables_to_dispose"] == 0
    assert len(fs.listdir("/d/wal")) == 1 < segments
    assert all(engine.get(key(number)) == record(number) for number in range(400))
    assert stats["write_amplification"] > 0 and stats["flushes"] >= 1
    engine.check_invariants()


def test_overwriting_hot_keys_does_not_flush_until_the_log_is_long() -> None:
    driver = opened(SimulatedFileSystem())
    engine = driver.engine
    for number in range(1000):
        engine.put(key(1), record(number))
        engine.commit()
    assert engine.stats()["memtables_retired"] == 0
    for number in range(1000):
        engine.put(key(1), record(number))
        engine.commit()
    assert engine.stats()["memtables_retired"] == 1
    driver.settle()
    assert driver.get(key(1)) == record(999)


def test_recovery_after_flushes_keeps_everything() -> None:
    fs = SimulatedFileSystem()
    driver = opened(fs)
    fill(driver.engine, range(300))
    driver.settle()
    fill(driver.engine, range(200, 500), stamp=7)
    lsn = driver.engine.appended_lsn
    driver = opened(fs.copy())
    assert driver.engine.appended_lsn >= lsn
    for number in range(500):
        assert driver.get(key(number)) == record(7 if number >= 200 else number)
    driver.engine.check_invariants()


def test_derived_entries_are_scanned_from_memory_and_tables() -> None:
    driver = opened(SimulatedFileSystem())
    engine = driver.engine
    for number in range(4):
        value = record(number, kind=17)
        engine.put(key(number), value)
        for index_key, empty in derive(key(number), value):
            engine.put_derived(index_key, empty)
        if number == 1:
            engine.rotate()
            driver.settle()
    engine.commit()
    found = [entry[0] for entry in driver.scan(b"\x03", b"\x04")]
    assert found == [b"\x03%010d" % number + key(number) for number in range(4)]
    assert engine.prepare_scan(3, 1) == 0
    assert [entry[0] for entry in driver.scan(b"\x00", b"\x01")] == [key(number) for number in range(4)]


def test_compaction_merges_runs_and_removes_its_inputs() -> None:
    fs = SimulatedFileSystem()
    driver = opened(fs)
    engine = driver.engine
    for stamp in range(1, 9):
        fill(engine, range(100), stamp=stamp)
        engine.rotate()
        driver.settle()
    stats = engine.stats()
    assert stats["compactions"] >= 1 and stats["runs"] < 8
    assert len(fs.listdir("/d/tables")) == stats["tables"]
    assert all(driver.get(key(number)) == record(8) for number in range(100))
    assert stats["space_amplification"] >= 1.0 and stats["compaction_debt_bytes"] == 0
    engine.check_invariants()
    assert opened(fs.copy()).get(key(5)) == record(8)


def test_what_retention_drops_is_gone_after_compaction() -> None:
    asked: list[dict[str, object]] = []

    def make_keep(retention: dict[str, object], lookup: object) -> object:
        asked.append(retention)
        return lambda key, record, older_may_hold: record[0] & 15 != 0 or older_may_hold(key)

    fs = SimulatedFileSystem()
    options = EngineOptions(memtable_bytes=1 << 15, ballast_bytes=0, retention=lambda: {"now": 5})
    driver = EngineDriver(open_engine(fs, "/d", options, derive=derive), derive=derive, make_keep=make_keep)
    for stamp in range(1, 5):
        fill(driver.engine, range(50), stamp=stamp)
        if stamp == 4:
            driver.engine.put(key(7), record(9, kind=0))
        driver.engine.rotate()
        driver.settle()
    assert asked == [{"now": 5}]
    assert driver.get(key(7)) is None and driver.get(key(8)) == record(4)


def test_a_failed_job_is_offered_again_and_its_files_go() -> None:
    fs = SimulatedFileSystem()
    driver = opened(fs)
    engine = driver.engine
    fill(engine, range(50))
    engine.rotate()
    job = engine.next_job()
    assert job is not None and job.kind == "flush" and engine.next_job() is None
    orphan = table_path("/d", job.spec["outputs"][0])
    fs.write_file(orphan, b"half a table")
    engine.on_job_failed(job.id, "the worker died")
    assert engine.next_job() is None
    driver.run_manifest()
    assert not fs.exists(orphan)
    for _ in range(10):
        engine.tick()
    driver.settle()
    assert engine.stats()["runs"] == 1 and engine.stats()["job_failures"] == 1 and engine.refusal() is None


def test_a_job_that_fails_for_space_frees_the_ballast() -> None:
    fs = SimulatedFileSystem()
    driver = opened(fs)
    engine = driver.engine
    fill(engine, range(100))
    engine.rotate()
    fs.capacity = fs.used() + 100
    assert driver.run_job()
    assert engine.refusal() == "disk full" and not fs.exists("/d/BALLAST")
    assert fs.listdir("/d/tables") == []
    for _ in range(5):
        engine.tick()
    driver.settle()
    assert engine.stats()["runs"] == 1 and driver.get(key(5)) == record(5)


def test_files_of_a_running_job_outlive_the_edit_that_drops_them() -> None:
    fs = SimulatedFileSystem()
    driver = opened(fs, EngineOptions(memtable_bytes=1 << 15, ballast_bytes=0, runs_per_tier=2, stall_runs=9))
    engine = driver.engine
    fill(engine, range(100), stamp=1)
    engine.rotate()
    while driver.run_job() and driver.run_manifest():
        pass
    fill(engine, range(100), stamp=2)
    engine.rotate()
    flush = engine.next_job()
    assert flush is not None
    engine.on_job_done(flush.id, driver.work(flush))
    driver.run_manifest()
    compaction = engine.next_job()
    assert compaction is not None and compaction.kind == "compact"
    assert engine.drop_tables(lambda table: True) == (0, 2)
    result = driver.work(compaction)
    engine.on_job_done(compaction.id, result)
    assert engine.drop_tables(lambda table: True) == (1, 0)
    driver.settle()
    assert fs.listdir("/d/tables") == [] and driver.get(key(1)) is None
    engine.check_invariants()


def test_a_scan_reads_on_after_its_tables_are_gone() -> None:
    fs = SimulatedFileSystem()
    driver = opened(fs)
    fill(driver.engine, range(200))
    driver.engine.rotate()
    driver.settle()
    scan = driver.engine.scan(b"\x00", wait=True)
    first = [next(scan) for _ in range(10)]
    driver.engine.drop_tables(lambda table: True)
    driver.settle()
    assert fs.listdir("/d/tables") == []
    assert first + list(scan) == [(key(number), record(number)) for number in range(200)]


def test_retired_memory_is_freed_in_slices_and_not_under_a_scan() -> None:
    driver = opened(SimulatedFileSystem(), EngineOptions(memtable_bytes=1 << 20, ballast_bytes=0))
    engine = driver.engine
    fill(engine, range(2500))
    engine.rotate()
    scan = engine.scan(b"\x00")
    first = next(scan)
    while driver.run_job() or driver.run_manifest():
        pass
    assert not engine.tick() and engine.stats()["memtables_to_dispose"] == 1
    assert len([first, *scan]) == 2500
    assert [engine.tick() for _ in range(4)] == [True, True, False, False]
    assert engine.stats()["memtables_to_dispose"] == 0


def test_reads_of_cold_blocks_are_misses_that_can_be_served() -> None:
    fs = SimulatedFileSystem()
    driver = opened(fs)
    fill(driver.engine, range(300))
    driver.engine.rotate()
    driver.settle()
    fs.cold = seeded(3)
    with pytest.raises(ReadMiss):
        for number in range(300):
            driver.engine.get(key(number))
    assert all(driver.get(key(number)) == record(number) for number in range(300))
    fs.drop_page_cache()
    assert len(list(driver.scan(b"\x00", b"\x01"))) == 300
    assert driver.misses > 1


def test_disk_that_is_held_is_told_apart_from_disk_that_is_written() -> None:
    fs = SimulatedFileSystem()
    engine = (driver := opened(fs)).engine
    room = OPTIONS.segment_preallocation
    empty = engine.stats()
    assert empty["disk_bytes"] < 1000
    assert room + OPTIONS.ballast_bytes - 1000 < empty["disk_preallocated_bytes"] <= room + OPTIONS.ballast_bytes
    fill(engine, range(100))
    grown = engine.stats()["disk_bytes"] - empty["disk_bytes"]
    assert grown == engine.stats()["wal_bytes"] - empty["wal_bytes"] > 100 * len(record(0))
    assert empty["disk_preallocated_bytes"] - engine.stats()["disk_preallocated_bytes"] == grown
    written = engine.disk_bytes()
    engine.rotate()
    stats = engine.stats()
    assert stats["memtables_retired"] == 1 and written < stats["disk_bytes"] < written + 1000
    both = 2 * room + OPTIONS.ballast_bytes - written
    assert both - 1000 < stats["disk_preallocated_bytes"] < both + 1000
    driver.settle()
    stats = engine.stats()
    assert stats["disk_bytes"] == stats["table_bytes"] + stats["manifest_bytes"] + stats["wal_bytes"] < written
    fs.remove("/d/BALLAST")
    assert engine.stats()["disk_preallocated_bytes"] == room - stats["wal_bytes"]


def test_a_full_disk_refuses_writes_and_takes_them_again() -> None:
    fs = SimulatedFileSystem()
    driver = opened(fs)
    engine = driver.engine
    fs.capacity = fs.used() + 1000
    fill(engine, range(250))
    assert engine.refusal() == "disk full" and engine.refusal() is not None
    assert not fs.exists("/d/BALLAST")
    assert engine.stats()["memtables_retired"] == 0
    assert engine.get(key(3)) == record(3), "reads go on"
    engine.put(key(3), record(0, kind=0))
    engine.commit()
    engine.tick()
    assert engine.refusal() is not None
    fs.capacity = None
    engine.tick()
    assert engine.refusal() is None and fs.exists("/d/BALLAST")
    driver.settle()
    fill(engine, range(250, 260))
    driver.settle()
    assert engine.stats()["runs"] == 1 and driver.get(key(3)) == record(0, kind=0)
    engine.check_invariants()
    assert opened(fs.copy()).get(key(255)) == record(255)


def test_forced_rotation_on_a_full_disk_says_no() -> None:
    fs = SimulatedFileSystem()
    engine = opened(fs).engine
    assert engine.rotate(), "an empty memtable needs none"
    fs.capacity = fs.used()
    engine.put(key(1), record(1))
    assert not engine.rotate()
    assert engine.snapshot("/snap") is None


def test_an_append_without_room_uses_the_ballast_and_then_is_fatal() -> None:
    fs = SimulatedFileSystem()
    options = EngineOptions(memtable_bytes=1 << 20, segment_bytes=1 << 14, ballast_bytes=1 << 14)
    engine = opened(fs, options).engine
    fs.capacity = fs.used()
    engine.put(key(1), b"\x01" + bytes(90_000))
    engine.commit()
    assert not fs.exists("/d/BALLAST") and engine.refusal() == "disk full"
    after = fs.copy()
    after.capacity = None
    assert opened(after).get(key(1)) is not None
    engine.put(key(2), b"\x01" + bytes(90_000))
    with pytest.raises(FatalStorageError, match="append failed"):
        engine.commit()


def test_other_errors_at_rotation_are_fatal() -> None:
    fs = SimulatedFileSystem()
    engine = opened(fs).engine
    engine.put(key(1), record(1))
    fs.write_file(segment_path("/d", engine.memtable.segment_id + 1), b"in the way")
    with pytest.raises(FatalStorageError, match="exists"):
        engine.rotate()


def test_pressure_grows_with_the_second_memtable_and_with_runs() -> None:
    options = EngineOptions(memtable_bytes=1 << 15, ballast_bytes=0, runs_per_tier=2, stall_runs=2)
    driver = opened(SimulatedFileSystem(), options)
    engine = driver.engine
    assert engine.pressure() == 0.0
    fill(engine, range(50))
    engine.rotate()
    assert engine.pressure() == 0.0
    levels = []
    for number in range(1000, 1190):
        engine.put(key(number), record(number))
        engine.commit()
        levels.append(engine.pressure())
    assert levels == sorted(levels) and 0.0 < levels[140] < 1.0
    fill(engine, range(2000, 2100))
    assert engine.stats()["memtables_retired"] == 2 and engine.pressure() == 1.0
    for _ in range(4):
        while (job := engine.next_job()) is not None and job.kind == "flush":
            engine.on_job_done(job.id, driver.work(job))
            driver.run_manifest()
        fill(engine, range(50))
        engine.rotate()
    assert engine.stats()["runs"] >= 5 and engine.pressure() >= 0.75


def test_runs_that_pile_up_slow_writers_down_and_stop_them_at_last() -> None:
    """Merging is behind: the more runs the longer a wait, but a trickle goes on for long."""
    options = EngineOptions(memtable_bytes=1 << 15, ballast_bytes=0, runs_per_tier=2, stall_runs=2)
    driver = opened(SimulatedFileSystem(), options)
    engine = driver.engine
    waits: dict[int, int] = {}
    for _ in range(30):
        fill(engine, range(5))
        engine.rotate()
        while (job := engine.next_job()) is not None and job.kind == "flush":
            engine.on_job_done(job.id, driver.work(job))
            driver.run_manifest()
        waits[engine.stats()["runs"]] = engine.brake_us()
    by_runs = [waits[runs] for runs in range(1, 31)]
    assert by_runs == sorted(by_runs) and by_runs[:2] == [0, 0] and by_runs[5] == 10_000
    assert 100_000 <= by_runs[12] == by_runs[24] < 250_000, "no pause may be longer"
    assert by_runs[25] == HOLD_US and engine.pressure() == 1.0


def test_meta_values_ride_on_edits() -> None:
    fs = SimulatedFileSystem()
    driver = opened(fs)
    engine = driver.engine
    engine.set_meta("counts", b"\x01\x02")
    assert engine.meta("counts") == b"\x01\x02" and engine.meta("other") is None
    assert opened(fs.copy()).engine.meta("counts") is None
    fill(engine, range(10))
    engine.rotate()
    driver.settle()
    engine.set_meta("mark", b"x")
    engine.save_meta()
    assert driver.run_manifest()
    engine.save_meta()
    assert not driver.run_manifest()
    again = opened(fs.copy()).engine
    assert again.meta("counts") == b"\x01\x02" and again.meta("mark") == b"x"
    again.set_meta("mark", None)
    assert again.meta("mark") is None


def test_what_describes_a_memtable_rides_on_the_edit_of_its_flush() -> None:
    fs = SimulatedFileSystem()
    driver = opened(fs)
    engine = driver.engine
    engine.describe = lambda: {"facts": b"%d" % engine.appended_lsn}
    fill(engine, range(10))
    engine.rotate()
    retired = b"%d" % engine.appended_lsn
    fill(engine, range(10))
    assert engine.meta("facts") is None
    assert driver.run_job() and driver.run_manifest()
    assert opened(fs.copy()).engine.meta("facts") == engine.meta("facts") == retired < b"%d" % engine.appended_lsn


def test_a_snapshot_opens_as_a_directory_of_a_new_node() -> None:
    fs = SimulatedFileSystem()
    open_directory(fs, "/d", make_id=lambda: b"1" * 16)
    driver = opened(fs)
    engine = driver.engine
    fill(engine, range(100), stamp=1)
    engine.rotate()
    driver.settle()
    fill(engine, range(50), stamp=2)
    plan = engine.snapshot("/backups/monday")
    assert plan is not None and not plan.ready
    fill(engine, range(100), stamp=3)
    driver.settle()
    assert plan.ready
    engine.drop_tables(lambda table: True)
    driver.settle()
    assert plan.run() == 2
    engine.on_snapshot_done(plan)
    driver.settle()
    assert len(fs.listdir("/d/tables")) == engine.stats()["tables"] == 0
    with pytest.raises(FileExistsError):
        plan.run()
    for seed in range(5):
        after = fs.crash(seeded(seed))
        directory = open_directory(after, "/backups/monday", make_id=lambda: b"2" * 16)
        assert directory.node_id == b"2" * 16
        copy = open_engine(after, "/backups/monday", OPTIONS, derive=derive)
        assert [copy.get(key(number)) for number in (10, 70)] == [record(2), record(1)]
        copy.check_invariants()


def test_a_snapshot_replaces_what_an_interrupted_one_left() -> None:
    fs = SimulatedFileSystem()
    driver = opened(fs)
    engine = driver.engine
    plan = engine.snapshot("/s/a")
    assert plan is not None and plan.ready
    fs.mkdir("/s/a.tmp/tables")
    fs.write_file("/s/a.tmp/tables/000000000001.sst", b"left over")
    assert plan.run() == 0
    assert fs.listdir("/s/a/tables") == []
    engine.on_snapshot_done(plan)


def test_options_out_of_range() -> None:
    with pytest.raises(RespkvError):
        EngineOptions(runs_per_tier=1)
    with pytest.raises(RespkvError):
        EngineOptions(memtable_bytes=0)
    assert EngineOptions(memtable_bytes=1 << 30).segment_limit == 512 << 20
    assert EngineOptions(segment_bytes=5).segment_limit == 5


def test_closing_and_the_words_for_it() -> None:
    driver = opened(SimulatedFileSystem())
    fill(driver.engine, range(10))
    driver.engine.rotate()
    driver.settle()
    assert "lsn=1/" in repr(driver.engine) or "lsn=2/" in repr(driver.engine)
    driver.engine.close()
    with pytest.raises(FatalStorageError):
        driver.engine.put(key(1), record(1))
        driver.engine.commit()


def test_what_is_below_a_memtable() -> None:
    driver = opened(SimulatedFileSystem())
    engine = driver.engine
    for stamp in (1, 2, 3):
        engine.put(key(1), record(stamp))
        engine.put(key(stamp + 1), record(stamp))
        engine.rotate()
        if stamp == 1:
            driver.settle()
    engine.put(key(1), record(4))
    engine.commit()
    newer, older = engine.immutables
    assert engine.get_below(engine.memtable, key(1)) == record(3)
    assert engine.get_below(newer, key(1)) == record(2)
    assert engine.get_below(older, key(1)) == record(1)
    assert engine.get_below(older, key(2)) == record(1)
    assert engine.get_below(older, key(3)) is None
    assert engine.newest_run() > 0


def test_a_count_job_pins_the_runs_it_walks() -> None:
    fs = SimulatedFileSystem()
    driver = opened(fs)
    engine = driver.engine
    assert engine.newest_run() == 0
    fill(engine, range(50))
    engine.rotate()
    driver.settle()
    job = engine.start_count({"colour": "red"})
    assert job is not None and job.kind == "count" and job.spec["colour"] == "red"
    assert engine.start_count({}) is None
    engine.drop_tables(lambda table: True)
    driver.settle()
    assert len(fs.listdir("/d/tables")) == 1
    engine.end_count(job.id, failed=False)
    driver.settle()
    assert fs.listdir("/d/tables") == []
    job = engine.start_count({})
    assert job is not None
    engine.end_count(job.id, failed=True)
    assert engine.start_count({}) is None, "it waits some ticks"


def test_a_deferred_key_reads_scans_and_flushes_as_if_it_were_listed() -> None:
    driver = opened(SimulatedFileSystem())
    engine = driver.engine
    held: dict[bytes, bytes] = {}
    engine.held = held.get
    engine.put(key(1), record(1))
    engine.commit()
    engine.rotate()
    held[key(1)] = record(2)
    engine.batch += (pack_lengths(len(record(2)), len(key(1))), key(1), record(2))
    engine.memtable.deferred.append(key(1))
    engine.commit()
    assert key(1) not in engine.memtable.table
    assert engine.get(key(1)) == record(2)
    assert engine.rotate(), "a memtable of deferred keys alone is not empty"
    assert engine.get(key(1)) == record(2)
    assert list(engine.scan(b"\x00", b"\x01")) == [(key(1), record(2))]
    engine.held = None
    driver.settle()
    assert not engine.immutables and engine.get(key(1)) == record(2)


def test_preparing_a_scan_lists_deferred_keys_of_its_space_in_slices() -> None:
    engine = opened(SimulatedFileSystem()).engine
    held = {key(number): record(number) for number in range(10)}
    engine.held = held.get
    engine.memtable.deferred.extend(held)
    assert engine.prepare_scan(1, 4) == 0, "another space"
    remaining = [engine.prepare_scan(0, 4) for _ in range(3)]
    assert remaining[-1] == 0 and remaining[0] > remaining[1] > 0
    assert engine.memtable.table == held
