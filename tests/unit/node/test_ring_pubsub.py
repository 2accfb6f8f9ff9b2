"""Messages over a ring: who is sent what, what is counted, and the bounds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from respkv.base.errors import ProtocolError
from respkv.base.slots import slot_of
from respkv.commands.pubsub import PubSub
from respkv.node.ring_pubsub import MESSAGE_COST, NAME_COST, RingPubSub
from respkv.wire.messages import CHANNEL, EVERYTHING, PATTERN, SHARD_CHANNEL, Interest, Publish
from tests.unit.commands.fake_server import FakeServer
from tests.unit.node.simulated_ring import Connection, SimulatedRing

# -- one node, by itself -------------------------------------------------------------------------------


class Rig:
    """A node with clients; what it sends is kept by peer."""

    def __init__(self, *, limit: int = 1 << 20, peers: tuple[int, ...] = (2, 3)) -> None:
        self.fake = FakeServer()
        self.fake.pubsub = PubSub()
        self.sent: list[tuple[int, Any]] = []
        self.full: list[int] = []
        self.spare = 1000
        self.ring = RingPubSub(
            self.fake.pubsub, send=self.send, spare=lambda short: 0 if short in self.full else self.spare, limit=limit
        )
        for short in peers:
            self.ring.on_link(short, True)
        self.taken()

    def send(self, short: int, message: Any) -> bool:
        self.sent.append((short, message))
        return True

    def taken(self) -> list[tuple[int, Any]]:
        self.ring.seal()
        self.ring.check_invariants()
        taken, self.sent = self.sent, []
        return taken


def test_peers_are_told_what_changes_once_a_cycle() -> None:
    rig = Rig()
    first, second = rig.fake.client(), rig.fake.client()
    first.all("SUBSCRIBE", "a", "b")
    second.all("SUBSCRIBE", "a")
    second.all("PSUBSCRIBE", "p*")
    second.all("SSUBSCRIBE", "s")
    message = Interest(
        False, ((CHANNEL, b"a"), (CHANNEL, b"a"), (CHANNEL, b"b"), (PATTERN, b"p*"), (SHARD_CHANNEL, b"s"))
    )
    assert rig.taken() == [(2, message), (3, message)]
    assert rig.taken() == []
    first.all("UNSUBSCRIBE", "b", "a")
    first.all("SUBSCRIBE", "b")
    first.all("SUBSCRIBE", "b")
    message = Interest(False, (), ((CHANNEL, b"a"),))
    assert rig.taken() == [(2, message), (3, message)]


def test_a_new_link_is_told_everything() -> None:
    rig = Rig(peers=(2,))
    client = rig.fake.client()
    client.all("SUBSCRIBE", "a")
    rig.taken()
    client.all("PSUBSCRIBE", "b")
    rig.ring.on_link(3, True)
    assert rig.taken() == [
        (3, Interest(True, ((CHANNEL, b"a"),))),
        (2, Interest(False, ((PATTERN, b"b"),))),
        (3, Interest(False, ((PATTERN, b"b"),))),
    ]


def test_a_message_goes_where_it_is_wanted() -> None:
    rig = Rig()
    rig.ring.on_interest(2, Interest(True, ((CHANNEL, b"news"), (CHANNEL, b"news"), (PATTERN, b"n*"))))
    rig.ring.on_interest(3, Interest(True, ((SHARD_CHANNEL, b"news"),)))
    client = rig.fake.client()
    assert client("PUBLISH", "news", "hello") == 3
    assert client("PUBLISH", "night", "hello") == 1
    assert client("PUBLISH", "else", "hello") == 0
    assert client("SPUBLISH", "news", "hello") == 1
    assert rig.taken() == [
        (2, Publish(CHANNEL, b"news", b"hello")),
        (2, Publish(CHANNEL, b"night", b"hello")),
        (3, Publish(SHARD_CHANNEL, b"news", b"hello")),
    ]
    client.session.cluster_face = True
    assert client("PUBLISH", "news", "hello") == 0 and len(rig.taken()) == 1
    client.session.cluster_face = False
    rig.ring.on_link(2, False)
    assert client("PUBLISH", "news", "hello") == 0 and rig.taken() == []


def test_messages_wait_while_a_peer_has_no_room_and_are_dropped_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("respkv.node.ring_pubsub.BACKLOG_BYTES", 10 * (MESSAGE_COST + 2))
    rig = Rig()
    for short in (2, 3):
        rig.ring.on_interest(short, Interest(True, ((CHANNEL, b"c"),)))
    client = rig.fake.client()
    rig.full = [2]
    assert [client("PUBLISH", "c", at) for at in range(8)] == [2] * 8
    assert [short for short, _ in rig.taken()] == [3] * 8
    assert [client("PUBLISH", "c", at) for at in (8, 9)] == [2] * 2 and len(rig.taken()) == 2
    assert client("PUBLISH", "c", "x") == 1 and len(rig.taken()) == 1
    stats = rig.ring.stats()
    assert stats["publishes_dropped"] == 1 and stats["publishes_waiting"] == 10
    rig.full, rig.spare = [], 4
    assert client("PUBLISH", "c", "y") == 1
    assert [message.message for short, message in rig.taken() if short == 2] == [b"0", b"1", b"2", b"3"]
    assert len(rig.taken()) == 4 and len(rig.taken()) == 2 and rig.taken() == []
    rig.full = [2]
    client("PUBLISH", "c", "z")
    rig.taken()
    rig.ring.on_link(2, False)
    assert rig.taken() == [] and rig.ring.stats()["publish_bytes_waiting"] == 0


def test_what_comes_is_delivered_and_not_passed_on() -> None:
    rig = Rig()
    rig.ring.on_interest(2, Interest(True, ((CHANNEL, b"c"),)))
    client = rig.fake.client()
    client.all("SUBSCRIBE", "c")
    client.all("SSUBSCRIBE", "c")
    rig.taken()
    rig.ring.on_publish(3, Publish(CHANNEL, b"c", b"one"))
    rig.ring.on_publish(3, Publish(SHARD_CHANNEL, b"c", b"two"))
    assert client.pushed() == [[b"message", b"c", b"one"], [b"smessage", b"c", b"two"]]
    assert rig.taken() == []


def test_subscribers_of_the_whole_ring_are_told_on_the_plain_face() -> None:
    rig = Rig()
    client = rig.fake.client()
    other = rig.fake.client()
    other.all("SUBSCRIBE", "a")
    other.all("PSUBSCRIBE", "p*")
    rig.ring.on_interest(
        2, Interest(True, ((CHANNEL, b"a"), (CHANNEL, b"b"), (PATTERN, b"p*"), (PATTERN, b"q*"), (SHARD_CHANNEL, b"s")))
    )
    assert sorted(client("PUBSUB", "CHANNELS")) == [b"a", b"b"] and client("PUBSUB", "CHANNELS", "b*") == [b"b"]
    assert client("PUBSUB", "NUMSUB", "a", "b", "c") == [b"a", 2, b"b", 1, b"c", 0]
    assert client("PUBSUB", "NUMPAT") == 2
    assert client("PUBSUB", "SHARDCHANNELS") == [b"s"] and client("PUBSUB", "SHARDNUMSUB", "s") == [b"s", 1]
    client.session.cluster_face = True
    assert client("PUBSUB", "CHANNELS") == [b"a"] and client("PUBSUB", "NUMSUB", "a", "b") == [b"a", 1, b"b", 0]
    assert client("PUBSUB", "NUMPAT") == 1 and client("PUBSUB", "SHARDNUMSUB", "s") == [b"s", 0]


def test_too_many_names_become_everything_and_come_back() -> None:
    rig = Rig(limit=4 * (NAME_COST + 1))
    client = rig.fake.client()
    client.all("SUBSCRIBE", "a", "b", "c", "d")
    assert all(not message.reset for _, message in rig.taken())
    client.all("SUBSCRIBE", "e")
    everything = Interest(True, ((EVERYTHING, b""),))
    assert rig.taken() == [(2, everything), (3, everything)]
    client.all("SUBSCRIBE", "f")
    assert rig.taken() == []
    client.all("UNSUBSCRIBE", "f", "e", "d")
    assert rig.taken() == []
    client.all("UNSUBSCRIBE", "c")
    whole = Interest(True, ((CHANNEL, b"a"), (CHANNEL, b"b")))
    assert rig.taken() == [(2, whole), (3, whole)]


def test_a_peer_that_wants_everything_is_sent_everything() -> None:
    rig = Rig()
    rig.ring.on_interest(2, Interest(True, ((EVERYTHING, b""),)))
    client = rig.fake.client()
    assert client("PUBLISH", "x", "y") == 0 and client("SPUBLISH", "x", "y") == 0
    assert [short for short, _ in rig.taken()] == [2, 2]


@pytest.mark.parametrize(
    "message",
    [
        Interest(False, ((7, b"x"),)), Interest(False, (), ((CHANNEL, b"never"),)), Interest(False, (), ((9, b"x"),)),
        Interest(True, tuple((CHANNEL, b"%d" % at) for at in range(50))),
    ],
)  # fmt: skip
def test_nonsense_closes_the_link(message: Interest) -> None:
    rig = Rig(limit=20 * NAME_COST)
    with pytest.raises(ProtocolError):
        rig.ring.on_interest(2, message)


# -- nodes that talk -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ring() -> Iterator[SimulatedRing]:
    yield SimulatedRing(3, notify_keyspace_events="KEA")


def listen(ring: SimulatedRing, number: int, *words: str, face: str = "plain") -> Connection:
    """A connection that has subscribed, and all nodes know."""
    client = ring.connect(number, face=face)
    assert client(*words)[0].endswith(b"subscribe")
    ring.run(20_000)
    return client


def test_a_message_reaches_every_node(ring: SimulatedRing) -> None:
    clients = [listen(ring, number, "SUBSCRIBE", "news") for number in (1, 2, 3)]
    pattern = listen(ring, 3, "PSUBSCRIBE", "n?ws")
    publisher = ring.connect(2)
    assert publisher.all(*[("PUBLISH", "news", str(at)) for at in range(20)]) == [4] * 20
    ring.run(50_000)
    expected = [[b"message", b"news", b"%d" % at] for at in range(20)]
    assert [client.come() for client in clients] == [expected] * 3
    assert [row[3] for row in pattern.come()] == [b"%d" % at for at in range(20)]
    for client in (*clients, pattern):
        client.close()
    ring.run(50_000)
    assert publisher("PUBLISH", "news", "nobody") == 0 and publisher("PUBSUB", "NUMSUB", "news") == [b"news", 0]


def test_an_event_is_told_once_whoever_listens_where(ring: SimulatedRing) -> None:
    listeners = [listen(ring, number, "PSUBSCRIBE", "__keyevent@0__:*") for number in (1, 2, 3)]
    client = ring.connect(1)
    keys = [f"key-{at}" for at in range(10)]
    assert client.all(*[("SET", key, "v", "PX", 300) for key in keys]) == [b"OK"] * 10
    ring.run(1_500_000)
    for listener in listeners:
        told = sorted((row[2].split(b":")[1], row[3]) for row in listener.come())
        names = sorted(key.encode() for key in keys)
        expected = [(event, name) for event in (b"expire", b"expired", b"set") for name in names]
        assert [row for row in told if row[0] != b"new"] == expected
        listener.close()
    ring.run(50_000)


def test_shard_channels(ring: SimulatedRing) -> None:
    listeners = [listen(ring, number, "SSUBSCRIBE", "orders", face="cluster") for number in (1, 3)]
    publisher = ring.connect(2)
    assert publisher("SPUBLISH", "orders", "x") == 2
    ring.run(20_000)
    assert [listener.come() for listener in listeners] == [[[b"smessage", b"orders", b"x"]]] * 2
    for listener in listeners:
        listener.close()
    assert slot_of(b"orders") >= 0


def test_a_node_that_comes_back_hears_again(ring: SimulatedRing) -> None:
    listener = listen(ring, 1, "SUBSCRIBE", "news")
    machine = ring.cluster.machines[2]
    machine.kill()
    ring.run(3_000_000)
    machine.start()
    ring.run(20_000_000, ring.cluster._formed)
    ring.run(100_000)
    assert ring.connect(3)("PUBLISH", "news", "back") == 1
    ring.run(20_000)
    assert listener.come() == [[b"message", b"news", b"back"]]
