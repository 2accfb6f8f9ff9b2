"""One client's connection: socket, parser, session, output.

Output leaves in the order it was made: ``unsent`` (what the socket did not take), then what the reactor
holds until the log is durable, then ``out`` (this cycle's replies). A connection is *halted* while a
reply is pending, while writers are braked, or while too much output waits; its input is then read, within a
bound, but not executed. Input is read on even when the output is not taken: a client that
sends a long pipeline before it reads the first reply would wait for us for ever.
"""

from __future__ import annotations

import select
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from respkv.commands.session import Pending, Session
from respkv.node.round_gate import Entries

if TYPE_CHECKING:
    import socket

    from respkv.server.ports import RequestSource
    from respkv.server.reactor import Reactor

READABLE: Final = select.EPOLLIN
WRITABLE: Final = select.EPOLLOUT
_PEER_CLOSED: Final = select.EPOLLRDHUP

#: Reasons not to execute requests.
PENDING: Final = 1
BRAKED: Final = 2
OUTPUT: Final = 4
CLOSING: Final = 8

RECV_BYTES_MIN: Final = 16 * 1024
RECV_BYTES_MAX: Final = 1024 * 1024
#: Unsent bytes above which a connection's requests wait, and below which they go on.
OUTPUT_HALT_BYTES: Final = 1024 * 1024
OUTPUT_RESUME_BYTES: Final = 256 * 1024
#: Input taken ahead while a reply is pending or writers are braked.
READ_AHEAD_BYTES: Final = 1024 * 1024
_SEND_BYTES_MAX: Final = 1024 * 1024


class Connection:
    """Implements ``commands.session.Sink``. Fields the reactor's cycle touches are plain attributes."""

    __slots__ = (
        "active_us",
        "closed",
        "dirty",
        "eof",
        "fd",
        "feed",
        "halts",
        "held_bytes",
        "held_count",
        "mask",
        "out",
        "parser",
        "pending",
        "reactor",
        "recv",
        "recv_bytes",
        "rounds",
        "send",
        "session",
        "socket",
        "soft_since_us",
        "unsent",
        "unsent_bytes",
    )

    session: Session
    parser: RequestSource

    def __init__(self, sock: socket.socket, reactor: Reactor) -> None:
        self.socket = sock
        self.fd = sock.fileno()
        self.recv = sock.recv
        self.send = sock.send
        self.reactor = reactor
        self.recv_bytes = RECV_BYTES_MIN
        self.out: list[bytes] = []
        #: whole chunks the socket has not taken; the first may be a view of the rest of one
        self.unsent: deque[bytes | memoryview] = deque()
        self.unsent_bytes = 0
        self.held_bytes = 0
        self.held_count = 0
        #: on a ring: replies that wait for other nodes (node/round_gate)
        self.rounds: Entries = deque()
        self.halts = 0
        self.mask = READABLE
        self.pending: Pending | None = None
        self.dirty = False
        self.closed = False
        self.eof = False
        self.active_us = 0
        self.soft_since_us = 0

    def attach(self, session: Session, parser: RequestSource) -> None:
        """Give the connection its session and parser; done once, before anything is read."""
        self.session = session
        self.parser = parser
        self.feed: Any = parser.feed

    # Sink

    def push(self, data: bytes) -> None:
        """Append out-of-band bytes; they leave at the end of this cycle."""
        if self.closed:
            return
        self.out.append(data)
        if not self.dirty:
            self.dirty = True
            self.reactor.dirty.append(self)

    def close(self, *, after_output: bool) -> None:
        """End the connection, at once or when everything queued has been sent."""
        if self.closed:
            return
        self.session.closing = True
        if not after_output:
            self.reactor.drop(self)
            return
        self.halts |= CLOSING
        if not self.dirty:
            self.dirty = True
            self.reactor.dirty.append(self)

    def buffered(self) -> int:
        """Bytes waiting to be sent."""
        return self.unsent_bytes + self.held_bytes + sum(map(len, self.out))

    def input_buffered(self) -> int:
        """Bytes received and not yet parsed."""
        return self.parser.buffered

    def read_on(self) -> None:
        """Execute what stopped at a pending request or a pause."""
        if not self.closed:
            self.reactor.runnable[self] = None

    # Output

    def transmit(self, data: bytes) -> None:
        """Send ``data`` behind what is unsent; the socket may take a part. Raises OSError but for EAGAIN."""
        sent = 0
        if not self.unsent:
            try:
                sent = self.send(data)
            except BlockingIOError:
                pass
            if sent == len(data):
                return
        self.keep(data, sent)

    def keep(self, data: bytes, sent: int) -> None:
        """The socket has taken ``sent`` bytes of ``data``; the rest waits until it takes more."""
        self.unsent.append(memoryview(data)[sent:] if sent else data)
        self.unsent_bytes += len(data) - sent
        self.watch(self.mask | WRITABLE)
        if self.queued() > OUTPUT_HALT_BYTES:
            self.halts |= OUTPUT

    def send_rest(self) -> None:
        """The socket takes output again. Raises OSError but for EAGAIN."""
        unsent = self.unsent
        budget = _SEND_BYTES_MAX
        while unsent and budget > 0:
            if len(unsent) > 1 and len(unsent[0]) < 65536:
                self._join_small()
            chunk = unsent[0]
            try:
                sent = self.send(chunk)
            except BlockingIOError:
                return
            self.unsent_bytes -= sent
            budget -= sent
            # Who takes a long reply bit by bit is not idle.
            self.active_us = self.reactor.now_us
            if sent < len(chunk):
                unsent[0] = memoryview(chunk)[sent:]
                break
            unsent.popleft()
        if not unsent:
            self.watch(self.mask & ~WRITABLE)
        self.output_left()

    def _join_small(self) -> None:
        """Make one chunk of many small ones, so that one system call takes them."""
        unsent = self.unsent
        parts: list[bytes | memoryview] = []
        size = 0
        while unsent and size < _SEND_BYTES_MAX:
            size += len(unsent[0])
            parts.append(unsent.popleft())
        unsent.appendleft(b"".join(parts))

    def output_left(self) -> None:
        """Some output is gone: requests may go on."""
        if self.halts & OUTPUT and self.queued() < OUTPUT_RESUME_BYTES:
            self.halts &= ~OUTPUT
            self.reactor.runnable[self] = None

    def queued(self) -> int:
        """Bytes of finished cycles that have not left."""
        return self.unsent_bytes + self.held_bytes

    # Input

    def grow_recv(self) -> None:
        """The last read filled the buffer: big values come faster in bigger pieces."""
        if self.recv_bytes < RECV_BYTES_MAX:
            self.recv_bytes *= 4

    def read_ahead(self) -> None:
        """Input has come while the connection is halted: stop reading when there is enough of it.

        Never for a halt that only the client's reading can end.
        """
        if self.halts & (PENDING | BRAKED) and self.parser.buffered > READ_AHEAD_BYTES:
            self.watch((self.mask & ~READABLE) | _PEER_CLOSED)

    def resume_reading(self) -> None:
        """The halt is over."""
        if not self.mask & READABLE and not self.eof and not self.halts & CLOSING:
            self.watch((self.mask & ~_PEER_CLOSED) | READABLE)

    def stop_reading(self) -> None:
        """Nothing more will be read: the peer has closed its side, or we are about to."""
        self.watch(self.mask & ~(READABLE | _PEER_CLOSED))

    def watch(self, mask: int) -> None:
        """Which events the poll reports."""
        if mask != self.mask and not self.closed:
            self.mask = mask
            self.reactor.epoll.modify(self.fd, mask)

    def stats(self) -> dict[str, int]:
        """Figures for CLIENT LIST and tests."""
        return {"unsent_bytes": self.unsent_bytes, "held_bytes": self.held_bytes, "halts": self.halts}

    def check_invariants(self) -> None:
        """The byte counts say what is queued; a waiting output is watched for."""
        assert self.unsent_bytes == sum(map(len, self.unsent))
        assert self.closed or bool(self.unsent) == bool(self.mask & WRITABLE)
        assert self.held_count or not self.held_bytes
        assert (self.pending is not None) == bool(self.halts & PENDING)

    def __repr__(self) -> str:
        return f"<Connection fd={self.fd} halts={self.halts} unsent={self.unsent_bytes}>"
