"""The bloom filter of a table: one 64-bit word per key, tested without a loop.

A key's hash (xxh3_64, the same the caller of ``TableReader.get`` computes) chooses a word by its remainder
modulo the number of words and one of 4096 masks of ``MASK_BITS`` bits by its lowest 12 bits; a key may be
present only if its word has all bits of its mask. The number of words is odd, or the two choices would
depend on each other. This is a blocked bloom filter with blocks of one word: Putze, Sanders, Singler,
"Cache-, Hash- and Space-Efficient Bloom Filters" (2007). At 12 bits a key about 1 % of absent keys pass.

Payload of a filter: words, u64 little-endian each. The masks are part of the format: mask i takes the
6-bit groups of xxh3_64(i as u32 little-endian, seed 0, 1, 2 ...), lowest first, ten from each hash, until
it has ``MASK_BITS`` different bits.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Iterable
from typing import Final

from respkv.base.coding import U32, checksum

BITS_PER_KEY: Final = 12
MASK_BITS: Final = 6
MASK_COUNT: Final = 4096


def _make_mask(number: int) -> int:
    mask, seed = 0, 0
    while True:
        value = checksum(U32.pack(number), seed)
        for shift in range(0, 60, 6):
            mask |= 1 << (value >> shift & 63)
            if mask.bit_count() == MASK_BITS:
                return mask
        seed += 1


MASKS: Final = tuple(_make_mask(number) for number in range(MASK_COUNT))


def word_count(keys: int) -> int:
    """Words of a filter for that many keys; an odd number."""
    return (keys * BITS_PER_KEY + 63) // 64 | 1


def build(hashes: Iterable[int], keys: int) -> array[int]:  # HOT: table_build
    """The words of a filter over the hashes of ``keys`` keys. About 0.2 us a key."""
    count = word_count(keys)
    words = [0] * count
    masks = MASKS
    for value in hashes:
        words[value % count] |= masks[value & 4095]
    return array("Q", words)


def encode(words: array[int]) -> bytes:
    """The payload of a filter."""
    if sys.byteorder == "big":
        words = words[:]
        words.byteswap()
    return words.tobytes()


def decode(payload: bytes) -> array[int]:
    """The words in ``payload``. ValueError when they are not whole ones, an odd number of them."""
    words = array("Q")
    words.frombytes(payload)
    if not len(words) & 1:
        raise ValueError(f"bloom filter of {len(words)} words")
    if sys.byteorder == "big":
        words.byteswap()
    return words
