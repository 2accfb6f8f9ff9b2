"""The first words on a link between nodes: who are you, and do you know the secret?

Four messages, then frames (``frames``)::

    dialer                      accepter
    HELLO            ->
                     <-         HELLO
    PROOF            ->
                     <-         WELCOME

Each is ``magic 6 | type u8 | body length u16 | body``, integers little-endian::

    HELLO    oldest version u8 | newest u8 | capabilities u64 | cluster id 16 | node id 16 | short u16 | nonce 32
    PROOF    HMAC-SHA256(secret, "respkv dialer" 0 | both HELLOs as sent, the dialer's first)
    WELCOME  HMAC-SHA256(secret, "respkv accepter" 0 | both HELLOs)
    REFUSED  reason, ASCII; the sender closes

The secret never crosses the wire. Both HELLOs, with a fresh nonce each, are under both codes: nothing in them can be
changed on the way (no downgrade), nothing can be replayed, and the labels keep a code from being sent back to its
maker. The node that dials proves itself first, so that a stranger learns nothing about the secret from a listener. What
follows is neither encrypted nor signed: an eavesdropper can test guesses of the secret, and whoever can change bytes on
the way can change frames. The secret keeps strangers and other clusters out of a network that is otherwise trusted;
make it long. An empty secret authenticates nobody: anyone who speaks the protocol gets in. All members share the
secret, so a member could claim to be another one.

A HELLO may be longer than its reader knows (a newer sender); the first fields keep their shape in every version.

Invariants: until the peer has proved itself, one unfinished message of 1 KiB is all that is kept of what it sends, two
messages are all that it may send, and nothing outside changes.
"""

from __future__ import annotations

import hmac
from struct import Struct
from typing import Final, NamedTuple

from respkv.base.errors import ProtocolError

VERSION: Final = 1
#: Tells its ``Time`` when a link comes up, and minds the UNTIL of a ``Forward``.
TELLS_TIME: Final = 1
#: Tells its ``Pressure``, and minds that of others.
TELLS_PRESSURE: Final = 2
#: What this version can do beyond the first one, a bit each; both ends' common bits count.
CAPABILITIES: Final = TELLS_TIME | TELLS_PRESSURE
NO_CLUSTER: Final = bytes(16)
NONCE_BYTES: Final = 32
#: No more needs to be read at once, nor in all, before the peer has proved itself.
HANDSHAKE_BYTES_MAX: Final = 4096

_MAGIC: Final = b"RKVNET"
_HEAD: Final = Struct("<6sBH")
_HELLO_BODY: Final = Struct(f"<BBQ16s16sH{NONCE_BYTES}s")
_HELLO: Final = 1
_PROOF: Final = 2
_WELCOME: Final = 3
_REFUSED: Final = 4
_BODY_BYTES_MAX: Final = 1024
_REASON_BYTES_MAX: Final = 200
assert 2 * (_HEAD.size + _BODY_BYTES_MAX) <= HANDSHAKE_BYTES_MAX
_DIALER_LABEL: Final = b"respkv dialer\0"
_ACCEPTER_LABEL: Final = b"respkv accepter\0"

WRONG_SECRET: Final = "the secrets differ"
OTHER_CLUSTER: Final = "member of another cluster"
OTHER_NODE: Final = "another node answers at this address"
MYSELF: Final = "a node has dialed itself"
NO_VERSION: Final = "no protocol version in common"
WENT_WRONG: Final = "refused without a reason"


class Hello(NamedTuple):
    """What an end says about itself. ``cluster_id`` is NO_CLUSTER and ``short`` 0 before it is a member."""

    node_id: bytes
    cluster_id: bytes = NO_CLUSTER
    short: int = 0
    oldest: int = VERSION
    newest: int = VERSION
    capabilities: int = CAPABILITIES


class Peer(NamedTuple):
    """Who is at the other end, having proved that it knows the secret; ``version`` and ``capabilities`` are what both
    ends know."""

    node_id: bytes
    cluster_id: bytes
    short: int
    version: int
    capabilities: int


class Handshake:
    """One end of the handshake. The owner sends what ``start`` and ``feed`` return, and minds the time.

    It is over when ``peer`` is set (``rest`` holds the first bytes of frames that came with it), or when ``reason`` is:
    send what ``feed`` returned and close. ``feed`` raises ProtocolError at bytes that are no handshake: close at once.
    """

    __slots__ = (
        "_buffer",
        "_dialer",
        "_expected",
        "_me",
        "_mine",
        "_nonce",
        "_secret",
        "_their_hello",
        "_theirs",
        "peer",
        "reason",
    )

    def __init__(self, *, dialer: bool, secret: bytes, me: Hello, nonce: bytes, expected: bytes = b"") -> None:
        """``nonce`` is NONCE_BYTES of fresh randomness; ``expected`` the node id that a dialer wants to find."""
        assert len(nonce) == NONCE_BYTES
        self._dialer = dialer
        self._secret = secret
        self._me = me
        self._nonce = nonce
        self._expected = expected
        self._mine = _message(
            _HELLO,
            _HELLO_BODY.pack(me.oldest, me.newest, me.capabilities, me.cluster_id, me.node_id, me.short, nonce),
        )
        self._theirs = b""
        self._their_hello: Hello | None = None
        self._buffer = bytearray()
        self.peer: Peer | None = None
        self.reason = ""

    def start(self) -> bytes:
        """What to send before anything has come: the dialer's HELLO; nothing for the accepter."""
        return self._mine if self._dialer else b""

    def feed(self, data: bytes) -> bytes:
        """Take what has come; what to send now. Raises ProtocolError."""
        assert self.peer is None and not self.reason, "the handshake is over"
        buffer = self._buffer
        buffer += data
        out = b""
        while self.peer is None and not self.reason:
            if not _MAGIC.startswith(bytes(buffer[: len(_MAGIC)])):
                raise ProtocolError("not a node of ours")
            if len(buffer) < _HEAD.size:
                break
            _, kind, size = _HEAD.unpack_from(buffer)
            if size > _BODY_BYTES_MAX:
                raise ProtocolError(f"a handshake message of {size} bytes")
            end = _HEAD.size + size
            if len(buffer) < end:
                break
            raw = bytes(buffer[:end])
            del buffer[:end]
            out += self._on_message(kind, raw, raw[_HEAD.size :])
        return out

    @property
    def rest(self) -> bytes:
        """What came behind the handshake's last message: the beginning of the frames."""
        return bytes(self._buffer)

    def _on_message(self, kind: int, raw: bytes, body: bytes) -> bytes:
        if kind == _REFUSED:
            text = body[:_REASON_BYTES_MAX].decode("ascii", "replace")
            self.reason = "".join(char if char.isprintable() else "?" for char in text) or WENT_WRONG
            return b""
        if kind == _HELLO and self._their_hello is None:
            return self._on_hello(raw, body)
        if kind == (_WELCOME if self._dialer else _PROOF) and self._their_hello is not None:
            return self._on_code(self._their_hello, body)
        raise ProtocolError(f"handshake message {kind} out of turn")

    def _on_hello(self, raw: bytes, body: bytes) -> bytes:
        if len(body) < _HELLO_BODY.size:
            raise ProtocolError("HELLO is cut short")
        oldest, newest, capabilities, cluster_id, node_id, short, _ = _HELLO_BODY.unpack_from(body)
        them = Hello(node_id, cluster_id, short, oldest, newest, capabilities)
        if min(self._me.newest, newest) < max(self._me.oldest, oldest):
            return self._refuse(NO_VERSION)
        if node_id == self._me.node_id:
            return self._refuse(MYSELF)
        if self._expected and node_id != self._expected:
            return self._refuse(OTHER_NODE)
        self._theirs, self._their_hello = raw, them
        if not self._dialer:
            return self._mine
        if self._is_foreign(them):
            return self._refuse(OTHER_CLUSTER)
        return _message(_PROOF, self._code(_DIALER_LABEL))

    def _on_code(self, them: Hello, code: bytes) -> bytes:
        if not hmac.compare_digest(code, self._code(_ACCEPTER_LABEL if self._dialer else _DIALER_LABEL)):
            return self._refuse(WRONG_SECRET)
        # Only whoever knows the secret is told which cluster this is.
        if self._is_foreign(them):
            return self._refuse(OTHER_CLUSTER)
        version = min(self._me.newest, them.newest)
        capabilities = self._me.capabilities & them.capabilities
        self.peer = Peer(them.node_id, them.cluster_id, them.short, version, capabilities)
        return b"" if self._dialer else _message(_WELCOME, self._code(_ACCEPTER_LABEL))

    def _is_foreign(self, them: Hello) -> bool:
        """Both are members of clusters, and not of the same."""
        return NO_CLUSTER not in (self._me.cluster_id, them.cluster_id) and self._me.cluster_id != them.cluster_id

    def _code(self, label: bytes) -> bytes:
        hellos = self._mine + self._theirs if self._dialer else self._theirs + self._mine
        return hmac.digest(self._secret, label + hellos, "sha256")

    def _refuse(self, reason: str) -> bytes:
        self.reason = reason
        return _message(_REFUSED, reason.encode("ascii"))


def _message(kind: int, body: bytes) -> bytes:
    return _HEAD.pack(_MAGIC, kind, len(body)) + body
