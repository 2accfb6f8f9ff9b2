"""Policies by prefix, resolving a container to one value, and the fence around an application's functions."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Sequence

import pytest

from respkv.causality import resolve
from respkv.causality.dvv import EMPTY, Container, Sibling, make_actor
from respkv.causality.merges import BUILT_IN
from respkv.causality.resolve import LWW, SIBLINGS, Mode, Outcome, Policy, PolicyTable, Resolvers, parse_policy

NAMES = ["max", "union", "mine"]
UNION = Policy(Mode.MERGE, "union")


class StepClock:
    """A clock that moves ``step_us`` with each look."""

    def __init__(self, step_us: int = 0) -> None:
        self.now_us = 1_000_000
        self.step_us = step_us

    def monotonic_us(self) -> int:
        self.now_us += self.step_us
        return self.now_us

    def steady_us(self) -> int:
        return self.now_us

    def wall_us(self) -> int:
        return self.now_us


def container(*values: bytes | None, expiries: Sequence[int] = ()) -> Container:
    """Siblings with the given values, the first one newest; those beyond ``expiries`` have none."""
    actor, count = make_actor(1, 1), len(values)
    timed = zip(values, [*expiries, *[0] * count])
    siblings = [Sibling(count - place, actor, expire_at_ms, value) for place, (value, expire_at_ms) in enumerate(timed)]
    return Container({actor: count}, tuple(siblings)) if count else EMPTY


def mine(
    function: object, *, clock: StepClock | None = None, steps_max: int = 500_000, time_max_us: int = 50_000
) -> Resolvers:
    """Resolvers with ``function`` under the name "mine"."""
    clock = clock or StepClock()
    return Resolvers.from_functions({"mine": function}, clock=clock, steps_max=steps_max, time_max_us=time_max_us)


MINE = Policy(Mode.MERGE, "mine")
TWO = container(b"b", b"a")


# --- policies ---


def test_policies_as_text() -> None:
    assert parse_policy("lww", NAMES) == LWW and parse_policy("SIBLINGS", NAMES) == SIBLINGS
    assert parse_policy("merge:mine", NAMES) == MINE
    assert [str(policy) for policy in (LWW, SIBLINGS, MINE)] == ["lww", "siblings", "merge:mine"]


BAD_POLICIES = ["", "last", "lww:", "siblings:x", "merge", "merge:", "merge:other", "merge:Max", "lww "]


@pytest.mark.parametrize("text", BAD_POLICIES)
def test_bad_policies(text: str) -> None:
    with pytest.raises(ValueError, match=r"conflict policy must be|max, mine, union"):
        parse_policy(text, NAMES)


def test_the_longest_prefix_counts() -> None:
    rows = [(b"cart:", "siblings"), (b"cart:tags:", "merge:union"), (b"c", "merge:max"), (b"cart:old:", "lww")]
    table = PolicyTable.from_rows(rows, known=NAMES)
    expected = {
        b"": LWW,
        b"x": LWW,
        b"c": Policy(Mode.MERGE, "max"),
        b"cart": Policy(Mode.MERGE, "max"),
        b"cart:": SIBLINGS,
        b"cart:7": SIBLINGS,
        b"cart:tags": SIBLINGS,
        b"cart:tags:7": UNION,
        b"cart:old:7": LWW,
        b"Cart:7": LWW,
    }
    assert {key: table.policy(key) for key in expected} == expected
    assert not table.plain
    assert table.rows() == sorted((prefix, parse_policy(text, NAMES)) for prefix, text in rows)


def test_the_longest_prefix_as_the_naive_search_finds_it() -> None:
    prefixes = [b"".join(part) for length in range(4) for part in itertools.product((b"a", b"b"), repeat=length)][::2]
    table = PolicyTable({prefix: Policy(Mode.MERGE, prefix.decode()) for prefix in prefixes})
    for length in range(6):
        for part in itertools.product((b"a", b"b", b"c"), repeat=length):
            key = b"".join(part)
            best = max((prefix for prefix in prefixes if key.startswith(prefix)), key=len, default=None)
            assert table.policy(key) == (LWW if best is None else Policy(Mode.MERGE, best.decode()))


def test_default_and_the_empty_prefix() -> None:
    assert PolicyTable({}).plain and PolicyTable({b"a": Policy(Mode.LWW)}).plain
    table = PolicyTable.from_rows([(b"a", "lww")], known=NAMES, default="siblings")
    assert not table.plain and table.policy(b"b") == SIBLINGS and table.policy(b"a1") == LWW
    assert PolicyTable.from_rows([(b"", "siblings")], known=NAMES).policy(b"anything") == SIBLINGS


def test_bad_tables() -> None:
    with pytest.raises(ValueError, match="prefix 'a' has two"):
        PolicyTable.from_rows([(b"a", "lww"), (b"a", "siblings")], known=NAMES)
    with pytest.raises(ValueError, match="no merge function is called 'gone'"):
        PolicyTable.from_rows([], known=NAMES, default="merge:gone")


# --- resolving ---


def test_one_value_needs_no_policy() -> None:
    resolvers = mine(lambda values: 1 // 0)
    for policy in (LWW, SIBLINGS, UNION, MINE):
        assert resolvers.resolve(policy, container(), 0) == (Outcome.ABSENT, None, 0, 0, "")
        assert resolvers.resolve(policy, container(None, None), 0) == (Outcome.ABSENT, None, 0, 0, "")
        assert resolvers.resolve(policy, container(None, b"v", expiries=(0, 9)), 8) == (Outcome.SINGLE, b"v", 9, 1, "")
        assert resolvers.resolve(policy, container(b"v", expiries=(9,)), 9).outcome is Outcome.ABSENT
    assert resolvers.stats()["absent"] == 12 and resolvers.stats()["single"] == 4


def test_several_values_without_a_merge_give_the_newest() -> None:
    resolution = mine(len).resolve(SIBLINGS, container(b"new", b"old", None, expiries=(7,)), 0)
    assert resolution == (Outcome.NEWEST, b"new", 7, 2, "")
    assert not resolution.write_back and not resolution.failed


@pytest.mark.parametrize(
    ("name", "expected"), [("max", b"[9]"), ("min", b"[10,1]"), ("longest", b"[10,1]"), ("union", b"[1,9,10]")]
)
def test_built_in_merges(name: str, expected: bytes) -> None:
    for values in ((b"[9]", b"[10,1]"), (b"[10,1]", b"[9]")):
        resolution = mine(len).resolve(Policy(Mode.MERGE, name), container(*values), 0)
        assert resolution == (Outcome.MERGED, expected, 0, 2, "")
        assert resolution.write_back and not resolution.failed


def test_a_built_in_merge_that_does_not_fit_gives_the_newest() -> None:
    for bad in (b"no list", b"[" * 200_000):
        resolution = mine(len).resolve(UNION, container(bad, b"[1]"), 0)
        assert (resolution.outcome, resolution.value) == (Outcome.THREW, bad)
        assert resolution.detail.startswith("merge:union: ")
        assert resolution.failed and not resolution.write_back


def test_expiry_of_a_merged_value() -> None:
    def expiry(*expiries: int) -> int:
        values = [b"[%d]" % place for place in range(len(expiries))]
        return mine(len).resolve(UNION, container(*values, expiries=expiries), 5).expire_at_ms

    assert expiry(30, 20) == 30
    assert expiry(30, 0) == 0
    some_gone = container(b"[1]", b"[2]", b"[3]", expiries=(10, 20, 4))
    assert mine(len).resolve(UNION, some_gone, 5)[1:4] == (b"[1,2]", 20, 2)


def test_equal_values_are_one_and_no_function_is_asked() -> None:
    resolution = mine(lambda values: 1 // 0).resolve(MINE, container(b"same", b"same", None), 0)
    assert resolution == (Outcome.MERGED, b"same", 0, 2, "") and resolution.write_back


def test_a_function_sees_distinct_values_in_one_order() -> None:
    seen: list[Sequence[bytes]] = []

    def function(values: Sequence[bytes]) -> bytes:
        seen.append(values)
        return b"+".join(values)

    for values in itertools.permutations((b"c", b"a", b"b", b"a")):
        assert mine(function).resolve(MINE, container(*values), 0).value == b"a+b+c"
    assert seen == [(b"a", b"b", b"c")] * 24


def test_names() -> None:
    assert mine(len).names() == ["longest", "max", "min", "mine", "union"]
    assert mine(len).stats()["functions"] == 1


@pytest.mark.parametrize(
    ("name", "function", "reason"),
    [("max", len, "built in"), ("a b", len, "cannot name"), ("", len, "cannot name"), ("x", 3, "cannot be called")],
)
def test_functions_that_cannot_be_taken(name: str, function: object, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        Resolvers.from_functions({name: function}, clock=StepClock())


# --- the fence ---


class AppError(Exception):
    pass


def raising(error: BaseException) -> Callable[[Sequence[bytes]], bytes]:
    def function(values: Sequence[bytes]) -> bytes:
        raise error

    return function


@pytest.mark.parametrize(
    ("error", "detail"),
    [
        (AppError("bad\nluck"), "AppError bad"),
        (KeyError(b"x"), "KeyError"),
        (ValueError("x" * 999), "ValueError " + "x" * 189),
        (SystemExit(3), "SystemExit"),
        (MemoryError(), "MemoryError"),
    ],
)
def test_what_a_function_throws_is_contained(error: BaseException, detail: str) -> None:
    resolvers = mine(raising(error))
    resolution = resolvers.resolve(MINE, TWO, 0)
    assert resolution == (Outcome.THREW, b"b", 0, 2, f"merge:mine: {detail}")
    assert resolution.failed and not resolution.write_back
    assert resolvers.stats()["threw"] == 1


def test_endless_recursion_is_contained() -> None:
    def function(values: Sequence[bytes]) -> bytes:
        return function(values)

    assert mine(function).resolve(MINE, TWO, 0).outcome is Outcome.THREW


def test_an_interrupt_is_not_the_function_s_and_passes() -> None:
    before = sys.gettrace()
    with pytest.raises(KeyboardInterrupt):
        mine(raising(KeyboardInterrupt())).resolve(MINE, TWO, 0)
    assert sys.gettrace() is before


@pytest.mark.parametrize(
    ("result", "name"), [(None, "NoneType"), ("text", "str"), (bytearray(b"x"), "bytearray"), (7, "int"), ([], "list")]
)
def test_what_is_not_bytes_is_refused(result: object, name: str) -> None:
    resolution = mine(lambda values: result).resolve(MINE, TWO, 0)
    assert resolution == (Outcome.WRONG_RESULT, b"b", 0, 2, f"merge:mine: returned {name} instead of bytes")


def test_what_is_too_long_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolve, "RESULT_BYTES_MAX", 3)
    assert mine(lambda values: b"abc").resolve(MINE, TWO, 0).outcome is Outcome.MERGED
    resolution = mine(lambda values: b"abcd").resolve(MINE, TWO, 0)
    assert resolution.outcome is Outcome.WRONG_RESULT and "4 bytes" in resolution.detail


def tight(values: Sequence[bytes]) -> bytes:
    while True:
        pass


def in_a_comprehension(values: Sequence[bytes]) -> bytes:
    return bytes([0 for _ in itertools.count() if False])


def in_a_generator(values: Sequence[bytes]) -> bytes:
    return b"" if all(number >= 0 for number in itertools.count()) else b"x"


def in_a_callback(values: Sequence[bytes]) -> bytes:
    return bytes(filter(lambda number: False, itertools.count()))


def that_swallows(values: Sequence[bytes]) -> bytes:
    while True:
        try:
            while True:
                len(values)
        except Exception:
            continue


@pytest.mark.parametrize("function", [tight, in_a_comprehension, in_a_generator, in_a_callback, that_swallows])
def test_a_runaway_function_is_stopped_by_its_steps(function: Callable[[Sequence[bytes]], bytes]) -> None:
    before = sys.gettrace()
    resolution = mine(function, steps_max=5000).resolve(MINE, TWO, 0)
    assert (resolution.outcome, resolution.value) == (Outcome.TOO_SLOW, b"b")
    assert "too many steps" in resolution.detail
    assert sys.gettrace() is before


def test_wherever_the_steps_run_out_nothing_escapes() -> None:
    before, outcomes = sys.gettrace(), []
    for steps_max in range(60):
        resolution = mine(lambda values: values[0] + values[1], steps_max=steps_max).resolve(MINE, TWO, 0)
        assert sys.gettrace() is before
        outcomes.append(resolution.outcome)
    enough = outcomes.index(Outcome.MERGED)
    assert 0 < enough < 40
    assert outcomes == [Outcome.TOO_SLOW] * enough + [Outcome.MERGED] * (60 - enough)


def test_a_runaway_function_is_stopped_by_the_clock() -> None:
    clock = StepClock(step_us=1000)
    resolution = mine(tight, clock=clock, time_max_us=20_000).resolve(MINE, TWO, 0)
    assert resolution.outcome is Outcome.TOO_SLOW
    limits = "20000 us and 500000 steps are the limits; it rests for 10 s"
    assert resolution.detail == f"merge:mine: was stopped after 22000 us, too much time: {limits}"


def test_a_call_that_was_too_slow_at_once_is_found_out_when_it_returns() -> None:
    clock = StepClock()

    def function(values: Sequence[bytes]) -> bytes:
        clock.now_us += 60_000
        return b"late"

    resolution = mine(function, clock=clock).resolve(MINE, TWO, 0)
    assert (resolution.outcome, resolution.value) == (Outcome.TOO_SLOW, b"b")
    limits = "50000 us and 500000 steps are the limits; it rests for 10 s"
    assert resolution.detail == f"merge:mine: took 60000 us: {limits}"


class Timed:
    """The function "mine" of some resolvers, which takes ``took_us`` of a clock that moves with nothing else."""

    def __init__(self) -> None:
        self.clock = StepClock()
        self.took_us = self.calls = 0
        self.resolvers = Resolvers.from_functions({"mine": self, "other": b"".join}, clock=self.clock)

    def __call__(self, values: Sequence[bytes]) -> bytes:
        self.calls += 1
        self.clock.now_us += self.took_us
        return b"done"

    def outcome(self, took_us: int, values: Container = TWO) -> Outcome:
        self.took_us = took_us
        return self.resolvers.resolve(MINE, values, 0).outcome

    def rest_us(self) -> int:
        """How long it rests, until the moment before the next call."""
        begin_us = self.clock.now_us
        left_us = self.resolvers.function_stats()["rest_us"]["mine"]
        self.clock.now_us += left_us - 1
        assert self.outcome(0) is Outcome.RESTING
        self.clock.now_us += 1
        return self.clock.now_us - begin_us


def test_after_one_slow_call_a_function_is_not_called_whatever_the_key() -> None:
    mine = Timed()
    assert mine.outcome(60_000) is Outcome.TOO_SLOW
    resolutions = [mine.resolvers.resolve(MINE, container(b"%d" % key, b"x"), 0) for key in range(50)]
    assert {resolution.outcome for resolution in resolutions} == {Outcome.RESTING} and mine.calls == 1
    assert [resolution.value for resolution in resolutions] == [b"%d" % key for key in range(50)]
    assert resolutions[0].detail == "merge:mine: was too slow, and is not called for another 10 s"
    # Another function is not concerned.
    assert mine.resolvers.resolve(Policy(Mode.MERGE, "other"), TWO, 0).value == b"ab"
    assert mine.rest_us() == resolve.REST_FIRST_US and mine.outcome(0) is Outcome.MERGED
    assert mine.resolvers.stats() == {
        "absent": 0, "single": 0, "newest": 0, "merged": 2, "threw": 0, "wrong-result": 0, "too-slow": 1, "resting": 51,
        "functions": 2,
    }  # fmt: skip
    figures = mine.resolvers.function_stats()
    assert {name: counts["mine"] for name, counts in figures.items()} == {
        "calls": 2, "failed": 0, "slow": 1, "skipped": 51, "rest_us": 0,
    }  # fmt: skip


def test_rests_grow_until_many_calls_were_in_time() -> None:
    mine, rests = Timed(), []
    for _ in range(12):
        assert mine.outcome(60_000) is Outcome.TOO_SLOW
        rests.append(mine.rest_us() // 1_000_000)
        assert mine.outcome(0) is Outcome.MERGED
    assert rests == [10, 20, 40, 80, 160, 320, 640, 1280, 2560, 3600, 3600, 3600]
    for _ in range(resolve.GOOD_CALLS - 2):
        mine.outcome(0)
    assert mine.outcome(60_000) is Outcome.TOO_SLOW and mine.rest_us() == resolve.REST_MAX_US
    for _ in range(resolve.GOOD_CALLS):
        mine.outcome(0)
    assert mine.outcome(60_000) is Outcome.TOO_SLOW and mine.rest_us() == resolve.REST_FIRST_US


def test_a_call_that_nothing_stopped_makes_a_longer_rest() -> None:
    mine = Timed()
    assert mine.outcome(2_000_000) is Outcome.TOO_SLOW and mine.rest_us() == 200_000_000
    assert mine.outcome(900_000_000) is Outcome.TOO_SLOW and mine.rest_us() == resolve.REST_MAX_US


class Rings:
    """An alarm that goes off at one place, as if the time were over there."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.error: BaseException | None = None

    def ring(self, where: str) -> None:
        if where == self.where and self.error is not None:
            error, self.error = self.error, None
            raise error

    def set(self, after_us: int, error: BaseException) -> None:
        assert after_us == 50_000
        self.error = error
        self.ring("set")

    def clear(self) -> None:
        self.ring("clear")
        self.error = None


@pytest.mark.parametrize("where", ["set", "call", "clear", ""])
def test_an_alarm_ends_the_call_wherever_it_goes_off(where: str) -> None:
    before, alarm = sys.gettrace(), Rings(where)

    def function(values: Sequence[bytes]) -> bytes:
        alarm.ring("call")
        return b"done"

    resolution = Resolvers.from_functions({"mine": function}, clock=StepClock(), alarm=alarm).resolve(MINE, TWO, 0)
    assert sys.gettrace() is before and alarm.error is None
    assert resolution.outcome is (Outcome.TOO_SLOW if where else Outcome.MERGED)
    if where:
        assert resolution.detail.startswith("merge:mine: was stopped after 0 us, too much time: 50000 us and")


def test_tracing_that_was_on_is_put_back() -> None:
    def tracer(frame: object, event: str, argument: object) -> None:
        return None

    before = sys.gettrace()
    sys.settrace(tracer)
    try:
        outcome = mine(tight, steps_max=50).resolve(MINE, TWO, 0).outcome
        during = sys.gettrace()
    finally:
        sys.settrace(before)
    assert outcome is Outcome.TOO_SLOW and during is tracer


def test_built_in_functions_are_as_named() -> None:
    assert list(BUILT_IN) == ["max", "min", "union", "longest"]
