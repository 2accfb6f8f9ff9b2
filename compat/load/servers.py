"""Servers started for a measurement, and what the kernel tells about their processes.

A server lives on a free loopback port in a directory of its own that is removed with it. Processes are
ended by their pid and waited for. Figures of a server are those of its whole process tree: ``utime`` and
``stime`` of every living process plus what the kernel has added to the parents for children that have ended,
so a worker that is replaced during a run is not lost.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

from compat.load.connection import Connection, ServerError

HOST: Final = "127.0.0.1"
START_S: Final = 60.0
STOP_S: Final = 60.0
IDLE_CPU_SHARE: Final = 0.03
_ROOT: Final = str(Path(__file__).resolve().parents[2])
_TICK_S: Final = 1 / os.sysconf("SC_CLK_TCK")


class LoadError(Exception):
    """A measurement cannot go on; the text says why."""


def require_tools(*names: str) -> None:
    """LoadError when a program is not on the path."""
    missing = [name for name in names if shutil.which(name) is None]
    if missing:
        raise LoadError(f"not found on PATH: {', '.join(missing)} (Debian has them in redis-tools and redis-server)")


def clean_up_when_told_to_end() -> None:
    """SIGTERM ends this program as an error would: what it has started is stopped and removed."""

    def end(number: int, frame: object) -> None:
        sys.exit(128 + number)

    signal.signal(signal.SIGTERM, end)


def default_respkv_command() -> str:
    """The server of this source tree, run by this interpreter."""
    return f"{shlex.quote(sys.executable)} -m respkv"


def free_port() -> int:
    """A loopback port that nobody listens on now."""
    with socket.socket() as sock:
        sock.bind((HOST, 0))
        return int(sock.getsockname()[1])


def tell_uncompiled(name: str, port: int) -> None:
    """Say so if a respkv's hot modules are not compiled."""
    try:
        with Connection(port, timeout_s=5) as connection:
            uncompiled = b"\r\nrespkv_compiled:0\r\n" in connection.call("INFO", "server")
    except (OSError, ServerError):
        return
    if uncompiled:
        print(f"note: {name} runs as plain Python; --respkv-server names an installed one", file=sys.stderr)


class Server:
    """One server process. ``command`` is split as a shell would; ``options`` follow port and directory."""

    def __init__(self, name: str, command: str, options: list[str]) -> None:
        self.name = name
        self.command = shlex.split(command)
        self.options = options
        self.port = free_port()
        self.dir = tempfile.mkdtemp(prefix=f"load-{name}-")
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> float:
        """Start and wait for PONG; seconds from exec to it. LoadError with its output when it does not come."""
        words = [*self.command, "--port", str(self.port), "--bind", HOST, "--dir", self.dir, *self.options]
        environment = dict(os.environ)
        if self.command == shlex.split(default_respkv_command()):
            # Only then: an installed server would find the source tree before its own, compiled modules.
            environment["PYTHONPATH"] = os.pathsep.join([_ROOT, *filter(None, [os.environ.get("PYTHONPATH")])])
        began = time.monotonic()
        try:
            with open(self._output_path(), "ab") as output:
                self._process = subprocess.Popen(words, stdout=output, stderr=output, env=environment)
        except OSError as reason:
            raise LoadError(f"cannot start {words[0]}: {reason}") from reason
        while not self._answers():
            if self._process.poll() is not None:
                raise LoadError(f"{self.name} ended with {self._process.returncode}:\n{self.output()}")
            if time.monotonic() - began > START_S:
                raise LoadError(f"{self.name} gives no PONG within {START_S:.0f} s:\n{self.output()}")
            time.sleep(0.001)
        took_s = time.monotonic() - began
        tell_uncompiled(self.name, self.port)
        return took_s

    def _answers(self) -> bool:
        try:
            with Connection(self.port, timeout_s=5) as connection:
                return bool(connection.call("PING") == b"PONG")
        except (OSError, ServerError):
            return False  # refused, reset, or -LOADING: not yet

    def _output_path(self) -> str:
        return os.path.join(self.dir, "load-output.txt")

    def output(self) -> str:
        """The last lines it printed."""
        return "".join(Path(self._output_path()).read_text(errors="replace").splitlines(keepends=True)[-20:])

    @property
    def pid(self) -> int:
        if self._process is None:
            raise LoadError(f"{self.name} has not been started")
        return self._process.pid

    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def check_alive(self) -> None:
        """LoadError when it has ended by itself."""
        if not self.alive():
            status = self._process.returncode if self._process else None
            raise LoadError(f"{self.name} died during the run, status {status}:\n{self.output()}")

    def connect(self, timeout_s: float = 60) -> Connection:
        return Connection(self.port, timeout_s=timeout_s)

    def kill(self) -> None:
        """SIGKILL to the main process alone, as a crash; its workers notice and end."""
        children = tree(self.pid)[1:]
        os.kill(self.pid, signal.SIGKILL)
        assert self._process is not None
        self._process.wait(STOP_S)
        deadline = time.monotonic() + 10
        while any(os.path.exists(f"/proc/{pid}") for pid in children):
            if time.monotonic() > deadline:
                raise LoadError(f"workers {children} outlive their killed server by 10 s")
            time.sleep(0.01)

    def stop(self) -> None:
        """SIGTERM, then SIGKILL after a while; nothing when it does not run."""
        if self._process is None or self._process.poll() is not None:
            return
        self._process.terminate()
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(STOP_S)

    def remove(self) -> None:
        """Stop it and remove its directory."""
        self.stop()
        shutil.rmtree(self.dir, ignore_errors=True)

    def cpu_s(self) -> tuple[float, float]:
        """Processor seconds so far: (whole tree, main process alone)."""
        pids = tree(self.pid)
        own, _ = process_cpu_s(pids[0])
        return sum(sum(process_cpu_s(pid)) for pid in pids), own

    def rss_bytes(self) -> int:
        """Resident bytes of the whole tree; pages shared by processes count in each."""
        return sum(process_rss_bytes(pid) for pid in tree(self.pid))

    def wait_idle(self, timeout_s: float = 60) -> bool:
        """Wait until the tree uses almost no processor over half a second; False when it never does."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            before, began = self.cpu_s()[0], time.monotonic()
            time.sleep(0.5)
            if (self.cpu_s()[0] - before) / (time.monotonic() - began) <= IDLE_CPU_SHARE:
                return True
        return False


def parse_stat(text: str) -> tuple[float, float, int]:
    """(own cpu seconds, seconds of ended children, resident pages) of a /proc/PID/stat line.

    The name in parentheses may itself hold spaces and parentheses, so fields are counted from the last one.
    """
    fields = text[text.rindex(")") + 2 :].split()
    utime, stime, cutime, cstime = (int(word) for word in fields[11:15])
    return (utime + stime) * _TICK_S, (cutime + cstime) * _TICK_S, int(fields[21])


def _stat(pid: int) -> tuple[float, float, int]:
    try:
        return parse_stat(Path(f"/proc/{pid}/stat").read_text())
    except (FileNotFoundError, ProcessLookupError):
        return 0.0, 0.0, 0  # it ended a moment ago; its parent has its figures


def process_cpu_s(pid: int) -> tuple[float, float]:
    """(own, of ended children) processor seconds; zeros for a process that is gone."""
    own, children, _ = _stat(pid)
    return own, children


def process_rss_bytes(pid: int) -> int:
    """Resident bytes, 0 for a process that is gone."""
    return _stat(pid)[2] * os.sysconf("SC_PAGE_SIZE")


def tree(pid: int) -> list[int]:
    """The process and all its living descendants, itself first."""
    found = [pid]
    for parent in found:
        try:
            for task in os.listdir(f"/proc/{parent}/task"):
                found += [int(word) for word in Path(f"/proc/{parent}/task/{task}/children").read_text().split()]
        except (FileNotFoundError, ProcessLookupError):
            continue  # ended while we looked
    return found


def disk_bytes(directory: str) -> int:
    """Disk space of everything below a directory, as du counts it."""
    total = 0
    for parent, _, names in os.walk(directory):
        for name in names:
            try:
                total += os.lstat(os.path.join(parent, name)).st_blocks * 512
            except FileNotFoundError:
                continue  # removed by a compaction meanwhile
    return total
