"""Nodes that repair each other in one process: real stores, real replicas, and links that can be cut."""

from __future__ import annotations

from collections import deque
from typing import Any

from respkv.base.errors import BlockRequest, CorruptionError
from respkv.causality.record import encode, tombstone
from respkv.cluster.placement import Placement
from respkv.env.rng import seeded
from respkv.keyspace import keys, retention
from respkv.node.mend import Mend
from respkv.node.pace import Pace
from respkv.node.repair import Repair
from respkv.node.ring_watch import RingWatch
from respkv.replication.replica import Replica
from respkv.storage.job_board import COUNT
from respkv.storage.jobs import no_pause
from respkv.storage.write_batch import encode_entry
from respkv.testing.clock import ManualClock
from respkv.wire.messages import FOREGROUND, OK, Facts, RangeRead, RangeResult, Status, StatusPull, WriteAcks, Writes
from respkv.worker.registry import run_job
from tests.unit.cluster.rings import form
from tests.unit.keyspace.rig import START_MS, Rig
from tests.unit.replication.leaf_rig import LeafRig

FAST_US = 1_000_000


class Store(LeafRig):
    """A store that purges by what repair has proved."""

    repair: Repair | None = None

    def retention(self) -> dict[str, Any]:
        ranges = self.repair.purge_ranges() if self.repair is not None else ()
        return retention.plain(self.keyspace.floors, expired_through_ms=self.expired_durable_ms, purge_below=ranges)

    def commit(self) -> None:
        if self.repair is not None:
            self.repair.before_commit(self.engine.batch)
        self.engine.commit()
        self.keyspace.counts.follow()


class Node:
    """One member. ``live_seen`` may be switched off for a peer that is linked."""

    def __init__(self, short: int, net: Net) -> None:
        self.short = short
        self.net = net
        self.rig = Store(memtable_bytes=1 << 18)
        self.busy = False
        self.told: list[str] = []
        #: shorts whose facts have come
        self.heard: dict[int, None] = dict.fromkeys(net.shorts)
        self.refusal = OK
        self.fetches: list[tuple[list[BlockRequest], Any]] = []
        self.fetched = 0
        self.open()

    def open(self) -> None:
        rig, net = self.rig, self.net
        rig.keyspace.clock.node = self.short
        self.replica = Replica(rig.applier)
        self.repair = rig.repair = Repair(
            keyspace=rig.keyspace,
            leaf_sums=rig.leaf,
            fs=rig.fs,
            directory="/db",
            rng=seeded(self.short),
            mesh_send=self.send,
            apply=self.replica.apply,
            raise_floor=rig.applier.raise_floor,
            commit=self.commit,
            fetch=self.fetch,
            live=lambda short: net.linked(self.short, short),
            facts=self.facts,
            busy=lambda: self.busy,
            pace=Pace(net.clock),
            log=lambda level, text: self.told.append(text),
            now_us=lambda: net.now_us,
            now_ms=lambda: net.now_ms,
            interval_us=net.interval_us,
        )
        self.replica.watermarks = self.repair.watermarks
        self.watch = RingWatch(
            self.repair,
            self.replica,
            send=self.send,
            live=lambda short: net.linked(self.short, short),
            next_seq=net.next_seq,
            now_us=lambda: net.now_us,
        )
        self.watch.me = self.short
        self.mend = Mend(
            rig.applier,
            self.replica,
            self.repair.neighbours,
            send=self.send,
            next_seq=net.next_seq,
            commit=self.commit,
            fetch=self.fetch,
            busy=lambda: self.busy,
            mended=self.repair.compare_all,
            watermark=self.repair.watermarks.get,
            log=lambda level, text: self.told.append(text),
        )

    def facts(self, short: int) -> Facts | None:
        node = self.net.nodes.get(short)
        if node is None or short not in self.heard:
            return None
        return Facts(clock=node.rig.keyspace.clock.last, oldest_hint=node.repair.oldest_hint())

    def commit(self) -> int:
        self.rig.commit()
        return self.rig.engine.appended_lsn

    def fetch(self, requests: list[BlockRequest], done: Any) -> None:
        self.fetches.append((requests, done))

    def send(self, peer: int, message: Any) -> bool:
        return self.net.send(self.short, peer, message)

    def restart(self, *, crash: bool = False) -> None:
        self.repair.close()
        self.rig.repair = None
        Rig.restart(self.rig, crash=crash)  # without what LeafRig carries over by hand: the log has it
        self.open()
        if self.net.formed:
            self.repair.on_ring(self.net.placement, self.short)
        for node in self.net.nodes.values():
            if node is not self and self.net.linked(self.short, node.short):
                node.repair.on_member(self.short, False)
                node.repair.on_member(self.short, True)

    def on_message(self, source: int, message: Any) -> None:
        if isinstance(message, Writes):
            if self.refusal != OK:
                self.send(source, WriteAcks((), ((message.seq, 0xFFFFFFFF, self.refusal),)))
                return
            refused = self.rig.serve(lambda: self.replica.apply(message.kind, message.payload, source))
            self.commit()
            rows = tuple((message.seq, index, status) for index, status in refused)
            self.send(source, WriteAcks((message.seq,), rows))
        elif isinstance(message, StatusPull):
            self.rig.serve(lambda: self.watch.on_pull(source, message))
        elif isinstance(message, RangeRead):
            self.send(source, self.rig.serve(lambda: self.replica.read_range(message)))
        elif isinstance(message, RangeResult):
            self.mend.on_range(source, message)
        elif isinstance(message, Status):
            self.watch.on_status(source, message)
        elif self.repair.owns(message):
            self.repair.on_message(source, message)

    def turn(self) -> None:
        """Fetches, timers, jobs and syncs of a moment."""
        fetches, self.fetches = self.fetches, []
        for requests, done in fetches:
            self.fetched += 1
            for request in requests:
                try:
                    request.install(request.read())
                except (CorruptionError, OSError) as error:
                    self.rig.engine.on_fetch_failed(request, error)
            done()
        if self.net.now_us >= self.repair.next_timer_us():
            self.repair.on_timer(self.net.now_us)
        self.watch.on_timer(self.net.now_us)
        self.mend.on_timer(self.net.now_us)
        if self.rig.engine.take_news():
            self.repair.tables_damaged()
        self.commit()
        self.work()
        plan = self.repair.sync_plan()
        if plan is not None:
            plan.run()
            self.repair.on_synced(plan)
        self.rig.driver.sync()
        self.rig.driver.run_manifest()

    def work(self) -> None:
        job = self.repair.next_job()
        if job is not None:
            assert job.kind == COUNT
            answer = run_job(self.rig.fs, {"id": job.id, "kind": job.kind, "spec": job.spec}, no_pause)
            assert self.repair.owns_job(job)
            if "result" in answer:
                self.repair.on_job_done(job, answer["result"])
            else:
                self.repair.on_job_failed(job, answer["error"])

    def apply(self, payload: bytes, kind: int = FOREGROUND, source: int | None = None) -> tuple[tuple[int, int], ...]:
        """As if a coordinator had sent it."""
        refused = self.rig.serve(lambda: self.replica.apply(kind, payload, source))
        self.commit()
        return refused

    def value(self, key: bytes) -> bytes | None:
        """The record of a key, whatever it is."""
        return self.rig.stored(keys.record_key(0, key))


class Net:
    """Members 1..n of a formed ring, every one linked with every other one."""

    def __init__(
        self, count: int = 3, *, replicas: int = 3, interval_us: int = FAST_US, members: int = 0, formed: bool = True
    ) -> None:
        self.now_us = 1
        self.now_ms = START_MS
        self.clock = ManualClock()
        self.interval_us = interval_us
        self.placement = Placement(form(members or count, replicas=replicas))
        self.formed = formed
        self.cut: dict[frozenset[int], None] = {}
        self.wire: deque[tuple[int, int, Any]] = deque()
        self.sent: list[tuple[int, int, Any]] = []
        self.lost = lambda source, target, message: False
        self.shorts = range(1, count + 1)
        self.asked = 0
        self.nodes: dict[int, Node] = {}
        self.nodes.update((short, Node(short, self)) for short in self.shorts)
        if formed:
            for node in self.nodes.values():
                node.repair.on_ring(self.placement, node.short)

    def next_seq(self) -> int:
        self.asked += 1
        return self.asked

    def linked(self, left: int, right: int) -> bool:
        return left != right and right in self.nodes and frozenset((left, right)) not in self.cut

    def down(self, short: int) -> None:
        """A member loses all its links."""
        for other in self.nodes:
            if other != short:
                self.cut[frozenset((short, other))] = None
                for one, two in ((other, short), (short, other)):
                    self.nodes[one].repair.on_member(two, False)
                    self.nodes[one].watch.peer_lost(two)
        self.wire = deque(item for item in self.wire if short not in item[:2])

    def up(self, short: int) -> None:
        for other in self.nodes:
            if other != short and self.cut.pop(frozenset((short, other)), 0) is None:
                self.nodes[other].repair.on_member(short, True)
                self.nodes[short].repair.on_member(other, True)

    def send(self, source: int, target: int, message: Any) -> bool:
        if not self.linked(source, target):
            return False
        self.sent.append((source, target, message))
        if not self.lost(source, target, message):
            self.wire.append((source, target, message))
        return True

    def turn(self, step_ms: int = 10) -> None:
        self.now_us += step_ms * 1000
        self.now_ms += step_ms
        for node in self.nodes.values():
            node.rig.advance_ms(step_ms)
            node.turn()
        for _ in range(len(self.wire)):
            source, target, message = self.wire.popleft()
            self.nodes[target].on_message(source, message)

    def run_ms(self, duration_ms: int, step_ms: int = 50) -> None:
        for _ in range(duration_ms // step_ms):
            self.turn(step_ms)
        for node in self.nodes.values():
            node.repair.check_invariants()

    def skip_ms(self, duration_ms: int) -> None:
        """Time passes in which nothing happens."""
        self.now_us += duration_ms * 1000
        self.now_ms += duration_ms
        for node in self.nodes.values():
            node.rig.advance_ms(duration_ms)

    def put(
        self, key: bytes, value: bytes | None, *, by: int, to: tuple[int, ...] = (), expire_at_ms: int = 0
    ) -> bytes:
        """A coordinator writes a record and hints it for whoever is neither in ``to`` nor itself; its payload."""
        stamp = self.nodes[by].rig.keyspace.stamp()
        body = b"$%d\r\n%s\r\n" % (len(value), value) if value is not None else b""
        record = tombstone(stamp) if value is None else encode(1, stamp, body, expire_at_ms)
        payload = encode_entry(keys.record_key(0, key), record)
        for short in self.placement.table[keys.key_slot(keys.record_key(0, key))]:
            if short in (by, *to):
                self.nodes[short].apply(payload, source=by)
            else:
                self.nodes[by].repair.missed(short, payload)
        return payload

    def same(self) -> bool:
        """All nodes' roots are exact and agree; for rings in which everybody owns everything."""
        answers = [node.repair.verify() for node in self.nodes.values()]
        return all(exact for exact, _ in answers) and all(roots == answers[0][1] for _, roots in answers)

