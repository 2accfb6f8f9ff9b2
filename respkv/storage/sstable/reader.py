"""Reading a table: point reads for the loop, scans, and whole-file verification.

Opening reads and verifies footer, index, filter and properties and keeps them in memory (about 1.5 bytes a
key and 90 bytes a block). A block is verified whenever it comes from the file; the cache holds verified ones.

A point read takes the block from the cache, or from the page cache without waiting, or raises ReadMiss with a
request that a thread may serve. Any damage, a sector that cannot be read too, shows as CorruptionError, never as an
absent key.

A reader that was closed lets go of its file; requests and scans that still run hold it until they end.
"""

from __future__ import annotations

import json
import struct
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator
from itertools import accumulate, chain
from operator import lt
from struct import unpack
from typing import Final

from xxhash import xxh3_64_intdigest

from respkv.base.errors import CorruptionError, ReadMiss, as_damage
from respkv.env.fs import FileSystem, ReadFile
from respkv.storage.block_cache import BlockCache, CachedBlocks
from respkv.storage.sstable import bloom
from respkv.storage.sstable.block import (
    HEAD,
    PAIR,
    RECORD_OFFSETS_AT,
    block_keys,
    block_records,
    find,
    open_block,
)
from respkv.storage.sstable.format import (
    FOOTER_BYTES,
    HEADER_BYTES,
    Footer,
    TableMeta,
    check_header,
    decode_footer,
    seed_of,
    unseal,
)

#: Reads of scans and verification that may wait fetch this much at once.
READ_AHEAD_BYTES: Final = 256 << 10
_HEAD: Final = HEAD.unpack_from
_PAIR: Final = PAIR.unpack_from
_MASKS: Final = bloom.MASKS

#: Blocks of a table of which it is remembered where they end.
_LAST_KEYS_MAX: Final = 64

Chunk = tuple[list[bytes], list[bytes]]


class TableBlockRequest:
    """A block that a read needs and memory does not hold (see ``base.errors.BlockRequest``)."""

    __slots__ = ("_cache", "_cached", "_file", "_seed", "number", "offset", "path", "size")

    def __init__(
        self, cache: BlockCache, cached: CachedBlocks, file: ReadFile, number: int, offset: int, size: int
    ) -> None:
        self._cache = cache
        self._cached = cached
        self._file = file
        self._seed = seed_of(cached.file_id, offset)
        self.path = file.path
        self.number = number
        self.offset = offset
        self.size = size

    def read(self) -> bytes:
        """The block, read and verified; blocking, from any thread. CorruptionError, OSError."""
        section = _pread(self._file, self.size, self.offset)
        return decode_section(section, self.size, self._seed, self.path, self.offset)

    def install(self, block: object) -> None:
        """Put the block into the cache, pinned for who waits for it; nothing if the table is gone."""
        assert isinstance(block, bytes)
        self._cache.put(self._cached, self.number, block, pin=True)

    def __repr__(self) -> str:
        return f"<TableBlockRequest {self.path} block={self.number}>"


def _pread(file: ReadFile, size: int, offset: int) -> bytes:
    """As ``file.pread``; CorruptionError for what the disk cannot give back."""
    try:
        return file.pread(size, offset)
    except OSError as error:
        raise as_damage(error, file.path, offset) from error


def decode_section(section: bytes, size: int, seed: int, path: str, offset: int) -> bytes:
    """The block in ``section``, which should have ``size`` bytes. CorruptionError."""
    if len(section) != size:
        raise CorruptionError(path, offset, f"{len(section)} bytes of {size}: the file is cut")
    try:
        return open_block(unseal(section, seed, path, offset))
    except (struct.error, ValueError) as error:
        raise CorruptionError(path, offset, f"not a block: {error}") from error


def _decode_blocks(blocks: list[bytes]) -> Chunk:
    """The entries of neighbouring blocks."""
    keys: list[bytes] = []
    records: list[bytes] = []
    for block in blocks:
        keys += block_keys(block)
        records += block_records(block)
    return keys, records


class TableReader:
    """One open table. Only for the loop's thread, or for a worker that has it alone."""

    __slots__ = (
        "_cache",
        "_cached",
        "_file",
        "_index",
        "_last_keys",
        "_offsets",
        "_seed",
        "_slots",
        "_words",
        "file_id",
        "filter",
        "meta",
        "path",
    )

    def __init__(self, fs: FileSystem, path: str, meta: TableMeta | int, cache: BlockCache) -> None:
        """Open ``path``; with a ``TableMeta`` (rather than the file id alone) the file must agree with it.

        Reads a few per cent of the file, blocking. CorruptionError, FormatError, OSError.
        """
        self.path = path
        self.file_id = meta if isinstance(meta, int) else meta.file_id
        try:
            file = fs.open_read(path)
        except OSError as error:
            raise as_damage(error, path, 0) from error
        try:
            self._open(file, meta)
        except BaseException:
            file.close()
            raise
        self._file: ReadFile = file
        self._seed = seed_of(self.file_id, 0)
        self._words = len(self.filter)
        self._cache = cache
        self._cached = cache.open_file(self.file_id, len(self._index))
        self._slots = self._cached.blocks
        #: last keys of blocks that scans have read in vain: where a range may begin, and did not
        self._last_keys: dict[int, bytes] = {}

    def _open(self, file: ReadFile, meta: TableMeta | int) -> None:
        path, file_id = self.path, self.file_id
        size = file.size()
        check_header(_pread(file, HEADER_BYTES, 0), file_id, path)
        end = size - FOOTER_BYTES
        if end < HEADER_BYTES:
            raise CorruptionError(path, size, "file too short for a table's footer")
        footer = decode_footer(_pread(file, FOOTER_BYTES, end), file_id, end, path)
        tail = _pread(file, end - footer.index_offset, footer.index_offset)
        if len(tail) != end - footer.index_offset:
            raise CorruptionError(path, footer.index_offset, "the file is cut")
        self._index, self._offsets = self._read_index(tail, footer)
        self.filter = self._read_bloom(tail, footer)
        self.meta = self._read_properties(tail, footer, size)
        if isinstance(meta, TableMeta) and meta != self.meta:
            raise CorruptionError(path, footer.properties_offset, "the table is not the one asked for")

    def _read_index(self, tail: bytes, footer: Footer) -> tuple[list[bytes], array[int]]:
        section = tail[: footer.index_bytes]
        seed = seed_of(self.file_id, footer.index_offset)
        block = decode_section(section, footer.index_bytes, seed, self.path, footer.index_offset)
        lengths = unpack(f"<{len(block_records(block))}I", b"".join(block_records(block)))
        offsets = array("Q", accumulate(lengths, initial=HEADER_BYTES))
        if offsets[-1] != footer.index_offset:
            raise CorruptionError(self.path, footer.index_offset, "the index does not cover the blocks")
        return block_keys(block), offsets

    def _read_bloom(self, tail: bytes, footer: Footer) -> array[int]:
        start = footer.bloom_offset - footer.index_offset
        section = tail[start : start + footer.bloom_bytes]
        payload = unseal(section, seed_of(self.file_id, footer.bloom_offset), self.path, footer.bloom_offset)
        try:
            return bloom.decode(payload[: footer.bloom_bytes - 9])
        except ValueError as error:
            raise CorruptionError(self.path, footer.bloom_offset, str(error)) from error

    def _read_properties(self, tail: bytes, footer: Footer, size: int) -> TableMeta:
        offset = footer.properties_offset
        section = tail[offset - footer.index_offset :]
        payload = unseal(section, seed_of(self.file_id, offset), self.path, offset)
        try:
            return TableMeta.from_json({**json.loads(payload[: footer.properties_bytes - 9]), "size": size})
        except (ValueError, KeyError, TypeError) as error:
            raise CorruptionError(self.path, offset, f"properties not understood: {error}") from error

    def may_hold(self, key_hash: int) -> bool:
        """Whether the table may have a key of this hash; False is certain, True is wrong for 1 key in 100."""
        mask = _MASKS[key_hash & 4095]
        return self.filter[key_hash % self._words] & mask == mask

    def get(self, key: bytes, key_hash: int) -> bytes | None:  # HOT: table_get
        """The record of ``key``, None when it is not here. ``key_hash`` is xxh3_64 of the key.

        ReadMiss when the block is neither in our cache nor in the system's; CorruptionError.
        """
        mask = _MASKS[key_hash & 4095]
        if self.filter[key_hash % self._words] & mask != mask:
            return None
        number = bisect_right(self._index, key) - 1
        block = self._slots.get(number)
        if block is None:
            block = self._load(number)
        else:
            cached = self._cached
            cached.used[number] = 1
            cached.hits += 1
        # The first half of block.find, without its call.
        key_length, start, end = _HEAD(block)
        at = block.find(key, start, end)
        if at < 0:
            return None
        if key_length == len(key):
            place, misfit = divmod(at - start, key_length)
            if not misfit:
                begin, stop = _PAIR(block, RECORD_OFFSETS_AT + 4 * place)
                return block[begin:stop]
        return find(block, key)

    def _load(self, number: int, *, keep: bool = True) -> bytes:  # HOT: table_get
        """The block from the page cache; ReadMiss when it is not there. Cached if ``keep``."""
        offsets = self._offsets
        offset = offsets[number]
        size = offsets[number + 1] - offset
        try:
            section = self._file.pread_nowait(size, offset)
        except OSError as error:
            raise as_damage(error, self.path, offset) from error
        if section is None:
            self._cache.misses += 1
            raise ReadMiss(TableBlockRequest(self._cache, self._cached, self._file, number, offset, size))
        # Its checksum is enough here; that a block does not contradict itself is checked by ``verify``.
        block = unseal(section, self._seed + offset, self.path, offset)
        if keep:
            self._cache.put(self._cached, number, block)
        return block

    def get_waiting(self, key: bytes, key_hash: int) -> bytes | None:
        """As ``get``, but reads what is missing, blocking: for workers and tools."""
        try:
            return self.get(key, key_hash)
        except ReadMiss as miss:
            block = miss.request.read()
            miss.request.install(block)
            assert isinstance(block, bytes)
            return find(block, key)

    def scan(self, start: bytes, end: bytes | None, *, wait: bool) -> Iterator[tuple[bytes, bytes]]:
        """The (key, record) pairs from ``start`` to before ``end`` in key order.

        With ``wait`` it reads, blocking; without, ReadMiss comes before the first entry of a block that is
        not in memory, and a new scan from the key after the last one goes on. Blocks read for a scan do not
        enter the cache. About 0.3 us an entry.
        """
        for keys, records in self.scan_chunks(start, end, wait=wait):
            yield from zip(keys, records)

    def scan_chunks(self, start: bytes, end: bytes | None, *, wait: bool) -> Iterator[Chunk]:
        """As ``scan``, many entries at a time: their keys and their records as two lists of one length.

        A chunk is a block, with ``wait`` what one read of ``READ_AHEAD_BYTES`` brought.
        """
        first = max(0, bisect_right(self._index, start) - 1)
        stop = len(self._index) if end is None else bisect_left(self._index, end)
        if first < stop and (known := self._last_keys.get(first)) is not None and known < start:
            # A walk that comes again and again, as that over what expires, need not read the same block each time.
            first += 1
        at = first
        if wait:
            chunks: Iterator[Chunk] = map(_decode_blocks, self._reads(first, stop))
        else:
            blocks = map(self._block_at_hand, range(first, stop))
            chunks = ((block_keys(block), block_records(block)) for block in blocks)
        for keys, records in chunks:
            low = bisect_left(keys, start) if keys[0] < start else 0
            high = len(keys) if end is None or keys[-1] < end else bisect_left(keys, end)
            if low or high < len(keys):
                if low == len(keys) and at == first:
                    self._remember_last(first, keys[-1])
                keys, records = keys[low:high], records[low:high]
            at += 1
            if keys:
                yield keys, records

    def _remember_last(self, number: int, key: bytes) -> None:
        if len(self._last_keys) >= _LAST_KEYS_MAX:
            self._last_keys.clear()
        self._last_keys[number] = key

    def block_end(self, key: bytes) -> bytes | None:
        """Where the block that may hold ``key`` ends: no key from there on is in it. None for the last one."""
        number = max(1, bisect_right(self._index, key))
        return self._index[number] if number < len(self._index) else None

    def _block_at_hand(self, number: int) -> bytes:
        block = self._slots.get(number)
        return block if block is not None else self._load(number, keep=False)

    def _reads(self, first: int, stop: int) -> Iterator[list[bytes]]:
        """Blocks ``first`` to before ``stop`` from the file, verified; each list is what one read brought."""
        file, offsets, path, seed = self._file, self._offsets, self.path, self._seed
        while first < stop:
            base = offsets[first]
            last = max(first + 1, bisect_right(offsets, base + READ_AHEAD_BYTES, first, stop + 1) - 1)
            data = _pread(file, offsets[last] - base, base)
            blocks = []
            for number in range(first, last):
                offset = offsets[number]
                size = offsets[number + 1] - offset
                section = data[offset - base : offset - base + size]
                blocks.append(decode_section(section, size, seed + offset, path, offset))
            yield blocks
            first = last

    def verify(self, progress: Callable[[int], None] | None = None) -> None:
        """Read every byte again and check it: checksums, key order, filter, index and properties.

        ``progress`` is called with the bytes checked since its last call. CorruptionError. About 1 s for
        200 MB.
        """
        fresh = TableReader.__new__(TableReader)
        fresh.path, fresh.file_id = self.path, self.file_id
        fresh._open(self._file, self.meta)
        fresh._words = len(fresh.filter)
        entries = 0
        last_key: bytes | None = None
        blocks = chain.from_iterable(self._reads(0, len(self._index)))
        for number, block in enumerate(blocks):
            offset = self._offsets[number]
            keys = block_keys(block)
            fresh._verify_keys(keys, number, last_key, offset)
            entries += len(keys)
            last_key = keys[-1]
            if progress is not None:
                progress(self._offsets[number + 1] - offset)
        if entries != self.meta.entries or (last_key or b"") != self.meta.largest:
            raise CorruptionError(self.path, self._offsets[-1], "properties and entries disagree")
        if progress is not None:
            progress(self.meta.size - self._offsets[-1])

    def _verify_keys(self, keys: list[bytes], number: int, last_key: bytes | None, offset: int) -> None:
        """Check one block's keys against each other, the block before, index, filter and properties.

        Of each block two keys are held against the filter: its bytes have a checksum of their own, and a
        writer that built it wrongly would hardly be wrong about the other keys only.
        """
        if not all(map(lt, keys, keys[1:])):
            raise CorruptionError(self.path, offset, "keys do not rise")
        if last_key is None:
            if keys[0] != self.meta.smallest:
                raise CorruptionError(self.path, offset, "the first key is not the smallest")
        elif last_key >= self._index[number] or self._index[number] > keys[0]:
            raise CorruptionError(self.path, offset, "index and keys disagree")
        if not (self.may_hold(xxh3_64_intdigest(keys[0])) and self.may_hold(xxh3_64_intdigest(keys[-1]))):
            raise CorruptionError(self.path, offset, "the filter denies a key that is there")

    def close(self) -> None:
        """Leave the cache and let go of the file; it closes with the last request or scan that uses it."""
        if hasattr(self, "_file"):
            self._cache.drop_file(self.file_id)
            self._slots = {}
            del self._file

    def stats(self) -> dict[str, int]:
        """Size on disk and bytes of memory for index and filter. O(blocks)."""
        return {
            "table_bytes": self.meta.size,
            "table_filter_bytes": 8 * self._words,
            "table_index_bytes": sum(map(len, self._index)) + 49 * len(self._index),
        }

    def __repr__(self) -> str:
        return f"<TableReader {self.path} entries={self.meta.entries}>"
