"""Hints: writes that a replica missed, held for it in log files until it has taken them.

One queue of files per target, outside the engine: ``hints/<target, 5 digits>-<file id, 12 digits>.log`` in the record
format of the log (``storage/wal``; magic RKVHNT), each record one payload of entries as they stand in the log
and in WRITE messages. Layout: docs/formats/hints.md.

``add`` queues in memory, ``commit`` appends one record per target and cycle. Replay goes in the order of writing, one
batch on its way per target, at a bounded rate; a record whose time has not come holds up those behind it. A file is
removed once all of its records are acked. Nothing remembers how far a file has been replayed: after a crash it is
replayed from its start, which the merge at the receiver makes harmless.

A hint is an optimisation: what is dropped (age, cap, full disk, damage) is counted and left to anti-entropy. So no
error of a hint file stops the process, except a failed sync, after which nobody knows what the disk holds.

Invariants: a closed file is never written again, and only closed files are read; the files of a target ascend
by id, which is their age; ``oldest_stamp`` is never above the stamp of a hint that is held.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from respkv.base.errors import CorruptionError, FormatError
from respkv.base.limits import GIB, MIB
from respkv.causality.hlc import MAX_STAMP
from respkv.causality.record import stamp_of
from respkv.env.fs import AppendFile, FileSystem
from respkv.storage.wal import BATCH, LogHeader, LogReader, LogWriter
from respkv.storage.write_batch import iterate_payload

HINT_MAGIC: Final = b"RKVHNT"
#: A file is closed at this size or age; it is the unit of removal.
FILE_BYTES: Final = 16 * MIB
FILE_AGE_MS: Final = 600_000
#: Hints older than this are left to anti-entropy.
WINDOW_MS: Final = 3 * 3_600_000
TARGET_BYTES_MAX: Final = GIB
#: Bytes that one cycle may queue for one target before they are written.
QUEUE_BYTES_MAX: Final = 64 * MIB
REPLAY_BYTES_PER_S: Final = 16 * MIB
_BURST_US: Final = 200_000


def hint_path(directory: str, target: int, file_id: int) -> str:
    """The path of a hint file of the data directory ``directory``."""
    return f"{directory}/hints/{target:05d}-{file_id:012d}.log"


def hint_parts(name: str) -> tuple[int, int] | None:
    """(target, file id) of a hint file's name, None when it is none."""
    target, dash, rest = name.partition("-")
    file_id, dot, suffix = rest.partition(".")
    if dash and dot and suffix == "log" and len(target) == 5 and len(file_id) == 12:
        return (int(target), int(file_id)) if (target + file_id).isdecimal() else None
    return None


class HintBatch(NamedTuple):
    """Hints on their way. ``payload`` is a log payload; hand the batch back to ``acked`` or ``failed``."""

    target: int
    number: int
    payload: bytes
    entries: int


class HintSyncPlan:
    """Syncs of hint files, to be run off the loop; then ``HintStore.on_synced``. An OSError is fatal."""

    __slots__ = ("_directory", "_files", "_fs", "closed", "lsns")

    def __init__(
        self,
        fs: FileSystem,
        directory: str | None,
        files: Sequence[AppendFile],
        closed: Sequence[AppendFile],
        lsns: Mapping[int, int],
    ) -> None:
        self._fs = fs
        self._directory = directory
        self._files = files
        #: those of ``files`` to which nothing more is written
        self.closed = closed
        #: file id -> last lsn that is durable once the plan has run
        self.lsns = lsns

    def run(self) -> None:
        for file in self._files:
            file.sync()
        if self._directory is not None:
            self._fs.sync_dir(self._directory)


class _File:
    """One hint file: what it holds, and how much of that is acked (in records, of this process's life)."""

    __slots__ = ("acked", "entries", "file_id", "newest_ms", "oldest", "opened_ms", "path", "records", "size")

    def __init__(self, file_id: int, path: str, opened_ms: int) -> None:
        self.file_id = file_id
        self.path = path
        self.opened_ms = opened_ms
        self.records = 0
        self.entries = 0
        self.size = 0
        self.acked = 0
        self.oldest = MAX_STAMP
        self.newest_ms = 0

    def note(self, payload_bytes: int, entries: int, oldest: bytes, newest_ms: int) -> None:
        self.records += 1
        self.entries += entries
        self.size += payload_bytes
        self.oldest = min(self.oldest, oldest)
        self.newest_ms = max(self.newest_ms, newest_ms)


class _Target:
    """All hints for one node."""

    __slots__ = (
        "batch", "batch_end", "early", "files", "numbers", "oldest_queued", "queue", "queue_bytes", "queue_entries",
        "reader", "records", "synced", "tokens", "tokens_us", "writer",
    )  # fmt: skip

    def __init__(self) -> None:
        #: oldest first; the last one is being written while ``writer`` is set
        self.files: list[_File] = []
        self.writer: LogWriter | None = None
        self.synced = 0
        self.queue: list[bytes] = []
        self.queue_bytes = 0
        self.queue_entries = 0
        self.oldest_queued = MAX_STAMP
        self.reader: LogReader | None = None
        self.records: Iterator[bytes] | None = None
        self.batch: HintBatch | None = None
        #: records of ``files[0]`` that are acked once the batch is
        self.batch_end = 0
        #: the stamp in the oldest record that is not acked for which it has to wait, b"" where none is known
        self.early = b""
        self.numbers = 0
        self.tokens = 0
        self.tokens_us = 0

    def size(self) -> int:
        return self.queue_bytes + sum(file.size for file in self.files)

    def rewind(self) -> None:
        """Read again from the oldest record that is not acked."""
        self.batch = None
        self.early = b""
        self.records = None
        if self.reader is not None:
            self.reader.close()
            self.reader = None


class HintStore:
    """The hints that one node holds for others. Targets are short ids. ``recover`` first."""

    __slots__ = (
        "_directory", "_fs", "_names_made", "_next_file", "_targets", "_unsynced", "bytes_per_s", "cap_bytes",
        "counters", "file_bytes", "now_ms", "window_ms",
    )  # fmt: skip

    def __init__(
        self,
        fs: FileSystem,
        directory: str,
        *,
        cap_bytes: int = TARGET_BYTES_MAX,
        file_bytes: int = FILE_BYTES,
        window_ms: int = WINDOW_MS,
        bytes_per_s: int = REPLAY_BYTES_PER_S,
    ) -> None:
        self._fs = fs
        self._directory = directory
        self.cap_bytes = cap_bytes
        self.file_bytes = file_bytes
        self.window_ms = window_ms
        self.bytes_per_s = bytes_per_s
        self.now_ms = 0
        self._targets: dict[int, _Target] = {}
        self._next_file = 1
        self._names_made = False
        self._unsynced: list[AppendFile] = []
        self.counters = dict.fromkeys(("stored", "delivered", "dropped_full", "dropped_old", "dropped_error"), 0)
        self.counters |= {"files_torn": 0, "files_damaged": 0}

    # -- opening -----------------------------------------------------------------------------------

    def recover(self, now_ms: int) -> None:
        """Find the files of earlier lives. Torn tails are dropped; a damaged file is used up to the damage.

        OSError. FormatError when a newer program wrote a file. O(bytes).
        """
        self.now_ms = now_ms
        directory = f"{self._directory}/hints"
        self._fs.mkdir(directory)
        self._fs.sync_dir(self._directory)
        found = sorted((parts[1], parts[0]) for name in self._fs.listdir(directory) if (parts := hint_parts(name)))
        for file_id, target in found:
            self._next_file = max(self._next_file, file_id + 1)
            path = hint_path(self._directory, target, file_id)
            file = _File(file_id, path, now_ms)
            self._read_file(file)
            if file.records:
                self._target(target).files.append(file)
            else:
                self._fs.remove(path)

    def _read_file(self, file: _File) -> None:
        reader = LogReader(self._fs.open_read(file.path), file.file_id, HINT_MAGIC)
        try:
            if reader.header() is None:
                self.counters["files_torn" if reader.witness(0, 1) is None else "files_damaged"] += 1
                return
            for record in reader.records():
                try:
                    stamps = [stamp_of(entry) for _, entry in iterate_payload(record.payload)]
                except ValueError:
                    break
                newest_ms = min(self.now_ms, int.from_bytes(max(stamps)[:6], "big"))
                file.note(len(record.payload), len(stamps), min(stamps), newest_ms)
            if not reader.ended:
                damaged = reader.witness(reader.offset, reader.last_lsn + 1) is not None
                if damaged or reader.used_after(reader.offset):
                    self.counters["files_damaged" if damaged else "files_torn"] += 1
        finally:
            reader.close()

    def _target(self, target: int) -> _Target:
        found = self._targets.get(target)
        if found is None:
            found = self._targets[target] = _Target()
        return found

    # -- taking hints ------------------------------------------------------------------------------

    def add(self, target: int, payload: bytes, *, entries: int, oldest: bytes) -> bool:
        """Hold ``payload`` for ``target``; written by the next ``commit``. ``oldest``: the least stamp in it.

        False when the target's share is full: the hint is dropped and counted.
        """
        held = self._target(target)
        full = held.size() + len(payload) > self.cap_bytes or held.queue_bytes + len(payload) > QUEUE_BYTES_MAX
        if full and (held.queue or held.files or len(payload) > self.cap_bytes):
            self.counters["dropped_full"] += entries
            return False
        held.queue.append(payload)
        held.queue_bytes += len(payload)
        held.queue_entries += entries
        held.oldest_queued = min(held.oldest_queued, oldest)
        return True

    def commit(self, now_ms: int) -> None:
        """Write what was added, one record per target. Disk errors drop it; they are counted."""
        self.now_ms = max(self.now_ms, now_ms)
        for target, held in self._targets.items():
            if held.queue:
                self._write(target, held, b"".join(held.queue), held.queue_entries, held.oldest_queued)
                held.queue.clear()
                held.queue_bytes = held.queue_entries = 0
                held.oldest_queued = MAX_STAMP

    def _write(self, target: int, held: _Target, payload: bytes, entries: int, oldest: bytes) -> None:
        try:
            if held.writer is None:
                self._begin_file(target, held)
            writer = held.writer
            assert writer is not None
            writer.append(BATCH, payload, held.synced)
        except OSError:
            self.counters["dropped_error"] += entries
            self._close_file(held)
            return
        file = held.files[-1]
        file.note(len(payload), entries, oldest, self.now_ms)
        self.counters["stored"] += entries
        if writer.offset >= self.file_bytes or self.now_ms - file.opened_ms >= FILE_AGE_MS:
            self._close_file(held)

    def _begin_file(self, target: int, held: _Target) -> None:
        file_id, self._next_file = self._next_file, self._next_file + 1
        path = hint_path(self._directory, target, file_id)
        file = _File(file_id, path, self.now_ms)
        held.synced = 0
        try:
            held.writer = LogWriter(self._fs, path, HINT_MAGIC, LogHeader(file_id, 0, 0, 0), preallocate=0)
        except OSError:
            if self._fs.exists(path):
                self._fs.remove(path)
            raise
        held.files.append(file)
        self._names_made = True

    def _close_file(self, held: _Target) -> None:
        """Nothing more is written to the file under way; one without records is removed."""
        writer, held.writer = held.writer, None
        if writer is None:
            return
        try:
            writer.append_end(held.synced)
        except OSError:
            self.counters["files_torn"] += 1  # read as one that a crash has cut
        if held.files[-1].records:
            self._unsynced.append(writer.file)
        else:
            writer.file.close()
            self._fs.remove(held.files.pop().path)

    # -- syncing -----------------------------------------------------------------------------------

    def sync_plan(self) -> HintSyncPlan | None:
        """What makes the hints of open files durable; None when there is nothing new. Once a second is enough."""
        writers = [
            held.writer
            for held in self._targets.values()
            if held.writer is not None and held.writer.last_lsn > held.synced
        ]
        if not writers and not self._unsynced:
            return None
        lsns = {writer.file_id: writer.last_lsn for writer in writers}
        closed, self._unsynced = self._unsynced, []
        directory = f"{self._directory}/hints" if self._names_made else None
        self._names_made = False
        return HintSyncPlan(self._fs, directory, [*closed, *(writer.file for writer in writers)], closed, lsns)

    def on_synced(self, plan: HintSyncPlan) -> None:
        """The plan has run."""
        for file in plan.closed:
            file.close()
        for held in self._targets.values():
            if held.writer is not None:
                held.synced = plan.lsns.get(held.writer.file_id, held.synced)

    # -- replay ------------------------------------------------------------------------------------

    def pending(self, target: int) -> int:
        """Entries held for a target that are not acked; a file that is partly acked counts in full."""
        held = self._targets.get(target)
        return 0 if held is None else held.queue_entries + sum(file.entries for file in held.files)

    def targets(self) -> list[int]:
        """Targets for which something is held, ascending."""
        return sorted(target for target, held in self._targets.items() if held.files or held.queue)

    def next_batch(self, target: int, limit_bytes: int, now_us: int, latest: bytes = MAX_STAMP) -> HintBatch | None:
        """The next hints for a target that is alive, about ``limit_bytes`` of them (one record at least).

        None while a batch is on its way, when there are none, while the next one has a stamp above ``latest``, or to
        hold the rate: ask again on the next timer. Reads the file in place, a megabyte at a time; it was written
        recently, as a rule.
        """
        held = self._targets.get(target)
        if held is None or held.batch is not None or not held.files or held.early > latest:
            return None
        if not self._refill(held, now_us):
            return None
        if len(held.files) == 1 and held.writer is not None:
            self._close_file(held)
            if not held.files:
                return None
        payloads: list[bytes] = []
        size = entries = 0
        file = held.files[0]
        if held.records is None:
            held.batch_end = file.acked
            held.records = self._open(held, file)
        for payload in held.records:
            stamps = [stamp_of(record) for _, record in iterate_payload(payload)]
            if (newest := max(stamps, default=b"")) > latest:
                held.rewind()
                held.early = newest
                break
            payloads.append(payload)
            held.batch_end += 1
            entries += len(stamps)
            size += len(payload)
            if size >= limit_bytes:
                break
        if not payloads and held.early:
            return None
        if not payloads:
            # Damage below what was written: the rest of this file cannot be had.
            self.counters["dropped_error"] += file.entries
            self._drop_first(held)
            return None
        held.tokens -= size
        held.numbers += 1
        payload = payloads[0] if len(payloads) == 1 else b"".join(payloads)
        held.batch = HintBatch(target, held.numbers, payload, entries)
        return held.batch

    def _refill(self, held: _Target, now_us: int) -> bool:
        burst = self.bytes_per_s * _BURST_US // 1_000_000
        if held.tokens_us:
            gained = (now_us - held.tokens_us) * self.bytes_per_s // 1_000_000
            held.tokens = min(burst, held.tokens + gained)
        else:
            held.tokens = burst
        held.tokens_us = now_us
        return held.tokens > 0

    def _open(self, held: _Target, file: _File) -> Iterator[bytes]:
        """The payloads of a closed file behind the acked ones, as far as they are valid."""
        try:
            reader = held.reader = LogReader(self._fs.open_read(file.path), file.file_id, HINT_MAGIC)
            if reader.header() is None:
                return
            for number, record in enumerate(reader.records()):
                if number >= file.acked:
                    yield record.payload
        except (OSError, FormatError, CorruptionError):
            return

    def acked(self, batch: HintBatch) -> bool:
        """The target has a batch in its log. False for a batch that is not under way (any more)."""
        held = self._targets.get(batch.target)
        if held is None or held.batch is not batch:
            return False
        held.batch = None
        file = held.files[0]
        file.acked = held.batch_end
        self.counters["delivered"] += batch.entries
        if file.acked >= file.records:
            self._drop_first(held)
        return True

    def failed(self, batch: HintBatch) -> None:
        """A batch was not acked (refused, link lost, deadline): it will come again."""
        held = self._targets.get(batch.target)
        if held is not None and held.batch is batch:
            held.rewind()

    def _drop_first(self, held: _Target) -> None:
        held.rewind()
        if len(held.files) == 1:
            self._close_file(held)
        if held.files:
            self._fs.remove(held.files.pop(0).path)

    # -- letting go --------------------------------------------------------------------------------

    def expire(self, now_ms: int) -> int:
        """Drop files whose newest hint is older than the window; how many entries. Call it once a minute."""
        self.now_ms = max(self.now_ms, now_ms)
        dropped = 0
        for held in self._targets.values():
            while held.files and self.now_ms - held.files[0].newest_ms > self.window_ms:
                if len(held.files) == 1 and held.writer is not None and not held.files[0].records:
                    break
                dropped += held.files[0].entries
                self._drop_first(held)
        self.counters["dropped_old"] += dropped
        return dropped

    def forget(self, target: int) -> None:
        """The target has left the ring: drop all that is held for it."""
        held = self._targets.pop(target, None)
        if held is not None:
            self._close_file(held)
            held.rewind()
            for file in held.files:
                self._fs.remove(file.path)

    def close(self) -> None:
        """Close the files; what is held stays on disk."""
        for held in self._targets.values():
            self._close_file(held)
            held.rewind()
        for file in self._unsynced:
            file.close()
        self._unsynced.clear()

    # -- figures -----------------------------------------------------------------------------------

    def oldest_stamp(self, target: int | None = None) -> bytes:
        """The least stamp that may still be held, for one target or for any; b"" when nothing is."""
        oldest = MAX_STAMP
        for number, held in self._targets.items():
            if target in (None, number):
                oldest = min([oldest, held.oldest_queued, *(file.oldest for file in held.files)])
        return b"" if oldest == MAX_STAMP else oldest

    def stats(self) -> dict[str, int]:
        """Counters, and sums over all targets, for metrics."""
        held = list(self._targets.values())
        return {
            "hint_entries": sum(self.pending(target) for target in self._targets),
            "hint_bytes": sum(target.size() for target in held),
            "hint_targets": len(self.targets()),
            **{f"hints_{name}": value for name, value in self.counters.items()},
        }

    def target_stats(self) -> dict[int, dict[str, int]]:
        """By target: pending entries, bytes, and the oldest stamp's milliseconds."""
        return {
            target: {
                "entries": self.pending(target),
                "bytes": self._targets[target].size(),
                "oldest_ms": int.from_bytes(self.oldest_stamp(target)[:6], "big"),
            }
            for target in self.targets()
        }

    def check_invariants(self) -> None:
        """Assert the module's invariants. O(files)."""
        for held in self._targets.values():
            ids = [file.file_id for file in held.files]
            assert ids == sorted(set(ids)) and all(file_id < self._next_file for file_id in ids)
            assert all(file.records and file.acked <= file.records for file in held.files)
            assert held.queue_bytes == sum(map(len, held.queue))
            assert held.writer is None or held.writer.file_id == ids[-1]
            assert held.batch is None or held.batch_end <= held.files[0].records
            assert held.size() <= max(self.cap_bytes, held.files[0].size if held.files else 0, held.queue_bytes)

    def __repr__(self) -> str:
        return f"<HintStore {self._directory} targets={self.targets()}>"
