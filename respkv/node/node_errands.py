"""Errands of a node: what its ring side and its workers do between cycles, handed through to the rooms that own it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from respkv.replication.rounds import Round
from respkv.storage.job_board import COUNT, Job

if TYPE_CHECKING:
    from respkv.commands.dispatch import Dispatcher
    from respkv.keyspace.apply import Applier
    from respkv.keyspace.keyspace import Keyspace
    from respkv.metrics.hot_keys import HotKeys
    from respkv.metrics.registry import Registry
    from respkv.node.duties import Duties
    from respkv.node.pace import Pace, WalkPause
    from respkv.node.ring_node import RingNode
    from respkv.node.snapshots import Snapshots
    from respkv.storage.engine import Engine
    from respkv.storage.plans import SnapshotPlan

#: Without a write for this long, compaction tidies up what is not worth it under load.
_IDLE_AFTER_US: Final = 5_000_000


class NodeErrands:
    """The base of ``Node``."""

    ring: RingNode | None
    keyspace: Keyspace
    applier: Applier
    snapshots: Snapshots
    engine: Engine
    dispatcher: Dispatcher
    duties: Duties
    metrics: Registry
    log: Callable[[str, str], None]
    changes: int
    now_us: int
    _written_us: int
    pace: Pace
    _recount_pause: WalkPause
    refresh_refusal: Callable[[], None]

    @property
    def hot_keys(self) -> HotKeys:
        """The keys that are asked for most."""
        return self.dispatcher.hot

    def look_at_pace(self) -> None:
        """How much was asked for lately."""
        served = self.ring.served if self.ring is not None else 0
        self.pace.look(self.now_us, self.metrics.commands_processed + self.changes + served)

    # -- on a ring ---------------------------------------------------------------------------------

    def seal(self) -> None:
        """The requests and messages of the cycle are done, its commit comes next."""
        assert self.ring is not None
        if self.keyspace.sighted:
            self.duties.end_cycle()
        if self.keyspace.conflicts is not None:
            # What merges have made of siblings goes to all replicas like a client's write.
            opened = self.ring.coordinator.begin_own()
            self.write_back()
            if opened:
                self.ring.coordinator.end_own()
        self.ring.seal()

    def after_commit(self, lsn: int) -> None:
        """The cycle is logged."""
        assert self.ring is not None
        self.ring.after_commit(lsn)

    def on_durable(self) -> None:
        """More of the log is durable."""
        assert self.ring is not None
        self.ring.on_durable()

    def take_settled(self) -> list[Round]:
        """Rounds whose replies may leave now."""
        assert self.ring is not None
        return self.ring.take_settled()

    def ring_plan(self) -> Any:
        """Files of the ring's to be written in a thread; hand the plan to ``on_ring_plan_done``."""
        return None if self.ring is None else self.ring.plan()

    def on_ring_plan_done(self, plan: Any, error: BaseException | None) -> None:
        """The plan has run."""
        assert self.ring is not None
        self.ring.on_plan_done(plan, error)

    # -- merges ------------------------------------------------------------------------------------

    def write_back(self) -> None:
        """Write what merges have made of siblings, once a cycle; on a ring among the writes of its own clients."""
        conflicts = self.keyspace.conflicts
        if conflicts.merged and self.dispatcher.refusal is None:
            self.applier.write_back()
        conflicts.merged.clear()

    # -- snapshots ---------------------------------------------------------------------------------

    def snapshot_plan(self) -> SnapshotPlan | None:
        """A snapshot that is ready to be linked, in a thread; hand it to ``on_snapshot_done``."""
        return self.snapshots.ready()

    def on_snapshot_done(self, plan: SnapshotPlan, problem: str) -> None:
        """The plan has run; ``problem`` is empty when it went well."""
        self.snapshots.done(plan, problem)

    def snapshot(self, done: Callable[[str], None]) -> None:
        """Make a snapshot; ``done`` gets an error text or an empty one."""
        self.snapshots.begin(done)

    # -- jobs and plans ----------------------------------------------------------------------------

    def next_job(self) -> Job | None:
        """Work for a worker process, None when there is none."""
        idle = self.now_us - self._written_us > _IDLE_AFTER_US
        job = self.engine.next_job(idle=idle, cramped=self.dispatcher.refusal is not None)
        if job is not None:
            return job
        if self.ring is not None and (job := self.ring.repair.next_job()) is not None:
            return job
        return self._recount()

    def _recount(self) -> Job | None:
        """A count of all keys where the counts are a guess, and nothing more urgent is to be done."""
        if not self._recount_pause.over(self.now_us, idle=self.pace.idle):
            return None
        job = self.keyspace.counts.next_job()
        if job is not None:
            self._recount_pause.began(self.now_us)
        return job

    def on_job_done(self, job: Job, result: dict[str, Any]) -> None:
        """A worker has done a job."""
        if self.ring is not None and self.ring.repair.owns_job(job):
            self.ring.repair.on_job_done(job, result)
        elif job.kind == COUNT:
            self._recount_pause.ended(self.now_us)
            self.keyspace.counts.on_job_done(job.id, result)
        else:
            self.engine.on_job_done(job.id, result)

    def on_job_failed(self, job: Job, reason: str) -> None:
        """A worker has failed at a job; it is offered again later."""
        self.log("warning", f"{job.kind} job failed: {reason}")
        if self.ring is not None and self.ring.repair.owns_job(job):
            self.ring.repair.on_job_failed(job, reason)
        elif job.kind == COUNT:
            self._recount_pause.ended(self.now_us)
            self.keyspace.counts.on_job_failed(job.id, reason)
        else:
            self.engine.on_job_failed(job.id, reason)
        self.refresh_refusal()
