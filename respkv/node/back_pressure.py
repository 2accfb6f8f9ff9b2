"""Back-pressure between members: who writes through one member goes no faster than the others can take.

A member whose flushing or merging is behind makes its own clients wait (``Engine.brake_us``). What other members write
to it as to a replica would go on filling it, up to where it takes no more and all of it becomes hints. So it tells them
how long its clients wait, and they make theirs wait as long.

A member that does not get on at all must not stop the ring, which needs only a majority. So each has an account: while
it presses it spends of BUDGET_US, HOLD_COST times as much while it holds writers altogether; while it does not, it
gains. One that has spent all is not minded until its account is full again. What was told is forgotten after FRESH_US:
a member that has fallen silent presses nobody.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

from respkv.base.limits import HOLD_US
from respkv.storage.brakes import RUN_BRAKES_US
from respkv.wire.messages import Pressure

#: Shorter waits are a matter of one's own.
TOLD_US: Final = 10_000
#: How often it is told again while it lasts, and how long it counts when it is not.
AGAIN_US: Final = 250_000
FRESH_US: Final = 1_000_000
#: What a member may make others wait in one go when it slows them down, and its account for that.
WAIT_MAX_US: Final = RUN_BRAKES_US[-1]
BUDGET_US: Final = 30_000_000
HOLD_COST: Final = 6
GAIN: Final = 3
_HOLD: Final = (1 << 32) - 1


class _Account:
    """What a member has told: ``wait_us`` since ``at_us``; ``spent_us`` of its account; ``minded``: there is some left,
    or will be when it is full again."""

    __slots__ = ("at_us", "minded", "spent_us", "wait_us")

    def __init__(self, now_us: int) -> None:
        self.wait_us = self.spent_us = 0
        self.at_us = now_us
        self.minded = True

    def told(self, wait_us: int, now_us: int) -> None:
        """It says so now: settle what has been until now."""
        passed_us, pressed_us = now_us - self.at_us, 0
        if self.wait_us:
            pressed_us = min(passed_us, FRESH_US)
            self.spent_us += pressed_us * (HOLD_COST if self.wait_us >= HOLD_US else 1)
        self.spent_us = max(0, self.spent_us - GAIN * (passed_us - pressed_us))
        if self.spent_us >= BUDGET_US:
            self.spent_us = BUDGET_US
            self.minded = False
        elif not self.spent_us:
            self.minded = True
        self.wait_us, self.at_us = wait_us, now_us


class BackPressure:
    """Both ends. ``own_us()`` is how long writers wait for this node's own sake; ``peers()`` who can be told."""

    __slots__ = ("_accounts", "_own_us", "_peers", "_send", "_told_at_us", "_told_us", "pressed")

    def __init__(
        self, *, own_us: Callable[[], int], peers: Callable[[], Iterable[int]], send: Callable[[int, Any], bool]
    ) -> None:
        self._own_us = own_us
        self._peers = peers
        self._send = send
        self._accounts: dict[int, _Account] = {}
        self._told_us = 0
        self._told_at_us = 0
        #: how often others were told that this node is behind
        self.pressed = 0

    def wait_us(self, now_us: int) -> int:
        """How long writers wait for the sake of others, us; HOLD_US: until this says less."""
        return max(
            (
                account.wait_us
                for account in self._accounts.values()
                if account.minded and now_us - account.at_us <= FRESH_US
            ),
            default=0,
        )

    def on_pressure(self, peer: int, message: Pressure, now_us: int) -> None:
        """A member has told how far behind it is."""
        account = self._accounts.get(peer)
        if account is None:
            account = self._accounts[peer] = _Account(now_us)
        account.told(HOLD_US if message.wait_us == _HOLD else min(message.wait_us, WAIT_MAX_US), now_us)

    def peer_lost(self, peer: int, now_us: int) -> None:
        """Its link has ended. Its account stays: a link may come and go."""
        account = self._accounts.get(peer)
        if account is not None:
            account.told(0, now_us)

    def busy(self) -> bool:
        """True while ``on_timer`` is needed soon."""
        return bool(self._told_us) or self._own_us() >= TOLD_US

    def on_timer(self, now_us: int) -> None:
        """Tell the others what has changed, and again what lasts."""
        own_us = self._own_us()
        if own_us < TOLD_US:
            own_us = 0
        if own_us != self._told_us or (own_us and now_us - self._told_at_us >= AGAIN_US):
            self.pressed += own_us > 0
            self._told_us, self._told_at_us = own_us, now_us
            message = Pressure(_HOLD if own_us >= HOLD_US else own_us)
            for peer in self._peers():
                self._send(peer, message)

    def stats(self) -> dict[str, int]:
        """Counters for metrics."""
        pressing = sum(account.wait_us > 0 for account in self._accounts.values())
        return {"pressure_told": self.pressed, "pressing_peers": pressing}
