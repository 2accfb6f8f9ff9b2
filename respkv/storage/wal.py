"""The log file: records with checksums, written at the end, verified when read.

Both the write-ahead log (``wal/<id>.log``, called segments) and the manifest use it. Layout::

    file    = header, record*, zeros (segments are preallocated)
    header  = magic 6 | version u16 | file id u64 | previous file id u64 | previous last lsn u64
              | durable lsn u64 | xxh3_64 of the 40 bytes before, seeded with the file id
    record  = magic u16 | payload len u32 | type u8 | lsn u64 | durable lsn u64 | payload
              | xxh3_64 of all before, seeded with (file id << 40) + offset of the record

Integers are little-endian. Types: 1 BATCH (entries, see ``write_batch``), 2 END (a segment is closed), 3 EDIT
(manifest), 4 MARK (only says how far the log is durable). END and MARK have no payload and the lsn of the last
batch.

Invariants: lsns of batches and edits are consecutive, across files too. ``durable lsn`` is the highest
lsn known to be synced when the record was written. The seed rejects records that were recycled,
misplaced or copied from elsewhere. A closed segment ends with END, so a reader that needs it whole
(the flush job) can tell a cut one.

Torn-tail rule: at the first invalid record, of expected lsn L, look for any valid record (or later
header) whose durable lsn is L or more, or ask the manifest, which knows a durable lsn too. There is one: durable
data was destroyed, which is corruption and never truncated silently. None: nothing from L on was ever promised;
it is dropped. No record can say of itself that it is durable: a MARK behind the last one does, once it is.
The witness idea follows RocksDB's point-in-time recovery; why unsynced pages cannot be trusted:
Rebello et al., "Can Applications Recover from fsync Failures?" (2020).
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from struct import Struct
from typing import Final, NamedTuple

from xxhash import xxh3_64_intdigest

from respkv.base.coding import U64, checksum
from respkv.base.errors import CorruptionError, FormatError, RespkvError
from respkv.env.fs import AppendFile, FileSystem, ReadFile

VERSION: Final = 1
SEGMENT_MAGIC: Final = b"RKVLOG"
MANIFEST_MAGIC: Final = b"RKVMAN"
BATCH: Final = 1
END: Final = 2
EDIT: Final = 3
MARK: Final = 4

_HEADER: Final = Struct("<6sHQQQQ")
HEADER_BYTES: Final = _HEADER.size + 8
_RECORD: Final = Struct("<HIBQQ")
_RECORD_MAGIC: Final = 0xD7A5
_MAGIC_BYTES: Final = _RECORD_MAGIC.to_bytes(2, "little")
RECORD_OVERHEAD: Final = _RECORD.size + 8
_CHUNK: Final = 1 << 20
#: Bytes of a payload whose checksum costs no more than to look at its header.
_SHORT: Final = 4096
#: How many times the bytes of a file may be checksummed for longer ones that turn out to be no records.
_FALSE_STARTS: Final = 8
_SEED_MASK: Final = (1 << 64) - 1


class FatalStorageError(RespkvError):
    """An append or a sync failed: memory and disk disagree and the process must stop and recover."""


def is_disk_full(error: OSError) -> bool:
    """Whether ``error`` says that there is no space left, for anybody or for us."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


class LogHeader(NamedTuple):
    """A log file's header."""

    file_id: int
    previous_id: int
    previous_lsn: int
    durable_lsn: int


class LogRecord(NamedTuple):
    """One verified record. ``offset`` is where it starts in its file."""

    kind: int
    lsn: int
    durable_lsn: int
    payload: bytes
    offset: int


def segment_path(directory: str, file_id: int) -> str:
    """The path of a segment of the data directory ``directory``."""
    return f"{directory}/wal/{file_id:012d}.log"


def segment_id(path: str) -> int | None:
    """The file id in a segment's name or path, None when it is no segment's name."""
    stem, dot, suffix = path.rpartition("/")[2].rpartition(".")
    return int(stem) if dot and suffix == "log" and len(stem) == 12 and stem.isdecimal() else None


def encode_header(magic: bytes, header: LogHeader) -> bytes:
    """The first bytes of a log file."""
    body = _HEADER.pack(magic, VERSION, *header)
    return body + U64.pack(checksum(body, header.file_id))


class LogWriter:
    """Appends records to one log file. Never syncs by itself."""

    __slots__ = ("file", "file_id", "last_lsn", "offset", "path", "room")

    def __init__(
        self, fs: FileSystem, path: str, magic: bytes, header: LogHeader, *, preallocate: int
    ) -> None:
        """Create the file (OSError if that fails) and write its header."""
        self.file: AppendFile = fs.create(path, preallocate)
        self.path = path
        self.room = preallocate
        self.file_id = header.file_id
        self.last_lsn = header.previous_lsn
        self.offset = 0
        self._write(encode_header(magic, header))

    def append(self, kind: int, payload: bytes, durable_lsn: int) -> int:  # HOT: wal_append
        """Write one record in one write; its lsn. OSError passes through, the file is then as before.

        After an error the next append goes over whatever part of the record had been written.
        """
        lsn = self.last_lsn + 1
        offset = self.offset
        data = _RECORD.pack(_RECORD_MAGIC, len(payload), kind, lsn, durable_lsn) + payload
        data += xxh3_64_intdigest(data, ((self.file_id << 40) + offset) & _SEED_MASK).to_bytes(8, "little")
        self.file.write(data)
        self.offset = offset + len(data)
        self.last_lsn = lsn
        return lsn

    def reserve(self, size: int) -> bool:
        """Make ``room`` at least ``size``; False on a full disk, which changes nothing. FatalStorageError."""
        try:
            self.file.reserve(size)
        except OSError as error:
            if is_disk_full(error):
                return False
            raise FatalStorageError(f"{self.path}: {error}") from error
        self.room = max(self.room, size)
        return True

    def append_all(self, kind: int, payloads: list[bytes], durable_lsn: int) -> None:
        """Write records in one write: all or, with OSError, none of them."""
        lsn, offset = self.last_lsn, self.offset
        parts: list[bytes] = []
        for payload in payloads:
            lsn += 1
            part = self._encode(kind, lsn, payload, durable_lsn, offset)
            parts.append(part)
            offset += len(part)
        self._write(b"".join(parts))
        self.last_lsn = lsn

    def append_end(self, durable_lsn: int) -> None:
        """Mark the file as complete."""
        self._write(self._encode(END, self.last_lsn, b"", durable_lsn, self.offset))

    def append_mark(self, durable_lsn: int) -> None:
        """Say how far the log is durable, where no batch follows that would; nothing on a full disk."""
        try:
            self._write(self._encode(MARK, self.last_lsn, b"", durable_lsn, self.offset))
        except OSError as error:
            if not is_disk_full(error):
                raise FatalStorageError(f"log append failed: {error}") from error

    def _encode(self, kind: int, lsn: int, payload: bytes, durable_lsn: int, offset: int) -> bytes:
        data = _RECORD.pack(_RECORD_MAGIC, len(payload), kind, lsn, durable_lsn) + payload
        return data + U64.pack(checksum(data, (self.file_id << 40) + offset))

    def _write(self, data: bytes) -> None:
        self.file.write(data)
        self.offset += len(data)

    def __repr__(self) -> str:
        return f"<LogWriter {self.path} offset={self.offset} last_lsn={self.last_lsn}>"


class LogReader:
    """Reads one log file from front to back, a megabyte at a time.

    ``offset`` is where the next record is expected; after ``records`` has ended it is where the valid
    part ends, ``last_lsn`` the last valid lsn, ``durable_lsn`` the highest that was called durable, ``ended``
    whether an END record closed the file.
    """

    __slots__ = (
        "_base",
        "_buffer",
        "_data",
        "_file",
        "durable_lsn",
        "ended",
        "file_id",
        "last_lsn",
        "magic",
        "offset",
        "path",
        "size",
    )

    def __init__(self, file: ReadFile, file_id: int, magic: bytes) -> None:
        self._file = file
        self._data = file.data_ranges()
        self._buffer = b""
        self._base = 0
        self.path = file.path
        self.file_id = file_id
        self.magic = magic
        self.size = file.size()
        self.offset = 0
        self.last_lsn = 0
        self.durable_lsn = 0
        self.ended = False

    def close(self) -> None:
        self._file.close()

    def header(self) -> LogHeader | None:
        """The header, None when it is not valid. FormatError when a newer program wrote it."""
        if not self._hold(0, HEADER_BYTES):
            return None
        data = self._buffer[:HEADER_BYTES]
        magic, version, *rest = _HEADER.unpack_from(data)
        header = LogHeader(*rest)
        if (
            magic != self.magic
            or checksum(data[:-8], header.file_id) != U64.unpack(data[-8:])[0]
            or header.file_id != self.file_id
        ):
            return None
        if version != VERSION:
            raise FormatError(f"{self.path}: format version {version}, this program knows {VERSION}")
        self.offset = HEADER_BYTES
        self.last_lsn = header.previous_lsn
        self.durable_lsn = header.durable_lsn
        return header

    def records(self) -> Iterator[LogRecord]:
        """The valid records from ``offset`` on, up to the first that is not valid or not next in order."""
        while not self.ended:
            record = self._record_at(self.offset)
            if record is None:
                return
            aside = record.kind in (END, MARK)
            if record.lsn != self.last_lsn + (not aside):
                return
            self.offset += RECORD_OVERHEAD + len(record.payload)
            self.last_lsn = record.lsn
            self.durable_lsn = max(self.durable_lsn, record.durable_lsn)
            if record.kind == END:
                self.ended = True
            elif not aside:
                yield record

    def witness(self, offset: int, lsn: int) -> int | None:
        """Where, from ``offset`` on, a valid record says that ``lsn`` is durable; None: nowhere.

        A valid record is passed over whole, whatever its payload looks like. Of what only looks like a record, long
        ones are checksummed until that has cost eight times the file, short ones always: garbage, even if it was
        made for the purpose, costs no more than in proportion to its length.
        """
        spare = _FALSE_STARTS * self.size
        at = self._find_magic(offset)
        while at is not None and self._hold(at, _RECORD.size):
            following = at + 1
            _, length, kind, record_lsn, durable_lsn = _RECORD.unpack_from(self._buffer, at - self._base)
            plausible = (
                kind in (BATCH, END, EDIT, MARK)
                and durable_lsn <= record_lsn
                and at + RECORD_OVERHEAD + length <= self.size
            )
            if plausible and (length <= _SHORT or length <= spare):
                if self._record_at(at) is None:
                    spare -= length if length > _SHORT else 0
                elif durable_lsn >= lsn:
                    return at
                else:
                    following = at + RECORD_OVERHEAD + length
            at = self._find_magic(following)
        return None

    def used_after(self, offset: int) -> int:
        """Bytes from ``offset`` to the last one that is not zero."""
        end = offset
        for start, stop in self._data:
            for at in range(max(start, offset), stop, _CHUNK):
                used = self._file.pread(min(_CHUNK, stop - at), at).rstrip(b"\0")
                if used:
                    end = at + len(used)
        return end - offset

    def _hold(self, offset: int, size: int) -> bool:
        """Have ``size`` bytes at ``offset`` in the buffer; False when the file ends before."""
        start = offset - self._base
        if start < 0 or start + size > len(self._buffer):
            if offset + size > self.size:
                return False
            self._buffer = self._file.pread(max(size, _CHUNK), offset)
            self._base = offset
            return len(self._buffer) >= size
        return True

    def _record_at(self, offset: int) -> LogRecord | None:
        """The record at ``offset``, None when there is no valid one."""
        if not self._hold(offset, RECORD_OVERHEAD):
            return None
        magic, length, kind, lsn, durable_lsn = _RECORD.unpack_from(self._buffer, offset - self._base)
        if magic != _RECORD_MAGIC or not self._hold(offset, RECORD_OVERHEAD + length):
            return None
        start = offset - self._base
        body_end = start + _RECORD.size + length
        stored = U64.unpack_from(self._buffer, body_end)[0]
        seed = ((self.file_id << 40) + offset) & _SEED_MASK
        if xxh3_64_intdigest(memoryview(self._buffer)[start:body_end], seed) != stored:
            return None
        return LogRecord(kind, lsn, durable_lsn, self._buffer[start + _RECORD.size : body_end], offset)

    def _find_magic(self, offset: int) -> int | None:
        """The first place at or after ``offset`` where a record may start."""
        while self._hold(offset, RECORD_OVERHEAD):
            found = self._buffer.find(_MAGIC_BYTES, offset - self._base)
            if found >= 0:
                return self._base + found
            offset = self._next_data(max(offset + 1, self._base + len(self._buffer) - 1))
        return None

    def _next_data(self, offset: int) -> int:
        """``offset``, or the start of the next part that is not only zeros; the file's size when none follows."""
        for start, stop in self._data:
            if offset < stop:
                return max(start, offset)
        return self.size


class Replay(NamedTuple):
    """What ``replay`` found. ``dropped_bytes`` counts what lay behind the last valid record."""

    last_lsn: int
    durable_lsn: int
    records: int
    dropped_bytes: int


def replay(
    fs: FileSystem,
    files: list[tuple[int, str]],
    magic: bytes,
    last_lsn: int,
    apply: Callable[[LogRecord], None],
    *,
    known_durable_lsn: int = 0,
) -> Replay:
    """Read ``files`` (id, path; in order) and give each record after ``last_lsn`` to ``apply``.

    The files are one log: each names its predecessor's last lsn. Follows the torn-tail rule of the
    module's docstring and raises CorruptionError when durable data is missing, that is also when the log ends
    before ``known_durable_lsn``.
    """
    result = _replay(fs, files, magic, last_lsn, apply)
    if result.last_lsn < known_durable_lsn:
        raise CorruptionError(
            files[-1][1] if files else "the log",
            0,
            f"no valid record of lsn {result.last_lsn + 1}, though lsn {known_durable_lsn} is known to be durable",
        )
    return result


def _replay(
    fs: FileSystem,
    files: list[tuple[int, str]],
    magic: bytes,
    last_lsn: int,
    apply: Callable[[LogRecord], None],
) -> Replay:
    durable_lsn = last_lsn
    count = 0
    for index, (file_id, path) in enumerate(files):
        reader = LogReader(fs.open_read(path), file_id, magic)
        try:
            header = reader.header()
            if header is None or header.previous_lsn != last_lsn:
                reader.offset = 0
                return Replay(
                    last_lsn, durable_lsn, count, _drop_tail(fs, reader, files[index:], last_lsn + 1)
                )
            for record in reader.records():
                if record.kind not in (BATCH, EDIT):
                    raise CorruptionError(path, record.offset, f"unknown record type {record.kind}")
                apply(record)
                count += 1
            last_lsn = reader.last_lsn
            durable_lsn = max(durable_lsn, reader.durable_lsn)
            if index == len(files) - 1:
                dropped = _drop_tail(fs, reader, files[index:], last_lsn + 1)
                return Replay(last_lsn, durable_lsn, count, dropped)
            if not reader.ended and not _continues(fs, files[index + 1], magic, last_lsn):
                dropped = _drop_tail(fs, reader, files[index:], last_lsn + 1)
                return Replay(last_lsn, durable_lsn, count, dropped)
        finally:
            reader.close()
    return Replay(last_lsn, durable_lsn, count, 0)


def _continues(fs: FileSystem, following: tuple[int, str], magic: bytes, last_lsn: int) -> bool:
    """Whether the next file of the log begins right after ``last_lsn``."""
    file_id, path = following
    reader = LogReader(fs.open_read(path), file_id, magic)
    try:
        header = reader.header()
        return header is not None and header.previous_lsn == last_lsn
    finally:
        reader.close()


def _drop_tail(fs: FileSystem, reader: LogReader, files: list[tuple[int, str]], lsn: int) -> int:
    """How many bytes are lost when the log ends before ``lsn``, at ``reader.offset`` of the first file.

    CorruptionError when one of the bytes behind says that ``lsn`` was durable, or the first file's own header: it
    does where a file before it is gone.
    """
    if reader.durable_lsn >= lsn:
        raise CorruptionError(reader.path, 0, f"no valid record of lsn {lsn}, which this file calls durable")
    place = reader.witness(reader.offset, lsn)
    if place is not None:
        raise CorruptionError(
            reader.path,
            reader.offset,
            f"no valid record of lsn {lsn}, which the record at {place} calls durable",
        )
    dropped = reader.used_after(reader.offset)
    for file_id, path in files[1:]:
        later = LogReader(fs.open_read(path), file_id, reader.magic)
        try:
            header = later.header()
            if (header is not None and header.durable_lsn >= lsn) or later.witness(0, lsn) is not None:
                raise CorruptionError(
                    reader.path, reader.offset, f"no valid record of lsn {lsn}, which {path} calls durable"
                )
            dropped += later.used_after(0)
        finally:
            later.close()
    return dropped


def read_closed(fs: FileSystem, path: str, take: Callable[[bytes], object]) -> None:
    """Hand the payloads of a *closed* segment to ``take`` in log order, verified; it raises ValueError for a bad one.

    CorruptionError when a record is damaged or the END record is missing: a segment that is not whole
    must not become a table.
    """
    file_id = segment_id(path)
    if file_id is None:
        raise FormatError(f"{path}: not a segment's name")
    reader = LogReader(fs.open_read(path), file_id, SEGMENT_MAGIC)
    try:
        if reader.header() is None:
            raise CorruptionError(path, 0, "bad header of a closed segment")
        for record in reader.records():
            try:
                take(record.payload)
            except ValueError as error:
                raise CorruptionError(path, record.offset, str(error)) from error
        if not reader.ended:
            raise CorruptionError(path, reader.offset, "a closed segment must end with its END record")
    finally:
        reader.close()
