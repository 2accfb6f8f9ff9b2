"""Whether a ring that is being started still waits for somebody, from one round of reports to the next."""

from __future__ import annotations

import pytest

from respkv.cli.gathering import Gathering, Verdict
from respkv.cli.local_node import Report

ABSENT = Report()
STARTING = Report(1, "starting")
FORMING = Report(1, "forming", ring="waiting for 2 more of 3 nodes")
REFUSED = Report(1, "refused", ring="refused: 127.0.0.1:1: it has lost its ring")
SILENT = Report(1, "silent")


def member(live: int) -> Report:
    return Report(1, "ready", live, ring="member of cluster x")


@pytest.mark.parametrize(
    "rounds",
    [
        [[ABSENT] * 3, [STARTING] * 3, [FORMING] * 3, [member(1), FORMING, FORMING]],
        [[FORMING] * 3, [member(1), member(2), FORMING], [member(3), member(3), FORMING]],
        [[ABSENT, member(2), member(2)], [STARTING, member(2), member(2)], [member(1), member(3), member(3)]],
        [[SILENT, member(2), member(2)]],
        # The founder was asked before it formed the ring, the others afterwards.
        [[FORMING, member(2), member(2)], [member(3), member(2), member(2)]],
    ],
)
def test_while_all_can_come_they_are_waited_for(rounds: list[list[Report]]) -> None:
    gathering = Gathering()
    assert [gathering.judge(reports, {}) for reports in rounds] == [Verdict.WAIT] * len(rounds)
    assert gathering.judge([member(3)] * 3, {}) is Verdict.DONE and gathering.lost == {}


def test_one_that_is_refused_is_not_waited_for_and_the_others_stay() -> None:
    gathering = Gathering()
    assert gathering.judge([STARTING, member(1), REFUSED], {}) is Verdict.WAIT
    assert gathering.lost == {3: "refused: 127.0.0.1:1: it has lost its ring"}
    assert gathering.judge([member(1), member(2), ABSENT], {}) is Verdict.WAIT
    # Who was a member a moment ago may still be counted.
    assert gathering.judge([member(2), member(3), ABSENT], {}) is Verdict.DONE
    assert list(gathering.lost) == [3]


def test_one_that_ended_of_a_ring_that_is_there() -> None:
    gathering = Gathering()
    assert gathering.judge([STARTING, STARTING, ABSENT], {3: "ended, status 1"}) is Verdict.WAIT
    assert gathering.judge([member(2), member(2), ABSENT], {3: "ended, status 1"}) is Verdict.DONE
    assert gathering.lost == {3: "ended, status 1"}


@pytest.mark.parametrize("others", [[FORMING, FORMING], [SILENT, FORMING], [REFUSED, FORMING]])
def test_one_that_ended_where_there_is_no_ring(others: list[Report]) -> None:
    assert Gathering().judge([*others, ABSENT], {3: "ended, status 1"}) is Verdict.NO_RING


def test_all_ended() -> None:
    gathering = Gathering()
    assert gathering.judge([ABSENT, STARTING], {1: "ended, status 1"}) is Verdict.WAIT
    assert gathering.judge([ABSENT, ABSENT], {1: "ended, status 1", 2: "ended, status 1"}) is Verdict.NO_RING


def test_a_founder_without_its_data_founds_no_second_ring() -> None:
    gathering = Gathering()
    assert gathering.judge([FORMING, member(2), member(2)], {}) is Verdict.WAIT and not gathering.lost
    assert gathering.judge([FORMING, member(2), member(2)], {}) is Verdict.DONE
    assert list(gathering.lost) == [1] and "founds another ring" in gathering.lost[1]


def test_two_without_their_data_wait_for_each_other_in_vain() -> None:
    gathering = Gathering()
    assert gathering.judge([FORMING, FORMING, member(1)], {}) is Verdict.WAIT and not gathering.lost
    assert gathering.judge([FORMING, FORMING, member(1)], {}) is Verdict.DONE
    assert list(gathering.lost) == [1, 2]
