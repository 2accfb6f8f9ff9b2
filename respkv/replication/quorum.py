"""Counting answers: of one operation (``QuorumTally``), and of whole cycles of writes (``GroupGate``).

Both are pure arithmetic over acks and know neither records nor links.

The gate is the hot path's. A cycle of the reactor sends at most one message of writes to each peer; the writes belong
to a few *groups*, a group being one preference list (see ``cluster/placement``). A group of a cycle has its quorum when
``needed`` of its replicas have the cycle's writes, the local one included. The gate keeps, per open (cycle, group), one
small list of counters, and per peer the counters that wait for that peer, so an ack costs O(groups of the cycle).

Invariants: a counter is decided once, and leaves the table when all its peers have answered or been given up,
so that late acks still tell who is missing; a cycle is open while one of its groups is undecided.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import Enum
from typing import NamedTuple


class Outcome(Enum):
    """What is known of an operation that needs a number of answers."""

    PENDING = 0
    MET = 1
    FAILED = 2


class QuorumTally:
    """Count replica answers until the outcome is certain.

    ``needed`` of ``total`` answers decide success; it fails as soon as the replicas
    still silent cannot make up the difference. O(1) per answer.
    """

    __slots__ = ("acks", "failures", "needed", "total")

    def __init__(self, needed: int, total: int) -> None:
        assert 0 <= needed <= total
        self.needed = needed
        self.total = total
        self.acks = 0
        self.failures = 0

    def ack(self) -> Outcome:
        """One replica more has done it."""
        assert self.acks + self.failures < self.total, "more answers than replicas"
        self.acks += 1
        return self.outcome()

    def fail(self) -> Outcome:
        """One replica more has refused, or will not answer."""
        assert self.acks + self.failures < self.total, "more answers than replicas"
        self.failures += 1
        return self.outcome()

    def outcome(self) -> Outcome:
        """O(1). Once MET or FAILED it stays so."""
        if self.acks >= self.needed:
            return Outcome.MET
        if self.failures > self.total - self.needed:
            return Outcome.FAILED
        return Outcome.PENDING

    def __repr__(self) -> str:
        return f"<QuorumTally {self.acks}+{self.failures}/{self.total} needs {self.needed}>"


class Decision(NamedTuple):
    """A group of a cycle is decided: its replies may go out, as success or as "outcome unknown"."""

    seq: int
    group: int
    met: bool


class Missing(NamedTuple):
    """A peer did not take a group's writes of a cycle: they are to be hinted."""

    seq: int
    group: int
    peer: int


class _Count:
    """One (cycle, group): its tally, and the peers that have not answered."""

    __slots__ = ("decided", "group", "spare", "waiting", "wanted")

    def __init__(self, group: int, wanted: int, waiting: list[int]) -> None:
        self.group = group
        #: acks still missing for the quorum
        self.wanted = wanted
        #: failures that the quorum can still bear
        self.spare = len(waiting) - wanted
        self.waiting = waiting
        self.decided = False


class _Cycle:
    __slots__ = ("counts", "deadline_us", "undecided")

    def __init__(self, deadline_us: int, counts: list[_Count]) -> None:
        self.deadline_us = deadline_us
        self.counts = counts
        self.undecided = 0


class GroupGate:
    """Which cycles' groups have their quorum. Cycles are opened with ascending ``seq``.

    Answers come back as ``decisions`` (each (cycle, group) once) and ``missing`` (who must be hinted, at the
    deadline or when a peer refuses or is given up); the caller takes both lists and releases replies in order.
    """

    __slots__ = ("_cycles", "decisions", "failed", "met", "missing")

    def __init__(self) -> None:
        #: open cycles by seq, ascending: deadlines ascend too
        self._cycles: dict[int, _Cycle] = {}
        self.decisions: list[Decision] = []
        self.missing: list[Missing] = []
        self.met = 0
        self.failed = 0

    def open(self, seq: int, groups: Iterable[tuple[int, int, Sequence[int]]], deadline_us: int) -> bool:  # HOT: gate
        """A cycle has sent its writes. ``groups``: (group, acks needed from peers, peers sent to) each.

        The caller has taken the local write off the needed number. True when nothing is undecided: with 0 needed a
        group is decided at once. A group with fewer peers than acks needed fails at once.
        """
        counts = []
        undecided = 0
        for group, wanted, peers in groups:
            count = _Count(group, wanted, list(peers))
            if wanted <= 0:
                self._decide(seq, count, True)
            elif count.spare < 0:
                self._decide(seq, count, False)
            else:
                undecided += 1
            if count.waiting:
                counts.append(count)
        if counts:
            assert not self._cycles or next(reversed(self._cycles)) < seq, "cycles are opened in order"
            cycle = self._cycles[seq] = _Cycle(deadline_us, counts)
            cycle.undecided = undecided
        return not undecided

    def ack(self, peer: int, seq: int) -> None:  # HOT: gate
        """``peer`` has a cycle's writes in its log. Unknown and repeated acks change nothing. O(groups)."""
        cycle = self._cycles.get(seq)
        if cycle is None:
            return
        finished = False
        for count in cycle.counts:
            waiting = count.waiting
            if peer in waiting:
                waiting.remove(peer)
                count.wanted -= 1
                if count.wanted == 0 and not count.decided:
                    cycle.undecided -= 1
                    self._decide(seq, count, True)
                if not waiting:
                    finished = True
        if finished:
            self._sweep(seq, cycle)

    def ack_through(self, peer: int, seq: int) -> None:
        """``peer`` has all cycles up to ``seq``. O(open cycles up to it)."""
        for open_seq in [number for number in self._cycles if number <= seq]:
            self.ack(peer, open_seq)

    def refuse(self, peer: int, seq: int, group: int | None = None) -> None:
        """``peer`` did not take a cycle's writes, or those of one group of it. O(groups)."""
        cycle = self._cycles.get(seq)
        if cycle is None:
            return
        for count in cycle.counts:
            if peer in count.waiting and group in (None, count.group):
                self._give_up(seq, cycle, count, peer)
        self._sweep(seq, cycle)

    def peer_lost(self, peer: int) -> None:
        """The link to ``peer`` has ended: what it was sent and has not acked is unknown there. O(open cycles)."""
        for seq in list(self._cycles):
            self.refuse(peer, seq)

    def expire(self, now_us: int) -> None:
        """Give up all answers whose deadline has come. O(expired)."""
        while self._cycles:
            seq = next(iter(self._cycles))
            cycle = self._cycles[seq]
            if cycle.deadline_us > now_us:
                return
            for count in cycle.counts:
                for peer in list(count.waiting):
                    self._give_up(seq, cycle, count, peer)
            self._sweep(seq, cycle)

    def postpone(self, count_us: int) -> None:
        """Give all open cycles that much more time. O(cycles open)."""
        for cycle in self._cycles.values():
            cycle.deadline_us += count_us

    def next_deadline_us(self) -> int | None:
        """When ``expire`` has something to do; None when nothing is open."""
        first = next(iter(self._cycles.values()), None)
        return None if first is None else first.deadline_us

    def is_open(self, seq: int) -> bool:
        """True while a group of the cycle is undecided."""
        cycle = self._cycles.get(seq)
        return cycle is not None and cycle.undecided > 0

    def take(self) -> tuple[list[Decision], list[Missing]]:
        """What has become known since the last call."""
        taken = self.decisions, self.missing
        self.decisions, self.missing = [], []
        return taken

    def _give_up(self, seq: int, cycle: _Cycle, count: _Count, peer: int) -> None:
        count.waiting.remove(peer)
        count.spare -= 1
        self.missing.append(Missing(seq, count.group, peer))
        if count.spare < 0 and not count.decided:
            cycle.undecided -= 1
            self._decide(seq, count, False)

    def _decide(self, seq: int, count: _Count, met: bool) -> None:
        count.decided = True
        if met:
            self.met += 1
        else:
            self.failed += 1
        self.decisions.append(Decision(seq, count.group, met))

    def _sweep(self, seq: int, cycle: _Cycle) -> None:
        cycle.counts = [count for count in cycle.counts if count.waiting]
        if not cycle.counts:
            del self._cycles[seq]

    def stats(self) -> dict[str, int]:
        """Counters for metrics."""
        return {"cycles_open": len(self._cycles), "groups_met": self.met, "groups_failed": self.failed}

    def check_invariants(self) -> None:
        """Assert the module's invariants. O(everything open)."""
        assert list(self._cycles) == sorted(self._cycles)
        deadlines = [cycle.deadline_us for cycle in self._cycles.values()]
        assert deadlines == sorted(deadlines)
        for cycle in self._cycles.values():
            assert cycle.counts and all(count.waiting for count in cycle.counts)
            assert cycle.undecided == sum(not count.decided for count in cycle.counts)
            for count in cycle.counts:
                assert count.decided or (count.wanted > 0 and count.spare >= 0)
                assert count.decided or count.wanted <= len(count.waiting)

    def __repr__(self) -> str:
        return f"<GroupGate open={len(self._cycles)} met={self.met} failed={self.failed}>"
