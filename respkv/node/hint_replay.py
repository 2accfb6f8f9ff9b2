"""Hints on their way: what was held for a node that was away goes to it once it lives.

One batch of each target is under way at a time, as a ``Writes`` of kind HINT with a number of the asker's own. It ends
by the target's ``WriteAcks``, by a deadline, or with the link; whatever was not acked comes again, after a pause that
doubles. Hints for a node that has left the ring go to those who own the keys now.

An entry that the target refuses for good (older than its purge watermark; the key of a register) is done with: the
target knows better. Any other refusal of an entry brings the whole batch back, which merging makes harmless.

A hint of the future (a clock was ahead for a while) waits until this node's clock permits its stamp: the target would
take it for nonsense and close the link, each time that it comes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from respkv.base.errors import CorruptionError, ProtocolError, ReadMiss, StorageFull
from respkv.base.limits import KIB, MIB
from respkv.causality.hlc import COUNTER_BITS, MAX_STAMP, pack_stamp
from respkv.causality.record import stamp_of
from respkv.cluster.placement import Placement
from respkv.keyspace import keys
from respkv.replication.hints import HintBatch, HintStore
from respkv.storage.write_batch import encode_entry, iterate_payload
from respkv.wire.messages import BELOW_PURGE, HINT, IO_ERROR, REJECT_STRONG, WriteAcks, Writes

Send = Callable[[int, object], bool]
#: ``apply(kind, payload, source)``: merge entries here; (entry, status) of those refused. Raises ReadMiss,
#: CorruptionError, ProtocolError and StorageFull, all before anything has changed.
Apply = Callable[[int, bytes, int | None], Sequence[tuple[int, int]]]

BATCH_BYTES: Final = 256 * KIB
#: While clients wait, hints go in smaller pieces, and only with the timer.
BUSY_BATCH_BYTES: Final = 64 * KIB
#: A batch without an answer for this long comes again; a large one has a second more for each 4 MiB.
DEADLINE_US: Final = 5_000_000
_DEADLINE_BYTES_PER_S: Final = 4 * MIB
#: The pause after a batch that failed, doubled with each failure in a row.
RETRY_US: Final = 500_000
RETRY_US_MAX: Final = 30_000_000
EXPIRE_US: Final = 60_000_000
_FOR_GOOD: Final = (BELOW_PURGE, REJECT_STRONG)


class _Flight(NamedTuple):
    """A batch under way."""

    seq: int
    batch: HintBatch
    deadline_us: int


class HintReplay:
    """Drives a ``HintStore``. Pure: the time comes in with each call."""

    __slots__ = (
        "_added", "_apply", "_expire_us", "_failures", "_flights", "_live", "_next_seq", "_send", "_waits",
        "entries_refused", "entries_sent", "failed", "hints", "max_skew_ms", "me", "placement", "redirected",
    )  # fmt: skip

    def __init__(
        self,
        hints: HintStore,
        *,
        send: Send,
        apply: Apply,
        live: Callable[[int], bool],
        next_seq: Callable[[], int],
        max_skew_ms: int,
    ) -> None:
        self.hints = hints
        self.max_skew_ms = max_skew_ms
        self.me = 0
        self.placement: Placement | None = None
        self.entries_sent = 0
        self.entries_refused = 0
        self.failed = 0
        self.redirected = 0
        self._send = send
        self._apply = apply
        self._live = live
        self._next_seq = next_seq
        self._flights: dict[int, _Flight] = {}
        #: target -> when it may be tried again, and failures in a row
        self._waits: dict[int, int] = {}
        self._failures: dict[int, int] = {}
        self._added = False
        self._expire_us = 0

    # -- taking hints ------------------------------------------------------------------------------

    def missed(self, target: int, payload: bytes) -> bool:
        """``target`` did not take these entries: hold them. False when they were dropped, which is counted."""
        entries, oldest = 0, MAX_STAMP
        for _, record in iterate_payload(payload):
            entries += 1
            oldest = min(oldest, stamp_of(record))
        if not entries:
            return True
        self._added = True
        return self.hints.add(target, payload, entries=entries, oldest=oldest)

    def commit(self, now_ms: int) -> None:
        """Write what came since the last call. Once a cycle; free when nothing came."""
        if self._added:
            self._added = False
            self.hints.commit(now_ms)

    # -- sending -----------------------------------------------------------------------------------

    def run(self, now_us: int, now_ms: int, *, busy: bool) -> None:
        """Give up what is late, send what is due, drop what is too old. May raise ReadMiss: call it again then."""
        self.commit(now_ms)
        if now_us >= self._expire_us:
            self._expire_us = now_us + EXPIRE_US
            self.hints.expire(now_ms)
        for flight in [flight for flight in self._flights.values() if now_us >= flight.deadline_us]:
            self._give_up(flight, now_us)
        for target in self.hints.targets():
            self._replay(target, now_us, now_ms, BUSY_BATCH_BYTES if busy else BATCH_BYTES)

    def _replay(self, target: int, now_us: int, now_ms: int, limit_bytes: int) -> None:
        placement = self.placement
        if placement is None or target in self._flights or now_us < self._waits.get(target, 0):
            return
        if target not in placement.members or target == self.me:
            self._redirect(target, now_us, now_ms, placement)
            return
        if not self._live(target):
            return
        batch = self.hints.next_batch(target, limit_bytes, now_us, self._latest(now_ms))
        if batch is None:
            return
        seq = self._next_seq()
        deadline_us = now_us + DEADLINE_US + len(batch.payload) * 1_000_000 // _DEADLINE_BYTES_PER_S
        flight = self._flights[target] = _Flight(seq, batch, deadline_us)
        if self._send(target, Writes(seq, HINT, batch.payload)):
            self.entries_sent += batch.entries
        else:
            self._give_up(flight, now_us)

    def _latest(self, now_ms: int) -> bytes:
        """The stamp up to which others may be sent hints."""
        return pack_stamp((now_ms + self.max_skew_ms) << COUNTER_BITS, 0)

    def _redirect(self, target: int, now_us: int, now_ms: int, placement: Placement) -> None:
        """The target is no member any more: what is held for it goes to the owners of the keys."""
        batch = self.hints.next_batch(target, BATCH_BYTES, now_us, self._latest(now_ms))
        if batch is None:
            return
        shares: dict[int, list[bytes]] = {}
        for internal, record in iterate_payload(batch.payload):
            entry = encode_entry(internal, record)
            for owner in placement.table[keys.key_slot(internal)]:
                shares.setdefault(owner, []).append(entry)
        mine = shares.pop(self.me, None)
        if mine:
            try:
                refused = self._apply(HINT, b"".join(mine), None)
            except ReadMiss:
                self.hints.failed(batch)
                raise
            except (CorruptionError, ProtocolError, StorageFull):
                refused = ((0, IO_ERROR),)
            if any(status not in _FOR_GOOD for _, status in refused):
                self.failed += 1
                self.hints.failed(batch)
                self._pause(target, now_us)
                return
        for owner, entries in sorted(shares.items()):
            self.missed(owner, b"".join(entries))
        self.commit(now_ms)
        self.hints.acked(batch)
        self.redirected += batch.entries

    # -- answers -----------------------------------------------------------------------------------

    def on_acks(self, target: int, acks: WriteAcks, now_us: int, now_ms: int, *, busy: bool) -> None:
        """What a target says of batches, among other things. The next batch goes at once, unless clients wait."""
        flight = self._flights.get(target)
        if flight is None:
            return
        refused = [status for seq, _, status in acks.refused if seq == flight.seq]
        if flight.seq not in acks.done:
            if refused:
                self._give_up(flight, now_us)
            return
        if any(status not in _FOR_GOOD for status in refused):
            self._give_up(flight, now_us)
            return
        self.entries_refused += len(refused)
        del self._flights[target]
        self._failures.pop(target, None)
        self.hints.acked(flight.batch)
        if not busy:
            self._replay(target, now_us, now_ms, BATCH_BYTES)

    def on_member(self, short: int, up: bool, now_us: int) -> None:
        """The first link to a member came up, or the last one went."""
        flight = self._flights.get(short)
        if flight is not None:
            self._give_up(flight, now_us)
        if up:
            self._waits.pop(short, None)
            self._failures.pop(short, None)

    def _give_up(self, flight: _Flight, now_us: int) -> None:
        target = flight.batch.target
        del self._flights[target]
        self.failed += 1
        self.hints.failed(flight.batch)
        self._pause(target, now_us)

    def _pause(self, target: int, now_us: int) -> None:
        failures = self._failures[target] = self._failures.get(target, 0) + 1
        self._waits[target] = now_us + min(RETRY_US_MAX, RETRY_US << min(failures - 1, 10))

    # -- figures -----------------------------------------------------------------------------------

    def stats(self) -> dict[str, int]:
        """Counters for metrics."""
        return {
            **self.hints.stats(),
            "hint_batches_under_way": len(self._flights),
            "hint_batches_failed": self.failed,
            "hint_entries_sent": self.entries_sent,
            "hint_entries_refused": self.entries_refused,
            "hint_entries_redirected": self.redirected,
        }

    def check_invariants(self) -> None:
        """A flight is known under its target; the store's own invariants hold."""
        assert all(flight.batch.target == target for target, flight in self._flights.items())
        self.hints.check_invariants()
