"""Whole clusters started for a measurement: a ring of respkv, a Redis Cluster, and one respkv alone beside them.

Each lives on loopback ports below the range from which the kernel gives ports away, in a directory of its own that is
removed with it. Figures of a cluster are sums over all its processes, workers and replicas included.
"""

from __future__ import annotations

import shlex
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from compat.load.connection import Connection, ServerError, parse_info
from compat.load.servers import HOST, IDLE_CPU_SHARE, LoadError, Server, process_cpu_s, tell_uncompiled, tree
from respkv.cli.local_node import ALTERNATE_STEP, LocalRingError, make_nodes
from respkv.cli.local_ring import LocalRing

START_S: Final = 60.0
#: Members of a ring ask after each other and compare what they hold all the time.
_RING_IDLE_CPU_SHARE: Final = 0.1
_FIRST_PORT: Final = 20_000
_LAST_PORT: Final = 22_000
_STEP: Final = 2 * ALTERNATE_STEP + 10


def is_free(port: int) -> bool:
    """Nobody listens on a loopback port."""
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((HOST, port))
        except OSError:
            return False
    return True


def free_base(ports_of: Callable[[int], Sequence[int]]) -> int:
    """The first base whose ports are all free. LoadError when there is none."""
    for base in range(_FIRST_PORT, _LAST_PORT, _STEP):
        if all(is_free(port) for port in ports_of(base)):
            return base
    raise LoadError(f"no free ports between {_FIRST_PORT} and {_LAST_PORT}")


class Cluster:
    """What a comparison needs to know. ``ports`` are those whose nodes own slots, for clients that know clusters;
    ``plain_ports`` those that take any command, empty when there are none; ``idle_cpu_share`` is how much of a core a
    node may use that has nothing to do."""

    idle_cpu_share = IDLE_CPU_SHARE

    def __init__(self, name: str) -> None:
        self.name = name
        self.ports: list[int] = []
        self.plain_ports: list[int] = []

    def pids(self) -> list[int]:
        """The main process of each node. LoadError when one has ended."""
        raise LoadError(f"{self.name} is of no kind")

    def cpu_s(self) -> float:
        """Processor seconds of all processes so far."""
        return sum(sum(process_cpu_s(pid)) for main in self.pids() for pid in tree(main))

    def wait_idle(self, timeout_s: float) -> bool:
        """Wait until each node uses almost no processor; False when that does not come."""
        allowed = self.idle_cpu_share * len(self.pids())
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            before, began = self.cpu_s(), time.monotonic()
            time.sleep(0.5)
            if (self.cpu_s() - before) / (time.monotonic() - began) <= allowed:
                return True
        return False

    def call_all(self, *words: str) -> None:
        """One command to every node. ServerError when one refuses it."""
        for port in self.plain_ports or self.ports:
            with Connection(port, timeout_s=10) as connection:
                connection.call(*words)

    def error_replies(self) -> int:
        """Error replies that all nodes have given, by their own count."""
        total = 0
        for port in self.plain_ports or self.ports:
            with Connection(port, timeout_s=10) as connection:
                total += int(connection.info("stats")["total_error_replies"])
        return total


class RespkvRing(Cluster):
    """A ring of equals with both faces."""

    idle_cpu_share = _RING_IDLE_CPU_SHARE

    def __init__(self, *, nodes: int, command: str, options: Sequence[str]) -> None:
        super().__init__("respkv")
        self._dir = Path(tempfile.mkdtemp(prefix="load-ring-"))
        try:
            base = free_base(lambda base: _ring_ports(nodes, base))
            self._ring = LocalRing.create(self._dir, nodes=nodes, base_port=base, say=_say_nothing)
            self._ring.start(options, timeout_s=START_S, command=shlex.split(command))
        except LocalRingError as reason:
            shutil.rmtree(self._dir, ignore_errors=True)
            raise LoadError(f"the ring does not start: {reason}") from reason
        self.ports = [node.alternate_port for node in self._ring.nodes]
        self.plain_ports = [node.port for node in self._ring.nodes]
        tell_uncompiled("the ring", self.plain_ports[0])

    def pids(self) -> list[int]:
        pids = [node.pid() for node in self._ring.nodes]
        if 0 in pids:
            node = self._ring.nodes[pids.index(0)]
            raise LoadError(f"node {node.number} of respkv has died:\n{node.log_tail()}")
        return pids

    def remove(self) -> None:
        """Stop all nodes and remove the directory."""
        try:
            self._ring.stop(timeout_s=START_S)
        finally:
            shutil.rmtree(self._dir, ignore_errors=True)


def _say_nothing(text: str) -> None:
    del text


def _ring_ports(nodes: int, base: int) -> list[int]:
    return [p for node in make_nodes(Path(), nodes=nodes, base_port=base)
            for p in (node.port, node.alternate_port, node.link_port)]  # fmt: skip


class RedisCluster(Cluster):
    """Masters with one replica each, made by redis-cli."""

    def __init__(self, *, masters: int, command: str, options: Sequence[str]) -> None:
        super().__init__("redis")
        count = 2 * masters
        base = free_base(lambda base: [p for at in range(count) for p in (base + at, base + 10_000 + at)])
        self._servers: list[Server] = []
        try:
            for at in range(count):
                server = Server(f"redis-{at}", command, ["--cluster-enabled", "yes", *options])
                server.port = base + at
                self._servers.append(server)
                server.start()
            self._create(masters)
        except (LoadError, ServerError, OSError):
            self.remove()
            raise

    def _create(self, masters: int) -> None:
        nodes = [f"{HOST}:{server.port}" for server in self._servers]
        words = ["redis-cli", "--cluster", "create", *nodes, "--cluster-replicas", "1", "--cluster-yes"]
        try:
            done = subprocess.run(words, capture_output=True, text=True, timeout=START_S)
        except FileNotFoundError:
            raise LoadError("not found on PATH: redis-cli") from None
        except subprocess.TimeoutExpired:
            raise LoadError(f"redis-cli --cluster create is not done after {START_S:.0f} s") from None
        if done.returncode:
            raise LoadError(f"redis-cli --cluster create ended with {done.returncode}: {done.stdout[-500:]}")
        deadline = time.monotonic() + START_S
        while len(roles := self._roles()) < len(self._servers) or roles.count("slave") != masters:
            if time.monotonic() > deadline:
                raise LoadError(f"the Redis Cluster is not whole: {roles}")
            time.sleep(0.2)
        self.ports = [server.port for server, role in zip(self._servers, roles) if role == "master"]

    def _roles(self) -> list[str]:
        """Roles of the nodes that are ready: the cluster is well, a replica has its link."""
        roles = []
        for server in self._servers:
            with server.connect() as connection:
                replication = connection.info("replication")
                well = parse_info(connection.call("CLUSTER", "INFO").decode())["cluster_state"] == "ok"
            if well and replication.get("master_link_status", "up") == "up":
                roles.append(replication["role"])
        return roles

    def pids(self) -> list[int]:
        for server in self._servers:
            server.check_alive()
        return [server.pid for server in self._servers]

    def remove(self) -> None:
        """Stop all nodes and remove their directories."""
        for server in self._servers:
            server.remove()


class SingleNode(Cluster):
    """One respkv that is no member of a ring: what replication costs is measured against it."""

    def __init__(self, *, command: str, options: Sequence[str]) -> None:
        super().__init__("single")
        self._server = Server("single", command, list(options))
        try:
            self._server.start()
        except LoadError:
            self.remove()
            raise
        self.plain_ports = [self._server.port]

    def pids(self) -> list[int]:
        self._server.check_alive()
        return [self._server.pid]

    def remove(self) -> None:
        """Stop it and remove its directory."""
        self._server.remove()


@contextmanager
def all_removed(clusters: dict[str, RespkvRing | RedisCluster | SingleNode]) -> Iterator[None]:
    """Remove whatever is in the dict at the end, also when one cannot be removed."""
    try:
        yield
    finally:
        problems = []
        for cluster in clusters.values():
            try:
                cluster.remove()
            except (LoadError, LocalRingError, OSError) as reason:
                problems.append(str(reason))
        if problems:
            raise LoadError("; ".join(problems))
