"""The serving end of a simulated client's connection."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from respkv.commands.session import Pending, Session
from respkv.node.round_gate import Entries
from respkv.testing.network import Endpoint

if TYPE_CHECKING:
    from respkv.testing.machine import Machine


class Served:
    """The serving end of a client's connection: a ``Sink`` and a turn of the dispatcher."""

    __slots__ = ("_machine", "closing", "end", "gone", "out", "parser", "pending", "rounds", "session", "unsent")

    def __init__(self, machine: Machine, end: Endpoint) -> None:
        self._machine = machine
        self.end = end
        self.out: list[bytes] = []
        self.unsent = b""
        self.rounds: Entries = deque()
        self.pending: Pending | None = None
        self.closing = False
        self.gone = False
        self.session: Session
        self.parser: Any = None

    def push(self, data: bytes) -> None:
        self.out.append(data)
        self._machine.touched[self] = None

    def close(self, *, after_output: bool) -> None:
        self.closing = True
        self._machine.touched[self] = None

    def buffered(self) -> int:
        return len(self.unsent)

    def input_buffered(self) -> int:
        return int(self.parser.buffered)

    def read_on(self) -> None:
        self._machine.runnable[self] = None
