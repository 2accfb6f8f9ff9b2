from __future__ import annotations

from respkv.metrics.slowlog import SAMPLES_MAX, LatencyMonitor, SlowLog, trim


def add(log: SlowLog, duration_us: int, *argv: bytes) -> bool:
    return log.add(
        argv or (b"get", b"k"), duration_us=duration_us, wall_ms=1_700_000_000_999, client="1:2", name=b"n"
    )


def test_an_entry_holds_what_was_told() -> None:
    log = SlowLog()
    assert add(log, 15)
    (entry,) = log.entries()
    assert (entry.id, entry.time_s, entry.duration_us) == (0, 1_700_000_000, 15)
    assert (entry.argv, entry.client, entry.name) == ((b"get", b"k"), "1:2", b"n")


def test_threshold() -> None:
    log = SlowLog(threshold_us=10)
    assert [add(log, duration) for duration in (9, 10, 11)] == [False, True, True]
    log.threshold_us = -1
    assert not add(log, 10**9)
    assert len(log) == 2


def test_newest_first_and_bounded() -> None:
    log = SlowLog(3)
    for duration in range(5):
        add(log, duration)
        log.check_invariants()
    assert [entry.id for entry in log.entries()] == [4, 3, 2]
    assert [entry.id for entry in log.entries(2)] == [4, 3]
    assert log.entries(0) == [] and len(log.entries(99)) == 3
    log.resize(1)
    assert [entry.id for entry in log.entries()] == [4]
    log.resize(0)
    add(log, 1)
    assert len(log) == 0


def test_numbers_go_on_after_a_reset() -> None:
    log = SlowLog()
    add(log, 1)
    log.reset()
    add(log, 1)
    assert [entry.id for entry in log.entries()] == [1]
    assert log.stats() == {"entries": 1, "logged": 2}


def test_trimming() -> None:
    assert trim([b"x" * 128]) == (b"x" * 128,)
    assert trim([b"x" * 130]) == (b"x" * 128 + b"... (2 more bytes)",)
    assert len(trim([b"a"] * 32)) == 32 and trim([b"a"] * 32)[-1] == b"a"
    long = trim([b"a"] * 40)
    assert len(long) == 32 and long[-1] == b"... (9 more arguments)"


def test_latency_threshold() -> None:
    monitor = LatencyMonitor()
    assert not monitor.note("command", 1000, time_s=1)
    monitor.threshold_ms = 100
    assert not monitor.note("command", 99, time_s=1)
    assert monitor.note("command", 100, time_s=1)
    assert monitor.latest() == [("command", 1, 100, 100)]


def test_one_sample_a_second_the_worst() -> None:
    monitor = LatencyMonitor(1)
    for time_s, latency in ((1, 5), (1, 9), (1, 3), (2, 4)):
        monitor.note("fsync", latency, time_s=time_s)
    monitor.note("command", 7, time_s=2)
    monitor.check_invariants()
    assert monitor.history("fsync") == [(1, 9), (2, 4)]
    assert monitor.latest() == [("command", 2, 7, 7), ("fsync", 2, 4, 9)]
    assert monitor.history("nothing") == []


def test_history_is_bounded_and_the_worst_stays() -> None:
    monitor = LatencyMonitor(1)
    for time_s in range(SAMPLES_MAX + 10):
        monitor.note("e", 1000 - time_s, time_s=time_s)
    history = monitor.history("e")
    assert len(history) == SAMPLES_MAX and history[0][0] == 10
    assert monitor.latest()[0][3] == 1000
    monitor.check_invariants()


def test_latency_reset() -> None:
    monitor = LatencyMonitor(1)
    for name in ("a", "b", "c"):
        monitor.note(name, 5, time_s=1)
    assert monitor.reset(["a", "x", "a"]) == 1
    assert monitor.reset() == 2
    assert monitor.latest() == [] and monitor.stats() == {"events": 0}
