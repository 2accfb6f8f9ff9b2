"""What a ring's writes cost when it holds far more than its caches.

``python -m compat.load.large_ring`` starts two rings with the same ``maxmemory``, fills one with few keys and one with
many, and drives QUORUM SET over all keys of each in turn. A replica that read before it wrote would be slower on the
large one by a read for every write. Prints both rates, their ratio and the processor time per request of all nodes.
"""

from __future__ import annotations

import argparse
import shlex
import statistics
import sys
import time
from typing import Any

from compat.load.cluster import run_driver
from compat.load.clusters import RedisCluster, RespkvRing, SingleNode, all_removed
from compat.load.connection import ServerError
from compat.load.figures import ratio_of_pairs, table
from compat.load.report import machine_facts, write_json
from compat.load.servers import LoadError, clean_up_when_told_to_end, default_respkv_command

#: QUORUM SET shall keep this share of its rate.
WANTED = 0.7
_FILL_BYTES_PER_S = 1 << 20


class Filled:
    """A ring that holds ``keys`` keys."""

    def __init__(self, name: str, keys: int, options: argparse.Namespace) -> None:
        self.name = name
        self._options = argparse.Namespace(**{**vars(options), "keys": keys})
        words = ["--maxmemory", options.maxmemory, *shlex.split(options.respkv_options)]
        self.ring = RespkvRing(nodes=options.nodes, command=options.respkv_server, options=words)
        self.fill_s = 0.0

    def fill(self) -> None:
        """Write every key once. LoadError when that takes too long."""
        options = self._options
        began, keys = time.monotonic(), options.keys
        patience_s = 60 + options.keys * options.value_bytes * options.nodes / _FILL_BYTES_PER_S
        done = run_driver(
            self.ring.plain_ports, "fill", routed=False, pipeline=16, options=options, timeout_s=patience_s
        )
        if done["answered"] < keys:
            raise LoadError(f"only {done['answered']} of {keys} keys were written in time")
        self.fill_s = time.monotonic() - began

    def drive(self) -> dict[str, Any]:
        """SET over all keys; the driver's figures, and ``cpu_us`` of all processes of the ring per request."""
        options, before = self._options, self.ring.cpu_s()
        done = run_driver(
            self.ring.plain_ports, "set", routed=False, pipeline=options.pipeline, options=options,
            timeout_s=options.seconds * 3 + 60,
        )  # fmt: skip
        cpu_us = (self.ring.cpu_s() - before) * 1e6 / done["answered"]
        return {**done, "rps": done["requests"] / done["seconds"], "cpu_us": cpu_us}


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Both rings, filled and driven in turn; by name the runs of each."""
    rings: list[Filled] = []
    found: dict[str, Any] = {}
    clusters: dict[str, RespkvRing | RedisCluster | SingleNode] = {}
    with all_removed(clusters):
        for name, keys in (("small", options.small), ("large", options.keys)):
            rings.append(Filled(name, keys, options))
            clusters[name] = rings[-1].ring
            rings[-1].fill()
            print(f"filled {keys} keys in {rings[-1].fill_s:.0f} s", flush=True)
            found[name] = []
        for each in rings:
            if not each.ring.wait_idle(options.idle_wait):
                print(f"warning: the {each.name} ring is still at work after {options.idle_wait:.0f} s", flush=True)
        for _ in range(options.rounds):
            for each in rings:
                run = each.drive()
                found[each.name].append(run)
                each.ring.wait_idle(options.idle_wait)
                print(f"{each.name}: {run['rps']:.0f}/s, p99 {run['p99_ms']:.2f} ms", flush=True)
    return found


def ratio(found: dict[str, Any]) -> float:
    """Rate of the large ring over that of the small one, median over neighbouring runs."""
    return ratio_of_pairs([run["rps"] for run in found["large"]], [run["rps"] for run in found["small"]])


def render(found: dict[str, Any], options: argparse.Namespace) -> str:
    """For people."""
    keys = {"small": options.small, "large": options.keys}
    rows = [
        [f"{keys[name]} keys", *(f"{statistics.median(run[figure] for run in runs):.{digits}f}"
                                 for figure, digits in (("rps", 0), ("p50_ms", 2), ("p99_ms", 2), ("cpu_us", 1)))]
        for name, runs in found.items()
    ]  # fmt: skip
    shown = table(["QUORUM SET", "per s", "p50 ms", "p99 ms", "cpu us"], rows)
    return f"{shown}\nratio {ratio(found):.2f}, wanted {WANTED}"


def parse_options(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="compat.load.large_ring", description=__doc__)
    parser.add_argument("--keys", type=int, default=5_000_000, help="of the large ring, 5 000 000 unless told")
    parser.add_argument("--small", type=int, default=100_000, help="keys of the small one")
    parser.add_argument("--value-bytes", type=int, default=200)
    parser.add_argument("--maxmemory", default="256mb", help="of each node, 256mb unless told")
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--pipeline", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=15.0, help="length of a run")
    parser.add_argument("--idle-wait", type=float, default=120.0, help="seconds to wait for compaction after each run")
    parser.add_argument("--respkv-server", default=default_respkv_command(), metavar="CMD")
    parser.add_argument("--respkv-options", default="", help="further options, as one word")
    parser.add_argument("--json", default="", metavar="FILE")
    options = parser.parse_args(argv)
    if not (0 < options.small <= options.keys and 0 < options.seconds <= 3600 and 0 < options.rounds <= 100):
        parser.error("keys, rounds and seconds must be positive and bounded, and the small ring the smaller one")
    return options


def main(argv: list[str]) -> int:
    options = parse_options(argv)
    clean_up_when_told_to_end()
    try:
        facts = machine_facts()
        found = measure(options)
    except (LoadError, ServerError, OSError) as reason:
        print(f"large_ring: {reason}", file=sys.stderr)
        return 1
    print(render(found, options))
    write_json(options.json, {"machine": facts, "settings": vars(options), "ratio": ratio(found), "runs": found})
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
