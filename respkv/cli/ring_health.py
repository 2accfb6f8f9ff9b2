"""How the slots of a local ring fare, as a command can tell that cannot reach every node.

Members need a second or two until they believe that another one is dead. The command knows better: whom it cannot
reach is away. What a slot's replicas are is in the ring, which every member has saved in its directory.
"""

from __future__ import annotations

from collections.abc import Sequence

from respkv.base.slots import SLOT_COUNT
from respkv.cli.local_node import READY, LocalNode, Report, Slots
from respkv.cluster.formation import FormationState
from respkv.cluster.placement import Placement
from respkv.cluster.ring import BadRing, Ring
from respkv.cluster.topology import Topology
from respkv.node.ring_settings import CLUSTER_FILE


def slots_by_health(nodes: Sequence[LocalNode], reports: Sequence[Report]) -> Slots | None:
    """How many slots are ok, in danger and without a majority: as the first node sees it that answers, but that
    all nodes without an answer are away. None when nobody answers who is a member."""
    first, told = next(((n, r) for n, r in zip(nodes, reports) if r.slots is not None), (None, None))
    if first is None or told is None:
        return None
    # Its own file before others: a node that has lost its data may have saved another ring since.
    ring = saved_ring([first, *nodes])
    shorts = {} if ring is None else {member.plain_face_port: member.short for member in ring.members}
    if ring is None or (me := shorts.get(first.port)) is None:
        return told.slots
    states = dict(told.beliefs)
    for node, report in zip(nodes, reports):
        if report.state != READY and node.port in shorts:
            states[shorts[node.port]] = "dead"
    found = Topology(ring, Placement(ring), states=states, me=me, face="plain").slots_by_health
    return found["ok"], found["pfail"], found["fail"]


def is_healthy(reports: Sequence[Report], slots: Slots | None) -> bool:
    """All nodes are up and see each other, and no slot is in danger."""
    return slots == (SLOT_COUNT, 0, 0) and all(report.live == len(reports) for report in reports)


def saved_ring(nodes: Sequence[LocalNode]) -> Ring | None:
    """The ring as a node has saved it; None when no file of it can be read."""
    for node in nodes:
        try:
            ring = FormationState.decode((node.path("") / CLUSTER_FILE).read_bytes()).ring
        except (OSError, BadRing):
            continue
        if ring is not None:
            return ring
    return None
