"""Hot places of tables and merging, each against a baseline that is measured in the same run.

Figures are processor time of the best of some rounds; the ratios asked for are about twice those of a quiet
machine, so that only a real loss shows.
"""

from __future__ import annotations

import heapq
import time
from bisect import bisect_left
from collections.abc import Callable, Iterator
from operator import itemgetter

from xxhash import xxh3_64_intdigest

from respkv.env.rng import seeded
from respkv.storage.block_cache import BlockCache
from respkv.storage.merge import Chunk, merge_runs
from respkv.storage.sstable.builder import TableBuilder
from respkv.storage.sstable.reader import TableReader
from respkv.testing.disk import SimulatedFileSystem

COUNT = 10_000


def cost(run: Callable[[], object], rounds: int = 4) -> float:
    """Seconds of processor time, the best of some rounds."""
    best = float("inf")
    for _ in range(rounds):
        start = time.process_time()
        run()
        best = min(best, time.process_time() - start)
    return best


def entries() -> tuple[list[bytes], list[bytes]]:
    rng = seeded(1)
    numbers = sorted(rng.sample(range(10**7), COUNT))
    pool = rng.randbytes(1 << 16)
    return [b"\x01\x00\x07\x00\x00key:%012d" % number for number in numbers], [
        b"\x01" + pool[at : at + 210] for at in (rng.randrange(60_000) for _ in numbers)
    ]


def write_table(keys: list[bytes], records: list[bytes]) -> SimulatedFileSystem:
    fs = SimulatedFileSystem()
    fs.mkdir("/t")
    builder = TableBuilder(fs, "/t/1", 1)
    builder.add_many(keys, records, sum(map(len, keys)) + sum(map(len, records)))
    builder.finish()
    return fs


def test_table_get() -> None:
    """A cached point read: hash, filter, index, block; the baseline bisects one list of all keys."""
    keys, records = entries()
    reader = TableReader(write_table(keys, records), "/t/1", 1, BlockCache(1 << 24))
    asked = seeded(2).sample(keys, 4000)

    def table() -> None:
        get = reader.get
        for key in asked:
            assert get(key, xxh3_64_intdigest(key)) is not None

    def baseline() -> None:
        for key in asked:
            assert records[bisect_left(keys, key)] is not None

    ratio = cost(table) / cost(baseline)
    assert ratio < 10, f"a cached read costs {ratio:.1f} bisections"


def test_table_build() -> None:
    """Writing a table; the baseline encodes each entry by itself, as a log does, without filter or index."""
    keys, records = entries()

    def baseline() -> None:
        out = []
        for key, record in zip(keys, records):
            out.append(len(key).to_bytes(4, "little") + len(record).to_bytes(4, "little") + key + record)
        xxh3_64_intdigest(b"".join(out))

    ratio = cost(lambda: write_table(keys, records)) / cost(baseline)
    assert ratio < 9, f"an entry of a table costs {ratio:.1f} of a log's"


def test_merge() -> None:
    """Four runs; the baseline is the textbook loop over ``heapq.merge``, which must lose."""
    keys, records = entries()
    runs: list[list[Chunk]] = []
    for age in range(4):
        part = keys[age::4], records[age::4]
        runs.append([(part[0][at : at + 500], part[1][at : at + 500]) for at in range(0, COUNT // 4, 500)])

    def pairs(run: list[Chunk]) -> Iterator[tuple[bytes, bytes]]:
        for chunk_keys, chunk_records in run:
            yield from zip(chunk_keys, chunk_records)

    def baseline() -> int:
        found, last = 0, b""
        for key, _ in heapq.merge(*map(pairs, runs), key=itemgetter(0)):
            if key != last:
                found, last = found + 1, key
        return found

    assert sum(len(chunk[0]) for chunk in merge_runs(runs)) == baseline() == COUNT
    ratio = cost(lambda: sum(len(chunk[0]) for chunk in merge_runs(runs))) / cost(baseline)
    assert ratio < 0.9, f"merging costs {ratio:.2f} of heapq.merge"
