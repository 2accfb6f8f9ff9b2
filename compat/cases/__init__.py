"""Command sequences whose replies are compared with a live Redis.

Each module holds ``CASES``, a list of ``Case``. A case starts on an empty server; replies are compared one by
one, byte for byte, in RESP2 and RESP3. Nothing in a case depends on the time of day or on chance.
"""

from __future__ import annotations

import shlex
from typing import NamedTuple


class Case(NamedTuple):
    """``since``: the Redis version that answers alike; "own" for commands or answers no Redis 7 or 8 has."""

    name: str
    commands: list[list[bytes]]
    since: str = "7.0"


def case(name: str, *lines: str, since: str = "7.0") -> Case:
    """A case from lines as one would type them: words between spaces, quotes around the rest."""
    return Case(name, [[word.encode("latin-1") for word in shlex.split(line)] for line in lines], since)
