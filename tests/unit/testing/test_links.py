"""Real meshes over the simulated network."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from respkv.cluster.ring import Member, Ring, first_ring
from respkv.env.rng import seeded
from respkv.node.mesh import Mesh
from respkv.testing.links import SimulatedLinks
from respkv.testing.network import Network
from respkv.testing.schedule import Schedule, Trace
from respkv.wire.messages import SessionGone

S = 1_000_000
IDS = [bytes([number]) * 16 for number in (1, 2)]


def ring() -> Ring:
    members = [
        Member(node_id=IDS[n], short=n + 1, client_host="h", client_port=7001 + n, alternate_port=0,
               cluster_enabled=False, node_host="h", node_port=17001 + n)
        for n in range(2)
    ]  # fmt: skip
    return first_ring(bytes(15) + b"\x01", seed=1, replicas=2, members=members)


class Pair:
    """Two nodes of a ring, each a mesh with links; a cycle runs whenever something has happened."""

    def __init__(self, *, seed: int = 1, secrets: tuple[bytes, bytes] = (b"s", b"s")) -> None:
        self.schedule = Schedule()
        self.network = Network(self.schedule, seeded(seed), Trace(self.schedule))
        self.meshes = [
            Mesh(IDS[n], secret=secrets[n], rng=seeded(seed + n), log=lambda level, text: None) for n in range(2)
        ]
        self.received: list[list[Any]] = [[], []]
        self.links = [self._links(n, seed) for n in range(2)]
        for n, mesh in enumerate(self.meshes):
            mesh.receive = lambda short, link, message, n=n: self.received[n].append(message)  # type: ignore[misc]
            mesh.became_member(ring(), n + 1)

    def _links(self, n: int, seed: int) -> SimulatedLinks:
        def wake(action: Callable[[], None]) -> None:
            def cycle() -> None:
                action()
                self.links[n].flush()

            self.schedule.after(10, cycle)

        return SimulatedLinks(
            self.meshes[n], network=self.network, host=f"n{n}", address=("h", 17001 + n), rng=seeded(seed + 10 + n),
            wake=wake, now_us=lambda: self.schedule.now_us, trace=Trace(self.schedule),
        )  # fmt: skip

    def run(self, count_us: int) -> None:
        until_us = self.schedule.now_us + count_us
        while self.schedule.now_us < until_us:
            for links in self.links:
                links.tick()
                links.flush()
            self.schedule.run_until(min(until_us, self.schedule.now_us + 100_000))
        for links in self.links:
            links.check_invariants()


def linked(pair: Pair) -> list[bool]:
    return [pair.meshes[0].linked(2), pair.meshes[1].linked(1)]


def test_two_nodes_find_each_other_and_speak_in_order() -> None:
    pair = Pair()
    pair.run(2 * S)
    assert linked(pair) == [True, True]
    for number in range(50):
        pair.meshes[0].send(2, SessionGone(number))
        pair.run(1_000)
    pair.run(S)
    assert pair.received[1] == [SessionGone(number) for number in range(50)]
    assert [links.open_links() for links in pair.links] == [1, 1]


def test_wrong_secrets_never_link() -> None:
    pair = Pair(secrets=(b"s", b"t"))
    pair.run(20 * S)
    assert linked(pair) == [False, False]
    assert any("secrets differ" in reason for links in pair.links for reason in links.ended)


@pytest.mark.parametrize("seed", range(10))
def test_both_dial_at_once_and_one_link_stays(seed: int) -> None:
    pair = Pair(seed=seed)
    for n in range(2):
        pair.links[n].dial(("h", 17002 - n))
    pair.run(5 * S)
    assert linked(pair) == [True, True]
    assert [links.open_links() for links in pair.links] == [1, 1]
    pair.meshes[1].send(1, SessionGone(7))
    pair.run(S)
    assert pair.received[0] == [SessionGone(7)]


def test_a_replayed_handshake_gets_nowhere() -> None:
    pair = Pair()
    pair.network.echoing, pair.network.echo_percent = ("n0", "n1"), 100
    pair.run(10 * S)
    assert linked(pair) == [True, True]
    pair.meshes[0].send(2, SessionGone(1))
    pair.meshes[1].send(1, SessionGone(2))
    pair.run(S)
    assert pair.received == [[SessionGone(2)], [SessionGone(1)]]
    refused = sum(links.ended.get("the secrets differ", 0) for links in pair.links)
    assert refused >= 1, "the echo proved nothing"


def test_a_link_that_is_reset_comes_back() -> None:
    pair = Pair()
    pair.run(2 * S)
    pair.network.reset("n0", "n1")
    pair.run(200_000)
    assert linked(pair) == [False, False] or pair.links[0].ended
    pair.run(5 * S)
    assert linked(pair) == [True, True]


def test_a_peer_that_does_not_read_costs_its_window_and_its_queue() -> None:
    pair = Pair()
    pair.run(2 * S)
    pair.network.clog("n0", "n1")
    for _ in range(30_000):
        pair.meshes[0].send(2, SessionGone(1))
        pair.links[0].flush()
    assert pair.meshes[0].linked(2) is False, "far beyond its bound the link is given up"
    pair.network.restore_all()
    pair.run(20 * S)
    assert linked(pair) == [True, True]
