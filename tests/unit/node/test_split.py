"""A cycle that writes much becomes several log records, divided between commands."""

from __future__ import annotations

from respkv.storage.wal import BATCH, SEGMENT_MAGIC, LogReader, segment_id
from respkv.storage.write_batch import iterate_payload
from respkv.testing.node_driver import DIRECTORY, NodeDriver, encode_request


def records(driver: NodeDriver) -> list[list[bytes]]:
    """The keys of each log record, of all segments."""
    found = []
    for name in driver.fs.listdir(f"{DIRECTORY}/wal"):
        path = f"{DIRECTORY}/wal/{name}"
        reader = LogReader(driver.fs.open_read(path), segment_id(path) or 0, SEGMENT_MAGIC)
        assert reader.header() is not None
        found += [[key for key, _ in iterate_payload(r.payload)] for r in reader.records() if r.kind == BATCH]
    return found


def test_large_values_are_divided_between_commands() -> None:
    driver = NodeDriver(memtable_bytes="64mb")
    client = driver.connect()
    before = driver.node.engine.appended_lsn
    client.call("SET", "a", b"x" * 900_000)
    pipeline = b"".join(encode_request("APPEND", "a", "y") for _ in range(20))
    assert client.send(pipeline).count(b":") == 20
    assert 6 <= driver.node.engine.appended_lsn - before <= 12


def test_many_small_ones_are_divided() -> None:
    driver = NodeDriver(memtable_bytes="64mb")
    client = driver.connect()
    before = driver.node.engine.appended_lsn
    client.send(b"".join(encode_request("SET", f"k{n}", "v") for n in range(5000)))
    assert driver.node.engine.appended_lsn - before >= 3


def test_a_transaction_is_one_record_however_large() -> None:
    driver = NodeDriver(memtable_bytes="64mb")
    client = driver.connect()
    before = driver.node.engine.appended_lsn
    words = [encode_request("MULTI")]
    words += [encode_request("SET", f"t{n}", b"z" * 100_000) for n in range(60)]
    client.send(b"".join([*words, encode_request("EXEC")]))
    whole = [keys for keys in records(driver) if any(key.endswith(b"t0") for key in keys)]
    assert len(whole) == 1 and sum(key[5:6] == b"t" for key in whole[0]) == 60
    assert driver.node.engine.appended_lsn - before <= 2
    driver.node.close()
    other = NodeDriver(fs=driver.fs.copy(), clock=driver.clock)
    assert other.connect().call("STRLEN", "t59") == b":100000\r\n"
