"""What container commands have in common: HELP, one status line per row in Redis' layout, and a mistake."""

from __future__ import annotations

from typing import Final

from respkv.base.errors import CommandError
from respkv.resp.reply import Reply, array, error, simple

_FOOT: Final = ("HELP", "    Prints this help.")


def help_reply(name: str, lines: tuple[str, ...]) -> Reply:
    """The answer to ``<name> HELP``: a heading, ``lines``, and HELP itself."""
    head = f"{name} <subcommand> [<arg> [value] [opt] ...]. Subcommands are:"
    return array([simple(line.encode()) for line in (head, *lines, *_FOOT)])


def bad_subcommand(container: str, subcommand: bytes) -> CommandError:
    """The error of a subcommand with too many words, where its arity alone cannot tell."""
    text = b"ERR unknown subcommand or wrong number of arguments for '%b'. Try %b HELP."
    return CommandError(error(text % (subcommand[:128], container.encode())))
