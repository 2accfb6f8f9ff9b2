"""Nodes of a ring without sockets: members with their meshes, wired in memory, on disks that outlive them."""

from __future__ import annotations

from typing import Any

from respkv.base.errors import StorageFull
from respkv.cluster.ring import Ring
from respkv.env.rng import seeded
from respkv.node.mesh import Mesh
from respkv.node.ring_member import RingMember
from respkv.testing.disk import SimulatedFileSystem
from respkv.wire.frames import FrameReader
from respkv.wire.handshake import Peer
from respkv.wire.messages import Address, Join

STEP_US = 100_000
S = 1_000_000
DIRECTORY = "/data"
SECRET = b"of this ring"


def new_disk() -> SimulatedFileSystem:
    """A disk with an empty directory for the data."""
    fs = SimulatedFileSystem()
    fs.mkdir(DIRECTORY)
    fs.sync_dir("/")
    return fs


def node_id_of(number: int) -> bytes:
    """Ids fall while numbers rise, so that their order is no accident."""
    return bytes([200 - number]) * 16


def address(number: int) -> Address:
    """Where node ``number`` listens to others."""
    return f"10.0.0.{number}", 17000


def join_of(number: int, *, node_id: bytes | None = None, port: int = 7000) -> Join:
    """Node ``number`` as it introduces itself."""
    host = f"10.0.0.{number}"
    return Join(node_id or node_id_of(number), bytes(16), host, port, 7100, 0, host, 17000)


class RigNode:
    """One process: its mesh, its member, and what the hooks said."""

    def __init__(self, world: World, number: int, join: Join, *, cluster_size: int, seeds: tuple[Address, ...]) -> None:
        self.world = world
        self.number = number
        self.rings: list[Ring] = []
        self.events: list[tuple[str, int, bool]] = []
        self.lines: list[tuple[str, str]] = []
        #: plans are run as they come; else they wait until this is set again
        self.saving = True
        self.readers: dict[int, FrameReader] = {}
        rng = seeded(world.now_us + number)
        self.mesh = Mesh(join.node_id, secret=SECRET, rng=rng, log=self.log)
        self.member = RingMember(
            join=join,
            seeds=seeds,
            cluster_size=cluster_size,
            replicas=3,
            mesh=self.mesh,
            fs=world.disks[number],
            directory=DIRECTORY,
            rng=rng,
            log=self.log,
            now_us=world.now_us,
        )
        self.member.on_ring = self.on_ring
        self.member.on_change = lambda short, live: self.events.append(("live", short, live))
        self.mesh.heard = self.member.heard
        self.mesh.receive = self.receive
        self.mesh.on_member = self.on_member

    def log(self, level: str, text: str) -> None:
        self.lines.append((level, text))

    def logged(self, part: str) -> bool:
        """Whether a line of the log holds ``part``."""
        return any(part in text for _, text in self.lines)

    def on_ring(self, ring: Ring, placement: Any) -> None:
        assert placement is self.member.placement
        assert self.mesh.short == 0
        self.rings.append(ring)

    def on_member(self, short: int, up: bool) -> None:
        self.events.append(("link", short, up))
        self.member.on_link(short, up, self.world.now_us)

    def receive(self, short: int, link: int, message: Any) -> None:
        self.world.said.append((self.number, short, message))
        assert self.member.owns(message)
        self.member.on_message(short, link, message, self.world.now_us)

    def step(self) -> None:
        """Timer and files."""
        if self.world.now_us >= self.member.next_timer_us():
            self.member.on_timer(self.world.now_us)
        self.save()

    def save(self) -> None:
        plan = self.member.save_plan() if self.saving else None
        if plan is None:
            return
        assert self.member.save_plan() is None
        try:
            plan.run()
        except StorageFull as error:
            self.member.on_save_failed(plan, error, self.world.now_us)
        else:
            self.member.on_saved(plan)

    def check(self) -> None:
        self.member.check_invariants()
        self.mesh.check_invariants()


class World:
    """``size`` nodes are to form a ring; number 1 founds it."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.now_us = S
        self.nodes: dict[int, RigNode] = {}
        self.disks: dict[int, SimulatedFileSystem] = {}
        #: (to, short of the sender, message)
        self.said: list[tuple[int, int, Any]] = []
        #: (number, link) -> the other end
        self.ends: dict[tuple[int, int], tuple[int, int]] = {}
        #: pairs of numbers, the lower one first, between which no dial gets through
        self.apart: list[tuple[int, int]] = []
        self._next_link = 0

    def start(
        self,
        number: int,
        *,
        bootstrap: bool | None = None,
        seeds: tuple[int, ...] = (1,),
        node_id: bytes | None = None,
        port: int = 7000,
    ) -> RigNode:
        founds = number == 1 if bootstrap is None else bootstrap
        self.disks.setdefault(number, new_disk())
        node = RigNode(
            self,
            number,
            join_of(number, node_id=node_id, port=port),
            cluster_size=self.size if founds else 0,
            seeds=() if founds else tuple(address(seed) for seed in seeds),
        )
        self.nodes[number] = node
        return node

    def formed(self) -> World:
        """Start all and let them form."""
        for number in range(1, self.size + 1):
            self.start(number)
        self.run(4)
        return self

    def kill(self, number: int) -> None:
        """The process ends; its disk stays, its links are reset."""
        del self.nodes[number]
        for end in [end for end in self.ends if end[0] == number]:
            self.cut(*end)

    def part(self, number: int, other: int) -> None:
        """Nothing gets through between two nodes any more, and both learn of it."""
        self.apart.append((min(number, other), max(number, other)))
        for mine, theirs in list(self.ends.items()):
            if (mine[0], theirs[0]) == (number, other):
                self.cut(*mine)

    def cut(self, number: int, link: int) -> None:
        """Both ends of a link learn that it has ended."""
        other = self.ends.pop((number, link), None)
        ends = [(number, link)]
        if other is not None:
            self.ends.pop(other, None)
            ends.append(other)
        for at, its_link in ends:
            if at in self.nodes:
                self.nodes[at].mesh.link_down(its_link, "reset", self.now_us)

    def run(self, seconds: float) -> None:
        for _ in range(round(seconds * S / STEP_US)):
            self.now_us += STEP_US
            for number in sorted(self.nodes):
                self.nodes[number].step()
            self.dial()
            self.deliver()
            for node in self.nodes.values():
                node.check()

    def dial(self) -> None:
        places = {address(number): number for number in self.nodes}
        for number in sorted(self.nodes):
            mesh = self.nodes[number].mesh
            for place in mesh.wanted(self.now_us):
                mesh.dialing(place)
                other = places.get(place)
                if other is None or (min(number, other), max(number, other)) in self.apart:
                    mesh.dial_failed(place, "connection refused", self.now_us)
                    continue
                self.connect(number, place, other)

    def connect(self, number: int, place: Address, other: int) -> None:
        """A dial that arrives."""
        self._next_link += 2
        mine, theirs = (number, self._next_link), (other, self._next_link + 1)
        dialer, accepter = self.nodes[number], self.nodes[other]
        hellos = accepter.mesh.hello(), dialer.mesh.hello()
        self.ends[mine], self.ends[theirs] = theirs, mine
        ended: list[tuple[int, int]] = []
        # The accepter is the first to know that the handshake has succeeded.
        for node, link, at, hello in (
            (accepter, theirs[1], None, hellos[1]),
            (dialer, mine[1], place, hellos[0]),
        ):
            node.readers[link] = FrameReader()
            peer = Peer(hello.node_id, hello.cluster_id, hello.short, 1, 0)
            refusal, older = node.mesh.link_up(link, peer, at, "somewhere")
            if older is not None:
                ended.append((node.number, older))
            if refusal:
                ended.append((node.number, link))
                break
        for end in ended:
            self.cut(*end)

    def deliver(self) -> None:
        """Send frames until nobody has any."""
        busy = True
        while busy:
            busy = False
            for number in sorted(self.nodes):
                node = self.nodes[number]
                node.save()
                for link in list(node.mesh.broken):
                    self.cut(number, link)
                dirty = list(node.mesh.dirty)
                node.mesh.dirty.clear()
                for link in dirty:
                    busy |= self.send(node, link)

    def send(self, node: RigNode, link: int) -> bool:
        sent = False
        while (frame := node.mesh.next_frame(link)) is not None:
            sent = True
            end = self.ends.get((node.number, link))
            if end is None or end[0] not in self.nodes:
                continue
            other = self.nodes[end[0]]
            reader = other.readers[end[1]]
            reader.feed(frame)
            other.mesh.on_frames(end[1], reader.frames(), self.now_us)
        return sent

    def shorts(self) -> dict[int, int]:
        """Number -> short id, of those that run."""
        return {number: node.member.me for number, node in self.nodes.items()}
