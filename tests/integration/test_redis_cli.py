"""redis-cli in its many modes, run as a program."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import redis

from tests.integration.conftest import ServerProcess

pytestmark = pytest.mark.skipif(shutil.which("redis-cli") is None, reason="redis-cli is not installed")
PATIENCE_S = 30.0


class Cli:
    """``cli(...)``: what redis-cli prints; its status must be 0."""

    def __init__(self, server: ServerProcess) -> None:
        self.server = server

    def words(self, *arguments: str) -> list[str]:
        return ["redis-cli", "-h", self.server.host, "-p", str(self.server.port), *arguments]

    def run(self, *arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(self.words(*arguments), input=stdin, capture_output=True, timeout=PATIENCE_S)

    def __call__(self, *arguments: str, stdin: bytes = b"") -> str:
        done = self.run(*arguments, stdin=stdin)
        assert done.returncode == 0, (done.returncode, done.stdout, done.stderr)
        return done.stdout.decode()

    @contextmanager
    def terminal(self, *arguments: str) -> Iterator[int]:
        """Run on a terminal, for modes that never end; the file to read what it prints from."""
        master, slave = pty.openpty()
        # A dumb terminal: no line editing, so no questions to the terminal either.
        environment = {**os.environ, "TERM": "dumb"}
        process = subprocess.Popen(self.words(*arguments), stdin=slave, stdout=slave, stderr=slave, env=environment)
        os.close(slave)
        try:
            yield master
        finally:
            process.kill()
            process.wait()
            os.close(master)


def read_until(terminal: int, pattern: bytes) -> bytes:
    """Read until the pattern shows; AssertionError when it does not in time."""
    text, give_up = b"", time.monotonic() + PATIENCE_S
    while not re.search(pattern, text):
        assert time.monotonic() < give_up, text
        if select.select([terminal], [], [], 0.1)[0]:
            text += os.read(terminal, 65536)
    return text


@pytest.fixture
def client(respkv_server: ServerProcess) -> Iterator[redis.Redis]:
    with respkv_server.client(decode_responses=True) as client:
        client.flushall()
        yield client


@pytest.fixture
def cli(respkv_server: ServerProcess, client: redis.Redis) -> Cli:
    """redis-cli on an empty server."""
    return Cli(respkv_server)


def test_commands(cli: Cli) -> None:
    assert cli("SET", "k", "v", "EX", "100") == "OK\n" and cli("GET", "k") == "v\n" and cli("GET", "none") == "\n"
    assert cli("-x", "SET", "bin", stdin=b"\x00\xff") == "OK\n"
    assert cli.run("GET", "bin").stdout == b"\x00\xff\n"
    assert cli("-n", "3", "SET", "k", "three") == "OK\n" and cli("-n", "3", "GET", "k") == "three\n"
    assert cli("-r", "3", "INCR", "n") == "1\n2\n3\n"
    assert cli("--no-raw", "MGET", "k", "none") == '1) "v"\n2) (nil)\n'
    assert "WRONGTYPE" in cli("HGET", "k", "f")


def test_a_wrong_command_is_an_error_status(cli: Cli) -> None:
    done = cli.run("-e", "NOSUCH")
    assert done.returncode == 1 and b"ERR unknown command 'NOSUCH'" in done.stderr


def test_resp3_and_json(cli: Cli) -> None:
    cli("HSET", "h", "f", "v")
    assert cli("-3", "--no-raw", "HGETALL", "h") == '1# "f" => "v"\n'
    assert json.loads(cli("--json", "HGETALL", "h")) == {"f": "v"}
    assert json.loads(cli("--json", "HELLO", "3"))["proto"] == 3
    assert json.loads(cli("--json", "CONFIG", "GET", "maxclients")) == {"maxclients": "10000"}
    assert json.loads(cli("--json", "COMMAND", "DOCS", "get"))["get"]["group"] == "string"
    assert cli("INFO", "server").startswith("# Server\r\nredis_version:") or "redis_version:" in cli("INFO", "server")


def test_following_redirections_is_harmless(cli: Cli) -> None:
    assert cli("-c", "SET", "k", "v") == "OK\n" and cli("-c", "GET", "k") == "v\n"


def test_mass_insertion(cli: Cli, client: redis.Redis) -> None:
    requests = b"".join(
        b"*3\r\n$3\r\nSET\r\n$%d\r\n%b\r\n$%d\r\n%d\r\n" % (len(key), key, len(str(number)), number)
        for number in range(10_000)
        for key in (b"pipe:%d" % number,)
    )
    assert "errors: 0, replies: 10000" in cli("--pipe", stdin=requests)
    assert client.dbsize() == 10_000 and client.get("pipe:9999") == "9999"


def test_mass_insertion_reports_errors(cli: Cli) -> None:
    done = cli.run("--pipe", stdin=b"SET a 1\r\nHSET a f v\r\nSET b 2\r\n")
    assert b"errors: 1, replies: 3" in done.stdout and b"WRONGTYPE" in done.stderr + done.stdout


def test_scan(cli: Cli, client: redis.Redis) -> None:
    client.mset({f"user:{number}": number for number in range(500)} | {"other": 1})
    assert len(set(cli("--scan").split())) == 501
    assert len(set(cli("--scan", "--pattern", "user:*").split())) == 500


def test_big_keys(cli: Cli, client: redis.Redis) -> None:
    client.mset({f"small:{number}": number for number in range(50)} | {"large": "x" * 5000})
    client.hset("wide", mapping={f"f{number}": number for number in range(70)})
    text = cli("--bigkeys")
    assert "Sampled 52 keys in the keyspace!" in text
    assert "Biggest string found '\"large\"' has 5000 bytes" in text and "'\"wide\"' has 70 fields" in text
    text = cli("--memkeys")
    assert "Sampled 52 keys in the keyspace!" in text and "Biggest string found '\"large\"' has" in text
    assert cli("--memkeys-samples", "3")


def test_hot_keys_need_a_policy(cli: Cli) -> None:
    cli("SET", "k", "v")
    done = cli.run("--hotkeys")
    assert done.returncode == 1 and b"An LFU maxmemory policy is not selected" in done.stdout + done.stderr


def test_stat(cli: Cli, client: redis.Redis) -> None:
    client.mset({"a": 1, "b": 2})
    assert client.dbsize() == 2
    with cli.terminal("--stat", "-i", "0.1") as terminal:
        text = read_until(terminal, rb"(?m)(^2 .*\r\n(?s:.*)){2}").decode()
    assert re.search(r"keys +mem +clients +blocked +requests +connections", text)
    row = next(line for line in text.splitlines() if line.startswith("2 ")).split()
    assert re.fullmatch(r"[\d.]+[BKMG]", row[1]) and int(row[2]) >= 2 and int(row[3]) == 0 and int(row[4]) > 0


def test_latency(cli: Cli) -> None:
    # Without a terminal, --latency prints one line after the interval and ends.
    lowest, highest, average, count = cli("--latency", "-i", "1").split()
    assert 0 <= int(lowest) <= float(average) <= int(highest) and int(count) > 10
    with cli.terminal("--latency-history", "-i", "0.3") as terminal:
        read_until(terminal, rb"\d+\.\d+ seconds range")


def test_the_lru_simulation_runs(cli: Cli) -> None:
    with cli.terminal("--lru-test", "100") as terminal:
        assert b"Hits:" in read_until(terminal, rb"Gets/sec \| Hits: \d+")


def test_monitor(cli: Cli, client: redis.Redis) -> None:
    with cli.terminal("MONITOR") as terminal:
        read_until(terminal, rb"OK")
        client.set("seen", 'a "b"\n')
        text = read_until(terminal, rb'"seen"')
    assert re.search(rb'\d+\.\d{6} \[0 127\.0\.0\.1:\d+\] "SET" "seen" "a \\"b\\"\\n"', text), text


def test_subscribe(cli: Cli, client: redis.Redis) -> None:
    with cli.terminal("SUBSCRIBE", "news") as terminal:
        read_until(terminal, rb"\(integer\) 1")
        assert client.publish("news", "hello") == 1
        assert b'3) "hello"' in read_until(terminal, rb'"hello"')


def test_help_comes_from_the_server(cli: Cli) -> None:
    with cli.terminal() as terminal:
        read_until(terminal, rb"> ")
        os.write(terminal, b"HELP SET\n")
        text = read_until(terminal, rb"group:.*string")
        assert b"IFEQ" in text, "the built-in table of redis-cli has no such option"
        os.write(terminal, b"HELP @hash\n")
        read_until(terminal, rb"HSETEX(?s:.*)summary:")
        os.write(terminal, b"multi\n")
        read_until(terminal, rb"\(TX\)> ")
        os.write(terminal, b"incr n\n")
        read_until(terminal, rb"QUEUED")
        os.write(terminal, b"exec\n")
        read_until(terminal, rb"1\) \(integer\) 1")
        os.write(terminal, b"hello 3\n")
        read_until(terminal, rb"\"proto\" => \(integer\) 3")


def test_commands_from_standard_input(cli: Cli) -> None:
    assert cli(stdin=b'set k "a b"\nget k\nselect 2\nget k\n') == "OK\na b\nOK\n\n"


def test_scripts_are_refused_clearly(cli: Cli, tmp_path: os.PathLike[str]) -> None:
    script = os.path.join(tmp_path, "script.lua")
    with open(script, "w") as file:
        file.write("return 1")
    done = cli.run("--eval", script)
    assert b"ERR unknown command 'EVAL'" in done.stdout + done.stderr


def test_a_dump_is_refused_clearly(cli: Cli, tmp_path: os.PathLike[str]) -> None:
    done = cli.run("--rdb", os.path.join(tmp_path, "dump.rdb"))
    assert done.returncode == 1 and b"SYNC with master failed" in done.stderr + done.stdout


def test_cluster_tools_see_a_single_server(cli: Cli) -> None:
    address = f"{cli.server.host}:{cli.server.port}"
    done = cli.run("--cluster", "check", address)
    assert done.returncode == 1 and b"is not configured as a cluster node" in done.stderr + done.stdout
