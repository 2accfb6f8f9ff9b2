"""The time of a ring's parts: one timer, armed for whatever is due next.

While answers are awaited deadlines are looked at every TICK_US. Otherwise the timer waits for gossip, repair and
mending, and ``look``, once a cycle, brings it forward when something of the cycle is due before: all that happens,
happens in cycles. An idle node so wakes some ten times a second, not a hundred.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from respkv.node.ring_node import RingNode

#: Between two looks at deadlines while answers are awaited; nothing is looked at oftener.
TICK_US: Final = 10_000
#: The loop stood still when its timer is this late.
_LAG_US: Final = 100_000
#: After that long, what others are asked for is given that much more time: their answers may lie behind much else.
_STILL_US: Final = 500_000
#: A member that is slow is looked after for that at most this often.
_LOOK_AGAIN_US: Final = 250_000


class RingTimers:
    """The timer of one member."""

    __slots__ = ("_cancel", "_due_us", "_given_us", "_looked_us", "_passed_over", "_ring")

    def __init__(self, ring: RingNode) -> None:
        self._ring = ring
        self._due_us = 0
        self._cancel: Callable[[], None] | None = None
        self._given_us = -_STILL_US
        self._passed_over = False
        #: when members that took long to answer were probed for it
        self._looked_us: dict[int, int] = {}
        self._arm(ring.node.now_us + TICK_US)

    def look(self) -> None:
        """A cycle is over: is something due before the timer? Nothing but a comparison while it is armed for soon."""
        now_us = self._ring.node.now_us
        if self._due_us > now_us + TICK_US and (due_us := self._next_us(now_us)) < self._due_us:
            assert self._cancel is not None
            self._cancel()
            self._arm(due_us)

    def _arm(self, due_us: int) -> None:
        node = self._ring.node
        self._due_us = due_us
        self._cancel = node.after_us(due_us - node.now_us, self._tick)

    def _next_us(self, now_us: int) -> int:
        """When something is due; no sooner than TICK_US from now."""
        ring = self._ring
        soon_us = now_us + TICK_US
        if (
            ring.coordinator.busy() or ring.forwards.busy() or ring.flushes.busy() or ring.waits.busy()
            or ring.watch.busy() or ring.walks.busy() or ring.pressure.busy()
        ):  # fmt: skip
            return soon_us
        due_us = min(ring.member.next_timer_us(), ring.repair.next_timer_us(), ring.mend.next_timer_us())
        return max(soon_us, min(due_us, ring.burials.next_timer_us()))

    def _tick(self) -> None:
        ring = self._ring
        now_us = ring.node.now_us
        if (late_us := now_us - self._due_us) > _LAG_US and not self._passed_over:
            # Timers run before the sockets are read: what came meanwhile is read before anything is called late.
            self._passed_over = True
            self._stood_still(late_us, now_us)
            self._arm(now_us)
            return
        self._passed_over = False
        if now_us >= ring.member.next_timer_us():
            ring.member.on_timer(now_us)
        self._look_after_late(now_us)
        ring.coordinator.on_timer(now_us)
        ring.forwards.on_timer(now_us)
        ring.pressure.on_timer(now_us)
        ring.flushes.on_timer(now_us)
        ring.waits.on_timer(now_us)
        ring.watch.on_timer(now_us)
        ring.mend.on_timer(now_us)
        ring.burials.on_timer(now_us)
        ring.walks.on_timer(now_us)
        if now_us >= ring.repair.next_timer_us():
            ring.repair.on_timer(now_us)
        self._arm(self._next_us(now_us))

    def _stood_still(self, late_us: int, now_us: int) -> None:
        """Give back the time in which nothing could be read. Not again at once: where each cycle takes that long,
        nothing would ever be late."""
        ring = self._ring
        ring.member.loop_lag(late_us, now_us)
        if late_us > _STILL_US and now_us - self._given_us > late_us + _STILL_US:
            self._given_us = now_us
            ring.coordinator.postpone(late_us)
            ring.forwards.postpone(late_us)
            ring.flushes.postpone(late_us)

    def _look_after_late(self, now_us: int) -> None:
        """Whoever takes long to answer is probed now instead of when its turn comes: clients wait for it."""
        ring = self._ring
        for short in (*ring.coordinator.late(now_us), *ring.forwards.late(now_us)):
            if now_us - self._looked_us.get(short, -_LOOK_AGAIN_US) >= _LOOK_AGAIN_US:
                self._looked_us[short] = now_us
                ring.member.unanswered(short, now_us)
