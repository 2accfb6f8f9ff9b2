from __future__ import annotations

import pytest

from respkv.base.ids import HASH
from respkv.commands.populate import SLICE_BYTES, SLICE_KEYS
from respkv.commands.session import Pending
from respkv.keyspace import effects as fx
from respkv.resp import errors
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


def finish(fake: FakeServer, client: Client, reply: object) -> object:
    """The reply of a request that may have become pending, after as many turns of the loop as it takes."""
    for _ in range(100):
        if not isinstance(reply, Pending) or reply.reply is not None:
            break
        assert fake.timers(), "it waits for nothing"
        fake.advance_ms(1)
    return client.result(reply) if isinstance(reply, Pending) else reply


def test_populate_makes_the_keys_of_redis() -> None:
    _, client = debugger()
    assert client("DEBUG", "POPULATE", 3) == b"OK"
    assert client("MGET", "key:0", "key:1", "key:2", "key:3") == [b"value:0", b"value:1", b"value:2", None]
    client("SET", "p:1", "mine")
    client("SET", "p:2", "gone", "PX", 1000)
    assert client("debug", "populate", 3, "p", 9) == b"OK"
    assert client("MGET", "p:0", "p:1", "p:2") == [b"value:0\0\0", b"mine", b"gone"]
    assert client("DEBUG", "POPULATE", 2, "", 3) == client("DEBUG", "POPULATE", 1, "r", 0) == b"OK"
    assert client("MGET", ":0", ":1", "r:0") == [b"val", b"val", b"value:0"]
    client("SELECT", 3)
    assert client("DEBUG", "POPULATE", 0) == b"OK"
    assert client("DBSIZE") == 0
    assert client("DEBUG", "POPULATE", 1) == b"OK"
    assert client("DBSIZE") == 1


def test_populate_leaves_other_types_alone_and_takes_the_place_of_what_has_expired() -> None:
    fake, client = debugger()
    fake.harness.applier.apply([fx.put_element(0, b"key:0", HASH, b"f", b"v")])
    client("SET", "key:1", "old", "PX", 1)
    fake.advance_ms(2)
    assert client("DEBUG", "POPULATE", 2) == b"OK"
    assert client("GET", "key:0").startswith("WRONGTYPE")
    assert client("GET", "key:1") == b"value:1"
    fake.advance_ms(5000)
    assert client("GET", "key:1") == b"value:1"


def test_populate_mistakes() -> None:
    _, client = debugger(proto_max_bulk_len=1 << 20)
    for words in (["x"], ["-1"], [str(1 << 63)], ["1", "k", "x"], ["1", "k", "-1"]):
        assert client("DEBUG", "POPULATE", *words) == ErrorText("ERR value is out of range, must be positive")
    assert client("DEBUG", "POPULATE", 1, "k", (1 << 20) + 1) == ErrorText(
        "ERR string exceeds maximum allowed size (proto-max-bulk-len)"
    )
    for words in ([], ["1", "k", "2", "y"]):
        assert client("DEBUG", "POPULATE", *words) == ErrorText(
            "ERR unknown subcommand or wrong number of arguments for 'POPULATE'. Try DEBUG HELP."
        )
    assert client("DBSIZE") == 0
    client("MULTI")
    client("DEBUG", "POPULATE", 2)
    (reply,) = client("EXEC")
    assert str(reply) == "ERR Command not allowed inside a transaction"
    assert client("DBSIZE") == 0


def test_populate_goes_in_slices() -> None:
    fake, client = debugger()
    other = fake.client()
    pending = client("DEBUG", "POPULATE", 2 * SLICE_KEYS + 1)
    assert isinstance(pending, Pending) and other("DBSIZE") == SLICE_KEYS and fake.timers() == 1
    sizes = []
    pending.on_done = lambda: sizes.append(other("DBSIZE"))
    fake.after_us(0, lambda: sizes.append(other("DBSIZE")))
    assert finish(fake, client, pending) == b"OK"
    assert sizes == [2 * SLICE_KEYS, 2 * SLICE_KEYS + 1]
    assert fake.timers() == 0 and client.session.last_command == "debug" and client.session.blocked is None
    # Large values make a slice shorter.
    pending = client("DEBUG", "POPULATE", 5, "large", SLICE_BYTES // 4)
    assert other("GET", "large:3") == b"value:3".ljust(SLICE_BYTES // 4, b"\0") and other("GET", "large:4") is None
    assert finish(fake, client, pending) == b"OK" and len(other("GET", "large:4")) == SLICE_BYTES // 4


def test_populate_ends_with_its_connection() -> None:
    fake, client = debugger()
    pending = client("DEBUG", "POPULATE", 1 << 62)
    assert isinstance(pending, Pending) and client.session.blocked is pending
    pending.abandoned = True
    fake.advance_ms(0)
    assert fake.timers() == 0 and fake.client()("DBSIZE") == SLICE_KEYS


def test_populate_stops_when_writes_are_refused() -> None:
    fake, client = debugger()
    fake.dispatcher.refusal = errors.MAX_DISK
    assert client.raw("DEBUG", "POPULATE", 5) == errors.MAX_DISK
    fake.dispatcher.refusal = None
    pending = client("DEBUG", "POPULATE", SLICE_KEYS + 1)
    fake.dispatcher.refusal = errors.DISK_FULL
    fake.advance_ms(0)
    assert isinstance(pending, Pending) and pending.reply == errors.DISK_FULL
    # The client's wish to hear nothing does not hide the refusal from the loop.
    client("CLIENT", "REPLY", "OFF")
    assert client("DEBUG", "POPULATE", 1 << 62) is Client.SILENT
    assert client.session.reply_mode == "off" and fake.timers() == 0


def test_populate_waits_for_the_end_of_a_pause() -> None:
    fake, client = debugger()
    fake.client()("CLIENT", "PAUSE", 1000, "WRITE")
    pending = client("DEBUG", "POPULATE", 2)
    assert isinstance(pending, Pending) and pending.reply is None
    fake.end_pause()
    assert finish(fake, client, pending) == b"OK"
    assert client("DBSIZE") == 2
    fake.client()("CLIENT", "PAUSE", 1000, "WRITE")
    pending = client("DEBUG", "POPULATE", 1, "k")
    fake.end_pause()
    assert isinstance(pending, Pending) and pending.reply == b"+OK\r\n"
    # The disk may have filled up meanwhile.
    fake.client()("CLIENT", "PAUSE", 1000, "WRITE")
    pending = client("DEBUG", "POPULATE", 2, "x")
    fake.dispatcher.refusal = errors.DISK_FULL
    timers = fake.timers()
    fake.end_pause()
    assert isinstance(pending, Pending) and pending.reply == errors.DISK_FULL and fake.timers() == timers


def test_populate_yields_to_the_flush() -> None:
    fake = FakeServer(enable_debug_command="yes")
    client = fake.client()
    engine = fake.harness.engine
    pending = client("DEBUG", "POPULATE", 1 << 20, "k", 1 << 12)
    for _ in range(1000):
        if engine.pressure() >= 1.0:
            break
        fake.advance_ms(20)
        engine.commit()
    assert engine.pressure() >= 1.0
    written = engine.appended_lsn
    for _ in range(3):
        fake.advance_ms(20)
        engine.commit()
    assert engine.appended_lsn == written and fake.timers() == 1
    assert isinstance(pending, Pending) and pending.reply is None


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


def test_merkle_needs_a_ring() -> None:
    _, client = debugger()
    assert client("DEBUG", "MERKLE") == "ERR This instance is not a member of a ring"
