"""Effects: what a data command does to the keyspace, as small immutable tuples.

They are the unit of logging, replication and merging. The first item is the operation, the second the
*stored* database number, the third the key:

    (PUT, db, key, value, expire_at_ms)               a string; 0 = never expires
    (DELETE, db, key)                                 a key of any type; no effect when it is absent
    (EXPIRE, db, key, expire_at_ms)                   set (or with 0 clear) the expiry of an existing key of any type
    (PUT_ELEMENT, db, key, kind, field, value, expire_at_ms)   one element of a collection, made if missing
    (REMOVE_ELEMENT, db, key, field)                  one element; the last one takes the key with it
    (FLUSH, db, b"")                                  everything in a database
    (SWAP, db, b"", other_db)                         exchange two databases (logical numbers)
    (SUPERSEDE, db, key, value, expire_at_ms, context)   a value (None: a deletion) in place of the siblings that the
                                                      causal context covers

Whether something was there is found out by ``keyspace.apply``, never told by the effect.
"""

from __future__ import annotations

from typing import Any, Final

from respkv.base.limits import KEY_BYTES_MAX

PUT: Final = 0
DELETE: Final = 1
EXPIRE: Final = 2
PUT_ELEMENT: Final = 3
REMOVE_ELEMENT: Final = 4
FLUSH: Final = 5
SWAP: Final = 6
SUPERSEDE: Final = 7

#: What an entry of the log is longer than its key and its value, at the most.
_ENTRY_BYTES: Final = 64

Effect = tuple[Any, ...]
Effects = tuple[Effect, ...] | list[Effect]
NONE: Final[Effects] = ()


def put(db: int, key: bytes, value: bytes, expire_at_ms: int = 0) -> Effect:
    """A string value."""
    return (PUT, db, key, value, expire_at_ms)


def delete(db: int, key: bytes) -> Effect:
    """The key goes, whatever its type."""
    return (DELETE, db, key)


def supersede(db: int, key: bytes, value: bytes | None, expire_at_ms: int, context: dict[int, int]) -> Effect:
    """A value in place of what its writer has seen; only for keys whose concurrent writes are kept."""
    return (SUPERSEDE, db, key, value, expire_at_ms, context)


def expire(db: int, key: bytes, expire_at_ms: int) -> Effect:
    """A new expiry (0: none) for a key that exists."""
    return (EXPIRE, db, key, expire_at_ms)


def put_element(db: int, key: bytes, kind: int, field: bytes, value: bytes, expire_at_ms: int = 0) -> Effect:
    """One element of a collection."""
    return (PUT_ELEMENT, db, key, kind, field, value, expire_at_ms)


def remove_element(db: int, key: bytes, field: bytes) -> Effect:
    """One element goes."""
    return (REMOVE_ELEMENT, db, key, field)


def flush(db: int) -> Effect:
    """All keys of a database go."""
    return (FLUSH, db, b"")


def swap(db: int, other: int) -> Effect:
    """Two logical databases exchange their contents."""
    return (SWAP, db, b"", other)


def has_long_key(effects: Effects) -> bool:
    """Whether any of the effects would store a key, or a key with a field, longer than keys may be."""
    for effect in effects:
        if effect[0] in (PUT, PUT_ELEMENT, SUPERSEDE):
            size = len(effect[2]) + (len(effect[4]) if effect[0] == PUT_ELEMENT else 0)
            if size > KEY_BYTES_MAX:
                return True
    return False


def log_bytes(effects: Effects) -> int:
    """What the effects take of the log, about; without the record that EXPIRE writes again. 0.1 us each."""
    size = _ENTRY_BYTES * len(effects)
    for effect in effects:
        operation = effect[0]
        size += len(effect[2])
        if operation == PUT_ELEMENT:
            size += len(effect[4]) + len(effect[5])
        elif operation in (PUT, REMOVE_ELEMENT) or (operation == SUPERSEDE and effect[3] is not None):
            size += len(effect[3])
    return size
