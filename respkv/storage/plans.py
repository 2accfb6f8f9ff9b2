"""Blocking work of the engine, cut out so that it can run in a thread.

A plan is made on the engine's thread, ``run()`` is called once from any thread (it touches nothing of the
engine's that changes), and the matching ``on_*`` method of the engine takes the result on the engine's
thread. A plan whose ``run`` raises FatalStorageError ends the process: what is on disk is then unknown,
and a second fsync may report success although data is gone. A ManifestPlan that fails otherwise has changed
nothing; ``failed`` says so to the engine, which offers the same work again.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from respkv.base.errors import RespkvError, StorageFull
from respkv.env.fs import AppendFile, FileSystem
from respkv.storage.block_cache import BlockCache
from respkv.storage.identity import UNNAMED, encode_identity, make_directory, parent_of
from respkv.storage.manifest import ManifestLog, encode_current, write_manifest
from respkv.storage.quarantine import open_table
from respkv.storage.sstable.reader import TableReader
from respkv.storage.version import Edit, Version, table_path
from respkv.storage.wal import FatalStorageError, is_disk_full

_UNFINISHED: Final = ".tmp"


@dataclass(slots=True)
class SyncPlan:
    """Make the log durable up to ``lsn``, and close the segments that are complete. At most one is under way at a time.

    A segment may be removed by name by then: closing it frees its pages, which takes milliseconds.
    """

    fs: FileSystem
    lsn: int
    closed: tuple[AppendFile, ...]
    current: AppendFile
    directory: str | None
    names_made: int
    appended_bytes: int

    def run(self) -> None:
        """fdatasync every file, oldest first, then the directory if names are new."""
        try:
            for file in (*self.closed, self.current):
                file.sync()
            if self.directory is not None:
                self.fs.sync_dir(self.directory)
            for file in self.closed:
                file.close()
        except OSError as error:
            raise FatalStorageError(f"log sync failed: {error}") from error


@dataclass(slots=True)
class ManifestPlan:
    """Make edits durable, open the tables they add, remove files that earlier edits dropped."""

    fs: FileSystem
    directory: str
    manifest: ManifestLog
    cache: BlockCache
    edits: list[Edit]
    version: Version
    removals: list[str]
    on_failed: Callable[[ManifestPlan, Exception], None]
    opened: dict[int, TableReader] = field(default_factory=dict)

    def run(self) -> None:
        """Do it all. Raises FatalStorageError; what else it raises is no end:

        StorageFull, CorruptionError when a new table cannot be opened, other OSErrors: the manifest is
        untouched, hand the exception to ``failed``. A dropped file that cannot be removed now is left for later.
        """
        if self.edits:
            try:
                self._open_tables()
                self._sync_names()
                self.manifest.append(self.edits, self.version)
            except OSError as error:
                if is_disk_full(error):
                    raise StorageFull(f"manifest update failed: {error}") from error
                raise
        self.removals = [path for path in self.removals if not self._remove(path)]

    def failed(self, error: Exception) -> None:
        """``run`` has raised ``error``, which was not fatal: tell the engine, on its thread, in ``on_*``'s place."""
        assert isinstance(error, OSError | RespkvError) and not isinstance(error, FatalStorageError)
        self.on_failed(self, error)

    def _sync_names(self) -> None:
        """The edit may say that an older log is not needed any more, so the newer one's name and the new tables'
        names must outlive a crash first."""
        try:
            self.fs.sync_dir(f"{self.directory}/wal")
            self.fs.sync_dir(f"{self.directory}/tables")
        except OSError as error:
            raise FatalStorageError(f"{self.directory}: sync failed: {error}") from error

    def _remove(self, path: str) -> bool:
        try:
            if self.fs.exists(path):
                self.fs.remove(path)
        except OSError:
            return False
        return True

    def _open_tables(self) -> None:
        kept = {table.file_id for table in self.version.tables()}
        for edit in self.edits:
            for run in edit.add:
                for table in run.tables:
                    if table.file_id in kept:
                        path = table_path(self.directory, table.file_id)
                        self.opened[table.file_id] = open_table(self.fs, path, table, self.cache)


@dataclass(slots=True)
class SnapshotPlan:
    """A copy of the store as of ``lsn``, made of hard links.

    ``run`` may be called once ``ready`` is true: when every entry up to ``lsn`` is in tables. The result at
    ``path`` opens as a data directory; its identity is left open, so that it comes up as a new node.
    """

    fs: FileSystem
    directory: str
    path: str
    lsn: int
    version: Version | None = None

    @property
    def ready(self) -> bool:
        return self.version is not None

    def run(self) -> int:
        """Link the tables and write the manifest; how many tables. FileExistsError when ``path`` exists.

        The directory appears under its name only when it is complete and durable.
        """
        assert self.version is not None, "the flush before a snapshot has not ended"
        fs, target = self.fs, self.path + _UNFINISHED
        if fs.exists(self.path):
            raise FileExistsError(self.path)
        make_directory(fs, parent_of(self.path))
        remove_unfinished(fs, parent_of(self.path))
        remove_tree(fs, target)
        try:
            count = self._make(self.version, target)
            fs.rename(target, self.path)
        except (OSError, RespkvError):
            # Its links would keep every table of this moment, long after compaction has dropped them.
            with suppress(OSError):
                remove_tree(fs, target)
            raise
        fs.sync_dir(parent_of(self.path))
        return count

    def _make(self, version: Version, target: str) -> int:
        """Everything in the new directory ``target``, durable; how many tables."""
        fs = self.fs
        fs.mkdir(f"{target}/tables")
        fs.mkdir(f"{target}/wal")
        count = 0
        for table in version.tables():
            source = table_path(self.directory, table.file_id)
            if table.file_id not in version.quarantine or fs.exists(source):
                fs.link(source, table_path(target, table.file_id))
                count += 1
        fs.sync_dir(f"{target}/tables")
        fs.sync_dir(f"{target}/wal")
        write_manifest(fs, target, 1, version.snapshot_edit(log_number=0), 0).file.close()
        fs.write_file(f"{target}/IDENTITY", encode_identity(UNNAMED))
        fs.write_file(f"{target}/CURRENT", encode_current(1))
        fs.sync_dir(target)
        return count


def remove_unfinished(fs: FileSystem, directory: str) -> list[str]:
    """Remove what snapshots that were cut short have left in ``directory``; the OSErrors in words, with their paths."""
    try:
        names = fs.listdir(directory) if fs.exists(directory) else []
    except OSError as error:
        return [f"{directory}: {error.strerror}"]
    unfinished = [name for name in names if name.removesuffix(_UNFINISHED).isdigit() and not name.isdigit()]
    return [problem for name in unfinished for problem in try_to_remove(fs, f"{directory}/{name}")]


def try_to_remove(fs: FileSystem, path: str) -> list[str]:
    """``remove_tree``; the OSError that ended it, if one did, in words and with its path."""
    try:
        remove_tree(fs, path)
    except OSError as error:
        return [f"{error.filename or path}: {error.strerror}"]
    return []


def remove_tree(fs: FileSystem, path: str) -> None:
    """Remove a directory of files and directories; nothing if it is not there."""
    if not fs.exists(path):
        return
    for name in fs.listdir(path):
        child = f"{path}/{name}"
        try:
            fs.remove(child)
        except (IsADirectoryError, PermissionError):
            remove_tree(fs, child)
    fs.rmdir(path)
