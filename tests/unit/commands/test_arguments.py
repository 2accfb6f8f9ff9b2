"""Numbers and expiries as Redis reads them."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from respkv.base.errors import CommandError
from respkv.commands import arguments
from respkv.resp import errors


@pytest.mark.parametrize("text", [b"0", b"7", b"-1", b"9223372036854775807", b"-9223372036854775808"])
def test_integer_accepts_canonical_text(text: bytes) -> None:
    assert arguments.integer(text) == int(text)
    assert arguments.optional_integer(text) == int(text)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b" 1",
        b"1 ",
        b"+1",
        b"01",
        b"-0",
        b"-",
        b"1.0",
        b"1_0",
        b"0x1",
        b"abc",
        b"1\x00",
        b"9" * 5000,
        b"9223372036854775808",
        b"-9223372036854775809",
    ],
)
def test_integer_refuses_everything_else(text: bytes) -> None:
    with pytest.raises(CommandError) as caught:
        arguments.integer(text)
    assert caught.value.reply == errors.NOT_INTEGER
    assert arguments.optional_integer(text) is None


def test_integer_raises_the_error_it_is_given() -> None:
    with pytest.raises(CommandError) as caught:
        arguments.integer(b"x", errors.BIT_OFFSET)
    assert caught.value.reply == errors.BIT_OFFSET


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (b"1", 1.0),
        (b"+1.5", 1.5),
        (b".5", 0.5),
        (b"5.", 5.0),
        (b"-1e3", -1000.0),
        (b"0x1p3", 8.0),
        (b"0x.8", 0.5),
        (b"0X1P-1", 0.5),
        (b"inf", float("inf")),
        (b"-Infinity", float("-inf")),
        (b"0e999999999", 0.0),
        (b"1e308", 1e308),
    ],
)
def test_floating_accepts(text: bytes, value: float) -> None:
    assert arguments.floating(text) == value


_NOT_FLOATS = [
    b"",
    b" 1",
    b"1 ",
    b"nan",
    b"1_0",
    b".",
    b"e5",
    b"1e",
    b"1e+",
    b"0x",
    b"0x.",
    b"infin",
    b"abc",
    b"1\n",
]


@pytest.mark.parametrize("text", [*_NOT_FLOATS, b"1e999", b"1e-999", b"0x1p5000", b"0x1p-5000"])
def test_floating_refuses(text: bytes) -> None:
    with pytest.raises(CommandError) as caught:
        arguments.floating(text)
    assert caught.value.reply == errors.NOT_FLOAT


@pytest.mark.parametrize(
    "text",
    [
        *_NOT_FLOATS,
        b"1e4933",
        b"-1e4933",
        b"1e-4970",
        b"1e99999999999999999999",
        b"0x1p99999999",
        b"1" * 5120,
        b"1e-99999999999999999999",
        b"0x1p16384",
        b"0x1p-16500",
    ],
)
def test_long_double_refuses(text: bytes) -> None:
    with pytest.raises(CommandError) as caught:
        arguments.long_double(text)
    assert caught.value.reply == errors.NOT_FLOAT


def test_long_double_infinities_are_none() -> None:
    assert arguments.long_double(b"inf") is None
    assert arguments.long_double(b"-INFINITY") is None


def test_long_double_zero_with_any_exponent() -> None:
    assert arguments.long_double(b"0e99999999999999999999") == (0, 0)


@pytest.mark.parametrize(
    ("left", "right", "total"),
    [
        (b"0.1", b"0.2", b"0.3"),
        (b"10.50", b"0.1", b"10.6"),
        (b"5.0e3", b"2.0e2", b"5200"),
        (b"3", b"-3", b"0"),
        (b"-0.5", b"0.25", b"-0.25"),
        (b"1", b"1e-17", b"1.00000000000000001"),
        (b"1", b"1e-18", b"1"),
        (b"0", b"-1e-30", b"0"),
        (b"3.14159265358979323846", b"0", b"3.14159265358979324"),
        (b"0x10", b"1", b"17"),
    ],
)
def test_long_double_sums(left: bytes, right: bytes, total: bytes) -> None:
    first, second = arguments.long_double(left), arguments.long_double(right)
    assert first is not None and second is not None
    result = arguments.add_long_doubles(first, second)
    assert result is not None
    assert arguments.format_long_double(result) == total


def test_long_double_prints_all_digits_of_large_numbers() -> None:
    value = arguments.long_double(b"1e4931")
    assert value is not None
    text = arguments.format_long_double(value)
    assert len(text) == 4932 and text.isdigit()
    long_text = arguments.long_double(b"7" * 4500)
    assert long_text is not None
    assert arguments.format_long_double(long_text).startswith(b"7777777777777777777")


def test_long_double_sum_overflows_to_none() -> None:
    largest = arguments.long_double(b"1.18e4932")
    assert largest is not None
    assert arguments.add_long_doubles(largest, largest) is None
    smallest = arguments.long_double(b"-1.18e4932")
    assert smallest is not None
    assert arguments.add_long_doubles(smallest, smallest) is None


@given(st.integers(-(10**25), 10**25), st.integers(-30, 5))
def test_long_double_has_64_significant_bits(digits: int, exponent: int) -> None:
    value = arguments.long_double(b"%de%d" % (digits, exponent))
    exact = digits * Fraction(10) ** exponent
    assert value is not None
    assert abs(value.mantissa * Fraction(2) ** value.exponent - exact) <= abs(exact) / 2**64
    odd = abs(value.mantissa)
    assert (odd // max(odd & -odd, 1)).bit_length() <= 64


@pytest.mark.parametrize(
    ("kind", "text", "expected"),
    [
        (b"EX", b"10", 11_000),
        (b"PX", b"10", 1010),
        (b"EXAT", b"10", 10_000),
        (b"PXAT", b"10", 10),
        (b"ex", b"1", 2000),
    ],
)
def test_expiry(kind: bytes, text: bytes, expected: int) -> None:
    assert arguments.expiry(kind, text, 1000, "set") == expected


@pytest.mark.parametrize("kind", [b"EX", b"PX", b"EXAT", b"PXAT"])
@pytest.mark.parametrize("text", [b"0", b"-1", b"-9223372036854775808"])
def test_expiry_must_be_positive(kind: bytes, text: bytes) -> None:
    with pytest.raises(CommandError) as caught:
        arguments.expiry(kind, text, 1000, "getex")
    assert caught.value.reply == errors.invalid_expire("getex")


@pytest.mark.parametrize(
    ("kind", "text"),
    [(b"EX", b"9223372036854775"), (b"EXAT", b"9223372036854776"), (b"PX", b"9223372036854775807")],
)
def test_expiry_beyond_64_bits(kind: bytes, text: bytes) -> None:
    with pytest.raises(CommandError) as caught:
        arguments.expiry(kind, text, 1_700_000_000_000, "set")
    assert caught.value.reply == errors.invalid_expire("set")


def test_expiry_is_an_integer() -> None:
    with pytest.raises(CommandError) as caught:
        arguments.expiry(b"EX", b"1.5", 0, "set")
    assert caught.value.reply == errors.NOT_INTEGER


def test_keyword_is_upper_case() -> None:
    assert arguments.keyword(b"kEepTtl") == b"KEEPTTL"
