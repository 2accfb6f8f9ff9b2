"""Forwarded requests: what this node asks another to execute, and what it executes for others.

A request keeps its reply's place at the node that took it; the target executes it in a session of its own, one for each
connection over there (what it watches hangs on it), and answers with finished bytes. A target executes what it gets or
says NOT_DONE, it never forwards again: two nodes with different opinions of who is alive cannot play ping-pong. When no
answer comes the request may or may not have been executed: a write's outcome is unknown (DESIGN 4).

*No late execution*: a link that stalls delivers what it holds when it goes on, or when its reader does, perhaps minutes
later. A write would then be stamped anew and overwrite what its client, having given up, has written since. So each
names the moment, on the target's clock, from which on the target must not execute it, and whoever waits is not told
that its outcome is unknown before that: then it has been executed, or never will be. For that a node keeps a lower
bound of (peer's clock - own clock) for each peer: the peer's ``Time`` less the own clock when it was read, which a
delay only lowers, less DRIFT of the time since. Clocks need no common start, and nothing but their rates is trusted, of
clocks that nobody sets right (``Clock.steady_us``). What is refused as too late brings a new ``Time`` along and is
asked again, of the same node: it is the primary, another one beside it could lose an update.

A target whose flushes are far behind holds writes, as it holds its own clients, until it can take them or they have
become too late.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from respkv.base.errors import CommandError
from respkv.base.limits import KIB, MIB
from respkv.commands.ring_dispatch import RingDispatcher
from respkv.commands.routing import key_slots
from respkv.commands.session import Pending, Server, Session
from respkv.commands.spec import Flag
from respkv.replication.levels import ALL, EVENTUAL
from respkv.replication.write_op import LATE_US
from respkv.resp import errors
from respkv.resp.reply import encode
from respkv.wire.messages import (
    AGAIN_AT,
    AGAIN_MAX,
    DONE,
    EXPIRED,
    NOT_DONE,
    UNTIL,
    Forward,
    Forwarded,
    SessionGone,
    Time,
)

#: How long an answer is waited for, and until when the target may begin with it. The longer the latter, the longer
#: clients wait when a target falls silent; the shorter, the sooner one that has much to do is asked in vain.
FORWARD_TIMEOUT_US: Final = 3_000_000
EXECUTE_US: Final = 750_000
#: How often a target that has much to do is asked anew, each time with twice as long: it is not silent, only slow.
ASKED_AGAIN_MAX: Final = 2
assert ASKED_AGAIN_MAX <= AGAIN_MAX
#: So many bytes of a request take a second more: it may have to come over a slow wire.
BYTES_PER_S: Final = 32 * MIB
#: Two clocks that nobody sets right differ in rate by less than 1 of so many; one that is being set right may be slower
#: or faster by less than 1 of SLEW.
DRIFT: Final = 1000
SLEW: Final = 8
#: Requests of this node that others are executing. More are refused.
FORWARDS_MAX: Final = 65_536
#: Bytes of requests that are held, and what each, and each of its words, takes beside its bytes. More are refused.
HELD_BYTES: Final = 64 * MIB
_HELD_OVERHEAD: Final = KIB
_WORD_OVERHEAD: Final = 50
#: Sessions of other nodes' connections, and how long an idle one is kept.
SESSIONS_MAX: Final = 20_000


_RANDOM: Final = "nondeterministic_output"
_U32: Final = (1 << 32) - 1
#: Who waits for the answer of one read, at most.
JOINED_MAX: Final = 4096
#: A read: stored database, RESP version, user, words. Two that are equal may have one answer.
Same = tuple[int, int, bytes, tuple[bytes, ...]]


class _Open(NamedTuple):
    """``until_us``: it is not executed from then on, where it is ``dated``; ``deadline_us``: nor waited for; ``tried``:
    by whom it cannot be; ``reads``: it may be executed any number of times."""

    pending: Pending
    target: int
    asked_us: int
    until_us: int
    deadline_us: int
    writes: bool
    reads: bool
    message: Forward
    tried: tuple[int, ...] = ()
    #: how often the target has said that it came too late
    again: int = 0
    dated: bool = False

    def is_long(self) -> bool:
        """It has much more time than most, whose deadlines ascend, or nearly."""
        return self.until_us - self.asked_us > 2 * EXECUTE_US


def _size(message: Forward) -> int:
    return sum(sum(map(len, argv)) for argv in message.commands)


def _charge(message: Forward) -> int:
    """Bytes of memory that it takes while it is held."""
    return _size(message) + _WORD_OVERHEAD * sum(map(len, message.commands)) + _HELD_OVERHEAD


def time_for(message: Forward, again: int = 0) -> int:
    """How long after it was asked, ``again`` for so many times, a target may begin with a request, us."""
    return (EXECUTE_US << again) + _size(message) * 1_000_000 // BYTES_PER_S


class Deaf:
    """The sink of a session whose connection is at another node: nothing is ever pushed to it."""

    __slots__ = ()

    def push(self, data: bytes) -> None:
        """Out-of-band output has nowhere to go."""

    def close(self, *, after_output: bool) -> None:
        """There is no connection."""

    def buffered(self) -> int:
        return 0

    def input_buffered(self) -> int:
        return 0

    def read_on(self) -> None:
        """There is no input."""


class Forwards:
    """Both ends. ``send(short, message)`` is False when there is no link."""

    __slots__ = (
        "_clocks", "_crowded", "_dispatcher", "_first_op", "_held", "_held_bytes", "_linked", "_lost", "_next_op",
        "_open", "_reads", "_send", "_server", "_session_id", "_sessions", "_tells_time", "_unsent", "executed",
        "expired", "held", "joined", "sent",
    )  # fmt: skip

    def __init__(
        self,
        server: Server,
        dispatcher: RingDispatcher,
        *,
        send: Callable[[int, Any], bool],
        linked: Callable[[int], bool],
        tells_time: Callable[[int], bool],
        crowded: Callable[[], bool],
        first_op: int,
    ) -> None:
        """``first_op``: above every number that this node has ever used. ``tells_time``: whether a peer minds UNTIL;
        ``crowded``: this node can take no writes of others for now."""
        self._server = server
        self._dispatcher = dispatcher
        self._send = send
        self._linked = linked
        self._tells_time = tells_time
        self._crowded = crowded
        #: peer -> (lower bound of its clock less this node's, when that was so)
        self._clocks: dict[int, tuple[int, int]] = {}
        self._first_op = self._next_op = first_op
        self._open: dict[int, _Open] = {}
        self._unsent: list[tuple[int, Forward]] = []
        #: writes whose target is lost, while it might still begin with them
        self._lost: dict[int, None] = {}
        #: (peer, request): writes of others that wait until this node is not crowded
        self._held: deque[tuple[int, Forward]] = deque()
        self._held_bytes = 0
        self._sessions: dict[tuple[int, int], Session] = {}
        #: that of the last of them; those of clients are positive
        self._session_id = 0
        #: reads under way at EVENTUAL -> who waits for their answers
        self._reads: dict[Same, list[Pending]] = {}
        self.sent = self.executed = self.expired = self.held = self.joined = 0

    # -- asking ------------------------------------------------------------------------------------

    def next_op(self) -> int:
        """A number that no other request of this node to another one has."""
        self._next_op += 1
        return self._next_op

    def forward(self, session: Session, target: int, commands: list[list[bytes]], level: int) -> Pending:
        """Have ``target`` execute a request, or several whose last reply is wanted: MULTI, what was queued, EXEC.

        Raises CommandError when it cannot be asked.
        """
        specs = [self._dispatcher.table.resolve(argv) for argv in commands]
        writes = any(spec is None or spec.flags & Flag.WRITE for spec in specs)
        reads = all(spec is not None and spec.flags & Flag.READONLY for spec in specs)
        if len(self._open) >= FORWARDS_MAX:
            raise CommandError(errors.TRY_AGAIN)
        if not self._linked(target):
            raise CommandError(errors.NO_REPLICAS)
        op, db = self.next_op(), self._server.keyspace.stored[session.db]
        same: Same | None = None
        spec = specs[0] if level == EVENTUAL and len(specs) == 1 else None
        if spec is not None and spec.flags & Flag.READONLY and _RANDOM not in spec.tips:
            same = (db, session.proto, session.user, tuple(commands[0]))
            if (joined := self._join(same)) is not None:
                return joined
        message = Forward(
            op, session.id, db, session.proto, level, 0, 0, session.user, tuple(map(tuple, commands))
        )
        self._unsent.append((target, message))
        self.sent += 1
        pending = Pending()
        answer = pending if same is None else self._lead(same, pending)
        self._open[op] = self._dated(_Open(answer, target, 0, 0, 0, writes, reads, message))
        return pending

    def _dated(self, held: _Open) -> _Open:
        """With its whole time, from now on."""
        now_us, execute_us = self._server.now_us, time_for(held.message, held.again)
        deadline_us = now_us + execute_us + FORWARD_TIMEOUT_US - EXECUTE_US
        dated = held.writes and self._tells_time(held.target)
        until_us = now_us + execute_us
        return held._replace(asked_us=now_us, until_us=until_us, deadline_us=deadline_us, dated=dated)

    def _join(self, same: Same) -> Pending | None:
        """Wait for the answer of a read that is under way already. EVENTUAL promises nothing about reading one's own
        writes, so an answer may be a little older than the question. None: there is none, or too many wait for it."""
        waiting = self._reads.get(same)
        if waiting is None or len(waiting) >= JOINED_MAX:
            return None
        self.joined += 1
        waiting.append(Pending())
        return waiting[-1]

    def _lead(self, same: Same, pending: Pending) -> Pending:
        """A read goes out for ``pending``, and for who joins it meanwhile."""
        waiting = self._reads[same] = [pending]
        answer = Pending()

        def done() -> None:
            assert answer.reply is not None
            if self._reads.get(same) is waiting:
                del self._reads[same]
            for each in waiting:
                each.complete(answer.reply)

        answer.on_done = done
        return answer

    def seal(self) -> None:
        """The cycle is over: send what is to be executed, behind what the cycle has written. The target then knows of
        that before it executes this."""
        if self._unsent:
            unsent, self._unsent = self._unsent, []
            for target, message in unsent:
                held = self._open.get(message.op)
                if held is None:
                    continue
                if held.dated:
                    until_ms = self._until_ms(target, held.until_us)
                    flags = message.flags | UNTIL | held.again << AGAIN_AT
                    message = message._replace(flags=flags, until_ms=until_ms)
                if not self._send(target, message):
                    self._open.pop(message.op).pending.complete(errors.NO_REPLICAS)

    def _until_ms(self, peer: int, until_us: int) -> int:
        """A moment on the clock of ``peer``, or a little earlier; 0, which is always over, when that is not known."""
        known, clock = self._clocks.get(peer), self._server.clock
        if known is None:
            return 0
        left_us = until_us - clock.monotonic_us()
        steady_us = clock.steady_us() + left_us - abs(left_us) // SLEW
        ahead_us = known[0] - max(0, steady_us - known[1]) // DRIFT - 1
        return (steady_us + ahead_us) // 1000 & _U32 or _U32

    def on_forwarded(self, peer: int, message: Forwarded) -> None:
        """The target has answered."""
        held = self._open.get(message.op)
        if held is None or held.target != peer:
            return
        del self._open[message.op]
        if message.status == DONE:
            held.pending.complete(message.reply)
        elif message.status != EXPIRED:
            self._ask_another(held, peer, message.reply)
        elif held.again >= ASKED_AGAIN_MAX or held.message.session not in self._server.sessions:
            # Of a client that has gone the target has forgotten what it watches.
            held.pending.complete(errors.TRY_AGAIN)
        else:
            self._ask(held._replace(again=held.again + 1))

    def _ask_another(self, held: _Open, peer: int, reason: bytes) -> None:
        """``peer`` has changed nothing and cannot carry it out: another replica is asked, this node perhaps."""
        coordinator, argv = self._dispatcher.coordinator, list(held.message.commands[0])
        spec, tried = self._dispatcher.table.resolve(argv), (*held.tried, peer)
        target = 0 if spec is None else coordinator.substitute(key_slots(spec, argv, coordinator), tried)
        held = held._replace(target=target, tried=tried, again=0)
        if target and target == coordinator.me:
            self._run_here(held, target)
        elif target and self._linked(target):
            self._ask(held)
        else:
            held.pending.complete(reason or errors.TRY_AGAIN)

    def _ask(self, held: _Open) -> None:
        """Ask the target, with the whole time."""
        op = self.next_op()
        message = held.message._replace(op=op)
        self._open[op] = self._dated(held._replace(message=message))
        self._unsent.append((held.target, message))

    def _run_here(self, held: _Open, me: int) -> None:
        """The request of a client of this node, which another one should have carried out."""

        def done(reply: bytes) -> None:
            if reply == errors.CORRUPT:
                self._ask_another(held, me, reply)
            else:
                held.pending.complete(reply)

        session = self._session(me, held.message)
        session.until_us = 0
        self._execute(session, held.message, done)

    def session_gone(self, session: Session, members: tuple[int, ...]) -> None:
        """A connection of this node has ended: others may forget it."""
        if self.sent:
            for short in members:
                self._send(short, SessionGone(session.id))

    def tell_time(self, peer: int) -> None:
        """A link has come up, or ``peer`` does not know the time of this node well."""
        if self._tells_time(peer):
            self._send(peer, Time(self._server.clock.steady_us()))

    def on_time(self, peer: int, message: Time) -> None:
        """What it tells is over by now: its clock is ahead by more. The last word counts, even if it says less than an
        earlier one: the machine over there may have stood still."""
        now_us = self._server.clock.steady_us()
        self._clocks[peer] = (message.us - now_us, now_us)

    # -- executing ---------------------------------------------------------------------------------

    def on_forward(self, peer: int, message: Forward) -> None:
        """Execute a request for a client of another node."""
        if (self._held or self._crowded()) and self._writes(message):
            self._hold(peer, message)
        else:
            self._begin(peer, message)

    def _hold(self, peer: int, message: Forward) -> None:
        """This node is crowded: the request waits, if it names a time until when."""
        size = _charge(message)
        if not message.flags & UNTIL or self._held_bytes + size > HELD_BYTES:
            self._send(peer, Forwarded(message.op, DONE, errors.TRY_AGAIN))
            return
        self.held += 1
        self._held_bytes += size
        self._held.append((peer, message))

    def _release(self) -> None:
        """Begin with what is held, unless this node is crowded still; refuse what has become too late."""
        while self._held and (not self._crowded() or self._left_ms(self._held[0][1]) <= 0):
            peer, message = self._held.popleft()
            self._held_bytes -= _charge(message)
            self._begin(peer, message)

    def _left_ms(self, message: Forward) -> int:
        """How long it may be begun with yet; not above 0: it comes too late. Any time, where it names none."""
        if not message.flags & UNTIL:
            return 1
        left_ms = (message.until_ms - self._server.clock.steady_us() // 1000) & _U32
        longest_us = time_for(message, message.flags >> AGAIN_AT & AGAIN_MAX)
        return left_ms if message.until_ms and left_ms <= longest_us // 1000 else 0

    def _refuse_late(self, peer: int, op: int) -> None:
        """Nothing was done and nothing will be: it may be asked again."""
        self.expired += 1
        self.tell_time(peer)
        self._send(peer, Forwarded(op, EXPIRED, b""))

    def _begin(self, peer: int, message: Forward) -> None:
        op, left_ms = message.op, self._left_ms(message)
        if left_ms <= 0:
            self._refuse_late(peer, op)
            return
        session = self._session(peer, message)
        # A transaction may still be under way that its client has given up.
        if session.multi is not None or not 0 <= message.db < self._server.keyspace.databases:
            self._send(peer, Forwarded(op, NOT_DONE, b""))
            return
        self.executed += 1
        clock = self._server.clock
        until_us = (clock.steady_us() // 1000 + left_ms) * 1000 if message.flags & UNTIL else 0
        session.until_us = until_us

        def answer(reply: bytes) -> None:
            if reply == errors.TRY_AGAIN and 0 < until_us <= clock.steady_us():
                # It has waited for others until it was too late, and changed nothing.
                self._refuse_late(peer, op)
                return
            # Damage is met before anything is changed: somebody else can do it.
            self._send(peer, Forwarded(op, NOT_DONE if reply == errors.CORRUPT else DONE, reply))

        self._execute(session, message, answer)

    def _writes(self, message: Forward) -> bool:
        specs = (self._dispatcher.table.resolve(list(argv)) for argv in message.commands)
        return any(spec is not None and spec.flags & Flag.WRITE for spec in specs)

    def _execute(self, session: Session, message: Forward, done: Callable[[bytes], None]) -> None:
        """Carry a request out; ``done`` gets the finished reply."""
        *before, last = message.commands
        for argv in before:
            self._dispatcher.execute(session, list(argv))
        reply = self._dispatcher.execute(session, list(last))
        if isinstance(reply, Pending):
            pending, proto = reply, message.proto

            def answer() -> None:
                done(b"" if pending.reply is None else encode(pending.reply, proto))

            if pending.reply is not None:
                answer()
            else:
                pending.on_done = answer
        else:
            done(reply or b"")

    def _session(self, peer: int, message: Forward) -> Session:
        place = (peer, message.session)
        session = self._sessions.get(place)
        if session is None:
            if len(self._sessions) >= SESSIONS_MAX:
                idle = (place for place, held in self._sessions.items() if not held.watched and held.multi is None)
                self._forget(next(idle, next(iter(self._sessions))))
            self._session_id -= 1
            session = Session(self._session_id, self._server, Deaf(), address=f"node:{peer}", local_address="")
            session.authenticated = session.forwarded = True
            self._sessions[place] = session
        session.proto = 3 if message.proto == 3 else 2
        session.db = message.db if message.db < self._server.keyspace.databases else 0
        session.level = message.level if 0 < message.level <= ALL else 0
        session.user = message.user
        session.recompute_plain()
        return session

    def on_session_gone(self, peer: int, message: SessionGone) -> None:
        """A connection over there has ended. What it waits for here is not begun with: what it watched is forgotten."""
        self._drop_held(lambda place: place == (peer, message.session))
        self._forget((peer, message.session))

    def _drop_held(self, ended: Callable[[tuple[int, int]], bool]) -> None:
        """Forget what is held for connections, named by (peer, session)."""
        if self._held:
            self._held = deque(held for held in self._held if not ended((held[0], held[1].session)))
            self._held_bytes = sum(_charge(message) for _, message in self._held)

    def _forget(self, place: tuple[int, int]) -> None:
        session = self._sessions.pop(place, None)
        if session is not None:
            self._server.watches.unwatch(session)

    # -- time and links ----------------------------------------------------------------------------

    def peer_lost(self, peer: int) -> None:
        """The link has ended, from here perhaps: what is in its sockets over there may still be read."""
        self.target_lost(peer)
        self._clocks.pop(peer, None)
        self._drop_held(lambda place: place[0] == peer)
        for watcher in self._server.sessions.values():
            watcher.watch_broken |= watcher.watch_at == peer
        for place in [place for place in self._sessions if place[0] == peer]:
            self._forget(place)

    def target_lost(self, peer: int) -> None:
        """It is believed to be gone, though its link may stand. What only reads is asked elsewhere; the rest is given
        up as soon as it cannot be executed any more. What has not left yet was not done."""
        for target, message in self._unsent:
            if target == peer and message.op in self._open:
                self._open.pop(message.op).pending.complete(errors.NO_REPLICAS)
        for op in [op for op, held in self._open.items() if held.target == peer]:
            if self._open[op].reads:
                self._ask_another(self._open.pop(op), peer, errors.NO_REPLICAS)
            elif self._open[op].dated:
                self._lost[op] = None
            else:
                self._give_up(op)
        self._give_up_lost()

    def late(self, now_us: int) -> list[int]:
        """The target of the oldest open request, when that takes longer than LATE_US. O(1), and long requests."""
        held = next((held for held in self._open.values() if not held.is_long()), None)
        return [held.target] if held is not None and now_us - held.asked_us >= LATE_US else []

    def busy(self) -> bool:
        """True while ``on_timer`` is needed."""
        return bool(self._open or self._held)

    def postpone(self, count_us: int) -> None:
        """Wait that much longer for what others execute. When they may begin with it stays as it was told them."""
        for op, held in self._open.items():
            self._open[op] = held._replace(deadline_us=held.deadline_us + count_us)

    def on_timer(self, now_us: int) -> None:
        """Give up what takes too long. O(expired + lost + long + held): deadlines ascend, but for those of long
        requests."""
        if self._held:
            self._release()
        if self._lost:
            self._give_up_lost()
        expired = []
        for op, held in self._open.items():
            if held.deadline_us <= now_us:
                expired.append(op)
            elif not held.is_long():
                break
        for op in expired:
            self._give_up(op)

    def _give_up_lost(self) -> None:
        now_us, lost, self._lost = self._server.now_us, self._lost, {}
        for op in lost:
            held = self._open.get(op)
            if held is not None and held.until_us <= now_us:
                self._give_up(op)
            elif held is not None:
                self._lost[op] = None

    def _give_up(self, op: int) -> None:
        held = self._open.pop(op)
        held.pending.complete(errors.OUTCOME_UNKNOWN if held.writes else errors.NO_REPLICAS)

    def stats(self) -> dict[str, int]:
        """Counters for metrics."""
        return {
            "forwards_open": len(self._open),
            "forwards_sent": self.sent,
            "forwards_executed": self.executed,
            "forwards_expired": self.expired,
            "forwards_held": self.held,
            "forwards_joined": self.joined,
            "forward_sessions": len(self._sessions),
        }
