"""SLOWLOG: the newest requests that took long."""

from __future__ import annotations

from typing import Final

from respkv.commands.arguments import integer
from respkv.commands.help_text import bad_subcommand, help_reply
from respkv.commands.session import Session
from respkv.commands.spec import ADMIN, LOADING, STALE, Arg, ArgType, CommandSpec, Form
from respkv.resp.errors import fail
from respkv.resp.reply import OK, Reply, array, bulk, bulk_array, error
from respkv.resp.reply import integer as number

BAD_COUNT: Final = error(b"ERR count should be greater than or equal to -1")
_DEFAULT_COUNT: Final = 10


def slowlog_get(argv: list[bytes], session: Session) -> Reply:
    """SLOWLOG GET [count]: newest first; ten unless told, -1 for all."""
    count = _DEFAULT_COUNT
    if len(argv) > 3:
        raise bad_subcommand("SLOWLOG", argv[1])
    if len(argv) > 2:
        count = integer(argv[2], BAD_COUNT)
        if count < -1:
            raise fail(BAD_COUNT)
    return array(
        [
            array(
                [
                    number(entry.id),
                    number(entry.time_s),
                    number(entry.duration_us),
                    bulk_array(entry.argv),
                    bulk(entry.client.encode()),
                    bulk(entry.name),
                ]
            )
            for entry in session.server.slowlog.entries(count)
        ]
    )


def slowlog_len(argv: list[bytes], session: Session) -> Reply:
    """SLOWLOG LEN"""
    return number(len(session.server.slowlog))


def slowlog_reset(argv: list[bytes], session: Session) -> Reply:
    """SLOWLOG RESET"""
    session.server.slowlog.reset()
    return OK


def slowlog_help(argv: list[bytes], session: Session) -> Reply:
    """SLOWLOG HELP"""
    return help_reply(
        "SLOWLOG",
        (
            "GET [<count>]",
            "    Return top <count> entries from the slowlog (default: 10, -1 mean all).",
            "    Entries are made of:",
            "    id, timestamp, time in microseconds, arguments array, client IP and port,",
            "    client name",
            "LEN",
            "    Return the length of the slowlog.",
            "RESET",
            "    Reset the slowlog.",
        ),
    )


_ACL: Final = ("admin", "slow", "dangerous")
_FLAGS: Final = ADMIN | LOADING | STALE

COMMANDS: Final = (
    CommandSpec(
        "slowlog", None, -2, acl=("slow",), form=Form.SESSION, group="server", since="2.2.12",
        complexity="Depends on subcommand.", summary="A container for slow log commands.",
        subcommands=(
            CommandSpec(
                "slowlog|get", slowlog_get, -2, _FLAGS, acl=_ACL, form=Form.SESSION, group="server",
                since="2.2.12", complexity="O(N) where N is the number of entries returned",
                summary="Returns the slow log's entries.",
                tips=("request_policy:all_nodes", "nondeterministic_output"),
                history=(("4.0.0", "Added client IP address, port and name to the reply."),),
                args=(Arg("count", ArgType.INTEGER, flags=("optional",)),),
            ),
            CommandSpec(
                "slowlog|help", slowlog_help, 2, LOADING | STALE, acl=("slow",), form=Form.SESSION,
                group="server", since="6.2.0", complexity="O(1)",
                summary="Show helpful text about the different subcommands",
            ),
            CommandSpec(
                "slowlog|len", slowlog_len, 2, _FLAGS, acl=_ACL, form=Form.SESSION, group="server",
                since="2.2.12", complexity="O(1)", summary="Returns the number of entries in the slow log.",
                tips=("request_policy:all_nodes", "response_policy:agg_sum", "nondeterministic_output"),
            ),
            CommandSpec(
                "slowlog|reset", slowlog_reset, 2, _FLAGS, acl=_ACL, form=Form.SESSION, group="server",
                since="2.2.12", complexity="O(N) where N is the number of entries in the slowlog",
                summary="Clears all entries from the slow log.",
                tips=("request_policy:all_nodes", "response_policy:all_succeeded"),
            ),
        ),
    ),
)  # fmt: skip
