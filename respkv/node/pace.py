"""Pace: how much clients ask of this node, and so how much it may do by itself.

Counting keys, settling leaf sums and walking over all tables take from clients what they cost: a core that compaction,
a neighbour or the clients themselves would use. While clients ask for much, such work is put off or done in small
slices; once they ask for little it is done at once, so that an idle node becomes quiet soon.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from respkv.base.errors import BlockRequest
from respkv.env.clock import Clock

#: Over how long requests are counted, at least. Shorter spans would call every pause between two cycles idle.
SPAN_US: Final = 100_000
#: Requests and entries written, for other nodes too, in SPAN_US below which the node is idle. Few: clients that wait
#: for answers must not seem to ask for little because the node is busy with itself.
_IDLE_WORK: Final = 20
#: Below which settling can keep up with what is written.
_LIGHT_WORK: Final = 500
#: Under load a walk over all tables is followed by a pause of at least this, and of a multiple of what the walk took:
#: the next flush undoes what it found, and only its share of a core counts.
_LOAD_PAUSE_US: Final = 10_000_000
_LOAD_PAUSE_FACTOR: Final = 30


#: How long one settling call takes, about, microseconds: again and again while idle, once in SPAN_US under light load;
#: under more it is a single slice. What a key costs depends on the blocks that must be read for it, from 5 us to 100.
_SETTLE_US: Final = 5_000


class Pace:
    """What was asked for lately, as of the last ``look``."""

    __slots__ = ("_clock", "_looked_us", "_rate", "_work")

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._looked_us = clock.monotonic_us()
        self._work = 0
        #: in SPAN_US
        self._rate = 0

    @property
    def idle(self) -> bool:
        """Clients ask for next to nothing."""
        return self._rate < _IDLE_WORK

    def look(self, now_us: int, work: int) -> None:
        """``work``: requests and entries since the start. Call it every SPAN_US; more often does no harm."""
        passed_us = now_us - self._looked_us
        rate = (work - self._work) * SPAN_US // max(SPAN_US, passed_us)
        self._rate = max(self._rate, rate)
        if passed_us >= SPAN_US:
            self._rate, self._looked_us, self._work = rate, now_us, work

    def settle(self, slices: Iterator[BlockRequest | None]) -> BlockRequest | None:
        """Run slices of settling for as long as is fitting; a block that must be fetched first, if one is.

        May raise CorruptionError.
        """
        now_us = self._clock.monotonic_us
        end_us = now_us() + (_SETTLE_US if self._rate < _LIGHT_WORK else 0)
        for request in slices:
            if request is not None or now_us() >= end_us:
                return request
        return None


class WalkPause:
    """When the next walk over all tables may begin. ``idle_us``: the pause of an idle node."""

    __slots__ = ("_began_us", "_ended_us", "_idle_us", "_load_us")

    def __init__(self, idle_us: int) -> None:
        self._idle_us = idle_us
        self._load_us = _LOAD_PAUSE_US
        self._began_us = 0
        self._ended_us: int | None = None

    def over(self, now_us: int, *, idle: bool) -> bool:
        """Whether a walk may begin."""
        return self._ended_us is None or now_us - self._ended_us >= (self._idle_us if idle else self._load_us)

    def began(self, now_us: int) -> None:
        """A walk has begun."""
        self._began_us = now_us

    def ended(self, now_us: int) -> None:
        """It has ended, however."""
        self._ended_us = now_us
        self._load_us = max(_LOAD_PAUSE_US, _LOAD_PAUSE_FACTOR * (now_us - self._began_us))
