"""Repair of whole nodes: hints arrive, divergence heals, watermarks move and are kept, graves go."""

from __future__ import annotations

import errno
from typing import Any

import pytest

from respkv.base.errors import CorruptionError, FormatError, RespkvError, StorageFull
from respkv.base.slots import SLOT_COUNT, slot_of
from respkv.causality.hlc import pack_stamp
from respkv.causality.record import TYPE_MASK, encode, stamp_of, tombstone
from respkv.cluster.placement import Placement
from respkv.keyspace import keys
from respkv.node.hint_replay import DEADLINE_US, RETRY_US
from respkv.node.repair import FIRST_SEQ, Repair
from respkv.node.watermark_log import SAVE_US, WATERMARKS
from respkv.replication.anti_entropy import SESSIONS_MAX
from respkv.replication.hints import HintStore
from respkv.replication.tombstones import PROPAGATION_MS
from respkv.storage.write_batch import encode_entry
from respkv.wire.messages import (
    BELOW_PURGE,
    BUSY,
    FOREGROUND,
    HINT,
    REPAIR,
    Floors,
    Ping,
    TreeEnd,
    WriteAcks,
    Writes,
)
from tests.unit.cluster.rings import form
from tests.unit.keyspace.rig import START_MS
from tests.unit.node.repair_rig import Net, Node

NEVER_US = 1 << 50
KEY = b"key"
SLOT = slot_of(KEY)


def hints(net: Net) -> list[Writes]:
    return [message for _, _, message in net.sent if isinstance(message, Writes) and message.kind == HINT]


# -- hints -------------------------------------------------------------------------------------------


def test_a_node_that_was_down_gets_its_hints_once_it_lives() -> None:
    net = Net(interval_us=NEVER_US)
    net.down(3)
    written = {b"k%d" % number: net.put(b"k%d" % number, b"v", by=1, to=(2,)) for number in range(50)}
    net.run_ms(500)
    one = net.nodes[1].repair
    assert one.hints_pending(3) == 50 and not hints(net)
    assert one.oldest_hint() and one.stats()["hint_oldest_ms"] and one.by_target()["hint_target_entries"] == {"3": 50}
    net.up(3)
    net.run_ms(500)
    assert one.hints_pending(3) == 0 and one.oldest_hint() == b""
    assert all(net.nodes[3].value(key) is not None for key in written)
    assert one.stats()["hints_delivered"] == 50 and one.by_target()["hint_target_entries"] == {}
    assert net.same()


def test_hints_survive_a_restart_of_their_holder() -> None:
    net = Net(interval_us=NEVER_US)
    net.down(3)
    net.put(KEY, b"v", by=1, to=(2,))
    net.run_ms(1200)
    net.nodes[1].restart(crash=True)
    assert net.nodes[1].repair.hints_pending(3) == 1
    net.up(3)
    net.run_ms(300)
    assert net.nodes[3].value(KEY) is not None and net.nodes[1].repair.hints_pending(3) == 0


def test_a_lost_batch_comes_again_after_its_deadline() -> None:
    net = Net(interval_us=NEVER_US)
    net.put(KEY, b"v", by=1, to=(2,))
    net.lost = lambda source, target, message: isinstance(message, Writes)
    net.run_ms(DEADLINE_US // 1000 - 500)
    assert len(hints(net)) == 1, "one batch is under way"
    net.lost = lambda source, target, message: False
    net.run_ms(500 + RETRY_US // 1000 + 400)
    assert len(hints(net)) == 2 and net.nodes[3].value(KEY) is not None
    stats = net.nodes[1].repair.stats()
    assert stats["hint_batches_failed"] == 1 and stats["hint_entries"] == 0


def test_a_link_that_ends_frees_the_batch_under_way() -> None:
    net = Net(interval_us=NEVER_US)
    net.put(KEY, b"v", by=1, to=(2,))
    net.lost = lambda source, target, message: isinstance(message, WriteAcks)
    net.run_ms(200)
    assert net.nodes[1].repair.stats()["hint_batches_under_way"] == 1
    net.down(3)
    assert net.nodes[1].repair.stats()["hint_batches_under_way"] == 0
    net.lost = lambda source, target, message: False
    net.up(3)
    net.run_ms(200)
    assert net.nodes[1].repair.hints_pending(3) == 0, "at once: who comes back is not made to wait"


def test_a_busy_target_is_left_alone_longer_and_longer() -> None:
    net = Net(interval_us=NEVER_US)
    net.nodes[3].refusal = BUSY
    net.put(KEY, b"v", by=1, to=(2,))
    net.run_ms(8000)
    assert 3 <= len(hints(net)) <= 5
    net.nodes[3].refusal = 0
    net.run_ms(20_000, 200)
    assert net.nodes[1].repair.hints_pending(3) == 0


def test_what_the_target_refuses_for_good_is_done_with() -> None:
    net = Net(interval_us=NEVER_US)
    net.put(KEY, b"v", by=1, to=(2,))
    net.nodes[3].repair.watermarks.raise_alone([SLOT], (net.now_ms + 10_000) << 16)
    net.run_ms(300)
    one = net.nodes[1].repair
    assert one.hints_pending(3) == 0 and net.nodes[3].value(KEY) is None
    assert one.stats()["hint_entries_refused"] == 1 and one.stats()["repair_writes_refused"] == 1


def test_an_entry_that_failed_brings_the_batch_back() -> None:
    net = Net(2, replicas=2, interval_us=NEVER_US)
    one = net.nodes[1].repair
    net.put(KEY, b"v", by=1)
    net.lost = lambda source, target, message: True
    net.run_ms(100)
    seq = hints(net)[0].seq
    one.on_message(2, WriteAcks((seq,), ((seq, 0, 4),)))
    assert one.hints_pending(2) == 1 and one.stats()["hint_batches_failed"] == 1
    one.on_message(2, WriteAcks((seq,)))
    assert one.hints_pending(2) == 1, "an answer to a batch that was given up means nothing"


def test_a_hint_of_the_future_waits_until_the_clock_permits_it() -> None:
    net = Net(interval_us=NEVER_US)
    one = net.nodes[1]
    net.put(b"before", b"v", by=1, to=(2,))
    net.run_ms(10, 10)
    one.repair.hints.commit(net.now_ms)
    internal = keys.record_key(0, KEY)
    one.repair.missed(3, encode_entry(internal, encode(1, pack_stamp((net.now_ms + 40_000) << 16, 1), b"$1\r\nv\r\n")))
    net.run_ms(1000)
    net.down(3)
    net.up(3)
    net.run_ms(28_000, 200)
    assert net.nodes[3].value(b"before") is not None and net.nodes[3].value(KEY) is None
    assert len(hints(net)) == 1 and one.repair.hints_pending(3) and not one.repair.stats()["hint_batches_failed"]
    net.run_ms(2000)
    assert net.nodes[3].value(KEY) is not None and one.repair.hints_pending(3) == 0


def test_acks_lead_to_the_next_batch_without_waiting_for_a_timer() -> None:
    net = Net(2, replicas=2, interval_us=NEVER_US)
    for number in range(40):
        net.put(b"big%d" % number, bytes(40_000), by=1)
        net.nodes[1].repair.before_commit([])
    net.turn(10)
    for _ in range(12):
        net.turn(1)
    assert net.nodes[1].repair.stats()["hints_delivered"] >= 30


def test_hints_go_in_small_pieces_while_clients_wait() -> None:
    net = Net(2, replicas=2, interval_us=NEVER_US)
    net.nodes[1].busy = True
    for number in range(10):
        net.put(b"big%d" % number, bytes(40_000), by=1)
        net.nodes[1].repair.before_commit([])
    net.run_ms(100)
    assert len(hints(net)) == 1 and len(hints(net)[0].payload) < 100_000
    net.run_ms(1000)
    assert net.nodes[1].repair.hints_pending(2) == 0


def test_hints_for_a_member_that_left_go_to_the_owners_of_the_keys() -> None:
    net = Net(3, replicas=2, interval_us=NEVER_US, formed=False)
    one = net.nodes[1].repair
    payloads = {}
    for number in range(30):
        key = b"k%d" % number
        record = encode(1, net.nodes[1].rig.keyspace.stamp(), b"$1\r\nv\r\n")
        payloads[key] = encode_entry(keys.record_key(0, key), record)
        one.missed(9, payloads[key])
    net.run_ms(200)
    assert one.hints_pending(9) == 30, "nobody knows the ring yet"
    for node in net.nodes.values():
        node.repair.on_ring(net.placement, node.short)
    net.run_ms(1000)
    assert one.hints.targets() == [] and one.stats()["hint_entries_redirected"] == 30
    for key in payloads:
        owners = net.placement.table[slot_of(key)]
        assert all((node.value(key) is not None) == (short in owners) for short, node in net.nodes.items())


def test_a_redirected_hint_waits_for_what_it_must_read() -> None:
    net = Net(2, replicas=1, interval_us=NEVER_US)
    node = net.nodes[1]
    key = next(b"k%d" % n for n in range(99) if net.placement.table[slot_of(b"k%d" % n)] == (1,))
    newer = encode(1, pack_stamp((net.now_ms + 50) << 16, 1), b"$3\r\nnew\r\n")
    node.apply(encode_entry(keys.record_key(0, key), newer))
    node.rig.flush()
    node.rig.cold()
    older = encode(1, pack_stamp(net.now_ms << 16, 2), b"$3\r\nold\r\n")
    node.repair.missed(9, encode_entry(keys.record_key(0, key), older))
    net.run_ms(1000)
    assert node.fetched and node.repair.hints.targets() == [] and node.value(key) == newer


@pytest.mark.parametrize("trouble", [CorruptionError("t", 0, "rot"), StorageFull("no room"), None])
def test_a_redirected_hint_that_cannot_be_applied_here_is_kept(trouble: RespkvError | None) -> None:
    net = Net(1, replicas=1, interval_us=NEVER_US)
    node = net.nodes[1]

    def apply(kind: int, payload: bytes, source: int | None) -> tuple[tuple[int, int], ...]:
        if trouble is not None:
            raise trouble
        return ((0, BUSY),)

    node.repair.replay._apply = apply
    node.repair.missed(9, encode_entry(keys.record_key(0, KEY), encode(1, pack_stamp(1 << 16, 1), b"v")))
    net.run_ms(3000)
    assert node.repair.hints_pending(9) == 1 and 2 <= node.repair.stats()["hint_batches_failed"] <= 4
    node.repair.replay._apply = node.replica.apply
    net.run_ms(5000)
    assert node.repair.hints_pending(9) == 0 and node.value(KEY) is not None


def test_old_hints_are_dropped_and_counted() -> None:
    net = Net(2, replicas=2, interval_us=NEVER_US)
    net.down(2)
    net.put(KEY, b"v", by=1)
    net.run_ms(100)
    net.now_ms += 4 * 3_600_000
    net.now_us += 4 * 3_600_000_000
    net.run_ms(100)
    assert net.nodes[1].repair.stats()["hints_dropped_old"] == 1 and net.nodes[1].repair.hints_pending(2) == 0


def test_hints_are_bounded_by_target() -> None:
    net = Net(2, replicas=2, interval_us=NEVER_US)
    one = net.nodes[1].repair
    one.hints.cap_bytes = 10_000
    net.down(2)
    for number in range(20):
        net.put(b"k%d" % number, bytes(1000), by=1)
    stats = one.stats()
    assert stats["hint_bytes"] <= 10_000 and stats["hints_dropped_full"] == 20 - one.hints_pending(2) > 0


def test_hint_syncs_come_once_a_second_and_one_at_a_time() -> None:
    net = Net(2, replicas=2, interval_us=NEVER_US)
    one = net.nodes[1].repair
    net.down(2)
    net.run_ms(2000)

    def held() -> Any:
        net.put(KEY, b"v", by=1)
        one.before_commit([])
        return one.sync_plan()

    net.now_us += 1_000_000
    plan = held()
    assert plan is not None
    net.now_us += 2_000_000
    assert held() is None, "the first one is still under way"
    plan.run()
    one.on_synced(plan)
    assert held() is not None and held() is None


def test_an_empty_payload_is_no_hint() -> None:
    net = Net(2, replicas=2)
    net.nodes[1].repair.missed(2, b"")
    assert net.nodes[1].repair.hints.targets() == []


# -- anti-entropy ------------------------------------------------------------------------------------


def test_divergence_heals_by_itself() -> None:
    net = Net()
    for number in range(60):
        payload = net.put(b"k%d" % number, b"v%d" % number, by=1, to=(2, 3))
        other = net.put(b"only%d" % number, b"x", by=1 + number % 3, to=(1, 2, 3))
        assert payload and other
    for node in net.nodes.values():
        for number in range(node.short, 60, 7):
            stamp = node.rig.keyspace.stamp()
            node.apply(encode_entry(keys.record_key(0, b"lone%d-%d" % (node.short, number)), encode(1, stamp, b"v")))
    assert not net.same()
    net.run_ms(30_000, 100)
    assert net.same()
    stats = net.nodes[1].repair.stats()
    assert stats["repair_sessions_completed"] and stats["repair_keys_listed"] and stats["repair_sent"]


def test_nothing_is_compared_before_the_ring_is_formed() -> None:
    net = Net(formed=False)
    net.nodes[1].apply(encode_entry(keys.record_key(0, KEY), encode(1, pack_stamp(1 << 16, 1), b"v")))
    net.run_ms(3000)
    assert not net.sent and net.nodes[1].repair.next_job() is None
    net.nodes[1].repair.on_message(2, Floors(1, (), ()))
    assert not net.sent and not net.nodes[1].repair.sessions.running()
    assert net.nodes[1].repair.repair() == 0 and net.nodes[1].repair.verify() == (True, {})


def test_a_stranger_is_not_listened_to() -> None:
    net = Net(interval_us=NEVER_US)
    for short in (0, 9):
        net.nodes[1].repair.on_message(short, Floors(1, (), ()))
    assert not net.nodes[1].repair.sessions.running() and not net.sent


def test_a_busy_node_pauses_and_goes_on() -> None:
    net = Net()
    net.nodes[1].apply(encode_entry(keys.record_key(0, KEY), encode(1, pack_stamp(1 << 16, 1), b"v")))
    for node in net.nodes.values():
        node.busy = True
    net.run_ms(5000)
    assert not net.sent and net.nodes[1].repair.stats()["repair_paused"] == 1
    for node in net.nodes.values():
        node.busy = False
    net.run_ms(15_000)
    assert net.same() and net.nodes[3].value(KEY) is not None


def test_a_session_can_be_asked_for() -> None:
    net = Net(interval_us=NEVER_US)
    entry = encode_entry(keys.record_key(0, KEY), encode(1, pack_stamp(1 << 16, 1), b"v"))
    net.nodes[1].apply(entry)
    assert net.nodes[1].repair.repair(SLOT) == 2
    assert net.nodes[1].repair.stats()["repair_sessions_asked_for"] == 2
    net.run_ms(5000, 20)
    assert net.same() and net.nodes[2].value(KEY) is not None and net.nodes[3].value(KEY) is not None
    assert net.nodes[1].repair.stats()["repair_sessions_asked_for"] == 0


def test_asking_for_everything_covers_what_was_asked_before() -> None:
    net = Net(2, replicas=2, interval_us=NEVER_US)
    repair = net.nodes[1].repair
    repair.repair(5)
    repair.repair()
    repair.repair(6)
    assert repair._asked == {2: None}
    net.run_ms(1000, 20)
    assert repair.stats()["repair_sessions_completed"] == 1 and not repair._asked
    for slot in range(100):
        repair.repair(slot)
    assert repair._asked == {2: None}, "so many single slots are as good as all"


def test_who_is_away_is_asked_when_it_comes_back() -> None:
    net = Net(2, replicas=2, interval_us=NEVER_US)
    net.down(2)
    assert net.nodes[1].repair.repair(7) == 1
    net.run_ms(500)
    assert not net.sent
    net.up(2)
    net.run_ms(1000)
    assert net.nodes[1].repair.stats()["repair_sessions_completed"] == 1


def test_slots_that_are_not_shared_are_not_asked_for() -> None:
    net = Net(4, replicas=2, interval_us=NEVER_US)
    for short, node in net.nodes.items():
        slot = next(slot for slot in range(SLOT_COUNT) if short not in net.placement.table[slot])
        assert node.repair.repair(slot) == 0
        mine = next(slot for slot in range(SLOT_COUNT) if short in net.placement.table[slot])
        assert node.repair.repair(mine) == 1


def test_blocks_that_are_not_in_memory_are_fetched() -> None:
    net = Net(2, replicas=2, interval_us=NEVER_US)
    for number in range(200):
        net.put(b"k%d" % number, b"v", by=1, to=(2,))
    net.nodes[1].apply(encode_entry(keys.record_key(0, b"k3"), encode(1, pack_stamp((net.now_ms - 1) << 16, 1), b"w")))
    extra = [encode(1, pack_stamp((net.now_ms - 60_000) << 16, 1), b"%d" % number) for number in range(50)]
    for number, record in enumerate(extra):
        net.nodes[1].apply(encode_entry(keys.record_key(0, b"extra%d" % number), record))
    for node in net.nodes.values():
        node.rig.flush()
    net.run_ms(1000)
    for node in net.nodes.values():
        node.rig.cold()
    before = net.nodes[1].fetched
    net.nodes[1].repair.repair()
    net.run_ms(30_000)
    assert net.nodes[1].fetched > before and net.same()
    assert all(net.nodes[2].value(b"extra%d" % number) == record for number, record in enumerate(extra))


def test_floors_travel_with_sessions() -> None:
    net = Net(2, replicas=2)
    net.put(KEY, b"v", by=1, to=(2,))
    net.run_ms(500)
    net.nodes[1].rig.applier.flush_database(0)
    net.nodes[1].commit()
    net.run_ms(20_000, 100)
    assert net.nodes[2].rig.keyspace.floors.hides(SLOT, 0, pack_stamp(START_MS + 400 << 16, 0))
    assert net.nodes[2].rig.view().string(KEY) is None and net.same()


def test_numbers_of_writes_are_told_from_a_coordinators() -> None:
    net = Net(interval_us=NEVER_US)
    one = net.nodes[1].repair
    net.put(KEY, b"v", by=1)
    net.run_ms(200)
    seq = hints(net)[0].seq
    assert one.owns_seq(seq) and not one.owns_seq(FIRST_SEQ) and not one.owns_seq(1)
    assert one.owns(WriteAcks((1, seq))) and one.owns(WriteAcks((), ((seq, 0, BUSY),)))
    assert not one.owns(WriteAcks((1,)))
    assert one.owns(TreeEnd(1, 0)) and not one.owns(Writes(1, REPAIR, b"")) and not one.owns(Ping)
    one.on_message(2, WriteAcks((1,), ((2, 0, BUSY),)))
    assert one.stats()["repair_writes_refused"] == 0


def test_damaged_data_ends_sessions_and_is_told_once_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    net = Net(2, replicas=2, interval_us=NEVER_US)
    one = net.nodes[1]
    one.apply(encode_entry(keys.record_key(0, KEY), encode(1, pack_stamp(1 << 16, 1), b"v")))

    def rotten(*args: object) -> None:
        raise CorruptionError("tables/7", 4096, "checksum")

    monkeypatch.setattr(type(one.repair.leaves.store), "list_slot", rotten)
    one.repair.leaves.check.due_us = NEVER_US
    for _ in range(2):
        one.repair.repair()
        net.run_ms(2000)
    assert one.repair.stats()["repair_damages"] >= 2 and not one.repair.sessions.running()
    assert [text for text in one.told if "tables/7" in text] == one.told and len(one.told) == 1
    monkeypatch.undo()
    net.run_ms(40_000, 200)
    one.repair.repair()
    net.run_ms(5000)
    assert net.same()


def test_another_ring_ends_sessions_and_voids_what_was_proved() -> None:
    net = proved(Net(interval_us=NEVER_US))
    one = net.nodes[1].repair
    net.nodes[1].repair.repair()
    net.run_ms(40, 10)
    assert one.sessions.running()
    one.on_ring(Placement(form(4)), 1)
    assert not one.sessions.running() and one.sessions.aborted
    marks = list(one.watermarks.marks)
    cuts = one.watermarks._cuts
    table = Placement(form(4)).table
    moved = [slot for slot in range(SLOT_COUNT) if sorted(table[slot]) != [1, 2, 3]]
    stay = next(slot for slot in range(SLOT_COUNT) if sorted(table[slot]) == [1, 2, 3])
    assert moved and all(each.get(slot) == 0 for each in cuts.values() for slot in moved)
    assert marks == list(one.watermarks.marks) and any(each.get(stay) for each in cuts.values())


def test_no_more_sessions_than_allowed() -> None:
    net = Net(5, replicas=5)
    for _ in range(10):
        net.run_ms(400, 100)
        assert all(len(node.repair.sessions.running()) <= SESSIONS_MAX for node in net.nodes.values())
    assert sum(node.repair.sessions.completed for node in net.nodes.values()) > 5


def test_timers_are_asked_for_sooner_while_a_session_runs() -> None:
    net = Net(2, replicas=2, interval_us=NEVER_US)
    net.run_ms(500)
    repair = net.nodes[1].repair
    assert net.now_us < repair.next_timer_us() <= net.now_us + 100_000
    repair.repair()
    assert repair.next_timer_us() <= net.now_us
    repair.on_timer(net.now_us)
    assert repair.sessions.running() and repair.next_timer_us() <= net.now_us + 20_000


# -- watermarks --------------------------------------------------------------------------------------


def proved(net: Net) -> Net:
    """Everybody has compared itself with everybody since what was there is old."""
    net.skip_ms(PROPAGATION_MS + 1000)
    for node in net.nodes.values():
        node.repair.repair()
    for _ in range(40):
        net.run_ms(500, 100)
        if not any(node.repair.stats()["repair_sessions_asked_for"] for node in net.nodes.values()):
            break
    return net


def least(net: Net) -> int:
    return min(min(node.repair.watermarks.marks) for node in net.nodes.values())


def graves(node: Node) -> int:
    return sum(1 for _, record in node.rig.driver.scan(b"\x01", b"\x02") if not record[0] & TYPE_MASK)


def compact(net: Net) -> None:
    """Give compaction reason to merge everything into one run."""
    for node in net.nodes.values():
        for turn in range(8):
            node.rig.engine.put(keys.meta_key(b"turn%d" % turn), encode(1, node.rig.keyspace.stamp(), b""))
            node.rig.flush()


def test_watermarks_move_and_graves_go() -> None:
    net = Net(interval_us=NEVER_US)
    for number in range(20):
        net.put(b"k%d" % number, b"v", by=1, to=(2, 3))
    for node in net.nodes.values():
        node.rig.flush()
    for number in range(10):
        net.put(b"k%d" % number, None, by=2, to=(1, 3))
    written_ms = net.now_ms
    net.run_ms(1000, 200)
    proved(net)
    assert least(net) > (written_ms + 1) << 16
    net.run_ms(SAVE_US // 1000 + 1000, 500)
    compact(net)
    assert all(graves(node) == 0 for node in net.nodes.values())
    assert all(sum(1 for _ in node.rig.driver.scan(b"\x01", b"\x02")) == 10 for node in net.nodes.values())
    net.run_ms(15_000, 1000)
    assert net.same()


def test_graves_stay_while_a_member_is_away() -> None:
    net = Net(interval_us=NEVER_US)
    net.put(KEY, b"v", by=1, to=(2, 3))
    net.run_ms(1000)
    net.down(3)
    net.put(KEY, None, by=1, to=(2,))
    proved(net).run_ms(SAVE_US // 1000 + 1000, 500)
    compact(net)
    stamp = int.from_bytes(stamp_of(net.nodes[1].value(KEY) or b"")[:8], "big")
    assert least(net) < stamp and graves(net.nodes[1]) == graves(net.nodes[2]) == 1
    net.up(3)
    net.run_ms(12_000, 500)
    for _ in range(2):
        proved(net).run_ms(SAVE_US // 1000 + 1000, 500)
    compact(net)
    assert [graves(node) for node in net.nodes.values()] == [0, 0, 0]
    assert all(node.value(KEY) is None for node in net.nodes.values()), "what was deleted does not come back"


def test_no_watermark_passes_a_hint() -> None:
    net = Net(interval_us=NEVER_US)
    net.lost = lambda source, target, message: isinstance(message, Writes) and message.kind == HINT
    net.put(KEY, b"v", by=1, to=(2,))
    stamp = int.from_bytes(net.nodes[1].repair.oldest_hint()[:8], "big")
    for _ in range(2):
        proved(net)
    assert 0 < max(max(node.repair.watermarks.marks) for node in net.nodes.values()) <= stamp


def test_what_a_silent_member_holds_is_assumed_to_be_old() -> None:
    net = Net(interval_us=NEVER_US)
    for node in net.nodes.values():
        node.heard = {}
    assert net.nodes[1].repair.neighbours.cut(net.now_ms) == 0
    proved(net)
    assert net.nodes[1].repair.sessions.completed and not any(net.nodes[1].repair.watermarks.marks)
    for node in net.nodes.values():
        node.heard = dict.fromkeys(net.nodes)
    proved(net)
    assert least(net) > 0


def test_old_writes_below_the_watermark_are_refused_hints_too() -> None:
    net = proved(Net(interval_us=NEVER_US))
    old = pack_stamp((net.now_ms - 10**6) << 16, 1)
    grave = encode_entry(keys.record_key(0, KEY), tombstone(old))
    written = encode_entry(keys.record_key(0, KEY), encode(1, old, b"v"))
    assert net.nodes[1].apply(grave, FOREGROUND, 2) == net.nodes[1].apply(written, HINT, 2) == ((0, BELOW_PURGE),)
    assert net.nodes[1].apply(written, REPAIR, 2) == () and net.nodes[1].value(KEY) is not None


def test_watermarks_are_kept_and_only_durable_ones_purge() -> None:
    net = proved(Net(2, replicas=2, interval_us=NEVER_US))
    net.run_ms(SAVE_US // 1000 + 1000, 500)
    one = net.nodes[1]
    kept = one.repair.purge_ranges()
    assert kept and max(mark for _, _, mark in kept) <= max(one.repair.watermarks.marks)
    one.restart(crash=True)
    again = one.repair.watermarks.ranges()
    assert one.repair.purge_ranges() == again
    assert min(mark for _, _, mark in again) >= min(mark for _, _, mark in kept)
    assert one.repair.stats()["purge_watermark_ms"] > 0


def test_a_watermark_that_is_not_on_disk_purges_nothing() -> None:
    net = Net(2, replicas=2, interval_us=NEVER_US)
    one = net.nodes[1]
    one.rig.driver.sync = lambda: None  # type: ignore[method-assign]
    one.repair.watermarks.adopt(3, 9, 77)
    net.run_ms(1000)
    assert one.rig.stored(WATERMARKS) is not None and one.repair.purge_ranges() == ()
    del one.rig.driver.sync
    net.run_ms(200)
    assert one.repair.purge_ranges() == ((3, 9, 77),)


def test_watermarks_are_logged_every_few_seconds_at_most_and_only_when_they_have_grown() -> None:
    net = Net(2, replicas=2, interval_us=NEVER_US)
    one = net.nodes[1]
    seen = []
    for step in range(100):
        if step < 50:
            one.repair.watermarks.adopt(0, 0, step + 1)
        net.run_ms(200, 200)
        record = one.rig.stored(WATERMARKS)
        if record not in seen:
            seen.append(record)
    assert 2 <= len(seen) <= 100 * 200_000 // SAVE_US + 1 and one.repair.purge_ranges() == ((0, 0, 50),)


def test_a_saved_watermark_of_the_future_is_not_believed_at_the_start() -> None:
    net = Net(2, replicas=2, interval_us=NEVER_US)
    one = net.nodes[1]
    one.repair.watermarks.raise_alone([3], net.now_ms << 16)
    one.repair.watermarks.raise_alone([5], 77)
    net.run_ms(1000)
    assert one.repair.purge_ranges() == ((3, 3, one.repair.watermarks.marks[3]), (5, 5, 77))
    one.restart(crash=True)
    assert one.repair.purge_ranges() == one.repair.watermarks.ranges() == ((5, 5, 77),)


def test_watermarks_of_a_newer_program_are_refused() -> None:
    net = Net(1, replicas=1)
    net.nodes[1].rig.keyspace.put_meta(WATERMARKS, b"\x07future")
    with pytest.raises(FormatError):
        net.nodes[1].restart()


def test_the_only_replica_asks_nobody() -> None:
    net = Net(2, replicas=1)
    net.run_ms(25_000, 500)
    for short, node in net.nodes.items():
        for slot in range(0, SLOT_COUNT, 97):
            owned = net.placement.table[slot] == (short,)
            mark = node.repair.watermarks.marks[slot]
            assert (net.now_ms - PROPAGATION_MS - 11_000) << 16 < mark < net.now_ms << 16 if owned else mark == 0


def test_a_member_that_comes_back_has_to_prove_itself_again() -> None:
    net = Net(2, replicas=2, interval_us=NEVER_US)
    marks = net.nodes[1].repair.watermarks
    marks.ended_equal(2, [5], 99)
    net.down(2)
    assert marks._cuts
    net.up(2)
    assert not marks._cuts


# -- leaf sums ---------------------------------------------------------------------------------------


def test_a_start_begins_with_a_walk_that_counts_keys_too() -> None:
    net = Net(1, replicas=1, interval_us=NEVER_US)
    one = net.nodes[1]
    for number in range(300):
        net.put(b"k%d" % number, b"v", by=1)
    one.rig.flush()
    one.restart()
    assert not one.repair.leaves.sums.exact
    one.rig.keyspace.counts.exact = False
    net.run_ms(500)
    assert one.repair.stats()["leaf_walks"] == 1 and one.repair.verify()[0] and not one.rig.wrong_cells()
    assert one.rig.keyspace.counts.exact and one.rig.total() == 300


def test_counts_that_are_exact_are_left_alone() -> None:
    net = Net(1, replicas=1, interval_us=NEVER_US)
    one = net.nodes[1]
    net.put(KEY, b"v", by=1)
    one.rig.flush()
    one.restart()
    one.rig.work()
    assert one.rig.keyspace.counts.exact
    net.run_ms(200)
    assert one.repair.verify()[0] and one.rig.keyspace.counts.exact and one.rig.total() == 1


def test_walks_wait_while_clients_do_and_after_a_failure() -> None:
    net = Net(1, replicas=1, interval_us=NEVER_US)
    one = net.nodes[1]
    net.put(KEY, b"v", by=1)
    one.rig.flush()
    one.restart()
    repair = one.repair
    one.busy = True
    assert repair.next_job() is None
    one.busy = False
    job = repair.next_job()
    assert job is not None and repair.owns_job(job) and repair.next_job() is None
    repair.on_job_failed(job, "no luck")
    assert not repair.owns_job(job) and repair.next_job() is None and not repair.verify()[0]
    net.now_us += 11_000_000
    for _ in range(10):
        one.rig.engine.tick()
    one.work()
    assert repair.verify()[0]


def test_tables_that_were_lost_make_the_sums_unknown() -> None:
    net = Net(1, replicas=1, interval_us=NEVER_US)
    one = net.nodes[1]
    net.put(KEY, b"v", by=1)
    one.rig.flush()
    net.run_ms(200)
    assert one.repair.verify()[0]
    one.repair.tables_damaged()
    assert not one.repair.verify()[0]
    net.run_ms(200)
    assert not one.repair.verify()[0], "not one walk after the other"
    net.run_ms(10_000, 500)
    assert one.repair.verify()[0] and not one.rig.wrong_cells()


def test_verify_names_the_roots_of_what_is_owned() -> None:
    net = Net(4, replicas=2, interval_us=NEVER_US)
    for short, node in net.nodes.items():
        exact, roots = node.repair.verify()
        assert exact and list(roots) == list(net.placement.owned(short))
    empty = net.nodes[1].repair.verify(SLOT)
    net.nodes[1].apply(encode_entry(keys.record_key(0, KEY), encode(1, pack_stamp(1 << 16, 1), b"v")))
    assert net.nodes[1].repair.verify(SLOT)[0] and net.nodes[1].repair.verify(SLOT) != empty


def test_the_weekly_look_finds_a_wrong_sum_and_puts_it_right() -> None:
    net = Net(1, replicas=1, interval_us=NEVER_US)
    one = net.nodes[1]
    for number in range(30):
        net.put(b"k%d" % number, b"v", by=1)
    net.run_ms(200)
    one.repair.leaves.check.period_us = one.repair.leaves.check.due_us = 0
    one.repair.leaves.sums.cells[SLOT << 6 | 3] ^= 77
    for _ in range(SLOT_COUNT + 10):
        one.repair.leaves.look(one.repair.neighbours.owned, net.now_us)
    stats = one.repair.stats()
    assert stats["leaf_check_wrong"] == 1 and stats["leaf_check_slots"] >= SLOT_COUNT and not one.rig.wrong_cells()
    assert [text for text in one.told if f"slot {SLOT} " in text] == one.told and one.told


def test_the_weekly_look_takes_a_week() -> None:
    net = Net(1, replicas=1, interval_us=NEVER_US)
    one = net.nodes[1]
    net.run_ms(200_000, 1000)
    assert 4 <= one.repair.stats()["leaf_check_slots"] <= 7
    one.busy = True
    before = one.repair.stats()["leaf_check_slots"]
    net.run_ms(100_000, 1000)
    assert one.repair.stats()["leaf_check_slots"] == before


def test_a_slot_that_is_written_all_the_time_is_left_for_next_week() -> None:
    net = Net(1, replicas=1, interval_us=NEVER_US)
    one = net.nodes[1]
    for number in range(1200):
        one.apply(encode_entry(keys.record_key(0, b"{t}%d" % number), encode(1, one.rig.keyspace.stamp(), b"v")))
    one.rig.settle()
    check = one.repair.leaves.check
    slot = slot_of(b"t")
    check.period_us = 0
    for number in range(40):
        one.repair.leaves.look([slot], net.now_us)
        one.apply(encode_entry(keys.record_key(0, b"{t}x%d" % number), encode(1, one.rig.keyspace.stamp(), b"v")))
        one.rig.settle()
    stats = check.stats()
    assert stats["leaf_check_slots_left"] >= 1 and stats["leaf_check_wrong"] == 0 and stats["leaf_check_slots"] == 0
    for _ in range(6):
        one.repair.leaves.look([slot], net.now_us)
    assert check.stats()["leaf_check_slots"] >= 1 and check.stats()["leaf_check_wrong"] == 0


def test_the_weekly_look_passes_over_rot(monkeypatch: pytest.MonkeyPatch) -> None:
    net = Net(1, replicas=1, interval_us=NEVER_US)
    one = net.nodes[1]

    def rotten(*args: object) -> None:
        raise CorruptionError("tables/7", 4096, "checksum")

    monkeypatch.setattr(type(one.repair.leaves.store), "list_slot", rotten)
    net.run_ms(100_000, 1000)
    assert 2 <= one.repair.stats()["repair_damages"] <= 4, "each slot is met once"


# -- start and end -----------------------------------------------------------------------------------


def test_a_hint_directory_that_cannot_be_made_is_told_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: HintStore, now_ms: int) -> None:
        raise OSError(errno.EIO, "no")

    monkeypatch.setattr(HintStore, "recover", full)
    with pytest.raises(OSError, match="no"):
        Net(1, replicas=1)


def test_closing_writes_what_was_added() -> None:
    net = Net(2, replicas=2, interval_us=NEVER_US)
    net.down(2)
    net.put(KEY, b"v", by=1)
    net.nodes[1].restart()
    assert net.nodes[1].repair.hints_pending(2) == 1


def test_figures_have_a_number_each() -> None:
    net = Net(2, replicas=2, interval_us=NEVER_US)
    stats = net.nodes[1].repair.stats()
    assert all(isinstance(value, int) for value in stats.values()) and isinstance(net.nodes[1].repair, Repair)
    wanted = {"hint_entries", "hint_bytes", "hint_oldest_ms", "repair_sessions", "repair_keys_listed", "repair_sent",
              "purge_watermark_ms", "leaf_sums_exact", "leaf_check_slots"}  # fmt: skip
    assert wanted <= stats.keys()


def test_sessions_that_all_ask_for_at_once_are_held_one_after_the_other() -> None:
    net = Net(interval_us=NEVER_US)
    for node in net.nodes.values():
        record = encode(1, pack_stamp(1 << 16, node.short), b"v")
        node.apply(encode_entry(keys.record_key(0, b"of%d" % node.short), record))
        node.repair.repair()
    net.run_ms(15_000, 100)
    for node in net.nodes.values():
        stats = node.repair.stats()
        assert stats["repair_sessions_asked_for"] == 0 and stats["repair_sessions_completed"] >= 2
    assert net.same()


def test_a_session_that_came_to_nothing_is_asked_for_again_with_all_its_slots() -> None:
    net = Net(2, replicas=2, interval_us=NEVER_US)
    net.lost = lambda source, target, message: True
    repair = net.nodes[1].repair
    repair.repair(5)
    net.run_ms(200)
    assert repair.sessions.running() and repair.stats()["repair_sessions_asked_for"] == 1
    repair.repair(6)
    net.down(2)
    net.run_ms(200)
    assert repair._asked == {2: {5: None, 6: None}}
    net.lost = lambda source, target, message: False
    net.up(2)
    net.run_ms(3000)
    assert repair.stats()["repair_sessions_completed"] == 1 and repair.stats()["repair_sessions_asked_for"] == 0
