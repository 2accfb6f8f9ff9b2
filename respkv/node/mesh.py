"""The links of this node: who is at the other end, what waits for whom, whom to dial. Pure; sockets are elsewhere.

The owner of the sockets numbers the links (no number is used twice), brings them up after the handshake, feeds what
arrives, and fetches frames; a simulator does the same without sockets. It

- dials what ``wanted`` gives (``dialing``, then ``link_up`` or ``dial_failed``),
- gives received frames to ``on_frames``, says ``on_part`` where bytes came that end none, and closes the link on a
  ProtocolError,
- after the commit of each cycle empties ``dirty`` and sends, for each of those links, what ``next_frame`` gives,
- closes the links in ``broken`` and empties it,
- calls ``link_down`` for every link that has ended, whoever ended it.

A link is *a member's* once both ends are members of one ring and know it: the peer's node id is in this node's ring,
and the peer has named its short id, in its HELLO or at the head of a frame. A node that becomes a member says so on all
its links at once, if need be by a frame without messages. Messages of other links come with short id 0; they matter
while a cluster is formed.

Two members have one link. When both have dialed, the one dialed by the lower node id stays; of two dialed from the same
side the younger. A link that has stood for SETTLED_US yields to any new one: its peer would not have dialed if it still
had that link.

``on_member(short, True)`` and ``on_member(short, False)`` bound a session: what is sent in between arrives in order, up
to a point, and nothing after that point. When one link takes the place of another both are called, for what was under
way on the older one is lost. Neither is called from within ``send``.

Bounds: ``room`` is False above QUEUE_MESSAGES or QUEUE_BYTES; above BROKEN_FACTOR times that a link is given up and
what waits on it is forgotten, so that a peer that stops reading costs that much and nothing more. One long message may
exceed the bounds by its own size, for a value may be larger than all of them. STRANGERS_MAX links of nodes that are no
members; WAITING_MAX messages for each of ADDRESSES_MAX addresses that are being dialed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from respkv.base.errors import ProtocolError
from respkv.base.limits import MIB
from respkv.causality.hlc import hlc_ms
from respkv.cluster.ring import MEMBERS_MAX, Ring
from respkv.cluster.topology import Link
from respkv.env.rng import Rng
from respkv.node.dials import Dials
from respkv.wire.codec import encode
from respkv.wire.frames import Frame, FrameWriter, seal
from respkv.wire.handshake import MYSELF, NO_CLUSTER, OTHER_CLUSTER, Hello, Peer
from respkv.wire.messages import Address

QUEUE_MESSAGES: Final = 4096
QUEUE_BYTES: Final = 16 * MIB
BROKEN_FACTOR: Final = 4
STRANGERS_MAX: Final = MEMBERS_MAX
WAITING_MAX: Final = 4
ADDRESSES_MAX: Final = 64
#: The member with the higher node id leaves dialing to the other for this long.
TURN_US: Final = 1_000_000
#: No dial that began before a link was up takes so long to arrive.
SETTLED_US: Final = 15_000_000

_BROKEN_MESSAGES: Final = BROKEN_FACTOR * QUEUE_MESSAGES
_BROKEN_BYTES: Final = BROKEN_FACTOR * QUEUE_BYTES
HAVE_ONE: Final = "there is a link already"
#: node id, host, port.
Place = tuple[bytes, str, int]


def _no_clock() -> int:
    return 0


def _nobody(short: int, link: int, message: Any) -> None:
    """Receives messages until the node does."""


def _unwatched(short: int, value: int) -> None:
    """The default of the hooks with a member and a number."""


class _Link:
    """One link. ``short`` is set while it is the link of that member; ``said`` is what the peer calls itself."""

    __slots__ = (
        "address", "announce", "created_ms", "dead", "host", "largest", "number", "peer", "received", "said",
        "said_epoch", "short", "since_us", "writer",
    )  # fmt: skip

    def __init__(self, number: int, peer: Peer, address: Address | None, host: str) -> None:
        self.number = number
        self.peer = peer
        self.address = address
        self.host = host
        self.since_us = 0
        self.created_ms = 0
        self.short = 0
        self.said = peer.short
        self.said_epoch = -1
        self.writer = FrameWriter()
        #: the largest message since nothing waited
        self.largest = 0
        self.received = 0
        #: a frame must go out, if only to say who we are
        self.announce = False
        #: given up, not yet closed
        self.dead = False


class Mesh:
    """The links of node ``node_id``. ``log(level, text)``.

    Hooks, set by the node: ``clock()`` the HLC value for the heads of frames, ``receive(short, link, message)``,
    ``on_member(short, up)``, ``observe(short, clock)`` for the clock at the head of each frame of a member, and
    ``heard(short, now_us)`` once for each arrival of bytes from a member, before frames are delivered.
    """

    __slots__ = (
        "_absent_us", "_by_address", "_by_short", "_dials", "_links", "_log", "_members", "_myself", "_now_us",
        "_seeds", "_shorts", "_totals", "_up", "_waiting", "broken", "clock", "cluster_id", "dirty", "epoch", "heard",
        "node_id", "observe", "on_member", "receive", "secret", "short",
    )  # fmt: skip

    def __init__(self, node_id: bytes, *, secret: bytes, rng: Rng, log: Callable[[str, str], None]) -> None:
        self.node_id = node_id
        self.secret = secret
        self.short = 0
        self.epoch = 0
        self.cluster_id = NO_CLUSTER
        self.clock: Callable[[], int] = _no_clock
        self.receive: Callable[[int, int, Any], None] = _nobody
        self.on_member: Callable[[int, bool], None] = _unwatched
        self.observe: Callable[[int, int], None] = _unwatched
        self.heard: Callable[[int, int], None] = _unwatched
        #: links with something to send
        self.dirty: dict[int, None] = {}
        #: links that the owner must close, and why
        self.broken: dict[int, str] = {}
        self._log = log
        self._now_us = 0
        self._links: dict[int, _Link] = {}
        self._by_short: dict[int, _Link] = {}
        self._by_address: dict[Address, _Link] = {}
        #: the link for which ``on_member(short, True)`` was called last
        self._up: dict[int, int] = {}
        self._members: dict[int, Place] = {}
        self._shorts: dict[bytes, int] = {}
        #: since when a member has no link
        self._absent_us: dict[int, int] = {}
        self._seeds: list[Address] = []
        #: seeds that turned out to be this node
        self._myself: dict[Address, None] = {}
        self._waiting: dict[Address, list[list[bytes]]] = {}
        self._dials = Dials(rng, log)
        #: of links that have ended
        self._totals = dict.fromkeys(
            ("sent_frames", "sent_messages", "sent_bytes", "received_messages", "overflows"), 0
        )

    # Who is who.

    def hello(self) -> Hello:
        """How this node introduces itself now."""
        return Hello(self.node_id, self.cluster_id, self.short)

    def expected(self, address: Address) -> bytes:
        """The node id that must answer at ``address``; empty when anybody may. O(members)."""
        for node_id, host, port in self._members.values():
            if (host, port) == address:
                return node_id
        return b""

    def became_member(self, ring: Ring, short: int) -> None:
        """This node is member ``short`` of ``ring``, which is durable; or the ring has changed. All peers are told."""
        self.short, self.epoch, self.cluster_id = short, ring.epoch, ring.cluster_id
        for link in list(self._links.values()):
            if link.peer.cluster_id not in (NO_CLUSTER, ring.cluster_id):
                self._give_up(link, OTHER_CLUSTER)
            elif not link.dead:
                link.said_epoch = -1  # It is looked at again, under the new epoch.
                link.announce = True
                self.dirty[link.number] = None
        self.set_members({each.short: (each.node_id, each.node_host, each.node_port) for each in ring.members})

    def set_members(self, members: Mapping[int, Place]) -> None:
        """The members of the ring and where their nodes listen, this node among them or not."""
        self._members = {short: place for short, place in sorted(members.items()) if place[0] != self.node_id}
        self._shorts = {place[0]: short for short, place in self._members.items()}
        self._absent_us = {short: self._absent_us.get(short, self._now_us) for short in self._members}
        for link in list(self._links.values()):
            if link.short and self._shorts.get(link.peer.node_id) != link.short:
                self._give_up(link, "no member any more")
            elif not link.short:
                self._promote(link)

    def set_seeds(self, seeds: Iterable[Address]) -> None:
        """Addresses to keep links to while this node is no member."""
        self._seeds = list(dict.fromkeys(seeds))

    def source(self, link: int) -> int | Address:
        """Where messages of ``link`` come from, as the formation of a cluster names it: the address that was dialed,
        or the number of a link that was accepted."""
        found = self._links.get(link)
        return link if found is None or found.address is None else found.address

    def member_of(self, link: int) -> int:
        """The member at the other end; 0 when it is none."""
        found = self._links.get(link)
        return found.short if found is not None and not found.dead else 0

    def peer(self, link: int) -> Peer | None:
        """What the other end of ``link`` has said about itself; None when there is no such link."""
        found = self._links.get(link)
        return found.peer if found is not None else None

    # Dialing.

    def wanted(self, now_us: int) -> list[Address]:
        """Addresses to dial now. O(members + links)."""
        self._now_us = now_us
        candidates: dict[Address, None] = {}
        if self.short:
            reached = {link.peer.node_id for link in self._links.values() if not link.dead}
            for short, (node_id, host, port) in self._members.items():
                if node_id in reached:
                    continue
                if self.node_id < node_id or now_us - self._absent_us[short] >= TURN_US:
                    candidates[host, port] = None
        else:
            candidates.update(dict.fromkeys(seed for seed in self._seeds if seed not in self._myself))
        candidates.update(dict.fromkeys(self._waiting))
        self._dials.forget(candidates, now_us)
        return [
            address
            for address in candidates
            if address not in self._by_address and self._dials.may_begin(address, now_us)
        ]

    def dialing(self, address: Address) -> None:
        """A dial of ``address`` has begun."""
        self._dials.begin(address)

    def dial_failed(self, address: Address, reason: str, now_us: int) -> None:
        """It has led to no link. What waited for it is forgotten."""
        self._now_us = now_us
        self._waiting.pop(address, None)
        if reason == MYSELF and not self.expected(address):
            reason = ""
            self._myself[address] = None
            if len(self._myself) > ADDRESSES_MAX:
                del self._myself[next(iter(self._myself))]
        self._dials.fail(address, reason, now_us)

    # Links come and go.

    def link_up(self, link: int, peer: Peer, address: Address | None, host: str) -> tuple[str, int | None]:
        """A handshake has succeeded; ``address`` is what was dialed, None for an accepted link; ``host`` is for people.

        ("", the number of an older link that must be closed, or None); or (why the link is not wanted, None): it is to
        be closed, and was never there. ``dial_failed`` and ``link_down`` need not follow for either.
        """
        assert link not in self._links
        now_us = self._now_us
        entry = _Link(link, peer, address, host)
        entry.since_us, entry.created_ms = now_us, hlc_ms(self.clock())
        older, reason = None, self._obstacle(peer)
        if not reason and self._is_member(entry):
            older, reason = self._adopt(entry, arrives=True)
        if reason:
            if address is not None:
                # That there is a link already is nothing to complain of.
                self.dial_failed(address, "" if reason == HAVE_ONE else reason, now_us)
            return reason, None
        self._links[link] = entry
        if self.short:
            entry.announce = True
            self.dirty[link] = None
        if address is not None:
            self._dials.succeed(address)
            self._by_address[address] = entry
            for parts in self._waiting.pop(address, ()):
                self._queue(entry, parts)
        if older is not None:
            self._remove(older)
        if entry.short:
            self._tell_up(entry)
        return "", older.number if older is not None else None

    def _obstacle(self, peer: Peer) -> str:
        """Why no link with ``peer`` is wanted, or ""."""
        if peer.node_id == self.node_id:
            return MYSELF
        if NO_CLUSTER not in (self.cluster_id, peer.cluster_id) and peer.cluster_id != self.cluster_id:
            return OTHER_CLUSTER
        known = self._shorts.get(peer.node_id, 0)
        if peer.short and self.short and known != peer.short and (known or peer.short in (self.short, *self._members)):
            return f"it says it is member {peer.short}, which it is not"
        if not (self.short and known and known == peer.short):
            strangers = sum(not entry.short for entry in self._links.values())
            if strangers >= STRANGERS_MAX:
                return "too many links with nodes that are no members"
        return ""

    def _is_member(self, link: _Link) -> bool:
        """Both ends are members, and know it."""
        return bool(self.short and link.said) and self._shorts.get(link.peer.node_id) == link.said

    def _adopt(self, link: _Link, *, arrives: bool) -> tuple[_Link | None, str]:
        """Make ``link`` the link of its member. (the older link that yields, "") or (None, why the older one stays).

        ``arrives``: the link is new, not one that stood already when its peer became known as a member.
        """
        older = self._by_short.get(link.said)
        if older is not None and self._prefers(older, link, arrives=arrives):
            return None, HAVE_ONE
        link.short = link.said
        self._by_short[link.short] = link
        self._absent_us.pop(link.short, None)
        return older, ""

    def _prefers(self, older: _Link, link: _Link, *, arrives: bool) -> bool:
        """Whether ``older`` stays although ``link`` has come."""
        if arrives and self._now_us - older.since_us >= SETTLED_US:
            return False
        # The lower one has dialed a link when it is this node and the link an outgoing one, or neither.
        low = self.node_id < link.peer.node_id
        return (older.address is not None) == low and (link.address is not None) != low

    def _promote(self, link: _Link) -> None:
        """``link`` becomes a member's, if it can be; one of two is given up."""
        if link.dead or not self._is_member(link):
            return
        older, reason = self._adopt(link, arrives=False)
        if reason:
            self._give_up(link, reason)
            return
        if older is not None:
            self._give_up(older, "another link has taken its place")
        self._tell_up(link)

    def _tell_up(self, link: _Link) -> None:
        """A session with a member begins; if another one was still open, it ends first."""
        if link.short in self._up:
            del self._up[link.short]
            self.on_member(link.short, False)
        self._up[link.short] = link.number
        self._log("notice", f"Link with member {link.short} at {link.host} is up")
        self.on_member(link.short, True)

    def link_down(self, link: int, reason: str, now_us: int) -> None:
        """The link has ended; what waited on it is lost. Nothing happens when it is not known (any more)."""
        self._now_us = now_us
        self.broken.pop(link, None)
        entry = self._links.get(link)
        if entry is None:
            return
        self._remove(entry)
        short = entry.short
        place = self._members.get(short)
        address = entry.address or (place[1:] if place is not None else None)
        if address is not None:
            self._dials.ended(address, now_us - entry.since_us, now_us)
        if self._up.get(short) == link:
            del self._up[short]
            self._log("notice", f"Link with member {short} at {entry.host} is down: {reason}")
            self.on_member(short, False)

    def _remove(self, link: _Link) -> None:
        """Out of all tables."""
        self._let_go(link)
        del self._links[link.number]
        self._account(link)

    def _account(self, link: _Link) -> None:
        """Keep the figures of a link that sends nothing more; its queue goes."""
        totals, writer = self._totals, link.writer
        totals["sent_frames"] += writer.frames
        totals["sent_messages"] += writer.sent_messages
        totals["sent_bytes"] += writer.sent_bytes
        totals["received_messages"] += link.received
        link.writer, link.received = FrameWriter(), 0

    def _let_go(self, link: _Link) -> None:
        """Nothing is sent on it any more, nothing that comes counts."""
        link.dead = True
        self.dirty.pop(link.number, None)
        if self._by_short.get(link.short) is link:
            del self._by_short[link.short]
            if link.short in self._members:
                self._absent_us[link.short] = self._now_us
        if link.address is not None and self._by_address.get(link.address) is link:
            del self._by_address[link.address]

    def _give_up(self, link: _Link, reason: str) -> None:
        """The owner is to close it. Its queue goes now."""
        if link.dead:
            return
        self._let_go(link)
        self._account(link)
        self.broken[link.number] = reason

    # What comes.

    def on_frames(self, link: int, frames: list[Frame], now_us: int) -> None:  # HOT: mesh_frames
        """Frames have come: ``receive`` is called for each message, in order. ProtocolError for frames that this peer
        cannot send: the link must be closed. Frames of a link that was given up are dropped."""
        self._now_us = now_us
        entry = self._links.get(link)
        if entry is None or entry.dead:
            return
        if entry.short:
            self.heard(entry.short, now_us)
        receive = self.receive
        for sender, epoch, clock, messages in frames:
            if sender != entry.said or epoch != entry.said_epoch:
                self._check_sender(entry, sender, epoch)
            if entry.dead:
                return
            short = entry.short
            if short:
                self.observe(short, clock)
            entry.received += len(messages)
            for message in messages:
                receive(short, link, message)

    def on_part(self, link: int, now_us: int) -> None:
        """Bytes of a frame have come, and it goes on: whoever sends them is alive, however long that takes."""
        short = self.member_of(link)
        if short:
            self.heard(short, now_us)

    def refuse(self, short: int, reason: str) -> None:
        """A message that was taken from member ``short`` turns out to be one that a peer cannot send: its link is given
        up. Nothing happens without a link."""
        link = self._by_short.get(short)
        if link is not None:
            self._log("warning", f"Link with {link.host} is given up: {reason}")
            self._give_up(link, reason)

    def _check_sender(self, link: _Link, sender: int, epoch: int) -> None:
        """The head of a frame differs from the one before. ProtocolError unless its sender may say so."""
        if sender != link.said and link.said:
            raise ProtocolError(f"member {link.said} calls itself {sender}")
        if sender:
            if epoch < max(1, link.said_epoch, self.epoch if self.short else 0):
                raise ProtocolError(f"member {sender} speaks for ring epoch {epoch}, which is over")
            known = self._shorts.get(link.peer.node_id, 0)
            # A node that this node's ring does not know may be of a later ring.
            if self.short and sender != known and (known or epoch == self.epoch):
                raise ProtocolError(f"a node that is no member calls itself member {sender}")
        link.said, link.said_epoch = sender, epoch
        if not link.short:
            self._promote(link)

    # What goes.

    def linked(self, short: int) -> bool:
        """True while there is a link to member ``short``."""
        return short in self._by_short

    def can(self, short: int, capability: int) -> bool:
        """Whether member ``short`` and this node both know a capability. False without a link."""
        link = self._by_short.get(short)
        return link is not None and bool(link.peer.capabilities & capability)

    def room(self, short: int) -> bool:
        """Whether more should be sent to ``short`` now. False without a link."""
        link = self._by_short.get(short)
        if link is None:
            return False
        writer = link.writer
        return writer.queued_bytes <= QUEUE_BYTES and writer.queued_messages <= QUEUE_MESSAGES

    def spare(self, short: int) -> int:
        """How many messages may be sent to ``short`` before half of its queue is taken: for what is less urgent than
        writes, which would be held back by a full one. 0 without a link."""
        link = self._by_short.get(short)
        if link is None or link.writer.queued_bytes > QUEUE_BYTES // 2:
            return 0
        return max(0, QUEUE_MESSAGES // 2 - link.writer.queued_messages)

    def send(self, short: int, message: tuple[Any, ...]) -> bool:
        """Queue a message for a member; it leaves after the commit. False, and nothing is queued: no link, or a message
        longer than a peer takes. True promises nothing about its arrival."""
        link = self._by_short.get(short)
        return link is not None and self._queue(link, encode(message))

    def send_encoded(self, short: int, parts: list[bytes]) -> bool:
        """The same with what ``codec.encode`` returned; one list may go to several members."""
        link = self._by_short.get(short)
        return link is not None and self._queue(link, parts)

    def send_on(self, link: int, message: tuple[Any, ...]) -> bool:
        """Queue a message on a link, whoever is at its other end. False when it is gone."""
        entry = self._links.get(link)
        return entry is not None and not entry.dead and self._queue(entry, encode(message))

    def send_to(self, address: Address, message: tuple[Any, ...]) -> bool:
        """Queue a message for whoever answers at ``address``, which is dialed if need be. False when too many addresses
        wait; of too many messages the oldest are dropped, and all of them when the dial fails."""
        entry = self._by_address.get(address)
        if entry is not None:
            return self._queue(entry, encode(message))
        waiting = self._waiting.get(address)
        if waiting is None:
            if len(self._waiting) >= ADDRESSES_MAX or address in self._myself:
                return False
            waiting = self._waiting[address] = []
        waiting.append(encode(message))
        del waiting[:-WAITING_MAX]
        return True

    def _queue(self, link: _Link, parts: list[bytes]) -> bool:  # HOT: mesh_send
        writer = link.writer
        before = writer.queued_bytes
        try:
            writer.add_encoded(parts)
        except ValueError:
            return False
        self.dirty[link.number] = None
        queued = writer.queued_bytes
        size = queued - before
        if not before or size > link.largest:
            link.largest = size
        if queued - link.largest > _BROKEN_BYTES or writer.queued_messages > _BROKEN_MESSAGES:
            self._overflow(link)
            return False
        return True

    def _overflow(self, link: _Link) -> None:
        self._totals["overflows"] += 1
        self._log("warning", f"Link with {link.host} is given up: its peer does not read what is sent to it")
        self._give_up(link, "it did not read what was sent to it")

    def next_frame(self, link: int) -> bytes | None:  # HOT: mesh_send
        """The next bytes for a link, None when nothing waits."""
        entry = self._links.get(link)
        if entry is None or entry.dead:
            return None
        if entry.writer.queued_bytes:
            entry.announce = False
            return entry.writer.take(self.short, self.epoch, self.clock())
        if entry.announce:
            entry.announce = False
            return seal(self.short, self.epoch, self.clock(), 0, [])
        return None

    # Facts.

    def queued(self, short: int) -> tuple[int, int]:
        """(messages, bytes) that wait for a member."""
        link = self._by_short.get(short)
        return (link.writer.queued_messages, link.writer.queued_bytes) if link is not None else (0, 0)

    def links(self) -> list[Link]:
        """The links with members, in the order of their short ids, for CLUSTER LINKS."""
        found = []
        for short in sorted(self._by_short):
            link = self._by_short[short]
            used = link.writer.queued_bytes
            outgoing = link.address is not None
            found.append(Link(short, outgoing, link.created_ms, bool(used), used, used))
        return found

    def stats(self) -> dict[str, int]:
        """Figures for INFO and /metrics; O(links)."""
        links = self._links.values()
        writers = [link.writer for link in links]
        return {
            **self._totals,
            "sent_frames": self._totals["sent_frames"] + sum(writer.frames for writer in writers),
            "sent_messages": self._totals["sent_messages"] + sum(writer.sent_messages for writer in writers),
            "sent_bytes": self._totals["sent_bytes"] + sum(writer.sent_bytes for writer in writers),
            "received_messages": self._totals["received_messages"] + sum(link.received for link in links),
            "links": len(self._links),
            "members": len(self._members),
            "members_linked": len(self._by_short),
            "queued_messages": sum(writer.queued_messages for writer in writers),
            "queued_bytes": sum(writer.queued_bytes for writer in writers),
            "dials": self._dials.begun,
            "dials_failed": self._dials.failed,
            "dials_under_way": self._dials.under_way(),
            "addresses_waiting": len(self._waiting),
        }

    def check_invariants(self) -> None:
        """Raises AssertionError when broken."""
        for number, link in self._links.items():
            assert link.number == number
            assert not link.dead or not link.writer.queued_bytes
            assert not link.dead or number not in self.dirty
            link.writer.check_invariants()
        for short, link in self._by_short.items():
            assert link.short == short and not link.dead and self._links[link.number] is link
            assert self._members[short][0] == link.peer.node_id
            assert self._up.get(short) == link.number
        for address, link in self._by_address.items():
            assert link.address == address and not link.dead and self._links[link.number] is link
        assert sum(not link.short for link in self._links.values()) <= STRANGERS_MAX
        assert all(len(waiting) <= WAITING_MAX for waiting in self._waiting.values())
        assert self._shorts == {place[0]: short for short, place in self._members.items()}
