"""Hash commands, and HSCAN over small and large hashes."""

from __future__ import annotations

import random
from typing import Any

import pytest

from respkv.base.ids import HASH
from respkv.commands import hash as hash_commands
from respkv.commands import hash_scan
from respkv.keyspace.effects import put_element
from respkv.keyspace.scan import key_hash
from respkv.resp import errors
from respkv.resp.reply import array, bulk, bulk_array, encode
from tests.unit.commands.harness import Harness
from tests.unit.keyspace.rig import Rig

_INT64_MAX = 2**63 - 1


def filled(h: Harness, key: str, count: int) -> dict[bytes, bytes]:
    """A hash of ``count`` fields."""
    fields = {b"field:%d" % number: b"%d" % number for number in range(count)}
    h("HSET", key, *(word for pair in fields.items() for word in pair))
    return fields


def paired(items: list[bytes]) -> dict[bytes, bytes]:
    assert len(set(items[::2])) * 2 == len(items)
    return dict(zip(items[::2], items[1::2]))


def test_hset_counts_new_fields() -> None:
    h = Harness()
    assert h("HSET", "h", "a", "1") == 1
    assert h("HSET", "h", "a", "2") == 0
    assert h("HSET", "h", "a", "3", "b", "4", "c", "5") == 2
    assert h("HGETALL", "h") == [b"a", b"3", b"b", b"4", b"c", b"5"]
    assert h("HLEN", "h") == 3


def test_hset_takes_the_last_of_a_field_named_twice() -> None:
    h = Harness()
    assert h("HSET", "h", "a", "1", "a", "2") == 1
    assert h("HGET", "h", "a") == b"2"
    assert h("HLEN", "h") == 1


@pytest.mark.parametrize("command", ["HSET", "HMSET"])
def test_hset_needs_pairs(command: str) -> None:
    h = Harness()
    assert h.raw(command, "h", "a", "1", "b") == errors.wrong_arity(command.lower())
    assert h("EXISTS", "h") == 0


def test_hmset() -> None:
    h = Harness()
    assert h("HMSET", "h", "a", "1", "b", "2") == b"OK"
    assert h("HMGET", "h", "b", "x", "a") == [b"2", None, b"1"]


def test_hsetnx() -> None:
    h = Harness()
    assert h("HSETNX", "h", "a", "1") == 1
    assert h("HSETNX", "h", "a", "2") == 0
    assert h("HSETNX", "h", "b", "2") == 1
    assert h("HGETALL", "h") == [b"a", b"1", b"b", b"2"]


def test_reads_of_an_absent_hash() -> None:
    h = Harness()
    assert h("HGET", "h", "a") is None
    assert h("HMGET", "h", "a", "b") == [None, None]
    assert [h(name, "h") for name in ("HGETALL", "HKEYS", "HVALS")] == [[], [], []]
    assert [h("HLEN", "h"), h("HEXISTS", "h", "a"), h("HSTRLEN", "h", "a"), h("HDEL", "h", "a")] == [
        0,
        0,
        0,
        0,
    ]
    assert h("HRANDFIELD", "h") is None
    assert h("HRANDFIELD", "h", "3") == []
    assert h("HSCAN", "h", "0") == [b"0", []]


def test_reads() -> None:
    h = Harness()
    h("HSET", "h", "a", "xyz", "b", "")
    assert h("HGET", "h", "a") == b"xyz"
    assert h("HGET", "h", "c") is None
    assert h("HKEYS", "h") == [b"a", b"b"]
    assert h("HVALS", "h") == [b"xyz", b""]
    assert [h("HEXISTS", "h", "b"), h("HEXISTS", "h", "c")] == [1, 0]
    assert [h("HSTRLEN", "h", name) for name in "abc"] == [3, 0, 0]


def test_resp3_shapes() -> None:
    h = Harness()
    h.proto = 3
    assert h.raw("HGETALL", "h") == b"%0\r\n"
    assert h.raw("HGET", "h", "a") == b"_\r\n"
    h("HSET", "h", "a", "1")
    assert h.raw("HGETALL", "h") == b"%1\r\n$1\r\na\r\n$1\r\n1\r\n"
    assert h.raw("HMGET", "h", "x", "a") == b"*2\r\n_\r\n$1\r\n1\r\n"
    assert h.raw("HRANDFIELD", "h", "1", "WITHVALUES") == b"*1\r\n*2\r\n$1\r\na\r\n$1\r\n1\r\n"
    h.proto = 2
    assert h.raw("HRANDFIELD", "h", "1", "WITHVALUES") == b"*2\r\n$1\r\na\r\n$1\r\n1\r\n"


def test_hdel_takes_the_key_with_the_last_field() -> None:
    h = Harness()
    h("HSET", "h", "a", "1", "b", "2", "c", "3")
    assert h("HDEL", "h", "a", "a", "x") == 1
    assert h("HDEL", "h", "b", "c") == 2
    assert h("EXISTS", "h") == 0


@pytest.mark.parametrize(
    "words",
    [
        ("HSET", "s", "a", "1"),
        ("HSET", "s", "a", "1", "b", "2"),
        ("HMSET", "s", "a", "1"),
        ("HSETNX", "s", "a", "1"),
        ("HGET", "s", "a"),
        ("HMGET", "s", "a"),
        ("HGETALL", "s"),
        ("HKEYS", "s"),
        ("HVALS", "s"),
        ("HLEN", "s"),
        ("HEXISTS", "s", "a"),
        ("HSTRLEN", "s", "a"),
        ("HDEL", "s", "a"),
        ("HINCRBY", "s", "a", "1"),
        ("HINCRBYFLOAT", "s", "a", "1"),
        ("HRANDFIELD", "s"),
        ("HRANDFIELD", "s", "1"),
        ("HSCAN", "s", "0"),
    ],
)
def test_wrong_type(words: tuple[str, ...]) -> None:
    h = Harness()
    h("SET", "s", "v")
    assert h.raw(*words) == errors.WRONG_TYPE
    assert h("GET", "s") == b"v"


def test_hincrby() -> None:
    h = Harness()
    assert h("HINCRBY", "h", "n", "5") == 5
    assert h("HINCRBY", "h", "n", "-7") == -2
    assert h("HGET", "h", "n") == b"-2"
    h("HSET", "h", "max", _INT64_MAX, "min", -_INT64_MAX - 1, "text", "abc", "padded", " 1", "leading", "01")
    assert h.raw("HINCRBY", "h", "max", "1") == errors.OVERFLOW
    assert h.raw("HINCRBY", "h", "min", "-1") == errors.OVERFLOW
    assert h("HGET", "h", "max") == b"%d" % _INT64_MAX
    for name in ("text", "padded", "leading"):
        assert h.raw("HINCRBY", "h", name, "1") == errors.HASH_NOT_INTEGER
    for amount in ("x", "1.5", "", "9223372036854775808"):
        assert h.raw("HINCRBY", "h", "n", amount) == errors.NOT_INTEGER


def test_hincrbyfloat() -> None:
    h = Harness()
    assert h("HINCRBYFLOAT", "h", "f", "10.5") == b"10.5"
    assert h("HINCRBYFLOAT", "h", "f", "0.1") == b"10.6"
    assert h("HINCRBYFLOAT", "h", "f", "-5") == b"5.6"
    assert h("HINCRBYFLOAT", "h", "f", "5.0e3") == b"5005.60000000000000009"
    h("HSET", "h", "text", "abc", "huge", "1e4932", "inf", "inf")
    assert h.raw("HINCRBYFLOAT", "h", "text", "1") == errors.HASH_NOT_FLOAT
    assert h.raw("HINCRBYFLOAT", "h", "f", "x") == errors.NOT_FLOAT
    assert h.raw("HINCRBYFLOAT", "h", "f", "inf") == hash_commands.BAD_INCREMENT
    assert h.raw("HINCRBYFLOAT", "h", "inf", "1") == errors.NAN_OR_INFINITY
    assert h.raw("HINCRBYFLOAT", "h", "huge", "1e4932") == errors.NAN_OR_INFINITY
    assert h("HGET", "h", "f") == b"5005.60000000000000009"


def test_hrandfield_draws_different_fields() -> None:
    h = Harness()
    fields = filled(h, "h", 50)
    assert h("HRANDFIELD", "h") in fields
    drawn = h("HRANDFIELD", "h", "20")
    assert len(set(drawn)) == 20 and set(drawn) <= set(fields)
    assert set(h("HRANDFIELD", "h", "100")) == set(fields)
    assert paired(h("HRANDFIELD", "h", "50", "withvalues")) == fields
    assert h("HRANDFIELD", "h", "0") == []
    # Not always the same ones.
    assert len({tuple(sorted(h("HRANDFIELD", "h", "3"))) for _ in range(20)}) > 1


def test_hrandfield_repeats_with_a_negative_count() -> None:
    h = Harness()
    filled(h, "h", 3)
    drawn = h("HRANDFIELD", "h", "-100")
    assert len(drawn) == 100 and len(set(drawn)) == 3
    assert len(h("HRANDFIELD", "h", "-100", "WITHVALUES")) == 200


def test_hrandfield_draws_as_often_as_it_is_asked_to(monkeypatch: pytest.MonkeyPatch) -> None:
    h = Harness()
    h("HSET", "h", "a", "1", "bb", "2")
    assert len(h("HRANDFIELD", "h", -100_001)) == 100_001
    assert len(h("HRANDFIELD", "h", -30_001, "WITHVALUES")) == 60_002
    h.proto = 3
    assert {tuple(pair) for pair in h("HRANDFIELD", "h", -3_001, "WITHVALUES")} == {(b"a", b"1"), (b"bb", b"2")}
    # The bound is one of bytes: 15 for both fields, 66 with their values in the forms of both protocols.
    monkeypatch.setattr(hash_scan, "DRAWN_BYTES_MAX", 15_000)
    assert len(h("HRANDFIELD", "h", -2_000)) == 2_000
    assert h.raw("HRANDFIELD", "h", -2_001) == hash_scan.TOO_MANY_DRAWS
    assert len(h("HRANDFIELD", "h", -454, "WITHVALUES")) == 454
    assert h.raw("HRANDFIELD", "h", -455, "WITHVALUES") == hash_scan.TOO_MANY_DRAWS


def test_hrandfield_goes_over_a_large_hash_in_portions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hash_scan, "VISITS_MAX", 100)
    monkeypatch.setattr(hash_scan, "_STEP", 40)
    h = Harness()
    fields = filled(h, "h", 120)
    assert set(h("HRANDFIELD", "h", "200")) == set(fields)
    assert len(set(h("HRANDFIELD", "h", "90"))) == 90
    assert h("HRANDFIELD", "h") in fields
    assert set(h("HRANDFIELD", "h", "-4000")) == set(fields)
    view = h.view()
    walk = hash_scan.hrandfield([b"HRANDFIELD", b"h", b"-100"], view)
    steps = 0
    with pytest.raises(StopIteration):
        while next(walk) is None:
            steps += 1
    assert steps == 3 + 2


def test_hrandfield_mistakes() -> None:
    h = Harness()
    h("HSET", "h", "a", "1")
    assert h.raw("HRANDFIELD", "h", "x") == errors.NOT_INTEGER
    assert h.raw("HRANDFIELD", "h", -_INT64_MAX - 1) == hash_scan.BAD_COUNT
    assert h.raw("HRANDFIELD", "h", _INT64_MAX, "WITHVALUES") == errors.OUT_OF_RANGE
    for count in (_INT64_MAX // 2 + 1, -(_INT64_MAX // 2) - 1, -_INT64_MAX):
        assert h.raw("HRANDFIELD", "absent", count, "WITHVALUES") == errors.OUT_OF_RANGE
    assert h.raw("HRANDFIELD", "absent", -_INT64_MAX - 1, "FOO") == hash_scan.BAD_COUNT
    assert h.raw("HRANDFIELD", "absent", _INT64_MAX, "FOO") == errors.SYNTAX
    # Draws are counted only where there is something to draw from.
    assert h.raw("HRANDFIELD", "h", -_INT64_MAX) == hash_scan.TOO_MANY_DRAWS
    assert h.raw("HRANDFIELD", "h", -(_INT64_MAX // 2), "WITHVALUES") == hash_scan.TOO_MANY_DRAWS
    assert h("HRANDFIELD", "absent", -_INT64_MAX) == []
    assert h("HRANDFIELD", "absent", -(_INT64_MAX // 2), "WITHVALUES") == []
    assert h("HRANDFIELD", "absent", _INT64_MAX // 2, "WITHVALUES") == []
    h("SET", "s", "v")
    assert h.raw("HRANDFIELD", "s", -_INT64_MAX) == errors.WRONG_TYPE
    assert h.raw("HRANDFIELD", "h", "1", "FOO") == errors.SYNTAX
    assert h.raw("HRANDFIELD", "h", "1", "WITHVALUES", "WITHVALUES") == errors.SYNTAX
    assert h("HRANDFIELD", "h", _INT64_MAX) == [b"a"]


# -- HSCAN -------------------------------------------------------------------------------------------


def walk(h: Harness, key: str, *options: Any, forget: bool = False) -> tuple[list[bytes], int]:
    """All that HSCAN gives, and the number of calls; ``forget`` drops what is remembered of cursors."""
    found: list[bytes] = []
    cursor, calls = b"0", 0
    while calls == 0 or cursor != b"0":
        if forget:
            h.keyspace.cursors = type(h.keyspace.cursors)()
        cursor, items = h("HSCAN", key, cursor, *options)
        found += items
        calls += 1
    return found, calls


def test_hscan_gives_a_small_hash_whole() -> None:
    h = Harness()
    fields = filled(h, "h", hash_scan.WHOLE_FIELDS)
    cursor, items = h("HSCAN", "h", "0", "COUNT", "1")
    assert cursor == b"0" and paired(items) == fields
    # Whatever cursor a client brings, from before the hash shrank perhaps.
    assert h("HSCAN", "h", "12345") == [b"0", items]


@pytest.mark.parametrize("forget", [False, True])
@pytest.mark.parametrize("cached", [False, True])
def test_hscan_walks_a_large_hash(forget: bool, cached: bool) -> None:
    # With a small row cache the fields come from the store each time.
    h = Harness(row_cache_bytes=1 << 20 if cached else 4096)
    fields = filled(h, "h", hash_scan.WHOLE_FIELDS + 1)
    found, calls = walk(h, "h", "COUNT", "100", forget=forget)
    assert calls == 6
    assert paired(found) == fields


def test_hscan_cursor_carries_the_hash_of_the_last_field() -> None:
    h = Harness()
    filled(h, "h", 1000)
    cursor, items = h("HSCAN", "h", "0")
    assert len(items) == 20
    assert int(cursor) == 1 << 48 | key_hash(items[-2])


def test_hscan_of_an_unknown_cursor_starts_over() -> None:
    h = Harness()
    filled(h, "h", 1500)
    first = h("HSCAN", "h", "0", "COUNT", "5")
    assert h("HSCAN", "h", (1 << 48) + 1, "COUNT", "5") == first
    # A SCAN cursor of a slot beyond the first does not belong to any hash.
    assert h("HSCAN", "h", (7 << 48) + 1, "COUNT", "5") == first


def test_hscan_goes_on_when_the_cursors_field_was_deleted() -> None:
    h = Harness()
    fields = filled(h, "h", 1000)
    cursor, items = h("HSCAN", "h", "0", "COUNT", "10")
    h("HDEL", "h", items[-2])
    _, more = h("HSCAN", "h", cursor, "COUNT", "10")
    assert more[::2] == sorted(fields)[10:20]


def test_hscan_misses_nothing_that_stays() -> None:
    rng = random.Random(3)
    h = Harness()
    stay = filled(h, "h", 700)
    found: dict[bytes, bytes] = {}
    cursor = b"0"
    for _ in range(1000):
        cursor, items = h("HSCAN", "h", cursor, "COUNT", "20")
        found.update(paired(items))
        if cursor == b"0":
            break
        h("HSET", "h", f"new:{rng.randrange(1000)}", "v")
        h("HDEL", "h", f"new:{rng.randrange(1000)}")
    assert cursor == b"0"
    assert stay.items() <= found.items()


def test_hscan_options() -> None:
    h = Harness()
    fields = filled(h, "h", 600)
    found, _ = walk(h, "h", "MATCH", "field:1?", "COUNT", "50")
    assert paired(found) == {
        name: value for name, value in fields.items() if name.startswith(b"field:1") and len(name) == 8
    }
    names, _ = walk(h, "h", "NOVALUES")
    assert sorted(names) == sorted(fields)
    assert len(h("HSCAN", "h", "0", "COUNT", "5", "novalues", "match", "*")[1]) == 5
    assert len(h("HSCAN", "h", "0", "COUNT", "99999")[1]) == 1200


def test_hscan_mistakes() -> None:
    h = Harness()
    h("HSET", "h", "a", "1")
    for cursor in ("x", "-1", "", "18446744073709551616"):
        assert h.raw("HSCAN", "h", cursor) == errors.INVALID_CURSOR
    for options in (
        ("FOO",),
        ("MATCH",),
        ("COUNT",),
        ("COUNT", "0"),
        ("COUNT", "5", "FOO"),
        ("TYPE", "hash"),
    ):
        assert h.raw("HSCAN", "h", "0", *options) == errors.SYNTAX
    assert h.raw("HSCAN", "h", "0", "COUNT", "x") == errors.NOT_INTEGER


def test_hscan_leaves_out_expired_fields() -> None:
    h = Harness()
    filled(h, "h", 3)
    h("HPEXPIRE", "h", "10", "FIELDS", "1", "field:1")
    h.advance_ms(10)
    assert h("HSCAN", "h", "0", "NOVALUES") == [b"0", [b"field:0", b"field:2"]]


def test_hscan_asks_for_blocks_that_are_not_in_memory() -> None:
    rig = Rig(row_cache_bytes=4096, block_cache_bytes=4096)
    names = [b"field:%03d" % number for number in range(700)]
    rig.apply(*(put_element(0, b"h", HASH, name, b"v", 0) for name in names))
    rig.flush()
    rig.cold()
    # A cursor that nobody remembers: the fields up to it are searched.
    cursor = 1 << 48 | key_hash(names[300])
    walk = hash_scan.hscan([b"HSCAN", b"h", b"%d" % cursor, b"COUNT", b"3", b"NOVALUES"], rig.view())
    misses = 0
    while True:
        try:
            request = next(walk)
        except StopIteration as end:
            reply, effects = end.value
            break
        if request is not None:
            misses += 1
            request.install(request.read())
            rig.cold()
    assert misses > 1
    assert effects == ()
    next_cursor = 1 << 48 | key_hash(names[303])
    assert encode(reply, 2) == encode(array([bulk(b"%d" % next_cursor), bulk_array(names[301:304])]), 2)
