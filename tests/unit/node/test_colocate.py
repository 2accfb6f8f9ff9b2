"""colocate: the keys of a prefix share one slot, on all nodes, whatever each is configured to."""

from __future__ import annotations

from collections.abc import Iterator

import hiredis
import pytest

from respkv.base.slots import slot_of
from tests.unit.node.small_ring import SmallRing


@pytest.fixture(scope="module")
def ring() -> Iterator[SmallRing]:
    yield SmallRing(nodes=5, colocate="jobs: {t}:")


def test_the_founder_decides_for_all(ring: SmallRing) -> None:
    for number in range(1, 6):
        node = ring.node(number)
        assert node.ring.member.ring.colocate == (b"jobs:", b"{t}:")
        assert node.keyspace.slot(b"jobs:7") == slot_of(b"jobs:") and node.dispatcher.ruled(b"jobs:7")
    row = ring.connect(1).call("RKV.RING")
    assert row[row.index(b"colocate") + 1] == [b"jobs:", b"{t}:"]


def test_they_lie_together_and_any_node_finds_them(ring: SmallRing) -> None:
    clients = [ring.connect(number) for number in range(1, 6)]
    for at in range(40):
        assert clients[at % 5].call("SET", f"jobs:{at}", at) == b"OK"
    assert clients[3].call("MSET", *(word for at in range(40, 50) for word in (f"jobs:{at}", at))) == b"OK"
    for client in clients:
        assert client.call("MGET", *(f"jobs:{at}" for at in range(50))) == [b"%d" % at for at in range(50)]
    assert clients[2].call("RENAME", "jobs:1", "jobs:x") == b"OK" and clients[4].call("GET", "jobs:x") == b"1"
    assert clients[1].call("DEL", "jobs:x", "jobs:2") == 2 and clients[0].call("EXISTS", "jobs:x", "jobs:3") == 1
    slot, owners = slot_of(b"jobs:"), ring.cluster.owners(slot_of(b"jobs:"))
    for number in range(1, 6):
        keyspace = ring.node(number).keyspace
        held = [at for at in range(50) if keyspace.engine.get(keyspace.internal(0, b"jobs:%d" % at)) is not None]
        assert bool(held) == (f"n{number}" in owners), (number, owners)
    assert ring.connect(1).call("DBSIZE") == 48
    where = clients[0].call("RKV.WHERE", "jobs:3")
    assert where[where.index(b"slot") + 1] == slot


def test_a_transaction_over_them_is_in_one_slot(ring: SmallRing) -> None:
    owner = int(ring.cluster.owners(slot_of(b"jobs:"))[0][1:])
    client = ring.connect(owner)
    assert client.call("MULTI") == b"OK"
    for words in (("SET", "jobs:a", "1"), ("INCR", "jobs:a"), ("SET", "jobs:b", "2")):
        assert client.call(*words) == b"QUEUED"
    assert client.call("EXEC") == [b"OK", 2, b"OK"]
    assert ring.connect(owner % 5 + 1).call("MGET", "jobs:a", "jobs:b") == [b"2", b"2"]


def test_clients_of_the_cluster_face_are_not_sent_round_in_circles() -> None:
    ring = SmallRing(nodes=5, colocate="jobs:", cluster_enabled="yes")
    for number in range(1, 6):
        client = ring.connect(number)
        assert client.call("CLUSTER", "KEYSLOT", "jobs:1") == slot_of(b"jobs:")
        assert client.call("SET", "jobs:1", number) == b"OK" and client.call("GET", "jobs:1") == b"%d" % number
        assert client.call("MSET", "jobs:1", "x", "jobs:2", "y") == b"OK"
        refused = client.call("MGET", "jobs:1", "other")
        assert isinstance(refused, hiredis.ReplyError) and str(refused).startswith("CROSSSLOT")
    replies = [ring.connect(number).call("GET", "elsewhere") for number in range(1, 6)]
    assert any(isinstance(reply, hiredis.ReplyError) and "MOVED" in str(reply) for reply in replies)


def test_a_node_that_is_configured_otherwise_follows_the_ring_and_says_so() -> None:
    ring = SmallRing(colocate="jobs:")
    machine = ring.cluster.machines[1]
    machine.directives["colocate"] = "other:"
    machine.kill()
    machine.start()
    ring.heal()
    node = ring.node(2)
    assert node.keyspace.slot(b"jobs:1") == slot_of(b"jobs:") and node.keyspace.slot(b"other:1") == slot_of(b"other:1")
    assert any("the ring was decided with these prefixes and stays so: jobs:" in line for line in machine.log)
    assert ring.connect(2).call("SET", "jobs:1", "v") == b"OK" and ring.connect(1).call("GET", "jobs:1") == b"v"
