"""Burials: what has been a husk for a while (keyspace/husks) is deleted, once others have been asked.

The acting primary compares all elements of the collection with so many replicas that one of them knows whatever was
acknowledged at ``quorum`` (with sloppy quorums: with all). If nobody has an element, none that was acknowledged can be
lost by a tombstone, and it is written like a client's DEL, under the stamp of the time when comparing began: whatever
is written meanwhile lies above it. If somebody has one, the elements are here by then, and the collection lives.

After a start the element counts that are stored are walked over once, to find the husks of before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from respkv.base.errors import CorruptionError, ReadMiss
from respkv.causality.record import BODY_AT
from respkv.keyspace import keys
from respkv.keyspace.keyspace import DOUBTED_COUNT, UNKNOWN_COUNT
from respkv.replication.levels import QUORUM

if TYPE_CHECKING:
    from respkv.keyspace.husks import Husks
    from respkv.node.ring_node import RingNode

#: How long a husk is left alone: most are soon used again, or deleted by the client that emptied them.
AGE_MS: Final = 5_000
INTERVAL_US: Final = 1_000_000
#: Between two looks while there is more than one look takes.
_CROWDED_US: Final = 100_000
_LOOKED_AT: Final = 256
#: Comparisons under way.
OPEN_MAX: Final = 64
#: Element counts that one step of the walk after a start passes.
_WALKED: Final = 500
_PREPARED: Final = 20_000


class Burials:
    """Those of one node. ``buried`` and ``spared`` count how comparisons ended."""

    __slots__ = ("_due_us", "_ring", "_walked", "buried", "open", "spared")

    def __init__(self, ring: RingNode) -> None:
        self._ring = ring
        self._due_us = 0
        self.open: dict[bytes, _Burial] = {}
        #: the element count at which the walk after the start goes on; None: it has ended
        self._walked: bytes | None = bytes((keys.SPACE_COUNT,))
        self.buried = self.spared = 0

    def next_timer_us(self) -> int:
        """When to call ``on_timer`` next."""
        return self._due_us

    def on_timer(self, now_us: int) -> None:
        """Look at some husks."""
        if now_us < self._due_us:
            return
        ring, husks = self._ring, self._ring.node.keyspace.husks
        assert husks is not None
        crowded = self._walked is not None or len(husks) > _LOOKED_AT
        self._due_us = now_us + (_CROWDED_US if crowded else INTERVAL_US)
        if self._walked is not None:
            self._walk(self._walked, husks)
        if ring.member.placement is None or ring.node.dispatcher.refusal is not None:
            return
        for internal, since_ms in husks.turn(min(_LOOKED_AT, len(husks))):
            if len(self.open) >= OPEN_MAX:
                break
            old = ring.node.keyspace.now_ms - since_ms >= AGE_MS
            if internal in self.open or not self._is_one(internal) or not old:
                continue
            if ring.coordinator.primary(keys.key_slot(internal)) == ring.me:
                self._begin(internal, now_us)

    def _is_one(self, internal: bytes) -> bool:
        """Whether it still has the record of a collection; else it goes off the list."""
        keyspace = self._ring.node.keyspace
        try:
            record = keyspace.empty_collection(internal, keyspace.engine.get(internal))
        except ReadMiss as miss:
            self._ring.node.fetch([miss.request], _nothing)
            return False
        except CorruptionError:
            return False  # It is mended first.
        if record is None and keyspace.husks is not None:
            keyspace.husks.discard(internal)
        return record is not None

    def _walk(self, start: bytes, husks: Husks) -> None:
        keyspace, left = self._ring.node.keyspace, _WALKED
        if len(keyspace.sighted) > _WALKED:
            return  # What has been found is looked at first.
        if keyspace.engine.prepare_scan(keys.SPACE_COUNT, _PREPARED):
            return  # There are many in memory, to be sorted a slice at a time.
        try:
            for internal, record in keyspace.engine.scan(start, bytes((keys.SPACE_COUNT + 1,))):
                self._walked = keys.after(internal)
                number = record[BODY_AT : BODY_AT + 8]
                if not husks.suspect_count(internal, record) and number in (UNKNOWN_COUNT, DOUBTED_COUNT):
                    husks.suspect(keys.count_owner(internal))
                left -= 1
                if not left:
                    return
        except ReadMiss as miss:
            self._ring.node.fetch([miss.request], _nothing)
            return
        except CorruptionError:
            pass  # What is mended is looked at then.
        self._walked = None

    # -- one burial --------------------------------------------------------------------------------

    def _begin(self, internal: bytes, now_us: int) -> None:
        coordinator = self._ring.coordinator
        prefix = keys.element_prefix(internal)
        end = keys.prefix_end(prefix)
        assert end is not None, "a prefix of an element begins with its space"
        burial = self.open[internal] = _Burial(self, internal, self._ring.node.keyspace.stamp())
        try:
            coordinator.ask_range_surely(burial, prefix, end, now_us)
        except ReadMiss as miss:
            self.give_up(burial)
            self._ring.node.fetch([miss.request], _nothing)
        except CorruptionError:
            self.give_up(burial)
        else:
            if not burial.waiting:
                burial.resume()  # There is nobody to ask.

    def compared(self, burial: _Burial) -> None:
        """All elements that others hold are here, if enough of them were asked."""
        internal = burial.internal
        del self.open[internal]
        node = self._ring.node
        husks = node.keyspace.husks
        if burial.changed or husks is None or internal not in husks:
            self.spared += 1
            return
        if node.dispatcher.refusal is not None:
            return
        coordinator = self._ring.coordinator
        opened = coordinator.begin_own()
        try:
            self.buried += node.applier.bury(internal, burial.stamp)
        except ReadMiss as miss:
            node.fetch([miss.request], _nothing)
        except CorruptionError:
            pass  # It is mended first.
        finally:
            if opened:
                coordinator.end_own()

    def give_up(self, burial: _Burial) -> None:
        """It could not be compared: later again."""
        burial.over = True
        if self.open.get(burial.internal) is burial:
            del self.open[burial.internal]

    def stats(self) -> dict[str, int]:
        """Figures for metrics."""
        husks = self._ring.node.keyspace.husks
        return {"husks": len(husks or ()), "husks_buried": self.buried, "husks_spared": self.spared}


class _Burial:
    """One comparison. Implements ``replication.rounds.Reader``: ``fail`` may be followed by ``resume``."""

    __slots__ = ("_burials", "changed", "internal", "level", "over", "stamp", "waiting")

    def __init__(self, burials: Burials, internal: bytes, stamp: bytes) -> None:
        self._burials = burials
        self.internal = internal
        self.stamp = stamp
        self.level = QUORUM
        self.waiting = 0
        self.changed = False
        self.over = False

    def resume(self) -> None:
        """It has been compared."""
        if not self.over:
            self.over = True
            self._burials.compared(self)

    def fail(self, reply: bytes) -> None:
        """Too few replicas answer."""
        if not self.over:
            self._burials.give_up(self)


def _nothing() -> None:
    """The next look comes anyway."""
