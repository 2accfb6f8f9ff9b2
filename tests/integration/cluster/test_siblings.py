"""Keys whose concurrent writes are kept or merged, on rings of real processes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from tests.integration.cluster.conftest import Network, Ring, running_ring, wait_until

EQUAL_S = 30.0
NODES = (1, 2, 3)
POLICIES = ["cart:", "siblings", "set:", "merge:union", "app:", "merge:joined", "slow:", "merge:slow"]
MERGES = """
import time

def joined(values):
    return b"+".join(values)

def slow(values):
    time.sleep(1)
    return b"late"

MERGES = {"joined": joined, "slow": slow}
"""


def seen(client: redis.Redis, key: str) -> tuple[bytes, list[bytes]]:
    """The context and the values of a key."""
    context, *values = client.execute_command("RKV.GET", key)
    return context, sorted(values)


def held(ring: Ring, number: int, key: str) -> list[bytes]:
    """The values that a node itself holds."""
    with ring.client(number, level="eventual") as client:
        return seen(client, key)[1]


def wait_for(ring: Ring, key: str, values: list[bytes]) -> None:
    """Until every node holds just these values."""
    wait_until(
        lambda: all(held(ring, number, key) == values for number in NODES), EQUAL_S,
        lambda: f"{[held(ring, number, key) for number in NODES]}\n{ring.report()}",
    )  # fmt: skip


@pytest.fixture(scope="module")
def partitioned(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Ring, Network]]:
    """A ring with policies, whose links can be cut."""
    directory = tmp_path_factory.mktemp("siblings")
    merges = directory / "merges.py"
    merges.write_text(MERGES)
    network = Network()
    ring = Ring(directory, network=network, conflict_policy=POLICIES, merge_file=merges)
    try:
        yield ring.start(), network
    finally:
        ring.end()


def test_both_sides_of_a_partition_are_kept_until_one_write_has_seen_both(partitioned: tuple[Ring, Network]) -> None:
    ring, network = partitioned
    with ring.client(1, level="all") as client:
        assert client.set("cart:1", "empty") and client.set("cart:2", "empty") and client.set("plain", "before")
    network.isolate(3, [1, 2])
    wait_until(lambda: ring.live(1) == 2 and ring.live(2) == 2 and ring.live(3) == 1, 20, ring.report)
    with ring.client(3, level="eventual") as alone, ring.client(1) as majority:
        assert alone.set("cart:1", "pear") and majority.set("cart:1", "apple")
        context, _ = seen(alone, "cart:2")
        assert alone.execute_command("RKV.SET", "cart:2", context, "pear") == b"OK" and majority.delete("cart:2") == 1
        assert alone.set("set:1", "[1,2]") and majority.set("set:1", "[2,3]")
        assert alone.set("app:1", "x") and majority.set("app:1", "y")
        assert alone.set("plain", "minority") and majority.set("plain", "majority")
    network.heal()
    ring.wait_whole()
    wait_for(ring, "cart:1", [b"apple", b"pear"])
    wait_for(ring, "cart:2", [b"pear"])
    for number in NODES:
        with ring.client(number) as client:
            assert client.get("cart:1") in (b"apple", b"pear") and client.get("plain") in (b"minority", b"majority")
            assert client.get("set:1") == b"[1,2,3]" and client.get("app:1") == b"x+y"
    # What has been merged was written back, once.
    wait_for(ring, "set:1", [b"[1,2,3]"])
    wait_for(ring, "app:1", [b"x+y"])
    with ring.client(2) as client:
        context, values = seen(client, "cart:1")
        assert values == [b"apple", b"pear"]
        assert client.execute_command("RKV.SET", "cart:1", context, "apple and pear") == b"OK"
    wait_for(ring, "cart:1", [b"apple and pear"])


def test_a_kept_key_survives_the_nodes_that_wrote_it(partitioned: tuple[Ring, Network]) -> None:
    ring, _ = partitioned
    for number in NODES:
        with ring.client(number) as client:
            assert client.execute_command("RKV.SET", "cart:3", "", str(number)) == b"OK"
    for number in NODES:
        ring.nodes[number].kill()
        ring.nodes[number].start()
        ring.wait_whole()
        with ring.client(number) as client:
            assert seen(client, "cart:3")[1] == [b"1", b"2", b"3"]
            assert client.execute_command("RKV.SET", f"cart:after{number}", "", "x") == b"OK"
    with ring.client(2) as client:
        assert client.execute_command("RKV.RESOLVE", "cart:3", "BY", "max") == b"3"
    wait_for(ring, "cart:3", [b"3"])


def test_clients_one_after_the_other_make_no_siblings(partitioned: tuple[Ring, Network]) -> None:
    ring, _ = partitioned
    clients = {number: ring.client(number) for number in NODES}
    for turn in range(100):
        assert clients[NODES[turn % 3]].set("cart:4", turn)
    assert seen(clients[1], "cart:4")[1] == [b"99"] and clients[2].incr("cart:4") == 100
    assert clients[3].append("cart:4", "!") == 4 and seen(clients[2], "cart:4")[1] == [b"100!"]
    for client in clients.values():
        client.close()


def test_resolving_with_a_slow_merge_names_it_and_stops_nobody(partitioned: tuple[Ring, Network]) -> None:
    ring, _ = partitioned
    for turn in range(6):
        with ring.client(NODES[turn % 3]) as client:
            for value in ("a", "b"):
                assert client.execute_command("RKV.SET", f"slow:{turn}", "", value) == b"OK"
            begin_s = time.monotonic()
            with pytest.raises(redis.ResponseError) as refused:
                client.execute_command("RKV.RESOLVE", f"slow:{turn}")
            assert time.monotonic() - begin_s < 0.7
            assert str(refused.value).startswith("merge:slow: was ")
            assert client.get(f"slow:{turn}") == b"b" and seen(client, f"slow:{turn}")[1] == [b"a", b"b"]


def test_a_ring_does_not_start_with_a_merge_that_is_not_there(tmp_path: Path) -> None:
    ring = Ring(tmp_path, conflict_policy=["a:", "merge:none"])
    with pytest.raises(AssertionError, match="no merge function is called 'none'; there are longest, max, min, union"):
        ring.nodes[1].start()


@pytest.fixture
def cached() -> Iterator[Ring]:
    """A ring with a level by prefix."""
    yield from running_ring(level_for=["cache:", "eventual"])


def test_levels_for_prefixes(cached: Ring) -> None:
    with cached.client(1) as client:
        cached.nodes[2].kill()
        cached.nodes[3].kill()
        wait_until(lambda: cached.live(1) == 1, 20, cached.report)
        assert client.set("cache:1", "v") and client.get("cache:1") == b"v"
        with pytest.raises(redis.ResponseError, match=r"NOREPLICAS|TIMEOUT"):
            client.set("ledger:1", "v")
