"""Reading arguments exactly as Redis reads them, and printing long doubles as it prints them.

An integer is what ``string2ll`` takes: an optional ``-``, no space, no ``+``, no leading zero, 64 bits. A
double is what ``strtod`` takes without leading space or rest (hexadecimal and ``inf`` included, ``nan``
excluded). INCRBYFLOAT and HINCRBYFLOAT work in the x87 long double: here a whole number times a power of two,
rounded to 64 significant bits after each step, so that 0.1 + 0.2 prints as 0.3 and all digits are Redis'.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from respkv.resp import errors
from respkv.resp.errors import fail
from respkv.resp.reply import error

INT64_MIN: Final = -(1 << 63)
INT64_MAX: Final = (1 << 63) - 1

#: strtod's grammar without leading space; the hexadecimal form needs a digit somewhere.
_DECIMAL: Final = re.compile(rb"([+-]?)(\d*)(?:\.(\d*))?(?:[eE]([+-]?\d+))?")
_HEXADECIMAL: Final = re.compile(rb"([+-]?)0[xX]([0-9a-fA-F]*)(?:\.([0-9a-fA-F]*))?(?:[pP]([+-]?\d+))?")
_INFINITY: Final = frozenset((b"inf", b"infinity"))

INT_RANGE: Final = error(b"ERR value is out of range, value must between -2147483648 and 2147483647")
#: Redis gives up on longer long doubles (MAX_LONG_DOUBLE_CHARS).
_LONG_DOUBLE_CHARS: Final = 5 * 1024
_MANTISSA_BITS: Final = 64
#: a value is at least 2**(_LOWEST - 1) and below 2**_HIGHEST
_LOWEST: Final = -16445
_HIGHEST: Final = 16384
#: decimal and binary exponents beyond these are out of a long double's range whatever the digits say
_EXPONENT_LIMIT_10: Final = 10_000
_EXPONENT_LIMIT_2: Final = 32_000
_DECIMALS: Final = 10**17
#: digits the interpreter surely converts at once
_PIECE: Final = 4000
_PIECE_SIZE: Final = 10**_PIECE


class LongDouble(NamedTuple):
    """``mantissa * 2**exponent``; the mantissa is signed and has at most 64 significant bits."""

    mantissa: int
    exponent: int


def integer(arg: bytes, error: bytes = errors.NOT_INTEGER) -> int:
    """The 64-bit integer that ``arg`` spells; ``error`` is raised when it spells none."""
    try:
        value = int(arg)
    except ValueError:
        raise fail(error) from None
    if b"%d" % value != arg or not INT64_MIN <= value <= INT64_MAX:
        raise fail(error)
    return value


def small_integer(arg: bytes, mistake: bytes | None = None) -> int:
    """The C ``int`` that ``arg`` spells; ``mistake`` is raised when it spells none, by default one that tells the
    range from other mistakes."""
    value = integer(arg, mistake or errors.NOT_INTEGER)
    if not -(1 << 31) <= value < 1 << 31:
        raise fail(mistake or INT_RANGE)
    return value


def optional_integer(value: bytes) -> int | None:
    """The 64-bit integer that ``value`` spells in its canonical form, or None."""
    if len(value) > 20:
        return None
    try:
        number = int(value)
    except ValueError:
        return None
    if b"%d" % number != value or not INT64_MIN <= number <= INT64_MAX:
        return None
    return number


def floating(arg: bytes, error: bytes = errors.NOT_FLOAT) -> float:
    """The double that ``arg`` spells; may be infinite when it says so, never NaN."""
    sign, body = _split_sign(arg)
    if body.lower() in _INFINITY:
        return float("-inf") if sign == b"-" else float("inf")
    digits = _DECIMAL.fullmatch(arg)
    try:
        if digits is not None and (digits[2] or digits[3]):
            value = float(arg)
            zero = not (digits[2] + (digits[3] or b"")).strip(b"0")
        else:
            digits = _HEXADECIMAL.fullmatch(arg)
            if digits is None or not (digits[2] or digits[3]):
                raise fail(error)
            value = float.fromhex(arg.decode("ascii"))
            zero = not (digits[2] + (digits[3] or b"")).strip(b"0")
    except (ValueError, OverflowError):
        raise fail(error) from None
    if value in (float("inf"), float("-inf")) or (value == 0 and not zero):
        raise fail(error)
    return value


def long_double(arg: bytes, error: bytes = errors.NOT_FLOAT) -> LongDouble | None:
    """The long double that ``arg`` spells; None for either infinity."""
    if not arg or len(arg) >= _LONG_DOUBLE_CHARS:
        raise fail(error)
    match = _DECIMAL.fullmatch(arg)
    base, limit = 10, _EXPONENT_LIMIT_10
    if match is None or not (match[2] or match[3]):
        if _split_sign(arg)[1].lower() in _INFINITY:
            return None
        match = _HEXADECIMAL.fullmatch(arg)
        base, limit = 16, _EXPONENT_LIMIT_2
        if match is None or not (match[2] or match[3]):
            raise fail(error)
    fraction = match[3] or b""
    digits = (match[2] + fraction).lstrip(b"0")
    if not digits:
        return LongDouble(0, 0)
    scale = _exponent(match[4]) - len(fraction) * (1 if base == 10 else 4)
    if abs(scale) > limit + 4 * len(digits):
        raise fail(error)
    number = _digits(digits, base)  # up to 5119 of them
    if base == 16:
        mantissa, exponent = _nearest(number, False, scale)
    elif scale >= 0:
        mantissa, exponent = _nearest(number * 10**scale, False, 0)
    else:
        # Enough bits that the quotient has more than the mantissa; what is left only breaks ties.
        divisor = 10**-scale
        shift = max(_MANTISSA_BITS + 2 + divisor.bit_length() - number.bit_length(), 0)
        quotient, rest = divmod(number << shift, divisor)
        mantissa, exponent = _nearest(quotient, rest != 0, -shift)
    if not _LOWEST <= mantissa.bit_length() + exponent <= _HIGHEST:
        raise fail(error)
    return LongDouble(-mantissa if match[1] == b"-" else mantissa, exponent)


def add_long_doubles(left: LongDouble, right: LongDouble) -> LongDouble | None:
    """``left + right`` rounded as the x87 does; None when that overflows to infinity."""
    lowest = min(left.exponent, right.exponent)
    total = (left.mantissa << left.exponent - lowest) + (right.mantissa << right.exponent - lowest)
    mantissa, exponent = _nearest(abs(total), False, lowest)
    if mantissa.bit_length() + exponent > _HIGHEST:
        return None
    return LongDouble(-mantissa if total < 0 else mantissa, exponent)


def format_long_double(value: LongDouble) -> bytes:
    """Up to 17 decimals (``%.17Lf``), no exponent, no trailing zeros, never ``-0``."""
    mantissa, exponent = value
    size = abs(mantissa)
    if exponent >= 0:
        whole, decimals = size << exponent, 0
    else:
        whole, decimals = divmod(_halves_to_even(size * _DECIMALS, -exponent), _DECIMALS)
    text = _print(whole)
    if decimals:
        text += (b".%017d" % decimals).rstrip(b"0")
    return b"-" + text if mantissa < 0 and (whole or decimals) else text


def expiry(kind: bytes, arg: bytes, now_ms: int, command: str) -> int:
    """Absolute milliseconds of an EX, PX, EXAT or PXAT argument; may lie in the past for the AT forms."""
    value = integer(arg)
    if value <= 0:
        raise fail(errors.invalid_expire(command))
    if kind[0] == 69 or kind[0] == 101:  # E or e: seconds
        value *= 1000
    if len(kind) == 2:
        value += now_ms
    if value > INT64_MAX:
        raise fail(errors.invalid_expire(command))
    return value


def keyword(arg: bytes) -> bytes:
    """An option word in upper case."""
    return arg.upper()


def _split_sign(arg: bytes) -> tuple[bytes, bytes]:
    if arg[:1] in (b"+", b"-"):
        return arg[:1], arg[1:]
    return b"", arg


def _exponent(text: bytes | None) -> int:
    """An exponent's number; one of more digits than any range has, possibly than int() reads, is cut."""
    if text is None:
        return 0
    if len(text) > 10 and len(text.lstrip(b"+-").lstrip(b"0")) > 9:
        return -(10**9) if text.startswith(b"-") else 10**9
    return int(text)


def _digits(text: bytes, base: int) -> int:
    """``int(text, base)`` for texts longer than the interpreter reads at once."""
    if base == 16 or len(text) <= _PIECE:
        return int(text, base)
    cut = len(text) - _PIECE
    return int(text[:cut]) * _PIECE_SIZE + int(text[cut:])


def _print(whole: int) -> bytes:
    """``whole`` in decimal; a long double has up to 4933 digits, more than the interpreter prints at once."""
    if whole < _PIECE_SIZE:
        return b"%d" % whole
    head, tail = divmod(whole, _PIECE_SIZE)
    return b"%d%0*d" % (head, _PIECE, tail)


def _nearest(number: int, more: bool, exponent: int) -> tuple[int, int]:
    """``number * 2**exponent`` (and, with ``more``, a little above) to 64 significant bits, half to even."""
    extra = number.bit_length() - _MANTISSA_BITS
    if extra <= 0:
        return number, exponent
    if more:
        # One bit further down stands for all that is left.
        return _halves_to_even(number << 1 | 1, extra + 1), exponent + extra
    return _halves_to_even(number, extra), exponent + extra


def _halves_to_even(number: int, bits: int) -> int:
    """``number / 2**bits`` to the nearest whole number, half to even."""
    whole = number >> bits
    rest = number - (whole << bits)
    half = 1 << bits - 1
    return whole + 1 if rest > half or (rest == half and whole & 1) else whole
