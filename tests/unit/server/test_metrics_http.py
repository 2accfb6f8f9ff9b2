"""/metrics over memory streams."""

from __future__ import annotations

import trio
import trio.testing

from respkv.server.metrics_http import CONNECTIONS_MAX, IDLE_S, MetricsServer


async def _talk(server: MetricsServer, *pieces: bytes) -> bytes:
    ours, theirs = trio.testing.memory_stream_pair()
    answer = bytearray()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.serve_connection, theirs)
        for piece in pieces:
            await ours.send_all(piece)
            await trio.testing.wait_all_tasks_blocked()
        await ours.send_eof()
        while data := await ours.receive_some(65536):
            answer += data
    return bytes(answer)


def talk(*pieces: bytes) -> bytes:
    return trio.run(_talk, MetricsServer(lambda: b"up 1\n"), *pieces)


def test_a_scrape_in_two_pieces() -> None:
    answer = talk(b"GET /met", b"rics?x=1 HTTP/1.1\r\nHost: h\r\n\r\n")
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200") and b"text/plain; version=0.0.4" in head and body == b"up 1\n"


def test_two_scrapes_on_one_connection() -> None:
    answer = talk(b"GET /metrics HTTP/1.1\r\nHost: h\r\n\r\n" * 2)
    assert answer.count(b"HTTP/1.1 200") == 2


def test_close_is_honoured() -> None:
    answer = talk(b"GET /metrics HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n" * 2)
    assert answer.count(b"HTTP/1.1 200") == 1


def test_head_has_no_body() -> None:
    answer = talk(b"HEAD /metrics HTTP/1.1\r\nHost: h\r\n\r\n")
    assert b"HTTP/1.1 200" in answer and answer.endswith(b"\r\n\r\n")


def test_other_paths_and_methods() -> None:
    assert b"HTTP/1.1 404" in talk(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
    answer = talk(b"POST /metrics HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc")
    assert b"HTTP/1.1 405" in answer and b"Allow: GET, HEAD" in answer


def test_what_is_not_http() -> None:
    assert b"HTTP/1.1 400" in talk(b"*1\r\n$4\r\nPING\r\n\r\n")


def test_a_header_without_end() -> None:
    assert b"HTTP/1.1 431" in talk(b"GET /metrics HTTP/1.1\r\nX: " + b"y" * 40_000)


def test_a_silent_connection_is_ended() -> None:
    async def main() -> float:
        ours, theirs = trio.testing.memory_stream_pair()
        server = MetricsServer(lambda: b"")
        started = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.serve_connection, theirs)
            assert await ours.receive_some(10) == b""
        return trio.current_time() - started

    assert IDLE_S <= trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0)) < IDLE_S + 1


def test_connections_are_bounded() -> None:
    async def main() -> None:
        server = MetricsServer(lambda: b"")
        async with trio.open_nursery() as nursery:
            for _ in range(CONNECTIONS_MAX):
                _, theirs = trio.testing.memory_stream_pair()
                nursery.start_soon(server.serve_connection, theirs)
            await trio.testing.wait_all_tasks_blocked()
            ours, theirs = trio.testing.memory_stream_pair()
            nursery.start_soon(server.serve_connection, theirs)
            assert await ours.receive_some(10) == b""
            nursery.cancel_scope.cancel()

    trio.run(main)
