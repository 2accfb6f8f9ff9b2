"""An application's merge functions that take their time, in a real server: nobody else waits for them."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from tests.integration.conftest import ServerProcess

MERGES = """
import time

def sleeps(values):
    time.sleep(1)
    return b"late"

def loops(values):
    while True:
        pass

MERGES = {"sleeps": sleeps, "loops": loops}
"""
NAMES = ("sleeps", "loops")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    (tmp_path / "merges.py").write_text(MERGES)
    policies = [word for name in NAMES for word in (f"{name}:", f"merge:{name}")]
    running = ServerProcess(tmp_path, conflict_policy=policies, merge_file=tmp_path / "merges.py").start()
    try:
        yield running
    finally:
        running.end()


def longest_ping_s(server: ServerProcess, stop: threading.Event) -> float:
    """The longest that a PING of another connection has waited until ``stop``."""
    longest = 0.0
    with server.client(single_connection_client=True) as client:
        while not stop.is_set():
            begin_s = time.monotonic()
            client.ping()
            longest = max(longest, time.monotonic() - begin_s)
    return longest


@pytest.mark.parametrize("name", NAMES)
def test_a_slow_merge_does_not_stop_the_server(server: ServerProcess, name: str) -> None:
    stop, longest = threading.Event(), []
    pinging = threading.Thread(target=lambda: longest.append(longest_ping_s(server, stop)))
    with server.client(single_connection_client=True) as client:
        for key in range(5):
            for value in ("a", "b"):
                client.execute_command("RKV.SET", f"{name}:{key}", "", value)
        pinging.start()
        try:
            begin_s = time.monotonic()
            assert [client.get(f"{name}:{key}") for key in range(5)] == [b"b"] * 5
            took_s = time.monotonic() - begin_s
            with pytest.raises(redis.ResponseError, match=f"merge:{name}: was too slow"):
                client.execute_command("RKV.RESOLVE", f"{name}:0")
        finally:
            stop.set()
            pinging.join()
        assert took_s < 0.7 and longest[0] < 0.7
        told = client.info("siblings")
        assert (told[f"respkv_merge_{name}"]["calls"], told[f"respkv_merge_{name}"]["slow"]) == (1, 1)
    assert f"merge:{name}: was stopped after" in server.log_text()
