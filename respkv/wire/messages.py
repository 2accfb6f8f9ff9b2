"""What nodes say to each other: one class a message, plain data, no bytes (those are ``codec``'s).

Every message is a named tuple of ints, bytes, str and tuples. The head of the frame it travels in says who sent it,
at which ring epoch and at what clock. A link is a stream that may end at any moment: whatever was not answered
has an unknown outcome, and every message may be sent again on another link (records carry their stamps, operations
their numbers). On one link, messages of one type arrive in the order in which they were sent, except a message so
long that it travels in parts (``codec.PART_BYTES``): it may be overtaken, unless its type is *ordered*.

A number that answers a request (``seq``, ``op``, ``session``) is chosen by the asker and means nothing to others.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

# --- Writes.kind: why the records come. Foreground work goes before the others.
FOREGROUND: Final = 0
HINT: Final = 1
REPAIR: Final = 2
TRANSFER: Final = 3

# --- What became of a write. Anything but OK is a failure of that replica, unknown numbers too.
OK: Final = 0
#: the sender's ring is older than the replica's; nothing was applied
STALE_EPOCH: Final = 1
#: the key belongs to a register; the write must go there
REJECT_STRONG: Final = 2
#: the replica has too much to do; nothing was applied
BUSY: Final = 3
#: the disk refused or failed; nothing was applied
IO_ERROR: Final = 4
#: older than the purge watermark, and the replica has no record of the key
BELOW_PURGE: Final = 5
#: In ``WriteAcks.refused``: the refusal is about all entries of the message.
ALL_ENTRIES: Final = 0xFFFFFFFF

# --- What a replica holds, in ReadResult and RangeResult (besides OK, STALE_EPOCH and BUSY).
ABSENT: Final = 16
CORRUPT: Final = 17
RECOVERING: Final = 18
EQUAL: Final = 19

# --- Forwarded.status: DONE has a reply; NOT_DONE says that nothing was executed and another node may be asked; EXPIRED
# that nothing was executed because it came too late (or ``until_ms`` is too far ahead), and a ``Time`` was sent before.
DONE: Final = 0
NOT_DONE: Final = 1
EXPIRED: Final = 2

# --- Forward.flags
READONLY: Final = 1
TRANSACTION: Final = 2
#: the session asks for no change of access times
NO_TOUCH: Final = 4
#: the request walks over the keyspace; a second row of ``commands`` holds the slots that it is to tell of, as pairs of
#: first and last, each u16 big-endian
SLICE: Final = 8
#: ``until_ms`` holds
UNTIL: Final = 16
#: Two bits of the flags of a ``Forward`` with UNTIL: how often it came too late before.
AGAIN_AT: Final = 5
AGAIN_MAX: Final = 3

# --- Kinds of channels in Publish and Interest.
CHANNEL: Final = 0
SHARD_CHANNEL: Final = 1
PATTERN: Final = 2
#: In Interest.added: too much to be told, send everything.
EVERYTHING: Final = 3


class Writes(NamedTuple):
    """Records to merge and keep. ``payload`` is a log payload (``storage/write_batch.py``), passed on as it is.

    One message carries all writes of a coordinator's cycle to one peer; it is acked as a whole.
    """

    seq: int
    kind: int
    payload: bytes


class WriteAcks(NamedTuple):
    """``done``: the messages that were dealt with: all their entries are in the log, except those refused.

    ``refused``: (seq, index of the entry or ALL_ENTRIES, status). A message refused as a whole is not in ``done``.
    """

    done: Sequence[int]
    refused: tuple[tuple[int, int, int], ...] = ()


class Reads(NamedTuple):
    """This is what I hold; what do you hold that differs?

    ``keys`` are internal keys, ``stamps`` the asker's stamps in the same order: ten bytes, or ZERO_STAMP for nothing
    (``b""`` may be given, ZERO_STAMP is received).
    """

    seq: int
    keys: Sequence[bytes]
    stamps: Sequence[bytes]


class ReadResult(NamedTuple):
    """What differs: (index in the request, status, record). Nothing there: all are equal.

    ``status`` is about the whole request: OK, STALE_EPOCH or BUSY; an entry's is OK (the record follows), ABSENT,
    CORRUPT or RECOVERING.
    """

    seq: int
    status: int = OK
    differing: tuple[tuple[int, int, bytes], ...] = ()


class RangeRead(NamedTuple):
    """The records with ``start <= key < end`` and ``key > after`` (``b""``: all), ``limit`` of them at most.

    ``digest`` is the checksum of what the asker holds, laid out as the answer's payload; 0 wants the records anyway.
    """

    seq: int
    start: bytes
    end: bytes
    after: bytes
    limit: int
    digest: int = 0


class RangeResult(NamedTuple):
    """``status`` OK: ``payload`` holds the entries in key order; EQUAL: the digest agreed; or STALE_EPOCH, BUSY,
    CORRUPT, RECOVERING. ``more``: the limit cut the answer short."""

    seq: int
    status: int
    more: bool
    payload: bytes = b""


class Forward(NamedTuple):
    """A client's request (or with TRANSACTION its requests) to be executed by a node that owns the keys.

    ``op`` is unique at the sender across restarts, ``session`` names the connection at the sender (watches and their
    end hang on it), ``db`` is the stored database. ``until_ms`` is a moment of the receiver's own clock, as ``Time``
    gives it, in ms modulo 2^32: with the flag UNTIL the request must not be executed at that moment or later. 0 is
    always over.
    """

    op: int
    session: int
    db: int
    proto: int
    level: int
    flags: int
    until_ms: int
    user: bytes
    commands: tuple[tuple[bytes, ...], ...]


class Forwarded(NamedTuple):
    """The reply of a forwarded request, finished bytes in the RESP version that was asked for."""

    op: int
    status: int
    reply: bytes


class SessionGone(NamedTuple):
    """A connection that had forwarded requests has ended: forget its watches."""

    session: int


class Time(NamedTuple):
    """The sender's ``Clock.steady_us``. It may have any start; it says how late a ``Forward`` comes."""

    us: int


class Pressure(NamedTuple):
    """How long the sender's own clients wait when they write, us; 0: not at all, the greatest number: until it says
    less."""

    wait_us: int


class Publish(NamedTuple):
    """A message for the subscribers of the receiver. Ordered."""

    kind: int
    channel: bytes
    message: bytes


class Interest(NamedTuple):
    """What the sender's clients subscribe to. ``reset``: forget what was said before. Ordered.

    ``added`` and ``removed`` are (kind, name) with CHANNEL, SHARD_CHANNEL or PATTERN, a row for each subscriber that
    there is more or less; or (EVERYTHING, b"").
    """

    reset: bool
    added: tuple[tuple[int, bytes], ...]
    removed: tuple[tuple[int, bytes], ...] = ()


class FlushTo(NamedTuple):
    """Raise flush floors: (first slot, last slot, db, stamp). Acked in WriteAcks under ``seq``."""

    seq: int
    floors: tuple[tuple[int, int, int, bytes], ...]


class HoldFor(NamedTuple):
    """Writes for member ``target``, which is away: hold them until it has them. Acked in WriteAcks under ``seq``."""

    seq: int
    target: int
    payload: bytes


# --- Gossip -----------------------------------------------------------------------------------------------------

#: (short, state, incarnation, source): state 0 alive, 1 suspect, 2 dead; source is the short id of who says so.
Update = tuple[int, int, int, int]


class Facts(NamedTuple):
    """What a node tells of itself in every gossip message.

    ``oldest_hint`` is the stamp of the oldest hint it holds for anybody, empty for none; ``load_permille`` its share of
    busy time; ``purge`` is opaque here.
    """

    ring_epoch: int = 0
    clock: int = 0
    oldest_hint: bytes = b""
    load_permille: int = 0
    purge: bytes = b""


class Ping(NamedTuple):
    """Are you there? Answered by an ``Ack`` of the same ``seq``; ``seq`` 0 only carries news and is not answered."""

    seq: int
    updates: tuple[Update, ...]
    facts: Facts


class PingReq(NamedTuple):
    """Please ping ``target`` for me, and answer ``seq`` with what you found."""

    seq: int
    target: int
    updates: tuple[Update, ...]
    facts: Facts


class Ack(NamedTuple):
    """Answer to ``Ping`` (``answered`` 1) or ``PingReq`` (1: the target answered, 0: it did not in time)."""

    seq: int
    answered: int
    updates: tuple[Update, ...]
    facts: Facts


class State(NamedTuple):
    """All the sender knows, one row for each member. ``reply`` 1 asks for the receiver's own."""

    reply: int
    rows: tuple[Update, ...]
    facts: Facts


# --- Forming a ring ---------------------------------------------------------------------------------------------

Address = tuple[str, int]


class Join(NamedTuple):
    """Take me in. ``cluster_id`` is the cluster the sender waits for: zeros until a bootstrap node named one.

    Ports of 0: none. ``cluster_enabled`` says which face ``client_port`` speaks, ``alternate_port`` the other.
    """

    node_id: bytes
    cluster_id: bytes
    client_host: str
    client_port: int
    alternate_port: int
    cluster_enabled: int
    node_host: str
    node_port: int


class Joined(NamedTuple):
    """You are a member: the decided ring, as ``cluster/ring.py`` encodes it."""

    ring: bytes


class Refused(NamedTuple):
    """Not (yet) a member. ``retry`` 1: keep asking; ``cluster_id`` names the cluster being formed, or zeros.

    ``elsewhere``: who else may be asked.
    """

    reason: str
    retry: int
    cluster_id: bytes
    elsewhere: tuple[Address, ...]


class RingPull(NamedTuple):
    """Send your ring if its epoch is above ``epoch``."""

    epoch: int


class RingPush(NamedTuple):
    """A ring the receiver should know."""

    ring: bytes


# --- Anti-entropy -----------------------------------------------------------------------------------------------


class TreeRoots(NamedTuple):
    """The sums of the 128 groups of slots, of the slots that both ends own."""

    session: int
    groups: tuple[int, ...]


class TreeSlots(NamedTuple):
    """Slots of differing groups with their roots."""

    session: int
    roots: tuple[tuple[int, int], ...]


class TreeLeaves(NamedTuple):
    """The 64 leaves of each slot whose roots differ."""

    session: int
    slots: tuple[tuple[int, tuple[int, ...]], ...]


class TreeKeys(NamedTuple):
    """(internal key, digest) of every record in the given leaf of a slot. ``more``: the leaf goes on."""

    session: int
    slot: int
    leaf: int
    more: bool
    keys: tuple[tuple[bytes, bytes], ...]


class PullRecords(NamedTuple):
    """Send these records, as Writes of kind REPAIR."""

    session: int
    keys: tuple[bytes, ...]


class Floors(NamedTuple):
    """What must be known before sums are compared.

    Flush floors (first slot, last slot, db, stamp) and purge watermarks (first slot, last slot, HLC value).
    """

    session: int
    floors: tuple[tuple[int, int, int, bytes], ...]
    watermarks: tuple[tuple[int, int, int], ...]


class TreeEnd(NamedTuple):
    """The session is over. ``status`` OK: what was asked for has been sent; else why it was given up."""

    session: int
    status: int


# --- Watching ---------------------------------------------------------------------------------------------------


class StatusPull(NamedTuple):
    """Tell me about yourself: ``section`` names what."""

    seq: int
    section: str


class Status(NamedTuple):
    """Facts, (name, value) each."""

    seq: int
    facts: tuple[tuple[str, bytes], ...]
