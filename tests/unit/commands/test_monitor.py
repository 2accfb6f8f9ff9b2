from __future__ import annotations

import pytest

from respkv.commands.monitor import monitor_line, quoted, redacted
from tests.unit.commands.fake_server import FakeServer


def test_the_line() -> None:
    line = monitor_line(1_700_000_000_123_456, 3, "127.0.0.1:5000", [b"set", b"k", b"v w"])
    assert line == b'+1700000000.123456 [3 127.0.0.1:5000] "set" "k" "v w"\r\n'
    assert monitor_line(1_000_000, 0, "a", [b"PING"]) == b'+1.000000 [0 a] "PING"\r\n'


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (b"", b'""'),
        (b"abc09", b'"abc09"'),
        (b'a"b\\c', b'"a\\"b\\\\c"'),
        (b"\n\r\t\a\b", b'"\\n\\r\\t\\a\\b"'),
        (b"\x00\x7f\xff ~", b'"\\x00\\x7f\\xff ~"'),
        ("é".encode(), b'"\\xc3\\xa9"'),
    ],
)
def test_quoting(text: bytes, shown: bytes) -> None:
    assert quoted(text) == shown


def test_secrets_are_not_shown() -> None:
    hidden = b"(redacted)"
    assert redacted([b"Auth", b"pw"]) == [b"Auth", hidden]
    assert redacted([b"AUTH", b"u", b"pw"]) == [b"AUTH", hidden, hidden]
    assert redacted([b"HELLO", b"3", b"auth", b"u", b"pw", b"SETNAME", b"n"]) == [
        b"HELLO", b"3", b"auth", hidden, hidden, b"SETNAME", b"n",
    ]  # fmt: skip
    assert redacted([b"CONFIG", b"SET", b"maxclients", b"9", b"RequirePass", b"pw"]) == [
        b"CONFIG", b"SET", b"maxclients", b"9", b"RequirePass", hidden,
    ]  # fmt: skip
    for argv in ([b"HELLO", b"3"], [b"SET", b"auth", b"x"], [b"CONFIG", b"GET", b"requirepass"]):
        assert redacted(argv) is argv


def test_monitor_sees_everybodys_requests() -> None:
    fake = FakeServer()
    watcher, client = fake.client("127.0.0.1:1"), fake.client("127.0.0.1:2")
    assert watcher("MONITOR") == b"OK"
    assert watcher("MONITOR") == b"OK"
    assert len(fake.monitors) == 1
    client("SELECT", 2)
    client("SET", "k", "v")
    client("AUTH", "default", "pw")
    lines = watcher.pushed()
    assert [line.split(b"] ")[1] for line in lines] == [
        b'"SELECT" "2"', b'"SET" "k" "v"', b'"AUTH" "(redacted)" "(redacted)"',
    ]  # fmt: skip
    assert lines[1].split(b" ")[1:3] == [b"[2", b"127.0.0.1:2]"]
    client("CONFIG", "GET", "port")
    assert watcher.pushed() == []


def test_monitor_inside_multi_is_refused() -> None:
    fake = FakeServer()
    client = fake.client()
    client("MULTI")
    client("MONITOR")
    client("PING")
    refusal, pong = client("EXEC")
    assert str(refusal) == "ERR MONITOR isn't allowed for DENY BLOCKING client" and pong == b"PONG"
    assert not fake.monitors
