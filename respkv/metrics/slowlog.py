"""What was slow: the log of slow commands, and the monitor of latency events.

Both are bounded and hold the newest entries. Requests are trimmed as Redis does: 32 arguments at most, the
last of which then tells how many are left out, and 128 bytes of each.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

ARGUMENTS_MAX: Final = 32
ARGUMENT_BYTES_MAX: Final = 128
#: Samples that LATENCY HISTORY holds of one event.
SAMPLES_MAX: Final = 160


@dataclass(frozen=True, slots=True)
class SlowEntry:
    """One slow command: ``time_s`` since the epoch when it ended, ``argv`` already trimmed."""

    id: int
    time_s: int
    duration_us: int
    argv: tuple[bytes, ...]
    client: str
    name: bytes


def trim(argv: Sequence[bytes]) -> tuple[bytes, ...]:
    """``argv`` as the slow log shows it. O(1) in the length of the request."""
    shown = ARGUMENTS_MAX if len(argv) <= ARGUMENTS_MAX else ARGUMENTS_MAX - 1
    out = []
    for argument in argv[:shown]:
        more = len(argument) - ARGUMENT_BYTES_MAX
        if more > 0:
            argument = b"%b... (%d more bytes)" % (argument[:ARGUMENT_BYTES_MAX], more)
        out.append(argument)
    if len(argv) > shown:
        out.append(b"... (%d more arguments)" % (len(argv) - shown))
    return tuple(out)


class SlowLog:
    """The newest ``max_len`` commands that took at least ``threshold_us`` (below 0: none is logged)."""

    __slots__ = ("_entries", "_next_id", "max_len", "threshold_us")

    def __init__(self, max_len: int = 128, threshold_us: int = 0) -> None:
        self.max_len = max_len
        self.threshold_us = threshold_us
        self._entries: deque[SlowEntry] = deque()
        self._next_id = 0

    def add(
        self, argv: Sequence[bytes], *, duration_us: int, wall_ms: int, client: str, name: bytes = b""
    ) -> bool:
        """Log the command if it was slow; True when it was logged. ``wall_ms`` is when it ended."""
        if self.threshold_us < 0 or duration_us < self.threshold_us:
            return False
        entry = SlowEntry(self._next_id, wall_ms // 1000, duration_us, trim(argv), client, name)
        self._next_id += 1
        self._entries.appendleft(entry)
        self.resize(self.max_len)
        return True

    def resize(self, max_len: int) -> None:
        """Set the limit and drop the oldest entries above it."""
        self.max_len = max_len
        while len(self._entries) > max_len:
            self._entries.pop()

    def entries(self, count: int = -1) -> list[SlowEntry]:
        """The newest ``count`` entries, newest first; -1 means all. O(count)."""
        wanted = len(self._entries) if count < 0 else min(count, len(self._entries))
        return [self._entries[at] for at in range(wanted)]

    def __len__(self) -> int:
        return len(self._entries)

    def reset(self) -> None:
        """Drop all entries; the numbering goes on."""
        self._entries.clear()

    def stats(self) -> dict[str, int]:
        return {"entries": len(self._entries), "logged": self._next_id}

    def check_invariants(self) -> None:
        ids = [entry.id for entry in self._entries]
        assert ids == sorted(ids, reverse=True) and len(ids) <= self.max_len

    def __repr__(self) -> str:
        return f"<SlowLog {len(self._entries)}/{self.max_len} over {self.threshold_us} us>"


class _Event:
    __slots__ = ("samples", "worst_ms")

    def __init__(self) -> None:
        #: (time_s, latency_ms), oldest first, one a second
        self.samples: deque[tuple[int, int]] = deque(maxlen=SAMPLES_MAX)
        self.worst_ms = 0


class LatencyMonitor:
    """Spikes of named events (``command``, ``fsync``, ...), for LATENCY. A threshold of 0 notes none.

    Events of one second are one sample, the worst. Names come from the code, so their number is bounded.
    """

    __slots__ = ("_events", "threshold_ms")

    def __init__(self, threshold_ms: int = 0) -> None:
        self.threshold_ms = threshold_ms
        self._events: dict[str, _Event] = {}

    def note(self, event: str, latency_ms: int, *, time_s: int) -> bool:
        """Remember that ``event`` took ``latency_ms`` if that is a spike; True when it was."""
        if not self.threshold_ms or latency_ms < self.threshold_ms:
            return False
        found = self._events.get(event)
        if found is None:
            found = self._events[event] = _Event()
        found.worst_ms = max(found.worst_ms, latency_ms)
        samples = found.samples
        if samples and samples[-1][0] == time_s:
            samples[-1] = (time_s, max(samples[-1][1], latency_ms))
        else:
            samples.append((time_s, latency_ms))
        return True

    def latest(self) -> list[tuple[str, int, int, int]]:
        """(event, time_s of its last spike, that spike in ms, worst ever in ms), by name."""
        return [
            (name, *self._events[name].samples[-1], self._events[name].worst_ms)
            for name in sorted(self._events)
        ]

    def history(self, event: str) -> list[tuple[int, int]]:
        """(time_s, latency_ms) of the event's samples, oldest first; empty for an unknown event."""
        found = self._events.get(event)
        return list(found.samples) if found is not None else []

    def reset(self, events: Sequence[str] = ()) -> int:
        """Forget the named events, all when none is named; how many were forgotten."""
        names = list(self._events) if not events else [name for name in events if name in self._events]
        return sum(self._events.pop(name, None) is not None for name in names)

    def stats(self) -> dict[str, int]:
        return {"events": len(self._events)}

    def check_invariants(self) -> None:
        for event in self._events.values():
            assert event.samples and event.worst_ms >= max(latency for _, latency in event.samples)

    def __repr__(self) -> str:
        return f"<LatencyMonitor {list(self._events)} from {self.threshold_ms} ms>"
