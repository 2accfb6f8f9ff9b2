"""Links between the meshes of simulated nodes: what ``server/peer_links`` does with sockets, over ``network``.

The bytes are the real ones: the handshake, then frames. The mesh decides what is dialed, which link of two stays and
what is sent; a link's queue is asked for the next frame only when the one before has left, so a peer that does not
read stops this end at the window, and the rest of the queue is the mesh's to bound.

Invariants: frames of a link are handed over in order, once; what a link has not sent when it ends goes with it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Protocol

from respkv.base.errors import ProtocolError
from respkv.env.rng import Rng
from respkv.testing.network import Address, Endpoint, Network
from respkv.testing.schedule import Trace
from respkv.wire.frames import Frame, FrameReader
from respkv.wire.handshake import NONCE_BYTES, Handshake, Hello, Peer

#: One read of a ready link, as a socket would be read.
READ_BYTES: Final = 256 << 10
HANDSHAKE_US: Final = 5_000_000


class MeshPort(Protocol):
    """What of ``node.mesh.Mesh`` moves bytes."""

    dirty: dict[int, None]
    #: links that the mesh has given up, with the reason
    broken: dict[int, str]
    secret: bytes

    def hello(self) -> Hello: ...

    def expected(self, address: Address) -> bytes: ...

    def wanted(self, now_us: int) -> Any: ...

    def dialing(self, address: Address) -> None: ...

    def dial_failed(self, address: Address, reason: str, now_us: int) -> None: ...

    def link_up(self, link: int, peer: Peer, address: Address | None, host: str) -> tuple[str, int | None]: ...

    def link_down(self, link: int, reason: str, now_us: int) -> None: ...

    def on_frames(self, link: int, frames: list[Frame], now_us: int) -> None: ...

    def on_part(self, link: int, now_us: int) -> None: ...

    def next_frame(self, link: int) -> bytes | None: ...


class _Link:
    """A connection to another node, before and after it has proved itself."""

    __slots__ = ("address", "end", "handshake", "number", "reader", "started_us", "unsent", "up")

    def __init__(self, number: int, end: Endpoint, handshake: Handshake, address: Address | None, now_us: int) -> None:
        self.number = number
        self.end = end
        self.handshake = handshake
        self.address = address
        self.reader = FrameReader()
        self.unsent = b""
        self.started_us = now_us
        self.up = False


class SimulatedLinks:
    """All links of one node. ``wake(action)`` runs an action in the node's next cycle: whatever happens on the network
    is seen by the node only then. ``now_us`` is the node's monotonic clock."""

    def __init__(
        self,
        mesh: MeshPort,
        *,
        network: Network,
        host: str,
        address: Address,
        rng: Rng,
        wake: Callable[[Callable[[], None]], None],
        now_us: Callable[[], int],
        trace: Trace,
    ) -> None:
        self._mesh = mesh
        self._network = network
        self._host = host
        self._rng = rng
        self._wake = wake
        self._now_us = now_us
        self._trace = trace
        self._links: dict[int, _Link] = {}
        self._last = 0
        self._stopped = False
        #: links that have ended, by reason
        self.ended: dict[str, int] = {}
        network.listen(host, address, lambda end: wake(lambda: self._accepted(end)))

    def stop(self) -> None:
        """The process is gone; the network has seen to its ends."""
        self._stopped = True
        self._links.clear()

    def tick(self) -> None:
        """Dial what is wanted, give up handshakes that take too long. A few times a second."""
        now_us = self._now_us()
        for address in self._mesh.wanted(now_us):
            self.dial(address)
        for link in list(self._links.values()):
            if not link.up and now_us - link.started_us > HANDSHAKE_US:
                self._end(link, "the handshake took too long")

    def dial(self, address: Address) -> None:
        """Connect to a node, whether there is a link already or not."""
        self._mesh.dialing(address)

        def done(end: Endpoint | None, reason: str) -> None:
            if self._stopped:
                if end is not None:
                    end.close()
                return
            self._wake(lambda: self._dialed(address, end, reason))

        self._network.dial(self._host, address, done)

    def flush(self) -> None:
        """After a commit: send what the mesh has, as far as the network takes it; close what it has given up. Nothing
        else sends frames, so nothing made in a cycle leaves before its commit."""
        broken = dict(self._mesh.broken)
        self._mesh.broken.clear()
        for number, reason in broken.items():
            if number in self._links:
                self._end(self._links[number], reason)
        dirty = list(self._mesh.dirty)
        self._mesh.dirty.clear()
        for number in dirty:
            link = self._links.get(number)
            if link is not None and link.up:
                self._send(link)
        if self._mesh.dirty or self._mesh.broken:
            self._wake(_nothing)

    def open_links(self) -> int:
        """Links that are up."""
        return sum(link.up for link in self._links.values())

    def stats(self) -> dict[str, int]:
        """Bytes that wait here, and links."""
        return {
            "links": len(self._links),
            "up": self.open_links(),
            "unsent": sum(len(link.unsent) for link in self._links.values()),
            "buffered": sum(link.reader.buffered for link in self._links.values()),
        }

    def check_invariants(self) -> None:
        """No more is kept of a link than one frame and one message's beginning."""
        for link in self._links.values():
            assert link.up or not link.unsent or len(link.unsent) < READ_BYTES
            link.reader.check_invariants()

    # In the node's cycle

    def _accepted(self, end: Endpoint) -> None:
        if self._stopped:
            end.close()
            return
        self._begin(end, dialer=False, address=None)

    def _dialed(self, address: Address, end: Endpoint | None, reason: str) -> None:
        if end is None:
            self._mesh.dial_failed(address, reason, self._now_us())
        else:
            self._begin(end, dialer=True, address=address)

    def _begin(self, end: Endpoint, *, dialer: bool, address: Address | None) -> None:
        self._last += 1
        nonce = self._rng.getrandbits(8 * NONCE_BYTES).to_bytes(NONCE_BYTES, "big")
        mesh = self._mesh
        expected = mesh.expected(address) if address is not None else b""
        handshake = Handshake(dialer=dialer, secret=mesh.secret, me=mesh.hello(), nonce=nonce, expected=expected)
        link = self._links[self._last] = _Link(self._last, end, handshake, address, self._now_us())
        end.on_ready = lambda: self._wake(lambda: self._on_ready(link))
        self._put(link, handshake.start())
        self._on_ready(link)

    def _on_ready(self, link: _Link) -> None:
        if link.number not in self._links:
            return
        data = link.end.recv(READ_BYTES)
        try:
            if data:
                if link.up:
                    self._take(link, data)
                else:
                    self._shake(link, data)
        except ProtocolError as error:
            self._end(link, str(error))
        if link.number not in self._links:
            return
        if link.end.eof and not link.end.received:
            self._end(link, link.end.eof)
            return
        if link.unsent:
            link.unsent = link.unsent[link.end.send(link.unsent) :]
        if link.up and not link.unsent:
            self._mesh.dirty[link.number] = None
        if link.end.received:
            self._wake(lambda: self._on_ready(link))

    def _shake(self, link: _Link, data: bytes) -> None:
        handshake = link.handshake
        self._put(link, handshake.feed(data))
        if handshake.reason:
            self._end(link, handshake.reason)
        elif handshake.peer is not None:
            other = link.end.other
            assert other is not None
            reason, older = self._mesh.link_up(link.number, handshake.peer, link.address, f"{other.host}:0")
            if reason:
                self._drop(link, reason)
                return
            link.up = True
            self._trace.line(f"{self._host} link {link.number} up with {other.host}")
            if older is not None and older in self._links:
                self._drop(self._links[older], "another link to the same node stays")
            if handshake.rest:
                self._take(link, handshake.rest)

    def _take(self, link: _Link, data: bytes) -> None:
        link.reader.feed(data)
        frames = link.reader.frames()
        if frames:
            self._mesh.on_frames(link.number, frames, self._now_us())
        else:
            self._mesh.on_part(link.number, self._now_us())

    def _put(self, link: _Link, data: bytes) -> None:
        if data:
            data = link.unsent + data
            link.unsent = data[link.end.send(data) :]

    def _send(self, link: _Link) -> None:
        if link.unsent:
            link.unsent = link.unsent[link.end.send(link.unsent) :]
        while link.up and not link.unsent and not link.end.eof and link.end.room():
            frame = self._mesh.next_frame(link.number)
            if frame is None:
                return
            link.unsent = frame[link.end.send(frame) :]

    def _drop(self, link: _Link, reason: str) -> None:
        """Close the connection; the mesh knows, or need not know."""
        del self._links[link.number]
        link.end.on_ready = _nothing
        link.end.close()
        self.ended[reason] = self.ended.get(reason, 0) + 1
        self._trace.line(f"{self._host} link {link.number} down: {reason}")

    def _end(self, link: _Link, reason: str) -> None:
        """The link has ended, and the mesh is told."""
        self._drop(link, reason)
        if link.up:
            self._mesh.link_down(link.number, reason, self._now_us())
        elif link.address is not None:
            self._mesh.dial_failed(link.address, reason, self._now_us())


def _nothing() -> None:
    """An end that has no owner any more; a cycle in which nothing is to do."""
