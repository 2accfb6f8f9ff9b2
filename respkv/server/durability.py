"""When the log is synced: ``appendfsync`` in practice.

* ``always``: group commit. While one sync runs the loop goes on; everything appended meanwhile is covered
  by the
  next, which starts at once.
* ``everysec``: each second, or after 8 MiB, whichever is first: short syncs, since an append may wait
  behind one.
* ``no``: the operating system decides; once in 30 s what it has long written is made certain, which also lets
  go of closed segments.

A sync that fails ends the process: a retry may report success although the data is gone (Rebello et al.,
2020).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from respkv.server.lanes import Lane
from respkv.server.ports import LogPort

PERIOD_US: Final = 1_000_000
LAZY_PERIOD_US: Final = 30_000_000
SYNC_BYTES: Final = 8 << 20
LAZY_SYNC_BYTES: Final = 256 << 20


class Durability:
    """``policy()`` is the directive's value; ``now_us()`` monotonic; ``synced()`` is told after each sync,
    ``fatal(error)`` when one failed; ``measured(us)`` gets its duration."""

    __slots__ = (
        "_clock_us",
        "_fatal",
        "_lane",
        "_log",
        "_measured",
        "_oldest_us",
        "_policy",
        "_running",
        "_started_us",
        "_synced",
        "_wanted",
        "syncs",
    )

    def __init__(
        self,
        log: LogPort,
        lane: Lane,
        *,
        policy: Callable[[], str],
        clock_us: Callable[[], int],
        synced: Callable[[], None],
        fatal: Callable[[BaseException], None],
        measured: Callable[[int], None],
    ) -> None:
        self._log = log
        self._lane = lane
        self._policy = policy
        self._clock_us = clock_us
        self._synced = synced
        self._fatal = fatal
        self._measured = measured
        self._running = False
        self._started_us = clock_us()
        self._oldest_us = 0
        #: a sync was asked for that the one under way may not cover
        self._wanted = False
        self.syncs = 0

    def on_append(self) -> None:
        """A commit was appended."""
        policy = self._policy()
        if not self._oldest_us:
            self._oldest_us = self._clock_us()
        if policy == "always" or self._log.unsynced_bytes >= (
            SYNC_BYTES if policy == "everysec" else LAZY_SYNC_BYTES
        ):
            self._begin()

    def on_timer(self) -> None:
        """Call several times a second."""
        period_us = PERIOD_US if self._policy() == "everysec" else LAZY_PERIOD_US
        if self._oldest_us and (
            self._clock_us() - self._started_us >= period_us or self._policy() == "always"
        ):
            self._begin()

    def sync_now(self) -> None:
        """Sync whatever the policy says: the node waits for it."""
        self._wanted = True
        self._begin()

    def _begin(self) -> None:
        if self._running:
            return
        self._wanted = False
        plan = self._log.sync_plan()
        if plan is None:
            self._oldest_us = 0
            return
        self._running = True
        begun_us = self._started_us = self._clock_us()
        self._oldest_us = 0

        def finish(_: Any, error: BaseException | None) -> None:
            self._running = False
            if error is not None:
                self._fatal(error)
                return
            self.syncs += 1
            self._measured(self._clock_us() - begun_us)
            self._log.on_synced(plan)
            self._synced()
            if self._wanted or (self._oldest_us and self._policy() == "always"):
                self._begin()

        self._lane.submit(plan.run, finish)

    def stats(self) -> dict[str, int]:
        return {"syncs": self.syncs, "running": int(self._running)}
