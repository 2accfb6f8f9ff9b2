"""Requests whose keys have no owner in common: cut into one request for each owner, their answers made into one.

On a ring with more members than copies the keys of MGET, MSET, DEL, UNLINK, EXISTS and TOUCH may lie so far apart that
no live node has all of them. Each part is then executed where its keys are, at the request's level, and the answer is
given when all parts are through. Each part is atomic, the whole is not (DESIGN 7). Whatever cannot be cut is refused.

A request that writes fails as a whole only if every part of it has failed without a change; else some of it may have
been applied, and its outcome is unknown.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from respkv.base.errors import CommandError, CorruptionError
from respkv.commands.ring_operation import Operation
from respkv.commands.routing import CLUSTER_DOWN
from respkv.commands.session import Pending, Session
from respkv.commands.spec import CommandSpec, Flag
from respkv.resp import errors
from respkv.resp.reply import OK, encode

if TYPE_CHECKING:
    from respkv.commands.ring_dispatch import RingDispatcher

#: Command -> words for each key.
CUT: Final = {"mget": 1, "mset": 2, "del": 1, "unlink": 1, "exists": 1, "touch": 1}
_UNKNOWN: Final = errors.OUTCOME_UNKNOWN[:8]


class Spread:
    """One such request. Its parts are begun by ``start``, those of this node first."""

    __slots__ = ("_argv", "_begun", "_dispatcher", "_level", "_places", "_replies", "_session", "_spec", "pending")

    def __init__(
        self, dispatcher: RingDispatcher, session: Session, spec: CommandSpec, argv: list[bytes], level: int
    ) -> None:
        self._dispatcher = dispatcher
        self._session = session
        self._spec = spec
        self._argv = argv
        self._level = level
        self._begun = 0
        self._places: list[list[int]] = []
        self._replies: dict[int, bytes] = {}
        self.pending = Pending()

    def start(self) -> Pending:
        """The promise of a reply. Raises CommandError and ReadMiss while nothing has begun."""
        coordinator, argv = self._dispatcher.coordinator, self._argv
        parts: dict[int, list[int]] = {coordinator.me: []}
        width = CUT[self._spec.name]
        write = bool(self._spec.flags & Flag.WRITE)
        if width > 1 and len(argv) % width != 1:
            raise CommandError(errors.wrong_arity(self._spec.name))
        for at in range(1, len(argv), width):
            slot = coordinator.slot_of(argv[at])
            target = coordinator.me if coordinator.mine[slot] else coordinator.primary(slot)
            if not target:
                raise CommandError(CLUSTER_DOWN)
            if target == coordinator.me and not coordinator.reaches(slot, self._level, write=write):
                raise CommandError(errors.NO_REPLICAS)
            parts.setdefault(target, []).append(at)
        if not parts[coordinator.me]:
            del parts[coordinator.me]
        self._places = list(parts.values())
        for number, target in enumerate(parts):
            self._begin(number, target, [argv[0], *(w for at in self._places[number] for w in argv[at : at + width])])
        return self.pending

    def _begin(self, number: int, target: int, words: list[bytes]) -> None:
        dispatcher, session = self._dispatcher, self._session
        try:
            if target == dispatcher.coordinator.me:
                reply = self._here(words)
            else:
                reply = dispatcher.pass_on(session, target, [words], self._level)
        except CommandError as reason:
            if not number:
                raise
            reply = reason.reply
        if not isinstance(reply, Pending):
            self._done(number, reply)
        elif reply.reply is not None:
            self._done(number, encode(reply.reply, session.proto))
        else:
            reply.on_done = lambda: self._done(number, encode(reply.reply or b"", session.proto))

    def _here(self, words: list[bytes]) -> bytes | Pending:
        dispatcher, session = self._dispatcher, self._session
        try:
            return Operation(dispatcher, session, self._spec, words, self._level).start()
        except CorruptionError:
            return dispatcher.elsewhere(session, self._spec, words, self._level)

    def _done(self, number: int, reply: bytes) -> None:
        self._replies[number] = reply
        if len(self._replies) == len(self._places):
            self.pending.complete(self._whole())

    def _whole(self) -> bytes:
        """All answers as one."""
        replies = [self._replies[number] for number in range(len(self._places))]
        mistakes = [reply for reply in replies if reply[:1] == b"-"]
        if mistakes:
            applied = len(mistakes) < len(replies) or any(reply.startswith(_UNKNOWN) for reply in mistakes)
            return errors.OUTCOME_UNKNOWN if applied and self._spec.flags & Flag.WRITE else mistakes[0]
        if self._spec.name == "mset":
            return OK
        if self._spec.name != "mget":
            return b":%d\r\n" % sum(int(reply[1:]) for reply in replies)
        found: dict[int, bytes] = {}
        for places, reply in zip(self._places, replies):
            found.update(zip(places, elements(reply)))
        return b"*%d\r\n" % len(found) + b"".join(found[at] for at in range(1, len(self._argv)))


def elements(reply: bytes) -> list[bytes]:
    """The elements of an array of strings and nulls, each as it was sent."""
    at = reply.index(b"\n") + 1
    found = []
    while at < len(reply):
        end = reply.index(b"\n", at) + 1
        if reply[at] == 36 and (size := int(reply[at + 1 : end])) >= 0:  # $
            end += size + 2
        found.append(reply[at:end])
        at = end
    return found
