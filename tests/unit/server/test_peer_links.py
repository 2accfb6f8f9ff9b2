"""Links between nodes over real sockets of 127.0.0.1: handshakes, frames, strangers, deaf peers, ends."""

from __future__ import annotations

import errno
import os
import select
import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import trio

from respkv.base.limits import MIB
from respkv.cluster.ring import Ring, first_ring
from respkv.env.posix import SystemClock
from respkv.env.rng import seeded
from respkv.node.mesh import BROKEN_FACTOR, QUEUE_BYTES, Mesh
from respkv.server import peer_links
from respkv.server.listener import ListenError
from respkv.server.peer_links import CROWDED_US, HANDSHAKE_US, LOG_AGAIN_US, UNFINISHED_MAX, PeerLinks
from respkv.wire.codec import encode
from respkv.wire.frames import FrameReader, FrameWriter, seal
from respkv.wire.handshake import OTHER_CLUSTER, WRONG_SECRET, Handshake, Hello
from respkv.wire.messages import RingPull, Writes
from tests.unit.cluster.rings import CLUSTER, member, node_id
from tests.unit.server.fake_node import World

SECRET = b"open sesame"


class Side:
    """One node: a reactor, a mesh and its links."""

    def __init__(self, number: int, *, secret: bytes = SECRET, port: int = 0, hosts: tuple[str, ...] = ("127.0.0.1",)):
        self.number = number
        self.world = World()
        self.lines: list[str] = []
        self.received: list[tuple[int, Any]] = []
        self.ups: list[tuple[int, bool]] = []
        self.tasks: list[tuple[Any, ...]] = []
        self.sent_before_commit: list[int] = []
        self.mesh = Mesh(
            node_id(number), secret=secret, rng=seeded(number), log=lambda level, text: self.lines.append(text)
        )
        self.mesh.receive = lambda short, link, message: self.received.append((short, message))
        self.mesh.on_member = lambda short, up: self.ups.append((short, up))
        self.links = PeerLinks(
            self.world.reactor,
            self.mesh,
            hosts=hosts,
            port=port,
            clock=self.world.clock,
            log=lambda level, text: self.lines.append(text),
            open_task=lambda function, *arguments: self.tasks.append((function, *arguments)),
        )
        self.links.bind()
        self.links.start()
        self.address = self.links.addresses[0] if hosts else ("", 0)

    def turn(self) -> None:
        self.world.reactor.call_at(0, lambda: self.links.tick(self.world.reactor.now_us))
        self.world.turn()
        self.links.flush()
        self.links.check_invariants()
        self.mesh.check_invariants()

    def close(self) -> None:
        self.links.close()
        assert self.links.stats()["sockets"] == 0
        self.world.close()

    def logged(self, words: str) -> int:
        return sum(words in line for line in self.lines)


Make = Callable[..., Side]


@pytest.fixture
def make() -> Iterator[Make]:
    made: list[Side] = []

    def side(number: int, **options: Any) -> Side:
        made.append(Side(number, **options))
        return made[-1]

    yield side
    for each in made:
        each.close()


def until(done: Callable[[], bool], *sides: Side) -> None:
    """Cycle all sides until ``done``; their clocks stand."""
    clock = SystemClock()
    give_up_us = clock.monotonic_us() + 10_000_000
    epolls = [side.world.reactor.epoll.fileno() for side in sides]
    while not done():
        assert clock.monotonic_us() < give_up_us, [(side.lines, side.links.stats(), side.ups) for side in sides]
        select.select(epolls, [], [], 0.01)
        for side in sides:
            side.turn()


def ring_of(*sides: Side) -> Ring:
    members = [replace(member(side.number), node_host=side.address[0], node_port=side.address[1]) for side in sides]
    return first_ring(CLUSTER, seed=1, replicas=3, members=members)


def form(*sides: Side) -> None:
    """All are members of one ring, and linked."""
    ring = ring_of(*sides)
    for side in sides:
        side.mesh.became_member(ring, side.number)
    advance(2_000_000, *sides)  # The higher ids may dial as well.
    until(lambda: all(s.mesh.linked(t.number) for s in sides for t in sides if s is not t), *sides)


def advance(count_us: int, *sides: Side) -> None:
    for side in sides:
        side.world.clock.us += count_us


class Raw:
    """A peer by hand: a socket and a handshake."""

    def __init__(self, target: Side, number: int = 7, *, short: int = 0, buffer: int = 0) -> None:
        self.target = target
        self.sock = socket.socket()
        if buffer:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        self.sock.connect(target.address)
        self.sock.setblocking(False)
        cluster_id = target.mesh.cluster_id if short else bytes(16)
        self.handshake = Handshake(
            dialer=True, secret=SECRET, me=Hello(node_id(number), cluster_id, short), nonce=b"n" * 32
        )

    def shake(self) -> Raw:
        self.sock.sendall(self.handshake.start())
        while self.handshake.peer is None and not self.handshake.reason:
            self.target.turn()
            try:
                self.sock.sendall(self.handshake.feed(self.sock.recv(4096)))
            except BlockingIOError:
                continue
        self.target.turn()
        return self

    def is_closed(self) -> bool:
        """Whether the other side has closed it; what was sent before is thrown away."""
        try:
            while self.sock.recv(1 << 16):
                pass
        except BlockingIOError:
            return False
        except ConnectionResetError:
            return True
        return True

    def close(self) -> None:
        self.sock.close()


@pytest.fixture
def raw() -> Iterator[Callable[..., Raw]]:
    made: list[Raw] = []

    def one(target: Side, number: int = 7, **options: Any) -> Raw:
        made.append(Raw(target, number, **options))
        return made[-1]

    yield one
    for each in made:
        each.close()


MakeRaw = Callable[..., Raw]


def test_three_members_find_each_other_and_talk(make: Make) -> None:
    sides = [make(number) for number in (1, 2, 3)]
    form(*sides)
    for side in sides:
        for other in sides:
            if other is not side:
                assert side.mesh.send(other.number, RingPull(side.number))
    until(lambda: all(len(side.received) == 2 for side in sides), *sides)
    for side in sides:
        assert sorted(side.received) == [(n, RingPull(n)) for n in (1, 2, 3) if n != side.number]
        assert sorted(link.short for link in side.mesh.links()) == [n for n in (1, 2, 3) if n != side.number]
    # Whoever dialed whom, one socket is left for each pair.
    until(lambda: all(side.links.stats()["sockets"] == 2 for side in sides), *sides)
    assert all(side.links.stats()["up"] == 2 and not side.links.stats()["unfinished"] for side in sides)


def test_nothing_leaves_before_the_flush(make: Make) -> None:
    one, two = make(1), make(2)
    form(one, two)
    one.mesh.send(2, RingPull(1))
    for _ in range(3):
        one.world.turn()
        two.turn()
    assert not two.received and one.mesh.dirty
    one.links.flush()
    assert not one.mesh.dirty
    until(lambda: two.received == [(1, RingPull(1))], two)


def test_large_messages_both_ways_arrive_whole_behind_small_ones(make: Make) -> None:
    one, two = make(1), make(2)
    form(one, two)
    value = os.urandom(1 << 16) * 320  # 20 MiB: more than sockets and one cycle take.
    for side, other in ((one, 2), (two, 1)):
        side.mesh.send(other, Writes(1, 0, value))
        for number in range(100):
            side.mesh.send(other, RingPull(number))
    one.turn()
    assert one.links.stats()["unsent_bytes"] or one.mesh.queued(2)[1] > MIB
    until(lambda: all(len(side.received) == 101 for side in (one, two)), one, two)
    for side in (one, two):
        assert [message.epoch for _, message in side.received[:100]] == list(range(100))
        assert side.received[100][1] == Writes(1, 0, value)
        assert side.links.stats()["unsent_bytes"] == side.links.stats()["buffered_bytes"] == 0
        assert side.links.stats()["bytes_in"] > len(value)
    # All sockets are back to waiting for input only: nothing spins.
    until(lambda: not one.world.reactor.epoll.poll(0) and not two.world.reactor.epoll.poll(0), one, two)


def test_what_a_writable_socket_gets_is_what_was_committed(make: Make, raw: MakeRaw) -> None:
    side = make(1)
    peer = raw(side, buffer=4096).shake()
    number = 1
    side.mesh.send_on(number, Writes(1, 0, bytes(12 * MIB)))
    side.turn()
    assert side.links.stats()["unsent_bytes"]
    frames = side.mesh.stats()["sent_frames"]
    # The peer reads on; a cycle without its flush takes nothing new out of the mesh.
    for _ in range(200):
        peer.is_closed()
        side.world.turn()
    assert side.links.stats()["unsent_bytes"] == 0 and side.mesh.stats()["sent_frames"] == frames
    side.links.flush()
    assert side.mesh.stats()["sent_frames"] > frames


def test_a_peer_that_stops_reading_costs_its_queue_and_nothing_more(make: Make, raw: MakeRaw) -> None:
    one, two = make(1), make(2)
    ring = first_ring(CLUSTER, seed=1, replicas=3, members=[*ring_of(one, two).members, member(7)])
    for side in (one, two):
        side.mesh.became_member(ring, side.number)
    deaf = raw(one, 7, short=7, buffer=4096).shake()
    advance(2_000_000, one, two)
    until(lambda: one.mesh.linked(2) and one.mesh.linked(7), one, two)
    parts = encode(Writes(1, 0, bytes(MIB - 100)))
    sent = 0
    while one.mesh.send_encoded(7, parts):
        sent += 1
        one.turn()
        assert one.mesh.queued(7)[1] <= BROKEN_FACTOR * QUEUE_BYTES + MIB
        assert one.links.stats()["unsent_bytes"] <= 6 * MIB
        assert sent < 200
        assert one.mesh.room(7) == (one.mesh.queued(7)[1] <= QUEUE_BYTES)
    assert sent >= BROKEN_FACTOR * QUEUE_BYTES // MIB
    assert (7, False) not in one.ups
    one.turn()
    assert one.ups[-1] == (7, False) and one.logged("does not read") == 1
    assert one.links.stats()["unsent_bytes"] == 0 and one.mesh.stats()["queued_bytes"] == 0
    assert one.mesh.linked(2) and one.mesh.send(2, RingPull(5))
    until(lambda: two.received == [(1, RingPull(5))], one, two)
    until(deaf.is_closed, one, two)


def test_a_wrong_secret_is_told_once(make: Make) -> None:
    one, two = make(1), make(2, secret=b"other")
    two.mesh.set_seeds([one.address])
    until(lambda: two.mesh.stats()["dials_failed"] == 1, one, two)
    for _ in range(3):
        advance(2_000_000, one, two)
        failed = two.mesh.stats()["dials_failed"]
        until(lambda failed=failed: two.mesh.stats()["dials_failed"] > failed, one, two)  # type: ignore[misc]
    until(lambda: one.links.stats()["sockets"] == 0, one, two)
    assert one.logged(WRONG_SECRET) == 1 and two.logged(WRONG_SECRET) == 1
    assert one.logged("The node at 127.0.0.1:") == 1
    advance(LOG_AGAIN_US, one, two)
    until(lambda: one.logged(WRONG_SECRET) == 2, one, two)
    assert not one.ups and not two.ups and one.mesh.stats()["links"] == two.mesh.stats()["links"] == 0


def test_a_node_of_another_cluster(make: Make) -> None:
    one, two = make(1), make(2)
    one.mesh.became_member(ring_of(one), 1)
    two.mesh.became_member(replace(ring_of(two), cluster_id=b"x" * 16), 2)
    two.mesh.send_to(one.address, RingPull(1))
    until(lambda: two.logged(OTHER_CLUSTER) == 1, one, two)
    until(lambda: one.links.stats()["sockets"] == 0, one, two)
    assert not one.received and not one.ups


def test_another_node_at_the_address_of_a_member(make: Make) -> None:
    one, three = make(1), make(3)
    ring = ring_of(one)
    liar = replace(member(2), node_host=three.address[0], node_port=three.address[1])
    ring = first_ring(CLUSTER, seed=1, replicas=3, members=[*ring.members, liar])
    one.mesh.became_member(ring, 1)
    advance(2_000_000, one)
    until(lambda: one.logged("another node answers") == 1, one, three)
    assert not one.ups


@pytest.mark.parametrize(
    "garbage", [b"GET / HTTP/1.1\r\n\r\n", b"RKVNET\x01\xff\xff", b"RKVNET\x02\x01\x00x", b"\0" * 5000]
)
def test_garbage_instead_of_a_handshake(make: Make, raw: MakeRaw, garbage: bytes) -> None:
    side = make(1)
    strangers = [raw(side) for _ in range(3)]
    for stranger in strangers:
        stranger.sock.sendall(garbage)
        until(lambda stranger=stranger: stranger.is_closed(), side)  # type: ignore[misc]
    assert side.logged("is closed") == 1 and side.links.stats()["protocol_errors"] == 3
    assert side.links.stats()["sockets"] == 0 and not side.ups and not side.received


@pytest.mark.parametrize("rest", [b"\0" * 100, seal(0, 0, 0, 3, [b"abc"]), seal(5, 1, 0, 0, [])[:-1] + b"?"])
def test_garbage_instead_of_a_frame(make: Make, raw: MakeRaw, rest: bytes) -> None:
    side = make(1)
    side.mesh.became_member(ring_of(side), 1)
    peer, other = raw(side).shake(), raw(side, 8).shake()
    assert side.links.stats()["up"] == 2
    peer.sock.sendall(rest)
    until(peer.is_closed, side)
    assert side.logged("is closed") == 1 and side.links.stats()["up"] == side.mesh.stats()["links"] == 1
    assert not other.is_closed()


def test_a_stale_sender_is_closed(make: Make, raw: MakeRaw) -> None:
    side = make(1)
    members = [*ring_of(side).members, member(7)]
    side.mesh.became_member(first_ring(CLUSTER, seed=1, replicas=3, members=members), 1)
    peer = raw(side, 7, short=7).shake()
    assert side.ups == [(7, True)]
    writer = FrameWriter()
    writer.add(RingPull(1))
    peer.sock.sendall(writer.take(7, 0, 0) or b"")
    until(peer.is_closed, side)
    assert side.ups == [(7, True), (7, False)] and side.logged("which is over") == 2 and not side.received


def test_a_frame_that_comes_slowly_is_a_sign_of_life(make: Make, raw: MakeRaw) -> None:
    side, heard = make(1), list[int]()
    side.mesh.became_member(first_ring(CLUSTER, seed=1, replicas=3, members=[*ring_of(side).members, member(7)]), 1)
    peer = raw(side, 7, short=7).shake()
    side.mesh.heard = lambda short, now_us: heard.append(short)
    writer = FrameWriter()
    writer.add(Writes(1, 0, bytes(10_000)))
    frame = writer.take(7, 1, 0) or b""
    for at in range(0, len(frame), 4000):
        heard.clear()
        peer.sock.sendall(frame[at : at + 4000])
        until(lambda: bool(heard), side)
        assert set(heard) == {7} and bool(side.received) == (at + 4000 >= len(frame))


def test_frames_right_behind_the_handshake(make: Make, raw: MakeRaw) -> None:
    side = make(1)
    peer = raw(side)
    peer.sock.sendall(peer.handshake.start())
    hello = b""
    while not hello:
        side.turn()
        try:
            hello = peer.sock.recv(4096)
        except BlockingIOError:
            continue
    writer = FrameWriter()
    writer.add(RingPull(3))
    peer.sock.sendall(peer.handshake.feed(hello) + (writer.take(0, 0, 0) or b""))
    until(lambda: bool(side.received), side)
    assert side.received == [(0, RingPull(3))]
    # An answer goes out on the same link.
    side.mesh.send_on(1, RingPull(4))
    side.turn()
    answer = peer.sock.recv(4096)
    peer.handshake.feed(answer)
    reader = FrameReader()
    reader.feed(peer.handshake.rest)
    assert [frame.messages for frame in reader.frames()] == [[RingPull(4)]]


def test_handshakes_that_come_late_are_dropped(make: Make, raw: MakeRaw) -> None:
    side = make(1)
    silent, good = raw(side), raw(side, 8).shake()
    until(lambda: side.links.stats()["unfinished"] == 1, side)
    advance(HANDSHAKE_US - 1, side)
    side.turn()
    assert side.links.stats()["unfinished"] == 1
    advance(1, side)
    until(silent.is_closed, side)
    assert side.links.stats()["late_handshakes"] == 1 and not good.is_closed()


def test_unfinished_handshakes_are_few(make: Make, raw: MakeRaw) -> None:
    side = make(1)
    for _ in range(UNFINISHED_MAX + 6):
        raw(side)
    until(lambda: side.links.stats()["unfinished"] == UNFINISHED_MAX, side)
    side.turn()
    assert side.links.stats()["accepted"] == UNFINISHED_MAX
    # Full as it is, it waits less; the rest comes in then, and an honest node.
    advance(CROWDED_US, side)
    until(lambda: side.links.stats()["accepted"] == UNFINISHED_MAX + 6, side)
    assert side.links.stats()["late_handshakes"] == UNFINISHED_MAX
    raw(side, 9).shake()
    assert side.links.stats()["up"] == 1


def test_nobody_listens(make: Make) -> None:
    one, two = make(1), make(2)
    address = two.address
    two.links.close()
    one.mesh.send_to(address, RingPull(1))
    until(lambda: one.logged("connection refused") == 1, one)
    assert one.links.stats()["sockets"] == 0 and one.mesh.stats()["addresses_waiting"] == 0


@pytest.mark.parametrize("address", [("255.255.255.255", 80), ("127.0.0.1", 70000)])
def test_an_address_that_cannot_be_dialed(make: Make, address: tuple[str, int]) -> None:
    one = make(1)
    one.mesh.send_to(address, RingPull(1))
    until(lambda: one.mesh.stats()["dials_failed"] == 1, one)
    assert one.links.stats()["sockets"] == 0


def test_a_dial_without_an_answer_ends_in_time(make: Make) -> None:
    one = make(1)
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        one.mesh.send_to(full.getsockname(), RingPull(1))
        one.turn()
        assert one.links.stats()["sockets"] == 1
        advance(HANDSHAKE_US, one)
        one.turn()
    assert one.mesh.stats()["dials_failed"] == 1 and one.links.stats()["sockets"] == 0


def test_a_node_that_dials_itself(make: Make) -> None:
    one = make(1)
    one.mesh.set_seeds([one.address])
    until(lambda: one.mesh.stats()["dials_failed"] == 1, one)
    advance(60_000_000, one)
    one.turn()
    assert one.mesh.stats()["dials"] == 1 and not one.lines
    until(lambda: one.links.stats()["sockets"] == 0, one)


def test_a_socket_connected_to_itself_is_nobody(make: Make) -> None:
    """The kernel may choose the very port that is dialed, when nobody listens there."""
    one = make(1)
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    address = sock.getsockname()
    sock.connect(address)
    sock.setblocking(False)
    one.mesh.dialing(address)
    link = one.links._add(sock, address, "itself", one.world.clock.us)
    one.world.reactor.watch(sock.fileno(), peer_links.WRITABLE, lambda events: one.links._on_ready(link, events))
    until(lambda: one.mesh.stats()["dials_failed"] == 1, one)
    assert one.logged("connection refused") == 1 and one.links.stats()["sockets"] == 0


def test_a_name_is_looked_up_beside_the_loop(make: Make) -> None:
    one, two = make(1), make(2)
    one.mesh.send_to(("localhost", two.address[1]), RingPull(1))

    def look_up() -> bool:
        """Whatever the name stands for, its addresses are tried in turn."""
        for function, *arguments in one.tasks:
            trio.run(function, *arguments)
        one.tasks.clear()
        if one.mesh.stats()["dials_failed"] and not one.mesh.stats()["dials_under_way"]:
            advance(2_000_000, one)
            one.mesh.send_to(("localhost", two.address[1]), RingPull(1))
        return bool(two.received)

    until(look_up, one, two)
    assert two.received[0] == (0, RingPull(1))


@pytest.mark.parametrize("late", [True, False])
def test_a_name_that_is_not_found(make: Make, monkeypatch: pytest.MonkeyPatch, late: bool) -> None:
    async def getaddrinfo(*arguments: Any, **options: Any) -> Any:
        if late:
            await trio.sleep_forever()
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(trio.socket, "getaddrinfo", getaddrinfo)
    monkeypatch.setattr(peer_links, "HANDSHAKE_US", 1000)
    one = make(1)
    one.mesh.send_to(("no-such-node.invalid", 17001), RingPull(1))
    one.turn()
    (function, *arguments), *_ = one.tasks
    trio.run(function, *arguments)
    assert one.mesh.stats()["dials_under_way"] == 1
    one.turn()
    assert one.mesh.stats()["dials_under_way"] == 0
    assert one.logged("not found in time" if late else "Name or service not known") == 1


def test_a_look_up_that_outlives_the_links(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    async def getaddrinfo(*arguments: Any, **options: Any) -> Any:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 9))]

    monkeypatch.setattr(trio.socket, "getaddrinfo", getaddrinfo)
    one = make(1)
    one.mesh.send_to(("name", 17001), RingPull(1))
    one.turn()
    (function, *arguments), *_ = one.tasks
    one.links.close()
    trio.run(function, *arguments)
    one.world.turn()
    assert one.links.stats()["sockets"] == 0


def test_a_peer_that_ends_is_dialed_again(make: Make, raw: MakeRaw) -> None:
    one, two = make(1), make(2)
    form(one, two)
    two.links.close()
    until(lambda: one.ups[-1] == (2, False), one)
    assert one.logged("is down: the peer has closed it") == 1 and not one.mesh.linked(2)
    again = make(2, port=two.address[1])
    again.mesh.became_member(ring_of(one, two), 2)
    advance(10_000_000, one, again)
    until(lambda: one.mesh.linked(2) and again.mesh.linked(1), one, again)
    assert one.ups[-1] == (2, True)


def test_a_reset_by_the_peer_is_an_end_like_any_other(make: Make, raw: MakeRaw) -> None:
    side = make(1)
    peer = raw(side).shake()
    peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    peer.close()
    side.mesh.send_on(1, RingPull(1))
    until(lambda: side.links.stats()["sockets"] == 0, side)
    assert side.mesh.stats()["links"] == 0


def test_what_a_failed_send_causes_leaves_in_the_next_cycle(make: Make, raw: MakeRaw) -> None:
    one = make(1)
    ring = first_ring(CLUSTER, seed=1, replicas=3, members=[*ring_of(one).members, member(7), member(8)])
    one.mesh.became_member(ring, 1)
    gone, stays = raw(one, 7, short=7).shake(), raw(one, 8, short=8).shake()
    one.mesh.on_member = lambda short, up: one.mesh.send(8, RingPull(short)) and None
    gone.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    gone.close()
    one.mesh.send(7, RingPull(1))
    one.links.flush()  # Finds the socket reset.
    assert not one.mesh.linked(7) and one.mesh.dirty
    assert one.world.reactor.epoll.poll(0), "the loop is woken"
    stays.is_closed()
    one.turn()
    reader = FrameReader()
    reader.feed(stays.sock.recv(4096))
    assert [frame.messages for frame in reader.frames()] == [[RingPull(7)]]


def test_out_of_descriptors(make: Make, raw: MakeRaw, monkeypatch: pytest.MonkeyPatch) -> None:
    side = make(1)

    class Exhausted:
        """A listener whose accepts fail as the system's do."""

        def accept(self) -> Any:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    raw(side)
    side.links._on_accept(Exhausted(), peer_links.READABLE)  # type: ignore[arg-type]
    for _ in range(3):
        side.turn()
    assert side.links.stats()["accepted"] == 0 and side.logged("Too many open files") == 1
    advance(peer_links.PAUSE_US, side)
    until(lambda: side.links.stats()["accepted"] == 1, side)


def test_a_busy_port_is_told_at_once(make: Make) -> None:
    one = make(1)
    with pytest.raises(ListenError, match="Failed listening on port"):
        make(2, port=one.address[1])


def test_the_options_of_a_link(make: Make) -> None:
    one, two = make(1), make(2)
    form(one, two)
    for side in (one, two):
        (link,) = side.links._links.values()
        assert link.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert link.sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert not link.sock.getblocking()
