"""The keyspace: typed keys over the engine. It finds rows; ``apply`` changes them.

One ``Keyspace`` a node. It owns the row cache's contents, the map of databases, the flush floors, the key
counts and the list of keys seen expired. It never reads a clock: ``begin`` brings the time, once per cycle.

Reads may raise ``ReadMiss`` (nothing has changed; run again once the block is there) or
``CorruptionError``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final

from respkv.base.ids import HASH, STRING
from respkv.base.slots import slot_of
from respkv.causality.dvv import EMPTY, Container, drop_flushed
from respkv.causality.hlc import ZERO_STAMP, HybridClock
from respkv.causality.record import (
    BODY_AT,
    DVV,
    EXPIRING_BODY_AT,
    HAS_EXPIRY,
    TYPE_MASK,
    Record,
    decode,
    encode,
    expire_at_of,
    with_floor,
)
from respkv.causality.siblings import container_of, token
from respkv.keyspace import keys
from respkv.keyspace.counts import KeyCounts
from respkv.keyspace.floors import META_PREFIX, FlushFloors
from respkv.keyspace.rows import FieldEntry, HashRow, Row, TimedString, field_charge, field_expiry, string_row
from respkv.keyspace.scan import CursorTable
from respkv.storage.row_cache import RowCache

if TYPE_CHECKING:
    from respkv.keyspace.husks import Husks
    from respkv.keyspace.survivors import Survivors
    from respkv.storage.engine import Engine

_DATABASES: Final = keys.meta_key(b"databases")
_ACTORS: Final = keys.meta_key(b"actors")
_CEILING: Final = keys.meta_key(b"hlc-ceiling")
_EXPIRED_THROUGH: Final = keys.meta_key(b"expired-through")
_LISTED_PER_CYCLE: Final = 1024
#: The fields of a hash are kept in memory while it takes no more than this part of the row cache.
TRIM_SHARE: Final = 8
#: In an element count: its writer has not counted; the next count that follows this one is a number.
UNKNOWN_COUNT: Final = b"\xff" * 8
#: In an element count: others have changed the collection, too. Whoever wants the number counts.
DOUBTED_COUNT: Final = b"\xff" * 7 + b"\xfe"


class Keyspace:
    """Rows by (stored database, user key), live ones only.

    ``touched`` is called with (stored db, key) after a change, key None for the whole database; ``watching``
    says whether anybody wants it.
    """

    __slots__ = (
        "_prefixes",
        "actors_from",
        "cache",
        "clock",
        "colocation",
        "conflicts",
        "counts",
        "cursors",
        "databases",
        "engine",
        "expired_keys",
        "expired_through_ms",
        "floors",
        "hits",
        "husks",
        "meta_puts",
        "misses",
        "now_ms",
        "sighted",
        "stored",
        "survivors",
        "swapped",
        "touched",
        "watching",
        "watermark",
    )

    def __init__(self, engine: Engine, clock: HybridClock, *, databases: int, row_cache_bytes: int) -> None:
        self.engine = engine
        self.clock = clock
        self.cache = RowCache(row_cache_bytes)
        self.floors = FlushFloors()
        self.counts = KeyCounts(engine, self.floors)
        self.cursors = CursorTable()
        self.databases = databases
        #: logical database number -> stored one
        self.stored = list(range(databases))
        self.now_ms = 0
        self.expired_through_ms = 0
        self.expired_keys = 0
        self.hits = 0
        self.misses = 0
        #: internal keys met after their time, to be put in the expired form when the cycle ends
        self.sighted: dict[bytes, None] = {}
        self.touched: Callable[[int, bytes | None], None] | None = None
        #: called with two stored databases whose logical numbers are about to be exchanged
        self.swapped: Callable[[int, int], None] | None = None
        self.watching = False
        #: on a ring: the purge watermark of a slot, as a stamp; None on a single node, where it is always now
        self.watermark: Callable[[int], bytes] | None = None
        #: on a ring: finds elements that outlive their collection (keyspace/survivors.py); None on a single node
        self.survivors: Survivors | None = None
        #: on a ring: collections without elements that are not deleted (keyspace/husks.py); None on a single node
        self.husks: Husks | None = None
        #: local facts logged: a cycle with any holds entries that no other node may see
        self.meta_puts = 0
        #: policies for concurrent writes (keyspace/conflicts.py); None: last write wins, everywhere
        self.conflicts: Any = None
        #: on a ring that colocates keys: what says where they lie (base/prefixes.py)
        self.colocation: Any = None
        #: siblings are written under actors with this number or a greater one; 0: none has ever been given out
        self.actors_from = 0
        self._prefixes: dict[int, bytes] = {}

    def defer_writes(self, wanted: bool = True) -> None:
        """Whether strings written over cached strings are put into the memtable later, if at all: see ``memtable``.

        Not on a ring, where leaf sums and peers ask for the records of single memtables.
        """
        self.engine.list_deferred()
        self.engine.held = self._held if wanted else None
        self.cache.before_loss = self.engine.list_deferred if wanted else None

    def list_some(self) -> None:
        """Once per cycle: list deferred keys in slices before the row cache's turn would do it in one go."""
        if self.cache.is_turning_soon:
            self.engine.list_deferred(_LISTED_PER_CYCLE)

    def _held(self, internal: bytes) -> bytes | None:
        """The newest record of a key whose row is one."""
        if internal[0] != keys.SPACE_RECORD:
            return None
        row = self.cache.peek(keys.key_db(internal), keys.user_key(internal))
        return row if row.__class__ is bytes else None

    # -- opening -----------------------------------------------------------------------------------

    def load(self) -> None:
        """Read the local facts and the key counts after the engine has opened."""
        self.load_facts()
        self.counts.load()

    def load_facts(self) -> None:
        """Read the local facts (databases, floors, marks, clock ceiling); damaged tables are passed over.

        The key counts are to be loaded after them.
        """
        for internal, record in self.engine.scan(bytes((keys.SPACE_META,)), bytes((keys.SPACE_META + 1,))):
            name, body = internal[1:], record[BODY_AT:]
            if name.startswith(META_PREFIX):
                self.floors.decode(int.from_bytes(name[len(META_PREFIX) :], "big"), body)
            elif internal == _DATABASES:
                # The map keeps numbers beyond ``databases``, for the day when there are more of them again.
                stored = [int.from_bytes(body[at : at + 2], "big") for at in range(0, len(body), 2)]
                self.stored = stored + list(range(len(stored), self.databases))
            elif internal == _ACTORS:
                self.actors_from = int.from_bytes(body, "big")
            elif internal == _EXPIRED_THROUGH:
                self.expired_through_ms = int.from_bytes(body, "big")
            elif internal == _CEILING:
                ceiling = int.from_bytes(body, "big")
                self.clock.last = max(self.clock.last, ceiling)
                self.clock.raise_ceiling(ceiling)

    def begin(self, wall_ms: int) -> None:
        """A cycle starts at ``wall_ms``. Time never goes backwards for the keyspace."""
        first = not self.now_ms
        if wall_ms > self.now_ms:
            self.now_ms = wall_ms
        wall = self.now_ms << 16
        if wall > self.clock.last:
            self.clock.last = wall
        if first and self.expired_through_ms > wall_ms:
            # The wall clock went back while we were down: what expires from now on must not lie below the mark,
            # nor below the one that the next start finds.
            self.expired_through_ms = wall_ms
            self.write_expired_through()

    # -- stamps and local facts --------------------------------------------------------------------

    def stamp(self) -> bytes:
        """A fresh stamp, greater than all before it."""
        clock = self.clock
        clock.last += 1
        return clock.last.to_bytes(8, "big") + clock.node.to_bytes(2, "big")

    def put_meta(self, internal: bytes, body: bytes) -> None:
        """Log a local fact."""
        self.meta_puts += 1
        self.engine.put(internal, encode(STRING, self.stamp(), body))

    def write_ceiling(self) -> int:
        """Log the clock's next ceiling; the caller tells the clock once it is durable."""
        ceiling = self.clock.wanted_ceiling(self.now_ms)
        self.put_meta(_CEILING, ceiling.to_bytes(8, "big"))
        return ceiling

    def write_actors(self, ceiling: int) -> None:
        """Log the number below which actors are given out from now on; the caller says so once it is durable."""
        self.put_meta(_ACTORS, ceiling.to_bytes(8, "big"))

    def write_exact_clock(self) -> None:
        """Clean stop: the next start goes on right after the last stamp."""
        self.put_meta(_CEILING, (self.clock.last + 2).to_bytes(8, "big"))

    def write_floor(self, db: int) -> None:
        """Log the floors of a stored database."""
        self.put_meta(keys.meta_key(META_PREFIX + db.to_bytes(2, "big")), self.floors.encode(db))

    def write_databases(self) -> None:
        """Log the map of databases."""
        self.put_meta(_DATABASES, b"".join(number.to_bytes(2, "big") for number in self.stored))

    def write_expired_through(self) -> None:
        """Log how far the expiry index has been worked off."""
        self.put_meta(_EXPIRED_THROUGH, self.expired_through_ms.to_bytes(8, "big"))

    # -- keys --------------------------------------------------------------------------------------

    def prefixes(self, db: int) -> bytes:
        """Internal-key prefixes of a stored database: see ``keys.record_prefixes``."""
        table = self._prefixes.get(db)
        if table is None:
            table = self._prefixes[db] = keys.record_prefixes(db)
        return table

    def slot(self, key: bytes) -> int:
        """The slot of a user key."""
        slot: int = slot_of(key) if self.colocation is None else self.colocation.slot(key)
        return slot

    def internal(self, db: int, key: bytes) -> bytes:
        """The internal key of a user key."""
        if self.colocation is None:
            return keys.record_key(db, key)
        return keys.place_start(self.colocation.slot(key), db) + key

    # -- rows --------------------------------------------------------------------------------------

    def row(self, db: int, key: bytes) -> Row | None:
        """The live row of a key; None when it is absent, a husk, or its time has come."""
        rows = self.cache.young.get(db)
        row: Row | None = rows.get(key) if rows is not None else None
        if row is not None:
            self.cache.hits += 1
        else:
            row = self.cache.get(db, key)
            if row is None:
                row = self.load_row(db, key)
        if row is None or type(row) is bytes:
            return row
        expire_at_ms = row.expire_at_ms  # type: ignore[union-attr]
        if expire_at_ms and expire_at_ms <= self.now_ms:
            self.sighted[self.internal(db, key)] = None
            return None
        if self.husks is not None and type(row) is HashRow and row.count <= 0 and self.husks.is_one(row):
            return None
        return row

    def record(self, internal: bytes) -> bytes | None:
        """The record of a key as stored, None when it is absent; a record past its time is returned."""
        return self._unless_gone(internal, self.engine.get(internal))

    def _unless_gone(self, internal: bytes, record: bytes | None) -> bytes | None:
        if record is None or not record[0] & TYPE_MASK:
            return None
        stamp = record[1:BODY_AT]
        if stamp <= self.floors.highest and self.floors.hides(
            keys.key_slot(internal), keys.key_db(internal), stamp
        ):
            return None
        return record

    def empty_collection(self, internal: bytes, stored: bytes | None) -> bytes | None:
        """The record of a key without a row, if it is that of a husk; None on a single node. ``stored``: what was read
        of it, if the memtable has none."""
        if self.husks is None:
            return None
        record = self._unless_gone(internal, self.engine.memtable.table.get(internal) or stored)
        if record is None or record[0] & TYPE_MASK <= STRING or 0 < expire_at_of(record) <= self.now_ms:
            return None
        return with_floor(record, self.floors.get(keys.key_slot(internal), keys.key_db(internal)))

    def load_row(self, db: int, key: bytes, *, lasting: bool = True) -> Row | None:
        """The row of a key that is not cached, from the engine, and into the cache; its time may have come.

        Not ``lasting``: a plain string that the memtable in use holds is found there as well, and stays there.
        """
        internal = self.internal(db, key)
        # The row cache has been asked, so nothing is held for the engine.
        record = self._unless_gone(internal, self.engine.get_listed(internal))
        if record is None:
            return None
        if record[0] & DVV:
            return self._load_siblings(db, key, internal, record)
        row = record if record[0] == STRING else self.build_row(internal, record)
        assert row is not None
        if lasting or not isinstance(row, bytes) or internal not in self.engine.memtable.table:
            self.cache.add(db, key, row)
        return row

    def build_row(self, internal: bytes, record: bytes) -> Row | None:
        """The row of a live record; None for siblings of which none is to be seen."""
        if record[0] & DVV:
            return self._build_siblings(internal, record)[0]
        if record[0] & TYPE_MASK == STRING:
            return string_row(record)
        parts = decode(record)
        assert parts.kind == HASH, f"record type {parts.kind} has no row"
        return self._build_hash(internal, parts)

    def container_in(self, internal: bytes, record: bytes | None) -> Container:
        """The siblings in the record of a key, graves included; EMPTY for none, a flushed one and a collection."""
        if record is None or record[0] & TYPE_MASK > STRING:
            return EMPTY
        container = container_of(record)
        if self.floors.highest == ZERO_STAMP:
            return container
        return drop_flushed(container, self.floors.get(keys.key_slot(internal), keys.key_db(internal)))

    def _load_siblings(self, db: int, key: bytes, internal: bytes, record: bytes) -> Row | None:
        row, lasting = self._build_siblings(internal, record)
        if row is None:
            if 0 < expire_at_of(record) <= self.now_ms:
                self.sighted[internal] = None
        elif lasting:
            self.cache.put(db, key, row)
        return row

    def _build_siblings(self, internal: bytes, record: bytes) -> tuple[Row | None, bool]:
        """The row of the one value that a plain reader sees of siblings, None for none, and whether it is seen until
        the record changes or the row expires. It is never a bare record: those are written over unread."""
        container = self.container_in(internal, record)
        visible = container.visible(self.now_ms)
        if not visible:
            return None, False
        value, expire_at_ms, lasting = visible[0].value, visible[0].expire_at_ms, True
        if len(visible) > 1:
            lasting = not any(sibling.expire_at_ms for sibling in visible)
            if self.conflicts is not None:
                slot, key = keys.key_slot(internal), keys.user_key(internal)
                found = self.conflicts.resolve(slot, internal, key, container, record, self.now_ms)
                value, expire_at_ms, lasting = found.value, found.expire_at_ms, lasting and not found.failed
        assert value is not None, "it is visible"
        body = b"$%d\r\n%b\r\n" % (len(value), value)
        return TimedString(encode(STRING, record[1:BODY_AT], body, expire_at_ms)), lasting

    def uncounted_hash(self, internal: bytes, parts: Record) -> HashRow:
        """The row of a hash that does not know yet how many fields it has."""
        return HashRow(
            internal=internal,
            prefix=keys.element_prefix(internal),
            floor=max(parts.body[:10], self.floors.get(keys.key_slot(internal), keys.key_db(internal))),
            expire_at_ms=parts.expire_at_ms,
        )

    def _build_hash(self, internal: bytes, parts: Record) -> HashRow:
        row = self.uncounted_hash(internal, parts)
        counted = self.engine.get_listed(keys.count_key(internal))
        # Above the floor of a flush that the collection has outlived, counts may still be of elements below it.
        outlived = row.floor != parts.body[:10]
        if counted is not None and counted[1:BODY_AT] > row.floor and not outlived:
            number = counted[BODY_AT : BODY_AT + 8]
            if number != DOUBTED_COUNT:
                row.count_stamp = counted[1:BODY_AT]
                if number != UNKNOWN_COUNT:
                    row.count = int.from_bytes(number, "big")
                    return row
            else:
                row.count_stamp = ZERO_STAMP  # No other replica shall take the next one for its successor.
        row.count = sum(1 for _ in self.stored_elements(row))
        row.counted_here = True
        return row

    def held_stamp(self, internal: bytes) -> bytes:
        """What a coordinator says it holds under a key: the stamp of its record, graves included, or of the flush floor
        that hides it; ZERO_STAMP for nothing. May raise ReadMiss."""
        record = self.engine.get(internal)
        stamp = ZERO_STAMP if record is None else token(record)
        if self.floors.highest != ZERO_STAMP:
            floor = self.floors.get(keys.key_slot(internal), keys.key_db(internal))
            if record is None or record[1:BODY_AT] <= floor:
                return floor
        return stamp

    # -- elements ----------------------------------------------------------------------------------

    def element(self, db: int, key: bytes, row: HashRow, field: bytes) -> FieldEntry | None:
        """One element as it physically exists, expired or not; None when it does not."""
        entry = row.fields.get(field)
        if entry is not None or row.complete:
            return entry
        record = self.engine.get_listed(row.prefix + field)
        if record is None or not record[0] & TYPE_MASK or record[1:BODY_AT] <= row.floor:
            return None
        entry = field_entry(record)
        self.keep_field(db, key, row, field, entry)
        return entry

    def keep_field(self, db: int, key: bytes, row: HashRow, field: bytes, entry: FieldEntry) -> None:
        """Remember an element in its row."""
        old = row.fields.get(field)
        row.fields[field] = entry
        delta = field_charge(field, entry) - (field_charge(field, old) if old is not None else 0)
        self.cache.adjust(db, key, row, delta)

    def drop_field(self, db: int, key: bytes, row: HashRow, field: bytes) -> None:
        """Forget an element of a row."""
        old = row.fields.pop(field, None)
        if old is not None:
            self.cache.adjust(db, key, row, -field_charge(field, old))

    def trim(self, db: int, key: bytes, row: HashRow) -> None:
        """Forget the fields of a row that takes more than its share of the cache."""
        if row.charge * TRIM_SHARE > self.cache.capacity:
            before = row.charge
            delta = row.forget_fields()
            row.charge = before  # adjust applies the change itself
            self.cache.adjust(db, key, row, delta)

    def stored_elements(self, row: HashRow, start: bytes = b"") -> Iterator[tuple[bytes, FieldEntry]]:
        """Elements that physically exist from ``start`` on, in order, from the engine. May raise ReadMiss."""
        prefix, size = row.prefix, len(row.prefix)
        for internal, record in self.engine.scan(prefix + start, keys.prefix_end(prefix)):
            if record[0] & TYPE_MASK and record[1:BODY_AT] > row.floor:
                yield internal[size:], field_entry(record)

    def load_fields(self, db: int, key: bytes, row: HashRow) -> None:
        """Make ``row`` complete. An interrupted load (ReadMiss) goes on where it stopped."""
        if row.complete:
            return
        start = b"" if row.loaded_to is None else keys.after(row.loaded_to)
        added = 0
        fields = row.fields
        try:
            for field, entry in self.stored_elements(row, start):
                if field not in fields:
                    fields[field] = entry
                    added += field_charge(field, entry)
                row.loaded_to = field
        finally:
            self.cache.adjust(db, key, row, added)
        row.complete = True
        row.loaded_to = None

    def live_fields(self, db: int, key: bytes, row: HashRow) -> list[tuple[bytes, FieldEntry]]:
        """All elements whose time has not come, in order."""
        self.load_fields(db, key, row)
        now = self.now_ms
        live = []
        for field in sorted(row.fields):
            entry = row.fields[field]
            if type(entry) is bytes or entry[1] > now:
                live.append((field, entry))
            else:
                self.sighted[row.prefix + field] = None
        self.trim(db, key, row)
        return live

    def live_element(self, db: int, key: bytes, row: HashRow, field: bytes) -> FieldEntry | None:
        """One element, None when it is absent or its time has come."""
        entry = self.element(db, key, row, field)
        self.trim(db, key, row)
        if entry is None or type(entry) is bytes:
            return entry
        if field_expiry(entry) <= self.now_ms:
            self.sighted[row.prefix + field] = None
            return None
        return entry

    def stats(self) -> dict[str, int]:
        """Counters for metrics."""
        return {
            "hits": self.hits,
            "misses": self.misses,
            "expired_keys": self.expired_keys,
            **{f"row_cache_{name}": value for name, value in self.cache.stats().items()},
        }


def field_entry(record: bytes) -> FieldEntry:
    """The cached form of an element's live record."""
    if record[0] & HAS_EXPIRY:
        return record[EXPIRING_BODY_AT:], int.from_bytes(record[11:EXPIRING_BODY_AT], "big")
    return record[BODY_AT:]
