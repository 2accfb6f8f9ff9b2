"""Keys whose concurrent writes are kept, in whole rings under virtual time."""

from __future__ import annotations

import pytest

from respkv.testing.simulate import run_seed

FIRST, COUNT = 7_000, 12


@pytest.mark.parametrize("seed", range(FIRST, FIRST + COUNT))
def test_nothing_is_lost_that_nobody_has_replaced(seed: int) -> None:
    report = run_seed(seed, siblings=True)
    assert not report.violations, "\n".join([str(report), *report.violations[:10]])


@pytest.mark.parametrize("nodes", [1, 5])
def test_on_rings_of_other_sizes(nodes: int) -> None:
    report = run_seed(FIRST, nodes=nodes, siblings=True)
    assert not report.violations, "\n".join([str(report), *report.violations[:10]])
