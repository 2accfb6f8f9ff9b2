"""DEBUG POPULATE: many keys at once, for tests.

Each key is written by ``SET key value NX`` in the name of the connection, so that everything that holds for a
client's writes (refusals, CLIENT PAUSE, keyspace events, figures) holds here, and keys that exist stay as they are.
The connection waits; others are served between slices of at most ``SLICE_KEYS`` keys, or about ``SLICE_BYTES``
bytes of values. The engine's pressure slows it down as it slows clients. Unlike other requests it ends with its
connection: a count may be as large as it likes. What has been written by then stays.
"""

from __future__ import annotations

from typing import Final

from respkv.base.limits import BRAKE_LOOK_US, HOLD_US
from respkv.commands.arguments import integer
from respkv.commands.session import Pending, Session
from respkv.commands.wait import MUST_BE_POSITIVE
from respkv.resp import errors
from respkv.resp.errors import fail
from respkv.resp.reply import OK, Reply

SLICE_KEYS: Final = 200
SLICE_BYTES: Final = 1 << 20
_DEFAULT_PREFIX: Final = b"key"


class _Populate:
    """One request under way. ``next`` is the number of the key to write next."""

    __slots__ = ("count", "next", "pending", "prefix", "session", "size")

    def __init__(self, session: Session, count: int, prefix: bytes, size: int) -> None:
        self.session = session
        self.count = count
        self.prefix = prefix
        self.size = size
        self.next = 0
        self.pending = Pending()

    def run(self) -> None:
        """One slice; the next one, or the reply, comes by itself."""
        if self.pending.abandoned:
            return
        server = self.session.server
        wait_us = server.keyspace.engine.brake_us()
        if wait_us < HOLD_US and not self._slice():
            return
        server.after_us(BRAKE_LOOK_US if wait_us >= HOLD_US else wait_us, self.run)

    def _end(self, reply: Reply) -> None:
        self.session.blocked = None
        self.pending.complete(reply)

    def _slice(self) -> bool:
        """Write some keys; False when there is nothing more to do now."""
        session = self.session
        mode, last_command = session.reply_mode, session.last_command
        # With CLIENT REPLY OFF the errors of SET would be silent, too.
        session.reply_mode = "on"
        try:
            end = min(self.count, self.next + max(1, min(SLICE_KEYS, SLICE_BYTES // (self.size or 1))))
            while self.next < end:
                if not self._write():
                    return False
        finally:
            session.reply_mode, session.last_command = mode, last_command
        if self.next == self.count:
            self._end(OK)
        return self.next < self.count

    def _write(self) -> bool:
        """Write the next key; False when it must wait for something, or was refused and all is over."""
        number = self.next
        self.next += 1
        value = b"value:%d" % number
        if self.size:
            value = value[: self.size].ljust(self.size, b"\0")
        session = self.session
        reply = session.server.execute(session, [b"SET", b"%b:%d" % (self.prefix, number), value, b"NX"])
        if isinstance(reply, Pending):
            if reply.reply is None:
                waiting = reply
                waiting.on_done = lambda: self._resume(waiting)
                return False
            answer: Reply | None = reply.reply
        else:
            answer = reply
        return self._accepted(answer)

    def _resume(self, waiting: Pending) -> None:
        if not self._accepted(waiting.reply):
            return
        if self.next == self.count:
            self._end(OK)
        else:
            self.session.server.after_us(0, self.run)

    def _accepted(self, reply: Reply | None) -> bool:
        """False when ``reply`` is an error: it is the answer to the whole then."""
        if isinstance(reply, bytes) and reply[:1] == b"-":
            self._end(reply)
            return False
        return True


def populate(argv: list[bytes], session: Session) -> Reply | Pending:
    """DEBUG POPULATE count [prefix] [size]: keys ``prefix:0`` .. of value ``value:<number>``, cut or filled up with
    zero bytes to ``size``. O(count), in slices."""
    count = _not_negative(argv[2])
    prefix = argv[3] if len(argv) > 3 else _DEFAULT_PREFIX
    size = _not_negative(argv[4]) if len(argv) > 4 else 0
    if size > session.server.config.integer("proto-max-bulk-len"):
        raise fail(errors.STRING_TOO_LONG)
    if session.multi is not None:
        raise fail(errors.NOT_IN_MULTI)
    work = _Populate(session, count, prefix, size)
    work.run()
    if work.pending.reply is not None:
        return work.pending.reply
    # The server gives blocked commands up when the peer has gone, without an answer to wait for.
    session.blocked = work.pending
    return work.pending


def _not_negative(argument: bytes) -> int:
    value = integer(argument, MUST_BE_POSITIVE)
    if value < 0:
        raise fail(MUST_BE_POSITIVE)
    return value
