"""COMMAND: what the server can do, told from the rows of the command table.

Clients route by it: key positions, flags and tips must be right for every row. Nothing is written down twice; names
of unknown commands get null (INFO) or are left out (DOCS), as in Redis.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from respkv.commands.acl import CATEGORIES
from respkv.commands.glob import matcher
from respkv.commands.help_text import help_reply
from respkv.commands.session import Session
from respkv.commands.spec import FLAG_NAMES, LOADING, STALE, Arg, ArgType, CommandSpec, Flag, Form, KeySpec
from respkv.commands.table import CommandTable, subcommand
from respkv.resp import errors, reply
from respkv.resp.errors import fail
from respkv.resp.reply import EMPTY_ARRAY, NULL, Map, Reply, SetReply, array, bulk, bulk_array, error, simple

INVALID_ARGUMENTS: Final = error(b"ERR Invalid arguments specified for command")

_CATEGORY_ORDER: Final = {name: place for place, name in enumerate(CATEGORIES)}
#: A key's use depends on the request for these; COMMAND INFO says so with this flag.
_VARIABLE: Final = "variable_flags"


def find(table: CommandTable, name: bytes) -> CommandSpec | None:
    """The row of a full name, ``get`` or ``client|id``, in any case."""
    word, bar, rest = name.partition(b"|")
    spec = table.lookup(word)
    return subcommand(spec, rest) if bar and spec is not None else spec


def movable(spec: CommandSpec) -> bool:
    """True when first, last and step cannot tell where the keys stand."""
    return bool(spec.flags & Flag.MOVABLEKEYS) or any(keys.keynum is not None for keys in spec.keys)


def key_range(keys: Sequence[KeySpec]) -> tuple[int, int, int]:
    """First, last and step of all keys together; zeros when there are none or they have gaps."""
    if not keys or any(spec.keynum is not None for spec in keys):
        return 0, 0, 0
    first, last, step = keys[0].first, keys[0].last, keys[0].step
    for spec in keys[1:]:
        if spec.step != 1 or step != 1 or last < 0 or spec.first != last + 1:
            return 0, 0, 0
        last = spec.last
    return first, last, step


def info_of(spec: CommandSpec) -> Reply:
    """The row as COMMAND INFO shows it."""
    flags = spec.flags | Flag.MOVABLEKEYS if movable(spec) else spec.flags
    categories = sorted(spec.acl, key=lambda name: _CATEGORY_ORDER.get(name, len(_CATEGORY_ORDER)))
    return array(
        [
            bulk(spec.name.encode()),
            reply.integer(spec.arity),
            _words(name for flag, name in FLAG_NAMES.items() if flags & flag),
            *(reply.integer(number) for number in key_range(spec.keys)),
            _words("@" + name for name in categories),
            SetReply([bulk(tip.encode()) for tip in spec.tips]),
            SetReply([_key_spec(keys) for keys in spec.keys]),
            SetReply([info_of(row) for row in spec.subcommands]),
        ]
    )


def _words(names: Iterable[str]) -> Reply:
    return SetReply([simple(name.encode()) for name in names])


def _text(value: str) -> bytes:
    return bulk(value.encode())


def _typed(kind: str, **numbers: int) -> Reply:
    spec = Map([(_text(name), reply.integer(number)) for name, number in numbers.items()])
    return Map([(bulk(b"type"), _text(kind)), (bulk(b"spec"), spec)])


def _key_spec(keys: KeySpec) -> Reply:
    if keys.keynum is None:
        begin = _typed("index", index=keys.first)
        last = keys.last - keys.first if keys.last >= 0 else keys.last
        find_keys = _typed("range", lastkey=last, keystep=keys.step, limit=0)
    else:
        begin = _typed("index", index=keys.keynum)
        find_keys = _typed("keynum", keynumidx=0, firstkey=keys.first - keys.keynum, keystep=keys.step)
    pairs: list[tuple[Reply, Reply]] = [(bulk(b"notes"), _text(keys.notes))] if keys.notes else []
    pairs += [
        (bulk(b"flags"), _words(keys.flags)),
        (bulk(b"begin_search"), begin),
        (bulk(b"find_keys"), find_keys),
    ]
    return Map(pairs)


def docs_of(spec: CommandSpec) -> Reply:
    """The row as COMMAND DOCS shows it; what is empty is left out."""
    texts = (
        ("summary", spec.summary),
        ("since", spec.since),
        ("group", spec.group),
        ("complexity", spec.complexity),
    )
    pairs: list[tuple[Reply, Reply]] = [(_text(name), _text(value)) for name, value in texts if value]
    if spec.deprecated_since:
        pairs.append((bulk(b"doc_flags"), _words(("deprecated",))))
        pairs.append((bulk(b"deprecated_since"), _text(spec.deprecated_since)))
    if spec.replaced_by:
        pairs.append((bulk(b"replaced_by"), _text(spec.replaced_by)))
    if spec.history:
        changes = [array([_text(since), _text(change)]) for since, change in spec.history]
        pairs.append((bulk(b"history"), SetReply(changes)))
    if spec.args:
        pairs.append((bulk(b"arguments"), array([_argument(arg) for arg in spec.args])))
    if spec.subcommands:
        rows = Map([(_text(row.name), docs_of(row)) for row in spec.subcommands])
        pairs.append((bulk(b"subcommands"), rows))
    return Map(pairs)


def _argument(arg: Arg) -> Reply:
    pairs: list[tuple[Reply, Reply]] = [
        (bulk(b"name"), _text(arg.name)),
        (bulk(b"type"), _text(arg.type.value)),
    ]
    if arg.display:
        pairs.append((bulk(b"display_text"), _text(arg.display)))
    if arg.key_spec is not None:
        pairs.append((bulk(b"key_spec_index"), reply.integer(arg.key_spec)))
    if arg.token:
        pairs.append((bulk(b"token"), _text(arg.token)))
    if arg.since:
        pairs.append((bulk(b"since"), _text(arg.since)))
    if arg.flags:
        pairs.append((bulk(b"flags"), _words(arg.flags)))
    if arg.args:
        pairs.append((bulk(b"arguments"), array([_argument(inner) for inner in arg.args])))
    return Map(pairs)


def command(argv: list[bytes], session: Session) -> Reply:
    """COMMAND: all rows, subcommands inside their containers."""
    return array([info_of(spec) for spec in session.server.table.specs])


def command_count(argv: list[bytes], session: Session) -> Reply:
    """COMMAND COUNT: how many commands there are, subcommands not counted."""
    return reply.integer(len(session.server.table.specs))


def command_info(argv: list[bytes], session: Session) -> Reply:
    """COMMAND INFO [name ...]: a row for each name, null for an unknown one; without names all rows."""
    if len(argv) == 2:
        return command(argv, session)
    rows = [find(session.server.table, name) for name in argv[2:]]
    return array([NULL if spec is None else info_of(spec) for spec in rows])


def command_docs(argv: list[bytes], session: Session) -> Reply:
    """COMMAND DOCS [name ...]: documentation by full name; unknown names are left out."""
    table = session.server.table
    rows = table.specs if len(argv) == 2 else [find(table, name) for name in argv[2:]]
    return Map([(_text(spec.name), docs_of(spec)) for spec in rows if spec is not None])


def command_list(argv: list[bytes], session: Session) -> Reply:
    """COMMAND LIST [FILTERBY MODULE name | ACLCAT category | PATTERN pattern]: full names."""
    rows = session.server.table.all_specs()
    if len(argv) == 2:
        return bulk_array([spec.name.encode() for spec in rows])
    if len(argv) != 5 or argv[2].upper() != b"FILTERBY":
        raise fail(errors.SYNTAX)
    kind, wanted = argv[3].upper(), argv[4]
    if kind == b"MODULE":
        return EMPTY_ARRAY
    if kind == b"ACLCAT":
        category = wanted.decode("latin-1").lower()
        return bulk_array([spec.name.encode() for spec in rows if category in spec.acl])
    if kind == b"PATTERN":
        matches = matcher(wanted.lower())
        return bulk_array([spec.name.encode() for spec in rows if matches(spec.name.encode())])
    raise fail(errors.SYNTAX)


def _keys_of(argv: list[bytes], table: CommandTable) -> list[tuple[bytes, tuple[str, ...]]]:
    """The keys of the request ``argv`` with the flags of their use."""
    spec = table.resolve(argv)
    if spec is None:
        raise fail(errors.INVALID_COMMAND)
    if not spec.keys:
        raise fail(errors.NO_KEY_ARGUMENTS)
    if not spec.fits(len(argv)):
        raise fail(errors.INVALID_ARGUMENT_COUNT)
    found = [(argv[at], _use(spec, keys, argv)) for keys in spec.keys for at in keys.keys(argv)]
    if not found and not spec.flags & Flag.NO_MANDATORY_KEYS:
        raise fail(INVALID_ARGUMENTS)
    return found


def _use(spec: CommandSpec, keys: KeySpec, argv: list[bytes]) -> tuple[str, ...]:
    """How the request uses the keys of a key spec: SET reads with GET only, BITFIELD may write nothing."""
    if _VARIABLE not in keys.flags:
        return keys.flags
    words = [word.upper() for word in argv[2:]]
    if spec.name == "set" and b"GET" not in words[1:]:
        return ("OW", "update")
    if spec.name == "bitfield" and b"SET" not in words and b"INCRBY" not in words:
        return ("RO", "access")
    return tuple(flag for flag in keys.flags if flag != _VARIABLE)


def command_getkeys(argv: list[bytes], session: Session) -> Reply:
    """COMMAND GETKEYS command [arg ...]: the keys among the arguments."""
    return bulk_array([key for key, _ in _keys_of(argv[2:], session.server.table)])


def command_getkeysandflags(argv: list[bytes], session: Session) -> Reply:
    """COMMAND GETKEYSANDFLAGS command [arg ...]: each key with the flags of its use."""
    return array(
        [array([bulk(key), _words(flags)]) for key, flags in _keys_of(argv[2:], session.server.table)]
    )


def command_help(argv: list[bytes], session: Session) -> Reply:
    """COMMAND HELP"""
    return help_reply(
        "COMMAND",
        (
            "(no subcommand)",
            "    Return details about all commands.",
            "COUNT",
            "    Return the total number of commands in this server.",
            "LIST [FILTERBY (MODULE <name>|ACLCAT <category>|PATTERN <pattern>)]",
            "    Return a list of all commands in this server.",
            "INFO [<command-name> ...]",
            "    Return details about several commands; without names about all.",
            "DOCS [<command-name> ...]",
            "    Return documentation of several commands; without names of all.",
            "GETKEYS <full-command>",
            "    Return the keys of a full command.",
            "GETKEYSANDFLAGS <full-command>",
            "    Return the keys of a full command and how it uses them.",
        ),
    )


COMMANDS: Final = (
    CommandSpec(
        "command",
        command,
        arity=-1,
        flags=LOADING | STALE,
        acl=("slow", "connection"),
        form=Form.SESSION,
        group="server",
        since="2.8.13",
        complexity="O(N) where N is the total number of Redis commands",
        summary="Describe all commands",
        tips=("nondeterministic_output_order",),
        subcommands=(
            CommandSpec(
                "command|count",
                command_count,
                arity=2,
                flags=LOADING | STALE,
                acl=("slow", "connection"),
                form=Form.SESSION,
                group="server",
                since="2.8.13",
                complexity="O(1)",
                summary="Count the commands",
            ),
            CommandSpec(
                "command|docs",
                command_docs,
                arity=-2,
                flags=LOADING | STALE,
                acl=("slow", "connection"),
                form=Form.SESSION,
                group="server",
                since="7.0.0",
                complexity="O(N) where N is the number of commands to look up",
                summary="Document commands",
                args=(Arg("command-name", flags=("optional", "multiple")),),
                tips=("nondeterministic_output_order",),
            ),
            CommandSpec(
                "command|getkeys",
                command_getkeys,
                arity=-4,
                flags=LOADING | STALE,
                acl=("slow", "connection"),
                form=Form.SESSION,
                group="server",
                since="2.8.13",
                complexity="O(N) where N is the number of arguments to the command",
                summary="Extract the keys of a request",
            ),
            CommandSpec(
                "command|getkeysandflags",
                command_getkeysandflags,
                arity=-4,
                flags=LOADING | STALE,
                acl=("slow", "connection"),
                form=Form.SESSION,
                group="server",
                since="7.0.0",
                complexity="O(N) where N is the number of arguments to the command",
                summary="Extract the keys of a request and how it uses them",
            ),
            CommandSpec(
                "command|help",
                command_help,
                arity=2,
                flags=LOADING | STALE,
                acl=("slow", "connection"),
                form=Form.SESSION,
                group="server",
                since="5.0.0",
                complexity="O(1)",
                summary="Print the subcommands",
            ),
            CommandSpec(
                "command|info",
                command_info,
                arity=-2,
                flags=LOADING | STALE,
                acl=("slow", "connection"),
                form=Form.SESSION,
                group="server",
                since="2.8.13",
                complexity="O(N) where N is the number of commands to look up",
                summary="Describe commands",
                args=(Arg("command-name", flags=("optional", "multiple")),),
                tips=("nondeterministic_output_order",),
                history=(("7.0.0", "Allowed to be called with no argument to get info on all commands."),),
            ),
            CommandSpec(
                "command|list",
                command_list,
                arity=-2,
                flags=LOADING | STALE,
                acl=("slow", "connection"),
                form=Form.SESSION,
                group="server",
                since="7.0.0",
                complexity="O(N) where N is the total number of Redis commands",
                summary="List command names",
                args=(
                    Arg(
                        "filterby",
                        ArgType.ONEOF,
                        token="FILTERBY",
                        flags=("optional",),
                        args=(
                            Arg("module-name", token="MODULE"),
                            Arg("category", token="ACLCAT"),
                            Arg("pattern", ArgType.PATTERN, token="PATTERN"),
                        ),
                    ),
                ),
                tips=("nondeterministic_output_order",),
            ),
        ),
    ),
)
