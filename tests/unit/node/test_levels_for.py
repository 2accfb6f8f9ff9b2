"""level-for: the level of a request that names none goes by the beginning of its keys."""

from __future__ import annotations

from typing import Any

import hiredis
import pytest

from respkv.commands.routing import level_of
from respkv.replication.levels import ALL, EVENTUAL, QUORUM
from tests.unit.node.small_ring import SmallRing


@pytest.fixture(scope="module")
def ring() -> SmallRing:
    return SmallRing(level_for="e: eventual e:sure: quorum a: all")


def level(ring: SmallRing, *words: bytes, session_level: int = 0) -> int:
    node = ring.node(1)
    session: Any = type("S", (), {"level": session_level, "readonly": False, "cluster_face": False})()
    spec = node.table.resolve(list(words))
    return level_of(session, spec, list(words), node.ring.coordinator)


def test_the_longest_prefix_and_of_several_keys_the_highest_level(ring: SmallRing) -> None:
    assert level(ring, b"GET", b"e:1") == EVENTUAL and level(ring, b"GET", b"e:sure:1") == QUORUM
    assert level(ring, b"SET", b"a:1", b"e:") == ALL and level(ring, b"GET", b"x") == QUORUM
    assert level(ring, b"MGET", b"e:1", b"x") == QUORUM and level(ring, b"MSET", b"e:1", b"1", b"a:", b"2") == ALL
    assert level(ring, b"MGET", b"e:1", b"e:2") == EVENTUAL and level(ring, b"FLUSHALL") == QUORUM


def test_what_the_connection_asks_for_counts_more(ring: SmallRing) -> None:
    assert level(ring, b"GET", b"a:1", session_level=EVENTUAL) == EVENTUAL
    assert level(ring, b"GET", b"e:1", session_level=ALL) == ALL


def test_a_node_alone_answers_what_may_be_eventual() -> None:
    ring = SmallRing(level_for="e: eventual a: all")
    client, other = ring.connect(1), ring.connect(2)
    assert client.call("SET", "a:k", "1") == b"OK" == client.call("SET", "k", "1")
    ring.cut(1)
    assert client.call("SET", "e:k", "1") == b"OK" and client.call("GET", "e:k") == b"1"
    for words in (("SET", "k", "2"), ("GET", "k"), ("MSET", "e:k", "2", "k", "2"), ("GET", "a:k")):
        assert isinstance(client.call(*words), hiredis.ReplyError), words
    # Two of three are a quorum, and not all.
    assert other.call("SET", "k", "3") == b"OK" and isinstance(other.call("SET", "a:k", "3"), hiredis.ReplyError)
    assert client.call("MULTI") == b"OK" and client.call("SET", "e:k", "4") == b"QUEUED"
    assert client.call("EXEC") == [b"OK"] and client.call("GET", "e:k") == b"4"
    assert client.call("MULTI") == b"OK" and client.call("SET", "e:k", "5") == b"QUEUED"
    assert client.call("GET", "k") == b"QUEUED" and isinstance(client.call("EXEC"), hiredis.ReplyError)
    # The connection's own level is the last word.
    assert client.call("RKV.LEVEL", "EVENTUAL") == b"OK" and client.call("GET", "k") == b"1"
    assert client.call("RKV.LEVEL", "DEFAULT") == b"OK" and isinstance(client.call("GET", "k"), hiredis.ReplyError)
    ring.heal()
    assert other.call("GET", "e:k") in (b"4", None)


def test_a_pipeline_of_fast_requests_keeps_to_the_levels(ring: SmallRing) -> None:
    client = ring.connect(1)
    coordinator = ring.node(1).ring.coordinator
    for words in (("SET", "x", "1"), ("SET", "e:p", "2"), ("GET", "e:p"), ("GET", "x"), ("SET", "a:p", "3")):
        client.send(*words)
    assert [client.take() for _ in range(5)] == [b"OK", b"OK", b"2", b"1", b"OK"]
    before = coordinator.reads.asked
    assert client.call("GET", "e:p") == b"2" and coordinator.reads.asked == before
    assert client.call("GET", "x") == b"1" and coordinator.reads.asked == before + 1
    assert client.call("GET", "a:p") == b"3" and coordinator.reads.asked == before + 3
