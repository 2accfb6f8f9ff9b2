"""What a node does by itself waits while clients ask for much."""

from __future__ import annotations

from collections.abc import Iterator

from respkv.base.limits import SETTLED_AT_ONCE, SETTLED_PER_CALL
from respkv.node.pace import SPAN_US, Pace, WalkPause
from respkv.testing.clock import ManualClock
from respkv.testing.node_driver import NodeDriver


def test_looks_in_short_turn_do_not_make_a_loaded_node_idle() -> None:
    clock = ManualClock()
    pace, start_us, work = Pace(clock), clock.monotonic_us(), 0
    for past_us in range(0, 10 * SPAN_US, 2_000):
        work += 100  # 50 000 a second
        pace.look(start_us + past_us, work)
        assert not pace.idle, past_us


def test_load_is_noticed_within_a_span_and_its_end_after_one() -> None:
    clock = ManualClock()
    pace, start_us = Pace(clock), clock.monotonic_us()
    assert pace.idle
    pace.look(start_us + SPAN_US, 0)
    pace.look(start_us + SPAN_US + 1_000, 5_000)
    assert not pace.idle
    pace.look(start_us + 2 * SPAN_US, 5_000)
    assert not pace.idle, "there was load in this span"
    pace.look(start_us + 3 * SPAN_US, 5_010)
    assert pace.idle


def test_a_late_look_counts_by_the_time_that_has_passed() -> None:
    clock = ManualClock()
    pace = Pace(clock)
    pace.look(clock.monotonic_us() + 100 * SPAN_US, 1_000)  # a hundred a second
    assert pace.idle


def test_settling_takes_little_time_under_load() -> None:
    clock = ManualClock()

    def slices() -> Iterator[None]:
        while True:
            clock.advance_us(100)
            yield None

    spent = []
    for work in (0, 100, 5_000):  # nothing, 1 000 a second, 50 000 a second
        pace = Pace(clock)
        start_us = clock.monotonic_us()
        pace.look(start_us, work)
        assert pace.settle(slices()) is None
        spent.append(clock.monotonic_us() - start_us)
    assert spent == [5_000, 5_000, 100]


def test_walks_pause_by_what_they_took_under_load() -> None:
    pause = WalkPause(1_000_000)
    assert pause.over(0, idle=False)
    pause.began(0)
    pause.ended(3_000_000)
    assert not pause.over(3_500_000, idle=True)
    assert pause.over(4_000_000, idle=True)
    assert not pause.over(60_000_000, idle=False)
    assert pause.over(93_000_000, idle=False)


def test_counts_wait_while_clients_write_and_caches_are_freed() -> None:
    # Freeing what caches threw away makes the tick come every 2 ms: few requests fit in between, under any load.
    driver = NodeDriver()
    client = driver.connect()
    cache = driver.node.keyspace.cache
    began_us = driver.node.now_us
    for round_ in range(100):
        if not round_ % 25:
            cache._retired.append({b"%d" % n: None for n in range(1_000_000)})
        for n in range(40):
            client.call("SET", f"k{round_}-{n}", "v")
        driver.pass_time(2_000)
    spans = (driver.node.now_us - began_us) // SPAN_US + 1
    # A small slice in each span, and whole ones before the load was noticed.
    assert driver.node.keyspace.counts.unsettled() > 4_000 - spans * SETTLED_AT_ONCE - 2 * SETTLED_PER_CALL
    driver.pass_time(2_000_000)
    assert driver.node.keyspace.counts.is_exact()
