from __future__ import annotations

from collections.abc import Iterator

import pytest

from respkv.env.rng import seeded
from respkv.testing.network import WINDOW_BYTES, Endpoint, Network
from respkv.testing.schedule import Schedule, Trace

SERVER = ("127.0.0.1", 7001)
S = 1_000_000


class Net:
    """Two hosts, a and b; b listens."""

    def __init__(self, seed: int = 1) -> None:
        self.schedule = Schedule()
        self.network = Network(self.schedule, seeded(seed), Trace(self.schedule))
        self.accepted: list[Endpoint] = []
        self.dialed: list[tuple[Endpoint | None, str]] = []
        self.network.listen("b", SERVER, self.accepted.append)

    def dial(self) -> None:
        self.network.dial("a", SERVER, lambda end, reason: self.dialed.append((end, reason)))

    def run(self, count_us: int) -> None:
        self.schedule.run_until(self.schedule.now_us + count_us)

    def connected(self) -> tuple[Endpoint, Endpoint]:
        self.dial()
        self.run(S)
        end, reason = self.dialed[-1]
        assert end is not None and reason == ""
        return end, self.accepted[-1]


@pytest.fixture
def net() -> Iterator[Net]:
    yield Net()


def test_bytes_arrive_in_order_both_ways(net: Net) -> None:
    a, b = net.connected()
    for number in range(100):
        assert a.send(b"%d," % number) and b.send(b"%d;" % number)
        net.run(97)
    net.run(S)
    assert b.recv(10_000) == b"".join(b"%d," % number for number in range(100))
    assert a.recv(10) == b"0;1;2;3;4;"
    assert a.recv(10_000).startswith(b"5;6;")
    assert a.recv(10) == b"" and not a.eof


def test_a_peer_that_does_not_read_stops_the_sender(net: Net) -> None:
    a, b = net.connected()
    data = bytes(WINDOW_BYTES + 1000)
    assert a.send(data) == WINDOW_BYTES and a.send(b"x") == 0
    net.run(S)
    ready = []
    a.on_ready = lambda: ready.append(a.room())
    assert len(b.recv(1 << 30)) == WINDOW_BYTES
    net.run(S)
    assert ready and a.send(b"x" * 1000) == 1000


def test_the_end_comes_behind_what_was_sent(net: Net) -> None:
    a, b = net.connected()
    a.send(b"last words")
    a.close()
    net.run(S)
    assert (b.recv(100), b.eof) == (b"last words", "closed by the peer")


def test_a_cut_delays_and_a_short_one_ends_nothing(net: Net) -> None:
    a, b = net.connected()
    net.network.cut("a", "b")
    for word in (b"one ", b"two ", b"three"):
        a.send(word)
    net.run(S)
    assert b.recv(100) == b""
    net.network.restore("a", "b")
    net.run(S)
    assert b.recv(100) == b"one two three" and not a.eof and not b.eof
    net.run(30 * S)
    assert not a.eof and not b.eof


@pytest.mark.parametrize("seed", range(5))
def test_each_end_gives_a_long_cut_up_by_itself(seed: int) -> None:
    net = Net(seed)
    a, b = net.connected()
    ends = []
    a.on_ready = lambda: ends.append(("a", net.schedule.now_us))
    b.on_ready = lambda: ends.append(("b", net.schedule.now_us))
    net.network.cut("a", "b")
    a.send(b"lost")
    net.run(30 * S)
    assert (a.eof, b.eof) == ("timed out", "timed out") and b.recv(10) == b""
    assert ends[0][1] != ends[1][1]
    net.network.restore("a", "b")
    net.run(S)
    assert b.recv(10) == b""


def test_a_clog_ends_nothing_however_long(net: Net) -> None:
    a, b = net.connected()
    net.network.clog("a", "b")
    a.send(b"late")
    net.run(60 * S)
    assert not a.eof and b.recv(10) == b""
    net.network.restore_all()
    net.run(S)
    assert b.recv(10) == b"late"


def test_one_way(net: Net) -> None:
    a, b = net.connected()
    net.network.cut("a", "b")
    b.send(b"hello")
    a.send(b"nobody hears this")
    net.run(S)
    assert a.recv(10) == b"hello" and b.recv(10) == b""


@pytest.mark.parametrize("seed", range(20))
def test_a_reset_loses_a_tail_and_nothing_from_the_middle(seed: int) -> None:
    net = Net(seed)
    a, b = net.connected()
    net.network.set_delay("a", "b", 100, 50_000)
    sent = b"".join(b"%d," % number for number in range(200))
    for number in range(200):
        a.send(b"%d," % number)
        net.run(300)
    assert net.network.reset("a", "b") == 1
    net.run(S)
    got = b.recv(1 << 20)
    assert a.eof and b.eof and sent.startswith(got) and len(got) < len(sent)
    assert a.send(b"x") == 0


def test_what_a_killed_process_has_sent_may_arrive_and_its_peer_is_told(net: Net) -> None:
    a, _ = net.connected()
    net.network.host_down("b", silent=False)
    net.run(S)
    assert a.eof == "closed by the peer"
    net.dial()
    net.run(S)
    assert net.dialed[-1] == (None, "connection refused")


def test_a_host_without_power_answers_nothing_until_it_is_back(net: Net) -> None:
    a, _ = net.connected()
    net.network.host_down("b", silent=True)
    net.run(S)
    assert not a.eof
    net.dial()
    net.run(10 * S)
    assert net.dialed[-1] == (None, "timed out")
    net.network.host_up("b")
    net.network.listen("b", SERVER, net.accepted.append)
    if not a.eof:
        a.send(b"are you there")
        net.run(S)
        assert a.eof == "reset by the peer"
    net.connected()


def test_an_end_that_learned_nothing_is_half_open(net: Net) -> None:
    net.network.cut("b", "a")
    net.dial()
    net.run(100_000)
    assert len(net.accepted) == 1 and not net.dialed
    net.run(30 * S)
    assert net.dialed == [(None, "timed out")] and net.accepted[0].eof


def test_an_echo_hears_the_beginning_once_more(net: Net) -> None:
    net.network.echoing, net.network.echo_percent = ("a",), 100
    a, b = net.connected()
    a.send(b"who goes there")
    net.run(S)
    assert [end.recv(100) for end in net.accepted] == [b"who goes there"] * 2
    net.accepted[0].send(b"nobody reads this")
    b.send(b"friend")
    net.run(S)
    assert a.recv(100) == b"friend"
