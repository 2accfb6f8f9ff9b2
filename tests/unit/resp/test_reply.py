"""Replies in both protocols, and the error lines."""

from __future__ import annotations

import math
import random

import hiredis
import pytest

from respkv.base.errors import CommandError
from respkv.resp import errors, reply
from respkv.resp.reply import (
    Array,
    Double,
    Map,
    Null,
    NullArray,
    Pairs,
    Push,
    Reply,
    SetReply,
    Verbatim,
    encode,
)


@pytest.mark.parametrize(
    ("value", "resp2", "resp3"),
    [
        (reply.OK, b"+OK\r\n", b"+OK\r\n"),
        (reply.simple(b"PONG"), b"+PONG\r\n", b"+PONG\r\n"),
        (Null(), b"$-1\r\n", b"_\r\n"),
        (NullArray(), b"*-1\r\n", b"_\r\n"),
        (reply.integer(0), b":0\r\n", b":0\r\n"),
        (reply.integer(1023), b":1023\r\n", b":1023\r\n"),
        (reply.integer(1024), b":1024\r\n", b":1024\r\n"),
        (reply.integer(-1), b":-1\r\n", b":-1\r\n"),
        (reply.boolean(True), b":1\r\n", b":1\r\n"),
        (reply.boolean(False), b":0\r\n", b":0\r\n"),
        (reply.bulk(b"a\r\nb"), b"$4\r\na\r\nb\r\n", b"$4\r\na\r\nb\r\n"),
        (reply.optional_bulk(b""), b"$0\r\n\r\n", b"$0\r\n\r\n"),
        (reply.optional_bulk(None), b"$-1\r\n", b"_\r\n"),
        (reply.bulk_array([b"a", b""]), b"*2\r\n$1\r\na\r\n$0\r\n\r\n", b"*2\r\n$1\r\na\r\n$0\r\n\r\n"),
        (reply.array([]), b"*0\r\n", b"*0\r\n"),
        (reply.array([reply.ONE, Null()]), b"*2\r\n:1\r\n$-1\r\n", b"*2\r\n:1\r\n_\r\n"),
        (Array([Array([Null()])]), b"*1\r\n*1\r\n$-1\r\n", b"*1\r\n*1\r\n_\r\n"),
        (Map([]), b"*0\r\n", b"%0\r\n"),
        (Map([(reply.bulk(b"k"), Null())]), b"*2\r\n$1\r\nk\r\n$-1\r\n", b"%1\r\n$1\r\nk\r\n_\r\n"),
        (
            Pairs([(reply.bulk(b"m"), Double(1.5))]),
            b"*2\r\n$1\r\nm\r\n$3\r\n1.5\r\n",
            b"*1\r\n*2\r\n$1\r\nm\r\n,1.5\r\n",
        ),
        (SetReply([reply.ONE]), b"*1\r\n:1\r\n", b"~1\r\n:1\r\n"),
        (Verbatim(b"hi"), b"$2\r\nhi\r\n", b"=6\r\ntxt:hi\r\n"),
        (Push([reply.bulk(b"message")]), b"*1\r\n$7\r\nmessage\r\n", b">1\r\n$7\r\nmessage\r\n"),
    ],
)
def test_both_protocols(value: Reply, resp2: bytes, resp3: bytes) -> None:
    assert encode(value, 2) == resp2
    assert encode(value, 3) == resp3
    for wire in (resp2, resp3):
        reader = hiredis.Reader()
        reader.feed(wire)
        assert reader.gets() is not False
        assert not reader.has_data()


def test_an_array_of_finished_parts_is_finished() -> None:
    assert type(reply.array([reply.ONE, reply.OK])) is bytes
    assert type(reply.array([reply.ONE, reply.NULL])) is Array


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1.0, b"1"),
        (-2.0, b"-2"),
        (0.0, b"0"),
        (-0.0, b"-0"),
        (0.1, b"0.1"),
        (1.5, b"1.5"),
        (math.inf, b"inf"),
        (-math.inf, b"-inf"),
        (math.nan, b"nan"),
        (1e16, b"10000000000000000"),
        (3.0000000000000004, b"3.0000000000000004"),
    ],
)
def test_doubles(value: float, text: bytes) -> None:
    assert reply.format_double(value) == text
    assert encode(Double(value), 3) == b"," + text + b"\r\n"


def test_doubles_read_back() -> None:
    rng = random.Random(5)
    for _ in range(2000):
        value = math.ldexp(rng.uniform(-1, 1), rng.randrange(-1000, 1000))
        assert float(reply.format_double(value)) == value


def test_an_error_is_one_line() -> None:
    assert reply.error(b"ERR a\r\nb\nc") == b"-ERR a  b c\r\n"


def test_error_rows_are_finished_lines_with_a_code() -> None:
    rows = {name: row for name, row in vars(errors).items() if name.isupper() and isinstance(row, bytes)}
    assert len(rows) > 30
    for name, row in rows.items():
        assert row.startswith(b"-") and row.endswith(b"\r\n"), name
        assert b"\n" not in row[:-2], name
        assert row[1:].split(b" ")[0].isupper(), name


def test_errors_with_a_name() -> None:
    assert (
        errors.wrong_arity("client|setname")
        == b"-ERR wrong number of arguments for 'client|setname' command\r\n"
    )
    assert errors.unknown_command([b"foo"]) == b"-ERR unknown command 'foo', with args beginning with: \r\n"
    assert errors.unknown_command([b"foo", b"a", b"b"]) == (
        b"-ERR unknown command 'foo', with args beginning with: 'a' 'b' \r\n"
    )
    assert (
        errors.unknown_subcommand("client", b"foo") == b"-ERR unknown subcommand 'foo'. Try CLIENT HELP.\r\n"
    )
    assert errors.invalid_expire("set") == b"-ERR invalid expire time in 'set' command\r\n"


def test_an_unknown_command_shows_little() -> None:
    shown = errors.unknown_command([b"x" * 1000, *[b"y" * 100] * 100])
    assert len(shown) < 450
    assert shown.count(b"y") == 128 - len(b"'' ")


def test_fail_carries_the_reply() -> None:
    mistake = errors.fail(errors.SYNTAX)
    assert isinstance(mistake, CommandError)
    assert mistake.reply == b"-ERR syntax error\r\n"
