"""The event loop: one epoll with every socket, one synchronous cycle per wake-up.

``run_cycle(ready)`` is the whole server seen from the loop::

    read     one bounded recv per ready socket, feed its parser
    execute  requests -> node; what other threads posted; due timers
    commit   one log append for every write of the cycle
    release  replies become sendable; with ``appendfsync always`` when the log is durable up to their commit
    send     one send per connection with output; leftovers wait until the socket takes more

Nothing made in a cycle leaves before the cycle's commit. A request that waits holds its connection's place:
later requests of that connection stay in the parser, so replies are in order. trio waits on the epoll's own
descriptor, and only when a short wait in the epoll itself brought nothing: under load no task switch is paid.
All methods but ``post`` are for the loop's thread.
"""

from __future__ import annotations

import heapq
import os
import select
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Final

import trio

from respkv.base.limits import CYCLE_US_MAX
from respkv.commands.session import Pending
from respkv.env.clock import Clock
from respkv.node.round_gate import RoundGate
from respkv.server.client_limits import ClientLimits
from respkv.server.connection import (
    BRAKED,
    CLOSING,
    PENDING,
    READABLE,
    WRITABLE,
    Connection,
)
from respkv.server.reply_gate import ReplyGate, WriteBrake
from respkv.server.ring_output import emit_round, send_ring

if TYPE_CHECKING:
    import socket

    from respkv.server.ports import LinkPort, NodePort

EVENTS_MAX: Final = 512
#: How often other trio tasks get a turn under load.
CHECKPOINT_US: Final = 10_000
#: A busy loop waits this long in its own epoll before it waits through trio.
_LINGER_S: Final = 0.001
_PRESSURE_US: Final = 10_000
#: How much input is thrown away before a connection is closed.
_DRAIN_READS: Final = 8
_DRAIN_BYTES: Final = 65536


def _nothing() -> None:
    """The default of the loop's hooks."""


class Traffic:
    """Counters of the loop, read by metrics."""

    __slots__ = ("busy_us", "bytes_in", "bytes_out", "cycles", "reads", "writes")

    def __init__(self) -> None:
        self.bytes_in = self.bytes_out = self.reads = self.writes = self.cycles = self.busy_us = 0

    def figures(self) -> dict[str, int]:
        """By the names of the registry's attributes."""
        return {
            "net_input_bytes": self.bytes_in,
            "net_output_bytes": self.bytes_out,
            "reads_processed": self.reads,
            "writes_processed": self.writes,
            "cycles": self.cycles,
            "cycle_us": self.busy_us,
        }


class Reactor:
    """Owns the epoll, the connections and the cycle."""

    def __init__(self, node: NodePort, clock: Clock, *, log: Callable[[str], None]) -> None:
        self.node = node
        self.epoll = select.epoll()
        self.connections: dict[int, Connection] = {}
        #: descriptors that are not clients: listeners, worker pipes, the wake-up descriptor
        self.handlers: dict[int, Callable[[int], None]] = {}
        self.dirty: list[Connection] = []
        #: connections to be executed without waiting for their sockets; a dict for its order
        self.runnable: dict[Connection, None] = {}
        self.traffic = Traffic()
        self.limits = ClientLimits(drop=self.drop, log=log)
        self.gate = ReplyGate(self.emit)
        self.brake = WriteBrake()
        #: on a ring: replies that wait for other nodes, and the sockets to those
        self.rounds: RoundGate | None = None
        #: what other nodes have confirmed waits for our own log
        self.rounds_wait = False
        self.links: LinkPort | None = None
        #: called after each commit that appended something
        self.on_append: Callable[[], None] = _nothing
        #: called at the end of each cycle
        self.after_cycle: Callable[[], None] = _nothing
        self.lsn = 0
        self.now_us = clock.monotonic_us()
        self.stopping = False
        self._clock_us = clock.monotonic_us
        self._stalled_until_us = 0
        self._posted: deque[Callable[[], None]] = deque()
        self._timers: list[tuple[int, int, Callable[[], None]]] = []
        self._timer_number = 0
        self._pressure_us = 0
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.watch(self._wake_fd, READABLE, self._on_wake)

    # The outside

    def join_ring(self, links: LinkPort) -> None:
        """Serve a member of a ring: ``links`` carry what the node says to others. Before ``run``."""
        self.links = links
        self.rounds = RoundGate(partial(emit_round, self))

    def post(self, action: Callable[[], None]) -> None:
        """Run ``action`` at the start of the next cycle. From any thread."""
        self._posted.append(action)
        os.eventfd_write(self._wake_fd, 1)

    def call_at(self, monotonic_us: int, action: Callable[[], None]) -> None:
        """Run ``action`` in a cycle at or after that time."""
        self._timer_number += 1
        heapq.heappush(self._timers, (monotonic_us, self._timer_number, action))

    def stall_until(self, monotonic_us: int) -> None:
        """Serve nobody before that time, once the running cycle is over."""
        self._stalled_until_us = monotonic_us

    def watch(self, fd: int, mask: int, handler: Callable[[int], None]) -> None:
        """Call ``handler(events)`` in the cycle when ``fd`` is ready."""
        self.epoll.register(fd, mask)
        self.handlers[fd] = handler

    def unwatch(self, fd: int) -> None:
        """Forget a descriptor given to ``watch``; before it is closed."""
        self.handlers.pop(fd, None)
        self.epoll.unregister(fd)

    def add(self, sock: socket.socket, *, address: str, local_address: str, unix: bool) -> Connection | None:
        """Serve an accepted, non-blocking socket; None when the node turned it away (it is closed then)."""
        connection = Connection(sock, self)
        answer = self.node.connect(connection, address=address, local_address=local_address, unix=unix)
        if isinstance(answer, bytes):
            try:
                sock.send(answer)
            except OSError:
                pass  # The peer is gone or deaf; it is turned away all the same.
            connection.closed = True
            sock.close()
            return None
        connection.attach(answer, self.node.make_parser(answer))
        connection.active_us = self.now_us
        self.connections[connection.fd] = connection
        self.epoll.register(connection.fd, READABLE)
        return connection

    def drop(self, connection: Connection) -> None:
        """Close at once; what is queued is lost. Waiting replies are abandoned, not their operations."""
        if connection.closed:
            return
        connection.closed = True
        connection.session.closing = True
        connection.halts |= CLOSING
        self.epoll.unregister(connection.fd)
        del self.connections[connection.fd]
        self.runnable.pop(connection, None)
        self.brake.forget(connection)
        if connection.pending is not None:
            connection.pending.abandoned = True
            connection.pending.on_done = None
            connection.pending = None
            connection.halts &= ~PENDING
        connection.out.clear()
        connection.rounds.clear()
        connection.unsent.clear()
        connection.unsent_bytes = 0
        self.node.disconnect(connection.session)
        connection.socket.close()

    # The loop

    async def run(self) -> None:
        """Cycle until ``stopping``. Anything a cycle raises passes through: the process must end."""
        poll = self.epoll.poll
        clock_us = self._clock_us
        checkpoint_us = 0
        active = False
        while not self.stopping:
            if self._stalled_until_us > self.now_us:
                await trio.sleep((self._stalled_until_us - self.now_us) / 1e6)
            due_us = self._due_us()
            now_us = clock_us()
            if self.runnable or self._posted or due_us <= now_us:
                ready = poll(0, EVENTS_MAX)
            else:
                linger = _LINGER_S if active and due_us - now_us > 1000 else 0
                ready = poll(linger, EVENTS_MAX)
                if not ready and due_us > (before_us := clock_us()):
                    checkpoint_us = before_us
                    with trio.move_on_after(min(due_us - checkpoint_us, 60_000_000) / 1e6):
                        await trio.lowlevel.wait_readable(self.epoll.fileno())
                    ready = poll(0, EVENTS_MAX)
            self.run_cycle(ready)
            active = bool(ready)
            self.traffic.busy_us += clock_us() - self.now_us
            if self.now_us - checkpoint_us > CHECKPOINT_US:
                checkpoint_us = self.now_us
                await trio.lowlevel.checkpoint()

    def _due_us(self) -> int:
        """When the next timer of the node or of the server is due."""
        due_us = self.node.next_timer_us()
        if self._timers and self._timers[0][0] < due_us:
            due_us = self._timers[0][0]
        if self.brake:
            due_us = min(due_us, self.brake.next_us())
        return due_us

    def run_cycle(self, ready: list[tuple[int, int]]) -> None:  # HOT: reactor_cycle
        """One pass. ``ready`` is what the poll returned: (descriptor, events)."""
        node = self.node
        self.now_us = now_us = self._clock_us()
        self.traffic.cycles += 1
        node.begin_cycle()
        if now_us >= self._pressure_us:
            self._pressure_us = now_us + _PRESSURE_US
            self.brake.wait_us = node.brake_us()
        if self.brake:
            self._release_brake()
        if self._posted:
            self._run_posted()
        if now_us >= node.next_timer_us():
            node.on_timer()
        if self._timers and self._timers[0][0] <= now_us:
            self._run_timers()
        if self.runnable:
            self._run_on()
        if ready:
            self._read(ready)
        if self.links is not None:
            node.seal()
        lsn = node.commit()
        if lsn != self.lsn:
            self.lsn = lsn
            self.on_append()
        if self.links is not None:
            assert self.rounds is not None
            send_ring(self, self.links, self.rounds, lsn)
        if self.dirty:
            if self.gate or node.holds_replies:
                self._hold(lsn)
            else:
                self._send()
        self.after_cycle()

    def _read(self, ready: list[tuple[int, int]]) -> None:  # HOT: reactor_read
        """Receive from every ready socket, then let the node run what came, in one sweep."""
        get_connection = self.connections.get
        now_us = self.now_us
        received = reads = 0
        turns: list[Connection] = []
        for fd, events in ready:
            connection = get_connection(fd)
            if connection is None:
                handler = self.handlers.get(fd)
                if handler is not None:
                    handler(events)
                continue
            if events != READABLE and not self._on_events(connection, events):
                continue
            try:
                data = connection.recv(connection.recv_bytes)
            except BlockingIOError:
                continue
            except OSError:
                self.drop(connection)
                continue
            if not data:
                self._on_eof(connection)
                continue
            connection.active_us = now_us
            size = len(data)
            received += size
            reads += 1
            connection.feed(data)
            if size == connection.recv_bytes:
                connection.grow_recv()
                self.limits.check_input(connection)
            if connection.halts:
                connection.read_ahead()
                self.limits.check_input(connection)
            else:
                turns.append(connection)
        self.traffic.bytes_in += received
        self.traffic.reads += reads
        if self.brake.wait_us:
            for connection in turns:
                self._execute(connection)
        elif turns:
            for connection, pending in self.node.execute_turns(turns):
                self._after_execute(connection, pending)
        dirty = self.dirty
        for connection in turns:
            if connection.out and not connection.dirty:
                connection.dirty = True
                dirty.append(connection)

    def _on_events(self, connection: Connection, events: int) -> bool:
        """Other events than plain readability; True when the socket is to be read as well."""
        if events & WRITABLE:
            try:
                connection.send_rest()
            except OSError:
                self.drop(connection)
                return False
            self._end_if_done(connection)
            if connection.closed:
                return False
        if events & READABLE:
            return True
        if events & (select.EPOLLHUP | select.EPOLLERR):
            self.drop(connection)
        elif events & select.EPOLLRDHUP:
            self._on_eof(connection)
        return False

    def _on_eof(self, connection: Connection) -> None:
        """The peer sends nothing more. What it has asked is answered; a blocked command is given up."""
        if connection.session.blocked is not None:
            self.drop(connection)
            return
        connection.eof = True
        connection.stop_reading()
        if not connection.halts and connection not in self.runnable:
            connection.close(after_output=True)
            self._end_if_done(connection)

    def _run_on(self) -> None:
        """Execute what waits in parsers: budget surplus, ended halts."""
        turn, self.runnable = self.runnable, {}
        while turn:
            connection = next(iter(turn))
            del turn[connection]
            if connection.halts or connection.closed:
                continue
            connection.resume_reading()
            self._execute(connection)
            if connection.out and not connection.dirty:
                connection.dirty = True
                self.dirty.append(connection)
            if turn and self._clock_us() - self.now_us > CYCLE_US_MAX:
                self.runnable = {**turn, **self.runnable}
                break

    def _execute(self, connection: Connection) -> None:
        """One connection's turn, outside of the sweep of ``_read``.

        A turn without progress means that the parser holds only a part of a request: that waits for input.
        """
        node, session, parser = self.node, connection.session, connection.parser
        before = (len(connection.out), session.commands, parser.buffered)
        mark = node.write_mark()
        special = node.execute_turns((connection,))
        if self.brake.wait_us and not connection.closed:
            # What reads first, on a ring or a block, writes only later.
            later = session.commands != before[1] and session.last_command in node.table.writers
            if later or node.write_mark() != mark:
                self.brake.apply(connection, self.now_us)
        progress = before != (len(connection.out), session.commands, parser.buffered)
        self._after_execute(connection, special[0][1] if special else None, progress=progress)

    def _after_execute(self, connection: Connection, pending: Pending | None, *, progress: bool = True) -> None:
        """Whatever an execution may leave behind besides replies."""
        if connection.closed:
            if pending is not None:
                pending.abandoned = True
            return
        if pending is not None:
            if pending.reply is None:
                connection.pending = pending
                connection.halts |= PENDING
                pending.on_done = partial(self._on_done, connection, pending)
            else:
                connection.out.append(self.node.finish(connection.session, pending))
                self.runnable[connection] = None
            return
        error = connection.parser.error
        if error is not None:
            if error:
                connection.out.append(error)
            else:
                self.limits.cross_protocol(connection, self.now_us)
            connection.close(after_output=True)
        elif connection.session.closing:
            connection.close(after_output=True)
        elif progress and self.node.more(connection.parser):
            self.runnable[connection] = None
        elif connection.eof:
            connection.close(after_output=True)

    def _on_done(self, connection: Connection, pending: Pending) -> None:
        """A waiting reply has come."""
        if connection.closed or connection.pending is not pending:
            return
        connection.pending = None
        connection.halts &= ~PENDING
        connection.push(self.node.finish(connection.session, pending))
        self.runnable[connection] = None

    # Sending

    def _send(self) -> None:  # HOT: reactor_send
        sent = 0
        for connection in self.dirty:
            connection.dirty = False
            out = connection.out
            if connection.halts and not self._may_send(connection):
                continue
            data = out[0] if len(out) == 1 else b"".join(out)
            out.clear()
            size = len(data)
            try:
                if connection.unsent:
                    connection.transmit(data)
                elif (taken := connection.send(data)) != size:
                    connection.keep(data, taken)
            except BlockingIOError:
                connection.keep(data, 0)
            except OSError:
                self.drop(connection)
                continue
            sent += size
            if connection.halts:
                self._after_output(connection)
        self.traffic.writes += len(self.dirty)
        self.traffic.bytes_out += sent
        self.dirty.clear()

    def _may_send(self, connection: Connection) -> bool:
        """Whether a halted connection's output may leave now; a closing one without any is ended."""
        if connection.closed or connection.halts & BRAKED:
            return False
        if not connection.out:
            self._end_if_done(connection)
            return False
        return True

    def _hold(self, lsn: int) -> None:
        """This cycle's output waits for the log; reads that show only durable data need not."""
        node = self.node
        self.gate.release(node.durable_lsn if node.holds_replies else lsn)
        if not self.gate and (lsn <= node.durable_lsn or not node.holds_replies):
            self._send()
            return
        for connection in self.dirty:
            connection.dirty = False
            if connection.halts and not self._may_send(connection):
                continue
            data = b"".join(connection.out)
            connection.out.clear()
            self.gate.hold(lsn, connection, data)
        self.dirty.clear()

    def on_durable(self) -> None:
        """The node has learned that more of its log is durable."""
        if self.links is not None:
            self.node.on_durable()
            self.links.flush()
        self.gate.release(self.node.durable_lsn if self.node.holds_replies else self.lsn)

    def emit(self, connection: Connection, data: bytes) -> None:
        """Send what the gate lets go."""
        try:
            connection.transmit(data)
        except OSError:
            self.drop(connection)
            return
        self.traffic.bytes_out += len(data)
        self.traffic.writes += 1
        if connection.halts:
            self.output_left(connection)

    def output_left(self, connection: Connection) -> None:
        """Held output of a halted connection was sent, or waits for its socket now."""
        connection.output_left()
        self._after_output(connection)

    def _after_output(self, connection: Connection) -> None:
        """Output has been queued or sent on a halted connection: it may be too much, or the last."""
        if connection.unsent:
            self.limits.check_output(connection, self.now_us)
        else:
            self._end_if_done(connection)

    def _end_if_done(self, connection: Connection) -> None:
        """Close a connection that was to be closed after its output, when all of that has left."""
        if connection.halts & CLOSING and not (connection.out or connection.unsent or connection.held_count):
            # Closing over unread input resets the connection, and the last reply may be lost with it.
            try:
                for _ in range(_DRAIN_READS):
                    if connection.closed or not connection.recv(_DRAIN_BYTES):
                        break
            except OSError:
                pass  # There is no more, or nobody: either way it is closed now.
            self.drop(connection)

    def _release_brake(self) -> None:
        """Let go of what braked writers were answered in earlier cycles, and go on with their requests.

        Comes first in a cycle, so that all of that output is covered by the last commit.
        """
        for connection in self.brake.release(self.now_us):
            if connection.closed:
                continue
            self.runnable[connection] = None
            if self.links is not None:
                # On a ring they may have to wait for other nodes: they take the way of this cycle's replies.
                if connection.out and not connection.dirty:
                    connection.dirty = True
                    self.dirty.append(connection)
                continue
            data = b"".join(connection.out)
            connection.out.clear()
            if data and (self.gate or self.node.holds_replies):
                self.gate.hold(self.lsn, connection, data)
            elif data:
                self.emit(connection, data)
            self._end_if_done(connection)

    # Duties

    def _on_wake(self, events: int) -> None:
        os.eventfd_read(self._wake_fd)

    def _run_posted(self) -> None:
        posted = self._posted
        for _ in range(len(posted)):
            posted.popleft()()

    def _run_timers(self) -> None:
        timers = self._timers
        while timers and timers[0][0] <= self.now_us:
            heapq.heappop(timers)[2]()

    def close(self) -> None:
        """Close every connection and the epoll."""
        for connection in list(self.connections.values()):
            self.drop(connection)
        self.epoll.close()
        os.close(self._wake_fd)

    def stats(self) -> dict[str, int]:
        """Figures for metrics."""
        return {
            "connections": len(self.connections),
            "runnable": len(self.runnable),
            "cycles": self.traffic.cycles,
            **self.gate.stats(),
            **self.brake.stats(),
            **self.limits.stats(),
        }

    def check_invariants(self) -> None:
        """Every connection is registered under its descriptor; nothing dirty is forgotten."""
        self.gate.check_invariants()
        for fd, connection in self.connections.items():
            assert connection.fd == fd and not connection.closed
            connection.check_invariants()
        assert all(connection.dirty for connection in self.dirty)
