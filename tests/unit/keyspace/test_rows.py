"""Rows: what each form answers, and what it is charged."""

from __future__ import annotations

import pytest

from respkv.base.ids import HASH, STRING, TOMBSTONE
from respkv.causality.record import encode
from respkv.keyspace.rows import (
    HashRow,
    TimedString,
    field_charge,
    field_expiry,
    field_value,
    reply_of_string,
    row_expiry,
    row_kind,
    value_of_string,
)
from respkv.keyspace.view import string_row


def hash_row() -> HashRow:
    return HashRow(internal=b"\x01\0\0\0\0key", prefix=b"\x02\0\0\0\0\0\0\0\x03key", floor=b"f" * 10, expire_at_ms=5)


@pytest.mark.parametrize("value", [b"", b"abc", b"\r\n", b"$3\r\n\n", b"x" * 1000])
def test_strings(value: bytes) -> None:
    reply = b"$%d\r\n%b\r\n" % (len(value), value)
    stamp = b"\n" * 10  # a stamp may hold line ends
    record = encode(STRING, stamp, reply)
    plain, timed = string_row(record), string_row(encode(STRING, stamp, reply, 99))
    assert plain is record and type(timed) is TimedString
    for row, expiry in ((plain, 0), (timed, 99)):
        assert row_kind(row) == STRING and row_expiry(row) == expiry
        assert reply_of_string(row) == reply and value_of_string(row) == value
    assert timed.charge > len(reply)


def test_kinds() -> None:
    assert row_kind(None) == TOMBSTONE
    assert row_kind(hash_row()) == HASH and row_expiry(hash_row()) == 5


def test_fields() -> None:
    assert (field_value(b"v"), field_expiry(b"v")) == (b"v", 0)
    assert (field_value((b"v", 7)), field_expiry((b"v", 7))) == (b"v", 7)
    assert field_charge(b"ff", b"vvv") == field_charge(b"ff", (b"vvv", 7)) > 5


def test_forgetting_fields_gives_the_charge_back() -> None:
    row = hash_row()
    empty = row.charge
    row.fields[b"f"] = b"v" * 100
    row.charge += field_charge(b"f", b"v" * 100)
    row.complete, row.loaded_to = True, b"f"
    assert row.forget_fields() == -field_charge(b"f", b"v" * 100)
    assert (row.fields, row.complete, row.loaded_to, row.charge) == ({}, False, None, empty)
    assert "key" in repr(row)
