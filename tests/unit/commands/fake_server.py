"""A server for session commands: dispatcher, table, keyspace, registry are real; clock, sockets, disk simulated."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import hiredis

from respkv.base.errors import BlockRequest, CommandError
from respkv.commands import (
    client,
    config_commands,
    connection,
    debug,
    keyspace,
    latency,
    memory,
    monitor,
    pubsub,
    server,
    slowlog,
    string,
    string_set,
    transactions,
    wait,
)
from respkv.commands.dispatch import Dispatcher
from respkv.commands.monitor import monitor_line, redacted
from respkv.commands.pubsub import PubSub
from respkv.commands.session import Pending, Session
from respkv.commands.transactions import Runner, Watches
from respkv.config.store import ConfigStore
from respkv.metrics.acl_log import AclLog
from respkv.metrics.registry import Registry
from respkv.metrics.slowlog import LatencyMonitor, SlowLog
from respkv.resp import errors
from respkv.resp.reply import OK, encode
from tests.unit.commands.harness import START_MS, ErrorText, Harness

MODULES = (
    client, config_commands, connection, debug, keyspace, latency, memory, monitor, pubsub, server, slowlog,
    string, string_set, transactions, wait,
)  # fmt: skip


class FakeClock:
    """Both clocks, moved by hand."""

    def __init__(self) -> None:
        self.now_us = 1_000_000

    def monotonic_us(self) -> int:
        return self.now_us

    def steady_us(self) -> int:
        return self.now_us

    def wall_us(self) -> int:
        return START_MS * 1000 + self.now_us - 1_000_000


class FakeSink:
    """The output of a connection, kept."""

    def __init__(self) -> None:
        self.data = b""
        self.closed: str | None = None
        self.waiting_input = 0

    def push(self, data: bytes) -> None:
        self.data += data

    def close(self, *, after_output: bool) -> None:
        self.closed = "after output" if after_output else "at once"

    def buffered(self) -> int:
        return len(self.data)

    def input_buffered(self) -> int:
        return self.waiting_input

    def read_on(self) -> None:
        raise AssertionError("nothing halts a fake connection")


class FakeSnapshots:
    """The state of snapshots, set by hand."""

    def __init__(self) -> None:
        self.last_save_ms = START_MS
        self.last_ok = True
        self.last_took_ms = 0
        self.made = 0
        self.busy = False
        self.unsaved = 0

    def changes(self) -> int:
        return self.unsaved


class Client:
    """One connection. Called with words it returns the decoded reply, a Pending, or SILENT."""

    SILENT = object()

    def __init__(self, fake: FakeServer, session: Session, sink: FakeSink) -> None:
        self.fake = fake
        self.session = session
        self.sink = sink

    def raw(self, *words: bytes | str | int) -> bytes | Pending | None:
        argv = [word if isinstance(word, bytes) else str(word).encode() for word in words]
        return self.fake.execute(self.session, argv)

    def __call__(self, *words: bytes | str | int) -> Any:
        reply = self.raw(*words)
        if reply is None:
            return self.SILENT
        if isinstance(reply, Pending):
            return reply
        return decode(reply)[0]

    def all(self, *words: bytes | str | int) -> list[Any]:
        """All the messages of a reply."""
        reply = self.raw(*words)
        assert isinstance(reply, bytes)
        return decode(reply)

    def result(self, pending: Pending) -> Any:
        """What a pending reply was completed with."""
        assert pending.reply is not None, "not complete"
        return decode(encode(pending.reply, self.session.proto))[0]

    def pushed(self) -> list[Any]:
        """Out-of-band messages since the last call."""
        data, self.sink.data = self.sink.data, b""
        return decode(data)


def decode(data: bytes) -> list[Any]:
    """All replies in ``data``; errors as ErrorText."""
    reader = hiredis.Reader()
    reader.feed(data)
    found = []
    while (reply := reader.gets()) is not False:
        found.append(ErrorText(reply) if isinstance(reply, hiredis.ReplyError) else reply)
    assert not reader.has_data(), data
    return found


class FakeServer:
    """Keeps the protocol of ``commands.session.Server``."""

    def __init__(self, **directives: Any) -> None:
        self.harness = Harness(*MODULES)
        self.config = ConfigStore({name.replace("_", "-"): value for name, value in directives.items()})
        self.metrics = Registry()
        self.keyspace = self.harness.keyspace
        self.table = self.harness.table
        self.pubsub = PubSub()
        self.watches = Watches(self.keyspace, self.recompute_plain)
        self.transactions = Runner(self.table, self.keyspace, self.harness.applier, 512 << 20)
        self.slowlog = SlowLog()
        self.latency = LatencyMonitor()
        self.acl_log = AclLog()
        self.clock = FakeClock()
        self.rng = random.Random(7)
        self.sessions: dict[int, Session] = {}
        self.monitors: list[Session] = []
        self.snapshots = FakeSnapshots()
        self.run_id = "ab" * 20
        self.started_us = self.clock.now_us
        self.executable = "/usr/bin/respkv-server"
        self.config_file = "/etc/respkv.conf"
        self.process_id = 4711
        self.tcp_port = 6379
        self.active_expire = True
        self.slow_us = 1 << 62
        self.pause_until_us = 0
        self.pause_mode = ""
        self.stalled_until_us = 0
        self.logged: list[tuple[str, str]] = []
        self.shutdowns: list[tuple[bool | None, bool, bool]] = []
        self.shutdown_problem: bytes | None = None
        self.snapshot_done: list[Callable[[str], None]] = []
        self.snapshot_problem: str | None = None
        self.sync_done: list[Callable[[], None]] = []
        self.reload_done: list[Callable[[str], None]] = []
        self.disk_is_synced = False
        self.figures = {"used": 10 << 20, "rss": 20 << 20, "peak": 25 << 20, "total": 8 << 30, "row_cache": 6 << 20}
        self._timers: list[tuple[int, int, Callable[[], None]]] = []
        self._timer_count = 0
        self._unpaused: list[Callable[[], None]] = []
        self.dispatcher = Dispatcher(
            table=self.table,
            keyspace=self.keyspace,
            applier=self.harness.applier,
            registry=self.metrics,
            server=self,  # type: ignore[arg-type]
            fetch=self.fetch,
            limit_bytes=512 << 20,
        )

    @property
    def now_us(self) -> int:
        return self.clock.now_us

    @property
    def now_ms(self) -> int:
        return self.clock.wall_us() // 1000

    def client(self, address: str = "127.0.0.1:5000", *, unix: bool = False) -> Client:
        """A new connection."""
        sink = FakeSink()
        ident = len(self.sessions) + 1
        session = Session(ident, self, sink, address=address, local_address="127.0.0.1:6379")  # type: ignore[arg-type]
        session.unix = unix
        session.created_us = session.last_us = self.now_us
        session.authenticated = not self.config.string("requirepass")
        session.recompute_plain()
        self.sessions[ident] = session
        return Client(self, session, sink)

    def advance_ms(self, count: int) -> None:
        """Let time pass and run the timers that are due, in order."""
        self.clock.now_us += count * 1000
        self.keyspace.begin(self.now_ms)
        while self._timers and min(self._timers)[0] <= self.now_us:
            timer = min(self._timers)
            self._timers.remove(timer)
            timer[2]()

    def timers(self) -> int:
        return len(self._timers)

    # what the protocol asks for

    def recompute_plain(self) -> None:
        self.dispatcher.plain = not (self.monitors or self.pause_mode or self.keyspace.watching)

    def feed_monitors(self, session: Session, argv: list[bytes]) -> None:
        for watcher in self.monitors:
            watcher.sink.push(monitor_line(self.clock.wall_us(), session.db, session.address, argv))

    def slow_command(self, session: Session, argv: list[bytes], took_us: int) -> None:
        self.slowlog.add(
            redacted(argv), duration_us=took_us, wall_ms=self.now_ms, client=session.address, name=session.name
        )

    def end_pause(self) -> None:
        self.pause_mode = ""
        self.pause_until_us = 0
        waiting, self._unpaused = self._unpaused, []
        self.recompute_plain()
        for action in waiting:
            action()

    def when_unpaused(self, action: Callable[[], None]) -> None:
        self._unpaused.append(action)

    def execute(self, session: Session, argv: list[bytes]) -> bytes | Pending | None:
        reply = self.dispatcher.execute(session, argv)
        self.harness.engine.commit()
        return reply

    def after_us(self, delay_us: int, action: Callable[[], None]) -> Callable[[], None]:
        self._timer_count += 1
        timer = (self.now_us + delay_us, self._timer_count, action)
        self._timers.append(timer)
        return lambda: self._timers.remove(timer) if timer in self._timers else None

    def stall_until(self, monotonic_us: int) -> None:
        self.stalled_until_us = monotonic_us

    def shutdown(self, *, save: bool | None, now: bool, force: bool) -> None:
        if self.shutdown_problem is not None:
            raise CommandError(self.shutdown_problem)
        self.shutdowns.append((save, now, force))

    def abort_shutdown(self) -> bool:
        return bool(self.shutdowns) and self.shutdowns.pop() is not None

    def snapshot(self, done: Callable[[str], None]) -> None:
        if self.snapshot_problem is not None:
            done(self.snapshot_problem)
            return
        self.snapshots.busy = True
        self.snapshot_done.append(done)

    def synced(self, done: Callable[[], None]) -> None:
        if self.disk_is_synced:
            done()
        else:
            self.sync_done.append(done)

    def reload(self, done: Callable[[str], None]) -> None:
        self.reload_done.append(done)

    def fetch(self, requests: list[BlockRequest], done: Callable[[], None]) -> None:
        for request in requests:
            request.install(request.read())
        done()

    def rewrite_config(self) -> bytes:
        if not self.config_file:
            raise CommandError(b"-ERR The server is running without a config file\r\n")
        return OK

    def log(self, level: str, text: str) -> None:
        self.logged.append((level, text))

    def memory(self) -> dict[str, int]:
        return dict(self.figures)


NO_AUTH = ErrorText(errors.NO_AUTH[1:-2].decode())
