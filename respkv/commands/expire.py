"""Expiry of keys: EXPIRE and its three relatives, TTL and its three, PERSIST."""

from __future__ import annotations

from typing import Final

from respkv.commands.argument_shapes import (
    EXPIRY_CONDITIONS,
    KEY,
    MILLISECONDS,
    SECONDS,
    UNIX_MILLISECONDS,
    UNIX_SECONDS,
    one_of,
)
from respkv.commands.arguments import INT64_MAX, integer
from respkv.commands.spec import (
    ATOMIC,
    FAST,
    READONLY,
    WRITE,
    CommandSpec,
    KeySpec,
)
from respkv.keyspace import effects
from respkv.keyspace.effects import Effects
from respkv.keyspace.view import View
from respkv.resp import errors, reply
from respkv.resp.errors import fail
from respkv.resp.reply import ONE, ZERO, Reply, error

NX_WITH_OTHERS: Final = error(b"ERR NX and XX, GT or LT options at the same time are not compatible")
GT_WITH_LT: Final = error(b"ERR GT and LT options at the same time are not compatible")
_NO_KEY: Final = reply.integer(-2)
_NO_EXPIRY: Final = reply.integer(-1)


def parse_conditions(argv: list[bytes], start: int) -> tuple[bytes, ...]:
    """The words NX XX GT LT from ``argv[start]`` on, upper case; XX may stand with GT or LT."""
    words = tuple(word.upper() for word in argv[start:])
    for word, original in zip(words, argv[start:]):
        if word not in (b"NX", b"XX", b"GT", b"LT"):
            raise fail(error(b"ERR Unsupported option %b" % original))
    if b"NX" in words and any(word != b"NX" for word in words):
        raise fail(NX_WITH_OTHERS)
    if b"GT" in words and b"LT" in words:
        raise fail(GT_WITH_LT)
    return words


def conditions_hold(words: tuple[bytes, ...], current_ms: int, expire_at_ms: int) -> bool:
    """Whether an expiry may replace ``current_ms`` (0 = none, which counts as infinitely late)."""
    for word in words:
        if word == b"NX":
            held = not current_ms
        elif word == b"XX":
            held = bool(current_ms)
        elif word == b"GT":
            held = bool(current_ms) and expire_at_ms > current_ms
        else:
            held = not current_ms or expire_at_ms < current_ms
        if not held:
            return False
    return True


def absolute_ms(arg: bytes, unit_ms: int, base_ms: int, command: str) -> int:
    """``arg`` (seconds or milliseconds, may be negative) after ``base_ms``; raises when beyond 64 bits."""
    when = integer(arg) * unit_ms
    if not -INT64_MAX - 1 <= when <= INT64_MAX - base_ms:
        raise fail(errors.invalid_expire(command))
    return when + base_ms


def _expire(argv: list[bytes], view: View, command: str, unit_ms: int, base_ms: int) -> tuple[Reply, Effects]:
    words = parse_conditions(argv, 3) if len(argv) > 3 else ()
    expire_at_ms = absolute_ms(argv[2], unit_ms, base_ms, command)
    current_ms = view.expire_at(argv[1])
    if current_ms is None or not conditions_hold(words, current_ms, expire_at_ms):
        return ZERO, effects.NONE
    if expire_at_ms <= view.now_ms:
        return ONE, (effects.delete(view.db, argv[1]),)
    return ONE, (effects.expire(view.db, argv[1], expire_at_ms),)


def expire(argv: list[bytes], view: View) -> tuple[Reply, Effects]:
    """EXPIRE key seconds [NX | XX | GT | LT]: 1 when set; a time that has passed deletes."""
    return _expire(argv, view, "expire", 1000, view.now_ms)


def pexpire(argv: list[bytes], view: View) -> tuple[Reply, Effects]:
    """PEXPIRE key milliseconds [NX | XX | GT | LT]."""
    return _expire(argv, view, "pexpire", 1, view.now_ms)


def expireat(argv: list[bytes], view: View) -> tuple[Reply, Effects]:
    """EXPIREAT key unix-seconds [NX | XX | GT | LT]."""
    return _expire(argv, view, "expireat", 1000, 0)


def pexpireat(argv: list[bytes], view: View) -> tuple[Reply, Effects]:
    """PEXPIREAT key unix-milliseconds [NX | XX | GT | LT]."""
    return _expire(argv, view, "pexpireat", 1, 0)


def persist(argv: list[bytes], view: View) -> tuple[Reply, Effects]:
    """PERSIST key: 1 when an expiry was removed."""
    if not view.expire_at(argv[1]):
        return ZERO, effects.NONE
    return ONE, (effects.expire(view.db, argv[1], 0),)


def _time_left(argv: list[bytes], view: View, base_ms: int, unit_ms: int) -> tuple[Reply, Effects]:
    expire_at_ms = view.quiet().expire_at(argv[1])
    if expire_at_ms is None:
        return _NO_KEY, effects.NONE
    if not expire_at_ms:
        return _NO_EXPIRY, effects.NONE
    left_ms = max(expire_at_ms - base_ms, 0)
    return reply.integer((left_ms + unit_ms // 2) // unit_ms), effects.NONE


def ttl(argv: list[bytes], view: View) -> tuple[Reply, Effects]:
    """TTL key: seconds left, to the nearest; -1 without expiry, -2 without key."""
    return _time_left(argv, view, view.now_ms, 1000)


def pttl(argv: list[bytes], view: View) -> tuple[Reply, Effects]:
    """PTTL key: milliseconds left."""
    return _time_left(argv, view, view.now_ms, 1)


def expiretime(argv: list[bytes], view: View) -> tuple[Reply, Effects]:
    """EXPIRETIME key: the Unix time in seconds, to the nearest."""
    return _time_left(argv, view, 0, 1000)


def pexpiretime(argv: list[bytes], view: View) -> tuple[Reply, Effects]:
    """PEXPIRETIME key: the Unix time in milliseconds."""
    return _time_left(argv, view, 0, 1)


_CONDITIONS: Final = one_of("condition", *EXPIRY_CONDITIONS, since="7.0.0")

COMMANDS: Final = (
    CommandSpec(
        "expire",
        expire,
        arity=-3,
        flags=WRITE | FAST | ATOMIC,
        keys=(KeySpec(flags=("RW", "update")),),
        acl=("keyspace", "write", "fast"),
        group="generic",
        since="1.0.0",
        complexity="O(1)",
        summary="Set the time to live of a key in seconds",
        args=(KEY, SECONDS, _CONDITIONS),
        history=(("7.0.0", "Added options: NX, XX, GT and LT."),),
    ),
    CommandSpec(
        "pexpire",
        pexpire,
        arity=-3,
        flags=WRITE | FAST | ATOMIC,
        keys=(KeySpec(flags=("RW", "update")),),
        acl=("keyspace", "write", "fast"),
        group="generic",
        since="2.6.0",
        complexity="O(1)",
        summary="Set the time to live of a key in milliseconds",
        args=(KEY, MILLISECONDS, _CONDITIONS),
        history=(("7.0.0", "Added options: NX, XX, GT and LT."),),
    ),
    CommandSpec(
        "expireat",
        expireat,
        arity=-3,
        flags=WRITE | FAST | ATOMIC,
        keys=(KeySpec(flags=("RW", "update")),),
        acl=("keyspace", "write", "fast"),
        group="generic",
        since="1.2.0",
        complexity="O(1)",
        summary="Set the expiry of a key as a Unix time in seconds",
        args=(KEY, UNIX_SECONDS, _CONDITIONS),
        history=(("7.0.0", "Added options: NX, XX, GT and LT."),),
    ),
    CommandSpec(
        "pexpireat",
        pexpireat,
        arity=-3,
        flags=WRITE | FAST | ATOMIC,
        keys=(KeySpec(flags=("RW", "update")),),
        acl=("keyspace", "write", "fast"),
        group="generic",
        since="2.6.0",
        complexity="O(1)",
        summary="Set the expiry of a key as a Unix time in milliseconds",
        args=(KEY, UNIX_MILLISECONDS, _CONDITIONS),
        history=(("7.0.0", "Added options: NX, XX, GT and LT."),),
    ),
    CommandSpec(
        "persist",
        persist,
        arity=2,
        flags=WRITE | FAST | ATOMIC,
        keys=(KeySpec(flags=("RW", "update")),),
        acl=("keyspace", "write", "fast"),
        group="generic",
        since="2.2.0",
        complexity="O(1)",
        summary="Remove the expiry of a key",
        args=(KEY,),
    ),
    CommandSpec(
        "ttl",
        ttl,
        arity=2,
        flags=READONLY | FAST,
        keys=(KeySpec(flags=("RO", "access")),),
        acl=("keyspace", "read", "fast"),
        group="generic",
        since="1.0.0",
        complexity="O(1)",
        summary="The time to live of a key in seconds",
        args=(KEY,),
        tips=("nondeterministic_output",),
        history=(("2.8.0", "Added the -2 reply."),),
    ),
    CommandSpec(
        "pttl",
        pttl,
        arity=2,
        flags=READONLY | FAST,
        keys=(KeySpec(flags=("RO", "access")),),
        acl=("keyspace", "read", "fast"),
        group="generic",
        since="2.6.0",
        complexity="O(1)",
        summary="The time to live of a key in milliseconds",
        args=(KEY,),
        tips=("nondeterministic_output",),
        history=(("2.8.0", "Added the -2 reply."),),
    ),
    CommandSpec(
        "expiretime",
        expiretime,
        arity=2,
        flags=READONLY | FAST,
        keys=(KeySpec(flags=("RO", "access")),),
        acl=("keyspace", "read", "fast"),
        group="generic",
        since="7.0.0",
        complexity="O(1)",
        summary="The expiry of a key as a Unix time in seconds",
        args=(KEY,),
    ),
    CommandSpec(
        "pexpiretime",
        pexpiretime,
        arity=2,
        flags=READONLY | FAST,
        keys=(KeySpec(flags=("RO", "access")),),
        acl=("keyspace", "read", "fast"),
        group="generic",
        since="7.0.0",
        complexity="O(1)",
        summary="The expiry of a key as a Unix time in milliseconds",
        args=(KEY,),
    ),
)
