"""An alarm as a narrow protocol: what stops a call that does not return in time."""

from __future__ import annotations

from typing import Final, Protocol


class Alarm(Protocol):
    """One alarm of the thread that uses it. It goes off at most once for each ``set``, never after ``clear``."""

    def set(self, after_us: int, error: BaseException) -> None:
        """Have ``error`` raised wherever the thread is then, waiting in a system call included."""

    def clear(self) -> None:
        """It is not wanted any more. ``error`` may still be raised in here."""


class _NoAlarm:
    """Never goes off: where time is not real."""

    __slots__ = ()

    def set(self, after_us: int, error: BaseException) -> None:
        pass

    def clear(self) -> None:
        pass


NO_ALARM: Final[Alarm] = _NoAlarm()
