"""What the directives say about being a node of a ring, checked against each other and against the directory.

A process is a node of a ring when it founds a cluster (``bootstrap``), joins one (``join``), or finds CLUSTER in its
directory. Whatever contradicts itself or cannot work is refused here, before a port is open or a file written.

``port`` speaks the face that ``cluster-enabled`` names, ``alternate-port`` the other one. While ``cluster-secret`` is
empty and ``protected-mode`` is on, nodes are listened to on this machine alone, as clients are without a password.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, cast

from respkv.base.errors import RespkvError
from respkv.cluster.formation import NO_CLUSTER
from respkv.config.ring_kinds import Rows, split_address
from respkv.config.store import ConfigStore
from respkv.replication import levels
from respkv.wire.messages import Address, Join

#: The decided ring, or what is known of it before (cluster/formation.py).
CLUSTER_FILE: Final = "CLUSTER"
#: Says that a directory is that of a node of a ring, and how often the node had to speak up for itself.
INCARNATION_FILE: Final = "INCARNATION"

_NODE_PORT_OFFSET: Final = 10_000
_PORT_MAX: Final = 65_535
_SECRET_WISHED: Final = 16
_CURRENT: Final = "CURRENT"
_STORE: Final = (_CURRENT, "tables", "wal")
_WILDCARDS: Final = ("*", "0.0.0.0", "::", "::*")
_LOOPBACK: Final = "127.0.0.1"


class RingProblem(RespkvError):
    """This process cannot be the node of a ring that it is told to be; the text is for the log."""


@dataclass(frozen=True, slots=True)
class RingSettings:
    """A node of a ring, as configured. ``cluster_size`` is above 0 for the founder alone."""

    cluster_size: int
    seeds: tuple[Address, ...]
    replicas: int
    secret: bytes = field(repr=False)
    #: where nodes are listened to, in the words of ``bind``
    node_bind: tuple[str, ...]
    node_port: int
    #: what other nodes and clients are told
    client_host: str
    client_port: int
    alternate_port: int
    cluster_enabled: bool
    node_host: str
    announced_node_port: int
    read_quorum: int
    write_quorum: int
    level: int
    #: other nodes may stand in for replicas that are away
    sloppy: bool
    #: (prefix, level) of keys whose level is another one
    levels_for: tuple[tuple[bytes, int], ...]
    #: prefixes whose keys share one slot, ascending; the founder decides for all
    colocate: tuple[bytes, ...]
    #: lines for the log: it works, but perhaps not as meant
    warnings: tuple[str, ...]

    @property
    def founds(self) -> bool:
        """True for the one node that decides the ring."""
        return self.cluster_size > 0

    def join(self, node_id: bytes) -> Join:
        """This node as it introduces itself; ``node_id`` is that of the directory."""
        return Join(
            node_id, NO_CLUSTER, self.client_host, self.client_port, self.alternate_port, int(self.cluster_enabled),
            self.node_host, self.announced_node_port,
        )  # fmt: skip

    def cluster_face(self, directive: str) -> bool:
        """Whether the listener of ``directive`` (port, alternate-port, unixsocket) speaks the cluster face."""
        return self.cluster_enabled != (directive == "alternate-port")


def ring_settings(config: ConfigStore, directory_listing: Iterable[str]) -> RingSettings | None:
    """What this process is on a ring; None for a single node. ``directory_listing``: the names in the data directory.

    RingProblem when the directives contradict each other or the directory.
    """
    names = list(directory_listing)
    seeds = tuple(split_address(word) for word in config.words("join"))
    bootstrap, size = config.flag("bootstrap"), config.integer("cluster-size")
    if bootstrap and seeds:
        raise RingProblem("bootstrap and join exclude each other: one node founds the cluster, the others join it")
    if bootstrap and size < 1:
        raise RingProblem("bootstrap needs cluster-size, the number of nodes that are to found the cluster, 1 at least")
    if not (bootstrap or seeds or CLUSTER_FILE in names):
        _check_single(config, names)
        return None
    if CLUSTER_FILE in names and _CURRENT not in names:
        # It was written after the store. What was acknowledged here is gone, and others count on it.
        raise RingProblem(
            f"the directory '{config.string('dir')}' is that of a member of a cluster, but its data are gone: CURRENT"
            " is missing. Put the data back; a node without what it has acknowledged is not taken back"
        )
    if CLUSTER_FILE not in names and INCARNATION_FILE not in names and any(name in names for name in _STORE):
        raise RingProblem(
            f"{'bootstrap' if bootstrap else 'join'} needs an empty directory, and '{config.string('dir')}' holds the"
            " data of a single node, which a ring cannot take over yet; name another one with dir and copy the keys"
        )
    return _settings(config, size if bootstrap else 0, seeds)


def _check_single(config: ConfigStore, names: list[str]) -> None:
    """RingProblem when a single node is not what is meant."""
    if INCARNATION_FILE in names:
        raise RingProblem(
            f"the directory '{config.string('dir')}' is that of a node that waits for its cluster: say again which one"
            " with join, or name another directory"
        )
    if config.integer("cluster-size"):
        raise RingProblem("cluster-size is set, but neither bootstrap nor join: this node would stand alone")
    if config.flag("cluster-enabled"):
        raise RingProblem(
            "cluster-enabled needs a ring: found one with bootstrap yes and cluster-size (1 is a ring of one node), or"
            " join one with join host:port"
        )


def _settings(config: ConfigStore, size: int, seeds: tuple[Address, ...]) -> RingSettings:
    """The settings of a node of a ring."""
    warnings: list[str] = []
    replicas = config.integer("replication-factor")
    read_quorum, write_quorum = _quorums(config, replicas, warnings)
    node_port = _node_port(config)
    secret = as_bytes(config.string("cluster-secret"))
    client_host = config.string("cluster-announce-ip") or default_host(config.words("bind"))
    node_host = config.string("cluster-announce-bus-ip") or client_host
    bind = _node_bind(config, secret, node_host, warnings)
    if is_loopback(node_host) and not all(is_loopback(host) for host, _ in seeds):
        warnings.append(
            f"this node tells others that it is at {node_host}, where only this machine reaches it; set"
            " cluster-announce-ip if the cluster has nodes on others"
        )
    client_port = config.integer("port")
    alternate = config.integer("alternate-port")
    return RingSettings(
        cluster_size=size,
        seeds=seeds,
        replicas=replicas,
        secret=secret,
        node_bind=bind,
        node_port=node_port,
        client_host=client_host,
        client_port=config.integer("cluster-announce-port") or client_port,
        alternate_port=(config.integer("cluster-announce-alternate-port") or alternate) if alternate else 0,
        cluster_enabled=config.flag("cluster-enabled"),
        node_host=node_host,
        announced_node_port=config.integer("cluster-announce-bus-port") or node_port,
        read_quorum=read_quorum,
        write_quorum=write_quorum,
        level=levels.BY_NAME[config.string("consistency-level").encode()],
        sloppy=config.flag("sloppy-quorum"),
        colocate=tuple(sorted(as_bytes(prefix) for prefix in config.words("colocate"))),
        levels_for=tuple(
            (as_bytes(prefix), levels.BY_NAME[word.encode()])
            for prefix, word in cast(Rows, config.value("level-for"))
        ),
        warnings=tuple(warnings),
    )


def as_bytes(text: str) -> bytes:
    """A word of the configuration as it stands in its file."""
    return text.encode("utf-8", "surrogateescape")


def _quorums(config: ConfigStore, replicas: int, warnings: list[str]) -> tuple[int, int]:
    """R and W as configured, 0 for a majority."""
    found = []
    for name in ("read-quorum", "write-quorum"):
        count = config.integer(name)
        if count > replicas:
            raise RingProblem(f"{name} is {count}, more than the copies of a key (replication-factor {replicas})")
        found.append(count)
    majority = replicas // 2 + 1
    if (found[0] or majority) + (found[1] or majority) <= replicas:
        warnings.append(
            "read-quorum and write-quorum together do not exceed replication-factor: a read at level quorum may miss"
            " what was acknowledged at level quorum"
        )
    return found[0], found[1]


def _node_port(config: ConfigStore) -> int:
    """The port where this node listens to others."""
    port = config.integer("port")
    if not port:
        raise RingProblem("port is 0: a node of a ring needs a port that clients can be sent to")
    node_port = config.integer("cluster-port")
    if not node_port:
        node_port = port + _NODE_PORT_OFFSET
        if node_port > _PORT_MAX:
            raise RingProblem(f"cluster-port would be port + {_NODE_PORT_OFFSET}, above {_PORT_MAX}: set cluster-port")
    others = ("port", "alternate-port", "metrics-port")
    for name in others:
        if config.integer(name) == node_port:
            raise RingProblem(f"the port between nodes is {node_port}, and so is {name}: set cluster-port")
    if config.integer("alternate-port") == port:
        raise RingProblem(f"port and alternate-port are both {port}")
    return node_port


def _node_bind(config: ConfigStore, secret: bytes, node_host: str, warnings: list[str]) -> tuple[str, ...]:
    """Where to listen to other nodes."""
    bind = config.words("bind")
    if secret:
        if len(secret) < _SECRET_WISHED:
            warnings.append(
                f"cluster-secret has {len(secret)} characters; whoever hears a node greet another can try that many"
            )
        return bind
    if not config.flag("protected-mode"):
        if not all(is_loopback(word) for word in bind):
            warnings.append(
                "cluster-secret is empty and protected-mode is off: whoever reaches the port between nodes can read and"
                " change everything"
            )
        return bind
    if not is_loopback(node_host):
        raise RingProblem(
            f"nodes of other machines are to reach this one at {node_host}, but cluster-secret is empty: set it, the"
            " same on all nodes (or protected-mode no in a network where everybody may do everything)"
        )
    return tuple(word for word in bind if is_loopback(word)) or (_LOOPBACK, "-::1")


def default_host(bind: Iterable[str]) -> str:
    """The address to announce for the words of ``bind``: the first that others reach, else one of this machine."""
    words = [word.removeprefix("-") for word in bind]
    concrete = [word for word in words if word and word not in _WILDCARDS]
    return next((word for word in concrete if not is_loopback(word)), concrete[0] if concrete else _LOOPBACK)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches ``host``. A name other than localhost is taken for another's."""
    host = host.removeprefix("-").lower()
    return host in ("localhost", "::1") or host.startswith("127.")
