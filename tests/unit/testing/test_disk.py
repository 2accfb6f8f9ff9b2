from __future__ import annotations

import errno

import pytest

from respkv.env.rng import Rng, seeded
from respkv.testing.disk import SECTOR, PowerLoss, SimulatedFileSystem


def made(capacity: int | None = None) -> SimulatedFileSystem:
    fs = SimulatedFileSystem(capacity=capacity)
    fs.mkdir("/d")
    fs.sync_dir("/")
    return fs


def test_synced_contents_and_names_survive_every_crash() -> None:
    fs = made()
    file = fs.create("/d/a")
    file.write(b"kept")
    file.sync()
    fs.sync_dir("/d")
    for seed in range(50):
        assert fs.crash(seeded(seed)).read_all("/d/a") == b"kept"


def test_a_name_without_its_directorys_sync_may_be_lost_or_kept() -> None:
    fs = made()
    file = fs.create("/d/a")
    file.write(b"x")
    file.sync()
    found = {fs.crash(seeded(seed)).exists("/d/a") for seed in range(50)}
    assert found == {False, True}


def test_unsynced_bytes_are_lost_by_sectors() -> None:
    fs = made()
    file = fs.create("/d/a", 8 * SECTOR)
    file.sync()
    fs.sync_dir("/d")
    file.write(b"\x01" * (8 * SECTOR))
    seen = set()
    for seed in range(100):
        data = fs.crash(seeded(seed)).read_all("/d/a")
        sectors = [data[at : at + SECTOR] for at in range(0, len(data), SECTOR)]
        assert all(sector in (bytes(SECTOR), b"\x01" * SECTOR) for sector in sectors)
        seen.add(tuple(sector[0] for sector in sectors))
    assert len(seen) > 20
    assert (0, 0, 0, 0, 0, 0, 0, 0) in seen and (1, 1, 1, 1, 1, 1, 1, 1) in seen
    assert any(picture[0] == 0 and picture[-1] == 1 for picture in seen), "a hole before kept bytes"


def test_an_unsynced_growth_is_cut_anywhere() -> None:
    fs = made()
    file = fs.create("/d/a")
    fs.sync_dir("/d")
    file.write(bytes(1000))
    sizes = {fs.crash(seeded(seed)).size("/d/a") for seed in range(60)}
    assert {0, 1000} < sizes and len(sizes) > 10


def test_a_rename_is_one_step() -> None:
    fs = made()
    fs.write_file("/d/a", b"old")
    fs.write_file("/d/b", b"new")
    fs.sync_dir("/d")
    fs.rename("/d/b", "/d/a")
    states = set()
    for seed in range(50):
        after = fs.crash(seeded(seed))
        states.add((after.read_all("/d/a"), after.exists("/d/b")))
    assert states == {(b"old", True), (b"new", False)}


def test_removed_files_may_come_back_until_the_directory_is_synced() -> None:
    fs = made()
    fs.write_file("/d/a", b"x")
    fs.sync_dir("/d")
    fs.remove("/d/a")
    assert {fs.crash(seeded(seed)).exists("/d/a") for seed in range(50)} == {False, True}
    fs.sync_dir("/d")
    assert not any(fs.crash(seeded(seed)).exists("/d/a") for seed in range(50))


def test_a_lost_directory_takes_its_files_along() -> None:
    fs = SimulatedFileSystem()
    fs.mkdir("/d/e")
    fs.write_file("/d/e/a", b"x")
    fs.sync_dir("/d/e")
    fs.sync_dir("/d")
    lost = [after for seed in range(50) if not (after := fs.crash(seeded(seed))).exists("/d")]
    assert lost and not any(after.exists("/d/e/a") for after in lost)


def test_one_moment_can_crash_in_many_ways_and_the_disk_goes_on() -> None:
    fs = made()
    file = fs.create("/d/a")
    file.write(b"1")
    fs.crash(seeded(1))
    file.write(b"2")
    file.sync()
    fs.sync_dir("/d")
    assert fs.crash(seeded(2)).read_all("/d/a") == b"12"


def test_a_hard_link_is_the_same_file() -> None:
    fs = made()
    file = fs.create("/d/a")
    fs.link("/d/a", "/d/b")
    file.write(b"both")
    assert fs.read_all("/d/b") == b"both"
    with pytest.raises(FileExistsError):
        fs.link("/d/a", "/d/b")
    fs.remove("/d/a")
    assert fs.read_all("/d/b") == b"both"
    assert fs.used() == 4


def test_a_full_disk_refuses_growth_but_not_overwriting() -> None:
    fs = made(capacity=100)
    file = fs.create("/d/a", 80)
    with pytest.raises(OSError) as full:
        fs.create("/d/b", 21)
    assert full.value.errno == errno.ENOSPC and not fs.exists("/d/b")
    file.write(bytes(80))
    with pytest.raises(OSError):
        file.write(bytes(21))
    assert file.tell() == 80
    file.write(bytes(20))
    assert fs.free_bytes("/d") == 0


def test_a_failing_sync_keeps_nothing() -> None:
    fs = made()
    file = fs.create("/d/a", 10)
    file.sync()
    fs.sync_dir("/d")
    file.write(b"x" * 10)
    fs.fail_syncs = lambda path: True
    with pytest.raises(OSError) as failed:
        file.sync()
    assert failed.value.errno == errno.EIO
    assert bytes(10) in {fs.crash(seeded(seed)).read_all("/d/a") for seed in range(20)}


def test_a_dropped_sync_says_nothing() -> None:
    fs = made()
    file = fs.create("/d/a")
    fs.sync_dir("/d")
    fs.drop_syncs = lambda path: path == "/d/a"
    file.write(b"x")
    file.sync()
    assert b"" in {fs.crash(seeded(seed)).read_all("/d/a") for seed in range(20)}


def test_the_fuse_ends_the_program_at_the_nth_change() -> None:
    fs = made()
    fs.fuse = 2
    file = fs.create("/d/a")
    file.write(b"x")
    with pytest.raises(PowerLoss):
        file.sync()
    assert any(not fs.crash(seeded(seed)).exists("/d/a") for seed in range(20))


def test_flipped_bits_stay() -> None:
    fs = made()
    fs.write_file("/d/a", b"\x00\x00")
    fs.sync_dir("/d")
    fs.flip("/d/a", 1, 3)
    assert fs.read_all("/d/a") == b"\x00\x08"
    assert fs.crash(seeded(1)).read_all("/d/a") == b"\x00\x08"


def test_cold_reads_miss_until_the_bytes_were_read() -> None:
    fs = made()
    fs.write_file("/d/a", bytes(9000))
    fs.cold = seeded(1)
    file = fs.open_read("/d/a")
    assert file.pread_nowait(10, 4090) is None
    assert file.pread(10, 4090) == bytes(10)
    assert file.pread_nowait(10, 4090) == bytes(10)
    misses = 0
    for _ in range(20):
        fs.drop_page_cache()
        misses += file.pread_nowait(10, 0) is None
    assert misses > 5


def test_locks_exclude_until_closed() -> None:
    fs = made()
    lock = fs.lock("/d/LOCK")
    assert lock is not None
    assert fs.lock("/d/LOCK") is None
    lock.close()
    assert fs.lock("/d/LOCK") is not None


def test_names_behave_as_on_a_real_disk() -> None:
    fs = made()
    with pytest.raises(FileNotFoundError):
        fs.open_read("/d/a")
    with pytest.raises(FileNotFoundError):
        fs.create("/nowhere/a")
    with pytest.raises(IsADirectoryError):
        fs.remove("/d")
    fs.write_file("/d/a", b"1")
    fs.write_file("/d/a", b"")
    assert fs.read_all("/d/a") == b""
    with pytest.raises(FileExistsError):
        fs.create("/d/a")
    with pytest.raises(OSError):
        fs.rmdir("/d")
    fs.mkdir("/d/e/f")
    assert fs.listdir("/d") == ["a", "e"]
    fs.write_file("/d/e/f/g", b"2")
    fs.rename("/d/e", "/d/h")
    assert fs.read_all("/d/h/f/g") == b"2" and not fs.exists("/d/e/f")
    file = fs.open_append("/d/a", 0)
    file.write(b"abc")
    fs.truncate("/d/a", 1)
    assert fs.read_all("/d/a") == b"a"
    file.close()
    with pytest.raises(OSError):
        file.write(b"x")


def test_a_copy_is_what_a_killed_process_leaves() -> None:
    fs = made()
    fs.create("/d/a").write(b"unsynced")
    fs.link("/d/a", "/d/b")
    copy = fs.copy()
    assert copy.crash(seeded(1)).read_all("/d/b") == b"unsynced"
    assert copy.used() == 8


class Plain:
    """An inode as simple as can be: all bytes of it."""

    def __init__(self, size: int) -> None:
        self.data, self.durable, self.dirty = bytearray(size), bytearray(), [(0, 0)]

    def resize(self, size: int) -> None:
        self.dirty.append((min(size, len(self.data)), max(size, len(self.data))))
        self.data = self.data[:size].ljust(size, b"\0")

    def write(self, data: bytes, offset: int) -> None:
        self.data = self.data.ljust(offset, b"\0")
        self.data[offset : offset + len(data)] = data
        self.dirty.append((offset, offset + len(data)))

    def sync(self) -> None:
        self.durable, self.dirty = self.data[:], []

    def after_crash(self, rng: Rng) -> bytes:
        low, high = sorted((len(self.durable), len(self.data)))
        size = rng.choice((low, high, rng.randint(low, high)))
        result = self.durable[:size].ljust(size, b"\0")
        keep = rng.choice((0.0, 0.5, 0.9, 1.0))
        for at in sorted({at for start, end in self.dirty for at in range(start // SECTOR, -(-end // SECTOR))}):
            if rng.random() < keep:
                end = min((at + 1) * SECTOR, size, len(self.data))
                result[at * SECTOR : max(end, at * SECTOR)] = self.data[at * SECTOR : end]
        return bytes(result[:size])


@pytest.mark.parametrize("seed", range(60))
def test_zeros_that_take_no_memory_are_zeros(seed: int) -> None:
    rng = seeded(seed)
    fs = made()
    plain = Plain(rng.choice((0, 3000)))
    file = fs.create("/d/a", len(plain.data))
    fs.sync_dir("/d")
    for _ in range(25):
        draw = rng.randrange(6)
        at, size = rng.randrange(6000), rng.randrange(1, 2500)
        if draw == 0:
            file.sync()
            plain.sync()
        elif draw == 1:
            fs.truncate("/d/a", at)
            plain.resize(at)
        elif draw == 2:
            file.reserve(at)
            if at > len(plain.data):
                plain.resize(at)
        elif draw == 3 and at < min(len(plain.data), len(plain.durable)):
            fs.flip("/d/a", at, 3)
            plain.data[at] ^= 8
            plain.durable[at] = plain.data[at]
        else:
            data = bytes(size) if draw == 4 else rng.randbytes(size)
            fs.open_append("/d/a", at).write(data)
            plain.write(data, at)
        assert fs.read_all("/d/a") == fs.copy().read_all("/d/a") == plain.data
        reader = fs.open_read("/d/a")
        assert reader.pread(size, at) == plain.data[at : at + size]
        ranges = reader.data_ranges()
        assert not any(plain.data[ranges[-1][1] if ranges else 0 :])
        found = fs.crash(seeded(at))
        assert found.read_all("/d/a") == plain.after_crash(seeded(at)), "the same is lost"


def test_more_than_there_is_memory_for() -> None:
    fs = made()
    file = fs.create("/d/a", 1 << 45)
    file.write(b"kept")
    file.sync()
    fs.sync_dir("/d")
    found = fs.crash(seeded(1))
    assert found.size("/d/a") == 1 << 45 and found.open_read("/d/a").pread(6, 0) == b"kept\0\0"
    assert found.open_read("/d/a").data_ranges() == [(0, 4096)]
