"""The checker of kept keys: each thing that must not happen, in a history of a few requests."""

from __future__ import annotations

from typing import Any

import pytest

from respkv.causality import context, siblings
from respkv.causality.dvv import Clock, Container, Sibling, make_actor
from respkv.causality.hlc import pack_stamp
from respkv.keyspace import keys
from respkv.replication.levels import EVENTUAL, QUORUM
from respkv.testing.clients import FAILED, OK, UNKNOWN, Operation
from respkv.testing.sibling_work import check_siblings
from respkv.testing.witness import Floor

KEY = b"c0"
INTERNAL = keys.record_key(0, KEY)
A, B = make_actor(1, 7), make_actor(2, 9)
ONE, TWO, THREE = Sibling(1, A, 0, b"one"), Sibling(2, B, 0, b"two"), Sibling(3, A, 0, b"three")


def record(clock: Clock, *held: Sibling) -> bytes:
    return siblings.encode(Container(clock, held))


def token(clock: Clock) -> bytes:
    return context.encode(Container(clock, ()), KEY)


def write(value: bytes, clock: Clock, at: int, *, outcome: str = OK, level: int = QUORUM) -> Operation:
    made = Operation(at, "c", "n1", level, (b"RKV.SET", KEY, token(clock), value), at, end_us=at + 5, outcome=outcome)
    made.reply = b"OK"
    return made


def read(clock: Clock, values: list[bytes], at: int, *, level: int = QUORUM) -> Operation:
    made = Operation(at, "c", "n1", level, (b"RKV.GET", KEY), at, end_us=at + 5, outcome=OK)
    made.reply = [token(clock), *values]
    return made


#: One, then two beside it, then three in place of one.
VERSIONS = [record({A: 1}, ONE), record({A: 1, B: 2}, TWO, ONE), record({A: 3, B: 2}, THREE, TWO)]
WRITES = [write(b"one", {}, 10), write(b"two", {}, 20), write(b"three", {A: 1}, 30)]


def found(history: list[Operation], final: list[bytes], *, strict: bool = True, floors: Any = ()) -> list[str]:
    versions = {INTERNAL: dict.fromkeys(VERSIONS, 1)}
    return check_siblings(history, versions, floors, {KEY: final}, strict=strict)


def test_what_is_right_is_found_right() -> None:
    reads = [
        read({A: 1}, [b"one"], 16), read({A: 1, B: 2}, [b"two", b"one"], 26),
        read({A: 3, B: 2}, [b"three", b"two"], 36),
        read({}, [], 12, level=EVENTUAL), read({A: 1}, [b"one"], 40, level=EVENTUAL),
    ]  # fmt: skip
    assert found([*WRITES, *reads], [b"three", b"two"]) == []


@pytest.mark.parametrize(
    ("extra", "final", "reason"),
    [
        ([], [b"three"], "a value is gone that nobody has replaced"),
        ([], [b"three", b"two", b"one"], "is there, which was replaced"),
        ([write(b"lost", {}, 50)], [b"three", b"two"], "acked: nothing of it is in any log"),
        ([write(b"two", {}, 50, outcome=FAILED)], [b"three", b"two"], "failed: it was applied all the same"),
        ([read({A: 3, B: 2}, [b"three"], 50, level=EVENTUAL)], [b"three", b"two"], "covers b'two', which was not"),
        ([read({A: 3}, [b"three", b"two"], 50)], [b"three", b"two"], "the context does not cover b'two'"),
        ([read({A: 3}, [b"three"], 50)], [b"three", b"two"], "a read at a quorum lacks b'two'"),
        ([read({A: 3, B: 2}, [b"three", b"two", b"odd"], 50)], [b"three", b"two"], "shows what nobody has logged"),
    ],
)
def test_what_is_wrong_is_found(extra: list[Operation], final: list[bytes], reason: str) -> None:
    problems = found([*WRITES, *extra], final)
    assert problems and all(reason in problem for problem in problems), problems


def test_a_write_whose_outcome_is_unknown_may_have_replaced_something() -> None:
    unknown = write(b"four", {B: 2}, 50, outcome=UNKNOWN)
    assert found([*WRITES, unknown], [b"three"]) == [] == found([*WRITES, unknown], [b"three", b"two"])


def test_what_was_flushed_may_be_gone() -> None:
    floor = Floor(40, 0, 0, 16383, pack_stamp(2, 0xFFFF))
    assert found(WRITES, [b"three"], floors=[floor]) == []


def test_a_run_that_loses_logs_is_not_held_to_what_was_acknowledged() -> None:
    assert found([*WRITES, read({A: 3}, [b"three"], 50)], [b"three"], strict=False) == []


def test_one_value_under_two_dots_was_written_twice() -> None:
    versions = {INTERNAL: dict.fromkeys([VERSIONS[0], record({B: 5}, Sibling(5, B, 0, b"one"))], 1)}
    problems = check_siblings(WRITES[:1], versions, (), {KEY: [b"one"]}, strict=True)
    assert problems and "under two dots" in problems[0]
