"""The alarm of clocks that differ too much: every frame of such a peer raises it, people are told once in a while."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

#: Time between two lines about the same member.
TOLD_US: Final = 60_000_000


class ClockAlarm:
    """``count`` is how many frames named a time too far ahead. ``log(level, text)``. O(members) of memory."""

    __slots__ = ("_log", "_told_us", "count")

    def __init__(self, log: Callable[[str, str], None]) -> None:
        self.count = 0
        self._log = log
        self._told_us: dict[int, int] = {}

    def raised(self, short: int, text: str, now_us: int) -> None:
        """A frame of member ``short`` named a time that ``text`` complains of; its clock was not followed."""
        self.count += 1
        last_us = self._told_us.get(short)
        if last_us is None or now_us - last_us >= TOLD_US:
            self._told_us[short] = now_us
            self._log(
                "warning",
                f"The clock of member {short} is wrong, or this node's is: {text}. Its writes are refused until the"
                " clocks agree; synchronize them (NTP)",
            )
