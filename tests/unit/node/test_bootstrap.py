"""Opening: how memory is divided, what is refused, and what a fresh clock starts from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from respkv.base.errors import CorruptionError, FormatError, StorageFull
from respkv.base.limits import GIB, MIB
from respkv.node.bootstrap import engine_options, highest_stamp, plan_memory
from respkv.storage.identity import open_directory
from respkv.testing.clock import ManualClock
from respkv.testing.disk import SimulatedFileSystem
from respkv.testing.node_driver import DIRECTORY, NodeDriver

DEFAULTS = {
    "maxmemory": 0,
    "memtable-bytes": 0,
    "row-cache-bytes": 0,
    "block-cache-bytes": 0,
    "compaction-rate": 0,
    "ballast-bytes": 0,
}


def values(**given: int) -> Callable[[str], Any]:
    known = {**DEFAULTS, **{name.replace("_", "-"): value for name, value in given.items()}}
    return known.__getitem__


def files(fs: SimulatedFileSystem, folder: str) -> list[str]:
    return [f"{DIRECTORY}/{folder}/{name}" for name in fs.listdir(f"{DIRECTORY}/{folder}")]


# memory


def test_the_budget_is_a_quarter_of_the_machine() -> None:
    plan = plan_memory(values(), 8 * GIB)
    assert plan.memtable == 256 * MIB
    assert plan.row_cache == plan.block_cache == (2 * GIB - 512 * MIB) // 2


def test_maxmemory_names_the_budget() -> None:
    plan = plan_memory(values(maxmemory=400 * MIB), 64 * GIB)
    assert plan.memtable == 100 * MIB and plan.row_cache == plan.block_cache == 100 * MIB
    assert 2 * plan.memtable + plan.row_cache + plan.block_cache == 400 * MIB


@pytest.mark.parametrize("machine", [0, 1, MIB, 64 * MIB, 100 * MIB])
def test_small_machines_get_the_least_that_works(machine: int) -> None:
    plan = plan_memory(values(), machine)
    assert plan.memtable == 16 * MIB and plan.row_cache == plan.block_cache == 8 * MIB


def test_each_part_can_be_set_by_itself() -> None:
    plan = plan_memory(values(memtable_bytes=5 * MIB, row_cache_bytes=1, block_cache_bytes=2), 8 * GIB)
    assert (plan.memtable, plan.row_cache, plan.block_cache) == (5 * MIB, 1, 2)


def test_the_compaction_rate_is_in_mebibytes_and_0_leaves_the_default() -> None:
    plan = plan_memory(values(), GIB)
    assert engine_options(values(compaction_rate=7), plan, dict).compaction_bytes_per_s == 7 * MIB
    assert engine_options(values(), plan, dict).compaction_bytes_per_s > 0


# opening


def test_a_new_directory_opens_and_serves() -> None:
    driver = NodeDriver()
    client = driver.connect()
    assert client.call("SET", "k", "v") == b"+OK\r\n" and client.call("GET", "k") == b"$1\r\nv\r\n"
    assert driver.node.keyspace.clock.ceiling > driver.node.keyspace.clock.last


def test_a_clock_ceiling_is_durable_before_anything_is_served() -> None:
    driver = NodeDriver()
    assert driver.node.engine.durable_lsn == driver.node.engine.appended_lsn > 0


def test_a_memtable_that_the_start_retires_is_counted_as_one() -> None:
    driver = NodeDriver()
    client = driver.connect()
    for n in range(50):
        client.call("SET", f"r{n}", "v")
    driver.pass_time(300_000)
    driver.node.engine.rotate()
    driver.work()
    driver.pass_time(1_000_000)
    for n in range(300):
        client.call("SET", f"m{n}", "x" * 100)
    driver = NodeDriver(fs=driver.fs.copy(), clock=driver.clock, memtable_bytes="30000")
    node, client = driver.node, driver.connect()
    assert len(node.engine.immutables) == 1
    assert node.keyspace.counts.active.memtable is node.engine.memtable
    for n in range(20):
        assert client.call("DEL", f"r{n}") == b":1\r\n"
    driver.pass_time(3_000_000)
    assert node.keyspace.counts.is_exact() and client.call("DBSIZE") == b":330\r\n"


def test_the_highest_stamp_of_the_log_is_a_floor_under_the_clock() -> None:
    driver = NodeDriver()
    driver.connect().call("SET", "k", "v")
    assert highest_stamp(driver.node.engine) == driver.node.keyspace.clock.last


def test_files_of_somebody_else_are_refused() -> None:
    fs = SimulatedFileSystem()
    fs.mkdir(f"{DIRECTORY}/tables")
    fs.write_file(f"{DIRECTORY}/tables/000000000001.sst", b"foreign")
    with pytest.raises(FormatError):
        NodeDriver(fs=fs)
    assert fs.read_all(f"{DIRECTORY}/tables/000000000001.sst") == b"foreign"


def test_a_file_where_a_directory_should_be_is_refused() -> None:
    fs = SimulatedFileSystem()
    fs.mkdir(DIRECTORY)
    fs.write_file(f"{DIRECTORY}/wal", b"")
    with pytest.raises(FormatError):
        NodeDriver(fs=fs)


def written(*, flush: bool) -> SimulatedFileSystem:
    """The disk after a clean stop with some data."""
    driver = NodeDriver()
    client = driver.connect()
    for n in range(50):
        client.call("SET", f"k{n}", "v" * 50)
        if n % 10 == 0:
            driver.work()
    if flush:
        driver.node.engine.rotate()
        driver.work()
    driver.node.close()
    return driver.fs.copy()


def test_garbage_for_current_is_refused() -> None:
    fs = written(flush=False)
    fs.write_file(f"{DIRECTORY}/CURRENT", b"MANIFEST-of-somebody-else\n")
    with pytest.raises((FormatError, CorruptionError)):
        NodeDriver(fs=fs)


def test_a_newer_format_is_refused() -> None:
    fs = written(flush=False)
    newest = files(fs, "wal")[-1]
    data = bytearray(fs.read_all(newest))
    # magic 8 bytes, then the version
    data[8] = 99
    fs.write_file(newest, bytes(data))
    with pytest.raises((FormatError, CorruptionError)):
        NodeDriver(fs=fs)


@pytest.mark.parametrize("lost", ["segment", "current"])
def test_missing_files_are_corruption_never_an_empty_store(lost: str) -> None:
    fs = written(flush=True)
    path = {
        "segment": files(fs, "wal")[-1],
        "current": f"{DIRECTORY}/CURRENT",
    }[lost]
    fs.remove(path)
    with pytest.raises((CorruptionError, FormatError)):
        NodeDriver(fs=fs)


def test_a_flipped_bit_in_the_log_is_corruption() -> None:
    fs = written(flush=False)
    path = files(fs, "wal")[-1]
    fs.flip(path, 300, 3)
    with pytest.raises(CorruptionError):
        NodeDriver(fs=fs)


def test_a_disk_without_any_room_is_told() -> None:
    fs = written(flush=False)
    fs.capacity = fs.used() + 10
    with pytest.raises(StorageFull):
        NodeDriver(fs=fs)


def test_a_directory_has_one_owner() -> None:
    fs = SimulatedFileSystem()
    first = open_directory(fs, DIRECTORY, make_id=lambda: b"i" * 16)
    with pytest.raises(FormatError):
        open_directory(fs, DIRECTORY, make_id=lambda: b"j" * 16)
    first.lock.close()
    again = open_directory(fs, DIRECTORY, make_id=lambda: b"j" * 16)
    assert again.node_id == b"i" * 16 and first.fresh and not again.fresh


def test_time_that_went_back_over_a_restart_still_expires_keys() -> None:
    driver = NodeDriver()
    client = driver.connect()
    client.call("SET", "k", "v", "PX", 100)
    driver.pass_time(12_000_000)
    client.call("SET", "k2", "v", "PX", 100)
    driver.pass_time(12_000_000)
    driver.node.close()
    driver = NodeDriver(fs=driver.fs.copy(), clock=ManualClock(driver.clock.wall_us() // 1000 - 3_600_000))
    client = driver.connect()
    client.call("SET", "z", "v", "PX", 100)
    driver.pass_time(1_000_000)
    assert client.call("DBSIZE") == b":0\r\n"
