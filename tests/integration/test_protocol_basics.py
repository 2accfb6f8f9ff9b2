"""What goes over the wire: pipelines, cuts, big values, half-closed and slow clients, RESP3."""

from __future__ import annotations

import socket
import threading
import time

import pytest
import redis

from tests.integration.conftest import ServerProcess


def request_bytes(*words: bytes) -> bytes:
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in words)


def read_exactly(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = sock.recv(size - len(data))
        assert piece, f"closed after {len(data)} of {size} bytes"
        data += piece
    return data


def test_inline_and_array_requests(respkv_server: ServerProcess) -> None:
    with respkv_server.connect() as sock:
        sock.sendall(b"PING\r\n" + request_bytes(b"PING", b"hi") + b"\r\nping\n")
        assert read_exactly(sock, 21) == b"+PONG\r\n$2\r\nhi\r\n+PONG\r\n"[:21]


def test_set_and_get_through_a_client(respkv_server: ServerProcess) -> None:
    with respkv_server.client() as client:
        assert client.set("basic", b"\x00\xff\r\n") and client.get("basic") == b"\x00\xff\r\n"


def test_each_client_is_listed_with_its_socket(respkv_server: ServerProcess) -> None:
    with respkv_server.client() as one, respkv_server.client() as other:
        numbers = [int(each.client_info()["fd"]) for each in (one, other)]
        listed = [int(row["fd"]) for row in one.client_list()]
    assert numbers[0] != numbers[1] and min(numbers) > 2 and set(numbers) <= set(listed)


def test_resp3(respkv_server: ServerProcess) -> None:
    with respkv_server.client(protocol=3) as client:
        client.set("three", "3")
        assert client.get("three") == b"3" and client.get("missing") is None


def test_a_pipeline_in_one_byte_pieces(respkv_server: ServerProcess) -> None:
    data = request_bytes(b"SET", b"cut", b"v") + request_bytes(b"GET", b"cut")
    with respkv_server.connect() as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in data:
            sock.sendall(bytes((byte,)))
        assert read_exactly(sock, 12) == b"+OK\r\n$1\r\nv\r\n"


def test_a_long_pipeline_is_answered_in_order(respkv_server: ServerProcess) -> None:
    with respkv_server.client() as client:
        pipe = client.pipeline(transaction=False)
        for number in range(20_000):
            pipe.set(f"p{number % 7}", number)
            pipe.get(f"p{number % 7}")
        replies = pipe.execute()
    assert [int(reply) for reply in replies[1::2]] == list(range(20_000))


def test_a_client_that_reads_only_after_it_has_sent_everything(respkv_server: ServerProcess) -> None:
    """Requests and replies are each bigger than any socket buffer."""
    value = b"v" * 20_000
    with respkv_server.connect() as sock:
        sock.sendall(request_bytes(b"SET", b"big", value))
        assert read_exactly(sock, 5) == b"+OK\r\n"
        filler = request_bytes(b"SET", b"filler", b"f" * 20_000) + request_bytes(b"GET", b"big")
        sock.sendall(filler * 1000)
        reply = b"+OK\r\n$20000\r\n" + value + b"\r\n"
        assert read_exactly(sock, len(reply) * 1000) == reply * 1000


def test_a_value_of_many_megabytes(respkv_server: ServerProcess) -> None:
    value = b"0123456789abcdef" * (2 << 20)
    with respkv_server.client() as client:
        client.set("huge", value)
        assert client.get("huge") == value
        client.delete("huge")


def test_a_half_closed_connection_gets_its_answers(respkv_server: ServerProcess) -> None:
    with respkv_server.connect() as sock:
        sock.sendall(request_bytes(b"PING") * 3)
        sock.shutdown(socket.SHUT_WR)
        assert read_exactly(sock, 21) == b"+PONG\r\n" * 3
        assert sock.recv(1) == b""


def test_quit(respkv_server: ServerProcess) -> None:
    with respkv_server.connect() as sock:
        sock.sendall(request_bytes(b"QUIT") + request_bytes(b"PING"))
        assert read_exactly(sock, 5) == b"+OK\r\n"
        assert sock.recv(1) == b""


def test_a_protocol_error_is_told_and_ends_the_connection(respkv_server: ServerProcess) -> None:
    with respkv_server.connect() as sock:
        sock.sendall(request_bytes(b"PING") + b"*1\r\n:5\r\n")
        expected = b"+PONG\r\n-ERR Protocol error: expected '$', got ':'\r\n"
        assert read_exactly(sock, len(expected)) == expected
        assert sock.recv(1) == b""


def test_many_connections_at_once(respkv_server: ServerProcess) -> None:
    clients = [respkv_server.connect() for _ in range(300)]
    try:
        for number, sock in enumerate(clients):
            sock.sendall(request_bytes(b"SET", b"many", b"%d" % number))
        assert [read_exactly(sock, 5) for sock in clients] == [b"+OK\r\n"] * 300
    finally:
        for sock in clients:
            sock.close()


def test_a_message_reaches_its_subscriber(respkv_server: ServerProcess) -> None:
    with respkv_server.client() as client:
        subscriber = client.pubsub()
        subscriber.subscribe("news")
        assert subscriber.get_message(timeout=10)["type"] == "subscribe"
        assert client.publish("news", "hello") == 1
        message = subscriber.get_message(timeout=10)
        assert message["data"] == b"hello"
        subscriber.close()


def test_concurrent_increments_are_all_counted(respkv_server: ServerProcess) -> None:
    with respkv_server.client() as client:
        client.delete("counter")

    def work() -> None:
        with respkv_server.client() as own:
            for _ in range(200):
                own.incr("counter")

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with respkv_server.client() as client:
        assert client.get("counter") == b"1600"


def test_unknown_commands_are_told_in_redis_words(respkv_server: ServerProcess) -> None:
    with respkv_server.client() as client, pytest.raises(redis.ResponseError, match="unknown command 'FOO'"):
        client.execute_command("FOO", "bar")


def test_debug_sleep_stalls_everybody(respkv_server: ServerProcess) -> None:
    with respkv_server.connect() as sleeper, respkv_server.connect() as other:
        other.sendall(request_bytes(b"PING"))
        assert read_exactly(other, 7) == b"+PONG\r\n"
        sleeper.sendall(request_bytes(b"DEBUG", b"SLEEP", b"0.4"))
        time.sleep(0.1)
        started = time.monotonic()
        other.sendall(request_bytes(b"PING"))
        assert read_exactly(other, 7) == b"+PONG\r\n"
        assert time.monotonic() - started > 0.2
        assert read_exactly(sleeper, 5) == b"+OK\r\n"
