"""Flush floors and compaction: keys are dropped by floors that last, and by no others."""

from __future__ import annotations

import random

from respkv.storage.job_board import Job
from respkv.testing.node_driver import DIRECTORY, NodeDriver


def brought(driver: NodeDriver, job: Job) -> None:
    """Do a job and bring its tables in force; the log is not synced for it."""
    driver._do(job)
    plan = driver.node.manifest_plan()
    assert plan is not None
    plan.run()
    driver.node.on_manifest_synced(plan)


def synced(driver: NodeDriver) -> None:
    plan = driver.node.sync_plan()
    assert plan is not None
    plan.run()
    driver.node.on_synced(plan)


def compacted(driver: NodeDriver) -> None:
    """The compaction of an idle node."""
    job = driver.node.engine.next_job(idle=True)
    assert job is not None and job.kind == "compact"
    brought(driver, job)


def two_runs() -> NodeDriver:
    """Keys k0..k99 in two runs, everything durable, one key in the log alone."""
    driver = NodeDriver(appendfsync="no")
    client = driver.connect()
    for start in (0, 50):
        for n in range(start, start + 50):
            client.call("SET", f"k{n}", "v")
        driver.pass_time(300_000)
        driver.node.engine.rotate()
        driver.node.keyspace.counts.follow()
        job = driver.node.next_job()
        assert job is not None
        brought(driver, job)
    client.call("SET", "logged", "v")
    synced(driver)
    return driver


def alive(driver: NodeDriver) -> int:
    client = driver.connect()
    return sum(client.call("EXISTS", key) == b":1\r\n" for key in (*(f"k{n}" for n in range(100)), "logged"))


def test_a_compaction_drops_nothing_for_a_flush_that_a_crash_undoes() -> None:
    driver = two_runs()
    driver.node.applier.flush_database(0)
    driver.node.commit()
    compacted(driver)
    found = [alive(NodeDriver(fs=driver.fs.crash(random.Random(seed)), clock=driver.clock)) for seed in range(6)]
    assert set(found) == {0, 101}, "all of it is flushed or nothing"


def test_a_compaction_drops_what_a_durable_flush_hides() -> None:
    driver = two_runs()
    driver.node.applier.flush_database(0)
    driver.node.commit()
    driver.work()
    compacted(driver)
    assert driver.node.engine.stats()["table_entries"] < 20


def test_a_compaction_drops_nothing_that_a_snapshot_under_way_is_to_hold() -> None:
    driver = two_runs()
    told: list[str] = []
    driver.node.snapshot(told.append)
    flush = driver.node.next_job()
    assert flush is not None and flush.kind == "flush"
    driver.node.applier.flush_database(0)
    driver.node.commit()
    synced(driver)
    compacted(driver)
    driver._do(flush)
    driver.work()
    assert told == [""]
    fs = driver.fs.copy()
    fs.rename(DIRECTORY, "/old")
    (name,) = fs.listdir("/old/snapshots")
    fs.rename(f"/old/snapshots/{name}", DIRECTORY)
    assert alive(NodeDriver(fs=fs, clock=driver.clock)) == 101


def test_counts_are_made_anew_where_a_crash_has_undone_the_flush_that_they_know() -> None:
    driver = NodeDriver(appendfsync="no")
    node, client = driver.node, driver.connect()
    for number in range(100):
        client.call("SET", f"k{number}", "v")
    driver.pass_time(1_000_000)
    client.call("SET", "k99", "again")
    driver.pass_time(300_000)
    node.engine.rotate()
    node.keyspace.counts.follow()
    job = node.next_job()
    assert job is not None
    driver._do(job)
    node.applier.flush_database(0)
    node.commit()
    while (plan := node.manifest_plan()) is not None:
        plan.run()
        node.on_manifest_synced(plan)
    crashed = 0
    for seed in range(12):
        again = NodeDriver(fs=driver.fs.crash(random.Random(seed)), clock=driver.clock)
        keys = again.connect().call("DBSIZE")
        if again.node.keyspace.floors.databases():
            assert keys == b":0\r\n"
        else:
            crashed += 1
            assert not again.node.keyspace.counts.exact
            again.pass_time(3_000_000)
            assert again.connect().call("DBSIZE") == b":100\r\n" and again.node.keyspace.counts.exact
    assert crashed
