"""Replies that wait for other nodes: their order, and their bytes."""

from __future__ import annotations

from collections import deque
from types import SimpleNamespace
from typing import Any

from respkv.node.round_gate import RoundGate
from respkv.replication.levels import QUORUM
from respkv.replication.rounds import Round


def gate() -> tuple[RoundGate, list[tuple[str, bytes, int]]]:
    left: list[tuple[str, bytes, int]] = []
    return RoundGate(lambda turn, replies, size: left.append((turn.name, b"".join(replies), size))), left  # type: ignore[attr-defined]


def turn(name: str) -> Any:
    return SimpleNamespace(name=name, rounds=deque())


def test_entries_leave_in_order_whatever_is_settled_first() -> None:
    rounds, left = gate()
    one, first, second = turn("one"), Round(QUORUM), Round(QUORUM)
    assert rounds.hold(one, first, [b"a"]) == 1
    rounds.hold(one, second, [b"bc"])
    rounds.hold(one, None, [b"d"])
    second.settled = True
    rounds.settled(second)
    assert not left
    first.settled = True
    rounds.settled(first)
    assert [data for _, data, _ in left] == [b"a", b"bc", b"d"] and not rounds


def test_a_reply_that_is_rewritten_counts_as_it_was_counted_when_it_came() -> None:
    rounds, left = gate()
    one, round_ = turn("one"), Round(QUORUM)
    replies = [b"", b"short"]
    held = rounds.hold(one, round_, replies)
    replies[:] = [b"a long reply", b"a longer reply"]
    round_.settled = True
    rounds.settled(round_)
    assert left == [("one", b"a long replya longer reply", held)] and held == 5
