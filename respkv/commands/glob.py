"""Glob patterns as ``stringmatchlen`` reads them: KEYS, SCAN MATCH, PSUBSCRIBE, CONFIG GET, ACL.

``*`` any bytes, ``?`` one byte, ``[a-z]`` ``[^a-z]`` one byte of (not of) a class, ``\\x`` x itself. The odd
corners are kept: a class that is not closed ends with the pattern, ``[a-]`` is a range from ``a`` to ``]``,
``[]`` matches nothing and ``[^]`` any byte, a lone ``\\`` at the end is itself, the empty text matches
only the empty pattern. One exception: a pattern of a single star matches the empty text too, which Redis'
callers see to themselves (they skip the match).

A pattern is a row of segments between stars, and each segment has a fixed length. Taking the leftmost place
for each segment and never going back is therefore right, so the translation uses atomic groups: time is
O(pattern x text) for every input.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Final

#: longer patterns are translated each time rather than kept
_CACHED_PATTERN_BYTES: Final = 1024
_ANY: Final = b"."

Matcher = Callable[[bytes], bool]


def matches(pattern: bytes, text: bytes, *, ignore_case: bool = False) -> bool:
    """True when the whole of ``text`` matches. For many texts ask ``matcher`` once."""
    if ignore_case:
        return matcher(pattern.lower())(text.lower())
    return matcher(pattern)(text)


def matcher(pattern: bytes) -> Matcher:
    """The test for one pattern."""
    if len(pattern) > _CACHED_PATTERN_BYTES:
        return _translate(pattern)
    return _cached(pattern)


def literal_prefix(pattern: bytes) -> bytes:
    """The bytes every matching text begins with; the whole pattern when it has no special bytes."""
    for position, byte in enumerate(pattern):
        if byte in b"*?[\\":
            return pattern[:position]
    return pattern


def _translate(pattern: bytes) -> Matcher:
    if pattern == b"*":
        return _match_all
    segments: list[list[bytes]] = [[]]
    position = 0
    while position < len(pattern):
        byte = pattern[position : position + 1]
        if byte == b"*":
            # Stars side by side are one star.
            if segments[-1] or len(segments) == 1:
                segments.append([])
            position += 1
        elif byte == b"?":
            segments[-1].append(_ANY)
            position += 1
        elif byte == b"[":
            token, position = _class(pattern, position + 1)
            if not token:
                return _match_none
            segments[-1].append(token)
        else:
            if byte == b"\\" and position + 1 < len(pattern):
                position += 1
                byte = pattern[position : position + 1]
            segments[-1].append(re.escape(byte))
            position += 1
    return _compile([(b"".join(tokens), len(tokens)) for tokens in segments])


def _class(pattern: bytes, position: int) -> tuple[bytes, int]:
    """The class that begins at ``position`` as a regular expression (empty: nothing matches), and its end."""
    size = len(pattern)
    negated = pattern[position : position + 1] == b"^"
    if negated:
        position += 1
    parts = []
    while position < size and pattern[position] != 93:  # ]
        if pattern[position] == 92 and position + 1 < size:  # backslash
            parts.append(b"\\x%02x" % pattern[position + 1])
            position += 2
        elif position + 2 < size and pattern[position + 1] == 45:  # a range: the third byte may be ]
            low, high = sorted((pattern[position], pattern[position + 2]))
            parts.append(b"\\x%02x-\\x%02x" % (low, high))
            position += 3
        else:
            parts.append(b"\\x%02x" % pattern[position])
            position += 1
    if not parts:
        return (_ANY if negated else b""), position + 1
    return b"[%b%b]" % (b"^" if negated else b"", b"".join(parts)), position + 1


def _compile(segments: list[tuple[bytes, int]]) -> Matcher:
    text = segments[0][0]
    for segment, _ in segments[1:-1]:
        text += b"(?>.*?%b)" % segment
    if len(segments) > 1:
        tail, tail_length = segments[-1]
        # What is left must hold the last segment, which stands at the very end.
        text += b".{%d,}+\\Z(?<=%b)" % (tail_length, tail) if tail else b".*+"
    expression = re.compile(text, re.DOTALL)
    full = expression.fullmatch
    if len(segments) == 1:
        return lambda value: full(value) is not None
    # Redis' loop ends at once on an empty text, before it has looked at a star.
    return lambda value: bool(value) and full(value) is not None


def _match_all(_: bytes) -> bool:
    return True


def _match_none(_: bytes) -> bool:
    return False


_cached: Final = lru_cache(maxsize=1024)(_translate)
