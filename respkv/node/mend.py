"""Damaged tables made whole from replicas: what can be read of one is kept, the rest fetched, and the table dropped.

For each quarantined table, newest first, block by block (docs/decisions/0006):

1. What can be read and is still the newest of its key is put into the memtable.
2. What cannot be read is a *hole*, a range of keys. All co-replicas of its slots are asked what they hold there
   (``RangeRead``), page by page. Only when *all* have answered is the newest of each key put: an acknowledged write
   is on W replicas, and one of them may be the only one beside this. Who is away is waited for; meanwhile co-replicas
   answer the clients. A co-replica that is damaged in the same range itself is gone on without after DAMAGED_US.
3. Once all that is durable, the table is dropped, keys and leaf sums are counted anew, anti-entropy proves the rest.

A grave that lay in a hole may have been purged by the others, while an older table here still holds what it hid. So
what nobody else holds in a hole, and is older than the purge watermark of its slot, is deleted: were it alive, all
replicas would have agreed on it. Counts of elements are noted as unknown. Index entries of expiry that lay in a hole of
their own space are not made again: such keys expire when they are looked at.

Nothing is put while a newer table turns out to be damaged: that one comes first.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Final

from respkv.base.errors import BlockRequest, CorruptionError, ProtocolError, ReadMiss
from respkv.base.ids import STRING
from respkv.base.limits import MIB
from respkv.base.slots import SLOT_COUNT
from respkv.causality import siblings
from respkv.causality.hlc import ZERO_STAMP, pack_stamp, stamp_hlc
from respkv.causality.record import BODY_AT, DVV, HAS_EXPIRY, TYPE_MASK, encode, newer, tombstone, with_floor
from respkv.keyspace import keys
from respkv.keyspace.apply import Applier
from respkv.keyspace.keyspace import DOUBTED_COUNT
from respkv.node.co_replicas import CoReplicas
from respkv.replication.payload import entries_of
from respkv.replication.replica import Replica
from respkv.storage.quarantine import DamagedTable
from respkv.wire.messages import CORRUPT, OK, REPAIR, RangeRead, RangeResult

#: How long an answer is waited for, and the pause before a page is asked for again.
ANSWER_US: Final = 5_000_000
AGAIN_US: Final = 1_000_000
#: How long a co-replica that cannot read the range itself is waited for.
DAMAGED_US: Final = 60_000_000
#: Between two looks for damaged tables.
LOOK_US: Final = 1_000_000
_BUSY_US: Final = 100_000
_BLOCKS_PER_STEP: Final = 8
_PAGE_ENTRIES: Final = 1000
_BYTES_PER_S: Final = 8 * MIB
_KEY_BYTES_MIN: Final = keys.RECORD_KEY_AT
Entries = list[tuple[bytes, bytes]]
_PLACED: Final = (keys.SPACE_RECORD, keys.SPACE_ELEMENT, keys.SPACE_COUNT)


class _Page:
    """A piece of a hole that co-replicas were asked about. ``entries`` and ``size`` (bytes): what they hold of it."""

    __slots__ = ("damaged", "deadline_us", "end", "entries", "failed", "seq", "size", "start", "told", "waiting")

    def __init__(self, seq: int, start: bytes, end: bytes, peers: list[int], deadline_us: int) -> None:
        self.seq = seq
        self.start = start
        #: lowered to where the first answer that was cut short ends
        self.end = end
        self.waiting = dict.fromkeys(peers)
        self.deadline_us = deadline_us
        self.entries: list[Entries] = []
        self.size = self.told = self.damaged = self.failed = 0


class Mend:
    """The mending of one node's tables. Pure; ``on_timer`` when ``next_timer_us`` is due, ``on_range`` for answers."""

    __slots__ = (
        "_applier", "_at", "_busy", "_commit", "_damaged_us", "_due_us", "_engine", "_fetch", "_fetching", "_holes",
        "_keyspace", "_log", "_lsn", "_mended", "_neighbours", "_next_seq", "_page", "_put", "_replica", "_send",
        "_table", "_told", "_watermark", "holes", "mended", "records", "waiting",
    )  # fmt: skip

    def __init__(
        self,
        applier: Applier,
        replica: Replica,
        neighbours: CoReplicas,
        *,
        send: Callable[[int, Any], bool],
        next_seq: Callable[[], int],
        commit: Callable[[], int],
        fetch: Callable[[list[BlockRequest], Callable[[], None]], None],
        busy: Callable[[], bool],
        mended: Callable[[], None],
        watermark: Callable[[int], bytes],
        log: Callable[[str, str], None],
    ) -> None:
        """``mended``: a table is whole again, all may be compared; ``watermark``: slot -> its purge watermark."""
        self._applier = applier
        self._replica = replica
        self._keyspace = applier.keyspace
        self._engine = applier.keyspace.engine
        self._neighbours = neighbours
        self._send = send
        self._next_seq = next_seq
        self._commit = commit
        self._fetch = fetch
        self._busy = busy
        self._mended = mended
        self._watermark = watermark
        self._log = log
        self._due_us = 0
        self._fetching = False
        self._table: DamagedTable | None = None
        #: where the table is to be read on, None: to its end
        self._at: bytes | None = None
        self._holes: deque[tuple[bytes, bytes]] = deque()
        self._page: _Page | None = None
        #: since when a co-replica answers that it is damaged, too
        self._damaged_us = 0
        #: the commit that must be durable before the table is dropped
        self._lsn: int | None = None
        #: what has been said of the table, once each
        self._told: dict[str, None] = {}
        self._put = 0
        self.mended = self.records = self.holes = 0
        #: 1 while a co-replica that is needed cannot be had
        self.waiting = 0

    # -- what the node tells -----------------------------------------------------------------------

    def next_timer_us(self) -> int:
        """When ``on_timer`` is due."""
        return self._due_us

    def owns_seq(self, seq: int) -> bool:
        """Whether an answer with this number is for ``on_range``."""
        return self._page is not None and self._page.seq == seq

    def on_range(self, peer: int, message: RangeResult) -> None:
        """A co-replica's answer. ProtocolError for entries that were not asked for."""
        page = self._page
        if page is None or page.seq != message.seq or peer not in page.waiting:
            return
        entries = entries_of(message.payload) if message.status == OK else []
        for internal, _ in entries:
            if not page.start <= internal < self._holes[0][1] or internal[0] != page.start[0]:
                raise ProtocolError("an entry of a range that was not asked for")
        del page.waiting[peer]
        if message.status == OK:
            page.told += 1
            page.entries.append(entries)
            page.size += len(message.payload)
            if message.more and entries:
                page.end = min(page.end, keys.after(entries[-1][0]))
        elif message.status == CORRUPT:
            page.damaged += 1
        else:
            page.failed += 1
        if not page.waiting:
            self._due_us = 0

    def on_timer(self, now_us: int) -> None:
        """Do what is due, a few milliseconds of it."""
        if now_us < self._due_us or self._fetching:
            return
        self._due_us = now_us
        if self._busy() or self._engine.refusal() is not None:
            self._due_us = now_us + _BUSY_US
            return
        try:
            self._step(now_us)
        except ReadMiss as miss:
            self._fetching = True
            self._fetch([miss.request], self._fetched)
        except CorruptionError:
            # Of another table. It is in the list by now; the newest one comes first.
            self._begin_anew()

    def _fetched(self) -> None:
        self._fetching = False
        self._due_us = 0

    # -- one table after another -------------------------------------------------------------------

    def _step(self, now_us: int) -> None:
        if self._table is None:
            self._begin(now_us)
        elif self._lsn is None and not self._is_newest():
            self._begin_anew()
        elif self._page is not None:
            self._look_at_page(self._page, now_us)
        elif self._at is not None:
            self._keep_readable(self._table, self._at)
        elif self._holes:
            self._ask(now_us)
        else:
            self._drop(self._table, now_us)

    def _begin(self, now_us: int) -> None:
        damaged = self._engine.damaged_tables()
        if not damaged or self._neighbours.placement is None or not self._neighbours.peers:
            self._due_us = now_us + LOOK_US
            return
        self._table = damaged[0]
        self._at = self._table.smallest
        self._put = 0
        self._told.clear()
        self._say("notice", f"Table {self._table.path} is made whole from replicas")

    def _begin_anew(self) -> None:
        self._table = self._page = self._lsn = self._at = None
        self._holes.clear()
        self.waiting = self._damaged_us = 0

    def _is_newest(self) -> bool:
        """Whether no other table comes first, and this one is still there."""
        damaged = self._engine.damaged_tables()
        return bool(damaged) and self._table is not None and damaged[0].file_id == self._table.file_id

    def _say(self, level: str, text: str) -> None:
        if text not in self._told:
            self._told[text] = None
            self._log(level, text)

    def _newest(self, internal: bytes) -> bytes | None:
        """The newest record that can be read. ``_is_newest`` must hold after it: then nothing unreadable lies above."""
        memtable = self._engine.memtable
        return memtable.table.get(internal) or self._engine.get_below(memtable, internal)

    # -- what can be read --------------------------------------------------------------------------

    def _keep_readable(self, table: DamagedTable, start: bytes) -> None:
        """Put the next blocks' entries that no newer ones hide."""
        at: bytes | None = start
        for _ in range(_BLOCKS_PER_STEP):
            assert at is not None
            piece = self._engine.piece_of(table.file_id, at)
            if piece is None:
                self._begin_anew()
                return
            if piece.entries is None:
                self._add_hole(at, piece.end)
            else:
                placed = [pair for pair in piece.entries if pair[0][0] in _PLACED]
                kept = [pair for pair in placed if self._newest(pair[0]) == pair[1]]
                if not self._is_newest():
                    self._begin_anew()
                    return
                if not self._engine.reserve(sum(len(internal) + len(record) for internal, record in kept)):
                    self._due_us += AGAIN_US
                    return
                for internal, record in kept:
                    self._put_again(internal, record)
            at = self._at = piece.end if piece.end <= table.largest else None
            if at is None:
                return

    def _put_again(self, internal: bytes, record: bytes) -> None:
        if internal in self._engine.memtable.table:
            return
        self._put += 1
        self._engine.put(internal, record)
        if internal[0] != keys.SPACE_COUNT:
            self._index(internal, record)

    def _index(self, internal: bytes, record: bytes) -> None:
        if record[0] & HAS_EXPIRY and record[0] & TYPE_MASK:
            self._applier.index_expiry(int.from_bytes(record[11:19], "big"), internal)

    def _add_hole(self, start: bytes, end: bytes) -> None:
        if self._holes and self._holes[-1][1] == start:
            start = self._holes.pop()[0]
        else:
            self.holes += 1
        self._holes.append((start, end))

    # -- what others hold --------------------------------------------------------------------------

    def _ask(self, now_us: int) -> None:
        """Ask about the next piece of the first hole that others can know of."""
        start, end = self._holes[0]
        space = start[0]
        stop = min(end, bytes((space + 1,)))
        peers = self._co_replicas(start, stop) if space in _PLACED else []
        if not peers:
            self._past(stop)
            return
        absent = [peer for peer in peers if not self._neighbours.is_alive(peer)]
        self.waiting = int(bool(absent))
        if absent:
            names = ", ".join(map(str, absent))
            self._say("warning", f"Mending {self._path()} waits for node {names}, which cannot be reached")
            self._due_us = now_us + AGAIN_US
            return
        start = start.ljust(_KEY_BYTES_MIN, b"\0")
        page = self._page = _Page(self._next_seq(), start, stop, peers, now_us + ANSWER_US)
        for peer in peers:
            self._send(peer, RangeRead(page.seq, start, stop, b"", _PAGE_ENTRIES))
        self._due_us = page.deadline_us

    def _path(self) -> str:
        return self._table.path if self._table is not None else ""

    def _past(self, stop: bytes) -> None:
        """The first hole is dealt with up to ``stop``."""
        _, end = self._holes.popleft()
        if stop < end:
            self._holes.appendleft((stop, end))

    def _co_replicas(self, start: bytes, stop: bytes) -> list[int]:
        """Who else has slots in a range of one space, of those that this node has. O(slots of the range)."""
        first = int.from_bytes(start[1:3].ljust(2, b"\0"), "big")
        same = stop[:1] == start[:1]
        last = int.from_bytes(stop[1:3].ljust(2, b"\0"), "big") if same else SLOT_COUNT - 1
        found: dict[int, None] = {}
        for slot in range(first, min(last, SLOT_COUNT - 1) + 1):
            found.update(dict.fromkeys(self._neighbours.co_replicas(slot)))
        return sorted(found)

    def _look_at_page(self, page: _Page, now_us: int) -> None:
        if page.waiting:
            if now_us >= page.deadline_us:
                self._page = None
            else:
                self._due_us = page.deadline_us
            return
        whole = page.told and not page.failed and (not page.damaged or self._without_damaged(now_us))
        if not whole or not self._engine.reserve(page.size):
            self._page = None
            self._due_us = now_us + AGAIN_US
            return
        self._take(page)
        self._page = None
        self._due_us = now_us + page.size * 1_000_000 // _BYTES_PER_S

    def _without_damaged(self, now_us: int) -> bool:
        """Whether to go on without a co-replica that cannot read the range either."""
        if not self._damaged_us:
            self._damaged_us = now_us
        if now_us - self._damaged_us < DAMAGED_US:
            return False
        self._say("warning", f"A part of {self._path()} is damaged at another replica, too, and is taken from the rest")
        return True

    def _take(self, page: _Page) -> None:
        """Put what the co-replicas hold. Reads first: ReadMiss and CorruptionError come before any change."""
        end, mine = page.end, self._neighbours.owns
        found: dict[bytes, bytes] = {}
        for entries in page.entries:
            for internal, record in entries:
                if internal < end and mine(keys.key_slot(internal)):
                    held = found.get(internal)
                    found[internal] = record if held is None else _merged(held, record)
        stale = self._stale(page.start, end, found)
        olds = {internal: self._newest(internal) for internal in found}
        if not self._is_newest():
            self._begin_anew()
            return
        for internal, record in found.items():
            old = olds[internal]
            self._restore(internal, record if old is None else _merged(old, record))
        for internal, record in stale:
            self._bury(internal, record)
        self._put += len(found)
        self.records += len(found)
        self._past(end)

    def _stale(self, start: bytes, end: bytes, found: dict[bytes, bytes]) -> list[tuple[bytes, bytes]]:
        """What only this node holds, and is older than its slot's watermark. May raise ReadMiss, CorruptionError."""
        if start[0] == keys.SPACE_COUNT:
            return []
        damaged = {table.file_id for table in self._engine.damaged_tables()}
        purged = self._watermark
        return [
            (internal, record)
            for internal, record in self._engine.scan(start, end, skip=damaged)
            if internal not in found and record[0] & TYPE_MASK and record[1:BODY_AT] < purged(keys.key_slot(internal))
        ]

    def _restore(self, internal: bytes, record: bytes) -> None:
        """Put one entry that others hold, although it may be in an older table here: the damaged one lies above it."""
        keyspace = self._keyspace
        slot, db = keys.key_slot(internal), keys.key_db(internal)
        if internal[0] == keys.SPACE_COUNT:
            self._forget_count(internal)
            return
        if keyspace.floors.hides(slot, db, record[1:BODY_AT]):
            return
        if internal[0] == keys.SPACE_ELEMENT:
            self._put_element(internal, record)
            return
        if record[0] & TYPE_MASK > STRING:
            record = with_floor(record, keyspace.floors.get(slot, db))
        self._replica.put_record(internal, record)

    def _put_element(self, internal: bytes, record: bytes) -> None:
        owner, _ = keys.element_owner(internal)
        self._engine.put(internal, record)
        self._replica.note_element(REPAIR, internal, record)
        self._index(internal, record)
        self._keyspace.cache.drop(keys.key_db(owner), keys.user_key(owner))
        self._forget_count(keys.count_key(owner))

    def _forget_count(self, internal: bytes) -> None:
        """The next reader counts anew."""
        body = DOUBTED_COUNT + ZERO_STAMP
        self._engine.put(internal, encode(STRING, self._keyspace.stamp(), body))
        self._keyspace.cache.drop(keys.key_db(internal), keys.user_key(internal))

    def _bury(self, internal: bytes, record: bytes) -> None:
        """Its grave lay in the hole, and has been purged elsewhere; it gets one that is purgeable again."""
        grave = tombstone(pack_stamp(stamp_hlc(record[1:BODY_AT]) + 1, 0))
        if internal[0] == keys.SPACE_ELEMENT:
            self._put_element(internal, grave)
        else:
            self._replica.put_record(internal, grave)

    # -- the end of a table ------------------------------------------------------------------------

    def _drop(self, table: DamagedTable, now_us: int) -> None:
        """When all that was put is durable the table may go."""
        self.waiting = 0
        if self._lsn is None:
            self._lsn = self._commit()
        # Once that is durable nothing newer can make it untrue.
        if self._engine.durable_lsn < self._lsn:
            self._due_us = now_us + _BUSY_US
            return
        if self._is_newest():
            self._engine.drop_tables(lambda meta: meta.file_id == table.file_id)
        if self._engine.piece_of(table.file_id, table.smallest) is not None:
            self._due_us = now_us + _BUSY_US  # A job has it still, or the edit is on its way.
            return
        self.mended += 1
        self._log("notice", f"Table {table.path} is replaced: {self._put} records are kept or fetched from replicas")
        self._begin_anew()
        self._mended()

    # -- figures -----------------------------------------------------------------------------------

    def stats(self) -> dict[str, int]:
        """Counters for metrics."""
        return {
            "tables_mended": self.mended,
            "mend_holes": self.holes,
            "mend_records_fetched": self.records,
            "mend_waiting": self.waiting,
        }

    def check_invariants(self) -> None:
        """Work is under way on a table only."""
        assert self._table is not None or not (self._holes or self._page or self._lsn or self._at)


def _merged(left: bytes, right: bytes) -> bytes:
    if (left[0] | right[0]) & DVV:
        return siblings.join(left, right)
    return newer(left, right)
