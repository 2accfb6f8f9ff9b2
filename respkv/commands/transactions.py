"""MULTI, EXEC, DISCARD, WATCH, UNWATCH.

A transaction runs at EXEC, in one cycle, over an ``OverlayView`` that shows each command the effects of those
before it; all effects are applied together at its end and logged in one record: all or nothing, also through a
crash. Blocks that are not in memory are found out by a rehearsal whose results are thrown away, so that nothing
is half done when one is missing.

WATCH registers the key; whatever changes it (any client, expiry, a flush) marks the watching sessions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeVar

from respkv.base.errors import BlockRequest, CommandError, CorruptionError, ReadMiss
from respkv.commands.notifications import events_of, expire_sighted
from respkv.commands.ring import slots_walked
from respkv.commands.session import Session
from respkv.commands.spec import (
    FAST,
    LOADING,
    NOSCRIPT,
    STALE,
    Arg,
    ArgType,
    CommandSpec,
    Flag,
    Form,
    KeySpec,
)
from respkv.commands.table import CommandTable
from respkv.keyspace import effects as fx
from respkv.keyspace.apply import Applier
from respkv.keyspace.keyspace import Keyspace
from respkv.keyspace.read_set import ReadSet
from respkv.keyspace.view import OverlayView, View
from respkv.resp import errors
from respkv.resp.errors import fail
from respkv.resp.reply import NULL, NULL_ARRAY, OK, Reply, array, encode

T = TypeVar("T")


class Watches:
    """Who watches which key. ``touched`` is handed to the keyspace."""

    __slots__ = ("_by_key", "_keyspace", "on_change")

    def __init__(self, keyspace: Keyspace, on_change: Callable[[], None]) -> None:
        self._by_key: dict[tuple[int, bytes], dict[int, Session]] = {}
        self._keyspace = keyspace
        #: called when watching begins or ends altogether
        self.on_change = on_change
        keyspace.touched = self.touched
        keyspace.swapped = self.swapped

    def watch(self, session: Session, key: bytes) -> None:
        """``session`` wants to know of changes of ``key`` in its database."""
        place = (self._keyspace.stored[session.db], key)
        if place in session.watched:
            return
        session.watched[place] = None
        self._by_key.setdefault(place, {})[session.id] = session
        self._switch()

    def unwatch(self, session: Session) -> None:
        """Forget all watched keys of ``session``."""
        for place in session.watched:
            watchers = self._by_key.get(place)
            if watchers is not None:
                watchers.pop(session.id, None)
                if not watchers:
                    del self._by_key[place]
        session.watched.clear()
        session.watch_broken = False
        self._switch()

    def touched(self, db: int, key: bytes | None) -> None:
        """A key changed, or (None) is about to: everything that exists in a stored database."""
        if key is not None:
            for session in self._by_key.get((db, key), {}).values():
                session.watch_broken = True
            return
        for place, watchers in self._by_key.items():
            if place[0] == db and self._exists(db, place[1]):
                for session in watchers.values():
                    session.watch_broken = True

    def swapped(self, left: int, right: int) -> None:
        """Two stored databases are about to change places: a watched key that is in either one changes.

        The watches of the others go with their logical database.
        """
        if left == right:
            return
        places = {left: right, right: left}
        moved = {place: self._by_key.pop(place) for place in list(self._by_key) if place[0] in places}
        for (db, key), watchers in moved.items():
            changed = self._exists(left, key) or self._exists(right, key)
            self._by_key[places[db], key] = watchers
            for session in watchers.values():
                session.watch_broken |= changed
        for session in {session.id: session for watchers in moved.values() for session in watchers.values()}.values():
            session.watched = {(places.get(db, db), key): None for db, key in session.watched}

    def _exists(self, db: int, key: bytes) -> bool:
        try:
            return self._keyspace.row(db, key) is not None
        except ReadMiss:
            return True  # To abort is always allowed.

    def expired(self, session: Session) -> bool:
        """True when the time of a watched key has come since."""
        return any(_expired(self._keyspace, db, key) for db, key in session.watched)

    def keys(self) -> int:
        """Keys that are watched."""
        return len(self._by_key)

    def _switch(self) -> None:
        watching = bool(self._by_key)
        if watching != self._keyspace.watching:
            self._keyspace.watching = watching
            self.on_change()


def _expired(keyspace: Keyspace, db: int, key: bytes) -> bool:
    row = keyspace.cache.peek(db, key)
    expire_at_ms = 0 if row is None or type(row) is bytes else row.expire_at_ms
    return 0 < expire_at_ms <= keyspace.now_ms


def multi(argv: list[bytes], session: Session) -> Reply:
    """MULTI: queue what follows."""
    if session.multi is not None:
        raise fail(errors.NESTED_MULTI)
    session.multi = []
    session.multi_error = False
    session.multi_bytes = 0
    session.recompute_plain()
    return OK


def end_multi(session: Session) -> None:
    """Leave MULTI and forget the watched keys."""
    session.multi = None
    session.multi_error = False
    session.multi_bytes = 0
    session.server.watches.unwatch(session)
    session.recompute_plain()


def discard(argv: list[bytes], session: Session) -> Reply:
    """DISCARD: throw the queue away."""
    if session.multi is None:
        raise fail(errors.DISCARD_WITHOUT_MULTI)
    end_multi(session)
    return OK


def watch(argv: list[bytes], session: Session) -> Reply:
    """WATCH key ...: EXEC answers null if one of them changes before it."""
    if session.multi is not None:
        raise fail(errors.WATCH_IN_MULTI)
    keyspace = session.server.keyspace
    db = keyspace.stored[session.db]
    for key in argv[1:]:
        # To look it up brings its expiry into the cache. What has expired goes before it is watched: when it went
        # later, that would look like a change.
        if keyspace.row(db, key) is None and keyspace.engine.refusal() is None:
            session.server.transactions.applier.expire_now(keyspace.internal(db, key))
        session.server.watches.watch(session, key)
    return OK


def unwatch(argv: list[bytes], session: Session) -> Reply:
    """UNWATCH"""
    session.server.watches.unwatch(session)
    return OK


@dataclass(slots=True)
class _Run:
    """How far a transaction has come: what its next command sees, and effects that are not applied yet."""

    view: OverlayView
    effects: list[fx.Effect]


@dataclass(slots=True)
class Runner:
    """Runs queued requests. ``limit_bytes`` is proto-max-bulk-len."""

    table: CommandTable
    keyspace: Keyspace
    applier: Applier
    limit_bytes: int

    def rehearse(self, session: Session, noted: ReadSet | None = None) -> None:
        """Run the data commands of the queue and throw the results away; raises ReadMiss for a missing block.

        ``noted`` takes what they look at.
        """
        db = session.db
        view = self._view(db, session)
        view.noted = noted
        wanted = session.server.pubsub.events
        effects: list[fx.Effect] = []
        for argv in session.multi or ():
            spec = self.table.resolve(argv)
            assert spec is not None and spec.handler is not None, "checked when it was queued"
            if spec.name == "select":
                db = self._selected(session, db, argv)
                view = self._view(db, session, view)
                view.noted = noted
            elif spec.form is not Form.SESSION:
                try:
                    _, done = run_data(spec, argv, view)
                except CommandError:
                    continue
                if wanted:
                    events_of(spec, argv, done, view, wanted)  # sights the keys that are overwritten unread
                view.absorb(done)
                effects.extend(done)
                if spec.name == "swapdb":
                    view = self._view(db, session, view)
        self.applier.prepare(effects)
        if noted is not None:
            noted.note_emptied(effects)
            if self.keyspace.conflicts is not None:
                noted.note_superseded(effects)

    def run(self, session: Session) -> tuple[list[Reply], list[fx.Effect]]:
        """Run the queue; finished replies as they go into EXEC's array, and the effects that are not applied yet.

        The rehearsal has brought every block that is needed; one that was evicted since is read in place. Events
        go out with the command they tell of, so that they keep their places among queued PUBLISHes. Each command
        counts, and is shown to MONITOR and the slow log, as if it had come alone.
        """
        run = _Run(self._view(session.db, session), [])
        clock = session.server.clock
        replies: list[Reply] = []
        for argv in session.multi or ():
            spec = self.table.resolve(argv)
            assert spec is not None and spec.handler is not None, "checked when it was queued"
            started_us = clock.monotonic_us()
            try:
                reply = self._command(session, spec, argv, run)
            except CommandError as mistake:
                reply = mistake.reply
            _account(session, spec, argv, reply, clock.monotonic_us() - started_us)
            # At once: a later HELLO changes the protocol for what comes after it.
            replies.append(encode(NULL if reply is None else reply, session.proto))
        return replies, run.effects

    def _command(self, session: Session, spec: CommandSpec, argv: list[bytes], run: _Run) -> Reply | None:
        """One command of the queue. Raises CommandError."""
        assert spec.handler is not None
        if spec.form is Form.SESSION:
            answer: Reply | None = spec.handler(argv, session)
            if spec.name == "select":
                run.view = self._view(session.db, session, run.view)
            return answer
        if spec.form is Form.WALK and run.effects:
            # A walk goes over the keyspace itself: what the transaction has done so far must be there.
            # It is the same cycle and the same log record, so it stays all or nothing.
            _insist(partial(self.applier.apply, run.effects))
            run.effects = []
            run.view = self._view(session.db, session)
        reply, done = _insist(partial(run_data, spec, argv, run.view))
        if wanted := session.server.pubsub.events:
            for event in _insist(partial(events_of, spec, argv, done, run.view, wanted)):
                session.server.pubsub.notify(*event)
        run.view.absorb(done)
        run.effects.extend(done)
        if spec.name == "swapdb":
            run.view = self._view(session.db, session, run.view)
        return reply

    def _view(self, db: int, session: Session, before: OverlayView | None = None) -> OverlayView:
        pending = before.pending if before is not None else None
        number = self.keyspace.stored[db] if pending is None else pending.stored_number(self.keyspace, db)
        view = OverlayView(self.keyspace, number, session.server.rng, self.limit_bytes, pending)
        view.slots = slots_walked(session)
        return view

    def _selected(self, session: Session, db: int, argv: list[bytes]) -> int:
        """The database after a SELECT, which may be mistaken, and is on the cluster face."""
        if session.cluster_face:
            return db
        number = int(argv[1]) if argv[1].isdigit() and len(argv[1]) < 10 else -1
        return number if 0 <= number < self.keyspace.databases else db


def _account(session: Session, spec: CommandSpec, argv: list[bytes], reply: Reply | None, took_us: int) -> None:
    """Note that a command of a transaction ran: figures, slow log, MONITOR."""
    server, flags = session.server, spec.flags
    failed = isinstance(reply, bytes) and reply.startswith(b"-")
    server.metrics.count_call(spec.name, took_us, reply if failed else None)  # type: ignore[arg-type]
    if took_us >= server.slow_us and not flags & Flag.SKIP_SLOWLOG:
        server.slow_command(session, argv, took_us)
    if server.monitors and not flags & (Flag.SKIP_MONITOR | Flag.ADMIN):
        server.feed_monitors(session, argv)


def _insist(action: Callable[[], T]) -> T:
    """What ``action`` returns, with blocks that are missing read in place: there is no way back any more."""
    while True:
        try:
            return action()
        except ReadMiss as miss:
            miss.request.install(miss.request.read())


def run_data(spec: CommandSpec, argv: list[bytes], view: View) -> tuple[Reply, fx.Effects]:
    """Run a data handler, or a walk from start to end without suspending it. May raise ReadMiss."""
    assert spec.handler is not None
    view.counting = spec.counts
    if spec.form is Form.DATA:
        done: tuple[Reply, fx.Effects] = spec.handler(argv, view)
        return done
    walk = spec.handler(argv, view)
    while True:
        try:
            request: BlockRequest | None = next(walk)
        except StopIteration as end:
            result: tuple[Reply, fx.Effects] = end.value
            return result
        if request is not None:
            raise ReadMiss(request)


def execute(runner: Runner, session: Session) -> bytes:
    """EXEC. May raise ReadMiss before anything has happened."""
    if session.multi is None:
        raise fail(errors.EXEC_WITHOUT_MULTI)
    if session.multi_error:
        end_multi(session)
        raise fail(errors.EXEC_ABORT)
    if session.watch_broken or session.server.watches.expired(session):
        end_multi(session)
        return encode(NULL_ARRAY, session.proto)
    keyspace = runner.keyspace
    hits, misses = keyspace.hits, keyspace.misses
    try:
        try:
            runner.rehearse(session)
        finally:
            # What the rehearsal looked up is counted when it is looked up in earnest.
            keyspace.hits, keyspace.misses = hits, misses
        if session.server.pubsub.events:
            expire_sighted(runner.applier)
        replies, effects = runner.run(session)
    except (CommandError, CorruptionError):
        end_multi(session)  # Its effects are dropped; the client is told why.
        raise
    end_multi(session)
    if effects:
        _insist(partial(runner.applier.apply, effects))
    return encode(array(replies), session.proto)


def exec_command(argv: list[bytes], session: Session) -> Reply:
    """EXEC: run the queue."""
    return execute(session.server.transactions, session)


_TRANSACTION: Final = NOSCRIPT | LOADING | STALE | FAST | Flag.ALLOW_BUSY
_ACL: Final = ("fast", "transaction")

COMMANDS: Final = (
    CommandSpec(
        "multi", multi, 1, _TRANSACTION, acl=_ACL, form=Form.SESSION, group="transactions", since="1.2.0",
        complexity="O(1)", summary="Starts a transaction.",
    ),
    CommandSpec(
        "exec", exec_command, 1, NOSCRIPT | LOADING | STALE | Flag.BARRIER | Flag.SKIP_SLOWLOG,
        acl=("slow", "transaction"), form=Form.SESSION, group="transactions", since="1.2.0",
        complexity="Depends on commands in the transaction",
        summary="Executes all commands in a transaction.",
    ),
    CommandSpec(
        "discard", discard, 1, _TRANSACTION, acl=_ACL, form=Form.SESSION, group="transactions", since="2.0.0",
        complexity="O(N), when N is the number of queued commands", summary="Discards a transaction.",
    ),
    CommandSpec(
        "watch", watch, -2, _TRANSACTION, (KeySpec(1, -1, 1, flags=("RO",)),), _ACL, Form.SESSION,
        group="transactions", since="2.2.0", complexity="O(1) for every key.",
        summary="Monitors changes to keys to determine the execution of a transaction.",
        args=(Arg("key", ArgType.KEY, flags=("multiple",), key_spec=0),),
    ),
    CommandSpec(
        "unwatch", unwatch, 1, _TRANSACTION, acl=_ACL, form=Form.SESSION, group="transactions", since="2.2.0",
        complexity="O(1)", summary="Forgets about watched keys of a transaction.",
    ),
)  # fmt: skip
