"""Any stream, cut anywhere and taken at any pace, gives what a plain reading of Redis' rules gives."""

from __future__ import annotations

import random
import tracemalloc
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from respkv.resp.request import RequestParser
from tests.unit.resp.one_by_one import gets

MAX_BULK = 1 << 20
SPACE = b" \t\n\v\f\r"


def model_words(line: bytes) -> list[bytes] | None:
    """``sdssplitargs``, one state and one character at a time; byte 0 stands behind the line, as in C."""
    words: list[bytes] = []
    word: bytearray | None = None
    quote = 0
    text = line + b"\0\0\0\0"
    at = 0
    while True:
        byte = text[at]
        if word is None:
            if byte == 0:
                return words
            if byte in SPACE:
                at += 1
                continue
            word, quote = bytearray(), 0
        if quote:
            if byte == 0:
                return None
            if quote == 34 and byte == 92 and text[at + 1] == 120:
                digits = text[at + 2 : at + 4].decode("latin-1")
                if all(digit in "0123456789abcdefABCDEF" for digit in digits):
                    word.append(int(digits, 16))
                    at += 4
                    continue
            if quote == 34 and byte == 92 and text[at + 1]:
                word.append({110: 10, 114: 13, 116: 9, 98: 8, 97: 7}.get(text[at + 1], text[at + 1]))
                at += 2
                continue
            if quote == 39 and byte == 92 and text[at + 1] == 39:
                word.append(39)
                at += 2
                continue
            if byte == quote:
                if text[at + 1] and text[at + 1] not in SPACE:
                    return None
                words.append(bytes(word))
                word = None
            else:
                word.append(byte)
        elif byte == 0 or byte in b" \n\r\t":
            words.append(bytes(word))
            word = None
            if byte == 0:
                continue
        elif byte in b"\"'":
            quote = byte
        else:
            word.append(byte)
        at += 1


def model_number(text: bytes) -> int | None:
    try:
        value = int(text.decode("ascii"))
    except ValueError:
        return None
    return value if str(value).encode() == text and -(2**63) <= value < 2**63 else None


def model(stream: bytes, unauthenticated: bool = False) -> tuple[list[list[bytes]], bytes | None]:
    """All complete requests of ``stream``, and the text of the protocol error that ends it, if one does."""
    requests: list[list[bytes]] = []
    at = 0

    def line(end: bytes) -> tuple[int, bool]:
        """The place of ``end`` (-1: not there, or behind a NUL), and whether the line is too long."""
        found = -1
        for place in range(at, len(stream)):
            if stream[place] == 0:
                break
            if stream[place : place + 1] == end:
                found = place
                break
        return found, (found if found >= 0 else len(stream)) - at > 65536

    while at < len(stream):
        if stream[at : at + 1] != b"*":
            end, long = line(b"\n")
            if long:
                return requests, b"too big inline request"
            if end < 0:
                break
            words = model_words(stream[at:end].removesuffix(b"\r"))
            if words is None:
                return requests, b"unbalanced quotes in request"
            if words and words[0].lower() in (b"post", b"host:"):
                return requests, b""
            if words:
                requests.append(words)
            at = end + 1
            continue
        end, long = line(b"\r")
        if long:
            return requests, b"too big mbulk count string"
        if end < 0 or end + 2 > len(stream):
            break
        count = model_number(stream[at + 1 : end])
        if count is None or count > 2147483647:
            return requests, b"invalid multibulk length"
        if count > 10 and unauthenticated:
            return requests, b"unauthenticated multibulk length"
        at = end + 2
        argv: list[bytes] = []
        while len(argv) < count:
            end, long = line(b"\r")
            if long:
                return requests, b"too big bulk count string"
            if end < 0 or end + 2 > len(stream):
                return requests, None
            if stream[at : at + 1] != b"$":
                shown = stream[at : at + 1].replace(b"\r", b" ").replace(b"\n", b" ")
                return requests, b"expected '$', got '" + shown + b"'"
            length = model_number(stream[at + 1 : end])
            if length is None or length < 0 or length > MAX_BULK:
                return requests, b"invalid bulk length"
            if length > 16384 and unauthenticated:
                return requests, b"unauthenticated bulk length"
            at = end + 2
            if at + length + 2 > len(stream):
                return requests, None
            argv.append(stream[at : at + length])
            at += length + 2
        if argv and argv[0].lower() in (b"post", b"host:"):
            return requests, b""
        if argv:
            requests.append(argv)
    return requests, None


def run(
    stream: bytes, cuts: list[int], paces: list[int], unauthenticated: bool = False
) -> tuple[list[list[bytes]], bytes | None]:
    """What the parser makes of pieces that end at ``cuts``; ``paces`` says how many are taken after each (-1: all)."""
    parser = RequestParser()
    parser.set_limits(max_bulk=MAX_BULK, unauthenticated=unauthenticated)
    requests: list[list[bytes]] = []
    edges = sorted({0, *(cut % (len(stream) + 1) for cut in cuts), len(stream)})
    for number, (start, end) in enumerate(pairwise(edges)):
        parser.feed(stream[start:end])
        pace = paces[number % len(paces)] if end < len(stream) else -1
        while pace:
            pace -= 1
            argv = gets(parser)
            if argv is False:
                break
            if not parser.check(argv, -1):
                break
            if argv:
                requests.append(argv)
        parser.check_invariants()
    assert parser.has_more is False
    error = parser.error
    if error:
        assert error.startswith(b"-ERR Protocol error: ") and error.endswith(b"\r\n")
        error = error[21:-2]
    return requests, error


def pack(argv: list[bytes]) -> bytes:
    return b"*%d\r\n" % len(argv) + b"".join(b"$%d\r\n%b\r\n" % (len(part), part) for part in argv)


NASTY = (
    b"",
    b"\r\n",
    b"*",
    b"\r\n*1\r\n$4\r\nPING\r\n",
    b"+",
    b"a\r\n+b",
    b"~9\r\n",
    b"x\r\n*0\r\n",
    b"%20\r",
    b"\0",
    b"v" * 300,
)
WORDS = st.one_of(st.sampled_from(NASTY), st.binary(max_size=12))
REQUESTS = st.lists(WORDS, min_size=1, max_size=5).map(pack)
LINES = st.one_of(
    st.sampled_from(
        (
            b"\r\n",
            b"\n",
            b"PING\r\n",
            b"*0\r\n",
            b"*-1\r\n",
            b'SET k "a\\x41\\n"\r\n',
            b"  GET\t'it\\'s' \n",
            b"#f\r\n",
        )
    ),
    st.sampled_from(
        (
            b"+OK\r\n",
            b":5\r\n",
            b"_\r\n",
            b"$-1\r\n",
            b"~1\r\n",
            b"|0\r\n",
            b"-ERR\r\n",
            b"%0\r\n",
            b"#t\r\n",
            b",1\r\n",
        )
    ),
)
MISTAKES = st.sampled_from(
    (
        *(
            b"*2\r\n$3\r\nGET\r\n" + odd
            for odd in (b":5\r\n", b"+k\r\n", b"$-1\r\n", b"_\r\n", b"*1\r\n$1\r\nk\r\n", b"#f\r\n")
        ),
        *(
            b"*2\r\n$3\r\nGET\r\n" + odd
            for odd in (b"~1\r\n$1\r\nk\r\n", b"%1\r\n+a\r\n+b\r\n", b"=5\r\ntxt:a\r\n", b"(12\r\n")
        ),
        *(
            b"*2\r\n$3\r\nGET\r\n" + odd
            for odd in (b"$2000000\r\n", b"$a\r\n", b"$01\r\n", b"\r\n", b"-ERR\r\n", b",1.5\r\n", b">0\r\n")
        ),
        *(b"*" + odd + b"\r\n" for odd in (b"", b"a", b"01", b"2147483648", b"9" * 30, b"1 ", b"-0", b"+1")),
        b'"open\r\n',
        b"'a'b\r\n",
        b"\0\r\n",
        b"*1\0\r\n",
    )
)
ENDS = st.one_of(st.just(b""), MISTAKES)
STREAMS = st.tuples(st.lists(st.one_of(REQUESTS, REQUESTS, LINES), max_size=12), ENDS).map(
    lambda parts: b"".join(parts[0]) + parts[1]
)


@settings(max_examples=400, deadline=None, derandomize=True, database=None)
@given(
    STREAMS,
    st.lists(st.integers(0, 4000), max_size=6),
    st.lists(st.sampled_from((-1, -1, 0, 1, 3)), min_size=1, max_size=4),
)
def test_any_cut_of_any_stream(stream: bytes, cuts: list[int], paces: list[int]) -> None:
    assert run(stream, cuts, paces) == model(stream)


@settings(max_examples=80, deadline=None, derandomize=True, database=None)
@given(STREAMS)
def test_byte_by_byte(stream: bytes) -> None:
    assert run(stream, list(range(len(stream))), [-1]) == model(stream)


@settings(max_examples=80, deadline=None, derandomize=True, database=None)
@given(STREAMS, st.lists(st.integers(0, 4000), max_size=3))
def test_unauthenticated(stream: bytes, cuts: list[int]) -> None:
    assert run(stream, cuts, [-1], unauthenticated=True) == model(stream, unauthenticated=True)


@pytest.mark.parametrize("seed", range(12))
def test_damaged_pipelines(seed: int) -> None:
    """Long pipelines with one byte changed, one lost, or one piece repeated."""
    rng = random.Random(seed)
    for _ in range(12):
        parts = [
            pack([b"SET", b"key:%d" % rng.randrange(1000), rng.choice(NASTY)])
            for _ in range(rng.randrange(1, 80))
        ]
        stream = bytearray(b"".join(parts))
        at = rng.randrange(len(stream))
        kind = rng.randrange(4)
        if kind == 0:
            stream[at] = rng.choice(b"\0\r\n*$+-:~%|>=(#_,0123456789aG\xff")
        elif kind == 1:
            del stream[at]
        elif kind == 2:
            stream[at:at] = stream[at : at + rng.randrange(40)]
        data = bytes(stream)
        cuts = [rng.randrange(len(data) + 1) for _ in range(rng.randrange(4))]
        assert run(data, cuts, [rng.choice((-1, -1, 2))]) == model(data), (seed, data, cuts)


@pytest.mark.parametrize("count", range(1, 6))
@pytest.mark.parametrize("off", [-2, -1, 1, 2, 5, 8])
def test_lengths_that_lie(count: int, off: int) -> None:
    for liar in range(count):
        argv = [b"argument%d" % index for index in range(count)]
        sizes = [len(part) + off * (index == liar) for index, part in enumerate(argv)]
        bulks = [b"$%d\r\n%b\r\n" % pair for pair in zip(sizes, argv)]
        stream = b"*%d\r\n" % count + b"".join(bulks)
        for whole in (stream, stream + pack([b"PING"]), pack([b"PING"]) * 5 + stream):
            assert run(whole, [], [-1]) == model(whole)


@pytest.mark.parametrize("seed", range(8))
def test_garbage_neither_raises_nor_reserves(seed: int) -> None:
    rng = random.Random(seed)
    letters = b"*$+-:~%|>=(#_,!0123456789\r\n\r\n\r\n\"' ab"
    tracemalloc.start()
    try:
        for _ in range(150):
            parser = RequestParser()
            for _ in range(rng.randrange(1, 5)):
                size = rng.randrange(1, 200)
                parser.feed(
                    rng.choice((b"", b"*3\r\n$3\r\nSET\r\n", b"*1\r\n$4\r\nPING\r\n*"))
                    + bytes(rng.choices(letters, k=size))
                )
                taken = 0
                while (argv := gets(parser)) is not False and parser.check(argv, -1):
                    taken += 1
                    assert taken <= 2000
            parser.check_invariants()
        assert tracemalloc.get_traced_memory()[1] < 2 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("kind", [b"*", b"~", b">", b"|", b"%"])
@pytest.mark.parametrize(
    "before", [b"", b"*1\r\n$4\r\nPING\r\n" * 3, b"*2\r\n$4\r\nECHO\r\n", b"*2\r\n$4\r\nECHOxx"]
)
def test_huge_counts_reserve_nothing(kind: bytes, before: bytes) -> None:
    stream = before + kind + b"1000000000\r\n" + b"$4\r\nPING\r\n"
    for cut in range(len(stream)):
        parser = RequestParser()
        tracemalloc.start()
        for piece in (stream[:cut], stream[cut:]):
            parser.feed(piece)
            while (argv := gets(parser)) is not False and parser.check(argv, -1):
                pass
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 100_000


def test_nested_counts_reserve_little() -> None:
    parser = RequestParser()
    tracemalloc.start()
    parser.feed(b"*1\r\n$4\r\nPING\r\n" + b"*99\r\n" * 13000 + b"*1\r\n")
    while (argv := gets(parser)) is not False and parser.check(argv, -1):
        pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert parser.error == b"-ERR Protocol error: expected '$', got '*'\r\n"
    assert peak < 16 << 20
