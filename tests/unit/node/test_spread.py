"""Requests across slots on rings larger than the number of copies: keys are stored where their owners are, and nowhere
else; each is counted once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from respkv.base.slots import slot_of
from respkv.commands.spread import elements
from tests.unit.commands.harness import ErrorText
from tests.unit.node.simulated_ring import SimulatedRing

KEYS = [f"k{number}" for number in range(24)]


@pytest.fixture(scope="module")
def shared() -> SimulatedRing:
    return SimulatedRing(7)


@pytest.fixture
def ring(shared: SimulatedRing) -> Iterator[SimulatedRing]:
    yield shared
    assert shared.connect(1)("FLUSHALL") == b"OK"


def strangers(ring: SimulatedRing) -> list[tuple[int, bytes]]:
    """Records that are held by nodes that do not own them."""
    found = []
    for number in range(1, ring.size + 1):
        node = ring.node(number)
        for internal, _ in node.engine.scan(b"\x01", b"\x03", wait=True):
            if not node.ring.coordinator.mine[int.from_bytes(internal[1:3], "big")]:
                found.append((number, internal))
    return found


def apart(ring: SimulatedRing) -> tuple[str, str]:
    """Two keys that no node has both of."""
    table = ring.node(1).ring.placement.table
    for key in KEYS:
        if not set(table[slot_of(b"k0")]) & set(table[slot_of(key.encode())]):
            return "k0", key
    raise AssertionError("all keys are near each other")


def test_many_keys_are_served_by_their_owners(ring: SimulatedRing) -> None:
    pairs = [word for key in KEYS for word in (key, f"value of {key}")]
    assert ring.connect(1)("MSET", *pairs) == b"OK"
    for number in range(1, 8):
        client = ring.connect(number)
        values = client("MGET", *KEYS, "absent", KEYS[0])
        assert values == [f"value of {key}".encode() for key in KEYS] + [None, b"value of k0"]
        assert client("EXISTS", *KEYS, "absent", KEYS[0]) == 25 and client("TOUCH", *KEYS) == 24
    ring.run(1_000_000)
    assert not strangers(ring)
    assert ring.connect(3)("DEL", *KEYS[:7], "absent") == 7
    assert ring.connect(4)("UNLINK", *KEYS[:10]) == 3
    assert ring.connect(5)("EXISTS", *KEYS) == 14
    ring.run(1_000_000)
    assert not strangers(ring)


def test_an_answer_in_the_clients_protocol(ring: SimulatedRing) -> None:
    client = ring.connect(2)
    assert client("SET", "k3", "a\r\n$1\r\nb") == b"OK"
    client("HELLO", 3)
    assert client("MGET", *KEYS[:6]) == [None, None, None, b"a\r\n$1\r\nb", None, None]


def test_a_part_that_cannot_be_reached_is_named_before_anything_is_changed(ring: SimulatedRing) -> None:
    client, (near, far) = ring.connect(1), apart(ring)
    assert client("MSET", near, 1, far) == ErrorText("ERR wrong number of arguments for 'mset' command")
    assert client("MSET", near, 1, far, 2) == b"OK"
    assert client("HSET", "h", "f", "v") == 1
    assert client("MGET", near, "h", far) == [b"1", None, b"2"]


def test_what_cannot_be_cut_runs_at_a_common_owner_or_not_at_all(ring: SimulatedRing) -> None:
    client, (near, far) = ring.connect(1), apart(ring)
    assert client("SET", near, "v") == b"OK"
    refusal = client("RENAME", near, far)
    assert isinstance(refusal, ErrorText) and refusal.startswith("CROSSSLOT No reachable node holds all keys")
    table = ring.node(1).ring.placement.table
    owners = set(table[slot_of(near.encode())])
    friend = next(key for key in KEYS[1:] if owners & set(table[slot_of(key.encode())]))
    for number in range(1, 8):
        assert ring.connect(number)("RENAME", near, friend) == b"OK"
        assert ring.connect(number)("RENAME", friend, near) == b"OK"
        assert ring.connect(number)("COPY", near, friend, "REPLACE") == 1
        assert ring.connect(number)("MSETNX", near, 1, friend, 2) == 0
    ring.run(1_000_000)
    assert not strangers(ring)


def test_a_part_that_fails_leaves_the_outcome_of_a_write_unknown(ring: SimulatedRing) -> None:
    client, (near, far) = ring.connect(1), apart(ring)
    names = {machine.node.ring.me: machine.name for machine in ring.cluster.machines}
    table = ring.node(1).ring.placement.table
    away = [names[short] for short in table[slot_of(far.encode())]]
    for name in away:
        for machine in ring.cluster.machines:
            if machine.name not in away:
                ring.cluster.network.cut(machine.name, name)
    assert str(client("MSET", near, 1, far, 2)).startswith("TIMEOUT outcome unknown")
    assert str(client("MGET", near, far)).startswith(("NOREPLICAS", "CLUSTERDOWN"))
    ring.cluster.network.restore_all()
    ring.run(60_000_000, ring.cluster._formed)
    assert ring.connect(1)("MGET", near, far)[0] == b"1"


def test_elements_of_an_array() -> None:
    assert elements(b"*3\r\n$2\r\n\r\n\r\n$-1\r\n_\r\n") == [b"$2\r\n\r\n\r\n", b"$-1\r\n", b"_\r\n"]
    assert elements(b"*0\r\n") == []
