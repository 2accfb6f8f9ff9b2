"""A ring of respkv beside a Redis Cluster of as many masters with a replica each, on one machine, run by run in turn.

``python -m compat.load.cluster`` starts both, and one respkv alone, fills them with the same keys and drives one at a
time: by redis-benchmark (``--cluster`` on the cluster face, and the plain face of one node), and by ``cluster_driver``,
which can follow each SET of Redis by ``WAIT 1`` so that both acknowledge a write that two machines have. Ratios are
medians over neighbouring runs; processor time is that of all servers of a store together.

redis-benchmark draws its keys per node in cluster mode, so its range is that many times smaller there: every store
holds the same number of keys.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any, Final

from compat.load import redis_benchmark
from compat.load.clusters import RedisCluster, RespkvRing, SingleNode, all_removed
from compat.load.connection import ServerError
from compat.load.figures import ratio_of_pairs, table
from compat.load.report import machine_facts, write_json
from compat.load.servers import LoadError, clean_up_when_told_to_end, default_respkv_command, require_tools

Stores = dict[str, RespkvRing | RedisCluster | SingleNode]

BENCHMARK: Final = "redis-benchmark"
DRIVER: Final = "driver"
REDIS_OPTIONS: Final = ["--appendonly", "yes", "--appendfsync", "everysec", "--save", ""]
RESPKV_OPTIONS: Final = ["--appendfsync", "everysec"]
IDLE_WAIT_S: Final = 60.0
FILL_S: Final = 900.0
#: Requests of redis-benchmark per key: it draws at random, so that one key in twenty stays absent.
FILL_TIMES: Final = 3


@dataclass(frozen=True, slots=True)
class Series:
    """One column of a comparison. ``routed``: over the cluster face, to the owner of each key. ``one_node``: all
    connections to the first node, whatever it owns."""

    name: str
    store: str
    operation: str
    routed: bool = True
    one_node: bool = False
    level: str = ""


@dataclass(frozen=True, slots=True)
class Group:
    """What is compared with each other. The ratio is that of the first column to the others."""

    tool: str
    operation: str
    pipeline: int
    columns: tuple[Series, ...]

    @property
    def title(self) -> str:
        return f"{self.operation.upper()} -P {self.pipeline}, {self.tool}"


@dataclass(frozen=True, slots=True)
class Run:
    """One run. ``cpu_us`` are microseconds of processor of all servers per request; ``others_cpu_share`` is the part of
    a core that the stores took which were not driven."""

    rps: float
    p50_ms: float
    p99_ms: float
    cpu_us: float
    others_cpu_share: float = 0.0


def make_groups() -> list[Group]:
    """All comparisons, in the order in which they run."""
    groups = []
    for operation in ("set", "get"):
        benchmark = (
            Series("respkv QUORUM", "respkv", operation),
            Series("respkv plain face", "respkv", operation, routed=False, one_node=True),
            Series("redis", "redis", operation),
            Series("single", "single", operation, routed=False, one_node=True),
        )
        ours = (
            Series("respkv QUORUM", "respkv", operation),
            Series("respkv plain face", "respkv", operation, routed=False),
        )
        theirs = (Series("redis", "redis", operation), Series("single", "single", operation, routed=False))
        if operation == "set":
            more: tuple[Series, ...] = (Series("redis SET+WAIT 1", "redis", "set-wait"),)
        else:
            more = (Series("respkv EVENTUAL", "respkv", "get", routed=False, one_node=True, level="eventual"),)
        for pipeline in (1, 16):
            groups.append(Group(BENCHMARK, operation, pipeline, benchmark))
            groups.append(Group(DRIVER, operation, pipeline, ours + more + theirs))
    return groups


def ports_of(series: Series, stores: Stores) -> list[int]:
    """The ports that a series speaks to."""
    store = stores[series.store]
    ports = store.ports if series.routed else store.plain_ports
    return ports[:1] if series.one_node else ports


class Meter:
    """Processor time from its making on: of the store that is driven, and of the others."""

    def __init__(self, stores: Stores, driven: str) -> None:
        self._stores = stores
        self._driven = driven
        self._before = self._read()
        self._began = time.monotonic()

    def _read(self) -> tuple[float, float]:
        used = {name: store.cpu_s() for name, store in self._stores.items()}
        return used[self._driven], sum(used.values()) - used[self._driven]

    def run(self, *, rps: float, p50_ms: float, p99_ms: float, requests: int) -> Run:
        """The run that ends now. LoadError when a node has died."""
        took_s = time.monotonic() - self._began
        driven, others = (after - before for after, before in zip(self._read(), self._before))
        return Run(rps, p50_ms, p99_ms, driven / requests * 1e6, others / took_s)


def drive_benchmark(series: Series, pipeline: int, stores: Stores, options: argparse.Namespace) -> tuple[Run, int]:
    """By redis-benchmark, for about the time; the figures and the number of requests."""
    [port, *_] = ports_of(series, stores)
    keys = options.keys // options.nodes if series.routed else options.keys
    common = {"pipeline": pipeline, "keys": keys, "value_bytes": options.value_bytes}
    probe = run_benchmark(port, series.operation, requests=redis_benchmark.PROBE_REQUESTS, routed=series.routed,
                          timeout_s=redis_benchmark.PROBE_S, **common)  # fmt: skip
    requests = redis_benchmark.requests_for(probe.rps, options.seconds)
    settle(stores)
    meter = Meter(stores, series.store)
    row = run_benchmark(port, series.operation, requests=requests, routed=series.routed,
                        timeout_s=options.seconds * 5 + 60, **common)  # fmt: skip
    run = meter.run(rps=row.rps, p50_ms=row.p50_latency_ms, p99_ms=row.p99_latency_ms, requests=requests)
    return run, requests


def run_benchmark(
    port: int, test: str, *, requests: int, routed: bool, timeout_s: float, pipeline: int, keys: int, value_bytes: int
) -> redis_benchmark.Row:
    """The figures of one test of redis-benchmark. LoadError when it fails, complains or is late."""
    words = redis_benchmark.arguments(
        port, test, requests=requests, pipeline=pipeline, keys=keys, value_bytes=value_bytes
    )
    done = run_bounded([*words, *(["--cluster"] if routed else [])], timeout_s)
    redis_benchmark.check_stderr(done.stderr)
    if done.returncode:
        raise LoadError(f"redis-benchmark ended with {done.returncode}: {done.stdout[-200:]!r}")
    [row] = redis_benchmark.parse_csv(figures_only(done.stdout))
    return row


def figures_only(text: str) -> str:
    """What redis-benchmark prints from the head of the table on: in cluster mode it lists the nodes before."""
    at = text.find('"test"')
    return text if at < 0 else text[at:]


def drive_driver(series: Series, pipeline: int, stores: Stores, options: argparse.Namespace) -> tuple[Run, int]:
    """By our own driver, for the time; the figures and the number of requests."""
    settle(stores)
    meter = Meter(stores, series.store)
    done = run_driver(
        ports_of(series, stores), series.operation, routed=series.routed, pipeline=pipeline, level=series.level,
        options=options, timeout_s=options.seconds * 3 + 60,
    )  # fmt: skip
    rps, requests = done["requests"] / done["seconds"], done["answered"]
    run = meter.run(rps=rps, p50_ms=done["p50_ms"], p99_ms=done["p99_ms"], requests=requests)
    if done["missing"]:
        raise LoadError(f"{series.name}: {done['missing']} keys of {requests} that were read are absent")
    return run, requests


def run_driver(
    ports: Sequence[int], operation: str, *, routed: bool, pipeline: int, options: argparse.Namespace, timeout_s: float,
    level: str = "",
) -> dict[str, Any]:  # fmt: skip
    """What the driver prints. LoadError when it fails or is late."""
    words = [
        sys.executable, "-m", "compat.load.cluster_driver", "--ports", ",".join(map(str, ports)), "--operation",
        operation, "--pipeline", str(pipeline), "--keys", str(options.keys), "--value-bytes", str(options.value_bytes),
        "--seconds", str(FILL_S if operation == "fill" else options.seconds), "--level", level,
        *(["--routed"] if routed else []),
    ]  # fmt: skip
    done = run_bounded(words, timeout_s)
    if done.returncode:
        raise LoadError(done.stderr.strip()[-500:] or f"cluster_driver ended with {done.returncode}")
    figures: dict[str, Any] = json.loads(done.stdout)
    return figures


def run_bounded(words: list[str], timeout_s: float) -> subprocess.CompletedProcess[str]:
    """Run a program to its end. LoadError when it is not done in time."""
    try:
        return subprocess.run(words, capture_output=True, text=True, timeout=timeout_s)
    except subprocess.TimeoutExpired:
        raise LoadError(f"not done after {timeout_s:.0f} s: {shlex.join(words)}") from None


def settle(stores: Stores) -> None:
    """Wait until nobody works in the background."""
    for store in stores.values():
        if not store.wait_idle(IDLE_WAIT_S):
            print(f"warning: {store.name} is still busy after {IDLE_WAIT_S:.0f} s", file=sys.stderr)


def start_all(stores: Stores, options: argparse.Namespace) -> None:
    """Start the stores that are wanted into the dict, and fill them."""
    ours = [*RESPKV_OPTIONS, *shlex.split(options.respkv_options)]
    theirs = [*REDIS_OPTIONS, *shlex.split(options.redis_options)]
    stores["respkv"] = RespkvRing(nodes=options.nodes, command=options.respkv_server, options=ours)
    stores["redis"] = RedisCluster(masters=options.nodes, command=options.redis_server, options=theirs)
    stores["single"] = SingleNode(command=options.respkv_server, options=ours)
    for store in stores.values():
        routed = bool(store.ports)
        done = run_driver(store.ports or store.plain_ports, "fill", routed=routed, pipeline=50, options=options,
                          timeout_s=FILL_S + 60)  # fmt: skip
        print(f"{store.name}: filled {done['answered']} keys in {done['seconds']:.1f} s", flush=True)
        if routed and BENCHMARK in options.tools:
            run_benchmark(store.ports[0], "set", requests=FILL_TIMES * options.keys, routed=True, timeout_s=FILL_S,
                          pipeline=16, keys=options.keys // options.nodes, value_bytes=options.value_bytes)  # fmt: skip


def run_groups(stores: Stores, options: argparse.Namespace) -> dict[Group, dict[str, list[Run]]]:
    """All runs: group by group, in each round every column once."""
    found: dict[Group, dict[str, list[Run]]] = {}
    for group in make_groups():
        if group.tool not in options.tools:
            continue
        drive = drive_benchmark if group.tool == BENCHMARK else drive_driver
        runs = found.setdefault(group, {series.name: [] for series in group.columns})
        for _ in range(options.rounds):
            for series in group.columns:
                store = stores[series.store]
                errors = store.error_replies()
                try:
                    run, requests = drive(series, group.pipeline, stores, options)
                except LoadError:
                    store.pids()  # A node that has died explains more than what its clients saw.
                    raise
                if store.error_replies() != errors:
                    raise LoadError(f"{series.name} answered errors to {group.title}")
                runs[series.name].append(run)
                print(f"{group.title}: {series.name}: {run.rps:.0f} requests/s, {run.cpu_us:.1f} us cpu,"
                      f" {requests} requests, others {run.others_cpu_share:.0%} of a core", flush=True)  # fmt: skip
    return found


def ratio(runs: dict[str, list[Run]], name: str) -> float:
    """The first column's rate over that of another."""
    ours = next(iter(runs.values()))
    return ratio_of_pairs([run.rps for run in ours], [run.rps for run in runs[name]])


def middle(runs: Sequence[Run], figure: str) -> float:
    """Median of a figure."""
    return median(getattr(run, figure) for run in runs)


def render(found: dict[Group, dict[str, list[Run]]]) -> str:
    """A table for people: one line a column of a group."""
    head = ["workload", "requests/s", "ratio of QUORUM", "cpu us", "p50 ms", "p99 ms"]
    rows = []
    for group, runs in found.items():
        for at, (name, each) in enumerate(runs.items()):
            rows.append([
                f"{group.title}: {name}", f"{middle(each, 'rps'):.0f}", f"{ratio(runs, name):.2f}" if at else "",
                f"{middle(each, 'cpu_us'):.1f}", f"{middle(each, 'p50_ms'):.3f}", f"{middle(each, 'p99_ms'):.3f}",
            ])  # fmt: skip
    return table(head, rows)


def targets(found: dict[Group, dict[str, list[Run]]]) -> list[list[str]]:
    """What must be reached: name, figure, bound, whether it is met. Only of what was measured."""
    by_key = {(group.tool, group.operation, group.pipeline): runs for group, runs in found.items()}
    rows: list[list[str]] = []

    def judge(name: str, value: float, bound: float, *, at_most: bool = False) -> None:
        met = value <= bound if at_most else value >= bound
        rows.append([name, f"{value:.2f}", f"{'<=' if at_most else '>='} {bound}", "met" if met else "MISSED"])

    if runs := by_key.get((DRIVER, "set", 1)):
        judge("QUORUM SET beside Redis SET+WAIT 1", ratio(runs, "redis SET+WAIT 1"), 0.85)
        rows.append(["QUORUM SET beside Redis SET", f"{ratio(runs, 'redis'):.2f}", "", ""])
        ours, single = runs["respkv QUORUM"], runs["single"]
        cost = median(a.cpu_us / b.cpu_us for a, b in zip(ours, single))
        judge("processor time of a QUORUM SET over one of a single node", cost, 3.5, at_most=True)
    if runs := by_key.get((DRIVER, "get", 1)):
        rows.append(["QUORUM GET beside Redis GET", f"{ratio(runs, 'redis'):.2f}", "", ""])
        pairs = zip(runs["respkv EVENTUAL"], runs["single"])
        judge("EVENTUAL GET at a replica over GET of a single node", median(a.rps / b.rps for a, b in pairs), 0.8)
    for tool in (DRIVER, BENCHMARK):
        shallow, deep = by_key.get((tool, "set", 1)), by_key.get((tool, "set", 16))
        if shallow and deep:
            gain = middle(deep["respkv QUORUM"], "rps") / middle(shallow["respkv QUORUM"], "rps")
            judge(f"QUORUM SET -P 16 over -P 1, {tool}", gain, 2.2)
    return rows


def parse_options(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="compat.load.cluster", description=__doc__)
    parser.add_argument("--seconds", type=float, help="length of a run, 8 unless told")
    parser.add_argument("--rounds", type=int, help="runs of each column, 3 unless told")
    parser.add_argument("--quick", action="store_true", help="one round of 2 s")
    parser.add_argument("--tools", type=lambda text: text.split(","), default=[BENCHMARK, DRIVER],
                        help="either or both")  # fmt: skip
    parser.add_argument("--nodes", type=int, default=3, help="nodes of the ring, masters of the Redis Cluster")
    parser.add_argument("--keys", type=int, default=1_000_000)
    parser.add_argument("--value-bytes", type=int, default=200)
    parser.add_argument("--respkv-server", default=default_respkv_command(), metavar="CMD")
    parser.add_argument("--redis-server", default="redis-server", metavar="CMD")
    parser.add_argument("--respkv-options", default="", help="further options, as one word")
    parser.add_argument("--redis-options", default="", help="further options, as one word")
    parser.add_argument("--json", default="", metavar="FILE", help="write all figures there")
    options = parser.parse_args(argv)
    usual_s, usual_rounds = (2.0, 1) if options.quick else (8.0, 3)
    options.seconds = usual_s if options.seconds is None else options.seconds
    options.rounds = usual_rounds if options.rounds is None else options.rounds
    if not (0 < options.seconds <= 3600 and 0 < options.rounds <= 100 and options.keys > options.nodes >= 3):
        parser.error("seconds and rounds must be positive and bounded, nodes at least 3, keys more than nodes")
    if not options.tools or set(options.tools) - {BENCHMARK, DRIVER}:
        parser.error(f"--tools takes {BENCHMARK} and {DRIVER}")
    return options


def main(argv: list[str]) -> int:
    options = parse_options(argv)
    clean_up_when_told_to_end()
    stores: Stores = {}
    try:
        require_tools("redis-benchmark", "redis-cli", shlex.split(options.redis_server)[0])
        facts = machine_facts()
        with all_removed(stores):
            start_all(stores, options)
            found = run_groups(stores, options)
    except (LoadError, ServerError, OSError) as reason:
        print(f"cluster: {reason}", file=sys.stderr)
        return 1
    reached = targets(found)
    print(render(found))
    print(table(["target", "measured", "bound", ""], reached))
    named = {
        group.title: {name: [asdict(run) for run in each] for name, each in runs.items()}
        for group, runs in found.items()
    }
    write_json(options.json, {"machine": facts, "settings": vars(options), "runs": named, "targets": reached})
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
