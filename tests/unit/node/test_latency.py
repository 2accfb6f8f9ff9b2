"""What a command's histogram counts: its own time, however many others came with it."""

from __future__ import annotations

import pytest

from respkv.testing.clock import ManualClock
from respkv.testing.node_driver import NodeDriver, encode_request

TICK_US = 160


class Ticking(ManualClock):
    """Each look at the clock is 160 us after the one before, once it runs."""

    runs = False

    def monotonic_us(self) -> int:
        if self.runs:
            self.advance_us(TICK_US)
        return super().monotonic_us()


def driven(*requests: bytes, **values: str) -> NodeDriver:
    """A node that was sent ``requests`` at once, ``key`` and ``number`` being there."""
    driver = NodeDriver(clock=(clock := Ticking()), **values)
    client = driver.connect()
    for words in (("SET", "key", "value"), ("SET", "number", "1"), ("GET", "key"), ("GET", "number")):
        client.call(*words)
    client.call("CONFIG", "RESETSTAT")
    clock.runs = True
    client.send(b"".join(requests))
    return driver


def test_a_pipeline_s_time_is_shared_by_its_commands() -> None:
    get, put = encode_request("GET", "key"), encode_request("SET", "key", "other")
    driver = driven(*[get] * 12, *[put] * 4)
    for name, calls in (("get", 12), ("set", 4)):
        stats = driver.node.metrics.command(name)
        assert stats.calls == stats.histogram.count == calls
        assert stats.usec == stats.histogram.total_us == TICK_US // 16 * calls
        assert stats.histogram.percentile(50) == stats.histogram.worst_us == TICK_US // 16
    info = driver.connect().call("INFO", "latencystats")
    assert b"latency_percentiles_usec_get:p50=10.000,p99=10.000,p99.9=10.000" in info


def test_waiting_for_the_disk_is_no_part_of_it() -> None:
    """As in Redis; the time of syncs is a histogram of its own."""
    driver = driven(encode_request("SET", "key", "other"), appendfsync="always")
    histogram = driver.node.metrics.command("set").histogram
    assert histogram.count == 1 and histogram.worst_us == TICK_US
    driver.clock.advance_us(5_000)
    driver.work()
    assert histogram.count == 1 and histogram.worst_us == TICK_US


def test_other_commands_of_a_pipeline_are_not_booked_on_get() -> None:
    get, config = encode_request("GET", "key"), encode_request("CONFIG", "GET", "maxmemory")
    metrics = driven(get, config, get).node.metrics
    assert metrics.command("config|get").usec == TICK_US
    assert metrics.command("get").usec == 2 * TICK_US


def test_nor_on_the_data_command_that_follows() -> None:
    incr, config = encode_request("INCR", "number"), encode_request("CONFIG", "GET", "maxmemory")
    metrics = driven(incr, config, incr).node.metrics
    assert metrics.command("incr").usec == 2 * TICK_US and metrics.command("incr").histogram.worst_us == TICK_US


def test_with_a_low_threshold_of_the_slow_log_each_is_timed_by_itself() -> None:
    get = encode_request("GET", "key")
    histogram = driven(*[get] * 3, slowlog_log_slower_than="0").node.metrics.command("get").histogram
    assert histogram.count == 3 and histogram.percentile(1) == histogram.worst_us == TICK_US


def test_spikes_are_remembered_by_the_speed_that_commands_claim() -> None:
    driver = NodeDriver(clock=(clock := Ticking()), latency_monitor_threshold="3", slowlog_log_slower_than="-1")
    client = driver.connect()
    client.call("SET", "key", "value")
    assert client.call("LATENCY", "LATEST") == b"*0\r\n"
    took_us: dict[str, int] = {"STRLEN": 3_000, "KEYS": 7_999, "TYPE": 2_999, "DBSIZE": 4_000}
    for name, count_us in took_us.items():
        clock.runs = False
        session = driver.connect().session
        if count_us >= driver.node.slow_us:
            driver.node.slow_command(session, [name.encode()], count_us)
    assert driver.node.slow_us == 3_000
    latest = driver.node.latency.latest()
    assert [(name, last, worst) for name, _, last, worst in latest] == [("command", 7, 7), ("fast-command", 4, 4)]
    assert not len(driver.node.slowlog)
    client.call("CONFIG", "SET", "latency-monitor-threshold", "0")
    client.call("CONFIG", "SET", "slowlog-log-slower-than", "50")
    assert driver.node.slow_us == 50


def test_a_slow_command_shows_in_latency_latest(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = NodeDriver(clock=(clock := Ticking()), latency_monitor_threshold="2")
    client = driver.connect()
    clock.runs = True
    client.call("KEYS", "*")
    assert driver.node.latency.latest() == []
    monkeypatch.setattr(f"{__name__}.TICK_US", 2_000)
    client.call("KEYS", "*")
    clock.runs = False
    assert client.call("LATENCY", "LATEST").startswith(b"*1\r\n*4\r\n$7\r\ncommand\r\n")


def test_debug_sleep_is_a_slow_command() -> None:
    driver = NodeDriver(latency_monitor_threshold="20", slowlog_log_slower_than="1000000", enable_debug_command="yes")
    client = driver.connect()
    assert client.call("DEBUG", "SLEEP", "0.01") == client.call("DEBUG", "SLEEP", "0.05") == b"+OK\r\n"
    assert [(name, worst) for name, _, _, worst in driver.node.latency.latest()] == [("command", 50)]
    assert not len(driver.node.slowlog)
