"""Kinds of the directives of a ring whose lines add up: nodes to join, prefixes, and words for prefixes.

The lines of a file and of the command line add up, each thing counted once; an empty value forgets what came before.
So ``lines`` begins with an empty one: what an included file says must not come back when the text is read again.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias, cast

from respkv.config.kinds import ConfigError, Many, Value, one_of
from respkv.config.syntax import quote

#: (prefix, word) in the order of their first lines.
Rows: TypeAlias = tuple[tuple[str, str], ...]

#: Nodes that may be named; those learned from others have to fit in beside them.
NODES_MAX: Final = 16
LEVELS: Final = ("eventual", "quorum", "all")
_HOST: Final = re.compile(r"[!#-&(-+\--?A-Z^-~]{1,255}")
_PORT: Final = re.compile(r"[1-9][0-9]{0,4}")
_MERGE: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}")


def split_address(text: str) -> tuple[str, int]:
    """Host and port of ``host:port`` or ``[address of IPv6]:port``. Raises ConfigError."""
    host, _, port = text.rpartition(":")
    bracketed = len(host) > 2 and host[0] == "[" and host[-1] == "]"
    if bracketed:
        host = host[1:-1]
    if not bracketed and ":" in host:
        raise ConfigError(f"'{text}' is no host:port; an address of IPv6 goes in brackets")
    if _HOST.fullmatch(host) is None or _PORT.fullmatch(port) is None or int(port) > 0xFFFF:
        raise ConfigError(f"'{text}' is no host:port")
    return host, int(port)


def join_address(host: str, port: int) -> str:
    """The text of an address that ``split_address`` reads."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


@dataclass(frozen=True, slots=True)
class AddingUp(Many):
    """Base of the kinds whose lines add up."""

    def rows(self, value: Value) -> list[list[str]]:
        """The words of each line."""
        return [[str(word)] for word in cast("tuple[str, ...]", value)]

    def render(self, value: Value) -> str:
        return " ".join(word for row in self.rows(value) for word in row)

    def lines(self, name: str, value: Value) -> list[str]:
        # A word alone is quoted: unquoted and with nothing in it, it would not be there.
        rows = self.rows(value)
        return [f'{name} ""', *(" ".join([name, *(quote(word) for word in row)]) for row in rows)]


@dataclass(frozen=True, slots=True)
class Nodes(AddingUp):
    """Addresses of nodes; a tuple of ``host:port``."""

    def parse(self, args: Sequence[str], current: Value, *, loading: bool) -> Value:
        found = dict.fromkeys(cast("tuple[str, ...]", current) if loading and args else ())
        found.update(dict.fromkeys(join_address(*split_address(word)) for word in args))
        if len(found) > NODES_MAX:
            raise ConfigError(f"at most {NODES_MAX} nodes can be named")
        return tuple(found)

    def describe(self) -> str:
        return "host:port of nodes; lines add up"


@dataclass(frozen=True, slots=True)
class Prefixes(AddingUp):
    """Beginnings of keys; a tuple of str."""

    def parse(self, args: Sequence[str], current: Value, *, loading: bool) -> Value:
        found = dict.fromkeys(cast("tuple[str, ...]", current) if loading and args else ())
        found.update(dict.fromkeys(_prefix(word) for word in args))
        return tuple(found)

    def describe(self) -> str:
        return "beginnings of keys; lines add up"


@dataclass(frozen=True, slots=True)
class PrefixWords(AddingUp):
    """Pairs of a prefix and a word that ``check`` gives back in its one spelling; ``Rows``. A later word for a prefix
    replaces an earlier one. ``everything``: the empty prefix, all keys, may have a word."""

    check: Callable[[str], str]
    what: str
    everything: bool = False

    def parse(self, args: Sequence[str], current: Value, *, loading: bool) -> Value:
        if len(args) % 2:
            raise ConfigError("wrong number of arguments")
        found = dict(cast(Rows, current) if loading and args else ())
        for prefix, word in zip(args[::2], args[1::2]):
            found[_prefix(prefix, empty=self.everything)] = self.check(word)
        return cast(Value, tuple(found.items()))

    def rows(self, value: Value) -> list[list[str]]:
        return [[prefix, word] for prefix, word in cast(Rows, value)]

    def describe(self) -> str:
        return f"beginning of keys and {self.what}; lines add up"


def _prefix(word: str, *, empty: bool = False) -> str:
    """``word`` when it can be a prefix: blanks separate words wherever the value is shown."""
    if not word and not empty:
        raise ConfigError("a prefix is not empty")
    if word.split() != ([word] if word else []):
        raise ConfigError("a prefix holds no blanks")
    return word


def level_word(word: str) -> str:
    """A level in its one spelling. Raises ConfigError."""
    return one_of(word, LEVELS)


def policy_word(word: str) -> str:
    """A conflict policy in its one spelling; whether the merge function exists shows at start. Raises ConfigError."""
    mode, colon, name = word.partition(":")
    mode = mode.lower()
    if mode == "merge" and colon and _MERGE.fullmatch(name):
        return f"merge:{name}"
    if colon or mode not in ("lww", "siblings"):
        raise ConfigError("a conflict policy is lww, siblings or merge:NAME")
    return mode
