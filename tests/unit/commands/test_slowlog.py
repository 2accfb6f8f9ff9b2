from __future__ import annotations

from tests.unit.commands.fake_server import FakeServer
from tests.unit.commands.harness import START_MS, ErrorText


def test_entries_newest_first() -> None:
    fake = FakeServer()
    fake.slow_us = 0
    client = fake.client("127.0.0.1:77")
    client("CLIENT", "SETNAME", "me")
    client("SET", "k", "v" * 200)
    assert client("SLOWLOG", "LEN") == 2
    newest = client("SLOWLOG", "GET", 2)[0]
    assert newest[3] == [b"SLOWLOG", b"LEN"]
    entry = client("SLOWLOG", "GET", -1)[-2]
    assert entry[1] == START_MS // 1000 and entry[2] == 0
    assert entry[3] == [b"SET", b"k", b"v" * 128 + b"... (72 more bytes)"]
    assert entry[4:] == [b"127.0.0.1:77", b"me"]


def test_counts() -> None:
    fake = FakeServer()
    client = fake.client()
    for number in range(15):
        fake.slowlog.add([b"GET", b"%d" % number], duration_us=number, wall_ms=5000, client="c", name=b"")
    assert [entry[0] for entry in client("SLOWLOG", "GET")] == list(range(14, 4, -1))
    assert len(client("SLOWLOG", "GET", -1)) == 15
    assert client("SLOWLOG", "GET", 0) == []
    for bad in ("-2", "x"):
        assert client("SLOWLOG", "GET", bad) == ErrorText("ERR count should be greater than or equal to -1")
    for word in ("GET", "get"):
        assert client("SLOWLOG", word, 1, 2) == ErrorText(
            f"ERR unknown subcommand or wrong number of arguments for '{word}'. Try SLOWLOG HELP."
        )
    assert client("SLOWLOG", "RESET") == b"OK"
    assert client("SLOWLOG", "LEN") == 0


def test_passwords_stay_out() -> None:
    fake = FakeServer()
    fake.slow_us = 0
    client = fake.client()
    client("AUTH", "default", "pw")
    client("CONFIG", "SET", "requirepass", "pw")
    client("HELLO", 2, "AUTH", "default", "pw")
    shown = [entry[3] for entry in client("SLOWLOG", "GET", -1)]
    assert shown[1] == [b"CONFIG", b"SET", b"requirepass", b"(redacted)"]
    assert all(b"pw" not in words for words in shown)
    assert shown[-1] == [b"AUTH", b"(redacted)", b"(redacted)"]
