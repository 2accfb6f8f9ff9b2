"""What directives and directory say about being a node of a ring."""

from __future__ import annotations

from pathlib import Path

import pytest

from respkv.cluster.ring import Ring
from respkv.config.parser import load
from respkv.config.store import ConfigStore
from respkv.env.rng import seeded
from respkv.node.mesh import Mesh
from respkv.node.ring_member import RingMember
from respkv.node.ring_settings import RingProblem, RingSettings, default_host, is_loopback, ring_settings
from respkv.replication import levels
from respkv.wire.messages import Join
from tests.unit.node.ring_rig import DIRECTORY, new_disk

EXAMPLES = sorted((Path(__file__).parents[3] / "conf" / "cluster").glob("node-*.conf"))
OPENED = ["IDENTITY", "LOCK"]
SINGLE = ["CURRENT", "IDENTITY", "LOCK", "MANIFEST-000001", "tables", "wal"]
FOUNDER = "bootstrap yes\ncluster-size 3\n"
SECRET = "cluster-secret 0123456789abcdef\n"


def settings_of(text: str, names: list[str] | None = None) -> RingSettings | None:
    return ring_settings(ConfigStore(load(text).values), OPENED if names is None else names)


def ring_of(text: str, names: list[str] | None = None) -> RingSettings:
    found = settings_of(text, names)
    assert found is not None
    return found


@pytest.mark.parametrize("names", [[], OPENED, SINGLE])
def test_a_single_node_is_none_of_a_ring(names: list[str]) -> None:
    assert settings_of("port 7000\nreplication-factor 5\ncluster-secret x", names) is None


@pytest.mark.parametrize(
    ("text", "names"),
    [(FOUNDER, None), ("join 127.0.0.1:17000", None), ("", ["CLUSTER", "INCARNATION", *SINGLE]),
     (FOUNDER, ["CLUSTER", "INCARNATION", *SINGLE]), ("join h:1", ["INCARNATION", *SINGLE]),
     ("join h:1\ncluster-size 3", None), (FOUNDER, ["INCARNATION", *SINGLE]), (FOUNDER, ["server.log", *OPENED])],
)  # fmt: skip
def test_what_makes_a_node_of_a_ring(text: str, names: list[str] | None) -> None:
    found = ring_of(text, names)
    assert found.cluster_size == (3 if "bootstrap" in text else 0) and found.founds == ("bootstrap" in text)


@pytest.mark.parametrize(
    ("text", "names", "reason"),
    [
        (FOUNDER + "join a:1", None, "bootstrap and join exclude each other"),
        ("bootstrap yes", None, "bootstrap needs cluster-size"),
        ("cluster-size 3", None, "neither bootstrap nor join"),
        ("cluster-enabled yes", None, "cluster-enabled needs a ring"),
        (FOUNDER, SINGLE, "bootstrap needs an empty directory, and '.' holds the data of a single node"),
        ("join a:1\ndir /x", ["CURRENT"], "join needs an empty directory, and '/x' holds the data of a single node"),
        ("", ["CLUSTER", "IDENTITY", "INCARNATION"], "a member of a cluster, but its data are gone"),
        (FOUNDER, ["CLUSTER", "IDENTITY", "INCARNATION", "wal", "tables"], "its data are gone"),
        ("join a:1", ["CLUSTER", "IDENTITY", "INCARNATION"], "its data are gone"),
        ("", ["INCARNATION", *SINGLE], "that of a node that waits for its cluster"),
        (FOUNDER + "port 0\nalternate-port 7000", None, "port is 0"),
        (FOUNDER + "port 60000", None, "above 65535: set cluster-port"),
        (FOUNDER + "port 7000\ncluster-port 7000", None, "the port between nodes is 7000, and so is port"),
        (FOUNDER + "port 7000\nalternate-port 17000", None, "and so is alternate-port"),
        (FOUNDER + "port 7000\nmetrics-port 17000", None, "and so is metrics-port"),
        (FOUNDER + "port 7000\nalternate-port 7000", None, "port and alternate-port are both 7000"),
        (FOUNDER + "read-quorum 4", None, r"read-quorum is 4, more than the copies of a key \(replication-factor 3\)"),
        (FOUNDER + "replication-factor 1\nwrite-quorum 2", None, "write-quorum is 2"),
        (FOUNDER + "bind 10.0.0.1", None, "reach this one at 10.0.0.1, but cluster-secret is empty"),
        (FOUNDER + "cluster-announce-bus-ip other", None, "at other, but cluster-secret is empty"),
    ],
)
def test_what_cannot_be(text: str, names: list[str] | None, reason: str) -> None:
    with pytest.raises(RingProblem, match=reason):
        settings_of(text, names)


def test_defaults() -> None:
    found = ring_of(FOUNDER)
    assert found.join(b"n" * 16) == Join(b"n" * 16, bytes(16), "127.0.0.1", 6379, 0, 0, "127.0.0.1", 16379)
    assert (found.node_port, found.replicas, found.read_quorum, found.write_quorum) == (16379, 3, 0, 0)
    assert found.level == levels.QUORUM and found.warnings == () and found.seeds == ()


def test_all_that_can_be_said() -> None:
    found = ring_of(
        SECRET + "join a:1 [::1]:2\njoin b:3\nport 7000\nalternate-port 7100\ncluster-port 9000\ncluster-enabled yes\n"
        "cluster-announce-ip 10.1.1.1\ncluster-announce-port 5000\ncluster-announce-alternate-port 5100\n"
        "cluster-announce-bus-ip node.one\ncluster-announce-bus-port 5200\nconsistency-level all\n"
        "read-quorum 1\nwrite-quorum 3\nbind 127.0.0.1 10.0.0.1"
    )
    assert found.join(b"n" * 16) == Join(b"n" * 16, bytes(16), "10.1.1.1", 5000, 5100, 1, "node.one", 5200)
    assert found.seeds == (("a", 1), ("::1", 2), ("b", 3))
    assert (found.node_port, found.node_bind) == (9000, ("127.0.0.1", "10.0.0.1"))
    assert found.secret == b"0123456789abcdef" and "0123456789abcdef" not in repr(found)
    assert found.level == levels.ALL
    assert (found.read_quorum, found.write_quorum) == (1, 3) and found.warnings == ()


@pytest.mark.parametrize(("enabled", "port", "alternate"), [("yes", True, False), ("no", False, True)])
def test_faces(enabled: str, port: bool, alternate: bool) -> None:
    found = ring_of(FOUNDER + f"cluster-enabled {enabled}\nalternate-port 7100")
    assert found.cluster_face("port") is port and found.cluster_face("unixsocket") is port
    assert found.cluster_face("alternate-port") is alternate


def test_no_alternate_port_is_announced_when_there_is_none() -> None:
    assert ring_of(FOUNDER + "cluster-announce-alternate-port 5").alternate_port == 0


@pytest.mark.parametrize(
    ("text", "bind", "warning"),
    [
        ("", ("127.0.0.1", "-::1"), ""),
        ("bind 10.0.0.1 127.0.0.1 -::1\ncluster-announce-ip 127.0.0.1\n", ("127.0.0.1", "-::1"), ""),
        ("bind 127.0.0.2\n", ("127.0.0.2",), ""),
        (SECRET, ("*", "-::*"), ""),
        (SECRET + "bind 10.0.0.1\n", ("10.0.0.1",), ""),
        ("cluster-secret short\n", ("*", "-::*"), "cluster-secret has 5 characters"),
        ("protected-mode no\n", ("*", "-::*"), "cluster-secret is empty and protected-mode is off"),
        ("protected-mode no\nbind 127.0.0.1\n", ("127.0.0.1",), ""),
    ],
)
def test_without_a_secret_only_this_machine_is_listened_to(text: str, bind: tuple[str, ...], warning: str) -> None:
    found = ring_of(FOUNDER + text)
    assert found.node_bind == bind
    assert found.warnings == () if not warning else (len(found.warnings) == 1 and warning in found.warnings[0])


def test_other_warnings() -> None:
    assert "where only this machine reaches it" in ring_of(SECRET + "join 10.0.0.1:17000").warnings[0]
    assert ring_of(SECRET + "join 10.0.0.1:17000\nbind 10.0.0.2").warnings == ()
    assert "may miss what was acknowledged" in ring_of(FOUNDER + "read-quorum 1\nwrite-quorum 2").warnings[0]
    assert "may miss" in ring_of(FOUNDER + "write-quorum 1").warnings[0]
    assert ring_of(FOUNDER + "read-quorum 1\nwrite-quorum 3").warnings == ()
    assert ring_of(FOUNDER + "replication-factor 2\nread-quorum 1").warnings == ()


@pytest.mark.parametrize(
    ("bind", "host"),
    [("* -::*", "127.0.0.1"), ("0.0.0.0", "127.0.0.1"), ("", "127.0.0.1"), ("127.0.0.1 -::1", "127.0.0.1"),
     ("127.0.0.1 10.0.0.1", "10.0.0.1"), ("-::1", "::1"), ("* 10.0.0.1", "10.0.0.1"), ("localhost", "localhost")],
)  # fmt: skip
def test_the_address_to_announce(bind: str, host: str) -> None:
    assert default_host(bind.split()) == host


def test_loopback() -> None:
    assert all(is_loopback(host) for host in ("127.0.0.1", "127.9.9.9", "::1", "-::1", "LOCALHOST"))
    assert not any(is_loopback(host) for host in ("10.0.0.1", "*", "::", "host", ""))


def test_the_examples_are_one_cluster() -> None:
    """The founder's and the joiners' files, as they are shipped, make a ring of three."""
    assert [path.name for path in EXAMPLES] == ["node-1.conf", "node-2.conf", "node-3.conf"]
    found = [ring_of(path.read_text()) for path in EXAMPLES]
    assert [each.cluster_size for each in found] == [3, 0, 0] and len({each.secret for each in found}) == 1
    assert all(each.warnings == () and each.cluster_face("alternate-port") for each in found)
    members = []
    for number, each in enumerate(found, 1):
        join = each.join(bytes([number]) * 16)
        mesh = Mesh(join.node_id, secret=each.secret, rng=seeded(number), log=lambda level, text: None)
        members.append(
            RingMember(
                join=join, seeds=each.seeds, cluster_size=each.cluster_size, replicas=each.replicas, mesh=mesh,
                fs=new_disk(), directory=DIRECTORY, rng=seeded(number), log=lambda level, text: None, now_us=0,
            )
        )  # fmt: skip
    places = {(each.node_host, each.announced_node_port) for each in found}
    assert len(places) == 3 and all(seed in places for each in found for seed in each.seeds)
    founder = members[0]
    for _ in range(4):
        if (plan := founder.save_plan()) is not None:
            plan.run()
            founder.on_saved(plan)
        cluster_id = founder._formation._state.cluster_id  # type: ignore[union-attr]
        for number, each in enumerate(found[1:], 2):
            founder.on_message(0, number, each.join(bytes([number]) * 16)._replace(cluster_id=cluster_id), 1)
    assert isinstance(founder.ring, Ring) and founder.ring.has_cluster_face and len(founder.ring.members) == 3
