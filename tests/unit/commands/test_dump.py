"""DUMP and RESTORE."""

from __future__ import annotations

import pytest

from respkv.commands import dump, rdb
from respkv.resp import errors
from tests.unit.commands.harness import Harness

STRING = rdb.dump_string(b"hello")


def test_a_string_comes_back() -> None:
    h = Harness()
    h("SET", "k", "some text", "EX", "100")
    payload = h("DUMP", "k")
    assert h("RESTORE", "copy", "0", payload) == b"OK"
    assert h("GET", "copy") == b"some text"
    assert h("TTL", "copy") == -1


def test_a_hash_comes_back_with_its_expiries() -> None:
    h = Harness()
    h("HSET", "h", "a", "1", "b", "2", "c", "3")
    h("HPEXPIRE", "h", "500", "FIELDS", "1", "a")
    h("HPEXPIRE", "h", "10", "FIELDS", "1", "b")
    payload = h("DUMP", "h")
    h.advance_ms(100)
    assert h("RESTORE", "copy", "70000", payload) == b"OK"
    assert h("HGETALL", "copy") == [b"a", b"1", b"c", b"3"]
    assert h("HPTTL", "copy", "FIELDS", "2", "a", "c") == [400, -1]
    assert h("TTL", "copy") == 70


def test_dump_of_nothing() -> None:
    h = Harness()
    assert h("DUMP", "k") is None
    h("HSET", "h", "a", "1")
    h("HPEXPIRE", "h", "1", "FIELDS", "1", "a")
    h.advance_ms(1)
    assert h("DUMP", "h") is None


def test_restore_of_a_hash_whose_fields_have_expired() -> None:
    h = Harness()
    h("SET", "k", "old")
    payload = rdb.dump_hash([(b"a", b"1", h.now_ms)])
    assert h("RESTORE", "k", "5000", payload, "REPLACE") == b"OK"
    assert h("EXISTS", "k") == 0


def test_restore_refuses_a_key_that_exists() -> None:
    h = Harness()
    h("HSET", "k", "a", "1")
    assert h.raw("RESTORE", "k", "0", STRING) == errors.BUSY_KEY
    assert h.raw("RESTORE", "k", "x", b"junk") == errors.BUSY_KEY
    assert h("RESTORE", "k", "0", STRING, "replace") == b"OK"
    assert h("GET", "k") == b"hello"
    payload = rdb.dump_hash([(b"a", b"1", 0)])
    assert h("RESTORE", "k", "0", payload, "REPLACE") == b"OK"
    assert h("RESTORE", "k", "0", rdb.dump_hash([(b"b", b"2", 0)]), "REPLACE") == b"OK"
    assert h("HGETALL", "k") == [b"b", b"2"]


def test_restore_with_an_expiry() -> None:
    h = Harness()
    assert h("RESTORE", "k", "5000", STRING) == b"OK"
    assert h("PTTL", "k") == 5000
    assert h("RESTORE", "k", h.now_ms + 77, STRING, "ABSTTL", "REPLACE") == b"OK"
    assert h("PTTL", "k") == 77
    # A time that has passed leaves nothing, not even what was there.
    assert h("RESTORE", "k", h.now_ms, STRING, "REPLACE", "ABSTTL") == b"OK"
    assert h("EXISTS", "k") == 0


def test_restore_takes_redis_hints() -> None:
    h = Harness()
    assert h("RESTORE", "k", "0", STRING, "IDLETIME", "100") == b"OK"
    assert h("RESTORE", "k", "0", STRING, "FREQ", "255", "REPLACE") == b"OK"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("x", STRING), errors.NOT_INTEGER),
        (("-1", STRING), dump.BAD_TTL),
        ((2**63 - 1, STRING), errors.invalid_expire("restore")),
        (("0", b""), errors.BAD_PAYLOAD),
        (("0", STRING[:-1]), errors.BAD_PAYLOAD),
        (("0", STRING[:-1] + b"\x00"), errors.BAD_PAYLOAD),
        (("0", rdb.seal(b"\x00\x00", 99)), errors.BAD_PAYLOAD),
        (("0", rdb.seal(b"\x00\x09abc", 9)), dump.BAD_FORMAT),
        (("0", rdb.seal(b"", 9)), dump.BAD_FORMAT),
        (("0", rdb.seal(b"\x12\x01", 9)), b"-ERR Bad data format: there is no type list\r\n"),
        (("0", STRING, "FOO"), errors.SYNTAX),
        (("0", STRING, "IDLETIME"), errors.SYNTAX),
        (("0", STRING, "IDLETIME", "x"), errors.NOT_INTEGER),
        (("0", STRING, "IDLETIME", "-1"), dump.BAD_IDLE_TIME),
        (("0", STRING, "FREQ", "256"), dump.BAD_FREQUENCY),
        (("0", STRING, "FREQ", "-1"), dump.BAD_FREQUENCY),
        (("0", STRING, "FREQ", "1", "IDLETIME", "1"), errors.SYNTAX),
    ],
)
def test_restore_mistakes(words: tuple[bytes | str | int, ...], expected: bytes) -> None:
    h = Harness()
    assert h.raw("RESTORE", "k", *words) == expected
    assert h("EXISTS", "k") == 0


def test_a_payload_larger_than_a_value_may_be() -> None:
    h = Harness()
    h.limit_bytes = 1000
    assert h.raw("RESTORE", "k", "0", rdb.dump_string(bytes(1001))) == dump.BAD_FORMAT
    assert h("RESTORE", "k", "0", rdb.dump_string(bytes(1000))) == b"OK"
