"""Forwarded requests that their target cannot carry out: another replica is asked, this node among them."""

from __future__ import annotations

from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest

from respkv.base.errors import CommandError
from respkv.base.slots import slot_of
from respkv.commands.session import Pending, Session
from respkv.commands.table import build_table
from respkv.node.forwards import (
    ASKED_AGAIN_MAX,
    BYTES_PER_S,
    DRIFT,
    EXECUTE_US,
    FORWARD_TIMEOUT_US,
    HELD_BYTES,
    JOINED_MAX,
    SLEW,
    Forwards,
    time_for,
)
from respkv.replication.levels import EVENTUAL, QUORUM
from respkv.resp import errors
from respkv.wire.messages import AGAIN_AT, DONE, EXPIRED, NOT_DONE, UNTIL, Forward, Forwarded, SessionGone, Time
from tests.unit.commands.fake_server import FakeServer

ORDER = (2, 1, 3)


class World:
    """Node 1, whose peers are dead unless in ``live``; ``replies`` is what it answers itself."""

    def __init__(self) -> None:
        self.live = {1, 2, 3}
        self.sent: list[tuple[int, Any]] = []
        self.replies: list[bytes | Pending] = []
        self.executed: list[Session] = []
        self.server: Any = FakeServer()
        coordinator = SimpleNamespace(me=1, substitute=self.substitute, slot_of=slot_of)
        dispatcher: Any = SimpleNamespace(table=build_table(), coordinator=coordinator, execute=self.execute)
        self.old = self.crowded = False
        self.forwards = Forwards(
            self.server,
            dispatcher,
            send=self.send,
            linked=lambda short: short in self.live,
            tells_time=lambda short: not self.old,
            crowded=lambda: self.crowded,
            first_op=100,
        )
        self.client = self.server.client()

    def substitute(self, slots: list[int], tried: tuple[int, ...]) -> int:
        return next((short for short in ORDER if short in self.live and short not in tried), 0)

    def send(self, short: int, message: Any) -> bool:
        if short not in self.live:
            return False
        self.sent.append((short, message))
        return True

    def execute(self, session: Session, argv: list[bytes]) -> bytes | Pending:
        assert argv == [b"INCR", b"k"]
        self.executed.append(session)
        return self.replies.pop(0)

    def forward(self, *words: bytes, level: int = QUORUM) -> Pending:
        pending = self.forwards.forward(self.client.session, 2, [list(words) or [b"INCR", b"k"]], level)
        self.forwards.seal()
        return pending

    def answer(self, status: int, reply: bytes) -> None:
        short, message = self.sent.pop(0)
        assert isinstance(message, Forward)
        self.forwards.on_forwarded(short, Forwarded(message.op, status, reply))
        self.forwards.seal()


def test_what_the_target_cannot_do_is_done_here_when_this_node_comes_next() -> None:
    world = World()
    pending = world.forward()
    world.replies = [b":1\r\n"]
    world.answer(NOT_DONE, errors.CORRUPT)
    assert pending.reply == b":1\r\n" and not world.sent
    (session,) = world.executed
    assert session.forwarded and session.level == QUORUM and session is not world.client.session


def test_what_nobody_can_do_is_told_with_the_reason() -> None:
    world = World()
    pending = world.forward()
    later = Pending()
    world.replies = [later]
    world.answer(NOT_DONE, errors.CORRUPT)
    assert pending.reply is None
    later.complete(errors.CORRUPT)
    world.forwards.seal()
    ((short, message),) = world.sent
    assert short == 3 and message.op > 101 and pending.reply is None, "this node is damaged, too"
    world.answer(NOT_DONE, errors.CORRUPT)
    assert pending.reply == errors.CORRUPT and not world.sent
    world.live = {2}
    pending = world.forward()
    world.answer(NOT_DONE, b"")
    assert pending.reply == errors.TRY_AGAIN


def test_the_next_target_has_the_whole_time() -> None:
    world = World()
    world.live = {2, 3}
    pending = world.forward()
    world.server.clock.now_us += FORWARD_TIMEOUT_US - 1
    world.answer(NOT_DONE, errors.CORRUPT)
    world.forwards.on_timer(world.server.now_us + FORWARD_TIMEOUT_US - 1)
    assert pending.reply is None
    world.answer(DONE, b":7\r\n")
    assert pending.reply == b":7\r\n"


@pytest.mark.parametrize("later", [False, True])
def test_damage_met_for_another_node_is_said_to_be_not_done(later: bool) -> None:
    world = World()
    pending = Pending()
    world.replies = [pending if later else errors.CORRUPT, b":1\r\n"]
    message = Forward(5, 9, 0, 2, QUORUM, 0, 0, b"default", ((b"INCR", b"k"),))
    world.forwards.on_forward(3, message)
    if later:
        assert not world.sent
        pending.complete(errors.CORRUPT)
    assert world.sent == [(3, Forwarded(5, NOT_DONE, errors.CORRUPT))]
    world.forwards.on_forward(3, message)
    assert world.sent[-1] == (3, Forwarded(5, DONE, b":1\r\n"))


def test_who_cannot_be_reached_is_not_asked() -> None:
    world = World()
    world.live = {1, 3}
    with pytest.raises(CommandError) as caught:
        world.forward()
    assert caught.value.reply == errors.NO_REPLICAS


def test_what_has_not_left_when_its_target_is_lost_was_not_done() -> None:
    world = World()
    unsent = world.forwards.forward(world.client.session, 2, [[b"INCR", b"k"]], QUORUM)
    world.forwards.target_lost(2)
    world.forwards.seal()
    assert unsent.reply == errors.NO_REPLICAS and not world.sent
    unsent = world.forwards.forward(world.client.session, 2, [[b"INCR", b"k"]], QUORUM)
    world.live = {1}
    world.forwards.seal()
    assert unsent.reply == errors.NO_REPLICAS and not world.sent


# -- reads that are under way already ----------------------------------------------------------------


def test_equal_reads_at_eventual_have_one_answer() -> None:
    world = World()
    first, second = world.forward(b"GET", b"k", level=EVENTUAL), world.forward(b"GET", b"k", level=EVENTUAL)
    other = world.forward(b"GET", b"x", level=EVENTUAL)
    assert len(world.sent) == 2 and world.forwards.stats()["forwards_joined"] == 1
    world.answer(DONE, b"$1\r\nv\r\n")
    assert first.reply == second.reply == b"$1\r\nv\r\n" and other.reply is None
    third = world.forward(b"GET", b"k", level=EVENTUAL)
    assert third.reply is None and len(world.sent) == 2, "an answer that has come serves nobody any more"
    world.live = {2}
    world.forwards.peer_lost(2)
    assert third.reply == other.reply == errors.NO_REPLICAS


@pytest.mark.parametrize(
    ("words", "level"),
    [((b"GET", b"k"), QUORUM), ((b"SET", b"k", b"v"), EVENTUAL), ((b"HRANDFIELD", b"k"), EVENTUAL)],
)
def test_what_must_be_asked_for_each(words: tuple[bytes, ...], level: int) -> None:
    world = World()
    world.forward(*words, level=level)
    world.forward(*words, level=level)
    assert len(world.sent) == 2


def test_clients_that_see_different_things_are_not_joined() -> None:
    world = World()
    world.forward(b"GET", b"k", level=EVENTUAL)
    world.client.session.proto = 3
    world.forward(b"GET", b"k", level=EVENTUAL)
    world.client.session.db = 1
    world.forward(b"GET", b"k", level=EVENTUAL)
    assert len(world.sent) == 3


def test_so_many_wait_for_one_answer_and_no_more() -> None:
    world = World()
    pending = [world.forward(b"GET", b"k", level=EVENTUAL) for _ in range(JOINED_MAX + 5)]
    assert len(world.sent) == 2
    world.answer(DONE, b"+1\r\n")
    assert [each.reply for each in pending].count(b"+1\r\n") == JOINED_MAX
    world.answer(DONE, b"+2\r\n")
    assert [each.reply for each in pending].count(b"+2\r\n") == 5


# -- late requests -----------------------------------------------------------------------------------


class Pair:
    """Node 1 forwards INCR k to node 2, whose clock is ahead. Messages wait until they are let on."""

    def __init__(self, ahead_us: int) -> None:
        self.asker, self.target = World(), World()
        self.target.server.clock.now_us += ahead_us
        self.target.live = {1, 2, 3}

    def sleep(self, duration_us: int) -> None:
        for world in (self.asker, self.target):
            world.server.clock.now_us += duration_us

    def let_on(self) -> None:
        """What was sent so far arrives, in both directions, and what that leads to."""
        while self.asker.sent or self.target.sent:
            while self.asker.sent:
                _, message = self.asker.sent.pop(0)
                handlers = {Forward: self.target.forwards.on_forward, Time: self.target.forwards.on_time}
                handlers[type(message)](1, message)
            while self.target.sent:
                _, message = self.target.sent.pop(0)
                handlers = {Forwarded: self.asker.forwards.on_forwarded, Time: self.asker.forwards.on_time}
                handlers[type(message)](2, message)
            self.asker.forwards.seal()

    def link(self) -> None:
        self.asker.forwards.tell_time(2)
        self.target.forwards.tell_time(1)
        self.let_on()


@pytest.mark.parametrize("ahead_us", [0, -999_999, 77_000_000, 1 << 45])
@pytest.mark.parametrize(
    ("late_us", "executed", "refused"),
    [(0, 1, 0), (EXECUTE_US * 6 // 7, 1, 0), (EXECUTE_US, 1, 1), (FORWARD_TIMEOUT_US, 0, 1), (60 << 20, 0, 1)],
)
def test_a_write_is_executed_in_time_or_not_at_all(ahead_us: int, late_us: int, executed: int, refused: int) -> None:
    """What is refused while somebody still waits for it is asked once more; else its client has given up."""
    pair = Pair(ahead_us)
    pair.link()
    pending = pair.asker.forward()
    ((_, message),) = pair.asker.sent
    assert message.flags & UNTIL
    pair.sleep(late_us)
    pair.asker.forwards.on_timer(pair.asker.server.now_us)
    pair.target.replies = [b":1\r\n"]
    pair.let_on()
    assert pending.reply == (b":1\r\n" if executed else errors.OUTCOME_UNKNOWN)
    assert len(pair.target.executed) == executed
    assert pair.target.forwards.stats()["forwards_expired"] == refused


def test_a_write_whose_target_falls_silent_is_given_up_when_it_cannot_be_executed_any_more() -> None:
    pair = Pair(0)
    pair.link()
    forwards, clock = pair.asker.forwards, pair.asker.server.clock
    silent, answered = pair.asker.forward(), pair.asker.forward()
    for _ in range(2):
        forwards.target_lost(2)
    clock.now_us += EXECUTE_US - 1
    forwards.on_timer(clock.now_us)
    assert silent.reply is None
    op = pair.asker.sent[1][1].op
    forwards.on_forwarded(2, Forwarded(op, DONE, b":2\r\n"))
    clock.now_us += 1
    forwards.on_timer(clock.now_us)
    assert silent.reply == errors.OUTCOME_UNKNOWN and answered.reply == b":2\r\n"
    assert not forwards.busy()
    # The end of a link may have come from here: over there it is read to its end.
    pending = pair.asker.forward()
    forwards.target_lost(2)
    forwards.peer_lost(2)
    assert pending.reply is None
    clock.now_us += EXECUTE_US
    forwards.on_timer(clock.now_us)
    assert pending.reply == errors.OUTCOME_UNKNOWN
    # What changes nothing, and what an older node may execute whenever it likes, is given up at once.
    pair.asker.live, pair.asker.old = {2}, True
    pending = pair.asker.forward()
    forwards.target_lost(2)
    assert pending.reply == errors.OUTCOME_UNKNOWN


def test_what_cannot_be_known_to_be_in_time_is_asked_again() -> None:
    pair = Pair(5_000_000)
    pending = pair.asker.forward()  # No time was told yet.
    pair.target.replies = [b":1\r\n"]
    pair.let_on()
    assert pending.reply == b":1\r\n" and pair.target.forwards.stats()["forwards_expired"] == 1
    # Time passes and the clocks may have drifted apart: less and less is certain, then it is asked for anew.
    pair.sleep(EXECUTE_US * DRIFT)
    pending = pair.asker.forward()
    pair.target.replies = [b":2\r\n"]
    pair.let_on()
    assert pending.reply == b":2\r\n" and pair.target.forwards.stats()["forwards_expired"] == 2


def test_a_time_that_was_told_late_makes_the_target_refuse_sooner_never_later() -> None:
    pair = Pair(0)
    pair.target.forwards.tell_time(1)
    pair.sleep(600_000)
    pair.let_on()
    pending = pair.asker.forward()
    pair.sleep(600_000)
    pair.target.replies = [b":1\r\n"]
    pair.let_on()
    assert pair.target.forwards.stats()["forwards_expired"] == 1, "600 ms of it are not certain"
    assert pending.reply == b":1\r\n" and len(pair.target.executed) == 1


def test_a_clock_that_runs_slower_is_not_trusted_for_longer_than_it_may_be_wrong() -> None:
    """Its clock loses as much as is allowed for; the write is refused at the last moment all the same."""
    pair = Pair(0)
    pair.link()
    waited_us = 1_000_000_000
    pair.asker.server.clock.now_us += waited_us
    pair.target.server.clock.now_us += waited_us - waited_us // DRIFT
    pair.asker.forward()
    pair.asker.server.clock.now_us += EXECUTE_US
    pair.target.server.clock.now_us += EXECUTE_US - EXECUTE_US // DRIFT
    pair.asker.forwards.target_lost(2)
    pair.asker.forwards.on_timer(pair.asker.server.now_us)
    pair.let_on()
    assert pair.target.executed == [] and pair.target.forwards.stats()["forwards_expired"] == 1


def test_a_target_that_finds_it_late_twice_is_not_passed_over() -> None:
    """It is the primary, to everybody else: another one beside it would work on the same old values."""
    world = World()
    world.forwards.on_time(2, Time(world.server.clock.steady_us()))
    pending = world.forward()
    given_ms = []
    for _ in range(ASKED_AGAIN_MAX + 1):
        ((_, message),) = world.sent
        given_ms.append(message.until_ms - world.server.clock.steady_us() // 1000)
        assert pending.reply is None
        world.answer(EXPIRED, b"")
    assert pending.reply == errors.TRY_AGAIN and not world.sent and not world.executed
    # A target that answers is not silent but slow: each time it is given twice as long.
    assert all(1.7 < later / earlier < 2.1 for earlier, later in pairwise(given_ms)), given_ms


@pytest.mark.parametrize("again", [0, 1, 2])
@pytest.mark.parametrize("beyond_us", [0, 2_000])
def test_a_target_believes_no_longer_time_than_is_given(beyond_us: int, again: int) -> None:
    world = World()
    world.replies = [b":1\r\n"]
    until_ms = (world.server.clock.steady_us() + (EXECUTE_US << again) + beyond_us) // 1000
    flags = UNTIL | again << AGAIN_AT
    world.forwards.on_forward(3, Forward(1, 1, 0, 2, QUORUM, flags, until_ms, b"default", ((b"INCR", b"k"),)))
    assert len(world.executed) == (not beyond_us)


def test_nothing_is_done_for_a_connection_that_has_ended() -> None:
    """Its EXEC would be done without its WATCH: what it watched is forgotten with it."""
    world, (first, second) = crowd(2)
    world.forwards.on_session_gone(3, SessionGone(first.session))
    world.crowded = False
    world.replies = [b":1\r\n"]
    world.forwards.on_timer(world.server.now_us)
    assert world.sent == [(3, Forwarded(second.op, DONE, b":1\r\n"))]
    # Nor is it asked again for one.
    pending = world.forward()
    world.sent.pop(0)
    world.server.sessions.clear()
    world.answer(EXPIRED, b"")
    assert pending.reply == errors.TRY_AGAIN and not world.sent


def test_a_machine_that_stood_still_is_asked_again_at_once() -> None:
    """Its clock is behind what was known of it: one refusal sets that right, for all requests to come."""
    pair = Pair(0)
    pair.link()
    pair.asker.server.clock.now_us += 10_000_000
    for number in range(3):
        pair.target.replies = [b":1\r\n"]
        assert pair.asker.forward().reply is None
        pair.let_on()
        assert len(pair.target.executed) == number + 1
    assert pair.target.forwards.stats()["forwards_expired"] == 1


def test_a_long_request_has_more_time() -> None:
    pair = Pair(0)
    pair.link()
    value = bytes(BYTES_PER_S * 2)
    pair.target.execute = lambda session, argv: b"+OK\r\n"  # type: ignore[method-assign]
    pair.target.forwards._dispatcher.execute = pair.target.execute
    pending = pair.asker.forward(b"SET", b"k", value)
    ((_, message),) = pair.asker.sent
    assert time_for(message) == EXECUTE_US + 2_000_000
    pair.sleep(2_100_000)
    pair.asker.forwards.on_timer(pair.asker.server.now_us)
    pair.let_on()
    assert pending.reply == b"+OK\r\n" and pair.target.forwards.stats()["forwards_expired"] == 0


def test_a_clock_that_is_being_set_right_gives_the_target_less_time() -> None:
    pair = Pair(0)
    pair.link()
    pair.asker.forward()
    ((_, message),) = pair.asker.sent
    now_us = pair.asker.server.clock.steady_us()
    assert now_us < message.until_ms * 1000 <= now_us + EXECUTE_US - EXECUTE_US // SLEW


def test_long_requests_do_not_keep_others_waiting() -> None:
    world = World()
    long = world.forward(b"SET", b"k", bytes(2 * BYTES_PER_S))
    short = world.forward(b"SET", b"k", bytes(100_000))
    assert world.forwards.late(world.server.now_us + 500_000) == [2]
    world.forwards.on_timer(world.server.now_us + FORWARD_TIMEOUT_US + 10_000)
    assert short.reply == errors.OUTCOME_UNKNOWN and long.reply is None
    world.forwards.on_timer(world.server.now_us + FORWARD_TIMEOUT_US + 2_000_000)
    assert long.reply == errors.OUTCOME_UNKNOWN and not world.forwards.busy()


def test_who_cannot_flush_takes_no_writes_of_others() -> None:
    world = World()
    world.crowded = True
    requests = ((b"MULTI",), (b"INCR", b"k"), (b"EXEC",))
    message = Forward(5, 9, 0, 2, QUORUM, 0, 0, b"default", requests)
    world.forwards.on_forward(3, message)
    assert world.sent == [(3, Forwarded(5, DONE, errors.TRY_AGAIN))] and not world.executed, "it names no time"


def crowd(names: int = 3) -> tuple[World, list[Forward]]:
    """A node that is crowded, and has been given writes by node 3, 10 ms apart."""
    world = World()
    world.crowded = True
    messages = []
    for op in range(names):
        until_ms = world.server.clock.steady_us() // 1000 + EXECUTE_US // 1000
        messages.append(Forward(op, op, 0, 2, QUORUM, UNTIL, until_ms, b"default", ((b"INCR", b"k"),)))
        world.forwards.on_forward(3, messages[-1])
        world.server.clock.now_us += 10_000
    return world, messages


def test_writes_of_others_wait_while_nothing_more_can_be_taken() -> None:
    """As clients of this node do, and in their order. What has become too late by then is asked anew."""
    world, _ = crowd()
    world.forwards.on_timer(world.server.now_us)
    assert not world.executed and not world.sent and world.forwards.busy()
    world.server.clock.now_us += EXECUTE_US - 25_000
    world.forwards.on_timer(world.server.now_us)
    ((_, time), (_, refused)), world.sent = world.sent, []
    assert isinstance(time, Time) and refused == Forwarded(0, EXPIRED, b"") and not world.executed
    world.crowded = False
    world.replies = [b":1\r\n", b":2\r\n"]
    world.forwards.on_timer(world.server.now_us)
    assert world.sent == [(3, Forwarded(1, DONE, b":1\r\n")), (3, Forwarded(2, DONE, b":2\r\n"))]
    assert not world.forwards.busy() and world.forwards.stats()["forwards_held"] > 0


def test_what_comes_behind_a_write_that_waits_is_not_done_before_it() -> None:
    world, (first, *_) = crowd(1)
    world.crowded = False
    world.forwards.on_forward(3, first._replace(op=9))
    assert not world.executed
    world.replies = [b":1\r\n", b":2\r\n"]
    world.forwards.on_timer(world.server.now_us)
    assert [message for _, message in world.sent] == [Forwarded(0, DONE, b":1\r\n"), Forwarded(9, DONE, b":2\r\n")]


@pytest.mark.parametrize("late", [False, True])
def test_what_has_waited_for_others_too_long_is_asked_again(late: bool) -> None:
    """Comparing with a busy replica has taken all of its time: that is no reason to bother a client."""
    world, (first, *_) = crowd(1)
    world.crowded = False
    pending = Pending()
    world.replies = [pending]
    world.forwards.on_timer(world.server.now_us)
    world.server.clock.now_us += EXECUTE_US if late else 1000
    pending.complete(errors.TRY_AGAIN)
    *time, (_, answer) = world.sent
    assert answer == (Forwarded(first.op, EXPIRED, b"") if late else Forwarded(first.op, DONE, errors.TRY_AGAIN))
    assert len(time) == late


def test_writes_that_wait_are_bounded_and_go_with_their_link() -> None:
    world, (first, *_) = crowd(1)
    large = first._replace(op=9, commands=((b"SET", b"k", bytes(HELD_BYTES - 3000)),), until_ms=first.until_ms + 1500)
    for _ in range(2):
        world.forwards.on_forward(3, large)
    assert world.sent == [(3, Forwarded(9, DONE, errors.TRY_AGAIN))]
    world.forwards.peer_lost(3)
    world.forwards.on_forward(2, large)
    assert len(world.sent) == 1 and world.forwards.busy(), "there is room again"
    world.forwards.peer_lost(2)
    assert not world.forwards.busy()


def test_each_session_of_other_nodes_has_a_number_of_its_own() -> None:
    """Whoever watches a key is known by it: the end of one watch must not be that of another."""
    world = World()
    world.replies = [b":1\r\n"] * 2
    for session in (7, 8):
        message = Forward(session, session, 0, 2, QUORUM, 0, 0, b"default", ((b"INCR", b"k"),))
        world.forwards.on_forward(3, message)
    first, second = world.executed
    assert first.id != second.id and max(first.id, second.id) < 0


def test_reads_may_come_late_and_old_nodes_are_told_no_time() -> None:
    pair = Pair(0)
    for words in ((b"GET", b"k"), (b"WATCH", b"k")):
        pair.asker.forward(*words)
        _, message = pair.asker.sent.pop()
        assert not message.flags & UNTIL
    world = World()
    world.old = True
    world.forwards.tell_time(2)
    world.forward()
    ((_, message),) = world.sent
    assert isinstance(message, Forward) and not message.flags & UNTIL


def test_how_long_it_may_take_is_known_over_there() -> None:
    pair = Pair(0)
    pair.link()
    pair.asker.forward()
    pair.sleep(100_000)
    pair.target.replies = [b":1\r\n"]
    pair.let_on()
    (session,) = pair.target.executed
    left_us = session.until_us - pair.target.server.clock.steady_us()
    assert EXECUTE_US * 3 // 4 < left_us + 100_000 < EXECUTE_US
    # A later request brings its own; one that has to wait for a block keeps its own.
    context = session.context()
    pair.target.replies = [b":2\r\n"]
    read = Forward(9, pair.asker.client.session.id, 3, 2, EVENTUAL, 0, 0, b"default", ((b"INCR", b"k"),))
    pair.target.forwards.on_forward(1, read)
    assert session.until_us == 0 and session.db == 3
    session.resume(context)
    assert session.context() == context and session.db == 0
