"""Retention: each rule of what a compaction drops, and what it must keep."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from respkv.base.ids import HASH, STRING
from respkv.causality.hlc import pack_stamp
from respkv.causality.record import encode, expired_form, tombstone
from respkv.keyspace import effects as fx
from respkv.keyspace import keys
from respkv.keyspace.floors import FlushFloors
from respkv.keyspace.retention import Keep, make_keep, plain
from tests.unit.keyspace.rig import START_MS, Rig

K = keys.record_key(0, b"k")
ELEMENT = keys.element_prefix(K) + b"f"
COUNT = keys.count_key(K)
SOON = START_MS + 1000


def stamp(number: int) -> bytes:
    return pack_stamp(number, 1)


def keep_of(
    *,
    floors: FlushFloors | None = None,
    expired_through_ms: int = 0,
    purge_below: bytes | Sequence[tuple[int, int, int]] = bytes(10),
    records: dict[bytes, bytes] | None = None,
) -> Keep:
    data = plain(floors or FlushFloors(), expired_through_ms=expired_through_ms, purge_below=purge_below)
    return make_keep(json.loads(json.dumps(data)), (records or {}).get)


def nowhere(key: bytes) -> bool:
    return False


def anywhere(key: bytes) -> bool:
    return True


# expiry index


def test_index_entries_go_when_they_are_worked_off() -> None:
    keep = keep_of(expired_through_ms=100)
    assert not keep(keys.expiry_key(100, K), b"", anywhere)
    assert not keep(keys.expiry_key(1, ELEMENT), b"", nowhere)
    assert keep(keys.expiry_key(101, K), b"", nowhere)


def test_local_facts_stay() -> None:
    floors = FlushFloors()
    floors.raise_to(0, 0, 16383, stamp(100))
    keep = keep_of(floors=floors, purge_below=stamp(100), expired_through_ms=1 << 60)
    assert keep(keys.meta_key(b"databases"), encode(STRING, stamp(1), b"x"), nowhere)


# floors


def test_what_a_floor_hides_goes_everything_else_stays() -> None:
    floors = FlushFloors()
    floors.raise_to(0, 0, 16383, stamp(10))
    keep = keep_of(floors=floors)
    for key in (K, ELEMENT, COUNT):
        assert not keep(key, encode(STRING, stamp(10), b"v"), anywhere)
        assert keep(key, encode(STRING, stamp(11), b"v"), nowhere)
    assert not keep(K, tombstone(stamp(3)), anywhere)
    assert keep(keys.record_key(1, b"k"), encode(STRING, stamp(3), b"v"), nowhere)


def test_a_floor_of_some_slots_spares_the_others() -> None:
    floors = FlushFloors()
    slot = keys.key_slot(K)
    floors.raise_to(0, 0, slot - 1, stamp(10))
    assert keep_of(floors=floors)(K, encode(STRING, stamp(3), b"v"), nowhere)
    floors.raise_to(0, slot, slot, stamp(10))
    assert not keep_of(floors=floors)(K, encode(STRING, stamp(3), b"v"), nowhere)


# tombstones and expired forms


@pytest.mark.parametrize("dead", [tombstone(stamp(5)), expired_form(encode(STRING, stamp(5), b"v", 77))])
def test_tombstones_go_below_the_watermark_unless_something_older_may_be_there(dead: bytes) -> None:
    assert not keep_of(purge_below=stamp(6))(K, dead, nowhere)
    assert keep_of(purge_below=stamp(6))(K, dead, anywhere)
    assert keep_of(purge_below=stamp(5))(K, dead, nowhere)
    assert keep_of()(K, dead, nowhere)


@pytest.mark.parametrize("dead", [tombstone(stamp(5)), expired_form(encode(STRING, stamp(5), b"v", 77))])
@pytest.mark.parametrize("key", [K, ELEMENT])
def test_a_ring_member_purges_by_the_watermark_of_its_slot(key: bytes, dead: bytes) -> None:
    slot = keys.key_slot(key)

    def kept(*marks: tuple[int, int, int], older: Callable[[bytes], bool] = nowhere) -> bool:
        return keep_of(purge_below=marks)(key, dead, older)

    assert kept(), "nothing is proved"
    assert not kept((slot, slot, 6)) and not kept((0, slot - 1, 1), (slot, 16383, 6))
    assert kept((slot, slot, 5)), "the watermark itself is not below it"
    assert kept((0, slot - 1, 1 << 60), (slot + 1, 16383, 1 << 60)), "other slots say nothing of this one"
    assert kept((slot, slot, 6), older=anywhere)


def test_watermarks_spare_what_lives_and_reach_the_first_and_last_slot() -> None:
    keep = keep_of(purge_below=[(0, 16383, (1 << 64) - 1)])
    for slot in (0, 16383):
        key = b"\x01" + slot.to_bytes(2, "big") + bytes(2) + b"k"
        assert not keep(key, tombstone(stamp(5)), nowhere) and keep(key, encode(STRING, stamp(5), b"v"), nowhere)


def test_caution_outweighs_watermarks() -> None:
    """Where older runs cannot be read, the engine's options put an empty string in the watermarks' place."""
    data = {**plain(FlushFloors(), expired_through_ms=0, purge_below=[(0, 16383, 1 << 60)]), "purge_below": ""}
    assert make_keep(data, {}.get)(K, tombstone(stamp(5)), nowhere)


def test_a_live_record_stays_even_past_its_time() -> None:
    keep = keep_of(purge_below=stamp(100), expired_through_ms=1 << 50)
    assert keep(K, encode(STRING, stamp(5), b"v", 77), nowhere)
    assert keep(K, encode(STRING, stamp(5), b"v"), nowhere)


def test_the_older_runs_are_asked_for_the_key_itself() -> None:
    asked = []

    def older(key: bytes) -> bool:
        asked.append(key)
        return False

    keep = keep_of(purge_below=stamp(9))
    keep(K, tombstone(stamp(5)), older)
    keep(K, encode(STRING, stamp(5), b"v"), older)
    assert asked == [K]


# elements and counts


@pytest.mark.parametrize("key", [ELEMENT, COUNT])
def test_elements_that_their_metadata_hides_go(key: bytes) -> None:
    record = encode(STRING, stamp(5), b"v")

    def kept(owner: bytes | None) -> bool:
        return keep_of(records={} if owner is None else {K: owner})(key, record, anywhere)

    assert kept(encode(HASH, stamp(20), stamp(4))), "the floor counts, not the metadata's own stamp"
    assert not kept(encode(HASH, stamp(20), stamp(5)))
    assert not kept(encode(STRING, stamp(5), b"v")) and kept(encode(STRING, stamp(4), b"v"))
    assert not kept(tombstone(stamp(6))) and kept(tombstone(stamp(4)))
    assert kept(None), "without metadata nothing says that it is hidden"


@pytest.mark.parametrize(
    ("purge_below", "stays"), [([], True), ([(0, 16383, 7)], True), ("", True), (bytes(10), False)]
)
def test_elements_of_a_life_that_follows_an_expiry_stay_on_a_ring(purge_below: Any, stays: bool) -> None:
    """The metadata of that life may come from another node later than they; on a single node it was there first."""
    owner = expired_form(encode(HASH, pack_stamp(500 << 16, 1), stamp(4), 1000))
    data = {**plain(FlushFloors(), expired_through_ms=0, purge_below=bytes(10))}
    if not isinstance(purge_below, bytes):
        data["purge_below"] = purge_below
    keep = make_keep(data, {K: owner}.get)
    at = {ms: encode(STRING, pack_stamp(ms << 16, 2), b"v") for ms in (499, 999, 1000, 1001)}
    assert [keep(ELEMENT, at[ms], nowhere) for ms in at] == [False, False, False, stays]


def test_a_removed_element_goes_as_other_tombstones_do() -> None:
    records = {K: encode(HASH, stamp(2), stamp(1))}
    keep = keep_of(purge_below=stamp(9), records=records)
    assert not keep(ELEMENT, tombstone(stamp(5)), nowhere)
    assert keep(ELEMENT, tombstone(stamp(5)), anywhere)


def test_metadata_is_looked_up_once_for_neighbours() -> None:
    asked = []

    def lookup(key: bytes) -> bytes | None:
        asked.append(key)
        return encode(HASH, stamp(2), stamp(1))

    keep = make_keep(plain(FlushFloors(), expired_through_ms=0, purge_below=bytes(10)), lookup)
    other = keys.record_key(0, b"other")
    for owner in (K, K, other, other, K):
        keep(keys.element_prefix(owner) + b"f", encode(STRING, stamp(5), b"v"), nowhere)
    assert asked == [K, other, K]


# end to end


def spaces(rig: Rig) -> dict[int, int]:
    """Entries by space in the runs, local facts left out."""
    found: dict[int, int] = {}
    for space in (1, 2, 3, 6):
        count = sum(1 for _ in rig.engine.scan(bytes((space,)), bytes((space + 1,)), wait=True))
        if count:
            found[space] = count
    return found


def compact_all(rig: Rig) -> None:
    """Everything into one run."""
    for n in range(8):
        rig.apply(fx.put(15, b"turn", b"%d" % n))
        rig.flush()
    rig.apply(fx.delete(15, b"turn"))
    for _ in range(8):
        rig.apply(fx.flush(14))
        rig.flush()
    assert rig.engine.stats()["runs"] <= 2


def test_what_is_dead_leaves_the_disk() -> None:
    rig = Rig(runs_per_tier=2)
    rig.apply(
        fx.put(0, b"deleted", b"v"),
        fx.put(0, b"expired", b"v", SOON),
        fx.put(0, b"stays", b"v", SOON + 10_000),
        fx.put(1, b"flushed", b"v", SOON),
        fx.put_element(0, b"gone", HASH, b"f", b"v"),
        fx.put_element(0, b"h", HASH, b"f", b"v"),
        fx.put_element(0, b"h", HASH, b"g", b"v", SOON),
        fx.put_element(1, b"flushed hash", HASH, b"g", b"v", SOON),
    )
    rig.flush()
    rig.apply(fx.delete(0, b"deleted"), fx.delete(0, b"gone"), fx.flush(1))
    rig.advance_ms(1000)
    rig.expire()
    rig.expired_durable_ms = rig.now_ms
    compact_all(rig)
    assert spaces(rig) == {1: 2, 2: 1, 3: 1, 6: 1}
    assert sorted(rig.walk()) == [b"h", b"stays"] and rig.total() == 2
    assert rig.fields(b"h") == {b"f": (b"v", 0)}


def test_fields_written_after_the_expiry_was_set_leave_the_disk_too() -> None:
    rig = Rig(runs_per_tier=2)
    rig.apply(fx.put_element(0, b"session", HASH, b"a", b"v"), fx.expire(0, b"session", SOON))
    rig.apply(*(fx.put_element(0, b"session", HASH, b"f%d" % n, b"v") for n in range(10)))
    rig.flush()
    rig.advance_ms(1000)
    rig.expire()
    rig.expired_durable_ms = rig.now_ms
    compact_all(rig)
    assert rig.view().hash(b"session") is None
    assert spaces(rig) == {}, "nothing can ever show these elements again"


def test_a_key_made_anew_after_its_expiry_keeps_its_new_fields() -> None:
    rig = Rig(runs_per_tier=2)
    rig.apply(fx.put_element(0, b"session", HASH, b"a", b"old"), fx.expire(0, b"session", SOON))
    rig.apply(fx.put_element(0, b"session", HASH, b"b", b"old"))
    rig.flush()
    rig.advance_ms(1000)
    rig.expire()
    rig.flush()
    rig.apply(fx.put_element(0, b"session", HASH, b"a", b"new"))
    rig.flush()
    rig.apply(fx.put_element(0, b"session", HASH, b"c", b"new"))
    compact_all(rig)
    assert rig.fields(b"session") == {b"a": (b"new", 0), b"c": (b"new", 0)}
    assert spaces(rig)[2] == 2


# controls: rules that are too eager are found out


Make = Callable[[dict[str, object], Callable[[bytes], bytes | None]], Keep]


def drops_tombstones(data: dict[str, object], lookup: Callable[[bytes], bytes | None]) -> Keep:
    right = make_keep(data, lookup)
    return lambda key, record, older: right(key, record, nowhere)


def drops_expired(data: dict[str, object], lookup: Callable[[bytes], bytes | None]) -> Keep:
    right = make_keep(data, lookup)
    return lambda key, record, older: not (key[0] == 1 and record[0] & 0x10) and right(key, record, older)


def hides_by_own_stamp(data: dict[str, object], lookup: Callable[[bytes], bytes | None]) -> Keep:
    right = make_keep(data, lookup)

    def keep(key: bytes, record: bytes, older: Callable[[bytes], bool]) -> bool:
        owner = lookup(keys.element_owner(key)[0]) if key[0] == 2 else None
        return (owner is None or record[1:11] > owner[1:11]) and right(key, record, older)

    return keep


@pytest.mark.parametrize("make", [make_keep, drops_tombstones, drops_expired, hides_by_own_stamp])
def test_too_eager_rules_change_what_is_read(make: Make) -> None:
    rig = Rig(runs_per_tier=2)
    # Where a rule is about elements and their metadata, both must meet in one job: nothing large keeps runs apart.
    size = 10 if make is hides_by_own_stamp else 10_000
    rig.apply(
        fx.put(0, b"deleted", b"v"),
        fx.put(0, b"timed", b"v", SOON),
        fx.put(0, b"large", rig.rng.randbytes(2 * size)),
        fx.put_element(0, b"h", HASH, b"f", b"v"),
    )
    rig.flush()
    rig.apply(fx.put(0, b"other", rig.rng.randbytes(size)))
    rig.flush()
    rig.driver.make_keep = make
    rig.apply(fx.delete(0, b"deleted"), fx.put(0, b"timed", b"w", SOON), fx.expire(0, b"h", SOON))
    rig.flush()
    rig.apply(fx.put(0, b"x", b"1"))
    rig.flush()
    if make is hides_by_own_stamp:
        compact_all(rig)
    rig.keyspace.cache.clear_all()
    right = (
        rig.view().string(b"deleted") is None
        and rig.view().string(b"timed") == b"w"
        and rig.fields(b"h") == {b"f": (b"v", 0)}
    )
    assert right == (make is make_keep)
