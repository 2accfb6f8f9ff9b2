"""FLUSHDB and FLUSHALL on a ring: one floor for each database, raised here and on every member.

The floors are sent to all members; the reply comes when each slot has as many replicas with them as the level of the
request asks for. Who was away gets them with the next exchange of anti-entropy, before any record (DESIGN 3).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from respkv.base.errors import CommandError
from respkv.base.slots import SLOT_COUNT
from respkv.commands.session import Pending
from respkv.replication.coordinator import Coordinator
from respkv.resp import errors
from respkv.resp.reply import OK
from respkv.wire.messages import FlushTo, WriteAcks

if TYPE_CHECKING:
    from respkv.node.node import Node

FLUSH_TIMEOUT_US: Final = 2_000_000


class _Open:
    __slots__ = ("deadline_us", "have", "needed", "pending", "waiting")

    def __init__(self, pending: Pending, needed: int, have: dict[int, None], deadline_us: int) -> None:
        self.pending = pending
        self.needed = needed
        #: members that have the floors
        self.have = have
        self.waiting: dict[int, None] = {}
        self.deadline_us = deadline_us


class RingFlush:
    """Flushes under way."""

    __slots__ = ("_coordinator", "_live", "_next_seq", "_node", "_open", "_send")

    def __init__(
        self,
        node: Node,
        coordinator: Coordinator,
        *,
        send: Callable[[int, Any], bool],
        live: Callable[[int], bool],
        next_seq: Callable[[], int],
    ) -> None:
        self._node = node
        self._coordinator = coordinator
        self._send = send
        self._live = live
        self._next_seq = next_seq
        self._open: dict[int, _Open] = {}

    def flush(self, dbs: list[int], level: int) -> Pending:
        """Begin. Raises CommandError when the level cannot be met: nothing was flushed."""
        placement, me = self._coordinator.placement, self._coordinator.me
        assert placement is not None
        needed = self._coordinator.quorums.writes[level]
        able = {short: None for short in placement.members if short == me or self._live(short)}
        if not self._enough(able, needed):
            raise CommandError(errors.NO_REPLICAS)
        applier = self._node.applier
        floors = tuple((0, SLOT_COUNT - 1, db, applier.flush_database(db)) for db in dbs)
        seq = self._next_seq()
        held = _Open(Pending(), needed, {me: None}, self._node.now_us + FLUSH_TIMEOUT_US)
        for short in able:
            if short != me and self._send(short, FlushTo(seq, floors)):
                held.waiting[short] = None
        self._open[seq] = held
        self._look(seq)
        return held.pending

    def on_acks(self, peer: int, message: WriteAcks) -> None:
        """A member has the floors."""
        if not self._open:
            return
        for seq in message.done:
            held = self._open.get(seq)
            if held is not None and peer in held.waiting:
                del held.waiting[peer]
                held.have[peer] = None
                self._look(seq)

    def peer_lost(self, peer: int) -> None:
        """The link has ended."""
        for seq, held in list(self._open.items()):
            if held.waiting.pop(peer, self) is None:
                self._look(seq)

    def busy(self) -> bool:
        """True while ``on_timer`` is needed."""
        return bool(self._open)

    def postpone(self, count_us: int) -> None:
        """Wait that much longer."""
        for held in self._open.values():
            held.deadline_us += count_us

    def on_timer(self, now_us: int) -> None:
        """Give up."""
        for seq in [seq for seq, held in self._open.items() if now_us >= held.deadline_us]:
            self._open.pop(seq).pending.complete(errors.OUTCOME_UNKNOWN)

    def _look(self, seq: int) -> None:
        held = self._open[seq]
        if self._enough(held.have, held.needed):
            held.pending.complete(OK)
        elif not self._enough({**held.have, **held.waiting}, held.needed):
            held.pending.complete(errors.OUTCOME_UNKNOWN)
        else:
            return
        del self._open[seq]

    def _enough(self, members: dict[int, None], needed: int) -> bool:
        """Whether each slot has ``needed`` replicas among ``members``. O(preference lists)."""
        placement = self._coordinator.placement
        assert placement is not None
        return all(sum(short in members for short in group) >= needed for group in placement.groups)
