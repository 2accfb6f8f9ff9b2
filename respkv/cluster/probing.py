"""Questions under way: pings that may be answered, probes that end in a verdict, pings sent for others.

A table, no decisions. A *ping* is remembered for ``LATE_ANSWER_US``, so that an answer that comes late still
measures the round trip and shows that the path works. A *probe* is a ping with a deadline and a second stage; at most
one a target is open. A *relay* is a ping for another node, who waits for the outcome.
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass, field
from typing import Final

#: How long an answer to a ping may be on its way and still count.
LATE_ANSWER_US: Final = 10_000_000


@dataclass(slots=True)
class Probe:
    """A question to ``target``. The second stage begins when ``asked_helpers``; there may be no helpers, though.

    ``denials`` counts helpers that got no answer; ``accusers`` are others who said that the target is silent.
    """

    target: int
    opened_us: int
    deadline_us: int
    asked_helpers: bool = False
    helpers: tuple[int, ...] = ()
    denials: int = 0
    accusers: list[int] = field(default_factory=list)


@dataclass(slots=True)
class Relay:
    """A ping for ``origin``, who waits for the answer under its own ``seq``."""

    origin: int
    seq: int
    target: int
    deadline_us: int


class Questions:
    """All questions of one node, by the seq of their ping."""

    __slots__ = ("_seq", "pings", "probes", "relays")

    def __init__(self, first_seq: int) -> None:
        """``first_seq`` should differ between lives, so that answers to an earlier one mean nothing."""
        self._seq = first_seq
        #: Seq -> (target, sent at), in the order of sending.
        self.pings: dict[int, tuple[int, int]] = {}
        self.probes: dict[int, Probe] = {}
        self.relays: dict[int, Relay] = {}

    def __repr__(self) -> str:
        return f"Questions(pings={len(self.pings)}, probes={len(self.probes)}, relays={len(self.relays)})"

    def ping(self, target: int, now_us: int) -> int:
        """Remember a ping that is about to be sent; its seq."""
        self._seq += 1
        self.pings[self._seq] = target, now_us
        return self._seq

    def probe_of(self, target: int) -> Probe | None:
        """The open probe of ``target``. O(open probes)."""
        return next((probe for probe in self.probes.values() if probe.target == target), None)

    def answered(self, seq: int, sender: int) -> int | None:
        """When the ping ``seq`` to ``sender`` was sent, once; None when there is no such ping (any more)."""
        target, sent_us = self.pings.get(seq, (None, 0))
        if target != sender:
            return None
        del self.pings[seq]
        return sent_us

    def late_relays(self, now_us: int) -> list[Relay]:
        """Relays past their deadline; they are closed."""
        late = [seq for seq, relay in self.relays.items() if now_us >= relay.deadline_us]
        return [self.relays.pop(seq) for seq in late]

    def late_probes(self, now_us: int) -> list[tuple[int, Probe]]:
        """Probes past their deadline; they stay open."""
        return [(seq, probe) for seq, probe in self.probes.items() if now_us >= probe.deadline_us]

    def next_deadline_us(self, default_us: int) -> int:
        """The earliest deadline of a probe or relay, at most ``default_us``."""
        deadlines = [probe.deadline_us for probe in self.probes.values()]
        deadlines += [relay.deadline_us for relay in self.relays.values()]
        return min([default_us, *deadlines])

    def postpone(self, count_us: int) -> None:
        """Give everyone more time."""
        for probe in self.probes.values():
            probe.opened_us += count_us
            probe.deadline_us += count_us
        for relay in self.relays.values():
            relay.deadline_us += count_us

    def forget_old(self, now_us: int) -> None:
        """Drop pings that will not be answered any more."""
        old = []
        for seq, (_, sent_us) in self.pings.items():
            if now_us - sent_us <= LATE_ANSWER_US:
                break
            old.append(seq)
        for seq in old:
            del self.pings[seq]

    def keep_only(self, members: Container[int]) -> None:
        """Drop what concerns nodes that are no members any more."""
        self.pings = {seq: ping for seq, ping in self.pings.items() if ping[0] in members}
        self.probes = {seq: probe for seq, probe in self.probes.items() if probe.target in members}
        self.relays = {
            seq: relay for seq, relay in self.relays.items() if relay.target in members and relay.origin in members
        }

    def check_invariants(self) -> None:
        """Raises AssertionError when broken."""
        targets = [probe.target for probe in self.probes.values()]
        assert len(set(targets)) == len(targets)
        sent = [sent_us for _, sent_us in self.pings.values()]
        assert sent == sorted(sent)
