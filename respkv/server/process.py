"""The process among others: background, supervisor, pid file, descriptors, memory."""

from __future__ import annotations

import os
import resource
import signal
import socket
from collections.abc import Callable, Iterable, Mapping, MutableMapping
from typing import Final

from respkv.env.fs import FileSystem

Log = Callable[[str, str], None]

#: Descriptors beside clients: what Redis reserves, and our tables, segments, pipes.
RESERVED_FILES: Final = 32
OWN_FILES: Final = 512

#: Whether anonymous memory gets pages of 2 MiB.


def open_standard_files() -> None:
    """Open what whoever started us has closed of standard input, output and error, on /dev/null.

    Else the first file of the store would get such a number, and text meant for people would end in it.
    """
    for fd in (0, 1, 2):
        try:
            os.fstat(fd)
        except OSError:
            null = os.open(os.devnull, os.O_RDWR)  # The lowest free number: fd.
            os.set_inheritable(null, True)


def daemonize() -> None:
    """Go to the background: the parent ends, the child leads its own session with no terminal."""
    if os.fork() != 0:
        os._exit(0)
    os.setsid()
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    if null > 2:
        os.close(null)


#: supervisor -> the variable by which it is known
SUPERVISORS: Final = {"upstart": "UPSTART_JOB", "systemd": "NOTIFY_SOCKET"}


def supervisor(mode: str, environment: Mapping[str, str]) -> str:
    """Who has started this process and wants to hear of it, by the directive ``supervised``; "" is nobody."""
    wanted = SUPERVISORS if mode == "auto" else [mode] if mode in SUPERVISORS else []
    return next((name for name in wanted if environment.get(SUPERVISORS[name])), "")


def stop_for_upstart(environment: MutableMapping[str, str]) -> None:
    """Stop, and go on when upstart says so. Processes of ours are not its jobs, so the variable goes."""
    del environment["UPSTART_JOB"]
    os.kill(os.getpid(), signal.SIGSTOP)


def notify_supervisor(environment: Mapping[str, str], text: str) -> bool:
    """sd_notify: send ``text`` to NOTIFY_SOCKET; False when there is none or it does not listen."""
    path = environment.get("NOTIFY_SOCKET", "")
    if not path or path[0] not in "/@":
        return False
    address = "\0" + path[1:] if path[0] == "@" else path
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        try:
            sock.sendto(text.encode(), address)
        except OSError:
            return False
    return True


def write_pidfile(path: str, pid: int) -> str:
    """Write the pid file; why it could not be written, "" when it was."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        try:
            os.write(fd, b"%d\n" % pid)
        finally:
            os.close(fd)
    except OSError as error:
        return f"Failed to write PID file: {error.strerror}"
    return ""


def adjust_open_files(maxclients: int, log: Log) -> int:
    """Raise the limit of open files for ``maxclients``; how many clients the limit that was got allows.

    The log lines are those of Redis.
    """
    wanted = maxclients + RESERVED_FILES + OWN_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return maxclients
    best = soft
    for limit in (wanted, min(wanted, hard) if hard != resource.RLIM_INFINITY else wanted):
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, max(hard, limit) if hard != -1 else hard))
            best = limit
            break
        except (ValueError, OSError):
            continue
    if best >= wanted:
        log(
            "notice", f"Increased maximum number of open files to {wanted} (it was originally set to {soft})."
        )
        return maxclients
    allowed = best - RESERVED_FILES - OWN_FILES
    if allowed < 1:
        allowed = max(1, best - RESERVED_FILES - OWN_FILES // 8)
    log(
        "warning",
        f"You requested maxclients of {maxclients} requiring at least {wanted} max file descriptors.",
    )
    log(
        "warning",
        f"Server can't set maximum open files to {wanted} because of OS error: Operation not permitted.",
    )
    log(
        "warning",
        f"Current maximum open files is {best}. maxclients has been reduced to {allowed} to compensate for"
        " low ulimit. If you need higher maxclients increase 'ulimit -n'.",
    )
    return allowed


def machine_bytes(fs: FileSystem) -> int:
    """Memory of the machine, or of the container when that is less."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            text = fs.read_all(path).strip()
        except OSError:
            continue
        if text.isdigit():
            total = min(total, int(text))
    return total


def cpu_figures(fs: FileSystem, children: Iterable[int]) -> dict[str, float]:
    """Seconds of processor time: ``user`` and ``sys`` of this process, ``user_children`` and ``sys_children`` of
    those it has started, the running ones (by number in ``children``) and the ended ones."""
    own, ended = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    user, system = ended.ru_utime, ended.ru_stime
    ticks = os.sysconf("SC_CLK_TCK")
    for number in children:
        try:
            words = fs.read_all(f"/proc/{number}/stat").rpartition(b")")[2].split()
            user += int(words[11]) / ticks
            system += int(words[12]) / ticks
        except (OSError, ValueError, IndexError):
            continue  # It has just ended.
    return {"user": own.ru_utime, "sys": own.ru_stime, "user_children": user, "sys_children": system}


def memory_figures(fs: FileSystem) -> dict[str, int]:
    """``rss`` now and ``peak``, in bytes, and ``total`` of the machine."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    try:
        pages = int(fs.read_all("/proc/self/statm").split()[1])
        rss = pages * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        rss = peak
    return {"rss": rss, "peak": max(peak, rss), "total": machine_bytes(fs)}
