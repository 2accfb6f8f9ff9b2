"""The alarm of the process: SIGALRM, whose handler raises on the main thread, where the event loop runs.

A system call that waits is interrupted; Python looks for signals between instructions, and so do its regular
expressions and its long multiplications.
"""

from __future__ import annotations

import signal
from types import FrameType
from typing import Final

_US: Final = 1e-6


class SignalAlarm:
    """There can be one in a process, made and used by its main thread."""

    __slots__ = ("_error",)

    def __init__(self) -> None:
        self._error: BaseException | None = None
        signal.signal(signal.SIGALRM, self._ring)

    def set(self, after_us: int, error: BaseException) -> None:
        """Have ``error`` raised in ``after_us``."""
        self._error = error
        signal.setitimer(signal.ITIMER_REAL, after_us * _US)

    def clear(self) -> None:
        """A signal that is under way finds nothing to raise."""
        self._error = None
        signal.setitimer(signal.ITIMER_REAL, 0)

    def _ring(self, number: int, frame: FrameType | None) -> None:
        error, self._error = self._error, None
        if error is not None:
            raise error
