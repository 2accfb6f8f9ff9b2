"""A node whose table rots: what it cannot read is answered by its co-replicas, and fetched from them again."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from respkv.base.slots import slot_of
from tests.integration.cluster.conftest import Ring, fact, running_ring, wait_until

STRINGS = {f"s{at}": os.urandom(300).hex() for at in range(300)}
HASHES = {f"h{at}": {f"f{field}": os.urandom(20).hex() for field in range(20)} for at in range(40)}
GONE = [f"g{at}" for at in range(50)]


@pytest.fixture
def rotten() -> Iterator[Ring]:
    """A ring whose third node has everything in a table with flipped bytes all over its blocks."""
    for ring in running_ring(enable_debug_command="local"):
        load(ring)
        rot(ring, 3)
        yield ring


def load(ring: Ring) -> None:
    with ring.client(1, level="all") as client:
        pipe = client.pipeline(transaction=False)
        for key in GONE:
            pipe.set(key, "old")
        for key, value in STRINGS.items():
            pipe.set(key, value)
        for key, fields in HASHES.items():
            pipe.hset(key, mapping=fields)
        pipe.set("n", 10)
        pipe.set("ttl", "x", px=3_600_000)
        pipe.delete(*GONE)
        pipe.execute()


def rot(ring: Ring, number: int, *, step: int = 9000) -> None:
    """What a node holds goes into a table, of which every ``step`` bytes one is flipped."""
    with ring.client(number) as client:
        client.execute_command("DEBUG", "RELOAD")
    tables = sorted(Path(ring.nodes[number].dir, "tables").iterdir())
    assert tables
    for table in tables:
        data = bytearray(table.read_bytes())
        places = range(4000, int(len(data) * 0.85), step)
        assert len(places) > 3, "the table is too small"
        for place in places:
            data[place] ^= 1 << random.randrange(8)
        with table.open("r+b") as file:
            file.write(data)


def figure(ring: Ring, number: int, name: str) -> int:
    with ring.client(number) as client:
        return int(client.info("everything")[name])


def check_contents(client: Any) -> None:
    pipe = client.pipeline(transaction=False)
    for key in STRINGS:
        pipe.get(key)
    assert pipe.execute() == [value.encode() for value in STRINGS.values()]
    for key, fields in HASHES.items():
        assert client.hgetall(key) == {name.encode(): value.encode() for name, value in fields.items()}
        assert client.hget(key, "f3") == fields["f3"].encode() and client.hlen(key) == len(fields)
    assert client.exists(*GONE) == 0 and client.mget(GONE) == [None] * len(GONE)
    assert client.ttl("ttl") > 3000


@pytest.mark.parametrize("level", ["quorum", "eventual"])
def test_reads_are_right_while_a_replica_is_damaged(rotten: Ring, level: str) -> None:
    for number in (3, 1):
        with rotten.client(number, level=level) as client:
            check_contents(client)
    assert figure(rotten, 3, "respkv_ring_damage_moved") > 0
    with rotten.client(3) as client:
        assert client.incr("n") == 11 and client.append("s1", "+") == len(STRINGS["s1"]) + 1
        assert client.hset("h1", "f1", "new") == 0 and client.hget("h1", "f1") == b"new"
        assert client.set("s2", "x", xx=True) is True and client.delete("s3", "g1") == 1
    with rotten.client(1) as client:
        assert client.get("n") == b"11" and client.get("s2") == b"x" and client.get("s3") is None


def whole(ring: Ring, number: int) -> bool:
    mended = figure(ring, number, "respkv_ring_tables_mended")
    return mended > 0 and figure(ring, number, "respkv_tables_quarantined") == 0


def equal(ring: Ring, slots: list[int]) -> bool:
    with ring.client(1) as client:
        return all(fact(client.execute_command("RKV.VERIFY", slot), b"equal") == b"yes" for slot in slots)


def test_a_damaged_node_becomes_whole_again(rotten: Ring) -> None:
    with rotten.client(3) as client:
        check_contents(client)
        client.incr("n")
    wait_until(lambda: whole(rotten, 3), 20, rotten.nodes[3].report)
    slots = sorted({slot_of(key.encode()) for key in [*STRINGS, *HASHES, *GONE]})
    wait_until(lambda: equal(rotten, slots), 20, rotten.nodes[3].report)
    moved = figure(rotten, 3, "respkv_ring_damage_moved")
    with rotten.client(3, level="eventual") as client:
        check_contents(client)
        assert client.get("n") == b"11"
    assert figure(rotten, 3, "respkv_ring_damage_moved") == moved, "its own copy is sound"
    rotten.nodes[3].kill()
    rotten.nodes[3].start()
    rotten.wait_whole()
    with rotten.client(3, level="eventual") as client:
        check_contents(client)
    assert "CORRUPT" not in rotten.report()


def test_what_a_dead_replica_may_know_is_waited_for(rotten: Ring) -> None:
    rotten.nodes[1].kill()
    rotten.wait_whole([2, 3])
    with rotten.client(2) as client:
        client.get("s1")
    with rotten.client(3, level="eventual") as client:
        check_contents(client)
    wait_until(lambda: figure(rotten, 3, "respkv_ring_mend_waiting") == 1, 10, rotten.nodes[3].report)
    assert figure(rotten, 3, "respkv_tables_quarantined") > 0
    rotten.nodes[1].start()
    wait_until(lambda: whole(rotten, 3), 30, rotten.nodes[3].report)


def test_a_table_that_is_lost_comes_back(rotten: Ring) -> None:
    rotten.nodes[3].stop()
    for table in Path(rotten.nodes[3].dir, "tables").iterdir():
        table.unlink()
    rotten.nodes[3].start()
    rotten.wait_whole()
    with rotten.client(3) as client:
        check_contents(client)
    wait_until(lambda: whole(rotten, 3), 20, rotten.nodes[3].report)
    with rotten.client(3, level="eventual") as client:
        check_contents(client)
