"""One RKV.REPAIR: sessions of anti-entropy with every co-replica, one after another, until nothing differs.

A session leaves differences that are younger than a few seconds to the next one, so a peer whose slots differed is
asked again after ROUND_US, up to ROUNDS_MAX times. Whoever is away stays asked for (``Repair`` compares with it once it
is back), but the run does not wait for it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from respkv.node.repair import Repair
from respkv.replication.exchange import Session

ROUND_US: Final = 1_000_000
ROUNDS_MAX: Final = 8
#: Sessions in a row that came to nothing before a peer is given up.
FAILURES_MAX: Final = 5
#: How long a run may take over one slot, and over all.
SLOT_LIMIT_US: Final = 60_000_000
LIMIT_US: Final = 3_600_000_000

WAITING: Final = "waiting"
EQUAL: Final = "equal"
DIFFERENT: Final = "different"
UNREACHABLE: Final = "unreachable"
FAILED: Final = "failed"


class Row:
    """What is known of one co-replica. ``slots_differing``: found by its first session; ``sent``: records."""

    __slots__ = ("again_us", "failures", "sent", "sessions", "slots_differing", "state")

    def __init__(self) -> None:
        self.state = WAITING
        self.sessions = self.slots_differing = self.sent = self.failures = 0
        self.again_us = 0


class RepairRun:
    """``over`` once ``done`` was called, or the client has gone (``abandon``)."""

    __slots__ = ("_done", "_limit_us", "_repair", "_repaired", "_repaired_before", "over", "rows", "slot")

    def __init__(
        self,
        repair: Repair,
        slot: int | None,
        *,
        repaired: Callable[[], int],
        done: Callable[[Mapping[int, Row], int], None],
        now_us: int,
    ) -> None:
        """``repaired``: how many records repair has brought here so far."""
        self._repair = repair
        self._repaired = repaired
        self._repaired_before = repaired()
        self._done = done
        self._limit_us = now_us + (LIMIT_US if slot is None else SLOT_LIMIT_US)
        self.slot = slot
        self.rows: dict[int, Row] = {peer: Row() for peer in repair.co_replicas(slot)}
        self.over = False

    def begin(self, live: Callable[[int], bool]) -> None:
        """Ask for the first sessions."""
        for peer, row in self.rows.items():
            self._repair.ask(peer, self.slot)
            if not live(peer):
                row.state = UNREACHABLE
        self._look()

    def ended(self, session: Session, slots: dict[int, None] | None, went_well: bool, now_us: int) -> None:
        """A session that was asked for has ended; it may be another's."""
        row = self.rows.get(session.peer)
        if row is None or row.state is not WAITING or not (slots is None or self.slot in slots):
            return
        row.sent += session.sent
        if not went_well:
            row.failures += 1
            if row.failures >= FAILURES_MAX:
                row.state = FAILED
        else:
            row.failures = 0
            row.sessions += 1
            if row.sessions == 1:
                row.slots_differing = session.differing
            if not session.differing:
                row.state = EQUAL
            elif row.sessions >= ROUNDS_MAX:
                row.state = DIFFERENT
            else:
                row.again_us = now_us + ROUND_US
        self._look()

    def lost(self, peer: int) -> None:
        """The link to a peer has ended."""
        row = self.rows.get(peer)
        if row is not None and row.state is WAITING:
            row.state = UNREACHABLE
            self._look()

    def on_timer(self, now_us: int) -> None:
        """Ask again where something differed; end when it takes too long."""
        for peer, row in self.rows.items():
            if row.state is WAITING and row.again_us and now_us >= row.again_us:
                row.again_us = 0
                self._repair.ask(peer, self.slot)
        if now_us >= self._limit_us:
            self.end()

    def _look(self) -> None:
        if all(row.state is not WAITING for row in self.rows.values()):
            self.end()

    def end(self) -> None:
        """Tell what is known by now."""
        if not self.over:
            self.over = True
            self._done(self.rows, self._repaired() - self._repaired_before)

    def abandon(self) -> None:
        """Nobody wants to know any more. What was asked for goes on."""
        self.over = True
