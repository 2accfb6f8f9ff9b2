from __future__ import annotations

import pytest

from respkv.commands.client_line import is_local, valid_name
from respkv.commands.session import Pending
from respkv.commands.spec import FLAG_NAMES
from tests.unit.commands.fake_server import FakeServer
from tests.unit.commands.harness import ErrorText

FIELDS = (
    "id addr laddr fd name age idle flags db sub psub ssub multi watch qbuf qbuf-free argv-mem multi-mem rbs rbp obl"
    " oll omem tot-mem events cmd user redir resp lib-name lib-ver"
)


def parsed(line: bytes) -> dict[str, str]:
    return dict(field.split("=", 1) for field in line.decode().rstrip("\n").split(" "))  # type: ignore[misc]


def test_client_info_has_all_fields_in_order() -> None:
    client = FakeServer().client()
    line = client("CLIENT", "INFO")
    assert line.endswith(b"\n") and line.count(b"\n") == 1
    assert list(parsed(line)) == FIELDS.split(" ")
    assert parsed(line)["multi"] == "-1" and parsed(line)["cmd"] == "client|info"
    client("HELLO", 3)
    raw = client.raw("CLIENT", "INFO")
    assert isinstance(raw, bytes) and raw.startswith(b"=") and b"\r\ntxt:id=" in raw


def test_client_info_shows_the_state() -> None:
    fake = FakeServer()
    client = fake.client()
    client("CLIENT", "SETNAME", "worker-1")
    client("CLIENT", "SETINFO", "lib-name", "redis-py")
    client("CLIENT", "SETINFO", "LIB-VER", "5.0")
    client("SELECT", 2)
    client("WATCH", "k")
    client("MULTI")
    client("SET", "k", "v")
    fake.advance_ms(3500)
    client.sink.waiting_input = 17
    other = fake.client("127.0.0.1:6000")
    fields = parsed(other("CLIENT", "LIST", "ID", client.session.id))
    assert fields["name"] == "worker-1" and fields["lib-name"] == "redis-py" and fields["lib-ver"] == "5.0"
    assert fields["age"] == "3" and fields["idle"] == "3"
    assert fields["db"] == "2" and fields["multi"] == "1" and fields["watch"] == "1" and fields["flags"] == "x"
    assert fields["qbuf"] == "17" and int(fields["multi-mem"]) == 5 and int(fields["tot-mem"]) > 22


def test_flags() -> None:
    fake = FakeServer()
    watcher, subscriber, shard, plain = (fake.client(f"127.0.0.1:{port}") for port in range(7000, 7004))
    watcher("MONITOR")
    subscriber("SUBSCRIBE", "c")
    shard("SSUBSCRIBE", "c")
    plain("CLIENT", "NO-EVICT", "on")
    plain("CLIENT", "NO-TOUCH", "on")
    flags = [parsed(line)["flags"] for line in plain("CLIENT", "LIST").splitlines()]
    assert flags == ["O", "P", "P", "eT"]
    assert parsed(fake.client("/run/r.sock:0", unix=True)("CLIENT", "INFO"))["flags"] == "U"


def test_list_by_type_and_id() -> None:
    fake = FakeServer()
    one, two, three = (fake.client(f"127.0.0.1:{port}") for port in (1, 2, 3))
    two("SUBSCRIBE", "c")

    def ids(*words: str | int) -> list[str]:
        return [parsed(line)["id"] for line in one("CLIENT", "LIST", *words).splitlines()]

    assert ids() == ["1", "2", "3"]
    assert ids("TYPE", "pubsub") == ["2"]
    assert ids("TYPE", "normal") == ["1", "3"]
    assert ids("TYPE", "replica") == ids("TYPE", "slave") == ids("TYPE", "master") == []
    assert ids("ID", 3, 99, 1) == ["3", "1"]
    assert one("CLIENT", "LIST", "TYPE", "x") == ErrorText("ERR Unknown client type 'x'")
    assert one("CLIENT", "LIST", "ID", "x") == ErrorText("ERR Invalid client ID")
    assert one("CLIENT", "LIST", "ID") == ErrorText("ERR syntax error")
    assert one("CLIENT", "LIST", "FOO", "x") == ErrorText("ERR syntax error")
    assert three.session.id == 3


def test_names() -> None:
    client = FakeServer().client()
    assert client("CLIENT", "GETNAME") is None
    assert client("CLIENT", "SETNAME", "a~!") == b"OK"
    assert client("CLIENT", "GETNAME") == b"a~!"
    for bad in (b"a b", b"a\n", b"\x7f", "ä".encode()):
        assert client("CLIENT", "SETNAME", bad) == ErrorText(
            "ERR Client names cannot contain spaces, newlines or special characters."
        )
    assert client("CLIENT", "GETNAME") == b"a~!"
    assert client("CLIENT", "SETNAME", "") == b"OK"
    assert client("CLIENT", "GETNAME") is None
    assert client("CLIENT", "SETINFO", "LIB-NAME", "a b") == ErrorText(
        "ERR LIB-NAME cannot contain spaces, newlines or special characters."
    )
    assert client("CLIENT", "SETINFO", "x", "y") == ErrorText("ERR Unrecognized option 'x'")
    assert client("CLIENT", "SETINFO", "x") == ErrorText("ERR wrong number of arguments for 'client|setinfo' command")
    assert valid_name(b"") and not valid_name(b" ")


def test_unknown_subcommands_are_ordinary_errors() -> None:
    client = FakeServer().client()
    words = ("CLIENT", "MAINT_NOTIFICATIONS", "ON", "moving-endpoint-type", "internal-ip")
    assert client(*words) == ErrorText("ERR unknown subcommand 'MAINT_NOTIFICATIONS'. Try CLIENT HELP.")
    assert client("CLIENT") == ErrorText("ERR wrong number of arguments for 'client' command")


def test_reply_modes() -> None:
    client = FakeServer().client()
    assert client("CLIENT", "REPLY", "SKIP") is client.SILENT
    assert client("SET", "k", "v") is client.SILENT
    assert client("GET", "k") == b"v"
    assert client("CLIENT", "REPLY", "OFF") is client.SILENT
    assert client("SET", "k", "w") is client.SILENT
    assert client("CLIENT", "REPLY", "SKIP") is client.SILENT
    assert client("CLIENT", "REPLY", "ON") == b"OK"
    assert client("GET", "k") == b"w"
    assert client("CLIENT", "REPLY", "x") == ErrorText("ERR syntax error")
    assert client.session.plain


def test_kill_by_address() -> None:
    fake = FakeServer()
    one, two = fake.client("127.0.0.1:1"), fake.client("127.0.0.1:2")
    assert one("CLIENT", "KILL", "127.0.0.1:2") == b"OK"
    assert two.sink.closed == "at once"
    assert one("CLIENT", "KILL", "127.0.0.1:3") == ErrorText("ERR No such client")
    assert one("CLIENT", "KILL", "127.0.0.1:1") == b"OK"
    assert one.sink.closed == "after output"


def test_kill_by_filters() -> None:
    fake = FakeServer()
    clients = [fake.client(f"127.0.0.1:{port}") for port in (1, 2, 3, 4)]
    one, two, three, four = clients
    two("SUBSCRIBE", "c")

    def killed(*words: str | int) -> list[int]:
        for client in clients:
            client.sink.closed = None
        count = one("CLIENT", "KILL", *words)
        found = [client.session.id for client in clients if client.sink.closed]
        assert count == len(found)
        return found

    assert killed("TYPE", "pubsub") == [2]
    assert killed("ID", 3) == [3]
    assert killed("ID", 3, "TYPE", "pubsub") == []
    assert killed("ADDR", "127.0.0.1:4") == [4]
    assert killed("LADDR", "127.0.0.1:6379") == [2, 3, 4]
    assert killed("USER", "default", "SKIPME", "no") == [1, 2, 3, 4]
    assert one.sink.closed == "after output" and four.sink.closed == "at once"
    assert killed("MAXAGE", 10) == []
    fake.advance_ms(20_000)
    assert killed("MAXAGE", 10, "SKIPME", "yes") == [2, 3, 4]
    assert three.session.id == 3


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["ID", "0"], "ERR client-id should be greater than 0"),
        (["ID", "x"], "ERR client-id should be greater than 0"),
        (["TYPE", "x"], "ERR Unknown client type 'x'"),
        (["USER", "bob"], "ERR No such user 'bob'"),
        (["SKIPME", "x"], "ERR syntax error"),
        (["MAXAGE", "x"], "ERR maxage is not an integer or out of range"),
        (["MAXAGE", "0"], "ERR maxage is not an integer or out of range"),
        (["ID", "1", "FOO"], "ERR syntax error"),
        (["FOO", "1"], "ERR syntax error"),
    ],
)
def test_kill_mistakes_kill_nobody(words: list[str], text: str) -> None:
    fake = FakeServer()
    one, two = fake.client("127.0.0.1:1"), fake.client("127.0.0.1:2")
    assert one("CLIENT", "KILL", *words) == ErrorText(text)
    assert one.sink.closed is two.sink.closed is None


def test_pause_all_holds_commands_until_its_end() -> None:
    fake = FakeServer()
    one, two = fake.client("127.0.0.1:1"), fake.client("127.0.0.1:2")
    assert one("CLIENT", "PAUSE", 100) == b"OK"
    assert fake.pause_mode == "all" and not fake.dispatcher.plain
    pending = two("GET", "k")
    assert isinstance(pending, Pending) and pending.reply is None
    assert one("CLIENT", "GETNAME") is None
    fake.advance_ms(99)
    assert pending.reply is None
    fake.advance_ms(1)
    assert two.result(pending) is None
    assert fake.pause_mode == "" and fake.dispatcher.plain


def test_pause_write_lets_reads_go_on_and_unpause_ends_it() -> None:
    fake = FakeServer()
    client = fake.client()
    client("CLIENT", "PAUSE", 10_000, "write")
    assert client("GET", "k") is None
    pending = client("SET", "k", "v")
    assert isinstance(pending, Pending) and pending.reply is None
    assert client("CLIENT", "UNPAUSE") == b"OK"
    assert client.result(pending) == b"OK"
    assert client("GET", "k") == b"v"


def test_pause_write_holds_what_is_published() -> None:
    fake = FakeServer()
    client = fake.client()
    client("CLIENT", "PAUSE", 10_000, "WRITE")
    for name in ("PUBLISH", "SPUBLISH"):
        pending = client(name, "channel", "message")
        assert isinstance(pending, Pending) and pending.reply is None
    fake.end_pause()
    assert client.result(pending) == 0
    assert "may_replicate" not in FLAG_NAMES.values(), "Redis hides it, too"


def test_of_two_pauses_the_longer_and_stricter_holds() -> None:
    fake = FakeServer()
    client = fake.client()
    client("CLIENT", "PAUSE", 500, "WRITE")
    client("CLIENT", "PAUSE", 100, "ALL")
    assert fake.pause_mode == "all" and fake.pause_until_us == fake.now_us + 500_000
    fake.advance_ms(100)
    assert fake.pause_mode == "all"
    client("CLIENT", "PAUSE", 100, "WRITE")
    assert fake.pause_mode == "all"
    fake.advance_ms(400)
    assert fake.pause_mode == ""


def test_pause_mistakes() -> None:
    fake = FakeServer()
    client = fake.client()
    assert client("CLIENT", "PAUSE", 10, "foo") == ErrorText("ERR CLIENT PAUSE mode must be WRITE or ALL")
    assert client("CLIENT", "PAUSE", -1) == ErrorText("ERR timeout is negative")
    assert client("CLIENT", "PAUSE", "x") == ErrorText("ERR timeout is not an integer or out of range")
    assert client("CLIENT", "PAUSE", (1 << 63) - 1) == ErrorText("ERR timeout is out of range")
    assert client("CLIENT", "PAUSE", 1, "ALL", "x") == ErrorText(
        "ERR unknown subcommand or wrong number of arguments for 'PAUSE'. Try CLIENT HELP."
    )
    assert fake.pause_mode == ""


def test_unblock() -> None:
    fake = FakeServer()
    one, two = fake.client("127.0.0.1:1"), fake.client("127.0.0.1:2")
    assert one("CLIENT", "UNBLOCK", 2) == 0
    pending = two("WAIT", 1, 0)
    assert parsed(one("CLIENT", "LIST", "ID", 2))["flags"] == "b"
    assert one("CLIENT", "UNBLOCK", 2) == 1
    assert two.result(pending) == 0
    pending = two("WAIT", 1, 0)
    assert one("CLIENT", "UNBLOCK", 2, "ERROR") == 1
    assert two.result(pending) == ErrorText("UNBLOCKED client unblocked via CLIENT UNBLOCK")
    assert one("CLIENT", "UNBLOCK", 2, "ERROR") == 0
    assert one("CLIENT", "UNBLOCK", 99) == 0
    assert one("CLIENT", "UNBLOCK", 2, "x") == ErrorText("ERR CLIENT UNBLOCK reason should be TIMEOUT or ERROR")
    assert one("CLIENT", "UNBLOCK", 2, "ERROR", "x") == ErrorText(
        "ERR unknown subcommand or wrong number of arguments for 'UNBLOCK'. Try CLIENT HELP."
    )
    assert one("CLIENT", "UNBLOCK", "x") == ErrorText("ERR value is not an integer or out of range")


def test_tracking_is_a_clear_error() -> None:
    client = FakeServer().client()
    assert client("CLIENT", "TRACKING", "OFF") == b"OK"
    assert client("CLIENT", "TRACKING", "ON", "BCAST").startswith("ERR client-side caching is not supported")
    assert client("CLIENT", "TRACKING", "x") == ErrorText("ERR syntax error")
    assert client("CLIENT", "TRACKINGINFO") == [b"flags", [b"off"], b"redirect", -1, b"prefixes", []]
    assert client("CLIENT", "GETREDIR") == -1
    assert client("CLIENT", "CACHING", "YES").startswith("ERR CLIENT CACHING can be called only when")
    assert client("CLIENT", "CACHING", "x").startswith("ERR CLIENT CACHING can be called only when")
    client("HELLO", 3)
    raw = client.raw("CLIENT", "TRACKINGINFO")
    assert raw == b"%3\r\n$5\r\nflags\r\n~1\r\n$3\r\noff\r\n$8\r\nredirect\r\n:-1\r\n$8\r\nprefixes\r\n*0\r\n"


def test_switches() -> None:
    client = FakeServer().client()
    for name in ("NO-EVICT", "NO-TOUCH"):
        assert client("CLIENT", name, "on") == b"OK"
        assert client("CLIENT", name, "OFF") == b"OK"
        assert client("CLIENT", name, "x") == ErrorText("ERR syntax error")


def test_help_names_every_subcommand() -> None:
    fake = FakeServer()
    lines = b"\n".join(fake.client()("CLIENT", "HELP"))
    spec = fake.table.lookup(b"client")
    assert spec is not None
    for row in spec.subcommands:
        assert row.name.split("|")[1].upper().encode() in lines, row.name


def test_local_clients() -> None:
    fake = FakeServer()
    for address, local in (
        ("127.0.0.1:1", True),
        ("127.8.8.8:1", True),
        ("[::1]:1", True),
        ("10.0.0.1:1", False),
        ("[fe80::1]:1", False),
    ):
        assert is_local(fake.client(address).session) is local
    assert is_local(fake.client("/tmp/s:0", unix=True).session)
