"""CLUSTER, READONLY, READWRITE, ASKING on both faces of a ring's member."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from respkv.base.errors import BlockRequest, CorruptionError
from respkv.base.limits import WALK_STEPS_PER_TURN
from respkv.base.slots import SLOT_COUNT, slot_of
from respkv.cluster.topology import Link, public_id, shard_id
from respkv.commands.cluster import _INSTEAD, COMMANDS, _walked
from respkv.commands.session import Pending
from respkv.keyspace import keys
from respkv.resp import errors
from respkv.resp.errors import fail
from respkv.resp.reply import bulk_array
from respkv.testing.engine_driver import EngineDriver
from tests.unit.cluster.rings import node_id
from tests.unit.commands.fake_ring import FakeRing, connect, join
from tests.unit.commands.fake_server import Client, ErrorText, FakeServer

DISABLED = ErrorText("ERR This instance has cluster support disabled")
LOADING = ErrorText("LOADING Redis is loading the dataset in memory")
CLUSTER = next(spec for spec in COMMANDS if spec.name == "cluster")
#: Subcommand -> words behind it.
WORDS = {
    "addslots": "1", "addslotsrange": "1 2", "delslots": "1", "delslotsrange": "1 2", "setslot": "1 STABLE",
    "replicate": "x", "set-config-epoch": "1", "meet": "10.0.0.9 7000", "forget": "x", "countkeysinslot": "1",
    "getkeysinslot": "1 1", "keyslot": "k", "replicas": "x", "slaves": "x", "count-failure-reports": "x",
}  # fmt: skip
SUBCOMMANDS = [spec.name.partition("|")[2] for spec in CLUSTER.subcommands]


def words(subcommand: str) -> list[str]:
    return ["CLUSTER", subcommand.upper(), *WORDS.get(subcommand, "").split()]


def member(ring: FakeRing | None = None, *, cluster_face: bool = True) -> tuple[FakeRing, Client]:
    ring = ring or FakeRing()
    return ring, connect(join(FakeServer(), ring), cluster_face=cluster_face)


def text(lines: bytes) -> dict[str, str]:
    return dict(line.split(":", 1) for line in lines.decode().split("\r\n") if line)  # type: ignore[misc]


# -- faces -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("subcommand", SUBCOMMANDS)
def test_the_plain_face_of_a_ring_speaks_no_cluster_protocol(subcommand: str) -> None:
    assert member(cluster_face=False)[1](*words(subcommand)) == DISABLED


@pytest.mark.parametrize("word", ["READONLY", "READWRITE", "ASKING"])
def test_nor_do_its_connections(word: str) -> None:
    assert member(cluster_face=False)[1](word) == DISABLED


def test_a_single_node_has_no_cluster_face() -> None:
    client = connect(FakeServer(), cluster_face=True)
    assert client("CLUSTER", "SLOTS") == DISABLED and client("READONLY") == DISABLED


@pytest.mark.parametrize("subcommand", SUBCOMMANDS)
def test_while_the_ring_is_forming(subcommand: str) -> None:
    answer = member(FakeRing(0))[1](*words(subcommand))
    if subcommand == "keyslot":
        assert answer == slot_of(b"k")
    elif subcommand == "help":
        assert answer[0].startswith(b"CLUSTER <subcommand>")
    elif subcommand in _INSTEAD:
        assert answer.startswith(f"ERR CLUSTER {subcommand.upper()} is not available: ")
    else:
        assert answer == LOADING


def test_readonly_and_readwrite() -> None:
    _, client = member()
    session = client.session
    assert client("READONLY") == b"OK" and session.readonly
    assert client("READWRITE") == b"OK" and not session.readonly
    assert client("ASKING") == b"OK" and not session.readonly


# -- topology ----------------------------------------------------------------------------------------


def test_slots_shards_and_nodes_agree() -> None:
    _, client = member()
    by_slots: dict[bytes, list[int]] = {}
    for first, last, node in client("CLUSTER", "SLOTS"):
        by_slots.setdefault(node[2], []).extend((first, last))
    by_shards = {}
    for flat in client("CLUSTER", "SHARDS"):
        shard = dict(zip(flat[::2], flat[1::2], strict=True))
        node = dict(zip(shard[b"nodes"][0][::2], shard[b"nodes"][0][1::2], strict=True))
        by_shards[node[b"id"]] = shard[b"slots"]
    assert by_slots == by_shards
    lines = client("CLUSTER", "NODES").decode().splitlines()
    assert {line.split()[0].encode() for line in lines} == by_slots.keys()
    assert lines[0].split()[:3] == [public_id(node_id(1)), "10.0.0.1:7101@17001", "myself,master"]
    assert client("CLUSTER", "MYID") == public_id(node_id(1)).encode()
    assert client("CLUSTER", "MYSHARDID") == shard_id(node_id(1)).encode()


def test_a_new_topology_is_seen_at_once() -> None:
    ring, client = member()
    assert ring.membership is not None
    assert text(client("CLUSTER", "INFO"))["cluster_size"] == "3"
    ring.membership.apply((2, 2, 1, 2))
    ring.rebuild()
    assert text(client("CLUSTER", "INFO"))["cluster_size"] == "2"
    assert b",fail " in client("CLUSTER", "NODES")


def test_info_has_the_figures_of_the_links() -> None:
    found = text(member()[1]("CLUSTER", "INFO"))
    assert found["cluster_state"] == "ok" and found["cluster_slots_ok"] == str(SLOT_COUNT)
    assert found["cluster_stats_messages_sent"] == "11" and found["cluster_stats_messages_received"] == "12"
    assert found["total_cluster_links_buffer_limit_exceeded"] == "2"


def test_links() -> None:
    ring, client = member()
    ring.mesh.given = [Link(2, True, 1234, True, 512, 100), Link(3, False, 1235, False, 0, 0)]
    first, second = [dict(zip(link[::2], link[1::2], strict=True)) for link in client("CLUSTER", "LINKS")]
    assert first[b"direction"] == b"to" and first[b"node"] == public_id(node_id(2)).encode()
    assert first[b"create-time"] == 1234 and second[b"direction"] == b"from"


def test_replicas_and_failure_reports() -> None:
    ring, client = member()
    assert ring.membership is not None
    other = public_id(node_id(2))
    for word in ("REPLICAS", "SLAVES"):
        assert client("CLUSTER", word, other) == []
        assert client("CLUSTER", word, "nobody") == ErrorText("ERR Unknown node nobody")
    assert client("CLUSTER", "COUNT-FAILURE-REPORTS", other) == 0
    ring.membership.apply((2, 1, 1, 3))
    assert client("CLUSTER", "COUNT-FAILURE-REPORTS", other) == 1
    assert client("CLUSTER", "COUNT-FAILURE-REPORTS", "nobody") == ErrorText("ERR Unknown node nobody")


def test_keyslot_and_saveconfig_and_help() -> None:
    _, client = member()
    assert client("CLUSTER", "KEYSLOT", "foo") == 12182
    assert client("CLUSTER", "KEYSLOT", "x{foo}y") == 12182
    assert client("CLUSTER", "SAVECONFIG") == b"OK"
    lines = client("CLUSTER", "HELP")
    assert lines[-1] == b"    Prints this help."


@pytest.mark.parametrize("subcommand", list(_INSTEAD))
def test_what_changes_a_ring_is_told_what_to_do_instead(subcommand: str) -> None:
    answer = member()[1](*words(subcommand))
    assert isinstance(answer, ErrorText)
    head, _, instead = answer.partition(": ")
    assert head == f"ERR CLUSTER {subcommand.upper()} is not available" and len(instead) > 20


# -- what lies in a slot -----------------------------------------------------------------------------

TAGGED = slot_of(b"tag")


def filled(count: int) -> tuple[FakeServer, Client, list[bytes]]:
    fake = join(FakeServer(), FakeRing())
    client = connect(fake)
    names = [b"{tag}%03d" % number for number in range(count)]
    for name in names:
        assert client("SET", name, "v") == b"OK"
    # A slot before, one behind, and a key that has gone.
    for other in (TAGGED - 1, TAGGED + 1):
        name = next(name for name in (b"%d" % number for number in range(1 << 20)) if slot_of(name) == other)
        client("SET", name, "v")
    client("SET", "{tag}gone", "v")
    assert client("GETDEL", "{tag}gone") == b"v"
    return fake, client, names


def settled(fake: FakeServer, client: Client, answer: Any) -> Any:
    """A reply that may come later."""
    while isinstance(answer, Pending) and answer.reply is None:
        assert fake.timers()
        fake.advance_ms(1)
    return client.result(answer) if isinstance(answer, Pending) else answer


@pytest.mark.parametrize("count", [0, 1, 3, 700, 6000])
def test_keys_of_a_slot(count: int) -> None:
    fake, client, names = filled(count)
    assert settled(fake, client, client("CLUSTER", "COUNTKEYSINSLOT", TAGGED)) == count
    found = settled(fake, client, client("CLUSTER", "GETKEYSINSLOT", TAGGED, 10_000))
    assert sorted(found) == sorted(names)
    for limit in (0, 1, 2, 600):
        some = settled(fake, client, client("CLUSTER", "GETKEYSINSLOT", TAGGED, limit))
        assert len(some) == min(limit, count) and set(some) <= set(names)
    assert settled(fake, client, client("CLUSTER", "COUNTKEYSINSLOT", TAGGED - 1)) == 1
    assert settled(fake, client, client("CLUSTER", "COUNTKEYSINSLOT", SLOT_COUNT - 1)) == 0


def test_keys_of_other_databases_do_not_count() -> None:
    fake, client, _ = filled(3)
    plain = connect(fake, cluster_face=False)
    plain("SELECT", 1)
    for number in range(100):
        plain("SET", f"{{tag}}other{number}", "v")
    assert settled(fake, client, client("CLUSTER", "COUNTKEYSINSLOT", TAGGED)) == 3


def test_keys_that_expired_do_not_count() -> None:
    fake, client, _ = filled(2)
    client("SET", "{tag}short", "v", "PX", 10)
    assert client("CLUSTER", "COUNTKEYSINSLOT", TAGGED) == 3
    fake.advance_ms(11)
    assert client("CLUSTER", "COUNTKEYSINSLOT", TAGGED) == 2


def test_a_transaction_waits_for_nothing() -> None:
    _, client, _ = filled(6000)
    client("MULTI")
    client("CLUSTER", "COUNTKEYSINSLOT", TAGGED)
    client("CLUSTER", "GETKEYSINSLOT", TAGGED, 2)
    count, names = client("EXEC")
    assert count == 6000 and len(names) == 2


@pytest.mark.parametrize(
    ("command", "mistake"),
    [
        ("COUNTKEYSINSLOT x", "ERR value is not an integer or out of range"),
        ("COUNTKEYSINSLOT -1", "ERR Invalid slot"),
        ("COUNTKEYSINSLOT 16384", "ERR Invalid slot"),
        ("GETKEYSINSLOT 1 -1", "ERR Invalid slot or number of keys"),
        ("GETKEYSINSLOT 16384 1", "ERR Invalid slot or number of keys"),
        ("GETKEYSINSLOT x 1", "ERR value is not an integer or out of range"),
        ("GETKEYSINSLOT 1 x", "ERR value is not an integer or out of range"),
    ],
)
def test_mistakes_are_those_of_redis(command: str, mistake: str) -> None:
    assert member()[1]("CLUSTER", *command.split()) == ErrorText(mistake)


class Slow:
    """A server whose store is on disk, and whose blocks come when they are delivered."""

    def __init__(self, count: int) -> None:
        self.fake, self.client, self.names = filled(count)
        self.fetches = 0
        self.waiting: list[tuple[list[BlockRequest], Callable[[], None]]] = []
        engine = self.fake.harness.engine
        engine.rotate()
        EngineDriver(engine, derive=keys.derive).settle()
        engine.fs.cold = random.Random(1)  # type: ignore[attr-defined]
        engine.fs.drop_page_cache()  # type: ignore[attr-defined]
        self.fake.fetch = self.fetch  # type: ignore[method-assign]

    def fetch(self, requests: list[BlockRequest], done: Callable[[], None]) -> None:
        self.fetches += 1
        self.waiting.append((requests, done))

    def deliver(self) -> None:
        """Bring what is waited for until nothing is."""
        while self.waiting or self.fake.timers():
            waiting, self.waiting = self.waiting, []
            for requests, done in waiting:
                for request in requests:
                    request.install(request.read())
                done()
            self.fake.advance_ms(1)


def test_blocks_that_are_not_in_memory_are_waited_for() -> None:
    slow = Slow(2000)
    answer = slow.client("CLUSTER", "GETKEYSINSLOT", TAGGED, 5000)
    assert isinstance(answer, Pending) and answer.reply is None and slow.waiting
    slow.deliver()
    assert sorted(slow.client.result(answer)) == sorted(slow.names)
    assert slow.fetches > 1


def test_a_client_that_has_gone_is_not_walked_for() -> None:
    slow = Slow(2000)
    answer = slow.client("CLUSTER", "COUNTKEYSINSLOT", TAGGED)
    assert isinstance(answer, Pending)
    answer.abandoned = True
    slow.deliver()
    assert answer.reply is None and slow.fetches == 1


def test_a_transaction_reads_blocks_at_once() -> None:
    slow = Slow(2000)
    slow.client("MULTI")
    slow.client("CLUSTER", "COUNTKEYSINSLOT", TAGGED)
    assert slow.client("EXEC") == [2000] and slow.fetches == 0


def test_damage_that_is_met_later_is_an_error_of_that_request() -> None:
    fake = join(FakeServer(), FakeRing())
    client = connect(fake)

    def walk(mistake: Exception) -> Iterator[None]:
        for _ in range(WALK_STEPS_PER_TURN):
            yield None
        raise mistake

    def run(mistake: Exception) -> Any:
        answer = _walked(walk(mistake), client.session, bulk_array)  # type: ignore[arg-type]
        return settled(fake, client, answer)

    damage = CorruptionError("7.sst", 0, "bad checksum")
    assert run(damage) == ErrorText(errors.CORRUPT[1:-2].decode())
    assert fake.logged == [("warning", f"stored data is damaged: {damage}")]
    assert run(fail(errors.SYNTAX)) == ErrorText("ERR syntax error")


def test_every_subcommand_has_a_documented_row() -> None:
    assert len(SUBCOMMANDS) == 28
    for spec in CLUSTER.subcommands:
        assert spec.summary and spec.complexity and spec.handler is not None
