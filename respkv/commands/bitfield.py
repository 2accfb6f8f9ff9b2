"""BITFIELD: integers of 1 to 64 bits at any bit of a string, highest bit first."""

from __future__ import annotations

from typing import Final, NamedTuple

from respkv.commands.argument_shapes import KEY
from respkv.commands.arguments import integer, optional_integer
from respkv.commands.spec import (
    ATOMIC,
    DENYOOM,
    FAST,
    READONLY,
    WRITE,
    Arg,
    ArgType,
    CommandSpec,
    KeySpec,
)
from respkv.keyspace import effects
from respkv.keyspace.effects import Effects
from respkv.keyspace.view import View
from respkv.resp import errors, reply
from respkv.resp.errors import fail
from respkv.resp.reply import NULL, Reply, error

BAD_TYPE: Final = error(
    b"ERR Invalid bitfield type. Use something like i16 u8. Note that u64 is not supported but i64 is."
)
BAD_OVERFLOW: Final = error(b"ERR Invalid OVERFLOW type specified")
ONLY_GET: Final = error(b"ERR BITFIELD_RO only supports the GET subcommand")


class FieldType(NamedTuple):
    """``i8`` is (True, 8)."""

    signed: bool
    bits: int

    def smallest(self) -> int:
        return -(1 << self.bits - 1) if self.signed else 0

    def largest(self) -> int:
        return (1 << self.bits - 1) - 1 if self.signed else (1 << self.bits) - 1

    def wrap(self, value: int) -> int:
        """The lowest bits of ``value``, read in this type."""
        value &= (1 << self.bits) - 1
        return value - (1 << self.bits) if self.signed and value >> self.bits - 1 else value


class Operation(NamedTuple):
    """One GET, SET or INCRBY, with the overflow rule that stood before it."""

    name: bytes
    type: FieldType
    offset: int
    operand: int
    overflow: bytes


def bitfield(argv: list[bytes], view: View) -> tuple[Reply, Effects]:
    """BITFIELD key [GET | SET | INCRBY | OVERFLOW ...]: one integer or null per operation."""
    operations = _parse(argv, view.limit_bytes)
    if all(operation.name == b"GET" for operation in operations):
        return _read(operations, view.string(argv[1]) or b"")
    key = argv[1]
    value = view.string(key)
    data = _grown(value or b"", operations)
    replies = [_run(operation, data) for operation in operations]
    if bytes(data) == value:
        return reply.array(replies), effects.NONE
    return reply.array(replies), (effects.put(view.db, key, bytes(data), view.expire_at(key) or 0),)


def only_grows(argv: list[bytes], view: View) -> bool:
    """Whether a BITFIELD writes nothing into its string, which may grow nevertheless: FAIL forbids all that it asks."""
    operations = _parse(argv, view.limit_bytes)
    data = _grown(view.string(argv[1]) or b"", operations)
    return all(_run(operation, data) is NULL for operation in operations if operation.name != b"GET")


def _grown(value: bytes, operations: list[Operation]) -> bytearray:
    """The string, with zeros as far as the operations may write."""
    needed = max((item.offset + item.type.bits + 7) // 8 for item in operations if item.name != b"GET")
    return bytearray(value.ljust(needed, b"\0"))


def bitfield_ro(argv: list[bytes], view: View) -> tuple[Reply, Effects]:
    """BITFIELD_RO key [GET type offset ...]."""
    operations = _parse(argv, view.limit_bytes)
    if any(operation.name != b"GET" for operation in operations):
        raise fail(ONLY_GET)
    return _read(operations, view.string(argv[1]) or b"")


def _read(operations: list[Operation], value: bytes) -> tuple[Reply, Effects]:
    fields = [_load(value, operation.type, operation.offset) for operation in operations]
    return reply.array([reply.integer(field) for field in fields]), effects.NONE


def _parse(argv: list[bytes], limit_bytes: int) -> list[Operation]:
    operations: list[Operation] = []
    overflow = b"WRAP"
    index, size = 2, len(argv)
    while index < size:
        word = argv[index].upper()
        left = size - index - 1
        if word == b"OVERFLOW" and left >= 1:
            overflow = argv[index + 1].upper()
            if overflow not in (b"WRAP", b"SAT", b"FAIL"):
                raise fail(BAD_OVERFLOW)
            index += 2
            continue
        if not ((word == b"GET" and left >= 2) or (word in (b"SET", b"INCRBY") and left >= 3)):
            raise fail(errors.SYNTAX)
        field_type = _parse_type(argv[index + 1])
        offset = _parse_offset(argv[index + 2], field_type.bits, limit_bytes)
        operand = 0
        index += 3
        if word != b"GET":
            operand = integer(argv[index])
            index += 1
        operations.append(Operation(word, field_type, offset, operand, overflow))
    return operations


def _parse_type(arg: bytes) -> FieldType:
    bits = optional_integer(arg[1:])
    signed = arg[:1] == b"i"
    if bits is None or arg[:1] not in (b"i", b"u") or not 1 <= bits <= (64 if signed else 63):
        raise fail(BAD_TYPE)
    return FieldType(signed, bits)


def _parse_offset(arg: bytes, bits: int, limit_bytes: int) -> int:
    """A bit's position, or with ``#`` the number of a field."""
    numbered = arg[:1] == b"#"
    offset = integer(arg[1:] if numbered else arg, errors.BIT_OFFSET)
    if numbered:
        offset *= bits
    if offset < 0 or offset >> 3 >= limit_bytes:
        raise fail(errors.BIT_OFFSET)
    return offset


def _load(data: bytes | bytearray, field_type: FieldType, offset: int) -> int:
    """The field at ``offset``; bits behind the end are zero. O(1)."""
    first = offset >> 3
    last = (offset + field_type.bits + 7) >> 3
    chunk = data[first:last]
    window = int.from_bytes(chunk, "big") << 8 * (last - first - len(chunk))
    return field_type.wrap(window >> (last * 8 - offset - field_type.bits))


def _store(data: bytearray, field_type: FieldType, offset: int, value: int) -> None:
    """Write the field; ``data`` reaches far enough. O(1)."""
    first = offset >> 3
    last = (offset + field_type.bits + 7) >> 3
    shift = last * 8 - offset - field_type.bits
    mask = ((1 << field_type.bits) - 1) << shift
    window = int.from_bytes(data[first:last], "big") & ~mask | value << shift & mask
    data[first:last] = window.to_bytes(last - first, "big")


def _run(operation: Operation, data: bytearray) -> Reply:
    """Carry out one operation; null when FAIL forbids it. SET answers the old value, INCRBY the new one."""
    field_type = operation.type
    old = _load(data, field_type, operation.offset)
    if operation.name == b"GET":
        return reply.integer(old)
    value = operation.operand if operation.name == b"SET" else old + operation.operand
    if not field_type.smallest() <= value <= field_type.largest():
        if operation.overflow == b"FAIL":
            return NULL
        value = _fit(operation, value)
    _store(data, field_type, operation.offset, value)
    return reply.integer(old if operation.name == b"SET" else value)


def _fit(operation: Operation, value: int) -> int:
    field_type = operation.type
    if operation.overflow == b"WRAP":
        return field_type.wrap(value)
    # An unsigned SET takes its operand as an unsigned number: a negative one is too large, not too small.
    if value > field_type.largest() or (operation.name == b"SET" and not field_type.signed):
        return field_type.largest()
    return field_type.smallest()


COMMANDS: Final = (
    CommandSpec(
        "bitfield",
        bitfield,
        arity=-2,
        flags=WRITE | DENYOOM | ATOMIC,
        keys=(
            KeySpec(
                flags=("RW", "access", "update", "variable_flags"),
                notes="This command allows both access and modification of the key",
            ),
        ),
        acl=("write", "bitmap", "slow"),
        group="bitmap",
        since="3.2.0",
        complexity="O(1) for each subcommand specified",
        summary="Read, set and increment integers of any width inside a string value",
        args=(
            KEY,
            Arg(
                "operation",
                ArgType.ONEOF,
                flags=("optional", "multiple"),
                args=(
                    Arg(
                        "encoding_offset",
                        ArgType.BLOCK,
                        token="GET",
                        args=(
                            Arg("encoding"),
                            Arg("offset", ArgType.INTEGER),
                        ),
                    ),
                    Arg(
                        "write",
                        ArgType.BLOCK,
                        args=(
                            Arg(
                                "wrap_sat_fail",
                                ArgType.ONEOF,
                                token="OVERFLOW",
                                flags=("optional",),
                                args=(
                                    Arg("wrap", ArgType.PURE_TOKEN, token="WRAP"),
                                    Arg("sat", ArgType.PURE_TOKEN, token="SAT"),
                                    Arg("fail", ArgType.PURE_TOKEN, token="FAIL"),
                                ),
                            ),
                            Arg(
                                "write_operation",
                                ArgType.ONEOF,
                                args=(
                                    Arg(
                                        "encoding_offset_value",
                                        ArgType.BLOCK,
                                        token="SET",
                                        args=(
                                            Arg("encoding"),
                                            Arg("offset", ArgType.INTEGER),
                                            Arg("value", ArgType.INTEGER),
                                        ),
                                    ),
                                    Arg(
                                        "encoding_offset_increment",
                                        ArgType.BLOCK,
                                        token="INCRBY",
                                        args=(
                                            Arg("encoding"),
                                            Arg("offset", ArgType.INTEGER),
                                            Arg("increment", ArgType.INTEGER),
                                        ),
                                    ),
                                ),
                            ),
                        ),
                    ),
                ),
            ),
        ),
    ),
    CommandSpec(
        "bitfield_ro",
        bitfield_ro,
        arity=-2,
        flags=READONLY | FAST,
        keys=(KeySpec(flags=("RO", "access")),),
        acl=("read", "bitmap", "fast"),
        group="bitmap",
        since="6.0.0",
        complexity="O(1) for each subcommand specified",
        summary="Read integers of any width inside a string value",
        args=(
            KEY,
            Arg(
                "encoding_offset",
                ArgType.BLOCK,
                token="GET",
                flags=("optional", "multiple", "multiple_token"),
                args=(
                    Arg("encoding"),
                    Arg("offset", ArgType.INTEGER),
                ),
            ),
        ),
    ),
)
