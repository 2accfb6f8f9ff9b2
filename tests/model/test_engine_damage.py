"""Damage at random: after it, every answer is the right one or an error, however the store lives on.

A store of a few keys is written, deleted from, flushed, compacted (tombstones being dropped) and reopened at random,
while tables rot, are cut or vanish. A dictionary knows what each key should be. Wrong is: an older value, a deleted
key that is back, a key that is absent although it was written. Controls: where a lost table counts as empty, or a
compaction above it drops tombstones, the same check must fail.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from respkv.base.errors import CorruptionError, ReadMiss
from respkv.env.rng import seeded
from respkv.storage.engine import Engine
from respkv.storage.options import EngineOptions
from respkv.storage.quarantine import LostTable
from respkv.storage.recovery import open_engine
from respkv.testing.disk import SimulatedFileSystem
from respkv.testing.engine_driver import EngineDriver

KEYS = 60


class Wrong(Exception):
    """The checker's verdict."""


def options(cautious: bool) -> EngineOptions:
    return EngineOptions(
        memtable_bytes=1 << 20,
        block_bytes=256,
        table_bytes=1 << 11,
        block_cache_bytes=1,
        runs_per_tier=2,
        stall_runs=4,
        ballast_bytes=0,
        retention=lambda: {"drop": True},
        cautious_retention=lambda: {"drop": not cautious},
    )


def make_keep(retention: dict[str, Any], lookup: Any) -> Any:
    """Tombstones go where nothing older may be hidden by them."""
    if not retention.get("drop"):
        return None
    return lambda key, record, older_may_hold: record[0] != 0 or older_may_hold(key)


def opened(fs: SimulatedFileSystem, *, cautious: bool) -> EngineDriver:
    engine = open_engine(fs, "/d", options(cautious), derive=lambda key, record: ())
    return EngineDriver(engine, derive=lambda key, record: (), make_keep=make_keep)


def name(number: int) -> bytes:
    return b"\x01k%02d" % number


def judge(engine: Engine, state: dict[bytes, bytes]) -> int:
    """How many keys cannot be read. Wrong when an answer is."""
    errors = 0
    for number in range(KEYS):
        try:
            found = read(engine, partial(engine.get, name(number)))
        except CorruptionError:
            errors += 1
            continue
        if found is not None and found[0] == 0:
            found = None
        if found != state.get(name(number)):
            raise Wrong(f"{name(number)!r}: {found!r} is not {state.get(name(number))!r}")
    try:
        scanned = read(engine, lambda: {key: record for key, record in engine.scan(b"\x01", b"\x02") if record[0]})
    except CorruptionError:
        return errors
    if scanned != state:
        raise Wrong("a scan shows something else")
    return errors


def read(engine: Engine, action: Any) -> Any:
    """What ``action`` returns, its misses served as a server does."""
    for _ in range(1000):
        try:
            return action()
        except ReadMiss as miss:
            try:
                miss.request.install(miss.request.read())
            except CorruptionError as damage:
                engine.on_fetch_failed(miss.request, damage)
    raise Wrong("a read that never ends")


def spoil(fs: SimulatedFileSystem, rng: Any) -> None:
    """One table goes bad."""
    path = f"/d/tables/{rng.choice(fs.listdir('/d/tables'))}"
    draw = rng.random()
    if draw < 0.4:
        fs.remove(path)
    elif draw < 0.6:
        fs.truncate(path, rng.randrange(fs.size(path)))
    else:
        fs.flip(path, rng.randrange(fs.size(path)), rng.randrange(8))


def story(seed: int, *, cautious: bool = True) -> tuple[int, int]:
    """Live through damage; (the most keys that were errors at once, compactions done)."""
    rng = seeded(seed)
    fs = SimulatedFileSystem()
    driver = opened(fs, cautious=cautious)
    state: dict[bytes, bytes] = {}
    worst = compactions = stamp = 0
    steps = 130
    for step in range(steps):
        engine = driver.engine
        draw = rng.random()
        if draw < 0.55:
            for _ in range(rng.randrange(1, 6)):
                stamp += 1
                key = name(rng.randrange(KEYS))
                if rng.random() < 0.4:
                    engine.put(key, b"\x00%010d" % stamp)
                    state.pop(key, None)
                else:
                    record = b"\x01%010d" % stamp + rng.randbytes(30)
                    engine.put(key, record)
                    state[key] = record
            engine.commit()
        elif draw < 0.85:
            engine.rotate()
            work(driver)
        elif draw < 0.92 and step > 40 and fs.listdir("/d/tables"):
            spoil(fs, rng)
            if rng.random() < 0.5:
                driver, fs, done = reopened(driver, fs, cautious=cautious)
                compactions += done
        else:
            driver, fs, done = reopened(driver, fs, cautious=cautious)
            compactions += done
        if step % 4 == 0 or step == steps - 1:
            worst = max(worst, judge(driver.engine, state))
            driver.engine.check_invariants()
    return worst, compactions + int(driver.engine.stats()["compactions"])


def work(driver: EngineDriver) -> None:
    """Jobs and plans as a server has them done: what fails is told and tried again later."""
    engine = driver.engine
    for _ in range(12):
        engine.tick()
        while (job := engine.next_job()) is not None:
            try:
                result = driver.work(job)
            except CorruptionError as damage:
                engine.on_job_failed(job.id, f"CorruptionError: {damage}")
            else:
                engine.on_job_done(job.id, result)
        plan = engine.manifest_plan()
        if plan is not None:
            plan.run()
            engine.on_manifest_synced(plan)


def reopened(
    driver: EngineDriver, fs: SimulatedFileSystem, *, cautious: bool
) -> tuple[EngineDriver, SimulatedFileSystem, int]:
    driver.sync()
    done = int(driver.engine.stats()["compactions"])
    driver.engine.close()
    fs = fs.copy()
    return opened(fs, cautious=cautious), fs, done


@pytest.mark.parametrize("first", range(0, 24, 6))
def test_answers_are_right_or_errors(first: int) -> None:
    errors = compactions = 0
    for seed in range(first, first + 6):
        try:
            worst, done = story(seed)
        except BaseException as error:
            error.add_note(f"story({seed})")
            raise
        errors, compactions = errors + worst, compactions + done
    assert errors > 20 and compactions > 20


def must_be_found(**given: bool) -> None:
    for seed in range(60):
        try:
            story(seed, **given)
        except Wrong:
            return
    pytest.fail("not noticed in 60 stories")


def test_the_check_fails_when_a_lost_table_counts_as_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LostTable, "get", lambda self, key, key_hash: None)
    must_be_found()


def test_the_check_fails_when_tombstones_above_a_lost_table_are_dropped() -> None:
    must_be_found(cautious=False)
