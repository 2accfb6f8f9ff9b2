from __future__ import annotations

import pytest

from respkv.commands.session import Pending
from tests.unit.commands.fake_server import FakeServer
from tests.unit.commands.harness import ErrorText


def test_wait_for_nobody_answers_at_once() -> None:
    client = FakeServer().client()
    assert client("WAIT", 0, 0) == 0
    assert client("WAIT", -1, 1000) == 0


def test_wait_for_a_replica_ends_at_its_timeout() -> None:
    fake = FakeServer()
    client = fake.client()
    pending = client("WAIT", 1, 100)
    assert isinstance(pending, Pending) and client.session.blocked is pending
    fake.advance_ms(99)
    assert pending.reply is None
    fake.advance_ms(1)
    assert client.result(pending) == 0
    assert client.session.blocked is None and fake.timers() == 0


def test_wait_without_timeout_never_ends() -> None:
    fake = FakeServer()
    pending = fake.client()("WAIT", 1, 0)
    fake.advance_ms(1 << 40)
    assert pending.reply is None and fake.timers() == 0


def test_an_unblocked_wait_leaves_no_timer() -> None:
    fake = FakeServer()
    client = fake.client()
    pending = client("WAIT", 1, 5000)
    pending.on_unblock(None)
    assert client.result(pending) == 0 and fake.timers() == 0


def test_waitaof_waits_for_the_disk() -> None:
    fake = FakeServer()
    client = fake.client()
    pending = client("WAITAOF", 1, 0, 0)
    assert pending.reply is None
    fake.sync_done.pop()()
    assert client.result(pending) == [1, 0]
    assert client.session.blocked is None


def test_waitaof_on_a_synced_disk_answers_at_once() -> None:
    fake = FakeServer()
    fake.disk_is_synced = True
    client = fake.client()
    assert client("WAITAOF", 1, 0, 0) == [1, 0]
    assert client.session.blocked is None


def test_waitaof_times_out() -> None:
    fake = FakeServer()
    client = fake.client()
    pending = client("WAITAOF", 1, 0, 50)
    fake.advance_ms(50)
    assert client.result(pending) == [0, 0]
    fake.sync_done.pop()()  # too late: nothing happens
    assert client.result(pending) == [0, 0]


def test_waitaof_for_a_replica_tells_of_the_local_log_at_its_timeout() -> None:
    fake = FakeServer()
    client = fake.client()
    pending = client("WAITAOF", 1, 1, 50)
    fake.sync_done.pop()()
    assert pending.reply is None
    fake.advance_ms(50)
    assert client.result(pending) == [1, 0]


def test_inside_multi_nothing_blocks() -> None:
    client = FakeServer().client()
    client("MULTI")
    client("WAIT", 3, 0)
    client("WAITAOF", 1, 1, 0)
    assert client("EXEC") == [0, [0, 0]]


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["WAIT", "x", "1"], "ERR value is not an integer or out of range"),
        (["WAIT", "1", "x"], "ERR timeout is not an integer or out of range"),
        (["WAIT", "1", "-1"], "ERR timeout is negative"),
        (["WAIT", "1", str((1 << 63) - 1)], "ERR timeout is out of range"),
        (["WAIT", "1"], "ERR wrong number of arguments for 'wait' command"),
        (["WAITAOF", "2", "0", "0"], "ERR value is out of range, value must between 0 and 1"),
        (["WAITAOF", "0", "-1", "0"], "ERR value is out of range, must be positive"),
        (["WAITAOF", "0", "0", "-1"], "ERR timeout is negative"),
    ],
)
def test_mistakes(words: list[str], text: str) -> None:
    client = FakeServer().client()
    assert client(*words) == ErrorText(text)
    assert client.session.blocked is None
