"""Anti-entropy: replicas that diverged become equal again, always on and throttled.

Every ten seconds the node begins a session (``exchange``) with one of its co-replicas, chosen at random, over all the
slots they share; at most two sessions run at a time, asked for by either side. Each listed key costs a token of a
bucket of 2000 a second, each record byte one of 2 MiB a second, and ``pause`` holds all of it while clients wait.
When a session ends, the slots found equal feed the purge watermarks (``tombstones``).

The driver is pure: messages and the time go in, ``outbox`` comes out. ``poll`` does the work and may raise ReadMiss:
fetch the block and call it again. Records arrive as Writes of kind REPAIR and are applied by the replica, not here.

Session ids are unique between two nodes: twice a counter, plus one at the node with the higher short id. A message of
a session that is not known is dropped, except Floors, which opens one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, Protocol

from respkv.base.limits import MIB
from respkv.causality.hlc import ClockSkewError
from respkv.env.rng import Rng
from respkv.replication.exchange import TIMED_OUT, Counters, Initiator, Limits, Message, Responder, Session, Store
from respkv.replication.tombstones import PurgeWatermarks
from respkv.wire.messages import BUSY, OK, Floors, TreeEnd

INTERVAL_US: Final = 10_000_000
SESSIONS_MAX: Final = 2
KEYS_PER_S: Final = 2000
BYTES_PER_S: Final = 2 * MIB
#: A session without any progress for this long is given up.
IDLE_US: Final = 30_000_000
#: ``TreeEnd.status``: a flush floor of the peer is of a time that the clock here does not permit.
SKEWED: Final = 35
#: Steps of one session in one poll.
_STEPS_PER_POLL: Final = 64
_BURST_S: Final = 2


class Neighbours(Protocol):
    """Who shares what, by the ring of now."""

    def alive(self) -> Sequence[int]:
        """Co-replicas of any slot that can be reached, ascending."""

    def shared(self, peer: int) -> dict[int, None]:
        """Slots of which both are natural replicas, ascending. Not to be changed."""

    def groups(self, peer: int) -> Sequence[tuple[Sequence[int], Sequence[int]]]:
        """The same by what other replicas they have: (these with ``peer``, the slots of just these)."""

    def co_replicas(self, slot: int) -> Sequence[int]:
        """The other natural replicas of a slot."""

    def cut(self, now_ms: int) -> int:
        """The HLC value below which a session that starts now can prove equality (``tombstones.cut_of``), by the clocks
        of all members and below what any of them may still bring."""


class TokenBucket:
    """So many tokens a second, saved up for two. May be overdrawn by one piece of work, and then waits longer."""

    __slots__ = ("_rate", "_tokens_us", "_us")

    def __init__(self, per_s: int) -> None:
        self._rate = per_s
        # Counted in millionths of a token, so that nothing is lost to rounding.
        self._tokens_us = per_s * _BURST_S * 1_000_000
        self._us = 0

    def refill(self, now_us: int) -> bool:
        """True when there is something to spend."""
        gained = (now_us - self._us) * self._rate
        self._tokens_us = min(self._rate * _BURST_S * 1_000_000, self._tokens_us + gained)
        self._us = now_us
        return self._tokens_us > 0

    def spend(self, tokens: int) -> None:
        self._tokens_us -= tokens * 1_000_000

    def wait_us(self) -> int:
        """How long until there is something to spend."""
        return max(0, -self._tokens_us // self._rate + 1) if self._tokens_us <= 0 else 0


class AntiEntropy:
    """The sessions of one node. ``my`` is its short id."""

    __slots__ = (
        "_bytes", "_count", "_ids", "_keys", "_last_us", "_neighbours", "_next_seq", "_next_us", "_rng", "_sessions",
        "_store", "_watermarks", "aborted", "begun", "completed", "counters", "interval_us", "limits", "my", "outbox",
        "pause", "refused",
    )  # fmt: skip

    def __init__(
        self,
        my: int,
        *,
        store: Store,
        watermarks: PurgeWatermarks,
        neighbours: Neighbours,
        rng: Rng,
        next_seq: Callable[[], int],
        interval_us: int = INTERVAL_US,
        keys_per_s: int = KEYS_PER_S,
        bytes_per_s: int = BYTES_PER_S,
        limits: Limits | None = None,
    ) -> None:
        self.my = my
        self.interval_us = interval_us
        self.limits = limits or Limits()
        self.counters = Counters()
        self.outbox: list[tuple[int, Message]] = []
        #: True holds all work, while clients wait too long
        self.pause = False
        self.begun = self.completed = self.aborted = self.refused = 0
        self._store = store
        self._watermarks = watermarks
        self._neighbours = neighbours
        self._rng = rng
        self._next_seq = next_seq
        self._keys = TokenBucket(keys_per_s)
        self._bytes = TokenBucket(bytes_per_s)
        #: (peer, session id) -> session
        self._sessions: dict[tuple[int, int], Session] = {}
        self._last_us: dict[tuple[int, int], int] = {}
        #: the same -> number under which the watermarks know it
        self._ids: dict[tuple[int, int], int] = {}
        self._count = 0
        #: when the next session is due; 0 before the first ``poll``
        self._next_us = 0

    # -- beginning ---------------------------------------------------------------------------------

    def begin(self, peer: int, now_us: int, now_ms: int, slots: Sequence[int] | None = None) -> bool:
        """Begin a session with ``peer``, over all shared slots or some of them. False: not now."""
        if len(self._sessions) >= SESSIONS_MAX or not self._store.ready():
            return False
        if any(known == peer for known, _ in self._sessions):
            return False
        shared = self._neighbours.shared(peer)
        wanted = shared if slots is None else {slot: None for slot in slots if slot in shared}
        if not wanted:
            return False
        self._count += 1
        number = self._count * 2 + (self.my > peer)
        cut = self._neighbours.cut(now_ms)
        session = Initiator(peer, number, wanted, cut, complete=slots is None, **self._tools())
        self._add(session, now_us)
        return True

    def _tools(self) -> dict[str, object]:
        return {
            "store": self._store,
            "watermarks": self._watermarks,
            "next_seq": self._next_seq,
            "counters": self.counters,
            "limits": self.limits,
        }

    def _add(self, session: Session, now_us: int) -> None:
        place = session.peer, session.id
        self._count += 1
        self._sessions[place] = session
        self._last_us[place] = now_us
        self._ids[place] = self._count
        self._watermarks.session_began(self._count, session.peer, session.cut)
        self.begun += 1

    def on_message(self, peer: int, message: Message, now_us: int, now_ms: int) -> None:
        """A message of anti-entropy (not Writes) from a peer of the same ring epoch. The work is done by ``poll``."""
        number = message.session if not hasattr(message, "seq") else -1
        session = self._sessions.get((peer, number))
        if session is None:
            if not isinstance(message, Floors):
                return
            slots = self._neighbours.shared(peer)
            if len(self._sessions) >= SESSIONS_MAX or not slots or not self._store.ready():
                self.refused += 1
                self.outbox.append((peer, TreeEnd(number, BUSY)))
                return
            cut = self._neighbours.cut(now_ms)
            session = Responder(peer, number, slots, cut, **self._tools())
            self._add(session, now_us)
        self._last_us[peer, number] = now_us
        session.inbox.append(message)

    # -- working -----------------------------------------------------------------------------------

    def poll(self, now_us: int, now_ms: int) -> None:
        """Begin what is due and go on with what runs, as far as the tokens reach. May raise ReadMiss."""
        self._expire(now_us)
        if self.pause:
            return
        if not self._next_us:
            self._next_us = now_us + self._rng.randrange(self.interval_us)
        if now_us >= self._next_us:
            self._next_us = now_us + self.interval_us // 2 + self._rng.randrange(self.interval_us)
            alive = self._neighbours.alive()
            if alive:
                self.begin(alive[self._rng.randrange(len(alive))], now_us, now_ms)
        for place in list(self._sessions):
            session = self._sessions[place]
            session.now_ms = now_ms
            try:
                self._run(place, session, now_us)
            finally:
                self.outbox += ((session.peer, message) for message in session.take())
            if session.done:
                self._finish(place, session)

    def _run(self, place: tuple[int, int], session: Session, now_us: int) -> None:
        for _ in range(_STEPS_PER_POLL):
            # Both are brought up to date, whatever the first says.
            may_work = (self._keys.refill(now_us), self._bytes.refill(now_us))
            if session.done or not all(may_work):
                return
            sent = self.counters.bytes_sent
            try:
                moved = session.step()
            except ClockSkewError:
                # Nothing can be compared without the floor. The head of the peer's frames raises the alarm of clocks.
                session.done, session.status = True, SKEWED
                self.outbox.append((session.peer, TreeEnd(session.id, SKEWED)))
                return
            if not moved:
                return
            self._keys.spend(session.keys_spent)
            self._bytes.spend(self.counters.bytes_sent - sent)
            session.keys_spent = 0
            self._last_us[place] = now_us

    def _finish(self, place: tuple[int, int], session: Session) -> None:
        changed = self._drop(place)
        if session.status != OK:
            self.aborted += 1
            return
        self.completed += 1
        peer, watermarks, neighbours = session.peer, self._watermarks, self._neighbours
        different = {**session.different, **changed}
        if session.complete:
            watermarks.ended_complete(peer, session.cut, different)
            watermarks.raise_groups(neighbours.groups(peer))
        else:
            equal = [slot for slot in session.checked if slot not in different]
            watermarks.ended_equal(peer, equal, session.cut)
            watermarks.raise_groups([(neighbours.co_replicas(slot), (slot,)) for slot in equal])

    def _drop(self, place: tuple[int, int]) -> dict[int, None]:
        del self._sessions[place], self._last_us[place]
        return self._watermarks.session_ended(self._ids.pop(place))

    def _expire(self, now_us: int) -> None:
        for place in [place for place, last_us in self._last_us.items() if now_us - last_us > IDLE_US]:
            self._drop(place)
            self.aborted += 1
            self.outbox.append((place[0], TreeEnd(place[1], TIMED_OUT)))

    def peer_lost(self, peer: int) -> None:
        """The link to ``peer`` has ended: its sessions are over."""
        for place in [place for place in self._sessions if place[0] == peer]:
            self._drop(place)
            self.aborted += 1

    def abort_all(self) -> None:
        """The ring has changed: what is shared is no longer the same."""
        for peer in [place[0] for place in self._sessions]:
            self.peer_lost(peer)

    def next_poll_us(self, now_us: int) -> int:
        """When ``poll`` has something to do, as far as is known without a message."""
        if not self._sessions:
            return max(now_us, self._next_us)
        return now_us + max(1_000, self._keys.wait_us(), self._bytes.wait_us())

    def running(self) -> list[Session]:
        """Sessions under way."""
        return list(self._sessions.values())

    def stats(self) -> dict[str, int]:
        """Counters for metrics."""
        return {
            "repair_sessions": len(self._sessions),
            "repair_sessions_begun": self.begun,
            "repair_sessions_completed": self.completed,
            "repair_sessions_aborted": self.aborted,
            "repair_sessions_refused": self.refused,
            **self.counters.stats(),
        }

    def check_invariants(self) -> None:
        """The tables name the same sessions."""
        assert self._sessions.keys() == self._last_us.keys() == self._ids.keys()
        assert len(self._sessions) <= SESSIONS_MAX
