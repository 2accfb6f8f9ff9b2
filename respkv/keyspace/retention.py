"""Retention: which records a compaction may leave out.

Made in the worker process from plain data (``plain``), since a callable never crosses a process. A record that is
the newest of its key in the merged runs is dropped only when nothing older can come to light through that:

* expiry-index entries at or below ``expired_through_ms``: worked off, always;
* records and elements at or below their flush floor, which must be durable: always;
* tombstones and expired forms below the purge watermark of their slot: when no older run may hold the key. A node that
  is alone has one watermark for all, a stamp of now; a ring member has one a slot (``replication/tombstones``), none
  where nothing was proved yet. (A record past its time is never dropped for that alone: the expired form that the
  expiry duty puts above it replaces it in the merge, and the key counts describe what is in the runs);
* elements and counts that the newest metadata *in the files of the version* hides (floors only grow, so a
  stale one is safe): always, since metadata that hides them stays; a collection's tombstone goes only with
  the oldest run, in which case its elements are in the same job.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from typing import Any

from respkv.base.ids import STRING, TOMBSTONE
from respkv.base.slots import SLOT_COUNT
from respkv.causality.record import BODY_AT, TYPE_MASK, decode
from respkv.keyspace import keys
from respkv.keyspace.floors import FlushFloors

Lookup = Callable[[bytes], bytes | None]
Keep = Callable[[bytes, bytes, Callable[[bytes], bool]], bool]


#: Watermarks of a ring member: (first slot, last slot, HLC value), slots ascending, those without one left out.
Watermarks = Sequence[tuple[int, int, int]]


def plain(floors: FlushFloors, *, expired_through_ms: int, purge_below: bytes | Watermarks) -> dict[str, Any]:
    """What ``make_keep`` needs, as JSON-able data. ``purge_below``: one stamp for all slots, or watermarks by slot,
    which must be durable: a node that forgot a watermark would take what it has purged for news."""
    return {
        "floors": floors.plain(),
        "expired_through_ms": expired_through_ms,
        "purge_below": purge_below.hex() if isinstance(purge_below, bytes) else [list(mark) for mark in purge_below],
    }


def _make_purgeable(data: str | list[list[int]]) -> Callable[[bytes, bytes], bool]:
    """``purgeable(key, stamp)``: whether a grave with this stamp lies below its watermark."""
    if isinstance(data, str):
        purge_below = bytes.fromhex(data)
        return lambda key, stamp: stamp < purge_below
    marks = array("Q", bytes(8 * SLOT_COUNT))
    for first, last, mark in data:
        marks[first : last + 1] = array("Q", [mark]) * (last + 1 - first)
    return lambda key, stamp: int.from_bytes(stamp[:8], "big") < marks[keys.key_slot(key)]


def make_keep(data: dict[str, Any], lookup: Lookup) -> Keep:
    """``keep(key, record, older_may_hold)`` for one compaction job. ``lookup`` reads the version's runs."""
    floors = FlushFloors.from_plain(data["floors"])
    expired_through_ms: int = data["expired_through_ms"]
    purgeable = _make_purgeable(data["purge_below"])
    #: One stamp for all slots: a single node. Watermarks, or none for caution's sake: perhaps a ring.
    alone = isinstance(data["purge_below"], str) and bool(data["purge_below"])
    highest = floors.highest
    owner_internal = b""
    owner_record: bytes | None = None

    def hidden(owner: bytes, stamp: bytes) -> bool:
        """True when the owner's newest metadata hides what has this stamp. Neighbours share an owner."""
        nonlocal owner_internal, owner_record
        if owner != owner_internal:
            owner_internal, owner_record = owner, lookup(owner)
        if owner_record is None:
            return False
        parts = decode(owner_record)
        if parts.kind == TOMBSTONE and parts.expire_at_ms:
            # Its last elements may be newer than the record that expired. What belongs to a later life came after that
            # life's metadata, which would have been found instead; on a ring that may be on its way from another node.
            return alone or int.from_bytes(stamp[:6], "big") <= parts.expire_at_ms
        if parts.kind in (TOMBSTONE, STRING):
            return stamp <= parts.stamp
        return stamp <= parts.body[:10]

    def keep(key: bytes, record: bytes, older_may_hold: Callable[[bytes], bool]) -> bool:
        space = key[0]
        if space == keys.SPACE_EXPIRY:
            return int.from_bytes(key[1:9], "big") > expired_through_ms
        if space == keys.SPACE_META:
            return True
        stamp = record[1:BODY_AT]
        if stamp <= highest and floors.hides(keys.key_slot(key), keys.key_db(key), stamp):
            return False
        if space == keys.SPACE_ELEMENT:
            if hidden(keys.element_owner(key)[0], stamp):
                return False
        elif space == keys.SPACE_COUNT and hidden(b"\x01" + key[1:], stamp):
            return False
        return record[0] & TYPE_MASK != 0 or not purgeable(key, stamp) or older_may_hold(key)

    return keep
