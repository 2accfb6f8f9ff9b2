"""Latency of the GETs and SETs that the dispatcher's fast path serves.

It runs from the receipt of a request, which is the start of the cycle, to the release of its reply: at the end of
the cycle, or when the log is durable up to the cycle's commit, where replies wait for that. All of a
cycle's requests share both moments, so a cycle is counted in one step.
"""

from __future__ import annotations

from collections import deque

from respkv.env.clock import Clock
from respkv.metrics.registry import Registry


class FastLatency:
    """Counts cycles into the histograms of GET and SET once their replies are released."""

    __slots__ = ("_clock", "_get", "_registry", "_set", "_waiting")

    def __init__(self, registry: Registry, clock: Clock) -> None:
        self._registry, self._clock = registry, clock
        self._get, self._set = registry.command("get"), registry.command("set")
        #: (lsn, received at, GETs, SETs) in order of commit
        self._waiting: deque[tuple[int, int, int, int]] = deque()

    def committed(self, lsn: int, received_us: int, gets: int, sets: int) -> None:
        """A cycle is in the log; its replies are released with ``lsn``."""
        self._waiting.append((lsn, received_us, gets, sets))

    def released(self, lsn: int) -> None:
        """Replies up to ``lsn`` leave now."""
        waiting = self._waiting
        if not waiting:
            return
        now_us = self._clock.monotonic_us()
        while waiting and waiting[0][0] <= lsn:
            _, received_us, gets, sets = waiting.popleft()
            self._registry.count_latency(self._get, gets, now_us - received_us)
            self._registry.count_latency(self._set, sets, now_us - received_us)

    def stats(self) -> dict[str, int]:
        """How many cycles wait."""
        return {"cycles_waiting": len(self._waiting)}
