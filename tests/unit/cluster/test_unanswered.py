"""The failure detector, and members that owe answers for which clients wait."""

from __future__ import annotations

import pytest

from respkv.cluster.gossip import GossipLimits
from respkv.cluster.membership import ALIVE
from respkv.wire.messages import Ping, PingReq
from tests.unit.cluster.test_gossip import MS, Bench, S, ack


def probed_and_heard() -> Bench:
    """A probe of member 3 is under way, which was heard since but has not answered it."""
    bench = Bench(limits=GossipLimits(misses_max=99))
    bench.gossip.unanswered(3, bench.now_us)
    bench.timer(100 * MS)
    bench.gossip.heard(3, bench.now_us)
    return bench


@pytest.mark.parametrize("late", [False, True])
def test_who_owes_answers_and_does_not_answer_is_gone_round(late: bool) -> None:
    """After one direct answer that is missing, also when the probe was under way; as alive, until an answer comes."""
    bench = Bench(limits=GossipLimits(misses_max=99))
    table = bench.gossip.membership
    assert bench.gossip.unanswered(3, bench.now_us, urgent=not late) == []
    (ping,) = [message for to, message in bench.take() if to == 3 and isinstance(message, Ping)]
    bench.timer(499 * MS)
    assert table.live(3)
    bench.timer(MS)
    assert table.live(3) == late
    if late:
        (change,) = bench.gossip.unanswered(3, bench.now_us, urgent=True)
        assert (change.short, change.after, change.live) == (3, ALIVE, False)
    assert not table.live(3) and table.state(3) == ALIVE and bench.gossip.stats()["suspicions"] == 0
    bench.receive(3, ack(ping))
    assert table.live(3) and [change.live for change in bench.changes] == [True]


def test_who_owes_answers_and_is_heard_is_not_gone_round() -> None:
    bench = Bench(limits=GossipLimits(misses_max=99))
    bench.gossip.unanswered(3, bench.now_us, urgent=True)
    bench.take()
    bench.timer(400 * MS)
    bench.gossip.heard(3, bench.now_us)
    bench.timer(100 * MS)
    assert bench.gossip.unanswered(3, bench.now_us, urgent=True) == [] and bench.gossip.membership.live(3)


def test_what_was_heard_before_clients_waited_excuses_nobody() -> None:
    """A probe was under way already and its target was heard since: what counts is the silence from now on."""
    bench = probed_and_heard()
    bench.timer(300 * MS)
    bench.gossip.unanswered(3, bench.now_us, urgent=True)
    bench.timer(499 * MS)
    assert bench.gossip.membership.live(3)
    assert bench.gossip.wake_at_us() <= bench.now_us + MS
    bench.timer(MS)
    assert not bench.gossip.membership.live(3) and bench.gossip.membership.state(3) == ALIVE


def test_what_is_heard_in_the_cycle_in_which_clients_are_found_to_wait_excuses() -> None:
    """Timers run before the sockets are read: what comes next answers everything, and nothing more has to come."""
    bench = probed_and_heard()
    bench.timer(200 * MS)
    bench.gossip.unanswered(3, bench.now_us, urgent=True)
    bench.gossip.heard(3, bench.now_us)
    bench.timer(500 * MS)
    assert bench.gossip.membership.live(3)


def test_who_owes_answers_has_a_ping_to_answer() -> None:
    """That of a probe which is under way may be lost: its target was heard since, and has not answered it."""
    bench = probed_and_heard()
    bench.take()
    bench.timer(200 * MS)
    for _ in range(3):
        bench.gossip.unanswered(3, bench.now_us, urgent=True)
    ((to, ping),) = bench.take()
    assert to == 3 and isinstance(ping, Ping)
    bench.timer(100 * MS)
    bench.receive(3, ack(ping))
    bench.timer(400 * MS)
    assert bench.gossip.membership.live(3)


def test_that_others_reach_it_does_not_help_those_who_wait_here() -> None:
    bench = probed_and_heard()
    bench.timer(300 * MS)
    bench.gossip.unanswered(3, bench.now_us, urgent=True)
    for to, message in bench.timer(100 * MS):
        if isinstance(message, PingReq):
            bench.receive(to, ack(message))
    bench.timer(400 * MS)
    assert not bench.gossip.membership.live(3) and bench.gossip.membership.state(3) == ALIVE


@pytest.mark.parametrize("cycle_ms", [150, 240, 300, 600, 900])
def test_silence_shows_however_long_the_cycles_are(cycle_ms: int) -> None:
    """Time in which nothing could be heard is given back, but not all of it where that never ends."""
    bench = Bench(limits=GossipLimits(misses_max=99))
    gossip, began_us = bench.gossip, bench.now_us
    while gossip.membership.live(3) and bench.now_us - began_us < 60 * S:
        gossip.unanswered(3, bench.now_us, urgent=True)
        bench.now_us += cycle_ms * MS
        gossip.loop_lag((cycle_ms - 10) * MS, bench.now_us)
        if bench.now_us >= gossip.wake_at_us():
            for to, message in bench.timer():
                if to != 3 and isinstance(message, Ping) and message.seq:
                    bench.receive(to, ack(message))
    assert not gossip.membership.live(3) and bench.now_us - began_us < 4 * S


def test_one_that_stood_still_is_not_slow_for_that() -> None:
    """Its late answers come all at once when it goes on; when it falls silent again it is given no more time."""
    bench = Bench(limits=GossipLimits(misses_max=99))
    table = bench.gossip.membership
    table.rtt(3, MS)
    for late_us in (4 * S, 3 * S, 2 * S):
        table.rtt(3, late_us)
    assert table.rtt_us(3) > 500 * MS
    bench.gossip.unanswered(3, bench.now_us, urgent=True)
    bench.timer(500 * MS)
    assert not table.live(3)
