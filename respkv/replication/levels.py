"""Consistency levels: how many replicas a read or a write waits for (Dynamo, SOSP 2007, 4.5: R and W).

The numbers travel in ``Forward`` messages; 0 stands for "whatever the configuration says".
"""

from __future__ import annotations

from typing import Final

DEFAULT: Final = 0
EVENTUAL: Final = 1
QUORUM: Final = 2
ALL: Final = 3

NAMES: Final = {EVENTUAL: "eventual", QUORUM: "quorum", ALL: "all"}
BY_NAME: Final = {name.encode(): level for level, name in NAMES.items()}


class Quorums:
    """What the levels mean on this ring: ``replicas`` is N, ``reads`` and ``writes`` are R and W of QUORUM.

    All are capped by the number of members, so that a small ring can answer at every level.
    """

    __slots__ = ("reads", "writes")

    def __init__(self, *, replicas: int, reads: int = 0, writes: int = 0) -> None:
        """R and W of 0: a majority."""
        majority = replicas // 2 + 1
        r, w = min(reads or majority, replicas), min(writes or majority, replicas)
        #: by level: answers a read needs, this node's own included
        self.reads = (r, 1, r, replicas)
        #: by level: acknowledgements a write needs, this node's own included
        self.writes = (w, 1, w, replicas)

    def overlap(self, level: int) -> bool:
        """Whether a read of that level meets every write that was acknowledged at it (Gifford, SOSP 1979)."""
        return self.reads[level] + self.writes[level] > self.reads[ALL]

    def sure(self) -> int:
        """How many replicas together know every write that was acknowledged at QUORUM; no less than R."""
        return max(self.reads[QUORUM], self.reads[ALL] - self.writes[QUORUM] + 1)

    def __repr__(self) -> str:
        return f"<Quorums R={self.reads[QUORUM]} W={self.writes[QUORUM]} N={self.reads[ALL]}>"
