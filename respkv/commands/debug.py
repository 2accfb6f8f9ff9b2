"""DEBUG: switches and probes for tests. Who may use it is up to ``enable-debug-command``.

DIGEST-VALUE follows Redis (debug.c): SHA-1 digests mixed so that the order of a hash's fields does not matter.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Final

from xxhash import xxh3_64_intdigest

from respkv.base.ids import HASH, STRING, TOMBSTONE
from respkv.base.slots import SLOT_COUNT
from respkv.commands.arguments import floating, integer
from respkv.commands.client_line import is_local
from respkv.commands.glob import matches
from respkv.commands.help_text import bad_subcommand, help_reply
from respkv.commands.object import object_encoding
from respkv.commands.populate import populate
from respkv.commands.ring import NO_RING, formed, ring_of
from respkv.commands.session import Pending, Session
from respkv.commands.spec import ADMIN, BARRIER, LOADING, NOSCRIPT, STALE, CommandSpec, Form
from respkv.keyspace.view import View
from respkv.resp import errors
from respkv.resp.errors import fail
from respkv.resp.reply import (
    NULL,
    OK,
    Double,
    Push,
    Reply,
    SetReply,
    Verbatim,
    array,
    boolean,
    bulk,
    encode,
    error,
    simple,
)
from respkv.resp.reply import (
    integer as number,
)

NOT_ALLOWED: Final = error(
    b'ERR DEBUG command not allowed. If the enable-debug-command option is set to "local", you can run it from a'
    b" local connection, otherwise you need to set this option in the configuration file, and then restart the"
    b" server."
)
NO_RELOAD_OPTIONS: Final = error(b"ERR DEBUG RELOAD takes no options here")
PUSH_NEEDS_RESP3: Final = error(b"ERR RESP2 is not supported by this command")
_TYPES: Final = b"string|integer|double|bignum|null|array|set|map|attrib|push|verbatim|true|false"
BAD_TYPE: Final = error(b"ERR Wrong protocol type name. Please use one of the following: " + _TYPES)
_LONGEST_SLEEP_S: Final = 1_000_000
_BIG_NUMBER: Final = b"1234567999999999999999999999999999999"
_FUZZ_ROUNDS: Final = 2000
#: debug.c mixes the type of the value in; strings are 0, hashes 4
_TYPE_NUMBERS: Final = {STRING: 0, HASH: 4}
_DIGEST_BYTES: Final = 20

Subcommand = Callable[[list[bytes], Session], Reply | Pending | None]


def debug(argv: list[bytes], session: Session) -> Reply | Pending | None:
    """DEBUG subcommand ..."""
    gate = session.server.config.string("enable-debug-command")
    if gate != "yes" and not (gate == "local" and is_local(session)):
        raise fail(NOT_ALLOWED)
    found = _SUBCOMMANDS.get(argv[1].lower())
    if found is not None:
        handler, least, most = found
        if least <= len(argv) <= most:
            return handler(argv, session)
    raise bad_subcommand("DEBUG", argv[1])


def _sleep(argv: list[bytes], session: Session) -> Reply | Pending:
    """Nobody is served for so many seconds; the answer comes at their end."""
    seconds = min(max(floating(argv[2]), 0.0), _LONGEST_SLEEP_S)
    server = session.server
    duration_us = int(seconds * 1_000_000)
    server.stall_until(server.clock.monotonic_us() + duration_us)
    if duration_us >= server.slow_us:
        server.slow_command(session, argv, duration_us)  # As in Redis, where it is the command that sleeps.
    if session.multi is not None:
        return OK
    pending = Pending()
    server.after_us(duration_us, lambda: pending.complete(OK))
    return pending


def _switch(argument: bytes) -> bool:
    return integer(argument) != 0


def _set_active_expire(argv: list[bytes], session: Session) -> Reply:
    session.server.active_expire = _switch(argv[2])
    return OK


def _reload(argv: list[bytes], session: Session) -> Reply | Pending:
    """Everything goes to tables and is read from there again."""
    if len(argv) > 2:
        raise fail(NO_RELOAD_OPTIONS)
    if session.multi is not None:
        raise fail(errors.NOT_IN_MULTI)
    pending = Pending()
    session.server.reload(
        lambda problem: pending.complete(error(b"ERR Error trying to reload: %b" % problem.encode()) if problem else OK)
    )
    return pending if pending.reply is None else pending.reply


def _view(session: Session) -> View:
    server = session.server
    keyspace = server.keyspace
    view = View(keyspace, keyspace.stored[session.db], server.rng, server.config.integer("proto-max-bulk-len"))
    return view.quiet()


def _object(argv: list[bytes], session: Session) -> Reply:
    view = _view(session)
    key = argv[2]
    kind = view.kind(key)
    if kind == TOMBSTONE:
        raise fail(errors.NO_SUCH_KEY)
    encoding, _ = object_encoding([b"OBJECT", b"ENCODING", key], view, session.server.table.settings)
    assert isinstance(encoding, bytes), "an encoding is a finished bulk"
    now_ms = view.now_ms
    idle_s = max(0, now_ms - (view.last_access_ms(key) or now_ms)) // 1000
    if kind == STRING:
        length = len(view.string(key) or b"")
    else:
        fields = view.hash(key)
        length = 0 if fields is None else sum(len(field) + len(value) for field, value, _ in fields.items())
    return simple(
        b"Value at:0x0 refcount:1 encoding:%b serializedlength:%d lru:%d lru_seconds_idle:%d"
        % (encoding.split(b"\r\n")[1], length, (now_ms // 1000 - idle_s) & 0xFFFFFF, idle_s)
    )


def _xor(digest: bytes, data: bytes) -> bytes:
    mixed = int.from_bytes(digest, "big") ^ int.from_bytes(hashlib.sha1(data).digest(), "big")
    return mixed.to_bytes(_DIGEST_BYTES, "big")


def _mix(digest: bytes, data: bytes) -> bytes:
    return hashlib.sha1(_xor(digest, data)).digest()


def digest_value(view: View, key: bytes) -> bytes:
    """20 bytes that are equal for equal values, wherever and however they are kept. O(size of the value)."""
    digest = bytes(_DIGEST_BYTES)
    kind = view.kind(key)
    if kind == TOMBSTONE:
        return digest
    digest = _mix(digest, _TYPE_NUMBERS[kind].to_bytes(4, "big"))
    if kind == STRING:
        digest = _mix(digest, view.string(key) or b"")
    else:
        fields = view.hash(key)
        for field, value, _ in fields.items() if fields is not None else ():
            digest = _xor(digest, _mix(_mix(bytes(_DIGEST_BYTES), field), value))
    return _xor(digest, b"!!expire!!") if view.expire_at(key) else digest


def _digest_value(argv: list[bytes], session: Session) -> Reply:
    view = _view(session)
    return array([simple(digest_value(view, key).hex().encode()) for key in argv[2:]])


def _stringmatch_test(argv: list[bytes], session: Session) -> Reply:
    """Random patterns against random texts: none may raise, and a text in escapes matches itself."""
    rng = session.server.rng
    for _ in range(_FUZZ_ROUNDS):
        text = bytes(rng.choices(b"ab*?[]^-\\\x00\xff", k=rng.randrange(16)))
        pattern = bytes(rng.choices(b"ab*?[]^-\\", k=rng.randrange(16)))
        matches(pattern, text)
        escaped = b"".join([b"\\%c" % byte for byte in text])
        if not matches(escaped, text):
            return error(b"ERR pattern %b does not match itself" % escaped)
    return simple(b"Apparently the server did not crash: test passed")


def _error(argv: list[bytes], session: Session) -> Reply:
    return error(argv[2])


def _log(argv: list[bytes], session: Session) -> Reply:
    session.server.log("warning", "DEBUG LOG: " + argv[2].decode("utf-8", "backslashreplace"))
    return OK


def _protocol(argv: list[bytes], session: Session) -> Reply:
    """One value of each type, for tests of clients."""
    name, resp3 = argv[2].lower(), session.proto == 3
    if name == b"string":
        return bulk(b"Hello World")
    if name == b"integer":
        return number(12345)
    if name == b"double":
        return Double(3.141)
    if name == b"bignum":
        return b"(%b\r\n" % _BIG_NUMBER if resp3 else bulk(_BIG_NUMBER)
    if name == b"null":
        return NULL
    if name in (b"array", b"set"):
        items = [number(item) for item in range(3)]
        return array(items) if name == b"array" else SetReply(items)
    if name == b"map":
        pairs = b"".join([number(item) + _boolean(item == 1, session) for item in range(3)])
        return (b"%3\r\n" if resp3 else b"*6\r\n") + pairs
    if name == b"attrib":
        rest = bulk(b"Some real reply following the attribute")
        popularity = b"|1\r\n" + bulk(b"key-popularity") + b"*2\r\n" + bulk(b"key:123") + number(90)
        return popularity + rest if resp3 else rest
    if name == b"push":
        if not resp3:
            raise fail(PUSH_NEEDS_RESP3)
        usage = encode(Push([bulk(b"server-cpu-usage"), number(42)]), 3)
        return usage + bulk(b"Some real reply following the push reply")
    if name == b"verbatim":
        return Verbatim(b"This is a verbatim\nstring")
    if name in (b"true", b"false"):
        return _boolean(name == b"true", session)
    raise fail(BAD_TYPE)


def _merkle(argv: list[bytes], session: Session) -> Reply:
    """DEBUG MERKLE [slot]: (1 when all that is stored is summed, else 0 and ask again; the Merkle root that this node
    has of the slot, or of all slots that it holds a copy of)."""
    port = ring_of(session.server)
    found = None if port is None else formed(port)
    if found is None:
        raise fail(NO_RING)
    slot = None if len(argv) == 2 else integer(argv[2])
    if slot is not None and not 0 <= slot < SLOT_COUNT:
        raise fail(error(b"ERR Invalid slot"))
    exact, roots = found.port.repair.verify(slot)
    joined = b"".join(b"%d:%016x " % row for row in sorted(roots.items()))
    root = roots[slot] if slot is not None else xxh3_64_intdigest(joined)
    return array([number(int(exact)), bulk(b"%016x" % root)])


def _boolean(value: bool, session: Session) -> bytes:
    if session.proto == 3:
        return b"#t\r\n" if value else b"#f\r\n"
    return encode(boolean(value), 2)


def _help(argv: list[bytes], session: Session) -> Reply:
    return help_reply(
        "DEBUG",
        (
            "DIGEST-VALUE <key> [<key> ...]",
            "    Output a hex signature of the values of all the specified keys.",
            "ERROR <string>",
            "    Return a Redis protocol error with <string> as message. Useful for clients",
            "    unit tests to simulate Redis errors.",
            "LOADAOF",
            "    Like RELOAD.",
            "LOG <message>",
            "    Write <message> to the server log.",
            "MERKLE [<slot>]",
            "    Whether all that is stored is summed, and the Merkle root of the slot, or of all.",
            "OBJECT <key>",
            "    Show low level info about `key` and associated value.",
            "POPULATE <count> [<prefix>] [<size>]",
            "    Create <count> string keys named key:<num>. If <prefix> is specified then",
            "    it is used instead of the 'key' prefix. Values are value:<num>, with <size>",
            "    cut or zero-filled to that many bytes. Keys that exist are left alone.",
            "PROTOCOL <type>",
            "    Reply with a test value of the specified type. <type> can be: string,",
            "    integer, double, bignum, null, array, set, map, attrib, push, verbatim,",
            "    true, false.",
            "RELOAD",
            "    Write everything to tables, drop all caches and read from there again.",
            "SET-ACTIVE-EXPIRE <0|1>",
            "    Setting it to 0 disables expiring keys in background when they are not",
            "    accessed. Setting it to 1 reenables back the default.",
            "SLEEP <seconds>",
            "    Stop the server for <seconds>. Decimals allowed.",
            "STRINGMATCH-TEST",
            "    Run a fuzz test against the glob matcher.",
        ),
    )


_MANY: Final = 1 << 30
#: name -> handler, fewest and most words
_SUBCOMMANDS: Final[dict[bytes, tuple[Subcommand, int, int]]] = {
    b"digest-value": (_digest_value, 2, _MANY),
    b"error": (_error, 3, 3),
    b"help": (_help, 2, 2),
    b"loadaof": (_reload, 2, 2),
    b"log": (_log, 3, 3),
    b"merkle": (_merkle, 2, 3),
    b"object": (_object, 3, 3),
    b"populate": (populate, 3, 5),
    b"protocol": (_protocol, 3, 3),
    b"reload": (_reload, 2, _MANY),
    b"set-active-expire": (_set_active_expire, 3, 3),
    b"sleep": (_sleep, 3, 3),
    b"stringmatch-test": (_stringmatch_test, 2, 2),
}

COMMANDS: Final = (
    CommandSpec(
        "debug", debug, -2, ADMIN | NOSCRIPT | LOADING | STALE | BARRIER, acl=("admin", "slow", "dangerous"),
        form=Form.SESSION, group="server", complexity="Depends on subcommand.",
        summary="A container for debugging commands.",
    ),
)  # fmt: skip
