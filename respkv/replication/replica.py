"""Replica: what a node does for coordinators, to records it owns a copy of.

``apply`` merges the records of a ``Writes`` message (last write wins by stamp; containers of siblings join), ``read``
says what differs from a coordinator's stamps, ``read_range`` compares a range of elements, ``flush`` raises floors. All
of it is pure over the keyspace: what it writes is in the log with this cycle, so an ack sent after the commit is true.

* A record that loses against what is held still counts as taken (Dynamo, SOSP 2007, 4.6).
* *Blind apply*: a record newer than every flushed run can only be beaten by a memtable entry, so nothing is read from
  disk for it. All others read first and may raise ``ReadMiss``; nothing has changed then, and the same call is made
  again when the block is there.
* A payload is looked through before anything of it is applied: garbage is a ``ProtocolError`` and changes nothing.
* What the log has no room for is refused as a whole, as clients' writes are: hints or anti-entropy bring it again.
* What lies at or below a flush floor is dropped; what is older than the purge watermark and unknown here is refused.
* An element that is newer than its owner's grave revives the owner, whichever of the two comes first
  (``keyspace/survivors``).
* An element count is right only where it follows the count before it; else it is noted as unknown and the next reader
  counts anew.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple, Protocol

from xxhash import xxh3_64_intdigest

from respkv.base.errors import CorruptionError, ProtocolError, StorageFull
from respkv.base.ids import STRING
from respkv.causality import siblings
from respkv.causality.hlc import ZERO_STAMP, ClockSkewError
from respkv.causality.record import (
    BODY_AT,
    DVV,
    HAS_EXPIRY,
    STRONG,
    TYPE_MASK,
    floor_of,
    newer,
    tombstone,
    with_floor,
)
from respkv.keyspace import keys
from respkv.keyspace.apply import LARGE_BYTES, Applier
from respkv.keyspace.counts import DEAD
from respkv.keyspace.husks import Husks
from respkv.keyspace.keyspace import DOUBTED_COUNT, UNKNOWN_COUNT, field_entry
from respkv.keyspace.leaf_rule import element_floor
from respkv.keyspace.rows import HashRow, Row, TimedString, string_row
from respkv.keyspace.survivors import Survivors
from respkv.replication.payload import KEY_BYTES_MIN, PLACED, cut, put_blind
from respkv.storage.write_batch import encode_entry
from respkv.wire.messages import (
    ABSENT,
    BELOW_PURGE,
    CORRUPT,
    EQUAL,
    FOREGROUND,
    OK,
    REPAIR,
    FlushTo,
    RangeRead,
    RangeResult,
    ReadResult,
    Reads,
)

#: The most that one answer to a range read holds; the asker goes on behind it.
_RANGE_BYTES: Final = 4 << 20
_NO_REFUSALS: Final[tuple[tuple[int, int], ...]] = ()


class Watermarks(Protocol):
    """The part of ``tombstones.PurgeWatermarks`` that judges writes."""

    def refuses(self, kind: int, slot: int, stamp: bytes, held: bool) -> bool: ...

    def newest(self) -> bytes: ...

    def old_record_applied(self, slot: int, stamp: bytes, source: int | None) -> None: ...


class RangePage(NamedTuple):
    """A piece of a range: its entries in key order, as a payload; the last key of them, b"" without any; and whether
    the limit cut it short, so that there is something behind that key."""

    payload: bytes
    last: bytes
    more: bool


class Replica:
    """The copies of one node. ``applied`` and ``beaten`` count records that won and lost."""

    __slots__ = (
        "_applier", "_born", "_husks", "_keyspace", "_survivors", "applied", "beaten", "refused", "repaired", "revived",
        "watermarks",
    )  # fmt: skip

    def __init__(self, applier: Applier) -> None:
        self._applier = applier
        self._keyspace = applier.keyspace
        #: whatever has been stamped here before lies at or below this
        self._born = self._keyspace.clock.last
        self.watermarks: Watermarks | None = None
        self._keyspace.survivors = self._survivors = Survivors(self._keyspace)
        self._keyspace.husks = self._keyspace.counts.husks = self._husks = Husks(self._keyspace)
        applier.compared = ()
        self.applied = self.beaten = self.refused = self.repaired = self.revived = 0

    @property
    def now_ms(self) -> int:
        """Wall clock of the cycle."""
        return self._keyspace.now_ms

    def slot(self, key: bytes) -> int:
        """The slot of a user key."""
        return self._keyspace.slot(key)

    @property
    def meta_puts(self) -> int:
        """Grows with each fact of the node itself that is put into the open batch."""
        return self._keyspace.meta_puts

    def last_stamp(self) -> int:
        """The clock's last value."""
        return self._keyspace.clock.last

    def stamped_here(self, stamp: bytes) -> bool:
        """Whether this node has made the stamp, since it started."""
        return int.from_bytes(stamp[8:10], "big") == self._keyspace.clock.node and (
            int.from_bytes(stamp[:8], "big") > self._born
        )

    # -- writes ------------------------------------------------------------------------------------

    def apply(  # HOT: replica_apply
        self, kind: int, payload: bytes, source: int | None
    ) -> tuple[tuple[int, int], ...]:
        """Merge a payload; (index of the entry, status) of what was refused.

        ``kind`` is why it comes (``messages.FOREGROUND`` ...), ``source`` the peer's short id. Raises ProtocolError,
        ReadMiss, CorruptionError, and StorageFull when the log has no room, all before anything has changed. Others'
        foreground writes do not come here while the disk is full.
        """
        if (len(payload) >= LARGE_BYTES or kind != FOREGROUND) and not self._applier.has_room(len(payload)):
            raise StorageFull("no room for another node's writes")
        keyspace = self._keyspace
        engine, clock = keyspace.engine, keyspace.clock
        highest = max(engine.highest_table_stamp(), keyspace.floors.highest)
        if self.watermarks is not None:
            highest = max(highest, self.watermarks.newest())
        entries = cut(payload, highest, self._ruled())
        if entries.newest:
            try:
                clock.observe(int.from_bytes(entries.newest[:8], "big"), keyspace.now_ms)
            except ClockSkewError as skew:
                raise ProtocolError(str(skew)) from skew
        if not entries.plain:
            return self._apply_carefully(kind, entries.internals, entries.records, source)
        beaten = put_blind(entries, keyspace, highest, self._touch)
        applied = len(entries.records) - beaten
        if late := entries.late:
            applied -= len(late)
            # Newer than all cuts and tables: nothing of it is refused, and nothing has to be read.
            internals, records = entries.internals, entries.records
            self._apply_carefully(kind, [internals[at] for at in late], [records[at] for at in late], source)
        self.beaten += beaten
        self.applied += applied
        if kind != FOREGROUND:
            # New plain strings are taken alike whatever they come for: no cut and no watermark lies above them.
            self.repaired += applied
        return _NO_REFUSALS

    def _apply_carefully(
        self, kind: int, internals: list[bytes], records: list[bytes], source: int | None
    ) -> tuple[tuple[int, int], ...]:
        """Everything that is not a new plain string: what is held is read first.

        Keys before their elements: an element that meets a grave of the same message revives its owner.
        """
        olds = [self._old(internal, record) for internal, record in zip(internals, records)]
        owners = {internal: self._owner(internal) for internal in internals if internal[0] == keys.SPACE_ELEMENT}
        for internal in internals:
            if internal[0] == keys.SPACE_COUNT:
                self._keyspace.engine.get(internal)  # its chain is looked at while applying
                self._keyspace.engine.get(keys.count_owner(internal))
        doubtful = self._doubtful(internals, records, olds, owners) if kind == FOREGROUND and owners else {}
        survivors = self._look_for_survivors(internals, records, olds)
        if self._keyspace.conflicts is not None:
            # Values are written together with those that are held.
            held = sum(len(old) for old, new in zip(olds, records) if old is not None and (old[0] | new[0]) & DVV)
            if held and not self._applier.has_room(held + sum(map(len, records))):
                raise StorageFull("no room for the siblings of a key")
        refused: list[tuple[int, int]] = []
        #: whose elements did not all become what their writer has
        unfit: dict[bytes, None] = {}
        table = self._keyspace.engine.memtable.table
        for index in sorted(range(len(internals)), key=lambda at: internals[at][0] != keys.SPACE_RECORD):
            internal, record = internals[index], records[index]
            # An entry of this message may have replaced what was read before.
            old = table.get(internal) or olds[index]
            if internal[0] == keys.SPACE_COUNT:
                self._apply_count(kind, internal, record, old, fits=keys.count_owner(internal) not in unfit)
                continue
            beaten = self.beaten
            status = self._apply_one(kind, internal, record, old, owners, survivors, source)
            if internal[0] == keys.SPACE_ELEMENT and (status != OK or (self.beaten > beaten and record != old)):
                unfit[keys.element_owner(internal)[0]] = None
            if status != OK:
                refused.append((index, status))
        for owner, count in doubtful.items():
            self._doubt(owner, count)
        return tuple(refused)

    def _apply_one(
        self,
        kind: int,
        internal: bytes,
        record: bytes,
        old: bytes | None,
        owners: dict[bytes, bytes | None],
        survivors: dict[bytes, bytes],
        source: int | None,
    ) -> int:
        keyspace = self._keyspace
        slot, db, stamp = keys.key_slot(internal), keys.key_db(internal), record[1:BODY_AT]
        if keyspace.floors.hides(slot, db, stamp):
            self.beaten += 1
            return OK
        marks = self.watermarks
        if marks is not None and marks.refuses(kind, slot, stamp, old is not None):
            self.refused += 1
            return BELOW_PURGE
        if (record[0] | (old[0] if old is not None else 0)) & DVV:
            merged = self._joined(internal, old, record)
        else:
            merged = newer(old, record) if old is not None else record
        if merged[0] & TYPE_MASK > STRING and internal[0] == keys.SPACE_RECORD:
            # It may come from where the flush is not known yet, and go there again.
            merged = with_floor(merged, keyspace.floors.get(slot, db))
        if merged == old:
            self.beaten += 1
            return OK
        self.applied += 1
        if kind != FOREGROUND:
            self.repaired += 1
        if marks is not None:
            marks.old_record_applied(slot, stamp, source if kind == REPAIR else None)
        if internal[0] == keys.SPACE_ELEMENT:
            self._put_element(kind, internal, merged, old, owners[internal])
        else:
            survivor = survivors.get(internal)
            if kind != FOREGROUND and merged[0] & TYPE_MASK > STRING:
                self._husks.suspect(internal)  # Its elements may have gone before it comes.
            if survivor is not None and self._survivors.revives(merged, survivor):
                self._revive(internal, self._survivors.owner(internal, merged, survivor))
            else:
                self.put_record(internal, merged)
            if old is not None and old[0] & merged[0] & TYPE_MASK > STRING and floor_of(merged) > floor_of(old):
                # Elements are hidden now that were counted.
                self._applier.recount(internal)
        return OK

    def _ruled(self) -> Any:
        """What matches keys with a policy of their own, None without any policies."""
        conflicts = self._keyspace.conflicts
        return conflicts.ruled if conflicts is not None else None

    def _joined(self, internal: bytes, old: bytes | None, record: bytes) -> bytes:
        """What is kept of two records of which one at least is a container."""
        keyspace = self._keyspace
        kept = keyspace.conflicts is not None and keyspace.conflicts.keeps(keys.user_key(internal))
        merged = siblings.join(old, record, last_write_wins=not kept) if old is not None else record
        if merged[0] & DVV and keyspace.floors.highest != ZERO_STAMP:
            floor = keyspace.floors.get(keys.key_slot(internal), keys.key_db(internal))
            return siblings.without_flushed(merged, floor)
        return merged

    def _old(self, internal: bytes, record: bytes) -> bytes | None:
        """What is held under a key, as far as it can matter: nothing is read from disk for a record newer than that."""
        engine = self._keyspace.engine
        collection = record[0] & TYPE_MASK > STRING and internal[0] == keys.SPACE_RECORD  # It takes over older floors.
        if collection or record[0] & (DVV | STRONG) or record[1:BODY_AT] <= engine.highest_table_stamp():
            return engine.get(internal)
        if internal[0] == keys.SPACE_RECORD and (ruled := self._ruled()) and ruled(internal, keys.RECORD_KEY_AT):
            return engine.get(internal)
        if internal[0] == keys.SPACE_ELEMENT:
            owner, _ = keys.element_owner(internal)
            if self._counted_here(owner):
                return engine.get(internal)  # The count goes on from what was there.
        old = engine.memtable.table.get(internal)
        if old is None:
            for memtable in engine.immutables:
                old = memtable.table.get(internal)
                if old is not None:
                    break
        return old

    def _owner(self, internal: bytes) -> bytes | None:
        """The record of an element's owner, graves included."""
        return self._keyspace.engine.get(keys.element_owner(internal)[0])

    def put_record(self, internal: bytes, record: bytes) -> None:
        """A merged record of a key into memtable, log, counts, expiry index and cached row."""
        keyspace, applier = self._keyspace, self._applier
        db, key = keys.key_db(internal), keys.user_key(internal)
        if record[0] & TYPE_MASK:
            applier.put_record(internal, record)
        else:
            old = keyspace.engine.memtable.table.get(internal)
            if old is not None:
                keyspace.counts.replaced(internal, old, DEAD)
            self._husks.discard(internal)
            keyspace.engine.put(internal, record)
        if record[0] & (TYPE_MASK | DVV) == STRING:
            keyspace.cache.replace(db, key, string_row(record))
        else:
            keyspace.cache.drop(db, key)
        if keyspace.watching:
            self._touch(db, key)

    def read_with_care(self, internal: bytes) -> None:
        """Have readers of a plain string take the general path, as long as its row is cached."""
        cache, db, key = self._keyspace.cache, keys.key_db(internal), keys.user_key(internal)
        row = cache.peek(db, key)
        if isinstance(row, bytes):
            if self._keyspace.engine.held is not None:  # The cache may have no room for the larger row.
                self._keyspace.engine.memtable.table[internal] = row
            cache.replace(db, key, TimedString(row))

    # -- collections -------------------------------------------------------------------------------

    def _put_element(
        self, kind: int, internal: bytes, record: bytes, old: bytes | None, owner_record: bytes | None
    ) -> None:
        keyspace = self._keyspace
        owner, field = keys.element_owner(internal)
        db, key = keys.key_db(owner), keys.user_key(owner)
        held = keyspace.engine.memtable.table.get(owner) or owner_record
        live = bool(record[0] & TYPE_MASK)
        flushed = keyspace.floors.get(keys.key_slot(owner), db)
        if held is not None and held[1:BODY_AT] <= flushed:
            held = None
        if live and self._survivors.revives(held, record):
            self._revive(owner, self._survivors.owner(owner, held, record))
        keyspace.engine.put(internal, record)
        self.note_element(kind, internal, record)
        if live and record[0] & HAS_EXPIRY:
            self._applier.index_expiry(int.from_bytes(record[11:19], "big"), internal)
        row = keyspace.cache.peek(db, key)
        if type(row) is HashRow:
            if row.counted_here:
                row.count += _is_element(record, row.floor) - _is_element(old, row.floor)
            if kind != FOREGROUND:
                keyspace.cache.drop(db, key)
            elif live and record[1:BODY_AT] > row.floor:
                keyspace.keep_field(db, key, row, field, field_entry(record))
            else:
                keyspace.drop_field(db, key, row, field)
        if kind != FOREGROUND:
            self._applier.recount(owner)
        if keyspace.watching:
            self._touch(db, key)

    def _look_for_survivors(
        self, internals: list[bytes], records: list[bytes], olds: list[bytes | None]
    ) -> dict[bytes, bytes]:
        """By key: a live element that a grave, which the key comes to with ``records``, does not reach. May raise
        ReadMiss."""
        merged: dict[bytes, bytes] = {}
        found: dict[bytes, bytes] = {}
        if all(record[0] & TYPE_MASK for record in records):
            return found
        for internal, record, old in zip(internals, records, olds):
            if internal[0] == keys.SPACE_RECORD:
                held = merged.get(internal, old)
                if not (record[0] | (held[0] if held is not None else 0)) & DVV:
                    merged[internal] = record if held is None else newer(held, record)
        beside = dict(zip(internals, records))
        for internal, record in merged.items():
            if not record[0] & TYPE_MASK:
                survivor = self._survivors.find(internal, record, beside)
                if survivor:
                    found[internal] = survivor
        return found

    def note_element(self, kind: int, internal: bytes, record: bytes) -> None:
        """An element was put: it may have ended a husk, or have made one of its collection."""
        self._survivors.note(internal, int.from_bytes(record[1:9], "big"))
        owner = keys.element_owner(internal)[0]
        if owner in self._husks:
            self._husks.discard(owner)
            self._husks.suspect(owner)  # It may lie below what is hidden.
        elif kind != FOREGROUND and not record[0] & TYPE_MASK:
            self._husks.suspect(owner)

    def _revive(self, owner: bytes, record: bytes) -> None:
        """A live element shows that its owner lives, whatever is held of that."""
        self.revived += 1
        self.put_record(owner, record)
        self._applier.recount(owner)

    def _apply_count(self, kind: int, internal: bytes, record: bytes, old: bytes | None, *, fits: bool) -> None:
        """An element count. Not ``fits``: not all elements that came with it are here as their writer has them."""
        stamp = record[1:BODY_AT]
        if self._keyspace.floors.hides(keys.key_slot(internal), keys.key_db(internal), stamp):
            self.beaten += 1
        elif old is None or stamp > old[1:BODY_AT]:
            self._put_count(kind, internal, record, old, fits=fits)
        elif stamp < old[1:BODY_AT] and kind != REPAIR:
            # Whose count is held did not know of these elements.
            self._doubt(keys.count_owner(internal), old)

    def _put_count(self, kind: int, internal: bytes, record: bytes, old: bytes | None, *, fits: bool) -> None:
        """A newer one: taken as it is where it follows the count held and can be true here, else noted as doubted."""
        keyspace = self._keyspace
        before = keyspace.engine.get(internal) if old is None else old
        owner, db, key = keys.count_owner(internal), keys.key_db(internal), keys.user_key(internal)
        floor = max(element_floor(keyspace.engine.get(owner)), keyspace.floors.get(keys.key_slot(internal), db))
        if before is not None and before[1:BODY_AT] <= floor:
            before = None
        # The first count of a collection names its floor.
        last = floor if before is None else before[1:BODY_AT]
        number = record[BODY_AT : BODY_AT + 8]
        follows = kind == FOREGROUND and fits and record[BODY_AT + 8 : BODY_AT + 18] == last
        row = keyspace.cache.peek(db, key)
        believed = follows and self._believes(number, before, row)
        if not self._husks.suspect_count(internal, record) and not follows:
            self._husks.suspect(owner)
        if not believed:
            record = record[:BODY_AT] + DOUBTED_COUNT + record[BODY_AT + 8 :]
        keyspace.engine.put(internal, record)
        if type(row) is not HashRow:
            return
        row.count_stamp = record[1:BODY_AT] if believed else ZERO_STAMP
        if believed and number != UNKNOWN_COUNT:
            row.count = int.from_bytes(number, "big")
        elif not row.counted_here:
            keyspace.cache.drop(db, key)

    def _believes(self, number: bytes, before: bytes | None, row: Row | None) -> bool:
        """Whether a count that follows the one held can be that of what is held here.

        Its writer may lack elements that came here from others, and the other way round. Once that has been possible,
        only a count made here says that both hold as many.
        """
        if number < DOUBTED_COUNT and type(row) is HashRow and row.counted_here:
            return row.count == int.from_bytes(number, "big")
        return number != DOUBTED_COUNT and (before is None or before[BODY_AT : BODY_AT + 8] != DOUBTED_COUNT)

    def _doubt(self, owner: bytes, held: bytes) -> None:
        """The count ``held`` is of a writer who did not know of an element that another writer has put."""
        if held[BODY_AT : BODY_AT + 8] != DOUBTED_COUNT:
            self._applier.recount(owner)
            db, key = keys.key_db(owner), keys.user_key(owner)
            row = self._keyspace.cache.peek(db, key)
            if type(row) is HashRow and row.counted_here:
                row.count_stamp = ZERO_STAMP
            else:
                self._keyspace.cache.drop(db, key)

    def _counted_here(self, owner: bytes) -> bool:
        row = self._keyspace.cache.peek(keys.key_db(owner), keys.user_key(owner))
        return type(row) is HashRow and row.counted_here

    def _doubtful(
        self, internals: list[bytes], records: list[bytes], olds: list[bytes | None], owners: dict[bytes, bytes | None]
    ) -> dict[bytes, bytes]:
        """The counts held, by owner, which an element that comes without a count changes, or may change where it is
        not known what was there and the writer is not theirs. May raise ReadMiss."""
        counted = {keys.count_owner(internal): None for internal in internals if internal[0] == keys.SPACE_COUNT}
        found: dict[bytes, bytes] = {}
        for internal, record, old in zip(internals, records, olds):
            if internal[0] != keys.SPACE_ELEMENT:
                continue
            owner, _ = keys.element_owner(internal)
            slot, db = keys.key_slot(owner), keys.key_db(owner)
            floor = max(element_floor(owners[internal]), self._keyspace.floors.get(slot, db))
            if owner in counted or record[1:BODY_AT] <= floor:
                continue
            certain = old is not None or self._counted_here(owner)
            beaten = old is not None and record[1:BODY_AT] <= old[1:BODY_AT]
            if beaten or (certain and _is_element(old, floor) == _is_element(record, floor)):
                continue
            held = self._keyspace.engine.get(keys.count_key(owner))
            if held is not None and (certain or held[9:BODY_AT] != record[9:BODY_AT]):
                found[owner] = held
        return found

    def _touch(self, db: int, key: bytes) -> None:
        touched = self._keyspace.touched
        if touched is not None:
            touched(db, key)

    # -- reads -------------------------------------------------------------------------------------

    def read(self, message: Reads) -> ReadResult:  # HOT: replica_read
        """What differs from the asker's stamps. May raise ReadMiss; damage is said per key.

        Plain strings are cached, as for this node's own readers: who reads a key again asks the same node about it.
        """
        keyspace = self._keyspace
        cache = keyspace.cache
        differing: list[tuple[int, int, bytes]] = []
        last_place = b""
        young = None
        for index, (internal, stamp) in enumerate(zip(message.keys, message.stamps)):
            is_key = internal[0] == keys.SPACE_RECORD
            if is_key:
                if internal[3:5] != last_place:
                    last_place = internal[3:5]
                    young = cache.young.get(keys.key_db(internal))
                row = young.get(internal[5:]) if young is not None else None
                if row is None:
                    row = cache.get(keys.key_db(internal), internal[5:])
                if row.__class__ is bytes:
                    if row[1:BODY_AT] != stamp:
                        differing.append((index, OK, row))
                    continue
            try:
                held = self.held(internal)
            except CorruptionError:
                differing.append((index, CORRUPT, b""))
                continue
            if held is None:
                if stamp != ZERO_STAMP:
                    differing.append((index, ABSENT, b""))
            elif siblings.token(held) != stamp:
                differing.append((index, OK, held))
            if is_key and row is None and held is not None and held[0] == STRING:
                cache.add(keys.key_db(internal), internal[5:], held)
                last_place = b""  # The cache may have turned over.
        return ReadResult(message.seq, OK, tuple(differing))

    def held(self, internal: bytes) -> bytes | None:
        """The record of a key as others must see it: what a flush floor hides is a deletion under the floor's stamp."""
        keyspace = self._keyspace
        record = keyspace.engine.get(internal)
        floors = keyspace.floors
        if floors.highest != ZERO_STAMP:
            floor = floors.get(keys.key_slot(internal), keys.key_db(internal))
            if floor != ZERO_STAMP and (record is None or record[1:BODY_AT] <= floor):
                return tombstone(floor)
        return record

    def read_range(self, message: RangeRead) -> RangeResult:
        """The entries of a range of elements, or that they are what the asker holds. May raise ReadMiss."""
        start = keys.after(message.after) if message.after else message.start
        if not PLACED.issuperset(message.start[:1]) or len(message.start) < KEY_BYTES_MIN:
            raise ProtocolError("a range of a space that is not shared")
        try:
            page = self.range_page(start, message.end, message.limit)
        except CorruptionError:
            return RangeResult(message.seq, CORRUPT, False)
        if message.digest and message.digest == range_digest(page.payload):
            return RangeResult(message.seq, EQUAL, page.more)
        return RangeResult(message.seq, OK, page.more, page.payload)

    def range_page(self, start: bytes, end: bytes, limit: int) -> RangePage:
        """The first ``limit`` entries of a range, fewer where they are long. Graves are among them. May raise
        ReadMiss."""
        parts: list[bytes] = []
        size, last = 0, b""
        for internal, record in self._keyspace.engine.scan(start, end):
            if len(parts) >= limit or size >= _RANGE_BYTES:
                return RangePage(b"".join(parts), last, True)
            parts.append(encode_entry(internal, record))
            size += len(parts[-1])
            last = internal
        return RangePage(b"".join(parts), last, False)

    def flush(self, message: FlushTo) -> None:
        """Raise flush floors. O(cached rows of the databases). ProtocolError, and none is raised, when one is of a
        time that this node's clock does not permit: what is written until then would be lost."""
        newest = max((floor[3] for floor in message.floors), default=ZERO_STAMP)
        try:
            self._keyspace.clock.observe(int.from_bytes(newest[:8], "big"), self._keyspace.now_ms)
        except ClockSkewError as skew:
            raise ProtocolError(str(skew)) from skew
        for first, last, db, stamp in message.floors:
            self._applier.raise_floor(db, first, last, stamp)

    def stats(self) -> dict[str, int]:
        """Counters for metrics."""
        return {
            "replica_records_applied": self.applied,
            "replica_records_beaten": self.beaten,
            "replica_records_refused": self.refused,
            "replica_records_repaired": self.repaired,
            "replica_collections_revived": self.revived,
        }


def _is_element(record: bytes | None, floor: bytes) -> bool:
    """Whether the record of an element is there, and above the floor of its collection."""
    return record is not None and record[0] & TYPE_MASK != 0 and record[1:BODY_AT] > floor


def range_digest(payload: bytes) -> int:
    """The checksum of a range's entries; never 0, which asks for the entries themselves."""
    return xxh3_64_intdigest(payload) or 1
