"""The bytes of internal keys and records, version 2, as docs/formats/records.md describes them.

They may never change: a change needs a new version of the formats, and older stores must be refused with advice.
"""

from __future__ import annotations

from pathlib import Path

from respkv.base.ids import HASH
from respkv.causality.record import decode
from respkv.keyspace import effects as fx
from respkv.keyspace import keys
from respkv.storage.write_batch import iterate_payload
from tests.unit.keyspace.rig import START_MS, Rig

GOLDEN = Path(__file__).parent / "golden" / "records-2.txt"


def write_everything(rig: Rig) -> list[tuple[bytes, bytes]]:
    """One of each form; the logged entries."""
    soon = START_MS + 1000
    rig.applier.apply([fx.put(0, b"foo", b"bar")])
    rig.applier.apply([fx.put(3, b"{user}:1", b"", soon)])
    rig.applier.apply([fx.put_element(0, b"hash", HASH, b"field", b"value")])
    rig.applier.apply([fx.put_element(0, b"hash", HASH, b"", b"\x00\xff", soon), fx.expire(0, b"hash", soon + 9000)])
    rig.applier.apply([fx.put(0, b"gone", b"x"), fx.delete(0, b"gone")])
    rig.applier.apply([fx.put_element(0, b"one", HASH, b"f", b"v"), fx.remove_element(0, b"one", b"f")])
    rig.applier.apply([fx.flush(7), fx.swap(0, 1)])
    rig.advance_ms(1000)
    rig.applier.expire_now(keys.record_key(3, b"{user}:1"))
    rig.keyspace.expired_through_ms = rig.now_ms
    rig.keyspace.write_expired_through()
    rig.keyspace.write_ceiling()
    return list(iterate_payload(b"".join(rig.engine.batch)))


def golden() -> list[tuple[bytes, bytes]]:
    entries = []
    for line in GOLDEN.read_text().splitlines():
        if line and not line.startswith("#"):
            key, record = (bytes.fromhex(part.strip()) for part in line.split("|"))
            entries.append((key, record))
    return entries


def test_what_is_written_are_the_golden_bytes() -> None:
    assert write_everything(Rig(databases=8)) == golden()


def test_the_golden_bytes_are_read_as_what_they_were() -> None:
    rig = Rig(databases=8)
    for key, record in golden():
        rig.engine.put(key, record)
        for entry in keys.derive(key, record):
            rig.engine.put_derived(*entry)
    rig.commit()
    rig.driver.sync()
    rig.restart(crash=True)
    keyspace = rig.keyspace
    assert keyspace.stored == [1, 0, 2, 3, 4, 5, 6, 7]
    assert keyspace.floors.databases() == [7]
    assert keyspace.expired_through_ms == START_MS and keyspace.clock.last >> 16 == START_MS + 6000
    assert rig.view(1).string(b"foo") == b"bar"
    assert rig.view(3).string(b"{user}:1") is None
    assert rig.fields(b"hash", db=1) == {b"field": (b"value", 0), b"": (b"\x00\xff", START_MS + 1000)}
    assert rig.view(1).expire_at(b"hash") == START_MS + 10_000
    found = rig.view(1).hash(b"hash")
    assert found is not None and found.count() == 2
    assert rig.view(1).kind(b"gone") == rig.view(1).kind(b"one") == 0


def test_every_form_is_in_the_golden_file() -> None:
    entries = golden()
    assert sorted({key[0] for key, _ in entries}) == [1, 2, 5, 6]
    assert {record[0] for _, record in entries} == {0x00, 0x01, 0x02, 0x10, 0x11, 0x12}
    assert all(len(decode(record).stamp) == 10 for _, record in entries)
