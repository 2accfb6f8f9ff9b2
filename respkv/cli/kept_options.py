"""Options of the servers of a local ring, as they follow ``--``: compared by what they say, shown without passwords."""

from __future__ import annotations

from collections.abc import Sequence

from respkv.cli.options import parse_arguments
from respkv.config.schema import DIRECTIVES
from respkv.config.syntax import quote, split_words

_HIDDEN = "***"
#: What needs no quotes beside letters and digits.
_PLAIN = frozenset("_-.,:;/@%+=*")


def same(some: Sequence[str], others: Sequence[str]) -> bool:
    """Whether they say the same. Of one directive the order counts: later lines win, or add to earlier ones."""
    return sorted(_lines(some), key=_name) == sorted(_lines(others), key=_name)


def shown(options: Sequence[str]) -> str:
    """The options for people, as they could be given again but for what is secret; "" for none."""
    words: list[str] = []
    for name, *values in _lines(options):
        directive = DIRECTIVES.get(name)
        secret = directive is not None and directive.sensitive
        words += [f"--{name}", *(_HIDDEN if secret else _word(value) for value in values)]
    return " ".join(words)


def _lines(options: Sequence[str]) -> list[list[str]]:
    """A list of words for each directive, its name in lower case first."""
    # Behind the name of a file, as servers are started, no word asks for help or the version.
    lines = parse_arguments(["node.conf", *options]).lines.splitlines()
    split = [split_words(line) or [line] for line in lines]
    return [[words[0].lower(), *words[1:]] for words in split]


def _name(words: list[str]) -> str:
    return words[0]


def _word(value: str) -> str:
    return value if value and all(letter.isalnum() or letter in _PLAIN for letter in value) else quote(value)
