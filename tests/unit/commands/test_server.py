from __future__ import annotations

import pytest

from respkv.commands.session import Pending
from respkv.commands.spec import CommandSpec
from tests.unit.commands.fake_server import FakeServer
from tests.unit.commands.harness import START_MS, ErrorText


def test_time() -> None:
    fake = FakeServer()
    fake.advance_ms(1234)
    assert fake.client()("TIME") == [b"%d" % (START_MS // 1000 + 1), b"234000"]


def test_role_and_lastsave() -> None:
    fake = FakeServer()
    client = fake.client()
    assert client("ROLE") == [b"master", 0, []]
    fake.snapshots.last_save_ms = 1_700_000_123_999
    assert client("LASTSAVE") == 1_700_000_123


def test_save_answers_when_the_snapshot_is_there() -> None:
    fake = FakeServer()
    client = fake.client()
    pending = client("SAVE")
    assert isinstance(pending, Pending)
    assert client("SAVE") == client("BGSAVE") == ErrorText("ERR Background save already in progress")
    fake.snapshot_done.pop()("")
    assert client.result(pending) == b"OK"


def test_save_tells_what_went_wrong() -> None:
    fake = FakeServer()
    client = fake.client()
    pending = client("SAVE")
    fake.snapshot_done.pop()("no space left on the disk")
    assert client.result(pending) == ErrorText("ERR no space left on the disk")
    fake.snapshots.busy = False
    fake.snapshot_problem = "no space left on the disk"
    assert client("SAVE") == client("BGSAVE") == ErrorText("ERR no space left on the disk")
    fake.snapshot_problem = ""
    assert client("SAVE") == b"OK"


def test_save_is_not_for_transactions() -> None:
    client = FakeServer().client()
    client("MULTI")
    assert client("SAVE") == ErrorText("ERR Command not allowed inside a transaction")


def test_bgsave() -> None:
    fake = FakeServer()
    client = fake.client()
    assert client("BGSAVE", "foo") == client("BGSAVE", "SCHEDULE", "x") == ErrorText("ERR syntax error")
    assert client("BGSAVE") == b"Background saving started"
    assert client("BGSAVE", "schedule") == ErrorText("ERR Background save already in progress")
    fake.snapshots.busy = False
    assert client("BGSAVE", "schedule") == b"Background saving started"


@pytest.mark.parametrize(
    ("words", "asked"),
    [
        ([], (None, False, False)),
        (["save"], (True, False, False)),
        (["NOSAVE"], (False, False, False)),
        (["NOW", "FORCE", "NOSAVE"], (False, True, True)),
    ],
)
def test_shutdown(words: list[str], asked: tuple[bool | None, bool, bool]) -> None:
    fake = FakeServer()
    client = fake.client()
    assert client("SHUTDOWN", *words) is client.SILENT
    assert fake.shutdowns == [asked]


def test_shutdown_mistakes_and_abort() -> None:
    fake = FakeServer()
    client = fake.client()
    for words in (["x"], ["SAVE", "NOSAVE"], ["ABORT", "NOW"], ["SAVE", "ABORT"]):
        assert client("SHUTDOWN", *words) == ErrorText("ERR syntax error")
    assert client("SHUTDOWN", "ABORT") == ErrorText("ERR No shutdown in progress.")
    client("SHUTDOWN")
    assert client("SHUTDOWN", "ABORT") == b"OK"
    fake.shutdown_problem = b"-ERR Errors trying to SHUTDOWN. Check logs.\r\n"
    assert client("SHUTDOWN") == ErrorText("ERR Errors trying to SHUTDOWN. Check logs.")
    assert fake.shutdowns == []


def test_lolwut_ends_with_the_version() -> None:
    client = FakeServer().client()
    for words in ([], ["VERSION", "5"]):
        assert client("LOLWUT", *words).endswith(b"\nRedis ver. 7.4.0\n")


@pytest.mark.parametrize(
    "words",
    [
        ["CLUSTER", "INFO"],
        ["CLUSTER", "NODES"],
        ["CLUSTER", "SLOTS"],
        ["CLUSTER", "MYSHARDID"],
        ["CLUSTER", "KEYSLOT", "k"],
        ["CLUSTER", "HELP"],
        ["READONLY"],
        ["READWRITE"],
        ["ASKING"],
    ],
)
def test_cluster_support_is_disabled(words: list[str]) -> None:
    assert FakeServer().client()(*words) == ErrorText("ERR This instance has cluster support disabled")


@pytest.mark.parametrize(
    "words",
    [
        ["REPLICAOF", "host", "6379"],
        ["SLAVEOF", "host", "6379"],
        ["REPLCONF", "capa", "eof"],
        ["SYNC"],
        ["PSYNC", "?", "-1"],
        ["FAILOVER"],
        ["BGREWRITEAOF"],
        ["MODULE", "LOAD", "/x.so"],
        ["MODULE", "LOADEX", "/x.so"],
        ["MODULE", "UNLOAD", "x"],
        ["ACL", "SETUSER", "bob"],
        ["ACL", "LOAD"],
        ["ACL", "SAVE"],
        ["ACL", "DELUSER", "default"],
    ],
)
def test_what_is_not_offered_is_an_error_of_its_own(words: list[str]) -> None:
    reply = FakeServer().client()(*words)
    assert isinstance(reply, ErrorText) and reply.startswith("ERR ")
    assert "unknown" not in reply and "wrong number" not in reply


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ("", "FAILOVER requires connected replicas."),
        ("abort", "No failover in progress."),
        ("ABORT x", "syntax error"),
        ("x", "syntax error"),
        ("TO h", "syntax error"),
        ("TO h x", "value is not an integer or out of range"),
        ("TIMEOUT", "syntax error"),
        ("TIMEOUT x", "value is not an integer or out of range"),
        ("TIMEOUT 0", "FAILOVER timeout must be greater than 0"),
        ("TIMEOUT 5 TIMEOUT 6", "syntax error"),
        ("TIMEOUT 5 to h 1 FORCE", "FAILOVER requires connected replicas."),
        ("FORCE", "FAILOVER requires connected replicas."),
    ],
)
def test_failover_looks_at_its_words_first(words: str, text: str) -> None:
    """Redis' answers."""
    assert FakeServer().client()("FAILOVER", *words.split()) == ErrorText(f"ERR {text}")


def test_what_is_trivially_true() -> None:
    client = FakeServer().client()
    assert client("REPLICAOF", "no", "one") == client("SLAVEOF", "NO", "ONE") == b"OK"
    assert client("MODULE", "LIST") == []


def test_acl_of_the_only_user() -> None:
    client = FakeServer().client()
    assert client("ACL", "WHOAMI") == b"default"
    assert client("ACL", "USERS") == [b"default"]
    assert client("ACL", "LIST") == [b"user default on nopass ~* &* +@all"]
    assert client("ACL", "GETUSER", "default") == [
        b"flags", [b"on", b"nopass"], b"passwords", [], b"commands", b"+@all", b"keys", b"~*", b"channels", b"&*",
        b"selectors", [],
    ]  # fmt: skip
    assert client("ACL", "GETUSER", "bob") is None
    assert client("ACL", "DELUSER", "bob", "eve") == 0
    assert client("ACL", "LOG") == client("ACL", "LOG", 5) == []
    assert client("ACL", "LOG", "RESET") == b"OK"
    assert client("ACL", "LOG", "x") == ErrorText("ERR value is not an integer or out of range")


def test_acl_log_lists_refused_log_ins_as_redis_does() -> None:
    """What follows was compared with a redis-server 7.0; the last three fields are those of 7.2 and later."""
    fake = FakeServer(requirepass="secret", acllog_max_len=3)
    client, bad = fake.client(), fake.client()
    client("AUTH", "secret")
    for words in (["AUTH", "wrong"], ["auth", "wrong"], ["AUTH", "bob", "x"], ["HELLO", 3, "AUTH", "carol", "y"]):
        assert bad(*words).startswith("WRONGPASS")
        fake.advance_ms(100)
    bad("GET", "a")
    entries = [dict(zip(entry[::2], entry[1::2])) for entry in client("ACL", "LOG")]
    assert [entry[b"username"] for entry in entries] == [b"carol", b"bob", b"default"], "the oldest went"
    assert [entry[b"object"] for entry in entries] == [b"HELLO", b"AUTH", b"auth"]
    newest = entries[0]
    assert list(newest) == [
        b"count", b"reason", b"context", b"object", b"username", b"age-seconds", b"client-info", b"entry-id",
        b"timestamp-created", b"timestamp-last-updated",
    ]  # fmt: skip
    assert newest[b"count"] == 1 and newest[b"reason"] == b"auth" and newest[b"context"] == b"toplevel"
    assert float(newest[b"age-seconds"]) == 0.1 and newest[b"entry-id"] == 3
    assert newest[b"client-info"].startswith(b"id=2 addr=") and b"\n" not in newest[b"client-info"]
    assert newest[b"timestamp-created"] == newest[b"timestamp-last-updated"] == fake.now_ms - 100
    client("HELLO", 3)
    assert client("ACL", "LOG", 1)[0][b"age-seconds"] == 0.1
    assert client("ACL", "LOG", 0) == client("ACL", "LOG", -1) == []
    assert client("ACL", "LOG", "RESET") == b"OK" and client("ACL", "LOG") == []
    bad("AUTH", "wrong")
    assert client("ACL", "LOG")[0][b"entry-id"] == 4


def test_acl_log_counts_what_repeats_within_a_minute() -> None:
    fake = FakeServer(requirepass="secret")
    client = fake.client()
    client("AUTH", "secret")
    client("HELLO", 3)
    fake.client()("AUTH", "bob", "x")
    fake.client()("AUTH", "carol", "x")
    began_ms = fake.now_ms
    fake.advance_ms(60_000)
    fake.client()("AUTH", "bob", "y")
    bob, carol = client("ACL", "LOG")
    assert (bob[b"username"], bob[b"count"], bob[b"age-seconds"]) == (b"bob", 2, 0) and carol[b"count"] == 1
    assert bob[b"client-info"].startswith(b"id=4 ") and bob[b"timestamp-created"] == began_ms
    assert bob[b"timestamp-last-updated"] == fake.now_ms == began_ms + 60_000
    fake.advance_ms(60_001)
    fake.client()("AUTH", "bob", "z")
    assert [entry[b"count"] for entry in client("ACL", "LOG")] == [1, 2, 1]
    other = fake.client()
    for words in (["AUTH", "secret"], ["MULTI"], ["AUTH", "bob", "x"], ["EXEC"]):
        other(*words)
    assert client("ACL", "LOG", 1)[0][b"context"] == b"multi"


def test_acl_log_is_bounded() -> None:
    fake = FakeServer(requirepass="secret", acllog_max_len=2)
    client = fake.client()
    client("AUTH", "secret")
    for number in range(5):
        client("AUTH", str(number) + "u" * 1000, "x")
    assert len(client("ACL", "LOG")) == 2 and len(client("ACL", "LOG")[0][9]) < 200
    client("CONFIG", "SET", "acllog-max-len", 0)
    client("AUTH", "bob", "x")
    assert client("ACL", "LOG") == []


def test_acl_shows_the_passwords_hash() -> None:
    client = FakeServer(requirepass="secret").client()
    client("AUTH", "secret")
    digest = b"2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b"
    assert client("ACL", "LIST") == [b"user default on #" + digest + b" ~* &* +@all"]
    assert client("ACL", "GETUSER", "default")[1:4:2] == [[b"on"], [digest]]


def test_acl_getuser_is_a_map_with_a_set_of_flags_in_resp3() -> None:
    fake = FakeServer()
    client = fake.client()
    rest = (
        b"$8\r\ncommands\r\n$5\r\n+@all\r\n$4\r\nkeys\r\n$2\r\n~*\r\n$8\r\nchannels\r\n$2\r\n&*\r\n"
        b"$9\r\nselectors\r\n*0\r\n"
    )
    free = b"$5\r\nflags\r\n%c2\r\n$2\r\non\r\n$6\r\nnopass\r\n$9\r\npasswords\r\n*0\r\n" + rest
    assert client.raw("ACL", "GETUSER", "default") == b"*12\r\n" + free % b"*"
    assert client.raw("ACL", "GETUSER", "bob") == b"$-1\r\n"
    client("HELLO", 3)
    assert client.raw("ACL", "GETUSER", "default") == b"%6\r\n" + free % b"~"
    assert client.raw("ACL", "GETUSER", "bob") == b"_\r\n"
    client("CONFIG", "SET", "requirepass", "pw")
    digest = b"30c952fab122c3f9759f02a6d95c3758b246b4fee239957b2d4fee46e26170c4"
    assert client.raw("ACL", "GETUSER", "default") == (
        b"%6\r\n$5\r\nflags\r\n~1\r\n$2\r\non\r\n$9\r\npasswords\r\n*1\r\n$64\r\n" + digest + b"\r\n" + rest
    )


def test_acl_cat() -> None:
    client = FakeServer().client()
    assert len(client("ACL", "CAT")) == 21 and b"dangerous" in client("ACL", "CAT")
    assert b"subscribe" in client("ACL", "CAT", "pubsub")
    names = client("ACL", "CAT", "DANGEROUS")
    assert b"client|kill" in names and b"get" not in names
    assert client("ACL", "CAT", "x") == ErrorText("ERR Unknown category 'x'")


def test_acl_genpass() -> None:
    client = FakeServer().client()
    first, second = client("ACL", "GENPASS"), client("ACL", "GENPASS")
    assert len(first) == 64 and first != second and int(first, 16) >= 0
    assert len(client("ACL", "GENPASS", 5)) == 2
    assert len(client("ACL", "GENPASS", 4096)) == 1024
    for bad in ("0", "-1", "4097"):
        assert client("ACL", "GENPASS", bad) == ErrorText(
            "ERR ACL GENPASS argument must be the number of bits for the output password, a positive number up to 4096"
        )
    for bad in ("x", "", "1.5", str(1 << 63)):
        assert client("ACL", "GENPASS", bad) == ErrorText("ERR value is not an integer or out of range")


def test_acl_words_too_many() -> None:
    client = FakeServer().client()
    for name in ("CAT", "GENPASS", "LOG"):
        assert client("ACL", name, 1, 2) == ErrorText(
            f"ERR unknown subcommand or wrong number of arguments for '{name}'. Try ACL HELP."
        )


def test_acl_dryrun() -> None:
    client = FakeServer().client()
    assert client("ACL", "DRYRUN", "default", "GET", "k") == b"OK"
    assert client("ACL", "DRYRUN", "bob", "GET", "k") == ErrorText("ERR User 'bob' not found")
    assert client("ACL", "DRYRUN", "default", "nope") == ErrorText("ERR Command 'nope' not found")
    assert client("ACL", "DRYRUN", "default", "GET") == ErrorText("ERR wrong number of arguments for 'get' command")


def test_every_container_has_a_help_that_names_its_subcommands() -> None:
    fake = FakeServer()
    client = fake.client()
    for name in ("config", "slowlog", "latency", "memory", "pubsub", "module"):
        spec = fake.table.lookup(name.encode())
        assert spec is not None
        text = b"\n".join(client(name, "HELP"))
        for row in spec.subcommands:
            word = row.name.split("|")[1].upper()
            if not row.name.startswith("module|") or word in ("LIST", "HELP"):
                assert word.encode() in text, row.name


def test_rows_agree_with_themselves() -> None:
    def check(spec: CommandSpec) -> None:
        assert spec.summary and spec.group and spec.since, spec.name
        assert ("fast" in spec.acl) != ("slow" in spec.acl), spec.name
        names = [argument.name for argument in spec.args]
        assert len(names) == len(set(names)), spec.name
        for row in spec.subcommands:
            check(row)

    for spec in FakeServer().table.specs:
        check(spec)
