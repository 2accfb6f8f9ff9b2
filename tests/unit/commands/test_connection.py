from __future__ import annotations

import pytest

from respkv.replication import levels
from tests.unit.commands.fake_ring import FakeRing, connect, join
from tests.unit.commands.fake_server import NO_AUTH, FakeServer
from tests.unit.commands.harness import ErrorText

HELLO_KEYS = [b"server", b"version", b"proto", b"id", b"mode", b"role", b"modules"]


def test_hello_without_arguments_reports_and_keeps_the_protocol() -> None:
    client = FakeServer().client()
    reply = client("HELLO")
    assert reply[::2] == HELLO_KEYS
    assert reply[1::2] == [b"redis", b"7.4.0", 2, 1, b"standalone", b"master", []]
    client("HELLO", 3)
    assert client("HELLO")[b"proto"] == 3


def test_hello_answers_in_the_new_protocol() -> None:
    client = FakeServer().client()
    reply = client.raw("HELLO", "3")
    assert isinstance(reply, bytes) and reply.startswith(b"%7\r\n$6\r\nserver\r\n$5\r\nredis\r\n")
    reply = client.raw("HELLO", "2")
    assert isinstance(reply, bytes) and reply.startswith(b"*14\r\n")


def test_hello_reports_the_configured_version() -> None:
    client = FakeServer(respkv_reported_version="7.2.9").client()
    assert client("HELLO")[3] == b"7.2.9"


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["1"], "NOPROTO unsupported protocol version"),
        (["4"], "NOPROTO unsupported protocol version"),
        (["x"], "ERR Protocol version is not an integer or out of range"),
        (["3", "FOO"], "ERR Syntax error in HELLO option 'FOO'"),
        (["3", "AUTH", "default"], "ERR Syntax error in HELLO option 'AUTH'"),
        (["3", "SETNAME"], "ERR Syntax error in HELLO option 'SETNAME'"),
        (["3", "SETNAME", "a b"], "ERR Client names cannot contain spaces, newlines or special characters."),
        (["3", "AUTH", "bob", "x"], "WRONGPASS invalid username-password pair or user is disabled."),
    ],
)
def test_a_refused_hello_changes_nothing(words: list[str], text: str) -> None:
    client = FakeServer().client()
    client("CLIENT", "SETNAME", "before")
    assert client("HELLO", *words, *(["SETNAME", "after"] if words == ["4"] else [])) == ErrorText(text)
    assert client.session.proto == 2
    assert client("CLIENT", "GETNAME") == b"before"


def test_hello_authenticates_names_and_switches_in_one_go() -> None:
    client = FakeServer(requirepass="secret").client()
    assert client("HELLO", 3) == ErrorText(
        "NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO <proto> AUTH"
        " <user> <pass> option can be used to authenticate the client and select the RESP protocol version at"
        " the same time"
    )
    assert client("HELLO", 3, "SETNAME", "me", "AUTH", "default", "wrong").startswith("WRONGPASS")
    assert (client.session.proto, client.session.name) == (2, b"")
    assert client("HELLO", 3, "SETNAME", "me", "AUTH", "default", "secret")[b"proto"] == 3
    assert client("CLIENT", "GETNAME") == b"me"


def test_auth_with_a_password() -> None:
    fake = FakeServer(requirepass="secret")
    client = fake.client()
    assert client("PING") == NO_AUTH
    assert client("GET", "k") == NO_AUTH
    assert client("NOSUCH").startswith("ERR unknown command")
    assert client("AUTH", "wrong") == ErrorText("WRONGPASS invalid username-password pair or user is disabled.")
    assert client("AUTH", "bob", "secret").startswith("WRONGPASS")
    assert client("AUTH", "default", "secre").startswith("WRONGPASS")
    assert fake.metrics.denied_auth == 3
    assert client("AUTH", "secret") == b"OK"
    assert client("PING") == b"PONG"
    assert client.session.plain
    # A failed attempt later leaves the connection logged in.
    assert client("AUTH", "nope").startswith("WRONGPASS")
    assert client("PING") == b"PONG"


def test_auth_without_a_password() -> None:
    client = FakeServer().client()
    assert client("AUTH", "any") == ErrorText(
        "ERR AUTH <password> called without any password configured for the default user."
        " Are you sure your configuration is correct?"
    )
    assert client("AUTH", "default", "any") == b"OK"
    assert client("AUTH", "bob", "any").startswith("WRONGPASS")
    assert client("AUTH", "a", "b", "c") == ErrorText("ERR syntax error")
    assert client("AUTH") == ErrorText("ERR wrong number of arguments for 'auth' command")


def test_quit_works_before_authentication_and_closes_behind_its_reply() -> None:
    client = FakeServer(requirepass="secret").client()
    assert client("QUIT") == b"OK"
    assert client.sink.closed == "after output"


def test_ping_and_echo() -> None:
    client = FakeServer().client()
    assert client("PING") == b"PONG"
    assert client.raw("PING", "x\r\n") == b"$3\r\nx\r\n\r\n"
    assert client("PING", "a", "b") == ErrorText("ERR wrong number of arguments for 'ping' command")
    assert client("ECHO", bytes(range(256))) == bytes(range(256))


def test_ping_of_a_subscriber() -> None:
    client = FakeServer().client()
    client("SUBSCRIBE", "c")
    assert client("PING") == [b"pong", b""]
    assert client("PING", "x") == [b"pong", b"x"]
    client("RESET")
    client("HELLO", 3)
    client("SUBSCRIBE", "c")
    assert client("PING") == b"PONG"


def test_select() -> None:
    client = FakeServer().client()
    client("SET", "k", "zero")
    assert client("SELECT", 15) == b"OK"
    assert client("GET", "k") is None
    assert client("SELECT", 16) == ErrorText("ERR DB index is out of range")
    assert client("SELECT", -1) == ErrorText("ERR DB index is out of range")
    assert client("SELECT", "a") == ErrorText("ERR value is not an integer or out of range")
    assert client("SELECT", 1 << 40).startswith("ERR value is out of range, value must between")
    assert client.session.db == 15
    client("SELECT", 0)
    assert client("GET", "k") == b"zero"


def test_reset_leaves_everything() -> None:
    fake = FakeServer(requirepass="secret")
    client = fake.client()
    client("HELLO", 3, "AUTH", "default", "secret", "SETNAME", "me")
    client("SELECT", 3)
    client("CLIENT", "NO-EVICT", "ON")
    client("CLIENT", "NO-TOUCH", "ON")
    client("WATCH", "k")
    client("SUBSCRIBE", "c")
    client("PSUBSCRIBE", "p*")
    client("SSUBSCRIBE", "s")
    client("MONITOR")
    client("MULTI")
    session = client.session
    ident = session.id
    assert client("RESET") == b"RESET"
    assert (session.proto, session.db, session.name, session.authenticated) == (2, 0, b"", False)
    assert not (session.channels or session.patterns or session.watched or session.is_monitor)
    assert session.multi is None and not session.no_evict and not session.no_touch
    assert not fake.monitors and fake.dispatcher.plain
    assert fake.pubsub.stats()["clients"] == 0
    assert client("PING") == NO_AUTH
    client("AUTH", "secret")
    assert client("CLIENT", "ID") == ident


def test_reset_ends_reply_off() -> None:
    client = FakeServer().client()
    assert client("CLIENT", "REPLY", "OFF") is client.SILENT
    assert client("PING") is client.SILENT
    client("RESET")
    assert client("PING") == b"PONG"


def test_sentinel_is_unknown() -> None:
    client = FakeServer().client()
    assert client("SENTINEL", "MASTERS") == ErrorText(
        "ERR unknown command 'SENTINEL', with args beginning with: 'MASTERS' "
    )


# -- on a ring ---------------------------------------------------------------------------------------


def test_the_cluster_face_has_one_database() -> None:
    face = connect(join(FakeServer(), FakeRing()))
    assert face("SELECT", 1) == ErrorText("ERR SELECT is not allowed in cluster mode")
    assert face("SELECT", "x") == ErrorText("ERR value is not an integer or out of range")
    assert face("SELECT", 0) == b"OK" and face.session.db == 0
    plain = connect(join(FakeServer(), FakeRing()), cluster_face=False)
    assert plain("SELECT", 1) == b"OK" and plain.session.db == 1


@pytest.mark.parametrize(("cluster_face", "mode"), [(True, b"cluster"), (False, b"standalone")])
def test_hello_tells_the_face(cluster_face: bool, mode: bytes) -> None:
    client = connect(join(FakeServer(), FakeRing()), cluster_face=cluster_face)
    assert client("HELLO", 3)[b"mode"] == mode


def test_a_name_in_hello_may_choose_a_level() -> None:
    client = connect(join(FakeServer(), FakeRing()))
    client("HELLO", 3, "SETNAME", "app;level=eventual")
    assert client.session.level == levels.EVENTUAL and client("CLIENT", "GETNAME") == b"app;level=eventual"
    client("CLIENT", "SETNAME", "app;level=all")
    assert client.session.level == levels.ALL
    assert client("HELLO", 2, "SETNAME", "app;level=most").startswith("ERR unknown level 'most'")
    assert client.session.proto == 3 and client.session.level == levels.ALL


def test_reset_forgets_what_a_connection_chose_on_a_ring() -> None:
    client = connect(join(FakeServer(), FakeRing()))
    session = client.session
    client("RKV.LEVEL", "ALL")
    client("READONLY")
    session.last_op = {"acked": 2}
    client("RESET")
    assert (session.level, session.readonly, session.last_op) == (levels.DEFAULT, False, {})
