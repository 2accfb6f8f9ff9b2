"""Writing whole strings: SET and its older relatives, MSET, and the conditions they share.

A condition compares the current value, or the XXH3-64 digest of it, with what the client gives; ``cas.py``
uses the same ones. All options are read, and found good, before the key is looked at.
"""

from __future__ import annotations

from itertools import repeat
from typing import Final, NamedTuple

from xxhash import xxh3_64_hexdigest

from respkv.base.ids import TOMBSTONE
from respkv.commands.argument_shapes import KEY, MILLISECONDS, PAIRS, SECONDS, VALUE, lifetimes, token
from respkv.commands.arguments import expiry
from respkv.commands.spec import (
    ATOMIC,
    CONDITIONAL,
    DENYOOM,
    FAST,
    WRITE,
    Arg,
    ArgType,
    CommandSpec,
    KeySpec,
)
from respkv.keyspace import effects
from respkv.keyspace.effects import Effects
from respkv.keyspace.view import View
from respkv.resp import errors
from respkv.resp.errors import fail
from respkv.resp.reply import NULL, OK, ONE, ZERO, Reply, error

BAD_DIGEST: Final = error(b"ERR must be exactly 16 hexadecimal characters")

_COMPARISONS: Final = (b"IFEQ", b"IFNE", b"IFDEQ", b"IFDNE")
_CONDITIONS: Final = (b"NX", b"XX", *_COMPARISONS)
_EXPIRIES: Final = (b"EX", b"PX", b"EXAT", b"PXAT")
_HEXADECIMAL: Final = b"0123456789abcdef"


class SetOptions(NamedTuple):
    """What follows key and value. ``expiry_kind`` and ``condition`` are empty when not given."""

    condition: bytes  # NX XX IFEQ IFNE IFDEQ IFDNE
    operand: bytes
    get: bool
    keep_ttl: bool
    expiry_kind: bytes
    expiry: bytes


_PLAIN: Final = SetOptions(b"", b"", False, False, b"", b"")


def digest(value: bytes) -> bytes:
    """XXH3-64 of ``value`` as 16 lower-case hexadecimal digits."""
    return xxh3_64_hexdigest(value).encode()


def comparison_operand(condition: bytes, operand: bytes) -> bytes:
    """``operand`` ready for ``holds``: a digest in lower case. Raises for a malformed digest."""
    if condition != b"IFDEQ" and condition != b"IFDNE":
        return operand
    operand = operand.lower()
    if len(operand) != 16 or operand.strip(_HEXADECIMAL):
        raise fail(BAD_DIGEST)
    return operand


def holds(condition: bytes, operand: bytes, value: bytes) -> bool:
    """Whether an existing ``value`` meets a comparison."""
    if condition == b"IFEQ":
        return value == operand
    if condition == b"IFNE":
        return value != operand
    if condition == b"IFDEQ":
        return digest(value) == operand
    return digest(value) != operand


def parse_set_options(argv: list[bytes], start: int) -> SetOptions:
    """The options of SET from ``argv[start]`` on.

    As Redis, an option may be repeated (the last one counts); two different ones of a kind may not meet.
    """
    condition = operand = kind = amount = b""
    get = keep = False
    index, size = start, len(argv)
    while index < size:
        word = argv[index].upper()
        index += 1
        if word == b"GET":
            get = True
        elif word in (b"NX", b"XX"):
            if condition not in (b"", word):
                raise fail(errors.SYNTAX)
            condition = word
        elif word == b"KEEPTTL":
            if kind:
                raise fail(errors.SYNTAX)
            keep = True
        elif index == size:
            raise fail(errors.SYNTAX)
        elif word in _EXPIRIES:
            if keep or kind not in (b"", word):
                raise fail(errors.SYNTAX)
            kind, amount = word, argv[index]
            index += 1
        elif word in _COMPARISONS:
            if condition:
                raise fail(errors.SYNTAX)
            condition, operand = word, argv[index]
            index += 1
        else:
            raise fail(errors.SYNTAX)
    return SetOptions(condition, comparison_operand(condition, operand), get, keep, kind, amount)


def is_conditional(argv: list[bytes]) -> bool:
    """True for a SET whose outcome depends on the current value: these are linearizable at every level.

    A malformed SET counts as unconditional; the handler answers its error.
    """
    return any(word.upper() in _CONDITIONS for word in argv[3:])


def set_(argv: list[bytes], view: View) -> tuple[Reply, Effects]:
    """SET key value [condition] [GET] [expiry | KEEPTTL]."""
    if len(argv) == 3:
        return OK, ((effects.PUT, view.db, argv[1], argv[2], 0),)
    key = argv[1]
    options = parse_set_options(argv, 3)
    expire_at_ms = 0
    if options.expiry_kind:
        expire_at_ms = expiry(options.expiry_kind, options.expiry, view.now_ms, "set")
    reply: Reply = OK
    if options.get:
        reply = view.reply(key) or NULL
    if options.condition and not _set_allowed(options, key, view):
        return (reply if options.get else NULL), effects.NONE
    if options.keep_ttl:
        expire_at_ms = view.expire_at(key) or 0
    return reply, _put(view, key, argv[2], expire_at_ms)


def _set_allowed(options: SetOptions, key: bytes, view: View) -> bool:
    if options.condition == b"NX":
        return view.kind(key) == TOMBSTONE
    if options.condition == b"XX":
        return view.kind(key) != TOMBSTONE
    value = view.string(key)
    if value is None:
        return options.condition in (b"IFNE", b"IFDNE")
    return holds(options.condition, options.operand, value)


def _put(view: View, key: bytes, value: bytes, expire_at_ms: int) -> Effects:
    """A string with an expiry; one that has passed leaves nothing behind."""
    if expire_at_ms and expire_at_ms <= view.now_ms:
        return (effects.delete(view.db, key),)
    return (effects.put(view.db, key, value, expire_at_ms),)


def setnx(argv: list[bytes], view: View) -> tuple[Reply, Effects]:
    """SETNX key value: 1 when set."""
    if view.kind(argv[1]) != TOMBSTONE:
        return ZERO, effects.NONE
    return ONE, (effects.put(view.db, argv[1], argv[2]),)


def setex(argv: list[bytes], view: View) -> tuple[Reply, Effects]:
    """SETEX key seconds value."""
    return OK, _put(view, argv[1], argv[3], expiry(b"EX", argv[2], view.now_ms, "setex"))


def psetex(argv: list[bytes], view: View) -> tuple[Reply, Effects]:
    """PSETEX key milliseconds value."""
    return OK, _put(view, argv[1], argv[3], expiry(b"PX", argv[2], view.now_ms, "psetex"))


def mset(argv: list[bytes], view: View) -> tuple[Reply, Effects]:
    """MSET key value [key value ...]."""
    if not len(argv) & 1:
        raise fail(errors.wrong_arity("mset"))
    return OK, list(zip(repeat(effects.PUT), repeat(view.db), argv[1::2], argv[2::2], repeat(0)))


def msetnx(argv: list[bytes], view: View) -> tuple[Reply, Effects]:
    """MSETNX key value [key value ...]: 1 when all are set, 0 when any exists and none is set."""
    if not len(argv) & 1:
        raise fail(errors.wrong_arity("msetnx"))
    for key in argv[1::2]:
        if view.kind(key) != TOMBSTONE:
            return ZERO, effects.NONE
    return ONE, [effects.put(view.db, key, value) for key, value in zip(argv[1::2], argv[2::2])]


COMMANDS: Final = (
    CommandSpec(
        "set",
        set_,
        arity=-3,
        flags=WRITE | DENYOOM,
        keys=(
            KeySpec(
                flags=("RW", "access", "update", "variable_flags"),
                notes="RW and ACCESS due to the optional GET argument",
            ),
        ),
        acl=("write", "string", "slow"),
        group="string",
        since="1.0.0",
        complexity="O(1)",
        summary="Set the string value of a key, whatever it held, with options for expiry and conditions",
        args=(
            KEY,
            VALUE,
            Arg(
                "condition",
                ArgType.ONEOF,
                flags=("optional",),
                since="2.6.12",
                args=(
                    token("NX"),
                    token("XX"),
                    Arg("ifeq-value", token="IFEQ", since="8.4.0"),
                    Arg("ifne-value", token="IFNE", since="8.4.0"),
                    Arg("ifdeq-digest", token="IFDEQ", since="8.4.0"),
                    Arg("ifdne-digest", token="IFDNE", since="8.4.0"),
                ),
            ),
            Arg("get", ArgType.PURE_TOKEN, token="GET", flags=("optional",), since="6.2.0"),
            Arg(
                "expiration",
                ArgType.ONEOF,
                flags=("optional",),
                args=(
                    *lifetimes(since="2.6.12", since_unix="6.2.0"),
                    token("KEEPTTL", since="6.0.0"),
                ),
            ),
        ),
        history=(
            ("2.6.12", "Added the EX, PX, NX and XX options."),
            ("6.0.0", "Added the KEEPTTL option."),
            ("6.2.0", "Added the GET, EXAT and PXAT option."),
            ("7.0.0", "Allowed the NX and GET options to be used together."),
            ("8.4.0", "Added the IFEQ, IFNE, IFDEQ and IFDNE options."),
        ),
    ),
    CommandSpec(
        "setnx",
        setnx,
        arity=3,
        flags=WRITE | DENYOOM | FAST | ATOMIC | CONDITIONAL,
        keys=(KeySpec(flags=("OW", "insert")),),
        acl=("write", "string", "fast"),
        group="string",
        since="1.0.0",
        complexity="O(1)",
        summary="Set a string value unless the key exists",
        args=(
            KEY,
            VALUE,
        ),
    ),
    CommandSpec(
        "setex",
        setex,
        arity=4,
        flags=WRITE | DENYOOM,
        keys=(KeySpec(flags=("OW", "update")),),
        acl=("write", "string", "slow"),
        group="string",
        since="2.0.0",
        complexity="O(1)",
        summary="Set a string value and its time to live in seconds",
        args=(
            KEY,
            SECONDS,
            VALUE,
        ),
    ),
    CommandSpec(
        "psetex",
        psetex,
        arity=4,
        flags=WRITE | DENYOOM,
        keys=(KeySpec(flags=("OW", "update")),),
        acl=("write", "string", "slow"),
        group="string",
        since="2.6.0",
        complexity="O(1)",
        summary="Set a string value and its time to live in milliseconds",
        args=(
            KEY,
            MILLISECONDS,
            VALUE,
        ),
    ),
    CommandSpec(
        "mset",
        mset,
        arity=-3,
        flags=WRITE | DENYOOM,
        keys=(KeySpec(last=-1, step=2, flags=("OW", "update")),),
        acl=("write", "string", "slow"),
        group="string",
        since="1.0.1",
        complexity="O(N) where N is the number of keys to set.",
        summary="Set the string values of several keys",
        args=(
            PAIRS,
        ),
        tips=("request_policy:multi_shard", "response_policy:all_succeeded"),
    ),
    CommandSpec(
        "msetnx",
        msetnx,
        arity=-3,
        flags=WRITE | DENYOOM | ATOMIC | CONDITIONAL,
        keys=(KeySpec(last=-1, step=2, flags=("OW", "insert")),),
        acl=("write", "string", "slow"),
        group="string",
        since="1.0.1",
        complexity="O(N) where N is the number of keys to set.",
        summary="Set the string values of several keys if none of them exists",
        args=(
            PAIRS,
        ),
        tips=("request_policy:multi_shard", "response_policy:agg_min"),
    ),
)
