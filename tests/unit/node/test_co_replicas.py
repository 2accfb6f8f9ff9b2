"""Who shares which slots, against the preference lists one by one."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from respkv.base.slots import SLOT_COUNT
from respkv.causality.hlc import pack_stamp
from respkv.cluster.placement import Placement
from respkv.node.co_replicas import CoReplicas
from respkv.replication.hints import HintStore
from respkv.replication.tombstones import PROPAGATION_MS
from respkv.testing.disk import SimulatedFileSystem
from respkv.wire.messages import Facts
from tests.unit.cluster.rings import form

NOW_MS = 1_700_000_000_000


def neighbours(facts: Mapping[int, Facts], nodes: int, me: int = 1) -> CoReplicas:
    fs = SimulatedFileSystem()
    fs.mkdir("/hints")
    known = CoReplicas(HintStore(fs, "/hints", cap_bytes=1 << 20, window_ms=1000), lambda _: True, facts.get)
    known.follow(Placement(form(nodes)), me)
    return known


@pytest.mark.parametrize("nodes", [3, 5])
def test_cuts_follow_the_clock_that_is_furthest_behind_and_stand_still_when_a_member_tells_nothing(nodes: int) -> None:
    facts = {short: Facts(clock=NOW_MS << 16) for short in range(2, nodes + 1)}
    known = neighbours(facts, nodes)
    assert known.cut(NOW_MS) == NOW_MS - PROPAGATION_MS << 16
    assert known.cut(NOW_MS + 600_000) == NOW_MS - PROPAGATION_MS << 16, "this node's clock is ahead"
    assert known.cut(NOW_MS - 5_000) == NOW_MS - 5_000 - PROPAGATION_MS << 16
    facts[nodes] = Facts(clock=(NOW_MS + 600_000) << 16, oldest_hint=pack_stamp(5 << 16, 1))
    assert known.cut(NOW_MS + 600_000) == 5 << 16
    del facts[nodes]
    assert known.cut(NOW_MS) == 0, "it may hold a hint of any age"


def test_the_only_member_goes_by_its_own_clock() -> None:
    assert neighbours({}, 1).cut(NOW_MS) == NOW_MS - PROPAGATION_MS << 16


@pytest.mark.parametrize(("nodes", "me"), [(1, 1), (3, 2), (5, 1)])
def test_shared_slots_and_groups_are_those_of_the_preference_lists(nodes: int, me: int) -> None:
    placement, known = Placement(form(nodes)), neighbours({}, nodes, me)
    others = [{*replicas} - {me} if me in replicas else set() for replicas in placement.table]
    assert known.peers == tuple(sorted({peer for each in others for peer in each}))
    assert not known.shared(99) and not known.groups(99)
    for peer in known.peers:
        slots = [slot for slot in range(SLOT_COUNT) if peer in others[slot]]
        assert list(known.shared(peer)) == slots
        groups = known.groups(peer)
        assert sorted(slot for _, group in groups for slot in group) == slots
        assert len({peers for peers, _ in groups}) == len(groups)
        for peers, group in groups:
            assert all(others[slot] == set(peers) for slot in group)
