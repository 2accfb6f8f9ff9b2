"""``respkv-cluster``: a ring of local processes in one command, for trying it out and for tests.

    respkv-cluster start --dir DIR [--nodes 3] [--base-port 7001] [-- further options of the servers]
    respkv-cluster status --dir DIR
    respkv-cluster stop --dir DIR

The plain face of node 1 is at the base port, its cluster face 100 above, its port for links 10000 above; node 2
follows one port higher. ``start`` is told nodes, ports and options of the servers once; then the directory knows
them. A password is read from REDISCLI_AUTH, as redis-cli does. Exit status 0: done; 1: it could not be done, with the
reason. Of ``status`` 0: all nodes are up and see each other, and no slot is in danger; 1: anything else.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import respkv
from respkv.cli.local_node import FORMING, HOST, REFUSED, LocalRingError, Report, Slots, describe
from respkv.cli.local_ring import OWN_DIRECTIVES, LocalRing
from respkv.cli.ring_health import is_healthy, slots_by_health

_OPTIONS_HELP = (
    "What follows -- goes to each server: respkv-cluster start --dir DIR -- --appendfsync always. The directory keeps"
    " these options, and every later start uses them without being told again; it refuses others, since the nodes of a"
    " ring must agree, but for --replace-options while no node runs."
)
_STATUS_HELP = (
    "Exit status 0: all nodes are up and see each other, and no slot is in danger; 1: anything else. A node that cannot"
    " be reached from here counts as away, whatever the others believe of it yet."
)
_HEAD = ("node", "pid", "plain", "cluster", "links", "state", "keys", "hints")


def say(text: str) -> None:
    print(text, flush=True)


def status_table(ring: LocalRing, reports: Sequence[Report], slots: Slots | None) -> str:
    """One line a node, then what the ring is like.

    Keys are those whose first owner a node is, hints the writes it keeps for other nodes.
    """
    rows = [list(_HEAD)]
    for node, report in zip(ring.nodes, reports):
        figures = [report.pid or None, node.port, node.alternate_port, node.link_port]
        state = describe(report, len(ring.nodes))
        rows.append([
            str(node.number), *("-" if figure is None else str(figure) for figure in figures), state,
            *("-" if figure is None else str(figure) for figure in (report.keys, report.hints)),
        ])  # fmt: skip
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEAD))]
    left = _HEAD.index("state")
    lines = [
        "  ".join(
            cell.ljust(width) if column == left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths))
        )
        for row in rows
    ]
    return "\n".join(lines + summary(reports, slots))


def summary(reports: Sequence[Report], slots: Slots | None) -> list[str]:
    """What nodes outside the ring say, then the ring in words; nothing when no node tells of it."""
    outside = [
        f"node {number}: {report.ring}"
        for number, report in enumerate(reports, 1)
        if report.state in (FORMING, REFUSED)
    ]
    told = next((report for report in reports if report.slots is not None), None)
    if told is None or slots is None:
        return outside
    whole, danger, down = slots
    keys = [report.keys for report in reports if report.keys is not None]
    count = f"{sum(keys)} keys" if len(keys) == len(reports) else f"{sum(keys)} keys at the nodes that answer"
    health = f"all {whole} slots are ok"
    if danger or down:
        health = f"slots: {whole} ok, {danger} in danger, {down} without a majority of their replicas"
    return [*outside, told.ring, f"{count}; {health}"]


def connections(ring: LocalRing) -> str:
    """How to talk to it."""
    first = ring.nodes[0]
    return (
        f"The ring of {len(ring.nodes)} is formed. Any node takes any command:\n"
        f"    redis-cli -p {first.port}\n"
        "Clients that know Redis Cluster:\n"
        f"    redis-cli -c -p {first.alternate_port}\n"
        f"    redis-cli --cluster check {HOST}:{first.alternate_port}\n"
        f"Logs: {ring.directory}/node-*.log. To end it: respkv-cluster stop --dir {ring.directory}"
    )


def server_options(words: Sequence[str]) -> list[str]:
    """The options behind ``--``. LocalRingError for one that this program sets itself."""
    for word in words:
        name = word[2:].split(maxsplit=1)[0].lower() if len(word) > 2 and word.startswith("--") else ""
        if name in OWN_DIRECTIVES:
            raise LocalRingError(f"--{name} is set for each node by respkv-cluster itself")
    if words and not words[0].startswith("--"):
        raise LocalRingError(f"{words[0]!r} is no option of a server: options begin with two dashes")
    return list(words)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="respkv-cluster", description="A ring of respkv-server processes on this machine.", epilog=_OPTIONS_HELP
    )
    parser.add_argument("-v", "--version", action="version", version=f"%(prog)s {respkv.__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True)
    start = verbs.add_parser(
        "start", help="start what does not run, wait until the ring is formed", epilog=_OPTIONS_HELP
    )
    status = verbs.add_parser("status", help="print one line a node, and how the ring is", epilog=_STATUS_HELP)
    stop = verbs.add_parser("stop", help="end all nodes and wait for them")
    for each in (start, status, stop):
        each.add_argument("--dir", type=Path, required=True, help="directory of the ring")
    start.add_argument("--nodes", type=int, help="3 unless told")
    start.add_argument("--base-port", type=int, help="plain face of node 1, 7001 unless told")
    start.add_argument(
        "--replace-options", action="store_true",
        help="keep what follows -- in place of all options of the servers so far; no node may run",
    )  # fmt: skip
    for each in (start, stop):
        each.add_argument("--timeout", type=float, default=60.0, metavar="SECONDS", help="60 unless told")
    start.usage = start.format_usage().removeprefix("usage: ").rstrip() + " [-- options of the servers]"
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says; the exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    cut = given.index("--") if "--" in given else len(given)
    options = _parser().parse_args(given[:cut])
    directory, password = options.dir.resolve(), os.environ.get("REDISCLI_AUTH", "")
    try:
        extra = server_options(given[cut + 1 :]) if cut < len(given) else None
        if extra is None and options.verb == "start" and options.replace_options:
            raise LocalRingError("--replace-options takes what follows --; -- with nothing behind it drops all options")
        if options.verb == "start":
            ring = LocalRing.create(
                directory, nodes=options.nodes, base_port=options.base_port, say=say, password=password
            )
            ring.start(extra, replace=options.replace_options, timeout_s=options.timeout)
            say(connections(ring))
            return 0
        ring = LocalRing.load(directory, say=say, password=password)
        if options.verb == "status":
            reports = ring.reports()
            slots = slots_by_health(ring.nodes, reports)
            say(status_table(ring, reports, slots))
            return 0 if is_healthy(reports, slots) else 1
        ring.stop(timeout_s=options.timeout)
    except (LocalRingError, OSError) as reason:
        print(f"respkv-cluster: {reason}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
