"""The ring: one decided value that says who the members are and where their tokens lie.

A ``Ring`` is plain immutable data. It changes only by a decision that raises its epoch; what a node
believes about the health of others lives in ``membership.py`` and never changes it. Two nodes with the
same epoch hold the same bytes: ``encode`` is canonical, one ring has one encoding.

Invariants (``check``): members sorted by node id, ids and short ids and node addresses distinct; voters are
members; either every member has a cluster face or none has; host names are printable and hold nothing that
the text forms of clients use as a separator.

Tokens: node n has ``TOKENS_PER_NODE`` points ``xxh3_64(node_id || u16be(i), seed)`` on the circle of 2^64;
the ring is their sorted list, ties broken by node id. A slot's coordinate is ``slot << 50``, so slots keep their
order on the circle and a node's arc is a range of slots (Dynamo, section 6.2: equal partitions, placed by tokens).

Layout, little-endian (docs/formats/ring.md):

    "RKVRNG" | version u16 | cluster id 16 | epoch u64 | seed u64 | replicas u16 | tokens u16 | members u16
    | voters u16 | transition length u32 | member... | voter (index of the member) u16... | transition
    | version 2: prefixes u16 | (length u8 + bytes)... | xxh3_64 u64
    member: node id 16 | short u16 | status u8 | flags u8 (1: client port speaks the cluster face)
    | client port u16 | alternate port u16 | node port u16 | client host u8 + bytes | node host u8 + bytes
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Final

from xxhash import xxh3_64_intdigest

from respkv.base.coding import U16, U16BE, U64, checksum
from respkv.base.errors import ProtocolError

#: Without colocated prefixes, and with some: one ring has one encoding.
FORMAT: Final = 1
FORMAT_COLOCATED: Final = 2
TOKENS_PER_NODE: Final = 256
#: A member more than this is refused: short ids would allow 65535, tables and gossip would not be small any more.
MEMBERS_MAX: Final = 1024
#: Copies of a key, at most.
REPLICAS_MAX: Final = 16
#: Electorate of the ring itself.
VOTERS_MAX: Final = 5
#: Prefixes whose keys share a slot, and the bytes of one.
COLOCATED_MAX: Final = 256
PREFIX_BYTES_MAX: Final = 255
#: Bytes of an encoded ring, at most; checked before anything else is read.
ENCODED_MAX: Final = 1 << 20

#: Seeds compared when a ring is formed.
SEEDS_TRIED: Final = 32
#: The same for large rings: seeds times members.
_NODE_SEEDS_TRIED: Final = 640

_MAGIC: Final = b"RKVRNG"
_HEAD: Final = struct.Struct("<6sH16sQQHHHHI")
_MEMBER: Final = struct.Struct("<16sHBBHHH")
_STATUSES: Final = ("member",)
_CLUSTER_ENABLED: Final = 1
_U64_MAX: Final = (1 << 64) - 1
_SUFFIXES: Final = tuple(U16BE.pack(i) for i in range(TOKENS_PER_NODE))
#: What separates fields in CLUSTER NODES and in the addresses of errors; a colon is allowed (IPv6).
_NOT_IN_HOST: Final = frozenset(" ,@[]\"'\\")


class BadRing(ProtocolError, ValueError):
    """Not a ring: bytes that do not decode, or members that contradict each other."""


@dataclass(frozen=True, slots=True)
class Member:
    """A node of the ring and where it is reached.

    ``client_port`` speaks the face that ``cluster_enabled`` names, ``alternate_port`` the other one (0: there is none).
    """

    node_id: bytes
    short: int
    client_host: str
    client_port: int
    alternate_port: int
    cluster_enabled: bool
    node_host: str
    node_port: int
    status: str = "member"

    @property
    def cluster_face_port(self) -> int:
        """The port that speaks the cluster protocol; 0 when there is none."""
        return self.client_port if self.cluster_enabled else self.alternate_port

    @property
    def plain_face_port(self) -> int:
        """The port that speaks without redirections; 0 when there is none."""
        return self.alternate_port if self.cluster_enabled else self.client_port

    def check(self) -> None:
        """BadRing when a field is out of its range."""
        _demand(len(self.node_id) == 16 and any(self.node_id), "a node id is 16 bytes, not all zero")
        _demand(1 <= self.short <= 0xFFFF, "a short id is 1 to 65535")
        _demand(1 <= self.client_port <= 0xFFFF, "a client port is 1 to 65535")
        _demand(0 <= self.alternate_port <= 0xFFFF, "an alternate port is 0 to 65535")
        _demand(self.alternate_port != self.client_port, "client port and alternate port are the same")
        _demand(1 <= self.node_port <= 0xFFFF, "a node port is 1 to 65535")
        _demand(self.status in _STATUSES, f"unknown status {self.status!r}")
        for host in (self.client_host, self.node_host):
            _demand(0 < len(host) <= 255, "a host is 1 to 255 characters")
            _demand(host.isascii() and host.isprintable() and _NOT_IN_HOST.isdisjoint(host), f"bad host {host!r}")


@dataclass(frozen=True, slots=True)
class Ring:
    """The decided ring of one epoch.

    ``replicas`` is N, the copies of a key; with fewer members every one of them has a copy. ``voters`` decide the next
    ring. ``transition`` is the change under way, of which this version knows none. The keys of each prefix in
    ``colocate`` share one slot; they ascend.
    """

    cluster_id: bytes
    epoch: int
    seed: int
    replicas: int
    members: tuple[Member, ...]
    voters: tuple[bytes, ...]
    transition: None = None
    colocate: tuple[bytes, ...] = ()

    @property
    def has_cluster_face(self) -> bool:
        """True when the members have ports that speak the cluster protocol."""
        return self.members[0].cluster_face_port != 0

    def by_id(self, node_id: bytes) -> Member | None:
        """The member with this id; O(members)."""
        return next((member for member in self.members if member.node_id == node_id), None)

    def by_short(self, short: int) -> Member | None:
        """The member with this short id; O(members). ``Placement.members`` is the map for hot places."""
        return next((member for member in self.members if member.short == short), None)

    def tokens(self) -> list[tuple[int, bytes]]:
        """All (token, node id) in ring order; O(members), 0.3 us a token."""
        seed = self.seed
        found = [
            (xxh3_64_intdigest(member.node_id + suffix, seed), member.node_id)
            for member in self.members
            for suffix in _SUFFIXES
        ]
        found.sort()
        return found

    def check(self) -> None:
        """BadRing when the parts contradict each other."""
        _demand(len(self.cluster_id) == 16 and any(self.cluster_id), "a cluster id is 16 bytes, not all zero")
        _demand(1 <= self.epoch <= _U64_MAX, "an epoch is 1 to 2^64 - 1")
        _demand(0 <= self.seed <= _U64_MAX, "a seed is 0 to 2^64 - 1")
        _demand(1 <= self.replicas <= REPLICAS_MAX, f"replicas are 1 to {REPLICAS_MAX}")
        _demand(1 <= len(self.members) <= MEMBERS_MAX, f"members are 1 to {MEMBERS_MAX}")
        for member in self.members:
            member.check()
        ids = [member.node_id for member in self.members]
        _demand(all(a < b for a, b in pairwise(ids)), "members are not sorted by node id, or one is there twice")
        _demand(_distinct(member.short for member in self.members), "a short id is used twice")
        _demand(
            _distinct((member.node_host, member.node_port) for member in self.members),
            "two members announce the same address to nodes",
        )
        _demand(
            len({member.cluster_face_port != 0 for member in self.members}) == 1,
            "some members have a cluster face (cluster-enabled or alternate-port) and some have none",
        )
        _demand(1 <= len(self.voters) <= VOTERS_MAX, f"voters are 1 to {VOTERS_MAX}")
        _demand(_distinct(self.voters), "a voter is there twice")
        _demand(set(self.voters) <= set(ids), "a voter is no member")
        _demand(len(self.colocate) <= COLOCATED_MAX, f"at most {COLOCATED_MAX} prefixes can be colocated")
        _demand(
            all(0 < len(prefix) <= PREFIX_BYTES_MAX for prefix in self.colocate),
            f"a colocated prefix is 1 to {PREFIX_BYTES_MAX} bytes",
        )
        _demand(all(a < b for a, b in pairwise(self.colocate)), "colocated prefixes are not in order")

    def encode(self) -> bytes:
        """The canonical bytes. BadRing when ``check`` finds something."""
        self.check()
        ids = [member.node_id for member in self.members]
        parts = [
            _HEAD.pack(
                _MAGIC, FORMAT_COLOCATED if self.colocate else FORMAT, self.cluster_id, self.epoch, self.seed,
                self.replicas, TOKENS_PER_NODE, len(self.members), len(self.voters), 0,
            )
        ]  # fmt: skip
        parts.extend(_encode_member(member) for member in self.members)
        parts.extend(U16.pack(ids.index(voter)) for voter in self.voters)
        if self.colocate:
            parts.append(U16.pack(len(self.colocate)))
            parts.extend(b"%c%b" % (len(prefix), prefix) for prefix in self.colocate)
        data = b"".join(parts)
        return data + U64.pack(checksum(data))

    @staticmethod
    def decode(data: bytes) -> Ring:
        """The ring that ``encode`` wrote. BadRing for anything else; nothing is allocated for a lying count."""
        _demand(_HEAD.size + U64.size <= len(data) <= ENCODED_MAX, "not the size of a ring")
        magic, version, cluster_id, epoch, seed, replicas, tokens, members, voters, change = _HEAD.unpack_from(data)
        _demand(magic == _MAGIC, "not a ring")
        known = (FORMAT, FORMAT_COLOCATED)
        _demand(version in known, f"a ring of format {version}, this program knows {FORMAT} and {FORMAT_COLOCATED}")
        body = data[: -U64.size]
        _demand(U64.unpack_from(data, len(body))[0] == checksum(body), "checksum mismatch")
        _demand(tokens == TOKENS_PER_NODE, f"{tokens} tokens a node, this program knows {TOKENS_PER_NODE}")
        _demand(change == 0, "a change of the ring is under way that this program does not know")
        try:
            offset, found = _decode_members(body, members)
            indexes = struct.unpack_from(f"<{voters}H", body, offset)
            chosen = tuple(found[index].node_id for index in indexes)
            offset += U16.size * voters
            colocate, offset = _decode_prefixes(body, offset) if version == FORMAT_COLOCATED else ((), offset)
        except (struct.error, IndexError, UnicodeDecodeError) as error:
            raise BadRing(f"counts and bytes disagree: {error}") from error
        _demand(offset == len(body), "bytes left over")
        ring = Ring(cluster_id, epoch, seed, replicas, found, chosen, colocate=colocate)
        ring.check()
        return ring


def first_ring(
    cluster_id: bytes, *, seed: int, replicas: int, members: Iterable[Member], colocate: tuple[bytes, ...] = ()
) -> Ring:
    """The ring of epoch 1: ``members`` in any order, the first five by short id vote. BadRing if they cannot be one.

    The busiest primary of a ring of ten exceeds the mean by 10 % on average, and in one ring of twelve by more
    than 15 %. The seed is still free here, so the best of up to ``SEEDS_TRIED`` from ``seed`` on is taken. 1 ms a
    try and ten members.
    """
    by_short = sorted(members, key=lambda member: member.short)
    ring = Ring(
        cluster_id=cluster_id,
        epoch=1,
        seed=seed,
        replicas=replicas,
        members=tuple(sorted(by_short, key=lambda member: member.node_id)),
        voters=tuple(member.node_id for member in by_short[:VOTERS_MAX]),
        colocate=colocate,
    )
    ring.check()
    tries = max(1, min(SEEDS_TRIED, _NODE_SEEDS_TRIED // len(by_short)))
    candidates = [replace(ring, seed=(seed + step) & _U64_MAX) for step in range(tries)]
    return min(candidates, key=_largest_share)


def _largest_share(ring: Ring) -> int:
    """The length of the circle whose primary is the busiest member."""
    tokens = ring.tokens()
    shares = dict.fromkeys((member.node_id for member in ring.members), 0)
    previous = tokens[-1][0] - (1 << 64)
    for token, node_id in tokens:
        shares[node_id] += token - previous
        previous = token
    return max(shares.values())


def _encode_member(member: Member) -> bytes:
    """One member's bytes."""
    client, node = member.client_host.encode(), member.node_host.encode()
    fixed = _MEMBER.pack(
        member.node_id, member.short, _STATUSES.index(member.status), member.cluster_enabled * _CLUSTER_ENABLED,
        member.client_port, member.alternate_port, member.node_port,
    )  # fmt: skip
    return b"%b%c%b%c%b" % (fixed, len(client), client, len(node), node)


def _decode_members(body: bytes, count: int) -> tuple[int, tuple[Member, ...]]:
    """The offset behind the members, and the members. struct.error or IndexError when they do not fit."""
    offset = _HEAD.size
    members = []
    for _ in range(count):
        node_id, short, status, flags, client_port, alternate_port, node_port = _MEMBER.unpack_from(body, offset)
        _demand(flags in (0, _CLUSTER_ENABLED), "a member with flags this program does not know")
        offset += _MEMBER.size
        client_host, offset = _decode_host(body, offset)
        node_host, offset = _decode_host(body, offset)
        enabled = flags == _CLUSTER_ENABLED
        ports = client_port, alternate_port, enabled
        members.append(Member(node_id, short, client_host, *ports, node_host, node_port, _STATUSES[status]))
    return offset, tuple(members)


def _decode_prefixes(body: bytes, offset: int) -> tuple[tuple[bytes, ...], int]:
    """The colocated prefixes, at least one, and the offset behind them. BadRing and struct.error as above."""
    (count,) = U16.unpack_from(body, offset)
    _demand(0 < count <= COLOCATED_MAX, f"colocated prefixes are 1 to {COLOCATED_MAX} where there are any")
    offset += U16.size
    prefixes = []
    for _ in range(count):
        end = offset + 1 + body[offset]
        _demand(end <= len(body), "a prefix is longer than the ring")
        prefixes.append(body[offset + 1 : end])
        offset = end
    return tuple(prefixes), offset


def _decode_host(body: bytes, offset: int) -> tuple[str, int]:
    """A host and the offset behind it."""
    end = offset + 1 + body[offset]
    if end > len(body):
        raise IndexError("a host is longer than the ring")
    return body[offset + 1 : end].decode("ascii"), end


def _distinct(values: Iterable[object]) -> bool:
    """True when no value is there twice."""
    found = list(values)
    return len(set(found)) == len(found)


def _demand(condition: bool, reason: str) -> None:
    """BadRing with ``reason`` unless ``condition`` holds."""
    if not condition:
        raise BadRing(reason)
