"""Output: partial sends, holds until the log is durable, brakes, limits."""

from __future__ import annotations

import socket

import pytest

from respkv.base.limits import HOLD_US
from respkv.server.client_limits import LINGER_US, OutputLimit
from respkv.server.connection import OUTPUT, RECV_BYTES_MAX, RECV_BYTES_MIN, WRITABLE
from tests.unit.server.fake_node import World, is_closed, read_all, request_bytes


def drain(world: World, client: socket.socket, size: int) -> bytes:
    """Read until ``size`` bytes have come, cycling the server."""
    data = b""
    for _ in range(10_000):
        data += read_all(client)
        if len(data) >= size:
            return data
        world.turn()
    raise AssertionError(f"only {len(data)} of {size} bytes came")


def test_a_big_reply_leaves_in_parts_and_in_order(world: World) -> None:
    client, connection = world.client()
    client.sendall(request_bytes(b"ECHO", b"3000000") + request_bytes(b"PING"))
    world.turn()
    assert connection.unsent_bytes > 0 and connection.mask & WRITABLE
    expected = b"$3000000\r\n" + b"x" * 3_000_000 + b"\r\n+PONG\r\n"
    assert drain(world, client, len(expected)) == expected
    world.turn()
    assert connection.unsent_bytes == 0 and not connection.mask & WRITABLE


def test_unread_output_halts_execution_but_not_reading(world: World) -> None:
    client, connection = world.client()
    world.ask(client, b"PING")
    client.sendall(request_bytes(b"ECHO", b"5000000"))
    world.turn()
    assert connection.halts & OUTPUT
    for number in range(100):
        client.sendall(request_bytes(b"SET", b"k%d" % number, b"v" * 1000))
        world.turn()
    assert world.node.store == {}, "requests wait"
    assert connection.mask & 1, "a client that sends first and reads later must not hang"
    data = drain(world, client, 5_000_000 + 11 + 500)
    assert data.endswith(b"+OK\r\n" * 100)
    assert len(world.node.store) == 100 and not connection.halts


def test_many_small_chunks_are_joined_when_the_socket_takes_more(world: World) -> None:
    client, connection = world.client()
    client.sendall(request_bytes(b"ECHO", b"1000000"))
    world.turn()
    before = connection.unsent_bytes
    for _ in range(50):
        connection.push(b"+message\r\n")
        world.turn()
    assert connection.unsent_bytes == before + 500
    data = drain(world, client, 1_000_000 + 12 + 500)
    assert data.endswith(b"+message\r\n" * 50)


def test_close_after_output_waits_for_the_peer_to_read(world: World) -> None:
    client, connection = world.client()
    client.sendall(request_bytes(b"ECHO", b"2000000") + request_bytes(b"QUIT"))
    world.turn()
    assert not connection.closed
    data = drain(world, client, 2_000_000 + 12 + 5)
    world.turn()
    assert data.endswith(b"+OK\r\n") and connection.closed and is_closed(client)


def test_a_slow_reader_of_a_long_reply_is_not_idle(world: World) -> None:
    world.reactor.limits.idle_us = 10_000_000
    client, connection = world.client()
    client.sendall(request_bytes(b"ECHO", b"3000000") + request_bytes(b"QUIT"))
    world.turn()
    got = 0
    while connection.unsent_bytes:
        got += len(client.recv(100_000))
        world.clock.us += 6_000_000
        world.turn()
        world.reactor.limits.sweep(world.reactor.connections, world.clock.us)
    assert world.clock.us > LINGER_US and world.reactor.limits.timeout_drops == 0
    assert drain(world, client, 3_000_017 - got).endswith(b"+OK\r\n")


def test_close_after_output_does_not_wait_for_ever(world: World) -> None:
    client, connection = world.client()
    client.sendall(request_bytes(b"ECHO", b"2000000") + request_bytes(b"QUIT"))
    world.turn()
    world.clock.us += LINGER_US + 1
    world.reactor.limits.sweep(world.reactor.connections, world.clock.us)
    assert connection.closed


def test_always_holds_replies_until_the_log_is_durable(world: World) -> None:
    world.node.always = True
    writer, _ = world.client()
    reader, _ = world.client()
    assert world.ask(writer, b"SET a 1") == b""
    assert world.ask(reader, b"GET a") == b"", "a read may not show what is not durable"
    world.node.durable_lsn = 1
    world.reactor.on_durable()
    assert read_all(writer) == b"+OK\r\n" and read_all(reader) == b"$1\r\n1\r\n"
    assert world.ask(reader, b"GET a") == b"$1\r\n1\r\n", "nothing to wait for"


def test_held_replies_leave_by_commit_and_in_order(world: World) -> None:
    world.node.always = True
    client, _ = world.client()
    world.ask(client, b"SET a 1")
    world.ask(client, b"SET a 2", b"GET a")
    world.node.durable_lsn = 1
    world.reactor.on_durable()
    assert read_all(client) == b"+OK\r\n"
    world.node.durable_lsn = 2
    world.reactor.on_durable()
    assert read_all(client) == b"+OK\r\n$1\r\n2\r\n"
    world.reactor.check_invariants()


def test_held_replies_all_leave_when_nothing_needs_to_wait_any_more(world: World) -> None:
    world.node.always = True
    client, _ = world.client()
    world.ask(client, b"SET a 1")
    world.node.always = False
    world.reactor.on_durable()
    assert read_all(client) == b"+OK\r\n"


def test_held_replies_of_a_dropped_connection_are_forgotten(world: World) -> None:
    world.node.always = True
    client, connection = world.client()
    world.ask(client, b"SET a 1")
    world.reactor.drop(connection)
    world.node.durable_lsn = 1
    world.reactor.on_durable()
    assert is_closed(client)
    assert world.reactor.gate.held_bytes == 0


def test_quit_with_held_replies_closes_after_them(world: World) -> None:
    world.node.always = True
    client, _ = world.client()
    assert world.ask(client, b"SET a 1", b"QUIT") == b""
    world.node.durable_lsn = 1
    world.reactor.on_durable()
    assert read_all(client) == b"+OK\r\n+OK\r\n" and is_closed(client)


def test_writers_are_braked_under_pressure_and_readers_are_not(world: World) -> None:
    world.node.wait_us = 5_000
    writer, _ = world.client()
    reader, _ = world.client()
    world.turn()
    assert world.ask(writer, b"SET a 1") == b""
    assert world.ask(reader, b"GET a") == b"$1\r\n1\r\n"
    writer.sendall(request_bytes(b"SET", b"b", b"2"))
    world.turn()
    assert b"b" not in world.node.store, "the next request waits too"
    world.clock.us += 5_000
    world.turn()
    assert read_all(writer) == b"+OK\r\n"
    assert b"b" in world.node.store
    world.clock.us += 5_000
    world.turn()
    assert read_all(writer) == b"+OK\r\n"


def test_who_writes_later_is_braked_as_well(world: World) -> None:
    """On a ring most commands read at other nodes first."""
    world.node.wait_us = 5_000
    writer, _ = world.client()
    world.turn()
    writer.sendall(request_bytes(b"LATER") + request_bytes(b"SET", b"b", b"2"))
    world.turn()
    world.node.waiting[0].complete(b":1\r\n")
    world.turn()
    assert read_all(writer) == b"" and b"b" not in world.node.store
    world.clock.us += 5_000
    world.turns(2)
    assert read_all(writer) == b":1\r\n" and b"b" in world.node.store
    # And the end of the wait before the reply has come lets nobody overtake it.
    writer.sendall(request_bytes(b"LATER") + request_bytes(b"GET", b"b"))
    world.clock.us += 20_000
    world.turns(2)
    world.clock.us += 20_000
    world.turns(2)
    assert read_all(writer).endswith(b"+OK\r\n")
    world.node.waiting[1].complete(b":2\r\n")
    world.clock.us += 20_000
    world.turns(3)
    assert read_all(writer) == b":2\r\n$1\r\n2\r\n"


def test_a_long_wait_ends_with_its_reason(world: World) -> None:
    world.node.wait_us = 160_000
    writer, _ = world.client()
    world.turn()
    assert world.ask(writer, b"SET a 1") == b""
    world.clock.us += 100_000
    world.turn()
    assert read_all(writer) == b""
    world.node.wait_us = 0
    world.clock.us += 10_000
    world.turn()
    assert read_all(writer) == b"+OK\r\n"


def test_full_pressure_holds_writers_until_it_sinks(world: World) -> None:
    world.node.wait_us = HOLD_US
    writer, _ = world.client()
    world.turn()
    assert world.ask(writer, b"SET a 1") == b""
    for _ in range(20):
        world.clock.us += 10_000
        world.turn()
    assert read_all(writer) == b""
    world.node.wait_us = 0
    for _ in range(3):
        world.clock.us += 10_000
        world.turn()
    assert read_all(writer) == b"+OK\r\n"


def test_a_braked_client_that_leaves(world: World) -> None:
    world.node.wait_us = HOLD_US
    writer, connection = world.client()
    world.turn()
    world.ask(writer, b"SET a 1")
    world.reactor.drop(connection)
    world.node.wait_us = 0
    world.clock.us += 20_000
    world.turns(2)
    assert world.reactor.connections == {}


def test_hard_output_limit(world: World) -> None:
    world.reactor.limits.normal = OutputLimit(hard_bytes=500_000, soft_bytes=0, soft_us=0)
    client, connection = world.client()
    world.ask(client, b"ECHO 2000000")
    world.turn()
    assert connection.closed
    assert world.reactor.limits.output_drops == 1
    assert "output buffer limits" in world.log[0]


def test_soft_output_limit_allows_a_time(world: World) -> None:
    limits = world.reactor.limits
    limits.normal = OutputLimit(hard_bytes=0, soft_bytes=500_000, soft_us=10_000_000)
    client, connection = world.client()
    client.sendall(request_bytes(b"ECHO", b"2000000"))
    world.turn()
    world.clock.us += 9_000_000
    limits.sweep(world.reactor.connections, world.clock.us)
    assert not connection.closed
    world.clock.us += 9_000_000
    limits.sweep(world.reactor.connections, world.clock.us)
    world.clock.us += 9_000_000
    limits.sweep(world.reactor.connections, world.clock.us)
    assert connection.closed


@pytest.mark.parametrize("channels", ["channels", "patterns", "shard_channels"])
def test_subscribers_have_their_own_limit(world: World, channels: str) -> None:
    world.reactor.limits.pubsub = OutputLimit(hard_bytes=300_000, soft_bytes=0, soft_us=0)
    _, connection = world.client()
    getattr(connection.session, channels)[b"c"] = None
    for _ in range(100):
        connection.push(b"x" * 20_000)
        world.turn()
        if connection.closed:
            break
    world.reactor.limits.sweep(world.reactor.connections, world.clock.us)
    assert connection.closed


def test_query_buffer_limit(world: World) -> None:
    world.reactor.limits.query_bytes = 100_000
    client, connection = world.client()
    client.sendall(b"*2\r\n$3\r\nGET\r\n$500000\r\n")
    for _ in range(20):
        if connection.closed:
            break
        client.sendall(b"v" * 16_384)
        world.turn()
        world.reactor.limits.sweep(world.reactor.connections, world.clock.us)
    assert connection.closed and world.reactor.limits.query_drops == 1
    assert "max query buffer" in world.log[0]


def test_who_waits_for_the_server_is_not_idle(world: World) -> None:
    limits = world.reactor.limits
    limits.idle_us = 10_000_000
    waiter, waiting = world.client()
    writer, held = world.client()
    assert world.ask(waiter, b"WAIT") == b"" and waiting.pending is not None
    world.node.always = True
    assert world.ask(writer, b"SET a 1") == b"" and held.held_count == 1
    world.clock.us += 11_000_000
    assert limits.sweep(world.reactor.connections, world.clock.us)
    assert not waiting.closed and not held.closed
    world.node.durable_lsn = 1
    world.reactor.on_durable()
    world.clock.us += 11_000_000
    assert limits.sweep(world.reactor.connections, world.clock.us)
    assert not waiting.closed and held.closed


def test_http_is_told_once_a_minute(world: World) -> None:
    _, connection = world.client()
    for seconds in (0, 1, 60, 61):
        world.reactor.limits.cross_protocol(connection, 1_000_000 + seconds * 1_000_000)
    assert len(world.log) == 2
    assert world.log[0].startswith("Possible SECURITY ATTACK detected")
    assert world.log[0].endswith("Connection from 127.0.0.1:5000 aborted.")


def test_a_connection_is_closed_and_counted_once(world: World) -> None:
    world.reactor.limits.query_bytes = 10
    client, connection = world.client()
    client.sendall(b"*2\r\n$3\r\nGET\r\n$500000\r\n")
    world.turn()
    for _ in range(3):
        world.reactor.limits.check_input(connection)
    assert connection.closed and world.reactor.limits.query_drops == 1 and len(world.log) == 1


def test_idle_clients_are_closed_after_timeout(world: World) -> None:
    limits = world.reactor.limits
    limits.idle_us = 10_000_000
    idle, idle_connection = world.client()
    _, subscriber = world.client()
    subscriber.session.channels[b"c"] = None
    world.clock.us += 11_000_000
    active, active_connection = world.client()
    world.ask(active, b"PING")
    assert limits.sweep(world.reactor.connections, world.clock.us)
    assert idle_connection.closed and is_closed(idle)
    assert not subscriber.closed and not active_connection.closed


def test_the_read_size_grows_with_big_values_and_shrinks_again(world: World) -> None:
    client, connection = world.client()
    value = b"v" * 3_000_000
    data = memoryview(request_bytes(b"SET", b"k", value))
    while data:
        try:
            data = data[client.send(data) :]
        except BlockingIOError:
            pass
        world.turn()
    world.turns(200)
    assert read_all(client) == b"+OK\r\n"
    assert world.node.store[b"k"] == value
    assert RECV_BYTES_MIN < connection.recv_bytes <= RECV_BYTES_MAX
    world.clock.us += 3_000_000
    world.reactor.limits.sweep(world.reactor.connections, world.clock.us)
    assert connection.recv_bytes == RECV_BYTES_MIN
