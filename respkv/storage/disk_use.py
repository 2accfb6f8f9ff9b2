"""What of the disk is held and not written: room, not data, so that ``max-disk`` does not bound it."""

from __future__ import annotations

from collections.abc import Iterable

from respkv.storage.memtable import Memtable
from respkv.storage.options import EngineOptions
from respkv.storage.wal import LogWriter


def preallocated_bytes(options: EngineOptions, ballast: bool, log: LogWriter, retired: Iterable[Memtable]) -> int:
    """The rest of the segments of ``log`` and of ``retired`` memtables, and the ballast if it is there."""
    room = max(0, log.room - log.offset) + (options.ballast_bytes if ballast else 0)
    return room + sum(max(0, options.segment_preallocation - memtable.log_bytes) for memtable in retired)
