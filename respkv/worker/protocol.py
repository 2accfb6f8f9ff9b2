"""Frames between server and worker: ``length u32le | JSON``, over the worker's standard input and output.

To the worker: ``{"id", "kind", "spec"}``. Back: ``{"id", "result", "rss_bytes"}`` or ``{"id", "error",
"rss_bytes"}``, where ``error`` is a reason in words. One job at a time. When its input ends the worker
ends.
"""

from __future__ import annotations

import json
from typing import Any, Final

from respkv.base.coding import U32
from respkv.base.errors import ProtocolError

#: A compaction's names the first and last key of each table, in hex: up to 4 MiB a table.
FRAME_BYTES_MAX: Final = 1 << 31


def encode_frame(message: dict[str, Any]) -> bytes:
    """The bytes of one frame."""
    body = json.dumps(message, separators=(",", ":")).encode()
    return U32.pack(len(body)) + body


class FrameReader:
    """Cuts a byte stream into messages."""

    __slots__ = ("_buffer",)

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[dict[str, Any]]:
        """The messages that ``data`` completes. ProtocolError when it is not the protocol."""
        buffer = self._buffer
        buffer += data
        messages: list[dict[str, Any]] = []
        while len(buffer) >= 4:
            (size,) = U32.unpack_from(buffer)
            if size > FRAME_BYTES_MAX:
                raise ProtocolError(f"frame of {size} bytes from a worker")
            if len(buffer) < 4 + size:
                break
            body = bytes(buffer[4 : 4 + size])
            del buffer[: 4 + size]
            try:
                message = json.loads(body)
            except ValueError as error:
                raise ProtocolError("a worker's frame is not JSON") from error
            if not isinstance(message, dict) or "id" not in message:
                raise ProtocolError("a worker's frame names no job")
            messages.append(message)
        return messages
