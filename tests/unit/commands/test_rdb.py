"""RDB payloads: what Redis wrote must be read, what is written must be what Redis reads, garbage must be refused."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from respkv.commands import lzf, packed, rdb
from respkv.commands.rdb import BadPayload, ForeignType, dump_hash, dump_string, is_sealed, load, seal

LIMIT = 1 << 20

#: DUMP of a live Redis 7.0.
STRINGS = {
    b"12345": "00c139300a009d94ea2793fc08b9",
    b"-1": "00c0ff0a000c937e2485089dc5",
    b"200000": "00c2400d03000a00a8f330ddf2442712",
    b"hello world": "000b68656c6c6f20776f726c640a000bfc49b9a6c7a034",
    b"a" * 100: "00c3094064016161e057000161610a00e8a3b507b06df271",
    b"123456789012345": "000f3132333435363738393031323334350a00aa23d080cc386836",
}
LISTPACK = (
    "10c32d40591c590000000800816602817602816e02dffb028362696704f4141a99be1c201b0509816c02b278e028000133ff"
    "0a008a013d7d8edb95f6"
)
TABLE = "04020166c3094041017676e03400017676016ec0fb0a0096ef57f929136800"
#: Forms that Redis 7.0 reads and older ones wrote; each has been through its RESTORE.
ZIPMAP = "091102016101007802626203027979790000ff0600034502deccfc3c6e"


def fields(*pairs: tuple[bytes, bytes]) -> list[rdb.Field]:
    return [(field, value, 0) for field, value in pairs]


def ziplist(*values: bytes | int) -> bytes:
    """A ziplist; an int is stored in the smallest integer encoding."""
    body, before, last = b"", 0, 10
    for value in values:
        last = 10 + len(body)
        entry = bytes((before,)) if before < 254 else b"\xfe" + before.to_bytes(4, "little")
        if isinstance(value, int):
            if 0 <= value <= 12:
                entry += bytes((0xF1 + value,))
            else:
                sizes = ((1, b"\xfe"), (2, b"\xc0"), (3, b"\xf0"), (4, b"\xd0"), (8, b"\xe0"))
                size, code = next((s, c) for s, c in sizes if -(1 << 8 * s - 1) <= value < 1 << 8 * s - 1)
                entry += code + value.to_bytes(size, "little", signed=True)
        elif len(value) < 64:
            entry += bytes((len(value),)) + value
        elif len(value) < 16384:
            entry += (0x4000 | len(value)).to_bytes(2, "big") + value
        else:
            entry += b"\x80" + len(value).to_bytes(4, "big") + value
        body += entry
        before = len(entry)
    head = (
        (11 + len(body)).to_bytes(4, "little")
        + last.to_bytes(4, "little")
        + len(values).to_bytes(2, "little")
    )
    return head + body + b"\xff"


def raw(value: bytes) -> bytes:
    """An RDB string without any encoding."""
    return rdb.write_length(len(value)) + value


def reads(body: bytes) -> bytes | list[rdb.Field]:
    return load(seal(body, 10), LIMIT)


@pytest.mark.parametrize("value", STRINGS)
def test_strings_of_redis(value: bytes) -> None:
    payload = bytes.fromhex(STRINGS[value])
    assert is_sealed(payload)
    assert load(payload, LIMIT) == value
    # Ours differs in the version alone: older servers take it too.
    ours = dump_string(value)
    assert ours[-10:-8] == b"\x09\x00"
    if len(value) < 100:
        assert ours[:-10] == payload[:-10]


def test_hashes_of_redis() -> None:
    assert load(bytes.fromhex(LISTPACK), LIMIT) == fields(
        (b"f", b"v"), (b"n", b"-5"), (b"big", b"123456789012"), (b"l", b"x" * 50)
    )
    assert load(bytes.fromhex(TABLE), LIMIT) == fields((b"f", b"v" * 65), (b"n", b"-5"))
    assert load(bytes.fromhex(ZIPMAP), LIMIT) == fields((b"a", b"x"), (b"bb", b"yyy"))


def test_ziplist() -> None:
    values = (
        b"a",
        0,
        b"b",
        12,
        b"c",
        13,
        b"d",
        -128,
        b"e",
        30000,
        b"f",
        -8388608,
        b"g",
        2**31 - 1,
        b"h",
        -(2**63),
    )
    strings = (b"i", b"x" * 63, b"j", b"y" * 64, b"k", b"z" * 300, b"l", b"w" * 20000, 7, b"")
    expected = [b"%d" % value if isinstance(value, int) else value for value in (*values, *strings)]
    assert packed.read_ziplist(ziplist(*values, *strings)) == expected
    assert reads(b"\x0d" + raw(ziplist(b"a", 1, b"b", b"x"))) == fields((b"a", b"1"), (b"b", b"x"))


def test_checksum() -> None:
    # The polynomial's published check value.
    assert rdb._CRC64.calc(b"123456789") == 0xE9C6D914C4B8D9CA
    payload = dump_string(b"hello")
    assert is_sealed(payload)
    for at in range(len(payload)):
        assert not is_sealed(payload[:at] + bytes((payload[at] ^ 1,)) + payload[at + 1 :])
    assert not is_sealed(payload[:-1])
    assert not is_sealed(b"")
    assert not is_sealed(seal(b"\x00\x00", 13))


def test_versions() -> None:
    """Each type with the first version that knows it."""
    small, large = fields((b"f", b"v")), fields((b"f", b"v" * 65))
    many = fields(*((b"f%d" % number, b"v") for number in range(513)))
    expiring = [(b"f", b"v", 5)]
    versions = [
        int.from_bytes(dump_hash(hash_)[-10:-8], "little") for hash_ in (small, large, many, expiring)
    ]
    assert versions == [10, 9, 9, 12]
    assert [dump_hash(hash_)[0] for hash_ in (small, large, many, expiring)] == [16, 4, 4, 24]


WORDS = st.one_of(
    st.binary(max_size=70),
    st.integers(-(2**63), 2**63 - 1).map(lambda number: b"%d" % number),
    st.integers(-200, 200).map(lambda number: b"%d" % number),
    st.text("ab", max_size=300).map(str.encode),
)


@settings(max_examples=200, deadline=None)
@given(WORDS)
def test_strings_come_back(value: bytes) -> None:
    payload = dump_string(value)
    assert is_sealed(payload) and load(payload, LIMIT) == value


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(WORDS, st.tuples(WORDS, st.sampled_from([0, 0, 1, 1_700_000_000_000])), min_size=1))
def test_hashes_come_back(mapping: dict[bytes, tuple[bytes, int]]) -> None:
    hash_ = [(field, value, expire_at_ms) for field, (value, expire_at_ms) in mapping.items()]
    payload = dump_hash(hash_)
    assert is_sealed(payload) and load(payload, LIMIT) == hash_


@pytest.mark.parametrize(
    "size", [0, 1, 63, 64, 126, 127, 4095, 4096, 16377, 16378, 16379, 16380, 70_000, 3_000_000]
)
def test_listpack_entries_of_any_size(size: int) -> None:
    value = random.Random(1).randbytes(size)
    written = packed.write_listpack([b"f", value])
    assert packed.read_listpack(written) == [b"f", value]


@pytest.mark.parametrize(
    "number", [0, 127, 128, -1, 4095, -4096, 4096, 2**15, -(2**23), 2**31, -(2**63), 2**63 - 1]
)
def test_listpack_integers(number: int) -> None:
    written = packed.write_listpack([b"%d" % number])
    assert packed.read_listpack(written) == [b"%d" % number]
    assert len(written) <= 6 + 1 + 8 + 1 + 1


def test_large_lengths() -> None:
    value = b"x" * (1 << 17)
    assert rdb.write_length(len(value))[0] == 0x80
    assert load(dump_string(value), LIMIT) == value
    assert rdb.write_length(1 << 32) == b"\x81" + (1 << 32).to_bytes(8, "big")
    assert reads(b"\x00\x81" + (3).to_bytes(8, "big") + b"abc") == b"abc"


def test_listpack_with_expiries() -> None:
    words = [b"a", b"1", b"5000", b"b", b"2", b"0"]
    body = b"\x19" + (5000).to_bytes(8, "little") + raw(packed.write_listpack(words))
    assert reads(body) == [(b"a", b"1", 5000), (b"b", b"2", 0)]


@settings(max_examples=200, deadline=None)
@given(st.one_of(st.binary(max_size=2000), st.text("abc", max_size=3000).map(str.encode)))
def test_lzf_comes_back(data: bytes) -> None:
    assert lzf.decompress(lzf.compress(data), len(data)) == data


def test_lzf_compresses() -> None:
    text = b"".join(b"user:%d=active;" % number for number in range(1000))
    assert len(lzf.compress(text)) < len(text) / 2
    # Copies that overlap what they write, and the longest one.
    assert lzf.compress(b"a" * 265) == b"\x00a" + bytes((0xE0, 255, 0))
    assert lzf.decompress(b"\x01ab" + bytes((0xE0, 255, 1)), 266) == b"ab" * 133


@pytest.mark.parametrize(
    ("data", "length"),
    [
        (b"\x05ab", 6),  # literals beyond the end
        (b"\x00a\x20", 4),  # a copy without its distance
        (b"\x00a\xe0\x00", 10),  # a long copy without its distance
        (b"\x00a\x20\x05", 4),  # from before the start
        (b"\x01ab", 3),  # too short
        (b"\x02abc", 2),  # too long
        (b"\x00a" + b"\xe0\xff\x00" * 50, 1000),  # much too long
    ],
)
def test_bad_lzf(data: bytes, length: int) -> None:
    with pytest.raises(lzf.BadLzf):
        lzf.decompress(data, length)


def listpack(body: bytes, count: int) -> bytes:
    return (7 + len(body)).to_bytes(4, "little") + count.to_bytes(2, "little") + body + b"\xff"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        listpack(b"\x01\x01", 2),  # wrong count
        listpack(b"\x01\x02", 1),  # wrong length backwards
        listpack(b"\x01", 1),  # no length backwards
        listpack(b"\x85ab\x03", 1),  # a string beyond the end
        listpack(b"\xe0", 1),  # cut off
        listpack(b"\xc1", 1),  # cut off
        listpack(b"\xf1\x01", 1),  # an integer beyond the end
        listpack(b"\xf0\xff\xff\xff\xff", 1),  # a string beyond the end
        listpack(b"\xf7\x01", 1),  # unknown encoding
        listpack(b"\x01\x01", 1)[:-1] + b"\x00",  # no end
        b"\x00" + listpack(b"\x01\x01", 1)[1:],  # wrong total
    ],
)
def test_bad_listpack(data: bytes) -> None:
    with pytest.raises(packed.BadPacked):
        packed.read_listpack(data)
    with pytest.raises(BadPayload):
        reads(b"\x10" + raw(data))


GOOD_ZIPLIST = ziplist(b"a", 1)


@pytest.mark.parametrize(
    "data",
    [
        GOOD_ZIPLIST[:-1] + b"\x00",  # no end
        GOOD_ZIPLIST[:8] + b"\x03" + GOOD_ZIPLIST[9:],  # wrong count
        GOOD_ZIPLIST[:4] + b"\x0b" + GOOD_ZIPLIST[5:],  # wrong offset of the last entry
        GOOD_ZIPLIST[:10] + b"\x01" + GOOD_ZIPLIST[11:],  # wrong length of the entry before
        GOOD_ZIPLIST[:11] + b"\x3f" + GOOD_ZIPLIST[12:],  # a string beyond the end
        GOOD_ZIPLIST[:11] + b"\xe0" + GOOD_ZIPLIST[12:],  # an integer beyond the end
        GOOD_ZIPLIST[:11] + b"\xc1" + GOOD_ZIPLIST[12:],  # unknown encoding
        GOOD_ZIPLIST[:10] + b"\xff" + GOOD_ZIPLIST[11:],  # an end inside
        b"\x0c\x00\x00\x00\x0a\x00\x00\x00\x01\x00\x00\xff",  # an entry without encoding
    ],
)
def test_bad_ziplist(data: bytes) -> None:
    with pytest.raises(packed.BadPacked):
        packed.read_ziplist(data)
    with pytest.raises(BadPayload):
        reads(b"\x0d" + raw(data))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x01\x01a\x01\x00x",  # no end
        b"\x02\x01a\x01\x00x\xff",  # wrong count
        b"\x01\x01a\xff",  # a key without value
        b"\x01\x01a\x01\xff",  # a value without its free byte
        b"\x01\x01a\x09\x00x\xff",  # a value beyond the end
        b"\x01\x01a\x01\x07x\xff",  # free bytes beyond the end
        b"\x01\xfe\xff\xff\xff\x7fa\xff",  # a key beyond the end
        b"\x01\xff\x01\xff",  # an end inside
    ],
)
def test_bad_zipmap(data: bytes) -> None:
    with pytest.raises(packed.BadPacked):
        packed.read_zipmap(data)


def test_zipmap_with_a_long_value() -> None:
    value = b"v" * 300
    data = b"\x01\x01a" + b"\xfe" + (300).to_bytes(4, "little") + b"\x00" + value + b"\xff"
    assert packed.read_zipmap(data) == [b"a", value]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\x00",  # no string
        b"\x00\x05abc",  # cut off
        b"\x00\x03abcd",  # bytes behind the value
        b"\x00\xc4",  # unknown string
        b"\x00\x82\x00",  # unknown length
        b"\x00\xc3\x02\x7fab",  # LZF of another length
        b"\x00\xc3\xc0\x01\x05ab",  # a string where a length belongs
        b"\x00\xc3\x04\x80\x7f\xff\xff\xff\x03abcd",  # more than LZF can make of four bytes
        b"\x04\x00",  # no fields
        b"\x04\x80\xff\xff\xff\xff\x01a\x01b",  # more entries than bytes
        b"\x04\x81" + b"\xff" * 8 + b"\x01a\x01b",
        b"\x04\xc0\x01\x01a\x01b",  # a string as count
        b"\x04\x02\x01a\x01b\x01a\x01c",  # a field twice
        b"\x10" + raw(packed.write_listpack([b"a"])),  # a field without value
        b"\x10" + raw(packed.write_listpack([])),
        b"\x10" + raw(packed.write_listpack([b"a", b"1", b"a", b"2"])),
        b"\x0d" + raw(ziplist(b"a")),
        b"\x18" + bytes(7),  # no earliest expiry
        b"\x18" + b"\xff" * 8 + b"\x01\x05\x01a\x01b",  # an impossible expiry
        b"\x19" + bytes(8) + raw(packed.write_listpack([b"a", b"1"])),  # no expiry
        b"\x19" + bytes(8) + raw(packed.write_listpack([b"a", b"1", b"x"])),
        b"\x19" + bytes(8) + raw(packed.write_listpack([b"a", b"1", b"-5"])),
        b"\x63\x00",  # unknown type
    ],
)
def test_bad_payloads(body: bytes) -> None:
    with pytest.raises(BadPayload) as problem:
        reads(body)
    assert not isinstance(problem.value, ForeignType)


def test_foreign_types_have_names() -> None:
    with pytest.raises(ForeignType, match="list"):
        reads(b"\x12\x01\x02")


def test_compressed_strings_have_a_budget() -> None:
    """A small payload may not become more than the limit, however many strings it is made of."""
    zeros = rdb.write_string(bytes(60_000))
    body = b"\x04\x02" + rdb.write_string(b"a") + zeros + rdb.write_string(b"b") + zeros
    payload = seal(body, 9)
    assert len(payload) < 2000
    assert load(payload, 120_000) == fields((b"a", bytes(60_000)), (b"b", bytes(60_000)))
    with pytest.raises(BadPayload):
        load(payload, 119_999)


def test_random_damage_is_refused_or_harmless() -> None:
    rng = random.Random(11)
    whole = [
        dump_string(b"ab" * 50),
        dump_hash(fields((b"a", b"1"), (b"b" * 30, b"c" * 30))),
        dump_hash([(b"a", b"1", 5000), (b"b", b"2", 0)]),
        dump_hash(fields(*((b"f%d" % number, b"x" * 70) for number in range(10)))),
        seal(b"\x0d" + raw(ziplist(b"a", 1, b"b" * 70, -300)), 9),
        bytes.fromhex(ZIPMAP),
    ]
    refused = 0
    for number in range(3000):
        body = bytearray(whole[number % len(whole)][:-10])
        for _ in range(rng.randrange(1, 4)):
            at = rng.randrange(len(body))
            body[at : at + 1] = rng.randbytes(rng.randrange(3))
        try:
            load(seal(bytes(body), 10), LIMIT)
        except BadPayload:
            refused += 1
    assert refused > 2000
