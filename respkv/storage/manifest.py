"""The manifest: the durable history of versions, and CURRENT, which names the manifest in force.

``MANIFEST-<n>`` is a log file (see ``wal``) of EDIT records, whose payload is one edit as JSON (ASCII, keys
sorted, byte strings in hex); its first edit is ``full`` and starts from nothing. A MARK follows edits once they are
synced. ``CURRENT`` is two lines: the manifest's file name, and the 16 hex digits of xxh3_64 over the first line with
its newline.

A manifest is replaced, never shortened: the new one is written and synced, the directory synced, then
CURRENT replaced by rename and the directory synced again. Opening a directory always begins a new manifest,
so an edit that was read but perhaps never synced becomes certain before anything is deleted for its sake.
"""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Final, NamedTuple

from respkv.base.coding import checksum
from respkv.base.errors import CorruptionError, FormatError
from respkv.env.fs import FileSystem
from respkv.storage.version import Edit, Version
from respkv.storage.wal import (
    EDIT,
    MANIFEST_MAGIC,
    FatalStorageError,
    LogHeader,
    LogRecord,
    LogWriter,
    replay,
)

#: A manifest longer than this is rewritten. It is given a quarter more, so that edits go on on a full disk.
REWRITE_BYTES: Final = 4 << 20


class ManifestState(NamedTuple):
    """What a directory's manifest says. ``number`` is n of MANIFEST-n; ``dropped_bytes`` behind the last valid edit
    were left out as a torn tail."""

    number: int
    version: Version
    edits: int
    dropped_bytes: int


def manifest_path(directory: str, number: int) -> str:
    return f"{directory}/MANIFEST-{number:06d}"


def manifest_number(name: str) -> int | None:
    """n of a file name MANIFEST-n, None for other names."""
    head, dash, digits = name.partition("-")
    return int(digits) if head == "MANIFEST" and dash and digits.isdecimal() else None


def encode_edit(edit: Edit) -> bytes:
    """The payload of an EDIT record."""
    return json.dumps(edit.to_json(), sort_keys=True, separators=(",", ":")).encode("ascii")


def decode_edit(payload: bytes) -> Edit:
    """The edit in ``payload``. FormatError when it is none that this program knows."""
    try:
        return Edit.from_json(json.loads(payload))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise FormatError(f"manifest edit not understood: {error}") from error


def encode_current(number: int) -> bytes:
    """The contents of CURRENT."""
    line = f"MANIFEST-{number:06d}\n".encode()
    return line + f"{checksum(line):016x}\n".encode()


def read_current(fs: FileSystem, directory: str) -> int | None:
    """The number of the manifest in force, None when there is no CURRENT. FormatError when it is not ours."""
    path = f"{directory}/CURRENT"
    if not fs.exists(path):
        return None
    line, _, rest = fs.read_all(path).partition(b"\n")
    number = manifest_number(line.decode("latin-1"))
    if number is None:
        raise FormatError(f"{path}: not written by respkv; name an empty directory with --dir")
    if line + b"\n" + rest != encode_current(number):
        raise CorruptionError(path, 0, "checksum mismatch")
    return number


def read_manifest(fs: FileSystem, directory: str, number: int) -> ManifestState:
    """Replay MANIFEST-``number``. CorruptionError when it is damaged or missing, FormatError when too new."""
    path = manifest_path(directory, number)
    if not fs.exists(path):
        raise CorruptionError(path, 0, "CURRENT names a manifest that is not there")
    version: Version | None = None

    def take(record: LogRecord) -> None:
        nonlocal version
        edit = decode_edit(record.payload)
        if version is None and not edit.full:
            raise CorruptionError(path, record.offset, "the first edit is not a full one")
        try:
            version = (version or Version()).apply(edit)
        except ValueError as error:
            raise CorruptionError(path, record.offset, str(error)) from error

    result = replay(fs, [(number, path)], MANIFEST_MAGIC, 0, take)
    if version is None:
        # CURRENT was switched only after this manifest had been synced, so it cannot be merely torn.
        raise CorruptionError(path, 0, "no valid edit in the manifest that CURRENT names")
    return ManifestState(number, version, result.records, result.dropped_bytes)


class ManifestLog:
    """The manifest in force, open for appending. Its methods block and may run in a thread, one at a time."""

    __slots__ = ("_directory", "_fs", "_log", "_rewrite_bytes", "number")

    def __init__(
        self,
        fs: FileSystem,
        directory: str,
        number: int,
        version: Version,
        *,
        rewrite_bytes: int = REWRITE_BYTES,
    ) -> None:
        """Write and sync MANIFEST-``number`` with ``version`` in it and make it the one in force."""
        self._fs = fs
        self._directory = directory
        self._rewrite_bytes = rewrite_bytes
        self.number = number
        self._log = self._begin(number, version)

    def append(self, edits: list[Edit], version: Version) -> int:
        """Make ``edits`` durable, ``version`` being their result; bytes written.

        OSError: nothing of them was written, it may be tried again. FatalStorageError: a sync failed, nobody
        knows what is on disk. A manifest over its limit is replaced by a new one that holds ``version`` alone; when
        that cannot be made (the disk is full), the old one goes on in the space it was given at the start.
        """
        if self._log.offset > self._rewrite_bytes:
            try:
                log = self._begin(self.number + 1, version)
            except OSError:
                self._remove_unused(self.number + 1)
            else:
                old, self._log = self._log, log
                self.number += 1
                # In force already: an old manifest that cannot be cleared away is an orphan for the next start.
                with suppress(OSError):
                    old.file.close()
                    self._fs.remove(old.path)
                return log.offset
        before, durable = self._log.offset, self._log.last_lsn
        # Durable are the edits of earlier calls; those of this one are synced together, below.
        self._log.append_all(EDIT, [encode_edit(edit) for edit in edits], durable)
        try:
            self._log.file.sync()
        except OSError as error:
            raise FatalStorageError(f"{self._log.path}: sync failed: {error}") from error
        # In force now. Without the mark, damage to the last edit could not be told from a torn tail.
        with suppress(FatalStorageError):
            self._log.append_mark(self._log.last_lsn)
        return self._log.offset - before

    def size(self) -> int:
        return self._log.offset

    def close(self) -> None:
        self._log.file.close()

    def _begin(self, number: int, version: Version) -> LogWriter:
        room = self._rewrite_bytes + self._rewrite_bytes // 4
        log = write_manifest(self._fs, self._directory, number, version.snapshot_edit(), room)
        replace_file(self._fs, self._directory, "CURRENT", encode_current(number))
        return log

    def _remove_unused(self, number: int) -> None:
        """Clear away what a failed rewrite left, unless CURRENT may already name it."""
        path = manifest_path(self._directory, number)
        if read_current(self._fs, self._directory) == number:
            raise FatalStorageError(f"{path}: in force, but not known to be durable")
        if self._fs.exists(path):
            self._fs.remove(path)


def write_manifest(fs: FileSystem, directory: str, number: int, edit: Edit, preallocate: int) -> LogWriter:
    """Create MANIFEST-``number`` with one edit, synced with its directory. OSError: remove it to try again.

    A sync that fails here is no more than that: nothing refers to the file yet.
    """
    path = manifest_path(directory, number)
    log = LogWriter(fs, path, MANIFEST_MAGIC, LogHeader(number, 0, 0, 0), preallocate=preallocate)
    try:
        log.append(EDIT, encode_edit(edit), 0)
        log.file.sync()
        fs.sync_dir(directory)
    except OSError:
        log.file.close()
        raise
    return log


def replace_file(fs: FileSystem, directory: str, name: str, data: bytes) -> None:
    """Put ``data`` under ``name`` so that a crash leaves the old contents or the new."""
    fs.write_file(f"{directory}/{name}.tmp", data)
    fs.rename(f"{directory}/{name}.tmp", f"{directory}/{name}")
    fs.sync_dir(directory)
