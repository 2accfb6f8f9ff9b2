from __future__ import annotations

import pytest

from respkv.base.ids import HASH, STRING
from respkv.causality.hlc import pack_stamp
from respkv.causality.record import encode, expired_form, tombstone
from respkv.env.rng import seeded
from respkv.keyspace import keys
from respkv.keyspace.floors import META_PREFIX, FlushFloors
from respkv.storage.wal import BATCH, SEGMENT_MAGIC, LogHeader, LogWriter
from respkv.storage.write_batch import encode_entry
from respkv.testing.witness import WatchedFileSystem, Witness

KEY = keys.record_key(0, b"k")
ELEMENT = keys.element_prefix(KEY) + b"f"


def stamp(number: int, node: int = 1) -> bytes:
    return pack_stamp(number << 16, node)


def string(number: int, value: bytes = b"v", node: int = 1) -> bytes:
    return encode(STRING, stamp(number, node), b"$%d\r\n%b\r\n" % (len(value), value))


def floor(number: int) -> bytes:
    floors = FlushFloors()
    floors.raise_to(0, 0, 16383, stamp(number))
    return encode_entry(
        keys.meta_key(META_PREFIX) + (0).to_bytes(2, "big"), encode(STRING, stamp(number), floors.encode(0))
    )


class Log:
    """A witness of one node."""

    def __init__(self) -> None:
        self.us = 0
        self.witness = Witness(lambda: self.us)
        self.disk = WatchedFileSystem()
        self.witness.watch("n1", self.disk)
        self.lsn = 0

    def write(self, *entries: bytes) -> None:
        self.lsn += 1
        self.us += 10
        self.witness.wrote("n1", self.lsn, b"".join(entries))


def test_it_hears_of_batches_and_of_nothing_else() -> None:
    log = Log()
    log.disk.mkdir("/db")
    log.disk.mkdir("/db/wal")
    file = LogWriter(log.disk, "/db/wal/1.log", SEGMENT_MAGIC, LogHeader(1, 0, 0, 0), preallocate=4096)
    file.append(BATCH, encode_entry(KEY, string(1)), 0)
    file.append_end(0)
    file.append_mark(1)
    other = log.disk.crash(seeded(1))
    other.write_file("/db/other", b"x" * 100)
    assert [(entry.lsn, entry.key, entry.record) for entry in log.witness.entries("n1")] == [(1, KEY, string(1))]
    assert log.witness.versions == {KEY: {string(1): 0}}
    assert log.disk.copy().on_batch is not None and other.on_batch is not None


def test_what_may_follow_what() -> None:
    log = Log()
    expiring = encode(STRING, stamp(5), b"$1\r\nv\r\n", 1_700_000_000_000)
    for record in (string(1), string(1), string(2), tombstone(stamp(3)), expiring, expired_form(expiring), string(6)):
        log.write(encode_entry(KEY, record))
    log.write(encode_entry(KEY, encode(HASH, stamp(7), stamp(6))))
    log.write(encode_entry(KEY, encode(HASH, stamp(7), stamp(7))))
    assert log.witness.problems == []


def test_an_older_record_over_a_newer_one_is_told() -> None:
    log = Log()
    log.write(encode_entry(KEY, string(2)))
    log.write(encode_entry(KEY, string(1)))
    assert len(log.witness.problems) == 1 and "which is newer" in log.witness.problems[0]


def test_two_records_under_one_stamp_are_told() -> None:
    log = Log()
    log.write(encode_entry(KEY, string(2)))
    log.write(encode_entry(KEY, string(2, b"other")))
    assert len(log.witness.problems) == 1 and "two different records" in log.witness.problems[0]


def test_a_record_below_the_nodes_own_floor_is_told() -> None:
    log = Log()
    log.write(floor(5))
    log.write(encode_entry(KEY, string(6)))
    log.write(encode_entry(keys.record_key(0, b"j"), string(4)))
    assert len(log.witness.problems) == 1 and "flush floor" in log.witness.problems[0]
    assert [(each.db, each.first, each.last, each.stamp) for each in log.witness.floors] == [(0, 0, 16383, stamp(5))]


def test_a_hidden_element_may_be_forgotten_and_come_again() -> None:
    log = Log()
    log.write(encode_entry(KEY, encode(HASH, stamp(2), stamp(1))))
    log.write(encode_entry(ELEMENT, encode(STRING, stamp(3), b"v")))
    log.write(encode_entry(KEY, tombstone(stamp(4))))
    log.write(encode_entry(ELEMENT, encode(STRING, stamp(2), b"late")))
    assert log.witness.problems == []


@pytest.mark.parametrize("floor_at", [1, 2])
def test_a_hidden_element_may_come_when_its_owner_lives_again(floor_at: int) -> None:
    """The newer one has gone with the expiry of its owner, which others have put off."""
    log = Log()
    log.write(encode_entry(KEY, encode(HASH, stamp(2), stamp(1))))
    log.write(encode_entry(ELEMENT, encode(STRING, stamp(3), b"v")))
    log.write(encode_entry(KEY, encode(HASH, stamp(4), stamp(floor_at))))
    log.write(encode_entry(ELEMENT, encode(STRING, stamp(2), b"late")))
    assert len(log.witness.problems) == (floor_at < 2)


@pytest.mark.parametrize("floor_at", [2, 3])
def test_a_hidden_element_that_had_expired_may_come_again_as_it_was(floor_at: int) -> None:
    log = Log()
    timed = encode(STRING, stamp(3), b"v", 1000)
    log.write(encode_entry(KEY, encode(HASH, stamp(4), stamp(floor_at))))
    for record in (timed, expired_form(timed), timed):
        log.write(encode_entry(ELEMENT, record))
    assert len(log.witness.problems) == (floor_at < 3)


def test_what_a_crash_took_back_is_gone() -> None:
    log = Log()
    log.write(encode_entry(KEY, string(1)))
    log.write(encode_entry(KEY, string(5)), floor(4))
    log.witness.opening("n1")
    log.write(encode_entry(KEY, string(1)))  # the copied tail
    log.witness.opened("n1", 1)
    assert log.witness.surviving() == {KEY: string(1)}
    assert (log.witness.lost, log.witness.cuts()) == (2, [30])
    assert log.witness.surviving_floors().highest < stamp(1)
    log.lsn = 1
    log.write(encode_entry(KEY, string(3)))
    assert log.witness.problems == [] and log.witness.surviving() == {KEY: string(3)}


def test_the_newest_of_all_logs_survives() -> None:
    log = Log()
    log.witness.watch("n2", WatchedFileSystem())
    log.write(encode_entry(KEY, string(3)))
    log.witness.wrote("n2", 1, encode_entry(KEY, string(4, node=2)))
    assert log.witness.surviving() == {KEY: string(4, node=2)}
