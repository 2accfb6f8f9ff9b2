"""What setup.py can compile: the modules exist, and no class outside of them inherits from one inside.

A class that runs as it is cannot inherit from a compiled one (TypeError at import). ``Protocol`` classes and exceptions
may be inherited from: they are not native. ``respkv/testing`` is left out: its planted bugs do inherit, a server
imports none of them, and simulations run uncompiled.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]


def compiled_modules() -> list[str]:
    """Paths in ``COMPILED`` of setup.py."""
    for node in ast.parse((ROOT / "setup.py").read_text()).body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id == "COMPILED":
            assert node.value is not None
            return list(ast.literal_eval(node.value))
    raise AssertionError("setup.py has no COMPILED")


def native_classes(source: str) -> set[str]:
    """Names of the classes of a compiled module that are closed to others."""
    classes = [node for node in ast.parse(source).body if isinstance(node, ast.ClassDef)]
    bases = {node.name: [ast.unparse(base) for base in node.bases] for node in classes}
    open_bases = ("Protocol", "Exception", "NamedTuple", "Enum")
    return {name for name, above in bases.items() if not any(base in open_bases for base in above)}


@cache
def outline(source: str) -> tuple[list[tuple[str, str, str]], list[tuple[str, list[str]]]]:
    """What a module imports by name (module, name, name here), and its classes with their bases."""
    imports, classes = [], []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            imports += [(node.module or "", alias.name, alias.asname or alias.name) for alias in node.names]
        elif isinstance(node, ast.ClassDef):
            classes.append((node.name, [ast.unparse(base) for base in node.bases]))
    return imports, classes


def heirs(sources: Mapping[str, str], compiled: Iterable[str]) -> list[str]:
    """Classes outside ``compiled`` that inherit from a native class, as "path: class"."""
    inside = list(compiled)
    native = {path.removesuffix(".py").replace("/", "."): native_classes(sources[path]) for path in inside}
    found = []
    for path in sorted(sources.keys() - set(inside)):
        imports, classes = outline(sources[path])
        imported = {here for module, name, here in imports if name in native.get(module, ())}
        found += [f"{path}: {name}" for name, bases in classes if not imported.isdisjoint(bases)]
    return found


def all_sources() -> dict[str, str]:
    files = [path for path in (ROOT / "respkv").rglob("*.py") if "testing" not in path.parts]
    files += (ROOT / "tests" / "unit").rglob("*.py")
    return {str(path.relative_to(ROOT)): path.read_text() for path in files}


def test_compiled_modules_exist_once() -> None:
    modules = compiled_modules()
    assert modules == sorted(set(modules)) and len(modules) > 10
    assert [path for path in modules if not (ROOT / path).is_file()] == []


def test_nothing_outside_inherits_from_inside() -> None:
    assert heirs(all_sources(), compiled_modules()) == []


def test_a_planted_heir_is_found() -> None:
    sources = all_sources()
    sources["respkv/node/planted.py"] = "from respkv.keyspace.view import View as V\n\nclass Mine(V):\n    pass\n"
    assert heirs(sources, compiled_modules()) == ["respkv/node/planted.py: Mine"]
    without = [path for path in compiled_modules() if path != "respkv/commands/ring_dispatch.py"]
    assert "respkv/commands/ring_dispatch.py: RingDispatcher" in heirs(sources, without)
