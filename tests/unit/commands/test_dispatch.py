"""What stands between a request and its handler."""

from __future__ import annotations

import random

import pytest

from respkv.commands.session import Pending
from respkv.commands.table import TableError, build_table
from respkv.testing.node_driver import Client, NodeDriver, encode_request
from tests.unit.keyspace.rig import ColdRng

OK = b"+OK\r\n"


@pytest.fixture
def driver() -> NodeDriver:
    return NodeDriver()


@pytest.fixture
def client(driver: NodeDriver) -> Client:
    return driver.connect()


def test_unknown_command_shows_its_arguments(client: Client) -> None:
    assert client.call("FOO", "a", "b") == b"-ERR unknown command 'FOO', with args beginning with: 'a' 'b' \r\n"


def test_arity(client: Client) -> None:
    assert client.call("GET") == b"-ERR wrong number of arguments for 'get' command\r\n"
    assert client.call("CLIENT", "SETNAME") == b"-ERR wrong number of arguments for 'client|setname' command\r\n"
    assert client.call("CLIENT", "FOO") == b"-ERR unknown subcommand 'FOO'. Try CLIENT HELP.\r\n"


def test_password() -> None:
    driver = NodeDriver(requirepass="secret")
    client = driver.connect()
    assert client.call("GET", "a") == b"-NOAUTH Authentication required.\r\n"
    assert client.call("NOSUCH").startswith(b"-ERR unknown command")
    assert client.call("GET").startswith(b"-ERR wrong number of arguments")
    assert client.call("AUTH", "wrong").startswith(b"-WRONGPASS")
    assert client.call("AUTH", "secret") == OK
    assert client.call("SET", "a", "x" * 20_000) == OK


def test_limits_before_the_password() -> None:
    driver = NodeDriver(requirepass="secret")
    client = driver.connect()
    assert client.send(b"*11\r\n") == b"-ERR Protocol error: unauthenticated multibulk length\r\n"
    assert client.closed


def test_fast_path_is_left_and_entered_again(driver: NodeDriver, client: Client) -> None:
    watcher = driver.connect()
    assert client.session.plain and driver.node.dispatcher.plain
    watcher.call("WATCH", "a")
    assert not driver.node.dispatcher.plain
    watcher.call("UNWATCH")
    assert driver.node.dispatcher.plain
    monitor = driver.connect()
    monitor.call("MONITOR")
    assert not driver.node.dispatcher.plain
    client.call("SET", "a", "1")
    assert b'"SET" "a" "1"' in monitor.received
    driver.node.disconnect(monitor.session)
    assert driver.node.dispatcher.plain


def test_resp3_null_and_maps(client: Client) -> None:
    assert client.call("GET", "missing") == b"$-1\r\n"
    assert client.call("HELLO", "3").startswith(b"%7\r\n")
    assert client.call("GET", "missing") == b"_\r\n"


def test_reply_off_and_skip(client: Client) -> None:
    assert client.call("CLIENT", "REPLY", "SKIP") == b""
    assert client.call("PING") == b""
    assert client.call("PING") == b"+PONG\r\n"
    assert client.call("CLIENT", "REPLY", "OFF") == b""
    assert client.call("SET", "a", "1") == b""
    assert client.call("CLIENT", "REPLY", "ON") == OK
    assert client.call("GET", "a") == b"$1\r\n1\r\n"


def test_pause_holds_writes_until_it_ends(driver: NodeDriver, client: Client) -> None:
    other = driver.connect()
    assert client.call("CLIENT", "PAUSE", "50", "WRITE") == OK
    before = driver.clock.monotonic_us()
    assert other.call("GET", "a") == b"$-1\r\n"
    assert driver.clock.monotonic_us() == before
    assert other.call("SET", "a", "1") == OK
    assert driver.clock.monotonic_us() - before >= 50_000
    assert driver.node.dispatcher.plain


def test_subscribed_resp2_connection_is_restricted(client: Client) -> None:
    client.call("SUBSCRIBE", "c")
    assert client.call("GET", "a").startswith(b"-ERR Can't execute 'get': only (P|S)SUBSCRIBE")
    assert client.call("PING") == b"*2\r\n$4\r\npong\r\n$0\r\n\r\n"


def test_missing_blocks_are_fetched_and_replies_stay_in_order() -> None:
    driver = NodeDriver(row_cache_bytes="1", block_cache_bytes="1")
    client = driver.connect()
    for number in range(200):
        client.call("SET", f"k{number}", f"v{number}")
    driver.node.engine.rotate()
    driver.work()
    sent = b"".join(encode_request("GET", f"k{number}") for number in range(200))
    expected = b"".join(b"$%d\r\nv%d\r\n" % (len(f"v{number}"), number) for number in range(200))
    assert client.send(sent) == expected
    assert client.call("MGET", *(f"k{number}" for number in range(50))).count(b"$") == 50


@pytest.mark.parametrize("why", ["block", "pause"])
def test_a_request_of_another_node_that_waits_keeps_what_it_brought(why: str) -> None:
    """The next one of its session may have another database, and another time by which it must be executed."""
    driver = NodeDriver(row_cache_bytes="1", block_cache_bytes="1")
    driver.connect().call("SET", "k", "1")
    driver.node.engine.rotate()
    driver.work()
    session, dispatcher = driver.connect().session, driver.node.dispatcher
    session.forwarded, session.until_us, session.level = True, 77, 2
    if why == "pause":
        assert driver.connect().call("CLIENT", "PAUSE", "50", "WRITE") == OK
    else:
        driver.fs.cold = ColdRng()
        driver.fs.drop_page_cache()
    seen: list[tuple[int, ...]] = []
    pending = dispatcher.execute(session, [b"APPEND", b"k", b"2"])
    assert isinstance(pending, Pending) and pending.reply is None
    pending.on_done = lambda: seen.append(session.context())
    session.db, session.level, session.until_us = 3, 1, 0
    driver.pass_time(100_000)
    driver.work()
    assert pending.reply == b":2\r\n" and seen == [(0, 2, 2, 77)]
    assert driver.connect().call("GET", "k") == b"$2\r\n12\r\n"


def test_full_disk_refuses_writes_keeps_reads_and_recovers(driver: NodeDriver, client: Client) -> None:
    client.call("SET", "a", "1")
    driver.node.dispatcher.refusal = None
    driver.node.engine._refusal = "disk full"
    driver.node.refresh_refusal()
    assert client.call("SET", "a", "2").startswith(b"-MISCONF ")
    assert client.call("GET", "a") == b"$1\r\n1\r\n"
    assert client.call("DEL", "a") == b":1\r\n"
    driver.node.engine._refusal = None
    driver.node.refresh_refusal()
    assert client.call("SET", "a", "2") == OK


LONG = "n" * 500


def full_disk() -> tuple[NodeDriver, Client]:
    """A node with 2000 keys of 500 bytes and more on a disk that has just become full."""
    driver = NodeDriver(memtable_bytes="65536", ballast_bytes="0")
    client = driver.connect()
    for number in range(2000):
        client.call("SET", f"{number}:{LONG}", "v")
    driver.pass_time(1_000_000)
    driver.fs.capacity = driver.fs.used()
    driver.node.engine.rotate()
    driver.node.refresh_refusal()
    return driver, client


def test_deletions_on_a_full_disk_are_refused_before_the_log_has_no_room_left() -> None:
    driver, client = full_disk()
    replies = [client.call("DEL", f"{number}:{LONG}")[:8] for number in range(2000)]
    done = replies.index(b"-MISCONF")
    assert replies == [b":1\r\n"] * done + [b"-MISCONF"] * (2000 - done) and done > 100
    driver.pass_time(60_000_000)
    assert client.call("EXISTS", f"{done - 1}:{LONG}", f"{done}:{LONG}") == b":1\r\n"
    driver.fs.capacity = None
    driver.pass_time(1_000_000)
    assert client.call("DEL", f"{done}:{LONG}") == b":1\r\n" and client.call("SET", "a", "1") == OK


def test_queued_deletions_on_a_full_disk_are_refused_together() -> None:
    _, client = full_disk()
    client.call("MULTI")
    for number in range(2000):
        client.call("DEL", f"{number}:{LONG}")
    assert client.call("EXEC").startswith(b"-MISCONF ")
    assert client.call("EXISTS", f"0:{LONG}", f"1999:{LONG}") == b":2\r\n"
    assert client.call("EXEC") == b"-ERR EXEC without MULTI\r\n"


BIG = b"v" * 6_000_000
WAYS = (
    [("SET", "k", BIG)],
    [("SET", "k", BIG, "PX", "100000")],
    [("MSET", "a", "1", "k", BIG)],
    [("HSET", "h", "f", "1"), ("HSET", "h", "f", BIG)],
    [("HSET", "k", "a", "1", "f", BIG)],
    [("SETRANGE", "k", "6000000", "1")],
    [("MULTI",), ("SET", "a", "1"), ("SET", "k", BIG), ("EXEC",)],
)


@pytest.mark.parametrize("requests", WAYS, ids=lambda way: "-".join(str(words[0]) for words in way))
def test_a_value_that_the_disk_cannot_take_is_refused_and_changes_nothing(requests: list[tuple[str, ...]]) -> None:
    driver = NodeDriver(ballast_bytes="0")
    client = driver.connect()
    driver.fs.capacity = driver.fs.used() + 5_000_000
    for words in requests[:-1]:
        client.call(*words)
    last = driver.node.engine.commit()
    assert client.call(*requests[-1]).startswith(b"-MISCONF "), "nor are others refused for it"
    assert driver.node.engine.commit() == last and not driver.node.engine.batch
    assert client.call("EXISTS", "a", "k") == b":0\r\n" and client.call("SET", "small", "1") == OK
    driver.fs.capacity += 20_000_000
    for words in requests:
        reply = client.call(*words)
    assert not reply.startswith(b"-")
    driver.fs.capacity = None
    again = NodeDriver(fs=driver.fs.copy(), clock=driver.clock).connect()
    name = "h" if requests[0][1:2] == ("h",) else "k"
    assert again.call("EXISTS", name) == b":1\r\n" and again.call("DUMP", name) == client.call("DUMP", name)


def test_a_log_that_was_given_room_for_a_value_is_one_for_the_next_writes_too() -> None:
    driver = NodeDriver(ballast_bytes="0")
    client = driver.connect()
    for _ in range(3):
        assert client.call("SET", "k", BIG) == OK
    assert client.call("EXISTS", "k") == b":1\r\n" and driver.node.engine.refusal() is None


def test_a_merged_value_that_the_disk_cannot_take_is_not_written_back() -> None:
    driver = NodeDriver(ballast_bytes="0", memtable_bytes="262144", conflict_policy='m:" "merge:longest')
    client = driver.connect()
    for value in (BIG, BIG + b"v"):
        assert client.call("RKV.SET", "m:k", "", value) == OK
    driver.fs.capacity = driver.fs.used() + 1_000_000
    for _ in range(2):
        assert len(client.call("GET", "m:k")) > len(BIG) + 1
    conflicts = driver.node.keyspace.conflicts
    assert conflicts.written_back == 0 and not conflicts.merged and client.call("SET", "a", "1") == OK
    driver.fs.capacity = None
    driver.pass_time(1_000_000)
    driver.node.keyspace.cache.drop(0, b"m:k")
    assert len(client.call("GET", "m:k")) > len(BIG) + 1 and conflicts.written_back == 1


def test_max_disk_says_what_it_is_at_once_and_everywhere(client: Client, driver: NodeDriver) -> None:
    """Clients look for OOM; people for the reason. CONFIG SET counts for the next request of its pipeline."""
    refused = b"-OOM command not allowed when disk used > 'max-disk'.\r\n"
    sent = (
        encode_request("CONFIG", "SET", "max-disk", "1"),
        encode_request("SET", "a", "1"),
        encode_request("INFO", "respkv", "persistence"),
        encode_request("MEMORY", "DOCTOR"),
        encode_request("CONFIG", "SET", "max-disk", "0"),
        encode_request("SET", "a", "1"),
    )
    answer = client.send(b"".join(sent))
    assert answer.startswith(OK + refused) and answer.endswith(b"\n" + OK + OK)
    assert b"respkv_writes_refused_reason:disk used > max-disk\r\n" in answer
    assert b"respkv_writes_refused:1\r\n" in answer
    told = [text for _, text in driver.log if "writes" in text]
    assert told[0].startswith("writes are refused: disk used > max-disk (") and told[1:] == ["writes go on"]
    assert b"respkv_writes_refused_reason:none\r\n" in client.call("INFO", "respkv")


def test_max_disk_does_not_count_what_is_only_held() -> None:
    """Room for the log, and the ballast, are no data."""
    driver, rng = NodeDriver(max_disk="1mb", ballast_bytes="4mb"), random.Random(1)
    client = driver.connect()
    assert driver.fs.exists("/db/BALLAST") and driver.fs.used() > 4 << 20
    assert client.call("SET", "a", "1") == OK
    answers = []
    for number in range(30):
        answers.append(client.call("SET", f"k{number}", rng.randbytes(50_000)))
        driver.pass_time(200_000)
    assert answers[:20] == [OK] * 20 and answers[-1].startswith(b"-OOM ")


def test_a_log_that_holds_one_key_over_and_over_is_not_what_fills_max_disk() -> None:
    driver, rng = NodeDriver(max_disk="8mb", memtable_bytes="4mb"), random.Random(1)
    client = driver.connect()
    for _ in range(2000):
        assert client.call("SET", "a", rng.randbytes(10_000)) == OK
        driver.pass_time(100_000)


def test_deletions_make_room_under_max_disk() -> None:
    driver, rng = NodeDriver(max_disk="3mb", maxmemory="0"), random.Random(1)
    client = driver.connect()
    names = [f"k{number:05}:" + "n" * 500 for number in range(3000)]
    for name in names:
        client.call("SET", name, rng.randbytes(1000))
        driver.pass_time(1_000)
    assert client.call("SET", "a", "1").startswith(b"-OOM ")
    assert client.call("DEL", *names).startswith(b":2")
    driver.pass_time(60_000_000)
    assert client.call("SET", "a", "1") == OK


def test_damaged_block_is_an_error_and_never_a_missing_key() -> None:
    driver = NodeDriver(row_cache_bytes="1", block_cache_bytes="1")
    client = driver.connect()
    for number in range(100):
        client.call("SET", f"k{number}", "v" * 100)
    driver.node.engine.rotate()
    driver.work()
    table = next(name for name in driver.fs.listdir("/db/tables"))
    driver.fs.flip(f"/db/tables/{table}", 300, 0)
    answers = {client.call("GET", f"k{number}")[:8] for number in range(100)}
    assert b"-CORRUPT" in answers
    assert b"$-1\r\n" not in answers
    assert any("damaged" in text for _, text in driver.log)


def test_renamed_and_removed_commands() -> None:
    table = build_table({"get": "fetch", "flushall": ""})
    assert table.lookup(b"GET") is None and table.lookup(b"FLUSHALL") is None
    spec = table.lookup(b"fetch")
    assert spec is not None and spec.name == "get"
    with pytest.raises(TableError):
        build_table({"get": "set"})


def test_slow_commands_are_noted(client: Client) -> None:
    client.call("CONFIG", "SET", "slowlog-log-slower-than", "0")
    client.call("SET", "slow", "1", "EX", "5")
    assert b"slow" in client.call("SLOWLOG", "GET", "10")


def test_nothing_is_executed_behind_a_protocol_error(client: Client) -> None:
    answer = client.send(encode_request("SET", "a", "1") + b"*1\r\n:5\r\n" + encode_request("SET", "a", "2"))
    assert answer == b"+OK\r\n-ERR Protocol error: expected '$', got ':'\r\n"
    assert client.closed


@pytest.mark.parametrize("odd", [b":5", b"#f", b"_", b",1.5", b"-ERR x", b"$3\r\nabc", b"+OK"])
def test_what_is_no_request_in_a_pipeline(driver: NodeDriver, odd: bytes) -> None:
    """The reader makes a number, a bool, None, an error ... of it; the server must take it for an inline command."""
    ping = encode_request("PING")
    together = driver.connect().send(ping + odd + b"\r\n" + ping)
    apart, pieces = driver.connect(), [ping, odd + b"\r\n", ping]
    assert together == b"".join(apart.send(piece) for piece in pieces)
    assert together.startswith(b"+PONG\r\n-ERR unknown command") and together.endswith(b"+PONG\r\n")


def test_info_says_whether_key_counts_are_exact(driver: NodeDriver, client: Client) -> None:
    client.call("SET", "a", "1")
    assert b"respkv_keys_exact:0" in client.call("INFO", "persistence")
    client.call("DBSIZE")
    assert b"respkv_keys_exact:1" in client.call("INFO", "persistence")
