"""Weighs the open batch, so that a cycle that writes much becomes several log records.

A log record is one command's or many small ones', never a part of one: only whoever runs commands knows where one
ends, and asks there. Weighing every entry would cost the hot path, so many entries count as much unseen, and bytes are
summed only when somebody asks, which is after commands that wrote much. Records of several commands so stay
within about 4 MiB; one command may make a record of any size.
"""

from __future__ import annotations

from typing import Final

#: An open batch of so many bytes or entries is committed before the next command.
SPLIT_BYTES: Final = 2 << 20
SPLIT_ENTRIES: Final = 1024


class BatchScale:
    """Remembers what it has weighed of the batch that is open after an lsn."""

    __slots__ = ("_lsn", "_parts", "_size")

    def __init__(self) -> None:
        self._lsn = self._parts = self._size = 0

    def overfull(self, batch: list[bytes], lsn: int) -> bool:
        """Whether ``batch``, open since ``lsn``, should be committed now. About 60 ns for each new entry."""
        return len(batch) >= 3 * SPLIT_ENTRIES or self.weigh(batch, lsn) >= SPLIT_BYTES

    def weigh(self, batch: list[bytes], lsn: int) -> int:
        """The bytes of ``batch``, open since ``lsn``. About 60 ns for each entry since it was weighed last."""
        if lsn != self._lsn:
            self._lsn, self._parts, self._size = lsn, 0, 0
        self._size += sum(map(len, batch[self._parts :]))
        self._parts = len(batch)
        return self._size
