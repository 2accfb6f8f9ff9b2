"""The table of states: what beats what, who is live, and the order of replicas."""

from __future__ import annotations

import itertools

import pytest

from respkv.cluster.membership import ALIVE, DEAD, SUSPECT, Change, Membership

ROWS = [(state, incarnation) for state in (ALIVE, SUSPECT, DEAD) for incarnation in (0, 1, 2)]


@pytest.mark.parametrize(("old", "new"), list(itertools.product(ROWS, ROWS)))
def test_the_greater_incarnation_wins_then_the_worse_state(old: tuple[int, int], new: tuple[int, int]) -> None:
    table = Membership(1, [2])
    table.apply((2, *old, 1))
    table.apply((2, *new, 1))
    assert (table.incarnation(2), table.state(2)) == max((old[1], old[0]), (new[1], new[0]))
    table.check_invariants()


def test_the_end_does_not_depend_on_the_order() -> None:
    rows = [(2, SUSPECT, 1, 3), (2, DEAD, 1, 3), (2, ALIVE, 2, 2), (2, SUSPECT, 2, 4), (2, ALIVE, 1, 2)]
    for order in itertools.permutations(rows):
        table = Membership(1, [2, 3, 4])
        for row in order:
            table.apply(row)
        assert table.update(2) == (2, SUSPECT, 2, 4)


def test_changes_are_told() -> None:
    table = Membership(1, [2, 3])
    assert table.apply((2, ALIVE, 5, 2)) is None
    assert table.apply((2, SUSPECT, 4, 3)) is None
    assert table.apply((2, SUSPECT, 5, 3)) == Change(2, ALIVE, SUSPECT, 5, False)
    assert table.set_reachable(2, False) is None
    assert table.apply((2, ALIVE, 6, 2)) == Change(2, SUSPECT, ALIVE, 6, False)
    assert table.set_reachable(2, True) == Change(2, ALIVE, ALIVE, 6, True)
    assert table.set_reachable(2, True) is None
    assert table.set_reachable(2, False) == Change(2, ALIVE, ALIVE, 6, False)
    table.check_invariants()


def test_live_needs_state_and_path() -> None:
    table = Membership(1, [2])
    assert table.live(1) and table.live(2) and not table.live(9)
    table.set_reachable(2, False)
    assert not table.live(2) and not table.reachable(2)
    table.set_reachable(2, True)
    table.apply((2, SUSPECT, 0, 1))
    assert not table.live(2)


def test_order_of_replicas() -> None:
    table = Membership(1, [2, 3, 4, 5, 6])
    table.rtt(6, 30_000)
    table.set_reachable(3, False)
    table.apply((4, SUSPECT, 0, 1))
    table.apply((5, DEAD, 0, 1))
    assert table.ordered((9, 5, 4, 3, 6, 2, 1)) == (1, 2, 6, 3, 4, 5, 9)
    # Equal ones stay as the preference list has them.
    assert Membership(1, [2, 3, 4]).ordered((4, 2, 3)) == (4, 2, 3)


def test_latency_is_a_moving_average() -> None:
    table = Membership(1, [2])
    assert table.rtt_us(2) == 0
    table.rtt(2, 800)
    assert table.rtt_us(2) == 800
    table.rtt(2, 1600)
    assert table.rtt_us(2) == 900
    table.rtt(2, 100)
    assert table.rtt_us(2) == 800
    table.rtt(1, 100)
    table.rtt(9, 100)
    assert table.rtt_us(1) == 0


def test_latency_classes_have_hysteresis() -> None:
    table = Membership(1, [2])
    for sample_us, moves in [(700, False), (1200, False), (1290, True), (1100, False), (800, False), (760, True)]:
        # Enough of the same to bring the average there.
        version = table.version
        for _ in range(80):
            table.rtt(2, sample_us)
        assert (table.version != version) == moves, sample_us
        table.check_invariants()


def test_version_moves_when_an_order_may_have_changed() -> None:
    table = Membership(1, [2, 3])
    version = table.version
    table.rtt(2, 500)
    table.apply((2, ALIVE, 3, 2))
    assert table.version == version
    table.apply((2, SUSPECT, 3, 3))
    assert table.version == version + 1
    table.set_reachable(3, False)
    assert table.version == version + 2


def test_members_come_and_go() -> None:
    table = Membership(2, [3, 1])
    assert table.members == (1, 2, 3) and table.others == (1, 3) and len(table) == 3
    table.apply((3, DEAD, 7, 1))
    version = table.version
    table.replace_members([3, 4])
    assert table.members == (2, 3, 4)
    assert table.state(3) == DEAD and table.incarnation(3) == 7
    assert table.live(4) and not table.live(1) and 1 not in table
    assert table.version > version
    table.check_invariants()


def test_what_is_shown() -> None:
    table = Membership(1, [2, 3, 4], incarnation=6)
    table.apply((2, SUSPECT, 1, 3))
    table.apply((3, DEAD, 2, 4))
    table.set_reachable(4, False)
    table.resource(2, 4)
    assert table.update(2) == (2, SUSPECT, 1, 4)
    assert table.states() == {1: "alive", 2: "suspect", 3: "dead", 4: "alive"}
    assert table.in_state(SUSPECT, DEAD) == (2, 3)
    assert table.in_state(ALIVE) == (4,)
    assert table.stats() == {
        "members": 4,
        "members_alive": 2,
        "members_suspect": 1,
        "members_dead": 1,
        "members_unreachable": 1,
    }
    assert repr(table) == "Membership(me=1, 1:alive(6), 2:suspect(1), 3:dead(2), 4:alive(0))"
