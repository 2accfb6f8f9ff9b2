"""Who is there: probing, suspicion and the spreading of both, as a pure state machine.

Every tick (1 s) one member is pinged, in the order of a shuffled list, so that each comes up once a round. No answer
within ``direct_us``: three others are asked to ping it. Still none: it is suspect, which everyone is told at once,
itself included, and unless it refutes with a higher incarnation it is dead when the suspicion ends
(``suspicion.py``). Sources: SWIM (Das et al., DSN 2002), Lifeguard (arXiv 1707.00788), hashicorp/memberlist.

What differs from those, because members are few and the ring stands:

- All messages carry up to ten rows: the sender's own, the receiver's if someone accuses it, news, and then
  other members in rotation, so that a lost message is made up for by a later one.
- Nobody is forgotten. Suspects and members that do not answer this node are probed every tick, one dead member
  every ``dead_interval_us``, and told what is believed of them: a healed partition mends itself in a round trip.
- Hearsay is looked into, not believed: whoever is accused by another is probed at once, and suspect here when that
  fails. It costs a second, and neither a node that hears nobody nor the old beliefs of a side that was cut
  off can shake the others' routing.
- A probe that was unanswered although frames of its target arrived meanwhile is no accusation but a broken path:
  after ``misses_max`` of them in a row the member counts as unreachable from here, and as alive; as soon as one is,
  when it owes answers for which clients wait and nothing of it has come for that long.
- Time in which this process stood still is given back to all deadlines: it could not have heard anybody. But not where
  it does so again and again: it reads what has come each time, and a verdict would never be reached.

Invariants: a member's row only grows; every suspect has a ``Suspicion`` and nobody else has one; at most one probe a
member is open; what is kept is O(members), but for pings whose answer may still come (10 s at most).

The owner feeds ``on_timer`` (no later than ``wake_at_us``, which the other inputs may bring forward), ``on_message``,
``heard``, ``evidence``, ``unanswered`` and ``loop_lag``, sends what ``take_outbox`` gives, sets ``my_facts``, and makes
``incarnation_to_save`` durable before that outbox leaves. A lost incarnation costs a refutation, not safety.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from respkv.cluster.membership import ALIVE, DEAD, SUSPECT, Change, Membership
from respkv.cluster.probing import Probe, Questions, Relay
from respkv.cluster.rumours import Rumours
from respkv.cluster.suspicion import LocalHealth, Suspicion, confirmations_expected, suspicion_limits_us
from respkv.env.rng import Rng
from respkv.wire.messages import Ack, Facts, Ping, PingReq, State, Update

#: Incarnations above this are no incarnations: nobody refutes so often.
INCARNATION_MAX: Final = 1 << 48
#: What the owner sends: (to short, message).
Message = Ping | PingReq | Ack | State
Outgoing = tuple[int, Message]


@dataclass(frozen=True, slots=True)
class GossipLimits:
    """All times and sizes."""

    tick_us: int = 1_000_000
    #: A direct answer is waited for this long; at most four times that for a member known to be slow.
    direct_us: int = 500_000
    #: A helper gives up after this share of ``direct_us``, so that its "no" still arrives in time.
    relay_percent: int = 80
    helpers: int = 3
    updates_max: int = 10
    state_interval_us: int = 30_000_000
    dead_interval_us: int = 2_000_000
    #: A suspect that was heard no longer ago than this does not die, though it has not refuted yet.
    fresh_us: int = 2_000_000
    #: An accused member is told so at most this often by one node.
    challenge_us: int = 400_000
    #: Direct answers missed in a row before a member counts as unreachable.
    misses_max: int = 3
    #: Members told at once when something changed.
    fanout: int = 16
    #: Suspects and unreachable members probed in one tick.
    extra_probes: int = 8
    #: A loop that was late by this much is a reason to doubt oneself.
    lag_us: int = 250_000


@dataclass(slots=True)
class _Counters:
    """What happened, for ``stats``."""

    probes: int = 0
    probes_failed: int = 0
    suspicions: int = 0
    deaths: int = 0
    recoveries: int = 0
    refutations: int = 0
    strangers: int = 0
    bad_rows: int = 0
    lag_us: int = 0


class Gossip:
    """The failure detector of node ``me``. Inputs return what changed for the rest of the node, in order;
    ``membership`` answers who is live; ``facts`` holds the last facts of each peer."""

    __slots__ = (
        "_challenged_us", "_count", "_dead_next_us", "_given_us", "_heard_us", "_last_timer_us", "_limits", "_misses",
        "_questions", "_rng", "_round", "_rumours", "_state_next_us", "_suspicions", "_tick_next_us", "_urgent",
        "facts", "health", "incarnation_to_save", "me", "membership", "my_facts", "outbox",
    )  # fmt: skip

    def __init__(
        self,
        me: int,
        members: Iterable[int],
        rng: Rng,
        *,
        saved_incarnation: int = 0,
        limits: GossipLimits | None = None,
    ) -> None:
        """``saved_incarnation`` is the last one made durable (0: none); this life's is the next."""
        self.me: Final = me
        self.membership: Final = Membership(me, members, incarnation=saved_incarnation + 1)
        self.health: Final = LocalHealth()
        self.outbox: list[Outgoing] = []
        self.incarnation_to_save: int | None = saved_incarnation + 1
        self.my_facts = Facts()
        self.facts: dict[int, Facts] = {}
        self._limits = limits or GossipLimits()
        self._rng = rng
        self._questions = Questions(rng.getrandbits(48))
        self._rumours = Rumours(self.membership, limit=self._limits.updates_max)
        self._round: list[int] = []
        self._suspicions: dict[int, Suspicion] = {}
        self._misses: dict[int, int] = {}
        self._heard_us: dict[int, int] = {}
        #: who owes answers for which clients wait -> since when it has not been heard
        self._urgent: dict[int, int] = {}
        self._challenged_us: dict[int, int] = {}
        self._count = _Counters()
        self._given_us = -(1 << 62)
        self._last_timer_us: int | None = None
        self._tick_next_us = 0
        self._dead_next_us = 0
        self._state_next_us = 0

    def __repr__(self) -> str:
        return f"Gossip({self.membership!r}, health={self.health.score}, {self._questions!r})"

    @property
    def incarnation(self) -> int:
        """This node's own."""
        return self.membership.incarnation(self.me)

    # Inputs.

    def on_timer(self, now_us: int) -> list[Change]:
        """Do what is due. O(members + open probes)."""
        changes: list[Change] = []
        if self._last_timer_us is None:
            self._start(now_us)
        else:
            self._give_back_lag(now_us - self._last_timer_us - self._limits.tick_us * 3 // 2, now_us)
        self._last_timer_us = now_us
        self._expire_relays(now_us)
        self._go_round(now_us, changes)
        self._expire_probes(now_us, changes)
        self._expire_suspicions(now_us, changes)
        if now_us >= self._tick_next_us:
            self._tick(now_us)
        return changes

    def on_message(self, sender: int, message: Message, now_us: int) -> list[Change]:
        """A message of ``sender``, whose identity the link has proven. Strangers are counted and not heard."""
        if sender == self.me or sender not in self.membership:
            self._count.strangers += 1
            return []
        changes: list[Change] = []
        self._heard_us[sender] = now_us
        self._urgent.pop(sender, None)
        known = self.facts.get(sender)
        if known is None or message.facts.clock >= known.clock:
            self.facts[sender] = message.facts
        if isinstance(message, State):
            rows, asks = message.rows, message.reply != 0
        else:
            rows = message.updates
            asks = isinstance(message, PingReq) or (isinstance(message, Ping) and message.seq != 0)
        for row in rows:
            self._on_row(row, sender, now_us, changes, answered=asks)
        if isinstance(message, Ping):
            if message.seq:
                self._send(sender, Ack(message.seq, 1, self._rumours.rows_for(sender), self.my_facts))
        elif isinstance(message, PingReq):
            self._on_ping_req(sender, message, now_us)
        elif isinstance(message, Ack):
            self._on_ack(sender, message, now_us, changes)
        elif message.reply:
            self._send(sender, self._full_state(reply=0))
        self._challenge(sender, now_us)
        return changes

    def heard(self, short: int, now_us: int) -> None:
        """Any frame of ``short`` arrived. O(1)."""
        if short in self.membership and short != self.me:
            self._heard_us[short] = now_us
            self._urgent.pop(short, None)
            self._challenge(short, now_us)

    def evidence(self, short: int, now_us: int) -> list[Change]:
        """A connection to ``short`` was refused or reset: suspect at once."""
        changes: list[Change] = []
        if short in self.membership and short != self.me:
            self._accuse(short, now_us, changes)
        return changes

    def unanswered(self, short: int, now_us: int, *, urgent: bool = False) -> list[Change]:
        """``short`` owes answers: probe it now instead of when its turn comes.

        ``urgent``: clients wait for them. It counts as unreachable once nothing has come for as long as a direct answer
        may take; the verdict of others is not waited for."""
        changes: list[Change] = []
        if short in self.membership and short != self.me:
            self._probe(short, now_us)
            probe = self._questions.probe_of(short)
            if urgent and probe is not None:
                if short not in self._urgent:
                    self._urgent[short] = probe.opened_us
                    if self._heard_us.get(short, -1) > probe.opened_us:
                        self._urgent[short] = now_us
                        self._ping(short, now_us)  # The probe's may be lost; who owes nothing else has this to answer.
                self._go_round(now_us, changes)
        return changes

    def loop_lag(self, count_us: int, now_us: int) -> None:
        """The event loop stood still for that long, until now: to be told before anything that came meanwhile."""
        if self._last_timer_us is not None:
            self._give_back_lag(min(count_us, now_us - self._last_timer_us), now_us)
            self._last_timer_us = now_us

    def replace_members(self, members: Iterable[int]) -> None:
        """The ring has other members now. Whoever left is forgotten, whoever came starts as alive."""
        self.membership.replace_members(members)
        kept = self.membership
        for table in (self.facts, self._suspicions, self._misses, self._heard_us, self._challenged_us, self._urgent):
            for short in [short for short in table if short not in kept]:
                del table[short]
        self._questions.keep_only(kept)
        self._rumours.forget_strangers()
        self._round = []

    def incarnation_saved(self, incarnation: int) -> None:
        """``incarnation`` is durable (or part of what becomes durable before the outbox leaves)."""
        if self.incarnation_to_save == incarnation:
            self.incarnation_to_save = None

    # Outputs.

    def take_outbox(self) -> list[Outgoing]:
        """What is to be sent, oldest first; it is the caller's now."""
        taken, self.outbox = self.outbox, []
        return taken

    def wake_at_us(self) -> int:
        """When ``on_timer`` is due next. O(open probes and suspicions)."""
        scale = self.health.scale
        return min(
            self._questions.next_deadline_us(self._tick_next_us),
            *(since_us + self._patience_us(short) for short, since_us in self._urgent.items()),
            min((held.deadline_us(scale) for held in self._suspicions.values()), default=self._tick_next_us),
        )

    def stats(self) -> dict[str, int]:
        """Counters and gauges."""
        count = self._count
        return {
            **self.membership.stats(),
            "incarnation": self.incarnation,
            "local_health": self.health.score,
            "probes": count.probes,
            "probes_failed": count.probes_failed,
            "probes_open": len(self._questions.probes),
            "suspicions": count.suspicions,
            "deaths": count.deaths,
            "recoveries": count.recoveries,
            "refutations": count.refutations,
            "messages_of_strangers": count.strangers,
            "bad_rows": count.bad_rows,
            "lag_us": count.lag_us,
        }

    def check_invariants(self) -> None:
        """Raises AssertionError when broken."""
        self.membership.check_invariants()
        assert sorted(self._suspicions) == list(self.membership.in_state(SUSPECT))
        for held in self._suspicions.values():
            held.check_invariants()
        self._questions.check_invariants()
        self._rumours.check_invariants()
        for table in (self.facts, self._misses, self._heard_us, self._challenged_us, self._urgent):
            assert all(short in self.membership for short in table)

    # Time.

    def _start(self, now_us: int) -> None:
        """The first timer: greet everyone, so that a node that was away is known to be back."""
        self._tick_next_us = now_us
        self._dead_next_us = now_us
        self._state_next_us = now_us + self._rng.randrange(self._limits.state_interval_us)
        self._rumours.spread(self.me)
        for short in self.membership.others:
            self._ping(short, now_us)

    def _give_back_lag(self, lag_us: int, now_us: int) -> None:
        """Move deadlines by the time in which nothing could be heard: as told, or as the timer itself shows."""
        if lag_us < self._limits.lag_us or now_us - self._given_us < lag_us + self._limits.direct_us:
            return
        self._given_us = now_us
        self._count.lag_us += lag_us
        self.health.worse()
        self._questions.postpone(lag_us)
        for held in self._suspicions.values():
            held.postpone(lag_us)
        for table in (self._heard_us, self._urgent):
            table.update({short: at_us + lag_us for short, at_us in table.items()})

    def _tick(self, now_us: int) -> None:
        """One round of questions."""
        limits = self._limits
        self._tick_next_us = max(self._tick_next_us + limits.tick_us, now_us + limits.tick_us // 2)
        self._probe_next(now_us)
        doubtful = [
            short
            for short in self.membership.others
            if self.membership.state(short) == SUSPECT or (self._misses.get(short) and self._is_alive(short))
        ]
        for short in self._some(doubtful, limits.extra_probes):
            self._probe(short, now_us)
        if now_us >= self._dead_next_us and (dead := self.membership.in_state(DEAD)):
            self._dead_next_us = now_us + limits.dead_interval_us
            self._ping(self._rng.choice(dead), now_us)
        if now_us >= self._state_next_us:
            self._state_next_us = now_us + limits.state_interval_us
            if there := [short for short in self.membership.others if self.membership.live(short)]:
                self._send(self._rng.choice(there), self._full_state(reply=1))
        self._questions.forget_old(now_us)

    def _probe_next(self, now_us: int) -> None:
        """Probe the next member of this round that is not dead."""
        for _ in range(len(self.membership)):
            if not self._round:
                self._round = list(self.membership.others)
                self._rng.shuffle(self._round)
                if not self._round:
                    return
            short = self._round.pop()
            if self.membership.state(short) != DEAD:
                self._probe(short, now_us)
                return

    def _expire_relays(self, now_us: int) -> None:
        """Tell those who asked that the target did not answer."""
        for relay in self._questions.late_relays(now_us):
            self._send(relay.origin, Ack(relay.seq, 0, self._rumours.rows_for(relay.origin), self.my_facts))

    def _expire_probes(self, now_us: int, changes: list[Change]) -> None:
        """First the direct answer is missing, then the indirect ones."""
        for seq, probe in self._questions.late_probes(now_us):
            if not probe.asked_helpers:
                self._missed(probe.target, changes)
                self._ask_helpers(seq, probe, now_us)
            else:
                del self._questions.probes[seq]
                self._probe_failed(probe, now_us, changes)

    def _expire_suspicions(self, now_us: int, changes: list[Change]) -> None:
        """Whoever did not refute in time is dead; not one who was heard meanwhile, though."""
        scale = self.health.scale
        for short, held in list(self._suspicions.items()):
            if now_us < held.deadline_us(scale):
                continue
            heard_us = self._heard_us.get(short)
            if heard_us is not None and heard_us > held.started_us and now_us - heard_us <= self._limits.fresh_us:
                held.postpone(self._limits.tick_us)
                self._challenge(short, now_us)
                continue
            self._believe((short, DEAD, self.membership.incarnation(short), self.me), now_us, changes)
            self._tell_everyone(now_us)

    # Probing.

    def _probe(self, target: int, now_us: int, accusation: Update | None = None) -> None:
        """Open a probe unless one is open."""
        if self._questions.probe_of(target) is not None:
            return
        self._count.probes += 1
        seq = self._ping(target, now_us, accusation)
        self._questions.probes[seq] = Probe(target, now_us, now_us + self._patience_us(target))

    def _ping(self, target: int, now_us: int, accusation: Update | None = None) -> int:
        """Send a ping and remember when; its seq."""
        seq = self._questions.ping(target, now_us)
        first = () if accusation is None else (accusation,)
        self._send(target, Ping(seq, self._rumours.rows_for(target, *first), self.my_facts))
        return seq

    def _patience_us(self, target: int) -> int:
        """How long ``target`` is waited for: longer when it is known as slow, or when this node is not well: not both,
        for a node that is not well measures all others as slow."""
        usual_us = self._limits.direct_us
        slow_us = min(3 * self.membership.best_rtt_us(target), 4 * usual_us)
        return max(usual_us * self.health.scale, slow_us)

    def _missed(self, target: int, changes: list[Change]) -> None:
        """A direct answer is late."""
        self._misses[target] = self._misses.get(target, 0) + 1
        if self._misses[target] >= self._limits.misses_max:
            self._note(self.membership.set_reachable(target, False), changes)

    def _go_round(self, now_us: int, changes: list[Change]) -> None:
        """Whoever owes answers and is silent for as long as a direct answer may take is not waited for."""
        for short in [at for at, since_us in self._urgent.items() if now_us - since_us >= self._patience_us(at)]:
            del self._urgent[short]
            self._note(self.membership.set_reachable(short, False), changes)

    def _ask_helpers(self, seq: int, probe: Probe, now_us: int) -> None:
        """Second stage: ask live others. With none to ask, only the wait is left."""
        able = [short for short in self.membership.others if short != probe.target and self.membership.live(short)]
        probe.helpers = tuple(self._some(able, self._limits.helpers))
        probe.asked_helpers = True
        probe.deadline_us = now_us + self._patience_us(probe.target)
        for helper in probe.helpers:
            rows = self._rumours.rows_for(helper, self.membership.update(probe.target))
            self._send(helper, PingReq(seq, probe.target, rows, self.my_facts))

    def _probe_failed(self, probe: Probe, now_us: int, changes: list[Change]) -> None:
        """Nobody brought an answer."""
        target = probe.target
        self._count.probes_failed += 1
        if self._is_alive(target):
            # Helpers that did not even say "no" are a sign that it is this node that hears nothing.
            self.health.worse(len(probe.helpers) - probe.denials if probe.helpers else 1)
        if self._heard_us.get(target, -1) > probe.opened_us:
            return
        self._accuse(target, now_us, changes)
        if target in self._suspicions:
            for source in probe.accusers:
                self._suspicions[target].confirm(source)

    def _on_ping_req(self, sender: int, message: PingReq, now_us: int) -> None:
        """Ping another for ``sender``."""
        target = message.target
        if target == self.me or target not in self.membership:
            answered = int(target == self.me)
            self._send(sender, Ack(message.seq, answered, self._rumours.rows_for(sender), self.my_facts))
            return
        seq = self._ping(target, now_us)
        wait_us = self._limits.direct_us * self._limits.relay_percent // 100
        self._questions.relays[seq] = Relay(sender, message.seq, target, now_us + wait_us)

    def _on_ack(self, sender: int, message: Ack, now_us: int, changes: list[Change]) -> None:
        """An answer: to an own ping, from a helper, or to be passed on."""
        seq = message.seq
        probe = self._questions.probes.get(seq)
        sent_us = self._questions.answered(seq, sender) if message.answered else None
        if sent_us is not None:
            self.membership.rtt(sender, now_us - sent_us)
            self._misses.pop(sender, None)
            self._note(self.membership.set_reachable(sender, True), changes)
            relay = self._questions.relays.pop(seq, None)
            if relay is not None:
                self._send(relay.origin, Ack(relay.seq, 1, self._rumours.rows_for(relay.origin), self.my_facts))
        if probe is None:
            return
        if message.answered and (sender == probe.target or sender in probe.helpers):
            del self._questions.probes[seq]
            # A helper that heard it is as good as an own ear: a suspect does not die of a path that is broken here.
            self._heard_us[probe.target] = now_us
            if self._is_alive(probe.target):
                self.health.better()
        elif sender in probe.helpers:
            probe.denials += 1

    # Belief.

    def _on_row(self, row: Update, sender: int, now_us: int, changes: list[Change], *, answered: bool) -> None:
        """Something is said about a member. ``answered``: the sender gets a message back anyway."""
        short, state, incarnation, source = row
        if not ALIVE <= state <= DEAD or not 0 <= incarnation < INCARNATION_MAX:
            self._count.bad_rows += 1
            return
        if short == self.me:
            self._on_own_row(state, incarnation, sender, now_us, answered=answered)
        if short == self.me or short not in self.membership:
            return
        if source not in self.membership:
            source = sender
        if state != ALIVE and self._is_alive(short) and self.membership.beats((short, ALIVE, incarnation, short)):
            # It must have said itself that it is alive in this incarnation.
            self._believe((short, ALIVE, incarnation, short), now_us, changes)
        row = short, state, incarnation, source
        if self.membership.beats(row):
            if state == ALIVE or not self._is_alive(short):
                self._believe(row, now_us, changes)
            else:
                self._look_into(row, now_us)
        elif state == SUSPECT and self.membership.update(short)[1:3] == (SUSPECT, incarnation):
            self._confirm(short, source)

    def _look_into(self, accusation: Update, now_us: int) -> None:
        """Somebody accuses a member that is alive as far as is known here."""
        short, _, _, source = accusation
        self._probe(short, now_us, accusation)
        probe = self._questions.probe_of(short)
        if probe is not None and source not in probe.accusers:
            probe.accusers.append(source)

    def _on_own_row(self, state: int, incarnation: int, sender: int, now_us: int, *, answered: bool) -> None:
        """What others believe of this node: refute what is not so."""
        mine = self.incarnation
        if incarnation > mine or (incarnation == mine and state != ALIVE):
            self.membership.apply((self.me, ALIVE, incarnation + 1, self.me))
            self.incarnation_to_save = incarnation + 1
            self._rumours.spread(self.me)
            if state != ALIVE:
                self._count.refutations += 1
                self.health.worse()
            self._tell_everyone(now_us, dead_too=True)
        elif incarnation < mine and not answered:
            self._tell(sender, now_us)

    def _accuse(self, short: int, now_us: int, changes: list[Change]) -> None:
        """This node found ``short`` silent: suspect it, or confirm that."""
        state = self.membership.state(short)
        if state == ALIVE:
            self._count.suspicions += 1
            self._believe((short, SUSPECT, self.membership.incarnation(short), self.me), now_us, changes)
            self._tell_everyone(now_us)
        elif state == SUSPECT and self._confirm(short, self.me):
            self._tell_everyone(now_us)

    def _confirm(self, short: int, source: int) -> bool:
        """Another one accuses a suspect; True when that was new and is passed on."""
        if not self._suspicions[short].confirm(source):
            return False
        self.membership.resource(short, source)
        self._rumours.spread(short)
        return True

    def _believe(self, row: Update, now_us: int, changes: list[Change]) -> None:
        """Take over a row that beats ours."""
        short, state, _, source = row
        before = self.membership.state(short)
        self._note(self.membership.apply(row), changes)
        self._rumours.spread(short)
        self._suspicions.pop(short, None)
        if state == SUSPECT:
            shortest_us, longest_us = suspicion_limits_us(len(self.membership), self._limits.tick_us)
            expected = confirmations_expected(len(self.membership))
            self._suspicions[short] = Suspicion(
                source=source, started_us=now_us, expected=expected, shortest_us=shortest_us, longest_us=longest_us
            )
        elif state == DEAD:
            self._count.deaths += 1
        elif before == DEAD:
            # It was cut off: whatever it believes is old, and so may be what is believed here of its side.
            self._count.recoveries += 1
            self._send(short, self._full_state(reply=1))
        if state == ALIVE and not self.membership.reachable(short):
            self._probe(short, now_us)

    def _is_alive(self, short: int) -> bool:
        return self.membership.state(short) == ALIVE

    @staticmethod
    def _note(change: Change | None, changes: list[Change]) -> None:
        if change is not None:
            changes.append(change)

    # Telling.

    def _challenge(self, short: int, now_us: int) -> None:
        """Tell a member that is heard, or accused, what is believed of it, so that it can refute."""
        if self.membership.state(short) != ALIVE:
            self._tell(short, now_us)

    def _tell(self, short: int, now_us: int) -> None:
        """A ping out of turn, not too often for one member."""
        told_us = self._challenged_us.get(short)
        if told_us is None or now_us - told_us >= self._limits.challenge_us:
            self._challenged_us[short] = now_us
            self._ping(short, now_us)

    def _tell_everyone(self, now_us: int, *, dead_too: bool = False) -> None:
        """Spread the news at once, by pings that want no answer."""
        there = [short for short in self.membership.others if dead_too or self.membership.state(short) != DEAD]
        for short in self._some(there, self._limits.fanout):
            self._send(short, Ping(0, self._rumours.rows_for(short), self.my_facts))

    def _full_state(self, *, reply: int) -> State:
        """All rows."""
        return State(reply, tuple(self.membership.update(short) for short in self.membership.members), self.my_facts)

    def _some(self, candidates: list[int], count: int) -> list[int]:
        """All of them, or a random ``count``."""
        return candidates if len(candidates) <= count else self._rng.sample(candidates, count)

    def _send(self, to: int, message: Message) -> None:
        self.outbox.append((to, message))
