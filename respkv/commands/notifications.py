"""Keyspace events: what a command tells those who listen on ``__keyspace@N__`` and ``__keyevent@N__`` channels.

The events of a command follow from its row, its words, its effects and what the view showed before the effects;
handlers know nothing of them. Names, classes and order are those of Redis 7.4 (those of HGETDEL, HGETEX and HSETEX
of Redis 8.0, of MSETEX of Redis 8.4). Events of expiry come from where the expired form is put.

A key whose time has come is put in its expired form before the command (or transaction) that met it takes effect:
``expired`` comes before all events of that command, where Redis sends it between those of two keys of an MSET.
Nothing here runs while nobody asks for events.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Final

from respkv.base.errors import BlockRequest, ReadMiss
from respkv.commands.bitfield import only_grows
from respkv.commands.pubsub import EXPIRED, GENERIC, HASH, KEY_MISS, NEW_KEY, STRING, PubSub
from respkv.commands.spec import CommandSpec
from respkv.commands.string_set import parse_set_options
from respkv.keyspace import effects as fx
from respkv.keyspace.apply import Applier
from respkv.keyspace.keyspace import Keyspace
from respkv.keyspace.view import OverlayView, View
from respkv.resp.reply import Reply

#: class, event, key, logical database: the arguments of ``PubSub.notify``
Event = tuple[int, bytes, bytes, int]
Walk = Generator[BlockRequest | None, None, tuple[Reply, fx.Effects]]

#: What is told of a string that was put, by command; all others say "set".
_STRING_EVENTS: Final = {
    "append": b"append",
    "bitfield": b"setbit",
    "decr": b"incrby",
    "decrby": b"incrby",
    "incr": b"incrby",
    "incrby": b"incrby",
    "incrbyfloat": b"incrbyfloat",
    "setbit": b"setbit",
    "setrange": b"setrange",
}
#: Commands that put a string with an expiry of its own; one in the past deletes the key.
_WITH_EXPIRY: Final = frozenset({"cas", "msetex", "psetex", "rkv.set", "set", "setex"})
#: What is told of a hash whose fields were written, by command; all others say "hset".
_HASH_EVENTS: Final = {
    "hexpire": b"hexpire",
    "hexpireat": b"hexpire",
    "hincrby": b"hincrby",
    "hincrbyfloat": b"hincrbyfloat",
    "hpersist": b"hpersist",
    "hpexpire": b"hexpire",
    "hpexpireat": b"hexpire",
}
#: Commands that look their first key up as a reader does, and then write.
_READ_FIRST: Final = frozenset({"getdel", "getex", "getset"})
#: Readers that say nothing when the key is absent.
_QUIET_READERS: Final = ("memory|", "object|")


def apply_and_tell(
    spec: CommandSpec, argv: list[bytes], effects: fx.Effects, view: View, applier: Applier, pubsub: PubSub
) -> None:
    """Apply the effects of one command and send its events. May raise ReadMiss; then neither has been done.

    What readers met after its time may have been expired, and told, even then.
    """
    events = events_of(spec, argv, effects, view, pubsub.events)
    if view.keyspace.sighted:
        expire_sighted(applier)
        events = events_of(spec, argv, effects, view, pubsub.events)
    if effects:
        applier.apply(effects)
    for event in events:
        pubsub.notify(*event)


def telling_walk(
    walk: Walk, spec: CommandSpec, argv: list[bytes], view: View, applier: Applier, pubsub: PubSub
) -> Walk:
    """``walk``, and at its end the events of the command: walks write nothing, but they meet absent keys."""
    result = yield from walk
    while True:
        try:
            if view.keyspace.sighted:
                expire_sighted(applier)
            events = events_of(spec, argv, fx.NONE, view, pubsub.events)
        except ReadMiss as miss:
            yield miss.request
        else:
            break
    for event in events:
        pubsub.notify(*event)
    return result


def expire_sighted(applier: Applier) -> None:
    """Put the expired form of what readers met after its time, unless the disk is full. May raise ReadMiss."""
    keyspace = applier.keyspace
    if keyspace.engine.refusal() is not None:
        return
    for internal in list(keyspace.sighted):
        applier.expire_now(internal)
        del keyspace.sighted[internal]


def events_of(spec: CommandSpec, argv: list[bytes], effects: fx.Effects, view: View, wanted: int) -> list[Event]:
    """The events of a command whose effects ``view`` does not show yet. May raise ReadMiss.

    ``wanted`` are the bits of ``PubSub.events``: keymiss is looked for only if it is among them. O(effects).
    """
    keyspace = view.keyspace
    hits, misses = keyspace.hits, keyspace.misses
    try:
        events = _misses(spec, argv, view) if wanted & KEY_MISS else []
        if effects:
            events += _changes(spec.name, argv, effects, view)
    finally:
        # A command's look-ups count once, however often its events are worked out.
        keyspace.hits, keyspace.misses = hits, misses
    return events


def _logical(view: View, stored_db: int) -> int:
    """The number by which clients know a stored database, inside a transaction after its own SWAPDB."""
    stored = view.pending.stored if isinstance(view, OverlayView) else None
    return (stored or view.keyspace.stored).index(stored_db)


def _misses(spec: CommandSpec, argv: list[bytes], view: View) -> list[Event]:
    """``keymiss`` for each key that was read and is absent."""
    if spec.name.startswith(_QUIET_READERS):
        return []
    read = [argv[index] for keys in spec.keys if "RO" in keys.flags for index in keys.keys(argv)]
    name = spec.name
    if (
        name in _READ_FIRST
        or (name == "set" and parse_set_options(argv, 3).get)
        or (name == "bitfield" and all(word.upper() == b"GET" for word in argv[2::3]))
    ):
        read.append(argv[1])
    return [(KEY_MISS, b"keymiss", key, _logical(view, view.db)) for key in read if view.row(key) is None]


def _changes(name: str, argv: list[bytes], effects: fx.Effects, view: View) -> list[Event]:
    operation, db, key = effects[0][:3]
    if operation in (fx.FLUSH, fx.SWAP):
        return []
    number, other = _logical(view, view.db), _logical(view, db)
    if name in ("rename", "renamenx"):
        return [
            (NEW_KEY, b"new", argv[2], number),
            (GENERIC, b"rename_from", argv[1], number),
            (GENERIC, b"rename_to", argv[2], number),
        ]
    if name == "copy":
        return [(NEW_KEY, b"new", argv[2], other), (GENERIC, b"copy_to", argv[2], other)]
    if name == "move":
        return [
            (NEW_KEY, b"new", key, other),
            (GENERIC, b"move_from", key, number),
            (GENERIC, b"move_to", key, other),
        ]
    if name == "restore" and (len(effects) > 1 or operation == fx.PUT):
        return [(NEW_KEY, b"new", key, number), (GENERIC, b"restore", key, number)]
    if operation in (fx.PUT_ELEMENT, fx.REMOVE_ELEMENT):
        return _hash_changes(name, argv, effects, view)
    return _key_changes(name, argv, effects, view)


def _key_changes(name: str, argv: list[bytes], effects: fx.Effects, view: View) -> list[Event]:
    """Strings that are put, keys that go or get another expiry, one after the other."""
    number = _logical(view, view.db)
    word = _STRING_EVENTS.get(name, b"set")
    may_expire = name in _WITH_EXPIRY and not _keeps_expiry(name, argv)
    events: list[Event] = []
    there: dict[bytes, bool] = {}
    for effect in effects:
        operation, _, key = effect[:3]
        exists = there[key] if key in there else view.row(key) is not None
        lapsed = operation == fx.DELETE and name in _WITH_EXPIRY
        if operation == fx.SUPERSEDE:
            operation = fx.DELETE if effect[3] is None else fx.PUT
        if operation == fx.PUT or lapsed:
            if not exists:
                events.append((NEW_KEY, b"new", key, number))
            if name != "bitfield" or not only_grows(argv, view):
                events.append((STRING, word, key, number))
            if may_expire and (lapsed or effect[4]):
                events.append((GENERIC, b"expire", key, number))
            if lapsed:
                events.append((EXPIRED, b"expired", key, number))
            there[key] = not lapsed
        elif exists and operation == fx.DELETE:
            events.append((GENERIC, b"del", key, number))
            there[key] = False
        elif exists:
            events.append((GENERIC, b"expire" if effect[3] else b"persist", key, number))
    return events


def _keeps_expiry(name: str, argv: list[bytes]) -> bool:
    if name == "set":
        return len(argv) > 3 and parse_set_options(argv, 3).keep_ttl
    return name == "msetex" and any(word.upper() == b"KEEPTTL" for word in argv[2 + 2 * int(argv[1]) :])


def _hash_changes(name: str, argv: list[bytes], effects: fx.Effects, view: View) -> list[Event]:
    """Fields of one hash: one event, however many they are; ``del`` when the last one goes."""
    key, number = effects[0][2], _logical(view, view.db)
    fields = view.hash(key)
    removed = [effect[0] for effect in effects].count(fx.REMOVE_ELEMENT)
    written = removed < len(effects)
    if fields is None and not written:
        return []
    events: list[Event] = []
    if fields is None:
        events.append((NEW_KEY, b"new", key, number))
    if name == "hsetex":
        events.append((HASH, b"hset", key, number))
        # The words before FIELDS are one option each, but for the values of expiries.
        options = [word.upper() for word in argv[2:6]]
        expiring = any(word in (b"EX", b"PX", b"EXAT", b"PXAT") for word in options[: options.index(b"FIELDS")])
        if removed or expiring:
            events.append((HASH, b"hdel" if removed else b"hexpire", key, number))
    elif removed:
        events.append((HASH, b"hdel", key, number))
    elif name == "hgetex":
        events.append((HASH, b"hpersist" if argv[2].upper() == b"PERSIST" else b"hexpire", key, number))
    else:
        events.append((HASH, _HASH_EVENTS.get(name, b"hset"), key, number))
    if fields is not None and not written and fields.count() <= removed:
        events.append((GENERIC, b"del", key, number))
    return events


class ExpiryEvents:
    """Tells of keys and fields that expire. ``expired`` is handed to the applier while somebody wants to know.

    Fields of one hash that expire in one cycle make one event. ``tells(key)``: whether it is this node that tells of
    the key; on a ring all replicas see it expire, and one tells.
    """

    __slots__ = ("_now_ms", "_tells", "_told", "keyspace", "pubsub")

    def __init__(self, keyspace: Keyspace, pubsub: PubSub, tells: Callable[[bytes], bool] | None = None) -> None:
        self._tells = tells
        self.keyspace = keyspace
        self.pubsub = pubsub
        self._now_ms = 0
        #: hashes of which this cycle has told
        self._told: dict[tuple[int, bytes], None] = {}

    def expired(self, db: int, key: bytes, field: bytes | None, gone: bool) -> None:
        """A key (or a field of it, perhaps its last) of a stored database has been put in the expired form."""
        keyspace, notify = self.keyspace, self.pubsub.notify
        if self._tells is not None and not self._tells(key):
            return
        if db not in keyspace.stored:
            return  # left over from a time with more databases: no client can name it
        number = keyspace.stored.index(db)
        if field is None:
            notify(EXPIRED, b"expired", key, number)
            return
        if self._now_ms != keyspace.now_ms:
            self._now_ms = keyspace.now_ms
            self._told.clear()
        if (db, key) not in self._told:
            self._told[db, key] = None
            notify(HASH, b"hexpired", key, number)
        if gone:
            notify(GENERIC, b"del", key, number)
            del self._told[db, key]
