"""Random commands, time, flushes, compactions and restarts against a naive model of a Redis keyspace."""

from __future__ import annotations

import os
import random
from typing import Any

import pytest

from respkv.base.errors import ReadMiss
from respkv.base.ids import HASH
from respkv.causality.hlc import HybridClock
from respkv.keyspace import effects as fx
from respkv.keyspace import keys, retention
from respkv.keyspace.apply import Applier
from respkv.keyspace.count_job import count_job
from respkv.keyspace.expiry import ExpiryDuty
from respkv.keyspace.keyspace import Keyspace
from respkv.keyspace.scan import KeyWalk
from respkv.keyspace.view import View
from respkv.storage.job_board import COUNT
from respkv.storage.options import EngineOptions
from respkv.storage.recovery import open_engine
from respkv.testing.disk import SimulatedFileSystem
from respkv.testing.engine_driver import EngineDriver

NAMES = [b"k%d" % n for n in range(30)]
FIELDS = [b"f%d" % n for n in range(8)]
DATABASES = 3


class Model:
    """What the keyspace should hold: per stored database key -> [kind, value, expire_at]."""

    def __init__(self) -> None:
        self.dbs: dict[int, dict[bytes, list[Any]]] = {db: {} for db in range(DATABASES)}
        self.now = 1_700_000_000_000

    def live(self, db: int) -> dict[bytes, list[Any]]:
        for key, (kind, value, expire_at) in list(self.dbs[db].items()):
            if kind == HASH:
                for field, (_, field_expiry) in list(value.items()):
                    if 0 < field_expiry <= self.now:
                        del value[field]
            if 0 < expire_at <= self.now or (kind == HASH and not value):
                del self.dbs[db][key]
        return self.dbs[db]

    def apply(self, effect: fx.Effect) -> None:
        operation, db, key = effect[:3]
        if operation == fx.FLUSH:
            self.dbs[db] = {}
            return
        live = self.live(db)
        if operation == fx.PUT:
            live[key] = [1, effect[3], effect[4]]
        elif operation == fx.DELETE:
            live.pop(key, None)
        elif operation == fx.EXPIRE and key in live:
            live[key][2] = effect[3]
        elif operation == fx.PUT_ELEMENT:
            if key not in live or live[key][0] != HASH:
                live[key] = [HASH, {}, 0]
            live[key][1][effect[4]] = (effect[5], effect[6])
        elif operation == fx.REMOVE_ELEMENT and key in live and live[key][0] == HASH:
            live[key][1].pop(effect[3], None)
            if not live[key][1]:
                del live[key]


class Rig:
    """The real thing, with its jobs run inline."""

    defers = True

    def __init__(self, rng: random.Random, options: dict[str, Any], row_cache_bytes: int) -> None:
        self.rng = rng
        self.fs = SimulatedFileSystem()
        self.fs.mkdir("/db")
        self.options = options
        self.row_cache_bytes = row_cache_bytes
        self.now = 1_700_000_000_000
        self.open()

    def open(self) -> None:
        options = EngineOptions(
            derived_spaces=keys.DERIVED_SPACES, ballast_bytes=0, retention=self.retention, **self.options
        )
        self.engine = open_engine(self.fs, "/db", options, derive=keys.derive)
        self.driver = EngineDriver(self.engine, derive=keys.derive, make_keep=retention.make_keep)
        self.keyspace = Keyspace(
            self.engine, HybridClock(1, 0, 1 << 63), databases=DATABASES, row_cache_bytes=self.row_cache_bytes
        )
        self.keyspace.defer_writes(self.defers)
        self.serve(self.keyspace.load)
        self.keyspace.begin(self.now)
        self.keyspace.write_ceiling()
        self.applier = Applier(self.keyspace)
        self.expiry = ExpiryDuty(self.applier)

    def retention(self) -> dict[str, Any]:
        return retention.plain(
            self.keyspace.floors,
            expired_through_ms=self.keyspace.expired_through_ms,
            purge_below=self.keyspace.stamp(),
        )

    def serve(self, action: Any) -> Any:
        while True:
            try:
                return action()
            except ReadMiss as miss:
                miss.request.install(miss.request.read())

    def apply(self, effects: list[fx.Effect]) -> None:
        self.serve(lambda: self.applier.apply(effects))
        self.engine.commit()
        self.keyspace.counts.follow()

    def work(self) -> None:
        """All jobs, the count jobs too, until nothing is left to do."""
        counts = self.keyspace.counts
        for _ in range(50):
            self.driver.settle()
            counts.follow()
            counts.save_if_due()
            job = counts.next_job()
            if job is None:
                break
            assert job.kind == COUNT
            counts.on_job_done(job.id, count_job(self.fs, job.spec, lambda _: None))
        self.driver.settle()

    def expire(self) -> None:
        more = True
        while more or self.keyspace.sighted:
            request = self.expiry.sighted()
            if request is None:
                more, request = self.expiry.run(7)
            if request is not None:
                request.install(request.read())
        self.engine.commit()
        self.keyspace.counts.follow()

    def restart(self, *, crash: bool) -> None:
        if not crash:
            self.keyspace.write_exact_clock()
            self.keyspace.counts.save_if_due()
            self.engine.commit()
        self.driver.sync()
        self.driver.run_manifest()
        self.engine.close()
        if crash:
            self.fs = self.fs.crash(self.rng)
        self.open()

    def contents(self, db: int) -> dict[bytes, list[Any]]:
        view = View(self.keyspace, db, self.rng, 1 << 29)
        found: dict[bytes, list[Any]] = {}
        for name in NAMES:
            kind = self.serve(lambda name=name: view.kind(name))
            if kind == 0:
                continue
            expire_at = view.expire_at(name)
            if kind == HASH:
                fields = self.serve(lambda name=name: list(view.hash(name).items()))
                if fields:
                    found[name] = [kind, {f: (v, e) for f, v, e in fields}, expire_at]
            else:
                found[name] = [kind, self.serve(lambda name=name: view.string(name)), expire_at]
        return found

    def walked(self, db: int) -> list[bytes]:
        walk = KeyWalk(self.keyspace, db)
        found = []
        while not walk.done:
            found += self.serve(lambda: walk.step(self.rng.randrange(1, 20)))
        return [keys.user_key(internal) for internal, _ in found]

    def dbsize(self, db: int) -> int:
        for request in self.keyspace.counts.settle():
            if request is not None:
                request.install(request.read())
        return self.keyspace.counts.total(db)


def random_effects(rng: random.Random, now: int) -> list[fx.Effect]:
    db, key, field = rng.randrange(DATABASES), rng.choice(NAMES), rng.choice(FIELDS)
    value = b"v%d" % rng.randrange(1000) + b"x" * rng.choice((0, 0, 300))
    expiry = rng.choice((0, 0, 0, now + rng.randrange(1, 5000)))
    roll = rng.random()
    if roll < 0.3:
        return [fx.put(db, key, value, expiry)]
    if roll < 0.45:
        return [fx.delete(db, key)]
    if roll < 0.55:
        return [fx.expire(db, key, expiry)]
    if roll < 0.75:
        return [
            fx.put_element(db, key, HASH, rng.choice(FIELDS), value, expiry) for _ in range(rng.randrange(1, 4))
        ]
    if roll < 0.88:
        return [fx.remove_element(db, key, rng.choice(FIELDS)) for _ in range(rng.randrange(1, 4))]
    if roll < 0.92:
        return [
            fx.put(db, key, value, expiry),
            fx.expire(db, key, rng.choice((0, now + 2000))),
            fx.put(db, rng.choice(NAMES), value),
        ]
    if roll < 0.97:
        other = rng.choice(NAMES)
        return [
            fx.delete(db, key),
            fx.put(db, other, value),
            fx.put_element(db, key, HASH, field, value),
            fx.expire(db, key, now + 3000),
            fx.remove_element(db, key, field),
        ]
    return [fx.flush(db)]


OPTIONS = [
    ({"memtable_bytes": 1 << 20}, 1 << 20),
    ({"memtable_bytes": 4096, "block_bytes": 256, "runs_per_tier": 2, "block_cache_bytes": 1}, 1 << 20),
    ({"memtable_bytes": 20000, "block_bytes": 512, "runs_per_tier": 2, "block_cache_bytes": 4096}, 6000),
]


@pytest.mark.parametrize("seed", range(int(os.environ.get("RESPKV_SEEDS", "24"))))
def test_keyspace_answers_like_the_model(seed: int) -> None:
    rng = random.Random(seed)
    options, row_cache_bytes = OPTIONS[seed % len(OPTIONS)]
    rig, model = Rig(rng, options, row_cache_bytes), Model()
    for step in range(600):
        roll = rng.random()
        if roll < 0.9:
            effects = random_effects(rng, rig.now)
            # A handler refuses to put elements into a string: the model's types must stay possible.
            if any(e[0] == fx.PUT_ELEMENT and model.live(e[1]).get(e[2], [HASH])[0] != HASH for e in effects[:1]):
                continue
            rig.apply(effects)
            for effect in effects:
                model.apply(effect)
        elif roll < 0.94:
            rig.now = model.now = rig.now + rng.randrange(1, 2000)
            rig.keyspace.begin(rig.now)
            rig.keyspace.write_ceiling()
            before = {(db, key) for db in range(DATABASES) for key in model.dbs[db]}
            after = {(db, key) for db in range(DATABASES) for key in model.live(db)}
            if before != after:
                # A hash goes with its last field when expiry gets there, not at the instant itself: until then
                # it may be given new fields. The model knows only the instant.
                rig.expire()
        elif roll < 0.96:
            rig.expire()
        elif roll < 0.975:
            rig.engine.rotate()
            rig.keyspace.counts.follow()
        elif roll < 0.99:
            rig.work()
        else:
            rig.restart(crash=rng.random() < 0.5)
        if step % 40 == 0:
            rig.keyspace.cache.check_invariants()
            rig.keyspace.counts.check_invariants()
            for db in range(DATABASES):
                assert rig.contents(db) == model.live(db), (seed, step, db)
    rig.expire()
    rig.work()
    for db in range(DATABASES):
        live = model.live(db)
        assert rig.contents(db) == live
        assert sorted(rig.walked(db)) == sorted(live)
        assert rig.dbsize(db) == len(live)
        assert rig.keyspace.counts.expiring(db) == sum(row[2] > 0 for row in live.values())
    assert rig.keyspace.counts.is_exact()
    rig.engine.check_invariants()
