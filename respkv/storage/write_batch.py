"""The entry: how one (internal key, record) pair stands in a log payload, and batches of them.

Layout of an entry, the same bytes in the log, in tables' sources and between nodes::

    record len u32le | key len u32le | internal key | record

A batch is a plain ``list[bytes]`` with three parts per entry (the 8 length bytes, the key, the record),
so that the hot path appends without copying; joining the list gives the payload of one log record.
"""

from __future__ import annotations

from collections.abc import Iterator
from struct import Struct
from typing import Final

LENGTHS: Final = Struct("<II")
LENGTHS_BYTES: Final = LENGTHS.size

#: Keys that begin with the same so many bytes (a space and the high byte of a slot) make one bucket of a flush.
BUCKET_BYTES: Final = 2

#: ``pack_lengths(len(record), len(key))`` is the first part of an entry.
pack_lengths: Final = LENGTHS.pack


def add_entry(batch: list[bytes], key: bytes, record: bytes) -> None:
    """Append one entry's three parts to ``batch``."""
    batch.extend((pack_lengths(len(record), len(key)), key, record))


def encode_entry(key: bytes, record: bytes) -> bytes:
    """The bytes of one entry."""
    return pack_lengths(len(record), len(key)) + key + record


def apply_entries(payload: bytes | memoryview, table: dict[bytes, bytes]) -> int:
    """Put the entries of ``payload`` into ``table`` in order (later ones win); how many there were.

    Raises ValueError when the payload does not end with an entry's end. About 0.4 us an entry.
    """
    payload = bytes(payload)
    unpack = LENGTHS.unpack_from
    at, end, count = 0, len(payload), 0
    limit = end - LENGTHS_BYTES
    while at <= limit:
        record_length, key_length = unpack(payload, at)
        key_at = at + LENGTHS_BYTES
        record_at = key_at + key_length
        at = record_at + record_length
        table[payload[key_at:record_at]] = payload[record_at:at]
        count += 1
    if at != end:
        raise ValueError("entries overrun their payload")
    return count


def spread_entries(payload: bytes, buckets: dict[bytes, dict[bytes, bytes]]) -> None:
    """As ``apply_entries`` into one table for each beginning of two bytes: tables small enough for a processor's cache.

    Sorted by their beginnings, and each of them sorted, they are all entries in key order.
    """
    unpack = LENGTHS.unpack_from
    at, end = 0, len(payload)
    limit = end - LENGTHS_BYTES
    while at <= limit:
        record_length, key_length = unpack(payload, at)
        key_at = at + LENGTHS_BYTES
        record_at = key_at + key_length
        at = record_at + record_length
        key = payload[key_at:record_at]
        table = buckets.get(key[:BUCKET_BYTES])
        if table is None:
            table = buckets[key[:BUCKET_BYTES]] = {}
        table[key] = payload[record_at:at]
    if at != end:
        raise ValueError("entries overrun their payload")


def iterate_payload(payload: bytes | memoryview) -> Iterator[tuple[bytes, bytes]]:
    """The (key, record) pairs of ``payload`` in order; ValueError as in ``apply_entries``."""
    payload = bytes(payload)
    unpack = LENGTHS.unpack_from
    at, end = 0, len(payload)
    limit = end - LENGTHS_BYTES
    while at <= limit:
        record_length, key_length = unpack(payload, at)
        key_at = at + LENGTHS_BYTES
        record_at = key_at + key_length
        at = record_at + record_length
        if at > end:
            break
        yield payload[key_at:record_at], payload[record_at:at]
    if at != end:
        raise ValueError("entries overrun their payload")
