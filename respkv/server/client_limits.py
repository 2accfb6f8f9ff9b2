"""What a client may cost: output limits, query buffer, idle time.

The values are Redis' directives ``client-output-buffer-limit``, ``client-query-buffer-limit`` and
``timeout``. A client beyond them is closed without a word, as Redis does, with one line in the log.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from typing import Final

from respkv.server.connection import BRAKED, CLOSING, PENDING, RECV_BYTES_MIN, Connection

#: A connection that is to be closed after its output is closed anyway when the peer takes none for so long.
LINGER_US: Final = 60_000_000
SWEEP_SLICE: Final = 1000
ATTACK_LOG_US: Final = 60_000_000


class OutputLimit:
    """``client-output-buffer-limit`` of one class of clients; 0 = no limit."""

    __slots__ = ("hard_bytes", "soft_bytes", "soft_us")

    def __init__(self, *, hard_bytes: int, soft_bytes: int, soft_us: int) -> None:
        self.hard_bytes, self.soft_bytes, self.soft_us = hard_bytes, soft_bytes, soft_us


class ClientLimits:
    """Checks connections; ``drop`` closes, ``log(text)`` tells why."""

    __slots__ = (
        "_attack_us",
        "_drop",
        "_log",
        "_sweep_fds",
        "idle_us",
        "normal",
        "output_drops",
        "pubsub",
        "query_bytes",
        "query_drops",
        "timeout_drops",
    )

    def __init__(self, *, drop: Callable[[Connection], None], log: Callable[[str], None]) -> None:
        self._drop = drop
        self._log = log
        self._sweep_fds: list[int] = []
        self._attack_us = 0
        self.normal = OutputLimit(hard_bytes=0, soft_bytes=0, soft_us=0)
        self.pubsub = OutputLimit(hard_bytes=32 << 20, soft_bytes=8 << 20, soft_us=60_000_000)
        self.query_bytes = 1 << 30
        self.idle_us = 0
        self.output_drops = self.query_drops = self.timeout_drops = 0

    def check_output(self, connection: Connection, now_us: int) -> None:
        """Close the connection when too much output waits, or much for too long."""
        session = connection.session
        limit = self.pubsub if session.subscribed() else self.normal
        queued = connection.queued()
        over = bool(limit.hard_bytes) and queued > limit.hard_bytes
        if limit.soft_bytes and queued > limit.soft_bytes:
            if not connection.soft_since_us:
                connection.soft_since_us = now_us
            elif now_us - connection.soft_since_us > limit.soft_us:
                over = True
        else:
            connection.soft_since_us = 0
        if over:
            self.output_drops += 1
            self._log(
                f"Client id={session.id} addr={session.address} closed for overcoming of output"
                f" buffer limits. omem={queued}"
            )
            self._drop(connection)

    def check_input(self, connection: Connection) -> None:
        """Close the connection when it has sent too much that is not yet a request."""
        if not connection.closed and connection.parser.buffered > self.query_bytes:
            self.query_drops += 1
            session = connection.session
            self._log(
                f"Closing client that reached max query buffer length: id={session.id} addr={session.address}"
            )
            self._drop(connection)

    def cross_protocol(self, connection: Connection, now_us: int) -> None:
        """The connection is closed because it speaks HTTP. The log tells once a minute at most."""
        if self._attack_us and now_us - self._attack_us <= ATTACK_LOG_US:
            return
        self._attack_us = now_us
        self._log(
            "Possible SECURITY ATTACK detected. It looks like somebody is sending POST or Host: commands to Redis."
            " This is likely due to an attacker attempting to use Cross Protocol Scripting to compromise your Redis"
            f" instance. Connection from {connection.session.address} aborted."
        )

    def sweep(self, connections: dict[int, Connection], now_us: int) -> bool:
        """Look at the next slice of all connections; True when a round is complete."""
        if not self._sweep_fds:
            self._sweep_fds = list(connections)
        turn = list(islice(self._sweep_fds, SWEEP_SLICE))
        del self._sweep_fds[: len(turn)]
        for fd in turn:
            connection = connections.get(fd)
            if connection is not None:
                self._look_at(connection, now_us)
        return not self._sweep_fds

    def _look_at(self, connection: Connection, now_us: int) -> None:
        idle_us = now_us - connection.active_us
        session = connection.session
        if connection.halts & CLOSING:
            if idle_us > LINGER_US:
                self._drop(connection)
            return
        # Nor is it the client that is slow when its requests or its replies wait for us.
        ours = connection.halts & (PENDING | BRAKED) or connection.held_count
        waits = ours or session.blocked is not None or session.subscribed() or session.is_monitor
        if self.idle_us and idle_us > self.idle_us and not waits:
            self.timeout_drops += 1
            self._drop(connection)
            return
        self.check_input(connection)
        if not connection.closed and connection.queued():
            self.check_output(connection, now_us)
        if idle_us > 2_000_000:
            connection.recv_bytes = RECV_BYTES_MIN

    def stats(self) -> dict[str, int]:
        return {
            "output_limit_disconnections": self.output_drops,
            "query_limit_disconnections": self.query_drops,
            "timeout_disconnections": self.timeout_drops,
        }
