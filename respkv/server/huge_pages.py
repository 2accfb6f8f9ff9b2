"""Huge pages for the server's large tables, asked for at start by who wants them: ``RESPKV_HUGE_PAGES=ask``.

Memtables and caches are dicts of millions of entries, touched at random places: with pages of 4 KiB most touches also
miss the processor's address cache. Where the system grants huge pages on request (``madvise``, the usual setting),
glibc asks for them when its tunable ``glibc.malloc.hugetlb`` is 1 (glibc 2.35 and later). A tunable is read once,
before the first allocation, so the server sets it and executes itself again: the same pid, the same arguments.

Not the default: writes gain a tenth, but a fault that has to clear, or first find, two megabytes can stop the loop for
tens of milliseconds. (There is no fork here that would copy such pages, which is why other servers want them off.)
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Final

from respkv.env.fs import FileSystem

SETTING: Final = "/sys/kernel/mm/transparent_hugepage/enabled"
TUNABLES: Final = "GLIBC_TUNABLES"
#: ``ask`` when a person wants them; ``yes`` in a server that was executed again.
MARK: Final = "RESPKV_HUGE_PAGES"
_TUNABLE: Final = "glibc.malloc.hugetlb"


def environment_with_huge_pages(
    environment: Mapping[str, str], *, setting: str, libc: str
) -> dict[str, str] | None:
    """The environment to execute the server again with; None when that would change nothing, or is not wanted.

    ``setting`` is the text of the system's setting, ``libc`` as in ``os.confstr("CS_GNU_LIBC_VERSION")``.
    """
    if environment.get(MARK) != "ask" or _TUNABLE in environment.get(TUNABLES, "") or "[madvise]" not in setting:
        return None
    name, _, version = libc.partition(" ")
    numbers = version.split(".")[:2]
    if name != "glibc" or not all(number.isdigit() for number in numbers):
        return None
    if tuple(map(int, numbers)) < (2, 35):
        return None
    tunables = ":".join(filter(None, (environment.get(TUNABLES, ""), f"{_TUNABLE}=1")))
    return {**environment, TUNABLES: tunables, MARK: "yes"}


def ask_for_huge_pages(fs: FileSystem) -> None:
    """Execute this program again with huge pages, if that helps; else return. Call it before anything else.

    In the program that was executed again, the tunable is taken out of the environment: workers, which live by
    small memory, do not inherit it.
    """
    if os.environ.get(MARK) == "yes":
        kept = [word for word in os.environ.get(TUNABLES, "").split(":") if not word.startswith(_TUNABLE)]
        os.environ[TUNABLES] = ":".join(kept)
        if not os.environ[TUNABLES]:
            del os.environ[TUNABLES]
        return
    try:
        setting = fs.read_all(SETTING).decode("ascii", "replace")
        libc = os.confstr("CS_GNU_LIBC_VERSION") or ""
    except (OSError, ValueError):
        return
    environment = environment_with_huge_pages(os.environ, setting=setting, libc=libc)
    if environment is None:
        return
    try:
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)
    except OSError:
        return  # It runs as well without.


def granted(environment: Mapping[str, str]) -> bool:
    """True in a server that was executed again to get them."""
    return environment.get(MARK) == "yes"
