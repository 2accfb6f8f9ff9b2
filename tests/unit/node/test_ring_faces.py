"""What clients of a ring are answered, face by face: production nodes under virtual time."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from respkv.base.slots import slot_of
from respkv.wire.messages import Writes
from tests.unit.commands.harness import ErrorText
from tests.unit.node.simulated_ring import Connection, SimulatedRing

FORMING = ErrorText("LOADING The ring is being formed: waiting for its other nodes. See RKV.STATUS.")


@pytest.fixture(scope="module")
def forming() -> SimulatedRing:
    return SimulatedRing(3, formed=False)


@pytest.fixture(scope="module")
def shared() -> SimulatedRing:
    return SimulatedRing(3)


@pytest.fixture
def ring(shared: SimulatedRing) -> Iterator[SimulatedRing]:
    yield shared
    assert shared.connect(1)("FLUSHALL") == b"OK"


def test_until_the_ring_is_formed_commands_wait(forming: SimulatedRing) -> None:
    client = forming.connect(1)
    for words in (["GET", "k"], ["PING"], ["DBSIZE"], ["KEYS", "*"], ["MGET", "a", "b"], ["HGETALL", "h"]):
        assert client(*words) == FORMING, words
    assert client("GET") == ErrorText("ERR wrong number of arguments for 'get' command")
    assert client("MULTI") == b"OK"
    assert client("SET", "k", "v") == FORMING
    assert client("EXEC") == ErrorText("EXECABORT Transaction discarded because of previous errors.")
    assert b"\r\nloading:1\r\n" in client("INFO", "persistence")
    assert client("CLIENT", "ID") > 0 and client("CONFIG", "GET", "port")
    assert client("RKV.STATUS") and client("RKV.RING").startswith("LOADING The ring is not formed yet: ")


def test_the_ring_and_its_nodes_are_told(ring: SimulatedRing) -> None:
    rows = []
    for number in (1, 2, 3):
        told = ring.connect(number)("RKV.RING")
        facts = dict(zip(told[::2], told[1::2]))
        assert facts[b"voters"] == [1, 2, 3] and len(facts[b"cluster-id"]) == 32 and facts[b"seed"].isdigit()
        rows.append([facts[name] for name in (b"cluster-id", b"seed", b"epoch", b"replication-factor")])
    assert rows[0] == rows[1] == rows[2]


def test_commands_between_databases(ring: SimulatedRing) -> None:
    face, plain = ring.connect(1, face="cluster"), ring.connect(1)
    key = next(f"k{at}" for at in range(99) if not str(face("EXISTS", f"k{at}")).startswith("MOVED"))
    assert face("SWAPDB", 0, 1) == ErrorText("ERR SWAPDB is not allowed in cluster mode")
    assert face("MOVE", key, 1) == ErrorText("ERR MOVE is not allowed in cluster mode")
    no_copy = ErrorText("ERR Copying to another database is not allowed in cluster mode")
    assert face("COPY", key, key, "DB", 1) == no_copy
    assert face("COPY", key, f"{{{key}}}2", "DB", 0) == 0
    assert plain("SWAPDB", 0, 1) == ErrorText("ERR This command is not available on a ring")
    for words, text in (
        (("a", "b"), "invalid first DB index"),
        ((0, "b"), "invalid second DB index"),
        ((0, 99), "DB index is out of range"),
        ((0, -1), "DB index is out of range"),
    ):
        assert plain("SWAPDB", *words) == ErrorText(f"ERR {text}")
        assert face("SWAPDB", *words) == ErrorText("ERR SWAPDB is not allowed in cluster mode")
    assert plain("SET", key, "v") == b"OK" and plain("COPY", key, key, "DB", 1) == 1 and plain("MOVE", key, 2) == 1
    for client in (face, plain):
        assert client("MULTI") == b"OK"
        assert isinstance(client("SWAPDB", 0, 1), ErrorText)
        assert client("EXEC") == ErrorText("EXECABORT Transaction discarded because of previous errors.")


# -- commands over the whole keyspace ------------------------------------------------------------------


@pytest.fixture(scope="module")
def wide_ring() -> SimulatedRing:
    """Five nodes, three copies: nobody has everything."""
    return SimulatedRing(5)


@pytest.fixture(params=[3, 5])
def sized(request: pytest.FixtureRequest, shared: SimulatedRing, wide_ring: SimulatedRing) -> Iterator[SimulatedRing]:
    found = shared if request.param == 3 else wide_ring
    yield found
    assert found.connect(1)("FLUSHALL") == b"OK"


def fill(ring: SimulatedRing, count: int) -> list[bytes]:
    """Keys on all their replicas."""
    names = [b"key-%d" % at for at in range(count)]
    client = ring.connect(1)
    client("RKV.LEVEL", "ALL")
    assert client.all(*[("SET", name, "v") for name in names]) == [b"OK"] * count
    return names


def scanned(client: Connection, *options: str | int) -> list[bytes]:
    """All that a whole SCAN gives; its cursors go to one node."""
    found, cursor = [], b"0"
    for _ in range(20_000):
        cursor, names = client("SCAN", cursor, *options)
        found += names
        if cursor == b"0":
            return found
    raise AssertionError("it does not end")


def test_the_plain_face_counts_each_key_of_the_ring_once(sized: SimulatedRing) -> None:
    names = fill(sized, 200)
    for number in range(1, sized.size + 1):
        client = sized.connect(number)
        assert client("DBSIZE") == 200
        assert sorted(client("KEYS", "*")) == sorted(names)
        assert sorted(client("KEYS", "key-1*")) == sorted(name for name in names if name.startswith(b"key-1"))
        assert sorted(scanned(client, "COUNT", 50)) == sorted(names)
        assert client("RANDOMKEY") in names
        client("SELECT", 1)
        assert client("DBSIZE") == 0 and client("KEYS", "*") == [] and scanned(client) == []
        assert client("RANDOMKEY") is None


def test_a_cursor_means_the_same_on_every_node(sized: SimulatedRing) -> None:
    names = fill(sized, 200)
    clients = [sized.connect(number) for number in range(1, sized.size + 1)]
    found, cursor, turn = [], b"0", 0
    while turn == 0 or cursor != b"0":
        cursor, part = clients[turn % len(clients)]("SCAN", cursor, "COUNT", 3)
        found += part
        turn += 1
    assert set(found) == set(names) and turn > 2


def test_the_nodes_of_the_cluster_face_add_up(sized: SimulatedRing) -> None:
    names = fill(sized, 200)
    told: list[bytes] = []
    counted = shown = 0
    for number in range(1, sized.size + 1):
        face = sized.connect(number, face="cluster")
        own = face("KEYS", "*")
        assert 10 < len(own) < 150 and sorted(scanned(face, "COUNT", 7)) == sorted(own)
        assert face("DBSIZE") == len(own) and face("RANDOMKEY") in own
        assert face.all(("MULTI",), ("DBSIZE",), ("EXEC",))[2] == [len(own)]
        told += own
        counted += len(own)
        shown += int(face("INFO", "keyspace").split(b"db0:keys=")[1].split(b",")[0])
        for name in own:
            assert face("GET", name) == b"v"
    assert sorted(told) == sorted(names) and counted == shown == 200


def test_info_of_the_plain_face_tells_of_the_whole_ring(sized: SimulatedRing) -> None:
    fill(sized, 400)
    shown = sized.connect(2)("INFO", "keyspace")
    keys = int(shown.split(b"db0:keys=")[1].split(b",")[0])
    assert keys == 400 if sized.size == 3 else 300 < keys < 500


def test_mistakes_in_whole_keyspace_commands(sized: SimulatedRing) -> None:
    client = sized.connect(2)
    assert client("SCAN", "x") == ErrorText("ERR invalid cursor")
    assert client("SCAN", 0, "COUNT", 0) == ErrorText("ERR syntax error")
    assert client("SCAN", 0, "COUNT") == ErrorText("ERR syntax error")
    assert client("SCAN", (1 << 64) - 1) == [b"0", []]


def test_slots_nobody_can_tell_of_are_an_error(wide_ring: SimulatedRing) -> None:
    client = wide_ring.connect(1)
    coordinator = wide_ring.node(1).ring.coordinator
    live, coordinator._live = coordinator._live, lambda short: False
    try:
        for words in (["DBSIZE"], ["KEYS", "*"], ["RANDOMKEY"]):
            assert client(*words).startswith("CLUSTERDOWN ")
    finally:
        coordinator._live = live


# -- what a request has used -----------------------------------------------------------------------------


def last(client: Connection) -> dict[bytes, object]:
    told = client("RKV.LASTOP")
    return dict(zip(told[::2], told[1::2]))


def test_the_last_operation_is_told(ring: SimulatedRing) -> None:
    client = ring.connect(1)
    assert client("RKV.LASTOP") is None and client("PING") == b"PONG" and client("RKV.LASTOP") is None
    me = ring.node(1).ring.me
    client("SET", "k", "v")
    assert last(client) == {
        b"command": b"set", b"level": b"quorum", b"node": me, b"replicas-read": 2, b"replicas-written": 2,
        b"compared": 0, b"newer-found": 0, b"fallbacks": 0,
    }  # fmt: skip
    client("GET", "k")
    assert last(client)[b"command"] == b"get" and last(client)[b"replicas-written"] == 0
    client("STRLEN", "k")
    told = last(client)
    assert (told[b"command"], told[b"compared"], told[b"newer-found"]) == (b"strlen", 1, 0)
    client("RKV.LEVEL", "ALL")
    client("MGET", "k", "l", "m")
    told = last(client)
    assert (told[b"level"], told[b"replicas-read"], told[b"compared"]) == (b"all", 3, 3)
    client("RKV.LEVEL", "EVENTUAL")
    assert client.all(("MULTI",), ("SET", "k", "w"), ("EXEC",))[2] == [b"OK"]
    told = last(client)
    assert (told[b"command"], told[b"level"], told[b"replicas-written"]) == (b"exec", b"eventual", 1)
    client("RESET")
    assert client("RKV.LASTOP") is None


def test_a_newer_record_elsewhere_is_told(ring: SimulatedRing) -> None:
    writer, reader = ring.connect(2), ring.connect(1)
    reader("RKV.LEVEL", "ALL")
    writer("RKV.LEVEL", "EVENTUAL")
    handlers = ring.node(1).ring._handlers
    takes, handlers[Writes] = handlers[Writes], lambda short, message: None
    try:
        assert writer("SET", "k", "new") == b"OK"
        ring.run(50_000)
    finally:
        handlers[Writes] = takes
    assert reader("STRLEN", "k") == 3
    assert last(reader)[b"newer-found"] == 1


def test_who_executed_a_request_is_told(ring: SimulatedRing) -> None:
    client = ring.connect(1)
    coordinator = ring.node(1).ring.coordinator
    for at in range(40):
        client("INCR", f"n{at}")
        assert last(client)[b"node"] == coordinator.primary(slot_of(b"n%d" % at))


# -- whose keys -----------------------------------------------------------------------------------------


def mine_and_not(ring: SimulatedRing, number: int) -> tuple[str, str]:
    """Two tags: one of a slot that a node has a copy of, one of a slot that it has not."""
    mine = ring.node(number).ring.coordinator.mine
    tags = [f"t{at}" for at in range(300)]
    return (
        next(tag for tag in tags if mine[slot_of(tag.encode())]),
        next(tag for tag in tags if not mine[slot_of(tag.encode())]),
    )


#: Requests with keys at ``{}``, each for two tags.
KEYED = [
    "GET {a}", "SET {a} v NX", "MGET {a} {b}", "MSET {a} v {b} w", "MSETNX {a} v {b} w", "DEL {a} {b}",
    "MSETEX 2 {a} v {b} w EX 9", "BITOP AND {a} {b} {a}", "COPY {a} {b}", "RENAME {a} {b}", "RENAMENX {a} {b}",
    "LCS {a} {b}", "TOUCH {a} {b}", "OBJECT ENCODING {a}", "HSET {a} f v", "HSCAN {a} 0", "HRANDFIELD {a} 2",
    "HEXPIRE {a} 9 FIELDS 1 f", "HSETEX {a} FIELDS 1 f v", "BITFIELD {a} GET u8 0", "GETEX {a} EX 9",
    "CAS {a} old new", "DELIFEQ {a} v", "DUMP {a}", "EXPIRE {a} 9", "WATCH {a} {b}", "SSUBSCRIBE {a} {b}",
    "SPUBLISH {a} x", "MEMORY USAGE {a}",
]  # fmt: skip


@pytest.mark.parametrize("words", KEYED)
def test_the_cluster_face_redirects_by_the_keys_wherever_they_stand(wide_ring: SimulatedRing, words: str) -> None:
    mine, other = mine_and_not(wide_ring, 1)
    face = wide_ring.connect(1, face="cluster")
    topology = wide_ring.node(1).ring.topology
    slot = slot_of(other.encode())
    moved = ErrorText(topology.moved(slot)[1:-2].decode())
    away = words.format(a=f"{{{other}}}x", b=f"{{{other}}}y").split()
    here = words.format(a=f"{{{mine}}}x", b=f"{{{mine}}}y").split()
    both = words.format(a=f"{{{mine}}}x", b=f"{{{other}}}y").split()
    assert face(*away) == moved
    if away[0] != "WATCH":
        assert face("MULTI") == b"OK" and face(*away) == moved
        assert face("EXEC") == ErrorText("EXECABORT Transaction discarded because of previous errors.")
    if "{b}" in words:
        assert face(*both) == ErrorText("CROSSSLOT Keys in request don't hash to the same slot")
    assert not str(face(*here)).startswith(("MOVED", "CROSSSLOT", "CLUSTERDOWN"))
    face.close()


def test_a_transaction_of_the_cluster_face_is_of_one_slot(wide_ring: SimulatedRing) -> None:
    mine = wide_ring.node(1).ring.coordinator.mine
    first, second = [f"k{at}" for at in range(300) if mine[slot_of(b"k%d" % at)]][:2]
    face = wide_ring.connect(1, face="cluster")
    replies = face.all(("MULTI",), ("SET", first, "v"), ("SET", second, "v"), ("EXEC",))
    assert replies[3] == ErrorText("CROSSSLOT Keys in request don't hash to the same slot")
    assert face.all(("MULTI",), ("SET", first, "v"), ("GET", first), ("EXEC",))[3] == [b"OK", b"v"]


@pytest.mark.parametrize("level", ["eventual", "quorum", "all"])
def test_hashes_are_walked_wherever_they_are(sized: SimulatedRing, level: str) -> None:
    clients = [sized.connect(number) for number in range(1, sized.size + 1)]
    for at in range(6):
        fields = [word for field in range(700) for word in (f"f{field}", field)]
        assert clients[0]("HSET", f"large{at}", *fields) == 700
    for client in clients:
        client("RKV.LEVEL", level)
        for at in range(6):
            found: list[bytes] = []
            cursor = b"0"
            while cursor != b"0" or not found:
                cursor, part = client("HSCAN", f"large{at}", cursor, "COUNT", 200, "NOVALUES")
                found += part
            assert sorted(found) == sorted(b"f%d" % field for field in range(700))
            assert len(client("HRANDFIELD", f"large{at}", 50)) == 50
        assert client("HSCAN", "absent", 0) == [b"0", []] and client("HRANDFIELD", "absent") is None
        assert client("HSCAN", "large0", "x") == ErrorText("ERR invalid cursor")
    clients[0]("RKV.LEVEL", "all")
    clients[0]("SET", "text", "v")
    assert clients[1]("HSCAN", "text", 0).startswith("WRONGTYPE")


def test_a_walk_of_a_hash_sees_what_was_acknowledged(ring: SimulatedRing) -> None:
    writer, reader = ring.connect(2), ring.connect(1)
    handlers = ring.node(1).ring._handlers
    takes, handlers[Writes] = handlers[Writes], lambda short, message: None
    try:
        assert writer("HSET", "h", "f", "v") == 1
    finally:
        handlers[Writes] = takes
    assert reader("HSCAN", "h", 0) == [b"0", [b"f", b"v"]]


def test_a_slot_without_its_quorum_is_not_served(ring: SimulatedRing) -> None:
    face, plain = ring.connect(1, face="cluster"), ring.connect(1)
    coordinator = ring.node(1).ring.coordinator
    live, coordinator._live = coordinator._live, lambda short: False
    coordinator.refresh()
    try:
        for words in (["SET", "k", "v"], ["INCR", "k"], ["GET", "k"], ["MGET", "k"]):
            assert face(*words).startswith("CLUSTERDOWN Hash slot not served")
            assert plain(*words).startswith("NOREPLICAS ")
        face("READONLY")
        assert face("GET", "k") is None
    finally:
        coordinator._live = live
        coordinator.refresh()
