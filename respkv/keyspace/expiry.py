"""Active expiry: works off the expiry index, oldest first, in slices.

``expired_through_ms`` moves on as the index is worked off; entries at or below it are dead and compaction drops
them. An entry whose record has meanwhile another expiry, or none, is passed over: EXPIRE leaves the old entry behind,
which takes room in the memtable (where it counts towards the limit at which the memtable is flushed) and on disk until
its time has come. Keys that a reader met after their time come first: they are put in the expired form at once.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from typing import TYPE_CHECKING, Final

from respkv.base.errors import BlockRequest, CorruptionError, ReadMiss
from respkv.keyspace import keys

if TYPE_CHECKING:
    from respkv.keyspace.apply import Applier

#: Keys and elements that are remembered as met after their time. They are worked off at the end of each cycle while the
#: log has room for it; whatever is forgotten otherwise is found again by its next reader, or by its index entry.
SIGHTED_MAX: Final = 100_000
#: How many of them go at the end of one cycle; one HGETALL may meet a hundred thousand fields.
SIGHTED_PER_CALL: Final = 1000
#: What an expired form takes of the log beside its key, the count of a hash that lost a field included, at the most.
_FORM_BYTES: Final = 256


class Sighted(dict[bytes, None]):
    """Internal keys that readers met after their time, oldest first. Full, it takes no new ones."""

    __slots__ = ()

    def __setitem__(self, internal: bytes, nothing: None) -> None:
        if len(self) < SIGHTED_MAX:
            super().__setitem__(internal, nothing)


class ExpiryDuty:
    """The expiry worker of one keyspace, whose list of keys to expire it bounds. ``run`` may be called as often as one
    likes.

    It goes on while clients' writes are refused, since expiring is what frees the disk in the end; on a full one as
    long as the log has room.
    """

    __slots__ = ("_damaged", "_position", "applier", "lag_ms")

    def __init__(self, applier: Applier, damaged: Callable[[CorruptionError], None] = lambda damage: None) -> None:
        self.applier = applier
        # Readers only ever add to the list; how long it may get is a matter of who works it off.
        applier.keyspace.sighted = Sighted()
        #: told of records that cannot be read; they are passed over
        self._damaged = damaged
        #: index key from which the interrupted scan goes on
        self._position: bytes | None = None
        self.lag_ms = 0

    def sighted(self) -> BlockRequest | None:
        """Expire a slice of what readers met after its time; a block to fetch first, or None."""
        keyspace = self.applier.keyspace
        for internal in list(islice(keyspace.sighted, SIGHTED_PER_CALL)):
            if not self._has_room(internal):
                break
            try:
                self.applier.expire_now(internal)
            except ReadMiss as miss:
                return miss.request
            except CorruptionError as damage:
                self._damaged(damage)
            del keyspace.sighted[internal]
        return None

    def run(self, limit: int) -> tuple[bool, BlockRequest | None]:
        """Work off up to ``limit`` index entries: (there is more, a block to fetch before the next call)."""
        keyspace = self.applier.keyspace
        engine, now = keyspace.engine, keyspace.now_ms
        start = self._position or keys.expiry_bound(keyspace.expired_through_ms)
        entries: list[bytes] = []
        try:
            for entry, _ in engine.scan(start, keys.expiry_bound(now + 1)):
                entries.append(entry)
                if len(entries) == limit:
                    break
            for entry in entries:
                if not self._has_room(entry):
                    return False, None
                try:
                    self._expire(entry)
                except CorruptionError as damage:
                    self._damaged(damage)
                self._position = keys.after(entry)
        except ReadMiss as miss:
            return True, miss.request
        if len(entries) == limit:
            keyspace.expired_through_ms = max(keyspace.expired_through_ms, keys.expiry_parts(entries[-1])[0] - 1)
            self.lag_ms = max(0, now - keyspace.expired_through_ms)
            return True, None
        keyspace.expired_through_ms = max(keyspace.expired_through_ms, now)
        self._position = None
        self.lag_ms = 0
        return False, None

    def _has_room(self, internal: bytes) -> bool:
        engine = self.applier.keyspace.engine
        return engine.refusal() is None or engine.has_room(2 * len(internal) + _FORM_BYTES)

    def _expire(self, entry: bytes) -> None:
        expire_at_ms, internal = keys.expiry_parts(entry)
        if internal[0] == keys.SPACE_RECORD:
            record = self.applier.keyspace.record(internal)
            if record is None or expire_at_ms != int.from_bytes(record[11:19], "big"):
                return
        self.applier.expire_now(internal)
