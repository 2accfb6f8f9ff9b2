"""Which rows of the membership table travel in the next message.

Each message carries at most ``limit`` rows, in this order: the sender's own; the receiver's, if it is not believed
alive, so that it can refute (Lifeguard's "buddy system"); news, those told least often first; then other members in
rotation, so that whatever was lost on the way is made up for. A row stops being news when it was told
``RETRANSMITS * ceil(log10(members + 1))`` times (memberlist: RetransmitMult).
"""

from __future__ import annotations

import math
from typing import Final

from respkv.cluster.membership import ALIVE, Membership
from respkv.wire.messages import Update

#: A row is news for this many messages, times the logarithm of the members.
RETRANSMITS: Final = 4


class Rumours:
    """What is news in ``membership``, and whose turn it is otherwise."""

    __slots__ = ("_fill", "_limit", "_membership", "_told")

    def __init__(self, membership: Membership, *, limit: int) -> None:
        self._membership = membership
        self._limit = limit
        #: Short -> how often its row was told since it changed.
        self._told: dict[int, int] = {}
        self._fill = 0

    def __repr__(self) -> str:
        return f"Rumours({self._told})"

    def spread(self, short: int) -> None:
        """The row of ``short`` changed: it is news."""
        self._told[short] = 0

    def rows_for(self, to: int, *first: Update) -> tuple[Update, ...]:
        """The rows of the next message to ``to``, among them ``first``, whatever is believed here. O(members)."""
        membership, limit = self._membership, self._limit
        rows = {membership.me: membership.update(membership.me)}
        for row in first:
            rows[row[0]] = row
        if membership.state(to) != ALIVE:
            rows.setdefault(to, membership.update(to))
        enough = RETRANSMITS * math.ceil(math.log10(len(membership) + 1))
        for short, told in sorted(self._told.items(), key=lambda item: item[1]):
            if len(rows) >= limit and short not in rows:
                continue
            if told + 1 >= enough:
                del self._told[short]
            else:
                self._told[short] = told + 1
            rows.setdefault(short, membership.update(short))
        members = membership.members
        for _ in members:
            if len(rows) >= limit:
                break
            self._fill = (self._fill + 1) % len(members)
            short = members[self._fill]
            rows.setdefault(short, membership.update(short))
        return tuple(rows.values())

    def forget_strangers(self) -> None:
        """Members have left."""
        self._told = {short: told for short, told in self._told.items() if short in self._membership}

    def check_invariants(self) -> None:
        """Raises AssertionError when broken."""
        assert all(short in self._membership for short in self._told)
