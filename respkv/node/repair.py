"""Repair: what makes the copies of a ring equal again, put together for one node.

Its parts are pure and have files of their own: hints that are replayed (``hint_replay``), sessions of anti-entropy
with co-replicas (``replication/anti_entropy``), the leaf sums that they compare (``leaf_upkeep``), and the purge
watermarks that they prove (``replication/tombstones``), which are kept in the log (``watermark_log``).

The node tells it: ``before_commit`` with each batch before the engine's commit, ``on_ring``, ``on_member``, messages,
``tables_damaged``; and calls ``on_timer`` at ``next_timer_us``, which is to be asked again after a message. A block
that is missing is fetched and the work goes on when it is there.

While ``busy`` says that clients wait, sessions, walks and the weekly look stand still, and hints go slowly.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from respkv.base.errors import BlockRequest, CorruptionError, ReadMiss
from respkv.base.limits import SETTLE_INTERVAL_US, SETTLED_PER_CALL
from respkv.base.slots import SLOT_COUNT
from respkv.cluster.placement import Placement
from respkv.env.fs import FileSystem
from respkv.env.rng import Rng
from respkv.keyspace.keyspace import Keyspace
from respkv.keyspace.leaf_sums import LeafSums
from respkv.node.co_replicas import CoReplicas
from respkv.node.hint_replay import Apply, HintReplay, Send
from respkv.node.leaf_upkeep import LeafUpkeep
from respkv.node.pace import Pace
from respkv.node.watermark_log import Ranges, WatermarkLog
from respkv.replication.anti_entropy import INTERVAL_US, AntiEntropy
from respkv.replication.exchange import Session
from respkv.replication.hints import TARGET_BYTES_MAX, WINDOW_MS, HintStore, HintSyncPlan
from respkv.replication.merkle import RaiseFloor
from respkv.replication.tombstones import PurgeWatermarks, cut_of
from respkv.storage.job_board import Job
from respkv.wire.messages import (
    OK,
    Facts,
    Floors,
    PullRecords,
    TreeEnd,
    TreeKeys,
    TreeLeaves,
    TreeRoots,
    TreeSlots,
    WriteAcks,
)

#: Numbers of this room's writes lie above; a coordinator's lie below.
FIRST_SEQ: Final = 1 << 62
TICK_US: Final = 100_000
#: Between two looks at sessions that move, and at ones that wait for a peer.
_MOVING_US: Final = 1_000
_WAITING_US: Final = 20_000
_SYNC_US: Final = 1_000_000
_ALONE_US: Final = 10_000_000
_TOLD_US: Final = 60_000_000
_SETTLED_FOR_VERIFY: Final = 100_000
#: A session that was asked for and came to nothing is begun again after this long, or up to twice that.
_AGAIN_US: Final = 500_000
#: More single slots than this are asked for as all of them.
_ASKED_MAX: Final = 64
_OWN: Final = (Floors, TreeRoots, TreeSlots, TreeLeaves, TreeKeys, PullRecords, TreeEnd)


class Repair:
    """The repair of one node. Raises what ``HintStore.recover`` and ``PurgeWatermarks.decode`` raise when made."""

    __slots__ = (
        "_again_us", "_alone_us", "_asked", "_begun", "_fetch", "_fetching", "_hint_sync", "_log",
        "_now_ms", "_now_us", "_pace", "_poll_us", "_rng", "_saved", "_send", "_seq", "_settle_us", "_sync_us",
        "_tick_us", "_told_us",
        "busy", "damages", "hints", "leaves", "neighbours", "on_asked", "replay", "sessions", "watermarks",
        "writes_refused",
    )  # fmt: skip

    def __init__(
        self,
        *,
        keyspace: Keyspace,
        leaf_sums: LeafSums,
        fs: FileSystem,
        directory: str,
        rng: Rng,
        mesh_send: Send,
        apply: Apply,
        raise_floor: RaiseFloor,
        commit: Callable[[], int],
        fetch: Callable[[list[BlockRequest], Callable[[], None]], None],
        live: Callable[[int], bool],
        facts: Callable[[int], Facts | None],
        busy: Callable[[], bool],
        pace: Pace,
        log: Callable[[str, str], None],
        now_us: Callable[[], int],
        now_ms: Callable[[], int],
        hint_bytes_max: int = TARGET_BYTES_MAX,
        hint_window_ms: int = WINDOW_MS,
        interval_us: int = INTERVAL_US,
    ) -> None:
        """``apply``: ``Replica.apply``; ``raise_floor``: ``Applier.raise_floor``; ``commit``: append what the cycle has
        written, and its lsn; ``fetch``: ``Node.fetch``; ``facts``: what a member gossiped last, None before that."""
        self.busy = busy
        self._pace = pace
        #: told of each session that was asked for and has ended, with its slots (None: all), and whether it went well
        self.on_asked: Callable[[Session, dict[int, None] | None, bool], None] = _nobody_asks
        self.damages = 0
        self.writes_refused = 0
        self._send = mesh_send
        self._fetch = fetch
        self._log = log
        self._now_us = now_us
        self._now_ms = now_ms
        self._seq = FIRST_SEQ
        self._fetching = False
        self._tick_us = self._settle_us = self._poll_us = self._told_us = self._sync_us = self._alone_us = 0
        self._hint_sync: HintSyncPlan | None = None
        #: sessions that were asked for: peer -> slots, None for all shared ones
        self._asked: dict[int, dict[int, None] | None] = {}
        #: the one of them that runs, with its slots, and before when none is begun
        self._begun: tuple[Session, dict[int, None] | None] | None = None
        self._again_us = 0
        self._rng = rng
        self.hints = HintStore(fs, directory, cap_bytes=hint_bytes_max, window_ms=hint_window_ms)
        self.hints.recover(now_ms())
        skew_ms = keyspace.clock.max_skew_ms
        self.replay = HintReplay(
            self.hints, send=mesh_send, apply=apply, live=live, next_seq=self._next_seq, max_skew_ms=skew_ms
        )
        self.leaves = LeafUpkeep(keyspace, leaf_sums, raise_floor=raise_floor, commit=commit, rng=rng, log=log)
        self.watermarks = PurgeWatermarks(
            leaf_sums.rule.marks, leaf_sums.advance, latest=lambda: cut_of(now_ms() + skew_ms, b"")
        )
        self._saved = WatermarkLog(keyspace, self.watermarks, commit)
        self.neighbours = CoReplicas(self.hints, live, facts)
        self.sessions = AntiEntropy(
            0,
            store=self.leaves.store,
            watermarks=self.watermarks,
            neighbours=self.neighbours,
            rng=rng,
            next_seq=self._next_seq,
            interval_us=interval_us,
        )

    def _next_seq(self) -> int:
        self._seq += 1
        return self._seq

    # -- what the node tells -----------------------------------------------------------------------

    def on_ring(self, placement: Placement, me: int) -> None:
        """The ring is formed, or another one now. O(slots)."""
        before = self.neighbours.placement
        self.sessions.abort_all()
        self.sessions.my = self.replay.me = me
        self.replay.placement = placement
        if before is not None:
            old, new = before.table, placement.table
            changed = [slot for slot in range(SLOT_COUNT) if sorted(old[slot]) != sorted(new[slot])]
            self.watermarks.replicas_changed(changed)
        self.neighbours.follow(placement, me)
        self._asked.clear()
        self._begun = None
        self.leaves.check.forget()
        self._wake()

    def on_member(self, short: int, up: bool) -> None:
        """The first link to a member came up, or the last one went. Who comes back may have lost what it had."""
        self.sessions.peer_lost(short)
        self.replay.on_member(short, up, self._now_us())
        if up:
            self.watermarks.peer_restarted(short)
        self._wake()

    def tables_damaged(self) -> None:
        """Tables were found damaged, or have gone: what the sums count is a guess until a walk."""
        self.leaves.sums.forget()

    def missed(self, target: int, payload: bytes) -> None:
        """A peer did not take these entries: hold them for it."""
        self.replay.missed(target, payload)

    def before_commit(self, batch: list[bytes]) -> None:
        """The open batch is about to be committed; call it before each commit of the engine, an empty one too."""
        self.leaves.before_commit(batch)
        self.replay.commit(self._now_ms())

    # -- messages ----------------------------------------------------------------------------------

    def owns_seq(self, seq: int) -> bool:
        """Whether a number in ``WriteAcks`` is one of this room."""
        return seq > FIRST_SEQ

    def owns(self, message: object) -> bool:
        """Whether the message is for ``on_message``. WriteAcks may be for a coordinator as well."""
        if isinstance(message, WriteAcks):
            return any(map(self.owns_seq, message.done)) or any(self.owns_seq(row[0]) for row in message.refused)
        return isinstance(message, _OWN)

    def on_message(self, short: int, message: Any) -> None:
        """A message from a member. Of WriteAcks only the own numbers matter."""
        placement = self.neighbours.placement
        if placement is None or short not in placement.members:
            return
        now_us, now_ms = self._now_us(), self._now_ms()
        if isinstance(message, WriteAcks):
            self.writes_refused += sum(self.owns_seq(seq) for seq, _, _ in message.refused)
            try:
                self.replay.on_acks(short, message, now_us, now_ms, busy=self.busy())
            except ReadMiss as miss:
                self._wait_for(miss.request)
            return
        self.sessions.on_message(short, message, now_us, now_ms)
        self._poll_us = now_us
        self._send_all()

    def _send_all(self) -> bool:
        outbox, self.sessions.outbox = self.sessions.outbox, []
        for peer, message in outbox:
            self._send(peer, message)
        return bool(outbox)

    # -- time --------------------------------------------------------------------------------------

    def next_timer_us(self) -> int:
        """When ``on_timer`` is due."""
        if self._fetching or self.neighbours.placement is None:
            return self._tick_us
        due_us = min(self._tick_us, self._settle_us)
        return min(due_us, self._poll_us) if self.sessions.running() else due_us

    def _wake(self) -> None:
        self._tick_us = self._settle_us = self._poll_us = 0

    def on_timer(self, now_us: int) -> None:
        """Do what is due, in slices. O(slots) at times, milliseconds."""
        now_ms, busy = self._now_ms(), self.busy()
        tick = now_us >= self._tick_us
        try:
            if tick:
                self._tick_us = now_us + TICK_US
                self.replay.run(now_us, now_ms, busy=busy)
                self._saved.keep(now_us)
                self._raise_alone(now_us, now_ms)
            if self._fetching or self.neighbours.placement is None:
                return
            if now_us >= self._settle_us:
                self._settle_some(now_us)
            if not self._fetching:
                self._poll(now_us, now_ms, busy)
            if tick and not busy and not self._fetching:
                self.leaves.look(self.neighbours.owned, now_us)
        except ReadMiss as miss:
            self._wait_for(miss.request)
        except CorruptionError as damage:
            self._damaged(damage, now_us)

    def _settle_some(self, now_us: int) -> None:
        """All at once, in slices, while clients ask for little; else what costs them little."""
        self._wait_for(self.leaves.settle(SETTLED_PER_CALL, self._pace))
        rest = self._pace.idle and self.leaves.sums.exact and self.leaves.sums.unsettled()
        self._settle_us = now_us + (SETTLE_INTERVAL_US if rest else TICK_US)

    def _wait_for(self, request: BlockRequest | None) -> None:
        if request is not None and not self._fetching:
            self._fetching = True
            self._fetch([request], self._fetched)

    def _fetched(self) -> None:
        self._fetching = False
        self._wake()

    def _damaged(self, damage: CorruptionError, now_us: int) -> None:
        """Stored data is damaged. Sessions end: they would meet it again and again, and prove nothing."""
        self.damages += 1
        self.sessions.abort_all()
        if now_us >= self._told_us:
            self._told_us = now_us + _TOLD_US
            self._log("warning", f"repair met damaged data: {damage}")

    # -- walks -------------------------------------------------------------------------------------

    def next_job(self) -> Job | None:
        """A walk over all runs when the sums are unknown; None when there is none to do now."""
        if self.neighbours.placement is None or self.busy():
            return None
        return self.leaves.next_job(self._now_us(), idle=self._pace.idle)

    def owns_job(self, job: Job) -> bool:
        """Whether a job that has ended came from ``next_job``."""
        return self.leaves.owns_job(job)

    def on_job_done(self, job: Job, result: dict[str, Any]) -> None:
        """A walk has ended. Its key counts are taken too, where they are wanted."""
        self.leaves.on_job_done(job, result, self._now_us())
        self._wake()

    def on_job_failed(self, job: Job, reason: str) -> None:
        """A walk came to nothing; it is offered again later."""
        self.leaves.on_job_failed(job, reason, self._now_us())

    # -- sessions ----------------------------------------------------------------------------------

    def _poll(self, now_us: int, now_ms: int, busy: bool) -> None:
        self.sessions.pause = busy
        self._begin_asked(now_us, now_ms)
        try:
            self.sessions.poll(now_us, now_ms)
        finally:
            pause_us = _MOVING_US if self._send_all() else _WAITING_US
            self._poll_us = max(now_us + pause_us, self.sessions.next_poll_us(now_us))

    def _begin_asked(self, now_us: int, now_ms: int) -> None:
        """Begin a session that was asked for, one at a time: two of everybody with everybody would all be refused."""
        self._note_asked(now_us)
        if not self._asked or self._begun is not None or self.sessions.pause or now_us < self._again_us:
            return
        for peer in self.neighbours.alive():
            if peer in self._asked:
                slots = self._asked[peer]
                if self.sessions.begin(peer, now_us, now_ms, None if slots is None else sorted(slots)):
                    session = next(found for found in reversed(self.sessions.running()) if found.peer == peer)
                    self._begun = session, self._asked.pop(peer)
                    return

    def _note_asked(self, now_us: int) -> None:
        """A session that was asked for has ended. If it came to nothing it is asked for again, a little later."""
        if self._begun is None or self._begun[0] in self.sessions.running():
            return
        (session, slots), self._begun = self._begun, None
        went_well = session.done and session.status == OK
        self.on_asked(session, slots, went_well)
        if went_well:
            return
        self._again_us = now_us + _AGAIN_US + self._rng.randrange(_AGAIN_US)
        if slots is None:
            self._asked[session.peer] = None
        elif session.peer not in self._asked:
            self._asked[session.peer] = slots
        else:
            for slot in slots:
                self._ask(session.peer, slot)

    def _ask(self, peer: int, slot: int | None) -> None:
        before = self._asked.get(peer, {})
        if slot is None or before is None or len(before) >= _ASKED_MAX:
            self._asked[peer] = None
        else:
            self._asked[peer] = {**before, slot: None}

    def repair(self, slot: int | None = None) -> int:
        """Compare a slot, or all, with every co-replica as soon as may be; how many co-replicas there are."""
        peers = self.co_replicas(slot)
        for peer in peers:
            self.ask(peer, slot)
        return len(peers)

    def compare_all(self) -> None:
        """Compare everything with everybody soon."""
        self.repair()

    def ask(self, peer: int, slot: int | None = None) -> None:
        """Compare a slot, or all, with one co-replica as soon as may be; see ``on_asked``."""
        self._ask(peer, slot)
        self._wake()

    def owns_slot(self, slot: int) -> bool:
        """Whether this node is a natural replica of a slot."""
        return self.neighbours.owns(slot)

    def co_replicas(self, slot: int | None = None) -> list[int]:
        """Who else has a slot, or any of this node's."""
        shared = self.neighbours.shared
        return [peer for peer in self.neighbours.peers if slot is None or slot in shared(peer)]

    def verify(self, slot: int | None = None) -> tuple[bool, dict[int, int]]:
        """Roots of a slot, or of all that this node owns, and whether they describe all that is stored now.

        Settles first; where that takes a block or a walk, the answer is False and the caller asks again.
        """
        if not self._fetching:
            try:
                self._wait_for(self.leaves.settle(_SETTLED_FOR_VERIFY))
            except CorruptionError as damage:
                self._damaged(damage, self._now_us())
        store = self.leaves.store
        slots = self.neighbours.owned if slot is None else (slot,)
        return store.ready(), {number: store.root(number) for number in slots}

    # -- watermarks --------------------------------------------------------------------------------

    def purge_ranges(self) -> Ranges:
        """Durable watermarks, for ``retention.plain``."""
        return self._saved.durable

    def _raise_alone(self, now_us: int, now_ms: int) -> None:
        """Slots that have no other replica need nobody's consent, but writes for them may still be under way."""
        if now_us >= self._alone_us:
            self._alone_us = now_us + _ALONE_US
            slots = self.neighbours.alone()
            if slots:
                self.watermarks.raise_alone(slots, self.neighbours.cut(now_ms))

    # -- plans, figures, the end -------------------------------------------------------------------

    def sync_plan(self, *, urgent: bool = False) -> HintSyncPlan | None:
        """Syncs of hint files for a thread, once a second at most unless it is urgent; then ``on_synced``. One is under
        way at a time."""
        now_us = self._now_us()
        if self._hint_sync is not None or (now_us < self._sync_us and not urgent):
            return None
        self._sync_us = now_us + _SYNC_US
        self._hint_sync = self.hints.sync_plan()
        return self._hint_sync

    def on_synced(self, plan: HintSyncPlan) -> None:
        """The plan has run."""
        self._hint_sync = None
        self.hints.on_synced(plan)

    def oldest_hint(self) -> bytes:
        """The least stamp of the hints held here, for gossip; b"" for none."""
        return self.hints.oldest_stamp()

    def hints_pending(self, short: int) -> int:
        """Entries held for a member."""
        return self.hints.pending(short)

    def stats(self) -> dict[str, int]:
        """Counters for metrics and RKV.STATUS. O(slots)."""
        oldest = self.hints.oldest_stamp()
        return {
            **self.replay.stats(),
            "hint_oldest_ms": int.from_bytes(oldest[:6], "big"),
            **self.sessions.stats(),
            "repair_sessions_asked_for": len(self._asked) + (self._begun is not None),
            "repair_paused": int(self.sessions.pause),
            "repair_writes_refused": self.writes_refused,
            "repair_damages": self.damages,
            **self.watermarks.stats(),
            **self.leaves.stats(),
        }

    def by_target(self) -> dict[str, dict[str, int]]:
        """Hints by target: ``hint_target_entries``, ``_bytes`` and ``_oldest_ms``, for metrics with labels."""
        found = self.hints.target_stats()
        return {
            f"hint_target_{name}": {str(target): row[name] for target, row in found.items()}
            for name in ("entries", "bytes", "oldest_ms")
        }

    def close(self) -> None:
        """Clean stop: hints stay on disk."""
        self.replay.commit(self._now_ms())
        self.hints.close()

    def check_invariants(self) -> None:
        """Those of the parts; purged is only what is proved."""
        self.replay.check_invariants()
        self.sessions.check_invariants()
        self.watermarks.check_invariants()
        self.leaves.sums.check_invariants()
        for first, last, mark in self._saved.durable:
            assert all(self.watermarks.marks[slot] >= mark for slot in (first, last))


def _nobody_asks(session: Session, slots: dict[int, None] | None, went_well: bool) -> None:
    """The default of ``on_asked``."""
