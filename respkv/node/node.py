"""The node: all rooms put together, still pure.

``server`` drives it: ``begin_cycle``, ``execute_turns`` for the connections with requests, ``on_timer``,
``commit``, and carries out what the node asks for: sync plans, jobs, block fetches, snapshots. The node never
waits and never reads a clock between ``begin_cycle`` calls but to time a command. It is the ``Server`` that
commands see.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any, Final

from respkv.base.errors import BlockRequest, CommandError, CorruptionError
from respkv.commands.dispatch import Dispatcher, Turn
from respkv.commands.monitor import monitor_line, redacted
from respkv.commands.notifications import ExpiryEvents
from respkv.commands.pubsub import PubSub
from respkv.commands.ring_dispatch import RingDispatcher
from respkv.commands.session import Pending, Session, Sink
from respkv.commands.spec import FAST
from respkv.commands.table import build_table
from respkv.commands.transactions import Runner, Watches
from respkv.config.store import ConfigStore
from respkv.env.alarm import NO_ALARM, Alarm
from respkv.env.clock import Clock
from respkv.env.fs import FileSystem
from respkv.env.rng import Rng
from respkv.keyspace import retention
from respkv.keyspace.apply import Applier
from respkv.keyspace.keyspace import Keyspace
from respkv.metrics.acl_log import AclLog
from respkv.metrics.registry import Registry
from respkv.metrics.slowlog import LatencyMonitor, SlowLog
from respkv.node import key_rules
from respkv.node.bootstrap import MemoryPlan, engine_options, open_store, plan_memory
from respkv.node.duties import Duties
from respkv.node.node_errands import NodeErrands
from respkv.node.pace import Pace, WalkPause
from respkv.node.refusal import told, why_refused
from respkv.node.requests import FetchRequest, Host, ShutdownRequest
from respkv.node.ring_member import claim_directory
from respkv.node.ring_node import RingNode
from respkv.node.ring_settings import RingSettings
from respkv.node.snapshots import Snapshots
from respkv.node.timers import Timers
from respkv.resp import errors
from respkv.resp.reply import encode, error
from respkv.resp.request import RequestParser
from respkv.storage.engine import Engine
from respkv.storage.plans import ManifestPlan, SyncPlan

_HOLD_AFTER_US: Final = 2_000_000
#: A slow log that wants requests as short as this gets every one of them timed.
_TIMED_US: Final = 100
_NEVER_US: Final = 1 << 62


class Node(NodeErrands):
    """One node. Public attributes are those of ``commands.session.Server``."""

    def __init__(
        self,
        *,
        config: ConfigStore,
        fs: FileSystem,
        clock: Clock,
        rng: Rng,
        host: Host,
        run_id: str,
        process_id: int,
        executable: str,
        config_file: str,
        log: Callable[[str, str], None],
    ) -> None:
        self.config = config
        self.fs = fs
        self.clock = clock
        self.rng = rng
        self.host = host
        self.log = log
        self.run_id = run_id
        self.process_id = process_id
        self.executable = executable
        self.config_file = config_file
        self.tcp_port: int = config.value("port")
        self.metrics = Registry()
        self.table = build_table(config.renamed)
        self.pubsub = PubSub()
        self.slowlog = SlowLog(config.value("slowlog-max-len"))
        self.latency = LatencyMonitor()
        self.acl_log = AclLog()
        self.sessions: dict[int, Session] = {}
        self.monitors: list[Session] = []
        self.started_us = self.now_us = clock.monotonic_us()
        self.now_ms = clock.wall_us() // 1000
        self.active_expire = True
        self.slow_us = 0
        self.pause_until_us = 0
        self.pause_mode = ""
        self.shutdown_request: ShutdownRequest | None = None
        #: set when something must become durable although the policy would not sync now
        self.wants_sync = False
        #: entries logged for clients since the start
        self.changes = 0
        self.pace = Pace(clock)
        self._recount_pause = WalkPause(0)
        self._next_session = 1
        self._timers = Timers()
        self._fetches: list[FetchRequest] = []
        self._after_sync: list[tuple[int, Callable[[], None]]] = []
        self._unpaused: list[Callable[[], None]] = []
        self._unsynced_since_us = 0
        self._written_us = self.now_us
        self._fsync = "everysec"
        self.memory_plan = MemoryPlan(0, 0, 0)
        #: this node's part in a ring; None for a single node
        self.ring: RingNode | None = None
        self.keyspace: Keyspace
        self.engine: Engine
        self.applier: Applier
        self.watches: Watches
        self.transactions: Runner
        self.dispatcher: Dispatcher
        self.duties: Duties
        self.snapshots: Snapshots

    def open(
        self,
        directory: str,
        *,
        ring: RingSettings | None = None,
        node_id: bytes = b"",
        merges: Mapping[str, object] = MappingProxyType({}),
        alarm: Alarm = NO_ALARM,
    ) -> None:
        """Recover the store and be ready to serve, as a single node or as one of a ring under ``node_id``.

        ``merges``: the functions of ``merge-file``; ``alarm`` stops them. Raises FormatError, CorruptionError,
        RingProblem, BadRules, StorageFull, OSError.
        """
        value = self.config.value
        plan = self.memory_plan = plan_memory(value, self.host.machine_bytes())
        options = engine_options(value, plan, self._retention)
        if ring is not None:
            claim_directory(self.fs, directory)
        databases, limit = value("databases"), value("proto-max-bulk-len")
        self.keyspace = open_store(self.fs, directory, options, plan, databases=databases, wall_ms=self.now_ms)
        self.engine = self.keyspace.engine
        self.keyspace.defer_writes(ring is None)
        self.applier = Applier(self.keyspace)
        self.watches = Watches(self.keyspace, self.recompute_plain)
        self.transactions = Runner(self.table, self.keyspace, self.applier, limit)
        make = Dispatcher if ring is None else RingDispatcher
        self.dispatcher = make(
            table=self.table,
            keyspace=self.keyspace,
            applier=self.applier,
            registry=self.metrics,
            server=self,
            fetch=self.fetch,
            limit_bytes=limit,
        )
        self.snapshots = Snapshots(self, directory)
        if ring is not None:
            assert isinstance(self.dispatcher, RingDispatcher)
            self.ring = RingNode(self, self.dispatcher, ring, node_id=node_id, directory=directory)
        key_rules.install(self, merges, alarm)
        self.duties = Duties(self)
        self.duties.start()
        self._follow_config()
        self._attach_metrics()

    def _follow_config(self) -> None:
        config = self.config

        def slow(value: Any) -> None:
            self.slowlog.threshold_us = config.value("slowlog-log-slower-than")
            self.latency.threshold_ms = config.value("latency-monitor-threshold")
            logged_us, spike_us = self.slowlog.threshold_us, self.latency.threshold_ms * 1000
            self.slow_us = min(logged_us if logged_us >= 0 else _NEVER_US, spike_us or _NEVER_US)
            self.recompute_plain()

        def tracking(value: Any) -> None:
            self.metrics.latency_tracking = value

        def fsync(value: Any) -> None:
            self._fsync = config.sync_policy()

        def disk(value: Any) -> None:
            self.refresh_refusal()

        def bulk(value: Any) -> None:
            self.dispatcher.set_limit(value)
            self.transactions.limit_bytes = value

        for name, follow in (
            ("slowlog-log-slower-than", slow),
            ("appendfsync", fsync),
            ("appendonly", fsync),
            ("max-disk", disk),
            ("proto-max-bulk-len", bulk),
            ("slowlog-max-len", self.slowlog.resize),
            ("latency-tracking", tracking),
            ("latency-monitor-threshold", slow),
            ("notify-keyspace-events", self._on_events),
        ):
            follow(config.value(name))
            config.subscribe(name, follow)
        self.table.settings.follow(config)

    def _on_events(self, value: Any) -> None:
        self.pubsub.set_events(value)
        tells = None if self.ring is None else self.ring.is_acting_primary
        told = ExpiryEvents(self.keyspace, self.pubsub, tells).expired
        self.applier.on_expired = told if self.pubsub.events else None
        self.recompute_plain()

    def _attach_metrics(self) -> None:
        """Tell the registry where to find the figures that others keep."""
        self.metrics.attach("storage", self._storage_figures)
        self.metrics.attach("keyspace", self.keyspace.stats)
        self.metrics.attach("memory", self.memory)
        self.metrics.attach("databases", self._database_figures)
        self.metrics.attach("server", self._server_figures)
        self.metrics.attach("hot_keys", self.dispatcher.hot.stats)

    def _storage_figures(self) -> dict[str, int | float]:
        return self.engine.stats()

    def _database_figures(self) -> dict[str, dict[str, int]]:
        counts, stored = self.keyspace.counts, self.keyspace.stored
        found = {str(number): counts.total(db) for number, db in enumerate(stored)}
        expiring = {str(number): counts.expiring(db) for number, db in enumerate(stored)}
        return {
            "keys": {number: keys for number, keys in found.items() if keys},
            "expires": {number: keys for number, keys in expiring.items() if found[number]},
        }

    def _server_figures(self) -> dict[str, int]:
        return {
            "connected_clients": len(self.sessions),
            "blocked_clients": sum(session.blocked is not None for session in self.sessions.values()),
            "pubsub_channels": len(self.pubsub.channels),
            "pubsub_patterns": len(self.pubsub.patterns),
            "uptime_seconds": (self.now_us - self.started_us) // 1_000_000,
            "slowlog_length": len(self.slowlog),
        }

    def _retention(self) -> dict[str, Any]:
        keyspace = self.keyspace
        # Alone, a node is all replicas of its keys: whatever is older than now may be purged.
        return retention.plain(
            self.duties.lasting_floors(),
            expired_through_ms=self.duties.expired_durable_ms,
            purge_below=keyspace.stamp() if self.ring is None else self.ring.repair.purge_ranges(),
        )

    # -- connections -------------------------------------------------------------------------------

    def connect(self, sink: Sink, *, address: str, local_address: str, unix: bool) -> Session | bytes:
        """A session for a new connection, or the error line with which it is turned away."""
        if len(self.sessions) >= self.config.value("maxclients"):
            self.metrics.rejected_connections += 1
            return errors.MAX_CLIENTS
        session = Session(self._next_session, self, sink, address=address, local_address=local_address)
        self._next_session += 1
        session.unix = unix
        session.created_us = session.last_us = self.now_us
        session.authenticated = not self.config.value("requirepass")
        if self.ring is not None:
            session.cluster_face = self.ring.speaks_cluster(local_address, unix=unix)
        session.recompute_plain()
        self.sessions[session.id] = session
        self.metrics.connections_received += 1
        return session

    def disconnect(self, session: Session) -> None:
        """The connection is gone: nothing of its session may linger."""
        session.closing = True
        if session.blocked is not None and session.blocked.on_unblock is not None:
            session.blocked.on_unblock(None)
        self.watches.unwatch(session)
        self.pubsub.drop_session(session)
        if session.is_monitor:
            self.monitors.remove(session)
            self.recompute_plain()
        self.sessions.pop(session.id, None)
        if self.ring is not None:
            self.ring.session_gone(session)

    def make_parser(self, session: Session) -> RequestParser:
        """The parser of a new connection, with the limits now in force."""
        parser = RequestParser()
        self.limit_parser(session, parser)
        return parser

    def limit_parser(self, session: Session, parser: RequestParser) -> None:
        """Bring a parser's limits up to date, after authentication or CONFIG SET."""
        parser.set_limits(
            max_bulk=self.config.value("proto-max-bulk-len"), unauthenticated=not session.authenticated
        )

    # -- the cycle ---------------------------------------------------------------------------------

    def begin_cycle(self) -> None:
        """Read the clocks, once for the whole cycle."""
        clock = self.clock
        self.now_us = clock.monotonic_us()
        self.now_ms = clock.wall_us() // 1000
        self.keyspace.begin(self.now_ms)

    def execute_turns(self, turns: Iterable[Turn]) -> list[tuple[Any, Pending | None]]:
        """Run the requests of many connections; see ``Dispatcher.run_turns``."""
        return self.dispatcher.run_turns(turns)

    def execute(self, session: Session, argv: list[bytes]) -> bytes | Pending | None:
        """Run one request as if it had come from the connection."""
        return self.dispatcher.execute(session, argv)

    def finish(self, session: Session, pending: Pending) -> bytes:
        """The bytes of a completed reply."""
        if pending.reply is None or session.reply_mode == "off":
            return b""
        return encode(pending.reply, session.proto)

    def more(self, parser: RequestParser) -> bool:
        """True when the parser may hold a complete request that the budget left over."""
        return parser.has_more

    def write_mark(self) -> int:
        """A number that grows with each entry written in this cycle."""
        return (self.engine.appended_lsn << 32) + len(self.engine.batch)

    def commit(self, *, own: bool = False) -> int:
        """Append the cycle's writes to the log; the lsn that covers every reply made until now.

        ``own``: only facts of the node itself, which do not count as load.
        """
        engine = self.engine
        if self.keyspace.sighted:
            self.duties.end_cycle()
        lsn = engine.appended_lsn
        if self.ring is not None:
            self.ring.before_commit()
        elif self.keyspace.conflicts is not None:
            self.write_back()
        if engine.batch:
            memtable = engine.memtable
            if not own:
                self._written_us = self.now_us
                self.changes += len(engine.batch) // 3
            lsn = engine.commit()
            self.keyspace.list_some()
            if not self._unsynced_since_us:
                self._unsynced_since_us = self.now_us
            if engine.memtable is not memtable:
                self.keyspace.counts.follow()
                self.refresh_refusal()
        return lsn

    def relieve(self) -> None:
        """Between two commands of a cycle: commit early when the open batch has grown large."""
        if self.engine.overfull():
            self.commit()

    # -- durability --------------------------------------------------------------------------------

    @property
    def durable_lsn(self) -> int:
        """Every commit up to this one is on disk."""
        return self.engine.durable_lsn

    @property
    def unsynced_bytes(self) -> int:
        """Logged bytes that no finished sync covers."""
        return self.engine.unsynced_bytes

    @property
    def holds_replies(self) -> bool:
        """True while replies must wait until the log is durable up to the commit that covers them."""
        clock = self.keyspace.clock
        if self._fsync == "always" or clock.last >= clock.ceiling:
            # Stamps above the durable ceiling may be given out again after a crash: nobody may see them before.
            return self.engine.durable_lsn < self.engine.appended_lsn
        if self._fsync == "no" or not self._unsynced_since_us:
            return False
        return self.now_us - self._unsynced_since_us > _HOLD_AFTER_US

    def sync_plan(self) -> SyncPlan | None:
        """What to sync in a thread; hand it to ``on_synced``. None when everything is durable."""
        return self.engine.sync_plan()

    def on_synced(self, plan: SyncPlan) -> None:
        """The plan has run."""
        engine = self.engine
        engine.on_synced(plan)
        self.wants_sync = bool(self._after_sync)
        self._unsynced_since_us = 0 if engine.durable_lsn >= engine.appended_lsn else self.now_us
        waiting, self._after_sync = self._after_sync, []
        for lsn, done in waiting:
            if lsn <= engine.durable_lsn:
                done()
            else:
                self._after_sync.append((lsn, done))

    def synced(self, done: Callable[[], None]) -> None:
        """Call ``done`` when everything written so far is on disk."""
        lsn = self.commit()
        if lsn <= self.engine.durable_lsn:
            done()
            return
        self._after_sync.append((lsn, done))
        self.wants_sync = True

    # -- plans -------------------------------------------------------------------------------------

    def manifest_plan(self) -> ManifestPlan | None:
        """What to run in a thread to bring finished jobs in force; hand it to ``on_manifest_synced``."""
        return self.engine.manifest_plan()

    def on_manifest_synced(self, plan: ManifestPlan) -> None:
        """The plan has run."""
        self.engine.on_manifest_synced(plan)
        self.keyspace.counts.follow()
        self.keyspace.counts.save_if_due()
        self.refresh_refusal()

    def reload(self, done: Callable[[str], None]) -> None:
        """DEBUG RELOAD: everything into tables, all caches dropped."""
        self.engine.rotate()
        self.keyspace.counts.follow()
        self.keyspace.cache.clear_all()

        def wait() -> None:
            if self.engine.immutables:
                self.after_us(10_000, wait)
            else:
                done("")

        wait()

    def brake_us(self) -> int:
        """How long clients that write must wait, HOLD_US: until it is over."""
        return self.engine.brake_us() if self.ring is None else self.ring.brake_us()

    def fetch(self, requests: list[BlockRequest], done: Callable[[], None]) -> None:
        """Read blocks in the background, install them, then call ``done``."""
        self._fetches.append(FetchRequest(requests, done))

    def take_fetches(self) -> list[FetchRequest]:
        """The fetches asked for since the last call."""
        taken, self._fetches = self._fetches, []
        return taken

    def on_fetch_failed(self, request: BlockRequest, error: CorruptionError | OSError) -> None:
        """A block could not be read, by a thread; comes before its fetch is done."""
        self.engine.on_fetch_failed(request, error)

    # -- timers ------------------------------------------------------------------------------------

    def after_us(self, delay_us: int, action: Callable[[], None]) -> Callable[[], None]:
        """Call ``action`` on the loop after a delay; the result cancels it."""
        return self._timers.at(self.now_us + delay_us, action)

    def next_timer_us(self) -> int:
        """Monotonic time at which ``on_timer`` is due."""
        deadline = self._timers.next_us()
        return _NEVER_US if deadline is None else deadline

    def on_timer(self) -> None:
        """Do what is due."""
        self._timers.run(self.now_us)

    def stall_until(self, monotonic_us: int) -> None:
        """DEBUG SLEEP: no client is served before that time."""
        self.host.stall_until(monotonic_us)

    # -- what forbids the fast path ----------------------------------------------------------------

    def recompute_plain(self) -> None:
        """A cause that forbids the fast path for the whole node changed."""
        self.dispatcher.plain = not (
            self.monitors
            or self.pause_mode
            or self.keyspace.watching
            or self.pubsub.events
            or self.dispatcher.refusal is not None
            # GET and SET are not timed one by one on the fast path: they could not be found in the slow log.
            or self.slow_us < _TIMED_US
        )

    def refresh_refusal(self) -> None:
        """Find out whether clients' writes are to be refused, and how."""
        refusal, reason = why_refused(self.engine, self.config.value("max-disk"))
        if refusal != self.dispatcher.refusal:
            self.dispatcher.refusal = refusal
            self.metrics.refuse_writes(reason)
            self.log("warning" if refusal else "notice", told(self.engine, reason))
            self.recompute_plain()

    def end_pause(self) -> None:
        """CLIENT PAUSE is over: run what waited for it."""
        self.pause_mode = ""
        self.pause_until_us = 0
        waiting, self._unpaused = self._unpaused, []
        self.recompute_plain()
        for action in waiting:
            action()

    def when_unpaused(self, action: Callable[[], None]) -> None:
        """Call ``action`` when the pause ends."""
        self._unpaused.append(action)
        self.after_us(max(0, self.pause_until_us - self.now_us) + 1000, self._pause_due)

    def _pause_due(self) -> None:
        if self.pause_mode and self.now_us >= self.pause_until_us:
            self.end_pause()

    # -- what commands ask of the server -------------------------------------------------------------

    def feed_monitors(self, session: Session, argv: list[bytes]) -> None:
        """Show a request to all MONITOR connections."""
        line = monitor_line(self.clock.wall_us(), session.db, session.address, argv)
        for monitor in self.monitors:
            monitor.sink.push(line)

    def slow_command(self, session: Session, argv: list[bytes], took_us: int) -> None:
        """A command took at least ``slow_us``."""
        self.slowlog.add(
            redacted(argv), duration_us=took_us, wall_ms=self.now_ms, client=session.address, name=session.name
        )
        spec = self.table.resolve(argv)
        event = "fast-command" if spec is not None and spec.flags & FAST else "command"
        self.latency.note(event, took_us // 1000, time_s=self.now_ms // 1000)

    def check_save_points(self) -> None:
        """Snapshot when a save rule is met."""
        self.snapshots.check(self.config.value("save"))

    def shutdown(self, *, save: bool | None, now: bool, force: bool) -> None:
        """Begin a graceful stop."""
        if self.shutdown_request is not None:
            raise CommandError(error(b"ERR Errors trying to SHUTDOWN. Check logs."))
        self.shutdown_request = ShutdownRequest(save, now, force)

    def abort_shutdown(self) -> bool:
        """Cancel a stop under way; False when there is none."""
        pending, self.shutdown_request = self.shutdown_request, None
        return pending is not None

    def rewrite_config(self) -> bytes:
        """CONFIG REWRITE: the finished reply."""
        return self.host.rewrite_config()

    def memory(self) -> dict[str, int]:
        """Bytes by part, for INFO and MEMORY STATS."""
        engine = self.engine.stats()
        row_cache = self.keyspace.cache.stats()["bytes"]
        block_cache = int(engine.get("block_cache_bytes", engine.get("bytes", 0)))
        memtables = int(engine["memtable_bytes"]) + sum(table.charge() for table in self.engine.immutables)
        return {
            "total": self.host.machine_bytes(),
            **self.host.memory(),
            "row_cache": row_cache,
            "block_cache": block_cache,
            "memtables": memtables,
            "used": row_cache + block_cache + memtables,
            "maxmemory": self.config.value("maxmemory"),
        }

    # -- the end -------------------------------------------------------------------------------------

    def close(self) -> None:
        """Clean stop: note the exact clock, make the log durable. Blocking."""
        self.keyspace.write_exact_clock()
        self.keyspace.counts.save_if_due()
        if self.ring is not None:
            self.ring.close()
        self.engine.commit()
        plan = self.engine.sync_plan()
        if plan is not None:
            plan.run()
            self.engine.on_synced(plan)
        self.engine.close()

