from __future__ import annotations

from respkv.commands.latency import draw
from tests.unit.commands.fake_server import FakeServer
from tests.unit.commands.harness import START_MS, ErrorText

NOW_S = START_MS // 1000


def spiky() -> FakeServer:
    fake = FakeServer()
    fake.latency.threshold_ms = 10
    for age_s, latency_ms in ((90, 20), (60, 40), (5, 30)):
        fake.latency.note("command", latency_ms, time_s=NOW_S - age_s)
    fake.latency.note("fsync", 15, time_s=NOW_S - 7)
    return fake


def test_latest_history_reset() -> None:
    client = spiky().client()
    assert client("LATENCY", "LATEST") == [
        [b"command", NOW_S - 5, 30, 40],
        [b"fsync", NOW_S - 7, 15, 15],
    ]
    assert client("LATENCY", "HISTORY", "command") == [[NOW_S - 90, 20], [NOW_S - 60, 40], [NOW_S - 5, 30]]
    assert client("LATENCY", "HISTORY", "nope") == []
    assert client("LATENCY", "RESET", "fsync", "nope") == 1
    assert len(client("LATENCY", "LATEST")) == 1
    assert client("LATENCY", "RESET") == 1
    assert client("LATENCY", "LATEST") == []


def test_doctor() -> None:
    fake = FakeServer()
    client = fake.client()
    assert b"latency-monitor-threshold" in client("LATENCY", "DOCTOR")
    fake.latency.threshold_ms = 10
    assert client("LATENCY", "DOCTOR").startswith(b"No latency spike")
    report = spiky().client()("LATENCY", "DOCTOR").decode()
    assert "1. command: 3 latency spikes (average 30ms, mean deviation 6ms, period 30.00 sec)." in report
    assert "2. fsync: 1 latency spikes" in report


def test_graph() -> None:
    client = spiky().client()
    graph = client("LATENCY", "GRAPH", "command").decode().split("\n")
    assert graph[0] == "command - high 40 ms, low 20 ms (all time high 40 ms)"
    assert client("LATENCY", "GRAPH", "x") == ErrorText("ERR No samples available for event 'x'")


def test_the_drawing() -> None:
    text = draw("e", [(0, 10), (50, 20), (99, 30)], 30, 100)
    assert text.decode().split("\n")[1:] == ["-" * 80, "  #", "  #", " ##", "_##", "", "151", "m0s", " s", ""]
    flat = draw("e", [(10, 5), (20, 5)], 9, 20).decode().split("\n")
    assert flat[5] == "__"


def test_histogram() -> None:
    fake = FakeServer()
    client = fake.client()
    for took_us in (1, 3, 3, 100):
        fake.metrics.count_call("get", took_us)
    fake.metrics.count_call("client|id", 7)
    assert client("LATENCY", "HISTOGRAM", "get", "nope") == [
        b"get", [b"calls", 4, b"histogram_usec", [1, 1, 4, 3, 128, 4]],
    ]  # fmt: skip
    assert client("LATENCY", "HISTOGRAM", "client") == [b"client|id", [b"calls", 1, b"histogram_usec", [8, 1]]]
    everything = client("LATENCY", "HISTOGRAM")
    assert {b"get", b"client|id"} <= set(everything[::2])
    client("HELLO", 3)
    assert client("LATENCY", "HISTOGRAM", "get") == {b"get": {b"calls": 4, b"histogram_usec": {1: 1, 4: 3, 128: 4}}}
