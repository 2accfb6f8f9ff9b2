"""Clients of Redis Cluster, unchanged: redis-cli, redis-benchmark, redis-py; and what the cluster face answers."""

from __future__ import annotations

import asyncio
import csv
import json
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.asyncio.cluster import ClusterNode as AsyncClusterNode
from redis.asyncio.cluster import RedisCluster as AsyncRedisCluster
from redis.cluster import ClusterNode, LoadBalancingStrategy, RedisCluster

from respkv.base.slots import SLOT_COUNT, slot_of
from tests.integration.cluster.conftest import Ring, fact, wait_until

NODES = (1, 2, 3)
needs_cli = pytest.mark.skipif(shutil.which("redis-cli") is None, reason="redis-cli is not installed")
needs_benchmark = pytest.mark.skipif(shutil.which("redis-benchmark") is None, reason="redis-benchmark is not installed")


@pytest.fixture(autouse=True)
def emptied(ring: Ring) -> None:
    with ring.client(1, level="all") as client:
        client.flushall()


def run(*words: str) -> str:
    """What a program prints; it must end well and in time, since redis-benchmark waits for ever for a server."""
    done = subprocess.run(words, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, (words, done.stdout, done.stderr)
    return done.stdout + done.stderr


def owners(ring: Ring, number: int) -> dict[int, str]:
    """Slot -> id of its owner, by CLUSTER SLOTS of a node."""
    rows = ask(ring, number, "CLUSTER", "SLOTS")
    return {slot: row[2][2].decode() for row in rows for slot in range(row[0], row[1] + 1)}


def ask(ring: Ring, number: int, *words: str) -> Any:
    """The plain reply of a node's cluster face, not what redis-py makes of it."""
    with ring.face(number) as face:
        face.connection.send_command(*words)
        return face.connection.read_response()


def ranges(owned: dict[int, str], node_id: str) -> str:
    """The slots of a node as CLUSTER NODES writes them."""
    parts: list[str] = []
    slots = [slot for slot in range(SLOT_COUNT) if owned[slot] == node_id]
    while slots:
        count = next((at for at, slot in enumerate(slots) if slot != slots[0] + at), len(slots))
        parts.append(str(slots[0]) if count == 1 else f"{slots[0]}-{slots[count - 1]}")
        slots = slots[count:]
    return " ".join(parts)


def test_all_descriptions_agree(ring: Ring) -> None:
    tables = {number: owners(ring, number) for number in NODES}
    assert tables[1] == tables[2] == tables[3] and len(tables[1]) == SLOT_COUNT
    ids = {number: ask(ring, number, "CLUSTER", "MYID").decode() for number in NODES}
    for number in NODES:
        lines = ask(ring, number, "CLUSTER", "NODES").decode().splitlines()
        assert len(lines) == 3 and lines[0].startswith(f"{ids[number]} 127.0.0.1:{ring.faces[number]}@")
        assert [line.split()[2] for line in lines].count("myself,master") == 1
        for line in lines:
            words = line.split()
            assert " ".join(words[8:]) == ranges(tables[1], words[0]) and words[7] == "connected"
        shards = [(fact(row, b"slots"), fact(row, b"nodes")) for row in ask(ring, number, "CLUSTER", "SHARDS")]
        told = [pair for slots, _ in shards for pair in zip(slots[::2], slots[1::2])]
        assert sum(last + 1 - first for first, last in told) == SLOT_COUNT
        for slots, nodes in shards:
            [node] = nodes
            assert fact(node, b"port") in ring.faces.values() and fact(node, b"health") == b"online"
            assert all(tables[1][slot] == fact(node, b"id").decode() for slot in slots)
        info = dict(line.split(":") for line in ask(ring, number, "CLUSTER", "INFO").decode().split())
        assert info["cluster_state"] == "ok" and info["cluster_slots_ok"] == str(SLOT_COUNT)
        assert info["cluster_known_nodes"] == info["cluster_size"] == "3"
        with ring.face(number) as face:
            assert face.info("cluster")["cluster_enabled"] == 1
            assert face.execute_command("CLUSTER LINKS")
        with ring.client(number) as client:
            assert client.info("cluster")["cluster_enabled"] == 0
            with pytest.raises(redis.ResponseError, match="cluster support disabled"):
                client.execute_command("CLUSTER INFO")


def test_slots_of_keys(ring: Ring) -> None:
    table = owners(ring, 1)
    with ring.client(1, level="all") as client:
        for at in range(300):
            client.set(f"k{at}", at)
    ids = {number: ask(ring, number, "CLUSTER", "MYID").decode() for number in NODES}
    for number in NODES:
        assert ask(ring, number, "CLUSTER", "KEYSLOT", "{k1}x") == slot_of(b"k1")
        assert ask(ring, number, "CLUSTER", "COUNTKEYSINSLOT", str(slot_of(b"k7"))) == 1
        assert ask(ring, number, "CLUSTER", "GETKEYSINSLOT", str(slot_of(b"k7")), "10") == [b"k7"]
    # Each node counts what it owns, so that the figures of all nodes add up.
    expected = {number: sum(table[slot_of(b"k%d" % at)] == ids[number] for at in range(300)) for number in NODES}
    assert {number: ask(ring, number, "DBSIZE") for number in NODES} == expected
    for number in NODES:
        with ring.face(number) as face:
            assert len(list(face.scan_iter(count=100))) == expected[number] == len(face.keys())


def test_who_has_no_copy_names_the_owner(tmp_path: Path) -> None:
    """One copy of each key: one node has it, the other one redirects, and forwards on its plain face."""
    single = Ring(tmp_path, nodes=2, replication_factor=1)
    try:
        single.start()
        table = owners(single, 1)
        ids = {ask(single, number, "CLUSTER", "MYID").decode(): number for number in single.nodes}
        for at in range(30):
            key = f"m{at}"
            slot = slot_of(key.encode())
            owner = ids[table[slot]]
            assert ask(single, owner, "SET", key, str(at)) == b"OK"
            with pytest.raises(redis.exceptions.MovedError) as moved:
                ask(single, 3 - owner, "GET", key)
            assert (moved.value.slot_id, moved.value.port) == (slot, single.faces[owner])
            with single.client(3 - owner) as client:
                assert client.get(key) == b"%d" % at and client.incr(key) == at + 1
    finally:
        single.end()


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ("MGET a b", "Keys in request don't hash to the same slot"),
        ("SELECT 1", "SELECT is not allowed in cluster mode"),
        ("CLUSTER MEET 127.0.0.1 1", "ring|respkv"),
        ("CLUSTER ADDSLOTS 1", "ring|respkv"),
        ("CLUSTER COUNTKEYSINSLOT 16384", "Invalid slot"),
    ],
)
def test_what_the_cluster_face_refuses(ring: Ring, words: str, reason: str) -> None:
    with pytest.raises(redis.RedisError, match=reason):
        ask(ring, 1, *words.split())


@pytest.mark.parametrize("word", ["READONLY", "READWRITE", "ASKING"])
def test_modes_of_a_connection(ring: Ring, word: str) -> None:
    assert ask(ring, 1, word) == b"OK"


def test_a_replica_answers_who_asked_for_it(ring: Ring) -> None:
    with ring.client(1, level="all") as client:
        client.set("k", "v")
    for number in NODES:
        with ring.face(number) as face:
            face.connection.send_command("READONLY")
            face.connection.read_response()
            face.connection.send_command("GET", "k")
            assert face.connection.read_response() == b"v"


@pytest.fixture
def cluster_client(ring: Ring) -> Iterator[RedisCluster]:
    with RedisCluster(startup_nodes=[ClusterNode("127.0.0.1", port) for port in ring.faces.values()]) as client:
        yield client


def test_redis_py(ring: Ring, cluster_client: RedisCluster) -> None:
    assert len(cluster_client.get_primaries()) == 3 and not cluster_client.get_replicas()
    for at in range(200):
        assert cluster_client.set(f"k{at}", at)
    assert [cluster_client.get(f"k{at}") for at in range(200)] == [b"%d" % at for at in range(200)]
    # Unless told otherwise it asks one node, here as of Redis Cluster.
    assert 0 < cluster_client.dbsize() < 200
    assert cluster_client.dbsize(target_nodes=RedisCluster.PRIMARIES) == 200
    assert len(cluster_client.keys(target_nodes=RedisCluster.PRIMARIES)) == 200
    assert len(set(cluster_client.scan_iter(count=50))) == 200
    assert cluster_client.mset_nonatomic({f"n{at}": "x" for at in range(20)})
    assert cluster_client.mget_nonatomic([f"n{at}" for at in range(20)]) == [b"x"] * 20
    pipe = cluster_client.pipeline()
    for at in range(50):
        pipe.incr(f"k{at}")
    assert pipe.execute() == [at + 1 for at in range(50)]
    assert cluster_client.delete(*[f"k{at}" for at in range(200)]) == 200
    assert cluster_client.hset("h", mapping={"a": "1"}) == 1 and cluster_client.hgetall("h") == {b"a": b"1"}
    with ring.client(2) as plain:
        assert plain.hgetall("h") == {b"a": b"1"}
    assert cluster_client.flushall() and cluster_client.dbsize(target_nodes=RedisCluster.PRIMARIES) == 0


def test_transactions_and_walks_of_redis_py(cluster_client: RedisCluster) -> None:
    with cluster_client.pipeline(transaction=True) as pipe:
        pipe.watch("{t}a")
        pipe.multi()
        pipe.set("{t}a", 1)
        pipe.incr("{t}a")
        pipe.get("{t}a")
        assert pipe.execute() == [b"OK", 2, b"2"]
    with cluster_client.pipeline(transaction=True) as pipe:
        pipe.watch("{t}a")
        cluster_client.set("{t}a", 9)
        pipe.multi()
        pipe.incr("{t}a")
        with pytest.raises(redis.WatchError):
            pipe.execute()
    cluster_client.hset("h", mapping={f"f{at}": at for at in range(1000)})
    assert len(dict(cluster_client.hscan_iter("h", count=100))) == 1000
    slot = cluster_client.keyslot("h")
    assert cluster_client.cluster_countkeysinslot(slot) == 1
    assert cluster_client.cluster_get_keys_in_slot(slot, 5) == ["h"]
    assert cluster_client.copy("h", "{h}2") and cluster_client.rename("{h}2", "{h}3")
    with pytest.raises(redis.exceptions.RedisClusterException):
        cluster_client.rename("h", "elsewhere")


def test_messages_by_redis_py(cluster_client: RedisCluster) -> None:
    sharded, usual = cluster_client.pubsub(), cluster_client.pubsub()
    sharded.ssubscribe("orders")
    assert sharded.get_sharded_message(timeout=5)["type"] == "ssubscribe"
    usual.subscribe("news")
    assert usual.get_message(timeout=5)["type"] == "subscribe"
    time.sleep(0.1)
    assert cluster_client.spublish("orders", "one") == 1
    assert sharded.get_sharded_message(timeout=5)["data"] == b"one"
    for node in cluster_client.get_primaries():
        cluster_client.execute_command("PUBLISH", "news", node.port, target_nodes=node)
        assert usual.get_message(timeout=5)["data"] == b"%d" % node.port
    counts = [cluster_client.pubsub_numsub("news", target_nodes=node) for node in cluster_client.get_primaries()]
    assert sum(count for [(_, count)] in counts) == 1
    sharded.close()
    usual.close()


def test_a_client_that_reads_from_replicas(ring: Ring, cluster_client: RedisCluster) -> None:
    for at in range(50):
        cluster_client.set(f"r{at}", at)
    startup = [ClusterNode("127.0.0.1", ring.faces[1])]
    with RedisCluster(startup_nodes=startup, load_balancing_strategy=LoadBalancingStrategy.ROUND_ROBIN) as reader:
        wait_until(lambda: [reader.get(f"r{at}") for at in range(50)] == [b"%d" % at for at in range(50)], 5)


def test_redis_py_asyncio(ring: Ring) -> None:
    async def work() -> None:
        startup = [AsyncClusterNode("127.0.0.1", port) for port in ring.faces.values()]
        async with AsyncRedisCluster(startup_nodes=startup) as client:
            await asyncio.gather(*[client.set(f"a{at}", at) for at in range(200)])
            values = await asyncio.gather(*[client.get(f"a{at}") for at in range(200)])
            assert values == [b"%d" % at for at in range(200)]
            assert await client.dbsize(target_nodes=AsyncRedisCluster.PRIMARIES) == 200
            found = [key async for key in client.scan_iter("a*", count=50)]
            assert len(found) == len(set(found)) == 200
            async with client.pipeline() as pipe:
                for at in range(50):
                    pipe.incr(f"a{at}")
                assert await pipe.execute() == [at + 1 for at in range(50)]
            async with client.pipeline(transaction=True) as pipe:
                pipe.set("{t}a", 1).incr("{t}a")
                assert await pipe.execute() == [True, 2]
            assert await client.mset_nonatomic({f"n{at}": "x" for at in range(20)})
            assert await client.mget_nonatomic([f"n{at}" for at in range(20)]) == [b"x"] * 20

    asyncio.run(work())


IOREDIS = """
const { Cluster } = require('ioredis');
const port = Number(process.argv[2]);
(async () => {
  const client = new Cluster([{ host: '127.0.0.1', port }]);
  await new Promise(resolve => client.once('ready', resolve));
  const found = { masters: client.nodes('master').length, same: true, sum: 0, keys: [] };
  for (let at = 0; at < 100; at++) await client.set('io' + at, at);
  for (let at = 0; at < 100; at++) found.same = found.same && (await client.get('io' + at)) === String(at);
  for (const node of client.nodes('master')) {
    found.sum += await node.dbsize();
    for await (const part of node.scanStream({ match: 'io*', count: 50 })) found.keys.push(...part);
  }
  found.multi = await client.multi().set('{t}x', 1).incr('{t}x').exec();
  found.crossed = await client.mget('a', 'b').catch(error => error.message);
  const heard = new Cluster([{ host: '127.0.0.1', port }]);
  const message = new Promise(resolve => heard.on('message', (channel, text) => resolve(channel + ':' + text)));
  await heard.subscribe('news');
  await new Promise(resolve => setTimeout(resolve, 200));
  for (const node of client.nodes('master')) await node.publish('news', 'hello');
  found.message = await message;
  console.log(JSON.stringify(found));
  await heard.quit();
  await client.quit();
})().catch(error => { console.error(error); process.exit(1); });
"""


def test_ioredis(ring: Ring, tmp_path: Path) -> None:
    """Where Node.js finds ioredis: ``npm install ioredis`` somewhere, then NODE_PATH=that/node_modules."""
    node = shutil.which("node")
    if node is None or subprocess.run([node, "-e", "require('ioredis')"], capture_output=True).returncode:
        pytest.skip("Node.js with ioredis is not there")
    script = tmp_path / "ioredis.js"
    script.write_text(IOREDIS)
    found = json.loads(run(node, str(script), str(ring.faces[2])))
    assert found["masters"] == 3 and found["same"] and found["sum"] == len(set(found["keys"])) == 100
    assert found["multi"] == [[None, "OK"], [None, 2]] and found["message"] == "news:hello"
    assert found["crossed"].startswith("CROSSSLOT")


@needs_cli
def test_redis_cli(ring: Ring) -> None:
    port = str(ring.faces[2])
    for at in range(20):
        assert run("redis-cli", "-c", "-p", port, "set", f"c{at}", f"v{at}").strip() == "OK"
        assert run("redis-cli", "-c", "-p", str(ring.faces[3]), "get", f"c{at}").strip() == f"v{at}"
    checked = run("redis-cli", "--cluster", "check", f"127.0.0.1:{port}")
    assert "[OK] All nodes agree about slots configuration." in checked
    assert "[OK] All 16384 slots covered." in checked and "[OK] 20 keys in 3 masters." in checked
    info = run("redis-cli", "--cluster", "info", f"127.0.0.1:{port}")
    assert len(re.findall(r"-> \d+ keys \| \d+ slots \| 0 slaves", info)) == 3


@needs_cli
def test_own_commands_can_be_read_in_redis_cli(ring: Ring) -> None:
    port = str(ring.nodes[1].port)
    for command in ("RKV.RING", "RKV.NODES", "RKV.STATUS", "RKV.LEVEL"):
        text = run("redis-cli", "-p", port, command)
        assert text.strip() and "ERR" not in text
        assert "summary" in run("redis-cli", "-p", port, "COMMAND", "DOCS", command)


def test_the_last_operation_is_told(ring: Ring) -> None:
    with ring.client(1) as client:
        assert client.execute_command("RKV.LASTOP") is None
        client.set("k", "v")
        told = client.execute_command("RKV.LASTOP")
        assert (fact(told, b"command"), fact(told, b"level"), fact(told, b"replicas-written")) == (b"set", b"quorum", 2)


@needs_benchmark
@pytest.mark.parametrize("depth", ["1", "16"])
@pytest.mark.parametrize("face", ["cluster", "plain"])
def test_redis_benchmark(ring: Ring, face: str, depth: str) -> None:
    port = ring.faces[1] if face == "cluster" else ring.nodes[1].port
    words = ["redis-benchmark", "-p", str(port), "--csv", "-t", "set,get,incr,hset", "-n", "4000", "-c", "30",
             "-P", depth, "-r", "1000", "-d", "200", *(["--cluster"] if face == "cluster" else [])]  # fmt: skip
    text = run(*words)
    assert "Error" not in text and "WARNING" not in text, text
    rows = list(csv.DictReader(text[text.index('"test"') :].splitlines()))
    assert [row["test"] for row in rows] == ["SET", "GET", "INCR", "HSET"]
    assert all(float(row["rps"]) > 0 for row in rows)


@needs_cli
def test_create_finds_a_ring_that_is_there(ring: Ring) -> None:
    addresses = [f"127.0.0.1:{port}" for port in ring.faces.values()]
    words = ["redis-cli", "--cluster", "create", *addresses, "--cluster-yes"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=30)
    assert done.returncode != 0 and "is not empty" in done.stdout + done.stderr
