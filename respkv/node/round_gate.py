"""Replies that wait for other nodes, in order, for each connection.

What a connection was answered in one cycle is one entry: with the round it waits for, or None when only earlier entries
hold it up. An entry leaves when its round is settled and all before it have left. The replies stay apart until then,
so that a round that failed can rewrite those that are not true.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Protocol

from respkv.replication.rounds import Round

#: round, replies, their bytes when they came here: what is rewritten later may be shorter or longer
Entries = deque[tuple[Round | None, list[bytes], int]]


class Turn(Protocol):
    """A connection: its entries, oldest first."""

    rounds: Entries


class RoundGate:
    """``emit(connection, replies, size)`` takes what may leave; ``size`` is what ``hold`` has returned for it."""

    __slots__ = ("_emit", "_waiting")

    def __init__(self, emit: Callable[[Turn, list[bytes], int], None]) -> None:
        self._emit = emit
        self._waiting: dict[Round, list[Turn]] = {}

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def hold(self, turn: Turn, round_: Round | None, replies: list[bytes]) -> int:
        """Keep the replies of a cycle, and say how many bytes they are now; ``round_`` may be settled already."""
        size = sum(map(len, replies))
        turn.rounds.append((round_, replies, size))
        if round_ is not None:
            self._waiting.setdefault(round_, []).append(turn)
        return size

    def settled(self, round_: Round) -> None:
        """A round is settled and what it shows is in the log: let go of what waited for it alone."""
        for turn in self._waiting.pop(round_, ()):
            rounds = turn.rounds
            if len(rounds) == 1 and rounds[0][0] is round_:  # the usual case, sooner
                _, replies, size = rounds.pop()
                self._emit(turn, replies, size)
                continue
            while rounds and ((head := rounds[0][0]) is None or (head.settled and head not in self._waiting)):
                _, replies, size = rounds.popleft()
                self._emit(turn, replies, size)

    def stats(self) -> dict[str, int]:
        return {"rounds_held": len(self._waiting), "replies_held": sum(map(len, self._waiting.values()))}
