"""Fields one by one: limits, and reading never past the end it was given."""

from __future__ import annotations

import struct
from typing import Any

import pytest

from respkv.base.errors import ProtocolError
from respkv.wire.fields import FLAG, ID, STAMP, U8, U16, U32, U64, Blob, Exactly, Field, Group, Many, Text, Words


def label(value: object) -> str:
    """A test's id that is the same in each process."""
    return type(value).__name__ if hasattr(value, "bytes_min") else str(value)


CASES: list[tuple[Field, Any]] = [
    (U8, 255),
    (U16, 0x1234),
    (U32, 0x12345678),
    (U64, 0x123456789ABCDEF0),
    (FLAG, True),
    (FLAG, False),
    (STAMP, b"0123456789"),
    (ID, bytes(16)),
    (Blob(), b"bytes"),
    (Blob(), b""),
    (Text(10), "äöü"),
    (Group(U8, Blob()), (1, b"x")),
    (Many(U16), (1, 2, 3)),
    (Many(Group(U8, Text(5))), ((1, "a"), (2, ""))),
    (Words(3), (1, 2, 3)),
    (Words(3), ()),
]


def written(field: Field, value: Any) -> bytes:
    out: list[bytes] = []
    field.write(value, out)
    return b"".join(out)


@pytest.mark.parametrize(("field", "value"), CASES, ids=label)
def test_there_and_back_and_cut(field: Field, value: Any) -> None:
    data = written(field, value)
    assert len(data) >= field.bytes_min
    assert field.read(b"\xff" + data + b"\xff" * 20, 1, 1 + len(data)) == (value, 1 + len(data))
    for size in range(len(data)):
        with pytest.raises(ProtocolError):
            field.read(data + b"\x01" * 20, 0, size)


def test_integers_are_little_endian() -> None:
    assert written(U32, 1) == b"\x01\x00\x00\x00"


@pytest.mark.parametrize(
    ("field", "value"),
    [(Blob(3), b"abcd"), (Text(3), "üü"), (Many(U8, 2), (1, 2, 3)), (Words(2), (1, 2, 3))],
    ids=label,
)
def test_limits_hold_both_ways(field: Field, value: Any) -> None:
    with pytest.raises(ValueError, match="above the limit"):
        field.write(value, [])
    wider: dict[type, Field] = {Blob: Blob(), Text: Text(99), Many: Many(U8), Words: Words(9)}
    data = written(wider[type(field)], value)
    with pytest.raises(ProtocolError):
        field.read(data, 0, len(data))


@pytest.mark.parametrize(("field", "value"), [(U8, 256), (U16, -1), (Words(2), (1 << 64,))], ids=label)
def test_integers_that_do_not_fit(field: Field, value: Any) -> None:
    with pytest.raises(struct.error):
        field.write(value, [])


def test_a_group_wants_all_its_values() -> None:
    with pytest.raises(ValueError, match="shorter"):
        Group(U8, U8).write((1,), [])
    with pytest.raises(ValueError, match="16"):
        ID.write(b"short", [])


@pytest.mark.parametrize("field", [Many(Blob()), Words(0xFFFFFFFF)], ids=["Many", "Words"])
def test_a_count_beyond_the_bytes_is_refused_before_anything_is_read(field: Field) -> None:
    with pytest.raises(ProtocolError, match="a count of 3"):
        field.read(b"\x03\x00\x00\x00" + bytes(11), 0, 15)


def test_items_without_bytes_are_a_mistake() -> None:
    with pytest.raises(AssertionError):
        Many(Exactly(0))
