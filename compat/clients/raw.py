"""A client that hides nothing: frames keep their type byte, so a null bulk is not a null array.

A frame is ``(kind, value)``; ``kind`` is the type byte on the wire. Aggregates (``* ~ > %``) hold a list of frames,
a map its keys and values in turn; a missing value is None. Simple strings, errors, integers, doubles, booleans, big
numbers, bulk and verbatim strings hold their bytes as sent. Attributes are frames in front of the reply they
belong to.
"""

from __future__ import annotations

import socket
from typing import Any, Final, NamedTuple

_AGGREGATES: Final = frozenset(b"*~>%|")
_BLOBS: Final = frozenset(b"$=!")
#: Seconds without an answer after which a server counts as hanging.
PATIENCE_S: Final = 20.0


class Frame(NamedTuple):
    """One value on the wire."""

    kind: str
    value: Any

    def is_error(self) -> bool:
        return self.kind in "-!"


#: Stands for the end of the stream: the server closed the connection.
CLOSED: Final = Frame("closed", None)


class Closed(Exception):
    """The server closed the connection."""


def encode(command: list[bytes]) -> bytes:
    """The request form of one command."""
    parts = [b"*%d\r\n" % len(command)]
    parts += [b"$%d\r\n%b\r\n" % (len(word), word) for word in command]
    return b"".join(parts)


class RawConnection:
    """One blocking connection. ``read`` raises Closed at the end and TimeoutError when nothing comes."""

    def __init__(self, host: str, port: int) -> None:
        self._socket = socket.create_connection((host, port), timeout=PATIENCE_S)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._stream = self._socket.makefile("rb", buffering=65536)

    def send(self, *commands: list[bytes]) -> None:
        """Send commands in one piece."""
        self.send_bytes(b"".join(map(encode, commands)))

    def send_bytes(self, data: bytes) -> None:
        """Send bytes as they are; Closed when the server is gone."""
        try:
            self._socket.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            raise Closed from None

    def read(self) -> Frame:
        """The next frame, whatever it is."""
        try:
            return self._frame()
        except ConnectionResetError:
            raise Closed from None

    def call(self, *words: bytes | str) -> Frame:
        """Send one command and read one frame."""
        self.send([word.encode() if isinstance(word, str) else word for word in words])
        return self.read()

    def close(self) -> None:
        self._stream.close()
        self._socket.close()

    def _line(self) -> bytes:
        line = self._stream.readline()
        if not line.endswith(b"\r\n"):
            raise Closed
        return line[:-2]

    def _frame(self) -> Frame:
        line = self._line()
        kind, rest = line[0], line[1:]
        if kind in _BLOBS:
            length = int(rest)
            if length < 0:
                return Frame(chr(kind), None)
            data = self._stream.read(length + 2)
            if len(data) != length + 2:
                raise Closed
            assert data.endswith(b"\r\n"), data[-8:]
            return Frame(chr(kind), data[:-2])
        if kind in _AGGREGATES:
            count = int(rest)
            if count < 0:
                return Frame(chr(kind), None)
            return Frame(chr(kind), [self._frame() for _ in range(count * 2 if kind in b"%|" else count)])
        if kind == ord("_"):
            assert rest == b"", line
            return Frame("_", None)
        assert kind in b"+-:,#(", line
        return Frame(chr(kind), rest)


def show(frame: Frame) -> str:
    """A frame for people."""
    if isinstance(frame.value, list):
        return f"{frame.kind}[{', '.join(show(item) for item in frame.value)}]"
    if frame.value is None:
        return {"_": "null", "closed": "(closed)"}.get(frame.kind, f"{frame.kind}null")
    return f"{frame.kind}{frame.value!r}"
