"""Hybrid logical clock (Kulkarni et al., OPODIS 2014): one u64 = 48 bits of ms, 16 bits of counter.

``HybridClock.now`` never repeats a value, also across restarts: values are issued only up to a *ceiling* that is
durable. The owner makes a ceiling durable (a log record) and then calls ``raise_ceiling``; after a
crash the clock starts at the last durable ceiling, after a clean stop at the exact last value.
"""

from __future__ import annotations

from typing import Final

from respkv.base.coding import U16BE, U64BE

COUNTER_BITS: Final = 16
STAMP_BYTES: Final = 10
ZERO_STAMP: Final = bytes(STAMP_BYTES)
MAX_STAMP: Final = b"\xff" * STAMP_BYTES


def pack_stamp(hlc: int, node: int) -> bytes:
    """The 10 bytes of a stamp, u64be hlc and u16be node: byte order is stamp order."""
    return U64BE.pack(hlc) + U16BE.pack(node)


def stamp_hlc(stamp: bytes) -> int:
    """The HLC value of a stamp."""
    return int.from_bytes(stamp[:8], "big")


def hlc_ms(hlc: int) -> int:
    """The wall milliseconds in an HLC value."""
    return hlc >> COUNTER_BITS


class ClockSkewError(Exception):
    """A peer's clock is further ahead of ours than the configured bound."""


class HybridClock:
    """Issues unique, growing HLC values.

    ``last`` is the value issued last; ``ceiling`` the durable bound that may not be passed.
    """

    __slots__ = ("ceiling", "last", "max_skew_ms", "node")

    def __init__(self, node: int, start: int, ceiling: int, max_skew_ms: int = 10_000) -> None:
        self.node = node
        self.last = start
        self.ceiling = ceiling
        self.max_skew_ms = max_skew_ms

    def tick(self, wall_ms: int) -> int:
        """A value above all earlier ones, no earlier than ``wall_ms``."""
        wall = wall_ms << COUNTER_BITS
        self.last = wall if wall > self.last else self.last + 1
        return self.last

    def stamp(self, wall_ms: int) -> bytes:
        """A fresh stamp of this node."""
        return pack_stamp(self.tick(wall_ms), self.node)

    def observe(self, remote: int, wall_ms: int) -> None:
        """Move beyond a value seen in a message; ClockSkewError if it is too far ahead."""
        if hlc_ms(remote) > wall_ms + self.max_skew_ms:
            raise ClockSkewError(f"remote clock is {hlc_ms(remote) - wall_ms} ms ahead")
        if remote > self.last:
            self.last = remote

    def may_issue(self, count: int, wall_ms: int) -> bool:
        """True when ``count`` more values certainly stay below the durable ceiling."""
        return max(self.last, wall_ms << COUNTER_BITS) + count < self.ceiling

    def wanted_ceiling(self, wall_ms: int, ahead_ms: int = 5_000) -> int:
        """The ceiling to make durable next."""
        # Each crash moves the clock to its ceiling. One that is ahead of the wall already must hardly be sent further,
        # or others refuse it after a few quick restarts.
        wall, ahead = wall_ms << COUNTER_BITS, ahead_ms << COUNTER_BITS
        now = min(max(self.last, wall), wall + (1 << COUNTER_BITS) - 1)
        return max(now + ahead, self.last + ahead // 10)

    def raise_ceiling(self, ceiling: int) -> None:
        """The owner has made ``ceiling`` durable."""
        if ceiling > self.ceiling:
            self.ceiling = ceiling
