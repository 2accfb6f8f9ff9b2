"""What leaves when other nodes have confirmed it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from respkv.server.ring_output import emit_round


class Socket:
    """A connection whose socket takes ``takes`` bytes, or raises it."""

    def __init__(self, takes: int | OSError) -> None:
        self.takes = takes
        self.closed = False
        self.unsent: list[bytes] = []
        self.halts = 0
        self.held_count, self.held_bytes = 1, 10
        self.sent = b""
        self.kept = b""

    def send(self, data: bytes) -> int:
        if isinstance(self.takes, OSError):
            raise self.takes
        self.sent += data[: self.takes]
        return min(len(data), self.takes)

    def keep(self, data: bytes, sent: int) -> None:
        self.kept += data[sent:]
        self.halts = 4


class Loop:
    """The part of a reactor that is asked."""

    def __init__(self, *, waits: bool = False) -> None:
        self.rounds_wait = waits
        self.lsn = 7
        self.traffic = SimpleNamespace(bytes_out=0, writes=0)
        self.calls: list[tuple[Any, ...]] = []
        self.gate = SimpleNamespace(hold=lambda *words: self.calls.append(("hold", *words)))

    def emit(self, connection: Any, data: bytes) -> None:
        self.calls.append(("emit", connection, data))

    def drop(self, connection: Any) -> None:
        self.calls.append(("drop", connection))

    def output_left(self, connection: Any) -> None:
        self.calls.append(("left", connection))


def emitted(connection: Any, *, waits: bool = False) -> Loop:
    loop: Any = Loop(waits=waits)
    emit_round(loop, connection, [b"+OK\r\n", b":1\r\n"], 10)
    assert (connection.held_count, connection.held_bytes) == (0, 0)
    return loop  # type: ignore[no-any-return]


def test_it_is_sent_at_once() -> None:
    connection = Socket(100)
    loop = emitted(connection)
    assert connection.sent == b"+OK\r\n:1\r\n" and not connection.kept and not loop.calls
    assert (loop.traffic.bytes_out, loop.traffic.writes) == (9, 1)


@pytest.mark.parametrize("takes", [3, BlockingIOError()])
def test_what_the_socket_does_not_take_is_kept_and_its_limits_are_looked_at(takes: Any) -> None:
    connection = Socket(takes)
    loop = emitted(connection)
    assert connection.sent + connection.kept == b"+OK\r\n:1\r\n" and connection.kept
    assert loop.calls == [("left", connection)]


def test_a_broken_connection_is_dropped() -> None:
    connection = Socket(ConnectionResetError())
    assert emitted(connection).calls == [("drop", connection)]


@pytest.mark.parametrize("ails", ["unsent", "halts"])
def test_a_connection_that_something_ails_goes_the_long_way(ails: str) -> None:
    connection = Socket(100)
    setattr(connection, ails, [b"x"] if ails == "unsent" else 1)
    assert emitted(connection).calls == [("emit", connection, b"+OK\r\n:1\r\n")]


def test_our_own_log_is_waited_for() -> None:
    connection = Socket(100)
    assert emitted(connection, waits=True).calls == [("hold", 7, connection, b"+OK\r\n:1\r\n")]


def test_nobody_is_there_any_more() -> None:
    connection = Socket(100)
    connection.closed = True
    assert not emitted(connection).calls and not connection.sent
