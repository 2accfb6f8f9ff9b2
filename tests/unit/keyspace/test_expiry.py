"""Active expiry: slices, misses, superseded entries, fields, and keys met by readers."""

from __future__ import annotations

import pytest

from respkv.base.ids import HASH, TOMBSTONE
from respkv.keyspace import effects as fx
from respkv.keyspace import expiry, keys
from tests.unit.keyspace.rig import START_MS, Rig

SOON = START_MS + 1000


def due(rig: Rig) -> list[bytes]:
    """Index entries above the mark and due."""
    start, end = keys.expiry_bound(rig.keyspace.expired_through_ms + 1), keys.expiry_bound(rig.now_ms + 1)
    return [entry for entry, _ in rig.engine.scan(start, end, wait=True)]


@pytest.mark.parametrize("flushed", [False, True])
def test_keys_go_when_their_time_comes_without_being_read(flushed: bool) -> None:
    rig = Rig()
    rig.apply(*(fx.put(0, b"k%d" % n, b"v", SOON + n) for n in range(10)), fx.put(0, b"stays", b"v"))
    if flushed:
        rig.flush()
        rig.cold()
    rig.advance_ms(999)
    rig.expire()
    assert rig.total() == 11 and rig.keyspace.expired_keys == 0
    rig.advance_ms(5)
    rig.expire()
    assert rig.total() == 6 and rig.keyspace.expired_keys == 5
    rig.advance_ms(100)
    rig.expire()
    assert rig.total() == 1 and rig.keyspace.expired_keys == 10
    assert rig.keyspace.expired_through_ms == rig.now_ms


def test_work_is_done_in_slices_and_the_lag_is_told() -> None:
    rig = Rig()
    rig.apply(*(fx.put(0, b"k%d" % n, b"v", SOON + n) for n in range(10)))
    rig.advance_ms(2000)
    more, request = rig.expiry.run(4)
    assert more and request is None and rig.keyspace.expired_keys == 4
    assert rig.keyspace.expired_through_ms == SOON + 2
    assert rig.expiry.lag_ms == rig.now_ms - (SOON + 2)
    assert rig.expiry.run(4) == (True, None) and rig.keyspace.expired_keys == 8
    assert rig.expiry.run(4) == (False, None) and rig.keyspace.expired_keys == 10
    assert rig.expiry.lag_ms == 0 and rig.keyspace.expired_through_ms == rig.now_ms
    assert rig.expiry.run(4) == (False, None)


def test_the_mark_never_passes_an_entry_that_is_not_worked_off() -> None:
    rig = Rig()
    rig.apply(*(fx.put(0, b"k%d" % n, b"v", SOON) for n in range(10)))
    rig.advance_ms(2000)
    for expired in (3, 6, 9):
        assert rig.expiry.run(3) == (True, None)
        assert rig.keyspace.expired_keys == expired
        assert rig.keyspace.expired_through_ms == SOON - 1, "others of the same millisecond are left"
    assert rig.expiry.run(3) == (False, None)
    assert rig.keyspace.expired_keys == 10


def test_superseded_entries_are_passed_over() -> None:
    rig = Rig()
    rig.apply(*(fx.put(0, key, b"v", SOON) for key in (b"later", b"never", b"gone", b"hash", b"plain")))
    rig.apply(
        fx.expire(0, b"later", SOON + 500),
        fx.expire(0, b"never", 0),
        fx.delete(0, b"gone"),
        fx.delete(0, b"hash"),
        fx.put_element(0, b"hash", HASH, b"f", b"v"),
        fx.put(0, b"plain", b"w"),
    )
    rig.advance_ms(1200)
    rig.expire(2)
    assert rig.keyspace.expired_keys == 0
    assert sorted(rig.walk()) == [b"hash", b"later", b"never", b"plain"]
    assert rig.total() == 4
    rig.advance_ms(300)
    rig.expire(2)
    assert sorted(rig.walk()) == [b"hash", b"never", b"plain"] and rig.keyspace.expired_keys == 1


def test_an_earlier_time_given_later_counts() -> None:
    rig = Rig()
    rig.apply(fx.put(0, b"k", b"v", SOON + 5000))
    rig.apply(fx.expire(0, b"k", SOON))
    rig.advance_ms(1000)
    rig.expire()
    assert rig.total() == 0
    rig.apply(fx.put(0, b"k", b"v", SOON + 9000))
    rig.advance_ms(5000)
    rig.expire()
    assert rig.total() == 1


def test_what_a_flush_hides_is_not_expired() -> None:
    rig = Rig()
    rig.apply(fx.put(0, b"k", b"v", SOON), fx.flush(0), fx.put(1, b"j", b"v", SOON))
    rig.advance_ms(1000)
    rig.expire()
    assert rig.keyspace.expired_keys == 1 and (rig.total(0), rig.total(1)) == (0, 0)


def test_fields() -> None:
    rig = Rig()
    rig.apply(
        fx.put_element(0, b"h", HASH, b"a", b"1", SOON),
        fx.put_element(0, b"h", HASH, b"b", b"2", SOON + 100),
        fx.put_element(0, b"h", HASH, b"c", b"3", SOON),
        fx.put_element(0, b"h", HASH, b"c", b"3"),
        fx.put_element(0, b"one", HASH, b"f", b"v", SOON),
    )
    rig.flush()
    rig.cold()
    rig.advance_ms(1000)
    rig.expire(1)
    assert rig.fields(b"h") == {b"b": (b"2", SOON + 100), b"c": (b"3", 0)}
    found = rig.view().hash(b"h")
    assert found is not None and found.count() == 2
    assert rig.view().kind(b"one") == TOMBSTONE and rig.total() == 1


def test_fields_of_a_hash_that_is_itself_past_its_time() -> None:
    rig = Rig()
    rig.apply(fx.put_element(0, b"h", HASH, b"a", b"1", SOON), fx.expire(0, b"h", SOON))
    rig.advance_ms(1000)
    rig.expire(1)
    assert rig.total() == 0 and rig.keyspace.expired_keys == 1
    assert not rig.keyspace.sighted or rig.expiry.sighted() is None


def test_a_miss_names_its_block_and_the_work_goes_on_behind_it() -> None:
    rig = Rig(block_cache_bytes=1)
    values = [rig.rng.randbytes(600) for _ in range(40)]
    rig.apply(*(fx.put(0, b"k%d" % n, values[n], SOON + n % 7) for n in range(40)))
    rig.flush()
    rig.cold()
    rig.advance_ms(2000)
    misses = calls = 0
    more = True
    while more:
        calls += 1
        assert calls < 500
        more, request = rig.expiry.run(5)
        if request is not None:
            misses += 1
            assert more
            request.install(request.read())
    assert misses > 3 and rig.keyspace.expired_keys == 40
    assert rig.total() == 0


def test_keys_that_readers_met_go_at_once() -> None:
    rig = Rig()
    rig.apply(
        fx.put(0, b"k", b"v", SOON), fx.put_element(0, b"h", HASH, b"f", b"v", SOON), fx.put(0, b"unread", b"v", SOON)
    )
    rig.advance_ms(1000)
    view = rig.view()
    assert view.string(b"k") is None
    found = view.hash(b"h")
    assert found is not None and found.get(b"f") is None
    assert len(rig.keyspace.sighted) == 2
    assert rig.expiry.sighted() is None and not rig.keyspace.sighted
    assert rig.total() == 1 and rig.view().kind(b"h") == TOMBSTONE


def test_a_key_met_after_its_time_and_written_anew_lives() -> None:
    rig = Rig()
    rig.apply(fx.put(0, b"k", b"v", SOON))
    rig.advance_ms(1000)
    assert rig.view().string(b"k") is None
    rig.apply(fx.put(0, b"k", b"again"))
    assert rig.expiry.sighted() is None and not rig.keyspace.sighted
    assert rig.view().string(b"k") == b"again" and rig.total() == 1


def test_a_sighted_key_that_misses_is_kept_for_later() -> None:
    rig = Rig(block_cache_bytes=1)
    rig.apply(fx.put(0, b"k", b"v", SOON))
    rig.flush()
    rig.cold()
    rig.advance_ms(1000)
    rig.keyspace.sighted[keys.record_key(0, b"k")] = None
    request = rig.expiry.sighted()
    assert request is not None and len(rig.keyspace.sighted) == 1
    request.install(request.read())
    assert rig.expiry.sighted() is None and not rig.keyspace.sighted
    assert rig.total() == 0


def test_what_readers_met_is_bounded_while_nobody_works_it_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expiry, "SIGHTED_MAX", 5)
    monkeypatch.setattr(expiry, "SIGHTED_PER_CALL", 4)
    rig = Rig()
    rig.apply(*(fx.put(0, b"k%d" % n, b"v", SOON) for n in range(8)))
    rig.apply(*(fx.put_element(0, b"h", HASH, b"f%d" % n, b"v", SOON) for n in range(8)))
    rig.advance_ms(1000)
    view = rig.view()
    assert all(view.string(b"k%d" % n) is None for n in range(8))
    assert len(rig.keyspace.sighted) == 5
    # What had no room is met again by its next reader, or worked off by way of the index.
    assert rig.expiry.sighted() is None and len(rig.keyspace.sighted) == 1
    assert rig.expiry.sighted() is None and not rig.keyspace.sighted
    found = rig.view().hash(b"h")
    assert found is not None and list(found.items()) == []
    assert len(rig.keyspace.sighted) == 5
    assert rig.expiry.sighted() is None
    rig.expire()
    assert rig.total() == 0 and rig.keyspace.expired_keys == 8


def test_a_key_whose_expiry_is_set_over_and_over_fills_no_more_than_a_memtable() -> None:
    limit = 64 << 10
    rig = Rig(memtable_bytes=limit)
    rig.apply(fx.put(0, b"k", b"v"))
    most = 0
    for n in range(1000):
        rig.apply(fx.expire(0, b"k", SOON + n))
        most = max(most, len(rig.engine.memtable.derived))
        rig.driver.settle()
    # An index entry is taken for 260 bytes.
    assert limit // 260 - 10 < most <= limit // 260 + 1
    rig.advance_ms(1999)
    rig.expire(1000)
    assert rig.view().kind(b"k") == TOMBSTONE and rig.keyspace.expired_keys == 1


def test_expiry_goes_on_after_a_restart() -> None:
    rig = Rig()
    rig.apply(*(fx.put(0, b"k%d" % n, b"v", SOON + n) for n in range(10)))
    rig.advance_ms(1004)
    rig.expire()
    rig.keyspace.write_expired_through()
    rig.commit()
    rig.restart(crash=True)
    assert rig.keyspace.expired_through_ms == SOON + 4
    rig.now_ms += 100
    rig.keyspace.begin(rig.now_ms)
    rig.expire(2)
    assert rig.total() == 0 and due(rig) == []


def test_without_the_mark_the_work_is_done_again_without_harm() -> None:
    rig = Rig()
    rig.apply(*(fx.put(0, b"k%d" % n, b"v", SOON) for n in range(5)), fx.put(0, b"later", b"v", SOON + 5000))
    rig.advance_ms(1000)
    rig.expire()
    rig.restart(crash=True)
    assert rig.keyspace.expired_through_ms == 0
    rig.expire(2)
    assert rig.total() == 1 and rig.walk() == [b"later"]


def test_a_time_below_the_mark_is_not_forgotten() -> None:
    # The wall clock went back over a restart: what expires now lies below where expiry had come.
    rig = Rig()
    rig.apply(fx.put(0, b"k", b"v", SOON))
    rig.advance_ms(3_600_000)
    rig.expire()
    rig.keyspace.write_expired_through()
    rig.commit()
    rig.now_ms = START_MS
    rig.restart()
    rig.apply(fx.put(0, b"short", b"v", SOON))
    rig.advance_ms(1000)
    rig.expire()
    assert rig.total() == 0


def test_a_mark_that_was_taken_back_stays_so_over_the_next_crash() -> None:
    rig = Rig()
    rig.apply(fx.put(0, b"k", b"v", SOON))
    rig.advance_ms(3_600_000)
    rig.expire()
    rig.keyspace.write_expired_through()
    rig.commit()
    rig.now_ms = START_MS
    rig.restart()
    rig.apply(fx.put(0, b"short", b"v", SOON))
    rig.now_ms = START_MS + 4_000_000
    rig.restart(crash=True)
    rig.expire()
    assert rig.total() == 0
