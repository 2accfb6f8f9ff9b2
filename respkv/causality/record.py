"""The record: what the engine stores under an internal key.

Layout::

    type and flags u8 | stamp 10 | [expire_at_ms u64be] | body

The low four bits of the first byte are the type (``base.ids``; 0 = tombstone), the high bits flags:
0x10 has an expiry, 0x20 is a DVV container, 0x40 is strong-owned, 0x80 extended (reserved). The stamp
stands at a fixed offset, so the versions of two records compare as bytes without decoding.

A tombstone *with* the expiry flag is the *expired form*: what remains of a record whose time has come.
It keeps the stamp and the expiry of the record it replaces, and loses the body.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from respkv.base.coding import U64BE
from respkv.base.ids import STRING, TOMBSTONE
from respkv.causality.hlc import STAMP_BYTES

TYPE_MASK: Final = 0x0F
HAS_EXPIRY: Final = 0x10
DVV: Final = 0x20
STRONG: Final = 0x40
EXTENDED: Final = 0x80
STAMP_AT: Final = 1
BODY_AT: Final = 11
EXPIRING_BODY_AT: Final = 19

_TYPE_BYTES: Final = tuple(bytes((kind,)) for kind in range(256))


#: ``pack_string_head(1, hlc, node)``: the first eleven bytes of a string record without expiry.
pack_string_head: Final = struct.Struct(">BQH").pack


class Record(NamedTuple):
    """A decoded record. ``expire_at_ms`` is 0 when it never expires."""

    kind: int
    stamp: bytes
    expire_at_ms: int
    body: bytes


def encode(kind: int, stamp: bytes, body: bytes = b"", expire_at_ms: int = 0) -> bytes:
    """The bytes of a record."""
    if expire_at_ms:
        return _TYPE_BYTES[kind | HAS_EXPIRY] + stamp + U64BE.pack(expire_at_ms) + body
    return _TYPE_BYTES[kind] + stamp + body


def decode(record: bytes) -> Record:
    """The parts of ``record``."""
    first = record[0]
    if first & HAS_EXPIRY:
        return Record(
            first & TYPE_MASK, record[1:11], int.from_bytes(record[11:19], "big"), record[EXPIRING_BODY_AT:]
        )
    return Record(first & TYPE_MASK, record[1:11], 0, record[BODY_AT:])


def kind_of(record: bytes) -> int:
    """The record's type; TOMBSTONE for deletions and for the expired form."""
    return record[0] & TYPE_MASK


def stamp_of(record: bytes) -> bytes:
    """The record's stamp, 10 bytes."""
    return record[STAMP_AT:BODY_AT]


def expire_at_of(record: bytes) -> int:
    """Absolute expiry in ms, 0 for none."""
    return int.from_bytes(record[11:19], "big") if record[0] & HAS_EXPIRY else 0


def expired_form(record: bytes) -> bytes:
    """What an expired record becomes: same stamp, same expiry, no value."""
    assert record[0] & HAS_EXPIRY
    return _TYPE_BYTES[TOMBSTONE | HAS_EXPIRY] + record[1:EXPIRING_BODY_AT]


def tombstone(stamp: bytes) -> bytes:
    """The record of a deletion."""
    return _TYPE_BYTES[TOMBSTONE] + stamp


def with_expiry(record: bytes, stamp: bytes, expire_at_ms: int) -> bytes:
    """``record`` under a new stamp and expiry (0 = none)."""
    old = decode(record)
    assert old.kind != TOMBSTONE
    return encode(old.kind | (record[0] & (DVV | STRONG)), stamp, old.body, expire_at_ms)


def newer(left: bytes, right: bytes) -> bytes:
    """Last write wins: the record with the higher stamp; of equal stamps the expired form.

    A collection also takes over the floor of what it beats: what a deletion, or another beginning of the collection,
    has hidden stays hidden, in whatever order replicas hear of them. Commutative, associative and idempotent.
    """
    if (left[0] | right[0]) & TYPE_MASK > STRING:
        return _newer_collection(left, right)
    a, b = left[STAMP_AT:BODY_AT], right[STAMP_AT:BODY_AT]
    if a != b:
        return left if a > b else right
    if left == right or right[0] & TYPE_MASK != TOMBSTONE:
        assert left == right or left[0] & TYPE_MASK == TOMBSTONE, "two records under one stamp"
        return left
    return right


def floor_of(record: bytes) -> bytes:
    """The stamp at or below which a record hides elements: a collection's floor; of any other record its own stamp."""
    if record[0] & TYPE_MASK <= STRING:
        return record[STAMP_AT:BODY_AT]
    body_at = EXPIRING_BODY_AT if record[0] & HAS_EXPIRY else BODY_AT
    return record[body_at : body_at + STAMP_BYTES]


def with_floor(record: bytes, floor: bytes) -> bytes:
    """``record`` with its floor raised to ``floor`` where that is higher; what is no collection stays as it is."""
    if record[0] & TYPE_MASK <= STRING or floor_of(record) >= floor:
        return record
    body_at = EXPIRING_BODY_AT if record[0] & HAS_EXPIRY else BODY_AT
    return record[:body_at] + floor + record[body_at + STAMP_BYTES :]


def _newer_collection(left: bytes, right: bytes) -> bytes:
    a, b = left[STAMP_AT:BODY_AT], right[STAMP_AT:BODY_AT]
    if a == b:  # The same collection under two floors, or its expired form.
        is_left = right[0] & TYPE_MASK > STRING and (left[0] & TYPE_MASK <= STRING or floor_of(left) >= floor_of(right))
    else:
        is_left = a > b
    return with_floor(left, floor_of(right)) if is_left else with_floor(right, floor_of(left))


assert U64BE.size == EXPIRING_BODY_AT - BODY_AT
