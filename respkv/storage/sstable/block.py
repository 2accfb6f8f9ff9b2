"""The block: some tens of entries in key order, the unit of reading and caching.

Payload (integers u32 little-endian; offsets count from the start of the payload)::

    entries n | key len, 0 = keys of unlike length | start of keys | end of keys
    | record offset * (n + 1) | [key offset * (n + 1), only if key len is 0] | keys | records

All keys stand together, so that a point read is one substring search by C code in a few hundred bytes,
checked afterwards for standing on a key's boundary (by division, or by searching the key offsets for the
place that was found), instead of a bisection that makes an object per step. The last record offset is the
end of the payload; bytes behind it (a raw section's trailer) are ignored.

In memory a block is its payload, checked by ``open_block``: a cached block costs little more than its bytes,
a read of it touches few cache lines, and the garbage collector does not see it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate, pairwise
from struct import Struct, pack, unpack_from
from typing import Final

HEAD: Final = Struct("<4xIII")
PAIR: Final = Struct("<II")
RECORD_OFFSETS_AT: Final = 16
_U32: Final = Struct("<I")
#: What an entry costs in a block besides its key and record, when keys are of one length.
ENTRY_BYTES: Final = 4


def encode_block(keys: Sequence[bytes], records: Sequence[bytes]) -> bytes:  # HOT: table_build
    """The payload that holds the entries. ValueError when they exceed 4 GiB. About 0.2 us an entry."""
    count = len(keys)
    key_lengths = list(map(len, keys))
    key_blob = b"".join(keys)
    key_length = key_lengths[0] if count else 0
    uniform = key_length > 0 and key_lengths.count(key_length) == count
    keys_at = RECORD_OFFSETS_AT + 4 * (count + 1) * (1 if uniform else 2)
    keys_end = keys_at + len(key_blob)
    offsets = list(accumulate(map(len, records), initial=keys_end))
    if offsets[-1] > 0xFFFFFFFF:
        raise ValueError(f"a block of {offsets[-1]} bytes")
    if uniform:
        head = pack(f"<{count + 5}I", count, key_length, keys_at, keys_end, *offsets)
    else:
        key_offsets = accumulate(key_lengths, initial=keys_at)
        head = pack(f"<{2 * count + 6}I", count, 0, keys_at, keys_end, *offsets, *key_offsets)
    return b"".join((head, key_blob, *records))


def open_block(data: bytes) -> bytes:
    """``data``, checked to begin with a block's payload. ValueError or struct.error if not. O(1)."""
    count = _U32.unpack_from(data)[0]
    key_length, start, end = HEAD.unpack_from(data)
    ends = RECORD_OFFSETS_AT + 4 * count
    if key_length:
        fits = start == ends + 4 and end == start + count * key_length
    else:
        fits = start == ends + 8 + 4 * count and _U32.unpack_from(data, start - 4)[0] == end
    first_record, last_end = _U32.unpack_from(data, RECORD_OFFSETS_AT)[0], _U32.unpack_from(data, ends)[0]
    if not fits or first_record != end or last_end > len(data):
        raise ValueError("block contradicts itself")
    return data


def find(data: bytes, key: bytes) -> bytes | None:  # HOT: table_get
    """The record of ``key`` in a block, None when it has none. 0.4 us."""
    key_length, start, end = HEAD.unpack_from(data)
    at = data.find(key, start, end)
    if at < 0:
        return None
    if key_length:
        if key_length != len(key):
            return None
        number, misfit = divmod(at - start, key_length)
        if not misfit:
            begin, stop = PAIR.unpack_from(data, RECORD_OFFSETS_AT + 4 * number)
            return data[begin:stop]
        return _find_slowly(data, key)
    # If this is a key, its two offsets stand side by side; the array of key offsets ends where keys begin.
    offsets_at = RECORD_OFFSETS_AT + ((start - RECORD_OFFSETS_AT) >> 1)
    place = data.find(PAIR.pack(at, at + len(key)), offsets_at, start)
    if place < 0 or place & 3:
        return _find_slowly(data, key)
    begin, stop = PAIR.unpack_from(data, place - offsets_at + RECORD_OFFSETS_AT)
    return data[begin:stop]


def _find_slowly(data: bytes, key: bytes) -> bytes | None:
    """As ``find``, by bisection: for when the search met bytes that are not a whole key."""
    keys = block_keys(data)
    number = bisect_left(keys, key)
    if number == len(keys) or keys[number] != key:
        return None
    begin, stop = PAIR.unpack_from(data, RECORD_OFFSETS_AT + 4 * number)
    return data[begin:stop]


def block_keys(data: bytes) -> list[bytes]:
    """All keys, in order. 0.1 us each."""
    key_length, start, end = HEAD.unpack_from(data)
    if key_length:
        return [data[at : at + key_length] for at in range(start, end, key_length)]
    count = _U32.unpack_from(data)[0]
    offsets = unpack_from(f"<{count + 1}I", data, start - 4 * (count + 1))
    return [data[begin:stop] for begin, stop in pairwise(offsets)]


def block_records(data: bytes) -> list[bytes]:
    """All records, in key order. 0.1 us each."""
    offsets = unpack_from(f"<{_U32.unpack_from(data)[0] + 1}I", data, RECORD_OFFSETS_AT)
    return [data[begin:stop] for begin, stop in pairwise(offsets)]
