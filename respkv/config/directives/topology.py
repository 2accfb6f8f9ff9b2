"""Replication and cluster."""

from __future__ import annotations

from typing import Final

from respkv.config.directive import Section, kept, refused
from respkv.config.kinds import INT_MAX, LONG_MAX, MIB, Choice, Flag, HostPort, Integer, Memory, Text

_COUNT: Final = Integer(0, INT_MAX)
_PORT: Final = Integer(0, 65535)
_SECONDS: Final = Integer(0, INT_MAX, "seconds")
_PERIOD: Final = Integer(1, INT_MAX, "seconds")

REPLICATION: Final = Section(
    "Replication",
    (
        refused("replicaof", HostPort(), "", "Master to copy.", mutable=False, aliases=("slaveof",)),
        kept("masterauth", Text(), "", "Password for the master.", sensitive=True),
        kept("masteruser", Text(), "", "User for the master."),
        kept("replica-read-only", Flag(), True, "Refuse writes on a replica.", aliases=("slave-read-only",)),
        kept(
            "replica-serve-stale-data",
            Flag(),
            True,
            "Answer while the master is away.",
            aliases=("slave-serve-stale-data",),
        ),
        kept(
            "replica-lazy-flush",
            Flag(),
            False,
            "Flush in the background before a copy.",
            aliases=("slave-lazy-flush",),
        ),
        kept(
            "replica-ignore-maxmemory",
            Flag(),
            True,
            "Leave eviction to the master.",
            aliases=("slave-ignore-maxmemory",),
        ),
        kept("replica-ignore-disk-write-errors", Flag(), False, "Go on when the disk fails."),
        kept("replica-full-sync-buffer-limit", Memory(0, LONG_MAX), 0, "Buffer of a replica during a copy."),
        kept("replica-priority", _COUNT, 100, "Rank for promotion.", aliases=("slave-priority",)),
        kept("replica-announced", Flag(), True, "Let Sentinel list this replica."),
        kept(
            "replica-announce-ip", Text(), "", "Address told to the master.", aliases=("slave-announce-ip",)
        ),
        kept("replica-announce-port", _PORT, 0, "Port told to the master.", aliases=("slave-announce-port",)),
        kept(
            "min-replicas-to-write",
            _COUNT,
            0,
            "Replicas without which writes are refused.",
            aliases=("min-slaves-to-write",),
        ),
        kept(
            "min-replicas-max-lag",
            _SECONDS,
            10,
            "Lag of a replica that still counts.",
            aliases=("min-slaves-max-lag",),
        ),
        kept("repl-backlog-size", Memory(1, LONG_MAX), MIB, "Buffer for replicas that come back."),
        kept("repl-backlog-ttl", Integer(0, LONG_MAX, "seconds"), 3600, "Time the backlog is kept."),
        kept("repl-timeout", _PERIOD, 60, "Silence after which a link is dead."),
        kept(
            "repl-ping-replica-period",
            _PERIOD,
            10,
            "Time between pings.",
            aliases=("repl-ping-slave-period",),
        ),
        kept("repl-disable-tcp-nodelay", Flag(), False, "Send fewer, larger packets."),
        kept("repl-diskless-sync", Flag(), True, "Copy without a file."),
        kept("repl-diskless-sync-delay", _SECONDS, 5, "Wait for more replicas before a copy."),
        kept("repl-diskless-sync-max-replicas", _COUNT, 0, "Replicas that end the wait."),
        kept(
            "repl-diskless-load",
            Choice(("disabled", "on-empty-db", "swapdb")),
            "disabled",
            "Load a copy without a file.",
        ),
        kept(
            "propagation-error-behavior",
            Choice(("ignore", "panic", "panic-on-replicas")),
            "ignore",
            "What an error in the stream of commands does.",
        ),
    ),
)

CLUSTER: Final = Section(
    "Cluster",
    (
        refused("cluster-enabled", Flag(), False, "Be a node of a cluster.", mutable=False),
        kept("cluster-config-file", Text(), "nodes.conf", "File of the state of the cluster.", mutable=False),
        kept(
            "cluster-node-timeout", Integer(0, LONG_MAX, "ms"), 15000, "Silence after which a node is down."
        ),
        kept("cluster-port", _PORT, 0, "Port between nodes.", mutable=False),
        kept("cluster-announce-ip", Text(), "", "Address told to clients and nodes."),
        kept("cluster-announce-port", _PORT, 0, "Port told to clients."),
        kept("cluster-announce-tls-port", _PORT, 0, "TLS port told to clients."),
        kept("cluster-announce-bus-port", _PORT, 0, "Port told to nodes."),
        kept(
            "cluster-announce-hostname",
            Text(r"[A-Za-z0-9.-]*", "Hostnames may only contain alphanumeric characters, hyphens or dots"),
            "",
            "Host name told to clients.",
        ),
        kept(
            "cluster-announce-human-nodename",
            Text(
                r"[A-Za-z0-9._-]*",
                "Announced human node name contained invalid character. Human node names may only contain"
                " alphanumeric characters, hyphens, underscores or dots",
            ),
            "",
            "Name of the node in logs.",
        ),
        kept(
            "cluster-preferred-endpoint-type",
            Choice(("ip", "hostname", "unknown-endpoint")),
            "ip",
            "What redirections name.",
        ),
        kept("cluster-require-full-coverage", Flag(), True, "Refuse all when a slot has no owner."),
        kept("cluster-allow-reads-when-down", Flag(), False, "Read while the cluster is down."),
        kept("cluster-allow-pubsubshard-when-down", Flag(), True, "Publish while the cluster is down."),
        kept("cluster-allow-replica-migration", Flag(), True, "Let replicas change their master."),
        kept("cluster-migration-barrier", _COUNT, 1, "Replicas that a master keeps."),
        kept(
            "cluster-replica-validity-factor",
            _COUNT,
            10,
            "How old a replica may be promoted.",
            aliases=("cluster-slave-validity-factor",),
        ),
        kept(
            "cluster-replica-no-failover",
            Flag(),
            False,
            "Never promote this replica.",
            aliases=("cluster-slave-no-failover",),
        ),
        kept("cluster-link-sendbuf-limit", Memory(), 0, "Buffer of a link between nodes."),
    ),
)
