from __future__ import annotations

from respkv.env.rng import seeded
from respkv.storage.memtable import ENTRY_OVERHEAD, Memtable, SortedView, defers


def test_scan_gives_keys_in_order_within_the_range() -> None:
    memtable = Memtable(1, 1)
    for number in (5, 3, 9, 1):
        memtable.table[b"k%d" % number] = b"v%d" % number
    assert list(memtable.scan(b"k1", b"k9", derived=False)) == [
        (b"k1", b"v1"),
        (b"k3", b"v3"),
        (b"k5", b"v5"),
    ]
    assert [key for key, _ in memtable.scan(b"k4", None, derived=False)] == [b"k5", b"k9"]
    assert list(memtable.scan(b"", None, derived=True)) == []


def test_scan_crosses_its_chunks_and_sees_new_keys_ahead_of_it() -> None:
    memtable = Memtable(1, 1)
    for number in range(1000):
        memtable.table[b"%04d" % (number * 2)] = b""
    scan = memtable.scan(b"", None, derived=False)
    seen = [next(scan)[0] for _ in range(300)]
    assert memtable.pins == 1
    memtable.table[b"1999x"] = b"new"
    memtable.table[b"0000a"] = b"behind"
    seen += [key for key, _ in scan]
    assert seen == sorted({*(b"%04d" % (number * 2) for number in range(1000)), b"1999x"})
    assert memtable.pins == 0


def test_an_abandoned_scan_lets_go() -> None:
    memtable = Memtable(1, 1)
    memtable.table[b"a"] = b""
    scan = memtable.scan(b"", None, derived=False)
    next(scan)
    assert memtable.pins == 1
    del scan
    assert memtable.pins == 0


def test_the_view_is_brought_up_to_date_in_slices_oldest_keys_first() -> None:
    source: dict[bytes, bytes] = {}
    view = SortedView(source)
    rng = seeded(7)
    for _ in range(50):
        for _ in range(rng.randrange(40)):
            source[b"%06d" % rng.randrange(100_000)] = b""
        behind = view.refresh(rng.randrange(1, 30))
        assert behind == view.behind
        view.check_invariants()
    assert view.refresh() == 0
    assert view.chunk(b"", None, True, 10_000) == sorted(source)


def test_prepare_scan_counts_down() -> None:
    memtable = Memtable(1, 1)
    for number in range(100):
        memtable.derived[b"%d" % number] = b""
    assert memtable.prepare_scan(60, derived=True) == 40
    assert memtable.prepare_scan(60, derived=True) == 0
    assert len(list(memtable.scan(b"", None, derived=True))) == 100
    memtable.check_invariants()


def test_charge_counts_keys_not_overwrites() -> None:
    memtable = Memtable(1, 1)
    assert memtable.charge() == 0
    for _ in range(1000):
        memtable.table[b"hot"] = b"x" * 100
        memtable.count_entries(1, 111)
    assert memtable.charge() == ENTRY_OVERHEAD + 111
    memtable.table[b"other"] = b"x" * 100
    memtable.count_entries(1, 111)
    assert memtable.charge() == 2 * (ENTRY_OVERHEAD + 111)
    memtable.derived[b"index"] = b""
    assert memtable.charge() > 2 * (ENTRY_OVERHEAD + 111)


def test_disposal_goes_in_slices_through_both_dicts() -> None:
    memtable = Memtable(1, 1)
    for number in range(25):
        memtable.table[b"%d" % number] = b""
        memtable.derived[b"%d" % number] = b""
    list(memtable.scan(b"", None, derived=False))
    steps = [memtable.dispose(10) for _ in range(5)]
    assert steps == [40, 30, 20, 10, 0]
    assert "keys=0" in repr(memtable)


def test_deferred_keys_are_listed_in_slices_with_what_is_held() -> None:
    table, retired = Memtable(2, 10), Memtable(1, 0)
    held = {b"\x01a": b"A", b"\x01b": b"B", b"\x01c": b"C"}
    retired.deferred += [b"\x01a", b"\x01b"]
    table.deferred += [b"\x01c", b"\x01gone", b"\x01c"]
    table.table[b"\x01gone"] = b"put since"
    assert defers(b"\x01", (table, retired)) and not defers(b"\x02", (table, retired))
    assert table.list_deferred((retired, table), held.get, 3) == 2
    assert table.list_deferred((retired, table), held.get, 0) == 2
    assert table.list_deferred((retired, table), held.get, 100) == 0
    assert table.table == {**held, b"\x01gone": b"put since"} and not retired.table
    assert sorted(retired.listed) == [b"\x01a", b"\x01b"] and not table.listed, "as its segment holds them"
    assert retired.dispose(1) == 1 and retired.dispose(1) == 0
    assert not defers(b"\x01", (table, retired))


def test_a_deferred_key_is_charged_each_time_but_less_than_a_listed_one() -> None:
    table = Memtable(1, 0)
    table.count_entries(10, 10 * 400)
    table.deferred.append(b"\x01k")
    once = table.charge()
    table.deferred.append(b"\x01k")
    assert table.charge() == 2 * once
    table.table[b"\x01k"] = b"r"
    assert 0 < 2 * once < 2 * (table.charge() - 2 * once)


def test_disposal_takes_deferred_keys_too() -> None:
    table = Memtable(1, 0)
    table.deferred += [b"k"] * 5
    assert table.dispose(3) == 2 and table.dispose(3) == 0
