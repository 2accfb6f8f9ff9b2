"""The write side of a coordinator: one message of writes to each peer and cycle, acks, hints for whoever missed it.

What a cycle's own requests wrote is sent as it stands in the log (``storage/write_batch``), all of it at once, whatever
the level of the request: EVENTUAL only does not wait. Peers that are known to be away get a hint at once, those that do
not ack in time get one then (Dynamo, SOSP 2007, 4.5 and 4.6). Nothing is ever executed twice: a message that may have
arrived is not sent again but as a hint, whose records win or lose by their stamps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any, Final

from respkv.keyspace import keys
from respkv.replication.levels import ALL, QUORUM
from respkv.replication.quorum import GroupGate
from respkv.replication.rounds import Round
from respkv.replication.stand_ins import Pairs, node_of, stand_in_number
from respkv.wire.codec import encode
from respkv.wire.messages import FOREGROUND, REPAIR, HoldFor, WriteAcks, Writes

#: How long a peer has to ack before it counts as one that missed the write.
ACK_TIMEOUT_US: Final = 2_000_000
#: A peer that takes so long is looked after: it may be gone.
LATE_US: Final = 250_000
_LATE_LOOKED_AT: Final = 8


class _Sent:
    """One cycle's writes: who got what, and who waits for which level. ``held``: numbers of messages to stand-ins."""

    __slots__ = ("held", "payloads", "rounds", "sent_us", "waiting")

    def __init__(
        self, payloads: dict[int, bytes], rounds: dict[int, Round], held: Sequence[int], sent_us: int
    ) -> None:
        self.sent_us = sent_us
        self.payloads = payloads
        self.rounds = rounds
        #: peers that have neither acked nor been given up
        self.waiting = list(payloads)
        self.held = held


class WriteSide:
    """Writes of one coordinator. ``groups_of(slot)`` ... are set by ``configure``."""

    __slots__ = (
        "_all_sets", "_held", "_live", "_me", "_missed", "_next_seq", "_pushes", "_send", "_send_encoded", "_sent",
        "_set_of", "_settle", "_stand_ins", "_wanted", "failed", "gate", "held_bytes", "last_seq", "refusals",
        "sent_bytes",
    )  # fmt: skip

    def __init__(
        self,
        *,
        send: Callable[[int, Any], bool],
        send_encoded: Callable[[int, list[bytes]], bool],
        live: Callable[[int], bool],
        missed: Callable[[int, bytes], None],
        settle: Callable[[Round], None],
        next_seq: Callable[[], int],
    ) -> None:
        self._send = send
        self._send_encoded = send_encoded
        self._live = live
        self._missed = missed
        self._settle = settle
        self._next_seq = next_seq
        self.gate = GroupGate()
        self._sent: dict[int, _Sent] = {}
        #: repairs that a read waits for: seq -> (peer, deadline, what to call with True when it is done)
        self._pushes: dict[int, tuple[int, int, list[Callable[[bool], None]]]] = {}
        self._me = 0
        self._set_of: Sequence[int] = ()
        self._all_sets: Sequence[tuple[int, ...]] = ()
        #: by set: who stands in for whom; empty while nobody does
        self._stand_ins: Sequence[Pairs] = ()
        #: number of a message to a stand-in -> (that of the cycle's writes, the number the stand-in counts under)
        self._held: dict[int, tuple[int, int]] = {}
        #: by level: acks that a write needs from peers
        self._wanted = (0, 0, 0, 0)
        self.last_seq = 0
        self.refusals = 0
        #: by level: groups of a cycle's writes that did not get their quorum
        self.failed = [0, 0, 0, 0]
        self.sent_bytes = self.held_bytes = 0

    def configure(
        self,
        me: int,
        set_of: Sequence[int],
        peer_sets: Sequence[tuple[int, ...]],
        writes: tuple[int, ...],
        stand_ins: Sequence[Pairs] = (),
    ) -> None:
        """``set_of``: slot -> index into ``peer_sets``, the other replicas of the slot; ``writes``: W by level;
        ``stand_ins``: for each set, or empty."""
        self._stand_ins = stand_ins
        self._me = me
        self._set_of = set_of
        self._all_sets = peer_sets
        self._wanted = (writes[0] - 1, writes[1] - 1, writes[2] - 1, writes[3] - 1)

    # -- sending -----------------------------------------------------------------------------------

    def send(self, parts: list[bytes], rounds: dict[int, Round], now_us: int) -> None:  # HOT: quorum_set
        """Send a cycle's entries (three parts each, as in a batch). ``rounds``: by level, who waits for them."""
        seq = self.last_seq = self._next_seq()
        if len(self._all_sets) == 1:
            payload = b"".join(parts)
            by_set = {0: payload}
        else:
            by_set = self._split(parts)
        payloads: dict[int, bytes] = {}
        if len(by_set) == 1:
            ((number, payload),) = by_set.items()
            payloads = dict.fromkeys(self._all_sets[number], payload)
        else:
            for number, payload in by_set.items():
                for peer in self._all_sets[number]:
                    payloads[peer] = payloads[peer] + payload if peer in payloads else payload
        reached: dict[int, bytes] = {}
        encoded: list[bytes] | None = None
        last: bytes | None = None
        for peer, payload in payloads.items():
            if payload is not last:
                last, encoded = payload, encode(Writes(seq, FOREGROUND, payload))
            assert encoded is not None
            if self._live(peer) and self._send_encoded(peer, encoded):
                reached[peer] = payload
                self.sent_bytes += len(payload)
            else:
                self._missed(peer, payload)
        held = self._send_to_stand_ins(seq, by_set, reached) if self._stand_ins and QUORUM in rounds else ()
        groups = []
        for number in by_set:
            peers = [peer for peer in self._all_sets[number] if peer in reached]
            for level, round_ in rounds.items():
                able = peers
                if held and level == QUORUM:
                    able = peers + [at for pair in self._stand_ins[number] if (at := stand_in_number(*pair)) in reached]
                groups.append((number << 2 | level, self._wanted[level], able))
                round_.undecided += 1
            if not rounds:
                groups.append((number << 2, 0, peers))
        self._sent[seq] = _Sent(reached, rounds, held, now_us)
        self.gate.open(seq, groups, now_us + ACK_TIMEOUT_US)
        self._look(seq)

    def _send_to_stand_ins(self, seq: int, by_set: dict[int, bytes], reached: dict[int, bytes]) -> Sequence[int]:
        """What those that stand in are to hold goes to them, and into ``reached``; the numbers of these messages.

        The replica that is away gets a hint here as well: two nodes hold it then, as the level asks.
        """
        shares: dict[tuple[int, int], bytes] = {}
        for number, payload in by_set.items():
            for pair in self._stand_ins[number]:
                shares[pair] = shares[pair] + payload if pair in shares else payload
        held = []
        for (stand_in, target), payload in shares.items():
            of_this = self._next_seq()
            if self._live(stand_in) and self._send(stand_in, HoldFor(of_this, target, payload)):
                number = stand_in_number(stand_in, target)
                reached[number] = payload
                self._held[of_this] = seq, number
                self.held_bytes += len(payload)
                held.append(of_this)
        return held

    def _split(self, parts: list[bytes]) -> dict[int, bytes]:
        """Entries by the set of peers that hold their slot."""
        found: dict[int, list[bytes]] = {}
        set_of = self._set_of
        for at in range(0, len(parts), 3):
            number = set_of[keys.key_slot(parts[at + 1])]
            held = found.get(number)
            if held is None:
                held = found[number] = []
            held += parts[at : at + 3]
        return {number: b"".join(held) for number, held in found.items()}

    def push(self, peer: int, payload: bytes, done: Callable[[bool], None], now_us: int) -> None:
        """Give ``peer`` records that it lacks, for a read that must wait for it; ``done`` tells how it went."""
        seq = self._next_seq()
        if not self._send(peer, Writes(seq, REPAIR, payload)):
            done(False)
            return
        self._pushes[seq] = (peer, now_us + ACK_TIMEOUT_US, [done])

    # -- answers -----------------------------------------------------------------------------------

    def on_acks(self, peer: int, message: WriteAcks) -> None:
        """A peer has writes in its log, or refuses some."""
        for seq, _, _ in message.refused:
            self.refusals += 1
            held = self._held.get(seq)
            if held is None:
                self._refused(peer, seq)
            elif node_of(held[1]) == peer:
                self._refused(held[1], held[0])
        for seq in message.done:
            if seq in self._held:
                self._held_by(peer, seq)
                continue
            sent = self._sent.get(seq)
            if sent is not None:
                if peer in sent.waiting:
                    sent.waiting.remove(peer)
                self.gate.ack(peer, seq)
                self._look(seq)
            elif (push := self._pushes.get(seq)) is not None and push[0] == peer:
                del self._pushes[seq]
                for done in push[2]:
                    done(True)

    def _held_by(self, peer: int, seq: int) -> None:
        """A stand-in has what it was given."""
        of_cycle, number = self._held[seq]
        sent = self._sent.get(of_cycle)
        if node_of(number) == peer and sent is not None:
            if number in sent.waiting:
                sent.waiting.remove(number)
            self.gate.ack(number, of_cycle)
            self._look(of_cycle)

    def _refused(self, peer: int, seq: int) -> None:
        """Some entries of a message, or all: for the quorum the whole message does not count."""
        sent = self._sent.get(seq)
        if sent is not None:
            self.gate.refuse(peer, seq)
            self._look(seq)
        elif (push := self._pushes.get(seq)) is not None and push[0] == peer:
            del self._pushes[seq]
            for done in push[2]:
                done(False)

    def peer_lost(self, peer: int) -> None:
        """The link has ended: what was not acked is unknown there."""
        self.gate.peer_lost(peer)
        if self._held:
            for number in {number: None for _, number in self._held.values() if node_of(number) == peer}:
                self.gate.peer_lost(number)
        for seq in [seq for seq, sent in self._sent.items() if peer in map(node_of, sent.waiting)]:
            self._look(seq)
        for seq in [seq for seq, push in self._pushes.items() if push[0] == peer]:
            for done in self._pushes.pop(seq)[2]:
                done(False)

    def on_timer(self, now_us: int) -> None:
        """Give up answers whose time is over."""
        self.gate.expire(now_us)
        self._take()
        for seq in [seq for seq, push in self._pushes.items() if push[1] <= now_us]:
            for done in self._pushes.pop(seq)[2]:
                done(False)

    def postpone(self, count_us: int) -> None:
        """Give all that is under way more time."""
        self.gate.postpone(count_us)
        for seq, (peer, deadline_us, done) in self._pushes.items():
            self._pushes[seq] = (peer, deadline_us + count_us, done)

    def _look(self, seq: int) -> None:
        """See what the gate has decided."""
        gate = self.gate
        if gate.decisions or gate.missing:
            self._take()
        sent = self._sent.get(seq)
        if sent is not None and not sent.waiting:
            self._forget(seq)

    def _forget(self, seq: int) -> None:
        """All have answered, or were given up."""
        for held in self._sent.pop(seq).held:
            del self._held[held]

    def _take(self) -> None:
        decisions, missing = self.gate.take()
        for seq, _, peer in missing:
            sent = self._sent.get(seq)
            if sent is not None and peer in sent.waiting:
                sent.waiting.remove(peer)
                if node_of(peer) == peer:
                    self._missed(peer, sent.payloads[peer])
        for seq, group, met in decisions:
            if not met:
                self.failed[group & 3] += 1
            round_ = self._sent[seq].rounds.get(group & 3)
            if round_ is not None:
                round_.undecided -= 1
                round_.failed |= not met
                if not round_.undecided:
                    self._settle(round_)
        for seq in {seq: None for seq, _, _ in missing}:
            if seq in self._sent and not self._sent[seq].waiting:
                self._forget(seq)

    # -- watching ----------------------------------------------------------------------------------

    def holders(self, seq: int, peers: Sequence[int]) -> int:
        """How many of ``peers`` have acked everything up to ``seq``. O(cycles open)."""
        waiting = {peer: None for number, sent in self._sent.items() if number <= seq for peer in sent.waiting}
        return sum(1 for peer in peers if self._live(peer) and peer not in waiting)

    def late(self, now_us: int) -> list[int]:
        """Peers that have not acked for LATE_US what they were sent. O(repairs under way)."""
        until_us = now_us + ACK_TIMEOUT_US - LATE_US
        late = dict.fromkeys(peer for peer, deadline_us, _ in self._pushes.values() if deadline_us <= until_us)
        first_us = self.gate.next_deadline_us()
        if first_us is not None and first_us <= until_us:
            oldest = islice(self._sent.values(), _LATE_LOOKED_AT)
            late.update((node_of(peer), None) for sent in oldest for peer in sent.waiting)
        return list(late)

    def lags_us(self, now_us: int) -> dict[int, int]:
        """By peer: the age of the oldest message that it has not acked. O(cycles open)."""
        found: dict[int, int] = {}
        for sent in self._sent.values():
            for peer in sent.waiting:
                found.setdefault(node_of(peer), max(0, now_us - sent.sent_us))
        return found

    def busy(self) -> bool:
        """True while answers are awaited."""
        return bool(self._sent or self._pushes)

    def stats(self) -> dict[str, int]:
        """Counters for metrics."""
        return {
            **self.gate.stats(),
            "write_cycles_open": len(self._sent),
            "write_refusals": self.refusals,
            "write_bytes_sent": self.sent_bytes,
            "write_bytes_to_stand_ins": self.held_bytes,
            "read_repairs_open": len(self._pushes),
        }

    def check_invariants(self) -> None:
        """Every cycle kept has somebody who has not answered."""
        self.gate.check_invariants()
        assert all(sent.waiting for sent in self._sent.values())
        assert sorted(self._held) == sorted(seq for sent in self._sent.values() for seq in sent.held)
        assert QUORUM < ALL < 4, "a group number carries its level in two bits"
