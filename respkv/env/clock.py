"""Time as a narrow protocol: the only door through which time enters."""

from __future__ import annotations

from typing import Protocol


class Clock(Protocol):
    """The times of one machine. Integers only."""

    def monotonic_us(self) -> int:
        """Microseconds from an arbitrary start; never goes backwards."""

    def steady_us(self) -> int:
        """As ``monotonic_us``, with a start of its own, and never sped up or slowed down to be set right."""

    def wall_us(self) -> int:
        """Microseconds since the Unix epoch; may jump."""
