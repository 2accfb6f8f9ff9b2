"""Dotted version vectors: the siblings of one key, and which write has seen which.

A *container* is what a key under a ``siblings`` or ``merge`` policy holds: a clock ``actor -> hlc`` of everything
ever seen, and the values that nobody has replaced, each named by the dot ``(actor, hlc)`` of the write that made it.
A dot is covered by a clock ``c`` when ``hlc <= c[actor]``. Two rules do all the work:

    update   what the writer's context covers goes, the new value comes, under a new dot
    merge    a sibling stays if both sides hold it, or if the side that lacks it never saw it

After Preguica et al., "Dotted Version Vectors" (arXiv 1011.5808) and Almeida et al., "Scalable and Accurate Causality
Tracking for Eventually Consistent Stores" (DAIS 2014); dots are written out and their counters come from the hybrid
clock, so gaps are harmless. ``siblings.py`` turns containers into records.

Invariants, tested by ``check_invariants``: each sibling's dot is covered by the container's own clock; siblings stand
newest first by (hlc, actor); a clock value is at least 1; a deletion has no expiry.

Rules for the owner of the data:

- Replicate the whole container, never the new value with the new clock alone: a receiver would take the siblings it
  does not find for replaced ones.
- A clock entry ``(actor, hlc)`` says that every write of ``actor`` up to ``hlc`` is here or was replaced. A node that
  may have forgotten a write must therefore not write under the old actor again; see ``ActorSource``.
- Observe the clocks of containers and client contexts in the hybrid clock before taking the hlc of a new write.
"""

from __future__ import annotations

from enum import Enum
from itertools import pairwise
from typing import Final, NamedTuple, TypeAlias

from respkv.causality.hlc import COUNTER_BITS, pack_stamp, stamp_hlc

#: ``node << 48 | counter``: who wrote. Counter 0 is the node's plain records; ``ActorSource`` gives the others.
Actor: TypeAlias = int
#: Actor -> hlc of the newest write seen. Never changed in place once a container holds it.
Clock: TypeAlias = dict[Actor, int]

ACTOR_COUNTER_BITS: Final = 48
ACTOR_COUNTER_MAX: Final = (1 << ACTOR_COUNTER_BITS) - 1
#: A key with more siblings than this deserves a warning and a count in the metrics.
SIBLINGS_WARN: Final = 25
#: A write that would leave more siblings than this, and more than before, is refused.
SIBLINGS_MAX: Final = 100
#: A clock of a key without conflict keeps at least this many actors.
PRUNE_ABOVE_ACTORS: Final = 20
#: Only clock entries older than this are pruned, milliseconds.
PRUNE_AGE_MS: Final = 24 * 3600 * 1000


class Sibling(NamedTuple):
    """One write that nothing has replaced. Tuples compare as dots do, by hlc, then actor.

    ``value`` None is a deletion, or with an expiry the *expired form*: a value whose time has come and that was
    dropped; the dot and the expiry stay, so that all replicas agree on the digest whether they have dropped it or not.
    """

    hlc: int
    actor: Actor
    expire_at_ms: int
    value: bytes | None

    def visible(self, now_ms: int) -> bool:
        """True when a reader at ``now_ms`` sees a value here."""
        return self.value is not None and (not self.expire_at_ms or now_ms < self.expire_at_ms)


class Container(NamedTuple):
    """The clock and the siblings, newest first. Immutable by contract; equal when their contents are."""

    clock: Clock
    siblings: tuple[Sibling, ...]

    def visible(self, now_ms: int) -> tuple[Sibling, ...]:
        """The siblings a reader sees, newest first; deletions hide behind values, as expired ones do. O(siblings)."""
        return tuple([sibling for sibling in self.siblings if sibling.visible(now_ms)])

    def winner(self, now_ms: int) -> Sibling | None:
        """The visible sibling that last-write-wins chooses: greatest hlc, then actor. None when nothing is visible."""
        for sibling in self.siblings:
            if sibling.visible(now_ms):
                return sibling
        return None

    def stamp(self) -> bytes:
        """The newest dot as a stamp, deletions included. It never falls, whatever is merged in."""
        newest = self.siblings[0]
        return pack_stamp(newest.hlc, newest.actor >> ACTOR_COUNTER_BITS)

    def expire_at_ms(self) -> int:
        """When the last value goes, 0 for never. The same before and after values were dropped for their age."""
        latest = 0
        for sibling in self.siblings:
            if sibling.expire_at_ms > latest:
                latest = sibling.expire_at_ms
            elif not sibling.expire_at_ms and sibling.value is not None:
                return 0
        return latest

    def newest_hlc(self) -> int:
        """The greatest hlc in the clock, 0 for an empty one; the next write's must be greater. O(actors)."""
        return max(self.clock.values(), default=0)

    def check_invariants(self) -> None:
        """AssertionError when the container is not one that ``update`` and ``merge`` can make."""
        assert all(hlc >= 1 and actor >> ACTOR_COUNTER_BITS <= 0xFFFF for actor, hlc in self.clock.items())
        dots = [(sibling.hlc, sibling.actor) for sibling in self.siblings]
        assert all(later > earlier for earlier, later in pairwise(reversed(dots))), "siblings stand newest first"
        assert all(1 <= hlc <= self.clock.get(actor, 0) for hlc, actor in dots), "a dot is not covered by its clock"
        assert self.siblings or not self.clock, "a clock without any sibling"


#: What a key without a record holds.
EMPTY: Final = Container({}, ())


class Order(Enum):
    """How two containers stand to each other."""

    EQUAL = "equal"
    LESS = "less"
    GREATER = "greater"
    CONCURRENT = "concurrent"


class SiblingLevel(Enum):
    """What the number of siblings asks for."""

    FINE = "fine"
    WARN = "warn"
    REFUSE = "refuse"


def make_actor(node: int, counter: int) -> Actor:
    """The actor ``counter`` of the node with the short id ``node``."""
    assert 0 <= node <= 0xFFFF and 0 <= counter <= ACTOR_COUNTER_MAX
    return node << ACTOR_COUNTER_BITS | counter


def update(
    container: Container, *, actor: Actor, hlc: int, context: Clock, value: bytes | None, expire_at_ms: int = 0
) -> Container:
    """The container after a write: ``value`` replaces exactly what ``context`` covers; None deletes.

    ``context`` is the clock the writer has seen: a client's token, or ``container.clock`` for a plain SET. ``hlc``
    must be above everything in both clocks, which holds when both were observed in the hybrid clock before the tick;
    so the new dot is the newest, and no context can claim to have replaced it. O(actors + siblings).
    """
    assert hlc > container.newest_hlc() and hlc > max(context.values(), default=0), "clock not observed before the tick"
    assert value is not None or not expire_at_ms
    covered = context.get
    kept = [sibling for sibling in container.siblings if sibling.hlc > covered(sibling.actor, 0)]
    clock = _joined(container.clock, context)
    clock[actor] = hlc
    return Container(clock, (Sibling(hlc, actor, expire_at_ms, value), *kept))


def set_expiry(container: Container, *, actor: Actor, first_hlc: int, expire_at_ms: int, now_ms: int) -> Container:
    """Give every visible sibling a new expiry (0 = none) without resolving the conflict.

    Each gets a new dot, in the old order, from ``first_hlc`` upwards: the caller takes as many ticks as ``visible``
    has siblings. What is not visible is replaced. Unchanged when nothing is visible.
    """
    visible = container.visible(now_ms)
    if not visible:
        return container
    assert first_hlc > container.newest_hlc(), "clock not observed before the tick"
    last_hlc = first_hlc + len(visible) - 1
    siblings = tuple(
        [Sibling(last_hlc - place, actor, expire_at_ms, sibling.value) for place, sibling in enumerate(visible)]
    )
    return Container({**container.clock, actor: last_hlc}, siblings)


def _joined(left: Clock, right: Clock) -> Clock:
    """The pointwise greater clock, a new dictionary."""
    clock = dict(left)
    known = clock.get
    for actor, hlc in right.items():
        if hlc > known(actor, 0):
            clock[actor] = hlc
    return clock


def merge(left: Container, right: Container) -> Container:  # HOT: test_dvv_perf
    """What both sides together know. Commutative, associative and idempotent. O(actors + siblings).

    Of one dot held in both forms the expired one is taken. Clocks that contradict each other, each claiming to have
    replaced all that the other holds, come only from a reused actor; the newest sibling is kept then, so that even
    this mistake cannot make a key vanish.
    """
    left_seen, right_seen = left.clock.get, right.clock.get
    others = {(sibling.hlc, sibling.actor): sibling for sibling in right.siblings}
    kept = []
    for sibling in left.siblings:
        other = others.pop((sibling.hlc, sibling.actor), None)
        if other is not None:
            kept.append(other if other.value is None else sibling)
        elif sibling.hlc > right_seen(sibling.actor, 0):
            kept.append(sibling)
    for sibling in others.values():
        if sibling.hlc > left_seen(sibling.actor, 0):
            kept.append(sibling)
    if not kept and left.siblings and right.siblings:
        kept.append(max(left.siblings[0], right.siblings[0]))
    kept.sort(reverse=True)
    return Container(_joined(left.clock, right.clock), tuple(kept))


def covers(left: Container, right: Container) -> bool:
    """True when ``left`` knows everything that ``right`` knows: merging ``right`` in would change nothing."""
    known = left.clock.get
    for actor, hlc in right.clock.items():
        if hlc > known(actor, 0):
            return False
    theirs = {(sibling.hlc, sibling.actor): sibling for sibling in right.siblings}
    seen = right.clock.get
    for sibling in left.siblings:
        other = theirs.get((sibling.hlc, sibling.actor))
        if other is None:
            if sibling.hlc <= seen(sibling.actor, 0):
                return False
        elif other.value is None and sibling.value is not None:
            return False
    return True


def compare(left: Container, right: Container) -> Order:
    """How ``left`` stands to ``right``: LESS when ``right`` knows all that ``left`` knows, and more."""
    below, above = covers(right, left), covers(left, right)
    if below:
        return Order.EQUAL if above else Order.LESS
    return Order.GREATER if above else Order.CONCURRENT


def drop_expired(container: Container, now_ms: int) -> Container:
    """The container with the values whose time has come in their expired form; the same object if there are none."""
    if all(sibling.value is None or sibling.visible(now_ms) for sibling in container.siblings):
        return container
    return Container(
        container.clock,
        tuple([s if s.visible(now_ms) else Sibling(s.hlc, s.actor, s.expire_at_ms, None) for s in container.siblings]),
    )


def drop_flushed(container: Container, floor: bytes) -> Container:
    """The container without siblings whose stamp is at or below a flush floor; EMPTY when none is left."""
    hlc, node = stamp_hlc(floor), int.from_bytes(floor[8:], "big")
    kept = tuple([s for s in container.siblings if (s.hlc, s.actor >> ACTOR_COUNTER_BITS) > (hlc, node)])
    if len(kept) == len(container.siblings):
        return container
    return Container(container.clock, kept) if kept else EMPTY


def prune(container: Container, now_ms: int) -> Container:
    """Forget the oldest clock entries of a key without conflict, those beyond 20 that are older than 24 hours.

    Only a coordinator does this, after an update. A forgotten entry loses nothing; at worst a replica that slept for a
    day brings back a replaced value as a sibling. The actor of the remaining sibling is never forgotten.
    """
    excess = len(container.clock) - PRUNE_ABOVE_ACTORS
    if len(container.siblings) != 1 or excess <= 0:
        return container
    keep, limit = container.siblings[0].actor, (now_ms - PRUNE_AGE_MS) << COUNTER_BITS
    oldest = sorted((hlc, actor) for actor, hlc in container.clock.items() if actor != keep)
    gone = {actor for hlc, actor in oldest[:excess] if hlc < limit}
    if not gone:
        return container
    return Container({actor: hlc for actor, hlc in container.clock.items() if actor not in gone}, container.siblings)


def sibling_level(before: Container, after: Container) -> SiblingLevel:
    """Whether a write may make ``after`` of ``before``. One that makes a crowded key less crowded always may."""
    count = len(after.siblings)
    if count > SIBLINGS_MAX and count > len(before.siblings):
        return SiblingLevel.REFUSE
    return SiblingLevel.WARN if count > SIBLINGS_WARN else SiblingLevel.FINE


def reusable_actor(container: Container | None, node: int, reusable_from: int) -> Actor | None:
    """The actor under which ``node`` may go on writing to the container of its own store, None when it needs a new one.

    That is its latest actor in the clock with a counter of at least ``reusable_from``.
    """
    if container is None:
        return None
    first, last = make_actor(node, max(reusable_from, 1)), make_actor(node, ACTOR_COUNTER_MAX)
    return max((actor for actor in container.clock if first <= actor <= last), default=None)


def needs_fresh_actor(container: Container | None, node: int, reusable_from: int) -> bool:
    """True when ``node`` must take a new actor for its next write to this key; ``container`` is its own stored copy."""
    return reusable_actor(container, node, reusable_from) is None


class ActorSource:
    """Gives a node its actors: never one twice, and none again that may have been forgotten.

    Counters are issued only below ``ceiling``, which the owner makes durable (a log record, synced) before raising it
    here; after any start the next counter is the durable ceiling. ``reusable_from`` is the first counter issued since
    this node last lost data; it starts at the first counter of the process, since a crash may have cost the tail of
    the log. The owner calls ``forget`` whenever stored copies go away otherwise: a hinted copy handed back, a slot
    dropped, a damaged table set aside.
    """

    __slots__ = ("ceiling", "issued", "node", "reusable_from", "upcoming")

    def __init__(self, node: int, *, start: int, ceiling: int) -> None:
        self.node = node
        self.upcoming = max(start, 1)
        self.ceiling = ceiling
        self.reusable_from = self.upcoming
        self.issued = 0

    def may_issue(self) -> bool:
        """True when a new actor is available below the durable ceiling."""
        return self.upcoming < self.ceiling

    def actor_for(self, stored: Container | None) -> Actor:
        """The actor for the next write to a key of which this node's own store holds ``stored``; maybe a new one."""
        actor = reusable_actor(stored, self.node, self.reusable_from)
        if actor is not None:
            return actor
        assert self.may_issue(), "the ceiling of actor counters was not raised in time"
        actor = make_actor(self.node, self.upcoming)
        self.upcoming += 1
        self.issued += 1
        return actor

    def forget(self) -> None:
        """Stored copies went away: actors issued so far are used no more."""
        self.reusable_from = self.upcoming

    def raise_ceiling(self, ceiling: int) -> None:
        """The owner has made ``ceiling`` durable."""
        assert ceiling <= ACTOR_COUNTER_MAX
        if ceiling > self.ceiling:
            self.ceiling = ceiling

    def stats(self) -> dict[str, int]:
        """Counters: ``issued`` since the start, ``left`` below the ceiling."""
        return {"issued": self.issued, "left": self.ceiling - self.upcoming}
