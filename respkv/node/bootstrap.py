"""Opening: from directives to an engine, a clock and a keyspace that serve.

Memory is divided as DESIGN asks: the budget is ``maxmemory`` or a quarter of the machine; a memtable gets a quarter
of that within 16 to 256 MiB (there are two), the row cache half of the rest, the block cache the other
half. Each part can be set by a directive of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from respkv.base.limits import MIB
from respkv.causality.hlc import HybridClock
from respkv.causality.record import BODY_AT
from respkv.env.fs import FileSystem
from respkv.keyspace import keys
from respkv.keyspace.keyspace import Keyspace
from respkv.node import facts
from respkv.storage.engine import Engine
from respkv.storage.options import EngineOptions
from respkv.storage.recovery import open_engine

_MEMTABLE_MIN: Final = 16 * MIB
_MEMTABLE_MAX: Final = 256 * MIB
_CACHE_MIN: Final = 8 * MIB
#: A node outside a ring, and the one that founds a ring, is number 1 (its stamps' last two bytes).
FIRST_NODE: Final = 1


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """Bytes for each part."""

    memtable: int
    row_cache: int
    block_cache: int


def plan_memory(value: Callable[[str], Any], machine_bytes: int) -> MemoryPlan:
    """Divide the budget; ``value`` answers a directive's value, ``machine_bytes`` is what the machine has."""
    budget = value("maxmemory") or machine_bytes // 4
    memtable = value("memtable-bytes") or min(_MEMTABLE_MAX, max(_MEMTABLE_MIN, budget // 4))
    rest = max(2 * _CACHE_MIN, budget - 2 * memtable)
    return MemoryPlan(
        memtable,
        value("row-cache-bytes") or rest // 2,
        value("block-cache-bytes") or rest // 2,
    )


def engine_options(
    value: Callable[[str], Any], memory: MemoryPlan, retention: Callable[[], dict[str, Any]]
) -> EngineOptions:
    """The engine's options."""
    rate = value("compaction-rate") * MIB
    options: dict[str, Any] = {"compaction_bytes_per_s": rate} if rate else {}
    return EngineOptions(
        memtable_bytes=memory.memtable,
        block_cache_bytes=memory.block_cache,
        ballast_bytes=value("ballast-bytes"),
        derived_spaces=keys.DERIVED_SPACES,
        local_spaces=frozenset({keys.SPACE_META}),
        retention=retention,
        # No stamp is below nothing: a tombstone stays when nobody can say whether it hides something.
        cautious_retention=lambda: {**retention(), "purge_below": ""},
        **options,
    )


def open_store(
    fs: FileSystem, directory: str, options: EngineOptions, memory: MemoryPlan, *, databases: int, wall_ms: int
) -> Keyspace:
    """Open the engine and the keyspace on it, and make a clock ceiling durable before anything is served.

    Raises what ``open_engine`` raises.
    """
    engine = open_engine(fs, directory, options, derive=keys.derive)
    clock = HybridClock(FIRST_NODE, highest_stamp(engine), 0)
    keyspace = Keyspace(engine, clock, databases=databases, row_cache_bytes=memory.row_cache)
    facts.load(keyspace)
    keyspace.begin(wall_ms)
    ceiling = keyspace.write_ceiling()
    commit_durably(keyspace)
    clock.raise_ceiling(ceiling)
    return keyspace


def commit_durably(keyspace: Keyspace) -> None:
    """Commit and sync, blocking, while nothing is served yet. FatalStorageError."""
    engine = keyspace.engine
    engine.commit()
    # What the log brought may fill a memtable, which is retired at its first commit.
    keyspace.counts.follow()
    plan = engine.sync_plan()
    if plan is not None:
        plan.run()
        engine.on_synced(plan)


def highest_stamp(engine: Engine) -> int:
    """The greatest HLC value in the replayed log and the tables: a floor under the clock beside its ceiling, which may
    be in a table that is lost. O(memtable)."""
    highest = max(
        (record[1:BODY_AT] for record in engine.memtable.table.values() if len(record) >= BODY_AT), default=b""
    )
    return int.from_bytes(max(highest, engine.highest_table_stamp())[:8], "big")
