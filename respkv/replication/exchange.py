"""One anti-entropy session between two co-replicas, as a state machine on either side.

    initiator                                responder
    Floors (flush floors, watermarks)  ->    merges them
                                       <-    Floors; both sides now count by the same rule
    TreeRoots (128 group sums)         ->
                                       <-    TreeSlots (roots of the slots of differing groups)
    TreeLeaves (64 leaves of up to 16
      slots whose roots differ)        ->
                                       <-    TreeLeaves (its own of the same slots)
    TreeKeys (key, digest) of differing
      leaves, piece by piece           ->    compares them with its own listing of the same range
                                       <-    PullRecords (what it wants; may be empty), Writes (what it has newer)
    Writes (what was wanted)           ->
    ... until nothing is left ...
    TreeSlots (slots found different
      below the cut), TreeEnd (OK, or
      PARTIAL)                         ->
                                       <-    TreeSlots (the same, of both sides), TreeEnd

A session over some of the shared slots goes from the Floors to the TreeLeaves at once: the other slots of a group would
make every group differ. Its responder takes nothing for equal.

``leaf`` of TreeKeys is 0..63, or ALL_LEAVES where most leaves of a slot differ. A piece covers the keys after the
piece before it, up to its own last key, or to the end of the slot when ``more`` is false.

A difference whose newer side is younger than ``young_ms`` is left for the next session: writes under way look
like divergence. A difference in which a side has something below its cut makes the slot count as different, repaired
or not; the next session may find it equal. So does what a side leaves out of a listing, since it is not compared. At
the end each side waits until what it held at the last comparison is on disk, so that a crash cannot undo what the
other relies on.

A message that no peer would send, of another form or out of turn, ends the session (MALFORMED) and proves nothing.

A step reads first (which may raise ReadMiss) and changes only then: after a miss it runs again from its start.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Container, Sequence
from itertools import islice
from typing import Final, NamedTuple, Protocol

from respkv.base.slots import SLOT_COUNT
from respkv.causality.hlc import STAMP_BYTES
from respkv.causality.record import DVV
from respkv.keyspace import keys
from respkv.keyspace.leaf_rule import LEAVES, STAMP_IN_DIGEST, stamp_ms
from respkv.keyspace.leaf_walk import Listing
from respkv.replication.merkle import GROUPS
from respkv.replication.tombstones import PurgeWatermarks
from respkv.storage.write_batch import encode_entry
from respkv.wire.messages import (
    OK,
    REPAIR,
    Floors,
    PullRecords,
    TreeEnd,
    TreeKeys,
    TreeLeaves,
    TreeRoots,
    TreeSlots,
    Writes,
)

Message = Floors | TreeRoots | TreeSlots | TreeLeaves | TreeKeys | PullRecords | TreeEnd | Writes
FloorRange = tuple[int, int, int, bytes]

#: ``TreeKeys.leaf``: every leaf of the slot.
ALL_LEAVES: Final = 255
#: ``TreeEnd.status``: not all shared slots were compared; for the responder only groups found equal count.
PARTIAL: Final = 32
#: ``TreeEnd.status``: no progress for too long.
TIMED_OUT: Final = 33
#: ``TreeEnd.status``: what came cannot have been meant.
MALFORMED: Final = 34
_SLOTS_AT_ONCE: Final = 16
#: Spaces that are listed, and the least bytes of a digest: flags and stamp.
_LISTED: Final = (keys.SPACE_RECORD, keys.SPACE_ELEMENT)
_DIGEST_MIN: Final = 1 + STAMP_BYTES
#: More differing leaves than this are listed together.
_LEAVES_APART: Final = 4
_KEYS_AT_ONCE: Final = 1000
_RECORD_BYTES_AT_ONCE: Final = 1 << 20


class Store(Protocol):
    """What a session asks of the data. Reads of records may raise ReadMiss."""

    def ready(self) -> bool:
        """True when the sums describe all that is stored now."""

    def group_sums(self, slots: Collection[int]) -> tuple[int, ...]: ...

    def root(self, slot: int) -> int: ...

    def leaves(self, slot: int) -> tuple[int, ...]: ...

    def list_slot(self, slot: int, leaf: int | None, after: bytes, limit: int, expired_by_ms: int) -> Listing: ...

    def records(self, wanted: Sequence[bytes], limit_bytes: int) -> tuple[list[tuple[bytes, bytes]], int]:
        """The records of the first of ``wanted``, about ``limit_bytes`` of them, and how many of ``wanted`` they
        answer (one at least). An element's owner comes before it. May raise ReadMiss when none was read yet."""

    def floors(self) -> tuple[FloorRange, ...]: ...

    def raise_floors(self, ranges: Sequence[FloorRange]) -> int: ...

    def appended(self) -> int:
        """A log position that covers all that is applied now."""

    def durable(self) -> int:
        """The log position up to which all is on disk."""


class Limits(NamedTuple):
    """Times of a session. ``skew_ms``: how far clocks may differ (records this close to their expiry are left out)."""

    young_ms: int = 4_000
    skew_ms: int = 10_000


class Counters:
    """What sessions did, all of them together."""

    __slots__ = ("bytes_sent", "differences", "keys_listed", "pulled", "sent", "slots_differing", "young")

    def __init__(self) -> None:
        self.keys_listed = self.differences = self.young = self.sent = self.pulled = self.bytes_sent = 0
        self.slots_differing = 0

    def stats(self) -> dict[str, int]:
        return {f"repair_{name}": getattr(self, name) for name in self.__slots__}


class Difference(NamedTuple):
    """What a comparison of two listings found."""

    send: list[bytes]
    pull: list[bytes]
    young: int
    old: bool


def compare(mine: dict[bytes, bytes], theirs: dict[bytes, bytes], *, cut: int, young_after_ms: int) -> Difference:
    """Compare two listings of one range (internal key -> digest).

    Keys whose newer side is younger than ``young_after_ms`` are only counted. ``old``: a side has something below
    ``cut`` (HLC) that the other does not have alike. Containers go both ways: each side merges.
    """
    send: list[bytes] = []
    pull: list[bytes] = []
    young = 0
    old = False
    for internal in sorted(mine.keys() | theirs.keys()):
        here, there = mine.get(internal), theirs.get(internal)
        if here == there:
            continue
        present = [digest for digest in (here, there) if digest is not None]
        old = old or any(int.from_bytes(digest[1:9], "big") < cut for digest in present)
        if max(stamp_ms(digest) for digest in present) > young_after_ms:
            young += 1
            continue
        my_stamp = here[STAMP_IN_DIGEST] if here is not None else b""
        their_stamp = there[STAMP_IN_DIGEST] if there is not None else b""
        both = here is not None and there is not None and (bool((here[0] | there[0]) & DVV) or my_stamp == their_stamp)
        if both or my_stamp > their_stamp:
            send.append(internal)
        if both or my_stamp < their_stamp:
            pull.append(internal)
    return Difference(send, pull, young, old)


def well_formed(message: Message, slots: Container[int]) -> bool:
    """Whether a session over ``slots`` may get such a message: lengths and bounds, which the codec leaves open."""
    match message:
        case TreeRoots():
            return len(message.groups) == GROUPS
        case TreeSlots():
            return all(slot in slots for slot, _ in message.roots)
        case TreeLeaves():
            return all(slot in slots and len(leaves) == LEAVES for slot, leaves in message.slots)
        case TreeKeys():
            if message.slot not in slots or LEAVES <= message.leaf != ALL_LEAVES:
                return False
            place = message.slot.to_bytes(2, "big")
            return all(_is_listed(key) and key[1:3] == place and len(held) >= _DIGEST_MIN for key, held in message.keys)
        case PullRecords():
            return all(_is_listed(key) and keys.key_slot(key) in slots for key in message.keys)
        case Floors():
            ranges = [row[:2] for row in message.floors] + [row[:2] for row in message.watermarks]
            return all(first <= last < SLOT_COUNT for first, last in ranges)
        case _:
            return True


def _is_listed(internal: bytes) -> bool:
    """Whether it is the internal key of a record or an element, as far as its slot can be told."""
    return len(internal) >= keys.RECORD_KEY_AT and internal[0] in _LISTED


class Session:
    """What both sides of a session have in common. ``step`` is called until it answers False."""

    __slots__ = (
        "_mark", "_next_seq", "_outgoing", "_sending", "_store", "_watermarks", "checked", "complete", "counters",
        "cut", "different", "differing", "done", "id", "inbox", "keys_spent", "limits", "now_ms", "peer", "sent",
        "slots", "status",
    )  # fmt: skip

    def __init__(
        self,
        peer: int,
        session: int,
        slots: dict[int, None],
        cut: int,
        *,
        store: Store,
        watermarks: PurgeWatermarks,
        next_seq: Callable[[], int],
        counters: Counters,
        limits: Limits,
    ) -> None:
        self.peer = peer
        self.id = session
        self.slots = slots
        self.cut = cut
        self.counters = counters
        self.limits = limits
        self.now_ms = 0
        self.inbox: deque[Message] = deque()
        #: slots in which something below the cut differed
        self.different: dict[int, None] = {}
        #: slots that were compared
        self.checked: dict[int, None] = {}
        #: these are all slots that are shared with the peer
        self.complete = False
        #: slots whose leaves differed, known to the initiator alone, and records sent to the peer
        self.differing = self.sent = 0
        self.done = False
        #: how it ended, once ``done``
        self.status = OK
        #: keys visited since the driver looked last
        self.keys_spent = 0
        self._store = store
        self._watermarks = watermarks
        self._next_seq = next_seq
        self._outgoing: list[Message] = []
        #: keys whose records the peer is to get; they go before anything else is done
        self._sending: deque[bytes] = deque()
        self._mark = 0

    def take(self) -> list[Message]:
        """Messages for the peer, in order."""
        taken, self._outgoing = self._outgoing, []
        return taken

    def step(self) -> bool:
        """Do one piece of work; False when there is nothing to do now. May raise ReadMiss."""
        raise AssertionError("sessions are initiators or responders")

    def _next_message(self) -> bool:
        """Deal with the first message of the inbox; False when that cannot be done now."""
        message = self.inbox[0]
        if not self._in_turn(message) or not well_formed(message, self.slots):
            self._outgoing.append(TreeEnd(self.id, MALFORMED))
            self._end(MALFORMED)
            return True
        if not self._on_message(message):
            return False
        self.inbox.popleft()
        return True

    def _in_turn(self, message: Message) -> bool:
        """Whether the message can come now."""
        raise AssertionError("sessions are initiators or responders")

    def _on_message(self, message: Message) -> bool:
        """False: not now, the sums are not settled. ReadMiss leaves the message in the inbox."""
        raise AssertionError("sessions are initiators or responders")

    def _floors_message(self) -> Floors:
        return Floors(self.id, self._store.floors(), self._watermarks.ranges(self.slots))

    def _take_floors(self, message: Floors) -> None:
        """Merge a peer's floors, and its watermarks where both own the slot."""
        self._store.raise_floors(message.floors)
        self._watermarks.adopt_shared(message.watermarks, self.slots)

    def _list(self, slot: int, leaf: int, after: bytes, limit: int = _KEYS_AT_ONCE) -> Listing:
        wanted = None if leaf == ALL_LEAVES else leaf
        listing = self._store.list_slot(slot, wanted, after, limit, self.now_ms + self.limits.skew_ms)
        if listing.left_out < self.cut:
            self.different[slot] = None
        self.keys_spent += listing.visited
        self.counters.keys_listed += len(listing.entries)
        return listing

    def _send_some(self) -> bool:
        """Send about a megabyte of the records that are due."""
        wanted = list(islice(self._sending, _KEYS_AT_ONCE))
        records, taken = self._store.records(wanted, _RECORD_BYTES_AT_ONCE)
        for _ in range(taken):
            self._sending.popleft()
        if records:
            payload = b"".join(encode_entry(internal, record) for internal, record in records)
            self._outgoing.append(Writes(self._next_seq(), REPAIR, payload))
            self.sent += len(records)
            self.counters.sent += len(records)
            self.counters.bytes_sent += len(payload)
        return True

    def _tell_end(self, status: int) -> None:
        """Send the end, behind the slots that were found different."""
        if self.different:
            self._outgoing.append(TreeSlots(self.id, tuple((slot, 0) for slot in self.different)))
        self._outgoing.append(TreeEnd(self.id, status))

    def _end(self, status: int) -> None:
        self.done = True
        self.status = status

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id} with {self.peer} of {len(self.slots)} slots done={self.done}>"


class Initiator(Session):
    """The side that asked for the session. ``complete``: over all slots that are shared with the peer."""

    __slots__ = ("_begun", "_ending", "_piece_after", "_roots_sent", "_tasks", "_todo", "_waiting")

    def __init__(self, *args: object, complete: bool = True, **options: object) -> None:
        super().__init__(*args, **options)  # type: ignore[arg-type]
        self.complete = complete
        self._begun = False
        #: they were sent, or need not be
        self._roots_sent = not complete
        #: slots whose leaves are not compared yet: a few that were asked for, or those whose roots differ
        self._todo: deque[int] = deque(() if complete else self.slots)
        #: (slot, leaf) to be listed
        self._tasks: deque[tuple[int, int]] = deque()
        self._piece_after = b""
        #: an answer is due
        self._waiting = False
        self._ending = False
        self.checked = self.slots

    def step(self) -> bool:
        if not self._begun:
            self._begun = self._waiting = True
            self._outgoing.append(self._floors_message())
            return True
        if self._sending:
            return self._send_some()
        if self.inbox:
            return self._next_message()
        return not self._waiting and not self.done and self._go_on()

    def _in_turn(self, message: Message) -> bool:
        """An end that is well answers one's own."""
        return not isinstance(message, TreeEnd) or self._ending or message.status != OK

    def _on_message(self, message: Message) -> bool:
        if isinstance(message, Floors):
            self._take_floors(message)
            self._waiting = False
        elif isinstance(message, TreeSlots) and self._ending:
            self.different.update(dict.fromkeys(slot for slot, _ in message.roots))
        elif isinstance(message, TreeSlots):
            if not self._store.ready():
                return False
            for slot, root in message.roots:
                if slot in self.slots and self._store.root(slot) != root:
                    self._todo.append(slot)
            self._mark = self._store.appended()
            self._waiting = False
        elif isinstance(message, TreeLeaves):
            if not self._store.ready():
                return False
            for slot, leaves in message.slots:
                self._compare_leaves(slot, leaves)
            self._mark = self._store.appended()
            self._waiting = False
        elif isinstance(message, PullRecords):
            self._sending.extend(message.keys)
            self._waiting = False
        elif isinstance(message, TreeEnd):
            self._end(message.status)
        return True

    def _compare_leaves(self, slot: int, theirs: Sequence[int]) -> None:
        mine = self._store.leaves(slot)
        differing = [leaf for leaf, (here, there) in enumerate(zip(mine, theirs)) if here != there]
        if differing:
            self.differing += 1
            self.counters.slots_differing += 1
        if len(differing) > _LEAVES_APART:
            self._tasks.append((slot, ALL_LEAVES))
        else:
            self._tasks.extend((slot, leaf) for leaf in differing)

    def _go_on(self) -> bool:
        if not self._roots_sent:
            if not self._store.ready():
                return False
            self._outgoing.append(TreeRoots(self.id, self._store.group_sums(self.slots)))
            self._roots_sent = self._waiting = True
        elif self._tasks:
            self._next_piece()
        elif self._todo:
            if not self._store.ready():
                return False
            slots = [self._todo.popleft() for _ in range(min(_SLOTS_AT_ONCE, len(self._todo)))]
            self._outgoing.append(TreeLeaves(self.id, tuple((slot, self._store.leaves(slot)) for slot in slots)))
            self._waiting = True
        else:
            if self._store.durable() < self._mark:
                return False
            self._tell_end(OK if self.complete else PARTIAL)
            self._ending = self._waiting = True
        return True

    def _next_piece(self) -> None:
        slot, leaf = self._tasks[0]
        listing = self._list(slot, leaf, self._piece_after)
        self._mark = self._store.appended()
        more = listing.position is not None
        if more and not listing.entries:
            self._piece_after = listing.position or b""
            return
        # While there is more, the piece ends with its last key: that is all the other side can know of it.
        self._piece_after = listing.entries[-1][0] if more else b""
        if not more:
            self._tasks.popleft()
        self._outgoing.append(TreeKeys(self.id, slot, leaf, more, tuple(listing.entries)))
        self._waiting = True


class Responder(Session):
    """The side that was asked."""

    __slots__ = ("_covered", "_ending", "_mine", "_read_to", "_roots_came")

    def __init__(self, *args: object, **options: object) -> None:
        super().__init__(*args, **options)  # type: ignore[arg-type]
        #: the last key of the range that was compared last, in the (slot, leaf) under way
        self._covered = b""
        #: our own keys beyond it, and how far they were listed; None = not begun, b"" = to the slot's end
        self._mine: dict[bytes, bytes] = {}
        self._read_to: bytes | None = None
        self._ending: int | None = None
        self._roots_came = False

    def step(self) -> bool:
        if self._sending:
            return self._send_some()
        if self.inbox:
            return self._next_message()
        return self._ending is not None and not self.done and self._finish(self._ending)

    def _in_turn(self, message: Message) -> bool:
        """Who has sent no roots cannot have compared all."""
        return not isinstance(message, TreeEnd) or self._roots_came or message.status != OK

    def _on_message(self, message: Message) -> bool:
        if isinstance(message, Floors):
            self._take_floors(message)
            self._outgoing.append(self._floors_message())
        elif isinstance(message, TreeRoots):
            if not self._store.ready():
                return False
            self._roots_came = True
            mine = self._store.group_sums(self.slots)
            groups = {group: None for group, total in enumerate(message.groups) if total != mine[group]}
            slots = [slot for slot in self.slots if slot >> 7 in groups] if groups else []
            self.checked = {slot: None for slot in self.slots if slot >> 7 not in groups} if groups else self.slots
            self._mark = self._store.appended()
            self._outgoing.append(TreeSlots(self.id, tuple((slot, self._store.root(slot)) for slot in slots)))
        elif isinstance(message, TreeLeaves):
            if not self._store.ready():
                return False
            own = tuple((slot, self._store.leaves(slot)) for slot, _ in message.slots)
            self._mark = self._store.appended()
            self._outgoing.append(TreeLeaves(self.id, own))
        elif isinstance(message, TreeKeys):
            return self._on_keys(message)
        elif isinstance(message, TreeSlots):
            self.different.update(dict.fromkeys(slot for slot, _ in message.roots))
        elif isinstance(message, TreeEnd):
            self._ending = message.status
        return True

    def _on_keys(self, message: TreeKeys) -> bool:
        """Read our own side of the piece, a bounded listing per call, then compare. False: called again."""
        bound = message.keys[-1][0] if message.more and message.keys else None
        position = self._read_to if self._read_to is not None else self._covered
        if self._read_to != b"" and (bound is None or position < bound):
            listing = self._list(message.slot, message.leaf, position)
            self._mine.update(listing.entries)
            self._read_to = listing.position or b""
            if self._read_to and (bound is None or self._read_to < bound):
                return self._on_keys_later()
        mine = {key: digest for key, digest in self._mine.items() if bound is None or key <= bound}
        found = compare(mine, dict(message.keys), cut=self.cut, young_after_ms=self.now_ms - self.limits.young_ms)
        self._mark = self._store.appended()
        self.counters.differences += len({**dict.fromkeys(found.send), **dict.fromkeys(found.pull)})
        self.counters.young += found.young
        self.counters.pulled += len(found.pull)
        if found.old:
            self.different[message.slot] = None
        self._sending.extend(found.send)
        self._outgoing.append(PullRecords(self.id, tuple(found.pull)))
        if bound is None:
            self._mine, self._read_to, self._covered = {}, None, b""
        else:
            for key in mine:
                del self._mine[key]
            self._covered = bound
        return True

    def _on_keys_later(self) -> bool:
        """The listing goes on with the next step: the message stays, and the driver may charge for what was read."""
        self.inbox.appendleft(self.inbox[0])
        return True

    def _finish(self, status: int) -> bool:
        if status not in (OK, PARTIAL):
            self._end(status)
            return True
        if self._store.durable() < self._mark:
            return False
        if status == OK:
            # What the initiator did not ask the keys of, it found equal.
            self.checked, self.complete = self.slots, True
        self._tell_end(OK)
        self._end(OK)
        return True
