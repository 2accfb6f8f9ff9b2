"""The keyspace itself: time, stamps, local facts over a restart, loading of rows."""

from __future__ import annotations

import random

import pytest

from respkv.base.errors import ReadMiss
from respkv.base.ids import HASH
from respkv.keyspace import effects as fx
from respkv.keyspace import keys
from tests.unit.keyspace.rig import START_MS, Rig

#: Too long and too random to share a page of the disk.
VALUES = [random.Random(n).randbytes(600) for n in range(60)]


def test_time_never_goes_backwards() -> None:
    rig = Rig()
    rig.keyspace.begin(START_MS + 10)
    rig.keyspace.begin(START_MS - 10)
    assert rig.keyspace.now_ms == START_MS + 10


def test_stamps_rise_with_the_wall_clock_and_between() -> None:
    rig = Rig()
    first, second = rig.keyspace.stamp(), rig.keyspace.stamp()
    rig.keyspace.begin(START_MS + 1)
    third = rig.keyspace.stamp()
    assert first < second < third
    assert int.from_bytes(first[:6], "big") == START_MS and int.from_bytes(third[:6], "big") == START_MS + 1


@pytest.mark.parametrize("crash", [False, True])
def test_local_facts_survive(crash: bool) -> None:
    rig = Rig()
    rig.apply(fx.put(0, b"k", b"v"), fx.put(1, b"k", b"w"))
    rig.apply(fx.flush(0), fx.swap(0, 3), fx.swap(3, 1))
    rig.keyspace.expired_through_ms = START_MS - 5
    rig.keyspace.write_expired_through()
    ceiling = rig.keyspace.write_ceiling()
    rig.commit()
    last = rig.keyspace.clock.last
    stored, floors = list(rig.keyspace.stored), rig.keyspace.floors.plain()
    rig.restart(crash=crash)
    keyspace = rig.keyspace
    assert keyspace.stored == stored and keyspace.floors.plain() == floors
    assert keyspace.expired_through_ms == START_MS - 5
    assert keyspace.clock.last >= (ceiling if crash else last)
    if not crash:
        assert keyspace.clock.last < ceiling, "a clean stop notes the exact value"
    assert rig.view(0).string(b"k") is None and rig.view(3).string(b"k") == b"w"
    assert rig.view(1).string(b"k") is None


def test_databases_stay_apart_when_their_number_shrinks_and_grows() -> None:
    rig = Rig(databases=16)
    rig.apply(fx.put(0, b"k", b"zero"), fx.put(10, b"k", b"ten"))
    rig.apply(fx.swap(0, 10))
    rig.databases = 4
    rig.restart()
    assert rig.view(0).string(b"k") == b"ten"
    rig.apply(fx.swap(1, 2))
    rig.databases = 16
    rig.restart()
    assert sorted(rig.keyspace.stored) == list(range(16))
    assert rig.view(0).string(b"k") == b"ten" and rig.view(10).string(b"k") == b"zero"


def test_loading_all_fields_goes_on_where_it_missed() -> None:
    rig = Rig(block_cache_bytes=1)
    rig.apply(*(fx.put_element(0, b"h", HASH, b"f%03d" % n, VALUES[n]) for n in range(60)))
    rig.flush()
    rig.cold()
    row = rig.serve(lambda: rig.keyspace.row(0, b"h"))
    misses, reached = 0, []
    while True:
        try:
            rig.keyspace.load_fields(0, b"h", row)
            break
        except ReadMiss as miss:
            misses += 1
            reached.append(row.loaded_to or b"")
            miss.request.install(miss.request.read())
    assert misses > 3 and reached == sorted(set(reached))
    assert row.complete and row.loaded_to is None and len(row.fields) == 60
    rig.keyspace.cache.check_invariants()


def test_an_interrupted_load_keeps_up_with_writes() -> None:
    rig = Rig(block_cache_bytes=1)
    rig.apply(*(fx.put_element(0, b"h", HASH, b"f%03d" % n, VALUES[n]) for n in range(60)))
    rig.flush()
    rig.cold()
    row = rig.serve(lambda: rig.keyspace.row(0, b"h"))
    changed = False
    while True:
        try:
            rig.keyspace.load_fields(0, b"h", row)
            break
        except ReadMiss as miss:
            miss.request.install(miss.request.read())
            if not changed and row.loaded_to is not None and row.loaded_to > b"f020":
                changed = True
                rig.apply(
                    fx.remove_element(0, b"h", b"f001"),
                    fx.put_element(0, b"h", HASH, b"f002", b"new"),
                    fx.remove_element(0, b"h", b"f058"),
                    fx.put_element(0, b"h", HASH, b"f059", b"new"),
                    fx.put_element(0, b"h", HASH, b"f0005", b"new"),
                )
    assert changed
    expected = {b"f%03d" % n: VALUES[n] for n in range(60)} | {b"f002": b"new", b"f059": b"new", b"f0005": b"new"}
    del expected[b"f001"], expected[b"f058"]
    assert row.fields == expected


def test_internal_keys_are_those_of_the_layout() -> None:
    rig = Rig()
    assert rig.keyspace.internal(5, b"foo") == keys.record_key(5, b"foo")


def test_stats() -> None:
    stats = Rig().keyspace.stats()
    assert stats["hits"] == stats["misses"] == stats["expired_keys"] == 0
    assert stats["row_cache_capacity"] == 1 << 20
