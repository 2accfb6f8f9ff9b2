"""Commands inside a transaction: figures, slow log, MONITOR; and a transaction that meets damage."""

from __future__ import annotations

from respkv.resp import errors
from respkv.testing.node_driver import DIRECTORY, Client, NodeDriver

SINGLE = (("SET", "k", "v"), ("INCR", "k"), ("GET", "k"), ("GET", "absent"), ("SELECT", "1"), ("GET", "k"))


def transact(client: Client, *requests: tuple[str, ...]) -> bytes:
    client.call("MULTI")
    for words in requests:
        assert client.call(*words) == b"+QUEUED\r\n", words
    return client.call("EXEC")


def test_commands_inside_count_like_commands_alone() -> None:
    alone, inside = NodeDriver(), NodeDriver()
    client = alone.connect()
    for words in SINGLE:
        client.call(*words)
    transact(inside.connect(), *SINGLE)
    for name in ("set", "incr", "get", "select"):
        left, right = alone.node.metrics.command(name), inside.node.metrics.command(name)
        assert (left.calls, left.failed) == (right.calls, right.failed), name
        assert right.failed == (name == "incr")
    assert alone.node.metrics.commands_processed + 2 == inside.node.metrics.commands_processed


def test_the_rehearsal_does_not_count_as_hits_and_misses() -> None:
    driver = NodeDriver()
    client = driver.connect()
    client.call("SET", "k", "v")
    transact(client, ("GET", "k"), ("GET", "absent"))
    assert (driver.node.keyspace.hits, driver.node.keyspace.misses) == (1, 1)


def test_commands_inside_are_in_the_slow_log_when_exec_is_not() -> None:
    driver = NodeDriver(slowlog_log_slower_than="0")
    client = driver.connect()
    driver.node.slowlog.reset()
    transact(client, ("INCR", "n"), ("AUTH", "x"))
    logged = [entry.argv for entry in driver.node.slowlog.entries()]
    assert logged == [(b"AUTH", b"(redacted)"), (b"INCR", b"n"), (b"MULTI",)]


def test_monitors_see_commands_inside_when_they_run_and_in_their_database() -> None:
    driver = NodeDriver()
    monitor, client = driver.connect(), driver.connect()
    monitor.call("MONITOR")
    transact(client, ("SET", "k", "v"), ("CONFIG", "GET", "timeout"), ("SELECT", "1"), ("GET", "k"))
    seen = [line.split(b" ", 1)[1] for line in monitor.received.splitlines()]
    shown = [line for line in seen if b"EXEC" not in line]
    place = b"127.0.0.1:1] "
    assert shown == [
        b"[0 " + place + b'"MULTI"',
        b"[0 " + place + b'"SET" "k" "v"',
        b"[1 " + place + b'"SELECT" "1"',
        b"[1 " + place + b'"GET" "k"',
    ]
    assert len(seen) == len(shown) + 1
    monitor.received = b""
    client.call("MULTI")
    client.call("SET", "k", "v")
    client.call("DISCARD")
    assert b"SET" not in monitor.received


def test_a_transaction_that_meets_damage_is_over_and_changes_nothing() -> None:
    driver = NodeDriver()
    client = driver.connect()
    client.call("SET", "k", "v")
    driver.pass_time(300_000)
    driver.node.engine.rotate()
    driver.node.keyspace.counts.follow()
    driver.work()
    driver.node.close()
    fs = driver.fs.copy()
    for name in fs.listdir(f"{DIRECTORY}/tables"):
        fs.remove(f"{DIRECTORY}/tables/{name}")
    client = NodeDriver(fs=fs, clock=driver.clock).connect()
    assert transact(client, ("SET", "other", "v"), ("GET", "k")) == errors.CORRUPT
    assert client.call("EXEC") == errors.EXEC_WITHOUT_MULTI
    assert client.call("SET", "k", "again") == b"+OK\r\n"
    assert transact(client, ("GET", "k")) == b"*1\r\n$5\r\nagain\r\n"
