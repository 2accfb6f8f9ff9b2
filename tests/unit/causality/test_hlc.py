"""The hybrid clock never repeats a value and stays below its durable ceiling."""

from __future__ import annotations

import random

import pytest

from respkv.causality.hlc import (
    COUNTER_BITS,
    MAX_STAMP,
    STAMP_BYTES,
    ZERO_STAMP,
    ClockSkewError,
    HybridClock,
    hlc_ms,
    pack_stamp,
    stamp_hlc,
)

WALL = 1_700_000_000_000


def clock(start: int = 0, ceiling: int = 1 << 63, node: int = 1) -> HybridClock:
    return HybridClock(node, start, ceiling)


def test_stamp_layout() -> None:
    stamp = pack_stamp(0x0102030405060708, 0x090A)
    assert stamp == bytes(range(1, 11)) and len(stamp) == STAMP_BYTES
    assert stamp_hlc(stamp) == 0x0102030405060708
    assert hlc_ms(WALL << COUNTER_BITS | 77) == WALL
    assert ZERO_STAMP < stamp < MAX_STAMP


def test_byte_order_is_stamp_order() -> None:
    rng = random.Random(3)
    pairs = [(rng.getrandbits(rng.choice((8, 40, 63))), rng.getrandbits(16)) for _ in range(300)]
    assert [pack_stamp(*pair) for pair in sorted(pairs)] == sorted(pack_stamp(*pair) for pair in pairs)


def test_follows_the_wall_clock_and_counts_within_a_millisecond() -> None:
    hybrid = clock()
    first = hybrid.tick(WALL)
    assert first == WALL << 16
    assert hybrid.tick(WALL) == first + 1
    assert hybrid.tick(WALL - 5000) == first + 2
    assert hybrid.tick(WALL + 1) == WALL + 1 << 16


def test_never_repeats_whatever_the_wall_clock_does() -> None:
    rng = random.Random(5)
    hybrid, last, wall = clock(), -1, WALL
    for _ in range(3000):
        wall += rng.choice((-10_000, -1, 0, 0, 0, 1, 3, 500))
        if rng.random() < 0.1:
            hybrid.observe((wall + rng.randrange(-5000, 9000)) << 16 | rng.getrandbits(16), wall)
        value = hybrid.tick(wall)
        assert value > last and value >= wall << 16
        last = value


def test_counter_runs_over_into_the_milliseconds() -> None:
    hybrid = clock(start=(WALL << 16) | 0xFFFF)
    assert hlc_ms(hybrid.tick(WALL)) == WALL + 1


def test_stamps_name_the_node() -> None:
    assert clock(node=0x1234).stamp(WALL)[8:] == b"\x12\x34"


def test_observe_moves_beyond_what_was_seen() -> None:
    hybrid = clock()
    remote = (WALL + 9000) << 16 | 5
    hybrid.observe(remote, WALL)
    assert hybrid.tick(WALL) == remote + 1
    hybrid.observe(WALL << 16, WALL)
    assert hybrid.tick(WALL) == remote + 2


def test_a_clock_too_far_ahead_is_refused_and_moves_nothing() -> None:
    hybrid = clock()
    hybrid.tick(WALL)
    last = hybrid.last
    hybrid.observe((WALL + 10_000) << 16, WALL)
    with pytest.raises(ClockSkewError):
        hybrid.observe((WALL + 10_001) << 16, WALL)
    assert hybrid.last == (WALL + 10_000) << 16 > last


def test_the_ceiling_bounds_what_may_be_issued() -> None:
    hybrid = clock(ceiling=(WALL << 16) + 10)
    assert hybrid.may_issue(9, WALL)
    assert not hybrid.may_issue(10, WALL)
    assert not hybrid.may_issue(1, WALL + 1)
    hybrid.raise_ceiling(hybrid.wanted_ceiling(WALL))
    assert hybrid.ceiling == WALL + 5000 << 16
    assert hybrid.may_issue(1, WALL + 4999)
    hybrid.raise_ceiling(5)
    assert hybrid.ceiling == WALL + 5000 << 16


def test_the_wanted_ceiling_is_ahead_of_a_clock_that_runs_ahead() -> None:
    hybrid = clock(start=WALL + 60_000 << 16)
    assert hlc_ms(hybrid.wanted_ceiling(WALL, 100)) == WALL + 60_010


def test_quick_restarts_do_not_drive_the_clock_away_from_the_wall() -> None:
    last = WALL << 16
    for crash in range(10):  # One a second; each starts at the ceiling of the one before.
        hybrid = clock(start=last)
        ceiling = hybrid.wanted_ceiling(WALL + 1000 * crash)
        assert ceiling > last
        last = ceiling
    assert hlc_ms(last) < WALL + 9000 + 6000
