"""A whole ring of production nodes under virtual time, and connections to its nodes: answers in milliseconds.

Unlike the simulator's own runs nothing fails here and time passes only while an answer is awaited.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import hiredis

from respkv.testing.cluster import Cluster, Plan
from respkv.testing.network import Endpoint
from respkv.testing.node_driver import encode_request
from tests.unit.commands.harness import ErrorText

_S = 1_000_000
_ANSWER_US = 10 * _S


class Connection:
    """A client's connection to one node. Called with words it returns the decoded reply."""

    def __init__(self, ring: SimulatedRing, end: Endpoint) -> None:
        self._ring = ring
        self._end = end
        self._reader = hiredis.Reader()
        self._replies: list[Any] = []
        end.on_ready = self._on_ready

    def __call__(self, *words: bytes | str | int) -> Any:
        return self.all(words)[0]

    def all(self, *requests: tuple[bytes | str | int, ...]) -> list[Any]:
        """The replies of a pipeline."""
        self.send(*requests)
        return self.wait(len(requests))

    def send(self, *requests: tuple[bytes | str | int, ...]) -> None:
        """Requests whose replies are fetched by ``wait``."""
        data = b"".join(encode_request(*words) for words in requests)
        assert self._end.send(data) == len(data)

    def wait(self, count: int) -> list[Any]:
        """The next ``count`` replies or messages."""
        self._ring.run(_ANSWER_US, lambda: len(self._replies) >= count)
        assert len(self._replies) >= count, "no answer"
        taken, self._replies = self._replies[:count], self._replies[count:]
        return taken

    def come(self) -> list[Any]:
        """What has come so far."""
        taken, self._replies = self._replies, []
        return taken

    def close(self) -> None:
        self._end.close()

    def _on_ready(self) -> None:
        self._reader.feed(self._end.recv(1 << 20))
        while (reply := self._reader.gets()) is not False:
            self._replies.append(ErrorText(reply) if isinstance(reply, hiredis.ReplyError) else reply)


class SimulatedRing:
    """``size`` nodes that have formed a ring, numbered from 1. ``directives`` go to all of them."""

    def __init__(self, size: int = 3, *, formed: bool = True, **directives: str) -> None:
        given = {name.replace("_", "-"): value for name, value in {"databases": "4", **directives}.items()}
        self.cluster = Cluster(Plan(seed=size, nodes=size, clients=0, directives=given))
        self.size = size
        for machine in self.cluster.machines[: size if formed else size - 1]:
            machine.start()
        if formed:
            self.run(60 * _S, self.cluster._formed)
            assert self.cluster._formed()
        else:
            self.run(2 * _S)

    def run(self, length_us: int, stop: Callable[[], bool] | None = None) -> None:
        """Let time pass."""
        schedule = self.cluster.schedule
        schedule.run_until(schedule.now_us + length_us, stop=stop)

    def node(self, number: int) -> Any:
        """The production node."""
        node = self.cluster.machines[number - 1].node
        assert node is not None
        return node

    def connect(self, number: int, *, face: str = "plain") -> Connection:
        """A connection to a face of a node."""
        machine = self.cluster.machines[number - 1]
        ends: list[Endpoint] = []

        def dialed(end: Endpoint | None, reason: str) -> None:
            assert end is not None, reason
            ends.append(end)

        before = list(self.node(number).sessions)
        self.cluster.network.dial(f"test{number}", machine.address, dialed)
        self.run(_S, lambda: bool(ends) and len(self.node(number).sessions) > len(before))
        sessions = self.node(number).sessions
        [fresh] = [ident for ident in sessions if ident not in before]
        sessions[fresh].cluster_face = face == "cluster"
        return Connection(self, ends[0])
