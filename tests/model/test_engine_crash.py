"""Crashes at any moment: what is found must be a prefix of the commits, with all that were durable in it.

Random operations run until the fuse of the simulated disk blows, at any change of the disk, also inside
recovery; then the disk keeps an arbitrary part of what was not synced. Plans and jobs are made, run and
handed back at different steps, so commits fall in between. Controls: where one kind of sync is dropped,
the same check must fail.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from respkv.base.errors import CorruptionError, FormatError, StorageFull
from respkv.env.rng import Rng, seeded
from respkv.storage.engine import Engine
from respkv.storage.identity import open_directory
from respkv.storage.options import EngineOptions
from respkv.storage.recovery import open_engine
from respkv.testing.disk import PowerLoss, SimulatedFileSystem
from respkv.testing.engine_driver import EngineDriver

OPTIONS = EngineOptions(
    memtable_bytes=1 << 12,
    segment_bytes=1 << 12,
    block_bytes=256,
    table_bytes=1 << 11,
    runs_per_tier=2,
    stall_runs=4,
    ballast_bytes=1 << 12,
    manifest_rewrite_bytes=1 << 11,
)
State = dict[bytes, bytes]


class Lost(Exception):
    """The checker's verdict: durable data is gone, or the state is none that ever was."""


def derive(key: bytes, record: bytes) -> list[tuple[bytes, bytes]]:
    return []


class Session:
    """An engine in use, with the history that a recovery after it is judged by.

    ``history`` holds the state after each commit since the engine was opened; ``durable`` is the place in it
    of the newest that may not be lost.
    """

    def __init__(self, fs: SimulatedFileSystem, rng: Rng, history: list[State]) -> None:
        self.fs = fs
        self.rng = rng
        self.history = history
        self.marks: dict[int, int] = {}
        self.durable = 0
        self.writes = 0
        self.driver = EngineDriver(open_engine(fs, "/d", OPTIONS, derive=derive), derive=derive)
        self.plan: Any = None
        self.edits: Any = None
        self.job: Any = None
        self.snapshot: Any = None

    def begin(self, state: State) -> None:
        """The engine was opened with ``state``; that is durable now."""
        self.history[:] = [state]
        self.durable = 0
        self.marks = {self.driver.engine.appended_lsn: 0}

    def step(self) -> None:
        """One random operation."""
        engine, rng = self.driver.engine, self.rng
        draw = rng.random()
        if draw < 0.45:
            self.commit()
        elif draw < 0.55:
            if self.plan is None:
                self.plan = engine.sync_plan()
            else:
                self.plan.run()
                engine.on_synced(self.plan)
                self.plan = None
        elif draw < 0.75:
            self.step_job()
        elif draw < 0.90:
            if self.edits is None:
                self.edits = engine.manifest_plan()
            else:
                plan, self.edits = self.edits, None
                if self.rng.random() < 0.1:
                    self.fail_for_want_of_space(plan)
                else:
                    plan.run()
                    engine.on_manifest_synced(plan)
        elif draw < 0.94:
            engine.rotate()
        elif draw < 0.98:
            engine.tick()
        elif self.snapshot is None:
            self.snapshot = engine.snapshot(f"/s/{len(self.history)}-{rng.randrange(1 << 30)}")
        elif self.snapshot.ready:
            self.snapshot.run()
            engine.on_snapshot_done(self.snapshot)
            self.snapshot = None
        self.durable = max(self.durable, self.marks[engine.durable_lsn])

    def fail_for_want_of_space(self, plan: Any) -> None:
        """The plan finds the disk full, or just not: what it has not done it must not have begun."""
        self.fs.capacity = self.fs.used()
        try:
            plan.run()
        except StorageFull as error:
            plan.failed(error)
        else:
            self.driver.engine.on_manifest_synced(plan)
        finally:
            self.fs.capacity = None

    def commit(self) -> None:
        engine = self.driver.engine
        state = dict(self.history[-1])
        for _ in range(self.rng.randrange(1, 4)):
            self.writes += 1
            key = b"\x00%02d" % self.rng.randrange(40)
            record = b"\x01%010d" % self.writes + self.rng.randbytes(self.rng.choice((0, 20, 700)))
            engine.put(key, record)
            state[key] = record
        # A commit that a crash cuts short may be found or not.
        self.history.append(state)
        self.marks[engine.commit()] = len(self.history) - 1

    def step_job(self) -> None:
        engine = self.driver.engine
        if self.job is None:
            self.job = engine.next_job()
        elif isinstance(self.job, tuple):
            job, result = self.job
            self.job = None
            if self.rng.random() < 0.1:
                engine.on_job_failed(job.id, "the worker died")
            else:
                engine.on_job_done(job.id, result)
        else:
            self.job = (self.job, self.driver.work(self.job))


def contents(engine: Engine) -> State:
    found = dict(engine.scan(b"\x00", b"\x01"))
    assert all(engine.get(key) == record for key, record in found.items())
    return found


def judge(engine: Engine, history: list[State], durable: int) -> State:
    """The state found. Lost when it is not one of ``history`` from ``durable`` on."""
    found = contents(engine)
    if not any(found == state for state in history[durable:]):
        raise Lost(f"{len(found)} keys are none of {len(history) - durable} states")
    engine.check_invariants()
    return found


def crash_story(seed: int, *, rounds: int = 4, spoil: Callable[[str], bool] | None = None) -> int:
    """Crash and recover ``rounds`` times; how many crashes fell into a recovery."""
    rng = seeded(seed)
    fs = SimulatedFileSystem()
    history: list[State] = [{}]
    durable = in_recovery = 0
    for _ in range(rounds):
        fs.drop_syncs = spoil or fs.drop_syncs
        fs.fuse = rng.choice((rng.randrange(30), rng.randrange(400), rng.randrange(400)))
        session: Session | None = None
        try:
            open_directory(fs, "/d", make_id=lambda: b"n" * 16)
            session = Session(fs, rng, history)
            found = judge(session.driver.engine, history, durable)
            session.begin(found)
            durable = 0
            for _ in range(200):
                session.step()
                durable = session.durable
            if session.edits is None:
                # A stop in order, with or without a last sync.
                session.driver.engine.close()
        except PowerLoss:
            if session is None:
                in_recovery += 1
        fs = fs.copy() if rng.random() < 0.15 else fs.crash(rng)
    open_directory(fs, "/d", make_id=lambda: b"n" * 16)
    judge(open_engine(fs, "/d", OPTIONS, derive=derive), history, durable)
    return in_recovery


@pytest.mark.parametrize("first", range(0, 200, 20))
def test_what_is_found_after_a_crash_is_a_prefix_with_all_that_was_durable(first: int) -> None:
    in_recovery = 0
    for seed in range(first, first + 20):
        try:
            in_recovery += crash_story(seed)
        except BaseException as error:
            error.add_note(f"crash_story({seed})")
            raise
    assert in_recovery > 0


#: Stories that once ended badly.
CORPUS = (5000,)


@pytest.mark.parametrize("seed", CORPUS)
def test_stories_that_once_ended_badly(seed: int) -> None:
    crash_story(seed)


@pytest.mark.parametrize(
    ("name", "spoil"),
    [
        ("the log is not synced", lambda path: path.endswith(".log")),
        ("names of segments are not synced", lambda path: path.endswith("/wal")),
        ("tables are not synced", lambda path: path.endswith(".sst")),
        ("names of tables are not synced", lambda path: path.endswith("/tables")),
        ("the manifest is not synced", lambda path: "MANIFEST" in path),
        ("names in the directory are not synced", lambda path: path == "/d"),
    ],
)
def test_the_check_fails_when_a_sync_is_dropped(name: str, spoil: Callable[[str], bool]) -> None:
    """A checker that cannot fail proves nothing: without the sync some story must end badly."""
    for seed in range(300):
        try:
            crash_story(seed, spoil=spoil)
        except (Lost, CorruptionError, FormatError):
            return
    pytest.fail(f"not noticed in 300 stories: {name}")


@pytest.mark.parametrize("seed", range(3))
def test_a_flipped_bit_is_reported_or_costs_the_newest_commits_but_is_never_a_wrong_answer(seed: int) -> None:
    rng = seeded(seed)
    fs = SimulatedFileSystem()
    open_directory(fs, "/d", make_id=lambda: b"n" * 16)
    session = Session(fs, rng, [{}])
    session.begin({})
    for _ in range(150):
        session.step()
    found = {"reported": 0, "whole": 0, "shorter": 0}
    for _ in range(60):
        spoiled = fs.copy()
        folder = rng.choice(("/d", "/d/wal", "/d/tables"))
        files = [name for name in fs.listdir(folder) if name not in ("wal", "tables", "BALLAST", "LOCK")]
        if not files:
            continue
        path = f"{folder}/{rng.choice(files)}"
        used = len(fs.read_all(path).rstrip(b"\0"))
        spoiled.flip(path, rng.randrange(used), rng.randrange(8))
        try:
            open_directory(spoiled, "/d", make_id=lambda: b"n" * 16)
            state = judge(open_engine(spoiled, "/d", OPTIONS, derive=derive), session.history, 0)
        except (CorruptionError, FormatError):
            found["reported"] += 1
        else:
            found["whole" if state == session.history[-1] else "shorter"] += 1
    assert found["reported"] > 20, found
