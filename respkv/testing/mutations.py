"""Rules broken on purpose: what the checkers of the simulation must find, or they prove nothing.

A mutation changes the plan of a run, or every node that is opened in it: parts of the node are given a subclass that
breaks one rule. The product itself knows nothing of this. Each is found within ``seeds`` seeds, counted from 1, by the
checkers that ``by`` names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any, Final, NamedTuple

from respkv.base.errors import BlockRequest
from respkv.base.ids import STRING
from respkv.base.slots import SLOT_COUNT
from respkv.causality.dvv import Actor, ActorSource, Clock, Container, make_actor
from respkv.causality.record import DVV, TYPE_MASK
from respkv.cluster.gossip import Gossip
from respkv.env.rng import seeded
from respkv.keyspace import keys
from respkv.keyspace.apply import Applier
from respkv.keyspace.apply import Plan as ApplyPlan
from respkv.keyspace.effects import Effects
from respkv.keyspace.keyspace import Keyspace, field_entry
from respkv.keyspace.leaf_sums import LeafSums
from respkv.keyspace.rows import FieldEntry, HashRow, Row
from respkv.keyspace.sibling_writes import SiblingWrites
from respkv.node.forwards import Forwards
from respkv.node.node import Node
from respkv.node.repair import Repair
from respkv.node.ring_node import RingNode
from respkv.replication.coordinator import Coordinator
from respkv.replication.levels import ALL, EVENTUAL, QUORUM
from respkv.replication.read_op import ReadSide
from respkv.replication.replica import Replica
from respkv.replication.rounds import WRITTEN, Collector, Round
from respkv.replication.write_op import WriteSide
from respkv.resp import errors
from respkv.storage.write_batch import encode_entry, iterate_payload
from respkv.testing.cluster import Plan
from respkv.testing.machine import Machine
from respkv.testing.nemesis import FAR_CLOCK
from respkv.wire.messages import OK, FlushTo, Forward, WriteAcks, Writes

_S: Final = 1_000_000


class Mutation(NamedTuple):
    """``plant`` breaks the rule in a plan; ``text`` says which rule; ``by`` are the beginnings of what finds it."""

    text: str
    by: tuple[str, ...]
    seeds: int
    plant: Callable[[Plan], None]


class _BlindReplica(Replica):
    """Whatever comes last wins."""

    __slots__ = ()

    def apply(self, kind: int, payload: bytes, source: int | None) -> tuple[tuple[int, int], ...]:
        refused: tuple[tuple[int, int], ...] = ()
        for internal, record in iterate_payload(payload):
            if internal[0] == keys.SPACE_RECORD and record[0] & (TYPE_MASK | DVV) == STRING:
                self.put_record(internal, record)
            else:
                refused += super().apply(kind, encode_entry(internal, record), source)
        return refused


class _FloorlessReplica(Replica):
    """What was flushed comes back with whoever is late."""

    __slots__ = ()

    def _apply_one(
        self,
        kind: int,
        internal: bytes,
        record: bytes,
        old: bytes | None,
        owners: dict[bytes, bytes | None],
        survivors: dict[bytes, bytes],
        source: int | None,
    ) -> int:
        hidden = self._keyspace.floors.hides(keys.key_slot(internal), keys.key_db(internal), record[1:11])
        if hidden and internal[0] == keys.SPACE_RECORD:
            self.put_record(internal, record)
            return OK
        return super()._apply_one(kind, internal, record, old, owners, survivors, source)


class _TrustingReplica(Replica):
    """Flush floors are taken over whatever their time."""

    __slots__ = ()

    def flush(self, message: FlushTo) -> None:
        for first, last, db, stamp in message.floors:
            self._applier.raise_floor(db, first, last, stamp)


class _HastyGraves(Replica):
    """A deletion hides what was written after it, wherever that came first."""

    __slots__ = ()

    def _look_for_survivors(
        self, internals: list[bytes], records: list[bytes], olds: list[bytes | None]
    ) -> dict[bytes, bytes]:
        return {}


class _CredulousReplica(Replica):
    """A count that follows the one held is right, whatever else has come meanwhile."""

    __slots__ = ()

    def _believes(self, number: bytes, before: bytes | None, row: Row | None) -> bool:
        return True

    def _doubt(self, owner: bytes, held: bytes) -> None:
        pass


class _SureApplier(Applier):
    """What a node has not heard of does not exist: a collection without elements here is deleted."""

    __slots__ = ()

    def _expire_element(self, internal: bytes) -> bool:
        keyspace = self.keyspace
        husks, keyspace.husks = keyspace.husks, None
        try:
            return super()._expire_element(internal)
        finally:
            keyspace.husks = husks


class _ForgetfulApplier(Applier):
    """Of several effects at once only the first is there, now and then."""

    __slots__ = ()

    def apply(self, effects: Effects) -> None:
        super().apply(effects[:1] if self.keyspace.now_ms % 8 == 0 else effects)


class _FloorlessKeyspace(Keyspace):
    """Elements of an earlier life show."""

    __slots__ = ()

    def element(self, db: int, key: bytes, row: HashRow, field: bytes) -> FieldEntry | None:
        entry = row.fields.get(field)
        record = self.engine.get(row.prefix + field) if entry is None and not row.complete else None
        if record is None or not record[0] & TYPE_MASK:
            return entry
        entry = field_entry(record)
        self.keep_field(db, key, row, field, entry)
        return entry

    def stored_elements(self, row: HashRow, start: bytes = b"") -> Iterator[tuple[bytes, FieldEntry]]:
        prefix, size = row.prefix, len(row.prefix)
        for internal, record in self.engine.scan(prefix + start, keys.prefix_end(prefix)):
            if record[0] & TYPE_MASK:
                yield internal[size:], field_entry(record)

    def load_fields(self, db: int, key: bytes, row: HashRow) -> None:
        row.complete = False
        row.loaded_to = None
        super().load_fields(db, key, row)


class _BlindWrites(SiblingWrites):
    """What a writer has seen is not asked."""

    __slots__ = ()

    def _write(
        self, internal: bytes, value: bytes | None, expire_at_ms: int, context: Clock | None, plan: ApplyPlan
    ) -> None:
        super()._write(internal, value, expire_at_ms, None, plan)


class _LonelyWrites(SiblingWrites):
    """The new value under the clock of all."""

    __slots__ = ()

    def _put(self, internal: bytes, container: Container, plan: ApplyPlan) -> None:
        super()._put(internal, Container(container.clock, container.siblings[:1]), plan)


class _OldActors(ActorSource):
    """One actor for all keys and all lives."""

    __slots__ = ()

    def actor_for(self, stored: Container | None) -> Actor:
        return make_actor(self.node, 1)


class _TimelessKeyspace(Keyspace):
    """What has expired is shown until somebody buries it."""

    __slots__ = ()

    def row(self, db: int, key: bytes) -> Row | None:
        now_ms, self.now_ms = self.now_ms, 1
        try:
            return super().row(db, key)
        finally:
            self.now_ms = now_ms


class _LazySums(LeafSums):
    """Sums that never catch up, and say that they have."""

    __slots__ = ()

    def is_exact(self) -> bool:
        return True

    def settle(self, limit: int = 0) -> Iterator[BlockRequest | None]:
        return islice((), limit)


class _EarlyRing(RingNode):
    """A replica that acks first and writes later."""

    def _on_writes(self, short: int, message: Writes) -> None:
        self.send(short, WriteAcks((message.seq,)))
        super_ = super()._on_writes
        self.node.after_us(300_000, lambda: super_(short, message))


class _CarelessNode(Node):
    """Neither replies nor what is told to others wait for the disk."""

    @property
    def holds_replies(self) -> bool:
        return False


class _TwiceForwards(Forwards):
    """A request of another node is executed twice."""

    __slots__ = ()

    def on_forward(self, peer: int, message: Forward) -> None:
        if message.op % 16 == 0:
            super().on_forward(peer, message)
        super().on_forward(peer, message)


class _NoRepair(WriteSide):
    """Reads do not bring the stale up to date."""

    __slots__ = ()

    def push(self, peer: int, payload: bytes, done: Callable[[bool], None], now_us: int) -> None:
        done(True)


class _LonelyReads(ReadSide):
    """Questions of one read do not know of each other: a substitute may be who answers another one."""

    __slots__ = ()

    def ask(self, collector: Collector, round_: Round | None, now_us: int) -> None:
        collector.asked.clear()
        super().ask(collector, round_, now_us)


class _HastyRepair(Repair):
    """Graves may go after two seconds."""

    __slots__ = ()

    def purge_ranges(self) -> Any:
        old = max(0, self._now_ms() - 2_000) << 16
        return ((0, SLOT_COUNT - 1, old),)


class _LyingRound(Round):
    """A write that may have been applied is said not to be."""

    __slots__ = ()

    def settle(self) -> None:
        outs, self.outs = self.outs, []
        if self.failed:
            for out in outs:
                out[:] = [errors.NO_REPLICAS if reply is WRITTEN else reply for reply in out]
        super().settle()


class _LyingCoordinator(Coordinator):
    """Makes such rounds."""

    __slots__ = ()

    def round(self, level: int) -> Round:
        if level not in self._rounds:
            self._rounds[level] = _LyingRound(level)
        return super().round(level)


class _DeafGossip(Gossip):
    """A node that is called dead does not speak up."""

    __slots__ = ()

    def _on_own_row(self, state: int, incarnation: int, sender: int, now_us: int, *, answered: bool) -> None:
        """Nothing is refuted."""


def _swap(part: Callable[[RingNode], Any], kind: type) -> Callable[[Plan], None]:
    """Give a part of every node another class."""

    def mutate(machine: Machine) -> None:
        node = machine.node
        assert node is not None and node.ring is not None
        part(node.ring).__class__ = kind
        handlers = node.ring._handlers
        for message, handler in handlers.items():
            handlers[message] = getattr(handler.__self__, handler.__name__)  # type: ignore[attr-defined]

    return lambda plan: _mutate(plan, mutate)


def _mutate(plan: Plan, mutate: Callable[[Machine], None]) -> None:
    plan.mutate = mutate


def _eager(kinds: tuple[str, ...], then: Callable[[Plan], None], **directives: str) -> Callable[[Plan], None]:
    """A plan whose faults are those that bring the broken rule to light."""

    def plant(plan: Plan) -> None:
        plan.kinds = kinds
        plan.pause_us = (200_000, 1_500_000)
        plan.directives |= {name.replace("_", "-"): value for name, value in directives.items()}
        then(plan)

    return plant


def _old_incarnation(machine: Machine) -> None:
    """The node comes back in the incarnation that was called dead."""
    node = machine.node
    assert node is not None and node.ring is not None
    gossip = node.ring.member._gossip
    if gossip is not None:
        members = node.ring.member.placement
        assert members is not None
        before = max(0, gossip.incarnation - 2)
        gossip.__init__(gossip.me, members.members, seeded(machine.rng.getrandbits(64)), saved_incarnation=before)  # type: ignore[misc]
        gossip.__class__ = _DeafGossip


def _forgotten_clock(machine: Machine) -> None:
    """Stamps begin with what the wall clock says, whatever was given out before."""
    node = machine.node
    assert node is not None
    node.keyspace.clock.last = (machine.clock.wall_us() // 1000 - 1_000) << 16


def _quorum_of_one(plan: Plan) -> None:
    plan.directives |= {"read-quorum": "1", "write-quorum": "1"}


def _careless(plan: Plan) -> None:
    plan.make_node = _CarelessNode
    plan.pause_us = (100_000, 800_000)
    _mutate(plan, _slow_disk)


def _slow_disk(machine: Machine) -> None:
    machine.disk.sync_us = (300_000, 900_000)


def _hasty(plan: Plan) -> None:
    plan.directives["memtable-bytes"] = str(12 << 10)
    # A key that was deleted has to stay so until its grave is dropped; fields of hashes are what fills the tables.
    plan.mix.pad_bytes = 6_000
    plan.mix.pause_us = (30_000, 300_000)
    plan.mix.weights = {"set": 4, "append": 4, "hset": 24, "del": 20, "dela": 6, "delh": 4, "get": 24, "hgetall": 6}
    plan.clients, plan.pause_us, plan.faulty_us = 7, (_S // 2, 2 * _S), 40 * _S
    # Whoever was away must learn of deletions by comparing.
    plan.directives["hints-max-bytes"] = "1"
    _swap(lambda ring: ring.repair, _HastyRepair)(plan)


def _with_siblings(kinds: tuple[str, ...], mutate: Callable[[Machine], None]) -> Callable[[Plan], None]:
    def plant(plan: Plan) -> None:
        plan.siblings = True
        _mutate(plan, mutate)

    return _eager(kinds, plant)


_NET: Final = ("partition", "one_way", "partial")

MUTATIONS: Final[dict[str, Mutation]] = {
    "blind-apply": Mutation(
        "a replica applies records without comparing stamps", ("log",), 5,
        _eager(_NET, _swap(lambda ring: ring.replica, _BlindReplica)),
    ),
    "element-below-floor": Mutation(
        "an element at or below the floor of its collection is shown", ("quorum read",), 10,
        _swap(lambda ring: ring.node.keyspace, _FloorlessKeyspace),
    ),
    "late-deletion-hides-newer": Mutation(
        "an older deletion that comes late hides newer elements", ("quorum read", "convergence"), 40,
        _eager(_NET, lambda plan: _deleting(plan)),
    ),
    "count-believed": Mutation(
        "a count is believed though its writer did not know of all elements", ("count",), 40,
        _eager(_NET, lambda plan: _counting(plan)),
    ),
    "emptied-unasked": Mutation(
        "a node deletes a hash because the last element that it knows of has gone", ("unasked",), 20,
        _eager(_NET, lambda plan: _emptying(plan)),
    ),
    "transaction-in-parts": Mutation("a part of a transaction is left out", ("whole",), 5, lambda p: _transacting(p)),
    "late-below-flush-floor": Mutation(
        "a record below the flush floor is taken when it comes late", ("log",), 5,
        _eager(_NET, lambda plan: _flushing(plan)),
    ),
    "flush-of-the-future": Mutation(
        "a flush floor is taken over from a clock that is far ahead", ("log", "quorum read"), 10,
        lambda plan: _flushing_far(plan),
    ),
    "leaf-sums-never-settled": Mutation(
        "leaf sums do not follow what is written", ("convergence",), 3, lambda plan: _unsettled(plan),
    ),
    "ack-before-log": Mutation(
        "a replica acks before the record is in its log", ("quorum read",), 10,
        _eager(("kill", "partition"), _swap(lambda ring: ring, _EarlyRing)),
    ),
    "ack-before-sync": Mutation(
        "with appendfsync always, acks and replies do not wait for the disk", ("quorum read", "survival"), 60,
        _eager(("power", "partition"), _careless, appendfsync="always"),
    ),
    "quorum-of-one": Mutation(
        "QUORUM asks and tells nobody else", ("quorum read",), 10, _eager(_NET, _quorum_of_one),
    ),
    "no-read-repair": Mutation(
        "a QUORUM read leaves stale replicas stale", ("quorum read",), 40,
        _eager(_NET, lambda plan: _unrepaired(plan)),
    ),
    "substitute-counted-twice": Mutation(
        "who is asked in place of a slow replica may have been asked already", ("quorum read",), 20,
        _eager(("partition", "clog", "slow_links"), lambda plan: _hedging(plan)),
    ),
    "purge-by-age": Mutation(
        "graves are dropped when they are old", ("log", "quorum read", "settled", "last write"), 10,
        _eager(("partition",), _hasty),
    ),
    "expired-shown": Mutation(
        "a key is shown after its time", ("expiry",), 20, _eager((), lambda plan: _expiring(plan)),
    ),
    "dead-incarnation-reused": Mutation(
        "a node comes back in the incarnation that was called dead, and does not refute", ("answers",), 5,
        _eager(("kill",), lambda plan: _mutate(plan, _old_incarnation)),
    ),
    "forward-executed-twice": Mutation(
        "a forwarded request is executed twice", ("once",), 5, _swap(lambda ring: ring.forwards, _TwiceForwards),
    ),
    "unknown-called-failed": Mutation(
        "a write with an unknown outcome is said not to be applied", ("failed",), 10,
        _eager(("slow_disk", "clog", "pause"), lambda plan: _writing(plan)),
    ),
    "clock-forgotten": Mutation(
        "after a crash stamps start where the wall clock is", ("log",), 40,
        _eager(("kill", "clock"), lambda plan: _forgetting(plan)),
    ),
    "context-not-looked-at": Mutation(
        "a write with a context replaces all that is there, seen or not", ("siblings",), 3,
        _with_siblings(_NET, lambda machine: _write_by(machine, _BlindWrites)),
    ),
    "new-value-alone": Mutation(
        "a write of a kept key is logged and sent without its siblings", ("siblings",), 3,
        _with_siblings(_NET, lambda machine: _write_by(machine, _LonelyWrites)),
    ),
    "actor-reused": Mutation(
        "a node that has forgotten a write goes on under the actor that made it", ("siblings",), 10,
        _with_siblings(("power", "kill", "partition"), lambda machine: _reuse_actors(machine)),
    ),
}  # fmt: skip


def _write_by(machine: Machine, kind: type[SiblingWrites]) -> None:
    node = machine.node
    assert node is not None
    node.applier._siblings = kind(node.applier, node.keyspace.conflicts)


def _reuse_actors(machine: Machine) -> None:
    node = machine.node
    assert node is not None
    node.keyspace.conflicts.actors.__class__ = _OldActors


def _unrepaired(plan: Plan) -> None:
    # What a replica has missed is missing until somebody compares.
    plan.directives["hints-max-bytes"] = "1"
    plan.mix.weights = {"set": 5, "hset": 3, "get": 40, "hget": 20}
    plan.mix.levels = {EVENTUAL: 1, QUORUM: 1}
    plan.mix.pause_us = (10_000, 100_000)
    plan.clients, plan.kinds, plan.skew_us = 8, ("partition",), 0
    _swap(lambda ring: ring.coordinator.writes, _NoRepair)(plan)


def _hedging(plan: Plan) -> None:
    # What one replica alone has been told, and others that take long to answer.
    plan.directives["hints-max-bytes"] = "1"
    plan.mix.weights, plan.mix.levels = {"set": 1, "get": 6}, {EVENTUAL: 1, ALL: 3}
    plan.mix.pause_us = (5_000, 60_000)
    plan.clients = 8
    _swap(lambda ring: ring.coordinator.reads, _LonelyReads)(plan)


def _writing(plan: Plan) -> None:
    # Plain SETs, one by one: what the fast path serves.
    plan.mix.weights, plan.mix.levels = {"set": 3, "get": 1}, {QUORUM: 1}
    plan.mix.burst_percent = 0
    _swap(lambda ring: ring.coordinator, _LyingCoordinator)(plan)


def _expiring(plan: Plan) -> None:
    plan.mix.weights |= {"setpx": 30, "expire": 20}
    _swap(lambda ring: ring.node.keyspace, _TimelessKeyspace)(plan)


def _deleting(plan: Plan) -> None:
    # Hashes that one side of a partition deletes, and the other one goes on with.
    plan.mix.weights = {"hset": 12, "delh": 4, "hgetall": 6, "hget": 4}
    plan.mix.levels, plan.mix.pad_bytes, plan.mix.pause_us = {EVENTUAL: 3, QUORUM: 2}, 0, (5_000, 50_000)
    plan.clients, plan.faulty_us = 6, 20_000_000
    _swap(lambda ring: ring.replica, _HastyGraves)(plan)


def _counting(plan: Plan) -> None:
    # Hashes that both sides of a partition go on with, and no rest in which they are counted anew.
    plan.mix.weights = {"hset": 12, "hdel": 8, "delh": 1, "hgetall": 3, "hget": 4, "expiref": 2}
    plan.mix.levels, plan.mix.pad_bytes, plan.mix.pause_us = {EVENTUAL: 3, QUORUM: 2}, 0, (5_000, 50_000)
    plan.clients, plan.healed_us = 6, 0
    _swap(lambda ring: ring.replica, _CredulousReplica)(plan)


def _emptying(plan: Plan) -> None:
    # Fields that expire, and nothing that deletes a hash.
    plan.mix.weights = {"hset": 6, "expiref": 8, "hdel": 4, "hget": 2}
    plan.mix.levels, plan.skew_us = {EVENTUAL: 1, QUORUM: 3}, 0
    _swap(lambda ring: ring.node.applier, _SureApplier)(plan)


def _transacting(plan: Plan) -> None:
    plan.mix.weights["exec"] = 20
    _swap(lambda ring: ring.node.applier, _ForgetfulApplier)(plan)


def _flushing(plan: Plan) -> None:
    plan.mix.weights["flushall"] = 3
    _swap(lambda ring: ring.replica, _FloorlessReplica)(plan)


def _forgetting(plan: Plan) -> None:
    # Clocks that jump back, crashes soon after, and few keys that are written often.
    plan.pause_us = (100_000, 600_000)
    plan.mix.weights, plan.mix.pause_us = {"set": 6, "get": 1}, (5_000, 50_000)
    plan.clients, plan.faulty_us = 6, 15 * _S
    _mutate(plan, _forgotten_clock)


def _unsettled(plan: Plan) -> None:
    # Others take a few seconds.
    plan.convergence_us = 60 * _S
    _swap(lambda ring: ring.leaf_sums, _LazySums)(plan)


def _flushing_far(plan: Plan) -> None:
    far_ahead(plan)
    _swap(lambda ring: ring.replica, _TrustingReplica)(plan)


def far_ahead(plan: Plan) -> None:
    """Wall clocks that are further ahead than nodes put up with, for seconds; nothing that expires by them."""
    plan.kinds, plan.skew_us = (FAR_CLOCK, "partition", "pause"), 0
    plan.faulty_us, plan.healed_us = 15 * _S, 20 * _S
    plan.mix.weights |= {"setpx": 0, "expire": 0, "expireh": 0, "expiref": 0, "flushall": 1}


def found_by(name: str, violations: list[str]) -> list[str]:
    """Those violations that count as finding a mutation."""
    return [violation for violation in violations if violation.startswith(MUTATIONS[name].by)]
