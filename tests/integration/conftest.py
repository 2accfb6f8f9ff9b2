"""Real servers in processes of their own, started through the command line."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

import respkv

_ROOT = str(Path(respkv.__file__).resolve().parent.parent)
_START_S = 60.0
_READY = "Ready to accept connections"
_STOP_S = 60.0


class ServerProcess:
    """One running server. Directives are keywords, ``_`` for ``-``; ``dir`` is the data directory."""

    def __init__(self, directory: Path, **directives: object) -> None:
        self.host = "127.0.0.1"
        self.dir = str(directory)
        self.port = int(str(directives.pop("port", 0))) or free_port()
        self.log = str(directory / "server.log")
        self.stderr = str(directory / "server.stderr")
        given = {name.replace("_", "-"): value for name, value in directives.items()}
        # Small logs and ballast: a test run starts many servers, and each would take 600 MB of disk by default.
        self.directives = {"bind": self.host, "memtable-bytes": "16mb", "ballast-bytes": "1mb", **given}
        self.process: subprocess.Popen[bytes] | None = None
        self._ready_before = 0

    def command(self) -> list[str]:
        """The command line."""
        words = [sys.executable, "-m", "respkv", "--port", str(self.port), "--dir", self.dir, "--logfile", "server.log"]
        for name, value in self.directives.items():
            words += [f"--{name}", *([str(part) for part in value] if isinstance(value, list) else [str(value)])]
        return words

    def start(self) -> ServerProcess:
        """Start and wait until it accepts; AssertionError with its log when it does not."""
        self.launch()
        return self.wait_ready()

    def launch(self) -> None:
        """Begin to start."""
        self._ready_before = self.log_text().count(_READY)
        with open(self.stderr, "ab") as stderr:
            self.process = subprocess.Popen(
                self.command(), stdout=stderr, stderr=stderr, env={**os.environ, "PYTHONPATH": _python_path()}
            )

    def wait_ready(self) -> ServerProcess:
        """Wait until it accepts; AssertionError with its log when it does not."""
        assert self.process is not None
        give_up = time.monotonic() + _START_S
        while self.log_text().count(_READY) == self._ready_before:
            assert self.process.poll() is None, f"it ended with {self.process.returncode}: {self.report()}"
            assert time.monotonic() < give_up, f"it does not start: {self.report()}"
            time.sleep(0.01)
        return self

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def client(self, **options: Any) -> redis.Redis:
        """A client with a connection of its own that does not retry."""
        from redis.backoff import NoBackoff
        from redis.retry import Retry

        settings: dict[str, Any] = {"retry": Retry(NoBackoff(), 0), "socket_timeout": 30, "protocol": 2, **options}
        return redis.Redis(self.host, self.port, **settings)

    def connect(self) -> socket.socket:
        """A plain connection."""
        return socket.create_connection((self.host, self.port), timeout=20)

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def wait(self) -> int:
        """Wait for the end; the exit status."""
        assert self.process is not None
        return self.process.wait(_STOP_S)

    def kill(self) -> None:
        """SIGKILL: a crash."""
        self.signal(signal.SIGKILL)
        self.wait()

    def stop(self) -> int:
        """A clean stop; the exit status."""
        self.signal(signal.SIGTERM)
        return self.wait()

    def end(self) -> None:
        """Whatever state it is in, it ends now, and has left no trace of a bug."""
        if self.process is not None and self.process.poll() is None:
            self.signal(signal.SIGTERM)
            try:
                self.process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                self.kill()
                raise AssertionError(f"it did not stop: {self.report()}") from None
        text = self.report()
        assert "Traceback" not in text and "BUG REPORT" not in text, text

    def log_text(self) -> str:
        return Path(self.log).read_text() if os.path.exists(self.log) else ""

    def report(self) -> str:
        """Log and standard error."""
        stderr = Path(self.stderr).read_text() if os.path.exists(self.stderr) else ""
        return f"{self.log_text()}\n{stderr}"

    def worker_pids(self) -> list[int]:
        """Processes whose parent is the server."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text()
        return [int(word) for word in children.split()]


def _python_path() -> str:
    given = os.environ.get("PYTHONPATH")
    return f"{_ROOT}{os.pathsep}{given}" if given else _ROOT


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def run_server(*arguments: str, stdin: str = "", cwd: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run the server's command line to its end."""
    return subprocess.run(
        [sys.executable, "-m", "respkv", *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=_START_S,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": _python_path()},
    )


@pytest.fixture(scope="session")
def respkv_server() -> Iterator[ServerProcess]:
    """One server for all tests that only talk to it. DEBUG is allowed."""
    with tempfile.TemporaryDirectory(prefix="respkv-") as directory:
        server = ServerProcess(Path(directory), enable_debug_command="yes").start()
        try:
            yield server
        finally:
            server.end()


@pytest.fixture
def start_server(tmp_path: Path) -> Iterator[Callable[..., ServerProcess]]:
    """``start_server(**directives)``: a server of the test's own, on the same directory at each call unless
    ``data`` names another one below the test's."""
    servers: list[ServerProcess] = []

    def start(*, data: str = "data", **directives: object) -> ServerProcess:
        directory = tmp_path / data
        directory.mkdir(exist_ok=True)
        server = ServerProcess(directory, **directives)
        servers.append(server)
        return server.start()

    yield start
    for server in servers:
        server.end()


LOG_LINE = re.compile(r"\d+:[CM] \d\d [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d\.\d{3} [.*#-] .*")
