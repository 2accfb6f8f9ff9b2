"""The fast path is no second semantics: random histories with it and without it give the same replies, the same records
and the same counters."""

from __future__ import annotations

import os
import random

import pytest

from respkv.causality.record import BODY_AT
from respkv.keyspace.keys import SPACE_COUNT
from respkv.testing.node_driver import Client, NodeDriver, encode_request

KEYS = [b"k%d" % n for n in range(12)] + [b"{tag}x", b"", b"\x00\xff"]


def random_request(rng: random.Random) -> list[bytes]:
    key, value = rng.choice(KEYS), rng.choice((b"", b"7", b"v" * rng.randrange(300), b"*3\r\n$1\r\n"))
    roll = rng.random()
    if roll < 0.2:
        return [rng.choice((b"GET", b"get", b"gEt")), key]
    if roll < 0.4:
        return [rng.choice((b"SET", b"set", b"Set")), key, value]
    if roll < 0.8:
        key, owner, field = rng.choice(KEYS[:4]), b"h%d" % rng.randrange(3), rng.choice((b"f", b"g", b"", b"field"))
        return rng.choice(
            [
                [b"INCR", key],
                [b"incr", key],
                [b"HSET", owner, field, value],
                [b"hset", owner, field, value],
                [b"HSET", owner, field, value, b"more", value],
                [b"HGET", owner, field],
                [b"HDEL", owner, field],
                [b"HPEXPIRE", owner, b"30", b"FIELDS", b"1", field],
                [b"HLEN", owner],
                [b"HGETALL", owner],
                [b"PEXPIRE", owner, b"30"],
                [b"DEL", owner],
                [b"INCRBY", key, b"9" * rng.randrange(1, 19)],
                [b"SET", key, rng.choice((b"0", b"07", b"-1", b"-0", b"9" * rng.randrange(1, 20)))],
                [b"INCR", key],
                [b"HSET", owner, field, value],
                [b"HSET", owner, field, value],
                [b"HSET", owner, field],
                [b"INCR", key, key],
                [b"SET", owner, b"5"],
                [b"MSET", key, value, rng.choice(KEYS[:4]), b"m"],
                [b"mset", key, b"1"],
            ]
        )
    return rng.choice(
        [
            [b"SET", key, value, b"PX", b"50"],
            [b"DEL", key],
            [b"INCR", key],
            [b"APPEND", key, b"x"],
            [b"PEXPIRE", key, b"30"],
            [b"PERSIST", key],
            [b"EXISTS", key],
            [b"HSET", key, b"f", value],
            [b"DBSIZE"],
            [b"SELECT", b"%d" % rng.randrange(2)],
            [b"FLUSHDB"],
            [b"MULTI"],
            [b"EXEC"],
            [b"WATCH", key],
            [b"GET"],
            [b"SET", key],
            [b"NOSUCH", key],
            [b"MSET", key, value, rng.choice(KEYS), b"m"],
            [b"MGET", key, rng.choice(KEYS)],
        ]
    )


def log_entries(driver: NodeDriver) -> list[tuple[bytes, bytes]]:
    """All records. Of counts not which count each followed: shortcuts leave out those that are overwritten at once."""
    driver.work()
    engine = driver.node.engine
    found: list[tuple[bytes, bytes]] = []
    for memtable in (engine.memtable, *engine.immutables):
        found += sorted(memtable.table.items())
    found += list(engine.scan(b"\x01", b"\x02", wait=True))
    return [(key, record[: BODY_AT + 8] if key[0] == SPACE_COUNT else record) for key, record in found]


def counters(driver: NodeDriver) -> dict[str, object]:
    node = driver.node
    calls = {name: (stats.calls, stats.failed, stats.rejected) for name, stats in node.metrics.commands.items()}
    return {
        "calls": {name: figures for name, figures in calls.items() if any(figures)},
        "processed": node.metrics.commands_processed,
        "errors": dict(node.metrics.errors),
        "hits": node.keyspace.hits,
        "misses": node.keyspace.misses,
        "sessions": [(session.commands, session.last_command) for session in node.sessions.values()],
        "row charges": node.keyspace.cache.young_charge,
    }


def play(seed: int, *, fast: bool) -> tuple[list[bytes], list[tuple[bytes, bytes]], dict[str, object]]:
    rng = random.Random(seed)
    memtable = str(rng.choice((2000, 50_000, 1 << 20)))
    driver = NodeDriver(memtable_bytes=memtable, row_cache_bytes=str(rng.choice((3000, 7000, 12000, 1 << 20))))
    if not fast:
        driver.node.dispatcher.plain = False
        driver.node.dispatcher.server.recompute_plain = lambda: None  # type: ignore[method-assign]
    clients = [driver.connect() for _ in range(3)]
    replies = []
    for _ in range(250):
        if rng.random() < 0.3:
            # All in one cycle, in different databases and states, as a loop with many ready sockets has it.
            for each in clients:
                each.parser.feed(b"".join(encode_request(*random_request(rng)) for _ in range(rng.choice((1, 1, 5)))))
            driver.run_together(clients)
            for each in clients:
                replies.append(each.received)
                each.received = b""
            continue
        client: Client = rng.choice(clients)
        batch = [random_request(rng) for _ in range(rng.choice((1, 1, 2, 16)))]
        replies.append(client.send(b"".join(encode_request(*argv) for argv in batch)))
        if rng.random() < 0.1:
            driver.pass_time(rng.randrange(1, 40) * 1000)
    driver.node.keyspace.cache.check_invariants()
    reopened = NodeDriver(fs=driver.fs.copy(), memtable_bytes=memtable)
    return replies, log_entries(driver) + log_entries(reopened), counters(driver)


@pytest.mark.parametrize("seed", range(int(os.environ.get("RESPKV_SEEDS", "12"))))
def test_same_with_and_without_the_fast_path(seed: int) -> None:
    with_it, without_it = play(seed, fast=True), play(seed, fast=False)
    for number, (left, right) in enumerate(zip(with_it[0], without_it[0], strict=True)):
        assert left == right, number
    assert with_it[1] == without_it[1]
    assert with_it[2] == without_it[2]


def test_a_planted_difference_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("respkv.commands.dispatch.OK", b"+ok\r\n")
    assert play(0, fast=True)[0] != play(0, fast=False)[0]
