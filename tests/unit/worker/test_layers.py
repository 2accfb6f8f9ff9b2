"""A worker stays small: it loads neither the event loop nor the commands."""

from __future__ import annotations

import subprocess
import sys


def test_a_worker_imports_no_server() -> None:
    code = (
        "import sys, respkv.worker.__main__;"
        "print([name for name in sys.modules if name.split('.')[0] in ('trio', 'hiredis', 'asyncio')"
        " or name.startswith(('respkv.server', 'respkv.commands', 'respkv.node', 'respkv.resp'))])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert result.stdout.strip() == "[]"
