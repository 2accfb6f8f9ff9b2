"""What members ask each other for people to see: who holds a key, and are the copies of a slot equal?

``StatusPull`` names a section, ``Status`` answers with facts:

* ``stamp:DB:KEY`` (the stored database; the key as latin-1): ``holds`` is HOLDS_*, ``stamp`` the ten bytes of what is
  held, ``hints:SHORT`` how many writes are held here for each member that was away;
* ``roots:SLOT:MARK``: ``exact`` 1 when the sums describe all that is stored now, ``root`` the Merkle root as 16 hex
  digits, ``mark`` the purge watermark it is counted by. The answer adopts a higher MARK first, as anti-entropy does:
  roots counted by different watermarks cannot be compared.

Whoever cannot be reached, or does not answer within ANSWER_US, is named so (None in place of its facts): nothing here
waits longer. Questions are asked for clients, each of which waits for one at a time, which bounds them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from respkv.base.errors import CorruptionError, ProtocolError
from respkv.base.slots import SLOT_COUNT
from respkv.causality.hlc import ZERO_STAMP
from respkv.causality.record import BODY_AT, TYPE_MASK
from respkv.keyspace import keys
from respkv.node.repair import Repair
from respkv.node.repair_run import RepairRun, Row
from respkv.replication.replica import Replica
from respkv.replication.tombstones import FOREVER
from respkv.wire.messages import Status, StatusPull

ANSWER_US: Final = 1_000_000
#: How long copies may be counting before their roots are given as they are, and the pause between two looks.
VERIFY_US: Final = 3_000_000
VERIFY_PAUSE_US: Final = 50_000
_NUMBER_DIGITS: Final = len(str(FOREVER))
HOLDS_VALUE: Final = b"value"
HOLDS_GRAVE: Final = b"tombstone"
HOLDS_NOTHING: Final = b"nothing"
HOLDS_DAMAGE: Final = b"damaged"

Facts = Mapping[str, bytes]
#: Member -> its facts, None where it did not answer; in the order in which they were asked for.
Answers = dict[int, Facts | None]


def _is_number(digits: bytes) -> bool:
    """Whether these are the decimal digits of a u64. Few enough, first: ``int`` refuses thousands of them."""
    return len(digits) <= _NUMBER_DIGITS and digits.isdigit() and int(digits) <= FOREVER


class _Open:
    """A question under way. ``waiting``: who has not answered."""

    __slots__ = ("answers", "deadline_us", "done", "waiting")

    def __init__(self, answers: Answers, waiting: dict[int, None], done: Callable[[Answers], None], deadline_us: int):
        self.answers = answers
        self.waiting = waiting
        self.done = done
        self.deadline_us = deadline_us


class _Verify:
    """Roots that are asked for until all are exact and counted by one watermark."""

    __slots__ = ("again_us", "deadline_us", "done", "shorts", "slot")

    def __init__(self, slot: int, shorts: tuple[int, ...], done: Callable[[Answers], None], deadline_us: int):
        self.slot = slot
        self.shorts = shorts
        self.done = done
        self.deadline_us = deadline_us
        self.again_us = 0


class RingWatch:
    """Both ends of the questions of one node, and the repairs that were asked for."""

    __slots__ = ("_live", "_next_seq", "_now_us", "_open", "_repair", "_replica", "_runs", "_send", "_verifying", "me")

    def __init__(
        self,
        repair: Repair,
        replica: Replica,
        *,
        send: Callable[[int, Any], bool],
        live: Callable[[int], bool],
        next_seq: Callable[[], int],
        now_us: Callable[[], int],
    ) -> None:
        self._repair = repair
        self._replica = replica
        self._send = send
        self._live = live
        self._next_seq = next_seq
        self._now_us = now_us
        self._open: dict[int, _Open] = {}
        self._verifying: list[_Verify] = []
        self._runs: list[RepairRun] = []
        self.me = 0
        repair.on_asked = self._on_asked

    # -- questions ---------------------------------------------------------------------------------

    def where(self, db: int, key: bytes, members: Iterable[int], done: Callable[[Answers], None]) -> None:
        """What each of ``members`` holds of a key of a stored database. May raise ReadMiss: nothing was asked then."""
        self._ask(f"stamp:{db}:{key.decode('latin-1')}", members, done)

    def verify(self, slot: int, replicas: tuple[int, ...], done: Callable[[Answers], None]) -> None:
        """The roots of a slot at each of its replicas, once all are exact, or as they are after VERIFY_US."""
        self._look_at_roots(_Verify(slot, replicas, done, self._now_us() + VERIFY_US))

    def repair(self, slot: int | None, done: Callable[[Mapping[int, Row], int], None]) -> RepairRun:
        """Compare a slot, or all of this node's, with every co-replica until nothing differs.

        ``done`` gets a row for each co-replica, and how many records were repaired here meanwhile.
        """
        run = RepairRun(self._repair, slot, repaired=lambda: self._replica.repaired, done=done, now_us=self._now_us())
        self._runs.append(run)
        run.begin(self._live)
        self._runs = [each for each in self._runs if not each.over]
        return run

    def _ask(self, section: str, members: Iterable[int], done: Callable[[Answers], None]) -> None:
        shorts = tuple(members)
        mine = self._tell(section) if self.me in shorts else None
        answers: Answers = dict.fromkeys(shorts)
        seq = self._next_seq()
        waiting: dict[int, None] = {}
        for short in shorts:
            if short == self.me:
                answers[short] = mine
            elif self._live(short) and self._send(short, StatusPull(seq, section)):
                waiting[short] = None
        if waiting:
            self._open[seq] = _Open(answers, waiting, done, self._now_us() + ANSWER_US)
        else:
            done(answers)

    def _look_at_roots(self, verify: _Verify) -> None:
        def looked(answers: Answers) -> None:
            told = [facts for facts in answers.values() if facts is not None]
            for facts in told:
                self._adopt(verify.slot, facts.get("mark", b"0"))
            settled = all(facts.get("exact") == b"1" for facts in told)
            if (settled and len({facts.get("mark") for facts in told}) <= 1) or self._now_us() >= verify.deadline_us:
                verify.done(answers)
            else:
                verify.again_us = self._now_us() + VERIFY_PAUSE_US
                self._verifying.append(verify)

        mark = self._repair.watermarks.marks[verify.slot]
        self._ask(f"roots:{verify.slot}:{mark}", verify.shorts, looked)

    def _adopt(self, slot: int, mark: bytes) -> None:
        """A co-replica's watermark is as good as one's own."""
        if self._repair.owns_slot(slot) and _is_number(mark):
            self._repair.watermarks.adopt(slot, slot, int(mark))

    # -- answers -----------------------------------------------------------------------------------

    def on_pull(self, short: int, message: StatusPull) -> None:
        """A member asks. May raise ReadMiss (call it again) and ProtocolError for a section that nobody would name."""
        self._send(short, Status(message.seq, tuple(self._tell(message.section).items())))

    def on_status(self, short: int, message: Status) -> None:
        """A member answers. ProtocolError for a number that is none: whoever asked counts with it."""
        for name, value in message.facts:
            if (name == "mark" or name.startswith("hints:")) and not _is_number(value):
                raise ProtocolError(f"a fact of no number: {name[:64]!r}")
        held = self._open.get(message.seq)
        if held is not None and short in held.waiting:
            held.answers[short] = dict(message.facts)
            self._answered(message.seq, held, short)

    def _answered(self, seq: int, held: _Open, short: int) -> None:
        del held.waiting[short]
        if not held.waiting:
            del self._open[seq]
            held.done(held.answers)

    def _tell(self, section: str) -> Facts:
        """This node's facts; none of a section that it does not know."""
        name, _, rest = section.partition(":")
        first, _, last = rest.partition(":")
        if name not in ("stamp", "roots"):
            return {}
        if not first.isascii() or not first.isdigit() or len(first) > 5:
            raise ProtocolError(f"a status section of no number: {section[:64]!r}")
        return self._tell_stamp(int(first), last) if name == "stamp" else self._tell_roots(int(first), last)

    def _tell_stamp(self, db: int, text: str) -> Facts:
        try:
            key = text.encode("latin-1")
            internal = keys.place_start(self._replica.slot(key), db) + key
        except (UnicodeEncodeError, OverflowError, ValueError) as error:
            raise ProtocolError("a status section of a key that is none") from error
        stamp = b""
        try:
            record = self._replica.held(internal)
        except CorruptionError:
            holds = HOLDS_DAMAGE
        else:
            holds = HOLDS_NOTHING
            if record is not None and record[1:BODY_AT] != ZERO_STAMP:
                stamp = record[1:BODY_AT]
                holds = HOLDS_VALUE if record[0] & TYPE_MASK else HOLDS_GRAVE
        hints = {f"hints:{target}": b"%d" % row["entries"] for target, row in self._repair.hints.target_stats().items()}
        return {"holds": holds, "stamp": stamp, **hints}

    def _tell_roots(self, slot: int, mark: str) -> Facts:
        digits = mark.encode()
        if slot >= SLOT_COUNT or not _is_number(digits):
            raise ProtocolError("a status section of a slot that is none")
        self._adopt(slot, digits)
        exact, roots = self._repair.verify(slot)
        held = b"%d" % self._repair.watermarks.marks[slot]
        return {"exact": b"%d" % exact, "root": b"%016x" % roots[slot], "mark": held}

    # -- links and time ----------------------------------------------------------------------------

    def peer_lost(self, short: int) -> None:
        """The link has ended: it will not answer."""
        for seq, held in list(self._open.items()):
            if short in held.waiting:
                self._answered(seq, held, short)
        self._each_run(lambda run: run.lost(short))

    def on_timer(self, now_us: int) -> None:
        """Give up whoever is late, look again at roots, go on with repairs. Cheap while nothing is asked."""
        for seq in [seq for seq, held in self._open.items() if now_us >= held.deadline_us]:
            held = self._open.pop(seq)
            held.done(held.answers)
        if self._verifying:
            due = [verify for verify in self._verifying if now_us >= verify.again_us]
            self._verifying = [verify for verify in self._verifying if now_us < verify.again_us]
            for verify in due:
                self._look_at_roots(verify)
        if self._runs:
            self._each_run(lambda run: run.on_timer(now_us))

    def _on_asked(self, session: Any, slots: Any, went_well: bool) -> None:
        now_us = self._now_us()
        self._each_run(lambda run: run.ended(session, slots, went_well, now_us))

    def _each_run(self, step: Callable[[RepairRun], None]) -> None:
        for run in list(self._runs):
            step(run)
        self._runs = [run for run in self._runs if not run.over]

    def busy(self) -> bool:
        """True while ``on_timer`` is needed."""
        return bool(self._open or self._verifying or self._runs)

    def check_invariants(self) -> None:
        """Whoever is waited for has not answered."""
        for held in self._open.values():
            assert held.waiting and all(held.answers[short] is None for short in held.waiting)
