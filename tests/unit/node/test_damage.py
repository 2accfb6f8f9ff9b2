"""A node with damaged tables: it starts and lives, says so, and its own facts survive."""

from __future__ import annotations

import random
from bisect import bisect_right

import pytest

from respkv.keyspace import keys
from respkv.node.facts import NAME
from respkv.resp import errors
from respkv.storage.block_cache import BlockCache
from respkv.storage.sstable.reader import TableReader
from respkv.storage.wal import segment_path
from respkv.testing.disk import SimulatedFileSystem
from respkv.testing.node_driver import DIRECTORY, Client, NodeDriver


def flush(driver: NodeDriver) -> None:
    """What is in memory becomes a table."""
    driver.pass_time(300_000)
    driver.node.engine.rotate()
    driver.node.keyspace.counts.follow()
    driver.work()


def tables(fs: SimulatedFileSystem) -> list[str]:
    return [f"{DIRECTORY}/tables/{name}" for name in fs.listdir(f"{DIRECTORY}/tables")]


def reopened(driver: NodeDriver, *, without: str = "", clean: bool = True) -> NodeDriver:
    """The node after a stop, one file being lost."""
    if clean:
        driver.node.close()
    fs = driver.fs.copy()
    if without:
        fs.remove(without)
    return NodeDriver(fs=fs, clock=driver.clock)


def warnings(driver: NodeDriver) -> list[str]:
    return [text for level, text in driver.log if level == "warning"]


def two_tables() -> tuple[NodeDriver, Client]:
    """k0..k99 in an older table as "old", in a newer one as "new"; "alone" only in the older one."""
    driver = NodeDriver()
    client = driver.connect()
    for value in ("old", "new"):
        for n in range(100):
            client.call("SET", f"k{n}", value)
        if value == "old":
            client.call("SET", "alone", "x")
        flush(driver)
    assert len(tables(driver.fs)) == 2
    return driver, client


def test_a_lost_table_is_told_and_its_keys_are_corrupt_until_they_are_written_again() -> None:
    driver, _ = two_tables()
    path = tables(driver.fs)[-1]
    driver = reopened(driver, without=path)
    client = driver.connect()
    assert any(path in text and "quarantined" in text for text in warnings(driver))
    assert client.call("GET", "k5") == errors.CORRUPT
    assert client.call("INCR", "k5") == errors.CORRUPT
    assert client.call("SET", "k5", "again") == b"+OK\r\n" and client.call("GET", "k5") == b"$5\r\nagain\r\n"
    assert client.call("MSET", "k6", "a", "k7", "b") == b"+OK\r\n"
    assert b"tables_quarantined:1" in client.call("INFO", "everything")
    driver.pass_time(5_000_000)
    flush(driver)
    driver.pass_time(5_000_000)
    assert client.call("GET", "k5") == b"$5\r\nagain\r\n" and client.call("GET", "k8") == errors.CORRUPT
    driver = reopened(driver)
    assert driver.connect().call("GET", "k8") == errors.CORRUPT


def test_tables_that_are_kept_while_one_is_missing_are_named_in_the_log() -> None:
    driver, _ = two_tables()
    spare = f"{DIRECTORY}/tables/000000009999.sst"
    driver.fs.write_file(spare, b"perhaps everything")
    driver = reopened(driver, without=tables(driver.fs)[0])
    assert any(spare in text and "Kept" in text for text in warnings(driver)) and spare in tables(driver.fs)


def test_a_table_put_back_from_a_snapshot_heals_the_store() -> None:
    driver, client = two_tables()
    told: list[str] = []
    driver.node.snapshot(told.append)
    driver.work()
    driver.pass_time(200_000)
    assert told == [""]
    path = tables(driver.fs)[-1]
    (name,) = driver.fs.listdir(driver.node.snapshots.path)
    saved = driver.fs.read_all(f"{driver.node.snapshots.path}/{name}/tables/{path.rpartition('/')[2]}")
    driver = reopened(driver, without=path)
    assert driver.connect().call("GET", "k5") == errors.CORRUPT
    driver.node.close()
    driver.fs.write_file(path, saved)
    driver = reopened(driver, clean=False)
    client = driver.connect()
    assert client.call("GET", "k5") == b"$3\r\nnew\r\n" and client.call("GET", "alone") == b"$1\r\nx\r\n"
    assert ("notice", f"Table {path} was damaged and is whole again") in driver.log


@pytest.mark.parametrize("clean", [True, False])
def test_a_flush_that_was_in_the_lost_table_stays_done(clean: bool) -> None:
    driver = NodeDriver()
    client = driver.connect()
    for n in range(100):
        client.call("SET", f"k{n}", "flushed")
    flush(driver)
    client.call("FLUSHALL")
    client.call("SWAPDB", "1", "2")
    flush(driver)
    stored = list(driver.node.keyspace.stored)
    floors = driver.node.keyspace.floors.plain()
    driver = reopened(driver, without=tables(driver.fs)[-1], clean=clean)
    assert driver.node.keyspace.floors.plain() == floors
    assert driver.node.keyspace.stored == stored != list(range(16))
    client = driver.connect()
    assert all(client.call("GET", f"k{n}") in (b"$-1\r\n", errors.CORRUPT) for n in range(100))
    driver = reopened(driver, clean=False)
    assert driver.node.keyspace.floors.plain() == floors and driver.node.keyspace.stored == stored


def facts_block(fs: SimulatedFileSystem, path: str) -> int:
    """Where the block begins that holds the flush floors of a table."""
    reader = TableReader(fs, path, int(path[-16:-4]), BlockCache(0))
    return reader._offsets[bisect_right(reader._index, keys.meta_key(b"floor")) - 1]


def test_a_flush_whose_block_is_bad_stays_done() -> None:
    driver = NodeDriver()
    client = driver.connect()
    for n in range(100):
        client.call("SET", f"k{n}", "flushed")
    flush(driver)
    client.call("FLUSHALL")
    client.call("SWAPDB", "1", "2")
    for n in range(30):
        client.call("SET", f"n{n}", driver.node.rng.randbytes(200))
    flush(driver)
    stored, floors = list(driver.node.keyspace.stored), driver.node.keyspace.floors.plain()
    driver.node.close()
    fs = driver.fs.copy()
    path = tables(fs)[-1]
    fs.flip(path, facts_block(fs, path) + 40, 1)
    for clean in (False, True):
        driver = NodeDriver(fs=fs, clock=driver.clock)
        assert [table.lost for table in driver.node.engine.damaged_tables()] == [False]
        assert driver.node.keyspace.floors.plain() == floors and driver.node.keyspace.stored == stored
        assert not driver.node.keyspace.counts.is_exact()
        client = driver.connect()
        assert all(client.call("GET", f"k{n}") in (b"$-1\r\n", errors.CORRUPT) for n in range(100))
        driver.pass_time(1_000_000)
        if clean:
            driver.node.close()
        fs = driver.fs.copy()
    driver = NodeDriver(fs=fs, clock=driver.clock)
    assert driver.node.keyspace.floors.plain() == floors and driver.node.keyspace.stored == stored


def saved_at_once(driver: NodeDriver) -> None:
    """A snapshot's flush, with no tick between what was written and the table."""
    driver.node.begin_cycle()
    driver.node.snapshot(lambda problem: None)
    driver.node.commit()
    driver.work()


@pytest.mark.parametrize("newest", [False, True])
def test_a_flush_and_a_swap_that_were_saved_at_once_stay_done_when_a_table_is_lost(newest: bool) -> None:
    driver = NodeDriver()
    client = driver.connect()
    for n in range(100):
        client.call("SET", f"k{n}", "flushed")
    flush(driver)
    client.call("FLUSHALL")
    client.call("SWAPDB", "1", "2")
    client.call("SET", "n", "v")
    saved_at_once(driver)
    stored, floors = list(driver.node.keyspace.stored), driver.node.keyspace.floors.plain()
    driver.pass_time(1_000_000)
    driver = reopened(driver, without=tables(driver.fs)[-1 if newest else 0], clean=False)
    assert driver.node.keyspace.stored == stored != list(range(16))
    assert driver.node.keyspace.floors.plain() == floors


def test_a_swap_that_a_crash_undid_is_not_done_again_when_a_table_is_lost() -> None:
    driver = NodeDriver(appendfsync="no")
    client = driver.connect()
    client.call("SET", "k", "v")
    driver.pass_time(1_000_000)
    node = driver.node
    node.engine.rotate()
    node.keyspace.counts.follow()
    job = node.next_job()
    assert job is not None
    node.applier.swap_databases(1, 2)
    node.commit()
    driver.clock.advance_us(200_000)
    node.begin_cycle()
    node.on_timer()
    node.commit()
    driver._do(job)
    plan = node.manifest_plan()
    assert plan is not None
    plan.run()
    node.on_manifest_synced(plan)
    found = []
    for seed in range(8):
        fs = driver.fs.crash(random.Random(seed))
        sound = NodeDriver(fs=fs.copy(), clock=driver.clock).node.keyspace.stored
        fs.remove(tables(fs)[-1])
        assert NodeDriver(fs=fs, clock=driver.clock).node.keyspace.stored == sound
        found.append(sound)
    assert list(range(16)) in found, "the crash has undone it"


def test_a_newer_map_in_the_log_counts_more_than_the_manifests() -> None:
    driver = NodeDriver()
    client = driver.connect()
    client.call("SWAPDB", "1", "2")
    flush(driver)
    client.call("SWAPDB", "3", "4")
    stored = list(driver.node.keyspace.stored)
    driver = reopened(driver, without=tables(driver.fs)[-1], clean=False)
    assert driver.node.keyspace.stored == stored


def test_stamps_go_on_above_those_of_a_lost_table() -> None:
    driver, _ = two_tables()
    last = driver.node.keyspace.clock.last
    path = tables(driver.fs)[-1]
    driver.clock.advance_us(-3_600_000_000)
    driver = reopened(driver, without=path)
    assert driver.node.keyspace.clock.last > last


def test_damage_met_while_running_is_told_marked_and_the_facts_are_logged_again() -> None:
    driver = NodeDriver(block_cache_bytes="1", row_cache_bytes="1")
    client = driver.connect()
    client.call("SWAPDB", "1", "2")
    for n in range(300):
        client.call("SET", f"k{n}", driver.node.rng.randbytes(200))
    flush(driver)
    (path,) = tables(driver.fs)
    driver.fs.flip(path, 5000, 1)
    replies = [client.call("GET", f"k{n}") for n in range(300)]
    assert 0 < sum(reply == errors.CORRUPT for reply in replies) < 60
    driver.pass_time(300_000)
    assert any(path in text and "quarantined" in text for text in warnings(driver))
    assert keys.meta_key(b"databases") in driver.node.engine.memtable.table
    assert driver.node.engine.stats()["tables_quarantined"] == 1
    assert driver.node.next_job() is None, "neither merged nor counted"
    assert driver.node.engine.meta(NAME) is not None


def test_a_log_segment_that_rots_before_its_flush_costs_nothing() -> None:
    driver = NodeDriver()
    client = driver.connect()
    for n in range(100):
        client.call("SET", f"k{n}", driver.node.rng.randbytes(200))
    driver.node.engine.rotate()
    path = segment_path(DIRECTORY, driver.node.engine.immutables[0].segment_id)
    driver.fs.flip(path, 5000, 1)
    driver.pass_time(5_000_000)
    assert not driver.node.engine.immutables and not driver.node.engine.damaged_tables()
    assert [text for text in warnings(driver) if path in text and "keep the server running" in text]
    assert {client.call("GET", f"k{n}")[:4] for n in range(100)} == {b"$200"}
    client = reopened(driver).connect()
    assert {client.call("GET", f"k{n}")[:4] for n in range(100)} == {b"$200"}


def test_flushall_heals_a_store_with_a_lost_table() -> None:
    driver, _ = two_tables()
    driver = reopened(driver, without=tables(driver.fs)[-1])
    client = driver.connect()
    for db in range(16):
        client.call("SELECT", db)
        client.call("FLUSHDB")
        driver.pass_time(3_000_000)
        assert driver.node.engine.stats()["tables_quarantined"] == int(db < 15)
    client.call("SELECT", "0")
    assert client.call("GET", "k5") == b"$-1\r\n" and client.call("DBSIZE") == b":0\r\n"
    assert driver.node.keyspace.counts.is_exact(), "counted anew"
    assert len(tables(driver.fs)) == 1
    driver = reopened(driver)
    assert driver.connect().call("GET", "k5") == b"$-1\r\n" and not driver.node.engine.damaged_tables()


def test_the_index_of_expiries_in_a_lost_table_does_not_stop_the_node() -> None:
    driver = NodeDriver()
    client = driver.connect()
    for n in range(50):
        client.call("SET", f"k{n}", "v", "PX", 2000)
    flush(driver)
    driver = reopened(driver, without=tables(driver.fs)[-1])
    client = driver.connect()
    client.call("SET", "new", "v", "PX", 1000)
    driver.pass_time(5_000_000)
    assert client.call("GET", "new") == b"$-1\r\n" and client.call("SET", "k1", "w") == b"+OK\r\n"
    assert client.call("GET", "k1") == b"$1\r\nw\r\n"


def test_a_table_that_was_cut_while_running_answers_and_holds_nobody_up() -> None:
    driver = NodeDriver(block_cache_bytes="1", row_cache_bytes="1")
    client = driver.connect()
    for n in range(300):
        client.call("SET", f"k{n}", driver.node.rng.randbytes(200))
    flush(driver)
    (path,) = tables(driver.fs)
    driver.fs.truncate(path, 30_000)
    replies = [client.call("GET", f"k{n}") for n in range(300)]
    assert errors.CORRUPT in replies
    assert client.call("SET", "k5", "again") == b"+OK\r\n" and client.call("GET", "k5") == b"$5\r\nagain\r\n"
    driver.pass_time(2_000_000)
    assert driver.node.engine.stats()["tables_quarantined"] == 1


def test_a_count_that_meets_damage_marks_the_table_and_is_not_tried_again() -> None:
    driver = NodeDriver()
    client = driver.connect()
    for n in range(300):
        client.call("SET", f"k{n}", driver.node.rng.randbytes(200))
    driver.node.engine.rotate()
    driver.node.keyspace.counts.follow()
    for _ in range(4):
        job = driver.node.next_job()
        if job is not None:
            driver._do(job)
        plan = driver.node.manifest_plan()
        if plan is not None:
            plan.run()
            driver.node.on_manifest_synced(plan)
        if tables(driver.fs):
            break
    driver.node.keyspace.counts.exact = False
    driver.fs.flip(tables(driver.fs)[0], 5000, 1)
    driver.pass_time(3_000_000)
    assert driver.node.engine.stats()["tables_quarantined"] == 1
    failures = driver.node.engine.stats()["job_failures"]
    driver.pass_time(5_000_000)
    assert driver.node.engine.stats()["job_failures"] == failures == 1
