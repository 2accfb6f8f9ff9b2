"""Publish and subscribe: channels, patterns, shard channels, keyspace events.

``PubSub`` owns who listens to what. Invariants: a session stands in ``channels[c]`` exactly when ``c`` is in
``session.channels``, and alike for patterns; no subscriber table is empty. Messages are encoded once per protocol
and handed to the sessions in the order in which they subscribed; bounds on what a slow reader may pile up are the
server's (client-output-buffer-limit).

Shard channels are kept apart, with counts of their own. On one node they behave like channels.

On a ring a message goes to the subscribers of every node (``others``). The plain face counts them all, as far as nodes
have told each other by then; the cluster face those of its node, as Redis Cluster does, whose clients add up.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Protocol

from respkv.commands.glob import matches
from respkv.commands.help_text import bad_subcommand, help_reply
from respkv.commands.session import Session
from respkv.commands.spec import FAST, LOADING, NOSCRIPT, STALE, Arg, ArgType, CommandSpec, Flag, Form, KeySpec
from respkv.resp import errors
from respkv.resp.errors import fail
from respkv.resp.reply import NULL, Push, Reply, array, bulk, bulk_array, encode, integer
from respkv.wire.messages import CHANNEL, PATTERN, SHARD_CHANNEL

#: Classes of keyspace events by the letter of notify-keyspace-events, as bits of ``PubSub.events``.
KEYSPACE: Final = 1 << 0
KEYEVENT: Final = 1 << 1
GENERIC: Final = 1 << 2
STRING: Final = 1 << 3
LIST: Final = 1 << 4
SET: Final = 1 << 5
HASH: Final = 1 << 6
ZSET: Final = 1 << 7
EXPIRED: Final = 1 << 8
EVICTED: Final = 1 << 9
STREAM: Final = 1 << 10
KEY_MISS: Final = 1 << 11
MODULE: Final = 1 << 12
NEW_KEY: Final = 1 << 13
_ALL: Final = GENERIC | STRING | LIST | SET | HASH | ZSET | EXPIRED | EVICTED | STREAM | MODULE
_LETTERS: Final = {
    "K": KEYSPACE, "E": KEYEVENT, "g": GENERIC, "$": STRING, "l": LIST, "s": SET, "h": HASH, "z": ZSET,
    "x": EXPIRED, "e": EVICTED, "t": STREAM, "m": KEY_MISS, "d": MODULE, "n": NEW_KEY, "A": _ALL,
}  # fmt: skip

_Listeners = dict[bytes, dict[int, Session]]


class Others(Protocol):
    """The other nodes of a ring. Kinds are those of ``wire.messages``."""

    def publish(self, kind: int, channel: bytes, message: bytes) -> int:
        """Send a message to the nodes that have subscribers for it; how many subscribers they have told of."""

    def subscribers(self, kind: int) -> dict[bytes, int]:
        """Channel or pattern -> its subscribers at other nodes, as far as they have told. O(names)."""


def event_bits(letters: str) -> int:
    """The bits of a notify-keyspace-events value; letters it does not know count nothing."""
    bits = 0
    for letter in letters:
        bits |= _LETTERS.get(letter, 0)
    return bits


class PubSub:
    """Subscriptions of one node. ``events`` says which keyspace events are wanted (0: none).

    ``others`` is set on a ring; then ``changes`` gathers, by (kind, name), how many subscribers there are more or less.
    """

    __slots__ = ("changes", "channels", "events", "others", "patterns", "published", "shard_channels")

    def __init__(self) -> None:
        self.others: Others | None = None
        self.changes: dict[tuple[int, bytes], int] = {}
        self.channels: _Listeners = {}
        self.patterns: _Listeners = {}
        self.shard_channels: _Listeners = {}
        self.events = 0
        self.published = 0

    def set_events(self, letters: str) -> None:
        """Take a value of notify-keyspace-events; without K or E nothing is sent."""
        bits = event_bits(letters)
        self.events = bits if bits & (KEYSPACE | KEYEVENT) else 0

    # -- who listens -------------------------------------------------------------------------------

    def subscribe(self, session: Session, channel: bytes) -> None:
        """``session`` listens to ``channel``; nothing happens when it does already."""
        session.channels[channel] = None
        self._add(CHANNEL, self.channels, channel, session)

    def unsubscribe(self, session: Session, channel: bytes) -> None:
        """``session`` no longer listens to ``channel``."""
        session.channels.pop(channel, None)
        self._remove(CHANNEL, self.channels, channel, session)

    def subscribe_pattern(self, session: Session, pattern: bytes) -> None:
        """``session`` listens to all channels that match ``pattern``."""
        session.patterns[pattern] = None
        self._add(PATTERN, self.patterns, pattern, session)

    def unsubscribe_pattern(self, session: Session, pattern: bytes) -> None:
        """``session`` no longer listens to ``pattern``."""
        session.patterns.pop(pattern, None)
        self._remove(PATTERN, self.patterns, pattern, session)

    def subscribe_shard(self, session: Session, channel: bytes) -> None:
        """``session`` listens to a shard channel."""
        session.shard_channels[channel] = None
        self._add(SHARD_CHANNEL, self.shard_channels, channel, session)

    def unsubscribe_shard(self, session: Session, channel: bytes) -> None:
        """``session`` no longer listens to a shard channel."""
        session.shard_channels.pop(channel, None)
        self._remove(SHARD_CHANNEL, self.shard_channels, channel, session)

    def _add(self, kind: int, table: _Listeners, name: bytes, session: Session) -> None:
        listeners = table.setdefault(name, {})
        if session.id not in listeners:
            listeners[session.id] = session
            self._note(kind, name, 1)

    def _remove(self, kind: int, table: _Listeners, name: bytes, session: Session) -> None:
        listeners = table.get(name)
        if listeners is not None and listeners.pop(session.id, None) is not None:
            if not listeners:
                del table[name]
            self._note(kind, name, -1)

    def _note(self, kind: int, name: bytes, change: int) -> None:
        if self.others is not None:
            self.changes[kind, name] = self.changes.get((kind, name), 0) + change

    def shards_of(self, session: Session) -> list[bytes]:
        """The shard channels of a session."""
        return list(session.shard_channels)

    def drop_session(self, session: Session) -> None:
        """The session is gone, or wants none of its subscriptions. O(its subscriptions)."""
        for channel in list(session.channels):
            self.unsubscribe(session, channel)
        for pattern in list(session.patterns):
            self.unsubscribe_pattern(session, pattern)
        for channel in self.shards_of(session):
            self.unsubscribe_shard(session, channel)

    def clients(self) -> int:
        """Connections with at least one subscription. O(subscriptions)."""
        found: dict[int, None] = {}
        for table in (self.channels, self.patterns, self.shard_channels):
            for listeners in table.values():
                found.update(dict.fromkeys(listeners))
        return len(found)

    # -- messages ----------------------------------------------------------------------------------

    def publish(self, channel: bytes, message: bytes) -> int:
        """Deliver to channel and pattern subscribers; how many deliveries were made. O(patterns + subscribers)."""
        self.published += 1
        count = 0
        listeners = self.channels.get(channel)
        if listeners:
            count += _deliver(listeners, b"message", (channel, message))
        for pattern, listeners in list(self.patterns.items()):
            if matches(pattern, channel):
                count += _deliver(listeners, b"pmessage", (pattern, channel, message))
        return count

    def publish_shard(self, channel: bytes, message: bytes) -> int:
        """Deliver to the subscribers of a shard channel."""
        self.published += 1
        listeners = self.shard_channels.get(channel)
        return _deliver(listeners, b"smessage", (channel, message)) if listeners else 0

    def elsewhere(self, kind: int, channel: bytes, message: bytes) -> int:
        """Send a message to other nodes of the ring; how many subscribers they have for it, as far as is known."""
        return 0 if self.others is None else self.others.publish(kind, channel, message)

    def notify(self, flags: int, event: bytes, key: bytes, db: int) -> None:
        """A key of logical database ``db`` saw ``event``, of the class(es) ``flags``: tell who wants to know."""
        events = self.events
        if not events & flags:
            return
        if events & KEYSPACE:
            self._tell(b"__keyspace@%d__:%b" % (db, key), event)
        if events & KEYEVENT:
            self._tell(b"__keyevent@%d__:%b" % (db, event), key)

    def _tell(self, channel: bytes, message: bytes) -> None:
        self.publish(channel, message)
        self.elsewhere(CHANNEL, channel, message)

    def stats(self) -> dict[str, int]:
        """Figures for metrics."""
        return {
            "channels": len(self.channels),
            "patterns": len(self.patterns),
            "shard_channels": len(self.shard_channels),
            "clients": self.clients(),
            "published": self.published,
        }

    def check_invariants(self) -> None:
        """Both directions agree and nothing empty is kept."""
        for table, own in ((self.channels, "channels"), (self.patterns, "patterns")):
            for name, listeners in table.items():
                assert listeners, name
                assert all(name in getattr(session, own) for session in listeners.values())
        for name, listeners in self.shard_channels.items():
            assert listeners, name
            assert all(name in session.shard_channels for session in listeners.values())


def _deliver(listeners: dict[int, Session], kind: bytes, parts: tuple[bytes, ...]) -> int:
    push = Push([bulk(kind), *map(bulk, parts)])
    frames: dict[int, bytes] = {}
    count = 0
    # A copy: a sink that refuses more output may drop its session while we are at it.
    for session in list(listeners.values()):
        frame = frames.get(session.proto)
        if frame is None:
            frame = frames[session.proto] = encode(push, session.proto)
        session.send(frame)
        count += 1
    return count


# -- commands --------------------------------------------------------------------------------------


def _answer(session: Session, word: bytes, names: Iterable[bytes | None], counts: Iterable[int]) -> Reply | None:
    """One item per name. They are messages of their own, so CLIENT REPLY OFF does not silence them."""
    items = [
        encode(Push([bulk(word), NULL if name is None else bulk(name), integer(count)]), session.proto)
        for name, count in zip(names, counts)
    ]
    session.recompute_plain()
    if session.reply_mode != "on":
        for item in items:
            session.send(item)
        return None
    return b"".join(items)


def _check_multi(session: Session, names: int) -> None:
    """Several items, or pushes, inside the array of EXEC would break the client's reading."""
    if session.multi is not None and (names != 1 or session.proto == 3):
        raise fail(errors.NOT_IN_MULTI)


def _both(session: Session) -> int:
    return len(session.channels) + len(session.patterns)


def subscribe(argv: list[bytes], session: Session) -> Reply | None:
    """SUBSCRIBE channel ..."""
    _check_multi(session, len(argv) - 1)
    counts = []
    for channel in argv[1:]:
        session.server.pubsub.subscribe(session, channel)
        counts.append(_both(session))
    return _answer(session, b"subscribe", argv[1:], counts)


def psubscribe(argv: list[bytes], session: Session) -> Reply | None:
    """PSUBSCRIBE pattern ..."""
    _check_multi(session, len(argv) - 1)
    counts = []
    for pattern in argv[1:]:
        session.server.pubsub.subscribe_pattern(session, pattern)
        counts.append(_both(session))
    return _answer(session, b"psubscribe", argv[1:], counts)


def ssubscribe(argv: list[bytes], session: Session) -> Reply | None:
    """SSUBSCRIBE shardchannel ..."""
    _check_multi(session, len(argv) - 1)
    pubsub = session.server.pubsub
    counts = []
    for channel in argv[1:]:
        pubsub.subscribe_shard(session, channel)
        counts.append(len(pubsub.shards_of(session)))
    return _answer(session, b"ssubscribe", argv[1:], counts)


def unsubscribe(argv: list[bytes], session: Session) -> Reply | None:
    """UNSUBSCRIBE [channel ...]"""
    names = argv[1:] or list(session.channels)
    _check_multi(session, len(names) or 1)
    counts = []
    for channel in names:
        session.server.pubsub.unsubscribe(session, channel)
        counts.append(_both(session))
    return _answer(session, b"unsubscribe", names or [None], counts or [_both(session)])


def punsubscribe(argv: list[bytes], session: Session) -> Reply | None:
    """PUNSUBSCRIBE [pattern ...]"""
    names = argv[1:] or list(session.patterns)
    _check_multi(session, len(names) or 1)
    counts = []
    for pattern in names:
        session.server.pubsub.unsubscribe_pattern(session, pattern)
        counts.append(_both(session))
    return _answer(session, b"punsubscribe", names or [None], counts or [_both(session)])


def sunsubscribe(argv: list[bytes], session: Session) -> Reply | None:
    """SUNSUBSCRIBE [shardchannel ...]"""
    pubsub = session.server.pubsub
    names = argv[1:] or pubsub.shards_of(session)
    _check_multi(session, len(names) or 1)
    counts = []
    for channel in names:
        pubsub.unsubscribe_shard(session, channel)
        counts.append(len(pubsub.shards_of(session)))
    return _answer(session, b"sunsubscribe", names or [None], counts or [0])


def publish(argv: list[bytes], session: Session) -> Reply:
    """PUBLISH channel message: how many clients received it."""
    pubsub = session.server.pubsub
    count = pubsub.publish(argv[1], argv[2])
    return integer(_counted(session, count, pubsub.elsewhere(CHANNEL, argv[1], argv[2])))


def spublish(argv: list[bytes], session: Session) -> Reply:
    """SPUBLISH shardchannel message"""
    pubsub = session.server.pubsub
    count = pubsub.publish_shard(argv[1], argv[2])
    return integer(_counted(session, count, pubsub.elsewhere(SHARD_CHANNEL, argv[1], argv[2])))


def _counted(session: Session, here: int, elsewhere: int) -> int:
    return here if session.cluster_face else here + elsewhere


def _table(session: Session, kind: int) -> dict[bytes, int]:
    """Channel or pattern -> subscribers: of the ring, or on the cluster face of this node. O(names)."""
    pubsub = session.server.pubsub
    own = {CHANNEL: pubsub.channels, SHARD_CHANNEL: pubsub.shard_channels, PATTERN: pubsub.patterns}[kind]
    found = {name: len(listeners) for name, listeners in own.items()}
    if pubsub.others is not None and not session.cluster_face:
        for name, count in pubsub.others.subscribers(kind).items():
            found[name] = found.get(name, 0) + count
    return found


def _active(argv: list[bytes], session: Session, kind: int) -> Reply:
    if len(argv) > 3:
        raise bad_subcommand("PUBSUB", argv[1])
    table = _table(session, kind)
    return bulk_array([channel for channel in table if len(argv) < 3 or matches(argv[2], channel)])


def pubsub_channels(argv: list[bytes], session: Session) -> Reply:
    """PUBSUB CHANNELS [pattern]: channels with at least one subscriber; patterns do not count."""
    return _active(argv, session, CHANNEL)


def pubsub_shardchannels(argv: list[bytes], session: Session) -> Reply:
    """PUBSUB SHARDCHANNELS [pattern]"""
    return _active(argv, session, SHARD_CHANNEL)


def _subscribers(argv: list[bytes], session: Session, kind: int) -> Reply:
    table = _table(session, kind)
    return array([part for name in argv[2:] for part in (bulk(name), integer(table.get(name, 0)))])


def pubsub_numsub(argv: list[bytes], session: Session) -> Reply:
    """PUBSUB NUMSUB [channel ...]: a flat array of channel and count."""
    return _subscribers(argv, session, CHANNEL)


def pubsub_shardnumsub(argv: list[bytes], session: Session) -> Reply:
    """PUBSUB SHARDNUMSUB [shardchannel ...]"""
    return _subscribers(argv, session, SHARD_CHANNEL)


def pubsub_numpat(argv: list[bytes], session: Session) -> Reply:
    """PUBSUB NUMPAT: how many different patterns are subscribed to."""
    return integer(len(_table(session, PATTERN)))


def pubsub_help(argv: list[bytes], session: Session) -> Reply:
    """PUBSUB HELP"""
    return help_reply(
        "PUBSUB",
        (
            "CHANNELS [<pattern>]",
            "    Return the currently active channels matching a <pattern> (default: '*').",
            "NUMPAT",
            "    Return number of subscriptions to patterns.",
            "NUMSUB [<channel> ...]",
            "    Return the number of subscribers for the specified channels, excluding",
            "    pattern subscriptions(default: no channels).",
            "SHARDCHANNELS [<pattern>]",
            "    Return the currently active shard level channels matching a <pattern> (default: '*').",
            "SHARDNUMSUB [<shardchannel> ...]",
            "    Return the number of subscribers for the specified shard level channel(s)",
        ),
    )


_LISTEN: Final = Flag.PUBSUB | NOSCRIPT | LOADING | STALE | Flag.BARRIER | Flag.IN_PUBSUB
_SAY: Final = Flag.PUBSUB | LOADING | STALE | FAST | Flag.MAY_REPLICATE
_ASK: Final = Flag.PUBSUB | LOADING | STALE
_SLOW: Final = ("pubsub", "slow")
_CHANNELS: Final = Arg("channel", flags=("multiple",))
_NOT_KEYS: Final = (KeySpec(1, -1, 1, flags=("not_key",)),)
_OPTIONAL: Final = ("optional", "multiple")
_PATTERN: Final = Arg("pattern", ArgType.PATTERN, flags=("optional",))
_COST: Final = "O(N) with N being the number of {}"

SUBCOMMANDS: Final = (
    CommandSpec(
        "pubsub|channels", pubsub_channels, -2, _ASK, acl=_SLOW, form=Form.SESSION, group="pubsub", since="2.8.0",
        complexity=_COST.format("active channels"), summary="Returns the active channels.", args=(_PATTERN,),
    ),
    CommandSpec(
        "pubsub|help", pubsub_help, 2, LOADING | STALE, acl=("slow",), form=Form.SESSION, group="pubsub",
        since="6.2.0", complexity="O(1)", summary="Returns helpful text about the different subcommands.",
    ),
    CommandSpec(
        "pubsub|numpat", pubsub_numpat, 2, _ASK, acl=_SLOW, form=Form.SESSION, group="pubsub", since="2.8.0",
        complexity="O(1)", summary="Returns a count of unique pattern subscriptions.",
    ),
    CommandSpec(
        "pubsub|numsub", pubsub_numsub, -2, _ASK, acl=_SLOW, form=Form.SESSION, group="pubsub", since="2.8.0",
        complexity=_COST.format("requested channels"), summary="Returns a count of subscribers to channels.",
        args=(Arg("channel", flags=_OPTIONAL),),
    ),
    CommandSpec(
        "pubsub|shardchannels", pubsub_shardchannels, -2, _ASK, acl=_SLOW, form=Form.SESSION, group="pubsub",
        since="7.0.0", complexity=_COST.format("active shard channels"),
        summary="Returns the active shard channels.", args=(_PATTERN,),
    ),
    CommandSpec(
        "pubsub|shardnumsub", pubsub_shardnumsub, -2, _ASK, acl=_SLOW, form=Form.SESSION, group="pubsub",
        since="7.0.0", complexity=_COST.format("requested shard channels"),
        summary="Returns the count of subscribers of shard channels.",
        args=(Arg("shardchannel", flags=_OPTIONAL),),
    ),
)  # fmt: skip

COMMANDS: Final = (
    CommandSpec(
        "subscribe", subscribe, -2, _LISTEN, acl=_SLOW, form=Form.SESSION, group="pubsub", since="2.0.0",
        complexity=_COST.format("channels"), summary="Listens for messages published to channels.",
        args=(_CHANNELS,),
    ),
    CommandSpec(
        "psubscribe", psubscribe, -2, _LISTEN, acl=_SLOW, form=Form.SESSION, group="pubsub", since="2.0.0",
        complexity=_COST.format("patterns"),
        summary="Listens for messages published to channels that match one or more patterns.",
        args=(Arg("pattern", ArgType.BLOCK, flags=("multiple",), args=(Arg("pattern", ArgType.PATTERN),)),),
    ),
    CommandSpec(
        "unsubscribe", unsubscribe, -1, _LISTEN, acl=_SLOW, form=Form.SESSION, group="pubsub", since="2.0.0",
        complexity=_COST.format("channels"), summary="Stops listening to messages posted to channels.",
        args=(Arg("channel", flags=_OPTIONAL),),
    ),
    CommandSpec(
        "punsubscribe", punsubscribe, -1, _LISTEN, acl=_SLOW, form=Form.SESSION, group="pubsub", since="2.0.0",
        complexity=_COST.format("patterns"),
        summary="Stops listening to messages published to channels that match one or more patterns.",
        args=(Arg("pattern", ArgType.PATTERN, flags=_OPTIONAL),),
    ),
    CommandSpec(
        "publish", publish, 3, _SAY, acl=("pubsub", "fast"), form=Form.SESSION, group="pubsub", since="2.0.0",
        complexity="O(N+M), N subscribers of the channel, M patterns", summary="Posts a message to a channel.",
        args=(Arg("channel"), Arg("message")),
    ),
    CommandSpec(
        "ssubscribe", ssubscribe, -2, _LISTEN, _NOT_KEYS, _SLOW, Form.SESSION, group="pubsub", since="7.0.0",
        complexity=_COST.format("shard channels"), summary="Listens for messages published to shard channels.",
        args=(Arg("shardchannel", flags=("multiple",)),),
    ),
    CommandSpec(
        "sunsubscribe", sunsubscribe, -1, _LISTEN, _NOT_KEYS, _SLOW, Form.SESSION, group="pubsub", since="7.0.0",
        complexity=_COST.format("shard channels"),
        summary="Stops listening to messages posted to shard channels.",
        args=(Arg("shardchannel", flags=_OPTIONAL),),
    ),
    CommandSpec(
        "spublish", spublish, 3, _SAY, (KeySpec(1, 1, 1, flags=("not_key",)),), ("pubsub", "fast"), Form.SESSION,
        group="pubsub", since="7.0.0", complexity="O(N), N subscribers of the shard channel",
        summary="Posts a message to a shard channel.", args=(Arg("shardchannel"), Arg("message")),
    ),
    CommandSpec(
        "pubsub", None, -2, acl=("slow",), form=Form.SESSION, group="pubsub", since="2.8.0",
        complexity="Depends on subcommand.", summary="A container for Pub/Sub commands.",
        subcommands=SUBCOMMANDS,
    ),
)  # fmt: skip
