from __future__ import annotations

from tests.unit.commands.fake_server import FakeServer
from tests.unit.commands.harness import ErrorText


def test_usage() -> None:
    client = FakeServer().client()
    client("SET", "k", "v" * 1000)
    assert 1000 < client("MEMORY", "USAGE", "k") < 1300
    assert client("MEMORY", "USAGE", "k", "SAMPLES", 0) == client("MEMORY", "USAGE", "k")
    assert client("MEMORY", "USAGE", "absent") is None
    assert client("MEMORY", "USAGE", "k", "SAMPLES", -1) == ErrorText("ERR syntax error")
    assert client("MEMORY", "USAGE", "k", "SAMPLES") == ErrorText("ERR syntax error")
    assert client("MEMORY", "USAGE", "k", "FOO", 1) == ErrorText("ERR syntax error")
    assert client("MEMORY", "USAGE", "absent", "SAMPLES", "x") == ErrorText(
        "ERR value is not an integer or out of range"
    )


def test_stats() -> None:
    fake = FakeServer()
    client = fake.client()
    client("HELLO", 3)
    client("MSET", "a", "1", "b", "2")
    stats = client("MEMORY", "STATS")
    assert stats[b"total.allocated"] == 10 << 20 and stats[b"peak.allocated"] == 25 << 20
    assert stats[b"keys.count"] == 2 and stats[b"keys.bytes-per-key"] == 5 << 20
    assert stats[b"fragmentation"] == 2.0 and stats[b"fragmentation.bytes"] == 10 << 20
    assert stats[b"respkv.row-cache"] == 6 << 20
    assert isinstance(stats[b"dataset.percentage"], float)


def test_stats_of_an_empty_server() -> None:
    fake = FakeServer()
    fake.figures = {}
    reply = fake.client()("MEMORY", "STATS")
    stats = dict(zip(reply[::2], reply[1::2]))
    assert stats[b"keys.bytes-per-key"] == 0 and stats[b"fragmentation"] == b"0"


def test_doctor_speaks_of_what_is_odd() -> None:
    fake = FakeServer()
    client = fake.client()
    assert client("MEMORY", "DOCTOR") == b"No memory issue was found.\n"
    fake.figures["rss"] = 100 << 20
    assert client("MEMORY", "DOCTOR").startswith(b"The process takes 10.0 times")
    fake.figures["used"] = 1
    assert b"very little memory" in client("MEMORY", "DOCTOR")


def test_doctor_gives_the_reason_why_writes_are_refused() -> None:
    fake = FakeServer()
    fake.metrics.refuse_writes("disk used > max-disk")
    assert fake.client()("MEMORY", "DOCTOR") == b"Writes are refused at the moment: disk used > max-disk.\n"


def test_the_rest() -> None:
    client = FakeServer().client()
    assert b"row_cache: 6291456\n" in client("MEMORY", "MALLOC-STATS")
    assert client("MEMORY", "PURGE") == b"OK"
