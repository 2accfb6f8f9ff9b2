"""RKV.RING, RKV.NODES, RKV.STATUS, RKV.LEVEL, RKV.LASTOP, and the level in a connection's name."""

from __future__ import annotations

from typing import Any

import pytest

from respkv.base.slots import SLOT_COUNT
from respkv.cluster.topology import public_id
from respkv.commands.command import docs_of
from respkv.commands.ring import COMMANDS
from respkv.replication import levels
from respkv.resp.reply import encode
from tests.unit.cluster.rings import node_id
from tests.unit.commands.fake_ring import FakeRing, connect, join
from tests.unit.commands.fake_server import Client, ErrorText, FakeServer

NO_RING = ErrorText("ERR This instance is not a member of a ring")
NAMES = [spec.name.upper() for spec in COMMANDS]


def member(ring: FakeRing | None = None, *, cluster_face: bool = False) -> tuple[FakeRing, Client]:
    ring = ring or FakeRing()
    return ring, connect(join(FakeServer(), ring), cluster_face=cluster_face)


def mapped(flat: list[Any]) -> dict[bytes, Any]:
    """A RESP2 map."""
    assert len(flat) % 2 == 0
    return dict(zip(flat[::2], flat[1::2], strict=True))


def level(client: Client) -> int:
    return client.session.level


@pytest.mark.parametrize("name", NAMES)
def test_a_single_node_is_no_member(name: str) -> None:
    assert FakeServer().client()(name) == NO_RING


def test_ring() -> None:
    ring, client = member()
    assert ring.ring is not None and ring.placement is not None
    answer = mapped(client("RKV.RING"))
    assert answer[b"epoch"] == 1 and answer[b"members"] == 3 and answer[b"replication-factor"] == 3
    assert answer[b"slots"] == SLOT_COUNT and answer[b"myself"] == 1
    assert answer[b"seed"] == b"%d" % ring.ring.seed
    assert answer[b"cluster-id"] == ring.ring.cluster_id.hex().encode()
    assert answer[b"voters"] == [1, 2, 3]
    nodes = [mapped(node) for node in answer[b"nodes"]]
    assert [node[b"short"] for node in nodes] == [1, 2, 3]
    assert [node[b"id"] for node in nodes] == [public_id(node_id(short)).encode() for short in (1, 2, 3)]
    assert sum(node[b"slots-primary"] for node in nodes) == SLOT_COUNT
    assert sum(node[b"slots-replica"] for node in nodes) == 2 * SLOT_COUNT


def test_ring_with_fewer_copies_than_nodes() -> None:
    answer = mapped(member(FakeRing(5, replicas=2))[1]("RKV.RING"))
    assert answer[b"replication-factor"] == 2
    nodes = [mapped(node) for node in answer[b"nodes"]]
    assert sum(node[b"slots-primary"] + node[b"slots-replica"] for node in nodes) == 2 * SLOT_COUNT
    assert all(0 < node[b"slots-primary"] < SLOT_COUNT for node in nodes)


def test_nodes() -> None:
    ring, client = member()
    assert ring.membership is not None
    ring.membership.apply((2, 1, 7, 1))
    ring.membership.set_reachable(3, False)
    ring.membership.rtt(3, 1234)
    ring.repair.hints[2] = 5
    first, second, third = [mapped(node) for node in client("RKV.NODES")]
    assert list(first) == [
        b"id", b"short", b"myself", b"address", b"node-address", b"state", b"live", b"incarnation", b"rtt-us",
        b"hints-pending",
    ]  # fmt: skip
    assert first[b"myself"] == b"yes" and first[b"incarnation"] == 4 and first[b"live"] == b"yes"
    assert first[b"address"] == b"10.0.0.1:7001" and first[b"node-address"] == b"10.1.0.1:17001"
    assert second[b"state"] == b"suspect" and second[b"incarnation"] == 7 and second[b"live"] == b"no"
    assert second[b"hints-pending"] == 5 and second[b"myself"] == b"no"
    assert third[b"state"] == b"alive" and third[b"live"] == b"no" and third[b"rtt-us"] == 1234
    assert third[b"hints-pending"] == 0


def test_nodes_names_the_ports_of_the_face_that_asks() -> None:
    _, client = member(cluster_face=True)
    assert [mapped(node)[b"address"] for node in client("RKV.NODES")] == [
        b"10.0.0.1:7101", b"10.0.0.2:7102", b"10.0.0.3:7103",
    ]  # fmt: skip


def test_status_is_flat() -> None:
    ring, client = member()
    ring.repair.hints = {2: 3}
    answer = mapped(client("RKV.STATUS"))
    assert answer[b"status"] == b"member of a ring of 3" and answer[b"formed"] == b"yes" and answer[b"myself"] == 1
    assert answer[b"slots_ok"] == SLOT_COUNT and answer[b"slots_fail"] == 0
    assert answer[b"hints_pending"] == 3 and answer[b"replication_lag_ms"] == 30
    assert answer[b"peer_2"] == b"state=alive,rtt_us=2,lag_ms=20" and b"peer_1" not in answer
    assert answer[b"ring_epoch"] == 1 and answer[b"mesh_sent_messages"] == 11 and answer[b"hint_entries"] == 3
    assert not any(isinstance(value, list) for value in answer.values())


def test_before_the_ring_is_formed() -> None:
    _, client = member(FakeRing(0))
    answer = mapped(client("RKV.STATUS"))
    assert answer[b"status"] == b"waiting for 2 of 3 nodes" and answer[b"formed"] == b"no"
    assert answer[b"mesh_links"] == 0 and b"slots_ok" not in answer
    for name in ("RKV.RING", "RKV.NODES"):
        assert client(name) == ErrorText("LOADING The ring is not formed yet: waiting for 2 of 3 nodes")
    assert client("RKV.LEVEL", "all") == b"OK"


@pytest.mark.parametrize(
    ("word", "number"), [("eventual", 1), ("QUORUM", 2), ("All", 3), ("default", 0)]
)  # fmt: skip
def test_level(word: str, number: int) -> None:
    _, client = member()
    assert client("RKV.LEVEL") == b"default"
    assert client("RKV.LEVEL", word) == b"OK"
    assert level(client) == number
    assert client("RKV.LEVEL") == word.lower().encode()


def test_level_that_is_none() -> None:
    _, client = member()
    client("RKV.LEVEL", "all")
    assert client("RKV.LEVEL", "strong") == ErrorText(
        "ERR unknown level 'strong': it is eventual, quorum, all or default"
    )
    assert level(client) == levels.ALL
    assert client("RKV.LEVEL", "all", "x") == ErrorText("ERR wrong number of arguments for 'rkv.level' command")
    client("MULTI")
    assert client("RKV.LEVEL", "all").startswith("ERR ")


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("app;level=eventual", levels.EVENTUAL),
        ("app;zone=a;level=ALL", levels.ALL),
        (";level=quorum", levels.QUORUM),
        ("app;level=default", levels.DEFAULT),
        ("app", levels.ALL),
        ("level=eventual", levels.ALL),
        ("", levels.ALL),
    ],
)
def test_level_in_the_name(name: str, number: int) -> None:
    _, client = member()
    client("RKV.LEVEL", "all")
    assert client("CLIENT", "SETNAME", name) == b"OK"
    assert level(client) == number
    assert client("CLIENT", "GETNAME") == (name.encode() or None)


@pytest.mark.parametrize("second", ["app", "", "level=all"])
@pytest.mark.parametrize("how", [("CLIENT", "SETNAME"), ("HELLO", 2, "SETNAME")])
def test_the_level_of_a_name_goes_with_it(how: tuple[str, ...], second: str) -> None:
    _, client = member()
    client(*how, "app;level=eventual")
    client(*how, second)
    assert level(client) == levels.DEFAULT and client("RKV.LEVEL") == b"default"


def test_what_was_asked_for_last_counts_name_or_command() -> None:
    _, client = member()
    client("CLIENT", "SETNAME", "app;level=eventual")
    client("RKV.LEVEL", "all")
    client("CLIENT", "SETNAME", "app")
    assert level(client) == levels.ALL, "RKV.LEVEL is no matter of the name"
    client("CLIENT", "SETNAME", "app;level=eventual")
    client("CLIENT", "SETNAME", "app")
    assert level(client) == levels.DEFAULT
    client("CLIENT", "SETNAME", "app;level=eventual")
    client("RESET")
    client("RKV.LEVEL", "all")
    client("CLIENT", "SETNAME", "app")
    assert level(client) == levels.ALL


def test_a_name_with_a_level_that_is_none_changes_nothing() -> None:
    _, client = member()
    client("CLIENT", "SETNAME", "app;level=all")
    assert client("CLIENT", "SETNAME", "other;level=x").startswith("ERR unknown level 'x'")
    assert client("CLIENT", "GETNAME") == b"app;level=all" and level(client) == levels.ALL


def test_on_a_single_node_a_name_is_only_a_name() -> None:
    client = FakeServer().client()
    assert client("CLIENT", "SETNAME", "app;level=x") == b"OK"
    assert client("CLIENT", "GETNAME") == b"app;level=x"


def test_lastop() -> None:
    _, client = member()
    assert client("RKV.LASTOP") is None
    session = client.session
    session.last_op = {"level": 2, "acked": 3, "fallbacks": 0}
    assert mapped(client("RKV.LASTOP")) == {b"level": b"quorum", b"acked": 3, b"fallbacks": 0}
    client("HELLO", 3)
    assert client("RKV.LASTOP") == {b"level": b"quorum", b"acked": 3, b"fallbacks": 0}


def test_rows_are_documented() -> None:
    for spec in COMMANDS:
        assert spec.summary and spec.complexity and spec.group == "cluster"
        assert b"summary" in encode(docs_of(spec), 2)
