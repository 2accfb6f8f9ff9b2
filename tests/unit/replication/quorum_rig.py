"""Three coordinators with their replicas, wired in memory: every message is delivered by ``deliver``, in order."""

from __future__ import annotations

from functools import cache
from typing import Any

from respkv.causality.record import encode
from respkv.cluster.placement import Placement
from respkv.keyspace import keys
from respkv.replication.coordinator import Coordinator
from respkv.replication.levels import ALL, QUORUM, Quorums
from respkv.replication.replica import Replica
from respkv.replication.rounds import WRITTEN, Round
from respkv.resp.reply import bulk
from respkv.wire.messages import RangeRead, RangeResult, ReadResult, Reads, WriteAcks, Writes
from tests.unit.cluster.rings import form
from tests.unit.keyspace.rig import Rig


@cache
def _placement(nodes: int, replicas: int) -> Placement:
    return Placement(form(nodes, replicas=replicas))


class Asker:
    """A request of the general path, as the coordinator sees it."""

    def __init__(self) -> None:
        self.level = QUORUM
        self.waiting = 0
        self.changed = False
        self.resumed = 0
        self.failures: list[bytes] = []

    def resume(self) -> None:
        self.resumed += 1

    def fail(self, reply: bytes) -> None:
        self.failures.append(reply)


class Side:
    """One node: a keyspace, its replica and its coordinator."""

    def __init__(self, group: Group, short: int) -> None:
        self.group, self.short = group, short
        self.rig = Rig()
        self.rig.keyspace.clock.node = short
        self.replica = Replica(self.rig.applier)
        self.missed: list[tuple[int, bytes]] = []
        self.settled: list[Round] = []
        self._seq = short << 32
        self.coordinator = Coordinator(
            self.replica, self.rig.engine, send=self.send, send_encoded=self._send_encoded, live=self.live,
            missed=lambda peer, payload: self.missed.append((peer, payload)), next_seq=self._next,
        )  # fmt: skip

    def _next(self) -> int:
        self._seq += 1
        return self._seq

    def live(self, short: int) -> bool:
        return frozenset((self.short, short)) not in self.group.cut

    def send(self, peer: int, message: Any) -> bool:
        if not self.live(peer):
            return False
        self.group.wire.append((self.short, peer, message))
        return True

    def _send_encoded(self, peer: int, parts: list[bytes]) -> bool:
        data = b"".join(parts)
        return self.send(peer, Writes(int.from_bytes(data[5:13], "little"), data[13], data[14:]))

    def receive(self, peer: int, message: Any) -> None:
        now_us = self.group.now_us
        if isinstance(message, Writes):
            refused = self.replica.apply(message.kind, message.payload, peer)
            self.send(peer, WriteAcks([message.seq], tuple((message.seq, *row) for row in refused)))
        elif isinstance(message, Reads):
            self.send(peer, self.replica.read(message))
        elif isinstance(message, RangeRead):
            self.send(peer, self.replica.read_range(message))
        elif isinstance(message, ReadResult | RangeResult):
            self.coordinator.on_result(peer, message, now_us)
        else:
            self.coordinator.on_acks(peer, message)

    # What the hot loop does, one request at a time.

    def set(self, key: bytes, value: bytes, out: list[bytes]) -> None:
        record = encode(1, self.rig.keyspace.stamp(), bulk(value))
        self.coordinator.begin_own()
        self.replica.put_record(keys.record_key(0, key), record)
        self.coordinator.end_own()
        out.append(WRITTEN)
        self.coordinator.round(QUORUM).outs.append(out)

    def get(self, key: bytes, out: list[bytes]) -> None:
        internal = keys.record_key(0, key)
        record = self.rig.engine.get(internal)
        assert record is not None
        ask = self.coordinator.asks[keys.key_slot(internal)]
        assert ask is not None
        ask.keys.append(internal)
        ask.stamps.append(record[1:11])
        ask.places.append((out, len(out), 2))
        out.append(record[11:])
        self.coordinator.round(QUORUM)

    def end_cycle(self) -> None:
        self.coordinator.seal(self.group.now_us)
        self.rig.commit()
        self.coordinator.check_invariants()

    def settled_rounds(self) -> int:
        self.settled += self.coordinator.take_settled()
        return len(self.settled)


class Group:
    """Nodes 1 to 3, or more. ``cut`` holds pairs that cannot talk. ``alone``: of the ring, only this one is there."""

    def __init__(self, nodes: int = 3, quorums: Quorums | None = None, *, alone: int = 0) -> None:
        quorums = quorums or Quorums(replicas=3)
        self.now_us = 1_000_000
        self.wire: list[tuple[int, int, Any]] = []
        self.cut: dict[frozenset[int], None] = {}
        placement = _placement(nodes, quorums.reads[ALL])
        self.sides = {short: Side(self, short) for short in range(1, nodes + 1) if alone in (0, short)}
        for side in self.sides.values():
            side.coordinator.configure(placement, side.short, quorums)

    def deliver(self) -> None:
        while self.wire:
            source, target, message = self.wire.pop(0)
            self.sides[target].receive(source, message)

    def part(self, left: int, right: int) -> None:
        self.cut[frozenset((left, right))] = None
        self.wire = [row for row in self.wire if {row[0], row[1]} != {left, right}]
        for me, other in ((left, right), (right, left)):
            self.sides[me].coordinator.on_member(other, self.now_us)

    def pass_us(self, count: int) -> None:
        self.now_us += count
        for side in self.sides.values():
            side.coordinator.on_timer(self.now_us)

