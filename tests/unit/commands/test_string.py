"""String commands: SET and its relatives, ranges, counters, LCS."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from respkv.commands import lcs, string_set
from respkv.resp import errors
from tests.unit.commands.harness import Harness


def test_get_and_set() -> None:
    h = Harness()
    assert h("GET", "k") is None
    assert h("SET", "k", "v") == b"OK"
    assert h("GET", "k") == b"v"
    assert h("STRLEN", "k") == 1
    assert h("STRLEN", "absent") == 0
    assert h("SET", "k", b"\x00\r\n\xff") == b"OK"
    assert h("GET", "k") == b"\x00\r\n\xff"


@pytest.mark.parametrize("command", [("GET",), ("STRLEN",), ("GETDEL",), ("GETEX",), ("INCR",), ("DECR",)])
def test_reads_refuse_hashes(command: tuple[str]) -> None:
    h = Harness()
    h("HSET", "h", "f", "v")
    assert h.raw(*command, "h") == errors.WRONG_TYPE


@pytest.mark.parametrize(
    "command",
    [
        ("APPEND", "h", "x"),
        ("SETRANGE", "h", "0", "x"),
        ("GETRANGE", "h", "0", "1"),
        ("SUBSTR", "h", "0", "1"),
        ("GETSET", "h", "x"),
        ("INCRBY", "h", "2"),
        ("INCRBYFLOAT", "h", "2"),
        ("SET", "h", "x", "GET"),
        ("SET", "h", "x", "IFEQ", "v"),
    ],
)
def test_writes_refuse_hashes_and_leave_them(command: tuple[str, ...]) -> None:
    h = Harness()
    h("HSET", "h", "f", "v")
    assert h.raw(*command) == errors.WRONG_TYPE
    assert h("TYPE", "h") == b"hash"


def test_set_replaces_a_hash() -> None:
    h = Harness()
    h("HSET", "h", "f", "v")
    assert h("SET", "h", "v") == b"OK"
    assert h("GET", "h") == b"v"


def test_set_nx_xx() -> None:
    h = Harness()
    assert h("SET", "k", "1", "XX") is None
    assert h("EXISTS", "k") == 0
    assert h("SET", "k", "1", "NX") == b"OK"
    assert h("SET", "k", "2", "nx") is None
    assert h("SET", "k", "3", "XX") == b"OK"
    assert h("GET", "k") == b"3"


def test_set_get_answers_the_old_value() -> None:
    h = Harness()
    assert h("SET", "k", "1", "GET") is None
    assert h("SET", "k", "2", "GET") == b"1"
    assert h("SET", "k", "3", "NX", "GET") == b"2"
    assert h("GET", "k") == b"2"
    assert h("SET", "absent", "1", "XX", "GET") is None
    assert h("EXISTS", "absent") == 0


def test_set_expiry_and_keepttl() -> None:
    h = Harness()
    h("SET", "k", "v", "EX", "100")
    h.advance_ms(30_000)
    assert h("TTL", "k") == 70
    assert h("SET", "k", "w", "KEEPTTL") == b"OK"
    assert h("TTL", "k") == 70
    assert h("SET", "k", "w") == b"OK"
    assert h("TTL", "k") == -1
    h("SET", "k", "w", "PX", "50")
    h.advance_ms(51)
    assert h("GET", "k") is None
    assert h("SET", "k", "w", "KEEPTTL") == b"OK"
    assert h("TTL", "k") == -1


@pytest.mark.parametrize(("word", "value"), [("EXAT", "1"), ("PXAT", "1000")])
def test_set_with_a_time_that_has_passed_leaves_nothing(word: str, value: str) -> None:
    h = Harness()
    h("SET", "k", "old")
    assert h("SET", "k", "v", word, value) == b"OK"
    assert h("EXISTS", "k") == 0


@pytest.mark.parametrize(
    "options",
    [
        "NX XX",
        "XX NX",
        "EX",
        "PX",
        "IFEQ",
        "EX 1 PX 1",
        "EX 1 KEEPTTL",
        "KEEPTTL PX 1",
        "NX IFEQ x",
        "IFEQ x XX",
        "IFEQ a IFNE b",
        "IFEQ a IFEQ b",
        "FOO",
        "PERSIST",
        "EX 1 FOO",
        "GET FOO",
        "EX x FOO",
    ],
)
def test_set_syntax_errors_come_before_the_key(options: str) -> None:
    h = Harness()
    h("HSET", "k", "f", "v")
    assert h.raw("SET", "k", "v", *options.split()) == errors.SYNTAX


def test_set_takes_a_repeated_option() -> None:
    h = Harness()
    assert h("SET", "k", "v", "NX", "NX", "EX", "5", "EX", "100", "GET", "GET") is None
    assert h("TTL", "k") == 100


@pytest.mark.parametrize("value", ["0", "-1", "9223372036854775807"])
def test_set_invalid_expiry(value: str) -> None:
    h = Harness()
    assert h.raw("SET", "k", "v", "EX", value) == errors.invalid_expire("set")
    assert h.raw("SETEX", "k", value, "v") == errors.invalid_expire("setex")
    assert h.raw("PSETEX", "k", value, "v") == errors.invalid_expire("psetex")
    assert h.raw("SET", "k", "v", "EX", "1.5") == errors.NOT_INTEGER
    assert h("EXISTS", "k") == 0


def test_is_conditional() -> None:
    assert string_set.is_conditional([b"SET", b"k", b"v", b"ifeq", b"x"])
    assert string_set.is_conditional([b"SET", b"k", b"v", b"EX", b"1", b"NX"])
    assert not string_set.is_conditional([b"SET", b"NX", b"NX"])
    assert not string_set.is_conditional([b"SET", b"k", b"v", b"EX", b"1", b"GET"])


def test_setnx_setex_psetex() -> None:
    h = Harness()
    assert h("SETNX", "k", "1") == 1
    assert h("SETNX", "k", "2") == 0
    assert h("GET", "k") == b"1"
    assert h("SETEX", "k", "100", "v") == b"OK"
    assert h("TTL", "k") == 100
    assert h("PSETEX", "k", "1500", "w") == b"OK"
    assert h("PTTL", "k") == 1500
    assert h("GET", "k") == b"w"


def test_mset_mget() -> None:
    h = Harness()
    assert h("MSET", "a", "1", "b", "2", "a", "3") == b"OK"
    h("HSET", "h", "f", "v")
    assert h("MGET", "a", "b", "absent", "h", "a") == [b"3", b"2", None, None, b"3"]
    assert h.raw("MSET", "a", "1", "b") == errors.wrong_arity("mset")
    assert h.raw("MSETNX", "a", "1", "b") == errors.wrong_arity("msetnx")


def test_mset_drops_expiries() -> None:
    h = Harness()
    h("SET", "a", "1", "EX", "100")
    h("MSET", "a", "2")
    assert h("TTL", "a") == -1


def test_msetnx_is_all_or_nothing() -> None:
    h = Harness()
    assert h("MSETNX", "a", "1", "b", "2") == 1
    assert h("MSETNX", "c", "1", "b", "9") == 0
    assert h("EXISTS", "c") == 0
    assert h("GET", "b") == b"2"


def test_getset_getdel() -> None:
    h = Harness()
    assert h("GETSET", "k", "1") is None
    h("EXPIRE", "k", "100")
    assert h("GETSET", "k", "2") == b"1"
    assert h("TTL", "k") == -1
    assert h("GETDEL", "k") == b"2"
    assert h("GETDEL", "k") is None
    assert h("EXISTS", "k") == 0


def test_getex() -> None:
    h = Harness()
    assert h("GETEX", "k") is None
    assert h("GETEX", "k", "EX", "nonsense") is None
    h("SET", "k", "v")
    assert h("GETEX", "k", "EX", "100") == b"v"
    assert h("TTL", "k") == 100
    assert h("GETEX", "k") == b"v"
    assert h("TTL", "k") == 100
    assert h("GETEX", "k", "PERSIST") == b"v"
    assert h("GETEX", "k", "PERSIST") == b"v"
    assert h("TTL", "k") == -1
    assert h("GETEX", "k", "PXAT", "1") == b"v"
    assert h("EXISTS", "k") == 0


@pytest.mark.parametrize(
    "options", ["EX", "EX 1 PX 1", "EX 1 PERSIST", "PERSIST EX 1", "KEEPTTL", "NX", "GET"]
)
def test_getex_syntax(options: str) -> None:
    h = Harness()
    h("SET", "k", "v")
    assert h.raw("GETEX", "k", *options.split()) == errors.SYNTAX
    assert h.raw("GETEX", "k", "EX", "0") == errors.invalid_expire("getex")


def test_append() -> None:
    h = Harness()
    assert h("APPEND", "k", "ab") == 2
    h("EXPIRE", "k", "100")
    assert h("APPEND", "k", "cd") == 4
    assert h("GET", "k") == b"abcd"
    assert h("TTL", "k") == 100
    assert h("APPEND", "empty", "") == 0
    assert h("EXISTS", "empty") == 1


def test_append_and_setrange_respect_the_limit() -> None:
    h = Harness()
    h.limit_bytes = 8
    h("SET", "k", "1234567")
    assert h.raw("APPEND", "k", "89") == errors.STRING_TOO_LONG
    assert h.raw("SETRANGE", "k", "7", "89") == errors.STRING_TOO_LONG
    assert h.raw("SETRANGE", "absent", "8", "9") == errors.STRING_TOO_LONG
    assert h("GET", "k") == b"1234567"
    assert h("APPEND", "k", "8") == 8


def test_setrange() -> None:
    h = Harness()
    assert h("SETRANGE", "k", "2", "ab") == 4
    assert h("GET", "k") == b"\x00\x00ab"
    assert h("SETRANGE", "k", "1", "X") == 4
    assert h("SETRANGE", "k", "3", "long") == 7
    assert h("GET", "k") == b"\x00Xalong"
    assert h("SETRANGE", "absent", "5", "") == 0
    assert h("EXISTS", "absent") == 0
    assert h("SETRANGE", "k", "100", "") == 7
    assert h.raw("SETRANGE", "k", "-1", "x") == errors.OFFSET_RANGE
    assert h.raw("SETRANGE", "k", "x", "x") == errors.NOT_INTEGER
    assert h.raw("SETRANGE", "k", "536870912", "x") == errors.STRING_TOO_LONG


def test_getrange_agrees_with_an_index_model() -> None:
    h = Harness()

    @settings(max_examples=100, deadline=None)
    @given(st.integers(-12, 12), st.integers(-12, 12), st.binary(max_size=8))
    def check(start: int, end: int, value: bytes) -> None:
        h("SET", "k", value)
        size = len(value)
        first = max(start + size, 0) if start < 0 else start
        last = max(end + size, 0) if end < 0 else end
        wanted = bytes(value[i] for i in range(size) if first <= i <= last)
        if start < 0 and end < 0 and start > end:
            wanted = b""
        assert h("GETRANGE", "k", start, end) == wanted
        assert h("SUBSTR", "k", start, end) == wanted

    check()


def test_incr_and_relatives() -> None:
    h = Harness()
    assert [h("INCR", "k"), h("INCRBY", "k", "10"), h("DECR", "k"), h("DECRBY", "k", "-5")] == [1, 11, 10, 15]
    h("EXPIRE", "k", "100")
    assert h("INCR", "k") == 16
    assert h("TTL", "k") == 100
    assert h("DECR", "fresh") == -1


@pytest.mark.parametrize(
    "value", ["", "abc", " 1", "1 ", "+1", "01", "-0", "1.0", "1_0", "9223372036854775808"]
)
def test_incr_refuses_what_is_not_canonical(value: str) -> None:
    h = Harness()
    h("SET", "k", value)
    assert h.raw("INCR", "k") == errors.NOT_INTEGER
    assert h.raw("INCRBY", "absent", value) == errors.NOT_INTEGER
    assert h("GET", "k") == value.encode()


def test_incr_limits() -> None:
    h = Harness()
    h("MSET", "high", "9223372036854775807", "low", "-9223372036854775808")
    assert h.raw("INCR", "high") == errors.OVERFLOW
    assert h.raw("DECR", "low") == errors.OVERFLOW
    assert h.raw("DECRBY", "high", "-9223372036854775808") == errors.DECR_OVERFLOW
    assert h("DECR", "high") == 9223372036854775806


def test_incrbyfloat() -> None:
    h = Harness()
    assert h("INCRBYFLOAT", "k", "0.1") == b"0.1"
    assert h("INCRBYFLOAT", "k", "0.2") == b"0.3"
    h("EXPIRE", "k", "100")
    assert h("INCRBYFLOAT", "k", "-0.3") == b"0"
    assert h("TTL", "k") == 100
    assert h.raw("INCRBYFLOAT", "k", "x") == errors.NOT_FLOAT
    assert h.raw("INCRBYFLOAT", "k", "inf") == errors.NAN_OR_INFINITY
    h("SET", "k", "")
    assert h.raw("INCRBYFLOAT", "k", "1") == errors.NOT_FLOAT
    h("SET", "k", "1e4932")
    assert h.raw("INCRBYFLOAT", "k", "1e4932") == errors.NAN_OR_INFINITY


def test_lcs_forms() -> None:
    h = Harness()
    h("MSET", "a", "ohmytext", "b", "mynewtext")
    assert h("LCS", "a", "b") == b"mytext"
    assert h("LCS", "a", "b", "LEN") == 6
    assert h("LCS", "a", "b", "IDX") == [b"matches", [[[4, 7], [5, 8]], [[2, 3], [0, 1]]], b"len", 6]
    assert h("LCS", "a", "b", "IDX", "MINMATCHLEN", "4", "WITHMATCHLEN") == [
        b"matches",
        [[[4, 7], [5, 8], 4]],
        b"len",
        6,
    ]
    assert h("LCS", "absent", "b") == b""
    assert h("LCS", "absent", "b", "LEN") == 0
    assert h("LCS", "absent", "b", "IDX") == [b"matches", [], b"len", 0]


def test_lcs_errors() -> None:
    h = Harness()
    h("HSET", "h", "f", "v")
    assert h.raw("LCS", "h", "a") == lcs.NOT_STRINGS
    assert h.raw("LCS", "a", "h") == lcs.NOT_STRINGS
    assert h.raw("LCS", "a", "b", "LEN", "IDX") == lcs.LENGTH_AND_INDEXES
    assert h.raw("LCS", "a", "b", "FOO") == errors.SYNTAX
    assert h.raw("LCS", "a", "b", "MINMATCHLEN") == errors.SYNTAX
    assert h.raw("LCS", "a", "b", "IDX", "MINMATCHLEN", "x") == errors.NOT_INTEGER
    h.limit_bytes = 8
    h("MSET", "a", "x" * 9, "b", "x" * 9)
    assert h.raw("LCS", "a", "b") == lcs.NO_MEMORY
    assert h("LCS", "a", "b", "LEN") == 9


def reference_lcs(left: bytes, right: bytes) -> bytes:
    """The table of numbers and the walk back, as Redis does it."""
    table = [[0] * (len(right) + 1) for _ in range(len(left) + 1)]
    for i, a in enumerate(left, 1):
        for j, b in enumerate(right, 1):
            table[i][j] = table[i - 1][j - 1] + 1 if a == b else max(table[i - 1][j], table[i][j - 1])
    i, j = len(left), len(right)
    found = bytearray()
    while i and j:
        if left[i - 1] == right[j - 1]:
            found.append(left[i - 1])
            i, j = i - 1, j - 1
        elif table[i - 1][j] > table[i][j - 1]:
            i -= 1
        else:
            j -= 1
    return bytes(found[::-1])


_LETTERS = st.lists(st.sampled_from(list(b"abc")), max_size=14).map(bytes)


def test_lcs_takes_redis_path() -> None:
    h = Harness()

    @settings(max_examples=150, deadline=None)
    @given(_LETTERS, _LETTERS)
    def check(left: bytes, right: bytes) -> None:
        h("MSET", "a", left, "b", right)
        wanted = reference_lcs(left, right)
        assert h("LCS", "a", "b") == wanted
        assert h("LCS", "a", "b", "LEN") == len(wanted)
        runs = h("LCS", "a", "b", "IDX", "WITHMATCHLEN")[1]
        assert b"".join(left[a : b + 1] for (a, b), _, _ in runs[::-1]) == wanted
        assert all(left[a : b + 1] == right[c : d + 1] and b - a + 1 == n for (a, b), (c, d), n in runs)

    check()
