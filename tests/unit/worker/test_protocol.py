"""Frames and pacing."""

from __future__ import annotations

import pytest

from respkv.base.coding import U32
from respkv.base.errors import ProtocolError
from respkv.worker.pacing import Pacer
from respkv.worker.protocol import FRAME_BYTES_MAX, FrameReader, encode_frame


def test_frames_survive_any_cut() -> None:
    messages = [{"id": 1, "kind": "flush", "spec": {"a": [1, "é"]}}, {"id": 2}]
    data = b"".join(map(encode_frame, messages))
    for cut in range(len(data) + 1):
        reader = FrameReader()
        assert reader.feed(data[:cut]) + reader.feed(data[cut:]) == messages


def test_byte_by_byte() -> None:
    reader = FrameReader()
    got = [message for byte in encode_frame({"id": 1}) for message in reader.feed(bytes((byte,)))]
    assert got == [{"id": 1}]


@pytest.mark.parametrize(
    "data",
    [
        U32.pack(FRAME_BYTES_MAX + 1),
        U32.pack(3) + b"abc",
        U32.pack(2) + b"[]",
        U32.pack(2) + b"{}",
        U32.pack(2) + b"\xff\xfe",
    ],
)
def test_garbage(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        FrameReader().feed(data)


class Pace:
    def __init__(self, bytes_per_s: int) -> None:
        self.us = 1000
        self.slept_us = 0
        self.pacer = Pacer(bytes_per_s, clock_us=lambda: self.us, sleep_us=self.sleep)

    def sleep(self, us: int) -> None:
        self.us += us
        self.slept_us += us


def test_a_rate_is_held() -> None:
    pace = Pace(1_000_000)
    for _ in range(1000):
        pace.pacer.pause(10_000)
    assert 9_980_000 <= pace.slept_us <= 10_000_000


def test_time_that_work_took_counts() -> None:
    pace = Pace(1_000_000)
    for _ in range(100):
        pace.us += 10_000
        pace.pacer.pause(10_000)
    assert pace.slept_us == 0


def test_a_long_stop_is_not_made_up_for() -> None:
    pace = Pace(1_000_000)
    pace.us += 60_000_000
    for _ in range(100):
        pace.pacer.pause(10_000)
    assert pace.slept_us > 800_000


def test_no_rate_no_sleep() -> None:
    pace = Pace(0)
    pace.pacer.pause(1 << 40)
    assert pace.slept_us == 0
