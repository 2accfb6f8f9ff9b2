"""Arguments that many commands take alike, as COMMAND DOCS shows them. One shape, one place."""

from __future__ import annotations

from typing import Final

from respkv.commands.spec import Arg, ArgType

#: The first key of a command whose first key specification describes it.
KEY: Final = Arg("key", ArgType.KEY, key_spec=0)
VALUE: Final = Arg("value")
SECONDS: Final = Arg("seconds", ArgType.INTEGER)
MILLISECONDS: Final = Arg("milliseconds", ArgType.INTEGER)
UNIX_SECONDS: Final = Arg("unix-time-seconds", ArgType.UNIX_TIME)
UNIX_MILLISECONDS: Final = Arg("unix-time-milliseconds", ArgType.UNIX_TIME)


def token(word: str, *, since: str = "") -> Arg:
    """A word that stands for itself."""
    return Arg(word.lower(), ArgType.PURE_TOKEN, token=word, since=since)


def one_of(name: str, *choices: Arg, since: str = "") -> Arg:
    """At most one of several arguments."""
    return Arg(name, ArgType.ONEOF, flags=("optional",), since=since, args=choices)


def lifetimes(since: str = "", since_unix: str = "") -> tuple[Arg, ...]:
    """EX seconds, PX milliseconds, EXAT time, PXAT time."""
    return (
        Arg("seconds", ArgType.INTEGER, token="EX", since=since),
        Arg("milliseconds", ArgType.INTEGER, token="PX", since=since),
        Arg("unix-time-seconds", ArgType.UNIX_TIME, token="EXAT", since=since_unix),
        Arg("unix-time-milliseconds", ArgType.UNIX_TIME, token="PXAT", since=since_unix),
    )


LIFETIMES: Final = lifetimes()
KEEPTTL: Final = token("KEEPTTL")
PERSIST: Final = token("PERSIST")
#: [EX s | PX ms | EXAT time | PXAT time | KEEPTTL]
EXPIRY_OR_KEEP: Final = one_of("expiration", *LIFETIMES, KEEPTTL)
#: [EX s | PX ms | EXAT time | PXAT time | PERSIST]
EXPIRY_OR_PERSIST: Final = one_of("expiration", *LIFETIMES, PERSIST)
#: [EX s | PX ms]
RELATIVE_EXPIRY: Final = one_of("expiration", *LIFETIMES[:2])
#: [NX | XX]
IF_ABSENT_OR_PRESENT: Final = one_of("condition", token("NX"), token("XX"))
#: NX | XX | GT | LT, against the expiry there is
EXPIRY_CONDITIONS: Final = tuple(token(word) for word in ("NX", "XX", "GT", "LT"))
#: key value [key value ...]
PAIRS: Final = Arg("key_value", ArgType.BLOCK, flags=("multiple",), args=(KEY, VALUE))


def counted_fields(*names: Arg) -> Arg:
    """FIELDS numfields, and what stands for each field."""
    return Arg("fields", ArgType.BLOCK, token="FIELDS", args=(Arg("numfields", ArgType.INTEGER), *names))


#: FIELDS numfields field [field ...]
FIELDS: Final = counted_fields(Arg("field", flags=("multiple",)))
