from __future__ import annotations

import pytest

from respkv.commands import pubsub as ps
from respkv.commands.pubsub import PubSub, event_bits
from respkv.env.rng import seeded
from respkv.testing.node_driver import NodeDriver
from tests.unit.commands.fake_server import FakeServer
from tests.unit.commands.harness import ErrorText


def test_subscribe_answers_once_per_channel() -> None:
    fake = FakeServer()
    client = fake.client()
    assert client.all("SUBSCRIBE", "a", "b", "a") == [
        [b"subscribe", b"a", 1],
        [b"subscribe", b"b", 2],
        [b"subscribe", b"a", 2],
    ]
    assert client.all("PSUBSCRIBE", "n*") == [[b"psubscribe", b"n*", 3]]
    assert client.all("SSUBSCRIBE", "s") == [[b"ssubscribe", b"s", 1]]
    assert client.all("UNSUBSCRIBE", "a", "x") == [[b"unsubscribe", b"a", 2], [b"unsubscribe", b"x", 2]]
    assert client.all("UNSUBSCRIBE") == [[b"unsubscribe", b"b", 1]]
    assert client.all("UNSUBSCRIBE") == [[b"unsubscribe", None, 1]]
    assert client.all("PUNSUBSCRIBE") == [[b"punsubscribe", b"n*", 0]]
    assert client.all("PUNSUBSCRIBE") == [[b"punsubscribe", None, 0]]
    assert client.all("SUNSUBSCRIBE") == [[b"sunsubscribe", b"s", 0]]
    assert client.all("SUNSUBSCRIBE") == [[b"sunsubscribe", None, 0]]
    fake.pubsub.check_invariants()
    assert fake.pubsub.stats()["clients"] == 0


def test_messages_reach_subscribers_in_their_protocol() -> None:
    fake = FakeServer()
    old, new, sender = (fake.client(f"127.0.0.1:{port}") for port in (1, 2, 3))
    old("SUBSCRIBE", "news.it")
    new("HELLO", 3)
    new("SUBSCRIBE", "news.it")
    new("PSUBSCRIBE", "news.*")
    assert sender("PUBLISH", "news.it", "hi") == 3
    assert old.pushed() == [[b"message", b"news.it", b"hi"]]
    assert new.sink.data == (
        b">3\r\n$7\r\nmessage\r\n$7\r\nnews.it\r\n$2\r\nhi\r\n"
        b">4\r\n$8\r\npmessage\r\n$6\r\nnews.*\r\n$7\r\nnews.it\r\n$2\r\nhi\r\n"
    )
    new.sink.data = b""
    assert sender("PUBLISH", "news.fr", "x") == 1
    assert sender("PUBLISH", "other", "x") == 0
    assert old.sink.data == b""


def test_resp3_answers_are_pushes_and_other_commands_go_on() -> None:
    client = FakeServer().client()
    client("HELLO", 3)
    assert client.raw("SUBSCRIBE", "a") == b">3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n"
    assert client.raw("UNSUBSCRIBE") == b">3\r\n$11\r\nunsubscribe\r\n$1\r\na\r\n:0\r\n"
    assert client.raw("UNSUBSCRIBE") == b">3\r\n$11\r\nunsubscribe\r\n_\r\n:0\r\n"
    client("SUBSCRIBE", "a")
    assert client("SET", "k", "v") == b"OK"


def test_resp2_subscribers_may_do_little_else() -> None:
    client = FakeServer().client()
    client("SUBSCRIBE", "a")
    assert client("GET", "k") == ErrorText(
        "ERR Can't execute 'get': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are allowed"
        " in this context"
    )
    assert not client.session.plain
    client("UNSUBSCRIBE")
    assert client("GET", "k") is None
    assert client.session.plain


def test_shard_channels_are_apart() -> None:
    fake = FakeServer()
    one, two = fake.client("127.0.0.1:1"), fake.client("127.0.0.1:2")
    one("SSUBSCRIBE", "c")
    assert two("PUBLISH", "c", "x") == 0
    assert two("SPUBLISH", "c", "y") == 1
    assert two("SPUBLISH", "d", "y") == 0
    assert one.pushed() == [[b"smessage", b"c", b"y"]]


def test_introspection() -> None:
    fake = FakeServer()
    one, two, three = (fake.client(f"127.0.0.1:{port}") for port in (1, 2, 3))
    one("SUBSCRIBE", "a1", "b1")
    two("SUBSCRIBE", "a1")
    two("PSUBSCRIBE", "x*")
    two("SSUBSCRIBE", "s1")
    one("PSUBSCRIBE", "x*", "y*")
    assert three("PUBSUB", "CHANNELS") == [b"a1", b"b1"]
    assert three("PUBSUB", "CHANNELS", "a*") == [b"a1"]
    assert three("PUBSUB", "NUMSUB") == []
    assert three("PUBSUB", "NUMSUB", "a1", "nope") == [b"a1", 2, b"nope", 0]
    assert three("PUBSUB", "NUMPAT") == 2
    assert three("PUBSUB", "SHARDCHANNELS") == [b"s1"]
    assert three("PUBSUB", "SHARDCHANNELS", "z*") == []
    assert three("PUBSUB", "SHARDNUMSUB", "s1", "a1") == [b"s1", 1, b"a1", 0]
    for word in ("CHANNELS", "channels", "ShardChannels"):
        assert three("PUBSUB", word, "a", "b") == ErrorText(
            f"ERR unknown subcommand or wrong number of arguments for '{word}'. Try PUBSUB HELP."
        )
    assert three("PUBSUB", "X") == ErrorText("ERR unknown subcommand 'X'. Try PUBSUB HELP.")
    assert three("PUBSUB", "HELP")[0].startswith(b"PUBSUB <subcommand>")
    assert fake.pubsub.stats() == {"channels": 2, "patterns": 2, "shard_channels": 1, "clients": 2, "published": 0}


def test_a_session_that_ends_leaves_nothing() -> None:
    fake = FakeServer()
    client = fake.client()
    client("SUBSCRIBE", "a")
    client("PSUBSCRIBE", "b*")
    client("SSUBSCRIBE", "c")
    fake.pubsub.drop_session(client.session)
    assert fake.pubsub.stats() == {"channels": 0, "patterns": 0, "shard_channels": 0, "clients": 0, "published": 0}
    fake.pubsub.check_invariants()


def test_a_sink_that_drops_its_session_does_not_disturb_the_delivery() -> None:
    fake = FakeServer()
    clients = [fake.client(f"127.0.0.1:{port}") for port in (1, 2, 3)]
    for client in clients:
        client("SUBSCRIBE", "c")
        client("PSUBSCRIBE", "c*")
    first = clients[0].session
    clients[0].sink.push = lambda data: fake.pubsub.drop_session(first)  # type: ignore[method-assign]
    fake.client("127.0.0.1:9")("PUBLISH", "c", "x")
    assert len(clients[1].pushed()) == len(clients[2].pushed()) == 2
    fake.pubsub.check_invariants()


def test_reply_off_does_not_silence_subscriptions() -> None:
    fake = FakeServer()
    client = fake.client()
    client("CLIENT", "REPLY", "OFF")
    assert client("SUBSCRIBE", "a", "b") is client.SILENT
    assert client.pushed() == [[b"subscribe", b"a", 1], [b"subscribe", b"b", 2]]


def test_inside_multi() -> None:
    fake = FakeServer()
    client = fake.client()
    client("MULTI")
    client("SUBSCRIBE", "a")
    client("SUBSCRIBE", "a", "b")
    client("PUBLISH", "nobody", "x")
    one, two, three = client("EXEC")
    assert one == [b"subscribe", b"a", 1]
    assert "not allowed inside a transaction" in str(two)
    assert three == 0
    client("RESET")
    client("HELLO", 3)
    client("MULTI")
    client("SUBSCRIBE", "a")
    (only,) = client("EXEC")
    assert "not allowed inside a transaction" in str(only)
    assert fake.pubsub.stats()["clients"] == 0


@pytest.mark.parametrize(
    ("letters", "events"),
    [
        ("", []),
        ("A", []),
        ("K", []),
        ("Kg", [[b"message", b"__keyspace@3__:k", b"del"]]),
        ("Eg", [[b"message", b"__keyevent@3__:del", b"k"]]),
        ("AKE", [[b"message", b"__keyspace@3__:k", b"del"], [b"message", b"__keyevent@3__:del", b"k"]]),
        ("KE$x", []),
    ],
)
def test_keyspace_events(letters: str, events: list[list[bytes]]) -> None:
    fake = FakeServer()
    client = fake.client()
    client("SUBSCRIBE", "__keyspace@3__:k", "__keyevent@3__:del")
    fake.pubsub.set_events(letters)
    fake.pubsub.notify(ps.GENERIC, b"del", b"k", 3)
    assert client.pushed() == events


def test_event_letters() -> None:
    assert event_bits("A") == event_bits("g$lshzxetd")
    assert not event_bits("A") & (ps.KEY_MISS | ps.NEW_KEY | ps.KEYSPACE | ps.KEYEVENT)
    assert event_bits("KEmn?") == ps.KEYSPACE | ps.KEYEVENT | ps.KEY_MISS | ps.NEW_KEY


def test_random_histories_keep_the_invariants() -> None:
    rng = seeded(5)
    fake = FakeServer()
    clients = [fake.client(f"127.0.0.1:{port}") for port in range(6)]
    expected: list[set[bytes]] = [set() for _ in clients]
    names = [b"c%d" % number for number in range(5)]
    for _ in range(600):
        at, name = rng.randrange(6), rng.choice(names)
        client = clients[at]
        step = rng.random()
        if step < 0.4:
            client.all("SUBSCRIBE", name)
            expected[at].add(name)
        elif step < 0.7:
            client.all("UNSUBSCRIBE", name)
            expected[at].discard(name)
        elif step < 0.75:
            fake.pubsub.drop_session(client.session)
            expected[at].clear()
        else:
            wanted = sum(name in mine for mine in expected)
            assert fake.pubsub.publish(name, b"x") == wanted
        fake.pubsub.check_invariants()
    assert PubSub().publish(b"c", b"x") == 0


def test_a_resp3_subscriber_gets_its_own_messages_after_the_reply() -> None:
    driver = NodeDriver(notify_keyspace_events="KA")
    client = driver.connect()
    client.call("HELLO", 3)
    client.call("SUBSCRIBE", "ch", "__keyspace@0__:k")
    hi = b">3\r\n$7\r\nmessage\r\n$2\r\nch\r\n$2\r\nhi\r\n"
    assert client.call("PUBLISH", "ch", "hi") == b":1\r\n" + hi
    assert client.call("SET", "k", "v") == (
        b"+OK\r\n>3\r\n$7\r\nmessage\r\n$16\r\n__keyspace@0__:k\r\n$3\r\nset\r\n"
    )
    client.call("MULTI")
    client.call("PUBLISH", "ch", "hi")
    client.call("PING")
    assert client.call("EXEC") == b"*2\r\n:1\r\n+PONG\r\n" + hi
    assert driver.connect().call("PUBLISH", "ch", "hi") == b":1\r\n"
    assert client.received == hi


def test_messages_to_oneself_come_when_replies_are_off() -> None:
    driver = NodeDriver()
    client = driver.connect()
    client.call("HELLO", 3)
    client.call("SUBSCRIBE", "ch")
    client.call("CLIENT", "REPLY", "OFF")
    assert client.call("PUBLISH", "ch", "hi") == b">3\r\n$7\r\nmessage\r\n$2\r\nch\r\n$2\r\nhi\r\n"


def test_a_further_subscription_is_confirmed() -> None:
    client = NodeDriver().connect()
    client.call("HELLO", 3)
    assert client.call("SUBSCRIBE", "a") == b">3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n"
    assert client.call("SUBSCRIBE", "b") == b">3\r\n$9\r\nsubscribe\r\n$1\r\nb\r\n:2\r\n"
