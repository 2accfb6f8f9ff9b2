"""A machine of the simulation: one process with a production node, its disk, its clocks and its connections.

``Machine`` does in virtual time what ``server`` does with sockets and threads: cycles (read, execute, timers, commit,
release replies, send), syncs by policy, jobs, block reads. Whatever happens outside (bytes, finished work) is seen by
the node in its next cycle only; while the process is paused or busy, cycles wait.

Ends: ``kill`` (what was written stays, synced or not), ``lose_power`` (what was not synced may be lost, and work
under way may be half done), a failed sync or append (the process ends by itself). ``start`` begins the process anew on
what is left of the disk.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from respkv.base.errors import CorruptionError, FormatError, StorageFull
from respkv.commands.session import Pending, Session
from respkv.config.parser import load
from respkv.config.store import ConfigStore
from respkv.env.rng import Rng, seeded
from respkv.node.node import Node
from respkv.node.ring_settings import ring_settings
from respkv.node.round_gate import RoundGate
from respkv.storage.engine import DISK_FULL
from respkv.storage.job_board import Job
from respkv.storage.jobs import no_pause
from respkv.storage.wal import FatalStorageError
from respkv.testing.disk import PowerLoss
from respkv.testing.links import SimulatedLinks
from respkv.testing.network import Address, Endpoint, Network
from respkv.testing.node_driver import QuietHost
from respkv.testing.schedule import Schedule, Trace, VirtualClock
from respkv.testing.served import Served
from respkv.testing.witness import WatchedFileSystem, Witness
from respkv.testing.work import Disk, Lanes
from respkv.worker.registry import JOBS

DIRECTORY: Final = "/db"
#: How often jobs, plans and dials are looked for when nothing has happened.
LOOK_US: Final = 100_000
_RECV_BYTES: Final = 64 << 10
#: What a cycle costs, and each request and frame in it.
_CYCLE_US: Final = 30
_SYNC_PERIOD_US: Final = {"everysec": 1_000_000, "no": 30_000_000, "always": 0}
_LOG_LINES: Final = 200


@dataclass
class Settings:
    """What all machines of a run have in common. ``directives`` go into every configuration file."""

    directives: dict[str, str]
    make_node: Callable[..., Node] = Node
    #: changes the rules of a node that has just been opened; see ``mutations``
    mutate: Callable[[Machine], None] | None = None


class Machine:
    """See the module's docstring. ``node`` is None while the process does not run."""

    def __init__(
        self,
        number: int,
        *,
        schedule: Schedule,
        network: Network,
        trace: Trace,
        rng: Rng,
        witness: Witness,
        settings: Settings,
        address: Address,
        node_address: Address,
    ) -> None:
        self.number = number
        self.name = f"n{number}"
        self.schedule = schedule
        self.network = network
        self.trace = trace
        self.rng = rng
        self.witness = witness
        self.settings = settings
        self.address = address
        self.node_address = node_address
        #: directives of this machine alone
        self.directives: dict[str, str] = {}
        self.node_id = rng.getrandbits(128).to_bytes(16, "big")
        self.clock = VirtualClock(schedule)
        self.disk = Disk()
        self.fs = WatchedFileSystem()
        self.fs.mkdir(DIRECTORY)
        self.fs.sync_dir("/")
        witness.watch(self.name, self.fs)
        self.node: Node | None = None
        self.links: SimulatedLinks | None = None
        self.policy = "everysec"
        self.starts = 0
        self.log: deque[str] = deque(maxlen=_LOG_LINES)
        #: connections with output, and those that may run on
        self.touched: dict[Served, None] = {}
        self.runnable: dict[Served, None] = {}
        #: what would make the run a failure, beside what the checkers find
        self.problems: list[str] = []
        #: called when the fuse of the disk has blown
        self.on_blown: Callable[[], None] = _nothing
        #: why processes ended
        self.ends: dict[str, int] = {}
        self.cycles = 0
        self._life = 0
        self._served: dict[Served, None] = {}
        self._inbox: list[Callable[[], None]] = []
        self._cycle_us = -1
        self._busy_us = 0
        self.paused_us = 0
        self._held: deque[tuple[int, Served, bytes]] = deque()
        self._gate = RoundGate(self._emit)
        self._lsn = 0
        self._lanes = self._new_lanes()
        self._syncing = False
        self._sync_wanted = False
        self._unsynced = False
        self._synced_us = 0
        self._refused_us = 0

    def _new_lanes(self) -> Lanes:
        return Lanes(self.schedule, self.rng, wake=self.wake, blown=self._blown)

    # The process begins and ends

    def start(self, delay_us: int = 0) -> None:
        """Begin the process after a delay, if it does not run then."""
        self._life += 1
        life = self._life
        self.schedule.after(delay_us, lambda: self._boot() if life == self._life else None)

    def _config(self) -> ConfigStore:
        given = {**self.settings.directives, **self.directives}
        text = "".join(f'{name} "{value}"\n' for name, value in given.items() for value in value.split("\n"))
        return ConfigStore(load(text).values)

    def _boot(self) -> None:
        if self.node is not None:
            return
        config = self._config()
        self.starts += 1
        self.fs.fuse = None
        node = self.settings.make_node(
            config=config,
            fs=self.fs,
            clock=self.clock,
            rng=seeded(self.rng.getrandbits(64)),
            host=QuietHost(),
            run_id="0" * 40,
            process_id=1,
            executable="respkv-server",
            config_file="",
            log=self._on_log,
        )
        self.witness.opening(self.name)
        try:
            self._open(node)
        except StorageFull:
            self._end("no room to start")
            self.start(1_000_000)
            return
        except (OSError, FatalStorageError) as error:
            self._end(f"cannot start: {error}")
            self.fs = self.fs.copy()
            self.start(1_000_000)
            return
        except (CorruptionError, FormatError) as error:
            self.problems.append(f"recovery: {self.name} cannot start: {error}")
            self._end(f"cannot start: {error}")
            return
        self.node = node
        self._lanes = self._new_lanes()
        self.policy = config.sync_policy()
        engine = node.engine
        self.witness.opened(self.name, engine.recovery.last_lsn)
        if engine.recovery.damaged:
            self.problems.append(f"recovery: {self.name} has found {engine.recovery.damaged}")
        self._lsn = engine.appended_lsn
        self.trace.line(f"{self.name} starts, log up to {engine.recovery.last_lsn}")
        if self.settings.mutate is not None:
            self.settings.mutate(self)
        self.network.host_up(self.name)
        self._listen(node)
        self._cycle_us = -1
        self._look(self._life)
        self._plan(self.schedule.now_us)

    def _open(self, node: Node) -> None:
        names = self.fs.listdir(DIRECTORY)
        node.open(DIRECTORY, ring=ring_settings(node.config, names), node_id=self.node_id)

    def _listen(self, node: Node) -> None:
        if node.ring is not None:
            self.links = SimulatedLinks(
                node.ring.mesh,
                network=self.network,
                host=self.name,
                address=self.node_address,
                rng=seeded(self.rng.getrandbits(64)),
                wake=self.wake,
                now_us=self.clock.monotonic_us,
                trace=self.trace,
            )
        self.network.listen(self.name, self.address, lambda end: self.wake(lambda: self._accept(end)))

    def _on_log(self, level: str, text: str) -> None:
        self.log.append(f"{self.schedule.now_us} {level} {text}")

    @property
    def up(self) -> bool:
        """True while the process runs, paused or not."""
        return self.node is not None

    def kill(self) -> None:
        """The process ends at once; the machine, and what was written, stay."""
        if self.node is not None:
            self._end("killed")
            self.fs = self.fs.copy()

    def lose_power(self) -> None:
        """Machine and process end at once; what was not synced may be lost."""
        if self.node is None:
            return
        self._end("power lost", silent=True)
        self._lanes.lose_power(self.fs)
        self.fs = self.fs.crash(self.rng)

    def _end(self, reason: str, *, silent: bool = False) -> None:
        self._life += 1
        self.trace.line(f"{self.name} ends: {reason}")
        self.ends[reason.partition(":")[0]] = self.ends.get(reason.partition(":")[0], 0) + 1
        self.node = None
        if self.links is not None:
            self.links.stop()
            self.links = None
        self.network.host_down(self.name, silent=silent)
        for served in self._served:
            served.gone = True
        self._served.clear()
        self.touched.clear()
        self.runnable.clear()
        self._inbox.clear()
        self._held.clear()
        self._gate = RoundGate(self._emit)
        self._cycle_us = -1
        self._syncing = self._sync_wanted = self._unsynced = False
        self._lanes.end()

    def _die(self, error: BaseException) -> None:
        """The process ends by itself, for an error of the disk, and is started again."""
        self._end(f"fatal: {error}")
        self.fs = self.fs.copy()
        self.start(self.rng.randrange(200_000, 1_000_000))

    def pause(self, count_us: int) -> None:
        """The process does nothing for a while; what comes waits."""
        self.paused_us = max(self.paused_us, self.schedule.now_us + count_us)
        self._cycle_us = -1
        if self.node is not None:
            self._plan(self.schedule.now_us)

    # The cycle

    def wake(self, action: Callable[[], None]) -> None:
        """Run ``action`` in the next cycle; nothing when the process ends before."""
        self._inbox.append(action)
        self._plan(self.schedule.now_us)

    def _plan(self, time_us: int) -> None:
        """Have a cycle at that time, or as soon after it as the process can."""
        time_us = max(time_us, self._busy_us, self.paused_us, self.schedule.now_us)
        if 0 <= self._cycle_us <= time_us:
            return
        self._cycle_us = time_us
        life = self._life

        def run() -> None:
            if life == self._life and self._cycle_us == time_us and self.node is not None:
                self._cycle_us = -1
                try:
                    self._cycle(self.node)
                except FatalStorageError as error:
                    self._die(error)
                except PowerLoss:
                    self._blown()

        self.schedule.at(time_us, run)

    def _cycle(self, node: Node) -> None:
        self.cycles += 1
        life = self._life
        node.begin_cycle()
        # As in the reactor: timers come first, what lies in the sockets comes after them.
        if node.now_us >= node.next_timer_us():
            node.on_timer()
        inbox, self._inbox = self._inbox, []
        for action in inbox:
            action()
            if life != self._life:
                return
        turns = [served for served in self.runnable if not served.gone and served.pending is None]
        self.runnable.clear()
        if turns:
            for served, pending in node.execute_turns(turns):
                self._after_turn(node, served, pending)
            self.touched.update(dict.fromkeys(turns))
        if self.links is not None:
            node.seal()
        lsn = node.commit()
        if lsn != self._lsn:
            self._lsn = lsn
            self._unsynced = True
            self._on_append(node)
        if self.links is not None:
            self._send_ring(node, self.links, lsn)
        self._release(node)
        self._reply(node, lsn)
        for fetch in node.take_fetches():
            self._fetch(node, fetch)
        if node.wants_sync:
            node.wants_sync = False
            self._sync_wanted = True
            self._sync(node)
        self._busy_us = self.schedule.now_us + _CYCLE_US + 10 * (len(inbox) + len(turns))
        if self.runnable or self._inbox:
            self._plan(self.schedule.now_us)
        self._plan(self.clock.true_us(node.next_timer_us()))

    def _look(self, life: int) -> None:
        """Several times a second: jobs, plans, dials, syncs that are due."""
        if life != self._life or self.node is None:
            return
        self.schedule.after(LOOK_US, lambda: self._look(life))

        def look() -> None:
            node = self.node
            assert node is not None
            self._pull(node)
            period_us = _SYNC_PERIOD_US[self.policy]
            if self._unsynced and self.schedule.now_us - self._synced_us >= period_us:
                self._sync(node)
            if self.links is not None:
                self.links.tick()

        self.wake(look)

    # Clients

    def _accept(self, end: Endpoint) -> None:
        node = self.node
        assert node is not None
        served = Served(self, end)
        answer = node.connect(served, address=f"{end.number}", local_address=self.name, unix=False)
        assert isinstance(answer, Session), "no run has so many clients"
        served.session = answer
        served.parser = node.make_parser(answer)
        self._served[served] = None
        end.on_ready = lambda: self.wake(lambda: self._read(served))
        self._read(served)

    def _read(self, served: Served) -> None:
        if served.gone:
            return
        data = served.end.recv(_RECV_BYTES)
        if data:
            served.parser.feed(data)
            self.runnable[served] = None
        if served.end.received:
            self.wake(lambda: self._read(served))
        if served.end.eof and not served.end.received:
            self._drop(served)
            return
        if served.unsent:
            served.unsent = served.unsent[served.end.send(served.unsent) :]

    def _drop(self, served: Served) -> None:
        assert self.node is not None
        served.gone = True
        self._served.pop(served, None)
        self.touched.pop(served, None)
        self.runnable.pop(served, None)
        if served.pending is not None:
            served.pending.abandoned = True
            served.pending.on_done = None
        self.node.disconnect(served.session)
        served.end.close()

    def _after_turn(self, node: Node, served: Served, pending: Pending | None) -> None:
        if pending is not None:
            if pending.reply is None:
                served.pending = pending
                pending.on_done = lambda: self._on_done(node, served, pending)
            else:
                served.out.append(node.finish(served.session, pending))
                self.runnable[served] = None
        elif served.parser.error is not None:
            served.out.append(served.parser.error)
            served.closing = True
        elif served.session.closing:
            served.closing = True
        elif node.more(served.parser):
            self.runnable[served] = None

    def _on_done(self, node: Node, served: Served, pending: Pending) -> None:
        if served.gone or served.pending is not pending:
            return
        served.pending = None
        served.push(node.finish(served.session, pending))
        self.runnable[served] = None
        self._plan(self.schedule.now_us)

    def _send_ring(self, node: Node, links: SimulatedLinks, lsn: int) -> None:
        """After the commit: frames to other nodes, then what their answers let go, then who waits for them."""
        node.after_commit(lsn)
        links.flush()
        for served in list(self.touched):
            session = served.session
            if served.out and (session.round is not None or served.rounds):
                replies, served.out = served.out, []
                self._gate.hold(served, session.round, replies)
                session.round = None
        for settled in node.take_settled():
            self._gate.settled(settled)

    def _emit(self, turn: Any, replies: list[bytes], size: int) -> None:
        """What other nodes have confirmed; our own log may still be waited for."""
        node, data = self.node, b"".join(replies)
        if node is None or turn.gone:
            return
        if self._held or (node.holds_replies and self._lsn > node.durable_lsn):
            self._held.append((self._lsn, turn, data))
        else:
            self._send(turn, data)

    def _reply(self, node: Node, lsn: int) -> None:
        """What was made in this cycle leaves now, or when the log is durable."""
        holds = node.holds_replies
        for served in list(self.touched):
            data = b"".join(served.out)
            served.out.clear()
            if data and (self._held or holds):
                self._held.append((lsn, served, data))
            elif data:
                self._send(served, data)
            if served.closing and not data and not served.rounds:
                self._drop(served)
        self.touched.clear()

    def _release(self, node: Node) -> None:
        through = node.durable_lsn if node.holds_replies else self._lsn
        while self._held and self._held[0][0] <= through:
            _, served, data = self._held.popleft()
            self._send(served, data)

    def _send(self, served: Served, data: bytes) -> None:
        if not served.gone:
            data = served.unsent + data
            served.unsent = data[served.end.send(data) :]

    # The disk

    def _blown(self) -> None:
        self.lose_power()
        self.on_blown()

    def _on_append(self, node: Node) -> None:
        if self.policy == "always":
            self._sync(node)

    def _sync(self, node: Node) -> None:
        if self._syncing:
            return
        self._sync_wanted = False
        plan = node.sync_plan()
        if plan is None:
            self._unsynced = False
            return
        self._syncing = True
        self._unsynced = False
        self._synced_us = self.schedule.now_us

        def done(_: Any, error: BaseException | None) -> None:
            self._syncing = False
            if error is not None:
                self._die(error)
                return
            node.on_synced(plan)
            if self.links is not None:
                node.on_durable()
                self.links.flush()
            self._release(node)
            if self._sync_wanted or (self._unsynced and self.policy == "always"):
                self._sync(node)

        self._lanes.submit("sync", self.disk.sync_us, plan.run, done)

    def _pull(self, node: Node) -> None:
        """Take on every job and plan the node has."""
        while (job := node.next_job()) is not None:
            self._take_job(node, job)
        manifest = node.manifest_plan()
        if manifest is not None:
            self._edit(node, manifest)
        snapshot = node.snapshot_plan()
        if snapshot is not None:
            self._lanes.submit(
                "edits",
                self.disk.job_us,
                snapshot.run,
                lambda _, error: node.on_snapshot_done(snapshot, "" if error is None else str(error)),
            )

        while (files := node.ring_plan()) is not None:
            self._write_files(node, files)

    def _write_files(self, node: Node, plan: Any) -> None:
        def done(_: Any, error: BaseException | None) -> None:
            try:
                node.on_ring_plan_done(plan, error)
            except FatalStorageError as fatal:
                self._die(fatal)

        self._lanes.submit("edits", self.disk.sync_us, plan.run, done)

    def _edit(self, node: Node, plan: Any) -> None:
        def done(_: Any, error: BaseException | None) -> None:
            if error is None:
                node.on_manifest_synced(plan)
                self._pull(node)
            elif isinstance(error, FatalStorageError):
                self._die(error)
            else:
                plan.failed(error)

        self._lanes.submit("edits", self.disk.job_us, plan.run, done)

    def _take_job(self, node: Node, job: Job) -> None:
        def done(result: Any, error: BaseException | None) -> None:
            if error is None:
                node.on_job_done(job, result)
                self._pull(node)
            elif isinstance(error, StorageFull):
                node.on_job_failed(job, DISK_FULL)
            else:
                node.on_job_failed(job, f"{type(error).__name__}: {error}")

        self._lanes.submit(f"jobs {job.kind}", self.disk.job_us, lambda: self.do_job(job), done)

    def do_job(self, job: Job) -> dict[str, Any]:
        """What a worker process does: data that crosses a pipe, both ways."""
        result = JOBS[job.kind](self.fs, json.loads(json.dumps(job.spec)), no_pause)
        found: dict[str, Any] = json.loads(json.dumps(result))
        return found

    def _fetch(self, node: Node, fetch: Any) -> None:
        def read() -> list[object]:
            return [request.read() for request in fetch.requests]

        def done(blocks: Any, error: BaseException | None) -> None:
            if error is None:
                for request, block in zip(fetch.requests, blocks):
                    request.install(block)
            else:
                assert isinstance(error, (CorruptionError, OSError))
                node.on_fetch_failed(fetch.requests[0], error)
            fetch.done()

        self._lanes.submit("reads", self.disk.read_us, read, done)

    # Facts

    def waiting(self) -> int:
        """Requests of clients that are not answered."""
        return sum(served.pending is not None for served in self._served) + len(self._held)

    def stats(self) -> dict[str, int]:
        """Figures of the machine."""
        return {"starts": self.starts, "cycles": self.cycles, "clients": len(self._served), "held": len(self._held)}


def _nothing() -> None:
    """The default of hooks."""
