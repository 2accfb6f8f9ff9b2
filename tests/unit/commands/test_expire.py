"""Expiry of keys."""

from __future__ import annotations

import pytest

from respkv.commands import expire
from respkv.resp import errors
from respkv.resp.reply import error
from tests.unit.commands.harness import Harness

_INT64_MAX = "9223372036854775807"
_INT64_MIN = "-9223372036854775808"
#: the year 3021: after every clock of a test
_FAR_MS = 33177117420123


def test_expire_and_ttl() -> None:
    h = Harness()
    assert h("EXPIRE", "k", "100") == 0
    h("SET", "k", "v")
    assert h("EXPIRE", "k", "100") == 1
    h.advance_ms(40_400)
    assert h("TTL", "k") == 60
    assert h("PTTL", "k") == 59_600
    h.advance_ms(59_601)
    assert h("GET", "k") is None
    assert [h("TTL", "k"), h("PTTL", "k")] == [-2, -2]


def test_forms() -> None:
    h = Harness()
    h("SET", "k", "v")
    assert h("PEXPIRE", "k", "1500") == 1
    assert h("PTTL", "k") == 1500
    assert h("EXPIREAT", "k", str(_FAR_MS // 1000)) == 1
    assert h("EXPIRETIME", "k") == _FAR_MS // 1000
    assert h("PEXPIREAT", "k", str(_FAR_MS)) == 1
    assert h("PEXPIRETIME", "k") == _FAR_MS


@pytest.mark.parametrize(("millis", "seconds"), [(499, 0), (500, 1)])
def test_seconds_are_the_nearest(millis: int, seconds: int) -> None:
    h = Harness()
    h("SET", "k", "v", "PXAT", str(_FAR_MS // 1000 * 1000 + millis))
    assert h("EXPIRETIME", "k") == _FAR_MS // 1000 + seconds


@pytest.mark.parametrize("command", ["TTL", "PTTL", "EXPIRETIME", "PEXPIRETIME"])
def test_no_key_and_no_expiry(command: str) -> None:
    h = Harness()
    h("SET", "k", "v")
    assert [h(command, "k"), h(command, "absent")] == [-1, -2]


def test_persist() -> None:
    h = Harness()
    h("SET", "k", "v", "EX", "100")
    assert h("PERSIST", "k") == 1
    assert h("TTL", "k") == -1
    assert h("PERSIST", "k") == 0
    assert h("PERSIST", "absent") == 0


@pytest.mark.parametrize(
    "command",
    ["EXPIRE k 0", "EXPIRE k -1", "PEXPIRE k -5", "EXPIREAT k 1", "PEXPIREAT k 0", f"PEXPIRE k {_INT64_MIN}"],
)
def test_a_time_that_has_passed_deletes(command: str) -> None:
    h = Harness()
    h("SET", "k", "v")
    assert h(*command.split()) == 1
    assert h("EXISTS", "k") == 0
    h("HSET", "k", "f", "v")
    assert h(*command.split()) == 1
    assert h("EXISTS", "k") == 0


@pytest.mark.parametrize(
    ("current", "words", "new", "sets"),
    [
        (None, "NX", "50", True),
        (None, "XX", "50", False),
        (None, "GT", "50", False),
        (None, "LT", "50", True),
        ("100", "NX", "50", False),
        ("100", "XX", "50", True),
        ("100", "GT", "50", False),
        ("100", "GT", "100", False),
        ("100", "GT", "150", True),
        ("100", "LT", "150", False),
        ("100", "LT", "100", False),
        ("100", "lt", "50", True),
        ("100", "XX GT", "150", True),
        ("100", "XX LT", "150", False),
        (None, "XX LT", "50", False),
        ("100", "NX NX", "50", False),
    ],
)
def test_conditions(current: str | None, words: str, new: str, sets: bool) -> None:
    h = Harness()
    h("SET", "k", "v")
    if current is not None:
        h("EXPIRE", "k", current)
    assert h("EXPIRE", "k", new, *words.split()) == int(sets)
    assert h("TTL", "k") == int(new if sets else current or -1)


@pytest.mark.parametrize(
    ("words", "reply"),
    [
        ("NX XX", expire.NX_WITH_OTHERS),
        ("LT NX", expire.NX_WITH_OTHERS),
        ("GT LT NX", expire.NX_WITH_OTHERS),
        ("GT LT", expire.GT_WITH_LT),
        ("XX GT LT", expire.GT_WITH_LT),
        ("Foo NX", error(b"ERR Unsupported option Foo")),
        ("NX XX FOO", error(b"ERR Unsupported option FOO")),
    ],
)
def test_option_errors(words: str, reply: bytes) -> None:
    h = Harness()
    assert h.raw("EXPIRE", "absent", "not-a-number", *words.split()) == reply


@pytest.mark.parametrize(
    "command",
    [
        f"EXPIRE k {_INT64_MAX}",
        f"EXPIRE k {_INT64_MIN}",
        f"PEXPIRE k {_INT64_MAX}",
        "EXPIREAT k 9223372036854776",
    ],
)
def test_beyond_64_bits(command: str) -> None:
    h = Harness()
    h("SET", "k", "v")
    words = command.split()
    assert h.raw(*words) == errors.invalid_expire(words[0].lower())
    assert h("TTL", "k") == -1


def test_largest_expiry() -> None:
    h = Harness()
    h("SET", "k", "v")
    assert h("PEXPIREAT", "k", _INT64_MAX) == 1
    assert h("PEXPIRETIME", "k") == int(_INT64_MAX)
    assert h("GET", "k") == b"v"


@pytest.mark.parametrize("value", ["x", "", "1.5", " 1", "9223372036854775808"])
def test_not_an_integer(value: str) -> None:
    for command in ("EXPIRE", "PEXPIRE", "EXPIREAT", "PEXPIREAT"):
        assert Harness().raw(command, "k", value) == errors.NOT_INTEGER


def test_expiry_of_a_hash_is_the_hash_s() -> None:
    h = Harness()
    h("HSET", "h", "f", "v")
    assert h("EXPIRE", "h", "100") == 1
    h("HSET", "h", "g", "w")
    assert h("TTL", "h") == 100
    h.advance_ms(100_001)
    assert h("EXISTS", "h") == 0
