"""DUMP and RESTORE: a key's value as an RDB payload, exchangeable with Redis."""

from __future__ import annotations

from typing import Final

from respkv.base.ids import HASH, TOMBSTONE
from respkv.commands import rdb
from respkv.commands.argument_shapes import KEY
from respkv.commands.arguments import INT64_MAX, integer
from respkv.commands.spec import ATOMIC, DENYOOM, READONLY, WRITE, Arg, ArgType, CommandSpec, KeySpec
from respkv.keyspace import effects
from respkv.keyspace.effects import Effect, Effects
from respkv.keyspace.view import View
from respkv.resp import errors
from respkv.resp.errors import fail
from respkv.resp.reply import NULL, OK, Reply, bulk, error

BAD_FORMAT: Final = error(b"ERR Bad data format")
BAD_TTL: Final = error(b"ERR Invalid TTL value, must be >= 0")
BAD_IDLE_TIME: Final = error(b"ERR Invalid IDLETIME value, must be >= 0")
BAD_FREQUENCY: Final = error(b"ERR Invalid FREQ value, must be >= 0 and <= 255")


def dump(argv: list[bytes], view: View) -> tuple[Reply, Effects]:
    """DUMP key: the payload, null when the key is absent. O(bytes of the value)."""
    key = argv[1]
    kind = view.kind(key)
    if kind == TOMBSTONE:
        return NULL, effects.NONE
    if kind == HASH:
        fields = view.hash(key)
        items = [] if fields is None else list(fields.items())
        # All fields may have expired before the key has gone.
        return (bulk(rdb.dump_hash(items)) if items else NULL), effects.NONE
    value = view.string(key)
    assert value is not None, "an existing key is a string or a hash"
    return bulk(rdb.dump_string(value)), effects.NONE


def restore(argv: list[bytes], view: View) -> tuple[Reply, Effects]:
    """RESTORE key ttl payload [REPLACE] [ABSTTL] [IDLETIME s] [FREQ n]. O(bytes of the value).

    IDLETIME and FREQ are checked and have no effect: there is no eviction they could steer.
    """
    replace, absolute = _options(argv)
    key, db = argv[1], view.db
    if not replace and view.kind(key) != TOMBSTONE:
        raise fail(errors.BUSY_KEY)
    expire_at_ms = integer(argv[2])
    if expire_at_ms < 0:
        raise fail(BAD_TTL)
    if expire_at_ms and not absolute:
        expire_at_ms += view.now_ms
    if expire_at_ms > INT64_MAX:
        raise fail(errors.invalid_expire("restore"))
    payload = argv[3]
    if not rdb.is_sealed(payload):
        raise fail(errors.BAD_PAYLOAD)
    try:
        value = rdb.load(payload, view.limit_bytes)
    except rdb.ForeignType as foreign:
        raise fail(error(BAD_FORMAT[1:-2] + b": there is no type " + str(foreign).encode())) from None
    except rdb.BadPayload:
        raise fail(BAD_FORMAT) from None
    if expire_at_ms and expire_at_ms <= view.now_ms:
        return OK, (effects.delete(db, key),)
    if isinstance(value, bytes):
        return OK, (effects.put(db, key, value, expire_at_ms),)
    written: list[Effect] = [effects.delete(db, key)]
    live = [field for field in value if not field[2] or field[2] > view.now_ms]
    written += [effects.put_element(db, key, HASH, name, text, at_ms) for name, text, at_ms in live]
    if expire_at_ms and live:
        written.append(effects.expire(db, key, expire_at_ms))
    return OK, written


def _options(argv: list[bytes]) -> tuple[bool, bool]:
    """REPLACE and ABSTTL."""
    replace = absolute = False
    access = b""
    at = 4
    while at < len(argv):
        word = argv[at].upper()
        at += 1
        if word == b"REPLACE":
            replace = True
        elif word == b"ABSTTL":
            absolute = True
        elif word in (b"IDLETIME", b"FREQ") and at < len(argv) and access in (b"", word):
            access = word
            value = integer(argv[at])
            at += 1
            if word == b"IDLETIME" and value < 0:
                raise fail(BAD_IDLE_TIME)
            if word == b"FREQ" and not 0 <= value <= 255:
                raise fail(BAD_FREQUENCY)
        else:
            raise fail(errors.SYNTAX)
    return replace, absolute


_READS: Final = KeySpec(flags=("RO", "access"))

COMMANDS: Final = (
    CommandSpec(
        "dump",
        dump,
        arity=2,
        flags=READONLY,
        keys=(_READS,),
        acl=("keyspace", "read", "slow"),
        group="generic",
        since="2.6.0",
        complexity="O(N) where N is the size of the value in bytes.",
        summary="Serialize the value of a key",
        args=(KEY,),
        tips=("nondeterministic_output",),
    ),
    CommandSpec(
        "restore",
        restore,
        arity=-4,
        flags=WRITE | DENYOOM | ATOMIC,
        keys=(KeySpec(flags=("OW", "update")),),
        acl=("keyspace", "write", "slow", "dangerous"),
        group="generic",
        since="2.6.0",
        complexity="O(N) where N is the size of the value in bytes.",
        summary="Make a key from a serialized value",
        args=(
            KEY,
            Arg("ttl", ArgType.INTEGER),
            Arg("serialized-value"),
            Arg("replace", ArgType.PURE_TOKEN, token="REPLACE", flags=("optional",), since="3.0.0"),
            Arg("absttl", ArgType.PURE_TOKEN, token="ABSTTL", flags=("optional",), since="5.0.0"),
            Arg("seconds", ArgType.INTEGER, token="IDLETIME", flags=("optional",), since="5.0.0"),
            Arg("frequency", ArgType.INTEGER, token="FREQ", flags=("optional",), since="5.0.0"),
        ),
        history=(
            ("3.0.0", "Added the `REPLACE` modifier."),
            ("5.0.0", "Added the `ABSTTL` modifier."),
            ("5.0.0", "Added the `IDLETIME` and `FREQ` options."),
        ),
    ),
)
