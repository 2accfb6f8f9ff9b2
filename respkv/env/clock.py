"""Time as a narrow protocol: the only door through which time enters."""

from __future__ import annotations

from typing import Protocol


class Clock(Protocol):
    """Two clocks. Integers only."""

    def monotonic_us(self) -> int:
        """Microseconds from an arbitrary start; never goes backwards."""

    def wall_us(self) -> int:
        """Microseconds since the Unix epoch; may jump."""
