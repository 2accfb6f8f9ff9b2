"""Back-pressure between members: who writes through one member goes no faster than the others can take.

A member whose flushing or merging is behind makes its own clients wait (``Engine.brake_us``). What other members write
to it as to a replica would go on filling it, up to where it takes no more and all of it becomes hints. So it tells them
how long its clients wait, and they make theirs wait as long.

A member that does not get on at all must not stop the ring, which needs only a majority: one that has pressed for
HONOURED_US (``RESISTED_US``, if it holds writers altogether) is not minded until it has been well again. What was told
is forgotten after FRESH_US: a member that has fallen silent presses nobody.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final, NamedTuple

from respkv.base.limits import HOLD_US
from respkv.wire.messages import Pressure

#: Shorter waits are a matter of one's own.
TOLD_US: Final = 10_000
#: How often it is told again while it lasts, and how long it counts when it is not.
AGAIN_US: Final = 250_000
FRESH_US: Final = 1_000_000
#: How long somebody who slows writers down, or holds them, is minded without a break.
HONOURED_US: Final = 30_000_000
RESISTED_US: Final = 5_000_000
_U32: Final = (1 << 32) - 1


class _Told(NamedTuple):
    """``since_us``: when it began to press, ``held_us``: when it began to hold, 0: it does not."""

    wait_us: int
    at_us: int
    since_us: int
    held_us: int


class BackPressure:
    """Both ends. ``own_us()`` is how long writers wait for this node's own sake; ``peers()`` who can be told."""

    __slots__ = ("_heard", "_own_us", "_peers", "_send", "_told_at_us", "_told_us", "pressed")

    def __init__(
        self, *, own_us: Callable[[], int], peers: Callable[[], Iterable[int]], send: Callable[[int, Any], bool]
    ) -> None:
        self._own_us = own_us
        self._peers = peers
        self._send = send
        self._heard: dict[int, _Told] = {}
        self._told_us = 0
        self._told_at_us = 0
        #: how often others were told that this node is behind
        self.pressed = 0

    def wait_us(self, now_us: int) -> int:
        """How long writers wait for the sake of others, us; HOLD_US: until this says less."""
        wait_us = 0
        for told in self._heard.values():
            if now_us - told.at_us <= FRESH_US and now_us - told.since_us <= HONOURED_US:
                if told.held_us and now_us - told.held_us > RESISTED_US:
                    continue
                wait_us = max(wait_us, told.wait_us)
        return wait_us

    def on_pressure(self, peer: int, message: Pressure, now_us: int) -> None:
        """A member has told how far behind it is."""
        if not message.wait_us:
            self._heard.pop(peer, None)
            return
        wait_us = HOLD_US if message.wait_us == _U32 else message.wait_us
        before = self._heard.get(peer)
        if before is None or now_us - before.at_us > FRESH_US:
            before = _Told(0, now_us, now_us, 0)
        held_us = (before.held_us or now_us) if wait_us >= HOLD_US else before.held_us
        self._heard[peer] = _Told(wait_us, now_us, before.since_us, held_us)

    def peer_lost(self, peer: int) -> None:
        """Its link has ended."""
        self._heard.pop(peer, None)

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
            message = Pressure(_U32 if own_us >= HOLD_US else own_us)
            for peer in self._peers():
                self._send(peer, message)

    def stats(self) -> dict[str, int]:
        """Counters for metrics."""
        return {"pressure_told": self.pressed, "pressing_peers": len(self._heard)}
