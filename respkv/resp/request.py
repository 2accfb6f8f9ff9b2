"""Requests: the bytes a client sends become lists of arguments.

Owns the whole input side of the protocol: the array form ``*2\\r\\n$3\\r\\nGET\\r\\n$1\\r\\nk\\r\\n``, the inline form
``GET k\\r\\n`` with its quoting, and every limit and protocol error. The rules and the words are those of Redis 7
(``networking.c``, ``sdssplitargs``), two unchecked bytes after a bulk and "a NUL hides the rest of a line" included.

Three parsers, from cheap to general, share the work; they agree wherever more than one could be used:

1. A chunk of at most 4 KiB that is exactly one request is split at its line ends and compared with the headers
   its pieces must have. This is what a client without pipelining sends; comparing the lengths makes it exact.
2. A chunk of many requests goes to ``hiredis.Reader``. That is a *reply* parser: it takes any reply type for an
   argument, reserves memory for any count, and clears its buffer when it meets a letter. So a chunk is given to
   it only when a scan finds no large count and nothing that looks like such a type, and is kept until it is
   drained: whenever the reader does not end exactly with the chunk, ``CarefulParser`` walks the chunk again, past the
   requests already taken, and goes on from there. A reader with a request half read never meets a further chunk.
3. ``CarefulParser``: everything else, incrementally. It owns the truth.

One thing escapes the scan: a simple string as an argument, in a pipeline, behind a bulk that is followed by
something else than CRLF. It is taken for a bulk.

Invariants: at most one of ``_gets`` (a chunk is in the reader) and ``_careful`` (a chunk is in the careful parser) is
set; the reader starts each chunk between two requests; memory is the bytes received and not yet taken (as
``buffered`` says) plus at most a chunk of 64 KiB and the 11 MB that the worst of these lets the reader reserve
until it is found out. No count in a header reserves anything else.

What the caller does: ``feed`` what was received, then ``take`` lists of requests until it answers an empty one.
A request must, before use, either be known to be a list of ``bytes`` (``argv[1].__class__ is bytes`` ...) or pass
``check``. When ``check`` answers False, forget the rest of the list and ``take`` again. When nothing more is
taken, look at ``error``. An empty request is to be ignored.
"""

from __future__ import annotations

import re
from collections import deque
from typing import Any, Final

import hiredis

from respkv.resp.careful import UNAUTHENTICATED_ELEMENTS_MAX, CarefulParser, LargeRequest, Limits

_SMALL_BYTES: Final = 4 * 1024
_PROBE_BYTES: Final = 1024
_CHUNK_BYTES: Final = 64 * 1024
_SURE_CUT_BYTES: Final = 8 * 1024
_KEPT_READER_BYTES: Final = 16 * 1024

_BULK_HEADERS: Final = tuple(b"$%d" % n for n in range(_SMALL_BYTES + 1))
_COUNTS: Final = {b"*%d" % n: n for n in range(1, 100)}
_LARGE_COUNT: Final = re.compile(rb"\*[0-9]{3,}\r").search
#: Types of which hiredis makes a list, or the bytes of an argument: they must not reach it. A pattern each, for
#: one that begins with a literal is six times as fast as one that begins with a set.
# Marks are numbers: looking for bytes in bytes makes CPython format, and throw away, an error first (0.3 us).
_LIST_TYPES: Final = tuple((mark[0], re.compile(rb"\%b[0-9]+\r" % mark).search) for mark in (b"~", b"|", b">", b"%"))
_TEXT_TYPES: Final = tuple((mark[0], b"\n" + mark) for mark in (b"+", b"(", b"="))
#: What the reader answers when it needs more; False would be the answer to ``#f`` as well.
_NO_MORE: Final = object()
_CROSS_PROTOCOL: Final = frozenset({b"post", b"host:"})
#: An object in a map's key, an object nested too deeply: hiredis passes on what Python raises.
_READER_ERRORS: Final = (hiredis.HiredisError, TypeError, MemoryError, RecursionError)


class RequestParser:
    """The requests of one connection.

    ``error`` is None until the client breaks the protocol; then it is the finished error reply, or ``b""`` for one that
    is not to be answered. It is set when everything before the mistake has been taken; the caller sends it and
    closes, and nothing more is parsed or kept.
    """

    __slots__ = (
        "_active",
        "_base",
        "_careful",
        "_chunks",
        "_fresh",
        "_gets",
        "_limits",
        "_most",
        "_reader",
        "_ready",
        "_small",
        "_taken",
        "error",
        "exact",
    )

    def __init__(self) -> None:
        self.error: bytes | None = None
        self.exact = False
        self._chunks: deque[bytes] = deque()
        self._limits = Limits()
        self._reader: Any = None
        self._gets: Any = None
        self._ready: list[Any] = []  # Taken before and given back.
        self._base = b""  # The chunk in the reader, and how many of its requests have been taken.
        self._taken = 0
        self._small = _SMALL_BYTES
        self._most = 99
        self._careful: CarefulParser | None = None
        self._active = False  # The careful parser may yield a request without further input.
        self._fresh = False  # What the careful parser holds has not been refused to the reader.

    def set_limits(self, *, max_bulk: int, unauthenticated: bool) -> None:
        """Limits for what has not yet been parsed: longest argument in bytes; the strict ones before AUTH."""
        self._limits.max_bulk = max_bulk
        self._limits.unauthenticated = unauthenticated
        self._small = min(_SMALL_BYTES, max_bulk)
        self._most = UNAUTHENTICATED_ELEMENTS_MAX if unauthenticated else 99

    def feed(self, data: bytes) -> None:  # HOT: request_parser
        """Take received bytes; nothing is parsed yet."""
        if data and self.error is None:
            self._chunks.append(data)

    def take(self) -> list[Any]:  # HOT: request_parser
        """Requests: those of one chunk, or one; an empty list when no complete one is there, or ``error`` is set.

        ``exact`` is then True when they are known to hold bytes only.
        """
        self.exact = False
        if self._ready:
            ready, self._ready = self._ready, []
            return ready
        if self._careful is None:
            if self._gets is None:
                if not self._chunks:
                    return []
                data = self._chunks.popleft()
                if len(data) <= self._small:
                    whole = self._whole(data)
                    if whole is not None:
                        self._base = b""
                        self.exact = True
                        return [whole]
                self._start(data)
            if self._gets is not None:
                requests = self._drain()
                if requests:
                    return requests
        elif not self._active and not self._chunks:
            return []
        request = self._next()
        if request is False:
            return []
        # What the reader made of the same chunk comes along: indices count from the chunk's first request.
        ready, self._ready = self._ready, []
        return [request, *ready]

    def _drain(self) -> list[Any]:
        """All that the reader makes of its chunk, in one sweep."""
        self._taken = 0
        try:
            requests = list(iter(self._gets, _NO_MORE))
        except _READER_ERRORS:
            self._repair()
            return []
        data, self._taken = self._base, len(requests)
        self._end_chunk(drained=True)
        self._base, self._taken = data, 0
        return requests

    def give_back(self, rest: list[Any], used: int) -> None:
        """Of the last list taken only ``used`` requests were used: ``rest`` comes out again first."""
        self._ready = rest
        self._taken += used

    def check(self, argv: Any, index: int = 0) -> bool:
        """True when ``argv``, at ``index`` of the last list taken, is a list of bytes and no web browser's request.

        Otherwise the careful parser takes over from there: it yields what hiredis misread, or sets ``error``.
        """
        if argv.__class__ is list or argv.__class__ is LargeRequest:
            for argument in argv:
                if argument.__class__ is not bytes:
                    break
            else:
                if argv and argv[0] and argv[0][0] in b"pPhH" and argv[0].lower() in _CROSS_PROTOCOL:
                    self._fail(b"")
                    return False
                return True
        self._taken += index
        self._ready = []
        if self._careful is not None:
            # The chunk's unfinished end is there already; it is the end of the chunk itself.
            self._leave_careful()
        self._repair()
        request = self._next()
        if request is not False:
            self._ready.insert(0, request)
        return False

    @property
    def has_more(self) -> bool:
        """True when ``take`` may yield a request without further input. False after it yielded none."""
        if self.error is not None:
            return False
        return bool(self._ready) or self._gets is not None or self._active or bool(self._chunks)

    @property
    def buffered(self) -> int:
        """Bytes received and not yet returned as requests; while the reader is at work, its whole chunk."""
        held = sum(map(len, self._chunks))
        if self._gets is not None or self._ready:
            held += len(self._base)
        if self._careful is not None:
            held += self._careful.held
        return held

    def _next(self) -> Any:
        """Go on with the careful parser, or with the next chunk."""
        while self.error is None:
            if self._gets is not None:
                requests = self._drain()
                if requests:
                    self._ready = requests[1:]
                    return requests[0]
                continue
            careful = self._careful
            if careful is not None:
                argv = careful.next()
                if argv is not None:
                    self._active = True
                    if self._fresh and careful.rest_is_array():
                        self._chunks.appendleft(careful.take_rest())
                        self._leave_careful()
                    return argv
                self._active = False
                if careful.error is not None:
                    self._fail(careful.error)
                elif careful.between_requests():
                    self._leave_careful()
                elif not self._chunks:
                    return False
                else:
                    careful.feed(self._chunks.popleft())
                    self._fresh = True
                continue
            if not self._chunks:
                return False
            data = self._chunks.popleft()
            argv = self._whole(data) if len(data) <= self._small else None
            if argv is not None:
                self._base = b""
                return argv
            self._start(data)
        return False

    def _whole(self, data: bytes) -> list[bytes] | None:  # HOT: request_parser
        """The request of a small chunk that is exactly one in the array form, with 1 to 99 arguments; else None."""
        if data.startswith(b"*3\r\n"):
            parts = data.split(b"\r\n", 8)
            if len(parts) == 8:
                _, size, name, key_size, key, value_size, value, rest = parts
                if (
                    not rest
                    and _BULK_HEADERS[len(value)] == value_size
                    and _BULK_HEADERS[len(key)] == key_size
                    and _BULK_HEADERS[len(name)] == size
                ):
                    return [name, key, value]
        elif data.startswith(b"*2\r\n"):
            parts = data.split(b"\r\n", 6)
            if len(parts) == 6:
                _, size, name, key_size, key, rest = parts
                if not rest and _BULK_HEADERS[len(key)] == key_size and _BULK_HEADERS[len(name)] == size:
                    return [name, key]
        else:
            count = _COUNTS.get(data[: data.find(b"\r\n", 2, 5)])
            if count is not None and count <= self._most:
                parts = data.split(b"\r\n", 2 * count + 2)
                if len(parts) == 2 * count + 2 and not parts[-1]:
                    argv = parts[2::2]
                    if [_BULK_HEADERS[len(argument)] for argument in argv] == parts[1:-1:2]:
                        return argv
        return None

    def _start(self, data: bytes) -> None:
        """Decide who parses ``data``, which begins between two requests."""
        if len(data) > _CHUNK_BYTES and data[0] == 42:
            # The reader moves its rest to the front again and again: a big chunk would cost its square.
            pieces = [data[at : at + _CHUNK_BYTES] for at in range(_CHUNK_BYTES, len(data), _CHUNK_BYTES)]
            self._chunks.extendleft(reversed(pieces))
            data = data[:_CHUNK_BYTES]
        limits = self._limits
        if (
            data[0] != 42
            or limits.unauthenticated
            or limits.max_bulk < _CHUNK_BYTES
            or data.find(b"\n*", 0, _PROBE_BYTES)
            < 0  # A long value: neither the scan nor a second copy pays.
        ):
            self._start_careful(data)
            return
        if len(data) > _SURE_CUT_BYTES or not data.endswith(b"\r\n"):
            # The chunk ends within a request, most likely the last to begin behind a line end. If that is a
            # deception, the reader will be found not to end with the chunk. A chunk may also end with a line
            # within a request; for a long one it would be dear to parse all of it again for that.
            cut = data.rfind(b"\r\n*") + 2
            if cut >= 2:
                self._chunks.appendleft(data[cut:])
                data = data[:cut]
            else:
                self._start_careful(data)
                return
        if _is_suspect(data):
            self._start_careful(data)
            return
        if self._reader is None:
            self._reader = hiredis.Reader(notEnoughData=_NO_MORE)
        self._reader.feed(data)
        self._gets = self._reader.gets
        self._base = data
        self._taken = 0

    def _end_chunk(self, *, drained: bool) -> None:
        """The reader yields no further request: it is done with the chunk, or has met something odd or unfinished."""
        if not drained:
            self._repair()
            return
        # It may be within a request. An empty array, fed now, comes back as such only between two requests;
        # otherwise the reader is spoilt, and it is thrown away anyhow.
        reader = self._reader
        reader.feed(b"*0\r\n")
        try:
            clean = reader.gets() == []
        except _READER_ERRORS:
            clean = False
        if not clean:
            self._repair()
            return
        if len(self._base) > _KEPT_READER_BYTES:
            self._reader = None
        self._gets = None
        self._base = b""

    def _repair(self) -> None:
        """Parse the reader's chunk anew, behind the requests taken from it."""
        careful = self._start_careful(self._base)
        for _ in range(self._taken):
            careful.skip()
        self._taken = 0
        self._base = b""
        self._gets = self._reader = None

    def _start_careful(self, data: bytes) -> CarefulParser:
        self._careful = careful = CarefulParser(self._limits)
        careful.feed(data)
        self._active = True
        self._fresh = False
        return careful

    def _leave_careful(self) -> None:
        self._careful = None
        self._active = False

    def _fail(self, reply: bytes) -> None:
        """Nothing after this is parsed or kept."""
        self.error = reply
        self._chunks.clear()
        self._ready = []
        self._leave_careful()
        self._gets = self._reader = None
        self._base = b""

    def stats(self) -> dict[str, int]:
        """Figures for tests."""
        return {"buffered": self.buffered, "chunks": len(self._chunks), "careful": self._careful is not None}

    def check_invariants(self) -> None:
        """One parser at a time; nothing is kept for nobody."""
        assert self._gets is None or self._careful is None
        assert self._gets is None or self._reader is not None
        assert self._careful is not None or not self._active
        assert self.error is None or not self.buffered

    def __repr__(self) -> str:
        mode = "reader" if self._gets is not None else "careful" if self._careful is not None else "idle"
        return f"<RequestParser {mode} buffered={self.buffered} error={self.error!r}>"


def _is_suspect(data: bytes) -> bool:
    """True when ``data`` may hold what hiredis must not see. O(n): 0.1 us a request of 250 bytes, and as much
    again for each odd byte that occurs.

    Refused are counts of three digits and more (the reader reserves that many places at once, in nested
    arrays again and again) and the types that turn into lists or into bytes. All others yield what is not
    ``bytes``, or an exception, and are noticed.
    """
    if _LARGE_COUNT(data):
        return True
    # Looking for one byte that does not occur is nearly free, so the longer searches run on few chunks.
    for mark, search in _LIST_TYPES:
        if mark in data and search(data):
            return True
    return any(mark in data and line in data for mark, line in _TEXT_TYPES)
