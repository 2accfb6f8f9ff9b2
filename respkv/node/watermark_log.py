"""Purge watermarks as a fact of this node: logged every few seconds when they have grown, found again at the start.

Compaction gets only watermarks that are durable: a node that purged a grave and forgot the watermark in a crash would
let through the old write that the grave would have beaten. Losing an undurable one only delays purging.

The record stands in the local space under ``purge-watermarks``; its body is ``PurgeWatermarks.encode``'s.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from respkv.causality.record import BODY_AT
from respkv.keyspace import keys
from respkv.keyspace.keyspace import Keyspace
from respkv.replication.tombstones import PurgeWatermarks

WATERMARKS: Final = keys.meta_key(b"purge-watermarks")
SAVE_US: Final = 5_000_000

Ranges = tuple[tuple[int, int, int], ...]


class WatermarkLog:
    """Keeps ``watermarks`` in the log of ``keyspace``. FormatError when a newer program wrote them."""

    __slots__ = ("_advances", "_commit", "_due_us", "_keyspace", "_saved", "_watermarks", "durable")

    def __init__(self, keyspace: Keyspace, watermarks: PurgeWatermarks, commit: Callable[[], int]) -> None:
        for _, record in keyspace.engine.scan(WATERMARKS, keys.after(WATERMARKS), wait=True):
            watermarks.decode(record[BODY_AT:])
        #: (first slot, last slot, P) that are on disk
        self.durable: Ranges = watermarks.ranges()
        self._keyspace = keyspace
        self._watermarks = watermarks
        self._commit = commit
        self._advances = watermarks.advances
        self._due_us = 0
        #: what is logged and not known to be durable: the lsn that covers it, and the watermarks
        self._saved: tuple[int, Ranges] | None = None

    def keep(self, now_us: int) -> None:
        """Learn what has become durable, and log what has grown. O(slots) when something has."""
        if self._saved is not None:
            if self._keyspace.engine.durable_lsn < self._saved[0]:
                return
            self.durable = self._saved[1]
            self._saved = None
        if now_us >= self._due_us and self._watermarks.advances != self._advances:
            self._due_us = now_us + SAVE_US
            self._advances = self._watermarks.advances
            self._keyspace.put_meta(WATERMARKS, self._watermarks.encode())
            self._saved = self._commit(), self._watermarks.ranges()
