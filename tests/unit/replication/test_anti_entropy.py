"""Sessions between replicas: what they repair, what they leave alone, what they prove, and how they end early."""

from __future__ import annotations

import pytest

from respkv.base.ids import HASH, STRING
from respkv.base.slots import SLOT_COUNT, slot_of
from respkv.causality.hlc import ZERO_STAMP, pack_stamp
from respkv.causality.record import DVV, encode, expired_form, tombstone
from respkv.keyspace import effects as fx
from respkv.keyspace import keys
from respkv.keyspace.leaf_rule import digest_of
from respkv.replication.anti_entropy import IDLE_US, SKEWED, TokenBucket
from respkv.replication.exchange import ALL_LEAVES, MALFORMED, PARTIAL, compare
from respkv.replication.tombstones import PROPAGATION_MS
from respkv.wire.messages import (
    BUSY,
    OK,
    Floors,
    PullRecords,
    TreeEnd,
    TreeKeys,
    TreeLeaves,
    TreeRoots,
    TreeSlots,
    Writes,
)
from tests.unit.keyspace.rig import START_MS
from tests.unit.replication.replica_rig import Group, Replica


def digest(at_ms: int, *, node: int = 1, flags: int = 0, rest: bytes = b"") -> bytes:
    return bytes((flags,)) + pack_stamp(at_ms << 16, node) + rest


def test_equal_stores_need_one_round() -> None:
    group = Group(2)
    for number in range(200):
        group.put(b"k%d" % number, b"v", to=[1, 2])
    group.session(1, 2)
    kinds = [type(message) for _, _, message in group.sent]
    assert TreeLeaves not in kinds and TreeKeys not in kinds and Writes not in kinds
    assert group.sent[-1][2].status == OK  # type: ignore[union-attr]
    for replica in group.replicas.values():
        assert replica.repair.stats()["repair_sessions_completed"] == 1


def test_both_directions_are_repaired_in_one_session() -> None:
    group = Group(2)
    for number in range(300):
        group.put(b"k%d" % number, b"old", to=[1, 2])
    for number in range(0, 300, 7):
        group.put(b"k%d" % number, b"left", to=[1])
    for number in range(0, 300, 11):
        group.put(b"k%d" % number, None, to=[2])
    for number in range(20):
        group.put(b"only%d" % number, b"x", to=[1 + number % 2])
    group.pass_ms(5000)
    assert not group.equal()
    group.session(2, 1)
    assert group.equal()
    stats = [replica.repair.stats() for replica in group.replicas.values()]
    assert sum(one["repair_differences"] for one in stats) == len({*range(0, 300, 7), *range(0, 300, 11)}) + 20
    assert sum(replica.applied for replica in group.replicas.values()) > 600


def test_an_empty_replica_gets_everything_in_pieces() -> None:
    slot = slot_of(b"t")
    group = Group(2, slots=[slot])
    for number in range(2500):
        group.put(b"{t}%d" % number, b"v" * 20, to=[1])
    group.pass_ms(5000)
    group.session(2, 1)
    assert group.equal() and len(group.replicas[2].contents()) == 2500
    assert {message.leaf for _, _, message in group.sent if isinstance(message, TreeKeys)} == {ALL_LEAVES}
    group.session(1, 2)
    assert group.equal()


def test_the_fuller_side_sends_its_listing_in_pieces_too() -> None:
    group = Group(2, slots=[slot_of(b"t")])
    for number in range(2500):
        group.put(b"{t}%d" % number, b"v" * 20, to=[1, 2] if number % 3 else [1])
    group.pass_ms(5000)
    group.session(1, 2)
    assert group.equal()
    pieces = [message for _, _, message in group.sent if isinstance(message, TreeKeys)]
    assert [piece.more for piece in pieces] == [True, True, False]


def test_a_few_leaves_are_listed_one_by_one() -> None:
    group = Group(2, slots=[slot_of(b"t")])
    for number in range(500):
        group.put(b"{t}%d" % number, b"v", to=[1, 2])
    group.put(b"{t}7", b"new", to=[2])
    group.pass_ms(5000)
    group.session(1, 2)
    assert group.equal()
    (piece,) = [message for _, _, message in group.sent if isinstance(message, TreeKeys)]
    assert piece.leaf < 64 and len(piece.keys) < 30


def test_long_records_go_a_megabyte_at_a_time() -> None:
    group = Group(2, slots=[slot_of(b"t")])
    for number in range(9):
        group.put(b"{t}%d" % number, b"v" * 400_000, to=[1])
    group.pass_ms(5000)
    group.session(1, 2)
    group.run_s(1)
    assert group.equal()
    sizes = [len(message.payload) for _, _, message in group.sent if isinstance(message, Writes)]
    assert len(sizes) == 3 and max(sizes) < 1_300_000


def test_elements_travel_behind_their_owner() -> None:
    group = Group(2)
    first, second = group.replicas[1], group.replicas[2]

    first.rig.apply(*(fx.put_element(0, b"h", 2, b"f%d" % number, b"x") for number in range(100)))
    group.pass_ms(5000)
    group.session(1, 2)
    assert group.equal()
    assert second.rig.fields(b"h") == first.rig.fields(b"h") and len(second.rig.fields(b"h") or ()) == 100
    first.rig.apply(fx.delete(0, b"h"))
    group.pass_ms(5000)
    group.session(1, 2)
    assert group.equal() and second.contents() == {}


def test_flush_floors_go_first() -> None:
    group = Group(2)
    for number in range(50):
        group.put(b"k%d" % number, b"v", to=[1, 2])

    group.replicas[1].rig.apply(fx.flush(0))
    group.put(b"after", b"v", to=[1])
    group.pass_ms(5000)
    group.session(2, 1)
    assert group.equal() and list(group.replicas[2].contents()) == [keys.record_key(0, b"after")]
    assert group.replicas[2].store.floors() == group.replicas[1].store.floors() != ()
    assert group.replicas[1].store.raise_floors(group.replicas[1].store.floors()) == 0


@pytest.mark.parametrize(("left", "right"), [(1, 2), (2, 1)])
def test_a_flush_of_the_future_is_taken_over_only_when_the_clock_permits_it(left: int, right: int) -> None:
    group = Group(2)
    group.put(b"k", b"v", to=[1, 2])
    far = group.now_ms + 20_000
    group.replicas[1].raise_floor(0, 5, 5, pack_stamp(group.now_ms << 16, 1))
    group.replicas[1].raise_floor(3, 0, SLOT_COUNT - 1, pack_stamp(far << 16, 1))
    second = group.replicas[2]
    group.session(left, right)
    assert second.store.floors() == () and not group.replicas[1].repair.completed and not second.repair.completed
    assert group.sent[-1][2] == TreeEnd(group.sent[0][2].session, SKEWED)  # type: ignore[union-attr]
    group.pass_ms(10_000)
    group.session(left, right)
    assert second.store.floors() == group.replicas[1].store.floors() != ()
    assert second.rig.keyspace.clock.last >= far << 16, "what is written here now lies above it"


def test_young_differences_are_left_to_the_next_session() -> None:
    group = Group(2)
    group.put(b"k", b"v", to=[1])
    group.session(1, 2)
    assert not group.equal() and group.replicas[2].repair.counters.young == 1
    group.pass_ms(5000)
    group.session(1, 2)
    assert group.equal()


def test_expired_forms_do_not_count_as_differences() -> None:
    group = Group(2)
    record = encode(1, pack_stamp(START_MS << 16, 1), b"v", START_MS + 3000)
    internal = keys.record_key(0, b"k")
    for short in (1, 2):
        group.write(short, internal, record)
    group.pass_ms(5000)
    group.write(1, internal, expired_form(record))
    assert group.same_roots() and digest_of(record) == digest_of(expired_form(record))
    # Only one of them has expired it, and the watermark passes: the other leaves it out of its listing.
    for replica in group.replicas.values():
        replica.watermarks.raise_alone(group.slots, START_MS + 1000 << 16)
    assert not group.same_roots()
    group.session(1, 2)
    assert group.replicas[1].applied == 2 and not [m for _, _, m in group.sent if isinstance(m, Writes)]
    group.write(2, internal, expired_form(record))
    assert group.equal()


def test_a_session_over_some_slots_ends_partial() -> None:
    group = Group(2)
    group.put(b"a", b"v", to=[1])
    group.put(b"b", b"v", to=[1])
    group.pass_ms(PROPAGATION_MS + 10_000)
    group.session(1, 2, [slot_of(b"a")])
    assert set(group.replicas[2].contents()) == {keys.record_key(0, b"a")}
    assert [m.status for _, _, m in group.sent if isinstance(m, TreeEnd)] == [PARTIAL, OK]
    assert not group.replicas[1].repair.begin(2, group.now_us, group.now_ms, [])
    # The responder does not know that anything is equal.
    group.session(1, 2)
    group.session(1, 2)
    assert group.replicas[2].watermarks.marks[slot_of(b"b")] > 0


def test_a_session_over_some_slots_compares_their_leaves_at_once() -> None:
    group = Group(2)
    names = [b"k%d" % number for number in range(40)]
    for name in names:
        group.put(name, b"v", to=[1])
    group.pass_ms(PROPAGATION_MS + 10_000)
    slots = sorted({slot_of(name) for name in names})
    first, second = group.replicas[1], group.replicas[2]
    group.session(1, 2, [*slots, slot_of(b"empty")])
    sent = [message for source, _, message in group.sent if source == 1]
    assert not any(isinstance(message, TreeRoots) for message in sent)
    pieces = [len(message.slots) for message in sent if isinstance(message, TreeLeaves)]
    assert sum(pieces) == len(slots) + 1 and max(pieces) == 16
    assert group.equal() and first.repair.counters.slots_differing == len(slots)
    assert watermark(first, b"empty") > 0, "what was equal is proved to who asked"
    group.session(1, 2, slots)
    assert first.repair.counters.slots_differing == len(slots)
    assert all(watermark(first, name) > 0 for name in names)
    assert not any(second.watermarks.marks), "who was asked is told of nothing that is equal"


def test_slots_are_counted_as_different_by_their_leaves() -> None:
    group = Group(2)
    for name in (b"a", b"b", b"c"):
        group.put(name, b"v", to=[1])
    group.pass_ms(5000)
    group.session(2, 1)
    assert group.equal()
    assert [replica.repair.counters.slots_differing for replica in group.replicas.values()] == [0, 3]


def watermark(replica: Replica, key: bytes) -> int:
    return replica.watermarks.marks[slot_of(key)] >> 16


def test_the_watermark_needs_equality_with_every_co_replica() -> None:
    group = Group(3)
    group.put(b"k", b"v", to=[1, 2, 3])
    group.pass_ms(PROPAGATION_MS * 2)
    start = group.now_ms
    group.session(1, 2)
    assert watermark(group.replicas[1], b"k") == 0
    group.session(1, 3)
    mark = watermark(group.replicas[1], b"k")
    assert start - PROPAGATION_MS <= mark <= group.now_ms - PROPAGATION_MS
    assert watermark(group.replicas[3], b"k") == 0
    group.session(3, 1)
    assert watermark(group.replicas[3], b"k") == mark, "the lower side takes the higher over"


def test_the_watermark_stands_still_below_hints_and_old_differences() -> None:
    group = Group(2)
    group.put(b"k", b"v", to=[1])
    group.pass_ms(PROPAGATION_MS * 2)
    group.session(1, 2)
    assert group.equal() and watermark(group.replicas[1], b"k") == watermark(group.replicas[2], b"k") == 0
    other = b"other"
    assert watermark(group.replicas[1], other) > 0, "only that slot differed"
    group.replicas[2].hint_stamp = pack_stamp(START_MS + 5 << 16, 2)
    group.session(1, 2)
    assert watermark(group.replicas[1], b"k") == watermark(group.replicas[2], b"k") == START_MS + 5
    group.replicas[2].hint_stamp = b""
    group.session(2, 1)
    assert watermark(group.replicas[1], b"k") > START_MS + 1000


class Passing:
    """A hash whose field 1 alone has removed, long ago, while ``held`` still hold it."""

    owner = keys.record_key(0, b"h")
    element = keys.element_prefix(owner) + b"f"

    def __init__(self, held: tuple[int, ...]) -> None:
        self.group = group = Group(2)
        self.expire(0, 1, 2)
        for short in held:
            group.write(short, self.element, encode(STRING, pack_stamp(START_MS << 16, 1), b"v"))
        self.grave = tombstone(pack_stamp(START_MS + 1 << 16, 1))
        group.write(1, self.element, self.grave)
        group.pass_ms(PROPAGATION_MS * 2)

    def expire(self, in_ms: int, *shorts: int) -> None:
        """EXPIRE of the hash, or PERSIST."""
        at_ms = self.group.now_ms + in_ms if in_ms else 0
        record = encode(HASH, self.group.replicas[1].rig.keyspace.stamp(), ZERO_STAMP, at_ms)
        for short in shorts:
            self.group.write(short, self.owner, record)

    def marks(self, key: bytes) -> list[int]:
        return [watermark(replica, key) for replica in self.group.replicas.values()]


@pytest.mark.parametrize("initiator", [1, 2])
@pytest.mark.parametrize("held", [(1, 2), ()])
def test_the_watermark_waits_for_elements_that_are_not_compared_before_their_owner_expires(
    held: tuple[int, ...], initiator: int
) -> None:
    passing = Passing(held)
    group, second = passing.group, passing.group.replicas[2]
    before = second.rig.stored(passing.element)
    passing.expire(9000, 1, 2)
    for _ in range(2):
        group.session(initiator, 3 - initiator)
    assert second.rig.stored(passing.element) == before, "that would be needless soon"
    assert passing.marks(b"h") == [0, 0] and min(passing.marks(b"other")) > 0
    passing.expire(0, 1, 2)
    for _ in range(2):
        group.session(initiator, 3 - initiator)
    assert second.rig.stored(passing.element) == passing.grave
    assert min(passing.marks(b"h")) > 0


@pytest.mark.parametrize("initiator", [1, 2])
def test_what_one_side_leaves_out_holds_the_watermark_of_both(initiator: int) -> None:
    passing = Passing(())
    passing.expire(9000, 1)
    passing.expire(0, 2)
    passing.group.session(initiator, 3 - initiator)
    assert passing.marks(b"h") == [0, 0] and min(passing.marks(b"other")) > 0


def test_equal_elements_of_an_owner_that_expires_soon_hold_no_watermark() -> None:
    passing = Passing(())
    passing.group.write(2, passing.element, passing.grave)
    passing.expire(9000, 1, 2)
    passing.group.session(1, 2)
    assert min(passing.marks(b"h")) > 0


def test_an_old_record_that_comes_during_a_session_proves_nothing() -> None:
    group = Group(2)
    group.pass_ms(PROPAGATION_MS * 2)
    first = group.replicas[1]
    assert first.repair.begin(2, group.now_us, group.now_ms)
    for _ in range(3):
        group.turn()
    group.put(b"k", b"late", to=[1], at_ms=START_MS)
    for _ in range(10):
        group.turn()
    assert not first.repair.running()
    assert watermark(first, b"k") == 0 and watermark(first, b"other") > 0


def test_an_end_waits_for_the_disk() -> None:
    group = Group(2)
    group.put(b"k", b"v", to=[1, 2])
    first, second = group.replicas[1], group.replicas[2]
    first.rig.settle()
    second.rig.settle()
    second.rig.driver.sync = lambda: None  # type: ignore[method-assign]
    assert first.repair.begin(2, group.now_us, group.now_ms)
    for _ in range(50):
        group.turn()
    assert first.repair.running() and second.repair.running()
    del second.rig.driver.sync
    for _ in range(5):
        group.turn()
    assert not first.repair.running() and not second.repair.running()


def test_sessions_are_few_and_refusals_end_them() -> None:
    group = Group(4)
    first = group.replicas[1]
    for replica in group.replicas.values():
        replica.rig.settle()
    assert first.repair.begin(2, group.now_us, group.now_ms)
    assert not first.repair.begin(2, group.now_us, group.now_ms), "one with each peer"
    assert first.repair.begin(3, group.now_us, group.now_ms)
    assert not first.repair.begin(4, group.now_us, group.now_ms), "two in all"
    assert "Initiator" in repr(first.repair.running()[0])
    first.repair.on_message(4, Floors(98, (), ()), group.now_us, group.now_ms)
    assert first.repair.outbox == [(4, TreeEnd(98, BUSY))]
    first.repair.on_message(4, PullRecords(98, ()), group.now_us, group.now_ms)
    first.repair.on_message(2, TreeEnd(first.repair.running()[0].id, BUSY), group.now_us, group.now_ms)
    first.repair.poll(group.now_us, group.now_ms)
    assert len(first.repair.running()) == 1 and first.repair.stats()["repair_sessions_aborted"] == 1
    first.repair.abort_all()
    assert not first.repair.running()
    first.repair.check_invariants()
    first.watermarks.check_invariants()


def test_a_silent_peer_is_given_up() -> None:
    group = Group(2)
    first = group.replicas[1]
    first.rig.settle()
    assert first.repair.begin(2, group.now_us, group.now_ms)
    first.repair.poll(group.now_us, group.now_ms)
    first.repair.poll(group.now_us + IDLE_US, group.now_ms)
    assert first.repair.running()
    first.repair.outbox.clear()
    first.repair.pause = True
    first.repair.poll(group.now_us + IDLE_US + 1, group.now_ms)
    assert not first.repair.running() and isinstance(first.repair.outbox[-1][1], TreeEnd)


def test_the_rate_is_kept_and_a_pause_holds_everything() -> None:
    group = Group(2, slots=[slot_of(b"t")], keys_per_s=500)
    for number in range(3000):
        group.put(b"{t}%d" % number, b"v", to=[1])
    group.pass_ms(5000)
    first = group.replicas[1]
    first.rig.settle()
    assert first.repair.begin(2, group.now_us, group.now_ms)
    group.run_s(1)
    listed = first.repair.counters.keys_listed
    assert 1000 <= listed <= 2500 and first.repair.next_poll_us(group.now_us) > group.now_us
    for replica in group.replicas.values():
        replica.repair.pause = True
    group.run_s(1)
    assert first.repair.counters.keys_listed == listed
    for replica in group.replicas.values():
        replica.repair.pause = False
    group.run_s(8)
    assert first.repair.counters.keys_listed >= 3000 and group.equal()


def test_a_bucket_saves_up_two_seconds_and_may_be_overdrawn_once() -> None:
    bucket = TokenBucket(100)
    assert bucket.refill(0)
    bucket.spend(300)
    assert not bucket.refill(0) and bucket.wait_us() == 1_000_001
    assert not bucket.refill(999_999) and bucket.refill(1_010_000) and bucket.wait_us() == 0


def test_compare_decides_by_stamps() -> None:
    cut = 2000 << 16
    options = {"cut": cut, "young_after_ms": 5000}
    a, b = b"\x01a", b"\x01b"
    found = compare({a: digest(3000), b: digest(3000)}, {a: digest(4000)}, **options)
    assert (found.send, found.pull, found.young, found.old) == ([b], [a], 0, False)
    found = compare({a: digest(1000)}, {a: digest(6000)}, **options)
    assert (found.send, found.pull, found.young, found.old) == ([], [], 1, True)
    found = compare({a: digest(3000)}, {a: digest(3000, flags=0x10, rest=b"12345678")}, **options)
    assert found.send == found.pull == [a], "should not be, and is merged both ways"
    found = compare({a: digest(3000, flags=DVV, rest=b"12345678")}, {a: digest(4000, flags=DVV, rest=b"8")}, **options)
    assert found.send == found.pull == [a], "containers are merged"
    assert compare({a: digest(3000)}, {a: digest(3000)}, **options) == ([], [], 0, False)


def test_sessions_begin_by_themselves() -> None:
    group = Group(3, slots=[slot_of(b"k")], interval_us=10_000_000)
    group.put(b"k", b"v", to=[1])
    group.run_s(40)
    assert group.equal()
    assert all(replica.repair.begun >= 3 for replica in group.replicas.values())
    assert group.replicas[1].repair.next_poll_us(group.now_us) > group.now_us


def test_blocks_that_are_not_in_memory_interrupt_a_session() -> None:
    group = Group(2, slots=[slot_of(b"t")])
    for number in range(600):
        group.put(b"{t}%d" % number, b"v" * 50, to=[1, 2] if number % 2 else [1])
    for replica in group.replicas.values():
        replica.rig.settle()
        replica.rig.flush()
        replica.rig.settle()
        replica.rig.cold()
    group.pass_ms(5000)
    group.session(1, 2)
    assert group.equal()


def test_sums_that_are_not_ready_refuse_sessions() -> None:
    group = Group(2)
    group.put(b"k", b"v", to=[1])
    first = group.replicas[1]
    assert not first.repair.begin(2, group.now_us, group.now_ms)
    first.repair.on_message(2, Floors(7, (), ()), group.now_us, group.now_ms)
    assert first.repair.outbox == [(2, TreeEnd(7, BUSY))]


def test_a_responder_names_its_different_slots() -> None:
    group = Group(2)
    group.put(b"k", b"v", to=[1])
    group.pass_ms(PROPAGATION_MS * 2)
    group.session(1, 2)
    ends = [message for _, _, message in group.sent if isinstance(message, TreeSlots)]
    assert ends[-1].roots == ((slot_of(b"k"), 0),)


@pytest.mark.parametrize("seed", range(3))
def test_links_that_break_leave_nothing_open(seed: int) -> None:
    group = Group(2, slots=[slot_of(b"t")])
    for number in range(200):
        group.put(b"{t}%d" % number, b"v", to=[1 + number % 2])
    group.pass_ms(5000)
    first = group.replicas[1]
    for replica in group.replicas.values():
        replica.rig.settle()
    assert first.repair.begin(2, group.now_us, group.now_ms)
    for _ in range(2 + seed):
        group.turn()
    group.partition(1, 2)
    assert not first.repair.running() and not group.replicas[2].repair.running()
    group.heal()
    group.session(2, 1)
    assert group.equal()


K, OLD = keys.record_key(0, b"k"), digest(START_MS)
MALFORMED_MESSAGES = {
    "too few groups": TreeRoots(0, (1, 2, 3)),
    "too many groups": TreeRoots(0, (1,) * 200),
    "roots of a slot that is none": TreeSlots(0, ((65000, 1),)),
    "leaves of a slot that is none": TreeLeaves(0, ((65000, (1,) * 64),)),
    "too few leaves": TreeLeaves(0, ((slot_of(b"k"), (1, 2, 3)),)),
    "keys of a slot that is none": TreeKeys(0, 65000, ALL_LEAVES, False, ()),
    "keys of a leaf that is none": TreeKeys(0, slot_of(b"k"), 64, False, ()),
    "an empty key": TreeKeys(0, slot_of(b"k"), ALL_LEAVES, False, ((b"", OLD),)),
    "an empty digest": TreeKeys(0, slot_of(b"k"), ALL_LEAVES, False, ((K, b""),)),
    "a key of another slot": TreeKeys(0, slot_of(b"k"), ALL_LEAVES, False, ((keys.record_key(0, b"x"), OLD),)),
    "a wish for an empty key": PullRecords(0, (b"",)),
    "a wish for a key of three bytes": PullRecords(0, (K[:3],)),
    "a wish for what is this node's alone": PullRecords(0, (keys.meta_key(b"purge"),)),
    "a wish of a slot that is none": PullRecords(0, (b"\x01\xff\xff\0\0k",)),
    "floors of slots that are none": Floors(0, ((0, 16384, 0, b"\1" * 10),), ()),
    "floors from the end to the start": Floors(0, ((2, 1, 0, b"\1" * 10),), ()),
    "watermarks of slots that are none": Floors(0, (), ((0, 16384, 5),)),
    "an end before anything was compared": TreeEnd(0, OK),
}  # fmt: skip


@pytest.mark.parametrize("side", [1, 2])
@pytest.mark.parametrize("name", MALFORMED_MESSAGES)
def test_what_no_peer_would_send_ends_the_session_and_proves_nothing(name: str, side: int) -> None:
    group = Group(2)
    group.put(b"k", b"v", to=[1, 2])
    group.pass_ms(PROPAGATION_MS * 2)
    for replica in group.replicas.values():
        replica.rig.settle()
    assert group.replicas[1].repair.begin(2, group.now_us, group.now_ms)
    for _ in range(2):
        group.turn()
    group.wire.clear()
    replica = group.replicas[side]
    (session,) = replica.repair.running()
    message = MALFORMED_MESSAGES[name]._replace(session=session.id)
    session.inbox.clear()
    replica.repair.on_message(3 - side, message, group.now_us, group.now_ms)
    group.sent.clear()
    group.turn()
    assert [(source, sent) for source, _, sent in group.sent if source == side][-1] == (
        side,
        TreeEnd(session.id, MALFORMED),
    )
    group.turn()
    for each in group.replicas.values():
        assert not each.repair.running() and each.repair.aborted == 1
        assert not any(each.watermarks.marks) and each.store.floors() == ()
