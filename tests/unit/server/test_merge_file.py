"""merge-file: what it may hold, and what is said when it cannot be used."""

from __future__ import annotations

from pathlib import Path

import pytest

from respkv.config.parser import load
from respkv.config.store import ConfigStore
from respkv.env.posix import PosixFileSystem
from respkv.server.merge_file import MergeFileError, load_merges

GOOD = "def joined(values):\n    return b'+'.join(values)\n\nMERGES = {'joined': joined}\n"


def merges_of(path: Path, text: str | bytes, *, beside: str = "") -> object:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    named = path.name if beside else str(path)
    config = ConfigStore(load(f'merge-file "{named}"').values, path=beside)
    return load_merges(config, PosixFileSystem())


def test_functions_by_name(tmp_path: Path) -> None:
    found = merges_of(tmp_path / "merges.py", GOOD)
    assert isinstance(found, dict) and found["joined"]([b"a", b"b"]) == b"a+b"
    assert load_merges(ConfigStore(load("").values), PosixFileSystem()) == {}


def test_a_relative_path_begins_beside_the_configuration(tmp_path: Path) -> None:
    assert merges_of(tmp_path / "merges.py", GOOD, beside=str(tmp_path / "respkv.conf"))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("x = 1\ny = 1 / 0\n", r"merges\.py, line 2: ZeroDivisionError: division by zero"),
        ("x = 1\ndef (\n", r"merges\.py, line 2: SyntaxError: "),
        ("import nothing_of_that_name\n", r"line 1: ModuleNotFoundError: No module named"),
        ("raise SystemExit(3)\n", "line 1: SystemExit: 3"),
        (b"x = '\x00'\n", "null bytes"),
        ("", "has to assign MERGES"),
        ("MERGES = {}\n", "has to assign MERGES"),
        ("MERGES = [len]\n", "has to assign MERGES"),
        ("MERGES = {1: len}\n", "has to assign MERGES"),
    ],
)
def test_what_cannot_be_used(tmp_path: Path, text: str | bytes, reason: str) -> None:
    with pytest.raises(MergeFileError, match=reason):
        merges_of(tmp_path / "merges.py", text)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    config = ConfigStore(load(f'merge-file "{tmp_path}/none.py"').values)
    with pytest.raises(MergeFileError, match=r"merge-file .*none\.py: No such file or directory"):
        load_merges(config, PosixFileSystem())
