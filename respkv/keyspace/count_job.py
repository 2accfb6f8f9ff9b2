"""The recount: walks the records of all runs in a worker process and counts the live keys exactly."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from itertools import chain
from typing import Any, Final

from respkv.env.fs import FileSystem
from respkv.keyspace import keys
from respkv.keyspace.counts import DEAD, Sums, pack_sums, shift, state_of
from respkv.keyspace.floors import FlushFloors
from respkv.storage.block_cache import BlockCache
from respkv.storage.merge import Chunk, merge_runs
from respkv.storage.sstable.format import TableMeta
from respkv.storage.sstable.reader import TableReader
from respkv.storage.version import table_path

_START: Final = bytes((keys.SPACE_RECORD,))
_END: Final = bytes((keys.SPACE_RECORD + 1,))
_CACHE_BYTES: Final = 1 << 20

Pause = Callable[[int], None]


def count_job(fs: FileSystem, spec: dict[str, Any], pause: Pause) -> dict[str, Any]:
    """``spec``: dir, runs (newest first, table metas as plain data), floors. Result: live keys by slot and database.

    About 0.7 us a key. CorruptionError, OSError.
    """
    floors = FlushFloors.from_plain(spec["floors"])
    sums: Sums = {}
    cache = BlockCache(_CACHE_BYTES)
    with ExitStack() as stack:
        runs = []
        for run in spec["runs"]:
            metas = [TableMeta.from_json(meta) for meta in run]
            readers = [TableReader(fs, table_path(spec["dir"], meta.file_id), meta, cache) for meta in metas]
            for reader in readers:
                stack.enter_context(closing(reader))
            runs.append(_chunks(readers, pause))
        for internals, records in merge_runs(runs):
            for internal, record in zip(internals, records, strict=True):
                shift(sums, internal, DEAD, state_of(floors, internal, record))
    return {"live": pack_sums(sums)}


def _chunks(readers: list[TableReader], pause: Pause) -> Iterator[Chunk]:
    for chunk in chain.from_iterable(reader.scan_chunks(_START, _END, wait=True) for reader in readers):
        pause(sum(map(len, chunk[0])) + sum(map(len, chunk[1])))
        yield chunk
