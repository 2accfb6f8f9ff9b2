"""The engine against a dict: seeded operations, restarts among them, then the invariants.

Metamorphic: the same operations under odd options (tiny memtable, cache of one block, two runs a tier, reads
that miss) must answer alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from respkv.env.rng import Rng, seeded
from respkv.storage.options import EngineOptions
from respkv.storage.recovery import open_engine
from respkv.testing.disk import SimulatedFileSystem
from respkv.testing.engine_driver import EngineDriver

DERIVED = frozenset({3})
OPTIONS = {
    "plain": EngineOptions(memtable_bytes=1 << 16, ballast_bytes=0, derived_spaces=DERIVED),
    "tiny memtable": EngineOptions(
        memtable_bytes=1 << 11,
        segment_bytes=1 << 12,
        block_bytes=256,
        ballast_bytes=0,
        derived_spaces=DERIVED,
    ),
    "one block cached": EngineOptions(
        memtable_bytes=1 << 12,
        block_cache_bytes=700,
        block_bytes=256,
        ballast_bytes=0,
        derived_spaces=DERIVED,
    ),
    "two runs a tier": EngineOptions(
        memtable_bytes=1 << 12,
        runs_per_tier=2,
        stall_runs=6,
        block_bytes=512,
        compress=False,
        table_bytes=1 << 10,
        manifest_rewrite_bytes=1 << 11,
        ballast_bytes=0,
        derived_spaces=DERIVED,
    ),
}


def derive(key: bytes, record: bytes) -> list[tuple[bytes, bytes]]:
    return [(b"\x03" + record[1:11] + key, b"")] if record[0] & 16 else []


def make_keep(retention: dict[str, Any], lookup: Callable[[bytes], bytes | None]) -> Any:
    """Drops tombstones that hide nothing, and index entries whose record is not the newest."""

    def keep(key: bytes, record: bytes, older_may_hold: Callable[[bytes], bool]) -> bool:
        if key[0] == 3:
            newest = lookup(key[11:])
            return newest is None or newest[1:11] <= key[1:11]
        return bool(record[0] & 15) or older_may_hold(key)

    return keep


class World:
    """One engine and its disk."""

    def __init__(self, options: EngineOptions, *, cold: bool = False) -> None:
        self.options = options
        self.fs = SimulatedFileSystem()
        if cold:
            self.fs.cold = seeded(99)
        self.misses = 0
        self.driver = self._open()

    def _open(self) -> EngineDriver:
        engine = open_engine(self.fs, "/d", self.options, derive=derive)
        return EngineDriver(engine, derive=derive, make_keep=make_keep)

    def restart(self) -> None:
        self.misses += self.driver.misses
        cold = self.fs.cold
        self.fs = self.fs.copy()
        self.fs.cold = cold
        self.driver = self._open()

    def put(self, key: bytes, record: bytes) -> None:
        engine = self.driver.engine
        engine.put(key, record)
        for index_key, index_record in derive(key, record):
            engine.put_derived(index_key, index_record)

    def get(self, key: bytes) -> bytes | None:
        """The record, None for none and for a tombstone, which compaction may have dropped."""
        record = self.driver.get(key)
        return record if record is not None and record[0] & 15 else None

    def scan(self, start: bytes, end: bytes | None) -> list[tuple[bytes, bytes]]:
        return [entry for entry in self.driver.scan(start, end) if entry[1][0] & 15]

    def index(self) -> list[bytes]:
        """The index entries that agree with their record; of others some may be left."""
        found = []
        for key, _ in list(self.driver.scan(b"\x03", b"\x04")):
            record = self.driver.get(key[11:])
            if record is not None and record[0] & 16 and record[1:11] == key[1:11]:
                found.append(key)
        return found


def any_key(rng: Rng) -> bytes:
    return b"\x00%03d" % rng.randrange(300) + b"x" * rng.randrange(3)


def steps(rng: Rng, count: int) -> Iterator[tuple[str, Any]]:
    """Operations as data, so that several worlds can be given the same."""
    for stamp in range(count):
        draw = rng.random()
        if draw < 0.5:
            kind = rng.choice((0, 1, 1, 1, 17))
            body = rng.choice((b"", b"v" * rng.randrange(60), rng.randbytes(rng.randrange(30))))
            yield "put", (any_key(rng), bytes((kind,)) + b"%010d" % stamp + body)
        elif draw < 0.65:
            yield "get", any_key(rng)
        elif draw < 0.75:
            yield "commit", None
        elif draw < 0.80:
            yield "scan", tuple(sorted((any_key(rng), any_key(rng))))
        elif draw < 0.85:
            yield "job", None
        elif draw < 0.90:
            yield "manifest", None
        elif draw < 0.93:
            yield "tick", None
        elif draw < 0.95:
            yield "rotate", None
        elif draw < 0.97:
            yield "sync", None
        elif draw < 0.98:
            yield "settle", None
        elif draw < 0.985:
            yield "restart", None
        else:
            yield "index", None


def perform(world: World, step: str, argument: Any) -> Any:
    """Do ``step``; what it answers, which must not depend on the options."""
    driver = world.driver
    if step == "put":
        world.put(*argument)
    elif step == "get":
        return world.get(argument)
    elif step == "commit":
        driver.engine.commit()
    elif step == "scan":
        return world.scan(*argument)
    elif step == "job":
        driver.run_job()
    elif step == "manifest":
        driver.run_manifest()
    elif step == "tick":
        driver.engine.tick()
        world.fs.drop_page_cache()
    elif step == "rotate":
        driver.engine.rotate()
    elif step == "sync":
        driver.engine.commit()
        driver.sync()
    elif step == "settle":
        driver.engine.commit()
        driver.settle()
    elif step == "restart":
        driver.engine.commit()
        world.restart()
    else:
        return world.index()
    return None


def model_answer(model: dict[bytes, bytes], step: str, argument: Any) -> Any:
    alive = {key: record for key, record in model.items() if record[0] & 15}
    if step == "put":
        model[argument[0]] = argument[1]
    elif step == "get":
        return alive.get(argument)
    elif step == "scan":
        return sorted(entry for entry in alive.items() if argument[0] <= entry[0] < argument[1])
    elif step == "index":
        return sorted(b"\x03" + record[1:11] + key for key, record in alive.items() if record[0] & 16)
    return None


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("seed", range(4))
def test_engine_answers_as_a_dict_does(name: str, seed: int) -> None:
    world = World(OPTIONS[name], cold=seed % 2 == 1)
    model: dict[bytes, bytes] = {}
    for number, (step, argument) in enumerate(steps(seeded(seed), 1500)):
        assert perform(world, step, argument) == model_answer(model, step, argument), (number, step, argument)
        if number % 100 == 99:
            world.driver.engine.commit()
            world.driver.engine.check_invariants()
    world.driver.engine.commit()
    world.driver.settle()
    world.driver.engine.check_invariants()
    alive = sorted(entry for entry in model.items() if entry[1][0] & 15)
    assert world.scan(b"\x00", b"\x01") == alive
    if name != "plain":
        assert world.driver.engine.stats()["runs"] >= 1


@pytest.mark.parametrize("seed", range(100, 104))
def test_odd_options_answer_alike(seed: int) -> None:
    worlds = [World(options, cold=True) for options in OPTIONS.values()]
    for number, (step, argument) in enumerate(steps(seeded(seed), 800)):
        answers = [perform(world, step, argument) for world in worlds]
        assert answers.count(answers[0]) == len(answers), (number, step, argument)
    shapes = {
        (world.driver.engine.memtable.segment_id, world.driver.engine.stats()["tables"]) for world in worlds
    }
    assert len(shapes) > 2, "the options make a difference"
    assert any(world.misses + world.driver.misses for world in worlds)
