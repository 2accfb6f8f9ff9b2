"""keyspace_hits and keyspace_misses: look-ups of commands that read, each once, as in Redis."""

from __future__ import annotations

import pytest

from respkv.testing.node_driver import NodeDriver


def looked(*words: str, transaction: bool = False) -> tuple[int, int]:
    """Hits and misses of one command on a store with a string, a number and a hash."""
    driver = NodeDriver()
    client = driver.connect()
    for before in (("SET", "s", "abc"), ("SET", "n", "1"), ("HSET", "h", "f", "1"), ("CONFIG", "RESETSTAT")):
        client.call(*before)
    for each in (("MULTI",), words, ("EXEC",)) if transaction else (words,):
        assert not client.call(*each).startswith(b"-")
    return driver.node.keyspace.hits, driver.node.keyspace.misses


@pytest.mark.parametrize("transaction", [False, True])
@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("GET s", (1, 0)), ("GET no", (0, 1)), ("STRLEN s", (1, 0)), ("MGET s n no", (2, 1)), ("EXISTS no", (0, 1)),
        ("HGET h f", (1, 0)), ("GETEX s", (1, 0)), ("GETDEL s", (1, 0)), ("GETSET s x", (1, 0)), ("TYPE no", (0, 1)),
    ],
)  # fmt: skip
def test_readers_count(words: str, found: tuple[int, int], transaction: bool) -> None:
    assert looked(*words.split(), transaction=transaction) == found


@pytest.mark.parametrize("transaction", [False, True])
@pytest.mark.parametrize(
    "words",
    [
        "INCR n", "INCR no", "APPEND s x", "SETBIT s 1 1", "EXPIRE s 100", "EXPIRE no 100", "DEL no", "UNLINK s",
        "HSET h f 2", "HDEL no f", "HINCRBY h f 1", "SETNX s 1", "PERSIST s", "SET s 1 NX", "SET s 1", "MSET a 1 b 2",
    ],
)  # fmt: skip
def test_writers_do_not(words: str, transaction: bool) -> None:
    assert looked(*words.split(), transaction=transaction) == (0, 0)
