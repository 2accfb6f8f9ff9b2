"""Timers: due order, cancelling, and actions that make new ones."""

from __future__ import annotations

import pytest

from respkv.node.timers import Timers


def test_actions_run_when_due_in_order() -> None:
    timers, ran = Timers(), []
    timers.at(30, lambda: ran.append("c"))
    timers.at(10, lambda: ran.append("a"))
    timers.at(20, lambda: ran.append("b"))
    timers.at(20, lambda: ran.append("b2"))
    assert timers.next_us() == 10 and len(timers) == 4
    assert timers.run(9) == 0 and ran == []
    assert timers.run(20) == 3 and ran == ["a", "b", "b2"]
    assert timers.next_us() == 30
    assert timers.run(1000) == 1 and ran[-1] == "c"
    assert timers.next_us() is None and len(timers) == 0


def test_cancelled_actions_do_not_run() -> None:
    timers, ran = Timers(), []
    cancel = timers.at(10, lambda: ran.append("a"))
    timers.at(20, lambda: ran.append("b"))
    cancel()
    cancel()
    assert timers.next_us() == 20 and len(timers) == 1
    assert timers.run(20) == 1 and ran == ["b"]
    cancel()


def test_an_action_may_cancel_another_that_is_due() -> None:
    timers, ran = Timers(), []
    timers.at(10, lambda: second())
    second = timers.at(10, lambda: ran.append("never"))
    assert timers.run(10) == 1 and ran == []


def test_what_an_action_adds_waits_for_the_next_call() -> None:
    timers, ran = Timers(), []

    def again() -> None:
        ran.append(len(ran))
        timers.at(10, again)

    timers.at(10, again)
    assert timers.run(10) == 1 and ran == [0]
    assert timers.next_us() == 10
    assert timers.run(10) == 1 and ran == [0, 1]


def test_many_cancelled_timers_cost_nothing_later() -> None:
    timers = Timers()
    for n in range(1000):
        timers.at(n, lambda: None)()
    assert timers.next_us() is None and timers.run(5000) == 0


def test_an_action_that_raises_leaves_the_others_due_in_their_order() -> None:
    timers, ran = Timers(), []

    def bad() -> None:
        raise ValueError("bad")

    timers.at(10, bad)
    timers.at(10, lambda: ran.append("a"))
    cancel = timers.at(11, lambda: ran.append("never"))
    timers.at(12, lambda: ran.append("b"))
    with pytest.raises(ValueError, match="bad"):
        timers.run(20)
    assert ran == [] and timers.next_us() == 10
    cancel()
    assert timers.run(20) == 2 and ran == ["a", "b"]
