"""The weekly look: are the leaf sums those of the records that are stored?

Slot by slot, so that all of a node's slots pass once a week, the records are read and summed and the sums compared. It
finds a mistake in settling, which would otherwise hide a divergence for ever or show one that is none; reading
everything also finds blocks that have rotted, before the last good copy is needed (Riak rebuilds its trees for the same
reason). A slot is read in pieces; if its sums changed meanwhile it is read again, a few times, and then left for
next week.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from xxhash import xxh3_64_intdigest

from respkv.env.rng import Rng
from respkv.keyspace.leaf_rule import LEAVES, MASK
from respkv.keyspace.leaf_sums import LeafSums
from respkv.replication.merkle import MerkleStore

PERIOD_US: Final = 7 * 86_400_000_000
KEYS_PER_STEP: Final = 500
_TRIES: Final = 5


class LeafCheck:
    """One round after another over the owned slots, begun anywhere."""

    __slots__ = (
        "_after", "_before", "_place", "_rng", "_slot", "_store", "_sums", "_tries", "checked", "due_us", "keys_read",
        "left", "period_us", "wrong",
    )  # fmt: skip

    def __init__(self, store: MerkleStore, rng: Rng, *, period_us: int = PERIOD_US) -> None:
        self.period_us = period_us
        self.due_us = 0
        self.checked = 0
        self.left = 0
        self.keys_read = 0
        self.wrong = 0
        self._store = store
        self._rng = rng
        #: index into the owned slots; below 0: not begun
        self._place = -1
        self._slot = -1
        self._after = b""
        self._sums = [0] * LEAVES
        self._before: tuple[int, ...] = ()
        self._tries = 0

    def step(self, slots: Sequence[int], now_us: int) -> int | None:
        """Read a piece. The slot whose sums were wrong and are put right, None in general.

        ``slots``: what this node owns. May raise ReadMiss (call again) or CorruptionError (call ``skip``).
        """
        store = self._store
        if not slots or now_us < self.due_us or not store.ready():
            return None
        if self._slot < 0:
            self._begin(slots)
        listing = store.list_slot(self._slot, None, self._after, KEYS_PER_STEP, 0)
        self.keys_read += listing.visited
        for internal, digest in listing.entries:
            key_hash = xxh3_64_intdigest(internal)
            leaf = key_hash & (LEAVES - 1)
            self._sums[leaf] = (self._sums[leaf] + xxh3_64_intdigest(digest, key_hash)) & MASK
        if listing.position is not None:
            self._after = listing.position
            return None
        return self._end(store.sums, len(slots), now_us)

    def _begin(self, slots: Sequence[int]) -> None:
        self._place = self._rng.randrange(len(slots)) if self._place < 0 else (self._place + 1) % len(slots)
        self._slot = slots[self._place % len(slots)]
        self._tries = 0
        self._rewind()

    def _rewind(self) -> None:
        self._after = b""
        self._sums = [0] * LEAVES
        self._before = self._store.leaves(self._slot)

    def _end(self, sums: LeafSums, slots: int, now_us: int) -> int | None:
        slot = self._slot
        if sums.leaves(slot) != self._before:
            self._tries += 1
            if self._tries < _TRIES:
                self._rewind()
                return None
            self.left += 1
            self.skip(slots, now_us)
            return None
        wrong = sum(sums.correct(slot, leaf, value) for leaf, value in enumerate(self._sums))
        self.wrong += wrong
        self.checked += 1
        self.skip(slots, now_us)
        return slot if wrong else None

    def skip(self, slots: int, now_us: int) -> None:
        """Done with this slot of so many; the next one is due when its turn comes."""
        self._slot = -1
        self.due_us = now_us + self.period_us // max(1, slots)

    def forget(self) -> None:
        """Other slots are owned now."""
        self._slot = self._place = -1

    def stats(self) -> dict[str, int]:
        """Counters for metrics."""
        return {
            "leaf_check_slots": self.checked,
            "leaf_check_slots_left": self.left,
            "leaf_check_keys": self.keys_read,
            "leaf_check_wrong": self.wrong,
        }
