"""INFO: one function per section, fields in Redis' order.

Redis' fields are all there, zero where they mean nothing here, since exporters and clients look for them. Our own
fields begin with ``respkv_`` and follow in their section; the section Respkv shows the storage engine and is printed
only when asked for (``everything``, ``all`` or ``respkv``). On a ring Server, Cluster and Replication tell what the
face of the asking connection is and how the ring stands.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from respkv import __version__
from respkv.base.build import is_compiled
from respkv.base.slots import SLOT_COUNT
from respkv.commands.ring import formed, on_cluster_face, ring_of
from respkv.commands.session import RingPort, Server, Session
from respkv.metrics.histogram import Histogram
from respkv.resp.reply import Reply, Verbatim

Figure = int | float | Mapping[str, int | float] | Histogram
Field = tuple[str, str | int]
_NO_REPLID: Final = "0" * 40
#: Keys whose counting INFO catches up on.
_SETTLED: Final = 500


@dataclass(slots=True)
class Facts:
    """What the sections are made of, gathered once per INFO. ``figures``: the registry's, by where they live.

    ``ring`` is None on a single node; ``cluster_face`` tells which face the asking connection speaks.
    """

    server: Server
    figures: dict[str, Figure]
    memory: dict[str, int]
    storage: Mapping[str, int | float]
    ring: RingPort | None = None
    cluster_face: bool = False

    def number(self, at: str) -> int | float:
        """One figure, 0 when its source gives none."""
        found = self.figures.get(at, 0)
        return found if isinstance(found, (int, float)) else 0

    def counts(self, at: str) -> Mapping[str, int | float]:
        """Figures by label, none when the source gives none."""
        found = self.figures.get(at)
        return found if isinstance(found, Mapping) else {}


def gather(server: Server, *, cluster_face: bool = False) -> Facts:
    """Ask everybody who keeps figures."""
    found: dict[str, Figure] = {metric.at: figure for metric, figure in server.metrics.collect()}
    return Facts(server, found, server.memory(), server.keyspace.engine.stats(), ring_of(server), cluster_face)


def refusal_reason(server: Server) -> str:
    """Why writes are refused, "" when they are not. A full disk is known before the node has heard of it."""
    return server.keyspace.engine.refusal() or server.metrics.writes_refused_reason


def human(size: int) -> str:
    """Bytes as Redis prints them for people: ``1.50M``."""
    if size < 1024:
        return f"{size}B"
    value = size / 1024
    for unit in "KMGT":
        if value < 1024:
            return f"{value:.2f}{unit}"
        value /= 1024
    return f"{value:.2f}P"


def key_counts(server: Server, slots: bytes | bytearray | None = None) -> list[tuple[int, int]]:
    """(logical database, keys) of all databases, in all slots or in those whose byte is 1. A slice of unsettled keys is
    settled first, so that the figures of a quiet server are exact; under load they are estimates. Bounded: a block that
    is not in memory ends it."""
    keyspace = server.keyspace
    for missing in keyspace.counts.settle(_SETTLED):
        if missing is not None:
            break
    counts = keyspace.counts
    total = counts.total if slots is None else lambda stored: counts.total_in(stored, slots)
    return [(db, total(stored)) for db, stored in enumerate(keyspace.stored)]


def _zeros(*names: str) -> list[Field]:
    return [(name, 0) for name in names]


def server_section(facts: Facts) -> list[Field]:
    """The process and how it was started."""
    server, config = facts.server, facts.server.config
    uptime_s = max(0, server.clock.monotonic_us() - server.started_us) // 1_000_000
    system = os.uname()
    binds = "".join(f",bind={address}" for address in config.words("bind"))
    supervised = config.string("supervised")
    return [
        ("redis_version", config.string("respkv-reported-version")),
        ("redis_git_sha1", "00000000"),
        ("redis_git_dirty", 0),
        ("redis_build_id", "0"),
        ("redis_mode", "cluster" if facts.cluster_face else "standalone"),
        ("os", f"{system.sysname} {system.release} {system.machine}"),
        ("arch_bits", 64),
        ("monotonic_clock", "POSIX clock_gettime"),
        ("multiplexing_api", "epoll"),
        ("atomicvar_api", "c11-builtin"),
        ("gcc_version", "0.0.0"),
        ("process_id", server.process_id),
        ("process_supervised", supervised),
        ("run_id", server.run_id),
        ("tcp_port", server.tcp_port),
        ("server_time_usec", server.clock.wall_us()),
        ("uptime_in_seconds", uptime_s),
        ("uptime_in_days", uptime_s // 86400),
        ("hz", config.integer("hz")),
        ("configured_hz", config.integer("hz")),
        ("lru_clock", server.now_ms // 1000 & 0xFFFFFF),
        ("executable", server.executable),
        ("config_file", server.config_file),
        ("io_threads_active", 0),
        ("listener0", f"name=tcp{binds},port={server.tcp_port}"),
        ("respkv_version", __version__),
        ("respkv_compiled", int(is_compiled())),
    ]


def clients_section(facts: Facts) -> list[Field]:
    """Connections."""
    server = facts.server
    sessions = list(server.sessions.values())
    return [
        ("connected_clients", len(sessions)),
        ("cluster_connections", 0 if facts.ring is None else len(facts.ring.mesh.links())),
        ("maxclients", server.config.integer("maxclients")),
        ("client_recent_max_input_buffer", max((one.sink.input_buffered() for one in sessions), default=0)),
        ("client_recent_max_output_buffer", max((one.sink.buffered() for one in sessions), default=0)),
        ("blocked_clients", sum(one.blocked is not None for one in sessions)),
        ("tracking_clients", 0),
        ("pubsub_clients", server.pubsub.clients()),
        ("watching_clients", sum(bool(one.watched) for one in sessions)),
        ("clients_in_timeout_table", sum(one.blocked is not None for one in sessions)),
        ("total_watched_keys", server.watches.keys()),
        *_zeros("total_blocking_keys", "total_blocking_keys_on_nokey"),
    ]


def memory_section(facts: Facts) -> list[Field]:
    """What caches and memtables take, and the process."""
    server, memory = facts.server, facts.memory
    used, rss = memory.get("used", 0), memory.get("rss", 0)
    peak = max(memory.get("peak", 0), used)
    total, limit = memory.get("total", 0), server.config.integer("maxmemory")
    waiting = sum(one.sink.buffered() + one.sink.input_buffered() for one in server.sessions.values())
    return [
        ("used_memory", used),
        ("used_memory_human", human(used)),
        ("used_memory_rss", rss),
        ("used_memory_rss_human", human(rss)),
        ("used_memory_peak", peak),
        ("used_memory_peak_human", human(peak)),
        ("used_memory_peak_perc", f"{100 * used / peak if peak else 0:.2f}%"),
        *_zeros("used_memory_overhead", "used_memory_startup"),
        ("used_memory_dataset", used),
        ("used_memory_dataset_perc", "100.00%" if used else "0.00%"),
        ("allocator_allocated", used),
        ("allocator_active", rss),
        ("allocator_resident", rss),
        ("allocator_muzzy", 0),
        ("total_system_memory", total),
        ("total_system_memory_human", human(total)),
        *_zeros("used_memory_lua", "used_memory_vm_eval"),
        ("used_memory_lua_human", "0B"),
        *_zeros(
            "used_memory_scripts_eval",
            "number_of_cached_scripts",
            "number_of_functions",
            "number_of_libraries",
            "used_memory_vm_functions",
            "used_memory_vm_total",
        ),
        ("used_memory_vm_total_human", "0B"),
        *_zeros("used_memory_functions", "used_memory_scripts"),
        ("used_memory_scripts_human", "0B"),
        ("maxmemory", limit),
        ("maxmemory_human", human(limit)),
        ("maxmemory_policy", server.config.string("maxmemory-policy")),
        ("allocator_frag_ratio", "1.00"),
        ("allocator_frag_bytes", 0),
        ("allocator_rss_ratio", "1.00"),
        ("allocator_rss_bytes", 0),
        ("rss_overhead_ratio", "1.00"),
        ("rss_overhead_bytes", 0),
        ("mem_fragmentation_ratio", f"{rss / used if used else 0:.2f}"),
        ("mem_fragmentation_bytes", max(0, rss - used)),
        *_zeros(
            "mem_not_counted_for_evict",
            "mem_replication_backlog",
            "mem_total_replication_buffers",
            "mem_clients_slaves",
        ),
        ("mem_clients_normal", waiting),
        *_zeros("mem_cluster_links", "mem_aof_buffer"),
        ("mem_allocator", "libc"),
        *_zeros(
            "mem_overhead_db_hashtable_rehashing",
            "active_defrag_running",
            "lazyfree_pending_objects",
            "lazyfreed_objects",
        ),
        ("respkv_row_cache_bytes", memory.get("row_cache", 0)),
        ("respkv_block_cache_bytes", memory.get("block_cache", 0)),
        ("respkv_memtable_bytes", memory.get("memtables", 0)),
    ]


def persistence_section(facts: Facts) -> list[Field]:
    """Snapshots under Redis' names for RDB files, the log under those for the append-only file."""
    server, storage, snapshots = facts.server, facts.storage, facts.server.snapshots
    refusal = server.keyspace.engine.refusal()
    appending = server.config.flag("appendonly")
    log: list[Field] = []
    if appending:
        log = [
            ("aof_current_size", int(storage.get("wal_bytes", 0))),
            *_zeros("aof_base_size", "aof_pending_rewrite", "aof_buffer_length", "aof_pending_bio_fsync"),
            ("aof_delayed_fsync", server.metrics.delayed_syncs),
        ]
    forming = facts.ring is not None and formed(facts.ring) is None
    # When the others will come is not known; clients read seconds after which they ask again.
    waiting: list[Field] = [("loading_eta_seconds", 1)] if forming else []
    return [
        ("loading", int(forming)),
        *_zeros("async_loading", "current_cow_peak", "current_cow_size", "current_cow_size_age"),
        ("current_fork_perc", "0.00"),
        *_zeros("current_save_keys_processed", "current_save_keys_total"),
        ("rdb_changes_since_last_save", snapshots.changes()),
        ("rdb_bgsave_in_progress", int(snapshots.busy)),
        ("rdb_last_save_time", snapshots.last_save_ms // 1000),
        ("rdb_last_bgsave_status", "ok" if snapshots.last_ok else "err"),
        ("rdb_last_bgsave_time_sec", snapshots.last_took_ms // 1000 if snapshots.made else -1),
        ("rdb_current_bgsave_time_sec", 0 if snapshots.busy else -1),
        ("rdb_saves", snapshots.made),
        *_zeros("rdb_last_cow_size", "rdb_last_load_keys_expired", "rdb_last_load_keys_loaded"),
        ("aof_enabled", int(appending)),
        *_zeros("aof_rewrite_in_progress", "aof_rewrite_scheduled"),
        ("aof_last_rewrite_time_sec", -1),
        ("aof_current_rewrite_time_sec", -1),
        ("aof_last_bgrewrite_status", "ok"),
        *_zeros("aof_rewrites", "aof_rewrites_consecutive_failures"),
        ("aof_last_write_status", "ok" if refusal is None else "err"),
        *_zeros("aof_last_cow_size", "module_fork_in_progress", "module_fork_last_cow_size"),
        *log,
        *waiting,
        ("respkv_wal_unsynced_bytes", int(storage.get("unsynced_bytes", 0))),
        ("respkv_keys_exact", int(server.keyspace.counts.is_exact())),
        ("respkv_writes_refused", int(bool(refusal_reason(server)))),
    ]


def stats_section(facts: Facts) -> list[Field]:
    """Counters since the start or CONFIG RESETSTAT."""
    server, metrics, keyspace = facts.server, facts.server.metrics, facts.server.keyspace
    pubsub = server.pubsub
    return [
        ("total_connections_received", metrics.connections_received),
        ("total_commands_processed", metrics.commands_processed),
        ("instantaneous_ops_per_sec", metrics.ops_per_second),
        ("total_net_input_bytes", metrics.net_input_bytes),
        ("total_net_output_bytes", metrics.net_output_bytes),
        *_zeros("total_net_repl_input_bytes", "total_net_repl_output_bytes"),
        ("instantaneous_input_kbps", f"{metrics.input_kbps:.2f}"),
        ("instantaneous_output_kbps", f"{metrics.output_kbps:.2f}"),
        ("instantaneous_input_repl_kbps", "0.00"),
        ("instantaneous_output_repl_kbps", "0.00"),
        ("rejected_connections", metrics.rejected_connections),
        *_zeros("sync_full", "sync_partial_ok", "sync_partial_err", "expired_subkeys"),
        ("expired_keys", keyspace.expired_keys),
        ("expired_stale_perc", "0.00"),
        *_zeros("expired_time_cap_reached_count", "expire_cycle_cpu_milliseconds"),
        ("evicted_keys", metrics.evicted_keys),
        *_zeros("evicted_clients", "evicted_scripts", "total_eviction_exceeded_time", "current_eviction_exceeded_time"),
        ("keyspace_hits", keyspace.hits),
        ("keyspace_misses", keyspace.misses),
        ("pubsub_channels", len(pubsub.channels)),
        ("pubsub_patterns", len(pubsub.patterns)),
        ("pubsubshard_channels", len(pubsub.shard_channels)),
        *_zeros(
            "latest_fork_usec",
            "total_forks",
            "migrate_cached_sockets",
            "slave_expires_tracked_keys",
            "active_defrag_hits",
            "active_defrag_misses",
            "active_defrag_key_hits",
            "active_defrag_key_misses",
            "total_active_defrag_time",
            "current_active_defrag_time",
            "tracking_total_keys",
            "tracking_total_items",
            "tracking_total_prefixes",
        ),
        ("unexpected_error_replies", metrics.unexpected_errors),
        ("total_error_replies", metrics.error_replies),
        ("dump_payload_sanitizations", 0),
        ("total_reads_processed", metrics.reads_processed),
        ("total_writes_processed", metrics.writes_processed),
        *_zeros("io_threaded_reads_processed", "io_threaded_writes_processed"),
        ("client_query_buffer_limit_disconnections", metrics.client_query_disconnections),
        ("client_output_buffer_limit_disconnections", metrics.client_output_disconnections),
        *_zeros("reply_buffer_shrinks", "reply_buffer_expands"),
        ("eventloop_cycles", metrics.cycles),
        ("eventloop_duration_sum", metrics.cycle_us),
        ("eventloop_duration_cmd_sum", sum(stats.usec for stats in metrics.commands.values())),
        ("instantaneous_eventloop_cycles_per_sec", metrics.cycles_per_second),
        ("instantaneous_eventloop_duration_usec", metrics.cycle_us // metrics.cycles if metrics.cycles else 0),
        ("acl_access_denied_auth", metrics.denied_auth),
        ("acl_access_denied_cmd", metrics.denied_command),
        ("acl_access_denied_key", metrics.denied_key),
        ("acl_access_denied_channel", metrics.denied_channel),
    ]


def _stand_ins(ring: RingPort) -> list[Field]:
    """Whether other nodes stand in for replicas that are away, and how often they were counted."""
    coordinator = ring.coordinator
    return [
        ("respkv_sloppy_quorum", "yes" if coordinator.stand_ins.on else "no"),
        ("respkv_slots_with_fallbacks", len(coordinator.stand_ins.of)),
        ("respkv_fallback_reads", coordinator.stand_in_reads),
        ("respkv_fallback_writes", coordinator.stand_in_writes),
    ]


def peer_fields(ring: RingPort) -> list[Field]:
    """One field a peer, its facts by commas as Redis does."""
    return [
        (f"respkv_peer{short}", ",".join(f"{name}={value}" for name, value in peer.items()))
        for short, peer in ring.peers().items()
    ]


def ring_section(facts: Facts) -> list[Field]:
    """How the ring fares, as RKV.STATUS tells it; on a single node there is no such section."""
    if facts.ring is None:
        return []
    fields: list[Field] = [("respkv_ring_status", facts.ring.status()), ("respkv_ring_myself", facts.ring.me)]
    fields += [(f"respkv_ring_{name}", value) for name, value in facts.ring.summary().items()]
    return fields + peer_fields(facts.ring)


def replication_section(facts: Facts) -> list[Field]:
    """A master without replicas: the nodes of a ring that hold the same slots are equals, not its slaves."""
    ring: list[Field] = []
    if facts.ring is not None and (found := formed(facts.ring)) is not None:
        others = found.membership.others
        ring = [
            ("respkv_replication_factor", found.placement.replicas),
            ("respkv_peers", len(others)),
            ("respkv_peers_live", sum(found.membership.live(short) for short in others)),
            ("respkv_hints_pending", sum(map(facts.ring.repair.hints_pending, others))),
            *_stand_ins(facts.ring),
            ("respkv_replication_lag_ms", facts.ring.summary()["replication_lag_ms"]),
            *peer_fields(facts.ring),
        ]
    return [
        ("role", "master"),
        ("connected_slaves", 0),
        ("master_failover_state", "no-failover"),
        ("master_replid", facts.server.run_id),
        ("master_replid2", _NO_REPLID),
        ("master_repl_offset", 0),
        ("second_repl_offset", -1),
        ("repl_backlog_active", 0),
        ("repl_backlog_size", facts.server.config.integer("repl-backlog-size")),
        *_zeros("repl_backlog_first_byte_offset", "repl_backlog_histlen"),
        *ring,
    ]


def cpu_section(facts: Facts) -> list[Field]:
    """Processor time of the process; what its workers took is in the children's."""
    return [
        (f"used_cpu_{name}", f"{facts.number(at):.6f}")
        for name, at in (
            ("sys", "cpu.sys"),
            ("user", "cpu.user"),
            ("sys_children", "cpu.sys_children"),
            ("user_children", "cpu.user_children"),
            ("sys_main_thread", "cpu.sys"),
            ("user_main_thread", "cpu.user"),
        )
    ]


def modules_section(facts: Facts) -> list[Field]:
    """There are no modules."""
    return []


def commandstats_section(facts: Facts) -> list[Field]:
    """Every command that was called or refused."""
    return [
        (
            f"cmdstat_{name}",
            f"calls={stats.calls},usec={stats.usec},usec_per_call={stats.usec_per_call():.2f},"
            f"rejected_calls={stats.rejected},failed_calls={stats.failed}",
        )
        for name, stats in sorted(facts.server.metrics.commands.items())
        if stats.calls or stats.rejected
    ]


def errorstats_section(facts: Facts) -> list[Field]:
    """Error replies by code."""
    return [(f"errorstat_{code}", f"count={count}") for code, count in sorted(facts.server.metrics.errors.items())]


def latencystats_section(facts: Facts) -> list[Field]:
    """Percentiles of each command's run time, in microseconds."""
    wanted = facts.server.config.text("latency-tracking-info-percentiles").decode().split()
    return [
        (
            f"latency_percentiles_usec_{name}",
            ",".join(f"p{percent}={stats.histogram.percentile(float(percent)):.3f}" for percent in wanted),
        )
        for name, stats in sorted(facts.server.metrics.commands.items())
        if stats.histogram.count
    ]


def cluster_section(facts: Facts) -> list[Field]:
    """Whether this connection's face is the cluster's, and the ring below either face."""
    fields: list[Field] = [("cluster_enabled", int(facts.cluster_face))]
    if facts.ring is None:
        return fields
    fields += [("respkv_ring_status", facts.ring.status()), ("respkv_ring_myself", facts.ring.me)]
    if (found := formed(facts.ring)) is not None:
        rows = {**found.membership.stats(), **found.topology.stats()}
        fields += [(f"respkv_ring_{name}", value) for name, value in rows.items()]
    return fields


def keyspace_section(facts: Facts) -> list[Field]:
    """Databases that hold keys; an empty one must not appear. On a ring as DBSIZE on the face asked: of the whole ring,
    an estimate where this node has only some of the slots; or of the slots for which clients are sent here."""
    expires = facts.figures.get("databases.expires", {})
    counts, stored = facts.server.keyspace.counts, facts.server.keyspace.stored
    slots = _slots_shown(facts)
    whole = SLOT_COUNT if slots is None or facts.cluster_face else max(1, sum(slots))
    fields: list[Field] = []
    for db, keys in key_counts(facts.server, slots)[: 1 if facts.cluster_face else None]:
        if keys:
            if slots is None:
                timed = expires.get(str(db), 0) if isinstance(expires, Mapping) else 0
            else:
                timed = counts.expiring(stored[db], slots) * SLOT_COUNT // whole
            fields.append((f"db{db}", f"keys={keys * SLOT_COUNT // whole},expires={timed},avg_ttl=0,subexpiry=0"))
    return fields


def _slots_shown(facts: Facts) -> bytes | bytearray | None:
    """The slots of this node that a face counts, None for all."""
    found = None if facts.ring is None else formed(facts.ring)
    if found is None:
        return None
    if facts.cluster_face:
        return found.topology.own_slots()
    coordinator = found.port.coordinator
    return None if coordinator.everywhere else coordinator.mine


def respkv_section(facts: Facts) -> list[Field]:
    """The storage engine, the caches, and what delays writes."""
    server, metrics = facts.server, facts.server.metrics
    fields: list[Field] = [
        ("respkv_writes_refused_reason", refusal_reason(server) or "none"),
        ("respkv_fsync_count", metrics.wal_sync.count),
        ("respkv_fsync_p50_usec", metrics.wal_sync.percentile(50)),
        ("respkv_fsync_p99_usec", metrics.wal_sync.percentile(99)),
        ("respkv_fsync_max_usec", metrics.wal_sync.worst_us),
        ("respkv_block_reads", metrics.block_reads),
        ("respkv_key_counts_exact", int(server.keyspace.counts.is_exact())),
        ("respkv_key_counts_unsettled", server.keyspace.counts.unsettled()),
    ]
    for name, value in facts.storage.items():
        fields.append((f"respkv_{name}", f"{value:.3f}" if isinstance(value, float) else value))
    for name, value in server.keyspace.stats().items():
        fields.append((f"respkv_{name}", value))
    if facts.ring is not None:
        fields += [(f"respkv_ring_{name.removeprefix('ring_')}", value) for name, value in facts.ring.stats().items()]
    return fields


def siblings_section(facts: Facts) -> list[Field]:
    """Keys whose concurrent writes are kept, and how merge functions fare, built-in ones included.

    Without a conflict-policy there is no such section."""
    plain = (
        ("respkv_sibling_writes", "written"),
        ("respkv_sibling_contexts", "superseded"),
        ("respkv_sibling_warnings", "warned"),
        ("respkv_sibling_refusals", "refused"),
        ("respkv_siblings_most", "most"),
        ("respkv_merges_written_back", "written_back"),
    )
    fields: list[Field] = [(name, int(facts.number(f"siblings.{key}"))) for name, key in plain]
    for outcome, count in facts.counts("siblings.outcomes").items():
        fields.append((f"respkv_sibling_reads_{outcome.replace('-', '_')}", int(count)))
    figures = ("calls", "failed", "slow", "skipped")
    counts = {figure: facts.counts(f"siblings.merge_{figure}") for figure in figures}
    for name, left_us in facts.counts("siblings.merge_rest_us").items():
        told = ",".join(f"{figure}={counts[figure][name]}" for figure in figures)
        fields.append((f"respkv_merge_{name}", f"{told},rest_s={-(-left_us // 1_000_000)}"))
    return fields


Section = Callable[[Facts], list[Field]]

#: all sections in the order in which they are printed
SECTIONS: Final[dict[str, Section]] = {
    "Server": server_section,
    "Clients": clients_section,
    "Memory": memory_section,
    "Persistence": persistence_section,
    "Stats": stats_section,
    "Replication": replication_section,
    "CPU": cpu_section,
    "Modules": modules_section,
    "Commandstats": commandstats_section,
    "Errorstats": errorstats_section,
    "Latencystats": latencystats_section,
    "Cluster": cluster_section,
    "Keyspace": keyspace_section,
    "Siblings": siblings_section,
    "Ring": ring_section,
    "Respkv": respkv_section,
}
_NOT_DEFAULT: Final = ("Commandstats", "Latencystats", "Siblings", "Ring", "Respkv")


def choose(words: list[str]) -> list[str]:
    """The sections that ``words`` (lower case) name, in order of printing."""
    if "all" in words or "everything" in words:
        return list(SECTIONS)
    plain = not words or "default" in words
    return [name for name in SECTIONS if name.lower() in words or (plain and name not in _NOT_DEFAULT)]


def render(server: Server, names: list[str], *, cluster_face: bool = False) -> bytes:
    """The text of the given sections, for a connection of that face."""
    if not names:
        return b""
    facts = gather(server, cluster_face=cluster_face)
    parts = []
    for name in names:
        if name == "Ring" and facts.ring is None:
            continue
        if name == "Siblings" and not facts.counts("siblings.outcomes"):
            continue
        lines = [f"# {name}", *(f"{field}:{value}" for field, value in SECTIONS[name](facts))]
        parts.append("".join(f"{line}\r\n" for line in lines))
    return "\r\n".join(parts).encode("utf-8", "surrogateescape")


def info(argv: list[bytes], session: Session) -> Reply:
    """INFO [section ...]"""
    names = choose([word.decode("latin-1").lower() for word in argv[1:]])
    return Verbatim(render(session.server, names, cluster_face=on_cluster_face(session)))
