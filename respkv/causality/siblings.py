"""Containers as records: what the engine stores, the log holds and nodes send of a key with siblings.

The record (``record.py``) has the DVV flag and the type string, or tombstone when no sibling has a value. Its stamp is
the newest dot, deletions included; its expiry is that of the last value to go, and none if one stays. So whoever asks
a record only for its type, stamp or expiry need not know of siblings. The body, big-endian::

    version u8 = 1 | actors u16 | siblings u16
    actors x    actor u64, hlc u64                                      ascending by actor
    siblings x  hlc u64, actor u64, expire_at_ms u64, written u8        newest first; written 0 = deletion
    siblings x  value length u32, 0xFFFFFFFF = no value
    the values, one after the other

What stands before the value lengths is the same on every replica that knows the same writes, also when one of them
has already dropped an expired value: it is what ``token`` hashes. Equal containers have equal bytes. Two containers
may share their newest dot and yet differ, so stamps do not tell whether two records are equal; tokens do.

A plain record, from before a policy was given, counts as the write of actor ``(node of its stamp, 0)``. Its body is the
finished bulk reply of its value (``keyspace/rows.py``); a container holds values as they are.
"""

from __future__ import annotations

import struct
from itertools import chain, pairwise
from typing import Final

from respkv.base.coding import U64BE, checksum
from respkv.base.errors import CorruptionError
from respkv.base.ids import STRING, TOMBSTONE
from respkv.causality import dvv, record
from respkv.causality.dvv import EMPTY, Container, Sibling
from respkv.causality.hlc import STAMP_BYTES, stamp_hlc

VERSION: Final = 1
NO_VALUE: Final = 0xFFFFFFFF
COUNT_MAX: Final = 0xFFFF
#: The first bytes of a container's token; no stamp begins so.
TOKEN_PREFIX: Final = b"\xff\xff"

_HEAD: Final = struct.Struct(">BHH")
_ENTRY: Final = struct.Struct(">QQ")
_DOT: Final = struct.Struct(">QQQB")


def is_container(data: bytes) -> bool:
    """True when the record ``data`` holds siblings."""
    return bool(data[0] & record.DVV)


def encode(container: Container) -> bytes:
    """The record of a container that holds at least one sibling. O(bytes)."""
    clock, siblings = container
    assert siblings and len(siblings) <= COUNT_MAX and len(clock) <= COUNT_MAX
    body = [
        _HEAD.pack(VERSION, len(clock), len(siblings)),
        struct.pack(f">{2 * len(clock)}Q", *chain.from_iterable(sorted(clock.items()))),
    ]
    kind, sizes = TOMBSTONE, []
    for hlc, actor, expire_at_ms, value in siblings:
        body.append(_DOT.pack(hlc, actor, expire_at_ms, value is not None or expire_at_ms != 0))
        if value is None:
            sizes.append(NO_VALUE)
        else:
            kind = STRING
            sizes.append(len(value))
    body.append(struct.pack(f">{len(sizes)}I", *sizes))
    body += [sibling.value for sibling in siblings if sibling.value]
    return record.encode(kind | record.DVV, container.stamp(), b"".join(body), container.expire_at_ms())


def decode(data: bytes, *, where: str = "siblings") -> Container:
    """The container in a record with the DVV flag.

    CorruptionError, naming ``where``, for anything that ``encode`` never makes. O(bytes).
    """
    start = record.EXPIRING_BODY_AT if data[:1] and data[0] & record.HAS_EXPIRY else record.BODY_AT
    if len(data) < start + _HEAD.size:
        raise CorruptionError(where, len(data), "record of siblings is cut short")
    version, actors, count = _HEAD.unpack_from(data, start)
    if version != VERSION:
        raise CorruptionError(where, start, f"record of siblings has version {version}")
    entries_at = start + _HEAD.size
    dots_at = entries_at + actors * _ENTRY.size
    sizes_at = dots_at + count * _DOT.size
    value_at = sizes_at + 4 * count
    if not count or len(data) < value_at:
        raise CorruptionError(where, start, "record of siblings is cut short or holds none")
    numbers = struct.unpack_from(f">{2 * actors}Q", data, entries_at)
    clock = dict(zip(numbers[::2], numbers[1::2]))
    if list(clock) != sorted(numbers[::2]) or 0 in numbers[1::2]:
        raise CorruptionError(where, entries_at, "clock of siblings is not in order")
    siblings = []
    sizes = struct.unpack_from(f">{count}I", data, sizes_at)
    dots = _DOT.iter_unpack(memoryview(data)[dots_at:sizes_at])
    for (hlc, actor, expire_at_ms, written), size in zip(dots, sizes):
        value = None
        if size != NO_VALUE:
            value = data[value_at : value_at + size]
            value_at += size
        if written != (value is not None or expire_at_ms != 0) or not 1 <= hlc <= clock.get(actor, 0):
            raise CorruptionError(where, dots_at, "a sibling contradicts its clock or itself")
        siblings.append(Sibling(hlc, actor, expire_at_ms, value))
    if value_at != len(data):
        raise CorruptionError(where, sizes_at, "values of siblings do not fill the record")
    container = Container(clock, tuple(siblings))
    _check(data, container, where)
    return container


def _check(data: bytes, container: Container, where: str) -> None:
    """The order of the siblings, and that the record's head says what its body says."""
    siblings = container.siblings
    for later, earlier in pairwise(siblings):
        if not later[:2] > earlier[:2]:
            raise CorruptionError(where, 0, "siblings are not in order")
    kind = STRING if any(sibling.value is not None for sibling in siblings) else TOMBSTONE
    expire_at_ms = container.expire_at_ms()
    first = kind | record.DVV | (record.HAS_EXPIRY if expire_at_ms else 0)
    if data[0] != first or record.stamp_of(data) != container.stamp() or record.expire_at_of(data) != expire_at_ms:
        raise CorruptionError(where, 0, "head and siblings of a record disagree")


def container_of(data: bytes | None, *, where: str = "siblings") -> Container:
    """The container of any string or tombstone record, plain ones included; EMPTY for None.

    A plain record is one sibling of the actor ``(node, 0)``, whose clock covers what that node wrote before it. Plain
    writes of two nodes that never met therefore become siblings when a policy is given to their key.
    """
    if data is None:
        return EMPTY
    if data[0] & record.DVV:
        return decode(data, where=where)
    kind, stamp, expire_at_ms, body = record.decode(data)
    assert kind in (STRING, TOMBSTONE), "a collection has no siblings"
    hlc, actor = stamp_hlc(stamp), dvv.make_actor(int.from_bytes(stamp[8:], "big"), 0)
    value = body[body.index(b"\n") + 1 : -2] if kind == STRING else None
    return Container({actor: hlc}, (Sibling(hlc, actor, expire_at_ms, value),))


def without_flushed(data: bytes, floor: bytes, *, where: str = "siblings") -> bytes:
    """A container's record without the siblings at or below a flush floor; its own stamp lies above that.

    The very object ``data`` when there are none. What another node has not flushed yet must not come back with it.
    """
    container = decode(data, where=where)
    kept = dvv.drop_flushed(container, floor)
    return data if kept is container else encode(kept)


def join(left: bytes, right: bytes, *, last_write_wins: bool = False, where: str = "siblings") -> bytes:
    """What a replica keeps of two records of one key, whatever their forms.

    Two plain ones: last write wins. Two containers merge. A container and a plain string or tombstone merge, too, or
    with ``last_write_wins`` (the key's policy is ``lww`` by now) go by stamp; so do a container and a collection, as
    a collection has no siblings. The very object ``left`` or ``right`` comes back when it already is the answer.
    Raises CorruptionError for a malformed container. O(bytes).
    """
    if left == right:
        return left
    either, both = (left[0] | right[0]) & record.DVV, left[0] & right[0] & record.DVV
    if not either:
        return record.newer(left, right)
    if not both and (last_write_wins or max(record.kind_of(left), record.kind_of(right)) > STRING):
        # Of one write in two forms the container is kept.
        return max(left, right, key=lambda data: (record.stamp_of(data), data[0] & record.DVV))
    mine, theirs = container_of(left, where=where), container_of(right, where=where)
    merged = dvv.merge(mine, theirs)
    if merged == mine and left[0] & record.DVV:
        return left
    if merged == theirs and right[0] & record.DVV:
        return right
    return encode(merged)


def expired_form(data: bytes, now_ms: int, *, where: str = "siblings") -> bytes:
    """The container's record without the values whose time has come; the same object when there are none.

    Stamp, expiry and token stay. What ``record.expired_form`` is to a plain record.
    """
    container = decode(data, where=where)
    dropped = dvv.drop_expired(container, now_ms)
    return data if dropped is container else encode(dropped)


def token(data: bytes) -> bytes:
    """Ten bytes that are equal exactly when two records of one key hold the same writes.

    The stamp of a plain record; of a collection's, whose floor may differ under one stamp, a hash over all of it; of a
    container a hash over clock, dots and expiries. Good for equality only, not for order. CorruptionError when the
    container is too short to have one.
    """
    if not data[0] & record.DVV:
        if data[0] & record.TYPE_MASK > STRING:
            return TOKEN_PREFIX + U64BE.pack(checksum(data[1:]))
        return record.stamp_of(data)
    start = record.EXPIRING_BODY_AT if data[0] & record.HAS_EXPIRY else record.BODY_AT
    if len(data) < start + _HEAD.size:
        raise CorruptionError("siblings", len(data), "record of siblings is cut short")
    _, actors, count = _HEAD.unpack_from(data, start)
    end = start + _HEAD.size + actors * _ENTRY.size + count * _DOT.size
    return TOKEN_PREFIX + U64BE.pack(checksum(memoryview(data)[start:end]))


assert len(TOKEN_PREFIX) + U64BE.size == STAMP_BYTES
