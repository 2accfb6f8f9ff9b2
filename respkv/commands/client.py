"""CLIENT: names, lists, kills and pauses connections.

Client-side caching is not offered: TRACKING ON is a clear error, and what only makes sense with it answers
as Redis does on a connection that does not track.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from respkv.commands.arguments import INT64_MAX, integer
from respkv.commands.client_line import client_kind, client_line, valid_name
from respkv.commands.client_rows import rows
from respkv.commands.connection import BAD_NAME, DEFAULT_USER
from respkv.commands.help_text import bad_subcommand, help_reply
from respkv.commands.ring import follow_name, level_in_name
from respkv.commands.session import Session
from respkv.commands.spec import CommandSpec, Form
from respkv.resp import errors
from respkv.resp.errors import fail
from respkv.resp.reply import (
    EMPTY_ARRAY,
    NULL,
    OK,
    Map,
    Reply,
    SetReply,
    Verbatim,
    boolean,
    bulk,
    error,
)
from respkv.resp.reply import (
    integer as number,
)

NO_SUCH_CLIENT: Final = error(b"ERR No such client")
BAD_CLIENT_ID: Final = error(b"ERR client-id should be greater than 0")
INVALID_CLIENT_ID: Final = error(b"ERR Invalid client ID")
BAD_MAXAGE: Final = error(b"ERR maxage is not an integer or out of range")
TIMEOUT_RANGE: Final = error(b"ERR timeout is out of range")
BAD_REASON: Final = error(b"ERR CLIENT UNBLOCK reason should be TIMEOUT or ERROR")
UNBLOCKED: Final = error(b"UNBLOCKED client unblocked via CLIENT UNBLOCK")
NOT_TRACKING: Final = error(
    b"ERR CLIENT CACHING can be called only when the client is in tracking mode with OPTIN or OPTOUT mode enabled"
)
NO_TRACKING: Final = error(b"ERR client-side caching is not supported: CLIENT TRACKING can only be OFF")
_PAUSE_MODES: Final = ("", "write", "all")

Filter = Callable[[Session], bool]


# -- this connection -------------------------------------------------------------------------------


def client_id(argv: list[bytes], session: Session) -> Reply:
    """CLIENT ID"""
    return number(session.id)


def client_info(argv: list[bytes], session: Session) -> Reply:
    """CLIENT INFO: this connection's line of CLIENT LIST."""
    return Verbatim(client_line(session, now_us=session.server.clock.monotonic_us()))


def client_getname(argv: list[bytes], session: Session) -> Reply:
    """CLIENT GETNAME"""
    return bulk(session.name) if session.name else NULL


def client_setname(argv: list[bytes], session: Session) -> Reply:
    """CLIENT SETNAME connection-name; an empty one removes it. On a ring it may choose a level, ``app;level=all``."""
    if not valid_name(argv[2]):
        raise fail(BAD_NAME)
    follow_name(session, level_in_name(session, argv[2]))
    session.name = argv[2]
    return OK


def client_setinfo(argv: list[bytes], session: Session) -> Reply:
    """CLIENT SETINFO LIB-NAME | LIB-VER value"""
    option = argv[2].lower()
    if option not in (b"lib-name", b"lib-ver"):
        raise fail(error(b"ERR Unrecognized option '%b'" % argv[2][:128]))
    if not valid_name(argv[3]):
        raise fail(error(b"ERR %b cannot contain spaces, newlines or special characters." % argv[2]))
    if option == b"lib-name":
        session.lib_name = argv[3]
    else:
        session.lib_ver = argv[3]
    return OK


def client_reply(argv: list[bytes], session: Session) -> Reply | None:
    """CLIENT REPLY ON | OFF | SKIP: only ON answers."""
    mode = argv[2].upper()
    if mode == b"ON":
        session.reply_mode = "on"
        session.recompute_plain()
        return OK
    if mode == b"OFF":
        session.reply_mode = "off"
    elif mode != b"SKIP":
        raise fail(errors.SYNTAX)
    elif session.reply_mode == "on":
        session.skip_next = True
    session.recompute_plain()
    return None


def _switch(argument: bytes) -> bool:
    word = argument.upper()
    if word not in (b"ON", b"OFF"):
        raise fail(errors.SYNTAX)
    return word == b"ON"


def client_no_evict(argv: list[bytes], session: Session) -> Reply:
    """CLIENT NO-EVICT ON | OFF: noted; connections are not evicted for memory here."""
    session.no_evict = _switch(argv[2])
    return OK


def client_no_touch(argv: list[bytes], session: Session) -> Reply:
    """CLIENT NO-TOUCH ON | OFF: whether look-ups of this connection are uses of the keys; TOUCH always is one."""
    session.no_touch = _switch(argv[2])
    session.recompute_plain()
    return OK


def client_tracking(argv: list[bytes], session: Session) -> Reply:
    """CLIENT TRACKING OFF"""
    if _switch(argv[2]):
        raise fail(NO_TRACKING)
    return OK


def client_trackinginfo(argv: list[bytes], session: Session) -> Reply:
    """CLIENT TRACKINGINFO: it is off."""
    return Map(
        [
            (bulk(b"flags"), SetReply([bulk(b"off")])),
            (bulk(b"redirect"), number(-1)),
            (bulk(b"prefixes"), EMPTY_ARRAY),
        ]
    )


def client_caching(argv: list[bytes], session: Session) -> Reply:
    """CLIENT CACHING YES | NO: only possible on a tracking connection."""
    raise fail(NOT_TRACKING)


def client_getredir(argv: list[bytes], session: Session) -> Reply:
    """CLIENT GETREDIR: -1, this connection does not track."""
    return number(-1)


# -- other connections -----------------------------------------------------------------------------


def _kind(argument: bytes) -> bytes:
    kind = argument.lower()
    if kind not in (b"normal", b"pubsub", b"master", b"replica", b"slave"):
        raise fail(error(b"ERR Unknown client type '%b'" % argument[:128]))
    return kind


def client_list(argv: list[bytes], session: Session) -> Reply:
    """CLIENT LIST [TYPE type] [ID id ...]: one line per connection, oldest first."""
    server = session.server
    chosen = list(server.sessions.values())
    if len(argv) > 2:
        word = argv[2].upper()
        if word == b"TYPE" and len(argv) == 4:
            kind = _kind(argv[3])
            chosen = [other for other in chosen if client_kind(other) == kind]
        elif word == b"ID" and len(argv) > 3:
            found = [server.sessions.get(integer(argument, INVALID_CLIENT_ID)) for argument in argv[3:]]
            chosen = [other for other in found if other is not None]
        else:
            raise fail(errors.SYNTAX)
    now_us = server.clock.monotonic_us()
    return Verbatim(b"".join([client_line(other, now_us=now_us) for other in chosen]))


def client_kill(argv: list[bytes], session: Session) -> Reply:
    """CLIENT KILL addr:port, or filters that all must hold; then how many were killed."""
    sessions = list(session.server.sessions.values())
    if len(argv) == 3:
        address = argv[2].decode("utf-8", "surrogateescape")
        for other in sessions:
            if other.address == address:
                _kill(other, session)
                return OK
        raise fail(NO_SUCH_CLIENT)
    filters, skip_me = _kill_filters(argv, session)
    killed = 0
    for other in sessions:
        if not (other is session and skip_me) and all(wanted(other) for wanted in filters):
            _kill(other, session)
            killed += 1
    return number(killed)


def _kill(other: Session, session: Session) -> None:
    # One's own connection ends behind its reply.
    other.sink.close(after_output=other is session)


def _kill_filters(argv: list[bytes], session: Session) -> tuple[list[Filter], bool]:
    filters: list[Filter] = []
    skip_me = True
    at = 2
    while at < len(argv):
        if at + 1 >= len(argv):
            raise fail(errors.SYNTAX)
        word, value = argv[at].upper(), argv[at + 1]
        if word == b"SKIPME":
            if value.upper() not in (b"YES", b"NO"):
                raise fail(errors.SYNTAX)
            skip_me = value.upper() == b"YES"
        else:
            filters.append(_kill_filter(word, value, session))
        at += 2
    return filters, skip_me


def _kill_filter(word: bytes, value: bytes, session: Session) -> Filter:
    text = value.decode("utf-8", "surrogateescape")
    if word == b"ID":
        ident = integer(value, BAD_CLIENT_ID)
        if ident < 1:
            raise fail(BAD_CLIENT_ID)
        return lambda other: other.id == ident
    if word == b"ADDR":
        return lambda other: other.address == text
    if word == b"LADDR":
        return lambda other: other.local_address == text
    if word == b"USER":
        if value != DEFAULT_USER:
            raise fail(error(b"ERR No such user '%b'" % value[:128]))
        return lambda other: other.user == value
    if word == b"TYPE":
        kind = _kind(value)
        return lambda other: client_kind(other) == kind
    if word == b"MAXAGE":
        age_s = integer(value, BAD_MAXAGE)
        if age_s < 1:
            raise fail(BAD_MAXAGE)
        now_us = session.server.clock.monotonic_us()
        return lambda other: now_us - other.created_us >= age_s * 1_000_000
    raise fail(errors.SYNTAX)


def client_pause(argv: list[bytes], session: Session) -> Reply:
    """CLIENT PAUSE timeout [WRITE | ALL]: of two pauses the longer and stricter holds."""
    server = session.server
    if len(argv) > 4:
        raise bad_subcommand("CLIENT", argv[1])
    mode = argv[3].lower().decode("latin-1") if len(argv) == 4 else "all"
    if mode not in ("write", "all"):
        raise fail(error(b"ERR CLIENT PAUSE mode must be WRITE or ALL"))
    timeout_ms = integer(argv[2], errors.TIMEOUT_NOT_INTEGER)
    if timeout_ms < 0:
        raise fail(errors.TIMEOUT_NEGATIVE)
    if timeout_ms > INT64_MAX // 1000:
        raise fail(TIMEOUT_RANGE)
    clock = server.clock
    server.pause_until_us = max(server.pause_until_us, clock.monotonic_us() + timeout_ms * 1000)
    if _PAUSE_MODES.index(mode) > _PAUSE_MODES.index(server.pause_mode):
        server.pause_mode = mode
    server.recompute_plain()

    def end() -> None:
        # Another pause may have made it longer, or UNPAUSE may have ended it.
        if server.pause_mode and clock.monotonic_us() >= server.pause_until_us:
            server.end_pause()

    server.after_us(timeout_ms * 1000, end)
    return OK


def client_unpause(argv: list[bytes], session: Session) -> Reply:
    """CLIENT UNPAUSE"""
    session.server.end_pause()
    return OK


def client_unblock(argv: list[bytes], session: Session) -> Reply:
    """CLIENT UNBLOCK client-id [TIMEOUT | ERROR]: 1 when that client was blocked."""
    refusal: bytes | None = None
    if len(argv) > 4:
        raise bad_subcommand("CLIENT", argv[1])
    if len(argv) == 4:
        reason = argv[3].upper()
        if reason not in (b"TIMEOUT", b"ERROR"):
            raise fail(BAD_REASON)
        refusal = UNBLOCKED if reason == b"ERROR" else None
    other = session.server.sessions.get(integer(argv[2]))
    if other is None or other.blocked is None or other.blocked.on_unblock is None:
        return boolean(False)
    other.blocked.on_unblock(refusal)
    return boolean(True)


def client_help(argv: list[bytes], session: Session) -> Reply:
    """CLIENT HELP"""
    return help_reply("CLIENT", _HELP)


_HELP: Final = (
    "CACHING (YES|NO)",
    "    Needs a tracking connection; there are none here.",
    "GETREDIR",
    "    Return the client ID we are redirecting to when tracking is enabled.",
    "GETNAME",
    "    Return the name of the current connection.",
    "ID",
    "    Return the ID of the current connection.",
    "INFO",
    "    Return information about the current client connection.",
    "KILL <ip:port>",
    "    Kill connection made from <ip:port>.",
    "KILL <option> <value> [<option> <value> [...]]",
    "    Kill connections. Options are:",
    "    * ADDR (<ip:port>|<unixsocket>:0)",
    "      Kill connections made from the specified address",
    "    * LADDR (<ip:port>|<unixsocket>:0)",
    "      Kill connections made to specified local address",
    "    * TYPE (NORMAL|MASTER|REPLICA|PUBSUB)",
    "      Kill connections by type.",
    "    * USER <username>",
    "      Kill connections authenticated by <username>.",
    "    * SKIPME (YES|NO)",
    "      Skip killing current connection (default: yes).",
    "    * ID <client-id>",
    "      Kill connections by client id.",
    "    * MAXAGE <maxage>",
    "      Kill connections older than the specified age.",
    "LIST [options ...]",
    "    Return information about client connections. Options:",
    "    * TYPE (NORMAL|MASTER|REPLICA|PUBSUB)",
    "      Return clients of specified type.",
    "    * ID <client-id> [<client-id> ...]",
    "      Return clients with these ids.",
    "UNPAUSE",
    "    Stop the current client pause, resuming traffic.",
    "PAUSE <timeout> [WRITE|ALL]",
    "    Suspend all, or just write, clients for <timeout> milliseconds.",
    "REPLY (ON|OFF|SKIP)",
    "    Control the replies sent to the current connection.",
    "SETNAME <name>",
    "    Assign the name <name> to the current connection.",
    "SETINFO <option> <value>",
    "    Set client meta attr. Options are:",
    "    * LIB-NAME: the client lib name.",
    "    * LIB-VER: the client lib version.",
    "UNBLOCK <clientid> [TIMEOUT|ERROR]",
    "    Unblock the specified blocked client.",
    "TRACKING (ON|OFF) [...]",
    "    Only OFF: server assisted client side caching is not supported.",
    "TRACKINGINFO",
    "    Report tracking status for the current connection.",
    "NO-EVICT (ON|OFF)",
    "    Protect current client connection from eviction.",
    "NO-TOUCH (ON|OFF)",
    "    Will not touch LRU/LFU stats when this mode is on.",
)

_HANDLERS: Final = {
    "caching": client_caching,
    "getname": client_getname,
    "getredir": client_getredir,
    "help": client_help,
    "id": client_id,
    "info": client_info,
    "kill": client_kill,
    "list": client_list,
    "no-evict": client_no_evict,
    "no-touch": client_no_touch,
    "pause": client_pause,
    "reply": client_reply,
    "setinfo": client_setinfo,
    "setname": client_setname,
    "tracking": client_tracking,
    "trackinginfo": client_trackinginfo,
    "unblock": client_unblock,
    "unpause": client_unpause,
}

COMMANDS: Final = (
    CommandSpec(
        "client", None, -2, acl=("slow",), form=Form.SESSION, group="connection", since="2.4.0",
        complexity="Depends on subcommand.", summary="A container for client connection commands.",
        subcommands=rows(_HANDLERS),
    ),
)  # fmt: skip
