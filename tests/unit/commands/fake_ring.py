"""A ring for session commands: ring, placement, topology and membership are real; links, hints and rounds are given."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from respkv.base.slots import SLOT_COUNT
from respkv.cluster.membership import Membership
from respkv.cluster.placement import Placement
from respkv.cluster.ring import Ring
from respkv.cluster.topology import Link, Topology
from respkv.commands.session import Session
from respkv.node.repair_run import Row
from respkv.replication.stand_ins import StandIns
from tests.unit.cluster.rings import form
from tests.unit.commands.fake_server import Client, FakeServer, FakeSink


class FakeMesh:
    """Links and figures, set by hand."""

    def __init__(self, links: Iterable[Link] = ()) -> None:
        self.given = list(links)
        self.figures = {"sent_messages": 11, "received_messages": 12, "overflows": 2, "links": len(self.given)}

    def links(self) -> list[Link]:
        return self.given

    def stats(self) -> dict[str, int]:
        return self.figures


class FakeRepair:
    """Hints by member."""

    def __init__(self) -> None:
        self.hints: dict[int, int] = {}

    def hints_pending(self, short: int) -> int:
        return self.hints.get(short, 0)

    def stats(self) -> dict[str, int]:
        return {"hint_entries": sum(self.hints.values())}


class FakeWatch:
    """Answers of members, set by hand; what was asked is kept."""

    def __init__(self) -> None:
        self.answers: dict[int, dict[str, bytes] | None] = {}
        self.asked: list[object] = []
        self.run: Any = None

    def where(self, db: int, key: bytes, members: Iterable[int], done: Callable[[Any], None]) -> None:
        self.asked.append((db, key, list(members)))
        done(self.answers)

    def verify(self, slot: int, replicas: tuple[int, ...], done: Callable[[Any], None]) -> None:
        self.asked.append((slot, replicas))
        done(self.answers)

    def repair(self, slot: int | None, done: Callable[[Any, int], None]) -> Any:
        self.asked.append(slot)
        self.run = FakeRun(done)
        return self.run


class FakeRun:
    """A repair that ends when it is told to."""

    def __init__(self, done: Callable[[Any, int], None]) -> None:
        self.done = done
        self.rows: dict[int, Row] = {}

    def end(self) -> None:
        self.done(self.rows, 7)


class FakeCoordinator:
    """Who would be asked, and what this node has copies of."""

    def __init__(self) -> None:
        self.everywhere = True
        self.mine = bytearray(SLOT_COUNT)
        self.stand_ins = StandIns()
        self.stand_in_reads = self.stand_in_writes = 0

    def primary(self, slot: int) -> int:
        return 3


class FakeRing:
    """Keeps the contract of ``commands.session.RingPort``. ``FakeRing(0)`` is still forming."""

    def __init__(self, members: int = 3, *, me: int = 1, replicas: int = 3) -> None:
        self.me = me if members else 0
        self.mesh = FakeMesh()
        self.repair = FakeRepair()
        self.watch = FakeWatch()
        self.coordinator = FakeCoordinator()
        self.coordinator.everywhere = members <= replicas
        self.ring: Ring | None = None
        self.placement: Placement | None = None
        self.topology: Topology | None = None
        self.membership: Membership | None = None
        if members:
            self.ring = form(members, replicas=replicas)
            self.placement = Placement(self.ring)
            self.membership = Membership(me, range(1, members + 1), incarnation=4)
            self.coordinator.mine[:] = bytes(me in owners for owners in self.placement.table)
            self.rebuild()

    def rebuild(self) -> None:
        """The topology anew, after states have changed."""
        assert self.ring is not None and self.placement is not None and self.membership is not None
        self.topology = Topology(self.ring, self.placement, states=self.membership.states(), me=self.me)

    def status(self) -> str:
        return "waiting for 2 of 3 nodes" if self.ring is None else "member of a ring of 3"

    def peers(self) -> dict[int, dict[str, int | str]]:
        if self.membership is None:
            return {}
        return {short: {"state": "alive", "rtt_us": short, "lag_ms": 10 * short} for short in self.membership.others}

    def summary(self) -> dict[str, int]:
        return {"hints_pending": sum(self.repair.hints.values()), "replication_lag_ms": 30}

    def stats(self) -> dict[str, int]:
        mesh = {f"mesh_{name}": value for name, value in self.mesh.stats().items()}
        return {"formed": 1, "ring_epoch": self.ring.epoch if self.ring else 0, **mesh, **self.repair.stats()}


def join(fake: FakeServer, ring: FakeRing) -> FakeServer:
    """Make ``fake`` a member of ``ring``."""
    fake.ring = ring  # type: ignore[attr-defined]
    return fake


def connect(fake: FakeServer, *, cluster_face: bool = True) -> Client:
    """A connection to one of the faces."""
    sink = FakeSink()
    ident = len(fake.sessions) + 1
    session = Session(ident, fake, sink, address="127.0.0.1:5000", local_address="127.0.0.1:7101")  # type: ignore[arg-type]
    session.cluster_face = cluster_face
    session.authenticated = True
    session.recompute_plain()
    fake.sessions[ident] = session
    return Client(fake, session, sink)
