"""Husks, and how they are buried, where a ring does not go its usual way: whole nodes under virtual time."""

from __future__ import annotations

from hashlib import sha512
from typing import Any

import pytest

from respkv.base.slots import slot_of
from respkv.causality.record import TYPE_MASK
from respkv.keyspace import keys
from respkv.wire.messages import RangeRead
from tests.unit.node.small_ring import Connection, S, SmallRing
from tests.unit.node.test_hashes_on_a_ring import expire_soon, key_of


def at_eventual(client: Connection, *commands: tuple[str, ...]) -> list[Any]:
    client.call("RKV.LEVEL", "EVENTUAL")
    return [client.call(*words) for words in commands]


def shown(ring: SmallRing) -> list[list[Any]]:
    """What walks and counts tell at each node."""
    clients = [ring.connect(number) for number in range(1, len(ring.cluster.machines) + 1)]
    return [[client.call("DBSIZE"), client.call("KEYS", "*")] for client in clients]


def husks(ring: SmallRing) -> list[int]:
    for machine in ring.cluster.machines:
        if machine.node is not None:
            machine.node.keyspace.husks.check_invariants()
    return [ring.node(number).ring.stats()["husks"] for number in range(1, len(ring.cluster.machines) + 1)]


NOTHING = [[0, []]] * 3


def test_a_peer_that_dies_while_it_is_given_what_it_lacks() -> None:
    ring = SmallRing(hints_max_bytes="0")
    key, client = key_of(ring, 1), ring.connect(1)
    assert client.call("HSET", key, "f", "v") == 1
    ring.run(S)
    ring.cluster.machines[2].kill()
    ring._between(1, ring.cluster.network.cut)
    ring.until(lambda: not ring.node(1).ring.live(ring.node(2).ring.me), 60 * S)
    at_eventual(client, ("HDEL", key, "f"))
    ring.run(4 * S)
    ring.cluster.network.restore_all()
    node = ring.node(1)
    ring.until(lambda: bool(node.ring.burials.open), 60 * S)
    ring.until(lambda: bool(node.ring.coordinator.writes._pushes), 60 * S)
    ring.cluster.machines[1].kill()
    ring.run(20 * S)
    assert client.call("PING") == b"PONG" and not node.ring.burials.open and node.ring.stats()["husks"] == 1


@pytest.mark.parametrize("command", ["HSET", "EXEC"])
def test_what_is_expired_before_the_events_of_a_request_was_not_compared(command: str) -> None:
    """A field's time comes while a request that does not empty its hash is being compared."""
    ring = SmallRing(hints_max_bytes="0", notify_keyspace_events="KEA", enable_debug_command="yes")
    key, client, other = key_of(ring, 1), ring.connect(1), ring.connect(2)
    names, network = [machine.name for machine in ring.cluster.machines], ring.cluster.network
    assert client.call("HSET", key, "f", "v") == 1
    assert client.call("DEBUG", "SET-ACTIVE-EXPIRE", "0") == b"OK"
    ring.run(S)
    ring.cut(1)
    assert other.call("HSET", key, "g", "w") == 1
    client.call("RKV.LEVEL", "EVENTUAL")
    expire_soon(client, key, "f", 700)
    at_us = ring.cluster.schedule.now_us + 700_000
    client.call("RKV.LEVEL", "QUORUM")
    network.restore_all()
    node = ring.node(1)
    ring.until(lambda: all(node.ring.live(ring.node(number).ring.me) for number in (2, 3)), 59 * S)
    ring.run(at_us - 20_000 - ring.cluster.schedule.now_us)
    for name in names[1:]:
        network.clog(name, names[0])
    if command == "HSET":
        client.send("HSET", key, "f", "new")
    else:
        for words in (("MULTI",), ("HGET", key, "f")):
            client.call(*words)
        client.send("EXEC")
    ring.run(40_000)
    network.restore_all()
    client.take()
    ring.run(S)
    assert b"g" in other.call("HGETALL", key)


def test_what_is_written_while_a_husk_is_compared_lies_above_its_grave() -> None:
    ring = SmallRing(hints_max_bytes="0")
    names, network = [machine.name for machine in ring.cluster.machines], ring.cluster.network
    key, client, other = key_of(ring, 1), ring.connect(1), ring.connect(2)
    at_eventual(client, ("HSET", key, "f", "v"), ("HDEL", key, "f"))
    burier = ring.node(1).ring
    ring.until(lambda: bool(burier.burials.open), 20 * S)
    for name in names[1:]:
        network.clog(name, names[0])
    stamp = next(iter(burier.burials.open.values())).stamp
    other.call("RKV.LEVEL", "EVENTUAL")
    other.send("HSET", key, "g", "w")
    ring.run(30_000)
    network.restore_all()
    ring.run(10 * S)
    ring.settle()
    record = ring.node(2).keyspace.engine.get(keys.element_prefix(keys.record_key(0, key.encode())) + b"g")
    assert record is None or record[1:11] > stamp
    assert client.call("HGETALL", key) == ([] if record is None else [b"g", b"w"])


def test_stand_ins_have_no_elements_to_compare() -> None:
    ring = SmallRing(5, sloppy_quorum="yes", replication_factor="3")
    key, of = key_of(ring, 1), {ring.node(number).ring.me: number for number in range(1, 6)}
    slot = slot_of(key.encode())
    one, two, three = [of[short] for short in ring.node(1).ring.coordinator.placement.table[slot]]
    machines, client = ring.cluster.machines, ring.connect(one)
    assert client.call("HSET", key, "f", "v") == 1
    ring.run(S)
    ring.cut(one)
    assert ring.connect(two).call("HSET", key, "g", "w") == 1
    machines[two - 1].kill()
    machines[three - 1].kill()
    ring.cluster.network.restore_all()
    node = ring.node(one)
    ring.until(lambda: slot in node.ring.coordinator.stand_ins.of, 90 * S)
    ring.run(5 * S)
    client.call("HDEL", key, "f")
    ring.run(20 * S)
    assert not node.ring.burials.open and node.ring.stats()["husks_buried"] == 0
    machines[two - 1].start()
    machines[three - 1].start()
    ring.until(ring.cluster._formed, 120 * S)
    ring.settle()
    assert client.call("HGETALL", key) == [b"g", b"w"]


@pytest.mark.parametrize(
    ("nodes", "values"),
    [(1, {}), (3, {"replication_factor": "1"}), (3, {"read_quorum": "1", "write_quorum": "3"})],
)
def test_where_nobody_need_be_asked_nothing_stays(nodes: int, values: dict[str, str]) -> None:
    ring = SmallRing(nodes, **values)
    client = ring.connect(1)
    for number in range(70):
        client.call("HSET", f"h{number}", "f", "v", "g", "v")
        client.call("HDEL", f"h{number}", "f")
    assert sum(husks(ring)) == 0
    for number in range(70):
        client.call("HDEL", f"h{number}", "g")
    assert client.call("DBSIZE") == 0 and sum(husks(ring)) == 0
    for number in range(70):
        at_eventual(client, ("HSET", f"h{number}", "f", "v"), ("HDEL", f"h{number}", "f"))
    ring.run(60 * S)
    assert client.call("DBSIZE") == 0 and sum(husks(ring)) == 0
    assert not any(machine.node.ring.burials.open for machine in ring.cluster.machines)  # type: ignore[union-attr]


def test_graves_of_both_sides_of_a_partition() -> None:
    ring = SmallRing()
    key, client, other = key_of(ring, 1), ring.connect(1), ring.connect(2)
    assert client.call("HSET", key, "f", "v", "g", "w") == 2
    ring.run(S)
    ring.cut(1)
    at_eventual(other, ("HSET", key, "x", "1"), ("HDEL", key, "f", "g", "x"))
    at_eventual(client, ("HSET", key, "y", "1"), ("HDEL", key, "f", "g", "y"))
    ring.run(S)
    ring.heal()
    ring.settle()
    assert shown(ring) == NOTHING
    ring.run(30 * S)
    assert husks(ring) == [0, 0, 0]


def test_a_transaction_that_fills_and_empties_at_eventual() -> None:
    ring = SmallRing()
    key, client = key_of(ring, 1), ring.connect(1)
    assert at_eventual(client, ("MULTI",), ("HSET", key, "f", "v"), ("HDEL", key, "f"), ("EXEC",))[-1] == [1, 1]
    ring.run(S)
    assert shown(ring) == NOTHING
    ring.run(20 * S)
    assert husks(ring) == [0, 0, 0]


def test_husks_that_were_flushed_to_a_table_before_a_restart() -> None:
    ring = SmallRing()
    key, client = key_of(ring, 1), ring.connect(1)
    assert client.call("HSET", key, "f", "v") == 1
    ring.run(S)
    for machine in ring.cluster.machines[1:]:
        machine.kill()
    at_eventual(client, ("HDEL", key, "f"))
    ring.node(1).engine.rotate()
    ring.run(20 * S)
    ring.cluster.machines[0].kill()
    for machine in ring.cluster.machines:
        machine.start()
    ring.until(ring.cluster._formed, 60 * S)
    ring.settle()
    ring.run(5 * S)
    assert shown(ring) == NOTHING
    ring.run(30 * S)
    assert husks(ring) == [0, 0, 0]


def test_a_string_over_a_husk_whose_memtable_was_rotated() -> None:
    ring = SmallRing()
    key, client = key_of(ring, 1), ring.connect(1)
    assert client.call("HSET", key, "f", "v") == 1
    for number in (1, 2, 3):
        ring.node(number).engine.rotate()
    expire_soon(client, key, "f", 1000)
    ring.run(2 * S)
    assert husks(ring) == [1, 1, 1]
    assert client.call("SET", key, "string") == b"OK"
    for number in (1, 2, 3):
        ring.node(number).engine.rotate()
        ring.node(number).keyspace.counts.follow()
    ring.run(20 * S)
    assert shown(ring) == [[1, [key.encode()]]] * 3
    assert husks(ring) == [0, 0, 0] and sum(ring.node(n).ring.stats()["husks_buried"] for n in (1, 2, 3)) == 0


def test_as_many_others_are_asked_as_a_read_needs() -> None:
    """Of two peers that are asked one is lost, and no other lives: the one that is left does not count twice."""
    ring = SmallRing(5, replication_factor="5")
    key, client = key_of(ring, 1), ring.connect(1)
    assert client.call("HSET", key, "f", "v") == 1
    ring.run(S)
    node, machines = ring.node(1), ring.cluster.machines
    names = [machine.name for machine in machines]
    for machine in machines[3:]:
        machine.kill()
    ring.until(lambda: sum(node.ring.live(short) for short in range(1, 6) if short != node.ring.me) == 2, 60 * S)
    at_eventual(client, ("HDEL", key, "f"))
    ring.until(lambda: bool(node.ring.burials.open), 20 * S)
    for name in names[1:3]:
        ring.cluster.network.clog(name, names[0])
    machines[1].kill()
    ring.run(300_000)
    ring.cluster.network.restore_all()
    ring.run(60 * S)
    assert node.ring.stats()["husks_buried"] == 0 and node.ring.stats()["husks"] == 1


def test_info_does_not_count_them_among_keys_that_expire() -> None:
    ring = SmallRing()
    key, client = key_of(ring, 1), ring.connect(1)
    assert client.call("HSET", key, "f", "v") == 1
    assert client.call("EXPIRE", key, 1000) == 1
    assert client.call("SET", "string", "v") == b"OK"
    expire_soon(client, key, "f", 1000)
    ring.run(2 * S)
    assert b"db0:keys=1,expires=0" in client.call("INFO", "keyspace")


def test_a_hash_that_is_given_an_expiry_as_it_begins_hides_what_was_deleted() -> None:
    ring = SmallRing()
    key, client = key_of(ring, 1), ring.connect(1)
    client.call("HSET", key, "old", "v")
    client.call("DEL", key)
    for number in (1, 2, 3):
        ring.node(number).engine.rotate()
    for words in (("MULTI",), ("HSET", key, "new", "v"), ("EXPIRE", key, "1000"), ("EXEC",)):
        client.call(*words)
    assert at_eventual(client, ("HGETALL", key)) == [[b"new", b"v"]]


def test_a_flush_spares_what_was_written_after_it() -> None:
    ring = SmallRing()
    key, client, other = key_of(ring, 1), ring.connect(1), ring.connect(2)
    ring.cut(1)
    at_eventual(other, ("FLUSHALL",))
    ring.run(S)
    at_eventual(client, ("HSET", key, "f", "v"), ("HDEL", key, "f"))
    ring.heal()
    ring.settle()
    assert shown(ring) == NOTHING
    ring.run(30 * S)
    assert husks(ring) == [0, 0, 0]
    records = [ring.node(number).keyspace.record(keys.record_key(0, key.encode())) for number in (1, 2, 3)]
    assert not any(record is not None and record[0] & TYPE_MASK for record in records)


def test_one_that_reads_alone_does_not_bury_alone() -> None:
    """R of 1 and W of 2: what two others have acknowledged is known to one of any two."""
    ring = SmallRing(read_quorum="1", write_quorum="2", hints_max_bytes="0")
    key, client, other = key_of(ring, 1), ring.connect(1), ring.connect(2)
    assert client.call("HSET", key, "f", "v") == 1
    expire_soon(client, key, "f", 40_000)
    ring.run(S)
    ring.cut(1)
    assert other.call("HSET", key, "g", "w") == 1
    ring.run(60 * S)
    ring.heal()
    ring.settle()
    assert other.call("HGETALL", key) == [b"g", b"w"]


def test_one_substitute_does_not_stand_for_two() -> None:
    """Of four others two are asked, and both die: what the third holds does not count twice."""
    ring = SmallRing(5, replication_factor="5", hints_max_bytes="0")
    key, client, network, machines = key_of(ring, 1), ring.connect(1), ring.cluster.network, ring.cluster.machines
    node, names = ring.node(1).ring, [machine.name for machine in ring.cluster.machines]
    of = {ring.node(number).ring.me: number for number in range(1, 6)}
    assert client.call("HSET", key, "f", "v") == 1
    ring.run(S)
    a, b, c, d = [of[short] for short in node.coordinator.others(slot_of(key.encode()))]
    for left in (1, c):
        for right in (a, b, d):
            network.cut(names[left - 1], names[right - 1])
            network.cut(names[right - 1], names[left - 1])
    sides = [(ring.node(right).ring, ring.node(left).ring.me) for left in (1, c) for right in (a, b, d)]
    ring.until(lambda: not any(there.live(short) for there, short in sides), 60 * S)
    assert ring.connect(a).call("HSET", key, "g", "w") == 1
    network.restore_all()
    ring.until(lambda: all(node.live(short) for short in of if short != node.me), 60 * S)
    sent, send = [], node.coordinator.reads._send

    def spy(peer: int, message: Any) -> bool:
        if isinstance(message, RangeRead):
            sent.append(of[peer])
        return bool(send(peer, message))

    node.coordinator.reads._send = spy
    for number in (a, b):
        network.clog(names[number - 1], names[0])
    client.send("HDEL", key, "f")
    ring.until(lambda: len(sent) == 2)
    machines[a - 1].kill()
    machines[b - 1].kill()
    client.take()
    assert len(sent) == len(dict.fromkeys(sent)) > 2
    network.restore_all()
    machines[a - 1].start()
    machines[b - 1].start()
    ring.until(ring.cluster._formed, 120 * S)
    ring.settle()
    assert b"g" in client.call("HGETALL", key)


def test_where_stand_ins_acknowledge_nobody_knows_everything() -> None:
    ring = SmallRing(5, sloppy_quorum="yes", replication_factor="3", read_quorum="1", write_quorum="3")
    key, of = key_of(ring, 1), {ring.node(number).ring.me: number for number in range(1, 6)}
    slot = slot_of(key.encode())
    one, two, three = [of[short] for short in ring.node(1).ring.coordinator.placement.table[slot]]
    client, other = ring.connect(one), ring.connect(two)
    names = [machine.name for machine in ring.cluster.machines]
    assert client.call("HSET", key, "f", "v") == 1
    ring.run(S)
    ring.cut(one)
    ring.until(lambda: slot in ring.node(two).ring.coordinator.stand_ins.of, 90 * S)
    for _ in range(50):
        if other.call("HSET", key, "g", "w") == 1:
            break
        ring.run(S)
    for number in (two, three):
        ring.cluster.network.restore(names[one - 1], names[number - 1])
        ring.cluster.network.restore(names[number - 1], names[one - 1])
    for _ in range(400):
        if client.call("HDEL", key, "f") in (0, 1):
            break
        ring.run(5000)
    ring.run(10 * S)
    ring.cluster.network.restore_all()
    ring.until(ring.cluster._formed, 120 * S)
    ring.settle()
    assert client.call("HGETALL", key) == [b"g", b"w"]


def test_a_husk_whose_count_is_not_known_is_found_after_a_restart() -> None:
    ring = SmallRing(hints_max_bytes="0")
    key, client = key_of(ring, 2), ring.connect(1)
    assert client.call("HSET", key, "f", "v") == 1
    ring.run(S)
    ring.cut(2)
    at_eventual(client, ("HDEL", key, "f"))
    ring.run(S)
    ring.heal()
    ring.until(lambda: ring.node(2).ring.stats()["husks"] == 1, 150 * S)
    for machine in ring.cluster.machines:
        machine.kill()
    for machine in ring.cluster.machines:
        machine.start()
    ring.until(ring.cluster._formed, 60 * S)
    ring.settle()
    ring.run(10 * S)
    assert shown(ring) == NOTHING


class Cold:
    """A disk whose blocks are never in memory."""

    def random(self) -> float:
        return 0.0


def chill(ring: SmallRing, number: int) -> None:
    """Nothing of a node's tables is in memory any more."""
    files: Any = ring.cluster.machines[number - 1].fs
    files.cold = Cold()
    for inode in files._names.values():
        if hasattr(inode, "warm"):
            inode.warm.clear()
    cache = ring.node(number).engine._catalog.cache
    for cached in cache._files.values():
        cached.blocks.clear()
    cache._count = cache._charge = cache._pinned_bytes = 0
    cache._ring.clear()
    cache._pinned.clear()


def large_hash(ring: SmallRing, client: Connection, key: str) -> list[str]:
    fields = [f"field{number:05d}" for number in range(6000)]
    client.call("RKV.LEVEL", "EVENTUAL")
    for at in range(0, 6000, 1000):
        client.call("HSET", key, *[word for field in fields[at : at + 1000] for word in (field, "v")])
    ring.run(S)
    return fields


def test_a_burial_of_many_graves_that_have_to_be_read() -> None:
    ring = SmallRing()
    key, client = key_of(ring, 1), ring.connect(1)
    fields = large_hash(ring, client, key)
    for at in range(0, 6000, 1000):
        client.call("HDEL", key, *fields[at : at + 1000])
    node = ring.node(1)
    ring.run(S)
    for number in (1, 2, 3):
        ring.node(number).engine.rotate()
    ring.until(lambda: bool(node.ring.burials.open), 20 * S)
    chill(ring, 1)
    ring.run(60 * S)
    assert not node.ring.burials.open and husks(ring) == [0, 0, 0]


def test_a_comparison_goes_on_where_its_second_page_has_to_be_read() -> None:
    ring = SmallRing()
    key, client = key_of(ring, 1), ring.connect(1)
    large_hash(ring, client, key)
    for number in (1, 2, 3):
        ring.node(number).engine.rotate()
    ring.run(3 * S)
    client.call("RKV.LEVEL", "QUORUM")
    client.send("HGETALL", key)
    ring.until(lambda: bool(ring.node(1).ring.coordinator.reads._ranges))
    chill(ring, 1)
    assert len(client.take()) == 12_000


def test_a_transaction_whose_second_range_has_to_be_read_runs_once() -> None:
    ring = SmallRing(row_cache_bytes="4194304")
    tag, client = key_of(ring, 1), ring.connect(1)
    first, second, counter = (f"{{{tag}}}{name}" for name in ("h1", "h2", "n"))
    values = [sha512(b"%d" % number).hexdigest() for number in range(1000)]
    for at in range(0, 1000, 200):
        client.call("HSET", second, *[w for number in range(at, at + 200) for w in (f"f{number}", values[number])])
    ring.run(S)
    for number in (1, 2, 3):
        ring.node(number).engine.rotate()
    ring.run(3 * S)
    for at in range(0, 5000, 1000):
        client.call("HSET", first, *[word for number in range(at, at + 1000) for word in (f"f{number}", "v")])
    client.call("SET", counter, "0")
    assert len(client.call("HGETALL", second)) == 2000 and client.call("HGETALL", first)
    chill(ring, 1)
    for words in (("MULTI",), ("HGETALL", first), ("HGETALL", second), ("INCR", counter)):
        client.call(*words)
    reply = client.call("EXEC")
    assert isinstance(reply, list) and reply[-1] == 1
    assert client.call("GET", counter) == b"1"
