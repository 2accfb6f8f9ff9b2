from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from struct import Struct

import pytest
from xxhash import xxh3_64_intdigest

from respkv.base.coding import U64, checksum
from respkv.base.errors import CorruptionError, FormatError, ReadMiss
from respkv.env.rng import seeded
from respkv.storage.block_cache import BlockCache
from respkv.storage.sstable.block import block_keys, block_records, encode_block, find, open_block
from respkv.storage.sstable.builder import RAW_BLOCKS, TableBuilder, separator
from respkv.storage.sstable.format import (
    FOOTER_BYTES,
    HEADER_BYTES,
    LZ4,
    Footer,
    TableMeta,
    decode_footer,
    encode_footer,
    seal,
    seed_of,
    unseal,
)
from respkv.storage.sstable.reader import TableReader
from respkv.testing.disk import SimulatedFileSystem

GOLDEN = Path(__file__).parent / "golden" / "table-1.sst"
PATH = "/t/000000000007.sst"
Entries = list[tuple[bytes, bytes]]


def disk() -> SimulatedFileSystem:
    fs = SimulatedFileSystem()
    fs.mkdir("/t")
    return fs


def build(
    fs: SimulatedFileSystem,
    entries: Entries,
    *,
    path: str = PATH,
    file_id: int = 7,
    block_bytes: int = 256,
    compress: bool = True,
) -> TableMeta:
    builder = TableBuilder(fs, path, file_id, block_bytes=block_bytes, compress=compress)
    for key, record in entries:
        builder.add(key, record)
    return builder.finish()


def get(reader: TableReader, key: bytes) -> bytes | None:
    return reader.get(key, xxh3_64_intdigest(key))


def mixed_entries() -> Entries:
    """Keys of one and of many lengths, records empty, short, compressible, random and longer than a block."""
    rng = seeded(11)
    entries = {b"\x00" + rng.randbytes(rng.randrange(1, 9)): rng.randbytes(rng.choice((0, 3, 40))) for _ in range(60)}
    for number in range(120):
        stamp = number.to_bytes(10, "big")
        kind = b"\x00" if number % 5 == 0 else b"\x01"
        entries[b"\x01user:%06d" % (number * 7)] = kind + stamp + b"value " * rng.randrange(9)
    entries[b"\x01big"] = rng.randbytes(3000)
    entries[b"\x02"] = b"last"
    return sorted(entries.items())


def long_entries() -> Entries:
    """Entries that fill some tens of pages."""
    rng = seeded(12)
    return [(b"key%05d" % number, rng.randbytes(150)) for number in range(600)]


def golden_entries() -> Entries:
    entries = [(b"\x00\x12\x34\x00\x00key:%04d" % n, b"\x01" + n.to_bytes(10, "big") + b"v" * n) for n in range(40)]
    entries += [(b"\x01" + b"k" * (n + 1), b"" if n % 2 else b"\x00" + bytes(10)) for n in range(10)]
    return entries


# blocks


@pytest.mark.parametrize(
    "keys",
    [
        [b"a"],
        [b"aa", b"ab", b"zz"],
        [b"a", b"ab", b"abc", b"b"],
        [b"", b"x"],
        [b"aa", b"aab", b"ab", b"ba", b"baa"],
        [bytes([n]) * 4 for n in range(200)],
    ],
)
def test_block_finds_every_key_and_no_other(keys: list[bytes]) -> None:
    records = [b"r" * n for n in range(len(keys))]
    block = open_block(encode_block(keys, records))
    assert block_keys(block) == keys
    assert block_records(block) == records
    for key, record in zip(keys, records):
        assert find(block, key) == record
        for other in (key + b"a", key[1:], key[:-1], key + key, b"q" + key):
            expected = records[keys.index(other)] if other in keys else None
            assert find(block, other) == expected


def test_block_is_not_fooled_by_bytes_that_span_two_keys() -> None:
    uniform = open_block(encode_block([b"abab", b"baba", b"cccc"], [b"1", b"2", b"3"]))
    assert find(uniform, b"baba") == b"2"  # first met across the boundary of the first two keys
    assert find(uniform, b"abba") is None
    mixed = open_block(encode_block([b"ab", b"b", b"ba"], [b"1", b"2", b"3"]))
    assert find(mixed, b"b") == b"2"
    assert find(mixed, b"bb") is None
    assert find(mixed, b"ba") == b"3"


def test_block_of_nothing() -> None:
    block = open_block(encode_block([], []))
    assert block_keys(block) == block_records(block) == []
    assert find(block, b"a") is None


@pytest.mark.parametrize("keys", [[b"aa", b"bb"], [b"a", b"bbb"]])
def test_block_that_contradicts_itself(keys: list[bytes]) -> None:
    good = encode_block(keys, [b"1", b"2"])
    assert open_block(good + b"trailer") == good + b"trailer"
    for at in range(0, 16, 4):
        bad = bytearray(good)
        bad[at] ^= 1
        with pytest.raises(ValueError):
            open_block(bytes(bad))
    with pytest.raises(ValueError):
        open_block(good[:-1])


def test_separator_is_the_shortest_that_divides() -> None:
    assert separator(b"abc", b"abd") == b"abd"
    assert separator(b"abcxx", b"abfyy") == b"abf"
    assert separator(b"ab", b"abcd") == b"abc"
    assert separator(b"", b"x") == b"x"


# sections, header, footer


def test_compression_is_tried_again_where_it_did_not_pay() -> None:
    rng, fs = seeded(1), disk()
    noise, dull = 40, 60
    records = [rng.randbytes(1000) if number < noise else bytes(1000) for number in range(noise + dull)]
    meta = build(fs, [(b"%05d" % number, record) for number, record in enumerate(records)], block_bytes=1000)
    assert noise * 1000 < meta.size < (noise + RAW_BLOCKS + 1) * 1000 + dull * 100
    reader = TableReader(fs, PATH, meta, BlockCache(0))
    reader.verify()
    assert [record for _, record in reader.scan(b"", None, wait=True)] == records


def test_compression_goes_on_where_it_pays_for_half_of_the_blocks() -> None:
    rng, fs = seeded(1), disk()
    records = [rng.randbytes(1000) if rng.random() < 0.5 else bytes(1000) for _ in range(400)]
    meta = build(fs, [(b"%05d" % number, record) for number, record in enumerate(records)], block_bytes=1000)
    noise = sum(any(record) for record in records)
    assert meta.size < (noise + 20) * 1000 + 400 * 100


def test_sections_are_compressed_only_where_it_pays() -> None:
    dull, noise = b"x" * 1000, seeded(1).randbytes(1000)
    assert len(seal(dull, 1, 0, compress=True)) < 100
    assert len(seal(dull, 1, 0, compress=False)) == 1009
    assert len(seal(noise, 1, 0, compress=True)) == 1009
    for payload in (dull, noise):
        section = seal(payload, 3, 77, compress=True)
        assert unseal(section, seed_of(3, 77), "p", 77)[:1000] == payload
        with pytest.raises(CorruptionError):
            unseal(section, seed_of(3, 78), "p", 78)  # misplaced
        with pytest.raises(CorruptionError):
            unseal(section, seed_of(4, 77), "p", 77)  # of another table
        with pytest.raises(CorruptionError):
            unseal(section[:5], seed_of(3, 77), "p", 77)


def test_sections_with_a_good_checksum_and_bad_contents() -> None:
    def sealed(body: bytes) -> bytes:
        return body + U64.pack(checksum(body, 5))

    with pytest.raises(CorruptionError, match="unknown codec"):
        unseal(sealed(b"payload\x09"), 5, "p", 0)
    with pytest.raises(CorruptionError, match="decompress"):
        unseal(sealed(b"\xff\x00\x00\x00garbage" + bytes([LZ4])), 5, "p", 0)


def test_footer_with_sections_that_leave_a_gap() -> None:
    footer = Footer(100, 10, 111, 10, 121, 9)
    with pytest.raises(CorruptionError, match="follow"):
        decode_footer(encode_footer(footer, 1, 130), 1, 130, "p")


def test_newer_version_is_refused_by_name() -> None:
    fs = disk()
    build(fs, [(b"a", b"b")])
    data = bytearray(fs.read_all(PATH))
    body = Struct("<8sIQ").pack(b"RKVTABLE", 2, 7)
    data[:HEADER_BYTES] = body + U64.pack(checksum(body, seed_of(7, 0)))
    fs.write_file(PATH, bytes(data))
    with pytest.raises(FormatError, match="version 2"):
        TableReader(fs, PATH, 7, BlockCache(1000))


# tables


@pytest.mark.parametrize("block_bytes", [1, 64, 300, 4096, 1 << 20])
@pytest.mark.parametrize("compress", [True, False])
def test_a_table_gives_back_what_was_put_in(block_bytes: int, compress: bool) -> None:
    fs = disk()
    entries = mixed_entries()
    meta = build(fs, entries, block_bytes=block_bytes, compress=compress)
    cache = BlockCache(1 << 20)
    reader = TableReader(fs, PATH, meta, cache)
    assert list(reader.scan(b"", None, wait=True)) == entries
    assert list(reader.scan(b"", None, wait=False)) == entries
    for _ in range(2):
        for key, record in entries:
            assert get(reader, key) == record
            assert reader.may_hold(xxh3_64_intdigest(key))
    present = dict(entries)
    rng = seeded(4)
    for key, _ in entries:
        for other in (key + b"\x00", key[:-1], bytes([rng.randrange(256)]) + key):
            assert get(reader, other) == present.get(other)
    reader.verify()
    cache.check_invariants()
    assert reader.stats()["table_bytes"] == meta.size == fs.size(PATH)


def test_scan_ranges() -> None:
    fs = disk()
    entries = mixed_entries()
    reader = TableReader(fs, PATH, build(fs, entries), BlockCache(1 << 20))
    keys = [key for key, _ in entries]
    bounds = [b"", *keys[::7], keys[3] + b"\x00", b"\x01", b"\x01v", b"\xff"]
    for start in bounds:
        for end in (*bounds, None):
            expected = [entry for entry in entries if entry[0] >= start and (end is None or entry[0] < end)]
            for wait in (True, False):
                assert list(reader.scan(start, end, wait=wait)) == expected


def test_a_walk_that_finds_nothing_reads_nothing_the_next_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """As that over what expires, ten times a second: the block in which it may begin can be of any size."""
    fs = disk()
    entries = [(b"\x01large", b"\x01" + bytes(10) + bytes(5000)), (b"\x06a", b"\x01" + bytes(10))]
    reader = TableReader(fs, PATH, build(fs, entries), BlockCache(1 << 10))
    loads: list[int] = []
    load = TableReader._load

    def counted(self: TableReader, number: int, **how: bool) -> bytes:
        loads.append(number)
        return load(self, number, **how)

    monkeypatch.setattr(TableReader, "_load", counted)
    for round_ in range(3):
        assert list(reader.scan(b"\x03%d" % round_, b"\x04", wait=False)) == []
    assert loads == [0]
    for start, end in ((b"", None), (b"\x01large", None), (b"\x01m", b"\x06a"), (b"\x03", b"\x06b")):
        expected = [entry for entry in entries if entry[0] >= start and (end is None or entry[0] < end)]
        assert list(reader.scan(start, end, wait=False)) == list(reader.scan(start, end, wait=True)) == expected


def test_meta_describes_the_table() -> None:
    fs = disk()
    stamp = [bytes([n]) * 10 for n in range(4)]
    entries = [
        (b"a", b""),
        (b"b", b"\x10" + stamp[2] + b"tombstone with flags"),
        (b"c", b"\x01" + stamp[1]),
        (b"d", b"\x00short"),
        (b"e", b"\x02" + stamp[3] + b"x"),
    ]
    meta = build(fs, entries)
    assert meta == TableMeta(7, fs.size(PATH), 5, b"a", b"e", stamp[1], stamp[3], 2)
    assert TableMeta.from_json(json.loads(json.dumps(meta.to_json()))) == meta
    assert TableReader(fs, PATH, 7, BlockCache(0)).meta == meta
    with pytest.raises(CorruptionError, match="not the one"):
        TableReader(fs, PATH, dataclasses.replace(meta, entries=6), BlockCache(0))
    with pytest.raises(KeyError):
        TableMeta.from_json({"file_id": 1})


@pytest.mark.parametrize("length", [2, 6])
def test_a_read_is_not_fooled_by_bytes_that_span_two_keys(length: int) -> None:
    fs = disk()
    every = [bytes(b"ab"[number >> bit & 1] for bit in range(length)) for number in range(1 << length)]
    for keep in (2, 3, 5):
        entries = [(key, b"record of " + key) for number, key in enumerate(sorted(every)) if number % keep]
        path = f"/t/{keep}"
        meta = build(fs, entries, path=path, block_bytes=4096)
        reader = TableReader(fs, path, meta, BlockCache(1 << 20))
        present = dict(entries)
        for key in every:
            assert get(reader, key) == present.get(key)


def test_a_table_of_nothing() -> None:
    fs = disk()
    meta = build(fs, [])
    reader = TableReader(fs, PATH, meta, BlockCache(0))
    assert get(reader, b"a") is None
    assert list(reader.scan(b"", None, wait=True)) == []
    reader.verify()
    assert (meta.entries, meta.smallest, meta.largest) == (0, b"", b"")


@pytest.mark.parametrize("keys", [[b"b", b"a"], [b"a", b"a"]])
def test_keys_must_rise(keys: list[bytes]) -> None:
    fs = disk()
    builder = TableBuilder(fs, PATH, 7, block_bytes=1)
    with pytest.raises(AssertionError):
        for key in keys:
            builder.add_many([key], [b"r" * (256 << 10)], len(key) + (256 << 10))
    builder.abort()
    assert not fs.exists(PATH)


def test_bulk_and_single_adding_make_the_same_file() -> None:
    fs = disk()
    entries = [(b"key%08d" % n, seeded(n).randbytes(n % 400)) for n in range(3000)]
    build(fs, entries)
    for step in (1, 7, 1000, 3000):
        path = f"/t/{step}"
        builder = TableBuilder(fs, path, 7, block_bytes=256)
        for at in range(0, len(entries), step):
            part = entries[at : at + step]
            size = sum(len(key) + len(record) for key, record in part)
            builder.add_many([key for key, _ in part], [record for _, record in part], size)
            assert builder.size >= HEADER_BYTES
        assert builder.finish().size == fs.size(path)
        assert fs.read_all(path) == fs.read_all(PATH)


def test_the_file_is_durable_when_finish_returns() -> None:
    fs = disk()
    entries = mixed_entries()
    meta = build(fs, entries)
    fs.sync_dir("/t")
    after = fs.crash(seeded(3))
    assert list(TableReader(after, PATH, meta, BlockCache(0)).scan(b"", None, wait=True)) == entries


# misses


def test_a_cold_block_is_a_miss_and_is_there_afterwards() -> None:
    fs = disk()
    entries = long_entries()
    cache = BlockCache(1 << 20)
    reader = TableReader(fs, PATH, build(fs, entries), cache)
    fs.cold = seeded(5)
    fs.drop_page_cache()
    misses = 0
    for key, record in entries:
        while True:
            try:
                assert get(reader, key) == record
                break
            except ReadMiss as miss:
                misses += 1
                miss.request.install(miss.request.read())
                assert get(reader, key) == record
    assert misses > 3
    stats = cache.stats()
    assert stats["block_cache_misses"] >= misses
    assert stats["block_cache_hits"] > len(entries) // 2


def test_scan_goes_on_after_a_miss_where_it_was() -> None:
    fs = disk()
    entries = long_entries()
    reader = TableReader(fs, PATH, build(fs, entries), BlockCache(1 << 20))
    fs.cold = seeded(6)
    fs.drop_page_cache()
    found: Entries = []
    misses = 0
    start = b""
    while True:
        try:
            for key, record in reader.scan(start, None, wait=False):
                found.append((key, record))
                start = key + b"\x00"
            break
        except ReadMiss as miss:
            misses += 1
            miss.request.install(miss.request.read())
    assert found == entries
    assert misses > 3


def test_waiting_reads_need_no_page_cache() -> None:
    fs = disk()
    entries = long_entries()
    reader = TableReader(fs, PATH, build(fs, entries), BlockCache(0))
    fs.cold = seeded(7)
    fs.drop_page_cache()
    for key, record in entries:
        fs.drop_page_cache()
        assert reader.get_waiting(key, xxh3_64_intdigest(key)) == record


def test_a_request_outlives_its_reader() -> None:
    fs = disk()
    entries = long_entries()
    cache = BlockCache(1 << 20)
    reader = TableReader(fs, PATH, build(fs, entries), cache)
    fs.cold = seeded(8)
    fs.drop_page_cache()
    miss = None
    while miss is None:
        try:
            get(reader, entries[5][0])
            fs.drop_page_cache()
            reader = TableReader(fs, PATH, 7, cache)
        except ReadMiss as caught:
            miss = caught
    scan = reader.scan(b"", None, wait=True)
    first = next(scan)
    reader.close()
    reader.close()
    fs.remove(PATH)
    miss.request.install(miss.request.read())
    assert [first, *scan] == entries
    assert cache.stats()["block_cache_blocks"] == 0
    cache.check_invariants()


def test_scans_do_not_fill_the_cache() -> None:
    fs = disk()
    entries = mixed_entries()
    cache = BlockCache(1 << 20)
    reader = TableReader(fs, PATH, build(fs, entries), cache)
    assert len(list(reader.scan(b"", None, wait=False))) == len(entries)
    assert len(list(reader.scan(b"", None, wait=True))) == len(entries)
    assert cache.stats()["block_cache_blocks"] == 0


# damage


def test_every_flipped_byte_is_reported_and_never_a_wrong_answer() -> None:
    fs = disk()
    entries = [(b"\x01key:%03d" % n, b"\x01" + n.to_bytes(10, "big") + b"some value " * (n % 4)) for n in range(24)]
    entries.append((b"\x01odd", seeded(2).randbytes(90)))
    meta = build(fs, entries, block_bytes=200)
    good = fs.read_all(PATH)
    present = dict(entries)
    asked = [(key, xxh3_64_intdigest(key), present.get(key)) for key in [*present, b"\x01key:0005", b"\x01nokey"]]
    for at in range(len(good)):
        bad = bytearray(good)
        bad[at] ^= 1 << (at % 8)
        fs.write_file(PATH, bytes(bad))
        try:
            reader = TableReader(fs, PATH, meta, BlockCache(1 << 20))
        except CorruptionError as error:
            assert error.path == PATH
            continue
        with pytest.raises(CorruptionError):
            reader.verify()
        with pytest.raises(CorruptionError):
            list(reader.scan(b"", None, wait=True))
        for key, key_hash, record in asked:
            try:
                assert reader.get(key, key_hash) == record
            except CorruptionError as error:
                assert error.path == PATH and error.offset <= at < len(good) - FOOTER_BYTES


def test_damage_that_comes_later_is_met_by_verify() -> None:
    fs = disk()
    meta = build(fs, mixed_entries())
    reader = TableReader(fs, PATH, meta, BlockCache(1 << 20))
    reader.verify()
    for at in (3, HEADER_BYTES + 5, meta.size // 2, meta.size - 100, meta.size - 3):
        fs.flip(PATH, at, 2)
        with pytest.raises(CorruptionError):
            reader.verify()
        fs.flip(PATH, at, 2)
    reader.verify()


@pytest.mark.parametrize("cut", [1, 9, FOOTER_BYTES, 1000])
def test_a_cut_file(cut: int) -> None:
    fs = disk()
    meta = build(fs, mixed_entries())
    reader = TableReader(fs, PATH, meta, BlockCache(1 << 20))
    fs.truncate(PATH, meta.size - cut)
    with pytest.raises(CorruptionError):
        TableReader(fs, PATH, meta, BlockCache(1 << 20))
    fs.truncate(PATH, 40)
    with pytest.raises(CorruptionError):
        TableReader(fs, PATH, meta, BlockCache(1 << 20))
    fs.truncate(PATH, 20)
    with pytest.raises(CorruptionError, match="header"):
        TableReader(fs, PATH, meta, BlockCache(1 << 20))
    with pytest.raises(CorruptionError):
        list(reader.scan(b"", None, wait=True))
    with pytest.raises(ReadMiss) as miss:
        get(reader, mixed_entries()[-1][0])
    with pytest.raises(CorruptionError, match="cut"):
        miss.value.request.read()


def test_a_table_under_another_name() -> None:
    fs = disk()
    build(fs, mixed_entries())
    fs.rename(PATH, "/t/000000000008.sst")
    with pytest.raises(CorruptionError):
        TableReader(fs, "/t/000000000008.sst", 8, BlockCache(0))


def test_verify_tells_its_progress() -> None:
    fs = disk()
    meta = build(fs, mixed_entries())
    seen: list[int] = []
    TableReader(fs, PATH, meta, BlockCache(0)).verify(seen.append)
    assert sum(seen) == meta.size - HEADER_BYTES
    assert len(seen) > 10


class TestTablesThatLie:
    """Checksums are right and the contents are not: what only a faulty writer makes."""

    def lie(self, name: str) -> None:
        fs = disk()
        builder = TableBuilder(fs, PATH, 7, block_bytes=64)
        for number in range(20):
            builder.add(b"key%02d" % number, b"record of some length")
        builder._work(final=True)
        if name == "filter":
            builder._hashes[0] ^= 0xFFFFFFFFFFFF
        elif name == "index":
            builder._separators[2] = b"key00"
        elif name == "order":
            builder._separators[2] = b"zzz"
        elif name == "cover":
            builder._block_lengths.pop()
            builder._separators.pop()
        elif name == "entries":
            builder.entries += 1
        elif name == "smallest":
            builder._smallest = b"kez"
        meta = builder.finish()
        TableReader(fs, PATH, meta, BlockCache(0)).verify()

    def test_truth(self) -> None:
        self.lie("nothing")

    @pytest.mark.parametrize(
        ("name", "reason"),
        [
            ("filter", "filter denies"),
            ("index", "index and keys"),
            ("order", "index and keys"),
            ("cover", "does not cover"),
            ("entries", "disagree"),
            ("smallest", "smallest"),
        ],
    )
    def test_lie(self, name: str, reason: str) -> None:
        with pytest.raises(CorruptionError, match=reason):
            self.lie(name)


def test_golden_file() -> None:
    fs = disk()
    build(fs, golden_entries())
    # The bytes of version 1 may never change: a change needs a new version and must go on reading this file.
    assert fs.read_all(PATH) == GOLDEN.read_bytes()
    reader = TableReader(fs, PATH, 7, BlockCache(1 << 20))
    assert list(reader.scan(b"", None, wait=True)) == golden_entries()
    reader.verify()
