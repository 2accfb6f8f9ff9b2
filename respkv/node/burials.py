"""Burials: what has been a husk for a while (keyspace/husks) is deleted, once others have been asked.

The acting primary compares all elements of the collection with as many replicas as a read at ``quorum``. If nobody has
one, nothing that was acknowledged at ``quorum`` can be lost by a tombstone, and it is written like a client's DEL. If
somebody has, the elements are here by then, and the collection lives.

Another replica does it if the primary has not for long: it may have missed what ended the elements.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from respkv.base.errors import CorruptionError, ReadMiss
from respkv.keyspace import keys
from respkv.replication.levels import QUORUM

if TYPE_CHECKING:
    from respkv.node.ring_node import RingNode

#: How long a husk is left alone: most are soon used again, or deleted by the client that emptied them.
AGE_MS: Final = 5_000
#: From then on the primary is not waited for.
LONG_MS: Final = 60_000
INTERVAL_US: Final = 1_000_000
#: Between two looks while there are more husks than one look takes.
_CROWDED_US: Final = 100_000
_LOOKED_AT: Final = 256
#: Comparisons under way.
OPEN_MAX: Final = 64


class Burials:
    """Those of one node. ``buried`` and ``spared`` count how comparisons ended."""

    __slots__ = ("_due_us", "_ring", "buried", "open", "spared")

    def __init__(self, ring: RingNode) -> None:
        self._ring = ring
        self._due_us = 0
        self.open: dict[bytes, None] = {}
        self.buried = self.spared = 0

    def next_timer_us(self) -> int:
        """When to call ``on_timer`` next."""
        return self._due_us

    def on_timer(self, now_us: int) -> None:
        """Look at some husks."""
        if now_us < self._due_us:
            return
        ring, keyspace = self._ring, self._ring.node.keyspace
        husks = keyspace.husks
        assert husks is not None
        if not self._due_us:
            husks.recover()
        self._due_us = now_us + (INTERVAL_US if len(husks) <= _LOOKED_AT else _CROWDED_US)
        if ring.member.placement is None or ring.node.dispatcher.refusal is not None:
            return
        for internal, since_ms in husks.turn(min(_LOOKED_AT, len(husks))):
            if len(self.open) >= OPEN_MAX:
                break
            age_ms = keyspace.now_ms - since_ms
            primary = ring.coordinator.primary(keys.key_slot(internal)) == ring.me
            if age_ms >= (AGE_MS if primary else LONG_MS) and internal not in self.open:
                self._begin(internal, now_us)

    def _begin(self, internal: bytes, now_us: int) -> None:
        prefix = keys.element_prefix(internal)
        end = keys.prefix_end(prefix)
        assert end is not None, "a prefix of an element begins with its space"
        burial = _Burial(self, internal)
        self.open[internal] = None
        try:
            self._ring.coordinator.ask_range(burial, prefix, end, QUORUM, now_us)
        except ReadMiss as miss:
            del self.open[internal]
            self._ring.node.fetch([miss.request], lambda: None)
        except CorruptionError:
            del self.open[internal]  # It is mended first.

    def compared(self, internal: bytes, *, changed: bool) -> None:
        """All elements that others hold are here."""
        del self.open[internal]
        node = self._ring.node
        husks = node.keyspace.husks
        if changed or husks is None or internal not in husks or node.dispatcher.refusal is not None:
            self.spared += 1
            return
        coordinator = self._ring.coordinator
        opened = coordinator.begin_own()
        try:
            node.applier.bury(internal)
            self.buried += 1
        except ReadMiss as miss:
            node.fetch([miss.request], lambda: None)
        except CorruptionError:
            pass
        finally:
            if opened:
                coordinator.end_own()

    def stats(self) -> dict[str, int]:
        """Figures for metrics."""
        husks = self._ring.node.keyspace.husks
        return {"husks": len(husks or ()), "husks_buried": self.buried, "husks_spared": self.spared}


class _Burial:
    """One comparison. Implements ``replication.rounds.Reader``."""

    __slots__ = ("_burials", "_internal", "changed", "level", "waiting")

    def __init__(self, burials: Burials, internal: bytes) -> None:
        self._burials = burials
        self._internal = internal
        self.level = QUORUM
        self.waiting = 0
        self.changed = False

    def resume(self) -> None:
        """It has been compared."""
        self._burials.compared(self._internal, changed=self.changed)

    def fail(self, reply: bytes) -> None:
        """Too few replicas answer: later again."""
        self._burials.open.pop(self._internal, None)
