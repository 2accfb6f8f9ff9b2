"""INCR, MSET and HSET without effects: where they serve a request, and that they leave alone what is not theirs."""

from __future__ import annotations

from typing import Any

import pytest

from respkv.causality.record import BODY_AT
from respkv.commands.shortcuts import Shortcut, Shortcuts
from respkv.commands.table import build_table
from respkv.keyspace.keys import SPACE_COUNT, SPACE_ELEMENT, count_key
from respkv.metrics.registry import Registry
from respkv.storage.batch_scale import SPLIT_ENTRIES
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
    "a number that was written before": (["SET n 41", "retire"], "INCR n", False),
    "a number that lies in a table": (["SET n 41", "retire", "flush"], "INCR n", False),
    "no number, not cached": (["SET n x"], "INCR n", False),
    "a number that was deleted": (["SET n 5", "DEL n"], "INCR n", False),
    "a number that was deleted before": (["SET n 5", "DEL n", "retire"], "INCR n", False),
    "a number that was flushed": (["SET n 5", "FLUSHALL"], "INCR n", False),
    "nothing": ([], "INCR n", True),
    "nothing, beside a table": (["SET m 41", "retire", "flush"], "INCR n", True),
    "nothing, after a flush": (["SET m 41", "FLUSHALL"], "INCR n", True),
    "nothing of a long name": ([], "INCR " + "n" * 1_000_000, True),
    "nothing of too long a name": ([], "INCR " + "n" * 1_100_000, False),
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
            node.keyspace.cache.peek(0, b"h").forget_fields()
        elif line == "turn":
            node.keyspace.cache.resize(1)
            node.keyspace.cache.resize(1 << 20)
        elif line == "retire":
            assert node.engine.rotate()
        elif line == "flush":
            driver.work()
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
    seen += sorted(node.engine.memtable.table.items())
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
