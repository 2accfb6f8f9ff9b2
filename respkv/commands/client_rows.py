"""The rows of CLIENT's subcommands, apart from their handlers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from respkv.commands.spec import ADMIN, BARRIER, LOADING, NOSCRIPT, STALE, Arg, ArgType, CommandSpec, Form

_OPTIONAL: Final = ("optional",)
_N_CLIENTS: Final = "O(N) where N is the number of client connections"


def _choice(name: str, *words: str, flags: tuple[str, ...] = (), token: str = "", since: str = "") -> Arg:
    """One of several words."""
    options = tuple(Arg(word.lower(), ArgType.PURE_TOKEN, word) for word in words)
    return Arg(name, ArgType.ONEOF, token, flags, since, args=options)


_ON_OFF: Final = _choice("enabled", "ON", "OFF")
_KILL: Final = Arg("filter", ArgType.ONEOF, args=(
    Arg("ip:port", display="old-format"),
    Arg("new-format", ArgType.ONEOF, flags=("multiple",), args=(
        Arg("client-id", ArgType.INTEGER, "ID", _OPTIONAL, "2.8.12"),
        Arg("client-type", ArgType.ONEOF, "TYPE", _OPTIONAL, "2.8.12", args=(
            Arg("normal", ArgType.PURE_TOKEN, "NORMAL"),
            Arg("master", ArgType.PURE_TOKEN, "MASTER", since="3.2.0"),
            Arg("slave", ArgType.PURE_TOKEN, "SLAVE"),
            Arg("replica", ArgType.PURE_TOKEN, "REPLICA", since="5.0.0"),
            Arg("pubsub", ArgType.PURE_TOKEN, "PUBSUB"),
        )),
        Arg("username", ArgType.STRING, "USER", _OPTIONAL),
        Arg("addr", ArgType.STRING, "ADDR", _OPTIONAL, display="ip:port"),
        Arg("laddr", ArgType.STRING, "LADDR", _OPTIONAL, "6.2.0", display="ip:port"),
        _choice("skipme", "YES", "NO", flags=_OPTIONAL, token="SKIPME"),
        Arg("maxage", ArgType.INTEGER, "MAXAGE", _OPTIONAL, "7.4.0"),
    )),
))  # fmt: skip
_LIST: Final = (
    _choice("client-type", "NORMAL", "MASTER", "REPLICA", "PUBSUB", flags=_OPTIONAL, token="TYPE", since="5.0.0"),
    Arg("client-id", ArgType.INTEGER, "ID", ("optional", "multiple"), "6.2.0"),
)
_TRACKING: Final = (
    _choice("status", "ON", "OFF"),
    Arg("client-id", ArgType.INTEGER, "REDIRECT", _OPTIONAL),
    Arg("prefix", ArgType.STRING, "PREFIX", ("optional", "multiple", "multiple_token")),
    *(Arg(word.lower(), ArgType.PURE_TOKEN, word, _OPTIONAL) for word in ("BCAST", "OPTIN", "OPTOUT", "NOLOOP")),
)

#: name -> arity, since, whether it is an administrator's, complexity, summary, arguments
_ROWS: Final[dict[str, tuple[int, str, bool, str, str, tuple[Arg, ...]]]] = {
    "caching": (3, "6.0.0", False, "O(1)", "Instructs the server whether to track the keys in the next request.",
                (_choice("mode", "YES", "NO"),)),
    "getname": (2, "2.6.9", False, "O(1)", "Returns the name of the connection.", ()),
    "getredir": (2, "6.0.0", False, "O(1)",
                 "Returns the client ID to which the connection's tracking notifications are redirected.", ()),
    "help": (2, "5.0.0", False, "O(1)", "Returns helpful text about the different subcommands.", ()),
    "id": (2, "5.0.0", False, "O(1)", "Returns the unique client ID of the connection.", ()),
    "info": (2, "6.2.0", False, "O(1)", "Returns information about the connection.", ()),
    "kill": (-3, "2.4.0", True, _N_CLIENTS, "Terminates open connections.", (_KILL,)),
    "list": (-2, "2.4.0", True, _N_CLIENTS, "Lists open connections.", _LIST),
    "no-evict": (3, "7.0.0", True, "O(1)", "Sets the client eviction mode of the connection.", (_ON_OFF,)),
    "no-touch": (3, "7.2.0", False, "O(1)",
                 "Controls whether commands sent by the client affect the LRU/LFU of accessed keys.", (_ON_OFF,)),
    "pause": (-3, "2.9.50", True, "O(1)", "Suspends commands processing.",
              (Arg("timeout", ArgType.INTEGER), _choice("mode", "WRITE", "ALL", flags=_OPTIONAL, since="6.2.0"))),
    "reply": (3, "3.2.0", False, "O(1)", "Instructs the server whether to reply to commands.",
              (_choice("action", "ON", "OFF", "SKIP"),)),
    "setinfo": (4, "7.2.0", False, "O(1)", "Sets information specific to the client or connection.",
                (Arg("attr", ArgType.ONEOF, args=(Arg("libname", ArgType.STRING, "LIB-NAME"),
                                                  Arg("libver", ArgType.STRING, "LIB-VER"))),)),
    "setname": (3, "2.6.9", False, "O(1)", "Sets the connection name.", (Arg("connection-name"),)),
    "tracking": (-3, "6.0.0", False, "O(1). Some options may introduce additional complexity.",
                 "Controls server-assisted client-side caching for the connection.", _TRACKING),
    "trackinginfo": (2, "6.2.0", False, "O(1)",
                     "Returns information about server-assisted client-side caching for the connection.", ()),
    "unblock": (-3, "5.0.0", True, "O(1)",
                "Unblocks a client blocked by a blocking command from a different connection.",
                (Arg("client-id", ArgType.INTEGER), _choice("unblock-type", "TIMEOUT", "ERROR", flags=_OPTIONAL))),
    "unpause": (2, "6.2.0", True, "O(N) where N is the number of paused clients",
                "Resumes processing commands from paused clients.", ()),
}  # fmt: skip

_HISTORY: Final = {
    "kill": (
        ("2.8.12", "Added new filter format."),
        ("2.8.12", "`ID` option."),
        ("3.2.0", "Added `master` type in for `TYPE` option."),
        ("5.0.0", "Replaced `slave` `TYPE` with `replica`. `slave` still supported for backward compatibility."),
        ("6.2.0", "`LADDR` option."),
        ("7.4.0", "`MAXAGE` option."),
    ),
    "list": (
        ("2.8.12", "Added unique client `id` field."),
        ("5.0.0", "Added optional `TYPE` filter."),
        ("6.0.0", "Added `user` field."),
        ("6.2.0", "Added `argv-mem`, `tot-mem`, `laddr` and `redir` fields and the optional `ID` filter."),
        ("7.0.0", "Added `resp`, `multi-mem`, `rbs` and `rbp` fields."),
        ("7.0.3", "Added `ssub` field."),
    ),
    "pause": (("6.2.0", "`CLIENT PAUSE WRITE` mode added along with the `mode` option."),),
}
_TIPS: Final = {
    "info": ("nondeterministic_output",),
    "list": ("nondeterministic_output",),
    "setinfo": ("request_policy:all_nodes", "response_policy:all_succeeded"),
}


def rows(handlers: Mapping[str, Callable[..., Any]]) -> tuple[CommandSpec, ...]:
    """One row per subcommand, with its handler."""
    found = []
    for name, (arity, since, admin, complexity, summary, args) in _ROWS.items():
        flags = LOADING | STALE
        if name != "help":
            flags |= NOSCRIPT | BARRIER
        if admin:
            flags |= ADMIN
        found.append(
            CommandSpec(
                f"client|{name}",
                handlers[name],
                arity,
                flags,
                acl=("admin", "slow", "dangerous", "connection") if admin else ("slow", "connection"),
                form=Form.SESSION,
                group="connection",
                since=since,
                complexity=complexity,
                summary=summary,
                args=args,
                tips=_TIPS.get(name, ()),
                history=_HISTORY.get(name, ()),
            )
        )
    return tuple(found)
