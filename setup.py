"""Optional compilation of the hot modules. Everything else about the package is in pyproject.toml.

``RESPKV_COMPILE`` says what ``pip install .`` does: ``auto`` (the default) compiles the modules below to an extension
with mypyc where a C compiler and Python's headers are found, and goes on without where that fails; ``1`` compiles or
fails; ``0`` does not try. The same files run either way. INFO (``respkv_compiled``) and the first
lines of the log say which it is.

An extension beside a source file hides what is edited in it, so an editable install is never compiled. To compile in
place, in a copy: ``RESPKV_COMPILE=1 python setup.py build_ext --inplace`` (as ``tests/run_compiled`` does).
See docs/decisions/0010-compiled-modules.md for what a module must keep to.
"""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import sysconfig
from pathlib import Path
from typing import Any, Final

from setuptools import setup

#: Classes that others inherit from must be here with all their subclasses (``tests/tidy/test_compiled.py``).
COMPILED: Final = (
    "respkv/base/slots.py",
    "respkv/causality/hlc.py",
    "respkv/causality/record.py",
    "respkv/commands/dispatch.py",
    "respkv/commands/hash.py",
    "respkv/commands/ring_dispatch.py",
    "respkv/commands/session.py",
    "respkv/commands/shortcuts.py",
    "respkv/commands/string.py",
    "respkv/commands/string_set.py",
    "respkv/keyspace/apply.py",
    "respkv/keyspace/effects.py",
    "respkv/keyspace/keys.py",
    "respkv/keyspace/keyspace.py",
    "respkv/keyspace/read_set.py",
    "respkv/keyspace/rows.py",
    "respkv/keyspace/view.py",
    "respkv/metrics/histogram.py",
    "respkv/metrics/registry.py",
    "respkv/node/round_gate.py",
    "respkv/replication/payload.py",
    "respkv/resp/request.py",
    "respkv/server/ring_output.py",
    "respkv/storage/probe.py",
    "respkv/storage/row_cache.py",
    "respkv/storage/write_batch.py",
)
#: Libraries need not be there while building: what comes from them has no type then. The tests run mypy strictly.
OPTIONS: Final = ("--config-file=", "--ignore-missing-imports", "--follow-imports=silent")


COMPILER: Final = "mypy>=2.4"


def can_compile() -> bool:
    """Whether a C compiler and Python's headers are on this machine."""
    compiler = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")[0]
    headers = Path(sysconfig.get_paths()["include"], "Python.h")
    return sys.implementation.name == "cpython" and shutil.which(compiler) is not None and headers.is_file()


def extensions(wish: str) -> list[Any]:
    """What to build; in ``auto``, an extension that fails is left out."""
    try:
        from mypyc.build import mypycify
    except ImportError:
        if wish == "1":
            raise SystemExit(f"RESPKV_COMPILE=1 needs mypy: pip install '{COMPILER}'") from None
        return []
    try:
        built = mypycify([*OPTIONS, *COMPILED], opt_level="3", debug_level="0", group_name="respkv_compiled")
    except (Exception, SystemExit) as error:
        if wish == "1":
            raise
        print(f"Not compiled, respkv runs as plain Python: {error}", file=sys.stderr)
        return []
    for extension in built:
        extension.optional = wish != "1"
    return list(built)


def main() -> None:
    """Build, with the extension if it is wished for and can be had."""
    wish = os.environ.get("RESPKV_COMPILE", "auto") or "auto"
    if wish not in ("auto", "0", "1"):
        raise SystemExit(f"RESPKV_COMPILE is auto, 0 or 1, not {wish!r}")
    editable = bool({"develop", "editable_wheel"} & set(sys.argv))
    if editable and wish == "1":
        raise SystemExit("RESPKV_COMPILE=1 and an editable install do not go together: edits would be hidden")
    if wish == "0" or editable or (wish == "auto" and not can_compile()):
        setup()
    elif "egg_info" in sys.argv or "dist_info" in sys.argv:
        setup(setup_requires=[COMPILER])  # pip asks for it first and comes again with it installed.
    else:
        setup(setup_requires=[COMPILER], ext_modules=extensions(wish))


if __name__ == "__main__":
    main()
