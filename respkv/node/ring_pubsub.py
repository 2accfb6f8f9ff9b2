"""Publish and subscribe over a ring: nodes tell each other what their clients listen to, and send what is listened to.

Each node tells every peer, once for each cycle, how many subscribers of which channel or pattern it has more or less
(``Interest``), and everything when a link comes up. A message goes to the peers that have subscribers for it, once
each, and is delivered there to those of that node only: it is never passed on. As with one node, it is sent at most
once: a peer that is away, or takes too little of what it is sent, misses it.

A message waits here while half of what may wait for a peer is taken, so that messages never hold up writes; beyond
BACKLOG_BYTES for a peer they are dropped, and counted.

Bounds: names told cost their length and NAME_COST. A node whose names cost more than INTEREST_BYTES asks for everything
instead, until they cost half of that; so a peer costs INTEREST_BYTES at most. Then its subscribers are not counted.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Final

from respkv.base.errors import ProtocolError
from respkv.base.limits import MIB
from respkv.commands.glob import matches
from respkv.commands.pubsub import PubSub
from respkv.wire.messages import CHANNEL, EVERYTHING, PATTERN, SHARD_CHANNEL, Interest, Publish

INTEREST_BYTES: Final = 16 * MIB
NAME_COST: Final = 200
BACKLOG_BYTES: Final = 16 * MIB
#: Beside its bytes.
MESSAGE_COST: Final = 200
#: Of messages that waited, so many bytes go in one cycle.
_BYTES_PER_CYCLE: Final = 4 * MIB
_KINDS: Final = (CHANNEL, SHARD_CHANNEL, PATTERN)

Name = tuple[int, bytes]


class Names:
    """Subscribers by kind and name, none of them zero. ``cost`` is what they take, bytes."""

    __slots__ = ("cost", "everything", "tables")

    def __init__(self) -> None:
        self.tables: dict[int, dict[bytes, int]] = {kind: {} for kind in _KINDS}
        self.cost = 0
        #: nothing is known but that all is wanted
        self.everything = False

    def change(self, kind: int, name: bytes, count: int) -> bool:
        """So many subscribers more or less; False when there would be less than none."""
        table = self.tables[kind]
        before = table.get(name, 0)
        after = before + count
        if after > 0:
            table[name] = after
        elif before:
            del table[name]
        self.cost += (len(name) + NAME_COST) * ((after > 0) - (before > 0))
        return after >= 0

    def wants(self, kind: int, channel: bytes) -> tuple[bool, int]:
        """Whether a message is to be sent there, and how many subscribers are known to get it. O(patterns)."""
        count = self.tables[kind].get(channel, 0)
        if kind == CHANNEL:
            count += sum(number for pattern, number in self.tables[PATTERN].items() if matches(pattern, channel))
        return count > 0 or self.everything, count

    def rows(self) -> Iterator[Name]:
        """A row for each subscriber."""
        for kind, table in self.tables.items():
            for name, count in table.items():
                for _ in range(count):
                    yield kind, name

    def check_invariants(self) -> None:
        """See the class. O(names)."""
        for table in self.tables.values():
            assert all(count > 0 for count in table.values())
        assert self.cost == sum(len(name) + NAME_COST for table in self.tables.values() for name in table)


class _Peer:
    """A peer with a link: what its clients listen to, and messages that wait for it, ``cost`` bytes of them."""

    __slots__ = ("backlog", "cost", "names")

    def __init__(self) -> None:
        self.names = Names()
        self.backlog: deque[Publish] = deque()
        self.cost = 0


def _cost(message: Publish) -> int:
    return len(message.channel) + len(message.message) + MESSAGE_COST


class RingPubSub:
    """Implements ``commands.pubsub.Others``. ``spare(short)``: how many messages a peer may be sent now."""

    __slots__ = (
        "_asks_all", "_limit", "_own", "_peers", "_pubsub", "_send", "_spare", "_waiting", "dropped", "received",
        "sent",
    )  # fmt: skip

    def __init__(
        self,
        pubsub: PubSub,
        *,
        send: Callable[[int, Any], bool],
        spare: Callable[[int], int],
        limit: int = INTEREST_BYTES,
    ) -> None:
        self._pubsub = pubsub
        self._send = send
        self._spare = spare
        self._limit = limit
        #: what this node's clients listen to, as it was told to all peers
        self._own = Names()
        #: that was too much, and all peers were asked for everything
        self._asks_all = False
        self._peers: dict[int, _Peer] = {}
        #: peers for which messages wait
        self._waiting: dict[int, None] = {}
        self.sent = self.received = self.dropped = 0
        pubsub.others = self

    # -- Others ------------------------------------------------------------------------------------

    def publish(self, kind: int, channel: bytes, message: bytes) -> int:
        """Send a message to the peers that want it; how many subscribers they have, as far as is known."""
        total = 0
        sent: Publish | None = None
        for short, peer in self._peers.items():
            wanted, count = peer.names.wants(kind, channel)
            if not wanted:
                continue
            sent = sent or Publish(kind, channel, message)
            if peer.backlog and peer.cost + _cost(sent) > BACKLOG_BYTES:
                self.dropped += 1
                continue
            peer.backlog.append(sent)
            peer.cost += _cost(sent)
            self._waiting[short] = None
            total += count
        return total

    def subscribers(self, kind: int) -> dict[bytes, int]:
        """Name -> subscribers at peers. O(names)."""
        found: dict[bytes, int] = {}
        for peer in self._peers.values():
            for name, count in peer.names.tables[kind].items():
                found[name] = found.get(name, 0) + count
        return found

    # -- telling -----------------------------------------------------------------------------------

    def seal(self) -> None:
        """The end of a cycle: tell what has changed in it, send what there is room for."""
        if self._pubsub.changes:
            self._tell()
        for short in list(self._waiting):
            self._flush(short, self._peers[short])

    def _flush(self, short: int, peer: _Peer) -> None:
        left, spare = _BYTES_PER_CYCLE, self._spare(short)
        backlog = peer.backlog
        while backlog and spare > 0 and left > 0:
            message = backlog.popleft()
            cost = _cost(message)
            peer.cost -= cost
            left -= cost
            spare -= 1
            self.sent += self._send(short, message)
        if not backlog:
            del self._waiting[short]

    def _tell(self) -> None:
        changes, self._pubsub.changes = self._pubsub.changes, {}
        own = self._own
        added: list[Name] = []
        removed: list[Name] = []
        for (kind, name), count in changes.items():
            own.change(kind, name, count)
            (added if count > 0 else removed).extend([(kind, name)] * abs(count))
        asked, self._asks_all = self._asks_all, own.cost > (self._limit // 2 if self._asks_all else self._limit)
        if asked != self._asks_all:
            for short in self._peers:
                self._send(short, self._whole())
        elif not asked and (added or removed):
            for short in self._peers:
                self._send(short, Interest(False, tuple(added), tuple(removed)))

    def _whole(self) -> Interest:
        """All that this node's clients listen to."""
        return Interest(True, ((EVERYTHING, b""),) if self._asks_all else tuple(self._own.rows()))

    def on_link(self, short: int, up: bool) -> None:
        """The link to a member has come up, or has ended."""
        if up:
            self._peers[short] = _Peer()
            self._waiting.pop(short, None)
            self._send(short, self._whole())
        else:
            self._peers.pop(short, None)
            self._waiting.pop(short, None)

    # -- what peers say ----------------------------------------------------------------------------

    def on_interest(self, short: int, message: Interest) -> None:
        """A peer tells what it wants. ProtocolError for nonsense."""
        peer = self._peers.get(short)
        if peer is None:
            return
        if message.reset:
            peer.names = Names()
        names = peer.names
        for kind, name in message.added:
            if kind == EVERYTHING:
                names.everything = True
            elif kind not in _KINDS:
                raise ProtocolError(f"Interest of kind {kind}")
            else:
                names.change(kind, name, 1)
        for kind, name in message.removed:
            if kind not in _KINDS or not names.change(kind, name, -1):
                raise ProtocolError("Interest takes back what was not told")
        if names.cost > 2 * self._limit:
            raise ProtocolError("Interest of too many names")

    def on_publish(self, short: int, message: Publish) -> None:
        """A message for this node's subscribers."""
        self.received += 1
        if message.kind == SHARD_CHANNEL:
            self._pubsub.publish_shard(message.channel, message.message)
        else:
            self._pubsub.publish(message.channel, message.message)

    def stats(self) -> dict[str, int]:
        """Counters for metrics."""
        return {
            "publishes_sent": self.sent,
            "publishes_received": self.received,
            "publishes_dropped": self.dropped,
            "publishes_waiting": sum(len(peer.backlog) for peer in self._peers.values()),
            "publish_bytes_waiting": sum(peer.cost for peer in self._peers.values()),
            "interest_bytes": sum(peer.names.cost for peer in self._peers.values()),
        }

    def check_invariants(self) -> None:
        """Between cycles everything is told."""
        assert not self._pubsub.changes
        self._own.check_invariants()
        for short, peer in self._peers.items():
            peer.names.check_invariants()
            assert peer.cost == sum(map(_cost, peer.backlog))
            assert bool(peer.backlog) == (short in self._waiting)
