"""Worker processes: started by exec, fed through pipes, replaced when they die or grow.

The pipes are descriptors of the reactor like any other. The first worker takes flushes only, so that no long
compaction keeps writers waiting; the others take anything. A worker that dies fails its job (the
node offers it again) and is started anew, after a second if it lived less than that.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any, Final

import respkv
from respkv.base.errors import ProtocolError
from respkv.server.connection import READABLE, WRITABLE
from respkv.server.ports import JobPort
from respkv.server.reactor import Reactor
from respkv.worker.protocol import FrameReader, encode_frame

Done = Callable[[JobPort, dict[str, Any] | None, str], None]
Log = Callable[[str, str], None]

URGENT: Final = "flush"
RESTART_US: Final = 1_000_000
_READ_BYTES: Final = 1 << 18


def worker_command(nice: int) -> list[str]:
    """The command line of a worker: this package's (-P), whatever lies in the working directory."""
    return [sys.executable, "-P", "-m", "respkv.worker", str(nice)]


def worker_environment() -> dict[str, str]:
    """Our environment, with this package importable whatever the working directory is."""
    root = os.path.dirname(os.path.dirname(os.path.abspath(respkv.__file__)))
    path = os.environ.get("PYTHONPATH")
    return {**os.environ, "PYTHONPATH": f"{root}{os.pathsep}{path}" if path else root}


class _Worker:
    """One process and its pipes."""

    __slots__ = (
        "done",
        "input_fd",
        "job",
        "nice",
        "output_fd",
        "process",
        "reader",
        "started_us",
        "unsent",
        "urgent",
    )

    def __init__(self, *, urgent: bool, nice: int) -> None:
        self.urgent = urgent
        self.nice = nice
        self.process: subprocess.Popen[bytes] | None = None
        self.input_fd = self.output_fd = -1
        self.reader = FrameReader()
        self.job: JobPort | None = None
        self.done: Done | None = None
        self.unsent = b""
        self.started_us = 0

    def takes(self, kind: str) -> bool:
        return self.process is not None and self.job is None and (not self.urgent or kind == URGENT)


class WorkerPool:
    """``count`` workers for anything and one for flushes. ``submit`` from the loop only."""

    __slots__ = (
        "_log",
        "_queue",
        "_reactor",
        "_rss_limit_bytes",
        "_stopped",
        "_workers",
        "jobs_done",
        "restarts",
    )

    def __init__(self, reactor: Reactor, *, count: int, rss_limit_bytes: int, log: Log) -> None:
        self._reactor = reactor
        self._rss_limit_bytes = rss_limit_bytes
        self._log = log
        self._queue: list[tuple[JobPort, Done]] = []
        self._stopped = False
        self.restarts = self.jobs_done = 0
        self._workers = [_Worker(urgent=True, nice=5)] + [
            _Worker(urgent=False, nice=10) for _ in range(count)
        ]

    def start(self) -> None:
        """Start the processes. OSError when the first start of one fails."""
        for worker in self._workers:
            self._spawn(worker)

    def process_ids(self) -> list[int]:
        """The numbers of the running processes."""
        return [worker.process.pid for worker in self._workers if worker.process is not None]

    def submit(self, job: JobPort, done: Done) -> None:
        """Have ``job`` done; ``done(job, result, reason)`` comes in a cycle, result None when it failed."""
        self._queue.append((job, done))
        self._feed()

    def _feed(self) -> None:
        """Give waiting jobs to idle workers: to one that takes nothing else, if there is one."""
        for item in list(self._queue):
            worker = next((worker for worker in self._workers if worker.takes(item[0].kind)), None)
            if worker is not None:
                self._queue.remove(item)
                worker.job, worker.done = item
                message = {"id": item[0].id, "kind": item[0].kind, "spec": item[0].spec}
                worker.unsent = encode_frame(message)
                self._write(worker)

    def _write(self, worker: _Worker) -> None:
        """Send what the pipe takes; the rest when it takes more."""
        try:
            sent = os.write(worker.input_fd, worker.unsent)
        except BlockingIOError:
            sent = 0
        except BrokenPipeError:
            return  # It has died; the end of its output says so.
        waiting = len(worker.unsent) > sent
        worker.unsent = worker.unsent[sent:]
        if waiting and worker.input_fd not in self._reactor.handlers:
            self._reactor.watch(worker.input_fd, WRITABLE, lambda _: self._write(worker))
        elif not waiting and worker.input_fd in self._reactor.handlers:
            self._reactor.unwatch(worker.input_fd)

    def _read(self, worker: _Worker) -> None:
        try:
            data = os.read(worker.output_fd, _READ_BYTES)
        except BlockingIOError:
            return
        if not data:
            self._bury(worker, "the worker process died")
            return
        try:
            messages = worker.reader.feed(data)
        except ProtocolError as error:
            self._bury(worker, str(error))
            return
        for message in messages:
            self._answer(worker, message)

    def _answer(self, worker: _Worker, message: dict[str, Any]) -> None:
        job, done = worker.job, worker.done
        if job is None or done is None or message["id"] != job.id:
            self._bury(worker, "a worker answered what it was not asked")
            return
        worker.job = worker.done = None
        self.jobs_done += 1
        if message.get("rss_bytes", 0) > self._rss_limit_bytes:
            self._log("verbose", f"worker {worker.process and worker.process.pid} has grown and is replaced")
            self._bury(worker, "")
        if "result" in message:
            done(job, message["result"], "")
        else:
            done(job, None, str(message.get("error", "no result")))
        self._feed()

    def _bury(self, worker: _Worker, reason: str) -> None:
        """The process is of no more use: end it, fail its job, start another."""
        process, job, done = worker.process, worker.job, worker.done
        assert process is not None
        for fd in (worker.input_fd, worker.output_fd):
            if fd in self._reactor.handlers:
                self._reactor.unwatch(fd)
            os.close(fd)
        worker.process = worker.job = worker.done = None
        process.kill()
        process.wait()
        if self._stopped:
            return
        if reason:
            self._log("warning", f"worker {process.pid}: {reason}")
        self.restarts += 1
        now_us = self._reactor.now_us
        if now_us - worker.started_us < RESTART_US:
            self._reactor.call_at(now_us + RESTART_US, lambda: self._respawn(worker))
        else:
            self._respawn(worker)
        if job is not None and done is not None:
            done(job, None, reason)

    def _respawn(self, worker: _Worker) -> None:
        if self._stopped:
            return
        try:
            self._spawn(worker)
        except OSError as error:
            self._log("warning", f"cannot start a worker: {error}")
            self._reactor.call_at(self._reactor.now_us + RESTART_US, lambda: self._respawn(worker))
            return
        self._feed()

    def _spawn(self, worker: _Worker) -> None:
        process = subprocess.Popen(
            worker_command(worker.nice),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=worker_environment(),
            bufsize=0,
            # Of its own, so that an interrupt from the keyboard does not reach a worker that is just starting.
            process_group=0,
        )
        assert process.stdin is not None and process.stdout is not None
        # The descriptors outlive the file objects, which would close them when they are collected.
        worker.input_fd, worker.output_fd = os.dup(process.stdin.fileno()), os.dup(process.stdout.fileno())
        process.stdin.close()
        process.stdout.close()
        os.set_blocking(worker.input_fd, False)
        os.set_blocking(worker.output_fd, False)
        worker.process = process
        worker.reader = FrameReader()
        worker.unsent = b""
        worker.started_us = self._reactor.now_us
        self._reactor.watch(worker.output_fd, READABLE, lambda _: self._read(worker))

    def stop(self) -> None:
        """End all workers. What an unfinished job has written is removed by the next start."""
        self._stopped = True
        for worker in self._workers:
            if worker.process is not None:
                self._bury(worker, "")

    def stats(self) -> dict[str, int]:
        return {
            "workers": len(self.process_ids()),
            "busy": sum(worker.job is not None for worker in self._workers),
            "queued": len(self._queue),
            "jobs_done": self.jobs_done,
            "restarts": self.restarts,
        }
