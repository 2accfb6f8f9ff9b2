"""When the server executes itself again for huge pages, and with which environment."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from respkv.server import huge_pages

MADVISE = "always [madvise] never\n"
ASKED = {huge_pages.MARK: "ask"}


def ask(environment: dict[str, str], setting: str = MADVISE, libc: str = "glibc 2.36") -> dict[str, str] | None:
    return huge_pages.environment_with_huge_pages(environment, setting=setting, libc=libc)


def test_it_asks_where_huge_pages_are_given_on_request() -> None:
    environment = ask({"HOME": "/root", huge_pages.MARK: "ask"})
    assert environment == {"HOME": "/root", huge_pages.TUNABLES: "glibc.malloc.hugetlb=1", huge_pages.MARK: "yes"}
    assert huge_pages.granted(environment)


def test_other_tunables_stay() -> None:
    environment = ask({huge_pages.TUNABLES: "glibc.malloc.check=1", huge_pages.MARK: "ask"})
    assert environment is not None
    assert environment[huge_pages.TUNABLES] == "glibc.malloc.check=1:glibc.malloc.hugetlb=1"


@pytest.mark.parametrize(
    ("environment", "setting", "libc"),
    [
        (ASKED, "[always] madvise never", "glibc 2.36"),
        (ASKED, "always madvise [never]", "glibc 2.36"),
        (ASKED, "", "glibc 2.36"),
        (ASKED, MADVISE, "glibc 2.34"),
        (ASKED, MADVISE, "musl 1.2"),
        (ASKED, MADVISE, ""),
        (ASKED, MADVISE, "glibc rolling"),
        ({}, MADVISE, "glibc 2.36"),
        ({huge_pages.MARK: "no"}, MADVISE, "glibc 2.36"),
        ({huge_pages.MARK: "yes"}, MADVISE, "glibc 2.36"),
        ({**ASKED, huge_pages.TUNABLES: "glibc.malloc.hugetlb=2"}, MADVISE, "glibc 2.36"),
    ],
)
def test_it_leaves_everything_as_it_is(environment: dict[str, str], setting: str, libc: str) -> None:
    assert ask(environment, setting, libc) is None


def test_a_program_is_executed_once_more_with_its_arguments_and_its_pid(tmp_path: Path) -> None:
    setting = tmp_path / "enabled"
    setting.write_text(MADVISE)
    script = tmp_path / "program.py"
    script.write_text(
        "import os, sys\n"
        "from respkv.env.posix import PosixFileSystem\n"
        "from respkv.server import huge_pages\n"
        f"huge_pages.SETTING = {str(setting)!r}\n"
        "print(os.getpid(), flush=True)\n"
        "huge_pages.ask_for_huge_pages(PosixFileSystem())\n"
        "print(huge_pages.granted(os.environ), os.environ.get('GLIBC_TUNABLES'), sys.argv[1:], flush=True)\n"
    )
    environment = {**os.environ, huge_pages.TUNABLES: "glibc.malloc.check=0"}
    environment[huge_pages.MARK] = "ask"
    command = [sys.executable, str(script), "--port", "1"]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30, check=True)
    lines = ran.stdout.split("\n")
    libc = os.confstr("CS_GNU_LIBC_VERSION") or ""
    if huge_pages.environment_with_huge_pages(ASKED, setting=MADVISE, libc=libc) is None:
        assert lines[1] == "False glibc.malloc.check=0 ['--port', '1']"
        return
    assert lines[0] == lines[1], "the same process"
    assert lines[2] == "True glibc.malloc.check=0 ['--port', '1']"
