"""Crashes: what was acknowledged under ``always`` is there after SIGKILL, and nothing that was not written."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import threading
import time
from collections.abc import Callable

import pytest
import redis

from tests.integration.conftest import ServerProcess

Start = Callable[..., ServerProcess]


class Writer:
    """One client that counts its key up until the server is gone."""

    def __init__(self, server: ServerProcess, key: str, padding: int) -> None:
        self.server = server
        self.key = key
        self.padding = b"." * padding
        self.acknowledged = self.tried = 0
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        with self.server.client() as client:
            client_error = (redis.ConnectionError, redis.TimeoutError, OSError)
            try:
                stored = client.get(self.key)
                number = int(stored.split(b" ")[0]) if stored else 0
                while True:
                    number += 1
                    self.tried = number
                    client.set(self.key, b"%d %b" % (number, self.padding))
                    self.acknowledged = number
            except client_error:
                pass


def wrong_keys(server: ServerProcess, writers: list[Writer]) -> list[str]:
    """Keys of which less is there than was acknowledged, more than was tried, or something else."""
    found = []
    with server.client() as client:
        for writer in writers:
            stored = client.get(writer.key)
            number = int(stored.split(b" ")[0]) if stored else 0
            whole = stored is None or stored == b"%d %b" % (number, writer.padding)
            if not whole or not writer.acknowledged <= number <= writer.tried:
                found.append(writer.key)
    return found


@pytest.mark.parametrize(("policy", "memtable"), [("always", 64 << 20), ("always", 1 << 20), ("everysec", 1 << 20)])
def test_kill_in_a_loop(start_server: Start, policy: str, memtable: int) -> None:
    """A process that is killed loses nothing it has written, whatever the policy: the kernel has it."""
    for turn in range(3):
        server = start_server(appendfsync=policy, memtable_bytes=memtable)
        writers = [Writer(server, f"w{number}", 4000) for number in range(6)]
        time.sleep(0.3 + 0.2 * turn)
        server.kill()
        for writer in writers:
            writer.thread.join()
        again = start_server(appendfsync=policy, memtable_bytes=memtable)
        assert wrong_keys(again, writers) == []
        again.kill()


def test_a_log_that_was_forgotten_is_found(start_server: Start) -> None:
    """The control of the loop: the directory is put back to what it was before the writes."""
    server = start_server(appendfsync="always")
    server.stop()
    kept = f"{server.dir}.kept"
    shutil.copytree(server.dir, kept)
    server = start_server(appendfsync="always")
    writers = [Writer(server, f"w{number}", 100) for number in range(2)]
    time.sleep(0.3)
    server.kill()
    for writer in writers:
        writer.thread.join()
    assert all(writer.acknowledged for writer in writers)
    shutil.rmtree(server.dir)
    shutil.copytree(kept, server.dir)
    again = start_server(appendfsync="always")
    assert wrong_keys(again, writers) == ["w0", "w1"]
    again.stop()


def test_a_transaction_is_whole_or_absent(start_server: Start) -> None:
    server = start_server(appendfsync="always")
    stop = threading.Event()

    def work() -> None:
        with server.client() as client:
            number = 0
            while not stop.is_set():
                number += 1
                pipe = client.pipeline(transaction=True)
                for key in ("a", "b", "c"):
                    pipe.set(key, number)
                try:
                    pipe.execute()
                except (redis.ConnectionError, redis.TimeoutError, OSError):
                    return

    thread = threading.Thread(target=work)
    thread.start()
    time.sleep(0.5)
    server.kill()
    stop.set()
    thread.join()
    again = start_server()
    values = again.client().mget("a", "b", "c")
    assert len(set(values)) == 1 and values[0] is not None


def test_workers_killed_under_load(start_server: Start) -> None:
    """A job whose worker dies is done again; nobody notices."""
    server = start_server(memtable_bytes=1 << 20)
    with server.client() as client:
        for turn in range(30):
            client.mset({f"k{turn}-{at}": f"{turn}" * 100 for at in range(500)})
            if turn % 5 == 2:
                for pid in server.worker_pids():
                    os.kill(pid, signal.SIGKILL)
        for turn in range(30):
            assert client.mget(*(f"k{turn}-{at}" for at in range(500))) == [f"{turn}".encode() * 100] * 500
        assert_keys(client, 15_000)


def assert_keys(client: redis.Redis, count: int) -> None:
    """SCAN finds exactly so many keys; DBSIZE may estimate at first and gets there by itself."""
    assert len(set(client.scan_iter(count=1000))) == count
    give_up = time.monotonic() + 20
    while client.dbsize() != count:
        assert time.monotonic() < give_up, client.dbsize()
        time.sleep(0.05)


def test_the_clean_stop_and_the_crash_agree(start_server: Start) -> None:
    server = start_server(memtable_bytes=1 << 20)
    with server.client() as client:
        for number in range(20):
            client.mset({f"k{number}-{at}": "v" * 500 for at in range(200)})
        client.delete(*(f"k3-{at}" for at in range(200)))
    assert server.stop() == 0
    server = start_server(memtable_bytes=1 << 20)
    with server.client() as client:
        assert client.get("k3-7") is None and client.get("k4-7") == b"v" * 500
        assert_keys(client, 19 * 200)
    server.kill()
    with start_server(memtable_bytes=1 << 20).client() as client:
        assert_keys(client, 19 * 200)


def test_a_log_that_cannot_be_written_ends_the_server_at_once(start_server: Start) -> None:
    """Nothing unlogged is acknowledged: the append fails, the process exits with one line, what was promised stays."""
    server = start_server(appendfsync="always")
    acknowledged = 0
    with server.client() as client:
        client.set("small", "v")
        limit = 4 << 20
        resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (limit, limit))
        with pytest.raises((redis.ConnectionError, redis.TimeoutError)):
            for number in range(1000):
                client.set(f"k{number}", b"v" * 100_000)
                acknowledged = number
    assert server.wait() == 1
    lines = [line for line in server.log_text().splitlines() if "Fatal:" in line]
    assert len(lines) == 1 and "log append failed" in lines[0]
    assert 10 < acknowledged < 50
    with start_server().client() as client:
        assert client.get("small") == b"v"
        assert client.mget(*(f"k{number}" for number in range(acknowledged + 1))) == [b"v" * 100_000] * (
            acknowledged + 1
        )
