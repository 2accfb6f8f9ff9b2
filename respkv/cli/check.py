"""``respkv-check DIR``: read and verify every file of a data directory, and change nothing.

Identity, manifest, every table in full, the log by the rules of recovery, and each snapshot below. It says
what is wrong where, and which tables the server has quarantined. Exit status 0: all is well; 1: damage, or it could
not be checked.
A directory that a server has open is refused: its files change while they are read.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from typing import Final

import respkv
from respkv.base.errors import CorruptionError, FormatError, RespkvError
from respkv.env.fs import FileSystem
from respkv.env.posix import PosixFileSystem
from respkv.storage.block_cache import BlockCache
from respkv.storage.identity import read_identity
from respkv.storage.manifest import read_current, read_manifest
from respkv.storage.sstable.format import TableMeta
from respkv.storage.sstable.reader import TableReader
from respkv.storage.version import Version, table_path
from respkv.storage.wal import BATCH, SEGMENT_MAGIC, LogRecord, replay, segment_id
from respkv.storage.write_batch import iterate_payload

USAGE: Final = """\
Usage: respkv-check [--quiet] DIR
       respkv-check -v or --version

Verifies every file of the data directory DIR, of a server that is not running, and changes nothing.
"""

Say = Callable[[str], None]


class Checker:
    """Checks one directory; ``problems`` are the findings, in words."""

    def __init__(self, fs: FileSystem, directory: str, say: Say) -> None:
        self.fs = fs
        self.directory = directory
        self.say = say
        self.problems: list[str] = []
        self.tables = self.table_bytes = self.records = self.entries = self.dropped_bytes = self.quarantined = 0

    def run(self) -> None:
        """Check everything; goes on after a finding as far as that makes sense."""
        try:
            if read_identity(self.fs, self.directory) is None:
                self._found(f"{self.directory}: no IDENTITY: this is not a respkv data directory")
                return
            number = read_current(self.fs, self.directory)
            version = Version() if number is None else read_manifest(self.fs, self.directory, number).version
        except (RespkvError, OSError) as error:
            self._found(str(error))
            return
        self.say(f"manifest: {len(version.runs)} runs, log from segment {version.log_number}")
        for table in version.tables():
            self._check_table(table, version.quarantine.get(table.file_id))
        self._check_log(version)

    def _found(self, problem: str) -> None:
        self.problems.append(problem)
        self.say(f"DAMAGED {problem}")

    def _check_table(self, meta: TableMeta, marked: str | None) -> None:
        """``marked`` is why the server has quarantined the table, None when it has not."""
        path = table_path(self.directory, meta.file_id)
        try:
            reader = TableReader(self.fs, path, meta, BlockCache(0))
            try:
                reader.verify()
            finally:
                reader.close()
        except FileNotFoundError:
            self._table_damaged(f"{path}: the manifest names it, but it is not there", meta, marked)
            return
        except (CorruptionError, FormatError, OSError) as error:
            self._table_damaged(str(error), meta, marked)
            return
        self.tables += 1
        self.table_bytes += meta.size
        again = "" if marked is None else " again: it was quarantined, and the next start takes it back"
        self.say(f"table {path}: {meta.entries} entries, {meta.size} bytes: good{again}")

    def _table_damaged(self, problem: str, meta: TableMeta, marked: str | None) -> None:
        self._found(problem)
        self.say(f"  its {meta.entries} entries lie between {meta.smallest.hex()} and {meta.largest.hex()}")
        if marked is not None:
            self.quarantined += 1
            self.say(f"  the server has quarantined it: {marked}")

    def _check_log(self, version: Version) -> None:
        """The log by the rules that a start follows: a torn tail is no damage, missing durable data is."""
        wal = f"{self.directory}/wal"
        names = self.fs.listdir(wal) if self.fs.exists(wal) else []
        found = sorted(
            (file_id, f"{wal}/{name}") for name in names if (file_id := segment_id(name)) is not None
        )
        files = [(file_id, path) for file_id, path in found if file_id >= version.log_number]
        if version.log_number and (not files or files[0][0] != version.log_number):
            self._found(f"{wal}: segment {version.log_number}, which the manifest names, is not there")
            return
        try:
            result = replay(
                self.fs,
                files,
                SEGMENT_MAGIC,
                version.log_lsn,
                self._take,
                known_durable_lsn=version.durable_lsn,
            )
        except (RespkvError, OSError, ValueError) as error:
            self._found(str(error))
            return
        self.records, self.dropped_bytes = result.records, result.dropped_bytes
        self.say(f"log: {result.records} records up to lsn {result.last_lsn}: good")
        if result.dropped_bytes:
            self.say(
                f"log: {result.dropped_bytes} bytes of a torn tail, never promised to anyone, will be dropped"
            )

    def _take(self, record: LogRecord) -> None:
        if record.kind == BATCH:
            self.entries += sum(1 for _ in iterate_payload(record.payload))

    def summary(self) -> str:
        """One line."""
        if self.problems:
            return f"{self.directory}: {len(self.problems)} problems found, {self.quarantined} tables quarantined"
        return (
            f"{self.directory}: all good: {self.tables} tables with {self.table_bytes} bytes,"
            f" {self.records} log records with {self.entries} entries"
        )


def check(fs: FileSystem, directory: str, say: Say) -> bool:
    """Check the directory and its snapshots; True when all is well."""
    lock = None
    if fs.exists(f"{directory}/LOCK"):
        lock = fs.lock(f"{directory}/LOCK")
        if lock is None:
            say(f"{directory}: a server has it open; its files change while they are read, so stop it first")
            return False
    try:
        good = True
        snapshots = f"{directory}/snapshots"
        names = fs.listdir(snapshots) if fs.exists(snapshots) else []
        for path in (directory, *(f"{snapshots}/{name}" for name in names if not name.endswith(".tmp"))):
            checker = Checker(fs, path, say)
            checker.run()
            say(checker.summary())
            good = good and not checker.problems
        return good
    finally:
        if lock is not None:
            lock.close()


def main(arguments: Sequence[str] | None = None) -> int:
    """Check the directory that is named; the exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given in (["-v"], ["--version"]):
        print(f"respkv-check {respkv.__version__}")
        return 0
    quiet = "--quiet" in given
    paths = [argument for argument in given if argument != "--quiet"]
    if len(paths) != 1 or paths[0].startswith("-"):
        sys.stderr.write(USAGE)
        return 1
    if not os.path.isdir(paths[0]):
        sys.stderr.write(f"{paths[0]}: not a directory\n")
        return 1

    def say(text: str) -> None:
        if not quiet or "good" not in text:
            print(text, flush=True)

    return 0 if check(PosixFileSystem(), paths[0].rstrip("/") or "/", say) else 1


if __name__ == "__main__":
    sys.exit(main())
