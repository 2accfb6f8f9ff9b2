"""SCAN's promise, under everything that may happen between two calls.

A key that is there from the start of an iteration to its end is returned at least once; one that is never there is
never returned. Meanwhile other keys come and go, memtables are flushed and compacted, the node restarts, cursors
are forgotten, blocks leave the cache, and other databases hold keys of the same slots.
"""

from __future__ import annotations

import random
from typing import Any

import pytest

from respkv.base.errors import ReadMiss
from respkv.base.slots import slot_of
from respkv.commands import keyspace as commands
from respkv.keyspace import effects as fx
from respkv.keyspace.scan import CursorTable
from respkv.resp.reply import encode
from tests.unit.keyspace.rig import ColdRng, Rig

MAX_CALLS = 4000
#: Hash tags of the first thirty slots: a step too far at a slot's end would leave one out.
TAGS = sorted(b"%d" % n for n in range(40_000) if slot_of(b"%d" % n) < 30)[::3]


def decode(reply: bytes) -> Any:
    """A SCAN reply: (cursor, keys)."""
    words = reply.split(b"\r\n")
    return int(words[2]), words[5:-1:2]


class Scanner:
    """Runs SCAN as a dispatcher would: steps, fetches, and other work between them."""

    def __init__(self, rig: Rig, rng: random.Random, db: int) -> None:
        self.rig = rig
        self.rng = rng
        self.db = db

    def call(self, cursor: int, meanwhile: Any, *options: bytes) -> tuple[int, list[bytes]]:
        walk = commands.scan([b"SCAN", b"%d" % cursor, *options], self.rig.view(self.db))
        while True:
            try:
                request = next(walk)
            except StopIteration as end:
                found: tuple[int, list[bytes]] = decode(encode(end.value[0], 2))
                return found
            except ReadMiss as miss:
                raise AssertionError("a walk names its blocks itself") from miss
            if request is not None:
                request.install(request.read())
            elif self.rng.random() < 0.3:
                meanwhile()

    def run(self, meanwhile: Any, between: Any, *options: bytes) -> list[bytes]:
        """A whole iteration with a random COUNT at each call."""
        cursor, found = 0, []
        for _ in range(MAX_CALLS):
            count = self.rng.choice((1, 3, 10, 50, 200, 2000))
            cursor, names = self.call(cursor, meanwhile, b"COUNT", b"%d" % count, *options)
            found += names
            if cursor == 0:
                return found
            between()
        raise AssertionError("the iteration does not end")


def names_of(rng: random.Random, kind: str) -> list[bytes]:
    """Key names: spread over all slots, crowded into few of them, or filling slots side by side."""
    if kind == "spread":
        return [b"k%d" % n for n in range(1200)]
    if kind == "crowded":
        return [b"{t%d}%d" % (n % 3, n) for n in range(1200)]
    if kind == "dense":
        return [b"{%b}%d" % (TAGS[n % len(TAGS)], n) for n in range(1200)]
    return [b"{t}%d" % n for n in range(600)] + [b"k%d" % n for n in range(600)]


@pytest.mark.parametrize("kind", ["spread", "crowded", "mixed", "dense"])
@pytest.mark.parametrize("seed", range(8))
def test_keys_that_stay_are_returned_and_keys_that_never_were_are_not(seed: int, kind: str) -> None:
    rng = random.Random(f"{seed}{kind}")
    cold = seed % 2 == 1
    rig = Rig(databases=3, memtable_bytes=40_000, runs_per_tier=2, block_cache_bytes=1 if cold else 1 << 20)
    names = names_of(rng, kind)
    rng.shuffle(names)
    stay, churn, never = names[:500], names[500:1000], names[1000:]
    db, other = rng.sample(range(3), 2)
    rig.apply(*(fx.put(db, name, b"v") for name in stay))
    rig.apply(*(fx.put(db, name, b"v") for name in rng.sample(churn, 250)))
    rig.apply(*(fx.put(other, name, b"v") for name in (*never, *rng.sample(stay, 100))))
    rig.apply(*(fx.put(db, name, b"v", rig.now_ms + rng.randrange(1, 300)) for name in rng.sample(churn, 50)))
    # Some were there once: they are dead records when the iteration starts.
    rig.apply(*(fx.put(db, name, b"v") for name in never[:100]))
    rig.apply(*(fx.delete(db, name) for name in never[:100]))
    if rng.random() < 0.7:
        rig.flush()
    if cold:
        rig.cold()

    def change() -> None:
        effects = []
        for _ in range(rng.randrange(1, 20)):
            name = rng.choice(churn)
            effects.append(rng.choice((fx.put(db, name, b"w"), fx.delete(db, name))))
            effects.append(fx.put(db, rng.choice(stay), b"w"))
            effects.append(rng.choice((fx.put(other, rng.choice(names), b"w"), fx.delete(other, rng.choice(names)))))
        rig.apply(*effects)

    def between() -> None:
        roll = rng.random()
        if roll < 0.5:
            change()
        elif roll < 0.56:
            rig.engine.rotate()
            rig.commit()
        elif roll < 0.62:
            rig.flush()
        elif roll < 0.66:
            rig.restart(crash=rng.random() < 0.5)
            scanner.rig = rig
            if cold:
                rig.fs.cold = ColdRng()
        elif roll < 0.72:
            rig.keyspace.cursors = CursorTable()
        elif roll < 0.78:
            rig.advance_ms(rng.randrange(100))
            rig.expire()
        elif roll < 0.84 and cold:
            rig.cold()

    scanner = Scanner(rig, rng, db)
    found = scanner.run(change, between)
    missing = set(stay) - set(found)
    assert not missing, sorted((slot_of(name), name) for name in missing)[:5]
    assert not set(found) & set(never)
    assert set(found) <= set(stay) | set(churn)


@pytest.mark.parametrize("seed", range(6))
def test_a_store_at_rest_is_returned_exactly_once(seed: int) -> None:
    rng = random.Random(seed)
    rig = Rig(databases=3)
    names = names_of(rng, rng.choice(("spread", "crowded", "mixed", "dense")))
    for db in range(3):
        rig.apply(*(fx.put(db, name, b"v") for name in names[db:]))
        if rng.random() < 0.5:
            rig.flush()
    if rng.random() < 0.5:
        rig.cold()
    found = Scanner(rig, rng, 1).run(lambda: None, lambda: None)
    assert len(found) == len(names) - 1 and set(found) == set(names[1:])


@pytest.mark.parametrize("seed", range(4))
def test_databases_that_crowd_the_same_slots_hide_nothing(seed: int) -> None:
    rng = random.Random(seed)
    rig = Rig(databases=5)
    names = names_of(rng, "dense")
    for db in (0, 1, 3, 4):
        rig.apply(*(fx.put(db, name, b"v") for name in names))
    mine = [b"{%b}mine" % tag for tag in TAGS]
    rig.apply(*(fx.put(2, name, b"v") for name in mine))
    found = Scanner(rig, rng, 2).run(lambda: None, lambda: None)
    assert sorted(found) == sorted(mine)


@pytest.mark.parametrize("seed", range(4))
def test_filters_leave_out_and_never_lose(seed: int) -> None:
    rng = random.Random(seed)
    rig = Rig()
    rig.apply(*(fx.put(0, b"s%d" % n, b"v") for n in range(400)))
    rig.apply(*(fx.put_element(0, b"h%d" % n, 2, b"f", b"v") for n in range(100)))
    scanner = Scanner(rig, rng, 0)
    assert sorted(scanner.run(lambda: None, lambda: None, b"TYPE", b"hash")) == sorted(b"h%d" % n for n in range(100))
    matching = scanner.run(lambda: None, lambda: None, b"MATCH", b"s1*")
    assert sorted(matching) == sorted(b"s%d" % n for n in range(400) if str(n).startswith("1"))


def test_a_slot_full_of_dead_keys_does_not_trap_the_iteration() -> None:
    rng = random.Random(1)
    rig = Rig()
    rig.apply(*(fx.put(0, b"{t}%04d" % n, b"v") for n in range(1500)))
    rig.apply(*(fx.delete(0, b"{t}%04d" % n) for n in range(1, 1499)))
    found = Scanner(rig, rng, 0).run(lambda: None, lambda: None)
    assert found == [b"{t}0000", b"{t}1499"]


def test_cursors_of_clients_are_not_trusted() -> None:
    rng = random.Random(1)
    rig = Rig()
    rig.apply(*(fx.put(0, b"k%d" % n, b"v") for n in range(300)))
    scanner = Scanner(rig, rng, 0)
    for _ in range(300):
        cursor = rng.getrandbits(64)
        following, names = scanner.call(cursor, lambda: None, b"COUNT", b"5")
        assert 0 <= following < 1 << 64
        assert all(name.startswith(b"k") for name in names)
    assert scanner.call((1 << 64) - 1, lambda: None) == (0, [])
