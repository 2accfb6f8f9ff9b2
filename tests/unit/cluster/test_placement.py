"""The tables of a ring."""

from __future__ import annotations

from pathlib import Path

import pytest

from respkv.base.coding import U16, checksum
from respkv.base.slots import SLOT_COUNT, slot_of
from respkv.cluster.placement import Placement
from respkv.cluster.ring import first_ring
from tests.unit.cluster.rings import CLUSTER, form, member

GOLDEN = Path(__file__).parent / "golden" / "placement-1.txt"


def fingerprint(placement: Placement) -> str:
    """A checksum over the preference lists of all slots."""
    return f"{checksum(b''.join(U16.pack(short) for group in placement.table for short in group)):016x}"


@pytest.mark.parametrize("line", [line for line in GOLDEN.read_text().splitlines() if not line.startswith("#")])
def test_keys_stay_where_they_were_put(line: str) -> None:
    """A table that changes for the same ring would lose every key at the next start."""
    count, replicas, seed, tried_seed, foo, table = line.split()
    ring = form(int(count), seed=int(seed), replicas=int(replicas))
    placement = Placement(ring)
    assert ring.seed == int(tried_seed)
    assert ",".join(map(str, placement.walk(slot_of(b"foo")))) == foo
    assert fingerprint(placement) == table


@pytest.mark.parametrize(("count", "replicas"), [(1, 3), (2, 3), (3, 3), (4, 1), (5, 2), (7, 5), (10, 3)])
def test_the_tables_agree(count: int, replicas: int) -> None:
    placement = Placement(form(count, replicas=replicas))
    placement.check_invariants()
    assert placement.replicas == min(count, replicas)
    assert {len(group) for group in placement.table} == {min(count, replicas)}


def test_one_member_has_everything() -> None:
    placement = Placement(form(1))
    assert placement.table == [(1,)] * SLOT_COUNT
    assert placement.groups == ((1,),)
    assert placement.ranges == ((0, SLOT_COUNT - 1, 0),)
    assert placement.owned(1) == placement.primaries(1) == tuple(range(SLOT_COUNT))
    assert placement.walk(5) == (1,)


def test_three_members_have_six_groups() -> None:
    placement = Placement(form(3))
    assert sorted(placement.groups) == [(1, 2, 3), (1, 3, 2), (2, 1, 3), (2, 3, 1), (3, 1, 2), (3, 2, 1)]
    assert placement.owned(2) == tuple(range(SLOT_COUNT))


def test_a_walk_meets_everybody_and_is_remembered() -> None:
    placement = Placement(form(6))
    assert placement.stats()["walks"] == 0
    walk = placement.walk(12182)
    assert walk[:3] == placement.table[12182]
    assert sorted(walk) == [1, 2, 3, 4, 5, 6]
    assert placement.walk(12182) is walk
    assert placement.stats()["walks"] == 1


def test_a_stranger_owns_nothing() -> None:
    placement = Placement(form(3))
    assert placement.owned(9) == placement.primaries(9) == ()


def test_short_ids_may_have_gaps() -> None:
    ring = first_ring(CLUSTER, seed=4, replicas=2, members=[member(7), member(200), member(30)])
    placement = Placement(ring)
    placement.check_invariants()
    assert placement.members == {short: member(short) for short in (7, 30, 200)}
    assert sum(len(placement.primaries(short)) for short in (7, 30, 200)) == SLOT_COUNT


def test_figures_and_name() -> None:
    placement = Placement(form(3))
    figures = placement.stats()
    assert figures["epoch"] == 1 and figures["members"] == figures["replicas"] == 3 and figures["groups"] == 6
    assert figures["tokens"] == 768 and figures["ranges"] == len(placement.ranges)
    assert repr(placement) == "Placement(epoch=1, members=3, groups=6)"


def test_a_spoiled_table_is_found() -> None:
    placement = Placement(form(3))
    placement.table[77] = placement.groups[1 - placement.group_of[77]]
    with pytest.raises(AssertionError):
        placement.check_invariants()
