"""Messages of every kind, ordinary and extreme, for the tests of this room."""

from __future__ import annotations

from typing import Any

from respkv.causality.hlc import ZERO_STAMP, pack_stamp
from respkv.wire import messages as m

U16_MAX, U32_MAX, U64_MAX = (1 << 16) - 1, (1 << 32) - 1, (1 << 64) - 1
STAMP = pack_stamp(0x0123456789ABCDEF, 2)
NODE, CLUSTER = bytes(range(16)), bytes(range(16, 32))
FACTS = m.Facts(4, 5, STAMP, 600, b"purge")
UPDATES = ((1, 0, 7, 2), (U16_MAX, 2, U64_MAX, 1))
FLOOR = (0, 16383, 3, STAMP)

#: The first of each kind stands in the golden file: append, never change.
SAMPLES: tuple[Any, ...] = (
    m.Writes(1, m.FOREGROUND, b"payload"),
    m.Writes(U64_MAX, m.TRANSFER, b""),
    m.WriteAcks((1, 2, U64_MAX), ((3, m.ALL_ENTRIES, m.BUSY), (1, 5, m.REJECT_STRONG))),
    m.WriteAcks(()),
    m.WriteAcks((9,)),
    m.Reads(2, [b"\x00\x01\x02\x00\x00key", b""], [STAMP, ZERO_STAMP]),
    m.Reads(3, [], []),
    m.Reads(4, [b"key:%d" % number for number in range(300)], [STAMP] * 300),
    m.ReadResult(2, m.OK, ((0, m.OK, b"record"), (1, m.ABSENT, b""), (7, m.CORRUPT, b""))),
    m.ReadResult(3),
    m.ReadResult(4, m.STALE_EPOCH),
    m.RangeRead(5, b"a", b"b", b"", 100, 77),
    m.RangeResult(5, m.OK, True, b"entries"),
    m.RangeResult(5, m.EQUAL, False),
    m.Forward(6, 7, 15, 3, 1, m.READONLY | m.TRANSACTION, 500_000, b"default", ((b"GET", b""), (b"SET", b"k", b"v"))),
    m.Forward(6, 7, 0, 2, 1, 0, 0, b"", ((b"PING",),)),
    m.Forward(6, 7, 0, 2, 1, m.UNTIL, U32_MAX, b"", ((b"PING",),)),
    m.Forwarded(6, m.DONE, b"+OK\r\n"),
    m.Forwarded(6, m.NOT_DONE, b""),
    m.Forwarded(6, m.EXPIRED, b""),
    m.SessionGone(7),
    m.Publish(m.CHANNEL, b"news", b"hello"),
    m.Interest(True, ((m.CHANNEL, b"news"), (m.PATTERN, b"n*")), ((m.SHARD_CHANNEL, b""),)),
    m.Interest(False, ()),
    m.FlushTo(8, (FLOOR,)),
    m.HoldFor(8, 3, b"entries"),
    m.Time(12),
    m.Time(U64_MAX),
    m.Pressure(0),
    m.Pressure(U32_MAX),
    m.Ping(9, UPDATES, FACTS),
    m.Ping(0, (), m.Facts()),
    m.PingReq(9, 3, UPDATES, FACTS),
    m.Ack(9, 1, UPDATES, FACTS),
    m.State(1, UPDATES, FACTS),
    m.Join(NODE, CLUSTER, "10.0.0.1", 6379, 0, 1, "::1", 16379),
    m.Joined(b"ring"),
    m.Refused("too late \u2013 sorry", 1, CLUSTER, (("host", 1), ("other", U16_MAX))),
    m.RingPull(3),
    m.RingPush(b"ring"),
    m.TreeRoots(10, tuple(range(128))),
    m.TreeSlots(10, ((0, 1), (16383, U64_MAX))),
    m.TreeLeaves(10, ((5, tuple(range(64))), (6, ()))),
    m.TreeKeys(10, 5, 63, True, ((b"key", STAMP + b"\x01"), (b"", b""))),
    m.PullRecords(10, (b"key", b"other")),
    m.Floors(10, (FLOOR, FLOOR), ((0, 99, U64_MAX),)),
    m.TreeEnd(10, m.OK),
    m.StatusPull(11, "hints"),
    m.Status(11, (("hints", b"1"), ("é", b"\x00\xff"))),
)


def plain(message: Any) -> Any:
    """The message's name and values, comparable whether its sequences are lists or tuples."""

    def frozen(value: Any) -> Any:
        return tuple(map(frozen, value)) if isinstance(value, list | tuple) else value

    return type(message).__name__, frozen(message)
