"""Who shares which slots, against the preference lists one by one."""

from __future__ import annotations

import pytest

from respkv.base.slots import SLOT_COUNT
from respkv.cluster.placement import Placement
from respkv.node.co_replicas import CoReplicas
from respkv.replication.hints import HintStore
from respkv.testing.disk import SimulatedFileSystem
from tests.unit.cluster.rings import form


@pytest.mark.parametrize(("nodes", "me"), [(1, 1), (3, 2), (5, 1)])
def test_shared_slots_and_groups_are_those_of_the_preference_lists(nodes: int, me: int) -> None:
    fs = SimulatedFileSystem()
    fs.mkdir("/hints")
    placement = Placement(form(nodes))
    known = CoReplicas(HintStore(fs, "/hints", cap_bytes=1 << 20, window_ms=1000), lambda _: True, lambda _: None)
    known.follow(placement, me)
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
