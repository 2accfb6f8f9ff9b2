"""The ring as clients of Redis Cluster see it: CLUSTER SLOTS, SHARDS, NODES, INFO and their kin, and MOVED.

A ``Topology`` is a snapshot of (ring, placement, states of the members as this node believes them). All answers are
renderings of its ``ranges``, so they agree with each other; make a new one when ring or states change.

On a ring a node is first for some slots and second for others, but CLUSTER NODES knows one role a node, and clients
that learn a node's role at its first appearance in CLUSTER SLOTS would skip real owners. Therefore every node is a
master and each range names one node. ``announce_replicas`` adds the others of the preference list behind it, for
clients that spread reads.

Who is named for a slot: the first alive node of its preference list, else the first suspected one, else (all are dead)
the first. A node always believes itself alive. While beliefs differ two nodes may name different owners; that
costs a redirection and can make no loop, since every node of the preference list serves the slot (``serves``).

A slot is ok when a majority of its list is alive, pfail when only a suspected node makes the majority, else fail.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import Final, Literal, NamedTuple

from xxhash import xxh3_128_hexdigest

from respkv.base.coding import checksum
from respkv.base.slots import SLOT_COUNT
from respkv.cluster.placement import Placement
from respkv.cluster.ring import Member, Ring
from respkv.resp.errors import fail
from respkv.resp.reply import Array, Map, Reply, Verbatim, array, bulk, error, integer

Face = Literal["plain", "cluster"]
Health = Literal["ok", "pfail", "fail"]

_RANK: Final = {"alive": 0, "suspect": 1, "dead": 2}
_FLAGS: Final = {"alive": "", "suspect": ",fail?", "dead": ",fail"}
_NO_PONGS: Final[Mapping[int, int]] = {}
#: Keeps shard ids apart from node ids.
_SHARD_SEED: Final = 0x5348415244


class OwnedRange(NamedTuple):
    """Slots ``first`` to ``last`` inclusive; ``owners`` are short ids, the one to ask first, then its replicas."""

    first: int
    last: int
    owners: tuple[int, ...]


class Link(NamedTuple):
    """A connection between this node and ``short``, for CLUSTER LINKS."""

    short: int
    outgoing: bool
    created_ms: int
    wants_write: bool
    buffer_allocated: int
    buffer_used: int


class RememberedArray(Array):
    """An array that is asked for again and again: its wire bytes are kept, one copy a protocol."""

    __slots__ = ("_bytes",)

    def __init__(self, items: list[Reply]) -> None:
        super().__init__(items)
        self._bytes: dict[int, bytes] = {}

    def encode(self, proto: int) -> bytes:
        found = self._bytes.get(proto)
        if found is None:
            found = self._bytes[proto] = super().encode(proto)
        return found


def public_id(node_id: bytes) -> str:
    """The 40 hex digits by which clients know a node: its id, and 8 digits of checksum against slips of the pen."""
    return f"{node_id.hex()}{checksum(node_id) >> 32:08x}"


def shard_id(node_id: bytes) -> str:
    """The 40 hex digits of CLUSTER MYSHARDID: a node is its own shard."""
    return f"{xxh3_128_hexdigest(node_id, seed=_SHARD_SEED)}{checksum(node_id, _SHARD_SEED) >> 32:08x}"


class Topology:
    """One snapshot; see the module. Construction is O(ranges), 1 ms at ten members."""

    __slots__ = (
        "_down",
        "_face",
        "_health",
        "_me",
        "_names",
        "_own_slots",
        "_owners",
        "_placement",
        "_shards",
        "_shorts",
        "_slots",
        "_states",
        "announce_replicas",
        "epoch",
        "ranges",
        "slots_by_health",
    )

    def __init__(
        self,
        ring: Ring,
        placement: Placement,
        *,
        states: Mapping[int, str],
        me: int,
        face: Face = "cluster",
        announce_replicas: bool = False,
        require_full_coverage: bool = True,
    ) -> None:
        """``states``: short id -> "alive", "suspect" or "dead"; who is missing is alive. ``me`` must be a member."""
        assert placement.epoch == ring.epoch and me in placement.members
        assert face == "plain" or ring.has_cluster_face
        self.epoch: Final = ring.epoch
        self.announce_replicas: Final = announce_replicas
        self._placement: Final = placement
        self._face: Final = face
        self._me: Final = me
        #: Short id -> state, in the order of node ids but for this node, which is first.
        self._states: Final = {me: "alive"}
        for member in ring.members:
            self._states.setdefault(member.short, states.get(member.short, "alive"))
        self._names: Final = {short: public_id(placement.members[short].node_id) for short in self._states}
        self._shorts: Final = {name.encode(): short for short, name in self._names.items()}
        #: Group -> whom to name.
        self._owners: Final = [self._rank(group) for group in placement.groups]
        self._health: Final = [self._judge(group) for group in placement.groups]
        #: All slots in order, neighbours with the same owners in one range.
        self.ranges: Final = self._merge()
        self.slots_by_health: Final[dict[Health, int]] = {"ok": 0, "pfail": 0, "fail": 0}
        for first, last, group_number in placement.ranges:
            self.slots_by_health[self._health[group_number]] += last - first + 1
        missing, whole = self.slots_by_health["fail"], SLOT_COUNT
        self._down: Final = missing > 0 if require_full_coverage else missing == whole
        self._own_slots: bytes | None = None
        self._slots: Reply | None = None
        self._shards: Reply | None = None

    # -- questions of the other rooms ------------------------------------------------------------------

    def owner(self, slot: int) -> int:
        """The short id of the node that clients are sent to for ``slot``."""
        return self._owners[self._placement.group_of[slot]][0]

    def own_slots(self) -> bytes:
        """By slot: 1 where clients are sent to this node. Made once, O(slots)."""
        if self._own_slots is None:
            self._own_slots = b"".join(
                (b"\x01" if owners[0] == self._me else b"\x00") * (last - first + 1)
                for first, last, owners in self.ranges
            )
        return self._own_slots

    def serves(self, slot: int) -> bool:
        """True when this node is one of the slot's replicas and so needs not answer MOVED."""
        return self._me in self._placement.table[slot]

    def health(self, slot: int) -> Health:
        """Whether the slot can reach a majority of its replicas, as far as this node knows."""
        return self._health[self._placement.group_of[slot]]

    def is_down(self) -> bool:
        """True when CLUSTER INFO says ``cluster_state:fail``."""
        return self._down

    def state(self, short: int) -> str:
        """The state of a member in this snapshot."""
        return self._states[short]

    def port(self, short: int) -> int:
        """The port of a member's face that this topology describes."""
        member = self._placement.members[short]
        return member.cluster_face_port if self._face == "cluster" else member.plain_face_port

    def find(self, name: bytes) -> int:
        """The short id of the node whose public id is ``name``. CommandError for a stranger."""
        short = self._shorts.get(name)
        if short is None:
            raise fail(error(b"ERR Unknown node %b" % name))
        return short

    # -- answers -----------------------------------------------------------------------------------------

    def moved(self, slot: int) -> bytes:
        """The finished error line that sends a client to the slot's owner."""
        short = self.owner(slot)
        host = self._placement.members[short].client_host.encode()
        return error(b"MOVED %d %b:%d" % (slot, host, self.port(short)))

    def my_id(self) -> bytes:
        """CLUSTER MYID."""
        return bulk(self._names[self._me].encode())

    def my_shard_id(self) -> bytes:
        """CLUSTER MYSHARDID."""
        return bulk(shard_id(self._placement.members[self._me].node_id).encode())

    def slots(self) -> Reply:
        """CLUSTER SLOTS: [first, last, [host, port, id, {}] ...] a range. Some 100 bytes a range, encoded once."""
        if self._slots is None:
            nodes: dict[int, Reply] = {short: self._slots_node(short) for short in self._states}
            self._slots = RememberedArray(
                [
                    Array([integer(first), integer(last), *[nodes[short] for short in owners]])
                    for first, last, owners in self.ranges
                ]
            )
        return self._slots

    def shards(self) -> Reply:
        """CLUSTER SHARDS: a shard a node; with announced replicas a shard for each set of nodes named together."""
        if self._shards is None:
            slots: dict[tuple[int, ...], list[bytes]] = {(short,): [] for short in self._states}
            for first, last, owners in self.ranges:
                slots.setdefault(owners, []).extend((integer(first), integer(last)))
            shown = {owners: found for owners, found in slots.items() if found or self._is_idle(owners[0])}
            self._shards = RememberedArray([self._shard(owners, found) for owners, found in shown.items()])
        return self._shards

    def nodes(self, pongs_ms: Mapping[int, int] = _NO_PONGS) -> Reply:
        """CLUSTER NODES, this node first. ``pongs_ms``: short id -> wall clock of its last sign of life."""
        ranges = self._ranges_by_owner()
        lines = [self._node_line(short, pongs_ms, ranges[short]) for short in self._states]
        return Verbatim("".join(f"{line}\n" for line in lines).encode())

    def replicas(self, name: bytes, pongs_ms: Mapping[int, int] = _NO_PONGS) -> Reply:
        """CLUSTER REPLICAS: the nodes announced behind ``name``, none unless replicas are announced."""
        master = self.find(name)
        behind = {short: None for _, _, owners in self.ranges if owners[0] == master for short in owners[1:]}
        order = [short for short in self._states if short in behind]
        return array([bulk(self._node_line(short, pongs_ms, [], master=master).encode()) for short in order])

    def info(self, *, sent: int, received: int, links_over_limit: int) -> Reply:
        """CLUSTER INFO; the figures are messages between nodes and links cut because their buffer was full."""
        rows = {
            "cluster_state": "fail" if self._down else "ok",
            "cluster_slots_assigned": SLOT_COUNT,
            "cluster_slots_ok": self.slots_by_health["ok"],
            "cluster_slots_pfail": self.slots_by_health["pfail"],
            "cluster_slots_fail": self.slots_by_health["fail"],
            "cluster_known_nodes": len(self._states),
            "cluster_size": len({owners[0] for _, _, owners in self.ranges}),
            "cluster_current_epoch": self.epoch,
            "cluster_my_epoch": self.epoch,
            "cluster_stats_messages_sent": sent,
            "cluster_stats_messages_received": received,
            "total_cluster_links_buffer_limit_exceeded": links_over_limit,
        }
        return Verbatim("".join(f"{name}:{value}\r\n" for name, value in rows.items()).encode())

    def links(self, links: Iterable[Link]) -> Reply:
        """CLUSTER LINKS, in the order given; links of nodes that are no members (any more) are left out."""
        return array([self._link(link) for link in links if link.short in self._states])

    def count_failure_reports(self, name: bytes, reports: Mapping[int, int]) -> bytes:
        """CLUSTER COUNT-FAILURE-REPORTS. ``reports``: short id -> members that say it fails, 0 if missing."""
        return integer(reports.get(self.find(name), 0))

    def stats(self) -> dict[str, int]:
        """Members by state, slots by health, ranges."""
        states = list(self._states.values())
        return {
            "epoch": self.epoch,
            "ranges": len(self.ranges),
            **{f"members_{state}": states.count(state) for state in _RANK},
            **{f"slots_{health}": count for health, count in self.slots_by_health.items()},
        }

    def check_invariants(self) -> None:
        """Assert that the ranges cover all slots, agree with the tables, and are as few as possible."""
        assert self.ranges[0].first == 0 and self.ranges[-1].last == SLOT_COUNT - 1
        for before, after in pairwise(self.ranges):
            assert before.last + 1 == after.first and before.owners != after.owners
        for first, last, owners in self.ranges:
            for slot in range(first, last + 1):
                natural = self._placement.table[slot]
                assert owners[0] == self.owner(slot) and set(owners) <= set(natural)
                assert len(owners) == len(set(owners))
                best = min(_RANK[self._states[short]] for short in natural)
                assert _RANK[self._states[owners[0]]] == best
        assert sum(self.slots_by_health.values()) == SLOT_COUNT

    def __repr__(self) -> str:
        return f"Topology(epoch={self.epoch}, states={self._states}, ranges={len(self.ranges)})"

    # -- how the snapshot is made ------------------------------------------------------------------------

    def _rank(self, group: tuple[int, ...]) -> tuple[int, ...]:
        """Whom to name for a preference list: sorted by state, in ring order among equals; no dead replicas."""
        ranked = sorted(group, key=lambda short: _RANK[self._states[short]])
        if not self.announce_replicas:
            return (ranked[0],)
        return (ranked[0], *[short for short in ranked[1:] if self._states[short] != "dead"])

    def _judge(self, group: tuple[int, ...]) -> Health:
        """Who could answer a quorum of this list."""
        majority = len(group) // 2 + 1
        states = [self._states[short] for short in group]
        if states.count("alive") >= majority:
            return "ok"
        return "pfail" if len(group) - states.count("dead") >= majority else "fail"

    def _merge(self) -> tuple[OwnedRange, ...]:
        """The placement's ranges with equal neighbours joined."""
        owners_of = self._owners
        merged: list[OwnedRange] = []
        for first, last, group in self._placement.ranges:
            owners = owners_of[group]
            if merged and merged[-1].owners == owners:
                first = merged.pop().first
            merged.append(OwnedRange(first, last, owners))
        return tuple(merged)

    # -- how the answers are made ------------------------------------------------------------------------

    def _ranges_by_owner(self) -> dict[int, list[tuple[int, int]]]:
        """Short id -> the ranges it is named first for, neighbours merged whatever replicas are announced behind."""
        found: dict[int, list[tuple[int, int]]] = {short: [] for short in self._states}
        for first, last, owners in self.ranges:
            own = found[owners[0]]
            if own and own[-1][1] == first - 1:
                first = own.pop()[0]
            own.append((first, last))
        return found

    def _is_idle(self, short: int) -> bool:
        """True when no range names this node at all: SHARDS shows it nevertheless."""
        return all(short not in owners for _, _, owners in self.ranges)

    def _slots_node(self, short: int) -> Reply:
        """A node in CLUSTER SLOTS; the map is for host names and the like, of which there are none."""
        host = self._placement.members[short].client_host
        return Array([bulk(host.encode()), integer(self.port(short)), bulk(self._names[short].encode()), Map(())])

    def _shard(self, owners: tuple[int, ...], slots: list[bytes]) -> Reply:
        """A shard of CLUSTER SHARDS."""
        nodes = [self._shard_node(short, b"replica" if index else b"master") for index, short in enumerate(owners)]
        return Map([(bulk(b"slots"), array(slots)), (bulk(b"nodes"), array(nodes))])

    def _shard_node(self, short: int, role: bytes) -> Reply:
        """A node of a shard. There is no replication offset on a ring: it is 0 for all."""
        host = bulk(self._placement.members[short].client_host.encode())
        return Map(
            [
                (bulk(b"id"), bulk(self._names[short].encode())),
                (bulk(b"port"), integer(self.port(short))),
                (bulk(b"ip"), host),
                (bulk(b"endpoint"), host),
                (bulk(b"role"), bulk(role)),
                (bulk(b"replication-offset"), integer(0)),
                (bulk(b"health"), bulk(b"fail" if self._states[short] == "dead" else b"online")),
            ]
        )

    def _node_line(
        self, short: int, pongs_ms: Mapping[int, int], ranges: list[tuple[int, int]], *, master: int | None = None
    ) -> str:
        """A line of CLUSTER NODES, without its end; as a replica of ``master`` when there is one."""
        member: Member = self._placement.members[short]
        mine = short == self._me
        role = "master" if master is None else "slave"
        slots = "".join(f" {first}" if first == last else f" {first}-{last}" for first, last in ranges)
        return (
            f"{self._names[short]} {member.client_host}:{self.port(short)}@{member.node_port}"
            f" {'myself,' if mine else ''}{role}{_FLAGS[self._states[short]]}"
            f" {'-' if master is None else self._names[master]}"
            f" 0 {0 if mine else pongs_ms.get(short, 0)} {self.epoch}"
            f" {'disconnected' if self._states[short] == 'dead' else 'connected'}{slots}"
        )

    def _link(self, link: Link) -> Reply:
        """A link of CLUSTER LINKS."""
        return Map(
            [
                (bulk(b"direction"), bulk(b"to" if link.outgoing else b"from")),
                (bulk(b"node"), bulk(self._names[link.short].encode())),
                (bulk(b"create-time"), integer(link.created_ms)),
                (bulk(b"events"), bulk(b"rw" if link.wants_write else b"r")),
                (bulk(b"send-buffer-allocated"), integer(link.buffer_allocated)),
                (bulk(b"send-buffer-used"), integer(link.buffer_used)),
            ]
        )
