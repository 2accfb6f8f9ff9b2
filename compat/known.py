"""Where respkv means to answer otherwise than Redis 7.0, each with its reason.

``EXPECTED``: by case, a part of the line that describes the difference, and why. ``meant`` judges single replies,
for random sequences.
"""

from __future__ import annotations

from typing import Final

from compat.clients.raw import Frame

EXPECTED: Final[dict[str, dict[str, str]]] = {}

# OBJECT ENCODING tells the form that Redis would choose for a value of this size; Redis itself says "raw" of a string
# that was changed in place, however short, "embstr" of a number made by INCRBYFLOAT, and "hashtable" of a hash that
# ever held a long value.
_ENCODINGS: Final = frozenset({
    (b"int", b"raw"), (b"embstr", b"raw"), (b"int", b"embstr"), (b"listpack", b"hashtable"),
})  # fmt: skip

# DBSIZE of Redis counts keys that have expired until it comes across them; respkv counts those that can be read.

#: Commands whose arguments respkv judges before it looks at the key, and Redis 7.0 only when the key is there and of
#: the right type. BITCOUNT and BITPOS do as respkv from Redis 7.2 on.
ARGUMENTS_FIRST: Final = frozenset({b"BITCOUNT", b"BITPOS", b"HSCAN", b"LCS"})
#: Redis takes a negative cursor for one near 2^64, and an empty one for 0.
_CURSOR_AT: Final = {b"SCAN": 1, b"HSCAN": 2}
_OF_ABSENT_KEYS: Final = (
    Frame(":", b"0"),
    Frame(":", b"-1"),
    Frame("*", [Frame("$", b"0"), Frame("*", [])]),
)
_WRONG_TYPES: Final = (b"WRONGTYPE ", b"ERR The specified keys must contain string values")


def meant(name: bytes, command: list[bytes], ours: Frame, theirs: Frame) -> bool:
    """Whether a difference between two replies to a command, ``name`` in upper case, is meant to be."""
    if ours.value == b"ERR invalid cursor":
        cursor = command[_CURSOR_AT.get(name, 0)]
        return not cursor or cursor.startswith(b"-")
    if name == b"DBSIZE":
        return ours.kind == theirs.kind == ":" and int(ours.value) < int(theirs.value)
    if name.endswith(b" HELP"):
        return theirs._replace(value=_newer_help(theirs.value)) == ours
    if name == b"OBJECT ENCODING":
        return (ours.value, theirs.value) in _ENCODINGS
    if name not in ARGUMENTS_FIRST or not ours.is_error() or not ours.value.startswith(b"ERR "):
        return False
    if theirs.is_error():
        return bool(theirs.value.startswith(_WRONG_TYPES))
    return theirs in _OF_ABSENT_KEYS


def _newer_help(lines: list[Frame]) -> list[Frame]:
    """HELP as Redis words it from 7.2 on."""
    return [line._replace(value=line.value.replace(b"Prints this help", b"Print this help")) for line in lines]
