"""Starting, refusing to start, the log, the files around a server."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import respkv
from tests.integration.conftest import LOG_LINE, ServerProcess, free_port, run_server

Start = Callable[..., ServerProcess]


def test_version_and_help() -> None:
    version = run_server("--version")
    assert version.returncode == 0
    assert version.stdout.startswith("Redis server v=7.4.0 sha=00000000:0 malloc=libc bits=64 build=")
    assert version.stdout.endswith(f" respkv={respkv.__version__}\n")
    usage = run_server("--help")
    assert usage.returncode == 1 and "Usage:" in usage.stderr


@pytest.mark.parametrize(
    ("arguments", "line", "reason"),
    [
        (["--foo", "bar"], 'foo "bar"', "Bad directive or wrong number of arguments"),
        (["--maxmemory", "lots"], 'maxmemory "lots"', "argument must be a memory value"),
        (["--tls-port", "6380"], 'tls-port "6380"', "unsafe to ignore"),
    ],
)
def test_fatal_configuration(arguments: list[str], line: str, reason: str) -> None:
    result = run_server(*arguments)
    assert result.returncode == 1
    lines = result.stderr.split("\n")
    assert lines[0] == "" and lines[1] == "*** FATAL CONFIG FILE ERROR (Redis 7.4.0) ***"
    assert lines[2].startswith("Reading the configuration file, at line ")
    assert lines[3] == f">>> '{line}'" and reason in lines[4]


def test_a_configuration_file_that_is_not_there() -> None:
    result = run_server("/nonexistent/respkv.conf")
    assert result.returncode == 1
    assert "Fatal error, can't open config file '/nonexistent/respkv.conf': No such file or directory" in result.stdout


def test_a_directory_that_is_not_there() -> None:
    result = run_server("--dir", "/nonexistent", "--port", str(free_port()))
    assert result.returncode == 1 and "Can't chdir to '/nonexistent': No such file or directory" in result.stdout


def test_configuration_from_standard_input(tmp_path: Path) -> None:
    result = run_server("-", stdin="bogus 1\n")
    assert result.returncode == 1 and ">>> 'bogus 1'" in result.stderr


def test_a_busy_port(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        result = run_server("--port", str(port), "--bind", "127.0.0.1", "--dir", str(tmp_path))
    assert result.returncode == 1
    assert (
        f"Could not create server TCP listening socket 127.0.0.1:{port}: bind: Address already in use" in result.stdout
    )
    assert f"Failed listening on port {port} (tcp), aborting." in result.stdout
    assert os.listdir(tmp_path) == [], "nothing was touched"


def test_a_directory_in_use(start_server: Start) -> None:
    server = start_server()
    result = run_server("--port", str(free_port()), "--dir", server.dir, "--bind", "127.0.0.1")
    assert result.returncode == 1
    lines = [line for line in result.stdout.splitlines() if "in use by another process" in line]
    assert len(lines) == 1 and "Traceback" not in result.stdout + result.stderr
    assert server.client().ping()


def test_a_directory_of_someone_else(tmp_path: Path) -> None:
    (tmp_path / "CURRENT").write_text("MANIFEST-000004\n")
    result = run_server("--port", str(free_port()), "--dir", str(tmp_path), "--bind", "127.0.0.1")
    assert result.returncode == 1 and "Cannot open the data directory" in result.stdout


def test_damaged_data_is_one_clear_line_and_stays_as_it_is(start_server: Start) -> None:
    server = start_server(appendfsync="always")
    client = server.client()
    for number in range(100):
        client.set(f"k{number}", "v" * 100)
    server.kill()
    wal = Path(server.dir) / "wal"
    segment = wal / sorted(os.listdir(wal))[-1]
    data = bytearray(segment.read_bytes())
    data[2000] ^= 1
    segment.write_bytes(data)
    result = run_server("--port", str(free_port()), "--dir", server.dir, "--bind", "127.0.0.1")
    assert result.returncode == 1
    assert str(segment.name) in result.stdout and "Traceback" not in result.stdout + result.stderr
    assert segment.read_bytes() == data
    checked = subprocess.run(
        [sys.executable, "-m", "respkv.cli.check", server.dir], capture_output=True, text=True, timeout=60
    )
    assert checked.returncode == 1 and "DAMAGED" in checked.stdout


def test_log_landmarks(start_server: Start) -> None:
    server = start_server()
    assert server.stop() == 0
    lines = server.log_text().splitlines()
    assert all(LOG_LINE.fullmatch(line) for line in lines)
    places = []
    for landmark in (
        "oO0OoO0OoO0Oo Redis is starting oO0OoO0OoO0Oo",
        f"Redis version=7.4.0, bits=64, commit=00000000, modified=0, pid={server.pid}, respkv={respkv.__version__},"
        " just started",
        f"Running mode=standalone, port={server.port}.",
        "Server initialized",
        "DB loaded from disk: 0.",
        "Ready to accept connections tcp",
        "Received SIGTERM scheduling shutdown...",
        "User requested shutdown...",
        "Redis is now ready to exit, bye bye...",
    ):
        found = [number for number, line in enumerate(lines) if landmark in line]
        assert len(found) == 1, landmark
        places += found
    assert places == sorted(places)


def test_the_logo_names_the_process(start_server: Start) -> None:
    server = start_server(always_show_logo="yes")
    assert f" PID: {server.pid}\n" in server.log_text()


def test_pid_file_and_unix_socket_come_and_go(start_server: Start, tmp_path: Path) -> None:
    pid, path = tmp_path / "pid", str(tmp_path / "socket")
    server = start_server(pidfile=pid, unixsocket=path, unixsocketperm=700)
    assert pid.read_text() == f"{server.pid}\n"
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o700
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(20)
        client.connect(path)
        client.sendall(b"PING\r\n")
        assert client.recv(100) == b"+PONG\r\n"
    assert server.stop() == 0
    assert not pid.exists() and not os.path.exists(path)
    log = server.log_text()
    assert "Ready to accept connections unix" in log
    assert "Removing the pid file." in log and "Removing the unix socket file." in log


def test_only_a_unix_socket(start_server: Start, tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    server = ServerProcess(tmp_path, unixsocket=path)
    server.port = 0
    server.start()
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(20)
        client.connect(path)
        client.sendall(b"PING\r\n")
        assert client.recv(100) == b"+PONG\r\n"
    server.end()


def test_in_the_background(tmp_path: Path) -> None:
    port, pidfile = free_port(), tmp_path / "pid"
    result = run_server(
        *("--daemonize", "yes", "--port", str(port), "--bind", "127.0.0.1", "--dir", str(tmp_path)),
        *("--pidfile", str(pidfile), "--logfile", "log"),
    )
    assert result.returncode == 0
    server = ServerProcess(tmp_path, port=port)
    deadline = 500
    while not pidfile.exists() or "Ready" not in (tmp_path / "log").read_text():
        deadline -= 1
        assert deadline > 0
        subprocess.run(["sleep", "0.02"], check=True)
    client = server.client()
    assert client.ping()
    with pytest.raises(Exception, match=r"[Cc]onnection|closed"):
        client.execute_command("SHUTDOWN", "NOSAVE")
        client.ping()


def test_the_supervisor_hears_of_start_and_stop(
    start_server: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(path)
        sock.settimeout(20)
        monkeypatch.setenv("NOTIFY_SOCKET", path)
        server = start_server(supervised="systemd")
        assert b"READY=1" in sock.recv(1000)
        server.stop()
        assert b"STOPPING=1" in sock.recv(1000)


def test_metrics_over_http(start_server: Start) -> None:
    port = free_port()
    server = start_server(metrics_port=port)
    server.client().set("k", "v")
    with socket.create_connection(("127.0.0.1", port), timeout=20) as sock:
        sock.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        answer = b""
        while data := sock.recv(65536):
            answer += data
    assert answer.startswith(b"HTTP/1.1 200")
    assert b"redis_commands_processed_total" in answer and b'redis_commands_total{cmd="set"} 1.0' in answer


def test_a_busy_metrics_port(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        result = run_server(
            *("--port", str(free_port()), "--bind", "127.0.0.1", "--dir", str(tmp_path), "--metrics-port", str(port))
        )
    assert result.returncode == 1 and f"Failed listening on port {port} (metrics), aborting." in result.stdout
    assert "Traceback" not in result.stdout + result.stderr


def test_a_broken_invariant_ends_the_server_with_a_report(tmp_path: Path) -> None:
    code = f"""
import sys
from respkv.cli.server import main
from respkv.node.node import Node
def broken(self):
    raise AssertionError("this cannot be")
Node.on_timer = broken
sys.exit(main(["--port", "{free_port()}", "--bind", "127.0.0.1", "--dir", {str(tmp_path)!r}]))
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert result.returncode == 1
    assert "BUG REPORT" in result.stdout and "this cannot be" in result.stdout
    assert run_server("--port", "0", "--dir", str(tmp_path)).returncode == 1


def test_workers_are_there_and_leave_with_a_killed_server(start_server: Start) -> None:
    server = start_server()
    workers = server.worker_pids()
    assert len(workers) == 2
    server.kill()
    for _ in range(500):
        alive = [pid for pid in workers if os.path.exists(f"/proc/{pid}") and _state(pid) != "Z"]
        if not alive:
            return
        subprocess.run(["sleep", "0.02"], check=True)
    raise AssertionError(f"workers {alive} are still there")


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return "Z"


def test_a_check_of_a_healthy_directory(start_server: Start) -> None:
    server = start_server(memtable_bytes=1 << 20)
    client = server.client()
    for number in range(30):
        client.mset({f"k{number}-{at}": "v" * 1000 for at in range(100)})
    busy = subprocess.run(
        [sys.executable, "-m", "respkv.cli.check", server.dir], capture_output=True, text=True, timeout=60
    )
    assert busy.returncode == 1 and "a server has it open" in busy.stdout
    client.execute_command("SAVE")
    server.stop()
    result = subprocess.run(
        [sys.executable, "-m", "respkv.cli.check", server.dir], capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 0, result.stdout
    assert result.stdout.count("all good") == 2, "the directory and its snapshot"
    tables = list((Path(server.dir) / "tables").iterdir())  # Some may be of no use any more, and not looked at.
    for table in tables:
        table.write_bytes(table.read_bytes()[:-1])
    result = subprocess.run(
        [sys.executable, "-m", "respkv.cli.check", "--quiet", server.dir], capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 1 and any(table.name in result.stdout for table in tables)
