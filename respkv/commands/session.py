"""What the server remembers of one connection, and what commands may ask of the server.

``Session`` is plain state; the socket, its buffers and its timers belong to ``server``. ``Server`` is
the narrow protocol through which connection and administration commands reach the rest of the node.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from respkv.resp.reply import Reply, encode

if TYPE_CHECKING:
    from respkv.base.errors import BlockRequest
    from respkv.cluster.membership import Membership
    from respkv.cluster.placement import Placement
    from respkv.cluster.ring import Ring
    from respkv.cluster.topology import Topology
    from respkv.commands.pubsub import PubSub
    from respkv.commands.table import CommandTable
    from respkv.commands.transactions import Runner, Watches
    from respkv.config.store import ConfigStore
    from respkv.env.clock import Clock
    from respkv.env.rng import Rng
    from respkv.keyspace.keyspace import Keyspace
    from respkv.metrics.acl_log import AclLog
    from respkv.metrics.registry import Registry
    from respkv.metrics.slowlog import LatencyMonitor, SlowLog
    from respkv.replication.coordinator import Coordinator


class Sink(Protocol):
    """The output side of a connection."""

    def push(self, data: bytes) -> None:
        """Append out-of-band bytes behind what has been answered so far."""

    def close(self, *, after_output: bool) -> None:
        """End the connection, at once or when everything queued has been sent."""

    def buffered(self) -> int:
        """Bytes waiting to be sent."""

    def input_buffered(self) -> int:
        """Bytes received and not yet parsed."""

    def read_on(self) -> None:
        """Execute what stopped at a pending request or a pause."""


class Pending:
    """A reply that comes later. The dispatcher returns it in place of bytes.

    ``on_done`` is set by whoever holds the reply's place; ``complete`` is called once, on the loop. A
    closed connection abandons the slot (``abandoned``), never the operation.
    """

    __slots__ = ("abandoned", "on_done", "on_unblock", "reply")

    def __init__(self, on_unblock: Callable[[bytes | None], None] | None = None) -> None:
        self.reply: Reply | None = None
        self.on_done: Callable[[], None] | None = None
        #: called by CLIENT UNBLOCK (error reply or None for a timeout) when the wait may be cut short
        self.on_unblock = on_unblock
        self.abandoned = False

    def complete(self, reply: Reply) -> None:
        """Give the reply. A second call is ignored: a timeout may race with the answer."""
        if self.reply is None:
            self.reply = reply
            if self.on_done is not None:
                self.on_done()

    def hand_to(self, other: Pending) -> None:
        """Give the reply on as soon as it is there."""
        if self.reply is not None:
            other.complete(self.reply)
        else:
            self.on_done = lambda: other.complete(self.reply)  # type: ignore[arg-type]


class Session:
    """One connection's state. ``db`` is the number the client selected (logical)."""

    __slots__ = (
        "address",
        "authenticated",
        "blocked",
        "channels",
        "closing",
        "cluster_face",
        "commands",
        "created_us",
        "db",
        "fence",
        "forwarded",
        "held",
        "id",
        "in_bytes",
        "is_monitor",
        "last_command",
        "last_op",
        "last_us",
        "level",
        "level_named",
        "lib_name",
        "lib_ver",
        "local_address",
        "multi",
        "multi_bytes",
        "multi_error",
        "name",
        "no_evict",
        "no_touch",
        "out_bytes",
        "patterns",
        "plain",
        "proto",
        "readonly",
        "reply_mode",
        "round",
        "server",
        "shard_channels",
        "sink",
        "skip_next",
        "under_way",
        "unix",
        "until_us",
        "user",
        "watch_at",
        "watch_broken",
        "watched",
    )

    def __init__(self, ident: int, server: Server, sink: Sink, *, address: str, local_address: str) -> None:
        self.id = ident
        self.server = server
        self.sink = sink
        self.address = address
        self.local_address = local_address
        self.unix = False
        self.proto = 2
        self.db = 0
        self.name = b""
        self.user = b"default"
        self.authenticated = False
        self.lib_name = b""
        self.lib_ver = b""
        self.created_us = 0
        self.last_us = 0
        self.last_command = ""
        self.commands = 0
        self.in_bytes = 0
        self.out_bytes = 0
        #: queued requests between MULTI and EXEC, None outside
        self.multi: list[list[bytes]] | None = None
        self.multi_error = False
        self.multi_bytes = 0
        #: (stored db, key) -> None, insertion ordered
        self.watched: dict[tuple[int, bytes], None] = {}
        self.watch_broken = False
        #: on a ring: the node that watches for this session, perhaps this one; 0 when nothing is watched
        self.watch_at = 0
        self.channels: dict[bytes, None] = {}
        self.patterns: dict[bytes, None] = {}
        self.shard_channels: dict[bytes, None] = {}
        self.is_monitor = False
        #: ON, OFF or SKIP as CLIENT REPLY left it; skip_next covers the command after SKIP
        self.reply_mode = "on"
        self.skip_next = False
        self.no_evict = False
        self.no_touch = False
        #: what is pushed while a request of a RESP3 subscriber runs: it comes after the reply; None between requests
        self.held: list[bytes] | None = None
        self.blocked: Pending | None = None
        self.closing = False
        #: which face of a ring this connection speaks: the port decides
        self.cluster_face = False
        #: consistency level (replication/levels), 0 = what the configuration says
        self.level = 0
        #: the level is that of the connection's name, and goes with it
        self.level_named = False
        #: READONLY was sent: reads ask this node alone
        self.readonly = False
        #: requests come from another node, which has found this one responsible
        self.forwarded = False
        #: on a ring: until when what another node has asked for may be executed (``Clock.steady_us``), 0 for always
        self.until_us = 0
        #: on a ring: what the replies of this cycle wait for
        self.round: Any = None
        #: what the last request for keys used, for RKV.LASTOP; counted in by its operation alone
        self.last_op: dict[str, Any] = {}
        #: on a ring: the last round of requests that the fast path has served
        self.fence: Any = None
        #: on a ring: its requests that are under way together (``flight.UnderWay``), None when there are none
        self.under_way: Any = None
        #: derived: True when the fast path of the dispatcher may serve this session
        self.plain = False

    def context(self) -> tuple[int, int, int, int]:
        """What a request of another node has brought along, and its session's next one changes."""
        return self.db, self.level, self.proto, self.until_us

    def resume(self, context: tuple[int, int, int, int]) -> None:
        """Go on with a request that had to wait."""
        if self.forwarded:
            self.db, self.level, self.proto, self.until_us = context

    def subscribed(self) -> bool:
        """True while the connection has at least one channel, pattern or shard channel."""
        return bool(self.channels or self.patterns or self.shard_channels)

    def send(self, reply: Reply) -> None:
        """Out-of-band output: pub/sub messages, MONITOR lines."""
        data = encode(reply, self.proto)
        if self.held is not None:
            self.held.append(data)
        else:
            self.sink.push(data)

    def recompute_plain(self) -> None:
        """Call after any change of authentication, MULTI, reply mode or subscriptions."""
        self.plain = (
            self.authenticated
            and self.multi is None
            and self.reply_mode == "on"
            and not self.skip_next
            and not self.subscribed()
            and not self.is_monitor
            and not self.closing
            and not self.no_touch
        )

    def __repr__(self) -> str:
        return f"<Session {self.id} {self.address} db={self.db} proto={self.proto}>"


class SnapshotState(Protocol):
    """How snapshots stand. Times are wall ms."""

    last_save_ms: int
    last_ok: bool
    last_took_ms: int
    made: int

    @property
    def busy(self) -> bool:
        """True while a snapshot is under way."""

    def changes(self) -> int:
        """Commits since the last snapshot."""


class RingPort(Protocol):
    """What commands see of the ring that this node is a member of, or will be."""

    coordinator: Coordinator

    @property
    def me(self) -> int:
        """This node's short id; 0 while the ring is being formed."""

    @property
    def ring(self) -> Ring | None:
        """The decided ring; None while it is being formed."""

    @property
    def placement(self) -> Placement | None:
        """Slot -> replicas; None while the ring is being formed."""

    @property
    def topology(self) -> Topology | None:
        """The ring as clients see it; None while it is being formed."""

    @property
    def membership(self) -> Membership | None:
        """Who is alive; None while the ring is being formed."""

    @property
    def mesh(self) -> Any:
        """The links to other members."""

    @property
    def repair(self) -> Any:
        """Hints, anti-entropy, watermarks."""

    @property
    def watch(self) -> Any:
        """Questions to other members, for people to see."""

    def status(self) -> str:
        """One line for people: is the ring formed, what is it waiting for."""

    def peers(self) -> Mapping[int, Mapping[str, int | str]]:
        """What this node knows of each other member, by short id."""

    def summary(self) -> dict[str, int]:
        """The figures that a person looks for first."""

    def stats(self) -> dict[str, int]:
        """Everything that is counted about the ring."""


class Server(Protocol):
    """What commands see of the node. All of it lives on the loop's thread."""

    config: ConfigStore
    metrics: Registry
    keyspace: Keyspace
    table: CommandTable
    pubsub: PubSub
    watches: Watches
    transactions: Runner
    slowlog: SlowLog
    latency: LatencyMonitor
    acl_log: AclLog
    clock: Clock
    rng: Rng
    #: id -> session, in order of connection
    sessions: dict[int, Session]
    monitors: list[Session]
    run_id: str
    started_us: int
    executable: str
    config_file: str
    process_id: int
    tcp_port: int
    #: wall clock of this cycle
    now_ms: int
    now_us: int
    active_expire: bool
    #: commands that take at least this long go to the slow log
    slow_us: int
    #: clients are paused until this monotonic time; "all" or "write"
    pause_until_us: int
    pause_mode: str

    @property
    def ring(self) -> RingPort | None:
        """This node's part in a ring; None for a single node."""

    @property
    def snapshots(self) -> SnapshotState:
        """How snapshots stand."""

    def recompute_plain(self) -> None:
        """A cause that forbids the fast path for the whole node changed (MONITOR, PAUSE, WATCH, events)."""

    def feed_monitors(self, session: Session, argv: list[bytes]) -> None:
        """Show a request to all MONITOR connections."""

    def slow_command(self, session: Session, argv: list[bytes], took_us: int) -> None:
        """A command took at least ``slow_us``."""

    def end_pause(self) -> None:
        """CLIENT PAUSE is over: run what waited for it."""

    def when_unpaused(self, action: Callable[[], None]) -> None:
        """Call ``action`` when the pause ends."""

    def execute(self, session: Session, argv: list[bytes]) -> bytes | Pending | None:
        """Run one request as if it had come from the connection."""

    def relieve(self) -> None:
        """Between two commands of a cycle: commit early when the open batch has grown large."""

    def after_us(self, delay_us: int, action: Callable[[], None]) -> Callable[[], None]:
        """Call ``action`` on the loop after a delay; the result cancels it."""

    def stall_until(self, monotonic_us: int) -> None:
        """DEBUG SLEEP: no client is served before that time."""

    def shutdown(self, *, save: bool | None, now: bool, force: bool) -> None:
        """Begin a graceful stop; raises CommandError when it cannot."""

    def abort_shutdown(self) -> bool:
        """Cancel a stop under way; False when there is none."""

    def snapshot(self, done: Callable[[str], None]) -> None:
        """Make a snapshot; ``done`` gets an error text or ""."""

    def synced(self, done: Callable[[], None]) -> None:
        """Call ``done`` when everything written so far is on disk (fsync)."""

    def reload(self, done: Callable[[str], None]) -> None:
        """DEBUG RELOAD: flush everything to tables and drop all caches; ``done`` gets an error text or ""."""

    def fetch(self, requests: list[BlockRequest], done: Callable[[], None]) -> None:
        """Read blocks in the background, install them, then call ``done``."""

    def rewrite_config(self) -> bytes:
        """CONFIG REWRITE: the finished reply."""

    def log(self, level: str, text: str) -> None:
        """One line of the server log; level debug, verbose, notice or warning."""

    def memory(self) -> dict[str, int]:
        """used, rss, peak, total, caches ... in bytes, for INFO and MEMORY STATS."""

