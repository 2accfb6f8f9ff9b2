"""Who holds the same slots as this node, and up to when equality with them can be proved.

One placement as anti-entropy asks for it (``anti_entropy.Neighbours``): flat lists made once per ring.

What is proved ends below all that any member may still bring: the hints that it holds, and what it has taken since it
told of them. This node knows its own, the others gossip the least stamp of theirs beside their clock. So a cut is made
by the clock of whoever is furthest behind, by what was heard of it last: a node whose wall clock is ahead cannot prove
what is not over yet for the others, and where a member cannot be reached the cuts stand still, since nobody knows what
it holds. Of one that has told nothing yet the worst is assumed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from respkv.causality.hlc import MAX_STAMP, hlc_ms
from respkv.cluster.placement import Placement
from respkv.replication.hints import HintStore
from respkv.replication.tombstones import cut_of
from respkv.wire.messages import Facts


class CoReplicas:
    """``anti_entropy.Neighbours`` of one placement. Empty before ``follow``: this node owns nothing yet."""

    __slots__ = ("_co", "_facts", "_groups", "_hints", "_live", "_shared", "me", "owned", "peers", "placement")

    def __init__(self, hints: HintStore, live: Callable[[int], bool], facts: Callable[[int], Facts | None]) -> None:
        self._hints = hints
        self._live = live
        self._facts = facts
        self.me = 0
        self.placement: Placement | None = None
        self.owned: Sequence[int] = ()
        #: co-replicas of any slot, ascending
        self.peers: tuple[int, ...] = ()
        self._shared: dict[int, dict[int, None]] = {}
        #: co-replicas, ascending -> the slots that have just these
        self._groups: dict[tuple[int, ...], list[int]] = {}
        #: group -> the other replicas
        self._co: list[tuple[int, ...]] = []

    def follow(self, placement: Placement, me: int) -> None:
        """O(slots x replicas)."""
        self.placement, self.me = placement, me
        self.owned = placement.owned(me)
        self._co = [tuple(short for short in group if short != me) if me in group else () for group in placement.groups]
        self._shared, self._groups = {}, {}
        for first, last, group in placement.ranges:
            slots = range(first, last + 1)
            for peer in self._co[group]:
                self._shared.setdefault(peer, {}).update(dict.fromkeys(slots))
            self._groups.setdefault(tuple(sorted(self._co[group])), []).extend(slots)
        self.peers = tuple(sorted(self._shared))

    def alive(self) -> Sequence[int]:
        return [peer for peer in self.peers if self._live(peer)]

    def is_alive(self, peer: int) -> bool:
        """Whether a member can be reached."""
        return self._live(peer)

    def owns(self, slot: int) -> bool:
        """Whether this node is a natural replica of a slot."""
        return self.placement is not None and self.me in self.placement.table[slot]

    def shared(self, peer: int) -> dict[int, None]:
        return self._shared.get(peer, {})

    def groups(self, peer: int) -> Sequence[tuple[Sequence[int], Sequence[int]]]:
        return [(peers, slots) for peers, slots in self._groups.items() if peer in peers]

    def co_replicas(self, slot: int) -> Sequence[int]:
        assert self.placement is not None
        return self._co[self.placement.group_of[slot]]

    def alone(self) -> Sequence[int]:
        """Owned slots that nobody else owns."""
        return () if self.peers else self.owned

    def cut(self, now_ms: int) -> int:
        """See ``anti_entropy.Neighbours``. O(members)."""
        start_ms, oldest = now_ms, self._hints.oldest_stamp() or MAX_STAMP
        for short in self.placement.members if self.placement is not None else ():
            if short != self.me:
                facts = self._facts(short)
                if facts is None:
                    return 0
                start_ms = min(start_ms, hlc_ms(facts.clock))
                oldest = min(oldest, facts.oldest_hint or MAX_STAMP)
        return cut_of(start_ms, oldest)
