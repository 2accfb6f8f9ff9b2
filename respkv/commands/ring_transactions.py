"""Transactions on a ring: requests are queued where the client is; keys are watched, and EXEC runs, where the keys are.

EXEC runs at the acting primary of its first key, which carries out what reads before it writes for everybody, so that
no increment of a transaction is lost to another node's. WATCH registers its keys there too, and the node that watches
runs EXEC; whatever changes a key, by whichever node, reaches its replicas and breaks the watch. That node must hold all
keys of the transaction. The queue goes to it as one message, and it executes it in the session that it keeps for the
connection. When the link to it ends, nobody knows what it has missed: EXEC answers null (to abort is always allowed).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from respkv.base.errors import CommandError, CorruptionError
from respkv.commands.ring_operation import Transaction
from respkv.commands.routing import CLUSTER_DOWN, NO_COMMON_OWNER, NOT_SERVED, key_slots, level_of, misplaced
from respkv.commands.session import Pending, Session
from respkv.commands.spec import CommandSpec, Form
from respkv.commands.transactions import end_multi
from respkv.replication.levels import QUORUM
from respkv.resp import errors
from respkv.resp.reply import error

if TYPE_CHECKING:
    from respkv.commands.ring_dispatch import RingDispatcher

#: After these nothing is watched any more.
ENDS_WATCHING: Final = frozenset({"unwatch", "discard", "reset"})
#: Commands about a connection rather than about keys that another node may carry out in a transaction all the same.
_ANYWHERE: Final = frozenset({"ping", "echo", "publish", "spublish"})


def watch(dispatcher: RingDispatcher, session: Session, spec: CommandSpec, argv: list[bytes]) -> bytes | Pending | None:
    """WATCH: register the keys at the node that will run EXEC."""
    coordinator = dispatcher.coordinator
    if session.forwarded or session.multi is not None or coordinator.placement is None:
        return dispatcher.run_here(session, spec, argv)
    slots = key_slots(spec, argv, coordinator)
    if answer := misplaced(session, slots):
        raise CommandError(answer)
    before = session.watch_at
    target = _target(dispatcher, session, slots)
    session.watch_at = target
    if target == coordinator.me:
        return dispatcher.run_here(session, spec, argv)
    try:
        pending = dispatcher.pass_on(session, target, [argv], level_of(session, spec, argv, coordinator))
    except CommandError:
        session.watch_at = before
        raise
    told = Pending()

    def answered() -> None:
        reply = pending.reply
        if isinstance(reply, bytes) and reply.startswith(b"-"):
            session.watch_at = before
        told.complete(reply or b"")

    pending.on_done = answered
    return told


def leave(dispatcher: RingDispatcher, session: Session) -> None:
    """Nothing is watched any more: the node that did so may forget it. Its answer is not waited for."""
    target, session.watch_at = session.watch_at, 0
    if target not in (0, dispatcher.coordinator.me):
        try:
            dispatcher.pass_on(session, target, [[b"UNWATCH"]], session.level)
        except CommandError:
            pass  # The link has ended, and what was watched over it was forgotten with it.


def execute(
    dispatcher: RingDispatcher, session: Session, spec: CommandSpec, argv: list[bytes]
) -> bytes | Pending | None:
    """EXEC. Before the ring is formed nothing that needs it can have been queued."""
    coordinator = dispatcher.coordinator
    queue = session.multi
    if queue is None or session.multi_error or session.watch_broken or coordinator.placement is None:
        leave(dispatcher, session)
        return dispatcher.run_here(session, spec, argv)
    try:
        level, slots = _queued(dispatcher, session, queue)
        target = _target(dispatcher, session, slots)
        local = [found for found in map(dispatcher.table.resolve, queue) if found is not None and _is_local(found)]
        if local and target != coordinator.me:
            if session.watch_at or not all(coordinator.mine[slot] for slot in slots):
                raise CommandError(_not_there(local[0]))
            target = coordinator.me
        if target == coordinator.me:
            if not all(coordinator.reaches(slot, level, write=True) for slot in slots):
                raise CommandError(NOT_SERVED if session.cluster_face else errors.NO_REPLICAS)
            session.watch_at = 0
            transaction = Transaction(dispatcher, session, spec, argv, level)
            if level == QUORUM and coordinator.stand_ins.of:
                coordinator.tell_stand_ins(transaction.told, slots, write=True)
            reply = transaction.start()
            if reply.__class__ is bytes and session.multi is not None:
                end_multi(session)  # Its rehearsal was refused.
            return reply
        pending = dispatcher.pass_on(session, target, [[b"MULTI"], *queue, argv], level)
    except (CommandError, CorruptionError):
        leave(dispatcher, session)
        end_multi(session)
        raise
    session.watch_at = 0
    end_multi(session)
    return pending


def _target(dispatcher: RingDispatcher, session: Session, slots: list[int]) -> int:
    """The node that watches for a session, else the acting primary; it has copies of all ``slots``. CommandError."""
    coordinator = dispatcher.coordinator
    placement = coordinator.placement
    assert placement is not None
    if session.forwarded or not slots:
        target = session.watch_at or coordinator.me
    else:
        target = session.watch_at or coordinator.substitute(slots, ())
    if not target or not all(target in placement.table[slot] for slot in slots):
        raise CommandError(NO_COMMON_OWNER if all(map(coordinator.primary, slots)) else CLUSTER_DOWN)
    return target


def _queued(dispatcher: RingDispatcher, session: Session, queue: list[list[bytes]]) -> tuple[int, list[int]]:
    """The highest level of the queued requests that name keys, and the slots of those. CommandError: a slot of another
    node on the cluster face."""
    coordinator = dispatcher.coordinator
    levels, slots = [], {}
    for argv in queue:
        spec = dispatcher.table.resolve(argv)
        if spec is not None and spec.keys:
            levels.append(level_of(session, spec, argv, coordinator))
            slots.update(dict.fromkeys(key_slots(spec, argv, coordinator)))
    found = list(slots)
    if answer := misplaced(session, found):
        raise CommandError(answer)
    return max(levels, default=session.level or coordinator.level), found


def _is_local(spec: CommandSpec) -> bool:
    return spec.form is Form.SESSION and spec.name not in _ANYWHERE


def _not_there(spec: CommandSpec) -> bytes:
    name = spec.name.upper().replace("|", " ").encode()
    return error(b"ERR %b cannot be part of a transaction that another node carries out; nothing was changed" % name)
