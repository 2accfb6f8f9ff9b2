from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from respkv.config.syntax import glob_pattern, quote, split_words


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("", []),
        ("  a\tb  c ", ["a", "b", "c"]),
        ('save ""', ["save", ""]),
        (r'x "a\x41\n\t\"\\\q"', ["x", 'aA\n\t"\\q']),
        (r"x 'a\'b\n'", ["x", "a'b\\n"]),
        ('a"b c"', ["ab c"]),
        (r'"\xe2\x82\xac"', ["€"]),
        (r'"\xff"', ["\udcff"]),
        (r'"\xzz"', ["xzz"]),
        ("€ ü", ["€", "ü"]),
    ],
)
def test_words(line: str, words: list[str]) -> None:
    assert split_words(line) == words


@pytest.mark.parametrize("line", ['a "b', "a 'b", 'a "b"c', "a 'b'c", 'a "b\\"', 'a "\\'])
def test_unbalanced_quotes(line: str) -> None:
    assert split_words(line) is None


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=20))
def test_any_bytes_survive_quoting(data: bytes) -> None:
    text = data.decode("utf-8", "surrogateescape")
    assert split_words(f"requirepass {quote(text)} x") == ["requirepass", text, "x"]
    assert "\n" not in quote(text)


@pytest.mark.parametrize(
    ("pattern", "matching", "other"),
    [
        ("*", ["", "abc"], []),
        ("max*", ["maxmemory", "MAX"], ["amax"]),
        ("m?x", ["max", "mox"], ["mx", "maax"]),
        ("[a-c]x", ["ax", "cx"], ["dx"]),
        ("[c-a]x", ["bx"], ["dx"]),
        ("[^a]x", ["bx"], ["ax"]),
        (r"[\]]x", ["]x"], ["ax"]),
        (r"\*x", ["*x"], ["ax"]),
        ("a.c", ["a.c"], ["abc"]),
        ("[]x", [], ["x", "]x"]),
        ("[^]x", ["ax"], ["x"]),
        ("[ab", ["a", "b"], ["c"]),
        ("***a***", ["a", "bab"], ["b"]),
    ],
)
def test_globs(pattern: str, matching: list[str], other: list[str]) -> None:
    compiled = glob_pattern(pattern)
    for text in matching:
        assert compiled.fullmatch(text), text
    for text in other:
        assert not compiled.fullmatch(text), text


def test_globs_of_paths_heed_case() -> None:
    assert not glob_pattern("A*", any_case=False).fullmatch("abc")
    assert not glob_pattern("A*").flags & re.MULTILINE


@settings(max_examples=100, deadline=None)
@given(st.text(alphabet="ab[]^-\\*?x", max_size=8), st.text(alphabet="ab^]-x", max_size=5))
def test_a_glob_with_a_star_behind_matches_at_least_as_much(pattern: str, text: str) -> None:
    if glob_pattern(pattern).fullmatch(text) and pattern.count("[") == 0 and not pattern.endswith("\\"):
        assert glob_pattern(pattern + "*").fullmatch(text + "tail")
    escaped = "".join("\\" + letter for letter in text)
    assert glob_pattern(escaped).fullmatch(text)
    assert not glob_pattern(escaped).fullmatch(text + "a")
