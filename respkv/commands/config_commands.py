"""CONFIG: the live values of directives."""

from __future__ import annotations

from typing import Final

from respkv.commands.client_line import is_local
from respkv.commands.help_text import help_reply
from respkv.commands.session import Session
from respkv.commands.spec import ADMIN, BARRIER, LOADING, NOSCRIPT, STALE, Arg, ArgType, CommandSpec, Form
from respkv.resp import errors
from respkv.resp.errors import fail
from respkv.resp.reply import OK, Map, Reply, bulk


def config_get(argv: list[bytes], session: Session) -> Reply:
    """CONFIG GET pattern ...: name and value of every directive that a pattern names."""
    return Map([(bulk(name), bulk(value)) for name, value in session.server.config.match(argv[2:])])


def config_set(argv: list[bytes], session: Session) -> Reply:
    """CONFIG SET name value ...: all of them or none."""
    if len(argv) % 2:
        raise fail(errors.SYNTAX)
    session.server.config.set(list(zip(argv[2::2], argv[3::2])), local=is_local(session))
    return OK


def config_rewrite(argv: list[bytes], session: Session) -> Reply:
    """CONFIG REWRITE"""
    return session.server.rewrite_config()


def config_resetstat(argv: list[bytes], session: Session) -> Reply:
    """CONFIG RESETSTAT: the counters of INFO start anew."""
    server = session.server
    server.metrics.reset()
    keyspace = server.keyspace
    keyspace.hits = keyspace.misses = keyspace.expired_keys = 0
    return OK


def config_help(argv: list[bytes], session: Session) -> Reply:
    """CONFIG HELP"""
    return help_reply(
        "CONFIG",
        (
            "GET <pattern>",
            "    Return parameters matching the glob-like <pattern> and their values.",
            "SET <directive> <value>",
            "    Set the configuration <directive> to <value>.",
            "RESETSTAT",
            "    Reset statistics reported by the INFO command.",
            "REWRITE",
            "    Rewrite the configuration file.",
        ),
    )


_ACL: Final = ("admin", "slow", "dangerous")
_FLAGS: Final = ADMIN | NOSCRIPT | LOADING | STALE | BARRIER
_MANY: Final = "O(N) when N is the number of configuration parameters provided"

COMMANDS: Final = (
    CommandSpec(
        "config", None, -2, acl=("slow",), form=Form.SESSION, group="server", since="2.0.0",
        complexity="Depends on subcommand.", summary="A container for server configuration commands.",
        subcommands=(
            CommandSpec(
                "config|get", config_get, -3, _FLAGS, acl=_ACL, form=Form.SESSION, group="server", since="2.0.0",
                complexity=_MANY, summary="Returns the effective values of configuration parameters.",
                history=(("7.0.0", "Added the ability to pass multiple pattern parameters in one call"),),
                args=(Arg("parameter", flags=("multiple",)),),
            ),
            CommandSpec(
                "config|help", config_help, 2, LOADING | STALE, acl=("slow",), form=Form.SESSION, group="server",
                since="5.0.0", complexity="O(1)", summary="Returns helpful text about the different subcommands.",
            ),
            CommandSpec(
                "config|resetstat", config_resetstat, 2, _FLAGS, acl=_ACL, form=Form.SESSION, group="server",
                since="2.0.0", complexity="O(1)", summary="Resets the server's statistics.",
            ),
            CommandSpec(
                "config|rewrite", config_rewrite, 2, _FLAGS, acl=_ACL, form=Form.SESSION, group="server",
                since="2.8.0", complexity="O(1)",
                summary="Persists the effective configuration to file.",
            ),
            CommandSpec(
                "config|set", config_set, -4, _FLAGS, acl=_ACL, form=Form.SESSION, group="server", since="2.0.0",
                complexity=_MANY, summary="Sets configuration parameters in-flight.",
                tips=("request_policy:all_nodes", "response_policy:all_succeeded"),
                history=(("7.0.0", "Added the ability to set multiple parameters in one call."),),
                args=(Arg("data", ArgType.BLOCK, flags=("multiple",), args=(Arg("parameter"), Arg("value"))),),
            ),
        ),
    ),
)  # fmt: skip
