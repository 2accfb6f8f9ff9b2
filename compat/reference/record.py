"""Records what a live Redis says of the commands we have: COMMAND INFO and COMMAND DOCS, as JSON beside this file.

    python -m compat.reference.record --port 6379

Only names in our table are recorded; of COMMAND DOCS everything but the prose, which is Redis' own. The files name
the version they come from, and tests hold the table against them.
"""

from __future__ import annotations

import argparse
import json
import subprocess
from pathlib import Path
from typing import Any

from respkv.commands.table import build_table

HERE = Path(__file__).parent


def ask(port: int, *words: str) -> str:
    """What redis-cli prints."""
    done = subprocess.run(["redis-cli", "-p", str(port), *words], check=True, capture_output=True, text=True)
    return done.stdout


def ask_json(port: int, *words: str) -> Any:
    """A reply as JSON, maps as objects."""
    return json.loads(ask(port, "--json", *words))


def without_prose(value: Any) -> Any:
    """Documentation without its sentences: names, types, tokens, versions and flags stay."""
    if isinstance(value, dict):
        prose = ("summary", "complexity")
        return {
            key: sorted(version for version, _ in inner) if key == "history" else without_prose(inner)
            for key, inner in sorted(value.items())
            if key not in prose
        }
    if isinstance(value, list):
        return [without_prose(inner) for inner in value]
    return value


def command_info(port: int, names: list[str]) -> dict[str, Any]:
    """Rows by name; what has no order is sorted, subcommands have rows of their own."""
    rows = {}
    for row in ask_json(port, "COMMAND", "INFO", *names):
        if row is None:
            continue
        name, arity, flags, first, last, step, categories, tips, key_specs, _ = row
        for spec in key_specs:
            spec["flags"].sort()
        rows[name] = {
            "arity": arity,
            "flags": sorted(flags),
            "keys": [first, last, step],
            "acl": sorted(categories),
            "tips": sorted(tips),
            "key_specs": key_specs,
        }
    return dict(sorted(rows.items()))


def main() -> None:
    """Record both files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=6379)
    port = parser.parse_args().port
    names = [spec.name for spec in build_table().all_specs()]
    info = ask(port, "INFO", "server")
    version = next(line.split(":")[1] for line in info.splitlines() if line.startswith("redis_version:"))
    docs = ask_json(port, "COMMAND", "DOCS", *names)
    for doc in docs.values():
        doc.pop("subcommands", None)
    recorded = {
        "command_info.json": command_info(port, names),
        "command_docs.json": without_prose(docs),
    }
    for file_name, commands in recorded.items():
        text = json.dumps({"redis_version": version, "commands": commands}, indent=1, sort_keys=True)
        (HERE / file_name).write_text(text + "\n")


if __name__ == "__main__":
    main()
