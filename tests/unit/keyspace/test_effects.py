"""Effects are plain tuples in the documented form."""

from __future__ import annotations

from respkv.base.ids import HASH
from respkv.keyspace import effects as fx


def test_forms() -> None:
    assert fx.put(2, b"k", b"v") == (fx.PUT, 2, b"k", b"v", 0)
    assert fx.put(2, b"k", b"v", 9) == (fx.PUT, 2, b"k", b"v", 9)
    assert fx.delete(2, b"k") == (fx.DELETE, 2, b"k")
    assert fx.expire(2, b"k", 9) == (fx.EXPIRE, 2, b"k", 9)
    assert fx.put_element(2, b"k", HASH, b"f", b"v") == (fx.PUT_ELEMENT, 2, b"k", HASH, b"f", b"v", 0)
    assert fx.remove_element(2, b"k", b"f") == (fx.REMOVE_ELEMENT, 2, b"k", b"f")
    assert fx.flush(2) == (fx.FLUSH, 2, b"")
    assert fx.swap(0, 1) == (fx.SWAP, 0, b"", 1)
    assert not fx.NONE


def test_operations_differ() -> None:
    operations = (fx.PUT, fx.DELETE, fx.EXPIRE, fx.PUT_ELEMENT, fx.REMOVE_ELEMENT, fx.FLUSH, fx.SWAP)
    assert len(set(operations)) == len(operations)
