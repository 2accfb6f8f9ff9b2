"""The engine: a map from internal keys to records, bytes to bytes, that survives crashes.

A log-structured merge tree (O'Neil et al., 1996). A write goes to the active memtable and to the open
batch; ``commit`` appends the batch to the log as one record. A full memtable is retired together with its
log segment; a job in another process makes a table of the segment; compaction merges tables. A read asks
the active memtable, retired ones, then runs, newest first: the first record found is the newest.

The engine never waits: what blocks is a ``ReadMiss`` (a block to fetch), a plan (syncs; see ``plans``) or a
job (see ``job_board``). It knows no clock: the caller decides when to sync and when to tick.

Invariants: a segment holds exactly its memtable's entries; runs hold only what is older than every
memtable; files are removed only when the edit that drops them is durable and no job or snapshot needs them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Container, Iterable
from dataclasses import replace
from itertools import pairwise
from typing import Any, Final

from respkv.base.errors import BlockRequest, CorruptionError, StorageFull
from respkv.env.fs import FileSystem
from respkv.storage.ballast import free_ballast, has_ballast, regain_ballast
from respkv.storage.batch_scale import BatchScale
from respkv.storage.brakes import BRAKE_US, brake_us
from respkv.storage.catalog import Catalog
from respkv.storage.disk_use import preallocated_bytes
from respkv.storage.job_board import FLUSH, Job
from respkv.storage.memtable import Held, Memtable, defers
from respkv.storage.options import EngineOptions
from respkv.storage.plans import ManifestPlan, SnapshotPlan, SyncPlan
from respkv.storage.probe import find
from respkv.storage.quarantine import AnyTable, DamagedTable, Piece, passing_over, piece_of
from respkv.storage.report import RecoveryReport
from respkv.storage.scan import Entries, merge_entries, scan_tables
from respkv.storage.sstable.format import TableMeta
from respkv.storage.wal import BATCH, SEGMENT_MAGIC, FatalStorageError, LogHeader, LogWriter, is_disk_full, segment_path
from respkv.storage.write_batch import pack_lengths

Derive = Callable[[bytes, bytes], Iterable[tuple[bytes, bytes]]]

DISK_FULL: Final = "disk full"
#: What of the log's room clients' deletions and expiry leave alone: the node's own notes, and the record that ends it.
LOG_RESERVE: Final = 64 << 10
_DISPOSE_PER_TICK: Final = 1000


class Engine:
    """See the module's docstring. Made by ``recovery.open_engine``.

    The hot path writes ``engine.memtable.table`` and ``engine.batch`` (three parts an entry, see
    ``write_batch``) itself, and must fetch ``engine.memtable`` anew after every ``commit``.
    """

    __slots__ = (
        "_appended_bytes", "_catalog", "_closed", "_disposal", "_log", "_marked_lsn", "_memtable_limit",
        "_names_made", "_names_synced", "_refusal", "_retired", "_scale", "_segment_limit", "_snapshots",
        "_synced_bytes", "appended_lsn",
        "batch", "describe", "directory", "durable_lsn", "fs", "held", "memtable", "options", "recovery",
    )  # fmt: skip

    def __init__(
        self,
        fs: FileSystem,
        directory: str,
        options: EngineOptions,
        *,
        catalog: Catalog,
        log: LogWriter,
        memtable: Memtable,
        recovery: RecoveryReport,
    ) -> None:
        """Take over what recovery has opened; everything in ``log`` is durable."""
        self.fs = fs
        self.directory = directory
        self.options = options
        self.recovery = recovery
        self.memtable = memtable
        self.batch: list[bytes] = []
        #: ``held(key)``: the newest record of a deferred key, None if that is in a table. None: nobody may defer keys.
        self.held: Held | None = None
        #: asked when a memtable is retired: its ``meta``
        self.describe: Callable[[], dict[str, bytes]] = dict
        self.appended_lsn = self.durable_lsn = log.last_lsn
        self._segment_limit = options.segment_limit
        self._memtable_limit = options.memtable_bytes
        self._log = log
        self._closed: list[LogWriter] = []
        self._retired: tuple[Memtable, ...] = ()
        self._disposal: list[Memtable] = []
        self._catalog = catalog
        catalog.on_plan_failed = self._on_plan_failed
        self._marked_lsn = 0
        self._scale = BatchScale()
        self._snapshots: list[SnapshotPlan] = []
        # Recovery makes do with a short segment on a full disk; nothing must be appended beyond it.
        self._refusal = DISK_FULL if log.room < options.segment_limit else None
        self._names_made = self._names_synced = 0
        self._appended_bytes = self._synced_bytes = 0

    # Point reads and writes

    def get(self, key: bytes) -> bytes | None:  # HOT: engine_get
        """The newest record of ``key`` (a tombstone is a record), None when there is none.

        Not for derived spaces, which are only scanned. ReadMiss and CorruptionError pass through.
        """
        if self.held is not None and (self.memtable.deferred or self._retired):
            record = self.held(key)
            if record is not None:
                return record
        return self.get_listed(key)

    def get_listed(self, key: bytes) -> bytes | None:  # HOT: engine_get
        """As ``get``, for who knows that ``held`` has nothing of the key."""
        record = self.memtable.table.get(key)
        if record is not None:
            return record
        for memtable in self._retired:
            record = memtable.table.get(key)
            if record is not None:
                return record
        probes = self._catalog.probes
        return find(probes, key, self._catalog.met) if probes else None

    def put(self, key: bytes, record: bytes) -> None:  # HOT: engine_put
        """Make ``record`` the newest of ``key``; logged by the next ``commit``."""
        self.memtable.table[key] = record
        self.batch += (pack_lengths(len(record), len(key)), key, record)

    def list_deferred(self, limit: int = sys.maxsize) -> int:
        """Put the records of up to ``limit`` deferred keys into the table; how many are left. See ``memtable``."""
        return self.memtable.list_deferred((*self._retired, self.memtable), self.held, limit)

    def put_derived(self, key: bytes, record: bytes) -> None:
        """An index entry, which replay and flush derive anew: not logged."""
        self.memtable.derived[key] = record

    def commit(self) -> int:  # HOT: engine_commit
        """Append the open batch to the log as one record; its lsn, or the last one if the batch is empty.

        FatalStorageError when that fails: memory already holds what the log does not.
        """
        batch = self.batch
        if not batch:
            return self.appended_lsn
        payload = b"".join(batch)
        log = self._log
        try:
            lsn = log.append(BATCH, payload, self.durable_lsn)
        except OSError as error:
            lsn = self._append_again(payload, error)
        memtable = self.memtable
        memtable.count_entries(len(batch) // 3, len(payload))
        batch.clear()
        self.appended_lsn = lsn
        self._appended_bytes += len(payload)
        full = log.offset >= self._segment_limit or memtable.charge() >= self._memtable_limit
        if full and not self._refusal:
            self._rotate()
        return lsn

    def overfull(self) -> bool:
        """Between two commands: whether to commit now rather than at the cycle's end; see ``batch_scale``."""
        return self._scale.overfull(self.batch, self.appended_lsn)

    def _append_again(self, payload: bytes, error: OSError) -> int:
        """The append failed: with a full disk the ballast's space is worth one more try."""
        if is_disk_full(error) and free_ballast(self.fs, self.directory):
            self._refusal = DISK_FULL
            try:
                return self._log.append(BATCH, payload, self.durable_lsn)
            except OSError as second:
                error = second
        raise FatalStorageError(f"log append failed: {error}") from error

    # Rotation and the full disk

    def rotate(self) -> bool:
        """Commit, and retire the memtable unless it is empty; False when there is no room for a segment."""
        self.commit()
        return True if not (self.memtable.table or self.memtable.deferred) else self._rotate()

    def make_table(self) -> bool:
        """As ``rotate``; while the disk is full the log goes on in a short segment, in which only deletions have room,
        if the disk has room for that and a table. The old segment's room comes back once there is the table."""
        self.commit()
        if not self._refusal or not (self.memtable.table or self.memtable.deferred):
            return self.rotate()
        short = self.options.segment_preallocation - self.options.segment_limit
        return self.fs.free_bytes(self.directory) >= short + self._log.offset and self._rotate(short)

    def _rotate(self, room: int = 0) -> bool:
        """``room``: the length of a segment that is too short for clients' writes; 0: a whole one."""
        old, file_id = self._log, self._catalog.take_file_id()
        path = segment_path(self.directory, file_id)
        header = LogHeader(file_id, old.file_id, old.last_lsn, self.durable_lsn)
        try:
            preallocate = room or self.options.segment_preallocation
            log = LogWriter(self.fs, path, SEGMENT_MAGIC, header, preallocate=preallocate)
        except OSError as error:
            return self._rotation_failed(path, error)
        try:
            old.append_end(self.durable_lsn)
        except OSError as error:
            log.file.close()
            return self._rotation_failed(path, error)
        self._log = log
        self._closed.append(old)
        self._names_made += 1
        self.memtable.last_lsn, self.memtable.log_bytes = old.last_lsn, old.offset
        self.memtable.meta = self.describe()
        self._retired = (self.memtable, *self._retired)
        self.memtable = Memtable(file_id, old.last_lsn + 1)
        self._refusal = DISK_FULL if room else None
        return True

    def _rotation_failed(self, path: str, error: OSError) -> bool:
        """Go on in the old segment, whose preallocated space leaves headroom; refuse clients' writes."""
        if not is_disk_full(error):
            raise FatalStorageError(f"{path}: {error}") from error
        if self.fs.exists(path):
            self.fs.remove(path)
        self._make_room()
        return False

    def refusal(self) -> str | None:
        """Why clients' writes must be refused now; None when they need not."""
        return self._refusal

    def has_room(self, size: int) -> bool:
        """Whether the room that the log has for sure takes ``size`` bytes beside the open batch and a reserve."""
        return self._room_with(size) <= self._log.room

    def _room_with(self, size: int) -> int:
        return self._log.offset + self._scale.weigh(self.batch, self.appended_lsn) + size + LOG_RESERVE

    def reserve(self, size: int) -> bool:
        """Before ``size`` bytes of log are applied: whether they have room, which the log is given where it lacks it.

        Nothing is given while the disk is full: what is left is for tables. Nor if it could not take a table, too.
        """
        if self.has_room(size) or self._refusal:
            return self.has_room(size)
        return self.fs.free_bytes(self.directory) >= 2 * size and self._log.reserve(self._room_with(size))

    def tick(self) -> bool:
        """Small duties, every 100 ms or so: free retired memory in slices, retry a full disk.

        True when more memory waits to be freed: call again when idle.
        """
        self._catalog.tick()
        if self._refusal:
            self._retry_full_disk()
        if self._marked_lsn < self.appended_lsn == self.durable_lsn:
            # Nothing was written since the last sync: say in the log that all of it is durable, so that what rots
            # before the next record is told from a torn tail. Costs 31 bytes.
            self._marked_lsn = self.appended_lsn
            self._log.append_mark(self.durable_lsn)
        for memtable in self._disposal:
            if not memtable.pins:
                if memtable.dispose(_DISPOSE_PER_TICK) == 0:
                    self._disposal.remove(memtable)
                break
        return any(not memtable.pins for memtable in self._disposal)

    # What key counts need

    @property
    def immutables(self) -> tuple[Memtable, ...]:
        """Retired memtables whose flush is not in force yet, newest first."""
        return self._retired

    def get_below(self, memtable: Memtable, key: bytes) -> bytes | None:
        """The newest record of ``key`` in what is older than ``memtable``. ReadMiss passes through.

        ``memtable`` is the active one or one of ``immutables``. Damaged tables are passed over: while there are any,
        the answer is a guess, and so are counts made of it.
        """
        for older in self._retired:
            if older.first_lsn < memtable.first_lsn:
                record = older.table.get(key)
                if record is not None:
                    return record
        return self._catalog.get_readable(key)

    def newest_run(self) -> int:
        """The sequence number of the newest run, 0 without runs: names what the runs cover."""
        return max((run.sequence for run in self._catalog.version.runs), default=0)

    def start_count(self, data: dict[str, Any]) -> Job | None:
        """A job that walks all runs (``data`` is added to its spec); None while one runs or none is due."""
        return self._catalog.start_count(data)

    def end_count(self, job_id: int, *, failed: bool, reason: str = "") -> None:
        """The job of ``start_count`` has ended (failed: for a ``reason`` in words); its files are free."""
        self._catalog.end_count(job_id, failed=failed, reason=reason)

    def _retry_full_disk(self) -> None:
        """Take writes again once a segment fits beside the ballast; the ballast is made anew first."""
        options = self.options
        if regain_ballast(self.fs, self.directory, options.ballast_bytes, options.segment_preallocation):
            if self._log.room >= options.segment_limit:
                self._refusal = None
            else:
                self.commit()
                self._rotate()

    @property
    def unsynced_bytes(self) -> int:
        """Bytes of log payload that no finished sync covers."""
        return self._appended_bytes - self._synced_bytes

    def sync_plan(self) -> SyncPlan | None:
        """What to sync so that every commit until now is durable; None when all are.

        Run it, then hand it to ``on_synced``; make the next one only after that.
        """
        if self.durable_lsn >= self.appended_lsn and not self._closed:
            return None
        return SyncPlan(
            fs=self.fs,
            lsn=self.appended_lsn,
            closed=tuple(log.file for log in self._closed),
            current=self._log.file,
            directory=f"{self.directory}/wal" if self._names_made > self._names_synced else None,
            names_made=self._names_made,
            appended_bytes=self._appended_bytes,
        )

    def on_synced(self, plan: SyncPlan) -> None:
        """``plan.run()`` has returned: its commits are durable."""
        self.durable_lsn = self._catalog.durable_lsn = max(self.durable_lsn, plan.lsn)
        self._names_synced = max(self._names_synced, plan.names_made)
        self._synced_bytes = max(self._synced_bytes, plan.appended_bytes)
        # A segment that was ended while the plan ran is still open: the next plan syncs its END record, too.
        self._closed = [log for log in self._closed if log.file not in plan.closed]

    # Scans

    def scan(self, start: bytes, end: bytes | None = None, *, wait: bool = False, skip: Container[int] = ()) -> Entries:
        """The newest (key, record) of each key in [start, end), in key order, tombstones included.

        A range must not span spaces. Raises ReadMiss unless ``wait``: fetch the block and scan again from
        after the last key. Use it up within one cycle: what is written meanwhile may or may not show. Raises
        CorruptionError for a damaged table in the range, but not in a local space. Tables to ``skip`` are left out.
        """
        if defers(start[:1], (self.memtable, *self._retired)):
            self.list_deferred()
        local = bool(start) and start[0] in self.options.local_spaces
        derived = bool(start) and start[0] in self.options.derived_spaces
        sources: list[Entries] = []
        for memtable in (self.memtable, *self._retired):
            if memtable.derived if derived else memtable.table:
                sources.append(memtable.scan(start, end, derived=derived))
        readers_by_id = self._catalog.readers
        for run in self._catalog.version.runs:
            readers: list[AnyTable] = [
                readers_by_id[table.file_id]
                for table in run.tables
                if table.largest >= start and (end is None or table.smallest < end) and table.file_id not in skip
            ]
            if readers and local:
                sources.append(passing_over(readers, start, end, self._catalog.damaged))
            elif readers:
                sources.append(self._catalog.watched(scan_tables(readers, start, end, wait)))
        return sources[0] if len(sources) == 1 else merge_entries(sources)

    def prepare_scan(self, space: int, limit: int) -> int:
        """Sort up to ``limit`` keys that scans of ``space`` will need sorted; how many are still missing. A scan does
        the rest itself, at 1-2 us a key: call this in slices first where that is too long."""
        derived = space in self.options.derived_spaces
        memtables = (self.memtable, *self._retired)
        deferred = self.list_deferred(limit) if defers(bytes((space,)), memtables) else 0
        return deferred + sum(memtable.prepare_scan(limit, derived=derived) for memtable in memtables)

    # Jobs, edits, snapshots

    def next_job(self, *, idle: bool = False, cramped: bool = False) -> Job | None:
        """A job to run elsewhere, flushes first; None when there is nothing to do or all are running. ``idle`` and
        ``cramped`` as in ``compaction``. Its end is told by ``on_job_done`` or ``on_job_failed``."""
        if self._retired and self._catalog.board.may_start(FLUSH):
            if self._retired[-1].segment_id == self._catalog.spoiled_segment and not self._renew_segment():
                return None
            return self._catalog.start_flush(self._retired[-1].segment_id)
        return self._catalog.start_compaction(idle=idle, cramped=cramped)

    def _renew_segment(self) -> bool:
        """Write the oldest segment, which is damaged, again from memory; False: not now. FatalStorageError."""
        self.commit()
        self.list_deferred()
        if self._closed:
            return False  # The sync that is due or under way closes them.
        plan = self.sync_plan()
        if plan is not None:
            plan.run()
            self.on_synced(plan)
        return self._catalog.renew(self._retired[-1], (self.memtable, *self._retired))

    def on_job_done(self, job_id: int, result: dict[str, Any]) -> None:
        """A job's result; it comes into force through ``manifest_plan``. KeyError for a job not running."""
        job = self._catalog.board.finish(job_id)
        if job.kind == FLUSH:
            flushed = self._retired[-1]
            assert flushed.segment_id == job.inputs[0]
            following = self._retired[-2] if len(self._retired) > 1 else self.memtable
            self._catalog.flush_done(job, result, following.segment_id, flushed.last_lsn, flushed.meta)
        else:
            self._catalog.compaction_done(job, result)

    def on_job_failed(self, job_id: int, reason: str) -> None:
        """A job came to nothing (``reason`` in words); it is offered again after some ticks. A full disk is met by
        giving up the ballast, so that the next try may pass."""
        self._catalog.job_failed(job_id, reason)
        if reason == DISK_FULL:
            self._make_room()

    def _make_room(self) -> None:
        free_ballast(self.fs, self.directory)
        self._refusal = DISK_FULL

    def _on_plan_failed(self, error: Exception) -> None:
        """A manifest plan came to nothing and is offered again in a second; a full disk is met as everywhere."""
        if isinstance(error, StorageFull):
            self._make_room()

    def manifest_plan(self) -> ManifestPlan | None:
        """What to run to bring finished jobs in force and to remove files; None if nothing is due.

        Run it, then hand it to ``on_manifest_synced``; there is at most one at a time.
        """
        return self._catalog.manifest_plan()

    def on_manifest_synced(self, plan: ManifestPlan) -> None:
        """``plan.run()`` has returned: install its tables, let go of flushed memtables and dropped files."""
        self._catalog.installed(plan)
        version = self._catalog.version
        flushed = [memtable for memtable in self._retired if memtable.segment_id < version.log_number]
        if flushed:
            self._retired = self._retired[: -len(flushed)]
            self._disposal.extend(flushed)
            for memtable in flushed:
                self._catalog.remove_segment(memtable.segment_id)
            self.durable_lsn = self._catalog.durable_lsn = max(self.durable_lsn, version.log_lsn)
        self._ready_snapshots()

    def drop_tables(self, predicate: Callable[[TableMeta], bool]) -> tuple[int, int]:
        """Drop whole tables (below a flush floor, of lost slots) once the next manifest plan has run: how many, and
        how many cannot be since they are inputs of a running job (ask again later)."""
        return self._catalog.drop_tables(predicate)

    def set_meta(self, name: str, value: bytes | None) -> None:
        """Keep a value (None deletes it) in the manifest; durable with the next edit."""
        self._catalog.set_meta(name, value)

    def save_meta(self) -> None:
        """Make the meta values an edit of their own instead of waiting for the next one."""
        self._catalog.save_meta()

    def meta(self, name: str) -> bytes | None:
        """The value last set under ``name``, None when there is none."""
        return self._catalog.meta(name)

    def snapshot(self, path: str) -> SnapshotPlan | None:
        """Begin a copy of everything committed so far at ``path`` (same file system); None on a full disk.

        The plan is ``ready`` when the flushes it waits for are installed; run it then, and hand it to
        ``on_snapshot_done`` whatever came of it.
        """
        if not self.rotate():
            return None
        plan = SnapshotPlan(self.fs, self.directory, path, self.appended_lsn)
        self._snapshots.append(plan)
        self._ready_snapshots()
        return plan

    def refresh_snapshot(self, plan: SnapshotPlan, name: str) -> None:
        """Give a plan that is ready the meta value of now under ``name``, unless the runs have changed since."""
        value, version = self._catalog.meta(name), plan.version
        if value is not None and version is not None and version.runs == self._catalog.version.runs:
            plan.version = replace(version, meta={**version.meta, name: value})

    def on_snapshot_done(self, plan: SnapshotPlan) -> None:
        """The plan has run, failed or was given up: its tables need not be kept for it."""
        self._snapshots.remove(plan)
        if plan.version is not None:
            self._catalog.unpin_tables(plan.version.tables())

    def _ready_snapshots(self) -> None:
        oldest = self._retired[-1] if self._retired else self.memtable
        for plan in self._snapshots:
            if plan.version is None and oldest.first_lsn > plan.lsn:
                plan.version = self._catalog.version
                self._catalog.pin_tables(plan.version.tables())

    # State

    def pressure(self) -> float:
        """How hard writers are braked: 0.0 not at all .. 1.0 for BRAKE_US or longer."""
        return min(1.0, self.brake_us() / BRAKE_US)

    def brake_us(self) -> int:
        """How long a client that has written waits before it may go on, us; HOLD_US: until this says less."""
        filled = self.memtable.charge() / self._memtable_limit if self._retired else 0.0
        runs = max(map(len, self._catalog.sound_stretches()), default=0)
        return brake_us(len(self._retired), filled, runs - self.options.stall_runs)

    def close(self) -> None:
        """Close the files; what is not synced stays so. When everything is (a clean stop), the log is ended and the
        manifest told, so that whatever is missing at the next start is known to be damage. FatalStorageError."""
        if self.durable_lsn == self.appended_lsn and not self.batch and not self._closed:
            self._seal()
        for log in (*self._closed, self._log):
            log.file.close()
        self._catalog.close()

    def _seal(self) -> None:
        try:
            self._log.append_end(self.durable_lsn)
            self._log.file.sync()
        except OSError as error:
            if not is_disk_full(error):
                raise FatalStorageError(f"closing the log failed: {error}") from error
        try:
            self._catalog.seal()
        except (OSError, StorageFull, CorruptionError):
            return  # The manifest is as it was: the next start knows a little less, and finds all that is durable.

    def on_fetch_failed(self, request: BlockRequest, error: CorruptionError | OSError) -> None:
        """The block of a ReadMiss could not be read; call it before the reader runs again, which then ends in an error
        at the latest at the second time."""
        self._catalog.fetch_failed(request, error)

    def damaged_tables(self) -> list[DamagedTable]:
        """The quarantined tables, newest first. A repair writes a table's range anew and then drops the table."""
        return self._catalog.damaged_tables()

    def piece_of(self, file_id: int, start: bytes) -> Piece | None:
        """A part of a table from ``start`` on, damage told; None without that table. ReadMiss passes through."""
        return piece_of(self._catalog.readers.get(file_id), start)

    def take_news(self) -> list[tuple[str, str]]:
        """(path, reason) of tables and segments found damaged since the last call; for the server's log."""
        return self._catalog.take_news()

    def highest_table_stamp(self) -> bytes:
        """The greatest stamp in any table by what the manifest says, b"" without tables."""
        return self._catalog.highest_stamp

    def disk_bytes(self) -> int:
        """Bytes written to tables, manifest and log. O(memtables)."""
        return self._catalog.disk_bytes() + self._log.offset + sum(memtable.log_bytes for memtable in self._retired)

    def stats(self) -> dict[str, int | float]:
        """Figures for metrics. Bytes, counts, and two ratios: table bytes written per byte logged, and table
        bytes per byte of the largest run, an upper estimate of what is garbage."""
        catalog = self._catalog.stats()
        user_bytes, ballast = self._appended_bytes, has_ballast(self.fs, self.directory)
        largest = catalog["largest_run_bytes"]
        return {
            **catalog,
            "user_bytes": user_bytes,
            "wal_bytes": self._log.offset,
            "disk_bytes": self.disk_bytes(),
            "disk_preallocated_bytes": preallocated_bytes(self.options, ballast, self._log, self._retired),
            "unsynced_bytes": self.unsynced_bytes,
            "appended_lsn": self.appended_lsn,
            "durable_lsn": self.durable_lsn,
            "memtable_keys": len(self.memtable.table) + len(self.memtable.deferred),
            "memtable_bytes": self.memtable.charge(),
            "memtables_retired": len(self._retired),
            "memtables_to_dispose": len(self._disposal),
            "write_amplification": catalog["table_bytes_written"] / user_bytes if user_bytes else 0.0,
            "space_amplification": catalog["table_bytes"] / largest if largest else 1.0,
            "pressure": self.pressure(),
            **self._catalog.cache.stats(),
        }

    def check_invariants(self) -> None:
        """Assert what the module's docstring says; for tests, O(everything in memory)."""
        self._catalog.check_invariants()
        memtables = [self.memtable, *self._retired]
        for memtable in (*memtables, *self._disposal):
            memtable.check_invariants()
        segments = [memtable.segment_id for memtable in memtables]
        assert segments == sorted(segments, reverse=True)
        assert self.memtable.segment_id == self._log.file_id
        for newer, older in pairwise(memtables):
            assert newer.first_lsn == older.last_lsn + 1
        version = self._catalog.version
        assert all(run.sequence < segments[-1] for run in version.runs)
        assert memtables[-1].first_lsn == version.log_lsn + 1
        assert segments[-1] == version.log_number
        assert self.durable_lsn <= self.appended_lsn == self._log.last_lsn

    def __repr__(self) -> str:
        return f"<Engine {self.directory} lsn={self.appended_lsn}/{self.durable_lsn} {self.memtable!r}>"
