"""A server's life: start in order, serve, stop in order.

Start: log, background, descriptors, ports bound, lock and recovery, workers, threads, then ports open. A
port that is busy, a directory in use, damaged data: one clear line in the log and status 1, before any
client is served. Stop (SIGTERM, SIGINT, SHUTDOWN): with save points a snapshot; no new connections; the log
made durable; pid file and Unix socket removed; status 0. A second SIGINT ends at once with status 1. A
cycle that raises is the end: the trace goes to the log, the process exits and the next start recovers.
"""

from __future__ import annotations

import gc
import os
import signal
import socket
import traceback
from collections.abc import Callable
from typing import Any, Final

import trio

from respkv.base.errors import RespkvError
from respkv.config.kinds import ConfigError, OutputLimits
from respkv.config.store import ConfigStore
from respkv.env import rng
from respkv.env.alarm import NO_ALARM
from respkv.env.clock import Clock
from respkv.env.fs import FileSystem
from respkv.metrics import prometheus
from respkv.node.key_rules import BadRules
from respkv.node.node import Node
from respkv.node.ring_settings import RingProblem, RingSettings, ring_settings
from respkv.server import banner, huge_pages, process
from respkv.server.client_limits import OutputLimit
from respkv.server.durability import Durability
from respkv.server.errands import Errands
from respkv.server.host import ProcessHost
from respkv.server.lanes import Lane
from respkv.server.listener import Listener, ListenError, bind_tcp, bind_unix
from respkv.server.merge_file import MergeFileError, load_merges
from respkv.server.metrics_http import MetricsServer
from respkv.server.peer_links import PeerLinks
from respkv.server.reactor import Reactor
from respkv.server.server_log import ServerLog
from respkv.server.signal_alarm import SignalAlarm
from respkv.server.worker_pool import WorkerPool
from respkv.storage.identity import Directory, open_directory
from respkv.storage.wal import FatalStorageError

SWEEP_US: Final = 100_000
SECOND_US: Final = 1_000_000
READ_THREADS: Final = 4
WORKER_RSS_BYTES: Final = 1 << 30
#: Full collections run when fewer requests than this came in a second, and not oftener than the interval.
IDLE_REQUESTS: Final = 100
COLLECT_INTERVAL_US: Final = 300_000_000


class StartError(RespkvError):
    """The server cannot start; the text is for the log."""


class Server:
    """Everything of one process. ``prepare`` then ``run``; the result of ``run`` is the exit status."""

    def __init__(
        self, config: ConfigStore, fs: FileSystem, clock: Clock, log: ServerLog, *, executable: str
    ) -> None:
        self.config = config
        self.fs = fs
        self.clock = clock
        self.log = log
        self.host = ProcessHost(config, fs, log)
        self.node = Node(
            config=config,
            fs=fs,
            clock=clock,
            rng=rng.from_system(),
            host=self.host,
            run_id=rng.random_bytes(20).hex(),
            process_id=os.getpid(),
            executable=executable,
            config_file=config.path,
            log=log,
        )
        self.reactor = Reactor(self.node, clock, log=lambda text: log("warning", text))
        self.host.stall = self.reactor.stall_until
        self.listeners: list[Listener] = []
        self.metrics_server = MetricsServer(lambda: prometheus.render(self.node.metrics))
        self.status = 0
        #: where the number of this process was written; "" when nowhere
        self.pidfile = ""
        self._directory: Directory | None = None
        #: what this process is on a ring; None for a single node
        self.ring_settings: RingSettings | None = None
        self.peer_links: PeerLinks | None = None
        self._sockets: list[tuple[socket.socket, str]] = []
        self._ending = False
        self._collected_us = clock.monotonic_us()
        self._requests = 0

    # Start

    def prepare(self) -> None:
        """Everything up to an open store and running workers. Raises StartError."""
        config, log = self.config, self.log
        allowed = process.adjust_open_files(config.integer("maxclients"), log)
        if allowed != config.integer("maxclients"):
            config.set([(b"maxclients", b"%d" % allowed)])
        log("notice", "monotonic clock: POSIX clock_gettime")
        banner.show(log, config)
        if huge_pages.granted(os.environ):
            log("notice", "Large tables will lie in huge pages (RESPKV_HUGE_PAGES): pauses can be longer.")
        self._bind()
        self.workers = WorkerPool(
            self.reactor, count=self._worker_count(), rss_limit_bytes=WORKER_RSS_BYTES, log=log
        )
        try:
            self._open_store()
            self.workers.start()
        except BaseException:
            self._release()
            raise
        self._start_threads()
        self._follow_config()
        self._attach_metrics()

    def _bind(self) -> None:
        config = self.config
        try:
            for name in ("port", "alternate-port"):
                port = config.integer(name)
                if port:
                    sockets = bind_tcp(config.words("bind"), port, self.log)
                    self._sockets += [(sock, "") for sock in sockets]
            path = config.string("unixsocket")
            if path:
                path = os.path.abspath(path)
                self._sockets.append((bind_unix(path, config.integer("unixsocketperm")), path))
        except ListenError as error:
            self._release()
            raise StartError(str(error)) from error
        if not self._sockets:
            raise StartError("Configured to not listen anywhere, exiting.")

    def _worker_count(self) -> int:
        return self.config.integer("workers") or max(1, min(2, (os.cpu_count() or 1) - 1))

    def _open_store(self) -> None:
        path = os.getcwd()
        started_us = self.clock.monotonic_us()
        try:
            self._directory = open_directory(self.fs, path, make_id=lambda: rng.random_bytes(16))
            self.ring_settings = ring_settings(self.config, self.fs.listdir(path))
            for warning in self.ring_settings.warnings if self.ring_settings is not None else ():
                self.log("warning", warning)
            merges = load_merges(self.config, self.fs)
            alarm = SignalAlarm() if merges else NO_ALARM
            node_id = self._directory.node_id
            self.node.open(path, ring=self.ring_settings, node_id=node_id, merges=merges, alarm=alarm)
        except (RingProblem, BadRules, MergeFileError) as error:
            raise StartError(str(error)) from error
        except (RespkvError, OSError) as error:
            raise StartError(f"Cannot open the data directory: {error}") from error
        self.log("notice", "Server initialized")
        report = self.node.engine.recovery
        if report.records or report.dropped_bytes:
            self.log(
                "notice",
                f"Log replayed: {report.records} records, {report.entries} entries,"
                f" {report.dropped_bytes} bytes of unfinished tail dropped",
            )
        seconds = (self.clock.monotonic_us() - started_us) / 1e6
        self.log("notice", f"DB loaded from disk: {seconds:.3f} seconds")

    def _start_threads(self) -> None:
        reactor, node = self.reactor, self.node
        self.sync_lane = Lane("sync", reactor.post)
        self.edit_lane = Lane("edit", reactor.post)
        self.read_lane = Lane("read", reactor.post, threads=READ_THREADS)
        self.durability = Durability(
            node,
            self.sync_lane,
            policy=self.config.sync_policy,
            clock_us=self.clock.monotonic_us,
            synced=reactor.on_durable,
            fatal=self._fatal,
            measured=node.metrics.wal_sync.record,
        )
        self.errands = Errands(
            node,
            durability=self.durability,
            jobs=self.workers,
            edits=self.edit_lane,
            reads=self.read_lane,
            call_later=self._call_later,
            fatal=self._fatal,
            log=self.log,
        )
        reactor.on_append = self.durability.on_append
        reactor.after_cycle = self._after_cycle
        self.errands.start()
        self._call_later(SWEEP_US, self._sweep)
        self._call_later(SECOND_US, self._second)

    def _call_later(self, delay_us: int, action: Callable[[], None]) -> None:
        self.reactor.call_at(self.clock.monotonic_us() + delay_us, action)

    def _follow_config(self) -> None:
        limits = self.reactor.limits

        def output(value: Any) -> None:
            assert isinstance(value, OutputLimits)
            for name in ("normal", "pubsub"):
                row = getattr(value, name)
                soft_us = row.soft_seconds * 1_000_000
                limit = OutputLimit(hard_bytes=row.hard_bytes, soft_bytes=row.soft_bytes, soft_us=soft_us)
                setattr(limits, name, limit)

        def query(value: Any) -> None:
            limits.query_bytes = value

        def idle(value: Any) -> None:
            limits.idle_us = value * 1_000_000

        def level(value: Any) -> None:
            self.log.level = value

        for name, follow in (
            ("client-output-buffer-limit", output),
            ("client-query-buffer-limit", query),
            ("timeout", idle),
            ("loglevel", level),
        ):
            follow(self.config.value(name))
            self.config.subscribe(name, follow)
        self.config.subscribe("maxclients", self._on_maxclients)

    def _on_maxclients(self, value: Any) -> None:
        allowed = process.adjust_open_files(value, self.log)
        if allowed < value:
            raise ConfigError(
                "The operating system is not able to handle the specified number of clients,"
                f" try with {allowed}"
            )

    # Serve

    def run(self) -> int:
        """Serve until told to stop; the exit status."""
        gc.collect()
        gc.freeze()
        gc.set_threshold(10_000, 20, 1_000_000)
        try:
            trio.run(self._main)
        except BaseException as error:
            self._crashed(error)
        return self.status

    async def _main(self) -> None:
        await self._open_ports()
        async with trio.open_nursery() as nursery:
            self._join_ring(nursery)
            await nursery.start(self._watch_signals)
            if self._metrics_listeners:
                nursery.start_soon(trio.serve_listeners, self.metrics_server.serve_connection, self._metrics_listeners)
            self._ready()
            await self.reactor.run()
            nursery.cancel_scope.cancel()
        if self.status == 0:
            self._end()

    async def _open_ports(self) -> None:
        config = self.config
        self._metrics_listeners: list[trio.SocketListener] = []
        port = config.integer("metrics-port")
        try:
            if port:
                self._metrics_listeners = await self.metrics_server.listen(config.words("metrics-bind"), port)
        except OSError as error:
            self.log("warning", f"Warning: Could not listen for /metrics: {error}")
            raise StartError(f"Failed listening on port {port} (metrics), aborting.") from error
        try:
            for sock, path in self._sockets:
                listener = Listener(
                    sock,
                    self.reactor,
                    path=path,
                    keepalive_s=lambda: config.integer("tcp-keepalive"),
                    protected=lambda: config.flag("protected-mode") and not config.string("requirepass"),
                    rejected=self._count_rejected,
                    log=self.log,
                )
                listener.start(config.integer("tcp-backlog"))
                self.listeners.append(listener)
        except OSError as error:
            raise StartError(f"Failed listening: {error.strerror or error}, aborting.") from error

    def _join_ring(self, nursery: trio.Nursery) -> None:
        """Open the port between nodes and begin to dial them."""
        settings, ring = self.ring_settings, self.node.ring
        if settings is None or ring is None:
            return
        links = self.peer_links = PeerLinks(
            self.reactor,
            ring.mesh,
            hosts=settings.node_bind,
            port=settings.node_port,
            clock=self.clock,
            log=self.log,
            open_task=nursery.start_soon,
        )
        try:
            links.bind()
            links.start()
        except ListenError as error:
            raise StartError(str(error)) from error
        self.node.metrics.attach("links", links.stats)
        self.reactor.join_ring(links)
        self._call_later(0, self._tick_links)

    def _tick_links(self) -> None:
        if self.peer_links is not None and not self._ending:
            self.peer_links.tick(self.reactor.now_us)
            self._call_later(SWEEP_US, self._tick_links)

    def _count_rejected(self) -> None:
        self.node.metrics.rejected_connections += 1

    def _ready(self) -> None:
        for notice in self.config.notices():
            self.log("notice", notice)
        kinds = {"unix" if listener.path else "tcp": None for listener in self.listeners}
        for kind in kinds:
            self.log("notice", f"Ready to accept connections {kind}")
        if self.config.string("supervised") in ("systemd", "auto"):
            process.notify_supervisor(os.environ, "STATUS=Ready to accept connections\nREADY=1\n")

    async def _watch_signals(self, task_status: trio.TaskStatus[None]) -> None:
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            task_status.started()
            async for number in signals:
                name = signal.Signals(number).name
                if number == signal.SIGINT and self._ending:
                    self.log("warning", "You insist... exiting now.")
                    self._remove_pidfile()
                    os._exit(1)
                self.log("warning", f"Received {name} scheduling shutdown...")
                self.reactor.post(self._ask_to_stop)

    def _ask_to_stop(self) -> None:
        if self.node.shutdown_request is None:
            self.node.shutdown(save=None, now=False, force=False)

    def _after_cycle(self) -> None:
        self.errands.after_cycle()
        if self.node.shutdown_request is not None and not self._ending:
            self._begin_end()

    def _sweep(self) -> None:
        """Look at a part of the connections; a full round takes a second at most while there are few."""
        self.reactor.limits.sweep(self.reactor.connections, self.reactor.now_us)
        self._call_later(SWEEP_US, self._sweep)

    def _second(self) -> None:
        now_us = self.reactor.now_us
        requests = self.node.metrics.commands_processed
        idle = requests - self._requests < IDLE_REQUESTS
        self._requests = requests
        if idle and now_us - self._collected_us > COLLECT_INTERVAL_US:
            self._collected_us = now_us
            gc.collect()
        self._call_later(SECOND_US, self._second)

    def _attach_metrics(self) -> None:
        metrics, reactor = self.node.metrics, self.reactor
        last: dict[str, int] = {}

        def bring() -> None:
            now = reactor.traffic.figures()
            now["client_output_disconnections"] = reactor.limits.output_drops
            now["client_query_disconnections"] = reactor.limits.query_drops
            for name, value in now.items():
                setattr(metrics, name, getattr(metrics, name) + value - last.get(name, 0))
            last.update(now)

        metrics.on_refresh(bring)
        metrics.attach("cpu", lambda: process.cpu_figures(self.fs, self.workers.process_ids()))

    # End

    def _begin_end(self) -> None:
        """A stop was asked for: save first, if so configured or told."""
        request = self.node.shutdown_request
        assert request is not None
        self._ending = True
        self.log("notice", "User requested shutdown...")
        if self.config.string("supervised") in ("systemd", "auto"):
            process.notify_supervisor(os.environ, "STOPPING=1\n")
        save = bool(self.config.save_points()) if request.save is None else request.save
        if save:
            self.log("notice", "Saving the final snapshot before exiting.")
            self.node.snapshot(self._on_saved)
            self.errands.pull()
        else:
            self.reactor.stopping = True

    def _on_saved(self, problem: str) -> None:
        request = self.node.shutdown_request
        if request is None:
            self._ending = False  # SHUTDOWN ABORT
            return
        if problem and not request.force:
            self.log("warning", f"Error trying to save the DB, can't exit: {problem}")
            self.node.shutdown_request = None
            self._ending = False
            return
        if not problem:
            self.log("notice", "DB saved on disk")
        self.reactor.stopping = True

    def _end(self) -> None:
        """The loop has ended: make everything durable and go."""
        for listener in self.listeners:
            if listener.path:
                self.log("notice", "Removing the unix socket file.")
            listener.close()
        self.errands.stop()
        self.workers.stop()
        for lane in (self.sync_lane, self.edit_lane):
            lane.close()
            lane.join()
        self.reactor.run_cycle([])
        self.log("notice", "Calling fsync() on the log.")
        self.node.close()
        self.reactor.on_durable()
        if self.peer_links is not None:
            self.peer_links.close()
        self.reactor.close()
        if self._directory is not None:
            self._directory.lock.close()
        self._remove_pidfile()
        self.log("notice", "Redis is now ready to exit, bye bye...")

    def _release(self) -> None:
        """A start that failed gives back what it has taken."""
        for sock, path in self._sockets:
            sock.close()
            if path:
                os.unlink(path)
        self._sockets.clear()
        if self._directory is not None:
            self._directory.lock.close()

    def _remove_pidfile(self) -> None:
        if self.pidfile and os.path.exists(self.pidfile):
            self.log("notice", "Removing the pid file.")
            os.unlink(self.pidfile)

    def _fatal(self, error: BaseException) -> None:
        """The disk and the memory disagree: nothing may be acknowledged any more."""
        self.log("warning", f"Fatal: {error}. Exiting; the next start recovers what is durable.")
        os._exit(1)

    def _crashed(self, error: BaseException) -> None:
        """``run`` was left by an exception."""
        while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
            error = error.exceptions[0]
        self.status = 1
        if isinstance(error, FatalStorageError):
            self._fatal(error)
        if isinstance(error, StartError):
            self.log("warning", str(error))
            self._release()
            self.workers.stop()
            self._remove_pidfile()
            return
        self.log(
            "warning", "=== RESPKV BUG REPORT: a cycle failed; the next start recovers what was logged ==="
        )
        self.log("warning", "".join(traceback.format_exception(error)))
        os._exit(1)
