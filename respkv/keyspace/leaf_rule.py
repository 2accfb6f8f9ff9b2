"""The rule of leaf sums: which records count, in which leaf, with which term.

A slot has 64 leaves, each the sum (mod 2^64) of one term per record. With ``h = xxh3_64(internal key)``::

    leaf   = h & 63
    digest = flags u8 | stamp 10 | [expire_at_ms u64be] | [xxh3_64 of the body, u64be: containers, and collections
             without expiry, whose floor it covers]
    term   = xxh3_64(digest, seed = h)

``flags`` are the high bits of the record's first byte without its type: the expired form of a record has the
digest of what expired, so that replicas whose clocks differ agree. A sum, not XOR: what is there twice
must not cancel.

Left out, by rule and not by what a compaction happens to have dropped:

* what lies at or below its flush floor;
* *graves* (tombstones, expired forms) below the purge watermark of their slot;
* elements that their owner hides: the owner is no collection, or its floor is not below the element's stamp;
* element counts and everything local (spaces other than records and elements).
"""

from __future__ import annotations

from array import array
from typing import Final

from xxhash import xxh3_64_digest, xxh3_64_intdigest

from respkv.base.ids import HASH
from respkv.base.slots import SLOT_COUNT
from respkv.causality.hlc import MAX_STAMP, ZERO_STAMP
from respkv.causality.record import BODY_AT, DVV, EXPIRING_BODY_AT, HAS_EXPIRY, TYPE_MASK
from respkv.keyspace import keys
from respkv.keyspace.floors import FlushFloors

LEAVES: Final = 64
CELLS: Final = SLOT_COUNT * LEAVES
LEAF_BITS: Final = 6
MASK: Final = (1 << 64) - 1
STAMP_IN_DIGEST: Final = slice(1, 11)

_FLAGS: Final = tuple(bytes((first & 0xF0,)) for first in range(256))

#: What one record adds. 0: nothing. An int: its term. Bytes: the record itself, a grave, which leaves the sum when the
#: watermark passes it. A tuple: (term, floor) of a collection's metadata.
Form = int | bytes | tuple[int, bytes]


def digest_of(record: bytes) -> bytes:
    """All that makes two records of one key differ for a client, in 11 to 27 bytes; a collection's floor with it."""
    first = record[0]
    if first < HAS_EXPIRY:
        if first >= HASH:
            return b"\x00" + record[1:BODY_AT] + xxh3_64_digest(record[BODY_AT:])
        return b"\x00" + record[1:BODY_AT]
    body_at = EXPIRING_BODY_AT if first & HAS_EXPIRY else BODY_AT
    digest = _FLAGS[first] + record[1:body_at]
    return digest + xxh3_64_digest(record[body_at:]) if first & DVV else digest


def leaf_of(internal: bytes) -> int:
    """The leaf of an internal key."""
    return xxh3_64_intdigest(internal) & 63


def term_of(internal: bytes, record: bytes) -> int:
    """What the record of ``internal`` adds to its leaf."""
    return xxh3_64_intdigest(digest_of(record), xxh3_64_intdigest(internal))


def stamp_ms(digest: bytes) -> int:
    """The wall milliseconds in a digest's stamp."""
    return int.from_bytes(digest[1:7], "big")


def is_grave(record: bytes) -> bool:
    """A deletion, or what is left of an expired record."""
    return not record[0] & TYPE_MASK


def element_floor(owner: bytes | None) -> bytes:
    """The stamp at or below which the elements of a record are hidden; MAX_STAMP when it is no collection."""
    if owner is None or owner[0] & TYPE_MASK < HASH:
        return MAX_STAMP
    body_at = EXPIRING_BODY_AT if owner[0] & HAS_EXPIRY else BODY_AT
    return owner[body_at : body_at + 10]


class LeafRule:
    """The rule with its two tables: flush floors, and purge watermarks (an HLC value by slot)."""

    __slots__ = ("floors", "marks")

    def __init__(self, floors: FlushFloors, marks: array[int]) -> None:
        self.floors = floors
        self.marks = marks

    def flushed(self, internal: bytes, record: bytes) -> bool:
        """True when the record lies at or below its flush floor."""
        stamp = record[1:BODY_AT]
        floors = self.floors
        return stamp <= floors.highest and floors.hides(keys.key_slot(internal), keys.key_db(internal), stamp)

    def purgeable(self, internal: bytes, record: bytes) -> bool:
        """A grave below the watermark."""
        return not record[0] & TYPE_MASK and int.from_bytes(record[1:9], "big") < self.marks[keys.key_slot(internal)]

    def form(self, internal: bytes, record: bytes | None, floor: bytes = ZERO_STAMP) -> Form:
        """What ``record`` adds. ``floor``: of an element, the ``element_floor`` of its owner."""
        if record is None or record[1:BODY_AT] <= floor or self.flushed(internal, record):
            return 0
        if not record[0] & TYPE_MASK:
            return record
        if record[0] & TYPE_MASK >= HASH and internal[0] == keys.SPACE_RECORD:
            return term_of(internal, record), element_floor(record)
        return term_of(internal, record)

    def owner_floor(self, owner: bytes, record: bytes | None) -> bytes:
        """``element_floor`` of an owner's record, of one that was flushed too."""
        return MAX_STAMP if record is None or self.flushed(owner, record) else element_floor(record)


def new_marks() -> array[int]:
    """No watermark in any slot."""
    return array("Q", bytes(8 * SLOT_COUNT))
