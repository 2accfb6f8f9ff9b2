"""Walks over the keys of one database, in slot order, in steps that fit a cycle.

A SCAN cursor is 0 at start and end, else ``(slot + 1) << 48 | low 48 bits of xxh3_64(last key returned)`` and
goes on after that key in key order; with all hash bits zero it stands before the slot. A bounded LRU remembers
the keys of cursors given out; for an unknown cursor (other node, restart, evicted) the slot is searched for a key
with that hash, and if there is none the slot is walked again: keys repeat, none is missed.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Final

from xxhash import xxh3_64_intdigest

from respkv.base.errors import ReadMiss
from respkv.base.ids import STRING
from respkv.base.slots import SLOT_COUNT
from respkv.causality.record import BODY_AT, HAS_EXPIRY, TYPE_MASK
from respkv.keyspace import keys

if TYPE_CHECKING:
    from respkv.keyspace.keyspace import Keyspace

_HASH_MASK: Final = (1 << 48) - 1
#: Entries of other databases that are stepped over one by one before the walk seeks.
_FOREIGN_RUN: Final = 32
_CURSORS: Final = 1024
#: Keys sorted per slice before a walk may start over a memtable with many new keys.
_PREPARE_SLICE: Final = 5000
#: A walk ends with this space.
_END: Final = bytes((keys.SPACE_RECORD + 1,))


class KeyWalk:
    """The live keys of one stored database from ``start`` (an internal key) on.

    ``slots`` limits it to the slots whose byte is 1. ``step`` may raise ReadMiss, having passed nothing; call it again
    when the block is there.
    """

    __slots__ = ("db", "done", "keyspace", "last", "position", "slots", "visited")

    def __init__(
        self, keyspace: Keyspace, db: int, *, start: bytes = b"", slots: bytes | bytearray | None = None
    ) -> None:
        self.keyspace = keyspace
        self.db = db
        self.slots = slots
        self.position = start or keys.place_start(0, db)
        self.done = False
        self.visited = 0
        #: the last entry of our database that was visited, live or not
        self.last: bytes | None = None

    def prepare(self) -> bool:
        """Sort a slice of what the walk needs sorted; False while there is more to sort."""
        return self.keyspace.engine.prepare_scan(keys.SPACE_RECORD, _PREPARE_SLICE) == 0

    def step(self, limit: int, *, stop_slot: int = SLOT_COUNT) -> list[tuple[bytes, bytes]]:
        """(internal key, record) of the live keys among the next ``limit`` entries, up to before ``stop_slot``."""
        found: list[tuple[bytes, bytes]] = []
        before = self.position
        try:
            if self.slots is None:
                self._collect(found, limit, stop_slot)
            else:
                self._collect_wanted(self.slots, found, limit, stop_slot)
        except ReadMiss:
            if self.position == before:
                raise
            # What was passed is not met again, so it must be handed out; the next step misses anew.
        return found

    def _collect_wanted(
        self, slots: bytes | bytearray, found: list[tuple[bytes, bytes]], limit: int, stop_slot: int
    ) -> None:
        """Go on in the next run of wanted slots, and to its end at most."""
        slot = keys.key_slot(self.position)
        first = slots.find(1, slot, stop_slot)
        if first < 0:
            self.done = True
            return
        if first > slot:
            self.position = keys.place_start(first, self.db)
        after = slots.find(0, first, stop_slot)
        self._collect(found, limit, after if after >= 0 else stop_slot)
        if self.done and after >= 0:
            self.position = keys.place_start(after, self.db)
            self.done = False

    def _collect(self, found: list[tuple[bytes, bytes]], limit: int, stop_slot: int) -> None:
        end = _END if stop_slot >= SLOT_COUNT else keys.place_start(stop_slot, 0)
        keyspace, db, foreign = self.keyspace, self.db, 0
        now, floors, husks = keyspace.now_ms, keyspace.floors, keyspace.husks or ()
        for internal, record in keyspace.engine.scan(self.position, end):
            self.position = keys.after(internal)
            self.visited += 1
            limit -= 1
            if keys.key_db(internal) != db:
                foreign += 1
                if foreign >= _FOREIGN_RUN:
                    self._seek(internal)
                    return
            else:
                foreign = 0
                self.last = internal
                if record[0] & TYPE_MASK and not (
                    record[0] & HAS_EXPIRY and int.from_bytes(record[11:19], "big") <= now
                ):
                    stamp = record[1:BODY_AT]
                    if internal in husks and record[0] & TYPE_MASK > STRING:
                        pass  # It has no element here.
                    elif stamp > floors.highest or not floors.hides(keys.key_slot(internal), db, stamp):
                        found.append((internal, record))
            if limit <= 0:
                return
        self.done = True

    def _seek(self, internal: bytes) -> None:
        """Jump over other databases: to our part of this slot, or of the next."""
        slot = keys.key_slot(internal)
        if keys.key_db(internal) > self.db:
            slot += 1
        if slot >= SLOT_COUNT:
            self.done = True
        else:
            self.position = keys.place_start(slot, self.db)


class CursorTable:
    """Cursors given out lately -> the key after which they go on. Bounded, least recently given first out."""

    __slots__ = ("_keys",)

    def __init__(self) -> None:
        self._keys: OrderedDict[int, bytes] = OrderedDict()

    def give(self, slot: int, key: bytes) -> int:
        """The cursor that goes on after ``key``, which lies in ``slot``."""
        cursor = (slot + 1) << 48 | (xxh3_64_intdigest(key) & _HASH_MASK or 1)
        self._keys[cursor] = key
        self._keys.move_to_end(cursor)
        if len(self._keys) > _CURSORS:
            self._keys.popitem(last=False)
        return cursor

    def known(self, cursor: int) -> bytes | None:
        """The key of a cursor, None when it was forgotten or never given here."""
        return self._keys.get(cursor)


def slot_cursor(slot: int) -> int:
    """The cursor that stands before a slot, 0 past the last."""
    return 0 if slot >= SLOT_COUNT else (slot + 1) << 48


def cursor_slot(cursor: int) -> int:
    """The slot in a cursor; may be out of range for a made-up one."""
    return (cursor >> 48) - 1


def cursor_hash(cursor: int) -> int:
    """The key hash in a cursor, 0 when it stands before its slot."""
    return cursor & _HASH_MASK


def key_hash(key: bytes) -> int:
    """The hash that cursors carry."""
    return xxh3_64_intdigest(key) & _HASH_MASK or 1
