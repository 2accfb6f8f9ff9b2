"""The work of worker processes: a closed segment becomes tables, runs become one run.

A job is given plain data and a file system and answers plain data, so that the same functions run in another
process, in the simulator and in tests. It only makes new files: nothing refers to them before the
engine's edit is durable, so a job that dies leaves orphans that recovery removes. Every table is read again
in full after it was written, and what is on disk is what the answer describes.

Spec of a flush: ``dir``, ``segments`` (file ids, oldest first; closed ones), ``outputs`` (file ids to use),
``options`` (``block_bytes``, ``compress``, ``table_bytes``). Of a compaction: ``dir``, ``inputs`` and
``older`` (runs newest first, each a list of table metas), ``outputs``, ``options``, ``retention`` (for
``make_keep``); other entries are for whoever runs the job. Answer of both: ``tables`` (metas),
``bytes_written``, ``bytes_read``, ``entries``.

On a full disk the outputs are removed and StorageFull is raised; other errors of files leave none either.
"""

from __future__ import annotations

import errno
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import Any, Final

from xxhash import xxh3_64_intdigest

from respkv.base.errors import CorruptionError, RespkvError, StorageFull, as_damage
from respkv.env.fs import FileSystem
from respkv.storage.block_cache import BlockCache
from respkv.storage.merge import Chunk, merge_runs
from respkv.storage.sstable.builder import TableBuilder
from respkv.storage.sstable.format import TableMeta
from respkv.storage.sstable.reader import TableReader
from respkv.storage.version import table_path
from respkv.storage.wal import read_closed, segment_path
from respkv.storage.write_batch import BUCKET_BYTES, spread_entries

Derive = Callable[[bytes, bytes], Iterable[tuple[bytes, bytes]]]
#: ``lookup(key)``: the newest record of ``key`` in the inputs and older runs, None if there is none.
Lookup = Callable[[bytes], bytes | None]
#: ``keep(key, record, older_may_hold)``: whether the record, the newest of its key in the inputs, is kept.
Keep = Callable[[bytes, bytes, Callable[[bytes], bool]], bool]
#: Told how many bytes were read and written since the last call; may sleep to hold a rate.
Pause = Callable[[int], None]

_CACHE_BYTES: Final = 4 << 20
_CHUNK_ENTRIES: Final = 2048


def no_pause(size: int) -> None:
    """Run at full speed."""


def flush_job(fs: FileSystem, spec: dict[str, Any], derive: Derive, pause: Pause = no_pause) -> dict[str, Any]:
    """Make tables of closed segments; of each key the last record counts.

    ``derive(key, record)`` gives the index entries to store beside a record. StorageFull, CorruptionError,
    OSError. About 2 us an entry; holds all entries in memory, as the memtable does.
    """
    directory = spec["dir"]
    buckets: dict[bytes, dict[bytes, bytes]] = {}
    bytes_read = 0
    for segment_id in spec["segments"]:
        path = segment_path(directory, segment_id)
        try:
            read_closed(fs, path, lambda payload: spread_entries(payload, buckets))
        except OSError as error:
            raise as_damage(error, path, 0) from error
        bytes_read += fs.size(path)
    pause(bytes_read)
    derived: list[tuple[bytes, bytes]] = []
    for table in buckets.values():
        derived += chain.from_iterable(map(derive, table, table.values()))
    for key, record in derived:
        buckets.setdefault(key[:BUCKET_BYTES], {})[key] = record
    return _write_tables(fs, spec, _sorted_chunks(buckets), bytes_read, pause)


def compact_job(
    fs: FileSystem,
    spec: dict[str, Any],
    make_keep: Callable[[dict[str, Any], Lookup], Keep | None],
    pause: Pause = no_pause,
) -> dict[str, Any]:
    """Merge runs into one; of each key the newest record counts, and is dropped where ``keep`` says so.

    ``make_keep(retention, lookup)`` may answer None: keep everything, which is cheaper. Inputs are verified
    as they are read. StorageFull, CorruptionError, OSError. About 2 us an entry.
    """
    cache = BlockCache(_CACHE_BYTES)
    inputs = _open_runs(fs, spec["dir"], spec["inputs"], cache)
    older = _open_runs(fs, spec["dir"], spec["older"], cache)
    try:
        keep = make_keep(spec["retention"], _make_lookup(inputs + older))
        bytes_read = sum(reader.meta.size for run in inputs for reader in run)
        merged = merge_runs([_run_chunks(run, pause) for run in inputs])
        if keep is not None:
            merged = _kept(merged, keep, _make_may_hold(older))
        return _write_tables(fs, spec, merged, bytes_read, pause)
    finally:
        for reader in chain.from_iterable(inputs + older):
            reader.close()


def _sorted_chunks(buckets: dict[bytes, dict[bytes, bytes]]) -> Iterator[Chunk]:
    """All entries in key order; the buckets are used up."""
    for beginning in sorted(buckets):
        table = buckets.pop(beginning)
        keys = sorted(table)
        for start in range(0, len(keys), _CHUNK_ENTRIES):
            part = keys[start : start + _CHUNK_ENTRIES]
            yield part, list(map(table.__getitem__, part))


def _open_runs(
    fs: FileSystem, directory: str, runs: list[list[dict[str, Any]]], cache: BlockCache
) -> list[list[TableReader]]:
    readers = []
    for run in runs:
        metas = [TableMeta.from_json(meta) for meta in run]
        try:
            readers.append([TableReader(fs, table_path(directory, meta.file_id), meta, cache) for meta in metas])
        except FileNotFoundError as error:
            raise CorruptionError(str(error.filename), 0, "a table of the version is not there") from error
    return readers


def _run_chunks(run: list[TableReader], pause: Pause) -> Iterator[Chunk]:
    for keys, records in chain.from_iterable(reader.scan_chunks(b"", None, wait=True) for reader in run):
        pause(sum(map(len, keys)) + sum(map(len, records)))
        yield keys, records


def _kept(merged: Iterator[Chunk], keep: Keep, older_may_hold: Callable[[bytes], bool]) -> Iterator[Chunk]:
    for keys, records in merged:
        flags = [keep(key, record, older_may_hold) for key, record in zip(keys, records)]
        if not all(flags):
            keys = [key for key, flag in zip(keys, flags) if flag]
            records = [record for record, flag in zip(records, flags) if flag]
        if keys:
            yield keys, records


def _table_of(run: list[TableReader], largest: list[bytes], key: bytes) -> TableReader | None:
    """The only table of ``run`` that may have ``key``."""
    place = bisect_left(largest, key)
    return run[place] if place < len(run) and run[place].meta.smallest <= key else None


def _make_lookup(runs: list[list[TableReader]]) -> Lookup:
    ranges = [(run, [reader.meta.largest for reader in run]) for run in runs]

    def lookup(key: bytes) -> bytes | None:
        key_hash = xxh3_64_intdigest(key)
        for run, largest in ranges:
            reader = _table_of(run, largest, key)
            if reader is not None:
                record = reader.get_waiting(key, key_hash)
                if record is not None:
                    return record
        return None

    return lookup


def _make_may_hold(runs: list[list[TableReader]]) -> Callable[[bytes], bool]:
    ranges = [(run, [reader.meta.largest for reader in run]) for run in runs]

    def may_hold(key: bytes) -> bool:
        key_hash = xxh3_64_intdigest(key)
        for run, largest in ranges:
            reader = _table_of(run, largest, key)
            if reader is not None and reader.may_hold(key_hash):
                return True
        return False

    return may_hold


def _write_tables(
    fs: FileSystem, spec: dict[str, Any], chunks: Iterable[Chunk], bytes_read: int, pause: Pause
) -> dict[str, Any]:
    """Write ``chunks`` as tables of about ``table_bytes`` each, and read them again."""
    directory, ids = spec["dir"], spec["outputs"]
    writer = _RunWriter(fs, directory, ids, spec["options"])
    try:
        for keys, records in chunks:
            pause(writer.write(keys, records))
        metas = writer.finish()
        fs.sync_dir(f"{directory}/tables")
        for meta in metas:
            reader = TableReader(fs, table_path(directory, meta.file_id), meta, BlockCache(0))
            try:
                reader.verify(pause)
            finally:
                reader.close()
    except (OSError, RespkvError) as error:
        writer.abort()
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageFull(f"{directory}: no space for a table") from error
        raise
    return {
        "tables": [meta.to_json() for meta in metas],
        "bytes_written": sum(meta.size for meta in metas),
        "bytes_read": bytes_read,
        "entries": sum(meta.entries for meta in metas),
    }


class _RunWriter:
    """Writes one run, a table after the other."""

    __slots__ = ("_builder", "_directory", "_fs", "_ids", "_metas", "_options")

    def __init__(self, fs: FileSystem, directory: str, ids: list[int], options: dict[str, Any]) -> None:
        self._fs = fs
        self._directory = directory
        self._ids = ids
        self._options = options
        self._metas: list[TableMeta] = []
        self._builder: TableBuilder | None = None

    def write(self, keys: list[bytes], records: list[bytes]) -> int:
        """Add entries; how many bytes they are. The last id takes all that is left. OSError."""
        size = sum(map(len, keys)) + sum(map(len, records))
        limit: int = self._options["table_bytes"]
        if size > limit >> 3 and len(keys) > 1:
            # Long records: a table shall end near its limit, not a whole chunk behind it.
            half = len(keys) >> 1
            return self.write(keys[:half], records[:half]) + self.write(keys[half:], records[half:])
        builder = self._builder
        if builder is None:
            file_id = self._ids[len(self._metas)]
            builder = self._builder = TableBuilder(
                self._fs,
                table_path(self._directory, file_id),
                file_id,
                block_bytes=self._options["block_bytes"],
                compress=self._options["compress"],
            )
        builder.add_many(keys, records, size)
        if builder.size >= limit and len(self._metas) + 1 < len(self._ids):
            self._end_table()
        return size

    def finish(self) -> list[TableMeta]:
        """The tables written, in key order."""
        self._end_table()
        return self._metas

    def _end_table(self) -> None:
        if self._builder is not None:
            self._metas.append(self._builder.finish())
            self._builder = None

    def abort(self) -> None:
        """Remove every file that was made."""
        if self._builder is not None:
            self._builder.abort()
        for meta in self._metas:
            self._fs.remove(table_path(self._directory, meta.file_id))
