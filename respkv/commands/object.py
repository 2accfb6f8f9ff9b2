"""OBJECT: what Redis would tell about how a key is held.

Encodings are answered by the rules of Redis 7.4 (``hash-max-listpack-entries`` and ``-value``, 44 bytes for embstr),
from the value as it is now; they do not describe how it is stored here. Redis also remembers how a value came to be: a
hash that once outgrew the limits stays a hashtable there when it shrinks, or when the limits are raised, and a string
changed in place is raw however short it is; a hash that had expiring fields stays a listpackex. Here all go by their
present content.
"""

from __future__ import annotations

from typing import Final

from respkv.base.ids import STRING, TOMBSTONE
from respkv.commands.argument_shapes import KEY
from respkv.commands.arguments import optional_integer
from respkv.commands.settings import Settings
from respkv.commands.spec import LOADING, READONLY, STALE, CommandSpec, KeySpec
from respkv.keyspace import effects
from respkv.keyspace.effects import Effects
from respkv.keyspace.view import HashView, View
from respkv.resp import reply
from respkv.resp.errors import fail
from respkv.resp.reply import NULL, ONE, Reply, error

NO_LFU: Final = error(
    b"ERR An LFU maxmemory policy is not selected, access frequency not tracked. Please note that when"
    b" switching between policies at runtime LRU and LFU data will take some time to adjust."
)
#: the longest string that Redis embeds
_EMBEDDED_BYTES: Final = 44
#: integers below this are shared objects, whose reference count reads as the largest int
_SHARED_INTEGERS: Final = 10_000
_SHARED_REFERENCES: Final = 2147483647

_HELP: Final = (
    b"OBJECT <subcommand> [<arg> [value] [opt] ...]. Subcommands are:",
    b"ENCODING <key>",
    b"    Return the kind of internal representation used in order to store the value",
    b"    associated with a <key>.",
    b"FREQ <key>",
    b"    Return the access frequency index of the <key>. The returned integer is",
    b"    proportional to the logarithm of the recent access frequency of the key.",
    b"IDLETIME <key>",
    b"    Return the idle time of the <key>, that is the approximated number of",
    b"    seconds elapsed since the last access to the key.",
    b"REFCOUNT <key>",
    b"    Return the number of references of the value associated with the specified",
    b"    <key>.",
    b"HELP",
    b"    Prints this help.",
)


def object_help(argv: list[bytes], view: View) -> tuple[Reply, Effects]:
    """OBJECT HELP."""
    return reply.array([reply.simple(line) for line in _HELP]), effects.NONE


def object_encoding(argv: list[bytes], view: View, settings: Settings) -> tuple[Reply, Effects]:
    """OBJECT ENCODING key."""
    key = argv[2]
    view = view.quiet()
    kind = view.kind(key)
    if kind == TOMBSTONE:
        return NULL, effects.NONE
    if kind == STRING:
        value = view.string(key) or b""
        if optional_integer(value) is not None:
            return reply.bulk(b"int"), effects.NONE
        return reply.bulk(b"embstr" if len(value) <= _EMBEDDED_BYTES else b"raw"), effects.NONE
    fields = view.hash(key)
    assert fields is not None, "an existing key is a string or a hash"
    return reply.bulk(_hash_encoding(fields, settings)), effects.NONE


def _hash_encoding(fields: HashView, settings: Settings) -> bytes:
    """At most ``hash-max-listpack-entries`` fields are looked at."""
    if fields.count() > settings.hash_listpack_entries:
        return b"hashtable"
    expiring, limit = False, settings.hash_listpack_bytes
    for field, value, expire_at_ms in fields.items():
        if len(field) > limit or len(value) > limit:
            return b"hashtable"
        expiring = expiring or bool(expire_at_ms)
    return b"listpackex" if expiring else b"listpack"


def object_refcount(argv: list[bytes], view: View) -> tuple[Reply, Effects]:
    """OBJECT REFCOUNT key: values are never shared here; small integers answer as Redis' shared ones."""
    key = argv[2]
    view = view.quiet()
    kind = view.kind(key)
    if kind == TOMBSTONE:
        return NULL, effects.NONE
    if kind == STRING:
        number = optional_integer(view.string(key) or b"")
        if number is not None and 0 <= number < _SHARED_INTEGERS:
            return reply.integer(_SHARED_REFERENCES), effects.NONE
    return ONE, effects.NONE


def object_idletime(argv: list[bytes], view: View) -> tuple[Reply, Effects]:
    """OBJECT IDLETIME key: seconds since the last access that is known, else since the key was written."""
    # Nothing else may look the key up here: that would be an access.
    last_ms = view.last_access_ms(argv[2])
    if last_ms is None:
        return NULL, effects.NONE
    return reply.integer(max(view.now_ms - last_ms, 0) // 1000), effects.NONE


def object_freq(argv: list[bytes], view: View) -> tuple[Reply, Effects]:
    """OBJECT FREQ key: always the error of a server without an LFU policy, for a key that exists."""
    if view.quiet().kind(argv[2]) == TOMBSTONE:
        return NULL, effects.NONE
    raise fail(NO_LFU)


OBJECT: Final = CommandSpec(
    "object",
    None,
    arity=-2,
    acl=("slow",),
    group="generic",
    since="2.2.3",
    complexity="Depends on subcommand",
    summary="Container of commands that describe how a value is held",
    subcommands=(
        CommandSpec(
            "object|encoding",
            object_encoding,
            arity=3,
            flags=READONLY,
            keys=(KeySpec(first=2, last=2, flags=("RO",)),),
            acl=("keyspace", "read", "slow"),
            group="generic",
            since="2.2.3",
            complexity="O(1)",
            summary="The encoding Redis would use for a value",
            settings=True,
            args=(KEY,),
            tips=("nondeterministic_output",),
        ),
        CommandSpec(
            "object|freq",
            object_freq,
            arity=3,
            flags=READONLY,
            keys=(KeySpec(first=2, last=2, flags=("RO",)),),
            acl=("keyspace", "read", "slow"),
            group="generic",
            since="4.0.0",
            complexity="O(1)",
            summary="The access frequency of a key, where it is tracked",
            args=(KEY,),
            tips=("nondeterministic_output",),
        ),
        CommandSpec(
            "object|help",
            object_help,
            arity=2,
            flags=LOADING | STALE,
            acl=("keyspace", "slow"),
            group="generic",
            since="6.2.0",
            complexity="O(1)",
            summary="List the subcommands",
        ),
        CommandSpec(
            "object|idletime",
            object_idletime,
            arity=3,
            flags=READONLY,
            keys=(KeySpec(first=2, last=2, flags=("RO",)),),
            acl=("keyspace", "read", "slow"),
            group="generic",
            since="2.2.3",
            complexity="O(1)",
            summary="Seconds since a key was last used",
            args=(KEY,),
            tips=("nondeterministic_output",),
        ),
        CommandSpec(
            "object|refcount",
            object_refcount,
            arity=3,
            flags=READONLY,
            keys=(KeySpec(first=2, last=2, flags=("RO",)),),
            acl=("keyspace", "read", "slow"),
            group="generic",
            since="2.2.3",
            complexity="O(1)",
            summary="The number of references to a value",
            args=(KEY,),
            tips=("nondeterministic_output",),
        ),
    ),
)
