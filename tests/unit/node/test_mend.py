"""Damaged tables made whole: what is readable stays, the rest comes from all co-replicas, nothing deleted returns."""

from __future__ import annotations

import random

import pytest

from respkv.base.errors import CorruptionError, ProtocolError
from respkv.base.ids import HASH
from respkv.base.slots import slot_of
from respkv.causality.hlc import pack_stamp
from respkv.causality.record import TYPE_MASK, encode, tombstone
from respkv.keyspace import effects as fx
from respkv.keyspace import keys
from respkv.node.mend import AGAIN_US, ANSWER_US, DAMAGED_US, LOOK_US
from respkv.replication.replica import Replica
from respkv.storage.write_batch import encode_entry
from respkv.wire.messages import BUSY, CORRUPT, OK, RangeRead, RangeResult
from tests.unit.node.repair_rig import Net, Node

NEVER_US = 1 << 50
KEYS = [b"k%d" % number for number in range(300)]


def record_of(node: Node, value: bytes, *, ms: int = 0, short: int = 1) -> bytes:
    stamp = pack_stamp((node.net.now_ms + ms) << 16, short)
    return encode(1, stamp, b"$%d\r\n%s\r\n" % (len(value), value))


def give(node: Node, key: bytes, record: bytes) -> bytes:
    node.apply(encode_entry(keys.record_key(0, key), record))
    return record


def tables(node: Node) -> list[str]:
    return [f"/db/tables/{name}" for name in sorted(node.rig.fs.listdir("/db/tables"))]


def rot(node: Node, path: str = "", *, every: int = 1500) -> None:
    """A bit flips here and there in the blocks of a table, and caches forget."""
    fs = node.rig.fs
    path = path or tables(node)[-1]
    for offset in range(200, int(fs.size(path) * 0.7), every):
        fs.flip(path, offset, 3)
    node.rig.cold()


def lose(node: Node) -> None:
    """All tables are gone at the next start."""
    for path in tables(node):
        node.rig.fs.remove(path)


def loaded(count: int = 3, *, value: int = 80) -> tuple[Net, dict[bytes, bytes]]:
    """Every node holds the same of KEYS in its memtable; the first one has it in a table."""
    net = Net(count, replicas=count, interval_us=NEVER_US)
    rng, held = random.Random(1), {}
    for number, key in enumerate(KEYS):
        held[key] = record_of(net.nodes[1], rng.randbytes(value), ms=number)
        for node in net.nodes.values():
            give(node, key, held[key])
    net.nodes[1].rig.flush()
    return net, held


def values(node: Node) -> dict[bytes, bytes | None]:
    """What a node reads itself; CorruptionError where it cannot."""
    return {key: node.rig.stored(keys.record_key(0, key)) for key in KEYS}


def unreadable(node: Node) -> int:
    found = 0
    for key in KEYS:
        try:
            node.rig.serve(lambda key=key: node.rig.engine.get(keys.record_key(0, key)))  # type: ignore[misc]
        except CorruptionError:
            found += 1
    return found


def mended(net: Net, short: int = 1, ms: int = 8000) -> bool:
    net.run_ms(ms, 50)
    net.nodes[short].mend.check_invariants()
    return not net.nodes[short].rig.engine.damaged_tables()


def test_holes_are_filled_and_the_table_goes() -> None:
    net, held = loaded()
    one = net.nodes[1]
    path = tables(one)[0]
    rot(one)
    bad = unreadable(one)
    assert 10 < bad < len(KEYS)
    assert mended(net) and values(one) == held and path not in tables(one)
    stats = one.mend.stats()
    assert stats["tables_mended"] == 1 and stats["mend_holes"] > 3 and bad <= stats["mend_records_fetched"] < 300
    assert net.same(), "leaf sums are known again, and equal"
    one.restart(crash=True)
    assert values(one) == held, "what was put is durable before the table goes"


def test_what_the_log_has_no_room_for_waits_in_the_damaged_table_and_at_the_others() -> None:
    """Half of the values can be read, half must be fetched; both are too long for the disk as it is."""
    net = Net(2, replicas=2, interval_us=NEVER_US)
    one, held = net.nodes[1], {}
    for number, key in enumerate(KEYS[:8]):
        held[key] = record_of(one, random.Random(number).randbytes(700_000), ms=number)
        for node in net.nodes.values():
            give(node, key, held[key])
            node.rig.commit()
    one.rig.flush()
    rot(one, every=2_000_000)
    one.rig.fs.capacity = one.rig.fs.used() + 100_000
    assert 0 < unreadable(one) < 8 and not mended(net) and one.rig.engine.commit()
    assert len(one.rig.engine.memtable.table) < 8, "or nothing would have been left to refuse"
    one.rig.fs.capacity = None
    one.rig.engine.tick()
    assert mended(net, ms=20_000) and {key: values(one)[key] for key in held} == held


def test_a_table_that_is_lost_comes_back_whole() -> None:
    net, held = loaded(2)
    one = net.nodes[1]
    lose(one)
    one.restart()
    assert unreadable(one) == len(KEYS)
    assert mended(net) and values(one) == held


def test_the_newest_of_all_counts_wherever_it_is() -> None:
    net, held = loaded()
    one, two, three = (net.nodes[short] for short in (1, 2, 3))
    rot(one, every=300)
    for key in KEYS[:50]:
        held[key] = give(two, key, record_of(two, b"two", ms=5000, short=2))
    for key in KEYS[50:100]:
        held[key] = give(three, key, record_of(three, b"three", ms=5000, short=3))
    for key in KEYS[100:150]:
        held[key] = give(one, key, record_of(one, b"mine", ms=9_000, short=1))
    for key in KEYS[150:200]:
        held[key] = give(two, key, tombstone(pack_stamp((net.now_ms + 5000) << 16, 2)))
    unreadable(one)
    assert mended(net)
    holes = {key for key, record in values(one).items() if record == held[key]}
    assert holes >= set(KEYS[100:150]) | set(KEYS[200:])
    newer = sum(values(one)[key] == held[key] for key in [*KEYS[:100], *KEYS[150:200]])
    assert newer > 100, "what lay in holes is as new as anywhere; the rest is anti-entropy's business"


def test_an_acknowledged_write_that_one_other_replica_has_is_found() -> None:
    """W = 2: this node had it, and node 3; node 2, which never heard of it, must not be the only one asked."""
    net = Net(3, interval_us=NEVER_US)
    one, three = net.nodes[1], net.nodes[3]
    record = record_of(one, b"v" * 100)
    give(one, b"k", record)
    give(three, b"k", record)
    one.rig.flush()
    rot(one, every=20)
    assert mended(net) and one.value(b"k") == record


def test_what_a_purged_grave_hid_does_not_come_back() -> None:
    net, held = loaded()
    one = net.nodes[1]
    # A newer table holds graves, which all have purged; the others have nothing of these keys any more.
    for number, key in enumerate(KEYS[:100]):
        grave = tombstone(pack_stamp((net.now_ms + 1000 + number) << 16, 1))
        give(one, key, grave)
    for key in KEYS[100:110]:
        give(one, key, record_of(one, b"later", ms=1000))
    one.rig.engine.rotate()
    one.rig.driver.settle()
    for node in (net.nodes[2], net.nodes[3]):
        for key in KEYS[:100]:
            internal = keys.record_key(0, key)
            del node.rig.engine.memtable.table[internal]
            node.rig.keyspace.cache.clear_all()
        for slot in {slot_of(key): None for key in KEYS}:
            node.repair.watermarks.raise_alone([slot], (net.now_ms + 2000) << 16)
    for slot in {slot_of(key): None for key in KEYS}:
        one.repair.watermarks.raise_alone([slot], (net.now_ms + 2000) << 16)
    assert len(tables(one)) == 2
    rot(one, tables(one)[-1], every=10)
    assert mended(net)
    found = values(one)
    for key in KEYS[:100]:
        record = found[key]
        assert record is None or not record[0] & TYPE_MASK, key
    assert [found[key] for key in KEYS[110:]] == [held[key] for key in KEYS[110:]]


def test_what_only_this_node_has_and_is_young_stays() -> None:
    net, held = loaded()
    one = net.nodes[1]
    # An older table with a record that nobody else has: a write at EVENTUAL that has not been spread yet.
    alone = give(one, b"alone", record_of(one, b"x" * 200, ms=1))
    one.rig.flush()
    for key in KEYS[:50]:
        held[key] = record_of(one, b"again", ms=500)
        for node in net.nodes.values():
            give(node, key, held[key])
    one.rig.flush()
    rot(one, tables(one)[-1], every=30)
    assert mended(net) and one.value(b"alone") == alone and values(one) == held


def test_hashes_come_back_with_their_fields_and_are_counted_anew() -> None:
    net = Net(2, replicas=2, interval_us=NEVER_US)
    one, two = net.nodes[1], net.nodes[2]
    for number in range(40):
        for field in range(20):
            effects = (fx.put_element(0, b"h%d" % number, HASH, b"f%d" % field, b"v" * 40),)
            one.rig.apply(*effects)
    payload = one.replica.range_page(b"\x01", b"\x02", 1 << 20).payload
    elements = one.replica.range_page(b"\x02", b"\x03", 1 << 20).payload
    counts = one.replica.range_page(b"\x06", b"\x07", 1 << 20).payload
    two.apply(payload + elements + counts)
    for number in range(40):
        for field in range(5):
            two.rig.apply(fx.put_element(0, b"h%d" % number, HASH, b"f%d" % (field + 100), b"only there"))
    one.rig.flush()
    rot(one, every=700)
    assert mended(net)
    more, view = 0, one.rig.view()
    for number in range(40):
        fields = one.rig.fields(b"h%d" % number)
        row = one.rig.serve(lambda number=number: view.hash(b"h%d" % number))  # type: ignore[misc]
        assert fields is not None and row is not None and len(fields) >= 20
        assert one.rig.serve(row.count) == len(fields)
        more += len(fields) - 20
    assert more > 0, "what came with the holes is counted"


def test_expiry_goes_on() -> None:
    net = Net(2, replicas=2, interval_us=NEVER_US)
    one = net.nodes[1]
    for number in range(200):
        stamp = pack_stamp((net.now_ms + number) << 16, 1)
        record = encode(1, stamp, b"$4\r\nsoon\r\n", net.now_ms + 60_000)
        for node in net.nodes.values():
            give(node, b"e%d" % number, record)
    one.rig.flush()
    rot(one, every=400)
    assert mended(net)
    net.skip_ms(61_000)
    one.rig.expire()
    alive = sum((one.value(b"e%d" % number) or b"\0")[0] & TYPE_MASK != 0 for number in range(200))
    assert alive == 0


def test_who_is_away_is_waited_for() -> None:
    net, held = loaded()
    one = net.nodes[1]
    rot(one)
    net.down(3)
    unreadable(one)
    assert not mended(net) and one.mend.stats()["mend_waiting"] == 1
    assert sum("waits for node 3" in line for line in one.told) == 1
    net.up(3)
    assert mended(net) and values(one) == held and one.mend.stats()["mend_waiting"] == 0


def test_an_answer_that_does_not_come_is_asked_for_again() -> None:
    net, held = loaded()
    one = net.nodes[1]
    rot(one)
    net.lost = lambda source, target, message: isinstance(message, RangeResult) and source == 2
    unreadable(one)
    assert not mended(net, ms=ANSWER_US // 1000 + 1000)
    net.lost = lambda source, target, message: False
    assert mended(net, ms=15_000) and values(one) == held


def test_a_peer_that_is_busy_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    net, held = loaded(2)
    one, two = net.nodes[1], net.nodes[2]
    rot(one)
    real, busy = Replica.read_range, True

    def read_range(self: Replica, message: RangeRead) -> RangeResult:
        return RangeResult(message.seq, BUSY, False) if busy and self is two.replica else real(self, message)

    monkeypatch.setattr(Replica, "read_range", read_range)
    unreadable(one)
    assert not mended(net, ms=3 * AGAIN_US // 1000)
    busy = False
    assert mended(net) and values(one) == held


def test_a_range_that_is_damaged_at_a_peer_too_is_taken_from_the_other() -> None:
    net, held = loaded()
    one, two = net.nodes[1], net.nodes[2]
    two.rig.flush()
    rot(one)
    rot(two)
    unreadable(one)
    unreadable(two)
    net.run_ms(DAMAGED_US // 1000 - 5000, 250)
    assert one.rig.engine.damaged_tables() and two.rig.engine.damaged_tables()
    net.run_ms(90_000, 250)
    assert not one.rig.engine.damaged_tables() and not two.rig.engine.damaged_tables()
    assert values(one) == held == values(two)
    assert any("damaged at another replica, too" in line for line in [*one.told, *two.told])


def test_two_damaged_tables_are_mended_the_newer_one_first() -> None:
    """What is readable of the older one must not hide what is not of the newer one, not for a moment."""
    net, held = loaded()
    one = net.nodes[1]
    for key in KEYS:
        held[key] = record_of(one, b"newer" * 20, ms=1000)
        for node in net.nodes.values():
            give(node, key, held[key])
    one.rig.engine.rotate()
    one.rig.driver.settle()
    older, newer = tables(one)
    rot(one, older)
    with pytest.raises(CorruptionError):
        one.rig.serve(lambda: list(one.rig.engine.scan(b"\x01", b"\x02")))
    rot(one, newer)
    net.down(3)
    net.run_ms(2 * LOOK_US // 1000, 50)
    assert {table.path for table in one.rig.engine.damaged_tables()} == {older, newer}
    assert unreadable(one) > 10
    for key in KEYS:
        try:
            found = one.rig.serve(lambda key=key: one.rig.engine.get(keys.record_key(0, key)))  # type: ignore[misc]
        except CorruptionError:
            continue
        assert found == held[key]
    net.up(3)
    assert mended(net, ms=20_000) and values(one) == held
    replaced = [line for line in one.told if "is replaced" in line]
    assert newer in replaced[0] and older in replaced[1]


@pytest.mark.parametrize("internal", [b"\x02\0\0\0\0key", b"\x01\0", b"\x01\xff\xff\xff\xff\xff"])
def test_garbage_ends_the_link(internal: bytes) -> None:
    net, _ = loaded(2)
    one = net.nodes[1]
    rot(one)
    net.lost = lambda source, target, message: isinstance(message, RangeRead)
    unreadable(one)
    net.run_ms(3000, 50)
    asked = [message for _, _, message in net.sent if isinstance(message, RangeRead)]
    payload = encode_entry(internal, record_of(one, b"x"))
    with pytest.raises(ProtocolError):
        one.mend.on_range(2, RangeResult(asked[-1].seq, OK, False, payload))
    with pytest.raises(ProtocolError):
        one.mend.on_range(2, RangeResult(asked[-1].seq, OK, False, payload[:-1]))
    unknown = encode_entry(asked[-1].start, b"\x09" + record_of(one, b"x")[1:])
    with pytest.raises(ProtocolError, match="type"):
        one.mend.on_range(2, RangeResult(asked[-1].seq, OK, False, unknown))
    one.mend.on_range(9, RangeResult(asked[-1].seq, CORRUPT, False))
    one.mend.on_range(2, RangeResult(asked[-1].seq + 1, OK, False, payload))


def test_a_ring_of_one_has_nobody_to_ask() -> None:
    net, _ = loaded(1)
    one = net.nodes[1]
    rot(one)
    unreadable(one)
    assert not mended(net) and one.mend.stats()["mend_holes"] == 0


def test_nothing_is_done_while_clients_wait() -> None:
    net, held = loaded(2)
    one = net.nodes[1]
    rot(one)
    unreadable(one)
    one.busy = True
    assert not mended(net, ms=3000) and one.mend.stats()["mend_holes"] == 0
    one.busy = False
    assert mended(net) and values(one) == held
