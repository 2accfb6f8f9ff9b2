"""What every report holds besides its figures, and where it is written."""

from __future__ import annotations

import datetime
import json
import os
import platform
import subprocess
from pathlib import Path
from typing import Any


def machine_facts() -> dict[str, Any]:
    """Cores, processor, memory, kernel, versions, date, load before the run."""
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "cores": os.cpu_count(),
        "cores_usable": len(os.sched_getaffinity(0)),
        "processor": _first_field("/proc/cpuinfo", "model name"),
        "memory": _first_field("/proc/meminfo", "MemTotal"),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "redis_server": tool_version("redis-server"),
        "redis_benchmark": tool_version("redis-benchmark"),
        "load_average": list(os.getloadavg()),
    }


def _first_field(path: str, name: str) -> str:
    for line in Path(path).read_text().splitlines():
        if line.startswith(name):
            return line.partition(":")[2].strip()
    return "unknown"


def tool_version(name: str) -> str:
    """What a program prints for --version, "missing" when it is not there."""
    try:
        return subprocess.run([name, "--version"], capture_output=True, text=True, timeout=10).stdout.strip()
    except FileNotFoundError:
        return "missing"


def write_json(path: str, figures: dict[str, Any]) -> None:
    """Write a report with the facts of the machine; nothing for an empty path."""
    if path:
        Path(path).write_text(json.dumps(figures, indent=2) + "\n")
        print(f"written to {path}")
