"""A small blocking client, and a loader that fills or reads a key range through pipelines.

Keys are named as redis-benchmark names them, ``key:`` and twelve digits, so that its GET finds what the
loader stored. Values are slices of random bytes: a server that compresses gains nothing from them.
"""

from __future__ import annotations

import math
import random
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any, Final

import hiredis

BATCH: Final = 1000
#: Batches on the way at once; enough to keep the server busy while the loader builds the next one.
WINDOW: Final = 4
_POOL_BYTES: Final = 1 << 20
_RECV_BYTES: Final = 1 << 18


class ServerError(Exception):
    """The server answered an error, or not at all."""


def encode(*words: str | bytes | int) -> bytes:
    """A command as clients send it."""
    parts = [word if isinstance(word, bytes) else str(word).encode() for word in words]
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%b\r\n" % (len(part), part) for part in parts)


def key_name(number: int) -> bytes:
    """The key of a number, as redis-benchmark writes it."""
    return b"key:%012d" % number


class Connection:
    """One blocking connection."""

    def __init__(self, port: int, *, timeout_s: float) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port), timeout=timeout_s)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._reader = hiredis.Reader()

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.sock.close()

    def call(self, *words: str | bytes | int) -> Any:
        """The reply to one command; ServerError for an error reply."""
        self.sock.sendall(encode(*words))
        return self.reply()

    def reply(self) -> Any:
        """The next reply; ServerError for an error reply or a closed connection."""
        while (reply := self._reader.gets()) is False:
            data = self.sock.recv(_RECV_BYTES)
            if not data:
                raise ServerError("the server closed the connection")
            self._reader.feed(data)
        if isinstance(reply, hiredis.ReplyError):
            raise ServerError(str(reply))
        return reply

    def info(self, section: str) -> dict[str, str]:
        """Fields of an INFO section."""
        return parse_info(self.call("INFO", section).decode())


def parse_info(text: str) -> dict[str, str]:
    """Fields of an INFO text; headings and empty lines are left out."""
    lines = (line.strip() for line in text.splitlines())
    return dict(line.split(":", 1) for line in lines if ":" in line and not line.startswith("#"))


def _batches(count: int, make: Callable[[int], bytes]) -> Iterator[tuple[int, bytes]]:
    for begin in range(0, count, BATCH):
        numbers = range(begin, min(begin + BATCH, count))
        yield len(numbers), b"".join([make(number) for number in numbers])


def _pump(
    port: int, count: int, make: Callable[[int], bytes], check: Callable[[Any], bool], progress: Callable[[int], None]
) -> float:
    """Send ``count`` commands through one pipelined connection; seconds it took. ServerError on a wrong reply."""
    began, done = time.monotonic(), 0
    with Connection(port, timeout_s=120) as connection:
        waiting: list[int] = []

        def collect() -> None:
            nonlocal done
            size = waiting.pop(0)
            for _ in range(size):
                reply = connection.reply()
                if not check(reply):
                    raise ServerError(f"a reply is {reply!r:.60}")
            if done // 500_000 != (done + size) // 500_000:
                progress(done + size)
            done += size

        for size, data in _batches(count, make):
            connection.sock.sendall(data)
            waiting.append(size)
            if len(waiting) >= WINDOW:
                collect()
        while waiting:
            collect()
    return time.monotonic() - began


def fill(port: int, keys: int, *, value_bytes: int, progress: Callable[[int], None] = lambda _: None) -> float:
    """SET every key once, in random order for a range this size, to random bytes; seconds it took."""
    pool = random.Random(1).randbytes(_POOL_BYTES + value_bytes)
    step = _stride(keys)
    head = b"*3\r\n$3\r\nSET\r\n$16\r\nkey:%012d\r\n$" + b"%d\r\n" % value_bytes

    def make(number: int) -> bytes:
        place = number * 7919 % _POOL_BYTES
        return b"%b%b\r\n" % (head % (number * step % keys), pool[place : place + value_bytes])

    return _pump(port, keys, make, lambda reply: reply == b"OK", progress)


def read_all(port: int, keys: int, *, value_bytes: int, progress: Callable[[int], None] = lambda _: None) -> float:
    """GET every key once; seconds it took. ServerError when one is absent or of another length."""
    return _pump(
        port,
        keys,
        lambda number: b"*2\r\n$3\r\nGET\r\n$16\r\nkey:%012d\r\n" % number,
        lambda reply: isinstance(reply, bytes) and len(reply) == value_bytes,
        progress,
    )


def _stride(keys: int) -> int:
    """A step without a divisor in common with ``keys``, so that number * step walks all of the range scattered."""
    step = int(keys * 0.6180339887) | 1
    while math.gcd(step, keys) != 1:
        step += 1
    return step
