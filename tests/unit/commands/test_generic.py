"""Commands on keys of any type."""

from __future__ import annotations

import pytest

from respkv.commands import arguments
from respkv.commands import object as object_commands
from respkv.commands.table import build_table
from respkv.config.store import ConfigStore
from respkv.resp import errors
from tests.unit.commands.harness import Harness


def with_hash(h: Harness, key: str) -> None:
    """A hash of two fields; the first expires in 5 s, the whole in 100 s."""
    h("HSET", key, "f", "1", "g", "2")
    h("HPEXPIRE", key, "5000", "FIELDS", "1", "f")
    h("EXPIRE", key, "100")


def check_hash(h: Harness, key: str) -> None:
    assert h("HGETALL", key) == [b"f", b"1", b"g", b"2"]
    assert h("HPTTL", key, "FIELDS", "1", "f") == [5000]
    assert h("TTL", key) == 100


@pytest.mark.parametrize("command", ["DEL", "UNLINK"])
def test_del(command: str) -> None:
    h = Harness()
    h("MSET", "a", "1", "b", "2")
    h("HSET", "h", "f", "v")
    assert h(command, "a", "a", "h", "absent") == 2
    assert h("EXISTS", "a", "b", "h") == 1
    assert h(command, "a") == 0


def test_exists_and_touch_count_names() -> None:
    h = Harness()
    h("SET", "a", "1")
    assert h("EXISTS", "a", "a", "b") == 2
    assert h("TOUCH", "a", "a", "b") == 2


def test_type() -> None:
    h = Harness()
    h("SET", "s", "v")
    h("HSET", "h", "f", "v")
    assert [h("TYPE", "s"), h("TYPE", "h"), h("TYPE", "absent")] == [b"string", b"hash", b"none"]


def test_rename_string() -> None:
    h = Harness()
    h("SET", "a", "1", "EX", "100")
    h("SET", "b", "2")
    assert h("RENAME", "a", "b") == b"OK"
    assert h("MGET", "a", "b") == [None, b"1"]
    assert h("TTL", "b") == 100
    assert h("RENAME", "b", "b") == b"OK"
    assert h("GET", "b") == b"1"
    assert h.raw("RENAME", "absent", "b") == errors.NO_SUCH_KEY
    assert h.raw("RENAME", "absent", "absent") == errors.NO_SUCH_KEY


def test_rename_hash_carries_every_expiry() -> None:
    h = Harness()
    with_hash(h, "a")
    h("HSET", "b", "old", "field")
    assert h("RENAME", "a", "b") == b"OK"
    assert h("EXISTS", "a") == 0
    check_hash(h, "b")
    h("SET", "s", "v")
    assert h("RENAME", "b", "s") == b"OK"
    check_hash(h, "s")


def test_renamenx() -> None:
    h = Harness()
    h("MSET", "a", "1", "b", "2")
    assert h("RENAMENX", "a", "b") == 0
    assert h("RENAMENX", "a", "a") == 0
    assert h("RENAMENX", "a", "c") == 1
    assert h("MGET", "a", "b", "c") == [None, b"2", b"1"]
    assert h.raw("RENAMENX", "a", "c") == errors.NO_SUCH_KEY
    with_hash(h, "h")
    assert h("RENAMENX", "h", "g") == 1
    check_hash(h, "g")


def test_copy() -> None:
    h = Harness()
    h("SET", "a", "1", "EX", "100")
    assert h("COPY", "a", "b") == 1
    assert h("TTL", "b") == 100
    h("SET", "a", "2")
    assert h("COPY", "a", "b") == 0
    assert h("COPY", "a", "b", "replace") == 1
    assert h("MGET", "a", "b") == [b"2", b"2"]
    assert h("TTL", "b") == -1
    assert h("COPY", "absent", "b", "REPLACE") == 0
    assert h("GET", "b") == b"2"


def test_copied_hashes_are_apart() -> None:
    h = Harness()
    with_hash(h, "a")
    h("SET", "b", "old")
    assert h("COPY", "a", "b", "REPLACE") == 1
    check_hash(h, "b")
    check_hash(h, "a")
    h("HSET", "b", "g", "changed")
    assert h("HGET", "a", "g") == b"2"


def test_copy_to_another_database() -> None:
    h = Harness()
    with_hash(h, "a")
    assert h("COPY", "a", "a", "DB", "3") == 1
    assert h("COPY", "a", "a", "DB", "3") == 0
    check_hash(h, "a")
    assert h("MOVE", "a", "3") == 0
    h.db = 3
    check_hash(h, "a")


@pytest.mark.parametrize(
    ("words", "error"),
    [
        ("FOO", errors.SYNTAX),
        ("DB", errors.SYNTAX),
        ("DB x", errors.NOT_INTEGER),
        ("DB 99999999999", arguments.INT_RANGE),
        ("DB -1", errors.DB_INDEX),
        ("DB 1 REPLACE FOO", errors.SYNTAX),
    ],
)
def test_copy_errors(words: str, error: bytes) -> None:
    h = Harness()
    assert h.raw("COPY", "a", "b", *words.split()) == error


def test_the_same_object_is_refused() -> None:
    h = Harness()
    assert h.raw("COPY", "a", "a") == errors.SAME_OBJECT
    assert h.raw("COPY", "a", "a", "DB", "0") == errors.SAME_OBJECT
    assert h.raw("MOVE", "a", "0") == errors.SAME_OBJECT


def test_move() -> None:
    h = Harness()
    with_hash(h, "a")
    assert h("MOVE", "absent", "1") == 0
    assert h("MOVE", "a", "1") == 1
    assert h("EXISTS", "a") == 0
    h("SET", "a", "here")
    assert h("MOVE", "a", "1") == 0
    assert h("GET", "a") == b"here"
    h.db = 1
    check_hash(h, "a")
    assert h.raw("MOVE", "a", "x") == errors.NOT_INTEGER
    assert h.raw("MOVE", "a", "-1") == errors.DB_INDEX


@pytest.mark.parametrize(
    ("value", "encoding"),
    [
        ("1", b"int"),
        ("-9223372036854775808", b"int"),
        ("9223372036854775808", b"embstr"),
        ("01", b"embstr"),
        ("", b"embstr"),
        ("x" * 44, b"embstr"),
        ("x" * 45, b"raw"),
    ],
)
def test_object_encoding_of_strings(value: str, encoding: bytes) -> None:
    h = Harness()
    h("SET", "k", value)
    assert h("OBJECT", "ENCODING", "k") == encoding


def test_object_encoding_of_hashes() -> None:
    h = Harness()
    h("HSET", "small", "f", "v" * 64)
    h("HSET", "long", "f", "v" * 65)
    h("HSET", "many", *[word for n in range(513) for word in (f"f{n}", "v")])
    h("HSET", "expiring", "f", "v")
    h("HPEXPIRE", "expiring", "5000", "FIELDS", "1", "f")
    found = [h("object", "encoding", key) for key in ("small", "long", "many", "expiring", "absent")]
    assert found == [b"listpack", b"hashtable", b"hashtable", b"listpackex", None]


def test_object_encoding_of_hashes_follows_the_directives() -> None:
    h = Harness()
    h("HSET", "h", "f", "v" * 10, "g", "w")

    def encoding() -> bytes:
        found: bytes = h("OBJECT", "ENCODING", "h")
        return found

    config = ConfigStore({"hash-max-listpack-value": 9})
    h.table.settings.follow(config)
    assert encoding() == b"hashtable"
    # The value counts as it is now: what Redis keeps a hashtable is a listpack again here.
    config.set([(b"hash-max-ziplist-value", b"10")])
    assert encoding() == b"listpack"
    config.set([(b"hash-max-listpack-entries", b"1")])
    assert encoding() == b"hashtable"
    config.set([(b"hash-max-ziplist-entries", b"2")])
    assert encoding() == b"listpack"
    h("HPEXPIRE", "h", "5000", "FIELDS", "1", "f")
    assert encoding() == b"listpackex"
    config.set([(b"hash-max-listpack-entries", b"0")])
    assert encoding() == b"hashtable"
    # Another node's table has its own.
    assert build_table().settings.hash_listpack_entries == 512
    assert "hash_listpack_entries=0" in repr(h.table.settings)


def test_object_others() -> None:
    h = Harness()
    h("MSET", "text", "v", "small", "5", "large", "10000")
    h("HSET", "h", "f", "v")
    assert [h("OBJECT", "REFCOUNT", key) for key in ("text", "large", "h")] == [1, 1, 1]
    assert h("OBJECT", "REFCOUNT", "small") == 2147483647
    assert h.raw("OBJECT", "FREQ", "text") == object_commands.NO_LFU
    h.advance_ms(7_500)
    assert h("OBJECT", "IDLETIME", "text") == 7
    assert [h("OBJECT", word, "absent") for word in ("REFCOUNT", "FREQ", "IDLETIME")] == [None, None, None]
    assert h("OBJECT", "HELP")[0].startswith(b"OBJECT <subcommand>")


def test_object_arity() -> None:
    h = Harness()
    assert h.raw("OBJECT", "ENCODING") == errors.wrong_arity("object|encoding")
