"""Nodes that die, are away, or cannot reach each other: nothing acknowledged is lost, and all becomes equal again.

Times here are short. With ``RESPKV_ABSENCE_S=30 RESPKV_KILLING_S=300 RESPKV_PARTITION_S=30 RESPKV_LOAD_S=60`` the same
tests run as long as what is promised is about.
"""

from __future__ import annotations

import itertools
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from respkv.node.mesh import QUEUE_BYTES
from respkv.replication.hints import REPLAY_BYTES_PER_S
from tests.integration.cluster.conftest import ABSENCE_S, Network, Ring, running_ring, wait_until
from tests.integration.cluster.history import Watcher, Writer, end_all, lost, silence_after

#: How long nodes are killed; one dies every three or four seconds.
KILLING_S = float(os.environ.get("RESPKV_KILLING_S", "15"))
#: How long all nodes have as much to do as the machine can.
LOAD_S = float(os.environ.get("RESPKV_LOAD_S", "5"))
#: How long the ring is in two parts, beside the time in which that is noticed.
PARTITION_S = float(os.environ.get("RESPKV_PARTITION_S", "4"))
#: What is promised: QUORUM works again after a node has died; hints are there; replicas are equal after healing.
AGAIN_S = 2.0
HINTED_S = 15.0
EQUAL_S = 30.0
#: The most that one cycle's writes may add to a queue that is not full yet.
MESSAGE_BYTES = 4 << 20


@pytest.fixture(scope="module")
def ring3() -> Iterator[Ring]:
    """A ring whose nodes are killed. Each test leaves it whole."""
    yield from running_ring()


def assert_equal_everywhere(ring: Ring, keys: list[str], patience_s: float) -> float:
    """Wait until every node holds the same of the keys by itself; seconds it took."""
    numbers = list(ring.nodes)

    def equal() -> bool:
        copies = [ring.contents(number, keys) for number in numbers]
        return all(copy == copies[0] for copy in copies)

    return wait_until(equal, patience_s, lambda: str([ring.contents(number, keys)[:20] for number in numbers]))


@pytest.mark.timeout(300 + KILLING_S)
def test_kill_in_a_loop_under_load(ring3: Ring) -> None:
    """Any node may die at any moment: no acknowledged QUORUM write is lost, none is unseen by a QUORUM read even for a
    moment, and QUORUM works again within 2 s."""
    writers = [
        Writer(ring3, f"w{at}", [at % 3 + 1, (at + 1) % 3 + 1, (at + 2) % 3 + 1], field=at >= 4) for at in range(6)
    ]
    watchers = [Watcher(ring3, writers, [at + 1, (at + 1) % 3 + 1]) for at in range(2)]
    clients = [*writers, *watchers]
    pauses = []
    stop = time.monotonic() + KILLING_S
    try:
        for turn in itertools.count():
            time.sleep(random.uniform(0.3, 1.0))
            if time.monotonic() > stop:
                break
            number = random.choice((1, 2, 3)) if turn else 1
            killed = time.monotonic()
            ring3.nodes[number].kill()
            time.sleep(AGAIN_S + 0.2)
            pauses.append(silence_after(clients, killed))
            ring3.nodes[number].start()
            ring3.wait_whole()
    finally:
        end_all(clients)
    assert [client.surprises for client in clients] == [[]] * len(clients)
    assert [watcher.stale for watcher in watchers] == [[], []]
    assert min(len(client.moments) for client in clients) > 50
    for number in ring3.nodes:
        assert lost(ring3, number, writers) == []
    assert max(pauses) < AGAIN_S, pauses
    assert_equal_everywhere(ring3, [writer.key for writer in writers if not writer.field], HINTED_S)


def test_lost_writes_would_be_found(tmp_path: Path) -> None:
    """The control: a ring that acknowledges what one node alone has. That node is cut off, written to, and dies."""
    network = Network()
    ring = Ring(tmp_path, network=network, read_quorum=1, write_quorum=1)
    try:
        ring.start()
        writers = [Writer(ring, f"c{at}", [1]) for at in range(2)]
        watcher = Watcher(ring, writers, [2])
        time.sleep(0.3)
        network.isolate(1, [2, 3])
        time.sleep(0.3)
        end_all([*writers, watcher])
        ring.nodes[1].kill()
        assert all(writer.acknowledged > 1 for writer in writers)
        assert [text.split()[0] for text in lost(ring, 2, writers)] == ["c0", "c1"]
        assert {text.split()[0] for text in watcher.stale} == {"c0", "c1"}
    finally:
        ring.end()


def test_a_node_that_was_away_gets_what_it_missed(ring3: Ring) -> None:
    """Killed, written to, started: hints alone make its copy complete within 15 s, and deletes stay deleted."""
    keys = [f"h{at}" for at in range(2000)]
    with ring3.client(1, level="all") as client:
        client.mset(dict.fromkeys(keys[:50], "old"))
    ring3.nodes[3].kill()
    gone = time.monotonic()
    wait_until(lambda: ring3.live(1) == 2 and ring3.live(2) == 2, 10)
    before = {number: ring3.status(number) for number in (1, 2)}
    for number in (1, 2):
        with ring3.client(number) as client:
            pipe = client.pipeline(transaction=False)
            for key in keys[9 + number :: 2]:
                pipe.set(key, key)
            pipe.hset(f"hash{number}", mapping={f"f{at}": str(at) for at in range(100)})
            pipe.execute()
    with ring3.client(1) as client:
        assert client.delete(*keys[:10]) == 10
    time.sleep(max(0.0, ABSENCE_S - (time.monotonic() - gone)))
    missed = sum(ring3.hints(number) for number in (1, 2))
    assert missed >= len(keys) + 200
    ring3.nodes[3].start()
    took_s = wait_until(lambda: ring3.live(3) == 3 and not any(ring3.hints(n) for n in (1, 2)), HINTED_S, ring3.report)
    wanted = [None] * 10 + [key.encode() for key in keys[10:]]
    assert ring3.contents(3, keys) == wanted, took_s
    with ring3.client(3, level="eventual") as client:
        assert [client.hlen(f"hash{number}") for number in (1, 2)] == [100, 100]
    # It was the hints, not anti-entropy: all of them have arrived, and that had next to nothing left to find.
    after = {number: ring3.status(number) for number in (1, 2, 3)}
    assert sum(after[n][b"hints_delivered"] - before[n][b"hints_delivered"] for n in (1, 2)) >= missed
    assert all(after[n][b"hints_dropped_full"] == after[n][b"hints_dropped_error"] == 0 for n in (1, 2))
    found = sum(after[n][b"repair_differences"] - before[n][b"repair_differences"] for n in (1, 2))
    assert found < missed // 20, after
    ring3.wait_whole()


def test_what_each_level_needs(ring3: Ring) -> None:
    """One node away: ALL refuses, QUORUM works. Two away: QUORUM refuses, EVENTUAL works. A refusal changes nothing."""
    with ring3.client(1, level="all") as client:
        client.set("k", "before")
    ring3.nodes[3].kill()
    wait_until(lambda: ring3.live(1) == 2, 10)
    with ring3.client(1, level="all") as client, pytest.raises(redis.ResponseError, match="NOREPLICAS"):
        client.set("k", "refused")
    with ring3.client(1) as client:
        assert client.get("k") == b"before" and client.set("k", "quorum") and client.get("k") == b"quorum"
    ring3.nodes[2].kill()
    wait_until(lambda: ring3.live(1) == 1, 10)
    with ring3.client(1) as client:
        for refused in (lambda: client.set("k", "refused"), lambda: client.incr("n"), lambda: client.get("k")):
            with pytest.raises(redis.ResponseError, match=r"NOREPLICAS|MASTERDOWN"):
                refused()
    with ring3.face(1) as face, pytest.raises(redis.RedisError):
        face.set("k", "refused")
    with ring3.client(1, level="eventual") as client:
        assert client.get("k") == b"quorum" and client.set("k", "eventual") and client.get("k") == b"eventual"
    for number in (2, 3):
        ring3.nodes[number].start()
    ring3.wait_whole()
    assert_equal_everywhere(ring3, ["k", "n"], HINTED_S)
    assert ring3.contents(3, ["k", "n"]) == [b"eventual", None]


def test_a_node_that_stands_still_is_routed_around(ring3: Ring) -> None:
    """SIGSTOP: its connections stay open and nothing comes. The others go on within 2 s, and it is no member lost."""
    writers = [Writer(ring3, f"s{at}", [1, 2], field=at == 2) for at in range(3)]
    try:
        time.sleep(0.5)
        stopped = time.monotonic()
        ring3.nodes[3].signal(signal.SIGSTOP)
        try:
            time.sleep(AGAIN_S + 0.5)
            pause = silence_after(writers, stopped)
        finally:
            ring3.nodes[3].signal(signal.SIGCONT)
        ring3.wait_whole()
    finally:
        end_all(writers)
    assert [writer.surprises for writer in writers] == [[]] * 3
    assert pause < AGAIN_S
    assert lost(ring3, 3, writers) == []
    assert_equal_everywhere(ring3, [writer.key for writer in writers if not writer.field], HINTED_S)


def test_what_was_given_up_is_not_done_later(ring3: Ring) -> None:
    """A node stands still with requests of others' clients in its sockets: their outcome is unknown, what the clients
    write next is acknowledged by the others, and is not overwritten when the node goes on."""
    keys = [f"late{at}" for at in range(60)]
    clients = [ring3.client(1) for _ in keys]
    ring3.nodes[2].signal(signal.SIGSTOP)
    try:
        for key, client in zip(keys, clients):
            client.connection.send_command("HSET", key, "f", "given up")
        unknown = 0
        for client in clients:
            try:
                client.connection.read_response()
            except redis.ResponseError as error:
                unknown += str(error).startswith("TIMEOUT")
            client.close()
        wait_until(lambda: ring3.live(1) == 2, 10)
        with ring3.client(1) as client:
            for key in keys:
                client.hset(key, "f", "acknowledged")
    finally:
        ring3.nodes[2].signal(signal.SIGCONT)
    ring3.wait_whole()
    wait_until(lambda: ring3.status(2)[b"forwards_expired"] >= unknown > 5, 10, ring3.report)
    with ring3.client(1) as client:
        assert [client.hget(key, "f") for key in keys] == [b"acknowledged"] * len(keys)
        assert client.hset(keys[0], "f", "later") == 0


class Load:
    """redis-benchmark for as long as a ``with`` lasts, one for each of the words of each of the nodes."""

    def __init__(self, ring: Ring, numbers: list[int], *words: str) -> None:
        self._commands = [
            ["redis-benchmark", "-p", str(ring.nodes[number].port), "-l", "-q", *line.split()]
            for number in numbers
            for line in words
        ]

    def __enter__(self) -> Load:
        self._outputs = [os.memfd_create("output") for _ in self._commands]
        self._running = [
            subprocess.Popen(command, stdout=output, stderr=output)
            for command, output in zip(self._commands, self._outputs)
        ]
        return self

    def __exit__(self, *exc: object) -> None:
        for process in self._running:
            process.kill()
            process.wait()
        for output in self._outputs:
            os.close(output)

    def problems(self) -> list[bytes]:
        """The last words of those that have ended: an error reply ends them."""
        ended = [output for process, output in zip(self._running, self._outputs) if process.poll() is not None]
        return [os.pread(output, 1 << 20, 0)[-200:] for output in ended]


needs_benchmark = pytest.mark.skipif(shutil.which("redis-benchmark") is None, reason="redis-benchmark is not installed")


@needs_benchmark
def test_nobody_is_taken_for_dead_under_load(ring: Ring) -> None:
    """As much as the machine can do, from all nodes, also in long pipelines: no suspicion becomes a verdict, and no
    link is given up."""
    before = {number: ring.status(number) for number in ring.nodes}
    strings = "-c 50 -d 200 -r 100000"
    words = (f"{strings} -t set,get", f"{strings} -t set -P 64", "-r 1000 HSET h:__rand_int__ f v")
    with Load(ring, [1, 2, 3], *words) as load:
        time.sleep(LOAD_S)
        assert load.problems() == []
        during = {number: ring.status(number) for number in ring.nodes}
    for number, status in during.items():
        for name in (b"deaths", b"mesh_overflows"):
            assert status[name] == before[number][name], (name, number, ring.report())
        assert status[b"groups_met"] > before[number][b"groups_met"]
    ring.wait_whole()


def memory(ring: Ring, number: int) -> int:
    """Resident bytes of a node."""
    with ring.client(number) as client:
        return int(client.info("memory")["used_memory_rss"])


@needs_benchmark
def test_a_peer_that_does_not_read_costs_its_queue(ring3: Ring) -> None:
    """SIGSTOP of a node while the others write as fast as they can, for long enough to fill any buffer: what waits for
    it stays bounded, QUORUM goes on, and afterwards it gets everything."""
    # Few keys: what the store itself takes in memory is soon all it takes.
    with Load(ring3, [1, 2], "-c 20 -P 8 -d 4000 -r 500 -t set") as load:
        time.sleep(2)
        before = {number: (ring3.status(number), memory(ring3, number)) for number in (1, 2)}
        ring3.nodes[3].signal(signal.SIGSTOP)
        try:
            stop = time.monotonic() + AGAIN_S + ABSENCE_S
            most = dict.fromkeys((1, 2), 0)
            while time.monotonic() < stop:
                time.sleep(0.1)
                for number in (1, 2):
                    status = ring3.status(number)
                    assert status[b"mesh_queued_bytes"] <= QUEUE_BYTES + MESSAGE_BYTES
                    most[number] = max(most[number], memory(ring3, number) - before[number][1])
            during = {number: ring3.status(number) for number in (1, 2)}
        finally:
            ring3.nodes[3].signal(signal.SIGCONT)
        assert load.problems() == []
    for number in (1, 2):
        assert during[number][b"groups_met"] > before[number][0][b"groups_met"] + 20
        assert during[number][b"groups_failed"] == before[number][0][b"groups_failed"]
        # It was more than was kept in memory, and that went to disk.
        assert during[number][b"hint_bytes"] > QUEUE_BYTES
        assert most[number] < 8 * QUEUE_BYTES, most
    ring3.wait_whole()
    # As many hints as there are take their time: each node sends them at a bounded rate.
    patience_s = EQUAL_S + max(status[b"hint_bytes"] for status in during.values()) / (REPLAY_BYTES_PER_S / 2)
    wait_until(lambda: not ring3.hints(1) and not ring3.hints(2), patience_s, ring3.report)
    wait_until(lambda: everything(ring3, 1) == everything(ring3, 2) == everything(ring3, 3), EQUAL_S, ring3.report)


def merkle_roots(ring: Ring) -> list[Any]:
    """What each node says of all its slots; with as many replicas as nodes that is the same for all."""
    answers = []
    for number in ring.nodes:
        with ring.client(number) as client:
            answers.append(client.execute_command("DEBUG MERKLE"))
    return answers


def everything(ring: Ring, number: int) -> dict[bytes, Any]:
    """All keys that a node holds, by itself."""
    with ring.client(number, level="eventual") as client:
        pipe = client.pipeline(transaction=False)
        keys = sorted(client.scan_iter(count=1000))
        for key in keys:
            pipe.type(key)
        for key, kind in zip(keys, pipe.execute()):
            (pipe.hgetall if kind == b"hash" else pipe.get)(key)
        return dict(zip(keys, pipe.execute()))


def test_writes_on_both_sides_of_a_partition_meet(tmp_path: Path) -> None:
    """Node 3 alone: QUORUM goes on at the others and is refused there; EVENTUAL goes on everywhere. After healing all
    replicas have the same Merkle roots and contents, the last writer of each key has won, what was deleted stays so."""
    network = Network()
    ring = Ring(tmp_path, network=network, enable_debug_command="yes")
    try:
        ring.start()
        shared, both = [f"s{at}" for at in range(50)], [f"b{at}" for at in range(50)]
        with ring.client(2, level="all") as client:
            for key in shared + both:
                client.set(key, "before")
            client.hset("hash", mapping={"both": "before", "gone": "before"})
        network.isolate(3, [1, 2])
        wait_until(lambda: ring.live(1) == 2 and ring.live(2) == 2 and ring.live(3) == 1, 20, ring.report)
        writers = [Writer(ring, f"w{at}", [at], level="eventual" if at == 3 else "") for at in (1, 2, 3)]
        began = time.monotonic()
        with ring.client(3) as client, pytest.raises(redis.ResponseError, match=r"NOREPLICAS|TIMEOUT"):
            client.set("refused", "v")
        with ring.client(3, level="eventual") as client:
            for key in both:
                assert client.set(key, "minority")
            assert client.set("only-3", "v") and client.get("only-3") == b"v"
            assert client.hset("hash", mapping={"both": "minority", "three": "v"}) == 1
        time.sleep(0.05)
        with ring.client(1) as client:
            for key in both:
                assert client.set(key, "majority")
            for key in shared[:25]:
                assert client.delete(key) == 1
            assert client.hset("hash", "both", "majority") == 0 and client.hdel("hash", "gone") == 1
            assert client.get("only-3") is None and client.hget("hash", "three") is None
        time.sleep(max(0.0, PARTITION_S - (time.monotonic() - began)))
        end_all(writers)
        roots = merkle_roots(ring)
        assert roots[0] == roots[1] != roots[2]
        network.heal()
        healed = time.monotonic()
        wait_until(lambda: len({tuple(root) for root in merkle_roots(ring)}) == 1, EQUAL_S, ring.report)
        held = [everything(ring, number) for number in ring.nodes]
        assert time.monotonic() - healed < EQUAL_S and held[0] == held[1] == held[2]
        assert merkle_roots(ring)[0][0] == 1
        ring.wait_whole()
        assert [writer.surprises for writer in writers] == [[]] * 3
        for writer in writers:
            assert writer.acknowledged <= int(held[0].pop(writer.key.encode())) <= writer.tried
        assert held[0] == {
            **{key.encode(): b"before" for key in shared[25:]},
            **{key.encode(): b"majority" for key in both},
            b"only-3": b"v",
            b"hash": {b"both": b"majority", b"three": b"v"},
        }
    finally:
        ring.end()


def test_two_nodes_that_cannot_reach_each_other(tmp_path: Path) -> None:
    """Node 3 reaches both: QUORUM goes on everywhere, nothing acknowledged is unseen, and nobody is taken for dead."""
    network = Network()
    ring = Ring(tmp_path, network=network)
    try:
        ring.start()
        writers = [Writer(ring, f"p{at}", [at % 3 + 1], field=at >= 3) for at in range(6)]
        watchers = [Watcher(ring, writers, [number]) for number in (1, 2)]
        try:
            time.sleep(0.5)
            network.isolate(1, [2])
            cut = time.monotonic()
            time.sleep(AGAIN_S + 0.5)
            pause = silence_after([*writers, *watchers], cut)
            time.sleep(PARTITION_S)
            network.heal()
            ring.wait_whole()
        finally:
            end_all([*writers, *watchers])
        assert [client.surprises for client in (*writers, *watchers)] == [[]] * 8
        assert [watcher.stale for watcher in watchers] == [[], []]
        for number in ring.nodes:
            assert lost(ring, number, writers) == []
            assert ring.status(number)[b"deaths"] == 0
        assert pause < AGAIN_S, pause
    finally:
        ring.end()
