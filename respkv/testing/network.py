"""A network in memory: streams between hosts, with everything that goes wrong between them.

What TCP promises is kept, and nothing more. A connection is two streams of bytes, one each way; what arrives is a
prefix of what was sent, in order. A fault delays a stream or ends it, and what was still on its way is then lost from
some point on; never bytes from the middle. Each end learns of the other's end by itself, later, or not at all
(half-open). Streams have a window: a receiver that does not read stops its sender.

Faults, by directed pair of hosts: ``set_delay`` (and so reordering between connections), ``cut`` (nothing arrives;
dials fail, connections are given up after a while, by each end on its own), ``clog`` (as a cut, but nobody gives up).
``reset`` ends connections. ``echo`` plays the beginning of a dialer's stream to the accepter a second time, on a
connection of its own. A host that is *down* answers nothing; one that is up without a listener refuses.

A host is a name; an address is (host of the ring's configuration, port), and ``listen`` says whose it is.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

from respkv.env.rng import Rng
from respkv.testing.schedule import Schedule, Trace

Address = tuple[str, int]
#: Called with the accepter's end of a new connection.
Accept = Callable[["Endpoint"], None]
#: Called with the dialer's end, or with None and the reason.
Dialed = Callable[["Endpoint | None", str], None]

WINDOW_BYTES: Final = 256 << 10
#: An attempt to connect is given up after this long, microseconds.
DIAL_US: Final = 2_000_000
#: How long an end waits for a peer that does not answer, microseconds: least and most.
_PATIENCE_US: Final = (2_000_000, 12_000_000)
_ECHO_BYTES: Final = 4096
_DELAY_US: Final = (100, 1_500)


def _nothing() -> None:
    """The default of an end's hooks."""


class Endpoint:
    """One end of a connection. The owner sets ``on_ready``: called when there is something to read, room to write
    again, or the end; it may be called for nothing. Everything else happens when the owner calls."""

    __slots__ = (
        "_network",
        "_stalled",
        "arrived_us",
        "closed",
        "eof",
        "giving_up",
        "host",
        "in_flight",
        "number",
        "on_ready",
        "other",
        "received",
        "received_bytes",
        "sent_bytes",
        "tee",
    )

    def __init__(self, network: Network, host: str, number: int) -> None:
        self._network = network
        self.host = host
        self.number = number
        self.other: Endpoint | None = None
        self.on_ready: Callable[[], None] = _nothing
        #: what has arrived and was not read
        self.received: deque[bytes] = deque()
        self.received_bytes = 0
        #: what this end has sent and has not arrived: (data, or None for the end; b"" with ``reset``)
        self.in_flight: deque[bytes | None] = deque()
        self.sent_bytes = 0
        self.arrived_us = 0
        #: deliveries that wait for the path to be there again
        self._stalled = 0
        #: why nothing more will come; "" while it may
        self.eof = ""
        #: this end has been closed by its owner, or its host is gone
        self.closed = False
        self.giving_up = False
        #: a second connection that hears the first bytes of this end too
        self.tee: Endpoint | None = None

    # The owner's side

    def room(self) -> int:
        """Bytes that ``send`` would take now."""
        other = self.other
        if self.closed or other is None:
            return 0
        return max(0, WINDOW_BYTES - self.sent_bytes - other.received_bytes)

    def send(self, data: bytes) -> int:
        """Send as much of ``data`` as there is room for; how much that was. Nothing once the end has come."""
        if self.eof or self.closed:
            return 0
        data = data[: self.room()]
        if data:
            self._network.transmit(self, data)
        return len(data)

    def recv(self, limit: int) -> bytes:
        """Up to ``limit`` bytes of what has arrived; b"" when there is nothing, see ``eof``."""
        parts = []
        while self.received and limit:
            chunk = self.received.popleft()
            if len(chunk) > limit:
                self.received.appendleft(chunk[limit:])
                chunk = chunk[:limit]
            parts.append(chunk)
            limit -= len(chunk)
        data = b"".join(parts)
        if data:
            self.received_bytes -= len(data)
            self._network.window_opened(self)
        return data

    def close(self) -> None:
        """Send nothing more, take nothing more; the peer reads what was sent, then finds the end."""
        if not self.closed:
            self.closed = True
            self.received.clear()
            self.received_bytes = 0
            if not self.eof:
                self._network.transmit(self, None)

    # The network's side

    def stall(self) -> None:
        """A delivery from this end has found the path blocked."""
        self._stalled += 1

    def take_stalled(self) -> int:
        """Deliveries to be tried again."""
        taken, self._stalled = self._stalled, 0
        return taken

    def end(self, reason: str) -> None:
        """Nothing more comes, and what is sent goes nowhere."""
        if not self.eof:
            self.eof = reason
            self.in_flight.clear()
            self.sent_bytes = 0
            self.on_ready()

    def __repr__(self) -> str:
        return f"<Endpoint {self.number} of {self.host}>"


class Network:
    """All hosts and connections. Ends of one connection have numbers 2n and 2n + 1, the dialer's first."""

    def __init__(self, schedule: Schedule, rng: Rng, trace: Trace) -> None:
        self._schedule = schedule
        self._rng = rng
        self._trace = trace
        self._listeners: dict[Address, tuple[str, Accept]] = {}
        self._owners: dict[Address, str] = {}
        self._down: dict[str, None] = {}
        self._delays: dict[tuple[str, str], tuple[int, int]] = {}
        self._cut: dict[tuple[str, str], None] = {}
        self._clogged: dict[tuple[str, str], None] = {}
        self._ends: dict[int, Endpoint] = {}
        self._count = 0
        #: of how many dials in a hundred the beginning is played twice: only handshakes can tell
        self.echo_percent = 0
        #: hosts whose dials those are
        self.echoing: tuple[str, ...] = ()
        self.bytes = 0

    # Hosts

    def listen(self, host: str, address: Address, accept: Accept) -> None:
        """``host`` takes connections to ``address``."""
        self._listeners[address] = (host, accept)
        self._owners[address] = host

    def unlisten(self, address: Address) -> None:
        """Connections to ``address`` are refused."""
        self._listeners.pop(address, None)

    def host_down(self, host: str, *, silent: bool) -> None:
        """All ends of a host are gone. ``silent``: with its power, so nobody is told; else each peer is."""
        for address in [address for address, owner in self._owners.items() if owner == host]:
            self.unlisten(address)
        if silent:
            self._down[host] = None
        for end in [end for end in self._ends.values() if end.host == host]:
            if silent:
                end.closed = True
                end.eof = end.eof or "power lost"
                end.in_flight.clear()
            elif not end.eof:
                self._end_abruptly(end)
            end.on_ready = _nothing

    def host_up(self, host: str) -> None:
        """The host answers again; what belongs to connections it knows nothing of is answered with a reset."""
        self._down.pop(host, None)

    # Faults

    def set_delay(self, source: str, target: str, low_us: int, high_us: int) -> None:
        """How long bytes are under way from here on."""
        self._delays[source, target] = (low_us, high_us)

    def usual_delays(self) -> None:
        """All paths are fast again."""
        self._delays.clear()

    def cut(self, source: str, target: str) -> None:
        """Nothing gets from ``source`` to ``target``."""
        self._cut[source, target] = None
        for end in list(self._ends.values()):
            if end.other is not None and {end.host, end.other.host} == {source, target}:
                self._lose_patience(end)

    def clog(self, source: str, target: str) -> None:
        """Nothing gets from ``source`` to ``target`` for a while, short enough that nobody minds."""
        self._clogged[source, target] = None

    def restore(self, source: str, target: str) -> None:
        """Neither cut nor clogged."""
        self._cut.pop((source, target), None)
        self._clogged.pop((source, target), None)
        for end in list(self._ends.values()):
            if end.other is not None and (end.host, end.other.host) == (source, target):
                self._retry(end)

    def restore_all(self) -> None:
        """Every path is there, and fast."""
        self.usual_delays()
        for source, target in [*self._cut, *self._clogged]:
            self.restore(source, target)

    def reset(self, left: str, right: str) -> int:
        """End all connections between two hosts; how many there were. Each side finds out by itself."""
        ends = [
            end
            for end in self._ends.values()
            if end.number % 2 == 0 and end.other is not None and {end.host, end.other.host} == {left, right}
        ]
        for end in ends:
            assert end.other is not None
            for side in (end, end.other):
                self._lose_tail(side)
                self._schedule.after(self._delay_us(left, right), lambda side=side: self._reset_end(side))  # type: ignore[misc]
        return len(ends)

    def blocked(self, source: str, target: str) -> bool:
        """True while nothing gets from ``source`` to ``target``."""
        return (source, target) in self._cut or (source, target) in self._clogged

    # Connections

    def dial(self, host: str, address: Address, done: Dialed) -> None:
        """Connect ``host`` to ``address``; ``done`` is called later, once."""
        owner = self._owners.get(address, "")
        delay_us = self._delay_us(host, owner)

        def fail_late() -> None:
            self._schedule.after(DIAL_US, lambda: done(None, "timed out"))

        def arrive() -> None:
            if owner in self._down or (host, owner) in self._cut:
                fail_late()
                return
            if self.blocked(host, owner):
                self._schedule.after(DIAL_US // 8, arrive)
                return
            listener = self._listeners.get(address)
            back_us = self._delay_us(owner, host)
            if listener is None:
                self._schedule.after(back_us, lambda: done(None, "connection refused"))
                return
            mine, theirs = self._pair(host, listener[0])
            if host in self.echoing and self._rng.randrange(100) < self.echo_percent:
                mine.tee, echo = self._pair(f"echo-of-{host}", listener[0])
                listener[1](echo)
            listener[1](theirs)
            if (owner, host) in self._cut:
                # The answer never comes: the accepter has an end nobody knows of.
                mine.closed = True
                mine.eof = "given up"
                self._lose_patience(theirs)
                fail_late()
                return
            self._schedule.after(back_us, lambda: done(mine, ""))

        self._schedule.after(delay_us, arrive)

    def transmit(self, end: Endpoint, data: bytes | None) -> None:
        """Put bytes, or the end of the stream, on their way."""
        other = end.other
        assert other is not None
        end.in_flight.append(data)
        if data is not None:
            end.sent_bytes += len(data)
            self.bytes += len(data)
            if end.tee is not None:
                self._tee(end, data)
        now_us = self._schedule.now_us
        end.arrived_us = max(end.arrived_us, now_us + self._delay_us(end.host, other.host))
        self._schedule.at(end.arrived_us, lambda: self._deliver(end))

    def window_opened(self, end: Endpoint) -> None:
        """The owner of ``end`` has read: its peer may send on."""
        other = end.other
        if other is not None and not other.closed:
            self._schedule.after(self._delay_us(end.host, other.host), other.on_ready)

    def connections(self) -> int:
        """Connections of which at least one end is open."""
        self._forget()
        return len({number >> 1: None for number in self._ends})

    # Inside

    def _pair(self, source: str, target: str) -> tuple[Endpoint, Endpoint]:
        self._forget()
        mine, theirs = Endpoint(self, source, self._count), Endpoint(self, target, self._count + 1)
        mine.other, theirs.other = theirs, mine
        self._ends[mine.number], self._ends[theirs.number] = mine, theirs
        self._count += 2
        return mine, theirs

    def _forget(self) -> None:
        for number in [
            number for number, end in self._ends.items() if end.closed and end.other is not None and end.other.closed
        ]:
            del self._ends[number]

    def _delay_us(self, source: str, target: str) -> int:
        low_us, high_us = self._delays.get((source, target), _DELAY_US)
        return self._rng.randrange(low_us, high_us + 1)

    def _deliver(self, end: Endpoint) -> None:
        """The oldest thing that ``end`` has under way arrives, unless it may not."""
        other = end.other
        assert other is not None
        if not end.in_flight:
            return
        if self.blocked(end.host, other.host):
            end.stall()
            if (end.host, other.host) in self._cut:
                self._lose_patience(end)
            return
        if other.host in self._down:
            end.in_flight.clear()
            self._lose_patience(end)
            return
        data = end.in_flight.popleft()
        if data is None:
            other.end("closed by the peer")
            return
        end.sent_bytes -= len(data)
        if other.closed or other.eof:
            # Nobody there knows of this connection.
            if not self.blocked(other.host, end.host):
                self._schedule.after(self._delay_us(other.host, end.host), lambda: self._reset_end(end))
            return
        self._trace.line(f"net {end.host}>{other.host} {end.number} {len(data)}")
        other.received.append(data)
        other.received_bytes += len(data)
        other.on_ready()

    def _tee(self, end: Endpoint, data: bytes) -> None:
        tee = end.tee
        assert tee is not None
        if tee.sent_bytes > _ECHO_BYTES or tee.eof:
            end.tee = None
        else:
            self.transmit(tee, data)

    def _retry(self, end: Endpoint) -> None:
        assert end.other is not None
        for _ in range(end.take_stalled()):
            delay_us = self._delay_us(end.host, end.other.host)
            end.arrived_us = max(end.arrived_us, self._schedule.now_us + delay_us)
            self._schedule.at(end.arrived_us, lambda: self._deliver(end))

    def _lose_patience(self, end: Endpoint) -> None:
        """The end waits for a peer that does not answer; it gives up if that does not change."""
        if end.giving_up or end.eof:
            return
        end.giving_up = True
        self._schedule.after(self._rng.randrange(*_PATIENCE_US), lambda: self._give_up(end))

    def _give_up(self, end: Endpoint) -> None:
        other = end.other
        assert other is not None
        end.giving_up = False
        away = other.host in self._down or other.closed or bool(other.eof)
        if away or (end.host, other.host) in self._cut or (other.host, end.host) in self._cut:
            end.end("timed out")

    def _lose_tail(self, end: Endpoint) -> None:
        """Of what is under way, some suffix is lost."""
        kept = self._rng.randrange(len(end.in_flight) + 1)
        while len(end.in_flight) > kept:
            data = end.in_flight.pop()
            end.sent_bytes -= len(data or b"")

    def _reset_end(self, end: Endpoint) -> None:
        end.end("reset by the peer")

    def _end_abruptly(self, end: Endpoint) -> None:
        """The process of ``end`` is gone: its kernel tells the peer, behind some of what was under way."""
        self._lose_tail(end)
        end.close()
        end.eof = end.eof or "killed"
