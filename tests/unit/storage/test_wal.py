from __future__ import annotations

import random
import struct
from pathlib import Path

import pytest
from xxhash import xxh3_64_intdigest

from respkv.base.coding import U64, checksum
from respkv.base.errors import CorruptionError, FormatError
from respkv.storage import wal
from respkv.storage.wal import (
    BATCH,
    EDIT,
    HEADER_BYTES,
    RECORD_OVERHEAD,
    SEGMENT_MAGIC,
    LogHeader,
    LogReader,
    LogRecord,
    LogWriter,
    Replay,
    encode_header,
    read_closed,
    replay,
    segment_id,
    segment_path,
)
from respkv.storage.write_batch import add_entry, apply_entries, encode_entry, iterate_payload, spread_entries
from respkv.testing.disk import SimulatedFileSystem

GOLDEN = Path(__file__).parent / "golden" / "wal-1.log"
ENTRIES = [(b"\x00\x00\x01key", b"\x01stampstampvalue"), (b"", b""), (b"\x00key", bytes(range(256)))]


def disk() -> SimulatedFileSystem:
    fs = SimulatedFileSystem()
    fs.mkdir("/d/wal")
    return fs


def segment(
    fs: SimulatedFileSystem, file_id: int, previous: tuple[int, int] = (0, 0), *, size: int = 0
) -> LogWriter:
    header = LogHeader(file_id, previous[0], previous[1], 0)
    return LogWriter(fs, segment_path("/d", file_id), SEGMENT_MAGIC, header, preallocate=size)


def closed(fs: SimulatedFileSystem, path: str) -> list[tuple[bytes, bytes]]:
    found: list[tuple[bytes, bytes]] = []
    read_closed(fs, path, lambda payload: found.extend(iterate_payload(payload)))
    return found


def fill(log: LogWriter, count: int, *, durable: int | None = None) -> None:
    """Append ``count`` batches; each says that its predecessor is durable, or ``durable`` if given."""
    for _ in range(count):
        lsn = log.last_lsn + 1
        log.append(BATCH, encode_entry(b"k%d" % lsn, b"v%d" % lsn), lsn - 1 if durable is None else durable)


def read(fs: SimulatedFileSystem, *ids: int, last_lsn: int = 0) -> tuple[dict[bytes, bytes], Replay]:
    table: dict[bytes, bytes] = {}

    def take(record: LogRecord) -> None:
        apply_entries(record.payload, table)

    files = [(file_id, segment_path("/d", file_id)) for file_id in ids]
    return table, replay(fs, files, SEGMENT_MAGIC, last_lsn, take)


def expected(count: int) -> dict[bytes, bytes]:
    return {b"k%d" % lsn: b"v%d" % lsn for lsn in range(1, count + 1)}


def test_entries_go_in_and_come_out() -> None:
    batch: list[bytes] = []
    for key, record in ENTRIES:
        add_entry(batch, key, record)
    payload = b"".join(batch)
    assert payload == b"".join(encode_entry(key, record) for key, record in ENTRIES)
    assert list(iterate_payload(payload)) == ENTRIES
    table: dict[bytes, bytes] = {}
    assert apply_entries(memoryview(payload), table) == 3
    assert table == dict(ENTRIES)


@pytest.mark.parametrize("cut", [1, 7, 9, 20])
def test_a_cut_payload_is_an_error(cut: int) -> None:
    payload = encode_entry(b"key", b"0123456789")[:-cut]
    with pytest.raises(ValueError, match="overrun"):
        apply_entries(payload, {})
    with pytest.raises(ValueError, match="overrun"):
        list(iterate_payload(payload))
    with pytest.raises(ValueError, match="overrun"):
        spread_entries(payload, {})


def test_spread_entries_are_sorted_by_sorting_the_buckets_and_each_of_them() -> None:
    rng = random.Random(3)
    entries = [(rng.randbytes(rng.choice((0, 1, 2, 3, 9))), rng.randbytes(3)) for _ in range(500)]
    buckets: dict[bytes, dict[bytes, bytes]] = {}
    for half in (entries[:200], entries[200:]):
        spread_entries(b"".join(encode_entry(key, record) for key, record in half), buckets)
    found = [(key, buckets[start][key]) for start in sorted(buckets) for key in sorted(buckets[start])]
    assert found == sorted(dict(entries).items())


def test_segment_names() -> None:
    assert segment_path("/d", 7) == "/d/wal/000000000007.log"
    assert segment_id("/d/wal/000000000007.log") == 7
    assert segment_id("000000000007.log") == 7
    for name in ("7.log", "000000000007.sst", "00000000000x.log", "CURRENT", ""):
        assert segment_id(name) is None


def test_replay_gives_what_was_appended_across_segments() -> None:
    fs = disk()
    first = segment(fs, 1, size=4096)
    fill(first, 3)
    first.append_end(3)
    second = segment(fs, 5, (1, 3), size=4096)
    fill(second, 2)
    assert read(fs, 1, 5) == (expected(5), Replay(5, 4, 5, 0))


def test_records_larger_than_the_readers_buffer() -> None:
    fs = disk()
    log = segment(fs, 1)
    log.append(BATCH, encode_entry(b"k", bytes(3 << 20)), 0)
    log.append(BATCH, encode_entry(b"l", b"small"), 1)
    table, result = read(fs, 1)
    assert len(table[b"k"]) == 3 << 20 and table[b"l"] == b"small" and result.last_lsn == 2


def test_an_empty_segment_and_no_segment() -> None:
    fs = disk()
    segment(fs, 1, (0, 9), size=4096)
    assert read(fs, 1, last_lsn=9) == ({}, Replay(9, 9, 0, 0))
    assert read(fs, last_lsn=9) == ({}, Replay(9, 9, 0, 0))


def test_a_torn_tail_is_dropped_with_what_follows_it() -> None:
    fs = disk()
    log = segment(fs, 1, size=4096)
    fill(log, 3, durable=0)
    third = log.offset
    fill(log, 2, durable=3)
    fs.flip("/d/wal/000000000001.log", third + 5, 0)
    table, result = read(fs, 1)
    assert table == expected(3)
    assert result == Replay(3, 0, 3, log.offset - third)


def test_a_destroyed_durable_record_is_corruption() -> None:
    fs = disk()
    log = segment(fs, 1, size=4096)
    fill(log, 3, durable=0)
    second = log.offset
    fill(log, 1, durable=0)
    fill(log, 1, durable=4)
    fs.flip("/d/wal/000000000001.log", second + 5, 0)
    with pytest.raises(CorruptionError, match="lsn 4") as caught:
        read(fs, 1)
    assert caught.value.offset == second


def test_the_witness_may_stand_in_a_later_segment() -> None:
    fs = disk()
    log = segment(fs, 1, size=4096)
    fill(log, 3, durable=0)
    fs.flip(log.path, log.offset - 1, 0)
    fill(segment(fs, 2, (1, 3)), 1, durable=2)
    assert read(fs, 1, 2)[0] == expected(2)
    fill(segment(fs, 3, (2, 4)), 1, durable=3)
    with pytest.raises(CorruptionError, match="lsn 3"):
        read(fs, 1, 2, 3)


def test_a_later_header_is_a_witness() -> None:
    fs = disk()
    log = segment(fs, 1)
    fill(log, 3, durable=0)
    fs.flip(log.path, log.offset - 1, 0)
    LogWriter(fs, segment_path("/d", 2), SEGMENT_MAGIC, LogHeader(2, 1, 3, 3), preallocate=0)
    with pytest.raises(CorruptionError, match="000000000002"):
        read(fs, 1, 2)


def test_a_missing_tail_or_segment_is_noticed_by_the_chain() -> None:
    fs = disk()
    log = segment(fs, 1, size=4096)
    fill(log, 2)
    second = segment(fs, 2, (1, 2))
    fill(second, 2)
    fill(segment(fs, 3, (2, 4)), 2)
    with pytest.raises(CorruptionError):
        read(fs, 1, 3)
    with pytest.raises(CorruptionError):
        read(fs, 2, 3)
    fs.truncate(log.path, log.offset - 1)
    with pytest.raises(CorruptionError):
        read(fs, 1, 2, 3)


def test_a_lost_middle_segment_is_known_from_the_header_of_an_empty_one() -> None:
    fs = disk()
    log = segment(fs, 1, size=4096)
    fill(log, 2)
    log.append_end(2)
    newest = segment_path("/d", 3)
    LogWriter(fs, newest, SEGMENT_MAGIC, LogHeader(3, 2, 4, 2), preallocate=4096)
    assert read(fs, 1, 3)[0] == expected(2), "what the lost one held was not durable"
    fs.remove(newest)
    LogWriter(fs, newest, SEGMENT_MAGIC, LogHeader(3, 2, 4, 3), preallocate=4096)
    with pytest.raises(CorruptionError, match=r"no valid record of lsn 3, which .* calls durable"):
        read(fs, 1, 3)


def test_a_torn_header_of_the_newest_segment_is_dropped() -> None:
    fs = disk()
    fill(segment(fs, 1, size=4096), 2)
    newest = segment(fs, 2, (1, 2), size=4096)
    fs.flip(newest.path, 20, 2)
    assert read(fs, 1, 2)[0] == expected(2)
    fill(newest, 2)
    with pytest.raises(CorruptionError):
        read(fs, 1, 2)


def test_recycled_and_misplaced_records_are_not_taken() -> None:
    fs = disk()
    log = segment(fs, 1, size=4096)
    fill(log, 2, durable=0)
    data = fs.read_all(log.path)
    other = segment(fs, 2)
    fs.open_append(other.path, HEADER_BYTES).write(data[HEADER_BYTES : log.offset])
    assert read(fs, 2) == ({}, Replay(0, 0, 0, log.offset - HEADER_BYTES))
    size = (log.offset - HEADER_BYTES) // 2
    fs.open_append(log.path, log.offset).write(data[HEADER_BYTES : HEADER_BYTES + size])
    assert read(fs, 1)[0] == expected(2)


def test_a_newer_format_is_refused() -> None:
    fs = disk()
    header = bytearray(encode_header(SEGMENT_MAGIC, LogHeader(1, 0, 0, 0)))
    header[6] = 2
    header[-8:] = U64.pack(checksum(bytes(header[:-8]), 1))
    fs.write_file("/d/wal/000000000001.log", bytes(header))
    with pytest.raises(FormatError, match="version 2"):
        read(fs, 1)


def test_an_unknown_record_type_is_corruption() -> None:
    fs = disk()
    segment(fs, 1).append(9, b"", 0)
    with pytest.raises(CorruptionError, match="type 9"):
        read(fs, 1)


def test_a_failed_append_leaves_the_log_as_it_was() -> None:
    fs = disk()
    log = segment(fs, 1)
    fill(log, 1)
    fs.capacity = fs.used()
    with pytest.raises(OSError):
        fill(log, 1)
    fs.capacity = None
    fill(log, 1)
    assert read(fs, 1)[0] == expected(2)


def test_a_closed_segment_is_read_whole_or_not_at_all() -> None:
    fs = disk()
    log = segment(fs, 1, size=4096)
    fill(log, 3)
    with pytest.raises(CorruptionError, match="END"):
        closed(fs, log.path)
    log.append_end(3)
    assert closed(fs, log.path) == list(expected(3).items())
    for offset in range(log.offset):
        fs.flip(log.path, offset, offset % 8)
        with pytest.raises(CorruptionError):
            closed(fs, log.path)
        fs.flip(log.path, offset, offset % 8)
    with pytest.raises(FormatError):
        closed(fs, "/d/CURRENT")


def test_a_closed_segment_whose_payload_is_no_entries() -> None:
    fs = disk()
    log = segment(fs, 1)
    log.append(BATCH, b"garbage", 0)
    log.append_end(0)
    with pytest.raises(CorruptionError, match="overrun"):
        closed(fs, log.path)


def test_every_flipped_bit_of_a_log_is_reported_or_costs_only_what_was_not_durable() -> None:
    """Two segments, six durable batches, then two that are not: no flip may ever give another state."""
    fs = disk()
    first = segment(fs, 1, size=1024)
    fill(first, 4)
    first.append_end(3)
    second = LogWriter(fs, segment_path("/d", 2), SEGMENT_MAGIC, LogHeader(2, 1, 4, 3), preallocate=1024)
    fill(second, 4, durable=6)
    outcomes = {"corrupt": 0, "torn": 0, "whole": 0}
    for log in (first, second):
        for offset in range(log.offset + 64):
            fs.flip(log.path, offset, (offset * 5) % 8)
            try:
                table, result = read(fs, 1, 2)
            except CorruptionError:
                outcomes["corrupt"] += 1
            else:
                assert table == expected(result.last_lsn)
                assert result.last_lsn >= 6
                outcomes["torn" if result.last_lsn < 8 else "whole"] += 1
            fs.flip(log.path, offset, (offset * 5) % 8)
    assert outcomes["corrupt"] > 300 and outcomes["torn"] > 50 and outcomes["whole"] >= 128


def test_a_mark_vouches_for_the_last_record_and_is_no_record_itself() -> None:
    fs = disk()
    log = segment(fs, 1, size=4096)
    fill(log, 3)
    last = log.offset - 10
    log.append_mark(3)
    fill(log, 1, durable=3)
    assert read(fs, 1) == (expected(4), Replay(4, 3, 4, 0))
    log = segment(fs, 2, size=4096)
    fill(log, 3)
    fs.flip(log.path, last, 1)
    assert read(fs, 2)[1].last_lsn == 2, "the newest record has nobody to vouch for it"
    log.append_mark(3)
    with pytest.raises(CorruptionError, match="durable"):
        read(fs, 2)


def test_the_end_of_a_closed_segment_vouches_too() -> None:
    fs = disk()
    log = segment(fs, 1, size=4096)
    fill(log, 3)
    fs.flip(log.path, log.offset - 10, 1)
    log.append_end(3)
    with pytest.raises(CorruptionError, match="durable"):
        read(fs, 1)


def test_what_somebody_else_knows_to_be_durable_must_be_there() -> None:
    fs = disk()
    log = segment(fs, 1, size=4096)
    fill(log, 3)
    fs.flip(log.path, log.offset - 10, 1)
    files = [(1, log.path)]
    assert replay(fs, files, SEGMENT_MAGIC, 0, lambda record: None, known_durable_lsn=2).last_lsn == 2
    with pytest.raises(CorruptionError, match=r"lsn 3.* known to be durable"):
        replay(fs, files, SEGMENT_MAGIC, 0, lambda record: None, known_durable_lsn=3)
    with pytest.raises(CorruptionError, match="known to be durable"):
        replay(fs, [], SEGMENT_MAGIC, 2, lambda record: None, known_durable_lsn=3)


def test_records_of_one_write_are_there_all_or_not_at_all() -> None:
    fs = disk()
    log = segment(fs, 1, size=HEADER_BYTES)
    payloads = [encode_entry(b"k%d" % number, b"v%d" % number) for number in (1, 2, 3)]
    fs.capacity = fs.used() + len(payloads[0]) + RECORD_OVERHEAD
    before = log.offset
    with pytest.raises(OSError):
        log.append_all(BATCH, payloads, 0)
    assert (log.offset, log.last_lsn) == (before, 0)
    fs.capacity = None
    log.append_all(BATCH, payloads, 0)
    fill(log, 1)
    assert read(fs, 1)[0] == expected(4)


def test_the_search_for_a_witness_passes_garbage_that_looks_like_records() -> None:
    fs = disk()
    log = segment(fs, 1, size=1 << 16)
    fill(log, 2, durable=0)
    torn = log.offset
    fs.open_append(log.path, torn).write(b"\xa5\xd7" * 3000 + b"\xa5")
    reader = LogReader(fs.open_read(log.path), 1, SEGMENT_MAGIC)
    assert reader.witness(torn, 3) is None
    assert reader.used_after(torn) == 6001
    assert reader.witness(HEADER_BYTES, 0) == HEADER_BYTES


@pytest.mark.parametrize("torn", [False, True])
def test_a_value_full_of_what_looks_like_records_costs_little_and_hides_no_witness(
    torn: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = 1 << 17
    fake = struct.pack("<HIBQQ", 0xD7A5, size // 2, BATCH, 1 << 62, 1 << 61)
    fs = disk()
    log = segment(fs, 1)
    fill(log, 1)
    start = log.offset
    log.append(BATCH, fake * (size // len(fake)), 0)
    fs.flip(log.path, log.offset - 1 if torn else HEADER_BYTES, 0)
    checked = 0

    def count(data: bytes, seed: int) -> int:
        nonlocal checked
        checked += len(data)
        return xxh3_64_intdigest(data, seed)

    monkeypatch.setattr(wal, "xxh3_64_intdigest", count)
    result = read(fs, 1)[1]
    assert result.last_lsn == int(torn) and result.dropped_bytes > size
    assert checked < 20 * log.offset, f"{checked // log.offset} times the file"
    reader = LogReader(fs.open_read(log.path), 1, SEGMENT_MAGIC)
    end = log.offset
    log.append_mark(2)
    assert LogReader(fs.open_read(log.path), 1, SEGMENT_MAGIC).witness(start, 2) == end
    assert reader.witness(start, 2) is None


def golden_log(fs: SimulatedFileSystem) -> LogWriter:
    header = LogHeader(1, 0, 41, 40)
    log = LogWriter(fs, segment_path("/d", 1), SEGMENT_MAGIC, header, preallocate=0)
    log.append(BATCH, encode_entry(*ENTRIES[0]) + encode_entry(*ENTRIES[1]), 41)
    log.append(BATCH, encode_entry(*ENTRIES[2]), 42)
    log.append_end(42)
    return log


def test_the_format_has_not_changed() -> None:
    fs = disk()
    log = golden_log(fs)
    assert fs.read_all(log.path) == GOLDEN.read_bytes()
    entries = sum(8 + len(key) + len(record) for key, record in ENTRIES)
    assert log.offset == HEADER_BYTES + 3 * RECORD_OVERHEAD + entries


def test_the_stored_log_can_be_read() -> None:
    fs = disk()
    fs.write_file("/d/wal/000000000001.log", GOLDEN.read_bytes())
    assert closed(fs, "/d/wal/000000000001.log") == ENTRIES
    table, result = read(fs, 1, last_lsn=41)
    assert table == dict(ENTRIES) and result == Replay(43, 42, 2, 0)
    reader = LogReader(fs.open_read("/d/wal/000000000001.log"), 1, SEGMENT_MAGIC)
    assert reader.header() == LogHeader(1, 0, 41, 40)
    assert EDIT not in {record.kind for record in reader.records()}
