"""SCAN and DBSIZE where most is dead. SCAN's guarantees are held by ``tests/model/test_scan_model.py``."""

from __future__ import annotations

import pytest

from respkv.commands import keyspace
from respkv.keyspace import counts
from tests.unit.commands.harness import Harness


def scanned(h: Harness, *options: str) -> tuple[list[bytes], int]:
    """All keys that SCAN gives, and the number of calls."""
    found: list[bytes] = []
    cursor, calls = b"0", 0
    while calls == 0 or cursor != b"0":
        cursor, names = h("SCAN", cursor, *options)
        found += names
        calls += 1
    return sorted(found), calls


def test_scan_of_a_flushed_database_ends_at_once() -> None:
    h = Harness()
    for n in range(300):
        h("SET", f"dead:{n}", "v")
    h("FLUSHDB")
    assert h("SCAN", "0") == [b"0", []]
    h("SET", "live", "v")
    assert h("SCAN", "0", "COUNT", "1000") == [b"0", [b"live"]]
    assert scanned(h)[0] == [b"live"]


def test_scan_counts_live_keys_and_bounds_the_dead_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keyspace, "_VISITS_PER_CALL", 500)
    h = Harness()
    names = sorted(b"k%d" % n for n in range(1000))
    for name in names:
        h("SET", name, "v")
    found, calls = scanned(h, "COUNT", "50")
    assert found == names and 8 < calls <= 20
    h("FLUSHDB")
    assert scanned(h) == ([], 3)
    # A match does not prolong a call: COUNT is about keys passed.
    for name in names[:300]:
        h("SET", name, "v")
    found, calls = scanned(h, "COUNT", "100", "MATCH", "nothing*")
    assert found == [] and calls >= 3


def test_dbsize_after_a_flush_settles_all_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    # As if the memtable were too large for its keys to be noted one by one when they are flushed.
    monkeypatch.setattr(counts, "_NOTED_AT_FLUSH", 10)
    h = Harness()
    for n in range(2000):
        h("SET", f"dead:{n}", "v")
    h("FLUSHDB")
    h("SET", "live", "v")
    h("SET", "dead:7", "v")
    assert h("DBSIZE") == 2
    monkeypatch.setattr(keyspace, "_SETTLED_PER_DBSIZE", 500)
    h("FLUSHDB")
    h("SET", "live", "v", "EX", "9")
    sizes = [h("DBSIZE") for _ in range(5)]
    assert sizes[-1] == 1 and sizes[0] != 1, "a bound holds"
