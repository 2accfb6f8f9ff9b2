"""Am I a node of a ring, of which one, and who of it lives: formation, gossip and placement, with their files.

The node owns the links (``mesh``) and calls ``on_message`` for what ``owns`` says, ``on_timer`` no later than
``next_timer_us``, ``on_link`` for each link of a member that comes or goes, and runs what ``save_plan`` gives in a
thread. Everything else is decided here, and said through the mesh.

Two small files, replaced as a whole (docs/formats/cluster.md): CLUSTER, the state of the formation, and INCARNATION,
what gossip must not forget. The second is written first of all, by ``claim_directory``: it says that the directory is
no single node's, whatever else was written before a crash.

Invariants:

- Nothing is told before it is durable: a cluster id, a ring, an incarnation leave after ``on_saved`` of the plan that
  held them. The exception is an incarnation on a full disk: a node that fell silent would be called dead, and a lost
  incarnation costs no more than having to speak up again.
- A ring is used (``ring``, ``placement``, ``me``) only once it is durable, and does not change any more.
- ``live`` of another needs both: gossip believes it alive, and there is a link. ``on_change`` is called once for each
  change of it.
- A member counts as seen at work when it gossips: it does so only under a ring that is durable there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from respkv.base.coding import checksum
from respkv.base.errors import StorageFull
from respkv.cluster.formation import Formation, FormationState
from respkv.cluster.gossip import Gossip
from respkv.cluster.membership import ALIVE, DEAD, STATE_NAMES, Change, Membership
from respkv.cluster.placement import Placement
from respkv.cluster.ring import BadRing, Ring
from respkv.cluster.topology import Face, Topology
from respkv.config.store import ConfigStore
from respkv.env.fs import FileSystem
from respkv.env.rng import Rng
from respkv.node.mesh import Mesh
from respkv.node.ring_settings import CLUSTER_FILE, INCARNATION_FILE, RingProblem
from respkv.storage.manifest import replace_file
from respkv.storage.wal import FatalStorageError, is_disk_full
from respkv.wire.messages import (
    Ack,
    Address,
    Facts,
    Join,
    Joined,
    Ping,
    PingReq,
    Refused,
    RingPull,
    RingPush,
    State,
)

#: Time between timers while the ring is not decided.
FORMING_TICK_US: Final = 250_000
#: A save that found no space is tried again after this long.
RETRY_US: Final = 1_000_000
#: A ring that somebody else has is asked for at most this often.
PULL_INTERVAL_US: Final = 10_000_000

_FORMATION: Final = (Join, Joined, Refused)
_GOSSIP: Final = (Ping, PingReq, Ack, State)
_OWN: Final = (*_FORMATION, *_GOSSIP, RingPull, RingPush)
_FORMAT: Final = 1


def encode_incarnation(incarnation: int) -> bytes:
    """The contents of INCARNATION."""
    text = f"respkv-incarnation {_FORMAT}\nlast {incarnation}\n".encode()
    return text + f"sum {checksum(text):016x}\n".encode()


def decode_incarnation(data: bytes) -> int | None:
    """The last incarnation, 0 before the first; None for anything that ``encode_incarnation`` did not write."""
    word = data.split(b"\n")[1:2]
    digits = word[0].removeprefix(b"last ") if word else b""
    if not digits.isdigit() or len(digits) > 20 or data != encode_incarnation(int(digits)):
        return None
    return int(digits)


def claim_directory(fs: FileSystem, directory: str) -> None:
    """Mark ``directory`` as that of a node of a ring. Blocking; call it before the store writes anything there."""
    if not fs.exists(f"{directory}/{INCARNATION_FILE}"):
        replace_file(fs, directory, INCARNATION_FILE, encode_incarnation(0))


class SavePlan:
    """Files to replace, to be run off the loop; then ``on_saved``, or ``on_save_failed`` when it raised StorageFull."""

    __slots__ = ("_directory", "_fs", "cluster", "incarnation")

    def __init__(self, fs: FileSystem, directory: str, *, cluster: bytes | None, incarnation: int | None) -> None:
        self._fs = fs
        self._directory = directory
        self.cluster = cluster
        self.incarnation = incarnation

    def run(self) -> None:
        """Replace the files and sync. Raises StorageFull (the old ones are still there), FatalStorageError."""
        try:
            if self.cluster is not None:
                replace_file(self._fs, self._directory, CLUSTER_FILE, self.cluster)
            if self.incarnation is not None:
                replace_file(self._fs, self._directory, INCARNATION_FILE, encode_incarnation(self.incarnation))
        except OSError as error:
            if is_disk_full(error):
                raise StorageFull(f"cannot save the state of the cluster: {error}") from error
            raise FatalStorageError(f"cannot save the state of the cluster: {error}") from error


class RingMember:
    """This node's part in the ring.

    Hooks, set by the node: ``on_ring(ring, placement)`` once the ring is decided, before any link is a member's (not
    for one that was found at start), ``on_change(short, live)``, ``facts()`` for what gossip tells of this node.

    ``me`` is 0, ``ring``, ``placement``, ``topology`` and ``membership`` are None until there is a ring.
    """

    __slots__ = (
        "_announce_replicas", "_directory", "_formation", "_fs", "_full_coverage", "_gossip", "_incarnation", "_join",
        "_live", "_log", "_mesh", "_plan", "_pull_next_us", "_retry_us", "_ring_said", "_rng", "_save_failed", "_saves",
        "_seen", "_status", "_timer_us", "_topology", "facts", "me", "on_change", "on_ring", "placement", "ring",
    )  # fmt: skip

    def __init__(
        self,
        *,
        join: Join,
        seeds: tuple[Address, ...],
        cluster_size: int,
        replicas: int,
        colocate: tuple[bytes, ...] = (),
        mesh: Mesh,
        fs: FileSystem,
        directory: str,
        rng: Rng,
        log: Callable[[str, str], None],
        now_us: int,
    ) -> None:
        """Loads the files, and marks the directory. ``join`` is this node, ``cluster_size`` above 0 makes it the
        founder. Blocking, for the start.

        RingProblem when what is saved is damaged or contradicts what is configured.
        """
        self._join: Final = join
        self._mesh: Final = mesh
        self._fs: Final = fs
        self._directory: Final = directory
        self._rng: Final = rng
        self._log: Final = log
        self.on_ring: Callable[[Ring, Placement], None] = _no_ring_hook
        self.on_change: Callable[[int, bool], None] = _no_change_hook
        self.facts: Callable[[], Facts] = Facts
        self.me = 0
        self.ring: Ring | None = None
        self.placement: Placement | None = None
        self._gossip: Gossip | None = None
        self._topology: Topology | None = None
        self._announce_replicas = False
        self._full_coverage = True
        self._live: dict[int, bool] = {}
        self._seen: dict[int, None] = {}
        self._plan: SavePlan | None = None
        self._save_failed = False
        self._retry_us = 0
        self._saves = 0
        self._timer_us = now_us
        self._pull_next_us = now_us
        self._status = ""
        self._ring_said = False
        claim_directory(fs, directory)
        self._incarnation = self._load_incarnation()
        self._formation = self._load_formation(seeds, cluster_size, replicas, colocate)
        found = self._formation.ring
        if found is None:
            mesh.set_seeds(seeds)
        else:
            self._note_differences(found, cluster_size, replicas)
            self._install(found)

    def __repr__(self) -> str:
        return f"RingMember(me={self.me}, {self.status()!r})"

    # What others ask.

    @property
    def membership(self) -> Membership | None:
        """States, latencies and the order in which to ask replicas."""
        return self._gossip.membership if self._gossip is not None else None

    @property
    def topology(self) -> Topology | None:
        """The ring as clients see it, for the states of now. The same object until something changes; 1 ms to make."""
        if self._topology is None and self.ring is not None and self._gossip is not None:
            assert self.placement is not None
            face: Face = "cluster" if self.ring.has_cluster_face else "plain"
            self._topology = Topology(
                self.ring,
                self.placement,
                states=self._gossip.membership.states(),
                me=self.me,
                face=face,
                announce_replicas=self._announce_replicas,
                require_full_coverage=self._full_coverage,
            )
        return self._topology

    @property
    def refused(self) -> str | None:
        """Why this node will never be a member, when it was told so."""
        return self._formation.refused if self.ring is None else None

    @property
    def peer_facts(self) -> Mapping[int, Facts]:
        """Short -> what that member told last of itself; none of a member that was not heard yet."""
        return self._gossip.facts if self._gossip is not None else {}

    def live(self, short: int) -> bool:
        """True when ``short`` is believed alive and there is a link to it; True for this node. O(1)."""
        if self._gossip is None:
            return False
        return short == self.me or (self._gossip.membership.live(short) and self._mesh.linked(short))

    def status(self) -> str:
        """One line for people."""
        return self._formation.status()

    # What comes in.

    def follow(self, config: ConfigStore) -> None:
        """Take over the directives that shape the topology, now and whenever they change."""

        def replicas(value: Any) -> None:
            self._announce_replicas, self._topology = bool(value), None

        def coverage(value: Any) -> None:
            self._full_coverage, self._topology = bool(value), None

        for name, take in (("cluster-announce-replicas", replicas), ("cluster-require-full-coverage", coverage)):
            take(config.value(name))
            config.subscribe(name, take)

    def owns(self, message: object) -> bool:
        """Whether ``on_message`` is the place for it."""
        return isinstance(message, _OWN)

    def on_message(self, short: int, link: int, message: Any, now_us: int) -> None:
        """A message came on ``link``, from member ``short`` (0: from no member)."""
        if isinstance(message, _FORMATION):
            self._formation.on_message(self._mesh.source(link), message, now_us)
        elif isinstance(message, RingPull):
            if self.ring is not None and self.ring.epoch > message.epoch:
                self._mesh.send_on(link, RingPush(self.ring.encode()))
        elif isinstance(message, RingPush):
            self._on_ring_push(short, message)
        elif self._gossip is not None and short:
            self._gossip.my_facts = self._facts()
            self._note_seen(short)
            changes = self._gossip.on_message(short, message, now_us)
            self._note_epoch(short, message.facts.ring_epoch, now_us)
            self._settle(changes)
        self._pump()

    def on_timer(self, now_us: int) -> None:
        """Do what is due: ask, probe, suspect."""
        self._timer_us = now_us
        if self._retry_us and now_us >= self._retry_us:
            self._retry_us = 0
        self._formation.on_timer(now_us)
        if self._gossip is not None:
            self._gossip.my_facts = self._facts()
            self._settle(self._gossip.on_timer(now_us))
        self._pump()

    def next_timer_us(self) -> int:
        """When ``on_timer`` is due. Other inputs may bring it forward."""
        due = self._gossip.wake_at_us() if self._gossip is not None else self._timer_us + FORMING_TICK_US
        return min(due, self._retry_us) if self._retry_us else due

    def on_link(self, short: int, up: bool, now_us: int) -> None:
        """The link to a member has come up, or has ended: to be called for each ``Mesh.on_member``."""
        if self._gossip is None or short not in self._gossip.membership:
            return
        changes: list[Change] = []
        if up:
            self._gossip.heard(short, now_us)
            # Whatever is believed of it is from before.
            self._gossip.unanswered(short, now_us)
        elif not self._mesh.linked(short):
            # Else another link has taken the place of this one.
            changes = self._gossip.evidence(short, now_us)
        self._settle(changes)
        self._review_live()
        self._pump()

    def heard(self, short: int, now_us: int) -> None:
        """Frames of a member arrived. O(1): a hook for ``Mesh.heard``."""
        if self._gossip is not None:
            self._gossip.heard(short, now_us)

    def unanswered(self, short: int, now_us: int) -> None:
        """A member owes answers for which clients wait."""
        if self._gossip is not None:
            self._settle(self._gossip.unanswered(short, now_us, urgent=True))
            self._pump()

    def loop_lag(self, count_us: int, now_us: int) -> None:
        """The event loop stood still for that long, until now."""
        if self._gossip is not None:
            self._gossip.loop_lag(count_us, now_us)

    # Files.

    def save_plan(self) -> SavePlan | None:
        """What is to be made durable now; None while nothing is, or while a plan is under way."""
        if self._plan is not None or self._retry_us:
            return None
        cluster = self._formation.to_save
        incarnation = self._gossip.incarnation_to_save if self._gossip is not None else None
        if cluster is None and incarnation is None:
            return None
        self._plan = SavePlan(self._fs, self._directory, cluster=cluster, incarnation=incarnation)
        return self._plan

    def on_saved(self, plan: SavePlan) -> None:
        """``plan`` has run: what waited for it is told."""
        assert plan is self._plan
        self._plan = None
        self._save_failed = False
        self._saves += 1
        if plan.cluster is not None:
            self._formation.saved(plan.cluster)
        if plan.incarnation is not None and self._gossip is not None:
            self._incarnation = plan.incarnation
            self._gossip.incarnation_saved(plan.incarnation)
        ring = self._formation.ring
        if ring is not None and self.ring is None:
            self._install(ring)
        self._pump()

    def on_save_failed(self, plan: SavePlan, error: Exception, now_us: int) -> None:
        """``plan`` found no space; what it held is offered again in a second."""
        assert plan is self._plan
        self._plan = None
        if not self._save_failed:
            self._log("warning", f"{error}; trying again each second")
        self._save_failed = True
        self._retry_us = now_us + RETRY_US
        self._pump()

    # Facts.

    def stats(self) -> dict[str, int]:
        """Counters and gauges of formation and gossip."""
        gossip = self._gossip.stats() if self._gossip is not None else {}
        return {
            **self._formation.stats(),
            **gossip,
            "members_live": sum(self._live.values()) + (self.me != 0),
            "ring_epoch": self.ring.epoch if self.ring is not None else 0,
            "saves": self._saves,
            "save_failed": int(self._save_failed),
        }

    def check_invariants(self) -> None:
        """Raises AssertionError when broken."""
        self._formation.check_invariants()
        assert self.ring is None or self.ring == self._formation.ring
        assert (self.ring is None) == (self.placement is None) == (self._gossip is None) == (self.me == 0)
        if self._gossip is not None:
            self._gossip.check_invariants()
            assert list(self._live) == list(self._gossip.membership.others)
            for short, live in self._live.items():
                assert live == self.live(short), short

    # Inside.

    def _load_incarnation(self) -> int:
        path = f"{self._directory}/{INCARNATION_FILE}"
        found = decode_incarnation(self._fs.read_all(path))
        if found is None:
            # Others know a later one, say so, and this node speaks up again.
            self._log("warning", f"{path} is damaged; starting without it")
        return found or 0

    def _load_formation(
        self, seeds: tuple[Address, ...], cluster_size: int, replicas: int, colocate: tuple[bytes, ...]
    ) -> Formation:
        """The formation as it was saved. Raises RingProblem."""
        path = f"{self._directory}/{CLUSTER_FILE}"
        saved = self._fs.read_all(path) if self._fs.exists(path) else None
        try:
            if saved is not None and FormationState.decode(saved).ring is None and not cluster_size and not seeds:
                raise RingProblem(
                    f"{path}: this node was founding a cluster when it stopped; start it with bootstrap yes and"
                    " cluster-size again, or let it join one"
                )
            formation = Formation(
                self._join,
                rng=self._rng,
                cluster_size=cluster_size,
                replicas=replicas,
                colocate=colocate,
                seeds=seeds,
                saved=saved,
            )
        except BadRing as error:
            where = f"{path}: " if saved is not None else ""
            raise RingProblem(f"{where}cannot be a node of a ring: {error}") from error
        problem = formation.address_problem()
        if problem is not None:
            raise RingProblem(problem)
        return formation

    def _note_differences(self, ring: Ring, cluster_size: int, replicas: int) -> None:
        """What the configuration says, and the ring does not do."""
        if cluster_size and cluster_size != len(ring.members):
            members = len(ring.members)
            self._log(
                "warning", f"cluster-size is {cluster_size}; the ring was decided with {members} nodes and stays so"
            )
        if replicas != ring.replicas:
            self._log(
                "warning",
                f"replication-factor is {replicas}; the ring was decided with {ring.replicas} and stays so",
            )

    def _install(self, ring: Ring) -> None:
        """Use a durable ring."""
        member = ring.by_id(self._join.node_id)
        assert member is not None
        self.me, self.ring, self.placement = member.short, ring, Placement(ring)
        self._gossip = Gossip(self.me, self.placement.members, self._rng, saved_incarnation=self._incarnation)
        self._live = dict.fromkeys(self._gossip.membership.others, False)
        # First the node, then the links: those that stand already may turn out to be members' at once.
        self.on_ring(ring, self.placement)
        self._mesh.set_seeds(())
        self._mesh.became_member(ring, self.me)

    def _facts(self) -> Facts:
        assert self.ring is not None
        return self.facts()._replace(ring_epoch=self.ring.epoch)

    def _note_seen(self, short: int) -> None:
        """A member is at work. O(1) but for the first time."""
        if short not in self._seen and self.placement is not None and short in self.placement.members:
            self._seen[short] = None
            self._formation.member_seen(self.placement.members[short].node_id)

    def _note_epoch(self, short: int, epoch: int, now_us: int) -> None:
        """A member names the epoch of its ring."""
        if self.ring is not None and epoch > self.ring.epoch and now_us >= self._pull_next_us:
            self._pull_next_us = now_us + PULL_INTERVAL_US
            self._mesh.send(short, RingPull(self.ring.epoch))

    def _on_ring_push(self, short: int, message: RingPush) -> None:
        """Somebody has another ring. Taking one over means to move data, which this version cannot."""
        if self.ring is None or not short:
            return
        try:
            ring = Ring.decode(message.ring)
        except BadRing as error:
            self._log("warning", f"Member {short} sent a ring that cannot be used: {error}")
            return
        if ring != self.ring:
            self._log(
                "warning",
                f"Member {short} has a ring of epoch {ring.epoch}, this node one of epoch {self.ring.epoch}; this"
                " version cannot follow a change of the ring",
            )

    def _settle(self, changes: list[Change]) -> None:
        """Tell what gossip has found to the log, the topology and the node."""
        for change in changes:
            if change.before != change.after:
                self._topology = None
                self._log_change(change)
        if changes:
            self._review_live()

    def _review_live(self) -> None:
        """Tell the node who lives and who does not any more. O(members)."""
        for short, was in self._live.items():
            live = self.live(short)
            if live != was:
                self._live[short] = live
                self.on_change(short, live)

    def _log_change(self, change: Change) -> None:
        assert self.placement is not None
        member = self.placement.members[change.short]
        level = "warning" if change.after == DEAD else "notice"
        again = " again" if change.after == ALIVE else ""
        place = f"{member.node_host}:{member.node_port}"
        self._log(level, f"Member {change.short} at {place} is {STATE_NAMES[change.after]}{again}")

    def _pump(self) -> None:
        """Send what may be told by now."""
        mesh = self._mesh
        for destination, message in self._formation.take_outbox():
            if isinstance(destination, int):
                mesh.send_on(destination, message)
            else:
                mesh.send_to(destination, message)
        gossip = self._gossip
        if gossip is not None and (gossip.incarnation_to_save is None or self._save_failed):
            for short, row in gossip.take_outbox():
                mesh.send(short, row)
        self._say_status()

    def _say_status(self) -> None:
        """Log how the formation goes on, when that has changed."""
        if self._ring_said:
            return
        self._ring_said = self.ring is not None
        status = self._formation.status()
        if status != self._status:
            self._status = status
            self._log("warning" if self.refused is not None else "notice", f"Cluster: {status}")


def _no_ring_hook(ring: Ring, placement: Placement) -> None:
    """The default of ``on_ring``."""


def _no_change_hook(short: int, live: bool) -> None:
    """The default of ``on_change``."""
