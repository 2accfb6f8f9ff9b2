"""Requests of one connection that are under way together: replies in order, work out of order.

A request of the general path that has to wait for other nodes gets a place among the cycle's replies, and the requests
behind it run on if they touch other keys. What touches a key that is under way waits until that request is through,
and whatever names no keys (MULTI, SELECT, FLUSHALL, ...) until all are. A *flight* holds the replies of one cycle back
until every place in them is filled; it passes ``node/round_gate`` like the round of a cycle does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from respkv.commands.session import Pending, Session
from respkv.replication.levels import EVENTUAL
from respkv.replication.rounds import Round
from respkv.resp.reply import encode

#: Requests of one connection that are under way together, at most, and the bytes of replies after which no more begin.
UNDER_WAY_MAX: Final = 128
REPLY_BYTES_MAX: Final = 1 << 20
_PLACE: Final = b""


class Flight(Round):
    """The replies of a connection's cycle. ``undecided``: places to fill, rounds to settle, and the turn itself."""

    __slots__ = ("decided", "in_turn")

    def __init__(self, decided: Callable[[Round], None]) -> None:
        """``decided(round)`` counts ``undecided`` down."""
        super().__init__(EVENTUAL)
        self.decided = decided
        self.undecided = 1
        self.in_turn = True

    def wait_for(self, round_: Round) -> None:
        """The replies also wait for a round of the cycle."""
        if not round_.settled:
            self.undecided += 1
            round_.after.append(lambda met: self.decided(self))


class UnderWay:
    """What a connection has under way: how many requests, and how many touch each key. Never empty."""

    __slots__ = ("_bytes", "_keys", "_waiting", "count")

    def __init__(self) -> None:
        self._bytes = 0
        self._keys: dict[bytes, int] = {}
        self._waiting: tuple[Pending, list[bytes]] | None = None
        self.count = 0

    def begin(self, keys: list[bytes]) -> None:
        """A request with these keys is under way."""
        self.count += 1
        for key in keys:
            self._keys[key] = self._keys.get(key, 0) + 1

    def end(self, keys: list[bytes], size: int) -> None:
        """It is through, with a reply of so many bytes."""
        self.count -= 1
        self._bytes += size
        for key in keys:
            left = self._keys[key] - 1
            if left:
                self._keys[key] = left
            else:
                del self._keys[key]
        if self._waiting is not None and self.admits(self._waiting[1]):
            pending, self._waiting = self._waiting[0], None
            pending.complete(b"")

    def admits(self, keys: list[bytes]) -> bool:
        """Whether a request with these keys may run beside the others; without keys: when there are no others."""
        if not self.count:
            return True
        held = self._keys
        if not keys or self.count >= UNDER_WAY_MAX or self._bytes >= REPLY_BYTES_MAX:
            return False
        return not any(key in held for key in keys)

    def wait(self, keys: list[bytes]) -> Pending:
        """Completed, with no reply, as soon as such a request may run. One waits at a time: it stops its connection."""
        pending = Pending()
        self._waiting = pending, keys
        return pending


def keys_of(entry: Any, argv: list[bytes]) -> list[bytes]:
    """The keys of a request; ``entry`` is its row of the dispatcher's quick table, None for what is not in it."""
    if entry is None:
        return []
    return [argv[index] for keyspec in entry[4].keys for index in keyspec.keys(argv)]


def obstacle(session: Session, entry: Any, argv: list[bytes]) -> Pending | None:
    """What a request has to wait for before it may run beside those that are under way. None: nothing."""
    under_way: UnderWay = session.under_way
    keys = keys_of(entry, argv)
    return None if under_way.admits(keys) else under_way.wait(keys)


def board(
    session: Session, out: list[bytes], entry: Any, argv: list[bytes], reply: Pending, decided: Callable[[Round], None]
) -> bool:
    """Give a request that waits a place in ``out``. False: its connection has to wait with it, as it names no keys."""
    keys = keys_of(entry, argv)
    if not keys:
        return False
    if reply.reply is not None:
        out.append(encode(reply.reply, session.proto))
        return True
    flight = session.round
    if flight.__class__ is not Flight or flight.settled:
        flight = Flight(decided)
        if session.round is not None:
            flight.wait_for(session.round)
        session.round = flight
    elif not flight.in_turn:
        # A second turn in one cycle adds to the same replies.
        flight.in_turn = True
        flight.undecided += 1
    flight.undecided += 1
    if session.under_way is None:
        session.under_way = UnderWay()
    under_way: UnderWay = session.under_way
    under_way.begin(keys)
    place = len(out)
    out.append(_PLACE)

    def landed() -> None:
        assert reply.reply is not None
        out[place] = answer = encode(reply.reply, session.proto)
        if under_way.count == 1:
            session.under_way = None
        under_way.end(keys, len(answer))
        decided(flight)

    reply.on_done = landed
    return True


def join(session: Session, round_: Round) -> None:
    """The fast path has served some of the turn's requests: the replies wait for their round too."""
    if session.round.__class__ is Flight and not session.round.settled:
        session.round.wait_for(round_)
    else:
        session.round = round_


def close(session: Session) -> None:
    """The turn, in which something has boarded, is over."""
    flight = session.round
    if flight.in_turn:
        flight.in_turn = False
        flight.decided(flight)
