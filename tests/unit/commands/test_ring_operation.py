"""Operations of the general path on a ring, against a coordinator that answers as the test wants."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from respkv.base.errors import BlockRequest, CommandError, CorruptionError, ReadMiss
from respkv.base.ids import HASH
from respkv.commands.ring_dispatch import RingDispatcher
from respkv.commands.ring_operation import Operation
from respkv.commands.session import Pending
from respkv.commands.spec import ATOMIC, WRITE, CommandSpec, KeySpec
from respkv.keyspace import effects as fx
from respkv.keyspace import keys
from respkv.keyspace.view import View
from respkv.replication.levels import QUORUM, Quorums
from respkv.replication.rounds import Reader, Round
from respkv.resp import errors
from respkv.resp.reply import integer
from respkv.testing.node_driver import NodeDriver
from tests.unit.keyspace.rig import Rig


class Peers:
    """The coordinator: ``answers`` says how comparisons go."""

    def __init__(self) -> None:
        self.quorums = Quorums(replicas=3)
        self.me = 1
        self.placement: Any = object()
        self.level = QUORUM
        self.asked: list[Reader] = []
        self.refuses = False
        self.rounds = Round(QUORUM)

    def tell(self, command: str, level: int, node: int, *, write: bool) -> dict[str, Any]:
        return {"command": command, "compared": 0}

    def ask(self, reader: Reader, internal: bytes, stamp: bytes, level: int) -> None:
        if self.refuses:
            reader.fail(errors.NO_REPLICAS)
            return
        reader.waiting += 1
        self.asked.append(reader)

    def answer(self) -> None:
        asked, self.asked = self.asked, []
        for reader in asked:
            reader.waiting -= 1
            if not reader.waiting:
                reader.resume()

    def round(self, level: int) -> Round:
        return self.rounds

    def begin_own(self) -> bool:
        return False

    def is_sure(self, level: int) -> bool:
        return True

    def ask_range(self, reader: Reader, start: bytes, end: bytes, level: int, now_us: int) -> bool:
        raise AssertionError("no test but those that replace it has ranges")


class World:
    def __init__(self) -> None:
        self.rig = Rig()
        self.peers = Peers()
        self.fetches: list[Any] = []
        self.runs = 0
        self.miss = False
        self.steady_us = 0
        clock = SimpleNamespace(steady_us=lambda: self.steady_us)
        server = SimpleNamespace(now_us=0, rng=self.rig.rng, pubsub=SimpleNamespace(events=0), clock=clock)
        self.session: Any = SimpleNamespace(
            db=0, proto=2, no_touch=False, cluster_face=False, server=server, until_us=0,
            context=lambda: None, resume=lambda context: None,
        )  # fmt: skip
        self.dispatcher: Any = SimpleNamespace(
            keyspace=self.rig.keyspace, applier=self.rig.applier, limit_bytes=1 << 29, coordinator=self.peers,
            fetch=lambda requests, done: self.fetches.append(done), error_of=lambda reason: reason.reply,
        )  # fmt: skip

    def count(self, argv: list[bytes], view: View) -> tuple[Any, fx.Effects]:
        self.runs += 1
        self.also(view)
        if self.miss and self.runs > 1:
            self.miss = False
            raise ReadMiss(BlockRequest.__new__(BlockRequest))
        number = int(view.string(b"n") or b"0") + 1
        return integer(number), [fx.put(view.db, b"n", b"%d" % number)]

    def also(self, view: View) -> None:
        """What else the command reads."""

    def start(self) -> bytes | Pending:
        spec = CommandSpec("count", self.count, 1, WRITE | ATOMIC, keys=(KeySpec(),))
        return Operation(self.dispatcher, self.session, spec, [b"COUNT"], QUORUM).start()

    def stored(self) -> bytes | None:
        return self.rig.view().string(b"n")


def test_it_runs_again_after_the_comparison_and_waits_for_acks() -> None:
    world = World()
    pending = world.start()
    assert isinstance(pending, Pending) and world.stored() is None
    world.peers.answer()
    assert world.stored() == b"1" and pending.reply is None and world.runs == 2
    world.peers.rounds.settle()
    assert pending.reply == b":1\r\n"


def test_a_write_that_is_not_confirmed_is_unknown() -> None:
    world = World()
    pending = world.start()
    world.peers.answer()
    world.peers.rounds.failed = True
    world.peers.rounds.settle()
    assert isinstance(pending, Pending) and pending.reply == errors.OUTCOME_UNKNOWN


def test_who_is_refused_at_once_is_answered() -> None:
    world = World()
    world.peers.refuses = True
    pending = world.start()
    assert isinstance(pending, Pending) and pending.reply == errors.NO_REPLICAS and world.stored() is None


def test_effects_are_applied_once_however_often_it_is_resumed() -> None:
    world = World()
    pending = world.start()
    (operation,) = world.peers.asked
    world.peers.answer()
    operation.resume()
    operation.resume()
    assert world.stored() == b"1"
    world.peers.rounds.settle()
    assert isinstance(pending, Pending) and pending.reply == b":1\r\n"


@pytest.mark.parametrize(("now_us", "stored"), [(999, b"1"), (1000, None)])
def test_what_was_given_up_while_it_was_compared_changes_nothing(now_us: int, stored: bytes | None) -> None:
    world = World()
    world.session.until_us = 1000
    pending = world.start()
    world.session.until_us = 9000  # The next request of that client.
    world.steady_us = now_us
    world.peers.answer()
    assert isinstance(pending, Pending) and world.stored() == stored
    assert pending.reply == (None if stored else errors.TRY_AGAIN)


def test_a_missing_block_between_comparison_and_run() -> None:
    world = World()
    world.miss = True
    pending = world.start()
    world.peers.answer()
    (fetched,) = world.fetches
    assert world.stored() is None
    fetched()
    world.peers.rounds.settle()
    assert world.stored() == b"1" and isinstance(pending, Pending) and pending.reply == b":1\r\n"


def test_a_forwarded_request_is_not_forwarded_again() -> None:
    driver = NodeDriver()
    session, plain = driver.connect().session, driver.node.dispatcher
    dispatcher = RingDispatcher(
        table=plain.table, keyspace=plain.keyspace, applier=plain.applier, registry=plain.registry,
        server=plain.server, fetch=plain.fetch, limit_bytes=plain.limit_bytes,
    )  # fmt: skip
    session.forwarded = True
    with pytest.raises(CommandError) as caught:
        dispatcher.pass_on(session, 2, [b"INCR", b"n"], QUORUM)
    assert caught.value.reply == errors.TRY_AGAIN


class Damaged(World):
    """Data of this node cannot be read from the ``from_run``-th run on."""

    def __init__(self, from_run: int) -> None:
        super().__init__()
        self.from_run = from_run
        self.moved: list[bytes] = []
        self.elsewhere: Pending | None = Pending()
        self.dispatcher.elsewhere = self.move

    def move(self, session: Any, spec: CommandSpec, argv: list[bytes], level: int) -> Pending:
        self.moved.append(argv[0])
        if self.elsewhere is None:
            raise CommandError(errors.CORRUPT)
        return self.elsewhere

    def count(self, argv: list[bytes], view: View) -> tuple[Any, fx.Effects]:
        if self.runs + 1 >= self.from_run:
            raise CorruptionError("table", 0, "rot")
        return super().count(argv, view)


def test_damage_at_the_first_look_is_the_dispatchers_business() -> None:
    with pytest.raises(CorruptionError):
        Damaged(1).start()


@pytest.mark.parametrize("at_once", [False, True])
def test_damage_met_after_the_comparison_sends_the_request_elsewhere(at_once: bool) -> None:
    world = Damaged(2)
    pending = world.start()
    assert isinstance(pending, Pending) and world.elsewhere is not None
    if at_once:
        world.elsewhere.complete(b":1\r\n")
    world.peers.answer()
    assert world.moved == [b"COUNT"] and world.stored() is None
    world.elsewhere.complete(b":1\r\n")
    assert pending.reply == b":1\r\n"


def test_damage_met_while_comparing_sends_the_request_elsewhere_once() -> None:
    world = Damaged(99)
    pending = world.start()
    (operation,) = world.peers.asked
    operation.fail(errors.CORRUPT)
    operation.fail(errors.CORRUPT)
    world.peers.answer()
    assert world.moved == [b"COUNT"] and world.stored() is None and isinstance(pending, Pending)
    assert pending.reply is None


def test_damage_that_nobody_else_can_help_with_is_told() -> None:
    world = Damaged(2)
    world.elsewhere = None
    pending = world.start()
    world.peers.answer()
    assert isinstance(pending, Pending) and pending.reply == errors.CORRUPT


@pytest.mark.parametrize("first_run", [False, True])
def test_what_waits_for_a_block_waits_for_answers_as_well(first_run: bool) -> None:
    """Two ranges are asked about, and the second cannot be read at once: neither the block that comes nor the answer
    about the first ends the waiting, and no second operation begins."""
    world = World()
    for key in (b"h1", b"h2"):
        world.rig.apply((fx.PUT_ELEMENT, 0, key, HASH, b"f", b"v", 0))
    second = keys.element_prefix(keys.record_key(0, b"h2"))
    ranges: list[tuple[bytes, Reader]] = []
    cold = [True]

    def ask_range(reader: Reader, start: bytes, end: bytes, level: int, now_us: int) -> bool:
        if start == second and cold[0]:
            raise ReadMiss(BlockRequest.__new__(BlockRequest))
        reader.waiting += 1
        ranges.append((start, reader))
        return True

    def also(view: View) -> None:
        for key in (b"h1", b"h2") if first_run or world.runs > 1 else ():
            fields = view.hash(key)
            assert fields is not None
            fields.items_after(None, 1)

    def answer_range() -> bytes:
        start, reader = ranges.pop(0)
        reader.waiting -= 1
        if not reader.waiting:
            reader.resume()
        return start

    world.peers.ask_range = ask_range  # type: ignore[method-assign]
    world.also = also  # type: ignore[method-assign]
    pending = world.start()
    assert isinstance(pending, Pending)
    world.peers.answer()
    assert len(ranges) == 1 and world.fetches
    answer_range()
    cold[0] = False
    for done in world.fetches:
        done()
    world.peers.answer()
    assert [start for start, _ in ranges] == [second] and world.stored() is None
    answer_range()
    world.peers.answer()
    assert world.stored() == b"1" and not ranges
