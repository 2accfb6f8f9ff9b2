"""What a replica does with records, whatever they come for."""

from __future__ import annotations

from itertools import pairwise, permutations

import pytest

from respkv.base.ids import HASH, STRING
from respkv.causality.hlc import ZERO_STAMP, pack_stamp
from respkv.causality.record import encode, tombstone
from respkv.keyspace import keys
from respkv.keyspace.rows import HashRow
from respkv.resp.reply import bulk
from respkv.storage.write_batch import encode_entry
from respkv.wire.messages import ABSENT, FOREGROUND, HINT, OK, REPAIR, Reads
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
    sides = [Group().sides[1] for _ in range(2)]
    hlc = sides[0].rig.keyspace.clock.last + 1000
    for side, each in zip(sides, (FOREGROUND, kind)):
        for payload in (entries(hlc, "a", "b"), entries(hlc + 9, "b", "c") + also, entries(hlc - 9, "a", "c", "d")):
            assert side.replica.apply(each, payload, 2) == ()
        side.end_cycle()
    one, other = sides
    assert dict(one.rig.engine.memtable.table) == dict(other.rig.engine.memtable.table)
    assert one.replica.applied == other.replica.applied and one.replica.beaten == other.replica.beaten > 0
    assert one.replica.repaired == 0 and other.replica.repaired == other.replica.applied


@pytest.mark.parametrize("kind", [FOREGROUND, HINT, REPAIR])
def test_what_is_older_than_what_is_held_is_beaten(kind: int) -> None:
    side = Group().sides[1]
    hlc = side.rig.keyspace.clock.last + 1000
    grave = encode_entry(keys.record_key(0, b"a"), tombstone(pack_stamp(hlc + 5, 2)))
    assert side.replica.apply(kind, grave, 2) == side.replica.apply(kind, entries(hlc, "a"), 2) == ()
    record = side.rig.engine.get(keys.record_key(0, b"a"))
    assert record is not None and not record[0] & 15 and side.replica.beaten == 1


def test_what_others_read_is_cached_as_what_is_read_here() -> None:
    """And only that: what follows in the same message, or is written later, is seen all the same."""
    side = Group().sides[1]
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


@pytest.mark.parametrize("kind", [FOREGROUND, HINT, REPAIR])
@pytest.mark.parametrize("cut", [(), (1,), (2,), (3,), (1, 2, 3)])
@pytest.mark.parametrize("order", list(permutations(range(4))))
def test_a_deletion_takes_along_what_is_older_in_any_order(
    order: tuple[int, ...], cut: tuple[int, ...], kind: int
) -> None:
    """A newer element shows, an older one does not, and the record that owns them is the same everywhere."""
    side = Group().sides[1]
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


@pytest.mark.parametrize("removed", [False, True])
def test_what_was_removed_again_keeps_no_deleted_hash(removed: bool) -> None:
    """Elements in tables are looked at as those in memory are, and only what lives shows that its hash does."""
    side = Group().sides[1]
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


def test_a_deletion_of_what_nobody_wrote_meanwhile_reads_no_elements() -> None:
    side = Group().sides[1]
    owner, g, grave, _ = history(side)
    for payload in (owner, g):
        assert side.replica.apply(FOREGROUND, payload, 2) == ()
    side.end_cycle()
    side.rig.flush()
    scans = side.replica.looked_for_elements
    assert side.replica.apply(FOREGROUND, grave, 2) == ()
    assert side.replica.looked_for_elements == scans and side.rig.keyspace.row(0, b"h") is None
