"""Words, quotes and globs of the configuration file.

A line is words separated by white space. A word may be in double quotes, with the escapes of C and
``\\xHH``, or in single quotes, where only ``\\'`` is an escape. A closing quote must end its word. Bytes
that are not UTF-8 live in a ``str`` as surrogates (``surrogateescape``), so that a password of any bytes
survives reading and rewriting.
"""

from __future__ import annotations

import re
from typing import Final

_BLANK: Final = " \t\n\r\v\f\0"
_HEX: Final = "0123456789abcdefABCDEF"
_ESCAPES: Final = {"n": "\n", "r": "\r", "t": "\t", "b": "\b", "a": "\a"}
_QUOTED: Final = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t", "\a": "\\a", "\b": "\\b"}


def split_words(line: str) -> list[str] | None:
    """The words of ``line``, or None when quotes do not balance."""
    words: list[str] = []
    at, end = 0, len(line)
    while True:
        while at < end and line[at] in _BLANK:
            at += 1
        if at == end:
            return words
        word = _one_word(line, at)
        if word is None:
            return None
        at = word[1]
        words.append(word[0])


def _one_word(line: str, at: int) -> tuple[str, int] | None:
    """The word that starts at ``at`` and the place behind it."""
    end = len(line)
    data = bytearray()
    while at < end and line[at] not in _BLANK:
        mark = line[at]
        if mark not in "\"'":
            data += mark.encode("utf-8", "surrogateescape")
            at += 1
            continue
        at += 1
        while True:
            if at >= end:
                return None
            letter = line[at]
            if letter == mark:
                break
            if letter == "\\" and mark == "'" and line[at + 1 : at + 2] == "'":
                data += b"'"
                at += 2
            elif letter == "\\" and mark == '"' and at + 1 < end:
                at = _escape(line, at, data)
            else:
                data += letter.encode("utf-8", "surrogateescape")
                at += 1
        at += 1
        if at < end and line[at] not in _BLANK:
            return None
        break
    return data.decode("utf-8", "surrogateescape"), at


def _escape(line: str, at: int, data: bytearray) -> int:
    """Append what the escape at ``at`` stands for; the place behind it."""
    code = line[at + 2 : at + 4]
    if line[at + 1] == "x" and len(code) == 2 and code[0] in _HEX and code[1] in _HEX:
        data.append(int(code, 16))
        return at + 4
    letter = line[at + 1]
    data += _ESCAPES.get(letter, letter).encode("utf-8", "surrogateescape")
    return at + 2


def quote(text: str) -> str:
    """``text`` as one word in double quotes; ``split_words`` gives it back."""
    out: list[str] = []
    for letter in text:
        if letter in _QUOTED:
            out.append(_QUOTED[letter])
        elif "\udc80" <= letter <= "\udcff" or letter < " " or letter == "\x7f":
            out.append(f"\\x{ord(letter) & 0xFF:02x}")
        else:
            out.append(letter)
    return '"' + "".join(out) + '"'


def glob_pattern(pattern: str, *, any_case: bool = True) -> re.Pattern[str]:
    """Redis' globs (``*``, ``?``, ``[a-z]``, ``[^a]``, ``\\c``) as an expression for ``fullmatch``."""
    out: list[str] = []
    at, end = 0, len(pattern)
    while at < end:
        letter = pattern[at]
        at += 1
        if letter == "*":
            if not out or out[-1] != ".*":
                out.append(".*")
        elif letter == "?":
            out.append(".")
        elif letter == "[":
            at, text = _glob_class(pattern, at)
            out.append(text)
        else:
            if letter == "\\" and at < end:
                letter = pattern[at]
                at += 1
            out.append(re.escape(letter))
    return re.compile("".join(out), (re.IGNORECASE if any_case else 0) | re.DOTALL)


def _glob_class(pattern: str, at: int) -> tuple[int, str]:
    """The class whose ``[`` lies before ``at``: the place behind it and its expression."""
    end = len(pattern)
    negated = at < end and pattern[at] == "^"
    at += negated
    ranges: list[str] = []
    while at < end and pattern[at] != "]":
        if pattern[at] == "\\" and at + 1 < end:
            ranges.append(re.escape(pattern[at + 1]))
            at += 2
        elif at + 2 < end and pattern[at + 1] == "-":
            low, high = sorted((pattern[at], pattern[at + 2]))
            ranges.append(f"{re.escape(low)}-{re.escape(high)}")
            at += 3
        else:
            ranges.append(re.escape(pattern[at]))
            at += 1
    if not ranges:
        return at + 1, "." if negated else r"(?!)"
    return at + 1, f"[{'^' if negated else ''}{''.join(ranges)}]"
