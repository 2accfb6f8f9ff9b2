"""A formed ring of production nodes under virtual time, without faults but those that a test makes, asked by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import hiredis

from respkv.node.node import Node
from respkv.testing.cluster import Cluster, Plan
from respkv.testing.network import Endpoint
from respkv.testing.node_driver import encode_request

S = 1_000_000
_PATIENCE_US = 20 * S


class Connection:
    """One client of one node; requests are answered one by one."""

    def __init__(self, ring: SmallRing, number: int) -> None:
        self._ring = ring
        self._reader = hiredis.Reader()
        self._replies: list[Any] = []
        self._end: Endpoint | None = None
        cluster = ring.cluster
        address = cluster.machines[number - 1].address
        cluster.network.dial(f"by hand {number}", address, lambda end, reason: self._dialed(end))
        ring.until(lambda: self._end is not None)

    def _dialed(self, end: Endpoint | None) -> None:
        assert end is not None, "the node does not listen"
        self._end = end
        end.on_ready = self._on_ready

    def _on_ready(self) -> None:
        assert self._end is not None
        self._reader.feed(self._end.recv(1 << 20))
        while (reply := self._reader.gets()) is not False:
            self._replies.append(reply)

    def send(self, *words: bytes | str | int) -> None:
        """A request, whose reply is fetched by ``take``."""
        data, end = encode_request(*words), self._end
        assert end is not None
        while data := data[end.send(data) :]:
            self._ring.until(lambda: end.room() > 0)

    def take(self) -> Any:
        """The next reply; errors are returned, as ``hiredis.ReplyError``."""
        self._ring.until(lambda: bool(self._replies))
        return self._replies.pop(0)

    def call(self, *words: bytes | str | int) -> Any:
        """A request and its reply."""
        self.send(*words)
        return self.take()


class SmallRing:
    """``values`` are directives; blanks divide the words of one."""

    def __init__(self, nodes: int = 3, *, make_node: Callable[..., Node] = Node, seed: int = 1, **values: str) -> None:
        # The simulated disks hold whole log segments, which are as large as the memtable wants them.
        given = {"memtable-bytes": "262144"}
        given |= {name.replace("_", "-"): '" "'.join(value.split(" ")) for name, value in values.items()}
        self.cluster = Cluster(Plan(seed, nodes=nodes, directives=given, make_node=make_node))
        for machine in self.cluster.machines:
            machine.start()
        self.until(self.cluster._formed, 60 * S)

    def until(self, condition: Callable[[], bool], patience_us: int = _PATIENCE_US) -> None:
        """Let time pass until something holds."""
        schedule = self.cluster.schedule
        schedule.run_until(schedule.now_us + patience_us, stop=condition)
        assert condition(), "not within the time it may take"

    def run(self, count_us: int) -> None:
        """Let time pass."""
        self.cluster.schedule.run_until(self.cluster.schedule.now_us + count_us)

    def connect(self, number: int) -> Connection:
        """A connection to node ``number``, from 1."""
        return Connection(self, number)

    def node(self, number: int) -> Any:
        """The node itself."""
        return self.cluster.machines[number - 1].node

    def cut(self, number: int) -> None:
        """Cut a node off from all others, until they have noticed."""
        self._between(number, self.cluster.network.cut)
        self.until(lambda: all(not self._sees(number, other) for other in self._others(number)), 60 * S)

    def heal(self) -> None:
        """Let everything through again, and wait until all see each other."""
        self.cluster.network.restore_all()
        self.until(self.cluster._formed, 120 * S)

    def settle(self) -> None:
        """Wait until all replicas are equal."""
        self.until(self.cluster._settled, 150 * S)

    def _others(self, number: int) -> list[int]:
        return [other for other in range(1, len(self.cluster.machines) + 1) if other != number]

    def _between(self, number: int, act: Callable[[str, str], None]) -> None:
        machines = self.cluster.machines
        for other in self._others(number):
            act(machines[number - 1].name, machines[other - 1].name)
            act(machines[other - 1].name, machines[number - 1].name)

    def _sees(self, number: int, other: int) -> bool:
        here, there = self.node(number).ring, self.node(other).ring
        return bool(here.live(there.me) or there.live(here.me))
