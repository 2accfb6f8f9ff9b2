"""The cycle: reading, executing, order of replies, halts, timers, other threads."""

from __future__ import annotations

import socket
import threading

import pytest
import trio

from tests.unit.server.fake_node import World, is_closed, read_all, request_bytes


def test_a_request_is_answered_in_the_cycle_that_reads_it(world: World) -> None:
    client, _ = world.client()
    assert world.ask(client, b"PING") == b"+PONG\r\n"


def test_replies_of_a_pipeline_come_in_order(world: World) -> None:
    client, _ = world.client()
    assert world.ask(client, b"SET a 1", b"GET a", b"PING") == b"+OK\r\n$1\r\n1\r\n+PONG\r\n"


def test_a_request_cut_anywhere_is_answered_once(world: World) -> None:
    client, _ = world.client()
    data = request_bytes(b"SET", b"key", b"value")
    for cut in range(1, len(data)):
        client.sendall(data[:cut])
        world.turn()
        assert read_all(client) == b""
        client.sendall(data[cut:])
        world.turn()
        assert read_all(client) == b"+OK\r\n"


def test_one_cycle_serves_all_ready_connections(world: World) -> None:
    clients = [world.client()[0] for _ in range(20)]
    for client in clients:
        client.sendall(request_bytes(b"SET", b"k", b"v"))
    world.turn()
    assert [read_all(client) for client in clients] == [b"+OK\r\n"] * 20
    assert world.node.lsn == 1, "one append for the whole cycle"


def test_budget_surplus_goes_on_without_new_input(world: World) -> None:
    world.node.budget = 100
    client, _ = world.client()
    client.sendall(request_bytes(b"PING") * 950)
    world.turn()
    assert read_all(client) == b"+PONG\r\n" * 100
    world.turns(10)
    assert read_all(client) == b"+PONG\r\n" * 850


def test_a_part_of_a_request_does_not_keep_the_loop_busy(world: World) -> None:
    client, _ = world.client()
    data = request_bytes(b"SET", b"k", b"v" * 20_000)
    client.sendall(data[:10_000])
    world.turns(3)
    assert not world.reactor.runnable
    client.sendall(data[10_000:])
    world.turns(3)
    assert read_all(client) == b"+OK\r\n" and not world.reactor.runnable


def test_a_pending_reply_holds_the_later_ones_back(world: World) -> None:
    client, connection = world.client()
    assert world.ask(client, b"PING", b"WAIT", b"PING", b"SET a 1") == b"+PONG\r\n"
    assert world.node.store == {}
    world.turn()
    assert read_all(client) == b""
    world.reactor.post(lambda: world.node.waiting[0].complete(b":7\r\n"))
    world.turn()
    assert read_all(client) == b":7\r\n+PONG\r\n+OK\r\n"
    assert not connection.halts


def test_two_pending_replies_in_a_row(world: World) -> None:
    client, _ = world.client()
    assert world.ask(client, b"WAIT", b"WAIT") == b""
    world.reactor.post(lambda: world.node.waiting[0].complete(b":1\r\n"))
    world.turn()
    assert read_all(client) == b":1\r\n"
    world.reactor.post(lambda: world.node.waiting[1].complete(b":2\r\n"))
    world.turn()
    assert read_all(client) == b":2\r\n"


def test_the_reply_of_a_closed_connection_is_abandoned(world: World) -> None:
    client, connection = world.client()
    world.ask(client, b"WAIT")
    world.reactor.drop(connection)
    pending = world.node.waiting[0]
    assert pending.abandoned
    pending.complete(b":1\r\n")
    world.turn()
    assert world.node.gone == [1]


def test_input_behind_a_pending_reply_is_bounded(world: World) -> None:
    client, connection = world.client()
    world.ask(client, b"WAIT")
    rest = memoryview(request_bytes(b"SET", b"k", b"v" * 60_000) * 100)
    for _ in range(400):
        try:
            rest = rest[client.send(rest) :]
        except BlockingIOError:
            pass
        world.turn()
    assert connection.parser.buffered < 4 << 20
    assert not connection.mask & 1, "the socket is not read any more"
    world.reactor.post(lambda: world.node.waiting[0].complete(b":1\r\n"))
    world.turns(2)
    assert connection.mask & 1
    assert read_all(client).startswith(b":1\r\n+OK\r\n+OK\r\n")


def test_end_of_input_after_requests_still_answers_them(world: World) -> None:
    client, _ = world.client()
    client.sendall(request_bytes(b"PING"))
    client.shutdown(socket.SHUT_WR)
    world.turns(3)
    assert read_all(client) == b"+PONG\r\n"
    assert is_closed(client)
    assert world.reactor.connections == {}


def test_end_of_input_waits_for_a_pending_reply(world: World) -> None:
    client, _ = world.client()
    client.sendall(request_bytes(b"WAIT") + request_bytes(b"PING"))
    client.shutdown(socket.SHUT_WR)
    world.turns(3)
    assert not is_closed(client)
    world.reactor.post(lambda: world.node.waiting[0].complete(b":1\r\n"))
    world.turns(3)
    assert read_all(client) == b":1\r\n+PONG\r\n"
    assert is_closed(client)


def test_end_of_input_gives_up_a_blocked_command(world: World) -> None:
    client, _ = world.client()
    client.sendall(request_bytes(b"BLOCK"))
    world.turn()
    client.shutdown(socket.SHUT_WR)
    world.turns(2)
    assert is_closed(client)
    assert world.node.waiting[0].abandoned


def test_a_reset_by_the_peer_drops_the_connection(world: World) -> None:
    client, _ = world.client()
    client.close()
    world.turn()
    assert world.reactor.connections == {} and world.node.gone == [1]


def test_quit_answers_then_closes_and_runs_nothing_more(world: World) -> None:
    client, _ = world.client()
    assert world.ask(client, b"QUIT", b"SET a 1") == b"+OK\r\n"
    assert is_closed(client)
    assert world.node.store == {}


def test_a_protocol_error_is_told_behind_earlier_replies(world: World) -> None:
    client, _ = world.client()
    client.sendall(request_bytes(b"PING") + b"!")
    world.turn()
    assert read_all(client) == b"+PONG\r\n-ERR Protocol error: exclamation\r\n"
    assert is_closed(client)


def test_input_behind_the_last_reply_does_not_destroy_it(world: World) -> None:
    client, _ = world.client()
    client.sendall(b"!" + b"x" * 100_000)
    world.turn()
    assert client.recv(1000) == b"-ERR Protocol error: exclamation\r\n"
    assert client.recv(1000) == b"", "an end, not a reset"


def test_a_push_from_another_connection_leaves_in_the_same_cycle(world: World) -> None:
    first, _ = world.client()
    second, _ = world.client()
    assert world.ask(first, b"PUSH 2 hello") == b"+OK\r\n"
    assert read_all(second) == b"+hello\r\n"


def test_a_kill_from_another_connection(world: World) -> None:
    first, _ = world.client()
    second, victim = world.client()
    second.sendall(request_bytes(b"SET", b"a", b"1"))
    assert world.ask(first, b"KILL 2") == b"+OK\r\n"
    assert is_closed(second) or read_all(second) in (b"", b"+OK\r\n")
    assert victim.closed and world.node.gone == [2]


def test_a_connection_that_kills_itself(world: World) -> None:
    client, _ = world.client()
    world.ask(client, b"PING", b"KILL 1", b"PING")
    assert is_closed(client)
    assert world.reactor.connections == {}


def test_a_node_that_refuses_a_connection_gets_its_words_across(world: World) -> None:
    world.node.refuse = b"-ERR max number of clients reached\r\n"
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    assert world.reactor.add(ours, address="x", local_address="y", unix=False) is None
    assert theirs.recv(100) == world.node.refuse
    assert theirs.recv(1) == b""
    theirs.close()


def test_timers_of_the_node_and_of_the_server(world: World) -> None:
    ran: list[int] = []
    world.node.timer_us = world.clock.us + 500
    world.reactor.call_at(world.clock.us + 1000, lambda: ran.append(1))
    world.turn()
    assert world.node.timers_run == 0 and ran == []
    world.clock.us += 600
    world.turn()
    assert world.node.timers_run == 1 and ran == []
    world.clock.us += 600
    world.turn()
    assert world.node.timers_run == 1 and ran == [1]


def test_post_from_another_thread_wakes_the_loop(world: World) -> None:
    ran: list[str] = []

    def act() -> None:
        ran.append(threading.current_thread().name)
        world.reactor.stopping = True

    async def main() -> None:
        with trio.fail_after(5):
            await world.reactor.run()

    world.clock.us = 0
    thread = threading.Thread(target=lambda: world.reactor.post(act))
    thread.start()
    trio.run(main)
    thread.join()
    assert ran == [threading.current_thread().name]


def test_an_exception_in_a_cycle_leaves_the_loop(world: World) -> None:
    def broken() -> None:
        raise AssertionError("an invariant does not hold")

    world.reactor.post(broken)
    with pytest.raises(AssertionError, match="invariant"):
        trio.run(world.reactor.run)


def test_a_long_cycle_stops_executing_and_the_rest_is_served_next(world: World) -> None:
    clients = [world.client()[0] for _ in range(40)]
    for client in clients:
        client.sendall(request_bytes(b"PING"))
    reactor = world.reactor
    slow = world.node.execute_batch

    def execute(*arguments: object) -> object:
        world.clock.us += 2_000
        return slow(*arguments)  # type: ignore[arg-type]

    world.node.execute_batch = execute  # type: ignore[method-assign, assignment]
    world.turn()
    served = sum(bool(read_all(client)) for client in clients)
    assert 0 < served < 40
    for _ in range(5):
        reactor.run_cycle(reactor.epoll.poll(0))
    assert served + sum(bool(read_all(client)) for client in clients) == 40


def test_counters(world: World) -> None:
    client, _ = world.client()
    world.ask(client, b"PING")
    figures = world.reactor.traffic.figures()
    assert figures["net_input_bytes"] == len(request_bytes(b"PING"))
    assert figures["net_output_bytes"] == len(b"+PONG\r\n")
    assert figures["reads_processed"] == figures["writes_processed"] == 1
    assert world.reactor.stats()["connections"] == 1
