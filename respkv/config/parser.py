"""The text of configuration files and command lines becomes values.

Lines are read from front to back and later ones win, except ``save``, whose lines add up, and
``client-output-buffer-limit``, which changes the classes it names. Reading other files (``include``)
goes through an injected ``Reader``. The first line that cannot be taken ends it all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Protocol

from respkv.base.errors import RespkvError
from respkv.config import schema
from respkv.config.directive import Directive, Effect
from respkv.config.kinds import ConfigError, Value
from respkv.config.syntax import split_words

INCLUDE_DEPTH_MAX: Final = 16
_BAD_DIRECTIVE: Final = "Bad directive or wrong number of arguments"
UNSAFE: Final = "not supported by respkv yet; it would be unsafe to ignore it"


class ConfigFileError(RespkvError):
    """A line that cannot be taken. ``report`` is the block Redis prints on standard error, and the file's name
    if it is one (``path``): a file may have been included, and line numbers of options go on after the file's."""

    def __init__(self, reason: str, *, line: str, number: int, version: str, path: str = "") -> None:
        super().__init__(f"line {number}: {reason}")
        self.reason = reason
        self.line = line
        self.number = number
        self.path = path
        self.report = (
            f"\n*** FATAL CONFIG FILE ERROR (Redis {version}) ***\n"
            f"Reading the configuration file, at line {number}\n"
            f">>> '{line}'\n{reason}\n"
        ) + (f"(in the file '{path}')\n" if path else "")


class ConfigReadError(RespkvError):
    """A file that cannot be read. ``report`` is the text of Redis' log line."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.report = f"Fatal error, can't open config file '{path}': {reason}"


class Reader(Protocol):
    """Reads files for ``include``."""

    def expand(self, pattern: str) -> list[str]:
        """The paths that a glob names, sorted; a path without glob letters names itself."""

    def read(self, path: str) -> str:
        """The text of a file, bytes that are not UTF-8 as surrogates; raises ConfigReadError."""


@dataclass(slots=True)
class Loaded:
    """What a file said: values by canonical name, only those it set, and renamed commands."""

    values: dict[str, Value] = field(default_factory=dict)
    #: lower-case name -> new name; "" removes the command
    renamed: dict[str, str] = field(default_factory=dict)


def load(
    text: str,
    *,
    reader: Reader | None = None,
    knows_command: Callable[[str], bool] | None = None,
    path: str = "",
    path_lines: int = 0,
) -> Loaded:
    """Read ``text``, a whole configuration. Raises ConfigFileError and ConfigReadError.

    With ``knows_command`` the names in ``rename-command`` are checked. The first ``path_lines`` lines come from
    the file ``path``.
    """
    loaded = Loaded()
    _load_text(text, loaded, reader, knows_command, path=path, path_lines=path_lines, depth=0)
    return loaded


def _load_text(
    text: str,
    loaded: Loaded,
    reader: Reader | None,
    knows_command: Callable[[str], bool] | None,
    *,
    path: str,
    path_lines: int,
    depth: int,
) -> None:
    for number, raw in enumerate(text.split("\n"), 1):
        line = raw.strip(" \t\r\n")
        if not line or line.startswith("#"):
            continue
        try:
            words = split_words(line)
            if words is None:
                raise ConfigError("Unbalanced quotes in configuration line")
            if not words:
                continue
            name, args = words[0].lower(), words[1:]
            if name == "include":
                if len(args) != 1 or reader is None:
                    raise ConfigError(_BAD_DIRECTIVE)
                if depth == INCLUDE_DEPTH_MAX:
                    raise ConfigError("files include each other without end")
                for found in reader.expand(args[0]):
                    included = reader.read(found)
                    lines = included.count("\n") + 1
                    _load_text(included, loaded, reader, knows_command, path=found, path_lines=lines, depth=depth + 1)
            elif name == "rename-command":
                _rename(args, loaded.renamed, knows_command)
            elif name in ("user", "loadmodule") and args:
                raise ConfigError(f"'{name}' is {UNSAFE}")
            elif name in schema.DEAD and len(args) == 1:
                continue
            else:
                _set(name, args, loaded.values)
        except ConfigError as error:
            version = loaded.values.get(
                "respkv-reported-version", schema.DIRECTIVES["respkv-reported-version"].default
            )
            file = path if number <= path_lines else ""
            raise ConfigFileError(error.reason, line=line, number=number, version=str(version), path=file) from None


def _set(name: str, args: list[str], values: dict[str, Value]) -> None:
    row = schema.BY_ANY_NAME.get(name)
    if row is None:
        raise ConfigError(_BAD_DIRECTIVE)
    value = parse_line(row, args, values.get(row.name, row.default))
    if row.effect is Effect.FATAL_IF_SET and value != row.default:
        raise ConfigError(f"'{name}' is {UNSAFE}")
    values[row.name] = value


def parse_line(row: Directive, args: list[str], current: Value) -> Value:
    """The value of ``row`` after a line with ``args``, when it was ``current``. Raises ConfigError."""
    if not args or (len(args) > 1 and not row.kind.many):
        raise ConfigError("wrong number of arguments")
    if row.kind.many and len(args) == 1:
        args = args[0].split()
    return row.kind.parse(args, current, loading=True)


def _rename(args: list[str], renamed: dict[str, str], knows_command: Callable[[str], bool] | None) -> None:
    if len(args) != 2:
        raise ConfigError(_BAD_DIRECTIVE)
    old, new = args[0].lower(), args[1].lower()
    taken = set(renamed.values()) - {""}
    if knows_command is not None:
        current = old in taken or (knows_command(old) and old not in renamed)
        if not current:
            raise ConfigError("No such command in rename-command")
        if new and (new in taken or (knows_command(new) and new not in renamed)):
            raise ConfigError("Target command name already exists")
    for original, name in renamed.items():
        if name == old:
            renamed[original] = new
            return
    renamed[old] = new
