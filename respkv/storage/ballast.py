"""The ballast: a file of nothing that keeps disk space for bad times.

When the disk is full it is removed, so that deletes, flushes and compactions, which free space in the end,
can still run; it is made anew when there is room.
"""

from __future__ import annotations

from typing import Final

from respkv.env.fs import FileSystem
from respkv.storage.wal import is_disk_full

_NAME: Final = "BALLAST"


def has_ballast(fs: FileSystem, directory: str) -> bool:
    """Whether the space is still kept."""
    return fs.exists(f"{directory}/{_NAME}")


def make_ballast(fs: FileSystem, directory: str, size: int) -> None:
    """Take ``size`` bytes of disk, if there is room for twice as much and it is not there; nothing if not."""
    if size and not has_ballast(fs, directory) and fs.free_bytes(directory) >= 2 * size:
        try:
            fs.create(f"{directory}/{_NAME}", size).close()
        except OSError as error:
            if not is_disk_full(error):
                raise


def regain_ballast(fs: FileSystem, directory: str, size: int, needed: int) -> bool:
    """Whether ``needed`` bytes are free beside a ballast of ``size``, which is then made anew if it was given up."""
    if fs.free_bytes(directory) < needed + (0 if has_ballast(fs, directory) else size):
        return False
    make_ballast(fs, directory, size)
    return True


def free_ballast(fs: FileSystem, directory: str) -> bool:
    """Give the space back; False when that has happened already."""
    if not has_ballast(fs, directory):
        return False
    fs.remove(f"{directory}/{_NAME}")
    return True
