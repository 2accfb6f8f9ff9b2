"""Key -> slot: the unit of placement.

A slot is CRC16/XMODEM (poly 0x1021, init 0) modulo 16384 over the hash tag of the key: the bytes
between the first ``{`` and the next ``}`` when there is at least one byte between them, else the
whole key (Redis Cluster specification, "Key distribution model").
"""

from __future__ import annotations

import binascii

SLOT_COUNT = 16384
#: A byte's number: looking for it in bytes costs a sixth of looking for a string of one.
_BRACE = 123


def hash_tag(key: bytes) -> bytes:
    """The part of ``key`` that decides its slot."""
    start = key.find(b"{")
    if start >= 0:
        end = key.find(b"}", start + 1)
        if end > start + 1:
            return key[start + 1 : end]
    return key


def slot_of(key: bytes) -> int:
    """The slot of ``key``, 0..16383."""
    if _BRACE in key:
        key = hash_tag(key)
    return binascii.crc_hqx(key, 0) & 16383
