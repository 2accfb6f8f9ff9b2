"""The ring as a value: formation, encoding, what is refused."""

from __future__ import annotations

import random
from dataclasses import FrozenInstanceError, replace
from pathlib import Path
from typing import Any

import pytest
from xxhash import xxh3_64_intdigest

from respkv.base.coding import U64, checksum
from respkv.base.errors import ProtocolError
from respkv.cluster import ring as ring_module
from respkv.cluster.ring import TOKENS_PER_NODE, BadRing, Member, Ring, first_ring
from tests.unit.cluster.rings import CLUSTER, form, member, node_id

GOLDEN = Path(__file__).parent / "golden" / "ring-1.txt"
#: Bytes before the first member.
HEAD = 52


def golden_ring() -> Ring:
    """What the golden file holds: three members with all kinds of addresses."""
    members = (
        Member(bytes(range(16)), 2, "node-b.example.org", 6379, 0, True, "192.168.1.2", 16379),
        Member(bytes(range(1, 17)), 1, "10.0.0.1", 7001, 7101, False, "10.0.0.1", 17001),
        Member(bytes(range(2, 18)), 65535, "fd00::3", 65535, 1, False, "fd00::3", 65534),
    )
    voters = (members[1].node_id, members[0].node_id, members[2].node_id)
    return Ring(bytes(range(100, 116)), 0x0102030405060708, 0xF1F2F3F4F5F6F7F8, 3, members, voters)


def sealed(body: bytes) -> bytes:
    """``body`` with a right checksum: garbage that only the fields can betray."""
    return body + U64.pack(checksum(body))


def altered(offset: int, value: bytes) -> bytes:
    """The golden ring with bytes replaced and the checksum made right."""
    body = golden_ring().encode()[:-8]
    return sealed(body[:offset] + value + body[offset + len(value) :])


def test_what_is_written_are_the_golden_bytes() -> None:
    golden = bytes.fromhex("".join(line for line in GOLDEN.read_text().splitlines() if not line.startswith("#")))
    assert golden_ring().encode() == golden
    assert Ring.decode(golden) == golden_ring()


@pytest.mark.parametrize("count", [1, 2, 3, 5, 10, 40])
def test_a_ring_comes_back_as_it_was(count: int) -> None:
    ring = form(count)
    assert Ring.decode(ring.encode()) == ring
    assert Ring.decode(ring.encode()).encode() == ring.encode()


def test_colocated_prefixes_are_part_of_the_ring() -> None:
    plain = golden_ring()
    ring = replace(plain, colocate=(b"a", b"jobs:", b"\xff" * 255))
    data = ring.encode()
    assert Ring.decode(data) == ring and data[6] == 2 and plain.encode()[6] == 1
    body = data[:-8]
    for end in range(len(plain.encode()) - 8, len(body)):
        with pytest.raises(BadRing):
            Ring.decode(sealed(body[:end]))
    for colocate in ((b"b", b"a"), (b"a", b"a"), (b"",), (b"x" * 256,), tuple(b"%04d" % at for at in range(257))):
        with pytest.raises(BadRing, match="colocate"):
            replace(plain, colocate=colocate).encode()
    none = plain.encode()[:-8]
    with pytest.raises(BadRing, match="colocated prefixes are 1 to"):
        Ring.decode(sealed(none[:6] + b"\x02\x00" + none[8:] + b"\x00\x00"))


def test_random_rings_come_back_as_they_were() -> None:
    rng = random.Random(3)
    for _ in range(200):
        shorts = rng.sample(range(1, 65536), rng.randint(1, 9))
        members = tuple(
            Member(
                rng.randbytes(16),
                short,
                "h" * rng.randint(1, 255),
                rng.randint(1, 32767),
                rng.randint(32768, 65535),
                rng.random() < 0.5,
                f"n{index}",
                rng.randint(1, 65535),
            )
            for index, short in enumerate(shorts)
        )
        members = tuple(sorted(members, key=lambda each: each.node_id))
        voters = tuple(each.node_id for each in rng.sample(members, min(len(members), rng.randint(1, 5))))
        ring = Ring(rng.randbytes(16), rng.randint(1, 2**64 - 1), rng.getrandbits(64), 3, members, voters)
        assert Ring.decode(ring.encode()) == ring


def test_every_truncation_and_every_flipped_byte_is_refused() -> None:
    data = form(3).encode()
    for size in range(len(data)):
        with pytest.raises(BadRing):
            Ring.decode(data[:size])
    for offset in range(len(data)):
        with pytest.raises(BadRing):
            Ring.decode(data[:offset] + bytes([data[offset] ^ 0x10]) + data[offset + 1 :])
    with pytest.raises(BadRing, match="checksum"):
        Ring.decode(data + b"\0")


def test_garbage_with_a_right_checksum_is_refused_or_canonical() -> None:
    """Whatever decodes is a ring that encodes to the same bytes: nothing is skipped over or guessed."""
    rng = random.Random(5)
    body = golden_ring().encode()[:-8]
    refused = 0
    for _ in range(3000):
        noise = bytearray(body)
        for _ in range(rng.randint(1, 4)):
            noise[rng.randrange(HEAD - 12, len(noise))] = rng.randrange(256)
        cut = rng.choice((len(noise), len(noise), rng.randrange(len(noise))))
        data = sealed(bytes(noise[:cut]))
        try:
            ring = Ring.decode(data)
        except BadRing:
            refused += 1
        else:
            assert ring.encode() == data
    assert refused > 1000


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "size"),
        (bytes(ring_module.ENCODED_MAX + 1), "size"),
        (bytes(200), "not a ring"),
        (altered(6, b"\x03\x00"), "format 3, this program knows 1 and 2"),
        (altered(42, b"\x80\x00"), "128 tokens"),
        (altered(44, b"\xff\xff"), "counts and bytes disagree"),
        (altered(46, b"\xff\xff"), "counts and bytes disagree"),
        (altered(46, b"\x02\x00"), "left over"),
        (altered(48, b"\x01\x00\x00\x00"), "change of the ring"),
        (altered(HEAD + 18, b"\x07"), "counts and bytes disagree"),
        (altered(HEAD + 19, b"\x02"), "flags"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_not_understood_is_refused_with_the_reason(data: bytes, reason: str) -> None:
    with pytest.raises(BadRing, match=reason):
        Ring.decode(data)


def test_a_bad_ring_is_garbage_from_a_peer_and_a_bad_value() -> None:
    assert issubclass(BadRing, ProtocolError) and issubclass(BadRing, ValueError)


def broken_rings() -> list[tuple[str, dict[str, Any]]]:
    """What a ring of three may not be: the reason, and the fields that make it so."""
    first, second, third = form(3).members
    return [
        ("cluster id", {"cluster_id": bytes(16)}),
        ("cluster id", {"cluster_id": b"short"}),
        ("epoch", {"epoch": 0}),
        ("epoch", {"epoch": 2**64}),
        ("seed", {"seed": 2**64}),
        ("seed", {"seed": -1}),
        ("replicas", {"replicas": 0}),
        ("replicas", {"replicas": 17}),
        ("members are 1 to", {"members": ()}),
        ("not sorted", {"members": (second, first, third)}),
        ("not sorted", {"members": (first, first, third)}),
        ("short id is used twice", {"members": (first, replace(second, short=first.short), third)}),
        (
            "same address to nodes",
            {"members": (first, replace(second, node_host=first.node_host, node_port=first.node_port), third)},
        ),
        ("some have none", {"members": (first, second, replace(third, alternate_port=0))}),
        ("voters are", {"voters": ()}),
        ("voter is there twice", {"voters": (first.node_id, first.node_id)}),
        ("voter is no member", {"voters": (node_id(99),)}),
    ]


@pytest.mark.parametrize(("reason", "fields"), broken_rings())
def test_a_ring_that_contradicts_itself_is_neither_made_nor_sent(reason: str, fields: dict[str, Any]) -> None:
    with pytest.raises(BadRing, match=reason):
        replace(form(3), **fields).encode()


@pytest.mark.parametrize(
    ("reason", "fields"),
    [
        ("node id", {"node_id": bytes(16)}),
        ("node id", {"node_id": b"short"}),
        ("short id", {"short": 0}),
        ("short id", {"short": 65536}),
        ("client port", {"client_port": 0}),
        ("alternate port", {"alternate_port": 65536}),
        ("are the same", {"alternate_port": 7001}),
        ("node port", {"node_port": 0}),
        ("status", {"status": "gone"}),
        ("1 to 255", {"client_host": ""}),
        ("1 to 255", {"node_host": "h" * 256}),
        ("bad host", {"client_host": "two words"}),
        ("bad host", {"client_host": "a,b"}),
        ("bad host", {"client_host": "line\nline"}),
        ("bad host", {"node_host": "kätzchen"}),
    ],
)
def test_a_member_out_of_range_is_refused(reason: str, fields: dict[str, Any]) -> None:
    with pytest.raises(BadRing, match=reason):
        first_ring(CLUSTER, seed=1, replicas=3, members=[replace(member(1), **fields)])


def test_too_many_members_are_refused() -> None:
    members = [replace(member(number), node_host=f"h{number}", node_port=1, client_port=1, alternate_port=2)
               for number in range(1, 1026)]  # fmt: skip
    ring = Ring(CLUSTER, 1, 1, 3, tuple(sorted(members, key=lambda each: each.node_id)), (node_id(1),))
    with pytest.raises(BadRing, match="members are 1 to 1024"):
        ring.check()
    kept = replace(ring, members=tuple(each for each in ring.members if each.short <= 1024))
    assert Ring.decode(kept.encode()) == kept


def test_the_largest_ring_fits_into_its_limit() -> None:
    host = "h" * 250
    members = [replace(member(number), client_host=host, node_host=f"{number:05d}{host}", client_port=1, node_port=1,
                       alternate_port=2) for number in range(1, 1025)]  # fmt: skip
    ring = Ring(CLUSTER, 1, 1, 3, tuple(sorted(members, key=lambda each: each.node_id)), (node_id(1),))
    assert len(ring.encode()) < ring_module.ENCODED_MAX


def test_tokens_are_those_of_the_notes() -> None:
    ring = form(2, seed=77)
    expected = sorted(
        (xxh3_64_intdigest(node_id(number) + i.to_bytes(2, "big"), ring.seed), node_id(number))
        for number in (1, 2)
        for i in range(256)
    )
    assert ring.tokens() == expected
    assert len(expected) == 2 * TOKENS_PER_NODE


def test_the_first_ring_has_epoch_1_and_five_voters_by_short_id() -> None:
    ring = form(7)
    assert ring.epoch == 1 and ring.replicas == 3 and ring.transition is None
    assert ring.voters == tuple(node_id(number) for number in (1, 2, 3, 4, 5))
    assert form(2).voters == (node_id(1), node_id(2))


def test_the_order_of_joining_does_not_matter() -> None:
    members = [member(number) for number in (1, 2, 3, 4)]
    rings = [first_ring(CLUSTER, seed=9, replicas=3, members=order) for order in (members, members[::-1])]
    assert rings[0].encode() == rings[1].encode()


def test_the_seed_is_the_best_of_those_tried() -> None:
    for count in (3, 10):
        ring = form(count, seed=2**64 - 3)
        seeds = [(2**64 - 3 + step) % 2**64 for step in range(ring_module.SEEDS_TRIED)]
        shares = [ring_module._largest_share(replace(ring, seed=seed)) for seed in seeds]
        assert ring.seed == seeds[shares.index(min(shares))]
        assert min(shares) < 1.08 * 2**64 / count


def test_faces() -> None:
    plain_first, cluster_first = member(1), member(2, cluster_enabled=True)
    assert (plain_first.plain_face_port, plain_first.cluster_face_port) == (7001, 7101)
    assert (cluster_first.plain_face_port, cluster_first.cluster_face_port) == (7102, 7002)
    assert member(3, alternate=False).cluster_face_port == 0
    assert first_ring(CLUSTER, seed=1, replicas=3, members=[plain_first, cluster_first]).has_cluster_face
    assert not first_ring(CLUSTER, seed=1, replicas=3, members=[member(3, alternate=False)]).has_cluster_face


def test_members_are_found_by_id_and_by_short_id() -> None:
    ring = form(3)
    assert ring.by_id(node_id(2)) == ring.by_short(2) == member(2)
    assert ring.by_id(node_id(4)) is None and ring.by_short(4) is None


def test_a_ring_is_immutable() -> None:
    with pytest.raises(FrozenInstanceError):
        form(1).epoch = 2  # type: ignore[misc]
