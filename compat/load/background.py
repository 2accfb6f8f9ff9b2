"""redis-benchmark kept running behind a measurement, for as long as the measurement takes."""

from __future__ import annotations

import subprocess
import tempfile
from types import TracebackType

from compat.load import redis_benchmark
from compat.load.servers import LoadError


class BackgroundLoad:
    """Context: redis-benchmark with more requests than it can send; ended by its pid when the context ends."""

    def __init__(
        self, port: int, test: str, *, keys: int, value_bytes: int, clients: int = redis_benchmark.CLIENTS
    ) -> None:
        self._words = redis_benchmark.arguments(
            port, test, requests=redis_benchmark.REQUESTS_MAX, pipeline=1, keys=keys, value_bytes=value_bytes,
            clients=clients,
        )  # fmt: skip
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> BackgroundLoad:
        self._errors = tempfile.TemporaryFile("w+")
        try:
            self._process = subprocess.Popen(
                self._words, stdout=subprocess.DEVNULL, stderr=self._errors, text=True
            )
        except FileNotFoundError:
            self._errors.close()
            raise LoadError("not found on PATH: redis-benchmark") from None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process is not None
        status = self._process.poll()
        if status is None:
            self._process.kill()
            self._process.wait(10)
        self._errors.seek(0)
        text = self._errors.read()
        self._errors.close()
        if kind is None:
            redis_benchmark.check_stderr(text)
            if status is not None:
                raise LoadError(f"the load ended by itself with {status}")
