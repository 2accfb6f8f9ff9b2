"""Hot keys on nodes: every request may be sampled, HOTKEYS tells them, and a ring's replicas take turns for them."""

from __future__ import annotations

from typing import Any

import pytest

from respkv.base.slots import slot_of
from respkv.testing.node_driver import NodeDriver, encode_request
from tests.unit.node.simulated_ring import Connection, SimulatedRing

ROUNDS = 400


def told(flat: list[Any]) -> dict[bytes, Any]:
    return dict(zip(flat[::2], flat[1::2], strict=True))


@pytest.mark.parametrize("depth", [1, 7, 50])
def test_a_single_node_finds_its_hot_keys(depth: int) -> None:
    driver = NodeDriver()
    client = driver.connect()
    words = [("GET", "hot") if at % 2 else ("SET", f"cold{at}", "v") for at in range(ROUNDS * 20)]
    for at in range(0, len(words), depth):
        client.send(b"".join(encode_request(*each) for each in words[at : at + depth]))
    hot = driver.node.hot_keys
    assert abs(hot.samples - len(words) / 64) < 40
    hot.check_invariants()
    (first, *_) = hot.sketch.top(3)
    assert first.key == b"hot" and first.writes == 0 and hot.is_hot(b"hot") and not hot.is_hot(b"cold0")
    assert b"hot\r\n" in client.call("HOTKEYS", "GET")
    figures = {metric.name: figure for metric, figure in driver.node.metrics.collect()}
    assert figures["respkv_hot_keys"] == 1 and figures["respkv_hot_key_samples_total"] == hot.samples


def test_general_commands_and_broken_requests_are_sampled_too() -> None:
    driver = NodeDriver()
    client = driver.connect()
    for at in range(2000):
        client.call("HSET", "h", f"f{at % 10}", "v")
        client.call("PING")
        client.call("HGET", "h")
    row = driver.node.hot_keys.sketch.top(1)[0]
    assert row.key == b"h" and row.writes == row.samples > 10


def load(client: Connection, *words: str) -> None:
    for _ in range(ROUNDS):
        client.all(*[words] * 16)


def test_a_member_of_a_ring_finds_them_and_answers_itself_when_it_has_a_copy() -> None:
    ring = SimulatedRing(3)
    client = ring.connect(2)
    client("SET", "hot", "v")
    load(client, "GET", "hot")
    load(client, "SET", "hot", "w")
    found = told(client("HOTKEYS", "GET")[0])
    requests, writes = told(found[b"by-requests"]), told(found[b"by-writes"])
    assert requests[b"hot"] > ROUNDS * 20 and 0 < writes[b"hot"] < requests[b"hot"]
    assert client("HOTKEYS", "START", "METRICS", 1, "CPU") == b"OK"
    load(client, "GET", "hot")
    found = told(client("HOTKEYS", "GET")[0])
    assert list(told(found[b"by-cpu-time-us"])) == [b"hot"]
    assert ring.node(2).ring.forwards.stats()["forwards_sent"] == 0


def test_reads_of_a_hot_key_are_spread_over_its_replicas_at_eventual() -> None:
    ring = SimulatedRing(5)
    placement = ring.node(1).ring.placement
    key = next(f"k{at}" for at in range(99) if ring.node(1).ring.me not in placement.table[slot_of(b"k%d" % at)])
    client = ring.connect(1)
    client("RKV.LEVEL", "all")
    client("SET", key, "v")
    client("RKV.LEVEL", "quorum")
    load(client, "GET", key)
    nodes = {ring.node(number).ring.me: ring.node(number).ring for number in range(1, 6)}
    owners = placement.table[slot_of(key.encode())]

    def executed() -> dict[int, int]:
        return {short: node.forwards.stats()["forwards_executed"] for short, node in nodes.items()}

    before = executed()
    assert ring.node(1).hot_keys.is_hot(key.encode())
    assert [before[short] > 100 for short in owners] == [True, False, False], "at QUORUM the first one answers"
    client("RKV.LEVEL", "eventual")
    for _ in range(60):
        assert client("GET", key) == b"v"
    after = executed()
    assert [after[short] - before[short] for short in owners] == [20, 20, 20]
    assert all(after[short] == before[short] for short in nodes if short not in owners)
    cold = next(f"c{at}" for at in range(9999) if placement.table[slot_of(b"c%d" % at)] == owners)
    for _ in range(6):
        client("GET", cold)
    assert executed()[owners[0]] == after[owners[0]] + 6


def test_clients_who_ask_for_the_same_at_once_share_an_answer() -> None:
    ring = SimulatedRing(5)
    placement = ring.node(1).ring.placement
    key = next(f"k{at}" for at in range(99) if ring.node(1).ring.me not in placement.table[slot_of(b"k%d" % at)])
    clients = [ring.connect(1) for _ in range(10)]
    for client in clients:
        client("RKV.LEVEL", "eventual")
    clients[0]("SET", key, "v")
    ring.run(1_000_000)
    sent = ring.node(1).ring.forwards.stats()["forwards_sent"]
    for client in clients:
        client._end.send(encode_request("GET", key))
    assert [client.wait(1) for client in clients] == [[b"v"]] * 10
    stats = ring.node(1).ring.forwards.stats()
    assert stats["forwards_sent"] - sent + stats["forwards_joined"] == 10 and stats["forwards_joined"] > 0
