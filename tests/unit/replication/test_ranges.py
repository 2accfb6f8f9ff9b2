"""Ranges of elements, compared with another replica page by page, whatever becomes of a page meanwhile."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from respkv.base.errors import ProtocolError
from respkv.causality.record import encode, tombstone
from respkv.keyspace import keys
from respkv.replication import read_op, replica
from respkv.replication.levels import QUORUM
from respkv.storage.write_batch import encode_entry
from respkv.wire.messages import EQUAL, FOREGROUND, OK, RangeRead, RangeResult
from tests.unit.replication.quorum_rig import Asker, Group, Side

PREFIX = keys.element_prefix(keys.record_key(0, b"h"))
END = keys.after(PREFIX + b"zz")
PAGE = 4


@pytest.fixture
def group(monkeypatch: pytest.MonkeyPatch) -> Group:
    monkeypatch.setattr(read_op, "RANGE_ENTRIES", PAGE)
    return Group()


def peer_of(group: Group) -> Side:
    """Whom side 1 asks."""
    return group.sides[group.sides[1].coordinator.others(keys.key_slot(PREFIX))[0]]


def put(sides: Sequence[Side], *fields: bytes, value: bytes | None = b"v") -> None:
    """One write of each field (None removes it) that reached these nodes alone."""
    for field in fields:
        stamp = sides[0].rig.keyspace.stamp()
        record = tombstone(stamp) if value is None else encode(1, stamp, value)
        for side in sides:
            side.replica.apply(FOREGROUND, encode_entry(PREFIX + field, record), sides[0].short)
            side.rig.commit()


def held(side: Side) -> list[bytes]:
    """The fields a node has, graves included."""
    scan = side.rig.driver.scan(PREFIX, END)
    return [internal[len(PREFIX) :] for internal, _ in scan]


def compact(side: Side) -> None:
    """Graves go that every replica has."""
    for number in range(8):
        put([side], b"zz%d" % number)  # behind the range
        side.rig.flush()


def ask(group: Group) -> Asker:
    asker = Asker()
    group.sides[1].coordinator.ask_range(asker, PREFIX, END, QUORUM, group.now_us)
    return asker


def answer(group: Group) -> tuple[int, RangeResult]:
    """The peer's answer to what it was asked last."""
    ((_, peer, question),) = group.wire
    assert isinstance(question, RangeRead)
    group.wire.clear()
    return peer, group.sides[peer].replica.read_range(question)


@pytest.mark.parametrize("rest", [(b"b1", b"b3"), ()])
def test_a_page_that_shrinks_before_it_is_found_equal_hides_nothing_behind_it(
    group: Group, rest: tuple[bytes, ...]
) -> None:
    one, peer = group.sides[1], peer_of(group)
    graves = [b"a%d" % number for number in range(PAGE)]
    put([one, peer], *graves, value=None)
    put([one, peer], *rest)
    put([peer], b"b2")
    asker = ask(group)
    short, result = answer(group)
    assert result.status == EQUAL and result.more
    compact(one)
    assert not set(graves) & set(held(one)), "the page has become another one"
    one.receive(short, result)
    group.deliver()
    assert asker.resumed and not asker.failures and asker.waiting == 0
    assert asker.changed and b"b2" in held(one)


def test_what_is_held_here_behind_a_page_that_is_all_of_the_peers_is_given_to_it(group: Group) -> None:
    one, peer = group.sides[1], peer_of(group)
    put([one, peer], *(b"a%d" % number for number in range(PAGE)))
    put([one], b"z")
    asker = ask(group)
    group.deliver()
    assert asker.resumed == 1 and not asker.failures and asker.waiting == 0
    assert b"z" in held(peer)


@pytest.mark.parametrize("long", [False, True])
def test_more_than_a_page_held_here_alone_is_given_page_by_page(
    group: Group, monkeypatch: pytest.MonkeyPatch, long: bool
) -> None:
    if long:  # Few entries fill a page.
        monkeypatch.setattr(read_op, "RANGE_ENTRIES", 4096)
        monkeypatch.setattr(replica, "_RANGE_BYTES", PAGE * 30)
    one, peer = group.sides[1], peer_of(group)
    fields = [b"a%02d" % number for number in range(5 * PAGE + 1)]
    put([one], *fields)
    put([one, peer], b"a05x")
    put([peer], b"a01x", b"b")
    asker = ask(group)
    group.deliver()
    assert asker.resumed == 1 and not asker.failures and asker.waiting == 0
    assert held(one) == held(peer) == sorted([*fields, b"a01x", b"a05x", b"b"])


@pytest.mark.parametrize("entries", [True, False])
def test_equal_pages_are_compared_to_the_end(group: Group, entries: bool) -> None:
    one, peer = group.sides[1], peer_of(group)
    if entries:
        put([one, peer], *(b"a%d" % number for number in range(2 * PAGE)))
    asker = ask(group)
    group.deliver()
    assert asker.resumed == 1 and not asker.changed and not asker.failures


STAMP = bytes(5) + b"\1" + bytes(4)
ENTRY = encode_entry(PREFIX + b"f", encode(1, STAMP, b"v"))


@pytest.mark.parametrize(
    "result",
    [
        RangeResult(0, OK, False, ENTRY[:-1]),
        RangeResult(0, OK, False, encode_entry(PREFIX + b"f", b"")),
        RangeResult(0, OK, False, encode_entry(PREFIX[:-1], encode(1, STAMP, b"v"))),
        RangeResult(0, OK, False, encode_entry(END, encode(1, STAMP, b"v"))),
        RangeResult(0, OK, True),
        RangeResult(0, EQUAL, True),
    ],
)
def test_an_answer_that_is_none_changes_nothing(group: Group, result: RangeResult) -> None:
    one, peer = group.sides[1], peer_of(group)
    asker = ask(group)
    ((_, _, question),) = group.wire
    group.wire.clear()
    with pytest.raises(ProtocolError):
        one.receive(peer.short, result._replace(seq=question.seq))
    assert asker.waiting == 1 and not held(one) and not group.wire
    group.part(1, peer.short)
    group.deliver()
    assert asker.resumed == 1 and not asker.failures, "another replica is asked"
