"""``python -m respkv``: the server."""

from __future__ import annotations

import sys

from respkv.cli.server import main

if __name__ == "__main__":
    sys.exit(main())
