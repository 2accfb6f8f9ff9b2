"""Persistence, memory and the way values are kept."""

from __future__ import annotations

from typing import Final

from respkv.config.directive import Directive, Section, kept
from respkv.config.kinds import (
    INT_MAX,
    INT_MIN,
    LONG_MAX,
    MIB,
    Choice,
    Flag,
    Integer,
    Memory,
    SaveRules,
    Text,
)

_COUNT: Final = Integer(0, INT_MAX)
_LONG: Final = Integer(0, LONG_MAX)
_BYTES: Final = Memory(0, LONG_MAX)


def _file_name(what: str, thing: str) -> Text:
    return Text(r"[^/]+", f"{what} can't be a path, just a {thing}")


PERSISTENCE: Final = Section(
    "Persistence",
    (
        Directive(
            "dir", Text(r".+", "No such file or directory"), ".", "Directory of the data.", mutable=False
        ),
        Directive(
            "appendfsync",
            Choice(("everysec", "always", "no")),
            "everysec",
            "When the log is forced to disk: before each reply, each second, or when the system likes.",
        ),
        Directive("save", SaveRules(), (), "Make a snapshot after so many seconds with so many changes."),
        Directive("snapshots-kept", Integer(1, 1000), 1, "Snapshots that stay on disk."),
        Directive(
            "max-disk",
            _BYTES,
            0,
            "Refuse writes when tables, logs and manifest hold more; 0 sets no limit. Room for logs (up to 528 MB"
            " each), ballast-bytes and snapshots come on top.",
        ),
        Directive(
            "ballast-bytes",
            _BYTES,
            64 * MIB,
            "Disk space held back so that a full disk can still be cleaned up.",
            mutable=False,
        ),
        Directive(
            "compaction-rate",
            Integer(0, 1 << 20, "MB per second"),
            0,
            "Speed limit of compaction, bytes read, written and verified; 0 is 192.",
            mutable=False,
        ),
        kept(
            "max-clock-skew",
            Integer(0, LONG_MAX, "ms"),
            10000,
            "A stamp further ahead of the clock than this is refused.",
        ),
        Directive(
            "appendonly",
            Flag(),
            True,
            "Force the log to disk as appendfsync says; no: the log is written all the same, as with appendfsync no.",
        ),
        kept(
            "appendfilename",
            _file_name("appendfilename", "filename"),
            "appendonly.aof",
            "Name of the log.",
            mutable=False,
        ),
        kept(
            "appenddirname",
            _file_name("appenddirname", "dirname"),
            "appendonlydir",
            "Directory of the log.",
            mutable=False,
        ),
        kept(
            "dbfilename",
            _file_name("dbfilename", "filename"),
            "dump.rdb",
            "Name of the snapshot.",
            protected=True,
        ),
        kept("rdbcompression", Flag(), True, "Compress snapshots."),
        kept(
            "rdbchecksum", Flag(), True, "Put a checksum into snapshots; there always is one.", mutable=False
        ),
        kept("rdb-del-sync-files", Flag(), False, "Remove files used for replication."),
        kept("rdb-save-incremental-fsync", Flag(), True, "Sync a snapshot in parts."),
        kept("rdb-key-save-delay", Integer(INT_MIN, INT_MAX, "us"), 0, "Slow a snapshot down.", hidden=True),
        kept("key-load-delay", Integer(INT_MIN, INT_MAX, "us"), 0, "Slow loading down.", hidden=True),
        kept(
            "loading-process-events-interval-bytes",
            Memory(1024, LONG_MAX),
            2 * MIB,
            "Serve events each so many bytes while loading.",
            hidden=True,
        ),
        kept("stop-writes-on-bgsave-error", Flag(), True, "Refuse writes after a failed snapshot."),
        kept("no-appendfsync-on-rewrite", Flag(), False, "Do not sync the log while it is rewritten."),
        kept("auto-aof-rewrite-percentage", _COUNT, 100, "Growth after which the log is rewritten."),
        kept("auto-aof-rewrite-min-size", _BYTES, 64 * MIB, "Size below which the log is not rewritten."),
        kept("aof-rewrite-incremental-fsync", Flag(), True, "Sync a rewritten log in parts."),
        kept("aof-use-rdb-preamble", Flag(), True, "Begin the log with a snapshot."),
        kept(
            "aof-load-truncated", Flag(), True, "Accept a log with a torn end; a torn end is always dropped."
        ),
        kept("aof-timestamp-enabled", Flag(), False, "Put times into the log."),
        kept("aof-disable-auto-gc", Flag(), False, "Keep old files of the log."),
    ),
)

MEMORY: Final = Section(
    "Memory",
    (
        Directive(
            "maxmemory",
            Memory(),
            0,
            "Budget of memtables and caches; data lives on disk and may be far larger. 0 is a quarter of"
            " the machine's or container's memory.",
        ),
        Directive(
            "memtable-bytes",
            _BYTES,
            0,
            "Size of a memtable, of which there are two; 0 derives it.",
            mutable=False,
        ),
        Directive("row-cache-bytes", _BYTES, 0, "Size of the cache of values; 0 derives it.", mutable=False),
        Directive(
            "block-cache-bytes", _BYTES, 0, "Size of the cache of table blocks; 0 derives it.", mutable=False
        ),
        kept(
            "maxmemory-policy",
            Choice(
                (
                    "volatile-lru",
                    "volatile-lfu",
                    "volatile-random",
                    "volatile-ttl",
                    "allkeys-lru",
                    "allkeys-lfu",
                    "allkeys-random",
                    "noeviction",
                )
            ),
            "noeviction",
            "Which keys to remove when memory is short; none ever is.",
            warning="'maxmemory-policy {}' has no effect: nothing is evicted. 'maxmemory' bounds caches and memtables,"
            " not the data; 'max-disk' bounds that.",
        ),
        kept("maxmemory-samples", Integer(1, INT_MAX), 5, "Keys looked at before one is evicted."),
        kept("maxmemory-eviction-tenacity", Integer(0, 100), 10, "Effort of eviction."),
        kept("lfu-log-factor", _COUNT, 10, "How slowly use counters grow."),
        kept("lfu-decay-time", Integer(0, INT_MAX, "minutes"), 1, "How fast use counters shrink."),
        kept("active-expire-effort", Integer(1, 10), 1, "Effort of removing expired keys."),
        kept("lazyfree-lazy-eviction", Flag(), False, "Free evicted values in the background."),
        kept("lazyfree-lazy-expire", Flag(), False, "Free expired values in the background."),
        kept("lazyfree-lazy-server-del", Flag(), False, "Free replaced values in the background."),
        kept("lazyfree-lazy-user-del", Flag(), False, "Free what DEL removes in the background."),
        kept("lazyfree-lazy-user-flush", Flag(), False, "Flush in the background."),
        kept("activerehashing", Flag(), True, "Rehash tables in idle time."),
        kept("activedefrag", Flag(), False, "Defragment memory in idle time."),
        kept("active-defrag-ignore-bytes", Memory(1, LONG_MAX), 100 * MIB, "Waste that is left alone."),
        kept(
            "active-defrag-threshold-lower", Integer(0, 1000, "%"), 10, "Waste at which defragmenting begins."
        ),
        kept("active-defrag-threshold-upper", Integer(0, 1000, "%"), 100, "Waste that deserves most effort."),
        kept("active-defrag-cycle-min", Integer(1, 99, "%"), 1, "Least effort of defragmenting."),
        kept("active-defrag-cycle-max", Integer(1, 99, "%"), 25, "Most effort of defragmenting."),
        kept("active-defrag-max-scan-fields", Integer(1, LONG_MAX), 1000, "Fields scanned at once."),
    ),
)

ENCODINGS: Final = Section(
    "What OBJECT ENCODING answers",
    (
        Directive(
            "hash-max-listpack-entries",
            _LONG,
            512,
            "Most fields of a hash called listpack.",
            aliases=("hash-max-ziplist-entries",),
        ),
        Directive(
            "hash-max-listpack-value",
            _BYTES,
            64,
            "Longest field or value of a hash called listpack.",
            aliases=("hash-max-ziplist-value",),
        ),
        kept(
            "list-max-listpack-size",
            Integer(INT_MIN, INT_MAX),
            -2,
            "Most elements, or as -1..-5 the size class, of a list called listpack.",
            aliases=("list-max-ziplist-size",),
        ),
        kept("list-compress-depth", _COUNT, 0, "Compress a list but for so many elements at each end."),
        kept("set-max-intset-entries", _LONG, 512, "Most members of a set called intset."),
        kept("set-max-listpack-entries", _LONG, 128, "Most members of a set called listpack."),
        kept("set-max-listpack-value", _BYTES, 64, "Longest member of a set called listpack."),
        kept(
            "zset-max-listpack-entries",
            _LONG,
            128,
            "Most members of a sorted set called listpack.",
            aliases=("zset-max-ziplist-entries",),
        ),
        kept(
            "zset-max-listpack-value",
            _BYTES,
            64,
            "Longest member of a sorted set called listpack.",
            aliases=("zset-max-ziplist-value",),
        ),
        kept("hll-sparse-max-bytes", _BYTES, 3000, "Largest sparse HyperLogLog."),
        kept("stream-node-max-bytes", _BYTES, 4096, "Largest node of a stream."),
        kept("stream-node-max-entries", _LONG, 100, "Most entries in a node of a stream."),
    ),
)
