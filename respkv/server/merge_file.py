"""merge-file: an application's own merge functions, from a Python file that is run once, at the start.

The file assigns ``MERGES = {"name": function}``. A function gets the distinct values of a key's siblings, sorted, as a
sequence of bytes, and returns bytes; causality/resolve.py says what it must keep to and what happens when it does not.
What the file itself does wrong stops the start.
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Mapping
from typing import Any

from respkv.base.errors import RespkvError
from respkv.config.store import ConfigStore
from respkv.env.fs import FileSystem


class MergeFileError(RespkvError):
    """The file cannot be used; the text is for the log."""


def load_merges(config: ConfigStore, fs: FileSystem) -> Mapping[str, object]:
    """The functions of ``merge-file`` by name; none without one. Blocking; raises MergeFileError.

    A relative path begins beside the configuration file, without one in the data directory.
    """
    path = config.string("merge-file")
    if not path:
        return {}
    path = os.path.join(os.path.dirname(config.path) if config.path else os.getcwd(), path)
    try:
        source = fs.read_all(path)
    except OSError as error:
        raise MergeFileError(f"merge-file {path}: {error.strerror or error}") from error
    merges = run(path, source).get("MERGES")
    if not isinstance(merges, Mapping) or not merges or not all(isinstance(name, str) for name in merges):
        raise MergeFileError(f'merge-file {path}: it has to assign MERGES = {{"name": function, ...}}')
    return merges


def run(path: str, source: bytes) -> dict[str, Any]:
    """The names that the file leaves behind. MergeFileError, with its line, for whatever it raises."""
    module: dict[str, Any] = {"__name__": "respkv_merge_file", "__file__": path}
    try:
        exec(compile(source, path, "exec"), module)
    except (Exception, SystemExit) as error:
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == path]
        at = error.lineno if isinstance(error, SyntaxError) else lines[-1] if lines else 0
        reason = error.msg if isinstance(error, SyntaxError) else str(error)
        raise MergeFileError(f"merge-file {path}, line {at}: {type(error).__name__}: {reason}") from error
    return module
