"""Policies and merge functions at the start of a node, and an application's functions that misbehave."""

from __future__ import annotations

import re
from typing import Any

import pytest

from respkv.node.key_rules import BadRules
from respkv.testing.node_driver import NodeDriver


def driver(policy: str, **merges: Any) -> NodeDriver:
    return NodeDriver(merges=merges, conflict_policy=policy.replace(" ", '" "'))


def test_without_siblings_nothing_is_looked_up() -> None:
    node = NodeDriver().node
    assert node.keyspace.conflicts is None and node.dispatcher.ruled is None
    node = driver("a: lww").node
    assert node.keyspace.conflicts is None and node.dispatcher.ruled is None


def test_keys_with_a_policy_are_ruled() -> None:
    node = driver("a: siblings a:b: lww").node
    assert node.dispatcher.ruled(b"a:b:1") and node.dispatcher.ruled(b"a:1") and not node.dispatcher.ruled(b"b")
    assert node.keyspace.conflicts.keeps(b"a:1") and not node.keyspace.conflicts.keeps(b"a:b:1")


@pytest.mark.parametrize(
    ("policy", "merges", "reason"),
    [
        ("a: merge:mine", {}, "no merge function is called 'mine'; there are longest, max, min, union"),
        ("a: merge:mine", {"mine": 3}, "merge function 'mine' cannot be called"),
        ("a: siblings", {"max": len}, "merge function 'max' is built in"),
    ],
)
def test_rules_that_contradict_themselves(policy: str, merges: dict[str, Any], reason: str) -> None:
    with pytest.raises(BadRules, match=re.escape(reason)):
        driver(policy, **merges)


def test_a_function_of_the_application() -> None:
    node = driver("a: merge:joined", joined=b"+".join)
    client = node.connect()
    for value in ("x", "y", "x"):
        client.call("RKV.SET", "a:k", "", value)
    assert client.call("GET", "a:k") == b"$3\r\nx+y\r\n" and client.call("RKV.GET", "a:k").startswith(b"*2\r\n")


@pytest.mark.parametrize("outcome", ["threw", "wrong-result", "too-slow"])
def test_a_function_that_misbehaves_is_contained(outcome: str) -> None:
    def endless(values: Any) -> bytes:
        while True:
            pass

    function: Any = {"threw": lambda values: values[9], "wrong-result": len, "too-slow": endless}[outcome]
    node = driver("a: merge:mine", mine=function)
    client = node.connect()
    for value in ("x", "y"):
        client.call("RKV.SET", "a:k", "", value)
    assert client.call("GET", "a:k") == b"$1\r\ny\r\n" == client.call("GET", "a:k")
    assert client.call("RKV.GET", "a:k").startswith(b"*3\r\n"), "the siblings stay"
    outcomes = node.node.keyspace.conflicts.stats()["outcomes"]
    assert (outcomes[outcome], outcomes["resting"]) == ((1, 1) if outcome == "too-slow" else (2, 0))
    assert sum("are not merged: merge:mine" in text for _, text in node.log) == 1
    assert b"siblings stay as they are" in client.call("RKV.RESOLVE", "a:k")
