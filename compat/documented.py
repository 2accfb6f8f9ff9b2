"""Random requests made from the command table: what COMMAND DOCS says of a command, filled in.

Where ``compat.sequences`` lists the forms that make sense, here options stand and fall, repeat and change places as the
documented arguments allow, so that every order of errors is met.
"""

from __future__ import annotations

import random
from typing import Final

from compat.sequences import (
    FIELDS,
    FLOATS,
    INTEGERS,
    KEYS,
    ODD_FLOATS,
    ODD_INTEGERS,
    VALUES,
    Command,
    Step,
    ends_soon,
    never_ends,
    template_command,
)
from respkv.commands.spec import Arg, ArgType, CommandSpec
from respkv.commands.table import build_table

#: Groups whose commands both servers must answer alike, and what is left out of them: answers of one server alone, what
#: waits, what depends on the millisecond, what a Redis 7.0 does not know.
_GROUPS: Final = frozenset({"string", "bitmap", "hash", "generic", "transactions"})
_LEFT_OUT: Final = """
dump restore object randomkey wait waitaof expire pexpire expireat pexpireat
cas cad delex delifeq digest msetex
hexpire hpexpire hexpireat hpexpireat httl hpttl hexpiretime hpexpiretime hpersist hgetdel hgetex hsetex
rkv.get rkv.set rkv.del rkv.resolve
"""
_MORE: Final = frozenset({"dbsize", "flushall", "flushdb", "swapdb", "select", "echo", "ping"})
_NEW_WORDS: Final = frozenset({"IFEQ", "IFNE", "IFDEQ", "IFDNE", "NOVALUES"})
_ODD: Final = ("", "x", "*", "-1", "99999999999999999999", "NX", "\xff", "0", "GET", "COUNT")
_LIFETIMES: Final = ("1000", "100000", "4102444800", "0", "-1", "9223372036854775", "9223372036854775807", "x")
#: By the argument's name, where its type does not tell.
_BY_NAME: Final = {
    "field": FIELDS,
    "encoding": ("u8", "i5", "u63", "i64", "u64", "u0", "i1", "u1"),
    "offset": ("0", "1", "#1", "#3", "100", "-1", "#-1", "7"),
    "cursor": ("0",),
    "type": ("string", "hash", "list", "foo"),
    "seconds": _LIFETIMES,
    "milliseconds": _LIFETIMES,
}
_PATTERNS: Final = ("*", "a*", "[a-c]", "?", "\\*", "[^a]", "*[", "{a}*")
_COMMANDS: Final = tuple(
    spec
    for spec in build_table().specs
    if (spec.group in _GROUPS and spec.name not in _LEFT_OUT.split()) or spec.name in _MORE
)


def sequence(seed: int, length: int) -> list[Step]:
    """The sequence of a seed, a quarter of it from the templates. Every fourth has three clients."""
    rng = random.Random(seed)
    clients = 3 if seed % 4 == 3 else 1
    return [
        Step(rng.randrange(clients), template_command(rng) if rng.random() < 0.25 else _command(rng))
        for _ in range(length)
    ]


def _command(rng: random.Random) -> Command:
    while True:
        spec = rng.choice(_COMMANDS)
        words = [spec.name, *(word for argument in spec.args for word in _fill(rng, argument))]
        _spoil(rng, words)
        command = [word.encode("latin-1") for word in words]
        if not ends_soon(command) and not never_ends(command) and not _own_answer(spec, words):
            return command


def _own_answer(spec: CommandSpec, words: list[str]) -> bool:
    """Whether each server has its own right answer: how far one SCAN goes, or where its cursor leads."""
    if spec.name == "scan":
        return words[1:2] != ["0"] or any(word.upper() == "COUNT" for word in words)
    return spec.name == "hscan" and words[2:3] != ["0"]


def _spoil(rng: random.Random, words: list[str]) -> None:
    if rng.random() < 0.06:
        words.append(rng.choice(("x", "NX", "GET", "1", "")))
    if rng.random() < 0.05 and len(words) > 1:
        del words[rng.randrange(1, len(words))]
    if rng.random() < 0.04:
        words += words[-2:]


def _fill(rng: random.Random, argument: Arg) -> list[str]:
    """The words of an argument: none when it is optional, several when it may repeat."""
    if argument.token in _NEW_WORDS or ("optional" in argument.flags and rng.random() < 0.5):
        return []
    words: list[str] = []
    for number in range(rng.choice((1, 1, 2, 3)) if "multiple" in argument.flags else 1):
        if argument.token and (not number or "multiple_token" in argument.flags):
            words.append(argument.token if rng.random() < 0.9 else argument.token.lower())
        if argument.type is ArgType.ONEOF:
            words += _fill(rng, rng.choice(argument.args))
        elif argument.type is ArgType.BLOCK:
            words += [word for part in argument.args for word in _fill(rng, part)]
        elif argument.type is not ArgType.PURE_TOKEN:
            words.append(_value(rng, argument))
    return words


def _value(rng: random.Random, argument: Arg) -> str:
    if rng.random() < 0.05:
        return rng.choice(_ODD)
    if argument.type is ArgType.KEY:
        return rng.choice((*KEYS, "{a}b", "\xff\x00k"))
    if argument.type is ArgType.UNIX_TIME:
        return "4102444800000"
    if argument.type is ArgType.PATTERN:
        return rng.choice(_PATTERNS)
    if argument.type is ArgType.DOUBLE:
        return rng.choice(FLOATS if rng.random() < 0.8 else ODD_FLOATS)
    if argument.name in _BY_NAME:
        return rng.choice(_BY_NAME[argument.name])
    if argument.type is ArgType.INTEGER:
        return rng.choice(INTEGERS if rng.random() < 0.85 else ODD_INTEGERS)
    return rng.choice(VALUES)
