"""The length of a suspicion, and the health score."""

from __future__ import annotations

import pytest

from respkv.cluster.suspicion import (
    HEALTH_MAX,
    LocalHealth,
    Suspicion,
    confirmations_expected,
    suspicion_limits_us,
)

S = 1_000_000


def suspicion(expected: int) -> Suspicion:
    return Suspicion(source=1, started_us=10 * S, expected=expected, shortest_us=4 * S, longest_us=24 * S)


@pytest.mark.parametrize(("members", "ticks"), [(1, 4), (3, 4), (10, 4), (100, 8), (1000, 12)])
def test_limits_grow_with_the_logarithm(members: int, ticks: int) -> None:
    assert suspicion_limits_us(members, S) == (ticks * S, 6 * ticks * S)


@pytest.mark.parametrize(("members", "expected"), [(1, 0), (2, 0), (3, 1), (4, 2), (5, 2), (100, 2)])
def test_confirmations_expected(members: int, expected: int) -> None:
    assert confirmations_expected(members) == expected


def test_confirmations_shorten_it() -> None:
    held = suspicion(2)
    assert held.timeout_us() == 24 * S
    assert held.confirm(2)
    # 24 - 20 * log 2 / log 3
    assert held.timeout_us() == 11_381_405
    assert held.confirm(3)
    assert held.timeout_us() == 4 * S
    assert not held.confirm(4)
    assert held.timeout_us() == 4 * S
    held.check_invariants()


def test_one_accuser_counts_once() -> None:
    held = suspicion(2)
    assert not held.confirm(1)
    assert held.confirm(2) and not held.confirm(2)
    assert held.accusers == [1, 2]
    assert repr(held) == "Suspicion(accusers=[1, 2], started_us=10000000, timeout_us=11381405)"


def test_with_nobody_to_confirm_it_is_short() -> None:
    held = suspicion(0)
    assert held.timeout_us() == 4 * S
    assert not held.confirm(2)
    held.check_invariants()


def test_local_health_stretches_up_to_the_longest() -> None:
    held = suspicion(1)
    held.confirm(2)
    assert [held.deadline_us(scale) // S for scale in (1, 2, 6, 9)] == [14, 18, 34, 34]
    held.postpone(3 * S)
    assert held.deadline_us(1) == 17 * S


def test_health_is_bounded() -> None:
    health = LocalHealth()
    health.better()
    assert (health.score, health.scale) == (0, 1)
    health.worse(3)
    health.better()
    assert (health.score, health.scale) == (2, 3)
    health.worse(100)
    assert (health.score, health.scale) == (HEALTH_MAX, 9)
    assert repr(health) == "LocalHealth(8)"
