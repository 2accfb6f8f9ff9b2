"""Running redis-benchmark and reading what it prints with ``--csv``.

It waits for ever when nobody listens on its port, reports error replies only on standard error and goes on,
and ends with 0 all the same. So every run has a deadline, and anything it prints that is not a row of
figures is an error here.
"""

from __future__ import annotations

import csv
import math
import subprocess
from dataclasses import dataclass, fields
from typing import Final

from compat.load.servers import LoadError

CLIENTS: Final = 50
PROBE_REQUESTS: Final = 20_000
PROBE_S: Final = 60.0
REQUESTS_MIN: Final = 1_000
REQUESTS_MAX: Final = 2_000_000_000
#: Printed for servers that refuse CONFIG; the figures are right all the same.
_HARMLESS: Final = ("WARNING: Could not fetch server CONFIG",)


@dataclass(frozen=True, slots=True)
class Row:
    """One line of figures, the columns by their names."""

    test: str
    rps: float
    avg_latency_ms: float
    min_latency_ms: float
    p50_latency_ms: float
    p95_latency_ms: float
    p99_latency_ms: float
    max_latency_ms: float


COLUMNS: Final = [field.name for field in fields(Row)]


def parse_csv(text: str) -> list[Row]:
    """The rows of a ``--csv`` output. LoadError names the line that is not one, and when there are none."""
    lines = [line for line in text.splitlines() if line.strip()]
    if not lines:
        raise LoadError("redis-benchmark printed nothing")
    head, *body = lines
    if next(csv.reader([head])) != COLUMNS:
        raise LoadError(f"redis-benchmark has other columns than expected: {head[:200]!r}")
    if not body:
        raise LoadError("redis-benchmark printed no figures")
    return [_parse_row(line) for line in body]


def _parse_row(line: str) -> Row:
    cells = next(csv.reader([line]))
    if len(cells) != len(COLUMNS):
        raise LoadError(f"not a row of redis-benchmark: {line[:200]!r}")
    try:
        numbers = [float(cell) for cell in cells[1:]]
    except ValueError:
        raise LoadError(f"not a row of redis-benchmark: {line[:200]!r}") from None
    if not all(math.isfinite(number) for number in numbers) or numbers[0] <= 0:
        raise LoadError(f"redis-benchmark measured nothing: {line[:200]!r}")
    return Row(cells[0], *numbers)


def check_stderr(text: str) -> None:
    """LoadError when redis-benchmark complained, as it does about error replies."""
    complaints = [line for line in text.splitlines() if line.strip() and not line.startswith(_HARMLESS)]
    if complaints:
        raise LoadError(f"redis-benchmark complains: {complaints[0][:200]}")


def requests_for(rps: float, seconds: float) -> int:
    """How many requests take about so long at a rate, within bounds."""
    return min(max(round(rps * seconds), REQUESTS_MIN), REQUESTS_MAX)


def arguments(
    port: int, test: str, *, requests: int, pipeline: int, keys: int, value_bytes: int, clients: int = CLIENTS
) -> list[str]:
    """The command line of one test."""
    numbers = {"-p": port, "-c": clients, "-d": value_bytes, "-r": keys, "-P": pipeline, "-n": requests}
    options = [word for option, value in numbers.items() for word in (option, str(value))]
    return ["redis-benchmark", "-h", "127.0.0.1", *options, "-t", test, "--csv"]


def run(
    port: int, test: str, *, requests: int, pipeline: int, keys: int, value_bytes: int, timeout_s: float,
    clients: int = CLIENTS,
) -> Row:  # fmt: skip
    """The figures of one test. LoadError when it fails, complains or is not done by the deadline."""
    words = arguments(
        port, test, requests=requests, pipeline=pipeline, keys=keys, value_bytes=value_bytes, clients=clients
    )
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=timeout_s)
    except FileNotFoundError:
        raise LoadError("not found on PATH: redis-benchmark") from None
    except subprocess.TimeoutExpired:
        raise LoadError(f"not done after {timeout_s:.0f} s: {' '.join(words)}") from None
    check_stderr(done.stderr)
    if done.returncode:
        raise LoadError(f"redis-benchmark ended with {done.returncode}: {done.stdout[:200]!r}")
    rows = parse_csv(done.stdout)
    if len(rows) != 1:
        raise LoadError(f"one test of redis-benchmark gave {len(rows)} rows")
    return rows[0]


def calibrated_requests(
    port: int, test: str, *, seconds: float, pipeline: int, keys: int, value_bytes: int
) -> int:
    """Requests that take about ``seconds``, from a short probe."""
    probe = run(
        port, test, requests=PROBE_REQUESTS, pipeline=pipeline, keys=keys, value_bytes=value_bytes, timeout_s=PROBE_S
    )
    return requests_for(probe.rps, seconds)
