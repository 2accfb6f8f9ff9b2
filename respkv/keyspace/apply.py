"""Apply: the only way to write. Effects become records, log entries, rows, counts and index entries.

``apply`` first reads whatever the effects need to know (this may raise ``ReadMiss``; nothing has changed then),
and only then changes anything. Every record gets a stamp of its own, in the order of the effects.

The hot path of the dispatcher writes plain SETs itself, ending in the same primitives: ``put_record`` is their
reference.
"""

from __future__ import annotations

from binascii import crc_hqx
from collections.abc import Callable, Container
from typing import Any, Final

from respkv.base.errors import CommandError
from respkv.base.ids import HASH, STRING
from respkv.base.limits import KEY_BYTES_MAX, RECORD_BYTES_MAX
from respkv.base.slots import SLOT_COUNT, hash_tag
from respkv.causality import siblings
from respkv.causality.hlc import ZERO_STAMP, pack_stamp
from respkv.causality.record import (
    BODY_AT,
    DVV,
    HAS_EXPIRY,
    TYPE_MASK,
    encode,
    expired_form,
    floor_of,
    pack_string_head,
    tombstone,
    with_expiry,
)
from respkv.keyspace import effects as fx
from respkv.keyspace import keys
from respkv.keyspace.conflicts import WRITES
from respkv.keyspace.counts import DEAD, EXPIRING, LIVE
from respkv.keyspace.everything import EVERYTHING
from respkv.keyspace.keyspace import DOUBTED_COUNT, UNKNOWN_COUNT, Keyspace
from respkv.keyspace.rows import (
    FieldEntry,
    HashRow,
    Row,
    field_charge,
    field_expiry,
    reply_of_string,
    row_expiry,
    string_row,
)
from respkv.keyspace.sibling_writes import SiblingWrites
from respkv.resp.errors import DISK_FULL, KEY_TOO_LONG, TOO_MUCH_AT_ONCE
from respkv.resp.reply import BULK_HEADS
from respkv.storage.write_batch import pack_lengths

#: What the effects of one command must be long for before anybody asks for the log's room. It always takes less.
LARGE_BYTES: Final = 1 << 20
_COLLECTIONS: Final = frozenset({HASH})


class Plan:
    """What the effects of one command need to know of the old state, kept alive until they are done."""

    __slots__ = ("absent", "begun", "records", "rows")

    def __init__(self) -> None:
        #: collections that begin with these effects
        self.begun: dict[tuple[int, bytes], None] = {}
        self.rows: dict[tuple[int, bytes], Row | None] = {}
        self.records: dict[bytes, bytes | None] = {}
        self.absent: dict[bytes, None] = {}


class Applier:
    """Writes effects to one keyspace.

    ``on_expired`` is called with (stored db, key, field or None for the key itself, whether the key is gone) when an
    expired form was put. ``compared`` holds the prefixes of the elements of which all are known: a collection of those
    that a request empties is deleted. On a ring they are those that the request has compared; what else is emptied
    stays as a husk.
    """

    __slots__ = ("_siblings", "compared", "keyspace", "on_expired")

    def __init__(self, keyspace: Keyspace) -> None:
        self.keyspace = keyspace
        self.compared: Container[bytes] = EVERYTHING
        self.on_expired: Callable[[int, bytes, bytes | None, bool], None] | None = None
        self._siblings: Any = None

    def apply(self, effects: fx.Effects) -> None:
        """Apply all effects of one command or transaction."""
        if not effects:
            return
        operation = effects[0][0]
        conflicts = self.keyspace.conflicts
        if conflicts is not None and conflicts.concerns(effects):
            pass
        elif len(effects) == 1:
            if operation == fx.PUT and len(effects[0][2]) <= KEY_BYTES_MAX:
                self._put_strings(effects)
                return
            if operation == fx.PUT_ELEMENT and self._put_one_element(effects[0]):
                return
        elif operation == fx.PUT:
            size = 0
            for effect in effects:
                if effect[0] != fx.PUT or len(effect[2]) > KEY_BYTES_MAX:
                    break
                size += len(effect[2]) + len(effect[3])
            else:
                self._make_room(size)
                self._put_strings(effects, sure=True)
                return
        plan = self.prepare(effects)
        counted: dict[tuple[int, bytes], HashRow] = {}
        for effect in effects:
            operation = effect[0]
            if conflicts is not None and self._written_as_siblings(effect, plan):
                counted.pop((effect[1], effect[2]), None)
            elif operation == fx.PUT:
                counted.pop((effect[1], effect[2]), None)
                self._put_strings((effect,), sure=True)
                plan.rows[effect[1], effect[2]] = self._written_string(effect[1], effect[2])
            elif operation == fx.PUT_ELEMENT:
                self._put_element(effect, plan, counted)
            elif operation == fx.REMOVE_ELEMENT:
                self._remove_element(effect, plan, counted)
            elif operation == fx.DELETE:
                counted.pop((effect[1], effect[2]), None)
                self._delete(effect[1], effect[2], plan)
            elif operation == fx.EXPIRE:
                self._expire(effect[1], effect[2], effect[3], plan)
            elif operation == fx.FLUSH:
                self.flush_database(effect[1])
                for place in plan.rows:
                    if place[0] == effect[1]:
                        plan.rows[place] = None
                counted = {place: row for place, row in counted.items() if place[0] != effect[1]}
            else:
                self.swap_databases(effect[1], effect[3])
        for (db, key), row in counted.items():
            if self.keyspace.watermark is not None and (db, key) in plan.begun and row.count > 0:
                self._forget(db, key, row)
            else:
                self.write_count(row)
        for (db, key), known in plan.rows.items():
            if type(known) is HashRow:
                self.keyspace.trim(db, key, known)

    # -- reading what must be known ----------------------------------------------------------------

    def prepare(self, effects: fx.Effects) -> Plan:
        """Read what ``effects`` need to know, changing nothing. ReadMiss; CommandError: too long keys, no room."""
        keyspace, conflicts = self.keyspace, self.keyspace.conflicts
        plan = Plan()
        removed: dict[bytes, int] = {}
        for effect in effects:
            operation, db, key = effect[0], effect[1], effect[2]
            kept = conflicts is not None and operation in WRITES and conflicts.keeps(key)
            if kept:
                self.siblings().read(effect, plan)
            if operation in (fx.PUT, fx.FLUSH, fx.SWAP, fx.SUPERSEDE):
                continue
            if (db, key) in plan.rows:
                row = plan.rows[db, key]
            else:
                row = plan.rows[db, key] = keyspace.row(db, key)
            begins = operation == fx.PUT_ELEMENT and type(row) is not HashRow and keyspace.watermark is not None
            if begins or (operation == fx.EXPIRE and not kept):
                internal = keyspace.internal(db, key)
                plan.records[internal] = keyspace.engine.get(internal)
            elif operation in (fx.PUT_ELEMENT, fx.REMOVE_ELEMENT) and type(row) is HashRow:
                field = effect[4] if operation == fx.PUT_ELEMENT else effect[3]
                if keyspace.element(db, key, row, field) is None and not row.complete:
                    plan.absent[row.prefix + field] = None
                if operation == fx.REMOVE_ELEMENT and keyspace.husks is not None:
                    removed[row.prefix] = removed.get(row.prefix, 0) + 1
                    if removed[row.prefix] == row.count:
                        # It may be deleted, and the count may have missed what others wrote.
                        row.count = sum(1 for _ in keyspace.stored_elements(row))
        size = fx.log_bytes(effects) + sum(len(record or b"") for record in plan.records.values())
        if size > KEY_BYTES_MAX and fx.has_long_key(effects):
            raise CommandError(KEY_TOO_LONG)
        self._make_room(size)
        return plan

    def _make_room(self, size: int) -> None:
        """Before anything has changed: CommandError when a record of the log, or the disk, has no room for so much."""
        if size > RECORD_BYTES_MAX or not self.has_room(size):
            raise CommandError(TOO_MUCH_AT_ONCE if size > RECORD_BYTES_MAX else DISK_FULL)

    def has_room(self, size: int) -> bool:
        """Whether the disk has room for ``size`` bytes of log. What is not large has, unless the disk is full."""
        engine = self.keyspace.engine
        return (size < LARGE_BYTES and (not size or engine.refusal() is None)) or engine.reserve(size)

    # -- keys whose concurrent writes are kept -----------------------------------------------------

    def siblings(self) -> Any:
        """The writer of such keys; there are some."""
        if self._siblings is None:
            self._siblings = SiblingWrites(self, self.keyspace.conflicts)
        return self._siblings

    def _written_as_siblings(self, effect: fx.Effect, plan: Plan) -> bool:
        """Whether an effect was one of such a key, and is done."""
        kept = effect[0] in WRITES and self.keyspace.conflicts.keeps(effect[2])
        return bool(kept and self.siblings().write(effect, plan))

    def write_back(self) -> None:
        """Write the values that merges have made of siblings, where this node is the one to do it."""
        conflicts = self.keyspace.conflicts
        if conflicts is not None and conflicts.merged:
            self.siblings().write_back(Plan())

    # -- strings and whole keys --------------------------------------------------------------------

    def _put_strings(self, effects: fx.Effects, *, sure: bool = False) -> None:  # HOT: mset
        """Strings, blind; one only if not ``sure`` of the log's room. ``put_record`` and the row's change inline."""
        keyspace = self.keyspace
        clock, cache, engine = keyspace.clock, keyspace.cache, keyspace.engine
        memtable, batch, counts = engine.memtable, engine.batch, keyspace.counts
        table, deferred, defers = memtable.table, memtable.deferred, engine.held is not None
        node, last, highest = clock.node, clock.last, keyspace.floors.highest
        grown, last_db, colocation = 0, -1, keyspace.colocation
        # Compiled, a name of the module is looked up each time it is used.
        heads, pack_head, pack, crc = BULK_HEADS, pack_string_head, pack_lengths, crc_hqx
        for effect in effects:
            db: int = effect[1]
            key: bytes = effect[2]
            value: bytes = effect[3]
            expire_at_ms: int = effect[4]
            if db != last_db:
                last_db = db
                prefixes, rows, old_rows = keyspace.prefixes(db), cache.rows(db), cache.old.get(db)
            if colocation is None:
                at = (crc(hash_tag(key) if 123 in key else key, 0) & 16383) * keys.RECORD_KEY_AT
                internal = prefixes[at : at + keys.RECORD_KEY_AT] + key
            else:
                internal = keyspace.internal(db, key)
            last += 1
            row = rows.get(key)
            size = len(value)
            if size < 4096:
                head = heads[size]
            else:
                head = b"$%d\r\n" % size
                if size >= LARGE_BYTES and not sure:
                    self._make_room(size)
            if not expire_at_ms:
                record = b"".join((pack_head(1, last, node), head, value, b"\r\n"))
            if isinstance(row, bytes) and not expire_at_ms:
                # A plain string over a plain string: no count changes, and the row changes in place.
                rows[key] = record
                grown += len(record) - len(row)
                if defers:
                    deferred.append(internal)
                else:
                    table[internal] = record
            else:
                old = table.get(internal)
                if old is not None and (expire_at_ms or old[0] != STRING or old[1:BODY_AT] <= highest):
                    counts.replaced(internal, old, EXPIRING if expire_at_ms else LIVE)
                if expire_at_ms:
                    record = encode(STRING, pack_stamp(last, node), b"%b%b\r\n" % (head, value), expire_at_ms)
                    self.index_expiry(expire_at_ms, internal)
                if row is not None or old_rows:
                    cache.replace(db, key, string_row(record))
                    rows, old_rows = cache.rows(db), cache.old.get(db)
                table[internal] = record
            batch += (pack(len(record), len(internal)), internal, record)
            if keyspace.watching:
                self._touch(db, key)
        clock.last = last
        if grown:
            cache.grow(grown)

    def _written_string(self, db: int, key: bytes) -> Row:
        """The row of a string that was put a moment ago."""
        row = self.keyspace.cache.peek(db, key)
        if isinstance(row, bytes):
            return row
        return string_row(self.keyspace.engine.memtable.table[self.keyspace.internal(db, key)])

    def put_record(self, internal: bytes, record: bytes) -> None:
        """A live record into log, memtable, expiry index and counts, the old state unknown."""
        keyspace = self.keyspace
        engine = keyspace.engine
        if keyspace.husks is not None and internal in keyspace.husks:
            keyspace.husks.discard(internal)
            keyspace.husks.suspect(internal)
        old = engine.memtable.table.get(internal)
        if old is not None:
            keyspace.counts.replaced(internal, old, EXPIRING if record[0] & HAS_EXPIRY else LIVE)
        engine.put(internal, record)
        if record[0] & HAS_EXPIRY:
            self.index_expiry(int.from_bytes(record[11:19], "big"), internal)

    def index_expiry(self, expire_at_ms: int, internal: bytes) -> None:
        """See to it that a record's or element's time is noticed."""
        keyspace = self.keyspace
        keyspace.engine.put_derived(keys.expiry_key(expire_at_ms, internal), b"")
        if expire_at_ms <= keyspace.expired_through_ms:
            keyspace.sighted[internal] = None  # the duty has passed that time and will not look back

    def _delete(self, db: int, key: bytes, plan: Plan) -> None:
        keyspace = self.keyspace
        row = plan.rows.get((db, key))
        if row is None:
            return
        internal = keyspace.internal(db, key)
        self._bury(internal, tombstone(keyspace.stamp()), EXPIRING if row_expiry(row) else LIVE)
        keyspace.cache.drop(db, key)
        plan.rows[db, key] = None
        if keyspace.watching:
            self._touch(db, key)

    def _bury(self, internal: bytes, record: bytes, old: int) -> None:
        """A tombstone over a key known to be live or expiring."""
        self.keyspace.counts.note(internal, old, DEAD)
        if self.keyspace.husks is not None:
            self.keyspace.husks.discard(internal)
        self.keyspace.engine.put(internal, record)

    def bury(self, internal: bytes, stamp: bytes) -> bool:
        """A tombstone over a husk, under the stamp of the time when comparing its elements began; False where the key
        has another record by now. May raise ReadMiss."""
        keyspace = self.keyspace
        record = keyspace.empty_collection(internal, keyspace.engine.get(internal))
        if record is None or record[1:BODY_AT] >= stamp:
            return False
        self._bury(internal, tombstone(stamp), EXPIRING if record[0] & HAS_EXPIRY else LIVE)
        keyspace.cache.drop(keys.key_db(internal), keys.user_key(internal))
        return True

    def _expire(self, db: int, key: bytes, expire_at_ms: int, plan: Plan) -> None:
        keyspace = self.keyspace
        row = plan.rows.get((db, key))
        if row is None:
            return
        internal = keyspace.internal(db, key)
        record = keyspace.engine.memtable.table.get(internal) or plan.records[internal]
        if type(row) is bytes:
            record = row  # The table may be behind.
        assert record is not None and record[0] & TYPE_MASK, "an existing key has a record"
        if record[0] & DVV:  # Of a time when its siblings were kept: what is seen of it stays.
            record = encode(STRING, record[1:BODY_AT], reply_of_string(row))
        record = with_expiry(record, keyspace.stamp(), expire_at_ms)
        self.put_record(internal, record)
        if type(row) is HashRow:
            row.expire_at_ms = expire_at_ms
        else:
            new = string_row(record)
            keyspace.cache.replace(db, key, new)
            plan.rows[db, key] = new
        if keyspace.watching:
            self._touch(db, key)

    # -- collections -------------------------------------------------------------------------------

    def _put_element(self, effect: fx.Effect, plan: Plan, counted: dict[tuple[int, bytes], HashRow]) -> None:
        _, db, key, kind, field, value, expire_at_ms = effect
        assert kind in _COLLECTIONS
        keyspace = self.keyspace
        row = plan.rows.get((db, key))
        if type(row) is not HashRow:
            row = plan.rows[db, key] = self._create(db, key, kind, plan)
        old = self._known_element(row, field, plan)
        internal = row.prefix + field
        record = encode(STRING, keyspace.stamp(), value, expire_at_ms)
        keyspace.engine.put(internal, record)
        if keyspace.survivors is not None:
            keyspace.survivors.note(internal, keyspace.clock.last)
        if keyspace.husks is not None:
            keyspace.husks.discard(row.internal)
        if expire_at_ms:
            self.index_expiry(expire_at_ms, internal)
        plan.absent.pop(internal, None)
        keyspace.keep_field(db, key, row, field, (value, expire_at_ms) if expire_at_ms else value)
        if old is None:
            row.count += 1
            counted[db, key] = row
        if keyspace.watching:
            self._touch(db, key)

    def _put_one_element(self, effect: fx.Effect) -> bool:  # HOT: hset
        """One element without expiry into a hash that exists: ``_put_element`` without a plan. False: not that case.
        May raise ReadMiss before anything has changed."""
        _, db, key, _, field, value, expire_at_ms = effect
        keyspace = self.keyspace
        row = keyspace.row(db, key)
        if not isinstance(row, HashRow) or expire_at_ms or len(key) + len(field) > KEY_BYTES_MAX:
            return False
        old = row.fields.get(field)
        if old is None and not row.complete:
            old = keyspace.element(db, key, row, field)
        clock, engine = keyspace.clock, keyspace.engine
        clock.last += 1
        internal = row.prefix + field
        record = pack_string_head(1, clock.last, clock.node) + value
        if (size := len(record)) >= LARGE_BYTES:
            self._make_room(size)
        engine.memtable.table[internal] = record
        engine.batch += (pack_lengths(size, len(internal)), internal, record)
        if keyspace.survivors is not None:
            keyspace.survivors.note(internal, clock.last)
        row.fields[field] = value
        if isinstance(old, bytes):
            if len(old) != len(value):
                keyspace.cache.adjust(db, key, row, len(value) - len(old))
        else:
            before = field_charge(field, old) if old is not None else 0
            keyspace.cache.adjust(db, key, row, field_charge(field, value) - before)
        if old is None:
            row.count += 1
            self.write_count(row)
        if keyspace.watching:
            self._touch(db, key)
        keyspace.trim(db, key, row)
        return True

    def _remove_element(self, effect: fx.Effect, plan: Plan, counted: dict[tuple[int, bytes], HashRow]) -> None:
        _, db, key, field = effect
        keyspace = self.keyspace
        row = plan.rows.get((db, key))
        if type(row) is not HashRow or self._known_element(row, field, plan) is None:
            return
        keyspace.engine.put(row.prefix + field, tombstone(keyspace.stamp()))
        keyspace.drop_field(db, key, row, field)
        if not row.complete:
            plan.absent[row.prefix + field] = None
        row.count -= 1
        if row.count <= 0 and row.prefix in self.compared:
            counted.pop((db, key), None)
            self._delete(db, key, plan)
        else:
            counted[db, key] = row
            if keyspace.watching:
                self._touch(db, key)

    def _known_element(self, row: HashRow, field: bytes, plan: Plan) -> FieldEntry | None:
        entry = row.fields.get(field)
        assert entry is not None or row.complete or row.prefix + field in plan.absent, "the plan read it"
        return entry

    def _create(self, db: int, key: bytes, kind: int, plan: Plan) -> HashRow:
        """An empty collection. Its floor lies above everything the key ever held, so that nothing old shows.

        A husk is taken up again as it is, but for an expiry: others may hold elements of it.
        """
        keyspace = self.keyspace
        internal = keyspace.internal(db, key)
        old = keyspace.empty_collection(internal, plan.records.get(internal))
        floor = self._new_floor(internal, plan) if old is None else floor_of(old)
        if old is None or old[0] & HAS_EXPIRY:
            self.put_record(internal, encode(kind, keyspace.stamp(), floor))
        row = HashRow(internal=internal, prefix=keys.element_prefix(internal), floor=floor, expire_at_ms=0)
        row.complete = True
        plan.begun[db, key] = None
        keyspace.cache.put(db, key, row)
        return row

    def _forget(self, db: int, key: bytes, row: HashRow) -> None:
        """Have a collection read anew that has begun on a ring: its floor may lie below elements that were there."""
        self.keyspace.cache.drop(db, key)
        count = encode(STRING, self.keyspace.stamp(), UNKNOWN_COUNT + row.count_stamp)
        self.keyspace.engine.put(keys.count_key(row.internal), count)

    def recount(self, owner: bytes) -> None:
        """How many elements there are is not what the count says."""
        count = encode(STRING, self.keyspace.stamp(), DOUBTED_COUNT + ZERO_STAMP)
        self.keyspace.engine.put(keys.count_key(owner), count)

    def _new_floor(self, internal: bytes, plan: Plan) -> bytes:
        """The floor of a collection that begins. On a single node: now.

        On a ring two sides of a partition may begin the same collection, and neither may hide the other's elements: the
        floor is that of the deletion it follows, or what has been flushed or purged. After a string or an expiry it is
        now all the same: what expired may hold elements newer than its own stamp. It never lies above now: it would
        hide the elements that the collection begins with.
        """
        keyspace = self.keyspace
        old = keyspace.engine.memtable.table.get(internal) or plan.records.get(internal)
        if keyspace.watermark is None or (old is not None and old[0] & (TYPE_MASK | HAS_EXPIRY)):
            return keyspace.stamp()
        slot, db = keys.key_slot(internal), keys.key_db(internal)
        deleted = ZERO_STAMP if old is None else old[1:BODY_AT]
        return min(keyspace.stamp(), max(deleted, keyspace.floors.get(slot, db), keyspace.watermark(slot)))

    def write_count(self, row: HashRow, stamp: bytes = b"") -> None:
        """Log how many elements a collection has; under ``stamp``, if one was taken when that changed."""
        keyspace, stamp = self.keyspace, stamp or self.keyspace.stamp()
        body = max(row.count, 0).to_bytes(8, "big") + row.count_stamp
        if row.count <= 0 and keyspace.husks is not None:
            keyspace.husks.suspect(row.internal)
        keyspace.engine.put(keys.count_key(row.internal), encode(STRING, stamp, body))
        row.count_stamp = stamp

    # -- expiry ------------------------------------------------------------------------------------

    def expire_now(self, internal: bytes) -> bool:
        """Put the expired form of a record or element whose time has come. May raise ReadMiss.

        True when it was there and its time has come; the caller counts it.
        """
        if internal[0] == keys.SPACE_ELEMENT:
            return self._expire_element(internal)
        keyspace = self.keyspace
        record = keyspace.record(internal)
        if record is None:
            return False
        db, key = keys.key_db(internal), keys.user_key(internal)
        if not record[0] & HAS_EXPIRY or int.from_bytes(record[11:19], "big") > keyspace.now_ms:
            if record[0] & TYPE_MASK in _COLLECTIONS and keyspace.husks is not None:
                keyspace.husks.look(internal, record)
            return False
        expired = siblings.expired_form(record, keyspace.now_ms) if record[0] & DVV else expired_form(record)
        survivors = keyspace.survivors if record[0] & TYPE_MASK in _COLLECTIONS else None
        if survivors is not None and (survivor := survivors.find(internal, expired)):
            self.put_record(internal, survivors.owner(internal, expired, survivor))
            self.recount(internal)
        else:
            self._bury(internal, expired, EXPIRING)
        keyspace.cache.drop(db, key)
        keyspace.expired_keys += 1
        if keyspace.watching:
            self._touch(db, key)
        if self.on_expired is not None:
            self.on_expired(db, key, None, True)
        return True

    def _expire_element(self, internal: bytes) -> bool:
        keyspace = self.keyspace
        owner, field = keys.element_owner(internal)
        db, key = keys.key_db(owner), keys.user_key(owner)
        row = keyspace.row(db, key)
        if type(row) is not HashRow:
            return False
        entry = keyspace.element(db, key, row, field)
        if entry is None or not field_expiry(entry) or field_expiry(entry) > keyspace.now_ms:
            return False
        record = keyspace.engine.get(internal)
        assert record is not None and record[0] & HAS_EXPIRY, "the element was read from it"
        # The same form at every replica, whenever each comes to it.
        keyspace.engine.put(internal, expired_form(record))
        keyspace.drop_field(db, key, row, field)
        row.count -= 1
        if row.count <= 0 and keyspace.husks is None:
            plan = Plan()
            plan.rows[db, key] = row
            self._delete(db, key, plan)
        else:
            self.write_count(row)
            if keyspace.watching:
                self._touch(db, key)
        if self.on_expired is not None:
            self.on_expired(db, key, field, row.count <= 0)
        return True

    # -- databases ---------------------------------------------------------------------------------

    def flush_database(self, db: int) -> bytes:
        """Everything in a stored database is gone; the stamp of its new floor. O(cached rows of it)."""
        stamp = self.keyspace.stamp()
        self.raise_floor(db, 0, SLOT_COUNT - 1, stamp)
        return stamp

    def raise_floor(self, db: int, first: int, last: int, stamp: bytes) -> None:
        """What lies at or below ``stamp`` in some slots of a stored database is gone. O(cached rows of it)."""
        keyspace = self.keyspace
        if all(keyspace.floors.get(slot, db) >= stamp for slot in range(first, last + 1)):
            return
        if keyspace.watching:
            self._touch(db, None)
        newest, whole = int.from_bytes(stamp[:8], "big") >= keyspace.clock.last, (first, last) == (0, SLOT_COUNT - 1)
        keyspace.floors.raise_to(db, first, last, stamp)
        if keyspace.husks is not None:
            keyspace.husks.flushed(db, first, last)
        keyspace.write_floor(db)
        keyspace.cache.clear(db)
        if newest and whole:
            keyspace.counts.flushed(db)
        else:
            # The flush of another node: what has been written here meanwhile is seldom in a table yet.
            runs_dead = whole and keyspace.engine.highest_table_stamp() <= stamp
            keyspace.counts.partly_flushed(db, runs_dead=runs_dead)

    def swap_databases(self, left: int, right: int) -> None:
        """Exchange two logical databases."""
        keyspace = self.keyspace
        stored = keyspace.stored
        if keyspace.swapped is not None:
            keyspace.swapped(stored[left], stored[right])
        stored[left], stored[right] = stored[right], stored[left]
        keyspace.write_databases()

    def _touch(self, db: int, key: bytes | None) -> None:
        touched = self.keyspace.touched
        if touched is not None:
            touched(db, key)
