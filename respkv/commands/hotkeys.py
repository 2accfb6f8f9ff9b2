"""HOTKEYS: which keys are asked for most, in the syntax of Redis 8.6.

A sketch of the latest requests is always kept (``metrics/hot_keys``), so HOTKEYS GET answers without a START, too: then
with what it knows of the last half million requests, in ``by-requests`` and ``by-writes``. A session that was started
counts from its start to its stop.

One request in 64 is looked at, SAMPLE can only thin that out further. Neither time nor bytes are measured by key:
``by-cpu-time-us`` and ``by-net-bytes`` are the key's share of the samples in the time and the bytes that all
requests took together. Of keys whose requests are dearer than others' they say too little.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Final

from respkv.base.slots import SLOT_COUNT
from respkv.commands.arguments import integer
from respkv.commands.help_text import help_reply
from respkv.commands.info import gather
from respkv.commands.ring import member_slots, on_cluster_face, serves
from respkv.commands.session import Server, Session
from respkv.commands.spec import ADMIN, LOADING, NOSCRIPT, STALE, Arg, ArgType, CommandSpec, Flag, Form
from respkv.commands.table import CommandTable
from respkv.metrics.hot_keys import INTERVAL, HotKey, HotKeys, Totals, Tracking
from respkv.resp import errors
from respkv.resp.errors import fail
from respkv.resp.reply import NULL, OK, Array, Map, Reply, array, bulk, error
from respkv.resp.reply import integer as number

NOT_SAMPLED: Final = error(b"ERR requests are not sampled here")
IN_PROGRESS: Final = error(b"ERR hotkey tracking session already in progress")
STOP_FIRST: Final = error(b"ERR hotkey tracking session in progress, stop tracking first")
NO_METRICS: Final = error(b"ERR METRICS parameter is required")
BAD_METRICS_COUNT: Final = error(b"ERR METRICS count must be > 0 and <= 2")
METRICS_MISMATCH: Final = error(b"ERR METRICS count does not match number of metric types provided")
NO_VALID_METRICS: Final = error(b"ERR METRICS no valid metrics passed. Supported: CPU|NET")
BAD_COUNT: Final = error(b"ERR COUNT must be between 1 and 64")
BAD_DURATION: Final = error(b"ERR DURATION must be between 1 and 1000000")
BAD_SAMPLE: Final = error(b"ERR SAMPLE ratio must be positive")
SLOTS_NEED_CLUSTER: Final = error(b"ERR SLOTS parameter cannot be used in non-cluster mode")
SLOTS_TWICE: Final = error(b"ERR SLOTS parameter already specified")
BAD_SLOTS_COUNT: Final = error(b"ERR SLOTS count must be between 1 and 16384")
FEW_SLOTS: Final = error(b"ERR not enough slot numbers provided")
BAD_SLOT: Final = error(b"ERR Invalid or out of range slot")
SLOT_TWICE: Final = error(b"ERR duplicate slot number")

#: The words of GET and SET, and whether they write: most requests, and looked at without the table.
_PLAIN: Final = {b"GET": False, b"get": False, b"SET": True, b"set": True}
_INT_MAX: Final = (1 << 31) - 1
_COUNT: Final = 10
_ALL_SLOTS: Final = ((0, SLOT_COUNT - 1),)


def _ranged(argument: bytes, least: int, most: int, mistake: bytes) -> int:
    value = integer(argument, mistake)
    if not least <= value <= most:
        raise fail(mistake)
    return value


def _keys_of(server: Server) -> HotKeys:
    found: HotKeys | None = getattr(server, "hot_keys", None)
    if found is None:
        raise fail(NOT_SAMPLED)
    return found


def totals(server: Server) -> Totals:
    """What all commands have taken so far."""
    metrics, facts = server.metrics, gather(server)
    return Totals(
        command_us=sum(stats.usec for stats in metrics.commands.values()),
        net_bytes=metrics.net_input_bytes + metrics.net_output_bytes,
        cpu_user_ms=int(facts.number("cpu.user") * 1000),
        cpu_sys_ms=int(facts.number("cpu.sys") * 1000),
    )


def sample_request(keys: HotKeys, table: CommandTable, argv: object) -> None:
    """Count the keys of a request that was picked (``HotKeys.picks``), whatever the parser made of it. O(keys)."""
    if not isinstance(argv, list) or len(argv) < 2:
        return
    if len(argv) <= 3 and argv[0].__class__ is argv[1].__class__ is argv[-1].__class__ is bytes:
        write = _PLAIN.get(argv[0])
        if write is not None and len(argv) == 2 + write:
            keys.sample(argv[1], write)
            return
    if not all(word.__class__ is bytes for word in argv):
        return
    spec = table.resolve(argv)
    if spec is None or not spec.fits(len(argv)):
        return
    writes = bool(spec.flags & Flag.WRITE)
    for positions in spec.keys:
        for at in positions.keys(argv):
            keys.sample(argv[at], writes)


# -- START -------------------------------------------------------------------------------------------


def start(argv: list[bytes], session: Session) -> Reply:
    """HOTKEYS START METRICS count [CPU] [NET] [COUNT k] [DURATION seconds] [SAMPLE ratio] [SLOTS count slot ...]"""
    server = session.server
    keys = _keys_of(server)
    if keys.tracking is not None and keys.tracking.active:
        raise fail(IN_PROGRESS)
    cpu, net, at = _metrics(argv)
    count, duration_s, ratio = _COUNT, 0, 1
    slots: list[int] = []
    while at < len(argv):
        word = argv[at].upper()
        if at + 1 >= len(argv):
            raise fail(errors.SYNTAX)
        value = argv[at + 1]
        if word == b"COUNT":
            count = _ranged(value, 1, 64, BAD_COUNT)
        elif word == b"DURATION":
            duration_s = _ranged(value, 1, 1_000_000, BAD_DURATION)
        elif word == b"SAMPLE":
            ratio = _ranged(value, 1, _INT_MAX, BAD_SAMPLE)
        elif word == b"SLOTS":
            if slots:
                raise fail(SLOTS_TWICE)
            slots = _slots(argv, at + 1, session)
            at += len(slots)
        else:
            raise fail(errors.SYNTAX)
        at += 2
    tracking = Tracking(
        count=count, cpu=cpu, net=net, ratio=ratio, slots=slots, start_ms=server.now_ms, began=totals(server)
    )
    keys.tracking = tracking
    if duration_s:
        server.after_us(duration_s * 1_000_000, lambda: tracking.stop(server.now_ms, totals(server)))
    return OK


def _metrics(argv: list[bytes]) -> tuple[bool, bool, int]:
    """(CPU is wanted, NET is wanted, where the options begin). Words that are no metric count, as in Redis."""
    if len(argv) < 4 or argv[2].upper() != b"METRICS":
        raise fail(NO_METRICS)
    wanted = _ranged(argv[3], 1, 2, BAD_METRICS_COUNT)
    words = [word.upper() for word in argv[4 : 4 + wanted]]
    for name in (b"CPU", b"NET"):
        if words.count(name) > 1:
            raise fail(error(b"ERR METRICS %b defined more than once!" % name))
    if len(words) != wanted:
        raise fail(METRICS_MISMATCH)
    cpu, net = b"CPU" in words, b"NET" in words
    if not cpu and not net:
        raise fail(NO_VALID_METRICS)
    return cpu, net, 4 + wanted


def _slots(argv: list[bytes], at: int, session: Session) -> list[int]:
    """The slots behind their count at ``at``."""
    if not on_cluster_face(session):
        raise fail(SLOTS_NEED_CLUSTER)
    count = _ranged(argv[at], 1, SLOT_COUNT, BAD_SLOTS_COUNT)
    words = argv[at + 1 : at + 1 + count]
    if len(words) != count:
        raise fail(FEW_SLOTS)
    found: dict[int, None] = {}
    for word in words:
        slot = _ranged(word, 0, SLOT_COUNT - 1, BAD_SLOT)
        if not serves(session, slot):
            raise fail(error(b"ERR slot %d not handled by this node" % slot))
        found[slot] = None
    if len(found) != count:
        raise fail(SLOT_TWICE)
    return list(found)


# -- STOP, GET, RESET --------------------------------------------------------------------------------


def stop(argv: list[bytes], session: Session) -> Reply:
    """HOTKEYS STOP: null when no session is active; its results stay."""
    server = session.server
    tracking = _keys_of(server).tracking
    if tracking is None or not tracking.active:
        return NULL
    tracking.stop(server.now_ms, totals(server))
    return OK


def reset(argv: list[bytes], session: Session) -> Reply:
    """HOTKEYS RESET: drop the results of the session that was stopped."""
    keys = _keys_of(session.server)
    if keys.tracking is not None and keys.tracking.active:
        raise fail(STOP_FIRST)
    keys.tracking = None
    return OK


def get(argv: list[bytes], session: Session) -> Reply:
    """HOTKEYS GET: an array of one map, of the session or, without one, of the latest requests."""
    keys = _keys_of(session.server)
    if keys.tracking is None:
        return Array([_latest(keys, session)])
    return Array([_report(keys.tracking, session)])


def _latest(keys: HotKeys, session: Session) -> Reply:
    """What the always-on sketch knows."""
    server = session.server
    spent = totals(server)
    duration_ms = max(0, server.clock.monotonic_us() - server.started_us) // 1000
    rows = keys.sketch.top(_COUNT)
    return _map(
        [
            ("tracking-active", 1),
            ("sample-ratio", INTERVAL),
            ("selected-slots", _ranges(_own_ranges(session))),
            ("all-commands-all-slots-us", spent.command_us),
            ("net-bytes-all-commands-all-slots", spent.net_bytes),
            ("collection-start-time-unix-ms", server.now_ms - duration_ms),
            ("collection-duration-ms", duration_ms),
            *_by_requests(rows, INTERVAL),
        ]
    )


def _report(tracking: Tracking, session: Session) -> Reply:
    """What a session found, in Redis' order of fields."""
    server = session.server
    ended = tracking.ended
    spent = (totals(server) if ended is None else ended).since(tracking.began)
    stop_ms = server.now_ms if ended is None else tracking.stop_ms
    some_slots = bool(tracking.slots)
    command_us, net_bytes = tracking.in_slots(spent.command_us), tracking.in_slots(spent.net_bytes)
    rows = tracking.sketch.top(tracking.count)
    fields: list[tuple[str, int | Reply]] = [
        ("tracking-active", int(tracking.active)),
        ("sample-ratio", tracking.ratio),
        ("selected-slots", _ranges(_runs(tracking.slots) if some_slots else _own_ranges(session))),
    ]
    if some_slots:
        fields.append(("sampled-commands-selected-slots-us", command_us // tracking.ratio))
        fields.append(("all-commands-selected-slots-us", command_us))
    fields.append(("all-commands-all-slots-us", spent.command_us))
    if some_slots:
        fields.append(("net-bytes-sampled-commands-selected-slots", net_bytes // tracking.ratio))
        fields.append(("net-bytes-all-commands-selected-slots", net_bytes))
    fields += [
        ("net-bytes-all-commands-all-slots", spent.net_bytes),
        ("collection-start-time-unix-ms", tracking.start_ms),
        ("collection-duration-ms", max(0, stop_ms - tracking.start_ms)),
    ]
    if tracking.cpu:
        fields += [("total-cpu-time-user-ms", spent.cpu_user_ms), ("total-cpu-time-sys-ms", spent.cpu_sys_ms)]
    if tracking.net:
        fields.append(("total-net-bytes", net_bytes))
    if tracking.cpu:
        fields.append(("by-cpu-time-us", _shares(tracking, rows, spent.command_us)))
    if tracking.net:
        fields.append(("by-net-bytes", _shares(tracking, rows, spent.net_bytes)))
    return _map([*fields, *_by_requests(rows, tracking.ratio)])


def _map(fields: Sequence[tuple[str, int | Reply]]) -> Reply:
    return Map([(bulk(name.encode()), number(value) if isinstance(value, int) else value) for name, value in fields])


def _shares(tracking: Tracking, rows: list[HotKey], figure: int) -> Reply:
    return array([part for row in rows for part in (bulk(row.key), number(tracking.share(figure, row)))])


def _by_requests(rows: list[HotKey], ratio: int) -> list[tuple[str, int | Reply]]:
    """Requests and writes by key, each sample standing for ``ratio`` of them."""
    requests = [part for row in rows for part in (bulk(row.key), number(row.samples * ratio))]
    written = sorted((row for row in rows if row.writes), key=lambda row: (-row.writes, row.key))
    writes = [part for row in written for part in (bulk(row.key), number(row.writes * ratio))]
    return [("by-requests", array(requests)), ("by-writes", array(writes))]


def _own_ranges(session: Session) -> Sequence[tuple[int, int]]:
    """The slots that are counted when none was chosen: all that this node is named for on the cluster face."""
    return member_slots(session) if on_cluster_face(session) else _ALL_SLOTS


def _runs(slots: Sequence[int]) -> list[tuple[int, int]]:
    """Ascending slots as ranges."""
    starts = [slots[0], *(after for before, after in pairwise(slots) if after != before + 1)]
    ends = [*(before for before, after in pairwise(slots) if after != before + 1), slots[-1]]
    return list(zip(starts, ends, strict=True))


def _ranges(ranges: Sequence[tuple[int, int]]) -> Reply:
    return array(
        [
            array([number(first)] if first == last else [number(first), number(last)])
            for first, last in ranges
        ]
    )  # fmt: skip


def hotkeys_help(argv: list[bytes], session: Session) -> Reply:
    """HOTKEYS HELP"""
    return help_reply("HOTKEYS", _HELP)


_HELP: Final = (
    "START METRICS count [CPU] [NET] [COUNT k] [DURATION seconds] [SAMPLE ratio] [SLOTS count slot ...]",
    "    Start to track hot keys. One request in 64 is looked at; time and bytes of a key are its share of these.",
    "    * COUNT k: how many keys to find. Default: 10",
    "    * DURATION seconds: stop by itself. Default: at STOP",
    "    * SAMPLE ratio: look at one request in so many; less than 64 means 64.",
    "    * SLOTS count slot ...: track keys of these slots alone. On the cluster face only.",
    "STOP",
    "    Stop tracking. GET still answers with what was found.",
    "GET",
    "    The keys that were found; without a session, those that are hot now.",
    "RESET",
    "    Drop what was found.",
)
_OPTIONAL: Final = ("optional",)
_FLAGS: Final = ADMIN | NOSCRIPT

COMMANDS: Final = (
    CommandSpec(
        "hotkeys", None, -2, acl=("slow",), form=Form.SESSION, group="server", since="8.6.0",
        complexity="Depends on subcommand.", summary="A container for hotkeys tracking commands.",
        subcommands=(
            CommandSpec(
                "hotkeys|start", start, -2, _FLAGS, acl=("admin", "slow", "dangerous"), form=Form.SESSION,
                group="server", since="8.6.0", complexity="O(1)",
                summary="Starts hotkeys tracking, over a sample of one request in 64.",
                args=(
                    Arg("metrics", ArgType.BLOCK, "METRICS", args=(
                        Arg("count", ArgType.INTEGER),
                        Arg("cpu", ArgType.PURE_TOKEN, "CPU", _OPTIONAL),
                        Arg("net", ArgType.PURE_TOKEN, "NET", _OPTIONAL),
                    )),
                    Arg("k", ArgType.INTEGER, "COUNT", _OPTIONAL),
                    Arg("seconds", ArgType.INTEGER, "DURATION", _OPTIONAL),
                    Arg("ratio", ArgType.INTEGER, "SAMPLE", _OPTIONAL),
                    Arg("slots", ArgType.BLOCK, "SLOTS", _OPTIONAL, args=(
                        Arg("count", ArgType.INTEGER), Arg("slot", ArgType.INTEGER, flags=("multiple",)),
                    )),
                ),
            ),
            CommandSpec(
                "hotkeys|stop", stop, 2, _FLAGS, acl=("admin", "slow", "dangerous"), form=Form.SESSION,
                group="server", since="8.6.0", complexity="O(1)", summary="Stops hotkeys tracking.",
            ),
            CommandSpec(
                "hotkeys|get", get, 2, _FLAGS, acl=("admin", "slow", "dangerous"), form=Form.SESSION,
                group="server", since="8.6.0", complexity="O(K) where K is the number of hotkeys returned.",
                summary="Returns the hottest keys of the tracking session, or of the latest requests without one.",
                tips=("nondeterministic_output",),
            ),
            CommandSpec(
                "hotkeys|reset", reset, 2, _FLAGS, acl=("admin", "slow", "dangerous"), form=Form.SESSION,
                group="server", since="8.6.0", complexity="O(1)",
                summary="Releases the resources used for hotkey tracking.",
            ),
            CommandSpec(
                "hotkeys|help", hotkeys_help, 2, LOADING | STALE, acl=("slow",), form=Form.SESSION, group="server",
                since="8.6.0", complexity="O(1)", summary="Returns helpful text about the different subcommands.",
            ),
        ),
    ),
)  # fmt: skip
