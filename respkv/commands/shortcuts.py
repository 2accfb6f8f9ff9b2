"""Shortcuts: INCR, MSET and HSET of one field, of keys that are at hand, without view, effects and plan.

They are what ``dispatch.run_turns`` tries before the general path, for plain sessions on a plain single node, as it
treats GET and SET. A shortcut does the whole request and returns its reply, or has changed nothing and returns None:
then the general path runs it. It ends in the same primitives; ``tests/model/test_fast_path.py`` demands equal replies,
contents and counters of both. Only how many elements a hash has is logged less often: fields that are put in turn,
before anything else runs or the batch is committed, are counted once (``settle``).
"""

from __future__ import annotations

from binascii import crc_hqx
from collections.abc import Callable
from typing import Any, Final

from respkv.base.errors import CorruptionError, ReadMiss
from respkv.base.ids import STRING
from respkv.base.limits import KEY_BYTES_MAX
from respkv.causality.hlc import pack_stamp
from respkv.causality.record import BODY_AT, pack_string_head
from respkv.commands.string import is_short_number
from respkv.commands.table import CommandTable
from respkv.keyspace.apply import LARGE_BYTES, Applier
from respkv.keyspace.keys import RECORD_KEY_AT
from respkv.keyspace.keyspace import TRIM_SHARE
from respkv.keyspace.rows import HashRow, field_charge
from respkv.metrics.registry import CommandStats, Registry
from respkv.resp.reply import BULK_HEADS, OK, ONE, ZERO
from respkv.storage.row_cache import charge_of
from respkv.storage.write_batch import pack_lengths

Rows = dict[bytes, Any]
#: (stored database, its young rows, its prefixes, request) -> finished reply or None
Shortcut = Callable[[int, Rows, bytes, list[bytes]], bytes | None]

_BRACE: Final = 123  # "{" begins a hash tag
#: A longer MSET, or one with a longer key or value, may need room in the log that has to be made first.
_PAIRS_MAX: Final = 120
_BYTES_MAX: Final = 4096
assert 2 * _PAIRS_MAX * _BYTES_MAX < LARGE_BYTES


class Shortcuts:
    """The shortcuts of one node. The loop calls ``settle`` before anything else runs, and counts by ``take``."""

    __slots__ = (
        "_applier", "_hits", "_keyspace", "_stats", "by_word", "counts", "fields", "grown", "increments", "last",
        "sets",
    )  # fmt: skip

    def __init__(self, applier: Applier, registry: Registry, table: CommandTable) -> None:
        self._applier = applier
        self._keyspace = applier.keyspace
        self._stats: list[CommandStats] = [registry.command(name) for name in ("incr", "hset", "mset")]
        #: bytes that cached rows have grown by and the row cache does not know of
        self.grown = 0
        #: hashes whose count is not logged yet, by internal key, with the HLC value that the last change took for it
        self.counts: dict[bytes, tuple[HashRow, int]] = {}
        self._hits = 0
        self.increments = self.fields = self.sets = 0
        #: the last command's name
        self.last = ""
        #: by the command's word; empty where a command goes by another name
        self.by_word: dict[bytes, Shortcut] = {}
        for name, shortcut in (("incr", self.increment), ("hset", self.set_field), ("mset", self.set_all)):
            word = name.encode()
            if (spec := table.lookup(word)) is not None and spec.name == name:
                self.by_word[word] = self.by_word[word.upper()] = shortcut

    @property
    def done(self) -> int:
        """How many requests were served that are not counted yet."""
        return self.increments + self.fields + self.sets

    def settle(self) -> int:
        """Log the counts that wait for it; the bytes that cached rows have grown by, for the row cache."""
        if self.counts:
            node = self._keyspace.clock.node
            for row, hlc in self.counts.values():
                self._applier.write_count(row, pack_stamp(hlc, node))
            self.counts = {}
        grown, self.grown = self.grown, 0
        return grown

    def take(self) -> list[tuple[CommandStats, int]]:
        """What is to be counted: each command's figures, and how often it was served."""
        self._keyspace.cache.hits += self._hits
        counted = list(zip(self._stats, (self.increments, self.fields, self.sets)))
        self._hits = self.increments = self.fields = self.sets = 0
        return counted

    def increment(self, db: int, rows: Rows, prefixes: bytes, argv: list[bytes]) -> bytes | None:  # HOT: incr
        """INCR of a short plain number that does not expire and is in memory, or of a new key."""
        if len(argv) != 2:
            return None
        key = argv[1]
        if not isinstance(key, bytes) or _BRACE in key:
            return None
        at = (crc_hqx(key, 0) & 16383) * RECORD_KEY_AT
        internal = prefixes[at : at + RECORD_KEY_AT] + key
        row = rows.get(key)
        cached = isinstance(row, bytes)
        old: bytes | None = row if cached else None
        if row is None:
            old = self._uncached(db, key, internal)
        if old is None:
            return None
        if old:
            text = old[old.index(10, BODY_AT) + 1 : -2]
            if not is_short_number(text):
                return None
            value = b"%d" % (int(text) + 1)
        else:
            value = b"1"
        keyspace = self._keyspace
        clock, engine = keyspace.clock, keyspace.engine
        clock.last += 1
        record = b"".join((pack_string_head(1, clock.last, clock.node), BULK_HEADS[len(value)], value, b"\r\n"))
        if cached:
            rows[key] = record
            engine.memtable.deferred.append(internal)
            self.grown += len(record) - len(old)
            self._hits += 1
        else:
            keyspace.cache.misses += 1
            if not old or internal in engine.memtable.table:
                engine.memtable.table[internal] = record
            else:
                # As the general path does with what comes from a table: from now on the cache holds its newest record.
                rows[key] = record
                engine.memtable.deferred.append(internal)
                self.grown += charge_of(key, record)
        engine.batch += (pack_lengths(len(record), len(internal)), internal, record)
        self.increments += 1
        self.last = "incr"
        return b":%b\r\n" % value

    def _uncached(self, db: int, key: bytes, internal: bytes) -> bytes | None:  # HOT: incr
        """The plain string that the engine holds of a key without a young row, if no block has to be read from disk and
        the row cache has room for it; empty where the store has never heard of the key; None: none of that."""
        keyspace = self._keyspace
        old_rows = keyspace.cache.old.get(db)
        if (old_rows and key in old_rows) or len(key) > KEY_BYTES_MAX:
            return None
        record: bytes | None = keyspace.engine.memtable.table.get(internal)
        if record is None:
            try:
                record = keyspace.engine.get_listed(internal)
            except (CorruptionError, ReadMiss):
                return None
            if record is None:
                return b""
            if keyspace.cache.is_turning_soon:
                return None
        return record if record[0] == STRING and record[1:BODY_AT] > keyspace.floors.highest else None

    def set_field(self, db: int, rows: Rows, prefixes: bytes, argv: list[bytes]) -> bytes | None:  # HOT: hset
        """HSET of one field that is at hand, or known to be new, and does not expire; nor does the hash."""
        if len(argv) != 4:
            return None
        key, field, value = argv[1], argv[2], argv[3]
        if not (isinstance(key, bytes) and isinstance(field, bytes) and isinstance(value, bytes)):
            return None
        row = rows.get(key)
        keyspace = self._keyspace
        if len(key) + len(field) > KEY_BYTES_MAX:
            return None
        if not isinstance(row, HashRow) or row.expire_at_ms:
            return None
        old = row.fields.get(field)
        if (not isinstance(old, bytes) and (old is not None or not row.complete)) or len(value) >= LARGE_BYTES // 2:
            return None
        grown = len(value) - len(old) if isinstance(old, bytes) else field_charge(field, value)
        if (row.charge + grown) * TRIM_SHARE > keyspace.cache.capacity:
            return None
        clock, engine = keyspace.clock, keyspace.engine
        clock.last += 1
        internal = row.prefix + field
        record = pack_string_head(1, clock.last, clock.node) + value
        engine.memtable.table[internal] = record
        engine.batch += (pack_lengths(len(record), len(internal)), internal, record)
        row.fields[field] = value
        row.used_ms = keyspace.now_ms
        self._hits += 1
        self.fields += 1
        self.last = "hset"
        if not isinstance(old, bytes):
            row.count += 1
            clock.last += 1
            self.counts[row.internal] = row, clock.last
        if grown:
            row.charge += grown
            self.grown += grown
        return ZERO if isinstance(old, bytes) else ONE

    def set_all(self, db: int, rows: Rows, prefixes: bytes, argv: list[bytes]) -> bytes | None:  # HOT: mset
        """MSET of keys that all hold plain strings."""
        size = len(argv)
        if not size & 1 or not 1 < size <= 2 * _PAIRS_MAX + 1:
            return None
        names, values = argv[1::2], argv[2::2]
        for name in names:
            if not isinstance(name, bytes) or _BRACE in name or len(name) >= _BYTES_MAX:
                return None
            if not isinstance(rows.get(name), bytes):
                return None
        for value in values:
            if not isinstance(value, bytes) or len(value) >= _BYTES_MAX:
                return None
        clock, engine = self._keyspace.clock, self._keyspace.engine
        node, last, grown, batch, deferred = clock.node, clock.last, 0, engine.batch, engine.memtable.deferred
        heads, pack_head, pack, crc = BULK_HEADS, pack_string_head, pack_lengths, crc_hqx
        for key, value in zip(names, values):
            last += 1
            record = b"".join((pack_head(1, last, node), heads[len(value)], value, b"\r\n"))
            at = (crc(key, 0) & 16383) * RECORD_KEY_AT
            internal = prefixes[at : at + RECORD_KEY_AT] + key
            grown += len(record) - len(rows[key])
            rows[key] = record
            deferred.append(internal)
            batch += (pack(len(record), len(internal)), internal, record)
        clock.last = last
        self.grown += grown
        self.sets += 1
        self.last = "mset"
        return OK
