"""Context tokens: round trip, every damage refused, bounded."""

from __future__ import annotations

import base64
import re

import pytest

from respkv.base.coding import U32BE, checksum
from respkv.base.errors import CommandError
from respkv.causality import context
from respkv.causality.dvv import EMPTY, Clock, Container, Sibling, make_actor
from respkv.env.rng import seeded

MS = 1_700_000_000_000
KEY = b"cart:7"


def container(count: int, *, holder: int = 1) -> Container:
    """A container whose clock has ``count`` actors, older ones first; ``holder`` has the one sibling."""
    clock = {make_actor(number, 3): (MS << 16) + number for number in range(1, count + 1)}
    actor = make_actor(holder, 3)
    return Container(clock, (Sibling(clock[actor], actor, 0, b"v"),))


def decode(token: bytes, key: bytes = KEY, latest_ms: int = MS) -> Clock:
    return context.decode(token, key, latest_ms=latest_ms)


def refusal(token: bytes, key: bytes = KEY, latest_ms: int = MS) -> str:
    with pytest.raises(CommandError) as caught:
        decode(token, key, latest_ms)
    reply = caught.value.reply
    assert re.fullmatch(rb"-ERR invalid causal context: [^\r\n]+\r\n", reply)
    return reply.decode()


@pytest.mark.parametrize("count", [1, 2, 3, 4, 20, 300])
def test_round_trip_as_legible_text(count: int) -> None:
    token = context.encode(container(count), KEY)
    assert re.fullmatch(rb"[A-Za-z0-9_-]+", token)
    assert len(token) == ((1 + 16 * count + 4) * 8 + 5) // 6
    assert decode(token) == container(count).clock


def test_the_stored_form() -> None:
    one = Container({0x0102030405060708: 0x1112131415161718}, ())
    plain = b"\x01" + bytes(range(1, 9)) + bytes(range(0x11, 0x19))
    seal = U32BE.pack(checksum(plain, checksum(KEY)) & 0xFFFFFFFF)
    assert context.encode(one, KEY) == base64.urlsafe_b64encode(plain + seal).rstrip(b"=")
    assert context.encode(one, KEY) == b"AQECAwQFBgcIERITFBUWFxh0SnGv"


def test_having_seen_nothing_is_the_empty_token() -> None:
    assert context.encode(EMPTY, KEY) == b"" and decode(b"") == {}


def test_a_token_of_another_key_is_refused() -> None:
    token = context.encode(container(2), KEY)
    assert "another key" in refusal(token, b"cart:8")


def test_every_changed_and_every_missing_character_is_refused() -> None:
    token = context.encode(container(2), KEY)
    for place in range(len(token)):
        for other in (b"A", b"B", b"_", b"=", b" ", b"\n", b"\xff"):
            changed = token[:place] + other + token[place + 1 :]
            if changed != token:
                refusal(changed)
        if place:
            refusal(token[:place])
        refusal(token[:place] + b"A" + token[place:])
    refusal(token + b"=")


def test_random_text_is_refused() -> None:
    rng = seeded(8)
    for _ in range(500):
        refusal(rng.randbytes(rng.randrange(1, 60)))
        refusal(base64.urlsafe_b64encode(rng.randbytes(rng.randrange(1, 60))))


def sealed(plain: bytes) -> bytes:
    """A token with a right checksum over whatever it holds."""
    return base64.urlsafe_b64encode(plain + U32BE.pack(checksum(plain, checksum(KEY)) & 0xFFFFFFFF)).rstrip(b"=")


def test_a_right_checksum_does_not_excuse_nonsense() -> None:
    first, second = (bytes([0] * 7 + [actor] + [0] * 7 + [1]) for actor in (1, 2))
    assert decode(sealed(b"\x01" + first + second)) == {1: 1, 2: 1}
    assert "version 2" in refusal(sealed(b"\x02" + first))
    for plain in (b"", b"\x01" + first[:-1], b"\x01" + second + first, b"\x01" + first + first, b"\x01" + bytes(16)):
        assert "not a token of RKV.GET" in refusal(sealed(plain))


def test_a_token_from_the_future_is_refused() -> None:
    token = context.encode(container(1), KEY)
    assert decode(token, latest_ms=MS) == container(1).clock
    assert "from the future" in refusal(token, latest_ms=MS - 1)


def test_size_is_bounded_and_what_covers_the_siblings_stays() -> None:
    big = container(context.ENTRIES_MAX + 10, holder=2)
    token = context.encode(big, KEY)
    assert len(token) == context.TOKEN_CHARS_MAX
    clock = decode(token)
    newest = {make_actor(number, 3) for number in range(12, context.ENTRIES_MAX + 11)}
    assert clock.keys() == newest | {make_actor(2, 3)}
    assert clock.items() <= big.clock.items()
    assert "longer than" in refusal(token + b"A")
