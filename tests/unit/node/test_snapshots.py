"""Snapshots: they open and equal the store, old ones go, and save points are met by clients' writes."""

from __future__ import annotations

import errno
import random

import pytest

from respkv.storage.plans import SnapshotPlan
from respkv.testing.clock import ManualClock
from respkv.testing.disk import PowerLoss, SimulatedFileSystem
from respkv.testing.node_driver import DIRECTORY, Client, NodeDriver


def names(driver: NodeDriver) -> list[str]:
    path = driver.node.snapshots.path
    return driver.fs.listdir(path) if driver.fs.exists(path) else []


def snapshot(driver: NodeDriver) -> list[str]:
    """Make one; what ``done`` was told."""
    told: list[str] = []
    driver.node.begin_cycle()
    driver.node.snapshot(told.append)
    driver.work()
    driver.pass_time(200_000)
    return told


def restored(
    fs: SimulatedFileSystem, path: str, clock: ManualClock, *, recount: bool = True, **values: str
) -> NodeDriver:
    """A node on a copy of the snapshot; ``recount``: key counts that are not exact have been made anew."""
    target = SimulatedFileSystem()
    target.mkdir(DIRECTORY)

    def copy(folder: str) -> None:
        for name in fs.listdir(f"{path}{folder}"):
            try:
                data = fs.read_all(f"{path}{folder}/{name}")
            except IsADirectoryError:
                target.mkdir(f"{DIRECTORY}{folder}/{name}")
                copy(f"{folder}/{name}")
            else:
                target.write_file(f"{DIRECTORY}{folder}/{name}", data)

    copy("")
    driver = NodeDriver(fs=target, clock=clock, **values)
    if recount:
        driver.work()
    return driver


def fill(client: Client) -> None:
    for n in range(300):
        client.call("SET", f"k{n}", f"v{n}")
    client.call("HSET", "h", "a", "1", "b", "2")
    client.call("SET", "t", "timed", "PX", "60000")
    client.call("SELECT", "3")
    client.call("SET", "there", "x")
    client.call("SELECT", "0")
    client.call("SWAPDB", "3", "5")
    client.call("DEL", "k7")


def contents(client: Client) -> list[bytes]:
    found = [client.call("GET", f"k{n}") for n in range(300)]
    found += [client.call("HGETALL", "h"), client.call("GET", "t"), client.call("PEXPIRETIME", "t")]
    found += [client.call("DBSIZE"), client.call("SELECT", "5"), client.call("GET", "there")]
    found += [client.call("DBSIZE"), client.call("SELECT", "0")]
    return found


def test_a_snapshot_opens_and_equals_the_store_as_it_was() -> None:
    driver = NodeDriver()
    client = driver.connect()
    fill(client)
    before = contents(client)
    assert snapshot(driver) == [""]
    assert driver.node.snapshots.last_ok and driver.node.snapshots.made == 1
    client.call("SET", "k1", "later")
    client.call("FLUSHALL")
    driver.work()
    (name,) = names(driver)
    other = restored(driver.fs, f"{driver.node.snapshots.path}/{name}", driver.clock)
    assert contents(other.connect()) == before


def test_counts_that_were_exact_are_exact_at_once_in_a_restored_store() -> None:
    driver = NodeDriver()
    client = driver.connect()
    for round_ in range(2):
        fill(client)
        driver.pass_time(1_000_000)
        assert driver.node.keyspace.counts.is_exact()
        assert snapshot(driver) == [""]
        client.call("SET", f"after{round_}", "v")
        (name,) = names(driver)
        path = f"{driver.node.snapshots.path}/{name}"
        other = restored(driver.fs, path, driver.clock, recount=False)
        assert other.node.keyspace.counts.exact and other.node.next_job() is None
        assert other.connect().call("DBSIZE") == b":%d\r\n" % (301 + round_)


def test_counts_of_a_store_that_was_flushed_meanwhile_are_not_taken_for_exact() -> None:
    driver = NodeDriver()
    client = driver.connect()
    fill(client)
    driver.pass_time(1_000_000)
    driver.node.begin_cycle()
    driver.node.snapshot(lambda problem: None)
    client.call("FLUSHALL")
    driver.work()
    driver.pass_time(200_000)
    (name,) = names(driver)
    path = f"{driver.node.snapshots.path}/{name}"
    other = restored(driver.fs, path, driver.clock, recount=False)
    assert not other.node.keyspace.counts.exact
    other.work()
    assert other.connect().call("DBSIZE") == b":301\r\n"


@pytest.mark.parametrize("flushed", [True, False])
def test_the_facts_of_a_snapshot_are_those_of_its_beginning_where_a_table_is_lost(flushed: bool) -> None:
    driver = NodeDriver()
    client = driver.connect()
    node = driver.node
    fill(client)
    snapshot(driver)
    client.call("SET", "extra", "1")
    stored = list(node.keyspace.stored)
    told: list[str] = []
    node.begin_cycle()
    node.snapshot(told.append)
    if flushed:
        node.applier.flush_database(0)
    node.applier.swap_databases(3, 5)
    for _ in range(3):
        driver.clock.advance_us(100_000)
        node.commit()
        node.begin_cycle()
        node.on_timer()
    node.commit()
    job = node.next_job()
    assert job is not None
    driver._do(job)
    plan = node.manifest_plan()
    assert plan is not None
    plan.run()
    node.on_manifest_synced(plan)
    node.engine.rotate()
    node.keyspace.counts.follow()
    job = node.next_job()
    assert job is not None
    driver._do(job)  # Its edit, with the facts of now, waits while the snapshot is made.
    copy = node.snapshot_plan()
    assert copy is not None
    copy.run()
    node.on_snapshot_done(copy, "")
    assert told == [""]
    path = f"{node.snapshots.path}/{names(driver)[-1]}"
    newest = driver.fs.listdir(f"{path}/tables")[-1]
    driver.fs.remove(f"{path}/tables/{newest}")
    other = restored(driver.fs, path, driver.clock)
    assert other.node.keyspace.stored == stored and not other.node.keyspace.floors.databases()
    assert other.node.engine.stats()["tables_quarantined"] == 1


def test_a_snapshot_survives_the_loss_of_power() -> None:
    driver = NodeDriver()
    client = driver.connect()
    fill(client)
    before = contents(client)
    snapshot(driver)
    (name,) = names(driver)
    for seed in range(5):
        fs = driver.fs.crash(random.Random(seed))
        other = restored(fs, f"{driver.node.snapshots.path}/{name}", driver.clock)
        assert contents(other.connect()) == before


def test_stamps_of_a_restored_store_go_on_above_the_old_ones() -> None:
    driver = NodeDriver()
    client = driver.connect()
    fill(client)
    last = driver.node.keyspace.clock.last
    snapshot(driver)
    (name,) = names(driver)
    behind = ManualClock(driver.clock.wall_us() // 1000 - 3_600_000)
    other = restored(driver.fs, f"{driver.node.snapshots.path}/{name}", behind)
    assert other.node.keyspace.clock.last > last


@pytest.mark.parametrize("kept", [1, 2, 3])
def test_the_newest_ones_stay(kept: int) -> None:
    driver = NodeDriver(snapshots_kept=str(kept))
    client = driver.connect()
    made = []
    for n in range(5):
        client.call("SET", "k", str(n))
        assert snapshot(driver) == [""]
        made.append(names(driver)[-1])
        assert names(driver) == made[-kept:]
    other = restored(driver.fs, f"{driver.node.snapshots.path}/{made[-1]}", driver.clock)
    assert other.connect().call("GET", "k") == b"$1\r\n4\r\n"


def test_other_files_beside_the_snapshots_are_left_alone() -> None:
    driver = NodeDriver()
    driver.fs.mkdir(f"{driver.node.snapshots.path}/mine")
    snapshot(driver)
    snapshot(driver)
    assert "mine" in names(driver) and len(names(driver)) == 2


def test_the_newest_snapshot_stays_when_the_clock_went_back() -> None:
    driver = NodeDriver()
    client = driver.connect()
    client.call("SET", "k", "old")
    snapshot(driver)
    driver.node.close()
    behind = ManualClock(driver.clock.wall_us() // 1000 - 3_600_000)
    driver = NodeDriver(fs=driver.fs.copy(), clock=behind)
    driver.connect().call("SET", "k", "new")
    assert snapshot(driver) == [""]
    values = [
        restored(driver.fs, f"{driver.node.snapshots.path}/{name}", behind).connect().call("GET", "k")
        for name in names(driver)
    ]
    assert b"$3\r\nnew\r\n" in values


def test_one_at_a_time_and_others_join_it() -> None:
    driver = NodeDriver()
    driver.connect().call("SET", "k", "v")
    told: list[str] = []
    driver.node.snapshot(told.append)
    driver.node.snapshot(told.append)
    assert driver.node.snapshots.busy and told == []
    driver.work()
    driver.pass_time(200_000)
    assert told == ["", ""] and driver.node.snapshots.made == 1 and not driver.node.snapshots.busy


def test_a_snapshot_of_an_empty_store() -> None:
    driver = NodeDriver()
    assert snapshot(driver) == [""]
    (name,) = names(driver)
    other = restored(driver.fs, f"{driver.node.snapshots.path}/{name}", driver.clock)
    assert other.connect().call("DBSIZE") == b":0\r\n"


def test_without_room_it_fails_and_says_so() -> None:
    driver = NodeDriver()
    driver.connect().call("SET", "k", "v")
    driver.fs.capacity = driver.fs.used()
    told: list[str] = []
    driver.node.snapshot(told.append)
    assert told and told[0] and not driver.node.snapshots.last_ok and not driver.node.snapshots.busy


def test_a_plan_that_failed_leaves_the_next_one_free() -> None:
    driver = NodeDriver()
    client = driver.connect()
    client.call("SET", "k", "v")
    told: list[str] = []
    driver.node.snapshot(told.append)
    driver.pass_time(100_000)
    if told == []:
        while (job := driver.node.next_job()) is not None:
            driver._do(job)
        while (manifest := driver.node.manifest_plan()) is not None:
            manifest.run()
            driver.node.on_manifest_synced(manifest)
        plan = driver.node.snapshot_plan()
        assert plan is not None and driver.node.snapshot_plan() is None, "handed out once"
        driver.node.on_snapshot_done(plan, OSError(errno.EIO, "broken").strerror)
        assert told == ["broken"] and not driver.node.snapshots.last_ok
    assert snapshot(driver) == [""] and driver.node.snapshots.last_ok


def leftovers(driver: NodeDriver) -> list[str]:
    return [name for name in names(driver) if name.endswith(".tmp")]


def ready_plan(driver: NodeDriver) -> SnapshotPlan:
    """A snapshot that waits to be linked."""
    driver.node.snapshot(lambda problem: None)
    while (job := driver.node.next_job()) is not None:
        driver._do(job)
    while (manifest := driver.node.manifest_plan()) is not None:
        manifest.run()
        driver.node.on_manifest_synced(manifest)
    plan = driver.node.snapshot_plan()
    assert plan is not None
    return plan


def test_a_snapshot_that_fails_keeps_no_tables() -> None:
    driver = NodeDriver()
    driver.connect().call("SET", "k", "v" * 5000)
    plan = ready_plan(driver)
    driver.fs.capacity = driver.fs.used()
    with pytest.raises(OSError, match="no space"):
        plan.run()
    assert names(driver) == []
    driver.node.on_snapshot_done(plan, "no space")
    driver.fs.capacity = None
    assert snapshot(driver) == [""] and len(names(driver)) == 1


def test_what_a_killed_snapshot_has_left_goes_at_the_next_start() -> None:
    driver = NodeDriver()
    driver.connect().call("SET", "k", "v")
    plan = ready_plan(driver)
    driver.fs.fuse = 5
    with pytest.raises(PowerLoss):
        plan.run()
    assert leftovers(driver)
    after = NodeDriver(fs=driver.fs.copy(), clock=driver.clock)
    assert names(after) == [] and after.connect().call("GET", "k") == b"$1\r\nv\r\n"


def test_a_snapshot_removes_what_earlier_ones_have_left() -> None:
    driver = NodeDriver()
    path = driver.node.snapshots.path
    for name in ("000000000000123.tmp/tables", "mine.tmp"):
        driver.fs.mkdir(f"{path}/{name}")
    driver.fs.write_file(f"{path}/000000000000123.tmp/tables/1.sst", b"left over")
    assert snapshot(driver) == [""] and leftovers(driver) == ["mine.tmp"]


def test_an_old_snapshot_that_cannot_be_removed_is_told_and_tried_again() -> None:
    driver = NodeDriver(snapshots_kept="1")
    snapshot(driver)
    (old,) = names(driver)
    rmdir = driver.fs.rmdir

    def refuse(path: str) -> None:
        raise OSError(errno.ENOTEMPTY, "directory not empty", path)

    driver.fs.rmdir = refuse  # type: ignore[method-assign]
    assert snapshot(driver) == [""] and driver.node.snapshots.last_ok and old in names(driver)
    assert any(level == "warning" and f"/{old}/" in text and "not empty" in text for level, text in driver.log)
    driver.fs.rmdir = rmdir  # type: ignore[method-assign]
    assert snapshot(driver) == [""] and len(names(driver)) == 1 and old not in names(driver)


# save points


def test_a_save_point_is_met_by_changes_and_time() -> None:
    driver = NodeDriver(save="60 5")
    client = driver.connect()
    for n in range(4):
        client.call("SET", f"k{n}", "v")
    driver.pass_time(70_000_000)
    assert driver.node.snapshots.made == 0
    client.call("SET", "one more", "v")
    driver.pass_time(2_000_000)
    assert driver.node.snapshots.made == 1
    for n in range(9):
        client.call("SET", f"k{n}", "v")
    driver.pass_time(50_000_000)
    assert driver.node.snapshots.made == 1
    driver.pass_time(20_000_000)
    assert driver.node.snapshots.made == 2


def test_changes_are_counted_not_commits() -> None:
    driver = NodeDriver(save="60 5")
    driver.connect().call("MSET", *(word for n in range(5) for word in (f"k{n}", "v")))
    driver.pass_time(62_000_000)
    assert driver.node.snapshots.made == 1


@pytest.mark.parametrize("restarted", [False, True])
def test_an_idle_node_has_nothing_to_save(restarted: bool) -> None:
    driver = NodeDriver(save="300 10")
    if restarted:
        client = driver.connect()
        for n in range(20):
            client.call("SET", f"k{n}", "v")
        snapshot(driver)
        driver.node.close()
        driver = NodeDriver(fs=driver.fs.copy(), clock=driver.clock, save="300 10")
    driver.pass_time(400_000_000)
    assert driver.node.snapshots.made == 0
    assert driver.node.snapshots.changes() == 0


def test_no_rules_no_snapshots() -> None:
    driver = NodeDriver()
    client = driver.connect()
    for n in range(50):
        client.call("SET", f"k{n}", "v")
    driver.pass_time(60_000_000)
    assert driver.node.snapshots.made == 0


def test_after_a_failure_the_next_try_waits() -> None:
    driver = NodeDriver(save="1 1")
    client = driver.connect()
    client.call("SET", "k", "v")
    driver.fs.capacity = driver.fs.used()
    driver.pass_time(3_000_000)
    tried = driver.node.snapshots._tried_ms
    assert tried and not driver.node.snapshots.last_ok
    driver.pass_time(3_000_000)
    assert driver.node.snapshots._tried_ms == tried
    driver.pass_time(3_000_000)
    assert driver.node.snapshots._tried_ms > tried
    driver.fs.capacity = None
    driver.pass_time(8_000_000)
    assert driver.node.snapshots.last_ok and driver.node.snapshots.made >= 1
