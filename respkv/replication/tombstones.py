"""When a tombstone may go: the purge watermark of each slot.

The watermark P (an HLC value) promises: of everything with a stamp below P, each natural replica of the slot has
what every other has. A *grave* (tombstone, expired form) below P has done its work: no older version of its key is left
anywhere that could come back, and compaction may drop it (``keyspace/retention``). Never by age alone: ScyllaDB's
tombstone_gc=repair, Riak's reap with all primaries up.

How P moves. An anti-entropy session with one co-replica that ends equal for a slot proves equality with *that* peer
for stamps below the session's *cut*: its start, by the clock that is furthest behind of all members', minus a
propagation delay (writes in flight), and not above the oldest hint that any member still holds (writes that wait). Per
slot and co-replica the highest cut is kept; P is the least of them, over all natural co-replicas. A member that cannot
be reached ends no session and tells no time, so P stands still. Nearly all slots share one cut, so it is kept once a
peer, with the slots that differ beside it (``_Equal``).

A session is announced by ``session_began``: an old record that arrives while it runs, from elsewhere, may have come
after the comparison, so its slot proves nothing (``session_ended`` names such slots).

An old record (stamp below a cut) that still arrives and changes something, by a hint or from one co-replica, is
not known to the others: it lowers their cuts to its stamp (``old_record_applied``) until sessions have ended equal
again. That is what makes the least of pairwise equalities an equality of all.

P only grows. Two replicas of one ring epoch exchange it before they compare sums, and the lower takes the higher one
over: it was proved by a node that had equality with all, this one included. A change of a slot's replicas forgets the
cuts (``replicas_changed``) and keeps P. A P that no session can have proved by now (above ``latest``) comes from a
clock that was wrong and is taken over from nobody: it would have new writes refused, and graves dropped unproved.

A full owner refuses foreground writes and hints below P for keys of which it has no record: the record may have been
beaten by a grave that is gone. Repair and transfer between natural replicas are exempt: they restore what was lost.

The watermarks are saved with ``encode``: losing them only delays purging. What was saved and lies above ``latest`` at
the start is not believed either.
Body: ``version u8 = 1 | repeated: first slot u16be, last slot u16be, hlc u64be``.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Collection, Container, Iterable, Sequence
from typing import Final

from respkv.base.errors import FormatError
from respkv.base.slots import SLOT_COUNT
from respkv.causality.hlc import COUNTER_BITS, STAMP_BYTES
from respkv.wire.messages import FOREGROUND, HINT

#: How long a write may be under way between two nodes, milliseconds: twice the longest deadline, 60 s at least.
PROPAGATION_MS: Final = 60_000
_VERSION: Final = b"\x01"
_RANGE_BYTES: Final = 12
_NODE_PART: Final = bytes(STAMP_BYTES - 8)
FOREVER: Final = (1 << 64) - 1


def cut_of(start_ms: int, oldest_hint: bytes, delay_ms: int = PROPAGATION_MS) -> int:
    """The HLC value below which a session can prove equality that starts when all members' clocks have passed
    ``start_ms``.

    ``oldest_hint``: the least stamp of all hints that any member holds, b"" for none.
    """
    cut = max(0, start_ms - delay_ms) << COUNTER_BITS
    return min(cut, int.from_bytes(oldest_hint[:8], "big")) if oldest_hint else cut


class _Equal:
    """Below which stamps one co-replica is known to have what we have: ``common``, and ``apart`` for single slots."""

    __slots__ = ("apart", "common")

    def __init__(self) -> None:
        self.common = 0
        self.apart: dict[int, int] = {}

    def get(self, slot: int) -> int:
        return self.apart.get(slot, self.common)

    def lower(self, slot: int, cut: int) -> None:
        self.apart[slot] = cut

    def grow(self, slots: Iterable[int], cut: int) -> None:
        """Some slots are equal below ``cut``."""
        for slot in slots:
            if cut > self.get(slot):
                self.apart[slot] = cut

    def grow_all(self, cut: int, but: Collection[int]) -> None:
        """All slots are, ``but`` some. O(slots apart)."""
        if cut <= self.common:
            self.grow([slot for slot in self.apart if slot not in but], cut)
            return
        stay = {slot: self.get(slot) for slot in but}
        self.apart = {**{slot: higher for slot, higher in self.apart.items() if higher > cut}, **stay}
        self.common = cut


class PurgeWatermarks:
    """P of every slot, and what it is derived from.

    ``marks`` holds P as HLC values and may be shared with who reads it; nobody else changes it. ``advance(slots)`` is
    called when P of these slots has grown: leaf sums take the graves below it out. ``latest()`` is the HLC value above
    which nobody's P is believed.
    """

    __slots__ = (
        "_advance", "_cuts", "_highest_mark", "_latest", "_newest_cut", "_open", "advances", "disbelieved", "lowered",
        "marks", "refused",
    )  # fmt: skip

    def __init__(
        self, marks: array[int], advance: Callable[[Sequence[int]], None], latest: Callable[[], int]
    ) -> None:
        self._advance = advance
        self._latest = latest
        self.marks = marks
        #: by co-replica (short id)
        self._cuts: dict[int, _Equal] = {}
        #: no cut lies above it: newer records need no look
        self._newest_cut = 0
        self._highest_mark = 0
        #: open sessions: key -> (peer, cut, slots in which something old has changed)
        self._open: dict[int, tuple[int, int, dict[int, None]]] = {}
        self.advances = 0
        #: ranges that were not taken over
        self.disbelieved = 0
        self.lowered = 0
        self.refused = 0

    def get(self, slot: int) -> bytes:
        """P as a stamp: a grave with a lower stamp may go."""
        return self.marks[slot].to_bytes(8, "big") + _NODE_PART

    def newest(self) -> bytes:
        """A stamp above every watermark and every cut: what is newer needs no judgement. O(1)."""
        return max(self._newest_cut, self._highest_mark).to_bytes(8, "big") + _NODE_PART

    # -- learning ----------------------------------------------------------------------------------

    def session_began(self, session: int, peer: int, cut: int) -> None:
        """A session with ``peer`` compares what lies below ``cut``."""
        self._open[session] = (peer, cut, {})
        self._newest_cut = max(self._newest_cut, cut)

    def session_ended(self, session: int) -> dict[int, None]:
        """The session is over, however it ended: slots of which it proves nothing, since old records came."""
        return self._open.pop(session)[2]

    def ended_equal(self, peer: int, slots: Iterable[int], cut: int) -> None:
        """A session with ``peer`` ended with nothing old different in ``slots``. Call ``raise_groups`` after it."""
        self._cuts.setdefault(peer, _Equal()).grow(slots, cut)
        self._newest_cut = max(self._newest_cut, cut)

    def ended_complete(self, peer: int, cut: int, but: Collection[int]) -> None:
        """The same of all slots that are shared with ``peer``, ``but`` some. O(slots in which something is special)."""
        self._cuts.setdefault(peer, _Equal()).grow_all(cut, but)
        self._newest_cut = max(self._newest_cut, cut)

    def raise_groups(self, groups: Iterable[tuple[Sequence[int], Sequence[int]]]) -> int:
        """Let P grow where all co-replicas of a slot are known to be equal; how many slots moved. 0.1 us a slot.

        ``groups``: (co-replicas, their slots). No co-replicas (a ring of one) prove nothing: use ``raise_alone``.
        """
        grown: list[int] = []
        for peers, slots in groups:
            cuts = [self._cuts[peer] for peer in peers if peer in self._cuts]
            if not cuts or len(cuts) < len(peers):
                continue
            if any(each.apart for each in cuts):
                for slot in slots:
                    self._raise((slot,), min([each.get(slot) for each in cuts]), grown)
            else:
                self._raise(slots, min(each.common for each in cuts), grown)
        return self._tell(grown)

    def raise_alone(self, slots: Iterable[int], now: int) -> int:
        """The only replica of ``slots`` needs nobody's consent: P is now (an HLC value)."""
        return self._tell(self._raise(slots, now, []))

    def adopt(self, first: int, last: int, mark: int) -> int:
        """A co-replica of the same ring epoch has this P for a range of slots; how many of ours grew."""
        return self.adopt_shared([(first, last, mark)], range(first, last + 1))

    def adopt_shared(self, ranges: Iterable[tuple[int, int, int]], shared: Container[int]) -> int:
        """``adopt`` of many ranges, for those of their slots that are shared with the co-replica."""
        grown: list[int] = []
        latest = self._latest()
        for first, last, mark in ranges:
            if mark > latest:
                self.disbelieved += 1
                continue
            self._raise([slot for slot in range(first, last + 1) if slot in shared], mark, grown)
        return self._tell(list(dict.fromkeys(grown)))

    def _raise(self, slots: Iterable[int], mark: int, grown: list[int]) -> list[int]:
        """Let P of ``slots`` grow to ``mark``, where it is less; they are added to ``grown``. ``_tell`` must follow."""
        marks = self.marks
        lower = [slot for slot in slots if marks[slot] < mark]
        for slot in lower:
            marks[slot] = mark
        if lower:
            self._highest_mark = max(self._highest_mark, mark)
            grown += lower
        return grown

    def _tell(self, grown: list[int]) -> int:
        """P of these slots has grown."""
        if grown:
            self.advances += len(grown)
            self._advance(grown)
        return len(grown)

    def old_record_applied(self, slot: int, stamp: bytes, source: int | None) -> None:
        """A record changed what we hold. ``source``: the co-replica it came from in repair, None for others.

        Cheap for new records: one comparison.
        """
        hlc = int.from_bytes(stamp[:8], "big")
        if hlc >= self._newest_cut:
            return
        for peer, cuts in self._cuts.items():
            if peer != source and cuts.get(slot) > hlc:
                cuts.lower(slot, hlc)
                self.lowered += 1
        for peer, cut, changed in self._open.values():
            if peer != source and hlc < cut:
                changed[slot] = None

    def peer_restarted(self, peer: int) -> None:
        """A co-replica came back after a crash: it may have lost what it had not synced. Its cuts are void."""
        self._cuts.pop(peer, None)

    def replicas_changed(self, slots: Iterable[int]) -> None:
        """The preference lists of ``slots`` are others: what was proved with the old ones no longer counts."""
        for slot in slots:
            for cuts in self._cuts.values():
                cuts.lower(slot, 0)

    # -- judging -----------------------------------------------------------------------------------

    def refuses(self, kind: int, slot: int, stamp: bytes, held: bool) -> bool:
        """Whether a write is too old to be taken: BELOW_PURGE. ``kind`` as in ``Writes.kind``, ``held``: there is a
        record of its key, of whatever kind."""
        if held or kind not in (FOREGROUND, HINT) or int.from_bytes(stamp[:8], "big") >= self.marks[slot]:
            return False
        self.refused += 1
        return True

    # -- plain forms -------------------------------------------------------------------------------

    def ranges(self, slots: Collection[int] | None = None) -> tuple[tuple[int, int, int], ...]:
        """(first, last, P) of ascending slots that have a P, all or the given ascending ones."""
        marks = self.marks
        asked = range(SLOT_COUNT) if slots is None else list(slots)
        if not asked:
            return ()
        if len(asked) == SLOT_COUNT and marks == array("Q", marks[:1]) * SLOT_COUNT:
            return ((0, SLOT_COUNT - 1, marks[0]),) if marks[0] else ()
        held = [marks[slot] for slot in asked]
        ends = [
            at
            for at, (slot, after, mark, mark_after) in enumerate(zip(asked, asked[1:], held, held[1:]))
            if mark != mark_after or slot + 1 != after
        ]
        ends.append(len(held) - 1)
        firsts = [0, *(at + 1 for at in ends)]
        return tuple((asked[first], asked[end], held[end]) for first, end in zip(firsts, ends) if held[end])

    def encode(self) -> bytes:
        """The body of the local-meta record that keeps them."""
        return _VERSION + b"".join(
            first.to_bytes(2, "big") + last.to_bytes(2, "big") + mark.to_bytes(8, "big")
            for first, last, mark in self.ranges()
        )

    def decode(self, body: bytes) -> None:
        """Take a saved body over. FormatError."""
        if body[:1] != _VERSION or len(body) % _RANGE_BYTES != 1:
            raise FormatError(f"purge watermarks of an unknown form, version byte {body[:1].hex()}")
        for at in range(1, len(body), _RANGE_BYTES):
            first, last = int.from_bytes(body[at : at + 2], "big"), int.from_bytes(body[at + 2 : at + 4], "big")
            if not first <= last < SLOT_COUNT:
                raise FormatError(f"purge watermarks of the slots {first} to {last}")
            self.adopt(first, last, int.from_bytes(body[at + 4 : at + _RANGE_BYTES], "big"))

    def stats(self) -> dict[str, int]:
        """Counters for metrics. ``purge_watermark_ms``: the least of the slots that have one, 0 for none. O(slots)."""
        least = min(filter(None, self.marks), default=0)
        return {
            "purge_watermark_ms": least >> COUNTER_BITS,
            "purge_watermark_slots": SLOT_COUNT - self.marks.count(0),
            "purge_watermark_advances": self.advances,
            "purge_watermarks_disbelieved": self.disbelieved,
            "purge_cuts_lowered": self.lowered,
            "writes_below_purge_watermark": self.refused,
        }

    def check_invariants(self) -> None:
        """No cut lies above ``_newest_cut``."""
        for cuts in self._cuts.values():
            assert max(cuts.common, *cuts.apart.values(), 0) <= self._newest_cut
            assert all(0 <= slot < SLOT_COUNT for slot in cuts.apart)
