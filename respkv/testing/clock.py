"""A clock that stands until it is moved."""

from __future__ import annotations


class ManualClock:
    """Both clocks move together. Starts at a given wall time."""

    __slots__ = ("_monotonic_us", "_wall_us")

    def __init__(self, wall_ms: int = 1_700_000_000_000) -> None:
        self._monotonic_us = 1_000_000
        self._wall_us = wall_ms * 1000

    def monotonic_us(self) -> int:
        return self._monotonic_us

    def steady_us(self) -> int:
        return self._monotonic_us

    def wall_us(self) -> int:
        return self._wall_us

    def advance_us(self, count: int) -> None:
        """Let time pass."""
        self._monotonic_us += count
        self._wall_us += count
