"""How a start goes wrong, or meets others: one clear message, and nobody else is harmed."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.integration.conftest import ServerProcess, free_port, run_server

Start = Callable[..., ServerProcess]


def ping_unix(path: str) -> bytes:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(20)
        client.connect(path)
        client.sendall(b"PING\r\n")
        return client.recv(100)


def assert_refused(result: subprocess.CompletedProcess[str], message: str) -> None:
    """Status 1, the message once, no trace of a program's innards."""
    output = result.stdout + result.stderr
    assert result.returncode == 1, output
    assert output.count(message) == 1, output
    assert "Traceback" not in output


def test_a_second_server_does_not_take_the_unix_socket_of_the_first(start_server: Start, tmp_path: Path) -> None:
    path = str(tmp_path / "s.sock")
    start_server(unixsocket=path, unixsocketperm="700")
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o700
    (tmp_path / "other").mkdir()
    for directory in ("data", "other"):
        result = run_server("--port", "0", "--unixsocket", path, "--dir", str(tmp_path / directory))
        assert_refused(result, "Failed opening Unix socket: bind: Address already in use")
        assert ping_unix(path) == b"+PONG\r\n"


def test_a_unix_socket_left_by_a_crash_is_replaced(start_server: Start, tmp_path: Path) -> None:
    path = str(tmp_path / "s.sock")
    server = start_server(unixsocket=path)
    server.kill()
    assert os.path.exists(path)
    server.start()
    assert ping_unix(path) == b"+PONG\r\n"
    server.stop()
    assert not os.path.exists(path)


def test_a_name_of_a_unix_socket_that_is_too_long(tmp_path: Path) -> None:
    result = run_server("--port", "0", "--unixsocket", "/" + "s" * 200, "--dir", str(tmp_path))
    assert_refused(result, "Failed opening Unix socket: bind: AF_UNIX path too long")


def test_a_mistake_in_an_included_file_is_told_with_file_and_line(tmp_path: Path) -> None:
    main, included = tmp_path / "main.conf", tmp_path / "included.conf"
    main.write_text(f"port 0\n# a comment\ninclude {tmp_path}/incl*.conf\n")
    included.write_text("\nmaxclients many\n")
    result = run_server(str(main))
    assert_refused(result, f"at line 2\n>>> 'maxclients many'\nargument couldn't be parsed into an integer\n"
                           f"(in the file '{included}')\n")
    included.write_text("")
    assert_refused(run_server(str(main), "--no-such", "1"), ">>> 'no-such \"1\"'\nBad directive")
    main.write_text("foo bar\n")
    assert_refused(run_server(str(main)), f"(in the file '{main}')\n")


def test_a_configuration_of_bytes(tmp_path: Path) -> None:
    """What is not UTF-8 goes through a file, standard input and the command line alike."""
    config = tmp_path / "a.conf"
    config.write_bytes(b"port 0\nrequirepass \xff\xfe\n")
    environment = {**os.environ, "PYTHONPATH": os.getcwd(), "PYTHONIOENCODING": "utf-8:strict"}
    for arguments, stdin in (
        ([str(config)], b""),
        (["-"], b"port 0\nrequirepass \xff\xfe\n"),
        (["--port", "0", "--requirepass", b"\xff\xfe"], b""),
    ):
        result = subprocess.run(
            [sys.executable, "-m", "respkv", *arguments], input=stdin, capture_output=True, timeout=60, env=environment
        )
        assert result.returncode == 1 and b"Configured to not listen anywhere" in result.stdout, result
        assert result.stderr == b""


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_standard_files_that_were_closed_do_not_become_files_of_the_store(tmp_path: Path, closed: str) -> None:
    server = ServerProcess(tmp_path)
    command = " ".join(word for word in server.command() if word not in ("--logfile", "server.log"))
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    with open(tmp_path / "stdout", "wb") as output:
        server.process = subprocess.Popen(
            ["bash", "-c", f"exec {command} {closed}"], stdout=output, stderr=output, env=environment
        )
    try:
        give_up = time.monotonic() + 30
        while not _answers(server):
            assert time.monotonic() < give_up and server.process.poll() is None
            time.sleep(0.02)
        files = [os.readlink(f"/proc/{server.pid}/fd/{fd}") for fd in (0, 1, 2)]
        assert not any(path.startswith(str(tmp_path / "wal")) for path in files), files
        assert files.count("/dev/null") >= closed.count("&-"), files
        worker = server.worker_pids()[0]
        assert not os.readlink(f"/proc/{worker}/fd/2").startswith(str(tmp_path / "wal"))
        assert server.stop() == 0
    finally:
        server.end()


def _answers(server: ServerProcess) -> bool:
    try:
        with server.connect() as client:
            client.sendall(b"PING\r\n")
            return client.recv(100) == b"+PONG\r\n"
    except OSError:
        return False


def test_a_configuration_file_that_is_a_directory(tmp_path: Path) -> None:
    assert_refused(run_server(str(tmp_path)), "Is a directory")


def test_files_that_include_each_other_without_end(tmp_path: Path) -> None:
    config = tmp_path / "a.conf"
    config.write_text(f"include {config}\n")
    assert_refused(run_server(str(config)), "files include each other without end")


def test_workers_that_cannot_be_started(tmp_path: Path) -> None:
    code = f"""
import sys
from respkv.cli.server import main
from respkv.server import worker_pool
worker_pool.worker_command = lambda nice: ["/no/such/program"]
sys.exit(main(["--port", "{free_port()}", "--bind", "127.0.0.1", "--dir", {str(tmp_path)!r}]))
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert_refused(result, "Cannot start: [Errno 2] No such file or directory: '/no/such/program'")


def test_a_supervised_server_stays_in_the_foreground(
    start_server: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(path)
        sock.settimeout(20)
        monkeypatch.setenv("NOTIFY_SOCKET", path)
        server = start_server(supervised="auto", daemonize="yes", pidfile=str(tmp_path / "pid"))
        assert b"READY=1" in sock.recv(1000)
        assert server.process is not None and server.process.poll() is None
        assert int((tmp_path / "pid").read_text()) == server.pid
        server.stop()
        assert b"STOPPING=1" in sock.recv(1000)
    assert not (tmp_path / "pid").exists()


def test_a_supervisor_that_is_not_there(start_server: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    server = start_server(supervised="systemd")
    assert "systemd supervision requested, but NOTIFY_SOCKET not found!" in server.log_text()


def test_upstart_lets_a_stopped_server_go_on(tmp_path: Path) -> None:
    server = ServerProcess(tmp_path, supervised="upstart")
    environment = {**os.environ, "PYTHONPATH": os.getcwd(), "UPSTART_JOB": "respkv"}
    server.process = subprocess.Popen(server.command(), env=environment)
    try:
        _, status = os.waitpid(server.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status)
        server.signal(signal.SIGCONT)
        give_up = time.monotonic() + 30
        while "Ready to accept connections" not in server.log_text():
            assert time.monotonic() < give_up
            time.sleep(0.01)
        assert "Supervised by upstart" in server.log_text()
    finally:
        server.end()


def test_an_interrupt_from_the_keyboard_reaches_workers_too_and_is_clean(tmp_path: Path) -> None:
    server = ServerProcess(tmp_path)
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    server.process = subprocess.Popen(
        server.command(), env=environment, start_new_session=True, stderr=subprocess.PIPE
    )
    assert server.process.stderr is not None
    try:
        give_up = time.monotonic() + 30
        while "Ready to accept connections" not in server.log_text():
            assert time.monotonic() < give_up
            time.sleep(0.01)
        server.client().set("k", "v")
        os.killpg(server.pid, signal.SIGINT)
        assert server.wait() == 0
        assert server.process.stderr.read() == b""
    finally:
        server.process.stderr.close()
        server.end()


def test_an_eviction_policy_is_kept_with_a_warning(start_server: Start) -> None:
    server = start_server(maxmemory_policy="allkeys-lru")
    warned = [line for line in server.log_text().splitlines() if "nothing is evicted" in line]
    assert len(warned) == 1 and " # WARNING: 'maxmemory-policy allkeys-lru' has no effect" in warned[0]
    assert server.client().config_get("maxmemory-policy") == {"maxmemory-policy": "allkeys-lru"}


def test_without_appendonly_nothing_waits_for_the_disk(start_server: Start) -> None:
    """The log is written all the same: only a power failure could lose what was answered."""
    server = start_server(appendonly="no", appendfsync="always")
    client = server.client()
    assert client.config_get("appendonly", "appendfsync") == {"appendonly": "no", "appendfsync": "always"}
    before = client.info("everything")["respkv_fsync_count"]
    for number in range(200):
        client.set(f"k{number}", "v")
    assert client.info("everything")["respkv_fsync_count"] <= before + 1
    assert "'appendonly' is accepted" not in server.log_text()
    server.kill()
    server.start()
    assert server.client().dbsize() == 200
    client = server.client()
    client.config_set("appendonly", "yes")
    before = client.info("everything")["respkv_fsync_count"]
    for number in range(50):
        client.set(f"k{number}", "w")
    assert client.info("everything")["respkv_fsync_count"] >= before + 50


@pytest.mark.parametrize("name", ["dump.rdb", "appendonlydir", "appendonly.aof"])
def test_data_of_redis_is_not_ignored(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir() if name.endswith("dir") else (tmp_path / name).write_bytes(b"REDIS0011")
    result = run_server("--port", str(free_port()), "--bind", "127.0.0.1", "--dir", str(tmp_path))
    assert_refused(result, f"holds data of Redis ({name})")
    assert not (tmp_path / "IDENTITY").exists()


def test_a_start_that_fails_leaves_no_pid_file(tmp_path: Path) -> None:
    pidfile = tmp_path / "pid"
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        result = run_server(
            *("--port", str(free_port()), "--bind", "127.0.0.1", "--dir", str(tmp_path)),
            *("--pidfile", str(pidfile), "--metrics-port", str(port)),
        )
    assert_refused(result, f"Failed listening on port {port} (metrics), aborting.")
    assert not pidfile.exists()


def test_the_environment_gives_the_default_of_a_mode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As images do, where clients always come from elsewhere. What a file or an option says counts more."""
    monkeypatch.setenv("RESPKV_PROTECTED_MODE", "no")
    included = tmp_path / "included.conf"
    included.write_text("protected-mode yes\n")
    for directives, expected in (({}, "no"), ({"protected-mode": "yes"}, "yes"), ({"include": included}, "yes")):
        server = ServerProcess(tmp_path, **directives)
        try:
            with server.start().client() as client:
                assert client.config_get("protected-mode") == {"protected-mode": expected}
            assert server.stop() == 0
        finally:
            server.end()
    assert run_server("--version").returncode == 0
    monkeypatch.setenv("RESPKV_PROTECTED_MODE", "perhaps")
    refused = run_server("--port", "0")
    assert_refused(refused, "RESPKV_PROTECTED_MODE in the environment: argument must be 'yes' or 'no'\n")


def test_the_directory_is_told_as_it_is(start_server: Callable[..., ServerProcess], tmp_path: Path) -> None:
    assert start_server().client().config_get("dir") == {"dir": str(tmp_path / "data")}
