"""Drives a node as a server would, but at once and in place: connections are objects, plans, jobs and block
reads run inline, time is moved by hand."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from respkv.base.errors import CorruptionError, StorageFull
from respkv.commands.session import Pending, Session
from respkv.config.parser import load
from respkv.config.store import ConfigStore
from respkv.keyspace import keys, retention
from respkv.keyspace.count_job import count_job
from respkv.node.node import Node
from respkv.resp.request import RequestParser
from respkv.storage.engine import DISK_FULL
from respkv.storage.job_board import COMPACT, FLUSH, Job
from respkv.storage.jobs import compact_job, flush_job, no_pause
from respkv.testing.clock import ManualClock
from respkv.testing.disk import SimulatedFileSystem

DIRECTORY = "/db"


class QuietHost:
    """A process that knows little."""

    def machine_bytes(self) -> int:
        return 1 << 30

    def memory(self) -> dict[str, int]:
        return {"rss": 0, "peak": 0, "total": 1 << 30}

    def stall_until(self, monotonic_us: int) -> None:
        """Time is moved by hand here: nobody waits."""

    def rewrite_config(self) -> bytes:
        return b"+OK\r\n"


class Client:
    """A connection without a socket: a ``Sink`` that keeps what is sent."""

    def __init__(self, driver: NodeDriver) -> None:
        self._driver = driver
        self.received = b""
        self.out: list[bytes] = []
        self.closed = False
        session = driver.node.connect(self, address="127.0.0.1:1", local_address="127.0.0.1:2", unix=False)
        assert isinstance(session, Session)
        self.session = session
        self.parser: RequestParser = driver.node.make_parser(session)

    # Sink

    def push(self, data: bytes) -> None:
        self.received += data

    def close(self, *, after_output: bool) -> None:
        self.closed = True

    def buffered(self) -> int:
        return 0

    def input_buffered(self) -> int:
        return self.parser.buffered

    def read_on(self) -> None:
        """Requests are run to their end here: nothing ever stopped."""

    def send(self, data: bytes) -> bytes:
        """Send bytes, run cycles until they are answered; what came back since the last call."""
        self.parser.feed(data)
        self._driver.run(self)
        taken, self.received = self.received, b""
        return taken

    def call(self, *words: bytes | str | int) -> bytes:
        """Send one request; the reply's bytes."""
        return self.send(encode_request(*words))


def encode_request(*words: bytes | str | int) -> bytes:
    """A request in the array form."""
    argv = [word if isinstance(word, bytes) else str(word).encode() for word in words]
    return b"*%d\r\n" % len(argv) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in argv)


class NodeDriver:
    """A node and the world around it. ``values`` are directives."""

    def __init__(
        self,
        *,
        fs: SimulatedFileSystem | None = None,
        clock: ManualClock | None = None,
        seed: int = 0,
        merges: Mapping[str, object] = MappingProxyType({}),
        **values: str,
    ) -> None:
        self.fs = fs if fs is not None else SimulatedFileSystem()
        self.clock = clock if clock is not None else ManualClock()
        self.fs.mkdir(DIRECTORY)
        self.log: list[tuple[str, str]] = []
        given = {"ballast_bytes": "0", "memtable_bytes": "1048576", "block_cache_bytes": "1048576", **values}
        text = "".join(f'{name.replace("_", "-")} "{value}"\n' for name, value in given.items())
        config = ConfigStore(load(text).values)
        self.node = Node(
            config=config,
            fs=self.fs,
            clock=self.clock,
            rng=random.Random(seed),
            host=QuietHost(),
            run_id="0" * 40,
            process_id=1,
            executable="respkv-server",
            config_file="",
            log=lambda level, text: self.log.append((level, text)),
        )
        self.node.open(DIRECTORY, merges=merges)

    def connect(self) -> Client:
        """A new connection."""
        return Client(self)

    def run(self, client: Client) -> None:
        """Cycles until the client's requests are done."""
        node = self.node
        while True:
            node.begin_cycle()
            special = node.execute_turns((client,))
            pending = special[0][1] if special else None
            node.commit()
            client.received += b"".join(client.out)
            client.out.clear()
            self._finish(client, pending)
            if pending is None and not node.more(client.parser):
                break
        error = client.parser.error
        if error is not None:
            client.received += error
            client.closed = True

    def _finish(self, client: Client, pending: Pending | None) -> None:
        """Let the world go on until a waiting reply is there."""
        node = self.node
        while pending is not None and pending.reply is None:
            self.clock.advance_us(1000)
            node.begin_cycle()
            node.on_timer()
            self._fetch()
            self.work()
            node.commit()
        if pending is not None:
            client.received += node.finish(client.session, pending)

    def run_together(self, clients: Sequence[Client]) -> None:
        """One cycle in which all ``clients`` have their turn; then each on its own until it is answered."""
        self.node.begin_cycle()
        special = self.node.execute_turns(clients)
        self.node.commit()
        for client in clients:
            client.received += b"".join(client.out)
            client.out.clear()
        for client, pending in special:
            self._finish(client, pending)
            self.run(client)

    def pass_time(self, count_us: int) -> None:
        """Let time pass in steps, with timers and all work."""
        until_us = self.clock.monotonic_us() + count_us
        while self.clock.monotonic_us() < until_us:
            self.clock.advance_us(min(100_000, until_us - self.clock.monotonic_us()))
            self.node.begin_cycle()
            self.node.on_timer()
            self._fetch()
            self.node.commit()
            self.work()

    def work(self) -> None:
        """Run fetches, syncs, jobs and plans until none is left."""
        node = self.node
        busy = True
        while busy:
            busy = self._fetch()
            sync = node.sync_plan()
            if sync is not None:
                sync.run()
                node.on_synced(sync)
            job = node.next_job()
            if job is not None:
                self._do(job)
                busy = True
            manifest = node.manifest_plan()
            if manifest is not None:
                manifest.run()
                node.on_manifest_synced(manifest)
                busy = True
            snapshot = node.snapshot_plan()
            if snapshot is not None:
                snapshot.run()
                node.on_snapshot_done(snapshot, "")
                busy = True

    def _do(self, job: Job) -> None:
        result: dict[str, Any]
        try:
            if job.kind == FLUSH:
                result = flush_job(self.fs, job.spec, keys.derive)
            elif job.kind == COMPACT:
                result = compact_job(self.fs, job.spec, retention.make_keep)
            else:
                result = count_job(self.fs, job.spec, no_pause)
        except StorageFull:
            self.node.on_job_failed(job, DISK_FULL)
        except CorruptionError as damage:
            self.node.on_job_failed(job, f"CorruptionError: {damage}")
        else:
            self.node.on_job_done(job, result)

    def _fetch(self) -> bool:
        fetches = self.node.take_fetches()
        for fetch in fetches:
            for request in fetch.requests:
                try:
                    request.install(request.read())
                except CorruptionError as damage:
                    self.node.on_fetch_failed(request, damage)
            fetch.done()
        return bool(fetches)
