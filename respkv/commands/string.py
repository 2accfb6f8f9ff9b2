"""Reading strings and changing them in place: GET, ranges, counters, APPEND, and GET with a side effect."""

from __future__ import annotations

from typing import Final

from respkv.base.errors import CommandError
from respkv.commands.argument_shapes import EXPIRY_OR_PERSIST, KEY
from respkv.commands.arguments import (
    INT64_MAX,
    INT64_MIN,
    add_long_doubles,
    expiry,
    format_long_double,
    integer,
    long_double,
)
from respkv.commands.spec import (
    ATOMIC,
    DENYOOM,
    FAST,
    READONLY,
    WRITE,
    Arg,
    ArgType,
    CommandSpec,
    KeySpec,
)
from respkv.keyspace import effects
from respkv.keyspace.effects import Effects
from respkv.keyspace.view import View
from respkv.resp import errors, reply
from respkv.resp.errors import fail
from respkv.resp.reply import EMPTY_BULK, NULL, ZERO, Reply

_EXPIRIES: Final = (b"EX", b"PX", b"EXAT", b"PXAT")


def get(argv: list[bytes], view: View) -> tuple[Reply, Effects]:
    """GET key."""
    found = view.reply(argv[1])
    return (NULL if found is None else found), effects.NONE


def mget(argv: list[bytes], view: View) -> tuple[Reply, Effects]:
    """MGET key [key ...]: null for keys that are absent or no strings."""
    parts: list[Reply] = []
    found: bytes | None
    for key in argv[1:]:
        try:
            found = view.reply(key)
        except CommandError:
            found = None
        parts.append(NULL if found is None else found)
    return reply.array(parts), effects.NONE


def strlen(argv: list[bytes], view: View) -> tuple[Reply, Effects]:
    """STRLEN key."""
    value = view.string(argv[1])
    return (ZERO if value is None else reply.integer(len(value))), effects.NONE


def getrange(argv: list[bytes], view: View) -> tuple[Reply, Effects]:
    """GETRANGE key start end, SUBSTR: both ends included, negative from the end."""
    start, end = integer(argv[2]), integer(argv[3])
    value = view.string(argv[1])
    if not value or (start < 0 and end < 0 and start > end):
        return EMPTY_BULK, effects.NONE
    size = len(value)
    first = max(size + start, 0) if start < 0 else start
    last = max(size + end, 0) if end < 0 else end
    if last < first:
        return EMPTY_BULK, effects.NONE  # Compiled, a slice of bytes that ends before it begins is an error.
    return reply.bulk(value[first : last + 1]), effects.NONE


def getset(argv: list[bytes], view: View) -> tuple[Reply, Effects]:
    """GETSET key value: the old value; the expiry goes."""
    found = view.reply(argv[1])
    return (NULL if found is None else found), (effects.put(view.db, argv[1], argv[2]),)


def getdel(argv: list[bytes], view: View) -> tuple[Reply, Effects]:
    """GETDEL key."""
    found = view.reply(argv[1])
    if found is None:
        return NULL, effects.NONE
    return found, (effects.delete(view.db, argv[1]),)


def getex(argv: list[bytes], view: View) -> tuple[Reply, Effects]:
    """GETEX key [expiry | PERSIST]: the value, and a new expiry for it."""
    key = argv[1]
    kind = amount = b""
    index, size = 2, len(argv)
    while index < size:
        word = argv[index].upper()
        # As for SET, the same option twice is taken, two different ones are not.
        if kind not in (b"", word):
            raise fail(errors.SYNTAX)
        if word in _EXPIRIES and index + 1 < size:
            amount = argv[index + 1]
            index += 2
        elif word == b"PERSIST":
            index += 1
        else:
            raise fail(errors.SYNTAX)
        kind = word
    found = view.reply(key)
    if found is None:
        return NULL, effects.NONE
    if not kind:
        return found, effects.NONE
    if kind == b"PERSIST":
        return found, (effects.expire(view.db, key, 0),) if view.expire_at(key) else effects.NONE
    expire_at_ms = expiry(kind, amount, view.now_ms, "getex")
    if expire_at_ms <= view.now_ms:
        return found, (effects.delete(view.db, key),)
    return found, (effects.expire(view.db, key, expire_at_ms),)


def append(argv: list[bytes], view: View) -> tuple[Reply, Effects]:
    """APPEND key value: the new length. O(length), the value is stored anew."""
    key = argv[1]
    value = view.string(key)
    if value is None:
        return reply.integer(len(argv[2])), (effects.put(view.db, key, argv[2]),)
    size = len(value) + len(argv[2])
    if size > view.limit_bytes:
        raise fail(errors.STRING_TOO_LONG)
    return reply.integer(size), (effects.put(view.db, key, value + argv[2], view.expire_at(key) or 0),)


def setrange(argv: list[bytes], view: View) -> tuple[Reply, Effects]:
    """SETRANGE key offset value: the new length; a gap is filled with zero bytes."""
    key, patch = argv[1], argv[3]
    offset = integer(argv[2])
    if offset < 0:
        raise fail(errors.OFFSET_RANGE)
    value = view.string(key) or b""
    if not patch:
        return reply.integer(len(value)), effects.NONE
    if offset + len(patch) > view.limit_bytes:
        raise fail(errors.STRING_TOO_LONG)
    head = value[:offset]
    if len(head) < offset:
        head += bytes(offset - len(head))
    value = b"%b%b%b" % (head, patch, value[offset + len(patch) :])
    return reply.integer(len(value)), (effects.put(view.db, key, value, view.expire_at(key) or 0),)


def _add(key: bytes, delta: int, view: View) -> tuple[Reply, Effects]:  # HOT: incr
    value, expire_at_ms = view.text(key)
    if value is None:
        return reply.integer(delta), ((effects.PUT, view.db, key, b"%d" % delta, 0),)
    try:
        number = int(value)
    except ValueError:
        raise fail(errors.NOT_INTEGER) from None
    # int() is laxer than Redis (spaces, underscores, leading zeros): only the canonical text is a number.
    if b"%d" % number != value or not INT64_MIN <= number <= INT64_MAX:
        raise fail(errors.NOT_INTEGER)
    number += delta
    if not INT64_MIN <= number <= INT64_MAX:
        raise fail(errors.OVERFLOW)
    return reply.integer(number), ((effects.PUT, view.db, key, b"%d" % number, expire_at_ms),)


def is_short_number(text: bytes) -> bool:
    """Whether it is a short plain number, the common case of a counter, which int() and Redis read alike."""
    return text.isdigit() and len(text) < 18 and (text[0] != 48 or len(text) == 1)


def incr(argv: list[bytes], view: View) -> tuple[Reply, Effects]:
    """INCR key."""
    key = argv[1]
    value, expire_at_ms = view.text(key)
    if value is not None and is_short_number(value):
        number = int(value) + 1
        return b":%d\r\n" % number, ((effects.PUT, view.db, key, b"%d" % number, expire_at_ms),)
    if value is None:
        return reply.integer(1), ((effects.PUT, view.db, key, b"1", 0),)
    return _add(key, 1, view)


def decr(argv: list[bytes], view: View) -> tuple[Reply, Effects]:
    """DECR key."""
    return _add(argv[1], -1, view)


def incrby(argv: list[bytes], view: View) -> tuple[Reply, Effects]:
    """INCRBY key increment."""
    return _add(argv[1], integer(argv[2]), view)


def decrby(argv: list[bytes], view: View) -> tuple[Reply, Effects]:
    """DECRBY key decrement."""
    amount = integer(argv[2])
    if amount == INT64_MIN:
        raise fail(errors.DECR_OVERFLOW)
    return _add(argv[1], -amount, view)


def incrbyfloat(argv: list[bytes], view: View) -> tuple[Reply, Effects]:
    """INCRBYFLOAT key increment: the new value as text, in long double precision."""
    key = argv[1]
    text = view.string(key)
    left = long_double(text if text is not None else b"0")
    right = long_double(argv[2])
    total = None if left is None or right is None else add_long_doubles(left, right)
    if total is None:
        raise fail(errors.NAN_OR_INFINITY)
    value = format_long_double(total)
    return reply.bulk(value), (effects.put(view.db, key, value, view.expire_at(key) or 0),)


COMMANDS: Final = (
    CommandSpec(
        "get",
        get,
        arity=2,
        flags=READONLY | FAST,
        keys=(KeySpec(flags=("RO", "access")),),
        acl=("read", "string", "fast"),
        group="string",
        since="1.0.0",
        complexity="O(1)",
        summary="Read a string value",
        args=(KEY,),
    ),
    CommandSpec(
        "mget",
        mget,
        arity=-2,
        flags=READONLY | FAST,
        keys=(KeySpec(last=-1, flags=("RO", "access")),),
        acl=("read", "string", "fast"),
        group="string",
        since="1.0.0",
        complexity="O(N) where N is the number of keys to retrieve.",
        summary="Read the string values of several keys",
        args=(Arg("key", ArgType.KEY, flags=("multiple",), key_spec=0),),
        tips=("request_policy:multi_shard",),
    ),
    CommandSpec(
        "strlen",
        strlen,
        arity=2,
        flags=READONLY | FAST,
        keys=(KeySpec(flags=("RO",)),),
        acl=("read", "string", "fast"),
        group="string",
        since="2.2.0",
        complexity="O(1)",
        summary="The length of a string value",
        args=(KEY,),
    ),
    CommandSpec(
        "getrange",
        getrange,
        arity=4,
        flags=READONLY,
        keys=(KeySpec(flags=("RO", "access")),),
        acl=("read", "string", "slow"),
        group="string",
        since="2.4.0",
        complexity=(
            "O(N) where N is the length of the returned string. The complexity is ultimately "
            "determined by the returned length, but because creating a substring from an existing "
            "string is very cheap, it can be considered O(1) for small strings."
        ),
        summary="A part of a string value, by first and last byte",
        args=(
            KEY,
            Arg("start", ArgType.INTEGER),
            Arg("end", ArgType.INTEGER),
        ),
    ),
    CommandSpec(
        "substr",
        getrange,
        arity=4,
        flags=READONLY,
        keys=(KeySpec(flags=("RO", "access")),),
        acl=("read", "string", "slow"),
        group="string",
        since="1.0.0",
        complexity=(
            "O(N) where N is the length of the returned string. The complexity is ultimately "
            "determined by the returned length, but because creating a substring from an existing "
            "string is very cheap, it can be considered O(1) for small strings."
        ),
        summary="A part of a string value, by first and last byte",
        args=(
            KEY,
            Arg("start", ArgType.INTEGER),
            Arg("end", ArgType.INTEGER),
        ),
        deprecated_since="2.0.0",
        replaced_by="GETRANGE",
    ),
    CommandSpec(
        "getset",
        getset,
        arity=3,
        flags=WRITE | DENYOOM | FAST | ATOMIC,
        keys=(KeySpec(flags=("RW", "access", "update")),),
        acl=("write", "string", "fast"),
        group="string",
        since="1.0.0",
        complexity="O(1)",
        summary="Set a string value and return the one before it",
        args=(
            KEY,
            Arg("value"),
        ),
        deprecated_since="6.2.0",
        replaced_by="SET with the !GET argument",
    ),
    CommandSpec(
        "getdel",
        getdel,
        arity=2,
        flags=WRITE | FAST | ATOMIC,
        keys=(KeySpec(flags=("RW", "access", "delete")),),
        acl=("write", "string", "fast"),
        group="string",
        since="6.2.0",
        complexity="O(1)",
        summary="Read a string value and delete its key",
        args=(KEY,),
    ),
    CommandSpec(
        "getex",
        getex,
        arity=-2,
        flags=WRITE | FAST | ATOMIC,
        keys=(KeySpec(flags=("RW", "access", "update"), notes="RW and UPDATE because it changes the TTL"),),
        acl=("write", "string", "fast"),
        group="string",
        since="6.2.0",
        complexity="O(1)",
        summary="Read a string value and set or remove its expiry",
        args=(
            KEY,
            EXPIRY_OR_PERSIST,
        ),
    ),
    CommandSpec(
        "append",
        append,
        arity=3,
        flags=WRITE | DENYOOM | FAST | ATOMIC,
        keys=(KeySpec(flags=("RW", "insert")),),
        acl=("write", "string", "fast"),
        group="string",
        since="2.0.0",
        complexity=(
            "O(1). The amortized time complexity is O(1) assuming the appended value is small and "
            "the already present value is of any size, since the dynamic string library used by "
            "Redis will double the free space available on every reallocation."
        ),
        summary="Add bytes to the end of a string value, making it if needed",
        args=(
            KEY,
            Arg("value"),
        ),
    ),
    CommandSpec(
        "setrange",
        setrange,
        arity=4,
        flags=WRITE | DENYOOM | ATOMIC,
        keys=(KeySpec(flags=("RW", "update")),),
        acl=("write", "string", "slow"),
        group="string",
        since="2.2.0",
        complexity=(
            "O(1), not counting the time taken to copy the new string in place. Usually, this string "
            "is very small so the amortized complexity is O(1). Otherwise, complexity is O(M) with M "
            "being the length of the value argument."
        ),
        summary="Overwrite a part of a string value from an offset on",
        args=(
            KEY,
            Arg("offset", ArgType.INTEGER),
            Arg("value"),
        ),
    ),
    CommandSpec(
        "incr",
        incr,
        arity=2,
        flags=WRITE | DENYOOM | FAST | ATOMIC,
        keys=(KeySpec(flags=("RW", "access", "update")),),
        acl=("write", "string", "fast"),
        group="string",
        since="1.0.0",
        complexity="O(1)",
        summary="Add one to an integer value",
        args=(KEY,),
    ),
    CommandSpec(
        "decr",
        decr,
        arity=2,
        flags=WRITE | DENYOOM | FAST | ATOMIC,
        keys=(KeySpec(flags=("RW", "access", "update")),),
        acl=("write", "string", "fast"),
        group="string",
        since="1.0.0",
        complexity="O(1)",
        summary="Subtract one from an integer value",
        args=(KEY,),
    ),
    CommandSpec(
        "incrby",
        incrby,
        arity=3,
        flags=WRITE | DENYOOM | FAST | ATOMIC,
        keys=(KeySpec(flags=("RW", "access", "update")),),
        acl=("write", "string", "fast"),
        group="string",
        since="1.0.0",
        complexity="O(1)",
        summary="Add an integer to an integer value",
        args=(
            KEY,
            Arg("increment", ArgType.INTEGER),
        ),
    ),
    CommandSpec(
        "decrby",
        decrby,
        arity=3,
        flags=WRITE | DENYOOM | FAST | ATOMIC,
        keys=(KeySpec(flags=("RW", "access", "update")),),
        acl=("write", "string", "fast"),
        group="string",
        since="1.0.0",
        complexity="O(1)",
        summary="Subtract an integer from an integer value",
        args=(
            KEY,
            Arg("decrement", ArgType.INTEGER),
        ),
    ),
    CommandSpec(
        "incrbyfloat",
        incrbyfloat,
        arity=3,
        flags=WRITE | DENYOOM | FAST | ATOMIC,
        keys=(KeySpec(flags=("RW", "access", "update")),),
        acl=("write", "string", "fast"),
        group="string",
        since="2.6.0",
        complexity="O(1)",
        summary="Add a floating point number to a numeric value",
        args=(
            KEY,
            Arg("increment", ArgType.DOUBLE),
        ),
    ),
)
