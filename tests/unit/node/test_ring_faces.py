"""What clients of a ring are answered, face by face: production nodes under virtual time."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.unit.commands.harness import ErrorText
from tests.unit.node.simulated_ring import SimulatedRing

FORMING = ErrorText("LOADING The ring is being formed: waiting for its other nodes. See RKV.STATUS.")


@pytest.fixture(scope="module")
def forming() -> SimulatedRing:
    return SimulatedRing(3, formed=False)


@pytest.fixture(scope="module")
def shared() -> SimulatedRing:
    return SimulatedRing(3)


@pytest.fixture
def ring(shared: SimulatedRing) -> Iterator[SimulatedRing]:
    yield shared
    assert shared.connect(1)("FLUSHALL") == b"OK"


def test_until_the_ring_is_formed_commands_wait(forming: SimulatedRing) -> None:
    client = forming.connect(1)
    for words in (["GET", "k"], ["PING"], ["DBSIZE"], ["KEYS", "*"], ["MGET", "a", "b"], ["HGETALL", "h"]):
        assert client(*words) == FORMING, words
    assert client("GET") == ErrorText("ERR wrong number of arguments for 'get' command")
    assert client("MULTI") == b"OK"
    assert client("SET", "k", "v") == FORMING
    assert client("EXEC") == ErrorText("EXECABORT Transaction discarded because of previous errors.")
    assert b"\r\nloading:1\r\n" in client("INFO", "persistence")
    assert client("CLIENT", "ID") > 0 and client("CONFIG", "GET", "port")
    assert client("RKV.STATUS") and client("RKV.RING").startswith("LOADING The ring is not formed yet: ")


def test_the_ring_and_its_nodes_are_told(ring: SimulatedRing) -> None:
    rows = []
    for number in (1, 2, 3):
        told = ring.connect(number)("RKV.RING")
        facts = dict(zip(told[::2], told[1::2]))
        assert facts[b"voters"] == [1, 2, 3] and len(facts[b"cluster-id"]) == 32 and facts[b"seed"].isdigit()
        rows.append([facts[name] for name in (b"cluster-id", b"seed", b"epoch", b"replication-factor")])
    assert rows[0] == rows[1] == rows[2]


def test_commands_between_databases(ring: SimulatedRing) -> None:
    face, plain = ring.connect(1, face="cluster"), ring.connect(1)
    key = next(f"k{at}" for at in range(99) if not str(face("EXISTS", f"k{at}")).startswith("MOVED"))
    assert face("SWAPDB", 0, 1) == ErrorText("ERR SWAPDB is not allowed in cluster mode")
    assert face("MOVE", key, 1) == ErrorText("ERR MOVE is not allowed in cluster mode")
    no_copy = ErrorText("ERR Copying to another database is not allowed in cluster mode")
    assert face("COPY", key, key, "DB", 1) == no_copy
    assert face("COPY", key, f"{{{key}}}2", "DB", 0) == 0
    assert plain("SWAPDB", 0, 1) == ErrorText("ERR This command is not available on a ring")
    assert plain("SET", key, "v") == b"OK" and plain("COPY", key, key, "DB", 1) == 1 and plain("MOVE", key, 2) == 1
    for client in (face, plain):
        assert client("MULTI") == b"OK"
        assert isinstance(client("SWAPDB", 0, 1), ErrorText)
        assert client("EXEC") == ErrorText("EXECABORT Transaction discarded because of previous errors.")
