"""Typed reads of one database."""

from __future__ import annotations

import pytest

from respkv.base.errors import CommandError
from respkv.base.ids import HASH, STRING, TOMBSTONE
from respkv.keyspace import effects as fx
from respkv.keyspace import keys
from respkv.keyspace.view import HashView
from respkv.resp.errors import DB_INDEX, WRONG_TYPE
from tests.unit.keyspace.rig import START_MS, Rig

SOON = START_MS + 1000


@pytest.fixture(params=["cached", "memtable", "table", "cold table"])
def rig(request: pytest.FixtureRequest) -> Rig:
    """One string, one timed string, one hash; wherever they are, the answers are the same."""
    rig = Rig()
    rig.apply(
        fx.put(0, b"s", b"value"),
        fx.put(0, b"t", b"timed", SOON),
        fx.put_element(0, b"h", HASH, b"b", b"2"),
        fx.put_element(0, b"h", HASH, b"a", b"1", SOON),
        fx.put_element(0, b"h", HASH, b"c", b"3"),
    )
    if request.param == "cached":
        for key in (b"s", b"t", b"h"):
            rig.view().row(key)
    if "table" in request.param:
        rig.flush()
    if request.param != "cached":
        rig.keyspace.cache.clear_all()
    if "cold" in request.param:
        rig.cold()
    return rig


def hash_of(rig: Rig, key: bytes = b"h") -> HashView:
    view = rig.view()
    found = rig.serve(lambda: view.hash(key))
    assert found is not None
    return found


def test_kinds_and_expiries(rig: Rig) -> None:
    view = rig.view()
    kinds = [rig.serve(lambda key=key: view.kind(key)) for key in (b"s", b"t", b"h", b"none")]
    assert kinds == [STRING, STRING, HASH, TOMBSTONE]
    expiries = [rig.serve(lambda key=key: view.expire_at(key)) for key in (b"s", b"t", b"h", b"none")]
    assert expiries == [0, SOON, 0, None]


def test_strings(rig: Rig) -> None:
    view = rig.view()
    assert rig.serve(lambda: view.string(b"s")) == b"value"
    assert rig.serve(lambda: view.reply(b"s")) == b"$5\r\nvalue\r\n"
    assert rig.serve(lambda: view.string(b"t")) == b"timed"
    assert rig.serve(lambda: view.reply(b"t")) == b"$5\r\ntimed\r\n"
    assert view.string(b"none") is None and view.reply(b"none") is None
    rig.advance_ms(999)
    assert view.string(b"t") == b"timed"
    rig.advance_ms(1)
    assert view.string(b"t") is None and view.reply(b"t") is None
    assert view.kind(b"t") == TOMBSTONE and view.expire_at(b"t") is None
    assert list(rig.keyspace.sighted) == [keys.record_key(0, b"t")]


def test_wrong_types(rig: Rig) -> None:
    view = rig.view()
    for read, key in ((view.string, b"h"), (view.reply, b"h"), (view.hash, b"s"), (view.hash, b"t")):
        with pytest.raises(CommandError) as caught:
            rig.serve(lambda read=read, key=key: read(key))
        assert caught.value.reply == WRONG_TYPE


def test_hash_fields(rig: Rig) -> None:
    view = rig.view()
    assert rig.serve(lambda: view.hash(b"none")) is None
    found = hash_of(rig)
    assert rig.serve(lambda: found.get(b"a")) == b"1"
    assert rig.serve(lambda: found.expire_at(b"a")) == SOON
    assert rig.serve(lambda: found.expire_at(b"b")) == 0
    assert rig.serve(lambda: found.get(b"none")) is None
    assert rig.serve(lambda: found.expire_at(b"none")) is None
    assert found.count() == 3


def test_hash_items_in_order(rig: Rig) -> None:
    found = hash_of(rig)
    expected = [(b"a", b"1", SOON), (b"b", b"2", 0), (b"c", b"3", 0)]
    assert rig.serve(lambda: found.items_after(None, 2)) == expected[:2]
    assert rig.serve(lambda: found.items_after(b"a", 10)) == expected[1:]
    assert rig.serve(lambda: found.items_after(b"c", 10)) == []
    assert rig.serve(lambda: list(found.items())) == expected
    # The row is complete by now.
    assert found.items_after(b"a", 1) == expected[1:2]


def test_expired_fields_are_absent_but_counted(rig: Rig) -> None:
    rig.advance_ms(1000)
    found = hash_of(rig)
    assert rig.serve(lambda: found.items_after(None, 10)) == [(b"b", b"2", 0), (b"c", b"3", 0)]
    assert rig.serve(lambda: found.get(b"a")) is None
    assert rig.serve(lambda: found.expire_at(b"a")) is None
    assert [field for field, _, _ in rig.serve(lambda: list(found.items()))] == [b"b", b"c"]
    assert found.count() == 3
    assert keys.element_prefix(keys.record_key(0, b"h")) + b"a" in rig.keyspace.sighted


def test_other_databases(rig: Rig) -> None:
    view = rig.view()
    other = view.other(5)
    assert other.db == 5 and other.string(b"s") is None
    assert rig.serve(lambda: other.other(0).string(b"s")) == b"value"
    for number in (-1, 16):
        with pytest.raises(CommandError) as caught:
            view.other(number)
        assert caught.value.reply == DB_INDEX
    assert view.databases == 16 and view.now_ms == START_MS and view.limit_bytes == 1 << 29


def test_stamps_and_sizes(rig: Rig) -> None:
    view = rig.view()
    for key in (b"s", b"t", b"h"):
        assert rig.serve(lambda key=key: view.stamp_ms(key)) == START_MS
        assert rig.serve(lambda key=key: view.last_access_ms(key)) == START_MS
        memory = rig.serve(lambda key=key: view.memory(key))
        assert memory is not None and memory > 100
    assert view.stamp_ms(b"none") is None and view.memory(b"none") is None
    rig.apply(fx.put(0, b"s", b"v" * 5000))
    assert (rig.view().memory(b"s") or 0) > 5000


def test_hits_and_misses_are_counted(rig: Rig) -> None:
    view = rig.view()
    before = rig.keyspace.stats()
    rig.serve(lambda: view.string(b"s"))
    rig.serve(lambda: view.string(b"s"))
    view.string(b"none")
    after = rig.keyspace.stats()
    assert after["hits"] - before["hits"] == 2
    assert after["misses"] - before["misses"] == 1


def test_reading_a_large_hash_keeps_the_row_cache_in_bounds() -> None:
    rig = Rig(row_cache_bytes=100_000)
    for n in range(2000):
        rig.apply(fx.put_element(0, b"h", HASH, b"f%04d" % n, b"v" * 100))
    view = rig.view()
    found = view.hash(b"h")
    assert found is not None and len(list(found.items())) == 2000
    assert rig.keyspace.cache.stats()["bytes"] <= 100_000
    for n in range(2000):
        found = rig.view().hash(b"h")
        assert found is not None and found.get(b"f%04d" % n) == b"v" * 100
    assert rig.keyspace.cache.stats()["bytes"] <= 100_000
    rig.keyspace.cache.check_invariants()
