"""Replicas of one group in one process: real keyspaces, sums and sessions, and a network that can be cut."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from respkv.base.errors import ReadMiss
from respkv.base.slots import SLOT_COUNT
from respkv.causality.hlc import pack_stamp, stamp_hlc
from respkv.causality.record import encode, newer, stamp_of, tombstone
from respkv.env.rng import seeded
from respkv.keyspace import keys
from respkv.replication.anti_entropy import AntiEntropy
from respkv.replication.exchange import Message
from respkv.replication.merkle import MerkleStore
from respkv.replication.tombstones import PurgeWatermarks, cut_of
from respkv.storage.write_batch import encode_entry, iterate_payload
from respkv.wire.messages import FOREGROUND, REPAIR, Writes
from tests.unit.keyspace.rig import START_MS
from tests.unit.replication.leaf_rig import LeafRig

SLOTS = range(SLOT_COUNT)
NEVER_US = 1 << 50


class Replica:
    """One node of the group."""

    def __init__(self, short: int, group: Group, *, keys_per_s: int, interval_us: int) -> None:
        self.short = short
        self.group = group
        self.rig = LeafRig(memtable_bytes=1 << 18)
        self.rig.keyspace.clock.node = short
        self.hint_stamp = b""
        self.seq = 0
        self.applied = 0
        self.crash_epoch = 0
        self.watermarks = PurgeWatermarks(
            self.rig.leaf.rule.marks, self.rig.leaf.advance, lambda: cut_of(group.now_ms, b"")
        )
        keyspace = self.rig.keyspace
        self.store = MerkleStore(
            self.rig.engine,
            keyspace.floors,
            self.rig.leaf,
            self.raise_floor,
            lambda hlc: keyspace.clock.observe(hlc, group.now_ms),
        )
        self.repair = AntiEntropy(
            short,
            store=self.store,
            watermarks=self.watermarks,
            neighbours=self,
            rng=seeded(short),
            next_seq=self.next_seq,
            keys_per_s=keys_per_s,
            interval_us=interval_us,
        )

    def next_seq(self) -> int:
        self.seq += 1
        return self.seq

    # Neighbours

    def alive(self) -> Sequence[int]:
        return [peer for peer in self.group.replicas if peer != self.short and self.group.linked(self.short, peer)]

    def shared(self, peer: int) -> dict[int, None]:
        return dict.fromkeys(self.group.slots)

    def groups(self, peer: int) -> Sequence[tuple[Sequence[int], Sequence[int]]]:
        return [(self.co_replicas(0), self.group.slots)]

    def co_replicas(self, slot: int) -> Sequence[int]:
        return [peer for peer in self.group.replicas if peer != self.short]

    def cut(self, now_ms: int) -> int:
        return cut_of(now_ms, min([r.hint_stamp for r in self.group.replicas.values() if r.hint_stamp], default=b""))

    # Data

    def raise_floor(self, db: int, first: int, last: int, stamp: bytes) -> None:
        self.rig.keyspace.floors.raise_to(db, first, last, stamp)
        self.rig.keyspace.write_floor(db)

    def apply(self, kind: int, payload: bytes, source: int | None) -> None:
        """As a replica applies writes: last write wins, too old ones are refused."""
        for internal, record in iterate_payload(payload):
            slot, stamp = keys.key_slot(internal), stamp_of(record)
            if self.rig.keyspace.floors.hides(slot, keys.key_db(internal), stamp):
                continue
            clock = self.rig.keyspace.clock
            clock.last = max(clock.last, stamp_hlc(stamp))
            held = self.rig.stored(internal)
            if self.watermarks.refuses(kind, slot, stamp, held is not None):
                continue
            if held is None or newer(held, record) != held:
                self.rig.put(internal, record)
                self.applied += 1
                self.watermarks.old_record_applied(slot, stamp, source if kind == REPAIR else None)
        self.rig.commit()

    def contents(self) -> dict[bytes, bytes]:
        """What clients can see: live records, and elements that their owner does not hide."""
        rule = self.rig.leaf.rule
        found: dict[bytes, bytes] = {}
        for space in (b"\x01", b"\x02"):
            for internal, record in self.rig.driver.scan(space, bytes((space[0] + 1,))):
                if space == b"\x02":
                    owner = keys.element_owner(internal)[0]
                    if stamp_of(record) <= rule.owner_floor(owner, found.get(owner)):
                        continue
                if record[0] & 15 and not rule.flushed(internal, record):
                    found[internal] = record
        return found

    def poll(self) -> None:
        self.rig.settle()
        for _ in range(1000):
            try:
                self.repair.poll(self.group.now_us, self.group.now_ms)
                break
            except ReadMiss as miss:
                miss.request.install(miss.request.read())
        self.repair.check_invariants()
        if self.repair.outbox:
            self.watermarks.check_invariants()  # O(slots)
        for peer, message in self.repair.outbox:
            self.group.send(self.short, peer, message)
        self.repair.outbox.clear()


class Group:
    """Replicas with short ids 1..n. ``cut`` holds pairs that cannot talk."""

    def __init__(
        self, count: int = 3, *, slots: Sequence[int] = SLOTS, keys_per_s: int = 100_000, interval_us: int = NEVER_US
    ) -> None:
        self.slots = slots
        self.now_us = 1
        self.now_ms = START_MS
        self.cut: dict[tuple[int, int], None] = {}
        self.wire: deque[tuple[int, int, Message]] = deque()
        self.sent: list[tuple[int, int, Message]] = []
        self.replicas = {
            short: Replica(short, self, keys_per_s=keys_per_s, interval_us=interval_us) for short in range(1, count + 1)
        }

    def linked(self, left: int, right: int) -> bool:
        return (left, right) not in self.cut and (right, left) not in self.cut

    def partition(self, left: int, right: int) -> None:
        self.cut[left, right] = None
        self.wire = deque(item for item in self.wire if {item[0], item[1]} != {left, right})
        self.replicas[left].repair.peer_lost(right)
        self.replicas[right].repair.peer_lost(left)

    def heal(self) -> None:
        self.cut.clear()

    def send(self, source: int, target: int, message: Message) -> None:
        if self.linked(source, target):
            self.wire.append((source, target, message))
            self.sent.append((source, target, message))

    def deliver(self) -> None:
        while self.wire:
            source, target, message = self.wire.popleft()
            replica = self.replicas[target]
            if isinstance(message, Writes):
                replica.apply(message.kind, message.payload, source)
            else:
                replica.repair.on_message(source, message, self.now_us, self.now_ms)

    def pass_ms(self, count: int) -> None:
        self.now_us += count * 1000
        self.now_ms += count
        for replica in self.replicas.values():
            replica.rig.advance_ms(count)

    def turn(self, step_ms: int = 10) -> None:
        """Let a little time pass, everybody work, and every message arrive."""
        self.pass_ms(step_ms)
        for replica in self.replicas.values():
            replica.poll()
            replica.rig.driver.sync()
        self.deliver()

    def run_s(self, seconds: int, step_ms: int = 100) -> None:
        for _ in range(seconds * 1000 // step_ms):
            self.turn(step_ms)

    def session(self, left: int, right: int, slots: Sequence[int] | None = None) -> None:
        """One whole session."""
        first, second = self.replicas[left], self.replicas[right]
        first.rig.settle()
        second.rig.settle()
        assert first.repair.begin(right, self.now_us, self.now_ms, slots)
        for _ in range(3000):
            self.turn()
            if not first.repair.running() and not second.repair.running():
                return
        raise AssertionError("the session does not end")

    def put(self, key: bytes, value: bytes | None, *, to: Sequence[int], at_ms: int | None = None) -> bytes:
        """A write (None deletes) that reaches only some; its stamp."""
        origin = self.replicas[to[0]]
        stamp = origin.rig.keyspace.stamp() if at_ms is None else pack_stamp(at_ms << 16, to[0])
        record = tombstone(stamp) if value is None else encode(1, stamp, value)
        for short in to:
            self.write(short, keys.record_key(0, key), record)
        return stamp

    def write(self, short: int, internal: bytes, record: bytes, kind: int = FOREGROUND) -> None:
        self.replicas[short].apply(kind, encode_entry(internal, record), None)

    def equal(self) -> bool:
        """Contents and roots of all replicas agree."""
        replicas = list(self.replicas.values())
        same_contents = all(replica.contents() == replicas[0].contents() for replica in replicas)
        return same_contents and self.same_roots()

    def same_roots(self) -> bool:
        for replica in self.replicas.values():
            replica.rig.settle()
            assert replica.store.ready()
        sums = [replica.store.group_sums(self.slots) for replica in self.replicas.values()]
        return all(total == sums[0] for total in sums)
