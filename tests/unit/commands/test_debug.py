from __future__ import annotations

import pytest

from respkv.base.ids import HASH
from respkv.commands.session import Pending
from respkv.keyspace import effects as fx
from tests.unit.commands.fake_server import Client, FakeServer
from tests.unit.commands.harness import ErrorText


def debugger(**directives: object) -> tuple[FakeServer, Client]:
    fake = FakeServer(**{"enable_debug_command": "yes", **directives})
    return fake, fake.client()


def test_the_gate() -> None:
    for value, local, remote in (("no", False, False), ("local", True, False), ("yes", True, True)):
        fake = FakeServer(enable_debug_command=value)
        for address, allowed in (("127.0.0.1:1", local), ("10.0.0.1:1", remote)):
            reply = fake.client(address)("DEBUG", "HELP")
            if allowed:
                assert reply[0].startswith(b"DEBUG <subcommand>")
            else:
                assert reply == ErrorText(
                    'ERR DEBUG command not allowed. If the enable-debug-command option is set to "local", you can run'
                    " it from a local connection, otherwise you need to set this option in the configuration file,"
                    " and then restart the server."
                )


def test_unknown_subcommands() -> None:
    _, client = debugger()
    for words in (["JMAP"], ["SLEEP"], ["OBJECT", "a", "b"]):
        assert client("DEBUG", *words) == ErrorText(
            f"ERR unknown subcommand or wrong number of arguments for '{words[0]}'. Try DEBUG HELP."
        )


def test_sleep_stalls_and_answers_at_its_end() -> None:
    fake, client = debugger()
    pending = client("DEBUG", "SLEEP", "0.25")
    assert isinstance(pending, Pending) and fake.stalled_until_us == fake.now_us + 250_000
    fake.advance_ms(249)
    assert pending.reply is None
    fake.advance_ms(1)
    assert client.result(pending) == b"OK"
    assert client("DEBUG", "SLEEP", "x") == ErrorText("ERR value is not a valid float")
    client("MULTI")
    client("DEBUG", "SLEEP", "1")
    assert client("EXEC") == [b"OK"]
    assert fake.stalled_until_us == fake.now_us + 1_000_000


def test_set_active_expire() -> None:
    fake, client = debugger()
    assert client("DEBUG", "SET-ACTIVE-EXPIRE", 0) == b"OK"
    assert fake.active_expire is False
    client("DEBUG", "SET-ACTIVE-EXPIRE", 1)
    assert fake.active_expire is True


def test_reload() -> None:
    fake, client = debugger()
    pending = client("DEBUG", "RELOAD")
    fake.reload_done.pop()("")
    assert client.result(pending) == b"OK"
    pending = client("DEBUG", "LOADAOF")
    fake.reload_done.pop()("the disk is full")
    assert client.result(pending) == ErrorText("ERR Error trying to reload: the disk is full")
    assert client("DEBUG", "RELOAD", "NOSAVE") == ErrorText("ERR DEBUG RELOAD takes no options here")
    client("MULTI")
    client("DEBUG", "RELOAD")
    (reply,) = client("EXEC")
    assert "not allowed inside a transaction" in str(reply)


def test_object() -> None:
    fake, client = debugger()
    client("SET", "k", "hello")
    fake.advance_ms(5000)
    line = client("DEBUG", "OBJECT", "k").decode()
    assert line.startswith("Value at:0x") and "encoding:embstr serializedlength:5 " in line
    assert line.endswith(" lru_seconds_idle:5")
    assert client("DEBUG", "OBJECT", "absent") == ErrorText("ERR no such key")


def test_digest_value_is_redis() -> None:
    _, client = debugger()
    client("SET", "a", "b")
    assert client("DEBUG", "DIGEST-VALUE", "a", "absent") == [
        b"b78559cd22bce6e6df712eb99ce7f3b08e8f8f1f",
        b"0" * 40,
    ]
    assert client("DEBUG", "DIGEST-VALUE") == []


def test_digest_value_and_object_of_a_hash() -> None:
    fake, client = debugger()
    fake.harness.applier.apply([fx.put_element(0, b"h", HASH, b"f", b"v"), fx.put_element(0, b"h", HASH, b"g", b"w")])
    assert client("DEBUG", "DIGEST-VALUE", "h") == [b"d127864ed50239662bf61bafc9bda63c17da5b37"]
    fake.harness.applier.apply([fx.expire(0, b"h", fake.now_ms + 5000)])
    assert client("DEBUG", "DIGEST-VALUE", "h") == [b"37a278b1093bd332eae0f0578cd769a70d741ab4"]
    assert b"encoding:listpack serializedlength:4 " in client("DEBUG", "OBJECT", "h")


def test_stringmatch() -> None:
    _, client = debugger()
    assert client("DEBUG", "STRINGMATCH-TEST").endswith(b"test passed")


def test_error_and_log() -> None:
    fake, client = debugger()
    assert client("DEBUG", "ERROR", "CODE some text") == ErrorText("CODE some text")
    assert client("DEBUG", "LOG", "hello") == b"OK"
    assert fake.logged == [("warning", "DEBUG LOG: hello")]


@pytest.mark.parametrize(
    ("kind", "resp2", "resp3"),
    [
        ("string", b"$11\r\nHello World\r\n", b"$11\r\nHello World\r\n"),
        ("integer", b":12345\r\n", b":12345\r\n"),
        ("double", b"$5\r\n3.141\r\n", b",3.141\r\n"),
        ("bignum", b"$37\r\n1234567999999999999999999999999999999\r\n", b"(1234567999999999999999999999999999999\r\n"),
        ("null", b"$-1\r\n", b"_\r\n"),
        ("array", b"*3\r\n:0\r\n:1\r\n:2\r\n", b"*3\r\n:0\r\n:1\r\n:2\r\n"),
        ("set", b"*3\r\n:0\r\n:1\r\n:2\r\n", b"~3\r\n:0\r\n:1\r\n:2\r\n"),
        ("map", b"*6\r\n:0\r\n:0\r\n:1\r\n:1\r\n:2\r\n:0\r\n", b"%3\r\n:0\r\n#f\r\n:1\r\n#t\r\n:2\r\n#f\r\n"),
        (
            "attrib",
            b"$39\r\nSome real reply following the attribute\r\n",
            b"|1\r\n$14\r\nkey-popularity\r\n*2\r\n$7\r\nkey:123\r\n:90\r\n"
            b"$39\r\nSome real reply following the attribute\r\n",
        ),
        (
            "push",
            b"-ERR RESP2 is not supported by this command\r\n",
            b">2\r\n$16\r\nserver-cpu-usage\r\n:42\r\n$40\r\nSome real reply following the push reply\r\n",
        ),
        ("verbatim", b"$25\r\nThis is a verbatim\nstring\r\n", b"=29\r\ntxt:This is a verbatim\nstring\r\n"),
        ("true", b":1\r\n", b"#t\r\n"),
        ("false", b":0\r\n", b"#f\r\n"),
    ],
)
def test_protocol(kind: str, resp2: bytes, resp3: bytes) -> None:
    _, client = debugger()
    assert client.raw("DEBUG", "PROTOCOL", kind) == resp2
    client("HELLO", 3)
    assert client.raw("DEBUG", "PROTOCOL", kind) == resp3


def test_protocol_of_an_unknown_type() -> None:
    _, client = debugger()
    assert client("DEBUG", "PROTOCOL", "x").startswith("ERR Wrong protocol type name.")
