"""One process of a local ring: its ports and files, and how it is when it is asked.

A pid file may outlive its process, and its number may then be another's: a process counts as a node's only while its
command line names the node's configuration.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import hiredis

from respkv.base.errors import RespkvError
from respkv.config.syntax import quote

HOST: Final = "127.0.0.1"
#: The cluster face is so far above the plain face, hence the bound on nodes.
ALTERNATE_STEP: Final = 100
NODES_MAX: Final = 100
#: Node links are so far above the plain face, as in Redis; where that is no port, above the cluster faces.
LINK_STEP: Final = 10_000
_PORT_MAX: Final = 65_535
_ANSWER_S: Final = 2.0
#: States of a node: no process, one that does not listen yet, no member yet, never a member, a member, no answer.
STOPPED: Final = "stopped"
STARTING: Final = "starting"
FORMING: Final = "forming"
REFUSED: Final = "refused"
READY: Final = "ready"
SILENT: Final = "silent"
_LOG_LINES: Final = 10


#: How many slots are ok, in danger and without a majority of their replicas.
Slots = tuple[int, int, int]


class LocalRingError(RespkvError):
    """It cannot be done; the text is for people."""


@dataclass(frozen=True, slots=True)
class Report:
    """A node as it is now. ``pid`` 0: it does not run. ``live`` are the members it can work with, itself included;
    ``keys`` those it is the first owner of; ``hints`` writes it keeps for others; ``slots`` how many it takes to be ok,
    in danger and without a majority of their replicas. None: it does not say. ``ring`` is what it says of itself,
    ``beliefs`` short id of a member -> its state, as this node believes."""

    pid: int = 0
    state: str = STOPPED
    live: int | None = None
    keys: int | None = None
    hints: int | None = None
    ring: str = ""
    slots: Slots | None = None
    beliefs: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LocalNode:
    """One process: number from 1, ports and files."""

    number: int
    directory: Path
    port: int
    alternate_port: int
    link_port: int

    def path(self, suffix: str) -> Path:
        """``node-1.conf`` and its like; the data directory for no suffix."""
        return self.directory / f"node-{self.number}{suffix}"

    def pid(self) -> int:
        """The number of its process, 0 when it does not run."""
        try:
            pid = int(self.path(".pid").read_text())
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except (OSError, ValueError):
            return 0
        return pid if os.fsencode(self.path(".conf")) in words else 0

    def log_tail(self) -> str:
        """The last lines of its log, and of what it printed."""
        lines: list[str] = []
        for suffix in (".log", ".out"):
            if self.path(suffix).exists():
                lines += self.path(suffix).read_text(errors="replace").splitlines()[-_LOG_LINES:]
        return "\n".join(f"    {line}" for line in lines)

    def configuration(self, *, nodes: int, seed_port: int, secret: str) -> str:
        """The text of its configuration file. The first node makes the ring, the others join through it."""
        role = {"bootstrap": "yes", "cluster-size": nodes} if self.number == 1 else {"join": f"{HOST}:{seed_port}"}
        directives: dict[str, object] = {
            "port": self.port, "alternate-port": self.alternate_port, "cluster-port": self.link_port, "bind": HOST,
            "dir": self.path(""), "pidfile": self.path(".pid"), "logfile": self.path(".log"),
            "cluster-secret": secret, **role,
        }  # fmt: skip
        return "".join(f"{name} {quote(str(value))}\n" for name, value in directives.items())

    def report(self, password: str) -> Report:
        """How it is now; takes a few seconds at most when it does not answer."""
        pid = self.pid()
        if not pid:
            return Report()
        try:
            with _Client(self.port, password) as client:
                reply = client.call("PING")
                state = _outside(reply) if isinstance(reply, hiredis.ReplyError) else READY
                if state not in (READY, FORMING, REFUSED):
                    return Report(pid, state)
                facts = _facts(client.call("RKV.STATUS"))
                if state != READY:
                    return Report(pid, state, ring=_text(facts.get(b"status")))
                rows = _rows(client.call("RKV.NODES"))
            with _Client(self.alternate_port, password) as client:
                keys = client.call("DBSIZE")
        except ConnectionRefusedError:
            return Report(pid, STARTING)
        except (OSError, hiredis.ProtocolError):
            return Report(pid, SILENT)
        live = facts.get(b"members_live")
        slots = [facts.get(name) for name in (b"slots_ok", b"slots_pfail", b"slots_fail")]
        return Report(
            pid, READY, live if isinstance(live, int) else None, keys if isinstance(keys, int) else None,
            None if rows is None else sum(int(row.get(b"hints-pending", 0)) for row in rows),
            _text(facts.get(b"status")),
            (int(slots[0]), int(slots[1]), int(slots[2])) if None not in slots else None,  # type: ignore[arg-type]
            {int(row[b"short"]): _text(row.get(b"state")) for row in rows or () if b"short" in row},
        )  # fmt: skip


class _Client:
    """A connection to a node. Error replies come back as values."""

    def __init__(self, port: int, password: str) -> None:
        self._sock = socket.create_connection((HOST, port), timeout=_ANSWER_S)
        self._reader = hiredis.Reader()
        if password:
            self.call("AUTH", password)

    def __enter__(self) -> _Client:
        return self

    def __exit__(self, *_: object) -> None:
        self._sock.close()

    def call(self, *words: str) -> Any:
        """The reply. OSError when none comes."""
        parts = [word.encode() for word in words]
        self._sock.sendall(b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%b\r\n" % (len(part), part) for part in parts))
        while (reply := self._reader.gets()) is False:
            data = self._sock.recv(1 << 16)
            if not data:
                raise ConnectionError("closed")
            self._reader.feed(data)
        return reply


def _outside(reply: hiredis.ReplyError) -> str:
    """The state of a node that answers with an error: it waits for a ring, will never have one, or that error."""
    text = str(reply)
    return {"LOADING": FORMING, "CLUSTERDOWN": REFUSED}.get(text.partition(" ")[0], text)


def _text(value: Any) -> str:
    """What a node says in words, empty when it does not."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else ""


def _facts(reply: Any) -> dict[bytes, Any]:
    """A flat map, empty when the reply is none."""
    return dict(zip(reply[::2], reply[1::2])) if isinstance(reply, list) else {}


def _rows(reply: Any) -> list[dict[bytes, Any]] | None:
    """The flat maps of RKV.NODES, None when the reply is no array."""
    return [_facts(row) for row in reply] if isinstance(reply, list) else None


def make_nodes(directory: Path, *, nodes: int, base_port: int) -> list[LocalNode]:
    """The nodes with ports that do not meet. LocalRingError when there are no such."""
    if not 1 <= nodes <= NODES_MAX:
        raise LocalRingError(f"a local ring has 1 to {NODES_MAX} nodes, not {nodes}")
    link_base = base_port + LINK_STEP
    if link_base + nodes - 1 > _PORT_MAX:
        link_base = base_port + 2 * ALTERNATE_STEP
    if base_port < 1 or link_base + nodes - 1 > _PORT_MAX:
        raise LocalRingError(f"no room for the ports of {nodes} nodes from {base_port} on")
    return [
        LocalNode(at + 1, directory, base_port + at, base_port + ALTERNATE_STEP + at, link_base + at)
        for at in range(nodes)
    ]


def describe(report: Report, nodes: int) -> str:
    """The state of a node in words."""
    if report.live is not None and report.live < nodes:
        return f"{report.state}, sees {report.live} of {nodes}"
    return report.state
