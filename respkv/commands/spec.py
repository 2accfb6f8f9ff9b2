"""One row a command: what the table, the router, COMMAND, ACL and the metrics know about it.

Three kinds of handler exist, told apart by ``CommandSpec.form``:

* ``DATA``: ``(argv, view) -> (reply, effects)``, pure; may be run again from its start (``ReadMiss``) and runs
  in MULTI.
* ``SESSION``: ``(argv, session) -> reply | Pending | None``; connection and administration. None = no reply.
* ``WALK``: a generator ``(argv, view)`` over the keyspace. It yields None where it may be suspended or a
  ``BlockRequest`` that must be fetched before it is resumed, and returns ``(reply, effects)``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final


class Flag:
    """Redis' command flags, then our own (never shown by COMMAND).

    Plain numbers: ``enum.IntFlag`` takes two microseconds for an ``&``, and each request asks for some.
    """

    WRITE: Final = 1 << 0
    READONLY: Final = 1 << 1
    DENYOOM: Final = 1 << 2
    ADMIN: Final = 1 << 3
    PUBSUB: Final = 1 << 4
    NOSCRIPT: Final = 1 << 5
    BLOCKING: Final = 1 << 6
    LOADING: Final = 1 << 7
    STALE: Final = 1 << 8
    SKIP_MONITOR: Final = 1 << 9
    SKIP_SLOWLOG: Final = 1 << 10
    ASKING: Final = 1 << 11
    FAST: Final = 1 << 12
    NO_AUTH: Final = 1 << 13
    MAY_REPLICATE: Final = 1 << 14
    NO_ASYNC_LOADING: Final = 1 << 15
    NO_MULTI: Final = 1 << 16
    MOVABLEKEYS: Final = 1 << 17
    ALLOW_BUSY: Final = 1 << 18
    NO_MANDATORY_KEYS: Final = 1 << 19
    PROTECTED: Final = 1 << 20
    #: reads before it writes; on a ring it runs at the acting primary or in the register
    ATOMIC: Final = 1 << 32
    #: a compare-and-set: linearizable whatever the level
    CONDITIONAL: Final = 1 << 33
    #: may not run together with other requests of its connection
    BARRIER: Final = 1 << 34
    #: allowed while a RESP2 connection is subscribed
    IN_PUBSUB: Final = 1 << 35


#: How COMMAND prints the flags, in Redis' order. It hides one.
FLAG_NAMES: Final[dict[int, str]] = {
    flag: name.lower()
    for name, flag in vars(Flag).items()
    if isinstance(flag, int) and flag < Flag.ATOMIC and flag != Flag.MAY_REPLICATE
}

NO_FLAGS: Final = 0
WRITE: Final = Flag.WRITE
READONLY: Final = Flag.READONLY
DENYOOM: Final = Flag.DENYOOM
ADMIN: Final = Flag.ADMIN
FAST: Final = Flag.FAST
NOSCRIPT: Final = Flag.NOSCRIPT
LOADING: Final = Flag.LOADING
STALE: Final = Flag.STALE
ATOMIC: Final = Flag.ATOMIC
CONDITIONAL: Final = Flag.CONDITIONAL
BARRIER: Final = Flag.BARRIER


_ANSWER_WHAT_WAS: Final = frozenset({"getdel", "getex", "getset"})


class Form(Enum):
    """What a handler takes and gives."""

    DATA = "data"
    SESSION = "session"
    WALK = "walk"


#: For loops over requests: a member of an Enum, asked of its class, is a look-up by way of the metaclass.
DATA: Final = Form.DATA
SESSION: Final = Form.SESSION
WALK: Final = Form.WALK


@dataclass(frozen=True, slots=True)
class KeySpec:
    """Where keys stand in argv.

    Range form: from ``first`` to ``last`` (negative: from the end, -1 = the last argument) by ``step``.
    Key-number form: ``keynum`` is the index of the argument that counts the keys, which start at ``first``
    (then ``last`` and the range are computed). ``flags`` are COMMAND's: RW, RO, OW, RM, ACCESS,
    UPDATE, INSERT, DELETE, variable_flags ...
    """

    first: int = 1
    last: int = 1
    step: int = 1
    keynum: int | None = None
    keyword: bytes | None = None
    flags: tuple[str, ...] = ()
    notes: str = ""

    def keys(self, argv: list[bytes]) -> list[int]:
        """Indexes of the keys in ``argv``; empty when the count argument is not a fitting number."""
        size = len(argv)
        if self.keynum is not None:
            if self.keynum >= size:
                return []
            try:
                count = int(argv[self.keynum])
            except ValueError:
                return []
            last = self.first + (count - 1) * self.step
            if count <= 0 or last >= size:
                return []
        else:
            last = self.last if self.last >= 0 else size + self.last
        return list(range(self.first, min(last, size - 1) + 1, self.step))


class ArgType(Enum):
    """COMMAND DOCS' argument types."""

    STRING = "string"
    INTEGER = "integer"
    DOUBLE = "double"
    KEY = "key"
    PATTERN = "pattern"
    UNIX_TIME = "unix-time"
    PURE_TOKEN = "pure-token"
    ONEOF = "oneof"
    BLOCK = "block"


@dataclass(frozen=True, slots=True)
class Arg:
    """One argument as COMMAND DOCS shows it."""

    name: str
    type: ArgType = ArgType.STRING
    token: str = ""
    flags: tuple[str, ...] = ()  # optional, multiple, multiple_token
    since: str = ""
    key_spec: int | None = None
    args: tuple[Arg, ...] = ()
    display: str = ""


@dataclass(frozen=True, slots=True)
class CommandSpec:
    """A command or a subcommand (then ``name`` is ``container|sub``).

    ``arity`` counts the command word(s), negative = at least. ``acl`` are category names without ``@``;
    ``tips`` COMMAND's tips. A container has no handler of its own (``handler is None``) but may have one
    for the bare call.
    """

    name: str
    handler: Callable[..., Any] | None
    arity: int
    flags: int = NO_FLAGS
    keys: tuple[KeySpec, ...] = ()
    acl: tuple[str, ...] = ()
    form: Form = Form.DATA
    group: str = "generic"
    since: str = "1.0.0"
    complexity: str = ""
    summary: str = ""
    args: tuple[Arg, ...] = ()
    tips: tuple[str, ...] = ()
    history: tuple[tuple[str, str], ...] = ()
    deprecated_since: str = ""
    replaced_by: str = ""
    subcommands: tuple[CommandSpec, ...] = field(default=())
    #: the handler takes the table's ``Settings`` as a third argument; the table binds it
    settings: bool = False

    @property
    def counts(self) -> bool:
        """Its look-ups are hits and misses: those of a reader, and of a writer that answers what it has read."""
        return bool(self.flags & Flag.READONLY) or self.name in _ANSWER_WHAT_WAS

    def fits(self, count: int) -> bool:
        """True when ``count`` words satisfy the arity."""
        return count == self.arity if self.arity >= 0 else count >= -self.arity
