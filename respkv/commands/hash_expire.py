"""Expiry of single fields of a hash: HEXPIRE and relatives, HTTL, HPERSIST, HGETEX, HSETEX, HGETDEL.

A field's expiry is absolute milliseconds and at most 2^46 - 1, as in Redis. The answers of a field are small
numbers: -2 no such field, -1 it has no expiry, 0 the condition does not hold, 1 done, 2 deleted because the time lies
in the past. A syntax error comes before the key is looked at.
"""

from __future__ import annotations

from typing import Final

from respkv.base.ids import HASH
from respkv.commands.argument_shapes import (
    EXPIRY_CONDITIONS,
    EXPIRY_OR_KEEP,
    EXPIRY_OR_PERSIST,
    FIELDS,
    KEY,
    MILLISECONDS,
    SECONDS,
    UNIX_MILLISECONDS,
    UNIX_SECONDS,
    VALUE,
    counted_fields,
    one_of,
    token,
)
from respkv.commands.arguments import integer, keyword
from respkv.commands.spec import ATOMIC, DENYOOM, FAST, READONLY, WRITE, Arg, ArgType, CommandSpec, KeySpec
from respkv.keyspace import effects
from respkv.keyspace.effects import Effect, Effects
from respkv.keyspace.view import HashView, View
from respkv.resp import errors, reply
from respkv.resp.errors import fail
from respkv.resp.reply import ONE, ZERO, Reply, error

EXPIRE_AT_MS_MAX: Final = (1 << 46) - 1

NO_FIELDS_WORD: Final = error(b"ERR Mandatory argument FIELDS is missing or not at the right position")
FIELD_COUNT: Final = error(b"ERR Number of fields must be a positive integer")
EXPIRE_FIELD_COUNT: Final = error(b"ERR Parameter `numFields` should be greater than 0")
FIELD_COUNT_DIFFERS: Final = error(b"ERR The `numfields` parameter must match the number of arguments")
SET_FIELD_COUNT: Final = error(b"ERR invalid number of fields")
EXPIRE_NEGATIVE: Final = error(b"ERR invalid expire time, must be >= 0")
ONE_CONDITION: Final = error(b"ERR Only one of FXX or FNX arguments can be specified")
ONE_EXPIRY: Final = error(b"ERR Only one of EX, PX, EXAT, PXAT or KEEPTTL arguments can be specified")

_NO_FIELD: Final = reply.integer(-2)
_NO_EXPIRY: Final = reply.integer(-1)
_DELETED: Final = reply.integer(2)

_CONDITIONS: Final = (b"NX", b"XX", b"GT", b"LT")
_EXPIRIES: Final = (b"EX", b"PX", b"EXAT", b"PXAT")


def named_fields(argv: list[bytes], at: int, bad_count: bytes = FIELD_COUNT) -> list[bytes]:
    """The fields of ``FIELDS numfields field [field ...]``, which starts at ``argv[at]`` and ends the request."""
    if keyword(argv[at]) != b"FIELDS":
        raise fail(NO_FIELDS_WORD)
    if at + 1 >= len(argv):
        raise fail(bad_count)
    count = integer(argv[at + 1], bad_count)
    if count < 1:
        raise fail(bad_count)
    if count != len(argv) - at - 2:
        raise fail(FIELD_COUNT_DIFFERS)
    return argv[at + 2 :]


def field_expiry(kind: bytes, arg: bytes, now_ms: int, command: str) -> int:
    """Absolute milliseconds of an EX, PX, EXAT or PXAT argument, 0 to ``EXPIRE_AT_MS_MAX``; may lie in the past."""
    value = integer(arg)
    if value < 0:
        raise fail(EXPIRE_NEGATIVE)
    if kind[0] == 69:  # E: seconds
        value *= 1000
    if len(kind) == 2:
        value += now_ms
    if value > EXPIRE_AT_MS_MAX:
        raise fail(errors.invalid_expire(command))
    return value


def _expiry_effect(
    view: View, key: bytes, field: bytes, value: bytes, expire_at_ms: int
) -> tuple[Effect, bool]:
    """The effect of giving a field an expiry (0: none), and whether it goes because the time has come."""
    if expire_at_ms and expire_at_ms <= view.now_ms:
        return effects.remove_element(view.db, key, field), True
    return effects.put_element(view.db, key, HASH, field, value, expire_at_ms), False


def _holds(condition: bytes, old_ms: int, new_ms: int) -> bool:
    """No expiry counts as later than any."""
    if not old_ms:
        return condition not in (b"XX", b"GT")
    if condition == b"GT":
        return new_ms > old_ms
    if condition == b"LT":
        return new_ms < old_ms
    return condition != b"NX"


def _hexpire(argv: list[bytes], view: View, kind: bytes, command: str) -> tuple[Reply, Effects]:
    expire_at_ms = field_expiry(kind, argv[2], view.now_ms, command)
    # 0 would mean "no expiry" to the store; the first millisecond is as long ago.
    expire_at_ms = expire_at_ms or 1
    condition = keyword(argv[3])
    at = 4
    if condition not in _CONDITIONS:
        condition, at = b"", 3
    names = named_fields(argv, at, EXPIRE_FIELD_COUNT)
    key = argv[1]
    fields = view.hash(key)
    if fields is None:
        return reply.array([_NO_FIELD] * len(names)), effects.NONE
    answers: list[Reply] = []
    # A field named twice meets its own new expiry the second time.
    changed: dict[bytes, Effect] = {}
    expiries: dict[bytes, int | None] = {}
    for field in names:
        old_ms = expiries[field] if field in expiries else fields.expire_at(field)
        if old_ms is None:
            answers.append(_NO_FIELD)
        elif not _holds(condition, old_ms, expire_at_ms):
            answers.append(ZERO)
        else:
            value = fields.get(field)
            assert value is not None, "a field that has an expiry is there"
            changed[field], gone = _expiry_effect(view, key, field, value, expire_at_ms)
            expiries[field] = None if gone else expire_at_ms
            answers.append(_DELETED if gone else ONE)
    return reply.array(answers), list(changed.values())


def hexpire(argv: list[bytes], view: View) -> tuple[Reply, Effects]:
    """HEXPIRE key seconds [NX | XX | GT | LT] FIELDS numfields field [field ...]: a number for each field."""
    return _hexpire(argv, view, b"EX", "hexpire")


def hpexpire(argv: list[bytes], view: View) -> tuple[Reply, Effects]:
    """HPEXPIRE key milliseconds [NX | XX | GT | LT] FIELDS numfields field [field ...]."""
    return _hexpire(argv, view, b"PX", "hpexpire")


def hexpireat(argv: list[bytes], view: View) -> tuple[Reply, Effects]:
    """HEXPIREAT key unix-time-seconds [NX | XX | GT | LT] FIELDS numfields field [field ...]."""
    return _hexpire(argv, view, b"EXAT", "hexpireat")


def hpexpireat(argv: list[bytes], view: View) -> tuple[Reply, Effects]:
    """HPEXPIREAT key unix-time-milliseconds [NX | XX | GT | LT] FIELDS numfields field [field ...]."""
    return _hexpire(argv, view, b"PXAT", "hpexpireat")


def _expiries(argv: list[bytes], view: View, base_ms: int, unit_ms: int) -> tuple[Reply, Effects]:
    """For each field its expiry after ``base_ms`` in units of ``unit_ms``, rounded up."""
    names = named_fields(argv, 2)
    fields = view.hash(argv[1])
    answers: list[Reply] = []
    for field in names:
        expire_at_ms = None if fields is None else fields.expire_at(field)
        if expire_at_ms is None:
            answers.append(_NO_FIELD)
        elif not expire_at_ms:
            answers.append(_NO_EXPIRY)
        else:
            answers.append(reply.integer((expire_at_ms - base_ms + unit_ms - 1) // unit_ms))
    return reply.array(answers), effects.NONE


def httl(argv: list[bytes], view: View) -> tuple[Reply, Effects]:
    """HTTL key FIELDS numfields field [field ...]: seconds left, rounded up."""
    return _expiries(argv, view, view.now_ms, 1000)


def hpttl(argv: list[bytes], view: View) -> tuple[Reply, Effects]:
    """HPTTL key FIELDS numfields field [field ...]: milliseconds left."""
    return _expiries(argv, view, view.now_ms, 1)


def hexpiretime(argv: list[bytes], view: View) -> tuple[Reply, Effects]:
    """HEXPIRETIME key FIELDS numfields field [field ...]: Unix time in seconds, rounded up."""
    return _expiries(argv, view, 0, 1000)


def hpexpiretime(argv: list[bytes], view: View) -> tuple[Reply, Effects]:
    """HPEXPIRETIME key FIELDS numfields field [field ...]: Unix time in milliseconds."""
    return _expiries(argv, view, 0, 1)


def hpersist(argv: list[bytes], view: View) -> tuple[Reply, Effects]:
    """HPERSIST key FIELDS numfields field [field ...]: 1 where an expiry was removed."""
    names = named_fields(argv, 2)
    key = argv[1]
    fields = view.hash(key)
    answers: list[Reply] = []
    changed: dict[bytes, Effect] = {}
    for field in names:
        expire_at_ms = None if fields is None else fields.expire_at(field)
        if fields is None or expire_at_ms is None:
            answers.append(_NO_FIELD)
        elif not expire_at_ms or field in changed:
            answers.append(_NO_EXPIRY)
        else:
            changed[field] = _persisted(view, key, fields, field)
            answers.append(ONE)
    return reply.array(answers), list(changed.values())


def _persisted(view: View, key: bytes, fields: HashView, field: bytes) -> Effect:
    return effects.put_element(view.db, key, HASH, field, fields.get(field) or b"")


def hgetdel(argv: list[bytes], view: View) -> tuple[Reply, Effects]:
    """HGETDEL key FIELDS numfields field [field ...]: the values of the fields, which go."""
    names = named_fields(argv, 2)
    key = argv[1]
    fields = view.hash(key)
    removed: dict[bytes, Effect] = {}
    values: list[Reply] = []
    for field in names:
        value = None if fields is None or field in removed else fields.get(field)
        if value is not None:
            removed[field] = effects.remove_element(view.db, key, field)
        values.append(reply.optional_bulk(value))
    return reply.array(values), list(removed.values())


def hgetex(argv: list[bytes], view: View) -> tuple[Reply, Effects]:
    """HGETEX key [EX s | PX ms | EXAT time | PXAT time | PERSIST] FIELDS numfields field [field ...]: the values."""
    option = keyword(argv[2])
    at, expire_at_ms = 2, 0
    if option in _EXPIRIES:
        expire_at_ms = field_expiry(option, argv[3], view.now_ms, "hgetex") or 1
        at = 4
    elif option == b"PERSIST":
        at = 3
    names = named_fields(argv, at)
    key = argv[1]
    fields = view.hash(key)
    changed: dict[bytes, Effect] = {}
    gone: dict[bytes, None] = {}
    values: list[Reply] = []
    for field in names:
        value = None if fields is None or field in gone else fields.get(field)
        values.append(reply.optional_bulk(value))
        if fields is None or value is None or at == 2:
            continue
        if expire_at_ms:
            changed[field], is_gone = _expiry_effect(view, key, field, value, expire_at_ms)
            if is_gone:
                gone[field] = None
        elif fields.expire_at(field):
            changed[field] = _persisted(view, key, fields, field)
    return reply.array(values), list(changed.values())


def hsetex(argv: list[bytes], view: View) -> tuple[Reply, Effects]:
    """HSETEX key [FNX | FXX] [expiry | KEEPTTL] FIELDS numfields field value [field value ...]: 1 when all are set."""
    condition, expire_at_ms, keep, pairs = _hsetex_options(argv, view.now_ms)
    key = argv[1]
    fields = view.hash(key)
    if condition:
        there = [fields is not None and fields.get(field) is not None for field in pairs]
        if any(there) if condition == b"FNX" else not all(there):
            return ZERO, effects.NONE
    written: list[Effect] = []
    for field, value in pairs.items():
        if keep:
            expire_at_ms = 0 if fields is None else fields.expire_at(field) or 0
        if expire_at_ms and expire_at_ms <= view.now_ms:
            # What was there goes; the new value is not even written.
            if fields is not None and fields.get(field) is not None:
                written.append(effects.remove_element(view.db, key, field))
        else:
            written.append(effects.put_element(view.db, key, HASH, field, value, expire_at_ms))
    return ONE, written


def _hsetex_options(argv: list[bytes], now_ms: int) -> tuple[bytes, int, bool, dict[bytes, bytes]]:
    """Condition, absolute expiry (0: none), whether expiries are kept, and the fields with their last values."""
    condition, kind, expire_at_ms = b"", b"", 0
    at = 2
    # The arity leaves more words than all options can take together: there is always a next one.
    while True:
        word = keyword(argv[at])
        if word == b"FIELDS":
            return condition, expire_at_ms, kind == b"KEEPTTL", _hsetex_pairs(argv, at)
        if word in _EXPIRIES or word == b"KEEPTTL":
            if kind:
                raise fail(ONE_EXPIRY)
            kind = word
            if word != b"KEEPTTL":
                at += 1
                expire_at_ms = field_expiry(word, argv[at], now_ms, "hsetex") or 1
        elif word in (b"FNX", b"FXX"):
            if condition:
                raise fail(ONE_CONDITION)
            condition = word
        else:
            raise fail(error(b"ERR unknown argument: %b" % argv[at][:128]))
        at += 1


def _hsetex_pairs(argv: list[bytes], at: int) -> dict[bytes, bytes]:
    if at >= len(argv) - 3:
        raise fail(errors.wrong_arity("hsetex"))
    count = integer(argv[at + 1], SET_FIELD_COUNT)
    if not 1 <= count < 1 << 31:
        raise fail(SET_FIELD_COUNT)
    words = argv[at + 2 :]
    if len(words) != 2 * count:
        raise fail(errors.wrong_arity("hsetex"))
    return dict(zip(words[::2], words[1::2]))


_READS: Final = KeySpec(flags=("RO", "access"))
_UPDATES: Final = KeySpec(flags=("RW", "update"))
_FAST_READ: Final = ("read", "hash", "fast")
_FAST_WRITE: Final = ("write", "hash", "fast")
_CONDITION: Final = one_of("condition", *EXPIRY_CONDITIONS)

COMMANDS: Final = (
    CommandSpec(
        "hexpire",
        hexpire,
        arity=-6,
        flags=WRITE | FAST | DENYOOM | ATOMIC,
        keys=(_UPDATES,),
        acl=_FAST_WRITE,
        group="hash",
        since="7.4.0",
        complexity="O(N) where N is the number of specified fields",
        summary="Set the time to live of fields in seconds",
        args=(KEY, SECONDS, _CONDITION, FIELDS),
    ),
    CommandSpec(
        "hpexpire",
        hpexpire,
        arity=-6,
        flags=WRITE | FAST | DENYOOM | ATOMIC,
        keys=(_UPDATES,),
        acl=_FAST_WRITE,
        group="hash",
        since="7.4.0",
        complexity="O(N) where N is the number of specified fields",
        summary="Set the time to live of fields in milliseconds",
        args=(KEY, MILLISECONDS, _CONDITION, FIELDS),
    ),
    CommandSpec(
        "hexpireat",
        hexpireat,
        arity=-6,
        flags=WRITE | FAST | DENYOOM | ATOMIC,
        keys=(_UPDATES,),
        acl=_FAST_WRITE,
        group="hash",
        since="7.4.0",
        complexity="O(N) where N is the number of specified fields",
        summary="Set when fields expire, as Unix time in seconds",
        args=(KEY, UNIX_SECONDS, _CONDITION, FIELDS),
    ),
    CommandSpec(
        "hpexpireat",
        hpexpireat,
        arity=-6,
        flags=WRITE | FAST | DENYOOM | ATOMIC,
        keys=(_UPDATES,),
        acl=_FAST_WRITE,
        group="hash",
        since="7.4.0",
        complexity="O(N) where N is the number of specified fields",
        summary="Set when fields expire, as Unix time in milliseconds",
        args=(KEY, UNIX_MILLISECONDS, _CONDITION, FIELDS),
    ),
    CommandSpec(
        "httl",
        httl,
        arity=-5,
        flags=READONLY | FAST,
        keys=(_READS,),
        acl=_FAST_READ,
        group="hash",
        since="7.4.0",
        complexity="O(N) where N is the number of specified fields",
        summary="Tell how many seconds fields have left",
        args=(KEY, FIELDS),
        tips=("nondeterministic_output",),
    ),
    CommandSpec(
        "hpttl",
        hpttl,
        arity=-5,
        flags=READONLY | FAST,
        keys=(_READS,),
        acl=_FAST_READ,
        group="hash",
        since="7.4.0",
        complexity="O(N) where N is the number of specified fields",
        summary="Tell how many milliseconds fields have left",
        args=(KEY, FIELDS),
        tips=("nondeterministic_output",),
    ),
    CommandSpec(
        "hexpiretime",
        hexpiretime,
        arity=-5,
        flags=READONLY | FAST,
        keys=(_READS,),
        acl=_FAST_READ,
        group="hash",
        since="7.4.0",
        complexity="O(N) where N is the number of specified fields",
        summary="Tell when fields expire, as Unix time in seconds",
        args=(KEY, FIELDS),
    ),
    CommandSpec(
        "hpexpiretime",
        hpexpiretime,
        arity=-5,
        flags=READONLY | FAST,
        keys=(_READS,),
        acl=_FAST_READ,
        group="hash",
        since="7.4.0",
        complexity="O(N) where N is the number of specified fields",
        summary="Tell when fields expire, as Unix time in milliseconds",
        args=(KEY, FIELDS),
    ),
    CommandSpec(
        "hpersist",
        hpersist,
        arity=-5,
        flags=WRITE | FAST | ATOMIC,
        keys=(_UPDATES,),
        acl=_FAST_WRITE,
        group="hash",
        since="7.4.0",
        complexity="O(N) where N is the number of specified fields",
        summary="Remove the expiry of fields",
        args=(KEY, FIELDS),
    ),
    CommandSpec(
        "hgetdel",
        hgetdel,
        arity=-5,
        flags=WRITE | FAST | ATOMIC,
        keys=(KeySpec(flags=("RW", "access", "delete")),),
        acl=_FAST_WRITE,
        group="hash",
        since="8.0.0",
        complexity="O(N) where N is the number of specified fields",
        summary="Read fields of a hash and remove them",
        args=(KEY, FIELDS),
    ),
    CommandSpec(
        "hgetex",
        hgetex,
        arity=-5,
        flags=WRITE | FAST | ATOMIC,
        keys=(KeySpec(flags=("RW", "access", "update"), notes="RW and UPDATE because it changes the TTL"),),
        acl=_FAST_WRITE,
        group="hash",
        since="8.0.0",
        complexity="O(N) where N is the number of specified fields",
        summary="Read fields of a hash and set or remove their expiry",
        args=(
            KEY,
            EXPIRY_OR_PERSIST,
            FIELDS,
        ),
    ),
    CommandSpec(
        "hsetex",
        hsetex,
        arity=-6,
        flags=WRITE | FAST | DENYOOM | ATOMIC,
        keys=(_UPDATES,),
        acl=_FAST_WRITE,
        group="hash",
        since="8.0.0",
        complexity="O(N) where N is the number of fields being set.",
        summary="Set fields of a hash with a common expiry, if conditions hold",
        args=(
            KEY,
            one_of("condition", token("FNX"), token("FXX")),
            EXPIRY_OR_KEEP,
            counted_fields(Arg("data", ArgType.BLOCK, flags=("multiple",), args=(Arg("field"), VALUE))),
        ),
    ),
)
