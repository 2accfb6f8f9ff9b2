"""WAIT and WAITAOF on a ring: how many other replicas hold all that was written through this node so far.

A replica holds what it has acked, that is what is in its log, and nothing that is still held for it as a hint. With
more nodes than copies the answer is that of the replicas that fare worst. WAITAOF's replicas are counted only where
their log is on disk for certain, which is said by ``appendfsync always`` alone: with another policy they answer 0 after
the timeout.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from respkv.commands.arguments import integer
from respkv.commands.session import Pending, Session
from respkv.commands.spec import CommandSpec
from respkv.commands.wait import MUST_BE_POSITIVE, NUMLOCAL_RANGE, block, timeout_ms
from respkv.replication.coordinator import Coordinator
from respkv.resp.errors import fail
from respkv.resp.reply import Reply, array, encode
from respkv.resp.reply import integer as number

if TYPE_CHECKING:
    from respkv.node.node import Node


class RingWait:
    """Those who wait."""

    __slots__ = ("_coordinator", "_hinted", "_node", "_waiting")

    def __init__(self, node: Node, coordinator: Coordinator, *, hinted: Callable[[int], int]) -> None:
        """``hinted(short)``: how many entries are held for a member."""
        self._node = node
        self._coordinator = coordinator
        self._hinted = hinted
        #: who waits, and whether it is enough
        self._waiting: list[tuple[Pending, Callable[[], bool]]] = []

    def wait(self, session: Session, spec: CommandSpec, argv: list[bytes]) -> Pending | bytes:
        """The reply, or the promise of one. Raises CommandError."""
        return self._wait(session, argv) if spec.name == "wait" else self._wait_synced(session, argv)

    def _wait(self, session: Session, argv: list[bytes]) -> Pending | bytes:
        wanted, limit_ms = integer(argv[1]), timeout_ms(argv[2])
        seq = self._coordinator.writes.last_seq
        if session.multi is not None or self._holders(seq) >= wanted:
            return encode(number(self._holders(seq)), session.proto)
        return self._block(
            session, limit_ms, lambda: self._holders(seq) >= wanted, lambda: number(self._holders(seq))
        )

    def _holders(self, seq: int) -> int:
        return self._coordinator.holders(seq, self._hinted)

    def _wait_synced(self, session: Session, argv: list[bytes]) -> Pending | bytes:
        local, wanted = integer(argv[1]), integer(argv[2])
        if not 0 <= local <= 1:
            raise fail(NUMLOCAL_RANGE)
        if wanted < 0:
            raise fail(MUST_BE_POSITIVE)
        limit_ms = timeout_ms(argv[3])
        seq = self._coordinator.writes.last_seq
        certain = self._node.config.sync_policy() == "always"
        synced = [0]

        def replicas() -> int:
            return self._holders(seq) if certain else 0

        def answer() -> Reply:
            return array([number(synced[0]), number(replicas())])

        def enough() -> bool:
            return synced[0] >= local and replicas() >= wanted

        def on_synced() -> None:
            synced[0] = 1

        if session.multi is not None:
            return encode(answer(), session.proto)
        self._node.synced(on_synced)
        return encode(answer(), session.proto) if enough() else self._block(session, limit_ms, enough, answer)

    def _block(
        self, session: Session, limit_ms: int, enough: Callable[[], bool], answer: Callable[[], Reply]
    ) -> Pending:
        pending = block(session, limit_ms, answer)
        self._waiting.append((pending, enough))
        return pending

    def busy(self) -> bool:
        """True while ``on_timer`` is needed."""
        return bool(self._waiting)

    def on_timer(self, now_us: int) -> None:
        """Look who may go on."""
        if not self._waiting:
            return
        waiting, self._waiting = self._waiting, []
        for pending, enough in waiting:
            if pending.reply is None and not pending.abandoned:
                if enough() and pending.on_unblock is not None:
                    pending.on_unblock(None)
                else:
                    self._waiting.append((pending, enough))
