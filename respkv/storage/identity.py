"""Whose directory it is: the lock, and IDENTITY.

IDENTITY is text: ``respkv 2``, ``node <32 hex>``, ``sum <16 hex>`` (xxh3_64 of the lines before), each with a
newline. A node of zeros means "not named yet" (a snapshot, which must never come up under the id of the
store it was taken from): opening gives it a fresh id.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from respkv.base.coding import checksum
from respkv.base.errors import CorruptionError, FormatError
from respkv.env.fs import FileLock, FileSystem
from respkv.storage.manifest import read_current, replace_file

FORMAT: Final = 2
UNNAMED: Final = bytes(16)
#: Where Redis keeps its data: starting empty beside it would look as if all of it were lost.
REDIS_DATA: Final = ("dump.rdb", "appendonlydir", "appendonly.aof")


@dataclass(slots=True)
class Directory:
    """An open data directory: ours as long as ``lock`` is held."""

    path: str
    node_id: bytes
    lock: FileLock
    fresh: bool


def encode_identity(node_id: bytes) -> bytes:
    """The contents of IDENTITY."""
    text = f"respkv {FORMAT}\nnode {node_id.hex()}\n".encode()
    return text + f"sum {checksum(text):016x}\n".encode()


def read_identity(fs: FileSystem, path: str) -> bytes | None:
    """The node id in ``path``/IDENTITY; None when there is none. FormatError, CorruptionError if bad."""
    name = f"{path}/IDENTITY"
    if not fs.exists(name):
        return None
    data = fs.read_all(name)
    lines = data.decode("latin-1").split("\n")
    first = lines[0].split(" ")
    if first[0] != "respkv" or len(first) != 2 or not first[1].isdecimal():
        raise FormatError(f"{name}: not written by respkv; name an empty directory with --dir")
    if int(first[1]) != FORMAT:
        advice = "start the program that wrote it, and copy its keys" if int(first[1]) < FORMAT else "start a newer one"
        raise FormatError(f"{name}: format version {first[1]}, this program knows {FORMAT}; {advice}")
    try:
        node_id = bytes.fromhex(lines[1].removeprefix("node "))
    except (ValueError, IndexError) as error:
        raise CorruptionError(name, 0, "no node id") from error
    if len(node_id) != 16 or data != encode_identity(node_id):
        raise CorruptionError(name, 0, "checksum mismatch")
    return node_id


def open_directory(fs: FileSystem, path: str, *, make_id: Callable[[], bytes]) -> Directory:
    """Lock ``path`` (made if missing) and know who we are; ``make_id`` gives 16 random bytes when needed.

    FormatError when another process has it, or when it holds data that is not ours or too new.
    """
    make_directory(fs, path)
    lock = fs.lock(f"{path}/LOCK")
    if lock is None:
        raise FormatError(f"{path}: in use by another process")
    try:
        node_id = read_identity(fs, path)
        read_current(fs, path)
        fresh = node_id is None
        if node_id is None and (fs.exists(f"{path}/CURRENT") or _has_files(fs, f"{path}/tables")):
            raise FormatError(f"{path} is not a respkv data directory; name an empty directory with --dir")
        for name in REDIS_DATA if node_id is None else ():
            if fs.exists(f"{path}/{name}"):
                raise FormatError(
                    f"{path} holds data of Redis ({name}), which respkv cannot read; name an empty directory with --dir"
                )
        if node_id is None or node_id == UNNAMED:
            node_id = make_id()
            replace_file(fs, path, "IDENTITY", encode_identity(node_id))
        return Directory(path, node_id, lock, fresh)
    except BaseException:
        lock.close()
        raise


def parent_of(path: str) -> str:
    """The directory that holds the name ``path``."""
    head, slash, _ = path.rpartition("/")
    return (head or "/") if slash else "."


def make_directory(fs: FileSystem, path: str) -> None:
    """Make ``path`` and its parents, if missing, such that their names outlive a crash."""
    parent = parent_of(path)
    if not fs.exists(path):
        if not fs.exists(parent):
            make_directory(fs, parent)
        fs.mkdir(path)
    fs.sync_dir(parent)


def _has_files(fs: FileSystem, path: str) -> bool:
    return fs.exists(path) and bool(fs.listdir(path))
