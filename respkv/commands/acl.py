"""ACL: what can be said of the one user there is.

``default`` may do everything; its password is ``requirepass``. What would need more users is a clear error.
"""

from __future__ import annotations

import hashlib
from typing import Final

from respkv.commands.arguments import integer
from respkv.commands.connection import DEFAULT_USER, password_of
from respkv.commands.help_text import bad_subcommand, help_reply
from respkv.commands.session import Session
from respkv.commands.spec import ADMIN, LOADING, NOSCRIPT, STALE, Arg, ArgType, CommandSpec, Form
from respkv.env.rng import random_bytes
from respkv.metrics.acl_log import AclEntry
from respkv.resp import errors
from respkv.resp.errors import fail
from respkv.resp.reply import EMPTY_ARRAY, NULL, OK, Double, Map, Reply, SetReply, array, bulk, bulk_array, error
from respkv.resp.reply import integer as number

CATEGORIES: Final = (
    "keyspace", "read", "write", "set", "sortedset", "list", "hash", "string", "bitmap", "hyperloglog", "geo",
    "stream", "pubsub", "admin", "fast", "slow", "blocking", "dangerous", "connection", "transaction", "scripting",
)  # fmt: skip
NO_USERS: Final = error(
    b"ERR ACL users are not supported: there is only the user 'default', whose password is requirepass"
)
NO_ACL_FILE: Final = error(
    b"ERR This Redis instance is not configured to use an ACL file. You may want to specify users via the ACL SETUSER"
    b" command and then issue a CONFIG REWRITE (assuming you have a Redis configuration file set) in order to store"
    b" users in the Redis configuration."
)
DEFAULT_STAYS: Final = error(b"ERR The 'default' user cannot be removed")
BAD_BITS: Final = error(
    b"ERR ACL GENPASS argument must be the number of bits for the output password, a positive number up to 4096"
)
_RULES: Final = b"~* &* +@all"
_LOG_SHOWN: Final = 10


def _password_hash(session: Session) -> bytes:
    """SHA-256 in hex, empty without a password."""
    password = password_of(session)
    return hashlib.sha256(password).hexdigest().encode() if password else b""


def acl_whoami(argv: list[bytes], session: Session) -> Reply:
    """ACL WHOAMI"""
    return bulk(session.user)


def acl_users(argv: list[bytes], session: Session) -> Reply:
    """ACL USERS"""
    return bulk_array([DEFAULT_USER])


def acl_list(argv: list[bytes], session: Session) -> Reply:
    """ACL LIST: the user in the form of an ACL file."""
    digest = _password_hash(session)
    secret = b"#" + digest if digest else b"nopass"
    return bulk_array([b"user default on %b %b" % (secret, _RULES)])


def acl_getuser(argv: list[bytes], session: Session) -> Reply:
    """ACL GETUSER username: null when there is no such user."""
    if argv[2] != DEFAULT_USER:
        return NULL
    digest = _password_hash(session)
    flags = [b"on"] if digest else [b"on", b"nopass"]
    return Map(
        [
            (bulk(b"flags"), SetReply([bulk(flag) for flag in flags])),
            (bulk(b"passwords"), bulk_array([digest] if digest else [])),
            (bulk(b"commands"), bulk(b"+@all")),
            (bulk(b"keys"), bulk(b"~*")),
            (bulk(b"channels"), bulk(b"&*")),
            (bulk(b"selectors"), EMPTY_ARRAY),
        ]
    )


def acl_cat(argv: list[bytes], session: Session) -> Reply:
    """ACL CAT [category]: the categories, or the commands of one."""
    if len(argv) > 3:
        raise bad_subcommand("ACL", argv[1])
    if len(argv) == 2:
        return bulk_array([name.encode() for name in CATEGORIES])
    wanted = argv[2].decode("latin-1").lower()
    if wanted not in CATEGORIES:
        raise fail(error(b"ERR Unknown category '%b'" % argv[2][:128]))
    names = [spec.name for spec in session.server.table.all_specs() if wanted in spec.acl]
    return bulk_array([name.encode() for name in names])


def acl_genpass(argv: list[bytes], session: Session) -> Reply:
    """ACL GENPASS [bits]: random hex digits, 256 bits unless told."""
    bits = 256
    if len(argv) > 3:
        raise bad_subcommand("ACL", argv[1])
    if len(argv) == 3:
        bits = integer(argv[2])
    if not 0 < bits <= 4096:
        raise fail(BAD_BITS)
    # A secret, so it comes from the system and not from the seeded generator.
    digits = (bits + 3) // 4
    return bulk(random_bytes((digits + 1) // 2).hex()[:digits].encode())


def acl_log(argv: list[bytes], session: Session) -> Reply:
    """ACL LOG [count | RESET]: refused log-ins, newest first, ten unless told. Nothing else can be refused here."""
    server = session.server
    if len(argv) > 3:
        raise bad_subcommand("ACL", argv[1])
    if len(argv) == 3 and argv[2].upper() == b"RESET":
        server.acl_log.reset()
        return OK
    count = integer(argv[2]) if len(argv) == 3 else _LOG_SHOWN
    return array([_log_entry(entry, server.now_ms) for entry in server.acl_log.entries(count)])


def _log_entry(entry: AclEntry, now_ms: int) -> Reply:
    return Map(
        [
            (bulk(b"count"), number(entry.count)),
            (bulk(b"reason"), bulk(b"auth")),
            (bulk(b"context"), bulk(entry.context)),
            (bulk(b"object"), bulk(entry.word)),
            (bulk(b"username"), bulk(entry.user)),
            (bulk(b"age-seconds"), Double(max(0, now_ms - entry.updated_ms) / 1000)),
            (bulk(b"client-info"), bulk(entry.client)),
            (bulk(b"entry-id"), number(entry.id)),
            (bulk(b"timestamp-created"), number(entry.created_ms)),
            (bulk(b"timestamp-last-updated"), number(entry.updated_ms)),
        ]
    )


def acl_dryrun(argv: list[bytes], session: Session) -> Reply:
    """ACL DRYRUN username command [arg ...]: the default user may do everything."""
    if argv[2] != DEFAULT_USER:
        raise fail(error(b"ERR User '%b' not found" % argv[2][:128]))
    spec = session.server.table.resolve(argv[3:])
    if spec is None:
        raise fail(error(b"ERR Command '%b' not found" % argv[3][:128]))
    if not spec.fits(len(argv) - 3):
        raise fail(errors.wrong_arity(spec.name))
    return OK


def acl_setuser(argv: list[bytes], session: Session) -> Reply:
    """ACL SETUSER: not possible."""
    raise fail(NO_USERS)


def acl_deluser(argv: list[bytes], session: Session) -> Reply:
    """ACL DELUSER username ...: 0, only the default user exists and it stays."""
    if DEFAULT_USER in argv[2:]:
        raise fail(DEFAULT_STAYS)
    return number(0)


def acl_file(argv: list[bytes], session: Session) -> Reply:
    """ACL LOAD and ACL SAVE: there is no ACL file."""
    raise fail(NO_ACL_FILE)


def acl_help(argv: list[bytes], session: Session) -> Reply:
    """ACL HELP"""
    return help_reply(
        "ACL",
        (
            "CAT [<category>]",
            "    List all commands that belong to <category>, or all command categories",
            "    when no category is specified.",
            "DELUSER <username> [<username> ...]",
            "    Delete a list of users.",
            "DRYRUN <username> <command> [<arg> ...]",
            "    Returns whether the user can execute the given command without executing the command.",
            "GETUSER <username>",
            "    Get the user's details.",
            "GENPASS [<bits>]",
            "    Generate a secure 256-bit user password. The optional `bits` argument can",
            "    be used to specify a different size.",
            "LIST",
            "    Show users details in config file format.",
            "LOG [<count> | RESET]",
            "    Show the ACL log entries.",
            "USERS",
            "    List all the registered usernames.",
            "WHOAMI",
            "    Return the current connection username.",
        ),
    )


_FLAGS: Final = NOSCRIPT | LOADING | STALE
_USERNAME: Final = (Arg("username"),)
_SOME: Final = ("optional", "multiple")
_BY_USERS: Final = "O(N). Where N is the number of configured users."

#: name, handler, arity, administrators only, complexity, summary, arguments
_ROWS: Final = (
    ("cat", acl_cat, -2, False, "O(N) with N commands",
     "Lists the ACL categories, or the commands inside a category.", (Arg("category", flags=("optional",)),)),
    ("deluser", acl_deluser, -3, True, "O(1)", "Deletes ACL users, and terminates their connections.",
     (Arg("username", flags=("multiple",)),)),
    ("dryrun", acl_dryrun, -4, True, "O(1).",
     "Simulates the execution of a command by a user, without executing the command.",
     (Arg("username"), Arg("command"), Arg("arg", flags=_SOME))),
    ("genpass", acl_genpass, -2, False, "O(1)", "Generates a pseudorandom, secure password.",
     (Arg("bits", ArgType.INTEGER, flags=("optional",)),)),
    ("getuser", acl_getuser, 3, True, "O(1)", "Lists the ACL rules of a user.", _USERNAME),
    ("list", acl_list, 2, True, _BY_USERS, "Dumps the effective rules in ACL file format.", ()),
    ("load", acl_file, 2, True, _BY_USERS, "Reloads the rules from the configured ACL file.", ()),
    ("log", acl_log, -2, True, "O(N) with N being the number of entries shown.",
     "Lists recent security events generated due to ACL rules.",
     (Arg("operation", ArgType.ONEOF, flags=("optional",), args=(
         Arg("count", ArgType.INTEGER), Arg("reset", ArgType.PURE_TOKEN, "RESET"))),)),
    ("save", acl_file, 2, True, _BY_USERS, "Saves the effective ACL rules in the configured ACL file.", ()),
    ("setuser", acl_setuser, -3, True, "O(N). Where N is the number of rules provided.",
     "Creates and modifies an ACL user and its rules.", (Arg("username"), Arg("rule", flags=_SOME))),
    ("users", acl_users, 2, True, _BY_USERS, "Lists all ACL users.", ()),
    ("whoami", acl_whoami, 2, False, "O(1)", "Returns the authenticated username of the current connection.", ()),
)  # fmt: skip
_HISTORY: Final = {
    "getuser": (
        ("6.2.0", "Added Pub/Sub channel patterns."),
        ("7.0.0", "Added selectors and changed the format of key and channel patterns from a list to their rule"
                  " representation."),
    ),
    "setuser": (
        ("6.2.0", "Added Pub/Sub channel patterns."),
        ("7.0.0", "Added selectors and key based permissions."),
    ),
}  # fmt: skip

COMMANDS: Final = (
    CommandSpec(
        "acl", None, -2, acl=("slow",), form=Form.SESSION, group="server", since="6.0.0",
        complexity="Depends on subcommand.", summary="A container for Access List Control commands.",
        subcommands=(
            CommandSpec(
                "acl|help", acl_help, 2, LOADING | STALE, acl=("slow",), form=Form.SESSION, group="server",
                since="6.0.0", complexity="O(1)", summary="Returns helpful text about the different subcommands.",
            ),
            *(
                CommandSpec(
                    f"acl|{name}", handler, arity, _FLAGS | ADMIN if admin else _FLAGS,
                    acl=("admin", "slow", "dangerous") if admin else ("slow",), form=Form.SESSION, group="server",
                    since="7.0.0" if name == "dryrun" else "6.0.0", complexity=complexity, summary=summary,
                    history=_HISTORY.get(name, ()), args=args,
                )
                for name, handler, arity, admin, complexity, summary, args in _ROWS
            ),
        ),
    ),
)  # fmt: skip
