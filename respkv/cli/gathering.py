"""Whether a ring that is being started still waits for somebody: what is final is not waited for.

Final is that a process has ended, that a ring refuses a node, and that the founder makes another ring while nodes
that had joined it are members of one: it has lost its data, and so has whoever waits for that other ring.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum

from respkv.cli.local_node import FORMING, REFUSED, STARTING, STOPPED, Report

_FOUNDER = 1


class Verdict(Enum):
    """What a round of reports comes to: wait on, all that can be are members of the ring, or there is no ring."""

    WAIT = "wait"
    DONE = "done"
    NO_RING = "no ring"


class Gathering:
    """Judges one round of reports after the other. ``lost``: number of a node that can be no member -> why."""

    def __init__(self) -> None:
        self.lost: dict[int, str] = {}
        self._ring_seen = False

    def judge(self, reports: Sequence[Report], ended: Mapping[int, str]) -> Verdict:
        """``reports`` of all nodes by number, from 1; ``ended``: number of one whose process has ended -> how."""
        for number, report in enumerate(reports, 1):
            reason = ended.get(number) or self._final(number, report)
            if reason and number not in self.lost:
                self.lost[number] = reason
        left = [report for number, report in enumerate(reports, 1) if number not in self.lost]
        self._ring_seen = any(report.live is not None for report in left)
        if left and all(report.live is not None and report.live >= len(left) for report in left):
            return Verdict.DONE
        # A member knows its ring when it answers for the first time: one that is forming is none.
        hope = any(report.live is not None or report.state in (STOPPED, STARTING) for report in left)
        if self.lost and not hope:
            return Verdict.NO_RING
        return Verdict.WAIT

    def _final(self, number: int, report: Report) -> str:
        """Why a node can be no member; empty while it can.

        The founder knows a ring before anybody else does. But the nodes of a round are asked one after the other,
        so only the round before tells that it should have known.
        """
        if report.state == REFUSED:
            return report.ring
        if report.state == FORMING and self._ring_seen:
            if number == _FOUNDER:
                return "it has lost its data and founds another ring"
            if _FOUNDER in self.lost:
                return "it has lost its data, and the founder's, which could refuse it, are lost too"
        return ""
