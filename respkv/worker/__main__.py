"""A worker process: ``python -m respkv.worker [nice]``. Runs jobs until its input ends."""

from __future__ import annotations

import gc
import os
import resource
import signal
import sys
from collections.abc import Callable
from typing import Any

from respkv.base.errors import ProtocolError
from respkv.env.posix import PosixFileSystem, SystemClock, sleep_us
from respkv.worker.pacing import Pacer
from respkv.worker.protocol import FrameReader, encode_frame
from respkv.worker.registry import run_job


def serve(source: int, sink: int) -> int:
    """Answer the frames of ``source`` on ``sink``; the exit status."""
    fs, clock, reader = PosixFileSystem(), SystemClock(), FrameReader()
    parent = os.getppid()
    while True:
        data = os.read(source, 1 << 16)
        if not data:
            return 0
        try:
            messages = reader.feed(data)
        except ProtocolError:
            return 1
        for message in messages:
            rate = int(message["spec"].get("bytes_per_s", 0))
            pacer = Pacer(rate, clock_us=clock.monotonic_us, sleep_us=sleep_us)
            answer = run_job(fs, message, _watchful(pacer, parent))
            gc.collect()
            answer["rss_bytes"] = _rss_bytes()
            try:
                _write_all(sink, answer)
            except BrokenPipeError:
                return 0


def _watchful(pacer: Pacer, parent: int) -> Callable[[int], None]:
    """``pause`` that also ends an orphan: the files of a server that was killed belong to the next one."""

    def pause(size: int) -> None:
        if os.getppid() != parent:
            os._exit(1)
        pacer.pause(size)

    return pause


def _rss_bytes() -> int:
    """The most memory this process has ever had, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _write_all(sink: int, message: dict[str, Any]) -> None:
    view = memoryview(encode_frame(message))
    while view:
        view = view[os.write(sink, view) :]


def main() -> int:
    """Signals meant for the server's process group are its business; it ends us by closing the pipe."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    if len(sys.argv) > 1:
        os.nice(int(sys.argv[1]))
    # Frames have the descriptors to themselves: a stray print must not become one.
    source, sink = os.dup(0), os.dup(1)
    os.dup2(2, 1)
    return serve(source, sink)


if __name__ == "__main__":
    sys.exit(main())
