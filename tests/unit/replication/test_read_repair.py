"""What a read finds to differ at another replica: both sides hold all of it before the reply leaves."""

from __future__ import annotations

import pytest

from respkv.base.errors import ProtocolError
from respkv.base.ids import HASH, STRING
from respkv.causality import siblings
from respkv.causality.dvv import Container, Sibling, make_actor
from respkv.causality.hlc import pack_stamp
from respkv.causality.record import encode, tombstone
from respkv.keyspace import keys
from respkv.replication.levels import QUORUM
from respkv.storage.write_batch import encode_entry
from respkv.wire.messages import FOREGROUND, OK, ReadResult
from tests.unit.replication.quorum_rig import Asker, Group, Side

KEY = keys.record_key(0, b"h")
STAMPS = [pack_stamp((1_700_000_000_000 << 16) + number, 2) for number in range(10)]


def differing(mine: bytes, theirs: bytes) -> tuple[Group, Side, Side]:
    """A group, side 1 and whom it asks; each holds a record of the key."""
    group = Group()
    one = group.sides[1]
    peer = group.sides[one.coordinator.others(keys.key_slot(KEY))[0]]
    for side, record in ((one, mine), (peer, theirs)):
        side.replica.apply(FOREGROUND, encode_entry(KEY, record), 2)
        side.rig.commit()
    return group, one, peer


def ask(group: Group) -> Asker:
    """Side 1 compares the key with the peer."""
    asker, one = Asker(), group.sides[1]
    record = one.replica.held(KEY)
    assert record is not None
    one.coordinator.ask(asker, KEY, siblings.token(record), QUORUM)
    one.coordinator.seal(group.now_us)
    return asker


@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize(
    ("left", "right", "merged"),
    [
        (encode(HASH, STAMPS[9], STAMPS[1], 1 << 41), encode(HASH, STAMPS[5], STAMPS[4]),
         encode(HASH, STAMPS[9], STAMPS[4], 1 << 41)),
        (tombstone(STAMPS[5]), encode(HASH, STAMPS[9], STAMPS[1]), encode(HASH, STAMPS[9], STAMPS[5])),
    ],
)  # fmt: skip
def test_of_two_collections_that_each_know_something_newer_both_sides_get_the_merged_one(
    left: bytes, right: bytes, merged: bytes, swapped: bool
) -> None:
    group, one, peer = differing(*((right, left) if swapped else (left, right)))
    asker = ask(group)
    for _ in range(2):  # the question, the answer
        source, target, message = group.wire.pop(0)
        group.sides[target].receive(source, message)
    assert one.rig.engine.get(KEY) == merged
    assert not asker.resumed, "the peer has not got it yet"
    group.deliver()
    assert peer.rig.engine.get(KEY) == merged
    assert asker.resumed == 1 and asker.changed and not asker.failures


def a_sibling(hlc: int) -> bytes:
    """One sibling; even and odd clock values are of two actors."""
    actor = make_actor(2, hlc % 2)
    return siblings.encode(Container({actor: hlc}, (Sibling(hlc, actor, 0, b"v"),)))


@pytest.mark.parametrize(("mine", "given"), [(4, 0), (5, 1)])
def test_siblings_are_given_to_who_lacks_one_alone(mine: int, given: int) -> None:
    group, one, _ = differing(a_sibling(mine), a_sibling(6))
    asker = ask(group)
    group.deliver()
    assert asker.resumed == 1 and asker.changed
    assert (one.coordinator.reads.repaired_here, one.coordinator.reads.repaired_there) == (1, given)


def test_a_plain_record_that_is_newer_there_is_not_answered() -> None:
    group, one, _ = differing(encode(STRING, STAMPS[1], b"$1\r\na\r\n"), encode(STRING, STAMPS[2], b"$1\r\nb\r\n"))
    asker = ask(group)
    group.deliver()
    assert asker.resumed == 1 and asker.changed and one.coordinator.reads.repaired_there == 0


@pytest.mark.parametrize(
    "row",
    [(0, OK, b""), (0, OK, b"\x01\x02"), (0, OK, b"\x09" + STAMPS[3] + b"body"), (1, OK, encode(STRING, STAMPS[3]))],
)
def test_an_answer_with_a_record_that_is_none_changes_nothing(row: tuple[int, int, bytes]) -> None:
    mine = encode(HASH, STAMPS[1], STAMPS[0])
    group, one, peer = differing(mine, mine)
    asker = ask(group)
    ((_, _, question),) = group.wire
    group.wire.clear()
    with pytest.raises(ProtocolError):
        one.receive(peer.short, ReadResult(question.seq, OK, (row,)))
    assert one.rig.engine.get(KEY) == mine and asker.waiting == 1 and not group.wire
