"""Both ends of the handshake: who gets in, who does not, and what garbage does."""

from __future__ import annotations

import random

import pytest

from respkv.base.errors import ProtocolError
from respkv.wire import handshake as h
from respkv.wire.handshake import Handshake, Hello, Peer

CLUSTER = b"c" * 16
DIALER = Hello(b"d" * 16, CLUSTER, 2)
ACCEPTER = Hello(b"a" * 16, CLUSTER, 1)
SECRET = b"open sesame"


def pair(
    dialer: Hello = DIALER,
    accepter: Hello = ACCEPTER,
    *,
    secrets: tuple[bytes, bytes] = (SECRET, SECRET),
    expected: bytes = b"",
) -> tuple[Handshake, Handshake]:
    return (
        Handshake(dialer=True, secret=secrets[0], me=dialer, nonce=b"1" * 32, expected=expected),
        Handshake(dialer=False, secret=secrets[1], me=accepter, nonce=b"2" * 32),
    )


def over(end: Handshake) -> bool:
    return end.peer is not None or bool(end.reason)


def run(dialer: Handshake, accepter: Handshake, *, step: int = 1 << 16) -> list[bytes]:
    """Let both talk, ``step`` bytes at a time; all that was said."""
    said = [dialer.start()]
    assert accepter.start() == b""
    ends = [accepter, dialer]
    while said[-1]:
        data, out = said[-1], b""
        for at in range(0, len(data), step):
            if not over(ends[0]):
                out += ends[0].feed(data[at : at + step])
        said.append(out)
        ends.reverse()
    return said


@pytest.mark.parametrize("step", [1, 7, 1 << 16])
@pytest.mark.parametrize("secret", [SECRET, b"", b"x" * 500])
def test_members_of_one_cluster(step: int, secret: bytes) -> None:
    dialer, accepter = pair(secrets=(secret, secret))
    said = run(dialer, accepter, step=step)
    assert dialer.peer == Peer(ACCEPTER.node_id, CLUSTER, 1, h.VERSION, h.CAPABILITIES)
    assert accepter.peer == Peer(DIALER.node_id, CLUSTER, 2, h.VERSION, h.CAPABILITIES)
    assert not dialer.reason and not accepter.reason and dialer.rest == accepter.rest == b""
    assert len(said) == 5 and (not secret or not any(secret in words for words in said))


@pytest.mark.parametrize("newcomer", [0, 1, 2])
def test_who_is_no_member_yet(newcomer: int) -> None:
    nobody = (DIALER._replace(cluster_id=h.NO_CLUSTER, short=0), ACCEPTER._replace(cluster_id=h.NO_CLUSTER, short=0))
    hellos = [nobody, (nobody[0], ACCEPTER), (DIALER, nobody[1])][newcomer]
    dialer, accepter = pair(*hellos)
    run(dialer, accepter)
    assert dialer.peer and accepter.peer
    assert accepter.peer.short == hellos[0].short and dialer.peer.cluster_id == hellos[1].cluster_id


@pytest.mark.parametrize("secrets", [(b"a", b"b"), (SECRET, b""), (b"", SECRET), (SECRET, SECRET + b"x")])
def test_wrong_secret(secrets: tuple[bytes, bytes]) -> None:
    dialer, accepter = pair(secrets=secrets)
    run(dialer, accepter)
    assert dialer.peer is accepter.peer is None
    assert dialer.reason == accepter.reason == h.WRONG_SECRET


def test_an_accepter_without_the_secret() -> None:
    """It may say WELCOME, but cannot prove itself."""
    dialer, accepter = pair()
    hello = accepter.feed(dialer.start())
    proof = dialer.feed(hello)
    assert proof
    welcome = h._message(h._WELCOME, proof[-32:])
    refusal = dialer.feed(welcome)
    assert dialer.peer is None and dialer.reason == h.WRONG_SECRET and h.WRONG_SECRET.encode() in refusal


def test_another_cluster() -> None:
    dialer, accepter = pair(accepter=ACCEPTER._replace(cluster_id=b"x" * 16))
    run(dialer, accepter)
    assert dialer.reason == accepter.reason == h.OTHER_CLUSTER
    assert dialer.peer is accepter.peer is None


class Careless(Handshake):
    """A dialer that does not look at the other's cluster."""

    def _is_foreign(self, them: Hello) -> bool:
        return False


@pytest.mark.parametrize(("secret", "reason"), [(SECRET, h.OTHER_CLUSTER), (b"wrong", h.WRONG_SECRET)])
def test_the_accepter_looks_too_but_tells_only_who_knows_the_secret(secret: bytes, reason: str) -> None:
    me = DIALER._replace(cluster_id=b"x" * 16)
    dialer = Careless(dialer=True, secret=secret, me=me, nonce=b"1" * 32)
    _, accepter = pair()
    run(dialer, accepter)
    assert accepter.reason == dialer.reason == reason
    assert accepter.peer is dialer.peer is None


def test_itself_and_another_node() -> None:
    dialer, accepter = pair(accepter=ACCEPTER._replace(node_id=DIALER.node_id))
    run(dialer, accepter)
    assert dialer.reason == accepter.reason == h.MYSELF
    dialer, accepter = pair(expected=b"z" * 16)
    run(dialer, accepter)
    assert dialer.reason == accepter.reason == h.OTHER_NODE
    dialer, accepter = pair(expected=ACCEPTER.node_id)
    run(dialer, accepter)
    assert dialer.peer and accepter.peer


@pytest.mark.parametrize(
    ("mine", "theirs", "chosen"), [((1, 1), (1, 3), 1), ((2, 4), (1, 3), 3), ((1, 1), (2, 3), 0), ((4, 5), (1, 3), 0)]
)
def test_versions(mine: tuple[int, int], theirs: tuple[int, int], chosen: int) -> None:
    dialer, accepter = pair(
        DIALER._replace(oldest=mine[0], newest=mine[1], capabilities=0b0111),
        ACCEPTER._replace(oldest=theirs[0], newest=theirs[1], capabilities=0b1101),
    )
    run(dialer, accepter)
    if chosen:
        assert dialer.peer and accepter.peer
        assert dialer.peer[3:] == accepter.peer[3:] == (chosen, 0b0101)
    else:
        assert dialer.reason == accepter.reason == h.NO_VERSION


def test_a_newer_nodes_longer_hello() -> None:
    dialer, accepter = pair()
    dialer._mine = h._message(h._HELLO, dialer._mine[h._HEAD.size :] + b"new fields")
    run(dialer, accepter)
    assert dialer.peer and accepter.peer


def test_frames_may_follow_at_once() -> None:
    dialer, accepter = pair()
    proof = dialer.feed(accepter.feed(dialer.start()))
    welcome = accepter.feed(proof + b"first frame")
    assert accepter.peer and accepter.rest == b"first frame"
    frames = b"f" * 100_000
    assert dialer.feed(welcome + frames) == b"" and dialer.peer and dialer.rest == frames


def test_changes_on_the_way_are_noticed() -> None:
    """No field of either HELLO can be changed, not even an unused bit, without the codes going wrong."""
    dialer, accepter = pair()
    hellos = [dialer.start(), accepter.feed(dialer.start())]
    for which, hello in enumerate(hellos):
        for bit in range(8 * len(hello)):
            spoiled = bytearray(hello)
            spoiled[bit // 8] ^= 1 << bit % 8
            dialer, accepter = pair()
            try:
                answer = accepter.feed(bytes(spoiled) if which == 0 else hellos[0])
                proof = dialer.feed(bytes(spoiled) if which == 1 else answer)
                if not accepter.reason:
                    accepter.feed(proof)
            except ProtocolError:
                continue
            assert accepter.peer is None and dialer.peer is None


def test_a_recorded_dialer_does_not_get_in() -> None:
    dialer, accepter = pair()
    said = run(dialer, accepter)
    again = Handshake(dialer=False, secret=SECRET, me=ACCEPTER, nonce=b"3" * 32)
    again.feed(said[0])
    again.feed(said[2])
    assert again.reason == h.WRONG_SECRET


def test_a_code_sent_back_to_its_maker() -> None:
    """A stranger dials us and echoes what we say when we dial it: our own codes do not open our door."""
    dialer, _ = pair()
    hello = dialer.start()
    echo = hello[: h._HEAD.size + 26] + b"e" * 16 + hello[h._HEAD.size + 42 :]
    proof = dialer.feed(echo)
    assert proof
    dialer.feed(h._message(h._WELCOME, proof[h._HEAD.size :]))
    assert dialer.peer is None and dialer.reason == h.WRONG_SECRET


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n",
        b"*1\r\n$4\r\nPING\r\n",
        b"\x00",
        b"RKVNEX",
        h._message(h._PROOF, bytes(32)),
        h._message(h._WELCOME, bytes(32)),
        h._message(9, b""),
        h._message(h._HELLO, bytes(10)),
        h._HEAD.pack(h._MAGIC, h._HELLO, 1025),
    ],
)
@pytest.mark.parametrize("which", [0, 1])
def test_garbage_closes(data: bytes, which: int) -> None:
    end = pair()[which]
    with pytest.raises(ProtocolError):
        end.feed(data)
    assert end.peer is None


def test_messages_out_of_turn() -> None:
    dialer, accepter = pair()
    hello = dialer.start()
    answer = accepter.feed(hello)
    with pytest.raises(ProtocolError, match="out of turn"):
        accepter.feed(hello)
    dialer.feed(answer)
    with pytest.raises(ProtocolError, match="out of turn"):
        dialer.feed(h._message(h._PROOF, bytes(32)))


def test_bytes_before_authentication_are_bounded() -> None:
    hello = pair()[0].start()
    longest = h._message(h._HELLO, hello[h._HEAD.size :] + bytes(1024 - len(hello) + h._HEAD.size))
    endless = longest + h._message(h._PROOF, bytes(1024)) + bytes(10_000)
    _, accepter = pair()
    taken = 0
    while not over(accepter):
        accepter.feed(endless[taken : taken + 1])
        taken += 1
        assert len(accepter._buffer) < 1100
    assert accepter.reason == h.WRONG_SECRET and taken < h.HANDSHAKE_BYTES_MAX


def test_random_garbage_after_a_good_start() -> None:
    rng = random.Random(4)
    good = pair()[0].start()
    refused = 0
    for _ in range(500):
        _, accepter = pair()
        try:
            accepter.feed(good[: rng.randrange(len(good) + 1)] + rng.randbytes(rng.randrange(200)))
            if not accepter.reason:
                accepter.feed(rng.randbytes(2000))
        except ProtocolError:
            refused += 1
        assert accepter.peer is None
    assert refused > 400


def test_reasons_are_short_and_printable() -> None:
    dialer, _ = pair()
    dialer.feed(h._message(h._REFUSED, b"no\r\n\x1b[2J\xff" + b"x" * 900))
    assert dialer.reason.isprintable() and len(dialer.reason) <= 200 and dialer.reason.startswith("no???[2J")
    _, accepter = pair()
    assert accepter.feed(h._message(h._REFUSED, b"")) == b"" and accepter.reason == h.WENT_WRONG
