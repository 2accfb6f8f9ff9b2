"""Clients that do not read, that send garbage, that vanish: the others do not notice."""

from __future__ import annotations

import os
import random
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.integration.conftest import ServerProcess

Start = Callable[..., ServerProcess]

FRAGMENTS = (
    *(b"*", b"$", b":", b"+", b"-", b"\r\n", b"\n", b"\r", b"1", b"2", b"3", b"10", b"-1", b"0", b" ", b'"', b"'"),
    *(b"\x00", b"\xff", b"99999999999", b"GET", b"SET", b"k", b"PING", b"PING\r\n", b"GET k\r\n", b"QUIT\r\n"),
    *(b"*1\r\n$4\r\nPING\r\n", b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1\r\nv\r\n", b"*1\r\n*1\r\n$4\r\nPING\r\n"),
    *(b"*2147483647\r\n", b"*1048577\r\n", b"$536870913\r\n", b"%1\r\n", b"~1\r\n", b"_\r\n", b"#t\r\n", b"(12\r\n"),
    *(b",1.5\r\n", b"=5\r\ntxt:a\r\n", b"*0\r\n", b"*-1\r\n", b"$-1\r\n", b"$0\r\n\r\n", b"POST ", b"x" * 70_000),
    *(b"MULTI\r\n", b"EXEC\r\n", b"WATCH k\r\n", b"CLIENT REPLY OFF\r\n", b"SUBSCRIBE a\r\n", b"HELLO 3\r\n"),
    *(b"RESET\r\n", b"MONITOR\r\n", b"WAIT 1 5\r\n"),
)


@pytest.fixture
def server(start_server: Start) -> ServerProcess:
    return start_server(enable_debug_command="yes")


def open_files(server: ServerProcess) -> int:
    return len(os.listdir(f"/proc/{server.pid}/fd"))


def read_to_end(sock: socket.socket, seconds: float = 20) -> bytes:
    """What comes until the server closes; TimeoutError when it does not."""
    sock.settimeout(seconds)
    parts = []
    try:
        while data := sock.recv(1 << 20):
            parts.append(data)
    except ConnectionResetError:
        pass
    return b"".join(parts)


def reset(sock: socket.socket) -> None:
    """Close with a reset instead of a goodbye."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def eventually(condition: Callable[[], bool], seconds: float = 20) -> None:
    give_up = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.02)


@pytest.fixture
def bystander(server: ServerProcess) -> Iterator[list[int]]:
    """A client that works on while the test runs; how often, in the list. Its mistakes fail the test."""
    rounds, problems, stop = [0], [], threading.Event()

    def work() -> None:
        with server.client() as client:
            while not stop.is_set():
                client.set("bystander", rounds[0])
                value = client.get("bystander")
                if value != str(rounds[0]).encode():
                    problems.append(value)
                rounds[0] += 1
                stop.wait(0.001)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield rounds
    finally:
        stop.set()
        thread.join()
    assert problems == []


@pytest.mark.parametrize("seed", [1, 2])
def test_garbage(server: ServerProcess, bystander: list[int], seed: int) -> None:
    draw = random.Random(seed)
    before = open_files(server)
    for _ in range(300):
        if draw.random() < 0.3:
            data = draw.randbytes(draw.randrange(1, 200))
        else:
            data = b"".join(draw.choice(FRAGMENTS) for _ in range(draw.randrange(1, 25)))
        with server.connect() as sock:
            try:
                if draw.random() < 0.1:
                    for byte in data[:200]:
                        sock.sendall(bytes([byte]))
                else:
                    sock.sendall(data)
                if draw.random() < 0.5:
                    sock.shutdown(socket.SHUT_WR)
                    read_to_end(sock)  # It is closed whatever was sent: nothing hangs.
            except TimeoutError:
                raise AssertionError(f"it hangs after {data!r}") from None
            except OSError:
                pass  # It was closed before everything was sent.
    worked = bystander[0]
    eventually(lambda: bystander[0] > worked)
    eventually(lambda: open_files(server) <= before + 1)
    assert server.client().info("clients")["connected_clients"] == 2


def test_a_half_closed_client_gets_every_answer(server: ServerProcess) -> None:
    server.client().set("big", b"v" * 1_000_000)
    with server.connect() as sock:
        sock.sendall(b"GET big\r\n" * 40 + b"CLIENT PAUSE 300 ALL\r\n" + b"PING\r\n" * 20_000)
        sock.shutdown(socket.SHUT_WR)
        time.sleep(0.3)
        answer = read_to_end(sock)
    assert answer.count(b"$1000000\r\n") == 40 and answer.endswith(b"\r\n+OK\r\n" + b"+PONG\r\n" * 20_000)


def test_a_reader_of_a_long_reply_is_not_cut_off_by_the_idle_timeout(server: ServerProcess) -> None:
    client = server.client()
    size = 12_000_000
    client.set("big", b"v" * size)
    client.config_set("timeout", "1")
    with server.connect() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        sock.settimeout(20)
        sock.sendall(b"GET big\r\nQUIT\r\n")
        got, started = 0, time.monotonic()
        while data := sock.recv(60_000):
            got += len(data)
            time.sleep(0.015)
    assert got == len(f"${size}\r\n\r\n+OK\r\n") + size
    assert time.monotonic() - started > 2


@pytest.mark.parametrize("subscribe", ["SUBSCRIBE c", "PSUBSCRIBE c*", "SSUBSCRIBE c"])
def test_a_subscriber_that_does_not_read(server: ServerProcess, subscribe: str) -> None:
    client: Any = server.client()
    client.config_set("client-output-buffer-limit", "pubsub 2mb 0 0")
    with server.connect() as sock:
        sock.sendall(subscribe.encode() + b"\r\n")
        eventually(lambda: client.info("clients")["pubsub_clients"] == 1)
        publish = "SPUBLISH" if subscribe.startswith("SS") else "PUBLISH"
        for _ in range(150):
            client.execute_command(publish, "c", b"x" * 100_000)
        assert len(read_to_end(sock)) < 10_000_000
    assert client.execute_command(publish, "c", b"x") == 0
    assert client.info("stats")["client_output_buffer_limit_disconnections"] == 1
    assert "closed for overcoming of output buffer limits" in server.log_text()


def test_a_monitor_that_does_not_read(server: ServerProcess) -> None:
    client = server.client()
    client.config_set("client-output-buffer-limit", "normal 2mb 0 0")
    with server.connect() as sock:
        sock.sendall(b"MONITOR\r\n")
        assert sock.recv(5) == b"+OK\r\n"
        for _ in range(150):
            client.set("k", b"x" * 100_000)
        assert len(read_to_end(sock)) < 10_000_000
    assert client.get("k") == b"x" * 100_000


def test_clients_that_come_and_go_leave_nothing_behind(server: ServerProcess) -> None:
    client = server.client()
    client.set("big", b"v" * 1_000_000)
    before = open_files(server)
    for _ in range(20):
        socks = [server.connect() for _ in range(50)]
        for number, sock in enumerate(socks):
            if number % 3 == 0:
                sock.sendall(b"PING\r\n")
            elif number % 7 == 0:
                sock.sendall(b"SUBSCRIBE a\r\nMONITOR\r\n")
            elif number % 11 == 0:
                sock.sendall(b"GET big\r\n" * 10)
        for number, sock in enumerate(socks):
            reset(sock) if number % 2 else sock.close()
    eventually(lambda: client.info("clients")["connected_clients"] == 1)
    assert open_files(server) == before
    assert client.pubsub_channels() == [] and client.info("clients")["pubsub_clients"] == 0


def test_announced_sizes_take_no_memory(server: ServerProcess) -> None:
    client = server.client()
    before = client.info("memory")["used_memory_rss"]
    socks = [server.connect() for _ in range(60)]
    for number, sock in enumerate(socks):
        sock.sendall(b"*2\r\n$3\r\nGET\r\n$536870912\r\n" if number % 2 else b"*1048576\r\n$3\r\nGET\r\n")
    time.sleep(0.2)
    assert client.info("memory")["used_memory_rss"] - before < 30_000_000
    for sock in socks:
        sock.close()


def test_requests_of_a_killed_client_are_not_run(server: ServerProcess) -> None:
    """Also when they have come in the same moment as the CLIENT KILL of another."""
    client = server.client()
    with server.connect() as killer, server.connect() as victim, server.connect() as sleeper:
        victim.sendall(b"CLIENT ID\r\n")
        ident = int(victim.recv(100)[1:])
        sleeper.sendall(b"DEBUG SLEEP 0.4\r\n")
        time.sleep(0.1)
        killer.sendall(b"CLIENT KILL ID %d\r\n" % ident)
        time.sleep(0.05)
        victim.sendall(b"SET killed yes\r\nMONITOR\r\nSUBSCRIBE c\r\n")
        killer.settimeout(20)
        assert killer.recv(100) == b":1\r\n"
        assert read_to_end(victim) == b""
    assert client.get("killed") is None
    assert client.publish("c", "x") == 0 and client.info("clients")["pubsub_clients"] == 0
