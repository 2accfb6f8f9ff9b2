"""MONITOR: every request that any client sends, as a status line.

Secrets never appear there, nor in the slow log: ``redacted`` replaces them.
"""

from __future__ import annotations

from typing import Final

from respkv.commands.session import Session
from respkv.commands.spec import ADMIN, BARRIER, LOADING, NOSCRIPT, STALE, CommandSpec, Form
from respkv.resp.errors import fail
from respkv.resp.reply import OK, Reply, error

IN_MULTI: Final = error(b"ERR MONITOR isn't allowed for DENY BLOCKING client")
REDACTED: Final = b"(redacted)"
_SECRET_DIRECTIVES: Final = frozenset(
    (b"requirepass", b"masterauth", b"tls-key-file-pass", b"tls-client-key-file-pass")
)
_ESCAPES: Final = {34: b'\\"', 92: b"\\\\", 10: b"\\n", 13: b"\\r", 9: b"\\t", 7: b"\\a", 8: b"\\b"}
_SHOWN: Final = tuple(
    _ESCAPES.get(byte) or (bytes((byte,)) if 32 <= byte < 127 else b"\\x%02x" % byte) for byte in range(256)
)


def quoted(text: bytes) -> bytes:
    """``text`` in double quotes, everything unprintable escaped."""
    if text.isascii() and text.isalnum():
        return b'"%b"' % text
    return b'"%b"' % b"".join([_SHOWN[byte] for byte in text])


def redacted(argv: list[bytes]) -> list[bytes]:
    """``argv`` with passwords replaced; ``argv`` itself when it holds none."""
    word = argv[0].lower()
    if word == b"auth":
        return [argv[0], *(REDACTED for _ in argv[1:])]
    if word == b"hello":
        for at in range(2, len(argv)):
            if argv[at].lower() == b"auth":
                return [*argv[: at + 1], *(REDACTED for _ in argv[at + 1 : at + 3]), *argv[at + 3 :]]
    if word == b"config" and len(argv) > 3 and argv[1].lower() == b"set":
        shown = list(argv)
        for at in range(2, len(argv) - 1, 2):
            if argv[at].lower() in _SECRET_DIRECTIVES:
                shown[at + 1] = REDACTED
        return shown
    return argv


def monitor_line(wall_us: int, db: int, address: str, argv: list[bytes]) -> bytes:
    """The finished status line of one request."""
    seconds, micros = divmod(wall_us, 1_000_000)
    words = b" ".join([quoted(argument) for argument in redacted(argv)])
    return b"+%d.%06d [%d %b] %b\r\n" % (seconds, micros, db, address.encode(), words)


def monitor(argv: list[bytes], session: Session) -> Reply:
    """MONITOR: this connection sees all requests from now on."""
    if session.multi is not None:
        # Its OK would stand inside EXEC's array, and lines between the others.
        raise fail(IN_MULTI)
    if not session.is_monitor:
        session.is_monitor = True
        session.server.monitors.append(session)
        session.recompute_plain()
        session.server.recompute_plain()
    return OK


COMMANDS: Final = (
    CommandSpec(
        "monitor", monitor, 1, ADMIN | NOSCRIPT | LOADING | STALE | BARRIER, acl=("admin", "slow", "dangerous"),
        form=Form.SESSION, group="server", summary="Listens for all requests received by the server in real-time.",
    ),
)  # fmt: skip
