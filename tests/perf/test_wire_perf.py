"""Frames between nodes, as ratios to moving the same bytes with nothing but ``join`` and slices."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from respkv.causality.hlc import pack_stamp
from respkv.storage.write_batch import encode_entry
from respkv.wire import messages as m
from respkv.wire.frames import FrameReader, FrameWriter

ENTRIES = 50
FRAMES = 300
ROUNDS = 5
KEYS = [b"\x00\x12\x34\x00\x00key:%012d" % number for number in range(ENTRIES)]
STAMPS = [pack_stamp(1 << 60 | number, 1) for number in range(ENTRIES)]
RECORDS = [b"\x01" + stamp + b"x" * 200 for stamp in STAMPS]


def cost(action: Callable[[], Any]) -> float:
    """Seconds of processor time of one call, best of some rounds."""
    best = float("inf")
    for _ in range(ROUNDS):
        begun = time.process_time()
        for _ in range(FRAMES):
            action()
        best = min(best, (time.process_time() - begun) / FRAMES)
    return best


def baseline() -> float:
    """Join the keys, and cut them out again."""
    size = len(KEYS[0])

    def move() -> list[bytes]:
        data = b"".join(KEYS)
        return [data[at : at + size] for at in range(0, len(data), size)]

    return cost(move)


def there_and_back(message: Any) -> float:
    writer, reader = FrameWriter(), FrameReader()

    def move() -> None:
        writer.add(message)
        frame = writer.take(1, 2, 3)
        assert frame is not None
        reader.feed(frame)
        (found,) = reader.frames()
        assert found.messages

    return cost(move)


def test_writes() -> None:
    payload = b"".join(map(encode_entry, KEYS, RECORDS))
    ratio = there_and_back(m.Writes(1, m.FOREGROUND, payload)) / baseline()
    assert ratio < 4, f"a frame of 50 writes costs {ratio:.1f} of the baseline"


def test_reads() -> None:
    ratio = there_and_back(m.Reads(1, KEYS, STAMPS)) / baseline()
    assert ratio < 8, f"a frame of 50 reads costs {ratio:.1f} of the baseline"


def test_acks() -> None:
    ratio = there_and_back(m.WriteAcks(range(1000, 1000 + ENTRIES))) / baseline()
    assert ratio < 5, f"a frame of 50 acks costs {ratio:.1f} of the baseline"


def test_equal_results() -> None:
    ratio = there_and_back(m.ReadResult(1)) / baseline()
    assert ratio < 3, f"a frame that says equal costs {ratio:.1f} of the baseline"
