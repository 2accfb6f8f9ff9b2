"""How long a killed server takes to serve again.

``python -m compat.load.restart`` writes records that stay in the log, kills the server by SIGKILL, starts it on the
same directory and takes the time from exec to the first PONG that is not -LOADING. Then all keys must be there.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from statistics import median
from typing import Any

from compat.load.connection import ServerError, fill, read_all
from compat.load.report import machine_facts, write_json
from compat.load.servers import LoadError, Server, clean_up_when_told_to_end, default_respkv_command, disk_bytes


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Seconds of each start. A kill leaves the log in the page cache, so nothing acknowledged may be missing."""
    limits = ["--memtable-bytes", options.memtable_bytes, *shlex.split(options.respkv_options)]
    server = Server("respkv", options.respkv_server, limits)
    seconds = []
    try:
        empty_s = server.start()
        fill(server.port, options.keys, value_bytes=options.value_bytes)
        log_bytes, table_bytes = (disk_bytes(os.path.join(server.dir, name)) for name in ("wal", "tables"))
        for _ in range(options.rounds):
            server.check_alive()
            server.kill()
            seconds.append(server.start())
            read_all(server.port, options.keys, value_bytes=options.value_bytes)
            print(f"serves again after {seconds[-1]:.3f} s, all {options.keys} keys are there", flush=True)
    finally:
        server.remove()
    return {
        "start_empty_s": empty_s, "restart_s": seconds, "restart_median_s": median(seconds),
        "log_bytes": log_bytes, "table_bytes": table_bytes,
    }  # fmt: skip


def parse_options(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="compat.load.restart", description=__doc__)
    parser.add_argument("--keys", type=int, default=1_000_000)
    parser.add_argument("--value-bytes", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--memtable-bytes", default="1gb", help="so large that all stays in the log; 0: automatic")
    parser.add_argument("--respkv-server", default=default_respkv_command(), metavar="CMD")
    parser.add_argument("--respkv-options", default="", help="further options, as one word")
    parser.add_argument("--json", default="", metavar="FILE")
    options = parser.parse_args(argv)
    if not (options.keys > 0 and 0 < options.rounds <= 100):
        parser.error("keys and rounds must be positive and bounded")
    return options


def main(argv: list[str]) -> int:
    options = parse_options(argv)
    clean_up_when_told_to_end()
    try:
        facts = machine_facts()
        report = measure(options)
    except (LoadError, ServerError, OSError) as reason:
        print(f"restart: {reason}", file=sys.stderr)
        return 1
    print(
        f"restart {report['restart_median_s']:.3f} s (median), empty start {report['start_empty_s']:.3f} s,"
        f" log {report['log_bytes']} bytes with what is preallocated, tables {report['table_bytes']} bytes"
    )
    write_json(options.json, {"machine": facts, "settings": vars(options), **report})
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
