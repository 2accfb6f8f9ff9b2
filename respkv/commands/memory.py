"""MEMORY: what takes how much.

Memory is that of the caches and memtables, which have fixed shares; the data itself is on disk.
"""

from __future__ import annotations

from typing import Final

from respkv.commands.argument_shapes import KEY
from respkv.commands.arguments import integer
from respkv.commands.help_text import help_reply
from respkv.commands.info import key_counts, refusal_reason
from respkv.commands.session import Session
from respkv.commands.spec import LOADING, NO_FLAGS, READONLY, STALE, Arg, ArgType, CommandSpec, Form, KeySpec
from respkv.keyspace import effects
from respkv.keyspace.effects import Effects
from respkv.keyspace.view import View
from respkv.resp import errors
from respkv.resp.errors import fail
from respkv.resp.reply import NULL, OK, Double, Map, Reply, Verbatim, bulk
from respkv.resp.reply import integer as number

#: The process may take this much more than what is accounted for before the doctor speaks.
_FRAGMENTED: Final = 3.0
_SMALL_BYTES: Final = 5 << 20


def memory_usage(argv: list[bytes], view: View) -> tuple[Reply, Effects]:
    """MEMORY USAGE key [SAMPLES count]: bytes the key takes when it is cached; null when it is absent."""
    at = 3
    while at < len(argv):
        if argv[at].upper() != b"SAMPLES" or at + 1 >= len(argv):
            raise fail(errors.SYNTAX)
        # Sizes are kept, not sampled; the count is only checked.
        if integer(argv[at + 1]) < 0:
            raise fail(errors.SYNTAX)
        at += 2
    size = view.memory(argv[2])
    return NULL if size is None else number(size), effects.NONE


def memory_stats(argv: list[bytes], session: Session) -> Reply:
    """MEMORY STATS: names as Redis has them, then our own parts."""
    server = session.server
    memory = server.memory()
    used, rss = memory.get("used", 0), memory.get("rss", 0)
    peak = max(memory.get("peak", 0), used)
    keys = sum(count for _, count in key_counts(server))
    integers: list[tuple[str, int | float]] = [
        ("peak.allocated", peak),
        ("total.allocated", used),
        ("startup.allocated", 0),
        ("replication.backlog", 0),
        ("clients.slaves", 0),
        ("clients.normal", sum(other.sink.buffered() for other in server.sessions.values())),
        ("cluster.links", 0),
        ("aof.buffer", 0),
        ("lua.caches", 0),
        ("functions.caches", 0),
        ("overhead.total", 0),
        ("db.dict.rehashing.count", 0),
        ("keys.count", keys),
        ("keys.bytes-per-key", used // keys if keys else 0),
        ("dataset.bytes", used),
        ("dataset.percentage", 100.0 if used else 0.0),
        ("peak.percentage", 100.0 * used / peak if peak else 0.0),
        ("allocator.allocated", used),
        ("allocator.active", rss),
        ("allocator.resident", rss),
        ("allocator.muzzy", 0),
        ("allocator-fragmentation.ratio", 1.0),
        ("allocator-fragmentation.bytes", 0),
        ("allocator-rss.ratio", 1.0),
        ("allocator-rss.bytes", 0),
        ("rss-overhead.ratio", 1.0),
        ("rss-overhead.bytes", 0),
        ("fragmentation", rss / used if used else 0.0),
        ("fragmentation.bytes", max(0, rss - used)),
        ("respkv.row-cache", memory.get("row_cache", 0)),
        ("respkv.block-cache", memory.get("block_cache", 0)),
        ("respkv.memtables", memory.get("memtables", 0)),
    ]
    return Map([(bulk(name.encode()), Double(v) if isinstance(v, float) else number(v)) for name, v in integers])


def memory_doctor(argv: list[bytes], session: Session) -> Reply:
    """MEMORY DOCTOR: a sentence on what looks odd."""
    memory = session.server.memory()
    used, rss = memory.get("used", 0), memory.get("rss", 0)
    if used < _SMALL_BYTES:
        return Verbatim(b"This instance is empty or uses very little memory: there is nothing to judge yet.\n")
    lines = []
    if rss > used * _FRAGMENTED:
        lines.append(b"The process takes %.1f times what caches and memtables account for." % (rss / used))
    reason = refusal_reason(session.server)
    if reason:
        lines.append(b"Writes are refused at the moment: %b." % reason.encode())
    return Verbatim(b"\n".join(lines or [b"No memory issue was found."]) + b"\n")


def memory_malloc_stats(argv: list[bytes], session: Session) -> Reply:
    """MEMORY MALLOC-STATS: the parts we know of; the interpreter's allocator prints none."""
    parts = sorted(session.server.memory().items())
    return Verbatim(b"".join([b"%b: %d\n" % (name.encode(), value) for name, value in parts]))


def memory_purge(argv: list[bytes], session: Session) -> Reply:
    """MEMORY PURGE: OK; the interpreter's allocator gives free arenas back by itself."""
    return OK


def memory_help(argv: list[bytes], session: Session) -> Reply:
    """MEMORY HELP"""
    return help_reply(
        "MEMORY",
        (
            "DOCTOR",
            "    Return memory problems reports.",
            "MALLOC-STATS",
            "    Return internal statistics report from the memory allocator.",
            "PURGE",
            "    Attempt to purge dirty pages for reclamation by the allocator.",
            "STATS",
            "    Return information about the memory usage of the server.",
            "USAGE <key> [SAMPLES <count>]",
            "    Return memory in bytes used by <key> and its value when they are cached.",
        ),
    )


_SPECIAL: Final = ("nondeterministic_output", "request_policy:all_shards", "response_policy:special")
_SUCCEEDED: Final = ("request_policy:all_shards", "response_policy:all_succeeded")
_ALLOCATED: Final = "Depends on how much memory is allocated, could be slow"

_ROWS: Final = (
    ("doctor", memory_doctor, NO_FLAGS, _SPECIAL, "O(1)", "Outputs a memory problems report."),
    ("help", memory_help, LOADING | STALE, (), "O(1)", "Returns helpful text about the different subcommands."),
    ("malloc-stats", memory_malloc_stats, NO_FLAGS, _SPECIAL, _ALLOCATED, "Returns the allocator statistics."),
    ("purge", memory_purge, NO_FLAGS, _SUCCEEDED, _ALLOCATED, "Asks the allocator to release memory."),
    ("stats", memory_stats, NO_FLAGS, _SPECIAL, "O(1)", "Returns details about memory usage."),
)

COMMANDS: Final = (
    CommandSpec(
        "memory", None, -2, acl=("slow",), form=Form.SESSION, group="server", since="4.0.0",
        complexity="Depends on subcommand.", summary="A container for memory diagnostics commands.",
        subcommands=(
            *(
                CommandSpec(
                    f"memory|{name}", handler, 2, flags, acl=("slow",), form=Form.SESSION, group="server",
                    since="4.0.0", complexity=complexity, summary=summary, tips=tips,
                )
                for name, handler, flags, tips, complexity, summary in _ROWS
            ),
            CommandSpec(
                "memory|usage", memory_usage, -3, READONLY, (KeySpec(2, 2, 1, flags=("RO",)),), ("read", "slow"),
                group="server", since="4.0.0", complexity="O(1)", summary="Estimates the memory usage of a key.",
                args=(
                    KEY,
                    Arg("count", ArgType.INTEGER, "SAMPLES", ("optional",)),
                ),
            ),
        ),
    ),
)  # fmt: skip
