"""How long an accused node has to speak up, and how far this node may trust its own ears.

``Suspicion`` is the time between "does not answer" and "dead". It starts long and shrinks with each independent
accuser: ``max - (max - min) * log(c + 1) / log(k + 1)`` after c of k expected confirmations, with
``min = 4 * max(1, log10 members) * tick`` and ``max = 6 * min``. ``LocalHealth`` is a score 0..8 that
multiplies this node's own timeouts: it rises when own probes fail in ways that speak against this node, when it
has to refute a suspicion, and when its loop was late, and falls with each probe that succeeds.

Source: Dadgar, Phillips, Currey, "Lifeguard: Local Health Awareness for More Accurate Failure Detection"
(arXiv 1707.00788), sections IV.A and IV.B; the constants are those of hashicorp/memberlist for a LAN.
"""

from __future__ import annotations

import math
from typing import Final

#: Shortest suspicion, in ticks for up to ten members.
SUSPICION_TICKS: Final = 4
#: The longest suspicion, as a multiple of the shortest.
SUSPICION_STRETCH: Final = 6
#: Confirmations after which a suspicion is as short as it gets.
CONFIRMATIONS_MAX: Final = 2
#: Worst local health.
HEALTH_MAX: Final = 8


def suspicion_limits_us(members: int, tick_us: int) -> tuple[int, int]:
    """(shortest, longest) suspicion in a cluster of ``members``, microseconds."""
    shortest = int(SUSPICION_TICKS * max(1.0, math.log10(max(1, members))) * tick_us)
    return shortest, SUSPICION_STRETCH * shortest


def confirmations_expected(members: int) -> int:
    """How many others than accuser and accused there are to confirm, as far as they are waited for."""
    return max(0, min(CONFIRMATIONS_MAX, members - 2))


class Suspicion:
    """One node under suspicion. ``accusers`` are distinct nodes that found it silent by themselves."""

    __slots__ = ("accusers", "expected", "longest_us", "shortest_us", "started_us")

    def __init__(self, *, source: int, started_us: int, expected: int, shortest_us: int, longest_us: int) -> None:
        self.accusers = [source]
        self.started_us = started_us
        self.expected = expected
        self.shortest_us = shortest_us
        self.longest_us = longest_us

    def __repr__(self) -> str:
        return f"Suspicion(accusers={self.accusers}, started_us={self.started_us}, timeout_us={self.timeout_us()})"

    def confirm(self, source: int) -> bool:
        """Count another accuser; True when it is a new one and still mattered."""
        if source in self.accusers or len(self.accusers) > self.expected:
            return False
        self.accusers.append(source)
        return True

    def timeout_us(self) -> int:
        """The whole time of this suspicion, as confirmed by now."""
        if self.expected == 0:
            return self.shortest_us
        share = math.log(len(self.accusers)) / math.log(self.expected + 1)
        return max(self.shortest_us, round(self.longest_us - (self.longest_us - self.shortest_us) * share))

    def deadline_us(self, scale: int) -> int:
        """When the accused is dead. ``scale`` (local health) stretches, but never beyond the longest suspicion."""
        return self.started_us + min(self.longest_us, self.timeout_us() * scale)

    def postpone(self, count_us: int) -> None:
        """Give that much more time."""
        self.started_us += count_us

    def check_invariants(self) -> None:
        """Raises AssertionError when broken."""
        assert len(set(self.accusers)) == len(self.accusers) <= self.expected + 1
        assert self.shortest_us <= self.timeout_us() <= self.longest_us


class LocalHealth:
    """``score`` 0 (well) .. 8 (whatever this node thinks of others is probably its own fault)."""

    __slots__ = ("score",)

    def __init__(self) -> None:
        self.score = 0

    def __repr__(self) -> str:
        return f"LocalHealth({self.score})"

    @property
    def scale(self) -> int:
        """The factor for own timeouts, 1..9."""
        return self.score + 1

    def worse(self, by: int = 1) -> None:
        """Something spoke against this node."""
        self.score = min(HEALTH_MAX, self.score + by)

    def better(self) -> None:
        """A probe was answered in time."""
        if self.score:
            self.score -= 1
