"""The nemesis: breaks things in a simulated cluster, one after another or together, and puts them right in the end.

Each run has its own few kinds of faults (swarm testing, Groce et al., ISSTA 2012): everything at once hides what a
single kind shows. ``start`` begins, ``heal`` ends all of it: every path is there, every process runs, disks have room,
clocks are right again but for what drift has done.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from respkv.env.rng import Rng
from respkv.testing.machine import Machine
from respkv.testing.network import Network
from respkv.testing.schedule import Schedule, Trace

_MS: Final = 1_000
_S: Final = 1_000_000
#: kind -> how often it is among a run's kinds, percent
KINDS: Final = {
    "partition": 60, "one_way": 30, "partial": 30, "clog": 40, "swizzle": 15, "slow_links": 40, "reset": 40,
    "second_link": 20, "echo": 15, "pause": 50, "kill": 50, "power": 40, "fuse": 20, "slow_disk": 30, "full_disk": 15,
    "sync_error": 10, "clock": 40, "crash_loop": 10,
}  # fmt: skip
#: Only where a plan asks for it: a wall clock that is further ahead than nodes put up with.
FAR_CLOCK: Final = "far_clock"
_FAR_US: Final = 60 * _S
#: Those that may lose what was not synced.
LOSING: Final = ("power", "fuse")


def choose_kinds(rng: Rng) -> list[str]:
    """The kinds of faults of a run, perhaps none."""
    return [kind for kind, percent in KINDS.items() if rng.randrange(100) < percent]


class Nemesis:
    """``kinds`` are what it may do; ``pause_us`` how long it rests between two faults, least and most."""

    def __init__(
        self,
        machines: Sequence[Machine],
        *,
        schedule: Schedule,
        network: Network,
        rng: Rng,
        trace: Trace,
        kinds: Sequence[str],
        pause_us: tuple[int, int] = (200 * _MS, 4 * _S),
    ) -> None:
        self._machines = machines
        self._schedule = schedule
        self._network = network
        self._rng = rng
        self._trace = trace
        self._kinds = list(kinds)
        self._pause_us = pause_us
        self._running = False
        #: a fault of this time must not be undone by one that was made before the healing
        self._age = 0
        self.done: dict[str, int] = {}
        actions: dict[str, Callable[[], None]] = {
            "partition": self._partition,
            "one_way": self._one_way,
            "partial": self._partial,
            "clog": self._clog,
            "swizzle": self._swizzle,
            "slow_links": self._slow_links,
            "reset": self._reset,
            "second_link": self._second_link,
            "echo": self._echo,
            "pause": self._pause,
            "kill": self._kill,
            "power": self._power,
            "fuse": self._fuse,
            "slow_disk": self._slow_disk,
            "full_disk": self._full_disk,
            "sync_error": self._sync_error,
            "clock": self._clock,
            FAR_CLOCK: self._far_clock,
            "crash_loop": self._crash_loop,
        }
        self._actions = actions

    def start(self) -> None:
        """Begin to break things."""
        self._running = bool(self._kinds)
        self._next()

    def heal(self) -> None:
        """No faults any more."""
        self._running = False
        self._age += 1
        self._network.restore_all()
        self._network.echo_percent = 0
        for machine in self._machines:
            machine.disk.reset()
            machine.fs.capacity = None
            machine.fs.fuse = None
            machine.fs.fail_syncs = _never
            machine.clock.set_offset(0)
            if not machine.up:
                machine.start(self._rng.randrange(50 * _MS, 500 * _MS))

    def _next(self) -> None:
        if self._running:
            self._schedule.after(self._rng.randrange(*self._pause_us), self._act)

    def _act(self) -> None:
        if self._running:
            kind = self._rng.choice(self._kinds)
            self.done[kind] = self.done.get(kind, 0) + 1
            self._trace.line(f"nemesis {kind}")
            self._actions[kind]()
            self._next()

    def _later(self, low_us: int, high_us: int, action: Callable[[], None]) -> None:
        """Undo a fault after a while, if it has not been healed by then."""
        age = self._age
        self._schedule.after(self._rng.randrange(low_us, high_us), lambda: action() if age == self._age else None)

    def _any(self) -> Machine:
        return self._rng.choice(self._machines)

    def _pair(self) -> tuple[str, str]:
        left, right = self._rng.sample(self._machines, 2) if len(self._machines) > 1 else (self._any(), self._any())
        return left.name, right.name

    # The network

    def _cut(self, pairs: Sequence[tuple[str, str]], low_us: int, high_us: int) -> None:
        for source, target in pairs:
            self._network.cut(source, target)

        def restore() -> None:
            for source, target in pairs:
                self._network.restore(source, target)

        self._later(low_us, high_us, restore)

    def _partition(self) -> None:
        names = [machine.name for machine in self._machines]
        self._rng.shuffle(names)
        size = self._rng.randrange(1, max(2, len(names)))
        left, right = names[:size], names[size:]
        self._cut([pair for a in left for b in right for pair in ((a, b), (b, a))], 500 * _MS, 15 * _S)

    def _one_way(self) -> None:
        self._cut([self._pair()], 500 * _MS, 8 * _S)

    def _partial(self) -> None:
        left, right = self._pair()
        self._cut([(left, right), (right, left)], 500 * _MS, 8 * _S)

    def _clog(self) -> None:
        source, target = self._pair()
        self._network.clog(source, target)
        self._later(20 * _MS, 1_500 * _MS, lambda: self._network.restore(source, target))

    def _swizzle(self) -> None:
        """Clog the paths of some machines one by one, and unclog them in another order."""
        chosen = self._rng.sample(self._machines, self._rng.randrange(1, len(self._machines) + 1))
        paths = [
            pair
            for machine in chosen
            for other in self._machines
            if other is not machine
            for pair in ((machine.name, other.name), (other.name, machine.name))
        ]
        self._rng.shuffle(paths)
        at_us = 0
        for source, target in paths:
            at_us += self._rng.randrange(100 * _MS)
            self._later(at_us, at_us + 1, lambda pair=(source, target): self._network.clog(*pair))  # type: ignore[misc]
        self._rng.shuffle(paths)
        for source, target in paths:
            at_us += self._rng.randrange(100 * _MS)
            self._later(at_us, at_us + 1, lambda pair=(source, target): self._network.restore(*pair))  # type: ignore[misc]

    def _slow_links(self) -> None:
        high_us = self._rng.choice((10, 80, 400, 900)) * _MS
        both = self._rng.random() < 0.5
        source, target = self._pair()
        for pair in ((source, target), (target, source)) if both else ((source, target),):
            self._network.set_delay(*pair, high_us // 10, high_us)
        self._later(1 * _S, 10 * _S, self._network.usual_delays)

    def _reset(self) -> None:
        self._network.reset(*self._pair())

    def _second_link(self) -> None:
        """A node dials another one although there is a link, perhaps both at once."""
        left, right = self._rng.sample(self._machines, 2) if len(self._machines) > 1 else (self._any(), self._any())
        for a, b in ((left, right), (right, left)) if self._rng.random() < 0.5 else ((left, right),):
            links = a.links
            if links is not None and a is not b:
                address = b.node_address
                a.wake(lambda links=links, address=address: links.dial(address))  # type: ignore[misc]

    def _echo(self) -> None:
        self._network.echo_percent = 50
        self._reset()
        self._later(2 * _S, 5 * _S, self._no_echo)

    def _no_echo(self) -> None:
        self._network.echo_percent = 0

    # Processes and machines

    def _pause(self) -> None:
        self._any().pause(self._rng.choice((50, 300, 1_000, 3_000, 7_000)) * _MS)

    def _restart(self, machine: Machine) -> None:
        machine.start(self._rng.choice((50, 300, 1_000, 5_000, 12_000)) * _MS)

    def _kill(self) -> None:
        machine = self._any()
        if machine.up:
            machine.kill()
            self._restart(machine)

    def _crash_loop(self) -> None:
        """A process that is killed again and again, soon after each start."""
        machine = self._any()

        def again(left: int) -> None:
            if machine.up:
                machine.kill()
                machine.start(50 * _MS)
            if left:
                self._later(150 * _MS, 900 * _MS, lambda: again(left - 1))

        again(self._rng.randrange(2, 7))

    def _power(self) -> None:
        machine = self._any()
        if machine.up:
            machine.lose_power()
            self._restart(machine)

    def _fuse(self) -> None:
        """Power fails in the middle of what the machine does next to its disk."""
        machine = self._any()
        if machine.up and machine.fs.fuse is None:
            machine.fs.fuse = self._rng.randrange(30)
            machine.on_blown = lambda: self._restart(machine)

    # Disks and clocks

    def _slow_disk(self) -> None:
        machine = self._any()
        slow_us = self._rng.choice((50, 300, 2_000)) * _MS
        machine.disk.sync_us = (slow_us // 2, slow_us)
        machine.disk.read_us = (slow_us // 20, slow_us // 5)
        self._later(1 * _S, 8 * _S, machine.disk.reset)

    def _full_disk(self) -> None:
        machine = self._any()
        machine.fs.capacity = machine.fs.used() + self._rng.randrange(64 << 10)
        self._later(1 * _S, 10 * _S, lambda: self._free(machine))

    def _free(self, machine: Machine) -> None:
        machine.fs.capacity = None

    def _sync_error(self) -> None:
        """The next sync fails; the process must not go on."""
        machine = self._any()
        machine.fs.fail_syncs = lambda path: "/wal" in path
        self._later(2 * _S, 4 * _S, lambda: self._mend(machine))

    def _mend(self, machine: Machine) -> None:
        machine.fs.fail_syncs = _never

    def _clock(self) -> None:
        machine = self._any()
        offset_us = machine.clock.offset_us + self._rng.choice((-1, 1)) * self._rng.choice((3, 50, 700, 2_500)) * _MS
        if abs(offset_us) <= 4 * _S:
            machine.clock.set_offset(offset_us)

    def _far_clock(self) -> None:
        machine = self._any()
        machine.clock.set_offset(_FAR_US)
        self._later(100 * _MS, 6 * _S, lambda: machine.clock.set_offset(0))


def _never(path: str) -> bool:
    return False
