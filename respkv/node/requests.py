"""What the node asks of whoever drives it: facts of the process, a stop, blocks to read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from respkv.base.errors import BlockRequest


class Host(Protocol):
    """What only the process knows."""

    def machine_bytes(self) -> int:
        """Memory of the machine or the container."""

    def memory(self) -> dict[str, int]:
        """rss and peak in bytes."""

    def stall_until(self, monotonic_us: int) -> None:
        """Serve no client before that time."""

    def rewrite_config(self) -> bytes:
        """CONFIG REWRITE: the finished reply."""


@dataclass(slots=True)
class ShutdownRequest:
    """SHUTDOWN was asked for; ``server`` carries it out."""

    save: bool | None
    now: bool
    force: bool


@dataclass(slots=True)
class FetchRequest:
    """Blocks to read in a thread, install on the loop, and what to do then."""

    requests: list[BlockRequest]
    done: Callable[[], None] = field(repr=False)
