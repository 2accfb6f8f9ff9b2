"""Placement against a naive walk, and what a ring must keep when it grows or shrinks."""

from __future__ import annotations

import random
from collections import Counter
from itertools import pairwise
from statistics import mean

import pytest

from respkv.base.slots import SLOT_COUNT
from respkv.cluster.placement import Placement
from respkv.cluster.ring import Member, Ring, first_ring
from tests.unit.cluster.rings import CLUSTER, member, with_members

N = 3


def random_member(rng: random.Random, short: int) -> Member:
    base = member(short)
    return Member(
        rng.randbytes(16), short, base.client_host, base.client_port, 0, False, base.node_host, base.node_port
    )


def random_ring(rng: random.Random, count: int, *, replicas: int = N) -> Ring:
    members = [random_member(rng, short) for short in range(1, count + 1)]
    return first_ring(CLUSTER, seed=rng.getrandbits(64), replicas=replicas, members=members)


def naive_walk(ring: Ring, slot: int) -> list[int]:
    """All members clockwise from the slot's coordinate, straight from the definition."""
    tokens = ring.tokens()
    after = [owner for token, owner in tokens if token >= slot << 50]
    before = [owner for token, owner in tokens if token < slot << 50]
    shorts = {each.node_id: each.short for each in ring.members}
    return [shorts[owner] for owner in dict.fromkeys(after + before)]


@pytest.mark.parametrize("seed", range(8))
def test_the_tables_are_the_naive_walk(seed: int) -> None:
    rng = random.Random(seed)
    count = rng.randint(1, 12)
    ring = random_ring(rng, count, replicas=rng.randint(1, 5))
    placement = Placement(ring)
    placement.check_invariants()
    for slot in [0, 1, SLOT_COUNT - 1, *rng.sample(range(SLOT_COUNT), 150)]:
        walk = naive_walk(ring, slot)
        assert list(placement.walk(slot)) == walk
        assert list(placement.table[slot]) == walk[: ring.replicas]


@pytest.mark.parametrize("count", [1, 2, 3, 4, 6, 9])
def test_a_joining_node_is_inserted_and_nothing_else_moves(count: int) -> None:
    rng = random.Random(count)
    ring = random_ring(rng, count)
    grown = with_members(ring, [*ring.members, random_member(rng, 100)])
    old, new = Placement(ring).table, Placement(grown).table
    for before, after in zip(old, new, strict=True):
        if 100 in after:
            rest = tuple(short for short in after if short != 100)
            assert rest == before[: len(rest)]
            assert len(before) - len(rest) <= 1
        else:
            assert after == before


@pytest.mark.parametrize("count", [4, 5, 8])
def test_a_leaving_node_hands_on_only_its_own_places(count: int) -> None:
    rng = random.Random(count)
    ring = random_ring(rng, count)
    shrunk = with_members(ring, [each for each in ring.members if each.short != 2])
    for before, after in zip(Placement(ring).table, Placement(shrunk).table, strict=True):
        kept = tuple(short for short in before if short != 2)
        assert after[: len(kept)] == kept
        assert len(after) == N
    back = with_members(shrunk, ring.members)
    assert Placement(back).table == Placement(ring).table


@pytest.mark.parametrize("count", [3, 5, 9])
def test_a_join_moves_its_share(count: int) -> None:
    """1/(S + 1) of all places: 5 % off in the mean of some joins, none off by more than a fifth."""
    shares = []
    for seed in range(8):
        rng = random.Random(100 * count + seed)
        ring = random_ring(rng, count)
        old = Placement(ring).table
        new = Placement(with_members(ring, [*ring.members, random_member(rng, 100)])).table
        moved = sum(len(set(after) - set(before)) for before, after in zip(old, new, strict=True))
        shares.append(moved * (count + 1) / (SLOT_COUNT * N))
    assert abs(mean(shares) - 1) <= 0.05
    assert max(abs(share - 1) for share in shares) <= 0.2


@pytest.mark.parametrize("count", range(3, 11))
def test_a_formed_ring_is_balanced(count: int) -> None:
    for seed in range(4):
        placement = Placement(random_ring(random.Random(1000 * count + seed), count))
        assert max(len(placement.primaries(short)) for short in placement.members) <= 1.15 * SLOT_COUNT / count
        assert max(len(placement.owned(short)) for short in placement.members) <= 1.15 * SLOT_COUNT * N / count


def test_keys_of_a_formed_ring_are_balanced_too() -> None:
    """The keys of an application, not only the slots: ten nodes, 60 000 keys."""
    placement = Placement(random_ring(random.Random(6), 10))
    rng = random.Random(7)
    keys = Counter(placement.table[rng.randrange(SLOT_COUNT)][0] for _ in range(60_000))
    assert max(keys.values()) <= 1.15 * 6000


@pytest.mark.parametrize(("count", "expected"), [(3, 505), (6, 1240), (10, 2150)])
def test_ranges_stay_few(count: int, expected: int) -> None:
    """What CLUSTER SLOTS shows: neighbours with one primary joined."""
    placement = Placement(random_ring(random.Random(count), count))
    primaries = [group[0] for group in placement.table]
    ranges = 1 + sum(before != after for before, after in pairwise(primaries))
    assert abs(ranges - expected) <= 0.06 * expected


def test_the_same_ring_gives_the_same_tables() -> None:
    ring = random_ring(random.Random(1), 6)
    first, second = Placement(ring), Placement(Ring.decode(ring.encode()))
    assert first.table == second.table
    assert first.groups == second.groups and first.group_of == second.group_of and first.ranges == second.ranges


def test_an_epoch_without_a_change_of_members_changes_no_slot() -> None:
    ring = random_ring(random.Random(2), 5)
    assert Placement(with_members(ring, ring.members)).table == Placement(ring).table
