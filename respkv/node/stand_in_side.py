"""What this node does as a stand-in, and what people are told of stand-ins on this node (``replication/stand_ins``).

A ``HoldFor`` is acked once it is in the hints' file, with ``appendfsync always`` once that is synced, like any write.
What a stand-in refuses is never counted by who asked: the refusal goes back as one of the whole message.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from respkv.base.errors import CorruptionError, ProtocolError
from respkv.causality.hlc import ClockSkewError, stamp_hlc
from respkv.keyspace.keys import key_slot
from respkv.replication.hints import HintSyncPlan
from respkv.replication.stand_ins import Holding
from respkv.wire.messages import IO_ERROR, HoldFor, ReadResult, Reads

if TYPE_CHECKING:
    from respkv.node.ring_node import RingNode

#: ``ack(peer, seq, refusal status or None)`` with this cycle's acks.
Ack = Callable[[int, int, int | None], None]
_TOLD_AGAIN_US: Final = 10_000_000


class StandInSide:
    """One node's. ``allowed`` is sloppy-quorum."""

    __slots__ = ("_ack", "_in_plan", "_node", "_ring", "_said", "_said_us", "_unsynced", "allowed", "holding")

    def __init__(self, ring: RingNode, *, allowed: bool, ack: Ack) -> None:
        self.allowed = allowed
        self.holding = Holding(ring.repair.hints)
        self._ring = ring
        self._node = ring.node
        self._ack = ack
        #: (peer, seq) that are acked when the hints are synced; those of them that the plan under way covers
        self._unsynced: list[tuple[int, int]] = []
        self._in_plan: list[tuple[int, int]] = []
        self._said = False
        self._said_us = -_TOLD_AGAIN_US

    # -- messages ----------------------------------------------------------------------------------

    def on_hold(self, short: int, message: HoldFor) -> None:
        """Hold writes for a member that is away. ProtocolError: the peer talks nonsense."""
        placement, node = self._ring.placement, self._node
        known = placement is not None and message.target in placement.members and message.target != self._ring.me
        newest: bytes | None = None
        if self.allowed and known and node.dispatcher.refusal is None:
            try:
                newest = self.holding.take(message.target, message.payload, node.now_ms)
            except CorruptionError as damage:
                raise ProtocolError(f"a record that is none: {damage}") from damage
        if newest is None:
            self._ack(short, message.seq, IO_ERROR)
            return
        if newest:
            try:
                node.keyspace.clock.observe(stamp_hlc(newest), node.now_ms)
            except ClockSkewError as skew:
                raise ProtocolError(str(skew)) from skew
        if node.holds_replies:
            self._unsynced.append((short, message.seq))
        else:
            self._ack(short, message.seq, None)

    def reads(self, message: Reads) -> ReadResult | None:
        """The answer to a read of keys of which this node is no replica; None when it is theirs."""
        if not self.allowed or not message.keys or self._ring.coordinator.mine[key_slot(message.keys[0])]:
            return None
        return self.holding.read(message)

    # -- files -------------------------------------------------------------------------------------

    def waits_for_sync(self) -> bool:
        """Somebody waits for the next sync of hints."""
        return bool(self._unsynced)

    def on_plan(self, plan: HintSyncPlan | None) -> None:
        """``plan`` syncs what was held until now."""
        if plan is not None:
            self._in_plan, self._unsynced = self._unsynced, []

    def on_synced(self) -> None:
        """That plan has run."""
        for short, seq in self._in_plan:
            self._ack(short, seq, None)
        self._in_plan = []

    # -- people ------------------------------------------------------------------------------------

    def look(self, slots: int, now_us: int) -> None:
        """``slots`` of this node have stand-ins now: say so when that begins or ends, not too often."""
        if bool(slots) == self._said or (slots and now_us - self._said_us < _TOLD_AGAIN_US):
            return
        self._said, self._said_us = bool(slots), now_us
        if slots:
            self._node.log(
                "warning",
                f"Other nodes stand in for replicas of {slots} slots (sloppy-quorum): until these are back, level"
                " quorum promises no more than convergence",
            )
        else:
            self._node.log("notice", "No node stands in for a replica any more: level quorum promises all it does")
