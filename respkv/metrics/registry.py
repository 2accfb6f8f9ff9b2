"""One row a metric, and the live figures behind the rows.

Whoever counts bumps a plain attribute of the ``Registry`` or a ``CommandStats``. Figures that another
object keeps anyway come from *sources*: callables that give a mapping, asked only when somebody looks.
``METRICS`` declares what is told to the outside: where the figure lives, its kind and its help. A figure
in a mapping may itself be a mapping from label to number.

Invariant: a counter never falls, except by ``reset``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final, TypeAlias

from respkv.metrics.histogram import Histogram

Number: TypeAlias = int | float
Source: TypeAlias = Callable[[], Mapping[str, "Number | Mapping[str, Number]"]]

#: Codes of error replies counted apart; scripts can make up any number of them.
ERROR_CODES_MAX: Final = 128
ERROR_CODES_OVERFLOW: Final = "ERRORSTATS_OVERFLOW"
SAMPLES: Final = 16
SAMPLE_INTERVAL_US: Final = 100_000


class MetricKind(Enum):
    """How a figure behaves."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class Metric:
    """``at`` is an attribute of the registry, or ``source.key``. ``label`` names the label of a mapping.
    ``prefix`` goes in front of its values. ``scale`` turns the figure into the unit of the name. Counters end in
    ``_total``."""

    name: str
    kind: MetricKind
    at: str
    help: str
    label: str = ""
    scale: float = 1
    prefix: str = ""


_C: Final = MetricKind.COUNTER
_G: Final = MetricKind.GAUGE
_H: Final = MetricKind.HISTOGRAM
_US: Final = 1e-6

#: Names are those of redis_exporter where it has one.
METRICS: Final[tuple[Metric, ...]] = (
    Metric("redis_commands_processed_total", _C, "commands_processed", "Commands executed"),
    Metric("redis_instantaneous_ops_per_sec", _G, "ops_per_second", "Commands a second, over 1.6 s"),
    Metric("redis_connections_received_total", _C, "connections_received", "Connections accepted"),
    Metric("redis_rejected_connections_total", _C, "rejected_connections", "Connections over maxclients"),
    Metric("redis_connected_clients", _G, "server.connected_clients", "Open client connections"),
    Metric("redis_blocked_clients", _G, "server.blocked_clients", "Clients waiting for a reply"),
    Metric("redis_pubsub_channels", _G, "server.pubsub_channels", "Channels with subscribers"),
    Metric("redis_pubsub_patterns", _G, "server.pubsub_patterns", "Patterns with subscribers"),
    Metric("redis_uptime_in_seconds", _G, "server.uptime_seconds", "Seconds since the start"),
    Metric("redis_slowlog_length", _G, "server.slowlog_length", "Entries in the slow log"),
    Metric("redis_net_input_bytes_total", _C, "net_input_bytes", "Bytes received from clients"),
    Metric("redis_net_output_bytes_total", _C, "net_output_bytes", "Bytes sent to clients"),
    Metric("respkv_socket_reads_total", _C, "reads_processed", "Reads from client sockets"),
    Metric("respkv_socket_writes_total", _C, "writes_processed", "Writes to client sockets"),
    Metric("respkv_error_replies_total", _C, "error_replies", "Error replies"),
    Metric("redis_errors_total", _C, "errors", "Error replies by code", "err"),
    Metric("redis_keyspace_hits_total", _C, "keyspace.hits", "Reads that found their key"),
    Metric("redis_keyspace_misses_total", _C, "keyspace.misses", "Reads that found nothing"),
    Metric("redis_expired_keys_total", _C, "keyspace.expired_keys", "Keys whose time had come"),
    Metric("redis_evicted_keys_total", _C, "evicted_keys", "Keys removed for want of memory: never any"),
    Metric("redis_db_keys", _G, "databases.keys", "Keys by database", "db", prefix="db"),
    Metric("redis_db_keys_expiring", _G, "databases.expires", "Keys with an expiry by database", "db", prefix="db"),
    Metric("redis_memory_used_bytes", _G, "memory.used", "Memory of caches and memtables"),
    Metric("redis_memory_used_rss_bytes", _G, "memory.rss", "Memory of the process"),
    Metric("redis_memory_used_peak_bytes", _G, "memory.peak", "Most memory of the process so far"),
    Metric("redis_memory_max_bytes", _G, "memory.maxmemory", "The directive maxmemory"),
    Metric("redis_total_system_memory_bytes", _G, "memory.total", "Memory of the machine or container"),
    Metric("redis_cpu_sys_seconds_total", _C, "cpu.sys", "Processor seconds in the kernel"),
    Metric("redis_cpu_user_seconds_total", _C, "cpu.user", "Processor seconds in the program"),
    Metric("redis_cpu_sys_children_seconds_total", _C, "cpu.sys_children", "Kernel seconds of workers"),
    Metric("redis_cpu_user_children_seconds_total", _C, "cpu.user_children", "Program seconds of workers"),
    Metric("respkv_memtable_bytes", _G, "memory.memtables", "Memory of memtables"),
    Metric("respkv_row_cache_bytes", _G, "memory.row_cache", "Memory of the cache of values"),
    Metric("respkv_row_cache_hits_total", _C, "keyspace.row_cache_hits", "Values found in the cache"),
    Metric("respkv_row_cache_misses_total", _C, "keyspace.row_cache_misses", "Values not found in the cache"),
    Metric("respkv_block_cache_bytes", _G, "storage.block_cache_bytes", "Memory of cached blocks"),
    Metric("respkv_block_cache_hits_total", _C, "storage.block_cache_hits", "Blocks found in the cache"),
    Metric("respkv_block_cache_misses_total", _C, "storage.block_cache_misses", "Blocks read from disk"),
    Metric("respkv_disk_bytes", _G, "storage.disk_bytes", "Bytes written to tables, logs and manifest"),
    Metric("respkv_disk_preallocated_bytes", _G, "storage.disk_preallocated_bytes", "Disk held: log room, ballast"),
    Metric("respkv_table_bytes", _G, "storage.table_bytes", "Disk space of tables"),
    Metric("respkv_tables", _G, "storage.tables", "Tables"),
    Metric("respkv_tables_quarantined", _G, "storage.tables_quarantined", "Tables set aside as damaged"),
    Metric("respkv_runs", _G, "storage.runs", "Sorted runs"),
    Metric("respkv_compaction_debt_bytes", _G, "storage.compaction_debt_bytes", "Bytes to be compacted"),
    Metric("respkv_write_amplification", _G, "storage.write_amplification", "Table bytes per byte logged"),
    Metric("respkv_flushes_total", _C, "storage.flushes", "Memtables written to tables"),
    Metric("respkv_compactions_total", _C, "storage.compactions", "Compactions done"),
    Metric("respkv_job_failures_total", _C, "storage.job_failures", "Jobs of workers that failed"),
    Metric("respkv_wal_unsynced_bytes", _G, "storage.unsynced_bytes", "Logged bytes not yet synced"),
    Metric("respkv_wal_sync_seconds", _H, "wal_sync", "Time to force the log to disk"),
    Metric("respkv_wal_delayed_syncs_total", _C, "delayed_syncs", "Syncs that held replies back"),
    Metric("respkv_cycles_total", _C, "cycles", "Passes of the event loop"),
    Metric("respkv_cycle_seconds_total", _C, "cycle_us", "Time spent in passes of the event loop", scale=_US),
    Metric("respkv_block_reads_total", _C, "block_reads", "Requests that waited for a block from disk"),
    Metric("respkv_block_read_seconds", _H, "block_read", "Time such requests waited"),
    Metric("respkv_sibling_writes_total", _C, "siblings.written", "Writes of keys whose concurrent writes are kept"),
    Metric("respkv_sibling_contexts_total", _C, "siblings.superseded", "Such writes with a causal context"),
    Metric("respkv_sibling_warnings_total", _C, "siblings.warned", "Writes that left more than 25 siblings"),
    Metric("respkv_sibling_refusals_total", _C, "siblings.refused", "Writes refused: too many siblings"),
    Metric("respkv_siblings_most", _G, "siblings.most", "Most siblings that a write has left since the start"),
    Metric("respkv_sibling_reads_total", _C, "siblings.outcomes", "Values made of siblings, by how", "outcome"),
    Metric("respkv_merges_written_back_total", _C, "siblings.written_back", "Merged values put in place of siblings"),
    Metric("respkv_merge_calls_total", _C, "siblings.merge_calls", "Calls of merge functions", "function"),
    Metric("respkv_merge_failures_total", _C, "siblings.merge_failed", "Calls that gave no value", "function"),
    Metric("respkv_merge_slow_calls_total", _C, "siblings.merge_slow", "Calls stopped or too slow", "function"),
    Metric("respkv_merge_skipped_total", _C, "siblings.merge_skipped", "Calls not made in a rest", "function"),
    Metric("respkv_merge_rest_seconds", _G, "siblings.merge_rest_us", "Rest left to a function", "function", _US),
    Metric("respkv_sibling_actors_total", _C, "siblings.actors_issued", "Actors given out for writing siblings"),
    Metric("respkv_writes_refused", _G, "writes_refused", "1 while writes are refused"),
    Metric("respkv_hot_key_samples_total", _C, "hot_keys.hot_key_samples", "Requests looked at for hot keys"),
    Metric("respkv_hot_keys", _G, "hot_keys.hot_keys", "Keys with at least 1 in 50 of the latest requests"),
    # Of a ring's member alone. A peer is named by its short id.
    Metric("respkv_ring_formed", _G, "ring.formed", "1 once the ring is decided"),
    Metric("respkv_ring_members", _G, "ring.members", "Nodes of the ring, this one included"),
    Metric("respkv_ring_epoch", _G, "ring.ring_epoch", "Number of the decided ring"),
    Metric("respkv_peers", _G, "ring.peers_by_state", "Other members by what gossip believes", "state"),
    Metric("respkv_peer_live", _G, "ring.peer_live", "1 while requests go to that peer", "peer"),
    Metric("respkv_peer_latency_seconds", _G, "ring.peer_rtt_us", "Moving average of round trips", "peer", _US),
    Metric("respkv_peer_lag_seconds", _G, "ring.peer_lag_ms", "Age of the oldest write a peer lacks", "peer", 1e-3),
    Metric("respkv_peer_queue_bytes", _G, "ring.peer_queue_bytes", "Bytes that wait to be sent", "peer"),
    Metric("respkv_peer_queue_messages", _G, "ring.peer_queue_messages", "Messages that wait to be sent", "peer"),
    Metric("respkv_links_given_up_total", _C, "ring.mesh_overflows", "Links whose peer did not read what was sent"),
    Metric("respkv_handshakes_refused_total", _C, "links.refused", "Nodes that were not taken in"),
    Metric("respkv_handshakes_late_total", _C, "links.late_handshakes", "Handshakes that took too long"),
    Metric("respkv_link_errors_total", _C, "links.protocol_errors", "Links ended because the peer sent garbage"),
    Metric("respkv_hints_pending", _G, "ring.peer_hints", "Writes held for peers that were away", "peer"),
    Metric("respkv_hints_pending_bytes", _G, "ring.peer_hint_bytes", "Their bytes", "peer"),
    Metric("respkv_hints_delivered_total", _C, "ring.hints_delivered", "Hints that their peers have taken"),
    Metric("respkv_hint_batches_failed_total", _C, "ring.hint_batches_failed", "Replays that were not taken"),
    Metric("respkv_rounds_failed_total", _C, "ring.writes_failed_by_level", "Writes without their quorum", "level"),
    Metric("respkv_reads_failed_total", _C, "ring.reads_failed_by_level", "Reads without their quorum", "level"),
    Metric("respkv_reads_hedged_total", _C, "ring.reads_hedged", "Reads asked of one more replica"),
    Metric("respkv_read_repairs_total", _C, "ring.read_repairs_by_side", "Records repaired by reads", "side"),
    Metric("respkv_repair_sessions_total", _C, "ring.repair_sessions_completed", "Comparisons with a co-replica"),
    Metric("respkv_divergent_slots_total", _C, "ring.divergent_slots_found", "Slots found different"),
    Metric("respkv_divergent_records_total", _C, "ring.divergent_records_found", "Records found different"),
    Metric("respkv_repaired_here_total", _C, "ring.records_repaired_here", "Records that repair brought here"),
    Metric("respkv_repaired_there_total", _C, "ring.records_repaired_there", "Records sent to repair others"),
    Metric("respkv_damage_moved_total", _C, "ring.damage_moved", "Requests left to others for damage here"),
    Metric("respkv_tables_mended_total", _C, "ring.tables_mended", "Damaged tables replaced from replicas"),
    Metric("respkv_husks", _G, "ring.husks", "Collections without elements here, not deleted yet"),
    Metric("respkv_husks_buried_total", _C, "ring.husks_buried", "Of those deleted after a comparison"),
    Metric("respkv_forwards_total", _C, "ring.forwards_sent", "Requests that another node executed"),
)


class CommandStats:
    """What is counted of one command, as INFO commandstats and latencystats print it."""

    __slots__ = ("calls", "failed", "histogram", "rejected", "usec")

    def __init__(self) -> None:
        self.calls = 0
        self.usec = 0
        #: refused before it ran: arity, permissions, state
        self.rejected = 0
        #: ran and answered an error
        self.failed = 0
        self.histogram = Histogram()

    def usec_per_call(self) -> float:
        """Mean duration, 0 when it never ran."""
        return self.usec / self.calls if self.calls else 0.0

    def __repr__(self) -> str:
        return f"<CommandStats calls={self.calls} usec={self.usec} {self.rejected}/{self.failed}>"


class Rate:
    """Growth of a figure a second, as the mean of the last 16 samples (Redis' instantaneous metrics)."""

    __slots__ = ("_at", "_last", "_samples")

    def __init__(self) -> None:
        self._samples = [0.0] * SAMPLES
        self._at = 0
        self._last: Number = 0

    def sample(self, value: Number, base: Number) -> None:
        """``value`` is the figure now, ``base`` the seconds (or other units) since the last sample."""
        self._samples[self._at] = max(0.0, (value - self._last) / base) if base > 0 else 0.0
        self._at = (self._at + 1) % SAMPLES
        self._last = value

    def value(self) -> float:
        """Growth per unit."""
        return sum(self._samples) / SAMPLES

    def reset(self, value: Number) -> None:
        """Forget the samples; the next one starts from ``value``."""
        self._samples = [0.0] * SAMPLES
        self._last = value


class Registry:
    """Live figures. All attributes without underscore may be bumped by whoever they belong to."""

    __slots__ = (
        "_cycle_rate", "_input_rate", "_ops", "_output_rate", "_refreshers", "_sampled_us",
        "_sources", "block_read", "block_reads", "client_output_disconnections",
        "client_query_disconnections", "commands", "commands_processed", "connections_received",
        "cycle_us", "cycles", "delayed_syncs", "denied_auth", "denied_channel", "denied_command",
        "denied_key", "error_replies", "errors", "evicted_keys", "latency_tracking",
        "net_input_bytes", "net_output_bytes", "reads_processed", "rejected_connections",
        "unexpected_errors", "wal_sync", "writes_processed", "writes_refused",
        "writes_refused_reason",
    )  # fmt: skip

    def __init__(self) -> None:
        #: full name ("client|setinfo") -> its figures
        self.commands: dict[str, CommandStats] = {}
        #: code -> number of error replies with it
        self.errors: dict[str, int] = {}
        self.latency_tracking = True
        #: 1 while writes are refused, and why; a state, never reset
        self.writes_refused, self.writes_refused_reason = 0, ""
        self.wal_sync = Histogram()
        self.block_read = Histogram()
        self._sources: dict[str, Source] = {}
        self._refreshers: list[Callable[[], None]] = []
        self._sampled_us = -1
        self._ops, self._cycle_rate = Rate(), Rate()
        self._input_rate, self._output_rate = Rate(), Rate()
        self._zero()

    def _zero(self) -> None:
        self.commands_processed = self.connections_received = self.rejected_connections = 0
        self.net_input_bytes = self.net_output_bytes = 0
        self.reads_processed = self.writes_processed = 0
        self.error_replies = self.unexpected_errors = 0
        self.evicted_keys = 0
        self.delayed_syncs = self.block_reads = 0
        self.cycles = self.cycle_us = 0
        self.client_query_disconnections = self.client_output_disconnections = 0
        self.denied_auth = self.denied_command = self.denied_key = self.denied_channel = 0

    # Commands

    def command(self, name: str) -> CommandStats:
        """The figures of a command, made when missing. Names come from the command table, so they are few."""
        stats = self.commands.get(name)
        if stats is None:
            stats = self.commands[name] = CommandStats()
        return stats

    def count_call(self, name: str, took_us: int, error: bytes | None = None) -> None:  # HOT: count_call
        """A command ran; ``error`` is its reply if that was an error line."""
        stats = self.commands.get(name)
        if stats is None:
            stats = self.command(name)
        self.commands_processed += 1
        stats.calls += 1
        stats.usec += took_us
        if self.latency_tracking:
            stats.histogram.record(took_us)
        if error is not None:
            stats.failed += 1
            self.count_error(error)

    def count_fast(self, stats: CommandStats, calls: int, took_us: int) -> None:
        """``calls`` calls of a command ran and took ``took_us`` together: each counts for an even share of it."""
        self.commands_processed += calls
        stats.calls += calls
        stats.usec += took_us
        if calls and self.latency_tracking:
            # Whole microseconds, and the sum is kept: some calls have one more than the others.
            each_us, longer = divmod(took_us, calls)
            stats.histogram.record(each_us, calls - longer)
            if longer:
                stats.histogram.record(each_us + 1, longer)

    def refuse_writes(self, reason: str) -> None:
        """Writes are refused from now on for ``reason``; "": they are taken."""
        self.writes_refused, self.writes_refused_reason = int(bool(reason)), reason

    def reject(self, name: str | None, reply: bytes) -> None:
        """A request was refused with ``reply`` before it ran; ``name`` is None for an unknown command."""
        if name is not None:
            self.command(name).rejected += 1
        self.count_error(reply)

    def count_error(self, reply: bytes) -> None:
        """Count an error reply, ``-CODE text``, by its code."""
        self.error_replies += 1
        word = reply[1:].split(None, 1)[:1]
        code = (word[0] if word else b"ERR").decode("ascii", "backslashreplace")
        if code not in self.errors and len(self.errors) >= ERROR_CODES_MAX:
            code = ERROR_CODES_OVERFLOW
        self.errors[code] = self.errors.get(code, 0) + 1

    # Rates

    def sample(self, now_us: int) -> None:
        """Take a sample for the rates when 100 ms have passed; call it as often as you like."""
        elapsed_us = now_us - self._sampled_us
        if self._sampled_us >= 0 and elapsed_us < SAMPLE_INTERVAL_US:
            return
        self.refresh()
        if self._sampled_us < 0:
            self._restart_rates()
        else:
            seconds = elapsed_us / 1e6
            self._ops.sample(self.commands_processed, seconds)
            self._input_rate.sample(self.net_input_bytes, seconds)
            self._output_rate.sample(self.net_output_bytes, seconds)
            self._cycle_rate.sample(self.cycles, seconds)
        self._sampled_us = now_us

    def _restart_rates(self) -> None:
        self._ops.reset(self.commands_processed)
        self._input_rate.reset(self.net_input_bytes)
        self._output_rate.reset(self.net_output_bytes)
        self._cycle_rate.reset(self.cycles)

    @property
    def ops_per_second(self) -> int:
        return int(self._ops.value())

    @property
    def input_kbps(self) -> float:
        """KiB a second received."""
        return self._input_rate.value() / 1024

    @property
    def output_kbps(self) -> float:
        """KiB a second sent."""
        return self._output_rate.value() / 1024

    @property
    def cycles_per_second(self) -> int:
        return int(self._cycle_rate.value())

    # Sources

    def attach(self, name: str, source: Source) -> None:
        """Rows ``name.key`` take their figures from the mapping that ``source`` gives."""
        self._sources[name] = source

    def on_refresh(self, refresher: Callable[[], None]) -> None:
        """Call ``refresher`` before figures are looked at; it may assign attributes of this registry."""
        self._refreshers.append(refresher)

    def refresh(self) -> None:
        """Let all who count elsewhere bring their figures."""
        for refresher in self._refreshers:
            refresher()

    def collect(self) -> Iterator[tuple[Metric, Number | Mapping[str, Number] | Histogram]]:
        """Each row with its figure; a row whose source is absent or silent is left out."""
        self.refresh()
        found = {name: source() for name, source in self._sources.items()}
        for metric in METRICS:
            source, dot, key = metric.at.partition(".")
            value = found.get(source, {}).get(key) if dot else getattr(self, metric.at)
            if value is not None:
                yield metric, value

    def reset(self) -> None:
        """CONFIG RESETSTAT: everything counted here starts anew. Figures of sources are their owners'."""
        for stats in self.commands.values():
            # The objects stay: the dispatcher holds some of them.
            stats.calls = stats.usec = stats.rejected = stats.failed = 0
            stats.histogram.reset()
        self.errors.clear()
        self.wal_sync.reset()
        self.block_read.reset()
        self._zero()
        self._restart_rates()

    def stats(self) -> dict[str, int]:
        """Sizes of the registry itself."""
        return {"commands": len(self.commands), "errors": len(self.errors), "sources": len(self._sources)}

    def check_invariants(self) -> None:
        assert sum(self.errors.values()) == self.error_replies
        assert len(self.errors) <= ERROR_CODES_MAX + 1
        for histogram in (self.wal_sync, self.block_read, *(s.histogram for s in self.commands.values())):
            histogram.check_invariants()

    def __repr__(self) -> str:
        return f"<Registry {self.commands_processed} commands {self.stats()}>"
