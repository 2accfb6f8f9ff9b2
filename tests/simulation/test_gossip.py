"""Whole clusters of the failure detector under virtual time: slow nodes, crashes, partitions, loss, stalls.

The net delivers messages one by one (no streams): it may lose, delay and so reorder each of them. After every
event the invariants of the node that handled it are checked.
"""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Callable, Iterable

import pytest

from respkv.cluster.gossip import Gossip, GossipLimits, Message
from respkv.cluster.membership import ALIVE, DEAD, STATE_NAMES, SUSPECT, Change
from respkv.cluster.suspicion import suspicion_limits_us
from respkv.env.rng import seeded
from respkv.wire.codec import encode
from respkv.wire.messages import Update

MS = 1_000
S = 1_000_000
#: (from, to) -> the delay of a message, None to lose it.
Path = Callable[[int, int], int | None]


class Net:
    """``count`` nodes, short ids 1 to ``count``, on one heap of (time, number, event)."""

    def __init__(
        self, count: int, seed: int, *, loss_percent: int = 0, limits: GossipLimits | None = None,
        kind: type[Gossip] = Gossip,
    ) -> None:  # fmt: skip
        self.rng = seeded(seed)
        self.kind = kind
        self.now_us = 0
        self.limits = limits
        self.loss_percent = loss_percent
        self.path: Path = lambda _from, _to: self.rng.randrange(200, 2 * MS)
        self.nodes: dict[int, Gossip] = {}
        self.saved: dict[int, int] = {}
        self.stalled_until_us: dict[int, int] = {}
        #: (time, observer, about, state before, state after, live)
        self.changes: list[tuple[int, int, int, int, int, bool]] = []
        self.digest = hashlib.sha256()
        self.sent = 0
        #: Encode what is sent, and remember the longest message.
        self.wire = False
        self.largest = 0
        self._count = 0
        self._heap: list[tuple[int, int, int, int, Message | None]] = []
        self.members = tuple(range(1, count + 1))
        for short in self.members:
            self.start(short)

    def start(self, short: int) -> None:
        """A node comes up, with the incarnation it saved."""
        self.nodes[short] = self.kind(
            short, self.members, seeded(self.rng.getrandbits(64)), saved_incarnation=self.saved.get(short, 0),
            limits=self.limits,
        )  # fmt: skip
        self._push(self.now_us + self.rng.randrange(S), short, 0, None)

    def crash(self, short: int, *, noticed: bool = False) -> None:
        """A node is gone. ``noticed``: the others' connections are reset."""
        del self.nodes[short]
        if noticed:
            for other in self.nodes:
                self.reset(other, short)

    def reset(self, short: int, other: int) -> None:
        """The connection of ``short`` to ``other`` is reset."""
        self._after(short, self.nodes[short].evidence(other, self.now_us))

    def wake(self, short: int) -> None:
        """Take what an input outside of ``run`` left in the outbox."""
        self._after(short, [])

    def stall(self, short: int, count_us: int) -> None:
        """A node does nothing for a while; what arrives waits."""
        self.stalled_until_us[short] = self.now_us + count_us

    def run(self, count_us: int) -> None:
        """Let time pass."""
        end_us = self.now_us + count_us
        while self._heap and self._heap[0][0] <= end_us:
            at_us, number, to, sender, message = heapq.heappop(self._heap)
            self.now_us = at_us
            node = self.nodes.get(to)
            if node is None:
                continue
            free_us = self.stalled_until_us.get(to, 0)
            if at_us < free_us:
                # When it wakes its timer runs first, before what has arrived: the order that tempts it most.
                number = number if message is not None else -number
                heapq.heappush(self._heap, (free_us, number, to, sender, message))
            elif message is None:
                if at_us >= node.wake_at_us():
                    self._after(to, node.on_timer(at_us))
            else:
                self._after(to, node.on_message(sender, message, at_us))
        self.now_us = end_us

    def _after(self, short: int, changes: Iterable[tuple[int, int, int, int, bool]]) -> None:
        node = self.nodes[short]
        node.check_invariants()
        for about, before, after, incarnation, live in changes:
            self.changes.append((self.now_us, short, about, before, after, live))
            self.digest.update(f"{self.now_us} {short} {about} {before} {after} {incarnation} {live}\n".encode())
        if node.incarnation_to_save is not None:
            self.saved[short] = node.incarnation_to_save
            node.incarnation_saved(node.incarnation_to_save)
        for to, message in node.take_outbox():
            self.sent += 1
            self.digest.update(f"{self.now_us} {short}>{to} {message}\n".encode())
            if self.wire:
                data = b"".join(encode(message))
                self.largest = max(self.largest, len(data))
            delay_us = self.path(short, to)
            if delay_us is not None and self.rng.randrange(100) >= self.loss_percent:
                self._push(self.now_us + delay_us, to, short, message)
        self._push(max(self.now_us, node.wake_at_us()), short, 0, None)

    def _push(self, at_us: int, to: int, sender: int, message: Message | None) -> None:
        self._count += 1
        heapq.heappush(self._heap, (at_us, self._count, to, sender, message))

    def seen(self, state: int) -> list[tuple[int, int, int]]:
        """(time, observer, about) of every change into ``state``."""
        return [(at, by, about) for at, by, about, before, after, _ in self.changes if after == state != before]

    def views(self, about: int) -> dict[int, str]:
        """What the others believe of a node."""
        return {s: STATE_NAMES[node.membership.state(about)] for s, node in self.nodes.items() if s != about}

    def all_live(self) -> bool:
        """True when everybody is live for everybody."""
        return all(node.membership.live(short) for node in self.nodes.values() for short in self.members)

    def cut(self, *pairs: tuple[int, int]) -> Path:
        """A path on which messages (from, to) of ``pairs`` are lost."""
        lost, usual = dict.fromkeys(pairs), self.path
        return lambda source, to: None if (source, to) in lost else usual(source, to)

    def split(self, *sides: tuple[int, ...]) -> Path:
        """A path that exists only within a side."""
        side_of = {short: number for number, side in enumerate(sides) for short in side}
        return self.cut(*((a, b) for a in self.members for b in self.members if side_of[a] != side_of[b]))


@pytest.mark.parametrize("count", [1, 2, 3, 5, 7])
def test_a_quiet_cluster_stays_quiet(count: int) -> None:
    net = Net(count, seed=count)
    net.run(60 * S)
    assert net.changes == []
    assert net.all_live()
    assert all(node.incarnation == 1 and node.health.score == 0 for node in net.nodes.values())
    # A ping and its answer each second, the greeting, a full state twice a minute and its answer.
    assert net.sent <= count * (2 * 61 + 2 * count + 6)


def one_slow_node(count: int, seed: int, shortest_us: int = 0, kind: type[Gossip] = Gossip) -> Net:
    """A minute and a half in which messages of and to one node take between ``shortest_us`` and a second."""
    net = Net(count, seed, kind=kind)
    slow = 1 + seed % count
    net.path = lambda a, b: net.rng.randrange(shortest_us, 1 * S) if slow in (a, b) else net.rng.randrange(200, 2 * MS)
    net.run(90 * S)
    return net


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("count", [2, 3, 5, 7])
@pytest.mark.parametrize("shortest_us", [0, 900 * MS])
def test_one_slow_node_is_never_called_dead(count: int, seed: int, shortest_us: int) -> None:
    net = one_slow_node(count, seed, shortest_us)
    slow = 1 + seed % count
    assert net.seen(DEAD) == []
    # Nor do the others lose sight of each other, whatever the slow one tells them.
    assert [row for row in net.changes if slow not in row[1:3]] == []
    net.path = lambda _a, _b: 1 * MS
    net.run(15 * S)
    assert net.all_live()


@pytest.mark.parametrize("seed", range(4))
def test_everyone_slow(seed: int) -> None:
    net = Net(5, seed)
    net.path = lambda _a, _b: net.rng.randrange(1 * S)
    net.run(90 * S)
    assert net.seen(DEAD) == []


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("count", [3, 5, 7])
@pytest.mark.parametrize("noticed", [False, True])
def test_a_crash_is_found_in_time(count: int, seed: int, noticed: bool) -> None:
    net = Net(count, seed)
    net.run(10 * S + seed * 137 * MS)
    crashed_us = net.now_us
    net.crash(count, noticed=noticed)
    net.run(20 * S)
    others = list(range(1, count))
    # Silent: somebody's turn comes within two ticks (half of the time; 4 of 5 s with bad luck), the probe takes one;
    # everyone is told, and looks into it for another.
    suspected = {by: at for at, by, about in reversed(net.seen(SUSPECT)) if about == count}
    assert sorted(suspected) == others
    assert max(suspected.values()) - crashed_us <= (0 if noticed else 7 * S)
    dead = {by: at for at, by, about in net.seen(DEAD) if about == count}
    assert sorted(dead) == others
    shortest_us, _ = suspicion_limits_us(count, S)
    assert max(dead.values()) - min(suspected.values()) <= shortest_us + 3 * S
    assert {about for _, _, about in net.seen(DEAD)} == {count}
    assert all(net.nodes[short].membership.live(other) for short in others for other in others)


@pytest.mark.parametrize("seed", range(6))
def test_a_request_without_answer_shortens_the_search(seed: int) -> None:
    net = Net(3, seed)
    net.run(10 * S + seed * 137 * MS)
    net.crash(3)
    # An answer given just before the crash is no longer on its way when a request runs into its timeout.
    net.run(500 * MS)
    asked_us = net.now_us
    net.nodes[1].unanswered(3, asked_us)
    net.wake(1)
    net.run(5 * S)
    suspected = {by: at for at, by, _ in reversed(net.seen(SUSPECT))}
    assert suspected[1] - asked_us <= 1 * S
    assert suspected[2] - asked_us <= 2 * S + 10 * MS


@pytest.mark.parametrize("seed", range(6))
def test_a_node_that_returns_is_live_within_two_rounds(seed: int) -> None:
    net = Net(3, seed)
    net.run(5 * S)
    net.crash(2)
    net.run(30 * S)
    assert net.views(2) == {1: "dead", 3: "dead"}
    net.start(2)
    net.run(2 * S)
    assert net.all_live()
    assert net.saved[2] == net.nodes[2].incarnation > 1


def test_a_restart_that_nobody_had_time_to_notice() -> None:
    net = Net(3, seed=9)
    net.run(5 * S)
    net.crash(3, noticed=True)
    net.run(50 * MS)
    assert not net.nodes[1].membership.live(3)
    net.start(3)
    net.run(2 * S)
    assert net.all_live()
    assert net.seen(DEAD) == []


def test_an_incarnation_that_was_lost_is_made_up_for() -> None:
    net = Net(3, seed=4)
    net.run(5 * S)
    net.saved[2] = 40
    net.crash(2)
    net.start(2)
    net.run(3 * S)
    net.crash(2)
    net.run(20 * S)
    net.saved[2] = 0
    net.start(2)
    net.run(3 * S)
    assert net.all_live()
    assert net.nodes[2].incarnation > 41


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("sides", [((1,), (2, 3)), ((1, 2), (3, 4, 5)), ((1, 2, 3), (4, 5, 6, 7)), ((1,), (2,), (3,))])
def test_a_partition_heals_by_itself(sides: tuple[tuple[int, ...], ...], seed: int) -> None:
    net = Net(sum(map(len, sides)), seed)
    whole = net.path
    net.run(5 * S)
    net.path = net.split(*sides)
    net.run(40 * S)
    for side in sides:
        for short in side:
            membership = net.nodes[short].membership
            assert [other for other in net.members if membership.live(other)] == list(side)
            assert all(membership.state(other) == DEAD for other in net.members if other not in side)
    net.path = whole
    healed_us = net.now_us
    net.run(5 * S)
    assert net.all_live()
    # Members of one side never lose each other over what the other side believed.
    side_of = {short: side for side in sides for short in side}
    assert not [row for row in net.changes if row[0] > healed_us and side_of[row[1]] is side_of[row[2]]]


@pytest.mark.parametrize("seed", range(4))
def test_a_short_partition_costs_no_death(seed: int) -> None:
    net = Net(3, seed)
    whole = net.path
    net.run(5 * S)
    net.path = net.split((1,), (2, 3))
    net.run(3 * S)
    net.path = whole
    net.run(5 * S)
    assert net.all_live()
    assert net.seen(DEAD) == []


@pytest.mark.parametrize("seed", range(4))
def test_one_way_between_two_nodes(seed: int) -> None:
    net = Net(3, seed)
    whole = net.path
    net.path = net.cut((1, 2))
    net.run(60 * S)
    # The third node vouches for both. Only the two themselves know that they do not get through.
    assert net.seen(DEAD) == []
    assert not net.nodes[1].membership.live(2)
    assert net.nodes[1].membership.state(2) == ALIVE
    assert net.nodes[3].membership.live(1) and net.nodes[3].membership.live(2)
    assert not [row for row in net.changes if row[1] == 3]
    net.path = whole
    net.run(3 * S)
    assert net.all_live()


def one_deaf_node(seed: int, kind: type[Gossip] = Gossip) -> Net:
    """A minute in which nothing reaches node 1 of five."""
    net = Net(5, seed, kind=kind)
    net.run(3 * S)
    net.path = net.cut(*((other, 1) for other in (2, 3, 4, 5)))
    net.run(60 * S)
    return net


@pytest.mark.parametrize("seed", range(4))
def test_a_node_that_hears_nobody_accuses_in_vain(seed: int) -> None:
    net = one_deaf_node(seed)
    assert [net.nodes[1].membership.live(other) for other in (2, 3, 4, 5)] == [False] * 4
    for observer in (2, 3, 4, 5):
        assert all(net.nodes[observer].membership.live(other) for other in (2, 3, 4, 5))
        # It is heard, but it answers nothing: of no use as a replica.
        assert not net.nodes[observer].membership.live(1)
    # The others look into what it says and do not lose each other for a moment.
    assert not [row for row in net.changes if row[1] != 1 and row[2] != 1]
    assert max(node.incarnation for node in net.nodes.values()) < 12
    net.path = lambda _a, _b: 1 * MS
    net.run(5 * S)
    assert net.all_live()


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("count", [3, 5, 7])
def test_one_message_in_ten_is_lost(count: int, seed: int) -> None:
    net = Net(count, seed, loss_percent=10)
    net.run(120 * S)
    assert net.seen(DEAD) == []
    net.crash(1)
    net.run(30 * S)
    assert set(net.views(1).values()) == {"dead"}
    net.start(1)
    net.run(8 * S)
    assert set(net.views(1).values()) == {"alive"}
    assert {about for _, _, about in net.seen(DEAD)} == {1}


@pytest.mark.parametrize("seed", range(4))
def test_a_stall_accuses_nobody(seed: int) -> None:
    net = Net(3, seed)
    net.run(10 * S)
    for _ in range(5):
        net.stall(2, 3 * S)
        net.run(15 * S)
        assert net.all_live()
    assert net.seen(DEAD) == []
    assert [row for row in net.changes if row[1] == 2] == []


def stall_with_a_suspect(kind: type[Gossip] = Gossip) -> Net:
    """Node 2 suspects node 3 and stands still before the refutation arrives, for longer than any suspicion."""
    net = Net(3, seed=5, kind=kind)
    net.run(10 * S)
    net.reset(2, 3)
    net.stall(2, 30 * S)
    net.run(33 * S)
    return net


def test_a_suspicion_does_not_run_out_while_nothing_can_be_heard() -> None:
    net = stall_with_a_suspect()
    assert [row[2] for row in net.changes if row[1] == 2 and row[4] == DEAD] == []
    assert net.all_live()


def test_a_long_stall_is_a_death_and_a_return() -> None:
    net = Net(3, seed=1)
    net.run(10 * S)
    net.stall(2, 20 * S)
    net.run(15 * S)
    assert net.views(2) == {1: "dead", 3: "dead"}
    net.run(8 * S)
    assert net.all_live()
    assert [row for row in net.changes if row[1] == 2] == []


def test_facts_reach_everyone() -> None:
    net = Net(3, seed=2)
    for short, node in net.nodes.items():
        node.my_facts = node.my_facts._replace(load_permille=100 * short, clock=short)
    net.run(3 * S)
    for short, node in net.nodes.items():
        assert {peer: facts.load_permille for peer, facts in sorted(node.facts.items())} == {
            peer: 100 * peer for peer in net.members if peer != short
        }


def test_latency_orders_replicas() -> None:
    net = Net(4, seed=3)
    net.path = lambda a, b: 20 * MS if 3 in (a, b) else 300
    net.run(20 * S)
    net.crash(2, noticed=True)
    net.run(1 * S)
    assert net.nodes[1].membership.ordered((2, 3, 4, 1)) == (1, 4, 3, 2)


def story(seed: int) -> str:
    """The digest of everything that was sent and found out in a troubled minute."""
    net = Net(5, seed, loss_percent=5)
    whole = net.path
    net.run(5 * S)
    net.crash(4)
    net.path = net.split((1, 2), (3, 4, 5))
    net.run(20 * S)
    net.start(4)
    net.path = whole
    net.stall(3, 2 * S)
    net.run(20 * S)
    return net.digest.hexdigest()


def test_messages_fit_the_wire_and_stay_small() -> None:
    net = Net(12, seed=3, loss_percent=5)
    net.wire = True
    net.run(5 * S)
    net.crash(4, noticed=True)
    net.run(10 * S)
    assert 100 < net.largest < 400


def test_one_seed_is_one_story() -> None:
    assert story(1) == story(1)
    assert story(1) != story(2)


# Controls: each rule, taken away, must be missed by the check that watches it.


class Hasty(Gossip):
    """Without suspicion: whoever does not answer is dead."""

    def _accuse(self, short: int, now_us: int, changes: list[Change]) -> None:
        if self.membership.state(short) == ALIVE:
            self._believe((short, DEAD, self.membership.incarnation(short), self.me), now_us, changes)


class Credulous(Gossip):
    """Believes hearsay."""

    def on_message(self, sender: int, message: Message, now_us: int) -> list[Change]:
        self.hearsay: list[Change] = []
        return super().on_message(sender, message, now_us) + self.hearsay

    def _look_into(self, accusation: Update, now_us: int) -> None:
        self._believe(accusation, now_us, self.hearsay)


class Unforgiving(Gossip):
    """Lets deadlines pass while it stood still."""

    def _give_back_lag(self, lag_us: int, now_us: int) -> None:
        self._given_us = now_us


class Meek(Gossip):
    """Does not refute."""

    def _on_own_row(self, state: int, incarnation: int, sender: int, now_us: int, *, answered: bool) -> None:
        self._tell(sender, now_us)


class Aloof(Gossip):
    """Does not talk to the dead."""

    def _tick(self, now_us: int) -> None:
        self._dead_next_us = now_us + 1
        super()._tick(now_us)


def test_control_suspicion() -> None:
    assert one_slow_node(3, 1, 900 * MS, Hasty).seen(DEAD) != []


def test_control_hearsay() -> None:
    assert [row for row in one_deaf_node(0, Credulous).changes if row[1] != 1 and row[2] != 1] != []


def test_control_stalls() -> None:
    assert [row[2] for row in stall_with_a_suspect(Unforgiving).changes if row[1] == 2 and row[4] == DEAD] == [3]


@pytest.mark.parametrize("kind", [Meek, Aloof])
def test_control_healing(kind: type[Gossip]) -> None:
    net = Net(3, seed=0, kind=kind)
    whole = net.path
    net.run(5 * S)
    net.path = net.split((1,), (2, 3))
    net.run(40 * S)
    net.path = whole
    net.run(5 * S)
    assert not net.all_live()
