"""What a running compaction does to the latency of GET at half load.

``python -m compat.load.compaction_latency`` fills respkv, reads every key once (not with ``--cold``), finds its full
speed for GET, then drives it at half of that together with enough SET to keep flushes and compactions coming. A probe
times single GETs; each is put down to "busy" or "quiet" by whether the workers used the processor in its tenth of a
second.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
from bisect import bisect_right
from pathlib import Path
from typing import Any

from compat.load import redis_benchmark
from compat.load.connection import ServerError, fill, read_all
from compat.load.figures import summary_ms
from compat.load.metrics_page import fetch_metrics
from compat.load.probe import random_get, run_probe
from compat.load.report import machine_facts, write_json
from compat.load.servers import (
    LoadError,
    Server,
    clean_up_when_told_to_end,
    default_respkv_command,
    free_port,
    require_tools,
)

#: Share of a core that workers must use for a moment to count as busy.
BUSY_SHARE = 0.2
_ROOT = str(Path(__file__).resolve().parents[2])


def split_by_work(
    replies: list[tuple[float, float]], samples: list[tuple[float, float]]
) -> tuple[list[float], list[float]]:
    """Latencies (busy, quiet). ``samples`` are (second, processor seconds of workers so far), in order; replies
    before the first or after the last sample belong to neither."""
    busy: list[float] = []
    quiet: list[float] = []
    moments = [at for at, _ in samples]
    for at, latency in replies:
        index = bisect_right(moments, at)
        if 0 < index < len(samples):
            (since, before), (until, after) = samples[index - 1], samples[index]
            (busy if after - before >= BUSY_SHARE * (until - since) else quiet).append(latency)
    return busy, quiet


def full_speed(server: Server, options: argparse.Namespace) -> float:
    """GETs a second that redis-benchmark reaches."""
    common = {"pipeline": 1, "keys": options.keys, "value_bytes": options.value_bytes}
    requests = redis_benchmark.calibrated_requests(server.port, "get", seconds=options.speed_seconds, **common)
    return redis_benchmark.run(
        server.port, "get", requests=requests, timeout_s=options.speed_seconds * 5 + 60, **common
    ).rps


def drive(server: Server, gets_per_second: float, options: argparse.Namespace) -> dict[str, Any]:
    """Half load with a probe beside it."""
    numbers = {
        "port": server.port, "gets-per-second": gets_per_second, "sets-per-second": options.sets_per_second,
        "seconds": options.seconds, "keys": options.keys, "value-bytes": options.value_bytes,
    }  # fmt: skip
    words = [word for name, number in numbers.items() for word in (f"--{name}", str(number))]
    samples: list[tuple[float, float]] = []

    def sample(now: float) -> None:
        whole, main_alone = server.cpu_s()
        samples.append((now, whole - main_alone))

    load = subprocess.Popen(
        [sys.executable, "-m", "compat.load.paced_load", *words],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=_ROOT,
    )  # fmt: skip
    try:
        probe = run_probe(
            server.port, seconds=options.seconds, interval_ms=options.probe_interval_ms,
            make=random_get(options.keys), tick=sample,
        )  # fmt: skip
        output, complaint = load.communicate(timeout=60)
    finally:
        if load.poll() is None:
            load.kill()
            load.wait(10)
    if load.returncode:
        raise LoadError(complaint.strip() or f"the load ended with {load.returncode}")
    busy, quiet = split_by_work(probe.replies, samples)
    return {
        "load": json.loads(output), "all": probe.summary(),
        "busy": summary_ms(busy) if busy else None, "quiet": summary_ms(quiet) if quiet else None,
    }  # fmt: skip


def measure(options: argparse.Namespace) -> dict[str, Any]:
    metrics_port = free_port()
    directives = ["--metrics-port", str(metrics_port), "--memtable-bytes", options.memtable_bytes]
    server = Server("respkv", options.respkv_server, [*directives, *shlex.split(options.respkv_options)])
    try:
        server.start()
        fill(server.port, options.keys, value_bytes=options.value_bytes)
        server.wait_idle(options.idle_wait)
        if not options.cold:
            read_all(server.port, options.keys, value_bytes=options.value_bytes)
        speed = full_speed(server, options)
        before = fetch_metrics(metrics_port)
        report = drive(server, speed / 2, options)
        after = fetch_metrics(metrics_port)
        server.check_alive()
    finally:
        server.remove()
    done = {
        name: after[f"respkv_{name}_total"] - before[f"respkv_{name}_total"] for name in ("flushes", "compactions")
    }
    if not done["compactions"]:
        raise LoadError(f"no compaction came to an end in {options.seconds:.0f} s: more seconds or --sets-per-second")
    return {"full_speed_per_second": speed, **done, **report}


def parse_options(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="compat.load.compaction_latency", description=__doc__)
    parser.add_argument("--keys", type=int, default=1_000_000)
    parser.add_argument("--value-bytes", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--speed-seconds", type=float, default=5.0, help="time to find the full speed")
    parser.add_argument("--sets-per-second", type=float, default=5000.0)
    parser.add_argument("--memtable-bytes", default="4mb", help="small, so that compactions come often")
    parser.add_argument("--probe-interval-ms", type=float, default=2.0)
    parser.add_argument("--cold", action="store_true", help="without reading every key before")
    parser.add_argument("--idle-wait", type=float, default=60.0)
    parser.add_argument("--respkv-server", default=default_respkv_command(), metavar="CMD")
    parser.add_argument("--respkv-options", default="", help="further options, as one word")
    parser.add_argument("--json", default="", metavar="FILE")
    options = parser.parse_args(argv)
    if not (options.keys > 0 and 0 < options.seconds <= 3600 and options.probe_interval_ms > 0):
        parser.error("keys, seconds and the interval must be positive and bounded")
    return options


def main(argv: list[str]) -> int:
    options = parse_options(argv)
    clean_up_when_told_to_end()
    try:
        require_tools("redis-benchmark")
        facts = machine_facts()
        report = measure(options)
    except (LoadError, ServerError, OSError, subprocess.TimeoutExpired) as reason:
        print(f"compaction_latency: {reason}", file=sys.stderr)
        return 1
    print(f"load {report['load']['per_second']:.0f}/s of {report['full_speed_per_second']:.0f}/s,"
          f" {report['flushes']:.0f} flushes, {report['compactions']:.0f} compactions")  # fmt: skip
    for name in ("busy", "quiet", "all"):
        print(f"GET {name:6} {report[name] or 'no samples'}")
    write_json(options.json, {"machine": facts, "settings": vars(options), **report})
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
