"""What the command makes of a ring of which it cannot reach every node."""

from __future__ import annotations

from pathlib import Path

import pytest

from respkv.base.slots import SLOT_COUNT
from respkv.cli.local_node import LocalNode, Report, Slots, make_nodes
from respkv.cli.ring_health import is_healthy, slots_by_health
from respkv.cluster.formation import FormationState
from respkv.cluster.ring import Member, Ring, first_ring

AWAY = Report()


def ring_of(nodes: list[LocalNode]) -> Ring:
    members = [
        Member(
            node_id=bytes([node.number]) * 16, short=node.number, client_host="h", client_port=node.port,
            alternate_port=node.alternate_port, cluster_enabled=False, node_host="h", node_port=node.link_port,
        )
        for node in nodes
    ]  # fmt: skip
    return first_ring(b"c" * 16, seed=7, replicas=3, members=members)


def nodes_of_a_ring(directory: Path, count: int) -> list[LocalNode]:
    """Nodes that have saved their ring."""
    nodes = make_nodes(directory, nodes=count, base_port=7001)
    for node in nodes:
        node.path("").mkdir()
        (node.path("") / "CLUSTER").write_bytes(FormationState(b"c" * 16, 7, ring_of(nodes)).encode())
    return nodes


def ready(live: int, beliefs: dict[int, str] | None = None, slots: Slots = (SLOT_COUNT, 0, 0)) -> Report:
    return Report(1, "ready", live, 0, 0, "member", slots, beliefs or {})


def test_who_cannot_be_reached_is_away_whatever_the_others_believe(tmp_path: Path) -> None:
    nodes = nodes_of_a_ring(tmp_path, 3)
    assert slots_by_health(nodes, [ready(3)] * 3) == (SLOT_COUNT, 0, 0)
    assert slots_by_health(nodes, [ready(3), AWAY, ready(3)]) == (SLOT_COUNT, 0, 0)
    assert slots_by_health(nodes, [AWAY, ready(3), Report(1, "silent")]) == (0, 0, SLOT_COUNT)
    assert slots_by_health(nodes, [AWAY, Report(1, "starting"), AWAY]) is None


def test_of_those_that_answer_the_first_one_is_believed(tmp_path: Path) -> None:
    nodes = nodes_of_a_ring(tmp_path, 3)
    assert slots_by_health(nodes, [ready(3, {2: "suspect", 3: "alive"}), ready(3), AWAY]) == (0, SLOT_COUNT, 0)
    assert slots_by_health(nodes, [ready(1, {2: "dead", 3: "dead"}), ready(3), ready(3)]) == (0, 0, SLOT_COUNT)


def test_slots_of_other_replicas_are_ok(tmp_path: Path) -> None:
    found = slots_by_health(nodes_of_a_ring(tmp_path, 5), [AWAY, AWAY, ready(5), ready(5), ready(5)])
    assert found is not None and sum(found) == SLOT_COUNT and 0 < found[2] < found[0]


def test_any_node_that_can_tell_has_saved_the_ring(tmp_path: Path) -> None:
    nodes = nodes_of_a_ring(tmp_path, 3)
    (nodes[0].path("") / "CLUSTER").write_bytes(b"damaged")
    (nodes[1].path("") / "CLUSTER").unlink()
    assert slots_by_health(nodes, [ready(3), AWAY, AWAY]) == (0, 0, SLOT_COUNT)
    # Without it there is only what the node says.
    (nodes[2].path("") / "CLUSTER").unlink()
    assert slots_by_health(nodes, [ready(3), AWAY, AWAY]) == (SLOT_COUNT, 0, 0)


@pytest.mark.parametrize(
    ("reports", "slots", "healthy"),
    [
        ([ready(2), ready(2)], (SLOT_COUNT, 0, 0), True),
        ([ready(2), ready(1)], (SLOT_COUNT, 0, 0), False),
        ([ready(2), AWAY], (SLOT_COUNT, 0, 0), False),
        ([ready(2), Report(1, "NOAUTH x")], (SLOT_COUNT, 0, 0), False),
        ([ready(2), ready(2)], (SLOT_COUNT - 1, 1, 0), False),
        ([ready(2), ready(2)], (SLOT_COUNT - 1, 0, 1), False),
        ([ready(2), ready(2)], None, False),
    ],
)
def test_healthy(reports: list[Report], slots: Slots | None, healthy: bool) -> None:
    assert is_healthy(reports, slots) is healthy
