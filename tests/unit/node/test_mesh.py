"""The mesh: who gets a link, which of two stays, what is queued, what frames may say, when to dial."""

from __future__ import annotations

from typing import Any

import pytest

from respkv.base.errors import ProtocolError
from respkv.base.limits import MIB
from respkv.cluster.ring import Ring
from respkv.env.rng import seeded
from respkv.node import dials, mesh
from respkv.node.mesh import HAVE_ONE, Mesh
from respkv.wire.codec import encode
from respkv.wire.frames import MESSAGE_BYTES_MAX, Frame, FrameReader
from respkv.wire.handshake import MYSELF, NO_CLUSTER, OTHER_CLUSTER, Peer
from respkv.wire.messages import Address, RingPull, StatusPull, Writes
from tests.unit.cluster.rings import form, member, node_id, with_members

RING = form(3)
#: Members by the order of their node ids: LOW's is the lowest.
LOW, MIDDLE, HIGH = (each.short for each in RING.members)


class Node:
    """A mesh, what it has said, and the time."""

    def __init__(self, short: int, ring: Ring | None = RING) -> None:
        self.received: list[tuple[int, int, Any]] = []
        self.ups: list[tuple[int, bool]] = []
        self.lines: list[str] = []
        self.clocks: list[tuple[int, int]] = []
        self.heard: list[tuple[int, int]] = []
        self.last = 0
        self.short = short
        self.mesh = Mesh(
            node_id(short), secret=b"s", rng=seeded(short), log=lambda level, text: self.lines.append(f"{level} {text}")
        )
        self.mesh.clock = lambda: (1_700_000_000_000 << 16) + short
        self.mesh.receive = lambda short, link, message: self.received.append((short, link, message))
        self.mesh.on_member = lambda short, up: self.ups.append((short, up))
        self.mesh.observe = lambda short, clock: self.clocks.append((short, clock))
        self.mesh.heard = lambda short, now_us: self.heard.append((short, now_us))
        if ring is not None:
            self.mesh.became_member(ring, short)

    def number(self) -> int:
        self.last += 1
        return self.last

    def peer(self) -> Peer:
        hello = self.mesh.hello()
        return Peer(hello.node_id, hello.cluster_id, hello.short, 1, 0)


class Wire:
    """A link that ``dialer`` has dialed, without sockets."""

    def __init__(self, dialer: Node, accepter: Node, *, address: Address | None = None) -> None:
        place = member(accepter.short)
        self.address = address or (place.node_host, place.node_port)
        self.nodes = dialer, accepter
        self.numbers = dialer.number(), accepter.number()
        self.readers = FrameReader(), FrameReader()
        self.open = [True, True]
        peers = accepter.peer(), dialer.peer()
        dialer.mesh.dialing(self.address)
        self.answers: list[tuple[str, int | None]] = []
        # The accepter knows first.
        for side, where in ((1, None), (0, self.address)):
            self.answers.insert(0, self.nodes[side].mesh.link_up(self.numbers[side], peers[side], where, "somewhere"))
        for side in (0, 1):
            if self.answers[side][0]:
                self.open[side] = False

    def pump(self, now_us: int = 0) -> None:
        """Everything that waits goes to the other side."""
        for side in (0, 1):
            sender, receiver = self.nodes[side], self.nodes[1 - side]
            sender.mesh.dirty.pop(self.numbers[side], None)
            while self.open[side] and (frame := sender.mesh.next_frame(self.numbers[side])) is not None:
                self.readers[1 - side].feed(frame)
                receiver.mesh.on_frames(self.numbers[1 - side], self.readers[1 - side].frames(), now_us)
        for node in self.nodes:
            node.mesh.check_invariants()

    def close(self, now_us: int = 0) -> None:
        for side in (0, 1):
            self.open[side] = False
            self.nodes[side].mesh.link_down(self.numbers[side], "cut", now_us)
            self.nodes[side].mesh.check_invariants()


def frame(sender: int, epoch: int = 1, *messages: Any) -> Frame:
    return Frame(sender, epoch, 5, list(messages))


# Members.


def test_members_talk_in_order() -> None:
    low, high = Node(LOW), Node(HIGH)
    wire = Wire(low, high)
    assert wire.answers == [("", None), ("", None)]
    assert low.ups == [(HIGH, True)] and high.ups == [(LOW, True)]
    assert low.mesh.linked(HIGH) and not low.mesh.linked(MIDDLE)
    messages = [StatusPull(number, "") for number in range(5)]
    for message in messages[:3]:
        assert low.mesh.send(HIGH, message)
    assert low.mesh.send_encoded(HIGH, encode(messages[3])) and low.mesh.send_on(wire.numbers[0], messages[4])
    assert not low.mesh.send(MIDDLE, messages[0]) and not low.mesh.send_encoded(MIDDLE, encode(messages[0]))
    assert low.mesh.queued(HIGH)[0] == 5 and low.mesh.dirty == {wire.numbers[0]: None}
    assert low.mesh.links()[0].wants_write
    assert high.mesh.send(LOW, RingPull(7))
    wire.pump(99)
    assert high.received == [(LOW, wire.numbers[1], message) for message in messages]
    assert low.received == [(HIGH, wire.numbers[0], RingPull(7))]
    assert high.clocks == [(LOW, low.mesh.clock())] and (LOW, 99) in high.heard
    assert low.mesh.queued(HIGH) == (0, 0) and low.mesh.next_frame(wire.numbers[0]) is None
    assert low.mesh.stats()["sent_frames"] == 1 and low.mesh.stats()["sent_messages"] == 5
    assert high.mesh.stats()["received_messages"] == 5
    fact = low.mesh.links()[0]
    assert (fact.short, fact.outgoing, fact.created_ms, fact.wants_write) == (HIGH, True, 1_700_000_000_000, False)
    assert not high.mesh.links()[0].outgoing
    assert low.mesh.source(wire.numbers[0]) == wire.address and high.mesh.source(wire.numbers[1]) == wire.numbers[1]
    assert low.mesh.member_of(wire.numbers[0]) == HIGH and low.mesh.member_of(77) == 0
    peer = low.mesh.peer(wire.numbers[0])
    assert peer is not None and peer.node_id == node_id(HIGH) and low.mesh.peer(77) is None


def test_a_link_that_ends_takes_its_queue_along_and_its_figures_stay() -> None:
    low, high = Node(LOW), Node(HIGH)
    wire = Wire(low, high)
    low.mesh.send(HIGH, RingPull(1))
    wire.pump()
    low.mesh.send(HIGH, RingPull(2))
    wire.close()
    assert low.ups == [(HIGH, True), (HIGH, False)] and not low.mesh.linked(HIGH) and not low.mesh.dirty
    assert low.mesh.queued(HIGH) == (0, 0) and not low.mesh.room(HIGH)
    assert not low.mesh.send_on(wire.numbers[0], RingPull(3)) and low.mesh.next_frame(wire.numbers[0]) is None
    high.mesh.on_frames(wire.numbers[1], [frame(LOW, 1, RingPull(9))], 0)
    assert [message for *_, message in high.received] == [RingPull(1)]
    again = Wire(low, high)
    again.pump()
    assert [message for *_, message in high.received] == [RingPull(1)]
    assert low.ups[2:] == [(HIGH, True)] and low.mesh.stats()["sent_messages"] == 1
    low.mesh.link_down(wire.numbers[0], "twice", 0)
    assert low.mesh.linked(HIGH)


@pytest.mark.parametrize("lower_first", [True, False])
def test_both_dialed_the_one_of_the_lower_id_stays(lower_first: bool) -> None:
    low, high = Node(LOW), Node(HIGH)
    first = Wire(low, high) if lower_first else Wire(high, low)
    second = Wire(high, low) if lower_first else Wire(low, high)
    stays = first if lower_first else second
    if lower_first:
        assert second.answers == [(HAVE_ONE, None), (HAVE_ONE, None)]
        assert low.ups == [(HIGH, True)] and high.ups == [(LOW, True)]
    else:
        assert second.answers == [("", first.numbers[1]), ("", first.numbers[0])]
        # What was under way on the first is lost, and the node is told.
        assert low.ups == [(HIGH, True), (HIGH, False), (HIGH, True)]
        first.close()
        assert len(low.ups) == len(high.ups) == 3
    low.mesh.send(HIGH, RingPull(1))
    stays.pump()
    assert len(high.received) == 1 and low.mesh.linked(HIGH) and high.mesh.linked(LOW)
    assert not [line for line in high.lines if "No link" in line]


def test_of_two_from_the_same_side_the_younger_stays() -> None:
    low, high = Node(LOW), Node(HIGH)
    first, second = Wire(low, high), Wire(low, high)
    assert second.answers == [("", first.numbers[0]), ("", first.numbers[1])]
    low.mesh.send(HIGH, RingPull(1))
    first.pump()
    assert not high.received
    second.pump()
    assert len(high.received) == 1


def test_a_link_that_has_stood_for_long_yields_even_to_the_higher_one() -> None:
    low, high = Node(LOW), Node(HIGH)
    first = Wire(low, high)
    for node in (low, high):
        node.mesh.wanted(mesh.SETTLED_US)
    assert Wire(high, low).answers == [("", first.numbers[1]), ("", first.numbers[0])]
    assert low.ups[-2:] == [(HIGH, False), (HIGH, True)]


# Who may speak.


def test_other_cluster_myself_and_false_claims_get_no_link() -> None:
    low = Node(LOW)

    def up(peer: Peer, address: Address | None = None) -> str:
        reason, older = low.mesh.link_up(low.number(), peer, address, "somewhere")
        low.mesh.check_invariants()
        assert older is None
        return reason

    cluster = RING.cluster_id
    assert up(Peer(node_id(9), b"x" * 16, 9, 1, 0)) == OTHER_CLUSTER
    assert up(Peer(node_id(LOW), cluster, LOW, 1, 0)) == MYSELF
    assert "which it is not" in up(Peer(node_id(HIGH), cluster, MIDDLE, 1, 0))
    assert "which it is not" in up(Peer(node_id(9), cluster, MIDDLE, 1, 0))
    assert "which it is not" in up(Peer(node_id(9), cluster, LOW, 1, 0))
    assert up(Peer(node_id(9), NO_CLUSTER, 0, 1, 0)) == ""
    assert up(Peer(node_id(8), cluster, 8, 1, 0)) == ""  # Perhaps of a later ring.
    assert not low.ups and low.mesh.stats()["links"] == 2
    assert up(Peer(node_id(9), b"x" * 16, 9, 1, 0), ("10.0.0.9", 1)) == OTHER_CLUSTER
    assert any(OTHER_CLUSTER in line for line in low.lines) and low.mesh.stats()["dials_failed"] == 1


@pytest.mark.parametrize(
    ("frames", "words"),
    [
        ([frame(MIDDLE)], f"member {HIGH} calls itself {MIDDLE}"),
        ([frame(0, 0)], f"member {HIGH} calls itself 0"),
        ([frame(HIGH, 0)], "epoch 0, which is over"),
        ([frame(HIGH, 2), frame(HIGH, 1)], "epoch 1, which is over"),
    ],
)
def test_what_a_member_cannot_say(frames: list[Frame], words: str) -> None:
    low = Node(LOW)
    assert low.mesh.link_up(1, Node(HIGH).peer(), None, "h") == ("", None)
    bad = frames[-1]._replace(messages=[RingPull(66)])
    with pytest.raises(ProtocolError, match=words):
        low.mesh.on_frames(1, [frame(HIGH, frames[0].epoch or 1, RingPull(1)), *frames[:-1], bad], 0)
    assert [message for *_, message in low.received] == [RingPull(1)]


def test_a_stale_sender_after_the_ring_has_changed() -> None:
    low = Node(LOW)
    low.mesh.link_up(1, Node(HIGH).peer(), None, "h")
    low.mesh.on_frames(1, [frame(HIGH, 1, RingPull(1))], 0)
    low.mesh.became_member(with_members(RING, RING.members), LOW)
    assert low.mesh.epoch == 2 and low.mesh.linked(HIGH)
    with pytest.raises(ProtocolError, match="which is over"):
        low.mesh.on_frames(1, [frame(HIGH, 1, RingPull(2))], 0)
    low.mesh.on_frames(1, [frame(HIGH, 2, RingPull(3))], 0)
    assert [message for *_, message in low.received] == [RingPull(1), RingPull(3)]


def test_a_stranger_that_calls_itself_a_member() -> None:
    low = Node(LOW)
    low.mesh.link_up(1, Peer(node_id(9), NO_CLUSTER, 0, 1, 0), None, "h")
    low.mesh.on_frames(1, [frame(0, 0, RingPull(1))], 0)
    with pytest.raises(ProtocolError, match="no member calls itself member 9"):
        low.mesh.on_frames(1, [frame(9, 1, RingPull(2))], 0)
    low.mesh.on_frames(1, [frame(9, 2, RingPull(3))], 0)  # Of a ring that this node does not know yet.
    assert low.received == [(0, 1, RingPull(1)), (0, 1, RingPull(3))]
    assert not low.ups and not low.clocks and not low.heard


def test_who_sends_a_part_of_a_frame_was_heard() -> None:
    low, high, stranger = Node(LOW), Node(HIGH), Node(LOW)
    wire = Wire(low, high)
    high.heard.clear()
    high.mesh.on_part(wire.numbers[1], 77)
    assert high.heard == [(LOW, 77)] and not high.received
    stranger.mesh.link_up(1, Peer(node_id(9), NO_CLUSTER, 0, 1, 0), None, "h")
    stranger.mesh.on_part(1, 78)
    stranger.mesh.on_part(2, 78)
    assert not stranger.heard, "nobody of the ring, and nobody at all"


def test_who_left_the_ring_loses_its_link() -> None:
    low, high = Node(LOW), Node(HIGH)
    wire = Wire(low, high)
    low.mesh.send(HIGH, RingPull(1))
    low.mesh.became_member(with_members(RING, [each for each in RING.members if each.short != HIGH]), LOW)
    assert low.mesh.broken == {wire.numbers[0]: "no member any more"} and not low.mesh.linked(HIGH)
    low.mesh.link_down(wire.numbers[0], "closed", 0)
    assert low.ups == [(HIGH, True), (HIGH, False)] and not low.mesh.broken
    low.mesh.check_invariants()


# Forming.


def test_links_become_members_links_when_both_know_the_ring() -> None:
    low, high = Node(LOW, None), Node(HIGH, None)
    wire = Wire(high, low)
    high.mesh.send_on(wire.numbers[0], RingPull(1))
    wire.pump()
    assert low.received == [(0, wire.numbers[1], RingPull(1))]
    low.mesh.became_member(RING, LOW)
    assert not low.ups and not low.mesh.linked(HIGH)
    low.mesh.send_on(wire.numbers[1], RingPull(2))
    wire.pump()
    assert high.received == [(0, wire.numbers[0], RingPull(2))] and not high.ups
    high.mesh.became_member(RING, HIGH)
    assert high.ups == [(LOW, True)]
    # Not a message need be sent: a frame without any says who it is.
    wire.pump()
    assert low.ups == [(HIGH, True)] and len(low.received) == 1
    assert low.mesh.next_frame(wire.numbers[1]) is None


@pytest.mark.parametrize("first", [LOW, HIGH])
def test_two_links_from_the_time_before_the_ring(first: int) -> None:
    low, high = Node(LOW, None), Node(HIGH, None)
    wires = [Wire(high, low), Wire(low, high)]
    nodes = (low, high) if first == LOW else (high, low)
    for node in nodes:
        node.mesh.became_member(RING, node.short)
        for wire in wires:
            wire.pump()
    # Only the one that the lower id dialed is left, on both sides.
    assert low.mesh.member_of(wires[1].numbers[0]) == HIGH and high.mesh.member_of(wires[1].numbers[1]) == LOW
    assert low.mesh.member_of(wires[0].numbers[1]) == high.mesh.member_of(wires[0].numbers[0]) == 0
    assert wires[0].numbers[0] in high.mesh.broken or wires[0].numbers[1] in low.mesh.broken
    wires[0].close()
    assert low.mesh.linked(HIGH) and high.mesh.linked(LOW)
    assert low.ups[-1] == (HIGH, True) and high.ups[-1] == (LOW, True)


def test_a_peer_of_another_cluster_is_given_up_when_this_node_becomes_a_member() -> None:
    low = Node(LOW, None)
    assert low.mesh.link_up(1, Peer(node_id(HIGH), b"x" * 16, HIGH, 1, 0), None, "h") == ("", None)
    low.mesh.became_member(RING, LOW)
    assert low.mesh.broken == {1: OTHER_CLUSTER} and low.mesh.next_frame(1) is None and not low.ups
    low.mesh.on_frames(1, [frame(HIGH, 1, RingPull(1))], 0)
    assert not low.received
    low.mesh.link_down(1, "closed", 0)
    assert not low.ups
    low.mesh.check_invariants()


def test_a_message_for_an_address_has_it_dialed() -> None:
    joiner, seed = Node(HIGH, None), Node(LOW, None)
    address = ("seed", 17001)
    assert joiner.mesh.wanted(0) == []
    for number in range(6):
        assert joiner.mesh.send_to(address, RingPull(number))
    assert joiner.mesh.wanted(0) == [address]
    wire = Wire(joiner, seed, address=address)
    wire.pump()
    # The oldest were dropped.
    assert [message for *_, message in seed.received] == [RingPull(number) for number in (2, 3, 4, 5)]
    assert joiner.mesh.send_to(address, RingPull(9)) and joiner.mesh.wanted(10**9) == []
    wire.pump()
    assert seed.received[-1] == (0, wire.numbers[1], RingPull(9))


def test_what_waits_for_an_address_is_bounded_and_goes_when_the_dial_fails() -> None:
    joiner = Node(HIGH, None)
    for number in range(mesh.ADDRESSES_MAX):
        assert joiner.mesh.send_to(("host", number + 1), RingPull(0))
    assert not joiner.mesh.send_to(("one too many", 1), RingPull(0))
    assert joiner.mesh.stats()["addresses_waiting"] == mesh.ADDRESSES_MAX
    joiner.mesh.dialing(("host", 1))
    joiner.mesh.dial_failed(("host", 1), "nobody there", 0)
    assert ("host", 1) not in joiner.mesh.wanted(10**9) and joiner.mesh.send_to(("host", 1), RingPull(0))
    joiner.mesh.check_invariants()


def test_a_seed_that_is_this_node_is_not_dialed_again() -> None:
    joiner = Node(HIGH, None)
    seeds = [("me", 1), ("other", 1)]
    joiner.mesh.set_seeds([*seeds, seeds[0]])
    assert joiner.mesh.wanted(0) == seeds
    joiner.mesh.dialing(seeds[0])
    joiner.mesh.dial_failed(seeds[0], MYSELF, 0)
    assert joiner.mesh.wanted(10**9) == [seeds[1]] and not joiner.mesh.send_to(seeds[0], RingPull(1))
    assert not joiner.lines
    joiner.mesh.became_member(RING, HIGH)
    assert seeds[1] not in joiner.mesh.wanted(10**9)


def test_strangers_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mesh, "STRANGERS_MAX", 3)
    low = Node(LOW)
    answers = [low.mesh.link_up(n, Peer(node_id(n), NO_CLUSTER, 0, 1, 0), None, "h")[0] for n in range(10, 15)]
    assert answers[:3] == [""] * 3 and all("too many" in answer for answer in answers[3:])
    assert Wire(low, Node(HIGH)).answers == [("", None)] * 2
    low.mesh.check_invariants()


# Dialing.


def place(short: int) -> Address:
    return member(short).node_host, member(short).node_port


def test_the_lower_id_dials_at_once_the_higher_one_later() -> None:
    low, middle, high = Node(LOW), Node(MIDDLE), Node(HIGH)
    assert low.mesh.wanted(0) == [place(short) for short in sorted((MIDDLE, HIGH))]
    assert middle.mesh.wanted(0) == [place(HIGH)] and high.mesh.wanted(0) == []
    assert high.mesh.wanted(mesh.TURN_US) == [place(short) for short in sorted((LOW, MIDDLE))]
    assert low.mesh.expected(place(HIGH)) == node_id(HIGH) and low.mesh.expected(("10.9.9.9", 1)) == b""
    wire = Wire(low, high)
    assert low.mesh.wanted(10**9) == [place(MIDDLE)] and high.mesh.wanted(10**9) == [place(MIDDLE)]
    wire.close(10**9)
    assert low.mesh.wanted(10**9 + dials.BACK_OFF_MIN_US) == [place(short) for short in sorted((MIDDLE, HIGH))]
    assert place(LOW) not in high.mesh.wanted(10**9 + mesh.TURN_US - 1)
    assert place(LOW) in high.mesh.wanted(10**9 + mesh.TURN_US)


def test_back_off_doubles_and_ends() -> None:
    low = Node(LOW)
    now_us, waits = 0, []
    target = place(HIGH)
    for _ in range(8):
        low.mesh.dialing(target)
        assert target not in low.mesh.wanted(now_us + 10**9)  # Not while a dial is under way.
        low.mesh.dial_failed(target, "connection refused", now_us)
        began_us = now_us
        while target not in low.mesh.wanted(now_us):
            now_us += 5000
        waits.append(now_us - began_us)
    for wait, full in zip(waits, (100, 200, 400, 800, 1600, 2000, 2000, 2000)):
        assert full * 740 <= wait <= full * 1000 + 5000
    assert len([line for line in low.lines if "connection refused" in line]) == 1
    low.mesh.dial_failed(target, "no route", now_us)
    low.mesh.dial_failed(target, "no route", now_us + dials.LOG_AGAIN_US)
    assert len([line for line in low.lines if "no route" in line]) == 2
    # A link that lives long enough starts anew; one that does not goes on.
    high = Node(HIGH)
    low.mesh.wanted(now_us)
    wire = Wire(low, high)
    wire.close(now_us + dials.GOOD_LIFE_US - 1)
    assert target not in low.mesh.wanted(now_us + dials.GOOD_LIFE_US + dials.BACK_OFF_MIN_US)
    low.mesh.wanted(now_us := now_us + 10**7)
    Wire(low, high).close(now_us + dials.GOOD_LIFE_US)
    assert target in low.mesh.wanted(now_us + dials.GOOD_LIFE_US + dials.BACK_OFF_MIN_US)


def test_addresses_of_no_use_are_forgotten() -> None:
    joiner = Node(HIGH, None)
    for number in range(500):
        joiner.mesh.send_to(("host", number + 1), RingPull(0))
        joiner.mesh.dialing(("host", number + 1))
        joiner.mesh.dial_failed(("host", number + 1), "gone", 10**7 * number)
        joiner.mesh.wanted(10**7 * number)
    assert len(joiner.mesh._dials._dials) < 200


# Bounds.


def test_room_ends_before_the_link_does() -> None:
    low, high = Node(LOW), Node(HIGH)
    wire = Wire(low, high)
    for number in range(mesh.QUEUE_MESSAGES + 1):
        assert low.mesh.room(HIGH)
        low.mesh.send(HIGH, RingPull(number))
    assert not low.mesh.room(HIGH)
    wire.pump()
    assert low.mesh.room(HIGH) and len(high.received) == mesh.QUEUE_MESSAGES + 1
    payload = bytes(MIB - 100)
    while low.mesh.room(HIGH):
        assert low.mesh.send(HIGH, Writes(1, 0, payload))
    assert low.mesh.queued(HIGH)[1] <= mesh.QUEUE_BYTES + MIB


def test_what_is_less_urgent_has_half_of_the_room() -> None:
    low, high = Node(LOW), Node(HIGH)
    assert low.mesh.spare(HIGH) == 0
    wire = Wire(low, high)
    half = mesh.QUEUE_MESSAGES // 2
    before = low.mesh.queued(HIGH)[0]
    assert low.mesh.spare(HIGH) == half - before
    for number in range(half - before):
        low.mesh.send(HIGH, RingPull(number))
    assert low.mesh.spare(HIGH) == 0 and low.mesh.room(HIGH)
    wire.pump()
    assert low.mesh.spare(HIGH) == half
    while low.mesh.queued(HIGH)[1] <= mesh.QUEUE_BYTES // 2:
        assert low.mesh.spare(HIGH) and low.mesh.send(HIGH, Writes(1, 0, bytes(MIB - 100)))
    assert low.mesh.spare(HIGH) == 0 and low.mesh.room(HIGH)


@pytest.mark.parametrize(("size", "count"), [(0, 4 * mesh.QUEUE_MESSAGES), (MIB - 100, 4 * mesh.QUEUE_BYTES // MIB)])
def test_a_peer_that_does_not_read_costs_its_queue_and_its_link(size: int, count: int) -> None:
    low, high, middle = Node(LOW), Node(HIGH), Node(MIDDLE)
    wire, other = Wire(low, high), Wire(low, middle)
    payload, sent = bytes(size), 0
    while low.mesh.send(HIGH, Writes(sent, 0, payload)):
        sent += 1
        assert sent <= count + 2
    assert abs(sent - count) <= 2 and not low.mesh.linked(HIGH)
    assert low.mesh.broken and wire.numbers[0] not in low.mesh.dirty
    assert low.ups == [(HIGH, True), (MIDDLE, True)], "nothing is called from within send"
    assert low.mesh.next_frame(wire.numbers[0]) is None and not low.mesh.send_on(wire.numbers[0], RingPull(1))
    assert low.mesh.stats()["queued_bytes"] == 0 and low.mesh.stats()["overflows"] == 1
    low.mesh.check_invariants()
    wire.close()
    assert low.ups[-1] == (HIGH, False) and not low.mesh.broken
    low.mesh.send(MIDDLE, RingPull(1))
    other.pump()
    assert len(middle.received) == 1 and not high.received


def test_a_link_given_up_may_be_followed_before_it_is_closed() -> None:
    low, high = Node(LOW), Node(HIGH)
    first = Wire(low, high)
    while low.mesh.send(HIGH, RingPull(1)):
        pass
    second = Wire(low, high)
    assert low.ups == [(HIGH, True), (HIGH, False), (HIGH, True)]
    first.close()
    assert len(low.ups) == 3 and low.mesh.linked(HIGH)
    low.mesh.send(HIGH, RingPull(2))
    second.pump()
    assert high.received[-1][2] == RingPull(2)


def test_one_message_may_be_larger_than_the_bounds() -> None:
    low, high = Node(LOW), Node(HIGH)
    wire = Wire(low, high)
    value = bytes(mesh.BROKEN_FACTOR * mesh.QUEUE_BYTES + MIB)
    assert low.mesh.send(HIGH, Writes(1, 0, value)) and not low.mesh.room(HIGH)
    assert low.mesh.send(HIGH, RingPull(2)) and low.mesh.linked(HIGH)
    wire.pump()
    assert [type(message) for *_, message in high.received] == [RingPull, Writes] and low.mesh.room(HIGH)
    # Two of them are too much.
    assert low.mesh.send(HIGH, Writes(3, 0, value)) and not low.mesh.send(HIGH, Writes(4, 0, value))


def test_a_message_that_no_peer_takes_is_not_queued() -> None:
    low, high = Node(LOW), Node(HIGH)
    Wire(low, high).pump()
    part = bytes(MIB)
    assert not low.mesh.send_encoded(HIGH, [part] * (MESSAGE_BYTES_MAX // MIB + 1))
    assert low.mesh.queued(HIGH) == (0, 0) and low.mesh.linked(HIGH)
