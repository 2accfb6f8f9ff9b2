"""What a person sees of a ring of real processes: where a key lies, whether copies are equal, and repair."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from respkv.base.slots import slot_of
from tests.integration.cluster.conftest import Ring, wait_until
from tests.integration.conftest import free_port
from tests.integration.test_watching import scrape

METRICS_PORT = free_port()


@pytest.fixture(scope="module")
def seen() -> Iterator[Ring]:
    """A ring of this module, whose nodes come and go. The first one has /metrics."""
    with tempfile.TemporaryDirectory(prefix="respkv-ring-", ignore_cleanup_errors=True) as directory:
        made = Ring(Path(directory))
        made.nodes[1].directives["metrics-port"] = METRICS_PORT
        try:
            yield made.start()
        finally:
            made.end()


def metrics(ring: Ring) -> dict[str, dict[str, float]]:
    """The page of the first node: name -> label (or nothing) -> value."""
    found: dict[str, dict[str, float]] = {}
    for (name, labels), value in scrape(METRICS_PORT).items():
        found.setdefault(name, {})["".join(label for _, label in labels)] = value
    return found


def mapped(row: Any) -> dict[bytes, Any]:
    return dict(zip(row[::2], row[1::2], strict=True))


def replicas(answer: dict[bytes, Any], name: bytes = b"replicas") -> dict[int, dict[bytes, Any]]:
    return {row[b"short"]: row for row in map(mapped, answer[name])}


def ask(ring: Ring, number: int, *words: object) -> dict[bytes, Any]:
    with ring.client(number) as client:
        return mapped(client.execute_command(*words))


def test_where_verify_and_repair_of_a_whole_ring(seen: Ring) -> None:
    with seen.client(1, level="all") as client:
        client.set("k", "v")
    for number in seen.nodes:
        answer = ask(seen, number, "RKV.WHERE", "k")
        found = replicas(answer)
        assert answer[b"slot"] == slot_of(b"k") and len(found) == 3 and answer[b"members-silent"] == []
        assert {row[b"holds"] for row in found.values()} == {b"value"}
        assert {row[b"newest"] for row in found.values()} == {row[b"reachable"] for row in found.values()} == {b"yes"}
        assert sum(row[b"myself"] == b"yes" for row in found.values()) == 1
    answer = ask(seen, 2, "RKV.VERIFY", slot_of(b"k"))
    assert answer[b"equal"] == answer[b"complete"] == b"yes"
    assert len({row[b"root"] for row in replicas(answer).values()}) == 1
    answer = ask(seen, 3, "RKV.REPAIR")
    assert answer[b"equal"] == b"yes" and answer[b"slots-differing"] == 0
    assert {row[b"result"] for row in replicas(answer, b"co-replicas").values()} == {b"equal"}


def test_a_dead_replica_is_named_and_costs_no_wait(seen: Ring) -> None:
    with seen.client(1, level="all") as client:
        client.set("k", "old")
    gone = int(seen.status(3)[b"myself"])
    seen.nodes[3].kill()
    seen.wait_whole([1, 2])
    with seen.client(1) as client:
        client.set("k", "new")
    found = replicas(ask(seen, 2, "RKV.WHERE", "k"))
    assert found[gone][b"reachable"] == b"no" and found[gone][b"holds"] == b"unknown"
    assert found[gone][b"hints-pending"] >= 1 and found[gone][b"state"] in (b"suspect", b"dead", b"alive")
    assert [row[b"holds"] for short, row in found.items() if short != gone] == [b"value", b"value"]
    answer = ask(seen, 1, "RKV.VERIFY", slot_of(b"k"))
    assert (answer[b"equal"], answer[b"complete"]) == (b"no", b"no")
    answer = ask(seen, 1, "RKV.REPAIR", slot_of(b"k"))
    results = {short: row[b"result"] for short, row in replicas(answer, b"co-replicas").items()}
    assert results.pop(gone) == b"unreachable" and list(results.values()) == [b"equal"]
    seen.nodes[3].start()
    seen.wait_whole()
    answer = ask(seen, 1, "RKV.REPAIR", slot_of(b"k"))
    assert answer[b"equal"] == b"yes"
    found = replicas(ask(seen, 3, "RKV.WHERE", "k"))
    assert {row[b"newest"] for row in found.values()} == {b"yes"}
    assert ask(seen, 1, "RKV.VERIFY", slot_of(b"k"))[b"equal"] == b"yes"


def test_metrics_and_info_tell_of_peers_lag_and_repairs(seen: Ring) -> None:
    rows = metrics(seen)
    gone = int(seen.status(3)[b"myself"])
    me = int(seen.status(1)[b"myself"])
    other = str(6 - gone - me)
    assert rows["respkv_ring_members"] == {"": 3} and rows["respkv_peers"] == {"alive": 2, "suspect": 0, "dead": 0}
    assert rows["respkv_peer_live"] == {str(gone): 1, other: 1} and rows["respkv_handshakes_refused_total"] == {"": 0}
    assert set(rows["respkv_rounds_failed_total"]) == {"eventual", "quorum", "all"}
    assert {"respkv_peer_latency_seconds", "respkv_peer_queue_bytes", "respkv_read_repairs_total"} <= rows.keys()
    with seen.client(1) as client:
        before = client.info("replication")
        assert before["respkv_peers_live"] == 2 and before[f"respkv_peer{gone}"]["live"] == 1
    seen.nodes[3].kill()
    seen.wait_whole([1, 2])
    with seen.client(1) as client:
        client.set("k", "while it is away")
        wait_until(lambda: metrics(seen)["respkv_peer_lag_seconds"][str(gone)] > 0.5, 10)
        info = client.info("replication")
        assert info["respkv_replication_lag_ms"] > 400 and info["respkv_hints_pending"] > 0
        assert client.info("ring")["respkv_ring_hints_pending_bytes"] > 0
    status = seen.status(1)
    assert status[b"hints_pending"] > 0 and b"state=" in status[b"peer_%d" % gone]
    rows = metrics(seen)
    assert rows["respkv_hints_pending"][str(gone)] > 0 and rows["respkv_peer_live"][str(gone)] == 0
    seen.nodes[3].start()
    seen.wait_whole()
    wait_until(lambda: metrics(seen)["respkv_peer_lag_seconds"][str(gone)] == 0, 15, lambda: str(metrics(seen)))
    assert metrics(seen)["respkv_hints_delivered_total"][""] > 0
