"""Writes of keys whose concurrent writes are kept: containers instead of plain records.

What ``Applier`` is to all other keys, and called by it: ``read`` before anything has changed, ``write`` afterwards. A
plain write supersedes what this node holds, a write with a context what its writer has seen. Always the whole container
is written, so that replicas that merge it lose nothing (causality/dvv.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from respkv.base.errors import CommandError, ReadMiss
from respkv.base.ids import TOMBSTONE
from respkv.causality import dvv, siblings
from respkv.causality.dvv import Clock, Container
from respkv.causality.record import kind_of
from respkv.keyspace import effects as fx
from respkv.keyspace import keys
from respkv.keyspace.conflicts import Conflicts
from respkv.keyspace.counts import DEAD
from respkv.keyspace.rows import HashRow
from respkv.resp.errors import TRY_AGAIN

if TYPE_CHECKING:
    from respkv.keyspace.apply import Applier, Plan


class SiblingWrites:
    """The writer of kept keys of one keyspace."""

    __slots__ = ("_applier", "_conflicts", "_keyspace")

    def __init__(self, applier: Applier, conflicts: Conflicts) -> None:
        self._applier = applier
        self._keyspace = applier.keyspace
        self._conflicts = conflicts

    def read(self, effect: fx.Effect, plan: Plan) -> None:
        """Read what ``write`` needs to know. May raise ReadMiss, and CommandError for a write that may not be."""
        keyspace = self._keyspace
        internal = keyspace.internal(effect[1], effect[2])
        record = plan.records[internal] = keyspace.engine.get(internal)
        if not self._conflicts.actors.may_issue():
            raise CommandError(TRY_AGAIN)
        if effect[0] == fx.SUPERSEDE:
            self._conflicts.check_room(keyspace.container_in(internal, record), effect[5], effect[3])

    def write(self, effect: fx.Effect, plan: Plan) -> bool:
        """Carry out an effect that was read. False for one of a collection, which has no siblings."""
        operation, db, key = effect[0], effect[1], effect[2]
        if operation in (fx.DELETE, fx.EXPIRE):
            row = plan.rows.get((db, key))
            if type(row) is HashRow:
                return False
            if row is None:
                return True
        internal = self._keyspace.internal(db, key)
        if operation == fx.PUT:
            self._write(internal, effect[3], effect[4], None, plan)
        elif operation == fx.SUPERSEDE:
            self._conflicts.superseded += 1
            self._write(internal, effect[3], effect[4], effect[5], plan)
        elif operation == fx.DELETE:
            self._write(internal, None, 0, None, plan)
        else:
            self._expire(internal, effect[3], plan)
        return True

    def _held(self, internal: bytes, plan: Plan) -> Container:
        record = self._keyspace.engine.memtable.table.get(internal)
        return self._keyspace.container_in(internal, plan.records[internal] if record is None else record)

    def _write(
        self, internal: bytes, value: bytes | None, expire_at_ms: int, context: Clock | None, plan: Plan
    ) -> None:
        """``value``, None to delete, in place of what ``context`` covers; of all that is held without one."""
        clock, actors = self._keyspace.clock, self._conflicts.actors
        held = self._held(internal, plan)
        seen = held.clock if context is None else context
        clock.last = max(clock.last, held.newest_hlc(), max(seen.values(), default=0)) + 1
        written = dvv.update(
            held, actor=actors.actor_for(held), hlc=clock.last, context=seen, value=value, expire_at_ms=expire_at_ms
        )
        self._put(internal, dvv.prune(written, self._keyspace.now_ms), plan)

    def _expire(self, internal: bytes, expire_at_ms: int, plan: Plan) -> None:
        """A new expiry for each value, which stay siblings."""
        clock, now_ms = self._keyspace.clock, self._keyspace.now_ms
        held = self._held(internal, plan)
        visible = len(held.visible(now_ms))
        if visible:
            first_hlc = max(clock.last, held.newest_hlc()) + 1
            clock.last = first_hlc + visible - 1
            actor = self._conflicts.actors.actor_for(held)
            self._put(
                internal,
                dvv.set_expiry(held, actor=actor, first_hlc=first_hlc, expire_at_ms=expire_at_ms, now_ms=now_ms),
                plan,
            )

    def _put(self, internal: bytes, container: Container, plan: Plan) -> None:
        keyspace = self._keyspace
        db, key = keys.key_db(internal), keys.user_key(internal)
        record = siblings.encode(container)
        if kind_of(record) != TOMBSTONE:
            self._applier.put_record(internal, record)
        else:
            old = keyspace.engine.memtable.table.get(internal)
            if old is not None:
                keyspace.counts.replaced(internal, old, DEAD)
            keyspace.engine.put(internal, record)
        keyspace.cache.drop(db, key)
        self._conflicts.wrote(key, container, keyspace.now_ms)
        if (db, key) in plan.rows:
            plan.rows[db, key] = keyspace.build_row(internal, record)
        if keyspace.watching and keyspace.touched is not None:
            keyspace.touched(db, key)

    def write_back(self, plan: Plan) -> None:
        """Put merged values in place of the siblings they were made of, where nothing has come in between."""
        keyspace, conflicts = self._keyspace, self._conflicts
        merged, conflicts.merged = conflicts.merged, {}
        for internal, found in merged.items():
            try:
                record: Any = keyspace.engine.get(internal)
            except ReadMiss:
                continue  # The next reader merges again.
            if record is None or not self._applier.has_room(len(found.value)):
                continue
            if siblings.token(record) == found.token and conflicts.actors.may_issue():
                plan.records[internal] = record
                self._write(internal, found.value, found.expire_at_ms, None, plan)
                conflicts.written_back += 1
