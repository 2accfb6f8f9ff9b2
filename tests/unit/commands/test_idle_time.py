"""OBJECT IDLETIME: what is a use of a key, and what is none."""

from __future__ import annotations

import pytest

from respkv.testing.node_driver import Client, NodeDriver


def idle_s(client: Client, key: str) -> int:
    answer = client.call("OBJECT", "IDLETIME", key)
    assert answer.startswith(b":"), answer
    return int(answer[1:])


@pytest.mark.parametrize("create", [("SET", "k", "v"), ("SET", "k", "v", "EX", "1000"), ("HSET", "k", "f", "v")])
def test_uses_are_known_once_somebody_has_asked(create: tuple[str, ...]) -> None:
    driver = NodeDriver()
    client = driver.connect()
    client.call(*create)
    driver.pass_time(10_000_000)
    assert idle_s(client, "k") == 10
    read = ("HGET", "k", "f") if create[0] == "HSET" else ("GET", "k")
    assert client.call(*read) == b"$1\r\nv\r\n"
    assert idle_s(client, "k") == 0
    driver.pass_time(5_000_000)
    for words in (
        ("OBJECT", "ENCODING", "k"), ("OBJECT", "REFCOUNT", "k"), ("TTL", "k"), ("PTTL", "k"), ("EXPIRETIME", "k"),
        ("TYPE", "k"), ("EXISTS", "k"), ("SCAN", "0"), ("KEYS", "*"), ("OBJECT", "IDLETIME", "k"),
    ):  # fmt: skip
        client.call(*words)
    assert idle_s(client, "k") == 5
    quiet = driver.connect()
    quiet.call("CLIENT", "NO-TOUCH", "ON")
    assert quiet.call(*read) == b"$1\r\nv\r\n" and idle_s(client, "k") == 5
    assert quiet.call("TOUCH", "k") == b":1\r\n" and idle_s(client, "k") == 0
    driver.pass_time(5_000_000)
    quiet.call("CLIENT", "NO-TOUCH", "OFF")
    assert quiet.call(*read) == b"$1\r\nv\r\n" and idle_s(client, "k") == 0


def test_a_string_asked_about_behaves_as_before() -> None:
    driver = NodeDriver()
    client = driver.connect()
    client.call("SET", "k", "5")
    assert idle_s(client, "k") == 0
    assert client.call("GET", "k") == b"$1\r\n5\r\n" and client.call("INCR", "k") == b":6\r\n"
    assert idle_s(client, "k") == 0
    assert client.call("APPEND", "k", "0") == b":2\r\n" and client.call("TTL", "k") == b":-1\r\n"
    assert idle_s(client, "k") == 0
    assert client.call("EXPIRE", "k", "100") == b":1\r\n" and client.call("PERSIST", "k") == b":1\r\n"
    assert idle_s(client, "k") == 0
    assert client.call("SET", "k", "v") == b"+OK\r\n" and client.call("GET", "k") == b"$1\r\nv\r\n"
    assert idle_s(client, "k") == 0
    assert client.call("DEL", "k") == b":1\r\n" and client.call("OBJECT", "IDLETIME", "k") == b"$-1\r\n"
    assert client.call("DBSIZE") == b":0\r\n"
    driver.node.keyspace.cache.check_invariants()
