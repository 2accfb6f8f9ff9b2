"""LATENCY: spikes of named events, and the distribution of each command's run time."""

from __future__ import annotations

from typing import Final

from respkv.commands.help_text import help_reply
from respkv.commands.session import Session
from respkv.commands.spec import ADMIN, LOADING, NOSCRIPT, STALE, Arg, CommandSpec, Form
from respkv.metrics.registry import CommandStats
from respkv.resp.errors import fail
from respkv.resp.reply import Map, Reply, Verbatim, array, bulk, error
from respkv.resp.reply import integer as number

_DISABLED: Final = (
    b'Latency monitoring is disabled. Use "CONFIG SET latency-monitor-threshold <milliseconds>" to enable it.\n'
)
_QUIET: Final = b"No latency spike was observed since the start or the last LATENCY RESET.\n"
_WIDTH: Final = 80
_GRAPH_LEVELS: Final = b"_o#"
_GRAPH_ROWS: Final = 4


def _text(event: bytes) -> str:
    return event.decode("utf-8", "surrogateescape")


def latency_latest(argv: list[bytes], session: Session) -> Reply:
    """LATENCY LATEST: [event, time of its last spike, that spike in ms, worst in ms] for each event."""
    return array(
        [
            array([bulk(name.encode()), number(time_s), number(last_ms), number(worst_ms)])
            for name, time_s, last_ms, worst_ms in session.server.latency.latest()
        ]
    )


def latency_history(argv: list[bytes], session: Session) -> Reply:
    """LATENCY HISTORY event: [time, ms] of each sample."""
    samples = session.server.latency.history(_text(argv[2]))
    return array([array([number(time_s), number(latency_ms)]) for time_s, latency_ms in samples])


def latency_reset(argv: list[bytes], session: Session) -> Reply:
    """LATENCY RESET [event ...]: how many events were forgotten."""
    return number(session.server.latency.reset([_text(event) for event in argv[2:]]))


def latency_graph(argv: list[bytes], session: Session) -> Reply:
    """LATENCY GRAPH event: its samples as columns, the oldest at the left."""
    latency = session.server.latency
    name = _text(argv[2])
    samples = latency.history(name)
    if not samples:
        raise fail(error(b"ERR No samples available for event '%b'" % argv[2][:128]))
    worst_ms = next(worst for event, _, _, worst in latency.latest() if event == name)
    return Verbatim(draw(name, samples[-_WIDTH:], worst_ms, session.server.now_ms // 1000))


def draw(name: str, samples: list[tuple[int, int]], worst_ms: int, now_s: int) -> bytes:
    """The graph of ``samples`` (time_s, ms); below each column the sample's age, downwards."""
    values = [latency_ms for _, latency_ms in samples]
    high, low = max(values), min(values)
    head = b"%b - high %d ms, low %d ms (all time high %d ms)" % (name.encode(), high, low, worst_ms)
    lines = [head, b"-" * _WIDTH]
    levels = _GRAPH_ROWS * len(_GRAPH_LEVELS)
    heights = [1 if high == low else 1 + (value - low) * (levels - 1) // (high - low) for value in values]
    for row in range(_GRAPH_ROWS - 1, -1, -1):
        filled = [min(len(_GRAPH_LEVELS), max(0, height - row * len(_GRAPH_LEVELS))) for height in heights]
        lines.append(bytes(_GRAPH_LEVELS[level - 1] if level else 32 for level in filled).rstrip())
    ages = [_age(max(0, now_s - time_s)) for time_s, _ in samples]
    lines.append(b"")
    for at in range(max(map(len, ages))):
        lines.append(b"".join(age[at : at + 1] or b" " for age in ages).rstrip())
    return b"\n".join(lines) + b"\n"


def _age(seconds: int) -> bytes:
    for size, unit in ((86400, b"d"), (3600, b"h"), (60, b"m")):
        if seconds >= size:
            return b"%d%b" % (seconds // size, unit)
    return b"%ds" % seconds


def latency_doctor(argv: list[bytes], session: Session) -> Reply:
    """LATENCY DOCTOR: a summary of what was seen."""
    latency = session.server.latency
    if not latency.threshold_ms:
        return Verbatim(_DISABLED)
    latest = latency.latest()
    if not latest:
        return Verbatim(_QUIET)
    lines = [b"Latency spikes of at least %d ms were observed:" % latency.threshold_ms, b""]
    for number_of, (name, _, last_ms, worst_ms) in enumerate(latest, 1):
        samples = latency.history(name)
        values = [latency_ms for _, latency_ms in samples]
        mean = sum(values) // len(values)
        deviation = sum(abs(value - mean) for value in values) // len(values)
        period = (session.server.now_ms // 1000 - samples[0][0]) // len(samples)
        lines.append(
            b"%d. %b: %d latency spikes (average %dms, mean deviation %dms, period %d.00 sec)."
            b" Last %dms, worst all time event %dms."
            % (number_of, name.encode(), len(values), mean, deviation, period, last_ms, worst_ms)
        )
    return Verbatim(b"\n".join(lines) + b"\n")


def latency_histogram(argv: list[bytes], session: Session) -> Reply:
    """LATENCY HISTOGRAM [command ...]: per command its calls and a cumulative histogram in microseconds."""
    commands = session.server.metrics.commands
    names: list[str] = sorted(commands)
    if len(argv) > 2:
        names = []
        table = session.server.table
        for word in argv[2:]:
            spec = table.lookup(word)
            name = word.decode("latin-1").lower() if spec is None else spec.name
            names.append(name)
            if spec is not None:
                names += [row.name for row in spec.subcommands]
    chosen = [(name, commands[name]) for name in dict.fromkeys(names) if name in commands]
    return Map([(bulk(name.encode()), _histogram(stats)) for name, stats in chosen if stats.histogram.count])


def _histogram(stats: CommandStats) -> Reply:
    buckets = [(number(end_us), number(count)) for end_us, count in stats.histogram.buckets()]
    return Map([(bulk(b"calls"), number(stats.histogram.count)), (bulk(b"histogram_usec"), Map(buckets))])


def latency_help(argv: list[bytes], session: Session) -> Reply:
    """LATENCY HELP"""
    return help_reply(
        "LATENCY",
        (
            "DOCTOR",
            "    Return a human readable latency analysis report.",
            "GRAPH <event>",
            "    Return an ASCII latency graph for the <event> class.",
            "HISTORY <event>",
            "    Return time-latency samples for the <event> class.",
            "LATEST",
            "    Return the latest latency samples for all events.",
            "RESET [<event> ...]",
            "    Reset latency data of one or more <event> classes.",
            "    (default: reset all data for all event classes)",
            "HISTOGRAM [COMMAND ...]",
            "    Return a cumulative distribution of latencies in the format of a histogram for the specified"
            " command names.",
            "    If no commands are specified then all histograms are replied.",
        ),
    )


_ACL: Final = ("admin", "slow", "dangerous")
_FLAGS: Final = ADMIN | NOSCRIPT | LOADING | STALE
_TIPS: Final = ("nondeterministic_output", "request_policy:all_nodes", "response_policy:special")
_EVENT: Final = (Arg("event"),)
_SOME: Final = ("optional", "multiple")

#: name, handler, arity, summary, arguments; their other columns are alike
_ROWS: Final = (
    ("doctor", latency_doctor, 2, "Returns a human-readable latency analysis report.", ()),
    ("graph", latency_graph, 3, "Returns a latency graph for an event.", _EVENT),
    ("histogram", latency_histogram, -2,
     "Returns the cumulative distribution of latencies of a subset or all commands.", (Arg("command", flags=_SOME),)),
    ("history", latency_history, 3, "Returns timestamp-latency samples for an event.", _EVENT),
    ("latest", latency_latest, 2, "Returns the latest latency samples for all events.", ()),
    ("reset", latency_reset, -2, "Resets the latency data for one or more events.", (Arg("event", flags=_SOME),)),
)  # fmt: skip

SUBCOMMANDS: Final = (
    CommandSpec(
        "latency|help", latency_help, 2, LOADING | STALE, acl=("slow",), form=Form.SESSION, group="server",
        since="2.8.13", complexity="O(1)", summary="Returns helpful text about the different subcommands.",
    ),
    *(
        CommandSpec(
            f"latency|{name}", handler, arity, _FLAGS, acl=_ACL, form=Form.SESSION, group="server",
            since="7.0.0" if name == "histogram" else "2.8.13",
            complexity="O(N) where N is the number of commands with latency information being retrieved."
            if name == "histogram" else "O(1)",
            tips=("request_policy:all_nodes", "response_policy:all_succeeded") if name == "reset" else _TIPS,
            summary=summary, args=args,
        )
        for name, handler, arity, summary, args in _ROWS
    ),
)  # fmt: skip

COMMANDS: Final = (
    CommandSpec(
        "latency", None, -2, acl=("slow",), form=Form.SESSION, group="server", since="2.8.13",
        complexity="Depends on subcommand.", summary="A container for latency diagnostics commands.",
        subcommands=SUBCOMMANDS,
    ),
)  # fmt: skip
