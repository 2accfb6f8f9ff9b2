"""Hashes: reading, writing and counting fields.

Every field is an element of its own in the store, so a command touches what it names and nothing else. HSET asks
only whether a field is there. Fields whose time has come are absent everywhere; HLEN may still count
them until they are removed, as Redis does. Writing a field drops its expiry, except by HINCRBY and HINCRBYFLOAT.
"""

from __future__ import annotations

from typing import Final

from respkv.base.ids import HASH
from respkv.commands.argument_shapes import KEY
from respkv.commands.arguments import (
    INT64_MAX,
    INT64_MIN,
    LongDouble,
    add_long_doubles,
    format_long_double,
    integer,
    long_double,
    optional_integer,
)
from respkv.commands.spec import ATOMIC, DENYOOM, FAST, READONLY, WRITE, Arg, ArgType, CommandSpec, KeySpec
from respkv.keyspace import effects
from respkv.keyspace.effects import PUT_ELEMENT, Effect, Effects
from respkv.keyspace.view import HashView, View
from respkv.resp import errors, reply
from respkv.resp.errors import fail
from respkv.resp.reply import EMPTY_ARRAY, NULL, OK, ONE, ZERO, Map, Reply, bulk, bulk_array, error

BAD_INCREMENT: Final = error(b"ERR value is NaN or Infinity")


def hset(argv: list[bytes], view: View) -> tuple[Reply, Effects]:
    """HSET key field value [field value ...]: how many fields are new. O(fields)."""
    size = len(argv)
    if size & 1:
        raise fail(errors.wrong_arity("hset"))
    key = argv[1]
    fields = view.hash(key)
    db = view.db
    if size == 4:
        field = argv[2]
        new = ONE if fields is None or fields.get(field) is None else ZERO
        return new, ((PUT_ELEMENT, db, key, HASH, field, argv[3], 0),)
    # A field named twice is written once, with its last value.
    pairs = dict(zip(argv[2::2], argv[3::2]))
    count = len(pairs) if fields is None else [fields.get(field) for field in pairs].count(None)
    return reply.integer(count), [
        (PUT_ELEMENT, db, key, HASH, field, value, 0) for field, value in pairs.items()
    ]


def hmset(argv: list[bytes], view: View) -> tuple[Reply, Effects]:
    """HMSET key field value [field value ...]."""
    if len(argv) & 1:
        raise fail(errors.wrong_arity("hmset"))
    return OK, hset(argv, view)[1]


def hsetnx(argv: list[bytes], view: View) -> tuple[Reply, Effects]:
    """HSETNX key field value: 1 when set, 0 when the field was there."""
    _, key, field, value = argv
    fields = view.hash(key)
    if fields is not None and fields.get(field) is not None:
        return ZERO, effects.NONE
    return ONE, (effects.put_element(view.db, key, HASH, field, value),)


def hget(argv: list[bytes], view: View) -> tuple[Reply, Effects]:
    """HGET key field: the value, null when key or field is absent."""
    fields = view.hash(argv[1])
    value = None if fields is None else fields.get(argv[2])
    return (NULL if value is None else b"$%d\r\n%b\r\n" % (len(value), value)), effects.NONE


def hmget(argv: list[bytes], view: View) -> tuple[Reply, Effects]:
    """HMGET key field [field ...]: a value or null for each."""
    fields = view.hash(argv[1])
    if fields is None:
        return reply.array([NULL] * (len(argv) - 2)), effects.NONE
    return reply.array([reply.optional_bulk(fields.get(field)) for field in argv[2:]]), effects.NONE


def hgetall(argv: list[bytes], view: View) -> tuple[Reply, Effects]:
    """HGETALL key: all fields with their values. O(n)."""
    fields = view.hash(argv[1])
    items = () if fields is None else fields.items()
    return Map([(bulk(field), bulk(value)) for field, value, _ in items]), effects.NONE


def hkeys(argv: list[bytes], view: View) -> tuple[Reply, Effects]:
    """HKEYS key: all fields. O(n)."""
    fields = view.hash(argv[1])
    if fields is None:
        return EMPTY_ARRAY, effects.NONE
    return bulk_array([field for field, _, _ in fields.items()]), effects.NONE


def hvals(argv: list[bytes], view: View) -> tuple[Reply, Effects]:
    """HVALS key: all values. O(n)."""
    fields = view.hash(argv[1])
    if fields is None:
        return EMPTY_ARRAY, effects.NONE
    return bulk_array([value for _, value, _ in fields.items()]), effects.NONE


def hlen(argv: list[bytes], view: View) -> tuple[Reply, Effects]:
    """HLEN key: the number of fields."""
    fields = view.hash(argv[1])
    return (ZERO if fields is None else reply.integer(fields.count())), effects.NONE


def hexists(argv: list[bytes], view: View) -> tuple[Reply, Effects]:
    """HEXISTS key field: 1 or 0."""
    fields = view.hash(argv[1])
    return reply.boolean(fields is not None and fields.get(argv[2]) is not None), effects.NONE


def hstrlen(argv: list[bytes], view: View) -> tuple[Reply, Effects]:
    """HSTRLEN key field: bytes of the value, 0 when it is absent."""
    fields = view.hash(argv[1])
    value = None if fields is None else fields.get(argv[2])
    return (ZERO if value is None else reply.integer(len(value))), effects.NONE


def hdel(argv: list[bytes], view: View) -> tuple[Reply, Effects]:
    """HDEL key field [field ...]: how many there were. The last field takes the key with it."""
    key = argv[1]
    fields = view.hash(key)
    if fields is None:
        return ZERO, effects.NONE
    found = [field for field in dict.fromkeys(argv[2:]) if fields.get(field) is not None]
    return reply.integer(len(found)), [effects.remove_element(view.db, key, field) for field in found]


def hincrby(argv: list[bytes], view: View) -> tuple[Reply, Effects]:
    """HINCRBY key field increment: the new value. The field keeps its expiry."""
    _, key, field, amount = argv
    increment = integer(amount)
    fields = view.hash(key)
    text = None if fields is None else fields.get(field)
    value = 0 if text is None else optional_integer(text)
    if value is None:
        raise fail(errors.HASH_NOT_INTEGER)
    value += increment
    if not INT64_MIN <= value <= INT64_MAX:
        raise fail(errors.OVERFLOW)
    return reply.integer(value), (_keeping_expiry(view, key, fields, field, b"%d" % value),)


def hincrbyfloat(argv: list[bytes], view: View) -> tuple[Reply, Effects]:
    """HINCRBYFLOAT key field increment: the new value as text, in long double precision. Keeps the expiry."""
    _, key, field, amount = argv
    increment = long_double(amount)
    if increment is None:
        raise fail(BAD_INCREMENT)
    fields = view.hash(key)
    text = None if fields is None else fields.get(field)
    old: LongDouble | None = LongDouble(0, 0)
    if text is not None:
        old = long_double(text, errors.HASH_NOT_FLOAT)
    total = None if old is None else add_long_doubles(old, increment)
    if total is None:
        raise fail(errors.NAN_OR_INFINITY)
    value = format_long_double(total)
    return bulk(value), (_keeping_expiry(view, key, fields, field, value),)


def _keeping_expiry(view: View, key: bytes, fields: HashView | None, field: bytes, value: bytes) -> Effect:
    expire_at_ms = 0 if fields is None else fields.expire_at(field) or 0
    return effects.put_element(view.db, key, HASH, field, value, expire_at_ms)


_READS: Final = KeySpec(flags=("RO", "access"))
_UPDATES: Final = KeySpec(flags=("RW", "update"))
_FAST_READ: Final = ("read", "hash", "fast")
_SLOW_READ: Final = ("read", "hash", "slow")
_FAST_WRITE: Final = ("write", "hash", "fast")

COMMANDS: Final = (
    CommandSpec(
        "hset",
        hset,
        arity=-4,
        flags=WRITE | FAST | DENYOOM | ATOMIC,
        keys=(_UPDATES,),
        acl=_FAST_WRITE,
        group="hash",
        since="2.0.0",
        complexity="O(1) for each field/value pair added, so O(N) for N pairs.",
        summary="Set fields of a hash",
        args=(
            KEY,
            Arg("field_value", ArgType.BLOCK, flags=("multiple",), args=(Arg("field"), Arg("value"))),
        ),
        history=(("4.0.0", "Accepts multiple `field` and `value` arguments."),),
    ),
    CommandSpec(
        "hmset",
        hmset,
        arity=-4,
        flags=WRITE | FAST | DENYOOM | ATOMIC,
        keys=(_UPDATES,),
        acl=_FAST_WRITE,
        group="hash",
        since="2.0.0",
        complexity="O(N) where N is the number of fields being set.",
        summary="Set several fields of a hash",
        args=(
            KEY,
            Arg("field_value", ArgType.BLOCK, flags=("multiple",), args=(Arg("field"), Arg("value"))),
        ),
        deprecated_since="4.0.0",
        replaced_by="`HSET` with multiple field-value pairs",
    ),
    CommandSpec(
        "hsetnx",
        hsetnx,
        arity=4,
        flags=WRITE | FAST | DENYOOM | ATOMIC,
        keys=(KeySpec(flags=("RW", "insert")),),
        acl=_FAST_WRITE,
        group="hash",
        since="2.0.0",
        complexity="O(1)",
        summary="Set a field of a hash unless it exists",
        args=(KEY, Arg("field"), Arg("value")),
    ),
    CommandSpec(
        "hget",
        hget,
        arity=3,
        flags=READONLY | FAST,
        keys=(_READS,),
        acl=_FAST_READ,
        group="hash",
        since="2.0.0",
        complexity="O(1)",
        summary="Read a field of a hash",
        args=(KEY, Arg("field")),
    ),
    CommandSpec(
        "hmget",
        hmget,
        arity=-3,
        flags=READONLY | FAST,
        keys=(_READS,),
        acl=_FAST_READ,
        group="hash",
        since="2.0.0",
        complexity="O(N) where N is the number of fields being requested.",
        summary="Read several fields of a hash",
        args=(KEY, Arg("field", flags=("multiple",))),
    ),
    CommandSpec(
        "hgetall",
        hgetall,
        arity=2,
        flags=READONLY,
        keys=(_READS,),
        acl=_SLOW_READ,
        group="hash",
        since="2.0.0",
        complexity="O(N) where N is the size of the hash.",
        summary="Read all fields and values of a hash",
        args=(KEY,),
        tips=("nondeterministic_output_order",),
    ),
    CommandSpec(
        "hkeys",
        hkeys,
        arity=2,
        flags=READONLY,
        keys=(_READS,),
        acl=_SLOW_READ,
        group="hash",
        since="2.0.0",
        complexity="O(N) where N is the size of the hash.",
        summary="Read all fields of a hash",
        args=(KEY,),
        tips=("nondeterministic_output_order",),
    ),
    CommandSpec(
        "hvals",
        hvals,
        arity=2,
        flags=READONLY,
        keys=(_READS,),
        acl=_SLOW_READ,
        group="hash",
        since="2.0.0",
        complexity="O(N) where N is the size of the hash.",
        summary="Read all values of a hash",
        args=(KEY,),
        tips=("nondeterministic_output_order",),
    ),
    CommandSpec(
        "hlen",
        hlen,
        arity=2,
        flags=READONLY | FAST,
        keys=(KeySpec(flags=("RO",)),),
        acl=_FAST_READ,
        group="hash",
        since="2.0.0",
        complexity="O(1)",
        summary="Count the fields of a hash",
        args=(KEY,),
    ),
    CommandSpec(
        "hexists",
        hexists,
        arity=3,
        flags=READONLY | FAST,
        keys=(KeySpec(flags=("RO",)),),
        acl=_FAST_READ,
        group="hash",
        since="2.0.0",
        complexity="O(1)",
        summary="Tell whether a field of a hash exists",
        args=(KEY, Arg("field")),
    ),
    CommandSpec(
        "hstrlen",
        hstrlen,
        arity=3,
        flags=READONLY | FAST,
        keys=(KeySpec(flags=("RO",)),),
        acl=_FAST_READ,
        group="hash",
        since="3.2.0",
        complexity="O(1)",
        summary="Tell the length of a field's value",
        args=(KEY, Arg("field")),
    ),
    CommandSpec(
        "hdel",
        hdel,
        arity=-3,
        flags=WRITE | FAST | ATOMIC,
        keys=(KeySpec(flags=("RW", "delete")),),
        acl=_FAST_WRITE,
        group="hash",
        since="2.0.0",
        complexity="O(N) where N is the number of fields to be removed.",
        summary="Remove fields of a hash; the last one takes the key with it",
        args=(KEY, Arg("field", flags=("multiple",))),
        history=(("2.4.0", "Accepts multiple `field` arguments."),),
    ),
    CommandSpec(
        "hincrby",
        hincrby,
        arity=4,
        flags=WRITE | FAST | DENYOOM | ATOMIC,
        keys=(KeySpec(flags=("RW", "access", "update")),),
        acl=_FAST_WRITE,
        group="hash",
        since="2.0.0",
        complexity="O(1)",
        summary="Add an integer to a field of a hash",
        args=(KEY, Arg("field"), Arg("increment", ArgType.INTEGER)),
    ),
    CommandSpec(
        "hincrbyfloat",
        hincrbyfloat,
        arity=4,
        flags=WRITE | FAST | DENYOOM | ATOMIC,
        keys=(KeySpec(flags=("RW", "access", "update")),),
        acl=_FAST_WRITE,
        group="hash",
        since="2.6.0",
        complexity="O(1)",
        summary="Add a floating point number to a field of a hash",
        args=(KEY, Arg("field"), Arg("increment", ArgType.DOUBLE)),
    ),
)
