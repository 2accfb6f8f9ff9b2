"""The built-in merge functions: what they give, and that order and repetition do not matter."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from respkv.causality.merges import BUILT_IN, MergeFunction, merge_longest, merge_max, merge_min, merge_union

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
LISTS = st.lists(JSON, max_size=4).map(lambda value: json.dumps(value).encode())
NUMBERS = st.decimals(allow_nan=False, allow_infinity=False, places=3).map(lambda value: f"{value:f}".encode())


@pytest.mark.parametrize(
    ("values", "least", "greatest"),
    [
        ([b"9", b"10"], b"9", b"10"),
        ([b"-2", b"-10", b"3"], b"-10", b"3"),
        ([b"1.5", b"1.25"], b"1.25", b"1.5"),
        ([b"-1.5", b"-1.25"], b"-1.5", b"-1.25"),
        ([b"0.1", b"0.10000000000000000001"], b"0.1", b"0.10000000000000000001"),
        ([b"1", b"01", b"+1", b"1.0"], b"+1", b"1.0"),
        ([b"999", b"a", b"b"], b"999", b"b"),
        ([b"9" * 256, b"9" * 257], b"9" * 256, b"9" * 257),
        ([b"", b"0"], b"0", b""),
        ([b"1e3", b"2", b" 3", b"4 ", b".5", b"5."], b"2", b"5."),
        ([b"7\n", b"8"], b"8", b"7\n"),
    ],
)
def test_min_and_max(values: list[bytes], least: bytes, greatest: bytes) -> None:
    for order in itertools.permutations(values):
        assert (merge_min(order), merge_max(order)) == (least, greatest)


def test_a_long_run_of_zeros_is_no_number_and_costs_no_time() -> None:
    zeros = b"0" * 3_000_000 + b"x"
    assert merge_max([zeros, b"1"]) == zeros


def test_longest() -> None:
    assert merge_longest([b"a", b"bb", b"ab"]) == b"bb"
    assert merge_longest([b"", b"\x00"]) == b"\x00"


@pytest.mark.parametrize(
    ("values", "union"),
    [
        ([b"[1,2]", b"[2, 3]"], b"[1,2,3]"),
        ([b"[10,9]", b"[1.5]"], b"[1.5,9,10]"),
        ([b"[1]", b"[1.0]"], b"[1,1.0]"),
        ([b"[true,1,null]", b'["1"]'], b'[1,"1",null,true]'),
        ([b'[{"b":1,"a":[2]}]', b'[ {"a":[2],"b":1} ]'], b'[{"a":[2],"b":1}]'),
        ([b"[]", b"[ ]"], b"[]"),
        (['["é"]'.encode(), b'["\\u00e9"]'], '["é"]'.encode()),
        ([b'["\\ud800"]', b"[]"], b'["\\ud800"]'),
        ([b'["\\ud83d\\ude00"]', b"[]"], '["\U0001f600"]'.encode()),
    ],
)
def test_union(values: list[bytes], union: bytes) -> None:
    assert merge_union(values) == merge_union(values[::-1]) == union
    assert merge_union([union, *values]) == union


NO_LISTS = [b"", b"1", b"{}", b"[1", b"[1]x", b"\xff", b"[NaN]", b"[Infinity]", b"[1e999]", b"\xef\xbb\xbf[]"]


@pytest.mark.parametrize("bad", [*NO_LISTS, b"[%b]" % (b"9" * 5000)])
def test_union_refuses_what_is_no_list(bad: bytes) -> None:
    with pytest.raises(ValueError):
        merge_union([b"[1]", bad])


def test_union_refuses_what_is_nested_too_deep() -> None:
    with pytest.raises(RecursionError):
        merge_union([b"[1]", b"[" * 200_000 + b"]" * 200_000])


def holds(function: MergeFunction, values: Sequence[bytes]) -> None:
    """Any order, values given twice, and parts merged before give the same."""
    together = function(values)
    assert function(values[::-1]) == together
    assert function([*values, *values]) == together
    assert function([function(values[:2]), *values[2:]]) == together
    assert function([together, together]) == function([together]) == together


@given(st.lists(LISTS, min_size=2, max_size=5))
def test_union_law(values: list[bytes]) -> None:
    holds(merge_union, values)
    assert all(element in json.loads(merge_union(values)) for value in values for element in json.loads(value))


@pytest.mark.parametrize("name", ["max", "min", "longest"])
@given(values=st.lists(NUMBERS | st.binary(max_size=4), min_size=2, max_size=5))
def test_choosing_laws(name: str, values: list[bytes]) -> None:
    holds(BUILT_IN[name], values)
    assert BUILT_IN[name](values) in values
