"""The usual payload of a replica: plain strings that are newer than all it has flushed.

``cut`` takes a payload apart and says whether it is one, ``put_blind`` applies it. Whatever others say they hold goes
through ``cut``: a record of a type that there is not must not be stored, for nobody could read it.

They are the hot loops of ``Replica.apply``, in a module of their own so that they can be compiled (decision 0010).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from respkv.base.errors import ProtocolError
from respkv.base.ids import HASH, STRING
from respkv.base.limits import KEY_BYTES_MAX
from respkv.base.slots import SLOT_COUNT
from respkv.causality.hlc import MAX_STAMP
from respkv.causality.record import BODY_AT, TYPE_MASK
from respkv.keyspace import keys
from respkv.keyspace.counts import LIVE
from respkv.storage.write_batch import LENGTHS, LENGTHS_BYTES

if TYPE_CHECKING:
    from respkv.keyspace.keyspace import Keyspace

_UNPACK: Final[Any] = LENGTHS.unpack_from
KEY_BYTES_MIN: Final = keys.RECORD_KEY_AT
#: That of an element: its place, the length of its owner's key, that key and the field.
_INTERNAL_BYTES_MAX: Final = keys.RECORD_KEY_AT + 4 + KEY_BYTES_MAX
PLACED: Final = frozenset({keys.SPACE_RECORD, keys.SPACE_ELEMENT, keys.SPACE_COUNT})


class Cut:
    """A payload's entries: keys, records and, as they stood before each, their lengths."""

    __slots__ = ("heads", "internals", "late", "newest", "plain", "records")

    def __init__(self) -> None:
        self.internals: list[bytes] = []
        self.records: list[bytes] = []
        self.heads: list[bytes] = []
        #: what ``put_blind`` left undone: indexes of strings that something newer than a string stands over
        self.late: list[int] = []
        #: the highest stamp of a record, b"" without records
        self.newest = b""
        #: all are strings without flags, of keys without a policy, newer than ``highest``
        self.plain = True


def cut(payload: bytes, highest: bytes, ruled: Any) -> Cut:  # HOT: replica_apply
    """Take a payload apart. ``ruled(key, start)`` matches keys that have a policy; None: there are none.

    ProtocolError for garbage.
    """
    found = Cut()
    internals, records, heads = found.internals, found.records, found.heads
    unpack, newest, plain = _UNPACK, b"", True
    at, end = 0, len(payload)
    while at < end:
        if end - at < LENGTHS_BYTES:
            raise ProtocolError("entries overrun their payload")
        lengths = unpack(payload, at)
        record_length: int = lengths[0]
        key_length: int = lengths[1]
        key_at = at + LENGTHS_BYTES
        record_at = key_at + key_length
        heads.append(payload[at:key_at])
        at = record_at + record_length
        if at > end or record_length < BODY_AT or not KEY_BYTES_MIN <= key_length <= _INTERNAL_BYTES_MAX:
            raise ProtocolError("an entry that is none")
        internal, record = payload[key_at:record_at], payload[record_at:at]
        stamp = record[1:BODY_AT]
        if stamp > newest:
            newest = stamp
        if (
            record[0] != STRING
            or internal[0] != keys.SPACE_RECORD
            or stamp <= highest
            or (ruled is not None and ruled(internal, keys.RECORD_KEY_AT))
        ):
            plain = False
            if internal[0] not in PLACED or keys.key_slot(internal) >= SLOT_COUNT:
                raise ProtocolError("an entry of a space that is not shared")
            if record[0] & TYPE_MASK > HASH:
                raise ProtocolError("a record of an unknown type")
        internals.append(internal)
        records.append(record)
    found.newest, found.plain = newest, plain
    return found


def entries_of(payload: bytes) -> list[tuple[bytes, bytes]]:
    """The (key, record) pairs of a payload that came from a peer. ProtocolError for garbage."""
    found = cut(payload, MAX_STAMP, None)
    return list(zip(found.internals, found.records))


def is_record(record: bytes) -> bool:
    """Whether a record that came from a peer can be one: it has a stamp, and its type is known."""
    return len(record) >= BODY_AT and record[0] & TYPE_MASK <= HASH


def put_blind(entries: Cut, keyspace: Keyspace, highest: bytes, touch: Any) -> int:  # HOT: replica_apply
    """Apply entries that are ``plain``; how many lost against what is held. ``touch(db, key)`` while somebody watches.

    Only a memtable can hold anything newer: nothing is read from tables. What loses against something else than a plain
    string or a deletion is in ``late`` afterwards: a hash that is newer keeps the string's stamp as its floor.
    """
    engine, cache, counts = keyspace.engine, keyspace.cache, keyspace.counts
    batch, table = engine.batch, engine.memtable.table
    retired = [memtable.table for memtable in engine.immutables]
    watching = keyspace.watching
    internals, records, heads = entries.internals, entries.records, entries.heads
    late, string = entries.late, STRING
    last_place, grown, beaten, db = b"", 0, 0, 0
    rows: dict[bytes, Any] = {}
    old_rows: dict[bytes, Any] | None = None
    for index in range(len(internals)):
        internal, record = internals[index], records[index]
        old = table.get(internal)
        if old is None:
            if retired and (held := _held(retired, internal)) is not None and held[1:BODY_AT] >= record[1:BODY_AT]:
                if held[0] > string:
                    late.append(index)
                else:
                    beaten += 1
                continue
        else:
            stamp = old[1:BODY_AT]
            if stamp >= record[1:BODY_AT]:
                if old[0] > string:
                    late.append(index)
                else:
                    beaten += 1
                continue
            if old[0] != string or stamp <= highest:
                counts.replaced(internal, old, LIVE)
        place = internal[3:5]
        if place != last_place:
            last_place = place
            db = keys.key_db(internal)
            rows, old_rows = cache.rows(db), cache.old.get(db)
        key = internal[5:]
        row = rows.get(key)
        if isinstance(row, bytes):
            rows[key] = record
            grown += len(record) - len(row)
        elif row is not None or (old_rows and key in old_rows):
            cache.replace(db, key, record)
            rows, old_rows = cache.rows(db), cache.old.get(db)
        table[internal] = record
        batch += (heads[index], internal, record)
        if watching:
            touch(db, key)
    if grown:
        cache.grow(grown)
    return beaten


def _held(retired: list[dict[bytes, bytes]], internal: bytes) -> bytes | None:
    """What the memtables that are being flushed hold of a key. ``retired``: newest first."""
    for table in retired:
        old = table.get(internal)
        if old is not None:
            return old
    return None
