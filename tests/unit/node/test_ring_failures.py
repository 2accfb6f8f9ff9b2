"""A member that stands still or is gone, and what the others' clients notice of it: whole nodes under virtual time."""

from __future__ import annotations

from typing import Any

import pytest

from respkv.base.errors import ProtocolError
from respkv.base.ids import STRING
from respkv.base.limits import HOLD_US
from respkv.base.slots import slot_of
from respkv.causality.hlc import pack_stamp
from respkv.causality.record import encode
from respkv.node.ring_node import RETIRED_MAX
from respkv.storage.engine import Engine
from respkv.storage.job_board import FLUSH
from respkv.wire.messages import OK, ReadResult, Reads
from tests.unit.keyspace.rig import ColdRng
from tests.unit.node.simulated_ring import SimulatedRing
from tests.unit.node.small_ring import SmallRing

_S = 1_000_000
#: QUORUM works again within this long when one node is gone; where the machine is busy it may take up to 2 s.
AGAIN_US = 5 * _S // 4
FAILED = ("TIMEOUT", "NOREPLICAS", "TRYAGAIN")


def key_of(ring: SimulatedRing, number: int) -> str:
    """A key whose acting primary is a node."""
    node = ring.node(number).ring
    keys = (f"k{at}" for at in range(999))
    return next(key for key in keys if node.coordinator.primary(slot_of(key.encode())) == node.me)


@pytest.mark.parametrize("phase_us", [0, _S // 2])
def test_a_primary_that_stands_still_is_routed_around(phase_us: int) -> None:
    """Nothing ends its connections: that it is gone shows in what it does not answer, and only in that."""
    ring = SimulatedRing(3)
    key, now = key_of(ring, 3), lambda: ring.cluster.schedule.now_us
    requests = [("HSET", "h", "f", "v"), ("INCR", "n"), ("HGETALL", "h"), ("GET", "s"), ("SET", "s", "v")]
    clients = {(name, f"{{{key}}}{suffix}", *rest): ring.connect(1) for name, suffix, *rest in requests}
    for words, client in clients.items():
        assert not str(client(*words)).startswith(FAILED)
    ring.run(phase_us)
    ring.cluster.machines[2].pause(60 * _S)
    last = dict.fromkeys(clients, now())
    silent = dict.fromkeys(clients, 0)
    end = now() + 4 * _S
    while now() < end:
        for words, client in clients.items():
            if not str(client(*words)).startswith(FAILED):
                silent[words], last[words] = max(silent[words], now() - last[words]), now()
        ring.run(20_000)
    assert max(silent.values()) < AGAIN_US, silent
    began = now()
    for words, client in clients.items():
        assert not str(client(*words)).startswith(FAILED)
    assert now() - began < 10_000 * len(clients)


def test_what_was_answered_while_a_node_stood_still_counts() -> None:
    """It was stopped with questions under way, for longer than it waits for an answer: the answers are in its sockets,
    and are read before anything is given up."""
    ring = SimulatedRing(3)
    client, now = ring.connect(1), lambda: ring.cluster.schedule.now_us
    key, other = key_of(ring, 1), key_of(ring, 3)
    assert client.all(("SET", key, "v"), ("HSET", f"{{{other}}}h", "f", "v")) == [b"OK", 1]
    done = []

    def busy(node: Any) -> bool:
        return node.coordinator.busy() or node.forwards.busy() or node.flushes.busy()

    for words in [("GET", key), ("SET", key, "w"), ("HSET", f"{{{other}}}h", "f", "w"), ("FLUSHALL",)]:
        for _ in range(5):
            client.send(words)
            ring.run(_S, lambda: busy(ring.node(1).ring))
            ring.cluster.machines[0].pause(4 * _S)
            began = now()
            done += client.wait(1)
            assert now() - began > 3 * _S
            ring.run(_S)
    assert done == [b"v"] * 5 + [b"OK"] * 5 + [0] * 5 + [b"OK"] * 5


def test_whatever_was_answered_while_a_node_stood_still_is_read_first() -> None:
    """Questions that are given no more time than usual: what came in time is no less true for being read late."""
    ring = SimulatedRing(3)
    client, watch = ring.connect(1), ring.node(1).ring.watch
    assert client("SET", "k", "v") == b"OK"
    answers: list[Any] = []
    ring.cluster.machines[0].wake(lambda: watch.where(0, b"k", (1, 2, 3), answers.append))
    ring.run(_S, watch.busy)
    ring.cluster.machines[0].pause(4 * _S)
    ring.run(5 * _S)
    assert len(answers) == 1 and None not in answers[0].values()


@pytest.mark.parametrize("still_us", [150_000, 300_000, 600_000, 1_500_000])
def test_a_node_that_stands_still_again_and_again_gives_up_all_the_same(still_us: int) -> None:
    """Whatever time it is given for that: clients are not left waiting for nodes that are gone."""
    ring = SimulatedRing(3)
    client, now = ring.connect(1), lambda: ring.cluster.schedule.now_us
    assert client("SET", "k", "v") == b"OK"
    for machine in ring.cluster.machines[1:]:
        machine.pause(60 * _S)
    client.send(("SET", "k", "w"))
    ring.run(_S, lambda: ring.node(1).ring.coordinator.busy())
    began, told = now(), []
    while not told and now() - began < 30 * _S:
        ring.cluster.machines[0].pause(still_us)
        ring.run(still_us + 20_000)
        told = client.come()
    assert told and str(told[0]).startswith(FAILED) and now() - began < 7 * _S


@pytest.mark.parametrize("gone", ["paused", "killed"])
def test_a_read_for_a_node_that_is_gone_is_made_elsewhere(gone: str) -> None:
    """A node that has no copy asks one that has; when that is gone it asks another, and the client sees no error."""
    ring = SimulatedRing(4)
    node = ring.node(1).ring
    keys = [f"k{at}" for at in range(99)]
    key = next(key for key in keys if not node.coordinator.mine[slot_of(key.encode())])
    client, now = ring.connect(1), lambda: ring.cluster.schedule.now_us
    assert client("SET", key, "v") == b"OK" and client("GET", key) == b"v"
    first = node.coordinator.primary(slot_of(key.encode()))
    machine = next(ring.cluster.machines[n - 1] for n in (2, 3, 4) if ring.node(n).ring.me == first)
    if gone == "paused":
        machine.pause(60 * _S)
    else:
        machine.kill()
    began = now()
    assert [client("GET", key), client("STRLEN", key)] == [b"v", 1]
    assert now() - began < AGAIN_US and node.stats()["forwards_open"] == 0


def test_merkle_roots_are_told() -> None:
    """Equal where the copies are; a change shows at whoever has it."""
    ring = SimulatedRing(3, enable_debug_command="yes")
    nodes = [ring.connect(number) for number in (1, 2, 3)]
    empty = [node("DEBUG", "MERKLE") for node in nodes]
    assert empty[0] == empty[1] == empty[2] and empty[0][0] == 1
    slot = slot_of(b"k")
    empty_slot, neighbour = (nodes[0]("DEBUG", "MERKLE", at) for at in (slot, slot + 1))
    assert nodes[0]("SET", "k", "v") == b"OK"
    ring.run(_S)
    told = [(node("DEBUG", "MERKLE"), node("DEBUG", "MERKLE", slot)) for node in nodes]
    assert told[0] == told[1] == told[2] and told[0][0] != empty[0] and told[0][1] != empty_slot
    assert nodes[0]("DEBUG", "MERKLE", slot + 1) == neighbour
    assert nodes[0]("DEBUG", "MERKLE", 16384).startswith("ERR Invalid slot")


def test_a_replica_whose_flush_does_not_get_on_refuses_writes_and_gets_them_later() -> None:
    """Memory is bounded on every node, whoever writes: its co-replicas keep for it what it cannot take."""
    ring = SimulatedRing(3)
    client, slow = ring.connect(1), ring.node(3)
    assert client("SET", "k", "v") == b"OK"
    board = slow.engine._catalog.board
    board.blocked[FLUSH] = True  # As if the job that has ended could not be brought in force.
    for number in range(RETIRED_MAX + 1):
        for at in range(10):
            assert client("SET", f"k{at}", number) == b"OK"
        ring.run(10_000)
        slow.engine.rotate()
    assert len(slow.engine.immutables) == RETIRED_MAX, "nothing came for another one"
    hints = ring.node(1).ring.repair.hints_pending(slow.ring.me)
    assert hints >= 10 and slow.ring.live(ring.node(1).ring.me)
    board.blocked[FLUSH] = False
    ring.run(60 * _S, lambda: not ring.node(1).ring.repair.hints_pending(slow.ring.me))
    local = ring.connect(3)
    assert local("RKV.LEVEL", "eventual") == b"OK"
    assert [local("GET", f"k{at}") for at in range(10)] == [b"%d" % RETIRED_MAX] * 10


def test_all_members_wait_for_the_one_that_is_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """What one member's clients wait is what everybody's wait, until it is well; a member that is gone holds nobody."""
    ring = SimulatedRing(3)
    behind, own, wait_us = ring.node(3).engine, Engine.brake_us, HOLD_US

    monkeypatch.setattr(Engine, "brake_us", lambda engine: wait_us if engine is behind else own(engine))
    ring.run(_S)  # An idle node notices at its next timer.
    assert [ring.node(number).brake_us() for number in (1, 2, 3)] == [HOLD_US] * 3
    assert ring.node(1).engine.brake_us() == 0
    wait_us = 0
    ring.run(100_000)
    assert [ring.node(number).brake_us() for number in (1, 2, 3)] == [0] * 3
    wait_us = HOLD_US
    ring.run(_S)
    assert ring.node(1).brake_us() == HOLD_US
    ring.cluster.machines[2].pause(60 * _S)
    ring.run(3 * _S // 2)
    assert [ring.node(number).brake_us() for number in (1, 2)] == [0] * 2


def test_a_message_that_waited_for_a_block_and_is_nonsense_ends_its_link_alone() -> None:
    ring = SmallRing(hints_max_bytes="0")
    node, client = ring.node(1), ring.connect(1)
    port = node.ring
    key = next(key for key in (b"k%d" % at for at in range(99)) if port.coordinator.asks[slot_of(key)] is not None)
    assert client.call("SET", key, "v") == b"OK"
    node.engine.rotate()
    ring.run(3 * _S)
    node.fs.cold = ColdRng()
    held: list[tuple[int, int, ReadResult]] = []
    receive = port.mesh.receive

    def hold(short: int, link: int, message: Any) -> None:
        if isinstance(message, ReadResult):
            held.append((short, link, message))
        else:
            receive(short, link, message)

    port.mesh.receive = hold
    client.send("GET", key)
    ring.until(lambda: bool(held))
    port.mesh.receive = receive
    for cached in node.engine._catalog.cache._files.values():
        cached.blocks.clear()
    node.fs.drop_page_cache()
    node.keyspace.cache.clear_all()
    ((short, link, answer),) = held
    future = encode(STRING, pack_stamp((node.now_ms + 600_000) << 16, short), b"$1\r\nw\r\n")
    receive(short, link, answer._replace(differing=((0, OK, future),)))
    assert port.mesh.member_of(link) == short and port._waiting == 1
    assert client.take() == b"v", "another replica was asked"
    assert port.mesh.member_of(link) == 0 and port._waiting == 0
    ring.heal()
    assert client.call("GET", key) == b"v"


@pytest.mark.parametrize(
    ("sloppy", "internals"), [("no", (b"", b"\1\0\1")), ("yes", (b"", b"\1\0\1", b"\1\xff\xff\0\0k"))]
)
def test_a_read_of_what_is_no_key_is_nonsense(sloppy: str, internals: tuple[bytes, ...]) -> None:
    ring = SmallRing(sloppy_quorum=sloppy)
    peer, receive = ring.node(2).ring.me, ring.node(1).ring.receive
    for internal in internals:
        with pytest.raises(ProtocolError):
            receive(peer, 1, Reads(7, [internal], [bytes(10)]))
