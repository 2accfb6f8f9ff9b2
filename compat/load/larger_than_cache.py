"""A store many times larger than its memory: random reads, then writes for minutes.

``python -m compat.load.larger_than_cache`` fills respkv, limited by ``maxmemory``, measures uniform random GET,
and then SET under full load: throughput by tenths of a second, the longest pause and latencies as one more
connection sees them, memory of all processes, and what the disk was made to write and to hold.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import threading
from pathlib import Path
from typing import Any

from compat.load import redis_benchmark
from compat.load.background import BackgroundLoad
from compat.load.connection import ServerError, fill
from compat.load.figures import percentile, rates
from compat.load.metrics_page import fetch_metrics
from compat.load.probe import random_set, run_probe
from compat.load.report import machine_facts, write_json
from compat.load.servers import (
    LoadError,
    Server,
    clean_up_when_told_to_end,
    default_respkv_command,
    disk_bytes,
    free_port,
    require_tools,
)

MIB = 1 << 20
#: "key:" and twelve digits
KEY_BYTES = 16


class MemoryWatch:
    """Context: samples the resident memory of a server's processes; ``max_bytes`` is the most it saw."""

    def __init__(self, server: Server, *, interval_s: float = 0.5) -> None:
        self.max_bytes = 0
        self._server, self._interval_s = server, interval_s
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._sample)

    def _sample(self) -> None:
        while True:
            self.max_bytes = max(self.max_bytes, self._server.rss_bytes())
            if self._ended.wait(self._interval_s):
                return

    def __enter__(self) -> MemoryWatch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()


def read_phase(server: Server, options: argparse.Namespace) -> dict[str, Any]:
    """Uniform random GET over the whole store."""
    common = {"pipeline": 1, "keys": options.keys, "value_bytes": options.value_bytes}
    requests = redis_benchmark.calibrated_requests(server.port, "get", seconds=options.get_seconds, **common)
    row = redis_benchmark.run(
        server.port, "get", requests=requests, timeout_s=options.get_seconds * 5 + 60, **common
    )
    return {"rps": row.rps, "p50_ms": row.p50_latency_ms, "p99_ms": row.p99_latency_ms, "max_ms": row.max_latency_ms}


def write_phase(server: Server, options: argparse.Namespace) -> dict[str, Any]:
    """SET under full load for a while. Throughput is the server's own count, read through a connection apart."""
    samples: list[tuple[float, float]] = []
    with server.connect() as counter:

        def count(now: float) -> None:
            samples.append((now, float(counter.info("stats")["total_commands_processed"])))

        with BackgroundLoad(server.port, "set", keys=options.keys, value_bytes=options.value_bytes):
            probe = run_probe(
                server.port, seconds=options.seconds, interval_ms=options.probe_interval_ms,
                make=random_set(options.keys, options.value_bytes), tick=count,
            )  # fmt: skip
    server.check_alive()
    per_tenth = rates(samples)
    if not per_tenth:
        raise LoadError("the write phase was too short to count anything")
    (first_at, first), (last_at, last) = samples[0], samples[-1]
    return {
        "rps": (last - first) / (last_at - first_at),
        "rps_by_100_ms": {
            "min": min(per_tenth), "p1": percentile(per_tenth, 1), "p50": percentile(per_tenth, 50),
            "max": max(per_tenth), "all": [round(rate) for rate in per_tenth],
        },
        "probe": probe.summary(),
    }  # fmt: skip


def space(server: Server, metrics_port: int, options: argparse.Namespace) -> dict[str, Any]:
    """What the disk holds and was made to write. The log is written once besides the tables."""
    figures = fetch_metrics(metrics_port)
    wanted = {name: value for name, value in figures.items() if name.startswith("respkv_")}
    logical = options.keys * (KEY_BYTES + options.value_bytes)
    parts = {name: disk_bytes(os.path.join(server.dir, name)) for name in ("tables", "wal")}
    return {
        "logical_bytes": logical, "disk_bytes": parts,
        "space_amplification_tables": parts["tables"] / logical,
        "space_amplification_tables_and_log": (parts["tables"] + parts["wal"]) / logical,
        "write_amplification_tables": figures["respkv_write_amplification"],
        "disk_write_bytes_by_kernel": written_bytes(server.pid), "metrics": wanted,
    }  # fmt: skip


def written_bytes(pid: int) -> int:
    """Bytes the main process alone has caused to be written, by the kernel's account."""
    for line in Path(f"/proc/{pid}/io").read_text().splitlines():
        if line.startswith("write_bytes:"):
            return int(line.split()[1])
    raise LoadError(f"/proc/{pid}/io has no write_bytes")


def measure(options: argparse.Namespace) -> dict[str, Any]:
    metrics_port = free_port()
    directives = ["--maxmemory", options.maxmemory, "--metrics-port", str(metrics_port)]
    server = Server("respkv", options.respkv_server, [*directives, *shlex.split(options.respkv_options)])
    report: dict[str, Any] = {}
    try:
        server.start()
        with MemoryWatch(server) as memory:
            took_s = fill(
                server.port, options.keys, value_bytes=options.value_bytes,
                progress=lambda done: print(f"filled {done} keys", flush=True),
            )  # fmt: skip
            report["fill"] = {"seconds": took_s, "keys_per_second": options.keys / took_s}
            report["fill"]["background_ended"] = server.wait_idle(options.idle_wait)
            report["space_after_fill"] = space(server, metrics_port, options)
            report["get"] = read_phase(server, options)
            report["set"] = write_phase(server, options)
            report["space_after_set"] = space(server, metrics_port, options)
        report["rss_max_bytes"] = memory.max_bytes
    finally:
        server.remove()
    return report


def render(report: dict[str, Any]) -> str:
    get, put, probe, disk = report["get"], report["set"], report["set"]["probe"], report["space_after_set"]
    return "\n".join([
        f"fill            {report['fill']['keys_per_second']:.0f} keys/s",
        f"GET             {get['rps']:.0f}/s, p50 {get['p50_ms']} ms, p99 {get['p99_ms']} ms",
        f"SET             {put['rps']:.0f}/s, worst tenth of a second {put['rps_by_100_ms']['min']:.0f}/s",
        f"SET probe       p50 {probe['p50_ms']} ms, p99 {probe['p99_ms']} ms, p99.9 {probe['p999_ms']} ms",
        f"longest pause   {probe['longest_pause_ms']} ms, the probe itself late by {probe['probe_late_max_ms']} ms",
        f"resident        {report['rss_max_bytes'] / MIB:.0f} MiB at most, all processes",
        f"amplification   write {disk['write_amplification_tables']:.2f} (tables per log),"
        f" space {disk['space_amplification_tables']:.2f} (tables)",
    ])  # fmt: skip


def parse_options(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="compat.load.larger_than_cache", description=__doc__)
    parser.add_argument("--keys", type=int, default=5_000_000)
    parser.add_argument("--value-bytes", type=int, default=200)
    parser.add_argument("--maxmemory", default="256mb")
    parser.add_argument("--get-seconds", type=float, default=15.0)
    parser.add_argument("--seconds", type=float, default=180.0, help="length of the write phase")
    parser.add_argument("--probe-interval-ms", type=float, default=5.0)
    parser.add_argument("--idle-wait", type=float, default=120.0, help="seconds to wait for compaction after the fill")
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
    except (LoadError, ServerError, OSError) as reason:
        print(f"larger_than_cache: {reason}", file=sys.stderr)
        return 1
    print(render(report))
    write_json(options.json, {"machine": facts, "settings": vars(options), **report})
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
