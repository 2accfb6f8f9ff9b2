"""The log of refused log-ins, as ACL LOG shows it.

What repeats within a minute is one entry with a count, as in Redis: a client that tries again and again with a wrong
password fills one place.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Final

from respkv.metrics.slowlog import trim

#: An event is one more of an entry that is at most this old, and among so many of the newest.
GROUPED_MS: Final = 60_000
GROUPED_AMONG: Final = 10


@dataclass(slots=True)
class AclEntry:
    """``count`` events alike. ``context`` is toplevel or multi, ``word`` the command as it was sent, times wall ms;
    ``client``: its line of CLIENT LIST at the last of them."""

    id: int
    context: bytes
    word: bytes
    user: bytes
    client: bytes
    created_ms: int
    updated_ms: int
    count: int = 1


class AclLog:
    """Refused log-ins, newest first."""

    __slots__ = ("_entries", "_next_id")

    def __init__(self) -> None:
        self._entries: deque[AclEntry] = deque()
        self._next_id = 0

    def add(self, *, context: bytes, word: bytes, user: bytes, client: bytes, wall_ms: int, max_len: int) -> None:
        """Note an event. A new entry drops the oldest beyond ``max_len``."""
        word, user = trim((word, user))
        for at in range(min(GROUPED_AMONG, len(self._entries))):
            entry = self._entries[at]
            alike = (entry.context, entry.word, entry.user) == (context, word, user)
            if alike and abs(wall_ms - entry.updated_ms) <= GROUPED_MS:
                entry.client, entry.updated_ms, entry.count = client, wall_ms, entry.count + 1
                del self._entries[at]
                self._entries.appendleft(entry)
                return
        self._entries.appendleft(AclEntry(self._next_id, context, word, user, client, wall_ms, wall_ms))
        self._next_id += 1
        while len(self._entries) > max_len:
            self._entries.pop()

    def entries(self, count: int) -> list[AclEntry]:
        """The newest ``count`` entries, none for a negative number. O(count)."""
        return [self._entries[at] for at in range(min(count, len(self._entries)))]

    def reset(self) -> None:
        """Drop all entries; the numbering goes on."""
        self._entries.clear()
