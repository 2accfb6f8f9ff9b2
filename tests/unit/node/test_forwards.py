"""Forwarded requests that their target cannot carry out: another replica is asked, this node among them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from respkv.base.errors import CommandError
from respkv.base.slots import slot_of
from respkv.commands.session import Pending, Session
from respkv.commands.table import build_table
from respkv.node.forwards import FORWARD_TIMEOUT_US, JOINED_MAX, Forwards
from respkv.replication.levels import EVENTUAL, QUORUM
from respkv.resp import errors
from respkv.wire.messages import DONE, NOT_DONE, Forward, Forwarded
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
        self.forwards = Forwards(
            self.server, dispatcher, send=self.send, linked=lambda short: short in self.live, first_op=100
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
    message = Forward(5, 9, 0, 2, QUORUM, 0, 1000, b"default", ((b"INCR", b"k"),))
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
