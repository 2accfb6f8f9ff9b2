"""The version: which tables there are and how they form runs. Immutable; an edit makes the next one.

A run is a set of tables with disjoint key ranges and of one age; of two runs that hold a key, the newer
run's record counts. ``sequence`` orders runs by age: a flush takes its segment's file id, a compaction the
sequence of its newest input. Only runs adjacent in age are merged, so that order stays true.

A table that was found damaged stays in its run and is *quarantined*: reads of what it has lost are errors, never
"not there", and no compaction touches it, until it is dropped or found whole again.

Invariants: runs stand newest first with distinct sequences; tables of a run ascend without overlap; a file
id occurs once; only tables that are there are quarantined.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Final

from respkv.base.errors import FormatError
from respkv.storage.sstable.format import TableMeta

_EDIT_PARTS: Final = frozenset(
    ("next_file", "add", "drop", "log_number", "log_lsn", "meta", "full", "quarantine", "durable_lsn")
)


def table_path(directory: str, file_id: int) -> str:
    """The path of a table of the data directory ``directory``."""
    return f"{directory}/tables/{file_id:012d}.sst"


def table_id(name: str) -> int | None:
    """The file id in a table's file name, None when it is no table's name."""
    stem, dot, suffix = name.rpartition(".")
    return int(stem) if dot and suffix == "sst" and len(stem) == 12 and stem.isdecimal() else None


@dataclass(frozen=True, slots=True)
class Run:
    """Tables of one age, ascending and disjoint."""

    sequence: int
    tables: tuple[TableMeta, ...]

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return sum(table.size for table in self.tables)

    @property
    def entries(self) -> int:
        return sum(table.entries for table in self.tables)

    def to_json(self) -> dict[str, Any]:
        return {"sequence": self.sequence, "tables": [table.to_json() for table in self.tables]}

    @staticmethod
    def from_json(data: dict[str, Any]) -> Run:
        return Run(data["sequence"], tuple(TableMeta.from_json(table) for table in data["tables"]))


@dataclass(frozen=True, slots=True)
class Edit:
    """One change of version, as the manifest keeps it.

    ``log_number`` is the oldest segment still needed, ``log_lsn`` the last lsn before it; None leaves them
    as they are. ``full`` marks the first edit of a manifest: it starts from nothing. A meta value of None
    deletes that name. ``quarantine`` says of tables what is wrong with them, None that they are whole again.
    ``durable_lsn``: the log is known to be synced up to there, so it must not end before.
    """

    add: tuple[Run, ...] = ()
    drop: tuple[int, ...] = ()
    log_number: int | None = None
    log_lsn: int | None = None
    next_file: int = 0
    meta: dict[str, bytes | None] = field(default_factory=dict)
    full: bool = False
    quarantine: dict[int, str | None] = field(default_factory=dict)
    durable_lsn: int = 0

    def to_json(self) -> dict[str, Any]:
        data: dict[str, Any] = {"next_file": self.next_file}
        if self.add:
            data["add"] = [run.to_json() for run in self.add]
        if self.drop:
            data["drop"] = list(self.drop)
        if self.log_number is not None:
            data["log_number"] = self.log_number
        if self.log_lsn is not None:
            data["log_lsn"] = self.log_lsn
        if self.meta:
            data["meta"] = {name: None if value is None else value.hex() for name, value in self.meta.items()}
        if self.full:
            data["full"] = True
        if self.quarantine:
            data["quarantine"] = {str(file_id): reason for file_id, reason in self.quarantine.items()}
        if self.durable_lsn:
            data["durable_lsn"] = self.durable_lsn
        return data

    @staticmethod
    def from_json(data: dict[str, Any]) -> Edit:
        """FormatError when ``data`` has parts this program does not know."""
        unknown = set(data) - _EDIT_PARTS
        if unknown:
            raise FormatError(f"manifest edit with unknown parts: {', '.join(sorted(unknown))}")
        return Edit(
            add=tuple(Run.from_json(run) for run in data.get("add", ())),
            drop=tuple(data.get("drop", ())),
            log_number=data.get("log_number"),
            log_lsn=data.get("log_lsn"),
            next_file=data["next_file"],
            meta={
                name: None if value is None else bytes.fromhex(value)
                for name, value in data.get("meta", {}).items()
            },
            full=data.get("full", False),
            quarantine={int(file_id): reason for file_id, reason in data.get("quarantine", {}).items()},
            durable_lsn=data.get("durable_lsn", 0),
        )


@dataclass(frozen=True, slots=True)
class Version:
    """All that the manifest says at one moment. ``quarantine``: what is wrong with which table."""

    runs: tuple[Run, ...] = ()
    log_number: int = 0
    log_lsn: int = 0
    next_file: int = 1
    meta: dict[str, bytes] = field(default_factory=dict)
    quarantine: dict[int, str] = field(default_factory=dict)
    durable_lsn: int = 0

    def apply(self, edit: Edit) -> Version:
        """The version after ``edit``. ValueError when it drops a table that is not there."""
        base = Version() if edit.full else self
        dropped = frozenset(edit.drop)
        present = {table.file_id for run in base.runs for table in run.tables}
        if not dropped <= present:
            raise ValueError(f"edit drops tables that are not there: {sorted(dropped - present)}")
        runs = []
        for run in base.runs:
            if dropped.isdisjoint(table.file_id for table in run.tables):
                runs.append(run)
            else:
                kept = tuple(table for table in run.tables if table.file_id not in dropped)
                if kept:
                    runs.append(Run(run.sequence, kept))
        runs.extend(run for run in edit.add if run.tables)
        runs.sort(key=lambda run: run.sequence, reverse=True)
        meta = {name: value for name, value in {**base.meta, **edit.meta}.items() if value is not None}
        left = {table.file_id for run in runs for table in run.tables}
        marks = {**base.quarantine, **edit.quarantine}.items()
        version = Version(
            tuple(runs),
            base.log_number if edit.log_number is None else edit.log_number,
            base.log_lsn if edit.log_lsn is None else edit.log_lsn,
            max(base.next_file, edit.next_file),
            meta,
            {file_id: reason for file_id, reason in marks if reason is not None and file_id in left},
            max(base.durable_lsn, edit.durable_lsn),
        )
        problem = version.problem()
        if problem:
            raise ValueError(problem)
        return version

    def snapshot_edit(self, *, log_number: int | None = None) -> Edit:
        """The one edit that makes this version from nothing; for a copy without this log, ``log_number`` is 0."""
        return Edit(
            add=self.runs,
            log_number=self.log_number if log_number is None else log_number,
            log_lsn=self.log_lsn,
            next_file=self.next_file,
            meta=dict(self.meta),
            full=True,
            quarantine=dict(self.quarantine),
            durable_lsn=self.durable_lsn if log_number is None else 0,
        )

    def tables(self) -> Iterable[TableMeta]:
        """Every table, newest run first."""
        for run in self.runs:
            yield from run.tables

    @property
    def size(self) -> int:
        """Bytes of all tables."""
        return sum(run.size for run in self.runs)

    def problem(self) -> str | None:
        """Which invariant does not hold, in words; None when all do."""
        sequences = [run.sequence for run in self.runs]
        if sequences != sorted(set(sequences), reverse=True):
            return f"run sequences {sequences} are not strictly descending"
        ids = [table.file_id for table in self.tables()]
        if len(set(ids)) != len(ids):
            return "a file id occurs twice"
        for run in self.runs:
            if not run.tables:
                return f"run {run.sequence} is empty"
            for left, right in pairwise(run.tables):
                if left.largest >= right.smallest:
                    return f"tables {left.file_id} and {right.file_id} of run {run.sequence} overlap"
        if not self.quarantine.keys() <= set(ids):
            return "a table is quarantined that is not there"
        return None

    def check_invariants(self) -> None:
        problem = self.problem()
        assert problem is None, problem
