"""INCR, MSET and HSET without effects: where they serve a request, and that they leave alone what is not theirs."""

from __future__ import annotations

import random
from typing import Any

import pytest

from respkv.base.limits import KEY_BYTES_MAX
from respkv.causality.record import BODY_AT
from respkv.commands.dispatch import LARGE_RECORD_BYTES
from respkv.commands.shortcuts import Shortcut, Shortcuts
from respkv.commands.table import build_table
from respkv.keyspace.keys import SPACE_COUNT, SPACE_ELEMENT, count_key
from respkv.keyspace.keyspace import TRIM_SHARE
from respkv.keyspace.rows import field_charge
from respkv.metrics.registry import Registry
from respkv.storage.batch_scale import SPLIT_ENTRIES
from respkv.storage.sstable.format import HEADER_BYTES
from respkv.storage.wal import read_closed, segment_path
from respkv.storage.write_batch import iterate_payload
from respkv.testing.node_driver import DIRECTORY, Client, NodeDriver, encode_request

#: What was done before; the request; whether a shortcut serves it.
CASES: dict[str, tuple[list[str], str, bool]] = {
    "a number": (["SET n 41", "GET n"], "INCR n", True),
    "in lower case": (["SET n 41", "GET n"], "incr n", True),
    "in odd case": (["SET n 41", "GET n"], "Incr n", False),
    "a number that is not cached": (["SET n 41"], "INCR n", True),
    "a number that was never cached": (["INCR n", "INCR n"], "INCR n", True),
    "a number that is not cached, with a tag": (["SET {n} 41"], "INCR {n}", False),
    "a number of the old generation": (["SET n 41", "GET n", "turn"], "INCR n", False),
    "a number that was written before": (["SET n 41", "retire"], "INCR n", True),
    "a number that lies in a table": (["SET n 41", "retire", "flush"], "INCR n", True),
    "a number in a table, a full cache": (["SET n 4", "retire", "flush", "SET m 1", "GET m", "fill"], "INCR n", False),
    "a number in a table, expiring": (["SET n 41 PX 100000", "retire", "flush"], "INCR n", False),
    "a number in a table, flushed": (["SET n 41", "retire", "flush", "FLUSHALL"], "INCR n", False),
    "a number on the disk": (["SET n 41", "retire", "flush", "cold"], "INCR n", False),
    "nothing on the disk": (["SET m 41", "retire", "flush", "cold"], "INCR n", True),
    "a number in a damaged block": (["SET n 41", "retire", "flush", "damage"], "INCR n", False),
    "a number whose use was asked for": (["SET n 41", "GET n", "OBJECT IDLETIME n"], "INCR n", False),
    "no number, not cached": (["SET n x"], "INCR n", False),
    "a number that was deleted": (["SET n 5", "DEL n"], "INCR n", False),
    "a number that was deleted before": (["SET n 5", "DEL n", "retire"], "INCR n", False),
    "a number that was flushed": (["SET n 5", "FLUSHALL"], "INCR n", False),
    "nothing": ([], "INCR n", True),
    "nothing, beside a table": (["SET m 41", "retire", "flush"], "INCR n", True),
    "nothing, after a flush": (["SET m 41", "FLUSHALL"], "INCR n", True),
    "nothing of a long name": ([], "INCR " + "n" * 1_000_000, True),
    "zero": (["SET n 0", "GET n"], "INCR n", True),
    "nines": (["SET n 99", "GET n"], "INCR n", True),
    "seventeen digits": (["SET n 99999999999999999", "GET n"], "INCR n", True),
    "eighteen digits": (["SET n 999999999999999999", "GET n"], "INCR n", False),
    "the largest": (["SET n 9223372036854775807", "GET n"], "INCR n", False),
    "a zero before": (["SET n 07", "GET n"], "INCR n", False),
    "below zero": (["SET n -1", "GET n"], "INCR n", False),
    "no number": (["SET n x", "GET n"], "INCR n", False),
    "a number that expires": (["SET n 5 PX 100000", "GET n"], "INCR n", False),
    "a number that has expired": (["SET n 5 PX 5", "sleep"], "INCR n", False),
    "a tag": (["SET {n} 5", "GET {n}"], "INCR {n}", False),
    "a hash for a number": (["HSET n f v"], "INCR n", False),
    "too many words": (["SET n 5", "GET n"], "INCR n 2", False),
    "a field that is there": (["HSET h f v"], "HSET h f longer", True),
    "an equal field": (["HSET h f v"], "HSET h f v", True),
    "a new field": (["HSET h f v"], "HSET h g v", True),
    "a new hash": ([], "HSET h f v", False),
    "two fields": (["HSET h f v"], "HSET h f v g w", False),
    "half a field": (["HSET h f v"], "HSET h f", False),
    "a string for a hash": (["SET h v"], "HSET h f v", False),
    "a field that expires": (["HSET h f v g v", "HPEXPIRE h 100000 FIELDS 1 f"], "HSET h f w", False),
    "a field that has expired": (["HSET h f v g v", "HPEXPIRE h 5 FIELDS 1 f", "sleep"], "HSET h f w", False),
    "a hash that expires": (["HSET h f v", "PEXPIRE h 100000"], "HSET h f w", False),
    "a hash that has expired": (["HSET h f v", "PEXPIRE h 5", "sleep"], "HSET h f w", False),
    "a field that is not in memory": (["HSET h f v g v", "forget"], "HSET h f w", False),
    "a field that was read again": (["HSET h f v g v", "forget", "HGET h f"], "HSET h f w", True),
    "a field that nobody knows": (["HSET h f v g v", "forget"], "HSET h new w", False),
    "a field of a hash that has no room": (["HSET h f v", "narrow"], "HSET h g v", False),
    "a field that grows beyond the room": (["HSET h f v", "narrow"], "HSET h f longer", False),
    "a field of a hash that has it": (["HSET h f v", "narrow"], "HSET h f w", True),
    "a hash that was emptied": (["HSET h f v", "HDEL h f"], "HSET h f w", False),
    "strings": (["SET a 1", "SET b 2", "GET a", "GET b"], "MSET a longer b x", True),
    "a string twice": (["SET a 1", "GET a"], "MSET a 2 a 33", True),
    "a string that is not cached": (["SET a 1", "SET b 2", "GET a"], "MSET a 1 b 2", False),
    "a string that expires": (["SET a 1", "SET b 2 PX 100000", "GET a", "GET b"], "MSET a 1 b 2", False),
    "a string that is none": (["SET a 1", "HSET b f v", "GET a"], "MSET a 1 b 2", False),
    "a string with a tag": (["SET {a}b 1", "GET {a}b"], "MSET {a}b 2", False),
    "a long string": (["SET a 1", "GET a"], "MSET a " + "v" * 4096, False),
    "nearly a long string": (["SET a 1", "GET a"], "MSET a " + "v" * 4095, True),
    "many strings": (["SET a 1", "GET a"], "MSET" + " a v" * 120, True),
    "too many strings": (["SET a 1", "GET a"], "MSET" + " a v" * 121, False),
    "a long key": ([f"SET {'k' * 4096} 1", f"GET {'k' * 4096}"], f"MSET {'k' * 4096} v", False),
    "a field that is too long": ([f"HSET {'k' * 600_000} f v"], f"HSET {'k' * 600_000} {'f' * 600_000} v", False),
    "half a pair": (["SET a 1", "GET a"], "MSET a 1 a", False),
    "no pair": ([], "MSET x", False),
    "a removed field": (["HSET h f v g v", "HDEL h f"], "HSET h f w", True),
}


class AlwaysCold(random.Random):
    """Nothing is in the page cache before it was read."""

    def random(self) -> float:
        return 0.0


def play(before: list[str], request: str, *, fast: bool) -> tuple[int, list[Any]]:
    """How many requests a shortcut served of the last one, and all that can be seen of it."""
    driver = NodeDriver()
    node = driver.node
    if not fast:
        node.dispatcher.plain = False
        node.recompute_plain = lambda: None  # type: ignore[method-assign]
    client: Client = driver.connect()
    for line in before:
        if line == "sleep":
            driver.pass_time(20_000)
        elif line == "forget":
            row = node.keyspace.cache.peek(0, b"h")
            charge, delta = row.charge, row.forget_fields()
            row.charge = charge
            node.keyspace.cache.adjust(0, b"h", row, delta)
        elif line == "turn":
            node.keyspace.cache.resize(1)
            node.keyspace.cache.resize(1 << 20)
        elif line == "retire":
            assert node.engine.rotate()
        elif line == "flush":
            driver.pass_time(300_000)
            assert node.engine.stats()["memtables_retired"] == 0 and node.engine.stats()["tables"]
        elif line == "fill":
            cache = node.keyspace.cache
            cache.resize(2 * cache.young_charge)
        elif line == "narrow":
            node.keyspace.cache.resize(TRIM_SHARE * node.keyspace.cache.peek(0, b"h").charge)
        elif line == "cold":
            driver.fs.cold = AlwaysCold()
        elif line == "damage":
            (name,) = driver.fs.listdir(f"{DIRECTORY}/tables")
            driver.fs.flip(f"{DIRECTORY}/tables/{name}", HEADER_BYTES + 40, 3)
        else:
            client.send(encode_request(*line.split()))
    served: list[bool] = []
    by_word = node.dispatcher._shortcuts.by_word

    def counted(shortcut: Shortcut) -> Shortcut:
        def run(db: int, rows: Any, prefixes: bytes, argv: list[bytes]) -> bytes | None:
            reply = shortcut(db, rows, prefixes, argv)
            served.append(reply is not None)
            return reply

        return run

    by_word.update({word: counted(shortcut) for word, shortcut in by_word.items()})
    if "sleep" not in before and "retire" not in before:
        driver.pass_time(3_000_000)
    last = node.keyspace.clock.last
    seen: list[Any] = [client.send(encode_request(*request.split())), node.keyspace.clock.last - last]
    session = next(iter(node.sessions.values()))
    seen += [session.last_command, session.commands]
    stats = node.metrics.commands[request.split()[0].lower()]
    seen += [stats.calls, stats.failed, node.metrics.commands_processed]
    key = request.split()[1]
    seen += [client.send(encode_request(*line.split())) for line in (f"GET {key}", f"HGETALL {key}", f"HLEN {key}")]
    seen += [client.send(encode_request(*f"{line} {key}".split())) for line in ("PTTL", "OBJECT IDLETIME")]
    # What is logged: what a node that is started on these files knows.
    again = NodeDriver(fs=driver.fs.copy())
    seen += sorted(again.node.engine.memtable.table.items())
    seen += [again.connect().call("DBSIZE"), node.keyspace.cache.check_invariants()]
    return sum(served), seen


@pytest.mark.parametrize(("before", "request_", "served"), CASES.values(), ids=CASES)
def test_a_shortcut_serves_what_is_its_own_and_leaves_the_rest(before: list[str], request_: str, served: bool) -> None:
    usual, quick = play(before, request_, fast=False), play(before, request_, fast=True)
    assert usual[0] == 0 and quick[0] == served
    assert quick[1] == usual[1]


def test_new_fields_are_counted_once_before_anything_else_runs() -> None:
    driver = NodeDriver()
    client, engine = driver.connect(), driver.node.engine
    names = [count_key(driver.node.keyspace.internal(0, owner)) for owner in (b"h", b"g")]

    def logged() -> list[int]:
        log = driver.fs.read_all(segment_path(DIRECTORY, engine.memtable.segment_id))
        return [log.count(name) for name in names]

    assert client.send(b"".join(encode_request("HSET", owner, "f", "v") for owner in "hg")) == b":1\r\n" * 2
    assert logged() == [1, 1]
    fields = [encode_request("HSET", owner, f"f{number}", "v") for number in range(5) for owner in "hg"]
    assert client.send(b"".join(fields)) == b":1\r\n" * 10
    assert logged() == [2, 2]
    requests = [fields[0], encode_request("HSET", "h", "g", "v"), encode_request("HDEL", "h", "f")]
    requests += [encode_request("HLEN", "h"), encode_request("HSET", "h", "new", "v"), encode_request("HLEN", "h")]
    assert client.send(b"".join(requests)) == b":0\r\n:1\r\n:1\r\n:6\r\n:1\r\n:7\r\n"
    assert logged() == [5, 2]
    reopened = NodeDriver(fs=driver.fs.copy()).connect()
    assert [reopened.call("HLEN", owner) for owner in "hg"] == [b":7\r\n", b":6\r\n"]


def test_a_count_waits_also_where_nothing_has_grown() -> None:
    driver = NodeDriver()
    client = driver.connect()
    client.call("HSET", "h", "a", "x" * 400)
    grown = field_charge(b"b", b"")
    requests = [("HSET", "h", "b", ""), ("HSET", "h", "a", "x" * (400 - grown)), ("DEL", "h")]
    requests.append(("HSET", "h", "n", "1", "m", "2"))
    assert client.send(b"".join(encode_request(*words) for words in requests)) == b":1\r\n:0\r\n:1\r\n:2\r\n"
    record = driver.node.engine.get(count_key(driver.node.keyspace.internal(0, b"h")))
    row = driver.node.keyspace.cache.peek(0, b"h")
    assert record is not None and record[1:BODY_AT] > row.floor, "the count of the hash that was deleted came later"
    assert record[BODY_AT : BODY_AT + 8] == (2).to_bytes(8, "big")


def test_hashes_of_one_name_in_two_databases_are_counted_apart() -> None:
    driver = NodeDriver()
    one, two = driver.connect(), driver.connect()
    two.call("SELECT", 1)
    for client in (one, two):
        client.call("HSET", "h", "f", "v")
    one.parser.feed(b"".join(encode_request("HSET", "h", f"f{number}", "v") for number in range(2)))
    two.parser.feed(b"".join(encode_request("HSET", "h", f"f{number}", "v") for number in range(5)))
    driver.run_together([one, two])
    again = NodeDriver(fs=driver.fs.copy()).connect()
    assert again.call("HLEN", "h") == b":3\r\n"
    assert again.send(encode_request("SELECT", 1) + encode_request("HLEN", "h")) == b"+OK\r\n:6\r\n"


def test_a_turn_after_a_commit_within_the_cycle_writes_to_the_new_memtable(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = NodeDriver()
    node, one, two = driver.node, driver.connect(), driver.connect()
    for words in (("SET", "n", 5), ("SET", "new", 1), ("HSET", "h", "f", "v")):
        two.call(*words)

    def relieve() -> None:
        node.commit()
        assert node.engine.rotate()

    monkeypatch.setattr(node.dispatcher.server, "relieve", relieve, raising=False)
    one.parser.feed(encode_request("SET", "big", "v" * (LARGE_RECORD_BYTES - 9)))
    requests = (("INCR", "n"), ("SET", "new", 2), ("HSET", "h", "g", "v"), ("INCR", "absent"))
    two.parser.feed(b"".join(encode_request(*words) for words in requests))
    driver.run_together([one, two])
    again = NodeDriver(fs=driver.fs.copy()).connect()
    expected = [b"$1\r\n6\r\n", b"$1\r\n2\r\n", b"$1\r\n1\r\n"]
    assert [again.call("GET", key) for key in ("n", "new", "absent")] == expected
    assert again.call("HLEN", "h") == b":2\r\n"
    driver.pass_time(300_000)
    assert not node.engine.stats()["memtables_retired"], "the first memtable is a table now, made of its log"
    node.keyspace.cache.clear_all()
    two.received = b""
    assert [two.call("GET", key) for key in ("n", "new", "absent")] == expected


def test_where_a_counter_is_kept() -> None:
    driver = NodeDriver()
    client, cache = driver.connect(), driver.node.keyspace.cache
    for command in (("INCR", "n"), ("INCR", "n"), ("INCRBY", "n", 5)):
        client.call(*command)
        assert cache.peek(0, b"n") is None, "the memtable has it"
    client.call("GET", "n")
    assert cache.peek(0, b"n") is not None
    for command in (("INCR", "m"), ("INCRBY", "l", 2)):
        client.call(*command)
    assert driver.node.engine.rotate()
    for command in (("INCR", "m"), ("INCRBY", "l", 2)):
        client.call(*command)
        assert cache.peek(0, command[1].encode()) is not None, "it would have to be read from a table each time"
        cache.check_invariants()
    client.call("SET", "t", 5, "PX", 100_000)
    client.call("INCR", "t")
    assert cache.peek(0, b"t") is not None, "what expires is not served from the memtable"


def test_a_key_that_is_too_long_is_left_alone() -> None:
    shortcuts, prefixes = NodeDriver().node.dispatcher._shortcuts, bytes(5 * 16384)
    assert shortcuts.increment(0, {}, prefixes, [b"INCR", bytes(KEY_BYTES_MAX + 1)]) is None
    assert shortcuts.increment(0, {}, prefixes, [b"INCR", bytes(KEY_BYTES_MAX)]) == b":1\r\n"


def test_counts_are_in_the_record_of_the_log_that_has_the_fields() -> None:
    driver = NodeDriver()
    client = driver.connect()
    client.call("HSET", "h", "f", "v")
    number = SPLIT_ENTRIES + 10  # A cycle of more is logged in parts.
    assert client.send(b"".join(encode_request("HSET", "h", n, "v") for n in range(number))) == b":1\r\n" * number
    held, counted = 0, 0
    payloads: list[bytes] = []
    path = segment_path(DIRECTORY, driver.node.engine.memtable.segment_id)
    assert driver.node.engine.rotate()
    read_closed(driver.fs, path, payloads.append)
    for payload in payloads:
        for key, record in iterate_payload(payload):
            if key[0] == SPACE_COUNT:
                counted = int.from_bytes(record[BODY_AT : BODY_AT + 8], "big")
            held += key[0] == SPACE_ELEMENT
        assert held == counted
    assert held == number + 1 and len(payloads) > 2


def test_a_command_by_another_name_has_none() -> None:
    table = build_table({"incr": "count", "hset": "incr", "mset": ""})
    shortcuts = Shortcuts(NodeDriver().node.applier, Registry(), table)
    assert shortcuts.by_word == {}
    assert set(Shortcuts(NodeDriver().node.applier, Registry(), build_table()).by_word) == {
        b"incr", b"INCR", b"hset", b"HSET", b"mset", b"MSET",
    }  # fmt: skip
