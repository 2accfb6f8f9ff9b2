"""The command table: all groups joined, validated, and indexed by name.

Groups are named explicitly; nothing registers itself on import. What is derived from the rows (COMMAND, ACL
categories, key positions, arity) asks here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Final

from respkv.commands.settings import Settings
from respkv.commands.spec import CommandSpec, Flag, Form

#: Longest name that is looked up in other than lower or upper case.
_LONGEST_NAME: Final = 64


class TableError(Exception):
    """Two rows contradict each other, or one contradicts itself."""


class CommandTable:
    """Commands by name. ``lookup`` takes the word as it was sent, in any case. O(1)."""

    __slots__ = ("_by_word", "settings", "specs", "writers")

    def __init__(
        self, groups: tuple[tuple[CommandSpec, ...], ...], renamed: Mapping[str, str] | None = None
    ) -> None:
        """``renamed``: command name -> the name it goes by; an empty one removes it (rename-command)."""
        #: what handlers whose rows ask for it are given
        self.settings = Settings()
        rows = [self._bound(spec) for group in groups for spec in group]
        self.specs: tuple[CommandSpec, ...] = tuple(sorted(rows, key=lambda spec: spec.name))
        self._by_word: dict[bytes, CommandSpec] = {}
        for spec in self.specs:
            validate(spec)
            word = spec.name.encode()
            if word in self._by_word:
                raise TableError(f"{spec.name} is declared twice")
            self._by_word[word] = spec
            self._by_word[word.upper()] = spec
        self._rename(renamed or {})
        #: names of those that write
        self.writers = frozenset(spec.name for spec in self.all_specs() if spec.flags & Flag.WRITE)

    def _bound(self, spec: CommandSpec) -> CommandSpec:
        """The row with the settings of this table in its handler's hands, its subcommands' alike."""
        if any(row.settings for row in spec.subcommands):
            spec = replace(spec, subcommands=tuple(self._bound(row) for row in spec.subcommands))
        if spec.settings:
            assert spec.handler is not None, spec.name
            spec = replace(spec, handler=partial(spec.handler, settings=self.settings))
        return spec

    def _rename(self, renamed: Mapping[str, str]) -> None:
        moved = {}
        for name, new in renamed.items():
            spec = self._by_word.pop(name.encode())
            self._by_word.pop(name.upper().encode(), None)
            if new:
                moved[new.lower().encode()] = spec
        for word, spec in moved.items():
            if word in self._by_word:
                raise TableError(f"{spec.name} cannot be renamed to {word.decode()}: there is such a command")
            self._by_word[word] = self._by_word[word.upper()] = spec

    def words(self) -> list[tuple[bytes, CommandSpec]]:
        """Every lower-case word that names a command, with its row."""
        return [(word, spec) for word, spec in self._by_word.items() if word == word.lower()]

    def lookup(self, word: bytes) -> CommandSpec | None:
        """The row of a command word, None when it is unknown."""
        spec = self._by_word.get(word)
        if spec is None and len(word) <= _LONGEST_NAME:
            spec = self._by_word.get(word.lower())
        return spec

    def resolve(self, argv: list[bytes]) -> CommandSpec | None:
        """The row of a request: the subcommand's when there is one; None when either word is unknown."""
        spec = self.lookup(argv[0])
        if spec is None or not spec.subcommands or len(argv) < 2:
            return spec
        return subcommand(spec, argv[1])

    def all_specs(self) -> list[CommandSpec]:
        """Rows and their subcommands' rows."""
        return [row for spec in self.specs for row in (spec, *spec.subcommands)]


def subcommand(spec: CommandSpec, word: bytes) -> CommandSpec | None:
    """The subcommand of a container by its word in any case."""
    if len(word) > _LONGEST_NAME:
        return None
    wanted = f"{spec.name}|{word.decode('latin-1').lower()}"
    for row in spec.subcommands:
        if row.name == wanted:
            return row
    return None


def validate(spec: CommandSpec) -> None:
    """Reject a row that contradicts itself."""
    if spec.name != spec.name.lower():
        raise TableError(f"{spec.name}: names are lower case")
    if spec.handler is None and not spec.subcommands:
        raise TableError(f"{spec.name}: no handler")
    if spec.arity == 0:
        raise TableError(f"{spec.name}: arity 0")
    if spec.flags & Flag.WRITE and spec.flags & Flag.READONLY:
        raise TableError(f"{spec.name}: both write and readonly")
    if spec.form is Form.WALK and spec.flags & Flag.WRITE:
        raise TableError(f"{spec.name}: a walk that writes")
    for row in spec.subcommands:
        if not row.name.startswith(spec.name + "|"):
            raise TableError(f"{row.name}: not a subcommand of {spec.name}")
        validate(row)


def build_table(renamed: Mapping[str, str] | None = None) -> CommandTable:
    """The table of the product."""
    from respkv.commands import (
        bitfield,
        bits,
        cas,
        causal,
        client,
        command,
        config_commands,
        connection,
        debug,
        dump,
        expire,
        generic,
        hash,
        hash_expire,
        hash_scan,
        keyspace,
        latency,
        lcs,
        memory,
        monitor,
        pubsub,
        server,
        slowlog,
        string,
        string_set,
        transactions,
        wait,
    )

    modules = (
        bitfield, bits, cas, causal, client, command, config_commands, connection, debug, dump, expire, generic,
        hash, hash_expire, hash_scan, keyspace, latency, lcs, memory, monitor, pubsub, server, slowlog, string,
        string_set, transactions, wait,
    )  # fmt: skip
    return CommandTable(tuple(module.COMMANDS for module in modules), renamed)
