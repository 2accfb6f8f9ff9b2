"""Nodes that die, are away, or cannot reach each other: nothing acknowledged is lost, and all becomes equal again.

Times here are short. ``RESPKV_ABSENCE_S=30 RESPKV_KILLS=20`` runs the same tests with the times of the promises.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from tests.integration.cluster.conftest import ABSENCE_S, Network, Ring, running_ring, wait_until

KILLS = int(os.environ.get("RESPKV_KILLS", "3"))
#: What is promised: QUORUM works again after a node has died; hints are there; replicas are equal after healing.
AGAIN_S = 2.0
HINTED_S = 15.0
EQUAL_S = 30.0


@pytest.fixture(scope="module")
def ring3() -> Iterator[Ring]:
    """A ring whose nodes are killed. Each test leaves it whole."""
    yield from running_ring()


class Writer:
    """Counts its own key up at QUORUM, at another node when one does not answer.

    ``acknowledged`` is the last number that was acknowledged, ``tried`` the last one sent, ``moments`` when each
    acknowledgement came."""

    def __init__(self, ring: Ring, key: str, nodes: list[int]) -> None:
        self._ring = ring
        self.key = key
        self._nodes = nodes
        self.acknowledged = self.tried = 0
        self.moments: list[float] = []
        self.surprises: list[str] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def end(self) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        turn = 0
        while not self._stop.is_set():
            number = self._nodes[turn % len(self._nodes)]
            turn += 1
            try:
                with self._ring.client(number, socket_timeout=5) as client:
                    self._count(client)
            except redis.ResponseError as error:
                # It may say no, or that it cannot know; anything else would be wrong.
                if not str(error).startswith(("NOREPLICAS", "TIMEOUT", "TRYAGAIN", "CLUSTERDOWN", "LOADING")):
                    self.surprises.append(str(error))
                time.sleep(0.01)
            except (redis.RedisError, OSError):
                time.sleep(0.01)

    def _count(self, client: redis.Redis) -> None:
        while not self._stop.is_set():
            self.tried += 1
            client.set(self.key, self.tried)
            self.acknowledged = self.tried
            self.moments.append(time.monotonic())


def lost(values: dict[str, bytes | None], writers: list[Writer]) -> list[str]:
    """Keys that hold less than was acknowledged, or what nobody has sent."""
    found = []
    for writer in writers:
        value = values[writer.key]
        if not writer.acknowledged <= int(value or 0) <= writer.tried:
            found.append(writer.key)
    return found


def silence_after(writers: list[Writer], moment: float) -> float:
    """How long after a moment the last of the writers got its next acknowledgement."""
    return max(next((at for at in writer.moments if at > moment), time.monotonic()) - moment for writer in writers)


def quorum_values(ring: Ring, number: int, writers: list[Writer]) -> dict[str, bytes | None]:
    with ring.client(number) as client:
        return {writer.key: client.get(writer.key) for writer in writers}


def assert_equal_everywhere(ring: Ring, keys: list[str], patience_s: float) -> float:
    """Wait until every node holds the same of the keys by itself; seconds it took."""
    numbers = list(ring.nodes)

    def equal() -> bool:
        copies = [ring.contents(number, keys) for number in numbers]
        return all(copy == copies[0] for copy in copies)

    return wait_until(equal, patience_s, lambda: str([ring.contents(number, keys)[:20] for number in numbers]))


def test_kill_in_a_loop_under_load(ring3: Ring) -> None:
    """Any node may die at any moment: no acknowledged QUORUM write is lost, and QUORUM works again within 2 s."""
    writers = [Writer(ring3, f"w{at}", [at % 3 + 1, (at + 1) % 3 + 1, (at + 2) % 3 + 1]) for at in range(6)]
    pauses = []
    try:
        for turn in range(KILLS):
            number = turn % 3 + 1
            time.sleep(0.7)
            killed = time.monotonic()
            ring3.nodes[number].kill()
            time.sleep(AGAIN_S + 0.2)
            pauses.append(silence_after(writers, killed))
            ring3.nodes[number].start()
            ring3.wait_whole()
    finally:
        for writer in writers:
            writer.end()
    assert [writer.surprises for writer in writers] == [[]] * 6
    assert min(writer.acknowledged for writer in writers) > 50
    for number in ring3.nodes:
        assert lost(quorum_values(ring3, number, writers), writers) == []
    assert max(pauses) < AGAIN_S, pauses
    assert_equal_everywhere(ring3, [writer.key for writer in writers], HINTED_S)


def test_a_lost_write_would_be_found(ring3: Ring) -> None:
    """The control of the loop: one acknowledged number is taken back behind its back."""
    writers = [Writer(ring3, f"c{at}", [1]) for at in range(2)]
    time.sleep(0.2)
    for writer in writers:
        writer.end()
    assert all(writer.acknowledged > 1 for writer in writers)
    with ring3.client(2) as client:
        client.set("c1", writers[1].acknowledged - 1)
    assert lost(quorum_values(ring3, 3, writers), writers) == ["c1"]
    with ring3.client(2) as client:
        client.delete("c0")
    assert lost(quorum_values(ring3, 3, writers), writers) == ["c0", "c1"]


def test_a_node_that_was_away_gets_what_it_missed(ring3: Ring) -> None:
    """Killed, written to, started: its copy is complete within 15 s, from hints, and deletes stay deleted."""
    keys = [f"h{at}" for at in range(500)]
    with ring3.client(1, level="all") as client:
        for key in keys[:50]:
            client.set(key, "old")
    ring3.nodes[3].kill()
    gone = time.monotonic()
    wait_until(lambda: ring3.live(1) == 2, 10)
    with ring3.client(1) as client:
        for key in keys[10:]:
            assert client.set(key, key)
        assert client.delete(*keys[:10]) == 10
    time.sleep(max(0.0, ABSENCE_S - (time.monotonic() - gone)))
    pending = {number: ring3.hints(number) for number in (1, 2)}
    assert sum(pending.values()) > 0, pending
    ring3.nodes[3].start()
    took_s = wait_until(lambda: ring3.live(3) == 3 and not any(ring3.hints(n) for n in (1, 2)), HINTED_S, ring3.report)
    wanted = [None] * 10 + [key.encode() for key in keys[10:]]
    assert ring3.contents(3, keys) == wanted, took_s
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
    writers = [Writer(ring3, f"s{at}", [1, 2]) for at in range(3)]
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
        for writer in writers:
            writer.end()
    assert [writer.surprises for writer in writers] == [[]] * 3
    assert pause < AGAIN_S
    assert lost(quorum_values(ring3, 3, writers), writers) == []
    assert_equal_everywhere(ring3, [writer.key for writer in writers], HINTED_S)


def test_nobody_is_taken_for_dead_under_load(ring: Ring) -> None:
    """As much as the machine can do, from all nodes: no suspicion becomes a verdict."""
    before = {number: ring.status(number)[b"deaths"] for number in ring.nodes}
    stop = time.monotonic() + ABSENCE_S

    def load(number: int) -> None:
        with ring.client(number) as client:
            while time.monotonic() < stop:
                pipe = client.pipeline(transaction=False)
                for at in range(1000):
                    pipe.set(f"load-{number}-{at}", "v" * 200)
                pipe.execute()

    threads = [threading.Thread(target=load, args=(number,)) for number in ring.nodes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {number: ring.status(number)[b"deaths"] for number in ring.nodes} == before
    assert all(ring.live(number) == 3 for number in ring.nodes)


def test_writes_on_both_sides_of_a_partition_meet(tmp_path: Path) -> None:
    """Node 3 alone: QUORUM goes on at the others and is refused there; EVENTUAL goes on everywhere. After healing all
    replicas are equal, the last writer of each key has won, and what was deleted stays so."""
    network = Network()
    ring = Ring(tmp_path, network=network)
    try:
        ring.start()
        shared, both = [f"s{at}" for at in range(50)], [f"b{at}" for at in range(50)]
        with ring.client(2, level="all") as client:
            for key in shared + both:
                client.set(key, "before")
        network.isolate(3, [1, 2])
        wait_until(lambda: ring.live(1) == 2 and ring.live(2) == 2 and ring.live(3) == 1, 20, ring.report)
        with ring.client(3) as client, pytest.raises(redis.ResponseError, match=r"NOREPLICAS|TIMEOUT"):
            client.set("refused", "v")
        with ring.client(3, level="eventual") as client:
            for key in both:
                assert client.set(key, "minority")
            assert client.set("only-3", "v") and client.get("only-3") == b"v"
        time.sleep(0.05)
        with ring.client(1) as client:
            for key in both:
                assert client.set(key, "majority")
            for key in shared[:25]:
                assert client.delete(key) == 1
            assert client.get("only-3") is None
        time.sleep(ABSENCE_S / 3)
        network.heal()
        keys = [*shared, *both, "only-3"]
        assert_equal_everywhere(ring, keys, EQUAL_S)
        ring.wait_whole()
        wanted = [None] * 25 + [b"before"] * 25 + [b"majority"] * 50 + [b"v"]
        wait_until(lambda: ring.contents(2, keys) == wanted, EQUAL_S, lambda: str(ring.contents(2, keys)))
        assert all(ring.contents(number, keys) == wanted for number in ring.nodes)
    finally:
        ring.end()


def test_the_network_of_the_tests_cuts(tmp_path: Path) -> None:
    """The control of the partition: while it is cut a node sees nobody, and afterwards all."""
    network = Network()
    ring = Ring(tmp_path, network=network)
    try:
        ring.start()
        network.isolate(1, [2, 3])
        wait_until(lambda: ring.live(1) == 1 and ring.live(2) == 2, 20, ring.report)
        network.heal()
        ring.wait_whole()
    finally:
        ring.end()
