"""Figures of a ring for /metrics, INFO and RKV.STATUS: what each peer is like, and the few sums that a person asks for.

*Replication lag* of a peer is the age of the oldest write that it does not have as far as this node knows: one that is
on its way and not acked, or the oldest hint that is held for it. 0: it has acked everything.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from respkv.cluster.membership import STATE_NAMES
from respkv.replication.levels import NAMES

if TYPE_CHECKING:
    from respkv.node.ring_view import RingView

Figures = dict[str, int | float | Mapping[str, int | float]]
_NO_HINTS: Final[Mapping[str, int]] = {"entries": 0, "bytes": 0, "oldest_ms": 0}


def peers_of(ring: RingView) -> dict[int, dict[str, int | str]]:
    """By short id: what this node knows of each other member. Empty while the ring is being formed."""
    membership = ring.membership
    if membership is None:
        return {}
    now_ms = ring.node.now_ms
    hints = ring.repair.hints.target_stats()
    lags_us = ring.coordinator.writes.lags_us(ring.node.now_us)
    found: dict[int, dict[str, int | str]] = {}
    for short in membership.others:
        held = hints.get(short, _NO_HINTS)
        messages, waiting_bytes = ring.mesh.queued(short)
        hint_age_ms = max(0, now_ms - held["oldest_ms"]) if held["oldest_ms"] else 0
        found[short] = {
            "state": STATE_NAMES[membership.state(short)],
            "live": int(ring.live(short)),
            "rtt_us": membership.rtt_us(short),
            "lag_ms": max(lags_us.get(short, 0) // 1000, hint_age_ms),
            "hints": held["entries"],
            "hint_bytes": held["bytes"],
            "queue_messages": messages,
            "queue_bytes": waiting_bytes,
        }
    return found


def summary_of(ring: RingView) -> dict[str, int]:
    """The sums that a person looks for first."""
    peers = peers_of(ring).values()
    exchanged, replica, reads = ring.repair.sessions.counters, ring.replica, ring.coordinator.reads
    return {
        "peers": len(peers),
        "peers_live": sum(int(peer["live"]) for peer in peers),
        "hints_pending": sum(int(peer["hints"]) for peer in peers),
        "hints_pending_bytes": sum(int(peer["hint_bytes"]) for peer in peers),
        "replication_lag_ms": max((int(peer["lag_ms"]) for peer in peers), default=0),
        "divergent_slots_found": exchanged.slots_differing,
        "divergent_records_found": exchanged.differences,
        "records_repaired_here": replica.repaired,
        "records_repaired_there": exchanged.sent,
        "read_repairs": reads.repaired_here + reads.repaired_there,
        "tables_mended": ring.mend.mended,
    }


def figures_of(ring: RingView) -> Figures:
    """What the registry's rows ``ring.*`` ask for."""
    peers = peers_of(ring)
    reads, writes = ring.coordinator.reads, ring.coordinator.writes
    states = [str(peer["state"]) for peer in peers.values()]

    def by_peer(name: str) -> dict[str, int | float]:
        return {str(short): int(peer[name]) for short, peer in peers.items()}

    return {
        **ring.stats(),
        **summary_of(ring),
        "members": len(peers) + 1 if peers else 0,
        "peers_by_state": {name: states.count(name) for name in STATE_NAMES},
        "peer_live": by_peer("live"),
        "peer_rtt_us": by_peer("rtt_us"),
        "peer_lag_ms": by_peer("lag_ms"),
        "peer_hints": by_peer("hints"),
        "peer_hint_bytes": by_peer("hint_bytes"),
        "peer_queue_bytes": by_peer("queue_bytes"),
        "peer_queue_messages": by_peer("queue_messages"),
        "read_repairs_by_side": {"here": reads.repaired_here, "there": reads.repaired_there},
        "writes_failed_by_level": {NAMES[level]: writes.failed[level] for level in NAMES},
        "reads_failed_by_level": {NAMES[level]: reads.failed_by[level] for level in NAMES},
    }
