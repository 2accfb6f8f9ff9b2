"""What members tell each other for people: who holds a key, are copies equal, repairs that were asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from respkv.base.errors import ProtocolError
from respkv.base.slots import slot_of
from respkv.causality.hlc import pack_stamp
from respkv.causality.record import encode
from respkv.keyspace import keys
from respkv.node.repair_run import DIFFERENT, EQUAL, FAILED, ROUNDS_MAX, SLOT_LIMIT_US, UNREACHABLE, WAITING, Row
from respkv.node.ring_watch import ANSWER_US, VERIFY_US
from respkv.storage.write_batch import encode_entry
from respkv.wire.messages import Status, StatusPull, Writes
from tests.unit.keyspace.rig import START_MS
from tests.unit.node.repair_rig import Net, Node

NEVER_US = 1 << 50
KEY = b"k\xff\x00y"
SLOT = slot_of(KEY)


def where(net: Net, short: int, key: bytes = KEY) -> list[Any]:
    answers: list[Any] = []
    net.nodes[short].watch.where(0, key, net.shorts, answers.append)
    return answers


def verify(net: Net, short: int, slot: int = SLOT) -> list[Any]:
    answers: list[Any] = []
    net.nodes[short].watch.verify(slot, net.placement.table[slot], answers.append)
    return answers


def repair(net: Net, short: int, slot: int | None = SLOT) -> list[tuple[Mapping[int, Row], int]]:
    ended: list[tuple[Mapping[int, Row], int]] = []
    net.nodes[short].watch.repair(slot, lambda rows, repaired: ended.append((rows, repaired)))
    return ended


def old(node: Node, key: bytes, value: bytes = b"v", ms: int = 1000) -> None:
    """A record so old that a session does not take it for a write under way."""
    stamp = pack_stamp((node.net.now_ms - ms) << 16, node.short)
    node.apply(encode_entry(keys.record_key(0, key), encode(1, stamp, b"$1\r\n%s\r\n" % value)))


# -- where -------------------------------------------------------------------------------------------


def test_each_replica_tells_what_it_holds_and_all_tell_their_hints() -> None:
    net = Net(interval_us=NEVER_US)
    net.down(3)
    net.put(KEY, b"1", by=1, to=(2,))
    net.up(3)
    answers = where(net, 2)
    assert not answers, "others have not answered yet"
    net.nodes[1].repair.before_commit([])
    net.turn(1)
    net.turn(1)
    (found,) = answers
    assert list(found) == [1, 2, 3]
    assert found[1]["holds"] == found[2]["holds"] == b"value" and found[1]["stamp"] == found[2]["stamp"] != b""
    assert found[3] == {"holds": b"nothing", "stamp": b""} and found[1]["hints:3"] == b"1"
    net.put(KEY, None, by=1, to=(2, 3))
    answers = where(net, 1)
    net.turn(1)
    net.turn(1)
    assert {facts["holds"] for facts in answers[0].values()} == {b"tombstone"}


def test_a_member_that_cannot_be_reached_is_named_so_at_once() -> None:
    net = Net(interval_us=NEVER_US)
    net.down(2)
    net.down(3)
    (found,) = where(net, 1)
    assert found[2] is None and found[3] is None and found[1] is not None and not net.nodes[1].watch.busy()


def test_a_member_that_does_not_answer_costs_a_second() -> None:
    net = Net(interval_us=NEVER_US)
    net.lost = lambda source, target, message: target == 3
    answers = where(net, 1)
    net.run_ms(ANSWER_US // 1000 - 100, 50)
    assert not answers and net.nodes[1].watch.busy()
    net.run_ms(200, 50)
    assert answers[0][3] is None and answers[0][2] is not None and not net.nodes[1].watch.busy()


def test_a_member_that_is_lost_meanwhile_is_not_waited_for() -> None:
    net = Net(interval_us=NEVER_US)
    net.lost = lambda source, target, message: True
    answers = where(net, 1)
    net.down(3)
    net.nodes[1].watch.check_invariants()
    assert not answers
    net.down(2)
    assert answers[0][2] is None and answers[0][3] is None


def test_an_answer_that_was_not_asked_for_changes_nothing() -> None:
    net = Net(interval_us=NEVER_US)
    net.lost = lambda source, target, message: isinstance(message, StatusPull)
    answers = where(net, 1)
    watch = net.nodes[1].watch
    watch.on_status(2, Status(net.asked + 1, (("holds", b"value"),)))
    watch.on_status(1, Status(net.asked, (("holds", b"value"),)))
    assert not answers
    watch.on_status(2, Status(net.asked, (("holds", b"value"),)))
    watch.on_status(2, Status(net.asked, (("holds", b"nothing"),)))
    watch.on_status(3, Status(net.asked, ()))
    assert answers[0][2] == {"holds": b"value"} and answers[0][3] == {}


@pytest.mark.parametrize("fact", [("mark", b"x"), ("mark", b"9" * 5000), ("hints:3", b""), ("hints:3", b"-1")])
def test_a_number_that_is_none_is_a_protocol_error(fact: tuple[str, bytes]) -> None:
    net = Net(interval_us=NEVER_US)
    net.lost = lambda source, target, message: isinstance(message, StatusPull)
    answers = where(net, 1)
    with pytest.raises(ProtocolError):
        net.nodes[1].watch.on_status(2, Status(net.asked, (fact,)))
    net.nodes[1].watch.peer_lost(2)
    net.nodes[1].watch.on_status(3, Status(net.asked, ()))
    assert answers[0][2] is None


def test_a_key_that_lies_on_disk_is_fetched_first() -> None:
    net = Net(2, replicas=2, interval_us=NEVER_US)
    old(net.nodes[2], KEY)
    net.nodes[2].rig.flush()
    net.nodes[2].rig.cold()
    answers = where(net, 1)
    net.turn(1)
    net.turn(1)
    assert answers[0][2]["holds"] == b"value"


@pytest.mark.parametrize(
    "section",
    [
        "stamp:x:key", "stamp::key", "stamp:1234567:key", "stamp:70000:k", "stamp:0:\u20ac", "roots:16384:0",
        "roots:1:", "roots:1:x", "roots:1:99999999999999999999", "roots:1:" + "9" * 5000, "roots:\u0663:0",
    ],
)  # fmt: skip
def test_garbage_is_a_protocol_error(section: str) -> None:
    net = Net(2, replicas=2, interval_us=NEVER_US)
    with pytest.raises(ProtocolError):
        net.nodes[1].watch.on_pull(2, StatusPull(1, section))


def test_a_section_of_a_later_version_gets_an_empty_answer() -> None:
    net = Net(2, replicas=2, interval_us=NEVER_US)
    net.nodes[1].watch.on_pull(2, StatusPull(9, "weather:today"))
    assert net.sent == [(1, 2, Status(9, ()))]


# -- verify ------------------------------------------------------------------------------------------


def settled(net: Net) -> None:
    net.run_ms(500, 50)


def test_roots_of_equal_and_of_different_copies() -> None:
    net = Net(interval_us=NEVER_US)
    settled(net)
    net.put(KEY, b"1", by=1, to=(2, 3))
    answers = verify(net, 1)
    settled(net)
    found = answers[0]
    assert {facts["exact"] for facts in found.values()} == {b"1"}
    assert len({facts["root"] for facts in found.values()}) == 1
    old(net.nodes[2], KEY + b"{other}", b"2")
    other = verify(net, 1, slot_of(KEY + b"{other}"))
    settled(net)
    roots = [other[0][short]["root"] for short in (1, 2, 3)]
    assert roots[0] == roots[2] != roots[1]


def test_roots_are_counted_by_one_watermark() -> None:
    net = Net(2, replicas=2, interval_us=NEVER_US)
    settled(net)
    net.put(KEY, b"1", by=1, to=(2,))
    net.put(KEY, None, by=1, to=(2,))
    mark = (net.now_ms - 60_000) << 16
    net.nodes[2].repair.watermarks.adopt(SLOT, SLOT, mark)
    answers = verify(net, 1)
    settled(net)
    found = answers[0]
    assert found[1] == found[2] and found[1]["mark"] == b"%d" % mark, "the asker has adopted it"
    net.nodes[1].repair.watermarks.adopt(SLOT, SLOT, mark + 1)
    answers = verify(net, 1)
    settled(net)
    assert answers[0][1] == answers[0][2] and answers[0][2]["mark"] == b"%d" % (mark + 1), "and so has the asked one"


@pytest.mark.parametrize("mark", [b"", b"x", b"-1", b"%d" % (START_MS << 16), b"%d" % (1 << 64), b"9" * 5000])
def test_a_watermark_that_is_none_is_not_adopted(mark: bytes) -> None:
    net = Net(2, replicas=2, interval_us=NEVER_US)
    settled(net)
    watch, marks = net.nodes[1].watch, net.nodes[1].repair.watermarks.marks
    watch._adopt(SLOT, mark)
    assert marks[SLOT] == 0
    watch._adopt(SLOT, b"%d" % ((net.now_ms - 60_000) << 16))
    assert marks[SLOT] == (net.now_ms - 60_000) << 16


def test_sums_that_are_not_known_are_told_as_such_after_a_while() -> None:
    net = Net(2, replicas=2, interval_us=NEVER_US)
    settled(net)
    old(net.nodes[2], KEY)
    net.nodes[2].rig.flush()
    net.nodes[2].repair.tables_damaged()
    net.nodes[2].busy = True  # No walk begins.
    answers = verify(net, 1)
    net.run_ms(VERIFY_US // 1000 - 500, 50)
    assert not answers
    net.run_ms(1000, 50)
    assert answers[0][2]["exact"] == b"0" and answers[0][1]["exact"] == b"1"


# -- repair ------------------------------------------------------------------------------------------


def test_a_repair_tells_what_it_found_on_both_sides() -> None:
    net = Net(interval_us=NEVER_US)
    settled(net)
    old(net.nodes[1], KEY, b"1", ms=60_000)
    old(net.nodes[2], KEY + b"2", b"2", ms=60_000)
    ended = repair(net, 1, None)
    net.run_ms(20_000, 50)
    ((rows, repaired),) = ended
    assert {short: row.state for short, row in rows.items()} == {2: EQUAL, 3: EQUAL}
    assert rows[2].slots_differing == 2 and rows[2].sessions == 2 and rows[2].sent == 1 and repaired == 1
    assert net.same() and not net.nodes[1].watch.busy()


def test_a_repair_of_one_slot_leaves_others_alone() -> None:
    net = Net(2, replicas=2, interval_us=NEVER_US)
    settled(net)
    other = KEY + b"other"
    old(net.nodes[1], KEY, ms=60_000)
    old(net.nodes[1], other, ms=60_000)
    ended = repair(net, 1)
    net.run_ms(5000, 50)
    rows, _ = ended[0]
    assert rows[2].state == EQUAL and rows[2].slots_differing == 1 and rows[2].sent == 1
    assert net.nodes[2].value(KEY) is not None and net.nodes[2].value(other) is None


def test_differences_that_are_young_are_waited_for() -> None:
    net = Net(2, replicas=2, interval_us=NEVER_US)
    settled(net)
    old(net.nodes[1], KEY, ms=0)
    ended = repair(net, 1)
    net.run_ms(10_000, 50)
    rows, _ = ended[0]
    assert rows[2].state == EQUAL and 3 <= rows[2].sessions < ROUNDS_MAX and net.nodes[2].value(KEY) is not None


def test_what_stays_different_is_said_to_be_so() -> None:
    net = Net(2, replicas=2, interval_us=NEVER_US)
    settled(net)
    old(net.nodes[1], KEY, ms=60_000)
    net.lost = lambda source, target, message: isinstance(message, Writes)
    ended = repair(net, 1)
    net.run_ms(15_000, 50)
    assert ended[0][0][2].state == DIFFERENT and ended[0][0][2].sessions == ROUNDS_MAX


def test_who_is_away_is_named_and_not_waited_for() -> None:
    net = Net(interval_us=NEVER_US)
    settled(net)
    old(net.nodes[1], KEY, ms=60_000)
    net.down(3)
    ended = repair(net, 1)
    net.run_ms(5000, 50)
    rows, _ = ended[0]
    assert (rows[2].state, rows[3].state) == (EQUAL, UNREACHABLE)
    net.up(3)
    net.run_ms(5000, 50)
    assert net.nodes[3].value(KEY) is not None, "it is repaired once it is back"


def test_who_is_lost_meanwhile_is_not_waited_for() -> None:
    net = Net(2, replicas=2, interval_us=NEVER_US)
    net.lost = lambda source, target, message: True
    ended = repair(net, 1)
    net.run_ms(100, 50)
    assert not ended
    net.down(2)
    assert ended[0][0][2].state == UNREACHABLE


def test_a_peer_that_refuses_again_and_again_is_given_up() -> None:
    net = Net(2, replicas=2, interval_us=NEVER_US)
    settled(net)
    net.nodes[2].repair.neighbours._shared.clear()
    ended = repair(net, 1)
    net.run_ms(15_000, 50)
    assert ended[0][0][2].state == FAILED


def test_a_repair_that_takes_too_long_tells_what_is_known() -> None:
    net = Net(2, replicas=2, interval_us=NEVER_US)
    net.nodes[1].busy = True
    ended = repair(net, 1)
    net.run_ms(SLOT_LIMIT_US // 1000 - 1000, 500)
    assert not ended
    net.run_ms(2000, 500)
    assert ended[0][0][2].state == WAITING and not net.nodes[1].watch.busy()


def test_a_node_without_co_replicas_has_nothing_to_compare() -> None:
    net = Net(1, replicas=1, interval_us=NEVER_US)
    assert repair(net, 1) == [({}, 0)]


