"""What the server asks of the room below it, as narrow protocols.

``NodePort`` is the node as the event loop sees it, ``RequestSource`` one connection's request parser,
``Plan`` blocking work that the node has cut out for a thread. Every call happens on the loop's thread,
inside a cycle; only ``Plan.run`` and ``Fetch.read`` run elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

from respkv.base.errors import BlockRequest, CorruptionError
from respkv.commands.session import Pending, Session, Sink


class RequestSource(Protocol):
    """A connection's request parser."""

    #: a finished error reply after which the connection is closed; empty = close without a word
    error: bytes | None

    @property
    def feed(self) -> Callable[[bytes], Any]:
        """Take received bytes."""

    @property
    def buffered(self) -> int:
        """Bytes received and not yet handed out as requests."""


class Plan(Protocol):
    """Blocking work, run once in a thread."""

    def run(self) -> Any:
        """Do it. An exception is handed to whoever made the plan, or ends the process."""


class JobPort(Protocol):
    """Work for a worker process; ``spec`` is plain data."""

    @property
    def id(self) -> int: ...

    @property
    def kind(self) -> str: ...

    @property
    def spec(self) -> dict[str, Any]: ...


class FetchPort(Protocol):
    """Blocks to read in a thread, install on the loop, and what to do then."""

    @property
    def requests(self) -> list[BlockRequest]: ...

    @property
    def done(self) -> Callable[[], None]: ...


class LogPort(Protocol):
    """The part of the node that owns the log."""

    @property
    def unsynced_bytes(self) -> int:
        """Logged bytes that no finished sync covers."""

    def sync_plan(self) -> Any:
        """A ``Plan`` to run in a thread and hand to ``on_synced``; None when everything is durable."""

    def on_synced(self, plan: Any) -> None:
        """The plan has run."""


class ErrandPort(LogPort, Protocol):
    """What the node wants done elsewhere: it is asked after each cycle, or a few times a second."""

    #: something must become durable although the policy would not sync now
    wants_sync: bool
    #: SHUTDOWN was asked for
    shutdown_request: Any

    def ring_plan(self) -> Any:
        """On a ring: a ``Plan`` that writes files of the ring's; None when nothing is due."""

    def on_ring_plan_done(self, plan: Any, error: BaseException | None) -> None: ...

    def take_fetches(self) -> Sequence[FetchPort]:
        """The block reads asked for since the last call."""

    def on_fetch_failed(self, request: BlockRequest, error: CorruptionError | OSError) -> None:
        """A block of a fetch could not be read; comes before the fetch is done."""

    def next_job(self) -> Any:
        """A ``JobPort`` for a worker process, None when there is none."""

    def on_job_done(self, job: Any, result: dict[str, Any]) -> None: ...

    def on_job_failed(self, job: Any, reason: str) -> None: ...

    def manifest_plan(self) -> Any:
        """A ``Plan`` that brings finished jobs in force; None when nothing is due."""

    def on_manifest_synced(self, plan: Any) -> None: ...

    def snapshot_plan(self) -> Any:
        """A ``Plan`` that links a snapshot; None when none is ready."""

    def on_snapshot_done(self, plan: Any, problem: str) -> None: ...


class LinkPort(Protocol):
    """The sockets to other nodes, as the event loop sees them."""

    def flush(self) -> None:
        """Send what waits for other nodes."""


class NodePort(ErrandPort, Protocol):
    """The node, seen from the event loop. ``table.writers``: names of the commands that write."""

    table: Any

    def seal(self) -> None:
        """On a ring: the requests and messages of the cycle are done, its commit comes next."""

    def after_commit(self, lsn: int) -> None:
        """On a ring: the cycle is logged."""

    def on_durable(self) -> None:
        """On a ring: more of the log is durable."""

    def take_settled(self) -> Sequence[Any]:
        """On a ring: rounds whose replies may leave now."""

    @property
    def holds_replies(self) -> bool:
        """True while replies must wait until the log is durable up to the commit that covers them."""

    @property
    def durable_lsn(self) -> int:
        """Every commit up to this one is on disk."""

    def begin_cycle(self) -> None:
        """Read the clocks, once for the whole cycle."""

    def connect(self, sink: Sink, *, address: str, local_address: str, unix: bool) -> Session | bytes:
        """A session for a new connection, or the error line with which it is turned away."""

    def disconnect(self, session: Session) -> None:
        """The connection is gone."""

    def make_parser(self, session: Session) -> RequestSource:
        """The parser of a new connection, with the limits now in force."""

    def execute_turns(self, turns: Iterable[Any]) -> list[tuple[Any, Pending | None]]:
        """Run the requests of many connections, each until its parser is empty, its budget is used, the session
        closes or a request waits. What comes back is those with more to look at, as ``_after_execute`` does.

        A turn is a connection: ``session``, ``parser`` and ``out``.
        """

    def finish(self, session: Session, pending: Pending) -> bytes:
        """The bytes of a completed reply."""

    def more(self, parser: Any) -> bool:
        """True when the parser may hold a complete request that the budget left over."""

    def write_mark(self) -> int:
        """A number that grows with each entry written in this cycle."""

    def commit(self) -> int:
        """Append the cycle's writes to the log; the lsn that covers every reply made until now."""

    def brake_us(self) -> int:
        """How long clients that write must wait, us; HOLD_US: until it is over."""

    def next_timer_us(self) -> int:
        """Monotonic time at which ``on_timer`` is due."""

    def on_timer(self) -> None:
        """Do what is due."""
