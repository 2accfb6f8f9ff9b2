"""Keys of any type: DEL, EXISTS, TYPE, RENAME, COPY, MOVE."""

from __future__ import annotations

from typing import Final

from respkv.base.ids import HASH, STRING, TOMBSTONE, TYPE_NAMES
from respkv.commands.argument_shapes import KEY
from respkv.commands.arguments import small_integer
from respkv.commands.object import OBJECT
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
from respkv.keyspace.effects import Effect, Effects
from respkv.keyspace.view import View
from respkv.resp import errors, reply
from respkv.resp.errors import fail
from respkv.resp.reply import OK, ONE, ZERO, Reply


def delete(argv: list[bytes], view: View) -> tuple[Reply, Effects]:
    """DEL, UNLINK key [key ...]: how many there were; a key named twice is deleted once."""
    found = [key for key in dict.fromkeys(argv[1:]) if view.kind(key) != TOMBSTONE]
    return reply.integer(len(found)), [effects.delete(view.db, key) for key in found]


def exists(argv: list[bytes], view: View) -> tuple[Reply, Effects]:
    """EXISTS key [key ...]: how many of the names exist; a key named twice counts twice."""
    return touch(argv, view.quiet())


def touch(argv: list[bytes], view: View) -> tuple[Reply, Effects]:
    """TOUCH key [key ...]: as EXISTS, and a use of each key."""
    return reply.integer(sum(view.kind(key) != TOMBSTONE for key in argv[1:])), effects.NONE


def type_(argv: list[bytes], view: View) -> tuple[Reply, Effects]:
    """TYPE key."""
    return reply.simple(TYPE_NAMES[view.quiet().kind(argv[1])]), effects.NONE


def transcript(source: View, key: bytes, target_db: int, target_key: bytes) -> list[Effect]:
    """Effects that make ``target_key`` what ``key`` is, expiries included, whatever it was before.

    ``key`` exists. A collection is written element by element: O(elements).
    """
    expire_at_ms = source.expire_at(key) or 0
    if source.kind(key) == STRING:
        return [effects.put(target_db, target_key, source.string(key) or b"", expire_at_ms)]
    fields = source.hash(key)
    assert fields is not None, "an existing key is a string or a hash"
    written = [effects.delete(target_db, target_key)]
    written += [
        effects.put_element(target_db, target_key, HASH, field, value, field_expire_at_ms)
        for field, value, field_expire_at_ms in fields.items()
    ]
    if expire_at_ms:
        written.append(effects.expire(target_db, target_key, expire_at_ms))
    return written


def rename(argv: list[bytes], view: View) -> tuple[Reply, Effects]:
    """RENAME key newkey. O(elements) for a collection."""
    _, key, target = argv
    if view.kind(key) == TOMBSTONE:
        raise fail(errors.NO_SUCH_KEY)
    if key == target:
        return OK, effects.NONE
    return OK, [*transcript(view, key, view.db, target), effects.delete(view.db, key)]


def renamenx(argv: list[bytes], view: View) -> tuple[Reply, Effects]:
    """RENAMENX key newkey: 0 when newkey exists. O(elements) for a collection."""
    _, key, target = argv
    if view.kind(key) == TOMBSTONE:
        raise fail(errors.NO_SUCH_KEY)
    if view.kind(target) != TOMBSTONE:
        return ZERO, effects.NONE
    return ONE, [*transcript(view, key, view.db, target), effects.delete(view.db, key)]


def _database(arg: bytes, view: View) -> View:
    number = small_integer(arg)
    if not 0 <= number < view.databases:
        raise fail(errors.DB_INDEX)
    return view.other(number)


def copy(argv: list[bytes], view: View) -> tuple[Reply, Effects]:
    """COPY source destination [DB n] [REPLACE]: 1 when copied. O(elements) for a collection."""
    key, target = argv[1], argv[2]
    other, replace = view, False
    index = 3
    while index < len(argv):
        word = argv[index].upper()
        if word == b"REPLACE":
            replace = True
        elif word == b"DB" and index + 1 < len(argv):
            index += 1
            other = _database(argv[index], view)
        else:
            raise fail(errors.SYNTAX)
        index += 1
    if other.db == view.db and key == target:
        raise fail(errors.SAME_OBJECT)
    if view.kind(key) == TOMBSTONE or (not replace and other.kind(target) != TOMBSTONE):
        return ZERO, effects.NONE
    return ONE, transcript(view, key, other.db, target)


def move(argv: list[bytes], view: View) -> tuple[Reply, Effects]:
    """MOVE key db: 1 when moved, 0 when absent here or present there. O(elements) for a collection."""
    key = argv[1]
    other = _database(argv[2], view)
    if other.db == view.db:
        raise fail(errors.SAME_OBJECT)
    if view.kind(key) == TOMBSTONE or other.kind(key) != TOMBSTONE:
        return ZERO, effects.NONE
    return ONE, [*transcript(view, key, other.db, key), effects.delete(view.db, key)]


COMMANDS: Final = (
    CommandSpec(
        "del",
        delete,
        arity=-2,
        flags=WRITE,
        keys=(KeySpec(last=-1, flags=("RM", "delete")),),
        acl=("keyspace", "write", "slow"),
        group="generic",
        since="1.0.0",
        complexity=(
            "O(N) where N is the number of keys that will be removed. When a key to remove holds a "
            "value other than a string, the individual complexity for this key is O(M) where M is "
            "the number of elements in the list, set, sorted set or hash. Removing a single key that "
            "holds a string value is O(1)."
        ),
        summary="Delete keys",
        args=(Arg("key", ArgType.KEY, flags=("multiple",), key_spec=0),),
        tips=("request_policy:multi_shard", "response_policy:agg_sum"),
    ),
    CommandSpec(
        "unlink",
        delete,
        arity=-2,
        flags=WRITE | FAST,
        keys=(KeySpec(last=-1, flags=("RM", "delete")),),
        acl=("keyspace", "write", "fast"),
        group="generic",
        since="4.0.0",
        complexity=(
            "O(1) for each key removed regardless of its size. Then the command does O(N) work in a "
            "different thread in order to reclaim memory, where N is the number of allocations the "
            "deleted objects where composed of."
        ),
        summary="Delete keys, leaving the reclaiming of space for later",
        args=(Arg("key", ArgType.KEY, flags=("multiple",), key_spec=0),),
        tips=("request_policy:multi_shard", "response_policy:agg_sum"),
    ),
    CommandSpec(
        "exists",
        exists,
        arity=-2,
        flags=READONLY | FAST,
        keys=(KeySpec(last=-1, flags=("RO",)),),
        acl=("keyspace", "read", "fast"),
        group="generic",
        since="1.0.0",
        complexity="O(N) where N is the number of keys to check.",
        summary="Count how many of the given keys exist",
        args=(Arg("key", ArgType.KEY, flags=("multiple",), key_spec=0),),
        tips=("request_policy:multi_shard", "response_policy:agg_sum"),
        history=(("3.0.3", "Accepts multiple key arguments."),),
    ),
    CommandSpec(
        "touch",
        touch,
        arity=-2,
        flags=READONLY | FAST,
        keys=(KeySpec(last=-1, flags=("RO",)),),
        acl=("keyspace", "read", "fast"),
        group="generic",
        since="3.2.1",
        complexity="O(N) where N is the number of keys that will be touched.",
        summary="Count how many of the given keys exist and mark them as used",
        args=(Arg("key", ArgType.KEY, flags=("multiple",), key_spec=0),),
        tips=("request_policy:multi_shard", "response_policy:agg_sum"),
    ),
    CommandSpec(
        "type",
        type_,
        arity=2,
        flags=READONLY | FAST,
        keys=(KeySpec(flags=("RO",)),),
        acl=("keyspace", "read", "fast"),
        group="generic",
        since="1.0.0",
        complexity="O(1)",
        summary="The type of the value of a key",
        args=(KEY,),
    ),
    CommandSpec(
        "rename",
        rename,
        arity=3,
        flags=WRITE | ATOMIC,
        keys=(KeySpec(flags=("RW", "access", "delete")), KeySpec(first=2, last=2, flags=("OW", "update"))),
        acl=("keyspace", "write", "slow"),
        group="generic",
        since="1.0.0",
        complexity="O(1)",
        summary="Give a key another name, replacing what had that name",
        args=(
            KEY,
            Arg("newkey", ArgType.KEY, key_spec=1),
        ),
    ),
    CommandSpec(
        "renamenx",
        renamenx,
        arity=3,
        flags=WRITE | FAST | ATOMIC,
        keys=(KeySpec(flags=("RW", "access", "delete")), KeySpec(first=2, last=2, flags=("OW", "insert"))),
        acl=("keyspace", "write", "fast"),
        group="generic",
        since="1.0.0",
        complexity="O(1)",
        summary="Give a key another name unless that name is taken",
        args=(
            KEY,
            Arg("newkey", ArgType.KEY, key_spec=1),
        ),
        history=(("3.2.0", "No error any more when source and destination names are the same."),),
    ),
    CommandSpec(
        "copy",
        copy,
        arity=-3,
        flags=WRITE | DENYOOM | ATOMIC,
        keys=(KeySpec(flags=("RO", "access")), KeySpec(first=2, last=2, flags=("OW", "update"))),
        acl=("keyspace", "write", "slow"),
        group="generic",
        since="6.2.0",
        complexity=(
            "O(N) worst case for collections, where N is the number of nested items. O(1) for string values."
        ),
        summary="Copy a key to another name or database",
        args=(
            Arg("source", ArgType.KEY, key_spec=0),
            Arg("destination", ArgType.KEY, key_spec=1),
            Arg("destination-db", ArgType.INTEGER, token="DB", flags=("optional",)),
            Arg("replace", ArgType.PURE_TOKEN, token="REPLACE", flags=("optional",)),
        ),
    ),
    CommandSpec(
        "move",
        move,
        arity=3,
        flags=WRITE | FAST | ATOMIC,
        keys=(KeySpec(flags=("RW", "access", "update")),),
        acl=("keyspace", "write", "fast"),
        group="generic",
        since="1.0.0",
        complexity="O(1)",
        summary="Move a key to another database",
        args=(
            KEY,
            Arg("db", ArgType.INTEGER),
        ),
    ),
    OBJECT,
)
