"""What CLIENT LIST and CLIENT INFO print of a connection. Pure."""

from __future__ import annotations

from typing import Final

from respkv.commands.session import Session

#: Rough size of a session, its socket object and its parser.
_SESSION_BYTES: Final = 4096


def valid_name(name: bytes) -> bool:
    """True when ``name`` has only printable ASCII without spaces; the empty name is fine."""
    return all(33 <= byte <= 126 for byte in name)


def is_local(session: Session) -> bool:
    """True for a client on this host: a unix socket or a loopback address."""
    address = session.address
    return session.unix or address.startswith(("127.", "[::1]", "::1:", "[::ffff:127."))


def client_kind(session: Session) -> bytes:
    """The TYPE of CLIENT LIST and KILL; MONITOR connections count as normal ones."""
    shards = session.server.pubsub.shards_of(session)
    return b"pubsub" if session.subscribed() or shards else b"normal"


def client_flags(session: Session) -> bytes:
    """Letters in Redis' order; N when there is nothing to tell."""
    flags = b""
    for letter, holds in (
        (b"O", session.is_monitor),
        (b"P", client_kind(session) == b"pubsub"),
        (b"x", session.multi is not None),
        (b"b", session.blocked is not None),
        (b"d", session.watch_broken),
        (b"c", session.closing),
        (b"U", session.unix),
        (b"e", session.no_evict),
        (b"T", session.no_touch),
    ):
        if holds:
            flags += letter
    return flags or b"N"


def client_line(session: Session, *, now_us: int) -> bytes:
    """One line with its line end. ``now_us`` is the monotonic clock that the session's times are of."""
    waiting_in = session.sink.input_buffered()
    waiting_out = session.sink.buffered()
    queued = session.multi or ()
    argument_bytes = len(session.last_command)
    total = _SESSION_BYTES + waiting_in + waiting_out + session.multi_bytes + argument_bytes
    fields: tuple[tuple[bytes, bytes | int], ...] = (
        (b"id", session.id),
        (b"addr", session.address.encode()),
        (b"laddr", session.local_address.encode()),
        (b"fd", getattr(session.sink, "fd", -1)),  # A request of another node has no socket here.
        (b"name", session.name),
        (b"age", max(0, now_us - session.created_us) // 1_000_000),
        (b"idle", max(0, now_us - session.last_us) // 1_000_000),
        (b"flags", client_flags(session)),
        (b"db", session.db),
        (b"sub", len(session.channels)),
        (b"psub", len(session.patterns)),
        (b"ssub", len(session.server.pubsub.shards_of(session))),
        (b"multi", -1 if session.multi is None else len(queued)),
        (b"watch", len(session.watched)),
        (b"qbuf", waiting_in),
        (b"qbuf-free", 0),
        (b"argv-mem", argument_bytes),
        (b"multi-mem", session.multi_bytes),
        (b"rbs", 0),
        (b"rbp", 0),
        (b"obl", 0),
        (b"oll", 1 if waiting_out else 0),
        (b"omem", waiting_out),
        (b"tot-mem", total),
        (b"events", b"rw" if waiting_out else b"r"),
        (b"cmd", session.last_command.encode() or b"NULL"),
        (b"user", session.user),
        (b"redir", -1),
        (b"resp", session.proto),
        (b"lib-name", session.lib_name),
        (b"lib-ver", session.lib_ver),
    )
    return b" ".join([b"%b=%b" % (name, _text(value)) for name, value in fields]) + b"\n"


def _text(value: bytes | int) -> bytes:
    return value if isinstance(value, bytes) else b"%d" % value
