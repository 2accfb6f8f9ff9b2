"""The real file system keeps the contract of ``env.fs``, on a real directory."""

from __future__ import annotations

import errno
import gc
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from respkv.env.posix import PosixAppendFile, PosixFileSystem, PosixReadFile, SystemClock, sleep_us


@pytest.fixture
def fs() -> PosixFileSystem:
    return PosixFileSystem()


def test_append_and_read(fs: PosixFileSystem, tmp_path: Path) -> None:
    path = f"{tmp_path}/a"
    file = fs.create(path)
    file.write(b"hello ")
    file.write(b"world")
    file.sync()
    assert file.tell() == 11 and file.path == path
    file.close()
    file.close()
    assert fs.read_all(path) == b"hello world" and fs.size(path) == 11
    with pytest.raises(FileExistsError):
        fs.create(path)
    again = fs.open_append(path, 6)
    again.write(b"there")
    again.close()
    assert fs.read_all(path) == b"hello there"
    with pytest.raises(FileNotFoundError):
        fs.open_append(f"{tmp_path}/none", 0)


def test_writing_to_a_closed_file_is_an_error(fs: PosixFileSystem, tmp_path: Path) -> None:
    file = fs.create(f"{tmp_path}/a")
    file.close()
    for action in (lambda: file.write(b"x"), file.sync):
        with pytest.raises((OSError, ValueError)):
            action()


def test_short_writes_are_continued(
    fs: PosixFileSystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, sizes = os.pwrite, []

    def short(fd: int, data: bytes, offset: int) -> int:
        sizes.append(len(data))
        return real(fd, bytes(data)[:7], offset)

    monkeypatch.setattr(os, "pwrite", short)
    file = fs.create(f"{tmp_path}/a")
    text = bytes(range(100))
    file.write(text)
    file.write(b"end")
    file.close()
    assert fs.read_all(f"{tmp_path}/a") == text + b"end"
    assert sizes[:3] == [100, 93, 86] and file.tell() == 103


def test_short_reads_are_continued(
    fs: PosixFileSystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fs.write_file(f"{tmp_path}/a", bytes(range(50)))
    real = os.pread
    monkeypatch.setattr(os, "pread", lambda fd, size, offset: real(fd, min(size, 7), offset))
    file = fs.open_read(f"{tmp_path}/a")
    assert file.pread(50, 0) == bytes(range(50))
    assert file.pread(100, 40) == bytes(range(40, 50))
    assert file.pread(5, 60) == b""
    file.close()


def test_preallocated_file_is_zeros_and_is_written_over(fs: PosixFileSystem, tmp_path: Path) -> None:
    path = f"{tmp_path}/a"
    file = fs.create(path, 10_000)
    assert fs.size(path) == 10_000 and file.tell() == 0
    assert os.stat(path).st_blocks * 512 >= 10_000
    file.write(b"abc")
    file.close()
    assert fs.read_all(path) == b"abc" + bytes(9997)


def test_no_file_stays_when_preallocation_fails(fs: PosixFileSystem, tmp_path: Path) -> None:
    path = f"{tmp_path}/a"
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    code = (
        "import resource, signal, sys\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, (4096, {hard}))\n"
        "from respkv.env.posix import PosixFileSystem\n"
        "try:\n"
        "    PosixFileSystem().create(sys.argv[1], 1 << 20)\n"
        "except OSError as error:\n"
        "    print(error.errno)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True)
    assert int(done.stdout) == errno.EFBIG
    assert not fs.exists(path)


def test_read_without_waiting(fs: PosixFileSystem, tmp_path: Path) -> None:
    fs.write_file(f"{tmp_path}/a", bytes(range(200)))
    file = fs.open_read(f"{tmp_path}/a")
    assert isinstance(file, PosixReadFile)
    assert file.pread(100, 50) == bytes(range(50, 150))
    assert file.pread_nowait(100, 50) == bytes(range(50, 150))
    assert file.size() == 200
    # Beyond the end nothing can be told without the waiting read.
    assert file.waits or file.pread_nowait(100, 150) is None
    file.close()
    file.close()


@pytest.mark.parametrize("number", [errno.EOPNOTSUPP, errno.EINVAL])
def test_where_nowait_is_unknown_reads_are_done_in_place(
    fs: PosixFileSystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    fs.write_file(f"{tmp_path}/a", b"abcdef")
    file = PosixReadFile(f"{tmp_path}/a")
    file.waits = False

    def refuse(*arguments: object) -> int:
        raise OSError(number, "no such flag")

    monkeypatch.setattr(os, "preadv", refuse)
    assert file.pread_nowait(3, 1) == b"bcd"
    assert file.waits
    monkeypatch.undo()
    assert file.pread_nowait(3, 2) == b"cde"
    file.close()


def test_nowait_says_that_it_would_wait_and_passes_other_errors_on(
    fs: PosixFileSystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fs.write_file(f"{tmp_path}/a", b"abcdef")
    file = PosixReadFile(f"{tmp_path}/a")
    file.waits = False
    number = errno.EAGAIN

    def refuse(*arguments: object) -> int:
        raise OSError(number, "refused")

    monkeypatch.setattr(os, "preadv", refuse)
    assert file.pread_nowait(3, 1) is None and not file.waits
    number = errno.EIO
    with pytest.raises(OSError) as caught:
        file.pread_nowait(3, 1)
    assert caught.value.errno == errno.EIO
    file.close()


def test_write_file_replaces(fs: PosixFileSystem, tmp_path: Path) -> None:
    path = f"{tmp_path}/a"
    fs.write_file(path, b"longer contents")
    fs.write_file(path, b"short")
    assert fs.read_all(path) == b"short"


def test_write_file_syncs_and_closes_even_when_the_disk_fails(
    fs: PosixFileSystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(fd: int) -> None:
        raise OSError(errno.EIO, "input/output error")

    before = len(os.listdir("/proc/self/fd"))
    monkeypatch.setattr(os, "fsync", fail)
    for action in (lambda: fs.write_file(f"{tmp_path}/a", b"x"), lambda: fs.sync_dir(str(tmp_path))):
        with pytest.raises(OSError) as caught:
            action()
        assert caught.value.errno == errno.EIO
    assert len(os.listdir("/proc/self/fd")) == before


def test_names(fs: PosixFileSystem, tmp_path: Path) -> None:
    top = f"{tmp_path}/x/y"
    fs.mkdir(top)
    fs.mkdir(top)
    for name in ("c", "a", "b"):
        fs.write_file(f"{top}/{name}", name.encode())
    fs.sync_dir(top)
    assert fs.listdir(top) == ["a", "b", "c"]
    fs.rename(f"{top}/a", f"{top}/b")
    assert fs.read_all(f"{top}/b") == b"a"
    fs.link(f"{top}/b", f"{top}/d")
    fs.remove(f"{top}/b")
    assert fs.read_all(f"{top}/d") == b"a"
    with pytest.raises(FileExistsError):
        fs.link(f"{top}/c", f"{top}/d")
    with pytest.raises(OSError):
        fs.rmdir(top)
    for name in ("c", "d"):
        fs.remove(f"{top}/{name}")
    fs.rmdir(top)
    assert not fs.exists(top)
    with pytest.raises(FileNotFoundError):
        fs.read_all(f"{top}/a")
    with pytest.raises(FileNotFoundError):
        fs.size(f"{top}/a")


def test_opening_a_missing_file_leaves_nothing_to_clean_up(fs: PosixFileSystem, tmp_path: Path) -> None:
    # An object whose making failed is still finalized: that must not fail a second time.
    with pytest.raises(FileNotFoundError):
        fs.open_read(f"{tmp_path}/none")
    gc.collect()


def test_mkdir_over_a_file_is_an_error(fs: PosixFileSystem, tmp_path: Path) -> None:
    fs.write_file(f"{tmp_path}/a", b"")
    with pytest.raises(FileExistsError):
        fs.mkdir(f"{tmp_path}/a")


def test_truncate_both_ways_and_free_space(fs: PosixFileSystem, tmp_path: Path) -> None:
    fs.write_file(f"{tmp_path}/a", b"abcdef")
    fs.truncate(f"{tmp_path}/a", 3)
    assert fs.read_all(f"{tmp_path}/a") == b"abc"
    fs.truncate(f"{tmp_path}/a", 5)
    assert fs.read_all(f"{tmp_path}/a") == b"abc\0\0"
    assert fs.free_bytes(str(tmp_path)) > 0


def test_one_holder_of_a_lock(fs: PosixFileSystem, tmp_path: Path) -> None:
    path = f"{tmp_path}/LOCK"
    lock = fs.lock(path)
    assert lock is not None
    assert fs.lock(path) is None
    code = "import sys; from respkv.env.posix import PosixFileSystem; print(PosixFileSystem().lock(sys.argv[1]))"
    other = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True)
    assert other.stdout == "None\n"
    lock.close()
    again = fs.lock(path)
    assert again is not None
    again.close()


def test_a_lock_goes_with_its_process(fs: PosixFileSystem, tmp_path: Path) -> None:
    path = f"{tmp_path}/LOCK"
    code = (
        "import os, sys; from respkv.env.posix import PosixFileSystem\n"
        "lock = PosixFileSystem().lock(sys.argv[1]); assert lock; os._exit(9)"
    )
    assert subprocess.run([sys.executable, "-c", code, path], check=False).returncode == 9
    lock = fs.lock(path)
    assert lock is not None
    lock.close()


def test_a_failed_sync_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(fd: int) -> None:
        raise OSError(errno.EIO, "input/output error")

    monkeypatch.setattr(os, "fdatasync", fail)
    file = PosixAppendFile(f"{tmp_path}/a", os.open(f"{tmp_path}/a", os.O_WRONLY | os.O_CREAT), 0)
    with pytest.raises(OSError):
        file.sync()
    file.close()


def test_clocks() -> None:
    clock = SystemClock()
    first, wall = clock.monotonic_us(), clock.wall_us()
    sleep_us(1000)
    assert clock.monotonic_us() - first >= 1000
    assert wall > 1_600_000_000_000_000
    assert isinstance(first, int) and isinstance(wall, int)


def test_reserved_room_is_zeros_and_a_failure_leaves_the_file_as_it_was(fs: PosixFileSystem, tmp_path: Path) -> None:
    path = f"{tmp_path}/a"
    file = fs.create(path, 100)
    file.write(b"x")
    file.reserve(50)
    assert fs.size(path) == 100
    file.reserve(5000)
    assert fs.size(path) == 5000 and file.tell() == 1
    with pytest.raises(OSError):
        file.reserve(1 << 62)
    assert fs.read_all(path) == b"x" + bytes(4999)
    file.close()
