"""Clients that note what they were told while nodes die, and what must be true of it afterwards.

A ``Writer`` counts a key of its own up, so that every value says how much of what was acknowledged it holds; a
``Watcher`` reads those keys elsewhere meanwhile. Both go on at another node when one does not answer.
"""

from __future__ import annotations

import itertools
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence

import redis

from tests.integration.cluster.conftest import Ring

#: What a node may say instead of doing it: nothing was done, or nobody knows.
_HONEST = ("NOREPLICAS", "TIMEOUT", "TRYAGAIN", "CLUSTERDOWN", "LOADING")
_PAUSE_S = 0.01


class _Client(ABC):
    """Calls ``_use(client)`` again and again in a thread, with a client of the next node after each error."""

    def __init__(self, ring: Ring, nodes: Sequence[int], *, level: str = "") -> None:
        #: when each success came
        self.moments: list[float] = []
        #: errors that no client should see
        self.surprises: list[str] = []
        self._ring = ring
        self._nodes = itertools.cycle(nodes)
        self._level = level
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def end(self) -> None:
        self._stop.set()
        self._thread.join()

    def silence_after(self, moment: float) -> float:
        """How long after a moment the next success came."""
        return next((at for at in self.moments if at > moment), time.monotonic()) - moment

    @abstractmethod
    def _use(self, client: redis.Redis) -> None:
        """One request."""

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                with self._ring.client(next(self._nodes), level=self._level, socket_timeout=5) as client:
                    while not self._stop.is_set():
                        self._use(client)
                        self.moments.append(time.monotonic())
            except redis.ResponseError as error:
                if not str(error).startswith(_HONEST):
                    self.surprises.append(str(error))
                time.sleep(_PAUSE_S)
            except (redis.RedisError, OSError):
                time.sleep(_PAUSE_S)


class Writer(_Client):
    """Sets its key to 1, 2, 3 ...; ``acknowledged`` is the last number that was, ``tried`` the last one sent.

    ``field``: it is the field of a hash instead, which goes the general way and to the acting primary.
    """

    def __init__(self, ring: Ring, key: str, nodes: Sequence[int], *, level: str = "", field: bool = False) -> None:
        self.key = key
        self.field = field
        self.acknowledged = self.tried = 0
        super().__init__(ring, nodes, level=level)

    def read(self, client: redis.Redis) -> int:
        """The number that a client sees, 0 for none."""
        return int((client.hget(self.key, "f") if self.field else client.get(self.key)) or 0)

    def _use(self, client: redis.Redis) -> None:
        self.tried += 1
        number = self.tried
        if self.field:
            client.hset(self.key, "f", str(number))
        else:
            client.set(self.key, number)
        self.acknowledged = number


class Watcher(_Client):
    """Reads the writers' keys at QUORUM. ``stale`` is what it should not have seen: less than had been acknowledged
    before it asked, or less than it has seen before."""

    def __init__(self, ring: Ring, writers: Sequence[Writer], nodes: Sequence[int]) -> None:
        self.stale: list[str] = []
        self._writers = itertools.cycle(writers)
        self._seen: dict[str, int] = {}
        super().__init__(ring, nodes)

    def _use(self, client: redis.Redis) -> None:
        writer = next(self._writers)
        least = max(writer.acknowledged, self._seen.get(writer.key, 0))
        value = writer.read(client)
        if not least <= value <= writer.tried:
            self.stale.append(f"{writer.key} is {value} and was {least}")
        self._seen[writer.key] = max(value, least)


def lost(ring: Ring, number: int, writers: Sequence[Writer]) -> list[str]:
    """Keys of which QUORUM reads at a node show less than was acknowledged, or what nobody has sent."""
    with ring.client(number) as client:
        return [
            f"{writer.key} is {value} of {writer.acknowledged}..{writer.tried}"
            for writer in writers
            if not writer.acknowledged <= (value := writer.read(client)) <= writer.tried
        ]


def silence_after(clients: Sequence[_Client], moment: float) -> float:
    """How long after a moment the last of the clients got its next answer."""
    return max(client.silence_after(moment) for client in clients)


def end_all(clients: Sequence[_Client]) -> None:
    for client in clients:
        client.end()
