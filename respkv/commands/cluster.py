"""CLUSTER, READONLY, READWRITE, ASKING on the plain face: each answers that cluster support is off.

The rows are complete all the same, so that clients that read COMMAND find what they expect.
"""

from __future__ import annotations

from typing import Final

from respkv.commands.session import Session
from respkv.commands.spec import ADMIN, FAST, LOADING, NOSCRIPT, STALE, Arg, ArgType, CommandSpec, Flag, Form
from respkv.resp import errors
from respkv.resp.errors import fail
from respkv.resp.reply import Reply


def disabled(argv: list[bytes], session: Session) -> Reply:
    """The plain face speaks no cluster protocol."""
    raise fail(errors.CLUSTER_DISABLED)


_NODE: Final = (Arg("node-id"),)
_SLOT: Final = Arg("slot", ArgType.INTEGER)
_SLOTS: Final = (Arg("slot", ArgType.INTEGER, flags=("multiple",)),)
_RANGES: Final = (
    Arg("range", ArgType.BLOCK, flags=("multiple",), args=(
        Arg("start-slot", ArgType.INTEGER), Arg("end-slot", ArgType.INTEGER),
    )),
)  # fmt: skip
_READ: Final = STALE
_ADMIN: Final = ADMIN | STALE
_CHANGE: Final = ADMIN | STALE | Flag.NO_ASYNC_LOADING
_VARIES: Final = ("nondeterministic_output",)

#: name, arity, flags, tips, since, summary, arguments
_ROWS: Final = (
    ("addslots", -3, _CHANGE, (), "3.0.0", "Assigns new hash slots to a node.", _SLOTS),
    ("addslotsrange", -4, _CHANGE, (), "7.0.0", "Assigns new hash slot ranges to a node.", _RANGES),
    ("bumpepoch", 2, _CHANGE, _VARIES, "3.0.0", "Advances the cluster config epoch.", ()),
    ("count-failure-reports", 3, _ADMIN, _VARIES, "3.0.0",
     "Returns the number of active failure reports active for a node.", _NODE),
    ("countkeysinslot", 3, _READ, (), "3.0.0", "Returns the number of keys in a hash slot.", (_SLOT,)),
    ("delslots", -3, _CHANGE, (), "3.0.0", "Sets hash slots as unbound for a node.", _SLOTS),
    ("delslotsrange", -4, _CHANGE, (), "7.0.0", "Sets hash slot ranges as unbound for a node.", _RANGES),
    ("failover", -2, _CHANGE, (), "3.0.0", "Forces a replica to perform a manual failover of its master.",
     (Arg("options", ArgType.ONEOF, flags=("optional",), args=(
         Arg("force", ArgType.PURE_TOKEN, "FORCE"), Arg("takeover", ArgType.PURE_TOKEN, "TAKEOVER"))),)),
    ("flushslots", 2, _CHANGE, (), "3.0.0", "Deletes all slots information from a node.", ()),
    ("forget", 3, _CHANGE, (), "3.0.0", "Removes a node from the nodes table.", _NODE),
    ("getkeysinslot", 4, _READ, _VARIES, "3.0.0", "Returns the key names in a hash slot.",
     (_SLOT, Arg("count", ArgType.INTEGER))),
    ("help", 2, LOADING | STALE, (), "5.0.0", "Returns helpful text about the different subcommands.", ()),
    ("info", 2, _READ, _VARIES, "3.0.0", "Returns information about the state of a node.", ()),
    ("keyslot", 3, _READ, (), "3.0.0", "Returns the hash slot for a key.", (Arg("key"),)),
    ("links", 2, _READ, _VARIES, "7.0.0", "Returns a list of all TCP links to and from peer nodes.", ()),
    ("meet", -4, _CHANGE, (), "3.0.0", "Forces a node to handshake with another node.",
     (Arg("ip"), Arg("port", ArgType.INTEGER),
      Arg("cluster-bus-port", ArgType.INTEGER, flags=("optional",), since="4.0.0"))),
    ("myid", 2, _READ, (), "3.0.0", "Returns the ID of a node.", ()),
    ("myshardid", 2, _READ, _VARIES, "7.2.0", "Returns the shard ID of a node.", ()),
    ("nodes", 2, _READ, _VARIES, "3.0.0", "Returns the cluster configuration for a node.", ()),
    ("replicas", 3, _ADMIN, _VARIES, "5.0.0", "Lists the replica nodes of a master node.", _NODE),
    ("replicate", 3, _CHANGE, (), "3.0.0", "Configure a node as replica of a master node.", _NODE),
    ("reset", -2, ADMIN | NOSCRIPT | STALE, (), "3.0.0", "Resets a node.",
     (Arg("reset-type", ArgType.ONEOF, flags=("optional",), args=(
         Arg("hard", ArgType.PURE_TOKEN, "HARD"), Arg("soft", ArgType.PURE_TOKEN, "SOFT"))),)),
    ("saveconfig", 2, _CHANGE, (), "3.0.0", "Forces a node to save the cluster configuration to disk.", ()),
    ("set-config-epoch", 3, _CHANGE, (), "3.0.0", "Sets the configuration epoch for a new node.",
     (Arg("config-epoch", ArgType.INTEGER),)),
    ("setslot", -4, _CHANGE, (), "3.0.0", "Binds a hash slot to a node.",
     (_SLOT, Arg("subcommand", ArgType.ONEOF, args=(
         Arg("importing", ArgType.STRING, "IMPORTING", display="node-id"),
         Arg("migrating", ArgType.STRING, "MIGRATING", display="node-id"),
         Arg("node", ArgType.STRING, "NODE", display="node-id"),
         Arg("stable", ArgType.PURE_TOKEN, "STABLE"))))),
    ("shards", 2, _READ, _VARIES, "7.0.0", "Returns the mapping of cluster slots to shards.", ()),
    ("slaves", 3, _ADMIN, _VARIES, "3.0.0", "Lists the replica nodes of a master node.", _NODE),
    ("slots", 2, _READ, _VARIES, "3.0.0", "Returns the mapping of cluster slots to nodes.", ()),
)  # fmt: skip
_HISTORY: Final = {
    "meet": (("4.0.0", "Added the optional `cluster_bus_port` argument."),),
    "slots": (("4.0.0", "Added node IDs."), ("7.0.0", "Added additional networking metadata field.")),
}
_REPLACED: Final = {"slaves": ("5.0.0", "`CLUSTER REPLICAS`"), "slots": ("7.0.0", "`CLUSTER SHARDS`")}
_CONNECTION: Final = ("fast", "connection")

COMMANDS: Final = (
    CommandSpec(
        "cluster", None, -2, acl=("slow",), form=Form.SESSION, group="cluster", since="3.0.0",
        complexity="Depends on subcommand.", summary="A container for Redis Cluster commands.",
        subcommands=tuple(
            CommandSpec(
                f"cluster|{name}", disabled, arity, flags,
                acl=("admin", "slow", "dangerous") if flags & ADMIN else ("slow",), form=Form.SESSION,
                group="cluster", since=since, complexity="O(1)", summary=summary, args=args, tips=tips,
                history=_HISTORY.get(name, ()), deprecated_since=_REPLACED.get(name, ("", ""))[0],
                replaced_by=_REPLACED.get(name, ("", ""))[1],
            )
            for name, arity, flags, tips, since, summary, args in _ROWS
        ),
    ),
    CommandSpec(
        "asking", disabled, 1, FAST, acl=_CONNECTION, form=Form.SESSION, group="cluster", since="3.0.0",
        complexity="O(1)", summary="Signals that a cluster client is following an -ASK redirect.",
    ),
    CommandSpec(
        "readonly", disabled, 1, LOADING | STALE | FAST, acl=_CONNECTION, form=Form.SESSION, group="cluster",
        since="3.0.0", complexity="O(1)",
        summary="Enables read-only queries for a connection to a Redis Cluster replica node.",
    ),
    CommandSpec(
        "readwrite", disabled, 1, LOADING | STALE | FAST, acl=_CONNECTION, form=Form.SESSION, group="cluster",
        since="3.0.0", complexity="O(1)",
        summary="Enables read-write queries for a connection to a Redis Cluster replica node.",
    ),
)  # fmt: skip
