"""Glob patterns against a literal transcription of Redis' loop."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from respkv.commands.glob import literal_prefix, matcher, matches


def reference_class(pattern: bytes, byte: int) -> tuple[bool, int]:
    """Redis' class loop at ``pattern``, which begins with ``[``: the verdict and where it stands after it."""
    position = 1
    negated = pattern[1:2] == b"^"
    position += negated
    found = False
    while True:
        left = len(pattern) - position
        if left >= 2 and pattern[position] == ord("\\"):
            position += 1
            found = found or pattern[position] == byte
        elif left and pattern[position] == ord("]"):
            break
        elif left == 0:
            position -= 1
            break
        elif left >= 3 and pattern[position + 1] == ord("-"):
            low, high = sorted((pattern[position], pattern[position + 2]))
            found = found or low <= byte <= high
            position += 2
        else:
            found = found or pattern[position] == byte
        position += 1
    return found != negated, position + 1


def reference(pattern: bytes, text: bytes) -> bool:
    """``stringmatchlen``, recursion and all."""
    while pattern and text:
        if pattern[0] == ord("*"):
            rest = pattern.lstrip(b"*")
            if not rest:
                return True
            return any(reference(rest, text[start:]) for start in range(len(text)))
        if pattern[0] == ord("?"):
            pattern = pattern[1:]
        elif pattern[0] == ord("["):
            found, position = reference_class(pattern, text[0])
            if not found:
                return False
            pattern = pattern[position:]
        else:
            if pattern[0] == ord("\\") and len(pattern) >= 2:
                pattern = pattern[1:]
            if pattern[0] != text[0]:
                return False
            pattern = pattern[1:]
        text = text[1:]
        if not text:
            pattern = pattern.lstrip(b"*")
            break
    return not pattern and not text


@settings(max_examples=400, deadline=None)
@given(
    st.lists(st.sampled_from(list(b"ab*?[]-^\\")), max_size=10).map(bytes),
    st.lists(st.sampled_from(list(b"ab]-^\\*")), max_size=7).map(bytes),
)
def test_agrees_with_redis(pattern: bytes, text: bytes) -> None:
    if pattern != b"*":
        assert matches(pattern, text) == reference(pattern, text)


@pytest.mark.parametrize(
    ("pattern", "text", "expected"),
    [
        (b"*", b"", True),
        (b"**", b"", False),
        (b"", b"", True),
        (b"", b"a", False),
        (b"h?llo", b"hello", True),
        (b"h?llo", b"hllo", False),
        (b"h*llo", b"heeeello", True),
        (b"h[ae]llo", b"hallo", True),
        (b"h[^e]llo", b"hello", False),
        (b"h[a-b]llo", b"hbllo", True),
        (b"h[b-a]llo", b"hallo", True),
        (b"a\\*b", b"a*b", True),
        (b"a\\*b", b"axb", False),
        (b"[abc", b"c", True),
        (b"[^", b"x", True),
        (b"[]", b"]", False),
        (b"[^]", b"x", True),
        (b"[a-]", b"^", True),
        (b"[a-]", b"-", False),
        (b"[a-]", b"]", True),
        (b"a\\", b"a\\", True),
        (b"a.c", b"abc", False),
        (b"a\nb*", b"a\nb\n", True),
        (b"\xff?", b"\xff\x00", True),
    ],
)
def test_known_answers(pattern: bytes, text: bytes, expected: bool) -> None:
    assert matches(pattern, text) is expected


def test_ignore_case() -> None:
    assert matches(b"MaxMem*", b"maxmemory", ignore_case=True)
    assert matches(b"[A-C]x", b"BX", ignore_case=True)
    assert not matches(b"MaxMem*", b"maxmemory")


@pytest.mark.parametrize(
    ("pattern", "text"),
    [(b"a*" * 30 + b"b", b"a" * 5000), (b"*a?*" * 20 + b"c", b"a" * 5000), (b"*aaaab*" * 50, b"a" * 5000)],
)
def test_hostile_patterns_end(pattern: bytes, text: bytes) -> None:
    assert not matches(pattern, text)


def test_long_patterns_work_without_the_cache() -> None:
    assert matcher(b"ab" * 2000 + b"*")(b"ab" * 2001)
    assert not matcher(b"ab" * 2000 + b"*")(b"ab" * 1999)


@pytest.mark.parametrize(
    ("pattern", "prefix"),
    [(b"user:*", b"user:"), (b"plain", b"plain"), (b"*", b""), (b"a\\*b", b"a"), (b"x[", b"x")],
)
def test_literal_prefix(pattern: bytes, prefix: bytes) -> None:
    assert literal_prefix(pattern) == prefix
