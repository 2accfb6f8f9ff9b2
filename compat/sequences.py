"""Random command sequences, and what remains of one that shows a difference.

The keys are few, so that commands meet values of every kind; most arguments make sense, some do not. Nothing here
asks for more than a few kilobytes: offsets that Redis would honour with a huge value are left out.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple, TypeVar

Command = list[bytes]
Item = TypeVar("Item")


class Step(NamedTuple):
    """A command and which of several clients sends it."""

    client: int
    command: Command


KEYS: Final = ("a", "b", "c", "n", "h", "g")
VALUES: Final = (
    "", "x", "hello", "foobar", "ohmytext", "10", "-5", "0", "3.5", "9223372036854775807", "1e2", " 1", "01",
)  # fmt: skip
FIELDS: Final = ("f", "g", "1", "2", "")
INTEGERS: Final = ("0", "1", "2", "-1", "-2", "7", "8", "10", "100", "-100", "1000", "3")
ODD_INTEGERS: Final = (
    "9223372036854775807", "-9223372036854775808", "9223372036854775808", "4294967296", "01", "+1", " 1", "1 ", "-0",
    "x", "", "1.0", "0x10", "1e3", "99999999999999999999", "-9223372036854775807",
)  # fmt: skip
FLOATS: Final = ("0.1", "-0.1", "1.5", "3", "0", "1e2", "-2.5e-3", "100", "5.0e3", "0.30000000000000004")
ODD_FLOATS: Final = (
    "inf", "nan", "-inf", "x", "", "1 ", " 1", "1e400", "0x1p3", "1e", ".", "+1.5", ".5", "5.", "1e300",
)  # fmt: skip
SECONDS: Final = ("100", "1000", "5000", "200")
MILLISECONDS: Final = ("100000", "1000000", "500000")
#: For GT and LT: which of two equal lifetimes ends later depends on the millisecond, so there are many and none of
#: those above.
SEVERAL_SECONDS: Final = tuple(str(number) for number in range(150, 9000, 37))
SEVERAL_MILLISECONDS: Final = tuple(str(number) for number in range(150_001, 9_000_000, 36_999))
FAR_SECONDS: Final = ("4102444800", "4102444801", "1", "0", "-1")
#: SET with a time that has passed breaks a WATCH of an absent key in Redis alone.
COMING_SECONDS: Final = ("4102444800", "4102444801", "0", "-1")
COMING_MILLISECONDS: Final = ("4102444800000", "4102444800500", "0", "-1")
FAR_MILLISECONDS: Final = ("4102444800000", "4102444800500", "1", "0", "-5")
PATTERNS: Final = ("*", "a", "[a-c]", "?", "h*", "[^a]", "\\a", "[", "", "*b*")
BITS: Final = ("0", "1")
TYPES: Final = ("u8", "i8", "u4", "i5", "i64", "u63", "u1", "i16")
ODD_TYPES: Final = ("u64", "i65", "i0", "u", "x8", "8", "i-1")
OFFSETS: Final = ("0", "1", "8", "#0", "#1", "#2", "5", "100")
JUNK: Final = ("", "x", "NX", "XX", "GET", "EX", "-1", "*", "KEEPTTL", "0", "\xff\xfe", "99999999999999999999", "BYTE")

TEMPLATES: Final = """
SET K V;SET K V NX;SET K V XX;SET K V GET;SET K V XX GET;SET K V NX GET;SET K V EX S;SET K V PX MS;SET K V KEEPTTL
SET K V EXAT US;SET K V PXAT UMS;SET K V EX I;SET K V PX I GET;SET K V NX XX;SET K V EX S KEEPTTL;SET K I;SET K I
GET K;GET K;GETSET K V;GETDEL K;GETEX K;GETEX K EX S;GETEX K PERSIST;GETEX K PX I;GETEX K EXAT US;SETNX K V
SETEX K S V;SETEX K I V;PSETEX K MS V;PSETEX K I V;APPEND K V;STRLEN K;MGET K K K;MSET K V K V;MSETNX K V K V
INCR K;DECR K;INCRBY K I;DECRBY K I;INCRBYFLOAT K D;INCRBYFLOAT K D;GETRANGE K I I;SUBSTR K I I;SETRANGE K I V
LCS K K;LCS K K LEN;LCS K K IDX;LCS K K IDX WITHMATCHLEN MINMATCHLEN I;LCS K K LEN IDX;MSET K V K
SETBIT K I B;SETBIT K I I;GETBIT K I;BITCOUNT K;BITCOUNT K I I;BITCOUNT K I I BIT;BITCOUNT K I I BYTE;BITPOS K B
BITPOS K B I;BITPOS K B I I;BITPOS K B I I BIT;BITPOS K B I I BYTE;BITPOS K I I;BITCOUNT K I
BITOP AND K K K;BITOP OR K K K;BITOP XOR K K K;BITOP NOT K K;BITOP NOT K K K;BITOP FOO K K
BITFIELD K GET T O;BITFIELD K SET T O I;BITFIELD K INCRBY T O I;BITFIELD K OVERFLOW SAT INCRBY T O I GET T O
BITFIELD K OVERFLOW FAIL INCRBY T O I SET T O I;BITFIELD K OVERFLOW WRAP SET T O I INCRBY T O I;BITFIELD_RO K GET T O
BITFIELD K;BITFIELD_RO K SET T O I;BITFIELD K OVERFLOW FOO GET T O
HSET H F V;HSET H F V F V;HSET K F V;HMSET H F V F V;HSETNX H F V;HGET H F;HMGET H F F F;HGETALL H;HDEL H F;HDEL H F F F
HEXISTS H F;HLEN H;HKEYS H;HVALS H;HSTRLEN H F;HINCRBY H F I;HINCRBYFLOAT H F D;HGETALL K;HDEL K F;HSET H F V F
HRANDFIELD H;HRANDFIELD H I;HRANDFIELD H I WITHVALUES;HSCAN H 0;HSCAN H 0 COUNT I;HSCAN H 0 MATCH P;HLEN K;HINCRBY K F I
DEL K;DEL K K;UNLINK K K;EXISTS K K;EXISTS K;TOUCH K K;TYPE K;RENAME K K;RENAMENX K K;COPY K K;COPY K K REPLACE
COPY K K DB J;COPY K K DB J REPLACE;MOVE K J;KEYS P;DBSIZE;SCAN 0 COUNT 1000;SCAN 0 COUNT 1000 MATCH P;SELECT J
SCAN 0 COUNT 1000 TYPE string;SCAN 0 COUNT 1000 TYPE hash
FLUSHDB;FLUSHALL;SWAPDB J J;RANDOMKEY;OBJECT ENCODING K;OBJECT REFCOUNT H;ECHO V;PING
EXPIRE K S;EXPIRE K I;PEXPIRE K MS;PEXPIRE K I;EXPIREAT K FS;PEXPIREAT K FMS;EXPIRE K S NX;EXPIRE K S XX;EXPIRE K G GT
EXPIRE K G LT;PEXPIRE K M GT;EXPIREAT K FS LT;EXPIRE K S NX XX;EXPIRE K S GT LT;EXPIRE K I FOO;PERSIST K;PERSIST H
TTL K;PTTL K;EXPIRETIME K;PEXPIRETIME K;TTL H;MULTI;MULTI;EXEC;EXEC;EXEC;DISCARD;WATCH K;WATCH K K;UNWATCH;NOSUCH K V
"""

_POOLS: Final = {
    "K": (KEYS, KEYS),
    "H": (("h", "g", "h", "g", "a"), KEYS),
    "F": (FIELDS, FIELDS),
    "V": (VALUES, VALUES),
    "I": (INTEGERS, ODD_INTEGERS),
    "D": (FLOATS, ODD_FLOATS),
    "S": (SECONDS, INTEGERS + ODD_INTEGERS),
    "MS": (MILLISECONDS, (*ODD_INTEGERS, "-1", "0")),
    "G": (SEVERAL_SECONDS, SEVERAL_SECONDS),
    "M": (SEVERAL_MILLISECONDS, SEVERAL_MILLISECONDS),
    "US": (COMING_SECONDS, ODD_INTEGERS),
    "UMS": (COMING_MILLISECONDS, ODD_INTEGERS),
    "FS": (FAR_SECONDS, ODD_INTEGERS),
    "FMS": (FAR_MILLISECONDS, ODD_INTEGERS),
    "P": (PATTERNS, JUNK),
    "B": (BITS, INTEGERS + ODD_INTEGERS),
    "T": (TYPES, ODD_TYPES),
    "O": (OFFSETS, ("-1", "x", "#-1", "#", "", "4294967296", "#9223372036854775807")),
    "J": (("0", "1", "0", "1"), ("16", "-1", "x", "")),
}
_FORMS: Final = [form.split() for line in TEMPLATES.split("\n") for form in line.split(";") if form]
#: Positive values below this many units could end while a sequence runs, so they are kept out of expiry commands.
_LASTING_MS: Final = 90_000
_IN_MILLISECONDS: Final = frozenset({b"PX", b"PEXPIRE", b"PSETEX"})


def sequence(seed: int, length: int) -> list[Step]:
    """The sequence of a seed; the same one at every call and on every machine. Every fourth has three clients."""
    rng = random.Random(seed)
    clients = 3 if seed % 4 == 3 else 1
    return [Step(rng.randrange(clients), template_command(rng)) for _ in range(length)]


def template_command(rng: random.Random) -> Command:
    """One command of the templates, most of its arguments in order."""
    while True:
        words = [_fill(rng, part) for part in rng.choice(_FORMS)]
        if rng.random() < 0.06:
            _spoil(rng, words)
        if not ends_soon(words) and not never_ends(words):
            return words


def _fill(rng: random.Random, part: str) -> bytes:
    pools = _POOLS.get(part)
    if pools is None:
        return (part.lower() if rng.random() < 0.05 else part).encode()
    usual, odd = pools
    return rng.choice(odd if rng.random() < 0.08 else usual).encode("latin-1")


def _spoil(rng: random.Random, words: Command) -> None:
    """Drop, add, replace or swap arguments."""
    change = rng.randrange(4)
    if change == 0 and len(words) > 1:
        del words[rng.randrange(1, len(words))]
    elif change == 1:
        words.insert(rng.randrange(1, len(words) + 1), rng.choice(JUNK).encode("latin-1"))
    elif change == 2 and len(words) > 1:
        words[rng.randrange(1, len(words))] = rng.choice(JUNK).encode("latin-1")
    elif len(words) > 2:
        first, second = rng.sample(range(1, len(words)), 2)
        words[first], words[second] = words[second], words[first]


def ends_soon(words: Command) -> bool:
    """Whether a command may give a key a lifetime that ends during the sequence, at a moment of its own choosing."""
    name = words[0].upper()
    upper = [word.upper() for word in words]
    if name in (b"PEXPIRE", b"PSETEX", b"EXPIRE", b"SETEX"):
        return any(_short(word, name in _IN_MILLISECONDS) for word in words[2:])
    if name in (b"SET", b"GETEX"):
        lifetimes = zip(upper, words[1:], strict=False)
        return any(_short(word, unit == b"PX") for unit, word in lifetimes if unit in (b"PX", b"EX"))
    return False


def never_ends(words: Command) -> bool:
    """HRANDFIELD with a negative count answers as many fields, each drawn anew: Redis takes any number at its word."""
    return words[0].upper() == b"HRANDFIELD" and any(len(word) > 6 for word in words[2:3])


def _short(word: bytes, milliseconds: bool) -> bool:
    if not word.isdigit() or len(word) > 18:
        return False
    return 0 < int(word) * (1 if milliseconds else 1000) < _LASTING_MS


def minimise(commands: Sequence[Item], differs: Callable[[list[Item]], bool]) -> list[Item]:
    """The shortest part of a sequence found by leaving out pieces while it still differs. Calls ``differs`` about
    n log n times at most."""
    kept = list(commands)
    piece = max(1, len(kept) // 2)
    while True:
        start, smaller = 0, False
        while start < len(kept):
            shorter = kept[:start] + kept[start + piece :]
            if shorter and differs(shorter):
                kept, smaller = shorter, True
            else:
                start += piece
        if piece == 1 and not smaller:
            return kept
        piece = max(1, piece // 2)
