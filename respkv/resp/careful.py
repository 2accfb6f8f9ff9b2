"""The careful parser: all rules of the request protocol, for any input cut anywhere.

``request.py`` sends it what its faster parsers cannot take. The rules and words are those of Redis 7
(``networking.c``, ``sdssplitargs``). Memory is the bytes held; no count in a header reserves anything. Time is
linear in the bytes, but for a line or a short bulk that arrives in many pieces: each piece copies what is
there, at most 64 KiB and 4 KiB.
"""

from __future__ import annotations

import re
from typing import Final

from respkv.resp.reply import error as error_line

#: Longest inline request, and longest line that holds a count, in bytes (Redis: PROTO_INLINE_MAX_SIZE).
LINE_BYTES_MAX: Final = 64 * 1024
#: Most elements of a request (Redis: INT_MAX).
ELEMENTS_MAX: Final = 2147483647
#: Before authentication: most arguments, and longest argument in bytes.
UNAUTHENTICATED_ELEMENTS_MAX: Final = 10
UNAUTHENTICATED_BULK_BYTES_MAX: Final = 16384

#: A request with a longer argument is a ``LargeRequest``.
LARGE_ARGUMENT_BYTES: Final = 1 << 20

#: A bulk longer than this is gathered in a buffer of its own, so that many chunks cost their length only.
_BIG_BULK_BYTES: Final = 4096
#: What an argument takes beside its bytes: the object's head and its place in the list.
_ARGUMENT_BYTES: Final = 41

#: Headers of short bulks, in their only spelling.
_SHORT_SIZES: Final = {b"$%d" % n: n for n in range(1000)}
_SHORT_HEADER_BYTES_MAX: Final = len(b"$999\r")
_NUMBER: Final = re.compile(rb"0|-?[1-9][0-9]{0,18}").fullmatch
_SPACES: Final = b" \t\n\v\f\r"
_ESCAPES: Final = {ord("n"): 10, ord("r"): 13, ord("t"): 9, ord("b"): 8, ord("a"): 7}
_HEX: Final = re.compile(rb"[0-9a-fA-F]{2}").match


def _protocol_error(text: bytes) -> bytes:
    return error_line(b"ERR Protocol error: " + text)


_BIG_INLINE: Final = _protocol_error(b"too big inline request")
_UNBALANCED: Final = _protocol_error(b"unbalanced quotes in request")
_BIG_COUNT: Final = _protocol_error(b"too big mbulk count string")
_BIG_BULK_COUNT: Final = _protocol_error(b"too big bulk count string")
_BAD_COUNT: Final = _protocol_error(b"invalid multibulk length")
BAD_BULK: Final = _protocol_error(b"invalid bulk length")
_UNAUTHENTICATED_COUNT: Final = _protocol_error(b"unauthenticated multibulk length")
_UNAUTHENTICATED_BULK: Final = _protocol_error(b"unauthenticated bulk length")


class LargeRequest(list[bytes]):
    """A request with a long argument; no ``list`` for those who ask exactly, as fast paths do."""

    __slots__ = ()


class Limits:
    """What a connection's requests may be: shared by its parsers, changed by AUTH and CONFIG SET."""

    __slots__ = ("max_bulk", "unauthenticated")

    def __init__(self) -> None:
        self.max_bulk = 512 * 1024 * 1024
        self.unauthenticated = False


class CarefulParser:
    """All rules of the protocol, one request at a time; every byte is looked at once, but for unfinished lines.

    Whether a line is too long depends on its length alone, never on how it was cut on its way (Redis looks when
    it has read a piece, and so lets some lines through that are a little longer).
    """

    __slots__ = ("_argv", "_argv_bytes", "_big", "_bulk", "_data", "_large", "_limits", "_missing", "_pos", "error")

    def __init__(self, limits: Limits) -> None:
        self.error: bytes | None = None
        self._limits = limits
        self._data = b""
        self._pos = 0
        self._missing = 0  # Elements that the array lacks.
        self._argv: list[bytes] = []
        self._argv_bytes = 0
        self._large = False
        self._bulk = -1  # Length of the element being read; -1 before its header.
        self._big: bytearray | None = None  # The element, while it is long and incomplete.

    @property
    def held(self) -> int:
        """Bytes of memory that unparsed input and an unfinished request take, or a few more."""
        big = len(self._big) if self._big is not None else 0
        return len(self._data) - self._pos + big + self._argv_bytes

    def feed(self, data: bytes) -> None:
        """More bytes; ``next`` has answered None, so what is left is short."""
        self._data = self._data[self._pos :] + data if self._pos < len(self._data) else data
        self._pos = 0

    def between_requests(self) -> bool:
        """True when nothing of a request is held."""
        return not self._missing and self._pos >= len(self._data)

    def rest_is_array(self) -> bool:
        """True when an array begins right here, behind a request."""
        return self._data[self._pos : self._pos + 1] == b"*"

    def take_rest(self) -> bytes:
        """The bytes not yet parsed."""
        return self._data[self._pos :]

    def next(self) -> list[bytes] | None:
        """The next request that is not empty; None when there is none, or ``error`` is set."""
        while self.error is None:
            if self._missing:
                if not self._read_elements():
                    return None
                argv, self._argv = self._argv, []
                if self._large:
                    argv, self._large = LargeRequest(argv), False
                self._argv_bytes = 0
                return argv
            if self._pos >= len(self._data):
                return None
            if self._data[self._pos] == 42:
                if not self._read_count():
                    return None
            else:
                words = self._read_inline()
                if words or words is None:
                    return words
        return None

    def _line_end(self, end: bytes, mistake: bytes) -> int:
        """Where the line's end byte is, or -1; sets ``error`` when the line is too long."""
        data, start = self._data, self._pos
        at = data.find(end, start)
        if at >= 0:
            zero = data.find(b"\0", start, at)
            if zero >= 0:
                at = -1
        if (at if at >= 0 else len(data)) - start > LINE_BYTES_MAX:
            self.error = mistake
            return -1
        return at

    def skip(self) -> None:
        """Pass a request that the reader has taken; unlike ``next`` this stops behind an empty array."""
        self._read_count()
        if self._missing:
            self._read_elements()
            self._argv = []
            self._argv_bytes = 0

    def _read_count(self) -> bool:
        """``*n``: True when it has been read; False when it is incomplete or wrong."""
        data, pos = self._data, self._pos
        if data[pos + 2 : pos + 4] == b"\r\n" and 49 <= data[pos + 1] <= 57:
            self._pos = pos + 4
            self._missing = data[pos + 1] - 48
            return True
        at = self._line_end(b"\r", _BIG_COUNT)
        if at < 0 or at + 2 > len(self._data):
            return False
        count = _number(self._data[self._pos + 1 : at])
        if count is None or count > ELEMENTS_MAX:
            self.error = _BAD_COUNT
        elif count > UNAUTHENTICATED_ELEMENTS_MAX and self._limits.unauthenticated:
            self.error = _UNAUTHENTICATED_COUNT
        else:
            self._pos = at + 2
            self._missing = max(count, 0)
        return self.error is None

    def _read_elements(self) -> bool:
        """Add elements to the request; True when it is complete."""
        while self._missing:
            if self._bulk < 0:
                self._read_short_bulks()
                if not self._missing:
                    break
                if not self._read_bulk_header():
                    return False
            data, pos, bulk = self._data, self._pos, self._bulk
            if self._big is not None:
                if not self._read_big():
                    return False
            elif pos + bulk + 2 <= len(data):
                self._argv.append(data[pos : pos + bulk])
                self._pos = pos + bulk + 2
            else:
                if bulk > _BIG_BULK_BYTES:
                    self._big = bytearray(data[pos:])
                    self._data, self._pos = b"", 0
                return False
            self._argv_bytes += bulk + _ARGUMENT_BYTES
            self._large |= bulk >= LARGE_ARGUMENT_BYTES
            self._bulk = -1
            self._missing -= 1
        return True

    def _read_short_bulks(self) -> None:
        """Add elements as long as they are short and complete; any other is left as it is."""
        data, pos, missing, argv = self._data, self._pos, self._missing, self._argv
        size_max, start = self._limits.max_bulk, len(argv)
        while missing:
            at = data.find(b"\r", pos, pos + _SHORT_HEADER_BYTES_MAX)
            if at < 0:
                break
            size = _SHORT_SIZES.get(data[pos:at])
            if size is None or size > size_max or at + 4 + size > len(data):
                break
            argv.append(data[at + 2 : at + 2 + size])
            pos = at + 4 + size
            missing -= 1
        if len(argv) > start:
            self._argv_bytes += pos - self._pos + _ARGUMENT_BYTES * (len(argv) - start)
            self._pos, self._missing = pos, missing

    def _read_bulk_header(self) -> bool:
        at = self._line_end(b"\r", _BIG_BULK_COUNT)
        data, pos = self._data, self._pos
        if at < 0 or at + 2 > len(data):
            return False
        if data[pos] != 36:
            self.error = _protocol_error(b"expected '$', got '%c'" % data[pos])
            return False
        length = _number(data[pos + 1 : at])
        if length is None or length < 0 or length > self._limits.max_bulk:
            self.error = BAD_BULK
        elif length > UNAUTHENTICATED_BULK_BYTES_MAX and self._limits.unauthenticated:
            self.error = _UNAUTHENTICATED_BULK
        else:
            self._bulk = length
            self._pos = at + 2
        return self.error is None

    def _read_big(self) -> bool:
        """Move bytes to the long element; True when it is complete, and in ``_argv``."""
        big = self._big
        assert big is not None
        rest = self._bulk + 2 - len(big)
        if self._pos == 0 and len(self._data) <= rest:
            big += self._data
        else:
            big += self._data[self._pos : self._pos + rest]
        self._pos = min(self._pos + rest, len(self._data))
        if len(big) < self._bulk + 2:
            self._data, self._pos = b"", 0
            return False
        del big[self._bulk :]
        self._argv.append(bytes(big))
        self._big = None
        return True

    def _read_inline(self) -> list[bytes] | None:
        """The words of one line, none for a blank line; None when it is incomplete or wrong."""
        at = self._line_end(b"\n", _BIG_INLINE)
        if at < 0:
            return None
        start, self._pos = self._pos, at + 1
        end = at - 1 if at > start and self._data[at - 1] == 13 else at
        words = split_words(self._data[start:end])
        if words is None:
            self.error = _UNBALANCED
        return words


def _number(text: bytes) -> int | None:
    """A 64-bit integer in its only spelling (no sign +, no leading zero, no space), else None."""
    if _NUMBER(text) is None:
        return None
    value = int(text)
    return value if -(1 << 63) <= value < 1 << 63 else None


def split_words(line: bytes) -> list[bytes] | None:
    r"""The words of an inline request, or None when a quote is open or its end is followed by no space.

    ``"..."`` knows ``\n \r \t \b \a \xHH`` and takes any other character behind a backslash for itself; ``'...'`` knows
    only ``\'``. A quote may begin within a word and always ends it.
    """
    words: list[bytes] = []
    pos, size = 0, len(line)
    if b'"' not in line and b"'" not in line and b"\v" not in line and b"\f" not in line:
        return line.split()
    while True:
        while pos < size and line[pos] in _SPACES:
            pos += 1
        if pos >= size:
            return words
        start = pos
        while pos < size and line[pos] not in b" \t\n\r\"'":
            pos += 1
        word = line[start:pos]
        if pos < size and line[pos] in b"\"'":
            quoted = _quoted_double(line, pos + 1) if line[pos] == 34 else _quoted_single(line, pos + 1)
            if quoted is None:
                return None
            inner, pos = quoted
            if pos < size and line[pos] not in _SPACES:
                return None
            word += inner
        words.append(word)


def _quoted_double(line: bytes, pos: int) -> tuple[bytes, int] | None:
    """What stands in ``"..."``, and the place behind it; None when it does not end."""
    out = bytearray()
    size = len(line)
    while pos < size:
        byte = line[pos]
        if byte == 34:
            return bytes(out), pos + 1
        if byte == 92 and pos + 1 < size:
            if line[pos + 1] == 120 and _HEX(line, pos + 2):
                out.append(int(line[pos + 2 : pos + 4], 16))
                pos += 4
                continue
            pos += 1
            byte = _ESCAPES.get(line[pos], line[pos])
        out.append(byte)
        pos += 1
    return None


def _quoted_single(line: bytes, pos: int) -> tuple[bytes, int] | None:
    """What stands in ``'...'``, and the place behind it; None when it does not end."""
    out = bytearray()
    size = len(line)
    while pos < size:
        byte = line[pos]
        if byte == 39:
            return bytes(out), pos + 1
        if byte == 92 and pos + 1 < size and line[pos + 1] == 39:
            pos += 1
            byte = 39
        out.append(byte)
        pos += 1
    return None
