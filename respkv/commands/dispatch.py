"""Dispatch: one request in, one reply out; and the loop that runs a connection's requests.

``run_turns`` is the hot loop. It treats exactly ``GET key`` and ``SET key value`` apart while the session and
the node are *plain* (authenticated, no MULTI, no subscription, no MONITOR, no WATCH, no pause, writes allowed
...), tries ``shortcuts`` next, runs other data commands of a plain session by ``_run_quick``, and hands everything
else to ``execute``: look-up, checks, view, handler, effects. The fast path ends in the same primitives as
``keyspace.apply``; a test demands equal replies, log bytes and counters of both.

A request that cannot finish now (a block is not in memory, a walk is over its budget, clients are paused)
becomes a ``Pending``; the connection's later requests wait behind it.
"""

from __future__ import annotations

from binascii import crc_hqx
from collections.abc import Callable, Iterable
from operator import length_hint
from typing import Any, Final, Protocol

from respkv.base.errors import BlockRequest, CommandError, CorruptionError, ReadMiss
from respkv.base.limits import COMMANDS_PER_TURN, CYCLE_US_MAX, WALK_STEPS_PER_TURN
from respkv.causality.record import pack_string_head
from respkv.commands.hotkeys import sample_request
from respkv.commands.notifications import apply_and_tell, telling_walk
from respkv.commands.session import Pending, Server, Session
from respkv.commands.shortcuts import Shortcuts
from respkv.commands.spec import DATA, SESSION, CommandSpec, Flag
from respkv.commands.table import CommandTable, subcommand
from respkv.commands.transactions import end_multi
from respkv.keyspace.apply import Applier
from respkv.keyspace.counts import LIVE
from respkv.keyspace.keys import RECORD_KEY_AT
from respkv.keyspace.keyspace import Keyspace
from respkv.keyspace.view import View
from respkv.metrics.hot_keys import HotKeys
from respkv.metrics.registry import CommandStats, Registry
from respkv.resp import errors
from respkv.resp.reply import BULK_HEADS, OK, QUEUED, encode, error
from respkv.storage.batch_scale import SPLIT_ENTRIES
from respkv.storage.write_batch import pack_lengths

#: handler, least and most words, figures, row
Quick = tuple[Callable[..., Any], int, int, CommandStats, CommandSpec, bool]
Fetch = Callable[[list[BlockRequest], Callable[[], None]], None]

#: After a command that wrote a record of this size the open batch is weighed.
LARGE_RECORD_BYTES: Final = 4096
#: What hiredis has taken for a request is none.
_ODD: Final = object()
assert RECORD_KEY_AT == 5, "the loops of this module and of ring_dispatch cut prefixes"
_RUN_IN_MULTI: Final = frozenset({"exec", "discard", "multi", "watch", "quit", "reset"})


class Turn(Protocol):
    """A connection with requests to run, as the hot loop sees it."""

    @property
    def session(self) -> Session: ...

    @property
    def parser(self) -> Any:
        """A ``RequestParser``."""

    @property
    def out(self) -> list[bytes]:
        """Where its replies go."""


class Dispatcher:
    """Runs requests of all sessions of one node.

    ``plain`` is False while something forbids the fast path for everybody. ``refusal`` is the error reply that
    writes get, or None.
    """

    __slots__ = (
        "_apply", "_clock_us", "_direct", "_ended_us", "_general_us", "_get_stats", "_quick", "_set_stats",
        "_shortcuts", "_views", "applier", "fetch", "hot", "keyspace", "limit_bytes", "plain", "refusal", "registry",
        "ruled", "server", "table",
    )  # fmt: skip

    def __init__(
        self,
        *,
        table: CommandTable,
        keyspace: Keyspace,
        applier: Applier,
        registry: Registry,
        server: Server,
        fetch: Fetch,
        limit_bytes: int,
    ) -> None:
        assert type(self) is not Dispatcher or keyspace.engine.held is not None, "run_turns defers writes"
        self.table = table
        self.keyspace = keyspace
        self.applier = applier
        self._apply = applier.apply
        self._clock_us = server.clock.monotonic_us
        self.registry = registry
        self.server = server
        self.fetch = fetch
        self.hot = HotKeys(server.rng)
        self._views: dict[int, View] = {}
        self._ended_us = self._general_us = 0
        self.set_limit(limit_bytes)
        self.plain = True
        self.refusal: bytes | None = None
        #: true for keys of which the configuration says something by their beginning: they take the general path
        self.ruled: Any = None
        self._get_stats = registry.command("get")
        self._set_stats = registry.command("set")
        self._quick = self._quick_table()
        self._shortcuts = Shortcuts(applier, registry, table)
        #: False when GET or SET goes by another name
        self._direct = all(table.lookup(word) is not None for word in (b"get", b"set"))

    def set_limit(self, limit_bytes: int) -> None:
        """The longest string (proto-max-bulk-len) from now on."""
        self.limit_bytes = limit_bytes
        self._views.clear()

    def _quick_table(self) -> dict[bytes, Quick]:
        """Data commands without subcommands, by their word in lower and upper case."""
        quick: dict[bytes, Quick] = {}
        for word, spec in self.table.words():
            if spec.form is DATA and not spec.subcommands and spec.handler is not None:
                most = spec.arity if spec.arity > 0 else 1 << 31
                entry = (spec.handler, abs(spec.arity), most, self.registry.command(spec.name), spec, spec.counts)
                quick[word] = quick[word.upper()] = entry
        return quick

    # -- the hot loop ------------------------------------------------------------------------------

    def run_turns(self, turns: Iterable[Turn]) -> list[tuple[Any, Pending | None]]:  # HOT: get_set_pipeline
        """Give each connection its turn: run the requests of its parser until it has no more or its budget is used.

        Returns the turns that did not simply end with their input, each with the pending request that stopped it, if
        one did: look at ``session.closing``, ``parser.error``, ``parser.has_more``; and those that had no time.
        """
        keyspace, clock, views = self.keyspace, self.keyspace.clock, self._views
        node, server, quick, ruled = clock.node, self.server, self._quick.get, self.ruled
        now_us, until_us = server.now_us, server.now_us + CYCLE_US_MAX
        began_us = self._ended_us = self._clock_us()
        special: list[tuple[Any, Any]] = []
        reply: Any
        self._general_us = reads = writes = mark = unchecked = 0
        batch, short = keyspace.engine.batch, self._shortcuts
        shortcuts: dict[bytes, Any] = short.by_word if ruled is None else {}
        last, grown, db, logical, stale, over, left = clock.last, 0, 0, -1, True, False, self.hot.left
        heads, pack_head, pack, crc, ok = BULK_HEADS, pack_string_head, pack_lengths, crc_hqx, OK
        for turn in turns:
            if over or turn.session.closing:  # A request of this sweep has killed it.
                special.append((turn, None))
                continue
            session, parser, out = turn.session, turn.parser, turn.out
            session.last_us = now_us
            if session.db != logical and not stale:
                clock.last, stale = last, True
            fast = session.plain and self.plain
            direct = fast and self._direct
            before, writes_before, taken, pending, short.last = reads + writes + short.done, writes, 0, None, ""
            while requests := parser.take():
                waiting = iter(requests)
                taken += (size := len(requests))
                left = left - size if left > size else self._sample(requests, left - size)
                for argv in waiting:
                    if stale:
                        # What is held in locals is fetched anew after each request of the general path.
                        fast = session.plain and self.plain
                        direct = fast and self._direct
                        db = keyspace.stored[logical := session.db]
                        rows, old_rows = keyspace.cache.rows(db), keyspace.cache.old.get(db)
                        prefixes = keyspace.prefixes(db)
                        memtable, batch = keyspace.engine.memtable, keyspace.engine.batch
                        table, deferred = memtable.table, memtable.deferred
                        highest, last, stale = keyspace.floors.highest, clock.last, False
                        view = views.get(db) or self._make_view(db)
                    if direct and type(argv) is list:
                        if (size := len(argv)) == 2:
                            if (argv[0] == b"GET" or argv[0] == b"get") and isinstance(argv[1], bytes):
                                row = rows.get(argv[1])
                                if isinstance(row, bytes):
                                    out.append(row[11:])
                                    reads += 1
                                    continue
                        elif size == 3 and (argv[0] == b"SET" or argv[0] == b"set"):
                            key, value = argv[1], argv[2]
                            usual = isinstance(key, bytes) and isinstance(value, bytes) and 123 not in key
                            if usual and (ruled is None or not ruled(key)):
                                row = rows.get(key)
                                plain = isinstance(row, bytes)
                                if plain or (row is None and not (old_rows and key in old_rows)):
                                    head = heads[size] if (size := len(value)) < 4096 else b"$%d\r\n" % size
                                    last += 1
                                    record = b"".join((pack_head(1, last, node), head, value, b"\r\n"))
                                    internal = prefixes[(at := (crc(key, 0) & 16383) * 5) : at + 5] + key
                                    if plain:
                                        rows[key] = record
                                        grown += len(record) - len(row)  # type: ignore[arg-type]
                                        deferred.append(internal)
                                    else:
                                        old = table.get(internal)
                                        if old is not None and (old[0] != 1 or old[1:11] <= highest):
                                            keyspace.counts.replaced(internal, old, LIVE)
                                        table[internal] = record
                                    batch += (pack(len(record), len(internal)), internal, record)
                                    out.append(ok)
                                    writes += 1
                                    continue
                        if size and isinstance(argv[0], bytes) and (shortcut := shortcuts.get(argv[0])) is not None:
                            clock.last = last
                            reply = shortcut(db, rows, prefixes, argv)
                            last = clock.last
                            if reply is not None:
                                out.append(reply)
                                continue
                    clock.last, stale = last, True
                    if grown or short.grown or short.counts:
                        grown = self._settle(grown)
                    if (done := reads + writes + short.done) != mark:
                        self._ended_us, mark = -1, done  # What they took is not this command's.
                    used = len(requests) - length_hint(waiting)
                    unchecked += 16
                    entry = quick(argv[0]) if fast and parser.exact else None
                    if entry is not None and entry[1] <= len(argv) <= entry[2]:
                        reply = self._run_quick(session, argv, entry, view)
                    elif (reply := self._run_checked(session, argv, parser, used - 1, view if fast else None)) is _ODD:
                        break
                    if batch and len(batch[-1]) >= LARGE_RECORD_BYTES:
                        server.relieve()
                    if isinstance(reply, bytes):
                        out.append(reply)
                    elif reply is not None:
                        pending = reply
                    if pending is not None or session.closing:
                        parser.give_back(list(waiting), used)
                        break
                if pending is not None or session.closing or taken >= COMMANDS_PER_TURN:
                    break
            if (served := reads + writes + short.done - before) != 0:
                session.commands += served
                session.last_command = short.last or ("set" if writes != writes_before else "get")
            if pending is not None or session.closing or parser.error is not None or taken >= COMMANDS_PER_TURN:
                special.append((turn, pending))
            if batch and (len(batch[-1]) >= LARGE_RECORD_BYTES or len(batch) >= 3 * SPLIT_ENTRIES):
                clock.last, stale, grown = clock.last if stale else last, True, self._settle(grown)
                server.relieve()
            if (unchecked := unchecked + taken) >= 256:
                unchecked, over = 0, self._clock_us() > until_us
        clock.last, self.hot.left = clock.last if stale else last, left
        self._settle(grown)
        self._count_fast(reads, writes, began_us)
        return special

    def _settle(self, grown: int) -> int:
        """Log what shortcuts have counted, tell the row cache what its rows have grown by; 0, which is left of that."""
        grown += self._shortcuts.settle()
        if grown:
            self.keyspace.cache.grow(grown)
        return 0

    def _sample(self, requests: list[Any], left: int) -> int:
        """Some of these requests are to be sampled: ``hot.left`` has come to ``left`` with them. Its new value."""
        for at in self.hot.overdue(len(requests), left):
            sample_request(self.hot, self.table, requests[at])
        return self.hot.left

    def _run_checked(self, session: Session, argv: Any, parser: Any, index: int, view: View | None) -> Any:
        """A request that may not even be one; ``view`` is None unless session and node are plain.

        Its reply, a Pending, None for no reply, or ``_ODD``: the parser takes over from there, see ``check``.
        """
        if not parser.check(argv, index):
            return _ODD
        if not argv:
            return None
        if view is not None:
            entry = self._quick.get(argv[0])
            if entry is not None and entry[1] <= len(argv) <= entry[2]:
                return self._run_quick(session, argv, entry, view)
        reply = self.execute(session, argv)
        if session.authenticated:
            parser.set_limits(max_bulk=self.limit_bytes, unauthenticated=False)
        return reply

    def _count_fast(self, reads: int, writes: int, began_us: int) -> None:
        """What a cycle did without the general path: counters, and the time that nothing else took, shared evenly."""
        short = self._shortcuts
        calls = reads + writes + short.done
        if not calls:
            return
        counted = [(self._get_stats, reads), (self._set_stats, writes)]
        if short.done:
            counted += short.take()
        left_us = max(0, self._clock_us() - began_us - self._general_us)
        self.keyspace.hits += reads
        self.keyspace.cache.hits += reads
        for stats, count in counted:
            if count:
                took_us = left_us * count // calls
                self.registry.count_fast(stats, count, took_us)
                left_us, calls = left_us - took_us, calls - count

    def _run_quick(  # HOT: incr
        self, session: Session, argv: list[bytes], entry: Quick, view: View
    ) -> bytes | Pending | None:
        """A data command of a plain session on a plain node: nothing of what ``_admit`` asks can be in its way."""
        handler, _, _, stats, spec, view.counting = entry
        clock_us, registry, server = self._clock_us, self.registry, self.server
        # One reading of the clock serves as this command's end and the next one's start.
        started_us = self._ended_us
        if started_us < 0:
            started_us = clock_us()
        session.last_command = spec.name
        session.commands += 1
        try:
            reply, effects = handler(argv, view)
            if effects:
                self._apply(effects)
        except (CommandError, CorruptionError, ReadMiss) as reason:
            self._ended_us = clock_us()
            self._general_us += self._ended_us - started_us
            return self._call_failed(session, spec, argv, reason, self._ended_us - started_us)
        self._ended_us = ended_us = clock_us()
        took_us = ended_us - started_us
        self._general_us += took_us
        stats.calls += 1
        stats.usec += took_us
        registry.commands_processed += 1
        if registry.latency_tracking:
            stats.histogram.record(took_us)
        if took_us >= server.slow_us and not spec.flags & Flag.SKIP_SLOWLOG:
            server.slow_command(session, argv, took_us)
        return reply if isinstance(reply, bytes) else encode(reply, session.proto)

    def _make_view(self, db: int) -> View:
        view = self._views[db] = View(self.keyspace, db, self.server.rng, self.limit_bytes)
        return view

    def _call_failed(
        self, session: Session, spec: CommandSpec, argv: list[bytes], reason: Exception, took_us: int
    ) -> bytes | Pending:
        if isinstance(reason, ReadMiss):
            self.registry.count_call(spec.name, took_us, None)
            return self._wait_for_block(session, spec, argv, reason.request)
        reply = self._error_of(reason)
        self.registry.count_call(spec.name, took_us, reply)
        return reply

    def _error_of(self, reason: Exception) -> bytes:
        """The error reply for what a command raised."""
        if isinstance(reason, CommandError):
            return reason.reply
        self.server.log("warning", f"stored data is damaged: {reason}")
        return errors.CORRUPT

    # -- one request -------------------------------------------------------------------------------

    def execute(self, session: Session, argv: list[bytes]) -> bytes | Pending | None:
        """Run one request: finished bytes, a Pending, or None when the client wants no reply."""
        if session.proto == 3 and session.held is None and session.subscribed():
            return self._execute_holding(session, argv)
        skip = session.skip_next
        if skip:
            session.skip_next = False
            session.recompute_plain()
        reply = self._admit(session, argv)
        if reply.__class__ is Pending:
            return reply
        if skip or session.reply_mode != "on":
            return None
        return reply

    def _execute_holding(self, session: Session, argv: list[bytes]) -> bytes | Pending | None:
        """The same for a RESP3 subscriber: what the request pushes to its own connection comes after its reply."""
        held: list[bytes] = []
        session.held = held
        try:
            reply = self.execute(session, argv)
        finally:
            session.held = None
        if isinstance(reply, bytes):
            return reply + b"".join(held)
        if held:
            session.sink.push(b"".join(held))
        return reply

    def _admit(self, session: Session, argv: list[bytes]) -> bytes | Pending | None:
        spec = self.table.lookup(argv[0])
        mistake: bytes | None = None
        if spec is None:
            mistake = errors.unknown_command(argv)
        else:
            if spec.subcommands and len(argv) > 1:
                container, spec = spec, subcommand(spec, argv[1])
                if spec is None:
                    mistake = errors.unknown_subcommand(container.name, argv[1])
            if spec is not None and (spec.handler is None or not spec.fits(len(argv))):
                mistake = errors.wrong_arity(spec.name)
        if mistake is not None or spec is None:
            return self._reject(session, spec, mistake or b"")
        if not session.authenticated and not spec.flags & Flag.NO_AUTH:
            return self._reject(session, spec, errors.NO_AUTH)
        session.last_command = spec.name
        session.commands += 1
        flags = spec.flags
        if session.multi is not None and spec.name not in _RUN_IN_MULTI:
            return self._queue(session, spec, argv)
        if session.proto == 2 and session.subscribed() and not flags & Flag.IN_PUBSUB:
            return self._reject(
                session,
                spec,
                error(
                    b"ERR Can't execute '%b': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are"
                    b" allowed in this context" % spec.name.encode()
                ),
            )
        if flags & Flag.WRITE and self.refusal is not None and not _frees_space(spec):
            return self._reject(session, spec, self.refusal)
        if self.server.pause_mode and self._paused(spec):
            return self._wait_for_unpause(session, argv)
        reply = self._call(session, spec, argv)
        # Afterwards, as Redis does: the commands of a transaction come before its EXEC.
        if self.server.monitors and not flags & (Flag.SKIP_MONITOR | Flag.ADMIN):
            self.server.feed_monitors(session, argv)
        return reply

    def _reject(self, session: Session, spec: CommandSpec | None, reply: bytes) -> bytes:
        if spec is not None and spec.name == "exec":
            end_multi(session)
            reason = reply.removeprefix(b"-ERR ").removeprefix(b"-")[:-2]
            reply = error(b"EXECABORT Transaction discarded because of: " + reason)
        elif session.multi is not None:
            session.multi_error = True
        self.registry.reject(spec.name if spec is not None else None, reply)
        return reply

    def _queue(self, session: Session, spec: CommandSpec, argv: list[bytes]) -> bytes:
        assert session.multi is not None
        if spec.flags & Flag.NO_MULTI:
            return self._reject(session, spec, errors.NOT_IN_MULTI)
        if spec.flags & Flag.WRITE and self.refusal is not None and not _frees_space(spec):
            return self._reject(session, spec, self.refusal)
        session.multi.append(argv)
        session.multi_bytes += sum(map(len, argv))
        return QUEUED

    def _call(self, session: Session, spec: CommandSpec, argv: list[bytes]) -> bytes | Pending | None:
        # A handler may execute requests itself: their time is within this one's.
        general_us, started_us = self._general_us, self._clock_us()
        reply: bytes | Pending | None
        try:
            reply = self._run(session, spec, argv)
        except (CommandError, CorruptionError) as reason:
            reply = self._error_of(reason)
        except ReadMiss as miss:
            reply = self._wait_for_block(session, spec, argv, miss.request)
        self._ended_us = self._clock_us()
        took_us = self._ended_us - started_us
        self._general_us = general_us + took_us
        failed = reply.__class__ is bytes and reply[:1] == b"-"
        self.registry.count_call(spec.name, took_us, reply if failed else None)  # type: ignore[arg-type]
        if took_us >= self.server.slow_us and not spec.flags & Flag.SKIP_SLOWLOG:
            self.server.slow_command(session, argv, took_us)
        return reply

    def _run(self, session: Session, spec: CommandSpec, argv: list[bytes]) -> bytes | Pending | None:
        handler = spec.handler
        assert handler is not None
        if spec.form is DATA:
            keyspace = self.keyspace
            view = View(keyspace, keyspace.stored[session.db], self.server.rng, self.limit_bytes)
            view.touching, view.counting = not session.no_touch or spec.name == "touch", spec.counts
            reply, effects = handler(argv, view)
            if self.server.pubsub.events:
                apply_and_tell(spec, argv, effects, view, self.applier, self.server.pubsub)
            elif effects:
                self.applier.apply(effects)
            return encode(reply, session.proto)
        if spec.form is SESSION:
            answer = handler(argv, session)
            if answer is None or answer.__class__ is Pending:
                return answer
            return encode(answer, session.proto)
        return self._walk(session, spec, argv)

    # -- requests that take longer -----------------------------------------------------------------

    def _walk(
        self, session: Session, spec: CommandSpec, argv: list[bytes], slots: bytes | bytearray | None = None
    ) -> bytes | Pending:
        assert spec.handler is not None
        keyspace = self.keyspace
        view = View(keyspace, keyspace.stored[session.db], self.server.rng, self.limit_bytes)
        view.slots = slots
        walk = spec.handler(argv, view)
        if self.server.pubsub.events:
            walk = telling_walk(walk, spec, argv, view, self.applier, self.server.pubsub)
        pending: Pending | None = None

        def go_on() -> bytes | None:
            for _ in range(WALK_STEPS_PER_TURN):
                try:
                    request = next(walk)
                except StopIteration as end:
                    return encode(end.value[0], session.proto)
                except (CommandError, CorruptionError) as reason:
                    return self._error_of(reason)
                if request is not None:
                    self.fetch([request], step)
                    return None
            self.server.after_us(0, step)
            return None

        def step() -> None:
            assert pending is not None
            if pending.abandoned:
                walk.close()
                return
            reply = go_on()
            if reply is not None:
                pending.complete(reply)

        pending = Pending()
        reply = go_on()
        return pending if reply is None else reply

    def _wait_for_block(
        self, session: Session, spec: CommandSpec, argv: list[bytes], request: BlockRequest
    ) -> Pending:
        """Run the request again when the block is there; its first run has changed nothing."""
        pending, context = Pending(), session.context()

        def again() -> None:
            if pending.abandoned:
                return
            session.resume(context)
            try:
                reply = self._run(session, spec, argv)
            except (CommandError, CorruptionError) as reason:
                reply = self._error_of(reason)
            except ReadMiss as miss:
                self.fetch([miss.request], again)
                return
            if isinstance(reply, Pending):
                reply.hand_to(pending)
            else:
                pending.complete(reply if reply is not None else b"")

        self.fetch([request], again)
        return pending

    def _paused(self, spec: CommandSpec) -> bool:
        server = self.server
        if server.clock.monotonic_us() >= server.pause_until_us:
            server.end_pause()
            return False
        if spec.name.startswith("client|") or spec.name in ("client", "reset", "quit", "hello", "auth"):
            return False
        return server.pause_mode == "all" or bool(
            spec.flags & (Flag.WRITE | Flag.MAY_REPLICATE) or spec.name == "exec"
        )

    def _wait_for_unpause(self, session: Session, argv: list[bytes]) -> Pending:
        pending, context = Pending(), session.context()

        def again() -> None:
            if pending.abandoned:
                return
            session.resume(context)
            reply = self.execute(session, argv)
            if isinstance(reply, Pending):
                reply.hand_to(pending)
            else:
                pending.complete(reply if reply is not None else b"")

        self.server.when_unpaused(again)
        return pending


def _frees_space(spec: CommandSpec) -> bool:
    """Deletions go on when the disk is full: they are what makes room."""
    return spec.name in ("del", "unlink", "flushdb", "flushall", "hdel", "getdel")
