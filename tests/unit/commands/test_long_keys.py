"""The longest keys are stored, flushed, merged and found again; longer ones are refused by all that write."""

from __future__ import annotations

from typing import Any

import pytest

from respkv.base.limits import KEY_BYTES_MAX
from respkv.resp.errors import KEY_TOO_LONG
from respkv.storage.job_board import Job
from respkv.testing.node_driver import Client, NodeDriver
from respkv.worker.protocol import FrameReader, encode_frame
from tests.unit.node.small_ring import SmallRing

LONGEST = b"k" * KEY_BYTES_MAX
LONG = LONGEST + b"k"
#: Two of them are too long together.
HALF = b"h" * (KEY_BYTES_MAX // 2 + 1)
OK = b"+OK\r\n"
WAYS: tuple[tuple[tuple[Any, ...], ...], ...] = (
    (("SET", LONG, "v"),),
    (("SET", LONG, "v", "PX", 100_000),),
    (("SET", LONG, "v", "NX"),),
    (("GETSET", LONG, "v"),),
    (("MSET", LONG, "v"),),
    (("MSET", "a", "1", LONG, "v"),),
    (("MSETNX", "a", "1", LONG, "v"),),
    (("APPEND", LONG, "v"),),
    (("INCR", LONG),),
    (("SETRANGE", LONG, 3, "v"),),
    (("SETBIT", LONG, 3, 1),),
    (("SET", "a", "1"), ("BITOP", "NOT", LONG, "a")),
    (("SET", "a", "1"), ("RENAME", "a", LONG)),
    (("SET", "a", "1"), ("COPY", "a", LONG)),
    (("HSET", LONG, "f", "v"),),
    (("HSET", "h", LONG, "v"),),
    (("HSET", HALF, HALF, "v"),),
    (("HSET", HALF, "f", "v"), ("HSET", HALF, HALF, "v")),
    (("HSET", HALF, "f", "v"), ("HSET", HALF, "g", "v", HALF, "v")),
    (("HSET", HALF, "f", "v"), ("HINCRBY", HALF, HALF, 1)),
    (("HSET", "h", HALF, "v"), ("RENAME", "h", HALF)),
    (("HSET", "h", HALF, "v"), ("COPY", "h", HALF)),
    (("MULTI",), ("SET", "a", "1"), ("SET", LONG, "v"), ("EXEC",)),
    (("RKV.SET", b"cart:" + LONG, "", "v"),),
    (("SET", b"cart:" + LONG, "v"),),
    (("DEBUG", "POPULATE", 1, LONG),),
)


class Framed(NodeDriver):
    """Its jobs go to a worker in frames."""

    def _do(self, job: Job) -> None:
        [message] = FrameReader().feed(encode_frame({"id": 1, "spec": job.spec}))
        assert message["spec"] == job.spec
        super()._do(job)


@pytest.fixture
def driver() -> NodeDriver:
    return Framed(conflict_policy='cart:" "siblings', enable_debug_command="yes")


def flush(driver: NodeDriver) -> None:
    """What is in memory becomes a table."""
    assert driver.node.engine.rotate()
    driver.work()


@pytest.mark.parametrize("requests", WAYS, ids=lambda way: "-".join(str(words[0]) for words in way))
@pytest.mark.parametrize("events", [False, True])
def test_what_would_write_a_longer_key_is_refused_and_changes_nothing(
    driver: NodeDriver, requests: tuple[tuple[Any, ...], ...], events: bool
) -> None:
    client, other = driver.connect(), driver.connect()
    if events:
        client.call("CONFIG", "SET", "notify-keyspace-events", "KEA")
    for words in requests[:-1]:
        assert not client.call(*words).startswith(b"-")
    before = other.call("DBSIZE"), driver.node.engine.commit()
    assert client.call(*requests[-1]) == KEY_TOO_LONG
    assert (other.call("DBSIZE"), driver.node.engine.commit()) == before and not driver.node.engine.batch
    assert client.call("SET", "small", "1") == OK


def test_a_restored_hash_counts_its_fields(driver: NodeDriver) -> None:
    client = driver.connect()
    client.call("HSET", "h", HALF, "v")
    payload = client.call("DUMP", "h").split(b"\r\n", 1)[1][:-2]
    assert client.call("RESTORE", HALF, 0, payload) == KEY_TOO_LONG
    assert client.call("RESTORE", "g", 0, payload) == OK and client.call("HGET", "g", HALF) == b"$1\r\nv\r\n"


def test_readers_find_no_longer_key_and_deletions_delete_none(driver: NodeDriver) -> None:
    client = driver.connect()
    client.call("HSET", HALF, "f", "v")
    assert client.call("GET", LONG) == b"$-1\r\n" and client.call("TYPE", LONG) == b"+none\r\n"
    assert client.call("HGET", HALF, HALF) == b"$-1\r\n" and client.call("MGET", LONG, "a").count(b"$-1") == 2
    for words in (("DEL", LONG), ("EXPIRE", LONG, 10), ("PERSIST", LONG), ("EXISTS", LONG), ("HDEL", HALF, HALF)):
        assert client.call(*words) == b":0\r\n"


def longest(client: Client) -> list[bytes]:
    """What is read under the longest keys."""
    field = LONGEST[len(b"h") :]
    return [
        client.call(*words)
        for words in (
            ("GET", LONGEST), ("GET", b"e" + LONGEST[1:]), ("HGET", "h", field), ("HGET", b"z" + LONGEST[2:], "f"),
            ("HLEN", b"z" + LONGEST[2:]), ("EXISTS", b"m" + LONGEST[1:]),
        )
    ]  # fmt: skip


def test_the_longest_keys_are_flushed_merged_and_found_again() -> None:
    driver = Framed(memtable_bytes="16777216")
    client = driver.connect()
    for _ in range(4):
        assert client.call("SET", LONGEST, "1") == client.call("SET", b"e" + LONGEST[1:], "2", "PX", 10**8) == OK
        assert client.call("MSET", "a", "1", b"m" + LONGEST[1:], "3") == OK
        for words in (("h", LONGEST[1:]), (b"z" + LONGEST[2:], "f"), (b"z" + LONGEST[2:], "g")):
            assert not client.call("HSET", *words, "4").startswith(b"-")
        found = longest(client)
        flush(driver)
    assert found == [b"$1\r\n1\r\n", b"$1\r\n2\r\n", b"$1\r\n4\r\n", b"$1\r\n4\r\n", b":2\r\n", b":1\r\n"]
    driver.pass_time(1_000_000)
    runs = driver.node.engine._catalog.version.runs
    assert 0 < len(runs) < 4 and not driver.node.engine.immutables
    assert max(len(table.largest) for run in runs for table in run.tables) > KEY_BYTES_MAX
    again = NodeDriver(fs=driver.fs.copy(), clock=driver.clock)
    assert longest(again.connect()) == found


def test_on_a_ring_too() -> None:
    """At the node that is asked, at the one that it forwards to, and in the fast path."""
    ring = SmallRing()
    for client in (ring.connect(1), ring.connect(2)):
        for words in (("SET", LONG, "v"), ("INCR", LONG), ("HSET", HALF, HALF, "v"), ("MSET", "a", "1", LONG, "v")):
            assert str(client.call(*words)).encode() == KEY_TOO_LONG[1:-2]
        for _ in range(2):
            assert client.call("SET", LONGEST, "v") == b"OK"
            ring.run(1_000_000)
    ring.settle()
    assert [ring.connect(number).call("GET", LONGEST) for number in (1, 2, 3)] == [b"v"] * 3
