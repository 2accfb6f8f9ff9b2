from __future__ import annotations

from respkv.env.rng import seeded
from respkv.storage.block_cache import (
    ADMIT_EVERY,
    BLOCK_OVERHEAD,
    PINNED_BYTES,
    STEPS_PER_INSERT,
    BlockCache,
    CachedBlocks,
)

SIZE = 1000
CHARGE = SIZE + BLOCK_OVERHEAD


def block(number: int) -> bytes:
    return bytes([number % 256]) * SIZE


def admit(cache: BlockCache, cached: CachedBlocks, number: int) -> None:
    """Offer a block as often as a full cache wants to be asked."""
    for _ in range(ADMIT_EVERY):
        cache.put(cached, number, block(number))
    assert number in cached.blocks


def test_keeps_blocks_up_to_its_capacity() -> None:
    cache = BlockCache(10 * CHARGE)
    cached = cache.open_file(1, 100)
    for number in range(30):
        admit(cache, cached, number)
        cache.check_invariants()
    assert sorted(cached.blocks) == list(range(20, 30))
    stats = cache.stats()
    assert stats["block_cache_bytes"] == stats["block_cache_capacity_bytes"] == 10 * CHARGE
    assert stats["block_cache_evictions"] == 20


def test_a_used_block_gets_a_second_chance() -> None:
    cache = BlockCache(10 * CHARGE)
    cached = cache.open_file(1, 1000)
    for number in range(200):
        admit(cache, cached, number)
        cached.used[0] = 1  # as a reader does at a hit
    assert 0 in cached.blocks
    assert 1 not in cached.blocks
    admit(cache, cached, 300)
    for number in range(400, 420):  # not used any more
        admit(cache, cached, number)
    assert 0 not in cached.blocks


def test_all_used_cannot_make_it_grow() -> None:
    cache = BlockCache(100 * CHARGE)
    cached = cache.open_file(1, 10_000)
    for number in range(1000):
        cache.put(cached, number, block(number))
        cached.used[:] = b"\x01" * 10_000
    assert cache.stats()["block_cache_bytes"] <= 100 * CHARGE
    cache.check_invariants()


def test_a_full_cache_admits_one_block_in_four() -> None:
    cache = BlockCache(10 * CHARGE)
    cached = cache.open_file(1, 1000)
    for number in range(10 + 4 * ADMIT_EVERY):
        cache.put(cached, number, block(number))
    assert len([number for number in cached.blocks if number >= 10]) == 4
    assert cache.stats()["block_cache_misses"] == 10 + 4 * ADMIT_EVERY


def test_putting_twice_counts_once() -> None:
    cache = BlockCache(10 * CHARGE)
    cached = cache.open_file(1, 10)
    cache.put(cached, 1, block(1))
    cache.put(cached, 1, block(2))
    assert cached.blocks[1] == block(1)
    cache.check_invariants()


def test_a_block_that_would_push_out_the_others_is_not_kept() -> None:
    cache = BlockCache(10 * CHARGE)
    cached = cache.open_file(1, 20)
    for number in range(10, 18):
        cache.put(cached, number, block(number))
    before = sorted(cached.blocks)
    for _ in range(2 * ADMIT_EVERY):
        cache.put(cached, 1, bytes(5 * CHARGE))
    assert sorted(cached.blocks) == before
    cache.put(cached, 1, bytes(5 * CHARGE), pin=True)
    assert 1 in cached.blocks, "somebody waits for it"
    cache.check_invariants()


def test_pinned_blocks_stay_whatever_the_capacity() -> None:
    cache = BlockCache(1)
    cached = cache.open_file(1, 1_000_000)
    fits = PINNED_BYTES // CHARGE
    for number in range(fits):
        cache.put(cached, number, block(number), pin=True)
    assert len(cached.blocks) == fits
    for number in range(fits, 3 * fits):
        cache.put(cached, number, block(number), pin=True)
        cache.put(cached, 10 * fits + number, block(number))
    cache.check_invariants()
    assert sorted(cached.blocks)[:2] == [2 * fits, 2 * fits + 1]
    assert cache.stats()["block_cache_bytes"] <= PINNED_BYTES + 2 * CHARGE


def test_a_single_pinned_block_may_be_longer_than_the_limit() -> None:
    cache = BlockCache(1)
    cached = cache.open_file(1, 10)
    cache.put(cached, 0, bytes(PINNED_BYTES + 1), pin=True)
    assert 0 in cached.blocks
    cache.put(cached, 1, bytes(PINNED_BYTES + 1), pin=True)
    assert sorted(cached.blocks) == [1]
    cache.check_invariants()


def test_a_dropped_table_is_freed_in_slices() -> None:
    cache = BlockCache(500 * CHARGE)
    gone, stays = cache.open_file(1, 1000), cache.open_file(2, 1000)
    for number in range(400):
        cache.put(gone, number, block(number))
    for number in range(100):
        cache.put(stays, number, block(number))
    gone.hits = 7
    cache.drop_file(1)
    cache.drop_file(1)
    cache.check_invariants()
    assert cache.stats()["block_cache_bytes"] == 500 * CHARGE
    before = len(gone.blocks)
    admit(cache, stays, 100)
    assert before - STEPS_PER_INSERT <= len(gone.blocks) < before
    for number in range(101, 600):
        admit(cache, stays, number)
        cache.check_invariants()
    assert not gone.blocks
    assert len(stays.blocks) == 500
    assert cache.stats()["block_cache_hits"] == 7


def test_nothing_is_put_for_a_dropped_table() -> None:
    cache = BlockCache(10 * CHARGE)
    old = cache.open_file(1, 10)
    cache.put(old, 3, block(3))
    new = cache.open_file(1, 10)  # the id is opened again
    cache.put(old, 4, block(4), pin=True)
    cache.put(new, 5, block(5))
    assert sorted(old.blocks) == [3]
    assert sorted(new.blocks) == [5]
    cache.check_invariants()


def test_random_use_keeps_the_invariants() -> None:
    rng = seeded(9)
    for capacity in (0, CHARGE, 7 * CHARGE, 60 * CHARGE):
        cache = BlockCache(capacity)
        files = {file_id: cache.open_file(file_id, 50) for file_id in range(4)}
        for _ in range(1500):
            file_id, number = rng.randrange(4), rng.randrange(50)
            roll = rng.random()
            if roll < 0.02:
                cache.drop_file(file_id)
                files[file_id] = cache.open_file(file_id, 50)
            elif roll < 0.3:
                files[file_id].used[number] = 1
            else:
                data = bytes(rng.randrange(1, 3 * SIZE))
                cache.put(files[file_id], number, data, pin=roll > 0.95)
        cache.check_invariants()
        assert cache.stats()["block_cache_pinned_bytes"] <= PINNED_BYTES
