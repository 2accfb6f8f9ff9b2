"""``python -m respkv.testing.simulate``: run seeds of the cluster simulation, say what they found.

    --seed S        the first seed (0)
    --seeds N       how many (1)
    --nodes N       nodes of the ring (3)
    --processes N   seeds that run at a time (1)
    --siblings      keys whose concurrent writes are kept are in the workload (as they are in every fourth seed)
    --varied        each seed has a workload and a pace of its own: some requests often, others never
    --mutation NAME break one rule in every node; then finding it is success
    --trace         print the trace of each run
    --list          name the mutations

Ends with 1 when a rule was broken, or when a mutation was not found.
"""

from __future__ import annotations

import gc
import sys
import traceback
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial

from respkv.base.errors import RespkvError
from respkv.testing import mutations
from respkv.testing.cluster import Cluster, Plan, Report, plan_of, vary

#: What a broken node may raise.
_RAISED = (AssertionError, LookupError, TypeError, ValueError, AttributeError, ArithmeticError, OSError, RespkvError)
_SHOWN = 12


def arguments(words: list[str] | None = None) -> Namespace:
    """What was asked for."""
    parser = ArgumentParser(prog="python -m respkv.testing.simulate", description="Simulate clusters from seeds.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--mutation", default="", choices=["", *mutations.MUTATIONS])
    parser.add_argument("--siblings", action="store_true")
    parser.add_argument("--varied", action="store_true")
    parser.add_argument("--trace", action="store_true")
    parser.add_argument("--list", action="store_true")
    asked = parser.parse_args(words)
    if asked.trace and asked.processes > 1:
        parser.error("--trace prints as a run goes on: leave --processes out")
    return asked


def run_plan(plan: Plan, *, trace: bool = False) -> Report:
    """Run it; what a node raises is a violation like any other."""
    cluster = Cluster(plan, write=sys.stdout.write if trace else None)
    try:
        report = cluster.run()
    except _RAISED:
        cluster.violations.append(f"raised: {traceback.format_exc(limit=-12)}")
        report = cluster.report()
    # Nodes hold each other by their callbacks, some 40 MB a run: not to wait for ``_collect_rarely``.
    del cluster
    gc.collect()
    return report


def run_seed(
    seed: int,
    *,
    nodes: int = 3,
    mutation: str = "",
    siblings: bool = False,
    varied: bool = False,
    trace: bool = False,
) -> Report:
    """One run of a seed."""
    plan = plan_of(seed, nodes=nodes)
    plan.siblings |= siblings
    if varied:
        vary(plan)
    if mutation:
        mutations.MUTATIONS[mutation].plant(plan)
    return run_plan(plan, trace=trace)


def run_seeds(
    seeds: Sequence[int],
    *,
    nodes: int = 3,
    mutation: str = "",
    siblings: bool = False,
    varied: bool = False,
    trace: bool = False,
    processes: int = 1,
) -> Iterator[Report]:
    """Runs of several seeds, in their order; ``processes`` of them at a time. Those not begun end with the iterator."""
    run = partial(run_seed, nodes=nodes, mutation=mutation, siblings=siblings, varied=varied, trace=trace)
    if processes == 1:
        yield from map(run, seeds)
        return
    pool = ProcessPoolExecutor(processes, initializer=_collect_rarely)
    try:
        yield from pool.map(run, seeds)
    finally:
        pool.shutdown(cancel_futures=True)


def _collect_rarely() -> None:
    """A run makes hundreds of thousands of objects and hardly a cycle of them: looking for those as often as Python
    does by itself takes a tenth of the time."""
    gc.freeze()
    gc.set_threshold(50_000, 10, 10)


def main(words: list[str] | None = None) -> int:
    """The command; its exit status."""
    asked = arguments(words)
    if asked.list:
        for name, mutation in mutations.MUTATIONS.items():
            print(f"{name}: {mutation.text}")
        return 0
    _collect_rarely()
    bad: list[int] = []
    reports = run_seeds(
        range(asked.seed, asked.seed + asked.seeds), nodes=asked.nodes, mutation=asked.mutation,
        siblings=asked.siblings, varied=asked.varied, trace=asked.trace, processes=asked.processes,
    )  # fmt: skip
    for report in reports:
        print(report, flush=True)
        if asked.mutation:
            # Only what the rule's own checker has found counts.
            report.violations = mutations.found_by(asked.mutation, report.violations)
        for violation in report.violations[:_SHOWN]:
            print(f"  {violation}", flush=True)
        if len(report.violations) > _SHOWN:
            print(f"  and {len(report.violations) - _SHOWN} more", flush=True)
        if report.violations:
            bad.append(report.seed)
            if asked.mutation:
                print(f"found with {report.seed - asked.seed + 1} seeds")
                return 0
    print(f"{asked.seeds} seeds, {len(bad)} with violations{': ' + ' '.join(map(str, bad)) if bad else ''}")
    return 1 if bad or asked.mutation else 0


if __name__ == "__main__":
    sys.exit(main())
