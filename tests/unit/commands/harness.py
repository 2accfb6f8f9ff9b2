"""Runs data commands against a real keyspace on a real engine over a simulated disk, without a server."""

from __future__ import annotations

import random
from types import ModuleType
from typing import Any

import hiredis

from respkv.base.errors import CommandError, ReadMiss
from respkv.causality.hlc import HybridClock
from respkv.commands.spec import Form
from respkv.commands.table import CommandTable, build_table
from respkv.commands.transactions import run_data
from respkv.keyspace import keys
from respkv.keyspace.apply import Applier
from respkv.keyspace.expiry import ExpiryDuty
from respkv.keyspace.keyspace import Keyspace
from respkv.keyspace.view import View
from respkv.resp.errors import unknown_command, wrong_arity
from respkv.resp.reply import encode
from respkv.storage.engine import Engine
from respkv.storage.options import EngineOptions
from respkv.storage.recovery import open_engine
from respkv.testing.disk import SimulatedFileSystem

START_MS = 1_700_000_000_000


class ErrorText(str):
    """An error reply, without the dash and the line end."""


def open_memory_engine(fs: SimulatedFileSystem | None = None, **options: Any) -> Engine:
    """An engine on a simulated disk."""
    fs = fs if fs is not None else SimulatedFileSystem()
    fs.mkdir("/db")
    defaults: dict[str, Any] = {"ballast_bytes": 0, "memtable_bytes": 1 << 20, "block_cache_bytes": 1 << 20}
    return open_engine(
        fs, "/db", EngineOptions(derived_spaces=keys.DERIVED_SPACES, **{**defaults, **options}), derive=keys.derive
    )


class Harness:
    """``h("SET", "k", "v")`` runs one command and returns the decoded reply.

    Bulk and simple strings come back as bytes, errors as ``ErrorText``, null as None. ``raw`` gives the
    bytes. ``modules`` limits the table to some command groups.
    """

    def __init__(self, *modules: ModuleType, row_cache_bytes: int = 1 << 20, **options: Any) -> None:
        self.engine = open_memory_engine(**options)
        self.keyspace = Keyspace(
            self.engine,
            HybridClock(1, 0, 1 << 63),
            databases=16,
            row_cache_bytes=row_cache_bytes,
        )
        self.keyspace.defer_writes()
        self.keyspace.load()
        self.keyspace.begin(START_MS)
        self.applier = Applier(self.keyspace)
        self.expiry = ExpiryDuty(self.applier)
        self.table = CommandTable(tuple(module.COMMANDS for module in modules)) if modules else build_table()
        self.rng = random.Random(1)
        self.proto = 2
        self.db = 0
        self.limit_bytes = 512 << 20
        self.effects: Any = ()

    def raw(self, *words: bytes | str | int | float) -> bytes:
        """The reply's bytes."""
        argv = [word if isinstance(word, bytes) else str(word).encode() for word in words]
        spec = self.table.resolve(argv)
        if spec is None:
            return unknown_command(argv)
        if spec.handler is None or not spec.fits(len(argv)):
            return wrong_arity(spec.name)
        assert spec.form is not Form.SESSION, f"{spec.name} needs a session"
        while True:
            view = self.view()
            try:
                reply, effects = run_data(spec, argv, view)
                self.effects = effects
                if effects:
                    self.applier.apply(effects)
                break
            except CommandError as mistake:
                reply = mistake.reply
                break
            except ReadMiss as miss:
                miss.request.install(miss.request.read())
        self.engine.commit()
        return encode(reply, self.proto)

    def __call__(self, *words: bytes | str | int | float) -> Any:
        """The decoded reply."""
        reader = hiredis.Reader()
        reader.feed(self.raw(*words))
        reply = reader.gets()
        return ErrorText(reply) if isinstance(reply, hiredis.ReplyError) else reply

    def view(self) -> View:
        """What a command would see now."""
        return View(self.keyspace, self.keyspace.stored[self.db], self.rng, self.limit_bytes)

    def advance_ms(self, count: int) -> None:
        """Let time pass."""
        self.keyspace.begin(self.keyspace.now_ms + count)

    def expire(self) -> None:
        """Run active expiry until nothing is due."""
        more = True
        while more:
            more, request = self.expiry.run(100)
            if request is not None:
                request.install(request.read())

    @property
    def now_ms(self) -> int:
        """Wall clock of the cycle."""
        return self.keyspace.now_ms
