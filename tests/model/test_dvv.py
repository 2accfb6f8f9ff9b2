"""Containers against explicit causal histories.

The reference knows each write by name, and of each write the set of all writes its author had seen. A replica's
siblings must be, after every step, exactly the writes in its history that no other write in it had seen. Replicas are
real: records as bytes, tokens as text, actors from ``ActorSource``; the world around them loses, repeats, delays
and reorders what they send, takes their memory in part or whole, and lets a fallback come and go.

Each planted bug, in the code (by changing its source) or in what its owner does, must be found.
"""

from __future__ import annotations

import inspect
import os
import types
from collections.abc import Callable
from typing import NamedTuple

import pytest

from respkv.causality import context, dvv, siblings
from respkv.causality.dvv import EMPTY, ActorSource, Container
from respkv.causality.hlc import HybridClock
from respkv.env.rng import seeded

SEEDS = int(os.environ.get("RESPKV_SEEDS", "60"))
STEPS = 120
START_MS = 1_700_000_000_000
HOUR_MS = 3_600_000
KEY = b"key"
OWNERS = 3

Dot = tuple[int, int]
History = frozenset[Dot]


class Write(NamedTuple):
    value: bytes | None
    expire_at_ms: int
    seen: History


class Snapshot(NamedTuple):
    """What a replica holds, sends, or a reader saw: the real thing and its explicit history."""

    container: Container
    history: History


NOTHING = Snapshot(EMPTY, frozenset())


def joined(left: Container, right: Container) -> Container:
    """Merging as a replica does it, in bytes."""
    if left is EMPTY or right is EMPTY:
        return right if left is EMPTY else left
    return siblings.decode(siblings.join(siblings.encode(left), siblings.encode(right)))


class Replica:
    def __init__(self, node: int) -> None:
        self.state = NOTHING
        self.saved = NOTHING
        self.clock = HybridClock(node, 0, 1 << 63)
        self.actors = ActorSource(node, start=1, ceiling=1 << 40)


class World:
    """``OWNERS`` replicas and one fallback. ``bug`` names what the owner of the data does wrong."""

    def __init__(
        self,
        seed: int,
        *,
        bug: str = "",
        merge: Callable[[Container, Container], Container] = joined,
        update: Callable[..., Container] = dvv.update,
        prune: bool = False,
    ) -> None:
        self.rng = seeded(seed)
        self.bug, self.merge, self.update, self.prune = bug, merge, update, prune
        self.now_ms = START_MS
        self.writes: dict[Dot, Write] = {}
        self.replicas = [Replica(node + 1) for node in range(OWNERS + 1)]
        self.sent: list[Snapshot] = []
        self.tokens: list[tuple[bytes, History]] = [(b"", frozenset())]
        self.pruned = 0

    # --- the reference ---

    def alive(self, history: History) -> set[Dot]:
        """The writes of a history that no other write in it had seen."""
        seen: set[Dot] = set()
        for dot in history:
            seen |= self.writes[dot].seen
        return set(history - seen)

    def check(self, state: Snapshot) -> None:
        state.container.check_invariants()
        alive, held = self.alive(state.history), {sibling[:2] for sibling in state.container.siblings}
        if self.prune:
            assert alive <= held <= state.history, "pruning may only bring back, never lose or invent"
        else:
            assert held == alive, f"siblings {held}, by their histories {alive}"
        for hlc, actor, expire_at_ms, value in state.container.siblings:
            write = self.writes[hlc, actor]
            assert expire_at_ms == write.expire_at_ms
            assert value == write.value or (value is None and 0 < expire_at_ms <= self.now_ms)

    # --- what happens ---

    def set_state(self, replica: Replica, state: Snapshot) -> None:
        before = replica.state
        replica.state = state
        self.check(state)
        if not self.prune and state.container.siblings and before.container.siblings:
            assert dvv.covers(state.container, before.container) == (state.history >= before.history)

    def receive(self, replica: Replica, message: Snapshot) -> None:
        mine = replica.state
        if message.container is EMPTY:
            return
        replica.clock.observe(message.container.newest_hlc(), self.now_ms)
        merged = self.merge(mine.container, message.container)
        if mine.container.siblings:
            assert merged.stamp() == max(mine.container.stamp(), message.container.stamp())
        self.set_state(replica, Snapshot(merged, mine.history | message.history))

    def write(self, replica: Replica) -> None:
        """A plain SET, an RKV.SET with a token from anywhere and any time, or a blind write; sometimes a deletion."""
        rng, (stored, history) = self.rng, replica.state
        if rng.random() < (0.95 if self.prune else 0.5):
            clock, seen = stored.clock, history
        else:
            token, seen = rng.choice(self.tokens[-8:] + self.tokens[:1])
            clock = context.decode(token, KEY, latest_ms=self.now_ms + 10_000)
        for hlc in clock.values():
            replica.clock.observe(hlc, self.now_ms)
        hlc = replica.clock.tick(self.now_ms + rng.randrange(-50, 50))
        value = None if rng.random() < 0.2 else b"value %d" % len(self.writes)
        expire_at_ms = self.now_ms + rng.randrange(1, 200) if value is not None and rng.random() < 0.3 else 0
        if self.prune:
            replica.actors.forget()  # A new actor for each write makes clocks long enough to prune.
        actor = self.actor(replica, stored)
        after = self.update(stored, actor=actor, hlc=hlc, context=clock, value=value, expire_at_ms=expire_at_ms)
        if self.prune:
            smaller = dvv.prune(after, self.now_ms)
            self.pruned += smaller is not after
            after = smaller
        self.writes[hlc, actor] = Write(value, expire_at_ms, seen)
        self.set_state(replica, Snapshot(after, history | seen | {(hlc, actor)}))
        self.send(replica, delta=self.bug == "only the new value is sent")

    def actor(self, replica: Replica, stored: Container) -> int:
        if self.bug == "one actor for ever":
            return dvv.make_actor(replica.clock.node, 1)
        if self.bug == "an actor of another replica":
            return max(stored.clock, default=replica.actors.actor_for(stored))
        return replica.actors.actor_for(stored)

    def send(self, replica: Replica, *, delta: bool = False) -> None:
        container, history = replica.state
        if delta:
            container = Container(container.clock, container.siblings[:1])
        self.sent.append(Snapshot(container, history))

    def deliver(self) -> None:
        if self.sent:
            place = self.rng.randrange(max(0, len(self.sent) - 12), len(self.sent))
            message = self.sent[place]
            if self.rng.random() < 0.6:
                del self.sent[place]
            self.receive(self.rng.choice(self.replicas), message)

    def lose(self, replica: Replica) -> None:
        """All of it, or what came after the last save."""
        replica.state = replica.saved if self.rng.random() < 0.7 else NOTHING
        if self.bug != "a loss goes unnoticed":
            replica.actors.forget()

    def hand_back(self) -> None:
        """The fallback gives its copy to one owner and drops it."""
        fallback = self.replicas[OWNERS]
        self.receive(self.rng.choice(self.replicas[:OWNERS]), fallback.state)
        fallback.state = fallback.saved = NOTHING
        if self.bug != "a hand-back goes unnoticed":
            fallback.actors.forget()

    def read(self, replica: Replica) -> None:
        container, history = replica.state
        self.tokens.append((context.encode(container, KEY), history))

    def drop_expired(self, replica: Replica) -> None:
        self.set_state(replica, Snapshot(dvv.drop_expired(replica.state.container, self.now_ms), replica.state.history))

    def step(self) -> None:
        rng = self.rng
        self.now_ms += rng.randrange(10 * HOUR_MS) if self.prune else rng.randrange(30)
        replica, chance = rng.choice(self.replicas), rng.random()
        if chance < 0.3:
            self.write(replica)
        elif chance < 0.65:
            self.deliver()
        elif chance < 0.75:
            self.read(replica)
        elif chance < 0.8:
            self.send(replica)
        elif chance < 0.86:
            replica.saved = replica.state
        elif chance < 0.91:
            self.lose(replica)
        elif chance < 0.95:
            self.hand_back()
        else:
            self.drop_expired(replica)

    def heal(self) -> None:
        """Everybody hears of everybody, in random order; the second round brings what the first passed by."""
        for _ in range(2):
            pairs = [(one, other) for one in self.replicas for other in self.replicas if one is not other]
            self.rng.shuffle(pairs)
            for one, other in pairs:
                self.receive(one, other.state)

    def check_equal(self) -> None:
        containers = [dvv.drop_expired(replica.state.container, self.now_ms) for replica in self.replicas]
        assert all(container == containers[0] for container in containers)
        if containers[0].siblings:
            first = self.replicas[0].state.container
            tokens = [siblings.token(siblings.encode(replica.state.container)) for replica in self.replicas]
            assert all(token == siblings.token(siblings.encode(first)) for token in tokens)
            assert len({replica.state.history for replica in self.replicas}) == 1

    def run(self) -> World:
        for _ in range(STEPS):
            self.step()
        self.heal()
        self.check_equal()
        return self


@pytest.mark.parametrize("seed", range(SEEDS))
def test_siblings_are_the_writes_that_nobody_replaced(seed: int) -> None:
    world = World(seed).run()
    assert len(world.writes) > 10


def test_the_worlds_are_full_of_conflicts_and_losses() -> None:
    worlds = [World(seed).run() for seed in range(10)]
    assert max(len(replica.state.container.siblings) for world in worlds for replica in world.replicas) >= 3
    assert sum(len({actor for _, actor in world.writes}) for world in worlds) > 10 * (OWNERS + 1) * 2


@pytest.mark.parametrize("seed", range(0, SEEDS, 3))
def test_pruning_loses_nothing(seed: int) -> None:
    World(seed, prune=True).run()


def test_pruning_happens() -> None:
    assert sum(World(seed, prune=True).run().pruned for seed in range(10)) > 10


def found(seeds: int = 40, **options: object) -> bool:
    """True when some seed shows that something is wrong."""
    for seed in range(seeds):
        try:
            World(seed, **options).run()  # type: ignore[arg-type]
        except AssertionError:
            return True
    return False


@pytest.mark.parametrize(
    "bug",
    [
        "only the new value is sent",
        "one actor for ever",
        "an actor of another replica",
        "a loss goes unnoticed",
        "a hand-back goes unnoticed",
    ],
)
def test_a_careless_owner_is_found(bug: str) -> None:
    assert found(bug=bug)


MUTANTS = {
    "merge keeps what the right has replaced": (
        "elif sibling.hlc > right_seen(sibling.actor, 0)",
        "elif sibling.hlc >= right_seen(sibling.actor, 0)",
    ),
    "merge keeps what the left has replaced": (
        "if sibling.hlc > left_seen(sibling.actor, 0)",
        "if sibling.hlc >= left_seen(sibling.actor, 0)",
    ),
    "merge takes the right clock alone": ("_joined(left.clock, right.clock)", "dict(right.clock)"),
    "merge forgets what only the right holds": ("for sibling in others.values():", "for sibling in ():"),
    "merge prefers the value to its expired form": (
        "other if other.value is None else sibling",
        "other if other.value is not None else sibling",
    ),
    "update replaces one write less": (
        "if sibling.hlc > covered(sibling.actor, 0)]",
        "if sibling.hlc >= covered(sibling.actor, 0)]",
    ),
    "update replaces all": ("if sibling.hlc > covered(sibling.actor, 0)]", "if False]"),
    "update drops the context": ("_joined(container.clock, context)", "dict(container.clock)"),
    "update leaves the new dot uncovered": (
        "context)\n    clock[actor] = hlc\n",
        "context)\n    clock.setdefault(actor, hlc)\n",
    ),
}


def mutated(old: str, new: str) -> types.ModuleType:
    """The module ``dvv`` with one place of its source changed."""
    source = inspect.getsource(dvv)
    assert source.count(old) == 1, f"{old!r} is not the one place it was"
    module = types.ModuleType("respkv.causality.dvv_mutant")
    exec(compile(source.replace(old, new), "dvv_mutant", "exec"), module.__dict__)
    return module


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mistake_in_the_code_is_found(name: str) -> None:
    mutant = mutated(*MUTANTS[name])
    assert found(merge=mutant.merge, update=mutant.update)


def test_the_unchanged_code_passes_as_a_mutant() -> None:
    same = mutated("class Order(Enum):", "class Order(Enum):")
    assert not found(merge=same.merge, update=same.update, seeds=10)
