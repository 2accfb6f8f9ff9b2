"""Whole clusters under virtual time: seeds that must hold, one digest a seed, and rules broken on purpose that must be
found. ``RESPKV_SEEDS`` sets how many seeds are run (200), on as many cores as there are."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from respkv.testing import mutations
from respkv.testing.cluster import Plan, plan_of
from respkv.testing.simulate import main, run_plan, run_seed, run_seeds

SEEDS = int(os.environ.get("RESPKV_SEEDS", "200"))
TOGETHER = 10
#: pytest-xdist has a process for each core already.
PROCESSES = 1 if "PYTEST_XDIST_WORKER" in os.environ else os.cpu_count() or 1
#: Seeds that find a fault which is not mended yet, with what is known of it.
OPEN: dict[int, str] = {}
#: Where to begin to look for a broken rule, to be done sooner than from seed 1.
FIRST = {
    "ack-before-log": 2, "ack-before-sync": 17, "actor-reused": 8, "clock-forgotten": 14, "count-believed": 8,
    "emptied-unasked": 3, "expired-shown": 2, "flush-of-the-future": 4, "late-deletion-hides-newer": 48,
    "no-read-repair": 4, "quorum-of-one": 2, "unknown-called-failed": 5,
}  # fmt: skip
ROOT = Path(__file__).parents[2]
S = 1_000_000


def run(first: int, count: int, nodes: int = 3) -> None:
    seeds = [seed for seed in range(first, first + count) if seed not in OPEN]
    for report in run_seeds(seeds, nodes=nodes, processes=PROCESSES):
        assert not report.violations, "\n".join([str(report), *report.violations[:10]])


@pytest.mark.parametrize("first", range(0, SEEDS, TOGETHER))
def test_seeds(first: int) -> None:
    run(first, min(TOGETHER, SEEDS - first))


@pytest.mark.parametrize("nodes", [1, 2, 5])
def test_rings_of_other_sizes(nodes: int) -> None:
    run(5_000, 5, nodes=nodes)


def test_workloads_of_their_own() -> None:
    """Some requests often, others never: other seeds than those of usual runs, since these plans are others, too."""
    reports = list(run_seeds(range(5_100, 5_108), varied=True, processes=PROCESSES))
    assert [report.violations for report in reports] == [[]] * 8
    assert len({report.figures["operations"] for report in reports}) == 8


def test_a_single_node_survives_what_it_promises_to() -> None:
    kinds = ("kill", "power", "fuse", "slow_disk", "sync_error", "full_disk", "pause")
    for seed in range(20):
        plan = Plan(
            seed, nodes=1, ring=False, clients=3, faulty_us=8 * S, healed_us=16 * S, kinds=kinds,
            pause_us=(100_000, 900_000), directives={"appendfsync": "always", "memtable-bytes": "24576"},
        )  # fmt: skip
        plan.mix.pad_bytes = 300
        plan.mix.weights["flushall"] = 1
        report = run_plan(plan)
        assert not report.violations, "\n".join([str(report), *report.violations[:10]])


@pytest.mark.parametrize("seed", range(2, 6))
def test_a_wall_clock_that_is_far_ahead_harms_nobody(seed: int) -> None:
    plan = plan_of(seed)
    mutations.far_ahead(plan)
    report = run_plan(plan)
    assert not report.violations, "\n".join([str(report), *report.violations[:10]])
    assert report.faults["far_clock"]


@pytest.mark.parametrize("seed", [3, 26])
def test_one_seed_gives_one_trace(seed: int) -> None:
    lines = []
    for hash_seed in ("0", "1"):
        done = subprocess.run(
            [sys.executable, "-m", "respkv.testing.simulate", "--seed", str(seed)], cwd=ROOT, capture_output=True,
            text=True, timeout=120, env={**os.environ, "PYTHONHASHSEED": hash_seed},
        )  # fmt: skip
        lines.append(done.stdout.splitlines()[0])
    assert lines[0] == lines[1] and "digest" in lines[0]


def test_other_seeds_give_other_traces() -> None:
    assert run_seed(40).digest != run_seed(13).digest


@pytest.mark.parametrize("name", mutations.MUTATIONS)
def test_a_broken_rule_is_found(name: str) -> None:
    mutation = mutations.MUTATIONS[name]
    first = FIRST.get(name, 1)
    for report in run_seeds(range(first, first + mutation.seeds), mutation=name, processes=PROCESSES):
        if mutations.found_by(name, report.violations):
            return
    pytest.fail(f"{mutation.text}: not found with {mutation.seeds} seeds")


def test_the_command_says_how_it_went(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--seed", "40"]) == 0
    assert "1 seeds, 0 with violations" in capsys.readouterr().out
    assert main(["--seed", "1", "--seeds", "5", "--mutation", "blind-apply"]) == 0
    assert "found with" in capsys.readouterr().out
    assert main(["--list"]) == 0
    listed = capsys.readouterr().out
    assert all(f"{name}: {mutation.text}" in listed for name, mutation in mutations.MUTATIONS.items())


def test_a_mutation_that_is_not_found_is_a_failure(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    harmless = mutations.Mutation("nothing is broken", ("log",), 1, lambda plan: None)
    monkeypatch.setitem(mutations.MUTATIONS, "harmless", harmless)
    assert main(["--seed", "40", "--mutation", "harmless"]) == 1
    assert "0 with violations" in capsys.readouterr().out
