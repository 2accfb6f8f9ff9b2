"""The kinds of value a directive can have: how text becomes a value and a value becomes text again.

A kind is immutable and shared by directives. ``parse`` takes the arguments that follow the name and
raises ``ConfigError`` with Redis' reason. ``render`` gives the one string that CONFIG GET returns, and
``render`` of a value always parses back to that value. ``lines`` gives what a configuration file holds.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, TypeAlias

from respkv.base.errors import RespkvError
from respkv.config.syntax import quote

INT_MIN: Final = -(1 << 31)
INT_MAX: Final = (1 << 31) - 1
UINT_MAX: Final = (1 << 32) - 1
LONG_MIN: Final = -(1 << 63)
LONG_MAX: Final = (1 << 63) - 1
ULONG_MAX: Final = (1 << 64) - 1
MIB: Final = 1 << 20

_UNITS: Final = {
    "": 1, "b": 1,
    "k": 1000, "kb": 1024,
    "m": 1000**2, "mb": 1024**2,
    "g": 1000**3, "gb": 1024**3,
}  # fmt: skip
_MEMORY: Final = re.compile(r"([0-9]+|(?=\Z))([a-z]*)\Z")
_INTEGER: Final = re.compile(r"(?:0|-?[1-9][0-9]*)\Z")
_OCTAL: Final = re.compile(r"[0-7]+\Z")
_DECIMAL: Final = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?\Z")

#: Event letters in the order in which CONFIG GET prints them; ``A`` stands for the first ten.
_EVENT_ALL: Final = "g$lshzxetd"
_EVENT_REST: Final = "KEmn"


class ConfigError(RespkvError):
    """A value that cannot be taken; the message is the reason, in Redis' words where it has one."""

    @property
    def reason(self) -> str:
        return str(self.args[0])


class BufferLimit(NamedTuple):
    """Limits of one class of clients; 0 means no limit."""

    hard_bytes: int
    soft_bytes: int
    soft_seconds: int


class OutputLimits(NamedTuple):
    """``client-output-buffer-limit``: the three classes."""

    normal: BufferLimit
    replica: BufferLimit
    pubsub: BufferLimit


SavePoints: TypeAlias = tuple[tuple[int, int], ...]
Value: TypeAlias = bool | int | str | tuple[str, ...] | tuple[int, ...] | SavePoints | OutputLimits


def memory_bytes(text: str) -> int:
    """Bytes that ``text`` names: ``1k`` is 1000, ``1kb`` 1024. Raises ConfigError.

    As in Redis nothing is 0, and what does not fit 64 bits is the largest number that does.
    """
    match = _MEMORY.match(text.lower())
    if match is None or match[2] not in _UNITS:
        raise ConfigError("argument must be a memory value")
    return min(int(match[1] or "0") * _UNITS[match[2]], ULONG_MAX)


def memory_text(count: int) -> str:
    """The shortest text with a binary unit that names exactly ``count`` bytes."""
    for unit, size in (("gb", 1024**3), ("mb", 1024**2), ("kb", 1024)):
        if count and count % size == 0:
            return f"{count // size}{unit}"
    return str(count)


@dataclass(frozen=True, slots=True)
class Kind:
    """Base of all kinds. ``many``: the value is a list of words (one quoted string of words is alike)."""

    @property
    def many(self) -> bool:
        return False

    def parse(self, args: Sequence[str], current: Value, *, loading: bool) -> Value:
        """The value named by ``args``. ``current`` is what partial settings change; with ``loading``
        repeated lines of one directive add up."""
        raise ConfigError("wrong number of arguments")

    def render(self, value: Value) -> str:
        return str(value)

    def lines(self, name: str, value: Value) -> list[str]:
        """The line or lines of a configuration file that set ``value``."""
        return [f"{name} {self.render(value)}"]

    def describe(self) -> str:
        """What may be given, for the annotated file."""
        return ""


@dataclass(frozen=True, slots=True)
class Flag(Kind):
    """yes or no; a bool."""

    def parse(self, args: Sequence[str], current: Value, *, loading: bool) -> Value:
        word = args[0].lower()
        if word not in ("yes", "no"):
            raise ConfigError("argument must be 'yes' or 'no'")
        return word == "yes"

    def render(self, value: Value) -> str:
        return "yes" if value else "no"

    def describe(self) -> str:
        return "yes or no"


@dataclass(frozen=True, slots=True)
class Integer(Kind):
    """A whole number within bounds, with a unit for the reader."""

    low: int
    high: int
    unit: str = ""
    clamp: tuple[int, int] | None = None

    def parse(self, args: Sequence[str], current: Value, *, loading: bool) -> Value:
        if _INTEGER.match(args[0]) is None or not LONG_MIN <= int(args[0]) <= LONG_MAX:
            raise ConfigError("argument couldn't be parsed into an integer")
        value = int(args[0])
        if not self.low <= value <= self.high:
            raise ConfigError(f"argument must be between {self.low} and {self.high} inclusive")
        if self.clamp is not None:
            value = min(max(value, self.clamp[0]), self.clamp[1])
        return value

    def describe(self) -> str:
        high = "" if self.high >= INT_MAX else str(self.high)
        low = "" if self.low <= INT_MIN else str(self.low)
        bounds = f"{low}..{high}" if low or high else "a whole number"
        return f"{bounds} {self.unit}".rstrip()


@dataclass(frozen=True, slots=True)
class Octal(Kind):
    """File permissions; an int, written in octal."""

    high: int

    def parse(self, args: Sequence[str], current: Value, *, loading: bool) -> Value:
        if _OCTAL.match(args[0]) is None:
            raise ConfigError("argument couldn't be parsed as an octal number")
        value = int(args[0], 8)
        if value > self.high:
            raise ConfigError(f"argument must be between 0 and {self.high:o} inclusive")
        return value

    def render(self, value: Value) -> str:
        return f"{value:o}"

    def describe(self) -> str:
        return f"octal, 0..{self.high:o}"


@dataclass(frozen=True, slots=True)
class Memory(Kind):
    """A number of bytes with units. With ``percent`` also ``N%``, kept as ``-N``."""

    low: int = 0
    high: int = ULONG_MAX
    percent: bool = False

    def parse(self, args: Sequence[str], current: Value, *, loading: bool) -> Value:
        text = args[0]
        if self.percent and text.endswith("%"):
            if _INTEGER.match(text[:-1]) is None or text.startswith("-"):
                raise ConfigError("argument must be a memory or percent value")
            if int(text[:-1]) > 100:
                raise ConfigError("percentage argument must be less or equal to 100")
            return -int(text[:-1])
        try:
            value = memory_bytes(text)
        except ConfigError:
            if self.percent:
                raise ConfigError("argument must be a memory or percent value") from None
            raise
        if not self.low <= value <= self.high:
            raise ConfigError(f"argument must be between {self.low} and {self.high} inclusive")
        return value

    def render(self, value: Value) -> str:
        assert isinstance(value, int)
        return f"{-value}%" if value < 0 else str(value)

    def lines(self, name: str, value: Value) -> list[str]:
        assert isinstance(value, int)
        return [f"{name} {memory_text(value) if value >= 0 else self.render(value)}"]

    def describe(self) -> str:
        return "bytes, with units" + (", or a percentage of maxmemory" if self.percent else "")


@dataclass(frozen=True, slots=True)
class Choice(Kind):
    """One word of a list."""

    words: tuple[str, ...]

    def parse(self, args: Sequence[str], current: Value, *, loading: bool) -> Value:
        return one_of(args[0], self.words)

    def describe(self) -> str:
        return ", ".join(self.words[:-1]) + " or " + self.words[-1]


def one_of(word: str, words: tuple[str, ...]) -> str:
    """``word`` in the spelling of the list; raises ConfigError."""
    if word.lower() not in words:
        raise ConfigError(f"argument(s) must be one of the following: {', '.join(words)}")
    return word.lower()


@dataclass(frozen=True, slots=True)
class Text(Kind):
    """Any string. ``pattern`` must match it whole; ``complaint`` says what is wrong if not."""

    pattern: str = ""
    complaint: str = ""

    def parse(self, args: Sequence[str], current: Value, *, loading: bool) -> Value:
        if self.pattern and re.fullmatch(self.pattern, args[0], re.DOTALL) is None:
            raise ConfigError(self.complaint)
        return args[0]

    def lines(self, name: str, value: Value) -> list[str]:
        return [f"{name} {quote(str(value))}"]

    def describe(self) -> str:
        return "a string"


@dataclass(frozen=True, slots=True)
class Many(Kind):
    """Base of the kinds whose value is a list of words; an empty string is the empty list."""

    @property
    def many(self) -> bool:
        return True

    def lines(self, name: str, value: Value) -> list[str]:
        return [f"{name} {self.render(value) or quote('')}"]


@dataclass(frozen=True, slots=True)
class Addresses(Many):
    """Addresses to listen on; a tuple of str."""

    high: int = 16

    def parse(self, args: Sequence[str], current: Value, *, loading: bool) -> Value:
        if len(args) > self.high:
            raise ConfigError("Too many bind addresses specified.")
        return tuple(args)

    def render(self, value: Value) -> str:
        assert isinstance(value, tuple)
        return " ".join(str(word) for word in value)

    def describe(self) -> str:
        return f"up to {self.high} addresses; a leading - allows one to be missing"


@dataclass(frozen=True, slots=True)
class HostPort(Many):
    """A host and a port, or nothing; a str."""

    def parse(self, args: Sequence[str], current: Value, *, loading: bool) -> Value:
        if len(args) == 0 or (len(args) == 2 and args[0].lower() == "no" and args[1].lower() == "one"):
            return ""
        if len(args) != 2:
            raise ConfigError("wrong number of arguments")
        if _INTEGER.match(args[1]) is None or not 0 <= int(args[1]) <= 65535:
            raise ConfigError("Invalid master port")
        return f"{args[0]} {args[1]}"

    def describe(self) -> str:
        return "host and port"


@dataclass(frozen=True, slots=True)
class ShutdownFlags(Many):
    """default, or some of save nosave now force; a tuple of str in that order."""

    def parse(self, args: Sequence[str], current: Value, *, loading: bool) -> Value:
        words = ("default", "save", "nosave", "now", "force")
        given = [one_of(word, words) for word in args or ("",)]
        if "save" in given and "nosave" in given:
            raise ConfigError("shutdown options SAVE and NOSAVE can't be used simultaneously")
        return tuple(word for word in words[1:] if word in given)

    def render(self, value: Value) -> str:
        assert isinstance(value, tuple)
        return " ".join(str(word) for word in value) or "default"

    def describe(self) -> str:
        return "default, or words of save nosave now force"


@dataclass(frozen=True, slots=True)
class SaveRules(Many):
    """Pairs (seconds, changes); lines of a file add up."""

    def parse(self, args: Sequence[str], current: Value, *, loading: bool) -> Value:
        points: list[tuple[int, int]] = []
        if len(args) % 2:
            raise ConfigError("Invalid save parameters")
        for seconds, changes in zip(args[::2], args[1::2]):
            if _INTEGER.match(seconds) is None or _INTEGER.match(changes) is None:
                raise ConfigError("Invalid save parameters")
            if int(seconds) < 1 or int(changes) < 0:
                raise ConfigError("Invalid save parameters")
            points.append((int(seconds), int(changes)))
        if loading and points:
            assert isinstance(current, tuple)
            return (*current, *points)
        return tuple(points)

    def render(self, value: Value) -> str:
        assert isinstance(value, tuple)
        return " ".join(f"{seconds} {changes}" for seconds, changes in value)  # type: ignore[misc,str-unpack]

    def lines(self, name: str, value: Value) -> list[str]:
        assert isinstance(value, tuple)
        return [f"{name} {s} {c}" for s, c in value] or [f'{name} ""']  # type: ignore[misc,str-unpack]

    def describe(self) -> str:
        return 'pairs of seconds and changes, or ""'


@dataclass(frozen=True, slots=True)
class BufferLimits(Many):
    """Groups of class, hard, soft, soft seconds; classes that are not named stay as they are."""

    def parse(self, args: Sequence[str], current: Value, *, loading: bool) -> Value:
        assert isinstance(current, OutputLimits)
        if len(args) % 4:
            raise ConfigError("Wrong number of arguments in buffer limit configuration.")
        limits = current
        for at in range(0, len(args), 4):
            name = args[at].lower()
            name = "replica" if name == "slave" else name
            if name not in OutputLimits._fields:
                raise ConfigError("Invalid client class specified in buffer limit configuration.")
            try:
                hard, soft = memory_bytes(args[at + 1]), memory_bytes(args[at + 2])
            except ConfigError:
                hard = soft = -1
            if hard < 0 or _INTEGER.match(args[at + 3]) is None or int(args[at + 3]) < 0:
                raise ConfigError(
                    "Error in hard, soft or soft_seconds setting in buffer limit configuration."
                )
            limits = limits._replace(**{name: BufferLimit(hard, soft, int(args[at + 3]))})
        return limits

    def render(self, value: Value) -> str:
        # Redis still calls the class by its old name here, and clients compare the whole string.
        assert isinstance(value, OutputLimits)
        groups = zip(("normal", "slave", "pubsub"), value)
        return " ".join(f"{name} {limit[0]} {limit[1]} {limit[2]}" for name, limit in groups)

    def lines(self, name: str, value: Value) -> list[str]:
        assert isinstance(value, OutputLimits)
        return [
            f"{name} {group} {memory_text(limit[0])} {memory_text(limit[1])} {limit[2]}"
            for group, limit in zip(OutputLimits._fields, value)
        ]

    def describe(self) -> str:
        return "class (normal, replica, pubsub), hard bytes, soft bytes, soft seconds"


@dataclass(frozen=True, slots=True)
class Percentiles(Many):
    """Numbers of 0..100; a tuple of str as CONFIG GET prints them."""

    def parse(self, args: Sequence[str], current: Value, *, loading: bool) -> Value:
        found: list[str] = []
        for word in args:
            if _DECIMAL.match(word) is None:
                raise ConfigError("Invalid latency-tracking-info-percentiles parameters")
            if not 0.0 <= float(word) <= 100.0:
                raise ConfigError(
                    "latency-tracking-info-percentiles parameters should sit between [0.0,100.0]"
                )
            found.append(f"{float(word):.10g}")
        return tuple(found)

    def render(self, value: Value) -> str:
        assert isinstance(value, tuple)
        return " ".join(str(word) for word in value)

    def describe(self) -> str:
        return "numbers of 0..100"


@dataclass(frozen=True, slots=True)
class Adjustments(Many):
    """Three numbers for oom-score-adj."""

    def parse(self, args: Sequence[str], current: Value, *, loading: bool) -> Value:
        if len(args) != 3:
            raise ConfigError("wrong number of arguments")
        for word in args:
            if _INTEGER.match(word) is None or not -2000 <= int(word) <= 2000:
                raise ConfigError("Invalid oom-score-adj-values, elements must be between -2000 and 2000.")
        return tuple(int(word) for word in args)

    def render(self, value: Value) -> str:
        assert isinstance(value, tuple)
        return " ".join(str(word) for word in value)

    def describe(self) -> str:
        return "three numbers of -2000..2000"


@dataclass(frozen=True, slots=True)
class Events(Kind):
    """Classes of keyspace events; a str in the order of CONFIG GET, with A for "all of g$lshzxetd"."""

    def parse(self, args: Sequence[str], current: Value, *, loading: bool) -> Value:
        return event_letters(args[0])

    def lines(self, name: str, value: Value) -> list[str]:
        return [f"{name} {quote(str(value))}"]

    def describe(self) -> str:
        return "letters of Ag$lshzxeKEtmdn"


def event_letters(text: str) -> str:
    """``text`` in the spelling of CONFIG GET; raises ConfigError."""
    for letter in text:
        if letter not in "A" + _EVENT_ALL + _EVENT_REST:
            raise ConfigError("Invalid event class character. Use 'Ag$lshzxeKEtmdn'.")
    wanted = text.replace("A", _EVENT_ALL)
    if all(letter in wanted for letter in _EVENT_ALL):
        return "A" + "".join(letter for letter in _EVENT_REST if letter in wanted)
    return "".join(letter for letter in _EVENT_ALL + _EVENT_REST if letter in wanted)
