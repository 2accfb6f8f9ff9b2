"""Sloppy quorums (Dynamo, SOSP 2007, 4.6): other nodes stand in for the replicas of a slot that are away.

Two sides, both pure. ``StandIns`` is a coordinator's: for each of its slots that has too few replicas alive for level
QUORUM, who stands in for whom. ``Holding`` is the stand-in's: it keeps what it is given as hints for the one that is
away, outside its own store, and answers reads of such keys from what it remembers of them.

A stand-in is asked only where replicas are too few, and only as many as are missing: the next live nodes of the slot's
walk round the ring. It counts for QUORUM alone, never for ALL or WAIT. Two coordinators that see different nodes alive
may use different stand-ins, and a restarted one remembers nothing: while any counted, nothing but convergence is
promised. The coordinator is always a replica, so one of a key's replicas has to live.

Bounds: REMEMBERED_BYTES_MAX of records that reads can see (the oldest are forgotten first), for as long as hints are
held; the hints have their own (``hints.py``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from respkv.base.limits import MIB
from respkv.causality import siblings
from respkv.causality.hlc import MAX_STAMP
from respkv.causality.record import BODY_AT, DVV, newer
from respkv.cluster.placement import Placement
from respkv.replication.hints import HintStore
from respkv.replication.payload import entries_of
from respkv.wire.messages import OK, ReadResult, Reads

REMEMBERED_BYTES_MAX: Final = 64 * MIB
_NUMBER_BITS: Final = 16
_NUMBER_MASK: Final = (1 << _NUMBER_BITS) - 1

#: (stand-in, the replica that is away) for each that a slot needs.
Pairs = tuple[tuple[int, int], ...]


def stand_in_number(stand_in: int, target: int) -> int:
    """A stand-in as acks count it: apart from the node's own number, which may be a replica's."""
    return target << _NUMBER_BITS | stand_in


def node_of(number: int) -> int:
    """The node behind a number of either kind."""
    return number & _NUMBER_MASK


class StandIns:
    """Who stands in at which slot. ``of`` has the slots that need somebody and can be helped."""

    __slots__ = ("of", "on")

    def __init__(self) -> None:
        self.on = False
        self.of: dict[int, Pairs] = {}

    def refresh(self, placement: Placement, me: int, live: Callable[[int], bool], needed: int) -> bool:
        """Somebody's state has changed. ``needed``: nodes beside this one. True when ``of`` has changed. O(slots)."""
        found: dict[int, Pairs] = {}
        if self.on:
            alive = {short: short != me and live(short) for short in placement.members}
            short_of = [needed - sum(alive[each] for each in group) if me in group else 0 for group in placement.groups]
            if any(missing > 0 for missing in short_of):
                for slot, group in enumerate(placement.group_of):
                    if short_of[group] > 0:
                        able = [short for short in placement.walk(slot)[placement.replicas :] if alive[short]]
                        away = [short for short in placement.groups[group] if short != me and not alive[short]]
                        pairs = tuple(zip(able, away))[: short_of[group]]
                        if len(pairs) == short_of[group]:
                            found[slot] = pairs
        changed = found != self.of
        self.of = found
        return changed


class Holding:
    """What this node holds for replicas that are away. ``refused`` counts what it did not take."""

    __slots__ = ("_bytes", "_hints", "_remembered", "refused", "taken")

    def __init__(self, hints: HintStore) -> None:
        self._hints = hints
        self._remembered: dict[bytes, bytes] = {}
        self._bytes = 0
        self.taken = self.refused = 0

    def take(self, target: int, payload: bytes, now_ms: int) -> bytes | None:
        """Hold a payload for ``target``: it is in the hints' file afterwards. The newest stamp in it; None when it was
        not taken (the share is full, the disk does not write). ProtocolError when it is none."""
        entries = entries_of(payload)
        stamps = [record[1:BODY_AT] for _, record in entries]
        lost = self._hints.counters["dropped_error"]
        oldest = min(stamps, default=MAX_STAMP)
        if not self._hints.add(target, payload, entries=len(entries), oldest=oldest):
            self.refused += 1
            return None
        self._hints.commit(now_ms)
        if self._hints.counters["dropped_error"] != lost:
            self.refused += 1
            return None
        for internal, record in entries:
            self._remember(internal, record)
        self.taken += len(entries)
        return max(stamps, default=b"")

    def _remember(self, internal: bytes, record: bytes) -> None:
        old = self._remembered.pop(internal, None)
        if old is not None:
            self._bytes -= len(internal) + len(old)
            record = siblings.join(old, record) if (old[0] | record[0]) & DVV else newer(old, record)
        self._remembered[internal] = record
        self._bytes += len(internal) + len(record)
        while self._bytes > REMEMBERED_BYTES_MAX:
            first = next(iter(self._remembered))
            self._bytes -= len(first) + len(self._remembered.pop(first))

    def read(self, message: Reads) -> ReadResult:
        """What is remembered and differs from what the asker has. What is not remembered is no difference: the asker is
        a replica, and this node none."""
        differing = []
        for index, (internal, stamp) in enumerate(zip(message.keys, message.stamps)):
            record = self._remembered.get(internal)
            if record is not None and siblings.token(record) != stamp:
                differing.append((index, OK, record))
        return ReadResult(message.seq, OK, tuple(differing))

    def forget_delivered(self) -> None:
        """Forget what reads could see once no hint is held any more. O(targets)."""
        if self._remembered and not self._hints.targets():
            self._remembered.clear()
            self._bytes = 0

    def stats(self) -> dict[str, int]:
        """Counters for metrics."""
        return {
            "stand_in_entries_taken": self.taken,
            "stand_in_payloads_refused": self.refused,
            "stand_in_entries_remembered": len(self._remembered),
            "stand_in_bytes_remembered": self._bytes,
        }

    def check_invariants(self) -> None:
        """The bytes are those of the records."""
        assert self._bytes == sum(len(internal) + len(record) for internal, record in self._remembered.items())
        assert self._bytes <= REMEMBERED_BYTES_MAX
