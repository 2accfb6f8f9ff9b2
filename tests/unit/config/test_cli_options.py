from __future__ import annotations

import re

import pytest

from respkv.cli.options import Action, Invocation, config_text, parse_arguments, usage_text, version_text
from respkv.config.parser import load


@pytest.mark.parametrize(
    ("arguments", "config_file", "from_stdin", "lines"),
    [
        ("", None, False, ""),
        ("--port", None, False, "port "),
        ("--port 1 --foo 1", None, False, 'port "1" \nfoo "1" '),
        ("--save --foo", None, False, 'save ""\nfoo '),
        ("--SAVE --foo", None, False, 'SAVE ""\nfoo '),
        ("--port 1 --save", None, False, 'port "1" \nsave ""'),
        ("--save 900 1 --x", None, False, 'save "900" "1" \nx '),
        ("--port --foo", None, False, 'port "--foo" '),
        ("--port 1 - --foo 1", None, False, 'port "1" "-" \nfoo "1" '),
        ("--save -1 --foo", None, False, 'save "-1" \nfoo '),
        ("--foo 1 a.conf", None, False, 'foo "1" "a.conf" '),
        ("a.conf --bar", "a.conf", False, "bar "),
        ("a.conf -x", "a.conf", False, '"-x" '),
        ("a.conf --loglevel verbose -", "a.conf", True, 'loglevel "verbose" '),
        ("a.conf - --port 1", "a.conf", False, '"-" \nport "1" '),
        ("- --bad x", None, True, 'bad "x" '),
        ("-", None, True, ""),
        ("-h x", None, False, '"-h" "x" '),
    ],
)
def test_arguments(arguments: str, config_file: str | None, from_stdin: bool, lines: str) -> None:
    found = parse_arguments(arguments.split())
    assert found == Invocation(Action.SERVE, config_file, from_stdin, lines)


def test_name_and_value_in_one_argument() -> None:
    assert parse_arguments(["--port 1", "2"]).lines == 'port 1 "2" '
    assert parse_arguments(["--replicaof h 1", "--foo"]).lines == "replicaof h 1 \nfoo "
    assert parse_arguments(["--port "]).lines == "port  "


def test_values_are_quoted() -> None:
    found = parse_arguments(["--requirepass", 'a "b\n', "--save", "", "--save", "900 1"])
    assert load(found.lines).values == {"requirepass": 'a "b\n', "save": ((900, 1),)}


@pytest.mark.parametrize("arguments", [["-v"], ["--version"], ["-v", "x"]])
def test_version(arguments: list[str]) -> None:
    assert parse_arguments(arguments).action is Action.VERSION
    assert re.fullmatch(
        r"Redis server v=7\.4\.\d+ sha=00000000:0 malloc=libc bits=64 build=[0-9a-f]+ respkv=\d+\.\d+\.\d+",
        version_text(),
    )


@pytest.mark.parametrize("arguments", [["-h"], ["--help"]])
def test_help(arguments: list[str]) -> None:
    assert parse_arguments(arguments).action is Action.HELP
    assert usage_text("redis-server").startswith("Usage: redis-server [/path/to/respkv.conf] [options] [-]\n")
    assert "{program}" not in usage_text("x")


def test_later_sources_win_and_lines_are_counted_as_redis_does() -> None:
    found = parse_arguments(["a.conf", "--timeout", "3", "-"])
    text = config_text(found, file_text="timeout 1\n", stdin_text="timeout 2\n")
    assert load(text).values == {"timeout": 3}
    assert config_text(parse_arguments(["--foo"])) == "\nfoo "
    assert config_text(parse_arguments([]), file_text="x") == "x"
    assert config_text(parse_arguments(["a"]), file_text="x\n", stdin_text="not asked for") == "x\n"
