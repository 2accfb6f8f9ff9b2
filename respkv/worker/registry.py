"""Which jobs a worker knows: name -> function of (file system, spec, pause), plain data in and out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

from respkv.base.errors import CorruptionError, StorageFull
from respkv.env.fs import FileSystem
from respkv.keyspace import keys, retention
from respkv.keyspace.count_job import count_job
from respkv.keyspace.leaf_walk import walk_job
from respkv.storage.engine import DISK_FULL
from respkv.storage.jobs import Pause, compact_job, flush_job

JobFunction = Callable[[FileSystem, dict[str, Any], Pause], dict[str, Any]]


def _flush(fs: FileSystem, spec: dict[str, Any], pause: Pause) -> dict[str, Any]:
    return flush_job(fs, spec, keys.derive, pause)


def _compact(fs: FileSystem, spec: dict[str, Any], pause: Pause) -> dict[str, Any]:
    return compact_job(fs, spec, retention.make_keep, pause)


def _count(fs: FileSystem, spec: dict[str, Any], pause: Pause) -> dict[str, Any]:
    """One walk gives a ring member its leaf sums and the key counts; counts alone are cheaper to have."""
    return (walk_job if "leaves" in spec else count_job)(fs, spec, pause)


JOBS: Final[Mapping[str, JobFunction]] = MappingProxyType({"flush": _flush, "compact": _compact, "count": _count})


def run_job(fs: FileSystem, message: dict[str, Any], pause: Pause) -> dict[str, Any]:
    """Do what a frame asks for; the answer's frame. A job that fails is an answer, not an exception."""
    answer: dict[str, Any] = {"id": message["id"]}
    job = JOBS.get(message["kind"])
    try:
        if job is None:
            answer["error"] = f"unknown job {message['kind']!r}"
        else:
            answer["result"] = job(fs, message["spec"], pause)
    except StorageFull:
        answer["error"] = DISK_FULL
    except (CorruptionError, OSError) as error:
        answer["error"] = f"{type(error).__name__}: {error}"
    return answer
