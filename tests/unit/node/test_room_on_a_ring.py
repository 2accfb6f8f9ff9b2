"""A replica whose disk cannot take what another node sends: it says so, lives on, and gets it when there is room."""

from __future__ import annotations

from typing import Any

import pytest

from respkv.keyspace import keys
from respkv.testing.machine import Machine
from tests.unit.node.small_ring import Connection, SmallRing

BIG = b"v" * 2_000_000
FULL = 3
#: By a name: how it is written, and how it is read.
WAYS: dict[str, tuple[tuple[Any, ...], tuple[Any, ...], Any]] = {
    "string": (("SET", "k", BIG), ("GET", "k"), BIG),
    "expiring": (("SET", "k", BIG, "PX", 10_000_000), ("GETRANGE", "k", 0, 3), b"vvvv"),
    "element": (("HSET", "k", "f", BIG), ("HGET", "k", "f"), BIG),
    "all elements": (("HSET", "k", "f", BIG, "g", "1"), ("HGETALL", "k"), [b"f", BIG, b"g", b"1"]),
    "siblings": (("SET", "cart:k", BIG), ("GET", "cart:k"), BIG),
}


def crowded(*before: tuple[Any, ...], **directives: str) -> tuple[SmallRing, Machine, list[Connection]]:
    """A ring that has carried out requests, and whose last node's disk has half a MB left, and connections."""
    ring = SmallRing(conflict_policy="cart: siblings", **directives)
    connections = [ring.connect(number) for number in (1, 2, FULL)]
    for words in before:
        connections[0].call(*words)
    ring.settle()
    machine = ring.cluster.machines[FULL - 1]
    machine.fs.capacity = machine.fs.used() + 500_000
    return ring, machine, connections


def has_it(machine: Machine) -> bool:
    """Whether a node that has not ended holds a long record."""
    assert machine.node is not None
    found = machine.node.engine.scan(bytes((keys.SPACE_RECORD,)), bytes((keys.SPACE_ELEMENT + 1,)), wait=True)
    return any(len(record) > len(BIG) for _, record in found)


def hints(ring: SmallRing) -> int:
    """Entries that the others hold for the last node."""
    short = ring.node(FULL).ring.me
    return sum(ring.node(number).ring.repair.hints_pending(short) for number in (1, 2))


@pytest.mark.parametrize("way", WAYS)
def test_a_large_value_is_refused_by_the_full_replica_alone_and_comes_as_a_hint_later(way: str) -> None:
    write, read, value = WAYS[way]
    ring, machine, connections = crowded(("SET", "small", "1"))
    node = machine.node
    assert not str(connections[0].call(*write)).startswith(("TIMEOUT", "MISCONF"))
    ring.run(3_000_000)
    assert machine.node is node and not has_it(machine) and node.dispatcher.refusal is None
    assert hints(ring) > 0
    assert [each.call(*read) for each in connections] == [value] * 3, "another replica answers in its place"
    assert connections[FULL - 1].call("GET", "small") == b"1" and connections[FULL - 1].call("SET", "a", "1") == b"OK"
    ring.run(10_000_000)
    assert machine.node is node and not has_it(machine)
    machine.fs.capacity = None
    ring.until(lambda: has_it(machine) and not hints(ring), 60_000_000)
    assert connections[FULL - 1].call(*read) == value
    ring.settle()


def test_it_comes_by_comparing_where_there_is_no_hint() -> None:
    ring, machine, connections = crowded(("SET", "k", "old"), hint_window="1")
    node = machine.node
    assert connections[0].call("SET", "k", BIG) == b"OK"
    ring.until(lambda: not hints(ring), 120_000_000)
    connections[0].send("RKV.REPAIR")
    ring.run(5_000_000)
    assert machine.node is node and not has_it(machine)
    machine.fs.capacity = None
    ring.until(lambda: has_it(machine), 120_000_000)


def test_a_get_of_what_it_has_an_old_value_of_is_answered_elsewhere_from_the_second_on() -> None:
    _, machine, connections = crowded(("SET", "k", "old"), ("SET", "other", "1"))
    full = connections[FULL - 1]
    assert full.call("GET", "k") == b"old" and connections[0].call("SET", "k", BIG) == b"OK"
    full.send("GET", "k")
    full.send("GET", "other")
    assert [str(full.take())[:8], full.take()] == ["TRYAGAIN", b"1"]
    assert [full.call("GET", "k") for _ in range(3)] == [BIG] * 3
    assert full.call("INCR", "other") == 2 and full.call("STRLEN", "k") == len(BIG)
    assert machine.node is not None and machine.node.engine.memtable.table[keys.record_key(0, b"k")][-5:-2] == b"old"
