"""Rings of real processes. Nodes are numbered from 1; what they promise is tested from outside, by clients."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.integration.conftest import ServerProcess

FORM_S = 30.0
SECRET = "a secret that all nodes of the tests know"
#: Of the first message that a dialer sends, its node id.
_HELLO_NODE_ID = slice(35, 51)
_HELLO_BYTES = 51


#: Ports given out: a node takes its own only when it starts, and must not find it with another one.
_given: dict[int, None] = {}


def low_port() -> int:
    """A free port below those that the kernel gives to outgoing connections: a node that is away keeps it."""
    while True:
        port = random.randrange(10_000, 20_000)
        if port in _given:
            continue
        with socket.socket() as sock:
            try:
                sock.bind(("127.0.0.1", port))
            except OSError:
                continue
            _given[port] = None
            return port


class Network:
    """All links between nodes, through this process, so that they can be cut without the nodes' knowing.

    Each node announces a door of this network and listens elsewhere. Who dials is read from its first message. A cut
    link carries nothing in either direction and ends nothing: bytes wait, as they do in TCP while packets are lost.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._cut: set[frozenset[int]] = set()
        self._number_of: dict[bytes, int] = {}
        self._sockets: list[socket.socket] = []
        self._closed = False

    def open_door(self, number: int, port: int) -> int:
        """A port that leads to a node's ``port``."""
        listener = socket.create_server(("127.0.0.1", low_port()))
        self._sockets.append(listener)
        threading.Thread(target=self._accept, args=(listener, number, port), daemon=True).start()
        door: int = listener.getsockname()[1]
        return door

    def knows(self, node_id: str, number: int) -> None:
        """Tell whose id this is, as CLUSTER MYID gives it."""
        self._number_of[bytes.fromhex(node_id)[:16]] = number

    def isolate(self, number: int, others: list[int]) -> None:
        """Cut a node off from others."""
        with self._changed:
            self._cut |= {frozenset((number, other)) for other in others}

    def heal(self) -> None:
        """Let everything through again, and what has waited first."""
        with self._changed:
            self._cut.clear()
            self._changed.notify_all()

    def close(self) -> None:
        """End all links."""
        with self._changed:
            self._closed = True
            self._cut.clear()
            self._changed.notify_all()
            sockets, self._sockets = self._sockets, []
        for sock in sockets:
            _shut(sock)
            sock.close()

    def _accept(self, listener: socket.socket, number: int, port: int) -> None:
        while True:
            try:
                dialer, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(dialer, number, port), daemon=True).start()

    def _serve(self, dialer: socket.socket, number: int, port: int) -> None:
        hello = b""
        try:
            while len(hello) < _HELLO_BYTES:
                data = dialer.recv(4096)
                if not data:
                    raise ConnectionError("no HELLO")
                hello += data
            ends = (hello[_HELLO_NODE_ID], number)
            self._wait_open(ends)
            target = socket.create_connection(("127.0.0.1", port), timeout=5)
            target.settimeout(None)
            target.sendall(hello)
        except OSError:
            dialer.close()
            return
        with self._changed:
            self._sockets += [dialer, target]
        threading.Thread(target=self._pump, args=(dialer, target, ends), daemon=True).start()
        self._pump(target, dialer, ends)

    def _pump(self, source: socket.socket, sink: socket.socket, ends: tuple[bytes, int]) -> None:
        try:
            while data := source.recv(1 << 16):
                self._wait_open(ends)
                sink.sendall(data)
            self._wait_open(ends)
        except OSError:
            pass
        _shut(source)
        _shut(sink)

    def _wait_open(self, ends: tuple[bytes, int]) -> None:
        """Wait while the link is cut. Whose the dialer's id is may become known after the link has come up."""
        dialer, number = ends
        with self._changed:
            self._changed.wait_for(lambda: frozenset((self._number_of.get(dialer, 0), number)) not in self._cut)


def _shut(sock: socket.socket) -> None:
    try:
        sock.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass


class Ring:
    """The processes of one ring. ``nodes[number]`` is a ServerProcess with the plain face at its port."""

    def __init__(
        self, directory: Path, *, nodes: int = 3, network: Network | None = None, **directives: object
    ) -> None:
        self.directory = directory
        self.network = network
        self.faces: dict[int, int] = {}
        self.seed = ""
        self.nodes = {number: self.node(number, nodes, **directives) for number in range(1, nodes + 1)}

    def node(self, number: int, size: int, **directives: object) -> ServerProcess:
        """A node of this ring that is not started; the first one founds it."""
        data = self.directory / f"node-{number}"
        data.mkdir()
        self.faces[number], links = low_port(), low_port()
        if self.network is not None:
            directives["cluster_announce_bus_port"] = self.network.open_door(number, links)
        if number == 1:
            self.seed = f"127.0.0.1:{directives.get('cluster_announce_bus_port', links)}"
        role: dict[str, object] = {"bootstrap": "yes", "cluster_size": size} if number == 1 else {"join": self.seed}
        settings = {"cluster_secret": SECRET, **role, **directives}
        return ServerProcess(
            data, port=low_port(), alternate_port=self.faces[number], cluster_port=links, **settings
        )

    def start(self) -> Ring:
        """Start all nodes and wait until they are one ring."""
        for node in self.nodes.values():
            node.launch()
        for node in self.nodes.values():
            node.wait_ready()
        self.wait_whole()
        if self.network is not None:
            for number in self.nodes:
                with self.face(number) as client:
                    self.network.knows(client.execute_command("CLUSTER MYID").decode(), number)
        return self

    def end(self) -> None:
        """Stop all; AssertionError when one leaves a trace of a bug."""
        if self.network is not None:
            self.network.heal()
        with contextlib.ExitStack() as stack:
            if self.network is not None:
                stack.callback(self.network.close)
            for node in self.nodes.values():
                if node.process is not None and node.process.poll() is None:
                    node.signal(signal.SIGTERM)
            for node in self.nodes.values():
                # Each is ended, also when another one has left a trace of a bug.
                stack.callback(node.end)

    def client(self, number: int, *, level: str = "", **options: Any) -> redis.Redis:
        """A client of a node's plain face with one connection, and a level of its own when one is named."""
        name = f"test;level={level}" if level else None
        return self.nodes[number].client(client_name=name, single_connection_client=True, **options)

    def face(self, number: int, **options: Any) -> redis.Redis:
        """A client of a node's cluster face with one connection."""
        no_retry = Retry(NoBackoff(), 0)
        settings = {"retry": no_retry, "socket_timeout": 30, "protocol": 2, "single_connection_client": True, **options}
        return redis.Redis("127.0.0.1", self.faces[number], **settings)

    def live(self, number: int) -> int:
        """How many members a node can work with, itself included: alive and linked; 0 when it does not say."""
        try:
            with self.client(number, socket_timeout=2) as client:
                row = client.execute_command("RKV.STATUS")
                return int(fact(row, b"members_live")) if fact(row, b"formed") == b"yes" else 0
        except (redis.RedisError, OSError):
            return 0

    def wait_whole(self, numbers: list[int] | None = None) -> None:
        """Wait until each of the nodes sees all of them, and nobody else, alive."""
        wanted = numbers or list(self.nodes)
        wait_until(lambda: all(self.live(number) == len(wanted) for number in wanted), FORM_S, self.report)

    def report(self) -> str:
        """What all nodes have logged, and what they say of themselves if they speak at all."""
        said = []
        for number, node in self.nodes.items():
            try:
                with self.client(number, socket_timeout=2) as client:
                    status = repr(client.execute_command("RKV.STATUS"))
            except (redis.RedisError, OSError) as error:
                status = repr(error)
            said.append(f"node {number}:\n{node.report()}\n{status}")
        return "\n".join(said)

    def status(self, number: int) -> dict[bytes, Any]:
        """RKV.STATUS."""
        with self.client(number) as client:
            row = client.execute_command("RKV.STATUS")
            return dict(zip(row[::2], row[1::2]))

    def hints(self, number: int) -> int:
        """Writes that a node keeps for others."""
        with self.client(number) as client:
            return sum(int(fact(row, b"hints-pending")) for row in client.execute_command("RKV.NODES"))

    def contents(self, number: int, keys: list[str]) -> list[Any]:
        """What a node itself holds of the keys: with as many replicas as nodes, EVENTUAL reads only the local copy."""
        with self.client(number, level="eventual") as client:
            return [client.get(key) for key in keys]


def fact(row: list[Any], name: bytes) -> Any:
    """A field of a map that came as a flat array."""
    return dict(zip(row[::2], row[1::2]))[name]


def wait_until(met: Callable[[], bool], patience_s: float, report: Callable[[], str] = lambda: "") -> float:
    """Wait for a condition; seconds it took. AssertionError with a report when it does not come."""
    began = time.monotonic()
    while not met():
        assert time.monotonic() - began < patience_s, f"not within {patience_s:g} s. {report()}"
        time.sleep(0.02)
    return time.monotonic() - began


@pytest.fixture(scope="session")
def ring() -> Iterator[Ring]:
    """One ring of three for all tests that only talk to it."""
    yield from running_ring()


def running_ring(**options: Any) -> Iterator[Ring]:
    """A ring in a directory of its own, ended and removed afterwards."""
    with tempfile.TemporaryDirectory(prefix="respkv-ring-", ignore_cleanup_errors=True) as directory:
        made = Ring(Path(directory), **options)
        try:
            yield made.start()
        finally:
            made.end()


#: The longer version of a test that waits: RESPKV_ABSENCE_S=30 is what the promises are about.
ABSENCE_S = float(os.environ.get("RESPKV_ABSENCE_S", "3"))
