"""SCAN, KEYS, DBSIZE and RANDOMKEY of the plain face where this node has copies of some slots only.

Each slot is told of by one node: this one where it has a copy, else the first live replica. KEYS and DBSIZE ask all
these nodes at once and join their answers, RANDOMKEY asks one after the other until one has a key. SCAN goes on where
its cursor stands, from run to run of slots that one node can tell of, until it has what COUNT asks for; a cursor means
the same on every node. Any of them reads one copy of a key: what has not reached that copy yet is not told of.

A node is asked by a ``Forward`` with the flag SLICE, and walks in a session of its own. Walks take long: an answer is
waited for while the node is linked, for WALK_TIMEOUT_US at most.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from struct import iter_unpack, pack
from typing import TYPE_CHECKING, Any, Final

from respkv.base.errors import CommandError
from respkv.base.slots import SLOT_COUNT
from respkv.commands.keyspace import scan_count, scan_cursor
from respkv.commands.ring_dispatch import RingDispatcher
from respkv.commands.routing import CLUSTER_DOWN
from respkv.commands.session import Pending, Session
from respkv.commands.spec import CommandSpec, Form
from respkv.keyspace.scan import cursor_slot, slot_cursor
from respkv.node.forwards import Deaf
from respkv.resp import errors
from respkv.resp.reply import NULL, array, bulk, encode, integer
from respkv.wire.messages import DONE, NOT_DONE, SLICE, Forward, Forwarded

if TYPE_CHECKING:
    from respkv.node.node import Node

WALK_TIMEOUT_US: Final = 60_000_000
#: Walks of this node that others are asked for, and those of others here. More are refused.
WALKS_MAX: Final = 1024
#: Runs of slots that one SCAN goes through at most.
_RUNS_PER_SCAN: Final = 32

#: (first, last) inclusive
Ranges = Sequence[tuple[int, int]]
Done = Callable[[bytes], None]


def slots_of(ranges: Ranges) -> bytearray:
    """By slot: 1 in the ranges."""
    slots = bytearray(SLOT_COUNT)
    for first, last in ranges:
        slots[first : last + 1] = b"\x01" * (last + 1 - first)
    return slots


class RingWalk:
    """Both ends. ``send(short, message)`` is False when there is no link."""

    __slots__ = ("_dispatcher", "_executing", "_next_op", "_node", "_open", "_send")

    def __init__(
        self,
        node: Node,
        dispatcher: RingDispatcher,
        *,
        send: Callable[[int, Any], bool],
        next_op: Callable[[], int],
    ) -> None:
        self._node = node
        self._dispatcher = dispatcher
        self._send = send
        self._next_op = next_op
        #: op -> target, deadline, who waits
        self._open: dict[int, tuple[int, int, Done]] = {}
        self._executing = 0

    # -- asking ------------------------------------------------------------------------------------

    def walk(self, session: Session, spec: CommandSpec, argv: list[bytes]) -> Pending:
        """The promise of a reply. Raises CommandError."""
        pending = Pending()
        if spec.name == "scan":
            _Scan(self, session, spec, argv, pending).go_on()
            return pending
        parts = self._parts()
        if spec.name == "randomkey":
            order = list(parts.items())
            self._node.rng.shuffle(order)
            _first_found(self, session, spec, argv, order, pending)
            return pending
        answers: list[bytes] = []

        def answered(reply: bytes) -> None:
            if reply.startswith(b"-"):
                pending.complete(reply)
                return
            answers.append(reply)
            if len(answers) == len(parts):
                counts = spec.name == "dbsize"
                pending.complete(integer(sum(int(each[1:]) for each in answers)) if counts else joined(answers))

        for target, ranges in parts.items():
            self.ask(session, spec, argv, target, ranges, answered)
        return pending

    def _parts(self) -> dict[int, list[tuple[int, int]]]:
        """Node -> the slots of which it is to tell."""
        placement = self._dispatcher.coordinator.placement
        assert placement is not None
        parts: dict[int, list[tuple[int, int]]] = {}
        for first, last, _ in placement.ranges:
            parts.setdefault(self.teller(first), []).append((first, last))
        return parts

    def teller(self, slot: int) -> int:
        """The node that tells of a slot. CommandError when there is none."""
        coordinator = self._dispatcher.coordinator
        found = coordinator.me if coordinator.mine[slot] else coordinator.primary(slot)
        if not found:
            raise CommandError(CLUSTER_DOWN)
        return found

    def run_end(self, slot: int) -> int:
        """The slot after those from ``slot`` on that its teller has copies of and nobody nearer tells of."""
        coordinator, teller = self._dispatcher.coordinator, self.teller(slot)
        placement, mine = coordinator.placement, coordinator.mine
        assert placement is not None
        end = slot + 1
        while end < SLOT_COUNT and mine[end] == mine[slot] and teller in placement.table[end]:
            end += 1
        return end

    def ask(
        self, session: Session, spec: CommandSpec, argv: list[bytes], target: int, ranges: Ranges, done: Done
    ) -> None:
        """Have ``target`` walk over ``ranges``; ``done`` gets its reply, perhaps at once."""
        if target == self._dispatcher.coordinator.me:
            self._walk_here(session, spec, argv, ranges, done)
            return
        op = self._next_op()
        message = Forward(
            op, session.id, self._node.keyspace.stored[session.db], session.proto, 0, SLICE, 0,
            session.user, (tuple(argv), (b"".join(pack(">HH", *pair) for pair in ranges),)),
        )  # fmt: skip
        if len(self._open) >= WALKS_MAX:
            done(errors.TRY_AGAIN)
        elif not self._send(target, message):
            done(CLUSTER_DOWN)
        else:
            self._open[op] = (target, self._node.now_us + WALK_TIMEOUT_US, done)

    def _walk_here(self, session: Session, spec: CommandSpec, argv: list[bytes], ranges: Ranges, done: Done) -> None:
        try:
            reply = self._dispatcher.walk_slots(session, spec, argv, slots_of(ranges))
        except CommandError as mistake:
            reply = mistake.reply
        if not isinstance(reply, Pending):
            done(reply)
        elif reply.reply is not None:
            done(encode(reply.reply, session.proto))
        else:
            walk = reply
            walk.on_done = lambda: done(encode(walk.reply or b"", session.proto))

    def on_forwarded(self, peer: int, message: Forwarded) -> bool:
        """A node has answered; False: that was no answer to a walk."""
        held = self._open.get(message.op)
        if held is None or held[0] != peer:
            return False
        del self._open[message.op]
        held[2](message.reply if message.status == DONE else errors.TRY_AGAIN)
        return True

    # -- walking for others ------------------------------------------------------------------------

    def on_slice(self, peer: int, message: Forward) -> None:
        """Walk over some slots of this node for a client of another one."""
        argv, ranges = list(message.commands[0]), _ranges_of(message)
        spec, server = self._dispatcher.table.resolve(argv), self._node
        known = spec is not None and spec.form is Form.WALK and spec.fits(len(argv))
        if not known or ranges is None or message.db not in server.keyspace.stored or self._executing >= WALKS_MAX:
            self._send(peer, Forwarded(message.op, NOT_DONE, b""))
            return
        assert spec is not None
        session = Session(0, server, Deaf(), address=f"node:{peer}", local_address="")
        session.proto = 3 if message.proto == 3 else 2
        session.db = server.keyspace.stored.index(message.db)
        self._executing += 1

        def done(reply: bytes) -> None:
            self._executing -= 1
            self._send(peer, Forwarded(message.op, DONE, reply))

        self._walk_here(session, spec, argv, ranges, done)

    # -- time and links ----------------------------------------------------------------------------

    def peer_lost(self, peer: int) -> None:
        """The link has ended: it will not answer."""
        for op in [op for op, held in self._open.items() if held[0] == peer]:
            self._open.pop(op)[2](CLUSTER_DOWN)

    def busy(self) -> bool:
        """True while ``on_timer`` is needed."""
        return bool(self._open)

    def on_timer(self, now_us: int) -> None:
        """Give up what takes too long. O(expired): deadlines ascend."""
        while self._open:
            op, (_, deadline_us, done) = next(iter(self._open.items()))
            if deadline_us > now_us:
                return
            del self._open[op]
            done(CLUSTER_DOWN)


class _Scan:
    """One SCAN."""

    __slots__ = ("_argv", "_bodies", "_count", "_cursor", "_found", "_pending", "_runs", "_session", "_spec", "_walk")

    def __init__(
        self, walk: RingWalk, session: Session, spec: CommandSpec, argv: list[bytes], pending: Pending
    ) -> None:
        self._walk = walk
        self._session = session
        self._spec = spec
        self._argv = argv
        self._pending = pending
        self._cursor = scan_cursor(argv[1])
        self._count = scan_count(argv)
        self._bodies: list[bytes] = []
        self._found = self._runs = 0

    def go_on(self) -> None:
        """Ask for the run in which the cursor stands. Raises CommandError the first time only."""
        slot = cursor_slot(self._cursor) if self._cursor else 0
        if not 0 <= slot < SLOT_COUNT:
            self._end(0)
            return
        self._runs += 1
        end = self._walk.run_end(slot)
        argv = [self._argv[0], b"%d" % self._cursor, *self._argv[2:]]

        def answered(reply: bytes) -> None:
            if reply.startswith(b"-"):
                self._pending.complete(reply)
                return
            cursor, count, body = split_scan(reply)
            self._bodies.append(body)
            self._found += count
            self._cursor = cursor or slot_cursor(end)
            if not self._cursor or self._found >= self._count or self._runs >= _RUNS_PER_SCAN:
                self._end(self._cursor)
                return
            try:
                self.go_on()
            except CommandError as mistake:
                self._pending.complete(mistake.reply)

        self._walk.ask(self._session, self._spec, argv, self._walk.teller(slot), [(slot, end - 1)], answered)

    def _end(self, cursor: int) -> None:
        names = b"*%d\r\n" % self._found + b"".join(self._bodies)
        self._pending.complete(encode(array([bulk(b"%d" % cursor), names]), self._session.proto))


def _first_found(
    walk: RingWalk, session: Session, spec: CommandSpec, argv: list[bytes],
    order: list[tuple[int, list[tuple[int, int]]]], pending: Pending,
) -> None:  # fmt: skip
    """Ask one node after the other until one answers with a key, or an error."""
    target, ranges = order.pop()

    def answered(reply: bytes) -> None:
        if order and reply == NULL.encode(session.proto):
            _first_found(walk, session, spec, argv, order, pending)
        else:
            pending.complete(reply)

    walk.ask(session, spec, argv, target, ranges, answered)


def joined(replies: Sequence[bytes]) -> bytes:
    """One array of the elements of several."""
    heads = [reply.index(b"\r\n") for reply in replies]
    count = sum(int(reply[1:head]) for reply, head in zip(replies, heads))
    return b"*%d\r\n" % count + b"".join(reply[head + 2 :] for reply, head in zip(replies, heads))


def split_scan(reply: bytes) -> tuple[int, int, bytes]:
    """(cursor, number of keys, their encoded bytes) of a reply of SCAN."""
    _, _, cursor, rest = reply.split(b"\r\n", 3)
    head, _, body = rest.partition(b"\r\n")
    return int(cursor), int(head[1:]), body


def _ranges_of(message: Forward) -> Ranges | None:
    """The slots that a walk is to tell of, None for nonsense."""
    if len(message.commands) != 2 or len(message.commands[1]) != 1 or len(message.commands[1][0]) % 4:
        return None
    ranges = [(first, last) for first, last in iter_unpack(">HH", message.commands[1][0])]
    return ranges if all(first <= last < SLOT_COUNT for first, last in ranges) else None
