"""Applying effects: records, rows, counts, index entries, touched keys."""

from __future__ import annotations

from typing import Any

import pytest

from respkv.base.errors import CommandError, ReadMiss
from respkv.base.ids import HASH, STRING, TOMBSTONE
from respkv.causality.record import decode, expired_form, tombstone
from respkv.keyspace import effects as fx
from respkv.keyspace import keys
from respkv.keyspace.rows import HashRow
from tests.unit.keyspace.rig import START_MS, Rig

SOON = START_MS + 1000
K = keys.record_key(0, b"k")
ELEMENTS = keys.element_prefix(K)


def watch(rig: Rig) -> list[tuple[int, bytes | None]]:
    """The list that touched keys go to."""
    touched: list[tuple[int, bytes | None]] = []
    rig.keyspace.watching = True
    rig.keyspace.touched = lambda db, key: touched.append((db, key))
    return touched


def index_entries(rig: Rig) -> list[bytes]:
    start, end = bytes((keys.SPACE_EXPIRY,)), bytes((keys.SPACE_EXPIRY + 1,))
    return [entry for entry, _ in rig.driver.engine.scan(start, end, wait=True)]


def state(rig: Rig) -> dict[str, Any]:
    """Everything that an apply may change."""
    return {
        "table": dict(rig.engine.memtable.table),
        "derived": dict(rig.engine.memtable.derived),
        "batch": list(rig.engine.batch),
        "stamp": rig.keyspace.clock.last,
        "total": rig.keyspace.counts.total(0),
        "noted": dict(rig.keyspace.counts.active.noted),
        "floors": rig.keyspace.floors.plain(),
        "stored": list(rig.keyspace.stored),
    }


# strings


def test_put() -> None:
    rig = Rig()
    touched = watch(rig)
    rig.apply(fx.put(0, b"k", b"v"))
    record = decode(rig.stored(K) or b"")
    assert (record.kind, record.expire_at_ms, record.body) == (STRING, 0, b"$1\r\nv\r\n")
    assert record.stamp == rig.keyspace.clock.last.to_bytes(8, "big") + b"\x00\x01"
    assert rig.view().string(b"k") == b"v" and rig.total() == 1
    assert touched == [(0, b"k")] and index_entries(rig) == []


def test_put_with_an_expiry_is_indexed() -> None:
    rig = Rig()
    rig.apply(fx.put(0, b"k", b"v", SOON))
    assert decode(rig.stored(K) or b"").expire_at_ms == SOON
    assert index_entries(rig) == [keys.expiry_key(SOON, K)]


@pytest.mark.parametrize("cached", ["no", "young", "old"])
@pytest.mark.parametrize("before", [0, SOON])
@pytest.mark.parametrize("after", [0, SOON + 5])
def test_put_over_a_string_replaces_its_row(cached: str, before: int, after: int) -> None:
    rig = Rig()
    rig.apply(fx.put(0, b"k", b"old", before))
    if cached != "no":
        rig.view().row(b"k")
    if cached == "old":
        rig.keyspace.cache._turn()
    rig.apply(fx.put(0, b"k", b"new", after))
    assert rig.view().string(b"k") == b"new" and rig.view().expire_at(b"k") == after
    rig.keyspace.cache.check_invariants()
    assert rig.total() == 1


def test_put_over_a_hash_hides_its_fields_for_good() -> None:
    rig = Rig()
    rig.apply(fx.put_element(0, b"k", HASH, b"f", b"1"))
    rig.apply(fx.put(0, b"k", b"v"))
    assert rig.view().string(b"k") == b"v"
    rig.apply(fx.delete(0, b"k"))
    rig.apply(fx.put_element(0, b"k", HASH, b"g", b"2"))
    rig.keyspace.cache.clear_all()
    assert rig.fields(b"k") == {b"g": (b"2", 0)}
    assert rig.total() == 1


def test_a_single_field_of_an_earlier_life_is_not_seen() -> None:
    rig = Rig()
    rig.apply(fx.put_element(0, b"k", HASH, b"f", b"old"), fx.delete(0, b"k"))
    rig.apply(fx.put_element(0, b"k", HASH, b"g", b"new"))
    for flushed in (False, True):
        if flushed:
            rig.flush()
        rig.keyspace.cache.clear_all()
        found = rig.view().hash(b"k")
        assert found is not None and found.get(b"f") is None and found.get(b"g") == b"new"
        assert found.count() == 1


def test_many_puts_of_one_key_and_of_several_databases() -> None:
    rig = Rig()
    rig.apply(fx.put(0, b"k", b"1"), fx.put(3, b"k", b"2"), fx.put(0, b"k", b"3"), fx.put(3, b"j", b"4"))
    assert rig.view(0).string(b"k") == b"3" and rig.view(3).string(b"k") == b"2"
    assert (rig.total(0), rig.total(3)) == (1, 2)


def test_every_record_has_a_stamp_of_its_own_in_the_order_of_the_effects() -> None:
    rig = Rig()
    rig.apply(
        fx.put(0, b"a", b"1"),
        fx.put_element(0, b"h", HASH, b"f", b"1"),
        fx.delete(0, b"a"),
        fx.put(0, b"b", b"2"),
        fx.expire(0, b"b", SOON),
    )
    stamps = [record[1:11] for record in rig.engine.memtable.table.values()]
    assert len(set(stamps)) == len(stamps)


# whole keys


@pytest.mark.parametrize("flushed", [False, True])
@pytest.mark.parametrize("kind", [STRING, HASH])
def test_delete(flushed: bool, kind: int) -> None:
    rig = Rig()
    rig.apply(fx.put(0, b"k", b"v") if kind == STRING else fx.put_element(0, b"k", HASH, b"f", b"v"))
    if flushed:
        rig.flush()
        rig.cold()
    touched = watch(rig)
    rig.apply(fx.delete(0, b"k"), fx.delete(0, b"k"))
    assert (rig.stored(K) or b"")[0] == TOMBSTONE
    assert rig.view().kind(b"k") == TOMBSTONE and rig.total() == 0
    assert touched == [(0, b"k")]


def test_deleting_nothing_writes_nothing() -> None:
    rig = Rig()
    touched = watch(rig)
    before = state(rig)
    rig.applier.apply([fx.delete(0, b"k"), fx.expire(0, b"k", SOON), fx.remove_element(0, b"k", b"f")])
    assert state(rig) == before and touched == []


@pytest.mark.parametrize("flushed", [False, True])
@pytest.mark.parametrize("before", [0, SOON])
@pytest.mark.parametrize("after", [0, SOON + 5])
def test_expire_a_string(flushed: bool, before: int, after: int) -> None:
    rig = Rig()
    rig.apply(fx.put(0, b"k", b"v", before))
    if flushed:
        rig.flush()
    old = decode(rig.stored(K) or b"")
    touched = watch(rig)
    rig.apply(fx.expire(0, b"k", after))
    new = decode(rig.stored(K) or b"")
    assert (new.kind, new.body, new.expire_at_ms) == (STRING, b"$1\r\nv\r\n", after) and new.stamp > old.stamp
    assert rig.view().expire_at(b"k") == after and rig.view().string(b"k") == b"v"
    rig.keyspace.cache.clear_all()
    assert rig.view().expire_at(b"k") == after
    assert touched == [(0, b"k")] and rig.total() == 1
    rig.keyspace.cache.check_invariants()


def test_expire_a_hash() -> None:
    rig = Rig()
    rig.apply(fx.put_element(0, b"k", HASH, b"f", b"v"))
    rig.apply(fx.expire(0, b"k", SOON))
    assert rig.view().expire_at(b"k") == SOON and rig.fields(b"k") == {b"f": (b"v", 0)}
    rig.keyspace.cache.clear_all()
    assert rig.view().expire_at(b"k") == SOON and rig.fields(b"k") == {b"f": (b"v", 0)}
    rig.advance_ms(1000)
    assert rig.view().kind(b"k") == TOMBSTONE


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("old", [fx.put(0, b"k", b"old"), fx.put(0, b"k", b"old", SOON)])
def test_set_and_expire_in_one_transaction_keep_the_value(cached: bool, old: fx.Effect) -> None:
    rig = Rig()
    rig.apply(old)
    if cached:
        rig.view().row(b"k")
    rig.apply(fx.put(0, b"k", b"new"), fx.expire(0, b"k", SOON + 9))
    assert rig.view().string(b"k") == b"new" and rig.view().expire_at(b"k") == SOON + 9
    rig.apply(fx.put(0, b"k", b"newer", SOON), fx.expire(0, b"k", 0))
    assert rig.view().string(b"k") == b"newer" and rig.view().expire_at(b"k") == 0
    rig.keyspace.cache.clear_all()
    assert rig.view().string(b"k") == b"newer"


# elements


def test_first_element_makes_the_key() -> None:
    rig = Rig()
    touched = watch(rig)
    rig.apply(fx.put_element(0, b"k", HASH, b"f", b"v"))
    meta, element = decode(rig.stored(K) or b""), decode(rig.stored(ELEMENTS + b"f") or b"")
    count = decode(rig.stored(keys.count_key(K)) or b"")
    assert meta.kind == HASH and len(meta.body) == 10
    assert meta.body < meta.stamp < element.stamp < count.stamp
    assert (element.kind, element.body) == (STRING, b"v")
    assert count.body == (1).to_bytes(8, "big") + meta.body
    assert rig.total() == 1 and touched == [(0, b"k")]


def test_a_count_is_written_only_when_it_changes_and_names_the_one_before() -> None:
    rig = Rig()
    rig.apply(fx.put_element(0, b"k", HASH, b"f", b"v"))
    first = rig.stored(keys.count_key(K)) or b""
    rig.apply(fx.put_element(0, b"k", HASH, b"f", b"w"))
    assert rig.stored(keys.count_key(K)) == first
    assert len(rig.engine.memtable.table) == 3
    rig.apply(fx.put_element(0, b"k", HASH, b"g", b"1"), fx.put_element(0, b"k", HASH, b"h", b"1"))
    second = decode(rig.stored(keys.count_key(K)) or b"")
    assert second.body == (3).to_bytes(8, "big") + first[1:11]


@pytest.mark.parametrize("flushed", [False, True])
def test_elements_of_a_stored_hash(flushed: bool) -> None:
    rig = Rig()
    rig.apply(*(fx.put_element(0, b"k", HASH, b"f%d" % n, b"v%d" % n) for n in range(5)))
    if flushed:
        rig.flush()
    rig.cold()
    rig.apply(
        fx.put_element(0, b"k", HASH, b"f1", b"new", SOON),
        fx.remove_element(0, b"k", b"f2"),
        fx.remove_element(0, b"k", b"f2"),
        fx.remove_element(0, b"k", b"absent"),
        fx.put_element(0, b"k", HASH, b"f9", b"v9"),
        fx.put_element(0, b"k", HASH, b"f2", b"back"),
        fx.remove_element(0, b"k", b"f3"),
    )
    expected = {
        b"f0": (b"v0", 0),
        b"f1": (b"new", SOON),
        b"f2": (b"back", 0),
        b"f4": (b"v4", 0),
        b"f9": (b"v9", 0),
    }
    assert rig.fields(b"k") == expected
    rig.cold()
    assert rig.fields(b"k") == expected
    found = rig.view().hash(b"k")
    assert found is not None and found.count() == 5
    assert index_entries(rig) == [keys.expiry_key(SOON, ELEMENTS + b"f1")]


def test_the_last_element_takes_the_key_with_it() -> None:
    rig = Rig()
    rig.apply(fx.put_element(0, b"k", HASH, b"f", b"v"), fx.put_element(0, b"k", HASH, b"g", b"v"))
    rig.apply(fx.remove_element(0, b"k", b"f"), fx.remove_element(0, b"k", b"g"))
    assert rig.view().kind(b"k") == TOMBSTONE and rig.total() == 0
    assert (rig.stored(K) or b"")[0] == TOMBSTONE
    rig.apply(fx.put_element(0, b"k", HASH, b"h", b"v"))
    rig.keyspace.cache.clear_all()
    found = rig.view().hash(b"k")
    assert found is not None and found.count() == 1 and list(found.items()) == [(b"h", b"v", 0)]


def test_a_lost_count_is_made_by_counting() -> None:
    rig = Rig()
    rig.apply(*(fx.put_element(0, b"k", HASH, b"f%d" % n, b"v") for n in range(4)))
    del rig.engine.memtable.table[keys.count_key(K)]
    rig.keyspace.cache.clear_all()
    found = rig.view().hash(b"k")
    assert found is not None and found.count() == 4


def test_a_count_of_an_earlier_life_is_not_believed() -> None:
    rig = Rig()
    rig.apply(*(fx.put_element(0, b"k", HASH, b"f%d" % n, b"v") for n in range(4)))
    old = rig.stored(keys.count_key(K))
    rig.apply(fx.delete(0, b"k"), fx.put_element(0, b"k", HASH, b"g", b"v"))
    assert old is not None
    rig.engine.put(keys.count_key(K), old)
    rig.keyspace.cache.clear_all()
    found = rig.view().hash(b"k")
    assert found is not None and found.count() == 1


def test_rows_that_grew_too_large_are_trimmed() -> None:
    rig = Rig(row_cache_bytes=80_000)
    for n in range(300):
        rig.apply(fx.put_element(0, b"k", HASH, b"f%03d" % n, b"v" * 50))
        row = rig.keyspace.cache.peek(0, b"k")
        assert type(row) is HashRow and row.charge <= 10_000
        rig.keyspace.cache.check_invariants()
    assert len(rig.fields(b"k") or ()) == 300


# a miss leaves nothing changed


@pytest.mark.parametrize(
    "effects",
    [
        [fx.delete(0, b"k")],
        [fx.put(0, b"new", b"v"), fx.expire(0, b"k", SOON)],
        [fx.put(0, b"new", b"v"), fx.flush(1), fx.swap(2, 3), fx.put_element(0, b"h", HASH, b"a", b"2")],
        [fx.delete(0, b"new2"), fx.remove_element(0, b"h", b"a"), fx.remove_element(0, b"h", b"b")],
        [fx.put_element(0, b"h2", HASH, b"x", b"y"), fx.put_element(0, b"h", HASH, b"absent", b"2")],
    ],
)
def test_a_miss_leaves_nothing_changed(effects: list[fx.Effect]) -> None:
    rig = Rig(block_cache_bytes=1)
    rig.apply(
        fx.put(0, b"k", b"v"),
        fx.put_element(0, b"h", HASH, b"a", b"1"),
        fx.put_element(0, b"h", HASH, b"b", b"1"),
        *(fx.put(0, b"filler%d" % n, b"x" * 100) for n in range(50)),
    )
    rig.flush()
    rig.cold()
    before, misses = state(rig), 0
    while True:
        try:
            rig.applier.apply(effects)
            break
        except ReadMiss as miss:
            misses += 1
            assert state(rig) == before
            miss.request.install(miss.request.read())
    assert misses > 0 and state(rig) != before


# expiry


def test_expire_now_puts_the_expired_form_under_the_old_stamp() -> None:
    rig = Rig()
    rig.apply(fx.put(0, b"k", b"v", SOON))
    record = rig.stored(K) or b""
    assert not rig.applier.expire_now(K)
    rig.advance_ms(1000)
    touched = watch(rig)
    assert rig.applier.expire_now(K)
    assert rig.stored(K) == expired_form(record)
    assert touched == [(0, b"k")] and rig.keyspace.expired_keys == 1
    assert rig.total() == 0
    assert not rig.applier.expire_now(K) and rig.keyspace.expired_keys == 1


def test_expire_now_spares_keys_without_expiry_and_absent_ones() -> None:
    rig = Rig()
    rig.apply(fx.put(0, b"k", b"v"))
    assert not rig.applier.expire_now(K)
    assert not rig.applier.expire_now(keys.record_key(0, b"none"))
    assert not rig.applier.expire_now(ELEMENTS + b"f")
    assert rig.view().string(b"k") == b"v"


def test_expire_now_of_a_field() -> None:
    rig = Rig()
    rig.apply(fx.put_element(0, b"k", HASH, b"f", b"v", SOON), fx.put_element(0, b"k", HASH, b"g", b"v", SOON + 5))
    assert not rig.applier.expire_now(ELEMENTS + b"f")
    rig.advance_ms(1000)
    assert rig.applier.expire_now(ELEMENTS + b"f")
    assert rig.fields(b"k") == {b"g": (b"v", SOON + 5)}
    assert not rig.applier.expire_now(ELEMENTS + b"g")
    rig.advance_ms(5)
    assert rig.applier.expire_now(ELEMENTS + b"g")
    assert rig.view().kind(b"k") == TOMBSTONE and rig.total() == 0


# databases


def test_flush() -> None:
    rig = Rig()
    rig.apply(fx.put(0, b"k", b"v"), fx.put(1, b"k", b"w"), fx.put_element(0, b"h", HASH, b"f", b"v"))
    rig.flush()
    rig.apply(fx.put(0, b"m", b"v"))
    touched = watch(rig)
    rig.apply(fx.flush(0))
    assert [rig.view().kind(key) for key in (b"k", b"h", b"m")] == [TOMBSTONE] * 3
    assert rig.view(1).string(b"k") == b"w"
    assert touched == [(0, None)] and (rig.total(0), rig.total(1)) == (0, 1)
    assert rig.walk(0) == [] and rig.walk(1) == [b"k"]
    rig.apply(fx.put_element(0, b"h", HASH, b"g", b"v"), fx.put(0, b"k", b"again"))
    rig.keyspace.cache.clear_all()
    assert rig.fields(b"h") == {b"g": (b"v", 0)} and rig.view().string(b"k") == b"again"
    assert rig.total(0) == 2


def test_flush_in_the_middle_of_a_transaction() -> None:
    rig = Rig()
    rig.apply(fx.put(0, b"k", b"v"), fx.put_element(0, b"h", HASH, b"f", b"v"))
    rig.apply(
        fx.put_element(0, b"h", HASH, b"g", b"v"),
        fx.put(0, b"a", b"1"),
        fx.flush(0),
        fx.expire(0, b"k", SOON),
        fx.delete(0, b"a"),
        fx.remove_element(0, b"h", b"f"),
        fx.put_element(0, b"h", HASH, b"z", b"v"),
        fx.put(0, b"b", b"2"),
    )
    rig.keyspace.cache.clear_all()
    assert rig.view().kind(b"k") == rig.view().kind(b"a") == TOMBSTONE
    assert rig.fields(b"h") == {b"z": (b"v", 0)} and rig.view().string(b"b") == b"2"
    assert rig.total() == 2 and sorted(rig.walk()) == [b"b", b"h"]


def test_swap() -> None:
    rig = Rig()
    rig.apply(fx.put(0, b"k", b"zero"), fx.put(1, b"k", b"one"))
    swapped: list[tuple[int, int]] = []
    rig.keyspace.swapped = lambda left, right: swapped.append((left, right))
    rig.apply(fx.swap(0, 1))
    assert rig.view(0).string(b"k") == b"one" and rig.view(1).string(b"k") == b"zero"
    assert swapped == [(0, 1)]
    rig.restart()
    assert rig.view(0).string(b"k") == b"one" and rig.view(1).string(b"k") == b"zero"


# counts


def test_counts_follow_every_effect_in_place() -> None:
    rig = Rig()
    rig.apply(fx.put(0, b"a", b"1"), fx.put(0, b"b", b"1"), fx.put_element(0, b"h", HASH, b"f", b"1"))
    assert rig.total() == 3
    rig.apply(fx.delete(0, b"a"))
    assert rig.total() == 2
    rig.apply(fx.put(0, b"a", b"2"), fx.put(0, b"b", b"2"))
    assert rig.total() == 3
    rig.apply(fx.remove_element(0, b"h", b"f"))
    assert rig.total() == 2
    assert rig.keyspace.counts.is_exact()
    rig.keyspace.counts.check_invariants()


# deferred writes


def deferred_rig() -> Rig:
    """``k`` holds b"new", which the memtable has not been told; it knows b"old"."""
    rig = Rig()
    rig.apply(fx.put(0, b"k", b"old"))
    rig.view().row(b"k")
    rig.apply(fx.put(0, b"k", b"new"))
    assert rig.engine.memtable.deferred == [K]
    assert decode(rig.engine.memtable.table[K]).body == b"$3\r\nold\r\n"
    return rig


def test_expire_takes_the_value_that_was_deferred() -> None:
    rig = deferred_rig()
    rig.apply(fx.expire(0, b"k", SOON))
    rig.keyspace.cache.clear_all()
    assert rig.view().string(b"k") == b"new" and rig.view().expire_at(b"k") == SOON


def test_expire_takes_the_value_of_a_row_whose_use_is_noted() -> None:
    rig = deferred_rig()
    assert rig.view().last_access_ms(b"k") is not None
    rig.apply(fx.expire(0, b"k", SOON))
    rig.keyspace.cache.clear_all()
    assert rig.view().string(b"k") == b"new"


def test_noting_the_use_of_a_row_too_large_for_the_cache_keeps_the_value() -> None:
    rig = deferred_rig()
    rig.keyspace.cache.capacity = 4 * 160  # room for the row, not for the row and its time
    before = rig.stored(K)
    assert rig.view().last_access_ms(b"k") is not None
    assert rig.keyspace.cache.peek(0, b"k") is None, "the case this is about"
    assert rig.view().string(b"k") == b"new" and rig.stored(K) == before


@pytest.mark.parametrize("end", [fx.delete(0, b"k"), fx.flush(0), fx.put(0, b"k", b"newest", SOON)])
def test_a_later_write_is_not_undone_by_listing(end: fx.Effect) -> None:
    rig = deferred_rig()
    rig.apply(end)
    rig.keyspace.cache.clear_all()
    rig.engine.list_deferred()
    assert rig.view().string(b"k") == (b"newest" if end[0] == fx.PUT else None)
    assert rig.total() == (1 if end[0] == fx.PUT else 0)


def test_rows_are_listed_before_the_cache_loses_them() -> None:
    rig = deferred_rig()
    for _ in range(2):
        rig.keyspace.cache._turn()
    assert rig.keyspace.cache.peek(0, b"k") is None
    assert not rig.engine.memtable.deferred and rig.view().string(b"k") == b"new"


def test_writes_are_not_deferred_where_nobody_wants_that() -> None:
    rig = deferred_rig()
    rig.keyspace.defer_writes(False)
    assert decode(rig.engine.memtable.table[K]).body == b"$3\r\nnew\r\n"
    rig.apply(fx.put(0, b"k", b"3"))
    assert not rig.engine.memtable.deferred
    rig.keyspace.cache.clear_all()
    assert rig.view().string(b"k") == b"3"


def test_deferred_keys_are_listed_in_slices_when_the_cache_is_about_to_turn() -> None:
    rig = deferred_rig()
    rig.keyspace.list_some()
    assert rig.engine.memtable.deferred
    rig.keyspace.cache.capacity = 300
    rig.keyspace.list_some()
    assert not rig.engine.memtable.deferred


def test_a_collection_shows_its_elements_wherever_the_purge_watermark_lies() -> None:
    rig = Rig()
    rig.keyspace.watermark = lambda slot: b"\xff" * 10
    rig.apply(fx.put_element(0, b"k", HASH, b"f", b"1"))
    assert rig.fields(b"k") == {b"f": (b"1", 0)}
    rig.keyspace.cache.clear_all()
    found = rig.view().hash(b"k")
    assert found is not None and found.count() == 1


@pytest.mark.parametrize("flushed", [False, True])
def test_an_element_that_outlived_its_hash_shows_again_when_the_hash_begins_anew(flushed: bool) -> None:
    """On a ring a deletion may meet an element with a newer stamp, by whatever way both came."""
    rig = Rig()
    rig.keyspace.defer_writes(False)
    rig.keyspace.watermark = lambda slot: bytes(10)
    rig.apply(fx.put_element(0, b"k", HASH, b"f", b"1"))
    deletion = rig.keyspace.stamp()
    rig.apply(fx.put_element(0, b"k", HASH, b"late", b"2"))
    rig.engine.put(K, tombstone(deletion))
    rig.keyspace.cache.drop(0, b"k")
    rig.engine.commit()
    if flushed:
        rig.flush()
    assert rig.view().hash(b"k") is None
    rig.apply(fx.put_element(0, b"k", HASH, b"g", b"3"))
    found = rig.view().hash(b"k")
    assert found is not None and found.count() == 2
    assert rig.fields(b"k") == {b"late": (b"2", 0), b"g": (b"3", 0)}
    rig.keyspace.cache.clear_all()
    found = rig.view().hash(b"k")
    assert found is not None and found.count() == 2


@pytest.mark.parametrize("kind", ["strings", "string and field", "fields"])
def test_more_than_a_record_of_the_log_holds_is_refused(kind: str) -> None:
    rig = Rig()
    rig.fs.capacity = 1 << 40
    rig.apply(fx.put(0, b"a", b"old"), fx.put_element(0, b"h", HASH, b"f", b"old"))
    value = bytes(1 << 20)  # One for all: what is refused was not copied.
    strings = [fx.put(0, b"a%d" % number, value) for number in range(2048)]
    fields = [fx.put_element(0, b"h", HASH, b"f%d" % number, value) for number in range(2048)]
    effects = {"strings": strings, "fields": fields, "string and field": [*strings, fields[0]]}[kind]
    logged = len(rig.engine.batch), dict(rig.engine.memtable.table)
    with pytest.raises(CommandError, match="writes more than 2 GiB"):
        rig.applier.apply(effects)
    assert logged == (len(rig.engine.batch), dict(rig.engine.memtable.table))
    rig.applier.apply(effects[:8])
