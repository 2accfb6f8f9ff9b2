"""COMMAND: shapes in both protocols, key positions, filters."""

from __future__ import annotations

from typing import Any

import pytest

from respkv.base.errors import CommandError
from respkv.commands import command
from respkv.commands.spec import CommandSpec, KeySpec
from respkv.commands.table import build_table
from respkv.resp import errors
from respkv.resp.reply import encode
from tests.unit.commands.fake_server import FakeServer, decode

TABLE = build_table()

#: Redis 7.0's reply to COMMAND INFO get foo, RESP3.
INFO_OF_GET = (
    b"*2\r\n*10\r\n$3\r\nget\r\n:2\r\n~2\r\n+readonly\r\n+fast\r\n:1\r\n:1\r\n:1\r\n~3\r\n+@read\r\n+@string\r\n+@fast\r\n"
    b"~0\r\n~1\r\n%3\r\n$5\r\nflags\r\n~2\r\n+RO\r\n+access\r\n$12\r\nbegin_search\r\n%2\r\n$4\r\ntype\r\n$5\r\nindex\r\n"
    b"$4\r\nspec\r\n%1\r\n$5\r\nindex\r\n:1\r\n$9\r\nfind_keys\r\n%2\r\n$4\r\ntype\r\n$5\r\nrange\r\n$4\r\nspec\r\n%3\r\n"
    b"$7\r\nlastkey\r\n:0\r\n$7\r\nkeystep\r\n:1\r\n$5\r\nlimit\r\n:0\r\n~0\r\n_\r\n"
)


def raw(*words: str, proto: int = 2) -> bytes:
    """The reply to COMMAND with ``words``, from the whole table."""
    server = FakeServer()
    server.table = TABLE
    session = server.client().session
    argv = [b"COMMAND", *(word.encode() for word in words)]
    spec = TABLE.resolve(argv)
    assert spec is not None and spec.handler is not None and spec.fits(len(argv))
    try:
        return encode(spec.handler(argv, session), proto)
    except CommandError as mistake:
        return mistake.reply


def ask(*words: str) -> Any:
    """The reply, decoded."""
    return decode(raw(*words))[0]


def flat(pairs: list[Any]) -> dict[bytes, Any]:
    return dict(zip(pairs[::2], pairs[1::2]))


def test_info_is_redis_byte_for_byte() -> None:
    assert raw("INFO", "GET", "foo", proto=3) == INFO_OF_GET
    resp2 = INFO_OF_GET.replace(b"~", b"*").replace(b"_", b"$-1").replace(b"begin$-1search", b"begin_search")
    resp2 = (
        resp2.replace(b"find$-1keys", b"find_keys")
        .replace(b"%3\r\n", b"*6\r\n")
        .replace(b"%2\r\n", b"*4\r\n")
    )
    assert raw("INFO", "GET", "foo") == resp2.replace(b"%1\r\n", b"*2\r\n")


def test_command_lists_all_rows() -> None:
    rows = ask()
    assert [row[0].decode() for row in rows] == [spec.name for spec in TABLE.specs]
    assert ask("INFO") == rows
    assert ask("COUNT") == len(rows)
    assert all(len(row) == 10 for row in rows)


def test_containers_carry_their_subcommands() -> None:
    (row,) = ask("INFO", "config")
    assert sorted(inner[0] for inner in row[9]) == [
        b"config|get", b"config|help", b"config|resetstat", b"config|rewrite", b"config|set"
    ]  # fmt: skip
    assert ask("INFO", "Config|GET")[0][:2] == [b"config|get", -3]
    assert ask("INFO", "config|foo", "get|x", "foo|get", "config|") == [None] * 4


def test_docs() -> None:
    docs = flat(ask("DOCS", "HMSET", "foo", "config|get"))
    assert list(docs) == [b"hmset", b"config|get"]
    hmset = flat(docs[b"hmset"])
    assert hmset[b"doc_flags"] == [b"deprecated"]
    assert hmset[b"deprecated_since"] == b"4.0.0"
    assert hmset[b"group"] == b"hash" and hmset[b"since"] == b"2.0.0"
    key, pairs = (flat(argument) for argument in hmset[b"arguments"])
    assert key == {b"name": b"key", b"type": b"key", b"key_spec_index": 0}
    assert pairs[b"type"] == b"block" and pairs[b"flags"] == [b"multiple"]
    assert [flat(inner)[b"name"] for inner in pairs[b"arguments"]] == [b"field", b"value"]


def test_docs_in_resp3_are_maps() -> None:
    assert raw("DOCS", "foo", proto=3) == b"%0\r\n"
    reply = raw("DOCS", "set", proto=3)
    assert reply.startswith(b"%1\r\n$3\r\nset\r\n%6\r\n$7\r\nsummary\r\n")
    assert b"$7\r\nhistory\r\n~5\r\n*2\r\n$6\r\n2.6.12\r\n" in reply
    assert b"$5\r\nflags\r\n~1\r\n+optional\r\n" in reply
    assert b"$12\r\nkey_spec_index\r\n" not in reply and b"$14\r\nkey_spec_index\r\n:0\r\n" in reply


def test_docs_of_everything() -> None:
    docs = flat(ask("DOCS"))
    assert [name.decode() for name in docs] == [spec.name for spec in TABLE.specs]
    for name, parts in docs.items():
        document = flat(parts)
        assert document[b"summary"] and document[b"since"] and document[b"group"], name
    assert b"config|get" in flat(flat(docs[b"config"])[b"subcommands"])


def test_list() -> None:
    names = ask("LIST")
    assert (
        b"get" in names and b"client|id" in names and len(names) == len(set(names)) == len(TABLE.all_specs())
    )
    assert ask("LIST", "FILTERBY", "PATTERN", "HGET*") == [b"hget", b"hgetall", b"hgetdel", b"hgetex"]
    assert ask("LIST", "filterby", "pattern", "*|getredir") == [b"client|getredir"]
    hashes = ask("LIST", "FILTERBY", "ACLCAT", "HASH")
    assert b"hset" in hashes and b"set" not in hashes
    assert ask("LIST", "FILTERBY", "ACLCAT", "foo") == []
    assert ask("LIST", "FILTERBY", "MODULE", "foo") == []


@pytest.mark.parametrize(
    "words",
    [("FOO",), ("FILTERBY",), ("FILTERBY", "PATTERN"), ("FILTERBY", "FOO", "x"), ("FOO", "PATTERN", "x")],
)
def test_list_mistakes(words: tuple[str, ...]) -> None:
    assert raw("LIST", *words) == errors.SYNTAX


@pytest.mark.parametrize(
    ("request_", "keys"),
    [
        ("get k", [b"k"]),
        ("GET k", [b"k"]),
        ("mset a 1 b 2", [b"a", b"b"]),
        ("del a b c", [b"a", b"b", b"c"]),
        ("copy a b", [b"a", b"b"]),
        ("object encoding k", [b"k"]),
        ("bitop and dest a b", [b"dest", b"a", b"b"]),
        ("msetex 2 a 1 b 2", [b"a", b"b"]),
        ("hsetex h FIELDS 1 f v", [b"h"]),
    ],
)
def test_getkeys(request_: str, keys: list[bytes]) -> None:
    assert ask("GETKEYS", *request_.split()) == keys
    assert [key for key, _ in ask("GETKEYSANDFLAGS", *request_.split())] == keys


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        ("foo bar", errors.INVALID_COMMAND),
        ("object foo k", errors.INVALID_COMMAND),
        ("ping hello", errors.NO_KEY_ARGUMENTS),
        ("config get x", errors.NO_KEY_ARGUMENTS),
        ("get a b", errors.INVALID_ARGUMENT_COUNT),
        ("set a", errors.INVALID_ARGUMENT_COUNT),
        ("msetex 5 a 1 b 2", command.INVALID_ARGUMENTS),
        ("msetex x a 1 b 2", command.INVALID_ARGUMENTS),
    ],
)
def test_getkeys_mistakes(request_: str, expected: bytes) -> None:
    assert raw("GETKEYS", *request_.split()) == expected
    assert raw("GETKEYSANDFLAGS", *request_.split()) == expected


@pytest.mark.parametrize(
    ("request_", "flags"),
    [
        ("get k", [b"RO", b"access"]),
        ("set k GET", [b"OW", b"update"]),
        ("set k v GET", [b"RW", b"access", b"update"]),
        ("bitfield k get u8 0", [b"RO", b"access"]),
        ("bitfield k get u8 0 set u8 0 1", [b"RW", b"access", b"update"]),
    ],
)
def test_flags_depend_on_the_request(request_: str, flags: list[bytes]) -> None:
    ((key, found),) = ask("GETKEYSANDFLAGS", *request_.split())
    assert key == b"k" and sorted(found) == sorted(flags)


def test_help() -> None:
    lines = ask("HELP")
    assert lines[0] == b"COMMAND <subcommand> [<arg> [value] [opt] ...]. Subcommands are:"
    assert b"COUNT" in lines and b"HELP" in lines


def spec(*keys: KeySpec) -> CommandSpec:
    return CommandSpec("x", None, 1, keys=keys)


def test_key_ranges() -> None:
    assert command.key_range(()) == (0, 0, 0)
    assert command.key_range((KeySpec(first=1, last=-1, step=2),)) == (1, -1, 2)
    assert command.key_range((KeySpec(first=1, last=1), KeySpec(first=2, last=2))) == (1, 2, 1)
    assert command.key_range((KeySpec(first=2, last=2), KeySpec(first=3, last=-1))) == (2, -1, 1)
    # Gaps, and keys that are counted, cannot be told by three numbers.
    assert command.key_range((KeySpec(first=1, last=1), KeySpec(first=3, last=3))) == (0, 0, 0)
    assert command.key_range((KeySpec(keynum=1, first=2),)) == (0, 0, 0)
    assert command.movable(spec(KeySpec(keynum=1, first=2)))
    assert not command.movable(spec(KeySpec()))


def test_counted_keys_are_told_as_redis_tells_them() -> None:
    row = ask("INFO", "msetex")[0]
    assert b"movablekeys" in row[2] and row[3:6] == [0, 0, 0]
    key_spec = flat(row[8][0])
    assert key_spec[b"begin_search"] == [b"type", b"index", b"spec", [b"index", 1]]
    assert key_spec[b"find_keys"] == [
        b"type", b"keynum", b"spec", [b"keynumidx", 0, b"firstkey", 1, b"keystep", 2]
    ]  # fmt: skip
