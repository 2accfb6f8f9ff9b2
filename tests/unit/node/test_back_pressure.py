"""Members that are behind slow down who writes through others, but stop nobody for good."""

from __future__ import annotations

from typing import Any

import pytest

from respkv.base.limits import HOLD_US
from respkv.node.back_pressure import AGAIN_US, BUDGET_US, FRESH_US, HOLD_COST, TOLD_US, WAIT_MAX_US, BackPressure
from respkv.wire.messages import Pressure

S = 1_000_000
HOLD = Pressure((1 << 32) - 1)


class World:
    """Node 1 with peers 2 and 3."""

    def __init__(self) -> None:
        self.own_us = 0
        self.sent: list[tuple[int, Any]] = []
        self.pressure = BackPressure(own_us=lambda: self.own_us, peers=lambda: (2, 3), send=self.send)

    def send(self, short: int, message: Any) -> bool:
        self.sent.append((short, message))
        return True

    def told(self, now_us: int) -> list[int]:
        """What both peers are told now."""
        self.pressure.on_timer(now_us)
        sent, self.sent = self.sent, []
        assert [short for short, _ in sent] == [2, 3] * (len(sent) // 2)
        return [message.wait_us for _, message in sent[::2]]


def test_it_is_told_when_it_changes_and_while_it_lasts() -> None:
    world = World()
    assert world.told(S) == [] and not world.pressure.busy()
    world.own_us = TOLD_US - 1
    assert world.told(2 * S) == [], "a short wait is nobody else's business"
    world.own_us = TOLD_US
    assert world.pressure.busy()
    assert world.told(2 * S) == [TOLD_US] and world.told(2 * S + AGAIN_US - 1) == []
    assert world.told(2 * S + AGAIN_US) == [TOLD_US]
    world.own_us = HOLD_US
    assert world.told(2 * S + AGAIN_US + 1) == [HOLD.wait_us]
    world.own_us = 0
    assert world.pressure.busy(), "the others do not know yet"
    assert world.told(3 * S) == [0] and world.told(4 * S) == [] and not world.pressure.busy()


def test_the_slowest_member_counts_as_long_as_it_says_so() -> None:
    pressure = World().pressure
    pressure.on_pressure(2, Pressure(20_000), S)
    pressure.on_pressure(3, Pressure(80_000), S)
    assert pressure.wait_us(S) == 80_000
    pressure.on_pressure(3, Pressure(0), S)
    assert pressure.wait_us(S) == 20_000
    pressure.on_pressure(3, HOLD, S)
    assert pressure.wait_us(S) == HOLD_US
    pressure.peer_lost(3, S)
    assert pressure.wait_us(S + FRESH_US) == 20_000 and pressure.wait_us(S + FRESH_US + 1) == 0
    pressure.on_pressure(2, Pressure(HOLD.wait_us - 1), 3 * S)
    assert pressure.wait_us(3 * S) == WAIT_MAX_US, "nobody waits for an hour"


def pressing(pressure: BackPressure, message: Pressure, begin_us: int, count_us: int) -> int:
    """A member presses for some time; for how much of that it is minded, us."""
    minded_us = 0
    for now_us in range(begin_us, begin_us + count_us, AGAIN_US):
        pressure.on_pressure(2, message, now_us)
        minded_us += AGAIN_US * (pressure.wait_us(now_us) > 0)
    return minded_us


@pytest.mark.parametrize(("message", "minded_us"), [(Pressure(160_000), BUDGET_US), (HOLD, BUDGET_US // HOLD_COST)])
def test_who_does_not_get_on_is_not_minded_until_it_has_been_well(message: Pressure, minded_us: int) -> None:
    """Two replicas are enough: a third one that cannot flush must not stop the ring."""
    pressure = World().pressure
    assert pressing(pressure, message, S, 600 * S) == minded_us
    pressure.on_pressure(2, Pressure(0), 601 * S)
    assert pressing(pressure, message, 602 * S, S) == 0, "it is not well yet"
    pressure.on_pressure(2, Pressure(0), 603 * S)
    well_us = 603 * S + BUDGET_US
    assert pressing(pressure, message, well_us, 600 * S) == minded_us


@pytest.mark.parametrize("rest_us", [10_000, S])
@pytest.mark.parametrize("cut", [False, True])
def test_who_presses_with_short_rests_has_no_more_of_it(rest_us: int, cut: bool) -> None:
    pressure, now_us, minded_us = World().pressure, S, 0
    while now_us < 500 * S:
        minded_us += pressing(pressure, HOLD, now_us, 4 * S)
        now_us += 4 * S
        if cut:
            pressure.peer_lost(2, now_us)
        else:
            pressure.on_pressure(2, Pressure(0), now_us)
        now_us += rest_us
    assert minded_us < 200 * S


def test_somebody_who_holds_now_and_then_is_always_minded() -> None:
    """As under full load: a memtable is full before the one before it is flushed."""
    pressure = World().pressure
    for begin_us in range(S, 300 * S, 3 * S):
        assert pressing(pressure, HOLD, begin_us, S // 2) == S // 2
        pressure.on_pressure(2, Pressure(0), begin_us + S // 2)
