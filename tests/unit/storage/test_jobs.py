from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from xxhash import xxh3_64_intdigest

from respkv.base.errors import CorruptionError, StorageFull
from respkv.env.rng import seeded
from respkv.storage.block_cache import BlockCache
from respkv.storage.jobs import Keep, Lookup, compact_job, flush_job, no_pause
from respkv.storage.sstable.builder import TableBuilder
from respkv.storage.sstable.format import TableMeta
from respkv.storage.sstable.reader import TableReader
from respkv.storage.version import table_path
from respkv.storage.wal import BATCH, SEGMENT_MAGIC, LogHeader, LogWriter, segment_path
from respkv.storage.write_batch import encode_entry
from respkv.testing.disk import SimulatedFileSystem

Entries = list[tuple[bytes, bytes]]
OPTIONS = {"block_bytes": 512, "compress": True, "table_bytes": 1 << 20}


def disk() -> SimulatedFileSystem:
    fs = SimulatedFileSystem()
    for name in ("wal", "tables"):
        fs.mkdir(f"/d/{name}")
    fs.sync_dir("/d")
    fs.sync_dir("/")
    return fs


def write_segment(fs: SimulatedFileSystem, file_id: int, commits: list[Entries], *, closed: bool = True) -> None:
    path = segment_path("/d", file_id)
    log = LogWriter(fs, path, SEGMENT_MAGIC, LogHeader(file_id, 0, 0, 0), preallocate=0)
    for commit in commits:
        log.append(BATCH, b"".join(encode_entry(key, record) for key, record in commit), 0)
    if closed:
        log.append_end(0)
    log.file.sync()


def write_run(fs: SimulatedFileSystem, file_id: int, entries: Entries, *, tables: int = 1) -> list[dict[str, Any]]:
    """A run of ``tables`` tables with ids from ``file_id``; its metas as plain data."""
    entries = sorted(entries)
    metas = []
    size = -(-len(entries) // tables)
    for number in range(tables):
        path = table_path("/d", file_id + number)
        builder = TableBuilder(fs, path, file_id + number, block_bytes=256)
        for key, record in entries[number * size : (number + 1) * size]:
            builder.add(key, record)
        metas.append(builder.finish().to_json())
    return metas


def read_tables(fs: SimulatedFileSystem, result: dict[str, Any]) -> Entries:
    entries: Entries = []
    for data in result["tables"]:
        meta = TableMeta.from_json(data)
        reader = TableReader(fs, table_path("/d", meta.file_id), meta, BlockCache(0))
        entries += reader.scan(b"", None, wait=True)
    return entries


def flush_spec(segments: list[int], outputs: list[int], **options: Any) -> dict[str, Any]:
    return {"dir": "/d", "segments": segments, "outputs": outputs, "options": {**OPTIONS, **options}}


def compact_spec(
    inputs: list[list[dict[str, Any]]],
    outputs: list[int],
    older: list[list[dict[str, Any]]] | None = None,
    **options: Any,
) -> dict[str, Any]:
    spec = {
        "dir": "/d",
        "inputs": inputs,
        "older": older or [],
        "outputs": outputs,
        "options": {**OPTIONS, **options},
        "retention": {"some": "data"},
    }
    return json.loads(json.dumps(spec))  # type: ignore[no-any-return]


def no_derive(key: bytes, record: bytes) -> tuple[()]:
    return ()


def keep_all(retention: dict[str, Any], lookup: Lookup) -> None:
    return None


def tables(fs: SimulatedFileSystem) -> list[str]:
    return fs.listdir("/d/tables")


# flush


def test_flush_keeps_the_last_record_of_each_key() -> None:
    fs = disk()
    write_segment(fs, 1, [[(b"b", b"old"), (b"a", b"1")], [(b"b", b"new")], []])
    write_segment(fs, 2, [[(b"c", b"3"), (b"a", b"2")]])
    result = flush_job(fs, flush_spec([1, 2], [7, 8]), no_derive)
    assert read_tables(fs, result) == [(b"a", b"2"), (b"b", b"new"), (b"c", b"3")]
    assert result["entries"] == 3
    assert result["bytes_written"] == sum(fs.size(f"/d/tables/{name}") for name in tables(fs))
    assert result["bytes_read"] == fs.size(segment_path("/d", 1)) + fs.size(segment_path("/d", 2))
    assert json.loads(json.dumps(result)) == result


def test_flush_adds_what_is_derived_from_the_records_that_stay() -> None:
    fs = disk()
    write_segment(fs, 1, [[(b"\x01a", b"gone"), (b"\x01b", b"x")], [(b"\x01a", b"stays")]])

    def derive(key: bytes, record: bytes) -> Entries:
        return [(b"\x03" + record + key, b"")]

    result = flush_job(fs, flush_spec([1], [7]), derive)
    assert [key for key, _ in read_tables(fs, result)] == [
        b"\x01a",
        b"\x01b",
        b"\x03stays\x01a",
        b"\x03x\x01b",
    ]


def test_flush_of_an_empty_segment_makes_no_table() -> None:
    fs = disk()
    write_segment(fs, 1, [])
    assert flush_job(fs, flush_spec([1], [7]), no_derive)["tables"] == []
    assert tables(fs) == []


def test_outputs_are_split_by_size_and_the_last_id_takes_the_rest() -> None:
    fs = disk()
    entries = [(b"%06d" % n, seeded(n).randbytes(300)) for n in range(8000)]
    write_segment(fs, 1, [entries])
    result = flush_job(fs, flush_spec([1], [7, 8, 9], table_bytes=700_000), no_derive)
    sizes = [meta["size"] for meta in result["tables"]]
    assert len(sizes) == 3
    assert 700_000 <= sizes[0] < 800_000 and 700_000 <= sizes[1] < 800_000
    assert read_tables(fs, result) == entries
    assert len(flush_job(fs, flush_spec([1], [20]), no_derive)["tables"]) == 1


def test_tables_are_durable_and_named_when_the_job_answers() -> None:
    fs = disk()
    write_segment(fs, 1, [[(b"%03d" % n, b"x" * n) for n in range(300)]])
    result = flush_job(fs, flush_spec([1], [7]), no_derive)
    for seed in range(5):
        assert len(read_tables(fs.crash(seeded(seed)), result)) == 300


def test_a_segment_that_is_not_whole_becomes_no_table() -> None:
    fs = disk()
    write_segment(fs, 1, [[(b"a", b"1")]], closed=False)
    with pytest.raises(CorruptionError):
        flush_job(fs, flush_spec([1], [7]), no_derive)
    assert tables(fs) == []


def test_a_full_disk_leaves_nothing_behind() -> None:
    entries = [(b"%06d" % n, seeded(n).randbytes(100)) for n in range(4000)]
    for room in (0, 10, 100_000, 300_000, 430_000):
        fs = disk()
        write_segment(fs, 1, [entries])
        before = fs.used()
        fs.capacity = before + room
        with pytest.raises(StorageFull):
            flush_job(fs, flush_spec([1], [7, 8, 9], table_bytes=200_000), no_derive)
        assert tables(fs) == []
        fs.capacity = None
        assert flush_job(fs, flush_spec([1], [10, 11, 12]), no_derive)["entries"] == 4000


def test_a_failed_sync_is_an_error_and_leaves_nothing_behind() -> None:
    fs = disk()
    write_segment(fs, 1, [[(b"a", b"1")]])
    fs.fail_syncs = lambda path: True
    with pytest.raises(OSError):
        flush_job(fs, flush_spec([1], [7]), no_derive)
    assert tables(fs) == []


class RottingDisk(SimulatedFileSystem):
    """Tables lose a bit when they are synced."""

    def open_read(self, path: str) -> Any:
        if path.endswith(".sst"):
            self.flip(path, 60, 1)
        return super().open_read(path)


def test_what_was_written_is_read_again() -> None:
    fs = RottingDisk()
    for name in ("wal", "tables"):
        fs.mkdir(f"/d/{name}")
    write_segment(fs, 1, [[(b"a%d" % n, b"1") for n in range(50)]])
    with pytest.raises(CorruptionError):
        flush_job(fs, flush_spec([1], [7]), no_derive)
    assert tables(fs) == []


# compaction


@pytest.mark.parametrize("seed", range(6))
def test_compaction_keeps_the_newest_record_of_each_key(seed: int) -> None:
    rng = seeded(seed)
    fs = disk()
    expected: dict[bytes, bytes] = {}
    inputs: list[list[dict[str, Any]]] = []
    for age in range(rng.randrange(2, 6)):
        entries = [(b"%05d" % n, b"%d " % age * rng.randrange(1, 60)) for n in rng.sample(range(900), 300)]
        expected.update(entries)
        inputs.insert(0, write_run(fs, 100 * (age + 1), entries, tables=rng.randrange(1, 4)))
    result = compact_job(fs, compact_spec(inputs, [7, 8]), keep_all)
    assert read_tables(fs, result) == sorted(expected.items())
    assert result["bytes_read"] == sum(meta["size"] for run in inputs for meta in run)


def test_keep_is_asked_once_for_the_newest_record_of_each_key() -> None:
    fs = disk()
    new = write_run(fs, 20, [(b"a", b"new"), (b"b", b"drop"), (b"d", b"drop")])
    old = write_run(fs, 10, [(b"a", b"old"), (b"b", b"old"), (b"c", b"kept")])
    asked: Entries = []

    def make_keep(retention: dict[str, Any], lookup: Lookup) -> Keep:
        assert retention == {"some": "data"}

        def keep(key: bytes, record: bytes, older_may_hold: Callable[[bytes], bool]) -> bool:
            asked.append((key, record))
            return record != b"drop"

        return keep

    result = compact_job(fs, compact_spec([new, old], [30]), make_keep)
    assert asked == [(b"a", b"new"), (b"b", b"drop"), (b"c", b"kept"), (b"d", b"drop")]
    assert read_tables(fs, result) == [(b"a", b"new"), (b"c", b"kept")]


def test_dropping_everything_makes_no_table() -> None:
    fs = disk()
    run = write_run(fs, 20, [(b"a", b"new")])
    result = compact_job(fs, compact_spec([run, run_of(fs, 10)], [30]), lambda retention, lookup: lambda *asked: False)
    assert result["tables"] == []
    assert len(tables(fs)) == 2


def run_of(fs: SimulatedFileSystem, file_id: int) -> list[dict[str, Any]]:
    return write_run(fs, file_id, [(b"a", b"old"), (b"b", b"old")])


def test_lookup_and_older_may_hold_see_the_right_runs() -> None:
    fs = disk()
    newest = write_run(fs, 40, [(b"k1", b"40"), (b"k5", b"40")])
    middle = write_run(fs, 30, [(b"k1", b"30"), (b"k2", b"30")])
    older = write_run(fs, 20, [(b"k2", b"20"), (b"k3", b"20"), (b"k7", b"20"), (b"k8", b"20")], tables=2)
    oldest = write_run(fs, 10, [(b"k1", b"10"), (b"k4", b"10")])
    answers: dict[bytes, tuple[bytes | None, bool]] = {}
    outside: list[bytes | None] = []

    def make_keep(retention: dict[str, Any], lookup: Lookup) -> Keep:
        outside.extend(lookup(key) for key in (b"k3", b"k4", b"k8", b"none", b"", b"zzz"))

        def keep(key: bytes, record: bytes, older_may_hold: Callable[[bytes], bool]) -> bool:
            answers[key] = (lookup(key), older_may_hold(key))
            return True

        return keep

    fs.cold = seeded(1)
    fs.drop_page_cache()
    compact_job(fs, compact_spec([newest, middle], [50], [older, oldest]), make_keep)
    assert outside == [b"20", b"10", b"20", None, None, None]
    assert answers == {b"k1": (b"40", True), b"k2": (b"30", True), b"k5": (b"40", False)}


def test_damage_in_an_input_ends_the_job() -> None:
    fs = disk()
    runs = [write_run(fs, 20, [(b"%d" % n, b"x" * 50) for n in range(100)]), run_of(fs, 10)]
    fs.flip(table_path("/d", 20), 500, 3)
    with pytest.raises(CorruptionError) as caught:
        compact_job(fs, compact_spec(runs, [30]), keep_all)
    assert caught.value.path == table_path("/d", 20)
    assert len(tables(fs)) == 2


def test_a_missing_input_is_corruption() -> None:
    fs = disk()
    runs = [run_of(fs, 20), run_of(fs, 10)]
    fs.remove(table_path("/d", 10))
    with pytest.raises(CorruptionError, match="not there"):
        compact_job(fs, compact_spec(runs, [30]), keep_all)


def test_compaction_on_a_full_disk() -> None:
    fs = disk()
    runs = [write_run(fs, 20, [(b"%d" % n, seeded(n).randbytes(90)) for n in range(999)]), run_of(fs, 10)]
    fs.capacity = fs.used() + 20_000
    with pytest.raises(StorageFull):
        compact_job(fs, compact_spec(runs, [30, 31]), keep_all)
    assert len(tables(fs)) == 2


def test_pause_is_told_of_every_byte() -> None:
    fs = disk()
    runs = [write_run(fs, 20, [(b"%04d" % n, seeded(n).randbytes(90)) for n in range(999)]), run_of(fs, 10)]
    told: list[int] = []
    result = compact_job(fs, compact_spec(runs, [30]), keep_all, told.append)
    # Read, written and read again, about 100 bytes an entry each time.
    assert 2.5 * result["bytes_written"] < sum(told) < 3.5 * result["bytes_written"]
    no_pause(1)


def test_an_old_record_cannot_come_back() -> None:
    """A tombstone is kept while an older run may hold its key, and goes with the oldest run."""
    fs = disk()

    def make_keep(retention: dict[str, Any], lookup: Lookup) -> Keep:
        return lambda key, record, older_may_hold: record != b"\x00" or older_may_hold(key)

    new = write_run(fs, 40, [(b"a", b"\x00"), (b"x", b"\x00")])
    middle = write_run(fs, 30, [(b"b", b"1")])
    old = write_run(fs, 20, [(b"a", b"old")])
    first = compact_job(fs, compact_spec([new, middle], [50], [old]), make_keep)
    assert read_tables(fs, first) == [(b"a", b"\x00"), (b"b", b"1")]
    last = compact_job(fs, compact_spec([first["tables"], old], [60]), make_keep)
    assert read_tables(fs, last) == [(b"b", b"1")]
    reader = TableReader(fs, table_path("/d", 60), 60, BlockCache(0))
    assert reader.get(b"a", xxh3_64_intdigest(b"a")) is None
