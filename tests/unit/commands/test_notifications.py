"""Keyspace events of a whole node, one command after the other."""

from __future__ import annotations

import random

import pytest

from respkv.storage.engine import LOG_RESERVE
from respkv.testing.disk import SimulatedFileSystem
from respkv.testing.node_driver import NodeDriver
from tests.unit.commands.fake_server import decode

EVERYTHING = "AEmn"


class Node:
    """A node, a client and somebody who listens to all events. ``node("SET k v")`` returns what was heard."""

    def __init__(self, letters: str = "AE", *, fs: SimulatedFileSystem | None = None) -> None:
        self.driver = NodeDriver(fs=fs, notify_keyspace_events=letters)
        self.client = self.driver.connect()
        self.listener = self.driver.connect()
        self.listener.call("PSUBSCRIBE", "*")

    def __call__(self, *requests: str) -> list[str]:
        for request in requests:
            self.reply(request)
        return self.heard()

    def reply(self, request: str) -> bytes:
        return self.client.call(*request.split())

    def heard(self) -> list[str]:
        """``event key`` of each message since the last call; ``event key @db`` outside database 0."""
        data, self.listener.received = self.listener.received, b""
        events = []
        for _, _, channel, payload in decode(data):
            space, _, name = channel.decode("latin-1").partition(":")
            if not space.startswith("__keyevent@"):
                events.append(f"{space}:{name}={payload.decode('latin-1')}")
                continue
            db = space[len("__keyevent@") : -2]
            events.append(f"{name} {payload.decode('latin-1')}" + (f" @{db}" if db != "0" else ""))
        return events

    def later(self, count_ms: int) -> None:
        """Let time pass without a timer running."""
        self.driver.clock.advance_us(count_ms * 1000)


class AlwaysCold(random.Random):
    """No page is in memory before it was read once."""

    def random(self) -> float:
        return 0.0


FUTURE_S, FUTURE_MS = "99999999999", "99999999999000"

#: what was there, the command, its events with "AE"
CASES = [
    ("", "SET k v", ["set k"]),
    ("SET k old", "SET k v", ["set k"]),
    ("HSET k f v", "SET k v", ["set k"]),
    ("", "SET k v EX 100", ["set k", "expire k"]),
    ("", f"SET k v PXAT {FUTURE_MS}", ["set k", "expire k"]),
    ("SET k v EX 100", "SET k w KEEPTTL", ["set k"]),
    ("", "SET k v PXAT 5", ["set k", "expire k", "expired k"]),
    ("SET k v", "SET k w NX", []),
    ("", "SET k w XX", []),
    ("SET k v", "SET k KEEPTTL IFEQ v EX 10", ["set k", "expire k"]),
    ("SET k keepttl", "SET k v IFEQ keepttl EX 10", ["set k", "expire k"]),
    ("", "SET k v GET", ["set k"]),
    ("", "SETEX k 100 v", ["set k", "expire k"]),
    ("", "PSETEX k 10000 v", ["set k", "expire k"]),
    ("", "SETNX k v", ["set k"]),
    ("SET k v", "SETNX k v", []),
    ("", "MSET a 1 b 2 a 3", ["set a", "set b", "set a"]),
    ("", "MSETNX a 1 b 2", ["set a", "set b"]),
    ("", "MSETEX 2 a 1 b 2 EX 10", ["set a", "expire a", "set b", "expire b"]),
    ("SET a 1 EX 100", "MSETEX 1 a 2 KEEPTTL", ["set a"]),
    ("", "MSETEX 1 keepttl keepttl PXAT 5", ["set keepttl", "expire keepttl", "expired keepttl"]),
    ("", "GETSET k v", ["set k"]),
    ("SET k v", "GETDEL k", ["del k"]),
    ("", "GETDEL k", []),
    ("SET k v", "GETEX k", []),
    ("SET k v", "GETEX k EX 100", ["expire k"]),
    ("SET k v EX 100", "GETEX k PERSIST", ["persist k"]),
    ("SET k v", "GETEX k PERSIST", []),
    ("SET k v", "GETEX k PXAT 5", ["del k"]),
    ("", "APPEND k v", ["append k"]),
    ("SET k v EX 100", "APPEND k v", ["append k"]),
    ("", "SETRANGE k 3 v", ["setrange k"]),
    ("", "INCR k", ["incrby k"]),
    ("", "DECR k", ["incrby k"]),
    ("SET k 5 EX 100", "INCRBY k 4", ["incrby k"]),
    ("", "DECRBY k 4", ["incrby k"]),
    ("", "INCRBYFLOAT k 1.5", ["incrbyfloat k"]),
    ("SET k text", "INCR k", []),
    ("", "SETBIT k 7 1", ["setbit k"]),
    ("", "BITFIELD k SET u8 0 7 INCRBY u8 8 1", ["setbit k"]),
    ("SET k a", "BITFIELD k GET u8 0", []),
    # The string grows by zeros, of which Redis tells nobody.
    ("SET k a", "BITFIELD k OVERFLOW FAIL SET u8 8 256 GET u8 0 INCRBY i8 16 -129", []),
    ("SET k a", "BITFIELD k OVERFLOW FAIL SET u8 8 256 SET u8 8 0", ["setbit k"]),
    ("SET k a", "BITOP NOT to k", ["set to"]),
    ("SET to a", "BITOP NOT to k", ["del to"]),
    ("", "BITOP NOT to k", []),
    ("SET k v", "DEL k k x", ["del k"]),
    ("MSET a 1 b 2", "UNLINK b a", ["del b", "del a"]),
    ("SET k v", "DELEX k", ["del k"]),
    ("SET k v", "DELEX k IFEQ w", []),
    ("SET k v", "DELIFEQ k v", ["del k"]),
    ("SET k v", "CAD k v", ["del k"]),
    ("SET k v", "CAS k v w", ["set k"]),
    ("SET k v", "CAS k v w EX 100", ["set k", "expire k"]),
    ("SET k v", "EXPIRE k 100", ["expire k"]),
    ("HSET k f v", "PEXPIRE k 10000", ["expire k"]),
    ("SET k v", f"EXPIREAT k {FUTURE_S}", ["expire k"]),
    ("SET k v", f"PEXPIREAT k {FUTURE_MS}", ["expire k"]),
    ("SET k v", "EXPIRE k -1", ["del k"]),
    ("SET k v", "EXPIRE k 10 XX", []),
    ("", "EXPIRE k 100", []),
    ("SET k v EX 100", "PERSIST k", ["persist k"]),
    ("SET k v", "PERSIST k", []),
    ("SET k v", "RENAME k to", ["rename_from k", "rename_to to"]),
    ("HSET k f v", "RENAMENX k to", ["rename_from k", "rename_to to"]),
    ("SET k v", "RENAME k k", []),
    ("SET k v", "COPY k to", ["copy_to to"]),
    ("SET k v", "COPY k k DB 3", ["copy_to k @3"]),
    ("HSET k f v", "MOVE k 2", ["move_from k", "move_to k @2"]),
    ("SET k v", "FLUSHALL", []),
    ("SET k v", "FLUSHDB", []),
    ("SET k v", "SWAPDB 0 1", []),
    ("SET k v", "GET k", []),
    ("", "HSET h a 1 b 2", ["hset h"]),
    ("", "HMSET h a 1 b 2", ["hset h"]),
    ("", "HSETNX h a 1", ["hset h"]),
    ("HSET h a 1", "HSETNX h a 1", []),
    ("", "HINCRBY h a 1", ["hincrby h"]),
    ("", "HINCRBYFLOAT h a 1.5", ["hincrbyfloat h"]),
    ("HSET h a 1 b 2", "HDEL h a x", ["hdel h"]),
    ("HSET h a 1 b 2", "HDEL h a b", ["hdel h", "del h"]),
    ("HSET h a 1", "HDEL h x", []),
    ("HSET h a 1 b 2", "HEXPIRE h 100 FIELDS 2 a b", ["hexpire h"]),
    ("HSET h a 1", "HPEXPIRE h 10000 FIELDS 1 a", ["hexpire h"]),
    ("HSET h a 1", "HEXPIREAT h 9999999999 FIELDS 1 x", []),
    ("HSET h a 1", "HPEXPIREAT h 9999999999999 FIELDS 1 a", ["hexpire h"]),
    ("HSET h a 1 b 2", "HEXPIREAT h 5 FIELDS 1 a", ["hdel h"]),
    ("HSET h a 1", "HEXPIREAT h 5 FIELDS 1 a", ["hdel h", "del h"]),
    ("HSETEX h EX 100 FIELDS 1 a 1", "HPERSIST h FIELDS 1 a", ["hpersist h"]),
    ("HSET h a 1", "HPERSIST h FIELDS 1 a", []),
    ("HSET h a 1 b 2", "HGETDEL h FIELDS 1 a", ["hdel h"]),
    ("HSET h a 1", "HGETDEL h FIELDS 1 a", ["hdel h", "del h"]),
    ("HSET h a 1", "HGETEX h EX 10 FIELDS 1 a", ["hexpire h"]),
    ("HSETEX h EX 100 FIELDS 1 a 1", "HGETEX h PERSIST FIELDS 1 a", ["hpersist h"]),
    ("HSET h a 1", "HGETEX h FIELDS 1 a", []),
    ("HSET h a 1", "HGETEX h PXAT 5 FIELDS 1 a", ["hdel h", "del h"]),
    ("", "HSETEX h FIELDS 1 a 1", ["hset h"]),
    ("", "HSETEX h FXX FIELDS 1 a 1", []),
    ("", "HSETEX h FNX EX 100 FIELDS 1 a 1", ["hset h", "hexpire h"]),
    ("", "HSETEX h KEEPTTL FIELDS 1 ex 1", ["hset h"]),
    ("HSET h a 1", "HSETEX h PXAT 5 FIELDS 1 a 2", ["hset h", "hdel h", "del h"]),
]


@pytest.mark.parametrize(("before", "request_", "events"), CASES, ids=[f"{b}; {r}" for b, r, _ in CASES])
def test_events_of_a_command(before: str, request_: str, events: list[str]) -> None:
    node = Node()
    if before:
        assert node.reply(before)[:1] != b"-"
    node.heard()
    assert node(request_) == events


#: alike, with the classes that "A" leaves out
RARE = [
    ("", "SET k v", ["new k", "set k"]),
    ("SET k v", "SET k w", ["set k"]),
    ("", "MSET a 1 a 2 b 3", ["new a", "set a", "set a", "new b", "set b"]),
    ("", "SET k v PXAT 5", ["new k", "set k", "expire k", "expired k"]),
    ("", "APPEND k v", ["new k", "append k"]),
    ("", "HSET h a 1", ["new h", "hset h"]),
    ("HSET h a 1", "HSET h b 1", ["hset h"]),
    ("", "HSETEX h EX 9 FIELDS 1 a 1", ["new h", "hset h", "hexpire h"]),
    ("MSET k v to w", "RENAME k to", ["new to", "rename_from k", "rename_to to"]),
    ("MSET k v to w", "COPY k to REPLACE", ["new to", "copy_to to"]),
    ("SET k v", "MOVE k 1", ["new k @1", "move_from k", "move_to k @1"]),
    ("", "GET k", ["keymiss k"]),
    ("SET k v", "GET k", []),
    ("SET b v", "MGET a b c", ["keymiss a", "keymiss c"]),
    ("", "EXISTS a a", ["keymiss a", "keymiss a"]),
    ("", "TTL k", ["keymiss k"]),
    ("", "HGETALL h", ["keymiss h"]),
    ("", "BITFIELD k GET u8 0 GET u8 8", ["keymiss k"]),
    ("", "BITFIELD k GET u8 0 SET u8 8 1", ["new k", "setbit k"]),
    ("", "BITFIELD k OVERFLOW FAIL SET u8 8 256", ["new k"]),
    ("", "HSCAN h 0", ["keymiss h"]),
    ("HSET h a 1", "HSCAN h 0", []),
    ("", "KEYS *", []),
    ("", "GETDEL k", ["keymiss k"]),
    ("", "GETEX k EX 10", ["keymiss k"]),
    ("", "GETSET k v", ["keymiss k", "new k", "set k"]),
    ("", "SET k v GET", ["keymiss k", "new k", "set k"]),
    ("", "COPY k to", ["keymiss k"]),
    ("SET b v", "BITOP OR to a b", ["keymiss a", "new to", "set to"]),
    ("", "OBJECT ENCODING k", []),
    ("", "MEMORY USAGE k", []),
    ("", "DEL k", []),
    ("", "EXPIRE k 10", []),
    ("", "HDEL h a", []),
]


@pytest.mark.parametrize(("before", "request_", "events"), RARE, ids=[f"{b}; {r}" for b, r, _ in RARE])
def test_new_keys_and_misses(before: str, request_: str, events: list[str]) -> None:
    node = Node(EVERYTHING)
    if before:
        assert node.reply(before)[:1] != b"-"
    node.heard()
    assert node(request_) == events


@pytest.mark.parametrize("setup", ["SET k v", "HSET k f v g w"])
def test_restore(setup: str) -> None:
    node = Node(EVERYTHING)
    payload = decode((node.reply(setup), node.reply("DUMP k"))[1])[0]
    node.heard()

    def restore(key: str, *options: str) -> list[str]:
        assert node.client.call("RESTORE", key, *options[:1], payload, *options[1:]) == b"+OK\r\n"
        return node.heard()

    assert restore("to", "0") == ["new to", "restore to"]
    assert restore("to", "10000", "REPLACE") == ["new to", "restore to"]
    assert restore("to", "5", "REPLACE", "ABSTTL") == ["del to"]
    assert restore("to", "5", "ABSTTL") == []


def test_both_channels_and_classes() -> None:
    node = Node("K$")
    assert node("SET k v EX 10", "DEL k") == ["__keyspace@0__:k=set"]
    node.reply("CONFIG SET notify-keyspace-events KEg")
    assert node("SET k v EX 10", "DEL k") == ["__keyspace@0__:k=expire", "expire k", "__keyspace@0__:k=del", "del k"]
    assert node.reply("CONFIG GET notify-keyspace-events").endswith(b"$3\r\ngKE\r\n")
    node.reply("CONFIG SET notify-keyspace-events KEA")
    assert node.reply("CONFIG GET notify-keyspace-events").endswith(b"$3\r\nAKE\r\n")


def test_nothing_is_told_when_nobody_asks() -> None:
    node = Node("")
    assert node("SET k v PX 5", "HSET h a 1", "DEL h") == []
    assert node.driver.node.dispatcher.plain and node.driver.node.applier.on_expired is None
    node.driver.pass_time(1_000_000)
    assert node("GET k") == []
    node.reply("CONFIG SET notify-keyspace-events EA")
    assert not node.driver.node.dispatcher.plain
    node.reply("CONFIG SET notify-keyspace-events A")
    assert node.driver.node.dispatcher.plain and node.driver.node.applier.on_expired is None


def test_a_transaction_tells_per_command_in_order_among_its_messages() -> None:
    node = Node(EVERYTHING)
    assert node("MULTI", "SET k v", "PUBLISH news x", "APPEND k w", "HSET h a 1", "SELECT 1", "SET k 1", "INCR k") == []
    assert node("SWAPDB 0 1", "INCR k", "SELECT 0", "HDEL h a", "INCR h", "DEL k", "GET k", "EXEC") == [
        "new k", "set k", "news:=x", "append k", "new h", "hset h", "new k @1", "set k @1", "incrby k @1",
        # The databases have changed places: k of both is where the other was, and h went along.
        "new h", "incrby h", "del k", "keymiss k",
    ]  # fmt: skip


def test_a_transaction_that_fails_tells_nothing() -> None:
    node = Node()
    other = node.driver.connect()
    node.reply("WATCH k")
    other.call("SET", "k", "v")
    assert node.heard() == ["set k"]
    assert node("MULTI", "SET k w", "EXEC") == []
    assert node("MULTI", "SET k w", "NOSUCH", "EXEC") == []
    assert node("MULTI", "SET k w", "DISCARD") == []


def test_events_asked_for_inside_a_transaction_begin_there() -> None:
    node = Node("")
    assert node("MULTI", "SET a 1", "CONFIG SET notify-keyspace-events AE", "SET b 2", "EXEC") == ["set b"]


def test_a_walk_inside_a_transaction_changes_nothing_about_the_events() -> None:
    node = Node()
    assert node("MULTI", "SET k v", "KEYS *", "DEL k", "EXEC") == ["set k", "del k"]


def test_active_expiry_tells_without_any_access() -> None:
    node = Node()
    node("SELECT 3", "SET k v PX 50", "HSET h f v", "PEXPIRE h 50")
    node.driver.pass_time(300_000)
    assert sorted(node.heard()) == ["expired h @3", "expired k @3"]


def test_fields_that_expire_together_make_one_event() -> None:
    node = Node()
    node("HSET h a 1 b 2 c 3", "HSET left a 1 b 2", "HPEXPIRE h 50 FIELDS 3 a b c", "HPEXPIRE left 50 FIELDS 1 a")
    node.driver.pass_time(300_000)
    heard = node.heard()
    assert [event for event in heard if event.endswith(" h")] == ["hexpired h", "del h"]
    assert [event for event in heard if event.endswith(" left")] == ["hexpired left"]
    node("HPEXPIRE left 50 FIELDS 1 b")
    node.driver.pass_time(300_000)
    assert node.heard() == ["hexpired left", "del left"]


@pytest.mark.parametrize(
    ("request_", "events"),
    [
        ("GET k", ["expired k", "keymiss k"]),
        ("HSCAN k 0", ["expired k", "keymiss k"]),
        ("SET k w", ["expired k", "new k", "set k"]),
        ("SET k w NX", ["expired k", "new k", "set k"]),
        ("INCR k", ["expired k", "new k", "incrby k"]),
        ("MSET a 1 k 2", ["expired k", "new a", "set a", "new k", "set k"]),
        ("DEL k", ["expired k"]),
        ("EXPIRE k 10", ["expired k"]),
        ("HSET k f v", ["expired k", "new k", "hset k"]),
    ],
)
@pytest.mark.parametrize("inside", [False, True], ids=["alone", "in a transaction"])
def test_a_lapsed_key_is_told_before_the_command_that_meets_it(request_: str, events: list[str], inside: bool) -> None:
    node = Node(EVERYTHING)
    node("SET k v PX 5")
    node.later(10)
    assert node("MULTI", request_, "EXEC") == events if inside else node(request_) == events
    assert node.driver.node.keyspace.expired_keys == 1
    node.driver.pass_time(500_000)
    assert node.heard() == []


def test_a_lapsed_key_is_told_with_active_expiry_off() -> None:
    node = Node()
    node.driver.node.active_expire = False
    node("SET k v PX 5")
    node.later(10)
    assert node("EXISTS k") == ["expired k"]


def test_a_lapsed_field_is_told_before_the_command_that_meets_it() -> None:
    node = Node(EVERYTHING)
    node("HSET h f v", "HPEXPIRE h 5 FIELDS 1 f")
    node.later(10)
    assert node("HGET h f") == ["hexpired h", "del h", "keymiss h"]
    node("HSET h f v", "HPEXPIRE h 5 FIELDS 1 f")
    node.later(10)
    assert node("HINCRBY h f 2") == ["hexpired h", "del h", "new h", "hincrby h"]
    assert node.reply("HGETALL h") == b"*2\r\n$1\r\nf\r\n$1\r\n2\r\n"


def test_the_looks_for_events_are_no_hits_or_misses() -> None:
    node, quiet = Node(EVERYTHING), Node("")
    for each in (node, quiet):
        each(
            "SET k v", "GET k", "GET x", "HSET h f v", "HDEL h f", "MULTI", "GET x", "INCR n", "EXEC", "BITOP NOT to k"
        )
    for name in ("hits", "misses"):
        assert getattr(node.driver.node.keyspace, name) == getattr(quiet.driver.node.keyspace, name)


@pytest.mark.parametrize(
    ("requests", "events"),
    [
        (["APPEND a x"], ["append a"]),
        (["DEL a b"], ["del a", "del b"]),
        (["HSCAN x 0", "HSCAN h 0"], ["keymiss x"]),
        (["SET a v"], ["set a"]),
        (["MULTI", "SET b v", "HDEL h f", "GET x", "EXEC"], ["set b", "hdel h", "del h", "keymiss x"]),
    ],
)
def test_a_block_that_is_missing_does_not_double_the_events(requests: list[str], events: list[str]) -> None:
    before = Node("")
    before("MSET a 1 b 2", "HSET h f v")
    before.driver.node.engine.rotate()
    before.driver.work()
    node = Node(EVERYTHING, fs=before.driver.fs.copy())
    driver = node.driver
    driver.fs.cold = AlwaysCold()
    driver.fs.drop_page_cache()
    start_us = driver.clock.monotonic_us()
    assert node(*requests) == events
    assert driver.clock.monotonic_us() > start_us, "it had to wait for a block"


def test_a_full_disk_and_a_full_log_keep_lapsed_keys_where_they_are() -> None:
    node = Node(EVERYTHING)
    driver = node.driver
    node("SET k v PX 5")
    driver.fs.capacity = driver.fs.used()
    assert not driver.node.engine.rotate()
    driver.node.engine._log.room = LOG_RESERVE
    driver.node.refresh_refusal()
    node.later(10)
    assert node("GET k") == ["keymiss k"]
    assert node("MULTI", "GET k", "EXEC") == ["keymiss k"]
    driver.fs.capacity = None
    driver.pass_time(500_000)
    assert node.heard() == ["expired k"]


def test_a_database_beyond_the_configured_number_expires_in_silence() -> None:
    node = Node()
    assert node.driver.node.applier.on_expired is not None
    node.driver.node.applier.on_expired(99, b"k", None, True)
    assert node.heard() == []


def test_class_bits_reach_only_who_wants_them() -> None:
    node = Node("Em")
    assert node("SET k v", "GET x") == ["keymiss x"]
