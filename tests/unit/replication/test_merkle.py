"""Sums over the leaves of a group: those of all slots, which are made at once, and those of some."""

from __future__ import annotations

import random
from array import array

import pytest
from xxhash import xxh3_64_intdigest

from respkv.base.slots import SLOT_COUNT
from respkv.replication.merkle import GROUPS, group_sums

_LEAVES = 64


def naive(cells: array[int], slots: dict[int, None], group: int) -> int:
    """By the words of the rule."""
    leaves = b"".join(
        cell.to_bytes(8, "little")
        for slot in range(group * 128, group * 128 + 128)
        if slot in slots
        for cell in cells[slot * _LEAVES : (slot + 1) * _LEAVES]
    )
    return xxh3_64_intdigest(leaves, group)


@pytest.mark.parametrize("share", [1.0, 0.6, 0.01])
def test_group_sums_are_those_of_the_rule(share: float) -> None:
    rng = random.Random(7)
    cells = array("Q", rng.randbytes(8 * SLOT_COUNT * _LEAVES))
    slots = {slot: None for slot in range(SLOT_COUNT) if rng.random() < share}
    sums = group_sums(cells, slots)
    assert len(sums) == GROUPS
    for group in (0, 1, 77, 127):
        assert sums[group] == naive(cells, slots, group)


def test_one_leaf_changes_one_group() -> None:
    cells = array("Q", bytes(8 * SLOT_COUNT * _LEAVES))
    before = group_sums(cells, range(SLOT_COUNT))
    cells[-1] = 1
    after = group_sums(cells, range(SLOT_COUNT))
    assert [group for group in range(GROUPS) if before[group] != after[group]] == [GROUPS - 1]
