"""Messages there and back, and what becomes of bytes that are no message."""

from __future__ import annotations

import random
import struct
from typing import Any

import pytest

from respkv.base.errors import ProtocolError
from respkv.causality.hlc import ZERO_STAMP
from respkv.wire import codec
from respkv.wire import messages as m
from tests.unit.wire.samples import SAMPLES, STAMP, plain

HEAD = codec.MESSAGE_HEAD_BYTES
NAMES = [f"{number}-{type(message).__name__}" for number, message in enumerate(SAMPLES)]


def encoded(message: Any) -> bytes:
    return b"".join(codec.encode(message))


def decoded(data: bytes, number: int, at: int = 0, end: int | None = None) -> Any:
    return codec.DECODERS[number](data, at, len(data) if end is None else end)


@pytest.mark.parametrize("message", SAMPLES, ids=NAMES)
def test_there_and_back(message: Any) -> None:
    data = encoded(message)
    number, size = codec.MESSAGE_HEAD.unpack_from(data)
    assert size == len(data) - HEAD
    assert plain(decoded(data, number, HEAD)) == plain(message)
    # A body is read from its own bytes only, wherever it stands.
    around = b"\xff" * 7 + data[HEAD:] + b"\xff" * 40
    assert plain(decoded(around, number, 7, 7 + size)) == plain(message)


def test_every_kind_has_a_sample_and_a_number_of_its_own() -> None:
    assert {type(sample) for sample in SAMPLES} == {row.message for row in codec.ROWS}
    assert len({row.number for row in codec.ROWS}) == len(codec.ROWS)
    assert all(0 < row.number < codec.PART for row in codec.ROWS)


@pytest.mark.parametrize("message", SAMPLES, ids=NAMES)
def test_cut_anywhere(message: Any) -> None:
    data = encoded(message)
    row = next(row for row in codec.ROWS if row.message is type(message))
    body = data[HEAD:]
    for size in range(0, len(body), max(1, len(body) // 200)):
        try:
            found = decoded(body[:size], row.number)
        except ProtocolError:
            continue
        # What has no length of its own is as long as the message, and last fields may be left out: still no other
        # bytes than those that were sent.
        assert type(found) is row.message
        cut = encoded(found)[HEAD:]
        assert cut[:size] == body[:size]


HOT = (m.WriteAcks, m.Reads, m.ReadResult, m.Forward)


@pytest.mark.parametrize("message", [message for message in SAMPLES if isinstance(message, HOT)], ids=str)
def test_columns_leave_no_bytes_over(message: Any) -> None:
    data = encoded(message)
    with pytest.raises(ProtocolError):
        decoded(data + b"\x00", data[0], HEAD)
    if len(data) > HEAD + 13:
        with pytest.raises(ProtocolError):
            decoded(data[:-1], data[0], HEAD)


@pytest.mark.parametrize("message", SAMPLES, ids=NAMES)
def test_a_newer_senders_longer_message(message: Any) -> None:
    data = encoded(message)
    if isinstance(message, (*HOT, m.Writes, m.Forwarded)):
        return
    assert plain(decoded(data + b"new fields", data[0], HEAD)) == plain(message)


def test_an_older_senders_shorter_message() -> None:
    full = encoded(m.RangeRead(1, b"a", b"b", b"", 10, 0))
    assert decoded(full[:-8], full[0], HEAD) == m.RangeRead(1, b"a", b"b", b"", 10)
    with pytest.raises(ProtocolError):
        decoded(full[:-12], full[0], HEAD)


def test_garbage_is_refused_or_a_message() -> None:
    """Random bytes and bit flips: a ProtocolError or a message that encodes, never another exception."""
    rng = random.Random(5)
    bodies = [(encoded(message)[0], encoded(message)[HEAD:]) for message in SAMPLES]
    refused = 0
    for _ in range(6000):
        number, body = rng.choice(bodies)
        if rng.random() < 0.3:
            body = rng.randbytes(rng.randrange(60))
        else:
            spoiled = bytearray(body)
            for _ in range(rng.randrange(1, 4)):
                if spoiled:
                    spoiled[rng.randrange(len(spoiled))] ^= 1 << rng.randrange(8)
            body = bytes(spoiled)
        try:
            found = decoded(body, number)
        except ProtocolError:
            refused += 1
            continue
        assert plain(decoded(encoded(found), number, HEAD)) == plain(found)
    assert refused > 1000


HUGE = struct.pack("<I", 0xFFFFFFFF)


@pytest.mark.parametrize(
    ("number", "body"),
    [
        (2, HUGE + bytes(4) + bytes(100)),
        (2, bytes(4) + HUGE + bytes(100)),
        (3, bytes(8) + HUGE + bytes(100)),
        (3, bytes(8) + struct.pack("<II", 1, 0xFFFFFFFF) + bytes(10)),
        (4, bytes(9) + HUGE + bytes(100)),
        (7, bytes(28) + HUGE + bytes(100)),
        (7, bytes(28) + struct.pack("<II", 1, 0xFFFFFFFF) + bytes(100)),
        (7, bytes(28) + struct.pack("<III", 1, 1, 0xFFFFFFFF) + bytes(100)),
        (32, bytes(8) + HUGE + bytes(100)),
        (36, bytes(8) + HUGE + bytes(100)),
        (36, bytes(8) + struct.pack("<II", 1, 0xFFFFFFFF) + bytes(100)),
    ],
)
def test_a_count_beyond_the_bytes_allocates_nothing(number: int, body: bytes) -> None:
    with pytest.raises(ProtocolError):
        decoded(body, number)


@pytest.mark.parametrize("counts", [(), (0,), (1, 0)])
def test_a_forward_needs_commands(counts: tuple[int, ...]) -> None:
    words = sum(counts)
    columns = struct.pack(f"<I{len(counts) + words}I", len(counts), *counts, *[1] * words)
    with pytest.raises(ProtocolError, match="without a command"):
        decoded(bytes(28) + columns + b"x" * words, 7)


def test_no_stamp_may_be_given_as_nothing() -> None:
    read = m.Reads(1, [b"a", b"b"], [b"", STAMP])
    assert plain(decoded(encoded(read), 3, HEAD)) == plain(m.Reads(1, [b"a", b"b"], [ZERO_STAMP, STAMP]))


@pytest.mark.parametrize("stamps", [[STAMP], [STAMP, b"short"], [STAMP * 2, b""], [STAMP, STAMP, b""], [STAMP] * 3])
def test_stamps_that_do_not_fit_their_keys(stamps: list[bytes]) -> None:
    with pytest.raises(ValueError, match="a stamp for each key"):
        codec.encode(m.Reads(1, [b"a", b"b"], stamps))


def test_payloads_are_passed_on_uncopied() -> None:
    payload = b"x" * 1000
    assert any(part is payload for part in codec.encode(m.Writes(1, 0, payload)))
    assert any(part is payload for part in codec.encode(m.Forwarded(1, 0, payload)))


@pytest.mark.parametrize(
    "message",
    [
        m.Writes(1 << 64, 0, b""),
        m.RingPull(-1),
        m.Join(b"short", bytes(16), "a", 1, 0, 0, "b", 1),
        m.Join(bytes(16), bytes(16), "a" * 256, 1, 0, 0, "b", 1),
        m.Ping(1, ((1, 2, 3),), m.Facts()),  # type: ignore[arg-type]
        m.Ping(1, ((0, 0, 0, 0),) * 65536, m.Facts()),
        m.TreeLeaves(1, ((1, (0,) * 65),)),
    ],
    ids=lambda message: type(message).__name__,
)
def test_values_that_do_not_fit_are_not_sent(message: Any) -> None:
    with pytest.raises((ValueError, struct.error)):
        codec.encode(message)


def test_bad_text_and_flags() -> None:
    text = encoded(m.StatusPull(1, "abc"))
    with pytest.raises(ProtocolError, match="UTF-8"):
        decoded(text[:-1] + b"\xff", text[0], HEAD)
    result = encoded(m.Interest(True, ()))
    with pytest.raises(ProtocolError, match="flag"):
        decoded(b"\x02" + result[HEAD + 1 :], result[0])
