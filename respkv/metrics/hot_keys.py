"""Which keys are asked for most: a sketch over a sample of one request in 64, always on, of bounded memory.

The distances between sampled requests are random (1 to 127, 64 on average), so that a client that goes round in a
fixed order of keys does not hide most of them. What is sampled goes into a ``SpaceSaving`` (Metwally, Agrawal, El
Abbadi, ICDT 2005): ``capacity`` counters; a key without one takes over the smallest and what that had counted is its
``error``. A key that has more than one in ``capacity`` of all samples has a counter, always.

Counters are kept by their count in buckets, so that every step is O(1). The always-on sketch forgets: all counts are
halved each ``WINDOW`` samples, what it says is of the last few hundred thousand requests.

Invariants (``check_invariants``): a key stands in the bucket of its count and nowhere else, no bucket is empty,
``least`` is the smallest count. With c the count of a key, e its error and f its samples, halved as often as the
sketch: c - e <= f <= c + 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from respkv.base.slots import SLOT_COUNT, slot_of
from respkv.env.rng import Rng

#: Requests per sample, on average.
INTERVAL: Final = 64
#: Counters of the always-on sketch.
CAPACITY: Final = 256
#: Samples after which its counts are halved: half a million requests.
WINDOW: Final = 8192
#: Longer keys are left out: the sketch keeps the keys it counts.
KEY_BYTES_MAX: Final = 1024
#: A hot key has at least one in so many samples, and at least ``HOT_SAMPLES_MIN`` of them.
HOT_SHARE: Final = 50
HOT_SAMPLES_MIN: Final = 32
#: Counters a tracking session has for each key it is to find.
_COUNTERS_PER_KEY: Final = 10
_NONE: Final[tuple[int, ...]] = ()


class HotKey(NamedTuple):
    """A key and how many samples it had at least (``samples``) and at most; ``writes`` of them were writes."""

    key: bytes
    samples: int
    at_most: int
    writes: int


class _Counter:
    """One counter. ``writes`` are of the key that has it now."""

    __slots__ = ("count", "error", "writes")

    def __init__(self, count: int, error: int, writes: int) -> None:
        self.count = count
        self.error = error
        self.writes = writes


class SpaceSaving:
    """The most frequent keys of a stream, in ``capacity`` counters."""

    __slots__ = ("_buckets", "_counters", "capacity", "least", "replaced", "total")

    def __init__(self, capacity: int) -> None:
        assert capacity > 0
        self.capacity: Final = capacity
        self._counters: dict[bytes, _Counter] = {}
        #: Count -> the keys that have it, the one that has had it longest first.
        self._buckets: dict[int, dict[bytes, None]] = {}
        #: The smallest count; 0 while there is no key.
        self.least = 0
        #: Samples, halved with the counts.
        self.total = 0
        self.replaced = 0

    def __len__(self) -> int:
        return len(self._counters)

    def add(self, key: bytes, *, write: bool) -> None:
        """Count a sample. O(1)."""
        self.total += 1
        counter = self._counters.get(key)
        if counter is not None:
            count = counter.count
            counter.count = count + 1
            counter.writes += write
            # If it was the only one of the smallest count, it is the smallest one still.
            self._leave(count, key)
            self._enter(count + 1, key)
            return
        error = 0
        if len(self._counters) >= self.capacity:
            error = self.least
            victim = next(iter(self._buckets[error]))
            self._leave(error, victim)
            del self._counters[victim]
            self.replaced += 1
        self._counters[key] = _Counter(error + 1, error, int(write))
        self._enter(error + 1, key)
        if not error:
            self.least = 1

    def halve(self) -> None:
        """Forget half of everything; keys that come to nothing are dropped. O(capacity)."""
        self.total >>= 1
        kept = {}
        for key, counter in self._counters.items():
            counter.count >>= 1
            counter.error = min(counter.count, (counter.error + 1) >> 1)
            counter.writes = min(counter.count, counter.writes >> 1)
            if counter.count:
                kept[key] = counter
        self._counters = kept
        self._buckets = {}
        for key, counter in kept.items():
            self._buckets.setdefault(counter.count, {})[key] = None
        self.least = min(self._buckets, default=0)

    def at_least(self, key: bytes) -> int:
        """Samples that ``key`` certainly had, 0 for a stranger. O(1)."""
        counter = self._counters.get(key)
        return 0 if counter is None else counter.count - counter.error

    def top(self, limit: int) -> list[HotKey]:
        """The ``limit`` keys with most certain samples, most first. O(capacity log capacity)."""
        rows = [
            HotKey(key, counter.count - counter.error, counter.count, counter.writes)
            for key, counter in self._counters.items()
            if counter.count > counter.error
        ]
        rows.sort(key=lambda row: (-row.samples, -row.at_most, row.key))
        return rows[:limit]

    def stats(self) -> dict[str, int]:
        """Counters in use, keys that lost theirs, samples (halved with the counts)."""
        return {"keys": len(self._counters), "replaced": self.replaced, "samples": self.total}

    def check_invariants(self) -> None:
        """See the module. O(capacity)."""
        assert len(self._counters) <= self.capacity
        assert sum(len(bucket) for bucket in self._buckets.values()) == len(self._counters)
        for count, bucket in self._buckets.items():
            assert bucket and count > 0
            for key in bucket:
                assert self._counters[key].count == count
        for counter in self._counters.values():
            assert 0 <= counter.error <= counter.count
            assert 0 <= counter.writes <= counter.count
        assert self.least == min(self._buckets, default=0)
        assert sum(counter.count for counter in self._counters.values()) <= self.total

    def _leave(self, count: int, key: bytes) -> None:
        bucket = self._buckets[count]
        del bucket[key]
        if not bucket:
            del self._buckets[count]
            if count == self.least:
                self.least = count + 1

    def _enter(self, count: int, key: bytes) -> None:
        bucket = self._buckets.get(count)
        if bucket is None:
            bucket = self._buckets[count] = {}
        bucket[key] = None


class Totals(NamedTuple):
    """What the server had spent at some time; the difference of two is what a session's keys share."""

    command_us: int = 0
    net_bytes: int = 0
    cpu_user_ms: int = 0
    cpu_sys_ms: int = 0

    def since(self, before: Totals) -> Totals:
        """What was spent after ``before``; nothing where a counter has been reset between them."""
        return Totals(*(max(0, now - then) for now, then in zip(self, before, strict=True)))


NOTHING: Final = Totals()


class Tracking:
    """A tracking session: a sketch of its own over the samples from its start to its stop, which forgets nothing.

    ``ratio`` above ``INTERVAL`` thins the samples out further. ``slots`` limits it to some slots. Times are wall ms.
    """

    __slots__ = (
        "_mask", "_thinned", "began", "count", "cpu", "ended", "net", "offered", "selected", "sketch", "slots",
        "start_ms", "stop_ms", "thin",
    )  # fmt: skip

    def __init__(
        self,
        *,
        count: int,
        cpu: bool,
        net: bool,
        ratio: int = 1,
        slots: Sequence[int] = _NONE,
        start_ms: int = 0,
        began: Totals = NOTHING,
    ) -> None:
        assert count > 0 and (cpu or net)
        self.count: Final = count
        self.cpu: Final = cpu
        self.net: Final = net
        self.slots: Final = tuple(sorted(slots))
        self.thin: Final = max(1, -(-ratio // INTERVAL))
        self.start_ms: Final = start_ms
        self.began: Final = began
        self.ended: Totals | None = None
        self.stop_ms = 0
        self.sketch: Final = SpaceSaving(count * _COUNTERS_PER_KEY)
        #: Samples seen, and those of them that were in the slots wanted.
        self.offered = 0
        self.selected = 0
        self._thinned = 0
        self._mask = bytearray(SLOT_COUNT) if slots else None
        for slot in self.slots:
            assert self._mask is not None
            self._mask[slot] = 1

    @property
    def active(self) -> bool:
        """True until ``stop``."""
        return self.ended is None

    @property
    def ratio(self) -> int:
        """Requests per sample that this session counts, on average."""
        return INTERVAL * self.thin

    def offer(self, key: bytes, *, write: bool) -> None:
        """A sample. O(1)."""
        self.offered += 1
        if self._mask is not None and not self._mask[slot_of(key)]:
            return
        self.selected += 1
        self._thinned += 1
        if self._thinned >= self.thin:
            self._thinned = 0
            self.sketch.add(key, write=write)

    def stop(self, now_ms: int, totals: Totals) -> None:
        """Take no more samples; a second call changes nothing."""
        if self.ended is None:
            self.ended = totals
            self.stop_ms = now_ms

    def in_slots(self, figure: int) -> int:
        """The part of ``figure`` that fell to the slots wanted, going by the samples."""
        return figure * self.selected // self.offered if self.offered else 0

    def share(self, figure: int, row: HotKey) -> int:
        """The part of ``figure`` that fell to a key, going by the samples."""
        return self.in_slots(figure) * row.samples // self.sketch.total if self.sketch.total else 0


class HotKeys:
    """The sampler of a node, its always-on sketch, and the tracking session if there is one."""

    __slots__ = ("_rng", "left", "oversized", "samples", "sketch", "tracking")

    def __init__(self, rng: Rng, *, capacity: int = CAPACITY) -> None:
        self._rng = rng
        self.sketch: Final = SpaceSaving(capacity)
        self.tracking: Tracking | None = None
        #: Requests that were sampled, ever.
        self.samples = 0
        self.oversized = 0
        #: Requests until the next one that is sampled. The dispatcher counts it down by itself, see ``overdue``.
        self.left = 0
        self._draw()

    def note(self, key: bytes, write: bool) -> None:  # HOT: hot_keys
        """A request for ``key``. One in ``INTERVAL`` is counted, the others cost a subtraction."""
        self.left -= 1
        if self.left <= 0:
            self._draw()
            self.sample(key, write)

    def picks(self, count: int) -> Sequence[int]:  # HOT: hot_keys
        """``count`` requests came at once: the indexes of those to ``sample``, mostly none. O(1 + count / 64)."""
        self.left -= count
        return _NONE if self.left > 0 else self._picked(count)

    def overdue(self, count: int, left: int) -> Sequence[int]:
        """As ``picks`` of ``count``, for who has already counted them off: ``left`` is 0 or less."""
        self.left = left
        return self._picked(count)

    def sample(self, key: bytes, write: bool) -> None:
        """Count a request that was chosen. O(1), but once in ``WINDOW`` samples."""
        self.samples += 1
        if len(key) > KEY_BYTES_MAX:
            self.oversized += 1
            return
        if self.samples % WINDOW == 0:
            self.sketch.halve()
        self.sketch.add(key, write=write)
        tracking = self.tracking
        if tracking is not None and tracking.ended is None:
            tracking.offer(key, write=write)

    def is_hot(self, key: bytes) -> bool:
        """True when at least 1 in ``HOT_SHARE`` of the latest requests was certainly for ``key``. O(1)."""
        count = self.sketch.at_least(key)
        return count >= HOT_SAMPLES_MIN and count * HOT_SHARE >= self.sketch.total

    def hot(self) -> list[HotKey]:
        """The keys for which ``is_hot`` holds, hottest first; ``HOT_SHARE`` at most."""
        return [row for row in self.sketch.top(HOT_SHARE) if self.is_hot(row.key)]

    def stats(self) -> dict[str, int]:
        """Counters for metrics."""
        return {
            "hot_key_samples": self.samples,
            "hot_key_oversized": self.oversized,
            "hot_key_counters": len(self.sketch),
            "hot_keys": len(self.hot()),
        }

    def check_invariants(self) -> None:
        """Those of the sketches."""
        assert self.left > 0
        self.sketch.check_invariants()
        if self.tracking is not None:
            self.tracking.sketch.check_invariants()
            assert self.tracking.sketch.total <= self.tracking.selected <= self.tracking.offered

    def __repr__(self) -> str:
        return f"<HotKeys samples={self.samples} {self.sketch.stats()}>"

    def _draw(self) -> None:
        # 1 to 127, and 64 on average. ``randrange`` would be half of what a sample costs.
        self.left += self._rng.getrandbits(7) or INTERVAL

    def _picked(self, count: int) -> list[int]:
        """``left`` has been passed: draw until it is ahead again."""
        found = []
        while self.left <= 0:
            found.append(count - 1 + self.left)
            self._draw()
        return found
