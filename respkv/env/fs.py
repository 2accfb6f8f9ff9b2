"""The file system as a narrow protocol.

Paths are ``str``. Every call may raise ``OSError``; running out of space shows as
``OSError(ENOSPC)`` here and becomes ``StorageFull`` in ``storage``. What survives a crash is only what was
synced: file contents by ``AppendFile.sync``, names (create, rename, remove, link) by ``sync_dir`` of
the directory that holds them.
"""

from __future__ import annotations

from typing import Protocol


class AppendFile(Protocol):
    """A file written from front to back."""

    path: str

    def write(self, data: bytes) -> None:
        """Append all of ``data`` (loops over short writes)."""

    def reserve(self, size: int) -> None:
        """Have at least ``size`` bytes of the file on disk, zeros behind its end; with an error it is as before."""

    def sync(self) -> None:
        """fdatasync. After a failure the contents are unknown: the caller must stop the process."""

    def tell(self) -> int:
        """Bytes written so far, the offset of the next write."""

    def close(self) -> None: ...


class ReadFile(Protocol):
    """A file read at offsets; safe to use from several threads."""

    path: str

    def pread(self, size: int, offset: int) -> bytes:
        """Up to ``size`` bytes at ``offset``; shorter only at the end of the file."""

    def pread_nowait(self, size: int, offset: int) -> bytes | None:
        """As ``pread`` when the page cache holds the bytes, else None; never waits for the disk."""

    def data_ranges(self) -> list[tuple[int, int]]:
        """(start, end) of the parts that may hold other bytes than zeros, ascending.

        Space that was reserved and never written is left out without being read. Ask before the first read: what
        was read, or read ahead, may count as data afterwards.
        """

    def size(self) -> int: ...

    def close(self) -> None: ...


class FileLock(Protocol):
    """An exclusive lock on a file, held until ``close``."""

    def close(self) -> None: ...


class FileSystem(Protocol):
    """All that the storage engine asks of a disk."""

    def create(self, path: str, preallocate: int = 0) -> AppendFile:
        """A new file, open for appending at offset 0; FileExistsError if it exists.

        With ``preallocate`` the file has that many zero bytes on disk from the start, so that
        appending to it cannot run out of space; writing goes over the zeros.
        """

    def open_append(self, path: str, offset: int) -> AppendFile:
        """An existing file, to be written on from ``offset``."""

    def open_read(self, path: str) -> ReadFile: ...

    def read_all(self, path: str) -> bytes: ...

    def write_file(self, path: str, data: bytes) -> None:
        """Create or replace ``path`` with ``data`` and sync the file (not its directory)."""

    def rename(self, source: str, target: str) -> None: ...

    def link(self, source: str, target: str) -> None:
        """A second name for the same file."""

    def remove(self, path: str) -> None: ...

    def exists(self, path: str) -> bool: ...

    def size(self, path: str) -> int: ...

    def listdir(self, path: str) -> list[str]:
        """Names in the directory, sorted."""

    def mkdir(self, path: str) -> None:
        """Make the directory and its parents; nothing if it exists."""

    def rmdir(self, path: str) -> None:
        """Remove an empty directory."""

    def sync_dir(self, path: str) -> None: ...

    def truncate(self, path: str, size: int) -> None: ...

    def free_bytes(self, path: str) -> int:
        """Space left for us on the disk that holds ``path``."""

    def lock(self, path: str) -> FileLock | None:
        """Take the exclusive lock of the file ``path`` (created if missing); None if another holds it."""
