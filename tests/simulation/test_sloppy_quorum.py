"""Nodes that stand in for replicas that are away (sloppy-quorum): five nodes under virtual time."""

from __future__ import annotations

from typing import Any

import pytest

from respkv.base.slots import slot_of
from respkv.cluster.placement import Placement
from respkv.keyspace import keys
from respkv.replication.stand_ins import StandIns, node_of, stand_in_number
from respkv.wire.messages import HoldFor
from tests.unit.cluster.rings import form
from tests.unit.node.simulated_ring import Connection, SimulatedRing

_S = 1_000_000
KEY = "k"


def flat(row: list[Any]) -> dict[bytes, Any]:
    return dict(zip(row[::2], row[1::2]))


class Scene:
    """Five nodes; of the replicas of KEY the first one lives, the other two are paused."""

    def __init__(self, **directives: str) -> None:
        self.ring = SimulatedRing(5, **directives)
        node = self.ring.node(1).ring
        by_short = {self.ring.node(number).ring.me: number for number in range(1, 6)}
        walk = [by_short[short] for short in node.placement.walk(slot_of(KEY.encode()))]
        self.first, self.away, self.stand_ins = walk[0], walk[1:3], walk[3:]
        self.client = self.ring.connect(self.first)
        assert self.client("SET", KEY, "before") == b"OK"
        self.ring.run(_S)

    def leave(self) -> None:
        """The two are gone, and everybody has noticed."""
        for number in self.away:
            self.ring.cluster.machines[number - 1].kill()
        self.wait_live([self.first, *self.stand_ins])

    def come_back(self) -> None:
        for number in self.away:
            self.ring.cluster.machines[number - 1].start()
        self.wait_live([1, 2, 3, 4, 5])

    def wait_live(self, numbers: list[int]) -> None:
        """Wait until these nodes see each other alive, and nobody else."""
        up, count = self.ring.cluster.machines, len(numbers)

        def whole() -> bool:
            return all(up[n - 1].node is not None and self.stats(n)["members_live"] == count for n in numbers)

        self.ring.run(20 * _S, whole)
        assert whole()

    def stats(self, number: int) -> dict[str, int]:
        found: dict[str, int] = self.ring.node(number).ring.stats()
        return found

    def held(self, number: int, key: str = KEY) -> bytes | None:
        """What a node has of a key in its own store."""
        record: bytes | None = self.ring.node(number).keyspace.engine.get(keys.record_key(0, key.encode()))
        return record


def test_without_it_too_few_replicas_are_too_few() -> None:
    scene = Scene()
    scene.leave()
    for words in (("SET", KEY, "v"), ("GET", KEY), ("INCR", "{k}n"), ("HSET", "{k}h", "f", "v")):
        assert scene.client(*words).startswith("NOREPLICAS"), words
    assert flat(scene.client("RKV.LASTOP"))[b"fallbacks"] == 0
    assert b"respkv_sloppy_quorum:no\r\n" in scene.client("INFO", "replication")
    assert b"respkv_slots_with_fallbacks:0\r\n" in scene.client("INFO", "replication")


@pytest.mark.parametrize("sync", ["everysec", "always"])
def test_other_nodes_stand_in(sync: str) -> None:
    """Writes and reads at QUORUM go on, are told to be what they are, and reach the replicas when these are back."""
    scene = Scene(sloppy_quorum="yes", appendfsync=sync)
    scene.leave()
    client: Connection = scene.client
    assert client("SET", KEY, "after") == b"OK"
    told = flat(client("RKV.LASTOP"))
    assert told[b"fallbacks"] == 1 and told[b"level"] == b"quorum"
    assert client("GET", KEY) == b"after" and client("INCR", "{k}n") == 1 and client("INCR", "{k}n") == 2
    assert flat(client("RKV.LASTOP"))[b"fallbacks"] == 1
    assert client("HSET", "{k}h", "f", "v") == 1 and client("HGETALL", "{k}h") == [b"f", b"v"]
    assert client("MULTI") == b"OK" and client("SET", "{k}m", "1") and client("EXEC") == [b"OK"]
    info = client("INFO", "replication")
    assert b"respkv_sloppy_quorum:yes\r\n" in info and b"respkv_slots_with_fallbacks:0\r\n" not in info
    figures = scene.stats(scene.first)
    assert figures["stand_in_writes"] == 5 and figures["stand_in_reads"] == 2
    # It is held outside the store of whoever stands in, which is no replica.
    assert sum(scene.stats(number)["stand_in_entries_taken"] for number in scene.stand_ins) >= 4
    assert all(scene.held(number) is None for number in scene.stand_ins)
    # A level that asks for replicas gets no others.
    assert client("RKV.LEVEL", "ALL") == b"OK" and client("SET", KEY, "x").startswith("NOREPLICAS")
    assert client("RKV.LEVEL", "DEFAULT") == b"OK" and client("WAIT", 1, 100) == 0
    scene.come_back()
    everywhere = [scene.first, *scene.away]
    scene.ring.run(20 * _S, lambda: len({scene.held(number) for number in everywhere}) == 1)
    assert {scene.held(number) for number in everywhere} == {scene.held(scene.first)} and scene.held(scene.first)
    scene.ring.run(20 * _S, lambda: not any(scene.stats(n)["hint_entries"] for n in range(1, 6)))
    for number in range(1, 6):
        figures = scene.stats(number)
        assert figures["hint_entries"] == figures["stand_in_entries_remembered"] == 0
    assert client("GET", KEY) == b"after" and client("GET", "{k}n") == b"2" and client("HGET", "{k}h", "f") == b"v"
    assert flat(client("RKV.LASTOP"))[b"fallbacks"] == 0
    assert b"respkv_slots_with_fallbacks:0\r\n" in client("INFO", "replication")


def test_what_a_stand_in_holds_outlives_who_wrote_it_and_is_read() -> None:
    """The last replica dies for a while after a write that a stand-in holds; one of the others is back meanwhile."""
    scene = Scene(sloppy_quorum="yes")
    scene.leave()
    assert scene.client("SET", KEY, "after") == b"OK"
    scene.ring.cluster.machines[scene.first - 1].kill()
    back = scene.away[0]
    scene.ring.cluster.machines[back - 1].start()
    scene.wait_live([back, *scene.stand_ins])
    client = scene.ring.connect(back)
    # From the hint that is delivered, or from the stand-in's memory before that.
    assert client("GET", KEY) == b"after"
    told = flat(client("RKV.LASTOP"))
    assert told[b"fallbacks"] == 1


def test_who_may_hold_and_what() -> None:
    """Refused, and not counted: by a node that was not told to, for one that is no member, for itself."""
    strict, sloppy = SimulatedRing(3), SimulatedRing(3, sloppy_quorum="yes")
    for ring, target, refusals in ((strict, 1, 1), (sloppy, 9, 1), (sloppy, 2, 1), (sloppy, 1, 0)):
        node = next(ring.node(number).ring for number in (1, 2, 3) if ring.node(number).ring.me == 2)
        node.stand_in.on_hold(3, HoldFor(77, target, b""))
        done, refused = node._acks.pop(3)
        assert (len(done), len(refused)) == (1 - refusals, refusals), target


def test_pairs_are_as_many_as_are_missing_and_follow_the_walk() -> None:
    placement = Placement(form(6))
    stand_ins = StandIns()
    assert not stand_ins.refresh(placement, 1, lambda short: False, 1) and stand_ins.of == {}
    stand_ins.on = True
    assert not stand_ins.refresh(placement, 1, lambda short: True, 1)
    assert stand_ins.refresh(placement, 1, lambda short: short not in (2, 3), 1)
    for slot, group in enumerate(placement.table):
        pairs = stand_ins.of.get(slot)
        if sorted(group) == [1, 2, 3]:
            first = placement.walk(slot)[3]
            assert pairs == ((first, next(short for short in group if short != 1)),)
        else:
            assert pairs is None
    # Nobody to stand in: nothing that looks like a quorum.
    assert stand_ins.refresh(placement, 1, lambda short: False, 1) and stand_ins.of == {}
    assert node_of(stand_in_number(4, 2)) == 4 and node_of(5) == 5


def test_wait_counts_replicas_that_hold_it() -> None:
    """Not members that are no replicas, and not one for which hints are still held."""
    ring = SimulatedRing(5)
    client = ring.connect(1)
    for at in range(50):
        assert client("SET", f"k{at}", "v") == b"OK"
    assert client("WAIT", 2, 1000) == 2 and client("WAIT", 3, 100) == 2
    ring.cluster.machines[1].kill()
    ring.run(20 * _S, lambda: ring.node(1).ring.stats()["members_live"] == 4)
    for at in range(50):
        assert client("SET", f"k{at}", "w") == b"OK"
    assert client("WAIT", 2, 100) == 1
    ring.node(1).ring.repair.hints.bytes_per_s = 0
    ring.cluster.machines[1].start()
    ring.run(20 * _S, lambda: ring.node(1).ring.stats()["members_live"] == 5)
    assert client("WAIT", 2, 100) == 1
    ring.node(1).ring.repair.hints.bytes_per_s = 1 << 20
    assert client("WAIT", 2, 9000) == 2
