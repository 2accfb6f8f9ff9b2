"""Bit commands against a model that spells strings as rows of 0 and 1."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from respkv.commands import bitfield, bits
from respkv.resp import errors
from tests.unit.commands.harness import Harness

_INT64_MAX = 2**63 - 1


def spell(value: bytes) -> str:
    return "".join(f"{byte:08b}" for byte in value)


def test_setbit_getbit() -> None:
    h = Harness()
    assert h("SETBIT", "k", "7", "1") == 0
    assert h("GET", "k") == b"\x01"
    assert h("SETBIT", "k", "7", "1") == 1
    assert h("SETBIT", "k", "20", "0") == 0
    assert h("GET", "k") == b"\x01\x00\x00"
    assert [h("GETBIT", "k", "7"), h("GETBIT", "k", "6"), h("GETBIT", "k", "1000")] == [1, 0, 0]
    assert h("GETBIT", "absent", "0") == 0
    assert h("SETBIT", "k", "7", "0") == 1
    assert h("GET", "k") == b"\x00\x00\x00"


def test_setbit_makes_the_key_and_keeps_the_expiry() -> None:
    h = Harness()
    assert h("SETBIT", "k", "0", "0") == 0
    assert h("GET", "k") == b"\x00"
    h("EXPIRE", "k", "100")
    h("SETBIT", "k", "0", "1")
    assert h("TTL", "k") == 100


@pytest.mark.parametrize("offset", ["-1", "x", "4294967296", "9223372036854775808", ""])
def test_bit_offsets_out_of_range(offset: str) -> None:
    h = Harness()
    assert h.raw("SETBIT", "k", offset, "1") == errors.BIT_OFFSET
    assert h.raw("GETBIT", "k", offset) == errors.BIT_OFFSET
    assert h.raw("BITFIELD", "k", "GET", "u8", offset) == errors.BIT_OFFSET
    assert h.raw("BITFIELD", "k", "GET", "u8", "#" + offset) in (errors.BIT_OFFSET, b"*1\r\n:0\r\n")


@pytest.mark.parametrize("bit", ["2", "-1", "x", ""])
def test_setbit_takes_a_bit(bit: str) -> None:
    assert Harness().raw("SETBIT", "k", "0", bit) == errors.BIT_VALUE


@pytest.mark.parametrize(
    "command",
    [
        "SETBIT h 0 1",
        "GETBIT h 0",
        "BITCOUNT h",
        "BITPOS h 1",
        "BITOP OR d h",
        "BITFIELD h GET u8 0",
        "BITFIELD h SET u8 0 1",
        "BITFIELD_RO h GET u8 0",
    ],
)
def test_hashes_are_refused(command: str) -> None:
    h = Harness()
    h("HSET", "h", "f", "v")
    assert h.raw(*command.split()) == errors.WRONG_TYPE


def model_range(start: int, end: int, size: int) -> range:
    first = max(start + size, 0) if start < 0 else start
    last = max(end + size, 0) if end < 0 else end
    return range(first, min(last, size - 1) + 1)


_VALUES = st.lists(st.sampled_from([0, 255, 1, 128, 0x5A]), max_size=6).map(bytes)


def test_bitcount_and_bitpos() -> None:
    h = Harness()

    @settings(max_examples=150, deadline=None)
    @given(_VALUES, st.integers(-60, 60), st.integers(-60, 60), st.booleans())
    def check(value: bytes, start: int, end: int, by_bit: bool) -> None:
        h("SET", "k", value)
        row = spell(value)
        unit = 1 if by_bit else 8
        units = model_range(start, end, len(row) // unit)
        chosen = [place for place in range(len(row)) if place // unit in units]
        arguments = (str(start), str(end), "BIT" if by_bit else "byte")
        counted = 0 if start < 0 and end < 0 and start > end else sum(row[place] == "1" for place in chosen)
        assert h("BITCOUNT", "k", *arguments) == counted
        assert h("BITCOUNT", "k") == row.count("1")
        for bit in "01":
            wanted = next((place for place in chosen if row[place] == bit), -1)
            assert h("BITPOS", "k", bit, *arguments) == wanted

    check()


def test_bitcount_with_too_many_words_is_a_syntax_error() -> None:
    h = Harness()
    h("SET", "k", "v")
    assert h("BITCOUNT", "k", "x", "1", "BYTE", "more") == "ERR syntax error"


def test_bitpos_judges_its_unit_before_its_end() -> None:
    h = Harness()
    h("SET", "k", "v")
    assert h("BITPOS", "k", "0", "1", "x", "FOO") == "ERR syntax error"
    assert h("BITPOS", "k", "0", "x", "2", "FOO") == "ERR value is not an integer or out of range"
    assert h("BITPOS", "k", "0", "1", "x", "2", "BYTE") == "ERR syntax error"


def test_bitpos_without_an_end_sees_zeros_behind() -> None:
    h = Harness()
    h("SET", "k", b"\xff\xff")
    assert h("BITPOS", "k", "0") == 16
    assert h("BITPOS", "k", "0", "1") == 16
    assert h("BITPOS", "k", "0", "0", "-1") == -1
    assert h("BITPOS", "k", "0", "5") == -1
    assert h("BITPOS", "absent", "0") == 0
    assert h("BITPOS", "absent", "1") == -1


@pytest.mark.parametrize(
    ("command", "error"),
    [
        ("BITCOUNT k 0", errors.SYNTAX),
        ("BITCOUNT k 0 1 FOO", errors.SYNTAX),
        ("BITCOUNT k 0 1 BIT x", errors.SYNTAX),
        ("BITCOUNT k x 1", errors.NOT_INTEGER),
        ("BITPOS k 2", errors.BIT_ARGUMENT),
        ("BITPOS k x", errors.NOT_INTEGER),
        ("BITPOS k 1 x", errors.NOT_INTEGER),
        ("BITPOS k 1 0 1 FOO", errors.SYNTAX),
        ("BITOP FOO d a", errors.SYNTAX),
        ("BITOP NOT d a b", bits.NOT_ONE_SOURCE),
        ("BITOP DIFF d a", b"-ERR BITOP DIFF must be called with multiple source keys.\r\n"),
    ],
)
def test_range_and_operation_errors(command: str, error: bytes) -> None:
    assert Harness().raw(*command.split()) == error


def test_bitop() -> None:
    h = Harness()

    @settings(max_examples=60, deadline=None)
    @given(st.lists(_VALUES, min_size=2, max_size=4))
    def check(values: list[bytes]) -> None:
        keys = [f"k{number}" for number in range(len(values))]
        for key, value in zip(keys, values):
            h("SET", key, value)
        size = max(map(len, values))
        columns = list(zip(*(spell(value.ljust(size, b"\x00")) for value in values)))
        expected = {
            "AND": [all(bit == "1" for bit in column) for column in columns],
            "OR": ["1" in column for column in columns],
            "XOR": [column.count("1") % 2 == 1 for column in columns],
            "ONE": [column.count("1") == 1 for column in columns],
            "DIFF": [column[0] == "1" and "1" not in column[1:] for column in columns],
            "DIFF1": [column[0] == "0" and "1" in column[1:] for column in columns],
            "ANDOR": [column[0] == "1" and "1" in column[1:] for column in columns],
        }
        for operation, row in expected.items():
            assert h("BITOP", operation, "d", *keys) == size
            wanted = "".join("01"[bit] for bit in row)
            assert spell(h("GET", "d") or b"") == wanted
        h("BITOP", "NOT", "d", keys[0])
        assert spell(h("GET", "d") or b"") == spell(values[0]).translate(str.maketrans("01", "10"))

    check()


def test_bitop_of_nothing_deletes_the_target() -> None:
    h = Harness()
    h("SET", "d", "v")
    assert h("BITOP", "OR", "d", "absent") == 0
    assert h("EXISTS", "d") == 0


def test_bitop_replaces_type_and_expiry() -> None:
    h = Harness()
    h("SET", "a", "x")
    h("HSET", "h", "f", "v")
    assert h("BITOP", "OR", "h", "a") == 1
    assert h("GET", "h") == b"x"
    h("SET", "t", "old", "EX", "100")
    h("BITOP", "OR", "t", "a")
    assert h("TTL", "t") == -1


_TYPES = st.one_of(
    st.tuples(st.just("i"), st.integers(1, 64)),
    st.tuples(st.just("u"), st.integers(1, 63)),
)


def test_bitfield_writes() -> None:
    h = Harness()

    @settings(max_examples=150, deadline=None)
    @given(
        _VALUES,
        _TYPES,
        st.integers(0, 70),
        st.one_of(st.integers(-300, 300), st.integers(-(2**63), _INT64_MAX)),
        st.sampled_from(["WRAP", "SAT", "FAIL"]),
        st.booleans(),
    )
    def check(
        value: bytes, kind: tuple[str, int], offset: int, operand: int, overflow: str, adds: bool
    ) -> None:
        letter, width = kind
        low, high = (-(1 << width - 1), (1 << width - 1) - 1) if letter == "i" else (0, (1 << width) - 1)
        h("SET", "k", value)
        row = spell(value).ljust(-(-max(offset + width, 8 * len(value)) // 8) * 8, "0")
        old = int(row[offset : offset + width], 2)
        if letter == "i" and old > high:
            old -= 1 << width
        new = old + operand if adds else operand
        failed = False
        if not low <= new <= high:
            if overflow == "WRAP":
                new = (new - low) % (1 << width) + low
            elif overflow == "SAT":
                new = high if new > high or (letter == "u" and not adds) else low
            else:
                failed = True
        name = "INCRBY" if adds else "SET"
        field = letter + str(width)
        answer = h(
            "BITFIELD",
            "k",
            "OVERFLOW",
            overflow,
            name,
            field,
            str(offset),
            str(operand),
            "GET",
            field,
            str(offset),
        )
        if failed:
            assert answer == [None, old]
        else:
            assert answer == [new if adds else old, new]
            row = row[:offset] + f"{new & (1 << width) - 1:0{width}b}" + row[offset + width :]
        assert spell(h("GET", "k") or b"") == row
        assert h("BITFIELD_RO", "k", "GET", field, str(offset)) == [old if failed else new]

    check()


def test_bitfield_forms() -> None:
    h = Harness()
    assert h("BITFIELD", "k") == []
    assert h("BITFIELD", "k", "GET", "u8", "0") == [0]
    assert h("EXISTS", "k") == 0
    assert h("BITFIELD", "k", "SET", "u8", "#1", "7", "GET", "u8", "8") == [0, 7]
    h("EXPIRE", "k", "100")
    assert h("BITFIELD", "k", "incrby", "u8", "#1", "1") == [8]
    assert h("TTL", "k") == 100
    assert h("BITFIELD", "k", "OVERFLOW", "FAIL") == []


def test_bitfield_creates_the_key_even_when_it_fails() -> None:
    h = Harness()
    assert h("BITFIELD", "k", "OVERFLOW", "FAIL", "INCRBY", "u1", "20", "5") == [None]
    assert h("GET", "k") == b"\x00\x00\x00"


@pytest.mark.parametrize("name", ["u64", "i65", "u0", "i0", "x8", "8", "u", "u-1", "U8", "u08", ""])
def test_bitfield_types(name: str) -> None:
    assert Harness().raw("BITFIELD", "k", "GET", name, "0") == bitfield.BAD_TYPE


@pytest.mark.parametrize(
    ("words", "error"),
    [
        ("FOO", errors.SYNTAX),
        ("GET u8", errors.SYNTAX),
        ("SET u8 0", errors.SYNTAX),
        ("INCRBY u8 0", errors.SYNTAX),
        ("OVERFLOW", errors.SYNTAX),
        ("OVERFLOW FOO", bitfield.BAD_OVERFLOW),
        ("SET u8 0 x", errors.NOT_INTEGER),
    ],
)
def test_bitfield_errors(words: str, error: bytes) -> None:
    h = Harness()
    assert h.raw("BITFIELD", "k", *words.split()) == error
    assert h("EXISTS", "k") == 0


def test_bitfield_ro_only_reads() -> None:
    assert Harness().raw("BITFIELD_RO", "k", "SET", "u8", "0", "1") == bitfield.ONLY_GET
