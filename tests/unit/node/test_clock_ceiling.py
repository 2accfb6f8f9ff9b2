"""No stamp is ever given out twice, wherever power fails and whatever the wall clock does meanwhile."""

from __future__ import annotations

import random

import pytest

from respkv.testing.clock import ManualClock
from respkv.testing.disk import PowerLoss, SimulatedFileSystem
from respkv.testing.node_driver import NodeDriver


class Life:
    """One node from start to crash, and every stamp it gave out."""

    def __init__(self, fs: SimulatedFileSystem, wall_ms: int, rng: random.Random) -> None:
        self.fs = fs
        self.rng = rng
        self.clock = ManualClock(wall_ms)
        self.stamps: dict[int, None] = {}
        self.driver: NodeDriver | None = None

    def run(self, steps: int) -> None:
        """Live for so long; PowerLoss when the fuse blows."""
        driver = self.driver = NodeDriver(fs=self.fs, clock=self.clock)
        client = driver.connect()
        keyspace = driver.node.keyspace
        for _ in range(steps):
            before = keyspace.clock.last
            for _ in range(self.rng.randrange(1, 5)):
                client.call("SET", f"k{self.rng.randrange(50)}", "v")
            self.note(before, keyspace.clock.last)
            roll = self.rng.random()
            if roll < 0.6:
                driver.pass_time(self.rng.randrange(1000, 800_000))
            elif roll < 0.7:
                driver.node.engine.rotate()
                driver.node.keyspace.counts.follow()
                driver.work()
            elif roll < 0.8:
                driver.node.commit()

    def note(self, before: int, last: int) -> None:
        """The values in the records written since."""
        assert self.driver is not None
        for record in self.driver.node.engine.memtable.table.values():
            hlc = int.from_bytes(record[1:9], "big")
            if before < hlc <= last:
                self.stamps[hlc] = None


@pytest.mark.parametrize("seed", range(25))
def test_stamps_are_never_used_again(seed: int) -> None:
    rng = random.Random(seed)
    fs, wall_ms = SimulatedFileSystem(), 1_700_000_000_000
    used: dict[int, int] = {}
    for number in range(6):
        life = Life(fs, wall_ms, rng)
        clean = rng.random() < 0.25
        fs.fuse = None if clean else rng.randrange(5, 400)
        try:
            life.run(rng.randrange(5, 40))
            if clean and life.driver is not None:
                life.driver.node.close()
        except PowerLoss:
            pass
        for hlc in life.stamps:
            assert hlc not in used, f"life {number} gave out a stamp of life {used[hlc]}"
            used[hlc] = number
        fs.fuse = None
        fs = fs.crash(rng)
        wall_ms = life.clock.wall_us() // 1000 + rng.choice((0, 0, 1, 50, -2, -700, -60_000, 5000))
    assert len(used) > 50


def test_without_the_ceiling_stamps_would_be_used_again() -> None:
    # The control: two lives at one instant, the first one's unsynced log lost.
    rng = random.Random(1)
    fs = SimulatedFileSystem()
    seen = []
    for ignore_ceiling in (False, True):
        life = Life(fs, 1_700_000_000_000, rng)
        driver = life.driver = NodeDriver(fs=fs, clock=life.clock)
        if ignore_ceiling:
            driver.node.keyspace.clock.last = 1_700_000_000_000 << 16
        before = driver.node.keyspace.clock.last
        driver.connect().call("SET", "k", "v")
        life.note(before, driver.node.keyspace.clock.last)
        seen.append(set(life.stamps))
        fs = fs.crash(rng)
    assert seen[0] & {stamp + delta for stamp in seen[1] for delta in range(-5, 6)}


def test_a_clean_stop_goes_on_right_after_the_last_stamp() -> None:
    driver = NodeDriver()
    driver.connect().call("SET", "k", "v")
    last = driver.node.keyspace.clock.last
    driver.node.close()
    again = NodeDriver(fs=driver.fs.copy(), clock=driver.clock)
    assert last < again.node.keyspace.clock.last < last + 10


@pytest.mark.parametrize("seed", range(12))
def test_a_crash_goes_on_at_the_ceiling(seed: int) -> None:
    driver = NodeDriver()
    ceiling = driver.node.keyspace.clock.ceiling
    again = NodeDriver(fs=driver.fs.crash(random.Random(seed)), clock=driver.clock)
    assert again.node.keyspace.clock.last >= ceiling
