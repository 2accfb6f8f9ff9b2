"""The latency of GET and SET covers receipt to release."""

from __future__ import annotations

from respkv.metrics.registry import Registry
from respkv.node.latency import FastLatency
from respkv.testing.clock import ManualClock
from respkv.testing.node_driver import NodeDriver


def test_a_cycle_is_counted_when_its_replies_leave() -> None:
    registry, clock = Registry(), ManualClock()
    latency = FastLatency(registry, clock)
    start = clock.monotonic_us()
    latency.committed(1, start, 3, 0)
    clock.advance_us(40)
    latency.committed(2, start + 30, 0, 2)
    latency.released(1)
    assert registry.command("get").histogram.stats()["worst_us"] == 40
    assert registry.command("get").histogram.count == 3 and registry.command("set").histogram.count == 0
    assert latency.stats() == {"cycles_waiting": 1}
    clock.advance_us(1000)
    latency.released(2)
    assert registry.command("set").histogram.count == 2
    assert registry.command("set").histogram.stats()["worst_us"] == 1010


def test_both_paths_are_counted_and_timed() -> None:
    driver = NodeDriver()
    client = driver.connect()
    for _ in range(3):
        client.call("SET", "key", "value")
        client.call("GET", "key")
    registry = driver.node.metrics
    for name in ("get", "set"):
        assert registry.command(name).calls == registry.command(name).histogram.count == 3
    assert driver.node.latency_of_fast.stats() == {"cycles_waiting": 0}
    assert driver.node.dispatcher.fast_reads == driver.node.dispatcher.fast_writes == 0


def test_with_appendfsync_always_latency_includes_the_sync() -> None:
    driver = NodeDriver(appendfsync="always")
    client = driver.connect()
    client.call("SET", "key", "value")
    while (plan := driver.node.sync_plan()) is not None:
        plan.run()
        driver.node.on_synced(plan)
    before = driver.node.metrics.command("set").histogram.count
    client.call("SET", "key", "other")
    assert driver.node.metrics.command("set").histogram.count == before
    driver.clock.advance_us(5_000)
    plan = driver.node.sync_plan()
    assert plan is not None
    plan.run()
    driver.node.on_synced(plan)
    histogram = driver.node.metrics.command("set").histogram
    assert histogram.count == before + 1 and histogram.stats()["worst_us"] >= 5_000
