"""When the log is synced, by policy; errands; lanes."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from respkv.base.errors import CorruptionError, StorageFull
from respkv.server.durability import LAZY_PERIOD_US, PERIOD_US, SYNC_BYTES, Durability
from respkv.server.errands import READ_AGAIN_US, Errands
from respkv.server.lanes import Lane
from respkv.storage.wal import FatalStorageError
from tests.unit.server.fake_node import FakeClock, FakeNode, FakePlan


class StepLane:
    """A lane whose work is done when the test says so."""

    def __init__(self) -> None:
        self.items: list[tuple[Callable[[], Any], Callable[[Any, BaseException | None], None]]] = []

    def submit(self, work: Callable[[], Any], done: Callable[[Any, BaseException | None], None]) -> None:
        self.items.append((work, done))

    def step(self) -> None:
        work, done = self.items.pop(0)
        try:
            result = work()
        except Exception as error:
            done(None, error)
        else:
            done(result, None)


class Desk:
    """Durability over a fake node."""

    def __init__(self, policy: str) -> None:
        self.node, self.clock, self.lane = FakeNode(), FakeClock(), StepLane()
        self.policy = policy
        self.synced: list[int] = []
        self.fatal: list[BaseException] = []
        self.measured: list[int] = []
        self.durability = Durability(
            self.node,
            self.lane,  # type: ignore[arg-type]
            policy=lambda: self.policy,
            clock_us=self.clock.monotonic_us,
            synced=lambda: self.synced.append(self.node.durable_lsn),
            fatal=self.fatal.append,
            measured=self.measured.append,
        )

    def append(self, count: int = 1) -> None:
        self.node.lsn += count
        self.durability.on_append()


def test_always_syncs_at_once_and_groups_what_comes_meanwhile() -> None:
    desk = Desk("always")
    desk.append()
    assert len(desk.lane.items) == 1
    desk.append()
    desk.append()
    assert len(desk.lane.items) == 1, "one sync at a time"
    desk.lane.step()
    assert desk.node.durable_lsn == 1 and desk.synced == [1]
    assert len(desk.lane.items) == 1, "the next covers both"
    desk.lane.step()
    assert desk.node.durable_lsn == 3 and not desk.lane.items
    assert desk.durability.stats() == {"syncs": 2, "running": 0}


def test_everysec_waits_a_second() -> None:
    desk = Desk("everysec")
    desk.append()
    desk.durability.on_timer()
    assert not desk.lane.items
    desk.clock.us += PERIOD_US
    desk.durability.on_timer()
    assert len(desk.lane.items) == 1
    desk.clock.us += 1_234
    desk.lane.step()
    assert desk.node.durable_lsn == 1 and desk.measured == [1_234]
    desk.clock.us += 10 * PERIOD_US
    desk.durability.on_timer()
    assert not desk.lane.items, "nothing to sync"


def test_everysec_syncs_early_after_many_bytes() -> None:
    desk = Desk("everysec")
    desk.append(SYNC_BYTES - 1)
    assert not desk.lane.items
    desk.append()
    assert len(desk.lane.items) == 1


def test_no_leaves_it_to_the_system_for_long() -> None:
    desk = Desk("no")
    desk.append(SYNC_BYTES + 1)
    desk.clock.us += 10 * PERIOD_US
    desk.durability.on_timer()
    assert not desk.lane.items
    desk.clock.us += LAZY_PERIOD_US
    desk.durability.on_timer()
    assert len(desk.lane.items) == 1


def test_a_change_to_always_is_noticed_without_a_write() -> None:
    desk = Desk("no")
    desk.append()
    desk.policy = "always"
    desk.durability.on_timer()
    assert len(desk.lane.items) == 1


def test_a_sync_that_was_asked_for_whatever_the_policy() -> None:
    desk = Desk("no")
    desk.durability.sync_now()
    assert not desk.lane.items, "everything is durable"
    desk.append()
    desk.durability.sync_now()
    desk.append()
    desk.durability.sync_now()
    assert len(desk.lane.items) == 1
    desk.lane.step()
    assert len(desk.lane.items) == 1, "the first did not cover the second append"


def test_a_failed_sync_is_fatal_and_acknowledges_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    desk = Desk("always")

    def fail() -> None:
        raise OSError("EIO")

    monkeypatch.setattr(desk.node, "sync_plan", lambda: FakePlan(1, fail))
    desk.append()
    desk.lane.step()
    assert desk.node.durable_lsn == 0 and desk.synced == [] and len(desk.fatal) == 1


class Block:
    """A block request that answers as it is told."""

    def __init__(self, failure: Exception | None = None) -> None:
        self.failure = failure
        self.installed: object = None

    def read(self) -> object:
        if self.failure is not None:
            raise self.failure
        return b"block"

    def install(self, block: object) -> None:
        self.installed = block


class Fetch:
    def __init__(self, *blocks: Block) -> None:
        self.requests: list[Any] = list(blocks)
        self.count = 0

    def done(self) -> None:
        self.count += 1


class Office:
    """Errands with step lanes and a pool that keeps what it is given."""

    def __init__(self) -> None:
        self.node = ErrandNode()
        self.desk = Desk("everysec")
        self.edits, self.reads = StepLane(), StepLane()
        self.jobs: list[tuple[Any, Callable[..., None]]] = []
        self.later: list[tuple[int, Callable[[], None]]] = []
        self.fatal: list[BaseException] = []
        self.log: list[str] = []
        self.errands = Errands(
            self.node,
            durability=self.desk.durability,
            jobs=self,
            edits=self.edits,  # type: ignore[arg-type]
            reads=self.reads,  # type: ignore[arg-type]
            call_later=lambda us, action: self.later.append((us, action)),
            fatal=self.fatal.append,
            log=lambda level, text: self.log.append(text),
        )

    def submit(self, job: Any, done: Callable[..., None]) -> None:
        self.jobs.append((job, done))


class ErrandNode(FakeNode):
    """Gives out what the test puts in its lists, and notes what comes back."""

    def __init__(self) -> None:
        super().__init__()
        self.jobs: list[Any] = []
        self.manifests: list[Any] = []
        self.snapshots: list[Any] = []
        self.fetches: list[Any] = []
        self.events: list[tuple[Any, ...]] = []

    def take_fetches(self) -> list[Any]:
        taken, self.fetches = self.fetches, []
        return taken

    def on_fetch_failed(self, request: Any, error: Exception) -> None:
        self.events.append(("unreadable", request, error))

    def next_job(self) -> Any:
        return self.jobs.pop(0) if self.jobs else None

    def manifest_plan(self) -> Any:
        return self.manifests.pop(0) if self.manifests else None

    def snapshot_plan(self) -> Any:
        return self.snapshots.pop(0) if self.snapshots else None

    def on_job_done(self, job: Any, result: dict[str, Any]) -> None:
        self.events.append(("done", job, result))

    def on_job_failed(self, job: Any, reason: str) -> None:
        self.events.append(("failed", job, reason))

    def on_manifest_synced(self, plan: Any) -> None:
        self.events.append(("manifest", plan))

    def on_snapshot_done(self, plan: Any, problem: str) -> None:
        self.events.append(("snapshot", plan, problem))


def test_jobs_go_to_the_pool_and_their_results_lead_to_an_edit() -> None:
    office = Office()
    office.node.jobs = ["flush", "compact"]
    office.errands.start()
    assert [job for job, _ in office.jobs] == ["flush", "compact"]
    plan = FakePlan(0)
    office.node.manifests = [plan]
    office.jobs[0][1]("flush", {"tables": []}, "")
    assert len(office.edits.items) == 1
    office.edits.step()
    assert office.node.events == [("done", "flush", {"tables": []}), ("manifest", plan)]
    office.jobs[1][1]("compact", None, "disk full")
    assert office.node.events[-1] == ("failed", "compact", "disk full")


def test_looking_goes_on_until_it_is_stopped() -> None:
    office = Office()
    office.errands.start()
    office.node.jobs = ["flush"]
    office.later.pop()[1]()
    assert len(office.jobs) == 1
    office.errands.stop()
    office.node.jobs = ["compact"]
    office.later.pop()[1]()
    office.errands.pull()
    assert len(office.jobs) == 1 and office.later == []


@pytest.mark.parametrize("error", [FatalStorageError("sync failed"), ValueError("a bug")])
def test_an_edit_whose_sync_failed_is_fatal(error: Exception) -> None:
    office = Office()

    def fail() -> None:
        raise error

    office.node.manifests = [FakePlan(0, fail)]
    office.errands.pull()
    office.edits.step()
    assert office.fatal == [error] and office.node.events == []


class FailingPlan(FakePlan):
    """Raises, and notes that it was told."""

    def __init__(self, error: Exception) -> None:
        super().__init__(0)
        self.error = error
        self.told: list[Exception] = []

    def run(self) -> None:
        raise self.error

    def failed(self, error: Exception) -> None:
        self.told.append(error)


@pytest.mark.parametrize("error", [StorageFull("full"), CorruptionError("t", 0, "bad"), OSError("EMFILE")])
def test_an_edit_that_failed_otherwise_goes_back_to_the_node(error: Exception) -> None:
    office = Office()
    plan = FailingPlan(error)
    office.node.manifests = [plan]
    office.errands.pull()
    office.edits.step()
    assert plan.told == [error] and office.fatal == [] and office.node.events == []


@pytest.mark.parametrize(("error", "problem"), [(None, ""), (OSError("no space"), "no space")])
def test_a_snapshot_is_reported_however_it_went(error: Exception | None, problem: str) -> None:
    office = Office()

    def run() -> None:
        if error is not None:
            raise error

    plan = FakePlan(0, run)
    office.node.snapshots = [plan]
    office.errands.pull()
    office.edits.step()
    assert office.node.events == [("snapshot", plan, problem)]


def test_blocks_are_read_in_a_thread_and_installed_on_the_loop() -> None:
    office = Office()
    fetch = Fetch(Block(), Block())
    office.node.fetches = [fetch]
    office.errands.after_cycle()
    assert fetch.count == 0
    office.reads.step()
    assert fetch.count == 1 and [block.installed for block in fetch.requests] == [b"block"] * 2


def test_a_damaged_block_is_left_to_the_reader() -> None:
    office = Office()
    fetch = Fetch(Block(CorruptionError("t", 0, "bad")))
    office.node.fetches = [fetch]
    office.errands.after_cycle()
    office.reads.step()
    assert fetch.count == 1 and fetch.requests[0].installed is None
    assert [event[:2] for event in office.node.events] == [("unreadable", fetch.requests[0])]


def test_an_unreadable_block_is_tried_again_later() -> None:
    office = Office()
    fetch = Fetch(Block(OSError(5, "Input/output error")))
    office.node.fetches = [fetch]
    office.errands.after_cycle()
    office.reads.step()
    assert fetch.count == 0 and "Input/output error" in office.log[0]
    assert [event[:2] for event in office.node.events] == [("unreadable", fetch.requests[0])]
    delay_us, action = office.later.pop()
    action()
    assert delay_us == READ_AGAIN_US and fetch.count == 1


def test_the_node_can_ask_for_a_sync() -> None:
    office = Office()
    office.desk.node.lsn = 1
    office.node.wants_sync = True
    office.errands.after_cycle()
    assert len(office.desk.lane.items) == 1 and not office.node.wants_sync


def test_a_lane_works_in_order_in_its_own_thread_and_reports_errors() -> None:
    posted: list[Callable[[], None]] = []
    arrived = threading.Semaphore(0)

    def post(action: Callable[[], None]) -> None:
        posted.append(action)
        arrived.release()

    lane = Lane("test", post)
    results: list[tuple[Any, str]] = []
    error = ValueError("no")

    def fail() -> None:
        raise error

    for work in (lambda: 1, fail, lambda: threading.current_thread().name):
        lane.submit(work, lambda result, failure: results.append((result, str(failure))))
    for _ in range(3):
        assert arrived.acquire(timeout=5)
    assert results == [], "results are told on the loop"
    for action in posted:
        action()
    assert results == [(1, "None"), (None, "no"), ("test-0", "None")]
    assert lane.stats() == {"submitted": 3, "waiting": 0}
    lane.close()
    lane.join()
