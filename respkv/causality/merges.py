"""The built-in merge functions of ``conflict-policy PREFIX merge:NAME``.

Each is pure and gives the same for values in any order, for values merged already, and for values given twice, so it
does not matter which replica merges what first. They see at least two distinct values and raise ValueError, or
RecursionError for JSON nested too deep, when these are not theirs to merge.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeAlias

#: Makes one value of several: at least two, distinct, in ascending order.
MergeFunction: TypeAlias = Callable[[Sequence[bytes]], bytes]

_DIGITS_MAX: Final = 256
#: Longer values are no numbers, whatever they look like.
_NUMBER_BYTES_MAX: Final = 2 * _DIGITS_MAX + 2
_NUMBER: Final = re.compile(rb"([+-]?)([0-9]{1,256})(?:\.([0-9]{1,256}))?\Z")


def _rank(value: bytes) -> tuple[bool, int, bytes]:
    """A total order: decimal numbers by value, exactly, then everything else by bytes."""
    match = _NUMBER.match(value) if len(value) <= _NUMBER_BYTES_MAX else None
    if match is None:
        return (True, 0, value)
    sign, whole, fraction = match.groups(b"")
    scaled = int(whole) * 10**_DIGITS_MAX + int(fraction.ljust(_DIGITS_MAX, b"0"))
    return (False, -scaled if sign == b"-" else scaled, value)


def merge_max(values: Sequence[bytes]) -> bytes:
    """The greatest value: numbers by value, below all that are no numbers, which go by their bytes."""
    return max(values, key=_rank)


def merge_min(values: Sequence[bytes]) -> bytes:
    """The least value, in the order of ``merge_max``."""
    return min(values, key=_rank)


def merge_longest(values: Sequence[bytes]) -> bytes:
    """The longest value; of several the greatest by bytes."""
    return max(values, key=lambda value: (len(value), value))


def merge_union(values: Sequence[bytes]) -> bytes:
    """A JSON list of all elements of the lists, each once, numbers first and by value, the rest by its JSON text.

    ValueError when a value is not a JSON list. O(n log n).
    """
    found: dict[str, tuple[bool, int | float, str]] = {}
    for value in values:
        elements = json.loads(value.decode(), parse_constant=_no_constant)
        if not isinstance(elements, list):
            raise ValueError("not a JSON list")
        for element in elements:
            text, number = _json_text(element), type(element) in (int, float)
            found[text] = (not number, element if number else 0, text)
    return ("[" + ",".join(sorted(found, key=found.__getitem__)) + "]").encode()


def _no_constant(word: str) -> Any:
    raise ValueError(f"{word} is not JSON")


def _json_text(element: Any) -> str:
    """The one text of a JSON value: keys sorted, no spaces, characters as they are unless they are no UTF-8."""
    text = json.dumps(element, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(element, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return text


BUILT_IN: Final[Mapping[str, MergeFunction]] = {
    "max": merge_max,
    "min": merge_min,
    "union": merge_union,
    "longest": merge_longest,
}
