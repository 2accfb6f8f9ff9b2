"""What an engine is told when it is opened. Sizes in bytes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from respkv.base.errors import RespkvError

MIB: Final = 1 << 20
#: A segment never grows beyond this before the memtable is flushed, however few keys it holds.
SEGMENT_LIMIT_MAX: Final = 512 * MIB


def _no_retention() -> dict[str, Any]:
    return {}


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """Limits and tastes of one engine.

    ``segment_bytes`` 0 means four memtables, 512 MiB at most. ``derived_spaces`` are the first key bytes
    of index entries that are derived from records and never logged. ``retention`` is asked for plain data
    each time a compaction job is made and is handed to the job as it is; ``cautious_retention`` instead where an
    older table is damaged: with it a job must drop nothing because nothing older is there. ``local_spaces`` hold
    facts that the owner can restore: scans of them wait, and pass over what is damaged.
    """

    memtable_bytes: int = 64 * MIB
    block_cache_bytes: int = 64 * MIB
    block_bytes: int = 4096
    segment_bytes: int = 0
    table_bytes: int = 64 * MIB
    runs_per_tier: int = 4
    stall_runs: int = 12
    compress: bool = True
    ballast_bytes: int = 64 * MIB
    derived_spaces: frozenset[int] = frozenset()
    local_spaces: frozenset[int] = frozenset()
    retention: Callable[[], dict[str, Any]] = _no_retention
    cautious_retention: Callable[[], dict[str, Any]] = _no_retention
    compaction_bytes_per_s: int = 192 * MIB
    manifest_rewrite_bytes: int = 4 * MIB

    def __post_init__(self) -> None:
        if self.memtable_bytes <= 0 or self.runs_per_tier < 2 or self.stall_runs < self.runs_per_tier:
            raise RespkvError("engine options out of range")

    @property
    def segment_limit(self) -> int:
        """Bytes of log after which a memtable is retired even when it holds few keys."""
        return self.segment_bytes or min(4 * self.memtable_bytes, SEGMENT_LIMIT_MAX)

    @property
    def segment_preallocation(self) -> int:
        """Disk space a segment is given at once: its limit and room for the commits that end it."""
        return self.segment_limit + min(16 * MIB, self.segment_limit // 4 + 65536)
