from __future__ import annotations

import errno
from pathlib import Path

import pytest

from respkv.base.errors import CorruptionError, FormatError
from respkv.env.rng import seeded
from respkv.storage.manifest import (
    ManifestLog,
    decode_edit,
    encode_current,
    encode_edit,
    manifest_number,
    manifest_path,
    read_current,
    read_manifest,
    replace_file,
    write_manifest,
)
from respkv.storage.sstable.format import TableMeta
from respkv.storage.version import Edit, Run, Version
from respkv.storage.wal import EDIT, MANIFEST_MAGIC, RECORD_OVERHEAD, FatalStorageError, LogHeader, LogWriter
from respkv.testing.disk import PowerLoss, SimulatedFileSystem

GOLDEN = Path(__file__).parent / "golden"


def disk() -> SimulatedFileSystem:
    fs = SimulatedFileSystem()
    fs.mkdir("/d")
    fs.sync_dir("/")
    return fs


def run(number: int) -> Run:
    return Run(number, (TableMeta(number, 4242, 17, b"\x00a", b"\x00z", bytes(10), b"\x01" * 10, 3),))


def grow(log: ManifestLog, version: Version, numbers: range) -> Version:
    for number in numbers:
        edit = Edit(add=(run(number),), log_number=number + 1, log_lsn=number * 10, next_file=number + 2)
        version = version.apply(edit)
        log.append([edit], version)
    return version


def test_edits_come_back() -> None:
    fs = disk()
    log = ManifestLog(fs, "/d", 1, Version())
    version = grow(log, Version(), range(1, 5))
    assert read_current(fs, "/d") == 1
    assert read_manifest(fs, "/d", 1) == (1, version, 5, 0)
    log.close()


def test_several_edits_in_one_append() -> None:
    fs = disk()
    log = ManifestLog(fs, "/d", 1, Version())
    edits = [Edit(add=(run(1),)), Edit(add=(run(2),), meta={"m": b"v"})]
    version = Version().apply(edits[0]).apply(edits[1])
    assert log.append(edits, version) > 0
    assert read_manifest(fs, "/d", 1).version == version


def test_edits_of_one_append_do_not_call_each_other_durable() -> None:
    fs = disk()
    log = ManifestLog(fs, "/d", 1, Version(), rewrite_bytes=4000)
    edits = [Edit(add=(run(number),), meta={"pad": bytes(600)}) for number in (1, 2, 3)]
    version = Version()
    for edit in edits:
        version = version.apply(edit)
    fs.fuse = 1  # Power fails between the write and the sync.
    with pytest.raises(PowerLoss):
        log.append(edits, version)
    found = [len(read_manifest(fs.crash(seeded(seed)), "/d", 1).version.runs) for seed in range(60)]
    assert set(found) == {0, 1, 2, 3}


def test_a_long_manifest_is_rewritten() -> None:
    fs = disk()
    log = ManifestLog(fs, "/d", 1, Version(), rewrite_bytes=1000)
    version = grow(log, Version(), range(1, 20))
    assert log.number > 1
    assert read_current(fs, "/d") == log.number
    assert read_manifest(fs, "/d", log.number).version == version
    assert [name for name in fs.listdir("/d") if manifest_number(name)] == [f"MANIFEST-{log.number:06d}"]


def test_an_old_manifest_that_cannot_be_removed_does_not_undo_the_new_one(monkeypatch: pytest.MonkeyPatch) -> None:
    fs = disk()
    log = ManifestLog(fs, "/d", 1, Version(), rewrite_bytes=10)

    def remove(path: str) -> None:
        raise OSError(errno.EIO, "input/output error", path)

    monkeypatch.setattr(fs, "remove", remove)
    version = grow(log, Version(), range(1, 2))
    assert log.number == 2 and fs.exists(manifest_path("/d", 1))
    assert read_current(fs, "/d") == 2 and read_manifest(fs, "/d", 2).version == version


def test_on_a_full_disk_the_old_manifest_goes_on() -> None:
    fs = disk()
    log = ManifestLog(fs, "/d", 1, Version(), rewrite_bytes=4000)
    fs.capacity = fs.used() + 100
    version = grow(log, Version(), range(1, 17))
    assert log.number == 1 and log.size() > 4000
    assert read_manifest(fs, "/d", 1).version == version


def test_a_failing_sync_is_not_passed_over() -> None:
    fs = disk()
    log = ManifestLog(fs, "/d", 1, Version(), rewrite_bytes=10)
    fs.fail_syncs = lambda path: True
    with pytest.raises(FatalStorageError, match="input/output"):
        grow(log, Version(), range(1, 2))


def test_edits_that_found_no_room_can_be_written_later() -> None:
    """The first of two edits fits, the second does not: none may be there, or the next try would repeat it."""
    fs = disk()
    log = ManifestLog(fs, "/d", 1, Version(), rewrite_bytes=400)
    edits = [Edit(add=(run(number),)) for number in (1, 2)]
    version = Version().apply(edits[0]).apply(edits[1])
    spare = ManifestLog(disk(), "/d", 1, Version())
    room = spare.append(edits[:1], version)
    fs.truncate("/d/MANIFEST-000001", log.size() + room)
    fs.capacity = fs.used()
    with pytest.raises(OSError, match="no space"):
        log.append(edits, version)
    assert read_manifest(fs, "/d", 1).version == Version()
    fs.capacity = None
    log.append(edits, version)
    assert read_manifest(fs, "/d", 1).version == version


def test_a_mark_that_cannot_be_written_undoes_no_edit(monkeypatch: pytest.MonkeyPatch) -> None:
    fs = disk()
    log = ManifestLog(fs, "/d", 1, Version())
    write = LogWriter._write

    def fail(self: LogWriter, data: bytes) -> None:
        if len(data) == RECORD_OVERHEAD:
            raise OSError(errno.EIO, "input/output error")
        write(self, data)

    monkeypatch.setattr(LogWriter, "_write", fail)
    version = grow(log, Version(), range(1, 4))
    assert read_manifest(fs, "/d", 1).version == version


def test_a_rewrite_that_fails_goes_on_in_the_old_manifest_and_is_tried_again() -> None:
    fs = disk()
    log = ManifestLog(fs, "/d", 1, Version(), rewrite_bytes=10)
    version = Version().apply(Edit(add=(run(1),)))
    fs.fail_syncs = lambda path: path.endswith("MANIFEST-000002")
    log.append([Edit(add=(run(1),))], version)
    assert log.number == 1 and read_manifest(fs, "/d", 1).version == version
    fs.fail_syncs = lambda path: False
    version = version.apply(Edit(meta={"a": b"1"}))
    log.append([Edit(meta={"a": b"1"})], version)
    assert read_current(fs, "/d") == 2 and read_manifest(fs, "/d", 2).version == version


def test_every_crash_during_growth_leaves_a_prefix_with_all_that_was_acknowledged() -> None:
    for fuse in range(0, 60):
        fs = disk()
        fs.fuse = fuse
        version, acknowledged = Version(), 0
        try:
            log = ManifestLog(fs, "/d", 1, version, rewrite_bytes=900)
            for number in range(1, 12):
                version = grow(log, version, range(number, number + 1))
                acknowledged = number
        except PowerLoss:
            pass
        for seed in range(6):
            after = fs.crash(seeded(seed))
            number = read_current(after, "/d")
            if number is None:
                assert acknowledged == 0
                continue
            found = read_manifest(after, "/d", number).version
            assert acknowledged <= len(found.runs) <= acknowledged + 1


def test_damage_is_reported() -> None:
    fs = disk()
    log = ManifestLog(fs, "/d", 1, Version(), rewrite_bytes=4000)
    grow(log, Version(), range(1, 4))
    path = manifest_path("/d", 1)
    outcomes = set()
    for offset in range(0, log.size()):
        fs.flip(path, offset, offset % 8)
        try:
            outcomes.add(len(read_manifest(fs, "/d", 1).version.runs))
        except CorruptionError:
            outcomes.add(-1)
        fs.flip(path, offset, offset % 8)
    # The bytes of the last mark have no witness behind them, and are none that anybody needs.
    assert outcomes == {-1, 3}


def test_the_last_edit_is_vouched_for_once_it_is_synced() -> None:
    fs = disk()
    log = ManifestLog(fs, "/d", 1, Version())
    version = grow(log, Version(), range(1, 3))
    end = log.size() - RECORD_OVERHEAD
    fs.flip(manifest_path("/d", 1), end - 10, 1)
    with pytest.raises(CorruptionError, match="calls durable"):
        read_manifest(fs, "/d", 1)
    fs.flip(manifest_path("/d", 1), end - 10, 1)
    assert read_manifest(fs, "/d", 1) == (1, version, 3, 0)


def test_without_room_for_what_vouches_for_them_edits_are_in_force_all_the_same() -> None:
    fs = disk()
    log = ManifestLog(fs, "/d", 1, Version(), rewrite_bytes=4000)
    edit = Edit(add=(run(1),))
    version = Version().apply(edit)
    room = ManifestLog(disk(), "/d", 1, Version()).append([edit], version) - RECORD_OVERHEAD
    fs.truncate("/d/MANIFEST-000001", log.size() + room)
    fs.capacity = fs.used()
    assert log.append([edit], version) == room
    fs.capacity = None
    version = grow(log, version, range(2, 4))
    assert read_manifest(fs, "/d", 1).version == version


def test_current_names_a_manifest_that_must_be_there() -> None:
    fs = disk()
    fs.write_file("/d/CURRENT", encode_current(7))
    with pytest.raises(CorruptionError, match="not there"):
        read_manifest(fs, "/d", 7)


def test_current_of_others_and_damaged_current() -> None:
    fs = disk()
    assert read_current(fs, "/d") is None
    fs.write_file("/d/CURRENT", b"something else\n")
    with pytest.raises(FormatError, match="--dir"):
        read_current(fs, "/d")
    fs.write_file("/d/CURRENT", encode_current(7).replace(b"7", b"8", 1))
    with pytest.raises(CorruptionError, match="checksum"):
        read_current(fs, "/d")
    fs.write_file("/d/CURRENT", encode_current(7)[:-3])
    with pytest.raises(CorruptionError, match="checksum"):
        read_current(fs, "/d")


def test_edits_that_make_no_sense_are_corruption() -> None:
    fs = disk()
    log = write_manifest(fs, "/d", 1, Version().snapshot_edit(), 0)
    log.append(EDIT, encode_edit(Edit(drop=(5,))), 1)
    with pytest.raises(CorruptionError, match="not there"):
        read_manifest(fs, "/d", 1)
    write_manifest(fs, "/d", 2, Edit(), 0)
    with pytest.raises(CorruptionError, match="full"):
        read_manifest(fs, "/d", 2)
    LogWriter(fs, manifest_path("/d", 3), MANIFEST_MAGIC, LogHeader(3, 0, 0, 0), preallocate=100)
    with pytest.raises(CorruptionError, match="no valid edit"):
        read_manifest(fs, "/d", 3)


@pytest.mark.parametrize("payload", [b"", b"{", b"[]", b"{}", b'{"next_file":1,"add":[1]}', b"\xff"])
def test_edits_that_are_not_understood(payload: bytes) -> None:
    with pytest.raises(FormatError):
        decode_edit(payload)


def test_names() -> None:
    assert manifest_number("MANIFEST-000012") == 12
    for name in ("MANIFEST-", "MANIFEST", "CURRENT", "MANIFEST-x", "XMANIFEST-1"):
        assert manifest_number(name) is None


def test_replacing_a_file_leaves_the_old_or_the_new() -> None:
    fs = disk()
    replace_file(fs, "/d", "F", b"old")
    for fuse in range(6):
        fs.fuse = fuse
        try:
            replace_file(fs, "/d", "F", b"new")
        except PowerLoss:
            pass
        fs.fuse = None
        assert all(fs.crash(seeded(seed)).read_all("/d/F") in (b"old", b"new") for seed in range(10))


def golden_edits() -> list[Edit]:
    return [
        Edit(add=(run(3),), log_number=4, log_lsn=30, next_file=12, meta={"counts": b"\x00\x01"}),
        Edit(
            add=(Run(3, (run(13).tables[0],)),), drop=(3,), next_file=20, meta={"counts": None, "mark": b"x"}
        ),
    ]


def golden_manifest(fs: SimulatedFileSystem) -> bytes:
    log = write_manifest(fs, "/d", 1, Version().snapshot_edit(), 0)
    for edit in golden_edits():
        log.append(EDIT, encode_edit(edit), log.last_lsn)
    return fs.read_all(log.path)


def test_the_format_has_not_changed() -> None:
    assert golden_manifest(disk()) == (GOLDEN / "manifest-1").read_bytes()
    assert encode_current(1) == (GOLDEN / "current-1").read_bytes()


def test_the_stored_manifest_can_be_read() -> None:
    fs = disk()
    fs.write_file("/d/MANIFEST-000001", (GOLDEN / "manifest-1").read_bytes())
    fs.write_file("/d/CURRENT", (GOLDEN / "current-1").read_bytes())
    version = Version()
    for edit in golden_edits():
        version = version.apply(edit)
    assert read_manifest(fs, "/d", read_current(fs, "/d") or 0) == (1, version, 3, 0)
