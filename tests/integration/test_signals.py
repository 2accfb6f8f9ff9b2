"""Signals and SHUTDOWN."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import redis

from tests.integration.conftest import ServerProcess

Start = Callable[..., ServerProcess]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_by_signal_is_clean(start_server: Start, number: int) -> None:
    server = start_server()
    server.client().set("k", "v")
    server.signal(number)
    assert server.wait() == 0
    assert f"Received {signal.Signals(number).name} scheduling shutdown..." in server.log_text()
    assert start_server().client().get("k") == b"v"


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGPIPE])
def test_ignored_signals(start_server: Start, number: int) -> None:
    server = start_server()
    server.signal(number)
    assert server.client().ping()


def test_shutdown_closes_without_a_reply(start_server: Start) -> None:
    server = start_server()
    with server.connect() as sock:
        sock.sendall(b"SHUTDOWN NOSAVE\r\n")
        assert sock.recv(100) == b""
    assert server.wait() == 0


def test_a_shutdown_that_waits_at_the_door(start_server: Start) -> None:
    """The first thing a server is asked, before it has begun to serve: it ends as at any other time."""
    server = start_server()
    for _ in range(6):
        assert server.stop() == 0
        server.launch()
        give_up = time.monotonic() + 20
        while time.monotonic() < give_up:
            try:
                sock = server.connect()
                break
            except ConnectionRefusedError:
                time.sleep(0.001)
        with sock:
            sock.sendall(b"SHUTDOWN NOSAVE\r\n")
            assert sock.recv(100) == b""
        assert server.wait() == 0
        assert "Traceback" not in server.report()
        server.start()


def test_shutdown_save_makes_a_snapshot(start_server: Start) -> None:
    server = start_server()
    server.client().set("k", "v")
    with server.connect() as sock:
        sock.sendall(b"SHUTDOWN SAVE\r\n")
        assert sock.recv(100) == b""
    assert server.wait() == 0
    assert "DB saved on disk" in server.log_text()
    (snapshot,) = os.listdir(Path(server.dir) / "snapshots")
    copy = ServerProcess(Path(server.dir) / "snapshots" / snapshot).start()
    assert copy.client().get("k") == b"v"
    copy.end()


def test_save_points_save_at_a_signal(start_server: Start) -> None:
    server = start_server(save=["900", "1"])
    server.client().set("k", "v")
    assert server.stop() == 0
    assert len(os.listdir(Path(server.dir) / "snapshots")) == 1


def test_a_second_interrupt_ends_at_once(start_server: Start) -> None:
    """The first one waits for a snapshot, which waits for a worker that has been stopped."""
    server = start_server(save=["900", "1"])
    server.client().set("k", "v")
    workers = server.worker_pids()
    for pid in workers:
        os.kill(pid, signal.SIGSTOP)
    try:
        server.signal(signal.SIGINT)
        give_up = time.monotonic() + 20
        while "Saving the final snapshot" not in server.log_text():
            assert time.monotonic() < give_up
            time.sleep(0.01)
        server.signal(signal.SIGINT)
        assert server.wait() == 1
        assert "You insist... exiting now." in server.log_text()
    finally:
        for pid in workers:
            os.kill(pid, signal.SIGCONT)
    assert start_server().client().get("k") == b"v"


def test_a_failed_save_cancels_the_stop_unless_it_is_forced(start_server: Start, tmp_path: Path) -> None:
    if os.stat("/dev/shm").st_dev == os.stat(tmp_path).st_dev:
        pytest.skip("there is no second file system, to which hard links must fail")
    server = start_server(save=["900", "1"])
    client = server.client()
    client.set("k", "v")
    with tempfile.TemporaryDirectory(dir="/dev/shm") as elsewhere:
        os.symlink(elsewhere, Path(server.dir) / "snapshots")
        server.signal(signal.SIGTERM)
        give_up = time.monotonic() + 20
        while "can't exit" not in server.log_text():
            assert time.monotonic() < give_up
            time.sleep(0.01)
        assert client.get("k") == b"v"
        with server.connect() as sock:
            sock.sendall(b"SHUTDOWN SAVE FORCE\r\n")
            assert sock.recv(100) == b""
        assert server.wait() == 0
    os.unlink(Path(server.dir) / "snapshots")


def test_clients_are_served_while_the_last_snapshot_is_made_and_abort_works(start_server: Start) -> None:
    server = start_server(save=["900", "1"])
    client = server.client()
    client.set("k", "v")
    workers = server.worker_pids()
    for pid in workers:
        os.kill(pid, signal.SIGSTOP)
    try:
        server.signal(signal.SIGTERM)
        give_up = time.monotonic() + 20
        while "Saving the final snapshot" not in server.log_text():
            assert time.monotonic() < give_up
            time.sleep(0.01)
        assert client.get("k") == b"v"
        assert client.execute_command("SHUTDOWN", "ABORT") in (True, b"OK")
    finally:
        for pid in workers:
            os.kill(pid, signal.SIGCONT)
    with pytest.raises(redis.ResponseError, match="No shutdown in progress"):
        client.execute_command("SHUTDOWN", "ABORT")
    assert client.ping()


def test_the_first_process_of_a_container_ends_before_it_serves() -> None:
    """The kernel keeps the default action of a signal from process 1."""
    words = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
    if shutil.which("unshare") is None or subprocess.run([*words, "true"], capture_output=True).returncode:
        pytest.skip("no process namespace can be made here (needs root)")
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    # It waits for its configuration, at the very start.
    outer = subprocess.Popen([*words, sys.executable, "-m", "respkv", "-"], stdin=subprocess.PIPE, env=environment)
    try:
        children = Path(f"/proc/{outer.pid}/task/{outer.pid}/children")
        give_up = time.monotonic() + 20
        while not (found := children.read_text().split()) or not _handles(int(found[0]), signal.SIGTERM):
            assert time.monotonic() < give_up, "it has no handler of its own"
            time.sleep(0.01)
        os.kill(int(found[0]), signal.SIGTERM)
        assert outer.wait(timeout=10) == 128 + signal.SIGTERM
    finally:
        outer.kill()
        outer.communicate()


def _handles(pid: int, number: int) -> bool:
    """Whether a process has a handler for a signal."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("SigCgt:"):
            return bool(int(line.split()[1], 16) >> (number - 1) & 1)
    return False
