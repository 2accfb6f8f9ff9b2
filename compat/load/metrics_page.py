"""Figures of a server's /metrics page."""

from __future__ import annotations

import urllib.request

from compat.load.servers import HOST, LoadError


def fetch_metrics(port: int) -> dict[str, float]:
    """All figures without labels of the page. LoadError when it cannot be had."""
    try:
        with urllib.request.urlopen(f"http://{HOST}:{port}/metrics", timeout=30) as page:
            return parse_metrics(page.read().decode())
    except OSError as reason:
        raise LoadError(f"no metrics on port {port}: {reason}") from reason


def parse_metrics(text: str) -> dict[str, float]:
    """Name to figure of the lines without labels. LoadError for a line that is none."""
    found = {}
    for line in text.splitlines():
        if not line.strip() or line.startswith("#") or "{" in line:
            continue
        name, _, value = line.partition(" ")
        try:
            found[name] = float(value.split()[0])
        except (ValueError, IndexError):
            raise LoadError(f"not a line of metrics: {line[:200]!r}") from None
    return found
