"""The command table against what a live Redis says of the same commands (``compat/reference``)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from respkv.commands.command import find, info_of, key_range
from respkv.commands.spec import Arg, CommandSpec
from respkv.commands.table import build_table
from respkv.resp.reply import encode

REFERENCE = Path(__file__).parents[3] / "compat" / "reference"
TABLE = build_table()


def recorded(name: str) -> dict[str, Any]:
    commands: dict[str, Any] = json.loads((REFERENCE / name).read_text())["commands"]
    return commands


INFO = recorded("command_info.json")
DOCS = recorded("command_docs.json")

#: (command, what) -> why our row says something else than Redis 7.0.
DIFFERENT: dict[tuple[str, str], str] = {
    ("scan", "tips"): "7.2 added the response policy",
    ("quit", "deprecated_since"): "deprecated by 7.2",
    ("quit", "replaced_by"): "deprecated by 7.2",
}


def row(name: str) -> CommandSpec:
    spec = find(TABLE, name.encode())
    assert spec is not None, f"{name} has gone from the table; record the reference again"
    return spec


def decoded(spec: CommandSpec) -> dict[str, Any]:
    """The row as COMMAND INFO sends it, in the form of the reference."""
    name, arity, flags, first, last, step, categories, tips, key_specs, _ = parse(encode(info_of(spec), 3))
    assert name == spec.name
    for keys in key_specs:
        keys["flags"].sort()
    return {
        "arity": arity,
        "flags": sorted(flags),
        "keys": [first, last, step],
        "acl": sorted(categories),
        "tips": sorted(tips),
        "key_specs": key_specs,
    }


def documented(name: str, what: str) -> str:
    """An attribute of the row as text without Markdown's marks, empty when it has none."""
    text: str = getattr(row(name), what)
    return text.replace("`", "")


def parse(data: bytes) -> Any:
    """RESP3 to JSON types, sets as lists."""
    value, rest = _parse(data)
    assert rest == b""
    return value


def _parse(data: bytes) -> tuple[Any, bytes]:
    line, rest = data.split(b"\r\n", 1)
    kind, argument = line[:1], line[1:]
    if kind == b"+":
        return argument.decode(), rest
    if kind == b":":
        return int(argument), rest
    if kind == b"_":
        return None, rest
    size = int(argument)
    if kind == b"$":
        return rest[:size].decode(), rest[size + 2 :]
    items = []
    for _ in range(size * (2 if kind == b"%" else 1)):
        item, rest = _parse(rest)
        items.append(item)
    if kind == b"%":
        return dict(zip(items[::2], items[1::2])), rest
    assert kind in b"*~", line
    return items, rest


def test_reference_covers_the_table() -> None:
    """Most of our commands are Redis 7.0's; a recording of next to nothing would prove next to nothing."""
    assert len(INFO) == len(DOCS)
    assert len(INFO) > 0.75 * len(TABLE.all_specs())


@pytest.mark.parametrize("what", ["arity", "flags", "keys", "acl", "tips", "key_specs"])
def test_command_info(what: str) -> None:
    wrong = {}
    for name, expected in INFO.items():
        found = decoded(row(name))[what]
        wanted = expected[what]
        if what == "key_specs":
            for keys in (*found, *wanted):
                keys.pop("notes", None)
        if found != wanted and (name, what) not in DIFFERENT:
            wrong[name] = (found, wanted)
    assert wrong == {}


@pytest.mark.parametrize("what", ["group", "since", "deprecated_since", "replaced_by"])
def test_command_docs(what: str) -> None:
    wrong = {}
    for name, expected in DOCS.items():
        found, wanted = documented(name, what), expected.get(what, "").replace("`", "")
        if found != wanted and (name, what) not in DIFFERENT:
            wrong[name] = (found, wanted)
    assert wrong == {}


def tokens(args: tuple[Arg, ...]) -> set[str]:
    found: set[str] = set()
    for arg in args:
        if arg.token:
            found.add(arg.token)
        found |= tokens(arg.args)
    return found


def recorded_tokens(args: list[dict[str, Any]]) -> set[str]:
    found: set[str] = set()
    for arg in args:
        if arg.get("token"):
            found.add(arg["token"])
        found |= recorded_tokens(arg.get("arguments", []))
    return found


def test_every_token_of_redis_is_documented() -> None:
    """Newer options may come on top; none of 7.0 may be missing."""
    missing = {}
    for name, expected in DOCS.items():
        lacking = recorded_tokens(expected.get("arguments", [])) - tokens(row(name).args)
        if lacking and (name, "tokens") not in DIFFERENT:
            missing[name] = lacking
    assert missing == {}


def test_exceptions_are_needed() -> None:
    """An entry of DIFFERENT that has become true must go."""
    for (name, what), reason in DIFFERENT.items():
        assert reason
        if what == "tokens":
            assert recorded_tokens(DOCS[name].get("arguments", [])) - tokens(row(name).args)
        elif what in ("group", "since", "deprecated_since", "replaced_by"):
            assert documented(name, what) != DOCS[name].get(what, "").replace("`", "")
        else:
            assert decoded(row(name))[what] != INFO[name][what]


def test_key_positions_agree_with_key_specs() -> None:
    for spec in TABLE.all_specs():
        if spec.keys and key_range(spec.keys) != (0, 0, 0):
            argv = [b"x"] * max(abs(spec.arity), 8)
            first, last, step = key_range(spec.keys)
            end = last if last >= 0 else len(argv) + last
            positions = [at for keys in spec.keys for at in keys.keys(argv)]
            assert positions == list(range(first, end + 1, step)), spec.name
