"""Keys whose concurrent writes are kept, in the workload of a simulated cluster, and what must hold of them.

Keys beginning with ``c`` are written with causal contexts alone (or with an empty one), each value once in a run: which
write has seen which is then known from outside, by the contexts. ``k`` (siblings) and ``m`` (merge:longest) take plain
commands; of them only convergence is asked.

The reference is made of two things that the nodes had no part in comparing: the *dot* of each value, as any log shows
it, and the clocks in the contexts of the requests. A value may go only when some write with a context that covers its
dot was under way by then, or a flush; and a context may cover only what its reader was shown, or what had gone so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple

from respkv.base.slots import slot_of
from respkv.causality import context, siblings
from respkv.causality.dvv import ACTOR_COUNTER_BITS, Clock
from respkv.causality.hlc import pack_stamp
from respkv.causality.record import DVV
from respkv.env.rng import Rng
from respkv.keyspace import keys
from respkv.replication.levels import ALL, QUORUM
from respkv.testing.clients import FAILED, OK, Mix, Operation, Workload
from respkv.testing.witness import Floor

#: Words of the directive; whoever writes the configuration puts quotes around them all.
POLICIES: Final = 'c" "siblings" "k" "siblings" "m" "merge:longest'
CAUSAL: Final = tuple(f"c{number}".encode() for number in range(3))
PLAIN: Final = (b"k0", b"m0")
#: Of a hundred requests those to kept keys.
_PERCENT: Final = 40
#: Contexts of a key that are still used; old ones cover little.
_CONTEXTS: Final = 8
_NEVER_US: Final = 1 << 62
_WANTED: Final = {"get": 14, "set": 12, "new": 4, "del": 2, "kset": 4, "kget": 4, "kdel": 1, "kpx": 1, "kexpire": 1}


class SiblingWorkload(Workload):
    """The usual requests and, among them, those to kept keys. It learns contexts from answers."""

    def __init__(self, rng: Rng, mix: Mix) -> None:
        super().__init__(rng, mix)
        self._contexts: dict[bytes, list[bytes]] = {key: [b""] for key in CAUSAL}

    def next(self) -> tuple[bytes, ...]:
        rng = self._rng
        if rng.randrange(100) >= _PERCENT:
            return super().next()
        name = rng.choices(list(_WANTED), list(_WANTED.values()))[0]
        key, plain, short = rng.choice(CAUSAL), rng.choice(PLAIN), b"%d" % rng.randrange(100, 4_000)
        requests: dict[str, Callable[[], tuple[bytes, ...]]] = {
            "get": lambda: (b"RKV.GET", key),
            "set": lambda: (b"RKV.SET", key, rng.choice(self._contexts[key]), self.token()),
            "new": lambda: (b"RKV.SET", key, b"", self.token()),
            "del": lambda: (b"RKV.DEL", key, rng.choice(self._contexts[key])),
            "kset": lambda: (b"SET", plain, self.token()),
            "kget": lambda: (b"GET", plain),
            "kdel": lambda: (b"DEL", plain),
            "kpx": lambda: (b"SET", plain, self.token(), b"PX", short),
            "kexpire": lambda: (b"PEXPIRE", plain, short),
        }
        return requests[name]()

    def learn(self, operation: Operation) -> None:
        """An answer has come."""
        if operation.name == "rkv.get" and operation.outcome == OK and operation.argv[1] in self._contexts:
            held = self._contexts[operation.argv[1]]
            held.append(operation.reply[0])
            del held[:-_CONTEXTS]


def is_kept(operation: Operation) -> bool:
    """True for a request to one of these keys: what is known of them is not known of other keys."""
    return len(operation.argv) > 1 and operation.argv[1][:1] in (b"c", b"k", b"m")


def script() -> list[tuple[bytes, bytes]]:
    """The requests that read all of these keys."""
    return [(word, key) for word in (b"RKV.GET", b"GET") for key in (*CAUSAL, *PLAIN)]


class Dot(NamedTuple):
    """The name of one write, and the flush floor that takes it along."""

    hlc: int
    actor: int

    def covered(self, clock: Clock) -> bool:
        """Whether whoever has this clock claims to have seen it."""
        return self.hlc <= clock.get(self.actor, 0)


class _Key:
    """All that was asked of one key, in a form that is quick to ask about."""

    def __init__(
        self, key: bytes, history: Sequence[Operation], versions: Mapping[bytes, int], floors: list[Floor]
    ) -> None:
        self.key = key
        self.problems: list[str] = []
        self.dots: dict[bytes, Dot] = {}
        for record in versions:
            if record[0] & DVV:
                for sibling in siblings.decode(record).siblings:
                    if sibling.value is not None:
                        self._learn(sibling.value, Dot(sibling.hlc, sibling.actor))
        self.history = [operation for operation in history if len(operation.argv) > 1 and operation.argv[1] == key]
        #: writes that may have replaced something, with the clocks they named
        self.writers = [
            (operation, self.clock(operation.argv[2]))
            for operation in self.history
            if operation.name in ("rkv.set", "rkv.del") and operation.outcome != FAILED
        ]
        slot = slot_of(key)
        self.floors = [floor for floor in floors if floor.db == 0 and floor.first <= slot <= floor.last]
        #: by value: since when it may be gone
        self._gone_us: dict[bytes, int] = {}

    def _learn(self, value: bytes, dot: Dot) -> None:
        known = self.dots.setdefault(value, dot)
        if known != dot:
            self.problems.append(f"siblings: {self.name} has {value!r:.20} under two dots, {known} and {dot}")

    @property
    def name(self) -> str:
        return self.key.decode()

    def clock(self, token: bytes) -> Clock:
        """The clock in a context."""
        return context.decode(token, self.key, latest_ms=1 << 47)

    def gone_by(self, value: bytes, us: int) -> bool:
        """Whether something that had begun by ``us`` may have replaced a value."""
        gone_us = self._gone_us.get(value)
        if gone_us is None:
            dot = self.dots[value]
            stamp = pack_stamp(dot.hlc, dot.actor >> ACTOR_COUNTER_BITS)
            began = [writer.start_us for writer, clock in self.writers if dot.covered(clock)]
            began += [floor.us for floor in self.floors if stamp <= floor.stamp]
            gone_us = self._gone_us[value] = min(began, default=_NEVER_US + 1)
        return gone_us <= us


def check_siblings(
    history: Sequence[Operation],
    versions: Mapping[bytes, Mapping[bytes, int]],
    floors: Sequence[Floor],
    final: Mapping[bytes, Sequence[bytes]],
    *,
    strict: bool,
) -> list[str]:
    """``versions``: what all logs have shown, by internal key; ``final``: the values of each key in the end.
    ``strict``: nothing that was acknowledged may be lost."""
    problems: list[str] = []
    for key in CAUSAL:
        held = _Key(key, history, versions.get(keys.record_key(0, key), {}), list(floors))
        for operation in held.history:
            if operation.name == "rkv.set":
                _check_write(held, operation, final.get(key), strict=strict)
            elif operation.name == "rkv.get" and operation.outcome == OK:
                _check_read(held, operation, strict=strict)
        if strict and key in final:
            _check_replaced(held, final[key])
        problems += held.problems
    return problems


def _check_write(held: _Key, operation: Operation, final: Sequence[bytes] | None, *, strict: bool) -> None:
    value = operation.argv[3]
    if operation.outcome == FAILED and value in held.dots:
        held.problems.append(f"failed: it was applied all the same: {operation!r}")
    if operation.outcome != OK:
        return
    if value not in held.dots:
        held.problems.append(f"acked: nothing of it is in any log: {operation!r}")
    elif strict and final is not None and value not in final and not held.gone_by(value, _NEVER_US):
        held.problems.append(f"siblings: a value is gone that nobody has replaced: {operation!r}")


def _check_read(held: _Key, operation: Operation, *, strict: bool) -> None:
    token, *values = operation.reply
    clock = held.clock(token)
    for value in values:
        dot = held.dots.get(value)
        if dot is None:
            held.problems.append(f"siblings: shows what nobody has logged, {value!r:.20}: {operation!r}")
        elif not dot.covered(clock):
            held.problems.append(f"siblings: the context does not cover {value!r:.20}, shown with it: {operation!r}")
    for value, dot in held.dots.items():
        if value not in values and dot.covered(clock) and not held.gone_by(value, operation.end_us):
            held.problems.append(f"siblings: the context covers {value!r:.20}, which was not shown: {operation!r}")
    if not strict or operation.level not in (QUORUM, ALL):
        return
    for write in held.history:
        if write.name != "rkv.set" or write.outcome != OK or write.level not in (QUORUM, ALL):
            continue
        value, before = write.argv[3], write.end_us < operation.start_us
        if before and value not in values and value in held.dots and not held.gone_by(value, operation.end_us):
            held.problems.append(f"siblings: a read at a quorum lacks {value!r:.20}: {operation!r}")


def _check_replaced(held: _Key, final: Sequence[bytes]) -> None:
    """What an acknowledged write has replaced does not come back."""
    for writer, clock in held.writers:
        if writer.outcome != OK or (writer.name == "rkv.del" and not writer.reply):
            continue
        for value in final:
            if value in held.dots and held.dots[value].covered(clock):
                held.problems.append(f"siblings: {value!r:.20} is there, which was replaced: {writer!r}")


def values_in(record: bytes | None) -> list[bytes]:
    """The values in a record of a kept key."""
    if record is None:
        return []
    return [sibling.value for sibling in siblings.container_of(record).siblings if sibling.value is not None]
