"""Routing: which node of the ring executes a request, and what a client is told that asked the wrong one.

On the *plain* face any node takes any request and forwards what it cannot do itself; on the *cluster* face slots are
the client's business: MOVED and CROSSSLOT, as Redis Cluster answers. Requests that read before they write run at the
acting primary, the first replica of their key that is alive; blind writes and reads run at any replica.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from respkv.commands.session import Session
from respkv.commands.spec import CommandSpec, Flag
from respkv.replication.coordinator import Coordinator
from respkv.replication.levels import DEFAULT, EVENTUAL
from respkv.resp import errors
from respkv.resp.reply import error

CROSS_SLOT: Final = error(b"CROSSSLOT Keys in request don't hash to the same slot")
CLUSTER_DOWN: Final = error(b"CLUSTERDOWN No replica of the key's slot can be reached; nothing was changed")
#: What the cluster face says for NOREPLICAS: its clients know by this that they may try again.
NOT_SERVED: Final = error(
    b"CLUSTERDOWN Hash slot not served: not enough of its replicas can be reached for this consistency level; nothing"
    b" was changed"
)
#: The answer of a request that has to be cut, where it can be (``spread``).
NO_COMMON_OWNER: Final = error(
    b"CROSSSLOT No reachable node holds all keys of the request; nothing was changed. Keys with a common {tag} are"
    b" always held together."
)
#: Options of SET that make it read the key before it writes.
_READING_OPTIONS: Final = frozenset({b"NX", b"XX", b"GET", b"KEEPTTL", b"IFEQ", b"IFNE", b"IFDEQ", b"IFDNE"})


class Route(NamedTuple):
    """``target`` is a node's short id; 0 with ``answer`` set says what the client is told instead."""

    target: int
    answer: bytes = b""


def key_slots(spec: CommandSpec, argv: list[bytes], coordinator: Coordinator) -> list[int]:
    """The slots of a request's keys, each once, in order."""
    slot_of = coordinator.slot_of
    slots = {slot_of(argv[index]): None for keyspec in spec.keys for index in keyspec.keys(argv)}
    return list(slots)


def face_obstacle(session: Session, spec: CommandSpec, argv: list[bytes]) -> bytes:
    """CROSSSLOT or MOVED for a request of the cluster face whose keys are not all of one slot that this node serves."""
    ring = session.server.ring
    return b"" if ring is None else misplaced(session, key_slots(spec, argv, ring.coordinator))


def misplaced(session: Session, slots: list[int]) -> bytes:
    """The same for the slots of a request or of a transaction; nothing on the plain face."""
    ring = session.server.ring
    if not slots or not session.cluster_face or ring is None or ring.topology is None:
        return b""
    if len(slots) > 1:
        return CROSS_SLOT
    colocation = ring.placement.colocation if ring.placement is not None else None
    if ring.topology.serves(slots[0]) or (colocation is not None and slots[0] in colocation.foreign):
        return b""  # Clients know nothing of colocated keys: sent elsewhere, they would come back here for ever.
    return ring.topology.moved(slots[0])


def reads_first(spec: CommandSpec, argv: list[bytes]) -> bool:
    """Whether a request must see the newest value before it writes: it then belongs to the acting primary."""
    if not spec.flags & Flag.WRITE:
        return False
    if spec.name == "set":
        return len(argv) > 3 and not _READING_OPTIONS.isdisjoint([word.upper() for word in argv[3:]])
    return bool(spec.flags & (Flag.ATOMIC | Flag.CONDITIONAL))


def level_of(session: Session, spec: CommandSpec, argv: list[bytes], coordinator: Coordinator) -> int:
    """The consistency level of a request: what the connection asks for, else the highest of its keys' levels."""
    if session.readonly and session.cluster_face and not spec.flags & Flag.WRITE:
        return EVENTUAL
    if session.level != DEFAULT:
        return session.level
    table = coordinator.levels_for
    if table is None:
        return coordinator.level
    found = {table.find(argv[index]): None for keyspec in spec.keys for index in keyspec.keys(argv)}
    return max([coordinator.level if level is None else level for level in found], default=coordinator.level)


def route(
    session: Session, spec: CommandSpec, argv: list[bytes], slots: list[int], level: int, coordinator: Coordinator
) -> Route:
    """Where a request with these slots (at least one) is executed: at a node that has copies of all of them."""
    me = coordinator.me
    mine = all(coordinator.mine[slot] for slot in slots)
    if answer := misplaced(session, slots):
        return Route(0, answer)
    write = bool(spec.flags & Flag.WRITE)
    target = me
    if not mine or reads_first(spec, argv):
        target = coordinator.substitute(slots, ())
        if not target:
            return Route(0, NO_COMMON_OWNER if all(map(coordinator.primary, slots)) else CLUSTER_DOWN)
    if session.forwarded and mine:
        target = me
    if target == me and not all(coordinator.reaches(slot, level, write=write) for slot in slots):
        return Route(0, NOT_SERVED if session.cluster_face else errors.NO_REPLICAS)
    return Route(target)
