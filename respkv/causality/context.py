"""The causal context of a key as a token that a client keeps between reading and writing.

A token is text that redis-cli prints as it is: unpadded base64 with ``-`` and ``_``, over::

    version u8 = 1 | entries x (actor u64be, hlc u64be), ascending by actor | checksum u32be

The checksum is the low half of xxh3_64 over all before, seeded with xxh3_64 of the key, so a token that was cut,
mistyped or read from another key is refused and replaces nothing. It is no signature: who may write a key may
replace its values anyway. The empty token is the context of one who has seen nothing; it is what an absent key gives.

A context may leave out entries safely: it then replaces less. It must never claim a write its reader did not see,
which is why a write gives back no context: its dot names one write, a clock entry all earlier ones of that actor too.
"""

from __future__ import annotations

import base64
import binascii
import struct
from itertools import chain
from typing import Final

from respkv.base.coding import U32BE, checksum
from respkv.base.errors import CommandError
from respkv.causality.dvv import Clock, Container
from respkv.causality.hlc import hlc_ms

VERSION: Final = 1
ENTRY_BYTES: Final = 16
#: Actors in one token. A clock that has more shows the client those of the siblings, then the newest.
ENTRIES_MAX: Final = 4096
_BYTES_MAX: Final = 1 + ENTRY_BYTES * ENTRIES_MAX + U32BE.size
#: Longest token, characters.
TOKEN_CHARS_MAX: Final = (_BYTES_MAX * 4 + 2) // 3


def encode(container: Container, key: bytes) -> bytes:
    """The token for one who has read ``container`` at ``key``; empty for an empty container. O(actors log actors)."""
    if not container.clock:
        return b""
    entries = sorted(container.clock.items())
    if len(entries) > ENTRIES_MAX:
        entries = sorted(_most_needed(container)[:ENTRIES_MAX])
    plain = bytes((VERSION,)) + struct.pack(f">{2 * len(entries)}Q", *chain.from_iterable(entries))
    return base64.urlsafe_b64encode(plain + _seal(plain, key)).rstrip(b"=")


def _most_needed(container: Container) -> list[tuple[int, int]]:
    """The clock's entries, first those that cover siblings, then by falling hlc."""
    holders = {sibling.actor: True for sibling in container.siblings}
    return sorted(container.clock.items(), key=lambda entry: (entry[0] not in holders, -entry[1], entry[0]))


def _seal(plain: bytes, key: bytes) -> bytes:
    return U32BE.pack(checksum(plain, checksum(key)) & 0xFFFFFFFF)


def decode(token: bytes, key: bytes, *, latest_ms: int) -> Clock:
    """The clock in a client's token, empty for an empty token.

    ``latest_ms`` is the wall clock plus the accepted skew: a token from further ahead is refused, since observing it
    would drag this node's hybrid clock along. Raises CommandError with the reason. O(token).
    """
    if not token:
        return {}
    if len(token) > TOKEN_CHARS_MAX:
        raise _refused(b"it is longer than %d characters" % TOKEN_CHARS_MAX)
    try:
        data = base64.b64decode(token + b"=" * (-len(token) % 4), b"-_", validate=True)
    except binascii.Error:
        raise _refused(b"it is not a token of RKV.GET") from None
    plain, seal = data[: -U32BE.size], data[-U32BE.size :]
    if not plain or (len(plain) - 1) % ENTRY_BYTES or base64.urlsafe_b64encode(data).rstrip(b"=") != token:
        raise _refused(b"it is not a token of RKV.GET")
    if plain[0] != VERSION:
        raise _refused(b"its version %d is not known here" % plain[0])
    if seal != _seal(plain, key):
        raise _refused(b"it is damaged, or was read from another key")
    numbers = struct.unpack_from(f">{(len(plain) - 1) // 8}Q", plain, 1)
    clock = dict(zip(numbers[::2], numbers[1::2]))
    if list(clock) != sorted(numbers[::2]) or 0 in numbers[1::2]:
        raise _refused(b"it is not a token of RKV.GET")
    if hlc_ms(max(numbers[1::2], default=0)) > latest_ms:
        raise _refused(b"it is from the future: a clock is wrong, here or where it was given out")
    return clock


def _refused(reason: bytes) -> CommandError:
    return CommandError(b"-ERR invalid causal context: %b\r\n" % reason)
