"""When an address may be dialed again: back-off, and what is told of failures. Pure.

A failed dial waits BACK_OFF_MIN_US, each further one twice as long, BACK_OFF_MAX_US at most; a link that lived for
GOOD_LIFE_US starts anew. A part of each delay is left to chance, so that two nodes do not go on dialing each other at
the same moment. A failure is logged when its reason is new, and again every LOG_AGAIN_US.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Final

from respkv.env.rng import Rng
from respkv.wire.messages import Address

BACK_OFF_MIN_US: Final = 100_000
BACK_OFF_MAX_US: Final = 2_000_000
#: A link that lived for so long was a good one: the next dial does not wait long.
GOOD_LIFE_US: Final = 1_000_000
#: A dial that fails again for the same reason is logged again after this.
LOG_AGAIN_US: Final = 60_000_000
#: Addresses remembered, beyond those that are still of use.
_SPARE: Final = 128


class _Dial:
    """What is known about an address."""

    __slots__ = ("delay_us", "logged_us", "next_us", "reason", "under_way")

    def __init__(self) -> None:
        self.under_way = False
        self.delay_us = 0
        self.next_us = 0
        self.reason = ""
        self.logged_us = 0


class Dials:
    """The addresses that were dialed, or are being dialed."""

    __slots__ = ("_dials", "_log", "_rng", "begun", "failed")

    def __init__(self, rng: Rng, log: Callable[[str, str], None]) -> None:
        self._rng = rng
        self._log = log
        self._dials: dict[Address, _Dial] = {}
        self.begun = 0
        self.failed = 0

    def may_begin(self, address: Address, now_us: int) -> bool:
        """Whether ``address`` may be dialed now."""
        dial = self._dials.get(address)
        return dial is None or (not dial.under_way and now_us >= dial.next_us)

    def begin(self, address: Address) -> None:
        """A dial is under way."""
        self.begun += 1
        self._dials.setdefault(address, _Dial()).under_way = True

    def succeed(self, address: Address) -> None:
        """It has led to a link."""
        dial = self._dials.setdefault(address, _Dial())
        dial.under_way = False
        dial.reason = ""

    def fail(self, address: Address, reason: str, now_us: int) -> None:
        """It has led to no link; ``reason`` "" is not worth a line in the log."""
        self.failed += 1
        dial = self._back_off(address, now_us, good=False)
        if reason and (reason != dial.reason or now_us - dial.logged_us >= LOG_AGAIN_US):
            dial.reason, dial.logged_us = reason, now_us
            self._log("notice", f"No link to the node at {address[0]}:{address[1]}: {reason}")

    def ended(self, address: Address, life_us: int, now_us: int) -> None:
        """The link with ``address`` has ended after ``life_us``."""
        self._back_off(address, now_us, good=life_us >= GOOD_LIFE_US)

    def _back_off(self, address: Address, now_us: int, *, good: bool) -> _Dial:
        dial = self._dials.setdefault(address, _Dial())
        dial.under_way = False
        dial.delay_us = min(2 * dial.delay_us, BACK_OFF_MAX_US) if dial.delay_us and not good else BACK_OFF_MIN_US
        dial.next_us = now_us + dial.delay_us - self._rng.randrange(dial.delay_us // 4)
        return dial

    def forget(self, wanted: Collection[Address], now_us: int) -> None:
        """Addresses that are of no more use are forgotten when they are many. O(1) as a rule."""
        if len(self._dials) > _SPARE + len(wanted):
            self._dials = {
                address: dial
                for address, dial in self._dials.items()
                if dial.under_way or address in wanted or now_us < dial.next_us
            }

    def under_way(self) -> int:
        """How many dials are under way; O(addresses)."""
        return sum(dial.under_way for dial in self._dials.values())
