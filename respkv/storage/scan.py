"""Range reads over several sorted sources: of each key the newest source's entry comes out."""

from __future__ import annotations

import heapq
from collections.abc import Iterator

from respkv.storage.quarantine import AnyTable

Entries = Iterator[tuple[bytes, bytes]]


def scan_tables(readers: list[AnyTable], start: bytes, end: bytes | None, wait: bool) -> Entries:
    """One run's entries: its tables are disjoint and ascend. ReadMiss unless ``wait``."""
    for reader in readers:
        yield from reader.scan(start, end, wait=wait)


def merge_entries(sources: list[Entries]) -> Entries:
    """The newest entry of each key; ``sources`` stand newest first, each ascending."""
    last: bytes | None = None
    for key, _, record in heapq.merge(*(_ranked(source, rank) for rank, source in enumerate(sources))):
        if key != last:
            last = key
            yield key, record


def _ranked(source: Entries, rank: int) -> Iterator[tuple[bytes, int, bytes]]:
    for key, record in source:
        yield key, rank, record
