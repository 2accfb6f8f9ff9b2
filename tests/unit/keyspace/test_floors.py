"""Flush floors: ranges merged by max, against a flat table."""

from __future__ import annotations

import json
import random
from itertools import pairwise

import pytest

from respkv.base.slots import SLOT_COUNT
from respkv.causality.hlc import ZERO_STAMP, pack_stamp
from respkv.keyspace.floors import DurableFloors, FlushFloors

LAST = SLOT_COUNT - 1


def stamp(number: int) -> bytes:
    return pack_stamp(number, 1)


def test_nothing_is_hidden_at_first() -> None:
    floors = FlushFloors()
    assert floors.get(7, 0) == floors.highest == ZERO_STAMP
    assert not floors.hides(7, 0, stamp(1))
    assert floors.databases() == [] and floors.encode(0) == b""


def test_a_floor_hides_up_to_its_own_stamp_in_its_database() -> None:
    floors = FlushFloors()
    floors.raise_to(2, 0, LAST, stamp(10))
    assert floors.hides(0, 2, stamp(10)) and floors.hides(LAST, 2, stamp(9))
    assert not floors.hides(0, 2, stamp(11))
    assert not floors.hides(0, 1, stamp(5))
    assert floors.highest == stamp(10) and floors.databases() == [2]


def test_floors_only_grow() -> None:
    floors = FlushFloors()
    floors.raise_to(0, 0, LAST, stamp(10))
    floors.raise_to(0, 0, LAST, stamp(4))
    assert floors.get(5, 0) == floors.highest == stamp(10)


def test_layout_of_the_stored_body() -> None:
    floors = FlushFloors()
    floors.raise_to(0, 5, 10, stamp(3))
    floors.raise_to(0, 8, 20, stamp(4))
    assert floors.encode(0) == b"\x00\x05\x00\x07" + stamp(3) + b"\x00\x08\x00\x14" + stamp(4)


def test_equal_neighbours_become_one_range() -> None:
    floors = FlushFloors()
    for first, last in ((0, 99), (200, LAST), (100, 199)):
        floors.raise_to(0, first, last, stamp(7))
    assert floors.encode(0) == b"\x00\x00\x3f\xff" + stamp(7)


@pytest.mark.parametrize("seed", range(12))
def test_random_ranges_agree_with_a_table_in_any_order(seed: int) -> None:
    rng = random.Random(seed)
    edges = sorted({0, LAST, *(rng.randrange(SLOT_COUNT) for _ in range(8))})
    raises = []
    for _ in range(25):
        first, last = sorted(rng.choices(edges, k=2))
        raises.append((rng.randrange(2), first, last, stamp(rng.randrange(1, 40))))
    probes = sorted({slot + d for slot in edges for d in (-1, 0, 1) if 0 <= slot + d <= LAST})
    table = {(db, slot): ZERO_STAMP for db in range(2) for slot in probes}
    for db, first, last, floor in raises:
        for slot in probes:
            if first <= slot <= last:
                table[db, slot] = max(table[db, slot], floor)
    encoded = []
    for _ in range(3):
        floors = FlushFloors()
        for one in raises:
            floors.raise_to(*one)
        for (db, slot), floor in table.items():
            assert floors.get(slot, db) == floor
            assert floors.hides(slot, db, floor) == (floor > ZERO_STAMP or floors.highest >= floor)
        assert floors.highest == max(floor for *_, floor in raises)
        encoded.append([floors.encode(db) for db in range(2)])
        rng.shuffle(raises)
    assert encoded[0] == encoded[1] == encoded[2]
    for body in encoded[0]:
        ranges = [body[at : at + 14] for at in range(0, len(body), 14)]
        for left, right in pairwise(ranges):
            assert left[2:4] < right[:2], "ranges ascend without overlap"
            assert left[4:] != right[4:] or int.from_bytes(left[2:4]) + 1 < int.from_bytes(right[:2])


def test_stored_and_plain_forms_merge_back() -> None:
    rng = random.Random(1)
    floors = FlushFloors()
    for _ in range(20):
        first, last = sorted(rng.choices(range(SLOT_COUNT), k=2))
        floors.raise_to(rng.randrange(3), first, last, stamp(rng.randrange(1, 99)))
    plain = json.loads(json.dumps(floors.plain()))
    again = FlushFloors.from_plain(plain)
    assert again.plain() == floors.plain() and again.highest == floors.highest
    for db in floors.databases():
        again.decode(db, floors.encode(db))
    assert again.plain() == floors.plain()


def test_floors_are_known_to_last_when_the_commit_that_covers_them_is_durable() -> None:
    floors = FlushFloors()
    durable = DurableFloors(floors)
    floors.raise_to(0, 0, LAST, stamp(1))
    durable.look(written_lsn=5, durable_lsn=4)
    assert durable.known.plain() == {}
    first = floors.plain()
    floors.raise_to(1, 0, LAST, stamp(2))
    durable.look(written_lsn=9, durable_lsn=5)
    assert durable.known.plain() == first and durable.known.highest == stamp(1)
    durable.look(written_lsn=9, durable_lsn=8)
    assert durable.known.plain() == first
    durable.look(written_lsn=12, durable_lsn=9)
    assert durable.known.plain() == floors.plain()
    floors.raise_to(0, 0, LAST, stamp(3))
    durable.look(written_lsn=12, durable_lsn=12)
    assert durable.known.plain() == floors.plain() != first
