"""The fast path of a ring member: what it takes up from the general one."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from respkv.base.errors import ReadMiss
from respkv.commands.ring_dispatch import RingDispatcher
from respkv.storage.engine import Engine
from respkv.testing.node_driver import NodeDriver


def ring_dispatcher(driver: NodeDriver) -> RingDispatcher:
    plain = driver.node.dispatcher
    return RingDispatcher(
        table=plain.table, keyspace=plain.keyspace, applier=plain.applier, registry=plain.registry,
        server=plain.server, fetch=plain.fetch, limit_bytes=plain.limit_bytes,
    )  # fmt: skip


def test_a_get_takes_up_a_key_that_is_not_cached() -> None:
    driver = NodeDriver()
    assert driver.connect().call("SET", "{tag}key", "value") == b"+OK\r\n"
    keyspace = driver.node.keyspace
    keyspace.cache.clear_all()
    row, young, _ = ring_dispatcher(driver)._warm(0, b"{tag}key")
    assert row.__class__ is bytes and row[11:] == b"$5\r\nvalue\r\n" and young[b"{tag}key"] is row
    assert young is keyspace.cache.rows(0)


def test_what_a_get_cannot_take_up_goes_the_general_way(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = NodeDriver()
    dispatcher = ring_dispatcher(driver)
    assert dispatcher._warm(0, b"absent")[0] is None

    def missing(_engine: Engine, _internal: bytes) -> bytes:
        raise ReadMiss(SimpleNamespace(read=None, install=None))  # type: ignore[arg-type]

    monkeypatch.setattr(Engine, "get", missing)
    assert dispatcher._warm(0, b"key")[0] is None
