"""Records: every form, and which of two wins."""

from __future__ import annotations

import itertools
import random

import pytest

from respkv.base.ids import HASH, STRING, TOMBSTONE
from respkv.causality.hlc import pack_stamp
from respkv.causality.record import (
    DVV,
    HAS_EXPIRY,
    STRONG,
    Record,
    decode,
    encode,
    expire_at_of,
    expired_form,
    kind_of,
    newer,
    stamp_of,
    tombstone,
    with_expiry,
)

S1, S2, S3 = (pack_stamp(n << 16, 1) for n in (1, 2, 3))


def test_layout() -> None:
    assert encode(STRING, S1, b"abc") == b"\x01" + S1 + b"abc"
    assert encode(HASH, S1, b"x", 0x0102030405060708) == b"\x12" + S1 + bytes(range(1, 9)) + b"x"
    assert tombstone(S1) == b"\x00" + S1


@pytest.mark.parametrize("kind", range(7))
@pytest.mark.parametrize("expire_at_ms", [0, 1, 1_700_000_000_000, (1 << 63) - 1])
@pytest.mark.parametrize("body", [b"", b"v", bytes(range(256))])
def test_round_trip(kind: int, expire_at_ms: int, body: bytes) -> None:
    record = encode(kind, S2, body, expire_at_ms)
    assert decode(record) == Record(kind, S2, expire_at_ms, body)
    assert (kind_of(record), stamp_of(record), expire_at_of(record)) == (kind, S2, expire_at_ms)


def test_expired_form_keeps_stamp_and_expiry_and_loses_the_value() -> None:
    record = encode(STRING, S2, b"value", 99)
    expired = expired_form(record)
    assert decode(expired) == Record(TOMBSTONE, S2, 99, b"")
    assert expired[0] & HAS_EXPIRY and expired_form(expired) == expired
    with pytest.raises(AssertionError):
        expired_form(encode(STRING, S2, b"value"))


def test_with_expiry_changes_stamp_and_expiry_only() -> None:
    record = encode(STRING, S1, b"value")
    assert with_expiry(record, S2, 50) == encode(STRING, S2, b"value", 50)
    assert with_expiry(encode(HASH, S1, b"f", 50), S2, 0) == encode(HASH, S2, b"f")
    flagged = encode(STRING | STRONG | DVV, S1, b"value")
    assert with_expiry(flagged, S2, 7)[0] == STRING | STRONG | DVV | HAS_EXPIRY
    with pytest.raises(AssertionError):
        with_expiry(tombstone(S1), S2, 50)


def test_the_higher_stamp_wins_whatever_is_under_it() -> None:
    forms = [encode(STRING, S1, b"a"), tombstone(S2), encode(HASH, S3, S2, 9)]
    for left, right in itertools.permutations(forms, 2):
        assert newer(left, right) == max(left, right, key=stamp_of)


def test_of_equal_stamps_the_expired_form_wins() -> None:
    record = encode(STRING, S2, b"value", 99)
    expired = expired_form(record)
    assert newer(record, expired) == newer(expired, record) == expired
    assert newer(record, record) == record and newer(expired, expired) == expired


def test_two_records_under_one_stamp_are_a_bug() -> None:
    with pytest.raises(AssertionError):
        newer(encode(STRING, S2, b"a"), encode(STRING, S2, b"b"))


def test_merging_is_associative_and_commutative() -> None:
    rng = random.Random(9)
    for _ in range(200):
        records = []
        for number in rng.sample(range(1, 50), 4):
            record = encode(STRING, pack_stamp(number, 1), b"v%d" % number, rng.choice((0, 5)))
            records.append(record)
            if record[0] & HAS_EXPIRY:
                records.append(expired_form(record))
        merged = []
        for _ in range(3):
            rng.shuffle(records)
            result = records[0]
            for record in records[1:]:
                result = newer(result, record)
            merged.append(result)
        assert merged[0] == merged[1] == merged[2]


def collection(stamp: bytes, floor: bytes, expire_at_ms: int = 0) -> bytes:
    return encode(HASH, stamp, floor, expire_at_ms)


def test_a_collection_takes_over_the_floor_of_what_it_beats() -> None:
    one, two, three, four = (pack_stamp(number, 1) for number in (1, 2, 3, 4))
    assert newer(collection(four, one), tombstone(two)) == collection(four, two)
    assert newer(collection(four, one), encode(STRING, two, b"v")) == collection(four, two)
    assert newer(collection(three, two, 99), collection(four, one)) == collection(four, two)
    assert newer(collection(four, three), collection(two, one)) == collection(four, three)
    assert newer(collection(four, one, 77), tombstone(three)) == collection(four, three, 77)


def test_what_beats_a_collection_stays_as_it_is() -> None:
    one, two, three = (pack_stamp(number, 1) for number in (1, 2, 3))
    assert newer(collection(two, one), tombstone(three)) == tombstone(three)
    assert newer(encode(STRING, three, b"v"), collection(two, one)) == encode(STRING, three, b"v")
    expired = expired_form(collection(two, one, 50))
    assert newer(collection(two, one, 50), expired) == newer(expired, collection(two, one, 50)) == expired


@pytest.mark.parametrize("seed", range(200))
def test_merging_collections_is_associative_commutative_and_idempotent(seed: int) -> None:
    rng = random.Random(seed)
    stamps = [pack_stamp(number, rng.randrange(3)) for number in range(10)]
    records = []
    for at in rng.sample(range(5, 10), 4):
        kind = rng.choice((HASH, HASH, STRING, TOMBSTONE))
        if kind == HASH:
            records += [collection(stamps[at], stamps[floor]) for floor in rng.sample(range(at), 2)]
        else:
            records.append(encode(kind, stamps[at], b"" if kind == TOMBSTONE else b"v"))
    results = set()
    for _ in range(12):
        rng.shuffle(records)
        merged = records[0]
        for record in records[1:]:
            merged = newer(merged, record) if rng.randrange(2) else newer(record, merged)
            assert newer(merged, record) == merged
        results.add(merged)
    assert len(results) == 1
