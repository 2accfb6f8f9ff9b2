"""Pipelines on a ring: requests on different keys are under way together, those on one key keep their order, and
replies come in the order of requests."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from respkv.base.slots import slot_of
from respkv.commands.flight import REPLY_BYTES_MAX, UNDER_WAY_MAX, UnderWay
from tests.unit.commands.harness import ErrorText
from tests.unit.node.simulated_ring import Connection, SimulatedRing


@pytest.fixture(scope="module")
def shared() -> SimulatedRing:
    return SimulatedRing(3)


@pytest.fixture
def ring(shared: SimulatedRing) -> Iterator[SimulatedRing]:
    yield shared
    shared.cluster.network.restore_all()
    shared.cluster.network.usual_delays()
    shared.run(60_000_000, shared.cluster._formed)
    assert shared.connect(1)("FLUSHALL") == b"OK"


def keys_led_by(ring: SimulatedRing, number: int, count: int, *, away: bool = False) -> list[str]:
    """Keys whose acting primary is a node, or is not."""
    short = ring.node(number).ring.me
    table = ring.node(1).ring.placement.table
    found = [f"k{at}" for at in range(400) if (table[slot_of(b"k%d" % at)][0] == short) != away]
    return found[:count]


def slowly(ring: SimulatedRing, delay_us: int) -> None:
    """Every message between nodes takes so long."""
    names = [machine.name for machine in ring.cluster.machines]
    for source in names:
        for target in names:
            if source != target:
                ring.cluster.network.set_delay(source, target, delay_us, delay_us + 1)


def timed(ring: SimulatedRing, client: Connection, *requests: tuple[Any, ...]) -> tuple[list[Any], int]:
    began = ring.cluster.schedule.now_us
    replies = client.all(*requests)
    return replies, ring.cluster.schedule.now_us - began


def test_requests_on_different_keys_are_under_way_together(ring: SimulatedRing) -> None:
    here, away = keys_led_by(ring, 1, 10), keys_led_by(ring, 1, 10, away=True)
    client = ring.connect(1)
    slowly(ring, 20_000)
    requests = [("INCR", key) for pair in zip(here, away) for key in pair]
    replies, took_us = timed(ring, client, *requests)
    assert replies == [1] * 20
    assert took_us < 300_000, "ten times as long one after the other"
    mixed = [("GET", here[0]), ("APPEND", away[0], "x"), ("SET", here[1], "v"), ("STRLEN", away[1]), ("GET", here[2])]
    assert client.all(*mixed) == [b"1", 2, b"OK", 1, b"1"]


def test_requests_on_one_key_keep_their_order(ring: SimulatedRing) -> None:
    slowly(ring, 5_000)
    for key in (keys_led_by(ring, 2, 1)[0], keys_led_by(ring, 2, 1, away=True)[0]):
        client = ring.connect(2)
        requests = [("SET", key, "1"), ("INCR", key), ("GET", key), ("SET", key, "7"), ("APPEND", key, "0"),
                    ("GETDEL", key), ("GET", key), ("SET", key, "z"), ("GETDEL", key), ("EXISTS", key)]  # fmt: skip
        assert client.all(*requests) == [b"OK", 2, b"2", b"OK", 2, b"70", None, b"OK", b"z", 0]


def test_a_forwarded_request_does_not_overtake_an_earlier_write(ring: SimulatedRing) -> None:
    """The write is on its way to all replicas when the request that is forwarded goes to one of them."""
    keys = keys_led_by(ring, 3, 40, away=True)
    client = ring.connect(3)
    for key in keys:
        assert client.all(("SET", key, key), ("GETDEL", key), ("GET", key)) == [b"OK", key.encode(), None]
    client("RKV.LEVEL", "EVENTUAL")
    for key in keys:
        assert client.all(("SET", key, key), ("GETDEL", key)) == [b"OK", key.encode()]
        assert client.all(("HSET", key, "f", key), ("HGET", key, "f"), ("HDEL", key, "f")) == [1, key.encode(), 1]


def test_a_read_is_not_overtaken_by_a_later_forwarded_write(ring: SimulatedRing) -> None:
    keys = keys_led_by(ring, 1, 30, away=True)
    client = ring.connect(1)
    assert client.all(*[("SET", key, "1") for key in keys]) == [b"OK"] * 30
    for key in keys:
        assert client.all(("GET", key), ("INCR", key), ("GET", key)) == [b"1", 2, b"2"]


def test_what_names_no_keys_waits_for_all_and_stops_what_follows(ring: SimulatedRing) -> None:
    away = keys_led_by(ring, 1, 4, away=True)
    client = ring.connect(1)
    slowly(ring, 5_000)
    requests = [
        ("INCR", away[0]), ("INCR", away[1]), ("SELECT", 1), ("INCR", away[0]), ("SELECT", 0), ("INCR", away[0]),
        ("MULTI",), ("INCR", away[2]), ("EXEC",), ("FLUSHALL",), ("INCR", away[0]), ("HELLO", 3), ("PING",),
    ]  # fmt: skip
    replies = client.all(*requests)
    assert replies[:6] == [1, 1, b"OK", 1, b"OK", 2]
    assert replies[6:11] == [b"OK", b"QUEUED", [1], b"OK", 1] and replies[12] == b"PONG"


def test_mistakes_and_many_requests_keep_their_places(ring: SimulatedRing) -> None:
    client = ring.connect(2)
    here, away = keys_led_by(ring, 2, 150), keys_led_by(ring, 2, 200, away=True)
    requests: list[tuple[Any, ...]] = []
    expected: list[Any] = []
    for number in range(UNDER_WAY_MAX + 20):
        requests += [("INCRBY", away[number], number), ("NOSUCH",), ("INCR", away[number], 1, 2), ("GET", away[number])]
        unknown = ErrorText("ERR unknown command 'NOSUCH', with args beginning with: ")
        arity = ErrorText("ERR wrong number of arguments for 'incr' command")
        expected += [number, unknown, arity, b"%d" % number]
    requests += [("HSET", key, "f", "v") for key in here] + [("INCR", key) for key in here]
    wrong_type = ErrorText("WRONGTYPE Operation against a key holding the wrong kind of value")
    expected += [1] * len(here) + [wrong_type] * len(here)
    assert client.all(*requests) == expected


def test_who_leaves_while_requests_are_under_way(ring: SimulatedRing) -> None:
    away = keys_led_by(ring, 1, 5, away=True)
    client = ring.connect(1)
    slowly(ring, 20_000)
    with pytest.raises(AssertionError):
        ring_answer = [("INCR", key) for key in away]
        client._ring = type("Hasty", (), {"run": lambda self, *_: ring.run(3_000)})()  # type: ignore[assignment]
        client.all(*ring_answer)
    client.close()
    ring.run(1_000_000)
    assert [ring.connect(2)("GET", key) for key in away] == [b"1"] * 5
    assert ring.node(1).ring.forwards.stats()["forwards_open"] == 0


def test_a_replica_that_falls_silent_leaves_outcomes_unknown_and_the_rest_in_order(ring: SimulatedRing) -> None:
    [key] = keys_led_by(ring, 3, 1)
    here = keys_led_by(ring, 1, 2)
    client = ring.connect(1)
    for other in ("n1", "n2"):
        ring.cluster.network.clog(other, "n3")
    replies = client.all(("INCR", here[0]), ("INCR", key), ("INCR", here[1]))
    assert replies[0] == replies[2] == 1 and str(replies[1]).startswith("TIMEOUT outcome unknown")


def test_keys_under_way() -> None:
    flight = UnderWay()
    flight.begin([b"a", b"b", b"a"])
    flight.begin([b"c"])
    assert flight.admits([b"d"]) and not flight.admits([b"d", b"a"]) and not flight.admits([])
    waiting = flight.wait([b"c"])
    flight.end([b"a", b"b", b"a"], 10)
    assert waiting.reply is None and flight.admits([b"b"])
    flight.end([b"c"], 10)
    assert waiting.reply == b"" and flight.admits([])


def test_large_replies_under_way_hold_back_what_follows() -> None:
    flight = UnderWay()
    for key in (b"a", b"b", b"c"):
        flight.begin([key])
    flight.end([b"a"], REPLY_BYTES_MAX - 1)
    assert flight.admits([b"d"])
    flight.end([b"b"], 1)
    waiting = flight.wait([b"d"])
    assert not flight.admits([b"d"]) and waiting.reply is None
    flight.end([b"c"], 1)
    assert flight.admits([b"d"]) and waiting.reply == b""
