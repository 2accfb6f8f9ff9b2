"""Listening sockets: bind, accept, turn away.

Addresses are Redis': ``*`` is every IPv4 address, ``::*`` every IPv6 address, a leading ``-`` allows the
address to be missing. Sockets are bound before the store is opened, so that a busy port is told at once,
and listen only when it serves.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
from collections.abc import Callable, Sequence
from typing import Final

from respkv.base.errors import RespkvError
from respkv.server.connection import READABLE
from respkv.server.reactor import Reactor

Log = Callable[[str, str], None]

ACCEPTS_PER_CYCLE: Final = 64
PAUSE_US: Final = 100_000
_MISSING: Final = (
    errno.EADDRNOTAVAIL,
    errno.EAFNOSUPPORT,
    errno.EPFNOSUPPORT,
    errno.EPROTONOSUPPORT,
    errno.ESOCKTNOSUPPORT,
    errno.ENOPROTOOPT,
)
_OUT_OF_FILES: Final = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)

DENIED: Final = (
    b"-DENIED Redis is running in protected mode because protected mode is enabled and no password is"
    b" set for the default user. In this mode connections are only accepted from the loopback interface."
    b" If you want to connect from external computers to Redis you may adopt one of the following"
    b" solutions: 1) Just disable protected mode sending the command 'CONFIG SET protected-mode no' from"
    b" the loopback interface by connecting to Redis from the same host the server is running, however"
    b" MAKE SURE Redis is not publicly accessible from internet if you do so. Use CONFIG REWRITE to make"
    b" this change permanent. 2) Alternatively you can just disable the protected mode by editing the"
    b" Redis configuration file, and setting the protected mode option to 'no', and then restarting the"
    b" server. 3) If you started the server manually just for testing, restart it with the"
    b" '--protected-mode no' option. 4) Set up an authentication password for the default user. NOTE:"
    b" You only need to do one of the above things in order for the server to start accepting"
    b" connections from the outside.\r\n"
)


class ListenError(RespkvError):
    """A socket cannot be bound or listen; the text is for the log."""


def bind_tcp(addresses: Sequence[str], port: int, log: Log) -> list[socket.socket]:
    """Bound sockets, one at least unless ``addresses`` is empty. ListenError, after a log line in Redis' words."""
    sockets: list[socket.socket] = []
    try:
        for address in addresses:
            optional = address.startswith("-")
            name = address[1:] if optional else address
            try:
                sockets.append(_bind_one(name, port))
            except OSError as error:
                log(
                    "warning",
                    f"Warning: Could not create server TCP listening socket {name}:{port}: {_words(error)}",
                )
                if not (optional and (error.errno in _MISSING or isinstance(error, socket.gaierror))):
                    raise ListenError(f"Failed listening on port {port} (tcp), aborting.") from error
        if addresses and not sockets:
            raise ListenError(f"Failed listening on port {port} (tcp), aborting.")
    except BaseException:
        for sock in sockets:
            sock.close()
        raise
    return sockets


def _words(error: OSError) -> str:
    return f"bind: {error.strerror}" if not isinstance(error, socket.gaierror) else str(error.strerror)


def _bind_one(name: str, port: int) -> socket.socket:
    host = {"*": "0.0.0.0", "::*": "::"}.get(name, name)
    family, kind, protocol, _, target = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    sock = socket.socket(family, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, protocol)
    try:
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(target)
    except BaseException:
        sock.close()
        raise
    return sock


def bind_unix(path: str, permissions: int) -> socket.socket:
    """A bound Unix socket; a stale one of the same name is replaced, one that is listened on is not. ListenError."""
    sock = _unix_socket()
    bound = False
    try:
        try:
            if stat.S_ISSOCK(os.stat(path).st_mode):
                if _is_served(path):
                    raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
                os.unlink(path)
        except FileNotFoundError:
            pass
        sock.bind(path)
        bound = True
        if permissions:
            os.chmod(path, permissions)
    except OSError as error:
        sock.close()
        if bound:
            os.unlink(path)
        # A path that is too long is refused before the system is asked, so there is no number of an error.
        raise ListenError(f"Failed opening Unix socket: bind: {error.strerror or error}") from error
    return sock


def _unix_socket() -> socket.socket:
    return socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)


def _is_served(path: str) -> bool:
    """Whether somebody listens on the Unix socket ``path``; one with a full queue does."""
    with _unix_socket() as probe:
        try:
            probe.connect(path)
        except BlockingIOError:
            return True
        except OSError:
            return False
    return True


def format_address(name: object) -> str:
    """``ip:port``, with brackets around IPv6, as CLIENT LIST prints it."""
    if not isinstance(name, tuple):
        return "?:0"
    return f"[{name[0]}]:{name[1]}" if ":" in name[0] else f"{name[0]}:{name[1]}"


class Listener:
    """Accepts on one socket. ``keepalive_s()`` and ``protected()`` read live directives."""

    __slots__ = ("_keepalive_s", "_log", "_paused", "_protected", "_reactor", "_rejected", "path", "socket")

    def __init__(
        self,
        sock: socket.socket,
        reactor: Reactor,
        *,
        path: str = "",
        keepalive_s: Callable[[], int],
        protected: Callable[[], bool],
        rejected: Callable[[], None],
        log: Log,
    ) -> None:
        self.socket = sock
        #: of a Unix socket; "" for TCP
        self.path = path
        self._reactor = reactor
        self._keepalive_s = keepalive_s
        self._protected = protected
        self._rejected = rejected
        self._log = log
        self._paused = False

    def start(self, backlog: int) -> None:
        """Listen, and accept in each cycle from now on. OSError."""
        self.socket.listen(backlog)
        self._reactor.watch(self.socket.fileno(), READABLE, self._on_ready)

    def close(self) -> None:
        """Stop listening; a Unix socket's name is removed."""
        if not self._paused and self.socket.fileno() in self._reactor.handlers:
            self._reactor.unwatch(self.socket.fileno())
        self._paused = True
        self.socket.close()
        if self.path:
            try:
                os.unlink(self.path)
            except FileNotFoundError:
                pass

    def _on_ready(self, events: int) -> None:
        for _ in range(ACCEPTS_PER_CYCLE):
            try:
                sock, peer = self.socket.accept()
            except BlockingIOError:
                return
            except OSError as error:
                # The peer may have gone again; out of descriptors there is no use in trying at once.
                if error.errno in _OUT_OF_FILES:
                    self._log("warning", f"Accepting client connection: {error.strerror}")
                    self._pause()
                    return
                continue
            self._welcome(sock, peer)

    def _pause(self) -> None:
        """Leave the queue to the kernel for a while, or level-triggered events would spin the loop."""
        self._paused = True
        self._reactor.unwatch(self.socket.fileno())
        self._reactor.call_at(self._reactor.now_us + PAUSE_US, self._resume)

    def _resume(self) -> None:
        if self.socket.fileno() >= 0:
            self._paused = False
            self._reactor.watch(self.socket.fileno(), READABLE, self._on_ready)

    def _welcome(self, sock: socket.socket, peer: object) -> None:
        sock.setblocking(False)
        if self.path:
            address = local_address = f"{self.path}:0"
        else:
            if self._protected() and not _is_loopback(peer):
                self._turn_away(sock)
                return
            try:
                self._set_options(sock)
                address, local_address = format_address(peer), format_address(sock.getsockname())
            except OSError:
                sock.close()  # It went while it was accepted.
                return
        self._reactor.add(sock, address=address, local_address=local_address, unix=bool(self.path))

    def _turn_away(self, sock: socket.socket) -> None:
        try:
            sock.send(DENIED)
        except OSError:
            pass  # It is turned away all the same.
        sock.close()
        self._rejected()

    def _set_options(self, sock: socket.socket) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        idle_s = self._keepalive_s()
        if idle_s:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, idle_s)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, max(1, idle_s // 3))
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)


def _is_loopback(peer: object) -> bool:
    """As Redis: 127.0.0.1 and ::1, and the rest of 127/8."""
    return isinstance(peer, tuple) and (peer[0] == "::1" or peer[0].startswith("127."))
