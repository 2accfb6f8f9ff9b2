"""Sockets between nodes: listen, dial, shake hands, move bytes. Who is wanted and what is said is ``node.mesh``'s.

A link's life: accepted, or dialed without waiting (a name is looked up in a task first); the handshake; then chunks go
through a FrameReader to ``Mesh.on_frames``, and frames from ``Mesh.next_frame`` to the socket. The owner calls
``flush`` after each commit and ``tick`` in a cycle a few times a second; ``flush`` alone sends frames, so nothing made
in a cycle leaves before its commit: a socket that takes more again only gets the rest of what it was given, the next
frames follow with the flush of that cycle.

Anything a peer does wrong ends its own link and nothing else: one line in the log for each host and LOG_AGAIN_US.

Bounds: UNFINISHED_MAX accepted links that have not proved themselves (at most HANDSHAKE_US each, CROWDED_US when there
are so many; the rest waits in the kernel), 4 KiB read from each; one recv of RECV_BYTES_MAX for each event; one unsent
frame a link (the queue behind it is bounded by the mesh); SEND_BYTES a link and cycle.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

import trio

from respkv.base.errors import ProtocolError
from respkv.base.limits import MIB
from respkv.env import rng
from respkv.env.clock import Clock
from respkv.node.mesh import Mesh
from respkv.server.connection import READABLE, WRITABLE
from respkv.server.listener import ListenError, bind_tcp, format_address
from respkv.server.reactor import Reactor
from respkv.wire.frames import FrameReader
from respkv.wire.handshake import HANDSHAKE_BYTES_MAX, MYSELF, NONCE_BYTES, Handshake
from respkv.wire.messages import Address

Log = Callable[[str, str], None]
#: Starts an async function with arguments beside the loop, as ``trio.Nursery.start_soon`` does.
OpenTask = Callable[..., object]

#: From accept or connect to the last word of the handshake.
HANDSHAKE_US: Final = 5_000_000
UNFINISHED_MAX: Final = 64
#: How long a handshake may take while UNFINISHED_MAX are under way.
CROWDED_US: Final = 1_000_000
RECV_BYTES_MIN: Final = 16 * 1024
RECV_BYTES_MAX: Final = 256 * 1024
SEND_BYTES: Final = 8 * MIB
LOG_AGAIN_US: Final = 60_000_000
#: Accepting rests for so long when the process is out of descriptors.
PAUSE_US: Final = 100_000
_BACKLOG: Final = 511
_LOGGED_MAX: Final = 256
_KEEPALIVE_S: Final = 5
#: A peer that acknowledges nothing, or takes nothing, for so long is gone.
_USER_TIMEOUT_MS: Final = 15_000
_OUT_OF_FILES: Final = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class _Link:
    """One socket. ``handshake`` is None when it is over, ``unsent`` the rest of what the socket has not taken."""

    __slots__ = (
        "address", "connecting", "handshake", "host", "number", "reader", "recv_bytes", "sock",
        "started_us", "unsent", "up", "waiting",
    )  # fmt: skip

    def __init__(self, number: int, sock: socket.socket, address: Address | None, host: str, now_us: int) -> None:
        self.number = number
        self.sock = sock
        self.address = address
        self.host = host
        self.started_us = now_us
        self.connecting = address is not None
        self.handshake: Handshake | None = None
        self.up = False
        self.reader = FrameReader()
        self.recv_bytes = RECV_BYTES_MIN
        self.unsent: memoryview | None = None
        #: WRITABLE is watched
        self.waiting = False


class PeerLinks:
    """The links of one process. ``log(level, text)``; ``open_task`` is only used for hosts given by name."""

    __slots__ = (
        "_addresses", "_clock_us", "_closed", "_hosts", "_last", "_links", "_listeners", "_log", "_logged", "_mesh",
        "_open_task", "_paused", "_port", "_reactor", "_resume_us", "_totals", "_turns", "_unfinished",
    )  # fmt: skip

    def __init__(
        self,
        reactor: Reactor,
        mesh: Mesh,
        *,
        hosts: Sequence[str],
        port: int,
        clock: Clock,
        log: Log,
        open_task: OpenTask,
    ) -> None:
        self._reactor = reactor
        self._mesh = mesh
        self._hosts = hosts
        self._port = port
        self._clock_us = clock.monotonic_us
        self._log = log
        self._open_task = open_task
        self._listeners: list[socket.socket] = []
        self._paused = False
        self._resume_us = 0
        self._last = 0
        self._links: dict[int, _Link] = {}
        #: accepted links that have not proved themselves, oldest first
        self._unfinished: dict[int, None] = {}
        self._logged: dict[str, int] = {}
        #: dials of addresses given by name
        self._turns: dict[Address, int] = {}
        self._closed = False
        self._totals = dict.fromkeys(
            ("accepted", "protocol_errors", "late_handshakes", "refused", "bytes_in", "bytes_out"), 0
        )

    @property
    def addresses(self) -> list[Address]:
        """Where this node listens."""
        return [sock.getsockname()[:2] for sock in self._listeners]

    def bind(self) -> None:
        """Bind the port, so that a busy one is told before the store is opened. ListenError, logged."""
        self._listeners = bind_tcp(self._hosts, self._port, self._log)

    def start(self) -> None:
        """Listen. ListenError when that fails."""
        try:
            for sock in self._listeners:
                sock.listen(_BACKLOG)
        except OSError as error:
            raise ListenError(f"Failed listening on port {self._port} (nodes): {error.strerror}, aborting.") from error
        self._watch_listeners()

    def close(self) -> None:
        """End all links and listen no more."""
        self._closed = True
        for link in list(self._links.values()):
            self._end(link, "this node stops")
        if not self._paused:
            self._unwatch_listeners()
        self._paused = True
        for sock in self._listeners:
            sock.close()
        self._listeners.clear()

    # Called by the loop.

    def flush(self) -> None:  # HOT: peer_flush
        """After a commit: send what the mesh has, as far as the sockets take it; close what it has given up."""
        mesh = self._mesh
        if mesh.broken:
            self._close_broken()
        dirty = mesh.dirty
        if not dirty:
            return
        numbers = list(dirty)
        dirty.clear()
        links = self._links
        for number in numbers:
            link = links.get(number)
            if link is not None and link.unsent is None:
                self._send(link)
        if mesh.dirty or mesh.broken:
            # A link has failed, and the node had something to say about it: that waits for the next commit.
            self._reactor.post(_nothing)

    def tick(self, now_us: int) -> None:
        """Dial what is wanted, give up handshakes that take too long. A few times a second."""
        limit_us = CROWDED_US if len(self._unfinished) >= UNFINISHED_MAX else HANDSHAKE_US
        for link in list(self._links.values()):
            if not link.up and now_us - link.started_us >= (limit_us if link.address is None else HANDSHAKE_US):
                self._totals["late_handshakes"] += 1
                self._end(link, "no connection in time" if link.connecting else "the handshake took too long")
        for address in self._mesh.wanted(now_us):
            self._dial(address, now_us)
        self._look_at_listeners()

    # Accepting.

    def _watch_listeners(self) -> None:
        self._paused = False
        for sock in self._listeners:
            self._reactor.watch(sock.fileno(), READABLE, partial(self._on_accept, sock))

    def _unwatch_listeners(self) -> None:
        for sock in self._listeners:
            if sock.fileno() in self._reactor.handlers:
                self._reactor.unwatch(sock.fileno())

    def _pause(self, until_us: int) -> None:
        """Accept nobody for now. The kernel keeps the queue."""
        if not self._paused:
            self._unwatch_listeners()
        self._paused = True
        self._resume_us = until_us

    def _look_at_listeners(self) -> None:
        """Accept again when there is room."""
        now_us = self._clock_us()
        if self._paused and not self._closed and len(self._unfinished) < UNFINISHED_MAX and now_us >= self._resume_us:
            self._watch_listeners()

    def _on_accept(self, listener: socket.socket, events: int) -> None:
        now_us = self._reactor.now_us
        while len(self._unfinished) < UNFINISHED_MAX:
            try:
                sock, peer = listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in _OUT_OF_FILES:
                    self._complain("accept", f"Accepting a node's connection: {error.strerror}")
                    self._pause(now_us + PAUSE_US)
                    return
                continue  # The peer has gone again.
            try:
                sock.setblocking(False)
                _set_options(sock)
            except OSError:
                sock.close()  # It went while it was accepted.
                continue
            self._totals["accepted"] += 1
            link = self._add(sock, None, format_address(peer), now_us)
            self._unfinished[link.number] = None
            link.handshake = self._handshake(None)
            self._reactor.watch(sock.fileno(), READABLE, partial(self._on_ready, link))
        self._pause(0)

    def _add(self, sock: socket.socket, address: Address | None, host: str, now_us: int) -> _Link:
        self._last += 1
        link = self._links[self._last] = _Link(self._last, sock, address, host, now_us)
        return link

    def _handshake(self, address: Address | None) -> Handshake:
        mesh = self._mesh
        return Handshake(
            dialer=address is not None,
            secret=mesh.secret,
            me=mesh.hello(),
            nonce=rng.random_bytes(NONCE_BYTES),
            expected=mesh.expected(address) if address is not None else b"",
        )

    # Dialing.

    def _dial(self, address: Address, now_us: int) -> None:
        self._mesh.dialing(address)
        family = _family(address[0])
        if family is not None:
            self._connect(address, family, address)
        else:
            self._open_task(self._look_up, address)

    async def _look_up(self, address: Address) -> None:
        """Find the address behind a name, then connect in the next cycle."""
        reason = "its name was not found in time"
        found: list[Any] = []
        with trio.move_on_after(HANDSHAKE_US / 1e6):
            try:
                found = await trio.socket.getaddrinfo(address[0], address[1], type=socket.SOCK_STREAM)
            except (OSError, UnicodeError) as error:
                reason = f"its name was not found: {getattr(error, 'strerror', None) or error}"

        def go_on() -> None:
            if self._closed:
                return
            if found:
                # A name may stand for addresses that nobody listens at: each dial takes the next one.
                turn = self._turns[address] = self._turns.pop(address, -1) + 1
                if len(self._turns) > _LOGGED_MAX:
                    del self._turns[next(iter(self._turns))]
                family, _, _, _, target = found[turn % len(found)]
                self._connect(address, family, target)
            else:
                self._mesh.dial_failed(address, reason, self._clock_us())

        self._reactor.post(go_on)

    def _connect(self, address: Address, family: int, target: Any) -> None:
        now_us = self._clock_us()
        try:
            sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        except OSError as error:
            self._mesh.dial_failed(address, _words(error.errno), now_us)
            return
        try:
            _set_options(sock)
            code = sock.connect_ex(target)
        except (OSError, OverflowError) as error:
            code = getattr(error, "errno", None) or errno.EINVAL
        if code not in (0, errno.EINPROGRESS):
            sock.close()
            self._mesh.dial_failed(address, _words(code), now_us)
            return
        link = self._add(sock, address, f"{address[0]}:{address[1]}", now_us)
        self._reactor.watch(sock.fileno(), WRITABLE, partial(self._on_ready, link))

    def _on_connected(self, link: _Link) -> None:
        """The connect has ended, one way or the other."""
        code = link.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            self._end(link, _words(code))
            return
        try:
            itself = link.sock.getpeername() == link.sock.getsockname()
        except OSError:
            return  # The event was for an earlier owner of the descriptor.
        if itself:
            self._end(link, _words(errno.ECONNREFUSED))  # Nobody listens, and the kernel chose the very same port.
            return
        link.connecting = False
        link.handshake = self._handshake(link.address)
        self._reactor.epoll.modify(link.sock.fileno(), READABLE)
        self._say(link, link.handshake.start())

    # Bytes.

    def _on_ready(self, link: _Link, events: int) -> None:  # HOT: peer_read
        """The socket is readable, writable, or at its end."""
        if events != READABLE:
            if link.connecting:
                self._on_connected(link)
                return
            if events & WRITABLE and link.waiting:
                self._send_rest(link)
            if events == WRITABLE or link.number not in self._links:
                return
        size = link.recv_bytes if link.up else HANDSHAKE_BYTES_MAX
        try:
            data = link.sock.recv(size)
        except BlockingIOError:
            return
        except OSError as error:
            self._end(link, _words(error.errno))
            return
        if not data:
            self._end(link, "the peer has closed it")
            return
        self._totals["bytes_in"] += len(data)
        try:
            if link.up:
                reader = link.reader
                reader.feed(data)
                frames = reader.frames()
                if frames:
                    self._mesh.on_frames(link.number, frames, self._reactor.now_us)
                else:
                    self._mesh.on_part(link.number, self._reactor.now_us)
            else:
                self._shake(link, data)
        except ProtocolError as error:
            self._totals["protocol_errors"] += 1
            if link.up or link.address is None:
                self._complain(link.host.rpartition(":")[0], f"Link with {link.host} is closed: {error}")
            self._end(link, str(error))
            return
        if len(data) == size:
            link.recv_bytes = min(4 * size, RECV_BYTES_MAX) if link.up else link.recv_bytes
        elif size > RECV_BYTES_MIN and 16 * len(data) < size:
            link.recv_bytes = size // 4

    def _shake(self, link: _Link, data: bytes) -> None:
        """The handshake goes on. ProtocolError."""
        handshake = link.handshake
        if handshake is None:
            return
        if not self._say(link, handshake.feed(data)):
            return
        if handshake.reason:
            self._refused(link, handshake.reason)
        elif handshake.peer is not None:
            reason, older = self._mesh.link_up(link.number, handshake.peer, link.address, link.host)
            if reason:
                self._drop(link)
                return
            link.up = True
            link.handshake = None
            self._unfinished.pop(link.number, None)
            self._look_at_listeners()
            if older is not None and older in self._links:
                self._drop(self._links[older])
            if handshake.rest:
                link.reader.feed(handshake.rest)
                self._mesh.on_frames(link.number, link.reader.frames(), self._reactor.now_us)

    def _refused(self, link: _Link, reason: str) -> None:
        """The handshake ended with a no, from here or from there."""
        if link.address is None and reason != MYSELF:
            self._totals["refused"] += 1
            self._complain(link.host.rpartition(":")[0], f"The node at {link.host} is not taken in: {reason}")
        self._end(link, reason)

    def _say(self, link: _Link, data: bytes) -> bool:
        """Send words of the handshake: few bytes, which a new socket takes. False: it did not, and is closed."""
        if not data:
            return True
        try:
            sent = link.sock.send(data)
        except OSError as error:
            self._end(link, _words(error.errno))
            return False
        self._totals["bytes_out"] += sent
        if sent < len(data):
            self._end(link, "the handshake was not taken")
            return False
        return True

    def _send(self, link: _Link) -> None:  # HOT: peer_flush
        """Send frames until the socket does not take all, or this cycle's share is used."""
        next_frame, send, number = self._mesh.next_frame, link.sock.send, link.number
        total = 0
        while (frame := next_frame(number)) is not None:
            try:
                sent = send(frame)
            except BlockingIOError:
                sent = 0
            except OSError as error:
                self._end(link, _words(error.errno))
                return
            total += sent
            if sent < len(frame):
                link.unsent = memoryview(frame)[sent:]
            if sent < len(frame) or total >= SEND_BYTES:
                self._wait(link)
                break
        self._totals["bytes_out"] += total

    def _wait(self, link: _Link) -> None:
        """Go on when the socket takes more."""
        if not link.waiting:
            link.waiting = True
            self._reactor.epoll.modify(link.sock.fileno(), READABLE | WRITABLE)

    def _send_rest(self, link: _Link) -> None:
        """The socket takes more. What is new leaves with the flush of this cycle, not before its commit."""
        if link.unsent is not None:
            try:
                sent = link.sock.send(link.unsent)
            except BlockingIOError:
                return
            except OSError as error:
                self._end(link, _words(error.errno))
                return
            self._totals["bytes_out"] += sent
            if sent < len(link.unsent):
                link.unsent = link.unsent[sent:]
                return
            link.unsent = None
        link.waiting = False
        self._reactor.epoll.modify(link.sock.fileno(), READABLE)
        self._mesh.dirty[link.number] = None

    # Ends.

    def _close_broken(self) -> None:
        """Links that the mesh has given up."""
        broken = dict(self._mesh.broken)
        self._mesh.broken.clear()
        for number, reason in broken.items():
            link = self._links.get(number)
            if link is not None:
                self._end(link, reason)

    def _end(self, link: _Link, reason: str) -> None:
        """The link has ended, and the mesh is told. Nothing happens when it has ended before."""
        if link.number not in self._links:
            return
        self._drop(link)
        now_us = self._clock_us()
        if link.up:
            self._mesh.link_down(link.number, reason, now_us)
        elif link.address is not None:
            self._mesh.dial_failed(link.address, reason, now_us)

    def _drop(self, link: _Link) -> None:
        """Close the socket; the mesh knows, or need not know."""
        del self._links[link.number]
        self._unfinished.pop(link.number, None)
        self._reactor.unwatch(link.sock.fileno())
        link.sock.close()
        link.unsent = None
        self._look_at_listeners()

    def _complain(self, host: str, text: str) -> None:
        """Log a warning, one for each host and minute."""
        now_us = self._clock_us()
        last_us = self._logged.get(host)
        if last_us is not None and now_us - last_us < LOG_AGAIN_US:
            return
        self._logged.pop(host, None)
        self._logged[host] = now_us
        if len(self._logged) > _LOGGED_MAX:
            del self._logged[next(iter(self._logged))]
        self._log("warning", text)

    # Facts.

    def stats(self) -> dict[str, int]:
        """Figures for INFO and /metrics; O(links)."""
        links = self._links.values()
        return {
            **self._totals,
            "sockets": len(self._links),
            "up": sum(link.up for link in links),
            "unfinished": len(self._unfinished),
            "unsent_bytes": sum(len(link.unsent) for link in links if link.unsent is not None),
            "buffered_bytes": sum(link.reader.buffered for link in links),
        }

    def check_invariants(self) -> None:
        """Raises AssertionError when broken."""
        assert len(self._unfinished) <= UNFINISHED_MAX
        for number, link in self._links.items():
            assert link.number == number and link.sock.fileno() in self._reactor.handlers
            assert link.up == (number not in self._unfinished and not link.connecting and link.handshake is None)
            assert link.waiting or link.unsent is None
            link.reader.check_invariants()


def _nothing() -> None:
    """What is posted to have a cycle."""


def _family(host: str) -> int | None:
    """The address family of a numeric host, None for a name."""
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, host)
        except (OSError, ValueError):
            continue
        return family
    return None


def _words(code: int | None) -> str:
    """An error number for people."""
    return os.strerror(code or errno.EIO).lower()


def _set_options(sock: socket.socket) -> None:
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _KEEPALIVE_S)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 2)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _USER_TIMEOUT_MS)
