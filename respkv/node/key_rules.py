"""What the configuration says of keys by their beginning, put together and checked at the start of a node.

``conflict-policy`` makes the keyspace's ``Conflicts`` (with the merge functions of ``merge-file``, which the caller has
loaded), ``level-for`` is the coordinator's, ``colocate`` the ring's; the union of all prefixes sends such keys past the
fast path.

Actors, under which siblings are written, are numbered. A number is used once, whatever is lost: numbers are given out
below a ceiling that is in the log and synced, each start begins at the last ceiling, and a node that finds none, new or
with its data gone, begins at a number made of the wall clock.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final, cast

from respkv.base.errors import RespkvError
from respkv.base.prefixes import prefix_table
from respkv.causality.dvv import ActorSource
from respkv.causality.resolve import Mode, Resolvers, parse_policy
from respkv.config.ring_kinds import Rows
from respkv.env.alarm import Alarm
from respkv.keyspace.conflicts import Conflicts
from respkv.node.bootstrap import commit_durably

if TYPE_CHECKING:
    from respkv.cluster.placement import Placement
    from respkv.node.node import Node

#: Numbers of actors in one lease. The next is taken when half of it is used.
LEASE: Final = 1 << 24
#: Of the first number the low bits: a node that has lost its lease must have made fewer actors in each millisecond.
_FIRST_SHIFT: Final = 6


class BadRules(RespkvError):
    """What the configuration says of keys contradicts itself; the text is for the log."""


def install(node: Node, merges: Mapping[str, object], alarm: Alarm) -> None:
    """Have the node follow its rules. ``merges``: the functions of ``merge-file``, which ``alarm`` stops in time.
    Blocking; raises BadRules."""
    conflicts = node.keyspace.conflicts = _conflicts(node, merges, alarm)
    if conflicts is not None:
        node.metrics.attach("siblings", conflicts.stats)
        if node.ring is not None:
            coordinator = node.ring.coordinator
            conflicts.may_write_back = lambda slot: coordinator.primary(slot) == coordinator.me
    apply_rules(node)


def on_ring(node: Node, placement: Placement, colocate: tuple[bytes, ...]) -> None:
    """The ring is known: who the node is in it, and which keys it colocates, whatever is configured here."""
    keyspace = node.keyspace
    keyspace.colocation = placement.colocation
    if keyspace.conflicts is not None:
        keyspace.conflicts.actors.node = keyspace.clock.node
    apply_rules(node)
    decided = () if placement.colocation is None else tuple(sorted(placement.colocation.prefixes))
    if decided != colocate:
        text = b" ".join(decided).decode("utf-8", "backslashreplace") or "none"
        node.log("warning", f"colocate: the ring was decided with these prefixes and stays so: {text}")


def apply_rules(node: Node) -> None:
    """Send keys with rules of their own past the fast path. Again when the ring has said which keys it colocates."""
    keyspace = node.keyspace
    prefixes: list[bytes] = []
    if keyspace.conflicts is not None:
        prefixes += keyspace.conflicts.prefixes()
    if keyspace.colocation is not None:
        prefixes += keyspace.colocation.prefixes
    if node.ring is not None and node.ring.coordinator.levels_for is not None:
        prefixes += node.ring.coordinator.levels_for.prefixes
    table = prefix_table((prefix, True) for prefix in prefixes)
    node.dispatcher.ruled = table.match if table is not None else None


def _conflicts(node: Node, merges: Mapping[str, object], alarm: Alarm) -> Conflicts | None:
    """The policies; None when all keys are ``lww``."""
    try:
        resolvers = Resolvers.from_functions(merges, clock=node.clock, alarm=alarm)
        rows = [
            (prefix.encode("utf-8", "surrogateescape"), parse_policy(word, resolvers.names()))
            for prefix, word in cast(Rows, node.config.value("conflict-policy"))
        ]
    except ValueError as error:
        raise BadRules(f"conflict-policy or merge-file: {error}") from error
    if all(policy.mode is Mode.LWW for _, policy in rows):
        return None
    policies = prefix_table(rows)
    assert policies is not None
    return Conflicts(policies, resolvers, _lease(node), log=node.log)


def _lease(node: Node) -> ActorSource:
    """Actors for this life of the node, durably its own."""
    keyspace = node.keyspace
    start = keyspace.actors_from or max(node.now_ms, 1) << _FIRST_SHIFT
    keyspace.actors_from = start + LEASE
    keyspace.write_actors(keyspace.actors_from)
    commit_durably(keyspace)
    return ActorSource(keyspace.clock.node, start=start, ceiling=start + LEASE)


class ActorLease:
    """Keeps the lease of actors long enough. A duty."""

    __slots__ = ("_ceiling", "_lsn", "_node")

    def __init__(self, node: Node) -> None:
        self._node = node
        self._ceiling = self._lsn = 0

    def keep(self) -> None:
        """Ask for the next lease in time, and learn when it is durable."""
        node, conflicts = self._node, self._node.keyspace.conflicts
        if conflicts is None:
            return
        actors: ActorSource = conflicts.actors
        if self._ceiling and node.engine.durable_lsn >= self._lsn:
            actors.raise_ceiling(self._ceiling)
            self._ceiling = 0
        if not self._ceiling and actors.stats()["left"] < LEASE // 2:
            self._ceiling = actors.ceiling + LEASE
            node.keyspace.write_actors(self._ceiling)
            node.keyspace.actors_from = self._ceiling
            self._lsn = node.commit(own=True)
            node.wants_sync = True

    def forget(self) -> None:
        """Stored copies may be lost: what was written under the actors so far is no longer known for sure."""
        conflicts = self._node.keyspace.conflicts
        if conflicts is not None:
            conflicts.actors.forget()
