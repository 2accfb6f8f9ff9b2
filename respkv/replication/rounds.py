"""Rounds: what the replies of one cycle wait for, and who has to be told when it is known.

All requests of a cycle that wait for the same level share a ``Round``: it is *settled* when every read batch and every
group of writes of that cycle is decided. Replies of a connection leave in the order of its rounds. A round whose writes
failed has its replies rewritten: "outcome unknown" is all that can be said then (DESIGN 4: three classes of errors).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Protocol

from respkv.resp import errors

#: The reply of a plain SET on the fast path: this object, not another one with these bytes, so that a failed round
#: finds the replies that are not true.
WRITTEN: Final = b"".join((b"+OK", b"\r\n"))


class Round:
    """``undecided`` counts what is open; ``after`` is called with whether the writes have their quorum."""

    __slots__ = ("after", "failed", "level", "outs", "settled", "undecided")

    def __init__(self, level: int) -> None:
        self.level = level
        self.undecided = 0
        self.settled = False
        #: the writes did not get their quorum in time
        self.failed = False
        #: replies in which WRITTEN is true only if the writes have their quorum
        self.outs: list[list[bytes]] = []
        self.after: list[Callable[[bool], None]] = []

    def settle(self) -> None:
        """Everything is decided: rewrite what is not true, tell who waits."""
        assert not self.settled and not self.undecided
        self.settled = True
        if self.failed:
            for out in self.outs:
                for index, reply in enumerate(out):
                    if reply is WRITTEN:
                        out[index] = errors.OUTCOME_UNKNOWN
        after, self.after = self.after, []
        for action in after:
            action(not self.failed)

    def __repr__(self) -> str:
        return f"<Round level={self.level} undecided={self.undecided} settled={self.settled}>"


class Reader(Protocol):
    """A request that waits for answers of other replicas: an operation of the general path."""

    #: the level that it asks for
    level: int
    #: answers that are still to come; ``resume`` is called when the last one has
    waiting: int
    #: something newer was found elsewhere and is here now
    changed: bool

    def resume(self) -> None:
        """All answers are there."""

    def fail(self, reply: bytes) -> None:
        """There will be no answer; the reply says why. Called at most once, instead of ``resume``."""


class Collector:
    """The reads of one cycle that one peer is asked about.

    ``places`` says whose they are: (replies, index, RESP version) of a fast GET, or a ``Reader``. ``asked``, of
    readers only: all that are asked about the key for the same reader, one set for all of them.
    """

    __slots__ = ("asked", "keys", "peer", "places", "stamps")

    def __init__(self, peer: int) -> None:
        self.peer = peer
        self.keys: list[bytes] = []
        self.stamps: list[bytes] = []
        self.places: list[Any] = []
        self.asked: list[set[int]] = []

    def take(self) -> tuple[list[bytes], list[bytes], list[Any], list[set[int]]]:
        """What was collected, which is forgotten here."""
        taken = self.keys, self.stamps, self.places, self.asked
        self.keys, self.stamps, self.places, self.asked = [], [], [], []
        return taken
