"""Seeded randomness repeats itself; the system's does not."""

from __future__ import annotations

from respkv.env.rng import from_system, random_bytes, seeded


def test_one_seed_one_sequence() -> None:
    assert [seeded(7).random() for _ in range(3)] == [seeded(7).random() for _ in range(3)]
    assert seeded(7).random() != seeded(8).random()


def test_the_system_never_repeats_itself() -> None:
    assert len({from_system().getrandbits(64) for _ in range(20)}) == 20
    assert len({random_bytes(16) for _ in range(20)}) == 20
    assert len(random_bytes(16)) == 16
