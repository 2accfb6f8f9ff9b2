"""The witness: sees every record that any node's log is given, and what is left of it after crashes.

``WatchedFileSystem`` is a simulated disk that reports what is written to the log. The witness knows nothing of how a
node comes to write something. It checks at once what must hold of each single log (``problems``), and keeps what the
checkers of whole histories need:

* ``versions``: every record ever logged, by internal key, with the true time at which it was first seen anywhere;
* ``floors``: every flush floor, likewise;
* ``surviving``: for each node the records its disk still vouches for.

Checked at once, per node: no record is replaced by an older one; two records under one stamp do not differ (but an
expired form, and the floors of collections); nothing is logged below the node's own flush floor.
"""

from __future__ import annotations

from collections.abc import Callable
from struct import Struct
from typing import Final, NamedTuple

from respkv.base.ids import HASH
from respkv.causality import siblings
from respkv.causality.record import BODY_AT, DVV, EXPIRING_BODY_AT, HAS_EXPIRY, TYPE_MASK, newer
from respkv.env.rng import Rng
from respkv.keyspace import keys
from respkv.keyspace.floors import META_PREFIX, FlushFloors
from respkv.keyspace.leaf_rule import element_floor
from respkv.storage.wal import BATCH
from respkv.storage.write_batch import iterate_payload
from respkv.testing.disk import Inode, PowerLoss, SimulatedFileSystem

#: The head of a log record, see ``storage/wal``.
_RECORD: Final = Struct("<HIBQQ")
_MAGIC: Final = 0xD7A5
_TRAILER_BYTES: Final = 8
_FLOOR_KEY: Final = keys.meta_key(META_PREFIX)
_PLACED: Final = (keys.SPACE_RECORD, keys.SPACE_ELEMENT)
_PROBLEMS_MAX: Final = 50


class Logged(NamedTuple):
    """One record in one log."""

    lsn: int
    us: int
    key: bytes
    record: bytes


class Floor(NamedTuple):
    """One flush floor, and when it was first seen."""

    us: int
    db: int
    first: int
    last: int
    stamp: bytes


class WatchedFileSystem(SimulatedFileSystem):
    """A disk that tells ``on_batch(lsn, payload)`` of each batch written to a write-ahead log."""

    def __init__(self, *, capacity: int | None = None) -> None:
        super().__init__(capacity=capacity)
        self.on_batch: Callable[[int, bytes], None] | None = None

    def write_inode(self, path: str, inode: Inode, data: bytes, offset: int) -> None:
        try:
            super().write_inode(path, inode, data, offset)
        except PowerLoss:
            self._report(path, data)
            raise
        self._report(path, data)

    def _report(self, path: str, data: bytes) -> None:
        if self.on_batch is None or "/wal/" not in path or len(data) < _RECORD.size + _TRAILER_BYTES:
            return
        magic, length, kind, lsn, _ = _RECORD.unpack_from(data)
        if magic == _MAGIC and kind == BATCH:
            assert len(data) == _RECORD.size + length + _TRAILER_BYTES, "a batch is one write"
            self.on_batch(lsn, data[_RECORD.size : -_TRAILER_BYTES])

    def crash(self, rng: Rng) -> WatchedFileSystem:
        return self._watched(super().crash(rng))

    def copy(self) -> WatchedFileSystem:
        return self._watched(super().copy())

    def _watched(self, found: SimulatedFileSystem) -> WatchedFileSystem:
        watched = WatchedFileSystem()
        watched.__dict__.update(found.__dict__)
        watched.on_batch = self.on_batch
        return watched


class _Log:
    """What one node's disk has been given."""

    __slots__ = ("cuts", "entries", "floors", "held", "opening")

    def __init__(self) -> None:
        self.entries: list[Logged] = []
        #: key -> the record logged last, of those that are still there
        self.held: dict[bytes, bytes] = {}
        self.floors = FlushFloors()
        #: recovery copies what it has found: that is nothing new
        self.opening = False
        #: times at which records were lost
        self.cuts: list[int] = []


class Witness:
    """See the module's docstring. ``now_us()`` is the true time."""

    def __init__(self, now_us: Callable[[], int]) -> None:
        self._now_us = now_us
        self._logs: dict[str, _Log] = {}
        self.versions: dict[bytes, dict[bytes, int]] = {}
        self.floors: list[Floor] = []
        self._floors_seen: dict[tuple[int, int, int, bytes], None] = {}
        self.problems: list[str] = []
        #: records that a crash has taken back from a log
        self.lost = 0

    def watch(self, node: str, disk: WatchedFileSystem) -> None:
        """Listen to a node's disk."""
        self._logs.setdefault(node, _Log())
        disk.on_batch = lambda lsn, payload: self.wrote(node, lsn, payload)

    def opening(self, node: str) -> None:
        """The node's store is about to be recovered."""
        self._logs[node].opening = True

    def opened(self, node: str, last_lsn: int) -> None:
        """Recovery has found the log whole up to ``last_lsn``."""
        log = self._logs[node]
        log.opening = False
        kept = [entry for entry in log.entries if entry.lsn <= last_lsn]
        gone = len(log.entries) - len(kept)
        if not gone:
            return
        self.lost += gone
        log.cuts.append(self._now_us())
        log.entries = kept
        log.held = {entry.key: entry.record for entry in kept}
        log.floors = FlushFloors()
        for entry in kept:
            self._raise(log, entry.key, entry.record)

    def wrote(self, node: str, lsn: int, payload: bytes) -> None:
        """A batch was written to a node's log."""
        log = self._logs[node]
        if log.opening:
            return
        now_us = self._now_us()
        for key, record in iterate_payload(payload):
            if key[0] in _PLACED:
                self._check(node, log, key, record)
                log.held[key] = record
                self.versions.setdefault(key, {}).setdefault(record, now_us)
            elif self._raise(log, key, record):
                self._note_floors(keys_db(key), record[BODY_AT:], now_us)
            else:
                continue
            log.entries.append(Logged(lsn, now_us, key, record))

    def _raise(self, log: _Log, key: bytes, record: bytes) -> bool:
        if not key.startswith(_FLOOR_KEY):
            return False
        log.floors.decode(keys_db(key), record[BODY_AT:])
        return True

    def _note_floors(self, db: int, body: bytes, now_us: int) -> None:
        for at in range(0, len(body), 14):
            first, last = int.from_bytes(body[at : at + 2], "big"), int.from_bytes(body[at + 2 : at + 4], "big")
            stamp = body[at + 4 : at + 14]
            if (db, first, last, stamp) not in self._floors_seen:
                self._floors_seen[db, first, last, stamp] = None
                self.floors.append(Floor(now_us, db, first, last, stamp))

    def _check(self, node: str, log: _Log, key: bytes, record: bytes) -> None:
        stamp = record[1:BODY_AT]
        if log.floors.hides(keys.key_slot(key), keys.key_db(key), stamp):
            self._problem(node, key, f"logs {stamp.hex()}, below its flush floor")
        old = log.held.get(key)
        if old is None or old == record:
            return
        if stamp > old[1:BODY_AT] or (stamp == old[1:BODY_AT] and may_follow(old, record)):
            return
        owner = log.held.get(keys.element_owner(key)[0]) if key[0] == keys.SPACE_ELEMENT else None
        if key[0] == keys.SPACE_ELEMENT and stamp <= element_floor(owner):
            # Nobody sees it. What was hidden, or went with the expiry of its owner, may have been forgotten, and comes
            # again from who has not.
            return
        if stamp == old[1:BODY_AT]:
            self._problem(node, key, f"logs two different records under {stamp.hex()}")
        elif not log.floors.hides(keys.key_slot(key), keys.key_db(key), old[1:BODY_AT]):
            self._problem(node, key, f"logs {stamp.hex()} over {old[1:BODY_AT].hex()}, which is newer")

    def _problem(self, node: str, key: bytes, text: str) -> None:
        if len(self.problems) < _PROBLEMS_MAX:
            self.problems.append(f"log: {node} {text}, at {name_of(key)}, {self._now_us()} us")

    # What is left

    def surviving(self) -> dict[bytes, bytes]:
        """By internal key, the newest of all records that any log still holds."""
        found: dict[bytes, bytes] = {}
        for log in self._logs.values():
            for _, _, key, record in log.entries:
                if key[0] in _PLACED:
                    old = found.get(key)
                    if old is None:
                        found[key] = record
                    elif (old[0] | record[0]) & DVV:
                        found[key] = siblings.join(old, record)
                    elif old[1:BODY_AT] != record[1:BODY_AT]:
                        found[key] = newer(old, record)
                    elif not record[0] & TYPE_MASK:
                        found[key] = record
        return found

    def surviving_floors(self) -> FlushFloors:
        """All flush floors that any log still holds."""
        floors = FlushFloors()
        for log in self._logs.values():
            for _, _, key, record in log.entries:
                if key.startswith(_FLOOR_KEY):
                    floors.decode(keys_db(key), record[BODY_AT:])
        return floors

    def entries(self, node: str) -> list[Logged]:
        """What a node's log holds of records and floors, in order."""
        return self._logs[node].entries

    def cuts(self) -> list[int]:
        """When any node has lost records."""
        return sorted(us for log in self._logs.values() for us in log.cuts)

    def nodes(self) -> list[str]:
        """Whom the witness watches."""
        return list(self._logs)


def may_follow(old: bytes, record: bytes) -> bool:
    """Whether ``record`` may replace ``old`` of the same stamp: as its expired form, or with a raised floor."""
    if old[0] & record[0] & DVV:
        return True  # Containers grow under one stamp: what they held is ``sibling_work``'s to judge.
    if not record[0] & TYPE_MASK:
        return bool(record[0] & HAS_EXPIRY) and record[11:EXPIRING_BODY_AT] == old[11:EXPIRING_BODY_AT]
    return record[0] & TYPE_MASK >= HASH and old[0] == record[0] and element_floor(record) > element_floor(old)


def keys_db(floor_key: bytes) -> int:
    """The database of a flush floor's internal key."""
    return int.from_bytes(floor_key[len(_FLOOR_KEY) :], "big")


def name_of(key: bytes) -> str:
    """An internal key for people."""
    if key[0] == keys.SPACE_ELEMENT:
        owner, field = keys.element_owner(key)
        return f"{name_of(owner)} field {field.decode('latin-1')}"
    return f"key {keys.user_key(key).decode('latin-1')}"
