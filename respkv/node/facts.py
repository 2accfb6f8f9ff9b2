"""The node's own facts when tables are damaged: flush floors, the map of databases, how far expiry has come, which
actors were given out.

They are entries of a local space and lie in tables like all others. A table that is lost may have held the newest of
them, and a forgotten floor would bring flushed keys back. So they are kept in the manifest too, brought up to date
before the edit that puts them into a table, and taken from there when a start finds a damaged table. A table that is
found damaged later has them logged again from memory.

A floor restored so may be one that a crash would have undone with its unsynced log; it was acknowledged. The
clock needs no copy: the manifest knows the greatest stamp of each table. The expiry mark may be forgotten: then the
index is walked again.
"""

from __future__ import annotations

import json
from typing import Any, Final

from respkv.base.slots import SLOT_COUNT
from respkv.keyspace import keys
from respkv.keyspace.keyspace import Keyspace
from respkv.storage.quarantine import DamagedTable

NAME: Final = "local-facts"
_DATABASES: Final = keys.meta_key(b"databases")


class Facts:
    """Keeps the manifest's copy up to date."""

    __slots__ = ("_keyspace", "_known")

    def __init__(self, keyspace: Keyspace) -> None:
        self._keyspace = keyspace
        saved = keyspace.engine.meta(NAME)
        self._known: dict[str, Any] = json.loads(saved) if saved is not None else {}

    def keep(self) -> None:
        """Have them in the next edit, if they have changed."""
        facts = _facts(self._keyspace)
        if facts != self._known:
            self._known = facts
            self._keyspace.engine.set_meta(NAME, json.dumps(facts).encode())


def _facts(keyspace: Keyspace) -> dict[str, Any]:
    actors = {"actors": keyspace.actors_from} if keyspace.actors_from else {}
    return {"floors": keyspace.floors.plain(), "stored": list(keyspace.stored), **actors}


def load(keyspace: Keyspace) -> None:
    """``keyspace.load``, with what damaged tables may have held taken from the manifest and logged again."""
    keyspace.load_facts()
    # Asked only now: a table that opens well may have a bad block just where the facts are.
    damaged = bool(keyspace.engine.damaged_tables())
    if damaged:
        _restore(keyspace)
    keyspace.counts.load()
    if damaged:
        log_again(keyspace)


def _restore(keyspace: Keyspace) -> None:
    """Merge the manifest's copy into what was found in log and tables."""
    saved = keyspace.engine.meta(NAME)
    if saved is None:
        return
    facts = json.loads(saved)
    for db, body in facts["floors"].items():
        keyspace.floors.decode(int(db), bytes.fromhex(body))
    keyspace.actors_from = max(keyspace.actors_from, facts.get("actors", 0))
    if _DATABASES not in keyspace.engine.memtable.table:
        # What was found is in a table, and may be older than what was lost. The manifest's is never older.
        stored: list[int] = facts["stored"]
        keyspace.stored = stored + list(range(len(stored), keyspace.databases))


def log_again(keyspace: Keyspace) -> None:
    """Put all facts into the log, so that they do not depend on any table."""
    for db in keyspace.floors.databases():
        keyspace.write_floor(db)
    keyspace.write_databases()
    keyspace.write_expired_through()
    if keyspace.actors_from:
        keyspace.write_actors(keyspace.actors_from)


def is_flushed(keyspace: Keyspace, table: DamagedTable) -> bool:
    """Whether everything that ``table`` held, whatever it was, lies below the flush floors."""
    for db in keyspace.stored:
        body = keyspace.floors.encode(db)
        whole = (0).to_bytes(2, "big") + (SLOT_COUNT - 1).to_bytes(2, "big")
        if body[:4] != whole or body[4:] < table.max_stamp:
            return False
    return True
