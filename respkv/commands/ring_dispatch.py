"""Dispatch on a ring: the same requests, carried out by the replicas of their keys.

``run_turns`` is the hot loop of a member: plain GET and SET of slots that are *ready* (this node is a replica, and a
quorum can be reached as far as is known) take a fast path that ends in the same primitives as the single node's; what
is new is that a read is noted for a peer to compare, and that the connection's replies wait for the cycle's round.
Everything else goes through ``Operation``. The loop is a second one beside the single node's on purpose:
docs/decisions/0009.
"""

from __future__ import annotations

from binascii import crc_hqx
from collections.abc import Iterable
from operator import length_hint
from typing import Any, Final, Protocol

from respkv.base.errors import CommandError, CorruptionError, ReadMiss
from respkv.base.limits import COMMANDS_PER_TURN, CYCLE_US_MAX
from respkv.base.slots import slot_of
from respkv.causality.record import pack_string_head
from respkv.commands.dispatch import LARGE_RECORD_BYTES, Dispatcher, Quick, Turn
from respkv.commands.flight import Flight, board, close, join, obstacle
from respkv.commands.keyspace import databases_swapped
from respkv.commands.ring import slots_walked
from respkv.commands.ring_operation import KeyedWalk, Operation
from respkv.commands.ring_transactions import ENDS_WATCHING, execute, leave, watch
from respkv.commands.routing import NO_COMMON_OWNER, face_obstacle, key_slots, level_of, route
from respkv.commands.session import Pending, Session
from respkv.commands.spec import DATA, SESSION, WALK, CommandSpec, Flag
from respkv.commands.spread import CUT, Spread
from respkv.keyspace.counts import LIVE
from respkv.keyspace.view import View
from respkv.replication.coordinator import Coordinator
from respkv.replication.levels import ALL, EVENTUAL, QUORUM
from respkv.replication.rounds import WRITTEN
from respkv.resp import errors
from respkv.resp.reply import BULK_HEADS, error
from respkv.storage.batch_scale import SPLIT_ENTRIES
from respkv.storage.write_batch import pack_lengths

_ODD: Final = object()
_FLUSHES: Final = frozenset({"flushall", "flushdb"})
_WAITS: Final = frozenset({"wait", "waitaof"})
_BETWEEN_DATABASES: Final = frozenset({"swapdb", "move", "copy"})
_NO_COPY: Final = error(b"ERR Copying to another database is not allowed in cluster mode")


class RingWork(Protocol):
    """What the dispatcher asks of the node's ring side beyond reads and writes."""

    def forward(self, session: Session, target: int, commands: list[list[bytes]], level: int) -> Pending:
        """Have another node execute a request, or several of which the last one's reply counts."""

    def flush(self, session: Session, dbs: list[int], level: int) -> Pending:
        """Raise the floors of stored databases on all members."""

    def wait(self, session: Session, spec: CommandSpec, argv: list[bytes]) -> Pending | bytes:
        """WAIT and WAITAOF."""

    def not_formed(self) -> bytes:
        """The error reply while there is no ring: it is being formed, or this node was refused for good."""

    def walk(self, session: Session, spec: CommandSpec, argv: list[bytes]) -> Pending | bytes:
        """SCAN, KEYS, DBSIZE and RANDOMKEY where this node has copies of some slots only."""


class RingDispatcher(Dispatcher):
    """The dispatcher of a ring member. ``coordinator`` and ``work`` are given once, before the first request."""

    __slots__ = ("coordinator", "work")

    coordinator: Coordinator
    work: RingWork

    def run_turns(self, turns: Iterable[Turn]) -> list[tuple[Any, Pending | None]]:  # HOT: quorum_pipeline
        """As ``Dispatcher.run_turns``. Sessions whose replies must wait have their ``round`` set."""
        keyspace, clock, server, coordinator = self.keyspace, self.keyspace.clock, self.server, self.coordinator
        node, ready, asks, ruled = clock.node, coordinator.ready, coordinator.asks, self.ruled
        now_us, until_us = server.now_us, server.now_us + CYCLE_US_MAX
        began_us = self._ended_us = self._clock_us()
        special: list[tuple[Any, Any]] = []
        self._general_us = reads = writes = unchecked = 0
        batch, left = keyspace.engine.batch, self.hot.left
        coordinator.begin_own()
        heads, pack_head, pack, crc, written = BULK_HEADS, pack_string_head, pack_lengths, crc_hqx, WRITTEN
        last, grown, db, logical, stale, over = clock.last, 0, 0, -1, True, False
        for turn in turns:
            if over or turn.session.closing:
                special.append((turn, None))
                continue
            session, parser, out = turn.session, turn.parser, turn.out
            session.last_us = now_us
            if session.db != logical and not stale:
                clock.last, stale = last, True
            fast = session.plain and self.plain
            level = session.level or coordinator.level
            direct = fast and self._direct and not session.readonly and level != ALL and session.under_way is None
            reads_before, writes_before, taken, pending, asked, mark = reads, writes, 0, None, False, reads + writes
            while requests := parser.take():
                waiting = iter(requests)
                taken += (size := len(requests))
                left = left - size if left > size else self._sample(requests, left - size)
                for argv in waiting:
                    if stale:
                        fast = session.plain and self.plain
                        level = session.level or coordinator.level
                        direct = fast and self._direct and not session.readonly and level != ALL
                        direct = direct and session.under_way is None
                        db = keyspace.stored[logical := session.db]
                        rows, old_rows = keyspace.cache.rows(db), keyspace.cache.old.get(db)
                        prefixes = keyspace.prefixes(db)
                        table, batch = keyspace.engine.memtable.table, keyspace.engine.batch
                        highest, last, stale = keyspace.floors.highest, clock.last, False
                    if direct and type(argv) is list:
                        size = len(argv)
                        key = argv[1] if size > 1 else None
                        if isinstance(key, bytes) and (ruled is None or not ruled(key)):
                            slot = crc(key, 0) & 16383 if 123 not in key else slot_of(key)
                            row = rows.get(key)
                            get = size == 2 and ready[slot] and (argv[0] == b"GET" or argv[0] == b"get")
                            if get and row is None:
                                row, rows, old_rows = self._warm(db, key)
                            plain = isinstance(row, bytes)
                            if get and plain:
                                if level == QUORUM and (ask := asks[slot]) is not None:
                                    ask.keys.append(prefixes[slot * 5 : slot * 5 + 5] + key)
                                    ask.stamps.append(row[1:11])  # type: ignore[index]
                                    ask.places.append((out, len(out), session.proto))
                                    asked = True
                                out.append(row[11:])  # type: ignore[index]
                                reads += 1
                                continue
                            if size == 3 and ready[slot] and (argv[0] == b"SET" or argv[0] == b"set"):
                                blind = plain or (row is None and not (old_rows and key in old_rows))
                                if blind and isinstance(argv[2], bytes):
                                    size = len(value := argv[2])
                                    head = heads[size] if size < 4096 else b"$%d\r\n" % size
                                    last += 1
                                    record = b"".join((pack_head(1, last, node), head, value, b"\r\n"))
                                    internal = prefixes[slot * 5 : slot * 5 + 5] + key
                                    if plain:
                                        rows[key] = record
                                        grown += len(record) - len(row)  # type: ignore[arg-type]
                                    else:
                                        old = table.get(internal)
                                        if old is not None and (old[0] != 1 or old[1:11] <= highest):
                                            keyspace.counts.replaced(internal, old, LIVE)
                                    table[internal] = record
                                    batch += (pack(len(record), len(internal)), internal, record)
                                    out.append(written)
                                    writes += 1
                                    continue
                    clock.last, stale = last, True
                    if grown:
                        keyspace.cache.grow(grown)
                        grown = 0
                    if reads + writes != mark:
                        session.fence, mark = coordinator.round(level), reads + writes
                    unchecked += 16
                    pending = self._general(turn, argv, requests, waiting, fast)
                    if batch and len(batch[-1]) >= LARGE_RECORD_BYTES:
                        server.relieve()
                    if pending is not None or session.closing:
                        pending = None if pending is _ODD else pending
                        break
                if pending is not None or session.closing or taken >= COMMANDS_PER_TURN:
                    break
            wrote = writes != writes_before
            if wrote or reads != reads_before:
                session.commands += reads - reads_before + writes - writes_before
                session.last_command, session.last_op = "set" if wrote else "get", coordinator.told[level][wrote]
                if asked or (wrote and level == QUORUM):
                    session.fence = waits = coordinator.round(QUORUM)
                    if wrote:
                        waits.outs.append(out)
                    if session.round is None:
                        session.round = waits
                    else:
                        join(session, waits)
            if isinstance(session.round, Flight):
                close(session)
            if pending is not None or session.closing or parser.error is not None or taken >= COMMANDS_PER_TURN:
                special.append((turn, pending))
            if batch and (len(batch[-1]) >= LARGE_RECORD_BYTES or len(batch) >= 3 * SPLIT_ENTRIES):
                if not stale:
                    clock.last, stale = last, True
                server.relieve()
            unchecked += taken
            if unchecked >= 256:
                unchecked, over = 0, self._clock_us() > until_us
        if not stale:
            clock.last = last
        self._end_turns(reads, writes, grown, began_us, left)
        return special

    def _general(self, turn: Turn, argv: Any, requests: list[Any], waiting: Any, fast: bool) -> Any:
        """One of ``requests`` that the fast path does not serve; those in ``waiting`` come after it.

        None: it has its reply, or a place for it. ``_ODD``: the parser takes over. A Pending: the connection waits for
        it, and the parser has got back what comes after it, or the request as well. The same when the session closes.
        """
        session, parser, out = turn.session, turn.parser, turn.out
        used = len(requests) - length_hint(waiting)
        if not parser.exact and not parser.check(argv, used - 1):
            return _ODD
        entry = self._quick.get(argv[0]) if fast and argv else None
        if entry is not None and not entry[1] <= len(argv) <= entry[2]:
            entry = None
        if session.under_way is not None:
            pending = obstacle(session, entry, argv)
            if pending is not None:
                parser.give_back([argv, *waiting], used - 1)
                return pending
        pending = None
        if entry is not None:
            reply: Any = self._run_quick(session, argv, entry, None)
        else:
            reply = self._run_checked(session, argv, parser, used - 1, None)
            if reply is _ODD:
                return _ODD
        if isinstance(reply, bytes):
            out.append(reply)
        elif reply is not None and not board(session, out, entry, argv, reply, self.coordinator.decided):
            pending = reply
        if pending is not None or session.closing:
            parser.give_back(list(waiting), used)
        return pending

    def _end_turns(self, reads: int, writes: int, grown: int, began_us: int, left: int) -> None:
        """The end of a sweep: what its fast path has counted; ``left``: requests before the next sample."""
        self.hot.left = left
        if grown:
            self.keyspace.cache.grow(grown)
        self.coordinator.end_own()
        self._count_fast(reads, writes, began_us)

    def _warm(self, db: int, key: bytes) -> tuple[Any, dict[bytes, Any], dict[bytes, Any] | None]:
        """The row of a key that a GET did not find among the young rows, and the rows as they are then: it is there.

        A row of None sends the GET the general way: the key is absent, or a block has to be read first.
        """
        cache, row = self.keyspace.cache, None
        try:
            row = self.keyspace.row(db, key)
        except (ReadMiss, CorruptionError):
            pass
        return row, cache.rows(db), cache.old.get(db)

    # -- one request -------------------------------------------------------------------------------

    def _admit(self, session: Session, argv: list[bytes]) -> bytes | Pending | None:
        if self.coordinator.placement is None and session.authenticated:
            spec = self.table.resolve(argv)
            if spec is not None and not spec.flags & Flag.LOADING and spec.fits(len(argv)):
                return self._reject(session, spec, self.work.not_formed())
        return super()._admit(session, argv)

    def _queue(self, session: Session, spec: CommandSpec, argv: list[bytes]) -> bytes:
        if spec.name in _BETWEEN_DATABASES:
            try:
                _check_databases(session, spec, argv)
            except CommandError as mistake:
                return self._reject(session, spec, mistake.reply)
        if session.cluster_face and spec.keys and (answer := face_obstacle(session, spec, argv)):
            return self._reject(session, spec, answer)
        return super()._queue(session, spec, argv)

    def _run_quick(
        self, session: Session, argv: list[bytes], entry: Quick, view: View | None
    ) -> bytes | Pending | None:
        """A data command of a plain session on a plain node."""
        stats, spec = entry[3], entry[4]
        started_us = self._clock_us()
        session.last_command = spec.name
        session.commands += 1
        try:
            reply = self._serve(session, spec, argv)
        except (CommandError, CorruptionError, ReadMiss) as reason:
            took_us = self._clock_us() - started_us
            self._general_us += took_us
            return self._call_failed(session, spec, argv, reason, took_us)
        took_us = self._clock_us() - started_us
        self._general_us += took_us
        stats.calls += 1
        stats.usec += took_us
        self.registry.commands_processed += 1
        if self.registry.latency_tracking:
            stats.histogram.record(took_us)
        if took_us >= self.server.slow_us and not spec.flags & Flag.SKIP_SLOWLOG:
            self.server.slow_command(session, argv, took_us)
        return reply

    def _run(self, session: Session, spec: CommandSpec, argv: list[bytes]) -> bytes | Pending | None:
        if spec.keys:
            if spec.form is not SESSION:
                return self._serve(session, spec, argv)
            if session.cluster_face and spec.group != "cluster" and (answer := face_obstacle(session, spec, argv)):
                raise CommandError(answer)
        elif spec.form is DATA:
            return self._serve(session, spec, argv)
        if spec.name == "exec":
            return execute(self, session, spec, argv)
        if spec.name == "watch":
            return watch(self, session, spec, argv)
        if session.watch_at and spec.name in ENDS_WATCHING:
            leave(self, session)
        if spec.name in _WAITS:
            return self.work.wait(session, spec, argv)
        if spec.form is WALK:
            if not (self.coordinator.everywhere or session.cluster_face):
                return self.work.walk(session, spec, argv)
            return self.walk_slots(session, spec, argv, slots_walked(session))
        return super()._run(session, spec, argv)

    def _serve(self, session: Session, spec: CommandSpec, argv: list[bytes]) -> bytes | Pending:
        """A data command: here, at another node, or with the reason why not."""
        coordinator = self.coordinator
        if coordinator.placement is None:
            raise CommandError(self.work.not_formed())
        if spec.name in _BETWEEN_DATABASES:
            _check_databases(session, spec, argv)
        level = level_of(session, spec, argv, coordinator)
        if spec.name in _FLUSHES:
            return self._flush(session, spec, argv, level)
        slots = key_slots(spec, argv, coordinator)
        if not slots:
            reply = super()._run(session, spec, argv)
            assert reply is not None
            return reply
        target, answer = route(session, spec, argv, slots, level, coordinator)
        if not target:
            if answer is NO_COMMON_OWNER and spec.name in CUT and not session.forwarded:
                return Spread(self, session, spec, argv, level).start()
            raise CommandError(answer)
        if target != coordinator.me:
            if level == EVENTUAL and len(slots) == 1 and spec.flags & Flag.READONLY and self._is_hot(spec, argv):
                target = coordinator.spread(slots[0]) or target
            return self.pass_on(session, target, [argv], level)
        make = Operation if spec.form is DATA else KeyedWalk
        operation = make(self, session, spec, argv, level)
        if level == QUORUM and coordinator.stand_ins.of:
            coordinator.tell_stand_ins(operation.told, slots, write=bool(spec.flags & Flag.WRITE))
        try:
            return operation.start()
        except CorruptionError:
            return self.elsewhere(session, spec, argv, level)

    def _is_hot(self, spec: CommandSpec, argv: list[bytes]) -> bool:
        """Whether a request's first key is among those asked for most. All replicas answer for such a key, in turn."""
        first = next((argv[at] for keyspec in spec.keys for at in keyspec.keys(argv)), b"")
        return self.hot.is_hot(first)

    def elsewhere(
        self, session: Session, spec: CommandSpec, argv: list[bytes], level: int
    ) -> Pending:
        """This node cannot read what it holds: have another replica of the keys carry the request out.

        CommandError when there is none, or when it came from another node, which then asks somebody else. Nobody is
        shown damage while there is a sound copy, and a damaged copy never counts for a quorum.
        """
        coordinator = self.coordinator
        coordinator.moved += 1
        slots = [] if session.forwarded else key_slots(spec, argv, coordinator)
        target = coordinator.substitute(slots, (coordinator.me,)) if slots else 0
        if not target:
            raise CommandError(errors.CORRUPT)
        return self.work.forward(session, target, [argv], level)

    def run_here(self, session: Session, spec: CommandSpec, argv: list[bytes]) -> bytes | Pending | None:
        """Run a command as a node without a ring would."""
        return super()._run(session, spec, argv)

    def pass_on(self, session: Session, target: int, commands: list[list[bytes]], level: int) -> Pending:
        """Have another node execute a request, or a whole transaction, once what the connection has asked before is
        through: that node may be told of it later than of this.

        What came from another node stays here: two nodes with different opinions of who is alive would play ping-pong.
        """
        if session.forwarded:
            raise CommandError(errors.TRY_AGAIN)
        spec = self.table.resolve(commands[-1])
        if spec is not None:
            write = len(commands) > 1 or bool(spec.flags & Flag.WRITE)
            session.last_op = self.coordinator.tell(spec.name, level, target, write=write)
        if session.fence is None or session.fence.settled:
            session.fence = None
            return self.work.forward(session, target, commands, level)
        pending = Pending()

        def go_on() -> None:
            try:
                self.work.forward(session, target, commands, level).hand_to(pending)
            except CommandError as reason:
                pending.complete(reason.reply)

        self.coordinator.after_open(go_on)
        return pending

    def walk_slots(
        self, session: Session, spec: CommandSpec, argv: list[bytes], slots: bytes | bytearray | None
    ) -> bytes | Pending:
        """A walk over slots of this node, whose byte is 1; None for all. May raise CommandError."""
        return self._walk(session, spec, argv, slots)

    def _flush(self, session: Session, spec: CommandSpec, argv: list[bytes], level: int) -> Pending:
        assert spec.handler is not None
        keyspace = self.keyspace
        view = View(keyspace, keyspace.stored[session.db], self.server.rng, self.limit_bytes)
        _, effects = spec.handler(argv, view)
        session.last_op = self.coordinator.tell(spec.name, level, self.coordinator.me, write=True)
        return self.work.flush(session, [effect[1] for effect in effects], level)

    def error_of(self, reason: Exception) -> bytes:
        """The error reply for what a command raised."""
        return self._error_of(reason)


def _check_databases(session: Session, spec: CommandSpec, argv: list[bytes]) -> None:
    """Members number databases alike for good, and the cluster face has but one. Raises CommandError."""
    if session.cluster_face and spec.name != "copy":
        raise CommandError(error(b"ERR %b is not allowed in cluster mode" % spec.name.upper().encode()))
    if spec.name == "swapdb":
        databases_swapped(argv, session.server.keyspace.databases)
        raise CommandError(errors.NOT_ON_A_RING)
    if session.cluster_face:
        words = [word.upper() for word in argv[3:]]
        at = words.index(b"DB") + 1 if b"DB" in words else len(words)
        if at < len(words) and words[at].isdigit() and int(words[at]):
            raise CommandError(_NO_COPY)
