"""Each checker passes what is right, and finds what is planted."""

from __future__ import annotations

from typing import Any

import pytest

from respkv.base.ids import HASH, STRING
from respkv.causality import dvv, siblings
from respkv.causality.hlc import pack_stamp
from respkv.causality.record import encode, expired_form, tombstone
from respkv.keyspace import keys
from respkv.keyspace.floors import FlushFloors
from respkv.replication.levels import ALL, EVENTUAL, QUORUM
from respkv.testing import checkers
from respkv.testing.checkers import Contents, evidence_of
from respkv.testing.clients import FAILED, OK, UNKNOWN, Operation
from respkv.testing.schedule import EPOCH_MS
from respkv.testing.unasked import KNOWN_FOR_US, check_unasked
from respkv.testing.witness import Floor, Logged

S1, H1, A0, N0 = (keys.record_key(0, key) for key in (b"s1", b"h1", b"a0", b"n0"))
F1 = keys.element_prefix(H1) + b"f1"
NODES = ("n1", "n2", "n3")
LATE_MS = EPOCH_MS + 5_000


def stamp(number: int, node: int = 1) -> bytes:
    return pack_stamp(number << 16, node)


def string(number: int, value: bytes, expire_at_ms: int = 0) -> bytes:
    return encode(STRING, stamp(number), b"$%d\r\n%b\r\n" % (len(value), value), expire_at_ms)


def element(number: int, value: bytes) -> bytes:
    return encode(STRING, stamp(number), value)


class History:
    """Operations, one after another unless told otherwise, and what was logged. Operation n runs from 100 n to
    100 n + 50; a record is logged in its middle."""

    def __init__(self) -> None:
        self.operations: list[Operation] = []
        self.records: dict[bytes, dict[bytes, int]] = {}
        self.floors: list[Floor] = []

    def do(
        self, *words: bytes, reply: Any = b"OK", level: int = QUORUM, outcome: str = OK, start: int = -1, end: int = -1,
        low_ms: int = 0, high_ms: int = 0, logged: dict[bytes, bytes] | None = None,
    ) -> History:  # fmt: skip
        number = len(self.operations)
        start = 100 * number if start < 0 else start
        end = start + 50 if end < 0 else end
        for key, record in (logged or {}).items():
            self.records.setdefault(key, {}).setdefault(record, start + 25)
        self.operations.append(
            Operation(number, "c1", "n1", level, words, start, low_ms, high_ms, end, outcome, reply)
        )
        return self

    def flush(self, number: int) -> History:
        at = 100 * len(self.operations)
        self.floors.append(Floor(at + 25, 0, 0, 16383, stamp(number)))
        return self.do(b"FLUSHALL")

    def check(self) -> list[str]:
        evidence = evidence_of(self.records, self.floors)
        return checkers.check_history(self.operations, evidence) + checkers.check_once(self.operations, evidence)


@pytest.mark.parametrize(("logged", "whole"), [((), True), ((0, 1), True), ((0,), False), ((1,), False)])
@pytest.mark.parametrize("outcome", [OK, FAILED, UNKNOWN])
def test_of_a_transaction_all_is_logged_or_nothing(outcome: str, logged: tuple[int, ...], whole: bool) -> None:
    history = History()
    prefix = keys.element_prefix(keys.record_key(0, b"h1"))
    history.do(b"MULTI")
    for at, name in enumerate((b"f1", b"f2")):
        record = {prefix + name: element(at + 1, b"<%d>" % at)} if at in logged else {}
        history.do(b"HSET", b"h1", name, b"<%d>" % at, reply=1, outcome=outcome, logged=record)
    history.do(b"HGET", b"h1", b"f3", reply=None).do(b"EXEC", reply=[1, 1, None], outcome=outcome)
    for operation in history.operations:
        operation.transaction = 0
    # Another one, of another client, in between.
    history.do(b"HSET", b"h1", b"f3", b"<9>", outcome=UNKNOWN)
    evidence = evidence_of(history.records, history.floors)
    problems = checkers.check_whole(history.operations, evidence)
    assert len(problems) == (not whole) and all(problem.startswith("whole: 1 of 2 fields") for problem in problems)


def test_a_read_at_all_sees_what_was_acknowledged_at_any_level() -> None:
    history = History().do(b"SET", b"s1", b"<1>", logged={S1: string(1, b"<1>")})
    history.do(b"SET", b"s1", b"<2>", level=EVENTUAL, logged={S1: string(2, b"<2>")})
    history.do(b"GET", b"s1", reply=b"<1>", level=EVENTUAL).do(b"GET", b"s1", reply=b"<1>")
    assert history.check() == []
    history.do(b"GET", b"s1", reply=b"<2>", level=ALL)
    assert history.check() == []
    history.do(b"GET", b"s1", reply=b"<1>", level=ALL)
    assert [problem[:11] for problem in history.check()] == ["quorum read"]


def test_a_read_after_an_acknowledged_write_sees_it_or_something_newer() -> None:
    history = History().do(b"SET", b"s1", b"<1>", logged={S1: string(1, b"<1>")})
    history.do(b"GET", b"s1", reply=b"<1>")
    history.do(b"SET", b"s1", b"<2>", outcome=UNKNOWN, logged={S1: string(2, b"<2>")})
    history.do(b"GET", b"s1", reply=b"<2>").do(b"GET", b"s1", reply=b"<2>")
    assert history.check() == []


def test_a_stale_quorum_read_is_found() -> None:
    history = History().do(b"SET", b"s1", b"<1>", logged={S1: string(1, b"<1>")})
    history.do(b"SET", b"s1", b"<2>", logged={S1: string(2, b"<2>")})
    history.do(b"GET", b"s1", reply=b"<1>")
    assert len(history.check()) == 1 and history.check()[0].startswith("quorum read: s1 shows")


def test_an_absent_key_that_was_written_is_found() -> None:
    history = History().do(b"SET", b"s1", b"<1>", logged={S1: string(1, b"<1>")}).do(b"GET", b"s1", reply=None)
    assert history.check()[0].startswith("quorum read: s1 is absent")


@pytest.mark.parametrize(("first", "second"), [(EVENTUAL, QUORUM), (QUORUM, EVENTUAL)])
def test_eventual_promises_nothing(first: int, second: int) -> None:
    history = History().do(b"SET", b"s1", b"<1>", level=first, logged={S1: string(1, b"<1>")})
    assert history.do(b"GET", b"s1", reply=None, level=second).check() == []


def test_what_runs_at_the_same_time_may_or_may_not_be_seen() -> None:
    history = History().do(b"SET", b"s1", b"<1>", end=500, logged={S1: string(1, b"<1>")})
    assert history.do(b"GET", b"s1", reply=None).do(b"GET", b"s1", reply=b"<1>").check() == []


def test_reads_that_go_back_are_found() -> None:
    history = History().do(b"SET", b"s1", b"<1>", logged={S1: string(1, b"<1>")})
    history.do(b"SET", b"s1", b"<2>", outcome=UNKNOWN, logged={S1: string(2, b"<2>")})
    history.do(b"GET", b"s1", reply=b"<2>").do(b"GET", b"s1", reply=b"<1>")
    assert history.check()[0].startswith("quorum read")


def test_the_order_is_that_of_stamps() -> None:
    """A clock was ahead: the first write has the greater stamp, and stays."""
    history = History().do(b"SET", b"s1", b"<1>", logged={S1: string(9, b"<1>")})
    history.do(b"SET", b"s1", b"<2>", logged={S1: string(2, b"<2>")})
    assert history.do(b"GET", b"s1", reply=b"<1>").check() == []


def test_a_value_of_no_log_is_found() -> None:
    assert History().do(b"GET", b"s1", reply=b"<9>", level=EVENTUAL).check()[0].startswith("read: s1")


def test_an_acknowledged_write_that_is_in_no_log_is_found() -> None:
    assert History().do(b"SET", b"s1", b"<1>").check()[0].startswith("acked")


def test_a_refused_write_that_was_applied_is_found() -> None:
    history = History().do(b"HSET", b"h1", b"f1", b"<1>", outcome=FAILED, logged={F1: element(1, b"<1>")})
    assert history.check()[0].startswith("failed")


def test_deleted_is_deleted() -> None:
    history = History().do(b"SET", b"s1", b"<1>", logged={S1: string(1, b"<1>")})
    history.do(b"DEL", b"s1", reply=1, logged={S1: tombstone(stamp(2))}).do(b"GET", b"s1", reply=None)
    assert history.check() == []
    assert history.do(b"GET", b"s1", reply=b"<1>").check()[0].startswith("quorum read")


def test_flushed_is_flushed() -> None:
    history = History().do(b"SET", b"s1", b"<1>", logged={S1: string(1, b"<1>")}).flush(2)
    assert history.do(b"GET", b"s1", reply=None).check() == []
    assert history.do(b"GET", b"s1", reply=b"<1>").check()[0].startswith("quorum read")


def test_fields_of_an_earlier_life_are_found() -> None:
    life = {H1: encode(HASH, stamp(2), stamp(1)), F1: element(3, b"<1>")}
    history = History().do(b"HSET", b"h1", b"f1", b"<1>", logged=life)
    history.do(b"HGETALL", b"h1", reply=[b"f1", b"<1>"])
    history.do(b"DEL", b"h1", reply=1, logged={H1: tombstone(stamp(4))}).do(b"HGETALL", b"h1", reply=[])
    assert history.check() == []
    assert history.do(b"HGETALL", b"h1", reply=[b"f1", b"<1>"]).check()[0].startswith("quorum read: h1.f1")


def test_expired_values_are_gone_in_time() -> None:
    history = History().do(b"SET", b"s1", b"<1>", b"PX", b"9", logged={S1: string(1, b"<1>", LATE_MS)})
    history.do(b"GET", b"s1", reply=b"<1>", low_ms=LATE_MS - 1, high_ms=LATE_MS)
    history.do(b"GET", b"s1", reply=None, low_ms=LATE_MS - 1, high_ms=LATE_MS)
    assert history.check() == []
    history.do(b"GET", b"s1", reply=b"<1>", low_ms=LATE_MS + 100, high_ms=LATE_MS + 100)
    assert history.check()[0].startswith("expiry")


def test_a_value_that_is_gone_before_its_time_is_found() -> None:
    history = History().do(b"SET", b"s1", b"<1>", b"PX", b"9", logged={S1: string(1, b"<1>", LATE_MS)})
    history.do(b"GET", b"s1", reply=None, high_ms=LATE_MS - 1)
    assert history.check()[0].startswith("quorum read: s1 is absent")


def test_what_was_done_twice_is_found() -> None:
    history = History().do(b"APPEND", b"a0", b"<1>", reply=3, logged={A0: string(1, b"<1>")})
    history.do(b"INCR", b"n0", reply=1, logged={N0: string(2, b"1")})
    assert history.check() == []
    history.records[A0][string(3, b"<1><1>")] = 60
    history.records[N0][string(4, b"2")] = 60
    assert [text[:4] for text in history.check()] == ["once", "once"]


def test_what_was_lost_is_found() -> None:
    history = History().do(b"SET", b"s1", b"<1>", level=EVENTUAL, logged={S1: string(1, b"<1>")})
    history.do(b"SET", b"s1", b"<2>", level=ALL, logged={S1: string(2, b"<2>")})
    evidence = evidence_of(history.records, [])

    def check(left: dict[bytes, bytes], *levels: int, floor: int = 0) -> list[str]:
        floors = FlushFloors()
        if floor:
            floors.raise_to(0, 0, 16383, stamp(floor))
        return checkers.check_survival(history.operations, evidence, left, floors, levels=levels)

    assert check({S1: string(2, b"<2>")}, EVENTUAL, ALL) == []
    assert check({S1: tombstone(stamp(7))}, EVENTUAL, ALL) == []
    assert check({}, EVENTUAL, ALL, floor=3) == []
    assert check({S1: string(1, b"<1>")}, EVENTUAL) == []
    assert check({S1: string(1, b"<1>")}, EVENTUAL, ALL)[0].startswith("survival")
    assert len(check({}, EVENTUAL, ALL)) == 2


def test_lost_fields_and_flushes_are_found() -> None:
    life = {H1: encode(HASH, stamp(2), stamp(1)), F1: element(3, b"<1>")}
    history = History().do(b"HSET", b"h1", b"f1", b"<1>", logged=life).flush(9)
    evidence, floors = evidence_of(history.records, history.floors), FlushFloors()
    found = checkers.check_survival(history.operations, evidence, {H1: life[H1]}, floors, levels=(QUORUM,))
    assert len(found) == 2
    floors.raise_to(0, 0, 16383, stamp(9))
    assert checkers.check_survival(history.operations, evidence, {H1: life[H1]}, floors, levels=(QUORUM,)) == []


def contents(records: dict[bytes, bytes], root: int = 1, names: tuple[str, ...] = NODES) -> list[Contents]:
    slots = {keys.key_slot(key): root for key in records}
    return [Contents(name, dict(records), dict(slots)) for name in names]


def owners(slot: int) -> tuple[str, ...]:
    return NODES


def test_replicas_that_differ_are_found_by_contents_and_by_roots() -> None:
    slot = keys.key_slot(S1)
    assert checkers.check_convergence(contents({S1: string(1, b"a")}), owners) == []
    nodes = contents({S1: string(1, b"a")})
    nodes[1].records[S1] = string(2, b"b")
    assert "differ at key s1" in checkers.check_convergence(nodes, owners)[0]
    assert "roots equal" in checkers.check_convergence(nodes, owners)[0]
    nodes = contents({S1: string(1, b"a")})
    nodes[2].roots[slot] = 7
    assert "roots differ" in checkers.check_convergence(nodes, owners)[0]
    nodes = contents({S1: string(1, b"a")}, root=0)
    assert "knows of none" in checkers.check_convergence(nodes, owners)[0]
    nodes = contents({S1: string(1, b"a")})
    nodes[2].records.clear()
    nodes[2].roots.clear()
    assert len(checkers.check_convergence(nodes, lambda slot: NODES[:2])) == 0


def test_the_last_write_must_have_won() -> None:
    floors = FlushFloors()

    def check(held: dict[bytes, bytes], left: dict[bytes, bytes]) -> list[str]:
        return checkers.check_last_write(contents(held, names=("n1",)), owners, left, floors, LATE_MS)

    assert check({S1: string(2, b"b")}, {S1: string(2, b"b")}) == []
    assert check({}, {S1: tombstone(stamp(3))}) == []
    assert check({}, {S1: string(1, b"a", LATE_MS - 1)}) == []
    assert "holds type 1" in check({S1: string(1, b"a")}, {S1: string(2, b"b")})[0]
    assert "has not" in check({}, {S1: string(2, b"b")})[0]
    assert "of no log" in check({S1: string(2, b"b")}, {})[0]
    assert "holds" in check({S1: string(2, b"b")}, {S1: tombstone(stamp(3))})[0]
    assert check({}, {H1: tombstone(stamp(4)), F1: element(3, b"x")}) == []
    floors.raise_to(0, 0, 16383, stamp(5))
    assert "flushed" in check({S1: string(2, b"b")}, {S1: string(2, b"b")})[0]


def test_of_siblings_in_one_log_some_may_be_flushed() -> None:
    floors = FlushFloors()
    floors.raise_to(0, 0, 16383, stamp(5))
    actor = dvv.make_actor(1, 1)
    deleted, flushed = dvv.Sibling(int.from_bytes(stamp(6)[:8], "big"), actor, 0, None), dvv.Sibling(2, actor, 0, b"v")
    left = siblings.encode(dvv.Container({actor: deleted.hlc}, (deleted, flushed)))
    assert checkers.check_last_write(contents({}, names=("n1",)), owners, {S1: left}, floors, LATE_MS) == []
    floors = FlushFloors()
    assert checkers.check_last_write(contents({}, names=("n1",)), owners, {S1: left}, floors, LATE_MS)


def test_what_all_replicas_have_is_never_unseen() -> None:
    history = History().do(b"SET", b"s1", b"<1>", level=EVENTUAL, logged={S1: string(1, b"<1>")})
    history.do(b"DEL", b"s1", reply=1, level=EVENTUAL, logged={S1: tombstone(stamp(2))})
    history.do(b"GET", b"s1", reply=b"<1>", level=EVENTUAL, start=300)
    evidence = evidence_of(history.records, [])

    def check(*times: int) -> list[str]:
        logs = {
            name: [Logged(1, 10, S1, string(1, b"<1>")), Logged(2, us, S1, tombstone(stamp(2)))]
            for name, us in zip(NODES, times)
        }
        return checkers.check_settled(history.operations, evidence, logs, owners)

    assert check(120, 130, 310) == []
    assert check(120, 130, 140)[0].startswith("settled")


def test_a_floor_that_all_have_hides_fields_and_a_new_stamp_alone_does_not() -> None:
    old, new = encode(HASH, stamp(2), stamp(1)), encode(HASH, stamp(6), stamp(5))
    history = History().do(b"HSET", b"h1", b"f1", b"<1>", level=EVENTUAL, logged={H1: old, F1: element(3, b"<1>")})
    history.do(b"HGET", b"h1", b"f1", reply=b"<1>", level=EVENTUAL, start=300)
    evidence = evidence_of(history.records, [])

    def check(record: bytes) -> list[str]:
        logs = {name: [Logged(1, 10, H1, old), Logged(2, 20, H1, record)] for name in NODES}
        return checkers.check_settled(history.operations, evidence, logs, owners)

    assert check(encode(HASH, stamp(6), stamp(1), LATE_MS)) == []
    assert check(new)[0].startswith("settled")


def test_late_and_missing_answers_are_found() -> None:
    history = History().do(b"GET", b"s1", reply=None).do(b"GET", b"s1", reply=None, end=5_000)
    history.do(b"GET", b"s1", outcome=UNKNOWN)
    history.operations[2].end_us = -1
    assert checkers.check_answers(history.operations, healed_us=300, bound_us=1_000) == []
    found = checkers.check_answers(history.operations, healed_us=50, bound_us=1_000)
    assert [text.split(":")[1].strip().split()[0] for text in found] == ["4900", "none"]


def test_an_expired_collection_takes_along_what_was_written_to_it() -> None:
    life = {H1: encode(HASH, stamp(2), stamp(1), LATE_MS), F1: element(3, b"<1>")}
    history = History().do(b"HSET", b"h1", b"f1", b"<1>", logged=life)
    history.records[H1][expired_form(life[H1])] = 70
    history.do(b"HGET", b"h1", b"f1", reply=None, high_ms=LATE_MS)
    assert history.check() == []


def burst(*operations: tuple[tuple[bytes, ...], Any, dict[bytes, bytes]], level: int = QUORUM) -> list[str]:
    """What ``check_order`` finds in requests that were sent together: words, reply, records logged."""
    history = History()
    for words, reply, logged in operations:
        history.do(*words, reply=reply, level=level, start=100, end=900, logged=logged)
    for operation in history.operations:
        operation.burst = 0
    return checkers.check_order(history.operations, evidence_of(history.records, []))


def test_requests_sent_together_take_effect_in_their_order() -> None:
    first = ((b"SET", b"s1", b"<1>"), b"OK", {S1: string(1, b"<1>")})
    then = ((b"SET", b"s1", b"<2>"), b"OK", {S1: string(2, b"<2>")})
    older = ((b"SET", b"s1", b"<2>"), b"OK", {S1: string(0, b"<2>")})
    read = (b"GET", b"s1")
    assert burst((read, None, {}), first, (read, b"<1>", {}), then, (read, b"<2>", {})) == []
    assert burst(first, older)[0].startswith("order: is older than what was written right before")
    assert burst(first, then, (read, b"<1>", {}))[0].startswith("order: shows less than was written right before")
    assert burst(first, then, (read, b"<1>", {}), level=EVENTUAL) == []
    assert burst((read, b"<1>", {}), first)[0].startswith("order: shows what was written after it, by #1")


def test_a_read_may_show_what_another_has_written_meanwhile_with_a_later_stamp() -> None:
    other = {S1: string(9, b"<7>")}
    assert burst(((b"GET", b"s1"), b"<7>", other), ((b"SET", b"s1", b"<1>"), b"OK", {S1: string(1, b"<1>")})) == []


def unasked(history: History) -> list[str]:
    return check_unasked(
        history.operations, evidence_of(history.records, history.floors), history.records, skew_ms=0
    )


def with_field(*, level: int = QUORUM) -> History:
    """A field that was acknowledged, long before what comes."""
    return History().do(b"HSET", b"h1", b"f1", b"<1>", level=level, end=60, logged={F1: element(1, b"<1>")})


def test_a_grave_that_nobody_has_asked_for_hides_nothing_that_was_acknowledged() -> None:
    late_us = 60 + KNOWN_FOR_US + 1
    planted = with_field()
    planted.records[H1] = {tombstone(stamp(9)): late_us}
    assert len(unasked(planted)) == 1

    asked = with_field().do(b"DEL", b"h1", start=late_us - 25, logged={H1: tombstone(stamp(9))})
    assert unasked(asked) == []
    older = with_field()
    older.records[H1] = {tombstone(stamp(0)): late_us}
    assert unasked(older) == []
    too_soon = with_field()
    too_soon.records[H1] = {tombstone(stamp(9)): late_us - 1}
    assert unasked(too_soon) == []
    assert unasked_after_removal(late_us, tombstone(stamp(5))) == []
    assert len(unasked_after_removal(late_us, None)) == 1


def unasked_after_removal(late_us: int, removed: bytes | None) -> list[str]:
    history = with_field()
    history.records[H1] = {tombstone(stamp(9)): late_us}
    if removed is not None:
        history.records[F1][removed] = late_us - 10
    return unasked(history)


def test_a_grave_hides_what_its_maker_cannot_owe() -> None:
    late_us = 60 + KNOWN_FOR_US + 1
    eventual = with_field(level=EVENTUAL)
    eventual.records[H1] = {tombstone(stamp(9)): late_us}
    assert unasked(eventual) == []
    for at_ms, owed in ((EPOCH_MS + late_us // 1000 - 1, 0), (EPOCH_MS + late_us // 1000 + 900, 1)):
        expiring = with_field()
        expiring.records[F1][encode(STRING, stamp(2), b"<1>", at_ms)] = 200
        expiring.records[H1] = {tombstone(stamp(9)): late_us}
        assert len(unasked(expiring)) == owed
