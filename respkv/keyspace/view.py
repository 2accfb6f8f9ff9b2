"""Views: what a data command sees of the keyspace.

``View`` reads the keyspace as it is. ``OverlayView`` shows on top of it the effects of earlier commands of the same
transaction that have not been applied yet. Both offer the same reads.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from respkv.base.errors import CommandError
from respkv.base.ids import STRING
from respkv.causality.dvv import Container
from respkv.causality.hlc import ZERO_STAMP, hlc_ms, stamp_hlc
from respkv.causality.record import BODY_AT, TYPE_MASK, encode, stamp_of
from respkv.keyspace import effects as fx
from respkv.keyspace.rows import (
    FieldEntry,
    HashRow,
    Row,
    TimedString,
    field_expiry,
    field_value,
    reply_of_string,
    row_expiry,
    row_kind,
    string_row,
    value_of_string,
)
from respkv.resp.errors import DB_INDEX, WRONG_TYPE
from respkv.resp.reply import bulk

if TYPE_CHECKING:
    from respkv.env.rng import Rng
    from respkv.keyspace.keyspace import Keyspace
    from respkv.keyspace.read_set import ReadSet


class HashView:
    """One hash. Fields whose time has come are absent, but may still be in ``count``."""

    __slots__ = ("_changes", "_db", "_key", "_keyspace", "_row")

    def __init__(
        self,
        keyspace: Keyspace,
        db: int,
        key: bytes,
        row: HashRow | None,
        changes: dict[bytes, FieldEntry | None] | None = None,
    ) -> None:
        self._keyspace = keyspace
        self._db = db
        self._key = key
        self._row = row
        #: pending changes of a transaction: None = removed
        self._changes = changes

    def _entry(self, field: bytes) -> FieldEntry | None:
        if self._changes is not None and field in self._changes:
            entry = self._changes[field]
            if entry is None or type(entry) is bytes or field_expiry(entry) > self._keyspace.now_ms:
                return entry
            return None
        if self._row is None:
            return None
        return self._keyspace.live_element(self._db, self._key, self._row, field)

    def get(self, field: bytes) -> bytes | None:
        """The value of a field."""
        entry = self._entry(field)
        return None if entry is None else field_value(entry)

    def expire_at(self, field: bytes) -> int | None:
        """Absolute expiry of a field in ms, 0 for none; None when it is absent."""
        entry = self._entry(field)
        return None if entry is None else field_expiry(entry)

    def count(self) -> int:
        """The number of fields."""
        count = 0 if self._row is None else self._row.count
        if self._changes:
            for field, entry in self._changes.items():
                before = self._row is not None and (
                    self._keyspace.element(self._db, self._key, self._row, field) is not None
                )
                count += (entry is not None) - before
        return count

    def items(self) -> Iterator[tuple[bytes, bytes, int]]:
        """(field, value, expire_at_ms) of all live fields in field order. O(n)."""
        for field, entry in self._live():
            yield field, field_value(entry), field_expiry(entry)

    def items_after(self, field: bytes | None, limit: int) -> list[tuple[bytes, bytes, int]]:
        """Up to ``limit`` live fields after ``field`` (None: from the first), in field order."""
        found: list[tuple[bytes, bytes, int]] = []
        for name, entry in self._ordered(field):
            found.append((name, field_value(entry), field_expiry(entry)))
            if len(found) == limit:
                break
        return found

    def _ordered(self, after: bytes | None) -> Iterator[tuple[bytes, FieldEntry]]:
        row, changes = self._row, self._changes
        if changes or row is None:
            for field, entry in self._live():
                if after is None or field > after:
                    yield field, entry
            return
        now = self._keyspace.now_ms
        start = b"" if after is None else after + b"\x00"
        for field, entry in self._keyspace.stored_elements(row, start):
            if type(entry) is bytes or field_expiry(entry) > now:
                yield field, entry

    def _live(self) -> list[tuple[bytes, FieldEntry]]:
        keyspace = self._keyspace
        base = [] if self._row is None else keyspace.live_fields(self._db, self._key, self._row)
        if not self._changes:
            return base
        now = keyspace.now_ms
        merged: dict[bytes, FieldEntry | None] = dict(base)
        merged.update(self._changes)
        live: list[tuple[bytes, FieldEntry]] = []
        for field in sorted(merged):
            entry = merged[field]
            if entry is not None and (type(entry) is bytes or field_expiry(entry) > now):
                live.append((field, entry))
        return live


class View:
    """Typed reads of one database at one instant."""

    __slots__ = ("counting", "db", "keyspace", "limit_bytes", "noted", "rng", "slots", "touching")

    def __init__(self, keyspace: Keyspace, db: int, rng: Rng, limit_bytes: int) -> None:
        self.keyspace = keyspace
        #: on a ring: the slots that walks go over, a byte each; None for all
        self.slots: bytes | bytearray | None = None
        #: on a ring: where to note what is read, so that it can be compared with other replicas
        self.noted: ReadSet | None = None
        #: False: to look a key up is no use of it (OBJECT, TTL ..., all that a connection with NO-TOUCH does)
        self.touching = True
        #: look-ups count as hits and misses: those of commands that read
        self.counting = True
        #: the stored database number
        self.db = db
        self.rng = rng
        self.limit_bytes = limit_bytes

    @property
    def now_ms(self) -> int:
        """Wall clock of the cycle."""
        return self.keyspace.now_ms

    @property
    def databases(self) -> int:
        """How many databases there are."""
        return self.keyspace.databases

    def row(self, key: bytes) -> Row | None:
        """The live row of a key; reads count as hits and misses."""
        keyspace = self.keyspace
        rows = keyspace.cache.young.get(self.db)
        if rows is not None:
            row = rows.get(key)
            if isinstance(row, bytes):
                if self.counting:
                    keyspace.hits += 1
                keyspace.cache.hits += 1
                if self.noted is not None:
                    self.noted.note(self.db, key, row)
                return row
        row = keyspace.row(self.db, key)
        if self.noted is not None:
            self.noted.note(self.db, key, row)
        if row is None:
            if self.counting:
                keyspace.misses += 1
        else:
            if self.counting:
                keyspace.hits += 1
            if not isinstance(row, bytes) and self.touching:
                row.used_ms = keyspace.now_ms
        return row

    def quiet(self) -> View:
        """The same view, whose look-ups are no use of the keys."""
        view = View(self.keyspace, self.db, self.rng, self.limit_bytes)
        view.touching, view.counting, view.noted = False, self.counting, self.noted
        return view

    def kind(self, key: bytes) -> int:
        """The key's record type, TOMBSTONE when it is absent."""
        return row_kind(self.row(key))

    def string(self, key: bytes) -> bytes | None:
        """The value of a string key; raises WRONGTYPE for other kinds."""
        row = self.row(key)
        if row is None:
            return None
        if type(row) is HashRow:
            raise CommandError(WRONG_TYPE)
        return value_of_string(row)

    def text(self, key: bytes) -> tuple[bytes | None, int]:
        """(value, absolute expiry in ms) of a string key, (None, 0) when it is absent; raises WRONGTYPE."""
        keyspace = self.keyspace
        if self.noted is not None:
            return self.string(key), self.expire_at(key) or 0
        rows = keyspace.cache.young.get(self.db)
        row = rows.get(key) if rows is not None else None
        if isinstance(row, bytes):
            if self.counting:
                keyspace.hits += 1
            keyspace.cache.hits += 1
            return row[row.index(10, BODY_AT) + 1 : -2], 0
        old = keyspace.cache.old.get(self.db)
        if row is None and not (old and key in old):
            # Counters that are seldom incremented: straight to the engine, and once.
            keyspace.cache.misses += 1
            row = keyspace.load_row(self.db, key, lasting=False)
            if row is None:
                if self.counting:
                    keyspace.misses += 1
                return None, 0
            if isinstance(row, bytes):
                if self.counting:
                    keyspace.hits += 1
                return row[row.index(10, BODY_AT) + 1 : -2], 0
        row = self.row(key)
        if type(row) is bytes:
            return value_of_string(row), 0
        if row is None:
            return None, 0
        if type(row) is HashRow:
            raise CommandError(WRONG_TYPE)
        return value_of_string(row), row_expiry(row)

    def reply(self, key: bytes) -> bytes | None:
        """The value of a string key as a finished bulk reply; raises WRONGTYPE for other kinds."""
        row = self.row(key)
        if isinstance(row, bytes):
            return row[BODY_AT:]
        if row is None:
            return None
        if type(row) is HashRow:
            raise CommandError(WRONG_TYPE)
        return reply_of_string(row)

    def container(self, key: bytes) -> Container:
        """All siblings of a key, graves included, and the clock over them; raises WRONGTYPE for a collection.

        What is pending in a transaction does not show: a view of one has no business with contexts.
        """
        keyspace = self.keyspace
        internal = keyspace.internal(self.db, key)
        if self.noted is not None:
            self.noted.note(self.db, key, None)
        record = keyspace.engine.get(internal)
        if record is not None and record[0] & TYPE_MASK > STRING and type(keyspace.row(self.db, key)) is HashRow:
            raise CommandError(WRONG_TYPE)
        return keyspace.container_in(internal, record)

    def expire_at(self, key: bytes) -> int | None:
        """Absolute expiry in ms, 0 for none; None when the key is absent."""
        row = self.row(key)
        return None if row is None else row_expiry(row)

    def hash(self, key: bytes) -> HashView | None:
        """The hash at ``key``; raises WRONGTYPE for other kinds."""
        row = self.row(key)
        if row is None:
            return None
        if type(row) is not HashRow:
            raise CommandError(WRONG_TYPE)
        if self.noted is not None:
            return self.noted.hash_view(self.db, key, row)
        return HashView(self.keyspace, self.db, key, row)

    def other(self, logical_db: int) -> View:
        """The same instant of another database; raises the error of a bad index."""
        if not 0 <= logical_db < self.keyspace.databases:
            raise CommandError(DB_INDEX)
        view = View(self.keyspace, self.keyspace.stored[logical_db], self.rng, self.limit_bytes)
        view.touching, view.counting, view.noted = self.touching, self.counting, self.noted
        return view

    def stamp_ms(self, key: bytes) -> int | None:
        """When the key's record was written (wall ms of its stamp); None when it is absent."""
        if self.quiet().row(key) is None:
            return None
        record = self.keyspace.record(self.keyspace.internal(self.db, key))
        return None if record is None else hlc_ms(stamp_hlc(stamp_of(record)))

    def last_access_ms(self, key: bytes) -> int | None:
        """When the key was last used, as far as that is known, else when it was written; None when it is absent.

        Uses of a string without expiry are noted from the first question on: until then GET takes no time for it.
        """
        written_ms = self.stamp_ms(key)
        if written_ms is None:
            return None
        cache = self.keyspace.cache
        row: Row | None = cache.peek(self.db, key)
        if type(row) is bytes:
            if self.keyspace.engine.held is not None:  # The cache may have no room for the larger row.
                self.keyspace.engine.memtable.table[self.keyspace.internal(self.db, key)] = row
            cache.replace(self.db, key, TimedString(row))
        return max(written_ms, getattr(row, "used_ms", 0))

    def memory(self, key: bytes) -> int | None:
        """Bytes the key takes in memory when it is cached, overheads included; None when it is absent."""
        row = self.row(key)
        if row is None:
            return None
        if type(row) is bytes:
            return len(key) + len(row) + 130
        if type(row) is HashRow:
            return len(key) + row.charge + 130 if row.complete else len(key) + 700 + 200 * row.count
        return len(key) + row.charge + 130  # type: ignore[union-attr]


class OverlayView(View):
    """A view that also shows effects not applied yet: the inside of a transaction.

    ``pending`` is shared by the views of all databases of one transaction.
    """

    __slots__ = ("pending",)

    def __init__(
        self, keyspace: Keyspace, db: int, rng: Rng, limit_bytes: int, pending: PendingState | None = None
    ) -> None:
        super().__init__(keyspace, db, rng, limit_bytes)
        self.pending = PendingState() if pending is None else pending

    def row(self, key: bytes) -> Row | None:
        """The row with the pending effects on it. For a hash with pending elements see ``hash``."""
        state = self.pending
        if (self.db, key) in state.rows:
            row = state.rows[self.db, key]
            expire_at_ms = 0 if row is None else row_expiry(row)
            return None if expire_at_ms and expire_at_ms <= self.now_ms else row
        if self.db in state.flushed:
            return None
        return super().row(key)

    def quiet(self) -> View:
        """The same view, whose look-ups are no use of the keys."""
        view = OverlayView(self.keyspace, self.db, self.rng, self.limit_bytes, self.pending)
        view.touching, view.counting, view.noted = False, self.counting, self.noted
        return view

    def last_access_ms(self, key: bytes) -> int | None:
        """As in ``View``; what is pending is used now."""
        if (self.db, key) in self.pending.rows or self.db in self.pending.flushed:
            return self.stamp_ms(key)
        return super().last_access_ms(key)

    def text(self, key: bytes) -> tuple[bytes | None, int]:
        """As in ``View``, which looks into the cache by itself: here the pending effects come first."""
        return self.string(key), self.expire_at(key) or 0

    def hash(self, key: bytes) -> HashView | None:
        """The hash with pending elements on it."""
        row = self.row(key)
        if row is None:
            return None
        if type(row) is not HashRow:
            raise CommandError(WRONG_TYPE)
        base, changes = self.pending.hashes.get((self.db, key), (row, None))
        if self.noted is not None:
            return self.noted.hash_view(self.db, key, base, changes)
        return HashView(self.keyspace, self.db, key, base, changes)

    def other(self, logical_db: int) -> View:
        """Another database inside the same transaction."""
        if not 0 <= logical_db < self.keyspace.databases:
            raise CommandError(DB_INDEX)
        number = self.pending.stored_number(self.keyspace, logical_db)
        view = OverlayView(self.keyspace, number, self.rng, self.limit_bytes, self.pending)
        view.touching, view.counting, view.noted = self.touching, self.counting, self.noted
        return view

    def stamp_ms(self, key: bytes) -> int | None:
        """As in ``View``; what is pending is written now."""
        if (self.db, key) in self.pending.rows or self.db in self.pending.flushed:
            return self.now_ms if self.row(key) is not None else None
        return super().stamp_ms(key)

    def absorb(self, effects: fx.Effects) -> None:
        """Show ``effects`` from now on."""
        for effect in effects:
            self._absorb(effect)

    def _absorb(self, effect: fx.Effect) -> None:
        state, operation, db = self.pending, effect[0], effect[1]
        if operation == fx.FLUSH:
            state.flush(db)
            return
        if operation == fx.SWAP:
            state.swap(self.keyspace, db, effect[3])
            return
        key = effect[2]
        view = self if db == self.db else OverlayView(self.keyspace, db, self.rng, self.limit_bytes, state)
        if operation == fx.PUT:
            state.rows[db, key] = _pending_string(effect[3], effect[4])
            state.hashes.pop((db, key), None)
        elif operation == fx.DELETE:
            state.rows[db, key] = None
            state.hashes.pop((db, key), None)
        elif operation == fx.EXPIRE:
            row = view.row(key)
            if row is not None:
                if type(row) is HashRow and (db, key) not in state.hashes:
                    state.hashes[db, key] = (row, {})
                state.rows[db, key] = _with_expiry(row, effect[3])
        else:
            self._absorb_element(view, effect)

    def _absorb_element(self, view: View, effect: fx.Effect) -> None:
        state, db, key = self.pending, effect[1], effect[2]
        row = view.row(key)
        if type(row) is not HashRow:
            row = HashRow(internal=b"", prefix=b"", floor=b"", expire_at_ms=0)
            state.hashes[db, key] = (None, {})
        base, changes = state.hashes.setdefault((db, key), (row, {}))
        if effect[0] == fx.PUT_ELEMENT:
            value, expire_at_ms = effect[5], effect[6]
            changes[effect[4]] = (value, expire_at_ms) if expire_at_ms else value
        else:
            changes[effect[3]] = None
        state.rows[db, key] = row
        if HashView(self.keyspace, db, key, base, changes).count() == 0:
            state.rows[db, key] = None
            del state.hashes[db, key]


class PendingState:
    """What a transaction has changed so far."""

    __slots__ = ("flushed", "hashes", "rows", "stored")

    def __init__(self) -> None:
        self.rows: dict[tuple[int, bytes], Row | None] = {}
        self.hashes: dict[tuple[int, bytes], tuple[HashRow | None, dict[bytes, FieldEntry | None]]] = {}
        self.flushed: dict[int, None] = {}
        self.stored: list[int] | None = None

    def flush(self, db: int) -> None:
        """Everything in a stored database is gone."""
        self.flushed[db] = None
        for place in [place for place in self.rows if place[0] == db]:
            del self.rows[place]
        for place in [place for place in self.hashes if place[0] == db]:
            del self.hashes[place]

    def swap(self, keyspace: Keyspace, left: int, right: int) -> None:
        """Two logical databases change places."""
        if self.stored is None:
            self.stored = list(keyspace.stored)
        self.stored[left], self.stored[right] = self.stored[right], self.stored[left]

    def stored_number(self, keyspace: Keyspace, logical_db: int) -> int:
        """The stored number behind a logical one."""
        return (self.stored or keyspace.stored)[logical_db]


def _pending_string(value: bytes, expire_at_ms: int) -> Row:
    """The row of a string that is not written yet and has no stamp."""
    return string_row(encode(STRING, ZERO_STAMP, bulk(value), expire_at_ms))


def _with_expiry(row: Row, expire_at_ms: int) -> Row:
    if type(row) is HashRow:
        copy = HashRow(internal=row.internal, prefix=row.prefix, floor=row.floor, expire_at_ms=expire_at_ms)
        copy.count, copy.count_stamp = row.count, row.count_stamp
        return copy
    return _pending_string(value_of_string(row), expire_at_ms)


