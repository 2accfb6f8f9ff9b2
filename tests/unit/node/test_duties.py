"""Duties: expiry, counts, the expiry mark, and pauses, on a running node."""

from __future__ import annotations

import random

import pytest

from respkv.base.limits import SETTLED_AT_ONCE
from respkv.keyspace import keys
from respkv.testing.node_driver import DIRECTORY, NodeDriver


def mark_after_crash(driver: NodeDriver) -> int:
    """The expiry mark that a crash now would leave."""
    found = NodeDriver(fs=driver.fs.crash(random.Random(0)), clock=driver.clock)
    return found.node.keyspace.expired_through_ms


def test_keys_expire_without_being_asked_for() -> None:
    driver = NodeDriver()
    client = driver.connect()
    for n in range(1000):
        client.call("SET", f"k{n}", "v", "PX", 500 + n % 7)
    client.call("HSET", "h", "f", "v")
    client.call("PEXPIRE", "h", 500)
    driver.pass_time(400_000)
    assert client.call("DBSIZE") == b":1001\r\n"
    driver.pass_time(1_000_000)
    assert client.call("DBSIZE") == b":0\r\n"
    assert driver.node.keyspace.expired_keys == 1001


def test_active_expiry_can_be_stopped_and_nothing_piles_up() -> None:
    driver = NodeDriver()
    client = driver.connect()
    driver.node.active_expire = False
    for n in range(50):
        client.call("SET", f"k{n}", "v", "PX", 100)
    driver.pass_time(1_000_000)
    assert client.call("DBSIZE") == b":50\r\n"
    assert client.call("GET", "k1") == b"$-1\r\n"
    driver.node.active_expire = True
    driver.pass_time(500_000)
    assert client.call("DBSIZE") == b":0\r\n" and not driver.node.keyspace.sighted


def test_a_reader_that_meets_an_expired_key_removes_it() -> None:
    driver = NodeDriver()
    client = driver.connect()
    client.call("SET", "k", "v", "PX", 100)
    driver.clock.advance_us(200_000)
    assert client.call("GET", "k") == b"$-1\r\n"
    record = driver.node.engine.get(keys.record_key(0, b"k"))
    assert record is not None and record[0] & 15 == 0 and not driver.node.keyspace.sighted
    assert client.call("DBSIZE") == b":0\r\n"


@pytest.mark.parametrize("size", [200_000, 20_000])
def test_a_store_over_max_disk_takes_writes_again_once_its_keys_have_expired(size: int) -> None:
    driver = NodeDriver(max_disk="3mb")
    client, rng = driver.connect(), driver.node.rng
    for life in range(2):
        for n in range(3_500_000 // size):
            client.call("SET", f"{life}:{n}", rng.randbytes(size), "PX", 30_000)
            driver.pass_time(size)
        assert client.call("SET", "a", "1").startswith(b"-OOM ")
        driver.pass_time(90_000_000)
        assert client.call("SET", "a", "1", "PX", 1) == b"+OK\r\n"


def full(driver: NodeDriver, capacity: int, *options: str | int) -> int:
    """Write keys of 300 bytes until nothing is taken any more; how many there are."""
    client, count, refused = driver.connect(), 0, 0
    driver.fs.capacity = capacity
    while refused < 100:
        answer = client.call("SET", f"k{count}", driver.node.rng.randbytes(300), *options)
        count, refused = (count + 1, 0) if answer == b"+OK\r\n" else (count, refused + 1)
        if count % 100 == 0 or refused:
            driver.pass_time(100_000)
    return count


def test_a_full_disk_takes_writes_again_once_its_keys_have_expired() -> None:
    driver = NodeDriver(memtable_bytes="200000", ballast_bytes="1000000")
    count, client = full(driver, 9_000_000, "PX", 300_000), driver.connect()
    assert count > 1000 and client.call("SET", "a", "1").startswith(b"-MISCONF ")
    driver.clock.advance_us(300_000_000)
    driver.pass_time(60_000_000)
    assert client.call("SET", "a", "1") == b"+OK\r\n" and client.call("DBSIZE") == b":1\r\n"


def test_expiry_on_a_full_disk_ends_where_the_room_of_the_log_does() -> None:
    driver = NodeDriver(memtable_bytes="200000", ballast_bytes="0")
    client = driver.connect()
    for n in range(40):
        client.call("SET", b"%d:" % n + b"k" * 40_000, "v", "PX", 1000)
        client.call("GET", b"%d:" % n + b"k" * 40_000)
        driver.pass_time(10_000)
    engine = driver.node.engine
    engine._refusal, driver.fs.capacity = "disk full", driver.fs.used()
    driver.pass_time(60_000_000)
    for n in range(40):
        assert client.call("GET", b"%d:" % n + b"k" * 40_000) == b"$-1\r\n"
    assert engine._log.offset < engine._log.room and engine.refusal() is not None
    driver.fs.capacity = None
    driver.pass_time(1_000_000)
    assert client.call("DBSIZE") == b":0\r\n" and driver.node.dispatcher.refusal is None


def test_the_mark_is_logged_after_work_and_known_durable_after_a_sync() -> None:
    driver = NodeDriver()
    client = driver.connect()
    driver.pass_time(10_000_000)
    assert driver.node.duties.expired_durable_ms == 0, "nothing has expired: nothing is written"
    client.call("SET", "k", "v", "PX", 100)
    driver.pass_time(10_000_000)
    durable = driver.node.duties.expired_durable_ms
    assert 0 < durable <= driver.node.keyspace.expired_through_ms
    assert mark_after_crash(driver) == durable


def test_entries_below_the_durable_mark_belong_to_keys_whose_end_is_durable() -> None:
    # A compaction drops index entries up to the durable mark: after a crash none of those keys may be alive.
    rng = random.Random(3)
    driver = NodeDriver()
    client = driver.connect()
    for round_ in range(12):
        for n in range(20):
            client.call("SET", f"k{round_}-{n}", "v", "PX", rng.randrange(1, 3000))
        driver.pass_time(rng.randrange(200_000, 3_000_000))
        durable = driver.node.duties.expired_durable_ms
        other = NodeDriver(fs=driver.fs.crash(rng), clock=driver.clock)
        for internal, record in other.node.engine.scan(b"\x01", b"\x02", wait=True):
            if record[0] & 15 and record[0] & 0x10:
                assert int.from_bytes(record[11:19], "big") > durable, internal


def test_idle_time_settles_the_counts() -> None:
    driver = NodeDriver()
    client = driver.connect()
    for n in range(600):
        client.call("SET", f"k{n}", "v")
    assert driver.node.keyspace.counts.unsettled() >= 600
    driver.pass_time(1_000_000)
    assert driver.node.keyspace.counts.is_exact()
    assert driver.node.keyspace.counts.total(0) == 600


def test_a_node_that_takes_writes_of_others_is_not_idle() -> None:
    driver = NodeDriver()
    client = driver.connect()
    for n in range(600):
        client.call("SET", f"k{n}", "v")
    driver.pass_time(200_000)
    driver.node.changes += 1000  # as a commit of replicated entries does
    driver.pass_time(100_000)
    driver.node.keyspace.counts.partly_flushed(0, runs_dead=False)
    unsettled = driver.node.keyspace.counts.unsettled()
    for _ in range(4):
        driver.node.changes += 1000
        driver.pass_time(50_000)
        assert driver.node.keyspace.counts.unsettled() >= unsettled - 3 * SETTLED_AT_ONCE
    driver.pass_time(1_000_000)
    assert driver.node.keyspace.counts.unsettled() == 0


def test_an_idle_node_writes_only_its_clock_ceiling() -> None:
    driver = NodeDriver()
    driver.pass_time(2_000_000)
    before = driver.node.engine.appended_lsn
    driver.pass_time(10_000_000)
    assert driver.node.engine.appended_lsn - before <= 12
    assert len(driver.node.engine.memtable.table) == 1


def test_the_ceiling_stays_ahead_of_the_clock() -> None:
    driver = NodeDriver()
    clock = driver.node.keyspace.clock
    for _ in range(200):
        driver.pass_time(100_000)
        assert clock.ceiling > clock.last
        assert (clock.ceiling >> 16) - driver.node.keyspace.now_ms > 2500
        assert not driver.node.holds_replies


def test_stamps_beyond_the_ceiling_hold_replies_until_they_are_durable() -> None:
    driver = NodeDriver(appendfsync="no")
    client = driver.connect()
    driver.clock.advance_us(60_000_000)
    assert client.call("SET", "k", "v") == b"+OK\r\n"
    assert driver.node.holds_replies
    plan = driver.node.sync_plan()
    assert plan is not None
    plan.run()
    driver.node.on_synced(plan)
    assert not driver.node.holds_replies
    driver.pass_time(3_000_000)
    client.call("SET", "k", "w")
    assert not driver.node.holds_replies


def test_damage_met_by_expiry_does_not_stop_the_node() -> None:
    driver = NodeDriver(block_cache_bytes="1")
    client = driver.connect()
    for n in range(200):
        client.call("SET", f"k{n}", random.Random(n).randbytes(300), "PX", 5000)
    driver.node.engine.rotate()
    driver.work()
    (name,) = driver.fs.listdir(f"{DIRECTORY}/tables")
    driver.fs.flip(f"{DIRECTORY}/tables/{name}", 5000, 1)
    client.call("SET", "alive", "v")
    driver.pass_time(7_000_000)
    assert client.call("GET", "alive") == b"$1\r\nv\r\n"
    assert driver.log, "damage is told"
    client.call("SET", "later", "v", "PX", 100)
    before = driver.node.keyspace.expired_keys
    driver.pass_time(1_000_000)
    assert driver.node.keyspace.expired_keys > before, "what is not damaged still expires"


class MissAlways(random.Random):
    """Every page that was not read yet is a miss."""

    def random(self) -> float:
        return 0.0


@pytest.mark.timeout(30)
def test_settling_when_idle_waits_for_its_blocks_without_holding_the_loop() -> None:
    driver = NodeDriver(block_cache_bytes="1")
    client = driver.connect()
    for n in range(200):
        client.call("SET", f"k{n}", random.Random(n).randbytes(300))
    driver.node.engine.rotate()
    driver.work()
    for n in range(250):
        client.call("SET", f"k{n}", "v")
    driver.pass_time(1_000)
    driver.fs.cold = MissAlways()
    driver.fs.drop_page_cache()
    driver.pass_time(10_000_000)
    assert driver.node.keyspace.counts.is_exact()
    assert driver.node.keyspace.counts.total(0) == 250
