"""A ring of processes on this machine, kept in one directory: what lies there, who runs, who answers.

Layout of the directory:

    ring.json       number of nodes and first port, decided once, before anything is started; options of the
                    servers; mode 600 since one of them may be a password
    secret          what node links are authenticated with, mode 600
    LOCK            held while processes are started or stopped
    node-1.conf     configuration of a node, mode 600 since it holds the secret; written when it is missing
    node-1.pid      written by the server, removed by it at a clean stop
    node-1.log      its log
    node-1.out      what it printed beside the log
    node-1/         its data
"""

from __future__ import annotations

import dataclasses
import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from respkv.cli.gathering import Gathering, Verdict
from respkv.cli.kept_options import same, shown
from respkv.cli.local_node import HOST, STARTING, LocalNode, LocalRingError, Report, describe, make_nodes
from respkv.cli.ring_health import saved_ring
from respkv.env.posix import PosixFileSystem, SystemClock, sleep_us
from respkv.env.rng import random_bytes

_POLL_US: Final = 50_000
#: Directives that this program sets itself.
OWN_DIRECTIVES: Final = frozenset((
    "port", "alternate-port", "cluster-port", "bind", "dir", "pidfile", "logfile", "daemonize", "supervised",
    "bootstrap", "cluster-size", "join", "cluster-secret", "cluster-enabled",
))  # fmt: skip


class LocalRing:
    """All nodes of a directory. ``say`` gets one line for each step."""

    def __init__(self, nodes: Sequence[LocalNode], *, say: Callable[[str], None], password: str = "") -> None:
        self.nodes = nodes
        self.directory = nodes[0].directory
        self._say = say
        self._password = password
        self._clock = SystemClock()
        self._fs = PosixFileSystem()

    @classmethod
    def create(
        cls, directory: Path, *, nodes: int | None, base_port: int | None, say: Callable[[str], None],
        password: str = "",
    ) -> LocalRing:  # fmt: skip
        """The ring of a directory, new when there is none. LocalRingError when it is there and of another kind, since
        members and addresses are decided once."""
        settings = _settings(directory)
        if settings is None:
            settings = _Settings(3 if nodes is None else nodes, 7001 if base_port is None else base_port)
            made = make_nodes(directory, nodes=settings.nodes, base_port=settings.base_port)
            directory.mkdir(parents=True, exist_ok=True)
            if not (directory / "secret").exists():
                _write_private(directory / "secret", random_bytes(32).hex() + "\n")
            settings.save(directory)
            return cls(made, say=say, password=password)
        for name, kept, given in (
            ("nodes", settings.nodes, nodes), ("base port", settings.base_port, base_port)
        ):  # fmt: skip
            if given is not None and given != kept:
                raise LocalRingError(
                    f"{directory} holds a ring with {name} {kept}, which cannot become {given}: take another directory"
                )
        made = make_nodes(directory, nodes=settings.nodes, base_port=settings.base_port)
        return cls(made, say=say, password=password)

    @classmethod
    def load(cls, directory: Path, *, say: Callable[[str], None], password: str = "") -> LocalRing:
        """The ring of a directory. LocalRingError when there is none."""
        settings = _settings(directory)
        if settings is None:
            raise LocalRingError(f"{directory} holds no ring: respkv-cluster start --dir {directory} makes one")
        made = make_nodes(directory, nodes=settings.nodes, base_port=settings.base_port)
        return cls(made, say=say, password=password)

    def reports(self) -> list[Report]:
        """Every node as it is now."""
        return [node.report(self._password) for node in self.nodes]

    def start(
        self, options: Sequence[str] | None, *, timeout_s: float, replace: bool = False, command: Sequence[str] = ()
    ) -> None:
        """Start what does not run and wait until every node sees all others. LocalRingError after what was started
        has been ended again; where the others are a ring only what can be no part of it.

        ``options`` of the servers: those kept when None; others only with ``replace``, or before there is a ring.
        ``command``: the server to run, this program's own unless told.
        """
        lock = self._lock()
        started: dict[LocalNode, subprocess.Popen[bytes]] = {}
        useless = started
        try:
            kept = self._decide_options(options, replace)
            stopped = self._to_start()
            if stopped and kept:
                self._say(f"options of the servers: {shown(kept)}")
            for node in stopped:
                # It is noted before it is told of: should nobody listen any more, it is ended with the others.
                started[node] = self._launch(node, kept, command)
                self._say(f"node {node.number}: started, pid {started[node].pid}, port {node.port}")
            lost = self._wait_formed(started, timeout_s)
            useless = {node: process for node, process in started.items() if node.number in lost}
        finally:
            for process in useless.values():
                process.terminate()
            for process in useless.values():
                process.wait()
            lock.close()
        if lost:
            raise LocalRingError(self._without(lost))

    def stop(self, *, timeout_s: float) -> None:
        """SIGTERM to every node that runs, and wait. LocalRingError names those that are still there."""
        lock = self._lock()
        try:
            waiting: dict[int, LocalNode] = {}
            try:
                for node in self.nodes:
                    self._signal(node, waiting)
                self._wait_ended(waiting, timeout_s)
            finally:
                for descriptor in waiting:
                    os.close(descriptor)
        finally:
            lock.close()

    def _lock(self) -> Any:
        lock = self._fs.lock(str(self.directory / "LOCK"))
        if lock is None:
            raise LocalRingError(f"{self.directory}: another respkv-cluster is starting or stopping nodes")
        return lock

    def _to_start(self) -> list[LocalNode]:
        """Nodes that do not run. LocalRingError when somebody else has one of their ports."""
        stopped = [node for node in self.nodes if not node.pid()]
        for node in stopped:
            for port in (node.port, node.alternate_port, node.link_port):
                with socket.socket() as sock:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    try:
                        sock.bind((HOST, port))
                    except OSError as reason:
                        raise LocalRingError(f"node {node.number}: port {port}: {reason.strerror}") from reason
        return stopped

    def _decide_options(self, given: Sequence[str] | None, replace: bool) -> Sequence[str]:
        """The options that all servers are started with; LocalRingError when those given cannot be.

        Nodes with different policies or prefixes would not be one store. Until a ring has formed there is nothing to
        disagree about, and those kept may be what keeps it from forming.
        """
        settings = _settings(self.directory)
        assert settings is not None, "a ring has them"
        kept = settings.options
        options = list(given if given is not None else kept or ())
        if kept is not None and not same(kept, options):
            if not replace and saved_ring(self.nodes) is not None:
                raise LocalRingError(
                    f"the servers of {self.directory} have the options {shown(kept) or 'none'}, not"
                    f" {shown(options) or 'none'}: leave out -- and what follows it to start them as they were, or stop"
                    " the ring and give --replace-options to replace all of them"
                )
            running = [node.number for node in self.nodes if node.pid()]
            if running:
                raise LocalRingError(
                    f"options of the servers are replaced for all of them at once, and node {running[0]} runs:"
                    f" respkv-cluster stop --dir {self.directory} first"
                )
        if kept is None or not same(kept, options):
            dataclasses.replace(settings, options=options).save(self.directory)
            return options
        return kept

    def _launch(self, node: LocalNode, extra: Sequence[str], command: Sequence[str]) -> subprocess.Popen[bytes]:
        node.path("").mkdir(exist_ok=True)
        if not node.path(".conf").exists():
            secret = (self.directory / "secret").read_text().strip()
            seed_port = self.nodes[0].link_port
            text = node.configuration(nodes=len(self.nodes), seed_port=seed_port, secret=secret)
            _write_private(node.path(".conf"), text)
        environment = dict(os.environ)
        if not command:
            # -P: not what lies in the working directory, a checkout that is not compiled, say.
            command = (sys.executable, "-P", "-m", "respkv")
            root = str(Path(__file__).resolve().parents[2])
            environment["PYTHONPATH"] = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
        words = [*command, str(node.path(".conf")), *extra]
        # A report about the configuration may quote the secret's line.
        output = os.open(node.path(".out"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            # A session of its own: Ctrl-C at the terminal is meant for this program alone.
            return subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment, start_new_session=True
            )
        finally:
            os.close(output)

    def _wait_formed(
        self, started: Mapping[LocalNode, subprocess.Popen[bytes]], timeout_s: float
    ) -> dict[int, str]:
        """Wait until all nodes that can be are a ring. Number of each other one -> why it can be no member."""
        gathering = Gathering()
        give_up_us = self._clock.monotonic_us() + int(timeout_s * 1e6)
        seen: dict[int, str] = {}
        while True:
            reports = self.reports()
            ended = {
                node.number: f"ended, status {process.returncode}:\n{node.log_tail()}"
                for node, process in started.items()
                if process.poll() is not None
            }
            verdict = gathering.judge(reports, ended)
            for node, report in zip(self.nodes, reports):
                text = describe(report, len(self.nodes)) if report.pid else STARTING
                text = gathering.lost.get(node.number, text).partition("\n")[0].removesuffix(":")
                if seen.get(node.number) != text:
                    self._say(f"node {node.number}: {text}")
                    seen[node.number] = text
            if verdict is Verdict.NO_RING:
                number, reason = next(iter(gathering.lost.items()))
                raise LocalRingError(f"node {number}: {reason}")
            if verdict is Verdict.DONE:
                return gathering.lost
            if self._clock.monotonic_us() > give_up_us:
                raise LocalRingError(f"the ring has not formed within {timeout_s:g} s; see {self.directory}/node-*.log")
            sleep_us(_POLL_US)

    def _without(self, lost: Mapping[int, str]) -> str:
        """What is to be done about nodes without which the others are a ring."""
        reasons = [f"node {number} can be no member: {reason}" for number, reason in lost.items()]
        others = ", ".join(f"node {node.number}" for node in self.nodes if node.number not in lost)
        away = ", ".join(str(self.nodes[number - 1].path("")) for number in lost)
        return "\n".join([
            *reasons,
            f"Running: {others}; respkv-cluster status --dir {self.directory} tells how the ring fares.",
            f"Put back what was in {away}, or mend what the log complains of, and start again.",
            "What is lost for good cannot be made up for in this ring: start a new one in another directory, and copy"
            " the keys to it (SCAN, DUMP, RESTORE).",
        ])  # fmt: skip

    def _signal(self, node: LocalNode, waiting: dict[int, LocalNode]) -> None:
        """SIGTERM through a descriptor of the process, so that it cannot meet another one under the same number."""
        pid = node.pid()
        if not pid:
            return
        try:
            descriptor = os.pidfd_open(pid)
        except ProcessLookupError:
            return
        waiting[descriptor] = node
        if node.pid() == pid:
            self._say(f"node {node.number}: stopping, pid {pid}")
            signal.pidfd_send_signal(descriptor, signal.SIGTERM)

    def _wait_ended(self, waiting: Mapping[int, LocalNode], timeout_s: float) -> None:
        give_up_us = self._clock.monotonic_us() + int(timeout_s * 1e6)
        left = dict(waiting)
        while left:
            remaining_s = (give_up_us - self._clock.monotonic_us()) / 1e6
            ended, _, _ = select.select(list(left), [], [], max(0.0, remaining_s))
            for descriptor in ended:
                self._say(f"node {left.pop(descriptor).number}: stopped")
            if not ended and remaining_s <= 0:
                names = ", ".join(f"node {node.number} (pid {node.pid()})" for node in left.values())
                raise LocalRingError(f"still running after {timeout_s:g} s: {names}")


@dataclass(frozen=True, slots=True)
class _Settings:
    """What ring.json says. ``options`` are None until the servers are started for the first time."""

    nodes: int
    base_port: int
    options: list[str] | None = None

    def save(self, directory: Path) -> None:
        _write_private(directory / "ring.json", json.dumps(dataclasses.asdict(self)) + "\n")


def _settings(directory: Path) -> _Settings | None:
    """None when there is no ring. LocalRingError when ring.json cannot be read."""
    path = directory / "ring.json"
    if not path.exists():
        return None
    try:
        read = json.loads(path.read_text())
        options = read.get("options")
        if options is not None and not (isinstance(options, list) and all(isinstance(word, str) for word in options)):
            raise ValueError("options are no list of words")
        return _Settings(int(read["nodes"]), int(read["base_port"]), options)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as reason:
        raise LocalRingError(f"{path}: {reason!r}") from reason


def _write_private(path: Path, text: str) -> None:
    """Write a file that only its owner may read, whole or not at all."""
    partial = path.with_name(path.name + ".tmp")
    partial.unlink(missing_ok=True)
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.write(descriptor, text.encode())
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    partial.rename(path)
