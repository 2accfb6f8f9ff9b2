"""What becomes of concurrent writes: policies by the beginning of a key, merges, limits, actors.

One ``Conflicts`` a node, in ``keyspace.conflicts``; None there means that every key is ``lww``. A key is *kept* when
its policy is ``siblings`` or ``merge:NAME``: its record is a container (causality/siblings.py), written by
``sibling_writes.py`` alone, and a plain reader sees the one value that ``resolve`` makes of its siblings.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple

from respkv.base.errors import CommandError
from respkv.base.prefixes import PrefixTable
from respkv.causality.dvv import SIBLINGS_MAX, SIBLINGS_WARN, ActorSource, Clock, Container
from respkv.causality.resolve import LWW, Mode, Outcome, Policy, Resolution, Resolvers
from respkv.causality.siblings import token
from respkv.keyspace import effects as fx
from respkv.resp.reply import error

#: All values of a key together: one record holds them, as large as that of the longest string.
SIBLING_BYTES_MAX: Final = 512 << 20
TOO_LARGE: Final = error(
    b"ERR the siblings of the key would take more than %d bytes together: write with the context that RKV.GET gives, or"
    b" use RKV.RESOLVE" % SIBLING_BYTES_MAX
)
#: Merged values that wait for the end of the cycle; a reader brings back those for which there was no room.
_MERGED_MAX: Final = 1024
#: Lines in the log about conflicts, at most one in this time.
_LOG_EVERY_MS: Final = 10_000
#: Effects that write a whole key.
WRITES: Final = frozenset({fx.PUT, fx.DELETE, fx.EXPIRE, fx.SUPERSEDE})


class Merged(NamedTuple):
    """A value that a merge made of the siblings of the record with this ``token``."""

    token: bytes
    value: bytes
    expire_at_ms: int


class Conflicts:
    """Policies and what they did. ``ruled(key, at)`` is true for keys that have a policy, ``lww`` included."""

    __slots__ = (
        "_log",
        "_policies",
        "_told_ms",
        "actors",
        "may_write_back",
        "merged",
        "most",
        "refused",
        "resolvers",
        "ruled",
        "superseded",
        "warned",
        "written",
        "written_back",
    )  # fmt: skip

    def __init__(
        self,
        policies: PrefixTable[Policy],
        resolvers: Resolvers,
        actors: ActorSource,
        *,
        log: Callable[[str, str], None],
    ) -> None:
        self._policies = policies
        self.resolvers = resolvers
        self.actors = actors
        self.ruled: Final[Any] = policies.match
        #: whether this node is the one that writes merged values of a slot back: one node alone must do it
        self.may_write_back: Callable[[int], bool] = lambda slot: True
        #: by internal key: what the end of the cycle writes back
        self.merged: dict[bytes, Merged] = {}
        self._log = log
        self._told_ms = -_LOG_EVERY_MS
        #: writes of kept keys; those that named a context; writes over the limit that warns; refused ones
        self.written = self.superseded = self.warned = self.refused = 0
        self.written_back = 0
        #: the most siblings that a write of this node has left
        self.most = 0

    def policy(self, key: bytes) -> Policy:
        """The policy of a key."""
        return self._policies.find(key) or LWW

    def prefixes(self) -> tuple[bytes, ...]:
        """The beginnings of keys that have a policy of their own."""
        return self._policies.prefixes

    def keeps(self, key: bytes) -> bool:
        """True when a key's concurrent writes are kept."""
        return self.policy(key).mode is not Mode.LWW

    def concerns(self, effects: fx.Effects) -> bool:
        """Whether any of ``effects`` writes a key that is kept."""
        return any(effect[0] in WRITES and self.keeps(effect[2]) for effect in effects)

    def resolve(
        self, slot: int, internal: bytes, key: bytes, container: Container, record: bytes, now_ms: int
    ) -> Resolution:
        """The one value that a reader of ``key`` gets; a merged one is noted for the end of the cycle."""
        resolution = self.merge(self.policy(key), key, container, now_ms)
        if resolution.write_back and len(self.merged) < _MERGED_MAX and self.may_write_back(slot):
            assert resolution.value is not None
            self.merged[internal] = Merged(token(record), resolution.value, resolution.expire_at_ms)
        return resolution

    def merge(self, policy: Policy, key: bytes, container: Container, now_ms: int) -> Resolution:
        """One value of the siblings of ``key`` by ``policy``; a failure of its function is told in the log."""
        resolution = self.resolvers.resolve(policy, container, now_ms)
        if resolution.failed:
            text = f"siblings of key {key[:64]!r} are not merged: {resolution.detail}"
            if resolution.outcome is Outcome.TOO_SLOW:
                self._log("warning", text)  # Each begins a rest, so there are few.
            elif resolution.outcome is not Outcome.RESTING:
                self._tell(now_ms, text)
        return resolution

    def check_room(self, before: Container, context: Clock, value: bytes | None) -> None:
        """CommandError when a write with this context would leave too many siblings, or too large ones, and more than
        there are."""
        covered = context.get
        kept = [sibling.value or b"" for sibling in before.siblings if sibling.hlc > covered(sibling.actor, 0)]
        if kept and value and sum(map(len, kept)) + len(value) > SIBLING_BYTES_MAX:
            self.refused += 1
            raise CommandError(TOO_LARGE)
        if len(kept) >= SIBLINGS_MAX and len(kept) >= len(before.siblings):
            self.refused += 1
            raise CommandError(
                error(
                    b"ERR the key has %d siblings, and %d are the limit: read them with RKV.GET and write with the"
                    b" context that it gives, or use RKV.RESOLVE" % (len(before.siblings), SIBLINGS_MAX)
                )
            )

    def wrote(self, key: bytes, after: Container, now_ms: int) -> None:
        """A write of this node has left ``after``."""
        count = len(after.siblings)
        self.written += 1
        self.most = max(self.most, count)
        if count > SIBLINGS_WARN:
            self.warned += 1
            self._tell(now_ms, f"key {key[:64]!r} has {count} siblings: its writers do not resolve them")

    def _tell(self, now_ms: int, text: str) -> None:
        if now_ms - self._told_ms >= _LOG_EVERY_MS:
            self._told_ms = now_ms
            self._log("warning", text)

    def stats(self) -> dict[str, Any]:
        """Counters for metrics; ``outcomes`` by how a reader's one value came about, ``merge_...`` by function."""
        outcomes = self.resolvers.stats()
        functions = self.resolvers.function_stats()
        return {
            "written": self.written,
            "superseded": self.superseded,
            "warned": self.warned,
            "refused": self.refused,
            "written_back": self.written_back,
            "most": self.most,
            "merge_functions": outcomes.pop("functions"),
            "actors_issued": self.actors.issued,
            "outcomes": outcomes,
            **{f"merge_{figure}": counts for figure, counts in functions.items()},
        }
