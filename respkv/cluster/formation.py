"""How a cluster comes to be: the ring is decided once, by the bootstrap node, when all its nodes are there.

The bootstrap node makes up a cluster id, then collects joiners until ``cluster_size`` is reached; the others ask
their seeds every second and wait, for ever if need be: no node but the bootstrap node ever decides. A joiner that
heard of a cluster being formed is *pinned* to its id and names it when it asks; only pinned joiners are counted,
so that two bootstrap nodes started by mistake cannot both count the same one. A node that does not know says who
else may be asked, so seeds may be any nodes. Once a node has its ring it never asks again, and answers those who
ask: members get the ring, others the reason why not.

Restart safety: nothing is told before it is durable. The owner writes ``to_save`` (one small file, replaced and
synced), then calls ``saved``; the cluster id is named only after that, the ring is handed out and used only after
that. A joiner that crashed between being counted and saving the ring asks again and gets the same ring. Who was seen at
work (``member_seen``) is kept too: such a node has a ring, so when it asks for one it has lost its directory, and
is not taken back empty under its old name.

Source: the bootstrap rules of Dynamo, SOSP 2007, section 4.8.2 (seeds; no node forms a ring of its own).

Layout of what is saved, little-endian:

    "RKVFRM" | version u16 | cluster id 16 | seed u64 | ring length u32 | ring | seen u16 | node id 16... | xxh3_64 u64
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final

from respkv.base.coding import U16, U64, checksum
from respkv.cluster.ring import MEMBERS_MAX, BadRing, Member, Ring, first_ring
from respkv.env.rng import Rng
from respkv.wire.messages import Address, Join, Joined, Refused

#: How often seeds are asked.
ASK_INTERVAL_US: Final = 1_000_000
#: A joiner that has not asked for so long is not counted any more.
CANDIDATE_LIFE_US: Final = 5_000_000
#: Seeds, those learned from others included.
SEEDS_MAX: Final = 16
#: Characters of a reason.
REASON_MAX: Final = 500
#: No cluster yet.
NO_CLUSTER: Final = bytes(16)

#: Whom a message goes to or comes from: an address that this node dialed, or the number of a link that it accepted.
Destination = int | Address
Message = Join | Joined | Refused

_MAGIC: Final = b"RKVFRM"
_VERSION: Final = 1
_HEAD: Final = struct.Struct("<6sH16sQI")


@dataclass(frozen=True, slots=True)
class FormationState:
    """What must outlive a restart. ``ring`` is None until it is decided; ``seen`` are members that were at work."""

    cluster_id: bytes
    seed: int
    ring: Ring | None = None
    seen: tuple[bytes, ...] = ()

    def encode(self) -> bytes:
        """The bytes of the file."""
        ring = self.ring.encode() if self.ring is not None else b""
        head = _HEAD.pack(_MAGIC, _VERSION, self.cluster_id, self.seed, len(ring))
        data = b"".join((head, ring, U16.pack(len(self.seen)), *self.seen))
        return data + U64.pack(checksum(data))

    @staticmethod
    def decode(data: bytes) -> FormationState:
        """What ``encode`` wrote. BadRing (a ValueError) for anything else."""
        if len(data) < _HEAD.size + U16.size + U64.size or data[: len(_MAGIC)] != _MAGIC:
            raise BadRing("not the state of a cluster")
        _, version, cluster_id, seed, ring_size = _HEAD.unpack_from(data)
        if version != _VERSION:
            raise BadRing(f"cluster state of format {version}, this program knows {_VERSION}")
        body = data[: -U64.size]
        if U64.unpack_from(data, len(body))[0] != checksum(body):
            raise BadRing("cluster state: checksum mismatch")
        end = _HEAD.size + ring_size
        ring = Ring.decode(body[_HEAD.size : end]) if ring_size else None
        rest = body[end + U16.size :]
        if end + U16.size > len(body) or len(rest) != 16 * U16.unpack_from(body, end)[0]:
            raise BadRing("cluster state: counts and bytes disagree")
        return FormationState(cluster_id, seed, ring, tuple(rest[at : at + 16] for at in range(0, len(rest), 16)))


@dataclass(slots=True)
class _Candidate:
    """A joiner that is pinned to this cluster, and where it was heard last."""

    join: Join
    source: Destination
    asked_us: int


class Formation:
    """One node's part in it. ``cluster_size`` above 0 makes the bootstrap node, 0 one that joins through ``seeds``.

    ``ring`` is the decided, durable ring, or None: until then clients get LOADING. ``refused`` is set when there is no
    use in asking on. ``problem`` is the last thing an operator should know, or empty.
    """

    __slots__ = (
        "_ask_next_us", "_asked", "_candidates", "_colocate", "_durable", "_pin", "_pinned_by", "_replicas", "_seeds",
        "_size", "_state", "me", "outbox", "problem", "refused", "to_save",
    )  # fmt: skip

    def __init__(
        self,
        me: Join,
        *,
        rng: Rng,
        cluster_size: int = 0,
        replicas: int = 3,
        colocate: tuple[bytes, ...] = (),
        seeds: Iterable[Address] = (),
        saved: bytes | None = None,
    ) -> None:
        """``me`` is this node as it asks (its ``cluster_id`` does not matter); ``saved`` what was saved last.

        BadRing when ``saved`` is damaged, when its ring does not know this node, or when ``me`` is no possible member.
        """
        self.me = me._replace(cluster_id=NO_CLUSTER)
        self.outbox: list[tuple[Destination, Message]] = []
        self.to_save: bytes | None = None
        self.refused: str | None = None
        self.problem = ""
        self._size = cluster_size
        self._replicas = replicas
        self._colocate = colocate
        self._seeds: list[Address] = []
        self._add_seeds(seeds)
        self._pin = NO_CLUSTER
        self._pinned_by: Address | None = None
        self._candidates: dict[bytes, _Candidate] = {}
        self._asked = 0
        self._ask_next_us = 0
        self._durable: FormationState | None = FormationState.decode(saved) if saved is not None else None
        self._state = self._durable
        _trial([_member(self.me, 1)], replicas, colocate)
        if not 0 <= cluster_size <= MEMBERS_MAX:
            raise BadRing(f"a cluster has 1 to {MEMBERS_MAX} nodes")
        if self._state is not None and self._state.ring is not None:
            if self._state.ring.by_id(me.node_id) is None:
                raise BadRing(f"the saved ring does not know this node, {me.node_id.hex()}")
        elif cluster_size:
            if self._state is None:
                self._save(FormationState(rng.randbytes(16), rng.getrandbits(64)))
            self._decide_if_complete()

    def __repr__(self) -> str:
        return f"Formation({self.status()!r})"

    @property
    def ring(self) -> Ring | None:
        """The decided ring, once it is durable."""
        return self._durable.ring if self._durable is not None else None

    def status(self) -> str:
        """One line for people."""
        if self.ring is not None:
            return f"member of cluster {self.ring.cluster_id.hex()}, ring epoch {self.ring.epoch}"
        if self.refused is not None:
            return f"refused: {self.refused}"
        if self._state is not None and self._state.ring is not None:
            return "saving the ring"
        waits = (
            f"waiting for {self._size - 1 - len(self._candidates)} more of {self._size} nodes"
            if self._size
            else f"asking {', '.join(f'{host}:{port}' for host, port in self._seeds) or 'nobody: no seed is known'}"
        )
        return f"{waits} ({self.problem})" if self.problem else waits

    def address_problem(self) -> str | None:
        """What is wrong when this node is not where the ring says; None when it is, or there is no ring."""
        member = self.ring.by_id(self.me.node_id) if self.ring is not None else None
        if member is None:
            return None
        wanted = _member(self.me, member.short)
        if member == wanted:
            return None
        return (
            f"the ring knows this node as {_places(member)}, the configuration says {_places(wanted)};"
            " addresses cannot change after the cluster has formed"
        )

    # Inputs.

    def on_timer(self, now_us: int) -> None:
        """Ask the seeds when it is time; forget joiners that ask no more. Call it at least every second."""
        if self._state is not None and self._state.ring is not None:
            return
        if self._size:
            for node_id in [n for n, c in self._candidates.items() if now_us - c.asked_us > CANDIDATE_LIFE_US]:
                del self._candidates[node_id]
        elif self.refused is None and now_us >= self._ask_next_us:
            self._ask_next_us = now_us + ASK_INTERVAL_US
            for seed in self._seeds:
                self._ask(seed)

    def on_message(self, source: Destination, message: Message, now_us: int) -> None:
        """A message came from ``source``. Answers count only from an address that was asked."""
        if isinstance(message, Join):
            if message.node_id != self.me.node_id:
                self._on_join(source, message, now_us)
        elif not isinstance(source, int) and source in self._seeds and not self._size and self._undecided():
            if isinstance(message, Joined):
                self._on_joined(source, message)
            else:
                self._on_refused(source, message)

    def saved(self, data: bytes) -> None:
        """``data``, taken from ``to_save``, is durable: what waited for that is told now."""
        had_ring = self.ring is not None
        self._durable = FormationState.decode(data)
        if self.to_save == data:
            self.to_save = None
        if self.ring is None:
            return
        if not had_ring:
            for candidate in self._candidates.values():
                self._answer_as_member(self.ring, candidate.source, candidate.join)
            self._candidates = {}

    def member_seen(self, node_id: bytes) -> None:
        """A member was at work: a link with it is up, under this ring. O(members); cheap when known already."""
        state = self._state
        if state is None or state.ring is None or node_id in state.seen or node_id == self.me.node_id:
            return
        if state.ring.by_id(node_id) is not None:
            self._save(replace(state, seen=tuple(sorted((*state.seen, node_id)))))

    # Outputs.

    def take_outbox(self) -> list[tuple[Destination, Message]]:
        """What is to be sent, oldest first; an address without a link is to be dialed."""
        taken, self.outbox = self.outbox, []
        return taken

    def stats(self) -> dict[str, int]:
        """Gauges."""
        return {
            "formed": int(self.ring is not None),
            "candidates": len(self._candidates),
            "seeds": len(self._seeds),
            "asked": self._asked,
            "members_seen": len(self._state.seen) if self._state is not None else 0,
        }

    def check_invariants(self) -> None:
        """Raises AssertionError when broken."""
        assert len(self._seeds) <= SEEDS_MAX
        assert self._size or not self._candidates
        assert self._undecided() or self.ring is not None or self.to_save is not None
        assert (self.to_save is None) == (self._state == self._durable)
        for node_id, candidate in self._candidates.items():
            assert candidate.join.node_id == node_id != self.me.node_id

    # The bootstrap node, and members.

    def _on_join(self, source: Destination, join: Join, now_us: int) -> None:
        state = self._state
        if self.ring is not None:
            self._answer_as_member(self.ring, source, join)
        elif not self._size:
            self._refuse(source, "not a member yet itself", retry=1, elsewhere=tuple(self._seeds))
        elif state is None or self._durable is None or state.ring is not None:
            # Something is being saved. Silence: it asks again in a second.
            return
        elif join.cluster_id == NO_CLUSTER:
            self._refuse(source, self.status(), retry=1, cluster_id=state.cluster_id)
        elif join.cluster_id != state.cluster_id:
            self._refuse(source, "this node forms another cluster", retry=1, cluster_id=state.cluster_id)
        else:
            self._count(source, join, now_us)

    def _count(self, source: Destination, join: Join, now_us: int) -> None:
        """A joiner that waits for this cluster and no other."""
        place = join.node_host, join.node_port
        for node_id, other in list(self._candidates.items()):
            # The same place under another name: it was started again with an empty directory.
            if node_id == join.node_id or (other.join.node_host, other.join.node_port) == place:
                del self._candidates[node_id]
        reason = self._obstacle(join)
        if reason is not None:
            self._refuse(source, reason, retry=0)
            self.problem = f"{join.node_host}:{join.node_port} was refused: {reason}"
            return
        self._candidates[join.node_id] = _Candidate(join, source, now_us)
        self._decide_if_complete()
        if self._undecided():
            assert self._state is not None
            self._refuse(source, self.status(), retry=1, cluster_id=self._state.cluster_id)

    def _obstacle(self, join: Join) -> str | None:
        """Why ``join`` cannot be in one ring with this node and those counted, or None."""
        try:
            _trial(self._members(join), self._replicas, self._colocate)
        except BadRing as error:
            return str(error)
        return None

    def _members(self, *more: Join) -> list[Member]:
        """Members as they would be if it were decided now: this node is 1, joiners follow by their ids."""
        joins = sorted((*(c.join for c in self._candidates.values()), *more), key=lambda join: join.node_id)
        return [_member(self.me, 1), *(_member(join, number) for number, join in enumerate(joins, start=2))]

    def _decide_if_complete(self) -> None:
        """The one decision."""
        assert self._state is not None
        if len(self._candidates) == self._size - 1:
            state = self._state
            ring = first_ring(
                state.cluster_id, seed=state.seed, replicas=self._replicas, members=self._members(),
                colocate=self._colocate,
            )  # fmt: skip
            self._save(replace(state, ring=ring))

    def _answer_as_member(self, ring: Ring, source: Destination, join: Join) -> None:
        """The ring is known here. To members it is given, to others the reason why not."""
        assert self._state is not None
        if join.cluster_id not in (NO_CLUSTER, ring.cluster_id):
            self._refuse(source, "this node belongs to another cluster", retry=1, cluster_id=ring.cluster_id)
        elif ring.by_id(join.node_id) is None:
            count = len(ring.members)
            self._refuse(source, f"the cluster is complete: its ring was decided with {count} nodes", retry=0)
        elif join.node_id in self._state.seen:
            reason = "a node of this id was at work here and has lost its ring; it is not taken in without data"
            self._refuse(source, reason, retry=0)
        else:
            self.outbox.append((source, Joined(ring.encode())))

    def _refuse(
        self,
        source: Destination,
        reason: str,
        *,
        retry: int,
        cluster_id: bytes = NO_CLUSTER,
        elsewhere: tuple[Address, ...] = (),
    ) -> None:
        text = reason.encode("ascii", "backslashreplace").decode()[:REASON_MAX]
        self.outbox.append((source, Refused(text, retry, cluster_id, elsewhere)))

    # The joiner.

    def _ask(self, seed: Address) -> None:
        self._asked += 1
        self.outbox.append((seed, self.me._replace(cluster_id=self._pin)))

    def _on_refused(self, source: Address, message: Refused) -> None:
        if not message.retry:
            self.refused = f"{source[0]}:{source[1]}: {message.reason}"
            return
        self._add_seeds(message.elsewhere)
        named = message.cluster_id
        if named == NO_CLUSTER or named == self._pin:
            self.problem = f"{source[0]}:{source[1]}: {message.reason}"
        elif self._pin == NO_CLUSTER or source == self._pinned_by:
            # Whoever named the old one names another: it was started anew, and the old one cannot be decided any more.
            self._pin, self._pinned_by = named, source
            self._ask(source)
        else:
            self.problem = f"two clusters are being formed: {source[0]}:{source[1]} is not of the one joined first"

    def _on_joined(self, source: Address, message: Joined) -> None:
        where = f"{source[0]}:{source[1]}"
        try:
            ring = Ring.decode(message.ring)
        except BadRing as error:
            self.problem = f"{where} sent no ring: {error}"
            return
        if ring.by_id(self.me.node_id) is None:
            self.problem = f"{where} sent a ring without this node"
        elif self._pin not in (NO_CLUSTER, ring.cluster_id):
            self.problem = f"{where} sent the ring of a cluster that is not the one joined first"
        else:
            self.problem = ""
            self._save(FormationState(ring.cluster_id, ring.seed, ring))

    def _add_seeds(self, seeds: Iterable[Address]) -> None:
        for seed in seeds:
            mine = (self.me.node_host, self.me.node_port)
            if seed != mine and seed[1] > 0 and seed not in self._seeds and len(self._seeds) < SEEDS_MAX:
                self._seeds.append(seed)

    def _undecided(self) -> bool:
        return self._state is None or self._state.ring is None

    def _save(self, state: FormationState) -> None:
        self._state = state
        self.to_save = state.encode()


def _member(join: Join, short: int) -> Member:
    """The member that ``join`` describes."""
    return Member(
        node_id=join.node_id,
        short=short,
        client_host=join.client_host,
        client_port=join.client_port,
        alternate_port=join.alternate_port,
        cluster_enabled=bool(join.cluster_enabled),
        node_host=join.node_host,
        node_port=join.node_port,
    )


def _trial(members: list[Member], replicas: int, colocate: tuple[bytes, ...]) -> None:
    """BadRing when ``members`` cannot be one ring."""
    by_id = tuple(sorted(members, key=lambda member: member.node_id))
    Ring(b"?" * 16, 1, 0, replicas, by_id, (by_id[0].node_id,), colocate=colocate).check()


def _places(member: Member) -> str:
    """A member's addresses, for people."""
    faces = "cluster" if member.cluster_enabled else "plain"
    other = f" and {member.alternate_port}" if member.alternate_port else ""
    return f"{member.client_host}:{member.client_port} ({faces}){other}, nodes at {member.node_host}:{member.node_port}"
