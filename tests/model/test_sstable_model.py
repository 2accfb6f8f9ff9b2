"""Random tables, reads and jobs against a dict."""

from __future__ import annotations

from typing import Any

import pytest
from xxhash import xxh3_64_intdigest

from respkv.base.errors import ReadMiss
from respkv.env.rng import Rng, seeded
from respkv.storage.block_cache import BlockCache
from respkv.storage.jobs import compact_job
from respkv.storage.sstable.builder import TableBuilder
from respkv.storage.sstable.format import TableMeta
from respkv.storage.sstable.reader import TableReader
from respkv.storage.version import table_path
from respkv.testing.disk import SimulatedFileSystem

Model = dict[bytes, bytes]


def random_key(rng: Rng, style: int) -> bytes:
    """Keys that collide, nest and repeat themselves, or that look like a user's."""
    if style == 0:
        return b"key:%05d" % rng.randrange(2000)
    if style == 1:
        return bytes(rng.choice(b"ab") for _ in range(rng.randrange(1, 10)))
    if style == 2:
        return b"a" * rng.randrange(1, 300)
    if style == 3:
        return bytes(rng.choice(b"ab") for _ in range(9))
    return rng.randbytes(rng.randrange(1, 40))


def random_entries(rng: Rng) -> Model:
    style, length = rng.randrange(5), rng.choice((0, 12, 80, 600))
    return {
        random_key(rng, style): rng.choice((b"", b"\x01" + rng.randbytes(rng.randrange(length + 1)), b"z" * length))
        for _ in range(rng.choice((1, 20, 400)))
    }


def write_table(fs: SimulatedFileSystem, rng: Rng, file_id: int, model: Model) -> TableMeta:
    builder = TableBuilder(
        fs,
        table_path("/d", file_id),
        file_id,
        block_bytes=rng.choice((1, 50, 500, 4096)),
        compress=rng.random() < 0.7,
    )
    for key in sorted(model):
        builder.add(key, model[key])
    return builder.finish()


def get(reader: TableReader, key: bytes) -> bytes | None:
    while True:
        try:
            return reader.get(key, xxh3_64_intdigest(key))
        except ReadMiss as miss:
            miss.request.install(miss.request.read())


def scan(reader: TableReader, start: bytes, end: bytes | None, wait: bool) -> list[tuple[bytes, bytes]]:
    found: list[tuple[bytes, bytes]] = []
    while True:
        try:
            for entry in reader.scan(start, end, wait=wait):
                found.append(entry)
                start = entry[0] + b"\x00"
            return found
        except ReadMiss as miss:
            miss.request.install(miss.request.read())


@pytest.mark.parametrize("seed", range(25))
def test_tables_answer_as_a_dict_does(seed: int) -> None:
    rng = seeded(seed)
    fs = SimulatedFileSystem()
    fs.mkdir("/d/tables")
    cache = BlockCache(rng.choice((0, 5_000, 1 << 20)))
    models = {file_id: random_entries(rng) for file_id in range(1, 4)}
    metas = {file_id: write_table(fs, rng, file_id, model) for file_id, model in models.items()}
    readers = {file_id: TableReader(fs, table_path("/d", file_id), meta, cache) for file_id, meta in metas.items()}
    if rng.random() < 0.7:
        fs.cold = seeded(seed)
        fs.drop_page_cache()
    for _ in range(150):
        file_id = rng.randrange(1, 4)
        model, reader = models[file_id], readers[file_id]
        key = rng.choice(list(model)) if rng.random() < 0.5 else random_key(rng, rng.randrange(5))
        roll = rng.random()
        if roll < 0.8:
            assert get(reader, key) == model.get(key)
        elif roll < 0.95:
            end = random_key(rng, rng.randrange(5)) if rng.random() < 0.6 else None
            expected = sorted(entry for entry in model.items() if entry[0] >= key and (end is None or entry[0] < end))
            assert scan(reader, key, end, rng.random() < 0.5) == expected
        else:
            reader.close()
            readers[file_id] = TableReader(fs, table_path("/d", file_id), metas[file_id], cache)
    for file_id, reader in readers.items():
        reader.verify()
        meta, model = metas[file_id], models[file_id]
        assert (meta.smallest, meta.largest, meta.entries) == (min(model), max(model), len(model))
    cache.check_invariants()


@pytest.mark.parametrize("seed", range(10))
def test_compacting_in_any_order_of_neighbours_answers_alike(seed: int) -> None:
    rng = seeded(1000 + seed)
    fs = SimulatedFileSystem()
    fs.mkdir("/d/tables")
    expected: Model = {}
    runs: list[list[dict[str, Any]]] = []
    for file_id in range(1, 8):
        model = random_entries(rng)
        expected.update(model)
        runs.insert(0, [write_table(fs, rng, file_id, model).to_json()])
    next_id = 100
    while len(runs) > 1:
        start = rng.randrange(len(runs) - 1)
        stop = rng.randrange(start + 2, len(runs) + 1)
        spec = {
            "dir": "/d",
            "inputs": runs[start:stop],
            "older": runs[stop:],
            "outputs": list(range(next_id, next_id + 5)),
            "options": {"block_bytes": rng.choice((1, 300, 4096)), "compress": True, "table_bytes": 4000},
            "retention": {},
        }
        next_id += 5
        runs[start:stop] = [compact_job(fs, spec, lambda retention, lookup: None)["tables"]]
    metas = [TableMeta.from_json(data) for data in runs[0]]
    found: list[tuple[bytes, bytes]] = []
    for meta in metas:
        reader = TableReader(fs, table_path("/d", meta.file_id), meta, BlockCache(0))
        found += reader.scan(b"", None, wait=True)
    assert found == sorted(expected.items())
