"""A Redis of one's own, for as long as a comparison lasts."""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

_START_S: Final = 20.0


def executable() -> str | None:
    """Where redis-server is, None when there is none."""
    return shutil.which("redis-server")


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@contextmanager
def running(*arguments: str) -> Iterator[int]:
    """Start Redis in an empty directory, without persistence; its port. It ends with the block."""
    binary = executable()
    if binary is None:
        raise FileNotFoundError("redis-server is not installed")
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="redis-") as directory:
        words = [binary, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", directory]
        process = subprocess.Popen(
            [*words, "--enable-debug-command", "yes", "--logfile", "redis.log", *arguments], cwd=directory
        )
        try:
            wait(process, port)
            yield port
        finally:
            process.terminate()
            process.wait(_START_S)


def wait(process: subprocess.Popen[bytes], port: int) -> None:
    """Until a server answers PING; RuntimeError when it ends or does not within the time."""
    give_up = time.monotonic() + _START_S
    while True:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1) as sock:
                sock.sendall(b"PING\r\n")
                if sock.recv(64).startswith(b"+PONG"):
                    return
        except OSError:
            pass
        if process.poll() is not None or time.monotonic() > give_up:
            raise RuntimeError(f"redis-server does not start (status {process.poll()})")
        time.sleep(0.02)
