"""Internal keys: how typed keys lie in the one ordered byte space of the engine.

Layout (the first byte is the space; a slot is one range per space)::

    0x01  slot u16be | db u16be | user key                                  record (string or metadata)
    0x02  slot u16be | db u16be | klen u32be | user key | element           element of a collection
    0x03  expire_at_ms u64be | internal key of a record or element          expiry index, derived
    0x05  name                                                              local meta of this node
    0x06  slot u16be | db u16be | user key                                  element count of a collection

``db`` is the *stored* number; SWAPDB exchanges numbers in a map, not keys.
"""

from __future__ import annotations

from typing import Final

from respkv.base.coding import U32BE, U64BE
from respkv.base.slots import SLOT_COUNT, slot_of
from respkv.causality.record import HAS_EXPIRY, TYPE_MASK

SPACE_RECORD: Final = 1
SPACE_ELEMENT: Final = 2
SPACE_EXPIRY: Final = 3
SPACE_META: Final = 5
SPACE_COUNT: Final = 6

#: Spaces whose entries are rebuilt from records and never logged.
DERIVED_SPACES: Final = frozenset({SPACE_EXPIRY})

RECORD_KEY_AT: Final = 5
_ELEMENT: Final = bytes((SPACE_ELEMENT,))
_COUNT: Final = bytes((SPACE_COUNT,))
_EXPIRY: Final = bytes((SPACE_EXPIRY,))


def place(slot: int, db: int) -> bytes:
    """The four bytes after the space: slot and database."""
    return slot.to_bytes(2, "big") + db.to_bytes(2, "big")


def place_start(slot: int, db: int) -> bytes:
    """The first internal key of a slot's records in a database."""
    return b"\x01" + place(slot, db)


def record_prefixes(db: int) -> bytes:
    """The ``RECORD_KEY_AT`` bytes before a user key, one slot's after the other. Built once per database.

    80 KB in one piece: as many small objects would be a cache miss, or two, for each write.
    """
    tail = db.to_bytes(2, "big")
    return b"".join([b"\x01" + slot.to_bytes(2, "big") + tail for slot in range(SLOT_COUNT)])


def record_key(db: int, key: bytes) -> bytes:
    """The internal key of a user key."""
    return b"\x01" + place(slot_of(key), db) + key


def user_key(internal: bytes) -> bytes:
    """The user key in a record's internal key."""
    return internal[RECORD_KEY_AT:]


def key_slot(internal: bytes) -> int:
    """The slot in an internal key of a placed space."""
    return internal[1] << 8 | internal[2]


def key_db(internal: bytes) -> int:
    """The stored database number in an internal key of a placed space."""
    return internal[3] << 8 | internal[4]


def element_prefix(record: bytes) -> bytes:
    """What all elements of the collection with internal key ``record`` start with."""
    return _ELEMENT + record[1:RECORD_KEY_AT] + U32BE.pack(len(record) - RECORD_KEY_AT) + record[RECORD_KEY_AT:]


def element_owner(element: bytes) -> tuple[bytes, bytes]:
    """(internal key of the owner's record, element name) of an element's internal key."""
    size = int.from_bytes(element[5:9], "big")
    return b"\x01" + element[1:5] + element[9 : 9 + size], element[9 + size :]


def count_key(record: bytes) -> bytes:
    """The internal key of a collection's element count."""
    return _COUNT + record[1:]


def count_owner(count: bytes) -> bytes:
    """The internal key of the collection whose element count has the internal key ``count``."""
    return b"\x01" + count[1:]


def expiry_key(expire_at_ms: int, internal: bytes) -> bytes:
    """The index entry that brings ``internal`` up when its time comes."""
    return _EXPIRY + U64BE.pack(expire_at_ms) + internal


def expiry_parts(entry: bytes) -> tuple[int, bytes]:
    """(expire_at_ms, internal key) of an index entry."""
    return int.from_bytes(entry[1:9], "big"), entry[9:]


def expiry_bound(expire_at_ms: int) -> bytes:
    """The first index key at or after a time."""
    return _EXPIRY + U64BE.pack(expire_at_ms)


def meta_key(name: bytes) -> bytes:
    """The internal key of a local fact."""
    return bytes((SPACE_META,)) + name


def after(key: bytes) -> bytes:
    """The smallest byte string greater than ``key``."""
    return key + b"\x00"


def prefix_end(prefix: bytes) -> bytes | None:
    """The smallest byte string greater than everything that starts with ``prefix``; None = no end."""
    stripped = prefix.rstrip(b"\xff")
    if not stripped:
        return None
    return stripped[:-1] + bytes((stripped[-1] + 1,))


def derive(key: bytes, record: bytes) -> tuple[tuple[bytes, bytes], ...]:
    """The index entries that follow from one logged entry: one for a live record with an expiry."""
    if record and record[0] & HAS_EXPIRY and record[0] & TYPE_MASK and key[0] <= SPACE_ELEMENT:
        return ((_EXPIRY + record[11:19] + key, b""),)
    return ()
