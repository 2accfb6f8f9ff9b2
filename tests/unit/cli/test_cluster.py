"""respkv-cluster: what it keeps in its directory, what it refuses, and whom it may signal."""

from __future__ import annotations

import itertools
import os
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import respkv
from respkv.cli import cluster
from respkv.cli.local_node import LocalNode, LocalRingError, Report, describe, make_nodes
from respkv.cli.local_ring import LocalRing
from respkv.config.syntax import split_words


def silent(text: str) -> None:
    del text


def new_ring(directory: Path, *, nodes: int = 2, base_port: int = 7001) -> LocalRing:
    return LocalRing.create(directory, nodes=nodes, base_port=base_port, say=silent)


@pytest.mark.parametrize(("nodes", "base_port"), [(1, 1), (3, 7001), (100, 7001), (100, 55_400), (100, 65_236)])
def test_ports_do_not_meet(nodes: int, base_port: int) -> None:
    made = make_nodes(Path("/r"), nodes=nodes, base_port=base_port)
    ports = [port for node in made for port in (node.port, node.alternate_port, node.link_port)]
    assert len(set(ports)) == 3 * nodes and max(ports) <= 65_535
    assert made[0].port == base_port and made[-1].number == nodes


@pytest.mark.parametrize(("nodes", "base_port"), [(0, 7001), (101, 7001), (3, 0), (3, 65_400), (100, 65_237)])
def test_rings_that_cannot_be(nodes: int, base_port: int) -> None:
    with pytest.raises(LocalRingError, match=r"ring has 1 to 100|no room"):
        make_nodes(Path("/r"), nodes=nodes, base_port=base_port)


def test_the_directory_knows_its_ring(tmp_path: Path) -> None:
    directory = tmp_path / "ring"
    with pytest.raises(LocalRingError, match="holds no ring"):
        LocalRing.load(directory, say=silent)
    made = new_ring(directory)
    secret = (directory / "secret").read_text()
    assert len(secret.strip()) == 64
    assert stat.S_IMODE(os.stat(directory / "secret").st_mode) == 0o600
    again = LocalRing.create(directory, nodes=None, base_port=None, say=silent)
    assert again.nodes == made.nodes == LocalRing.load(directory, say=silent).nodes
    assert (directory / "secret").read_text() == secret
    for nodes, base_port, reason in ((3, None, "nodes 2"), (None, 7002, "base port 7001")):
        with pytest.raises(LocalRingError, match=reason):
            LocalRing.create(directory, nodes=nodes, base_port=base_port, say=silent)


@pytest.mark.parametrize("text", ["", "[]", '{"nodes": 3}', '{"nodes": "x", "base_port": 1}'])
def test_a_damaged_description(tmp_path: Path, text: str) -> None:
    (tmp_path / "ring.json").write_text(text)
    with pytest.raises(LocalRingError, match=r"ring\.json"):
        LocalRing.load(tmp_path, say=silent)


def test_configurations(tmp_path: Path) -> None:
    nodes = make_nodes(tmp_path / 'a "b"', nodes=2, base_port=7001)
    first, second = (
        {words[0]: words[1:] for line in node.configuration(nodes=2, seed_port=17_001, secret="s3").splitlines()
         if (words := split_words(line))}
        for node in nodes
    )  # fmt: skip
    assert first["bootstrap"] == ["yes"] and first["cluster-size"] == ["2"] and "join" not in first
    assert second["join"] == ["127.0.0.1:17001"] and "bootstrap" not in second
    assert first["dir"] == [str(tmp_path / 'a "b"' / "node-1")] and second["cluster-secret"] == ["s3"]
    assert (second["port"], second["alternate-port"], second["cluster-port"]) == (["7002"], ["7102"], ["17002"])


def test_options_behind_two_dashes() -> None:
    assert cluster.server_options(["--appendfsync", "always"]) == ["--appendfsync", "always"]
    for words in (["--port", "1"], ["--Dir", "/x"], ["--cluster-secret x"], ["file.conf"]):
        with pytest.raises(LocalRingError, match=r"by respkv-cluster itself|no option"):
            cluster.server_options(words)


@pytest.mark.parametrize("word", ["-v", "--version"])
def test_its_version(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        cluster.main([word])
    assert capsys.readouterr() == (f"respkv-cluster {respkv.__version__}\n", "")


def test_help_of_start_tells_of_the_servers_options(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        cluster.main(["start", "-h"])
    usage, _, rest = capsys.readouterr().out.partition("\n\n")
    assert usage.startswith("usage: respkv-cluster start [-h] --dir DIR")
    assert usage.endswith("[-- options of the servers]")
    assert "respkv-cluster start --dir DIR -- --appendfsync always" in " ".join(rest.split())


def test_what_cannot_be_done_is_said_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cluster.main(["stop", "--dir", str(tmp_path)]) == 1
    assert cluster.main(["start", "--dir", str(tmp_path), "--nodes", "0"]) == 1
    assert cluster.main(["start", "--dir", str(tmp_path), "--", "--port", "1"]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3 and all(line.startswith("respkv-cluster: ") for line in lines)
    assert not (tmp_path / "ring.json").exists()


def test_a_port_of_somebody_else(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ring = new_ring(tmp_path, nodes=1, base_port=port - 100)
        with pytest.raises(LocalRingError, match=f"node 1: port {port}: Address already in use"):
            ring.start([], timeout_s=1)
    assert not list(tmp_path.glob("node-*"))


def test_nothing_stays_behind_when_nobody_listens(tmp_path: Path) -> None:
    """As with ``respkv-cluster start | head -1``."""
    pids: list[int] = []

    def gone(text: str) -> None:
        if "started, pid " in text:
            pids.append(int(text.split("pid ")[1].split(",")[0]))
        raise BrokenPipeError

    with socket.create_server(("127.0.0.1", 0)) as found:
        port = found.getsockname()[1]
    ring = LocalRing.create(tmp_path, nodes=1, base_port=port - 10_000, say=gone)
    with pytest.raises(BrokenPipeError):
        ring.start([], timeout_s=1, command=[sys.executable, "-c", "import signal; signal.pause()"])
    assert len(pids) == 1
    with pytest.raises(ProcessLookupError):
        os.kill(pids[0], 0)


def test_two_at_once(tmp_path: Path) -> None:
    ring = new_ring(tmp_path)
    lock = ring._lock()
    try:
        with pytest.raises(LocalRingError, match="another respkv-cluster"):
            ring.stop(timeout_s=1)
    finally:
        lock.close()
    ring.stop(timeout_s=1)


@pytest.fixture
def sleeper(tmp_path: Path) -> Iterator[LocalNode]:
    """A process that looks like node 1 of a ring of two, and its pid file; it ends at SIGTERM."""
    node = new_ring(tmp_path).nodes[0]
    code = "import signal, sys; print(flush=True); signal.pause()"
    with subprocess.Popen([sys.executable, "-c", code, str(node.path(".conf"))], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline()
        node.path(".pid").write_text(f"{process.pid}\n")
        try:
            yield node
        finally:
            process.kill()


def test_stop_ends_who_is_a_node(sleeper: LocalNode) -> None:
    said: list[str] = []
    pid = sleeper.pid()
    assert pid
    LocalRing.load(sleeper.directory, say=said.append).stop(timeout_s=10)
    assert said == [f"node 1: stopping, pid {pid}", "node 1: stopped"]
    assert sleeper.pid() == 0


def test_a_pid_file_of_another_process(sleeper: LocalNode) -> None:
    sleeper.path(".pid").write_text(f"{os.getpid()}\n")
    assert sleeper.pid() == 0
    LocalRing.load(sleeper.directory, say=silent).stop(timeout_s=1)
    for text in ("", "x", "999999999"):
        sleeper.path(".pid").write_text(text)
        assert sleeper.pid() == 0


def test_who_does_not_stop_is_named(tmp_path: Path) -> None:
    node = new_ring(tmp_path).nodes[1]
    code = "import signal; signal.signal(15, signal.SIG_IGN); print(flush=True); signal.pause()"
    with subprocess.Popen([sys.executable, "-c", code, str(node.path(".conf"))], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline()
        node.path(".pid").write_text(str(process.pid))
        try:
            with pytest.raises(LocalRingError, match=rf"still running after 0.01 s: node 2 \(pid {process.pid}\)"):
                LocalRing.load(tmp_path, say=silent).stop(timeout_s=0.01)
        finally:
            process.kill()


class FakeFace:
    """Answers one connection after the other with what is next in a script, a reply for each command."""

    def __init__(self, *replies: bytes) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, args=(replies,), daemon=True)
        self._thread.start()

    def _serve(self, replies: tuple[bytes, ...]) -> None:
        with self._listener:
            peer, _ = self._listener.accept()
            with peer:
                for reply in replies:
                    if not peer.recv(65_536):
                        return
                    peer.sendall(reply)
                peer.recv(65_536)


def bulk(text: str) -> bytes:
    return b"$%d\r\n%b\r\n" % (len(text), text.encode())


STATUS = b"*10\r\n" + bulk("status") + bulk("member") + bulk("members_live") + b":1\r\n" + b"".join(
    bulk(f"slots_{name}") + b":%d\r\n" % count for name, count in (("ok", 16000), ("pfail", 0), ("fail", 384))
)
#: What one says that is no member: of nobody's number.
OUTSIDE = b"*4\r\n" + bulk("status") + bulk("why") + bulk("members_live") + b":0\r\n"
HINTS = b"*2\r\n" + b"".join(
    b"*6\r\n" + bulk("short") + b":%d\r\n" % short + bulk("state") + bulk(state) + bulk("hints-pending") + count
    for short, state, count in ((1, "alive", b":0\r\n"), (2, "suspect", b":7\r\n"))
)


def reported(sleeper: LocalNode, plain: FakeFace, other: FakeFace) -> Report:
    return LocalNode(1, sleeper.directory, plain.port, other.port, 1).report("")


def test_a_node_that_is_up(sleeper: LocalNode) -> None:
    report = reported(sleeper, FakeFace(b"+PONG\r\n", STATUS, HINTS), FakeFace(b":12\r\n"))
    assert report == Report(
        sleeper.pid(), "ready", live=1, keys=12, hints=7, ring="member", slots=(16000, 0, 384),
        beliefs={1: "alive", 2: "suspect"},
    )  # fmt: skip
    assert describe(report, 2) == "ready, sees 1 of 2"


@pytest.mark.parametrize(
    ("replies", "state"),
    [
        ((b"-LOADING x\r\n", OUTSIDE), "forming"), ((b"-CLUSTERDOWN x\r\n", OUTSIDE), "refused"),
        ((b"-LOADING x\r\n",), "silent"), ((b"-NOAUTH x\r\n",), "NOAUTH x"), ((), "silent"), ((b"?\r\n",), "silent"),
    ],
)  # fmt: skip
def test_a_node_that_is_not_ready(sleeper: LocalNode, replies: tuple[bytes, ...], state: str) -> None:
    report = reported(sleeper, FakeFace(*replies), FakeFace())
    assert (report.state, report.live, report.keys) == (state, None, None)
    assert report.ring == ("why" if OUTSIDE in replies else "")


def test_the_table_is_aligned(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    new_ring(tmp_path)
    assert cluster.main(["status", "--dir", str(tmp_path)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["node", "pid", "plain", "cluster", "links", "state", "keys", "hints"]
    assert lines[1].split() == ["1", "-", "7001", "7101", "17001", "stopped", "-", "-"]
    assert all(len(a) == len(b) for a, b in itertools.pairwise(lines))


def test_the_ring_in_words() -> None:
    told = Report(1, "ready", 3, 7, 0, "member of cluster x", (16384, 0, 0))
    assert cluster.summary([Report(), told, told], (16384, 0, 0)) == [
        "member of cluster x", "14 keys at the nodes that answer; all 16384 slots are ok",
    ]  # fmt: skip
    torn = Report(1, "ready", 1, 7, 0, "member of cluster x", (16384, 0, 0))
    slots = "slots: 0 ok, 384 in danger, 16000 without a majority of their replicas"
    assert cluster.summary([torn], (0, 384, 16000))[1] == f"7 keys; {slots}"
    assert cluster.summary([Report(), Report(5, "starting")], None) == []
    outside = [Report(5, "forming", ring="waiting for 1 more"), Report(6, "refused", ring="refused: no data")]
    assert cluster.summary([Report(), *outside], None) == ["node 2: waiting for 1 more", "node 3: refused: no data"]
