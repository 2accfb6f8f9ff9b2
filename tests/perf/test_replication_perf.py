"""Replication's hot paths as ratios to the bare work beneath them, measured in the same run."""

from __future__ import annotations

import random
from array import array

from respkv.keyspace.leaf_rule import CELLS
from respkv.keyspace.leaf_sums import pack_words, unpack_words
from respkv.replication.quorum import GroupGate
from tests.perf.test_engine_perf import best_s
from tests.unit.replication.leaf_rig import LeafRig

CYCLES = 3000


def test_gate() -> None:
    """A cycle with three groups and three acks costs less than forty small lists."""
    groups = ((0, 1, (2, 3)), (1, 1, (2, 3)), (2, 1, (3, 4)))

    def bare() -> None:
        for _ in range(CYCLES):
            for peers in range(40):
                [peers, 1]  # noqa: B018

    def full() -> None:
        gate = GroupGate()
        for seq in range(1, CYCLES):
            gate.open(seq, groups, 1 << 60)
            for peer in (2, 3, 4):
                gate.ack(peer, seq)
            gate.take()

    base, measured = best_s(bare, full)
    assert measured < 4 * base


def test_leaf_wrote() -> None:
    """Telling the sums of a batch costs about what copying its list costs."""
    leaf = LeafRig().leaf
    batch = [b"x"] * 150

    def bare() -> None:
        for _ in range(CYCLES):
            batch[:]

    def full() -> None:
        for _ in range(CYCLES):
            leaf.wrote(batch)
            leaf._active.dirty.clear()

    base, measured = best_s(bare, full)
    assert measured < 12 * base


def test_a_walk_is_taken_over() -> None:
    """The loop stands still while it unpacks the sums of a walk: that takes what some copies of them take."""
    cells = array("Q", random.Random(1).randbytes(8 * CELLS))
    text = pack_words(cells)

    def bare() -> None:
        cells.tobytes()

    def full() -> None:
        assert unpack_words(text) == cells

    base, measured = best_s(bare, full)
    assert measured < 100 * base
