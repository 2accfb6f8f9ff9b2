"""Key -> slot: the vectors of the Redis Cluster specification, and hash tags."""

from __future__ import annotations

import random

import pytest

from respkv.base.slots import SLOT_COUNT, hash_tag, slot_of


def crc16(data: bytes) -> int:
    """CRC16/XMODEM, bit by bit."""
    crc = 0
    for byte in data:
        crc ^= byte << 8
        for _ in range(8):
            crc = (crc << 1 ^ 0x1021) & 0xFFFF if crc & 0x8000 else crc << 1
    return crc


def test_vectors_of_the_specification() -> None:
    assert crc16(b"123456789") == 0x31C3
    assert slot_of(b"123456789") == 0x31C3 & 16383
    assert slot_of(b"foo") == 12182
    assert slot_of(b"bar") == 5061
    assert slot_of(b"") == 0


@pytest.mark.parametrize(
    ("key", "tag"),
    [
        (b"{user1000}.following", b"user1000"),
        (b"foo{}{bar}", b"foo{}{bar}"),
        (b"foo{{bar}}zap", b"{bar"),
        (b"foo{bar}{zap}", b"bar"),
        (b"{}", b"{}"),
        (b"{", b"{"),
        (b"}{", b"}{"),
        (b"a}b{c}", b"c"),
        (b"{a", b"{a"),
        (b"plain", b"plain"),
        (b"", b""),
        (b"\x00{\xff}\x00", b"\xff"),
    ],
)
def test_hash_tag(key: bytes, tag: bytes) -> None:
    assert hash_tag(key) == tag
    assert slot_of(key) == crc16(tag) % SLOT_COUNT


def test_keys_of_one_tag_share_a_slot() -> None:
    assert slot_of(b"{user1000}.following") == slot_of(b"{user1000}.followers") == slot_of(b"user1000")


def test_agrees_with_the_slow_checksum() -> None:
    rng = random.Random(1)
    for _ in range(500):
        key = rng.randbytes(rng.randrange(20)).replace(b"{", b"(")
        assert slot_of(key) == crc16(key) % SLOT_COUNT
