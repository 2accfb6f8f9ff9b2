"""A whole cluster under virtual time: production nodes, a network, clients, a nemesis, and what must hold at the end.

One run, from one seed: the ring forms; clients work while the nemesis breaks things; everything is healed while clients
go on; clients stop; the replicas must become equal within a bound; every key is read once more everywhere; then the
checkers look at the whole history. ``Report.digest`` is that of the trace: equal for equal seeds.

Which promises are checked depends on what the run does to them (DESIGN 4): with ``appendfsync always``, or when no
machine loses power, an acknowledged write is never lost and QUORUM reads are checked (*strict*); otherwise what was not
synced may be lost, and convergence, last-write-wins and recovery are what is left to check.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from respkv.base.errors import ReadMiss
from respkv.base.slots import slot_of
from respkv.causality.record import BODY_AT
from respkv.env.rng import Rng, seeded
from respkv.keyspace import keys
from respkv.keyspace.keyspace import Keyspace
from respkv.keyspace.leaf_rule import element_floor
from respkv.keyspace.rows import HashRow
from respkv.node.node import Node
from respkv.replication.levels import ALL, EVENTUAL, QUORUM
from respkv.replication.merkle import slot_root
from respkv.testing import checkers, nemesis, sibling_work
from respkv.testing.checkers import Contents
from respkv.testing.clients import APPENDED, COUNTERS, HASHES, STRINGS, USUAL, Client, Mix, Workload, World
from respkv.testing.machine import Machine, Settings
from respkv.testing.network import Network
from respkv.testing.schedule import EPOCH_MS, Schedule, Trace
from respkv.testing.sibling_work import SiblingWorkload
from respkv.testing.unasked import check_unasked
from respkv.testing.witness import Witness

HOST: Final = "127.0.0.1"
_S: Final = 1_000_000
_MS: Final = 1_000
FORMING_US: Final = 60 * _S
#: After healing: how long until requests must be answered quickly again, and how quickly that is.
GRACE_US: Final = 8 * _S
#: How long clients rest between requests at least, once the faults are over.
CALM_PAUSE_US: Final = (50 * _MS, 500 * _MS)
ANSWER_US: Final = 4 * _S
_READ_AGAIN_US: Final = 60 * _S
#: Makes the generator of ``vary`` another one than the run's.
_VARIED: Final = 0x7A11


@dataclass
class Plan:
    """What a run does. Made of its seed by ``plan_of``; tests make their own."""

    seed: int
    nodes: int = 3
    ring: bool = True
    clients: int = 5
    faulty_us: int = 20 * _S
    healed_us: int = 12 * _S
    #: from the clients' end: how long the replicas have to become equal
    convergence_us: int = 150 * _S
    kinds: Sequence[str] = ()
    pause_us: tuple[int, int] = (200 * _MS, 4 * _S)
    mix: Mix = field(default_factory=Mix)
    directives: dict[str, str] = field(default_factory=dict)
    #: wall clocks are off by up to this much
    skew_us: int = 0
    drift_ppm: int = 0
    make_node: Callable[..., Node] = Node
    mutate: Callable[[Machine], None] | None = None
    #: keys whose concurrent writes are kept are in the workload
    siblings: bool = False

    @property
    def strict(self) -> bool:
        """Nothing that was acknowledged may be lost."""
        losing = any(kind in nemesis.LOSING for kind in self.kinds)
        return self.directives.get("appendfsync") == "always" or not losing


def plan_of(seed: int, *, nodes: int = 3) -> Plan:
    """The plan of a seed: its faults, its workload, how nodes are configured."""
    rng = seeded(seed)
    kinds = nemesis.choose_kinds(rng) if rng.random() < 0.95 else []
    policy = rng.choices(("always", "everysec", "no"), (5, 4, 1))[0]
    if policy != "always" and rng.random() < 0.7:
        kinds = [kind for kind in kinds if kind not in nemesis.LOSING]
    mix = Mix()
    mix.pad_bytes = rng.choice((0, 0, 200, 3_000))
    mix.weights["flushall"] = rng.choice((0, 0, 1))
    mix.weights["mget"] = 10 if nodes > 3 else 0  # They are cut into parts there.
    low_us = rng.choice((12, 25, 60)) * _MS
    mix.pause_us = (low_us, 10 * low_us)
    skewed = rng.random() < 0.5
    return Plan(
        seed=seed,
        nodes=nodes,
        clients=rng.randrange(2, 8),
        faulty_us=rng.randrange(6, 18) * _S,
        kinds=kinds,
        mix=mix,
        directives={"appendfsync": policy, "memtable-bytes": str(rng.choice((24, 64, 1024)) << 10)},
        skew_us=rng.choice((5, 300, 2_000)) * _MS if skewed else 0,
        drift_ppm=200 if skewed else 0,
        siblings=seed % 4 == 3,
    )


def vary(plan: Plan) -> None:
    """Give a plan a workload and a pace of its own: some requests often, others never.

    A usual run has a bit of everything, which hides what only much of one thing shows (Groce et al., Swarm Testing,
    2012).
    """
    rng, mix = seeded(plan.seed ^ _VARIED), plan.mix
    mix.weights = {name: rng.choice((0, 0, 1, 4, 16)) for name in USUAL}
    mix.weights["flushall"] = rng.choice((0, 0, 0, 1))
    mix.weights["get"] = max(1, mix.weights["get"])
    mix.levels = {EVENTUAL: rng.choice((0, 1, 4)), QUORUM: rng.choice((1, 4)), ALL: rng.choice((0, 0, 1, 4))}
    mix.burst_percent = rng.choice((0, 20, 80))
    low_us = rng.choice((2, 5, 20)) * _MS
    mix.pause_us = (low_us, 10 * low_us)
    plan.clients = rng.randrange(1, 9)
    plan.pause_us = rng.choice(((200 * _MS, 4 * _S), (100 * _MS, 1 * _S), (20 * _MS, 400 * _MS)))
    plan.healed_us = rng.choice((0, 3 * _S, 12 * _S))


@dataclass
class Report:
    """How a run went. ``violations`` is empty when everything held."""

    seed: int
    digest: str
    violations: list[str]
    figures: dict[str, int]
    faults: dict[str, int]

    def __str__(self) -> str:
        faults = " ".join(f"{kind}:{count}" for kind, count in self.faults.items())
        figures = " ".join(f"{name}={value}" for name, value in self.figures.items())
        return f"seed {self.seed} digest {self.digest} {figures} faults [{faults}]"


class Cluster:
    """One run. ``write`` gets the lines of the trace."""

    def __init__(self, plan: Plan, *, write: Callable[[str], object] | None = None) -> None:
        self.plan = plan
        rng = seeded(plan.seed + 1)
        self._rng = rng
        self.schedule = Schedule()
        self.trace = Trace(self.schedule, write)
        self.network = Network(self.schedule, _split(rng), self.trace)
        self.network.echoing = tuple(f"n{number}" for number in range(1, plan.nodes + 1))
        self.witness = Witness(lambda: self.schedule.now_us)
        common = {
            "ballast-bytes": "0", "block-cache-bytes": "262144", "row-cache-bytes": "65536", "databases": "1",
            "memtable-bytes": "1048576",
            **({"conflict-policy": sibling_work.POLICIES} if plan.siblings else {}), **plan.directives,
        }  # fmt: skip
        settings = Settings(common, plan.make_node, plan.mutate)
        self.machines = [self._machine(number, settings) for number in range(1, plan.nodes + 1)]
        self.nemesis = nemesis.Nemesis(
            self.machines,
            schedule=self.schedule,
            network=self.network,
            rng=_split(rng),
            trace=self.trace,
            kinds=plan.kinds,
            pause_us=plan.pause_us,
        )
        self.world = World(
            schedule=self.schedule,
            network=self.network,
            trace=self.trace,
            rng=_split(rng),
            workload=(SiblingWorkload if plan.siblings else Workload)(_split(rng), plan.mix),
            addresses={machine.name: machine.address for machine in self.machines},
            wall_ms=self._wall_ms,
            ring=plan.ring,
        )
        self.clients = [Client(f"c{number}", self.world) for number in range(plan.clients)]
        self.violations: list[str] = []
        self._largest = 0

    def _machine(self, number: int, settings: Settings) -> Machine:
        machine = Machine(
            number,
            schedule=self.schedule,
            network=self.network,
            trace=self.trace,
            rng=_split(self._rng),
            witness=self.witness,
            settings=settings,
            address=(HOST, 7000 + number),
            node_address=(HOST, 17000 + number),
        )
        machine.directives["port"] = str(7000 + number)
        if self.plan.ring:
            machine.directives["cluster-port"] = str(17000 + number)
            machine.directives["cluster-secret"] = "a secret that is long enough"
            if number == 1:
                machine.directives["bootstrap"] = "yes"
                machine.directives["cluster-size"] = str(self.plan.nodes)
            else:
                machine.directives["join"] = f"{HOST}:17001"
        if self.plan.skew_us:
            machine.clock.set_offset(self._rng.randrange(-self.plan.skew_us, self.plan.skew_us + 1))
        return machine

    def _wall_ms(self) -> tuple[int, int]:
        clocks = [machine.clock for machine in self.machines]
        return min(clock.wall_us() for clock in clocks) // 1000, max(clock.greatest_us() for clock in clocks) // 1000

    # The run

    def run(self) -> Report:
        """All of it."""
        schedule = self.schedule
        for machine in self.machines:
            machine.start(self._rng.randrange(500 * _MS))
        schedule.run_until(FORMING_US, stop=self._formed)
        if not self._formed():
            self.violations.append("forming: there is no ring after a minute")
            return self.report()
        for client in self.clients:
            client.start()
        self.nemesis.start()
        self._watch()
        schedule.run_until(schedule.now_us + self.plan.faulty_us)
        self.trace.line("healed")
        self.nemesis.heal()
        healed_us = schedule.now_us
        mix, (low_us, high_us) = self.plan.mix, self.plan.mix.pause_us
        # What is still to be seen needs few requests: is everything answered, do all become equal?
        mix.pause_us = (max(low_us, CALM_PAUSE_US[0]), max(high_us, CALM_PAUSE_US[1]))
        schedule.run_until(healed_us + self.plan.healed_us)
        mix.pause_us = (low_us, high_us)
        for client in self.clients:
            client.stopping = True
        schedule.run_until(schedule.now_us + 12 * _S, stop=lambda: all(client.done for client in self.clients))
        self.trace.line("clients stop")
        self._settle()
        self._read_everything()
        self._settle()  # Whoever reads may find that something has expired.
        self._check(healed_us)
        return self.report()

    def _formed(self) -> bool:
        for machine in self.machines:
            node = machine.node
            if node is None or (self.plan.ring and (node.ring is None or not self._sees_all(node))):
                return False
        return True

    def _sees_all(self, node: Node) -> bool:
        ring = node.ring
        assert ring is not None
        placement = ring.placement
        return placement is not None and all(ring.live(short) for short in placement.members)

    def _watch(self) -> None:
        """While the run lasts: nobody's queues outgrow their bounds."""
        for machine in self.machines:
            node = machine.node
            if node is not None and node.ring is not None:
                node.ring.check_invariants()
                assert machine.links is not None
                machine.links.check_invariants()
                stats = node.ring.mesh.stats()
                self._largest = max(self._largest, stats["queued_bytes"])
        self.schedule.after(1 * _S, self._watch)

    def _settle(self) -> None:
        """Let the replicas become equal."""
        if not self.plan.ring:
            return
        until_us = self.schedule.now_us + self.plan.convergence_us
        while self.schedule.now_us < until_us and not self._settled():
            self.schedule.run_until(self.schedule.now_us + 1 * _S)
        self.trace.line("settled" if self._settled() else "not settled")

    def _settled(self) -> bool:
        if not all(machine.up for machine in self.machines) or any(self._hints().values()):
            return False
        return not checkers.check_convergence(self.contents(), self.owners)

    def _hints(self) -> dict[str, int]:
        return {
            machine.name: sum(row["bytes"] for row in hint_rows(machine.node).values())
            for machine in self.machines
            if machine.node is not None
        }

    def owners(self, slot: int) -> list[str]:
        """Names of the replicas of a slot, in ring order."""
        if not self.plan.ring:
            return [self.machines[0].name]
        for machine in self.machines:
            if machine.node is not None and machine.node.ring is not None and machine.node.ring.placement is not None:
                by_short = self._names()
                return [by_short[short] for short in machine.node.ring.placement.table[slot]]
        return []

    def _names(self) -> dict[int, str]:
        found = {}
        for machine in self.machines:
            assert machine.node is not None and machine.node.ring is not None
            found[machine.node.ring.me] = machine.name
        return found

    def contents(self) -> list[Contents]:
        """What each node shows: live records whose time has not come, and the roots of its leaf sums."""
        now_ms = self._wall_ms()[1]
        return [contents_of(machine, now_ms) for machine in self.machines if machine.node is not None]

    def _read_everything(self) -> None:
        script = [(b"GET", key) for key in (*STRINGS, *APPENDED, *COUNTERS)] + [(b"HGETALL", key) for key in HASHES]
        script += sibling_work.script() if self.plan.siblings else []
        levels = (EVENTUAL, QUORUM, ALL) if self.plan.ring else (QUORUM,)
        readers = [
            Client(f"r{machine.number}.{level}", self.world, script=list(script), node=machine.name, level=level)
            for machine in self.machines
            for level in levels
        ]
        for reader in readers:
            reader.start()
        self.schedule.run_until(
            self.schedule.now_us + _READ_AGAIN_US, stop=lambda: all(reader.done for reader in readers)
        )
        unread = [reader.name for reader in readers if not reader.done]
        if unread:
            self.violations.append(f"answers: {', '.join(unread)} could not read everything in the end")

    def _check(self, healed_us: int) -> None:
        found = self.violations
        plan, witness, history = self.plan, self.witness, self.world.history
        for machine in self.machines:
            found += machine.problems
            if not machine.up:
                found.append(f"recovery: {machine.name} does not run in the end")
        found += witness.problems
        if plan.siblings:
            found += self._check_siblings()
            history = [operation for operation in history if not sibling_work.is_kept(operation)]
        evidence = checkers.evidence_of(witness.versions, witness.floors)
        surviving, floors = witness.surviving(), witness.surviving_floors()
        found += checkers.check_history(history, evidence, quorums=plan.strict)
        found += checkers.check_order(history, evidence, quorums=plan.strict)
        found += checkers.check_once(history, evidence)
        found += checkers.check_whole(history, evidence)
        found += checkers.check_answers(history, healed_us=healed_us + GRACE_US, bound_us=ANSWER_US)
        if plan.strict:
            levels = (EVENTUAL, QUORUM, ALL)
            found += checkers.check_survival(history, evidence, surviving, floors, levels=levels)
            skew_ms = checkers.SKEW_MS if "clock" in plan.kinds else 2 * plan.skew_us // 1000
            found += check_unasked(history, evidence, witness.versions, skew_ms=skew_ms)
        if not plan.ring or not all(machine.up for machine in self.machines):
            return
        hints = {name: count for name, count in self._hints().items() if count}
        if hints:
            found.append(f"convergence: hints wait in the end: {hints}")
        contents = self.contents()
        found += checkers.check_convergence(contents, self.owners)
        found += checkers.check_last_write(contents, self.owners, surviving, floors, self._wall_ms()[1])
        for machine in self.machines:
            found += miscounted(machine, [key for key in HASHES if machine.name in self.owners(slot_of(key))])
        if not witness.cuts():
            logs = {machine.name: witness.entries(machine.name) for machine in self.machines}
            found += checkers.check_settled(history, evidence, logs, self.owners)

    def _check_siblings(self) -> list[str]:
        final = {}
        for key in sibling_work.CAUSAL:
            owners = self.owners(slot_of(key))
            machine = next((each for each in self.machines if each.name == owners[0]), None) if owners else None
            if machine is not None and machine.up:
                records = contents_of(machine, self._wall_ms()[1]).records
                final[key] = sibling_work.values_in(records.get(keys.record_key(0, key)))
        witness = self.witness
        return sibling_work.check_siblings(
            self.world.history, witness.versions, witness.floors, final, strict=self.plan.strict
        )

    def report(self) -> Report:
        """What is known by now."""
        history = self.world.history
        figures: dict[str, int] = {
            "virtual_s": self.schedule.now_us // _S,
            "events": self.schedule.events,
            "operations": len(history),
            "ok": sum(operation.outcome == "ok" for operation in history),
            "unknown": sum(operation.outcome == "unknown" for operation in history),
            "versions": sum(map(len, self.witness.versions.values())),
            "lost": self.witness.lost,
            "queued_max": self._largest,
        }
        violations = list(dict.fromkeys(self.violations))
        return Report(self.plan.seed, self.trace.digest(), violations, figures, self.nemesis.done)


def _split(rng: Rng) -> Rng:
    """A generator of its own for a part, so that parts do not disturb each other's."""
    return seeded(rng.getrandbits(64))


def hint_rows(node: Node | None) -> dict[int, dict[str, int]]:
    """What a node's hint store holds, by target."""
    if node is None or node.ring is None:
        return {}
    return node.ring.repair.hints.target_stats()


def miscounted(machine: Machine, names: Sequence[bytes]) -> list[str]:
    """Hashes of which a node's HLEN is not the number of fields that it holds."""
    node: Any = machine.node
    keyspace, problems = node.keyspace, []
    for key in names:
        row, number = counted(keyspace, key)
        if row is not None and row.count != number:
            problems.append(f"count: {machine.name} says {row.count} of {key.decode()}, which has {number}")
    return problems


def counted(keyspace: Keyspace, key: bytes) -> tuple[HashRow | None, int]:
    """The row of a hash, and how many elements are stored."""
    while True:
        try:
            row = keyspace.row(0, key)
            if not isinstance(row, HashRow):
                return None, 0
            return row, sum(1 for _ in keyspace.stored_elements(row))
        except ReadMiss as miss:
            miss.request.install(miss.request.read())


def contents_of(machine: Machine, now_ms: int) -> Contents:
    """See ``Cluster.contents``."""
    node: Any = machine.node
    engine, floors = node.engine, node.keyspace.floors
    records: dict[bytes, bytes] = {}
    owners: dict[bytes, bytes | None] = {}
    for space in (keys.SPACE_RECORD, keys.SPACE_ELEMENT):
        for internal, record in engine.scan(bytes((space,)), bytes((space + 1,)), wait=True):
            hidden = floors.hides(keys.key_slot(internal), keys.key_db(internal), record[1:BODY_AT])
            if hidden or not checkers.is_live(record, now_ms):
                continue
            if space == keys.SPACE_RECORD:
                owners[internal] = record
            else:
                owner = owners.get(keys.element_owner(internal)[0])
                if owner is None or record[1:BODY_AT] <= element_floor(owner):
                    continue
            records[internal] = record
    roots: dict[int, int] = {}
    if node.ring is not None:
        cells = node.ring.leaf_sums.cells
        nothing = bytes(8 * 64)
        view = memoryview(cells).cast("B")
        slots = {keys.key_slot(internal): None for internal in machine.witness.versions}
        roots = {slot: slot_root(cells, slot) for slot in slots if view[slot * 512 : slot * 512 + 512] != nothing}
    return Contents(machine.name, records, roots)


assert EPOCH_MS > 0
