"""Writing a table: entries in strictly rising key order become blocks, an index, a bloom filter and a footer.

Work is done in bulk: entries gather until about ``BUFFER_BYTES`` are there, then lists of lengths are
summed, blocks cut by bisection of the sums, and keys and records joined, all by loops of the interpreter's C
code. An entry thus costs under 1 us, most of it its bloom filter.

A new block begins when the running one has reached ``block_bytes``; a record that is longer makes a block of
its own size. The index has one entry per block: a key prefix that is greater than every key before
the block and not greater than the block's first key (the empty string for the first block), and the block's
length on disk. The properties are the ``TableMeta`` as JSON, without the file's own size.
"""

from __future__ import annotations

import json
from array import array
from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate, repeat
from operator import add, lt
from typing import Final

from xxhash import xxh3_64_intdigest

from respkv.base.coding import U32
from respkv.env.fs import AppendFile, FileSystem
from respkv.storage.sstable import bloom
from respkv.storage.sstable.block import ENTRY_BYTES, encode_block
from respkv.storage.sstable.format import (
    FOOTER_BYTES,
    HEADER_BYTES,
    RAW,
    TRAILER_BYTES,
    Footer,
    TableMeta,
    encode_footer,
    encode_header,
    seal,
)

BUFFER_BYTES: Final = 256 << 10
#: Entries that ``add`` gathers before they are worked on, whatever their size.
BUFFER_ENTRIES: Final = 1024
#: After so many blocks in turn that compression did not pay for, only every eighth is tried until one is worth it.
#: Trying costs a sixth of a flush of random values; where both kinds are mixed hardly a block is left out.
VAIN_TRIES: Final = 8
RAW_BLOCKS: Final = 7
_STAMPED_BYTES: Final = 11
_LOW_BITS: Final = bytes(value & 15 for value in range(256))


def separator(before: bytes, first: bytes) -> bytes:
    """The shortest prefix of ``first`` that is greater than ``before``; ``before`` < ``first``."""
    size = min(len(before), len(first))
    difference = int.from_bytes(before[:size], "big") ^ int.from_bytes(first[:size], "big")
    # The highest bit that differs stands in the first byte that differs; none: ``before`` is a prefix.
    return first[: size + 1 - (difference.bit_length() + 7 >> 3)]


class TableBuilder:
    """Writes one table file. ``finish`` or ``abort`` must be called.

    ``size`` is the file's length so far, including entries that wait for their block.
    """

    __slots__ = (
        "_block_bytes",
        "_block_lengths",
        "_compress",
        "_file",
        "_fs",
        "_hashes",
        "_keys",
        "_last_key",
        "_max_stamp",
        "_min_stamp",
        "_offset",
        "_out",
        "_out_bytes",
        "_pending_bytes",
        "_raw_blocks",
        "_records",
        "_separators",
        "_smallest",
        "_tombstones",
        "_vain_tries",
        "entries",
        "file_id",
        "path",
    )

    def __init__(
        self, fs: FileSystem, path: str, file_id: int, *, block_bytes: int = 4096, compress: bool = True
    ) -> None:
        """Create the file; OSError passes through."""
        self._fs = fs
        self.path = path
        self.file_id = file_id
        self._block_bytes = block_bytes
        self._compress = compress
        self._raw_blocks = self._vain_tries = 0
        self._file: AppendFile = fs.create(path)
        self.entries = 0
        self._keys: list[bytes] = []
        self._records: list[bytes] = []
        self._pending_bytes = 0
        self._hashes = array("Q")
        self._separators: list[bytes] = []
        self._block_lengths: list[bytes] = []
        self._smallest = b""
        self._last_key: bytes | None = None
        self._min_stamp = b""
        self._max_stamp = b""
        self._tombstones = 0
        self._out: list[bytes] = [encode_header(file_id)]
        self._out_bytes = HEADER_BYTES
        self._offset = HEADER_BYTES

    @property
    def size(self) -> int:
        return self._offset + self._pending_bytes

    def add(self, key: bytes, record: bytes) -> None:
        """One entry; its key must be greater than the last one's (AssertionError, perhaps later)."""
        self._keys.append(key)
        self._records.append(record)
        self._pending_bytes += len(key) + len(record)
        if self._pending_bytes >= BUFFER_BYTES or len(self._keys) >= BUFFER_ENTRIES:
            self._work(final=False)

    def add_many(self, keys: Sequence[bytes], records: Sequence[bytes], size: int) -> None:  # HOT: table_build
        """Many entries of ``size`` bytes in all, as two lists of one length; the cheap way. Keys as in ``add``."""
        self._keys.extend(keys)
        self._records.extend(records)
        self._pending_bytes += size
        if self._pending_bytes >= BUFFER_BYTES:
            self._work(final=False)

    def finish(self) -> TableMeta:
        """Write what is left and sync the file (not its directory). OSError: then ``abort``."""
        self._work(final=True)
        index_offset = self._offset
        self._section(encode_block(self._separators, self._block_lengths), compress=self._compress)
        bloom_offset = self._offset
        self._section(bloom.encode(bloom.build(self._hashes, self.entries)), compress=False)
        properties_offset = self._offset
        meta = TableMeta(
            self.file_id,
            0,
            self.entries,
            self._smallest,
            self._last_key or b"",
            self._min_stamp,
            self._max_stamp,
            self._tombstones,
        )
        properties = meta.to_json()
        del properties["size"]
        self._section(json.dumps(properties, sort_keys=True).encode("ascii"), compress=False)
        footer = Footer(
            index_offset,
            bloom_offset - index_offset,
            bloom_offset,
            properties_offset - bloom_offset,
            properties_offset,
            self._offset - properties_offset,
        )
        self._emit(encode_footer(footer, self.file_id, self._offset))
        self._flush()
        self._file.sync()
        self._file.close()
        properties["size"] = footer.properties_offset + footer.properties_bytes + FOOTER_BYTES
        return TableMeta.from_json(properties)

    def abort(self) -> None:
        """Close and remove the file. OSError passes through."""
        self._file.close()
        self._fs.remove(self.path)

    def _work(self, *, final: bool) -> None:  # HOT: table_build
        """Write the pending entries that fill blocks; all of them when ``final``."""
        keys, records = self._keys, self._records
        count = len(keys)
        if not count:
            return
        assert all(map(lt, keys, keys[1:])), "keys must rise strictly"
        key_lengths = list(map(len, keys))
        record_lengths = list(map(len, records))
        sizes = map(add, map(add, key_lengths, record_lengths), repeat(ENTRY_BYTES))
        ends = list(accumulate(sizes))
        start, filled = 0, 0
        while start < count:
            last = bisect_left(ends, filled + self._block_bytes, start)
            if last >= count:
                if not final:
                    break
                last = count - 1
            filled = ends[last]
            self._block(keys[start : last + 1], records[start : last + 1])
            start = last + 1
        if start == count:
            self._note(keys, records, min(record_lengths))
            self._keys, self._records = [], []
            self._pending_bytes = 0
        elif start:
            self._note(keys[:start], records[:start], min(record_lengths[:start]))
            self._keys, self._records = keys[start:], records[start:]
            self._pending_bytes = sum(key_lengths[start:]) + sum(record_lengths[start:])

    def _note(self, keys: list[bytes], records: list[bytes], shortest: int) -> None:
        """Take up what the filter and the properties need to know of entries that were written."""
        self.entries += len(keys)
        self._hashes.extend(map(xxh3_64_intdigest, keys))
        if shortest < _STAMPED_BYTES:
            heads = bytes([record[0] for record in records if record])
            records = [record for record in records if len(record) >= _STAMPED_BYTES]
        else:
            heads = bytes([record[0] for record in records])
        self._tombstones += heads.translate(_LOW_BITS).count(0)
        if records:
            stamps = [record[1:11] for record in records]
            least, greatest = min(stamps), max(stamps)
            if not self._min_stamp or least < self._min_stamp:
                self._min_stamp = least
            if greatest > self._max_stamp:
                self._max_stamp = greatest

    def _block(self, keys: list[bytes], records: list[bytes]) -> None:
        last_key = self._last_key
        if last_key is None:
            self._smallest = keys[0]
            self._separators.append(b"")
        else:
            assert last_key < keys[0], "keys must rise strictly"
            self._separators.append(separator(last_key, keys[0]))
        self._last_key = keys[-1]
        before = self._offset
        compress = self._compress and not self._raw_blocks
        codec = self._section(encode_block(keys, records), compress=compress)
        if compress:
            self._vain_tries = self._vain_tries + 1 if codec == RAW else 0
            self._raw_blocks = RAW_BLOCKS if self._vain_tries >= VAIN_TRIES else 0
        elif self._raw_blocks:
            self._raw_blocks -= 1
        self._block_lengths.append(U32.pack(self._offset - before))

    def _section(self, payload: bytes, *, compress: bool) -> int:
        """Write a section; how its payload is encoded."""
        section = seal(payload, self.file_id, self._offset, compress=compress)
        self._emit(section)
        return section[-TRAILER_BYTES]

    def _emit(self, data: bytes) -> None:
        self._out.append(data)
        self._out_bytes += len(data)
        self._offset += len(data)
        if self._out_bytes >= BUFFER_BYTES:
            self._flush()

    def _flush(self) -> None:
        self._file.write(b"".join(self._out))
        self._out = []
        self._out_bytes = 0

    def __repr__(self) -> str:
        return f"<TableBuilder {self.path} entries={self.entries} size={self.size}>"
