"""Finished replies that must not leave yet: until the log is durable, or until writers may go on.

``ReplyGate`` holds whole cycles' output in order of commit. With ``appendfsync always`` every reply waits,
reads too: a read may show what is not durable. A connection's output passes the gate in order, because the
gate is first in, first out, and is entered by everything while it holds anything.

``WriteBrake`` slows clients that write faster than tables can be built and merged: their output and their next requests
wait as long as the engine says, or until it says less. The loop and the readers go on.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from respkv.base.limits import BRAKE_LOOK_US, HOLD_US
from respkv.server.connection import BRAKED, OUTPUT, OUTPUT_HALT_BYTES, Connection


class ReplyGate:
    """``emit(connection, data)`` sends; ``ended(connection)`` is told when a connection has nothing held."""

    __slots__ = ("_emit", "_held", "held_bytes")

    def __init__(self, emit: Callable[[Connection, bytes], None]) -> None:
        self._emit = emit
        self._held: deque[tuple[int, Connection, bytes]] = deque()
        self.held_bytes = 0

    def __bool__(self) -> bool:
        return bool(self._held)

    def hold(self, lsn: int, connection: Connection, data: bytes) -> None:
        """``data`` may leave when everything up to ``lsn`` is durable."""
        self._held.append((lsn, connection, data))
        self.held_bytes += len(data)
        connection.held_bytes += len(data)
        connection.held_count += 1
        if connection.queued() > OUTPUT_HALT_BYTES:
            connection.halts |= OUTPUT

    def release(self, durable_lsn: int) -> None:
        """Emit, in order, what is covered."""
        held = self._held
        while held and held[0][0] <= durable_lsn:
            _, connection, data = held.popleft()
            self.held_bytes -= len(data)
            connection.held_bytes -= len(data)
            connection.held_count -= 1
            if not connection.closed:
                self._emit(connection, data)

    def stats(self) -> dict[str, int]:
        return {"held_replies": len(self._held), "held_bytes": self.held_bytes}

    def check_invariants(self) -> None:
        lsns = [lsn for lsn, _, _ in self._held]
        assert lsns == sorted(lsns)
        assert self.held_bytes == sum(len(data) for _, _, data in self._held)


class WriteBrake:
    """``wait_us`` is how long those that write wait, set by the loop every few milliseconds; 0: nobody does."""

    __slots__ = ("_braked", "total", "wait_us")

    def __init__(self) -> None:
        self.wait_us = 0
        self.total = 0
        self._braked: dict[Connection, int] = {}

    def __bool__(self) -> bool:
        return bool(self._braked)

    def apply(self, connection: Connection, now_us: int) -> None:
        """The connection has written under pressure: it waits."""
        self.total += 1
        connection.halts |= BRAKED
        self._braked[connection] = now_us + (BRAKE_LOOK_US if self.wait_us >= HOLD_US else self.wait_us)

    def forget(self, connection: Connection) -> None:
        """It is closed."""
        self._braked.pop(connection, None)

    def next_us(self) -> int:
        """When to call ``release`` next; only while there is someone to release."""
        return min(self._braked.values())

    def release(self, now_us: int) -> list[Connection]:
        """Those that may go on: all, when nobody needs to wait any more."""
        if self.wait_us >= HOLD_US:
            for connection in self._braked:
                self._braked[connection] = now_us + BRAKE_LOOK_US
            return []
        free = [connection for connection, until_us in self._braked.items() if until_us <= now_us or not self.wait_us]
        for connection in free:
            del self._braked[connection]
            connection.halts &= ~BRAKED
        return free

    def stats(self) -> dict[str, int]:
        return {"braked": len(self._braked), "braked_total": self.total}
