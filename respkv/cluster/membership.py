"""What this node believes of every member: state, reachability, latency, and the order in which to ask replicas.

A member's state is (incarnation, state); the greater pair wins, with alive < suspect < dead, and only the member
itself raises its incarnation (SWIM, Das et al., DSN 2002, section 4.2). Beside that stands what only this
node knows: whether its own probes come back (a path may be broken one way, or for one pair) and how long they
take. ``live`` needs both and is for routing, hints and speculation alone: nothing here ever changes the ring.

Order of replicas: this node, then live ones by latency class, then the others, suspects before the dead; equal ones
keep the order of the preference list. Latency is a moving average in classes (below 1 ms, then powers of
two) with hysteresis, so that an order stands until something really changed; ``version`` grows when it did, and
whoever keeps orders compares it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from respkv.wire.messages import Update

ALIVE: Final = 0
SUSPECT: Final = 1
DEAD: Final = 2
#: Names of the states, by number.
STATE_NAMES: Final = ("alive", "suspect", "dead")

_RANK_SELF: Final = 0
_RANK_UNREACHABLE: Final = 100
_RANK_SUSPECT: Final = 200
_RANK_DEAD: Final = 300
_RANK_UNKNOWN: Final = 400
#: Latencies below this are one class.
_FIRST_CLASS_US: Final = 1024
#: Share of a new sample in the average: one eighth, as TCP does.
_SMOOTHING_SHIFT: Final = 3
#: Of so many of the last round trips the best is what a member can do when nothing holds it up.
_BEST_OF: Final = 8


class Change(NamedTuple):
    """A member's state or liveness became another one. ``before`` and ``after`` are states."""

    short: int
    before: int
    after: int
    incarnation: int
    live: bool


class _Row:
    """One member."""

    __slots__ = ("incarnation", "latency_class", "reachable", "rtt_us", "samples", "source", "state")

    def __init__(self, source: int) -> None:
        self.state = ALIVE
        self.incarnation = 0
        self.source = source
        self.reachable = True
        self.rtt_us = 0
        self.samples: deque[int] = deque(maxlen=_BEST_OF)
        self.latency_class = 0


class Membership:
    """The table of states. Members start as alive of incarnation 0: the first thing heard of them overrules that."""

    __slots__ = ("_ranks", "_rows", "me", "version")

    def __init__(self, me: int, members: Iterable[int], *, incarnation: int = 0) -> None:
        self.me = me
        self.version = 0
        self._rows: dict[int, _Row] = {short: _Row(short) for short in sorted({me, *members})}
        self._rows[me].incarnation = incarnation
        self._ranks: dict[int, int] = {}
        for short in self._rows:
            self._rerank(short)

    def __repr__(self) -> str:
        rows = ", ".join(f"{s}:{STATE_NAMES[row.state]}({row.incarnation})" for s, row in self._rows.items())
        return f"Membership(me={self.me}, {rows})"

    def __contains__(self, short: object) -> bool:
        return short in self._rows

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def members(self) -> tuple[int, ...]:
        """All members in ascending order, this node included."""
        return tuple(self._rows)

    @property
    def others(self) -> tuple[int, ...]:
        """All members but this node, ascending."""
        return tuple(short for short in self._rows if short != self.me)

    # Asked by routing.

    def live(self, short: int) -> bool:
        """True when ``short`` is believed alive and answers this node; False for a stranger. O(1)."""
        return self._ranks.get(short, _RANK_UNKNOWN) < _RANK_UNREACHABLE

    def ordered(self, shorts: Iterable[int]) -> tuple[int, ...]:
        """``shorts``, best to ask first. May be kept while ``version`` stays the same."""
        ranks = self._ranks
        return tuple(sorted(shorts, key=lambda short: ranks.get(short, _RANK_UNKNOWN)))

    def rtt(self, short: int, sample_us: int) -> None:
        """A round trip to ``short`` took ``sample_us``. O(1)."""
        row = self._rows.get(short)
        if row is None or short == self.me:
            return
        row.samples.append(sample_us)
        row.rtt_us += (sample_us - row.rtt_us) >> _SMOOTHING_SHIFT if row.rtt_us else max(1, sample_us)
        edge = _FIRST_CLASS_US << row.latency_class
        too_high = row.rtt_us > edge + (edge >> 2)
        too_low = row.latency_class > 0 and row.rtt_us < (edge >> 1) - (edge >> 3)
        if too_high or too_low:
            row.latency_class = (row.rtt_us // _FIRST_CLASS_US).bit_length()
            self._rerank(short)

    def rtt_us(self, short: int) -> int:
        """The moving average of round trips; 0 before the first."""
        return self._rows[short].rtt_us

    def best_rtt_us(self, short: int) -> int:
        """The shortest of the last round trips; 0 before the first. One that stood still and then answered all at once
        is not slow for that. O(_BEST_OF)."""
        return min(self._rows[short].samples, default=0)

    # Asked by gossip and by those who show it.

    def state(self, short: int) -> int:
        """ALIVE, SUSPECT or DEAD."""
        return self._rows[short].state

    def incarnation(self, short: int) -> int:
        """The incarnation the state belongs to."""
        return self._rows[short].incarnation

    def reachable(self, short: int) -> bool:
        """True while own probes come back."""
        return self._rows[short].reachable

    def update(self, short: int) -> Update:
        """The row of ``short`` as gossip tells it."""
        row = self._rows[short]
        return short, row.state, row.incarnation, row.source

    def in_state(self, *states: int) -> tuple[int, ...]:
        """The other members whose state is one of ``states``, ascending. O(members)."""
        return tuple(short for short, row in self._rows.items() if row.state in states and short != self.me)

    def states(self) -> Mapping[int, str]:
        """Short -> "alive", "suspect" or "dead", for display."""
        return {short: STATE_NAMES[row.state] for short, row in self._rows.items()}

    def stats(self) -> dict[str, int]:
        """How many members are in which state, and how many do not answer this node."""
        rows = self._rows.values()
        counts = {f"members_{name}": sum(row.state == number for row in rows)
                  for number, name in enumerate(STATE_NAMES)}  # fmt: skip
        return {"members": len(rows), **counts, "members_unreachable": sum(not row.reachable for row in rows)}

    # Changed by gossip.

    def beats(self, update: Update) -> bool:
        """True when ``update`` says more than the row of its member does."""
        short, state, incarnation, _ = update
        row = self._rows[short]
        return (incarnation, state) > (row.incarnation, row.state)

    def apply(self, update: Update) -> Change | None:
        """Believe ``update`` if it beats the row; what changed for the rest of the node, or None."""
        if not self.beats(update):
            return None
        short, state, incarnation, source = update
        row = self._rows[short]
        before, was_live = row.state, self.live(short)
        row.state, row.incarnation, row.source = state, incarnation, source
        return self._changed(short, before, was_live)

    def resource(self, short: int, source: int) -> None:
        """``source`` found the same as the row says: pass it on under that name."""
        self._rows[short].source = source

    def set_reachable(self, short: int, reachable: bool) -> Change | None:
        """Own probes come back, or do not; what changed, or None."""
        row = self._rows[short]
        if row.reachable == reachable:
            return None
        was_live = self.live(short)
        row.reachable = reachable
        return self._changed(short, row.state, was_live)

    def replace_members(self, members: Iterable[int]) -> None:
        """The ring has other members now; what is known of those that stay is kept."""
        wanted = sorted({self.me, *members})
        self._rows = {short: self._rows.get(short) or _Row(short) for short in wanted}
        self._ranks = {}
        for short in wanted:
            self._rerank(short)
        self.version += 1

    def check_invariants(self) -> None:
        """Raises AssertionError when broken."""
        assert list(self._rows) == sorted(self._rows) == sorted(self._ranks)
        assert self._rows[self.me].state == ALIVE
        for short, row in self._rows.items():
            assert self._ranks[short] == self._rank(short)
            assert self.live(short) == (row.state == ALIVE and row.reachable)

    def _changed(self, short: int, before: int, was_live: bool) -> Change | None:
        self._rerank(short)
        row, live = self._rows[short], self.live(short)
        if row.state == before and live == was_live:
            return None
        return Change(short, before, row.state, row.incarnation, live)

    def _rank(self, short: int) -> int:
        row = self._rows[short]
        if short == self.me:
            return _RANK_SELF
        if row.state == DEAD:
            return _RANK_DEAD
        if row.state == SUSPECT:
            return _RANK_SUSPECT
        return 1 + row.latency_class if row.reachable else _RANK_UNREACHABLE

    def _rerank(self, short: int) -> None:
        rank = self._rank(short)
        if self._ranks.get(short) != rank:
            self._ranks[short] = rank
            self.version += 1
