"""The connection itself: HELLO AUTH PING ECHO QUIT RESET SELECT.

One user exists, ``default``; its password is ``requirepass``. Passwords are compared in constant time.
"""

from __future__ import annotations

import hmac
from typing import Final

from respkv.commands.arguments import integer, small_integer
from respkv.commands.client_line import client_line, valid_name
from respkv.commands.ring import follow_name, level_in_name, on_cluster_face
from respkv.commands.session import Session
from respkv.commands.spec import FAST, LOADING, NOSCRIPT, STALE, Arg, ArgType, CommandSpec, Flag, Form
from respkv.commands.transactions import end_multi
from respkv.replication.levels import DEFAULT as DEFAULT_LEVEL
from respkv.resp import errors
from respkv.resp.errors import fail
from respkv.resp.reply import EMPTY_ARRAY, EMPTY_BULK, OK, PONG, Map, Reply, array, bulk, error
from respkv.resp.reply import integer as number

DEFAULT_USER: Final = b"default"
BAD_NAME: Final = error(b"ERR Client names cannot contain spaces, newlines or special characters.")
NO_SELECT: Final = error(b"ERR SELECT is not allowed in cluster mode")


def password_of(session: Session) -> bytes:
    """The default user's password, empty when none is asked for."""
    return session.server.config.string("requirepass").encode("utf-8", "surrogateescape")


def authenticate(session: Session, word: bytes, user: bytes, password: bytes) -> None:
    """Log ``session`` in; raises WRONGPASS and leaves it as it was when the pair is not right.

    ``word`` is the command that asks, as it was sent.
    """
    wanted = password_of(session)
    known = user == DEFAULT_USER
    # The comparison runs for unknown users too, so that its time tells nothing.
    right = hmac.compare_digest(wanted, password) or not wanted
    if not known or not right:
        _note_denied(session, word, user)
        raise fail(errors.WRONG_PASS)
    _log_in(session)


def _note_denied(session: Session, word: bytes, user: bytes) -> None:
    server = session.server
    server.metrics.denied_auth += 1
    server.acl_log.add(
        context=b"toplevel" if session.multi is None else b"multi",
        word=word,
        user=user,
        client=client_line(session, now_us=server.clock.monotonic_us()).rstrip(b"\n"),
        wall_ms=server.now_ms,
        max_len=server.config.integer("acllog-max-len"),
    )


def _log_in(session: Session) -> None:
    session.user = DEFAULT_USER
    session.authenticated = True
    session.recompute_plain()


def auth(argv: list[bytes], session: Session) -> Reply:
    """AUTH [username] password"""
    if len(argv) > 3:
        raise fail(errors.SYNTAX)
    if len(argv) == 3:
        authenticate(session, argv[0], argv[1], argv[2])
        return OK
    if not password_of(session):
        raise fail(errors.AUTH_NOT_CONFIGURED)
    authenticate(session, argv[0], DEFAULT_USER, argv[1])
    return OK


def hello(argv: list[bytes], session: Session) -> Reply:
    """HELLO [protover [AUTH username password] [SETNAME clientname]]: all of it happens, or nothing."""
    proto = session.proto
    user: bytes | None = None
    password = b""
    name: bytes | None = None
    level: int | None = None
    if len(argv) > 1:
        proto = integer(argv[1], errors.PROTO_NOT_INTEGER)
        if proto not in (2, 3):
            raise fail(errors.NO_PROTO)
    at = 2
    while at < len(argv):
        word = argv[at].upper()
        if word == b"AUTH" and at + 2 < len(argv):
            user, password = argv[at + 1], argv[at + 2]
            at += 3
        elif word == b"SETNAME" and at + 1 < len(argv):
            name = argv[at + 1]
            if not valid_name(name):
                raise fail(BAD_NAME)
            level = level_in_name(session, name)
            at += 2
        else:
            raise fail(error(b"ERR Syntax error in HELLO option '%b'" % argv[at][:128]))
    if user is not None:
        authenticate(session, argv[0], user, password)
    if not session.authenticated:
        raise fail(errors.NO_AUTH_HELLO)
    if name is not None:
        session.name = name
        follow_name(session, level)
    session.proto = proto
    return _describe(session)


def _describe(session: Session) -> Reply:
    config = session.server.config
    return Map(
        [
            (bulk(b"server"), bulk(b"redis")),
            (bulk(b"version"), bulk(config.string("respkv-reported-version").encode())),
            (bulk(b"proto"), number(session.proto)),
            (bulk(b"id"), number(session.id)),
            (bulk(b"mode"), bulk(b"cluster" if on_cluster_face(session) else b"standalone")),
            (bulk(b"role"), bulk(b"master")),
            (bulk(b"modules"), EMPTY_ARRAY),
        ]
    )


def ping(argv: list[bytes], session: Session) -> Reply:
    """PING [message]: an array while a RESP2 connection is subscribed."""
    if len(argv) > 2:
        raise fail(errors.wrong_arity("ping"))
    if session.proto == 2 and session.subscribed():
        return array([bulk(b"pong"), bulk(argv[1]) if len(argv) == 2 else EMPTY_BULK])
    return bulk(argv[1]) if len(argv) == 2 else PONG


def echo(argv: list[bytes], session: Session) -> Reply:
    """ECHO message"""
    return bulk(argv[1])


def quit_connection(argv: list[bytes], session: Session) -> Reply:
    """QUIT: OK, then the connection ends."""
    session.sink.close(after_output=True)
    return OK


def reset(argv: list[bytes], session: Session) -> Reply:
    """RESET: the connection is as if it were new; its id and library name stay."""
    server = session.server
    end_multi(session)
    server.pubsub.drop_session(session)
    if session.is_monitor:
        session.is_monitor = False
        server.monitors.remove(session)
        server.recompute_plain()
    session.proto = 2
    session.db = 0
    session.name = b""
    session.user = DEFAULT_USER
    session.authenticated = not password_of(session)
    session.reply_mode = "on"
    session.skip_next = False
    session.no_evict = session.no_touch = session.readonly = False
    session.level, session.level_named = DEFAULT_LEVEL, False
    session.last_op = {}
    session.recompute_plain()
    return b"+RESET\r\n"


def select(argv: list[bytes], session: Session) -> Reply:
    """SELECT index: the cluster face has database 0 only."""
    index = small_integer(argv[1])
    if index and on_cluster_face(session):
        raise fail(NO_SELECT)
    if not 0 <= index < session.server.keyspace.databases:
        raise fail(errors.DB_INDEX)
    session.db = index
    return OK


_OPENING: Final = NOSCRIPT | LOADING | STALE | FAST | Flag.NO_AUTH | Flag.ALLOW_BUSY | Flag.BARRIER
_ACL: Final = ("fast", "connection")
_OPTIONAL: Final = ("optional",)

COMMANDS: Final = (
    CommandSpec(
        "hello", hello, -1, _OPENING, acl=_ACL, form=Form.SESSION, group="connection", since="6.0.0",
        complexity="O(1)", summary="Handshakes with the server and chooses the protocol.",
        history=(
            ("6.2.0", "`protover` made optional; when called without arguments the command reports the current"
                      " connection's context."),
        ),
        args=(
            Arg("arguments", ArgType.BLOCK, flags=_OPTIONAL, args=(
                Arg("protover", ArgType.INTEGER),
                Arg("username_password", ArgType.BLOCK, "AUTH", _OPTIONAL, args=(Arg("username"), Arg("password"))),
                Arg("clientname", ArgType.STRING, "SETNAME", _OPTIONAL),
            )),
        ),
    ),
    CommandSpec(
        "auth", auth, -2, _OPENING, acl=_ACL, form=Form.SESSION, group="connection",
        complexity="O(1)", summary="Authenticates the connection.",
        history=(("6.0.0", "Added ACL style (username and password)."),),
        args=(Arg("username", flags=_OPTIONAL, since="6.0.0"), Arg("password")),
    ),
    CommandSpec(
        "ping", ping, -1, FAST | Flag.IN_PUBSUB, acl=_ACL, form=Form.SESSION, group="connection", complexity="O(1)",
        summary="Returns the server's liveliness response.",
        tips=("request_policy:all_shards", "response_policy:all_succeeded"),
        args=(Arg("message", flags=_OPTIONAL),),
    ),
    CommandSpec(
        "echo", echo, 2, LOADING | STALE | FAST, acl=_ACL, form=Form.SESSION, group="connection",
        complexity="O(1)", summary="Returns the given string.", args=(Arg("message"),),
    ),
    CommandSpec(
        "quit", quit_connection, -1, _OPENING | Flag.IN_PUBSUB, acl=_ACL, form=Form.SESSION, group="connection",
        complexity="O(1)", summary="Closes the connection.", deprecated_since="7.2.0",
        replaced_by="just closing the connection",
    ),
    CommandSpec(
        "reset", reset, 1, _OPENING | Flag.IN_PUBSUB, acl=_ACL, form=Form.SESSION, group="connection",
        since="6.2.0", complexity="O(1)", summary="Resets the connection.",
    ),
    CommandSpec(
        "select", select, 2, LOADING | STALE | FAST | Flag.BARRIER, acl=_ACL, form=Form.SESSION,
        group="connection", complexity="O(1)", summary="Changes the selected database.",
        args=(Arg("index", ArgType.INTEGER),),
    ),
)  # fmt: skip
