"""Fixed-width integers and the checksum."""

from __future__ import annotations

import struct

import pytest

from respkv.base.coding import U16, U16BE, U32, U32BE, U64, U64BE, checksum


def test_little_and_big_endian() -> None:
    assert U16.pack(0x0102) == b"\x02\x01" and U16BE.pack(0x0102) == b"\x01\x02"
    assert U32.pack(0x01020304) == b"\x04\x03\x02\x01" and U32BE.pack(0x01020304) == b"\x01\x02\x03\x04"
    assert U64.pack(1) == b"\x01" + bytes(7) and U64BE.pack(1) == bytes(7) + b"\x01"


def test_big_endian_order_is_number_order() -> None:
    numbers = [0, 1, 255, 256, 65535, 65536, 1 << 32, (1 << 64) - 1]
    assert [U64BE.pack(n) for n in numbers] == sorted(U64BE.pack(n) for n in numbers)


def test_integers_out_of_range_are_refused() -> None:
    for packer, too_large in ((U16, 1 << 16), (U32BE, 1 << 32), (U64BE, 1 << 64), (U64, -1)):
        with pytest.raises(struct.error):
            packer.pack(too_large)


def test_checksum_is_xxh3_64() -> None:
    assert checksum(b"") == 0x2D06800538D394C2


def test_checksum_depends_on_bytes_and_place() -> None:
    assert checksum(b"abc") == checksum(bytearray(b"abc")) == checksum(memoryview(b"abc"))
    assert len({checksum(b"abc", seed) for seed in range(100)}) == 100
    assert len({checksum(b"abc"), checksum(b"abd"), checksum(b"ab")}) == 3


def test_a_seed_counts_modulo_64_bits() -> None:
    assert checksum(b"abc", (1 << 64) + 5) == checksum(b"abc", 5)
    assert checksum(b"abc", -1) == checksum(b"abc", (1 << 64) - 1)
