"""MULTI, EXEC, DISCARD, WATCH through a whole node."""

from __future__ import annotations

import pytest

from respkv.testing.node_driver import NodeDriver, encode_request

OK, QUEUED = b"+OK\r\n", b"+QUEUED\r\n"


@pytest.fixture
def driver() -> NodeDriver:
    return NodeDriver()


def test_exec_answers_in_order_and_sees_its_own_writes(driver: NodeDriver) -> None:
    client = driver.connect()
    assert client.call("MULTI") == OK
    for words in (("SET", "a", "1"), ("INCR", "a"), ("HSET", "h", "f", "v"), ("HGET", "h", "f"), ("GET", "a")):
        assert client.call(*words) == QUEUED
    assert client.call("EXEC") == b"*5\r\n+OK\r\n:2\r\n:1\r\n$1\r\nv\r\n$1\r\n2\r\n"
    assert client.call("GET", "a") == b"$1\r\n2\r\n"


def test_an_error_inside_is_an_element_and_the_rest_runs(driver: NodeDriver) -> None:
    client = driver.connect()
    client.call("SET", "s", "x")
    client.call("MULTI")
    client.call("INCR", "s")
    client.call("SET", "t", "y")
    assert client.call("EXEC") == b"*2\r\n-ERR value is not an integer or out of range\r\n+OK\r\n"
    assert client.call("GET", "t") == b"$1\r\ny\r\n"


def test_a_mistake_while_queueing_aborts(driver: NodeDriver) -> None:
    client = driver.connect()
    client.call("MULTI")
    assert client.call("NOSUCH").startswith(b"-ERR unknown command")
    client.call("SET", "a", "1")
    assert client.call("EXEC") == b"-EXECABORT Transaction discarded because of previous errors.\r\n"
    assert client.call("GET", "a") == b"$-1\r\n"


def test_words_out_of_place(driver: NodeDriver) -> None:
    client = driver.connect()
    assert client.call("EXEC") == b"-ERR EXEC without MULTI\r\n"
    assert client.call("DISCARD") == b"-ERR DISCARD without MULTI\r\n"
    client.call("MULTI")
    assert client.call("MULTI") == b"-ERR MULTI calls can not be nested\r\n"
    assert client.call("WATCH", "a") == b"-ERR WATCH inside MULTI is not allowed\r\n"
    assert client.call("DISCARD") == OK


@pytest.mark.parametrize(
    "change",
    [
        ("SET", "k", "2"),
        ("DEL", "k"),
        ("EXPIRE", "k", "100"),
        ("APPEND", "k", "x"),
        ("FLUSHDB",),
        ("FLUSHALL",),
        ("SWAPDB", "0", "1"),
        ("MSET", "o", "1", "k", "2"),
        ("RENAME", "other", "k"),
    ],
)
def test_watch_sees_changes_of_others(driver: NodeDriver, change: tuple[str, ...]) -> None:
    watcher, writer = driver.connect(), driver.connect()
    writer.call("MSET", "k", "1", "other", "o")
    assert watcher.call("WATCH", "k") == OK
    writer.call(*change)
    watcher.call("MULTI")
    watcher.call("SET", "seen", "1")
    assert watcher.call("EXEC") == b"*-1\r\n"
    assert watcher.call("EXISTS", "seen") == b":0\r\n"


def test_watch_sees_elements_expiry_and_itself_not_others_keys(driver: NodeDriver) -> None:
    watcher, writer = driver.connect(), driver.connect()
    writer.call("HSET", "h", "f", "1")
    watcher.call("WATCH", "h")
    writer.call("HSET", "h", "f", "2")
    watcher.call("MULTI")
    assert watcher.call("EXEC") == b"*-1\r\n"

    writer.call("SET", "e", "1", "PX", "50")
    watcher.call("WATCH", "e")
    driver.pass_time(100_000)
    watcher.call("MULTI")
    assert watcher.call("EXEC") == b"*-1\r\n"

    watcher.call("WATCH", "quiet")
    writer.call("SET", "noise", "1")
    watcher.call("MULTI")
    watcher.call("PING")
    assert watcher.call("EXEC") == b"*1\r\n+PONG\r\n"


def test_unwatch_and_a_closed_watcher(driver: NodeDriver) -> None:
    watcher, writer = driver.connect(), driver.connect()
    watcher.call("WATCH", "k")
    writer.call("SET", "k", "1")
    assert watcher.call("UNWATCH") == OK
    watcher.call("MULTI")
    assert watcher.call("EXEC") == b"*0\r\n"
    watcher.call("WATCH", "k")
    driver.node.disconnect(watcher.session)
    assert driver.node.watches.keys() == 0
    assert driver.node.dispatcher.plain


def test_select_flush_and_swap_inside(driver: NodeDriver) -> None:
    client = driver.connect()
    client.call("SET", "a", "0")
    client.call("MULTI")
    for words in (("SELECT", "1"), ("SET", "a", "1"), ("SWAPDB", "0", "1"), ("GET", "a"), ("FLUSHDB",), ("GET", "a")):
        assert client.call(*words) == QUEUED
    assert client.call("EXEC") == b"*6\r\n+OK\r\n+OK\r\n+OK\r\n$1\r\n0\r\n+OK\r\n$-1\r\n"
    assert client.call("DBSIZE") == b":0\r\n"
    client.call("SELECT", "0")
    assert client.call("GET", "a") == b"$1\r\n1\r\n"


def test_walks_inside(driver: NodeDriver) -> None:
    client = driver.connect()
    client.call("MSET", "a", "1", "b", "2")
    client.call("MULTI")
    client.call("DBSIZE")
    client.call("KEYS", "a*")
    assert client.call("EXEC") == b"*2\r\n:2\r\n*1\r\n$1\r\na\r\n"


def test_one_log_record_for_a_transaction(driver: NodeDriver) -> None:
    client = driver.connect()
    client.call("MULTI")
    for number in range(10):
        client.call("SET", f"k{number}", number)
    before = driver.node.engine.appended_lsn
    client.call("EXEC")
    assert driver.node.engine.appended_lsn == before + 1


def test_a_pipeline_with_a_transaction(driver: NodeDriver) -> None:
    client = driver.connect()
    batch = [("MULTI",), ("SET", "a", "1"), ("GET", "a"), ("EXEC",), ("GET", "a")]
    sent = b"".join(encode_request(*words) for words in batch)
    assert client.send(sent) == b"+OK\r\n+QUEUED\r\n+QUEUED\r\n*2\r\n+OK\r\n$1\r\n1\r\n$1\r\n1\r\n"


def test_blocks_that_are_missing_are_fetched_before_anything_happens() -> None:
    driver = NodeDriver(row_cache_bytes="1", block_cache_bytes="1")
    client = driver.connect()
    for number in range(50):
        client.call("SET", f"k{number}", "v" * 200, "EX", "1000")
    driver.node.engine.rotate()
    driver.work()
    client.call("MULTI")
    client.call("SETNX", "new", "1")
    client.call("EXPIRE", "k1", "500")
    client.call("GET", "k2")
    client.call("PUBLISH", "c", "once")
    client.call("DEL", "k3")
    assert client.call("EXEC") == b"*5\r\n:1\r\n:1\r\n$200\r\n" + b"v" * 200 + b"\r\n:0\r\n:1\r\n"
    assert client.call("TTL", "k1") == b":500\r\n"


def test_expire_of_what_was_set_inside_keeps_the_value(driver: NodeDriver) -> None:
    client = driver.connect()
    client.call("SET", "c", "-5")
    client.call("MULTI")
    client.call("SET", "c", "922", "XX")
    client.call("EXPIRE", "c", "5000")
    client.call("EXEC")
    assert client.call("GET", "c") == b"$3\r\n922\r\n"
    driver.node.keyspace.cache.clear_all()
    assert client.call("GET", "c") == b"$3\r\n922\r\n"


def test_walks_inside_see_what_was_done_before(driver: NodeDriver) -> None:
    client = driver.connect()
    client.call("SET", "a", "1")
    client.call("MULTI")
    for words in (("RENAMENX", "a", "b"), ("KEYS", "[^a]"), ("DBSIZE",), ("SET", "c", "1"), ("DBSIZE",)):
        client.call(*words)
    assert client.call("EXEC") == b"*5\r\n:1\r\n*1\r\n$1\r\nb\r\n:1\r\n+OK\r\n:2\r\n"


def test_a_flush_breaks_only_watches_of_keys_that_exist(driver: NodeDriver) -> None:
    watcher, writer = driver.connect(), driver.connect()
    watcher.call("WATCH", "absent")
    writer.call("FLUSHALL")
    watcher.call("MULTI")
    assert watcher.call("EXEC") == b"*0\r\n"


def test_arity_of_exec_discards(driver: NodeDriver) -> None:
    client = driver.connect()
    client.call("MULTI")
    assert client.call("EXEC", "x") == (
        b"-EXECABORT Transaction discarded because of: wrong number of arguments for 'exec' command\r\n"
    )
    assert client.call("EXEC") == b"-ERR EXEC without MULTI\r\n"


def test_the_protocol_may_change_inside(driver: NodeDriver) -> None:
    client = driver.connect()
    client.call("HSET", "h", "f", "v")
    client.call("MULTI")
    read, look = ("HGETALL", "h"), ("GET", "absent")
    for words in (read, ("HELLO", "3"), read, look, ("HELLO", "2"), look):
        client.call(*words)
    answer = client.call("EXEC")
    assert answer.startswith(b"*6\r\n*2\r\n$1\r\nf\r\n$1\r\nv\r\n%7\r\n")
    assert b"%1\r\n$1\r\nf\r\n$1\r\nv\r\n_\r\n*14\r\n" in answer and answer.endswith(b"$-1\r\n")


def test_a_swap_breaks_watches_of_keys_in_either_database(driver: NodeDriver) -> None:
    watcher, writer = driver.connect(), driver.connect()
    writer.call("SELECT", "1")
    writer.call("SET", "there", "1")
    for key, answer in (("there", b"*-1\r\n"), ("nowhere", b"*0\r\n")):
        watcher.call("WATCH", key)
        writer.call("SWAPDB", "0", "1")
        watcher.call("MULTI")
        assert watcher.call("EXEC") == answer


def test_a_watch_goes_with_its_database_through_a_swap(driver: NodeDriver) -> None:
    watcher, writer = driver.connect(), driver.connect()
    watcher.call("WATCH", "k")
    writer.call("SWAPDB", "0", "1")
    writer.call("SET", "k", "1")
    watcher.call("MULTI")
    assert watcher.call("EXEC") == b"*-1\r\n"
    assert driver.node.watches.keys() == 0


def test_a_swap_with_itself_changes_nothing(driver: NodeDriver) -> None:
    watcher, writer = driver.connect(), driver.connect()
    writer.call("SET", "k", "1")
    watcher.call("WATCH", "k")
    assert writer.call("SWAPDB", "0", "0") == OK
    watcher.call("MULTI")
    assert watcher.call("EXEC") == b"*0\r\n"
    assert writer.call("SWAPDB", "16", "x") == b"-ERR invalid second DB index\r\n"
    assert writer.call("SWAPDB", str(-(1 << 31) - 1), "16") == b"-ERR invalid first DB index\r\n"
    assert writer.call("SWAPDB", "16", str(1 << 31)) == b"-ERR invalid second DB index\r\n"


def test_what_had_expired_before_it_was_watched_may_go(driver: NodeDriver) -> None:
    driver.node.active_expire = False
    watcher, writer = driver.connect(), driver.connect()
    for words in (("GET", "k"), ("DEL", "k"), ("FLUSHALL",), ("SWAPDB", "0", "1")):
        writer.call("SET", "k", "v", "PX", "10")
        driver.pass_time(11_000)
        watcher.call("WATCH", "k")
        writer.call(*words)
        watcher.call("MULTI")
        assert watcher.call("EXEC") == b"*0\r\n", words
    writer.call("SET", "k", "v", "PX", "10")
    driver.pass_time(11_000)
    watcher.call("WATCH", "k")
    writer.call("SET", "k", "v")
    watcher.call("MULTI")
    assert watcher.call("EXEC") == b"*-1\r\n"


def test_a_cached_key_is_seen_with_its_pending_changes(driver: NodeDriver) -> None:
    client = driver.connect()
    client.call("SET", "n", "5")
    assert client.call("GET", "n") == b"$1\r\n5\r\n"
    client.call("MULTI")
    for words in (("INCR", "n"), ("INCR", "n"), ("DEL", "n"), ("INCR", "n"), ("EXPIRE", "n", "9"), ("INCR", "n")):
        client.call(*words)
    assert client.call("EXEC") == b"*6\r\n:6\r\n:7\r\n:1\r\n:1\r\n:1\r\n:2\r\n"
    assert client.call("TTL", "n") == b":9\r\n"
