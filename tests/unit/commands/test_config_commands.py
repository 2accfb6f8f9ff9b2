from __future__ import annotations

from tests.unit.commands.fake_server import FakeServer
from tests.unit.commands.harness import ErrorText


def test_get() -> None:
    client = FakeServer().client()
    assert client("CONFIG", "GET", "maxclients") == [b"maxclients", b"10000"]
    assert client("CONFIG", "GET", "nope") == []
    reply = client("CONFIG", "GET", "appendf*", "port", "PORT")
    found = dict(zip(reply[::2], reply[1::2]))
    assert found[b"port"] == b"6379" and found[b"appendfsync"] == b"everysec" and len(reply) == 2 * len(found)
    client("HELLO", 3)
    assert client("CONFIG", "GET", "maxclients") == {b"maxclients": b"10000"}
    assert client.raw("CONFIG", "GET", "nope") == b"%0\r\n"


def test_get_echoes_a_full_name_as_it_was_asked() -> None:
    client = FakeServer().client()
    assert client("CONFIG", "GET", "MAXCLIENTS") == [b"MAXCLIENTS", b"10000"]
    assert client("CONFIG", "GET", "MAX[C]LIENTS") == [b"maxclients", b"10000"]
    assert client("CONFIG", "GET", "zzz", "TimeOut", "timeout") == [b"TimeOut", b"0"]
    client("HELLO", 3)
    assert client("CONFIG", "GET", "SlaveOf") == {b"SlaveOf": b""}


def test_set_is_all_or_nothing() -> None:
    client = FakeServer().client()
    assert client("CONFIG", "SET", "maxclients", 50, "appendfsync", "always") == b"OK"
    assert client("CONFIG", "GET", "maxclients") == [b"maxclients", b"50"]
    assert client("CONFIG", "SET", "maxclients", 60, "appendfsync", "x").startswith(
        "ERR CONFIG SET failed (possibly related to argument 'appendfsync') - "
    )
    assert client("CONFIG", "GET", "maxclients") == [b"maxclients", b"50"]
    assert client("CONFIG", "SET", "a", "b", "c") == ErrorText("ERR syntax error")
    assert client("CONFIG", "SET", "nope", "x") == ErrorText(
        "ERR Unknown option or number of arguments for CONFIG SET - 'nope'"
    )


def test_protected_settings_look_at_where_the_client_is() -> None:
    fake = FakeServer(enable_protected_configs="local")
    assert fake.client("10.0.0.1:1")("CONFIG", "SET", "dir", "/x") != b"OK"
    assert fake.client("127.0.0.1:1")("CONFIG", "SET", "dbfilename", "x.rdb") in (
        b"OK",
        ErrorText("ERR CONFIG SET failed (possibly related to argument 'dbfilename') - can't set immutable config"),
    )


def test_setting_a_password_locks_out_new_connections() -> None:
    fake = FakeServer()
    client = fake.client()
    assert client("CONFIG", "SET", "requirepass", "secret") == b"OK"
    assert client("PING") == b"PONG"
    assert fake.client("127.0.0.1:2")("PING").startswith("NOAUTH")


def test_rewrite() -> None:
    fake = FakeServer()
    client = fake.client()
    assert client("CONFIG", "REWRITE") == b"OK"
    fake.config_file = ""
    assert client("CONFIG", "REWRITE") == ErrorText("ERR The server is running without a config file")


def test_resetstat() -> None:
    fake = FakeServer()
    client = fake.client()
    client("SET", "k", "v")
    client("GET", "k")
    client("GET", "absent")
    client("NOSUCH")
    assert fake.keyspace.hits and fake.keyspace.misses and fake.metrics.error_replies
    assert client("CONFIG", "RESETSTAT") == b"OK"
    assert (fake.keyspace.hits, fake.keyspace.misses, fake.metrics.error_replies) == (0, 0, 0)
    assert fake.metrics.commands["get"].calls == 0
