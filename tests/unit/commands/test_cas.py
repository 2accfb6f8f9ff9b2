"""Compare-and-set: every line of the dialects' table."""

from __future__ import annotations

import pytest

from respkv.commands import cas, string_set
from respkv.resp import errors
from tests.unit.commands.harness import Harness

_HELLO = "b6acb9d84a38ff74"
_OTHER = "0123456789abcdef"


@pytest.mark.parametrize(
    ("condition", "operand", "sets"),
    [
        ("IFEQ", "Hello world", True),
        ("IFEQ", "hello world", False),
        ("ifne", "other", True),
        ("IFNE", "Hello world", False),
        ("IFDEQ", _HELLO, True),
        ("IFDEQ", _HELLO.upper(), True),
        ("IFDEQ", _OTHER, False),
        ("IFDNE", _OTHER, True),
        ("IFDNE", _HELLO, False),
    ],
)
def test_set_if_on_a_value(condition: str, operand: str, sets: bool) -> None:
    h = Harness()
    h("SET", "k", "Hello world")
    assert h("SET", "k", "new", condition, operand) == (b"OK" if sets else None)
    assert h("GET", "k") == (b"new" if sets else b"Hello world")
    h("SET", "k", "Hello world")
    assert h("SET", "k", "new", condition, operand, "GET") == b"Hello world"
    assert h("GET", "k") == (b"new" if sets else b"Hello world")


@pytest.mark.parametrize(
    ("condition", "creates"),
    [("IFEQ x", False), ("IFNE x", True), (f"IFDEQ {_HELLO}", False), (f"IFDNE {_HELLO}", True)],
)
def test_set_if_on_nothing(condition: str, creates: bool) -> None:
    h = Harness()
    assert h("SET", "k", "v", *condition.split()) == (b"OK" if creates else None)
    assert h("EXISTS", "k") == creates
    assert h("SET", "other", "v", "GET", *condition.split()) is None
    assert h("EXISTS", "other") == creates


def test_set_if_and_the_expiry() -> None:
    h = Harness()
    h("SET", "k", "v", "EX", "100")
    assert h("SET", "k", "w", "KEEPTTL", "IFEQ", "v") == b"OK"
    assert h("TTL", "k") == 100
    assert h("SET", "k", "x", "IFEQ", "w", "EX", "50") == b"OK"
    assert h("TTL", "k") == 50
    assert h("SET", "k", "y", "IFEQ", "x") == b"OK"
    assert h("TTL", "k") == -1


def test_an_expired_key_is_a_missing_key() -> None:
    h = Harness()
    h("SET", "k", "v", "PX", "10")
    h.advance_ms(20)
    assert h("SET", "k", "w", "IFEQ", "v") is None
    assert h("DELEX", "k", "IFEQ", "v") == 0
    assert h("DELIFEQ", "k", "v") == 0
    assert h("CAS", "k", "v", "w") == -1
    assert h("CAD", "k", "v") == -1
    assert h("DIGEST", "k") is None


@pytest.mark.parametrize("digest", ["", "abc", _HELLO + "0", "b6acb9d84a38ff7g", _HELLO[:-1] + " "])
def test_a_digest_is_16_hexadecimal_digits(digest: str) -> None:
    h = Harness()
    h("HSET", "k", "f", "v")
    for command in (("SET", "k", "v", "IFDEQ"), ("SET", "k", "v", "IFDNE"), ("DELEX", "k", "IFDEQ")):
        assert h.raw(*command, digest) == string_set.BAD_DIGEST


def test_delex_without_a_condition_takes_any_type() -> None:
    h = Harness()
    h("HSET", "h", "f", "v")
    h("SET", "s", "v")
    assert [h("DELEX", "h"), h("DELEX", "s"), h("DELEX", "s")] == [1, 1, 0]
    assert h("EXISTS", "h", "s") == 0


@pytest.mark.parametrize(
    ("words", "deletes"),
    [
        ("IFEQ Hello", True),
        ("IFEQ hello", False),
        ("IFNE Hello", False),
        ("ifne hello", True),
        ("IFDEQ {digest}", True),
        ("IFDNE {digest}", False),
        (f"IFDEQ {_OTHER}", False),
        (f"IFDNE {_OTHER}", True),
    ],
)
def test_delex(words: str, deletes: bool) -> None:
    h = Harness()
    digest = string_set.digest(b"Hello").decode()
    command = ("DELEX", "k", *words.format(digest=digest).split())
    assert h(*command) == 0
    h("SET", "k", "Hello")
    assert h(*command) == int(deletes)
    assert h("EXISTS", "k") == int(not deletes)


def test_delex_errors() -> None:
    h = Harness()
    assert h.raw("DELEX", "k", "IFEQ") == errors.wrong_arity("delex")
    assert h.raw("DELEX", "k", "IFEQ", "a", "b") == errors.wrong_arity("delex")
    assert h.raw("DELEX", "k", "FOO", "a") == cas.BAD_CONDITION
    h("HSET", "h", "f", "v")
    assert h.raw("DELEX", "h", "IFEQ", "v") == cas.NOT_A_STRING
    assert h("EXISTS", "h") == 1


def test_digest() -> None:
    h = Harness()
    assert h("DIGEST", "k") is None
    h("SET", "k", "Hello world")
    assert h("DIGEST", "k") == _HELLO.encode()
    h("HSET", "h", "f", "v")
    assert h.raw("DIGEST", "h") == errors.WRONG_TYPE


def test_digest_keeps_leading_zeros() -> None:
    # The first of these values whose digest begins with a zero.
    value = next(b"%d" % n for n in range(1000) if string_set.digest(b"%d" % n).startswith(b"0"))
    h = Harness()
    h("SET", "k", value)
    assert len(h("DIGEST", "k")) == 16


def test_delifeq() -> None:
    h = Harness()
    assert h("DELIFEQ", "k", "v") == 0
    h("SET", "k", "v")
    assert h("DELIFEQ", "k", "w") == 0
    assert h("DELIFEQ", "k", "v") == 1
    assert h("EXISTS", "k") == 0
    h("HSET", "h", "f", "v")
    assert h.raw("DELIFEQ", "h", "v") == errors.WRONG_TYPE


def test_cas() -> None:
    h = Harness()
    assert h("CAS", "k", "a", "b") == -1
    h("SET", "k", "a", "EX", "100")
    assert h("CAS", "k", "x", "b") == 0
    assert h("TTL", "k") == 100
    assert h("CAS", "k", "a", "b") == 1
    assert h("TTL", "k") == -1
    assert h("CAS", "k", "b", "c", "EX", "7") == 1
    assert h("TTL", "k") == 7
    assert h("CAS", "k", "c", "d", "px", "1500") == 1
    assert h("PTTL", "k") == 1500
    assert h("GET", "k") == b"d"


@pytest.mark.parametrize("words", ["EX", "FOO 1", "EXAT 1", "EX 1 PX", "EX 1 PX 1"])
def test_cas_syntax(words: str) -> None:
    assert Harness().raw("CAS", "k", "a", "b", *words.split()) == errors.SYNTAX


def test_cas_and_cad_errors() -> None:
    h = Harness()
    assert h.raw("CAS", "k", "a", "b", "EX", "0") == errors.invalid_expire("cas")
    h("HSET", "h", "f", "v")
    assert h.raw("CAS", "h", "a", "b") == errors.WRONG_TYPE
    assert h.raw("CAD", "h", "a") == errors.WRONG_TYPE


def test_cad() -> None:
    h = Harness()
    assert h("CAD", "k", "v") == -1
    h("SET", "k", "v")
    assert h("CAD", "k", "w") == 0
    assert h("CAD", "k", "v") == 1
    assert h("EXISTS", "k") == 0


def test_msetex() -> None:
    h = Harness()
    assert h("MSETEX", "2", "a", "1", "b", "2", "EX", "100") == 1
    assert h("MGET", "a", "b") == [b"1", b"2"]
    assert [h("TTL", "a"), h("TTL", "b")] == [100, 100]
    assert h("MSETEX", "1", "a", "3", "KEEPTTL") == 1
    assert h("TTL", "a") == 100
    assert h("MSETEX", "2", "a", "4", "h", "5") == 1
    assert h("TTL", "a") == -1
    h("HSET", "hash", "f", "v")
    assert h("MSETEX", "1", "hash", "v") == 1
    assert h("GET", "hash") == b"v"


def test_msetex_is_all_or_nothing() -> None:
    h = Harness()
    assert h("MSETEX", "2", "a", "1", "b", "1", "XX") == 0
    assert h("MSETEX", "1", "a", "1", "NX") == 1
    assert h("MSETEX", "2", "a", "2", "b", "2", "NX") == 0
    assert h("MSETEX", "2", "a", "2", "b", "2", "PX", "5000", "XX") == 0
    assert h("MGET", "a", "b") == [b"1", None]
    assert h("MSETEX", "1", "a", "2", "xx", "px", "5000") == 1
    assert h("PTTL", "a") == 5000


def test_msetex_with_a_time_that_has_passed_leaves_nothing() -> None:
    h = Harness()
    h("SET", "a", "1")
    assert h("MSETEX", "2", "a", "1", "b", "2", "PXAT", "1") == 1
    assert h("EXISTS", "a", "b") == 0


@pytest.mark.parametrize(
    ("words", "error"),
    [
        ("0 a 1", cas.BAD_NUMKEYS),
        ("-1 a 1", cas.BAD_NUMKEYS),
        ("x a 1", cas.BAD_NUMKEYS),
        ("2147483648 a 1", cas.BAD_NUMKEYS),
        ("2 a 1", errors.wrong_arity("msetex")),
        ("1 a 1 FOO", errors.SYNTAX),
        ("1 a 1 EX", errors.SYNTAX),
        ("1 a 1 NX XX", errors.SYNTAX),
        ("1 a 1 EX 1 PX 1", errors.SYNTAX),
        ("1 a 1 KEEPTTL EX 1", errors.SYNTAX),
        ("1 a 1 EX 0", errors.invalid_expire("msetex")),
        ("1 a 1 EX x", errors.NOT_INTEGER),
    ],
)
def test_msetex_errors(words: str, error: bytes) -> None:
    h = Harness()
    assert h.raw("MSETEX", *words.split()) == error
    assert h("EXISTS", "a") == 0


def test_msetex_refuses_an_empty_expiry() -> None:
    assert Harness().raw("MSETEX", "1", "a", "1", "EX", "") == errors.NOT_INTEGER


def test_msetex_keys_are_counted() -> None:
    row = next(row for row in cas.COMMANDS if row.name == "msetex")
    assert row.keys[0].keys([b"MSETEX", b"2", b"a", b"1", b"b", b"2", b"EX", b"5"]) == [2, 4]
    assert row.keys[0].keys([b"MSETEX", b"3", b"a", b"1", b"b", b"2"]) == []
    assert row.keys[0].keys([b"MSETEX", b"x", b"a", b"1"]) == []
