"""Who may import whom, and what only some rooms may use. Read from the source, nothing is imported."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "respkv"
#: Upper rooms may import lower ones; rooms on one line do not know each other.
LAYERS = [
    ("cli",),
    ("server", "testing"),
    ("node",),
    ("commands", "worker"),
    ("consensus",),
    ("replication",),
    ("cluster",),
    ("keyspace",),
    ("storage", "causality", "wire", "resp"),
    ("metrics", "config"),
    ("env",),
    ("base",),
]
RANK = {room: rank for rank, rooms in enumerate(LAYERS) for room in rooms}
EVENT_LOOP_ONLY = {"trio", "socket", "select", "threading", "subprocess", "asyncio", "multiprocessing"}
ENV_ONLY = {"time", "random"}
FILES = sorted(PACKAGE.rglob("*.py"))


def room_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE).parts
    return parts[0] if len(parts) > 1 else "cli"


def imports(tree: ast.AST, *, typing_too: bool) -> Iterator[tuple[int, str]]:
    """(line, module) of every import; those under TYPE_CHECKING only when asked."""
    skipped: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test) and not typing_too:
            skipped.update(child for statement in node.body for child in ast.walk(statement))
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            for name in node.names:
                yield node.lineno, name.name
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.lineno, node.module
            for name in node.names:
                yield node.lineno, f"{node.module}.{name.name}"


def layer_problems(path: Path, source: str, room: str) -> list[str]:
    """What in a file breaks the order of the rooms."""
    found = []
    for line, module in imports(ast.parse(source), typing_too=True):
        parts = module.split(".")
        if parts[0] != "respkv" or len(parts) < 2 or parts[1] not in RANK:
            continue
        other = parts[1]
        if other != room and RANK[other] <= RANK[room]:
            found.append(f"{path.name}:{line}: {room} imports {other}")
    return found


def banned_problems(path: Path, source: str, room: str) -> list[str]:
    """Modules and calls that a room may not use."""
    tree = ast.parse(source)
    found = []
    for line, module in imports(tree, typing_too=False):
        top = module.split(".")[0]
        if top in EVENT_LOOP_ONLY and room not in ("server", "cli"):
            found.append(f"{path.name}:{line}: {top} outside server and cli")
        if top in ENV_ONLY and room not in ("env", "testing"):
            found.append(f"{path.name}:{line}: {top} outside env")
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "open" and room != "env":
            found.append(f"{path.name}:{node.lineno}: open() outside env")
        if isinstance(node, ast.AsyncFunctionDef | ast.Await) and room not in ("server", "cli"):
            found.append(f"{path.name}:{node.lineno}: async outside server and cli")
        if isinstance(node, ast.ExceptHandler):
            if node.type is None:
                found.append(f"{path.name}:{node.lineno}: bare except")
            elif isinstance(node.type, ast.Name) and node.type.id == "Exception" and room not in ("server", "cli"):
                found.append(f"{path.name}:{node.lineno}: except Exception below server")
        if isinstance(node, ast.Raise) and node.exc is not None and "NotImplementedError" in ast.dump(node.exc):
            found.append(f"{path.name}:{node.lineno}: NotImplementedError")
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_room_keeps_its_place(path: Path) -> None:
    source, room = path.read_text(), room_of(path)
    assert layer_problems(path, source, room) + banned_problems(path, source, room) == []


def test_a_planted_import_is_found() -> None:
    path = PACKAGE / "storage" / "planted.py"
    assert layer_problems(path, "from respkv.keyspace import keys\n", "storage")
    assert layer_problems(path, "from respkv.resp.reply import OK\n", "storage")
    assert not layer_problems(path, "from respkv.base import ids\n", "storage")
    assert banned_problems(path, "import time\n", "storage")
    assert banned_problems(path, "import socket\n", "storage")
    assert banned_problems(path, "def f():\n    return open('x')\n", "storage")
    assert banned_problems(path, "try:\n    pass\nexcept:\n    pass\n", "storage")
    assert banned_problems(path, "async def f() -> None: ...\n", "storage")


def test_every_room_is_ranked() -> None:
    rooms = {path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert rooms <= RANK.keys()
