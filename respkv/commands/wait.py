"""WAIT and WAITAOF: how many copies have what this connection wrote.

A node alone has no replicas, so WAIT for one ends at its timeout, as Redis does. WAITAOF forces the log to
disk and answers once everything written before is there, whatever ``appendfsync`` says.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from respkv.commands.arguments import INT64_MAX, integer
from respkv.commands.session import Pending, Session
from respkv.commands.spec import NOSCRIPT, Arg, ArgType, CommandSpec, Form
from respkv.resp import errors
from respkv.resp.errors import fail
from respkv.resp.reply import Reply, array, error
from respkv.resp.reply import integer as number

NUMLOCAL_RANGE: Final = error(b"ERR value is out of range, value must between 0 and 1")
MUST_BE_POSITIVE: Final = error(b"ERR value is out of range, must be positive")
TIMEOUT_RANGE: Final = error(b"ERR timeout is out of range")


def timeout_ms(argument: bytes) -> int:
    """A timeout argument in milliseconds; 0 means none."""
    value = integer(argument, errors.TIMEOUT_NOT_INTEGER)
    if value < 0:
        raise fail(errors.TIMEOUT_NEGATIVE)
    if value > INT64_MAX // 1000:
        raise fail(TIMEOUT_RANGE)
    return value


def block(session: Session, limit_ms: int, on_timeout: Callable[[], Reply]) -> Pending:
    """A pending reply that CLIENT UNBLOCK, or the end of ``limit_ms`` (0: never), completes."""
    cancels: list[Callable[[], None]] = []

    def end(reply: Reply) -> None:
        session.blocked = None
        for cancel in cancels:
            cancel()
        cancels.clear()
        pending.complete(reply)

    def unblock(refusal: bytes | None) -> None:
        end(on_timeout() if refusal is None else refusal)

    pending = Pending(unblock)
    session.blocked = pending
    if limit_ms:
        cancels.append(session.server.after_us(limit_ms * 1000, lambda: unblock(None)))
    return pending


def wait(argv: list[bytes], session: Session) -> Reply | Pending:
    """WAIT numreplicas timeout: the number of replicas that have this connection's writes."""
    wanted = integer(argv[1])
    limit_ms = timeout_ms(argv[2])
    if wanted <= 0 or session.multi is not None:
        return number(0)
    return block(session, limit_ms, lambda: number(0))


def waitaof(argv: list[bytes], session: Session) -> Reply | Pending:
    """WAITAOF numlocal numreplicas timeout: [1 when the local log is on disk, replicas whose log is]."""
    local = integer(argv[1])
    if not 0 <= local <= 1:
        raise fail(NUMLOCAL_RANGE)
    replicas = integer(argv[2])
    if replicas < 0:
        raise fail(MUST_BE_POSITIVE)
    limit_ms = timeout_ms(argv[3])
    synced = [0]

    def answer() -> Reply:
        return array([number(synced[0]), number(0)])

    if session.multi is not None or not (local or replicas):
        return answer()
    pending = block(session, limit_ms, answer)

    def on_synced() -> None:
        synced[0] = 1
        if not replicas and pending.reply is None and pending.on_unblock is not None:
            pending.on_unblock(None)

    session.server.synced(on_synced)
    return answer() if pending.reply is not None else pending


_TIPS: Final = ("request_policy:all_shards", "response_policy:agg_min")

COMMANDS: Final = (
    CommandSpec(
        "wait", wait, 3, NOSCRIPT, acl=("slow", "connection"), form=Form.SESSION, group="generic", since="3.0.0",
        complexity="O(1)", tips=_TIPS,
        summary="Blocks until the asynchronous replication of all preceding write commands sent by the connection"
                " is completed.",
        args=(Arg("numreplicas", ArgType.INTEGER), Arg("timeout", ArgType.INTEGER)),
    ),
    CommandSpec(
        "waitaof", waitaof, 4, NOSCRIPT, acl=("slow", "connection"), form=Form.SESSION, group="generic",
        since="7.2.0", complexity="O(1)", tips=_TIPS,
        summary="Blocks until all of the preceding write commands sent by the connection are written to the log of"
                " the server and/or its replicas.",
        args=(
            Arg("numlocal", ArgType.INTEGER), Arg("numreplicas", ArgType.INTEGER), Arg("timeout", ArgType.INTEGER),
        ),
    ),
)  # fmt: skip
