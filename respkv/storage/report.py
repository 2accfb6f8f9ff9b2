"""What opening a directory found and did."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class RecoveryReport:
    """``records`` log records with ``entries`` entries were replayed, up to ``last_lsn``.

    ``dropped_bytes`` of a torn tail, never promised, were left out; ``files_removed`` were orphans, ``tables_kept``
    are some that stay because a table of the version is missing. ``damaged`` are the quarantined tables (path, reason),
    ``healed`` those that were and are whole again.
    """

    records: int = 0
    entries: int = 0
    last_lsn: int = 0
    dropped_bytes: int = 0
    files_removed: list[str] = field(default_factory=list)
    tables_kept: list[str] = field(default_factory=list)
    damaged: list[tuple[str, str]] = field(default_factory=list)
    healed: list[str] = field(default_factory=list)
