"""What a replica does with records, whatever they come for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise, permutations
from typing import Any, cast

import pytest

from respkv.base.errors import CorruptionError, ProtocolError, ReadMiss, StorageFull
from respkv.base.ids import HASH, STRING
from respkv.base.limits import KEY_BYTES_MAX
from respkv.base.prefixes import PrefixTable
from respkv.causality import siblings
from respkv.causality.dvv import Container, Sibling, make_actor
from respkv.causality.hlc import ZERO_STAMP, pack_stamp
from respkv.causality.record import encode, expired_form, tombstone
from respkv.causality.resolve import Mode, Policy
from respkv.keyspace import effects as fx
from respkv.keyspace import keys
from respkv.keyspace.apply import EVERYTHING
from respkv.keyspace.conflicts import Conflicts
from respkv.keyspace.keyspace import DOUBTED_COUNT, UNKNOWN_COUNT
from respkv.keyspace.rows import HashRow
from respkv.keyspace.survivors import Survivors
from respkv.replication.payload import entries_of
from respkv.resp.reply import bulk
from respkv.storage.engine import Engine
from respkv.storage.write_batch import encode_entry
from respkv.wire.messages import ABSENT, FOREGROUND, HINT, OK, REPAIR, FlushTo, Reads
from tests.unit.replication.quorum_rig import Group, Side

A_HASH = encode_entry(keys.record_key(0, b"h"), encode(HASH, pack_stamp(5, 2), ZERO_STAMP))


def entries(hlc: int, *words: str) -> bytes:
    """A payload that sets each word to itself."""
    return b"".join(
        encode_entry(keys.record_key(0, word.encode()), encode(STRING, pack_stamp(hlc + at, 2), bulk(word.encode())))
        for at, word in enumerate(words)
    )


@pytest.mark.parametrize("kind", [HINT, REPAIR])
@pytest.mark.parametrize("also", [b"", A_HASH])
def test_new_strings_are_taken_alike_whatever_they_come_for(kind: int, also: bytes) -> None:
    """By the short way when there is nothing else, by the long one beside a hash: the same is held and counted."""
    sides = [Group(alone=1).sides[1] for _ in range(2)]
    hlc = sides[0].rig.keyspace.clock.last + 1000
    for side, each in zip(sides, (FOREGROUND, kind)):
        for payload in (entries(hlc, "a", "b"), entries(hlc + 9, "b", "c") + also, entries(hlc - 9, "a", "c", "d")):
            assert side.replica.apply(each, payload, 2) == ()
        side.end_cycle()
    one, other = sides
    assert dict(one.rig.engine.memtable.table) == dict(other.rig.engine.memtable.table)
    assert one.replica.applied == other.replica.applied and one.replica.beaten == other.replica.beaten > 0
    assert one.replica.repaired == 0 and other.replica.repaired == other.replica.applied


def test_a_flush_of_the_future_raises_no_floor() -> None:
    side = Group(alone=1).sides[1]
    keyspace = side.rig.keyspace
    near, far = (pack_stamp((keyspace.now_ms + ahead) << 16, 2) for ahead in (9_000, 11_000))
    with pytest.raises(ProtocolError):
        side.replica.flush(FlushTo(1, ((0, 9, 0, near), (0, 9, 1, far))))
    assert keyspace.floors.highest == ZERO_STAMP
    side.replica.flush(FlushTo(2, ((0, 9, 0, near),)))
    assert keyspace.floors.get(9, 0) == near < keyspace.stamp()


@pytest.mark.parametrize("kind", [FOREGROUND, HINT, REPAIR])
def test_what_is_older_than_what_is_held_is_beaten(kind: int) -> None:
    side = Group(alone=1).sides[1]
    hlc = side.rig.keyspace.clock.last + 1000
    grave = encode_entry(keys.record_key(0, b"a"), tombstone(pack_stamp(hlc + 5, 2)))
    assert side.replica.apply(kind, grave, 2) == side.replica.apply(kind, entries(hlc, "a"), 2) == ()
    record = side.rig.engine.get(keys.record_key(0, b"a"))
    assert record is not None and not record[0] & 15 and side.replica.beaten == 1


@pytest.mark.parametrize("also", [b"", A_HASH])
def test_a_full_disk_takes_no_more_of_what_readers_find_elsewhere_than_the_log_has_room_for(also: bytes) -> None:
    """Each is short, but it is the log's last room that they take."""
    side = Group().sides[1]
    engine, hlc = side.rig.engine, side.rig.keyspace.clock.last + 1000
    side.rig.fs.capacity = side.rig.fs.used()
    engine._refusal = "disk full"
    word, taken = "w" * (engine._log.room // 64), 0
    with pytest.raises(StorageFull):
        while True:
            assert side.replica.apply(REPAIR, entries(hlc + taken, word) + also, 2) == ()
            taken += 1
            engine.commit()
    assert taken > 10 and not engine.batch and engine._log.offset < engine._log.room


def test_siblings_that_would_be_too_large_together_with_what_is_held_are_refused() -> None:
    side = Group().sides[1]
    keyspace = side.rig.keyspace
    engine, hlc = keyspace.engine, keyspace.clock.last + 1000
    # No siblings are written or resolved here.
    policies, nobody = PrefixTable([(b"", Policy(Mode.SIBLINGS))]), cast(Any, None)
    keyspace.conflicts = Conflicts(policies, nobody, nobody, log=lambda level, text: None)
    key = keys.record_key(0, b"a")

    def sibling(at: int, size: int) -> bytes:
        actor = make_actor(2, at)
        record = siblings.encode(Container({actor: hlc + at}, (Sibling(hlc + at, actor, 0, b"v" * size),)))
        return encode_entry(key, record)

    assert side.replica.apply(FOREGROUND, sibling(1, 6 << 20), 2) == ()
    engine.commit()
    held = engine.get(key)
    side.rig.fs.capacity = side.rig.fs.used() + 100_000
    with pytest.raises(StorageFull):
        side.replica.apply(FOREGROUND, sibling(2, 1000), 3)
    assert engine.get(key) == held and not engine.batch
    side.rig.fs.capacity = None
    assert side.replica.apply(FOREGROUND, sibling(2, 1000), 3) == ()
    assert len(engine.get(key) or b"") > 6 << 20 and engine.commit()


def test_what_others_read_is_cached_as_what_is_read_here() -> None:
    """And only that: what follows in the same message, or is written later, is seen all the same."""
    side = Group(alone=1).sides[1]
    hlc = side.rig.keyspace.clock.last + 1000
    grave = encode_entry(keys.record_key(0, b"gone"), tombstone(pack_stamp(hlc + 5, 2)))
    assert side.replica.apply(FOREGROUND, entries(hlc, "a", "b") + grave + A_HASH, 2) == ()
    names = [b"a", b"gone", b"h", b"b", b"absent", b"a"]
    internals = [keys.record_key(0, name) for name in names]
    stamps = [pack_stamp(hlc, 2), ZERO_STAMP, ZERO_STAMP, ZERO_STAMP, pack_stamp(9, 1), pack_stamp(hlc, 2)]
    cache = side.rig.keyspace.cache
    for _ in range(2):
        differing = side.replica.read(Reads(1, internals, stamps)).differing
        assert [row[:2] for row in differing] == [(1, OK), (2, OK), (3, OK), (4, ABSENT)]
        assert [cache.peek(0, name) is not None for name in names] == [True, False, False, True, False, True]
    assert side.replica.apply(FOREGROUND, entries(hlc + 50, "a"), 2) == ()
    (first, *_, last) = side.replica.read(Reads(2, internals, stamps)).differing
    assert first[2] == last[2] == side.rig.engine.get(internals[0]) and last[2][1:11] == pack_stamp(hlc + 50, 2)
    cache.check_invariants()


F = keys.element_prefix(keys.record_key(0, b"h")) + b"f"
G = keys.element_prefix(keys.record_key(0, b"h")) + b"g"


def history(side: Side) -> list[bytes]:
    """A hash that is deleted by one, while another, who has not heard of that, goes on with it: its entries."""
    side.rig.advance_ms(30_000)  # What lies before the start may be anything.
    hlc = side.rig.keyspace.clock.last + 1000
    owner = keys.record_key(0, b"h")
    return [
        encode_entry(owner, encode(HASH, pack_stamp(hlc, 2), ZERO_STAMP)),
        encode_entry(G, encode(STRING, pack_stamp(hlc + 1, 2), b"old")),
        encode_entry(owner, tombstone(pack_stamp(hlc + 5, 3))),
        encode_entry(F, encode(STRING, pack_stamp(hlc + 9, 2), b"new")),
    ]


def test_a_count_that_nobody_knows_is_not_taken_for_a_number() -> None:
    """A hash that has become empty and was read begins again: who began it says that it has not been counted."""
    side = Group(alone=1).sides[1]
    hlc, owner = side.rig.keyspace.clock.last + 1000, keys.record_key(0, b"h")
    floor = pack_stamp(hlc - 1, 0)

    def count(at: int, number: bytes, before: bytes) -> bytes:
        return encode_entry(keys.count_key(owner), encode(STRING, pack_stamp(hlc + at, 2), number + before))

    begun = encode_entry(owner, encode(HASH, pack_stamp(hlc, 2), floor))
    field = encode_entry(F, encode(STRING, pack_stamp(hlc + 1, 2), b"x"))
    assert side.replica.apply(FOREGROUND, begun + field + count(2, (1).to_bytes(8, "big"), floor), 2) == ()
    gone = encode_entry(F, tombstone(pack_stamp(hlc + 3, 2))) + count(4, bytes(8), pack_stamp(hlc + 2, 2))
    assert side.replica.apply(FOREGROUND, gone, 2) == ()
    side.end_cycle()
    assert side.rig.keyspace.row(0, b"h") is None
    row = side.rig.keyspace.cache.peek(0, b"h")
    assert isinstance(row, HashRow) and row.count == 0
    again = encode_entry(G, encode(STRING, pack_stamp(hlc + 5, 2), b"y"))
    assert side.replica.apply(FOREGROUND, again + count(6, UNKNOWN_COUNT, pack_stamp(hlc + 4, 2)), 2) == ()
    row = side.rig.keyspace.row(0, b"h")
    assert isinstance(row, HashRow) and row.count == 1
    side.rig.apply(fx.put_element(0, b"h", HASH, b"new", b"z"))
    row = side.rig.keyspace.row(0, b"h")
    assert isinstance(row, HashRow) and row.count == 2


class Fields:
    """A hash at a replica, and what writers send about it; fields by name, stamps by a number and the writer's."""

    def __init__(self) -> None:
        self.side = Group(alone=1).sides[1]
        self.keyspace = self.side.rig.keyspace
        self.hlc, self.owner = self.keyspace.clock.last + 1000, keys.record_key(0, b"h")
        self.floor = pack_stamp(self.hlc - 1, 0)
        self.send(encode_entry(self.owner, encode(HASH, pack_stamp(self.hlc, 2), self.floor)))

    def stamp(self, at: int, writer: int) -> bytes:
        return self.floor if at == 0 else pack_stamp(self.hlc + at, writer)

    def put(self, at: int, field: bytes, writer: int = 2) -> bytes:
        return encode_entry(keys.element_prefix(self.owner) + field, encode(STRING, self.stamp(at, writer), b"v"))

    def remove(self, at: int, field: bytes, writer: int = 2) -> bytes:
        return encode_entry(keys.element_prefix(self.owner) + field, tombstone(self.stamp(at, writer)))

    def count(self, at: int, number: int, before: tuple[int, int], writer: int = 2) -> bytes:
        """``before``: number and writer of the stamp that it follows."""
        body = number.to_bytes(8, "big") + self.stamp(*before)
        return encode_entry(keys.count_key(self.owner), encode(STRING, self.stamp(at, writer), body))

    def send(self, *parts: bytes, kind: int = FOREGROUND) -> None:
        assert self.side.replica.apply(kind, b"".join(parts), 2) == ()
        self.side.end_cycle()

    def cached(self) -> bool:
        return self.keyspace.cache.peek(0, b"h") is not None

    def counted(self) -> int:
        """What HLEN says here."""
        row = self.keyspace.row(0, b"h")
        assert isinstance(row, HashRow)
        return row.count

    def held(self) -> int | None:
        """The number in the count held, None for one that has to be counted."""
        number = (self.keyspace.engine.get(keys.count_key(self.owner)) or b"")[11:19]
        return None if number in (UNKNOWN_COUNT, DOUBTED_COUNT) else int.from_bytes(number, "big")

    def leave(self) -> None:
        """The row goes from the cache."""
        self.keyspace.cache.drop(0, b"h")


def two_fields() -> Fields:
    fields = Fields()
    fields.send(fields.put(1, b"a"), fields.count(2, 1, (0, 0)), fields.put(3, b"b"), fields.count(4, 2, (2, 2)))
    assert fields.held() == 2
    return fields


def test_a_count_that_does_not_follow_is_unknown_until_one_fits_what_is_counted_here() -> None:
    fields = two_fields()
    # What added c was missed here.
    fields.send(fields.put(7, b"d"), fields.count(8, 4, (6, 2)))
    assert fields.held() is None and not fields.cached()
    # This one follows, and is still wrong here.
    fields.send(fields.put(9, b"e"), fields.count(10, 5, (8, 2)))
    assert fields.held() is None and fields.counted() == 4
    # Counted here, and kept by itself: c is still missing.
    fields.send(fields.remove(11, b"e"), fields.count(12, 4, (10, 2)))
    assert fields.held() is None and fields.cached() and fields.counted() == 3
    fields.send(fields.put(5, b"c"), kind=HINT)
    assert not fields.cached() and fields.counted() == 4
    fields.send(fields.put(13, b"f"), fields.count(14, 5, (12, 2)))  # The hint has noted the count as unknown.
    assert fields.held() is None and fields.cached() and fields.counted() == 5
    fields.send(fields.remove(15, b"f"), fields.count(16, 4, (14, 2)))
    assert fields.held() == fields.counted() == 4
    fields.leave()
    fields.send(fields.remove(17, b"d"), fields.count(18, 3, (16, 2)))
    assert fields.held() == fields.counted() == 3


def test_a_count_that_comes_late_tells_of_a_writer_who_did_not_know() -> None:
    fields = two_fields()
    fields.send(fields.put(9, b"c"), fields.count(10, 3, (4, 2)))
    assert fields.held() == fields.counted() == 3
    fields.send(fields.put(7, b"d", 3), fields.count(8, 3, (4, 2), 3))
    assert fields.held() is None and fields.counted() == 4


def test_a_count_sent_twice_changes_nothing() -> None:
    fields = two_fields()
    again = fields.put(9, b"c"), fields.count(10, 3, (4, 2))
    fields.send(*again)
    fields.send(*again)
    assert fields.held() == fields.counted() == 3


@pytest.mark.parametrize("tables", [False, True])
@pytest.mark.parametrize(
    ("field", "writer", "believed"), [(b"a", 2, True), (b"a", 3, True), (b"new", 2, True), (b"new", 3, False)]
)
def test_a_field_without_a_count_is_one_that_its_writer_had(
    field: bytes, writer: int, believed: bool, tables: bool
) -> None:
    """Which says nothing where another writer has counted, unless it is known that it was there."""
    fields = two_fields()
    if tables:
        fields.side.rig.flush()
    fields.send(fields.put(9, field, writer))
    assert (fields.held() == 2) == (believed and not (tables and writer == 3))


@pytest.mark.parametrize("writer", [2, 3])
def test_a_field_that_is_known_to_have_gone_comes_again_without_a_count(writer: int) -> None:
    fields = two_fields()
    fields.send(fields.remove(9, b"a"), fields.count(10, 1, (4, 2)))
    fields.send(fields.put(8, b"a", writer))  # beaten
    assert fields.held() == 1
    fields.send(fields.put(11, b"a", writer))
    assert fields.held() is None and fields.counted() == 2


def test_what_is_counted_here_goes_on_without_counts() -> None:
    """And without a look at all fields for each that comes; what leaves the cache is counted anew."""
    fields = two_fields()
    fields.send(fields.put(5, b"c"), kind=HINT)
    assert fields.counted() == 3
    for at, sent in enumerate((fields.put(9, b"d", 3), fields.remove(10, b"a"), fields.put(11, b"d"))):
        fields.send(sent)
        assert fields.cached() and fields.counted() == (4, 3, 3)[at]
    fields.send(fields.put(12, b"e", 3), fields.count(13, 4, (0, 0), 3))
    assert fields.cached() and fields.counted() == 4 and fields.held() is None
    fields.side.rig.flush()
    fields.send(fields.put(20, b"e"), fields.remove(21, b"d"))  # What was there is in a table.
    assert fields.cached() and fields.counted() == 3
    fields.leave()
    assert fields.counted() == 3


@pytest.mark.parametrize("gone", [True, False])
def test_a_count_known_is_known_no_more_when_what_is_counted_here_goes_on_alone(gone: bool) -> None:
    fields = two_fields()
    fields.send(fields.put(5, b"c"), kind=HINT)
    assert fields.counted() == 3
    fields.send(fields.put(100, b"d"), fields.count(101, 4, (0, 0)))
    fields.send(fields.put(102, b"e"), fields.count(103, 5, (101, 2)))
    assert fields.held() == 5
    fields.send(*([fields.remove(104, b"e")] if gone else [fields.put(104, b"new")]))
    number = 4 if gone else 6
    assert fields.counted() == number and fields.held() is None
    row = fields.keyspace.cache.peek(0, b"h")
    assert isinstance(row, HashRow) and row.count_stamp == ZERO_STAMP
    fields.leave()
    assert fields.counted() == number


def test_a_hash_that_begins_uncounted_is_believed_from_its_next_count_on() -> None:
    """As every hash begins on a ring: nobody has to count it at each replica."""
    fields = Fields()
    fields.send(fields.put(1, b"a"), fields.count(2, int.from_bytes(UNKNOWN_COUNT, "big"), (0, 0)))
    assert fields.held() is None
    fields.send(fields.put(3, b"b"), fields.count(4, 2, (2, 2)))
    assert fields.held() == fields.counted() == 2


def test_the_count_of_a_removal_that_is_beaten_is_not_believed() -> None:
    fields = two_fields()
    fields.send(fields.put(9, b"a", 3))
    fields.send(fields.remove(5, b"a"), fields.count(6, 1, (4, 2)))
    assert fields.held() is None and fields.counted() == 2
    # An element that is here already, just so, is not beaten.
    fields = two_fields()
    fields.send(fields.put(9, b"a"))
    fields.send(fields.put(9, b"a"), fields.put(10, b"c"), fields.count(11, 3, (4, 2)))
    assert fields.held() == fields.counted() == 3


def test_a_count_made_where_it_was_doubted_names_none_that_others_hold() -> None:
    fields = two_fields()
    fields.send(fields.put(7, b"d"), fields.count(8, 4, (6, 2)))
    assert fields.held() is None and fields.counted() == 3
    fields.side.rig.apply(fx.put_element(0, b"h", HASH, b"new", b"v"))
    own = fields.keyspace.engine.get(keys.count_key(fields.owner)) or b""
    assert own[11:19] == (4).to_bytes(8, "big") and own[19:29] == ZERO_STAMP
    fields = two_fields()
    fields.send(fields.put(5, b"c"), kind=REPAIR)
    assert fields.counted() == 3
    fields.send(fields.put(40, b"d"), fields.count(41, 9, (39, 2)))
    fields.side.rig.apply(fx.put_element(0, b"h", HASH, b"new", b"v"))
    own = fields.keyspace.engine.get(keys.count_key(fields.owner)) or b""
    assert own[11:19] == (5).to_bytes(8, "big") and own[19:29] == ZERO_STAMP


def test_a_doubted_hash_is_not_looked_at_for_each_count_that_follows() -> None:
    """To look costs a walk over its graves; it is one for what breaks the chain alone."""
    fields = two_fields()
    missed = fields.put(7, b"d") + fields.count(8, 4, (6, 2))
    following = fields.put(9, b"e") + fields.count(10, 5, (8, 2))
    for payload, looked in ((missed, True), (following, False)):
        assert fields.side.replica.apply(FOREGROUND, payload, 2) == ()
        assert (fields.owner in fields.keyspace.sighted) == looked
        fields.keyspace.sighted.clear()
    assert fields.held() is None


def test_a_hint_that_is_beaten_tells_that_a_field_came_before_its_count() -> None:
    fields = two_fields()
    # Set anew by who had it, which was missed here.
    fields.send(fields.put(9, b"new"))
    assert fields.held() == 2, "not known to be wrong"
    fields.send(fields.put(1, b"new"), fields.count(2, 1, (0, 0)), kind=HINT)
    assert fields.held() is None and fields.counted() == 3


def test_what_a_flush_hides_is_no_reason_to_follow() -> None:
    """Owner above the floor of a flush, all counts below it: the next begins anew."""
    fields = two_fields()
    fields.send(encode_entry(fields.owner, encode(HASH, fields.stamp(20, 2), fields.floor)))
    flush = fields.stamp(10, 3)
    fields.side.rig.applier.raise_floor(0, 0, 16383, flush)
    assert fields.keyspace.row(0, b"h") is None
    fields.leave()
    fields.send(fields.put(21, b"c"), fields.count(22, 3, (4, 2)))
    assert fields.held() is None and fields.counted() == 1


def test_fields_that_a_flush_of_another_node_hides_do_not_count() -> None:
    """The owner and the last count are newer than that, and the flush comes last."""
    fields = two_fields()
    fields.send(encode_entry(fields.owner, encode(HASH, fields.stamp(20, 2), fields.floor)))
    fields.send(fields.put(21, b"c"), fields.count(22, 3, (4, 2)))
    assert fields.held() == fields.counted() == 3
    fields.side.rig.applier.raise_floor(0, 0, 16383, fields.stamp(10, 3))
    assert fields.counted() == 1
    fields.send(fields.put(23, b"d"), fields.count(24, 4, (22, 2)))
    assert fields.counted() == 2


def test_an_unknown_count_that_follows_is_none() -> None:
    fields = two_fields()
    assert fields.counted() == 2
    fields.send(fields.put(5, b"c"), fields.count(6, int.from_bytes(UNKNOWN_COUNT, "big"), (4, 2)))
    assert fields.held() is None and fields.counted() == 3


@pytest.mark.parametrize("kind", [FOREGROUND, HINT, REPAIR])
@pytest.mark.parametrize("cut", [(), (1,), (2,), (3,), (1, 2, 3)])
@pytest.mark.parametrize("order", list(permutations(range(4))))
def test_a_deletion_takes_along_what_is_older_in_any_order(
    order: tuple[int, ...], cut: tuple[int, ...], kind: int
) -> None:
    """A newer element shows, an older one does not, and the record that owns them is the same everywhere."""
    side = Group(alone=1).sides[1]
    found = history(side)
    parts = [found[at] for at in order]
    edges = [0, *cut, len(parts)]
    for first, last in pairwise(edges):
        assert side.replica.apply(kind, b"".join(parts[first:last]), 2) == ()
        side.end_cycle()
    row = side.rig.keyspace.row(0, b"h")
    assert isinstance(row, HashRow) and row.count == 1
    assert side.rig.keyspace.live_fields(0, b"h", row) == [(b"f", b"new")]
    owner = side.rig.engine.get(keys.record_key(0, b"h"))
    assert owner is not None and owner[1:11] == found[3][-13:-3] and owner[11:21] == found[2][-10:]


@pytest.mark.parametrize("way", ["blind", "beside a hash", "blind over a closed memtable", "blind over tables"])
@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_a_string_takes_along_what_is_older_in_any_order(order: tuple[int, ...], way: str) -> None:
    """A hash got a field, was overwritten, and began anew with another field where the string had not been heard of.
    Who watches the key is told of the string, whether it shows or only hides the field."""
    side = Group().sides[1]
    rig = side.rig
    rig.advance_ms(30_000)
    hlc, owner = rig.keyspace.clock.last + 1000, keys.record_key(0, b"h")
    touched: list[bytes | None] = []
    rig.keyspace.watching, rig.keyspace.touched = True, lambda db, key: touched.append(key)
    beside = encode_entry(keys.record_key(0, b"other"), encode(HASH, stamp_of(hlc), ZERO_STAMP))
    parts = [
        encode_entry(owner, encode(HASH, stamp_of(hlc), ZERO_STAMP))
        + encode_entry(G, encode(STRING, stamp_of(hlc + 1), b"old")),
        entries(hlc + 5, "h") + (beside if way == "beside a hash" else b""),
        encode_entry(owner, encode(HASH, stamp_of(hlc + 8, 3), ZERO_STAMP))
        + encode_entry(F, encode(STRING, stamp_of(hlc + 9, 3), b"new")),
    ]
    for at in order:
        touched.clear()
        part = parts[at]
        rig.serve(lambda part=part: side.replica.apply(FOREGROUND, part, 2))
        assert at != 1 or b"h" in touched
        side.end_cycle()
        if way == "blind over a closed memtable":
            rig.engine.rotate()
            rig.keyspace.counts.follow()
        elif way == "blind over tables":
            rig.flush()
    row = rig.serve(lambda: rig.keyspace.row(0, b"h"))
    assert isinstance(row, HashRow) and row.count == 1
    assert rig.serve(lambda: rig.keyspace.live_fields(0, b"h", row)) == [(b"f", b"new")]
    assert rig.engine.get(owner) == encode(HASH, stamp_of(hlc + 8, 3), stamp_of(hlc + 5))
    others = way == "beside a hash"
    assert side.replica.applied + side.replica.beaten == 5 + others and rig.total() == 1 + others


@pytest.mark.parametrize("removed", [False, True])
def test_what_was_removed_again_keeps_no_deleted_hash(removed: bool) -> None:
    """Elements in tables are looked at as those in memory are, and only what lives shows that its hash does."""
    side = Group(alone=1).sides[1]
    owner, g, grave, f = history(side)
    hlc = int.from_bytes(f[-13:-5], "big")
    gone = encode_entry(F, tombstone(pack_stamp(hlc + 1, 2)))
    for payload in (owner, g, f, gone) if removed else (owner, g, f):
        assert side.replica.apply(FOREGROUND, payload, 2) == ()
    side.end_cycle()
    side.rig.flush()
    side.rig.serve(lambda: side.replica.apply(REPAIR, grave, 2))
    side.end_cycle()
    row = side.rig.keyspace.row(0, b"h")
    assert (row is None) is removed


def stamp_of(hlc: int, node: int = 2) -> bytes:
    return pack_stamp(hlc, node)


def test_only_what_survives_the_newest_grave_counts() -> None:
    """An older deletion comes late, over a newer one: an element between them does not hide one above both."""
    side = Group(alone=1).sides[1]
    side.rig.advance_ms(30_000)
    hlc, owner = side.rig.keyspace.clock.last + 1000, keys.record_key(0, b"h")
    for internal, record in (
        (owner, encode(HASH, stamp_of(hlc), ZERO_STAMP)),
        (F, encode(STRING, stamp_of(hlc + 5), b"old")),
        (owner, tombstone(stamp_of(hlc + 10, 3))),
        (owner, encode(HASH, stamp_of(hlc + 11), stamp_of(hlc + 10, 3))),
        (G, encode(STRING, stamp_of(hlc + 30), b"new")),
        (owner, tombstone(stamp_of(hlc + 20, 3))),
    ):
        assert side.replica.apply(HINT, encode_entry(internal, record), 2) == ()
    side.end_cycle()
    row = side.rig.keyspace.row(0, b"h")
    assert isinstance(row, HashRow) and side.rig.keyspace.live_fields(0, b"h", row) == [(b"g", b"new")]


@pytest.mark.parametrize("form", ["live", "expired"])
def test_an_expiry_that_comes_late_spares_what_was_written_after_it(form: str) -> None:
    """Whether it comes as it was written, and ends here, or as what it became elsewhere."""
    side = Group(alone=1).sides[1]
    side.rig.advance_ms(30_000)
    owner, now_ms = keys.record_key(0, b"h"), side.rig.now_ms
    first, timed, last = ((now_ms + ms) << 16 for ms in (10, 22, 5000))
    held = encode_entry(owner, encode(HASH, stamp_of(first), ZERO_STAMP))
    held += encode_entry(G, encode(STRING, stamp_of(first + 1), b"old"))
    side.replica.apply(FOREGROUND, held, 2)
    side.rig.advance_ms(5000)
    side.replica.apply(FOREGROUND, encode_entry(F, encode(STRING, stamp_of(last, 3), b"new")), 3)
    side.rig.advance_ms(1000)
    expiring = encode(HASH, stamp_of(timed), ZERO_STAMP, now_ms + 1000)
    late = encode_entry(owner, expiring if form == "live" else expired_form(expiring))
    side.rig.serve(lambda: side.replica.apply(HINT, late, 2))
    side.end_cycle()
    side.rig.expire()
    row = side.rig.keyspace.row(0, b"h")
    assert isinstance(row, HashRow)
    assert side.rig.keyspace.live_fields(0, b"h", row) == [(b"f", b"new")]


def test_a_floor_that_rises_leaves_no_wrong_count() -> None:
    side = Group(alone=1).sides[1]
    side.rig.advance_ms(30_000)
    rig, owner = side.rig, keys.record_key(0, b"h")
    rig.keyspace.watermark = lambda slot: ZERO_STAMP
    rig.apply((fx.PUT_ELEMENT, 0, b"h", HASH, b"a", b"1", 0))
    grave = tombstone(rig.keyspace.stamp()[:8] + bytes(2))
    rig.apply((fx.PUT_ELEMENT, 0, b"h", HASH, b"b", b"2", 0))
    rig.apply((fx.EXPIRE, 0, b"h", rig.now_ms + 10**8))
    row = rig.keyspace.row(0, b"h")
    assert isinstance(row, HashRow) and row.count == 2
    rig.serve(lambda: side.replica.apply(HINT, encode_entry(owner, grave), 3))
    side.end_cycle()
    row = rig.keyspace.row(0, b"h")
    assert isinstance(row, HashRow) and row.count == 1
    assert rig.keyspace.live_fields(0, b"h", row) == [(b"b", b"2")]


@pytest.mark.parametrize("meanwhile", [False, True])
def test_a_look_for_elements_goes_on_where_it_had_to_wait(meanwhile: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each element is passed once, however many blocks have to be waited for; what comes meanwhile is seen."""
    side = Group(alone=1).sides[1]
    side.rig.advance_ms(30_000)
    hlc, count, prefix = side.rig.keyspace.clock.last + 2000, 4000, G[:-1]
    elements = ((prefix + b"%06d" % at, encode(STRING, stamp_of(hlc + at), bytes(50))) for at in range(count))
    owner = encode_entry(keys.record_key(0, b"h"), encode(HASH, stamp_of(hlc - 1), ZERO_STAMP))
    side.replica.apply(FOREGROUND, owner + b"".join(encode_entry(*each) for each in elements), 2)
    side.end_cycle()
    side.rig.flush()
    # As after a start: nothing is known of what is held.
    side.replica._survivors = side.rig.keyspace.survivors = Survivors(side.rig.keyspace)
    side.rig.cold()
    passed = misses = 0
    scan = Engine.scan

    def counted(engine: Engine, *bounds: bytes) -> Iterator[tuple[bytes, bytes]]:
        nonlocal passed
        for entry in scan(engine, *bounds):
            passed += 1
            yield entry

    monkeypatch.setattr(Engine, "scan", counted)
    grave = encode_entry(keys.record_key(0, b"h"), tombstone(stamp_of(hlc + count)))
    while True:
        try:
            side.replica.apply(REPAIR, grave, 2)
            break
        except ReadMiss as miss:
            miss.request.install(miss.request.read())
            misses += 1
            if meanwhile and misses == 3:
                # No newer than what may be there anyhow, and before what was looked at.
                record = encode(STRING, stamp_of(hlc + count + 1), b"new")
                side.rig.engine.put(prefix + b"0", record)
                side.replica.note_element(FOREGROUND, prefix + b"0", record)
    monkeypatch.undo()
    assert misses >= 3
    row = side.rig.serve(lambda: side.rig.keyspace.row(0, b"h"))
    if meanwhile:
        assert isinstance(row, HashRow)
    else:
        assert row is None and passed == count


def test_a_deletion_is_taken_where_elements_cannot_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are fetched from other replicas, with what these have made of the key."""
    side = Group(alone=1).sides[1]
    owner, g, grave, f = history(side)
    for payload in (owner, g, f):
        assert side.replica.apply(FOREGROUND, payload, 2) == ()

    def damaged(*bounds: object) -> Iterator[tuple[bytes, bytes]]:
        raise CorruptionError("table", 0, "rotten")

    monkeypatch.setattr(Engine, "scan", damaged)
    before = looks(side)
    assert side.replica.apply(HINT, grave, 2) == () and looks(side) == before + 1
    side.end_cycle()
    assert side.rig.keyspace.row(0, b"h") is None


def looks(side: Side) -> int:
    """How often elements were read for the sake of a grave."""
    survivors = side.rig.keyspace.survivors
    assert survivors is not None
    return survivors.looks


def test_a_deletion_of_what_nobody_wrote_meanwhile_reads_no_elements() -> None:
    side = Group(alone=1).sides[1]
    owner, g, grave, _ = history(side)
    for payload in (owner, g):
        assert side.replica.apply(FOREGROUND, payload, 2) == ()
    side.end_cycle()
    side.rig.flush()
    scans = looks(side)
    assert side.replica.apply(FOREGROUND, grave, 2) == ()
    assert looks(side) == scans and side.rig.keyspace.row(0, b"h") is None


@pytest.mark.parametrize("compared", [False, True])
def test_a_count_that_is_too_low_deletes_nothing(compared: bool) -> None:
    side = Group(alone=1).sides[1]
    rig = side.rig
    rig.keyspace.watermark = lambda slot: ZERO_STAMP
    for field in (b"a", b"b"):
        rig.apply((fx.PUT_ELEMENT, 0, b"h", HASH, field, b"1", 0))
    row = rig.keyspace.row(0, b"h")
    assert isinstance(row, HashRow) and row.count == 2
    row.count = 1
    rig.applier.compared = EVERYTHING if compared else ()
    rig.apply((fx.REMOVE_ELEMENT, 0, b"h", b"a"))
    row = rig.keyspace.row(0, b"h")
    assert isinstance(row, HashRow) and row.count == 1
    assert rig.keyspace.live_fields(0, b"h", row) == [(b"b", b"1")]
    rig.apply((fx.REMOVE_ELEMENT, 0, b"h", b"b"))
    assert rig.keyspace.row(0, b"h") is None
    record = rig.engine.get(keys.record_key(0, b"h"))
    assert record is not None and bool(record[0] & 15) is not compared


def test_an_element_that_comes_makes_a_husk_a_collection_again() -> None:
    side = Group(alone=1).sides[1]
    rig, owner = side.rig, keys.record_key(0, b"h")
    rig.keyspace.watermark = lambda slot: ZERO_STAMP
    rig.apply((fx.PUT_ELEMENT, 0, b"h", HASH, b"a", b"1", 0))
    missed = rig.keyspace.stamp()
    rig.apply((fx.REMOVE_ELEMENT, 0, b"h", b"a"))
    assert rig.expiry.sighted() is None
    husks = rig.keyspace.husks
    assert husks is not None and owner in husks and rig.keyspace.row(0, b"h") is None
    element = encode_entry(keys.element_prefix(owner) + b"b", encode(STRING, missed, b"2"))
    assert side.replica.apply(HINT, element, 3) == ()
    assert owner not in husks
    row = rig.keyspace.row(0, b"h")
    assert isinstance(row, HashRow) and rig.keyspace.live_fields(0, b"h", row) == [(b"b", b"2")]


@pytest.mark.parametrize("internal", [keys.record_key, lambda db, key: keys.element_prefix(keys.record_key(db, key))])
def test_a_key_that_is_too_long_is_refused(internal: Callable[[int, bytes], bytes]) -> None:
    """No table could be made of it; the longest one is taken."""
    side = Group().sides[1]
    record = encode(STRING, pack_stamp(side.rig.keyspace.clock.last + 1000, 2), bulk(b"v"))
    with pytest.raises(ProtocolError):
        side.replica.apply(FOREGROUND, encode_entry(internal(0, b"k" * (5 + KEY_BYTES_MAX)), record), 2)
    assert not side.rig.engine.memtable.table and not side.rig.engine.batch
    assert side.replica.apply(FOREGROUND, encode_entry(internal(0, b"k" * KEY_BYTES_MAX), record), 2) == ()
    assert side.rig.engine.batch


@pytest.mark.parametrize("kind", [3, 9, 0x19, 0x2F])
@pytest.mark.parametrize("internal", [keys.record_key(0, b"k"), keys.element_prefix(keys.record_key(0, b"h")) + b"f"])
def test_a_record_of_an_unknown_type_is_refused(kind: int, internal: bytes) -> None:
    """With all that comes with it; nobody could read it."""
    side = Group(alone=1).sides[1]
    hlc = side.rig.keyspace.clock.last + 1000
    garbage = encode_entry(internal, bytes((kind,)) + pack_stamp(hlc, 2) + bytes(8) + b"body")
    with pytest.raises(ProtocolError):
        side.replica.apply(FOREGROUND, entries(hlc, "a") + garbage, 2)
    with pytest.raises(ProtocolError):
        entries_of(garbage)
    assert not side.rig.engine.memtable.table
