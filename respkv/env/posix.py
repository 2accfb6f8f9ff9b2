"""The real clock and the real file system."""

from __future__ import annotations

import errno
import fcntl
import os
import time
from typing import Final

from respkv.env.fs import AppendFile, FileLock, ReadFile

_RWF_NOWAIT: Final = getattr(os, "RWF_NOWAIT", 0)
_STEADY: Final = getattr(time, "CLOCK_MONOTONIC_RAW", time.CLOCK_MONOTONIC)


class SystemClock:
    """CLOCK_MONOTONIC, CLOCK_MONOTONIC_RAW and CLOCK_REALTIME."""

    __slots__ = ()

    def monotonic_us(self) -> int:
        return time.monotonic_ns() // 1000

    def steady_us(self) -> int:
        return time.clock_gettime_ns(_STEADY) // 1000

    def wall_us(self) -> int:
        return time.time_ns() // 1000


class PosixAppendFile:
    """An append-only view of a file descriptor, at an offset of its own."""

    __slots__ = ("_fd", "_offset", "path")

    def __init__(self, path: str, fd: int, offset: int) -> None:
        self.path = path
        self._fd = fd
        self._offset = offset

    def write(self, data: bytes) -> None:
        fd, offset = self._fd, self._offset
        written = os.pwrite(fd, data, offset)
        if written != len(data):
            view = memoryview(data)
            while written < len(data):
                written += os.pwrite(fd, view[written:], offset + written)
        self._offset = offset + len(data)

    def reserve(self, size: int) -> None:
        end = os.fstat(self._fd).st_size
        if size > end:
            try:
                os.posix_fallocate(self._fd, end, size - end)
            except OSError:
                os.ftruncate(self._fd, end)
                raise

    def sync(self) -> None:
        os.fdatasync(self._fd)

    def tell(self) -> int:
        return self._offset

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class PosixReadFile:
    """A read-only descriptor. ``pread_nowait`` falls back to reading in place where the file
    system does not know RWF_NOWAIT; ``waits`` then says so."""

    __slots__ = ("_fd", "path", "waits")

    def __init__(self, path: str) -> None:
        self.path = path
        self._fd = -1
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self.waits = _RWF_NOWAIT == 0

    def pread(self, size: int, offset: int) -> bytes:
        data = os.pread(self._fd, size, offset)
        while len(data) < size:
            more = os.pread(self._fd, size - len(data), offset + len(data))
            if not more:
                break
            data += more
        return data

    def pread_nowait(self, size: int, offset: int) -> bytes | None:
        if self.waits:
            return self.pread(size, offset)
        buffer = bytearray(size)
        try:
            count = os.preadv(self._fd, [buffer], offset, _RWF_NOWAIT)
        except BlockingIOError:
            return None
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
                raise
            self.waits = True
            return self.pread(size, offset)
        if count < size:
            return None  # partly cached, or the end of the file: let the waiting read tell
        return bytes(buffer)

    def data_ranges(self) -> list[tuple[int, int]]:
        found: list[tuple[int, int]] = []
        end, size = 0, self.size()
        try:
            while end < size:
                start = os.lseek(self._fd, end, os.SEEK_DATA)
                end = os.lseek(self._fd, start, os.SEEK_HOLE)
                found.append((start, end))
        except OSError as error:
            if error.errno != errno.ENXIO:  # only zeros follow; anything else: a file system that cannot tell
                return [(0, size)]
        return found

    def size(self) -> int:
        return os.fstat(self._fd).st_size

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __del__(self) -> None:
        self.close()


class PosixLock:
    """flock on a file; released when the process ends, however it ends."""

    __slots__ = ("_fd",)

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def close(self) -> None:
        os.close(self._fd)


class PosixFileSystem:
    """The operating system's files."""

    __slots__ = ()

    def create(self, path: str, preallocate: int = 0) -> AppendFile:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640)
        if preallocate:
            try:
                os.posix_fallocate(fd, 0, preallocate)
            except OSError:
                os.close(fd)
                os.unlink(path)
                raise
        return PosixAppendFile(path, fd, 0)

    def open_append(self, path: str, offset: int) -> AppendFile:
        return PosixAppendFile(path, os.open(path, os.O_WRONLY | os.O_CLOEXEC), offset)

    def open_read(self, path: str) -> ReadFile:
        return PosixReadFile(path)

    def read_all(self, path: str) -> bytes:
        with open(path, "rb") as file:
            return file.read()

    def write_file(self, path: str, data: bytes) -> None:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o640)
        file = PosixAppendFile(path, fd, 0)
        try:
            file.write(data)
            os.fsync(fd)
        finally:
            file.close()

    def rename(self, source: str, target: str) -> None:
        os.rename(source, target)

    def link(self, source: str, target: str) -> None:
        os.link(source, target)

    def remove(self, path: str) -> None:
        os.unlink(path)

    def exists(self, path: str) -> bool:
        return os.path.exists(path)

    def size(self, path: str) -> int:
        return os.stat(path).st_size

    def listdir(self, path: str) -> list[str]:
        return sorted(os.listdir(path))

    def mkdir(self, path: str) -> None:
        os.makedirs(path, mode=0o750, exist_ok=True)

    def rmdir(self, path: str) -> None:
        os.rmdir(path)

    def sync_dir(self, path: str) -> None:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def truncate(self, path: str, size: int) -> None:
        os.truncate(path, size)

    def free_bytes(self, path: str) -> int:
        stat = os.statvfs(path)
        return stat.f_bavail * stat.f_frsize

    def lock(self, path: str) -> FileLock | None:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return None
        return PosixLock(fd)


def sleep_us(duration_us: int) -> None:
    """Block this process for so long; only for processes and threads that have nothing else to do."""
    time.sleep(duration_us / 1e6)
