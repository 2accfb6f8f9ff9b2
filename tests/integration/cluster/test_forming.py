"""How a ring comes to be, who may be part of it, and what a node finds again in its directory."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis

import respkv
from compat.load.clusters import is_free
from tests.integration.cluster.conftest import FORM_S, SECRET, Ring, fact, low_port, running_ring, wait_until
from tests.integration.conftest import ServerProcess, run_server

#: How long somebody who must not get in is watched.
WATCH_S = 1.5


@pytest.fixture(scope="module")
def formed() -> Iterator[Ring]:
    """A ring whose nodes are stopped and started. Each test leaves it whole."""
    yield from running_ring()


def identity(ring: Ring, number: int) -> tuple[bytes, bytes]:
    """What a node must find again: its own id, and the ring's with its epoch, as it tells people."""
    with ring.face(number) as face:
        return face.execute_command("CLUSTER MYID"), ring.status(number)[b"status"]


def refusal(node: ServerProcess) -> str:
    """Why a node does not serve: LOADING while it may become a member, CLUSTERDOWN once it cannot; "" when it does."""
    with node.client() as client:
        try:
            client.get("k")
        except (redis.BusyLoadingError, redis.ResponseError) as error:
            return f"{type(error).__name__}: {error}"
    return ""


def loading(node: ServerProcess) -> bool:
    """True when a node says that it does not serve yet."""
    return refusal(node).startswith("BusyLoadingError")


def assert_kept_out(ring: Ring, stranger: ServerProcess) -> None:
    """It never serves, and nobody else minds."""
    give_up = time.monotonic() + WATCH_S
    while time.monotonic() < give_up and stranger.process is not None and stranger.process.poll() is None:
        assert refusal(stranger)
        time.sleep(0.1)
    ring.wait_whole()
    with ring.client(1) as client:
        assert client.set("k", "v") and client.get("k") == b"v"
        assert len(client.execute_command("RKV.NODES")) == len(ring.nodes)


def test_until_all_are_there_clients_are_told_to_wait(tmp_path: Path) -> None:
    ring = Ring(tmp_path)
    try:
        for number in (1, 2):
            ring.nodes[number].start()
        time.sleep(0.3)
        for number in (1, 2):
            assert loading(ring.nodes[number])
            with ring.client(number) as client:
                assert client.info("persistence")["loading"] == 1
                row = client.execute_command("RKV.STATUS")
                assert fact(row, b"formed") == b"no"
                with pytest.raises(redis.BusyLoadingError, match="not formed yet"):
                    client.execute_command("RKV.RING")
        with ring.client(1) as client:
            assert b"1 more of 3" in fact(client.execute_command("RKV.STATUS"), b"status")
        ring.nodes[3].start()
        ring.wait_whole()
        with ring.client(3) as client:
            assert client.set("k", "v")
        assert len({identity(ring, number)[1] for number in ring.nodes}) == 1
        assert len({identity(ring, number)[0] for number in ring.nodes}) == 3
    finally:
        ring.end()


@pytest.mark.parametrize("how", ["stop", "kill"])
@pytest.mark.parametrize("number", [1, 3])
def test_a_node_that_comes_back_is_who_it_was(formed: Ring, number: int, how: str) -> None:
    """The founder as well: it does not found another one."""
    before = identity(formed, number)
    with formed.client(number, level="all") as client:
        client.set("kept", f"{number}-{how}")
    if how == "stop":
        assert formed.nodes[number].stop() == 0
    else:
        formed.nodes[number].kill()
    formed.nodes[number].start()
    formed.wait_whole()
    assert identity(formed, number) == before
    assert formed.contents(number, ["kept"]) == [f"{number}-{how}".encode()]


def test_all_at_once(formed: Ring) -> None:
    """A ring that was stopped as a whole starts as a whole."""
    before = [identity(formed, number) for number in formed.nodes]
    with formed.client(2) as client:
        client.set("kept", "by all")
    for node in formed.nodes.values():
        node.stop()
    for node in formed.nodes.values():
        node.start()
    formed.wait_whole()
    assert [identity(formed, number) for number in formed.nodes] == before
    with formed.client(3) as client:
        assert client.get("kept") == b"by all"


def test_who_comes_later_is_refused_with_the_reason(formed: Ring) -> None:
    fourth = formed.node(4, 3).start()
    try:
        wait_until(lambda: "refused" in fourth.log_text().lower(), FORM_S, fourth.report)
        # No use in waiting: clients are told so, and why.
        assert "will not become one" in refusal(fourth) and "the cluster is complete" in refusal(fourth)
        assert_kept_out(formed, fourth)
        if fourth.process is not None and fourth.process.poll() is None:
            with fourth.client() as client:
                assert b"refused" in fact(client.execute_command("RKV.STATUS"), b"status")
    finally:
        fourth.end()
        shutil.rmtree(fourth.dir)


def test_another_secret_does_not_get_in(formed: Ring) -> None:
    stranger = formed.node(5, 3, cluster_secret=SECRET + "!").start()
    try:
        wait_until(lambda: "secret" in stranger.log_text(), FORM_S, stranger.report)
        assert_kept_out(formed, stranger)
    finally:
        stranger.end()
        shutil.rmtree(stranger.dir)


@contextmanager
def set_aside(formed: Ring, value: str) -> Iterator[Path]:
    """The third node is stopped and its directory empty; yields where its files are. In the end the others still serve,
    and it has its files back and learns ``value``."""
    node = formed.nodes[3]
    node.stop()
    aside = Path(f"{node.dir}.aside")
    shutil.move(node.dir, aside)
    os.mkdir(node.dir)
    try:
        yield aside
        with formed.client(1) as client:
            assert client.set("k", value) and client.get("k") == value.encode()
    finally:
        node.end()
        shutil.rmtree(node.dir)
        shutil.move(aside, node.dir)
        node.start()
        formed.wait_whole()
    with formed.client(3) as client:
        assert client.get("k") == value.encode()


def test_a_node_that_lost_its_directory_is_not_taken_for_the_old_one(formed: Ring) -> None:
    """It has lost what it acknowledged: it must not answer for it, at its old address and ports."""
    node = formed.nodes[3]
    with set_aside(formed, "without it"):
        node.start()
        wait_until(lambda: "refused" in node.log_text().lower(), FORM_S, node.report)
        assert "will not become one" in refusal(node)


@pytest.mark.parametrize(
    "kept", [("IDENTITY",), ("IDENTITY", "INCARNATION"), ("IDENTITY", "INCARNATION", "CLUSTER")]
)
def test_a_node_without_its_data_is_not_taken_for_the_old_one(formed: Ring, kept: tuple[str, ...]) -> None:
    """The same id, and nothing of what it has acknowledged: it is kept out, and the others go on."""
    node = formed.nodes[3]
    with set_aside(formed, "alone") as aside:
        for name in kept:
            shutil.copy(aside / name, node.dir)
        if "CLUSTER" in kept:
            with pytest.raises(AssertionError, match=r"(?s)it ended with 1.*its data are gone"):
                node.start()
        else:
            node.start()
            wait_until(lambda: "will not become one" in refusal(node), FORM_S, node.report)
            assert "has lost its ring; it is not taken in without data" in refusal(node)


def test_addresses_do_not_change(formed: Ring) -> None:
    node = formed.nodes[2]
    node.stop()
    old = node.directives["alternate-port"]
    node.directives["alternate-port"] = low_port()
    try:
        done = run_server(*node.command()[3:])
        assert done.returncode == 1
        assert "addresses cannot change after the cluster has formed" in node.report() + done.stdout + done.stderr
    finally:
        node.directives["alternate-port"] = old
        node.start()
        formed.wait_whole()


@pytest.mark.parametrize("role", [["--bootstrap", "yes", "--cluster-size", "1"], ["--join", "127.0.0.1:1"]])
def test_data_of_a_single_node_is_not_taken_over(
    start_server: Callable[..., ServerProcess], role: list[str]
) -> None:
    server = start_server()
    with server.client() as client:
        client.set("k", "v")
    server.stop()
    done = run_server("--dir", server.dir, "--port", str(server.port), *role)
    assert done.returncode == 1 and "needs an empty directory" in done.stdout + done.stderr
    server.start()
    with server.client() as client:
        assert client.get("k") == b"v"


def test_contradictions_are_refused(tmp_path: Path) -> None:
    for words, reason in (
        (["--bootstrap", "yes", "--cluster-size", "3", "--join", "127.0.0.1:1"], "exclude each other"),
        (["--bootstrap", "yes"], "cluster-size"),
        (["--cluster-size", "3"], "neither bootstrap nor join"),
    ):
        done = run_server("--dir", str(tmp_path), "--port", str(low_port()), *words)
        assert done.returncode == 1 and reason in done.stdout + done.stderr


def test_a_ring_of_one(tmp_path: Path) -> None:
    ring = Ring(tmp_path, nodes=1)
    try:
        ring.start()
        with ring.client(1, level="all") as client:
            assert client.set("k", "v") and client.get("k") == b"v"
        ring.nodes[1].kill()
        ring.nodes[1].start()
        ring.wait_whole()
        assert ring.contents(1, ["k"]) == [b"v"]
    finally:
        ring.end()


#: Servers that take little memory.
SMALL = ["--", "--memtable-bytes", "16mb", "--ballast-bytes", "1mb"]


def command(directory: Path, verb: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Run respkv-cluster on a directory."""
    # From a directory with another respkv in it, as where somebody works in a checkout.
    decoy = directory.parent / "decoy" / "respkv"
    decoy.mkdir(parents=True, exist_ok=True)
    (decoy / "__init__.py").write_text("raise SystemExit('this is not the program that was installed')")
    given = [sys.executable, "-P", "-m", "respkv.cli.cluster", verb, "--dir", str(directory), *words]
    root = str(Path(respkv.__file__).resolve().parents[1])
    environment = {**os.environ, "PYTHONPATH": root}
    return subprocess.run(given, capture_output=True, text=True, timeout=90, cwd=decoy.parent, env=environment)


def free_base(nodes: int = 2) -> int:
    """A first port for a local ring."""
    steps = [first + step for first in (0, 100, 10_000) for step in range(nodes)]
    while True:
        base = low_port()
        if all(is_free(base + step) for step in steps):
            return base


def test_the_command_starts_shows_and_stops_a_local_ring() -> None:
    with tempfile.TemporaryDirectory(prefix="respkv-local-", ignore_cleanup_errors=True) as name:
        directory, base = Path(name) / "ring", free_base()
        done = command(directory, "start", "--nodes", "2", "--base-port", str(base), *SMALL)
        try:
            assert done.returncode == 0, done.stdout + done.stderr
            assert f"redis-cli -p {base}\n" in done.stdout and "node 2: ready" in done.stdout
            for path in (directory / "secret", directory / "node-1.conf"):
                assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
            with redis.Redis(port=base + 1) as client, redis.Redis(port=base + 100) as face:
                assert client.set("k", "v") and client.dbsize() == 1
                assert face.execute_command("CLUSTER KEYSLOT", "k") == 7629
            rows = [line.split() for line in command(directory, "status").stdout.splitlines()]
            assert [row[5] for row in rows[1:3]] == ["ready", "ready"]
            assert sum(int(row[6]) for row in rows[1:3]) == 1
            assert " ".join(rows[4]) == "1 keys; all 16384 slots are ok"
            again = command(directory, "start", *SMALL)
            assert again.returncode == 0 and "started" not in again.stdout
            assert command(directory, "stop").returncode == 0
            rows = [line.split() for line in command(directory, "status").stdout.splitlines()]
            assert [row[5] for row in rows[1:]] == ["stopped", "stopped"]
            assert command(directory, "start", *SMALL).returncode == 0
            with redis.Redis(port=base) as client:
                assert client.get("k") == b"v"
        finally:
            assert command(directory, "stop").returncode == 0


@contextmanager
def local_ring(nodes: int, *options: str) -> Iterator[tuple[Path, int]]:
    """A ring that respkv-cluster has started with options of its servers; its directory and first port."""
    with tempfile.TemporaryDirectory(prefix="respkv-local-", ignore_cleanup_errors=True) as name:
        directory, base = Path(name) / "ring", free_base(nodes)
        try:
            done = command(directory, "start", "--nodes", str(nodes), "--base-port", str(base), *SMALL, *options)
            assert done.returncode == 0, done.stdout + done.stderr
            yield directory, base
        finally:
            assert command(directory, "stop").returncode == 0


def kill(directory: Path, number: int) -> None:
    """A node ends without a word."""
    pid = int((directory / f"node-{number}.pid").read_text())
    os.kill(pid, signal.SIGKILL)
    words = Path(f"/proc/{pid}/cmdline")
    wait_until(lambda: not words.exists() or not words.read_bytes(), 10)


def test_the_command_starts_all_nodes_with_the_same_options() -> None:
    with local_ring(2, "--conflict-policy", "cart:", "siblings", "--colocate", "jobs:") as (directory, base):
        kill(directory, 2)
        other = command(directory, "start", *SMALL)
        assert other.returncode == 1 and "--conflict-policy cart: siblings --colocate jobs:" in other.stderr
        assert command(directory, "status").returncode == 1, "nothing was started"
        assert command(directory, "start").returncode == 0
        for port in (base, base + 1):
            with redis.Redis(port=port, decode_responses=True) as client:
                assert client.config_get("conflict-policy", "colocate") == {
                    "conflict-policy": "cart: siblings", "colocate": "jobs:",
                }  # fmt: skip
        assert command(directory, "start", "--replace-options", *SMALL).returncode == 1, "it runs"
        assert command(directory, "stop").returncode == 0
        assert command(directory, "start", "--replace-options", *SMALL).returncode == 0
        for port in (base, base + 1):
            with redis.Redis(port=port, decode_responses=True) as client:
                assert client.config_get("conflict-policy") == {"conflict-policy": ""}


def test_the_status_counts_who_was_killed_a_moment_ago() -> None:
    with local_ring(3) as (directory, base):
        assert command(directory, "status").returncode == 0
        kill(directory, 3)
        shown = command(directory, "status")
        assert shown.returncode == 1 and "all 16384 slots are ok" in shown.stdout
        kill(directory, 1)
        shown = command(directory, "status")
        assert shown.returncode == 1
        assert "slots: 0 ok, 0 in danger, 16384 without a majority of their replicas" in shown.stdout
        with redis.Redis(port=base + 1) as client, pytest.raises(redis.ResponseError, match="NOREPLICAS"):
            client.set("k", "v")


@pytest.mark.parametrize(
    ("number", "reason"), [(1, "it has lost its data and founds another ring"), (3, "the cluster is complete")]
)
def test_the_command_does_not_wait_for_a_member_without_its_data(number: int, reason: str) -> None:
    with local_ring(3) as (directory, base):
        others = [other for other in (1, 2, 3) if other != number]
        with redis.Redis(port=base + others[0] - 1) as client:
            assert client.set("k", "v")
        kill(directory, number)
        shutil.rmtree(directory / f"node-{number}")
        pids = [(directory / f"node-{other}.pid").read_text() for other in others]
        began = time.monotonic()
        done = command(directory, "start", "--timeout", "40", *SMALL)
        assert done.returncode == 1 and time.monotonic() - began < 20
        assert f"node {number}: " in done.stdout and reason in done.stdout
        assert f"{directory}/node-{number}" in done.stderr and "another directory" in done.stderr
        assert f"Running: node {others[0]}, node {others[1]};" in done.stderr
        assert [(directory / f"node-{other}.pid").read_text() for other in others] == pids
        # Nor does it keep the others from being started.
        assert command(directory, "stop").returncode == 0
        done = command(directory, "start", "--timeout", "40", *SMALL)
        assert done.returncode == 1 and reason in done.stdout
        shown = command(directory, "status")
        rows = [line.split() for line in shown.stdout.splitlines()]
        assert shown.returncode == 1, "a node is away"
        assert [row[5] for row in rows[1:4]] == ["stopped" if each == number else "ready," for each in (1, 2, 3)]
        with redis.Redis(port=base + others[1] - 1) as client:
            assert client.get("k") == b"v"


def test_the_command_says_why_a_node_does_not_start(tmp_path: Path) -> None:
    done = command(tmp_path, "start", "--nodes", "2", "--base-port", str(free_base()), "--", "--no-such", "1")
    assert done.returncode == 1 and " ended, status 1" in done.stderr and "no-such" in done.stderr
    assert "stopped" in command(tmp_path, "status").stdout
