"""Opening a data directory: after nothing, a clean stop, or a crash.

DIR holds ``LOCK IDENTITY CURRENT MANIFEST-<n> wal/ tables/ snapshots/ BALLAST``. Files of others beside them
are left alone.

``open_engine`` reads the manifest and opens the tables. One that is damaged or missing is quarantined and does not
stop the opening (unless the manifest has a bad end, which may be the edit that dropped it); one that was quarantined
before is whole again if it verifies now. Then it replays the log by the torn-tail rule (see ``wal``), and writes what
it replayed to a *new* segment which it syncs before anything is served: pages read back after a crash may never have
reached the disk, so only a fresh copy is certain. Then a new manifest makes that segment the log, and only then the
old files go, but no table while one that the version names is missing. A crash anywhere in between leaves either the
old state whole or the new one; recovery is idempotent.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from respkv.base.errors import CorruptionError, FormatError, StorageFull
from respkv.env.fs import FileSystem
from respkv.storage.ballast import free_ballast, make_ballast
from respkv.storage.block_cache import BlockCache
from respkv.storage.catalog import Catalog
from respkv.storage.engine import Derive, Engine
from respkv.storage.identity import Directory, make_directory, open_directory
from respkv.storage.manifest import (
    ManifestLog,
    ManifestState,
    manifest_number,
    manifest_path,
    read_current,
    read_manifest,
)
from respkv.storage.memtable import Memtable
from respkv.storage.options import EngineOptions
from respkv.storage.quarantine import AnyTable, open_or_mark
from respkv.storage.report import RecoveryReport
from respkv.storage.version import Version, table_id, table_path
from respkv.storage.wal import (
    BATCH,
    HEADER_BYTES,
    RECORD_OVERHEAD,
    SEGMENT_MAGIC,
    LogHeader,
    LogReader,
    LogRecord,
    LogWriter,
    is_disk_full,
    replay,
    segment_id,
    segment_path,
)
from respkv.storage.write_batch import add_entry, apply_entries

_COPY_BYTES: Final = 1 << 20
#: Skipped after a crash, so that ids a dying worker may still be writing are not used again.
_ID_GAP: Final = 64
_MANIFEST_ADVICE: Final = (
    "without it nobody can say which files hold the data, so start on a copy of a snapshot; nothing was changed here"
)


def open_engine(fs: FileSystem, directory: str, options: EngineOptions, *, derive: Derive) -> Engine:
    """Open the store in ``directory``, recovering what a crash left; a new one where there is none.

    ``derive(key, record)`` gives the index entries of a record. CorruptionError when durable data of log or
    manifest is damaged or missing (nothing is changed then), FormatError when the files are not ours or too new,
    StorageFull when there is no room even to copy the log's tail. Time and memory: as the log is long.
    """
    make_directory(fs, directory)
    for name in ("wal", "tables"):
        try:
            fs.mkdir(f"{directory}/{name}")
        except FileExistsError as error:
            raise FormatError(f"{directory}/{name} is a file; name an empty directory with --dir") from error
    fs.sync_dir(directory)
    report = RecoveryReport()
    state = _read_state(fs, directory)
    version = state.version
    cache = BlockCache(options.block_cache_bytes)
    readers, quarantine = _open_tables(fs, directory, version, cache, report)
    table, last_lsn = _replay_segments(fs, directory, version, report)
    next_file = max(version.next_file, _highest_id(fs, directory) + 1 + _ID_GAP)
    log = _begin_segment(fs, directory, options, next_file, version.log_number, last_lsn, table)
    memtable = Memtable(next_file, last_lsn + 1)
    memtable.table = table
    if table:
        memtable.count_entries(len(table), log.offset)
    for key, record in table.items():
        memtable.derived.update(derive(key, record))
    version = Version(
        version.runs, next_file, last_lsn, next_file + 1, version.meta, quarantine, durable_lsn=log.last_lsn
    )
    number = max([state.number, *_manifest_numbers(fs, directory)]) + 1
    try:
        manifest = ManifestLog(fs, directory, number, version, rewrite_bytes=options.manifest_rewrite_bytes)
    except OSError as error:
        if not is_disk_full(error):
            raise
        raise StorageFull(f"{directory}: no room for a manifest") from error
    _remove_orphans(fs, directory, version, number, report)
    make_ballast(fs, directory, options.ballast_bytes)
    catalog = Catalog(
        fs,
        directory,
        options,
        version=version,
        manifest=manifest,
        cache=cache,
        readers=readers,
        next_file=version.next_file,
    )
    return Engine(fs, directory, options, catalog=catalog, log=log, memtable=memtable, recovery=report)


def _open_tables(
    fs: FileSystem, directory: str, version: Version, cache: BlockCache, report: RecoveryReport
) -> tuple[dict[int, AnyTable], dict[int, str]]:
    """A reader for each table of ``version``, and what is wrong with which."""
    readers: dict[int, AnyTable] = {}
    quarantine: dict[int, str] = {}
    for table in version.tables():
        path, marked = table_path(directory, table.file_id), version.quarantine.get(table.file_id)
        readers[table.file_id], problem = open_or_mark(fs, path, table, cache, marked)
        if problem is not None:
            quarantine[table.file_id] = problem
            report.damaged.append((path, problem))
        elif marked is not None:
            report.healed.append(path)
    return readers, quarantine


def _read_state(fs: FileSystem, directory: str) -> ManifestState:
    try:
        number = read_current(fs, directory)
        if number is not None:
            state = read_manifest(fs, directory, number)
            _refuse_lost_edit(fs, directory, state)
            return state
    except CorruptionError as damage:
        raise CorruptionError(damage.path, damage.offset, f"{damage.reason}; {_MANIFEST_ADVICE}") from damage
    # A crash may have interrupted the very first opening; then nothing was ever stored here.
    if _names(fs, f"{directory}/tables"):
        raise FormatError(f"{directory}: tables without CURRENT; name an empty directory with --dir")
    for file_id, path in _segments(fs, directory):
        reader = LogReader(fs.open_read(path), file_id, SEGMENT_MAGIC)
        try:
            if reader.header() is not None and next(reader.records(), None) is not None:
                raise CorruptionError(f"{directory}/CURRENT", 0, f"missing, but {path} holds data")
        finally:
            reader.close()
    return ManifestState(0, Version(), 0, 0)


def _refuse_lost_edit(fs: FileSystem, directory: str, state: ManifestState) -> None:
    """CorruptionError when what lies behind the manifest's last valid edit was no torn tail.

    Tables go only after the edit that drops them is durable. So if one that nobody has missed yet is not there, such
    an edit may be what is damaged, and the version before it must not be taken for the last.
    """
    known = state.version.quarantine
    missing = [file_id for file_id in _missing_tables(fs, directory, state.version) if file_id not in known]
    if state.dropped_bytes and missing:
        raise CorruptionError(
            manifest_path(directory, state.number),
            0,
            f"the last {state.dropped_bytes} bytes are no valid edit, and of the version before them"
            f" {table_path(directory, missing[0])} is not there",
        )


def _missing_tables(fs: FileSystem, directory: str, version: Version) -> list[int]:
    """File ids of the version's tables that are not there at all."""
    ids = [table.file_id for table in version.tables()]
    return [file_id for file_id in ids if not fs.exists(table_path(directory, file_id))]


def _replay_segments(
    fs: FileSystem, directory: str, version: Version, report: RecoveryReport
) -> tuple[dict[bytes, bytes], int]:
    """The state the log holds, newest record by key, and its last lsn."""
    table: dict[bytes, bytes] = {}

    def take(record: LogRecord) -> None:
        if record.kind != BATCH:
            raise CorruptionError(path, record.offset, f"record type {record.kind} in the log")
        try:
            report.entries += apply_entries(record.payload, table)
        except ValueError as error:
            raise CorruptionError(path, record.offset, str(error)) from error

    path = f"{directory}/wal"
    files = [(file_id, name) for file_id, name in _segments(fs, directory) if file_id >= version.log_number]
    if version.log_number and (not files or files[0][0] != version.log_number):
        raise CorruptionError(
            segment_path(directory, version.log_number), 0, "the manifest names a missing segment"
        )
    result = replay(
        fs, files, SEGMENT_MAGIC, version.log_lsn, take, known_durable_lsn=version.durable_lsn
    )
    report.records = result.records
    report.dropped_bytes = result.dropped_bytes
    report.last_lsn = result.last_lsn
    return table, result.last_lsn


def _begin_segment(
    fs: FileSystem,
    directory: str,
    options: EngineOptions,
    file_id: int,
    previous_id: int,
    last_lsn: int,
    table: dict[bytes, bytes],
) -> LogWriter:
    """A new segment that holds ``table`` after ``last_lsn``, synced with its name.

    Where the disk has no room for a whole segment, the ballast is given up, then the segment is just as
    long as its contents, and the engine begins with refusing writes. StorageFull beyond that.
    """
    path = segment_path(directory, file_id)
    header = LogHeader(file_id, previous_id, last_lsn, 0)
    payloads = list(_payloads(table))
    needed = HEADER_BYTES + sum(len(payload) + RECORD_OVERHEAD for payload in payloads)
    for size in (needed + options.segment_preallocation, needed + RECORD_OVERHEAD, needed + RECORD_OVERHEAD):
        try:
            log = LogWriter(fs, path, SEGMENT_MAGIC, header, preallocate=size)
            break
        except OSError as error:
            if not is_disk_full(error):
                raise
            if fs.exists(path):
                fs.remove(path)
            free_ballast(fs, directory)
    else:
        raise StorageFull(f"{path}: no room for the log's tail, {needed} bytes")
    for payload in payloads:
        # The copy must not vouch for itself: if a crash interrupts it, the old log alone decides.
        log.append(BATCH, payload, 0)
    log.file.sync()
    fs.sync_dir(f"{directory}/wal")
    return log


def _payloads(table: dict[bytes, bytes]) -> Iterable[bytes]:
    batch: list[bytes] = []
    size = 0
    for key, record in table.items():
        add_entry(batch, key, record)
        size += len(key) + len(record) + 8
        if size >= _COPY_BYTES:
            yield b"".join(batch)
            batch, size = [], 0
    if batch:
        yield b"".join(batch)


def _segments(fs: FileSystem, directory: str) -> list[tuple[int, str]]:
    """The segments on disk, oldest first."""
    found = ((segment_id(name), f"{directory}/wal/{name}") for name in _names(fs, f"{directory}/wal"))
    return sorted((file_id, path) for file_id, path in found if file_id is not None)


def _names(fs: FileSystem, path: str) -> list[str]:
    return fs.listdir(path) if fs.exists(path) else []


def _highest_id(fs: FileSystem, directory: str) -> int:
    ids = [file_id for file_id, _ in _segments(fs, directory)]
    ids += [file_id for name in _names(fs, f"{directory}/tables") if (file_id := table_id(name)) is not None]
    return max(ids, default=0)


def _manifest_numbers(fs: FileSystem, directory: str) -> list[int]:
    return [number for name in fs.listdir(directory) if (number := manifest_number(name)) is not None]


def _remove_orphans(
    fs: FileSystem, directory: str, version: Version, number: int, report: RecoveryReport
) -> None:
    """Remove what no manifest names any more. Only our own kinds of file are touched.

    Tables stay while one that the version names is missing: they may hold what was in it.
    """
    kept = {table.file_id for table in version.tables()}
    orphans = [path for file_id, path in _segments(fs, directory) if file_id < version.log_number]
    unnamed = report.tables_kept if _missing_tables(fs, directory, version) else orphans
    for name in fs.listdir(f"{directory}/tables"):
        file_id = table_id(name)
        if file_id is not None and file_id not in kept:
            unnamed.append(f"{directory}/tables/{name}")
        elif name.endswith(".tmp"):
            orphans.append(f"{directory}/tables/{name}")
    orphans += [manifest_path(directory, old) for old in _manifest_numbers(fs, directory) if old != number]
    orphans += [path for name in ("CURRENT", "IDENTITY") if fs.exists(path := f"{directory}/{name}.tmp")]
    for path in orphans:
        fs.remove(path)
    for name in ("wal", "tables", ""):
        fs.sync_dir(f"{directory}/{name}".rstrip("/"))
    report.files_removed = orphans


__all__ = ["Directory", "RecoveryReport", "open_directory", "open_engine"]
