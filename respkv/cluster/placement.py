"""Placement: which nodes hold a slot, as flat tables built once per ring.

The preference list of a slot is what a walk clockwise from the slot's coordinate meets: the first N distinct
nodes. Element 0 is the primary, the others are equal replicas; going on gives the fallbacks. Nobody walks per
request: ``table[slot]`` is the list, in short ids.

Slots with the same list form a *group* (6 at three nodes and N = 3, some 700 at ten). The lists in ``table`` are the
very tuples of ``groups``, so they may be compared by identity.

Invariants (``check_invariants``): every list has min(N, members) distinct nodes; the ranges cover 0..16383 in order;
``table``, ``groups``, ``group_of`` and ``ranges`` say the same. Adding a node only inserts it into some lists and drops
their last element: no slot moves between old nodes.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from itertools import accumulate, pairwise
from typing import Final, NamedTuple

from respkv.base.prefixes import Colocation
from respkv.base.slots import SLOT_COUNT, slot_of
from respkv.cluster.ring import Member, Ring

#: A slot's place on the circle is its number in the top 14 bits.
COORDINATE_SHIFT: Final = 50


class SlotRange(NamedTuple):
    """Neighbouring slots, ``first`` to ``last`` inclusive, of one group."""

    first: int
    last: int
    group: int


class Placement:
    """The tables of one ring. Immutable but for the fallback walks, which are remembered when first asked for."""

    __slots__ = (
        "_owned",
        "_primaries",
        "_token_of",
        "_token_owners",
        "_walks",
        "colocation",
        "epoch",
        "group_of",
        "groups",
        "members",
        "ranges",
        "replicas",
        "slot_of",
        "table",
    )

    def __init__(self, ring: Ring) -> None:
        """O(slots + tokens): 10 ms for ten members."""
        self.epoch: Final = ring.epoch
        #: What sends keys of some prefixes to one slot; None when no prefix is colocated.
        self.colocation: Final = Colocation(ring.colocate) if ring.colocate else None
        #: Key -> slot, on this ring.
        self.slot_of: Final[Callable[[bytes], int]] = slot_of if self.colocation is None else self.colocation.slot
        #: Short id -> member.
        self.members: Final[dict[int, Member]] = {member.short: member for member in ring.members}
        #: Length of every preference list.
        self.replicas: Final = min(ring.replicas, len(ring.members))
        shorts = {member.node_id: member.short for member in ring.members}
        tokens = ring.tokens()
        self._token_owners: Final = array("H", [shorts[node_id] for _, node_id in tokens])
        self._token_of: Final = _first_tokens([token for token, _ in tokens])
        lists = _lists_by_token(self._token_owners, self.replicas)
        group_numbers: dict[tuple[int, ...], int] = {}
        group_of_token = {
            token: group_numbers.setdefault(lists[token], len(group_numbers))
            for token in dict.fromkeys(self._token_of)
        }
        #: Slot -> index into ``groups``. A list: indexing it is cheaper than an array's, which makes an int each time.
        self.group_of: Final[list[int]] = list(map(group_of_token.__getitem__, self._token_of))
        #: The distinct preference lists, in the order in which the slots meet them.
        self.groups: Final[tuple[tuple[int, ...], ...]] = tuple(group_numbers)
        #: Slot -> preference list in short ids, the primary first.
        self.table: Final[list[tuple[int, ...]]] = list(map(self.groups.__getitem__, self.group_of))
        #: The slots cut where the preference list changes.
        self.ranges: Final[tuple[SlotRange, ...]] = _ranges(self.group_of)
        self._owned: dict[int, tuple[int, ...]] = {}
        self._primaries: dict[int, tuple[int, ...]] = {}
        self._collect_slots()
        self._walks: dict[int, tuple[int, ...]] = {}

    def walk(self, slot: int) -> tuple[int, ...]:
        """All members in the order in which ``slot`` meets them; the first N are its preference list.

        O(tokens met) the first time a slot of this arc asks, then O(1).
        """
        token = self._token_of[slot]
        found = self._walks.get(token)
        if found is None:
            found = _walk(self._token_owners, token, len(self.members))
            self._walks[token] = found
        return found

    def owned(self, short: int) -> tuple[int, ...]:
        """The slots that have ``short`` in their preference list, ascending; none for a stranger."""
        return self._owned.get(short, ())

    def primaries(self, short: int) -> tuple[int, ...]:
        """The slots whose primary is ``short``, ascending; none for a stranger."""
        return self._primaries.get(short, ())

    def stats(self) -> dict[str, int]:
        """Sizes of the tables."""
        return {
            "epoch": self.epoch,
            "members": len(self.members),
            "replicas": self.replicas,
            "tokens": len(self._token_owners),
            "groups": len(self.groups),
            "ranges": len(self.ranges),
            "walks": len(self._walks),
        }

    def check_invariants(self) -> None:
        """Assert that the tables agree; O(slots)."""
        assert len(self.table) == len(self.group_of) == SLOT_COUNT
        assert len(set(self.groups)) == len(self.groups)
        for group in self.groups:
            assert len(group) == len(set(group)) == self.replicas, group
            assert all(short in self.members for short in group), group
        for slot in range(SLOT_COUNT):
            assert self.table[slot] is self.groups[self.group_of[slot]]
            assert self.walk(slot)[: self.replicas] == self.table[slot]
        assert self.ranges[0].first == 0 and self.ranges[-1].last == SLOT_COUNT - 1
        for before, after in pairwise(self.ranges):
            assert before.last + 1 == after.first and before.group != after.group
        for first, last, number in self.ranges:
            assert self.group_of[first : last + 1] == [number] * (last + 1 - first)
        for short in self.members:
            assert all(self.table[slot][0] == short for slot in self.primaries(short))
            assert all(short in self.table[slot] for slot in self.owned(short))
        assert sum(len(slots) for slots in self._primaries.values()) == SLOT_COUNT
        assert sum(len(slots) for slots in self._owned.values()) == SLOT_COUNT * self.replicas

    def __repr__(self) -> str:
        return f"Placement(epoch={self.epoch}, members={len(self.members)}, groups={len(self.groups)})"

    def _collect_slots(self) -> None:
        """Turn the table round: node -> slots."""
        owned: dict[int, list[int]] = {short: [] for short in self.members}
        primaries: dict[int, list[int]] = {short: [] for short in self.members}
        for first, last, number in self.ranges:
            slots = range(first, last + 1)
            group = self.groups[number]
            primaries[group[0]].extend(slots)
            for short in group:
                owned[short].extend(slots)
        self._owned = {short: tuple(slots) for short, slots in owned.items()}
        self._primaries = {short: tuple(slots) for short, slots in primaries.items()}


def _first_tokens(tokens: list[int]) -> list[int]:
    """Slot -> index of the first token at or after its coordinate, going round at the end."""
    found: list[int] = []
    for index, token in enumerate(tokens):
        found += [index] * ((token >> COORDINATE_SHIFT) + 1 - len(found))
    return found + [0] * (SLOT_COUNT - len(found))


def _walk(owners: array[int], start: int, wanted: int) -> tuple[int, ...]:
    """The first ``wanted`` distinct owners from token ``start`` on."""
    found: dict[int, None] = {}
    count = len(owners)
    for step in range(count):
        found[owners[(start + step) % count]] = None
        if len(found) == wanted:
            break
    return tuple(found)


def _lists_by_token(owners: array[int], replicas: int) -> list[tuple[int, ...]]:
    """Token index -> preference list of the arc that ends at it.

    Backwards: a token's list is its owner and then the next token's list without that owner, so each token costs
    O(N) whatever the walk would have been.
    """
    seed = _walk(owners, 0, replicas)
    backwards = accumulate(
        reversed(owners),
        lambda after, owner: (owner, *[short for short in after if short != owner][: replicas - 1]),
        initial=seed,
    )
    lists = list(backwards)
    lists.reverse()
    return lists[:-1]


def _ranges(group_of: list[int]) -> tuple[SlotRange, ...]:
    """Runs of equal groups."""
    starts = [0, *[slot for slot in range(1, SLOT_COUNT) if group_of[slot] != group_of[slot - 1]]]
    return tuple(SlotRange(first, after - 1, group_of[first]) for first, after in pairwise([*starts, SLOT_COUNT]))
