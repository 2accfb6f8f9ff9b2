"""What applications do with redis-py, in both protocols: the client's parsers and pools must find what they expect."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    ExecAbortError,
    LockNotOwnedError,
    NoScriptError,
    ResponseError,
    WatchError,
)
from redis.retry import Retry

from tests.integration.conftest import ServerProcess

Client = Any  # redis-py's own types do not tell sync from async replies.
PATIENCE_S = 10.0


@pytest.fixture(params=[2, 3], ids=["resp2", "resp3"])
def protocol(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture
def client(respkv_server: ServerProcess, protocol: int) -> Iterator[Client]:
    """A client whose replies are text, on an empty server."""
    with respkv_server.client(protocol=protocol, decode_responses=True) as client:
        client.flushall()
        yield client


@pytest.fixture
def binary(respkv_server: ServerProcess, protocol: int) -> Iterator[Client]:
    """A client whose replies are bytes, on an empty server."""
    with respkv_server.client(protocol=protocol) as client:
        client.flushall()
        yield client


def within_patience(probe: Callable[[], Any]) -> Any:
    """The first true value of a probe; AssertionError when none comes in time."""
    give_up = time.monotonic() + PATIENCE_S
    while not (value := probe()):
        assert time.monotonic() < give_up, "it does not happen"
        time.sleep(0.005)
    return value


def test_strings(client: Client) -> None:
    assert client.set("k", "wért", ex=100, nx=True) is True
    assert client.set("k", "other", nx=True) is None
    assert client.set("k", "new", xx=True, get=True, keepttl=True) == "wért"
    assert client.get("k") == "new" and client["k"] == "new"
    assert 90 < client.ttl("k") <= 100
    assert client.append("k", "er") == 5 and client.getrange("k", 1, -1) == "ewer" and client.setrange("k", 0, "F") == 5
    assert client.incr("n") == 1 and client.incrby("n", 9) == 10 and client.decr("n") == 9
    assert client.incrbyfloat("f", 0.1) == pytest.approx(0.1) and client.incrbyfloat("f", 0.2) == pytest.approx(0.3)
    assert client.mset({"a": 1, "b": 2}) is True and client.mget("a", "x", "b") == ["1", None, "2"]
    assert client.msetnx({"c": 3, "a": 9}) in (False, 0)
    assert client.getdel("a") == "1" and client.getex("b", ex=50) == "2" and client.ttl("b") in (49, 50)
    assert client.getset("b", "3") == "2" and client.strlen("b") == 1
    assert client.setbit("bits", 7, 1) == 0 and client.getbit("bits", 7) == 1 and client.bitcount("bits") == 1
    assert client.bitpos("bits", 1) == 7 and client.bitop("NOT", "inv", "bits") == 1
    assert client.bitfield("field").set("u8", "#1", 200).incrby("u8", "#1", 100, overflow="SAT").execute() == [0, 255]
    assert client.lcs("k", "k") == "Fewer" and client.lcs("k", "k", len=True) == 5


@pytest.mark.filterwarnings("ignore:.*experimental:UserWarning")
def test_compare_and_set(client: Client) -> None:
    client.set("k", "v1")
    assert client.set("k", "v2", ifeq="v1") is True and client.set("k", "v3", ifeq="v1") is None
    assert client.digest("k") is not None and len(client.digest("k")) == 16
    assert client.delex("k", ifeq="other") == 0 and client.delex("k", ifeq="v2") == 1
    assert client.msetex({"a": "1", "b": "2"}, ex=100) == 1 and client.ttl("b") in (99, 100)


def test_hashes(client: Client) -> None:
    assert client.hset("h", mapping={"a": 1, "b": "zwei"}) == 2 and client.hset("h", "a", "2") == 0
    assert client.hgetall("h") == {"a": "2", "b": "zwei"} and client.hgetall("none") == {}
    assert client.hget("h", "a") == "2" and client.hmget("h", ["a", "x"]) == ["2", None]
    assert client.hexists("h", "a") and client.hlen("h") == 2 and client.hsetnx("h", "a", 1) in (0, False)
    assert sorted(client.hkeys("h")) == ["a", "b"] and sorted(client.hvals("h")) == ["2", "zwei"]
    assert client.hincrby("h", "a", 5) == 7 and client.hincrbyfloat("h", "a", 0.5) == 7.5
    assert client.hrandfield("h") in ("a", "b") and client.hstrlen("h", "b") == 4
    assert client.hdel("h", "a", "b") == 2 and client.exists("h") == 0


def test_expiry_of_fields(client: Client) -> None:
    client.hset("h", mapping={"a": 1, "b": 2, "c": 3})
    assert client.hexpire("h", 100, "a", "x") == [1, -2]
    assert client.httl("h", "a", "b", "x") == [100, -1, -2]
    assert client.hpexpire("h", 200_000, "a", lt=True) == [0] and client.hpersist("h", "a", "b") == [1, -1]
    assert client.hgetex("h", "a", px=50_000) == ["1"] and 0 < client.hpttl("h", "a")[0] <= 50_000
    assert client.hsetex("h", mapping={"d": 4}, ex=60) == 1 and client.hgetdel("h", "d") == ["4"]


def test_keys(client: Client) -> None:
    client.mset({"a": 1, "b": 2})
    assert client.type("a") == "string" and client.exists("a", "b", "x") == 2 and "a" in client
    assert client.rename("a", "c") is True and client.renamenx("c", "b") in (False, 0)
    assert client.copy("b", "d") is True and client.copy("b", "d") is False and client.copy("b", "d", replace=True)
    assert client.move("d", 1) in (True, 1) and client.dbsize() == 2 and client.randomkey() in ("b", "c")
    assert sorted(client.keys("*")) == ["b", "c"] and client.touch("b", "c") == 2
    assert client.expire("b", 100) and client.expire("b", 50, gt=True) in (False, 0) and client.persist("b")
    assert client.pexpireat("b", 4_102_444_800_000) and client.expiretime("b") == 4_102_444_800
    assert client.unlink("b", "c", "x") == 2 and client.dbsize() == 0 and client.ttl("b") == -2


def test_expired_keys_are_gone(client: Client) -> None:
    client.set("k", "v", px=20)
    client.hset("h", "f", "v")
    client.hpexpire("h", 20, "f")
    within_patience(lambda: client.get("k") is None and client.hget("h", "f") is None)
    assert client.exists("k", "h") == 0


def test_dump_and_restore(binary: Client) -> None:
    binary.set("k", b"\x00\xffvalue")
    binary.hset("h", mapping={"f": "v", "g": "w"})
    binary.restore("k2", 100_000, binary.dump("k"))
    binary.restore("h2", 0, binary.dump("h"))
    assert binary.get("k2") == b"\x00\xffvalue" and 0 < binary.pttl("k2") <= 100_000
    assert binary.hgetall("h2") == {b"f": b"v", b"g": b"w"}
    with pytest.raises(ResponseError, match="BUSYKEY"):
        binary.restore("k2", 0, binary.dump("k"))


def test_iterators_see_everything_once(client: Client) -> None:
    client.mset({f"key:{number}": number for number in range(3000)})
    client.hset("big", mapping={f"f{number}": number for number in range(3000)})
    found = list(client.scan_iter(match="key:*", count=100))
    assert sorted(found) == sorted(f"key:{number}" for number in range(3000))
    assert list(client.scan_iter(count=1000, _type="hash")) == ["big"]
    assert dict(client.hscan_iter("big", count=100)) == {f"f{number}": str(number) for number in range(3000)}
    assert len(list(client.hscan_iter("big", match="f1?", count=500))) == 10


def test_a_pipeline_of_ten_thousand(client: Client) -> None:
    with client.pipeline(transaction=False) as pipe:
        for number in range(5000):
            pipe.set(f"k{number % 100}", number).get(f"k{number % 100}")
        replies = pipe.execute()
    assert replies[1::2] == [str(number) for number in range(5000)] and all(replies[::2])


def test_a_transaction_of_ten_thousand(client: Client) -> None:
    with client.pipeline() as pipe:
        for _ in range(10_000):
            pipe.incr("n")
        assert pipe.execute() == list(range(1, 10_001))


def test_errors_in_pipelines(client: Client) -> None:
    client.set("s", "text")
    with client.pipeline() as pipe:
        replies = pipe.incr("s").incr("n").hget("s", "f").execute(raise_on_error=False)
    assert isinstance(replies[0], ResponseError) and replies[1] == 1 and "WRONGTYPE" in str(replies[2])
    with client.pipeline() as pipe, pytest.raises(ResponseError, match="unknown command"):
        pipe.incr("n").execute_command("NOSUCH")
        pipe.execute()
    assert client.get("n") == "1", "a transaction with an unknown command is discarded"
    assert ExecAbortError.__mro__[1] is ResponseError


def test_watch(respkv_server: ServerProcess, client: Client) -> None:
    client.set("n", 5)
    with client.pipeline() as pipe, respkv_server.client() as other:
        pipe.watch("n")
        value = int(pipe.get("n"))
        other.set("n", 100)
        pipe.multi()
        pipe.set("n", value + 1)
        with pytest.raises(WatchError):
            pipe.execute()
        pipe.watch("n", "m")
        pipe.multi()
        pipe.incr("n")
        pipe.set("m", 1)
        assert pipe.execute() == [101, True]


def test_optimistic_counters_lose_nothing(respkv_server: ServerProcess, client: Client) -> None:
    client.set("n", 0)

    def add_fifty() -> None:
        with respkv_server.client() as mine:
            for _ in range(50):
                mine.transaction(lambda pipe: _increment(pipe), "n")

    threads = [threading.Thread(target=add_fifty) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert client.get("n") == "200"


def _increment(pipe: Client) -> None:
    value = int(pipe.get("n"))
    pipe.multi()
    pipe.set("n", value + 1)


def test_publish_and_subscribe(client: Client) -> None:
    with client.pubsub() as pubsub:
        pubsub.subscribe("news", "más")
        pubsub.psubscribe("n*")
        kinds = [within_patience(lambda: pubsub.get_message(timeout=1))["type"] for _ in range(3)]
        assert kinds == ["subscribe", "subscribe", "psubscribe"]
        assert client.publish("news", "hello") == 2 and client.publish("nobody", "x") == 1
        messages = [within_patience(lambda: pubsub.get_message(timeout=1)) for _ in range(3)]
        seen = sorted((item["type"], item["channel"], item["data"]) for item in messages)
        assert seen == [("message", "news", "hello"), ("pmessage", "news", "hello"), ("pmessage", "nobody", "x")]
        assert client.pubsub_numsub("news") == [("news", 1)] and client.pubsub_numpat() == 1
        assert sorted(client.pubsub_channels()) == ["más", "news"]
        pubsub.unsubscribe()
        pubsub.punsubscribe()
        last = [within_patience(lambda: pubsub.get_message(timeout=1))["type"] for _ in range(3)]
        assert sorted(last) == ["punsubscribe", "unsubscribe", "unsubscribe"]
    assert within_patience(lambda: client.publish("news", "x") == 0)


def test_info_counts_keys_with_a_lifetime(client: Client) -> None:
    client.set("k", "v", ex=100)
    within_patience(lambda: client.info("keyspace").get("db0", {}).get("expires") == 1)


def test_keyspace_events(client: Client) -> None:
    client.config_set("notify-keyspace-events", "KEA")
    try:
        with client.pubsub() as pubsub:
            pubsub.psubscribe("__keyevent@0__:*")
            within_patience(lambda: pubsub.get_message(timeout=1))
            client.set("k", "v", px=20)
            events = [pubsub.get_message(timeout=1) for _ in ("set", "expire", "expired")]
        names = [event["channel"].split(":")[1] for event in events if event]
        assert names == ["set", "expire", "expired"] and {event["data"] for event in events} == {"k"}
    finally:
        client.config_set("notify-keyspace-events", "")


@pytest.mark.filterwarnings("ignore:.*experimental:UserWarning")
def test_a_lock_is_taken_by_one(client: Client) -> None:
    first, second = client.lock("lock", timeout=30), client.lock("lock", timeout=30)
    assert first.acquire(blocking=False) and not second.acquire(blocking=False)
    assert first.locked() and first.owned() and not second.owned()
    assert client.delex("lock", ifeq=first.local.token) == 1
    assert second.acquire(blocking=False)


def test_a_lock_is_released_by_its_owner(client: Client) -> None:
    try:
        client.execute_command("EVALSHA", "0" * 40, 0)
    except NoScriptError:
        pass
    except ResponseError as mistake:
        assert str(mistake).startswith("unknown command"), mistake
        pytest.skip("redis.lock.Lock.release runs a Lua script; this server has no EVALSHA")
    lock = client.lock("lock", timeout=30)
    assert lock.acquire(blocking=False)
    lock.release()
    assert not client.exists("lock")
    with pytest.raises(LockNotOwnedError):
        lock.do_release(b"not mine")


def test_what_the_client_parses(respkv_server: ServerProcess, client: Client) -> None:
    client.set("k", "v", ex=100)
    assert client.dbsize() == 1, "also makes the count in INFO exact"
    info = client.info()
    assert info["redis_version"] and info["tcp_port"] == respkv_server.port and info["role"] == "master"
    assert info["db0"]["keys"] == 1 and info["uptime_in_seconds"] >= 0
    assert isinstance(client.info("memory")["used_memory"], int)
    assert "cmdstat_set" in client.info("commandstats") and "set" in str(client.info("everything"))
    me = client.client_info()
    assert me["id"] == client.client_id() and me["id"] in {
        item["id"] for item in map(_with_number, client.client_list())
    }
    assert client.client_setname("worker") is True and client.client_getname() == "worker"
    assert client.config_get("maxmemory*", "appendonly").keys() >= {"maxmemory", "maxmemory-policy", "appendonly"}
    assert client.memory_usage("k") > 0 and client.object("encoding", "k") == "embstr"
    assert abs(client.time()[0] - time.time()) < 60 and client.lastsave() is not None
    assert client.acl_whoami() == "default" and client.role()[0] in ("master", b"master")
    assert client.slowlog_len() >= 0 and isinstance(client.slowlog_get(10), list) and client.echo("é") == "é"
    assert client.command_count() > 100 and client.command_getkeys("MSET", "a", 1, "b", 2) == ["a", "b"]
    commands = client.command()
    assert "get" in commands and commands["get"]["arity"] == 2 and "readonly" in commands["get"]["flags"]
    assert client.wait(0, 100) == 0 and client.debug_object("k") and client.latency_latest() == []


def _with_number(item: dict[str, Any]) -> dict[str, Any]:
    return {**item, "id": int(item["id"])}


def test_monitor(respkv_server: ServerProcess, client: Client) -> None:
    with respkv_server.client(decode_responses=True) as watcher, watcher.monitor() as monitor:
        client.set("seen", 'a "b"')
        line = next(item for item in monitor.listen() if item["command"].upper().startswith("SET"))
    assert line["command"] == 'SET seen a "b"' and line["db"] == 0 and line["client_type"] == "tcp"


def test_twenty_megabytes(binary: Client) -> None:
    value = bytes(range(256)) * (20 * 4096)
    assert binary.set("big", value) is True and binary.strlen("big") == len(value)
    assert hashlib.sha256(binary.get("big")).digest() == hashlib.sha256(value).digest()
    assert binary.getrange("big", -256, -1) == bytes(range(256)) and binary.append("big", b"x") == len(value) + 1
    assert binary.hset("h", "f", value) == 1 and binary.hget("h", "f") == value
    binary.delete("big", "h")


def test_databases(respkv_server: ServerProcess, client: Client, protocol: int) -> None:
    client.set("k", "zero")
    url = f"redis://127.0.0.1:{respkv_server.port}/3?protocol={protocol}"
    with redis.Redis.from_url(url, decode_responses=True) as third:
        assert third.get("k") is None and third.set("k", "three")
        assert client.swapdb(0, 3) is True and third.get("k") == "zero" and client.get("k") == "three"
        assert third.flushdb() is True and client.get("k") == "three"


def test_a_pool_with_a_password(start_server: Callable[..., ServerProcess], protocol: int) -> None:
    server = start_server(requirepass="s3cret")
    plain: dict[str, Any] = {
        "host": server.host, "port": server.port, "protocol": protocol, "retry": Retry(NoBackoff(), 0),
    }  # fmt: skip
    pool = redis.BlockingConnectionPool(**plain, password="s3cret", max_connections=3, timeout=20)
    with redis.Redis(connection_pool=pool, client_name="pooled") as client:
        threads = [threading.Thread(target=lambda: [client.incr("n") for _ in range(50)]) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert client.get("n") == b"400" and len(client.client_list()) <= 3
    pool.disconnect()
    with redis.Redis(**plain, username="default", password="s3cret") as client:
        assert client.ping() is True
    with redis.Redis(**plain, password="wrong") as client, pytest.raises(AuthenticationError):
        client.ping()
    with redis.Redis(**plain) as client, pytest.raises(AuthenticationError):
        client.ping()


def test_a_pool_outlives_a_restart(start_server: Callable[..., ServerProcess], protocol: int) -> None:
    server = start_server(appendfsync="always")
    with redis.Redis(server.host, server.port, protocol=protocol, retry=Retry(NoBackoff(), 3)) as client:
        client.set("k", "v")
        server.stop()
        server.start()
        assert client.get("k") == b"v"
