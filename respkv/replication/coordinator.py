"""The coordinator: one node's requests, carried out by the replicas of their keys (Dynamo, SOSP 2007, 4.5).

It holds the tables that the hot loop looks into (``ready``, ``asks``: by slot, made anew when the ring or somebody's
state changes), the rounds of the cycle, and both sides of N/R/W (``write_op``, ``read_op``). It is pure: requests and
messages go in, messages come out through ``send``; settled rounds are handed over by ``take_settled``.

One cycle: ``begin_own`` and ``end_own`` bracket whatever clients' requests put into the open batch (what other nodes
wrote is in it too, and goes nowhere); ``seal`` sends reads, then writes, to each peer. Reads go first: a peer compares
what it held before this cycle's writes, and a request later in the cycle cannot hide what an earlier one should see.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, Final

from respkv.base.prefixes import PrefixTable
from respkv.base.slots import SLOT_COUNT, slot_of
from respkv.cluster.placement import Placement
from respkv.keyspace import keys
from respkv.replication.levels import ALL, EVENTUAL, QUORUM, Quorums
from respkv.replication.read_op import ReadSide
from respkv.replication.replica import Replica
from respkv.replication.rounds import Collector, Reader, Round
from respkv.replication.stand_ins import Pairs, StandIns
from respkv.replication.write_op import WriteSide
from respkv.storage.engine import Engine
from respkv.wire.messages import RangeResult, ReadResult, WriteAcks

#: While answers are awaited, deadlines are looked at this often.
TICK_US: Final = 10_000
#: So many sets of peers that can be asked are remembered with what follows from them.
_TABLES_MAX: Final = 8

#: ``Coordinator.ready`` and ``Coordinator.asks``.
Tables = tuple[bytes, list[Collector | None]]


class Coordinator:
    """Rounds of one node. ``configure`` comes first; until then no slot is ready."""

    __slots__ = (
        "_all_collectors", "_asks_stand_ins", "_collectors", "_engine", "_live", "_meta_puts", "_open", "_own",
        "_own_from", "_peers_of", "_rounds", "_set_of", "_settled", "_stand_in_collectors", "_tables", "_tick_us",
        "_turn_of", "asks", "everywhere", "level", "levels_for", "me", "mine", "moved", "placement", "quorums", "reads",
        "ready", "replica", "slot_of", "spread_reads", "stand_in_reads", "stand_in_writes", "stand_ins", "told",
        "writes",
    )  # fmt: skip

    def __init__(
        self,
        replica: Replica,
        engine: Engine,
        *,
        send: Callable[[int, Any], bool],
        send_encoded: Callable[[int, list[bytes]], bool],
        live: Callable[[int], bool],
        missed: Callable[[int, bytes], None],
        next_seq: Callable[[], int],
    ) -> None:
        """``missed(peer, payload)``: a peer did not take these entries, hint them."""
        self.replica = replica
        self._engine = engine
        self._live = live
        self._settled: list[Round] = []
        self.writes = WriteSide(
            send=send, send_encoded=send_encoded, live=live, missed=missed, settle=self._settle, next_seq=next_seq
        )
        self.reads = ReadSide(
            replica,
            self.writes,
            send=send,
            live=live,
            others=self.others,
            replicas=self.replicas,
            settle=self._settle,
            next_seq=next_seq,
        )
        self.me = 0
        self.placement: Placement | None = None
        #: key -> slot, on this ring
        self.slot_of: Callable[[bytes], int] = slot_of
        self.quorums = Quorums(replicas=1)
        #: the level of sessions that did not choose one
        self.level = QUORUM
        #: levels by the beginning of a key, for such sessions; None when there are none
        self.levels_for: PrefixTable[int] | None = None
        #: by slot: 1 where this node is a replica
        self.mine = bytearray(SLOT_COUNT)
        #: by slot: 1 where this node is a replica and QUORUM can be reached, as far as is known
        self.ready = bytearray(SLOT_COUNT)
        #: by slot: the collector of the peer that QUORUM reads ask, None where nobody needs to be asked
        self.asks: list[Collector | None] = [None] * SLOT_COUNT
        #: requests that met damaged data of this node, and left it to another replica
        self.moved = 0
        #: reads of hot keys that went to whichever replica's turn it was
        self.spread_reads = 0
        #: every member has every key
        self.everywhere = False
        #: by level: what RKV.LASTOP tells of a GET, and of a SET, of the fast path
        self.told: list[tuple[dict[str, Any], dict[str, Any]]] = []
        self._turn_of: dict[int, int] = {}  # by member: its place in the order in which this node asks others
        #: who stands in for replicas that are away, where that is wanted, and requests for which they were counted
        self.stand_ins = StandIns()
        self.stand_in_reads = self.stand_in_writes = 0
        self._set_of: list[int] = []
        self._peers_of: list[tuple[int, ...]] = []
        self._stand_in_collectors: dict[int, Collector] = {}
        self._asks_stand_ins = False
        self._collectors: dict[int, Collector] = {}
        #: peers that can be asked -> ``ready`` and ``asks`` while they can be
        self._tables: dict[tuple[int, ...], Tables] = {}
        self._all_collectors: dict[int, Collector] = {}
        self._rounds: dict[int, Round] = {}
        #: rounds of earlier cycles that are not settled
        self._open: dict[Round, None] = {}
        self._own: list[bytes] = []
        self._own_from = -1
        self._meta_puts = self._tick_us = 0

    # -- the ring ----------------------------------------------------------------------------------

    def configure(self, placement: Placement, me: int, quorums: Quorums, level: int = QUORUM) -> None:
        """The ring is known. O(slots)."""
        self.placement, self.me, self.quorums, self.level = placement, me, quorums, level
        self.slot_of = placement.slot_of
        members = sorted(placement.members, key=lambda short: (short <= me, short))
        self._turn_of = {short: turn for turn, short in enumerate(members)}
        sets: dict[tuple[int, ...], int] = {}
        group_of, groups = placement.group_of, placement.groups
        peers_of = [tuple(sorted(short for short in group if short != me)) for group in groups]
        number_of = [sets.setdefault(peers, len(sets)) for peers in peers_of]
        set_of = [number_of[group] for group in group_of]
        member_of = [me in group for group in groups]
        self.mine[:] = bytes([member_of[group] for group in group_of])
        self._set_of, self._peers_of = set_of, list(sets)
        self.everywhere = len(placement.members) <= placement.replicas
        self.told = [
            (self.tell("get", at, me, write=False), self.tell("set", at, me, write=True))
            for at in range(len(quorums.reads))
        ]
        self.writes.configure(me, set_of, self._peers_of, quorums.writes)
        self._collectors = {short: Collector(short) for short in placement.members if short != me}
        self._all_collectors = {short: Collector(short) for short in placement.members if short != me}
        self._stand_in_collectors = {short: Collector(short) for short in placement.members if short != me}
        self._tables.clear()
        self.refresh()

    def refresh(self) -> None:
        """Somebody's state has changed: who can be asked, and where is a quorum? O(slots), less the second time."""
        placement = self.placement
        if placement is None:
            return
        reads, writes = self.quorums.reads[QUORUM] - 1, self.quorums.writes[QUORUM] - 1
        needed = max(reads, writes)
        able = tuple(short for short in self._collectors if self._live(short))
        tables = self._tables.get(able)
        if tables is None:
            if len(self._tables) >= _TABLES_MAX:
                self._tables.clear()
            tables = self._tables[able] = self._tables_of(placement, able, reads, needed)
        self.ready[:], self.asks[:] = tables
        if self.stand_ins.refresh(placement, self.me, self._live, needed):
            self._split_for_stand_ins()

    def _tables_of(self, placement: Placement, able: Sequence[int], reads: int, needed: int) -> Tables:
        """``ready`` and ``asks`` while these peers can be asked. O(slots)."""
        ready, able_of = [], []
        for group in placement.groups:
            asked = [self._collectors[short] for short in group if short in able]
            ready.append(self.me in group and len(asked) >= needed and reads <= 1)
            able_of.append(asked if reads == 1 else [])
        group_of = placement.group_of
        first = [min(asked, key=lambda each: self._turn_of[each.peer]) if asked else None for asked in able_of]
        return bytes([ready[group] for group in group_of]), [first[group] for group in group_of]

    def _split_for_stand_ins(self) -> None:
        """The sets in which the write side counts: slots with different stand-ins are told apart. O(slots)."""
        numbers: dict[tuple[int, Pairs], int] = {}
        of = self.stand_ins.of
        set_of = [numbers.setdefault((at, of.get(slot, ())), len(numbers)) for slot, at in enumerate(self._set_of)]
        peer_sets = [self._peers_of[at] for at, _ in numbers]
        pairs = [each for _, each in numbers] if of else []
        self.writes.configure(self.me, set_of, peer_sets, self.quorums.writes, pairs)

    def tell(self, command: str, level: int, node: int, *, write: bool) -> dict[str, Any]:
        """For RKV.LASTOP: what is known of a request when it begins. An ``Operation`` goes on counting in it."""
        quorums = self.quorums
        return {
            "command": command, "level": level, "node": node, "replicas-read": quorums.reads[level],
            "replicas-written": quorums.writes[level] if write else 0, "compared": 0, "newer-found": 0, "fallbacks": 0,
        }  # fmt: skip

    def tell_stand_ins(self, told: dict[str, Any], slots: Iterable[int], *, write: bool) -> None:
        """For RKV.LASTOP and INFO: a request at QUORUM begins, and nodes stand in for replicas of its slots."""
        of = self.stand_ins.of
        told["fallbacks"] = count = len({stand_in: None for slot in slots for stand_in, _ in of.get(slot, ())})
        if count and write:
            self.stand_in_writes += 1
        elif count:
            self.stand_in_reads += 1

    def others(self, slot: int) -> Sequence[int]:
        """The other live replicas of a slot: first those whose turn comes first after this node's.

        So a node asks few others in each cycle (one, in a ring of three), and each is asked by as many.
        """
        assert self.placement is not None
        able = [short for short in self.placement.table[slot] if short != self.me and self._live(short)]
        able.sort(key=self._turn_of.__getitem__)
        return able

    def replicas(self, slot: int) -> Sequence[int]:
        """All replicas of a slot, dead or alive."""
        assert self.placement is not None
        return self.placement.table[slot]

    def primary(self, slot: int) -> int:
        """The acting primary: the first replica that is alive, 0 when none is."""
        assert self.placement is not None
        for short in self.placement.table[slot]:
            if short == self.me or self._live(short):
                return short
        return 0

    def substitute(self, slots: Sequence[int], tried: Collection[int]) -> int:
        """The first live replica of all ``slots`` that is not among ``tried``, in ring order of the first slot; 0 when
        there is none. With nothing tried: the acting primary."""
        if self.placement is None or not slots:
            return 0
        table = self.placement.table
        for short in table[slots[0]]:
            able = short not in tried and (short == self.me or self._live(short))
            if able and all(short in table[slot] for slot in slots[1:]):
                return short
        return 0

    def spread(self, slot: int) -> int:
        """A live replica of a slot, another one each time; 0 when there is none."""
        assert self.placement is not None
        able = [short for short in self.placement.table[slot] if short == self.me or self._live(short)]
        self.spread_reads += 1
        return able[self.spread_reads % len(able)] if able else 0

    def reaches(self, slot: int, level: int, *, write: bool) -> bool:
        """Whether a level can be met at a slot of this node now, as far as is known."""
        needed = (self.quorums.writes if write else self.quorums.reads)[level]
        return len(self.others(slot)) + 1 >= needed or (level == QUORUM and slot in self.stand_ins.of)

    # -- the cycle ---------------------------------------------------------------------------------

    def begin_own(self) -> bool:
        """What is put into the open batch from here on is of this node's own clients. False: it is so already."""
        if self._own_from >= 0:
            return False
        self._own_from = len(self._engine.batch)
        self._meta_puts = self.replica.meta_puts
        return True

    def end_own(self) -> None:
        """The end of that."""
        batch = self._engine.batch
        if len(batch) > self._own_from:
            own = batch[self._own_from :]
            if self.replica.meta_puts != self._meta_puts:
                own = [
                    part
                    for at in range(0, len(own), 3)
                    if own[at + 1][0] != keys.SPACE_META
                    for part in own[at : at + 3]
                ]
            self._own += own
        self._own_from = -1

    def before_commit(self) -> None:
        """The open batch is about to be logged, perhaps in the middle of a cycle."""
        if self._own_from >= 0:
            self.end_own()
            self._own_from, self._meta_puts = 0, self.replica.meta_puts

    def round(self, level: int) -> Round:
        """This cycle's round of a level."""
        round_ = self._rounds.get(level)
        if round_ is None:
            round_ = self._rounds[level] = Round(level)
        return round_

    def ask(self, reader: Reader, internal: bytes, stamp: bytes, level: int) -> None:
        """Compare what a request has read with R - 1 other replicas; counts into ``reader.waiting``."""
        collectors = self._readers(reader, keys.key_slot(internal), level)
        asked = {collector.peer for collector in collectors}
        for collector in collectors:
            collector.keys.append(internal)
            collector.stamps.append(stamp)
            collector.places.append(reader)
            collector.asked.append(asked)
            reader.waiting += 1

    def ask_range(self, reader: Reader, start: bytes, end: bytes, level: int, now_us: int) -> bool:
        """The same for a range of elements; whether as many replicas are asked as a read of the level compares. May
        raise ReadMiss, before anything was asked of the first peer.

        Stand-ins are not asked: they have no ranges.
        """
        readers = self._readers(reader, keys.key_slot(start), level)
        peers = [each.peer for each in readers if self._all_collectors.get(each.peer) is each]
        self._ask_range_of(reader, peers, start, end, now_us)
        return len(peers) == self.quorums.reads[level] - 1

    def ask_range_surely(self, reader: Reader, start: bytes, end: bytes, now_us: int) -> None:
        """Compare a range with so many replicas that no write which was acknowledged at QUORUM can be missing here
        then. The same otherwise; ``reader`` fails where too few live."""
        quorums = self.quorums
        # A stand-in may have been one of those that acknowledged.
        wanted = quorums.reads[ALL] if self.stand_ins.on else quorums.sure()
        peers = list(self.others(keys.key_slot(start))[: wanted - 1])
        if len(peers) < wanted - 1:
            self.reads.give_up(reader)
        else:
            self._ask_range_of(reader, peers, start, end, now_us)

    def is_sure(self, level: int) -> bool:
        """Whether whoever has read at a level knows all that was acknowledged at it."""
        return self.quorums.overlap(level) and (level == ALL or not self.stand_ins.on)

    def _ask_range_of(self, reader: Reader, peers: list[int], start: bytes, end: bytes, now_us: int) -> None:
        asked = set(peers)
        for peer in peers:
            self.reads.ask_range(reader, peer, start, end, now_us, asked)

    def _readers(self, reader: Reader, slot: int, level: int) -> Sequence[Collector]:
        """The replicas to compare with; none, and ``reader`` has failed, where there are too few: a node alone must not
        take its own copy for a quorum."""
        wanted = self.quorums.reads[level] - 1
        able = [self._all_collectors[short] for short in self.others(slot)[:wanted]]
        if len(able) < wanted and level == QUORUM and (pairs := self.stand_ins.of.get(slot)):
            able += [self._stand_in_collectors[short] for short, _ in pairs[: wanted - len(able)]]
            self._asks_stand_ins = True
        if len(able) >= wanted:
            return able
        self.reads.give_up(reader)
        return ()

    def seal(self, now_us: int) -> None:
        """The cycle is over: send what it has to ask and to tell.

        Comes before the log append of the cycle's batch; what is sent leaves after it.
        """
        if self._own_from >= 0:
            self.end_own()
        rounds = self._rounds
        quorum = rounds.get(QUORUM)
        for collector in self._collectors.values():
            if collector.keys:
                self.reads.ask(collector, quorum, now_us)
        for collector in self._all_collectors.values():
            if collector.keys:
                self.reads.ask(collector, None, now_us)
        if self._asks_stand_ins:
            self._asks_stand_ins = False
            for collector in self._stand_in_collectors.values():
                if collector.keys:
                    self.reads.ask(collector, None, now_us)
        if self._own:
            own, self._own = self._own, []
            waiting = {level: round_ for level, round_ in rounds.items() if level != EVENTUAL}
            self.writes.send(own, waiting, now_us)
        if rounds:
            self._rounds = {}
            for round_ in rounds.values():
                if round_.undecided:
                    self._open[round_] = None
                elif not round_.settled:
                    self._settle(round_)

    def _settle(self, round_: Round) -> None:
        if not round_.settled:
            self._open.pop(round_, None)
            round_.settle()
            self._settled.append(round_)

    def decided(self, round_: Round) -> None:
        """One thing that a round waits for is known."""
        round_.undecided -= 1
        if not round_.undecided:
            self._settle(round_)

    def after_open(self, action: Callable[[], None]) -> None:
        """Call ``action`` when every round that is open now is settled: requests begun so far are through."""
        rounds = [*self._open, *self._rounds.values()]
        left = len(rounds)

        def settled(_met: bool) -> None:
            nonlocal left
            left -= 1
            if not left:
                action()

        for round_ in rounds:
            round_.after.append(settled)
        if not rounds:
            action()

    def take_settled(self) -> list[Round]:
        """Rounds whose replies may leave, once this cycle is logged."""
        settled, self._settled = self._settled, []
        return settled

    # -- messages and time -------------------------------------------------------------------------

    def on_acks(self, peer: int, message: WriteAcks) -> None:
        """Acks of writes."""
        self.writes.on_acks(peer, message)

    def on_result(self, peer: int, message: ReadResult | RangeResult, now_us: int) -> None:
        """An answer to a read. May raise ReadMiss, then nothing has changed."""
        if isinstance(message, ReadResult):
            self.reads.on_result(peer, message, now_us)
        else:
            self.reads.on_range(peer, message, now_us)

    def on_damage(self, message: ReadResult | RangeResult) -> None:
        """``on_result`` has met damaged data of this node: whoever waits for the answer cannot be served here."""
        if isinstance(message, ReadResult):
            self.reads.on_damage(message)
        else:
            self.reads.on_range_damage(message)

    def on_member(self, short: int, now_us: int) -> None:
        """The state of a member, or its link, has changed."""
        self.refresh()
        if not self._live(short):
            self.reads.peer_lost(short, now_us)
            self.writes.peer_lost(short)

    def on_timer(self, now_us: int) -> None:
        """Deadlines. Call it at least every ``TICK_US`` while ``busy``."""
        if now_us >= self._tick_us:
            self._tick_us = now_us + TICK_US
            self.reads.on_timer(now_us)
            self.writes.on_timer(now_us)

    def postpone(self, count_us: int) -> None:
        """This node stood still for that long: the answers may lie in its sockets, unread."""
        self.reads.postpone(count_us)
        self.writes.postpone(count_us)

    def late(self, now_us: int) -> list[int]:
        """Peers that take longer than they should to answer; each is named once for a question. O(peers)."""
        return self.writes.late(now_us) + self.reads.take_late()

    def holders(self, seq: int, hinted: Callable[[int], int]) -> int:
        """How many other replicas have everything of the cycles up to ``seq``, hints included, whatever the slot."""
        replicas = self.quorums.reads[ALL] - 1
        return min(
            (
                self.writes.holders(seq, [peer for peer in peers if not hinted(peer)])
                for peers in self._peers_of
                if len(peers) == replicas
            ),
            default=0,
        )

    def busy(self) -> bool:
        """True while answers are awaited."""
        return self.writes.busy() or self.reads.busy()

    def everybody(self) -> list[int]:
        """All other members."""
        return [short for short in self.placement.members if short != self.me] if self.placement is not None else []

    def stats(self) -> dict[str, int]:
        """Counters for metrics."""
        return {
            **self.writes.stats(),
            **self.reads.stats(),
            "slots_ready": sum(self.ready),
            "damage_moved": self.moved, "hot_reads_spread": self.spread_reads,
            "slots_with_stand_ins": len(self.stand_ins.of),
            "stand_in_reads": self.stand_in_reads,
            "stand_in_writes": self.stand_in_writes,
        }

    def check_invariants(self) -> None:
        """Between cycles nothing is half collected."""
        self.writes.check_invariants()
        assert self._own_from == -1 and not self._rounds
        collectors = (self._collectors, self._all_collectors, self._stand_in_collectors)
        assert not any(collector.keys for each in collectors for collector in each.values())
        assert ALL in range(len(self.quorums.reads))
