"""Sizes, names and docstrings of files and functions."""

from __future__ import annotations

import ast
import statistics
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "respkv"
FILES = sorted(PACKAGE.rglob("*.py"))
FILE_LINES_MAX = 600
FUNCTION_LINES_MAX = 70
HOT_LINES_MAX = 120
BANNED_NAMES = {"utils.py", "helpers.py", "common.py", "manager.py", "util.py", "misc.py"}


def long_functions(source: str) -> list[str]:
    """Functions over their limit; a mark ``# HOT:`` at the definition raises it."""
    lines = source.splitlines()
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            size = (node.end_lineno or node.lineno) - node.lineno + 1
            head = "\n".join(lines[max(0, node.lineno - 2) : node.body[0].lineno])
            limit = HOT_LINES_MAX if "# HOT:" in head else FUNCTION_LINES_MAX
            if size > limit:
                found.append(f"{node.name}: {size} lines, at most {limit}")
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_file(path: Path) -> None:
    source = path.read_text()
    assert source.count("\n") <= FILE_LINES_MAX
    assert long_functions(source) == []
    assert path.name not in BANNED_NAMES
    if source.strip():
        assert ast.get_docstring(ast.parse(source)), "a module says what it owns"


def test_the_median_file_is_short() -> None:
    assert statistics.median(path.read_text().count("\n") for path in FILES) <= 200


def test_a_planted_giant_is_found() -> None:
    body = "    x = 1\n" * FUNCTION_LINES_MAX
    assert long_functions(f"def giant() -> None:\n{body}")
    assert not long_functions(f"def giant() -> None:  # HOT: it\n{body}")
    assert long_functions(f"def giant() -> None:  # HOT: it\n{body * 2}")


def test_the_project_speaks_of_itself_alone() -> None:
    root = PACKAGE.parent
    pairs = (("/wo", "rk/"), ("sub", "agent"), ("farm", "-studio"), ("farm", "-bench"), ("py", "pi.org"))
    words = ["".join(pair) for pair in pairs]
    suffixes = {".py", ".md", ".toml", ".conf", ".service", ".json", ""}
    skipped = {".git", ".venv", ".mypy_cache", ".ruff_cache", ".pytest_cache", ".hypothesis", "build", "dist"}
    for path in root.rglob("*"):
        parts = path.relative_to(root).parts
        if path.is_file() and path.suffix in suffixes and not skipped & set(parts) and "egg-info" not in str(path):
            text = path.read_text(errors="replace")
            assert not [word for word in words if word in text], path
