"""Leaf sums kept exact: settling in slices, walks of a worker when they are unknown, the weekly look.

A walk and a recount of the keys read the same records, so one job does both where both are wanted. After a walk there
is a pause before the next one: sums that are lost again and again, under a load that flushes faster than a walk
takes, are not to be had now. Nothing is kept over a restart: it begins with a walk (docs/decisions/0008).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from respkv.base.errors import BlockRequest, CorruptionError
from respkv.env.rng import Rng
from respkv.keyspace.keyspace import Keyspace
from respkv.keyspace.leaf_sums import LeafSums
from respkv.node.leaf_check import LeafCheck
from respkv.node.pace import Pace, WalkPause
from respkv.replication.merkle import MerkleStore, RaiseFloor
from respkv.storage.job_board import Job

#: The least time between the end of a walk and the next one on an idle node.
WALK_PAUSE_US: Final = 10_000_000


class NodeStore(MerkleStore):
    """The node's data for sessions; what they make it log goes through the node's own commit."""

    __slots__ = ("_commit",)

    def __init__(self, keyspace: Keyspace, sums: LeafSums, raise_floor: RaiseFloor, commit: Callable[[], int]) -> None:
        clock = keyspace.clock
        super().__init__(
            keyspace.engine, keyspace.floors, sums, raise_floor, lambda hlc: clock.observe(hlc, keyspace.now_ms)
        )
        self._commit = commit

    def appended(self) -> int:
        """See ``exchange.Store``."""
        return self._commit()


class LeafUpkeep:
    """The sums of one node, and the store that sessions compare by them."""

    __slots__ = ("_counted", "_job", "_keyspace", "_log", "_pause", "check", "store", "sums")

    def __init__(
        self,
        keyspace: Keyspace,
        sums: LeafSums,
        *,
        raise_floor: RaiseFloor,
        commit: Callable[[], int],
        rng: Rng,
        log: Callable[[str, str], None],
    ) -> None:
        self.sums = sums
        self.store = NodeStore(keyspace, sums, raise_floor, commit)
        self.check = LeafCheck(self.store, rng)
        self._keyspace = keyspace
        self._log = log
        #: the walk under way, 0 for none, and whether its key counts are wanted
        self._job = 0
        self._counted = False
        self._pause = WalkPause(WALK_PAUSE_US)

    def before_commit(self, batch: list[bytes]) -> None:
        """The engine's open batch is about to be committed."""
        self.sums.follow()
        if batch:
            self.sums.wrote(batch)

    def settle(self, limit: int, pace: Pace | None = None) -> BlockRequest | None:
        """Settle about ``limit`` keys, or while the pace allows it; a block that must be fetched first, if one is.

        May raise CorruptionError.
        """
        slices = self.sums.settle(limit)
        return next(filter(None, slices), None) if pace is None else pace.settle(slices)

    def look(self, owned: Sequence[int], now_us: int) -> None:
        """A piece of the weekly look. May raise ReadMiss, CorruptionError."""
        try:
            slot = self.check.step(owned, now_us)
        except CorruptionError:
            self.check.skip(len(owned), now_us)
            raise
        if slot is not None:
            self._log("warning", f"leaf sums of slot {slot} did not fit its records and were put right")

    def next_job(self, now_us: int, *, idle: bool) -> Job | None:
        """A walk over all runs when the sums are unknown; None when there is none to do now."""
        if self._job or not self._pause.over(now_us, idle=idle):
            return None
        sums, counts = self.sums, self._keyspace.counts
        sums.follow()
        if not sums.exact and not self._keyspace.engine.newest_run():
            sums.forget()  # The last run has been dropped: there is nothing to walk over.
        if sums.exact:
            return None
        self._counted = not counts.exact
        if self._counted:
            job = counts.next_job()
            if job is not None:
                job.spec.update(sums.walk_data())
                sums.walk_started()
        else:
            job = sums.next_job()
        if job is not None:
            self._job = job.id
            self._pause.began(now_us)
        return job

    def owns_job(self, job: Job) -> bool:
        """Whether a job that has ended came from ``next_job``."""
        return job.id == self._job

    def on_job_done(self, job: Job, result: dict[str, Any], now_us: int) -> None:
        """The walk has ended. Takes 0.1 s for large stores."""
        self._ended(now_us)
        if self._counted:
            self._keyspace.counts.on_job_done(job.id, result)
            self.sums.install(result["leaves"])
        else:
            self.sums.on_job_done(job.id, result)

    def on_job_failed(self, job: Job, reason: str, now_us: int) -> None:
        """The walk came to nothing; it is offered again later."""
        self._ended(now_us)
        self._keyspace.counts.on_job_failed(job.id, reason)

    def _ended(self, now_us: int) -> None:
        self._job = 0
        self._pause.ended(now_us)

    def stats(self) -> dict[str, int]:
        """Counters for metrics."""
        return {**self.sums.stats(), **self.check.stats()}
