"""Coordinators: quorum writes and reads over messages in memory, their repairs and their failures."""

from __future__ import annotations

import pytest

from respkv.base.errors import CorruptionError
from respkv.base.slots import SLOT_COUNT
from respkv.causality.record import encode
from respkv.keyspace import keys
from respkv.replication.levels import ALL, QUORUM, Quorums
from respkv.replication.read_batch import READ_TIMEOUT_US
from respkv.resp import errors
from respkv.resp.reply import bulk
from respkv.storage.write_batch import encode_entry
from respkv.wire.messages import (
    ALL_ENTRIES,
    BUSY,
    CORRUPT,
    FOREGROUND,
    IO_ERROR,
    OK,
    ReadResult,
    Reads,
    WriteAcks,
    Writes,
)
from tests.unit.replication.quorum_rig import Asker, Group, Side


def stored(side: Side, key: bytes) -> bytes | None:
    record = side.rig.engine.get(keys.record_key(0, key))
    return None if record is None else record[11:]


def plant(side: Side, key: bytes, value: bytes, *, by: Side) -> None:
    """A write of ``by`` that reached this node alone."""
    record = encode(1, by.rig.keyspace.stamp(), bulk(value))
    side.replica.apply(FOREGROUND, encode_entry(keys.record_key(0, key), record), by.short)
    side.rig.commit()


def test_a_write_reaches_all_and_is_answered_at_the_first_ack() -> None:
    group, out = Group(), []
    one = group.sides[1]
    one.set(b"k", b"v", out)
    one.end_cycle()
    assert one.settled_rounds() == 0
    source, target, message = group.wire.pop(0)
    group.sides[target].receive(source, message)
    assert one.settled_rounds() == 0, "an ack that was not delivered counts for nothing"
    group.deliver()
    assert one.settled_rounds() == 1 and out == [b"+OK\r\n"] and not one.missed
    assert [stored(side, b"k") for side in group.sides.values()] == [b"$1\r\nv\r\n"] * 3


def test_a_write_that_nobody_confirms_is_unknown_and_is_hinted() -> None:
    group, out = Group(), []
    one = group.sides[1]
    one.set(b"k", b"v", out)
    one.end_cycle()
    group.part(1, 2)
    assert one.settled_rounds() == 0, "the other one may still do it"
    group.part(1, 3)
    assert one.settled_rounds() == 1 and out == [errors.OUTCOME_UNKNOWN]
    assert sorted(peer for peer, _ in one.missed) == [2, 3]


def test_how_far_a_peer_is_behind() -> None:
    group, out = Group(), []
    one = group.sides[1]
    assert one.coordinator.writes.lags_us(group.now_us) == {}
    one.set(b"k", b"v", out)
    one.end_cycle()
    group.now_us += 70_000
    one.set(b"k", b"w", out)
    one.end_cycle()
    group.wire = [row for row in group.wire if row[1] != 3]
    group.deliver()
    assert one.coordinator.writes.lags_us(group.now_us + 5_000) == {3: 75_000}
    group.pass_us(10_000_000)
    assert one.coordinator.writes.lags_us(group.now_us) == {} and one.coordinator.writes.failed == [0, 0, 0, 0]


def test_an_ack_that_does_not_come_in_time() -> None:
    group, out = Group(), []
    one = group.sides[1]
    one.set(b"k", b"v", out)
    one.end_cycle()
    group.wire.clear()
    group.pass_us(1_900_000)
    assert one.settled_rounds() == 0
    group.pass_us(200_000)
    assert one.settled_rounds() == 1 and out == [errors.OUTCOME_UNKNOWN]


def test_a_read_takes_over_what_is_newer_elsewhere() -> None:
    group, out = Group(), []
    one, key = group.sides[1], b"k"
    for side in group.sides.values():
        plant(side, key, b"old", by=one)
    for short in (2, 3):
        plant(group.sides[short], key, b"new", by=group.sides[2])
    one.get(key, out)
    one.end_cycle()
    group.deliver()
    assert out == [b"$3\r\nnew\r\n"] and one.settled_rounds() == 1 and stored(one, key) == b"$3\r\nnew\r\n"


def test_a_read_waits_until_the_peer_that_was_asked_has_what_it_shows() -> None:
    group, out = Group(), []
    one, key = group.sides[1], b"k"
    for side in group.sides.values():
        plant(side, key, b"old", by=one)
    plant(one, key, b"new", by=one)
    one.get(key, out)
    one.end_cycle()
    ((_, peer, question),) = group.wire
    group.wire.clear()
    group.sides[peer].receive(1, question)
    (answer,) = group.wire
    group.wire.clear()
    one.receive(peer, answer[2])
    assert one.settled_rounds() == 0 and stored(group.sides[peer], key) == b"$3\r\nold\r\n"
    group.deliver()
    assert one.settled_rounds() == 1 and out == [b"$3\r\nnew\r\n"]
    assert stored(group.sides[peer], key) == b"$3\r\nnew\r\n"


def test_a_get_does_not_see_later_sets_of_its_own_pipeline() -> None:
    group, out = Group(), []
    one = group.sides[1]
    for number in range(5):
        one.set(b"k", b"%d" % number, out)
        one.get(b"k", out)
    one.end_cycle()
    group.deliver()
    assert one.settled_rounds() == 1
    assert out[1::2] == [b"$1\r\n%d\r\n" % number for number in range(5)]


def test_a_slow_peer_is_joined_by_another() -> None:
    group, out = Group(), []
    one, key = group.sides[1], b"k"
    for side in group.sides.values():
        plant(side, key, b"v", by=one)
    one.get(key, out)
    one.end_cycle()
    ((_, first, _),) = group.wire
    group.wire.clear()
    group.pass_us(60_000)
    ((_, second, _),) = group.wire
    assert second != first
    group.deliver()
    assert one.settled_rounds() == 1 and out == [b"$1\r\nv\r\n"]


@pytest.mark.parametrize("made_of_it", [False, True])
@pytest.mark.parametrize("together", [True, False])
def test_a_peer_that_is_asked_late_may_know_of_a_later_write(together: bool, made_of_it: bool) -> None:
    """Of the GET's own pipeline: then nobody can say what was to be read. Another connection's may be shown.

    The peer may also know what another node has made of that write.
    """
    group, out, other = Group(), [], []
    one, key = group.sides[1], b"k"
    for side in group.sides.values():
        plant(side, key, b"v", by=one)
    one.get(key, out)
    one.set(key, b"later", out if together else other)
    one.end_cycle()
    ((_, first, _),) = [row for row in group.wire if isinstance(row[2], Reads)]
    group.wire = [row for row in group.wire if row[1] != first]
    group.deliver()
    if made_of_it:
        second = group.sides[5 - first]
        second.rig.keyspace.clock.last = max(second.rig.keyspace.clock.last, one.rig.keyspace.clock.last)
        plant(second, key, b"later", by=second)
    group.pass_us(60_000)
    group.deliver()
    assert one.settled_rounds() == 1
    assert out[0] == (errors.NO_REPLICAS if together else b"$5\r\nlater\r\n")


def test_a_read_without_a_quorum_is_refused() -> None:
    group, out = Group(), []
    one, key = group.sides[1], b"k"
    plant(one, key, b"v", by=one)
    one.get(key, out)
    one.end_cycle()
    group.part(1, 2)
    group.part(1, 3)
    assert one.settled_rounds() == 1 and out == [errors.NO_REPLICAS]


@pytest.mark.parametrize("ranges", [False, True])
def test_who_is_compared_with_too_few_replicas_is_refused(ranges: bool) -> None:
    """A node alone must not take its own copy for a quorum."""
    group, asker = Group(), Asker()
    one = group.sides[1]
    group.part(1, 2)
    group.part(1, 3)
    if ranges:
        one.coordinator.ask_range(asker, keys.record_key(0, b"a"), keys.record_key(0, b"b"), QUORUM, group.now_us)
    else:
        one.coordinator.ask(asker, keys.record_key(0, b"k"), bytes(10), QUORUM)
    assert asker.failures == [errors.NO_REPLICAS] and not asker.resumed


@pytest.mark.parametrize("later_set", [False, True])
def test_a_get_answers_what_the_peer_brought_although_it_came_by_itself_meanwhile(later_set: bool) -> None:
    """The newer record arrives as a plain write between question and answer: neither the old value nor a later one."""
    group, first, out = Group(), [], []
    one, three = group.sides[1], group.sides[3]
    one.set(b"k", b"old", first)
    one.end_cycle()
    group.deliver()
    three.rig.keyspace.clock.last = one.rig.keyspace.clock.last
    three.set(b"k", b"new", first)
    three.end_cycle()
    late = [row for row in group.wire if row[1] == 1]
    group.wire = [row for row in group.wire if row[1] != 1]
    group.deliver()  # Two and three hold it, one does not yet.
    one.get(b"k", out)
    if later_set:
        one.rig.keyspace.clock.last = three.rig.keyspace.clock.last + 10
        one.set(b"k", b"later", out)
    one.end_cycle()
    questions, rest = [row for row in group.wire if isinstance(row[2], Reads)], group.wire
    group.wire = []
    for source, target, message in questions:
        group.sides[target].receive(source, message)
    answers, group.wire = group.wire, []
    for source, target, message in late:
        group.sides[target].receive(source, message)
    group.wire += answers + [row for row in rest if not isinstance(row[2], Reads)]
    group.deliver()
    assert len(questions) == 1 and len(late) >= 1 and out[0] == b"$3\r\nnew\r\n"


# -- damage ------------------------------------------------------------------------------------------


def rot(side: Side) -> None:
    """Everything that a node holds goes into a table, and no block of it can be read any more."""
    side.rig.flush()
    side.rig.keyspace.cache.clear_all()
    fs = side.rig.fs
    for name in fs.listdir("/db/tables"):
        path = f"/db/tables/{name}"
        for offset in range(64, 64 + (fs.size(path) - 64) // 3):
            fs.flip(path, offset, 1)


def loaded(nodes: int = 3, quorums: Quorums | None = None) -> Group:
    group, out = Group(nodes, quorums), []
    group.sides[1].set(b"k", b"v", out)
    group.sides[1].end_cycle()
    group.deliver()
    return group


def ask(group: Group, internal: bytes, *, end: bytes = b"", level: int = QUORUM) -> Asker:
    """Side 1 compares a key or a range."""
    asker, coordinator = Asker(), group.sides[1].coordinator
    asker.level = level
    if end:
        coordinator.ask_range(asker, internal, end, level, group.now_us)
    else:
        record = group.sides[1].replica.held(internal)
        assert record is not None
        coordinator.ask(asker, internal, record[1:11], level)
        coordinator.seal(group.now_us)
    return asker


KEY = keys.record_key(0, b"k")


@pytest.mark.parametrize("end", [b"", keys.after(KEY)])
def test_a_peer_with_damage_does_not_count_and_another_is_asked(end: bytes) -> None:
    group = loaded()
    first = group.sides[1].coordinator.others(keys.key_slot(KEY))[0]
    rot(group.sides[first])
    asker = ask(group, KEY, end=end)
    assert [target for _, target, _ in group.wire] == [first]
    group.deliver()
    assert asker.resumed == 1 and not asker.failures and asker.waiting == 0


@pytest.mark.parametrize("damaged_first", [True, False])
@pytest.mark.parametrize("fast", [True, False])
def test_damage_at_one_of_two_that_were_asked_waits_for_the_other(fast: bool, damaged_first: bool) -> None:
    """Both were asked since the first one is slow; what the damaged one cannot say the other one can, for all keys."""
    group, out, askers = Group(), [], []
    one, names = group.sides[1], [b"{k}%d" % number for number in range(40)]
    for name in names:
        one.set(name, b"v" * 500, [])
    one.end_cycle()
    group.deliver()
    first = one.coordinator.others(keys.key_slot(keys.record_key(0, names[0])))[0]
    damaged, sound = (first, 5 - first) if damaged_first else (5 - first, first)
    rot(group.sides[damaged])
    internals = [keys.record_key(0, name) for name in names]
    stamps = [record[1:11] for record in map(one.replica.held, internals) if record is not None]
    answer = group.sides[damaged].replica.read(Reads(1, internals, stamps))
    new, known = [index for index, _, _ in answer.differing][:2]
    plant(group.sides[sound], names[new], b"new", by=group.sides[sound])
    plant(group.sides[damaged], names[known], b"known", by=group.sides[sound])
    one.rig.keyspace.clock.last = max(one.rig.keyspace.clock.last, group.sides[sound].rig.keyspace.clock.last)
    for name in names:
        if fast:
            one.get(name, out)
        else:
            internal, asker = keys.record_key(0, name), Asker()
            record = one.replica.held(internal)
            assert record is not None
            one.coordinator.ask(asker, internal, record[1:11], QUORUM)
            askers.append(asker)
    one.end_cycle()
    group.pass_us(60_000)
    questions = {target: message for _, target, message in group.wire}
    assert sorted(questions) == [2, 3] and len(group.wire) == 2
    group.wire.clear()
    for short in (damaged, sound):
        group.sides[short].receive(1, questions[short])
        group.deliver()
    assert not [asker for asker in askers if asker.failures or asker.waiting or asker.resumed != 1]
    assert [asker.changed for asker in askers] == ([] if fast else [number in (new, known) for number in range(40)])
    if fast:
        assert one.settled_rounds() == 2
        shown = {new: b"$3\r\nnew\r\n", known: b"$5\r\nknown\r\n"}
        assert out == [shown.get(number, bulk(b"v" * 500)) for number in range(40)]
    assert one.coordinator.reads.failed == 0 and not one.coordinator.busy()


@pytest.mark.parametrize("lost", [True, False])
def test_no_other_takes_the_place_of_a_silent_replica_at_all(lost: bool) -> None:
    """Replica 3 holds a newer value and says nothing: whoever answers for 2 cannot answer for 3 as well."""
    group = loaded()
    plant(group.sides[3], b"k", b"newest", by=group.sides[3])
    asker = ask(group, KEY, level=ALL)
    assert sorted(target for _, target, _ in group.wire) == [2, 3]
    group.wire = [row for row in group.wire if row[1] != 3]
    group.pass_us(60_000)
    assert [target for _, target, _ in group.wire] == [2], "the question that it was asked at first"
    if lost:
        group.part(1, 3)
    group.deliver()
    assert asker.failures if lost else not asker.resumed
    group.pass_us(READ_TIMEOUT_US)
    assert asker.failures[0] == errors.NO_REPLICAS and not group.sides[1].coordinator.busy()


@pytest.mark.parametrize("lost", [True, False])
def test_a_substitute_is_none_who_answers_for_another(lost: bool) -> None:
    """Five replicas, three for a quorum: two are asked, the first is silent, and what was acknowledged is at the two
    that were not asked, and at the silent one."""
    group = loaded(5, Quorums(replicas=5))
    silent, asked, *others = group.sides[1].coordinator.others(keys.key_slot(KEY))
    record = encode(1, group.sides[others[0]].rig.keyspace.stamp(), bulk(b"acknowledged"))
    for short in (silent, *others):
        group.sides[short].replica.apply(FOREGROUND, encode_entry(KEY, record), others[0])
        group.sides[short].rig.commit()
    asker = ask(group, KEY)
    assert sorted(target for _, target, _ in group.wire) == sorted((silent, asked))
    group.wire = [row for row in group.wire if row[1] != silent]
    group.deliver()
    if lost:
        group.part(1, silent)
    else:
        group.pass_us(60_000)
    ((_, substitute, _),) = group.wire
    assert substitute in others
    group.deliver()
    assert asker.resumed == 1 and asker.changed and not asker.failures
    assert stored(group.sides[1], b"k") == bulk(b"acknowledged")


def ask_two(group: Group, names: tuple[bytes, bytes]) -> list[Asker]:
    """Side 1 asks one peer about two keys that all hold, and another one when that is silent. Both questions wait."""
    askers = []
    for name in names:
        asker, internal = Asker(), keys.record_key(0, name)
        record = encode(1, group.sides[1].rig.keyspace.stamp(), bulk(b"v"))
        for side in group.sides.values():
            side.replica.apply(FOREGROUND, encode_entry(internal, record), 1)
            side.rig.commit()
        group.sides[1].coordinator.ask(asker, internal, record[1:11], QUORUM)
        askers.append(asker)
    group.sides[1].end_cycle()
    group.pass_us(60_000)
    return askers


def test_what_is_left_to_a_second_one_that_hangs_is_asked_of_a_third() -> None:
    group = Group(4, Quorums(replicas=4, reads=2, writes=3))
    askers = ask_two(group, (b"{k}1", b"{k}2"))
    (_, first, question), (_, second, _) = group.wire
    group.wire.clear()
    group.sides[1].receive(first, ReadResult(question.seq, OK, ((1, CORRUPT, b""),)))
    assert askers[0].resumed == 1 and not askers[1].resumed
    group.pass_us(60_000)
    ((_, third, _),) = group.wire
    assert third not in (first, second)
    group.deliver()
    assert [(asker.resumed, asker.waiting, asker.failures) for asker in askers] == [(1, 0, [])] * 2
    assert not group.sides[1].coordinator.busy()


def test_what_is_left_is_asked_of_replicas_of_that_alone() -> None:
    """Two keys of different replicas: who has the second only may be asked once the first is known."""
    group = Group(6, Quorums(replicas=4, reads=2, writes=3))
    coordinator = group.sides[1].coordinator
    by_others: dict[tuple[int, ...], bytes] = {}
    for number in range(4000):
        slot = keys.key_slot(keys.record_key(0, b"%d" % number))
        if coordinator.mine[slot]:
            by_others.setdefault(tuple(coordinator.others(slot)), b"%d" % number)
    one, two = next(
        (one, two)
        for one in by_others
        for two in by_others
        if one[0] == two[0] and len(set(one[1:]) & set(two[1:])) == 1
    )
    askers = ask_two(group, (by_others[one], by_others[two]))
    (_, first, question), (_, second, again) = group.wire
    group.wire.clear()
    group.sides[1].receive(first, ReadResult(question.seq, OK, ((1, CORRUPT, b""),)))
    group.sides[1].receive(second, ReadResult(again.seq, BUSY))
    assert [target for _, target, _ in group.wire] == [next(short for short in two if short not in (first, second))]
    group.deliver()
    assert [(asker.resumed, asker.waiting, asker.failures) for asker in askers] == [(1, 0, [])] * 2


def test_a_refused_push_is_made_good_by_who_is_asked_about_the_rest() -> None:
    """Of two that were asked the first cannot read one key and is behind with another, which it does not take."""
    group = loaded()
    names = (b"{k}1", b"{k}2")
    first = group.sides[1].coordinator.others(keys.key_slot(keys.record_key(0, names[0])))[0]
    askers = ask_two(group, names)
    (_, _, question), (_, second, again) = group.wire
    group.wire.clear()
    old = encode(1, bytes(7) + b"\1" + bytes(2), bulk(b"old"))
    group.sides[1].receive(first, ReadResult(question.seq, OK, ((0, OK, old), (1, CORRUPT, b""))))
    ((_, target, push),) = group.wire
    assert target == first and isinstance(push, Writes)
    group.wire.clear()
    group.sides[1].receive(first, WriteAcks((), ((push.seq, ALL_ENTRIES, IO_ERROR),)))
    group.sides[second].receive(1, again)
    group.deliver()
    assert [(asker.waiting, asker.failures) for asker in askers] == [(0, [])] * 2
    assert all(asker.resumed for asker in askers) and not group.sides[1].coordinator.busy()


@pytest.mark.parametrize("end", [b"", keys.after(KEY)])
def test_damage_at_all_peers_is_no_quorum(end: bytes) -> None:
    group = loaded()
    rot(group.sides[2])
    rot(group.sides[3])
    asker = ask(group, KEY, end=end)
    group.deliver()
    assert asker.failures[0] == errors.NO_REPLICAS and asker.waiting == 0
    assert group.sides[1].coordinator.reads.failed_by == [0, 0, 1, 0]


@pytest.mark.parametrize("end", [b"", keys.after(KEY)])
def test_a_peer_that_is_behind_and_takes_nothing_is_replaced_by_another(end: bytes) -> None:
    group = loaded()
    first = group.sides[1].coordinator.others(keys.key_slot(KEY))[0]
    plant(group.sides[1], b"k", b"new", by=group.sides[1])
    for short in {2, 3} - {first}:
        plant(group.sides[short], b"k", b"new", by=group.sides[1])
    asker = ask(group, KEY, end=end)
    source, target, message = group.wire.pop(0)
    group.sides[target].receive(source, message)
    source, target, message = group.wire.pop(0)
    group.sides[target].receive(source, message)
    _, target, push = group.wire.pop(0)
    assert isinstance(push, Writes) and target == first
    group.sides[1].receive(first, WriteAcks((), ((push.seq, ALL_ENTRIES, IO_ERROR),)))
    assert not asker.resumed and not asker.failures
    group.deliver()
    assert asker.resumed and not asker.failures and asker.waiting == 0


def test_a_slow_peer_that_is_behind_and_takes_nothing_is_replaced_by_who_was_asked_as_well() -> None:
    group = loaded()
    first = group.sides[1].coordinator.others(keys.key_slot(KEY))[0]
    for short in {1, 2, 3} - {first}:
        plant(group.sides[short], b"k", b"new", by=group.sides[1])
    asker = ask(group, KEY)
    group.pass_us(60_000)
    questions = {target: message for _, target, message in group.wire}
    group.wire.clear()
    group.sides[first].receive(1, questions[first])
    source, target, message = group.wire.pop(0)
    group.sides[target].receive(source, message)
    _, target, push = group.wire.pop(0)
    assert isinstance(push, Writes) and target == first and not group.wire
    group.sides[1].receive(first, WriteAcks((), ((push.seq, ALL_ENTRIES, IO_ERROR),)))
    group.deliver()
    assert asker.resumed == 1 and not asker.failures and asker.waiting == 0


@pytest.mark.parametrize("end", [b"", keys.after(KEY)])
def test_a_peer_that_is_lost_is_replaced_by_another(end: bytes) -> None:
    group = loaded()
    first = group.sides[1].coordinator.others(keys.key_slot(KEY))[0]
    asker = ask(group, KEY, end=end)
    group.part(1, first)
    assert not asker.failures
    group.deliver()
    assert asker.resumed == 1 and not asker.failures


def test_damage_here_while_an_answer_is_compared_is_told_to_who_waits() -> None:
    group, out = loaded(), []
    one = group.sides[1]
    first = one.coordinator.others(keys.key_slot(KEY))[0]
    plant(group.sides[first], b"k", b"new", by=group.sides[first])
    asker, before = Asker(), one.settled_rounds()
    record = one.replica.held(KEY)
    assert record is not None
    one.coordinator.ask(asker, KEY, record[1:11], QUORUM)
    one.get(b"k", out)
    one.end_cycle()
    rot(one)
    for _ in range(2):
        source, target, message = group.wire.pop(0)
        group.sides[target].receive(source, message)
    for source, target, message in group.wire:
        assert target == 1
        with pytest.raises(CorruptionError):
            one.receive(source, message)
        one.coordinator.on_damage(message)
        one.coordinator.on_damage(message)
    assert asker.failures == [errors.CORRUPT] and asker.waiting == 0
    assert out == [errors.TRY_AGAIN] and one.settled_rounds() == before + 1
    assert not one.coordinator.reads.busy()


def test_a_range_that_cannot_be_compared_here_is_told() -> None:
    group = loaded()
    first = group.sides[1].coordinator.others(keys.key_slot(KEY))[0]
    plant(group.sides[first], b"k", b"new", by=group.sides[first])
    asker = ask(group, KEY, end=keys.after(KEY))
    rot(group.sides[1])
    source, target, message = group.wire.pop(0)
    group.sides[target].receive(source, message)
    _, _, answer = group.wire.pop(0)
    with pytest.raises(CorruptionError):
        group.sides[1].receive(first, answer)
    group.sides[1].coordinator.on_damage(answer)
    assert asker.failures == [errors.CORRUPT] and asker.waiting == 0 and not group.sides[1].coordinator.busy()


def test_who_stands_in_for_a_damaged_node() -> None:
    group = loaded()
    coordinator = group.sides[1].coordinator
    assert coordinator.placement is not None
    slot = keys.key_slot(KEY)
    order = coordinator.placement.table[slot]
    assert coordinator.substitute([slot], ()) == order[0] and coordinator.substitute([], ()) == 0
    assert coordinator.substitute([slot, slot + 1], (order[0],)) == order[1]
    for short in order:
        if short != 1:
            group.part(1, short)
    assert coordinator.substitute([slot], (1,)) == 0 and coordinator.substitute([slot], ()) == 1


def test_reads_of_a_hot_key_take_turns() -> None:
    group = loaded()
    coordinator = group.sides[1].coordinator
    slot = keys.key_slot(KEY)
    assert sorted(coordinator.spread(slot) for _ in range(6)) == [1, 1, 2, 2, 3, 3]
    group.part(1, 2)
    assert {coordinator.spread(slot) for _ in range(4)} == {1, 3}


@pytest.mark.parametrize("nodes", [3, 5, 8])
def test_a_node_asks_few_others_and_each_is_asked_as_much(nodes: int) -> None:
    group = Group(nodes=nodes)
    asked: dict[int, int] = dict.fromkeys(group.sides, 0)
    for short, side in group.sides.items():
        coordinator = side.coordinator
        for slot in range(SLOT_COUNT):
            if coordinator.ready[slot]:
                ask = coordinator.asks[slot]
                assert ask is not None and ask.peer == coordinator.others(slot)[0] != short
                asked[ask.peer] += 1
        peers = {ask.peer for slot, ask in enumerate(coordinator.asks) if coordinator.ready[slot] and ask is not None}
        assert len(peers) <= nodes - 2
    mean = sum(asked.values()) / nodes
    assert all(0.7 * mean < count < 1.3 * mean for count in asked.values()), asked


def test_who_is_away_is_not_asked_and_asked_again_when_it_is_back() -> None:
    group = Group()
    coordinator = group.sides[3].coordinator
    usual = {each.peer for each in coordinator.asks if each is not None}
    assert usual == {1}, "whose turn comes after its own"
    group.part(1, 3)
    assert {each.peer for each in coordinator.asks if each is not None} == {2}
    group.cut.clear()
    coordinator.refresh()
    assert {each.peer for each in coordinator.asks if each is not None} == usual
