"""Operations: one request of the general path on a ring, from the first look to the last ack.

The handler runs on this node's own records and notes what it looks at (``keyspace/read_set``). What it noted is
compared with R - 1 other replicas; when something newer was found there it is here by then, and the handler runs again.
A request that writes always runs again after the comparison, on whatever is here then, and applies its effects in the
same breath: two requests of this node can never work on the same old value. Its effects go out with the cycle's writes,
and the reply waits for W acks.

A handler may be run any number of times, its effects are applied once. Everything that is compared stays compared: only
what a later run looks at for the first time is asked about again, so it ends.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from respkv.base.errors import CommandError, CorruptionError, ReadMiss
from respkv.commands.notifications import apply_and_tell
from respkv.commands.routing import NOT_SERVED
from respkv.commands.session import Pending, Session
from respkv.commands.spec import CommandSpec, Flag
from respkv.commands.transactions import end_multi
from respkv.keyspace import effects as fx
from respkv.keyspace.everything import EVERYTHING
from respkv.keyspace.read_set import ReadSet
from respkv.keyspace.rows import HashRow
from respkv.keyspace.view import View
from respkv.replication.levels import EVENTUAL
from respkv.resp import errors
from respkv.resp.reply import encode

if TYPE_CHECKING:
    from respkv.commands.ring_dispatch import RingDispatcher


#: The reply of a ``KeyedWalk`` that may begin its walk.
_LOOKED: Final = b"".join((b"looked", b""))

Run = Callable[[], tuple[Any, fx.Effects]]


class Operation:
    """Implements ``replication.rounds.Reader``."""

    __slots__ = (
        "_applied", "_compared", "_context", "_over", "_ranges", "_reply", "argv", "changed", "dispatcher", "level",
        "pending", "session", "spec", "told", "until_us", "waiting",
    )  # fmt: skip

    def __init__(
        self, dispatcher: RingDispatcher, session: Session, spec: CommandSpec, argv: list[bytes], level: int
    ) -> None:
        self.dispatcher = dispatcher
        self.session = session
        self.spec = spec
        self.argv = argv
        self.level = level
        #: what RKV.LASTOP tells; the connection may be at its next request by now
        self.told = session.last_op = dispatcher.coordinator.tell(
            spec.name, level, dispatcher.coordinator.me, write=bool(spec.flags & Flag.WRITE) or self._is_transaction()
        )
        self.waiting = 0
        self.changed = False
        #: what it has brought along; its session may be at another request of another node's client later
        self._context = session.context()
        #: who asked for it gives up then
        self.until_us = session.until_us
        self.pending: Pending | None = None
        self._compared: dict[bytes, None] = {}
        #: first key of each range that was compared -> whether with as many replicas as hold it for sure
        self._ranges: dict[bytes, bool] = {}
        self._reply: bytes | None = None
        self._over = False
        self._applied = False

    def start(self) -> bytes | Pending:
        """The reply, or the promise of one. May raise ReadMiss, CommandError and CorruptionError: nothing has begun."""
        try:
            reply = self._attempt()
        except ReadMiss as miss:
            if not self.waiting:
                raise
            # Others have been asked already, and will tell this operation: it is this one that goes on.
            self.changed, reply = True, None
            self.dispatcher.fetch([miss.request], self.resume)
        except CorruptionError:
            self._over = True
            raise
        if reply is not None:
            return reply
        if self.pending is None:  # Else it has failed meanwhile, and the reply is in it.
            self.pending = Pending()
        return self.pending

    # -- Reader ------------------------------------------------------------------------------------

    def resume(self) -> None:
        """Everything noted so far has been compared. After the effects are applied it comes to nothing."""
        if self._over or self._applied:
            return
        if self.waiting:
            self.changed = True  # A block came before the last answer: that answer runs it again.
            return
        if self._reply is not None and not self.changed:
            self._complete(self._reply)
            return
        if self.changed:
            self.told["newer-found"] = 1
        self.changed = False
        try:
            reply = self._attempt()
        except ReadMiss as miss:
            self.changed = True
            self.dispatcher.fetch([miss.request], self.resume)
            return
        except CorruptionError:
            self._move()
            return
        except CommandError as reason:
            reply = self.dispatcher.error_of(reason)
        if reply is not None:
            self._complete(reply)

    def fail(self, reply: bytes) -> None:
        """The comparison cannot be made: nothing was changed."""
        if reply is errors.CORRUPT:
            self._move()
        elif reply is errors.NO_REPLICAS and self.session.cluster_face:
            self._complete(NOT_SERVED)
        else:
            self._complete(reply)

    def _move(self) -> None:
        """What this node holds is damaged, and nothing was changed: another replica carries it out."""
        if self._over or self._applied:
            return
        try:
            inner = self.dispatcher.elsewhere(self.session, self.spec, self.argv, self.level)
        except CommandError as reason:
            self._complete(reason.reply)
            return
        self._over = True
        pending = self.pending = self.pending or Pending()

        def done() -> None:
            assert inner.reply is not None
            pending.complete(inner.reply)

        inner.on_done = done
        if inner.reply is not None:
            done()

    def _complete(self, reply: bytes) -> None:
        if not self._over:
            self._over = True
            if self.pending is None:
                # It failed before ``start`` returned.
                self.pending = Pending()
            self.pending.complete(reply)

    # -- running -----------------------------------------------------------------------------------

    def _attempt(self) -> bytes | None:
        """Run the handler; the reply when it may be given, None while something is awaited."""
        self.session.resume(self._context)
        dispatcher, coordinator = self.dispatcher, self.dispatcher.coordinator
        noted = ReadSet(dispatcher.keyspace) if coordinator.quorums.reads[self.level] > 1 else None
        mistake: bytes | None = None
        effects: fx.Effects = fx.NONE
        view, run = self._prepare(noted)
        try:
            reply, effects = run()
        except CommandError as reason:
            # It may be a mistake only by what is here: WRONGTYPE of a key that has another type by now.
            mistake = reply = reason.reply
        if noted is not None:
            noted.note_emptied(effects)
            if dispatcher.keyspace.conflicts is not None:
                noted.note_superseded(effects)
        if noted is not None and self._compare(noted):
            writes = bool(effects) or self._is_transaction()
            self._reply = None if writes else mistake or encode(reply, self.session.proto)
            return None
        if mistake is not None:
            return mistake
        if self.until_us and self.session.server.clock.steady_us() >= self.until_us:
            return self._too_late()
        applier = dispatcher.applier
        if coordinator.is_sure(self.level):
            compared = {prefix for prefix, enough in self._ranges.items() if enough}
            # Who need not ask anybody knows everything: a write waits for all replicas.
            applier.compared = EVERYTHING if noted is None else compared
        try:
            return self._finish(reply, effects, view)
        finally:
            applier.compared = ()

    def _too_late(self) -> bytes:
        """Comparing has taken too long; nothing was changed."""
        return errors.TRY_AGAIN

    def _prepare(self, noted: ReadSet | None) -> tuple[View | None, Run]:
        dispatcher, session = self.dispatcher, self.session
        keyspace = dispatcher.keyspace
        view = View(keyspace, keyspace.stored[session.db], session.server.rng, dispatcher.limit_bytes)
        view.touching, view.counting = not session.no_touch or self.spec.name == "touch", self.spec.counts
        view.noted = noted
        handler = self.spec.handler
        assert handler is not None
        return view, lambda: handler(self.argv, view)

    def _is_transaction(self) -> bool:
        return False

    def _compare(self, noted: ReadSet) -> bool:
        """Ask about what was not compared yet; True when there is something to wait for."""
        coordinator, now_us = self.dispatcher.coordinator, self.session.server.now_us
        fresh = [(internal, stamp) for internal, stamp in noted.keys.items() if internal not in self._compared]
        ranges = [(start, end) for start, end in noted.ranges.items() if start not in self._ranges]
        self.told["compared"] += len(fresh) + len(ranges)
        self.waiting += 1  # Nothing is over while asking goes on.
        try:
            for start, end in ranges:
                self._ranges[start] = coordinator.ask_range(self, start, end, self.level, now_us)
            for internal, stamp in fresh:
                coordinator.ask(self, internal, stamp, self.level)
                self._compared[internal] = None
        finally:
            self.waiting -= 1
        return self.waiting > 0 or self._over

    def _finish(self, reply: Any, effects: fx.Effects, view: View | None) -> bytes | None:
        """Apply the effects; the reply if it need not wait for acks. May raise ReadMiss, then nothing has changed."""
        dispatcher, session = self.dispatcher, self.session
        assert view is not None
        if effects:
            opened = dispatcher.coordinator.begin_own()
            try:
                if session.server.pubsub.events:
                    apply_and_tell(self.spec, self.argv, effects, view, dispatcher.applier, session.server.pubsub)
                else:
                    dispatcher.applier.apply(effects)
            finally:
                if opened:
                    dispatcher.coordinator.end_own()
        elif session.server.pubsub.events:
            apply_and_tell(self.spec, self.argv, effects, view, dispatcher.applier, session.server.pubsub)
        return self._after_write(encode(reply, session.proto), wrote=bool(effects))

    def _after_write(self, reply: bytes, *, wrote: bool) -> bytes | None:
        coordinator = self.dispatcher.coordinator
        self._applied = wrote
        if not wrote or self.level == EVENTUAL or coordinator.quorums.writes[self.level] <= 1:
            return reply

        def written(met: bool) -> None:
            self._complete(reply if met else errors.OUTCOME_UNKNOWN)

        coordinator.round(self.level).after.append(written)
        return None


class KeyedWalk(Operation):
    """HSCAN, HRANDFIELD: the hash is compared as a whole, then walked here, in portions beside other requests."""

    __slots__ = ()

    def start(self) -> bytes | Pending:
        """As in ``Operation``."""
        reply = super().start()
        return self._walk() if reply is _LOOKED else reply

    def _prepare(self, noted: ReadSet | None) -> tuple[View | None, Run]:
        view, _ = super()._prepare(noted)
        assert view is not None

        def look() -> tuple[bytes, fx.Effects]:
            fields = view.hash(self.argv[1])
            if fields is not None:
                fields.count()
                fields.items_after(None, 1)
            return _LOOKED, fx.NONE

        return view, look

    def _finish(self, reply: Any, effects: fx.Effects, view: View | None) -> bytes | None:
        return _LOOKED

    def _complete(self, reply: bytes) -> None:
        if reply is not _LOOKED or self._over:
            super()._complete(reply)
            return
        walked = self._walk()
        if isinstance(walked, Pending):
            walked.on_done = lambda: super(KeyedWalk, self)._complete(self._bytes(walked))
        else:
            super()._complete(walked)

    def _walk(self) -> bytes | Pending:
        walked = self.dispatcher.walk_slots(self.session, self.spec, self.argv, None)
        done = isinstance(walked, Pending) and walked.reply is not None
        return self._bytes(walked) if done else walked  # type: ignore[arg-type]

    def _bytes(self, walked: Pending) -> bytes:
        return encode(walked.reply or b"", self.session.proto)


class Transaction(Operation):
    """EXEC: rehearsed until all that it reads has been compared, then run in one breath."""

    __slots__ = ()

    def _is_transaction(self) -> bool:
        return True

    def _too_late(self) -> bytes:
        if self.session.multi is not None:
            end_multi(self.session)
        return super()._too_late()

    def _complete(self, reply: bytes) -> None:
        if self.session.multi is not None:
            end_multi(self.session)  # It came to nothing.
        super()._complete(reply)

    def _prepare(self, noted: ReadSet | None) -> tuple[View | None, Run]:
        runner = self.session.server.transactions
        session = self.session

        def rehearse() -> tuple[bytes, fx.Effects]:
            if noted is not None:
                self._note_watched(noted)
            if session.multi is not None and not session.multi_error and not session.watch_broken:
                runner.rehearse(session, noted)
            return b"", fx.NONE

        return None, rehearse

    def _note_watched(self, noted: ReadSet) -> None:
        """What another replica knows of a watched key comes here before EXEC, and breaks the watch."""
        keyspace = self.dispatcher.keyspace
        for db, key in self.session.watched:
            row = keyspace.row(db, key)
            noted.note(db, key, row)
            if type(row) is HashRow:
                noted.hash_view(db, key, row).items_after(None, 1)

    def _finish(self, reply: Any, effects: fx.Effects, view: View | None) -> bytes | None:
        dispatcher, session = self.dispatcher, self.session
        handler = self.spec.handler
        assert handler is not None
        engine = dispatcher.keyspace.engine
        opened = dispatcher.coordinator.begin_own()
        before = len(engine.batch)
        try:
            answer = handler(self.argv, session)
        finally:
            wrote = len(engine.batch) != before
            if opened:
                dispatcher.coordinator.end_own()
        return self._after_write(encode(answer, session.proto), wrote=wrote)
