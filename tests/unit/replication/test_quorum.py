"""Counting answers: the tally, and the gate of whole cycles held against a naive model."""

from __future__ import annotations

import random
from itertools import product

import pytest

from respkv.replication.quorum import Decision, GroupGate, Missing, Outcome, QuorumTally


@pytest.mark.parametrize(("needed", "total"), [(n, t) for t in range(6) for n in range(t + 1)])
def test_a_tally_is_decided_as_soon_as_it_is_certain(needed: int, total: int) -> None:
    for answers in product((True, False), repeat=total):
        tally = QuorumTally(needed, total)
        for count, answer in enumerate(answers, 1):
            outcome = tally.ack() if answer else tally.fail()
            best = sum(answers[:count]) + total - count
            if sum(answers[:count]) >= needed:
                assert outcome is Outcome.MET
            else:
                assert outcome is (Outcome.FAILED if best < needed else Outcome.PENDING)
        assert tally.outcome() is not Outcome.PENDING


def test_more_answers_than_replicas_is_a_bug() -> None:
    tally = QuorumTally(1, 1)
    tally.ack()
    with pytest.raises(AssertionError):
        tally.ack()
    with pytest.raises(AssertionError):
        tally.fail()
    assert "1+0/1" in repr(tally)


def test_a_cycle_is_met_when_each_group_has_its_acks() -> None:
    gate = GroupGate()
    assert not gate.open(1, [(0, 1, [2, 3]), (1, 1, [3])], 1000)
    gate.ack(2, 1)
    assert gate.take() == ([Decision(1, 0, True)], []) and gate.is_open(1)
    gate.ack(3, 1)
    assert gate.take() == ([Decision(1, 1, True)], []) and not gate.is_open(1)
    gate.check_invariants()
    assert gate.next_deadline_us() is None and gate.stats() == {"cycles_open": 0, "groups_met": 2, "groups_failed": 0}


def test_nothing_needed_is_met_at_once_and_still_tells_who_is_missing() -> None:
    gate = GroupGate()
    assert gate.open(1, [(5, 0, [2])], 100)
    assert gate.take() == ([Decision(1, 5, True)], [])
    gate.expire(99)
    assert gate.take() == ([], [])
    gate.expire(100)
    assert gate.take() == ([], [Missing(1, 5, 2)])
    assert gate.open(2, [(5, 0, [])], 200) and gate.take()[0] == [Decision(2, 5, True)]


def test_too_few_peers_fail_at_once() -> None:
    gate = GroupGate()
    assert gate.open(1, [(0, 2, [2])], 100)
    assert gate.take() == ([Decision(1, 0, False)], [])
    gate.ack(2, 1)
    gate.check_invariants()
    assert gate.take() == ([], [])


def test_refusals_fail_a_group_when_the_rest_cannot_make_it() -> None:
    gate = GroupGate()
    gate.open(1, [(0, 1, [2, 3]), (1, 1, [2, 3])], 100)
    gate.refuse(2, 1, group=0)
    assert gate.take() == ([], [Missing(1, 0, 2)])
    gate.refuse(3, 1)
    decisions, missing = gate.take()
    assert decisions == [Decision(1, 0, False)]
    assert missing == [Missing(1, 0, 3), Missing(1, 1, 3)]
    gate.ack(2, 1)
    assert gate.take() == ([Decision(1, 1, True)], [])
    gate.refuse(2, 1)
    gate.refuse(2, 77)
    assert gate.take() == ([], [])


def test_a_lost_peer_and_acks_through() -> None:
    gate = GroupGate()
    for seq in (1, 2, 3):
        gate.open(seq, [(0, 1, [2, 3])], 100 + seq)
    gate.ack_through(2, 2)
    gate.peer_lost(2)
    assert gate.take() == ([Decision(1, 0, True), Decision(2, 0, True)], [Missing(3, 0, 2)])
    gate.peer_lost(3)
    decisions, missing = gate.take()
    assert decisions == [Decision(3, 0, False)]
    assert missing == [Missing(1, 0, 3), Missing(2, 0, 3), Missing(3, 0, 3)]
    assert "met=2" in repr(gate)


def test_cycles_must_be_opened_in_order() -> None:
    gate = GroupGate()
    gate.open(2, [(0, 1, [2])], 100)
    with pytest.raises(AssertionError):
        gate.open(1, [(0, 1, [2])], 100)


@pytest.mark.parametrize("seed", range(30))
def test_random_answers_agree_with_tallies(seed: int) -> None:
    rng = random.Random(seed)
    gate = GroupGate()
    tallies: dict[tuple[int, int], QuorumTally] = {}
    silent: dict[tuple[int, int], list[int]] = {}
    deadlines: dict[int, int] = {}
    decided: dict[tuple[int, int], bool] = {}
    missing: list[Missing] = []
    expected_missing: list[Missing] = []
    seq = now = 0
    for _ in range(300):
        now += rng.randrange(20)
        action = rng.randrange(6)
        if action <= 1:
            seq += 1
            groups = []
            for group in rng.sample(range(5), rng.randint(1, 3)):
                peers = rng.sample((2, 3, 4, 5), rng.randint(0, 3))
                needed = rng.randint(0, len(peers))
                groups.append((group, needed, peers))
                tallies[seq, group] = QuorumTally(needed, len(peers))
                silent[seq, group] = list(peers)
            deadlines[seq] = now + 100
            gate.open(seq, groups, now + 100)
        elif action == 5:
            gate.expire(now)
            for place, peers in silent.items():
                if deadlines[place[0]] <= now:
                    for peer in peers:
                        tallies[place].fail()
                        expected_missing.append(Missing(*place, peer))
                    peers.clear()
        elif seq:
            chosen, peer = rng.randint(max(1, seq - 6), seq), rng.choice((2, 3, 4, 5))
            (gate.ack if action < 4 else gate.refuse)(peer, chosen)
            for place, peers in silent.items():
                if place[0] == chosen and peer in peers:
                    peers.remove(peer)
                    if action < 4:
                        tallies[place].ack()
                    else:
                        tallies[place].fail()
                        expected_missing.append(Missing(*place, peer))
        decisions, lost = gate.take()
        for decision in decisions:
            assert (decision.seq, decision.group) not in decided, "decided once"
            decided[decision.seq, decision.group] = decision.met
        missing += lost
        gate.check_invariants()
        for place, tally in tallies.items():
            outcome = tally.outcome()
            assert decided.get(place) is {Outcome.MET: True, Outcome.FAILED: False}.get(outcome)
    assert sorted(missing) == sorted(expected_missing)
