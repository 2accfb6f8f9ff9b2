"""The alarm of the process: it ends what waits or works, once, and nothing that comes later."""

from __future__ import annotations

import re
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence

import pytest

from respkv.causality.dvv import Container, Sibling, make_actor
from respkv.causality.resolve import Mode, Outcome, Policy, Resolvers
from respkv.env.posix import SystemClock
from respkv.server.signal_alarm import SignalAlarm

MINE = Policy(Mode.MERGE, "mine")
ACTOR = make_actor(1, 1)
TWO = Container({ACTOR: 2}, (Sibling(2, ACTOR, 0, b"b"), Sibling(1, ACTOR, 0, b"a")))


class Over(BaseException):
    pass


@pytest.fixture
def alarm() -> Iterator[SignalAlarm]:
    handler, timer = signal.getsignal(signal.SIGALRM), signal.getitimer(signal.ITIMER_REAL)
    try:
        yield SignalAlarm()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, *timer)


def test_it_interrupts_a_wait_once(alarm: SignalAlarm) -> None:
    begin = time.monotonic()
    with pytest.raises(Over):
        alarm.set(20_000, Over())
        time.sleep(5)
    assert time.monotonic() - begin < 2
    time.sleep(0.05)


def test_after_clear_it_does_not_go_off(alarm: SignalAlarm) -> None:
    alarm.set(20_000, Over())
    alarm.clear()
    time.sleep(0.05)


def sleeps(values: Sequence[bytes]) -> bytes:
    time.sleep(5)
    return b""


def sleeps_on(values: Sequence[bytes]) -> bytes:
    try:
        time.sleep(5)
    except Exception:
        time.sleep(5)
    return b""


def matches(values: Sequence[bytes]) -> bytes:
    return b"" if re.match(r"(a|aa)+$", "a" * 60 + "b") else b"x"


def multiplies(values: Sequence[bytes]) -> bytes:
    return b"%d" % (7 ** 50_000_000 % 10)


@pytest.mark.parametrize("function", [sleeps, sleeps_on, matches, multiplies])
def test_a_merge_is_stopped_in_time(alarm: SignalAlarm, function: Callable[[Sequence[bytes]], bytes]) -> None:
    resolvers = Resolvers.from_functions({"mine": function}, clock=SystemClock(), alarm=alarm)
    begin = time.monotonic()
    resolution = resolvers.resolve(MINE, TWO, 0)
    assert time.monotonic() - begin < 2
    assert resolution.outcome is Outcome.TOO_SLOW and resolution.value == b"b"
    assert "was stopped after" in resolution.detail and "too much time" in resolution.detail


def test_wherever_it_goes_off_nothing_escapes(alarm: SignalAlarm) -> None:
    before, clock, outcomes = sys.gettrace(), SystemClock(), set()
    for after_us in range(1, 600):
        resolvers = Resolvers.from_functions({"mine": b"+".join}, clock=clock, alarm=alarm, time_max_us=after_us)
        outcomes.add(resolvers.resolve(MINE, TWO, 0).outcome)
        assert sys.gettrace() is before
    time.sleep(0.01)
    assert outcomes == {Outcome.TOO_SLOW, Outcome.MERGED}
