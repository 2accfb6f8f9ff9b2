"""Siblings on a ring under virtual time: both sides of a partition write, both values are there, one write ends it."""

from __future__ import annotations

from typing import Any

import hiredis
import pytest

from respkv.causality import siblings
from tests.unit.node.small_ring import Connection, SmallRing

POLICIES = "s: siblings u: merge:union m: merge:max s:last: lww"


def values(client: Connection, key: str) -> list[bytes]:
    return sorted(client.call("RKV.GET", key)[1:])


def records(ring: SmallRing, key: bytes) -> list[Any]:
    found = []
    for number in (1, 2, 3):
        keyspace = ring.node(number).keyspace
        found.append(keyspace.engine.get(keyspace.internal(0, key)))
    return found


@pytest.fixture
def ring() -> SmallRing:
    return SmallRing(conflict_policy=POLICIES)


def test_both_sides_of_a_partition_are_kept_until_somebody_has_seen_both(ring: SmallRing) -> None:
    clients = [ring.connect(number) for number in (1, 2, 3)]
    for client in clients:
        assert client.call("RKV.LEVEL", "EVENTUAL") == b"OK"
    assert clients[0].call("SET", "s:cart", "empty") == b"OK"
    ring.settle()
    old = clients[2].call("RKV.GET", "s:cart")[0]
    ring.cut(1)
    assert clients[0].call("SET", "s:cart", "apple") == b"OK"
    assert clients[0].call("SET", "s:last:k", "one") == b"OK"
    assert clients[1].call("RKV.SET", "s:cart", old, "pear") == b"OK"
    assert clients[1].call("SET", "s:last:k", "two") == b"OK"
    assert values(clients[0], "s:cart") == [b"apple"] and values(clients[1], "s:cart") == [b"pear"]
    ring.heal()
    ring.settle()
    for client in clients:
        assert values(client, "s:cart") == [b"apple", b"pear"]
        assert client.call("GET", "s:cart") == b"pear" and client.call("GET", "s:last:k") == b"two"
    assert len(set(records(ring, b"s:cart"))) == 1
    # A context of before the partition covers neither.
    assert clients[0].call("RKV.SET", "s:cart", old, "plum") == b"OK"
    ring.settle()
    assert values(clients[1], "s:cart") == [b"apple", b"pear", b"plum"]
    token = clients[1].call("RKV.GET", "s:cart")[0]
    assert clients[2].call("RKV.SET", "s:cart", token, "all") == b"OK"
    ring.settle()
    assert [values(client, "s:cart") for client in clients] == [[b"all"]] * 3
    assert len(set(records(ring, b"s:cart"))) == 1


def test_writes_at_quorum_one_after_the_other_make_no_siblings(ring: SmallRing) -> None:
    clients = [ring.connect(number) for number in (1, 2, 3)]
    for turn in range(30):
        assert clients[turn % 3].call("SET", "s:k", turn) == b"OK"
        assert clients[(turn + 1) % 3].call("RKV.GET", "s:k")[1:] == [b"%d" % turn]
    assert clients[1].call("INCR", "s:k") == 30 and clients[2].call("APPEND", "s:k", "0") == 3
    assert clients[0].call("DEL", "s:k") == 1 and clients[1].call("RKV.GET", "s:k")[1:] == []
    assert clients[2].call("MULTI") == b"OK"
    assert [clients[2].call("SET", "s:k", "x"), clients[2].call("APPEND", "s:k", "y")] == [b"QUEUED"] * 2
    assert clients[2].call("EXEC") == [b"OK", 2] and clients[0].call("RKV.GET", "s:k")[1:] == [b"xy"]


def test_resolving_at_a_quorum_takes_what_others_have_seen(ring: SmallRing) -> None:
    clients = [ring.connect(number) for number in (1, 2, 3)]
    assert clients[0].call("RKV.SET", "s:k", "", "one") == b"OK" == clients[1].call("RKV.SET", "s:k", "", "three")
    assert clients[2].call("RKV.RESOLVE", "s:k", "BY", "longest") == b"three"
    ring.settle()
    assert [values(client, "s:k") for client in clients] == [[b"three"]] * 3
    assert clients[0].call("RKV.RESOLVE", "s:absent") is None
    assert isinstance(clients[0].call("RKV.RESOLVE", "s:k", "BY", "nothing"), (bytes, hiredis.ReplyError))


def test_a_merge_is_read_everywhere_and_written_back_by_one(ring: SmallRing) -> None:
    clients = [ring.connect(number) for number in (1, 2, 3)]
    for client in clients:
        client.call("RKV.LEVEL", "EVENTUAL")
    ring.cut(3)
    for key, here, there in (("u:k", "[1,2]", "[2,3]"), ("m:k", "9", "10")):
        assert clients[0].call("SET", key, here) == b"OK" == clients[2].call("SET", key, there)
    ring.heal()
    ring.settle()
    for client in clients:
        assert client.call("GET", "u:k") == b"[1,2,3]" and client.call("GET", "m:k") == b"10"
    ring.settle()
    written = [ring.node(number).keyspace.conflicts.written_back for number in (1, 2, 3)]
    assert sum(written) == 2, written
    for client in clients:
        assert values(client, "u:k") == [b"[1,2,3]"] and values(client, "m:k") == [b"10"]


def test_a_deletion_and_a_value_of_the_other_side(ring: SmallRing) -> None:
    clients = [ring.connect(number) for number in (1, 2, 3)]
    for client in clients:
        client.call("RKV.LEVEL", "EVENTUAL")
    assert clients[0].call("SET", "s:k", "old", "EX", "1000") == b"OK"
    ring.settle()
    ring.cut(1)
    assert clients[0].call("DEL", "s:k") == 1 and clients[0].call("GET", "s:k") is None
    assert clients[1].call("SET", "s:k", "new") == b"OK"
    ring.heal()
    ring.settle()
    for client in clients:
        assert values(client, "s:k") == [b"new"] and client.call("TTL", "s:k") == -1
    container = siblings.decode(records(ring, b"s:k")[0])
    assert len(container.siblings) == 2, "the deletion stays beside the value it has not seen"


def test_what_was_flushed_does_not_come_back_beside_a_new_value(ring: SmallRing) -> None:
    clients = [ring.connect(number) for number in (1, 2, 3)]
    for client in clients:
        client.call("RKV.LEVEL", "EVENTUAL")
    assert clients[0].call("SET", "s:k", "old") == b"OK"
    ring.settle()
    ring.cut(3)
    assert clients[0].call("FLUSHALL") == b"OK"
    assert clients[0].call("SET", "s:k", "new") == b"OK"
    assert clients[2].call("RKV.SET", "s:k", "", "late") == b"OK"
    ring.heal()
    ring.settle()
    assert [values(client, "s:k") for client in clients] == [[b"late", b"new"]] * 3


def test_expired_siblings_go_everywhere(ring: SmallRing) -> None:
    clients = [ring.connect(number) for number in (1, 2, 3)]
    assert clients[0].call("RKV.SET", "s:k", "", "short", "PX", "2000") == b"OK"
    assert clients[1].call("RKV.SET", "s:k", "", "long", "PX", "9000") == b"OK"
    assert values(clients[2], "s:k") == [b"long", b"short"]
    ring.run(3_000_000)
    assert values(clients[2], "s:k") == [b"long"] and clients[0].call("GET", "s:k") == b"long"
    ring.run(9_000_000)
    ring.settle()
    assert [values(client, "s:k") for client in clients] == [[]] * 3
    assert [client.call("EXISTS", "s:k") for client in clients] == [0] * 3
