"""All directives, one row each, and what is derived from the rows.

Rows are in ``directives/``; names and defaults are those of Redis 7.4, but for ``appendonly`` (always on),
``save`` (no rules), ``pidfile`` and respkv's own. A name or alias belongs to one row. The annotated file
``conf/respkv.conf`` is ``render_conf()``.
"""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from respkv.config.directive import Directive, Effect, Section
from respkv.config.directives import data, serving, topology

SECTIONS: Final[tuple[Section, ...]] = (
    serving.NETWORK,
    serving.PROCESS,
    serving.SECURITY,
    serving.CLIENTS,
    data.PERSISTENCE,
    data.MEMORY,
    data.ENCODINGS,
    topology.REPLICATION,
    topology.CLUSTER,
    serving.TLS,
)

#: Lines of a file that are no values: what they do is up to the parser.
FILE_ONLY: Final = ("include", "rename-command", "loadmodule", "user")
#: Accepted and ignored, as Redis does, since they stopped to mean anything long ago.
DEAD: Final = ("list-max-ziplist-entries", "list-max-ziplist-value")


def _collect() -> tuple[Mapping[str, Directive], Mapping[str, Directive]]:
    by_name: dict[str, Directive] = {}
    lookup: dict[str, Directive] = {}
    for section in SECTIONS:
        for row in section.rows:
            by_name[row.name] = row
            for name in (row.name, *row.aliases):
                assert name not in lookup and name not in FILE_ONLY and name not in DEAD, name
                lookup[name] = row
    return MappingProxyType(by_name), MappingProxyType(lookup)


_COLLECTED: Final = _collect()
#: canonical name -> row, in the order of the annotated file
DIRECTIVES: Final = _COLLECTED[0]
#: name or alias -> row
BY_ANY_NAME: Final = _COLLECTED[1]

_HEAD: Final = """\
# respkv configuration.
#
# One directive a line: a name and its values, separated by spaces. Values with spaces go in double quotes
# (with \\n, \\xHH ...) or single quotes. Sizes take units: 1k is 1000, 1kb 1024, 1mb 1024*1024, 1gb alike.
# Every directive is shown with its default. Later lines win. "include /path/*.conf" reads other files,
# "rename-command NAME NEW" renames a command ("" removes it).
#
# [kept]: accepted and returned by CONFIG GET for the sake of existing files; it has no effect.
# [must stay]: any other value stops the server, since ignoring it would be unsafe.
# [restart]: CONFIG SET cannot change it.
"""


def _notes(row: Directive) -> str:
    notes = []
    if row.effect is Effect.KEPT:
        notes.append("[kept]")
    if row.effect is Effect.FATAL_IF_SET:
        notes.append("[must stay]")
    if not row.mutable:
        notes.append("[restart]")
    if row.aliases:
        notes.append(f"Also called {', '.join(row.aliases)}.")
    return "".join(f" {note}" for note in notes)


def render_conf() -> str:
    """The annotated configuration file: every directive that is not hidden, at its default."""
    out = [_HEAD]
    for section in SECTIONS:
        out.append(f"\n{'#' * 80}\n# {section.title}\n{'#' * 80}\n")
        for row in section.rows:
            if row.hidden:
                continue
            text = f"{row.help} ({row.kind.describe()}){_notes(row)}"
            out.append("\n" + "".join(f"# {line}\n" for line in textwrap.wrap(text, 98)))
            # A commented line: setting what is kept would only make the log longer.
            mark = "" if row.effect is Effect.HONOURED else "# "
            out.extend(f"{mark}{line}\n" for line in row.kind.lines(row.name, row.default))
    return "".join(out)


if __name__ == "__main__":
    sys.stdout.write(render_conf())
