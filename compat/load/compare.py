"""respkv beside Redis under redis-benchmark, on one machine, run by run in turn.

``python -m compat.load.compare`` fills both with the same keys, reads each key once so that caches are warm, and
then for each workload drives respkv, Redis, respkv, Redis... Only one is driven at a time; the other must
be idle, is waited for, and the processor share it takes all the same is reported. The ratio is the median of
the ratios of neighbouring runs, which a drifting machine disturbs least.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any, Final

from compat.load import redis_benchmark
from compat.load.connection import ServerError, fill, read_all
from compat.load.figures import ratio_of_pairs, table
from compat.load.report import machine_facts, write_json
from compat.load.servers import (
    IDLE_CPU_SHARE,
    LoadError,
    Server,
    clean_up_when_told_to_end,
    default_respkv_command,
    require_tools,
)

REDIS_OPTIONS: Final = ["--appendonly", "yes", "--appendfsync", "everysec", "--save", ""]
RESPKV_OPTIONS: Final = ["--appendfsync", "everysec"]
#: (test of redis-benchmark, pipeline)
WORKLOADS: Final = (
    ("get", 1), ("set", 1), ("get", 16), ("set", 16), ("mset", 1), ("incr", 1), ("hset", 1),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Run:
    """One run of one workload on one server. ``cpu_us`` are microseconds of processor per request."""

    server: str
    rps: float
    p50_ms: float
    p99_ms: float
    cpu_us: float
    main_cpu_us: float
    idle_cpu_share: float


def measure(driven: Server, idle: Server | None, workload: tuple[str, int], options: argparse.Namespace) -> Run:
    """Drive one server once. LoadError when it errs, dies, or answers an error."""
    test, pipeline = workload
    common = {"pipeline": pipeline, "keys": options.keys, "value_bytes": options.value_bytes}
    requests = redis_benchmark.calibrated_requests(driven.port, test, seconds=options.seconds, **common)
    for server in filter(None, (driven, idle)):
        if not server.wait_idle(options.idle_wait):
            print(f"warning: {server.name} is still busy after {options.idle_wait:.0f} s", file=sys.stderr)
    errors = error_replies(driven)
    idle_before, began = idle.cpu_s()[0] if idle else 0.0, time.monotonic()
    all_before, main_before = driven.cpu_s()
    row = redis_benchmark.run(
        driven.port, test, requests=requests, timeout_s=options.seconds * 5 + 60, **common
    )
    all_after, main_after = driven.cpu_s()
    took_s = time.monotonic() - began
    idle_share = ((idle.cpu_s()[0] if idle else 0.0) - idle_before) / took_s
    driven.check_alive()
    if error_replies(driven) != errors:
        raise LoadError(f"{driven.name} answered errors to {test}")
    if idle_share > IDLE_CPU_SHARE:
        print(f"warning: {idle.name if idle else ''} took {idle_share:.1%} of a core while idle", file=sys.stderr)
    scale = 1e6 / requests
    return Run(
        driven.name, row.rps, row.p50_latency_ms, row.p99_latency_ms,
        (all_after - all_before) * scale, (main_after - main_before) * scale, idle_share,
    )  # fmt: skip


def error_replies(server: Server) -> int:
    """Error replies it has given so far, by its own count."""
    with server.connect() as connection:
        return int(connection.info("stats")["total_error_replies"])


def prepare(server: Server, options: argparse.Namespace) -> None:
    """Start it, fill it, read every key once."""
    server.start()
    fill_s = fill(server.port, options.keys, value_bytes=options.value_bytes)
    read_s = read_all(server.port, options.keys, value_bytes=options.value_bytes)
    print(f"{server.name}: filled {options.keys} keys in {fill_s:.1f} s, read them in {read_s:.1f} s", flush=True)


def make_servers(options: argparse.Namespace) -> tuple[Server, Server]:
    ours = Server("respkv", options.respkv_server, [*RESPKV_OPTIONS, *shlex.split(options.respkv_options)])
    theirs = Server("redis", options.redis_server, [*REDIS_OPTIONS, *shlex.split(options.redis_options)])
    return ours, theirs


def run_beside(options: argparse.Namespace) -> dict[tuple[str, int], list[Run]]:
    """Both servers stay up; workload by workload, in turn."""
    servers = make_servers(options)
    runs: dict[tuple[str, int], list[Run]] = {}
    try:
        for server in servers:
            prepare(server, options)
        for workload in options.workloads:
            for _ in range(options.rounds):
                for driven, idle in (servers, servers[::-1]):
                    keep(runs, workload, measure(driven, idle, workload, options))
    finally:
        for server in servers:
            server.remove()
    return runs


def run_apart(options: argparse.Namespace) -> dict[tuple[str, int], list[Run]]:
    """Each round starts, fills and removes one server after the other, so that never both are up."""
    runs: dict[tuple[str, int], list[Run]] = {}
    for _ in range(options.rounds):
        servers = make_servers(options)
        try:
            for server in servers:
                prepare(server, options)
                for workload in options.workloads:
                    keep(runs, workload, measure(server, None, workload, options))
                server.remove()
        finally:
            for server in servers:
                server.remove()
    return runs


def keep(runs: dict[tuple[str, int], list[Run]], workload: tuple[str, int], run: Run) -> None:
    runs.setdefault(workload, []).append(run)
    test, pipeline = workload
    print(f"{test} -P {pipeline} {run.server}: {run.rps:.0f} requests/s, {run.cpu_us:.2f} us cpu", flush=True)


def summarise(runs: list[Run]) -> dict[str, Any]:
    """Medians of both servers and the ratio of their neighbouring runs."""
    by_server = {name: [run for run in runs if run.server == name] for name in ("respkv", "redis")}
    figures = ("rps", "p50_ms", "p99_ms", "cpu_us", "main_cpu_us")
    medians = {
        name: {figure: median(getattr(run, figure) for run in chosen) for figure in figures}
        for name, chosen in by_server.items()
    }
    ratio = ratio_of_pairs([run.rps for run in by_server["respkv"]], [run.rps for run in by_server["redis"]])
    return {**medians, "ratio": ratio, "runs": [asdict(run) for run in runs]}


def render(summaries: dict[tuple[str, int], dict[str, Any]]) -> str:
    """The table for people: requests/s, ratio, processor time, latencies."""
    head = ["workload", "respkv/s", "redis/s", "ratio", "cpu us", "main us", "redis us",
            "p50 ms", "p99 ms", "redis p50", "redis p99"]  # fmt: skip
    rows = []
    for (test, pipeline), summary in summaries.items():
        ours, theirs = summary["respkv"], summary["redis"]
        rows.append([
            f"{test.upper()} -P {pipeline}", f"{ours['rps']:.0f}", f"{theirs['rps']:.0f}", f"{summary['ratio']:.3f}",
            f"{ours['cpu_us']:.2f}", f"{ours['main_cpu_us']:.2f}", f"{theirs['cpu_us']:.2f}",
            f"{ours['p50_ms']:.3f}", f"{ours['p99_ms']:.3f}", f"{theirs['p50_ms']:.3f}", f"{theirs['p99_ms']:.3f}",
        ])  # fmt: skip
    return table(head, rows)


def parse_workloads(text: str) -> list[tuple[str, int]]:
    """``get:16,set:1`` as pairs; argparse's error for a test or a pipeline that makes no sense."""
    known = sorted({test for test, _ in WORKLOADS})
    chosen = []
    for word in text.lower().split(","):
        test, _, pipeline = word.partition(":")
        if test not in known or not (pipeline or "1").isdigit() or int(pipeline or 1) < 1:
            raise argparse.ArgumentTypeError(f"{word!r} is none of {', '.join(known)}, with or without :PIPELINE")
        chosen.append((test, int(pipeline or 1)))
    return chosen


def parse_options(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="compat.load.compare", description=__doc__)
    parser.add_argument("--seconds", type=float, help="length of a run, 15 unless told")
    parser.add_argument("--rounds", type=int, help="runs of each server per workload, 3 unless told")
    parser.add_argument("--quick", action="store_true", help="one round of 2 s")
    parser.add_argument("--tests", dest="workloads", type=parse_workloads, default=list(WORKLOADS))
    parser.add_argument("--keys", type=int, default=1_000_000)
    parser.add_argument("--value-bytes", type=int, default=200)
    parser.add_argument("--apart", action="store_true", help="never both servers up: start and fill each per round")
    parser.add_argument("--idle-wait", type=float, default=60.0, help="seconds to wait for background work to end")
    parser.add_argument("--respkv-server", default=default_respkv_command(), metavar="CMD")
    parser.add_argument("--redis-server", default="redis-server", metavar="CMD")
    parser.add_argument("--respkv-options", default="", help="further options, as one word")
    parser.add_argument("--redis-options", default="", help="further options, as one word")
    parser.add_argument("--json", default="", metavar="FILE", help="write all figures there")
    options = parser.parse_args(argv)
    usual_s, usual_rounds = (2.0, 1) if options.quick else (15.0, 3)
    options.seconds = usual_s if options.seconds is None else options.seconds
    options.rounds = usual_rounds if options.rounds is None else options.rounds
    if not (0 < options.seconds <= 3600 and 0 < options.rounds <= 100 and options.keys > 0):
        parser.error("seconds, rounds and keys must be positive and bounded")
    return options


def main(argv: list[str]) -> int:
    options = parse_options(argv)
    clean_up_when_told_to_end()
    try:
        require_tools("redis-benchmark", shlex.split(options.redis_server)[0])
        facts = machine_facts()
        runs = run_apart(options) if options.apart else run_beside(options)
    except (LoadError, ServerError, OSError) as reason:
        print(f"compare: {reason}", file=sys.stderr)
        return 1
    summaries = {workload: summarise(each) for workload, each in runs.items()}
    print(render(summaries))
    named = {f"{test} -P {pipeline}": summary for (test, pipeline), summary in summaries.items()}
    settings = {**vars(options), "workloads": list(named)}
    write_json(options.json, {"machine": facts, "settings": settings, "workloads": named})
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
