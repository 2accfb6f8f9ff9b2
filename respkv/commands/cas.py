"""Compare-and-set in three dialects: Redis 8.4 (DELEX DIGEST MSETEX), Valkey 9 (DELIFEQ), Kvrocks (CAS CAD).

SET's own conditions are in ``string_set.py``. Comparison is on exact bytes; an expired key is absent.
"""

from __future__ import annotations

from typing import Final

from respkv.base.ids import STRING, TOMBSTONE
from respkv.commands.argument_shapes import EXPIRY_OR_KEEP, IF_ABSENT_OR_PRESENT, KEY, RELATIVE_EXPIRY, VALUE
from respkv.commands.arguments import expiry, optional_integer
from respkv.commands.spec import (
    ATOMIC,
    CONDITIONAL,
    DENYOOM,
    FAST,
    READONLY,
    WRITE,
    Arg,
    ArgType,
    CommandSpec,
    Flag,
    KeySpec,
)
from respkv.commands.string_set import comparison_operand, digest, holds
from respkv.keyspace import effects
from respkv.keyspace.effects import Effects
from respkv.keyspace.view import View
from respkv.resp import errors, reply
from respkv.resp.errors import fail
from respkv.resp.reply import NULL, ONE, ZERO, Reply, error

BAD_CONDITION: Final = error(b"ERR Invalid condition. Use IFEQ, IFNE, IFDEQ, or IFDNE")
NOT_A_STRING: Final = error(b"ERR Key should be of string type if conditions are specified")
BAD_NUMKEYS: Final = error(b"ERR invalid numkeys value or out of range")
_MINUS_ONE: Final = reply.integer(-1)
_INT32_MAX: Final = (1 << 31) - 1


def delex(argv: list[bytes], view: View) -> tuple[Reply, Effects]:
    """DELEX key [IFEQ | IFNE value | IFDEQ | IFDNE digest]: 1 when deleted.

    Without a condition a key of any type goes.
    """
    key = argv[1]
    if len(argv) == 2:
        if view.kind(key) == TOMBSTONE:
            return ZERO, effects.NONE
        return ONE, (effects.delete(view.db, key),)
    if len(argv) != 4:
        raise fail(errors.wrong_arity("delex"))
    condition = argv[2].upper()
    if condition not in (b"IFEQ", b"IFNE", b"IFDEQ", b"IFDNE"):
        raise fail(BAD_CONDITION)
    operand = comparison_operand(condition, argv[3])
    if view.kind(key) not in (TOMBSTONE, STRING):
        raise fail(NOT_A_STRING)
    value = view.string(key)
    if value is None or not holds(condition, operand, value):
        return ZERO, effects.NONE
    return ONE, (effects.delete(view.db, key),)


def delifeq(argv: list[bytes], view: View) -> tuple[Reply, Effects]:
    """DELIFEQ key value: 1 when it held that value and is deleted, else 0."""
    if view.string(argv[1]) != argv[2]:
        return ZERO, effects.NONE
    return ONE, (effects.delete(view.db, argv[1]),)


def digest_command(argv: list[bytes], view: View) -> tuple[Reply, Effects]:
    """DIGEST key: XXH3-64 of the value, 16 hexadecimal digits; null when absent. O(length)."""
    value = view.string(argv[1])
    return (NULL if value is None else reply.bulk(digest(value))), effects.NONE


def msetex(argv: list[bytes], view: View) -> tuple[Reply, Effects]:
    """MSETEX numkeys key value ... [NX | XX] [expiry | KEEPTTL]: 1 when all are set, 0 when none is."""
    count = optional_integer(argv[1])
    if count is None or not 1 <= count <= _INT32_MAX:
        raise fail(BAD_NUMKEYS)
    index, size = 2 + 2 * count, len(argv)
    if index > size:
        raise fail(errors.wrong_arity("msetex"))
    keys, values = argv[2:index:2], argv[3:index:2]
    condition = kind = amount = b""
    while index < size:
        word = argv[index].upper()
        index += 1
        if word in (b"NX", b"XX") and condition in (b"", word):
            condition = word
        elif word == b"KEEPTTL" and kind in (b"", word):
            kind = word
        elif word in (b"EX", b"PX", b"EXAT", b"PXAT") and kind in (b"", word) and index < size:
            kind, amount = word, argv[index]
            index += 1
        else:
            raise fail(errors.SYNTAX)
    expire_at_ms = 0
    if amount or kind not in (b"", b"KEEPTTL"):
        expire_at_ms = expiry(kind, amount, view.now_ms, "msetex")
    if condition and any((view.kind(key) == TOMBSTONE) == (condition == b"XX") for key in keys):
        return ZERO, effects.NONE
    if expire_at_ms and expire_at_ms <= view.now_ms:
        return ONE, [effects.delete(view.db, key) for key in keys]
    if kind == b"KEEPTTL":
        return ONE, [
            effects.put(view.db, key, value, view.expire_at(key) or 0) for key, value in zip(keys, values)
        ]
    return ONE, [effects.put(view.db, key, value, expire_at_ms) for key, value in zip(keys, values)]


def cas(argv: list[bytes], view: View) -> tuple[Reply, Effects]:
    """CAS key old new [EX seconds | PX milliseconds]: 1 swapped, 0 another value, -1 absent."""
    key = argv[1]
    if len(argv) not in (4, 6) or (len(argv) == 6 and argv[4].upper() not in (b"EX", b"PX")):
        raise fail(errors.SYNTAX)
    expire_at_ms = expiry(argv[4], argv[5], view.now_ms, "cas") if len(argv) == 6 else 0
    value = view.string(key)
    if value is None:
        return _MINUS_ONE, effects.NONE
    if value != argv[2]:
        return ZERO, effects.NONE
    return ONE, (effects.put(view.db, key, argv[3], expire_at_ms),)


def cad(argv: list[bytes], view: View) -> tuple[Reply, Effects]:
    """CAD key value: 1 deleted, 0 another value, -1 absent."""
    value = view.string(argv[1])
    if value is None:
        return _MINUS_ONE, effects.NONE
    if value != argv[2]:
        return ZERO, effects.NONE
    return ONE, (effects.delete(view.db, argv[1]),)


COMMANDS: Final = (
    CommandSpec(
        "delex",
        delex,
        arity=-2,
        flags=WRITE | FAST | ATOMIC | CONDITIONAL,
        keys=(KeySpec(flags=("RM", "delete", "variable_flags")),),
        acl=("write", "string", "fast"),
        group="string",
        since="8.4.0",
        complexity="O(1) for IFEQ and IFNE, O(N) for IFDEQ and IFDNE where N is the length of the value.",
        summary="Delete a key if its string value, or the digest of it, compares as asked",
        args=(
            KEY,
            Arg(
                "condition",
                ArgType.ONEOF,
                flags=("optional",),
                args=(
                    Arg("ifeq-value", token="IFEQ"),
                    Arg("ifne-value", token="IFNE"),
                    Arg("ifdeq-digest", token="IFDEQ"),
                    Arg("ifdne-digest", token="IFDNE"),
                ),
            ),
        ),
    ),
    CommandSpec(
        "delifeq",
        delifeq,
        arity=3,
        flags=WRITE | FAST | ATOMIC | CONDITIONAL,
        keys=(KeySpec(flags=("RM", "access", "delete")),),
        acl=("write", "string", "fast"),
        group="string",
        since="9.0.0",
        complexity="O(1)",
        summary="Delete a key if its string value is the given one",
        args=(KEY, VALUE),
    ),
    CommandSpec(
        "digest",
        digest_command,
        arity=2,
        flags=READONLY | FAST,
        keys=(KeySpec(flags=("RO", "access")),),
        acl=("read", "string", "fast"),
        group="string",
        since="8.4.0",
        complexity="O(N) where N is the length of the value.",
        summary="The XXH3 digest of a string value in hexadecimal",
        args=(KEY,),
    ),
    CommandSpec(
        "msetex",
        msetex,
        arity=-4,
        flags=WRITE | DENYOOM | Flag.MOVABLEKEYS | ATOMIC | CONDITIONAL,
        keys=(KeySpec(first=2, step=2, keynum=1, flags=("OW", "update")),),
        acl=("write", "string", "slow"),
        group="string",
        since="8.4.0",
        complexity="O(N) where N is the number of keys to set.",
        summary="Set several string values with one expiry, all or none of them",
        args=(
            Arg("numkeys", ArgType.INTEGER),
            Arg(
                "data",
                ArgType.BLOCK,
                flags=("multiple",),
                args=(KEY, VALUE),
            ),
            IF_ABSENT_OR_PRESENT,
            EXPIRY_OR_KEEP,
        ),
        tips=("request_policy:multi_shard", "response_policy:agg_min"),
    ),
    CommandSpec(
        "cas",
        cas,
        arity=-4,
        flags=WRITE | DENYOOM | ATOMIC | CONDITIONAL,
        keys=(KeySpec(flags=("RW", "access", "update")),),
        acl=("write", "string", "slow"),
        group="string",
        since="1.0.0",
        complexity="O(1)",
        summary="Replace a string value if it is the given one",
        args=(
            KEY,
            Arg("old-value"),
            Arg("new-value"),
            RELATIVE_EXPIRY,
        ),
    ),
    CommandSpec(
        "cad",
        cad,
        arity=3,
        flags=WRITE | ATOMIC | CONDITIONAL,
        keys=(KeySpec(flags=("RM", "access", "delete")),),
        acl=("write", "string", "slow"),
        group="string",
        since="1.0.0",
        complexity="O(1)",
        summary="Delete a key if its string value is the given one",
        args=(KEY, VALUE),
    ),
)
