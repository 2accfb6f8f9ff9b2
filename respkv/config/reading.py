"""Configuration files of the file system, with the globs of ``include``."""

from __future__ import annotations

from typing import Final

from respkv.config.parser import ConfigReadError
from respkv.config.syntax import glob_pattern
from respkv.env.fs import FileSystem

_GLOB_LETTERS: Final = "*?["


class FileReader:
    """The ``Reader`` of real files. A glob may stand in any part of a path."""

    __slots__ = ("_fs",)

    def __init__(self, fs: FileSystem) -> None:
        self._fs = fs

    def read(self, path: str) -> str:
        """The text of ``path``; raises ConfigReadError."""
        try:
            return self._fs.read_all(path).decode("utf-8", "surrogateescape")
        except OSError as error:
            raise ConfigReadError(path, error.strerror or str(error)) from error

    def expand(self, pattern: str) -> list[str]:
        """Paths that exist, sorted; ``pattern`` itself when it has no glob letters."""
        if not any(letter in pattern for letter in _GLOB_LETTERS):
            return [pattern]
        found = ["/" if pattern.startswith("/") else ""]
        for part in pattern.split("/"):
            if not part:
                continue
            found = [path for base in found for path in self._step(base, part)]
        return sorted(found)

    def _step(self, base: str, part: str) -> list[str]:
        """Paths below ``base`` that match one part of the pattern."""
        prefix = base if not base or base.endswith("/") else base + "/"
        if not any(letter in part for letter in _GLOB_LETTERS):
            return [prefix + part] if self._fs.exists(prefix + part) else []
        try:
            names = self._fs.listdir(base or ".")
        except OSError:
            return []  # not a directory, or not ours to read: nothing matches there
        # A glob is the same for commands and paths here, except for case and for hidden files.
        match = glob_pattern(part, any_case=False).fullmatch
        return [prefix + name for name in names if match(name) and (part[0] == "." or name[0] != ".")]
