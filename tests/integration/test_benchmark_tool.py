"""redis-benchmark, small: every test it has for the commands there are ends without an error."""

from __future__ import annotations

import csv
import shutil
import subprocess

import pytest

from tests.integration.conftest import ServerProcess

pytestmark = pytest.mark.skipif(shutil.which("redis-benchmark") is None, reason="redis-benchmark is not installed")


def benchmark(server: ServerProcess, *arguments: str) -> subprocess.CompletedProcess[str]:
    words = ["redis-benchmark", "-h", server.host, "-p", str(server.port), "--csv", *arguments]
    return subprocess.run(words, capture_output=True, text=True, timeout=60)


def figures(done: subprocess.CompletedProcess[str]) -> dict[str, float]:
    """Requests per second by test."""
    assert done.returncode == 0, (done.stdout, done.stderr)
    assert "Error" not in done.stdout + done.stderr and "WARNING" not in done.stdout + done.stderr, done
    rows = list(csv.DictReader(done.stdout.splitlines()))
    return {row["test"]: float(row["rps"]) for row in rows}


@pytest.mark.parametrize("depth", ["1", "16"])
def test_every_command_there_is(respkv_server: ServerProcess, depth: str) -> None:
    done = benchmark(
        respkv_server, "-t", "ping,set,get,incr,hset,mset", "-n", "2000", "-c", "20", "-P", depth, "-r", "500"
    )
    found = figures(done)
    assert list(found) == ["PING_INLINE", "PING_MBULK", "SET", "GET", "INCR", "HSET", "MSET (10 keys)"]
    assert all(rate > 0 for rate in found.values())


def test_resp3_threads_and_a_database(respkv_server: ServerProcess) -> None:
    done = benchmark(respkv_server, "-3", "-t", "set,get", "-n", "2000", "--threads", "2", "--dbnum", "4", "-d", "1000")
    assert list(figures(done)) == ["SET", "GET"]
    with respkv_server.client(db=4) as client:
        assert client.strlen("key:__rand_int__") == 1000
        client.flushdb()


def test_a_command_of_ones_own(respkv_server: ServerProcess) -> None:
    done = benchmark(
        respkv_server, "-n", "1000", "-r", "100", "-P", "4", "SET", "own:__rand_int__", "v", "EX", "1000", "GET"
    )
    assert len(figures(done)) == 1
    with respkv_server.client() as client:
        assert 1 <= len(client.keys("own:*")) <= 100


def test_commands_of_other_types_end_it_with_their_name(respkv_server: ServerProcess) -> None:
    done = benchmark(respkv_server, "-t", "lpush", "-n", "100")
    assert done.returncode == 1 and "ERR unknown command 'LPUSH'" in done.stdout + done.stderr
