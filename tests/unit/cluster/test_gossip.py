"""The failure detector, one message at a time."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from respkv.cluster.gossip import INCARNATION_MAX, Gossip, GossipLimits, Message
from respkv.cluster.membership import ALIVE, DEAD, SUSPECT, Change
from respkv.cluster.probing import LATE_ANSWER_US, Questions
from respkv.env.rng import seeded
from respkv.wire.messages import Ack, Facts, Ping, PingReq, State, Update

MS = 1_000
S = 1_000_000


class Bench:
    """Node 1 among ``count``, past its greeting, with a clock and what it has sent."""

    def __init__(self, count: int = 4, *, limits: GossipLimits | None = None) -> None:
        self.gossip = Gossip(1, range(1, count + 1), seeded(7), limits=limits)
        self.now_us = 0
        self.greeting = self.timer()
        self.now_us += MS
        for to, message in self.greeting:
            if isinstance(message, Ping):
                self.receive(to, ack(message))

    def timer(self, after_us: int = 0) -> list[tuple[int, Message]]:
        """Time passes, the timer runs; what was sent."""
        self.now_us += after_us
        self.changes = self.gossip.on_timer(self.now_us)
        return self.take()

    def receive(self, sender: int, message: Message) -> list[tuple[int, Message]]:
        """What was sent in answer."""
        self.changes = self.gossip.on_message(sender, message, self.now_us)
        return self.take()

    def take(self) -> list[tuple[int, Message]]:
        self.gossip.check_invariants()
        return self.gossip.take_outbox()

    def probe(self) -> tuple[int, Ping]:
        """Go on to the next probe of a member that is not answered yet; whom and what."""
        while True:
            for to, message in self.timer(max(0, self.gossip.wake_at_us() - self.now_us)):
                if isinstance(message, Ping) and message.seq:
                    return to, message

    def suspect(self, short: int) -> None:
        """The connection is reset."""
        self.changes = self.gossip.evidence(short, self.now_us)
        self.take()


def ack(ping: Ping | PingReq, *rows: Update, answered: int = 1) -> Ack:
    return Ack(ping.seq, answered, rows, Facts())


def news(*rows: Update) -> Ping:
    return Ping(0, rows, Facts())


def of_kind(sent: Iterable[tuple[int, Message]], kind: type) -> list[int]:
    """To whom messages of a kind went."""
    return sorted(to for to, message in sent if type(message) is kind)


def test_the_greeting_goes_to_all_and_carries_the_incarnation() -> None:
    bench = Bench()
    # And the first tick has its probe.
    assert len(of_kind(bench.greeting, Ping)) == len(bench.greeting) == 4
    assert {to for to, _ in bench.greeting} == {2, 3, 4}
    assert all(message.updates[0] == (1, ALIVE, 1, 1) for _, message in bench.greeting if isinstance(message, Ping))


def test_incarnations_are_handed_out_to_be_saved() -> None:
    gossip = Gossip(1, [1, 2], seeded(1), saved_incarnation=6)
    assert gossip.incarnation == gossip.incarnation_to_save == 7
    gossip.incarnation_saved(6)
    assert gossip.incarnation_to_save == 7
    gossip.incarnation_saved(7)
    assert gossip.incarnation_to_save is None
    gossip.on_message(2, news((1, SUSPECT, 7, 2)), 0)
    assert gossip.incarnation == gossip.incarnation_to_save == 8


def test_every_member_is_probed_once_a_round() -> None:
    bench = Bench(6)
    order = []
    for _ in range(15):
        to, ping = bench.probe()
        order.append(to)
        bench.receive(to, ack(ping))
    # The first tick came with the greeting.
    assert sorted(order[4:9]) == sorted(order[9:14]) == [2, 3, 4, 5, 6]
    assert order[4:9] != order[9:14]
    assert bench.gossip.stats()["probes_failed"] == 0


def test_silence_asks_three_others_then_accuses() -> None:
    bench = Bench(6)
    target, ping = bench.probe()
    sent = bench.timer(500 * MS)
    helpers = of_kind(sent, PingReq)
    assert len(helpers) == 3 and target not in helpers
    assert all(m.target == target and m.seq == ping.seq for _, m in sent if isinstance(m, PingReq))
    sent = bench.timer(500 * MS)
    assert bench.changes == [Change(target, ALIVE, SUSPECT, 0, False)]
    # All are told at once, the accused too.
    told = [(to, message) for to, message in sent if isinstance(message, Ping) and not message.seq]
    assert sorted(to for to, _ in told) == [2, 3, 4, 5, 6]
    assert all((target, SUSPECT, 0, 1) in message.updates for _, message in told if isinstance(message, Ping))
    assert bench.gossip.stats()["suspicions"] == bench.gossip.stats()["probes_failed"] == 1


def test_one_helper_that_got_an_answer_is_enough() -> None:
    bench = Bench(6)
    target, ping = bench.probe()
    helpers = of_kind(bench.timer(500 * MS), PingReq)
    bench.receive(helpers[0], ack(ping, answered=0))
    stranger = next(short for short in range(2, 7) if short not in (*helpers, target))
    bench.receive(stranger, ack(ping))
    assert bench.gossip.stats()["probes_open"] == 1
    bench.receive(helpers[1], ack(ping))
    assert bench.gossip.stats()["probes_open"] == 0
    assert bench.gossip.membership.live(target)


def test_a_late_direct_answer_still_measures_and_saves() -> None:
    bench = Bench()
    target, ping = bench.probe()
    bench.timer(500 * MS)
    bench.now_us += 300 * MS
    bench.receive(target, ack(ping))
    assert bench.gossip.stats()["probes_open"] == 0
    measured_us = bench.gossip.membership.rtt_us(target)
    assert measured_us == MS + (800 * MS - MS >> 3)
    # Once: a duplicate measures nothing.
    bench.now_us += S
    bench.receive(target, ack(ping))
    assert bench.gossip.membership.rtt_us(target) == measured_us


@pytest.mark.parametrize(
    ("rtt_us", "score", "patience_us"),
    [
        (1 * MS, 0, 500 * MS),
        (300 * MS, 0, 900 * MS),
        (5 * S, 0, 2 * S),
        # A node that is not well takes all others for slow: that counts once.
        (5 * S, 2, 2 * S),
        (300 * MS, 8, 4500 * MS),
        (5 * S, 8, 4500 * MS),
    ],
)
def test_a_slow_member_is_given_more_time(rtt_us: int, score: int, patience_us: int) -> None:
    bench = Bench()
    bench.gossip.health.worse(score)
    for short in (2, 3, 4):
        for _ in range(200):
            bench.gossip.membership.rtt(short, rtt_us)
    bench.probe()
    opened_us = bench.now_us
    while not of_kind(bench.timer(10 * MS), PingReq):
        assert bench.now_us < 10 * S
    assert bench.now_us - opened_us == pytest.approx(patience_us, abs=10 * MS)


def test_helpers_that_deny_are_no_reason_to_doubt_oneself() -> None:
    for denials, score in [(3, 0), (1, 2), (0, 3)]:
        bench = Bench(6)
        _, ping = bench.probe()
        helpers = of_kind(bench.timer(500 * MS), PingReq)
        for helper in helpers[:denials]:
            bench.receive(helper, ack(ping, answered=0))
        bench.timer(500 * MS)
        assert bench.gossip.health.score == score


def test_local_health_stretches_the_wait_and_heals() -> None:
    bench = Bench()
    bench.gossip.health.worse(3)
    target, ping = bench.probe()
    assert of_kind([*bench.timer(1000 * MS), *bench.timer(990 * MS)], PingReq) == []
    assert len(of_kind(bench.timer(10 * MS), PingReq)) == 2
    bench.receive(target, ack(ping))
    assert bench.gossip.health.score == 2


def test_frames_during_a_probe_mean_a_broken_path_not_death() -> None:
    bench = Bench()
    target, _ = bench.probe()
    probes = 1
    while bench.gossip.membership.reachable(target):
        bench.gossip.heard(target, bench.now_us)
        for to, message in bench.timer(250 * MS):
            probes += to == target and isinstance(message, Ping)
            if to != target and isinstance(message, Ping):
                bench.receive(to, ack(message))
                bench.changes = []
        assert bench.now_us < 20 * S
    assert probes == 3
    assert bench.changes == [Change(target, ALIVE, ALIVE, 0, False)]
    assert bench.gossip.membership.state(target) == ALIVE
    # It is asked every tick, and the first answer that comes directly makes it good again.
    sent = [*bench.timer(S), *bench.timer(S)]
    bench.receive(target, ack(next(m for to, m in sent if to == target and isinstance(m, Ping) and m.seq)))
    assert bench.changes == [Change(target, ALIVE, ALIVE, 0, True)]


def test_a_connection_that_breaks_accuses_at_once() -> None:
    bench = Bench()
    bench.suspect(3)
    assert bench.changes == [Change(3, ALIVE, SUSPECT, 0, False)]
    bench.suspect(3)
    assert bench.changes == []
    bench.suspect(1)
    bench.suspect(99)
    assert bench.changes == []
    assert bench.gossip.membership.states() == {1: "alive", 2: "alive", 3: "suspect", 4: "alive"}


def test_a_suspect_that_refutes_is_alive() -> None:
    bench = Bench()
    bench.suspect(3)
    bench.receive(3, news((3, ALIVE, 1, 3)))
    assert bench.changes == [Change(3, SUSPECT, ALIVE, 1, True)]
    bench.timer(30 * S)
    assert bench.gossip.membership.state(3) == ALIVE


def test_a_suspect_that_is_heard_is_told_so_but_not_too_often() -> None:
    bench = Bench()
    bench.suspect(3)
    bench.gossip.heard(3, bench.now_us)
    ((to, ping),) = bench.take()
    assert to == 3 and isinstance(ping, Ping) and (3, SUSPECT, 0, 1) in ping.updates[:2]
    bench.gossip.heard(3, bench.now_us + 399 * MS)
    assert bench.take() == []
    bench.gossip.heard(3, bench.now_us + 400 * MS)
    assert len(bench.take()) == 1
    bench.gossip.heard(2, bench.now_us)
    bench.gossip.heard(1, bench.now_us)
    bench.gossip.heard(77, bench.now_us)
    assert bench.take() == []


@pytest.mark.parametrize(("confirmations", "dead_after_us"), [(0, 24 * S), (1, 11_381_405), (2, 4 * S)])
def test_a_suspicion_ends_in_death(confirmations: int, dead_after_us: int) -> None:
    bench = Bench(5)
    bench.suspect(3)
    for source in (2, 4)[:confirmations]:
        bench.receive(source, news((3, SUSPECT, 0, source)))
        bench.receive(source, news((3, SUSPECT, 0, source)))
    started_us, died_us = bench.now_us, 0
    while not died_us:
        woken_us = max(bench.gossip.wake_at_us(), bench.now_us + 1)
        for to, message in bench.timer(woken_us - bench.now_us):
            if isinstance(message, Ping) and message.seq and to != 3:
                bench.receive(to, ack(message))
            elif isinstance(message, PingReq):
                bench.receive(to, ack(message, answered=0))
        if bench.gossip.membership.state(3) == DEAD:
            died_us = bench.now_us
        assert bench.now_us < 40 * S
    assert died_us - started_us == dead_after_us
    assert bench.gossip.stats()["deaths"] == 1


def test_a_confirmed_suspicion_is_passed_on_under_the_new_name() -> None:
    bench = Bench()
    bench.suspect(3)
    bench.receive(2, news((3, SUSPECT, 0, 2)))
    assert bench.gossip.membership.update(3) == (3, SUSPECT, 0, 2)
    # A source that is no member is replaced by the one who said it.
    bench = Bench()
    bench.suspect(3)
    bench.receive(4, news((3, SUSPECT, 0, 99)))
    assert bench.gossip.membership.update(3) == (3, SUSPECT, 0, 4)


@pytest.mark.parametrize("state", [SUSPECT, DEAD])
def test_hearsay_is_looked_into(state: int) -> None:
    bench = Bench()
    sent = bench.receive(2, news((3, state, 0, 4)))
    assert bench.changes == []
    ((to, ping),) = [(to, m) for to, m in sent if isinstance(m, Ping) and m.seq]
    assert to == 3 and (3, state, 0, 4) in ping.updates
    # Nobody vouches for it: now it is suspect here too, and the accuser counts.
    bench.timer(500 * MS)
    bench.timer(500 * MS)
    assert bench.changes == [Change(3, ALIVE, SUSPECT, 0, False)]
    assert bench.gossip.stats()["suspicions"] == 1


def test_hearsay_of_a_later_incarnation() -> None:
    bench = Bench()
    bench.receive(2, news((3, SUSPECT, 5, 2)))
    # It must have said that it is alive in 5.
    assert bench.gossip.membership.update(3) == (3, ALIVE, 5, 3)
    bench = Bench()
    bench.suspect(3)
    bench.receive(2, news((3, DEAD, 5, 2)))
    # In doubt here as well: no detour over "alive".
    assert bench.changes == [Change(3, SUSPECT, DEAD, 5, False)]


def test_accusations_are_refuted_to_everyone_even_the_dead() -> None:
    bench = Bench()
    bench.suspect(3)
    bench.receive(2, news((3, DEAD, 0, 2)))
    sent = bench.receive(2, news((1, SUSPECT, 1, 2)))
    assert bench.gossip.incarnation == 2
    assert {to for to, m in sent if isinstance(m, Ping) and m.updates[0] == (1, ALIVE, 2, 1)} == {2, 3, 4}
    assert bench.gossip.health.score == 1
    # An old accusation is answered with what is so, and costs nothing else.
    sent = bench.receive(4, news((1, DEAD, 1, 2)))
    assert [(to, m.updates[0]) for to, m in sent if isinstance(m, Ping)] == [(4, (1, ALIVE, 2, 1))]
    assert bench.gossip.stats()["refutations"] == 1
    # A ping is answered anyway.
    sent = bench.receive(3, Ping(5, ((1, DEAD, 1, 2),), Facts()))
    assert of_kind(sent, Ack) == [3]


def test_a_forgotten_incarnation_is_passed() -> None:
    bench = Bench()
    bench.receive(2, news((1, ALIVE, 9, 1)))
    assert bench.gossip.incarnation == bench.gossip.incarnation_to_save == 10
    assert bench.gossip.stats()["refutations"] == 0


def test_the_return_of_a_dead_member_exchanges_everything() -> None:
    bench = Bench()
    bench.suspect(3)
    bench.receive(2, news((3, DEAD, 0, 2)))
    sent = bench.receive(3, Ping(8, ((3, ALIVE, 1, 3),), Facts()))
    assert bench.changes == [Change(3, DEAD, ALIVE, 1, True)]
    assert of_kind(sent, State) == of_kind(sent, Ack) == [3]
    assert bench.gossip.stats()["recoveries"] == 1


def test_the_dead_are_asked_now_and_then() -> None:
    bench = Bench()
    bench.suspect(3)
    bench.receive(2, news((3, DEAD, 0, 2)))
    asked = []
    for _ in range(12):
        sent = bench.timer(S)
        asked += [m for to, m in sent if to == 3 and isinstance(m, Ping) and m.seq]
        for to, message in sent:
            if to != 3 and isinstance(message, Ping):
                bench.receive(to, ack(message))
    assert 5 <= len(asked) <= 7
    assert all((3, DEAD, 0, 2) in ping.updates[:2] for ping in asked)
    assert bench.gossip.stats()["probes_failed"] == 0


def test_a_ping_is_answered_and_news_is_not() -> None:
    bench = Bench()
    ((to, answer),) = bench.receive(3, Ping(77, (), Facts()))
    assert to == 3 and isinstance(answer, Ack) and (answer.seq, answer.answered) == (77, 1)
    assert bench.receive(3, news()) == []


def test_helping_others() -> None:
    bench = Bench()
    ((to, ping),) = bench.receive(2, PingReq(900, 3, (), Facts()))
    assert to == 3 and isinstance(ping, Ping)
    # An answer of somebody else is no answer.
    assert bench.receive(4, ack(ping)) == []
    ((to, answer),) = bench.receive(3, ack(ping))
    assert to == 2 and isinstance(answer, Ack) and (answer.seq, answer.answered) == (900, 1)
    ((_, ping),) = bench.receive(2, PingReq(901, 3, (), Facts()))
    sent = bench.timer(400 * MS)
    assert [(to, m.seq, m.answered) for to, m in sent if isinstance(m, Ack)] == [(2, 901, 0)]
    # Too late for the other; for this node it is a round trip all the same.
    assert isinstance(ping, Ping) and of_kind(bench.receive(3, ack(ping)), Ack) == []


def test_helping_with_oneself_or_a_stranger() -> None:
    bench = Bench()
    for target, answered in [(1, 1), (99, 0)]:
        ((to, answer),) = bench.receive(2, PingReq(5, target, (), Facts()))
        assert to == 2 and isinstance(answer, Ack) and answer.answered == answered


def test_a_request_without_answer_opens_one_probe() -> None:
    bench = Bench()
    for short in (3, 3, 1, 42):
        bench.gossip.unanswered(short, bench.now_us)
    assert of_kind(bench.take(), Ping) == [3]
    assert bench.gossip.stats()["probes_open"] == 1


def test_strangers_and_nonsense_change_nothing() -> None:
    bench = Bench()
    before = repr(bench.gossip.membership)
    for sender in (1, 99):
        assert bench.receive(sender, Ping(5, ((3, DEAD, 9, 3),), Facts())) == []
    assert bench.receive(2, news((3, 3, 9, 3), (3, -1, 9, 3), (3, DEAD, INCARNATION_MAX, 3), (99, DEAD, 1, 3))) == []
    bench.receive(2, Ack(123456, 1, (), Facts()))
    assert repr(bench.gossip.membership) == before
    assert bench.gossip.stats()["messages_of_strangers"] == 2
    assert bench.gossip.stats()["bad_rows"] == 3


def test_full_state_is_answered_with_full_state() -> None:
    bench = Bench(20)
    ((to, answer),) = bench.receive(2, State(1, ((3, ALIVE, 4, 3),), Facts()))
    assert to == 2 and isinstance(answer, State) and not answer.reply
    assert len(answer.rows) == 20 and (3, ALIVE, 4, 3) in answer.rows
    assert bench.receive(2, answer._replace(rows=())) == []


def test_full_state_is_exchanged_twice_a_minute() -> None:
    bench = Bench()
    sent = []
    for _ in range(120):
        for to, message in bench.timer(S):
            if isinstance(message, Ping):
                bench.receive(to, ack(message))
            sent.append((to, message))
    assert 4 <= len(of_kind(sent, State)) <= 5
    assert all(message.reply for _, message in sent if isinstance(message, State))


def test_facts_of_the_latest_clock_are_kept() -> None:
    bench = Bench()
    new, old = Facts(2, 20, b"s" * 10, 500, b"p"), Facts(1, 10, b"", 400, b"")
    bench.receive(2, Ping(0, (), new))
    bench.receive(2, Ping(0, (), old))
    assert bench.gossip.facts[2] == new
    bench.gossip.my_facts = old
    ((_, answer),) = bench.receive(3, Ping(9, (), Facts()))
    assert answer.facts == old


def test_messages_carry_at_most_ten_rows_own_and_receivers_first() -> None:
    bench = Bench(40)
    bench.suspect(30)
    for to, message in bench.timer(S):
        assert isinstance(message, Ping | PingReq) and len(message.updates) == 10
        assert message.updates[0] == (1, ALIVE, 1, 1)
        assert to != 30 or message.updates[1] == (30, SUSPECT, 0, 1)


def test_everybody_is_told_about_in_turn() -> None:
    bench = Bench(40)
    rows: dict[int, None] = {}
    for _ in range(6):
        ((_, answer),) = bench.receive(2, Ping(9, (), Facts()))
        assert isinstance(answer, Ack)
        rows.update(dict.fromkeys(row[0] for row in answer.updates))
    assert sorted(rows) == list(range(1, 41))


def test_many_doubtful_members_are_probed_a_few_at_a_time() -> None:
    bench = Bench(40, limits=GossipLimits(extra_probes=5))
    for short in range(2, 32):
        bench.gossip.evidence(short, bench.now_us)
    sent = bench.gossip.take_outbox()
    assert len(sent) <= 30 * 16
    pings = [to for to, m in bench.timer(S) if isinstance(m, Ping) and m.seq]
    assert len(pings) <= 6


def test_lag_is_given_back() -> None:
    bench = Bench()
    target, _ = bench.probe()
    bench.gossip.loop_lag(900 * MS, bench.now_us + 900 * MS)
    assert of_kind(bench.timer(900 * MS), PingReq) == []
    assert bench.gossip.stats()["lag_us"] == 900 * MS and bench.gossip.health.score == 1
    # No more than has passed, and nothing worth mentioning.
    bench.gossip.loop_lag(800 * MS, bench.now_us + 100 * MS)
    bench.timer(100 * MS)
    assert bench.gossip.stats()["lag_us"] == 900 * MS
    bench.suspect(target)
    # Not told at all: the timer itself sees that it is late.
    bench.timer(60 * S)
    assert bench.gossip.membership.state(target) == SUSPECT
    assert bench.gossip.stats()["lag_us"] == 900 * MS + 58_500 * MS


def test_members_that_leave_are_forgotten() -> None:
    bench = Bench()
    bench.suspect(3)
    bench.receive(4, PingReq(5, 3, (), Facts()))
    bench.timer(S)
    bench.gossip.replace_members([1, 2, 5])
    bench.take()
    assert bench.gossip.membership.members == (1, 2, 5)
    assert 3 not in bench.gossip.facts
    assert bench.receive(3, Ping(5, (), Facts())) == []
    sent = [to for _ in range(4) for to, _ in bench.timer(S)]
    assert set(sent) <= {2, 5} and 5 in sent


def test_alone() -> None:
    gossip = Gossip(1, [1], seeded(1))
    for second in range(40):
        assert gossip.on_timer(second * S) == []
    assert gossip.take_outbox() == []
    gossip.check_invariants()
    assert repr(gossip).startswith("Gossip(Membership(me=1")


def test_questions_are_forgotten() -> None:
    table = Questions(100)
    first, second = table.ping(2, 0), table.ping(3, 5 * S)
    table.forget_old(LATE_ANSWER_US + 1)
    assert table.answered(first, 2) is None
    assert table.answered(second, 2) is None
    assert table.answered(second, 3) == 5 * S
    assert table.answered(second, 3) is None
    assert repr(table) == "Questions(pings=0, probes=0, relays=0)"
