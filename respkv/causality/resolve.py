"""Which policy a key has, and what one value a reader gets when there are several.

Policies, by the longest matching prefix of the user key: ``lww`` (plain records, last write wins), ``siblings``
(all values are kept until a writer who has seen them replaces them), ``merge:NAME`` (as siblings, and a function makes
one value of several). A function sees the *distinct visible values, sorted as bytes*; so its result cannot depend
on the order of arrival, and equal values need no merging. It should also not mind being applied to its own
results again, f(f(a, b), c) = f(a, b, c), as the merged value is written back and may conflict once more.

Those built in are in ``merges.py``. An application's own functions run on the loop's thread, fenced in: an exception,
a result that is not bytes, or too much work makes the reader get the last-write-wins value, leaves the siblings as
they are, and is counted and named in the outcome. Work is bounded by counting bytecode instructions, by the clock
and by an alarm, which stop a runaway function in its tracks, one that sleeps included; the count makes a function
some ten times slower, which only conflicts pay. Not stoppable are a single long call into C that looks for no
signals (a sum over a huge range) and code that swallows BaseException; such a call is found out when it returns.
After *one* call that was too slow the function is not called again for ten seconds, whatever the key, after the
next for twenty, and so on (docs/decisions/0014-merge-functions.md).
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import Enum
from types import FrameType, TracebackType
from typing import Any, Final, NamedTuple, TypeAlias

from respkv.causality.dvv import Container
from respkv.causality.merges import BUILT_IN, MergeFunction
from respkv.env.alarm import NO_ALARM, Alarm
from respkv.env.clock import Clock

_Trace: TypeAlias = Callable[[FrameType, str, Any], Any]

#: Bytecode instructions of one call.
STEPS_MAX: Final = 500_000
#: Time of one call, microseconds.
TIME_MAX_US: Final = 50_000
#: How long a function rests after its first slow call, microseconds; twice as long after each further one.
REST_FIRST_US: Final = 10_000_000
REST_MAX_US: Final = 3_600_000_000
#: And no less than this many times what the call took: one that cannot be stopped has a hundredth of the time.
REST_TIMES: Final = 100
#: Calls in a row that were in time make the next rest as short as the first.
GOOD_CALLS: Final = 100
#: Longest merged value, bytes.
RESULT_BYTES_MAX: Final = 512 << 20
_CLOCK_EVERY_STEPS: Final = 256
_NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}\Z")


class Mode(Enum):
    """What happens to concurrent writes."""

    LWW = "lww"
    SIBLINGS = "siblings"
    MERGE = "merge"


class Policy(NamedTuple):
    """One policy; ``name`` is the merge function's and empty otherwise."""

    mode: Mode
    name: str = ""

    def __str__(self) -> str:
        return f"merge:{self.name}" if self.mode is Mode.MERGE else self.mode.value


LWW: Final = Policy(Mode.LWW)
SIBLINGS: Final = Policy(Mode.SIBLINGS)


def parse_policy(text: str, known: Iterable[str]) -> Policy:
    """The policy that ``text`` names; ``known`` are the merge functions there are. ValueError with the reason."""
    word, colon, name = text.partition(":")
    lowered = word.lower()
    if lowered == "merge" and colon:
        names = sorted(known)
        if name not in names:
            raise ValueError(f"no merge function is called '{name}'; there are {', '.join(names)}")
        return Policy(Mode.MERGE, name)
    if colon or lowered not in ("lww", "siblings"):
        raise ValueError(f"conflict policy must be lww, siblings or merge:NAME, not '{text}'")
    return LWW if lowered == "lww" else SIBLINGS


class PolicyTable:
    """Prefix of the user key -> policy; the longest prefix that matches counts, and ``default`` if none does."""

    __slots__ = ("_lengths", "_rows", "default", "plain")

    def __init__(self, rows: Mapping[bytes, Policy], *, default: Policy = LWW) -> None:
        self._rows = dict(rows)
        self._lengths = sorted({len(prefix): True for prefix in rows}, reverse=True)
        self.default = default
        #: True when every key is ``lww``: nothing need be looked up.
        self.plain = all(policy == LWW for policy in (default, *rows.values()))

    @classmethod
    def from_rows(
        cls, rows: Iterable[tuple[bytes, str]], *, known: Iterable[str], default: str = "lww"
    ) -> PolicyTable:
        """The table of configuration rows ``(prefix, policy)``. ValueError for a bad policy or a prefix given twice."""
        names, parsed = list(known), {}
        for prefix, text in rows:
            if prefix in parsed:
                raise ValueError(f"prefix '{prefix.decode(errors='backslashreplace')}' has two conflict policies")
            parsed[prefix] = parse_policy(text, names)
        return cls(parsed, default=parse_policy(default, names))

    def policy(self, key: bytes) -> Policy:
        """The policy of a user key. O(different prefix lengths)."""
        rows = self._rows
        for length in self._lengths:
            policy = rows.get(key[:length])
            if policy is not None:
                return policy
        return self.default

    def rows(self) -> list[tuple[bytes, Policy]]:
        """All rows, by prefix."""
        return sorted(self._rows.items())


class Outcome(Enum):
    """How a read of a container came to its one value."""

    ABSENT = "absent"
    SINGLE = "single"
    #: Several values, the newest chosen: that is the policy.
    NEWEST = "newest"
    MERGED = "merged"
    #: From here on: a merge function failed, the newest value was taken instead.
    THREW = "threw"
    WRONG_RESULT = "wrong-result"
    TOO_SLOW = "too-slow"
    RESTING = "resting"


_FAILURES: Final = (Outcome.THREW, Outcome.WRONG_RESULT, Outcome.TOO_SLOW, Outcome.RESTING)


class Resolution(NamedTuple):
    """One value of a container. ``detail`` says what went wrong, for the log.

    ``value`` None is an absent key. A merged value never expires if one of its sources does not, else with the last.
    """

    outcome: Outcome
    value: bytes | None
    expire_at_ms: int
    visible: int
    detail: str = ""

    @property
    def failed(self) -> bool:
        """True when a merge function did not give a value."""
        return self.outcome in _FAILURES

    @property
    def write_back(self) -> bool:
        """True when the acting primary, and nobody else, should write ``value`` with the container's clock."""
        return self.outcome is Outcome.MERGED


_STEPS: Final = "too many steps"
_TIME: Final = "too much time"


class _Spent(BaseException):
    """The budget of a call is used up. Not an Exception, so that ``except Exception`` in the function lets it pass."""


class _Fence:
    """Keeps whatever one call of foreign code raises, and stops it when its budget is spent. An alarm set around it
    may interrupt the fence itself: who sets one restores the tracing, too.

    This is the one place where any exception is expected. KeyboardInterrupt and the like still pass. An instance is
    entered once. Tracing belongs to the thread; what was set before (a debugger, a coverage tool) is put back.
    """

    __slots__ = ("_before", "_clock", "_deadline_us", "_steps", "raised", "spent")

    def __init__(self, clock: Clock, *, steps_max: int, deadline_us: int) -> None:
        self._clock = clock
        self._steps = steps_max
        self._deadline_us = deadline_us
        self._before: Any = None
        #: What the call raised, as text: keeping the exception would keep all frames of the call.
        self.raised = ""
        self.spent = False

    def __enter__(self) -> _Fence:
        self._before = sys.gettrace()
        sys.settrace(self._count)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        sys.settrace(self._before)
        if error is None:
            return False
        self.spent = isinstance(error, _Spent)
        self.raised = str(error) if self.spent else _told(error)
        return self.spent or isinstance(error, Exception | SystemExit)

    def _count(self, frame: FrameType, event: str, argument: object) -> _Trace | None:
        """Called for each instruction of each frame entered within the fence. Line events would miss tight loops."""
        if frame.f_code is _LEAVING:
            return None
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        self._steps -= 1
        if self._steps < 0:
            raise _Spent(_STEPS)
        if not self._steps % _CLOCK_EVERY_STEPS and self._clock.monotonic_us() > self._deadline_us:
            raise _Spent(_TIME)
        return self._count


#: Leaving the fence costs no steps: the budget must not run out where nothing would hold its exception.
_LEAVING: Final = _Fence.__exit__.__code__


class _Function:
    """A merge function and how it has been doing. Counts are of this life of the node."""

    __slots__ = (
        "call",
        "calls",
        "failed",
        "fenced",
        "good_in_a_row",
        "rest_us",
        "resting_until_us",
        "skipped",
        "slow",
    )

    def __init__(self, call: MergeFunction, *, fenced: bool) -> None:
        self.call = call
        #: an application's own; not so those built in
        self.fenced = fenced
        #: calls; those that threw or gave what is no value; those that were too slow; calls that a rest has saved
        self.calls = self.failed = self.slow = self.skipped = 0
        self.good_in_a_row = 0
        #: length of the last rest, 0 when the next is the first
        self.rest_us = 0
        self.resting_until_us = 0

    def in_time(self) -> None:
        """A call was not too slow."""
        self.good_in_a_row += 1
        if self.good_in_a_row >= GOOD_CALLS:
            self.rest_us = 0

    def too_slow(self, end_us: int, took_us: int) -> None:
        """A call was too slow: there is none for a while."""
        self.slow += 1
        self.good_in_a_row = 0
        self.rest_us = min(max(2 * self.rest_us, REST_FIRST_US, REST_TIMES * took_us), REST_MAX_US)
        self.resting_until_us = end_us + self.rest_us


class Resolvers:
    """The merge functions by name: those built in and an application's own. Counts every outcome."""

    __slots__ = ("_alarm", "_clock", "_functions", "_steps_max", "_time_max_us", "outcomes")

    def __init__(
        self,
        functions: Mapping[str, MergeFunction],
        *,
        clock: Clock,
        alarm: Alarm = NO_ALARM,
        steps_max: int = STEPS_MAX,
        time_max_us: int = TIME_MAX_US,
    ) -> None:
        self._functions = {name: _Function(call, fenced=False) for name, call in BUILT_IN.items()}
        self._functions |= {name: _Function(functions[name], fenced=True) for name in sorted(functions)}
        self._clock = clock
        self._alarm = alarm
        self._steps_max = steps_max
        self._time_max_us = time_max_us
        self.outcomes = dict.fromkeys(Outcome, 0)

    @classmethod
    def from_functions(
        cls,
        functions: Mapping[str, object],
        *,
        clock: Clock,
        alarm: Alarm = NO_ALARM,
        steps_max: int = STEPS_MAX,
        time_max_us: int = TIME_MAX_US,
    ) -> Resolvers:
        """Resolvers with an application's functions beside the built-in ones.

        ValueError when a name is taken or malformed, or its object cannot be called.
        """
        checked: dict[str, MergeFunction] = {}
        for name, function in functions.items():
            if not _NAME.match(name):
                raise ValueError(f"'{name}' cannot name a merge function")
            if name in BUILT_IN:
                raise ValueError(f"merge function '{name}' is built in")
            if not callable(function):
                raise ValueError(f"merge function '{name}' cannot be called")
            checked[name] = function
        return cls(checked, clock=clock, alarm=alarm, steps_max=steps_max, time_max_us=time_max_us)

    def names(self) -> list[str]:
        """All names that ``merge:NAME`` may use."""
        return sorted(self._functions)

    def resolve(self, policy: Policy, container: Container, now_ms: int) -> Resolution:
        """The one value a plain reader gets at ``now_ms``. O(siblings), and the merge function's work."""
        resolution = self._resolve(policy, container, now_ms)
        self.outcomes[resolution.outcome] += 1
        return resolution

    def _resolve(self, policy: Policy, container: Container, now_ms: int) -> Resolution:
        visible = container.visible(now_ms)
        if not visible:
            return Resolution(Outcome.ABSENT, None, 0, 0)
        newest, count = visible[0], len(visible)
        if count == 1:
            return Resolution(Outcome.SINGLE, newest.value, newest.expire_at_ms, 1)
        if policy.mode is not Mode.MERGE:
            return Resolution(Outcome.NEWEST, newest.value, newest.expire_at_ms, count)
        values = sorted({sibling.value: True for sibling in visible if sibling.value is not None})
        if len(values) == 1:
            outcome, merged, detail = Outcome.MERGED, values[0], ""
        else:
            outcome, merged, detail = self._run(policy.name, values)
        if outcome is not Outcome.MERGED:
            return Resolution(outcome, newest.value, newest.expire_at_ms, count, f"merge:{policy.name}: {detail}")
        expiries = [sibling.expire_at_ms for sibling in visible]
        return Resolution(outcome, merged, 0 if 0 in expiries else max(expiries), count)

    def _run(self, name: str, values: Sequence[bytes]) -> tuple[Outcome, bytes, str]:
        """(outcome, merged value or nothing, what went wrong)."""
        function = self._functions[name]
        if function.fenced:
            return self._run_fenced(function, values)
        function.calls += 1
        try:
            return Outcome.MERGED, function.call(values), ""
        except (ValueError, RecursionError) as error:
            function.failed += 1
            return Outcome.THREW, b"", _told(error)

    def _run_fenced(self, function: _Function, values: Sequence[bytes]) -> tuple[Outcome, bytes, str]:
        begin_us = self._clock.monotonic_us()
        if begin_us < function.resting_until_us:
            function.skipped += 1
            left_s = -((begin_us - function.resting_until_us) // 1_000_000)
            return Outcome.RESTING, b"", f"was too slow, and is not called for another {left_s} s"
        function.calls += 1
        result, raised, spent = self._call(function.call, values, begin_us + self._time_max_us)
        end_us = self._clock.monotonic_us()
        took_us = end_us - begin_us
        if spent or took_us > self._time_max_us:
            function.too_slow(end_us, took_us)
            told = f"was stopped after {took_us} us, {spent}" if spent else f"took {took_us} us"
            limits = f"{self._time_max_us} us and {self._steps_max} steps are the limits"
            return Outcome.TOO_SLOW, b"", f"{told}: {limits}; it rests for {function.rest_us // 1_000_000} s"
        function.in_time()
        if not raised and type(result) is bytes and len(result) <= RESULT_BYTES_MAX:
            return Outcome.MERGED, result, ""
        function.failed += 1
        if raised:
            return Outcome.THREW, b"", raised
        if type(result) is not bytes:
            return Outcome.WRONG_RESULT, b"", f"returned {type(result).__name__} instead of bytes"
        return Outcome.WRONG_RESULT, b"", f"returned {len(result)} bytes, at most {RESULT_BYTES_MAX} are possible"

    def _call(self, call: MergeFunction, values: Sequence[bytes], deadline_us: int) -> tuple[object, str, str]:
        """(what a function has given, what it has raised, what it has used up of its budget).

        The alarm may go off anywhere between ``set`` and ``clear``, so that the fence alone would not hold it.
        """
        fence = _Fence(self._clock, steps_max=self._steps_max, deadline_us=deadline_us)
        result: object = None
        tracing = sys.gettrace()
        try:
            try:
                self._alarm.set(self._time_max_us, _Spent(_TIME))
                with fence:
                    result = call(tuple(values))
            finally:
                # Within the fence the tracing is ended already, unless the alarm went off there.
                sys.settrace(tracing)
                self._alarm.clear()
        except _Spent as error:
            return None, "", str(error)
        return result, "" if fence.spent else fence.raised, fence.raised if fence.spent else ""

    def stats(self) -> dict[str, int]:
        """How often each outcome came about, and how many functions of the application's there are."""
        figures = {outcome.value: count for outcome, count in self.outcomes.items()}
        figures["functions"] = sum(function.fenced for function in self._functions.values())
        return figures

    def function_stats(self) -> dict[str, dict[str, int]]:
        """By figure and function: calls, failures, slow calls, calls not made, seconds of rest to come."""
        now_us = self._clock.monotonic_us()
        functions = self._functions.items()
        return {
            "calls": {name: function.calls for name, function in functions},
            "failed": {name: function.failed for name, function in functions},
            "slow": {name: function.slow for name, function in functions},
            "skipped": {name: function.skipped for name, function in functions},
            "rest_us": {name: max(0, function.resting_until_us - now_us) for name, function in functions},
        }


def _told(error: BaseException) -> str:
    """An exception for the log, cut to a line. Foreign exceptions may fail to describe themselves, so nothing is asked
    of them but their class and their first argument."""
    text = error.args[0] if error.args and type(error.args[0]) is str else ""
    return f"{type(error).__name__} {text}".strip().partition("\n")[0][:200]
