"""Three replicas under random writes, losses, hints, flushes, purges and exchanges; and planted bugs.

At the end, when everybody can talk, contents and roots must be equal; and at no time may what was deleted everywhere,
or beaten, come back: the newest write of each key that any replica took wins.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable

import pytest

from respkv.base.slots import slot_of
from respkv.causality.record import encode, stamp_of, tombstone
from respkv.keyspace import keys
from respkv.storage.write_batch import encode_entry
from respkv.wire.messages import FOREGROUND, HINT, TRANSFER
from tests.unit.replication.replica_rig import Group, Replica

SEEDS = int(os.environ.get("RESPKV_SEEDS", "12"))
KEYS = [b"{m}%d" % number for number in range(12)] + [b"n%d" % number for number in range(8)]
SLOTS = sorted({slot_of(key) for key in KEYS})


class World:
    """The group, the hints under way, and the newest write of each key that anybody took."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.group = Group(3, slots=SLOTS, interval_us=3_000_000)
        self.hints: list[tuple[int, bytes, bytes]] = []
        self.newest: dict[bytes, bytes] = {}
        self.purged = 0

    def write(self) -> None:
        """A coordinator writes itself, sends to the others it can reach, and keeps hints for the rest."""
        rng, group = self.rng, self.group
        origin = group.replicas[rng.choice((1, 2, 3))]
        key = keys.record_key(0, rng.choice(KEYS))
        stamp = origin.rig.keyspace.stamp()
        kind = rng.random()
        if kind < 0.4:
            record = tombstone(stamp)
        else:
            record = encode(1, stamp, b"v%d" % rng.randrange(1000), group.now_ms + 2000 if kind < 0.5 else 0)
        group.write(origin.short, key, record)
        if stamp > stamp_of(self.newest.get(key, bytes(11))):
            self.newest[key] = record
        for peer in sorted(group.replicas):
            if peer != origin.short:
                if group.linked(origin.short, peer) and rng.random() < 0.8:
                    group.write(peer, key, record)
                elif rng.random() < 0.7:
                    self.hints.append((peer, key, record))
        self.hinted()

    def hinted(self) -> None:
        oldest = min([stamp_of(record) for _, _, record in self.hints], default=b"")
        for replica in self.group.replicas.values():
            replica.hint_stamp = oldest

    def replay(self) -> None:
        if self.hints:
            peer, key, record = self.hints.pop(self.rng.randrange(len(self.hints)))
            self.group.replicas[peer].apply(HINT, encode_entry(key, record), None)
            self.hinted()

    def flush_and_purge(self, replica: Replica) -> None:
        """Everything into runs, merged, graves below the watermark dropped."""
        rig = replica.rig
        rig.settle()
        rig.purged = min(replica.watermarks.marks[slot] for slot in SLOTS).to_bytes(8, "big") + b"\0\0"
        before = sum(1 for _ in rig.driver.scan(b"\x01", b"\x02"))
        rig.flush()
        while True:
            job = rig.engine.next_job(idle=True)
            if job is None:
                break
            rig.engine.on_job_done(job.id, rig.driver.work(job))
            rig.driver.run_manifest()
        rig.settle()
        self.purged += before - sum(1 for _ in rig.driver.scan(b"\x01", b"\x02"))

    def expire(self, replica: Replica) -> None:
        replica.rig.serve(replica.rig.expire)

    def step(self) -> None:
        rng, group = self.rng, self.group
        action = rng.randrange(100)
        if action < 45:
            self.write()
        elif action < 55:
            self.replay()
        elif action < 60:
            group.partition(*rng.sample((1, 2, 3), 2))
        elif action < 66:
            group.heal()
        elif action < 70:
            self.flush_and_purge(group.replicas[rng.choice((1, 2, 3))])
        elif action < 74:
            self.expire(group.replicas[rng.choice((1, 2, 3))])
        elif action < 76:
            origin = group.replicas[rng.choice((1, 2, 3))]
            slot = rng.choice(SLOTS)
            stamp = origin.rig.keyspace.stamp()
            origin.store.raise_floors([(slot, slot, 0, stamp)])
            origin.rig.commit()
            for key in [key for key in self.newest if keys.key_slot(key) == slot]:
                if stamp > stamp_of(self.newest[key]):
                    self.newest[key] = tombstone(stamp)
        elif action < 78:
            group.pass_ms(rng.choice((10_000, 90_000)))
        else:
            for _ in range(rng.randint(1, 40)):
                group.turn(rng.choice((20, 200)))

    def finish(self) -> None:
        group = self.group
        while self.hints:
            self.replay()
        group.heal()
        group.pass_ms(70_000)
        for _ in range(3):
            group.run_s(12)
            for replica in group.replicas.values():
                self.expire(replica)
        group.run_s(12)

    def check(self) -> None:
        group = self.group
        for replica in group.replicas.values():
            replica.rig.settle()
            assert not replica.rig.wrong_cells(), "sums are those of the records"
        assert group.equal()
        now_ms = group.now_ms
        expected = {}
        for key, record in self.newest.items():
            expired = record[0] & 0x10 and int.from_bytes(record[11:19], "big") <= now_ms
            if record[0] & 15 and not expired:
                expected[key] = record
        for replica in group.replicas.values():
            assert replica.contents() == expected


def run(seed: int, plant: Callable[[World], None] | None = None, steps: int = 120) -> World:
    world = World(seed)
    if plant is not None:
        plant(world)
    for _ in range(steps):
        world.step()
    world.finish()
    world.check()
    return world


@pytest.mark.parametrize("seed", range(SEEDS))
def test_replicas_become_equal_and_nothing_comes_back(seed: int) -> None:
    run(seed)


def test_watermarks_move_and_graves_go() -> None:
    worlds = [run(seed) for seed in range(3)]
    assert sum(world.purged for world in worlds) > 5
    for world in worlds:
        for replica in world.group.replicas.values():
            assert min(replica.watermarks.marks[slot] for slot in SLOTS) > 0


def found(plant: Callable[[World], None], *seeds: int) -> bool:
    """True when one of the seeds finds it. They are named since looking for them takes a minute."""
    for seed in seeds:
        try:
            run(seed, plant)
        except AssertionError:
            return True
    return False


def test_planted_a_watermark_without_a_member_is_found() -> None:
    def plant(world: World) -> None:
        for replica in world.group.replicas.values():
            others = [peer for peer in world.group.replicas if peer != replica.short]
            replica.co_replicas = lambda slot, others=others: others[:1]  # type: ignore[misc,method-assign,assignment]

    assert found(plant, 2, 10, 13, 19)


def test_planted_purging_by_age_is_found() -> None:
    def plant(world: World) -> None:
        original = world.flush_and_purge

        def purge(target: Replica) -> None:
            target.watermarks.raise_alone(SLOTS, world.group.now_ms - 1000 << 16)
            original(target)

        world.flush_and_purge = purge  # type: ignore[method-assign]

    assert found(plant, 3, 4, 10, 13)


@pytest.mark.parametrize("kind", [HINT, TRANSFER])
def test_planted_a_replica_that_refuses_nothing_below_the_watermark_is_found(kind: int) -> None:
    """A write waits as a hint that nobody tells of, its key is deleted, the grave is purged, then the hint comes.

    TRANSFER stands for the planted bug: it is exempt from the refusal.
    """
    world = World(1)
    group = world.group
    internal = keys.record_key(0, KEYS[0])
    late = encode(1, group.replicas[1].rig.keyspace.stamp(), b"late")
    group.put(KEYS[0], None, to=[1, 2, 3])
    group.pass_ms(200_000)
    for left, right in ((1, 2), (1, 3), (2, 3)):
        group.session(left, right)
    for replica in group.replicas.values():
        world.flush_and_purge(replica)
        replica.rig.put(keys.record_key(1, b"a second run"), tombstone(replica.rig.keyspace.stamp()))
        world.flush_and_purge(replica)
        assert replica.rig.stored(internal) is None
    group.write(2, internal, late, kind)
    assert (internal in group.replicas[2].contents()) == (kind == TRANSFER)


def test_a_hint_that_is_told_of_keeps_the_grave() -> None:
    world = World(1)
    group = world.group
    internal = keys.record_key(0, KEYS[0])
    late = encode(1, group.replicas[1].rig.keyspace.stamp(), b"late")
    world.hints.append((2, internal, late))
    world.hinted()
    group.put(KEYS[0], None, to=[1, 2, 3])
    group.pass_ms(200_000)
    for left, right in ((1, 2), (1, 3), (2, 3)):
        group.session(left, right)
    for replica in group.replicas.values():
        world.flush_and_purge(replica)
        replica.rig.put(keys.record_key(1, b"a second run"), tombstone(replica.rig.keyspace.stamp()))
        world.flush_and_purge(replica)
        assert replica.rig.stored(internal) is not None
    world.replay()
    assert group.replicas[2].contents() == {}


def test_planted_leaves_that_are_not_settled_are_found() -> None:
    def plant(world: World) -> None:
        for replica in world.group.replicas.values():
            replica.rig.tell = False

    assert found(plant, 0, 1, 2)


def test_planted_a_replica_that_drops_repairs_is_found() -> None:

    def plant(world: World) -> None:
        replica = world.group.replicas[2]
        original = replica.apply

        def apply(kind: int, payload: bytes, source: int | None) -> None:
            if kind in (FOREGROUND, HINT):
                original(kind, payload, source)

        replica.apply = apply  # type: ignore[method-assign]

    assert found(plant, 1, 2, 3)
