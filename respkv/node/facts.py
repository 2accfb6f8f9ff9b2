"""The node's own facts when tables are damaged: flush floors, the map of databases, how far expiry has come, which
actors were given out.

They are entries of a local space and lie in tables like all others. A table that is lost may have held the newest of
them, and a forgotten floor would bring flushed keys back. So the manifest has a copy, which says just what the tables
say: it is made when a memtable is retired, and the edit that puts its tables in force brings it. A start that finds a
damaged table takes the copy for what tables say of the facts; the log, which is whole or refuses the start, is newer.
A table that is found damaged later has them logged again from memory.

The clock needs no copy: the manifest knows the greatest stamp of each table. The expiry mark may be forgotten: then the
index is walked again.
"""

from __future__ import annotations

import json
from typing import Final

from respkv.base.slots import SLOT_COUNT
from respkv.keyspace import keys
from respkv.keyspace.keyspace import Keyspace
from respkv.storage.quarantine import DamagedTable

NAME: Final = "local-facts"
_DATABASES: Final = keys.meta_key(b"databases")


def describe(keyspace: Keyspace) -> dict[str, bytes]:
    """The manifest's copy of the facts as they are now, by its name."""
    actors = {"actors": keyspace.actors_from} if keyspace.actors_from else {}
    facts = {"floors": keyspace.floors.plain(), "stored": list(keyspace.stored), **actors}
    return {NAME: json.dumps(facts).encode()}


def load(keyspace: Keyspace) -> None:
    """``keyspace.load``, with what damaged tables may have held taken from the manifest and logged again.

    From now on the manifest's copy is kept up to date.
    """
    engine = keyspace.engine
    keyspace.load_facts()
    # Asked only now: a table that opens well may have a bad block just where the facts are.
    damaged = bool(engine.damaged_tables())
    if damaged:
        _restore(keyspace)
    keyspace.counts.load()
    if damaged:
        log_again(keyspace)
    engine.describe = lambda: describe(keyspace)
    for name, value in engine.describe().items():
        if engine.meta(name) != value:
            # All of it is durable. A copy that an older version of the program made may have been behind.
            engine.set_meta(name, value)


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
        # What was found is in a table, and may be older than what was lost. The manifest's is not.
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
