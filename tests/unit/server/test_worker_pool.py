"""Real worker processes on a reactor: jobs, deaths, growth, the end."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from respkv.env.posix import SystemClock
from respkv.server import worker_pool
from respkv.server.worker_pool import RESTART_US, WorkerPool, worker_command, worker_environment
from tests.unit.server.fake_node import World

#: A worker that answers any job with its spec, after doing what the spec says.
ECHO = """
import json, os, struct, sys
while True:
    head = sys.stdin.buffer.read(4)
    if not head:
        break
    message = json.loads(sys.stdin.buffer.read(struct.unpack("<I", head)[0]))
    spec = message["spec"]
    if spec.get("die"):
        os._exit(3)
    body = spec["raw"].encode() if "raw" in spec else json.dumps(
        {"id": message["id"] + spec.get("off", 0), "result": spec, "rss_bytes": spec.get("rss", 0)}).encode()
    sys.stdout.buffer.write(struct.pack("<I", len(body)) + body)
    sys.stdout.buffer.flush()
"""


@dataclass
class Job:
    id: int
    kind: str
    spec: dict[str, Any] = field(default_factory=dict)


class Works:
    """A pool of echoing workers."""

    def __init__(self, world: World, count: int = 1) -> None:
        self.world = world
        self.results: list[tuple[int, Any, str]] = []
        self.lines: list[str] = []
        self.pool = WorkerPool(
            world.reactor, count=count, rss_limit_bytes=1000, log=lambda level, text: self.lines.append(text)
        )
        self.pool.start()

    def submit(self, *jobs: Job) -> None:
        for job in jobs:
            self.pool.submit(job, lambda job, result, reason: self.results.append((job.id, result, reason)))

    def until(self, done: Callable[[], bool]) -> None:
        """Cycle until ``done``, waiting for the pipes; time goes on as it does."""
        clock = SystemClock()
        give_up_us = clock.monotonic_us() + 20_000_000
        while not done():
            assert clock.monotonic_us() < give_up_us, (self.results, self.lines)
            select.select([self.world.reactor.epoll.fileno()], [], [], 0.05)
            self.world.turn()


@pytest.fixture
def works(world: World, monkeypatch: pytest.MonkeyPatch) -> Iterator[Works]:
    monkeypatch.setattr(worker_pool, "worker_command", lambda nice: [sys.executable, "-S", "-c", ECHO])
    made = Works(world)
    yield made
    made.pool.stop()
    assert made.pool.process_ids() == []


def test_jobs_are_done_one_at_a_time_by_each_worker(works: Works) -> None:
    works.submit(*(Job(number, "compact", {"n": number}) for number in range(5)))
    assert works.pool.stats()["busy"] == 1 and works.pool.stats()["queued"] == 4
    works.until(lambda: len(works.results) == 5)
    assert works.results == [(number, {"n": number}, "") for number in range(5)]


def test_a_flush_does_not_wait_behind_a_compaction(works: Works) -> None:
    works.submit(Job(1, "compact"), Job(2, "compact"), Job(3, "flush"))
    assert works.pool.stats()["busy"] == 2 and works.pool.stats()["queued"] == 1
    works.until(lambda: len(works.results) == 3)


def test_a_job_bigger_than_the_pipe(works: Works) -> None:
    spec = {"tables": ["x" * 1000] * 2000}
    works.submit(Job(1, "compact", spec))
    works.until(lambda: bool(works.results))
    assert works.results == [(1, spec, "")]


def test_a_worker_that_dies_fails_its_job_and_is_replaced(works: Works) -> None:
    works.submit(Job(1, "compact", {"die": 1}), Job(2, "compact"))
    works.until(lambda: bool(works.results))
    assert works.results == [(1, None, "the worker process died")]
    works.world.clock.us += RESTART_US
    works.until(lambda: len(works.results) == 2)
    assert works.results[1] == (2, {}, "")
    assert works.pool.restarts == 1 and "died" in works.lines[0]


def test_an_idle_worker_that_is_killed_is_replaced(works: Works) -> None:
    before = works.pool.process_ids()
    works.world.clock.us += 2 * RESTART_US
    works.world.turn()
    os.kill(before[0], signal.SIGKILL)
    works.until(lambda: works.pool.restarts == 1)
    after = works.pool.process_ids()
    assert len(after) == 2 and before[0] not in after and before[1] in after


@pytest.mark.parametrize("spec", [{"raw": "no JSON"}, {"off": 5}])
def test_a_worker_that_talks_nonsense_is_replaced(works: Works, spec: dict[str, Any]) -> None:
    works.submit(Job(1, "compact", spec))
    works.until(lambda: bool(works.results) or works.pool.restarts == 1)
    assert works.results[0][1] is None and works.pool.restarts == 1


def test_a_worker_that_has_grown_is_replaced_after_its_job(works: Works) -> None:
    works.world.clock.us += 2 * RESTART_US
    works.world.turn()
    works.submit(Job(1, "compact", {"rss": 2000}), Job(2, "compact", {"n": 2}))
    works.until(lambda: len(works.results) == 2)
    assert works.results == [(1, {"rss": 2000}, ""), (2, {"n": 2}, "")]
    assert works.pool.restarts == 1


def test_a_worker_that_cannot_be_started_is_tried_again(works: Works, monkeypatch: pytest.MonkeyPatch) -> None:
    spawn = subprocess.Popen

    def fail(*arguments: Any, **options: Any) -> Any:
        raise OSError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(subprocess, "Popen", fail)
    works.submit(Job(1, "compact", {"die": 1}))
    works.until(lambda: bool(works.results))
    works.world.clock.us += RESTART_US
    works.world.turn()
    assert "cannot start a worker" in works.lines[-1]
    monkeypatch.setattr(subprocess, "Popen", spawn)
    works.world.clock.us += RESTART_US
    works.submit(Job(2, "compact"))
    works.until(lambda: len(works.results) == 2)
    assert works.results[1] == (2, {}, "")


def test_the_real_worker_answers_and_ends_with_its_input(tmp_path: Path) -> None:
    from respkv.worker.protocol import FrameReader, encode_frame

    # Another respkv in the working directory, as where the server was started in a checkout.
    (tmp_path / "respkv").mkdir()
    (tmp_path / "respkv" / "__init__.py").write_text("raise SystemExit(3)")
    process = subprocess.Popen(
        worker_command(1), stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=worker_environment(), cwd=tmp_path
    )
    out, _ = process.communicate(encode_frame({"id": 9, "kind": "dance", "spec": {}}), timeout=30)
    assert process.returncode == 0
    (answer,) = FrameReader().feed(out)
    assert answer["id"] == 9 and answer["error"] == "unknown job 'dance'" and answer["rss_bytes"] > 1 << 20


def test_the_real_worker_refuses_garbage() -> None:
    process = subprocess.Popen(
        worker_command(1), stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=worker_environment(), cwd="/"
    )
    out, _ = process.communicate(b"\xff\xff\xff\xff", timeout=30)
    assert process.returncode == 1 and out == b""
