"""Frames there and back: any cut of the stream, parts of long messages, garbage, bounds."""

from __future__ import annotations

import itertools
import random
import tracemalloc
from typing import Any

import pytest

from respkv.base.coding import U64, checksum
from respkv.base.errors import ProtocolError
from respkv.base.limits import MIB
from respkv.wire import codec, frames
from respkv.wire import messages as m
from respkv.wire.frames import FRAME_OVERHEAD, HEAD_BYTES, Frame, FrameReader, FrameWriter, seal
from tests.unit.wire.samples import SAMPLES, plain

PLAIN = [plain(sample) for sample in SAMPLES]


def one_frame(*messages: Any) -> bytes:
    parts = [part for message in messages for part in codec.encode(message)]
    return seal(2, 3, 4, sum(map(len, parts)), [*parts])


def raw_frame(body: bytes) -> bytes:
    return seal(2, 3, 4, len(body), [body])


def drain(writer: FrameWriter) -> list[bytes]:
    out = []
    while (frame := writer.take(2, 3, 4)) is not None:
        writer.check_invariants()
        out.append(frame)
    assert writer.queued_bytes == writer.queued_messages == 0
    return out


def read_all(reader: FrameReader, *chunks: bytes) -> list[Any]:
    found = []
    for chunk in chunks:
        reader.feed(chunk)
        reader.check_invariants()
        found += [message for frame in reader.frames() for message in frame.messages]
        reader.check_invariants()
    return found


def test_a_frame_there_and_back() -> None:
    writer, reader = FrameWriter(), FrameReader()
    assert writer.take(2, 3, 4) is None
    for sample in SAMPLES:
        writer.add(sample)
    assert writer.queued_messages == len(SAMPLES)
    data = writer.take(513, 1 << 60, (1 << 64) - 1)
    assert data is not None and writer.take(2, 3, 4) is None
    reader.feed(data)
    (frame,) = reader.frames()
    assert frame[:3] == (513, 1 << 60, (1 << 64) - 1)
    assert [plain(message) for message in frame.messages] == PLAIN
    assert reader.frames() == [] and reader.buffered == 0
    expected = {"frames": 1, "messages": len(SAMPLES), "bytes": len(data)}
    assert writer.stats() == {**expected, "queued_messages": 0, "queued_bytes": 0}
    assert reader.stats() == {**expected, "skipped": 0, "buffered": 0}


def test_one_encoding_for_several_peers() -> None:
    parts = codec.encode(m.Writes(1, 0, b"x" * 100))
    writers = [FrameWriter(), FrameWriter(part_bytes=30)]
    for writer in writers:
        writer.add_encoded(parts)
        writer.add_encoded(parts)
        assert read_all(FrameReader(), *drain(writer)) == [m.Writes(1, 0, b"x" * 100)] * 2


def test_any_cut() -> None:
    data = one_frame(SAMPLES[0]) + one_frame(*SAMPLES[2:5]) + one_frame(SAMPLES[10])
    expected = [PLAIN[0], *PLAIN[2:5], PLAIN[10]]
    for cut in range(len(data) + 1):
        reader = FrameReader()
        assert [plain(message) for message in read_all(reader, data[:cut], data[cut:])] == expected
        assert reader.buffered == 0
    reader = FrameReader()
    assert [plain(message) for message in read_all(reader, *[data[at : at + 1] for at in range(len(data))])] == expected


def test_random_cuts_of_a_long_stream() -> None:
    rng = random.Random(3)
    for _ in range(20):
        writer, reader = FrameWriter(part_bytes=rng.choice([1, 7, 64, 1000])), FrameReader()
        sent = rng.choices(SAMPLES, k=40)
        data = b""
        for message in sent:
            writer.add(message)
            if rng.random() < 0.3:
                data += writer.take(2, 3, 4) or b""
        data += b"".join(drain(writer))
        cuts = sorted(rng.choices(range(len(data)), k=30))
        chunks = [data[begin:end] for begin, end in itertools.pairwise([0, *cuts, len(data)])]
        got = [repr(plain(message)) for message in read_all(reader, *chunks)]
        assert sorted(got) == sorted(repr(plain(message)) for message in sent)


def test_an_empty_frame_is_a_frame() -> None:
    reader = FrameReader()
    reader.feed(raw_frame(b""))
    assert reader.frames() == [Frame(2, 3, 4, [])]


# --- Long messages ------------------------------------------------------------------------------------------------


def test_short_messages_overtake_a_long_one() -> None:
    writer, reader = FrameWriter(part_bytes=100), FrameReader()
    long = m.Writes(1, 0, b"x" * 950)
    writer.add(long)
    seen = []
    for seq in range(12):
        writer.add(m.WriteAcks((seq,)))
        frame = writer.take(2, 3, 4)
        assert frame is not None and len(frame) < 250
        writer.check_invariants()
        reader.feed(frame)
        reader.check_invariants()
        seen += reader.frames()[0].messages
    assert seen.index(long) == 10 and len(seen) == 13
    assert writer.queued_bytes == 0 and writer.sent_messages == 13


def test_long_messages_go_one_after_another() -> None:
    writer = FrameWriter(part_bytes=10)
    sent = [m.Writes(number, 0, bytes([number]) * 40) for number in range(4)]
    for message in sent:
        writer.add(message)
    assert read_all(FrameReader(), *drain(writer)) == sent


@pytest.mark.parametrize("size", [0, 1, 8, 9, 10, 11, 100, 101])
@pytest.mark.parametrize("part_bytes", [1, 5, 9, 10, 50])
def test_parts_of_any_size(size: int, part_bytes: int) -> None:
    payload = bytes(range(size))
    for message in (m.Writes(7, 3, payload), m.Forwarded(7, 0, payload), m.Publish(0, b"c", payload)):
        writer = FrameWriter(part_bytes=part_bytes)
        writer.add(message)
        assert read_all(FrameReader(), *drain(writer)) == [message]


def test_ordered_messages_stay_in_order_behind_a_long_one() -> None:
    writer = FrameWriter(part_bytes=100)
    ordered = [m.Publish(0, b"c", b"long" * 100), m.Publish(0, b"c", b"short"), m.Interest(False, ((0, b"c"),))]
    for message in ordered:
        writer.add(message)
    writer.add(m.RingPull(1))
    got = read_all(FrameReader(), *drain(writer))
    assert got == [m.RingPull(1), *ordered]
    writer.add(ordered[1])
    assert len(drain(writer)) == 1


def test_a_message_above_the_bound_is_not_queued(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "MESSAGE_BYTES_MAX", 1000)
    writer = FrameWriter()
    with pytest.raises(ValueError, match="more than a peer takes"):
        writer.add(m.Writes(1, 0, bytes(1000)))
    assert writer.queued_bytes == writer.queued_messages == 0


def test_a_frame_has_a_goal() -> None:
    writer, payload = FrameWriter(), bytes(MIB - 100)
    for seq in range(12):
        writer.add(m.Writes(seq, 0, payload))
    sizes = [len(frame) for frame in drain(writer)]
    assert len(sizes) == 3 and max(sizes) < frames.FRAME_BYTES_GOAL + MIB + FRAME_OVERHEAD


def test_a_large_value_is_copied_once_more_at_most() -> None:
    """Memory stays at what has arrived and one joined copy; the writer makes none at all beside its frames."""
    payload = bytes(8 * MIB)
    writer, reader = FrameWriter(), FrameReader()
    tracemalloc.start()
    writer.add(m.Writes(1, 0, payload))
    assert tracemalloc.get_traced_memory()[0] < 10_000
    got = []
    while (frame := writer.take(2, 3, 4)) is not None:
        for at in range(0, len(frame), 1 << 18):
            got += read_all(reader, frame[at : at + (1 << 18)])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert got == [m.Writes(1, 0, payload)]
    assert peak < 2.6 * len(payload)


# --- Garbage ------------------------------------------------------------------------------------------------------


def test_every_bit_counts() -> None:
    """No single flipped bit yields another message: the frame waits for more, or is refused."""
    data = one_frame(m.WriteAcks((1, 2)), m.Writes(3, 0, b"payload"))
    for bit in range(8 * len(data)):
        spoiled = bytearray(data)
        spoiled[bit // 8] ^= 1 << bit % 8
        reader = FrameReader()
        reader.feed(bytes(spoiled))
        try:
            found = reader.frames()
        except ProtocolError:
            continue
        assert found == [] and 32 <= bit < 64, "only a longer length may wait"


def test_random_garbage() -> None:
    rng = random.Random(1)
    for _ in range(500):
        reader = FrameReader()
        reader.feed(rng.randbytes(rng.randrange(HEAD_BYTES, 400)))
        with pytest.raises(ProtocolError):
            reader.frames()


def test_truncation_waits() -> None:
    data = one_frame(*SAMPLES)
    for size in range(0, len(data), 13):
        reader = FrameReader()
        assert read_all(reader, data[:size]) == []
        assert reader.buffered == size


@pytest.mark.parametrize(
    "body",
    [
        b"\x01",
        b"\x01\x00\x00\x00",
        codec.MESSAGE_HEAD.pack(1, 10) + bytes(9),
        codec.MESSAGE_HEAD.pack(200, 10) + bytes(9),
        codec.MESSAGE_HEAD.pack(1, 8) + bytes(8),
        codec.MESSAGE_HEAD.pack(27, 8) + bytes(8) + b"\x1b",
    ],
)
def test_bodies_that_are_no_messages(body: bytes) -> None:
    reader = FrameReader()
    reader.feed(raw_frame(body))
    with pytest.raises(ProtocolError):
        reader.frames()


def test_spoiled_bodies_under_a_right_checksum() -> None:
    rng = random.Random(2)
    good = b"".join(part for sample in SAMPLES for part in codec.encode(sample))
    refused = 0
    for _ in range(400):
        body = bytearray(good[: rng.randrange(len(good))])
        for _ in range(rng.randrange(3) if body else 0):
            body[rng.randrange(len(body))] = rng.randrange(256)
        reader = FrameReader()
        reader.feed(raw_frame(bytes(body)))
        try:
            reader.frames()
        except ProtocolError:
            refused += 1
        else:
            reader.check_invariants()
    assert refused > 200


def test_types_of_a_newer_version_are_skipped() -> None:
    unknown = codec.MESSAGE_HEAD.pack(200, 5) + b"12345"
    known = b"".join(codec.encode(m.RingPull(1)))
    reader = FrameReader()
    assert read_all(reader, raw_frame(unknown + known + unknown)) == [m.RingPull(1)]
    assert reader.skipped == 2
    # A long one of them too, and nothing of it is kept.
    long = [part(200, 100, at, bytes(50)) for at in (0, 50)]
    assert read_all(reader, raw_frame(long[0])) == [] and not reader._parts
    assert read_all(reader, raw_frame(long[1] + known)) == [m.RingPull(1)]
    assert reader.skipped == 3 and reader.buffered == 0


def test_lengths_have_bounds() -> None:
    reader = FrameReader(frame_bytes_max=1000)
    assert read_all(reader, raw_frame(codec.MESSAGE_HEAD.pack(200, 0) * ((1000 - FRAME_OVERHEAD) // 5))) == []
    head = bytearray(raw_frame(b""))
    head[4:8] = (1001 - FRAME_OVERHEAD).to_bytes(4, "little")
    reader.feed(bytes(head[:HEAD_BYTES]))
    with pytest.raises(ProtocolError, match="a frame of 1001 bytes"):
        reader.frames()


def test_a_length_alone_allocates_nothing() -> None:
    head = bytearray(raw_frame(b""))
    head[4:8] = (32 * MIB).to_bytes(4, "little")
    tracemalloc.start()
    reader = FrameReader()
    reader.feed(bytes(head[:HEAD_BYTES]))
    assert reader.frames() == []
    reader.feed(raw_frame(part(1, 512 * MIB, 0, b"x")))
    assert reader.frames() == []
    assert tracemalloc.get_traced_memory()[1] < 20_000
    tracemalloc.stop()


def part(number: int, total: int, offset: int, data: bytes) -> bytes:
    head = codec.MESSAGE_HEAD.pack(codec.PART, 17 + len(data))
    return head + bytes([number]) + U64.pack(total) + U64.pack(offset) + data


@pytest.mark.parametrize(
    "parts",
    [
        [part(1, 20, 0, b"")],
        [part(1, 20, 1, b"x")],
        [part(1, 20, 0, b"x"), part(1, 20, 0, b"x")],
        [part(1, 20, 0, b"x"), part(1, 20, 2, b"x")],
        [part(1, 20, 0, b"x"), part(1, 21, 1, b"x")],
        [part(1, 20, 0, b"x"), part(2, 20, 1, b"x")],
        [part(1, 20, 0, b"x" * 21)],
        [part(1, 20, 0, b"x" * 19), part(1, 20, 19, b"xy")],
        [part(1, 1001, 0, b"x")],
        [part(1, 0, 0, b"x")],
        [part(codec.PART, 20, 0, b"x" * 20)],
        [part(27, 7, 0, b"x" * 7)],
        [part(1, 8, 0, b"x" * 8)],
        [codec.MESSAGE_HEAD.pack(codec.PART, 3) + b"abc"],
    ],
)
@pytest.mark.parametrize("together", [False, True])
def test_parts_that_do_not_fit(parts: list[bytes], together: bool) -> None:
    reader = FrameReader(message_bytes_max=1000)
    with pytest.raises(ProtocolError):
        read_all(reader, *([raw_frame(b"".join(parts))] if together else [raw_frame(body) for body in parts]))


def test_a_frame_of_another_version() -> None:
    body = bytearray(one_frame(m.RingPull(1))[:-8])
    body[2] += 1
    reader = FrameReader()
    reader.feed(bytes(body) + U64.pack(checksum(bytes(body))))
    with pytest.raises(ProtocolError, match="not a frame"):
        reader.frames()


def test_chunks_of_an_unfinished_frame_are_not_joined_each_time() -> None:
    """Else a large frame in small chunks would cost the square of its length."""
    data = one_frame(m.Writes(1, 0, b"x" * 5000))
    reader = FrameReader()
    assert read_all(reader, *[data[at : at + 50] for at in range(0, 5000, 50)]) == []
    assert len(reader._chunks) > 90


def test_many_tiny_chunks_are_joined() -> None:
    data = one_frame(m.Writes(1, 0, b"x" * 5000))
    reader = FrameReader()
    for at in range(len(data) - 1):
        reader.feed(data[at : at + 1])
    reader.check_invariants()
    assert len(reader._chunks) < 1100
    assert read_all(reader, data[-1:]) == [m.Writes(1, 0, b"x" * 5000)]
