"""Replication, the ring, and the cluster as clients of Redis know it."""

from __future__ import annotations

from typing import Final

from respkv.config.directive import Directive, Section, kept, refused
from respkv.config.kinds import INT_MAX, LONG_MAX, MIB, Choice, Flag, HostPort, Integer, Memory, Text
from respkv.config.ring_kinds import LEVELS, Nodes, Prefixes, PrefixWords, level_word, policy_word

_COUNT: Final = Integer(0, INT_MAX)
_PORT: Final = Integer(0, 65535)
_SECONDS: Final = Integer(0, INT_MAX, "seconds")
_PERIOD: Final = Integer(1, INT_MAX, "seconds")
#: Copies of a key, and answers that are waited for.
_COPIES_MAX: Final = 16
_ANSWERS: Final = Integer(0, _COPIES_MAX)
_HOST: Final = Text(
    r"[!#-&(-+\--?A-Z^-~]{0,255}", "must be an address or a host name: printable, without blanks , @ [ ] quotes \\"
)

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

#: What makes a node of a ring. A ring is decided once, so none of this changes while the server runs.
_RING: Final = (
    Directive("bootstrap", Flag(), False, "Found a cluster; one node of it does.", mutable=False),
    Directive(
        "cluster-size",
        Integer(0, 1024),
        0,
        "Nodes of the cluster that bootstrap founds, this one included; its ring is decided when all are there.",
        mutable=False,
    ),
    Directive(
        "join",
        Nodes(),
        (),
        "Become a node of a cluster; ask these nodes, at their cluster-port, until it is formed.",
        mutable=False,
    ),
    Directive(
        "cluster-secret",
        Text(),
        "",
        "What nodes of one cluster know and others do not; make it long. While it is empty and protected-mode is on,"
        " nodes of other machines are not listened to.",
        mutable=False,
        sensitive=True,
    ),
    Directive(
        "replication-factor",
        Integer(1, _COPIES_MAX),
        3,
        "Copies of each key in the cluster that bootstrap founds.",
        mutable=False,
    ),
    Directive(
        "read-quorum", _ANSWERS, 0, "Replicas that answer a read at level quorum; 0 is a majority.", mutable=False
    ),
    Directive(
        "write-quorum", _ANSWERS, 0, "Replicas that hold a write at level quorum; 0 is a majority.", mutable=False
    ),
    Directive("consistency-level", Choice(LEVELS), "quorum", "Level of requests that name none.", mutable=False),
    Directive(
        "level-for",
        PrefixWords(level_word, "level"),
        (),
        "Level of requests that name none, for keys with this beginning; the longest one counts.",
        mutable=False,
    ),
    Directive(
        "conflict-policy",
        PrefixWords(policy_word, "lww, siblings or merge:NAME", everything=True),
        (),
        "What becomes of concurrent writes to keys with this beginning, also on a single node; the longest one counts,"
        " an empty one is all keys. lww keeps the newest value; siblings keeps all until a writer has seen them"
        " (RKV.GET, RKV.SET); merge:NAME makes one value of them by max, min, union, longest or a function of"
        " merge-file. The same on all nodes.",
        mutable=False,
    ),
    Directive(
        "merge-file",
        Text(),
        "",
        "Python file with merge functions of your own for conflict-policy: MERGES = {\"name\": function}; beside the"
        " configuration file when the path is relative. They run on the event loop and are interrupted after 50 ms."
        " The same on all nodes.",
        mutable=False,
    ),
    Directive("colocate",
        Prefixes(),
        (),
        "Put all keys with this beginning into one slot of the ring; those of the founder count, for good.",
        mutable=False,
    ),
    Directive(
        "sloppy-quorum",
        Flag(),
        False,
        "Let other nodes stand in for replicas that are away; quorum then promises no more than convergence.",
        mutable=False,
    ),
    Directive(
        "hint-window",
        _SECONDS,
        10800,
        "Time for which a write is held for a replica that is away; repair finds what is missing after that.",
        mutable=False,
    ),
    Directive(
        "hints-max-bytes", Memory(0, LONG_MAX), 1024 * MIB, "Writes held for one replica that is away.", mutable=False
    ),
)

CLUSTER: Final = Section(
    "Cluster",
    (
        *_RING,
        Directive(
            "cluster-enabled",
            Flag(),
            False,
            "Of a node of a cluster: port speaks the protocol of Redis Cluster and alternate-port the plain one; no:"
            " the other way round.",
            mutable=False,
        ),
        kept("cluster-config-file", Text(), "nodes.conf", "File of the state of the cluster.", mutable=False),
        kept(
            "cluster-node-timeout", Integer(0, LONG_MAX, "ms"), 15000, "Silence after which a node is down."
        ),
        Directive("cluster-port", _PORT, 0, "Port between nodes; 0 is port + 10000.", mutable=False),
        Directive(
            "cluster-announce-ip",
            _HOST,
            "",
            "Address told to clients and nodes; empty is the first of bind that is one, else 127.0.0.1.",
            mutable=False,
        ),
        Directive("cluster-announce-port", _PORT, 0, "Port told to clients; 0 is port.", mutable=False),
        Directive(
            "cluster-announce-alternate-port",
            _PORT,
            0,
            "Second port told to clients; 0 is alternate-port.",
            mutable=False,
        ),
        kept("cluster-announce-tls-port", _PORT, 0, "TLS port told to clients."),
        Directive(
            "cluster-announce-bus-ip", _HOST, "", "Address told to nodes; empty is that told to clients.", mutable=False
        ),
        Directive("cluster-announce-bus-port", _PORT, 0, "Port told to nodes; 0 is cluster-port.", mutable=False),
        Directive(
            "cluster-announce-replicas",
            Flag(),
            False,
            "Name the replicas of a slot behind its owner, for clients that spread reads.",
        ),
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
        Directive(
            "cluster-require-full-coverage",
            Flag(),
            True,
            "Call the cluster down when any slot, and not only when every slot, lacks a majority of its replicas.",
        ),
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
