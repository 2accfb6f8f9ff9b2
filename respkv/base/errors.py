"""The exceptions of the rooms below ``server``.

Expected outcomes are values, not exceptions. What is raised here is a client's mistake
(``CommandError``), garbage from a file or a peer (``CorruptionError``, ``ProtocolError``), a state
of the world the caller must handle (``StorageFull``), or "not in memory" (``ReadMiss``).
"""

from __future__ import annotations

import errno
from typing import Protocol


class RespkvError(Exception):
    """Base of all exceptions of this project."""


class CommandError(RespkvError):
    """A client's mistake: ``reply`` is the finished error line, ``-CODE text\\r\\n``."""

    def __init__(self, reply: bytes) -> None:
        super().__init__(reply)
        self.reply = reply


class ProtocolError(RespkvError):
    """Bytes that are not the protocol; the connection that sent them is closed."""


class CorruptionError(RespkvError):
    """A file's bytes are not what was written. Never treated as absence."""

    def __init__(self, path: str, offset: int, reason: str) -> None:
        super().__init__(f"{path}: offset {offset}: {reason}")
        self.path = path
        self.offset = offset
        self.reason = reason


def as_damage(error: OSError, path: str, offset: int) -> CorruptionError | OSError:
    """What a read of ``path`` at ``offset`` that failed is to be told as: damage where the disk cannot give the bytes
    back (EIO), else ``error`` itself. The system's error for a read names no file."""
    return CorruptionError(path, offset, f"unreadable: {error}") if error.errno == errno.EIO else error


class FormatError(RespkvError):
    """A file or directory this program does not understand (newer version, foreign data)."""


class StorageFull(RespkvError):
    """The disk cannot take what was asked; writes are refused until it can, reads go on."""


class BlockRequest(Protocol):
    """One block that a read needs and memory does not hold."""

    def read(self) -> object:
        """Read and verify the block; blocking, callable from any thread. Raises CorruptionError, OSError."""

    def install(self, block: object) -> None:
        """Put the block that ``read`` returned into the cache; only on the loop's thread."""


class ReadMiss(RespkvError):
    """A read that would block: fetch ``request``, install it, and run the reader again."""

    def __init__(self, request: BlockRequest) -> None:
        super().__init__("block not in memory")
        self.request = request
