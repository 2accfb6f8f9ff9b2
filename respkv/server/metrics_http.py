"""``/metrics`` for Prometheus: a small HTTP/1.1 server on a listener of its own.

GET and HEAD of /metrics, 404 for other paths, 405 for other methods. Few connections at a time, each with a
time limit; a request that is not HTTP is answered 400 and ends the connection.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import h11
import trio

CONNECTIONS_MAX: Final = 16
IDLE_S: Final = 10.0
CONTENT_TYPE: Final = b"text/plain; version=0.0.4; charset=utf-8"
_RECV_BYTES: Final = 8192
_HEADER_BYTES_MAX: Final = 16384

Render = Callable[[], bytes]


class MetricsServer:
    """``render()`` gives the page."""

    __slots__ = ("_open", "_render", "requests")

    def __init__(self, render: Render) -> None:
        self._render = render
        self._open = 0
        self.requests = 0

    async def listen(self, addresses: Sequence[str], port: int) -> list[trio.SocketListener]:
        """Bound listeners. OSError when an address cannot be had."""
        listeners: list[trio.SocketListener] = []
        for address in addresses:
            host = {"*": "0.0.0.0", "::*": "::"}.get(address.removeprefix("-"), address.removeprefix("-"))
            listeners += await trio.open_tcp_listeners(port, host=host)
        return listeners

    async def serve_connection(self, stream: trio.abc.Stream) -> None:
        """Answer the requests of one connection."""
        async with stream:
            if self._open >= CONNECTIONS_MAX:
                return
            self._open += 1
            try:
                await self._serve(stream)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                pass  # The scraper went away.
            finally:
                self._open -= 1

    async def _serve(self, stream: trio.abc.Stream) -> None:
        http = h11.Connection(h11.SERVER, max_incomplete_event_size=_HEADER_BYTES_MAX)
        while True:
            request: h11.Request | None = None
            with trio.move_on_after(IDLE_S) as scope:
                try:
                    request = await self._next_request(http, stream)
                except h11.RemoteProtocolError as error:
                    if http.our_state in (h11.IDLE, h11.SEND_RESPONSE):
                        await self._answer(http, stream, error.error_status_hint, b"bad request\n")
                    return
                if request is not None:
                    await self._respond(http, stream, request)
            if scope.cancelled_caught or request is None or http.our_state is h11.MUST_CLOSE:
                return
            http.start_next_cycle()

    async def _next_request(self, http: h11.Connection, stream: trio.abc.Stream) -> h11.Request | None:
        """The next request, its body read and dropped; None at the end."""
        request: h11.Request | None = None
        while True:
            event = http.next_event()
            if event is h11.NEED_DATA:
                http.receive_data(bytes(await stream.receive_some(_RECV_BYTES)))
            elif isinstance(event, h11.Request):
                request = event
            elif isinstance(event, h11.EndOfMessage):
                return request
            elif isinstance(event, h11.ConnectionClosed) or event is h11.PAUSED:
                return None

    async def _respond(self, http: h11.Connection, stream: trio.abc.Stream, request: h11.Request) -> None:
        self.requests += 1
        path = request.target.partition(b"?")[0]
        if request.method not in (b"GET", b"HEAD"):
            await self._answer(http, stream, 405, b"GET only\n", [(b"Allow", b"GET, HEAD")])
        elif path != b"/metrics":
            await self._answer(http, stream, 404, b"see /metrics\n")
        else:
            body = self._render()
            await self._answer(http, stream, 200, body, head=request.method == b"HEAD")

    async def _answer(
        self,
        http: h11.Connection,
        stream: trio.abc.Stream,
        status: int,
        body: bytes,
        extra: Sequence[tuple[bytes, bytes]] = (),
        *,
        head: bool = False,
    ) -> None:
        headers = [(b"Content-Type", CONTENT_TYPE), (b"Content-Length", b"%d" % len(body)), *extra]
        data = http.send(h11.Response(status_code=status, headers=headers)) or b""
        if not head:
            data += http.send(h11.Data(data=body)) or b""
        data += http.send(h11.EndOfMessage()) or b""
        await stream.send_all(data)
