"""A disk in memory that forgets what was not synced, fills up, fails, and rots, as real ones do.

``SimulatedFileSystem`` keeps the contract of ``env.fs.FileSystem`` and, beside what a program sees now, what
would be found after a loss of power. Sources: Pillai et al., "All File Systems Are Not Created Equal"
(ALICE, 2014); Rebello et al. on fsync failures (2020).

Model: a file is an inode with its bytes now and its durable bytes, and the ranges that differ. Zeros at its end take
no memory: files are given far more space than tests fill. ``sync`` makes the bytes durable. A change of names
(create, link, rename, remove, mkdir) is a step that becomes durable when the directory of a name it touches is
synced. ``crash(rng)`` gives the disk after a loss of power: of the steps not synced any subset has happened (a rename
is one step), and of the 512-byte sectors not synced any subset has reached the disk; the length lies anywhere between
the durable and the latest. The disk before is left as it is, so one moment can crash in many ways.

Switches: ``capacity`` (ENOSPC beyond), ``fail_syncs`` (EIO), ``drop_syncs`` (a control: fsync lies), ``fuse``
(power fails at the n-th change), ``cold`` (``pread_nowait`` misses until the bytes were read once).
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from respkv.env.fs import AppendFile, FileLock, ReadFile
from respkv.env.rng import Rng

SECTOR: Final = 512
_PAGE: Final = 4096


class PowerLoss(BaseException):
    """The fuse blew: whatever was under way ends here. No handler for errors may catch it."""


class Inode:
    """A file's bytes now and after a crash. ``dirty`` are the ranges written since the last sync.

    ``data`` and ``durable`` end where only zeros follow, or later; ``size`` and ``durable_size`` are the real lengths.
    """

    __slots__ = ("data", "dirty", "durable", "durable_size", "size", "warm")

    def __init__(self, data: bytes | bytearray = b"", size: int = 0) -> None:
        self.data = bytearray(data)
        self.durable = bytearray(data)
        self.size = self.durable_size = max(size, len(data))
        self.dirty: list[tuple[int, int]] = []
        self.warm: dict[int, None] = {}

    def read(self, start: int, end: int) -> bytes:
        """The bytes of a range, as far as the file goes."""
        found = bytes(self.data[start:end])
        return found.ljust(min(end, self.size) - start, b"\0")

    def write(self, data: bytes, offset: int) -> None:
        end = offset + len(data)
        _put(self.data, offset, data)
        self.size = max(self.size, end)
        self.dirty.append((offset, end))

    def extend(self, size: int) -> None:
        """Zeros up to ``size``."""
        self.dirty.append((self.size, size))
        self.size = size

    def resize(self, size: int) -> None:
        """Cut, or add zeros, without a word in ``dirty``."""
        del self.data[size:]
        self.size = size

    def flip(self, offset: int, bit: int) -> None:
        """One bit changes, durably."""
        if offset >= self.size:
            raise IndexError(offset)
        byte = bytes([self.read(offset, offset + 1)[0] ^ 1 << bit])
        _put(self.data, offset, byte)
        if offset < self.durable_size:
            _put(self.durable, offset, byte)

    def sync(self) -> None:
        del self.durable[self.size :]
        self.durable_size = self.size
        for start, end in self.dirty:
            self._copy(self.durable, start, min(end, self.size))
        self.dirty.clear()

    def after_crash(self, rng: Rng) -> Inode:
        """The file as it may be found after a loss of power."""
        low, high = sorted((self.durable_size, self.size))
        size = rng.choice((low, high, rng.randint(low, high)))
        result = self.durable[:size]
        sectors = {at: None for start, end in self.dirty for at in range(start // SECTOR, -(-end // SECTOR))}
        keep = rng.choice((0.0, 0.5, 0.9, 1.0))
        for sector in sorted(sectors):
            if rng.random() < keep:
                start = sector * SECTOR
                self._copy(result, start, min(start + SECTOR, size, self.size))
        return Inode(result, size)

    def _copy(self, target: bytearray, start: int, end: int) -> None:
        """Make a range of ``target``, which too ends where only zeros follow, what it is in ``data``."""
        data = self.data[start:end]
        if data:
            _put(target, start, data)
        zeros = min(end, len(target)) - start - len(data)
        if zeros > 0:
            target[start + len(data) : start + len(data) + zeros] = bytes(zeros)


def _put(target: bytearray, offset: int, data: bytes | bytearray) -> None:
    if offset > len(target):
        target.extend(bytes(offset - len(target)))
    target[offset : offset + len(data)] = data


#: One step on names: path -> new inode, or None to take the name away. Directories are marked by True.
_Target = Inode | bool | None


@dataclass(slots=True)
class _Step:
    changes: dict[str, _Target]


def _parent(path: str) -> str:
    return path.rpartition("/")[0] or "/"


def _missing(path: str) -> FileNotFoundError:
    return FileNotFoundError(errno.ENOENT, "no such file or directory", path)


class SimulatedFileSystem:
    """See the module's docstring. Single-threaded."""

    def __init__(self, *, capacity: int | None = None) -> None:
        self.capacity = capacity
        self.fail_syncs: Callable[[str], bool] = lambda path: False
        self.drop_syncs: Callable[[str], bool] = lambda path: False
        self.fuse: int | None = None
        self.cold: Rng | None = None
        self.changes = 0
        self.syncs = 0
        self._names: dict[str, Inode | bool] = {"/": True}
        self._durable: dict[str, Inode | bool] = {"/": True}
        self._steps: list[_Step] = []
        self._locked: dict[str, None] = {}

    # What tests do to it

    def crash(self, rng: Rng) -> SimulatedFileSystem:
        """The disk found after power was lost now. This one stays as it is."""
        names = dict(self._durable)
        for step in self._steps:
            if rng.random() < 0.5:
                _apply(names, step)
        found = SimulatedFileSystem(capacity=self.capacity)
        inodes: dict[int, Inode] = {}
        for path in sorted(names):
            target = names[path]
            if path != "/" and found._names.get(_parent(path)) is not True:
                continue  # Its directory's own name was lost.
            if isinstance(target, Inode):
                if id(target) not in inodes:
                    inodes[id(target)] = target.after_crash(rng)
                target = inodes[id(target)]
            found._names[path] = target
        found._durable = dict(found._names)
        return found

    def copy(self) -> SimulatedFileSystem:
        """The same files with everything durable: what a killed process leaves on a machine that goes on."""
        found = SimulatedFileSystem(capacity=self.capacity)
        copies: dict[int, Inode] = {}
        for path, target in self._names.items():
            if isinstance(target, Inode):
                target = copies.setdefault(id(target), Inode(target.data, target.size))
            found._names[path] = target
        found._durable = dict(found._names)
        return found

    def flip(self, path: str, offset: int, bit: int) -> None:
        """Rot: one bit of a file changes, durably."""
        self._inode(path).flip(offset, bit)

    def used(self) -> int:
        """Bytes of all files."""
        seen = {id(inode): inode.size for inode in self._names.values() if isinstance(inode, Inode)}
        return sum(seen.values())

    def drop_page_cache(self) -> None:
        """Make every ``pread_nowait`` miss again, where ``cold`` is set."""
        for inode in self._names.values():
            if isinstance(inode, Inode):
                inode.warm.clear()

    # FileSystem

    def create(self, path: str, preallocate: int = 0) -> AppendFile:
        if path in self._names:
            raise FileExistsError(errno.EEXIST, "file exists", path)
        self._need(preallocate, path)
        inode = Inode()
        inode.resize(preallocate)
        self._step({path: inode})
        return SimulatedAppendFile(self, path, inode, 0)

    def open_append(self, path: str, offset: int) -> AppendFile:
        return SimulatedAppendFile(self, path, self._inode(path), offset)

    def open_read(self, path: str) -> ReadFile:
        return SimulatedReadFile(self, path, self._inode(path))

    def read_all(self, path: str) -> bytes:
        inode = self._inode(path)
        return inode.read(0, inode.size)

    def write_file(self, path: str, data: bytes) -> None:
        target = self._names.get(path)
        if target is True:
            raise IsADirectoryError(errno.EISDIR, "is a directory", path)
        if not isinstance(target, Inode):
            target = Inode()
            self._step({path: target})
        self._need(len(data) - target.size, path)
        target.resize(0)
        self.write_inode(path, target, data, 0)
        self.sync_inode(path, target)

    def rename(self, source: str, target: str) -> None:
        if source not in self._names:
            raise _missing(source)
        changes: dict[str, _Target] = {source: None, target: self._names[source]}
        if self._names[source] is True:
            for path, inode in self._names.items():
                if path.startswith(source + "/"):
                    changes[path] = None
                    changes[target + path[len(source) :]] = inode
        self._step(changes)

    def link(self, source: str, target: str) -> None:
        if target in self._names:
            raise FileExistsError(errno.EEXIST, "file exists", target)
        self._step({target: self._inode(source)})

    def remove(self, path: str) -> None:
        self._inode(path)
        self._step({path: None})

    def exists(self, path: str) -> bool:
        return path in self._names

    def size(self, path: str) -> int:
        return self._inode(path).size

    def listdir(self, path: str) -> list[str]:
        if self._names.get(path) is not True:
            raise _missing(path)
        prefix = path.rstrip("/") + "/"
        return sorted(
            name[len(prefix) :]
            for name in self._names
            if name.startswith(prefix) and name != prefix and "/" not in name[len(prefix) :]
        )

    def mkdir(self, path: str) -> None:
        target = self._names.get(path)
        if target is True:
            return
        if target is not None:
            raise FileExistsError(errno.EEXIST, "file exists", path)
        self.mkdir(_parent(path))
        self._step({path: True})

    def rmdir(self, path: str) -> None:
        if self.listdir(path):
            raise OSError(errno.ENOTEMPTY, "directory not empty", path)
        self._step({path: None})

    def sync_dir(self, path: str) -> None:
        if self._names.get(path) is not True:
            raise _missing(path)
        self._changing()
        self.syncs += 1
        if self.fail_syncs(path):
            raise OSError(errno.EIO, "input/output error", path)
        if self.drop_syncs(path):
            return
        waiting = []
        for step in self._steps:
            if any(_parent(name) == path for name in step.changes):
                _apply(self._durable, step)
            else:
                waiting.append(step)
        self._steps = waiting

    def truncate(self, path: str, size: int) -> None:
        inode = self._inode(path)
        self._changing()
        old = inode.size
        self._need(size - old, path)
        inode.resize(size)
        inode.dirty.append((min(old, size), max(old, size)))

    def free_bytes(self, path: str) -> int:
        return 1 << 40 if self.capacity is None else max(0, self.capacity - self.used())

    def lock(self, path: str) -> FileLock | None:
        if path in self._locked:
            return None
        if path not in self._names:
            self._step({path: Inode()})
        self._locked[path] = None
        return SimulatedLock(self, path)

    # Inside

    def write_inode(self, path: str, inode: Inode, data: bytes, offset: int) -> None:
        """A write: on a full disk nothing of it happens; when the fuse blows it may have happened."""
        self._need(offset + len(data) - inode.size, path)
        inode.write(data, offset)
        self._changing()

    def extend_inode(self, path: str, inode: Inode, size: int) -> None:
        """Space for later: the file is longer by zeros."""
        if size > inode.size:
            self._need(size - inode.size, path)
            inode.extend(size)
            self._changing()

    def sync_inode(self, path: str, inode: Inode) -> None:
        """fdatasync."""
        self._changing()
        self.syncs += 1
        if self.fail_syncs(path):
            raise OSError(errno.EIO, "input/output error", path)
        if not self.drop_syncs(path):
            inode.sync()

    def _inode(self, path: str) -> Inode:
        target = self._names.get(path)
        if target is None:
            raise _missing(path)
        if not isinstance(target, Inode):
            raise IsADirectoryError(errno.EISDIR, "is a directory", path)
        return target

    def _need(self, size: int, path: str) -> None:
        if self.capacity is not None and size > 0 and self.used() + size > self.capacity:
            raise OSError(errno.ENOSPC, "no space left on device", path)

    def _changing(self) -> None:
        self.changes += 1
        if self.fuse is not None:
            self.fuse -= 1
            if self.fuse < 0:
                raise PowerLoss

    def _step(self, changes: dict[str, _Target]) -> None:
        for path, target in changes.items():
            if (
                target is not None
                and self._names.get(_parent(path)) is not True
                and _parent(path) not in changes
            ):
                raise _missing(path)
        step = _Step(changes)
        _apply(self._names, step)
        self._steps.append(step)
        self._changing()

    def unlock(self, path: str) -> None:
        self._locked.pop(path, None)


def _apply(names: dict[str, Inode | bool], step: _Step) -> None:
    for path, target in step.changes.items():
        if target is None:
            names.pop(path, None)
        else:
            names[path] = target


class SimulatedAppendFile:
    """The writing end of an inode; goes on working when the name is gone."""

    __slots__ = ("_fs", "_inode", "_offset", "path")

    def __init__(self, fs: SimulatedFileSystem, path: str, inode: Inode, offset: int) -> None:
        self.path = path
        self._fs = fs
        self._inode: Inode | None = inode
        self._offset = offset

    def write(self, data: bytes) -> None:
        self._fs.write_inode(self.path, self._open(), data, self._offset)
        self._offset += len(data)

    def reserve(self, size: int) -> None:
        self._fs.extend_inode(self.path, self._open(), size)

    def sync(self) -> None:
        self._fs.sync_inode(self.path, self._open())

    def tell(self) -> int:
        return self._offset

    def close(self) -> None:
        self._inode = None

    def _open(self) -> Inode:
        if self._inode is None:
            raise OSError(errno.EBADF, "file is closed", self.path)
        return self._inode


class SimulatedReadFile:
    """The reading end of an inode; goes on working when the name is gone."""

    __slots__ = ("_fs", "_inode", "path")

    def __init__(self, fs: SimulatedFileSystem, path: str, inode: Inode) -> None:
        self.path = path
        self._fs = fs
        self._inode: Inode | None = inode

    def pread(self, size: int, offset: int) -> bytes:
        inode = self._open()
        if self._fs.cold is not None:
            for page in range(offset // _PAGE, -(-(offset + size) // _PAGE)):
                inode.warm[page] = None
        return inode.read(offset, offset + size)

    def pread_nowait(self, size: int, offset: int) -> bytes | None:
        inode = self._open()
        if self._fs.cold is not None:
            for page in range(offset // _PAGE, -(-(offset + size) // _PAGE)):
                if page not in inode.warm:
                    if self._fs.cold.random() < 0.75:
                        return None
                    inode.warm[page] = None
        data = inode.read(offset, offset + size)
        return data if len(data) == size else None

    def data_ranges(self) -> list[tuple[int, int]]:
        """Space that was never written holds no data, but for the rest of a page that was."""
        inode = self._open()
        end = min(-(-len(inode.data) // _PAGE) * _PAGE, inode.size)
        return [(0, end)] if end else []

    def size(self) -> int:
        return self._open().size

    def close(self) -> None:
        self._inode = None

    def _open(self) -> Inode:
        if self._inode is None:
            raise OSError(errno.EBADF, "file is closed", self.path)
        return self._inode


class SimulatedLock:
    """Held until closed."""

    __slots__ = ("_fs", "_path")

    def __init__(self, fs: SimulatedFileSystem, path: str) -> None:
        self._fs = fs
        self._path = path

    def close(self) -> None:
        self._fs.unlock(self._path)
