"""Holding a job to a rate of bytes per second."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

_BURST_US: Final = 100_000


class Pacer:
    """``pause(size)`` sleeps when more than ``bytes_per_s`` has passed. A rate of 0 never sleeps."""

    __slots__ = ("_bytes_per_s", "_clock_us", "_due_us", "_sleep_us")

    def __init__(
        self, bytes_per_s: int, *, clock_us: Callable[[], int], sleep_us: Callable[[int], None]
    ) -> None:
        self._bytes_per_s = bytes_per_s
        self._clock_us = clock_us
        self._sleep_us = sleep_us
        self._due_us = clock_us()

    def pause(self, size: int) -> None:
        """``size`` more bytes were read or written. Time lost earlier is made up for, up to 0.1 s of it."""
        if self._bytes_per_s <= 0:
            return
        now_us = self._clock_us()
        self._due_us = max(self._due_us, now_us - _BURST_US) + size * 1_000_000 // self._bytes_per_s
        ahead_us = self._due_us - now_us
        if ahead_us > 5_000:
            self._sleep_us(ahead_us)
