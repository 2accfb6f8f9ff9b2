"""sloppy-quorum with real processes: five nodes, three copies of each key, two of the three away."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from tests.integration.cluster.conftest import Ring, running_ring, wait_until
from tests.integration.cluster.history import Writer, end_all, lost

HINTED_S = 15.0
KEY = "k"


@pytest.fixture(scope="module")
def five() -> Iterator[Ring]:
    yield from running_ring(nodes=5, sloppy_quorum="yes")


def replicas(ring: Ring) -> list[int]:
    """The nodes that hold KEY, the primary first."""
    shorts = {int(ring.status(number)[b"myself"]): number for number in ring.nodes}
    with ring.client(1) as client:
        row = client.execute_command("RKV.WHERE", KEY)
        rows = dict(zip(row[::2], row[1::2]))[b"replicas"]
    return [shorts[int(dict(zip(each[::2], each[1::2]))[b"short"])] for each in rows]


def last_op(client: redis.Redis) -> dict[bytes, Any]:
    row = client.execute_command("RKV.LASTOP")
    return dict(zip(row[::2], row[1::2]))


def test_quorum_goes_on_with_stand_ins(five: Ring) -> None:
    """Two of a key's three replicas are killed: writes and reads at QUORUM go on, say so, and end where they belong."""
    first, *away = replicas(five)
    with five.client(first) as client:
        assert client.set(KEY, "before") and last_op(client)[b"fallbacks"] == 0
    for number in away:
        five.nodes[number].kill()
    live = [number for number in five.nodes if number not in away]
    five.wait_whole(live)
    writers = [Writer(five, f"{{{KEY}}}{at}", live, field=at == 1) for at in range(2)]
    try:
        with five.client(first) as client:
            assert client.set(KEY, "after") and last_op(client)[b"fallbacks"] == 1
            assert client.get(KEY) == b"after" and last_op(client)[b"fallbacks"] == 1
            facts = client.info("replication")
            assert facts["respkv_sloppy_quorum"] == "yes" and facts["respkv_slots_with_fallbacks"] > 0
            assert facts["respkv_fallback_writes"] >= 1 and facts["respkv_fallback_reads"] >= 1
        assert "stand in for replicas" in five.nodes[first].log_text()
        with five.client(first, level="all") as client, pytest.raises(redis.ResponseError, match="NOREPLICAS"):
            client.set(KEY, "refused")
        time.sleep(1)
        held = sum(five.status(number)[b"stand_in_entries_taken"] for number in live)
        assert held > 10
        assert min(writer.acknowledged for writer in writers) > 10
        for number in away:
            five.nodes[number].start()
        five.wait_whole()
    finally:
        end_all(writers)
    assert [writer.surprises for writer in writers] == [[], []]
    wait_until(lambda: not any(five.hints(number) for number in five.nodes), HINTED_S, five.report)
    for number in five.nodes:
        assert lost(five, number, writers) == []
    for number in away:
        with five.client(number, level="eventual") as client:
            assert client.get(KEY) == b"after"
    with five.client(first) as client:
        assert client.get(KEY) == b"after" and last_op(client)[b"fallbacks"] == 0
        assert client.info("replication")["respkv_slots_with_fallbacks"] == 0
