"""``respkv-server``: from a command line to a running server."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence

import respkv
from respkv.base.build import is_compiled
from respkv.cli import options
from respkv.commands.table import build_table
from respkv.config import parser
from respkv.config.kinds import ConfigError, Value
from respkv.config.parser import parse_line
from respkv.config.reading import FileReader
from respkv.config.schema import DIRECTIVES
from respkv.config.store import ConfigStore
from respkv.env.posix import PosixFileSystem, SystemClock
from respkv.server import huge_pages, process
from respkv.server.lifecycle import Server, StartError
from respkv.server.server_log import ServerLog

_DEFAULT_PIDFILE = "/var/run/redis.pid"
#: The default of ``protected-mode``: images set it to "no", since a container's clients always come from elsewhere.
PROTECTED_MODE = "RESPKV_PROTECTED_MODE"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the server; the exit status."""
    process.open_standard_files()
    if os.getpid() == 1:
        _let_signals_end_it()
    program = os.path.basename(sys.argv[0]) or "respkv-server"
    if program == "__main__.py":
        program = "respkv-server"
    invocation = options.parse_arguments(sys.argv[1:] if arguments is None else list(arguments))
    if invocation.action is options.Action.VERSION:
        print(options.version_text())
        return 0
    if invocation.action is options.Action.HELP:
        sys.stderr.write(options.usage_text(program))
        return 1
    fs, clock = PosixFileSystem(), SystemClock()
    if arguments is None:
        huge_pages.ask_for_huge_pages(fs)
    log = ServerLog(clock)
    config = _load_config(invocation, FileReader(fs), log)
    if config is None:
        return 1
    return _serve(config, fs, clock, log, has_file=bool(config.path))


def _load_config(invocation: options.Invocation, reader: FileReader, log: ServerLog) -> ConfigStore | None:
    """The configuration; None after the reason was printed."""
    path = os.path.abspath(invocation.config_file) if invocation.config_file else ""
    table = build_table()
    try:
        file_text = reader.read(path) if path else ""
        stdin_text = _standard_input() if invocation.from_stdin else ""
        text = options.config_text(invocation, file_text=file_text, stdin_text=stdin_text)
        loaded = parser.load(
            text,
            reader=reader,
            knows_command=lambda name: table.lookup(name.encode()) is not None,
            path=path,
            path_lines=file_text.count("\n") + (not file_text.endswith("\n")),
        )
        values = {**_defaults(), **loaded.values}
    except parser.ConfigFileError as error:
        sys.stderr.write(error.report)
        return None
    except ConfigError as error:
        sys.stderr.write(f"{PROTECTED_MODE} in the environment: {error}\n")
        return None
    except parser.ConfigReadError as error:
        log("warning", error.report)
        return None
    return ConfigStore(values, renamed=loaded.renamed, path=path)


def _defaults() -> dict[str, Value]:
    """Values that the environment gives, for what no file and no option says otherwise. ConfigError."""
    word = os.environ.get(PROTECTED_MODE)
    return {} if word is None else {"protected-mode": parse_line(DIRECTIVES["protected-mode"], [word], True)}


def _let_signals_end_it() -> None:
    """Until the loop has its own handlers: nothing has been promised yet.

    The kernel keeps the default actions of signals from process 1, which a server in a container is.
    """
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, signal.SIG_DFL if os.getpid() != 1 else _end)


def _end(number: int, frame: object) -> None:
    os._exit(128 + number)


def _standard_input() -> str:
    """All of it, bytes that are not UTF-8 as surrogates, whatever the locale says."""
    return "" if sys.stdin is None else sys.stdin.buffer.read().decode("utf-8", "surrogateescape")


def _serve(
    config: ConfigStore, fs: PosixFileSystem, clock: SystemClock, log: ServerLog, *, has_file: bool
) -> int:
    for name in (signal.SIGHUP, signal.SIGPIPE):
        signal.signal(name, signal.SIG_IGN)
    _let_signals_end_it()
    executable = os.path.abspath(sys.argv[0])
    directory = config.string("dir")
    try:
        os.chdir(directory)
    except OSError as error:
        log("warning", f"Can't chdir to '{directory}': {error.strerror}")
        return 1
    config.resolve("dir", os.getcwd())
    log.path, log.level = config.string("logfile"), config.string("loglevel")
    problem = log.check_writable()
    if problem:
        sys.stderr.write(problem + "\n")
        return 1
    mode = config.string("supervised")
    supervisor = process.supervisor(mode, os.environ)
    # A supervisor watches the process it has started, which must not leave for the background.
    background = config.flag("daemonize") and not supervisor
    if background:
        process.daemonize()
        log.pid = os.getpid()
    log("notice", "oO0OoO0OoO0Oo Redis is starting oO0OoO0OoO0Oo")
    version = config.string("respkv-reported-version")
    log(
        "notice",
        f"Redis version={version}, bits=64, commit=00000000, modified=0, pid={log.pid},"
        f" respkv={respkv.__version__}, just started",
    )
    if has_file:
        log("notice", "Configuration loaded")
    else:
        log(
            "warning",
            "Warning: no config file specified, using the default config. In order to specify a config file"
            " use respkv-server /path/to/respkv.conf",
        )
    log("notice", "The hot modules are compiled" if is_compiled() else "Running as plain Python, not compiled")
    for warning in config.warnings():
        log("warning", f"WARNING: {warning}")
    if mode in process.SUPERVISORS and not supervisor:
        log("warning", f"{mode} supervision requested, but {process.SUPERVISORS[mode]} not found!")
    if supervisor == "upstart":
        log("notice", "Supervised by upstart, will stop to signal readiness.")
        process.stop_for_upstart(os.environ)
    log.role = "M"
    try:
        server = Server(config, fs, clock, log, executable=executable)
        server.prepare()
    except StartError as error:
        log("warning", str(error))
        return 1
    except OSError as error:
        # What a worker process or a thread needs cannot be had.
        log("warning", f"Cannot start: {error}")
        return 1
    pidfile = config.string("pidfile") or (_DEFAULT_PIDFILE if background else "")
    if pidfile:
        problem = process.write_pidfile(pidfile, log.pid)
        if problem:
            log("warning", problem)
        else:
            server.pidfile = pidfile
    return server.run()


if __name__ == "__main__":
    sys.exit(main())
