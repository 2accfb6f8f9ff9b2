"""The command line of the server, by the rules of ``redis-server``.

``[file] [--name value ...] [-]``: an argument that begins with two dashes is the name of a directive and
opens a line of configuration; what follows are its values, quoted, until the next such argument. The
argument right after a name is a value even when it begins with dashes, except after ``--save``, where an
empty value is put in between. Several words in the argument of the name are name and values. A lone ``-`` as
the first or the last argument reads configuration from standard input. The lines of the command line come
after those of the file and of standard input, so they win.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

import respkv
from respkv.base.coding import checksum
from respkv.config.schema import DIRECTIVES
from respkv.config.syntax import quote, split_words

USAGE: Final = """\
Usage: {program} [/path/to/respkv.conf] [options] [-]
       {program} - (read config from stdin)
       {program} -v or --version
       {program} -h or --help

Examples:
       {program} (run the server with default conf)
       echo 'maxmemory 128mb' | {program} -
       {program} /etc/respkv/6379.conf
       {program} --port 7777
       {program} /etc/respkv/6379.conf --loglevel verbose -
       {program} /etc/respkv/6379.conf --loglevel verbose
"""


class Action(Enum):
    """What the command line asks for."""

    SERVE = "serve"
    VERSION = "version"
    HELP = "help"


@dataclass(frozen=True, slots=True)
class Invocation:
    """A command line taken apart. ``config_file`` is None when none is named; ``lines`` are the options as
    lines of configuration, "" when there are none."""

    action: Action
    config_file: str | None = None
    from_stdin: bool = False
    lines: str = ""


def parse_arguments(arguments: Sequence[str]) -> Invocation:
    """Take the arguments after the program's name apart. Raises nothing: mistakes show in the lines."""
    if len(arguments) >= 1 and arguments[0] in ("-v", "--version"):
        return Invocation(Action.VERSION)
    if len(arguments) == 1 and arguments[0] in ("-h", "--help"):
        return Invocation(Action.HELP)
    config_file = None
    rest = list(arguments)
    if rest and not rest[0].startswith("-"):
        config_file = rest.pop(0)
    from_stdin = False
    lines: list[str] = []
    name_may_follow = True
    for at, argument in enumerate(rest):
        last = at == len(rest) - 1
        first = at == 0 and config_file is None
        if argument == "-" and (first or last):
            from_stdin = True
        elif name_may_follow and argument.startswith("--"):
            words = split_words(argument)
            lines.append(argument[2:] + " ")
            name_may_follow = words is None or len(words) != 1
            if argument.lower() == "--save" and (last or rest[at + 1].startswith("--")):
                lines[-1] += '""'
                name_may_follow = True
        else:
            if not lines:
                lines.append("")
            lines[-1] += quote(argument) + " "
            name_may_follow = True
    return Invocation(Action.SERVE, config_file, from_stdin, "\n".join(lines))


def config_text(invocation: Invocation, *, file_text: str = "", stdin_text: str = "") -> str:
    """The whole configuration, in the order in which later lines win."""
    text = file_text
    if invocation.from_stdin:
        text += stdin_text
    if invocation.lines:
        text += "\n" + invocation.lines
    return text


def version_text() -> str:
    """What ``--version`` prints on standard output, without the newline."""
    version = DIRECTIVES["respkv-reported-version"].default
    build = checksum(f"respkv {respkv.__version__}".encode())
    return f"Redis server v={version} sha=00000000:0 malloc=libc bits=64 build={build:x} respkv={respkv.__version__}"


def usage_text(program: str) -> str:
    """What ``--help`` prints on standard error."""
    return USAGE.format(program=program)
