"""Hashes that lose fields on one side of a cut and get some on the other: whole nodes under virtual time."""

from __future__ import annotations

from typing import Any

import pytest

from respkv.base.slots import slot_of
from respkv.causality.record import TYPE_MASK
from respkv.keyspace import keys
from respkv.node.burials import AGE_MS
from tests.unit.node.small_ring import Connection, S, SmallRing


def key_of(ring: SmallRing, number: int) -> str:
    """A key whose acting primary is a node."""
    node = ring.node(number).ring
    names = (f"k{at}" for at in range(999))
    return next(key for key in names if node.coordinator.primary(slot_of(key.encode())) == node.me)


def seen(ring: SmallRing, key: str) -> list[Any]:
    """What a client is told of a hash at QUORUM."""
    client = ring.connect(1)
    return [client.call(*words, key) for words in (("HGETALL",), ("EXISTS",), ("HLEN",))] + [client.call("DBSIZE")]


def test_the_last_field_that_a_primary_removes_is_not_the_hash() -> None:
    """A primary that has missed a write removes the only field it has heard of."""
    ring = SmallRing()
    key, client, other = key_of(ring, 1), ring.connect(1), ring.connect(2)
    assert client.call("HSET", key, "f", "v") == 1
    ring.run(S)
    ring.cut(1)
    assert other.call("HSET", key, "g", "w") == 1
    ring.cluster.network.restore_all()
    for _ in range(400):
        if client.call("HDEL", key, "f") == 1:
            break
        ring.run(5000)
    ring.run(30 * S)
    assert seen(ring, key) == [[b"g", b"w"], 1, 1, 1]


def test_an_emptied_hash_is_gone_and_begins_anew() -> None:
    ring = SmallRing()
    key, client = key_of(ring, 1), ring.connect(1)
    for round_ in range(3):
        assert client.call("HSET", key, "f", round_, "g", "v") == 2
        assert client.call("HDEL", key, "f", "g") == 2
        assert seen(ring, key) == [[], 0, 0, 0] and client.call("KEYS", "*") == []
    assert client.call("HSET", key, "g", "new") == 1
    ring.settle()
    assert seen(ring, key) == [[b"g", b"new"], 1, 1, 1]


def test_an_expiry_that_nobody_had_heard_of_spares_what_came_after_it() -> None:
    ring = SmallRing()
    key, client, other = key_of(ring, 1), ring.connect(1), ring.connect(2)
    assert client.call("HSET", key, "a", "v") == 1
    ring.run(S)
    ring.cut(1)
    began = ring.cluster.schedule.now_us
    client.call("RKV.LEVEL", "EVENTUAL")
    assert client.call("EXPIRE", key, 20) == 1
    ring.run(3 * S)
    machine = ring.cluster.machines[0]
    machine.kill()
    ring.cluster.network.restore_all()
    ring.run(began + 25 * S - ring.cluster.schedule.now_us)
    assert other.call("HSET", key, "e", "new") == 1
    ring.run(S)
    machine.start()
    ring.until(ring.cluster._formed, 60 * S)
    ring.settle()
    assert b"e" in other.call("HGETALL", key)


def expire_soon(client: Connection, key: str, field: str, after_ms: int) -> None:
    assert client.call("HPEXPIRE", key, after_ms, "FIELDS", 1, field) == [1]


@pytest.mark.parametrize("ends", ["expires", "is removed at EVENTUAL"])
def test_the_last_field_that_a_member_knows_is_not_the_hash(ends: str) -> None:
    """A member that is cut off sees the only field it has heard of go; the others have acknowledged another one."""
    ring = SmallRing()
    key, client, other = key_of(ring, 1), ring.connect(1), ring.connect(2)
    assert client.call("HSET", key, "f", "v") == 1
    if ends == "expires":
        expire_soon(client, key, "f", 40_000)
    ring.run(S)
    ring.cut(1)
    assert other.call("HSET", key, "g", "w") == 1
    client.call("RKV.LEVEL", "EVENTUAL")
    if ends == "expires":
        ring.run(45 * S)
    else:
        assert client.call("HDEL", key, "f") == 1
        ring.run(S)
    assert [client.call("EXISTS", key), client.call("TYPE", key)] == [0, b"none"]
    ring.heal()
    ring.settle()
    assert seen(ring, key) == [[b"g", b"w"], 1, 1, 1]
    for number in (1, 2, 3):
        assert ring.node(number).ring.stats()["husks"] == 0


def test_who_asks_at_quorum_for_what_is_empty_here_is_told_what_others_have() -> None:
    ring = SmallRing()
    key, client, other = key_of(ring, 1), ring.connect(1), ring.connect(2)
    assert client.call("HSET", key, "f", "v") == 1
    ring.run(S)
    ring.cut(1)
    assert other.call("HSET", key, "g", "w") == 1
    client.call("RKV.LEVEL", "EVENTUAL")
    assert client.call("HDEL", key, "f") == 1
    client.call("RKV.LEVEL", "QUORUM")
    ring.cluster.network.restore_all()
    for _ in range(4000):
        if (found := client.call("EXISTS", key)) in (0, 1):
            break
        ring.run(5000)
    assert found == 1
    assert client.call("HGETALL", key) == [b"g", b"w"]


def test_a_hash_whose_fields_have_expired_is_gone_at_once_and_buried_later() -> None:
    ring = SmallRing()
    key, client = key_of(ring, 1), ring.connect(1)
    clients = [client, ring.connect(2), ring.connect(3)]
    assert client.call("HSET", key, "f", "v", "g", "w") == 2
    assert client.call("SET", "other", "1") == b"OK"
    for field in ("f", "g"):
        expire_soon(client, key, field, 1000)
    ring.run(2 * S)
    internal = keys.record_key(0, key.encode())
    for number, each in enumerate(clients, 1):
        each.call("RKV.LEVEL", "EVENTUAL")
        assert internal in ring.node(number).keyspace.husks
        told = [each.call(*words) for words in (("EXISTS", key), ("TYPE", key), ("DBSIZE",), ("KEYS", "*"))]
        assert told == [0, b"none", 1, [b"other"]]
        assert each.call("SCAN", "0", "COUNT", "100")[1] in ([], [b"other"])
    ring.run((AGE_MS * 1000) + 3 * S)
    for number in (1, 2, 3):
        node = ring.node(number)
        record = node.keyspace.engine.get(internal)
        assert len(node.keyspace.husks) == 0 and not record[0] & TYPE_MASK
        assert node.keyspace.counts.total(0) == 1
    assert sum(ring.node(number).ring.stats()["husks_buried"] for number in (1, 2, 3)) == 1


def test_a_hash_that_begins_again_before_it_is_buried_has_no_old_expiry() -> None:
    ring = SmallRing()
    key, client = key_of(ring, 1), ring.connect(1)
    assert client.call("HSET", key, "f", "v") == 1
    assert client.call("EXPIRE", key, 100) == 1
    expire_soon(client, key, "f", 1000)
    ring.run(2 * S)
    assert client.call("TTL", key) == -2
    assert client.call("HSET", key, "g", "new") == 1
    assert [client.call("TTL", key), client.call("HLEN", key)] == [-1, 1]
    ring.run(20 * S)
    ring.settle()
    assert seen(ring, key) == [[b"g", b"new"], 1, 1, 1]
    assert client.call("TTL", key) == -1


def test_a_string_over_what_had_become_empty_is_a_key_like_any_other() -> None:
    ring = SmallRing()
    key, client = key_of(ring, 1), ring.connect(1)
    assert client.call("HSET", key, "f", "v") == 1
    expire_soon(client, key, "f", 1000)
    ring.run(2 * S)
    assert client.call("SET", key, "string") == b"OK"
    assert [client.call("GET", key), client.call("DBSIZE"), client.call("KEYS", "*")] == [b"string", 1, [key.encode()]]
    assert client.call("DEL", key) == 1
    assert client.call("HSET", key, "h", "again") == 1
    ring.run(10 * S)
    assert seen(ring, key) == [[b"h", b"again"], 1, 1, 1]


def test_what_a_node_had_found_empty_it_finds_again_after_a_crash() -> None:
    ring = SmallRing()
    key, client = key_of(ring, 1), ring.connect(1)
    assert client.call("HSET", key, "f", "v") == 1
    expire_soon(client, key, "f", 1000)
    ring.run(2 * S)
    machine = ring.cluster.machines[0]
    machine.kill()
    machine.start()
    ring.until(lambda: machine.node is not None and machine.node.ring is not None)
    internal = keys.record_key(0, key.encode())
    ring.until(lambda: internal in machine.node.keyspace.husks, 3 * S)
    ring.until(ring.cluster._formed, 60 * S)
    ring.run(20 * S)
    assert all(not ring.node(number).keyspace.engine.get(internal)[0] & TYPE_MASK for number in (1, 2, 3))


def test_nothing_is_buried_by_a_node_that_is_alone() -> None:
    ring = SmallRing()
    key, client = key_of(ring, 1), ring.connect(1)
    assert client.call("HSET", key, "f", "v") == 1
    expire_soon(client, key, "f", 20_000)
    ring.cut(1)
    ring.run(40 * S)
    node = ring.node(1)
    assert node.ring.stats()["husks"] == 1 and node.ring.stats()["husks_buried"] == 0
    ring.heal()
    ring.run(20 * S)
    assert node.ring.stats()["husks"] == 0
