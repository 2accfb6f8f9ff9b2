"""CLUSTER, READONLY, READWRITE, ASKING.

The plain face speaks no cluster protocol: there each of them answers that cluster support is off. On the cluster face
all answers come from one ``Topology``, the snapshot of ring and states that MOVED comes from as well. A ring forms by
itself and places slots by itself, so whatever would change it answers what to do instead. COUNTKEYSINSLOT and
GETKEYSINSLOT tell what lies in this node's store, as copies do on every node that holds the slot.

The rows of RKV.* and HOTKEYS are joined here.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from typing import Final

from respkv.base.errors import BlockRequest, CommandError, CorruptionError, ReadMiss
from respkv.base.limits import WALK_STEPS_PER_TURN
from respkv.base.slots import SLOT_COUNT
from respkv.cluster.membership import ALIVE
from respkv.commands import hotkeys, ring, ring_watch
from respkv.commands.arguments import integer
from respkv.commands.help_text import help_reply
from respkv.commands.ring import Formed, on_cluster_face, ring_of
from respkv.commands.session import Pending, Session
from respkv.commands.spec import ADMIN, FAST, LOADING, NOSCRIPT, STALE, Arg, ArgType, CommandSpec, Flag, Form
from respkv.keyspace import keys
from respkv.keyspace.scan import KeyWalk
from respkv.resp import errors
from respkv.resp.errors import fail
from respkv.resp.reply import OK, Reply, bulk_array, error
from respkv.resp.reply import integer as number

BAD_SLOT: Final = error(b"ERR Invalid slot")
BAD_SLOT_OR_COUNT: Final = error(b"ERR Invalid slot or number of keys")
#: Entries visited before a walk may be suspended.
_STEP: Final = 500

Handler = Callable[[list[bytes], Session], Reply | Pending]
Names = Generator[BlockRequest | None, None, list[bytes]]


def _demand_face(session: Session) -> None:
    if not on_cluster_face(session):
        raise fail(errors.CLUSTER_DISABLED)


def _formed(session: Session) -> Formed:
    """The ring as the cluster face shows it. CommandError on the plain face and while the ring is not formed."""
    _demand_face(session)
    port = ring_of(session.server)
    found = None if port is None else ring.formed(port)
    if found is None:
        raise fail(errors.LOADING)
    return found


# -- what connections choose -------------------------------------------------------------------------


def readonly(argv: list[bytes], session: Session) -> Reply:
    """READONLY: reads of this connection are content with one replica."""
    return _set_readonly(session, True)


def readwrite(argv: list[bytes], session: Session) -> Reply:
    """READWRITE: reads of this connection are of its level again."""
    return _set_readonly(session, False)


def _set_readonly(session: Session, value: bool) -> Reply:
    _demand_face(session)
    session.readonly = value
    session.recompute_plain()
    return OK


def asking(argv: list[bytes], session: Session) -> Reply:
    """ASKING: accepted; a slot that changes hands is served by its old owner until MOVED."""
    _demand_face(session)
    return OK


# -- what the topology answers -----------------------------------------------------------------------


def cluster_slots(argv: list[bytes], session: Session) -> Reply:
    """CLUSTER SLOTS"""
    return _formed(session).topology.slots()


def cluster_shards(argv: list[bytes], session: Session) -> Reply:
    """CLUSTER SHARDS"""
    return _formed(session).topology.shards()


def cluster_nodes(argv: list[bytes], session: Session) -> Reply:
    """CLUSTER NODES: the times of pings and pongs are not told."""
    return _formed(session).topology.nodes()


def cluster_replicas(argv: list[bytes], session: Session) -> Reply:
    """CLUSTER REPLICAS | SLAVES node-id"""
    return _formed(session).topology.replicas(argv[2])


def cluster_info(argv: list[bytes], session: Session) -> Reply:
    """CLUSTER INFO"""
    found = _formed(session)
    stats: Mapping[str, int] = found.port.mesh.stats()
    return found.topology.info(
        sent=stats["sent_messages"], received=stats["received_messages"], links_over_limit=stats["overflows"]
    )


def cluster_links(argv: list[bytes], session: Session) -> Reply:
    """CLUSTER LINKS"""
    found = _formed(session)
    return found.topology.links(found.port.mesh.links())


def cluster_myid(argv: list[bytes], session: Session) -> Reply:
    """CLUSTER MYID"""
    return _formed(session).topology.my_id()


def cluster_myshardid(argv: list[bytes], session: Session) -> Reply:
    """CLUSTER MYSHARDID"""
    return _formed(session).topology.my_shard_id()


def cluster_failure_reports(argv: list[bytes], session: Session) -> Reply:
    """CLUSTER COUNT-FAILURE-REPORTS node-id: 1 for a node that gossip holds for suspect or dead, else 0."""
    found = _formed(session)
    membership = found.membership
    reports = {short: int(membership.state(short) != ALIVE) for short in membership.members}
    return found.topology.count_failure_reports(argv[2], reports)


def cluster_keyslot(argv: list[bytes], session: Session) -> Reply:
    """CLUSTER KEYSLOT key"""
    _demand_face(session)
    return number(session.server.keyspace.slot(argv[2]))


def cluster_saveconfig(argv: list[bytes], session: Session) -> Reply:
    """CLUSTER SAVECONFIG: the ring is on disk whenever it is in force."""
    _formed(session)
    return OK


def cluster_help(argv: list[bytes], session: Session) -> Reply:
    """CLUSTER HELP"""
    _demand_face(session)
    return help_reply("CLUSTER", _HELP)


# -- what lies in a slot -----------------------------------------------------------------------------


def cluster_countkeysinslot(argv: list[bytes], session: Session) -> Reply | Pending:
    """CLUSTER COUNTKEYSINSLOT slot"""
    _formed(session)
    slot = integer(argv[2])
    if not 0 <= slot < SLOT_COUNT:
        raise fail(BAD_SLOT)
    return _walked(slot_keys(session, slot), session, lambda names: number(len(names)))


def cluster_getkeysinslot(argv: list[bytes], session: Session) -> Reply | Pending:
    """CLUSTER GETKEYSINSLOT slot count"""
    _formed(session)
    slot, count = integer(argv[2]), integer(argv[3])
    if not 0 <= slot < SLOT_COUNT or count < 0:
        raise fail(BAD_SLOT_OR_COUNT)
    return _walked(slot_keys(session, slot, count), session, bulk_array)


def slot_keys(session: Session, slot: int, limit: int | None = None) -> Names:
    """The live keys of ``slot`` in this node's store, ``limit`` of them at most. O(keys of the slot)."""
    keyspace = session.server.keyspace
    db = keyspace.stored[session.db]
    walk = KeyWalk(keyspace, db, start=keys.place_start(slot, db))
    while not walk.prepare():
        yield None
    names: list[bytes] = []
    while not walk.done and (limit is None or len(names) < limit):
        step = _STEP if limit is None else min(_STEP, limit - len(names))
        try:
            names += [keys.user_key(internal) for internal, _ in walk.step(step, stop_slot=slot + 1)]
        except ReadMiss as miss:
            yield miss.request
        else:
            yield None
    return names


def _walked(walk: Names, session: Session, answer: Callable[[list[bytes]], Reply]) -> Reply | Pending:
    """Run a walk as the dispatcher runs one: some steps at a time, waiting for blocks that are not in memory.

    In a transaction it runs to its end at once.
    """
    server = session.server
    pending = Pending()

    def go_on() -> Reply | None:
        for _ in range(WALK_STEPS_PER_TURN):
            try:
                request = next(walk)
            except StopIteration as end:
                return answer(end.value)
            if request is not None:
                server.fetch([request], step)
                return None
        server.after_us(0, step)
        return None

    def step() -> None:
        if pending.abandoned:
            walk.close()
            return
        try:
            reply = go_on()
        except CommandError as mistake:
            reply = mistake.reply
        except CorruptionError as damage:
            server.log("warning", f"stored data is damaged: {damage}")
            reply = errors.CORRUPT
        if reply is not None:
            pending.complete(reply)

    if session.multi is not None:
        return answer(_to_the_end(walk))
    reply = go_on()
    if reply is not None:
        return reply
    return pending if pending.reply is None else pending.reply


def _to_the_end(walk: Names) -> list[bytes]:
    while True:
        try:
            request = next(walk)
        except StopIteration as end:
            names: list[bytes] = end.value
            return names
        if request is not None:
            request.install(request.read())


# -- what a ring does by itself ----------------------------------------------------------------------

_PLACED: Final = b"the ring places slots by itself and none can be moved by hand; see RKV.RING"
_EQUALS: Final = b"all nodes are equals and a node that fails is routed around by itself; see RKV.NODES"
_EPOCH: Final = b"epochs are decided by the ring; see RKV.RING"
#: Subcommand -> what to do instead.
_INSTEAD: Final[Mapping[str, bytes]] = {
    "addslots": _PLACED,
    "addslotsrange": _PLACED,
    "delslots": _PLACED,
    "delslotsrange": _PLACED,
    "flushslots": _PLACED,
    "setslot": _PLACED,
    "failover": _EQUALS,
    "replicate": _EQUALS,
    "bumpepoch": _EPOCH,
    "set-config-epoch": _EPOCH,
    "meet": b"a ring forms by itself from nodes started with --bootstrap or --join host:port",
    "forget": b"the members of a ring are decided when it is formed; a node that fails is routed around by itself",
    "reset": b"a node leaves its ring for good when it is stopped and its directory is removed",
}


def refused(argv: list[bytes], session: Session) -> Reply:
    """A subcommand that would change the ring."""
    _demand_face(session)
    name = argv[1].lower().decode("latin-1")
    raise fail(error(b"ERR CLUSTER %b is not available: %b" % (name.upper().encode(), _INSTEAD[name])))


_HANDLERS: Final[Mapping[str, Handler]] = {
    **dict.fromkeys(_INSTEAD, refused),
    "count-failure-reports": cluster_failure_reports,
    "countkeysinslot": cluster_countkeysinslot,
    "getkeysinslot": cluster_getkeysinslot,
    "help": cluster_help,
    "info": cluster_info,
    "keyslot": cluster_keyslot,
    "links": cluster_links,
    "myid": cluster_myid,
    "myshardid": cluster_myshardid,
    "nodes": cluster_nodes,
    "replicas": cluster_replicas,
    "saveconfig": cluster_saveconfig,
    "shards": cluster_shards,
    "slaves": cluster_replicas,
    "slots": cluster_slots,
}

_HELP: Final = (
    "COUNT-FAILURE-REPORTS <node-id>",
    "    Return 1 when <node-id> is held for suspect or dead, else 0.",
    "COUNTKEYSINSLOT <slot>",
    "    Return the number of keys in <slot> in the store of this node.",
    "GETKEYSINSLOT <slot> <count>",
    "    Return key names of <slot> in the store of this node.",
    "INFO",
    "    Return information about the cluster.",
    "KEYSLOT <key>",
    "    Return the hash slot for <key>.",
    "LINKS",
    "    Return information about the links between this node and its peers.",
    "MYID",
    "    Return the node id.",
    "MYSHARDID",
    "    Return the node's shard id.",
    "NODES",
    "    Return the cluster as seen by this node, one line a node.",
    "REPLICAS <node-id>",
    "    Return the replicas that are announced for <node-id>.",
    "SAVECONFIG",
    "    Do nothing: the ring is saved whenever it changes.",
    "SHARDS",
    "    Return the slots of each shard, and its nodes.",
    "SLOTS",
    "    Return the ranges of slots, and the node of each.",
)


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
_OF_SLOT: Final = "O(N) where N is the number of keys in the hash slot"
_OF_NODES: Final = "O(N) where N is the number of nodes"
_COMPLEXITY: Final = {
    "countkeysinslot": _OF_SLOT,
    "getkeysinslot": "O(N) where N is the number of requested keys",
    "keyslot": "O(N) where N is the number of bytes in the key",
    **dict.fromkeys(("links", "nodes", "replicas", "slaves", "shards", "slots"), _OF_NODES),
}
_REPLACED: Final = {"slaves": ("5.0.0", "`CLUSTER REPLICAS`"), "slots": ("7.0.0", "`CLUSTER SHARDS`")}
_CONNECTION: Final = ("fast", "connection")

_OWN: Final = (
    CommandSpec(
        "cluster", None, -2, acl=("slow",), form=Form.SESSION, group="cluster", since="3.0.0",
        complexity="Depends on subcommand.", summary="A container for Redis Cluster commands.",
        subcommands=tuple(
            CommandSpec(
                f"cluster|{name}", _HANDLERS[name], arity, flags,
                acl=("admin", "slow", "dangerous") if flags & ADMIN else ("slow",), form=Form.SESSION,
                group="cluster", since=since, complexity=_COMPLEXITY.get(name, "O(1)"), summary=summary, args=args,
                tips=tips,
                history=_HISTORY.get(name, ()), deprecated_since=_REPLACED.get(name, ("", ""))[0],
                replaced_by=_REPLACED.get(name, ("", ""))[1],
            )
            for name, arity, flags, tips, since, summary, args in _ROWS
        ),
    ),
    CommandSpec(
        "asking", asking, 1, FAST, acl=_CONNECTION, form=Form.SESSION, group="cluster", since="3.0.0",
        complexity="O(1)", summary="Signals that a cluster client is following an -ASK redirect.",
    ),
    CommandSpec(
        "readonly", readonly, 1, LOADING | STALE | FAST, acl=_CONNECTION, form=Form.SESSION, group="cluster",
        since="3.0.0", complexity="O(1)",
        summary="Enables read-only queries for a connection to a Redis Cluster replica node.",
    ),
    CommandSpec(
        "readwrite", readwrite, 1, LOADING | STALE | FAST, acl=_CONNECTION, form=Form.SESSION, group="cluster",
        since="3.0.0", complexity="O(1)",
        summary="Enables read-write queries for a connection to a Redis Cluster replica node.",
    ),
)  # fmt: skip

COMMANDS: Final = (*_OWN, *ring.COMMANDS, *ring_watch.COMMANDS, *hotkeys.COMMANDS)
