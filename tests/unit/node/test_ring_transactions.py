"""Transactions on a ring: EXEC runs at the acting primary, WATCH registers there, whichever node the client asks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from respkv.base.errors import CommandError, CorruptionError
from respkv.base.slots import slot_of
from respkv.commands.ring_operation import Transaction
from respkv.commands.transactions import Runner
from respkv.resp.errors import DISK_FULL
from tests.unit.commands.harness import ErrorText
from tests.unit.node.simulated_ring import Connection, SimulatedRing
from tests.unit.node.test_spread import apart, strangers

KEYS = [f"k{number}" for number in range(24)]


@pytest.fixture(scope="module")
def three() -> SimulatedRing:
    return SimulatedRing(3)


@pytest.fixture(scope="module")
def seven() -> SimulatedRing:
    return SimulatedRing(7)


@pytest.fixture(params=["three", "seven"])
def ring(request: pytest.FixtureRequest) -> Iterator[SimulatedRing]:
    shared: SimulatedRing = request.getfixturevalue(request.param)
    yield shared
    shared.cluster.network.restore_all()
    shared.run(60_000_000, shared.cluster._formed)
    assert shared.connect(1)("FLUSHALL") == b"OK"


def friends(ring: SimulatedRing) -> list[str]:
    """Keys in slots of their own that one node has copies of, the acting primary of the first."""
    table = ring.node(1).ring.placement.table
    first = table[slot_of(b"k0")][0]
    return [key for key in KEYS if first in table[slot_of(key.encode())]][:3]


def transact(client: Connection, *requests: tuple[Any, ...]) -> Any:
    return client.all(("MULTI",), *requests, ("EXEC",))[-1]


def test_a_transaction_runs_where_its_keys_are(ring: SimulatedRing) -> None:
    one, two, three = friends(ring)
    for number in range(1, ring.size + 1):
        client = ring.connect(number)
        requests = [("SET", one, number), ("INCR", two), ("HSET", three, "f", number), ("GET", one), ("PING",)]
        assert transact(client, *requests)[:4] == [b"OK", number, int(number == 1), b"%d" % number]
        assert client("GET", two) == b"%d" % number, "the transaction is over"
    ring.run(1_000_000)
    assert not strangers(ring)
    assert all(not session.multi for number in range(1, ring.size + 1) for session in held(ring, number))


def held(ring: SimulatedRing, number: int) -> list[Any]:
    return list(ring.node(number).ring.forwards._sessions.values())


def test_no_increment_of_a_transaction_is_lost(ring: SimulatedRing) -> None:
    clients = [ring.connect(number) for number in (1, 2, 3)]
    for _ in range(10):
        for client in clients:
            client.send(("MULTI",), ("INCR", "n"), ("EXEC",))
            client.send(("INCR", "n"))
        for client in clients:
            client.wait(4)
    assert clients[0]("GET", "n") == b"60"


def test_a_watched_key_that_changes_anywhere_ends_the_transaction(ring: SimulatedRing) -> None:
    for number in range(1, 4):
        client = ring.connect(number)
        for other in range(1, 4):
            assert client("WATCH", "w") == b"OK"
            assert ring.connect(other)("SET", "w", f"{number} {other}") == b"OK"
            assert transact(client, ("SET", "w", "mine")) is None
            assert client("WATCH", "w") == b"OK" and transact(client, ("SET", "w", "mine")) == [b"OK"]
    assert client("WATCH", "w") == b"OK" and client("UNWATCH") == b"OK"
    assert ring.connect(1)("SET", "w", "theirs") == b"OK"
    assert transact(client, ("GET", "w")) == [b"theirs"]
    assert client.all(("WATCH", "w"), ("MULTI",), ("DISCARD",)) == [b"OK"] * 3
    assert ring.connect(2)("SET", "w", "other") == b"OK"
    assert transact(client, ("GET", "w")) == [b"other"]
    ring.run(100_000)
    assert not any(session.watched for number in range(1, ring.size + 1) for session in held(ring, number))


def test_each_watch_of_a_key_is_one_of_its_own(ring: SimulatedRing) -> None:
    """Clients of one node watch a key of another node: the end of one's watch is not the end of the others'."""
    for number in range(1, 4):
        first, second = ring.connect(number), ring.connect(number)
        assert first("WATCH", "w") == second("WATCH", "w") == b"OK"
        assert transact(second, ("SET", "w", "second")) == [b"OK"]
        assert transact(first, ("SET", "w", "first")) is None


@pytest.mark.parametrize("level", ["eventual", "quorum"])
def test_a_transaction_that_comes_to_its_end_too_late_is_over(ring: SimulatedRing, level: str) -> None:
    for number in range(1, 4):
        client = ring.connect(number)
        assert client("RKV.LEVEL", level) == b"OK"
        keep, Transaction._attempt = Transaction._attempt, too_late  # type: ignore[method-assign]
        try:
            late = transact(client, ("SET", "t", "v"))
        finally:
            Transaction._attempt = keep  # type: ignore[method-assign]
        assert late == [b"OK"] or str(late).startswith("TRYAGAIN")
        assert transact(client, ("SET", "t", "v")) == [b"OK"]
    assert all(session.multi is None for number in range(1, ring.size + 1) for session in held(ring, number))


ATTEMPT = Transaction._attempt


def too_late(operation: Transaction) -> bytes | None:
    """As if everything before had taken a second."""
    if operation.session.forwarded:
        operation.until_us = 1
    return ATTEMPT(operation)


def test_own_writes_before_watch_do_not_break_it(ring: SimulatedRing) -> None:
    for number in range(1, 4):
        requests = [("SET", "w", "1"), ("WATCH", "w"), ("MULTI",), ("INCR", "w"), ("EXEC",)]
        assert ring.connect(number).all(*requests)[-1] == [2]


def test_mistakes_in_a_transaction(ring: SimulatedRing) -> None:
    for number in range(1, 4):
        client = ring.connect(number)
        assert transact(client, ("SET", "s", "v"), ("HGET", "s", "f"), ("GET", "s"))[2] == b"v"
        aborted = transact(client, ("SET", "s", "v"), ("NOSUCH",))
        assert aborted == ErrorText("EXECABORT Transaction discarded because of previous errors.")
        assert client("EXEC") == ErrorText("ERR EXEC without MULTI")
        assert client("MULTI") == b"OK" and client("WATCH", "s") == ErrorText("ERR WATCH inside MULTI is not allowed")
        assert client("DISCARD") == b"OK"


def test_damage_met_by_exec_ends_the_transaction(three: SimulatedRing, monkeypatch: pytest.MonkeyPatch) -> None:
    def damaged(*_: object) -> None:
        raise CorruptionError("/db/tables/1", 0, "planted")

    monkeypatch.setattr(Runner, "rehearse", damaged)
    for number in range(1, 4):
        client = three.connect(number)
        assert str(transact(client, ("INCR", "k"))).startswith("CORRUPT")
        assert client("PING") == b"PONG", "not queued"
        assert transact(client, ("INCR", "k")).startswith("CORRUPT")


@pytest.mark.parametrize("level", ["eventual", "quorum"])
def test_a_transaction_without_room_is_over(three: SimulatedRing, monkeypatch: pytest.MonkeyPatch, level: str) -> None:
    def no_room(*_: object) -> None:
        raise CommandError(DISK_FULL)

    for number in range(1, 4):
        client = three.connect(number)
        assert client("RKV.LEVEL", level) == b"OK"
        with monkeypatch.context() as patch:
            patch.setattr(Runner, "rehearse", no_room)
            assert str(transact(client, ("INCR", "k"))).startswith("MISCONF")
        assert client("PING") == b"PONG", "not queued"
        assert transact(client, ("SET", "k", 1)) == [b"OK"]
    assert all(session.multi is None for number in range(1, 4) for session in held(three, number))


def test_keys_without_a_common_owner_are_refused_whole(seven: SimulatedRing) -> None:
    near, far = apart(seven)
    for number in range(1, 8):
        client = seven.connect(number)
        assert str(transact(client, ("SET", near, 1), ("SET", far, 2))).startswith("CROSSSLOT No reachable node")
        assert str(client("WATCH", near, far)).startswith("CROSSSLOT")
        assert client("WATCH", near) == b"OK"
        assert str(transact(client, ("SET", far, 2))).startswith("CROSSSLOT")
        assert client("GET", near) is None and client("GET", far) is None
        assert transact(client, ("SET", "x", 1)) == [b"OK"], "nothing is watched any more"


def test_commands_about_the_connection_stay_with_it(seven: SimulatedRing) -> None:
    here = next(key for key in KEYS if seven.node(1).ring.coordinator.mine[slot_of(key.encode())])
    away = next(key for key in KEYS if not seven.node(1).ring.coordinator.mine[slot_of(key.encode())])
    client = seven.connect(1)
    assert transact(client, ("SET", here, "v"), ("SELECT", 1), ("GET", here)) == [b"OK", b"OK", None]
    assert client("GET", here) is None and client("SELECT", 0) == b"OK" and client("GET", here) == b"v"
    refusal = ErrorText("ERR SELECT cannot be part of a transaction that another node carries out; nothing was changed")
    assert transact(client, ("SET", away, "v"), ("SELECT", 1)) == refusal
    assert client("GET", away) is None


def test_who_loses_the_node_that_watches_is_told_by_null(ring: SimulatedRing) -> None:
    table = ring.node(1).ring.placement.table
    names = {ring.node(number).ring.me: number for number in range(1, ring.size + 1)}
    watcher = names[table[slot_of(b"w")][0]]
    other = next(number for number in range(1, ring.size + 1) if number != watcher)
    client = ring.connect(other)
    assert client("WATCH", "w") == b"OK"
    assert ring.cluster.network.reset(f"n{watcher}", f"n{other}") > 0
    ring.run(5_000_000, lambda: False)
    assert transact(client, ("SET", "w", "v")) is None
    assert transact(client, ("SET", "w", "v")) == [b"OK"]


def test_the_cluster_face_says_where_a_transaction_belongs(three: SimulatedRing, seven: SimulatedRing) -> None:
    client = three.connect(1, face="cluster")
    assert transact(client, ("SET", "{t}1", 1), ("INCR", "{t}1"), ("SET", "{t}2", 2)) == [b"OK", 2, b"OK"]
    assert transact(client, ("SET", "a", 1), ("SET", "b", 2)) == ErrorText(
        "CROSSSLOT Keys in request don't hash to the same slot"
    )
    away = next(key for key in KEYS if not seven.node(1).ring.coordinator.mine[slot_of(key.encode())])
    client = seven.connect(1, face="cluster")
    replies = client.all(("MULTI",), ("SET", away, 1), ("EXEC",), ("WATCH", away))
    assert replies[1].startswith("MOVED ") and replies[2].startswith("EXECABORT") and replies[3].startswith("MOVED ")
