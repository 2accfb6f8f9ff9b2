"""respkv-check on directories with damage: it says what is wrong where, and changes nothing."""

from __future__ import annotations

import pytest

import respkv
from respkv.cli.check import check, main
from respkv.storage.identity import open_directory
from respkv.storage.options import EngineOptions
from respkv.storage.recovery import open_engine
from respkv.testing.disk import SimulatedFileSystem
from respkv.testing.engine_driver import EngineDriver

OPTIONS = EngineOptions(memtable_bytes=1 << 16, ballast_bytes=0)


def opened(fs: SimulatedFileSystem) -> EngineDriver:
    engine = open_engine(fs, "/d", OPTIONS, derive=lambda key, record: ())
    return EngineDriver(engine, derive=lambda key, record: ())


def stopped() -> SimulatedFileSystem:
    """A store with one table and a log, after a clean stop."""
    fs = SimulatedFileSystem()
    open_directory(fs, "/d", make_id=lambda: b"n" * 16).lock.close()
    driver = opened(fs)
    for number in range(100):
        driver.engine.put(b"\x01key%03d" % number, b"\x01" + b"%010d" % number)
    driver.engine.rotate()
    driver.settle()
    driver.engine.put(b"\x01last", b"\x01" + bytes(10))
    driver.engine.commit()
    driver.sync()
    driver.engine.close()
    return fs.copy()


def checked(fs: SimulatedFileSystem) -> tuple[bool, str]:
    before = fs.used(), fs.changes
    lines: list[str] = []
    good = check(fs, "/d", lines.append)
    assert (fs.used(), fs.changes) == before
    return good, "\n".join(lines)


def table(fs: SimulatedFileSystem) -> str:
    (name,) = fs.listdir("/d/tables")
    return f"/d/tables/{name}"


@pytest.mark.parametrize("word", ["-v", "--version"])
def test_its_version(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([word]) == 0
    assert capsys.readouterr() == (f"respkv-check {respkv.__version__}\n", "")


def test_a_clean_stop_is_good() -> None:
    good, text = checked(stopped())
    assert good and "1 tables" in text and "1 log records" in text and "quarantined" not in text


@pytest.mark.parametrize("lost", [True, False])
def test_a_damaged_table_with_its_keys_and_then_its_quarantine(lost: bool) -> None:
    fs = stopped()
    path = table(fs)
    if lost:
        fs.remove(path)
    else:
        fs.flip(path, fs.size(path) - 3, 1)
    good, text = checked(fs)
    assert not good and f"DAMAGED {path}" in text and b"\x01key099".hex() in text
    assert "1 problems found, 0 tables quarantined" in text
    opened(fs).engine.close()
    good, text = checked(fs.copy())
    assert not good and "the server has quarantined it" in text and "1 tables quarantined" in text


def test_a_quarantined_table_that_is_whole_again() -> None:
    fs = stopped()
    path, data = table(fs), fs.read_all(table(fs))
    fs.remove(path)
    opened(fs).engine.close()
    fs.write_file(path, data)
    good, text = checked(fs.copy())
    assert good and "good again" in text


def test_rot_at_the_end_of_the_log_of_a_clean_stop() -> None:
    fs = stopped()
    path = f"/d/wal/{fs.listdir('/d/wal')[-1]}"
    used = len(fs.read_all(path).rstrip(b"\0"))
    fs.open_append(path, used - 60).write(bytes(60))
    good, text = checked(fs)
    assert not good and "known to be durable" in text
