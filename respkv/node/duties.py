"""Duties: what the node does by itself, a slice at a time, on its timers.

Expiry every 100 ms (oftener while it lags), the engine's tick, the clock's ceiling, key counts, save points,
statistics, and what is to be done about damaged tables. None waits for anything: a block that is missing is fetched
and the slice runs again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from respkv.base.errors import BlockRequest, CorruptionError
from respkv.base.limits import (
    CLOCK_AHEAD_MS,
    EXPIRED_PER_CALL,
    EXPIRY_INTERVAL_US,
    SETTLE_INTERVAL_US,
    SETTLED_AT_ONCE,
    SETTLED_PER_CALL,
)
from respkv.keyspace.expiry import ExpiryDuty
from respkv.keyspace.floors import DurableFloors, FlushFloors
from respkv.node.facts import is_flushed, log_again
from respkv.node.key_rules import ActorLease
from respkv.node.pace import SPAN_US
from respkv.node.refusal import needs_table
from respkv.storage.wal import segment_id

if TYPE_CHECKING:
    from respkv.node.node import Node

_TICK_US: Final = 100_000
_BUSY_TICK_US: Final = 2_000
_SECOND_US: Final = 1_000_000
_MARK_INTERVAL_MS: Final = 5_000
#: While writes are refused, a table is made of what is deleted and what expires no oftener.
_TABLE_INTERVAL_US: Final = 30_000_000
_RING_ADVICE: Final = "Its keys are answered by other replicas, and are fetched from them again once all can be reached"
_DAMAGE_ADVICE: Final = (
    "Keys in its range are answered with CORRUPT; restore the file from a snapshot and restart, or see respkv-check"
)
_SEGMENT_ADVICE: Final = "What it holds is in memory and is written again: keep the server running, and see to its disk"


class Duties:
    """The periodic work of one node."""

    __slots__ = (
        "_actors",
        "_ceiling",
        "_ceiling_lsn",
        "_damage_told_us",
        "_fetching",
        "_floors",
        "_flushed_lsn",
        "_mark",
        "_mark_lsn",
        "_marked_keys",
        "_marked_ms",
        "_settled_us",
        "_table_due_us",
        "_tabled",
        "expired_durable_ms",
        "expiry",
        "node",
    )

    def __init__(self, node: Node) -> None:
        self.node = node
        self.expiry = ExpiryDuty(node.applier, self.damaged)
        #: records whose expiry is at or before this have their expired form on disk
        self.expired_durable_ms = 0
        self._ceiling = self._ceiling_lsn = 0
        self._mark = self._mark_lsn = 0
        self._marked_ms = self._marked_keys = 0
        self._fetching = False
        self._damage_told_us = self._settled_us = self._table_due_us = 0
        self._tabled = 0, 0
        self._floors = DurableFloors(node.keyspace.floors)
        self._actors = ActorLease(node)
        self._flushed_lsn = 0

    def start(self) -> None:
        """Set the first timers, and say what the start has found."""
        report = self.node.engine.recovery
        for path, reason in report.damaged:
            self.node.log("warning", f"Table {path} is damaged and quarantined: {reason}. {self._advice()}")
        if self.node.engine.damaged_tables():
            self.node.keyspace.counts.exact = False
        if report.tables_kept:
            kept = ", ".join(report.tables_kept)
            self.node.log("warning", f"Kept while a table is missing, though the manifest does not name them: {kept}")
        for path in report.healed:
            self.node.log("notice", f"Table {path} was damaged and is whole again")
        for action in (self._expire, self._tick, self._second):
            self.node.after_us(_TICK_US, action)

    def _advice(self) -> str:
        return _DAMAGE_ADVICE if self.node.ring is None else _RING_ADVICE

    def end_cycle(self) -> None:
        """Called when a cycle has readers' expired keys: put their expired form."""
        self._fetch(self.expiry.sighted())

    def _fetch(self, request: BlockRequest | None) -> None:
        if request is not None and not self._fetching:
            self._fetching = True
            self.node.fetch([request], self._fetched)

    def _fetched(self) -> None:
        self._fetching = False

    def _expire(self) -> None:
        more = False
        if self.node.active_expire and not self._fetching:
            try:
                more, request = self.expiry.run(EXPIRED_PER_CALL)
                self._fetch(request)
            except CorruptionError as damage:
                self.damaged(damage)  # the index itself: active expiry stands still, readers still expire
        self.node.after_us(_BUSY_TICK_US if more else EXPIRY_INTERVAL_US, self._expire)

    def _tick(self) -> None:
        node = self.node
        busy = node.engine.tick()
        busy |= node.keyspace.cache.dispose()
        self.lasting_floors()
        self._hear_of_damage()
        if needs_table(node.engine, node.config.value("max-disk")):
            node.commit(own=True)
            node.engine.rotate()
        elif node.dispatcher.refusal is not None:
            self._make_table()
        node.refresh_refusal()
        counts = node.keyspace.counts
        counts.follow()
        counts.sample()
        counts.save_if_due()
        node.look_at_pace()
        more = self._settle_some()
        node.metrics.sample(node.clock.monotonic_us())
        node.after_us(_BUSY_TICK_US if busy else SETTLE_INTERVAL_US if more else _TICK_US, self._tick)

    def _make_table(self) -> None:
        """Writes are refused: nothing fills the memtable, and what is deleted or expires frees no disk before it has
        come into a table."""
        node = self.node
        changed = node.changes, node.keyspace.expired_keys
        if changed != self._tabled and node.now_us >= self._table_due_us and not node.engine.immutables:
            node.commit(own=True)
            if node.engine.make_table():
                self._tabled, self._table_due_us = changed, node.now_us + _TABLE_INTERVAL_US

    def lasting_floors(self) -> FlushFloors:
        """The flush floors by which compaction may drop keys: no crash undoes them, and no snapshot that waits for its
        flush lacks them."""
        engine = self.node.engine
        if not self.node.snapshots.waiting:
            self._floors.look(engine.appended_lsn + bool(engine.batch), engine.durable_lsn)
        return self._floors.known

    def _settle_some(self) -> bool:
        """Slices one after the other while clients ask for little, a small one in every span under load. True: the next
        may follow soon."""
        node = self.node
        if not node.keyspace.counts.unsettled():
            return False
        if node.pace.idle or node.now_us - self._settled_us >= SPAN_US:
            self._settled_us = node.now_us
            self._settle()
        return node.pace.idle and not self._fetching

    def _settle(self) -> None:
        """A slice of the key counts; a missing block ends it until the block is there."""
        if self._fetching:
            return
        slices = self.node.keyspace.counts.settle(SETTLED_PER_CALL, SETTLED_AT_ONCE)
        try:
            self._fetch(self.node.pace.settle(slices))
        except CorruptionError as damage:
            self.damaged(damage)

    def damaged(self, damage: CorruptionError) -> None:
        """Stored data is damaged: say so, once a minute at most. Readers of that data get an error reply, or
        on a ring another replica's."""
        if self.node.now_us >= self._damage_told_us:
            self._damage_told_us = self.node.now_us + 60 * _SECOND_US
            self.node.log("warning", f"stored data is damaged: {damage}")

    def _hear_of_damage(self) -> None:
        """Tables and log segments that reads or jobs found damaged: say it loudly, and let nothing depend on what the
        tables hold."""
        news = self.node.engine.take_news()
        tables = [(path, reason) for path, reason in news if segment_id(path) is None]
        for path, reason in news:
            if segment_id(path) is not None:
                self.node.log("warning", f"Log segment {path} is damaged: {reason}. {_SEGMENT_ADVICE}")
        for path, reason in tables:
            self.node.log("warning", f"Table {path} is damaged and is quarantined: {reason}. {self._advice()}")
        if tables:
            # What a damaged table counts for is a guess until it has gone; then a recount is due.
            self.node.keyspace.counts.exact = False
            self._actors.forget()
            if self.node.ring is not None:
                self.node.ring.repair.tables_damaged()
            log_again(self.node.keyspace)
            self.node.commit(own=True)

    def _drop_flushed(self) -> None:
        """A damaged table goes when all that it can have held was flushed, and that is durable."""
        engine = self.node.engine
        damaged = engine.damaged_tables()
        dead = {table.file_id: None for table in damaged if is_flushed(self.node.keyspace, table)}
        if not dead:
            self._flushed_lsn = 0
        elif not self._flushed_lsn:
            self._flushed_lsn = self.node.commit()
        elif engine.durable_lsn >= self._flushed_lsn:
            engine.drop_tables(lambda meta: meta.file_id in dead)

    def _second(self) -> None:
        self._drop_flushed()
        engine = self.node.engine
        if engine.refusal() is None or engine.has_room(0):
            # Without: a clock beyond its ceiling only makes replies wait until the log is durable.
            self._keep_ceiling()
            self._keep_expiry_mark()
        self._actors.keep()
        self.node.check_save_points()
        self.node.after_us(_SECOND_US, self._second)

    def _keep_ceiling(self) -> None:
        """Keep the durable ceiling of the clock ahead of the clock."""
        node, clock = self.node, self.node.keyspace.clock
        if self._ceiling and node.engine.durable_lsn >= self._ceiling_lsn:
            clock.raise_ceiling(self._ceiling)
            self._ceiling = 0
        wall = node.keyspace.now_ms << 16
        if not self._ceiling and clock.ceiling - max(wall, clock.last) < (CLOCK_AHEAD_MS - 500) << 16:
            self._ceiling = node.keyspace.write_ceiling()
            self._ceiling_lsn = node.commit(own=True)
            node.wants_sync = True

    def _keep_expiry_mark(self) -> None:
        """Log how far expiry has come, and learn when that is durable."""
        node, keyspace = self.node, self.node.keyspace
        if self._mark and node.engine.durable_lsn >= self._mark_lsn:
            self.expired_durable_ms, self._mark = self._mark, 0
        due = keyspace.now_ms - self._marked_ms >= _MARK_INTERVAL_MS
        if due and not self._mark and keyspace.expired_keys != self._marked_keys:
            self._marked_ms, self._marked_keys = keyspace.now_ms, keyspace.expired_keys
            self._mark = keyspace.expired_through_ms
            keyspace.write_expired_through()
            self._mark_lsn = node.commit(own=True)
