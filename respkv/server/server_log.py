"""The log: Redis' line format, to a file or to standard output.

``pid:role DD Mon YYYY HH:MM:SS.mmm L text``; role C while starting, then M; L is one of ``.`` debug, ``-``
verbose, ``*`` notice, ``#`` warning. A file is opened for each line, so that rotating it needs no signal.
"""

from __future__ import annotations

import os
import sys
from datetime import datetime
from typing import Final

from respkv.env.clock import Clock

LEVELS: Final = {
    "debug": (0, "."),
    "verbose": (1, "-"),
    "notice": (2, "*"),
    "warning": (3, "#"),
    "nothing": (4, "#"),
}
_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_TEXT_MAX: Final = 8192


class ServerLog:
    """``log(level, text)``. ``path`` "" is standard output; ``level`` the least that is shown."""

    __slots__ = ("_clock", "level", "lines", "path", "pid", "role")

    def __init__(self, clock: Clock, *, path: str = "", level: str = "notice") -> None:
        self._clock = clock
        self.path = path
        self.level = level
        self.role = "C"
        self.pid = os.getpid()
        self.lines = 0

    def __call__(self, level: str, text: str) -> None:
        """Write one line if its level is shown. A log that cannot be written is no reason to stop."""
        rank, mark = LEVELS[level]
        if rank < LEVELS[self.level][0]:
            return
        self.lines += 1
        wall_us = self._clock.wall_us()
        for part in text[:_TEXT_MAX].splitlines() or [""]:
            self.write_raw(f"{self.pid}:{self.role} {format_time(wall_us)} {mark} {part}\n")

    def write_raw(self, text: str) -> None:
        """Text as it is."""
        data = text.encode("utf-8", "surrogateescape")
        try:
            if not self.path:
                if sys.stdout is not None:  # It was closed when the program started.
                    sys.stdout.flush()
                os.write(1, data)
                return
            fd = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                os.write(fd, data)
            finally:
                os.close(fd)
        except OSError:
            pass

    def check_writable(self) -> str:
        """Why the file cannot be written, "" when it can."""
        if not self.path:
            return ""
        try:
            os.close(os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644))
        except OSError as error:
            return f"Can't open the log file: {error.strerror}"
        return ""


def format_time(wall_us: int) -> str:
    """``DD Mon YYYY HH:MM:SS.mmm`` in local time; the month's name in English whatever the locale."""
    at = datetime.fromtimestamp(wall_us // 1_000_000)
    return f"{at:%d} {_MONTHS[at.month - 1]} {at:%Y %H:%M:%S}.{wall_us // 1000 % 1000:03d}"
