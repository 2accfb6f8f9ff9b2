"""Damaged tables: what stands in their place, and what is known about them.

A table whose index, filter or footer cannot be read, or that is not there, is *lost*: nobody can say which keys it
held. A ``LostTable`` stands in its run and answers every read of its key range with CorruptionError, so that an
older record never passes for the newest; newer runs and memtables still answer. A table that opens but has a bad
block keeps its reader: filter, index and every other block have checksums of their own, so what verifies is served
and only the keys of that block are errors. Both are marked in the manifest: no compaction reads them, and
the mark stays until the table is dropped or a start finds it whole.

In a *local space* (facts that the owner keeps elsewhere too, and restores itself) a lost table is passed over.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from respkv.base.errors import CorruptionError, ReadMiss
from respkv.env.fs import FileSystem
from respkv.storage.block_cache import BlockCache
from respkv.storage.sstable.format import TableMeta
from respkv.storage.sstable.reader import TableReader


@dataclass(frozen=True, slots=True)
class DamagedTable:
    """A quarantined table: its keys lie between ``smallest`` and ``largest``, both included.

    ``lost``: all of that range is unreadable; else only some blocks are. A repair writes the range anew from other
    copies and then drops the table.
    """

    file_id: int
    path: str
    reason: str
    smallest: bytes
    largest: bytes
    max_stamp: bytes
    lost: bool


class LostTable:
    """Stands for a table that cannot be opened; has the reading methods of a ``TableReader``."""

    __slots__ = ("file_id", "filter", "meta", "path", "reason")

    def __init__(self, path: str, meta: TableMeta, reason: str) -> None:
        #: nobody can say that a key is not here
        self.filter = (-1,)
        self.path = path
        self.meta = meta
        self.file_id = meta.file_id
        self.reason = reason

    def get(self, key: bytes, key_hash: int) -> bytes | None:
        """None outside the table's range; CorruptionError in it."""
        if self.meta.smallest <= key <= self.meta.largest:
            raise self._damage()
        return None

    def scan(self, start: bytes, end: bytes | None, *, wait: bool) -> Iterator[tuple[bytes, bytes]]:
        """CorruptionError when the table's range and [start, end) have keys in common, else nothing."""
        if self.meta.largest >= start and (end is None or self.meta.smallest < end):
            raise self._damage()
        return iter(())

    def close(self) -> None:
        """There is nothing to let go of."""

    def _damage(self) -> CorruptionError:
        return CorruptionError(self.path, 0, f"the table is lost: {self.reason}")

    def __repr__(self) -> str:
        return f"<LostTable {self.path}>"


AnyTable = TableReader | LostTable


class Piece(NamedTuple):
    """What a damaged table holds from where it was asked to before ``end``; None when that cannot be read."""

    entries: list[tuple[bytes, bytes]] | None
    end: bytes


def piece_of(table: AnyTable | None, start: bytes) -> Piece | None:
    """The block at ``start`` (in the table's range); all the rest of a lost table. ReadMiss passes through."""
    if table is None:
        return None
    end = table.meta.largest + b"\0"
    if isinstance(table, LostTable):
        return Piece(None, end)
    end = table.block_end(start) or end
    try:
        return Piece(list(table.scan(start, end, wait=False)), end)
    except CorruptionError:
        return Piece(None, end)


def open_table(fs: FileSystem, path: str, meta: TableMeta, cache: BlockCache) -> TableReader:
    """A reader for the table, its index verified. A missing file is corruption, never an empty table."""
    try:
        return TableReader(fs, path, meta, cache)
    except FileNotFoundError as error:
        raise CorruptionError(path, 0, "the manifest names a table that is not there") from error


def open_or_mark(
    fs: FileSystem, path: str, meta: TableMeta, cache: BlockCache, marked: str | None
) -> tuple[AnyTable, str | None]:
    """The table as it can be read, and what is wrong with it (None: nothing).

    ``marked`` is what was wrong with it before: then it is read in full (1 s for 200 MB), and if that shows
    nothing it is whole again. Raises what is no damage: FormatError, OSError that is none of the disk's.
    """
    try:
        reader = open_table(fs, path, meta, cache)
    except CorruptionError as damage:
        return LostTable(path, meta, damage.reason), damage.reason
    if marked is None:
        return reader, None
    try:
        reader.verify()
    except CorruptionError as damage:
        return reader, damage.reason
    return reader, None


def passing_over(
    tables: list[AnyTable], start: bytes, end: bytes | None, told: Callable[[int, str], None]
) -> Iterator[tuple[bytes, bytes]]:
    """One run's entries, for a local space. Blocking, a block at a time.

    Lost tables are left out, and of a damaged one what comes from the first block on that is bad or that the disk
    cannot read, which is ``told`` (file id, reason). Other OSErrors pass through.
    """
    for table in tables:
        if not isinstance(table, LostTable):
            try:
                yield from _block_by_block(table, start, end)
            except CorruptionError as damage:
                told(table.file_id, damage.reason)


def _block_by_block(table: TableReader, start: bytes, end: bytes | None) -> Iterator[tuple[bytes, bytes]]:
    while True:
        try:
            for key, record in table.scan(start, end, wait=False):
                yield key, record
                start = key + b"\0"
            return
        except ReadMiss as miss:
            miss.request.install(miss.request.read())
