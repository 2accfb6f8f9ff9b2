"""Network, process, security and limits of clients."""

from __future__ import annotations

from typing import Final

from respkv.config.directive import Directive, Section, kept, refused
from respkv.config.kinds import (
    INT_MAX,
    LONG_MAX,
    MIB,
    UINT_MAX,
    Addresses,
    Adjustments,
    BufferLimit,
    BufferLimits,
    Choice,
    Events,
    Flag,
    Integer,
    Memory,
    Octal,
    OutputLimits,
    Percentiles,
    ShutdownFlags,
    Text,
)

_PORT: Final = Integer(0, 65535)
_COUNT: Final = Integer(0, INT_MAX)
_LONG: Final = Integer(0, LONG_MAX)
_GATE: Final = Choice(("no", "yes", "local"))
_TITLE: Final = Text(
    r"(?:[^{}]|\{(?:title|listen-addr|server-mode|port|tls-port|unixsocket|config-file)\})+",
    "template format is invalid or contains unknown variables",
)

NETWORK: Final = Section(
    "Network",
    (
        Directive("bind", Addresses(), ("*", "-::*"), "Addresses to listen on.", mutable=False),
        Directive("port", _PORT, 6379, "TCP port to listen on; 0 listens on none.", mutable=False),
        Directive("alternate-port", _PORT, 0, "A second TCP port to listen on; 0 is none.", mutable=False),
        Directive("unixsocket", Text(), "", "Path of a Unix socket to listen on.", mutable=False),
        Directive(
            "unixsocketperm",
            Octal(0o777),
            0,
            "Permissions of the Unix socket; 0 leaves the umask's.",
            mutable=False,
        ),
        Directive(
            "tcp-backlog",
            _COUNT,
            511,
            "Connections the kernel may queue before they are accepted.",
            mutable=False,
        ),
        Directive(
            "timeout", Integer(0, INT_MAX, "seconds"), 0, "Close a client idle for so long; 0 never does."
        ),
        Directive(
            "tcp-keepalive", Integer(0, INT_MAX, "seconds"), 300, "Time between TCP probes; 0 sends none."
        ),
        Directive(
            "protected-mode", Flag(), True, "Refuse clients from other hosts while there is no password."
        ),
        Directive("maxclients", Integer(1, UINT_MAX), 10000, "Connections open at one time."),
        kept("max-new-connections-per-cycle", Integer(1, 1000), 10, "Connections accepted in one cycle."),
        kept(
            "max-new-tls-connections-per-cycle", Integer(1, 1000), 1, "TLS connections accepted in one cycle."
        ),
        kept("bind-source-addr", Text(), "", "Address from which connections to other nodes are made."),
        kept(
            "socket-mark-id",
            Integer(0, UINT_MAX),
            0,
            "Mark of the sockets for packet filters.",
            mutable=False,
        ),
        kept(
            "io-threads", Integer(1, 128), 1, "Threads for sockets; one loop serves all here.", mutable=False
        ),
        kept("io-threads-do-reads", Flag(), False, "Let the threads for sockets read too.", mutable=False),
    ),
)

TLS: Final = Section(
    "TLS",
    (
        refused("tls-port", _PORT, 0, "TCP port for TLS."),
        kept("tls-cluster", Flag(), False, "Use TLS between nodes."),
        kept("tls-replication", Flag(), False, "Use TLS for replication."),
        kept("tls-auth-clients", Choice(("no", "yes", "optional")), "yes", "Ask clients for a certificate."),
        kept("tls-prefer-server-ciphers", Flag(), False, "Prefer the server's order of ciphers."),
        kept("tls-session-caching", Flag(), True, "Keep TLS sessions for resumption."),
        kept("tls-session-cache-size", _COUNT, 20480, "TLS sessions kept."),
        kept("tls-session-cache-timeout", Integer(0, INT_MAX, "seconds"), 300, "Time a TLS session is kept."),
        kept("tls-cert-file", Text(), "", "Certificate of the server."),
        kept("tls-key-file", Text(), "", "Private key of the server."),
        kept("tls-key-file-pass", Text(), "", "Pass phrase of the server's key.", sensitive=True),
        kept("tls-client-cert-file", Text(), "", "Certificate for connections to other nodes."),
        kept("tls-client-key-file", Text(), "", "Private key for connections to other nodes."),
        kept("tls-client-key-file-pass", Text(), "", "Pass phrase of that key.", sensitive=True),
        kept("tls-dh-params-file", Text(), "", "Diffie-Hellman parameters."),
        kept("tls-ca-cert-file", Text(), "", "File of certificate authorities."),
        kept("tls-ca-cert-dir", Text(), "", "Directory of certificate authorities."),
        kept("tls-protocols", Text(), "", "Versions of TLS that are spoken."),
        kept("tls-ciphers", Text(), "", "Ciphers of TLS up to 1.2."),
        kept("tls-ciphersuites", Text(), "", "Ciphers of TLS 1.3."),
    ),
)

PROCESS: Final = Section(
    "Process and log",
    (
        Directive("daemonize", Flag(), False, "Go to the background after start.", mutable=False),
        Directive(
            "supervised",
            Choice(("upstart", "systemd", "auto", "no")),
            "no",
            "Tell the supervisor when the server is ready.",
            mutable=False,
        ),
        Directive("pidfile", Text(), "", "File for the number of the process.", mutable=False),
        Directive(
            "loglevel",
            Choice(("debug", "verbose", "notice", "warning", "nothing")),
            "notice",
            "Least level of a line to be logged.",
        ),
        Directive("logfile", Text(), "", "File of the log; empty is standard output.", mutable=False),
        Directive("always-show-logo", Flag(), False, "Log the start banner to files too.", mutable=False),
        Directive("databases", Integer(1, INT_MAX), 16, "Number of databases for SELECT.", mutable=False),
        Directive(
            "workers",
            Integer(0, 64),
            0,
            "Processes for flush and compaction; 0 chooses by the cores.",
            mutable=False,
        ),
        kept("syslog-enabled", Flag(), False, "Log to syslog.", mutable=False),
        kept("syslog-ident", Text(), "redis", "Name in syslog.", mutable=False),
        kept(
            "syslog-facility",
            Choice(("user", "local0", "local1", "local2", "local3", "local4", "local5", "local6", "local7")),
            "local0",
            "Facility in syslog.",
            mutable=False,
        ),
        kept("crash-log-enabled", Flag(), True, "Log a report when the process crashes."),
        kept("crash-memcheck-enabled", Flag(), True, "Test the memory when the process crashes."),
        kept("use-exit-on-panic", Flag(), False, "Exit in place of abort.", hidden=True),
        kept("hide-user-data-from-log", Flag(), False, "Keep data of users out of the log."),
        kept("set-proc-title", Flag(), True, "Change the title of the process.", mutable=False),
        kept("proc-title-template", _TITLE, "{title} {listen-addr} {server-mode}", "Title of the process."),
        kept("locale-collate", Text(), "", "Locale for comparing strings."),
        kept("ignore-warnings", Text(), "", "Start warnings to leave out."),
        kept("disable-thp", Flag(), True, "Switch transparent huge pages off.", mutable=False),
        kept(
            "oom-score-adj",
            Choice(("no", "yes", "relative", "absolute")),
            "no",
            "Tell the kernel whom to kill when memory runs out.",
        ),
        kept("oom-score-adj-values", Adjustments(), (0, 200, 800), "Scores for master, replica and child."),
        kept(
            "server-cpulist", Text(), "", "Cores of the server.", mutable=False, aliases=("server_cpulist",)
        ),
        kept(
            "bio-cpulist", Text(), "", "Cores of background threads.", mutable=False, aliases=("bio_cpulist",)
        ),
        kept(
            "aof-rewrite-cpulist",
            Text(),
            "",
            "Cores of log rewriting.",
            mutable=False,
            aliases=("aof_rewrite_cpulist",),
        ),
        kept("bgsave-cpulist", Text(), "", "Cores of snapshots.", mutable=False, aliases=("bgsave_cpulist",)),
        kept("hz", Integer(-(1 << 31), INT_MAX, "per second", (1, 500)), 10, "Rate of periodic work."),
        kept("dynamic-hz", Flag(), True, "Raise the rate of periodic work with the number of clients."),
        kept(
            "shutdown-timeout", Integer(0, INT_MAX, "seconds"), 10, "Time to wait for replicas at shutdown."
        ),
        kept("shutdown-on-sigint", ShutdownFlags(), (), "What SIGINT does."),
        kept("shutdown-on-sigterm", ShutdownFlags(), (), "What SIGTERM does."),
        kept("jemalloc-bg-thread", Flag(), True, "Let the allocator purge in a thread."),
        kept("watchdog-period", Integer(0, INT_MAX, "ms"), 0, "Log the stack of slow cycles.", hidden=True),
    ),
)

SECURITY: Final = Section(
    "Security",
    (
        Directive(
            "requirepass", Text(), "", "Password of the default user; empty asks for none.", sensitive=True
        ),
        Directive(
            "enable-protected-configs", _GATE, "no", "Who may change protected directives.", mutable=False
        ),
        Directive("enable-debug-command", _GATE, "no", "Who may call DEBUG.", mutable=False),
        kept(
            "enable-module-command", _GATE, "no", "Who may call MODULE; there are no modules.", mutable=False
        ),
        refused("aclfile", Text(), "", "File of users and their permissions.", mutable=False),
        Directive("acllog-max-len", _LONG, 128, "Entries of ACL LOG: refused log-ins."),
        kept(
            "acl-pubsub-default",
            Choice(("allchannels", "resetchannels")),
            "resetchannels",
            "Channels of a new user.",
        ),
        kept("sanitize-dump-payload", Choice(("no", "yes", "clients")), "no", "Check what RESTORE is given."),
    ),
)

CLIENTS: Final = Section(
    "Clients and their limits",
    (
        Directive(
            "client-output-buffer-limit",
            BufferLimits(),
            OutputLimits(
                BufferLimit(0, 0, 0), BufferLimit(256 * MIB, 64 * MIB, 60), BufferLimit(32 * MIB, 8 * MIB, 60)
            ),
            "Disconnect a client that does not read its replies.",
        ),
        Directive(
            "client-query-buffer-limit",
            Memory(MIB, LONG_MAX),
            1024 * MIB,
            "Largest request of a client, not yet executed.",
        ),
        Directive(
            "proto-max-bulk-len", Memory(MIB, LONG_MAX), 512 * MIB, "Largest string, in a request or stored."
        ),
        kept(
            "maxmemory-clients",
            Memory(0, LONG_MAX, percent=True),
            0,
            "Memory of all client buffers together.",
        ),
        kept("tracking-table-max-keys", _LONG, 1000000, "Keys remembered for client-side caching."),
        kept(
            "busy-reply-threshold",
            Integer(0, LONG_MAX, "ms"),
            5000,
            "Time after which a script is called slow.",
            aliases=("lua-time-limit",),
        ),
        Directive("notify-keyspace-events", Events(), "", "Events on keys to publish."),
        Directive(
            "slowlog-log-slower-than",
            Integer(-1, LONG_MAX, "us"),
            10000,
            "Log commands slower than this; 0 logs all, -1 none.",
        ),
        Directive("slowlog-max-len", _LONG, 128, "Entries of SLOWLOG."),
        Directive(
            "latency-monitor-threshold",
            Integer(0, LONG_MAX, "ms"),
            0,
            "Remember events slower than this for LATENCY; 0 remembers none.",
        ),
        Directive("latency-tracking", Flag(), True, "Measure the latency of each command."),
        Directive(
            "latency-tracking-info-percentiles",
            Percentiles(),
            ("50", "99", "99.9"),
            "Percentiles that INFO latencystats prints.",
        ),
        Directive(
            "respkv-reported-version",
            Text(r"[0-9]+\.[0-9]+\.[0-9]+", "must be a version such as 7.4.0"),
            "7.4.0",
            "Redis version told to clients.",
            mutable=False,
        ),
        Directive("metrics-port", _PORT, 0, "Port of /metrics for Prometheus; 0 serves none.", mutable=False),
        Directive("metrics-bind", Addresses(), ("127.0.0.1",), "Addresses of /metrics.", mutable=False),
    ),
)
