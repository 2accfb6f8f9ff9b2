"""Expiry of single fields."""

from __future__ import annotations

from typing import Any

import pytest

from respkv.commands import hash_expire
from respkv.resp import errors
from tests.unit.commands.harness import Harness


def with_fields(**fields: str) -> Harness:
    h = Harness()
    h("HSET", "h", *(word for pair in fields.items() for word in pair))
    return h


def pttl(h: Harness, *fields: str) -> Any:
    return h("HPTTL", "h", "FIELDS", len(fields), *fields)


@pytest.mark.parametrize(
    ("command", "seconds", "relative"),
    [
        ("HEXPIRE", True, True),
        ("HPEXPIRE", False, True),
        ("HEXPIREAT", True, False),
        ("HPEXPIREAT", False, False),
    ],
)
def test_hexpire_family(command: str, seconds: bool, relative: bool) -> None:
    h = with_fields(a="1", b="2")
    when = 10 if seconds else 10_000
    if not relative:
        when += h.now_ms // 1000 if seconds else h.now_ms
    assert h(command, "h", when, "FIELDS", "2", "a", "absent") == [1, -2]
    assert pttl(h, "a", "b", "absent") == [10_000, -1, -2]
    h.advance_ms(9_999)
    assert h("HGET", "h", "a") == b"1"
    h.advance_ms(1)
    assert h("HGETALL", "h") == [b"b", b"2"]
    assert [h("HEXISTS", "h", "a"), h("HSTRLEN", "h", "a"), h("HDEL", "h", "a")] == [0, 0, 0]
    assert pttl(h, "a") == [-2]


def test_times_left() -> None:
    h = with_fields(a="1", b="2")
    h("HPEXPIREAT", "h", "1700000100001", "FIELDS", "1", "a")
    h.advance_ms(1)
    assert h("HTTL", "h", "FIELDS", "3", "a", "b", "c") == [100, -1, -2]
    h.advance_ms(1)
    assert h("HTTL", "h", "FIELDS", "1", "a") == [100]
    assert h("HPTTL", "h", "FIELDS", "1", "a") == [99_999]
    assert h("HEXPIRETIME", "h", "FIELDS", "2", "a", "b") == [1_700_000_101, -1]
    assert h("HPEXPIRETIME", "h", "FIELDS", "2", "a", "c") == [1_700_000_100_001, -2]


def test_an_absent_key_has_no_fields() -> None:
    h = Harness()
    assert h("HEXPIRE", "h", "1", "FIELDS", "2", "a", "b") == [-2, -2]
    for command in ("HTTL", "HPTTL", "HEXPIRETIME", "HPEXPIRETIME", "HPERSIST"):
        assert h(command, "h", "FIELDS", "2", "a", "b") == [-2, -2]
    assert h("HGETDEL", "h", "FIELDS", "1", "a") == [None]
    assert h("HGETEX", "h", "EX", "5", "FIELDS", "1", "a") == [None]
    assert h("EXISTS", "h") == 0


def test_the_last_field_takes_the_key_when_it_expires() -> None:
    h = with_fields(a="1")
    h("HPEXPIRE", "h", "5", "FIELDS", "1", "a")
    h.advance_ms(5)
    h.expire()
    assert h("EXISTS", "h") == 0


@pytest.mark.parametrize(
    ("condition", "old_ms", "new_ms", "answer"),
    [
        ("NX", 0, 500, 1),
        ("NX", 1000, 500, 0),
        ("XX", 0, 500, 0),
        ("XX", 1000, 500, 1),
        ("GT", 0, 500, 0),
        ("GT", 1000, 1001, 1),
        ("GT", 1000, 1000, 0),
        ("LT", 0, 500, 1),
        ("LT", 1000, 999, 1),
        ("LT", 1000, 1000, 0),
        ("lt", 1000, 0, 2),
        ("GT", 1000, 0, 0),
    ],
)
def test_conditions(condition: str, old_ms: int, new_ms: int, answer: int) -> None:
    h = with_fields(a="1", b="2")
    if old_ms:
        h("HPEXPIRE", "h", old_ms, "FIELDS", "1", "a")
    assert h("HPEXPIRE", "h", new_ms, condition, "FIELDS", "1", "a") == [answer]
    left = {0: old_ms or -1, 1: new_ms, 2: -2}[answer]
    assert pttl(h, "a") == [left]


@pytest.mark.parametrize(
    "words", [("HEXPIRE", "0"), ("HPEXPIRE", "0"), ("HEXPIREAT", "0"), ("HPEXPIREAT", "5")]
)
def test_a_past_time_deletes(words: tuple[str, str]) -> None:
    h = with_fields(a="1", b="2")
    command, when = words
    assert h(command, "h", when, "FIELDS", "3", "a", "a", "x") == [2, -2, -2]
    assert h("HGETALL", "h") == [b"b", b"2"]
    assert h(command, "h", when, "FIELDS", "1", "b") == [2]
    assert h("EXISTS", "h") == 0


def test_a_field_named_twice() -> None:
    h = with_fields(a="1")
    assert h("HPEXPIRE", "h", "100", "NX", "FIELDS", "2", "a", "a") == [1, 0]
    assert h("HPERSIST", "h", "FIELDS", "2", "a", "a") == [1, -1]
    assert pttl(h, "a") == [-1]


def test_hpersist() -> None:
    h = with_fields(a="1", b="2")
    h("HEXPIRE", "h", "10", "FIELDS", "1", "a")
    assert h("HPERSIST", "h", "FIELDS", "3", "a", "b", "c") == [1, -1, -2]
    h.advance_ms(20_000)
    assert h("HGET", "h", "a") == b"1"


def test_writing_a_field_drops_its_expiry_but_counting_keeps_it() -> None:
    h = with_fields(a="1", b="2", c="3")
    h("HPEXPIRE", "h", "100", "FIELDS", "3", "a", "b", "c")
    h("HSET", "h", "a", "5")
    h("HINCRBY", "h", "b", "5")
    h("HINCRBYFLOAT", "h", "c", "0.5")
    assert pttl(h, "a", "b", "c") == [-1, 100, 100]
    h.advance_ms(100)
    assert h("HINCRBY", "h", "b", "1") == 1
    assert pttl(h, "b") == [-1]


@pytest.mark.parametrize("command", ["HEXPIRE", "HPEXPIRE", "HEXPIREAT", "HPEXPIREAT"])
def test_hexpire_mistakes(command: str) -> None:
    h = with_fields(a="1")
    assert h.raw(command, "h", "x", "FIELDS", "1", "a") == errors.NOT_INTEGER
    assert h.raw(command, "h", "-1", "FIELDS", "1", "a") == hash_expire.EXPIRE_NEGATIVE
    assert h.raw(command, "h", 1 << 46, "FIELDS", "1", "a") == errors.invalid_expire(command.lower())
    assert h.raw(command, "h", "1", "FOO", "1", "a") == hash_expire.NO_FIELDS_WORD
    assert h.raw(command, "h", "1", "NX", "FOO", "1", "a") == hash_expire.NO_FIELDS_WORD
    assert h.raw(command, "h", "1", "NX", "XX", "FIELDS", "1", "a") == hash_expire.NO_FIELDS_WORD
    assert h.raw(command, "h", "1", "FIELDS", "0", "a") == hash_expire.EXPIRE_FIELD_COUNT
    assert h.raw(command, "h", "1", "FIELDS", "x", "a") == hash_expire.EXPIRE_FIELD_COUNT
    assert h.raw(command, "h", "1", "FIELDS", "2", "a") == hash_expire.FIELD_COUNT_DIFFERS
    assert h.raw(command, "h", "1", "FIELDS", "1", "a", "b") == hash_expire.FIELD_COUNT_DIFFERS
    assert h.raw(command, "h", "1", "GT", "a", "FIELDS") == hash_expire.NO_FIELDS_WORD
    assert h.raw(command, "h", "1", "a", "b", "FIELDS") == hash_expire.NO_FIELDS_WORD
    assert pttl(h, "a") == [-1]


def test_the_latest_expiry() -> None:
    h = with_fields(a="1")
    last = hash_expire.EXPIRE_AT_MS_MAX
    assert h("HPEXPIREAT", "h", last, "FIELDS", "1", "a") == [1]
    assert h("HPEXPIRETIME", "h", "FIELDS", "1", "a") == [last]
    assert h.raw("HPEXPIRE", "h", last - h.now_ms + 1, "FIELDS", "1", "a") == errors.invalid_expire(
        "hpexpire"
    )


@pytest.mark.parametrize("command", ["HTTL", "HPTTL", "HEXPIRETIME", "HPEXPIRETIME", "HPERSIST", "HGETDEL"])
def test_named_fields_mistakes(command: str) -> None:
    h = with_fields(a="1")
    assert h.raw(command, "h", "FOO", "1", "a") == hash_expire.NO_FIELDS_WORD
    assert h.raw(command, "h", "FIELDS", "0", "a") == hash_expire.FIELD_COUNT
    assert h.raw(command, "h", "FIELDS", "-1", "a") == hash_expire.FIELD_COUNT
    assert h.raw(command, "h", "FIELDS", "x", "a") == hash_expire.FIELD_COUNT
    assert h.raw(command, "h", "FIELDS", "2", "a") == hash_expire.FIELD_COUNT_DIFFERS
    assert h("HGET", "h", "a") == b"1"


@pytest.mark.parametrize(
    "words",
    [
        ("HEXPIRE", "s", "1", "FIELDS", "1", "a"),
        ("HTTL", "s", "FIELDS", "1", "a"),
        ("HPERSIST", "s", "FIELDS", "1", "a"),
        ("HGETDEL", "s", "FIELDS", "1", "a"),
        ("HGETEX", "s", "FIELDS", "1", "a"),
        ("HSETEX", "s", "FIELDS", "1", "a", "v"),
    ],
)
def test_wrong_type(words: tuple[str, ...]) -> None:
    h = Harness()
    h("SET", "s", "v")
    assert h.raw(*words) == errors.WRONG_TYPE


def test_hgetdel() -> None:
    h = with_fields(a="1", b="2", c="3")
    assert h("HGETDEL", "h", "FIELDS", "3", "a", "x", "a") == [b"1", None, None]
    assert h("HGETALL", "h") == [b"b", b"2", b"c", b"3"]
    assert h("HGETDEL", "h", "fields", "2", "b", "c") == [b"2", b"3"]
    assert h("EXISTS", "h") == 0


def test_hgetex() -> None:
    h = with_fields(a="1", b="2")
    assert h("HGETEX", "h", "FIELDS", "2", "a", "x") == [b"1", None]
    assert pttl(h, "a") == [-1]
    now_s = h.now_ms // 1000
    for option, when, left in (
        ("EX", 5, 5000),
        ("px", 77, 77),
        ("EXAT", now_s + 9, 9000),
        ("PXAT", h.now_ms + 8, 8),
    ):
        assert h("HGETEX", "h", option, when, "FIELDS", "2", "a", "x") == [b"1", None]
        assert pttl(h, "a", "b", "x") == [left, -1, -2]
    assert h("HGETEX", "h", "PERSIST", "FIELDS", "2", "a", "b") == [b"1", b"2"]
    assert pttl(h, "a", "b") == [-1, -1]


def test_hgetex_with_a_past_time_reads_and_deletes() -> None:
    h = with_fields(a="1", b="2")
    assert h("HGETEX", "h", "PXAT", "0", "FIELDS", "2", "a", "a") == [b"1", None]
    assert h("HGETEX", "h", "EX", "0", "FIELDS", "1", "b") == [b"2"]
    assert h("EXISTS", "h") == 0


def test_hgetex_mistakes() -> None:
    h = with_fields(a="1")
    assert h.raw("HGETEX", "h", "FOO", "1", "a") == hash_expire.NO_FIELDS_WORD
    assert h.raw("HGETEX", "h", "EX", "5", "a") == hash_expire.NO_FIELDS_WORD
    assert h.raw("HGETEX", "h", "EX", "5", "FIELDS") == hash_expire.FIELD_COUNT
    assert h.raw("HGETEX", "h", "EX", "5", "PERSIST", "FIELDS", "1", "a") == hash_expire.NO_FIELDS_WORD
    assert h.raw("HGETEX", "h", "EX", "x", "FIELDS", "1", "a") == errors.NOT_INTEGER
    assert h.raw("HGETEX", "h", "EX", "-1", "FIELDS", "1", "a") == hash_expire.EXPIRE_NEGATIVE
    assert h.raw("HGETEX", "h", "EX", 1 << 45, "FIELDS", "1", "a") == errors.invalid_expire("hgetex")
    assert h.raw("HGETEX", "h", "FIELDS", "0", "a") == hash_expire.FIELD_COUNT
    assert h.raw("HGETEX", "h", "FIELDS", "2", "a") == hash_expire.FIELD_COUNT_DIFFERS


def test_hsetex() -> None:
    h = Harness()
    assert h("HSETEX", "h", "PX", "100", "FIELDS", "2", "a", "1", "b", "2") == 1
    assert pttl(h, "a", "b") == [100, 100]
    assert h("HSETEX", "h", "KEEPTTL", "FIELDS", "2", "a", "5", "c", "3") == 1
    assert h("HGETALL", "h") == [b"a", b"5", b"b", b"2", b"c", b"3"]
    assert pttl(h, "a", "b", "c") == [100, 100, -1]
    assert h("HSETEX", "h", "FIELDS", "1", "a", "6") == 1
    assert pttl(h, "a") == [-1]
    now_s = h.now_ms // 1000
    assert h("HSETEX", "h", "EXAT", now_s + 3, "FIELDS", "1", "a", "7") == 1
    assert h("HSETEX", "h", "EX", "4", "FIELDS", "1", "b", "8") == 1
    assert h("HSETEX", "h", "pxat", h.now_ms + 50, "FIELDS", "1", "c", "9") == 1
    assert pttl(h, "a", "b", "c") == [3000, 4000, 50]


def test_hsetex_conditions() -> None:
    h = Harness()
    assert h("HSETEX", "h", "FXX", "FIELDS", "1", "a", "1") == 0
    assert h("EXISTS", "h") == 0
    assert h("HSETEX", "h", "FNX", "EX", "9", "FIELDS", "1", "a", "1") == 1
    assert h("HSETEX", "h", "FNX", "FIELDS", "2", "b", "2", "a", "2") == 0
    assert h("HSETEX", "h", "FXX", "FIELDS", "2", "b", "2", "a", "2") == 0
    assert h("HGETALL", "h") == [b"a", b"1"]
    assert h("HSETEX", "h", "EX", "5", "fxx", "FIELDS", "1", "a", "3") == 1
    assert h("HGETALL", "h") == [b"a", b"3"]


def test_hsetex_with_a_past_time_leaves_nothing() -> None:
    h = with_fields(a="1", b="2")
    assert h("HSETEX", "h", "PXAT", "1", "FIELDS", "2", "a", "5", "new", "5") == 1
    assert h("HGETALL", "h") == [b"b", b"2"]
    assert h("HSETEX", "g", "EX", "0", "FIELDS", "1", "a", "5") == 1
    assert h("EXISTS", "g") == 0


def test_hsetex_takes_the_last_of_a_field_named_twice() -> None:
    h = Harness()
    assert h("HSETEX", "h", "FIELDS", "2", "a", "1", "a", "2") == 1
    assert h("HGETALL", "h") == [b"a", b"2"]


def test_hsetex_mistakes() -> None:
    h = Harness()
    arity = errors.wrong_arity("hsetex")
    for words, expected in (
        (("FNX", "FXX", "FIELDS", "1", "a", "1"), hash_expire.ONE_CONDITION),
        (("FNX", "FNX", "FIELDS", "1", "a", "1"), hash_expire.ONE_CONDITION),
        (("EX", "1", "PX", "1", "FIELDS", "1", "a", "1"), hash_expire.ONE_EXPIRY),
        (("EX", "1", "KEEPTTL", "FIELDS", "1", "a", "1"), hash_expire.ONE_EXPIRY),
        (("KEEPTTL", "EX", "1", "FIELDS", "1", "a", "1"), hash_expire.ONE_EXPIRY),
        (("EX", "x", "FIELDS", "1", "a", "1"), errors.NOT_INTEGER),
        (("EX", "-1", "FIELDS", "1", "a", "1"), hash_expire.EXPIRE_NEGATIVE),
        (("PX", 1 << 46, "FIELDS", "1", "a", "1"), errors.invalid_expire("hsetex")),
        (("FNX", "KEEPTTL", "FNX", "EX"), hash_expire.ONE_CONDITION),
        (("FNX", "x", "a", "EX"), b"-ERR unknown argument: x\r\n"),
        (("FXX", "KEEPTTL", "FIELDS", "1"), arity),
        (("FIELDS", "x", "a", "1"), hash_expire.SET_FIELD_COUNT),
        (("FIELDS", "0", "a", "1"), hash_expire.SET_FIELD_COUNT),
        (("FIELDS", "2", "a", "1"), arity),
        (("FIELDS", "1", "a", "1", "b"), arity),
        (("FIELDS", "1", "a", "1", "b", "2"), arity),
    ):
        assert h.raw("HSETEX", "h", *words) == expected, words
    assert h.raw("HSETEX", "h", "FNX", "EX", "5", "EX") == hash_expire.ONE_EXPIRY
    assert h.raw("HSETEX", "h", "FNX", "FNX", "EX", "5") == hash_expire.ONE_CONDITION
    assert h("EXISTS", "h") == 0


def test_hsetex_without_fields() -> None:
    h = Harness()
    assert h.raw("HSETEX", "h", "FNX", "EX", "5", "KEEPTTL") == hash_expire.ONE_EXPIRY
    assert h.raw("HSETEX", "h", "FXX", "KEEPTTL", "FOO", "1") == b"-ERR unknown argument: FOO\r\n"
