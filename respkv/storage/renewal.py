"""A closed segment that turns out to be damaged is written again, from its memtable.

Until its flush is in force, what a segment holds is in memory too. The new file takes the old one's place under its
name, with the same lsns, so that flush and recovery find a log without a gap. Its records are not the old ones: of each
key there is the newest, and empty records make up the number.

A key that was deferred (see ``memtable``) comes with its newest record, which a newer segment may hold as well: those
must be durable before, or a crash could keep a later write and lose an earlier one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from respkv.env.fs import FileSystem
from respkv.storage.memtable import Memtable
from respkv.storage.wal import BATCH, SEGMENT_MAGIC, LogHeader, LogWriter, segment_path
from respkv.storage.write_batch import LENGTHS_BYTES, add_entry

_RECORD_BYTES: Final = 1 << 20


def renew_segment(fs: FileSystem, directory: str, memtable: Memtable, memtables: Sequence[Memtable]) -> int:
    """Write the segment of ``memtable``, the oldest one, again; the file's size in bytes.

    ``memtables`` are all there are, newest first. No deferred key waits to be listed, and all that newer segments hold
    is durable. Blocking, about 1 us an entry. OSError: call it again later.
    """
    table = _with_listed(memtable, memtables)
    path = segment_path(directory, memtable.segment_id)
    # In ``tables``, where a start removes what a crash left under such a name.
    temporary = f"{directory}/tables/{memtable.segment_id:012d}.log.tmp"
    if fs.exists(temporary):
        fs.remove(temporary)
    # The oldest segment of the log: nobody asks what stood before it.
    header = LogHeader(memtable.segment_id, 0, memtable.first_lsn - 1, 0)
    log = LogWriter(fs, temporary, SEGMENT_MAGIC, header, preallocate=0)
    try:
        for payload in _payloads(table, memtable.last_lsn - log.last_lsn):
            log.append(BATCH, payload, 0)
        log.append_all(BATCH, [b""] * (memtable.last_lsn - log.last_lsn), 0)
        log.append_end(memtable.last_lsn)
        log.file.sync()
        fs.rename(temporary, path)
    except OSError:
        fs.remove(temporary)
        raise
    finally:
        log.file.close()
    fs.sync_dir(f"{directory}/wal")
    return log.offset


def _payloads(table: dict[bytes, bytes], lsns: int) -> Iterator[bytes]:
    """The entries of ``table`` in at most ``lsns`` payloads."""
    size = sum(map(len, table)) + sum(map(len, table.values())) + LENGTHS_BYTES * len(table)
    limit = max(_RECORD_BYTES, size // lsns + 1)
    batch: list[bytes] = []
    size = 0
    for key, record in table.items():
        add_entry(batch, key, record)
        size += LENGTHS_BYTES + len(key) + len(record)
        if size >= limit:
            yield b"".join(batch)
            batch, size = [], 0
    if batch:
        yield b"".join(batch)


def _with_listed(memtable: Memtable, memtables: Sequence[Memtable]) -> dict[bytes, bytes]:
    """The newest record of each key of the segment."""
    if not memtable.listed:
        return memtable.table
    table = dict(memtable.table)
    for key in memtable.listed:
        record = next((found for one in memtables if (found := one.table.get(key)) is not None), None)
        if record is not None:
            table[key] = record
    return table
