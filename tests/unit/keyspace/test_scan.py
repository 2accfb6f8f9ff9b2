"""Walks and cursors."""

from __future__ import annotations

import pytest

from respkv.base.errors import ReadMiss
from respkv.base.slots import SLOT_COUNT, slot_of
from respkv.keyspace import effects as fx
from respkv.keyspace import keys
from respkv.keyspace.scan import CursorTable, KeyWalk, cursor_hash, cursor_slot, key_hash, slot_cursor
from tests.unit.keyspace.rig import START_MS, Rig


@pytest.mark.parametrize("flushed", [False, True])
@pytest.mark.parametrize("step", [1, 3, 1000])
def test_a_walk_meets_every_live_key_of_its_database_in_slot_order(flushed: bool, step: int) -> None:
    rig = Rig(databases=3)
    names = [b"k%d" % n for n in range(100)]
    for db in (0, 1, 2):
        rig.apply(*(fx.put(db, name, b"%d" % db) for name in names[db:]))
    rig.apply(fx.delete(1, b"k5"), fx.put(1, b"k6", b"v", START_MS + 1))
    rig.advance_ms(1)
    if flushed:
        rig.flush()
        rig.cold()
    expected = sorted((name for name in names[1:] if name not in (b"k5", b"k6")), key=lambda n: (slot_of(n), n))
    assert rig.walk(1, step) == expected


def test_a_miss_in_the_middle_of_a_step_loses_no_key() -> None:
    rig = Rig(block_cache_bytes=1)
    names = sorted((b"k%d" % n for n in range(60)), key=lambda n: (slot_of(n), n))
    rig.apply(*(fx.put(0, name, rig.rng.randbytes(600)) for name in names))
    rig.flush()
    rig.cold()
    walk, found, misses = KeyWalk(rig.keyspace, 0), [], 0
    while not walk.done:
        try:
            found += [keys.user_key(internal) for internal, _ in walk.step(1000)]
        except ReadMiss as miss:
            misses += 1
            assert misses < 100
            miss.request.install(miss.request.read())
    assert misses > 3 and found == names


def test_a_walk_hides_what_was_flushed() -> None:
    rig = Rig()
    rig.apply(*(fx.put(0, b"k%d" % n, b"v") for n in range(20)), fx.flush(0), fx.put(0, b"new", b"v"))
    assert rig.walk() == [b"new"]


def test_a_step_is_bounded_by_what_it_visits_not_by_what_it_finds() -> None:
    rig = Rig()
    rig.apply(*(fx.put(0, b"k%d" % n, b"v") for n in range(30)))
    rig.apply(*(fx.delete(0, b"k%d" % n) for n in range(29)))
    walk = KeyWalk(rig.keyspace, 0)
    found, steps = 0, 0
    while not walk.done:
        found += len(walk.step(5))
        steps += 1
        assert walk.visited <= 5 * steps
    assert found == 1 and steps >= 6


def test_other_databases_are_jumped_over() -> None:
    rig = Rig()
    rig.apply(*(fx.put(db, b"{t}%d" % n, b"v") for db in (0, 2) for n in range(500)))
    rig.apply(fx.put(1, b"{t}mine", b"v"), fx.put(1, b"z", b"v"))
    walk = KeyWalk(rig.keyspace, 1)
    found = []
    while not walk.done:
        found += walk.step(100)
    assert sorted(keys.user_key(internal) for internal, _ in found) == [b"z", b"{t}mine"]
    assert walk.visited < 150, "a thousand keys of others were not visited one by one"


def test_a_walk_of_one_slot_stops_at_its_end() -> None:
    rig = Rig()
    rig.apply(*(fx.put(0, b"{t}%d" % n, b"v") for n in range(10)), *(fx.put(0, b"k%d" % n, b"v") for n in range(50)))
    slot = slot_of(b"t")
    walk = KeyWalk(rig.keyspace, 0, start=keys.place_start(slot, 0))
    found = walk.step(1000, stop_slot=slot + 1)
    assert walk.done
    assert [keys.user_key(internal) for internal, _ in found] == sorted(b"{t}%d" % n for n in range(10))


def test_preparing_is_done_in_slices() -> None:
    rig = Rig()
    table = rig.engine.memtable.table
    for n in range(12_000):
        table[keys.record_key(0, b"k%d" % n)] = b"\x01" + bytes(7) + b"\x01\x00\x01"
    walk = KeyWalk(rig.keyspace, 0)
    assert [walk.prepare() for _ in range(3)] == [False, False, True]


def test_last_is_the_last_entry_of_ours_dead_or_alive() -> None:
    rig = Rig()
    rig.apply(fx.put(0, b"{t}a", b"v"), fx.put(0, b"{t}b", b"v"), fx.put(5, b"{t}z", b"v"))
    rig.apply(fx.delete(0, b"{t}b"))
    walk = KeyWalk(rig.keyspace, 0)
    assert walk.last is None
    assert [keys.user_key(internal) for internal, _ in walk.step(1000)] == [b"{t}a"]
    assert walk.last == keys.record_key(0, b"{t}b")


# cursors


def test_cursor_layout() -> None:
    table = CursorTable()
    cursor = table.give(12182, b"foo")
    assert cursor == 12183 << 48 | key_hash(b"foo")
    assert (cursor_slot(cursor), cursor_hash(cursor)) == (12182, key_hash(b"foo"))
    assert table.known(cursor) == b"foo" and table.known(cursor + 1) is None
    assert 0 < cursor < 1 << 64


def test_slot_cursors_stand_before_their_slot() -> None:
    assert slot_cursor(0) == 1 << 48
    assert cursor_slot(slot_cursor(77)) == 77 and cursor_hash(slot_cursor(77)) == 0
    assert slot_cursor(SLOT_COUNT) == 0, "past the last slot the walk is over"
    assert slot_cursor(SLOT_COUNT - 1) < 1 << 63
    assert key_hash(b"anything") > 0


def test_the_table_is_bounded_and_keeps_those_given_lately() -> None:
    table = CursorTable()
    first = table.give(0, b"first")
    second = table.give(0, b"second")
    for n in range(1022):
        table.give(1, b"k%d" % n)
    assert table.known(first) == b"first"
    assert table.give(0, b"first") == first
    table.give(1, b"one more")
    assert table.known(first) == b"first" and table.known(second) is None
