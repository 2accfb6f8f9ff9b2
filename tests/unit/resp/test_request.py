"""The request parser, rule by rule."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest

from respkv.resp.careful import CarefulParser, Limits, split_words
from respkv.resp.request import RequestParser
from tests.unit.resp.one_by_one import gets

SET = b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$2\r\nvv\r\n"
GET = b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\n"


def take(parser: RequestParser) -> list[list[Any]]:
    """What a caller takes: requests until there is none or one is refused."""
    taken = []
    while (argv := gets(parser)) is not False and parser.check(argv, -1):
        if argv:
            taken.append(argv)
    parser.check_invariants()
    return taken


def parse(
    *pieces: bytes, max_bulk: int = 1 << 29, unauthenticated: bool = False
) -> tuple[list[list[Any]], bytes | None]:
    parser = RequestParser()
    parser.set_limits(max_bulk=max_bulk, unauthenticated=unauthenticated)
    taken = []
    for piece in pieces:
        parser.feed(piece)
        taken += take(parser)
    return taken, parser.error


def mistake(text: bytes) -> bytes:
    return b"-ERR Protocol error: " + text + b"\r\n"


@pytest.mark.parametrize("count", [1, 2, 3, 4, 9, 10, 99, 100, 5000])
@pytest.mark.parametrize("repeat", [1, 2, 50])
def test_arrays(count: int, repeat: int) -> None:
    argv = [b"a" * (index % 30) for index in range(count)]
    data = b"*%d\r\n" % count + b"".join(b"$%d\r\n%b\r\n" % (len(part), part) for part in argv)
    assert parse(data * repeat) == ([argv] * repeat, None)


def test_a_value_may_hold_anything() -> None:
    value = b"\r\n" + SET + b"\r\n*1\r\n\0" + bytes(range(256))
    data = b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$%d\r\n%b\r\n" % (len(value), value)
    for cut in range(len(data)):
        assert parse(data[:cut], data[cut:] + GET) == ([[b"SET", b"k", value], [b"GET", b"k"]], None)
        assert parse(SET * 40 + data[:cut], data[cut:])[0][40:] == [[b"SET", b"k", value]]


@pytest.mark.parametrize("data", [b"*0\r\n", b"*-1\r\n", b"*-5\r\n", b"\r\n", b"\n", b"   \r\n", b"\t\n"])
def test_ignored(data: bytes) -> None:
    assert parse(data) == ([], None)
    assert parse(data + GET) == ([[b"GET", b"k"]], None)
    assert parse(SET + data * 3 + GET + data) == ([[b"SET", b"k", b"vv"], [b"GET", b"k"]], None)


def test_two_bytes_after_a_bulk_are_not_looked_at() -> None:
    odd = b"*3\r\n$3\r\nSETxx$1\r\nk!!$2\r\nvv\0\0"
    for stream in (odd, odd * 5, SET + odd, odd + SET):
        assert parse(stream)[0] == [[b"SET", b"k", b"vv"]] * (len(stream) // len(SET))


def test_a_header_line_ends_with_the_first_cr() -> None:
    assert parse(b"*1\rX$4\rYPING\r\n") == ([[b"PING"]], None)
    assert parse(SET + b"*1\rX$4\rYPING\r\n" + SET)[0][1:] == [[b"PING"], [b"SET", b"k", b"vv"]]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"", []),
        (b"SET k v", [b"SET", b"k", b"v"]),
        (b' SET\t"a b"  ', [b"SET", b"a b"]),
        (rb'"\n\r\t\b\a\\\"\q\x41\xzz\x4"', [b'\n\r\t\b\a\\"qAxzzx4']),
        (rb"'it\'s \n \\ '", [rb"it's \n \\ "]),
        (b'pre"quoted" x', [b"prequoted", b"x"]),
        (b"pre'quoted'\tx", [b"prequoted", b"x"]),
        (b'""', [b""]),
        (b"'' x", [b"", b"x"]),
        (b'"a"b', None),
        (b"'a'b", None),
        (b'"open', None),
        (b"'open", None),
        (b'"open\\', None),
        (b"a\vb\v c", [b"a\vb\v", b"c"]),
        (b"\v\f a", [b"a"]),
        (b"\xff\xfe \x85", [b"\xff\xfe", b"\x85"]),
    ],
)
def test_words_of_a_line(line: bytes, words: list[bytes] | None) -> None:
    assert split_words(line) == words
    expected = (
        ([], mistake(b"unbalanced quotes in request")) if words is None else ([words] if words else [], None)
    )
    assert parse(line + b"\r\n") == expected
    assert parse(line + b"\n") == expected


def test_inline_among_arrays() -> None:
    """redis-cli --pipe ends with a lone CRLF and an array, behind whatever it was given."""
    stream = (
        b"SET k vv\r\n" + SET * 20 + b"PING\r\n" + SET * 3 + b"\r\n" + b"*2\r\n$4\r\nECHO\r\n$2\r\nid\r\n"
    )
    value = [b"SET", b"k", b"vv"]
    assert parse(stream) == ([value] * 21 + [[b"PING"]] + [value] * 3 + [[b"ECHO", b"id"]], None)


ERRORS = [
    (b"*2147483648\r\n", b"invalid multibulk length"),
    (b"*a\r\n", b"invalid multibulk length"),
    (b"*\r\n", b"invalid multibulk length"),
    (b"*01\r\n", b"invalid multibulk length"),
    (b"*99999999999999999999\r\n", b"invalid multibulk length"),
    (b"*1\r\n$-1\r\n", b"invalid bulk length"),
    (b"*1\r\n$x\r\n", b"invalid bulk length"),
    (b"*1\r\n$536870913\r\n", b"invalid bulk length"),
    (b"*2\r\n$3\r\nGET\r\n$99999999999999\r\n", b"invalid bulk length"),
    *(
        (b"*2\r\n$3\r\nGET\r\n" + bad, b"expected '$', got '" + bad[:1] + b"'")
        for bad in (
            b"*1\r\n$1\r\nk\r\n",
            b":5\r\n",
            b"+k\r\n",
            b"-k\r\n",
            b"_\r\n",
            b"#t\r\n",
            b"#f\r\n",
            b",1\r\n",
            b"(1\r\n",
            b"~1\r\n$1\r\nk\r\n",
            b"%1\r\n~1\r\n+a\r\n+b\r\n",
            b">1\r\n$1\r\nk\r\n",
            b"=5\r\ntxt:k\r\n",
            b"k\r\n",
        )
    ),
    (b"*1\r\n\r\n", b"expected '$', got ' '"),
    (b'SET "k\r\n', b"unbalanced quotes in request"),
    (b"a" * 65537, b"too big inline request"),
    (b"*" + b"1" * 65536, b"too big mbulk count string"),
    (b"*1\r\n$" + b"1" * 65536, b"too big bulk count string"),
]


@pytest.mark.parametrize(("data", "text"), ERRORS, ids=lambda part: repr(part[:24]))
def test_mistakes(data: bytes, text: bytes) -> None:
    """The same words wherever the mistake stands, at once, and what precedes it is executed."""
    value = [b"SET", b"k", b"vv"]
    assert parse(data) == ([], mistake(text))
    assert parse(SET * 30 + data) == ([value] * 30, mistake(text))
    assert parse(SET * 30 + data + GET) == ([value] * 30, mistake(text))
    assert parse(SET, data[:3], data[3:]) == ([value], mistake(text))
    assert parse(SET * 3 + data[:7], data[7:]) == ([value] * 3, mistake(text))


def test_after_a_mistake_nothing_is_kept() -> None:
    parser = RequestParser()
    parser.feed(b"*x\r\n" + SET)
    parser.feed(SET)
    assert take(parser) == []
    error = parser.error
    parser.feed(SET * 100)
    assert (take(parser), parser.error, parser.buffered, parser.has_more) == ([], error, 0, False)


@pytest.mark.parametrize(
    "data",
    [b"POST / HTTP/1.1\r\n", b"Host: x\r\n", b"*1\r\n$4\r\npost\r\n", b"*2\r\n$5\r\nHOST:\r\n$1\r\nx\r\n"],
)
def test_browsers_are_closed_silently(data: bytes) -> None:
    assert parse(data) == ([], b"")
    assert parse(SET * 5 + data + SET) == ([[b"SET", b"k", b"vv"]] * 5, b"")


def test_near_browsers_are_commands() -> None:
    assert parse(b"POSTS\r\nHost\r\nPUT x\r\nget post\r\n")[1] is None


def test_unauthenticated_limits() -> None:
    eleven = b"*11\r\n" + b"$1\r\na\r\n" * 11
    ten = b"*10\r\n" + b"$1\r\na\r\n" * 10
    assert parse(ten, unauthenticated=True) == ([[b"a"] * 10], None)
    assert parse(eleven, unauthenticated=True) == ([], mistake(b"unauthenticated multibulk length"))
    assert parse(eleven) == ([[b"a"] * 11], None)
    assert parse(b"*1\r\n$16384\r\n" + b"a" * 16384 + b"\r\n", unauthenticated=True)[1] is None
    assert parse(b"*1\r\n$16385\r\n", unauthenticated=True) == ([], mistake(b"unauthenticated bulk length"))


def test_limits_follow_authentication_within_a_pipeline() -> None:
    parser = RequestParser()
    parser.set_limits(max_bulk=1 << 29, unauthenticated=True)
    parser.feed(b"*2\r\n$4\r\nAUTH\r\n$1\r\np\r\n*11\r\n" + b"$1\r\na\r\n" * 11)
    assert gets(parser) == [b"AUTH", b"p"]
    parser.set_limits(max_bulk=1 << 29, unauthenticated=False)
    assert take(parser) == [[b"a"] * 11]
    assert parser.error is None


def test_bulk_limit() -> None:
    assert parse(b"*1\r\n$5\r\naaaaa\r\n", max_bulk=5) == ([[b"aaaaa"]], None)
    assert parse(b"*1\r\n$6\r\naaaaaa\r\n", max_bulk=5) == ([], mistake(b"invalid bulk length"))
    assert parse(SET * 9 + b"*1\r\n$6\r\naaaaaa\r\n", max_bulk=5)[1] == mistake(b"invalid bulk length")
    assert parse(b"*1\r\n$2000000\r\n", max_bulk=1 << 20)[1] == mistake(b"invalid bulk length")


def test_longest_lines() -> None:
    """64 KiB are allowed, however they come; one byte more is not."""
    word = b"a" * 65536
    assert parse(word + b"\r", b"\n")[1] == mistake(b"too big inline request")
    assert parse(word, b"\n") == ([[word]], None)
    assert parse(word + b"\n") == ([[word]], None)
    assert parse(word + b"a\n") == ([], mistake(b"too big inline request"))
    assert parse(b"*" + b"0" * 65535 + b"\r\n") == ([], mistake(b"invalid multibulk length"))
    assert parse(b"*1\r\n$" + b"0" * 65535, b"\r\n") == ([], mistake(b"invalid bulk length"))


def test_a_nul_hides_the_end_of_a_line() -> None:
    parser = RequestParser()
    parser.feed(b"PI\0NG\r\n" + GET)
    assert take(parser) == []
    assert (parser.error, parser.has_more, parser.buffered) == (None, False, 7 + len(GET))
    parser.feed(b"a" * 65536)
    assert take(parser) == []
    assert parser.error == mistake(b"too big inline request")


def test_incomplete_requests_wait() -> None:
    parser = RequestParser()
    for piece in (b"*3\r\n", b"$3\r\nSET\r\n", b"$1\r\nk\r\n", b"$2\r\nvv\r"):
        parser.feed(piece)
        assert take(parser) == []
        assert (parser.has_more, parser.error) == (False, None)
    assert parser.buffered == len(b"$3\r\nSET\r\n$1\r\nk\r\nvv\r") + 2 * 41
    parser.feed(b"\n")
    assert parser.has_more
    assert take(parser) == [[b"SET", b"k", b"vv"]]
    assert (parser.buffered, parser.has_more) == (0, False)


def test_a_budget_leaves_requests_behind() -> None:
    parser = RequestParser()
    parser.feed(SET * 10)
    parser.feed(GET * 10 + GET[:5])
    assert gets(parser) == [b"SET", b"k", b"vv"]
    assert parser.has_more
    assert parser.buffered == len(SET) * 10 + len(GET) * 10 + 5
    parser.feed(GET[5:])
    assert take(parser) == [[b"SET", b"k", b"vv"]] * 9 + [[b"GET", b"k"]] * 11
    assert (parser.buffered, parser.has_more) == (0, False)


def test_many_waiting_chunks_do_not_recurse() -> None:
    parser = RequestParser()
    for _ in range(3000):
        for piece in (b"*-1\r\n", b"*-1\r\n*-1\r\n", b"*1\r\n$4\r\n", b"PING\r\n*0\r\n*", b"0\r\n"):
            parser.feed(piece)
    assert take(parser) == [[b"PING"]] * 3000
    assert parser.error is None


def test_many_small_arguments_are_counted() -> None:
    """A client cannot make the parser hold much more than ``buffered`` says."""
    parser = RequestParser()
    parser.feed(b"*1000000\r\n" + b"$2\r\nab\r\n" * 20000)
    assert take(parser) == []
    assert 20000 * 43 <= parser.buffered <= 20000 * 49


@pytest.mark.parametrize("piece_bytes", [64 * 1024, 1 << 20])
def test_a_big_value_comes_in_pieces(piece_bytes: int) -> None:
    value = bytes(range(256)) * (5 << 12)
    data = b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$%d\r\n%b\r\n" % (len(value), value) + GET
    parser = RequestParser()
    taken = []
    for at in range(0, len(data), piece_bytes):
        parser.feed(data[at : at + piece_bytes])
        taken += take(parser)
    assert taken == [[b"SET", b"k", value], [b"GET", b"k"]]
    assert parser.buffered == 0


@pytest.mark.parametrize("missing", [0, 1, 2, 3])
def test_a_big_value_cut_at_its_end(missing: int) -> None:
    value = b"v" * 5000
    data = b"*2\r\n$3\r\nGET\r\n$5000\r\n" + value + b"\r\n"
    cut = len(data) - missing
    assert parse(data[:100], data[100:cut], data[cut:] + GET) == ([[b"GET", value], [b"GET", b"k"]], None)


def test_a_long_pipeline_in_one_chunk() -> None:
    assert parse(SET * 60000 + SET[:9], SET[9:]) == ([[b"SET", b"k", b"vv"]] * 60001, None)


def test_an_emptied_parser_is_free() -> None:
    """Nothing refers back to the parser: it goes with its connection, without the collector."""
    parser = RequestParser()
    parser.feed(SET * 5000)
    take(parser)
    assert parser.stats() == {"buffered": 0, "chunks": 0, "careful": False}
    assert "idle" in repr(parser)
    gone = weakref.ref(parser._chunks)
    gc.disable()
    try:
        del parser
        assert gone() is None
    finally:
        gc.enable()


def test_careful_parser_alone() -> None:
    careful = CarefulParser(Limits())
    careful.feed(SET + b"PING\r\n" + SET[:8])
    assert careful.next() == [b"SET", b"k", b"vv"]
    assert careful.next() == [b"PING"]
    assert careful.next() is None
    assert not careful.between_requests()
    assert careful.held == 0
    careful.feed(SET[8:])
    assert careful.next() == [b"SET", b"k", b"vv"]
    assert careful.between_requests()


def test_requests_behind_careful_ones_are_taken_once() -> None:
    """A chunk goes to the reader after the careful parser is done with the one before, and ends with what is odd."""
    parser = RequestParser()
    parser.set_limits(max_bulk=1 << 20, unauthenticated=False)
    parser.feed(b"GET inline\r\n")
    parser.feed(b"*1\r\n$1\r\na\r\n*1\r\n$1\r\nb\r\n#f\r\n")
    taken = []
    while requests := parser.take():
        for index, argv in enumerate(requests):
            if not parser.check(argv, index):
                break
            taken.append(argv)
    assert taken == [[b"GET", b"inline"], [b"a"], [b"b"], [b"#f"]]


def test_requests_given_back_behind_careful_ones_are_kept() -> None:
    parser = RequestParser()
    parser.set_limits(max_bulk=1 << 20, unauthenticated=False)
    parser.feed(b"GET inline\r\n")
    parser.feed(b"*1\r\n$1\r\na\r\n*1\r\n$1\r\nb\r\n*1\r\n$1\r\nc\r\n")
    taken = []
    while requests := parser.take():
        taken.append(requests[0])
        parser.give_back(requests[1:], 1)
    assert taken == [[b"GET", b"inline"], [b"a"], [b"b"], [b"c"]]
