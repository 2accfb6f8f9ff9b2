"""A ring whose nodes are all there: what one node acknowledges the others show, at each level."""

from __future__ import annotations

import random
import threading
from typing import Any

import pytest
import redis

from tests.integration.cluster.conftest import Ring, fact, wait_until

NODES = (1, 2, 3)


@pytest.fixture(autouse=True)
def emptied(ring: Ring) -> None:
    with ring.client(1, level="all") as client:
        client.flushall()


@pytest.mark.parametrize("level", ["eventual", "quorum", "all"])
def test_what_was_written_is_read_at_its_level(ring: Ring, level: str) -> None:
    """By the same node at EVENTUAL, which promises no more; by any other at QUORUM and ALL."""
    for number in NODES:
        with ring.client(number, level=level) as client:
            for at in range(50):
                assert client.set(f"{number}-{at}", f"v{at}")
                assert client.get(f"{number}-{at}") == b"v%d" % at
        if level == "eventual":
            continue
        for other in NODES:
            with ring.client(other, level=level) as client:
                assert [client.get(f"{number}-{at}") for at in range(50)] == [b"v%d" % at for at in range(50)]


def test_each_acknowledged_write_is_seen_by_the_next_node(ring: Ring) -> None:
    """Reads at QUORUM through one node while another one writes: never older than what was acknowledged."""
    clients = {number: ring.client(number) for number in NODES}
    for turn in range(300):
        writer, reader = NODES[turn % 3], NODES[(turn // 3) % 3]
        assert clients[writer].set("k", turn)
        assert clients[reader].get("k") == b"%d" % turn
    for client in clients.values():
        client.close()


def test_levels_are_shown_and_refused(ring: Ring) -> None:
    with ring.client(2) as client:
        assert client.execute_command("RKV.LEVEL") == b"default"
        assert client.execute_command("RKV.LEVEL", "ALL") == b"OK"
        assert client.execute_command("RKV.LEVEL") == b"all"
        with pytest.raises(redis.ResponseError, match="unknown level"):
            client.execute_command("RKV.LEVEL", "most")
        assert client.execute_command("RKV.LEVEL") == b"all"


def test_changes_from_every_node(ring: Ring) -> None:
    first, second, third = (ring.client(number) for number in NODES)
    assert first.incr("n") == 1 and second.incrby("n", 5) == 6 and third.decr("n") == 5
    assert first.append("s", "ab") == 2 and second.append("s", "cd") == 4 and third.get("s") == b"abcd"
    assert first.hset("h", mapping={"a": 1, "b": 2}) == 2
    assert second.hincrby("h", "a", 2) == 3 and third.hdel("h", "b") == 1
    assert third.hgetall("h") == {b"a": b"3"} == first.hgetall("h")
    assert second.set("n", "x", nx=True) is None and second.set("m", "x", nx=True) is True
    assert third.delete("n", "m", "absent") == 2 and first.exists("n", "m", "s") == 1
    assert second.rename("s", "t") and third.get("t") == b"abcd" and first.get("s") is None
    assert third.pexpire("t", 60_000) and 0 < first.pttl("t") <= 60_000
    for client in (first, second, third):
        client.close()


def test_counters_from_all_nodes_at_once(ring: Ring) -> None:
    """They run at the first replica of a key, whoever is asked, so nothing is counted twice or lost."""
    problems: list[BaseException] = []

    def count(number: int) -> None:
        try:
            with ring.client(number) as client:
                for _ in range(100):
                    client.incr("counter")
        except redis.RedisError as error:
            problems.append(error)

    threads = [threading.Thread(target=count, args=(number,)) for number in NODES]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    with ring.client(2) as client:
        assert client.get("counter") == b"300"


def test_commands_over_many_slots_on_the_plain_face(ring: Ring) -> None:
    keys = [f"many-{at}" for at in range(300)]
    with ring.client(1) as client:
        assert client.mset({key: key for key in keys})
    for number in NODES:
        with ring.client(number) as client:
            assert client.mget(keys) == [key.encode() for key in keys]
            assert client.exists(*keys) == client.touch(*keys) == client.dbsize() == 300
            assert sorted(client.scan_iter(count=50)) == sorted(key.encode() for key in keys)
            assert len(client.keys("many-1*")) == 111
    with ring.client(2) as client:
        assert client.unlink(*keys[:100]) == 100
    with ring.client(3) as client:
        assert client.dbsize() == 200 and client.mget(keys[0], keys[100]) == [None, b"many-100"]
        assert client.flushall()
    with ring.client(1) as client:
        assert client.dbsize() == 0 and client.keys() == []


def test_databases(ring: Ring) -> None:
    with ring.client(1, db=3) as client, ring.client(2, db=3) as other, ring.client(3) as zero:
        client.set("k", "three")
        assert other.get("k") == b"three" and zero.get("k") is None
        assert other.dbsize() == 1 and zero.dbsize() == 0
        with pytest.raises(redis.ResponseError):
            zero.swapdb(0, 3)
        other.flushdb()
        assert client.get("k") is None


def test_transactions(ring: Ring) -> None:
    for number in NODES:
        with ring.client(number) as client:
            pipe = client.pipeline(transaction=True)
            pipe.set("{t}a", number)
            pipe.incr("{t}n")
            pipe.get("{t}a")
            assert pipe.execute() == [True, number, b"%d" % number]
    with ring.client(1) as client, ring.client(2) as other:
        with client.pipeline() as pipe:
            pipe.watch("{t}a")
            other.set("{t}a", "changed")
            pipe.multi()
            pipe.set("{t}a", "mine")
            with pytest.raises(redis.WatchError):
                pipe.execute()
        assert other.get("{t}a") == b"changed"


def test_a_pipeline_is_answered_in_order(ring: Ring) -> None:
    with ring.client(2) as client:
        pipe = client.pipeline(transaction=False)
        wanted: list[Any] = []
        for at in range(500):
            pipe.set(f"p{at % 50}", at)
            pipe.get(f"p{at % 50}")
            wanted += [True, b"%d" % at]
        assert pipe.execute() == wanted


@pytest.mark.parametrize("number", NODES)
def test_a_pipeline_answers_as_one_request_after_the_other(ring: Ring, number: int) -> None:
    """Random requests for few keys: all at once in one database, one by one in another; the same replies."""
    rng = random.Random(number)
    words = [
        lambda k, v: ("SET", k, v), lambda k, v: ("GET", k), lambda k, v: ("INCRBY", f"n{k}", v),
        lambda k, v: ("APPEND", k, v), lambda k, v: ("DEL", k, f"n{k}"), lambda k, v: ("HSET", f"h{k}", v % 3, v),
        lambda k, v: ("HGETALL", f"h{k}"), lambda k, v: ("MSET", k, v, "other", v), lambda k, v: ("MGET", k, "other"),
        lambda k, v: ("GETDEL", k), lambda k, v: ("SET", k, v, "NX"), lambda k, v: ("STRLEN", k),
    ]  # fmt: skip
    requests = [rng.choice(words)(f"k{rng.randrange(4)}", rng.randrange(1000)) for _ in range(400)]
    with ring.client(number) as client, ring.client(number, db=1) as slow:
        pipe = client.pipeline(transaction=False)
        for request in requests:
            pipe.execute_command(*request)
        at_once = pipe.execute(raise_on_error=False)
        one_by_one = [slow.execute_command(*request) for request in requests]
        slow.flushdb()
    wrong = [(at, *row) for at, row in enumerate(zip(requests, at_once, one_by_one)) if row[1] != row[2]]
    assert wrong == [], f"{len(wrong)} of {len(requests)}: {wrong[:5]}"


def test_wait_counts_replicas(ring: Ring) -> None:
    with ring.client(1) as client:
        client.set("k", "v")
        assert client.wait(2, 2000) == 2
        assert client.wait(0, 0) >= 0


def test_messages_reach_subscribers_of_every_node(ring: Ring) -> None:
    subscriber = ring.nodes[3].client().pubsub(ignore_subscribe_messages=True)
    subscriber.subscribe("news")
    subscriber.get_message(timeout=5)
    with ring.client(1) as client:
        wait_until(lambda: dict(client.pubsub_numsub("news")) == {b"news": 1}, 5)
        assert client.publish("news", "hello") == 1
        message = subscriber.get_message(timeout=5)
        assert message is not None and message["data"] == b"hello"
        subscriber.close()
        wait_until(lambda: client.publish("news", "nobody hears") == 0, 5)


def test_a_flood_of_messages_arrives_in_order(ring: Ring) -> None:
    count = 10_000
    subscriber = ring.nodes[3].client().pubsub(ignore_subscribe_messages=True)
    subscriber.subscribe("flood")
    subscriber.get_message(timeout=5)
    with ring.client(1) as client:
        wait_until(lambda: dict(client.pubsub_numsub("flood")) == {b"flood": 1}, 5)
        pipe = client.pipeline(transaction=False)
        for at in range(count):
            pipe.publish("flood", at)
        assert pipe.execute() == [1] * count
        assert client.set("k", "v")
    assert [int(subscriber.get_message(timeout=5)["data"]) for _ in range(count)] == list(range(count))
    subscriber.close()


def test_every_copy_is_equal(ring: Ring) -> None:
    """ALL is acknowledged by every replica: then each holds it by itself."""
    keys = [f"all-{at}" for at in range(100)]
    with ring.client(2, level="all") as client:
        for key in keys:
            client.set(key, key)
    copies = [ring.contents(number, keys) for number in NODES]
    assert copies[0] == copies[1] == copies[2] == [key.encode() for key in keys]


def test_the_ring_is_described(ring: Ring) -> None:
    rings = []
    for number in NODES:
        with ring.client(number) as client:
            row = client.execute_command("RKV.RING")
            rings.append([fact(row, name) for name in (b"epoch", b"cluster-id", b"seed", b"replication-factor")])
            shares = [fact(node, b"slots-primary") for node in fact(row, b"nodes")]
            assert sum(shares) == 16_384 and max(shares) <= 1.15 * 16_384 / 3
            states = [fact(node, b"state") for node in client.execute_command("RKV.NODES")]
            assert states == [b"alive"] * 3
            status = ring.status(number)
            assert status[b"formed"] == b"yes" and status[b"deaths"] == 0
    assert rings[0] == rings[1] == rings[2] and rings[0][3] == 3
