"""What the log says about a server that starts."""

from __future__ import annotations

import os
import sys
from typing import Final

import respkv
from respkv.config.store import ConfigStore
from respkv.server.server_log import ServerLog

_LOGO: Final = r"""
   _ __ ___  ___ _ __ | | ____   __    respkv {own}, speaks Redis {version}
  | '__/ _ \/ __| '_ \| |/ /\ \ / /
  | | |  __/\__ \ |_) |   <  \ V /     Running in standalone mode
  |_|  \___||___/ .__/|_|\_\  \_/      Port: {port}
                |_|                    PID: {pid}

"""


def show(log: ServerLog, config: ConfigStore) -> None:
    """The logo on a terminal or where it is always wanted, else one line, as Redis does."""
    port = config.integer("port")
    on_terminal = not log.path and sys.stdout is not None and sys.stdout.isatty()
    if on_terminal or config.flag("always-show-logo"):
        version = config.string("respkv-reported-version")
        log.write_raw(_LOGO.format(own=respkv.__version__, version=version, port=port, pid=os.getpid()))
    else:
        log("notice", f"Running mode=standalone, port={port}.")
