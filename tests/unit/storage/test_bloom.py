from __future__ import annotations

import pytest
from xxhash import xxh3_64_intdigest

from respkv.storage.sstable import bloom


def hashes(prefix: bytes, count: int) -> list[int]:
    return [xxh3_64_intdigest(b"%s%d" % (prefix, number)) for number in range(count)]


def passes(words: object, value: int) -> bool:
    mask = bloom.MASKS[value & 4095]
    return words[value % len(words)] & mask == mask  # type: ignore[index, arg-type, no-any-return]


@pytest.mark.parametrize("count", [1, 2, 5, 6, 1000])
def test_no_key_is_denied(count: int) -> None:
    words = bloom.build(hashes(b"key", count), count)
    assert all(passes(words, value) for value in hashes(b"key", count))


def test_one_absent_key_in_a_hundred_passes() -> None:
    words = bloom.build(hashes(b"key", 20_000), 20_000)
    assert len(words) & 1
    assert len(words) * 64 / 20_000 == pytest.approx(12, abs=0.01)
    share = sum(passes(words, value) for value in hashes(b"other", 20_000)) / 20_000
    assert 0.005 < share < 0.015


def test_masks_are_what_the_format_says() -> None:
    assert len(bloom.MASKS) == 4096
    assert all(mask.bit_count() == 6 and mask < 1 << 64 for mask in bloom.MASKS)
    assert len(set(bloom.MASKS)) > 4000
    # Part of the file format: a table written today must be read by every later program.
    assert xxh3_64_intdigest(b"".join(mask.to_bytes(8, "little") for mask in bloom.MASKS)) == MASKS_DIGEST


def test_payload_and_back() -> None:
    words = bloom.build(hashes(b"key", 100), 100)
    assert bloom.encode(words)[:8] == words[0].to_bytes(8, "little")
    assert bloom.decode(bloom.encode(words)) == words


@pytest.mark.parametrize("payload", [b"", b"1234567", b"123456789", bytes(16)])
def test_payload_that_is_no_filter(payload: bytes) -> None:
    with pytest.raises(ValueError):
        bloom.decode(payload)


def test_a_filter_of_no_keys_denies_all() -> None:
    words = bloom.build([], 0)
    assert len(words) == 1
    assert not any(passes(words, value) for value in hashes(b"key", 500))


MASKS_DIGEST = 0x90A31FE79096C627
