"""Listeners: addresses, Unix sockets, turning away, running out of descriptors."""

from __future__ import annotations

import errno
import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from respkv.server.listener import (
    DENIED,
    PAUSE_US,
    Listener,
    ListenError,
    bind_tcp,
    bind_unix,
    format_address,
)
from tests.unit.server.fake_node import World, request_bytes


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def quiet(level: str, text: str) -> None:
    """A log that nobody reads."""


def listen(world: World, sock: socket.socket, **options: object) -> Listener:
    settings: dict[str, object] = {
        "keepalive_s": lambda: 300,
        "protected": lambda: False,
        "rejected": lambda: None,
        "log": quiet,
        **options,
    }
    listener = Listener(sock, world.reactor, **settings)  # type: ignore[arg-type]
    listener.start(16)
    return listener


def test_several_addresses_and_an_optional_one_that_is_missing() -> None:
    port = free_port()
    sockets = bind_tcp(["127.0.0.1", "127.0.0.2", "-203.0.113.77"], port, quiet)
    try:
        assert [sock.getsockname() for sock in sockets] == [("127.0.0.1", port), ("127.0.0.2", port)]
    finally:
        for sock in sockets:
            sock.close()


def test_a_missing_address_that_is_not_optional() -> None:
    lines: list[str] = []
    with pytest.raises(ListenError, match=r"Failed listening on port \d+ \(tcp\), aborting"):
        bind_tcp(["203.0.113.77"], free_port(), lambda level, text: lines.append(text))
    assert "Could not create server TCP listening socket 203.0.113.77" in lines[0]


def test_no_address_is_no_socket() -> None:
    assert bind_tcp([], free_port(), quiet) == []


def test_only_optional_addresses_none_of_them_there() -> None:
    with pytest.raises(ListenError):
        bind_tcp(["-203.0.113.77"], free_port(), quiet)


def test_a_busy_port() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        lines: list[str] = []
        with pytest.raises(ListenError):
            bind_tcp(["-127.0.0.1"], other.getsockname()[1], lambda level, text: lines.append(text))
        assert "Address already in use" in lines[0]


def test_a_unix_socket_replaces_a_stale_one_and_has_its_permissions(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    bind_unix(path, 0o700).close()
    sock = bind_unix(path, 0o770)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o770
    sock.close()


def test_a_unix_socket_does_not_replace_a_file(tmp_path: Path) -> None:
    path = tmp_path / "s"
    path.write_text("precious")
    with pytest.raises(ListenError):
        bind_unix(str(path), 0)
    assert path.read_text() == "precious"


def test_a_unix_socket_that_is_listened_on_stays(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    with bind_unix(path, 0) as other:
        other.listen(0)
        for _ in range(4):  # The queue fills: a full one is served too.
            with pytest.raises(ListenError, match="Failed opening Unix socket: bind: Address already in use"):
                bind_unix(path, 0)
    bind_unix(path, 0).close()


def test_a_unix_socket_with_a_name_that_is_too_long(tmp_path: Path) -> None:
    with pytest.raises(ListenError, match=r"Failed opening Unix socket: bind: .*too long"):
        bind_unix(str(tmp_path / ("s" * 200)), 0)


def test_a_unix_socket_in_no_directory(tmp_path: Path) -> None:
    with pytest.raises(ListenError, match="Failed opening Unix socket: bind: No such file or directory"):
        bind_unix(str(tmp_path / "none" / "s"), 0)


def test_accepting_serving_and_closing(world: World) -> None:
    sock = bind_tcp(["127.0.0.1"], 0, quiet)[0]
    listener = listen(world, sock)
    with socket.create_connection(sock.getsockname()) as client:
        client.settimeout(5)
        world.turn()
        session = world.node.sessions[1]
        assert session.address == format_address(client.getsockname())
        assert session.local_address == format_address(client.getpeername())
        client.sendall(request_bytes(b"PING"))
        world.turn()
        assert client.recv(100) == b"+PONG\r\n"
        connection = next(iter(world.reactor.connections.values()))
        assert connection.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert connection.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 300
    listener.close()
    with pytest.raises(OSError):
        listener.socket.getsockname()


def test_a_unix_client(world: World, tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    listener = listen(world, bind_unix(path, 0), path=path)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(path)
        world.turn()
        assert world.node.sessions[1].unix and world.node.sessions[1].address == f"{path}:0"
    listener.close()
    assert not os.path.exists(path)


def test_protected_mode_lets_only_this_host_in(world: World) -> None:
    rejected: list[int] = []
    sock = bind_tcp(["127.0.0.1"], 0, quiet)[0]
    listener = listen(world, sock, protected=lambda: True, rejected=lambda: rejected.append(1))
    with socket.create_connection(sock.getsockname()):
        world.turn()
        assert len(world.node.sessions) == 1 and rejected == []
    ours, theirs = socket.socketpair()
    listener._welcome(ours, ("192.0.2.1", 5000))
    assert theirs.recv(4096) == DENIED and theirs.recv(1) == b""
    assert rejected == [1] and DENIED.endswith(b"to start accepting connections from the outside.\r\n")
    theirs.close()
    listener.close()


class TroubledSocket:
    """A listening socket whose ``accept`` fails as it is told, then works."""

    def __init__(self, sock: socket.socket, failures: list[OSError]) -> None:
        self._sock = sock
        self._failures = failures
        self.fileno: Callable[[], int] = sock.fileno
        self.listen = sock.listen
        self.close = sock.close

    def accept(self) -> tuple[socket.socket, object]:
        if self._failures:
            raise self._failures.pop(0)
        return self._sock.accept()


def test_out_of_descriptors_pauses_accepting(world: World) -> None:
    lines: list[str] = []
    sock = bind_tcp(["127.0.0.1"], 0, quiet)[0]
    troubled = TroubledSocket(sock, [OSError(errno.ECONNABORTED, "gone"), OSError(errno.EMFILE, "Too many open files")])
    listener = listen(world, troubled, log=lambda level, text: lines.append(text))  # type: ignore[arg-type]
    with socket.create_connection(sock.getsockname()):
        world.turn()
        assert lines == ["Accepting client connection: Too many open files"]
        world.turns(3)
        assert world.node.sessions == {} and len(lines) == 1, "it neither spins nor floods the log"
        world.clock.us += PAUSE_US
        world.turns(2)
        assert len(world.node.sessions) == 1
    listener.close()


def test_addresses_in_words() -> None:
    assert format_address(("127.0.0.1", 80)) == "127.0.0.1:80"
    assert format_address(("::1", 80, 0, 0)) == "[::1]:80"
    assert format_address("") == "?:0"
