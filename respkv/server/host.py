"""What the node cannot know by itself: the machine's memory, the configuration file, a stop of the loop."""

from __future__ import annotations

from collections.abc import Callable

from respkv.config.store import ConfigStore
from respkv.env.fs import FileSystem
from respkv.resp.reply import OK, error
from respkv.server import process


class ProcessHost:
    """Implements ``node.Host``. ``stall`` is set by whoever owns the loop, before it runs."""

    __slots__ = ("_config", "_fs", "_log", "stall")

    def __init__(self, config: ConfigStore, fs: FileSystem, log: Callable[[str, str], None]) -> None:
        self._config = config
        self._fs = fs
        self._log = log
        self.stall: Callable[[int], None] = _nobody

    def machine_bytes(self) -> int:
        """Memory of the machine or the container."""
        return process.machine_bytes(self._fs)

    def memory(self) -> dict[str, int]:
        """``rss``, ``peak`` and ``total`` in bytes."""
        return process.memory_figures(self._fs)

    def stall_until(self, monotonic_us: int) -> None:
        """Serve no client before that time."""
        self.stall(monotonic_us)

    def rewrite_config(self) -> bytes:
        """CONFIG REWRITE: the finished reply. A rename replaces the file, so it is never half written."""
        path = self._config.path
        if not path:
            return error(b"ERR The server is running without a config file")
        fs = self._fs
        try:
            old = fs.read_all(path).decode("utf-8", "surrogateescape") if fs.exists(path) else ""
            text = self._config.rewrite(old).encode("utf-8", "surrogateescape")
            fs.write_file(f"{path}.tmp", text)
            fs.rename(f"{path}.tmp", path)
            fs.sync_dir(path.rpartition("/")[0] or "/")
        except OSError as failure:
            reason = failure.strerror or str(failure)
            self._log("warning", f"CONFIG REWRITE failed: {reason}")
            return error(b"ERR Rewriting config file: %b" % reason.encode())
        self._log("notice", "CONFIG REWRITE executed with success.")
        return OK


def _nobody(monotonic_us: int) -> None:
    """There is no loop yet to be stalled."""
