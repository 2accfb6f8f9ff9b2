from __future__ import annotations

import errno

import pytest

from respkv.base.errors import CorruptionError, FormatError, StorageFull
from respkv.env.rng import seeded
from respkv.storage.engine import Engine
from respkv.storage.identity import UNNAMED, encode_identity, read_identity
from respkv.storage.jobs import flush_job
from respkv.storage.manifest import encode_current
from respkv.storage.options import EngineOptions
from respkv.storage.recovery import open_directory, open_engine
from respkv.storage.wal import RECORD_OVERHEAD, FatalStorageError, LogWriter, segment_path
from respkv.testing.disk import SimulatedFileSystem
from respkv.testing.engine_driver import EngineDriver

OPTIONS = EngineOptions(memtable_bytes=1 << 16, ballast_bytes=1 << 12, derived_spaces=frozenset({3}))


def derive(key: bytes, record: bytes) -> list[tuple[bytes, bytes]]:
    return [(b"\x03" + record[:2] + key, b"")] if record.startswith(b"x") else []


def opened(fs: SimulatedFileSystem) -> Engine:
    return open_engine(fs, "/d", OPTIONS, derive=derive)


def sync(engine: Engine) -> None:
    plan = engine.sync_plan()
    if plan is not None:
        plan.run()
        engine.on_synced(plan)


def filled(fs: SimulatedFileSystem, count: int) -> Engine:
    engine = opened(fs)
    for number in range(count):
        engine.put(b"\x00k%d" % number, b"v%d" % number)
        engine.commit()
    return engine


def only_segment(fs: SimulatedFileSystem) -> str:
    (name,) = fs.listdir("/d/wal")
    return f"/d/wal/{name}"


def test_a_new_directory_is_made_and_opens_again() -> None:
    fs = SimulatedFileSystem()
    engine = opened(fs)
    assert engine.get(b"k") is None and engine.appended_lsn == engine.durable_lsn == 0
    engine.close()
    engine = opened(fs)
    engine.check_invariants()
    assert engine.recovery.records == 0


def test_unsynced_commits_survive_a_killed_process() -> None:
    fs = SimulatedFileSystem()
    filled(fs, 20)
    engine = opened(fs.copy())
    assert [engine.get(b"\x00k%d" % number) for number in range(20)] == [
        b"v%d" % number for number in range(20)
    ]
    assert engine.recovery.records == 20 and engine.recovery.entries == 20 and engine.recovery.last_lsn == 20
    assert engine.durable_lsn == engine.appended_lsn > 20
    engine.check_invariants()


def test_entries_of_an_open_batch_are_not_promised() -> None:
    fs = SimulatedFileSystem()
    engine = opened(fs)
    engine.put(b"\x00a", b"1")
    engine.commit()
    engine.put(b"\x00b", b"2")
    assert opened(fs.copy()).get(b"\x00b") is None


def test_derived_entries_come_back_with_their_records() -> None:
    fs = SimulatedFileSystem()
    engine = opened(fs)
    engine.put(b"\x00a", b"xyz")
    engine.put(b"\x00b", b"plain")
    engine.commit()
    assert list(opened(fs.copy()).scan(b"\x03", b"\x04")) == [(b"\x03xy\x00a", b"")]


def test_what_was_replayed_is_durable_before_it_is_served() -> None:
    """After a process crash the log may be in the page cache only; a power loss after opening is harmless."""
    fs = SimulatedFileSystem()
    filled(fs, 20)
    engine = opened(fs)
    assert engine.get(b"\x00k19") == b"v19"
    for seed in range(20):
        again = opened(fs.crash(seeded(seed)))
        assert again.get(b"\x00k19") == b"v19"
        again.check_invariants()


def test_a_torn_tail_is_dropped_and_reported() -> None:
    fs = SimulatedFileSystem()
    engine = filled(fs, 5)
    sync(engine)
    end = engine.stats()["wal_bytes"]
    engine.put(b"\x00torn", b"1")
    engine.commit()
    fs.flip(only_segment(fs), int(end) + 30, 1)
    engine = opened(fs.copy())
    assert engine.get(b"\x00torn") is None and engine.get(b"\x00k4") == b"v4"
    assert engine.recovery.dropped_bytes > 30 and engine.recovery.last_lsn == 5


def test_destroyed_durable_data_stops_the_opening_and_changes_nothing() -> None:
    fs = SimulatedFileSystem()
    engine = filled(fs, 5)
    sync(engine)
    engine.put(b"\x00later", b"1")
    engine.commit()
    fs.flip(only_segment(fs), 100, 1)
    before = {name: fs.read_all(f"/d/wal/{name}") for name in fs.listdir("/d/wal")}
    with pytest.raises(CorruptionError, match="durable"):
        opened(fs)
    assert {name: fs.read_all(f"/d/wal/{name}") for name in fs.listdir("/d/wal")} == before


def test_a_missing_segment_is_corruption() -> None:
    fs = SimulatedFileSystem()
    filled(fs, 5)
    fs.remove(only_segment(fs))
    with pytest.raises(CorruptionError, match="missing segment"):
        opened(fs)


def test_a_missing_manifest_is_corruption() -> None:
    fs = SimulatedFileSystem()
    filled(fs, 5)
    fs.remove("/d/MANIFEST-000001")
    with pytest.raises(CorruptionError, match="not there"):
        opened(fs)


def test_a_missing_current_with_data_is_refused() -> None:
    fs = SimulatedFileSystem()
    filled(fs, 5)
    fs.remove("/d/CURRENT")
    with pytest.raises(CorruptionError, match="holds data"):
        opened(fs)
    fs = SimulatedFileSystem()
    fs.mkdir("/d/tables")
    fs.write_file("/d/tables/000000000001.sst", b"")
    with pytest.raises(FormatError, match="without CURRENT"):
        opened(fs)


def test_orphans_go_and_files_of_others_stay() -> None:
    fs = SimulatedFileSystem()
    filled(fs, 5).close()
    mine = ["/d/tables/000000000077.sst", "/d/tables/x.tmp", segment_path("/d", 3), "/d/IDENTITY.tmp"]
    others = ["/d/redis.conf", "/d/dump.rdb", "/d/tables/readme"]
    for path in mine + others:
        fs.write_file(path, b"")
    engine = opened(fs)
    assert set(mine) <= set(engine.recovery.files_removed)
    assert not any(fs.exists(path) for path in mine)
    assert all(fs.exists(path) for path in others)
    engine.check_invariants()


def test_file_ids_of_orphans_are_not_used_again() -> None:
    fs = SimulatedFileSystem()
    filled(fs, 1).close()
    fs.write_file("/d/tables/000000005000.sst", b"")
    assert opened(fs).memtable.segment_id > 5000


def test_a_batch_that_is_no_entries_is_corruption() -> None:
    fs = SimulatedFileSystem()
    engine = filled(fs, 1)
    engine.batch.append(b"not an entry")
    engine.commit()
    with pytest.raises(CorruptionError, match="overrun"):
        opened(fs)


def test_opening_on_a_full_disk_gives_up_the_ballast_then_the_room_for_more() -> None:
    fs = SimulatedFileSystem()
    filled(fs, 5).close()
    assert fs.exists("/d/BALLAST")
    fs.capacity = fs.used() + 1000
    with pytest.raises(StorageFull, match="manifest"):
        opened(fs.copy())
    fs.capacity = fs.used() + 1000 + (6 << 20)
    big = EngineOptions(memtable_bytes=64 << 20, ballast_bytes=1 << 12)
    engine = open_engine(fs, "/d", big, derive=derive)
    assert engine.get(b"\x00k4") == b"v4" and engine.refusal() is not None
    engine.tick()
    assert engine.refusal() is not None
    fs.capacity += 400 << 20
    engine.tick()
    assert engine.refusal() is None
    engine.put(b"\x00k5", b"v5")
    engine.commit()
    engine.check_invariants()
    engine.close()
    fs.capacity = fs.used() - (1 << 12)
    with pytest.raises(StorageFull):
        opened(fs)


def test_opening_when_the_disk_fails() -> None:
    fs = SimulatedFileSystem()
    filled(fs, 5).close()
    fs.fail_syncs = lambda path: True
    with pytest.raises(OSError, match="input/output"):
        opened(fs)


def test_identity_is_made_once_and_read_again() -> None:
    fs = SimulatedFileSystem()
    directory = open_directory(fs, "/d", make_id=lambda: b"i" * 16)
    assert directory.fresh and directory.node_id == b"i" * 16
    with pytest.raises(FormatError, match="another process"):
        open_directory(fs, "/d", make_id=lambda: b"j" * 16)
    directory.lock.close()
    opened(fs).close()
    directory = open_directory(fs, "/d", make_id=lambda: b"j" * 16)
    assert not directory.fresh and directory.node_id == b"i" * 16
    assert (
        fs.read_all("/d/IDENTITY")
        == b"respkv 2\nnode 69696969696969696969696969696969\nsum 66edb1eb2e3db166\n"
    )


def test_an_unnamed_directory_gets_a_fresh_identity() -> None:
    fs = SimulatedFileSystem()
    opened(fs).close()
    fs.write_file("/d/IDENTITY", encode_identity(UNNAMED))
    directory = open_directory(fs, "/d", make_id=lambda: b"k" * 16)
    assert directory.node_id == b"k" * 16 and not directory.fresh
    assert read_identity(fs, "/d") == b"k" * 16


def test_files_of_redis_in_the_directory_are_tolerated() -> None:
    fs = SimulatedFileSystem()
    fs.mkdir("/d")
    fs.write_file("/d/redis.conf", b"dir ./\n")
    fs.write_file("/d/redis.log", b"")
    assert open_directory(fs, "/d", make_id=lambda: b"i" * 16).fresh


@pytest.mark.parametrize(
    ("name", "data", "match"),
    [
        ("CURRENT", b"someone else's\n", "--dir"),
        ("CURRENT", encode_current(1), "--dir"),
        ("tables/x.sst", b"", "--dir"),
        ("IDENTITY", b"hello\n", "--dir"),
        ("IDENTITY", b"respkv 3\nnode 00\n", "version 3, .* start a newer one"),
        ("IDENTITY", b"respkv 1\nnode 00\n", "version 1, .* copy its keys"),
    ],
)
def test_foreign_and_newer_directories_are_refused(name: str, data: bytes, match: str) -> None:
    fs = SimulatedFileSystem()
    fs.mkdir("/d/tables")
    fs.write_file(f"/d/{name}", data)
    with pytest.raises(FormatError, match=match):
        open_directory(fs, "/d", make_id=lambda: b"i" * 16)
    assert fs.lock("/d/LOCK") is not None, "the lock is given back"


@pytest.mark.parametrize(
    "data",
    [
        b"respkv 2\nnode xx\n",
        b"respkv 2\n",
        b"respkv 2\nnode 00\nsum 0\n",
        encode_identity(b"i" * 16)[:-1],
        encode_identity(b"i" * 16).replace(b"6", b"7", 1),
    ],
)
def test_a_damaged_identity_is_corruption(data: bytes) -> None:
    fs = SimulatedFileSystem()
    fs.mkdir("/d")
    fs.write_file("/d/IDENTITY", data)
    with pytest.raises(CorruptionError):
        open_directory(fs, "/d", make_id=lambda: b"i" * 16)


def test_a_file_where_a_directory_must_be() -> None:
    fs = SimulatedFileSystem()
    fs.mkdir("/d")
    fs.write_file("/d/wal", b"notes")
    with pytest.raises(FormatError, match="is a file"):
        opened(fs)


def last_record(fs: SimulatedFileSystem, engine: Engine) -> int:
    """A place in the newest record of the only segment."""
    return int(engine.stats()["wal_bytes"]) - 10


def test_rot_in_the_last_record_after_a_clean_stop_is_corruption() -> None:
    fs = SimulatedFileSystem()
    engine = filled(fs, 5)
    sync(engine)
    place = last_record(fs, engine)
    engine.close()
    again = opened(fs.copy())
    assert again.get(b"\x00k4") == b"v4" and again.recovery.dropped_bytes == 0
    fs.flip(only_segment(fs), place, 1)
    with pytest.raises(CorruptionError, match="durable"):
        opened(fs)


def test_rot_that_takes_the_end_of_the_log_too_is_known_from_the_manifest() -> None:
    fs = SimulatedFileSystem()
    engine = filled(fs, 5)
    sync(engine)
    place = last_record(fs, engine)
    engine.close()
    path = only_segment(fs)
    fs.open_append(path, place - 30).write(bytes(200))
    with pytest.raises(CorruptionError, match="known to be durable"):
        opened(fs)


def test_a_stop_without_a_sync_promises_nothing() -> None:
    fs = SimulatedFileSystem()
    engine = filled(fs, 5)
    place = last_record(fs, engine)
    engine.close()
    fs.flip(only_segment(fs), place, 1)
    assert opened(fs).recovery.last_lsn == 4


def test_a_quiet_log_vouches_for_its_last_record() -> None:
    fs = SimulatedFileSystem()
    engine = filled(fs, 5)
    engine.tick()
    size = engine.stats()["wal_bytes"]
    sync(engine)
    place = last_record(fs, engine)
    engine.tick()
    engine.tick()
    assert engine.stats()["wal_bytes"] == size + RECORD_OVERHEAD, "once, and only when all is durable"
    torn = fs.copy()
    torn.flip(only_segment(fs), place, 1)
    with pytest.raises(CorruptionError, match="durable"):
        opened(torn)
    engine.put(b"\x00more", b"1")
    engine.commit()
    assert opened(fs.copy()).get(b"\x00more") == b"1"


def test_a_closed_segment_is_vouched_for_once_it_is_synced() -> None:
    fs = SimulatedFileSystem()
    engine = filled(fs, 5)
    place = last_record(fs, engine)
    first = only_segment(fs)
    engine.rotate()
    sync(engine)
    engine.tick()
    fs.flip(first, place, 1)
    with pytest.raises(CorruptionError, match="durable"):
        opened(fs)


def test_what_was_replayed_is_vouched_for_by_the_new_manifest() -> None:
    fs = SimulatedFileSystem()
    filled(fs, 5)
    fs = fs.copy()
    engine = opened(fs)
    place = last_record(fs, engine)
    fs.flip(only_segment(fs), place, 1)
    with pytest.raises(CorruptionError, match="known to be durable"):
        opened(fs.copy())


def test_a_mark_without_room_is_left_out_and_other_errors_are_fatal(monkeypatch: pytest.MonkeyPatch) -> None:
    fs = SimulatedFileSystem()
    engine = filled(fs, 5)
    sync(engine)

    def fail(code: int) -> None:
        def write(self: LogWriter, data: bytes) -> None:
            raise OSError(code, "no")

        monkeypatch.setattr(LogWriter, "_write", write)

    fail(errno.ENOSPC)
    engine.tick()
    engine.put(b"\x00a", b"1")
    engine.commit()
    sync(engine)
    fail(errno.EIO)
    with pytest.raises(FatalStorageError, match="append failed"):
        engine.tick()


def test_a_clean_stop_on_a_full_disk_is_only_less_certain() -> None:
    fs = SimulatedFileSystem()
    engine = filled(fs, 5)
    sync(engine)
    engine.set_meta("long", bytes(100_000))
    fs.truncate("/d/MANIFEST-000001", 300)
    fs.capacity = fs.used()
    engine.close()
    fs.capacity = None
    assert opened(fs.copy()).get(b"\x00k4") == b"v4"


def test_a_clean_stop_with_a_new_table_that_rotted_leaves_it_out() -> None:
    fs = SimulatedFileSystem()
    engine = filled(fs, 5)
    engine.rotate()
    sync(engine)
    job = engine.next_job()
    assert job is not None
    engine.on_job_done(job.id, flush_job(fs, job.spec, derive))
    (name,) = fs.listdir("/d/tables")
    fs.flip(f"/d/tables/{name}", fs.size(f"/d/tables/{name}") - 1, 1)
    engine.close()
    assert opened(fs.copy()).get(b"\x00k4") == b"v4"


def test_a_clean_stop_whose_sync_fails_says_so() -> None:
    fs = SimulatedFileSystem()
    engine = filled(fs, 5)
    sync(engine)
    fs.fail_syncs = lambda path: path.endswith(".log")
    with pytest.raises(FatalStorageError, match="closing"):
        engine.close()


def test_a_clean_stop_keeps_meta_values_that_waited_for_an_edit() -> None:
    fs = SimulatedFileSystem()
    engine = opened(fs)
    engine.set_meta("m", b"v")
    engine.close()
    assert opened(fs.copy()).meta("m") == b"v"


def compacted(fs: SimulatedFileSystem) -> str:
    """A store whose last edit is a compaction of all it holds, without the mark behind it; the path of its table."""
    driver = EngineDriver(opened(fs), derive=derive)
    for part in range(4):
        for number in range(50):
            driver.engine.put(b"\x00k%d.%d" % (part, number), b"v")
        driver.engine.commit()
        driver.engine.rotate()
        driver.settle()
    (name,) = fs.listdir("/d/tables")
    size = driver.engine.stats()["manifest_bytes"]
    fs.open_append("/d/MANIFEST-000001", size - RECORD_OVERHEAD).write(bytes(RECORD_OVERHEAD))
    fs.flip("/d/MANIFEST-000001", size - RECORD_OVERHEAD - 10, 1)
    return f"/d/tables/{name}"


def test_a_manifest_with_a_bad_end_and_without_its_tables_refuses_the_start_and_says_what_to_do() -> None:
    fs = SimulatedFileSystem()
    path = compacted(fs)
    before = {name: fs.read_all(f"/d/{name}") for name in fs.listdir("/d") if "MANIFEST" in name or name == "CURRENT"}
    with pytest.raises(CorruptionError, match=r"MANIFEST-000001: .* is not there.* snapshot"):
        opened(fs)
    assert fs.exists(path)
    assert {name: fs.read_all(f"/d/{name}") for name in before} == before


def test_a_damaged_manifest_says_what_to_do() -> None:
    fs = SimulatedFileSystem()
    filled(fs, 5).close()
    fs.flip("/d/MANIFEST-000001", 100, 1)
    with pytest.raises(CorruptionError, match=r"MANIFEST-000001: .* snapshot"):
        opened(fs)


def test_tables_that_no_version_names_stay_while_one_that_it_names_is_missing() -> None:
    fs = SimulatedFileSystem()
    driver = EngineDriver(filled(fs, 5), derive=derive)
    driver.engine.rotate()
    driver.settle()
    driver.engine.close()
    (name,) = fs.listdir("/d/tables")
    path, orphan = f"/d/tables/{name}", "/d/tables/000000000077.sst"
    whole = fs.read_all(path)
    fs.write_file(orphan, b"perhaps everything")
    fs.remove(path)
    for _ in range(2):
        fs = fs.copy()
        engine = opened(fs)
        assert engine.recovery.tables_kept == [orphan] and fs.exists(orphan)
        engine.close()
    fs.write_file(path, whole)
    fs = fs.copy()
    engine = opened(fs)
    assert engine.recovery.tables_kept == [] and orphan in engine.recovery.files_removed and not fs.exists(orphan)


def test_a_torn_edit_does_not_refuse_a_start_that_was_well_without_the_table_before() -> None:
    fs = SimulatedFileSystem()
    driver = EngineDriver(filled(fs, 5), derive=derive)
    driver.engine.rotate()
    driver.settle()
    driver.engine.close()
    (name,) = fs.listdir("/d/tables")
    fs.remove(f"/d/tables/{name}")
    fs = fs.copy()
    engine = opened(fs)
    size = engine.stats()["manifest_bytes"]
    (manifest,) = (name for name in fs.listdir("/d") if name.startswith("MANIFEST"))
    fs.open_append(f"/d/{manifest}", size).write(b"torn")
    assert len(opened(fs.copy()).damaged_tables()) == 1
