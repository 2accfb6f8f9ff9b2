"""Log lines, supervisor, pid file, descriptors, the configuration file."""

from __future__ import annotations

import os
import re
import resource
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from respkv.config.store import ConfigStore
from respkv.env.posix import PosixFileSystem, SystemClock
from respkv.server import process
from respkv.server.host import ProcessHost
from respkv.server.server_log import ServerLog, format_time

LINE = re.compile(r"\d+:M \d\d [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d\.\d{3} [.*#-] .*\n")


def test_a_log_line_looks_like_redis(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = ServerLog(SystemClock(), path=str(path))
    log.role = "M"
    log("notice", "Server initialized")
    log("warning", "two\nlines")
    log("debug", "not shown")
    lines = path.read_text().splitlines(keepends=True)
    assert len(lines) == 3 and all(LINE.fullmatch(line) for line in lines)
    assert lines[0].endswith("* Server initialized\n") and lines[2].endswith("# lines\n")


@pytest.mark.parametrize(
    ("level", "shown"), [("debug", 4), ("verbose", 3), ("notice", 2), ("warning", 1), ("nothing", 0)]
)
def test_log_levels(tmp_path: Path, level: str, shown: int) -> None:
    path = tmp_path / "log"
    path.touch()
    log = ServerLog(SystemClock(), path=str(path), level=level)
    for name in ("debug", "verbose", "notice", "warning"):
        log(name, "text")
    assert len(path.read_text().splitlines()) == shown


def test_a_log_that_can_be_rotated_and_one_that_cannot_be_written(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = ServerLog(SystemClock(), path=str(path))
    assert log.check_writable() == ""
    log("notice", "one")
    path.rename(tmp_path / "log.1")
    log("notice", "two")
    assert path.read_text().endswith("two\n")
    lost = ServerLog(SystemClock(), path=str(tmp_path / "none" / "log"))
    assert lost.check_writable() == "Can't open the log file: No such file or directory"
    lost("notice", "nobody hears it")


def test_time_in_milliseconds() -> None:
    assert re.fullmatch(r"\d\d Nov 2023 \d\d:\d\d:\d\d\.007", format_time(1_700_000_000_007_999))


def test_the_supervisor_is_told(tmp_path: Path) -> None:
    path = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(path)
        assert process.notify_supervisor({"NOTIFY_SOCKET": path}, "READY=1\n")
        assert sock.recv(100) == b"READY=1\n"
    assert not process.notify_supervisor({}, "READY=1\n")
    assert not process.notify_supervisor({"NOTIFY_SOCKET": str(tmp_path / "none")}, "READY=1\n")
    assert not process.notify_supervisor({"NOTIFY_SOCKET": "relative"}, "READY=1\n")


def test_processor_time_of_this_process_and_of_those_it_started() -> None:
    fs = PosixFileSystem()
    code = "import time, sys\nwhile time.process_time() < 0.15: pass\nprint(flush=True)\nsys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        before = process.cpu_figures(fs, [])
        child.stdout.readline()
        running = process.cpu_figures(fs, [child.pid, 1 << 30])
    ended = process.cpu_figures(fs, [])
    for figures in (running, ended):
        spent = figures["user_children"] + figures["sys_children"]
        assert 0.1 < spent - before["user_children"] - before["sys_children"] < 10
    assert 0 < ended["user"] < 1e6 and ended["sys"] > 0


@pytest.mark.parametrize(
    ("mode", "environment", "found"),
    [
        ("no", {"NOTIFY_SOCKET": "/s"}, ""),
        ("systemd", {"NOTIFY_SOCKET": "/s"}, "systemd"),
        ("systemd", {"UPSTART_JOB": "j"}, ""),
        ("systemd", {"NOTIFY_SOCKET": ""}, ""),
        ("upstart", {"UPSTART_JOB": "j"}, "upstart"),
        ("auto", {}, ""),
        ("auto", {"NOTIFY_SOCKET": "/s"}, "systemd"),
        ("auto", {"NOTIFY_SOCKET": "/s", "UPSTART_JOB": "j"}, "upstart"),
    ],
)
def test_who_supervises(mode: str, environment: dict[str, str], found: str) -> None:
    assert process.supervisor(mode, environment) == found


def test_pid_file(tmp_path: Path) -> None:
    path = tmp_path / "pid"
    assert process.write_pidfile(str(path), 77) == ""
    assert path.read_text() == "77\n"
    assert "Failed to write PID file" in process.write_pidfile(str(tmp_path / "none" / "pid"), 77)


def fake_limit(monkeypatch: pytest.MonkeyPatch, soft: int, hard: int, *, may_raise_hard: bool) -> dict[str, int]:
    state = {"soft": soft, "hard": hard}

    def set_limit(kind: int, limits: tuple[int, int]) -> None:
        if limits[1] > state["hard"] and not may_raise_hard:
            raise ValueError("not allowed to raise maximum limit")
        state["soft"], state["hard"] = limits

    monkeypatch.setattr(resource, "getrlimit", lambda kind: (state["soft"], state["hard"]))
    monkeypatch.setattr(resource, "setrlimit", set_limit)
    return state


def test_enough_descriptors(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_limit(monkeypatch, 1 << 20, 1 << 20, may_raise_hard=False)
    lines: list[str] = []
    assert process.adjust_open_files(10_000, lambda level, text: lines.append(text)) == 10_000
    assert lines == []


def test_the_soft_limit_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    state = fake_limit(monkeypatch, 1024, 1 << 20, may_raise_hard=False)
    lines: list[str] = []
    assert process.adjust_open_files(10_000, lambda level, text: lines.append(text)) == 10_000
    assert state["soft"] == 10_544
    assert lines == ["Increased maximum number of open files to 10544 (it was originally set to 1024)."]


def test_the_hard_limit_lowers_maxclients(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_limit(monkeypatch, 1024, 4096, may_raise_hard=False)
    lines: list[str] = []
    allowed = process.adjust_open_files(10_000, lambda level, text: lines.append(text))
    assert allowed == 4096 - 544
    assert f"maxclients has been reduced to {allowed}" in lines[-1]


def test_memory_figures_are_plausible() -> None:
    figures = process.memory_figures(PosixFileSystem())
    assert 1 << 20 < figures["rss"] <= figures["peak"] < figures["total"]


def test_config_rewrite(tmp_path: Path) -> None:
    path = tmp_path / "c.conf"
    path.write_text("# mine\ntimeout 5\n")
    config = ConfigStore({"timeout": 5}, path=str(path))
    lines: list[str] = []
    host = ProcessHost(config, PosixFileSystem(), lambda level, text: lines.append(text))
    config.set([(b"timeout", b"7")])
    assert host.rewrite_config() == b"+OK\r\n"
    assert path.read_text() == "# mine\ntimeout 7\n"
    assert os.listdir(tmp_path) == ["c.conf"]
    path.unlink()
    config.path = str(tmp_path / "none" / "c.conf")
    assert host.rewrite_config() == b"-ERR Rewriting config file: No such file or directory\r\n"
    config.path = ""
    assert host.rewrite_config() == b"-ERR The server is running without a config file\r\n"


def test_a_stall_reaches_the_loop() -> None:
    host = ProcessHost(ConfigStore(), PosixFileSystem(), lambda level, text: None)
    host.stall_until(5)
    stalled: list[int] = []
    host.stall = stalled.append
    host.stall_until(7)
    assert stalled == [7]
