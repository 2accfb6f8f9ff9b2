"""The output of a ring member's cycle: frames to other nodes, and replies that wait for what those answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from respkv.node.round_gate import RoundGate
from respkv.server.connection import OUTPUT, OUTPUT_HALT_BYTES, Connection

if TYPE_CHECKING:
    from respkv.server.ports import LinkPort
    from respkv.server.reactor import Reactor


def send_ring(reactor: Reactor, links: LinkPort, rounds: RoundGate, lsn: int) -> None:
    """After the commit: frames to other nodes, then what their answers let go, then who waits for them."""
    node = reactor.node
    node.after_commit(lsn)
    links.flush()
    kept: list[Connection] = []
    for connection in reactor.dirty:
        session = connection.session
        if connection.closed or not connection.out or not (session.round is not None or connection.rounds):
            kept.append(connection)
            continue
        replies, connection.out = connection.out, []
        connection.held_bytes += rounds.hold(connection, session.round, replies)
        connection.held_count += 1
        session.round = None
        connection.dirty = False
        if connection.held_bytes + connection.unsent_bytes > OUTPUT_HALT_BYTES:
            connection.halts |= OUTPUT
    reactor.dirty = kept
    settled = node.take_settled()
    if settled:
        # The same for all of them, and half of what letting one reply go would cost.
        reactor.rounds_wait = bool(reactor.gate) or (node.holds_replies and reactor.lsn > node.durable_lsn)
        for round_ in settled:
            rounds.settled(round_)


def emit_round(reactor: Reactor, connection: Any, replies: list[bytes], size: int) -> None:
    """What other nodes have confirmed; with ``appendfsync always`` our own log may still be waited for."""
    connection.held_count -= 1
    connection.held_bytes -= size
    if connection.closed:
        return
    data = replies[0] if len(replies) == 1 else b"".join(replies)
    if reactor.rounds_wait:
        reactor.gate.hold(reactor.lsn, connection, data)
        return
    if connection.unsent or connection.halts:
        reactor.emit(connection, data)
        return
    # ``Reactor.emit`` for a connection that nothing ails, its calls inlined.
    try:
        sent = connection.send(data)
    except BlockingIOError:
        sent = 0
    except OSError:
        reactor.drop(connection)
        return
    if sent != len(data):
        connection.keep(data, sent)
    traffic = reactor.traffic
    traffic.bytes_out += len(data)
    traffic.writes += 1
    if connection.halts:
        reactor.output_left(connection)
