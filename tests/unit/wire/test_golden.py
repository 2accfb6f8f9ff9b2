"""The bytes between nodes, version 1, as docs/formats/wire.md describes them.

Nodes of different releases share a ring, so they may not change.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from respkv.base.ids import TOMBSTONE
from respkv.storage.write_batch import encode_entry
from respkv.wire import codec
from respkv.wire import messages as m
from respkv.wire.frames import FrameReader, FrameWriter
from respkv.wire.handshake import Handshake, Hello
from tests.unit.wire.samples import SAMPLES, plain

FRAMES = Path(__file__).parent / "golden" / "frames-1.bin"
HANDSHAKE = Path(__file__).parent / "golden" / "handshake-1.bin"
LONG = m.Writes(12, m.HINT, encode_entry(b"\x00\x00\x01\x00\x00key", bytes([TOMBSTONE]) + b"stampstamp"))


def firsts() -> list[Any]:
    """The first sample of each kind, in the order of the table."""
    return [next(sample for sample in SAMPLES if type(sample) is row.message) for row in codec.ROWS]


def frames() -> bytes:
    """A frame with one message of each kind, and a message in parts."""
    writer = FrameWriter()
    for message in firsts():
        writer.add(message)
    out = [writer.take(1, 2, 3)]
    writer = FrameWriter(part_bytes=15)
    writer.add(LONG)
    while (frame := writer.take(0, 0, 0x0123456789ABCDEF)) is not None:
        out.append(frame)
    return b"".join(frame or b"" for frame in out)


def conversation() -> bytes:
    low, high = Hello(b"a" * 16, b"c" * 16, 1, capabilities=0), Hello(b"d" * 16, b"c" * 16, 2, capabilities=0)
    dialer = Handshake(dialer=True, secret=b"secret", me=high, nonce=bytes(range(32)))
    accepter = Handshake(dialer=False, secret=b"secret", me=low, nonce=bytes(range(32, 64)))
    said = [dialer.start()]
    said.append(accepter.feed(said[-1]))
    said.append(dialer.feed(said[-1]))
    said.append(accepter.feed(said[-1]))
    return b"".join(said)


def test_what_is_written_are_the_golden_bytes() -> None:
    assert frames() == FRAMES.read_bytes()
    assert conversation() == HANDSHAKE.read_bytes()


def test_the_golden_bytes_are_read_as_what_they_were() -> None:
    reader = FrameReader()
    reader.feed(FRAMES.read_bytes())
    first, *parts = reader.frames()
    assert first[:3] == (1, 2, 3)
    assert [plain(message) for message in first.messages] == [plain(message) for message in firsts()]
    assert [message for frame in parts for message in frame.messages] == [LONG]
    assert len(parts) == 3 and parts[2][:3] == (0, 0, 0x0123456789ABCDEF)
