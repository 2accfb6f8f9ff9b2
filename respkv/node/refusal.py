"""Whether clients' writes are refused for want of disk, how that is told, and what is done so that it ends.

The log holds each write, a table only the newest of each key: where the log is a good part of what ``max-disk`` allows,
it is made a table of before it has its full length. Otherwise one key that is written over and over, or what was
deleted, would keep the limit exceeded for ever, since nothing fills the log while writes are refused.
"""

from __future__ import annotations

from typing import Final

from respkv.resp import errors
from respkv.storage.engine import Engine

#: What INFO gives as the reason while the data takes more than ``max-disk``.
OVER_MAX_DISK: Final = "disk used > max-disk"
#: A shorter log is left as it is.
LOG_WORTH_A_TABLE: Final = 1 << 20


def why_refused(engine: Engine, max_disk: int) -> tuple[bytes | None, str]:
    """The reply that writes get, and the reason in words; None and "" while they are taken."""
    problem = engine.refusal()
    if problem is not None:
        return errors.DISK_FULL, problem
    if max_disk and engine.disk_bytes() > max_disk:
        return errors.MAX_DISK, OVER_MAX_DISK
    return None, ""


def needs_table(engine: Engine, max_disk: int) -> bool:
    """Whether the log should become a table for ``max-disk``; never while another one does."""
    if not max_disk or engine.immutables or (used := engine.disk_bytes()) <= max_disk - max_disk // 4:
        return False
    least = LOG_WORTH_A_TABLE if used > max_disk else max(LOG_WORTH_A_TABLE, max_disk // 4)
    return engine.stats()["wal_bytes"] >= least


def told(engine: Engine, reason: str) -> str:
    """The line of the log when writes begin to be refused for ``reason``, or no longer are."""
    if not reason:
        return "writes go on"
    return f"writes are refused: {reason} (tables, logs and manifest take {engine.disk_bytes()} bytes)"
