"""Hashes that lose fields on one side of a cut and get some on the other: whole nodes under virtual time."""

from __future__ import annotations

from typing import Any

from respkv.base.slots import slot_of
from tests.unit.node.small_ring import S, SmallRing


def key_of(ring: SmallRing, number: int) -> str:
    """A key whose acting primary is a node."""
    node = ring.node(number).ring
    keys = (f"k{at}" for at in range(999))
    return next(key for key in keys if node.coordinator.primary(slot_of(key.encode())) == node.me)


def seen(ring: SmallRing, key: str) -> list[Any]:
    """What a client is told of a hash at QUORUM."""
    client = ring.connect(1)
    return [client.call(*words, key) for words in (("HGETALL",), ("EXISTS",), ("HLEN",))] + [client.call("DBSIZE")]


def test_the_last_field_that_a_primary_knows_is_not_the_hash() -> None:
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
