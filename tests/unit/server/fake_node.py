"""A node of few lines that keeps the contract of ``server.ports.NodePort``, and a world to run a reactor in."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import Any

import hiredis

from respkv.base.limits import CYCLE_US_MAX
from respkv.commands.session import Pending, Session, Sink
from respkv.resp.reply import encode
from respkv.server.connection import READABLE, Connection
from respkv.server.reactor import Reactor

NEVER_US = 1 << 62


class FakeClock:
    """Time that stands still until it is told to go on."""

    def __init__(self) -> None:
        self.us = 1_000_000

    def monotonic_us(self) -> int:
        return self.us

    def steady_us(self) -> int:
        return self.us

    def wall_us(self) -> int:
        return self.us


class FakeParser:
    """hiredis without limits; ``!`` in an argument is a protocol error."""

    def __init__(self) -> None:
        self.reader = hiredis.Reader()
        self.error: bytes | None = None

    def feed(self, data: bytes) -> None:
        if b"!" in data:
            self.error = b"-ERR Protocol error: exclamation\r\n"
            data = data.partition(b"!")[0]
        self.reader.feed(data)

    @property
    def buffered(self) -> int:
        return self.reader.len()


class FakePlan:
    """A sync of everything up to ``lsn``."""

    def __init__(self, lsn: int, action: Callable[[], None] | None = None) -> None:
        self.lsn = lsn
        self.action = action

    def run(self) -> None:
        if self.action is not None:
            self.action()


class FakeNode:
    """PING, GET, SET, WAIT (pending), LATER (pending, a write), QUIT, PUSH id text, KILL id, ECHO n (n bytes)."""

    def __init__(self) -> None:
        self.store: dict[bytes, bytes] = {}
        self.sessions: dict[int, Session] = {}
        self.gone: list[int] = []
        self.waiting: list[Pending] = []
        self.budget = 1000
        self.writes = self.lsn = self.durable_lsn = 0
        self.always = False
        self.wait_us = 0
        self.table = SimpleNamespace(writers=frozenset({"later"}))
        self.refuse: bytes | None = None
        self.timer_us = NEVER_US
        self.timers_run = 0
        self.cycles = 0
        self.wants_sync = False
        self.shutdown_request: Any = None
        self._logged = 0
        self.clock = FakeClock()

    @property
    def holds_replies(self) -> bool:
        return self.always and self.durable_lsn < self.lsn

    @property
    def unsynced_bytes(self) -> int:
        return self.lsn - self.durable_lsn

    def begin_cycle(self) -> None:
        self.cycles += 1

    def connect(self, sink: Sink, *, address: str, local_address: str, unix: bool) -> Session | bytes:
        if self.refuse is not None:
            return self.refuse
        number = len(self.sessions) + len(self.gone) + 1
        session = Session(number, self, sink, address=address, local_address=local_address)  # type: ignore[arg-type]
        session.unix = unix
        self.sessions[number] = session
        return session

    def disconnect(self, session: Session) -> None:
        del self.sessions[session.id]
        self.gone.append(session.id)

    def make_parser(self, session: Session) -> FakeParser:
        return FakeParser()

    def execute_turns(self, turns: Iterable[Any]) -> list[tuple[Any, Pending | None]]:
        special: list[tuple[Any, Pending | None]] = []
        until_us = self.clock.us + CYCLE_US_MAX
        for turn in turns:
            if self.clock.us > until_us:
                special.append((turn, None))
                continue
            pending = self.execute_batch(turn.session, turn.parser, turn.out)
            if pending is not None or turn.session.closing or turn.parser.error is not None or self.more(turn.parser):
                special.append((turn, pending))
        return special

    def execute_batch(self, session: Session, parser: FakeParser, out: list[bytes]) -> Pending | None:
        for _ in range(self.budget):
            request = parser.reader.gets()
            if request is False:
                return None
            session.commands += 1
            reply = self._run(session, [bytes(part) for part in request])
            if isinstance(reply, Pending):
                return reply
            out.append(reply)
            if session.closing:
                return None
        return None

    def _run(self, session: Session, argv: list[bytes]) -> bytes | Pending:
        name = argv[0].upper()
        session.last_command = name.decode().lower()
        if name == b"SET":
            self.store[argv[1]] = argv[2]
            self.writes += 1
            return b"+OK\r\n"
        if name == b"GET":
            value = self.store.get(argv[1])
            return b"$-1\r\n" if value is None else b"$%d\r\n%b\r\n" % (len(value), value)
        if name == b"WAIT":
            self.waiting.append(Pending())
            return self.waiting[-1]
        if name == b"LATER":
            self.waiting.append(Pending())
            return self.waiting[-1]
        if name == b"BLOCK":
            self.waiting.append(Pending())
            session.blocked = self.waiting[-1]
            return self.waiting[-1]
        if name == b"QUIT":
            session.closing = True
            return b"+OK\r\n"
        if name == b"PUSH":
            self.sessions[int(argv[1])].sink.push(b"+%b\r\n" % argv[2])
            return b"+OK\r\n"
        if name == b"KILL":
            self.sessions[int(argv[1])].sink.close(after_output=False)
            return b"+OK\r\n"
        if name == b"ECHO":
            return b"$%b\r\n%b\r\n" % (argv[1], b"x" * int(argv[1]))
        return b"+PONG\r\n"

    def finish(self, session: Session, pending: Pending) -> bytes:
        assert pending.reply is not None
        return encode(pending.reply, session.proto)

    def more(self, parser: FakeParser) -> bool:
        return parser.reader.has_data()

    def write_mark(self) -> int:
        return self.writes

    def commit(self) -> int:
        if self.writes > self._logged:
            self._logged = self.writes
            self.lsn += 1
        return self.lsn

    def brake_us(self) -> int:
        return self.wait_us

    def next_timer_us(self) -> int:
        return self.timer_us

    def on_timer(self) -> None:
        self.timers_run += 1
        self.timer_us = NEVER_US

    def sync_plan(self) -> FakePlan | None:
        return FakePlan(self.lsn) if self.durable_lsn < self.lsn else None

    def on_synced(self, plan: FakePlan) -> None:
        self.durable_lsn = max(self.durable_lsn, plan.lsn)

    def take_fetches(self) -> list[Any]:
        return []

    def next_job(self) -> Any:
        return None

    def on_job_done(self, job: Any, result: dict[str, Any]) -> None:
        raise AssertionError("no job was given out")

    def on_job_failed(self, job: Any, reason: str) -> None:
        raise AssertionError("no job was given out")

    def manifest_plan(self) -> Any:
        return None

    def on_manifest_synced(self, plan: Any) -> None:
        raise AssertionError("no plan was given out")

    def ring_plan(self) -> Any:
        return None

    def snapshot_plan(self) -> Any:
        return None

    def on_snapshot_done(self, plan: Any, problem: str) -> None:
        raise AssertionError("no plan was given out")


class World:
    """A reactor over a fake node, driven cycle by cycle; clients are the other ends of socket pairs."""

    def __init__(self) -> None:
        self.node = FakeNode()
        self.clock = self.node.clock
        self.log: list[str] = []
        self.reactor = Reactor(self.node, self.clock, log=self.log.append)
        self._clients: list[socket.socket] = []

    def client(self) -> tuple[socket.socket, Connection]:
        """A new connection: the client's end, and the server's side of it."""
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        theirs.setblocking(False)
        connection = self.reactor.add(ours, address="127.0.0.1:5000", local_address="127.0.0.1:6379", unix=False)
        assert connection is not None
        self._clients.append(theirs)
        return theirs, connection

    def turn(self) -> None:
        """One cycle over what is ready now."""
        self.reactor.run_cycle(self.reactor.epoll.poll(0))
        self.reactor.check_invariants()

    def turns(self, count: int) -> None:
        for _ in range(count):
            self.turn()

    def ask(self, client: socket.socket, *requests: bytes) -> bytes:
        """Send requests (words separated by spaces) in one piece, run a cycle, read what came."""
        client.sendall(b"".join(request_bytes(*request.split(b" ")) for request in requests))
        self.turn()
        return read_all(client)

    def close(self) -> None:
        for client in self._clients:
            client.close()
        self.reactor.close()


def request_bytes(*words: bytes) -> bytes:
    """One request as an array of bulks."""
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in words)


def read_all(client: socket.socket) -> bytes:
    """What has arrived; b"" when nothing has. A closed connection ends it too (see ``is_closed``)."""
    parts = []
    while True:
        try:
            data = client.recv(1 << 20)
        except (BlockingIOError, ConnectionResetError):
            break
        if not data:
            break
        parts.append(data)
    return b"".join(parts)


def is_closed(client: socket.socket) -> bool:
    """Whether the server has ended the connection and everything was read."""
    try:
        return client.recv(1) == b""
    except BlockingIOError:
        return False
    except ConnectionResetError:
        return True


__all__ = [
    "NEVER_US",
    "READABLE",
    "FakeClock",
    "FakeNode",
    "FakePlan",
    "World",
    "is_closed",
    "read_all",
    "request_bytes",
]
