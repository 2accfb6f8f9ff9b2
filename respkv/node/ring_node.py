"""The ring side of a node: everything that a member has and a single node has not, put together, still pure.

``mesh`` (links), ``member`` (formation, gossip, placement), ``replica`` and ``coordinator`` (both ends of N/R/W),
``repair`` (hints, anti-entropy, watermarks) and ``forwards``. The node tells it of cycles, time and commits; messages
come in by ``receive`` and go out, after the commit that covers them, by the mesh.

*Nothing leaves before it is logged.* What replication sends is gathered until the commit and handed to the mesh when
that commit may be shown: at once, or with ``appendfsync always`` when it is durable. Gossip does not wait: it says
nothing of data.

A message that needs a block from disk waits for it and is then taken again from its start; what overtakes it meanwhile
is harmless, since records win by their stamps and not by their order.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from respkv.base.errors import CorruptionError, ProtocolError, ReadMiss, StorageFull
from respkv.base.prefixes import prefix_table
from respkv.base.slots import SLOT_COUNT
from respkv.causality.hlc import ClockSkewError
from respkv.cluster.placement import Placement
from respkv.cluster.ring import Ring
from respkv.commands.ring_dispatch import RingDispatcher
from respkv.commands.session import Pending, Session
from respkv.commands.spec import CommandSpec
from respkv.keyspace.keys import RECORD_KEY_AT, key_slot
from respkv.keyspace.leaf_sums import LeafSums
from respkv.node import key_rules
from respkv.node.back_pressure import BackPressure
from respkv.node.burials import Burials
from respkv.node.clock_alarm import ClockAlarm
from respkv.node.forwards import Forwards
from respkv.node.mend import Mend
from respkv.node.mesh import Mesh
from respkv.node.repair import Repair
from respkv.node.ring_figures import figures_of
from respkv.node.ring_flush import RingFlush
from respkv.node.ring_member import RingMember
from respkv.node.ring_pubsub import RingPubSub
from respkv.node.ring_settings import RingSettings
from respkv.node.ring_timers import RingTimers
from respkv.node.ring_view import RingView
from respkv.node.ring_wait import RingWait
from respkv.node.ring_walk import RingWalk
from respkv.node.ring_watch import RingWatch
from respkv.node.stand_in_side import StandInSide
from respkv.replication.coordinator import Coordinator
from respkv.replication.levels import Quorums
from respkv.replication.replica import Replica
from respkv.replication.rounds import Round
from respkv.resp import errors
from respkv.storage.wal import FatalStorageError
from respkv.wire.codec import encode
from respkv.wire.handshake import TELLS_PRESSURE, TELLS_TIME
from respkv.wire.messages import (
    ALL_ENTRIES,
    BUSY,
    IO_ERROR,
    SLICE,
    Facts,
    FlushTo,
    Forward,
    Forwarded,
    HoldFor,
    Interest,
    Pressure,
    Publish,
    RangeRead,
    RangeResult,
    ReadResult,
    Reads,
    SessionGone,
    Status,
    StatusPull,
    Time,
    WriteAcks,
    Writes,
)

if TYPE_CHECKING:
    from respkv.node.node import Node

#: Messages that wait for a block. More are answered BUSY.
_WAITING_MAX: Final = 4096
#: So many memtables wait for their flush before others' writes are refused, to come as hints when there is room again.
#: This node's own clients are held at two; what it brings up to date by itself (read repair) is taken.
RETIRED_MAX: Final = 3


class RingNode(RingView):
    """Implements ``commands.session.RingPort`` and ``commands.ring_dispatch.RingWork``."""

    def __init__(
        self, node: Node, dispatcher: RingDispatcher, settings: RingSettings, *, node_id: bytes, directory: str
    ) -> None:
        """Loads the ring's files; blocking. Raises RingProblem and what ``Repair`` raises."""
        keyspace, config = node.keyspace, node.config
        self.node = node
        self.settings = settings
        self._seq = keyspace.clock.last  # No answer to a question of an earlier life can be taken for one of this.
        self._waiting = 0
        #: what was read and run for other nodes since the start
        self.served = 0
        self._outgoing: list[tuple[int, list[bytes]]] = []
        self._unshown: deque[tuple[int, list[tuple[int, list[bytes]]]]] = deque()
        self._acks: dict[int, tuple[list[int], list[tuple[int, int, int]]]] = {}
        self.clock_alarm = ClockAlarm(node.log)
        self.mesh = self._make_mesh(node_id)
        self.replica = Replica(node.applier)
        self.coordinator = Coordinator(
            self.replica,
            node.engine,
            send=self.send,
            send_encoded=self._send_encoded,
            live=self.live,
            missed=self._missed,
            next_seq=self._next_seq,
        )
        self.coordinator.levels_for = prefix_table(settings.levels_for)
        self.member = RingMember(
            join=settings.join(node_id),
            seeds=settings.seeds,
            cluster_size=settings.cluster_size,
            replicas=settings.replicas,
            colocate=settings.colocate,
            mesh=self.mesh,
            fs=node.fs,
            directory=directory,
            rng=node.rng,
            log=node.log,
            now_us=node.now_us,
        )
        self.member.follow(config)
        self.member.on_ring = self._on_ring
        self.member.on_change = self._on_change
        self.member.facts = self._facts
        self.mesh.heard = self.member.heard
        self.leaf_sums = LeafSums(node.engine, keyspace.floors)
        self.repair = self._make_repair(directory)
        self.replica.watermarks = self.repair.watermarks
        keyspace.watermark = self.repair.watermarks.get
        self.forwards = self._make_forwards(dispatcher)
        self.pressure = BackPressure(own_us=lambda: node.engine.brake_us(), peers=self._pressed_peers, send=self.send)
        self.flushes = RingFlush(node, self.coordinator, send=self.send, live=self.live, next_seq=self._next_seq)
        self.mend = self._make_mend()
        self.burials = Burials(self)
        self.waits = RingWait(node, self.coordinator, hinted=self.repair.hints_pending)
        self.coordinator.stand_ins.on = settings.sloppy
        self.stand_in = StandInSide(self, allowed=settings.sloppy, ack=self._ack)
        self.watch = RingWatch(
            self.repair, self.replica, send=self.send, live=self.live, next_seq=self._next_seq,
            now_us=lambda: node.now_us,
        )  # fmt: skip
        self.pubsub = RingPubSub(node.pubsub, send=self.send, spare=self.mesh.spare)
        self.walks = RingWalk(node, dispatcher, send=self.send, next_op=self.forwards.next_op)
        dispatcher.coordinator = self.coordinator
        dispatcher.work = self
        self._handlers = self._make_handlers()
        node.metrics.attach("ring", lambda: figures_of(self))
        if self.member.ring is not None and self.member.placement is not None:
            self._on_ring(self.member.ring, self.member.placement)
        self._timers = RingTimers(self)

    def _make_handlers(self) -> dict[type, Callable[[int, Any], None]]:
        """Who takes which message of a member."""
        return {
            Writes: self._on_writes,
            WriteAcks: self._on_acks,
            Reads: self._on_reads,
            ReadResult: self._on_result,
            RangeRead: self._on_range_read,
            RangeResult: self._on_range_result,
            Forward: self._on_forward,
            Forwarded: self._on_forwarded,
            SessionGone: self.forwards.on_session_gone,
            Time: self.forwards.on_time,
            Pressure: self._on_pressure,
            FlushTo: self._on_flush,
            Publish: self.pubsub.on_publish,
            Interest: self.pubsub.on_interest,
            HoldFor: self.stand_in.on_hold,
            StatusPull: self._on_pull,
            Status: self.watch.on_status,
        }

    def _make_mesh(self, node_id: bytes) -> Mesh:
        node = self.node
        mesh = Mesh(node_id, secret=self.settings.secret, rng=node.rng, log=node.log)
        mesh.clock = lambda: node.keyspace.clock.last
        mesh.receive = self.receive
        mesh.on_member = self._on_link
        mesh.observe = self._observe
        return mesh

    def _make_forwards(self, dispatcher: RingDispatcher) -> Forwards:
        return Forwards(
            self.node,
            dispatcher,
            send=self.send,
            linked=self.mesh.linked,
            tells_time=lambda short: self.mesh.can(short, TELLS_TIME),
            crowded=self._is_crowded,
            first_op=self._seq,
        )

    def _make_mend(self) -> Mend:
        node, repair = self.node, self.repair
        return Mend(
            node.applier,
            self.replica,
            repair.neighbours,
            send=self.send,
            next_seq=self._next_seq,
            commit=lambda: node.commit(own=True),
            fetch=node.fetch,
            busy=self._is_busy,
            mended=repair.compare_all,
            watermark=repair.watermarks.get,
            log=node.log,
        )

    def _make_repair(self, directory: str) -> Repair:
        node, config = self.node, self.node.config
        return Repair(
            keyspace=node.keyspace,
            leaf_sums=self.leaf_sums,
            fs=node.fs,
            directory=directory,
            rng=node.rng,
            mesh_send=self.send,
            apply=self.replica.apply,
            raise_floor=node.applier.raise_floor,
            commit=lambda: node.commit(own=True),
            fetch=node.fetch,
            live=self.live,
            facts=lambda short: self.member.peer_facts.get(short),
            busy=self._is_busy,
            pace=node.pace,
            log=node.log,
            now_us=lambda: node.now_us,
            now_ms=lambda: node.now_ms,
            hint_bytes_max=config.value("hints-max-bytes"),
            hint_window_ms=config.value("hint-window") * 1000,
        )

    # -- the node tells ----------------------------------------------------------------------------

    def seal(self) -> None:
        """The cycle's requests and messages are done; its commit comes next."""
        self.pubsub.seal()
        self.coordinator.seal(self.node.now_us)
        self.forwards.seal()
        if self._acks:
            acks, self._acks = self._acks, {}
            for peer, (done, refused) in acks.items():
                self.send(peer, WriteAcks(done, tuple(refused)))
        self._timers.look()

    def before_commit(self) -> None:
        """The open batch is about to be logged."""
        self.coordinator.before_commit()
        self.repair.before_commit(self.node.engine.batch)

    def after_commit(self, lsn: int) -> None:
        """The cycle is logged: what it sends may go, or waits until it is durable."""
        if self._outgoing:
            outgoing, self._outgoing = self._outgoing, []
            if self._unshown or (self.node.holds_replies and lsn > self.node.durable_lsn):
                self._unshown.append((lsn, outgoing))
            else:
                self._hand_over(outgoing)

    def on_durable(self) -> None:
        """More of the log is durable."""
        durable = self.node.durable_lsn
        while self._unshown and (self._unshown[0][0] <= durable or not self.node.holds_replies):
            self._hand_over(self._unshown.popleft()[1])

    def _hand_over(self, outgoing: list[tuple[int, list[bytes]]]) -> None:
        send = self.mesh.send_encoded
        for short, parts in outgoing:
            send(short, parts)

    def take_settled(self) -> list[Round]:
        """Rounds whose replies may leave now."""
        return self.coordinator.take_settled()

    def session_gone(self, session: Session) -> None:
        """A connection has ended."""
        if self.member.placement is not None:
            self.forwards.session_gone(session, tuple(s for s in self.member.placement.members if s != self.me))

    def close(self) -> None:
        """The node stops."""
        self.repair.close()

    # -- sending -----------------------------------------------------------------------------------

    def _next_seq(self) -> int:
        self._seq += 1
        return self._seq

    def send(self, short: int, message: Any) -> bool:
        """Send with this cycle. False: there is no link, nothing will be sent."""
        if not self.mesh.linked(short):
            return False
        self._outgoing.append((short, encode(message)))
        return True

    def _send_encoded(self, short: int, parts: list[bytes]) -> bool:
        if not self.mesh.linked(short):
            return False
        self._outgoing.append((short, parts))
        return True

    def _missed(self, short: int, payload: bytes) -> None:
        self.repair.missed(short, payload)

    # -- messages ----------------------------------------------------------------------------------

    def receive(self, short: int, link: int, message: Any) -> None:
        """A message came. ProtocolError: the peer talks nonsense, its link is closed."""
        handler = self._handlers.get(type(message))
        if handler is not None:
            if short:
                handler(short, message)
        elif self.member.owns(message):
            self.member.on_message(short, link, message, self.node.now_us)
        elif short and self.repair.owns(message):
            self.repair.on_message(short, message)

    def _again(self, miss: ReadMiss, handler: Callable[[int, Any], None], short: int, message: Any) -> bool:
        """Take the message again when the block is there. False: too many wait already.

        Then it may turn out to be nonsense, when its link has long gone on to other messages: that link ends, too.
        """
        if self._waiting >= _WAITING_MAX:
            return False
        self._waiting += 1

        def again() -> None:
            self._waiting -= 1
            try:
                handler(short, message)
            except ProtocolError as error:
                self.mesh.refuse(short, str(error))

        self.node.fetch([miss.request], again)
        return True

    def _on_writes(self, short: int, message: Writes) -> None:  # HOT: replica_apply
        refused: tuple[tuple[int, int], ...] = ()
        if self.node.dispatcher.refusal is not None:
            refused = ((ALL_ENTRIES, IO_ERROR),)
        elif self._is_crowded():
            refused = ((ALL_ENTRIES, BUSY),)
        else:
            try:
                refused = self.replica.apply(message.kind, message.payload, short)
            except ReadMiss as miss:
                if self._again(miss, self._on_writes, short, message):
                    return
                refused = ((ALL_ENTRIES, BUSY),)
            except StorageFull:
                refused = ((ALL_ENTRIES, IO_ERROR),)
            except CorruptionError as damage:
                self.node.duties.damaged(damage)
                refused = ((ALL_ENTRIES, IO_ERROR),)
        acks = self._acks.get(short)
        if acks is None:
            acks = self._acks[short] = ([], [])
        if not refused or refused[0][0] != ALL_ENTRIES:
            acks[0].append(message.seq)
        if refused:
            acks[1].extend((message.seq, index, status) for index, status in refused)
        if self.node.engine.overfull():
            self.node.commit()

    def _on_pressure(self, short: int, message: Pressure) -> None:
        self.pressure.on_pressure(short, message, self.node.now_us)

    def _on_acks(self, short: int, message: WriteAcks) -> None:
        if self.repair.owns(message):
            self.repair.on_message(short, message)
            self.stand_in.holding.forget_delivered()
        self.flushes.on_acks(short, message)
        self.coordinator.on_acks(short, message)

    def _on_reads(self, short: int, message: Reads) -> None:
        self.served += len(message.keys)
        try:
            self.send(short, self.stand_in.reads(message) or self.replica.read(message))
        except ReadMiss as miss:
            if not self._again(miss, self._on_reads, short, message):
                self.send(short, ReadResult(message.seq, BUSY))
        except IndexError:
            # Only now is it asked whether these are keys at all: beforehand that would cost a tenth of an answer.
            if all(len(each) >= RECORD_KEY_AT and key_slot(each) < SLOT_COUNT for each in message.keys):
                raise
            raise ProtocolError("a read of a key that is none") from None

    def _on_result(self, short: int, message: ReadResult | RangeResult) -> None:
        try:
            self.coordinator.on_result(short, message, self.node.now_us)
        except ReadMiss as miss:
            self._again(miss, self._on_result, short, message)
        except StorageFull:
            self.coordinator.on_damage(message)
        except CorruptionError as damage:
            self.node.duties.damaged(damage)
            self.coordinator.on_damage(message)

    def _on_range_result(self, short: int, message: RangeResult) -> None:
        if self.mend.owns_seq(message.seq):
            self.mend.on_range(short, message)
        else:
            self._on_result(short, message)

    def _on_range_read(self, short: int, message: RangeRead) -> None:
        try:
            self.send(short, self.replica.read_range(message))
        except ReadMiss as miss:
            if not self._again(miss, self._on_range_read, short, message):
                self.send(short, RangeResult(message.seq, BUSY, False))

    def _on_forward(self, short: int, message: Forward) -> None:
        self.served += 1
        if message.flags & SLICE:
            self.walks.on_slice(short, message)
        else:
            self.forwards.on_forward(short, message)

    def _on_forwarded(self, short: int, message: Forwarded) -> None:
        if not self.walks.on_forwarded(short, message):
            self.forwards.on_forwarded(short, message)

    def _on_flush(self, short: int, message: FlushTo) -> None:
        self.replica.flush(message)
        self._ack(short, message.seq, None)

    def _ack(self, short: int, seq: int, refusal: int | None) -> None:
        """Ack a message with this cycle, or refuse it as a whole."""
        done, refused = self._acks.setdefault(short, ([], []))
        if refusal is None:
            done.append(seq)
        else:
            refused.append((seq, ALL_ENTRIES, refusal))

    def _on_pull(self, short: int, message: StatusPull) -> None:
        try:
            self.watch.on_pull(short, message)
        except ReadMiss as miss:
            self._again(miss, self._on_pull, short, message)

    def _observe(self, short: int, clock: int) -> None:
        """The clock at the head of a frame."""
        try:
            self.node.keyspace.clock.observe(clock, self.node.now_ms)
        except ClockSkewError as skew:
            self.clock_alarm.raised(short, str(skew), self.node.now_us)

    # -- the ring ----------------------------------------------------------------------------------

    def _on_ring(self, ring: Ring, placement: Placement) -> None:
        settings, me = self.settings, self.member.me
        self.node.keyspace.clock.node = me
        quorums = Quorums(
            replicas=placement.replicas, reads=settings.read_quorum, writes=settings.write_quorum
        )
        self.coordinator.configure(placement, me, quorums, settings.level)
        key_rules.on_ring(self.node, placement, settings.colocate)
        self.repair.on_ring(placement, me)
        self.watch.me = me
        self.node.log("notice", f"Member {me} of a ring of {len(ring.members)} nodes, epoch {ring.epoch}")

    def _on_state(self, short: int) -> None:
        """A member, or its link, has become another one."""
        self.coordinator.on_member(short, self.node.now_us)
        self.stand_in.look(len(self.coordinator.stand_ins.of), self.node.now_us)

    def _on_change(self, short: int, live: bool) -> None:
        if not live:
            self.forwards.target_lost(short)
        self._on_state(short)

    def _on_link(self, short: int, up: bool) -> None:
        self.member.on_link(short, up, self.node.now_us)
        self.repair.on_member(short, up)
        self.pubsub.on_link(short, up)
        if up:
            self.forwards.tell_time(short)
        else:
            self.forwards.peer_lost(short)
            self.pressure.peer_lost(short, self.node.now_us)
            self.flushes.peer_lost(short)
            self.watch.peer_lost(short)
            self.walks.peer_lost(short)
        self._on_state(short)

    def _facts(self) -> Facts:
        ring = self.member.ring
        return Facts(
            ring_epoch=ring.epoch if ring is not None else 0,
            clock=self.node.keyspace.clock.last,
            oldest_hint=self.repair.oldest_hint(),
        )

    def _pressed_peers(self) -> list[int]:
        placement = self.member.placement
        members = () if placement is None else placement.members
        return [short for short in members if self.mesh.can(short, TELLS_PRESSURE)]

    def _is_crowded(self) -> bool:
        """Flushing is so far behind that nothing more is taken."""
        return len(self.node.engine.immutables) >= RETIRED_MAX

    def _is_busy(self) -> bool:
        """Clients wait for this node's sake: repair goes slowly."""
        return self.node.engine.brake_us() > 0

    # -- plans -------------------------------------------------------------------------------------

    def plan(self) -> Any:
        """Files to write in a thread: hand it to ``on_plan_done``. None when there is nothing to do."""
        plan = self.member.save_plan()
        if plan is not None:
            return plan
        syncs = self.repair.sync_plan(urgent=self.stand_in.waits_for_sync())
        self.stand_in.on_plan(syncs)
        return syncs

    def on_plan_done(self, plan: Any, error: BaseException | None) -> None:
        """A plan has run. Raises FatalStorageError when nobody knows what the disk holds now."""
        if isinstance(error, FatalStorageError):
            raise error
        if hasattr(plan, "cluster"):
            if error is None:
                self.member.on_saved(plan)
            else:
                self.member.on_save_failed(plan, error, self.node.now_us)  # type: ignore[arg-type]
        elif error is None:
            self.repair.on_synced(plan)
            self.stand_in.on_synced()
        else:
            raise FatalStorageError(f"cannot sync hints: {error}") from error

    # -- RingWork ----------------------------------------------------------------------------------

    def forward(self, session: Session, target: int, commands: list[list[bytes]], level: int) -> Pending:
        """Have another node execute a request, or a transaction."""
        return self.forwards.forward(session, target, commands, level)

    def flush(self, session: Session, dbs: list[int], level: int) -> Pending:
        """Raise the floors of databases on all members."""
        return self.flushes.flush(dbs, level)

    def wait(self, session: Session, spec: CommandSpec, argv: list[bytes]) -> Pending | bytes:
        """WAIT and WAITAOF."""
        return self.waits.wait(session, spec, argv)

    def not_formed(self) -> bytes:
        """Why requests are not served while there is no ring."""
        refused = self.member.refused
        return errors.FORMING if refused is None else errors.kept_out(refused)

    def walk(self, session: Session, spec: CommandSpec, argv: list[bytes]) -> Pending | bytes:
        """SCAN, KEYS, DBSIZE, RANDOMKEY over slots of several nodes."""
        return self.walks.walk(session, spec, argv)

    def check_invariants(self) -> None:
        """Those of the parts."""
        self.coordinator.check_invariants()
        self.mesh.check_invariants()
        self.member.check_invariants()
        assert len(self.coordinator.ready) == SLOT_COUNT
