"""Keyspace events of respkv and of a Redis side by side, command by command."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from compat.clients import redis_server
from compat.clients.raw import RawConnection
from tests.integration.conftest import ServerProcess

Message = tuple[bytes, bytes]
_HOST = "127.0.0.1"
_PATIENCE_S = 10.0
_END = b"end-of-group"


class Listened:
    """A server whose every keyspace event is heard. Active expiry is off: keys lapse when they are met."""

    def __init__(self, port: int) -> None:
        self.client = RawConnection(_HOST, port)
        self.listener = RawConnection(_HOST, port)
        self.call("CONFIG SET notify-keyspace-events KEAmn")
        self.call("DEBUG SET-ACTIVE-EXPIRE 0")
        self.listener.call("PSUBSCRIBE", "*")

    def call(self, request: str) -> Any:
        return self.client.call(*request.split()).value

    def events(self, requests: list[str]) -> list[Message]:
        """What a group of commands on an empty server made the listener hear."""
        self.call("FLUSHALL")
        self.call("SELECT 0")
        for request in requests:
            if request == "WAIT-3-MS":
                self.let_time_pass()
            else:
                self.call(request)
        self.client.call("PUBLISH", _END, b"")
        heard = []
        while True:
            _, _, channel, payload = (frame.value for frame in self.listener.read().value)
            if channel == _END:
                return heard
            heard.append((channel, payload))

    def let_time_pass(self) -> None:
        """Until the server's clock is 3 ms further."""

        def now_us() -> int:
            seconds, rest = (int(frame.value) for frame in self.call("TIME"))
            return seconds * 1_000_000 + rest

        until_us, give_up = now_us() + 3000, time.monotonic() + _PATIENCE_S
        while now_us() < until_us:
            assert time.monotonic() < give_up, "the clock stands still"

    def close(self) -> None:
        self.client.close()
        self.listener.close()


@pytest.fixture(scope="module")
def ours() -> Iterator[Listened]:
    with tempfile.TemporaryDirectory(prefix="respkv-") as directory:
        process = ServerProcess(Path(directory), enable_debug_command="yes").start()
        try:
            listened = Listened(process.port)
            yield listened
            listened.close()
        finally:
            process.end()


@pytest.fixture(scope="module")
def theirs() -> Iterator[Listened]:
    if redis_server.executable() is None:
        pytest.skip("redis-server is not installed")
    with redis_server.running() as port:
        listened = Listened(port)
        yield listened
        listened.close()


GROUPS = """
SET k v; SET k w; SET k v EX 100; SET k w KEEPTTL; SET k v GET; SET k v NX; SET x v XX; SET n v NX GET
SET k v PX 10000; SET k v EXAT 9999999999; SET k v PXAT 9999999999000
SET k v PXAT 5; EXISTS k
SETEX k 100 v; PSETEX k 10000 v; SETEX k 0 v; SETNX k v; SETNX n v
MSET a 1 b 2 a 3; MSETNX a 1 c 2; MSETNX d 1 e 2; MSET a
GETSET k v; GETSET k w; GETDEL k; GETDEL k
SET k v; GETEX k; GETEX k EX 100; GETEX k PERSIST; GETEX k PERSIST; GETEX k PXAT 5; GETEX k EX 10
APPEND k v; APPEND k v; SETRANGE k 3 v; SETRANGE k 3 ; SETRANGE n 5 x; APPEND k
INCR k; DECR k; INCRBY k 4; DECRBY k 4; INCRBYFLOAT k 1.5; INCR k; SET t text; INCR t; INCRBYFLOAT n 1
SETBIT k 7 1; SETBIT k 7 1; SETBIT k 7 0; GETBIT k 7; GETBIT x 1
BITFIELD k SET u8 0 7; BITFIELD k GET u8 0; BITFIELD k INCRBY u8 8 1; BITFIELD_RO x GET u8 0
BITFIELD x GET u8 0 GET u8 8; BITFIELD n
SET k a; BITOP NOT to k; BITOP AND to k to; BITOP NOT to x; BITOP NOT to x; BITCOUNT x; BITPOS x 1
DEL x; SET k v; DEL k k x; MSET a 1 b 2; UNLINK b a b; HSET h a 1; DEL h
SET k v; EXPIRE k 100; EXPIRE k 10 XX; EXPIRE k 100 NX; PEXPIRE k 10000; EXPIREAT k 9999999999; EXPIRE x 1
SET k v; PEXPIREAT k 9999999999000; PERSIST k; PERSIST k; PERSIST x; EXPIRE k -1; EXPIRE k -1
HSET h a 1; EXPIRE h 100; PERSIST h; PEXPIREAT h 5; EXISTS h
SET k v; RENAME k to; RENAME to to; RENAME x y; SET k w; RENAME k to; HSET h a 1; RENAMENX h to; RENAMENX h n
SET k v; COPY k to; COPY k to; COPY k to REPLACE; COPY k k DB 3; COPY x y; HSET h a 1 b 2; COPY h k REPLACE
SET k v; MOVE k 2; MOVE k 2; HSET h a 1; MOVE h 2; SELECT 2; APPEND k w; HDEL h a; MOVE k 0
SET k v; SWAPDB 0 1; GET k; SELECT 1; SET k w; SWAPDB 0 1; INCR n; SELECT 0; DEL k
HSET h a 1 b 2; HSET h a 1; HMSET h c 3; HSETNX h a 1; HSETNX h d 1; HINCRBY h a 1; HINCRBYFLOAT h a 1.5
HDEL h a; HSET h a 1 b 2 c 3; HDEL h a x; HDEL h x; HDEL h b c; HINCRBY h a 1; HINCRBY h b x; HINCRBYFLOAT g a 1
SET k v; HSET k a 1; HDEL k a; INCR k; HSET h a 1; APPEND h x; GETSET h v; SET h v; HSET h a 1
GET x; MGET a b a; STRLEN x; GETRANGE x 0 1; EXISTS a a; TOUCH a; TYPE x; TTL x; PTTL x; EXPIRETIME x; DUMP x
HGET x a; HMGET x a; HGETALL x; HKEYS x; HVALS x; HLEN x; HEXISTS x a; HSTRLEN x a; HRANDFIELD x; HSCAN x 0; LCS a b
OBJECT ENCODING x; OBJECT IDLETIME x; MEMORY USAGE x; RANDOMKEY; SCAN 0; KEYS *; DBSIZE; WATCH x; UNWATCH
MULTI; SET k v; PUBLISH news x; INCR k; HSET h a 1; HDEL h a; SELECT 3; SET k 1 EX 100; GET x; DEL k; EXEC; SELECT 0
MULTI; SET k v; DISCARD; MULTI; SET k v; NOSUCH; EXEC; WATCH k; SET k v; MULTI; SET k w; EXEC
MULTI; SET a 1; RENAME a b; COPY b c; MOVE c 1; EXPIRE b -1; SET b 1; SWAPDB 0 1; APPEND c x; EXEC
SET k v PX 1; WAIT-3-MS; GET k; GET k
SET k v PX 1; WAIT-3-MS; SET k w
SET k v PX 1; WAIT-3-MS; SET k w NX GET
SET k v PX 1; WAIT-3-MS; INCR k; INCR k
SET k v PX 1; WAIT-3-MS; DEL k; DEL k
SET k v PX 1; WAIT-3-MS; EXPIRE k 10
HSET h a 1; PEXPIRE h 1; WAIT-3-MS; HGET h a
HSET h a 1; PEXPIRE h 1; WAIT-3-MS; HSET h b 1; HLEN h
SET k v PX 1; WAIT-3-MS; MULTI; INCR k; EXEC
SET k v PX 1; WAIT-3-MS; RENAME k j; SET k v PX 1; WAIT-3-MS; COPY k j; SET a v; SET k v PX 1; WAIT-3-MS; COPY a k
"""


@pytest.mark.parametrize("group", GROUPS.strip().split("\n"))
def test_the_same_events_in_the_same_order(ours: Listened, theirs: Listened, group: str) -> None:
    requests = [request.strip() for request in group.split(";")]
    assert ours.events(requests) == theirs.events(requests)


def test_a_restored_key(ours: Listened, theirs: Listened) -> None:
    heard = []
    for server in (ours, theirs):
        server.call("FLUSHALL")
        server.call("HSET h a 1")
        payload = server.call("DUMP h")
        for words in (["to", "0"], ["to", "5000", "REPLACE"], ["to", "5", "REPLACE", "ABSTTL"], ["to", "5", "ABSTTL"]):
            server.client.call("RESTORE", *words[:2], payload, *words[2:])
        heard.append(server.events([]))
    assert heard[0] == heard[1] and (b"__keyevent@0__:restore", b"to") in heard[0]


def test_the_letters_are_answered_in_canonical_order(ours: Listened, theirs: Listened) -> None:
    for letters in ("KEA", "Egx$K", "AKEm", "A", "mdKtxzhslg$eE"):
        answers = []
        for server in (ours, theirs):
            server.call(f"CONFIG SET notify-keyspace-events {letters}")
            answers.append([frame.value for frame in server.call("CONFIG GET notify-keyspace-events")])
            server.call("CONFIG SET notify-keyspace-events KEAmn")
        assert answers[0] == answers[1]


def test_expiry_is_told_without_any_access(ours: Listened, theirs: Listened) -> None:
    for server in (ours, theirs):
        server.call("FLUSHALL")
        server.call("DEBUG SET-ACTIVE-EXPIRE 1")
        server.call("SET k v PX 20")
        heard = [tuple(frame.value for frame in server.listener.read().value[2:]) for _ in range(8)]
        assert [payload for channel, payload in heard if channel == b"__keyspace@0__:k"] == [
            b"new", b"set", b"expire", b"expired",
        ]  # fmt: skip
        server.call("DEBUG SET-ACTIVE-EXPIRE 0")
