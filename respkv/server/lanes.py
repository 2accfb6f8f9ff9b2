"""Threads for what blocks: syncs, manifest edits, block reads.

A lane is a queue with one or more threads behind it. Work of one thread's lane runs in order. Results come
back to the loop by ``post``, so nothing of the node's is touched by a thread. Threads are daemons: a
process that must end does not wait for a disk that hangs.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from queue import SimpleQueue
from typing import Any

Done = Callable[[Any, BaseException | None], None]
Post = Callable[[Callable[[], None]], None]


class Lane:
    """``submit(work, done)``: ``work()`` runs in a thread, ``done(result, error)`` on the loop."""

    __slots__ = ("_post", "_queue", "_threads", "finished", "submitted")

    def __init__(self, name: str, post: Post, *, threads: int = 1) -> None:
        self._post = post
        self._queue: SimpleQueue[tuple[Callable[[], Any], Done] | None] = SimpleQueue()
        self.submitted = self.finished = 0
        self._threads = [
            threading.Thread(target=self._serve, name=f"{name}-{number}", daemon=True)
            for number in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, work: Callable[[], Any], done: Done) -> None:
        """Queue ``work``; callers bound what they submit."""
        self.submitted += 1
        self._queue.put((work, done))

    def _serve(self) -> None:
        while True:
            item = self._queue.get()
            if item is None:
                return
            work, done = item
            result: Any = None
            failure: BaseException | None = None
            try:
                result = work()
            except BaseException as error:  # Whatever it is, the loop decides what it means.
                failure = error
            self._post(partial(self._finish, done, result, failure))
            del item, work, done, result, failure

    def _finish(self, done: Done, result: Any, failure: BaseException | None) -> None:
        self.finished += 1
        done(result, failure)

    def close(self) -> None:
        """Let the threads end when the queue is empty."""
        for _ in self._threads:
            self._queue.put(None)

    def join(self) -> None:
        """Wait for the threads, after ``close``."""
        for thread in self._threads:
            thread.join()

    def stats(self) -> dict[str, int]:
        return {"submitted": self.submitted, "waiting": self.submitted - self.finished}
