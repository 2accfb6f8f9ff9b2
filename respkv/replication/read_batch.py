"""Questions to other replicas that one side of a read has under way: who was asked about which keys, and for whom.

A table, no decisions: ``read_op`` makes them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from respkv.replication.rounds import Round

#: A peer that has not answered by then is joined by another one.
HEDGE_US: Final = 50_000
#: A read that has no answer by then has failed.
READ_TIMEOUT_US: Final = 2_000_000


class Batch:
    """Reads under way: one question, asked of one peer or, when that is slow, of two. The first answer counts, but for
    what it cannot say. ``places``: None where an earlier answer did. ``shared``: as in ``Collector.asked``, so that the
    questions of one reader to several peers do not end at the same one; empty where there is one question a key.
    """

    __slots__ = (
        "asked", "clock", "deadline_us", "first", "hedge_us", "keys", "places", "round", "seqs", "shared", "stamps",
    )  # fmt: skip

    def __init__(
        self, keys_: list[bytes], stamps: list[bytes], places: list[Any], shared: list[set[int]],
        round_: Round | None, now_us: int, clock: int,
    ) -> None:  # fmt: skip
        self.keys = keys_
        self.stamps = stamps
        self.places = places
        self.shared = shared
        self.round = round_
        self.hedge_us = now_us + HEDGE_US
        self.deadline_us = now_us + READ_TIMEOUT_US
        self.asked: dict[int, None] = {}
        #: number of a question under way -> who was asked
        self.seqs: dict[int, int] = {}
        #: the question that left with its cycle, ahead of what that wrote; and the last stamp given until then
        self.first = 0
        self.clock = clock

    def open(self) -> list[int]:
        """Places that wait for an answer."""
        return [index for index, place in enumerate(self.places) if place is not None]

    def taken(self, indexes: list[int]) -> set[int]:
        """Who may not be asked about these keys: was asked, here or for the same reader elsewhere."""
        return set(self.asked).union(*(self.shared[index] for index in indexes if self.shared))

    def asks(self, peer: int) -> None:
        self.asked[peer] = None
        for index in self.open() if self.shared else ():
            self.shared[index].add(peer)

    def frees(self, peer: int, indexes: Iterable[int]) -> None:
        """``peer`` is not waited for and may be asked again about these keys."""
        self.asked.pop(peer, None)
        for index in indexes if self.shared else ():
            self.shared[index].discard(peer)
