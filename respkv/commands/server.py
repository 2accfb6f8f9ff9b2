"""The server as a whole: INFO TIME ROLE SAVE BGSAVE LASTSAVE SHUTDOWN LOLWUT, and what this server does not offer.

Replication to or from Redis servers, modules and rewriting an append-only file are not offered; each of those
commands is a clear error. The groups ACL and CLUSTER have files of their own and are joined here.
"""

from __future__ import annotations

from typing import Final

from respkv.commands import acl, cluster
from respkv.commands.arguments import integer
from respkv.commands.help_text import help_reply
from respkv.commands.info import info
from respkv.commands.session import Pending, Session
from respkv.commands.spec import (
    ADMIN,
    BARRIER,
    FAST,
    LOADING,
    NOSCRIPT,
    READONLY,
    STALE,
    Arg,
    ArgType,
    CommandSpec,
    Flag,
    Form,
)
from respkv.resp import errors
from respkv.resp.errors import fail
from respkv.resp.reply import EMPTY_ARRAY, OK, Reply, Verbatim, array, bulk, bulk_array, error, simple
from respkv.resp.reply import integer as number

SAVE_IN_PROGRESS: Final = error(b"ERR Background save already in progress")
NO_SHUTDOWN: Final = error(b"ERR No shutdown in progress.")
NO_REWRITE: Final = error(
    b"ERR BGREWRITEAOF is not supported: the log is cut off by itself whenever its data is in tables"
)
NO_REPLICATION: Final = error(
    b"ERR replication with Redis servers is not supported; BGSAVE makes a snapshot of the data directory"
)
NO_FAILOVER: Final = error(b"ERR FAILOVER requires connected replicas.")
NO_FAILOVER_TO_ABORT: Final = error(b"ERR No failover in progress.")
BAD_FAILOVER_TIMEOUT: Final = error(b"ERR FAILOVER timeout must be greater than 0")
#: Words of FAILOVER and how many others each takes.
_FAILOVER_WORDS: Final = {b"TIMEOUT": 1, b"TO": 2, b"FORCE": 0}
NO_MODULES: Final = error(b"ERR modules are not supported")


def time(argv: list[bytes], session: Session) -> Reply:
    """TIME: seconds and microseconds of the wall clock."""
    seconds, micros = divmod(session.server.clock.wall_us(), 1_000_000)
    return bulk_array([b"%d" % seconds, b"%d" % micros])


def role(argv: list[bytes], session: Session) -> Reply:
    """ROLE: a master without replicas."""
    return array([bulk(b"master"), number(0), EMPTY_ARRAY])


def lastsave(argv: list[bytes], session: Session) -> Reply:
    """LASTSAVE: Unix seconds of the last good snapshot, or of the start."""
    return number(session.server.snapshots.last_save_ms // 1000)


def save(argv: list[bytes], session: Session) -> Reply | Pending:
    """SAVE: a snapshot; the answer comes when it is there. Others are served meanwhile."""
    server = session.server
    if server.snapshots.busy:
        raise fail(SAVE_IN_PROGRESS)
    pending = Pending()

    def done(problem: str) -> None:
        pending.complete(error(b"ERR " + problem.encode()) if problem else OK)

    server.snapshot(done)
    return pending if pending.reply is None else pending.reply


def bgsave(argv: list[bytes], session: Session) -> Reply:
    """BGSAVE [SCHEDULE]: begin a snapshot; INFO persistence tells how it went."""
    server = session.server
    if len(argv) > 2 or (len(argv) == 2 and argv[1].upper() != b"SCHEDULE"):
        raise fail(errors.SYNTAX)
    if server.snapshots.busy:
        raise fail(SAVE_IN_PROGRESS)
    # What fails at once is told at once.
    problems: list[str] = []
    server.snapshot(problems.append)
    if problems and problems[0]:
        raise fail(error(b"ERR " + problems[0].encode()))
    return simple(b"Background saving started")


def bgrewriteaof(argv: list[bytes], session: Session) -> Reply:
    """BGREWRITEAOF: there is nothing to rewrite."""
    raise fail(NO_REWRITE)


def shutdown(argv: list[bytes], session: Session) -> Reply | None:
    """SHUTDOWN [NOSAVE | SAVE] [NOW] [FORCE] [ABORT]: no reply, the connection ends with the process."""
    words = [word.upper() for word in argv[1:]]
    if any(word not in (b"NOSAVE", b"SAVE", b"NOW", b"FORCE", b"ABORT") for word in words):
        raise fail(errors.SYNTAX)
    if (b"NOSAVE" in words and b"SAVE" in words) or (b"ABORT" in words and len(set(words)) > 1):
        raise fail(errors.SYNTAX)
    if b"ABORT" in words:
        if not session.server.abort_shutdown():
            raise fail(NO_SHUTDOWN)
        return OK
    chosen = True if b"SAVE" in words else False if b"NOSAVE" in words else None
    session.server.shutdown(save=chosen, now=b"NOW" in words, force=b"FORCE" in words)
    return None


def lolwut(argv: list[bytes], session: Session) -> Reply:
    """LOLWUT [VERSION version ...]: the slots of a ring, drawn by chance, and the version."""
    rng = session.server.rng
    rows = ["".join(rng.choice(" .:oO@") for _ in range(40)) for _ in range(8)]
    version = session.server.config.string("respkv-reported-version")
    return Verbatim(("\n".join(rows) + f"\nRedis ver. {version}\n").encode())


def replicaof(argv: list[bytes], session: Session) -> Reply:
    """REPLICAOF NO ONE is true already; anything else is not offered."""
    if argv[1].upper() == b"NO" and argv[2].upper() == b"ONE":
        return OK
    raise fail(NO_REPLICATION)


def no_replication(argv: list[bytes], session: Session) -> Reply:
    """REPLCONF, SYNC and PSYNC are not offered."""
    raise fail(NO_REPLICATION)


def failover(argv: list[bytes], session: Session) -> Reply:
    """FAILOVER [TO host port [FORCE]] [ABORT] [TIMEOUT milliseconds]: nobody is there to take over."""
    if len(argv) == 2 and argv[1].upper() == b"ABORT":
        raise fail(NO_FAILOVER_TO_ABORT)
    at, seen = 1, dict[bytes, None]()
    while at < len(argv):
        word = argv[at].upper()
        more = len(argv) - at - 1
        if word in seen or more < _FAILOVER_WORDS.get(word, len(argv)):
            raise fail(errors.SYNTAX)
        if word == b"TIMEOUT" and integer(argv[at + 1]) <= 0:
            raise fail(BAD_FAILOVER_TIMEOUT)
        if word == b"TO":
            integer(argv[at + 2])
        seen[word] = None
        at += 1 + _FAILOVER_WORDS[word]
    raise fail(NO_FAILOVER)


def module_list(argv: list[bytes], session: Session) -> Reply:
    """MODULE LIST: none."""
    return EMPTY_ARRAY


def no_modules(argv: list[bytes], session: Session) -> Reply:
    """MODULE LOAD, LOADEX and UNLOAD are not offered."""
    raise fail(NO_MODULES)


def module_help(argv: list[bytes], session: Session) -> Reply:
    """MODULE HELP"""
    return help_reply("MODULE", ("LIST", "    Return a list of loaded modules: there are never any."))


_DANGEROUS: Final = ("admin", "slow", "dangerous")
_QUICK: Final = ("admin", "fast", "dangerous")
_ADMIN: Final = ADMIN | NOSCRIPT | Flag.NO_ASYNC_LOADING | BARRIER
_INTERNAL: Final = "Internal command used for replication."
_OPTIONAL: Final = ("optional",)
_HOST: Final = (
    Arg("args", ArgType.ONEOF, args=(
        Arg("host-port", ArgType.BLOCK, args=(Arg("host"), Arg("port", ArgType.INTEGER))),
        Arg("no-one", ArgType.BLOCK, args=(
            Arg("no", ArgType.PURE_TOKEN, "NO"), Arg("one", ArgType.PURE_TOKEN, "ONE"),
        )),
    )),
)  # fmt: skip
_REPLICAOF: Final = "Configures a server as replica of another, or promotes it to a master."
_SOME: Final = ("optional", "multiple")


def _word(word: str, since: str = "") -> Arg:
    return Arg(word.lower(), ArgType.PURE_TOKEN, word, _OPTIONAL, since)


_MODULE: Final = CommandSpec(
    "module", None, -2, acl=("slow",), form=Form.SESSION, group="server", since="4.0.0",
    complexity="Depends on subcommand.", summary="A container for module commands.",
    subcommands=(
        CommandSpec(
            "module|help", module_help, 2, LOADING | STALE, acl=("slow",), form=Form.SESSION, group="server",
            since="5.0.0", complexity="O(1)", summary="Returns helpful text about the different subcommands.",
        ),
        CommandSpec(
            "module|list", module_list, 2, ADMIN | NOSCRIPT, acl=_DANGEROUS, form=Form.SESSION, group="server",
            since="4.0.0", complexity="O(N) where N is the number of loaded modules.",
            summary="Returns all loaded modules.", tips=("nondeterministic_output_order",),
        ),
        CommandSpec(
            "module|load", no_modules, -3, _ADMIN, acl=_DANGEROUS, form=Form.SESSION, group="server",
            since="4.0.0", complexity="O(1)", summary="Loads a module.", args=(Arg("path"), Arg("arg", flags=_SOME)),
        ),
        CommandSpec(
            "module|loadex", no_modules, -3, _ADMIN, acl=_DANGEROUS, form=Form.SESSION, group="server",
            since="7.0.0", complexity="O(1)", summary="Loads a module using extended parameters.",
            args=(
                Arg("path"),
                Arg("configs", ArgType.BLOCK, "CONFIG", ("optional", "multiple", "multiple_token"),
                    args=(Arg("name"), Arg("value"))),
                Arg("args", ArgType.BLOCK, "ARGS", _SOME, args=(Arg("arg"),)),
            ),
        ),
        CommandSpec(
            "module|unload", no_modules, 3, _ADMIN, acl=_DANGEROUS, form=Form.SESSION, group="server",
            since="4.0.0", complexity="O(1)", summary="Unloads a module.", args=(Arg("name"),),
        ),
    ),
)  # fmt: skip

_OWN: Final = (
    CommandSpec(
        "info", info, -1, LOADING | STALE, acl=("slow", "dangerous"), form=Form.SESSION, group="server",
        complexity="O(1)", summary="Returns information and statistics about the server.",
        tips=("nondeterministic_output", "request_policy:all_shards", "response_policy:special"),
        history=(("7.0.0", "Added support for taking multiple section arguments."),),
        args=(Arg("section", flags=_SOME),),
    ),
    CommandSpec(
        "time", time, 1, LOADING | STALE | FAST, acl=("fast",), form=Form.SESSION, group="server", since="2.6.0",
        complexity="O(1)", summary="Returns the server time.", tips=("nondeterministic_output",),
    ),
    CommandSpec(
        "role", role, 1, NOSCRIPT | LOADING | STALE | FAST, acl=_QUICK, form=Form.SESSION, group="server",
        since="2.8.12", complexity="O(1)", summary="Returns the replication role.",
    ),
    CommandSpec(
        "lastsave", lastsave, 1, LOADING | STALE | FAST, acl=_QUICK, form=Form.SESSION, group="server",
        complexity="O(1)", summary="Returns the Unix timestamp of the last successful save to disk.",
        tips=("nondeterministic_output",),
    ),
    CommandSpec(
        "save", save, 1, _ADMIN | Flag.NO_MULTI, acl=_DANGEROUS, form=Form.SESSION, group="server",
        complexity="O(N) where N is the number of tables", summary="Synchronously saves the database(s) to disk.",
    ),
    CommandSpec(
        "bgsave", bgsave, -1, _ADMIN, acl=_DANGEROUS, form=Form.SESSION, group="server", complexity="O(1)",
        summary="Asynchronously saves the database(s) to disk.",
        history=(("3.2.2", "Added the `SCHEDULE` option."),), args=(_word("SCHEDULE", "3.2.2"),),
    ),
    CommandSpec(
        "bgrewriteaof", bgrewriteaof, 1, _ADMIN, acl=_DANGEROUS, form=Form.SESSION, group="server",
        complexity="O(1)", summary="Asynchronously rewrites the append-only file to disk.",
    ),
    CommandSpec(
        "shutdown", shutdown, -1, ADMIN | NOSCRIPT | LOADING | STALE | Flag.NO_MULTI | Flag.ALLOW_BUSY | BARRIER,
        acl=_DANGEROUS, form=Form.SESSION, group="server",
        complexity="O(N) where N is the number of tables when saving, otherwise O(1)",
        summary="Synchronously saves the database(s) to disk and shuts down the server.",
        history=(("7.0.0", "Added the `NOW`, `FORCE` and `ABORT` modifiers."),),
        args=(
            Arg("save-selector", ArgType.ONEOF, flags=_OPTIONAL, args=(
                Arg("nosave", ArgType.PURE_TOKEN, "NOSAVE"), Arg("save", ArgType.PURE_TOKEN, "SAVE"),
            )),
            *(_word(word, "7.0.0") for word in ("NOW", "FORCE", "ABORT")),
        ),
    ),
    CommandSpec(
        "lolwut", lolwut, -1, READONLY | FAST, acl=("read", "fast"), form=Form.SESSION, group="server",
        since="5.0.0", complexity="O(1)", summary="Displays computer art and the version.",
        args=(Arg("version", ArgType.INTEGER, "VERSION", _OPTIONAL),),
    ),
    CommandSpec(
        "replicaof", replicaof, 3, _ADMIN | STALE, acl=_DANGEROUS, form=Form.SESSION, group="server",
        since="5.0.0", complexity="O(1)", summary=_REPLICAOF, args=_HOST,
    ),
    CommandSpec(
        "slaveof", replicaof, 3, _ADMIN | STALE, acl=_DANGEROUS, form=Form.SESSION, group="server",
        complexity="O(1)", summary=_REPLICAOF, args=_HOST, deprecated_since="5.0.0", replaced_by="`REPLICAOF`",
    ),
    CommandSpec(
        "failover", failover, -1, ADMIN | NOSCRIPT | STALE, acl=_DANGEROUS, form=Form.SESSION, group="server",
        since="6.2.0", complexity="O(1)",
        summary="Starts a coordinated failover from a server to one of its replicas.",
        args=(
            Arg("target", ArgType.BLOCK, "TO", _OPTIONAL, args=(
                Arg("host"), Arg("port", ArgType.INTEGER), _word("FORCE"),
            )),
            _word("ABORT"),
            Arg("milliseconds", ArgType.INTEGER, "TIMEOUT", _OPTIONAL),
        ),
    ),
    CommandSpec(
        "replconf", no_replication, -1, ADMIN | NOSCRIPT | LOADING | STALE | Flag.ALLOW_BUSY, acl=_DANGEROUS,
        form=Form.SESSION, group="server", since="3.0.0", complexity="O(1)",
        summary="An internal command for configuring the replication stream.",
    ),
    CommandSpec(
        "sync", no_replication, 1, _ADMIN | Flag.NO_MULTI, acl=_DANGEROUS, form=Form.SESSION, group="server",
        summary=_INTERNAL,
    ),
    CommandSpec(
        "psync", no_replication, -3, _ADMIN | Flag.NO_MULTI, acl=_DANGEROUS, form=Form.SESSION, group="server",
        since="2.8.0", summary=_INTERNAL, args=(Arg("replicationid"), Arg("offset", ArgType.INTEGER)),
    ),
    _MODULE,
)  # fmt: skip

COMMANDS: Final = (*_OWN, *acl.COMMANDS, *cluster.COMMANDS)
