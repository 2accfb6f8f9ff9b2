"""RKV.GET, RKV.SET, RKV.DEL, RKV.RESOLVE, and plain commands on keys whose siblings are kept, on a single node."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import hiredis
import pytest

from respkv.causality import dvv
from respkv.env.rng import seeded
from respkv.keyspace import conflicts
from respkv.testing.clock import ManualClock
from respkv.testing.disk import SimulatedFileSystem
from respkv.testing.node_driver import Client, NodeDriver

#: Words of one directive: the driver puts quotes around them all.
POLICIES = 's:" "siblings" "u:" "merge:union" "m:" "merge:max" "s:lww:" "lww'


def driver(**values: Any) -> NodeDriver:
    return NodeDriver(**{"conflict_policy": POLICIES, **values})


class Asked:
    """A connection whose replies are decoded."""

    def __init__(self, client: Client) -> None:
        self.client = client

    def __call__(self, *words: bytes | str | int) -> Any:
        reader = hiredis.Reader()
        reader.feed(self.client.call(*words))
        return reader.gets()


@pytest.fixture
def node() -> NodeDriver:
    return driver()


@pytest.fixture
def ask(node: NodeDriver) -> Asked:
    return Asked(node.connect())


def refused(reply: Any, part: str) -> bool:
    return isinstance(reply, hiredis.ReplyError) and part in str(reply)


def test_a_context_supersedes_exactly_what_was_seen(ask: Asked) -> None:
    assert ask("RKV.GET", "s:k") == [b""]
    assert ask("RKV.SET", "s:k", "", "one") == b"OK"
    seen_one, *values = ask("RKV.GET", "s:k")
    assert values == [b"one"] and seen_one
    assert ask("RKV.SET", "s:k", "", "two") == b"OK" and ask("RKV.GET", "s:k")[1:] == [b"two", b"one"]
    seen_both = ask("RKV.GET", "s:k")[0]
    assert ask("RKV.SET", "s:k", seen_one, "three") == b"OK" and ask("RKV.GET", "s:k")[1:] == [b"three", b"two"]
    assert ask("RKV.SET", "s:k", seen_both, "four") == b"OK" and ask("RKV.GET", "s:k")[1:] == [b"four", b"three"]
    assert ask("RKV.SET", "s:k", ask("RKV.GET", "s:k")[0], "five") == b"OK"
    assert ask("RKV.GET", "s:k")[1:] == [b"five"]


def test_plain_commands_see_the_newest_and_supersede_all(ask: Asked) -> None:
    for value in ("1", "2", "3"):
        ask("RKV.SET", "s:k", "", value)
    assert ask("GET", "s:k") == b"3" and ask("STRLEN", "s:k") == 1 and ask("TYPE", "s:k") in (b"string", "string")
    assert ask("EXISTS", "s:k") == 1 and ask("DBSIZE") == 1 and ask("SCAN", 0) == [b"0", [b"s:k"]]
    assert ask("INCR", "s:k") == 4 and ask("RKV.GET", "s:k")[1:] == [b"4"]
    ask("RKV.SET", "s:k", "", "5")
    assert ask("SET", "s:k", "6", "GET") == b"5" and ask("RKV.GET", "s:k")[1:] == [b"6"]
    ask("RKV.SET", "s:k", "", "7")
    assert ask("MSET", "s:k", "8", "x", "9") == b"OK" and ask("MGET", "s:k", "x") == [b"8", b"9"]
    assert ask("RKV.GET", "s:k")[1:] == [b"8"] and ask("RENAME", "s:k", "s:l") == b"OK"
    assert ask("RKV.GET", "s:k")[1:] == [] and ask("RKV.GET", "s:l")[1:] == [b"8"]
    assert ask("COPY", "s:l", "y") == 1 and ask("GET", "y") == b"8" and ask("GETDEL", "s:l") == b"8"
    assert ask("GET", "s:l") is None and ask("DBSIZE") == 2


def test_a_pipeline_of_sets_leaves_the_fast_path(node: NodeDriver) -> None:
    client = node.connect()
    sent = b"*3\r\n$3\r\nSET\r\n$3\r\ns:k\r\n$1\r\n%d\r\n" * 3 % (1, 2, 3) + b"*2\r\n$3\r\nGET\r\n$3\r\ns:k\r\n"
    assert client.send(sent) == b"+OK\r\n" * 3 + b"$1\r\n3\r\n"
    assert node.node.keyspace.conflicts.written == 3


def test_deletions(ask: Asked) -> None:
    for value in ("1", "2", "3"):
        ask("RKV.SET", "s:k", "", value)
        if value == "2":
            seen = ask("RKV.GET", "s:k")[0]
    assert ask("RKV.DEL", "s:k", "") == 0 and ask("RKV.DEL", "s:k", seen) == 2
    assert ask("RKV.GET", "s:k")[1:] == [b"3"] and ask("RKV.DEL", "s:k", seen) == 0
    assert ask("DEL", "s:k") == 1 and ask("DEL", "s:k") == 0 and ask("GET", "s:k") is None
    gone = ask("RKV.GET", "s:k")[0]
    assert gone and ask("RKV.SET", "s:k", gone, "4") == b"OK" and ask("RKV.GET", "s:k")[1:] == [b"4"]


def test_expiry_of_siblings(node: NodeDriver, ask: Asked) -> None:
    assert ask("RKV.SET", "s:k", "", "long", "EX", 100) == b"OK" == ask("RKV.SET", "s:k", "", "short", "PX", 500)
    assert ask("TTL", "s:k") in (0, 1) and ask("GET", "s:k") == b"short"
    node.pass_time(600_000)
    assert ask("GET", "s:k") == b"long" and ask("TTL", "s:k") == 99 and ask("RKV.GET", "s:k")[1:] == [b"long"]
    assert ask("RKV.SET", "s:k", "", "other") == b"OK"
    assert ask("EXPIRE", "s:k", 10) == 1 and len(ask("RKV.GET", "s:k")) == 3 and ask("PERSIST", "s:k") == 1
    assert ask("TTL", "s:k") == -1 and len(ask("RKV.GET", "s:k")) == 3 and ask("PEXPIRE", "s:k", 300) == 1
    node.pass_time(2_000_000)
    assert ask("GET", "s:k") is None and ask("DBSIZE") == 0 and ask("RKV.GET", "s:k")[1:] == []
    assert ask("RKV.SET", "s:k", "", "x", "EXAT", 1) == b"OK" and ask("EXISTS", "s:k") == 0
    assert ask("SET", "s:k", "x", "PX", 200) == b"OK"
    node.pass_time(1_000_000)
    assert ask("DBSIZE") == 0 and ask("RKV.GET", "s:k")[1:] == []


def test_merges_are_read_and_written_back(node: NodeDriver, ask: Asked) -> None:
    for value in ("[1]", "[2]"):
        ask("RKV.SET", "u:k", "", value)
    assert ask("GET", "u:k") == b"[1,2]" and ask("RKV.GET", "u:k")[1:] == [b"[1,2]"]
    assert node.node.keyspace.conflicts.written_back == 1
    for value in ("[1]", "none"):
        ask("RKV.SET", "u:bad", "", value)
    assert ask("GET", "u:bad") == b"none" and len(ask("RKV.GET", "u:bad")) == 3
    assert any("are not merged: merge:union: JSONDecodeError" in text for _, text in node.log)
    assert refused(ask("RKV.RESOLVE", "u:bad"), "the siblings stay as they are")
    assert ask("RKV.RESOLVE", "u:bad", "BY", "longest") == b"none" and len(ask("RKV.GET", "u:bad")) == 2


def test_resolve(ask: Asked) -> None:
    for value in ("9", "10", "8"):
        ask("RKV.SET", "s:k", "", value)
    assert ask("RKV.RESOLVE", "s:k", "BY", "max") == b"10" and ask("RKV.GET", "s:k")[1:] == [b"10"]
    ask("RKV.SET", "s:k", "", "7")
    assert ask("RKV.RESOLVE", "s:k") == b"7" == ask("RKV.RESOLVE", "s:k") and ask("RKV.GET", "s:k")[1:] == [b"7"]
    ask("RKV.SET", "s:k", "", "6")
    assert refused(ask("RKV.RESOLVE", "s:k", "BY", "average"), "there are longest, max, min, union, newest")
    assert ask("RKV.RESOLVE", "s:k", "BY", "NEWEST") == b"6" and ask("RKV.RESOLVE", "s:none") is None


def test_wrong_input(ask: Asked) -> None:
    for words in (("RKV.SET", "k", "", "v"), ("RKV.DEL", "k", ""), ("RKV.SET", "s:lww:k", "", "v")):
        assert refused(ask(*words), "the conflict policy of this key is lww")
    ask("RKV.SET", "s:k", "", "v")
    token = ask("RKV.GET", "s:k")[0]
    assert refused(ask("RKV.SET", "s:other", token, "v"), "it is damaged, or was read from another key")
    assert refused(ask("RKV.SET", "s:k", "AAAA!", "v"), "invalid causal context")
    mistakes = (("RKV.SET", "s:k", "", "v", "EX"), ("RKV.SET", "s:k", "", "v", "NX", "1"), ("RKV.RESOLVE", "s:k", "X"))
    for words in mistakes:
        assert refused(ask(*words), "syntax error")
    assert refused(ask("RKV.SET", "s:k", "", "v", "EX", "0"), "invalid expire time")
    assert refused(ask("RKV.SET", "s:k", "", "v", "EX", "a"), "not an integer")
    ask("HSET", "s:h", "f", "v")
    for words in (("RKV.GET", "s:h"), ("RKV.SET", "s:h", "", "v"), ("RKV.DEL", "s:h", ""), ("RKV.RESOLVE", "s:h")):
        assert refused(ask(*words), "WRONGTYPE")
    assert ask("SET", "s:h", "v") == b"OK" and ask("GET", "s:h") == b"v" and ask("HLEN", "s:h").args
    assert ask("DEL", "s:h") == 1 and ask("HSET", "s:h", "g", "w") == 1 and ask("HGETALL", "s:h") == [b"g", b"w"]
    assert ask("DEL", "s:h") == 1 and ask("RKV.GET", "s:h")[1:] == []
    ask("MULTI")
    assert refused(ask("RKV.GET", "s:k"), "Command not allowed inside a transaction")


def test_rkv_get_of_a_plain_key(ask: Asked) -> None:
    assert ask("SET", "k", "v") == b"OK" and ask("RKV.GET", "k")[1:] == [b"v"] and ask("RKV.RESOLVE", "k") == b"v"


def test_limits(node: NodeDriver, ask: Asked) -> None:
    for number in range(dvv.SIBLINGS_MAX):
        assert ask("RKV.SET", "s:k", "", number) == b"OK"
    conflicts = node.node.keyspace.conflicts
    assert conflicts.warned == dvv.SIBLINGS_MAX - dvv.SIBLINGS_WARN and conflicts.most == dvv.SIBLINGS_MAX
    assert any("has 26 siblings: its writers do not resolve them" in text for _, text in node.log)
    assert refused(ask("RKV.SET", "s:k", "", "more"), "100 are the limit") and conflicts.refused == 1
    assert len(ask("RKV.GET", "s:k")) == 101
    assert ask("RKV.SET", "s:k", ask("RKV.GET", "s:k")[0], "one") == b"OK" and ask("RKV.GET", "s:k")[1:] == [b"one"]


def test_siblings_together_are_no_larger_than_one_string(
    node: NodeDriver, ask: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conflicts, "SIBLING_BYTES_MAX", 10)
    assert ask("RKV.SET", "s:k", "", "12345") == b"OK" == ask("RKV.SET", "s:k", "", "67890")
    assert refused(ask("RKV.SET", "s:k", "", "x"), "bytes together") and len(ask("RKV.GET", "s:k")) == 3
    # What replaces all may be as large as any string.
    assert ask("RKV.SET", "s:k", ask("RKV.GET", "s:k")[0], "a value of its own") == b"OK"


def test_transactions_and_watch(node: NodeDriver, ask: Asked) -> None:
    ask("RKV.SET", "s:k", "", "1")
    ask("RKV.SET", "s:k", "", "2")
    ask("WATCH", "s:k")
    ask("MULTI")
    ask("INCR", "s:k")
    ask("SET", "x", "1")
    ask("EXPIRE", "s:k", 100)
    ask("DEL", "s:none")
    assert ask("EXEC") == [3, b"OK", 1, 0] and ask("RKV.GET", "s:k")[1:] == [b"3"] and ask("TTL", "s:k") == 100
    ask("WATCH", "s:k")
    Asked(node.connect())("RKV.SET", "s:k", "", "4")
    ask("MULTI")
    ask("GET", "s:k")
    assert ask("EXEC") is None


def test_events_are_those_of_set_and_del(node: NodeDriver, ask: Asked) -> None:
    listener = node.connect()
    listener.call("PSUBSCRIBE", "__keyevent@0__:*")
    ask("CONFIG", "SET", "notify-keyspace-events", "EA")
    ask("RKV.SET", "s:k", "", "1", "EX", 100)
    ask("RKV.DEL", "s:k", ask("RKV.GET", "s:k")[0])
    told = [part for part in listener.received.split(b"\r\n") if part.startswith(b"__keyevent")]
    assert [name.rpartition(b":")[2] for name in told if name != b"__keyevent@0__:*"] == [b"set", b"expire", b"del"]


def test_plain_records_from_before_the_policy(node: NodeDriver) -> None:
    fs, clock = SimulatedFileSystem(), ManualClock()
    old = NodeDriver(fs=fs, clock=clock)
    assert Asked(old.connect())("SET", "s:k", "plain") == b"OK" and Asked(old.connect())("SET", "s:t", "x") == b"OK"
    old.node.close()
    now = driver(fs=fs, clock=clock)
    ask = Asked(now.connect())
    token, *values = ask("RKV.GET", "s:k")
    assert values == [b"plain"] and ask("RKV.SET", "s:k", "", "beside") == b"OK"
    assert ask("RKV.GET", "s:k")[1:] == [b"beside", b"plain"]
    assert ask("RKV.SET", "s:k", token, "after") == b"OK" and ask("RKV.GET", "s:k")[1:] == [b"after", b"beside"]
    assert ask("EXPIRE", "s:t", 100) == 1 and ask("RKV.GET", "s:t")[1:] == [b"x"]
    now.node.close()
    # Without the policy again: the newest counts, and plain writes replace all.
    last = Asked(NodeDriver(fs=fs, clock=clock).connect())
    assert last("GET", "s:k") == b"after" and len(last("RKV.GET", "s:k")) == 3 and last("EXPIRE", "s:k", 50) == 1
    assert last("GET", "s:k") == b"after" and last("TTL", "s:k") == 50 and last("RKV.GET", "s:k")[1:] == [b"after"]
    assert last("SET", "s:t", "y") == b"OK" and last("RKV.GET", "s:t")[1:] == [b"y"] and last("DEL", "s:t") == 1


def test_siblings_survive_a_restart_and_actors_are_never_given_twice() -> None:
    fs, clock = SimulatedFileSystem(), ManualClock()
    actors: list[int] = []
    for turn in range(3):
        node = driver(fs=fs, clock=clock)
        ask = Asked(node.connect())
        assert len(ask("RKV.GET", "s:k")) == 1 + turn
        assert ask("RKV.SET", "s:k", "", turn) == b"OK" and ask("SET", f"s:{turn}", "x") == b"OK"
        keyspace = node.node.keyspace
        container = keyspace.container_in(b"", keyspace.engine.get(keyspace.internal(0, b"s:k")))
        actors.append(container.siblings[0].actor)
        node.node.commit()
        if turn:
            node.work()
            fs = fs.crash(seeded(turn))
        else:
            node.node.close()
        clock.advance_us(1_000_000)
    assert len(set(actors)) == 3 and actors == sorted(actors)


def test_the_lease_of_actors_is_renewed(node: NodeDriver, ask: Asked) -> None:
    actors = node.node.keyspace.conflicts.actors
    before = actors.ceiling
    actors.upcoming = before
    assert refused(ask("SET", "s:k", "1"), "TRYAGAIN") and ask("SET", "k", "1") == b"OK"
    node.pass_time(3_000_000)
    assert actors.ceiling > before and ask("SET", "s:k", "1") == b"OK"


def test_damage_makes_actors_be_used_no_more(node: NodeDriver, ask: Asked) -> None:
    ask("SET", "s:k", "1")
    issued = node.node.keyspace.conflicts.actors.issued
    ask("SET", "s:k", "2")
    assert node.node.keyspace.conflicts.actors.issued == issued
    node.node.duties._actors.forget()
    ask("SET", "s:k", "3")
    assert node.node.keyspace.conflicts.actors.issued == issued + 1


def test_siblings_in_tables(node: NodeDriver, ask: Asked) -> None:
    for value in ("a", "b"):
        ask("RKV.SET", "s:k", "", value)
    ask("DEBUG", "RELOAD")
    assert ask("RKV.GET", "s:k")[1:] == [b"b", b"a"] and ask("DBSIZE") == 1
    ask("SET", "s:k", "c")
    assert ask("RKV.GET", "s:k")[1:] == [b"c"]
    ask("DEBUG", "RELOAD")
    assert ask("GET", "s:k") == b"c" and ask("DEL", "s:k") == 1 and ask("DBSIZE") == 0


class Slow:
    """A merge function that takes 60 ms of the node's clock."""

    def __init__(self, clock: ManualClock) -> None:
        self.clock = clock
        self.calls = 0

    def __call__(self, values: Sequence[bytes]) -> bytes:
        self.calls += 1
        self.clock.advance_us(60_000)
        return b"late"


def with_a_slow_merge() -> tuple[NodeDriver, Asked, Slow]:
    """A node where k and l have two siblings each, and the function that should merge them is slow."""
    clock = ManualClock()
    slow = Slow(clock)
    node = NodeDriver(clock=clock, merges={"slow": slow}, conflict_policy='" "merge:slow')
    ask = Asked(node.connect())
    for key in ("k", "l"):
        ask("RKV.SET", key, "", "a")
        ask("RKV.SET", key, "", "b")
    return node, ask, slow


def test_a_slow_merge_is_called_once_and_readers_get_the_newest() -> None:
    node, ask, slow = with_a_slow_merge()
    assert [ask("GET", key) for key in ("k", "l") * 5] == [b"b"] * 10 and slow.calls == 1
    told = [text for _, text in node.log if "merge:slow" in text]
    assert len(told) == 1
    assert "siblings of key b'k' are not merged: merge:slow: was stopped after 60000 us" in told[0]
    assert "it rests for 10 s" in told[0]
    node.pass_time(11_000_000)
    assert ask("GET", "l") == b"b" == ask("GET", "k") and slow.calls == 2


def test_resolving_with_a_slow_merge_names_it() -> None:
    node, ask, slow = with_a_slow_merge()
    assert refused(ask("RKV.RESOLVE", "k"), "merge:slow: was stopped after 60000 us") and slow.calls == 1
    assert sum("merge:slow: was stopped" in text for _, text in node.log) == 1
    assert refused(ask("RKV.RESOLVE", "l"), "merge:slow: was too slow, and is not called for another 10 s")
    assert len(ask("RKV.GET", "k")) == 3 and ask("RKV.RESOLVE", "k", "BY", "newest") == b"b" and slow.calls == 1


def test_figures_of_merge_functions() -> None:
    node, ask, _ = with_a_slow_merge()
    for key in ("k", "k", "l"):
        ask("GET", key)
    assert refused(ask("RKV.RESOLVE", "k", "BY", "union"), "merge:union: JSONDecodeError")
    found = {row.name: figure for row, figure in node.node.metrics.collect()}
    reads = found["respkv_sibling_reads_total"]
    assert reads["too-slow"] == 1 and reads["resting"] == 2
    assert found["respkv_merge_calls_total"] == {"max": 0, "min": 0, "longest": 0, "union": 1, "slow": 1}
    assert found["respkv_merge_failures_total"]["union"] == 1 and found["respkv_merge_failures_total"]["slow"] == 0
    assert found["respkv_merge_slow_calls_total"]["slow"] == 1 and found["respkv_merge_skipped_total"]["slow"] == 2
    assert 9_000_000 < found["respkv_merge_rest_seconds"]["slow"] <= 10_000_000
    text = bytes(ask("INFO", "siblings")).decode()
    assert text.startswith("# Siblings\r\nrespkv_sibling_writes:4\r\n")
    for line in (
        "respkv_sibling_refusals:0", "respkv_siblings_most:2", "respkv_sibling_reads_too_slow:1",
        "respkv_merge_union:calls=1,failed=1,slow=0,skipped=0,rest_s=0",
        "respkv_merge_slow:calls=1,failed=0,slow=1,skipped=2,rest_s=10",
    ):  # fmt: skip
        assert f"\r\n{line}\r\n" in text
    assert b"# Siblings" in ask("INFO", "all") and b"# Siblings" not in ask("INFO")


def test_without_a_policy_nothing_is_told_of_siblings() -> None:
    ask = Asked(NodeDriver().connect())
    assert ask("INFO", "siblings") == b"" and b"# Siblings" not in ask("INFO", "all")


def test_figures(node: NodeDriver, ask: Asked) -> None:
    ask("RKV.SET", "s:k", "", "1")
    ask("RKV.SET", "s:k", "", "2")
    ask("GET", "s:k")
    found = {row.name: figure for row, figure in node.node.metrics.collect()}
    assert found["respkv_sibling_writes_total"] == 2 == found["respkv_siblings_most"]
    assert found["respkv_sibling_reads_total"]["newest"] == 1
