"""What a sequence of commands shows of a server, and whether two servers showed the same.

A transcript holds the replies, the push messages, and what is stored at the end. Replies are compared byte for byte
except where Redis promises less: collections without an order are compared as sets, remaining lifetimes may differ
by the time the comparison takes, and values of one server alone (ids, clocks, memory) only by their type.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from compat.clients.raw import CLOSED, Closed, Frame, RawConnection, show
from compat.known import meant
from compat.sequences import Command, Step

CONTAINERS: Final = frozenset(
    b"ACL CLIENT CLUSTER COMMAND CONFIG DEBUG FUNCTION LATENCY MEMORY MODULE OBJECT PUBSUB SCRIPT SLOWLOG".split()
)
#: Arrays and maps of pairs in any order.
PAIRS: Final = frozenset({b"HGETALL", b"CONFIG GET"})
#: Arrays in any order.
BAGS: Final = frozenset({b"KEYS", b"HKEYS", b"HVALS", b"PUBSUB CHANNELS", b"ACL CAT", b"ACL USERS", b"SMEMBERS"})
#: Cursor and elements; the order and the cursor are the server's own.
SCANS: Final = frozenset({b"SCAN", b"HSCAN"})
#: Values only one server knows: the type must agree.
OWN_VALUES: Final = frozenset({
    b"TIME", b"LASTSAVE", b"RANDOMKEY", b"HRANDFIELD", b"INFO", b"CLIENT ID", b"CLIENT LIST", b"CLIENT INFO",
    b"MEMORY USAGE", b"OBJECT IDLETIME", b"OBJECT FREQ", b"OBJECT REFCOUNT", b"DEBUG OBJECT", b"DEBUG DIGEST",
    b"ACL GENPASS",
})  # fmt: skip
#: Largest accepted difference of remaining lifetimes, in the unit of the reply.
LIFETIMES: Final = {b"TTL": 2, b"EXPIRETIME": 2, b"PTTL": 2000, b"PEXPIRETIME": 2000}
SUBSCRIPTIONS: Final = frozenset(b"SUBSCRIBE PSUBSCRIBE SSUBSCRIBE UNSUBSCRIBE PUNSUBSCRIBE SUNSUBSCRIBE".split())
_IDENTITY: Final = frozenset({b"version", b"id"})
#: Databases whose contents are compared.
DATABASES: Final = (0, 1, 2, 3, 9, 15)
_LIFETIME_TOLERANCE_MS: Final = 2000


class Server(NamedTuple):
    """A server to observe and the kind of connection to do it with. It is emptied."""

    port: int
    connect: Callable[[str, int], RawConnection] = RawConnection
    host: str = "127.0.0.1"


class Reply(NamedTuple):
    """The answer to one command; ``queued``: the commands whose replies an EXEC carries."""

    command: Command
    frame: Frame
    queued: list[Command]
    at_s: float


class Stored(NamedTuple):
    """One key at the end: its kind, its value in canonical order, and its remaining lifetime (-1 none)."""

    kind: bytes
    value: Frame
    pttl: int


class Transcript(NamedTuple):
    """``stored``: by database and key; ``ended_s``: Unix time at which their lifetimes were read."""

    replies: list[Reply]
    pushes: list[Frame]
    stored: dict[tuple[int, bytes], Stored]
    ended_s: float = 0.0


def word(command: Command) -> bytes:
    """The command's name in upper case, the subcommand's with it."""
    if not command:
        return b""
    name = command[0].upper()
    return b"%b %b" % (name, command[1].upper()) if name in CONTAINERS and len(command) > 1 else name


class Session:
    """One connection and what must be known of its state to tell which frames answer which command."""

    def __init__(self, server: Server, protocol: int) -> None:
        self._server = server
        self._protocol = protocol
        self.pushes: list[Frame] = []
        self._subscribed: dict[bytes, set[bytes]] = {}
        self._queue: list[Command] | None = None
        self._connect()

    def _connect(self) -> None:
        self.connection = self._server.connect(self._server.host, self._server.port)
        if self._protocol == 3:
            greeting = self.connection.call("HELLO", "3")
            assert greeting.kind == "%", show(greeting)
        self._subscribed = {b"": set(), b"P": set(), b"S": set()}
        self._queue = None

    def run(self, command: Command) -> Reply:
        """Send one command and take its answer; CLOSED when the server hung up, and a new connection then."""
        try:
            self.connection.send(command)
        except Closed:
            return self._hung_up(command)
        return self.take(command)

    def run_together(self, commands: Sequence[Command]) -> list[Reply]:
        """Send all commands in one piece, then take the answers."""
        self.connection.send(*commands)
        return [self.take(command) for command in commands]

    def take(self, command: Command) -> Reply:
        """The answer to a command already sent."""
        try:
            frame = self._subscription(command) if word(command) in SUBSCRIPTIONS else self._next()
        except Closed:
            return self._hung_up(command)
        return Reply(command, frame, self._transaction(word(command), command, frame), time.time())

    def _hung_up(self, command: Command) -> Reply:
        self.connection.close()
        self._connect()
        return Reply(command, CLOSED, [], time.time())

    def _next(self) -> Frame:
        while (frame := self.connection.read()).kind == ">":
            self.pushes.append(frame)
        return frame

    def _subscription(self, command: Command) -> Frame:
        """SUBSCRIBE and its kin answer once for each name, in RESP3 with pushes only."""
        name = command[0].upper()
        letter = name[:1] if name[:1] in b"PS" and name not in (b"SUBSCRIBE",) else b""
        names = self._subscribed[letter]
        given = command[1:]
        left = len(given) or (max(1, len(names)) if name.endswith(b"UNSUBSCRIBE") else 1)
        answers = []
        while left:
            frame = self.connection.read()
            confirms = frame.kind in "*>" and frame.value and frame.value[0].value == name.lower()
            if frame.kind == ">" and not confirms:
                self.pushes.append(frame)
                continue
            answers.append(frame)
            left = left - 1 if confirms else 0
        if name.endswith(b"UNSUBSCRIBE"):
            names.difference_update(given or set(names))
        elif not answers[0].is_error():
            names.update(given)
        return answers[0] if len(answers) == 1 else Frame("several", answers)

    def _transaction(self, name: bytes, command: Command, frame: Frame) -> list[Command]:
        """Follow MULTI; the queued commands when this reply ends it."""
        queued = self._queue or []
        if name == b"MULTI" and frame.kind == "+" and self._queue is None:
            self._queue = []
        elif name in (b"EXEC", b"DISCARD", b"RESET"):
            self._queue = None
            if name == b"RESET":
                self._subscribed = {b"": set(), b"P": set(), b"S": set()}
            return queued if name == b"EXEC" else []
        elif self._queue is not None and frame == Frame("+", b"QUEUED"):
            self._queue.append(command)
        return []

    def close(self) -> None:
        self.connection.close()


def stored(server: Server) -> dict[tuple[int, bytes], Stored]:
    """Every key of the compared databases with kind, value and lifetime."""
    connection = RawConnection(server.host, server.port)
    for database in DATABASES:
        connection.send([b"SELECT", b"%d" % database], [b"KEYS", b"*"])
    listed = [(connection.read(), connection.read())[1] for _ in DATABASES]
    wanted = [(database, item.value) for database, keys in zip(DATABASES, listed, strict=True) for item in keys.value]
    kinds = {}
    for database, key in wanted:
        connection.send([b"SELECT", b"%d" % database], [b"TYPE", key], [b"PTTL", key])
        connection.read()
        kinds[database, key] = (connection.read().value, int(connection.read().value))
    found = {}
    for (database, key), (kind, pttl) in kinds.items():
        reader = b"HGETALL" if kind == b"hash" else b"GET"
        connection.send([b"SELECT", b"%d" % database], [reader, key])
        connection.read()
        found[database, key] = Stored(kind, canonical([reader, key], connection.read()), pttl)
    connection.close()
    return found


def observe(server: Server, protocol: int, commands: Sequence[Command]) -> Transcript:
    """Run commands one by one on an emptied server."""
    return _observe(server, protocol, [Step(0, command) for command in commands])


def observe_steps(server: Server, protocol: int, steps: Sequence[Step]) -> Transcript:
    """Run what several clients send on an emptied server: one client's commands in one piece (no subscriptions
    among them), those of several clients one by one."""
    return _observe(server, protocol, steps, together=all(step.client == 0 for step in steps))


def _observe(server: Server, protocol: int, steps: Sequence[Step], *, together: bool = False) -> Transcript:
    cleaner = RawConnection(server.host, server.port)
    emptied = cleaner.call("FLUSHALL")
    assert emptied == Frame("+", b"OK"), show(emptied)
    cleaner.close()
    sessions = [Session(server, protocol) for _ in range(1 + max((step.client for step in steps), default=0))]
    if together:
        replies = sessions[0].run_together([step.command for step in steps])
    else:
        replies = [sessions[step.client].run(step.command) for step in steps]
    pushes = [push for session in sessions for push in session.pushes]
    for session in sessions:
        session.close()
    return Transcript(replies, pushes, stored(server), time.time())


def canonical(command: Command, frame: Frame) -> Frame:
    """The reply with unordered collections sorted and values of one server alone blanked."""
    name = word(command)
    if frame.is_error() or frame is CLOSED:
        return frame
    if name in OWN_VALUES:
        return shape(frame)
    if not isinstance(frame.value, list):
        return frame
    if name in PAIRS:
        return Frame(frame.kind, _sorted_pairs(frame.value))
    if name in BAGS:
        return Frame(frame.kind, sorted(frame.value, key=repr))
    if name in SCANS and len(frame.value) == 2:
        items = frame.value[1]
        inner = _sorted_pairs(items.value) if name == b"HSCAN" else sorted(items.value, key=repr)
        return Frame(frame.kind, [frame.value[0], Frame(items.kind, inner)])
    if name == b"HELLO":
        return Frame(frame.kind, _without_identity(frame.value))
    return frame


def _sorted_pairs(items: list[Frame]) -> list[Frame]:
    pairs = sorted(zip(items[::2], items[1::2], strict=True), key=repr)
    return [part for pair in pairs for part in pair]


def _without_identity(items: list[Frame]) -> list[Frame]:
    blanked = list(items)
    for position in range(0, len(items) - 1, 2):
        if items[position].value in _IDENTITY:
            blanked[position + 1] = Frame(items[position + 1].kind, b"")
    return blanked


def shape(frame: Frame) -> Frame:
    """The types of a reply without its values."""
    if isinstance(frame.value, list):
        return Frame(frame.kind, [shape(item) for item in frame.value])
    return Frame(frame.kind, None if frame.value is None else b"")


def same_reply(ours: Reply, theirs: Reply) -> bool:
    """Whether two answers to one command agree, or differ as they are meant to."""
    if ours.queued and _is_array(ours.frame) and _is_array(theirs.frame):
        if not len(ours.frame.value) == len(theirs.frame.value) == len(ours.queued):
            return False
        return all(
            same_reply(Reply(command, mine, [], ours.at_s), Reply(command, other, [], theirs.at_s))
            for command, mine, other in zip(ours.queued, ours.frame.value, theirs.frame.value, strict=True)
        )
    name = word(ours.command)
    if name in LIFETIMES and ours.frame.kind == theirs.frame.kind == ":":
        return _same_lifetime(ours, theirs, LIFETIMES[name], 1 if name[:1] != b"P" else 1000)
    return canonical(ours.command, ours.frame) == canonical(theirs.command, theirs.frame) or meant(
        name, ours.command, ours.frame, theirs.frame
    )


def _is_array(frame: Frame) -> bool:
    return frame.kind == "*" and isinstance(frame.value, list)


def _same_lifetime(ours: Reply, theirs: Reply, tolerance: int, per_second: int) -> bool:
    """Equal within the tolerance, as a point in time or relative to the moment of each reply."""
    mine, other = int(ours.frame.value), int(theirs.frame.value)
    if mine < 0 or other < 0:
        return mine == other
    passed = int((ours.at_s - theirs.at_s) * per_second)
    return abs(mine - other) <= tolerance or abs(mine - other - passed) <= tolerance


def differences(ours: Transcript, theirs: Transcript) -> list[str]:
    """What differs, one line each; ``theirs`` is Redis."""
    found = []
    for number, (mine, other) in enumerate(zip(ours.replies, theirs.replies, strict=True)):
        if not same_reply(mine, other):
            text = b" ".join(mine.command).decode("latin-1")
            found.append(f"#{number} {text!r}: Redis {show(other.frame)}, respkv {show(mine.frame)}")
    if ours.pushes != theirs.pushes:
        found.append(
            f"pushes: Redis {[show(item) for item in theirs.pushes]}, respkv {[show(item) for item in ours.pushes]}"
        )
    for place in sorted(ours.stored.keys() | theirs.stored.keys()):
        mine_at, other_at = ours.stored.get(place), theirs.stored.get(place)
        if not _same_stored(mine_at, other_at, int((ours.ended_s - theirs.ended_s) * 1000)):
            found.append(f"stored {place}: Redis {_show_stored(other_at)}, respkv {_show_stored(mine_at)}")
    return found


def _same_stored(ours: Stored | None, theirs: Stored | None, passed_ms: int) -> bool:
    """``passed_ms``: how much later ours was read. A lifetime counts from the command or to a point in time."""
    if ours is None or theirs is None:
        return ours is theirs
    if ours[:2] != theirs[:2] or (ours.pttl < 0) != (theirs.pttl < 0):
        return False
    later = ours.pttl - theirs.pttl
    return abs(later) <= _LIFETIME_TOLERANCE_MS or abs(later + passed_ms) <= _LIFETIME_TOLERANCE_MS


def _show_stored(item: Stored | None) -> str:
    return "nothing" if item is None else f"{item.kind.decode()} {show(item.value)} lives {item.pttl} ms"
