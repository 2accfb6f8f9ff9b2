"""Internal keys: their bytes, their order, and what is derived from records."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest

from respkv.base.ids import HASH, STRING
from respkv.base.slots import SLOT_COUNT, slot_of
from respkv.causality.record import encode, expired_form, tombstone
from respkv.keyspace import keys

STAMP = b"\x00\x01\x02\x03\x04\x05\x06\x07\x00\x01"


def test_record_key_layout() -> None:
    assert keys.record_key(3, b"foo") == b"\x01\x2f\x96\x00\x03foo"
    assert slot_of(b"foo") == 0x2F96
    at = 0x2F96 * keys.RECORD_KEY_AT
    assert keys.record_prefixes(3)[at : at + keys.RECORD_KEY_AT] + b"foo" == keys.record_key(3, b"foo")
    assert len(keys.record_prefixes(65535)) == SLOT_COUNT * keys.RECORD_KEY_AT


def test_element_layout() -> None:
    record = keys.record_key(3, b"foo")
    prefix = keys.element_prefix(record)
    assert prefix == b"\x02\x2f\x96\x00\x03\x00\x00\x00\x03foo"
    assert keys.count_key(record) == b"\x06\x2f\x96\x00\x03foo"
    assert keys.expiry_key(0x0102, record) == b"\x03" + bytes(6) + b"\x01\x02" + record
    assert keys.meta_key(b"name") == b"\x05name"


@pytest.mark.parametrize("key", [b"", b"k", b"{tag}rest", b"\x00\xff" * 40])
@pytest.mark.parametrize("field", [b"", b"f", b"\x00", b"\xff" * 9])
@pytest.mark.parametrize("db", [0, 5, 65535])
def test_round_trips(key: bytes, field: bytes, db: int) -> None:
    record = keys.record_key(db, key)
    assert keys.user_key(record) == key
    assert (keys.key_slot(record), keys.key_db(record)) == (slot_of(key), db)
    element = keys.element_prefix(record) + field
    assert keys.element_owner(element) == (record, field)
    assert (keys.key_slot(element), keys.key_db(element)) == (slot_of(key), db)
    assert (keys.key_slot(keys.count_key(record)), keys.key_db(keys.count_key(record))) == (slot_of(key), db)
    assert keys.expiry_parts(keys.expiry_key(77, element)) == (77, element)


def test_order_is_space_slot_database_key() -> None:
    rng = random.Random(2)
    names = [rng.randbytes(rng.randrange(6)) for _ in range(200)]
    placed = sorted((slot_of(name), db, name) for name in set(names) for db in (0, 1, 300))
    internal = [keys.record_key(db, name) for _, db, name in placed]
    assert internal == sorted(internal)
    for slot, db, name in placed:
        start = keys.place_start(slot, db)
        assert start <= keys.record_key(db, name) < keys.place_start(slot, db + 1)
        assert start < keys.place_start(slot + 1, 0)
    assert max(internal) < bytes((keys.SPACE_RECORD + 1,))


def test_elements_of_one_key_are_a_range_of_their_own() -> None:
    rng = random.Random(4)
    owners = [keys.record_key(0, b"{s}" + rng.randbytes(rng.randrange(5))) for _ in range(60)]
    elements = sorted(
        keys.element_prefix(owner) + rng.randbytes(rng.randrange(5)) for owner in set(owners) for _ in range(5)
    )
    for owner in set(owners):
        prefix = keys.element_prefix(owner)
        end = keys.prefix_end(prefix)
        assert end is not None
        within = [element for element in elements if prefix <= element < end]
        assert within == [element for element in elements if keys.element_owner(element)[0] == owner]
        fields = [keys.element_owner(element)[1] for element in within]
        assert fields == sorted(fields)


def test_expiry_order_is_time_order() -> None:
    internal = keys.record_key(0, b"k")
    times = [1, 255, 256, 1_700_000_000_000, (1 << 63) - 1]
    entries = [keys.expiry_key(at, internal) for at in times]
    assert entries == sorted(entries)
    for at, entry in zip(times, entries, strict=True):
        assert keys.expiry_bound(at) <= entry < keys.expiry_bound(at + 1)


def test_after_and_prefix_end_are_tight() -> None:
    assert keys.after(b"ab") == b"ab\x00"
    assert keys.prefix_end(b"ab") == b"ac"
    assert keys.prefix_end(b"a\xff\xff") == b"b"
    assert keys.prefix_end(b"\xff\xff") is None
    assert keys.prefix_end(b"") is None
    rng = random.Random(6)
    strings = sorted({bytes(rng.choices((0, 1, 254, 255), k=rng.randrange(5))) for _ in range(300)})
    for left, right in pairwise(strings):
        assert left < keys.after(left) <= right
    for prefix in strings:
        end = keys.prefix_end(prefix)
        for other in strings:
            inside = prefix <= other and (end is None or other < end)
            assert inside == other.startswith(prefix) or (end is None and not prefix)


def test_only_live_records_with_an_expiry_have_an_index_entry() -> None:
    record, element = keys.record_key(0, b"k"), keys.element_prefix(keys.record_key(0, b"k")) + b"f"
    timed = encode(STRING, STAMP, b"v", 1234)
    assert keys.derive(record, timed) == ((keys.expiry_key(1234, record), b""),)
    assert keys.derive(element, timed) == ((keys.expiry_key(1234, element), b""),)
    assert keys.derive(record, encode(HASH, STAMP, b"f", 9)) == ((keys.expiry_key(9, record), b""),)
    assert keys.derive(record, encode(STRING, STAMP, b"v")) == ()
    assert keys.derive(record, tombstone(STAMP)) == ()
    assert keys.derive(record, expired_form(timed)) == ()
    assert keys.derive(record, b"") == ()
    assert keys.derive(keys.meta_key(b"x"), timed) == ()
    assert keys.derive(keys.count_key(record), timed) == ()
    assert keys.SPACE_EXPIRY in keys.DERIVED_SPACES and keys.SPACE_RECORD not in keys.DERIVED_SPACES
