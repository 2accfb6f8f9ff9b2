"""Frames: what one send carries to a peer, a batch of messages under one head and one checksum.

Layout, integers little-endian::

    magic u16 | version u8 | flags u8 (0) | length of the messages u32 | sender u16 | 0 u16 | ring epoch u64 | clock u64
    | messages | xxh3_64 of all before u64

``FrameWriter`` gathers the messages for one peer and cuts them into frames: one frame a cycle, as a rule. A message
longer than PART_BYTES travels as parts, at most one a frame, behind the shorter messages that came meanwhile, so that a
value of 512 MiB delays an ack or a ping by one frame and not by itself. Long messages go one after another. The body of
a part::

    type of the whole u8 | length of the whole u64 | offset u64 | bytes

``FrameReader`` turns a stream of chunks into frames. Invariants: nothing is allocated for bytes that have not arrived;
a byte is copied when a frame is put together from chunks and when a message is cut out of it (or, part of a long one,
joined), not more often; after a ProtocolError the reader is of no more use, and nothing of the bad frame has come out.
"""

from __future__ import annotations

from collections import deque
from struct import Struct
from typing import Any, Final, NamedTuple

from xxhash import xxh3_64_intdigest

from respkv.base.coding import U64
from respkv.base.errors import ProtocolError
from respkv.base.limits import GIB, MIB
from respkv.wire.codec import (
    DECODERS,
    MESSAGE_HEAD,
    MESSAGE_HEAD_BYTES,
    ORDERED_TYPES,
    PART,
    WRITES,
    WRITES_BODY_BYTES,
    encode,
)
from respkv.wire.messages import Writes

VERSION: Final = 1
_MAGIC: Final = 0xC7A6
_HEAD: Final = Struct("<HBBIHHQQ")
HEAD_BYTES: Final = _HEAD.size
_CHECKSUM_BYTES: Final = 8
FRAME_OVERHEAD: Final = HEAD_BYTES + _CHECKSUM_BYTES
_PART_BODY: Final = Struct("<BQQ")
_PART_HEAD: Final = Struct("<BIBQQ")
_UNPACK_HEAD: Final = _HEAD.unpack_from
_UNPACK_MESSAGE: Final = MESSAGE_HEAD.unpack_from
_UNPACK_SUM: Final = U64.unpack_from

#: A message longer than this travels in parts of at most this.
PART_BYTES: Final = MIB
#: A frame takes no further message once it holds this much.
FRAME_BYTES_GOAL: Final = 4 * MIB
#: A frame longer than this is garbage.
FRAME_BYTES_MAX: Final = 64 * MIB
#: A message longer than this is garbage: the largest value and the largest request fit.
MESSAGE_BYTES_MAX: Final = GIB + 64 * MIB
#: Chunks of an unfinished frame before they are joined.
_CHUNKS_MAX: Final = 1024
assert MESSAGE_HEAD_BYTES <= _CHECKSUM_BYTES


class Frame(NamedTuple):
    """A frame that has arrived. ``sender`` is the short id that its sender believes to have, 0 for none yet."""

    sender: int
    epoch: int
    clock: int
    messages: list[Any]


def seal(sender: int, epoch: int, clock: int, size: int, parts: list[bytes | memoryview]) -> bytes:
    """The frame of encoded messages of ``size`` bytes in all, whose pieces are ``parts``."""
    frame = b"".join([_HEAD.pack(_MAGIC, VERSION, 0, size, sender, 0, epoch, clock), *parts])
    return frame + U64.pack(xxh3_64_intdigest(frame))


class _Long:
    """A message that is being sent in parts."""

    __slots__ = ("_pieces", "number", "offset", "ordered", "total")

    def __init__(self, parts: list[bytes], size: int) -> None:
        self.number = parts[0][0]
        self.ordered = self.number in ORDERED_TYPES
        self.total = size - MESSAGE_HEAD_BYTES
        self.offset = 0
        self._pieces = deque([memoryview(part) for part in parts])
        self._pieces[0] = self._pieces[0][MESSAGE_HEAD_BYTES:]

    def cut(self, limit: int) -> tuple[int, list[bytes | memoryview]]:
        """The next part, a whole message: its size and pieces."""
        room = size = min(limit, self.total - self.offset)
        head = _PART_HEAD.pack(PART, _PART_BODY.size + size, self.number, self.total, self.offset)
        out: list[bytes | memoryview] = [head]
        while room:
            piece = self._pieces[0]
            if len(piece) <= room:
                self._pieces.popleft()
            else:
                self._pieces[0] = piece[room:]
                piece = piece[:room]
            out.append(piece)
            room -= len(piece)
        self.offset += size
        return len(head) + size, out


class FrameWriter:
    """The messages that wait for one peer.

    The owner asks for frames with ``take`` while the link takes more. ``queued_bytes`` and ``queued_messages`` are what
    a bound on the queue looks at: the writer itself refuses only what no peer takes. When a link breaks, its writer
    goes with it.
    """

    __slots__ = (
        "_long",
        "_ordered_long",
        "_part_bytes",
        "_queue",
        "frames",
        "queued_bytes",
        "sent_bytes",
        "sent_messages",
    )

    def __init__(self, *, part_bytes: int = PART_BYTES) -> None:
        self._part_bytes = part_bytes
        self._queue: deque[tuple[int, list[bytes]]] = deque()
        self._long: deque[_Long] = deque()
        self._ordered_long = 0
        self.queued_bytes = 0
        self.frames = 0
        self.sent_bytes = 0
        self.sent_messages = 0

    @property
    def queued_messages(self) -> int:
        """Messages not taken yet, the one in the middle of its parts included."""
        return len(self._queue) + len(self._long)

    def add(self, message: tuple[Any, ...]) -> None:
        """Queue a message."""
        self.add_encoded(encode(message))

    def add_encoded(self, parts: list[bytes]) -> None:
        """Queue what ``codec.encode`` returned; the same list may be queued for several peers. ValueError for a message
        above MESSAGE_BYTES_MAX."""
        size = sum(map(len, parts))
        if size > MESSAGE_BYTES_MAX:
            raise ValueError(f"a message of {size} bytes is more than a peer takes")
        self.queued_bytes += size
        if size <= self._part_bytes and not (self._ordered_long and parts[0][0] in ORDERED_TYPES):
            self._queue.append((size, parts))
        else:
            long = _Long(parts, size)
            self._ordered_long += long.ordered
            self._long.append(long)

    def take(self, sender: int, epoch: int, clock: int) -> bytes | None:
        """The next frame, None when nothing waits. O(bytes); about FRAME_BYTES_GOAL at most."""
        queue = self._queue
        parts: list[bytes | memoryview] = []
        size = 0
        while queue and size < FRAME_BYTES_GOAL:
            length, pieces = queue.popleft()
            parts += pieces
            size += length
            self.sent_messages += 1
        self.queued_bytes -= size
        if self._long and size < FRAME_BYTES_GOAL:
            size += self._add_part(parts)
        if not size:
            return None
        frame = seal(sender, epoch, clock, size, parts)
        self.frames += 1
        self.sent_bytes += len(frame)
        return frame

    def _add_part(self, parts: list[bytes | memoryview]) -> int:
        long = self._long[0]
        before = long.offset
        size, pieces = long.cut(self._part_bytes)
        parts += pieces
        self.queued_bytes -= long.offset - before
        if long.offset == long.total:
            self.queued_bytes -= MESSAGE_HEAD_BYTES
            self._long.popleft()
            self._ordered_long -= long.ordered
            self.sent_messages += 1
        return size

    def stats(self) -> dict[str, int]:
        """Figures for INFO and /metrics."""
        return {
            "frames": self.frames,
            "messages": self.sent_messages,
            "bytes": self.sent_bytes,
            "queued_messages": self.queued_messages,
            "queued_bytes": self.queued_bytes,
        }

    def check_invariants(self) -> None:
        """Assert that the sums are what the queues hold."""
        waiting = sum(size for size, _ in self._queue)
        waiting += sum(long.total - long.offset + MESSAGE_HEAD_BYTES for long in self._long)
        assert self.queued_bytes == waiting
        assert self._ordered_long == sum(long.ordered for long in self._long)
        assert all(long.offset == 0 for long in list(self._long)[1:])


class FrameReader:
    """Cuts the chunks of a link into frames. Made when the handshake is over.

    ``feed`` takes what was received, ``frames`` returns what is complete by now.
    """

    __slots__ = (
        "_chunks",
        "_frame_bytes_max",
        "_have",
        "_message_bytes_max",
        "_need",
        "_part_have",
        "_part_total",
        "_part_type",
        "_parts",
        "frame_count",
        "message_count",
        "received_bytes",
        "skipped",
    )

    def __init__(self, *, frame_bytes_max: int = FRAME_BYTES_MAX, message_bytes_max: int = MESSAGE_BYTES_MAX) -> None:
        self._chunks: list[bytes | memoryview] = []
        self._have = 0
        self._need = HEAD_BYTES
        self._frame_bytes_max = frame_bytes_max
        self._message_bytes_max = message_bytes_max
        self._parts: list[memoryview] = []
        self._part_have = 0
        self._part_total = 0
        self._part_type = 0
        self.frame_count = 0
        self.message_count = 0
        self.received_bytes = 0
        #: messages of types that this version does not know
        self.skipped = 0

    @property
    def buffered(self) -> int:
        """Bytes of unfinished frames and messages."""
        return self._have + self._part_have

    def feed(self, data: bytes) -> None:
        """Take a received chunk."""
        chunks = self._chunks
        chunks.append(data)
        self._have += len(data)
        if len(chunks) > _CHUNKS_MAX:
            self._chunks = [b"".join(chunks)]

    def frames(self) -> list[Frame]:  # HOT: wire_frames
        """The frames that are complete, in order. ProtocolError when the stream is not the protocol: the link is lost,
        and with it the good frames that came in the same chunk."""
        have = self._have
        if have < self._need:
            return []
        chunks = self._chunks
        data = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        assert type(data) is bytes
        view = memoryview(data)
        found = []
        at = 0
        while True:
            left = have - at
            if left < HEAD_BYTES:
                need = HEAD_BYTES
                break
            magic, version, _, size, sender, _, epoch, clock = _UNPACK_HEAD(data, at)
            if magic != _MAGIC or version != VERSION:
                raise ProtocolError("not a frame")
            need = size + FRAME_OVERHEAD
            if need > self._frame_bytes_max:
                raise ProtocolError(f"a frame of {need} bytes")
            if left < need:
                break
            start, stop = at + HEAD_BYTES, at + HEAD_BYTES + size
            if xxh3_64_intdigest(view[at:stop]) != _UNPACK_SUM(data, stop)[0]:
                raise ProtocolError("a frame whose checksum is wrong")
            found.append(Frame(sender, epoch, clock, self._messages(data, view, start, stop)))
            at += need
        self._chunks = [view[at:]] if at < have else []
        self._have = have - at
        self._need = need
        self.received_bytes += at
        self.frame_count += len(found)
        return found

    def _messages(self, data: bytes, view: memoryview, at: int, stop: int) -> list[Any]:  # HOT: wire_frames
        messages = []
        decoders = DECODERS
        while at < stop:
            # A head that overruns the messages reads into the checksum, which is longer than it, and is refused below.
            kind, size = _UNPACK_MESSAGE(data, at)
            start = at + MESSAGE_HEAD_BYTES
            at = start + size
            if at > stop:
                raise ProtocolError(f"a message of {size} bytes overruns its frame")
            decode = decoders.get(kind)
            if decode is not None:
                messages.append(decode(data, start, at))
            elif kind != PART:
                self.skipped += 1
            elif (whole := self._add_part(view[start:at])) is not None:
                messages.append(whole)
        self.message_count += len(messages)
        return messages

    def _add_part(self, part: memoryview) -> Any | None:
        """Take one part of a long message; the message when it was the last."""
        if len(part) <= _PART_BODY.size:
            raise ProtocolError("a part without bytes")
        kind, total, offset = _PART_BODY.unpack_from(part)
        if offset == 0 and not self._part_have:
            if total > self._message_bytes_max or kind == PART:
                raise ProtocolError(f"a message of {total} bytes")
            self._part_type, self._part_total = kind, total
        elif kind != self._part_type or total != self._part_total or offset != self._part_have:
            raise ProtocolError("a part that does not follow the one before")
        bytes_here = part[_PART_BODY.size :]
        self._part_have += len(bytes_here)
        if self._part_have > total:
            raise ProtocolError("parts overrun their message")
        decode = DECODERS.get(kind)
        if decode is not None:
            self._parts.append(bytes_here)
        if self._part_have < total:
            return None
        parts, self._parts, self._part_have = self._parts, [], 0
        if decode is None:
            self.skipped += 1
            return None
        if kind == WRITES and len(parts[0]) >= WRITES_BODY_BYTES:
            # The payload is joined by itself: cutting it out of the whole would copy it once more.
            head = decode(bytes(parts[0][:WRITES_BODY_BYTES]), 0, WRITES_BODY_BYTES)
            parts[0] = parts[0][WRITES_BODY_BYTES:]
            return Writes(head.seq, head.kind, b"".join(parts))
        return decode(b"".join(parts), 0, total)

    def stats(self) -> dict[str, int]:
        """Figures for INFO and /metrics."""
        return {
            "frames": self.frame_count,
            "messages": self.message_count,
            "bytes": self.received_bytes,
            "skipped": self.skipped,
            "buffered": self.buffered,
        }

    def check_invariants(self) -> None:
        """Assert that the sums are what the buffers hold."""
        assert self._have == sum(map(len, self._chunks))
        assert not self._part_have or self._part_have < self._part_total
        assert not self._parts or self._part_have == sum(map(len, self._parts))
