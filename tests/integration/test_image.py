"""The entry point of the image: what it makes of its arguments, with a program in the server's place that tells."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

import respkv

Run = Callable[..., list[str]]

ENTRYPOINT = Path(respkv.__file__).resolve().parent.parent / "conf" / "docker-entrypoint.sh"


def program(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """``run(arguments, user=1000, mask=0o22)``: what the image would run, and with which mask."""
    tell = 'echo "$(basename "$0")${*:+ $*}"; umask'
    for name in ("redis-server", "respkv-server", "other"):
        program(tmp_path / name, tell)
    # The second start, as redis, is another user's.
    program(tmp_path / "id", 'echo "${FAKE_USER}"')
    program(tmp_path / "setpriv", 'shift 3; FAKE_USER=999 exec "$@"')
    program(tmp_path / "find", 'echo "$*" > chowned')

    def start(*arguments: str, user: int = 1000, mask: int = 0o22) -> list[str]:
        result = subprocess.run(
            ["sh", str(ENTRYPOINT), *arguments] if user else [str(ENTRYPOINT), *arguments],
            capture_output=True,
            text=True,
            check=True,
            cwd=tmp_path,
            umask=mask,
            timeout=20,
            env={"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}", "FAKE_USER": str(user)},
        )
        return result.stdout.split("\n")[:2]

    return start


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("redis-server", "redis-server"),
        ("respkv-server", "respkv-server"),
        ("--port 7", "redis-server --port 7"),
        ("--version", "redis-server --version"),
        ("respkv-server -v", "respkv-server -v"),
        ("some.conf", "redis-server some.conf"),
        ("redis-server some.conf --port 7", "redis-server some.conf --port 7"),
        ("-", "redis-server -"),
        ("- --port 7", "redis-server - --port 7"),
        ("other -x", "other -x"),
    ],
)
def test_what_is_run(run: Run, arguments: str, expected: str) -> None:
    for user in (1000, 0):
        assert run(*arguments.split(), user=user)[0] == expected


def test_root_hands_the_data_over_and_data_is_private(run: Run, tmp_path: Path) -> None:
    assert run("redis-server", user=0) == ["redis-server", "0077"]
    assert "-user redis -exec chown redis" in (tmp_path / "chowned").read_text()
    assert run("redis-server", mask=0o27)[1] == "0027", "a mask set on purpose stays"
    assert run("other")[1] == "0022"
