"""Messages to bytes and back: one row a message, and functions of their own for the hot ones.

A message is ``type u8 | body length u32 | body``, integers little-endian. The bodies of the hot ones::

    Writes      seq u64 | kind u8 | payload
    WriteAcks   done count u32 | refused count u32 | done u64.. | (seq u64 | index u32 | status u8)..
    Reads       seq u64 | count u32 | key length u32.. | stamp 10.. | keys
    ReadResult  seq u64 | status u8 | count u32 | index u32.. | record length u32.. | status u8.. | records
    Forward     op u64 | session u64 | until ms u32 | db u16 | flags u16 | proto u8 | level u8 | user length u16
                | command count u32 | argument counts u32.. | argument lengths u32.. | user | arguments
    Forwarded   op u64 | status u8 | reply

Columns, not rows: each column is packed and unpacked by one call, however many entries there are. The bodies of the
others are their fields in order (``fields``); such a message may be longer than its reader knows (a newer sender: the
rest is ignored) and, where the last fields have defaults, shorter (an older one). The reader skips unknown types.

Decoding checks every count and length against the bytes that are there: garbage is a ProtocolError, never a wrong
message. What a payload holds is not looked at here; whoever applies it checks it first.

Why not RESP: docs/decisions/0005-node-frames.md. The format in full: docs/formats/wire.md.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from struct import Struct
from typing import Any, Final, NamedTuple

from respkv.base.errors import ProtocolError
from respkv.wire import messages as m
from respkv.wire.fields import (
    FLAG,
    ID,
    STAMP,
    U8,
    U16,
    U32,
    U64,
    Blob,
    Field,
    Group,
    Many,
    Text,
    Words,
)

MESSAGE_HEAD: Final = Struct("<BI")
MESSAGE_HEAD_BYTES: Final = MESSAGE_HEAD.size
_STAMP_BYTES: Final = 10

WRITES: Final = 1
_WRITE_ACKS: Final = 2
_READS: Final = 3
_READ_RESULT: Final = 4
_FORWARD: Final = 7
_FORWARDED: Final = 8

_WRITES_HEAD: Final = Struct("<BIQB")
_WRITES_BODY: Final = Struct("<QB")
#: Bytes of a Writes message's body before its payload.
WRITES_BODY_BYTES: Final = _WRITES_BODY.size
_ACKS_HEAD: Final = Struct("<BIII")
_ACKS_BODY: Final = Struct("<II")
_REFUSED: Final = Struct("<QIB")
_READS_HEAD: Final = Struct("<BIQI")
_READS_BODY: Final = Struct("<QI")
_RESULT_HEAD: Final = Struct("<BIQBI")
_RESULT_BODY: Final = Struct("<QBI")
_FORWARD_BODY: Final = Struct("<QQIHHBBHI")
_FORWARDED_HEAD: Final = Struct("<BIQB")
_FORWARDED_BODY: Final = Struct("<QB")

_COLUMNS_MAX: Final = 256
_STAMP_COLUMNS: Final = tuple(Struct("10s" * count) for count in range(_COLUMNS_MAX))


def _stamp_column(count: int) -> Struct:
    """Packs and cuts ``count`` stamps in one call, filling up with zeros. Making one takes 5 ns a stamp."""
    return _STAMP_COLUMNS[count] if count < _COLUMNS_MAX else Struct("10s" * count)


Encoder = Callable[[Any], list[bytes]]
Decoder = Callable[[bytes, int, int], Any]


def _encode_writes(message: m.Writes) -> list[bytes]:
    seq, kind, payload = message
    return [_WRITES_HEAD.pack(WRITES, WRITES_BODY_BYTES + len(payload), seq, kind), payload]


def _decode_writes(data: bytes, at: int, end: int) -> m.Writes:
    start = at + WRITES_BODY_BYTES
    if start > end:
        raise ProtocolError("Writes is cut short")
    seq, kind = _WRITES_BODY.unpack_from(data, at)
    return m.Writes(seq, kind, data[start:end])


def _encode_acks(message: m.WriteAcks) -> list[bytes]:
    done, refused = message
    count = len(done)
    size = _ACKS_BODY.size + 8 * count + _REFUSED.size * len(refused)
    parts = [_ACKS_HEAD.pack(_WRITE_ACKS, size, count, len(refused)), Struct(f"<{count}Q").pack(*done)]
    if refused:
        parts += [_REFUSED.pack(*row) for row in refused]
    return parts


def _decode_acks(data: bytes, at: int, end: int) -> m.WriteAcks:
    start = at + _ACKS_BODY.size
    if start > end:
        raise ProtocolError("WriteAcks is cut short")
    count, refusals = _ACKS_BODY.unpack_from(data, at)
    if start + 8 * count + _REFUSED.size * refusals != end:
        raise ProtocolError("WriteAcks of a wrong length")
    done = Struct(f"<{count}Q").unpack_from(data, start)
    if not refusals:
        return m.WriteAcks(done)
    return m.WriteAcks(done, tuple(_REFUSED.iter_unpack(data[start + 8 * count : end])))


def _encode_reads(message: m.Reads) -> list[bytes]:  # HOT: wire_reads
    seq, keys, stamps = message
    count = len(keys)
    if len(stamps) != count or not set(map(len, stamps)) <= {0, _STAMP_BYTES}:
        raise ValueError("a stamp for each key, of ten bytes or none")
    lengths = Struct(f"<{count}I").pack(*map(len, keys))
    stamped, joined = _stamp_column(count).pack(*stamps), b"".join(keys)
    size = _READS_BODY.size + len(lengths) + len(stamped) + len(joined)
    return [_READS_HEAD.pack(_READS, size, seq, count), lengths, stamped, joined]


def _decode_reads(data: bytes, at: int, end: int) -> m.Reads:  # HOT: wire_reads
    start = at + _READS_BODY.size
    if start > end:
        raise ProtocolError("Reads is cut short")
    seq, count = _READS_BODY.unpack_from(data, at)
    stamps_at = start + 4 * count
    key_at = stamps_at + _STAMP_BYTES * count
    if key_at > end:
        raise ProtocolError(f"Reads of {count} keys is cut short")
    lengths = Struct(f"<{count}I").unpack_from(data, start)
    if key_at + sum(lengths) != end:
        raise ProtocolError("Reads of a wrong length")
    stamps = _stamp_column(count).unpack_from(data, stamps_at)
    return m.Reads(seq, [data[key_at : (key_at := key_at + length)] for length in lengths], stamps)


def _encode_result(message: m.ReadResult) -> list[bytes]:
    seq, status, differing = message
    count = len(differing)
    if not count:
        return [_RESULT_HEAD.pack(_READ_RESULT, _RESULT_BODY.size, seq, status, 0)]
    indexes, statuses, records = zip(*differing)
    columns = Struct(f"<{2 * count}I").pack(*indexes, *map(len, records)) + bytes(statuses)
    joined = b"".join(records)
    size = _RESULT_BODY.size + len(columns) + len(joined)
    return [_RESULT_HEAD.pack(_READ_RESULT, size, seq, status, count), columns, joined]


def _decode_result(data: bytes, at: int, end: int) -> m.ReadResult:
    start = at + _RESULT_BODY.size
    if start > end:
        raise ProtocolError("ReadResult is cut short")
    seq, status, count = _RESULT_BODY.unpack_from(data, at)
    if not count:
        if start != end:
            raise ProtocolError("ReadResult of a wrong length")
        return m.ReadResult(seq, status)
    statuses_at = start + 8 * count
    record_at = statuses_at + count
    if record_at > end:
        raise ProtocolError(f"ReadResult of {count} records is cut short")
    columns = Struct(f"<{2 * count}I").unpack_from(data, start)
    lengths = columns[count:]
    if record_at + sum(lengths) != end:
        raise ProtocolError("ReadResult of a wrong length")
    records = [data[record_at : (record_at := record_at + length)] for length in lengths]
    return m.ReadResult(seq, status, tuple(zip(columns, data[statuses_at : statuses_at + count], records)))


def _encode_forward(message: m.Forward) -> list[bytes]:
    op, session, db, proto, level, flags, until_ms, user, commands = message
    counts = [len(argv) for argv in commands]
    words = [word for argv in commands for word in argv]
    lengths = [len(word) for word in words]
    size = _FORWARD_BODY.size + 4 * (len(counts) + len(lengths)) + len(user) + sum(lengths)
    head = _FORWARD_BODY.pack(op, session, until_ms, db, flags, proto, level, len(user), len(counts))
    columns = Struct(f"<{len(counts) + len(lengths)}I").pack(*counts, *lengths)
    return [MESSAGE_HEAD.pack(_FORWARD, size) + head + columns, user, *words]


def _decode_forward(data: bytes, at: int, end: int) -> m.Forward:
    start = at + _FORWARD_BODY.size
    if start > end:
        raise ProtocolError("Forward is cut short")
    op, session, until_ms, db, flags, proto, level, user_length, count = _FORWARD_BODY.unpack_from(data, at)
    lengths_at = start + 4 * count
    if lengths_at > end:
        raise ProtocolError(f"Forward of {count} commands is cut short")
    counts = Struct(f"<{count}I").unpack_from(data, start)
    if not count or 0 in counts:
        raise ProtocolError("Forward without a command")
    total = sum(counts)
    user_at = lengths_at + 4 * total
    if user_at > end:
        raise ProtocolError(f"Forward of {total} arguments is cut short")
    lengths = Struct(f"<{total}I").unpack_from(data, lengths_at)
    word_at = user_at + user_length
    if word_at + sum(lengths) != end:
        raise ProtocolError("Forward of a wrong length")
    user = data[user_at:word_at]
    words = [data[word_at : (word_at := word_at + length)] for length in lengths]
    if count == 1:
        commands: tuple[tuple[bytes, ...], ...] = (tuple(words),)
    else:
        first = 0
        commands = tuple([tuple(words[first : (first := first + argc)]) for argc in counts])
    return m.Forward(op, session, db, proto, level, flags, until_ms, user, commands)


def _encode_forwarded(message: m.Forwarded) -> list[bytes]:
    op, status, reply = message
    return [_FORWARDED_HEAD.pack(_FORWARDED, _FORWARDED_BODY.size + len(reply), op, status), reply]


def _decode_forwarded(data: bytes, at: int, end: int) -> m.Forwarded:
    start = at + _FORWARDED_BODY.size
    if start > end:
        raise ProtocolError("Forwarded is cut short")
    op, status = _FORWARDED_BODY.unpack_from(data, at)
    return m.Forwarded(op, status, data[start:end])


class Row(NamedTuple):
    """One kind of message. Of *ordered* ones even those that travel in parts arrive in order."""

    number: int
    message: type[Any]
    encode: Encoder
    decode: Decoder
    ordered: bool = False


def _row(number: int, message: Any, *fields: Field, ordered: bool = False) -> Row:
    """The row of a message whose layout is ``fields``, one for each field of the class."""
    defaults: dict[str, Any] = message._field_defaults
    names: tuple[str, ...] = message._fields
    assert len(names) == len(fields)
    required = len(names) - len(defaults)

    def encode(value: Sequence[Any]) -> list[bytes]:
        out = [b""]
        for field, part in zip(fields, value):
            field.write(part, out)
        out[0] = MESSAGE_HEAD.pack(number, sum(map(len, out)))
        return out

    def decode(data: bytes, at: int, end: int) -> Any:
        parts: list[Any] = []
        for field in fields:
            if at == end and len(parts) >= required:
                break
            part, at = field.read(data, at, end)
            parts.append(part)
        return message(*parts)

    return Row(number, message, encode, decode, ordered)


_BLOB: Final = Blob()
_HOST: Final = Text(255)
#: A section of ``StatusPull`` may name a key.
_SECTION_BYTES_MAX: Final = 1 << 20
_UPDATES: Final = Many(Group(U16, U8, U64, U16), limit=0xFFFF)
_FACTS: Final = Group(U64, U64, Blob(_STAMP_BYTES), U32, Blob(1 << 16), make=m.Facts._make)
_FLOORS: Final = Many(Group(U16, U16, U16, STAMP))
_NAMES: Final = Many(Group(U8, _BLOB))

#: Numbers are never used again. 64 and above are kept for registers; 255 is a part of a long message (``frames``).
ROWS: Final = (
    Row(WRITES, m.Writes, _encode_writes, _decode_writes),
    Row(_WRITE_ACKS, m.WriteAcks, _encode_acks, _decode_acks),
    Row(_READS, m.Reads, _encode_reads, _decode_reads),
    Row(_READ_RESULT, m.ReadResult, _encode_result, _decode_result),
    _row(5, m.RangeRead, U64, _BLOB, _BLOB, _BLOB, U32, U64),
    _row(6, m.RangeResult, U64, U8, FLAG, _BLOB),
    Row(_FORWARD, m.Forward, _encode_forward, _decode_forward),
    Row(_FORWARDED, m.Forwarded, _encode_forwarded, _decode_forwarded),
    _row(9, m.SessionGone, U64),
    _row(10, m.Publish, U8, _BLOB, _BLOB, ordered=True),
    _row(11, m.Interest, FLAG, _NAMES, _NAMES, ordered=True),
    _row(12, m.FlushTo, U64, _FLOORS),
    _row(13, m.HoldFor, U64, U16, _BLOB),
    _row(14, m.Time, U64),
    _row(15, m.Pressure, U32),
    _row(16, m.Ping, U64, _UPDATES, _FACTS),
    _row(17, m.PingReq, U64, U16, _UPDATES, _FACTS),
    _row(18, m.Ack, U64, U8, _UPDATES, _FACTS),
    _row(19, m.State, U8, _UPDATES, _FACTS),
    _row(24, m.Join, ID, ID, _HOST, U16, U16, U8, _HOST, U16),
    _row(25, m.Joined, _BLOB),
    _row(26, m.Refused, Text(1024), U8, ID, Many(Group(_HOST, U16), limit=16)),
    _row(27, m.RingPull, U64),
    _row(28, m.RingPush, _BLOB),
    _row(32, m.TreeRoots, U64, Words(16384)),
    _row(33, m.TreeSlots, U64, Many(Group(U16, U64), limit=16384)),
    _row(34, m.TreeLeaves, U64, Many(Group(U16, Words(64)), limit=16384)),
    _row(35, m.TreeKeys, U64, U16, U8, FLAG, Many(Group(_BLOB, Blob(64)))),
    _row(36, m.PullRecords, U64, Many(_BLOB)),
    _row(37, m.Floors, U64, _FLOORS, Many(Group(U16, U16, U64))),
    _row(38, m.TreeEnd, U64, U8),
    _row(48, m.StatusPull, U64, Text(_SECTION_BYTES_MAX)),
    _row(49, m.Status, U64, Many(Group(Text(255), _BLOB))),
)
PART: Final = 255

_ENCODERS: Final[dict[type, Encoder]] = {row.message: row.encode for row in ROWS}
DECODERS: Final[dict[int, Decoder]] = {row.number: row.decode for row in ROWS}
ORDERED_TYPES: Final = frozenset(row.number for row in ROWS if row.ordered)
assert len(_ENCODERS) == len(DECODERS) == len(ROWS) and PART not in DECODERS


def encode(message: tuple[Any, ...]) -> list[bytes]:
    """The message's bytes in pieces, large ones passed on uncopied; the first begins with type and length.

    The pieces may be given to several writers. ValueError or ``struct.error`` when a value does not fit its field.
    """
    return _ENCODERS[type(message)](message)
