"""One connection that sends a command at fixed moments whatever the server does, and times each answer.

Latency counts from the moment a command was *due*, so a stalled server is charged for everything that
would have been sent meanwhile. What the probe itself was late in sending is reported apart: it is the
error of the measurement.
"""

from __future__ import annotations

import random
import select
import socket
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import hiredis

from compat.load.connection import ServerError, encode, key_name
from compat.load.figures import longest_gap, summary_ms

#: A server this long silent is given up.
SILENCE_S = 120.0


@dataclass(slots=True)
class ProbeResult:
    """``replies`` are (second of arrival, latency in us), in order; ``late_us`` how late each was sent."""

    replies: list[tuple[float, float]] = field(default_factory=list)
    late_us: list[float] = field(default_factory=list)

    def summary(self) -> dict[str, Any]:
        """Latencies, the longest time without an answer, the worst lateness of the probe itself. ValueError
        when nothing was answered."""
        return {
            **summary_ms([latency for _, latency in self.replies]),
            "longest_pause_ms": round(longest_gap([at for at, _ in self.replies]) * 1000, 3),
            "probe_late_max_ms": round(max(self.late_us) / 1000, 3),
        }


def run_probe(
    port: int, *, seconds: float, interval_ms: float, make: Callable[[], bytes],
    tick: Callable[[float], None] = lambda _: None, tick_interval_ms: float = 100,
) -> ProbeResult:  # fmt: skip
    """Send ``make()`` each ``interval_ms`` for so long; ``tick(now)`` runs between. ServerError on an error
    reply, on a closed connection and on two minutes of silence."""
    result, reader = ProbeResult(), hiredis.Reader()
    due: deque[float] = deque()
    with socket.create_connection(("127.0.0.1", port), timeout=SILENCE_S) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        began = heard = time.monotonic()
        next_send, next_tick, end = began, began, began + seconds
        while True:
            now = time.monotonic()
            while next_send <= now and next_send < end:
                sock.sendall(make())
                due.append(next_send)
                result.late_us.append((time.monotonic() - next_send) * 1e6)
                next_send += interval_ms / 1000
            if next_tick <= now:
                tick(now)
                next_tick = max(next_tick + tick_interval_ms / 1000, now)
            if not due and next_send >= end:
                return result
            wake = min(next_send, next_tick) if next_send < end else next_tick
            if select.select([sock], [], [], max(0.0, wake - time.monotonic()))[0]:
                heard = _receive(sock, reader, due, result)
            elif due and time.monotonic() - heard > SILENCE_S:
                raise ServerError(f"no answer for {SILENCE_S:.0f} s")
            elif not due:
                heard = time.monotonic()


def _receive(sock: socket.socket, reader: Any, due: deque[float], result: ProbeResult) -> float:
    data = sock.recv(65536)
    now = time.monotonic()
    if not data:
        raise ServerError("the server closed the connection of the probe")
    reader.feed(data)
    while (reply := reader.gets()) is not False:
        if isinstance(reply, hiredis.ReplyError):
            raise ServerError(str(reply))
        result.replies.append((now, (now - due.popleft()) * 1e6))
    return now


def random_set(keys: int, value_bytes: int, *, seed: int = 2) -> Callable[[], bytes]:
    """SET of a random key to random bytes, a new one each call."""
    rng = random.Random(seed)
    return lambda: encode("SET", key_name(rng.randrange(keys)), rng.randbytes(value_bytes))


def random_get(keys: int, *, seed: int = 3) -> Callable[[], bytes]:
    """GET of a random key, a new one each call."""
    rng = random.Random(seed)
    return lambda: encode("GET", key_name(rng.randrange(keys)))
