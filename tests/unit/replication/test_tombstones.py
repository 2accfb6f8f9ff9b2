"""The purge watermark: what raises it, what holds it, what it refuses."""

from __future__ import annotations

import random
from array import array
from collections.abc import Mapping, Sequence

import pytest

from respkv.base.errors import FormatError
from respkv.base.slots import SLOT_COUNT
from respkv.causality.hlc import pack_stamp
from respkv.replication.tombstones import FOREVER, PROPAGATION_MS, PurgeWatermarks, cut_of
from respkv.wire.messages import FOREGROUND, HINT, REPAIR, TRANSFER

START_MS = 1_700_000_000_000


class Watched(PurgeWatermarks):
    """Remembers what it told the leaf sums: slots and the watermarks that they had by then."""

    __slots__ = ("told",)

    def __init__(self, latest: int = FOREVER) -> None:
        self.told: list[tuple[int, int]] = []
        super().__init__(array("Q", bytes(8 * SLOT_COUNT)), self.tell, lambda: latest)

    def tell(self, slots: Sequence[int]) -> None:
        assert len(set(slots)) == len(slots)
        self.told += [(slot, self.marks[slot]) for slot in slots]


def test_a_cut_lies_a_delay_before_the_start_and_not_above_hints() -> None:
    assert cut_of(START_MS, b"") == START_MS - PROPAGATION_MS << 16
    old = pack_stamp(START_MS - PROPAGATION_MS - 1 << 16, 3)
    assert cut_of(START_MS, old) == START_MS - PROPAGATION_MS - 1 << 16
    assert cut_of(START_MS, pack_stamp(START_MS << 16, 3)) == START_MS - PROPAGATION_MS << 16
    assert cut_of(5, b"") == 0


def test_the_least_of_all_peers_decides() -> None:
    marks = Watched()
    marks.ended_equal(2, [7, 8], 100)
    assert marks.raise_groups([([2, 3], [7, 8, 9])]) == 0
    marks.ended_equal(3, [7], 90)
    assert marks.raise_groups([([2, 3], [7, 8, 9])]) == 1
    assert marks.told == [(7, 90)] and marks.get(7) == pack_stamp(90, 0) and marks.get(8) == bytes(10)
    marks.ended_equal(3, [7], 80)
    assert marks.raise_groups([([2, 3], [7])]) == 0, "it only grows"
    assert marks.raise_groups([([], [8])]) == 0, "nobody to be equal with proves nothing"
    assert marks.raise_groups([([2], [8])]) == 1
    marks.check_invariants()
    stats = marks.stats()
    assert stats["purge_watermark_slots"] == 2 and stats["purge_watermark_advances"] == 2


def test_an_old_record_lowers_what_the_others_are_known_to_have() -> None:
    marks = Watched()
    for peer in (2, 3):
        marks.ended_equal(peer, [7], 100 << 16)
    marks.old_record_applied(7, pack_stamp(100 << 16, 1), None)
    assert marks.lowered == 0, "not below any cut"
    marks.old_record_applied(7, pack_stamp(60 << 16, 1), 2)
    assert marks.lowered == 1, "the peer it came from has it"
    marks.raise_groups([([2, 3], [7])])
    assert marks.marks[7] == 60 << 16
    marks.old_record_applied(7, pack_stamp(70 << 16, 1), None)
    marks.ended_equal(3, [7], 110 << 16)
    marks.raise_groups([([2, 3], [7])])
    assert marks.marks[7] == 70 << 16


def test_what_is_lowered_stays_so_until_a_session_covers_it() -> None:
    marks = Watched()
    for peer in (2, 3):
        marks.ended_complete(peer, 100, {})
    marks.old_record_applied(7, pack_stamp(60, 1), None)
    marks.ended_complete(2, 110, {7: None})
    marks.ended_complete(3, 110, {})
    marks.raise_groups([([2, 3], [7, 8])])
    assert (marks.marks[7], marks.marks[8]) == (60, 110)
    marks.ended_complete(2, 105, {8: None})
    marks.raise_groups([([2, 3], [7, 8])])
    assert (marks.marks[7], marks.marks[8]) == (105, 110), "an older cut still helps whoever lies below it"
    marks.check_invariants()


def test_open_sessions_learn_of_old_records_from_elsewhere() -> None:
    marks = Watched()
    marks.session_began(1, 2, 100)
    marks.session_began(2, 3, 50)
    marks.old_record_applied(7, pack_stamp(60, 1), None)
    marks.old_record_applied(8, pack_stamp(10, 1), 2)
    assert marks.session_ended(1) == {7: None}
    assert marks.session_ended(2) == {8: None}


def test_a_restarted_peer_and_a_changed_ring_prove_nothing_any_more() -> None:
    marks = Watched()
    for peer in (2, 3):
        marks.ended_equal(peer, [7, 8], 100)
    marks.peer_restarted(3)
    assert marks.raise_groups([([2, 3], [7])]) == 0
    marks.ended_equal(3, [8], 110)
    marks.ended_complete(3, 105, {})
    marks.replicas_changed([7])
    assert marks.raise_groups([([2, 3], [7, 8])]) == 1 and (marks.marks[7], marks.marks[8]) == (0, 100)


def test_adopting_and_standing_alone() -> None:
    marks = Watched()
    assert marks.adopt(5, 9, 70) == 5 and marks.adopt(5, 9, 60) == 0 and marks.adopt(9, 10, 80) == 2
    assert marks.ranges() == ((5, 8, 70), (9, 10, 80))
    assert marks.ranges([6, 8, 10, 11]) == ((6, 6, 70), (8, 8, 70), (10, 10, 80))
    assert marks.raise_alone(range(SLOT_COUNT), 75) == SLOT_COUNT - 2
    assert marks.ranges() == ((0, 8, 75), (9, 10, 80), (11, SLOT_COUNT - 1, 75))


def test_what_a_co_replica_tells_counts_for_shared_slots_whatever_the_order() -> None:
    marks = Watched()
    told = [(5, 9, 70), (8, 9, 60), (9, 9, 90), (SLOT_COUNT, SLOT_COUNT + 9, 99)]
    assert marks.adopt_shared(told, {6: None, 8: None, 9: None}) == 3
    assert marks.ranges() == ((6, 6, 70), (8, 8, 70), (9, 9, 90))
    assert dict(marks.told) == {6: 70, 8: 70, 9: 90} and marks.newest() == pack_stamp(90, 0)
    assert marks.adopt_shared(told, {6: None, 8: None, 9: None}) == 0


def test_a_watermark_that_nobody_can_have_proved_yet_is_taken_over_from_nobody() -> None:
    marks, saved = Watched(latest=70), Watched()
    assert marks.adopt(5, 9, 71) == 0 and marks.adopt_shared([(5, 9, 71), (7, 7, 70)], range(SLOT_COUNT)) == 1
    saved.adopt(1, 2, 69)
    saved.adopt(7, 8, 71)
    marks.decode(saved.encode())
    assert marks.ranges() == ((1, 2, 69), (7, 7, 70)) and marks.newest() == pack_stamp(70, 0)
    assert marks.stats()["purge_watermarks_disbelieved"] == 3
    assert not marks.refuses(FOREGROUND, 8, pack_stamp(70, 1), held=False)
    assert marks.raise_alone([9], 80) == 1, "what is proved here needs no belief"


@pytest.mark.parametrize("seed", range(20))
def test_many_slots_at_once(seed: int) -> None:
    """Against the words of the rule, slot by slot. Half of the slots have a neighbour."""
    rng = random.Random(seed)
    marks = Watched()
    slots = sorted(rng.sample(range(100, 200), 50))
    peers_of = {slot: rng.choice([(), (2,), (2, 3), (3, 4), (2, 3, 4), (9,)]) for slot in slots}
    cuts: dict[tuple[int, int], int] = {}
    right = dict.fromkeys(slots, 0)
    groups = [(peers, [slot for slot in slots if peers_of[slot] == peers]) for peers in set(peers_of.values())]
    for _ in range(20):
        peer, cut, some = rng.choice((2, 3, 4)), rng.randrange(1, 30), rng.sample(slots, rng.choice((0, 1, 5, 50)))
        what = rng.choice(("some", "complete", "complete", "lower", "restart"))
        if what == "some":
            marks.ended_equal(peer, some, cut)
        elif what == "complete":
            marks.ended_complete(peer, cut, dict.fromkeys(some))
            some = [slot for slot in slots if slot not in some]
        elif what == "restart" and rng.random() < 0.2:
            marks.peer_restarted(peer)
            cuts = {place: known for place, known in cuts.items() if place[0] != peer}
        elif what == "lower":
            for slot in some[:3]:
                marks.old_record_applied(slot, pack_stamp(cut, 1), None)
                cuts.update({place: min(known, cut) for place, known in cuts.items() if place[1] == slot})
        for slot in some if what in ("some", "complete") else ():
            cuts[peer, slot] = max(cut, cuts.get((peer, slot), 0))
        before = dict(right)
        for slot, peers in peers_of.items():
            right[slot] = max(right[slot], min((cuts.get((peer, slot), 0) for peer in peers), default=0))
        marks.check_invariants()
        assert marks.raise_groups(groups) == sum(right[slot] > before[slot] for slot in slots)
        assert {slot: marks.marks[slot] for slot in slots} == right
        assert marks.ranges(slots) == tuple(
            (slots[first], slots[last], right[slots[first]]) for first, last in runs(slots, right)
        )
    assert any(right.values())
    assert dict(marks.told) == {slot: mark for slot, mark in right.items() if mark}


def runs(slots: list[int], marks: Mapping[int, int]) -> list[tuple[int, int]]:
    """Places of the first and last of neighbouring slots with one mark, but for those without any."""
    found: list[tuple[int, int]] = []
    for at, slot in enumerate(slots):
        if found and found[-1][1] == at - 1 and slots[at - 1] == slot - 1 and marks[slot - 1] == marks[slot]:
            found[-1] = found[-1][0], at
        elif marks[slot]:
            found.append((at, at))
    return found


def test_too_old_writes_without_a_record_are_refused() -> None:
    marks = Watched()
    marks.adopt(7, 7, 100)
    old, new = pack_stamp(99, 5), pack_stamp(100, 0)
    for kind in (FOREGROUND, HINT):
        assert marks.refuses(kind, 7, old, held=False)
        assert not marks.refuses(kind, 7, old, held=True)
        assert not marks.refuses(kind, 7, new, held=False)
        assert not marks.refuses(kind, 8, old, held=False)
    for kind in (REPAIR, TRANSFER):
        assert not marks.refuses(kind, 7, old, held=False)
    assert marks.refused == 2


def test_they_are_saved_and_found_again() -> None:
    marks, again = Watched(), Watched()
    marks.adopt(5, 9, 70)
    marks.adopt(16383, 16383, (1 << 64) - 1)
    again.decode(marks.encode())
    assert again.ranges() == marks.ranges() and (5, 70) in again.told
    again.decode(Watched().encode())
    assert again.ranges() == marks.ranges()


@pytest.mark.parametrize(
    "body", [b"", b"\x02", b"\x01" + bytes(11), b"\x01\x00\x09\x00\x05" + bytes(8), b"\x01\x40\x00\x40\x00" + bytes(8)]
)
def test_garbage_is_refused(body: bytes) -> None:
    with pytest.raises(FormatError):
        Watched().decode(body)
