"""Limits on clients: how many, from where, how much input and output, how long idle."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable

import pytest
import redis

from tests.integration.conftest import ServerProcess

Start = Callable[..., ServerProcess]


def closed_within(sock: socket.socket, seconds: float) -> bool:
    """Whether the server ends the connection in that time; what it sends is dropped."""
    sock.settimeout(seconds)
    try:
        while sock.recv(1 << 20):
            pass
    except TimeoutError:
        return False
    except ConnectionResetError:
        return True
    return True


def test_maxclients(start_server: Start) -> None:
    server = start_server(maxclients=3)
    clients = [server.connect() for _ in range(3)]
    for sock in clients:
        sock.sendall(b"PING\r\n")
        assert sock.recv(100) == b"+PONG\r\n"
    with server.connect() as sock:
        assert sock.recv(100) == b"-ERR max number of clients reached\r\n"
        assert sock.recv(1) == b""
    clients.pop().close()
    time.sleep(0.1)
    with server.connect() as sock:
        sock.sendall(b"PING\r\n")
        assert sock.recv(100) == b"+PONG\r\n"
    for sock in clients:
        sock.close()


def test_query_buffer_limit(start_server: Start) -> None:
    server = start_server(client_query_buffer_limit="1mb")
    with server.connect() as sock:
        try:
            sock.sendall(b"*2\r\n$3\r\nGET\r\n$100000000\r\n" + b"v" * 8_000_000)
        except (ConnectionResetError, BrokenPipeError):
            pass
        assert closed_within(sock, 10)
    assert server.client().ping()
    assert "max query buffer" in server.log_text()


def test_output_limit_of_a_client_that_does_not_read(start_server: Start) -> None:
    server = start_server(client_output_buffer_limit=["normal", "4mb", "0", "0"])
    server.client().set("big", b"v" * 1_000_000)
    with server.connect() as sock:
        sock.sendall(b"GET big\r\n" * 100)
        time.sleep(1.0)
        assert closed_within(sock, 20)
    assert "output buffer limits" in server.log_text()


def test_idle_timeout(start_server: Start) -> None:
    server = start_server(timeout=1)
    with server.connect() as idle, server.connect() as busy:
        started = time.monotonic()
        while time.monotonic() - started < 3:
            busy.sendall(b"PING\r\n")
            assert busy.recv(100) == b"+PONG\r\n"
            time.sleep(0.2)
        assert closed_within(idle, 1)


def test_input_limits_before_and_after_authentication(start_server: Start) -> None:
    server = start_server(requirepass="secret")
    with server.connect() as sock:
        sock.sendall(b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$20000\r\n")
        assert b"unauthenticated bulk length" in sock.recv(1000)
    with server.client(password="secret") as client:
        client.set("k", "v" * 20_000)
        client.mset({f"k{number}": "v" for number in range(20)})
        assert client.strlen("k") == 20_000


def test_protected_mode_refuses_other_hosts(start_server: Start) -> None:
    address = _own_address()
    if address is None:
        pytest.skip("this host has no address but the loopback")
    server = start_server(bind="*")
    with socket.create_connection((address, server.port), timeout=20) as sock:
        assert sock.recv(10_000).startswith(b"-DENIED Redis is running in protected mode")
    server.client().config_set("requirepass", "secret")
    with socket.create_connection((address, server.port), timeout=20) as sock:
        sock.sendall(b"PING\r\n")
        assert sock.recv(100).startswith(b"-NOAUTH")


def _own_address() -> str | None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.connect(("192.0.2.1", 9))
            address = str(sock.getsockname()[0])
        except OSError:
            return None
    return None if address.startswith("127.") else address


def test_limits_follow_config_set(start_server: Start) -> None:
    server = start_server()
    client = server.client()
    client.config_set("timeout", "1")
    with server.connect() as idle:
        assert closed_within(idle, 5)
    client = server.client()
    client.config_set("maxclients", "1")
    with server.connect() as sock:
        assert closed_within(sock, 5)
    with pytest.raises(redis.ResponseError, match="maxclients"):
        client.config_set("maxclients", "4000000000")
