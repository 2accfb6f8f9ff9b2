"""Hint logs: kept, replayed in order, acked, expired, and found again after crashes."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from respkv.causality.hlc import pack_stamp
from respkv.causality.record import encode, stamp_of
from respkv.env.rng import seeded
from respkv.replication.hints import (
    FILE_AGE_MS,
    HINT_MAGIC,
    WINDOW_MS,
    HintBatch,
    HintStore,
    hint_parts,
    hint_path,
)
from respkv.storage.wal import BATCH, LogHeader, LogWriter
from respkv.storage.write_batch import encode_entry, iterate_payload
from respkv.testing.disk import SimulatedFileSystem

GOLDEN = Path(__file__).parent / "golden" / "hints-1.log"
NOW_MS = 1_700_000_000_000


def entry(number: int, *, size: int = 10, at_ms: int = NOW_MS) -> bytes:
    record = encode(1, pack_stamp(at_ms + number << 16, 1), b"v" * size)
    return encode_entry(b"\x01\x00\x00\x00\x00k%d" % number, record)


def opened(fs: SimulatedFileSystem, **options: int) -> HintStore:
    if not fs.exists("/d"):
        fs.mkdir("/d")
        fs.sync_dir("/")
    store = HintStore(fs, "/d", **options)
    store.recover(NOW_MS)
    return store


def hold(store: HintStore, target: int, first: int, last: int, **options: int) -> None:
    """One hint and commit each."""
    for number in range(first, last):
        payload = entry(number, **options)
        assert store.add(target, payload, entries=1, oldest=next(stamp_of(r) for _, r in iterate_payload(payload)))
        store.commit(NOW_MS + number)
    store.check_invariants()


def numbers(batch: HintBatch | None) -> list[int]:
    assert batch is not None
    return [int(key[6:]) for key, _ in iterate_payload(batch.payload)]


def drain(store: HintStore, target: int, limit: int = 100) -> list[int]:
    """Replay everything and ack it."""
    now_us, seen = 1, []
    while store.pending(target):
        now_us += 1_000_000
        batch = store.next_batch(target, limit, now_us)
        if batch is not None:
            seen += numbers(batch)
            assert store.acked(batch)
        store.check_invariants()
    return seen


def sync(store: HintStore) -> None:
    plan = store.sync_plan()
    if plan is not None:
        plan.run()
        store.on_synced(plan)


def test_hints_come_back_oldest_first_and_their_files_go() -> None:
    fs = SimulatedFileSystem()
    store = opened(fs, file_bytes=300)
    hold(store, 2, 0, 20)
    hold(store, 7, 100, 103)
    assert len(fs.listdir("/d/hints")) > 5
    assert store.targets() == [2, 7] and store.pending(2) == 20
    assert store.oldest_stamp() == store.oldest_stamp(2) == pack_stamp(NOW_MS << 16, 1)
    assert store.target_stats()[7] == {"entries": 3, "bytes": 3 * len(entry(100)), "oldest_ms": NOW_MS + 100}
    assert drain(store, 2) == list(range(20))
    assert drain(store, 7) == [100, 101, 102]
    assert fs.listdir("/d/hints") == [] and store.oldest_stamp() == b"" and store.targets() == []
    assert store.stats()["hints_delivered"] == store.stats()["hints_stored"] == 23
    assert store.pending(99) == 0 and store.next_batch(99, 10, 1) is None


def test_one_cycle_is_one_record() -> None:
    fs = SimulatedFileSystem()
    store = opened(fs)
    for number in range(5):
        assert store.add(2, entry(number), entries=1, oldest=pack_stamp(NOW_MS + number << 16, 1))
    assert store.pending(2) == 5 and store.oldest_stamp(2) == pack_stamp(NOW_MS << 16, 1)
    store.commit(NOW_MS)
    store.commit(NOW_MS)
    batch = store.next_batch(2, 1, 1)
    assert numbers(batch) == [0, 1, 2, 3, 4] and batch is not None and batch.entries == 5


def test_a_failed_batch_comes_again_and_only_the_batch_under_way_can_be_acked() -> None:
    store = opened(SimulatedFileSystem())
    hold(store, 2, 0, 6)
    first = store.next_batch(2, 2 * len(entry(0)), 1)
    assert numbers(first) == [0, 1] and first is not None
    assert store.next_batch(2, 100, 2) is None, "one at a time"
    store.failed(first)
    assert not store.acked(first)
    second = store.next_batch(2, 2 * len(entry(0)), 1_000_000)
    assert numbers(second) == [0, 1] and second is not None and second is not first
    assert store.acked(second) and not store.acked(second)
    third = store.next_batch(2, 10**6, 2_000_000)
    assert numbers(third) == [2, 3, 4, 5] and third is not None
    store.failed(third)
    store.failed(third)
    assert drain(store, 2) == [2, 3, 4, 5]


def test_hints_above_a_stamp_wait_with_those_behind_them() -> None:
    fs = SimulatedFileSystem()
    store = opened(fs)
    hold(store, 2, 0, 6)
    latest = [pack_stamp(NOW_MS + number << 16, 1) for number in range(6)]
    for turn in range(3):
        batch = store.next_batch(2, 10**6, 1_000_000 + turn, latest[2])
        assert numbers(batch) == [0, 1, 2] and batch is not None and batch.entries == 3
        store.failed(batch)
    batch = store.next_batch(2, 10**6, 2_000_000, latest[2])
    assert batch is not None and store.acked(batch)
    hold(store, 2, 0, 1)
    for turn in range(3):
        assert store.next_batch(2, 10**6, 3_000_000 + turn, latest[2]) is None
    assert store.counters["dropped_error"] == 0 and store.pending(2) == 7
    batch = store.next_batch(2, 10**6, 4_000_000, latest[4])
    assert numbers(batch) == [3, 4] and batch is not None and store.acked(batch)
    store.check_invariants()
    assert drain(store, 2) == [5, 0]


def test_hints_of_the_future_are_dropped_when_they_are_old() -> None:
    fs = SimulatedFileSystem()
    store = opened(fs)
    hold(store, 2, 10**9, 10**9 + 1)
    store.close()
    again = opened(fs)
    assert again.pending(2) == 1 and again.expire(NOW_MS + WINDOW_MS) == 0
    assert again.expire(NOW_MS + WINDOW_MS + 1) == 1 and fs.listdir("/d/hints") == []


def test_hints_that_arrive_during_the_replay_follow() -> None:
    store = opened(SimulatedFileSystem())
    hold(store, 2, 0, 3)
    batch = store.next_batch(2, 10**6, 1)
    hold(store, 2, 3, 5)
    assert batch is not None and store.acked(batch)
    assert drain(store, 2) == [3, 4]


def test_the_replay_keeps_its_rate() -> None:
    size = len(entry(0, size=1000))
    store = opened(SimulatedFileSystem(), bytes_per_s=10 * size)
    hold(store, 2, 0, 100, size=1000)
    sent = 0
    for now_us in range(1, 2_000_001, 10_000):
        batch = store.next_batch(2, size, now_us)
        if batch is not None:
            sent += batch.entries
            store.acked(batch)
    assert 20 <= sent <= 23


def test_the_share_of_a_target_is_capped() -> None:
    size = len(entry(10))
    store = opened(SimulatedFileSystem(), cap_bytes=3 * size + 5)
    hold(store, 2, 10, 13)
    assert not store.add(2, entry(13), entries=1, oldest=pack_stamp(1, 1))
    assert store.add(3, entry(14), entries=1, oldest=pack_stamp(1, 1)), "another target has its own"
    assert not store.add(4, entry(15, size=1000), entries=1, oldest=pack_stamp(1, 1))
    store.check_invariants()
    assert store.stats()["hints_dropped_full"] == 2 and store.stats()["hint_bytes"] == 4 * size


def test_old_hints_are_dropped() -> None:
    fs = SimulatedFileSystem()
    store = opened(fs, window_ms=1000, file_bytes=1)
    hold(store, 2, 0, 3)
    assert store.expire(NOW_MS + 1000) == 0
    assert store.expire(NOW_MS + 1002) == 2
    batch = store.next_batch(2, 100, 1)
    assert store.expire(NOW_MS + 5000) == 1 and batch is not None
    assert not store.acked(batch) and fs.listdir("/d/hints") == []
    assert store.stats()["hints_dropped_old"] == 3
    store.check_invariants()


def test_a_file_is_closed_by_age() -> None:
    fs = SimulatedFileSystem()
    store = opened(fs)
    hold(store, 2, 0, 1)
    store.add(2, entry(1), entries=1, oldest=pack_stamp(1, 1))
    store.commit(NOW_MS + FILE_AGE_MS)
    store.add(2, entry(2), entries=1, oldest=pack_stamp(1, 1))
    store.commit(NOW_MS + FILE_AGE_MS)
    assert len(fs.listdir("/d/hints")) == 2


def test_a_target_that_left_is_forgotten() -> None:
    fs = SimulatedFileSystem()
    store = opened(fs)
    hold(store, 2, 0, 3)
    hold(store, 3, 0, 1)
    store.forget(2)
    store.forget(9)
    assert store.targets() == [3] and len(fs.listdir("/d/hints")) == 1


def test_after_a_restart_everything_not_acked_in_full_comes_again() -> None:
    fs = SimulatedFileSystem()
    store = opened(fs, file_bytes=300)
    hold(store, 2, 0, 20)
    batch = store.next_batch(2, 1, 1)
    assert batch is not None and store.acked(batch)
    sync(store)
    store.close()
    store = opened(fs.copy())
    assert store.pending(2) == 20 and store.oldest_stamp(2) == pack_stamp(NOW_MS << 16, 1)
    hold(store, 2, 20, 22)
    assert drain(store, 2) == list(range(22))


@pytest.mark.parametrize("seed", range(12))
def test_what_was_synced_survives_a_loss_of_power(seed: int) -> None:
    rng = seeded(seed)
    fs = SimulatedFileSystem()
    store = opened(fs, file_bytes=400)
    hold(store, 2, 0, 9)
    sync(store)
    assert store.sync_plan() is None
    hold(store, 2, 9, 15)
    store = opened(fs.crash(rng), file_bytes=400)
    store.check_invariants()
    assert store.stats()["hints_files_damaged"] == 0
    found = drain(store, 2)
    assert found[:9] == list(range(9)) and set(found) <= set(range(15)) and found == sorted(found)


def test_damage_below_what_was_synced_is_told_from_a_torn_tail() -> None:
    fs = SimulatedFileSystem()
    store = opened(fs)
    hold(store, 2, 0, 4)
    sync(store)
    hold(store, 2, 4, 6)
    path = hint_path("/d", 2, 1)
    torn, damaged = fs.copy(), fs.copy()
    torn.flip(path, fs.size(path) - 20, 3)
    damaged.flip(path, 60, 3)
    store = opened(torn)
    assert store.stats()["hints_files_torn"] == 1 and drain(store, 2) == [0, 1, 2, 3, 4]
    store = opened(damaged)
    assert store.stats()["hints_files_damaged"] == 1 and store.targets() == []
    head = fs.copy()
    head.flip(path, 3, 1)
    assert opened(head).stats()["hints_files_damaged"] == 1


def test_damage_that_comes_after_writing_drops_the_rest_of_the_file() -> None:
    fs = SimulatedFileSystem()
    store = opened(fs, file_bytes=200)
    hold(store, 2, 0, 4)
    names = fs.listdir("/d/hints")
    fs.flip(f"/d/hints/{names[0]}", 60, 1)
    assert store.next_batch(2, 100, 1) is None
    assert store.stats()["hints_dropped_error"] > 0
    assert drain(store, 2)[-1] == 3


def test_a_full_disk_drops_hints_and_nothing_else() -> None:
    fs = SimulatedFileSystem()
    store = opened(fs)
    hold(store, 2, 0, 2)
    fs.capacity = fs.used()
    assert store.add(2, entry(2), entries=1, oldest=pack_stamp(1, 1))
    assert store.add(3, entry(3), entries=1, oldest=pack_stamp(1, 1))
    store.commit(NOW_MS)
    assert store.stats()["hints_dropped_error"] == 2 and store.targets() == [2]
    fs.capacity = None
    store.check_invariants()
    hold(store, 3, 7, 8)
    assert drain(store, 2) == [0, 1] and drain(store, 3) == [7]


def test_a_failed_sync_is_the_callers_to_die_of() -> None:
    fs = SimulatedFileSystem()
    store = opened(fs)
    hold(store, 2, 0, 1)
    fs.fail_syncs = lambda path: True
    plan = store.sync_plan()
    assert plan is not None
    with pytest.raises(OSError) as failure:
        plan.run()
    assert failure.value.errno == errno.EIO


def test_foreign_names_are_let_alone() -> None:
    fs = SimulatedFileSystem()
    fs.mkdir("/d/hints")
    fs.write_file("/d/hints/notes.txt", b"x")
    fs.write_file("/d/hints/00002-000000000009.log", b"")
    store = opened(fs)
    assert fs.listdir("/d/hints") == ["notes.txt"]
    hold(store, 2, 0, 1)
    assert "00002-000000000010.log" in fs.listdir("/d/hints")
    assert "targets=[2]" in repr(store)
    for name in ("00002-12.log", "2-000000000012.log", "00002-000000000012.txt", "0000x-000000000012.log", "a"):
        assert hint_parts(name) is None
    assert hint_parts("00002-000000000012.log") == (2, 12)


def golden_bytes() -> bytes:
    fs = SimulatedFileSystem()
    fs.mkdir("/d/hints")
    log = LogWriter(fs, hint_path("/d", 2, 5), HINT_MAGIC, LogHeader(5, 0, 0, 0), preallocate=0)
    log.append(BATCH, entry(1) + entry(2), 0)
    log.append(BATCH, entry(3), 1)
    log.append_end(1)
    return fs.read_all(hint_path("/d", 2, 5))


def test_the_format_is_the_golden_file() -> None:
    assert golden_bytes() == GOLDEN.read_bytes()
    fs = SimulatedFileSystem()
    fs.mkdir("/d/hints")
    fs.write_file(hint_path("/d", 2, 5), GOLDEN.read_bytes())
    assert drain(opened(fs), 2) == [1, 2, 3]
    # What the store itself writes has the same form.
    store = opened(SimulatedFileSystem())
    hold(store, 2, 0, 1)
    assert store._fs.read_all(hint_path("/d", 2, 1))[:8] == GOLDEN.read_bytes()[:8]
