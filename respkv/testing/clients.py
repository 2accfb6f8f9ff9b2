"""Clients of a simulated cluster: random commands on few keys, and a history of what was asked and answered.

Each client has one connection and one request under way, or a few sent together (a *burst*), a level it asks for, and
moves on to another node when its connection ends or an answer takes too long. Every operation is kept with the true
times of its beginning and end and with its outcome: *ok*, *failed* (the answer says that nothing was applied) or
*unknown* (it says so, or there is none).

Values carry tokens that are unique in the run, so that a value read tells which write it came from. The first letter
of a key is what it is used for: ``s`` plain strings, ``a`` strings appended to, ``n`` counters, ``h`` hashes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import repeat
from typing import Any, Final

import hiredis

from respkv.env.rng import Rng
from respkv.replication.levels import ALL, EVENTUAL, NAMES, QUORUM
from respkv.testing.network import Address, Endpoint, Network
from respkv.testing.node_driver import encode_request
from respkv.testing.schedule import Schedule, Trace

OK: Final = "ok"
FAILED: Final = "failed"
UNKNOWN: Final = "unknown"
#: A client gives up waiting after this long, microseconds.
PATIENCE_US: Final = 10_000_000
RECONNECT_US: Final = (20_000, 300_000)
#: What an error reply must begin with for the outcome to be unknown.
_UNKNOWN_CODE: Final = "TIMEOUT"
STRINGS: Final = tuple(f"s{number}".encode() for number in range(5))
APPENDED: Final = tuple(f"a{number}".encode() for number in range(2))
COUNTERS: Final = tuple(f"n{number}".encode() for number in range(2))
HASHES: Final = tuple(f"h{number}".encode() for number in range(3))
FIELDS: Final = tuple(f"f{number}".encode() for number in range(4))
_SHORT_MS: Final = (100, 4_000)


@dataclass(slots=True)
class Operation:
    """One request of a client. Times are true microseconds; ``end_us`` is -1 while there is no answer."""

    number: int
    client: str
    node: str
    level: int
    argv: tuple[bytes, ...]
    start_us: int
    #: the least that any node's wall clock showed when it began, the most that any had ever shown when it ended, ms
    low_ms: int = 0
    high_ms: int = 0
    end_us: int = -1
    outcome: str = UNKNOWN
    reply: Any = None
    #: number of the first operation that was sent together with this one
    burst: int = -1
    #: number of the MULTI of the transaction that this one is part of
    transaction: int = -1

    @property
    def name(self) -> str:
        """The command, in lower case."""
        return self.argv[0].decode().lower()

    def __repr__(self) -> str:
        words = b" ".join(word[:24] for word in self.argv).decode("latin-1")
        return (
            f"#{self.number} {self.client}@{self.node} {NAMES.get(self.level, '-')} [{words}] "
            f"{self.start_us}..{self.end_us} {self.outcome} {self.reply!r:.80}"
        )


#: How often which kind of request is made.
USUAL: Final[dict[str, int]] = {
    "set": 20, "get": 24, "setpx": 4, "mset": 4, "del": 6, "expire": 3, "append": 10, "geta": 8, "dela": 1,
    "incr": 8, "getn": 4, "hset": 12, "hget": 8, "hdel": 4, "hgetall": 8, "delh": 3, "expireh": 1, "expiref": 1,
    "flushall": 0, "mget": 0, "exec": 0,
}  # fmt: skip


@dataclass
class Mix:
    """How often which command is sent, how large values are, how long a client rests after an answer."""

    weights: dict[str, int] = field(default_factory=lambda: dict(USUAL))
    pad_bytes: int = 0
    pause_us: tuple[int, int] = (5_000, 150_000)
    levels: dict[int, int] = field(default_factory=lambda: {EVENTUAL: 3, QUORUM: 6, ALL: 1})
    #: of how many requests in a hundred others follow at once, and how many there are at most together
    burst_percent: int = 20
    burst_max: int = 8


class Workload:
    """Makes requests. One for all clients of a run."""

    def __init__(self, rng: Rng, mix: Mix) -> None:
        self._rng = rng
        self.mix = mix
        self._names = [name for name, weight in mix.weights.items() if weight]
        self._weights = [mix.weights[name] for name in self._names]
        self._tokens = 0

    def token(self) -> bytes:
        """A value that no other write of the run has, perhaps padded."""
        self._tokens += 1
        pad = self._rng.randrange(self.mix.pad_bytes + 1) if self.mix.pad_bytes else 0
        return b"<%d>" % self._tokens + b"." * pad

    def level(self) -> int:
        """A level for a connection."""
        return self._rng.choices(list(self.mix.levels), list(self.mix.levels.values()))[0]

    def learn(self, operation: Operation) -> None:
        """An answer has come: later requests may be made of it."""

    def burst(self) -> list[tuple[bytes, ...]]:
        """Requests to be sent together."""
        mix = self.mix
        several = self._rng.randrange(100) < mix.burst_percent
        count = self._rng.randrange(2, mix.burst_max + 1) if several else 1
        return [request for _ in range(count) for request in self._whole(self.next())]

    def _whole(self, request: tuple[bytes, ...]) -> list[tuple[bytes, ...]]:
        """A transaction on fields of one hash in place of EXEC."""
        if request != (b"EXEC",):
            return [request]
        rng, key, inner = self._rng, self._rng.choice(HASHES), []
        for name in rng.sample(FIELDS, rng.randrange(2, len(FIELDS) + 1)):
            inner.append(self._of_hash(rng.choice(("hset", "hset", "hset", "hget", "hdel")), key, name, b""))
        return [(b"MULTI",), *inner, (b"EXEC",)]

    def next(self) -> tuple[bytes, ...]:
        """A request."""
        rng = self._rng
        name = rng.choices(self._names, self._weights)[0]
        key = rng.choice(STRINGS)
        short = b"%d" % rng.randrange(*_SHORT_MS)
        if name == "set":
            return (b"SET", key, self.token())
        if name == "setpx":
            return (b"SET", key, self.token(), b"PX", short)
        if name == "mset":
            chosen = rng.sample(STRINGS, 2)
            return (b"MSET", *(word for each in chosen for word in (each, self.token())))
        if name == "mget":
            return (b"MGET", *STRINGS)
        if name == "expire":
            return (b"PEXPIRE", key, short)
        if name in ("get", "del"):
            return (name.upper().encode(), key)
        if name in ("append", "geta", "dela"):
            key = rng.choice(APPENDED)
            return (b"APPEND", key, self.token()) if name == "append" else (name[:3].upper().encode(), key)
        if name in ("incr", "getn"):
            return (b"INCR" if name == "incr" else b"GET", rng.choice(COUNTERS))
        if name in ("flushall", "exec"):
            return (name.upper().encode(),)
        return self._of_hash(name, rng.choice(HASHES), rng.choice(FIELDS), short)

    def _of_hash(self, name: str, key: bytes, name_of_field: bytes, short: bytes) -> tuple[bytes, ...]:
        if name == "hset":
            return (b"HSET", key, name_of_field, self.token())
        if name in ("hget", "hdel"):
            return (name.upper().encode(), key, name_of_field)
        if name == "hgetall":
            return (b"HGETALL", key)
        if name == "delh":
            return (b"DEL", key)
        if name == "expiref":
            return (b"HPEXPIRE", key, short, b"FIELDS", b"1", name_of_field)
        assert name == "expireh", name
        return (b"PEXPIRE", key, short)


class World:
    """What all clients share. ``wall_ms``: the least wall clock of all nodes now, and the greatest ever."""

    def __init__(
        self,
        *,
        schedule: Schedule,
        network: Network,
        trace: Trace,
        rng: Rng,
        workload: Workload,
        addresses: dict[str, Address],
        wall_ms: Callable[[], tuple[int, int]],
        ring: bool,
    ) -> None:
        self.schedule = schedule
        self.network = network
        self.trace = trace
        self.rng = rng
        self.workload = workload
        self.addresses = addresses
        self.wall_ms = wall_ms
        self.ring = ring
        self.history: list[Operation] = []

    def begin(self, client: str, node: str, level: int, argv: tuple[bytes, ...]) -> Operation:
        """An operation begins now."""
        low_ms, _ = self.wall_ms()
        operation = Operation(len(self.history), client, node, level, argv, self.schedule.now_us, low_ms)
        self.history.append(operation)
        return operation

    def end(self, operation: Operation, reply: Any) -> None:
        """Its answer is there."""
        operation.end_us = self.schedule.now_us
        operation.high_ms = self.wall_ms()[1]
        operation.reply = reply
        if not isinstance(reply, hiredis.ReplyError):
            operation.outcome = OK
        elif str(reply).startswith(_UNKNOWN_CODE):
            operation.outcome = UNKNOWN
        else:
            operation.outcome = FAILED
        self.workload.learn(operation)
        self.trace.line(f"{operation!r}")


class Client:
    """One client. ``script`` instead of the workload: those requests, each until it is answered ok, then the end."""

    def __init__(
        self,
        name: str,
        world: World,
        *,
        script: list[tuple[bytes, ...]] | None = None,
        node: str = "",
        level: int = 0,
    ) -> None:
        self.name = name
        self.level = level
        self.stopping = False
        self.timeouts = 0
        #: what is under way, oldest first
        self.operations: deque[Operation] = deque()
        #: of the transaction under way: what has been queued by the server
        self._queued: list[Operation] = []
        self._world = world
        self._script = script
        self._fixed = node
        self._node = node
        self._end: Endpoint | None = None
        self._reader = hiredis.Reader()
        self._unsent = b""
        self._greeting = False
        self._attempt = 0
        self._rng = world.rng

    @property
    def done(self) -> bool:
        """Nothing is under way, and nothing more will be asked."""
        return not self.operations and (self.stopping or (self._script is not None and not self._script))

    def start(self) -> None:
        """Connect and begin."""
        world = self._world
        self._node = self._fixed or self._rng.choice(list(world.addresses))
        self._attempt += 1
        attempt = self._attempt
        world.network.dial(self.name, world.addresses[self._node], lambda end, reason: self._dialed(attempt, end))

    def _dialed(self, attempt: int, end: Endpoint | None) -> None:
        if attempt != self._attempt:
            if end is not None:
                end.close()
            return
        if end is None:
            self._again()
            return
        self._end = end
        self._reader = hiredis.Reader()
        self._unsent = b""
        end.on_ready = self._on_ready
        if self._script is None:
            self.level = self._world.workload.level()
        if self._world.ring:
            self._greeting = True
            self._send((b"RKV.LEVEL", NAMES[self.level].upper().encode()))
            self._watch(None)
        else:
            self._next()

    def _send(self, *requests: tuple[bytes, ...]) -> None:
        assert self._end is not None
        data = self._unsent + b"".join(encode_request(*argv) for argv in requests)
        self._unsent = data[self._end.send(data) :]

    def _next(self) -> None:
        if self.stopping or (self._script is not None and not self._script):
            self._leave()
            return
        world = self._world
        requests = self._script[:1] if self._script is not None else world.workload.burst()
        self.operations += [world.begin(self.name, self._node, self.level, argv) for argv in requests]
        transaction = -1
        for operation in self.operations:
            operation.burst = self.operations[0].number
            transaction = operation.number if operation.name == "multi" else transaction
            operation.transaction = transaction
            transaction = -1 if operation.name == "exec" else transaction
        self._send(*requests)
        self._watch(self.operations[-1])

    def _watch(self, operation: Operation | None) -> None:
        """Lose patience when the answer does not come."""
        attempt = self._attempt

        def late() -> None:
            last = self.operations[-1] if self.operations else None
            waiting = self._end is not None and last is operation
            if attempt == self._attempt and waiting and (operation or self._greeting):
                self.timeouts += operation is not None
                self._lost()

        self._world.schedule.after(PATIENCE_US, late)

    def _on_ready(self) -> None:
        end = self._end
        if end is None:
            return
        if self._unsent:
            self._unsent = self._unsent[end.send(self._unsent) :]
        data = end.recv(1 << 20)
        if data:
            self._reader.feed(data)
        attempt = self._attempt
        while (reply := self._reader.gets()) is not False:
            self._answered(reply)
            if attempt != self._attempt or self._end is None:
                return
        if end.eof:
            self._lost()

    def _answered(self, reply: Any) -> None:
        if self._greeting:
            self._greeting = False
            if isinstance(reply, hiredis.ReplyError):
                self._lost()
            else:
                self._next()
            return
        assert self.operations, f"{self.name} got {reply!r}, for nothing"
        operation = self.operations.popleft()
        if operation.name == "exec":
            failed = isinstance(reply, hiredis.ReplyError)
            for queued, answer in zip(self._queued, repeat(reply) if failed else reply):
                self._world.end(queued, answer)
            self._queued = []
        if reply == b"QUEUED" and operation.transaction >= 0:
            self._queued.append(operation)
        else:
            self._world.end(operation, reply)
        if self._script is not None and operation.outcome == OK:
            self._script.pop(0)
        if self.operations:
            return
        attempt = self._attempt
        low_us, high_us = self._world.workload.mix.pause_us

        def go_on() -> None:
            if attempt == self._attempt and self._end is not None and not self.operations:
                self._next()

        self._world.schedule.after(self._rng.randrange(low_us, high_us), go_on)

    def _lost(self) -> None:
        """The connection is no good: what was asked has an unknown outcome."""
        self.operations.clear()
        self._queued = []
        self._leave()
        if not self.done:
            self._again()

    def _leave(self) -> None:
        self._attempt += 1
        self._greeting = False
        if self._end is not None:
            self._end.on_ready = lambda: None
            self._end.close()
            self._end = None

    def _again(self) -> None:
        if self.stopping:
            return
        attempt = self._attempt
        self._world.schedule.after(
            self._rng.randrange(*RECONNECT_US), lambda: self.start() if attempt == self._attempt else None
        )
