"""Snapshots: BGSAVE, SAVE and save points, made of hard links, without a fork.

A snapshot is a directory ``snapshots/<wall ms, 15 digits>`` that opens as a data directory (under a new node id).
The newest ``snapshots-kept`` stay.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from respkv.keyspace.counts import META_NAME
from respkv.storage.plans import SnapshotPlan, remove_unfinished, try_to_remove

if TYPE_CHECKING:
    from respkv.node.node import Node

_DIRECTORY: Final = "snapshots"


class Snapshots:
    """Makes one snapshot at a time. Times are wall ms."""

    def __init__(self, node: Node, directory: str) -> None:
        self.node = node
        self.path = f"{directory}/{_DIRECTORY}"
        self.last_save_ms = node.now_ms
        self.last_ok = True
        self.last_took_ms = 0
        self.made = 0
        self._plan: SnapshotPlan | None = None
        self._running = False
        self._done: list[Callable[[str], None]] = []
        self._began_ms = self._began_changes = 0
        self._began_floors: dict[str, str] = {}
        self._changes = 0
        self._tried_ms = 0
        self._left_over(remove_unfinished(node.fs, self.path))

    @property
    def busy(self) -> bool:
        """True while a snapshot is under way."""
        return self._plan is not None

    @property
    def waiting(self) -> bool:
        """True while the tables of a snapshot that has begun are not settled: a compaction may still change them."""
        return self._plan is not None and not self._plan.ready

    def changes(self) -> int:
        """Entries that clients' commands have logged since the last snapshot, or since the start."""
        return self.node.changes - self._changes

    def begin(self, done: Callable[[str], None]) -> None:
        """Start a snapshot, or join the one under way."""
        if self._plan is not None:
            self._done.append(done)
            return
        node = self.node
        self._began_ms = self._tried_ms = node.now_ms
        try:
            node.fs.mkdir(self.path)
        except OSError as error:
            self.last_ok = False
            done(f"{self.path}: {error.strerror}")
            return
        self._began_changes = node.changes
        names = self._names()
        number = max(node.now_ms, int(names[-1]) + 1 if names else 0)  # the newest has the greatest name
        name = f"{self.path}/{number:015d}"
        plan = node.engine.snapshot(name)
        node.keyspace.counts.follow()
        self._began_floors = node.keyspace.floors.plain()
        if plan is None:
            self.last_ok = False
            done("no space left on the disk")
            return
        self._plan = plan
        self._done.append(done)
        node.log("notice", f"Background saving started: {name}")

    def ready(self) -> SnapshotPlan | None:
        """The plan that may be run now, once."""
        if self._plan is not None and not self._running and self._plan.ready:
            self._running = True
            self._bring_counts(self._plan)
            return self._plan
        return None

    def _bring_counts(self, plan: SnapshotPlan) -> None:
        """Have the key counts that cover the flush before the snapshot in its manifest.

        They are saved by an edit after the flush's own, which the snapshot's version does not show. A flush of a
        database since then is not in the snapshot but is in the counts: those are left out, and a restored store
        counts anew. Other values of now are not for it: the local facts may be newer than its tables.
        """
        node = self.node
        node.keyspace.counts.follow()
        node.keyspace.counts.save_if_due()
        if node.keyspace.floors.plain() == self._began_floors:
            node.engine.refresh_snapshot(plan, META_NAME)

    def done(self, plan: SnapshotPlan, problem: str) -> None:
        """The plan has run."""
        node = self.node
        node.engine.on_snapshot_done(plan)
        self._plan, self._running = None, False
        self.last_ok = not problem
        self.last_took_ms = node.now_ms - self._began_ms
        if problem:
            node.log("warning", f"Background saving error: {problem}")
        else:
            self.made += 1
            self.last_save_ms = node.now_ms
            self._changes = self._began_changes
            node.log("notice", "Background saving terminated with success")
            self._drop_old()
        waiting, self._done = self._done, []
        for done in waiting:
            done(problem)

    def _names(self) -> list[str]:
        return [name for name in self.node.fs.listdir(self.path) if name.isdigit()]

    def _drop_old(self) -> None:
        for name in self._names()[: -self.node.config.value("snapshots-kept")]:
            self._left_over(try_to_remove(self.node.fs, f"{self.path}/{name}"))

    def _left_over(self, problems: list[str]) -> None:
        """What could not be removed is tried again at the next snapshot."""
        for problem in problems:
            self.node.log("warning", f"cannot remove an old snapshot: {problem}")

    def check(self, rules: tuple[tuple[int, int], ...]) -> None:
        """Begin when one of the (seconds, changes) rules is met; after a failure not before 5 s."""
        if self.busy or not rules:
            return
        now_ms = self.node.now_ms
        if not self.last_ok and now_ms - self._tried_ms < 5_000:
            return
        changes = self.changes()
        for seconds, least in rules:
            if changes >= least and now_ms - self.last_save_ms >= seconds * 1000:
                self.begin(_ignore)
                return


def _ignore(problem: str) -> None:
    """Save points have nobody to tell; the log says how it went."""
