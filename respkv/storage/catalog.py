"""The catalog: which tables are in force, which edits are on their way, which files may go.

An edit passes three stages: queued (``pending`` shows it), being made durable by a ManifestPlan, installed
(``version`` shows it and reads use it). Files that an installed edit dropped are removed by a later plan,
unless a job or a snapshot has them pinned. A plan that failed has its edits queued again, for a later one.

A run with a quarantined table (see ``quarantine``) is never merged. Runs on either side of it are merged among
themselves; those that are newer keep everything, since nobody can say what they hide.

Invariants: ``version`` is what the durable manifest says; applying the edits under way to it gives
``pending``; every table of ``version`` has an open reader or a LostTable; file ids are never used twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Final

from respkv.base.errors import BlockRequest, CorruptionError, StorageFull
from respkv.env.fs import FileSystem
from respkv.storage import compaction
from respkv.storage.block_cache import BlockCache
from respkv.storage.job_board import COMPACT, COUNT, FLUSH, Job, JobBoard
from respkv.storage.manifest import ManifestLog
from respkv.storage.memtable import Memtable
from respkv.storage.options import EngineOptions
from respkv.storage.plans import ManifestPlan
from respkv.storage.probe import Probe, Table, find
from respkv.storage.quarantine import AnyTable, DamagedTable, LostTable
from respkv.storage.renewal import renew_segment
from respkv.storage.sstable.format import TableMeta
from respkv.storage.sstable.reader import TableBlockRequest, TableReader
from respkv.storage.version import Edit, Run, Version, table_id, table_path
from respkv.storage.wal import is_disk_full, segment_path

_OUTPUT_IDS_SPARE: Final = 8
#: Ticks before work that failed is offered again: a second.
_HOLD_TICKS: Final = 10
#: Blocks of a table that could not be fetched, at most: with one more it is lost.
_FAILED_BLOCKS_MAX: Final = 256


class Catalog:
    """Tables, edits and jobs of one engine. See the module's docstring."""

    __slots__ = (
        "_failed_fetches", "_held_ticks", "_manifest", "_meta_changes", "_news", "_next_file", "_plan", "_queued",
        "_removable", "board", "cache", "counters", "directory", "durable_lsn", "fs", "highest_stamp", "on_plan_failed",
        "options", "pending", "probes", "readers", "spoiled_segment", "version",
    )  # fmt: skip

    def __init__(
        self,
        fs: FileSystem,
        directory: str,
        options: EngineOptions,
        *,
        version: Version,
        manifest: ManifestLog,
        cache: BlockCache,
        readers: dict[int, AnyTable],
        next_file: int,
    ) -> None:
        """Take over what recovery has opened; ``version`` is what the manifest in force says."""
        self.fs = fs
        self.directory = directory
        self.options = options
        self.version = self.pending = version
        self.cache = cache
        self.readers = readers
        self.board = JobBoard()
        self.counters = {"table_bytes_written": 0, "flushes": 0, "compactions": 0, "job_failures": 0}
        self._manifest = manifest
        self._next_file = next_file
        self._queued: list[tuple[Edit, str]] = []
        self._plan: tuple[ManifestPlan, list[tuple[Edit, str]], list[tuple[int, str]]] | None = None
        self._held_ticks = 0
        #: the log is synced up to there; every edit says so
        self.durable_lsn = version.durable_lsn
        #: told why a plan, or writing a segment again, came to nothing
        self.on_plan_failed: Callable[[Exception], None] = _ignore
        #: by table: the blocks, by offset, that could not be fetched
        self._failed_fetches: dict[int, dict[int, None]] = {}
        #: the segment that a flush found damaged, 0: none
        self.spoiled_segment = 0
        self._news: list[tuple[str, str]] = []
        self._removable: list[tuple[int, str]] = []
        self._meta_changes: dict[str, bytes | None] = {}
        self.probes: tuple[Probe, ...] = ()
        #: the greatest stamp in any table of ``version``, b"" without tables
        self.highest_stamp = b""
        self._build_probes()

    # File ids and meta

    def take_file_id(self) -> int:
        self._next_file += 1
        return self._next_file - 1

    def _take_output_ids(self, size: int) -> list[int]:
        """Enough file ids for ``size`` bytes of output; spare ones cost nothing."""
        return [self.take_file_id() for _ in range(size // self.options.table_bytes + _OUTPUT_IDS_SPARE)]

    def meta(self, name: str) -> bytes | None:
        """The value last set under ``name``."""
        if name in self._meta_changes:
            return self._meta_changes[name]
        return self.pending.meta.get(name)

    def set_meta(self, name: str, value: bytes | None) -> None:
        """Keep ``value`` (None deletes) with the next edit."""
        self._meta_changes[name] = value

    def save_meta(self) -> None:
        """Make an edit for the meta values alone, if any changed."""
        if self._meta_changes:
            self._queue(Edit(), "")

    # Jobs

    def start_flush(self, segment_id: int) -> Job:
        """The job that makes tables of a closed segment."""
        size = self.fs.size(segment_path(self.directory, segment_id))
        spec = {
            "dir": self.directory,
            "segments": [segment_id],
            "outputs": self._take_output_ids(size),
            "options": self._table_options(),
        }
        return self.board.start(FLUSH, spec, (segment_id,), (segment_id,))

    def start_compaction(self, *, idle: bool = False, cramped: bool = False) -> Job | None:
        """The compaction that is most worth its cost; None when none is, or one is under way."""
        if not self.board.may_start(COMPACT) or self._drops_under_way():
            return None
        stretches = self.sound_stretches()
        picks = (compaction.pick(Version(runs), self.options, idle=idle, cramped=cramped) for runs in stretches)
        pick = next((pick for pick in picks if pick is not None), None)
        if pick is None:
            return None
        runs = pick.runs
        oldest = min(run.sequence for run in runs)
        older = [run for run in self.version.runs if run.sequence < oldest]
        cautious = any(not self._is_sound(run) for run in older)
        if cautious:
            older = []
        inputs = [table.file_id for run in runs for table in run.tables]
        spec = {
            "dir": self.directory,
            "inputs": [[table.to_json() for table in run.tables] for run in runs],
            "older": [[table.to_json() for table in run.tables] for run in older],
            "outputs": self._take_output_ids(sum(run.size for run in runs)),
            "options": self._table_options(),
            "bytes_per_s": self.options.compaction_bytes_per_s,
            "retention": (self.options.cautious_retention if cautious else self.options.retention)(),
            "sequence": max(run.sequence for run in runs),
        }
        pinned = inputs + [table.file_id for run in older for table in run.tables]
        return self.board.start(COMPACT, spec, inputs, pinned)

    def start_count(self, data: dict[str, Any]) -> Job | None:
        """A job over all runs as they are now; None while one is running, waits after a failure, or would meet a
        quarantined table."""
        if not self.board.may_start(COUNT) or self.version.quarantine or self.pending.quarantine:
            return None
        runs = self.version.runs
        spec = {
            "dir": self.directory,
            "runs": [[table.to_json() for table in run.tables] for run in runs],
            **data,
        }
        return self.board.start(COUNT, spec, (), [table.file_id for run in runs for table in run.tables])

    def _table_options(self) -> dict[str, Any]:
        options = self.options
        return {
            "block_bytes": options.block_bytes,
            "compress": options.compress,
            "table_bytes": options.table_bytes,
        }

    def flush_done(
        self, job: Job, result: dict[str, Any], log_number: int, log_lsn: int, meta: dict[str, bytes]
    ) -> None:
        """Queue the edit that puts a flush's tables in the segment's place, with the meta values that go with them."""
        self._count(result, "flushes")
        self._meta_changes.update((name, value) for name, value in meta.items() if self.meta(name) != value)
        run = Run(job.inputs[0], tuple(TableMeta.from_json(table) for table in result["tables"]))
        self._queue(Edit(add=(run,), log_number=log_number, log_lsn=log_lsn), FLUSH)

    def compaction_done(self, job: Job, result: dict[str, Any]) -> None:
        """Queue the edit that puts a compaction's tables in its inputs' place."""
        self._count(result, "compactions")
        run = Run(job.spec["sequence"], tuple(TableMeta.from_json(table) for table in result["tables"]))
        self._queue(Edit(add=(run,), drop=job.inputs), COMPACT)

    def end_count(self, job_id: int, *, failed: bool, reason: str) -> None:
        """See ``Engine.end_count``."""
        if failed:
            self.job_failed(job_id, reason)
        else:
            self.board.finish(job_id)
            self.board.installed(COUNT)

    def job_failed(self, job_id: int, reason: str) -> None:
        """The job left nothing of use; what files it made are removed, tables it found damaged are quarantined."""
        job = self.board.fail(job_id)
        self.counters["job_failures"] += 1
        self.job_met_damage(job, reason)
        for file_id in job.spec.get("outputs", ()):
            path = table_path(self.directory, file_id)
            if self.fs.exists(path):
                self._removable.append((file_id, path))

    def job_met_damage(self, job: Job, reason: str) -> None:
        """Quarantine the table that a failed job's ``reason`` names, note the segment; its paths are all it can tell of
        them."""
        if reason.startswith(CorruptionError.__name__):
            for file_id in job.pinned:
                if table_path(self.directory, file_id) in reason:
                    self.damaged(file_id, reason)
                elif segment_path(self.directory, file_id) in reason:
                    self.spoiled_segment = file_id
                    self._news.append((segment_path(self.directory, file_id), reason))

    def renew(self, memtable: Memtable, memtables: Sequence[Memtable]) -> bool:
        """Write the segment that a flush found damaged again (see ``renew_segment``). False: it failed, and is due
        again with the next flush, in some ticks."""
        try:
            memtable.log_bytes = renew_segment(self.fs, self.directory, memtable, memtables)
        except OSError as error:
            path = segment_path(self.directory, memtable.segment_id)
            self._news.append((path, f"writing it again failed: {error}"))
            self.board.spoiled(FLUSH)
            self.on_plan_failed(StorageFull(path) if is_disk_full(error) else error)
            return False
        self.spoiled_segment = 0
        return True

    def drop_tables(self, predicate: Callable[[TableMeta], bool]) -> tuple[int, int]:
        """Drop the tables for which ``predicate`` holds.

        (How many are dropped, how many are inputs of a running job: ask again later.)
        """
        busy = {file_id for job in self.board.running() for file_id in job.inputs}
        wanted = [table.file_id for table in self.pending.tables() if predicate(table)]
        free = tuple(file_id for file_id in wanted if file_id not in busy)
        if free:
            self._queue(Edit(drop=free), "")
        return len(free), len(wanted) - len(free)

    def _count(self, result: dict[str, Any], kind: str) -> None:
        self.counters["table_bytes_written"] += result["bytes_written"]
        self.counters[kind] += 1

    # Edits

    def _queue(self, edit: Edit, kind: str) -> None:
        edit = replace(
            edit, meta=self._meta_changes, next_file=self._next_file, durable_lsn=self.durable_lsn
        )
        self.pending = self.pending.apply(edit)
        self._meta_changes = {}
        self._queued.append((edit, kind))

    def _under_way(self) -> list[tuple[Edit, str]]:
        return [*(self._plan[1] if self._plan else ()), *self._queued]

    def _drops_under_way(self) -> bool:
        return any(edit.drop for edit, _ in self._under_way())

    def manifest_plan(self) -> ManifestPlan | None:
        """What to run to bring the queued edits in force and to remove dropped files; None if nothing is due.

        There is at most one at a time: None until ``installed`` has taken the one before, and for a second after
        one that failed.
        """
        if self._plan is not None or self._held_ticks:
            return None
        pinned = self.board.is_pinned
        free = [(file_id, path) for file_id, path in self._removable if not pinned(file_id)]
        if not self._queued and not free:
            return None
        self._removable = [(file_id, path) for file_id, path in self._removable if pinned(file_id)]
        taken, self._queued = self._queued, []
        plan = ManifestPlan(
            fs=self.fs,
            directory=self.directory,
            manifest=self._manifest,
            cache=self.cache,
            edits=[edit for edit, _ in taken],
            version=self.pending,
            removals=[path for _, path in free],
            on_failed=self._plan_failed,
        )
        self._plan = (plan, taken, free)
        return plan

    def _plan_failed(self, plan: ManifestPlan, error: Exception) -> None:
        """Nothing of the plan has happened: all of it is due again, later. A new table that cannot be opened is left
        out, as if its job had failed."""
        assert self._plan is not None and self._plan[0] is plan
        _, taken, free = self._plan
        self._plan = None
        self._held_ticks = _HOLD_TICKS
        for file_id, reader in plan.opened.items():
            reader.close()
            self.cache.drop_file(file_id)
        self._removable += free
        self._queued = taken + self._queued
        if isinstance(error, CorruptionError):
            self._discard_result(error.path)
        self.on_plan_failed(error)

    def _discard_result(self, path: str) -> None:
        """Take back the edit that adds the table at ``path``, but not the meta values that ride on it."""
        state, kept = self.version, []
        for edit, kind in self._queued:
            added = [table.file_id for run in edit.add for table in run.tables]
            if any(table_path(self.directory, file_id) == path for file_id in added):
                self._removable += [(file_id, table_path(self.directory, file_id)) for file_id in added]
                self.counters["job_failures"] += 1
                self.board.spoiled(kind)
                edit, kind = Edit(meta=edit.meta, next_file=edit.next_file, durable_lsn=edit.durable_lsn), ""
            present = {table.file_id for table in state.tables()}
            edit = replace(edit, drop=tuple(file_id for file_id in edit.drop if file_id in present))
            state = state.apply(edit)
            kept.append((edit, kind))
        self._queued, self.pending = kept, state

    def tick(self) -> None:
        """Let failed work wait a little less."""
        self.board.tick()
        self._held_ticks = max(0, self._held_ticks - 1)

    def installed(self, plan: ManifestPlan) -> None:
        """``plan.run()`` has returned: its version is in force."""
        assert self._plan is not None and self._plan[0] is plan
        _, taken, free = self._plan
        self._plan = None
        if plan.removals:
            self._removable += [(file_id, path) for file_id, path in free if path in plan.removals]
            self._held_ticks = _HOLD_TICKS
        if not taken:
            return
        before = self.version
        self.version = plan.version
        self.readers.update(plan.opened)
        kept = {table.file_id for table in plan.version.tables()}
        for table in before.tables():
            if table.file_id not in kept:
                # The reader is not closed: scans that hold it read on, and its last holder closes it.
                del self.readers[table.file_id]
                self._failed_fetches.pop(table.file_id, None)
                self.cache.drop_file(table.file_id)
                self._removable.append((table.file_id, table_path(self.directory, table.file_id)))
        for edit in plan.edits:
            # A table that was added and dropped again within this plan was never opened.
            for table in (table for run in edit.add for table in run.tables):
                if table.file_id not in kept:
                    self._removable.append((table.file_id, table_path(self.directory, table.file_id)))
        for _, kind in taken:
            if kind:
                self.board.installed(kind)
        self._build_probes()

    def remove_segment(self, file_id: int) -> None:
        """Have a segment's file removed by the next plan."""
        self._removable.append((file_id, segment_path(self.directory, file_id)))

    def _build_probes(self) -> None:
        probes: list[Probe] = []
        for run in self.version.runs:
            tables: list[Table] = []
            for table in run.tables:
                reader = self.readers[table.file_id]
                tables.append((reader.filter, len(reader.filter), reader.get))
            alone = len(tables) == 1
            probes.append((tables[0], [], []) if alone else (None, [table.largest for table in run.tables], tables))
        self.probes = tuple(probes)
        self.highest_stamp = max((table.max_stamp for table in self.version.tables()), default=b"")

    def get_readable(self, key: bytes) -> bytes | None:
        """The newest record of ``key`` that can be read from the tables, damage being passed over; for estimates.

        ReadMiss passes through.
        """
        return find(self.probes, key, self.met, readable=True)

    # Damage

    def met(self, damage: CorruptionError, get: Any) -> None:
        """A read by ``get`` has met damage: quarantines its table."""
        table: AnyTable = get.__self__
        self.damaged(table.file_id, damage.reason)

    def fetch_failed(self, request: BlockRequest, error: CorruptionError | OSError) -> None:
        """A block that a read waits for cannot be had. Its table is quarantined, and counts as lost when a block fails
        again, or too many have failed to remember: else reads would wait for ever."""
        assert isinstance(request, TableBlockRequest)
        file_id = table_id(request.path.rpartition("/")[2])
        reader = None if file_id is None else self.readers.get(file_id)
        if file_id is None or not isinstance(reader, TableReader) or not isinstance(error, CorruptionError):
            return
        self.damaged(file_id, error.reason)
        failed = self._failed_fetches.setdefault(file_id, {})
        if request.offset not in failed and len(failed) < _FAILED_BLOCKS_MAX:
            failed[request.offset] = None
            return
        del self._failed_fetches[file_id]
        self.readers[file_id] = LostTable(request.path, reader.meta, error.reason)
        self.cache.drop_file(file_id)
        self._build_probes()

    def watched(self, entries: Iterator[tuple[bytes, bytes]]) -> Iterator[tuple[bytes, bytes]]:
        """``entries`` of tables; one that turns out to be damaged is quarantined."""
        try:
            yield from entries
        except CorruptionError as damage:
            file_id = table_id(damage.path.rpartition("/")[2])
            if file_id is not None:
                self.damaged(file_id, damage.reason)
            raise

    def damaged(self, file_id: int, reason: str) -> None:
        """Quarantine a table that was found damaged; nothing when it is, or is not there any more."""
        if file_id in self.pending.quarantine or all(table.file_id != file_id for table in self.pending.tables()):
            return
        self._queue(Edit(quarantine={file_id: reason}), "")
        self._news.append((table_path(self.directory, file_id), reason))

    def take_news(self) -> list[tuple[str, str]]:
        """(path, reason) of tables and segments that were found damaged since the last call."""
        news, self._news = self._news, []
        return news

    def damaged_tables(self) -> list[DamagedTable]:
        """All quarantined tables, newest run first."""
        return [
            DamagedTable(
                table.file_id,
                table_path(self.directory, table.file_id),
                self.pending.quarantine[table.file_id],
                table.smallest,
                table.largest,
                table.max_stamp,
                isinstance(self.readers.get(table.file_id), LostTable),
            )
            for table in self.pending.tables()
            if table.file_id in self.pending.quarantine
        ]

    def _is_sound(self, run: Run) -> bool:
        marks = (self.version.quarantine, self.pending.quarantine)
        return not any(table.file_id in marked for table in run.tables for marked in marks)

    def sound_stretches(self) -> list[tuple[Run, ...]]:
        """Neighbouring runs without a quarantined table, newest stretch first: what may be merged."""
        if not self.version.quarantine and not self.pending.quarantine:
            return [self.version.runs]
        stretches: list[list[Run]] = [[]]
        for run in self.version.runs:
            if self._is_sound(run):
                stretches[-1].append(run)
            elif stretches[-1]:
                stretches.append([])
        return [tuple(stretch) for stretch in stretches if stretch]

    def pin_tables(self, tables: Iterable[TableMeta]) -> None:
        self.board.pin([table.file_id for table in tables])

    def unpin_tables(self, tables: Iterable[TableMeta]) -> None:
        self.board.unpin([table.file_id for table in tables])

    def seal(self) -> None:
        """Clean stop: bring what is queued, and how far the log is durable, into the manifest.

        Raises as ``ManifestPlan.run``.
        """
        if self._plan is None:
            self._held_ticks = 0
            self._queue(Edit(), "")
            plan = self.manifest_plan()
            assert plan is not None
            plan.run()
            self.installed(plan)

    def close(self) -> None:
        self._manifest.close()
        for reader in self.readers.values():
            reader.close()

    def disk_bytes(self) -> int:
        """Bytes of the tables in force and of the manifest. O(runs)."""
        return self.version.size + self._manifest.size()

    def stats(self) -> dict[str, int]:
        """Counts and bytes of tables and of work on them."""
        version = self.version
        return {
            "runs": len(version.runs),
            "tables": sum(len(run.tables) for run in version.runs),
            "table_bytes": version.size,
            "table_entries": sum(run.entries for run in version.runs),
            "largest_run_bytes": max((run.size for run in version.runs), default=0),
            "tables_quarantined": len(self.pending.quarantine),
            "compaction_debt_bytes": sum(
                compaction.debt_bytes(Version(runs), self.options) for runs in self.sound_stretches()
            ),
            "manifest_bytes": self._manifest.size(),
            "edits_queued": len(self._under_way()),
            "files_to_remove": len(self._removable),
            **self.counters,
            **self.board.stats(),
        }

    def check_invariants(self) -> None:
        self.version.check_invariants()
        self.pending.check_invariants()
        self.board.check_invariants()
        state = self.version
        for edit, _ in self._under_way():
            state = state.apply(edit)
        assert state == self.pending
        assert sorted(self.readers) == sorted(table.file_id for table in self.version.tables())
        assert all(table.file_id < self._next_file for table in self.pending.tables())
        assert len(self.probes) == len(self.version.runs)


def _ignore(error: Exception) -> None:
    """Until an engine listens."""
